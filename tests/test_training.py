"""Training: one engine against the plain loop, stacked against alone, and what goes wrong."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, random_split


class Points(Dataset):
    """A dataset of given points."""

    def __init__(self, points):
        self.points = torch.as_tensor(np.asarray(points), dtype=torch.float64)

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return self.points[index]


def new_flow(nb, seed, num_layers=4):
    torch.manual_seed(seed)
    return nb.CouplingFlow(num_layers).double()


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def plain_loop(model, data, epochs, batch_size=64):
    """The assignment's algorithm with autograd and default Adam: weights, losses, and the weights of each epoch."""
    cut = int(len(data) * 0.9)
    train, valid = (torch.stack([data[i] for i in part.indices]).to(model.layers[0].scale_factor)
                    for part in random_split(data, [cut, len(data) - cut]))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses, valid_losses, history = [], [], []
    for _ in range(epochs):
        epoch = []
        for batch in train.split(batch_size):
            loss = -model.log_probability(batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch.append(loss.item())
        losses.append(np.mean(epoch))
        valid_losses.append(np.mean([-model.log_probability(b).mean().item() for b in valid.split(batch_size)]))
        history.append([p.detach().clone() for p in model.parameters()])
    return losses, valid_losses, history


def same_weights(model, parameters, **tolerance):
    for ours, theirs in zip(model.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), **tolerance)


@pytest.mark.parametrize("num_layers, num_samples, batch_size", [(4, 1500, 64), (1, 100, 64), (3, 333, 50), (2, 40, 7)])
def test_train_is_the_plain_loop(nb, num_layers, num_samples, batch_size):
    data = nb.ToyDataset("Moons", num_samples)
    reference = new_flow(nb, 8, num_layers)
    losses, valid_losses, history = plain_loop(reference, data, 4, batch_size)
    model = new_flow(nb, 8, num_layers)
    trained, train_losses, ours_valid = nb.train(model, data, epochs=4, batch_size=batch_size)
    np.testing.assert_allclose(train_losses, losses, rtol=1e-9)
    np.testing.assert_allclose(ours_valid, valid_losses, rtol=1e-9)
    same_weights(trained, history[-1], rtol=1e-8, atol=1e-9)
    assert trained is model and isinstance(train_losses, list)


def test_train_in_float32_is_the_plain_loop(nb):
    torch.manual_seed(8)
    reference = nb.CouplingFlow(4)
    losses, _, _ = plain_loop(reference, nb.ToyDataset("GaussiansRot", 1500), 2)
    torch.manual_seed(8)
    _, train_losses, _ = nb.train(nb.CouplingFlow(4), nb.ToyDataset("GaussiansRot", 1500), 2)
    np.testing.assert_allclose(train_losses, losses, rtol=1e-4)


def test_training_lowers_the_loss_towards_the_entropy(nb):
    torch.manual_seed(8)
    _, losses, valid_losses = nb.train(nb.CouplingFlow(4), nb.ToyDataset("GaussiansGrid", 1500), 60)
    entropy = -nb.true_log_density("GaussiansGrid", nb.sample_2d_datasets("GaussiansGrid", 20_000, 5)).mean()
    assert losses[0] > losses[-1] and entropy - 0.15 < valid_losses[-1] < entropy + 0.25


def test_train_is_repeatable(nb):
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(nb.train(nb.CouplingFlow(2), nb.ToyDataset("Circles", 200), 3))
    same_weights(runs[0][0], runs[1][0].parameters(), rtol=0, atol=0)
    assert runs[0][1:] == runs[1][1:]


def test_each_stacked_flow_is_trained_as_if_alone(nb):
    jobs = [("Moons", 300, 4, 3), ("Circles", 300, 4, 3), ("Moons", 300, 2, 3), ("Moons", 500, 4, 3), ("Moons", 300, 4, 5)]
    datasets = [nb.ToyDataset(name, n, seed=i) for i, (name, n, _, _) in enumerate(jobs)]
    together = [new_flow(nb, i, K) for i, (*_, K, _) in enumerate(jobs)]
    results = nb.train_together(together, datasets, [epochs for *_, epochs in jobs], generators=generators(range(5)))
    for i, (_, _, K, epochs) in enumerate(jobs):
        alone = nb.train_together([new_flow(nb, i, K)], [datasets[i]], epochs, generators=generators([i]))[0]
        same_weights(results[i][0], alone[0].parameters(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(results[i][1:], alone[1:], rtol=1e-9)
        assert results[i][0] is together[i] and len(results[i][1]) == epochs


def test_stacked_flows_do_not_touch_each_other(nb):
    def losses(second):
        datasets = [nb.ToyDataset("Moons", 200), nb.ToyDataset(second, 200), nb.ToyDataset("Circles", 200)]
        results = nb.train_together([new_flow(nb, i) for i in range(3)], datasets, 3, generators=generators(range(3)))
        return [result[1] for result in results]

    before, after = losses("Moons"), losses("GaussiansRot")
    assert before[0] == after[0] and before[2] == after[2] and before[1] != after[1]


def test_the_engine_works_in_three_dimensions(nb):
    mask = torch.tensor([1.0, 0.0, 0.0])
    flows, x = [], torch.randn(2, 50, 3, dtype=torch.float64)
    for seed in range(2):
        flow = new_flow(nb, seed, 3)
        flow.layers = torch.nn.ModuleList(nb.CouplingLayer(m) for m in (mask, 1 - mask, mask)).double()
        for layer in flow.layers:
            torch.nn.init.normal_(layer.scale_factor)
        flows.append(flow)
    stack = nb.FlowStack(flows)
    losses, tape = nb.stacked_loss(stack, stack.batches(x, 50)[0])
    with torch.no_grad():
        nb.stacked_gradient(stack, *tape)
    gradients = stack.unstack(stack.weights.grad, elsewhere=torch.zeros_like(stack.vectors))
    for flow, z, loss, gradient in zip(flows, x, losses, gradients):
        log_det = 0
        for layer in reversed(flow.layers):
            z, inv_log_det_jac = layer.inverse(z)
            log_det = log_det + inv_log_det_jac
        expected = (z.square().sum(1) / 2 + 1.5 * math.log(2 * math.pi) - log_det).mean()
        torch.testing.assert_close(loss, expected)
        expected.backward()
        by_autograd = [torch.zeros_like(p) if p.grad is None else p.grad for p in flow.parameters()]
        torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in by_autograd]))


