"""Training: `train` and the stacks against an independent loop, side by side against alone, and what goes wrong."""

import contextlib
import inspect
import math
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, random_split

from reference import log_probability, plain_loop


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


def same_weights(model, parameters, **tolerance):
    for ours, theirs in zip(model.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), **tolerance)


def train_alone(nb, *arguments, **options):
    """`train_together` of one flow, called like `train`."""
    model, data, *rest = arguments
    return nb.train_together([model], [data], *rest, **options)[0]


BOTH = pytest.mark.parametrize("method", ["train", "train_together"])


def trained_by(nb, method, *arguments, **options):
    return nb.train(*arguments, **options) if method == "train" else train_alone(nb, *arguments, **options)


@BOTH
@pytest.mark.parametrize("num_layers, num_samples, batch_size", [(4, 1500, 64), (1, 100, 64), (3, 333, 50), (2, 40, 7)])
def test_it_is_the_plain_loop(nb, method, num_layers, num_samples, batch_size):
    data = nb.ToyDataset("Moons", num_samples)
    reference = new_flow(nb, 8, num_layers)
    losses, valid_losses = zip(*plain_loop(reference, data, 4, batch_size))
    model = new_flow(nb, 8, num_layers)
    trained, train_losses, ours_valid = trained_by(nb, method, model, data, epochs=4, batch_size=batch_size)
    np.testing.assert_allclose(train_losses, losses, rtol=1e-9)
    np.testing.assert_allclose(ours_valid, valid_losses, rtol=1e-9)
    same_weights(trained, reference.parameters(), rtol=1e-8, atol=1e-9)
    assert trained is model and isinstance(train_losses, list)


@BOTH
def test_in_float32_it_is_the_plain_loop(nb, method):
    torch.manual_seed(8)
    reference = nb.CouplingFlow(4)
    losses, _ = zip(*plain_loop(reference, nb.ToyDataset("GaussiansRot", 1500), 2))
    torch.manual_seed(8)
    _, train_losses, _ = trained_by(nb, method, nb.CouplingFlow(4), nb.ToyDataset("GaussiansRot", 1500), 2)
    np.testing.assert_allclose(train_losses, losses, rtol=1e-4)


@pytest.mark.slow
def test_training_lowers_the_loss_towards_the_entropy(nb):
    torch.manual_seed(8)
    _, losses, valid_losses = nb.train(nb.CouplingFlow(4), nb.ToyDataset("GaussiansGrid", 1500), 60)
    entropy = -nb.true_log_density("GaussiansGrid", nb.sample_2d_datasets("GaussiansGrid", 20_000, 5)).mean()
    assert losses[0] > losses[-1] and entropy - 0.15 < valid_losses[-1] < entropy + 0.25


@BOTH
def test_training_is_repeatable(nb, method):
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(trained_by(nb, method, nb.CouplingFlow(2), nb.ToyDataset("Circles", 200), 3))
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


def test_one_dataset_serves_all_flows(nb):
    data = nb.ToyDataset("Moons", 100)
    one, several = (nb.train_together([new_flow(nb, i, 2) for i in range(2)], given, 2, generators=generators(range(2)))
                    for given in (data, [data, data]))
    assert [result[1:] for result in one] == [result[1:] for result in several]


def test_stacked_flows_do_not_touch_each_other(nb):
    def losses(second):
        datasets = [nb.ToyDataset("Moons", 200), nb.ToyDataset(second, 200), nb.ToyDataset("Circles", 200)]
        results = nb.train_together([new_flow(nb, i) for i in range(3)], datasets, 3, generators=generators(range(3)))
        return [result[1] for result in results]

    before, after = losses("Moons"), losses("GaussiansRot")
    assert before[0] == after[0] and before[2] == after[2] and before[1] != after[1]


