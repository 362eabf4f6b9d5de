"""Checks of Part II by the handout's names: toy datasets, coupling layer, coupling flow, training."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch

from grading import Fault, check, compare, near, numbers
from reference import MEANS, jacobian, log_abs_det, log_normal, normal, randomised, ring, toy_points

DATASETS = "Part II, Task 1 (toy datasets)"
LAYER = "Part II, Task 6 (coupling layer)"
FLOW = "Part II, Task 8 (coupling flow)"
TRAINING = "Part II, training"


@check(DATASETS, "the circles are the handout's, point by point", dist_type="Circles")
@check(DATASETS, "the moons are the handout's, point by point", dist_type="Moons")
@check(DATASETS, "the grid of Gaussians is the handout's, point by point", dist_type="GaussiansGrid")
@check(DATASETS, "the ring of Gaussians is the handout's, point by point", dist_type="GaussiansRot")
def same_points(sample_2d_datasets, dist_type):
    arguments = dist_type, 300, 4, 3

    def causes():
        variants = {
            "sigma² is used as the standard deviation": toy_points(*arguments, squared=True),
            "the spread around the shape is left out": toy_points(*arguments, spread=0),
            "the samples are not shuffled": toy_points(*arguments, shuffle=False),
            "seed is not used": toy_points(dist_type, 300, 0, 3),
            "num_gaussians is not used": toy_points(dist_type, 300, 4, 5),
        }
        return {cause: torch.from_numpy(variant) for cause, variant in variants.items()}

    drawn = numbers(dist_type, sample_2d_datasets(*arguments[:3], num_gaussians=3), 300, 2)
    compare(dist_type, drawn, torch.from_numpy(toy_points(*arguments)), causes)


@check(DATASETS, "the grid's blobs have the standard deviation 0.5", dist_type="GaussiansGrid", sd=0.5)
@check(DATASETS, "the ring's blobs have the standard deviation √0.1 = 0.316", dist_type="GaussiansRot", sd=math.sqrt(0.1))
def blob_spread(sample_2d_datasets, dist_type, sd):
    drawn = numbers(dist_type, sample_2d_datasets(dist_type, 20_000), 20_000, 2)
    centres = MEANS if dist_type == "GaussiansGrid" else ring(5)
    # Var x = sd² + Var(centres) in each direction: no need to know which blob a sample is from.
    squared = float((drawn.var(0) - torch.from_numpy(centres.var(0))).mean())
    measured = math.copysign(math.sqrt(abs(squared)), squared)
    if abs(measured - sd) > 0.05 * sd:
        cause = ": sigma² is used as the standard deviation" if abs(measured - sd**2) < 0.1 * sd**2 else ""
        raise Fault(f"the samples spread by {measured:.3f} around their centres, not by {sd:.3f}{cause}")


@check(DATASETS, "without other arguments there are 1000 samples with seed 0, and 5 Gaussians in the ring")
def default_arguments(sample_2d_datasets):
    drawn = numbers("GaussiansRot", sample_2d_datasets("GaussiansRot"), 1000, 2)
    compare("GaussiansRot", drawn, torch.from_numpy(toy_points("GaussiansRot", 1000, 0, 5)))


@check(DATASETS, "the name of an unknown dataset is refused")
def unknown_dataset(sample_2d_datasets):
    try:
        sample_2d_datasets("Squares")
    except Exception:
        return
    raise Fault("sample_2d_datasets('Squares') raises no error")


@check(DATASETS, "ToyDataset has num_samples items, each one sample as a float32 tensor")
def dataset_items(ToyDataset):
    data = ToyDataset("Moons", num_samples=50)
    if len(data) != 50:
        raise Fault(f"len() of 50 samples is {len(data)}")
    numbers("an item", data[7], 2)
    if getattr(data[7], "dtype", None) != torch.float32:
        raise Fault(f"an item is {getattr(data[7], 'dtype', type(data[7]).__name__)}, not a float32 tensor")


@check(DATASETS, "ToyDataset hands all its arguments on to sample_2d_datasets")
def dataset_arguments(ToyDataset, sample_2d_datasets):
    data = ToyDataset("GaussiansRot", 40, 3, 7)
    items = torch.stack([numbers("an item", data[i], 2) for i in range(40)])
    compare(
        "the items",
        items,
        numbers("samples", sample_2d_datasets("GaussiansRot", 40, 3, num_gaussians=7), 40, 2),
        otherwise="num_samples, seed or num_gaussians is not handed on",
    )


# Coupling layer ------------------------------------------------------------------------------------------------------

MASKS = ([1.0, 0.0], [0.0, 1.0])

DEVIATIONS = {
    "s is not masked, so it also scales the coordinate to keep": {"s_masked": False},
    "t is not masked, so it also shifts the coordinate to keep": {"t_masked": False},
    "scale_factor is forgotten": {"scaled": False},
    "s has the wrong sign": {"s_sign": -1},
    "t has the wrong sign": {"t_sign": -1},
    "shift and scale come in the wrong order": {"swapped": True},
    "s is not exponentiated": {"exponentiated": False},
    "s_func and t_func get the whole input instead of the masked one": {"seen": "all"},
    "s_func and t_func get the coordinate to transform instead of the one to keep": {"seen": "moved"},
    "the mask is used the wrong way round, as 1 marks what is kept": {"flipped": True},
}


def coupling(
    layer,
    mask,
    v,
    direction,
    s_masked=True,
    t_masked=True,
    scaled=True,
    s_sign=1,
    t_sign=1,
    swapped=False,
    exponentiated=True,
    seen="kept",
    flipped=False,
):
    """What a coupling layer with the notebook's own networks should give, or gives with a mistake: output, log-determinant."""
    mask = 1 - mask if flipped else mask
    inputs = {"kept": mask * v, "all": v, "moved": (1 - mask) * v}[seen]
    s = s_sign * layer.s_func(inputs) * (layer.scale_factor if scaled else 1) * (1 - mask if s_masked else 1)
    t = t_sign * layer.t_func(inputs) * (1 - mask if t_masked else 1)
    scale = s.exp() if exponentiated else s
    if direction == "forward":
        out = (v + t) * scale if swapped else v * scale + t
        return out.detach().double(), s.sum(-1).detach().double()
    out = v / scale - t if swapped else (v - t) / scale
    return out.detach().double(), -s.sum(-1).detach().double()


