"""Any input: the right answer, against an independent reference, or a ValueError that names the argument; never a warning."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reference import MEANS, TOY_SETS, kernel_estimate, log_normal, mixture, plane

settings.register_profile(
    "same everywhere",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("same everywhere")
pytestmark = pytest.mark.filterwarnings("error")


def dressed(array, how):
    """The same numbers in another dress: a list, read-only, not contiguous, float32 or whole numbers if they fit."""
    if how == "list":
        return array.tolist()
    if how == "strided":
        return np.repeat(array, 2, axis=0)[::2]
    if how == "Fortran":
        return np.asfortranarray(array)
    if how == "integers" and (array == np.round(array)).all() and (abs(array) < 2**40).all():
        return array.astype(np.int64)
    array = array.copy()
    array.flags.writeable = how != "read-only"
    return array


DRESSES = st.sampled_from(["list", "strided", "Fortran", "integers", "read-only", "as it is"])
SCALES = st.sampled_from([1e-150, 1e-8, 1e-3, 1.0, 1e3, 1e8, 1e150])


def plane_points(most=6, least=0):
    """Points of the plane, of about unit size."""
    return hnp.arrays(float, st.tuples(st.integers(least, most), st.just(2)), elements=st.floats(-4, 4, width=32))


ANYTHING = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.complex_numbers(),
    st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=2), st.lists(st.floats(), max_size=3)), max_size=3),
    hnp.arrays(
        st.one_of(hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.complex_number_dtypes(), hnp.boolean_dtypes()),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
    st.dictionaries(st.text(max_size=1), st.integers(), max_size=2),
    st.binary(max_size=2),
    st.builds(object),
)


def names_or_answers(call, names, is_answer):
    """The call gives an answer of the right form, or a ValueError that begins with one of the names."""
    try:
        result = call()
    except ValueError as error:
        assert str(error).startswith(tuple(f"{name}: expected" for name in names)), error
    else:
        assert is_answer(result), result


def no_nan(result):
    return not np.isnan(np.asarray(result, dtype=float)).any()


# Densities of Part I -------------------------------------------------------------------------------------------------


@given(plane_points(), plane_points(least=1), st.floats(-20, 20), st.floats(0.05, 20), DRESSES)
def test_mixture_density(nb, x, means, shift, sigma, how):
    found = nb.gaussian_mixture_density(dressed(x + shift, how) if len(x) else x, sigma, dressed(means, how))
    np.testing.assert_allclose(found, mixture(x + shift, sigma, means), rtol=1e-9, atol=1e-300)


@given(plane_points(least=1), SCALES)
def test_mixture_density_at_any_scale(nb, x, scale):
    # p(x; σ, μ) scales like 1/σ²: all lengths together may be tiny or huge, and far away the density is 0.
    unit = nb.gaussian_mixture_density(x, 1.0, MEANS)
    if scale == 1e150:
        scale = 1e140  # 1/σ² is to stay a normal number
    found = nb.gaussian_mixture_density(x * scale, scale, MEANS * scale)
    np.testing.assert_allclose(found * scale * scale, unit, rtol=1e-9)
    assert (nb.gaussian_mixture_density(x + 1e200, 1.0, MEANS) == 0).all()


@given(plane_points(), SCALES, DRESSES)
def test_spiral_density_anywhere(nb, x, scale, how):
    found = nb.spiral_density(dressed(x * scale, how) if len(x) else x)
    assert found.shape == (len(x),) and (found >= 0).all() and no_nan(found)
    assert (found[np.hypot(*(x * scale).T) > 60] == 0).all()


# Kernel density estimate ---------------------------------------------------------------------------------------------


@st.composite
def bandwidths(draw):
    """A well conditioned matrix of unit size, any orientation, diagonal or not."""
    a, b, angle = draw(st.floats(0.2, 2)), draw(st.floats(0.2, 2)), draw(st.sampled_from([0.0, 0.3, 1.0, 2.5]))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return rotation @ np.diag([a, draw(st.sampled_from([1, -1])) * b])


@given(plane_points(), plane_points(least=1), bandwidths(), SCALES, DRESSES)
def test_kernel_estimate_at_any_scale(nb, x, samples, H, scale, how):
    x, samples, H = x * scale, samples * scale, H * scale
    found = nb.kernel_density_estimate(dressed(x, how) if len(x) else x, dressed(samples, how), dressed(H, how))
    np.testing.assert_allclose(found, kernel_estimate(x, samples, H), rtol=1e-8, atol=0 if scale < 1e100 else 1e-320)


@given(st.floats(0, 38), st.sampled_from([1e-300, 1e-12, 1e-3, 1.0]))
def test_kernel_estimate_in_the_far_tail_and_at_tiny_h(nb, distance, h):
    log_density = -(distance**2) / 2 - math.log(2 * math.pi) - 2 * math.log(h)
    expected = math.exp(log_density) if log_density < 709 else math.inf
    if expected == math.inf or expected < 1e-300:
        return
    for found in (
        nb.kernel_density_estimate([[distance * h, 0]], [[0, 0]], [[h, 0], [0, h]])[0],
        nb.kernel_density_on_grid([distance * h], [0.0], [[0, 0]], [[h, 0], [0, h]])[0, 0],
    ):
        assert found == pytest.approx(expected, rel=1e-9)


@given(plane_points(), plane_points(least=1), bandwidths(), SCALES, DRESSES)
def test_estimate_on_a_grid_is_the_estimate_at_its_points(nb, ends, samples, H, scale, how):
    xs, ys, samples, H = ends[:, 0] * scale, ends[::2, 1] * scale, samples * scale, H * scale
    found = nb.kernel_density_on_grid(dressed(xs, how) if len(xs) else xs, ys, dressed(samples, how), H)
    expected = nb.kernel_density_estimate(plane(xs, ys), samples, H).reshape(len(xs), len(ys))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-290 if scale < 1e100 else 1e-320)


# True densities of the toy sets --------------------------------------------------------------------------------------


@given(st.sampled_from(TOY_SETS), plane_points(), SCALES, st.integers(1, 9), DRESSES)
def test_true_log_density_anywhere(nb, dist_type, x, scale, num_gaussians, how):
    x = x * scale
    found = nb.true_log_density(dist_type, dressed(x, how) if len(x) else x, num_gaussians)
    assert found.shape == (len(x),) and np.isfinite(found).all()
    near = np.hypot(*x.T) < 4
    if dist_type.startswith("Gaussians") and near.any():
        expected = np.log(mixture(x[near], nb.BLOB_SD[dist_type], nb.blob_centres(dist_type, num_gaussians)))
        np.testing.assert_allclose(found[near], expected, rtol=1e-9, atol=1e-9)


# Nonsense in every argument ------------------------------------------------------------------------------------------

CALLS = {  # function: arguments that are right
    "sample_gaussian_mixture": {"num_samples": 5, "sigma": 1.0, "means": MEANS, "rng": np.random.default_rng(0)},
    "sample_spiral": {"num_samples": 5, "rng": np.random.default_rng(0)},
    "gaussian_mixture_density": {"x": MEANS, "sigma": 1.0, "means": MEANS},
    "spiral_density": {"x": MEANS + 0.5},
    "kernel_density_estimate": {"x": MEANS, "samples": MEANS, "H": np.eye(2)},
    "kernel_density_on_grid": {"xs": [0.0, 1.0], "ys": [0.0], "samples": MEANS, "H": np.eye(2)},
    "sample_2d_datasets": {"dist_type": "Moons", "num_samples": 5, "seed": 0, "num_gaussians": 3},
    "true_log_density": {"dist_type": "GaussiansRot", "x": MEANS, "num_gaussians": 3},
}


@pytest.mark.parametrize("function, name", [(function, name) for function, arguments in CALLS.items() for name in arguments])
@given(value=ANYTHING)
def test_nonsense_in_one_argument(nb, function, name, value):
    # A wrong number of columns in samples or x can only show against the other argument: either may be named.
    names = {name, "x", "H"} if name == "samples" else {name}
    names_or_answers(lambda: getattr(nb, function)(**{**CALLS[function], name: value}), names, no_nan)


@given(value=ANYTHING, name=st.sampled_from(["dist_type", "num_samples", "seed", "num_gaussians"]))
def test_nonsense_for_a_dataset(nb, value, name):
    names_or_answers(lambda: nb.ToyDataset(**{**CALLS["sample_2d_datasets"], name: value}), {name}, len)


@given(value=ANYTHING)
def test_nonsense_for_a_layer_and_a_flow(nb, value):
    names_or_answers(lambda: nb.CouplingLayer(value), {"mask"}, lambda layer: False)
    names_or_answers(lambda: nb.CouplingFlow(value), {"num_layers"}, lambda flow: len(flow.layers) == value)
    names_or_answers(lambda: nb.CouplingFlow(2).sample_x(value), {"num_samples"}, lambda pair: pair[0].shape == (value, 2))
    names_or_answers(lambda: nb.CouplingFlow(2).sample_x_each_step(value), {"num_samples"}, lambda steps: len(steps) == 3)


def tensors():
    arrays = hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.bool_, np.complex64]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    )
    return st.one_of(ANYTHING, arrays.map(torch.from_numpy))


@given(value=tensors())
def test_nonsense_for_a_density_and_a_layers_methods(nb, value):
    flow = nb.CouplingFlow(2)
    with torch.no_grad():
        names_or_answers(
            lambda: flow.log_probability(value), {"x"}, lambda log_p: len(log_p) == len(value) and not log_p.isnan().any()
        )
        for name, method in (("x", flow.layers[0].forward), ("y", flow.layers[0].inverse)):
            names_or_answers(lambda method=method: method(value), {name}, lambda result: result[0].shape == value.shape)


@given(value=tensors())
def test_nonsense_for_to_np(nb, value):
    names_or_answers(lambda: nb.to_np(value), {"x"}, lambda array: array.shape == value.shape)


@given(value=ANYTHING, name=st.sampled_from(["model", "data", "epochs", "batch_size"]))
@settings(max_examples=120)
def test_nonsense_for_training(nb, value, name):
    arguments = {"model": nb.CouplingFlow(1), "data": nb.ToyDataset("Moons", 20), "epochs": 1, "batch_size": 8}
    names = {name, f"{name}s", "datasets"} if name == "data" else {name, f"{name}s"}
    names_or_answers(lambda: nb.train(**{**arguments, name: value}), names, lambda result: len(result) == 3)


@given(value=ANYTHING, name=st.sampled_from(["models", "datasets", "epochs", "batch_size", "generators"]))
@settings(max_examples=120)
def test_nonsense_for_training_together(nb, value, name):
    arguments = {"models": [nb.CouplingFlow(1)], "datasets": [nb.ToyDataset("Moons", 20)], "epochs": 1, "batch_size": 8}
    others = {"models": {"datasets"}, "datasets": {"data"}}.get(name, set())  # a list of another length shows in the next one
    names_or_answers(lambda: nb.train_together(**{**arguments, name: value}), {name} | others, lambda results: len(results) == 1)


# Flows far out -------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=8), st.sampled_from([torch.float32, torch.float64]))
def test_flow_of_fresh_layers_at_a_million(nb, values, dtype):
    # A fresh layer only shifts, so that the answer is known from the networks alone.
    torch.manual_seed(0)
    flow = nb.CouplingFlow(3).to(dtype)
    x = torch.tensor(values[: len(values) // 2 * 2], dtype=dtype).reshape(-1, 2)
    with torch.no_grad():
        z = x.clone()
        for layer in reversed(flow.layers):
            z = z - (1 - layer.mask) * layer.t_func(layer.mask * z)
        torch.testing.assert_close(flow.log_probability(x).double(), log_normal(z.double()), rtol=1e-5, atol=1e-4)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=8), st.integers(0, 5))
def test_trained_flow_far_out_is_a_number_or_minus_infinity(nb, values, seed):
    torch.manual_seed(seed)
    flow = nb.CouplingFlow(4)
    for layer in flow.layers:
        torch.nn.init.normal_(layer.scale_factor)
    x = torch.tensor(values[: len(values) // 2 * 2]).reshape(-1, 2)
    with torch.no_grad():
        log_p, in_double = flow.log_probability(x), flow.double().log_probability(x.double())
    assert not log_p.isnan().any() and not in_double.isnan().any()
    assert (log_p[in_double < -1e38] < -1e37).all()


@pytest.mark.parametrize("array", [np.zeros((3, 2)), np.zeros((0, 2)), [[0, 1]], [[0.5, 1.5]]], ids=str)
def test_arguments_are_not_changed(nb, array):
    before = np.array(array)
    nb.spiral_density(array)
    nb.kernel_density_estimate(array, MEANS, np.eye(2))
    nb.gaussian_mixture_density(array, 1, MEANS)
    assert np.array_equal(before, array)
