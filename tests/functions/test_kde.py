"""Part I, Tasks 2 and 3: the estimator against SciPy, scikit-learn, brute force and invariants; the exact MISE."""

import tracemalloc

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


@pytest.mark.parametrize("H", BANDWIDTHS_2D)
def test_far_away_data_cost_no_digits(nb, points, H):
    x, samples = np.round(points[0] * 1024) / 1024, np.round(points[1] * 1024) / 1024  # exact, also beside a large number
    def both(x, samples):
        return [nb.kernel_density_estimate(x, samples, H), np.diag(nb.kernel_density_on_grid(*x.T, samples, H))]

    for here in both(x, samples):
        for found in both(x + 2.0**27, samples + 2.0**27):
            np.testing.assert_allclose(found, here, rtol=1e-12)
        for found in both(x, np.concatenate([samples, [[1e20, -1e20]]])):
            np.testing.assert_allclose(found * 601, here * 600, rtol=1e-12)


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
        assert extra_memory(nb.kernel_density_estimate, x, samples, BANDWIDTHS_2D[-1]) < 10 * many.nbytes
    for xs, samples in ((axis[:50], many), (axis, few)):
        assert extra_memory(nb.kernel_density_on_grid, xs, few[0], samples, np.eye(2)) < 20 * many.nbytes
    assert extra_memory(nb.log_mixture_density, many, 0.1, few) < 10 * many.nbytes


def test_inputs_of_other_kinds_give_the_same(nb, points):
    x, samples = np.abs(np.round(points[0] * 3)), np.abs(np.round(points[1] * 3))
    expected, on_grid = nb.kernel_density_estimate(x, samples, np.eye(2)), nb.kernel_density_on_grid(*x.T, samples, np.eye(2))
    read_only = samples.copy()
    read_only.flags.writeable = False
    for given in (samples.astype(int), samples.astype(np.uint8), samples.tolist(), np.asfortranarray(samples), read_only):
        before = np.array(given)
        np.testing.assert_allclose(nb.kernel_density_estimate(x.astype(np.uint8), given, [[1, 0], [0, 1]]), expected, rtol=1e-12)
        np.testing.assert_allclose(nb.kernel_density_on_grid(*x.astype(np.uint8).T, given, [[1, 0], [0, 1]]), on_grid, rtol=1e-12)
        assert np.array_equal(before, given)
    assert nb.kernel_density_estimate(np.empty((0, 2)), samples, np.eye(2)).shape == (0,)


MASKED = np.ma.masked_array([[0.0, 0.0], [5.0, 5.0]], [[False, False], [True, True]])


@pytest.mark.parametrize("name, x, samples, H", [
    ("x", [1, 2], [[0, 0]], np.eye(2)),
    ("x", [[np.inf, 0]], [[0, 0]], np.eye(2)),
    ("x", MASKED, [[0, 0]], np.eye(2)),
    ("samples", [[1, 2]], [0, 0], np.eye(2)),
    ("samples", [[1, 2]], [[np.nan, 0]], np.eye(2)),
    ("samples", [[1, 2]], MASKED, np.eye(2)),
    ("samples", [[1, 2]], [[1, 2, 3]], np.eye(2)),
    ("samples", [[1, 2]], np.empty((0, 2)), np.eye(2)),
    ("H", [[1, 2]], [[0, 0]], np.eye(3)),
    ("H", [[1, 2]], [[0, 0]], [[1, 1]]),
    ("H", [[1, 2]], [[0, 0]], 0.5),
    ("H", [[1, 2]], [[0, 0]], np.zeros((2, 2))),
    ("H", [[1, 2]], [[0, 0]], np.diag([1, 0])),
    ("H", [[1, 2]], [[0, 0]], [[0.1, 0.2], [0.3, 0.6]]),
    ("H", [[1, 2]], [[0, 0]], [[np.nan, 0], [0, 1]]),
    ("H", [[1, 2]], [[0, 0]], np.ma.masked_array(np.eye(2), np.eye(2) == 0)),
])
def test_what_would_be_silently_wrong_is_refused_by_name(nb, name, x, samples, H):
    with pytest.raises(ValueError, match=rf"^(samples, )?{name}(, H)?: expected"):
        nb.kernel_density_estimate(x, samples, H)
    if name != "x":
        with pytest.raises(ValueError, match=rf"^(samples, )?{name}(, H)?: expected"):
            nb.kernel_density_on_grid([0, 1], [0, 1], samples, H)