def deviations():
    """One or two mistakes at a time, as {words: arguments of `coupling`}."""
    singles = list(DEVIATIONS.items())
    return dict(singles) | {f"{a}, and {b}": first | second for (a, first), (b, second) in combinations(singles, 2)}


def random_layers(CouplingLayer):
    """(mask, randomised layer) for both masks of the plane."""
    return [(mask, randomised(CouplingLayer(mask.clone()))) for mask in map(torch.tensor, MASKS)]


def pair(what, value):
    if not isinstance(value, Sequence) or len(value) != 2:
        raise Fault(f"{what} returns a {type(value).__name__}, not a pair")
    return value


def per_sample(what, value, num):
    """One number per sample as (num,); a column will do, and one number for the whole batch is repeated."""
    value = torch.as_tensor(numbers(what, value, *getattr(value, "shape", ())))
    if value.numel() not in (1, num):
        raise Fault(f"{what} has the shape {tuple(value.shape)} for {num} samples, not ({num},)")
    return value.flatten().expand(num)


def attached(out):
    """The output, if autograd can follow it; else a Fault."""
    if not out.requires_grad:
        raise Fault("the output is cut off from autograd, by detach, no_grad or NumPy, and cannot be trained")
    return out


def mapped(layer, v, direction):
    """Output and log-determinant of the notebook's layer, shapes checked."""
    name = "log_det_jac" if direction == "forward" else "inv_log_det_jac"
    out, log_det = pair(direction, getattr(layer, direction)(v))
    return numbers(f"the output of {direction}", out, *v.shape), per_sample(name, log_det, len(v))


