"""Checks of Part II by the handout's names: toy datasets, coupling layer, coupling flow, training."""

import math
from collections.abc import Sequence
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from grading import check, compare, near, numbers
from reference import LEARNING_RATE, log_abs_det, log_normal, normal, randomised, toy_points
from solution import Fault, Raised

TOOLS = "The tools"
DATASETS = "Part II, Task 1 (toy datasets)"
LAYER = "Part II, Task 6 (coupling layer)"
FLOW = "Part II, Task 8 (coupling flow)"
TRAINING = "Part II, training"


@check(TOOLS, "the notebook leaves torch, NumPy and the builtins as they are")
def tools(solution):
    if solution.replaced:
        raise Fault(f"it replaces {', '.join(solution.replaced[:5])}")


# Toy datasets --------------------------------------------------------------------------------------------------------


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


@check(DATASETS, "without other arguments there are 1000 samples with seed 0, and 5 Gaussians in the ring")
def default_arguments(sample_2d_datasets):
    drawn = numbers("GaussiansRot", sample_2d_datasets("GaussiansRot"), 1000, 2)
    compare("GaussiansRot", drawn, torch.from_numpy(toy_points("GaussiansRot", 1000, 0, 5)))


@check(DATASETS, "the name of an unknown dataset is refused")
def unknown_dataset(sample_2d_datasets):
    try:
        sample_2d_datasets("Squares")
    except Raised:
        return
    raise Fault("sample_2d_datasets('Squares') raises no error")


@check(DATASETS, "ToyDataset has num_samples items, each one sample as a float32 tensor")
def dataset_items(ToyDataset):
    data = ToyDataset("Moons", num_samples=50)
    if len(data) != 50:
        raise Fault(f"len() of 50 samples is {len(data)}")
    numbers("an item", item := data[7], 2)
    if getattr(item, "dtype", None) != torch.float32:
        raise Fault(f"an item is {getattr(item, 'dtype', type(item).__name__)}, not a float32 tensor")


def items(data, num):
    return torch.stack([numbers("an item", data[i], 2) for i in range(num)])


@check(DATASETS, "ToyDataset has the same default arguments")
def dataset_defaults(ToyDataset):
    data = ToyDataset("GaussiansRot")
    if len(data) != 1000:
        raise Fault(f"it has {len(data)} samples")
    compare("its first items", items(data, 20), torch.from_numpy(toy_points("GaussiansRot", 1000, 0, 5)[:20]))


@check(DATASETS, "ToyDataset hands all its arguments on to sample_2d_datasets")
def dataset_arguments(ToyDataset, sample_2d_datasets):
    expected = numbers("samples", sample_2d_datasets("GaussiansRot", 40, 3, num_gaussians=7), 40, 2)
    words = "num_samples, seed or num_gaussians is not handed on"
    compare("the items", items(ToyDataset("GaussiansRot", 40, 3, 7), 40), expected, otherwise=words)


# Coupling layer ------------------------------------------------------------------------------------------------------

MASKS = torch.eye(2)

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
# One or two of them at a time.
DEVIATIONS |= {f"{a}, and {b}": DEVIATIONS[a] | DEVIATIONS[b] for a, b in combinations(DEVIATIONS, 2)}


def coupling(layer, mask, v, direction, s_masked=True, t_masked=True, scaled=True, s_sign=1, t_sign=1, swapped=False,
             exponentiated=True, seen="kept", flipped=False):
    """What a coupling layer with the notebook's own networks should give, or gives with a mistake: output, log-determinant."""
    mask = 1 - mask if flipped else mask
    inputs = {"kept": mask * v, "all": v, "moved": (1 - mask) * v}[seen]
    s = s_sign * layer.s_func(inputs) * (layer.scale_factor if scaled else 1) * (1 - mask if s_masked else 1)
    t = t_sign * layer.t_func(inputs) * (1 - mask if t_masked else 1)
    scale = s.exp() if exponentiated else s + mask
    if direction == "forward":
        out = (v + t) * scale if swapped else v * scale + t
        return out.detach().double(), s.sum(-1).detach().double()
    out = v / scale - t if swapped else (v - t) / scale
    return out.detach().double(), -s.sum(-1).detach().double()


