"""A wrong kernel estimate or measure of its error: Part I, Tasks 2 to 4."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from reference import log_kernel_estimate, mixture, plane

BANDWIDTHS = [0.3 * np.eye(2), np.diag([0.2, 1.5]), np.diag([-0.2, 0.7]), np.array([[0.0, 0.4], [0.9, 0.0]]),
              np.array([[0.5, 0.3], [-0.2, 0.4]]), np.array([[0.3, 1.0], [0.2, -0.4]])]
with_each_H = pytest.mark.parametrize("H", BANDWIDTHS, ids=lambda H: str(H.tolist()))


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    return rng.normal(size=(70, 2)), rng.normal(size=(600, 2)) * [1, 2] + [0.5, -1]


@with_each_H
def test_it_is_the_definition_at_points_and_on_grids(nb, points, H):
    x, samples = points
    expected = np.exp(log_kernel_estimate(x, samples, H))
    np.testing.assert_allclose(nb.kernel_density_estimate(x, samples, H), expected, rtol=1e-12)
    xs, ys = np.linspace(-2, 3, 17), np.linspace(-5, 4, 23)  # not square: a transposed grid cannot pass
    expected = np.exp(log_kernel_estimate(plane(xs, ys), samples, H)).reshape(17, 23)
    np.testing.assert_allclose(nb.kernel_density_on_grid(xs, ys, samples, H), expected, rtol=1e-12)


@pytest.mark.parametrize("d", [1, 3, 5])
def test_in_other_dimensions(nb, d):
    rng = np.random.default_rng(d)
    given = rng.normal(size=(40, d)), rng.normal(size=(300, d)), rng.normal(size=(d, d)) + 2 * np.eye(d)
    np.testing.assert_allclose(nb.kernel_density_estimate(*given), np.exp(log_kernel_estimate(*given)), rtol=1e-12)


@with_each_H
def test_far_away_data_cost_no_digits(nb, points, H):
    x, samples = (np.round(each * 1024) / 1024 for each in points)  # exact, also beside a large number

    def both(x, samples):
        return [nb.kernel_density_estimate(x, samples, H), np.diag(nb.kernel_density_on_grid(*x.T, samples, H))]

    for here in both(x, samples):
        for found in both(x + 2.0**27, samples + 2.0**27):
            np.testing.assert_allclose(found, here, rtol=1e-12)
        for found in both(x, np.concatenate([samples, [[1e20, -1e20]]])):
            np.testing.assert_allclose(found * 601, here * 600, rtol=1e-12)


@pytest.mark.parametrize("h", [1e-150, 1e-8, 1e8, 1e150])
def test_extreme_bandwidths(nb, h):
    sample, H, expected = np.zeros((1, 2)), h * np.eye(2), np.exp(-0.5) / (2 * np.pi) / h / h
    assert nb.kernel_density_estimate([[0, h]], sample, H)[0] == pytest.approx(expected, rel=1e-10)
    assert nb.kernel_density_on_grid([0], [h], sample, H)[0, 0] == pytest.approx(expected, rel=1e-10)


def extra_memory(function, *arguments):
    """The most bytes that a call holds beyond its arguments."""
    tracemalloc.start()
    function(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_bounded_in_points_and_samples(nb):
    few, many, axis = (np.random.default_rng(0).normal(size=shape) for shape in ((50, 2), (100_000, 2), 100_000))
    for x, samples in ((few, many), (many, few)):
        assert extra_memory(nb.kernel_density_estimate, x, samples, BANDWIDTHS[-1]) < 10 * many.nbytes
    for xs, samples in ((axis[:50], many), (axis, few)):
        assert extra_memory(nb.kernel_density_on_grid, xs, few[0], samples, np.eye(2)) < 20 * many.nbytes
    assert extra_memory(nb.log_mixture_density, many, 0.1, few) < 10 * many.nbytes


def test_inputs_of_other_kinds_give_the_same(nb, points):
    x, samples = (np.abs(np.round(each * 3)) for each in points)
    expected = nb.kernel_density_estimate(x, samples, np.eye(2))
    for given in (samples.astype(np.uint8), samples.tolist(), np.asfortranarray(samples)):
        at_points = nb.kernel_density_estimate(x.astype(np.uint8), given, [[1, 0], [0, 1]])
        on_grid = nb.kernel_density_on_grid(*x.astype(np.uint8).T, given, [[1, 0], [0, 1]])
        for found in (at_points, np.diag(on_grid)):
            np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert nb.kernel_density_estimate(np.empty((0, 2)), samples, np.eye(2)).shape == (0,)


MASKED = np.ma.masked_array([[0.0, 0.0], [5.0, 5.0]], [[False, False], [True, True]])
REFUSED = {
    "x": [[1, 2], [[np.inf, 0]], MASKED, [[1j, 0]], [["1", "2"]], None],
    "samples": [[0, 0], [[np.nan, 0]], MASKED, [[1, 2, 3]], np.empty((0, 2))],
    "H": [np.eye(3), [[1, 1]], 0.5, np.diag([1, 0]), [[0.1, 0.2], [0.3, 0.6]], [[np.nan, 0], [0, 1]],
          np.ma.masked_array(np.eye(2), np.eye(2) == 0), 1e-170 * np.eye(2)],
    "xs": [[np.nan], [[0]], np.ma.masked_array([1.0], [True])],
    "ys": [[np.nan], [[0]], np.ma.masked_array([1.0], [True])],
}


@pytest.mark.parametrize("name, bad", [(name, bad) for name, each in REFUSED.items() for bad in each], ids=str)
def test_what_would_be_silently_wrong_is_refused_by_name(nb, name, bad):
    given = {"x": [[1, 2]], "xs": [0, 1], "ys": [0, 1], "samples": [[0, 0]], "H": np.eye(2), name: bad}
    for function, names in (("estimate", ("x", "samples", "H")), ("on_grid", ("xs", "ys", "samples", "H"))):
        if name in names:
            with pytest.raises(ValueError, match=rf"^(samples, )?{name}(, H)?: expected"):
                getattr(nb, f"kernel_density_{function}")(*(given[each] for each in names))


# How far it is from the truth ------------------------------------------------------------------------


@pytest.mark.parametrize("h, sigma", [(0.3, 0.5), (0.1, 1.0)])
def test_exact_mise_is_what_quadrature_gives(nb, h, sigma):
    # E f̂ is the mixture smoothed by N(0, h² I), and E f̂² follows from E K²: both are integrated on a fine grid.
    axis, n = np.linspace(-6, 8, 521), 50
    area = (axis[1] - axis[0]) ** 2
    f, mean, mean_of_half = (mixture(plane(axis), np.sqrt(sigma**2 + extra)) for extra in (0, h**2, h**2 / 2))
    second_moment = mean_of_half / (4 * np.pi * h**2)  # K² is a normal density too
    bias2, variance = nb.exact_mise(h, sigma, n)
    assert bias2 == pytest.approx(((mean - f) ** 2).sum() * area, rel=1e-6)
    assert variance == pytest.approx((second_moment - mean**2).sum() * area / n, rel=1e-6)


def test_total_variation_of_two_normals(nb):
    grid = nb.Grid(-8, -8, 17, 400)
    p, q = (grid.values(stats.multivariate_normal([m, 0], np.eye(2)).pdf) for m in (0, 1))
    assert nb.total_variation(p, q, grid) == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=1e-4)
    assert nb.total_variation(p / 2, p / 2, grid) == pytest.approx(0.5, abs=1e-9)  # mass outside of the window


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_best_bandwidth_is_where_the_loss_is_least_from_any_start(nb, scale):
    least = 0.3 * scale
    assert nb.best_bandwidth(lambda h: np.log(h / least) ** 2, 10 * scale) == pytest.approx(least, rel=2e-3)