@check(LAYER, "the layer holds the fixed mask, s_func, t_func and scale_factor of the handout")
def layer_parts(CouplingLayer):
    mask = torch.tensor(MASKS[0])
    layer = CouplingLayer(mask)
    for name in ("mask", "s_func", "t_func", "scale_factor"):
        if not hasattr(layer, name):
            raise Fault(f"it has no {name}")
    compare("mask", numbers("mask", layer.mask, 2), mask.double(), otherwise="it is not the one given")
    if getattr(layer.mask, "requires_grad", False):
        raise Fault("the mask is learnable: it needs requires_grad=False")
    compare(
        "scale_factor", numbers("scale_factor", layer.scale_factor, 2), torch.zeros(2).double(), otherwise="it has to start at 0"
    )
    for name in ("s_func", "t_func"):
        kinds = [type(module).__name__ for module in getattr(layer, name).modules()]
        if kinds.count("Linear") != 3 or kinds.count("LeakyReLU") != 2:
            raise Fault(
                f"{name} has {kinds.count('Linear')} Linear layers and {kinds.count('LeakyReLU')} LeakyReLU, not 3 and 2"
            )


@check(LAYER, "a fresh layer, with scale_factor 0, shifts but does not scale")
def fresh_layer(CouplingLayer):
    layer, v, mask = CouplingLayer(torch.tensor(MASKS[0])), normal(9, 2), torch.tensor(MASKS[0])
    compare(
        "log_det_jac of a fresh layer",
        mapped(layer, v, "forward")[1],
        torch.zeros(9).double(),
        lambda: {"scale_factor is forgotten": coupling(layer, mask, v, "forward", scaled=False)[1]},
    )


@check(LAYER, "forward returns the coordinate with mask 1 as it came", direction="forward")
@check(LAYER, "inverse returns the coordinate with mask 1 as it came", direction="inverse")
def keeps(CouplingLayer, direction):
    compare_output(CouplingLayer, direction, 1)


@check(LAYER, "forward gives x · exp(s) + t in the coordinate with mask 0", direction="forward")
@check(LAYER, "inverse gives (y - t) · exp(-s) in the coordinate with mask 0", direction="inverse")
def transforms(CouplingLayer, direction):
    compare_output(CouplingLayer, direction, 0)


def compare_output(CouplingLayer, direction, mask_value):
    """Compare one coordinate with the formula; a mistake has to predict both coordinates, for both masks."""
    for mask, layer in random_layers(CouplingLayer):
        v, where = normal(9, 2), mask == mask_value
        out, expected = mapped(layer, v, direction)[0], coupling(layer, mask, v, direction)[0]
        if not near(out[:, where], expected[:, where]):
            compare(f"the coordinate with mask {mask_value}", out, expected, lambda: output_causes(layer, mask, v, direction))


def output_causes(layer, mask, v, direction):
    causes = {cause: coupling(layer, mask, v, direction, **deviation)[0] for cause, deviation in deviations().items()}
    other = "inverse" if direction == "forward" else "forward"
    return causes | {f"it is what {other} should do": coupling(layer, mask, v, other)[0]}


@check(LAYER, "log_det_jac is one number per sample", direction="forward")
@check(LAYER, "inv_log_det_jac is one number per sample", direction="inverse")
def log_det_shape(CouplingLayer, direction):
    for _, layer in random_layers(CouplingLayer):
        mapped(layer, normal(9, 2), direction)
        log_det = getattr(layer, direction)(normal(9, 2))[1]
        if not torch.is_tensor(log_det) or log_det.numel() == 1:
            raise Fault("it is one number for a batch of 9 samples: summed over the batch, not only over the coordinates")


@check(LAYER, "log_det_jac is log|det| of forward's Jacobian, as autograd has it", direction="forward")
@check(LAYER, "inv_log_det_jac is log|det| of inverse's Jacobian, as autograd has it", direction="inverse")
def log_det(CouplingLayer, direction):
    for mask, layer in random_layers(CouplingLayer):
        v = normal(9, 2)
        actual = mapped(layer, v, direction)[1]
        expected = log_abs_det(jacobian(lambda u: attached(getattr(layer, direction)(u)[0]), v))
        compare("the log-determinant", actual, expected, lambda: log_det_causes(layer, mask, v, direction, expected))


def log_det_causes(layer, mask, v, direction, expected):
    own = {cause: coupling(layer, mask, v, direction, **deviation)[1] for cause, deviation in deviations().items()}
    return {
        "it has the wrong sign": -expected,
        "it is summed over the batch as well, not only over the coordinates": expected.sum().expand(9),
        "it is the mean over the coordinates, not their sum": expected / 2,
        "it is the determinant, not its logarithm": expected.exp(),
        "it is always 0": torch.zeros(9).double(),
    } | {f"in it, {cause}": value for cause, value in own.items()}