def redrawn(module):
    """A module of the solution with all learnable numbers drawn anew."""
    values = module._solution.ask("parameters", module)
    randomised(SimpleNamespace(named_parameters=values.items))
    module._solution.ask("assign", module, values)
    return module


def random_layers(CouplingLayer):
    """(mask, layer with random numbers) for both masks of the plane."""
    return [(mask, redrawn(CouplingLayer(mask))) for mask in MASKS]


def pair(what, value):
    if not isinstance(value, Sequence) or len(value) != 2:
        raise Fault(f"{what} returns a {type(value).__name__}, not a pair")
    return value


def per_sample(what, value, num):
    """One number per sample as (num,); a column will do, and one number for the whole batch is repeated."""
    value = numbers(what, value, *getattr(value, "shape", ()))
    if value.numel() not in (1, num):
        raise Fault(f"{what} has the shape {tuple(value.shape)} for {num} samples, not ({num},)")
    return value.flatten().expand(num)


def mapped(layer, v, direction):
    """Output and log-determinant of the notebook's layer for v in whatever precision, shapes checked."""
    name = "log_det_jac" if direction == "forward" else "inv_log_det_jac"
    out, log_det = pair(direction, getattr(layer, direction)(v.to(torch.get_default_dtype())))
    return numbers(f"the output of {direction}", out, *v.shape), per_sample(name, log_det, len(v))


def differences(layer, direction, v, step=1 / 64):
    """Jacobian at each row by central differences, which are exact for a map that is linear in what it transforms."""
    ahead, back = ([mapped(layer, v + side * e, direction)[0] for e in torch.eye(2)] for side in (step, -step))
    return torch.stack([(a - b) / (2 * step) for a, b in zip(ahead, back)], dim=2)


@check(LAYER, "the layer holds the fixed mask, s_func, t_func and scale_factor of the handout")
def layer_parts(solution, CouplingLayer):
    layer = CouplingLayer(MASKS[0])
    for name in ("mask", "s_func", "t_func", "scale_factor"):
        if not solution.ask("hasattr", layer, name):
            raise Fault(f"it has no {name}")
    mask, scale_factor = layer.mask, layer.scale_factor
    compare("mask", numbers("mask", mask, 2), MASKS[0].double(), otherwise="it is not the one given")
    if mask.requires_grad:
        raise Fault("the mask is learnable: it needs requires_grad=False")
    compare("scale_factor", numbers("scale_factor", scale_factor, 2), torch.zeros(2).double(), otherwise="it has to start at 0")
    if not scale_factor.requires_grad:
        raise Fault("scale_factor is not learnable: it needs to be an nn.Parameter")


SHAPES = [(32, 2), (32,), (32, 32), (32,), (2, 32), (2,)]  # of the weights and biases of three Linear layers
ACTIVATIONS = {
    **{name: getattr(F, name.lower()) for name in ("ReLU", "ELU", "GELU", "SiLU")},
    **{name: getattr(torch, name.lower()) for name in ("Tanh", "Sigmoid")},
    **{f"LeakyReLU of slope {slope}": lambda v, slope=slope: F.leaky_relu(v, slope) for slope in (0.1, 0.2)},
    "LeakyReLU": F.leaky_relu,
}


def mlp(weights, v, activation=F.leaky_relu, last=lambda v: v):
    """Linear layers of these weights and biases, with an activation in between and another after the last."""
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2]):
        v = activation(F.linear(v, weight, bias))
    return last(F.linear(v, *weights[-2:]))


@check(LAYER, "s_func is Linear layers of widths 2-32-32-2 with LeakyReLU in between", name="s_func")
@check(LAYER, "t_func is Linear layers of widths 2-32-32-2 with LeakyReLU in between", name="t_func")
def networks(solution, CouplingLayer, name):
    layer, v = random_layers(CouplingLayer)[0][1], 5 * normal(50, 2).double()
    weights = [value.detach().double() for key, value in solution.ask("parameters", layer).items() if key.startswith(f"{name}.")]
    if [tuple(weight.shape) for weight in weights] != SHAPES:
        matrices = [weight for weight in weights if weight.dim() == 2]
        widths = "-".join(str(width) for width in (*(len(m.T) for m in matrices[:1]), *map(len, matrices)))
        biases = "" if len(weights) == 2 * len(matrices) else ", and not all of them a bias"
        raise Fault(f"its Linear layers have the widths {widths or 'of none'}{biases}")
    causes = {"no activation is in between": mlp(weights, v, lambda v: v)}
    causes |= {f"{kind} is in between": mlp(weights, v, function) for kind, function in ACTIVATIONS.items()}
    causes |= {f"{kind} follows the last one": mlp(weights, v, last=function) for kind, function in ACTIVATIONS.items()}
    found = getattr(layer, name)(v.to(torch.get_default_dtype()))
    compare("the output", numbers("the output", found, 50, 2), mlp(weights, v), lambda: causes)


