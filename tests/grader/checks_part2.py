"""Checks of Part II by the handout's names: toy datasets, coupling layer, coupling flow, training."""

import contextlib
import math
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn, optim

from grading import PREPARED, SIGNATURES, checks, compare, expect, near, numbers
from reference import LEARNING_RATE, log_abs_det, log_normal, normal, randomised, toy_points
from solution import Fault, Raised, ask

checks("The tools", {
    "the notebook leaves torch, NumPy and the builtins as they are":
        lambda solution: expect(not (new := solution.loaded["replaced"]), f"it replaces {', '.join(new[:5])}"),
})

# Toy datasets --------------------------------------------------------------------------------------------------------

POINT_MISTAKES = {
    "sigma² is used as the standard deviation": {"power": 2},
    "the spread around the shape is left out": {"power": math.inf},
    "the samples are not shuffled": {"shuffle": False},
    "seed is not used": {"seed": 0},
    "num_gaussians is not used": {"num_gaussians": 5},
}
STANDARD_RING = toy_points("GaussiansRot", 1000, 0, 5)


def same_points(sample_2d_datasets, dist_type):
    expected = partial(toy_points, dist_type, 300, seed=4, num_gaussians=3)
    compare(dist_type, sample_2d_datasets(dist_type, 300, 4, num_gaussians=3), expected, POINT_MISTAKES)


def unknown_dataset(sample_2d_datasets):
    with contextlib.suppress(Raised):
        sample_2d_datasets("Squares")
        raise Fault("sample_2d_datasets('Squares') raises no error")


def dataset_items(ToyDataset):
    data = ToyDataset("Moons", num_samples=50)
    expect(len(data) == 50, f"len() of 50 samples is {len(data)}")
    numbers("an item", item := data[7], 2)
    kind = getattr(item, "dtype", type(item).__name__)
    expect(kind == torch.float32, f"an item is {kind}, not a float32 tensor")


def items(data, num):
    return torch.stack([numbers("an item", data[i], 2) for i in range(num)])


def dataset_defaults(ToyDataset):
    data = ToyDataset("GaussiansRot")
    expect(len(data) == 1000, f"it has {len(data)} samples")
    compare("its first items", items(data, 20), STANDARD_RING[:20])


checks("Part II, Task 1 (toy datasets)", {
    "the circles are the handout's, point by point": partial(same_points, dist_type="Circles"),
    "the moons are the handout's, point by point": partial(same_points, dist_type="Moons"),
    "the grid of Gaussians is the handout's, point by point": partial(same_points, dist_type="GaussiansGrid"),
    "the ring of Gaussians is the handout's, point by point": partial(same_points, dist_type="GaussiansRot"),
    "without other arguments there are 1000 samples with seed 0, and 5 Gaussians in the ring":
        lambda sample_2d_datasets: compare("GaussiansRot", sample_2d_datasets("GaussiansRot"), STANDARD_RING),
    "the name of an unknown dataset is refused": unknown_dataset,
    "ToyDataset has num_samples items, each one sample as a float32 tensor": dataset_items,
    "ToyDataset has the same default arguments": dataset_defaults,
    "ToyDataset hands all its arguments on to sample_2d_datasets": lambda ToyDataset, sample_2d_datasets: compare(
        "the items", items(ToyDataset("GaussiansRot", 40, 3, 7), 40), sample_2d_datasets("GaussiansRot", 40, 3, num_gaussians=7),
        otherwise="num_samples, seed or num_gaussians is not handed on"),
})

# Coupling layer ------------------------------------------------------------------------------------------------------