@check(LAYER, "inverse undoes forward")
def round_trip(CouplingLayer):
    for mask, layer in random_layers(CouplingLayer):
        v = normal(9, 2)
        y = mapped(layer, v, "forward")[0].to(v.dtype)
        back, x = mapped(layer, y, "inverse")[0], v.double()
        causes = [
            f"in {direction}, {cause}"
            for direction, given, out in (("forward", v, y.double()), ("inverse", y, back))
            if not near(out, coupling(layer, mask, given, direction)[0])
            for cause, predicted in output_causes(layer, mask, given, direction).items()
            if near(out, predicted)
        ]
        compare(
            "inverse(forward(x)) - x", back - x, torch.zeros(9, 2).double(), otherwise="; ".join(causes[:2]) or "no usual mistake"
        )


@check(LAYER, "log_det_jac and inv_log_det_jac of the same sample are opposite")
def opposite_log_dets(CouplingLayer):
    for mask, layer in random_layers(CouplingLayer):
        v = normal(9, 2)
        y, log_det_jac = mapped(layer, v, "forward")
        inv_log_det_jac = mapped(layer, y.to(v.dtype), "inverse")[1]
        compare(
            "log_det_jac + inv_log_det_jac",
            log_det_jac + inv_log_det_jac,
            torch.zeros(9).double(),
            lambda: {
                "one of them has the wrong sign": 2 * coupling(layer, mask, v, "forward")[1],
                "both have the same, wrong sign": -2 * coupling(layer, mask, v, "forward")[1],
            },
            "they do not belong to the same s",
        )


@check(LAYER, "s_func, t_func and scale_factor get a gradient", direction="forward")
def layer_gradients(CouplingLayer, direction):
    for _, layer in random_layers(CouplingLayer):
        out, log_det = layer.forward(normal(9, 2))
        attached(out.square().sum() + log_det.sum()).backward()
        untouched = [
            name
            for name, parameter in layer.named_parameters()
            if name.partition(".")[0] in ("s_func", "t_func", "scale_factor")
            and (parameter.grad is None or not parameter.grad.any())
        ]
        if untouched:
            raise Fault(f"no gradient reaches {', '.join(untouched)}")


@check(LAYER, "the input is not changed", direction="forward")
@check(LAYER, "the input of inverse is not changed", direction="inverse")
def input_unchanged(CouplingLayer, direction):
    for _, layer in random_layers(CouplingLayer):
        v = normal(9, 2)
        mapped(layer, v, direction)
        compare("the input afterwards", v.double(), normal(9, 2).double(), otherwise="it is overwritten in place")


# Coupling flow -------------------------------------------------------------------------------------------------------

NUM_LAYERS = 4
MANY = 4000  # samples, where their distribution is judged
CHANCE = 5.5  # standard errors that chance does not reach


def random_flow(CouplingFlow):
    return randomised(CouplingFlow(NUM_LAYERS))


def run(layers, v, direction):
    """Pass v through layers one after another: the last output and the sum of the log-determinants."""
    total = torch.zeros(len(v)).double()
    for layer in layers:
        v, log_det = getattr(layer, direction)(v)
        total = total + per_sample("the log-determinant of a layer", log_det, len(v))
    return v, total


def run_back(flow, x):
    """z (float64) of samples x, and the sum of the inverse log-determinants, by the layers' own inverses."""
    z, total = run(reversed(flow.layers), x, "inverse")
    return z.detach().double(), total


@check(FLOW, "the flow has as many layers as asked for")
def number_of_layers(CouplingFlow):
    for num_layers in (1, 3, NUM_LAYERS):
        if len(CouplingFlow(num_layers).layers) != num_layers:
            raise Fault(f"CouplingFlow({num_layers}) has {len(CouplingFlow(num_layers).layers)} layers")