@contextlib.contextmanager
def changed(function, **values):
    """The notebook's function with other globals for a while."""
    namespace = inspect.unwrap(function).__globals__
    before = {name: namespace[name] for name in values}
    namespace.update(values)
    try:
        yield
    finally:
        namespace.update(before)


@pytest.mark.parametrize("limit", [17, 2])
@pytest.mark.parametrize("processors", [1, 3, 8])
def test_side_by_side_gives_the_same_bits_as_one_after_another(nb, monkeypatch, limit, processors):
    jobs = [(name, n, 2 + i % 2) for i, (name, n) in enumerate([("Moons", 300), ("Circles", 300), ("Moons", 200)] * 3)]

    def train_all():
        datasets = [nb.ToyDataset(name, n, seed=i) for i, (name, n, _) in enumerate(jobs)]
        flows = [new_flow(nb, i, K).float() for i, (*_, K) in enumerate(jobs)]
        return nb.train_together(flows, datasets, [3 + i % 2 for i in range(9)], generators=generators(range(9)))

    with changed(nb.stacks_of, STACK_LIMIT=limit):
        monkeypatch.setattr("os.cpu_count", lambda: 1)
        expected = train_all()
        monkeypatch.setattr("os.cpu_count", lambda: processors)
        found = train_all()
    for (one, *losses), (other, *other_losses) in zip(expected, found, strict=True):
        same_weights(one, other.parameters(), rtol=0, atol=0)
        assert losses == other_losses