@check(LAYER, "a fresh layer, with scale_factor 0, shifts but does not scale")
def fresh_layer(CouplingLayer):
    layer, v = CouplingLayer(MASKS[0]), normal(9, 2)
    causes = {"scale_factor is forgotten": coupling(layer, MASKS[0], v, "forward", scaled=False)[1]}
    compare("log_det_jac of a fresh layer", mapped(layer, v, "forward")[1], torch.zeros(9).double(), lambda: causes)


@check(LAYER, "forward returns the coordinate with mask 1 as it came", direction="forward", value=1)
@check(LAYER, "inverse returns the coordinate with mask 1 as it came", direction="inverse", value=1)
@check(LAYER, "forward gives x · exp(s) + t in the coordinate with mask 0", direction="forward", value=0)
@check(LAYER, "inverse gives (y - t) · exp(-s) in the coordinate with mask 0", direction="inverse", value=0)
def output(CouplingLayer, direction, value):
    # One coordinate is compared; a mistake has to predict both, for both masks.
    other = "inverse" if direction == "forward" else "forward"
    for mask, layer in random_layers(CouplingLayer):
        v, where = normal(9, 2), mask == value
        out, expected = mapped(layer, v, direction)[0], coupling(layer, mask, v, direction)[0]
        if not near(out[:, where], expected[:, where]):
            causes = {cause: coupling(layer, mask, v, direction, **change)[0] for cause, change in DEVIATIONS.items()}
            causes[f"it is what {other} should do"] = coupling(layer, mask, v, other)[0]
            compare(f"the coordinate with mask {value}", out, expected, lambda: causes)


@check(LAYER, "log_det_jac is one number per sample", direction="forward")
@check(LAYER, "inv_log_det_jac is one number per sample", direction="inverse")
def log_det_shape(CouplingLayer, direction):
    for _, layer in random_layers(CouplingLayer):
        mapped(layer, normal(9, 2), direction)
        log_det = getattr(layer, direction)(normal(9, 2))[1]
        if not torch.is_tensor(log_det) or log_det.numel() == 1:
            raise Fault("it is one number for a batch of 9 samples: summed over the batch, not only over the coordinates")


@check(LAYER, "log_det_jac is log|det| of forward's Jacobian, as differences have it", direction="forward")
@check(LAYER, "inv_log_det_jac is log|det| of inverse's Jacobian, as differences have it", direction="inverse")
def log_det(CouplingLayer, direction):
    for mask, layer in random_layers(CouplingLayer):
        v = normal(9, 2)
        expected = log_abs_det(differences(layer, direction, v))

        def causes():
            own = {cause: coupling(layer, mask, v, direction, **change)[1] for cause, change in DEVIATIONS.items()}
            return {
                "it has the wrong sign": -expected,
                "it is summed over the batch as well, not only over the coordinates": expected.sum().expand(9),
                "it is the mean over the coordinates, not their sum": expected / 2,
                "it is the determinant, not its logarithm": expected.exp(),
                "it is always 0": torch.zeros(9).double(),
                **{f"in it, {cause}": value for cause, value in own.items()},
                **{f"summed over the batch, and in it, {cause}": value.sum().expand(9) for cause, value in own.items()},
            }

        compare("the log-determinant", mapped(layer, v, direction)[1], expected, causes)


@check(LAYER, "inverse undoes forward, and their log-determinants are opposite")
def round_trip(CouplingLayer):
    for _, layer in random_layers(CouplingLayer):
        v, words = normal(9, 2), "forward and inverse do not belong to the same s and t"
        y, log_det_jac = mapped(layer, v, "forward")
        x, inv_log_det_jac = mapped(layer, y, "inverse")
        compare("inverse(forward(x)) - x", x - v, torch.zeros(9, 2).double(), otherwise=words)
        compare("the sum of both log-determinants", log_det_jac + inv_log_det_jac, torch.zeros(9).double(), otherwise=words)