MASKS, LOG_DETS = torch.eye(2), {"forward": "log_det_jac", "inverse": "inv_log_det_jac"}
LAYER_MISTAKES = {
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
}  # one or two of them at a time
LAYER_MISTAKES |= {f"{a}, and {b}": LAYER_MISTAKES[a] | LAYER_MISTAKES[b] for a, b in combinations(LAYER_MISTAKES, 2)}
LOG_DET_MISTAKES = {
    "it has the wrong sign": {"of": torch.neg},
    "it is summed over the batch as well, not only over the coordinates": {"of": torch.sum},
    "it is the mean over the coordinates, not their sum": {"of": lambda log_det: log_det / 2},
    "it is the determinant, not its logarithm": {"of": torch.exp},
    "it is always 0": {"of": torch.zeros_like},
    **{f"in it, {cause}": change for cause, change in LAYER_MISTAKES.items()},
    **{f"summed over the batch, and in it, {cause}": {"of": torch.sum, **change} for cause, change in LAYER_MISTAKES.items()},
}
ACTIVATIONS = {name: getattr(nn, name)() for name in ("ReLU", "ELU", "GELU", "SiLU", "Tanh", "Sigmoid", "LeakyReLU")}
ACTIVATIONS |= {f"LeakyReLU of slope {slope}": nn.LeakyReLU(slope) for slope in (0.1, 0.2)}
NETWORK_MISTAKES = {
    "no activation is in between": {"activation": nn.Identity()},
    **{f"{kind} is in between": {"activation": function} for kind, function in ACTIVATIONS.items()},
    **{f"{kind} follows the last one": {"last": function} for kind, function in ACTIVATIONS.items()},
}
SHAPES = [(32, 2), (32,), (32, 32), (32,), (2, 32), (2,)]  # of the weights and biases of three Linear layers


def coupling(layer, mask, v, direction, s_masked=True, t_masked=True, scaled=True, s_sign=1, t_sign=1, swapped=False,
             exponentiated=True, seen="kept", flipped=False):
    """What a coupling layer with the notebook's own networks should give, or gives with a mistake: output, log-determinant."""
    mask = 1 - mask if flipped else mask
    inputs = {"kept": mask * v, "all": v, "moved": (1 - mask) * v}[seen]
    s = s_sign * layer.s_func(inputs) * (layer.scale_factor if scaled else 1) * (1 - mask if s_masked else 1)
    t = t_sign * layer.t_func(inputs) * (1 - mask if t_masked else 1)
    scale, log_det = s.exp() if exponentiated else s + mask, s.sum(-1).detach()
    if direction == "forward":
        return ((v + t) * scale if swapped else v * scale + t).detach(), log_det
    return (v / scale - t if swapped else (v - t) / scale).detach(), -log_det


def redrawn(module):
    """A module of the solution with all learnable numbers drawn anew."""
    values = ask(module, "parameters")
    randomised(SimpleNamespace(named_parameters=values.items))
    module.load_state_dict(values, strict=False)
    return module


PREPARED |= {
    "layers": lambda CouplingLayer: [(mask, redrawn(CouplingLayer(mask))) for mask in MASKS],
    "layer": lambda CouplingLayer: redrawn(CouplingLayer(MASKS[0])),
}


def pair(what, value):
    expect(isinstance(value, Sequence) and len(value) == 2, f"{what} returns a {type(value).__name__}, not a pair")
    return value


def per_sample(what, value, num):
    """One number per sample as (num,); a column will do, and one number for the whole batch is repeated."""
    value = numbers(what, value, *getattr(value, "shape", ()))
    expect(value.numel() in (1, num), f"{what} has the shape {tuple(value.shape)} for {num} samples, not ({num},)")
    return value.flatten().expand(num)


def mapped(layer, v, direction):
    """Output and log-determinant of the notebook's layer for v in whatever precision, shapes checked."""
    out, log_det = pair(direction, getattr(layer, direction)(v.to(torch.get_default_dtype())))
    return numbers(f"the output of {direction}", out, *v.shape), per_sample(LOG_DETS[direction], log_det, len(v))


def layer_parts(CouplingLayer):
    layer = CouplingLayer(MASKS[0])
    for name in ("mask", "s_func", "t_func", "scale_factor"):
        expect(ask(layer, "hasattr", name), f"it has no {name}")
    mask, scale_factor = layer.mask, layer.scale_factor
    compare("mask", mask, MASKS[0], otherwise="it is not the one given")
    expect(not mask.requires_grad, "the mask is learnable: it needs requires_grad=False")
    compare("scale_factor", scale_factor, torch.zeros(2), otherwise="it has to start at 0")
    expect(scale_factor.requires_grad, "scale_factor is not learnable: it needs to be an nn.Parameter")