@pytest.mark.parametrize("bad", [[np.nan], [[0]], np.ma.masked_array([1.0], [True])], ids=str)
def test_a_grids_axes_are_refused_by_name(nb, bad):
    for name, axes in (("xs", (bad, [0])), ("ys", ([0], bad))):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            nb.kernel_density_on_grid(*axes, [[0, 0]], np.eye(2))


@pytest.mark.parametrize("h, sigma", [(0.3, 0.5), (0.1, 1.0)])
def test_exact_mise_against_quadrature(nb, h, sigma):
    # E f̂ is the mixture smoothed by N(0, h² I), and E f̂² follows from E K²: both are integrated on a fine grid.
    axis, n = np.linspace(-6, 8, 521), 50
    area = (axis[1] - axis[0]) ** 2
    f, mean, mean_of_half = (mixture(plane(axis), sigma, extra=extra * np.eye(2)) for extra in (0, h**2, h**2 / 2))
    second_moment = mean_of_half / (4 * np.pi * h**2)  # K² is a normal density too
    bias2, variance = nb.exact_mise(h, sigma, n)
    assert bias2 == pytest.approx(((mean - f) ** 2).sum() * area, rel=1e-6)
    assert variance == pytest.approx((second_moment - mean**2).sum() * area / n, rel=1e-6)
    with np.errstate(invalid="ignore"):
        assert np.isnan(nb.exact_mise(np.nan, sigma, n)).all() and np.isnan(nb.exact_mise(h, np.nan, n)).all()


def test_total_variation_of_two_normals(nb):
    grid = nb.Grid(-8, -8, 17, 400)
    p, q = (grid.values(stats.multivariate_normal([m, 0], np.eye(2)).pdf) for m in (0, 1))
    assert nb.total_variation(p, q, grid) == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=1e-4)
    assert nb.total_variation(p, p, grid) == pytest.approx(0, abs=1e-9)
    assert nb.total_variation(p / 2, p / 2, grid) == pytest.approx(0.5, abs=1e-9)  # mass outside of the window


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_lowest_is_where_the_function_is_least_from_any_start(nb, scale):
    assert nb.lowest(lambda h: np.log(h / (0.3 * scale)) ** 2, 10 * scale) == pytest.approx(0.3 * scale, rel=2e-3)


def test_grid_orientation(nb):
    # A blob off the diagonal has to show up where it is, in the array and in the picture.
    grid = nb.Grid(-1, 3, 10, 40)
    density = grid.values(stats.multivariate_normal([7, 5], 0.1 * np.eye(2)).pdf)
    i, j = np.unravel_index(density.argmax(), density.shape)
    assert grid.extent == (-1, 9, 3, 13) and abs(grid.xs[i] - 7) < 0.2 and abs(grid.ys[j] - 5) < 0.2
    assert density.sum() * grid.area == pytest.approx(1, abs=1e-6)
    fig = nb.plot_density(["truth"], {"title": (grid, [density])})
    image, = fig.axes[0].images
    row, column = np.unravel_index(image.get_array().argmax(), image.get_array().shape)
    left, right, bottom, top = image.get_extent()
    assert image.origin == "lower"
    assert left + (column + 0.5) / 40 * (right - left) == pytest.approx(7, abs=0.2)
    assert bottom + (row + 0.5) / 40 * (top - bottom) == pytest.approx(5, abs=0.2)
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
