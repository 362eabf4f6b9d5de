"""What comes after Task 12: recipes, copies on the way, priors with modes, averages, more dimensions, left-out samples."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch.utils.data import random_split

from reference import LEARNING_RATE, jacobian, log_abs_det, log_kernel_estimate, log_normal, normal, randomised, train_epoch


def with_modes(nb, seed, num_layers=2, dim=2):
    """A flow in float64 with a mixture as prior, all of it drawn anew."""
    torch.manual_seed(seed)
    flow = nb.CouplingFlow(num_layers, dim)
    flow.prior = nb.MixturePrior(5, dim)
    return randomised(flow.double())


@pytest.mark.parametrize("recipe", [{"shuffle": True}, {"decay": True}, {"shuffle": True, "decay": True, "learning_rate": 0.01}])
def test_recipes_are_the_plain_loop_with_one_change_each(nb, recipe):
    data, epochs = nb.ToyDataset("Moons", 200), 4
    torch.manual_seed(0)
    model, reference = (nb.CouplingFlow(2).double() for _ in range(2))
    reference.load_state_dict(model.state_dict())
    split = torch.random.get_rng_state()
    _, losses, _ = nb.train_together([model], [data], epochs, recipe=nb.Recipe(**recipe))[0]

    torch.random.set_rng_state(split)
    points = torch.stack([data[i] for i in random_split(data, [180, 20])[0].indices]).double()
    rate, order = recipe.get("learning_rate", LEARNING_RATE), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(reference.parameters(), lr=rate)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = rate * (1 - epoch / epochs) if recipe.get("decay") else rate
        now = points[torch.randperm(180, generator=order)] if recipe.get("shuffle") else points
        expected = train_epoch(lambda batch: -reference.log_probability(batch).mean(), optimizer, now.split(64))
        assert losses[epoch] == pytest.approx(expected, rel=1e-9)
    for ours, theirs in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_copies_on_the_way_are_flows_trained_that_long(nb):
    arm = nb.Arm("Moons", 5, num_samples=200)
    together = nb.train_arms({"long": arm, "short": arm._replace(epochs=2), "other": arm._replace(num_layers=2)}, range(2))
    for name, epochs, num_layers in (("long", 5, 4), ("short", 2, 4), ("other", 5, 2)):
        alone = nb.train_arms({name: nb.Arm("Moons", epochs, num_layers, 200)}, range(2))[name]
        for run, other in zip(together[name], alone, strict=True):
            for p, q in zip(run.model.parameters(), other.model.parameters(), strict=True):
                assert torch.equal(p, q)
            assert run.train_losses[:epochs] == other.train_losses and torch.equal(run.training_points, other.training_points)


def test_members_differ_in_initialization_and_split_but_share_the_data(nb):
    first, second = nb.train_arms({"moons": nb.Arm("Moons", 1, num_samples=50)}, [3], members=2)["moons"]
    assert np.array_equal(first.data.data, second.data.data)
    assert not torch.equal(first.training_points, second.training_points)
    assert not torch.equal(first.model.layers[0].s_func[0].weight, second.model.layers[0].s_func[0].weight)


def test_the_best_epoch_is_kept_by_as_few_samples_as_the_recipe_says(nb):
    points = nb.ToyDataset("Moons", 40)  # on which a long training overfits
    torch.manual_seed(1)
    model = nb.CouplingFlow(4)
    trained, _, valid_losses = nb.train_together([model], [points], 300, recipe=nb.Recipe(0.01, enough_to_choose=4))[0]
    assert trained is not model and min(valid_losses) < valid_losses[-1] - 0.1


# Priors with modes, and averages -------------------------------------------------------------------------------------


def log_mixture(prior, z):
    """The log density of a mixture of Gaussians by SciPy: (B, d) → (B,)."""
    weights = torch.softmax(prior.logits, 0).tolist()
    each = [np.log(w) + multivariate_normal(mean.tolist(), np.diag(np.exp(2 * np.array(log_sd.tolist())))).logpdf(z.numpy())
            for w, mean, log_sd in zip(weights, prior.means, prior.log_sds)]
    return torch.from_numpy(logsumexp(each, axis=0))


@pytest.mark.parametrize("dim", [2, 5])
def test_mixture_prior_is_the_mixture(nb, dim):
    flow, z = with_modes(nb, 0, dim=dim), normal(30, dim).double()
    torch.testing.assert_close(flow.prior.log_prob(z).detach(), log_mixture(flow.prior, z))
    x, log_prob = flow.sample_x(30)
    torch.testing.assert_close(flow.log_probability(x), log_prob)


def test_samples_of_a_mixture_prior_have_its_moments(nb):
    prior = with_modes(nb, 0).prior
    torch.manual_seed(0)
    z, weights = prior.sample((200_000,)), torch.softmax(prior.logits, 0)[:, None]
    mean = (weights * prior.means).sum(0)
    second = (weights * (prior.means**2 + torch.exp(2 * prior.log_sds))).sum(0)
    torch.testing.assert_close(z.mean(0), mean.detach(), atol=0.02, rtol=0)
    torch.testing.assert_close((z**2).mean(0), second.detach(), atol=0.05, rtol=0)


@pytest.mark.parametrize("dim, modes", [(2, True), (2, False), (5, True)])
def test_a_stack_has_the_loss_and_the_gradients_of_its_flows(nb, dim, modes):
    flows = [with_modes(nb, seed, 3, dim) if modes else randomised(nb.CouplingFlow(3, dim).double()) for seed in range(3)]
    x, stacked = torch.randn(3, 50, dim, dtype=torch.float64), nb.stack_parameters(flows)
    losses = nb.stacked_loss(stacked, [layer.mask[:, None] for layer in flows[0].layers], x.mT)
    losses.sum().backward()
    gradients = copy.deepcopy(flows)
    nb.store({name: p.grad for name, p in stacked.items()}, gradients)
    for flow, gradient, points, loss in zip(flows, gradients, x, losses):
        expected = -flow.log_probability(points).mean()
        torch.testing.assert_close(loss, expected)
        expected.backward()
        for p, found in zip(flow.parameters(), gradient.parameters(), strict=True):
            if p.requires_grad:
                torch.testing.assert_close(found.detach(), p.grad)


def test_training_with_modes_lowers_the_loss_and_moves_every_part_of_the_prior(nb):
    arm = nb.Arm("GaussiansRot", 20, num_samples=500, prior=lambda: nb.MixturePrior(8))
    run, = nb.train_arms({"modes": arm}, [1], nb.Recipe(0.01, shuffle=True, decay=True))["modes"]
    assert run.train_losses[-1] < run.train_losses[0] - 0.5
    assert all(p.std() > 0 for p in (run.model.prior.logits, run.model.prior.log_sds))


def test_average_is_the_mean_of_the_densities(nb):
    flows, x = [with_modes(nb, seed).float() for seed in range(3)], normal(20, 2).float()
    expected = torch.stack([flow.double().log_probability(x.double()).exp() for flow in copy.deepcopy(flows)]).mean(0).log()
    np.testing.assert_allclose(nb.average_log_density(flows, x.numpy()), expected.detach(), rtol=1e-4)


def test_mixtures_without_layers_are_densities_and_their_average(nb):
    samples, grid = nb.sample_2d_datasets("GaussiansGrid", 600), nb.Grid((-4, 6), (-4, 6), 150)
    one, two = (np.exp(grid.evaluate(nb.mixtures(samples, members))) for members in (1, 2))
    other = 2 * two - one  # the second of the two
    assert other.min() > 0 and not np.allclose(one, other)
    for density in (one, two, other):
        assert abs(grid.mass(density) - 1) < 1e-3
        assert nb.total_variation(density, grid.evaluate(lambda x: np.exp(nb.true_log_density("GaussiansGrid", x))), grid) < 0.25


# More dimensions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_flow_in_any_dimension_against_autograd(nb, dim):
    flow = randomised(nb.CouplingFlow(3, dim).double())
    assert [layer.mask.tolist() for layer in flow.layers[:2]] == [[(i + 1) % 2 for i in range(dim)], [i % 2 for i in range(dim)]]
    z, *_, x = flow.sample_x_each_step(20)
    torch.testing.assert_close(flow.log_probability(x), log_normal(z) - log_abs_det(jacobian(lambda v: nb.whole_map(flow, v), z)))


def test_products_are_independent_copies_in_a_random_order(nb):
    data = nb.ProductDataset(4000, 6, seed=1)
    assert len(data) == 4000 and data[3].shape == (6,) and data[3].dtype == torch.float32
    points = data.data[:, np.argsort(data.order)]
    moons = [nb.sample_2d_datasets("Moons", 4000, 100 + i) for i in range(3)]
    np.testing.assert_array_equal(points, np.concatenate(moons, axis=1))
    assert [*data.order] != [*range(6)] and [*data.order] != [*nb.ProductDataset(20, 6, seed=2).order]
    correlation = np.corrcoef(np.concatenate([points, points**2], 1).T)
    pair = np.arange(12) % 6 // 2
    assert np.abs(correlation[pair[:, None] != pair]).max() < 0.1 < np.abs(correlation[0, 1])


@pytest.mark.parametrize("dim", [2, 6])
def test_bandwidth_by_likelihood_is_the_best_of_many(nb, dim):
    samples = nb.ProductDataset(60, dim, seed=1).data

    def likelihood(h):
        return sum(log_kernel_estimate(samples[i : i + 1], np.delete(samples, i, axis=0), h * np.eye(dim))[0] for i in range(60))

    h = nb.bandwidth_by_likelihood(samples)
    assert likelihood(h) > max(likelihood(other) for other in (0.99 * h, 1.01 * h, 0.5 * h, 2 * h))


def test_data_of_another_dimension_is_named(nb):
    for train in (nb.train, lambda model, data: nb.train_together([model], [data], 1)):
        with pytest.raises(ValueError, match=r"data: expected .* shape \(B, 4\), got .* shape \(18, 2\)"):
            train(nb.CouplingFlow(2, 4), nb.ToyDataset("Moons", 20))