def mlp(weights, v, activation=F.leaky_relu, last=lambda v: v):
    """Linear layers of these weights and biases, with an activation in between and another after the last."""
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2]):
        v = activation(F.linear(v, weight, bias))
    return last(F.linear(v, *weights[-2:]))


def network(layer, name):
    v = 5 * normal(50, 2).double()
    weights = [value.detach().double() for key, value in ask(layer, "parameters").items() if key.startswith(f"{name}.")]
    if [tuple(weight.shape) for weight in weights] != SHAPES:
        matrices = [weight for weight in weights if weight.dim() == 2]
        widths = "-".join(str(width) for width in (*(len(m.T) for m in matrices[:1]), *map(len, matrices)))
        biases = "" if len(weights) == 2 * len(matrices) else ", and not all of them a bias"
        raise Fault(f"its Linear layers have the widths {widths or 'of none'}{biases}")
    found = getattr(layer, name)(v.to(torch.get_default_dtype()))
    compare("the output", found, partial(mlp, weights, v), NETWORK_MISTAKES)


def output(layers, direction, value):
    # One coordinate is compared; a mistake has to predict both, for both masks.
    mistakes = LAYER_MISTAKES | {f"it is what {way} should do": {"direction": way} for way in LOG_DETS if way != direction}
    for mask, layer in layers:
        def expected(direction=direction, **change):
            return coupling(layer, mask, v, direction, **change)[0]

        v, where = normal(9, 2), mask == value
        out = mapped(layer, v, direction)[0]
        if not near(out[:, where], expected()[:, where]):
            compare(f"the coordinate with mask {value}", out, expected, mistakes)


def log_det_shape(layer, direction):
    mapped(layer, normal(9, 2), direction)
    log_det = getattr(layer, direction)(normal(9, 2))[1]
    expect(torch.is_tensor(log_det) and log_det.numel() > 1,
           "it is one number for a batch of 9 samples: summed over the batch, not only over the coordinates")


def log_det(layers, direction):
    for mask, layer in layers:
        # Central differences are exact for a map that is linear in what it transforms.
        v, step = normal(9, 2), 1 / 64
        ahead, back = ([mapped(layer, v + side * e, direction)[0] for e in torch.eye(2)] for side in (step, -step))
        jacobian = torch.stack([(a - b) / (2 * step) for a, b in zip(ahead, back)], dim=2)

        def expected(of=torch.clone, **change):
            return of(coupling(layer, mask, v, direction, **change)[1] if change else log_abs_det(jacobian)).expand(9)

        compare("the log-determinant", mapped(layer, v, direction)[1], expected, LOG_DET_MISTAKES)


def round_trip(layers):
    for _, layer in layers:
        v, words = normal(9, 2), "forward and inverse do not belong to the same s and t"
        y, log_det_jac = mapped(layer, v, "forward")
        x, inv_log_det_jac = mapped(layer, y, "inverse")
        compare("inverse(forward(x)) - x", x - v, torch.zeros(9, 2), otherwise=words)
        compare("the sum of both log-determinants", log_det_jac + inv_log_det_jac, torch.zeros(9), otherwise=words)


def layer_gradients(layer):
    expect(layer.forward(normal(9, 2))[0].requires_grad,
           "the output is cut off from autograd, by detach, no_grad or NumPy, and cannot be trained")
    gradients, parts = ask(layer, "gradients", layer.forward, normal(9, 2)), ("s_func", "t_func", "scale_factor")
    untouched = [name for name, moves in gradients.items() if not moves and name.partition(".")[0] in parts]
    expect(not untouched, f"no gradient reaches {', '.join(untouched)}")


