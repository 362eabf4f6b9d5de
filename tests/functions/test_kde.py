"""Part I, Tasks 2 and 3: the estimator against SciPy, scikit-learn, brute force and invariants; the exact MISE."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.neighbors import KernelDensity

from reference import kernel_estimate, log_kernel_estimate, mixture, plane

BANDWIDTHS_2D = [0.3 * np.eye(2), np.diag([0.2, 1.5]), np.diag([-0.2, 0.7]), np.array([[0.0, 0.4], [0.9, 0.0]]),
                 np.array([[0.5, 0.3], [-0.2, 0.4]]), np.array([[0.3, 1.0], [0.2, -0.4]])]


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    return rng.normal(size=(70, 2)), rng.normal(size=(600, 2)) * [1, 2] + [0.5, -1]


@pytest.mark.parametrize("H", BANDWIDTHS_2D)
def test_definition(nb, points, H):
    np.testing.assert_allclose(nb.kernel_density_estimate(*points, H), kernel_estimate(*points, H), rtol=1e-12)


@pytest.mark.parametrize("d", [1, 3, 5])
def test_other_dimensions(nb, d):
    rng = np.random.default_rng(d)
    x, samples, H = rng.normal(size=(40, d)), rng.normal(size=(300, d)), rng.normal(size=(d, d)) + 2 * np.eye(d)
    np.testing.assert_allclose(nb.kernel_density_estimate(x, samples, H), kernel_estimate(x, samples, H), rtol=1e-12)


def test_scipy_and_scikit_learn(nb, points):
    x, samples = points
    kde = stats.gaussian_kde(samples.T, bw_method=0.3)
    H = np.linalg.cholesky(kde.covariance)
    np.testing.assert_allclose(nb.kernel_density_estimate(x, samples, H), kde(x.T), rtol=1e-12)
    theirs = np.exp(KernelDensity(bandwidth=0.4, rtol=0).fit(samples).score_samples(x))
    np.testing.assert_allclose(nb.kernel_density_estimate(x, samples, 0.4 * np.eye(2)), theirs, rtol=1e-10)


@pytest.mark.parametrize("H", BANDWIDTHS_2D)
def test_grid_gives_the_same_values_in_the_same_places(nb, points, H):
    xs, ys = np.linspace(-2, 3, 17), np.linspace(-5, 4, 23)  # not square: a transposed grid cannot pass
    on_grid = nb.kernel_density_on_grid(xs, ys, points[1], H)
    assert on_grid.shape == (17, 23)
    for i, j in ((0, 0), (3, 20), (16, 5)):
        assert on_grid[i, j] == pytest.approx(kernel_estimate(np.array([[xs[i], ys[j]]]), points[1], H)[0], rel=1e-12)
    np.testing.assert_allclose(on_grid.ravel(), nb.kernel_density_estimate(plane(xs, ys), points[1], H), rtol=1e-12)


@pytest.mark.parametrize("H", BANDWIDTHS_2D)
def test_total_mass(nb, points, H):
    xs = np.linspace(-16, 16, 321)
    assert nb.kernel_density_on_grid(xs, xs, points[1], H).sum() * 0.1**2 == pytest.approx(1, abs=1e-6)


def test_additive_over_splits_of_the_data(nb, points):
    x, samples = points
    H = BANDWIDTHS_2D[-1]
    parts = 100 * nb.kernel_density_estimate(x, samples[:100], H) + 500 * nb.kernel_density_estimate(x, samples[100:], H)
    np.testing.assert_allclose(nb.kernel_density_estimate(x, samples, H), parts / 600, rtol=1e-12)


def test_equivariance(nb, points):
    x, samples = points
    A, H = np.array([[2.0, 1.0], [0.5, -1.0]]), BANDWIDTHS_2D[1]
    moved = nb.kernel_density_estimate(x @ A.T + 3, samples @ A.T + 3, A @ H) * abs(np.linalg.det(A))
    np.testing.assert_allclose(moved, nb.kernel_density_estimate(x, samples, H), rtol=1e-10)


def test_far_tail_and_extreme_bandwidths(nb):
    sample = np.zeros((1, 2))
    tail = nb.kernel_density_estimate([[0, 37.0]], sample, np.eye(2))[0]
    assert tail == pytest.approx(np.exp(-(37.0**2) / 2) / (2 * np.pi), rel=1e-11)
    assert nb.kernel_density_estimate([[0, 1e6]], sample, np.eye(2))[0] == 0
    for h in (1e-150, 1e-8, 1e8, 1e150):
        for value in (nb.kernel_density_estimate([[0, h]], sample, h * np.eye(2))[0],
                      nb.kernel_density_on_grid([0], [h], sample, h * np.eye(2))[0, 0]):
            assert value == pytest.approx(np.exp(-0.5) / (2 * np.pi) / h / h, rel=1e-10)


def test_offset_data_lose_no_precision(nb, points):
    x, samples = points
    shift = 2.0**20  # exactly representable, so that the true answer does not move
    x, samples = np.round(x * 1024) / 1024, np.round(samples * 1024) / 1024
    for H in BANDWIDTHS_2D:
        here = nb.kernel_density_estimate(x, samples, H)
        np.testing.assert_allclose(nb.kernel_density_estimate(x + shift, samples + shift, H), here, rtol=1e-12)


def test_inputs_of_other_kinds_give_the_same(nb, points):
    x, samples = np.round(points[0] * 3), np.round(points[1] * 3)
    expected = nb.kernel_density_estimate(x, samples, np.eye(2))
    read_only = samples.copy()
    read_only.flags.writeable = False
    for given in (samples.astype(int), samples.tolist(), np.asfortranarray(samples), samples[::-1], read_only):
        before = np.array(given)
        np.testing.assert_allclose(nb.kernel_density_estimate(x.astype(int), given, [[1, 0], [0, 1]]), expected, rtol=1e-12)
        assert np.array_equal(before, given)
    assert nb.kernel_density_estimate(np.empty((0, 2)), samples, np.eye(2)).shape == (0,)


@pytest.mark.parametrize("name, x, samples, H", [
    ("x", [1, 2], [[0, 0]], np.eye(2)),
    ("x", [[1, 2, 3]], [[0, 0]], np.eye(2)),
    ("x", [[np.inf, 0]], [[0, 0]], np.eye(2)),
    ("x", [["a", "b"]], [[0, 0]], np.eye(2)),
    ("x", [[1j, 0]], [[0, 0]], np.eye(2)),
    ("samples", [[1, 2]], [0, 0], np.eye(2)),
    ("samples", [[1, 2]], [[np.nan, 0]], np.eye(2)),
    ("samples", [[1, 2]], np.empty((0, 2)), np.eye(2)),
    ("H", [[1, 2]], [[0, 0]], np.eye(3)),
    ("H", [[1, 2]], [[0, 0]], 0.5),
    ("H", [[1, 2]], [[0, 0]], np.zeros((2, 2))),
    ("H", [[1, 2]], [[0, 0]], [[0.1, 0.2], [0.3, 0.6]]),
    ("H", [[1, 2]], [[0, 0]], [[np.nan, 0], [0, 1]]),
])
def test_bad_input_is_named(nb, name, x, samples, H):
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        nb.kernel_density_estimate(x, samples, H)
    if name != "x":
        with pytest.raises(ValueError, match=rf"^{name}: expected"):
            nb.kernel_density_on_grid([0, 1], [0, 1], samples, H)


def test_badly_scaled_but_regular_bandwidth_is_accepted(nb):
    assert nb.kernel_density_estimate([[0, 0]], [[0, 0]], np.diag([1e-200, 1]))[0] > 1e198


@pytest.mark.parametrize("H", [0.3 * np.eye(2), np.array([[0.4, 0.2], [0.0, 0.3]])])
def test_exact_mise_against_quadrature(nb, H):
    # E f̂ is the mixture smoothed by N(0, H Hᵀ), and E f̂² follows from E K²: both are integrated on a fine grid.
    sigma, means, n = 0.5, np.array([[0.0, 0.0], [1.0, 0.5]]), 50
    axis = np.linspace(-6, 7, 521)
    area = (axis[1] - axis[0]) ** 2
    f, mean, mean_of_half = (mixture(plane(axis), sigma, means, extra) for extra in (0, H @ H.T, H @ H.T / 2))
    second_moment = mean_of_half / (4 * np.pi * abs(np.linalg.det(H)))  # K² is a normal density too
    bias2, variance = nb.exact_mise(H, sigma, means, n)
    assert bias2 == pytest.approx(((mean - f) ** 2).sum() * area, rel=1e-6)
    assert variance == pytest.approx((second_moment - mean**2).sum() * area / n, rel=1e-6)


def test_total_variation_of_two_normals(nb):
    grid = nb.Grid((-8, 9), (-8, 8), 400)
    p, q = (grid.evaluate(stats.multivariate_normal([m, 0], np.eye(2)).pdf) for m in (0, 1))
    assert nb.total_variation(p, q, grid) == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=1e-4)
    assert nb.total_variation(p, p, grid) == pytest.approx(0, abs=1e-9)


def test_grid_orientation(nb):
    # A blob off the diagonal has to show up where it is, in the array and in the picture.
    grid = nb.Grid((0, 10), (0, 4), 40)
    density = grid.evaluate(stats.multivariate_normal([8, 1], 0.1 * np.eye(2)).pdf)
    i, j = np.unravel_index(density.argmax(), density.shape)
    assert abs(grid.xs[i] - 8) < 0.2 and abs(grid.ys[j] - 1) < 0.2
    fig, ax = nb.plt.subplots()
    image = nb.plot_density(ax, density, grid)
    row, column = np.unravel_index(image.get_array().argmax(), image.get_array().shape)
    left, right, bottom, top = image.get_extent()
    assert image.origin == "lower"
    assert left + (column + 0.5) / 40 * (right - left) == pytest.approx(8, abs=0.2)
    assert bottom + (row + 0.5) / 40 * (top - bottom) == pytest.approx(1, abs=0.2)
    nb.plt.close(fig)


@pytest.mark.parametrize("h", [0.1, 0.5])
def test_values_do_not_change_where_exponents_underflow(nb, h):
    """Most pairs are so far apart that their kernel is below the smallest float: the others count in full."""
    samples = np.random.default_rng(0).normal(size=(300, 2)) * [40 * h, 10 * h]
    xs, ys = np.linspace(-120 * h, 120 * h, 60), np.linspace(-90 * h, 90 * h, 50)
    points, H = plane(xs, ys), h * np.eye(2)
    log_density = log_kernel_estimate(points, samples, H).reshape(60, 50)
    high = log_density > np.log(1e-290)
    expected = np.exp(np.where(high, log_density, -np.inf))
    assert 300 < high.sum() < high.size - 300 and (cdist(points, samples, "sqeuclidean") / (2 * h**2) > 745).mean() > 0.3
    on_grid = nb.kernel_density_on_grid(xs, ys, samples, H)
    for found in (on_grid, nb.kernel_density_estimate(points, samples, H).reshape(high.shape)):
        np.testing.assert_allclose(found[high], expected[high], rtol=1e-12)
        assert ((found[~high] >= 0) & (found[~high] < 1.01e-290)).all()
