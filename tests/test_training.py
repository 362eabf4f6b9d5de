"""Wrong training: sections "Training" and "Many flows at once" of the notebook. One by one, in stacks, and refused."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, StudentT
from torch.utils.data import random_split

from reference import plain_loop


def items_of(points):
    """A dataset of given points, which are items with a graph."""
    return [1 * row for row in nn.Parameter(torch.as_tensor(np.asarray(points)).double())]


def new_flow(nb, seed, num_layers=4, kind=None):
    torch.manual_seed(seed)
    return (kind or nb.CouplingFlow)(num_layers).double()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same_weights(model, expected, atol=1e-8):
    for ours, theirs in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=atol)


def trained_by(nb, method, model, data, *rest, **options):
    """By `train`, or by `train_together` in a stack with another."""
    if method == "train":
        return nb.train(model, data, *rest, **options)
    return nb.train_together([model, copy.deepcopy(model)], [data, data], *rest, **options)[0]


BOTH = pytest.mark.parametrize("method", ["train", "train_together"])


@BOTH
@pytest.mark.parametrize("num_layers, num_samples, batch_size", [(4, 700, 64), (1, 100, 64), (2, 40, 7)])
def test_it_is_the_plain_loop(nb, method, num_layers, num_samples, batch_size):
    data, reference = nb.ToyDataset("Moons", num_samples), new_flow(nb, 8, num_layers)
    expected = list(plain_loop(reference, data, 4, batch_size))
    model = new_flow(nb, 8, num_layers)
    trained, *losses = trained_by(nb, method, model, data, epochs=4, batch_size=batch_size)
    np.testing.assert_allclose(np.transpose(losses), expected, rtol=1e-10)
    same_weights(trained, weights(reference))
    assert trained is model and isinstance(losses[0], list)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_the_default_precision_whichever_it_is(nb, dtype):
    data = nb.ToyDataset("GaussiansRot", 700)
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(8)
        expected = list(plain_loop(nb.CouplingFlow(4), data, 2))
        torch.manual_seed(8)
        model, *losses = nb.train(nb.CouplingFlow(4), data, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(np.transpose(losses), expected, rtol=1e-4)
    assert {each.dtype for each in (*model.parameters(), *model.sample_x(4))} == {dtype}


# One mathematics: whatever `train` trains, `train_together` trains alike, or refuses ----------------------------------


def as_it_is(nb, flow):
    pass


def frozen_modes(nb, flow):
    flow.prior = nb.MixturePrior(3).double()
    flow.prior.means.requires_grad_(False)


def student_t(nb, flow):
    flow.prior = Independent(StudentT(torch.tensor([3.0, 5.0]).double(), validate_args=False), 1)


def tanh(nb, flow):
    for layer in flow.layers:
        layer.s_func[1] = layer.t_func[3] = nn.Tanh()


def frozen_network(nb, flow):
    flow.layers[0].t_func.requires_grad_(False)


def thawed(nb, flow):
    flow.requires_grad_(False)
    flow.requires_grad_(True)


def shared(nb, flow):
    flow.layers[2].s_func = flow.layers[0].s_func
    flow.layers[3].scale_factor = flow.layers[1].scale_factor
    flow.layers[3].t_func[2].weight = flow.layers[1].t_func[2].weight


def own_density(nb, flow):
    class Tempered(nb.CouplingFlow):
        def log_probability(self, x):
            return self.temperature * super().log_probability(x) - 0.1 * x.square().sum(-1)

    flow.__class__, flow.temperature = Tempered, nn.Parameter(torch.tensor(0.9, dtype=torch.float64))


@pytest.mark.parametrize("change", [
    as_it_is, frozen_modes, student_t, tanh, frozen_network, thawed, shared, own_density])
def test_flows_in_a_stack_are_trained_as_if_alone(nb, change, count=4):
    datasets = [nb.ToyDataset(nb.DATASETS[i % 4], 200, i) for i in range(count)]
    alone = [new_flow(nb, seed) for seed in range(count)]
    for flow in alone:
        change(nb, flow)
    before, together = [weights(flow) for flow in alone], copy.deepcopy(alone)
    torch.manual_seed(0)
    expected = [nb.train(*pair, epochs=3) for pair in zip(alone, datasets)]
    torch.manual_seed(0)
    found = nb.train_together(together, datasets, epochs=3)
    for (model, *losses), flow, (one, *other_losses), old in zip(found, together, expected, before, strict=True):
        np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-10)
        same_weights(model, weights(one))
        assert model is flow
        for (name, p), start in zip(model.named_parameters(), old):  # what is to learn has moved, the rest has not
            assert torch.equal(p, start) != p.requires_grad, name
        assert {entry for layer in model.layers for entry in layer.mask.tolist()} == {0, 1}


def in_single_precision(nb, flow):
    flow.float()


def wider(nb, flow):
    flow.layers = nb.CouplingFlow(4, hidden=16).double().layers


def of_the_first_row(nb, flow):
    class FirstRow(nb.CouplingFlow):
        def log_probability(self, x):
            return super().log_probability(x) - 0.1 * x.square().mean()

    flow.__class__ = FirstRow


def hidden_by_a_scale_of_0(nb, flow):
    class Centred(nn.LeakyReLU):
        def forward(self, x):
            return super().forward(x - x.mean(0))  # over the batch, but in a stack over the flows

    flow.layers[0].s_func[1].__class__ = Centred


def of_chance_in_training(nb, flow):
    flow.layers[0].s_func[1] = nn.Dropout(0.5)
    flow.eval()


@pytest.mark.parametrize("change, of_both", [
    (student_t, False), (frozen_network, False), (tanh, False), (in_single_precision, False), (wider, False),
    (of_the_first_row, True), (hidden_by_a_scale_of_0, True), (of_chance_in_training, True)])
def test_flows_that_differ_or_do_not_broadcast_are_refused(nb, change, of_both):
    flows, data = [new_flow(nb, seed) for seed in range(2)], nb.ToyDataset("Moons", 100)
    for flow in flows[not of_both:]:
        change(nb, flow)
    with pytest.raises((ValueError, RuntimeError), match="^models: expected one architecture|equal size"):
        nb.train_together(flows, [data, data], 1)
    nb.train(flows[1], data, 1)  # which is no fault of the flow


def test_lists_that_do_not_fit_are_refused(nb):
    flows, data = [new_flow(nb, seed, 2) for seed in range(2)], nb.ToyDataset("Moons", 40)
    longer = nb.ToyDataset("Moons", 60)
    for models, datasets in ((flows, [data]), (flows[:1] * 2, [data, data]), (flows, [data, longer])):
        with pytest.raises(ValueError, match="datasets: expected"):
            nb.train_together(models, datasets, 1)


# Best or last weights, also at checkpoints -------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples, kept", [(5000, "best"), (4990, "last")])
def test_the_best_epoch_is_kept_where_validation_has_500_samples_also_on_the_way(nb, num_samples, kept):
    # Training points in a narrow cluster and validation points elsewhere: validation gets worse with every epoch.
    reference, num_train = new_flow(nb, 8, 2), num_samples * 9 // 10
    state = torch.random.get_rng_state()
    valid = random_split(range(num_samples), [num_train, num_samples - num_train])[1].indices
    points = np.random.default_rng(0).normal(size=(num_samples, 2)) * 0.05
    points[valid] *= 20
    data, alone, both = items_of(points), copy.deepcopy(reference), [copy.deepcopy(reference) for _ in range(2)]

    torch.random.set_rng_state(state)
    loop = plain_loop(reference, torch.from_numpy(points), 4, 250)
    history, valid_losses = zip(*[(weights(reference), losses[1]) for losses in loop])
    best = [np.argmin(valid_losses[:epoch]) if kept == "best" else epoch - 1 for epoch in (1, 2, 3, 4)]
    assert (best[3] == 3) == (kept == "last")
    torch.random.set_rng_state(state)
    same_weights(nb.train(alone, data, 4, batch_size=250)[0], history[best[3]])
    torch.random.set_rng_state(state)
    train_set, valid_set = (torch.stack([part, part]) for part in nb.split(data, both[0]))
    for epochs in (1, 2, 3, 4):
        stacked = nb.checked_stack(both, train_set)
        losses = nb.fit_validated(stacked, train_set, valid_set, epochs, 250)
        same_weights(nb.unstack(stacked, copy.deepcopy(both))[0], history[best[epochs - 1]])
        np.testing.assert_allclose(losses[1, 0], valid_losses[:epochs], rtol=1e-10)


# What goes wrong ------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_an_error(nb):
    model = new_flow(nb, 0, 2)
    model.layers[0].scale_factor.data[:] = math.inf
    with pytest.raises(FloatingPointError, match="the loss is no longer finite"):
        nb.train(model, nb.ToyDataset("Moons", 100), 1)


@BOTH
def test_data_that_are_no_numbers_or_too_few_are_named(nb, method):
    for points in ([[0, 0], [math.nan, 0], [1, 1]], [[0, 0], [math.inf, 0], [1, 1]], [[0.0, 0.0]], []):
        with pytest.raises(ValueError, match="^data: expected finite numbers, at least 2 samples, got"):
            trained_by(nb, method, new_flow(nb, 0, 1), items_of(points), 1)


@BOTH
def test_no_epoch_and_no_batch_are_refused(nb, method):
    for options in ({"epochs": 0}, {"batch_size": 0}, {"batch_size": -1}):
        with pytest.raises(ValueError, match="^epochs, batch_size: expected at least 1 of each, got"):
            trained_by(nb, method, new_flow(nb, 0, 1), nb.ToyDataset("Moons", 20), **options)