@pytest.mark.parametrize("num_samples, kept", [(5000, "best"), (4990, "last")])
def test_best_epoch_is_kept_where_validation_has_500_samples(nb, num_samples, kept):
    # Training points in a narrow cluster and validation points elsewhere: validation gets worse with every epoch.
    torch.manual_seed(4)
    state = torch.random.get_rng_state()
    valid = random_split(range(num_samples), [num_samples * 9 // 10, num_samples - num_samples * 9 // 10])[1].indices
    points = np.random.default_rng(0).normal(size=(num_samples, 2)) * 0.05
    points[valid] *= 20
    torch.random.set_rng_state(state)
    reference, data = new_flow(nb, 8, 2), Points(points)
    torch.random.set_rng_state(state)
    _, _, history = plain_loop(reference, data, 4, 250)
    model = new_flow(nb, 8, 2)
    torch.random.set_rng_state(state)
    trained, _, valid_losses = nb.train(model, data, 4, batch_size=250)
    assert np.argmin(valid_losses) == 0
    same_weights(model, history[-1], rtol=1e-8, atol=1e-9)
    same_weights(trained, history[0 if kept == "best" else -1], rtol=1e-8, atol=1e-9)
    assert (trained is model) == (kept == "last")


def test_divergence_is_named_and_the_others_survive(nb):
    models = [new_flow(nb, i, 2) for i in range(3)]
    before = [p.detach().clone() for p in models[1].parameters()]
    datasets = [nb.ToyDataset("Moons", 100), Points(np.full((100, 2), 1e200)), nb.ToyDataset("Circles", 100)]
    with pytest.raises(nb.TrainingDiverged, match="model 1 in epoch 0") as error:
        nb.train_together(models, datasets, 3, generators=generators(range(3)))
    assert error.value.epochs == {1: 0} and error.value.results[1] is None
    same_weights(models[1], before, rtol=0, atol=0)
    alone = nb.train_together([new_flow(nb, 2, 2)], [datasets[2]], 3, generators=generators([2]))[0]
    np.testing.assert_allclose(error.value.results[2][1], alone[1], rtol=1e-9)
    with pytest.raises(nb.TrainingDiverged, match="epoch 0"):
        nb.train(new_flow(nb, 0, 2), datasets[1], 500)


def test_divergence_later_names_its_epoch(nb):
    model = new_flow(nb, 0, 2)
    real, calls = nb.stacked_loss, []

    def breaks_in_epoch_two(stack, batch):
        loss, tape = real(stack, batch)
        calls.append(1)
        return (loss * math.nan if len(calls) > 6 else loss), tape  # 2 training batches and 1 of validation an epoch

    nb.train_stack.__wrapped__.__globals__["stacked_loss"] = breaks_in_epoch_two
    try:
        with pytest.raises(nb.TrainingDiverged, match="model 0 in epoch 2"):
            nb.train(model, nb.ToyDataset("Moons", 100), 10)
    finally:
        nb.train_stack.__wrapped__.__globals__["stacked_loss"] = real
    assert len(calls) == 9  # it stops there


@pytest.mark.parametrize("name, change", [
    ("models", {"models": []}),
    ("models", {"models": [torch.nn.Linear(2, 2)]}),
    ("datasets", {"datasets": []}),
    ("epochs", {"epochs": 0}),
    ("epochs", {"epochs": [1, 2]}),
    ("epochs", {"epochs": 1.5}),
    ("batch_size", {"batch_size": 0}),
    ("batch_size", {"batch_size": "64"}),
    ("data", {"datasets": [Points([[0, 0]])]}),
    ("data", {"datasets": [Points([[0, 0], [math.nan, 0], [1, 1]])]}),
    ("generators", {"generators": [None, None]}),
])
def test_bad_input_is_named(nb, name, change):
    arguments = {"models": [nb.CouplingFlow(1)], "datasets": [nb.ToyDataset("Moons", 20)], "epochs": 1, **change}
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        nb.train_together(**arguments)


def test_the_same_flow_twice_is_refused(nb):
    flow, data = nb.CouplingFlow(1), nb.ToyDataset("Moons", 20)
    with pytest.raises(ValueError, match="^models: expected different flows"):
        nb.train_together([flow, flow], [data, data], 1)


def test_masks_that_the_engine_cannot_stack_are_refused(nb):
    flow = nb.CouplingFlow(2)
    flow.layers[1] = nb.CouplingLayer(torch.tensor([1.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="^models: expected"):
        nb.train(flow, nb.ToyDataset("Moons", 20))
