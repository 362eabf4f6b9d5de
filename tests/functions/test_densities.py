"""Samplers and true densities of all seven distributions, against closed forms, SciPy, quadrature and brute force."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import i0e

from reference import MEANS, TOY_SETS, mixture, plane, ring, toy_points


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_mixture_moments(nb, sigma):
    x = nb.sample_gaussian_mixture(200_000, sigma, MEANS, np.random.default_rng(0))
    np.testing.assert_allclose(x.mean(0), [1, 1], atol=5 * np.sqrt((sigma**2 + 1) / 200_000))
    np.testing.assert_allclose(np.cov(x.T), (sigma**2 + 1) * np.eye(2), atol=0.03)


def test_mixture_components_are_drawn_not_dealt(nb):
    # Dealing out N/M to each component gives no variance at all; drawing gives N p (1 - p) = 75.
    counts = [(nb.sample_gaussian_mixture(400, 1e-3, MEANS, np.random.default_rng(seed)).sum(1) < 1).sum()
              for seed in range(300)]
    assert 55 < np.var(counts) < 100


def test_same_generator_state_same_samples(nb):
    for draw in (lambda rng: nb.sample_gaussian_mixture(10, 1, MEANS, rng), lambda rng: nb.sample_spiral(10, rng)):
        assert np.array_equal(draw(np.random.default_rng(4)), draw(np.random.default_rng(4)))


def test_spiral_radius_and_moments(nb):
    x = nb.sample_spiral(100_000, np.random.default_rng(0))
    theta = np.linspace(0, 4 * np.pi, 20_001)

    def cdf(radius):  # P(|r| < radius), averaged over theta: sees the variance 0.25 and the range of theta
        inside = stats.norm.cdf(radius, theta / 2, 0.5) - stats.norm.cdf(-radius, theta / 2, 0.5)
        return integrate.trapezoid(inside, theta) / (4 * np.pi)

    radius = np.hypot(*x.T)
    for r in (0.2, 0.5, 1, 2, 4, 6):
        p = cdf(r)
        assert abs((radius < r).mean() - p) < 5 * np.sqrt(p * (1 - p) / len(x))
    # E[r sin θ] = E[θ sin θ]/2 = -1/2, E[r cos θ] = 0: sees a wrong direction, or |r| for r
    np.testing.assert_allclose(x.mean(0), [0, -0.5], atol=5 * radius.std() / np.sqrt(len(x)))


@pytest.mark.parametrize("weights", [1, [0.1, 2, 0, 0.4]])
def test_mixture_density(nb, weights):
    x = np.random.default_rng(0).normal(1, 2, (50, 2))
    each = [stats.multivariate_normal(mean, 0.49 * np.eye(2)).pdf(x) for mean in MEANS]
    expected = np.average(each, axis=0, weights=np.broadcast_to(weights, 4))
    with np.errstate(divide="ignore"):  # the logarithm of a weight of 0
        np.testing.assert_allclose(np.exp(nb.log_mixture_density(x, 0.7, MEANS, weights)), expected, rtol=1e-12)
    if weights == 1:
        np.testing.assert_allclose(nb.gaussian_mixture_density(x, 0.7, MEANS), expected, rtol=1e-12)


@pytest.mark.parametrize("ring, sector", [((0, 0.5), (-3.1, -1.0)), ((0.5, 2), (0.3, 2.0)), ((1, 4), (-1, -0.2)),
                                          ((4, 8), (2.5, 3.1)), ((0, 9), (0, 3.1))])
def test_spiral_density_integrates_to_the_probability_of_a_sector(nb, ring, sector):
    def density(phi, rho):
        return nb.spiral_density([[rho * np.cos(phi), rho * np.sin(phi)]])[0] * rho

    integral = integrate.dblquad(density, max(ring[0], 1e-9), ring[1], *sector, epsabs=1e-6)[0]
    theta = (np.arange(400_000) + 0.5) * 4 * np.pi / 400_000
    probability = 0
    for sign in (1, -1):  # r > 0 lies at angle θ, r < 0 at θ + π
        angle = theta if sign > 0 else theta + np.pi
        here = (angle - sector[0]) % (2 * np.pi) < sector[1] - sector[0]
        low, high = sorted((sign * ring[0], sign * ring[1]))
        probability += (here * (stats.norm.cdf(high, theta / 2, 0.5) - stats.norm.cdf(low, theta / 2, 0.5))).mean()
    assert integral == pytest.approx(probability, abs=2e-5)


def test_spiral_density_at_the_origin_has_no_bound_and_far_out_is_0(nb):
    near, far = nb.spiral_density([[0, 0], [1e100, -1e100]])
    assert near > 1e300 and far == 0


# The toy datasets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples, seed", [(1000, 0), (17, 5)])
def test_the_assignments_calls_give_the_same_arrays(nb, num_samples, seed):
    for name in TOY_SETS:
        ours = nb.sample_2d_datasets(name, num_samples, seed, num_gaussians=3)
        np.testing.assert_allclose(ours, toy_points(name, num_samples, seed, 3), rtol=0, atol=1e-15)


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
    each = [[stats.multivariate_normal(point, 0.01 * np.eye(2)).pdf(curve) for curve in (arc, [1, 0.5] - arc)] for point in x]
    return integrate.simpson(each, x=t).mean(1) / np.pi


TRUTHS = {"Circles": circles, "Moons": moons, "GaussiansGrid": lambda x: mixture(x, 0.5),
          "GaussiansRot": lambda x: mixture(x, 0.1**0.5, ring(7))}


@pytest.mark.parametrize("name", TRUTHS)
def test_true_density(nb, name):
    x = np.random.default_rng(0).uniform(-2, 2.5, size=(80, 2))
    np.testing.assert_allclose(np.exp(nb.true_log_density(name, x, 7)), TRUTHS[name](x), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", TOY_SETS)
def test_total_mass(nb, name):
    axis = np.linspace(-6, 6, 601)
    density = np.exp(nb.true_log_density(name, plane(axis))).reshape(601, 601)
    assert integrate.trapezoid(integrate.trapezoid(density, axis), axis) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", TOY_SETS)
def test_far_away_the_logarithm_holds(nb, name):
    log_p = nb.true_log_density(name, np.array([[1e3, 0], [-1e6, 1e6], [1e100, 1e100]]))
    assert np.isfinite(log_p).all() and (np.diff(log_p) < 0).all()


@pytest.mark.parametrize("call", ["sample_2d_datasets", "ToyDataset"])
def test_unknown_dataset_is_refused(nb, call):
    with pytest.raises(ValueError, match="^dist_type: expected one of Circles, Moons, .*, got 'moons'"):
        getattr(nb, call)("moons")
    with pytest.raises(KeyError, match="moons"):
        nb.true_log_density("moons", MEANS)


# What would be a wrong number without a word ---------------------------------------------------------------------------

DENSITIES = {"log_mixture_density": (0.5, MEANS), "gaussian_mixture_density": (0.5, MEANS), "spiral_density": ()}


@pytest.mark.parametrize("name", DENSITIES)
def test_what_is_no_point_is_refused(nb, name):
    masked = np.ma.masked_array(MEANS, [[True, False]] * 4)
    for x in (masked, [[np.nan, 0]], [0, 1], np.zeros((2, 3, 2))):
        with pytest.raises(ValueError, match=r"^x: expected finite numbers of shape \(None, 2\), no mask"):
            getattr(nb, name)(x, *DENSITIES[name])


@pytest.mark.parametrize("name", DENSITIES)
def test_points_and_means_of_other_shapes_are_refused(nb, name):
    for x in (np.zeros((3, 1)), np.zeros((3, 3))):  # a column would be taken for both coordinates, a third left out
        with pytest.raises(ValueError, match="^x: expected"):
            getattr(nb, name)(x, *DENSITIES[name])
    if DENSITIES[name]:
        for means in ([1, 2], [[1], [2]], np.ma.masked_array(MEANS, MEANS == 0)):
            with pytest.raises(ValueError, match="^means: expected"):
                getattr(nb, name)(MEANS, 1, means)


@pytest.mark.parametrize("name", DENSITIES)
def test_unsigned_integers_do_not_wrap_round(nb, name):
    x = np.array([[0, 1], [3, 2]])
    for given in (x.astype(np.uint8), x.astype(np.uint64), x.tolist()):
        found = getattr(nb, name)(given, *DENSITIES[name])
        np.testing.assert_array_equal(found, getattr(nb, name)(x.astype(float), *DENSITIES[name]))
