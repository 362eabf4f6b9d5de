"""A wrong prior with modes, bandwidth by likelihood or model of digits: section "Beyond the assignment"."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from reference import log_kernel_estimate, normal, randomised, train_epoch


def with_modes(nb, seed, dim=2):
    """A flow with a mixture as prior, all of it drawn anew."""
    torch.manual_seed(seed)
    return randomised(nb.CouplingFlow(2, dim, hidden=8, prior=nb.MixturePrior(5, dim)))


@pytest.mark.parametrize("dim", [2, 5])
def test_mixture_prior_is_the_mixture(nb, dim):
    prior, z = with_modes(nb, 0, dim).prior, normal(30, dim)
    each = [np.log(w) + stats.norm(mean.tolist(), np.exp(log_sd.tolist())).logpdf(z).sum(1)
            for w, mean, log_sd in zip(torch.softmax(prior.logits, 0).tolist(), prior.means, prior.log_sds)]
    torch.testing.assert_close(prior.log_prob(z).detach(), torch.from_numpy(logsumexp(each, axis=0)))
    mean = torch.softmax(prior.logits, 0) @ prior.means
    torch.testing.assert_close(prior.sample((200_000,)).mean(0), mean.detach(), rtol=0, atol=0.02)


@pytest.mark.parametrize("weight_decay", [0, 0.7])
def test_shuffled_training_is_a_plain_loop_alone_and_in_a_stack(nb, weight_decay):
    sets, epochs, rate = normal(4, 3, 150, 2), 4, 0.01  # a fresh set an epoch, for each of three flows
    flows = [with_modes(nb, seed) for seed in range(3)]
    together = copy.deepcopy(flows)

    def same(model, flow):
        for ours, theirs in zip(model.parameters(), flow.parameters(), strict=True):
            torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=1e-9)

    for i, flow in enumerate(flows):
        alone, fresh = copy.deepcopy(flow), iter(sets[:, i])
        torch.manual_seed(5)
        assert nb.train_shuffled(alone, lambda: next(fresh), epochs, rate, weight_decay) is alone
        torch.manual_seed(5)
        optimizer = torch.optim.AdamW(flow.parameters(), weight_decay=weight_decay)
        for epoch, points in enumerate(sets[:, i]):
            optimizer.param_groups[0]["lr"] = rate * (1 - epoch / epochs)
            shuffled = points[torch.randperm(150)]
            train_epoch(lambda batch: -flow.log_probability(batch).mean(), optimizer, shuffled.split(64))
        same(alone, flow)
    torch.manual_seed(5)
    stacked, fresh = nb.stack(together), iter(sets)
    nb.train_shuffled(stacked, lambda: next(fresh), epochs, rate, weight_decay)
    for flow, model in zip(flows, nb.unstack(stacked, together)):
        same(model, flow)


@pytest.mark.parametrize("dim, scale", [(2, 1), (6, 1), (2, 1000)])
def test_bandwidth_by_likelihood_is_the_best_of_many(nb, dim, scale):
    samples = scale * np.random.default_rng(dim).normal(size=(80, dim)) @ np.diag(np.linspace(0.5, 2, dim))

    def likelihood(h):
        left_out = (log_kernel_estimate(samples[[i]], np.delete(samples, i, 0), h * np.eye(dim)) for i in range(80))
        return sum(left_out)[0]

    h = nb.bandwidth_by_likelihood(samples)
    assert likelihood(h) > max(likelihood(factor * h) for factor in (0.1, 0.5, 0.9, 0.98, 1.02, 1.1, 2, 10))
    whole = np.round(samples * 20 / scale) + 200
    assert nb.bandwidth_by_likelihood(whole.astype(np.uint16)) == nb.bandwidth_by_likelihood(whole)
    samples[0, 0] = np.nan
    for bad in (samples, np.ma.masked_invalid(samples), samples[:, 1]):
        with pytest.raises(ValueError, match="^samples: expected finite numbers"):
            nb.bandwidth_by_likelihood(bad)


# Digits ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(nb):
    return nb.Digits(0)


def test_a_fold_has_all_digits_once_and_each_is_held_out_once(nb, digits):
    both = np.concatenate([digits.train, digits.held_out])
    images = nb.load_digits().images.astype(int)
    images[:, 1::2] = images[:, 1::2, ::-1]  # every other row backwards
    held_out = np.concatenate([nb.Digits(fold).held_out for fold in range(4)])
    for each in (both, held_out):
        assert sorted(map(tuple, each)) == sorted(map(tuple, images.reshape(-1, 64)))
    first = nb.CouplingFlow(2, 64, 8).layers[0].mask.reshape(8, 8).clone()
    first[1::2] = first[1::2].flip(1)
    assert torch.equal(first, (torch.arange(8)[:, None] + torch.arange(8) + 1) % 2)  # a checkerboard


def test_pixels_become_standard_normal_and_come_back(digits):
    z = digits.to_normal(digits.train)
    assert stats.kstest(z.ravel(), "norm").statistic < 0.01
    assert max(stats.kstest(pixel, "norm").statistic for pixel in z.T) < 0.07
    for images in (digits.train, digits.held_out):
        one, other = (digits.to_normal(images) for _ in range(2))
        assert np.array_equal(digits.to_levels(one), images) and np.array_equal(digits.to_levels(other), images)
        assert (one != other).all()  # fresh noise
    assert np.array_equal(digits.to_levels(np.full((1, 64), 99.0)), np.full((1, 64), 16))


def test_bits_per_pixel_of_models_with_known_ones(digits):
    frequencies = np.stack([(digits.train == level).sum(0) + 0.5 for level in range(17)]) / (1347 + 17 / 2)
    each = -np.log2(np.take_along_axis(frequencies, digits.held_out, axis=0))
    independent = digits.bits_per_pixel(lambda z: stats.norm.logpdf(z).sum(1))
    assert independent == pytest.approx(each.mean(), rel=1e-12)

    def all_levels_alike(z):
        used = np.take_along_axis(frequencies, digits.to_levels(z), axis=0)
        return (stats.norm.logpdf(z) - np.log(17 * used)).sum(1)

    assert digits.bits_per_pixel(all_levels_alike) == pytest.approx(np.log2(17), rel=1e-12)