@check(LAYER, "s_func, t_func and scale_factor get a gradient")
def layer_gradients(solution, CouplingLayer):
    for _, layer in random_layers(CouplingLayer):
        if not layer.forward(normal(9, 2))[0].requires_grad:
            raise Fault("the output is cut off from autograd, by detach, no_grad or NumPy, and cannot be trained")
        gradients = solution.ask("gradients", layer, layer.forward, normal(9, 2))
        parts = ("s_func", "t_func", "scale_factor")
        if untouched := [name for name, moves in gradients.items() if not moves and name.partition(".")[0] in parts]:
            raise Fault(f"no gradient reaches {', '.join(untouched)}")


@check(LAYER, "the input is not changed", direction="forward")
@check(LAYER, "the input of inverse is not changed", direction="inverse")
def input_unchanged(solution, CouplingLayer, direction):
    for _, layer in random_layers(CouplingLayer):
        after = solution.ask("afterwards", getattr(layer, direction), normal(9, 2))
        compare("the input afterwards", after.double(), normal(9, 2).double(), otherwise="it is overwritten in place")


# Coupling flow -------------------------------------------------------------------------------------------------------

NUM_LAYERS = 4
MANY = 4000  # samples, where their distribution is judged
CHANCE = 5.5  # standard errors that chance does not reach


def random_flow(CouplingFlow):
    return redrawn(CouplingFlow(NUM_LAYERS))


def run(layers, v, direction):
    """Pass v through layers one after another: the last output and the sum of the log-determinants, both float64."""
    total = torch.zeros(len(v)).double()
    for layer in layers:
        v, log_det = mapped(layer, v, direction)
        total = total + log_det
    return v.double(), total


def log_probability_of(flow, x):
    return per_sample("log_probability", flow.log_probability(x), len(x))


@check(FLOW, "the flow has as many layers as asked for")
def number_of_layers(CouplingFlow):
    for num_layers in (1, 3, NUM_LAYERS):
        if (found := len(CouplingFlow(num_layers).layers)) != num_layers:
            raise Fault(f"CouplingFlow({num_layers}) has {found} layers")


