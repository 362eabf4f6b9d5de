"""Wrong samples or true densities: Part I, Tasks 1 and 3 (mixtures, spiral), and Part II, Task 1 (toy datasets)."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import i0e
from sklearn.datasets import make_blobs, make_circles, make_moons

from reference import MEANS, mixture


def test_mixture_components_are_drawn_not_dealt(nb):
    # Dealing out N/M to each component gives no variance at all; drawing gives N p (1 - p) = 75.
    counts = [(nb.sample_gaussian_mixture(400, 1e-3, MEANS, np.random.default_rng(seed)).sum(1) < 1).sum()
              for seed in range(300)]
    assert 55 < np.var(counts) < 100


def in_sector(low, high, start, end):
    """P(the spiral's point has a radius in (low, high) and an angle in (start, end)), by its definition."""
    theta, p = (np.arange(400_000) + 0.5) * 4 * np.pi / 400_000, 0
    for sign, angle in ((1, theta), (-1, theta + np.pi)):  # r > 0 lies at angle θ, r < 0 at θ + π
        r = stats.norm(sign * theta / 2, 0.5)
        p += (((angle - start) % (2 * np.pi) < end - start) * (r.cdf(high) - r.cdf(low))).mean()
    return p


SECTORS = [(0, 0.5, -3.1, -1.0), (0.5, 2, 0.3, 2.0), (1, 4, -1, -0.2), (4, 8, 2.5, 3.1), (0, 9, 0, 3.1)]


@pytest.mark.parametrize("sector", SECTORS)
def test_spiral_samples_and_density_have_the_probability_of_a_sector(nb, sector):
    low, high, start, end = sector
    expected, x = in_sector(*sector), nb.sample_spiral(100_000, np.random.default_rng(0))
    radius, angle = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0])
    inside = (low < radius) & (radius < high) & (start < angle) & (angle < end)
    assert abs(inside.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / len(x))

    def density(phi, rho):
        return nb.spiral_density([[rho * np.cos(phi), rho * np.sin(phi)]])[0] * rho

    integral, _ = integrate.dblquad(density, max(low, 1e-9), high, start, end, epsabs=1e-6)
    assert integral == pytest.approx(expected, abs=2e-5)


def test_spiral_density_at_the_origin_has_no_bound_and_far_out_is_0(nb):
    near, far = nb.spiral_density([[0, 0], [1e100, -1e100]])
    assert near > 1e300 and far == 0


@pytest.mark.parametrize("weights", [1, [0.1, 2, 0, 0.4]])
def test_mixture_density(nb, weights):
    x = np.random.default_rng(0).normal(1, 2, (50, 2))
    expected = mixture(x, 0.7, weights=np.broadcast_to(weights, 4))
    with np.errstate(divide="ignore"):  # the logarithm of a weight of 0
        np.testing.assert_allclose(np.exp(nb.log_mixture_density(x, 0.7, MEANS, weights)), expected, rtol=1e-12)
    if weights == 1:
        np.testing.assert_allclose(nb.gaussian_mixture_density(x, 0.7, MEANS), expected, rtol=1e-12)


# The toy datasets ------------------------------------------------------------------------


def ring(num_gaussians):
    """Centres of the Gaussians in a ring: (num_gaussians, 2)."""
    angles = 2 * np.pi * np.arange(num_gaussians) / num_gaussians
    return 2.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.mark.parametrize("n, seed", [(1000, 0), (17, 5)])
def test_the_assignments_calls_give_the_same_arrays(nb, n, seed):
    expected = {
        "Circles": make_circles(n, noise=0.1, factor=0.8, random_state=seed)[0],
        "Moons": make_moons(n, noise=0.1, random_state=seed)[0],
        "GaussiansGrid": make_blobs(n, centers=MEANS, cluster_std=0.5, random_state=seed)[0],
        "GaussiansRot": make_blobs(n, centers=ring(3), cluster_std=np.sqrt(0.1), random_state=seed)[0]}
    for name, points in expected.items():
        np.testing.assert_allclose(nb.sample_2d_datasets(name, n, seed, num_gaussians=3), points, rtol=0, atol=1e-15)


def test_defaults_and_items_of_a_dataset(nb):
    points, data = nb.sample_2d_datasets("GaussiansRot", 1000, 0, num_gaussians=5), nb.ToyDataset("GaussiansRot")
    assert np.array_equal(points, nb.sample_2d_datasets("GaussiansRot"))
    assert len(data) == 1000 and data[7].dtype == torch.float32 and data[7].shape == (2,)
    np.testing.assert_allclose(data[7], points[7], rtol=1e-6)


def circles(x, noise=0.1):
    """A circle of radius a smeared by noise has a Bessel function for its density, here in its scaled form."""
    rho = np.hypot(*x.T)
    each = [np.exp(-((rho - a) ** 2) / (2 * noise**2)) * i0e(rho * a / noise**2) for a in (1, 0.8)]
    return np.mean(each, axis=0) / (2 * np.pi * noise**2)


def moons(x):
    """Simpson's rule with many points on the two arcs, each smeared."""
    t = np.linspace(0, np.pi, 20_001)
    arc = np.stack([np.cos(t), np.sin(t)], 1)
    each = [[stats.multivariate_normal(point, 0.01 * np.eye(2)).pdf(curve) for curve in (arc, [1, 0.5] - arc)]
            for point in x]
    return integrate.simpson(each, x=t).mean(1) / np.pi


TRUTHS = {"Circles": circles, "Moons": moons, "GaussiansGrid": lambda x: mixture(x, 0.5),
          "GaussiansRot": lambda x: mixture(x, 0.1**0.5, ring(7))}


@pytest.mark.parametrize("name", TRUTHS)
def test_true_density(nb, name):
    x = np.random.default_rng(0).uniform(-2, 2.5, size=(80, 2))
    np.testing.assert_allclose(np.exp(nb.true_log_density(name, x, 7)), TRUTHS[name](x), rtol=1e-10, atol=1e-13)
    log_p = nb.true_log_density(name, np.array([[1e3, 0], [-1e6, 1e6], [1e100, 1e100]]))
    assert np.isfinite(log_p).all() and (np.diff(log_p) < 0).all()  # where the density itself is 0


def test_unknown_dataset_is_refused(nb):
    for draw in (nb.sample_2d_datasets, nb.ToyDataset):
        with pytest.raises(ValueError, match="^dist_type: expected one of Circles, Moons, .*, got 'moons'"):
            draw("moons")


# What would be a wrong number without a word ------------------------------------------------------------------------

DENSITIES = {"log_mixture_density": (0.5, MEANS), "gaussian_mixture_density": (0.5, MEANS), "spiral_density": ()}


@pytest.mark.parametrize("name", DENSITIES)
def test_what_are_no_points_is_refused(nb, name):
    masked = np.ma.masked_array(MEANS, [[True, False]] * 4)
    for x in (masked, [[np.nan, 0]], [0, 1], np.zeros((2, 3, 2)), np.zeros((3, 1)), np.zeros((3, 3))):
        with pytest.raises(ValueError, match=r"^x: expected finite numbers of shape \(None, 2\), no mask"):
            getattr(nb, name)(x, *DENSITIES[name])
    for means in ([1, 2], [[1], [2]], masked) if DENSITIES[name] else ():
        with pytest.raises(ValueError, match="^means: expected"):
            getattr(nb, name)(MEANS, 1, means)