checks("Part II, Task 6 (coupling layer)", {
    "the layer holds the fixed mask, s_func, t_func and scale_factor of the handout": layer_parts,
    **{f"{name} is Linear layers of widths 2-32-32-2 with LeakyReLU in between": partial(network, name=name)
       for name in ("s_func", "t_func")},
    "a fresh layer, with scale_factor 0, shifts but does not scale": lambda CouplingLayer: compare(
        "log_det_jac of a fresh layer", mapped(CouplingLayer(MASKS[0]), normal(9, 2), "forward")[1], torch.zeros(9),
        otherwise="scale_factor is forgotten, or does not start at 0"),
    **{f"{way} returns the coordinate with mask 1 as it came": partial(output, direction=way, value=1) for way in LOG_DETS},
    "forward gives x · exp(s) + t in the coordinate with mask 0": partial(output, direction="forward", value=0),
    "inverse gives (y - t) · exp(-s) in the coordinate with mask 0": partial(output, direction="inverse", value=0),
    **{f"{name} is one number per sample": partial(log_det_shape, direction=way) for way, name in LOG_DETS.items()},
    **{f"{name} is log|det| of {way}'s Jacobian, as differences have it": partial(log_det, direction=way)
       for way, name in LOG_DETS.items()},
    "inverse undoes forward, and their log-determinants are opposite": round_trip,
    "s_func, t_func and scale_factor get a gradient": layer_gradients,
    "the input is not changed": lambda layer: compare(
        "the input afterwards", ask(layer.forward, "afterwards", normal(9, 2)), normal(9, 2), {}, "it is overwritten in place"),
    "the input of inverse is not changed": lambda layer: compare(
        "the input afterwards", ask(layer.inverse, "afterwards", normal(9, 2)), normal(9, 2), {}, "it is overwritten in place"),
})

# Coupling flow -------------------------------------------------------------------------------------------------------

NUM_LAYERS = 4
MANY = 4000  # samples, where their distribution is judged
CHANCE = 5.5  # standard errors that chance does not reach
LOG_PROB_MISTAKES = {  # from x, its z and the sum of the inverse log-determinants
    "the prior is evaluated at x instead of z": lambda x, z, total: log_normal(x.double()) + total,
    "the log-determinants are subtracted instead of added, or the other way round": lambda x, z, total: log_normal(z) - total,
    "the log-determinants are left out": lambda x, z, total: log_normal(z),
    "log p(z) is left out": lambda x, z, total: total,
    "the log-determinants are summed over the batch": lambda x, z, total: log_normal(z) + total.sum(),
    "it is minus the log-probability": lambda x, z, total: -log_normal(z) - total,
}
PREPARED["flow"] = lambda CouplingFlow: redrawn(CouplingFlow(NUM_LAYERS))


def run(layers, v, direction="inverse"):
    """Pass v through layers one after another: the last output and the sum of the log-determinants, both float64."""
    total = torch.zeros(len(v)).double()
    for layer in layers:
        v, log_det = mapped(layer, v, direction)
        total = total + log_det
    return v.double(), total


def log_probability_of(flow, x):
    return per_sample("log_probability", flow.log_probability(x.to(torch.get_default_dtype())), len(x))


def number_of_layers(CouplingFlow):
    for num_layers in (1, 3, NUM_LAYERS):
        found = len(CouplingFlow(num_layers).layers)
        expect(found == num_layers, f"CouplingFlow({num_layers}) has {found} layers")