def test_as_many_stacks_run_at_a_time_as_there_are_processors(nb, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    bar, meeting = nb.ProgressBar(4), threading.Barrier(2, timeout=10)

    def job(number):
        meeting.wait()  # which two threads have to reach together
        bar.count(number, number)
        return number

    assert nb.side_by_side([lambda n=n: job(n) for n in range(4)], bar) == [0, 1, 2, 3]
    assert bar.bar.n == 4


def test_an_error_or_an_interrupt_ends_all_stacks(nb, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    bar, ended = nb.ProgressBar(1), []

    def endless():
        try:
            while True:
                bar.count(0, 0)
                time.sleep(0.01)
        finally:
            ended.append(True)

    def interrupt():
        raise KeyboardInterrupt

    bar.show = interrupt
    with pytest.raises(KeyboardInterrupt):
        nb.side_by_side([endless, endless], bar)
    assert ended == [True, True]


@pytest.mark.parametrize("masks", [[[0, 1], [1, 0]], [[1, 0, 0], [0, 1, 1], [0, 1, 0]]])
def test_stacks_take_any_masks_in_any_dimension(nb, masks):
    flows = []
    for seed in range(2):
        flow = new_flow(nb, seed, len(masks))
        flow.layers = torch.nn.ModuleList(nb.CouplingLayer(torch.tensor(mask).float()) for mask in masks).double()
        for layer in flow.layers:
            torch.nn.init.normal_(layer.scale_factor)
        flows.append(flow)
    x, columns = torch.randn(2, 50, len(masks[0]), dtype=torch.float64), [layer.mask[:, None] for layer in flows[0].layers]
    for flow, points, loss in zip(flows, x, nb.stacked_loss(nb.stack_parameters(flows), columns, x.mT)):
        torch.testing.assert_close(loss, -log_probability(flow.layers, points).mean())


@BOTH
@pytest.mark.parametrize("num_samples, kept", [(5000, "best"), (4990, "last")])
def test_best_epoch_is_kept_where_validation_has_500_samples(nb, method, num_samples, kept):
    # Training points in a narrow cluster and validation points elsewhere: validation gets worse with every epoch.
    torch.manual_seed(4)
    state = torch.random.get_rng_state()
    valid = random_split(range(num_samples), [num_samples * 9 // 10, num_samples - num_samples * 9 // 10])[1].indices
    points = np.random.default_rng(0).normal(size=(num_samples, 2)) * 0.05
    points[valid] *= 20
    torch.random.set_rng_state(state)
    reference, data = new_flow(nb, 8, 2), Points(points)
    torch.random.set_rng_state(state)
    history = [[p.detach().clone() for p in reference.parameters()] for _ in plain_loop(reference, data, 4, 250)]
    model = new_flow(nb, 8, 2)
    torch.random.set_rng_state(state)
    trained, _, valid_losses = trained_by(nb, method, model, data, 4, batch_size=250)
    assert np.argmin(valid_losses) == 0
    same_weights(model, history[-1], rtol=1e-8, atol=1e-9)
    same_weights(trained, history[0 if kept == "best" else -1], rtol=1e-8, atol=1e-9)
    assert (trained is model) == (kept == "last")


def test_divergence_is_named_and_no_weight_is_changed(nb):
    models = [new_flow(nb, i, 2) for i in range(3)]
    before = [[p.detach().clone() for p in model.parameters()] for model in models]
    datasets = [nb.ToyDataset("Moons", 100), Points(np.full((100, 2), 1e200)), nb.ToyDataset("Circles", 100)]
    with pytest.raises(nb.TrainingDiverged, match="model 1 in epoch 0"):
        nb.train_together(models, datasets, 3, generators=generators(range(3)))
    for model, weights in zip(models, before):
        same_weights(model, weights, rtol=0, atol=0)
    with pytest.raises(nb.TrainingDiverged, match="epoch 0"):
        nb.train(new_flow(nb, 0, 2), datasets[1], 500)


@BOTH
def test_divergence_later_names_its_epoch(nb, method):
    model, calls = new_flow(nb, 0, 2), []
    before = [p.detach().clone() for p in model.parameters()]

    def breaks_in_epoch_two(loss):
        calls.append(1)
        return loss * math.nan if len(calls) > 6 else loss  # 2 training batches and 1 of validation an epoch

    real_loss, real_log_probability = nb.stacked_loss, model.log_probability
    model.log_probability = lambda x: breaks_in_epoch_two(real_log_probability(x))
    broken = {"stacked_loss": lambda *arguments: breaks_in_epoch_two(real_loss(*arguments))}
    with changed(nb.train_stack, **broken), pytest.raises(nb.TrainingDiverged, match="in epoch 2"):
        trained_by(nb, method, model, nb.ToyDataset("Moons", 100), 10)
    assert len(calls) == 9  # it stops there
    same_weights(model, before, rtol=0, atol=0)


@BOTH
def test_a_gradient_that_overflows_is_divergence(nb, method):
    torch.manual_seed(0)
    model, data = nb.CouplingFlow(2), Points(np.random.default_rng(0).normal(size=(100, 2)) * 1e18)
    before = [p.detach().clone() for p in model.parameters()]
    assert model.log_probability(data[0][None].float()).isfinite().all()
    with pytest.raises(nb.TrainingDiverged):
        trained_by(nb, method, model, data, 5)
    same_weights(model, before, rtol=0, atol=0)


def test_training_takes_no_square_root_from_mkl(nb):
    # Those are not rounded correctly, whatever MKL_CBWR says, so that another processor may round them otherwise.
    with torch.profiler.profile() as used:
        nb.train(nb.CouplingFlow(2), nb.ToyDataset("Moons", 100), 2)
    names = {event.name for event in used.events()}
    assert "aten::mul" in names and not [name for name in names if "sqrt" in name]


@pytest.mark.parametrize("name, change", [
    ("models", {"models": []}),
    ("models", {"models": [torch.nn.Linear(2, 2)]}),
    ("datasets", {"datasets": []}),
    ("epochs", {"epochs": 0}),
    ("epochs", {"epochs": [1, 2]}),
    ("epochs", {"epochs": 1.5}),
    ("batch_size", {"batch_size": 0}),
    ("batch_size", {"batch_size": "64"}),
    ("data", {"datasets": [Points([[0.0, 0.0]])]}),
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