@check(FLOW, "the layers transform the two coordinates in turn")
def masks_alternate(CouplingFlow):
    v, changed = normal(50, 2), []
    for layer in random_flow(CouplingFlow).layers:
        out, _ = mapped(layer, v, "forward")
        changed.append([i + 1 for i in range(2) if not torch.equal(out[:, i].to(v.dtype), v[:, i])])
    if all(moved == changed[0] for moved in changed) and len(changed[0]) == 1:
        raise Fault(f"all {NUM_LAYERS} layers transform coordinate {changed[0][0]} only: the masks never alternate")
    if sorted(map(tuple, changed[:2])) != [(1,), (2,)] or changed != NUM_LAYERS // 2 * changed[:2]:
        each = ", ".join(" and ".join(map(str, moved)) or "none" for moved in changed)
        raise Fault(f"the layers transform the coordinates {each}, not 1 and 2 in turn")


@check(FLOW, "the prior is the standard normal distribution")
def standard_prior(CouplingFlow):
    z = normal(50, 2)
    log_prob = CouplingFlow(1).prior.log_prob(z)
    log_prob = log_prob.sum(-1) if log_prob.dim() == 2 else log_prob
    compare("log p(z)", numbers("log p(z)", log_prob, 50), log_normal(z).double())


@check(FLOW, "log_probability gives one number per sample")
def log_probability_shape(CouplingFlow):
    numbers("log_probability of 9 samples", random_flow(CouplingFlow).log_probability(normal(9, 2)), 9)


def log_probability_of(flow, x):
    return per_sample("log_probability", flow.log_probability(x), len(x))


@check(FLOW, "log_probability is log p(z) plus the inverse log-determinants, from the last layer to the first")
def log_probability_formula(CouplingFlow):
    flow, x = random_flow(CouplingFlow), normal(50, 2)
    z, total = run_back(flow, x)

    def causes():
        z_wrong, total_wrong = run(flow.layers, x, "inverse")
        z_ahead, total_ahead = run(flow.layers, x, "forward")
        return {
            "the layers are inverted in the wrong order, first to last": log_normal(z_wrong.detach().double()) + total_wrong,
            "the prior is evaluated at x instead of z": log_normal(x.double()) + total,
            "the log-determinants are subtracted": log_normal(z) - total,
            "the log-determinants are left out": log_normal(z),
            "log p(z) is left out": total,
            "the log-determinants are summed over the batch": log_normal(z) + total.sum(),
            "the layers run forward instead of being inverted": log_normal(z_ahead.detach().double()) + total_ahead,
            "it is minus the log-probability": -log_normal(z) - total,
        }

    compare("log_probability", log_probability_of(flow, x), log_normal(z) + total, causes)


@check(FLOW, "log_probability is log p(z) + log|det dz/dx|, as autograd has it")
def change_of_variables(CouplingFlow):
    flow, x = random_flow(CouplingFlow), normal(50, 2)
    z, _ = run_back(flow, x)
    true = log_abs_det(jacobian(lambda v: attached(run(reversed(flow.layers), v, "inverse")[0]), x))
    compare(
        "log_probability",
        log_probability_of(flow, x),
        log_normal(z) + true,
        lambda: {
            "the log-determinants of the layers have the wrong sign": log_normal(z) - true,
            "the log-determinants of the layers are summed over the batch": log_normal(z) + true.sum(),
            "the log-determinants are missing": log_normal(z),
        },
        "the layers' log-determinants (Task 6) or their order are wrong",
    )


@check(FLOW, "the density integrates to 1")
def total_mass(CouplingFlow):
    # A flow close to its start, so that a window that holds its mass is known.
    torch.manual_seed(0)
    flow = CouplingFlow(NUM_LAYERS)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith("scale_factor"):
                parameter.fill_(0.8)
    axis = torch.linspace(-12, 12, 161)
    plane = torch.cartesian_prod(axis, axis)
    mass = log_probability_of(flow, plane).exp().sum().item() * (axis[1] - axis[0]).item() ** 2
    if abs(mass - 1) > 0.01:
        raise Fault(f"its integral is {mass:.3g}: the log-determinants do not belong to the map")


@check(FLOW, "sample_x gives num_samples samples and their log-probabilities")
def sample_shapes(CouplingFlow):
    x, log_prob = pair("sample_x", random_flow(CouplingFlow).sample_x(9))
    numbers("x", x, 9, 2)
    numbers("log_prob", log_prob, 9)