def masks_alternate(flow):
    v, moved = normal(50, 2), []
    for layer in flow.layers:
        out = mapped(layer, v, "forward")[0].to(v.dtype)
        moved.append(" and ".join(str(i + 1) for i in range(2) if not torch.equal(out[:, i], v[:, i])) or "none")
    words = f"the layers transform the coordinates {', '.join(moved)}, not 2 and 1 in turn"
    if moved in (["1"] * NUM_LAYERS, ["2"] * NUM_LAYERS):
        words = f"all {NUM_LAYERS} layers transform coordinate {moved[0]} only: the masks never alternate"
    if moved == ["1", "2"] * (NUM_LAYERS // 2):
        words = "the first layer keeps coordinate 2 and transforms coordinate 1, not the other way round"
    expect(moved == ["2", "1"] * (NUM_LAYERS // 2), words)


def log_probability_formula(flow):
    x, layers = normal(50, 2), list(flow.layers)

    def expected(formula=lambda x, z, total: log_normal(z) + total, layers=layers[::-1], direction="inverse"):
        return formula(x, *run(layers, x, direction))

    compare("log_probability", log_probability_of(flow, x), expected, {
        **{cause: {"formula": formula} for cause, formula in LOG_PROB_MISTAKES.items()},
        "the layers are inverted in the wrong order, first to last": {"layers": layers},
        "the layers run forward instead of being inverted": {"layers": layers, "direction": "forward"},
    })


def total_mass(CouplingFlow):
    # A flow close to its start, so that a window that holds its mass is known.
    flow, axis = CouplingFlow(NUM_LAYERS), torch.linspace(-12, 12, 161)
    values = ask(flow, "parameters").items()
    flow.load_state_dict({name: torch.full_like(v, 0.8) for name, v in values if name.endswith("scale_factor")}, strict=False)
    mass = log_probability_of(flow, torch.cartesian_prod(axis, axis)).exp().sum().item() * (axis[1] - axis[0]).item() ** 2
    expect(abs(mass - 1) <= 0.01, f"its integral is {mass:.3g}: the log-determinants do not belong to the map")


def drawn(flow, num_samples):
    """x of sample_x, and its log_prob, both float64."""
    x, log_prob = pair("sample_x", flow.sample_x(num_samples))
    return numbers("x", x, num_samples, 2), numbers("log_prob", log_prob, num_samples)


def sampled_log_prob(flow):
    x, log_prob = drawn(flow, 50)
    z, total = run(reversed(flow.layers), x)
    mistakes = {cause: formula(x, z, total) for cause, formula in LOG_PROB_MISTAKES.items()}
    mistakes["here it is right, and log_probability is wrong"] = log_normal(z) + total
    compare("log_prob", log_prob, log_probability_of(flow, x), mistakes,
            "the log-determinants of forward and inverse do not match (Task 6)")


def unlike_prior(z):
    """How samples differ from those of N(0, I) by their means and covariances, if they do."""
    mean, covariance = z.mean(0).abs().max(), (z.T.cov() - torch.eye(2).double()).abs().max()
    means, sds = (", ".join(f"{value:.2f}" for value in values) for values in (z.mean(0), z.std(0)))
    words = f"the means {means} and the standard deviations {sds}, not 0 and 1"
    return words if max(mean, covariance / math.sqrt(2)) * math.sqrt(len(z)) >= CHANCE else ""


def samples_follow_the_flow(flow):
    layers, (x, _) = list(flow.layers), drawn(flow, MANY)
    if words := unlike_prior(run(layers[::-1], x)[0]):
        ways = {
            "the layers are applied in the wrong order, last to first": (layers, x),
            "the last layer is left out": (layers[-2::-1], x),
            "the first layer is left out": (layers[:0:-1], x),
            "no layer is applied": ([], x),
            "the inverses are applied": (layers, x, "forward"),
        }
        fitting = (cause for cause, way in ways.items() if not unlike_prior(run(*way)[0]))
        raise Fault(f"undone by the inverses they have {words}: {next(fitting, 'they do not start from the prior')}")


def steps_of(flow, num_samples):
    """The steps as tensors; one too few is diagnosed."""
    steps = flow.sample_x_each_step(num_samples)
    expect(isinstance(steps, Sequence), f"it is a {type(steps).__name__}, not a list")
    steps = [numbers(f"step {k}", step, num_samples, 2) for k, step in enumerate(steps)]
    lost = {"the samples after the last layer are missing": 0, "the samples of the prior are missing at its start": 1}
    missing = "".join(f": {words}" for words, k in lost.items() if len(steps) == NUM_LAYERS
                      and near(steps[1], mapped(flow.layers[k], steps[0], "forward")[0]))
    expect(len(steps) == NUM_LAYERS + 1, f"it has {len(steps)} elements for {NUM_LAYERS} layers, not {NUM_LAYERS + 1}{missing}")
    return steps


def next_steps(flow):
    steps = steps_of(flow, 9)
    for k, (layer, before, after) in enumerate(zip(flow.layers, steps, steps[1:]), 1):
        mistakes = {"the layer is not applied": before, "the layer is inverted": mapped(layer, before, "inverse")[0]}
        compare(f"step {k}", after, mapped(layer, before, "forward")[0], mistakes)


def flow_gradients(flow):
    gradients = ask(flow, "gradients", flow.log_probability, normal(50, 2))
    reached = {name.split(".")[1] for name, moves in gradients.items() if moves and name.startswith("layers.")}
    untouched = [str(k + 1) for k in range(NUM_LAYERS) if str(k) not in reached]
    expect(not untouched, f"none reaches layer {', '.join(untouched)}")


checks("Part II, Task 8 (coupling flow)", {
    "the flow has as many layers as asked for": number_of_layers,
    "the layers transform the two coordinates in turn, the first of them the second coordinate": masks_alternate,
    "the prior is the standard normal distribution": lambda CouplingFlow: compare(
        "log p(z)", CouplingFlow(1).prior.log_prob(normal(50, 2)).reshape(50, -1).sum(1), log_normal(normal(50, 2))),
    "log_probability gives one number per sample":
        lambda flow: numbers("log_probability of 9 samples", flow.log_probability(normal(9, 2)), 9),
    "log_probability is log p(z) plus the inverse log-determinants, from the last layer to the first": log_probability_formula,
    "the density integrates to 1": total_mass,
    "log_prob of sample_x is what log_probability says of x": sampled_log_prob,
    "sample_x passes samples of the prior through all layers, first to last": samples_follow_the_flow,
    "the first step of sample_x_each_step is from the prior":
        lambda flow: expect(not (words := unlike_prior(steps_of(flow, MANY)[0])), f"it has {words}"),
    "each step of sample_x_each_step is the one before, passed through the next layer": next_steps,
    "log_probability passes a gradient to every layer": flow_gradients,
})

# Training: of a small flow, and of a model that has but a centre to learn, and notes what it is asked ------------------

EPOCHS = 30
NUM, SPLIT = 700, (630, 70)
FAR = 100.0  # where the centre starts: so far from 0 that a weight decay shows
OPTIMIZER_MISTAKES = {
    **{f"the learning rate is {rate}": {"lr": rate} for rate in (0.01, 0.005, 0.002, 0.0005, 0.0001)},
    **{f"it is SGD with learning rate {rate}": {"kind": optim.SGD, "lr": rate} for rate in (0.001, 0.01, 0.1)},
    **{f"its weight decay is {decay}": {"weight_decay": decay} for decay in (1e-2, 1e-3, 1e-4, 1e-5)},
    "it is AdamW": {"kind": optim.AdamW},
    "it is RMSprop": {"kind": optim.RMSprop},
    "gradients are not set to zero before each step": {"reset": False},
}


def to_numpy(to_np):
    array = to_np(normal(4, 2).requires_grad_())
    expect(isinstance(array, np.ndarray), f"it gives a {getattr(array, '_kind', type(array).__name__)}")
    compare("the array", array, normal(4, 2))


def train_small_flow(solution, CouplingFlow, ToyDataset, train):
    """A small flow's weights before training and after, its losses, and its loss on the data."""
    solution.ask("manual_seed", 8)
    data, flow = ToyDataset("GaussiansGrid", num_samples=300), CouplingFlow(2)
    before, result = ask(flow, "parameters"), train(flow, data, epochs=EPOCHS)
    found = len(result) if isinstance(result, Sequence) else type(result).__name__
    expect(found == 3, f"it returns {found}, not three values")
    model, *losses = result
    kind = getattr(model, "_kind", type(model).__name__)
    expect(solution.ask("isinstance", model, CouplingFlow), f"the first value is a {kind}, not a CouplingFlow")
    losses = [numbers(f"the list of {what} losses", [float(loss) for loss in part], EPOCHS).tolist()
              for what, part in zip(("training", "validation"), losses)]
    true = -log_probability_of(model, items(data, len(data))).mean().item()
    return SimpleNamespace(before=before, after=ask(model, "parameters"), losses=losses[0], true=true)


def losses_are_nll(trained):
    last, true = trained.losses[-1], trained.true
    cause = ": it is its negative" if abs(last + true) < 0.3 else ""
    words = f"the last training loss is {last:.2f}, but the trained model has {true:.2f} on its data{cause}"
    expect(abs(last - true) < 0.3, words)


def weights_change(trained):
    same = [name for name, value in trained.after.items() if torch.equal(value, trained.before[name])]
    wrong = [name for name in trained.before if name.endswith("mask") != (name in same)]
    expect(not wrong, f"{'as before' if {*wrong} & {*same} else 'changed'}: {', '.join(wrong)}")


class Seen:
    """How `train` went about a model that has but a centre to learn."""

    def __init__(self, solution, CouplingFlow, train, num, lowest_after=None, **options):
        self.points = normal(num, 2).float()
        found = solution.ask("watched", CouplingFlow, train, self.points, FAR, lowest_after, **options)
        notes, end, returned, *self.losses = found
        index = {tuple(point): i for i, point in enumerate(self.points.tolist())}
        batches = [[index.get(tuple(point)) for point in x.tolist()] for x, _ in notes]
        expect(not any(None in batch for batch in batches), "log_probability gets samples that are not those of the data")
        centres = [*(centre for _, centre in notes), end.detach()]
        steps = [not torch.equal(before, after) for before, after in zip(centres, centres[1:])]
        if batches[-1] in [batch for batch, step in zip(batches[:-1], steps) if not step]:
            steps[-1] = False  # after a batch of validation: the best weights are loaded into the model
        self.training, self.validation = ([note for *note, step in zip(batches, centres, steps) if step == wanted]
                                          for wanted in (True, False))  # batches as lists of indices, the centre before each
        self.batches, self.epochs = [batch for batch, _ in self.training], len(self.losses[0])
        words = f"in {self.epochs} epochs there are {len(self.batches)} steps"
        expect(self.batches and len(self.batches) % self.epochs == 0, words)
        self.path, self.returned = torch.stack([*(centre for _, centre in self.training), centres[-1]]), returned.detach()

    def loss(self, batch, centre):
        return (self.points[batch] - (centre - FAR)).square().sum(-1).mean() / 2

    def path_by(self, kind=optim.Adam, lr=LEARNING_RATE, reset=True, **options):
        """The centre after each step, from its start in units of 0.001, if an optimizer takes the steps."""
        centre = nn.Parameter(torch.full((2,), FAR, dtype=torch.float64))
        optimizer, path = kind([centre], lr=lr, **options), [centre.detach().clone()]
        for batch in self.batches:
            if reset:
                optimizer.zero_grad()
            self.loss(batch, centre).backward()
            optimizer.step()
            path.append(centre.detach().clone())
        return (torch.stack(path) - FAR) / LEARNING_RATE


SIGNATURES["to_np"] = ["x"]
PREPARED |= {
    "trained": lambda solution, CouplingFlow, ToyDataset, train:
        solution.once(train_small_flow, solution, CouplingFlow, ToyDataset, train),
    "watch": lambda solution, CouplingFlow, train: partial(solution.once, Seen, solution, CouplingFlow, train),
    "seen": lambda watch: watch(num=NUM, epochs=3),
}


def samples(part):
    return {i for batch, _ in part for i in batch}


def split(seen):
    training, validation = samples(seen.training), samples(seen.validation)
    both, found = training & validation, (len(training), len(validation))
    expect(not both, f"{len(both)} of {NUM} samples are for both")
    words = "of {} samples {} are for training and {} for validation, not {} and {}"
    expect(found == SPLIT, words.format(NUM, *found, *SPLIT))
    expect(max(training) - min(training) >= len(training), "they are taken in the order of the data, not at random")


def batch_sizes(watch, size, options):
    seen = watch(num=NUM, epochs=3, **options)
    sizes = [len(batch) for batch in seen.batches[: len(seen.batches) // seen.epochs]]
    num = NUM - len(samples(seen.validation))
    cause = ": the last, smaller one is dropped" if set(sizes) == {size} else ""
    expect(sizes == [size] * (num // size) + [num % size] * (num % size > 0),
           f"they have {', '.join(map(str, sizes))} samples{cause}")


def epoch_losses(seen):
    means = {}
    for what, part, found in zip(("training", "validation"), (seen.training, seen.validation), seen.losses):
        expect(part and len(part) % seen.epochs == 0, f"in {seen.epochs} epochs there are {len(part)} batches for {what}")
        losses = torch.stack([seen.loss(*note) for note in part]).reshape(seen.epochs, -1)
        sizes = torch.tensor([len(batch) for batch, _ in part]).reshape(seen.epochs, -1)
        means[f"they are those of {what}"] = losses.mean(1)
        if not near(found, (losses * sizes).sum(1) / sizes.sum(1)):  # which is as good
            mistakes = {"they are sums over the batches": losses.sum(1), **means}
            compare(f"the losses of {what}", found, losses.mean(1), mistakes)


def returned_weights(watch, num, kept):
    # Of 18 steps an epoch, step 41 has the lowest loss: for validation, epoch 2 is next to it, for training epoch 3.
    seen = watch(num=num, lowest_after=41.4, epochs=4, batch_size=250)
    found = [4 * step / len(seen.training) for step, centre in enumerate(seen.path) if torch.equal(centre, seen.returned)]
    which = {1: "first ones", 2: "ones of the lowest validation loss", 3: "ones of the lowest training loss", 4: "last ones"}
    found = found[:1]  # the model may end with these weights as well
    expect(found == [kept], f"after 4 epochs it returns the {which.get(found[0] if found else 0, 'ones of no epoch')}")


checks("Part II, training", {
    "to_np turns a tensor that requires a gradient into a NumPy array": to_numpy,
    "train returns the model and a training and a validation loss per epoch": lambda trained: None,
    "train lowers the training loss": lambda trained: expect(
        np.mean(trained.losses[-5:]) < trained.losses[0] - 0.1,
        f"it goes from {trained.losses[0]:.2f} to {trained.losses[-1]:.2f} in {EPOCHS} epochs"),
    "the losses are the mean of -log p(x)": losses_are_nll,
    "train changes all weights, but no mask": weights_change,
    "nine tenths of the samples, drawn at random, are for training and the others for validation": split,
    "a batch has 64 samples, or batch_size, and the last one the rest": partial(batch_sizes, size=64, options={}),
    "a batch has batch_size samples": partial(batch_sizes, size=100, options={"batch_size": 100}),
    "the batches are the same in each epoch": lambda seen: expect(
        seen.batches == seen.epochs * seen.batches[: len(seen.batches) // seen.epochs],
        "the samples are shuffled anew in each epoch, which the handout's train does not do"),
    "the optimizer is Adam with learning rate 0.001": lambda seen: compare(
        "a weight, in steps of 0.001,", (seen.path - FAR) / LEARNING_RATE, seen.path_by, OPTIMIZER_MISTAKES,
        "no usual optimizer moves it so"),
    "a loss is the mean over the batches of its epoch, that of validation after the epoch": epoch_losses,
    "without other arguments there are 100 epochs":
        lambda watch: expect((epochs := watch(num=20).epochs) == 100, f"there are {epochs}"),
    "with 500 samples for validation, the weights of the lowest validation loss are returned":
        partial(returned_weights, num=5000, kept=2),
    "with fewer samples for validation, the last weights are returned": partial(returned_weights, num=4990, kept=4),
})