@check(FLOW, "the layers transform the two coordinates in turn, the first of them the second coordinate")
def masks_alternate(CouplingFlow):
    v, changed = normal(50, 2), []
    for layer in random_flow(CouplingFlow).layers:
        out, _ = mapped(layer, v, "forward")
        changed.append(tuple(i + 1 for i in range(2) if not torch.equal(out[:, i].to(v.dtype), v[:, i])))
    if set(changed) in ({(1,)}, {(2,)}):
        raise Fault(f"all {NUM_LAYERS} layers transform coordinate {changed[0][0]} only: the masks never alternate")
    if changed == [(1,), (2,)] * (NUM_LAYERS // 2):
        raise Fault("the first layer keeps coordinate 2 and transforms coordinate 1, not the other way round")
    if changed != [(2,), (1,)] * (NUM_LAYERS // 2):
        each = ", ".join(" and ".join(map(str, moved)) or "none" for moved in changed)
        raise Fault(f"the layers transform the coordinates {each}, not 2 and 1 in turn")


@check(FLOW, "the prior is the standard normal distribution")
def standard_prior(CouplingFlow):
    z = normal(50, 2)
    log_prob = CouplingFlow(1).prior.log_prob(z)
    log_prob = log_prob.sum(-1) if log_prob.dim() == 2 else log_prob
    compare("log p(z)", numbers("log p(z)", log_prob, 50), log_normal(z).double())


@check(FLOW, "log_probability gives one number per sample")
def log_probability_shape(CouplingFlow):
    numbers("log_probability of 9 samples", random_flow(CouplingFlow).log_probability(normal(9, 2)), 9)


def log_prob_causes(x, z, total):
    """Wrong log-probabilities of x, from its z and the sum of the inverse log-determinants."""
    return {
        "the prior is evaluated at x instead of z": log_normal(x.double()) + total,
        "the log-determinants are subtracted instead of added, or the other way round": log_normal(z) - total,
        "the log-determinants are left out": log_normal(z),
        "log p(z) is left out": total,
        "the log-determinants are summed over the batch": log_normal(z) + total.sum(),
        "it is minus the log-probability": -log_normal(z) - total,
    }


@check(FLOW, "log_probability is log p(z) plus the inverse log-determinants, from the last layer to the first")
def log_probability_formula(CouplingFlow):
    flow, x = random_flow(CouplingFlow), normal(50, 2)
    z, total = run(reversed(flow.layers), x, "inverse")

    def causes():
        (z_wrong, total_wrong), (z_ahead, total_ahead) = (run(flow.layers, x, way) for way in ("inverse", "forward"))
        return log_prob_causes(x, z, total) | {
            "the layers are inverted in the wrong order, first to last": log_normal(z_wrong) + total_wrong,
            "the layers run forward instead of being inverted": log_normal(z_ahead) + total_ahead,
        }

    compare("log_probability", log_probability_of(flow, x), log_normal(z) + total, causes)


@check(FLOW, "the density integrates to 1")
def total_mass(solution, CouplingFlow):
    # A flow close to its start, so that a window that holds its mass is known.
    flow, axis = CouplingFlow(NUM_LAYERS), torch.linspace(-12, 12, 161)
    values = solution.ask("parameters", flow).items()
    solution.ask("assign", flow, {name: torch.full_like(v, 0.8) for name, v in values if name.endswith("scale_factor")})
    mass = log_probability_of(flow, torch.cartesian_prod(axis, axis)).exp().sum().item() * (axis[1] - axis[0]).item() ** 2
    if abs(mass - 1) > 0.01:
        raise Fault(f"its integral is {mass:.3g}: the log-determinants do not belong to the map")


def drawn(flow, num_samples):
    """x of sample_x, and its log_prob, both float64."""
    x, log_prob = pair("sample_x", flow.sample_x(num_samples))
    return numbers("x", x, num_samples, 2), numbers("log_prob", log_prob, num_samples)


@check(FLOW, "log_prob of sample_x is what log_probability says of x")
def sampled_log_prob(CouplingFlow):
    flow = random_flow(CouplingFlow)
    x, log_prob = drawn(flow, 50)
    z, total = run(reversed(flow.layers), x, "inverse")
    causes = log_prob_causes(x, z, total) | {"here it is right, and log_probability is wrong": log_normal(z) + total}
    compare("log_prob", log_prob, log_probability_of(flow, x.to(torch.get_default_dtype())), lambda: causes,
            "the log-determinants of forward and inverse do not match (Task 6)")


def from_prior(z):
    """Whether samples are from N(0, I), by their means and covariances."""
    mean = z.mean(0).abs().max() * math.sqrt(len(z))
    return max(mean, (z.T.cov() - torch.eye(2).double()).abs().max() * math.sqrt(len(z) / 2)).item() < CHANCE


def moments(z):
    means, sds = (", ".join(f"{value:.2f}" for value in values) for values in (z.mean(0), z.std(0)))
    return f"the means {means} and the standard deviations {sds}, not 0 and 1"


@check(FLOW, "sample_x passes samples of the prior through all layers, first to last")
def samples_follow_the_flow(CouplingFlow):
    flow = random_flow(CouplingFlow)
    layers, (x, _) = list(flow.layers), drawn(flow, MANY)
    if not from_prior(z := run(layers[::-1], x, "inverse")[0]):
        ways = {
            "the layers are applied in the wrong order, last to first": (layers, "inverse"),
            "the last layer is left out": (layers[-2::-1], "inverse"),
            "the first layer is left out": (layers[:0:-1], "inverse"),
            "no layer is applied": ([], "inverse"),
            "the inverses are applied": (layers, "forward"),
        }
        causes = (cause for cause, (order, direction) in ways.items() if from_prior(run(order, x, direction)[0]))
        raise Fault(f"undone by the inverses they have {moments(z)}: {next(causes, 'they do not start from the prior')}")


def steps_of(flow, num_samples):
    """The steps as tensors; one too few is diagnosed."""
    steps = flow.sample_x_each_step(num_samples)
    if not isinstance(steps, Sequence):
        raise Fault(f"it is a {type(steps).__name__}, not a list")
    steps = [numbers(f"step {k}", step, num_samples, 2) for k, step in enumerate(steps)]
    if len(steps) != NUM_LAYERS + 1:
        lost = {"the samples of the prior are missing at its start": flow.layers[1:],
                "the samples after the last layer are missing": flow.layers[:-1]}
        missing = "".join(f": {words}" for words, layers in lost.items() if follow(steps, layers))
        raise Fault(f"it has {len(steps)} elements for {NUM_LAYERS} layers, not {NUM_LAYERS + 1}{missing}")
    return steps


def follow(steps, layers):
    """Whether each step is the one before, passed through the next layer."""
    return len(steps) == len(layers) + 1 and all(
        near(after, mapped(layer, before, "forward")[0]) for layer, before, after in zip(layers, steps, steps[1:])
    )


@check(FLOW, "the first step of sample_x_each_step is from the prior")
def first_step(CouplingFlow):
    if not from_prior(z := steps_of(random_flow(CouplingFlow), MANY)[0]):
        raise Fault(f"it has {moments(z)}")


@check(FLOW, "each step of sample_x_each_step is the one before, passed through the next layer")
def next_steps(CouplingFlow):
    flow = random_flow(CouplingFlow)
    steps = steps_of(flow, 9)
    for k, (layer, before, after) in enumerate(zip(flow.layers, steps, steps[1:]), 1):
        causes = {"the layer is not applied": before, "the layer is inverted": mapped(layer, before, "inverse")[0]}
        compare(f"step {k}", after, mapped(layer, before, "forward")[0], lambda: causes)


@check(FLOW, "log_probability passes a gradient to every layer")
def flow_gradients(solution, CouplingFlow):
    flow = random_flow(CouplingFlow)
    gradients = solution.ask("gradients", flow, flow.log_probability, normal(50, 2))
    reached = {name.split(".")[1] for name, moves in gradients.items() if moves and name.startswith("layers.")}
    if untouched := [str(k + 1) for k in range(NUM_LAYERS) if str(k) not in reached]:
        raise Fault(f"none reaches layer {', '.join(untouched)}")


# Training ------------------------------------------------------------------------------------------------------------

EPOCHS = 30


@check(TRAINING, "to_np turns a tensor that requires a gradient into a NumPy array", signatures={"to_np": ["x"]})
def to_numpy(to_np):
    x = normal(4, 2).requires_grad_()
    array = to_np(x)
    if not isinstance(array, np.ndarray):
        raise Fault(f"it gives a {getattr(array, '_kind', type(array).__name__)}")
    compare("the array", numbers("the array", array, 4, 2), x.detach().double())


def trained(solution, CouplingFlow, ToyDataset, train):
    """A small flow's weights before training and after, its losses, and its loss on the data."""
    solution.ask("seed", 8)
    data, flow = ToyDataset("GaussiansGrid", num_samples=300), CouplingFlow(2)
    before, result = solution.ask("parameters", flow), train(flow, data, epochs=EPOCHS)
    if not isinstance(result, Sequence) or len(result) != 3:
        raise Fault(f"it returns {len(result) if isinstance(result, Sequence) else type(result).__name__}, not three values")
    model, *losses = result
    if not solution.ask("isinstance", model, CouplingFlow):
        raise Fault(f"the first value is a {getattr(model, '_kind', type(model).__name__)}, not a CouplingFlow")
    losses = [numbers(f"the list of {what} losses", [float(loss) for loss in part], EPOCHS).tolist()
              for what, part in zip(("training", "validation"), losses)]
    true = -log_probability_of(model, items(data, len(data)).to(torch.get_default_dtype())).mean().item()
    return before, solution.ask("parameters", model), losses, true


@check(TRAINING, "train returns the model and a training and a validation loss per epoch")
def train_returns(solution, CouplingFlow, ToyDataset, train):
    solution.once(trained, CouplingFlow, ToyDataset, train)


@check(TRAINING, "train lowers the training loss")
def train_lowers_the_loss(solution, CouplingFlow, ToyDataset, train):
    losses = solution.once(trained, CouplingFlow, ToyDataset, train)[2][0]
    if not np.mean(losses[-5:]) < losses[0] - 0.1:
        raise Fault(f"it goes from {losses[0]:.2f} to {losses[-1]:.2f} in {EPOCHS} epochs")


@check(TRAINING, "the losses are the mean of -log p(x)")
def losses_are_nll(solution, CouplingFlow, ToyDataset, train):
    *_, (losses, _), true = solution.once(trained, CouplingFlow, ToyDataset, train)
    if not abs(losses[-1] - true) < 0.3:
        cause = ": it is its negative" if abs(losses[-1] + true) < 0.3 else ""
        raise Fault(f"the last training loss is {losses[-1]:.2f}, but the trained model has {true:.2f} on its data{cause}")


@check(TRAINING, "train changes all weights, but no mask")
def train_changes_the_weights(solution, CouplingFlow, ToyDataset, train):
    before, after, *_ = solution.once(trained, CouplingFlow, ToyDataset, train)
    same = [name for name, value in after.items() if torch.equal(value, before[name])]
    if wrong := [name for name in before if name.endswith("mask") != (name in same)]:
        raise Fault(f"{'changed' if wrong[0].endswith('mask') else 'as before'}: {', '.join(wrong)}")


# How `train` goes about it is seen by a model that has but a centre to learn, and notes what it is asked.

NUM, NUM_TRAINING = 700, 630
FAR = 100.0  # where the centre starts: so far from 0 that a weight decay shows


def watched(solution, CouplingFlow, train, num_samples, lowest_after=None, **options):
    """Batches as lists of indices, for training and validation, and the centre before each; the losses, the centre returned."""
    points = normal(num_samples, 2).float()
    notes, end, returned, *losses = solution.ask("watched", CouplingFlow, train, points, FAR, lowest_after, **options)
    index = {tuple(point): i for i, point in enumerate(points.tolist())}
    batches = [[index.get(tuple(point)) for point in x.tolist()] for x, _ in notes]
    if any(None in batch for batch in batches):
        raise Fault("log_probability gets samples that are not those of the data")
    centres = [*(centre for _, centre in notes), end.detach()]
    steps = [not torch.equal(before, after) for before, after in zip(centres, centres[1:])]
    training, validation = ([(batch, centre) for batch, centre, step in zip(batches, centres, steps) if step == wanted]
                            for wanted in (True, False))
    if not training or len(training) % len(losses[0]):
        raise Fault(f"in {len(losses[0])} epochs there are {len(training)} steps")
    return SimpleNamespace(points=points, training=training, validation=validation, epochs=len(losses[0]), losses=losses,
                           path=torch.stack([*(centre for _, centre in training), centres[-1]]), returned=returned.detach())


def watch(solution, CouplingFlow, train):
    return solution.once(watched, CouplingFlow, train, NUM, epochs=3)


def samples(part):
    return {i for batch, _ in part for i in batch}


@check(TRAINING, "nine tenths of the samples, drawn at random, are for training and the others for validation")
def split(solution, CouplingFlow, train):
    seen = watch(solution, CouplingFlow, train)
    training, validation = samples(seen.training), samples(seen.validation)
    if both := training & validation:
        raise Fault(f"{len(both)} of {NUM} samples are for both")
    if (len(training), len(validation)) != (NUM_TRAINING, NUM - NUM_TRAINING):
        raise Fault(f"of {NUM} samples {len(training)} are for training and {len(validation)} for validation, "
                    f"not {NUM_TRAINING} and {NUM - NUM_TRAINING}")
    if max(training) - min(training) == NUM_TRAINING - 1:
        raise Fault("they are taken in the order of the data, not at random")


@check(TRAINING, "a batch has 64 samples, or batch_size, and the last one the rest", options={}, size=64)
@check(TRAINING, "a batch has batch_size samples", options={"batch_size": 100}, size=100)
def batch_sizes(solution, CouplingFlow, train, options, size):
    seen = solution.once(watched, CouplingFlow, train, NUM, epochs=3, **options)
    sizes = [len(batch) for batch, _ in seen.training][: len(seen.training) // seen.epochs]
    num = NUM - len(samples(seen.validation))
    if sizes != [size] * (num // size) + [num % size] * (num % size > 0):
        cause = ": the last, smaller one is dropped" if set(sizes) == {size} else ""
        raise Fault(f"they have {', '.join(map(str, sizes))} samples{cause}")


@check(TRAINING, "the batches are the same in each epoch")
def batch_order(solution, CouplingFlow, train):
    seen = watch(solution, CouplingFlow, train)
    batches = [batch for batch, _ in seen.training]
    if batches != seen.epochs * batches[: len(batches) // seen.epochs]:
        raise Fault("the samples are shuffled anew in each epoch, which the handout's train does not do")


OPTIMIZERS = {
    **{f"the learning rate is {rate}": (torch.optim.Adam, {"lr": rate}) for rate in (0.01, 0.005, 0.002, 0.0005, 0.0001)},
    **{f"it is SGD with learning rate {rate}": (torch.optim.SGD, {"lr": rate}) for rate in (0.001, 0.01, 0.1)},
    **{f"its weight decay is {decay}": (torch.optim.Adam, {"weight_decay": decay}) for decay in (1e-2, 1e-3, 1e-4, 1e-5)},
    "it is AdamW": (torch.optim.AdamW, {}),
    "it is RMSprop": (torch.optim.RMSprop, {}),
}


def loss_of(seen, batch, centre):
    return (seen.points[batch] - (centre - FAR)).square().sum(-1).mean() / 2


def path_of(seen, kind=torch.optim.Adam, options=(), reset=True):
    """The centre after each step, from its start in units of 0.001, if an optimizer takes the steps."""
    centre = torch.nn.Parameter(torch.full((2,), FAR, dtype=torch.float64))
    optimizer, path = kind([centre], **{"lr": LEARNING_RATE, **dict(options)}), [centre.detach().clone()]
    for batch, _ in seen.training:
        if reset:
            optimizer.zero_grad()
        loss_of(seen, batch, centre).backward()
        optimizer.step()
        path.append(centre.detach().clone())
    return (torch.stack(path) - FAR) / LEARNING_RATE


@check(TRAINING, "the optimizer is Adam with learning rate 0.001")
def optimizer(solution, CouplingFlow, train):
    seen = watch(solution, CouplingFlow, train)

    def causes():
        others = {cause: path_of(seen, *variant) for cause, variant in OPTIMIZERS.items()}
        return others | {"gradients are not set to zero before each step": path_of(seen, reset=False)}

    moved = (seen.path - FAR) / LEARNING_RATE
    compare("a weight, in steps of 0.001,", moved, path_of(seen), causes, "no usual optimizer moves it so")


@check(TRAINING, "a loss is the mean over the batches of its epoch, that of validation after the epoch")
def epoch_losses(solution, CouplingFlow, train):
    seen, means = watch(solution, CouplingFlow, train), {}
    for what, part, found in zip(("training", "validation"), (seen.training, seen.validation), seen.losses):
        if not part or len(part) % seen.epochs:
            raise Fault(f"in {seen.epochs} epochs there are {len(part)} batches for {what}")
        losses = torch.stack([loss_of(seen, *note) for note in part]).reshape(seen.epochs, -1)
        sizes = torch.tensor([len(batch) for batch, _ in part]).reshape(seen.epochs, -1)
        means[f"they are those of {what}"] = losses.mean(1)
        if not near(torch.tensor(found), (losses * sizes).sum(1) / sizes.sum(1)):  # which is as good
            causes = {"they are sums over the batches": losses.sum(1), **means}
            compare(f"the losses of {what}", torch.tensor(found), losses.mean(1), lambda: causes)


@check(TRAINING, "without other arguments there are 100 epochs")
def default_epochs(solution, CouplingFlow, train):
    if (epochs := watched(solution, CouplingFlow, train, 20).epochs) != 100:
        raise Fault(f"there are {epochs}")


@check(TRAINING, "with 500 samples for validation, the weights of the lowest validation loss are returned", num=5000, kept=2)
@check(TRAINING, "with fewer samples for validation, the last weights are returned", num=4990, kept=4)
def returned_weights(solution, CouplingFlow, train, num, kept):
    # Of 18 steps an epoch, step 41 has the lowest loss: for validation, epoch 2 is next to it, for training epoch 3.
    seen = watched(solution, CouplingFlow, train, num, 41.4, epochs=4, batch_size=250)
    found = [4 * step / len(seen.training) for step, centre in enumerate(seen.path) if torch.equal(centre, seen.returned)]
    if found != [kept]:
        which = {1: "first ones", 2: "ones of the lowest validation loss", 3: "ones of the lowest training loss", 4: "last ones"}
        raise Fault(f"after 4 epochs it returns the {which.get(found[0] if found else 0, 'ones of no epoch')}")