def drawn(flow, num_samples):
    """x as a tensor for the layers, and its log_prob (float64)."""
    x, log_prob = pair("sample_x", flow.sample_x(num_samples))
    return numbers("x", x, num_samples, 2).to(torch.get_default_dtype()), per_sample("log_prob", log_prob, num_samples)


@check(FLOW, "log_prob of sample_x is what log_probability says of x")
def sampled_log_prob(CouplingFlow):
    flow = random_flow(CouplingFlow)
    x, log_prob = drawn(flow, 50)
    z, total = run_back(flow, x)
    compare(
        "log_prob",
        log_prob,
        log_probability_of(flow, x),
        lambda: {
            "the log-determinants are added with the wrong sign": log_normal(z) - total,
            "the log-determinants are left out": log_normal(z),
            "the log-determinants are summed over the batch": log_normal(z) + total.sum(),
            "the prior is evaluated at x instead of z": log_normal(x.double()) + total,
            "log p(z) is left out": total,
            "here it is right, and log_probability is wrong": log_normal(z) + total,
        },
        "the log-determinants of forward and inverse do not match (Task 6)",
    )


def standard_errors(z):
    """How far mean and covariance of samples are from those of N(0, I), in standard errors."""
    mean = z.mean(0).abs().max() * math.sqrt(len(z))
    return max(mean, (z.T.cov() - torch.eye(2).double()).abs().max() * math.sqrt(len(z) / 2)).item()


@check(FLOW, "sample_x passes samples of the prior through all layers, first to last")
def samples_follow_the_flow(CouplingFlow):
    flow = random_flow(CouplingFlow)
    layers = list(flow.layers)
    x, _ = drawn(flow, MANY)
    z, _ = run_back(flow, x)
    if not standard_errors(z) < CHANCE:
        orders = {
            "the layers are applied in the wrong order, last to first": layers,
            "the last layer is left out": layers[-2::-1],
            "the first layer is left out": layers[:0:-1],
            "no layer is applied": [],
        }
        causes = [
            cause for cause, order in orders.items() if standard_errors(run(order, x, "inverse")[0].detach().double()) < CHANCE
        ]
        if standard_errors(run(layers, x, "forward")[0].detach().double()) < CHANCE:
            causes.append("the inverses are applied")
        mean, sd = z.mean(0), z.std(0)
        raise Fault(
            f"undone by the inverses they have the means {mean[0]:.2f}, {mean[1]:.2f} and standard deviations {sd[0]:.2f}, "
            f"{sd[1]:.2f}, not 0 and 1: {causes[0] if causes else 'they do not start from the prior'}"
        )


def steps_of(flow, num_samples):
    """The steps as tensors; one too few is diagnosed."""
    steps = flow.sample_x_each_step(num_samples)
    if not isinstance(steps, Sequence):
        raise Fault(f"it is a {type(steps).__name__}, not a list")
    steps = [numbers(f"step {k}", step, num_samples, 2) for k, step in enumerate(steps)]
    if len(steps) != NUM_LAYERS + 1:
        missing = ""
        if follow(steps, flow.layers[1:]):
            missing = ": the samples of the prior are missing at its start"
        elif follow(steps, flow.layers[:-1]):
            missing = ": the samples after the last layer are missing"
        raise Fault(f"it has {len(steps)} elements for {NUM_LAYERS} layers, not {NUM_LAYERS + 1}{missing}")
    return steps


def follow(steps, layers):
    """Whether each step is the one before, passed through the next layer."""
    return len(steps) == len(layers) + 1 and all(
        near(after, mapped(layer, before.to(torch.get_default_dtype()), "forward")[0])
        for layer, before, after in zip(layers, steps, steps[1:], strict=False)
    )


@check(FLOW, "sample_x_each_step lists the samples of the prior and those after each layer")
def step_count(CouplingFlow):
    steps_of(random_flow(CouplingFlow), 9)


@check(FLOW, "the first step of sample_x_each_step is from the prior")
def first_step(CouplingFlow):
    z = steps_of(random_flow(CouplingFlow), MANY)[0]
    if not standard_errors(z) < CHANCE:
        mean, sd = z.mean(0), z.std(0)
        raise Fault(f"its means are {mean[0]:.2f}, {mean[1]:.2f}, its standard deviations {sd[0]:.2f}, {sd[1]:.2f}, not 0 and 1")


