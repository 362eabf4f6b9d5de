"""Training: `train` against an independent loop, stacks of flows against one by one, and what goes wrong."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, StudentT
from torch.utils.data import Dataset, random_split

from reference import plain_loop


class Points(Dataset):
    """A dataset of given points, which are items with a graph."""

    def __init__(self, points):
        self.points = nn.Parameter(torch.as_tensor(np.asarray(points), dtype=torch.float64))

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return 1 * self.points[index]


def new_flow(nb, seed, num_layers=4, kind=None):
    torch.manual_seed(seed)
    return (kind or nb.CouplingFlow)(num_layers).double()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same_weights(model, expected, **tolerance):
    for ours, theirs in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, **tolerance)


def train_in_stack(nb, model, data, *rest, **options):
    """`train_together` of one flow and another, called like `train`."""
    other = copy.deepcopy(model)
    return nb.train_together([model, other], [data, data], *rest, **options)[0]


BOTH = pytest.mark.parametrize("method", ["train", "train_together"])


def trained_by(nb, method, *arguments, **options):
    return nb.train(*arguments, **options) if method == "train" else train_in_stack(nb, *arguments, **options)


@BOTH
@pytest.mark.parametrize("num_layers, num_samples, batch_size", [(4, 700, 64), (1, 100, 64), (3, 333, 50), (2, 40, 7)])
def test_it_is_the_plain_loop(nb, method, num_layers, num_samples, batch_size):
    data = nb.ToyDataset("Moons", num_samples)
    reference = new_flow(nb, 8, num_layers)
    losses, valid_losses = zip(*plain_loop(reference, data, 4, batch_size))
    model = new_flow(nb, 8, num_layers)
    trained, train_losses, ours_valid = trained_by(nb, method, model, data, epochs=4, batch_size=batch_size)
    np.testing.assert_allclose(train_losses, losses, rtol=1e-10)
    np.testing.assert_allclose(ours_valid, valid_losses, rtol=1e-10)
    same_weights(trained, weights(reference), rtol=1e-8, atol=1e-9)
    assert trained is model and isinstance(train_losses, list)


@BOTH
def test_in_float32_it_is_the_plain_loop(nb, method):
    torch.manual_seed(8)
    reference = nb.CouplingFlow(4)
    losses, _ = zip(*plain_loop(reference, nb.ToyDataset("GaussiansRot", 700), 2))
    torch.manual_seed(8)
    _, train_losses, _ = trained_by(nb, method, nb.CouplingFlow(4), nb.ToyDataset("GaussiansRot", 700), 2)
    np.testing.assert_allclose(train_losses, losses, rtol=1e-4)


@pytest.mark.slow
def test_training_lowers_the_loss_towards_the_entropy(nb):
    torch.manual_seed(8)
    _, losses, valid_losses = nb.train(nb.CouplingFlow(4), nb.ToyDataset("GaussiansGrid", 1500), 60)
    entropy = -nb.true_log_density("GaussiansGrid", nb.sample_2d_datasets("GaussiansGrid", 20_000, 5)).mean()
    assert losses[0] > losses[-1] and entropy - 0.15 < valid_losses[-1] < entropy + 0.25


# One mathematics: whatever `train` trains, `train_together` trains alike, or refuses ----------------------------------


def modes(nb, flow):
    flow.prior = nb.MixturePrior(3).double()


def frozen_modes(nb, flow):
    modes(nb, flow)
    flow.prior.means.requires_grad_(False)


def student_t(nb, flow):
    flow.prior = Independent(StudentT(torch.tensor([3.0, 5.0]).double(), validate_args=False), 1)


def full_covariance(nb, flow):
    flow.prior = MultivariateNormal(torch.tensor([1.0, 0.0]).double(), torch.tensor([[1.0, 0.5], [0.5, 2.0]]).double())


def tanh(nb, flow):
    for layer in flow.layers:
        layer.s_func[1] = layer.t_func[3] = nn.Tanh()


def other_depths(nb, flow):
    flow.layers[0].s_func = nn.Sequential(nn.Linear(2, 7), nn.SiLU(), nn.Linear(7, 2)).double()
    flow.layers[1].t_func = nn.Linear(2, 2, dtype=torch.float64)


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


VARIANTS = [lambda nb, flow: None, modes, frozen_modes, student_t, full_covariance, tanh, other_depths, frozen_network, thawed,
            shared, own_density]


@pytest.mark.parametrize("change", VARIANTS, ids=lambda change: change.__name__.replace("<lambda>", "as it is"))
def test_flows_in_a_stack_are_trained_as_if_alone(nb, change):
    datasets = [nb.ToyDataset(name, 200, seed=i) for i, name in enumerate(["Moons", "Circles", "Moons", "GaussiansRot", "Moons"])]
    alone = [new_flow(nb, seed) for seed in range(5)]
    for flow in alone:
        change(nb, flow)
    before, together = [weights(flow) for flow in alone], copy.deepcopy(alone)
    torch.manual_seed(0)
    expected = [nb.train(*pair, epochs=4) for pair in zip(alone, datasets)]
    torch.manual_seed(0)
    found = nb.train_together(together, datasets, epochs=4)
    for (model, *losses), flow, (one, *other_losses), old in zip(found, together, expected, before, strict=True):
        np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-10)
        same_weights(model, weights(one), rtol=0, atol=1e-8)
        assert model is flow
        for (name, p), start in zip(model.named_parameters(), old):  # what is to learn has moved, the rest has not
            kept = name.endswith("mask") or not p.requires_grad
            assert torch.equal(p, start) == (kept or name.endswith("scale_factor") and not p.requires_grad), name
        assert {entry for layer in model.layers for entry in layer.mask.tolist()} == {0, 1}


def test_more_flows_than_a_stack_holds_come_back_in_their_places(nb):
    flows, data = [new_flow(nb, seed, 1) for seed in range(20)], [nb.ToyDataset("Moons", 30, seed) for seed in range(20)]
    alone = copy.deepcopy(flows)
    torch.manual_seed(0)
    expected = [nb.train(*pair, 2)[1] for pair in zip(alone, data)]
    torch.manual_seed(0)
    found = nb.train_together(flows, data, 2)
    np.testing.assert_allclose([losses for _, losses, _ in found], expected, rtol=0, atol=1e-10)
    for (trained, *_), flow, one in zip(found, flows, alone, strict=True):
        assert trained is flow
        same_weights(flow, weights(one), rtol=0, atol=1e-8)


def other_prior(nb, flow):
    flow.prior = Independent(Normal(torch.ones(2).double(), torch.ones(2).double(), validate_args=False), 1)


def not_broadcasting(nb, flow):
    class FirstColumn(nb.CouplingFlow):
        def log_probability(self, x):
            return super().log_probability(x) - x[:, 0].square()

    flow.__class__ = FirstColumn


def silently_not_broadcasting(nb, flow):
    class FirstRow(nb.CouplingFlow):
        def log_probability(self, x):
            return super().log_probability(x) - 0.1 * x.square().mean()

    flow.__class__ = FirstRow


def hidden_by_a_scale_of_0(nb, flow):
    class Centred(nn.LeakyReLU):
        def forward(self, x):
            return super().forward(x - x.mean(0))  # over the batch, but in a stack over the flows

    flow.layers[0].s_func[1].__class__ = Centred


def in_single_precision(nb, flow):
    flow.float()


def wider(nb, flow):
    flow.layers = nb.CouplingFlow(4, hidden=16).double().layers


@pytest.mark.parametrize("change", [other_prior, frozen_network, tanh, in_single_precision, wider, modes],
                         ids=lambda change: change.__name__)
def test_flows_that_differ_are_refused(nb, change):
    flows, datasets = [new_flow(nb, seed) for seed in range(2)], [nb.ToyDataset("Moons", 100)] * 2
    change(nb, flows[1])
    with pytest.raises((ValueError, RuntimeError), match="^models: expected one architecture|equal size|shorter|longer"):
        nb.train_together(flows, datasets, 1)


@pytest.mark.parametrize("change", [not_broadcasting, silently_not_broadcasting, hidden_by_a_scale_of_0],
                         ids=lambda change: change.__name__)
def test_a_density_that_is_none_of_a_stack_is_refused(nb, change):
    flows = [new_flow(nb, seed) for seed in range(2)]
    for flow in flows:
        change(nb, flow)
    for flow in flows:  # which `train` trains
        nb.train(copy.deepcopy(flow), nb.ToyDataset("Moons", 40), 1)
    for num_samples in (20, 100):
        with pytest.raises((ValueError, RuntimeError), match="^models: expected .* broadcasts over a leading axis|must match"):
            nb.train_together(flows, [nb.ToyDataset("Moons", num_samples)] * 2, 1)


def test_lists_that_do_not_fit_are_refused(nb):
    flows, data = [new_flow(nb, seed, 2) for seed in range(2)], nb.ToyDataset("Moons", 40)
    for models, datasets in ((flows, [data]), (flows[:1] * 2, [data, data]), (flows, [data, nb.ToyDataset("Moons", 60)])):
        with pytest.raises(ValueError, match="datasets: expected"):
            nb.train_together(models, datasets, 1)


def test_flows_of_a_stack_do_not_touch_each_other(nb):
    def losses(second):
        torch.manual_seed(0)
        datasets = [nb.ToyDataset(name, 200) for name in ("Moons", second, "Circles")]
        return [result[1] for result in nb.train_together([new_flow(nb, i) for i in range(3)], datasets, 3)]

    before, after = losses("Moons"), losses("GaussiansRot")
    assert before[0] == after[0] and before[2] == after[2] and before[1] != after[1]


# Best or last weights, and looks on the way ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["train", "train_together", "train_stack"])
@pytest.mark.parametrize("num_samples, kept", [(5000, "best"), (4990, "last")])
def test_best_epoch_is_kept_where_validation_has_500_samples(nb, method, num_samples, kept):
    # Training points in a narrow cluster and validation points elsewhere: validation gets worse with every epoch.
    reference, num_train = new_flow(nb, 8, 2), num_samples * 9 // 10
    state = torch.random.get_rng_state()
    valid = random_split(range(num_samples), [num_train, num_samples - num_train])[1].indices
    points = np.random.default_rng(0).normal(size=(num_samples, 2)) * 0.05
    points[valid] *= 20
    torch.random.set_rng_state(state)
    data, model = Points(points), copy.deepcopy(reference)
    history, valid_losses = zip(*[(weights(reference), losses[1]) for losses in plain_loop(reference, data, 4, 250)])
    assert (lowest := np.argmin(valid_losses)) < 3
    torch.random.set_rng_state(state)
    if method == "train_stack":
        both = [model, copy.deepcopy(model)]
        looked = nb.train_stack(both, [nb.split(data, model)] * 2, [1, 2, 3, 4], 250)
        for epoch, (stacked, _) in looked.items():  # if it had ended there
            now = np.argmin(valid_losses[:epoch]) if kept == "best" else epoch - 1
            same_weights(nb.unstack(stacked, both)[0], history[now], rtol=1e-8, atol=1e-9)
        best = model
    else:
        best = trained_by(nb, method, model, data, 4, batch_size=250)[0]
    same_weights(best, history[lowest if kept == "best" else -1], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("configuration", [("Moons", 5, 200), ("GaussiansRot", 3, 200)], ids=str)
def test_looks_at_a_training_on_its_way_are_trainings_that_end_there(nb, configuration):
    flows, sets = zip(*(nb.prepare(nb.Configuration(*configuration), run) for run in range(2)))
    for epochs, (stacked, losses) in nb.train_stack(flows, sets, [1, 3]).items():
        assert losses.shape == (2, epochs, 2)
        for run, flow in enumerate(nb.unstack(stacked, copy.deepcopy(flows))):
            torch.manual_seed(8 + run)  # as the assignment's loop does it, with the assignment's seeds for run 0
            data, reference = nb.ToyDataset(configuration[0], 200, run, configuration[1]), nb.CouplingFlow(4)
            list(plain_loop(reference, data, epochs))
            same_weights(flow, weights(reference), rtol=0, atol=2e-4)


def test_what_a_model_counts_while_it_trains_is_kept_as_well(nb):
    class Counts(nb.CouplingFlow):
        def __init__(self, num_layers):
            super().__init__(num_layers)
            self.register_buffer("batches", torch.zeros(()))

        def log_probability(self, x):
            self.batches += self.training
            return super().log_probability(x)

    model, *_ = nb.train(new_flow(nb, 0, 2, Counts), nb.ToyDataset("Moons", 100), 3)
    assert model.batches == 3 * 2


# What goes wrong -------------------------------------------------------------------------------------------------------


def points_that_diverge():
    return np.concatenate([np.random.default_rng(0).normal(size=(99, 2)), [[3e38, -3e38]]])


@BOTH
def test_a_point_too_far_out_is_said_to_be_the_end_and_no_weight_is_changed(nb, method):
    torch.manual_seed(0)
    model, data = nb.CouplingFlow(2), Points(points_that_diverge())
    before = weights(model)
    with pytest.raises(FloatingPointError, match="^epoch 1: training .*(inf|nan).*, validation"):
        trained_by(nb, method, model, data, 5)
    same_weights(model, before, rtol=0, atol=0)


@pytest.mark.parametrize("calls, said", [(8, "^epoch 3: training nan,"), (9, "^epoch 3: training -?[0-9.]+, validation nan")])
def test_a_loss_that_ends_later_names_its_epoch_and_which_it_was(nb, calls, said):
    class Breaks(nb.CouplingFlow):
        seen = 0

        def log_probability(self, x):
            Breaks.seen += 1
            return super().log_probability(x) * (math.nan if Breaks.seen == calls else 1)

    model, reference, data = new_flow(nb, 0, 2, Breaks), new_flow(nb, 0, 2), nb.ToyDataset("Moons", 100)
    state = torch.random.get_rng_state()
    with pytest.raises(FloatingPointError, match=said):
        nb.train(model, data, 10)  # 2 training batches and 1 of validation an epoch
    torch.random.set_rng_state(state)
    list(plain_loop(reference, data, 2))
    same_weights(model, weights(reference), rtol=1e-8, atol=1e-9)  # of the last epoch that was whole


@BOTH
def test_data_that_are_no_numbers_or_too_few_are_named(nb, method):
    for points in ([[0, 0], [math.nan, 0], [1, 1]], [[0, 0], [math.inf, 0], [1, 1]], [[0.0, 0.0]]):
        with pytest.raises(ValueError, match=r"^data: expected finite numbers, at least 2 samples, got shape"):
            trained_by(nb, method, new_flow(nb, 0, 1), Points(points), 1)
    with pytest.raises(ValueError, match=r"^x: expected .*2.* got shape .*3"):
        trained_by(nb, method, new_flow(nb, 0, 1), Points(np.zeros((20, 3))), 1)


def test_training_takes_no_square_root_from_mkl(nb):
    # Those are not rounded correctly, whatever MKL_CBWR says, so that another processor may round them otherwise.
    with torch.profiler.profile() as used:
        nb.train(nb.CouplingFlow(2), nb.ToyDataset("Moons", 100), 2)
    names = {event.name for event in used.events()}
    assert "aten::mul" in names and not [name for name in names if "sqrt" in name]
