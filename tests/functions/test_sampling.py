"""Part I, Task 1: samplers and true densities against closed forms and independent quadrature."""

import numpy as np
import pytest
from scipy import integrate, stats

from reference import MEANS, mixture


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


def test_mixture_density(nb):
    x = np.random.default_rng(0).normal(1, 2, (50, 2))
    np.testing.assert_allclose(nb.gaussian_mixture_density(x, 0.5, MEANS), mixture(x, 0.5), rtol=1e-12)


@pytest.mark.parametrize("ring, sector", [((0, 0.5), (-3.1, -1.0)), ((0.5, 2), (0.3, 2.0)), ((1, 4), (-1, -0.2)),
                                          ((4, 8), (2.5, 3.1)), ((4, 8), (-1, -0.2)),
                                          ((0, 9), (0, 3.1))])
def test_spiral_density_integrates_to_the_probability_of_a_sector(nb, ring, sector):
    def density(phi, rho):
        return nb.spiral_density([[rho * np.cos(phi), rho * np.sin(phi)]])[0] * rho

    integral = integrate.dblquad(density, max(ring[0], 1e-9), ring[1], *sector, epsabs=1e-7)[0]
    theta = (np.arange(400_000) + 0.5) * 4 * np.pi / 400_000
    probability = 0
    for sign in (1, -1):  # r > 0 lies at angle θ, r < 0 at θ + π
        angle = theta if sign > 0 else theta + np.pi
        here = (angle - sector[0]) % (2 * np.pi) < sector[1] - sector[0]
        low, high = sorted((sign * ring[0], sign * ring[1]))
        probability += (here * (stats.norm.cdf(high, theta / 2, 0.5) - stats.norm.cdf(low, theta / 2, 0.5))).mean()
    assert integral == pytest.approx(probability, abs=2e-5)


def test_spiral_density_at_the_origin_is_infinite(nb):
    assert np.isposinf(nb.spiral_density([[0.0, 0.0]])[0])


@pytest.mark.parametrize("name, call", [
    ("num_samples", lambda nb, rng: nb.sample_gaussian_mixture(0, 1, MEANS, rng)),
    ("num_samples", lambda nb, rng: nb.sample_spiral(2.5, rng)),
    ("sigma", lambda nb, rng: nb.sample_gaussian_mixture(5, 0, MEANS, rng)),
    ("sigma", lambda nb, rng: nb.sample_gaussian_mixture(5, np.nan, MEANS, rng)),
    ("means", lambda nb, rng: nb.sample_gaussian_mixture(5, 1, [1, 2], rng)),
    ("means", lambda nb, rng: nb.sample_gaussian_mixture(5, 1, np.empty((0, 2)), rng)),
    ("rng", lambda nb, rng: nb.sample_spiral(5, 0)),
    ("x", lambda nb, rng: nb.spiral_density([1, 2])),
    ("x", lambda nb, rng: nb.spiral_density([[np.nan, 2]])),
    ("x", lambda nb, rng: nb.gaussian_mixture_density([[1, 2, 3]], 1, MEANS)),
    ("sigma", lambda nb, rng: nb.gaussian_mixture_density([[1, 2]], -1, MEANS)),
])
def test_bad_input_is_named(nb, name, call):
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        call(nb, np.random.default_rng(0))