@check(FLOW, "each step of sample_x_each_step is the one before, passed through the next layer")
def next_steps(CouplingFlow):
    flow = random_flow(CouplingFlow)
    steps = steps_of(flow, 9)
    for k, layer in enumerate(flow.layers):
        expected = mapped(layer, steps[k].to(torch.get_default_dtype()), "forward")[0]
        compare(
            f"step {k + 1}",
            steps[k + 1],
            expected,
            lambda k=k, expected=expected: {
                "the layer is not applied": steps[k],
                "the layer is inverted": mapped(flow.layers[k], steps[k].to(torch.get_default_dtype()), "inverse")[0],
            },
        )


@check(FLOW, "log_probability passes a gradient to every layer")
def flow_gradients(CouplingFlow):
    flow = random_flow(CouplingFlow)
    flow.log_probability(normal(50, 2)).mean().backward()
    untouched = [
        k for k, layer in enumerate(flow.layers, 1) if not any(p.grad is not None and p.grad.any() for p in layer.parameters())
    ]
    if untouched:
        raise Fault(f"none reaches layer {', '.join(map(str, untouched))}")


# Training ------------------------------------------------------------------------------------------------------------

EPOCHS = 30


@lru_cache(maxsize=1)
def trained(CouplingFlow, ToyDataset, train):
    """A small flow before, the data, and what `train` returns."""
    torch.manual_seed(8)
    data, flow = ToyDataset("GaussiansGrid", num_samples=300), CouplingFlow(2)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    return before, data, train(flow, data, epochs=EPOCHS)


@check(TRAINING, "train returns the model and a training and a validation loss per epoch")
def train_returns(CouplingFlow, ToyDataset, train):
    _, _, result = trained(CouplingFlow, ToyDataset, train)
    if not isinstance(result, Sequence) or len(result) != 3:
        raise Fault(f"it returns {len(result) if isinstance(result, Sequence) else type(result).__name__}, not three values")
    if not isinstance(result[0], CouplingFlow):
        raise Fault(f"the first value is a {type(result[0]).__name__}, not a CouplingFlow")
    for what, losses in zip(("training losses", "validation losses"), result[1:], strict=True):
        numbers(f"the list of {what}", [float(loss) for loss in losses], EPOCHS)


@check(TRAINING, "train lowers the training loss")
def train_lowers_the_loss(CouplingFlow, ToyDataset, train):
    losses = [float(loss) for loss in trained(CouplingFlow, ToyDataset, train)[2][1]]
    if not np.mean(losses[-5:]) < losses[0] - 0.1:
        raise Fault(f"it goes from {losses[0]:.2f} to {losses[-1]:.2f} in {EPOCHS} epochs")


@check(TRAINING, "the losses are the mean of -log p(x)")
def losses_are_nll(CouplingFlow, ToyDataset, train):
    _, data, (model, train_losses, _) = trained(CouplingFlow, ToyDataset, train)
    x = torch.stack([data[i] for i in range(len(data))])
    last, true = float(train_losses[-1]), -log_probability_of(model, x).mean().item()
    if not abs(last - true) < 0.3:
        cause = ": it is its negative" if abs(last + true) < 0.3 else ""
        raise Fault(f"the last training loss is {last:.2f}, but the trained model has {true:.2f} on its data{cause}")


@check(TRAINING, "train changes all weights, but no mask")
def train_changes_the_weights(CouplingFlow, ToyDataset, train):
    before, _, (model, *_) = trained(CouplingFlow, ToyDataset, train)
    same = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    if wrong := [name for name in before if name.endswith("mask") != (name in same)]:
        raise Fault(f"{'changed' if wrong[0].endswith('mask') else 'as before'}: {', '.join(wrong)}")


@check(TRAINING, "to_np turns a tensor that requires a gradient into a NumPy array", signatures={"to_np": ["x"]})
def to_numpy(to_np):
    x = normal(4, 2).requires_grad_()
    array = to_np(x)
    if not isinstance(array, np.ndarray):
        raise Fault(f"it gives a {type(array).__name__}")
    compare("the array", numbers("the array", array, 4, 2), x.detach().double())
