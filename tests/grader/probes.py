"""The questions: what is called in the sandbox, with inputs that come from outside. Results leave as they are.

`report(title, function)` sends what a function gives; a title begins with its share of the points, and its subject.
"""

import contextlib
import inspect

import numpy as np
import torch
from torch.nn.utils import vector_to_parameters


def tensor(given):
    return torch.tensor(given, dtype=torch.get_default_dtype())


def called(function, seed, **arguments):
    """Call a function with those arguments whose names it takes, and a NumPy generator of the new or the old kind."""
    takes = inspect.signature(function).parameters
    new, old = ({name: value for name, value in {**arguments, "rng": rng}.items() if name in takes}
                for rng in (np.random.default_rng(seed), np.random.RandomState(seed)))
    np.random.seed(seed)
    try:
        return function(**new)
    except (AttributeError, TypeError):
        return function(**old)


def samplers(its, inputs, report):
    def drawn(name, times):
        given = {"num_samples": 100, "sigma": 0.5, "means": np.array(inputs["means"])}
        return [called(getattr(its, name), inputs["seed"] + i, **given) for i in range(times)]

    for name in ("sample_spiral", "sample_gaussian_mixture"):
        report(f"1 {name}: another seed gives other samples", lambda: not np.array_equal(*drawn(name, 2)))
    report(f"2 {name}: normal noise of standard deviation sigma, new each time", lambda: drawn(name, 300))
    report(f"2 {name}: the component of each sample is drawn, with equal probabilities", lambda: drawn(name, 300))
    report("2 sample_spiral: the samples fill the plane like the spiral", lambda: drawn("sample_spiral", 300))


def estimator(its, inputs, report):
    plane, points, H = np.array(inputs["plane"]), np.array(inputs["points"])[:200], np.array(inputs["bandwidths"])

    def estimate(x, samples, H):
        return its.kernel_density_estimate(x=x, samples=samples, H=H)

    name, far = "kernel_density_estimate", 99 * points
    report(f"1 {name}: every sample counts", lambda: (found := estimate(far, far, H[2])) / found.max())
    report(f"2 {name}: right for a bandwidth matrix with different rows", lambda: estimate(plane, points, H[0]))
    report(f"2 {name}: right for H = 0.5 I", lambda: estimate(plane, points, H[2]))
    report(f"1 {name}: right for a matrix of negative determinant", lambda: estimate(plane, points, H[1]))
    report(f"1 {name}: right for one point", lambda: estimate(plane[:1], points, H[0]))


def data(its, inputs, report):
    points, names = its.sample_2d_datasets, ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")

    def items(*given):
        found, wanted = its.ToyDataset("GaussiansRot", *given), points("GaussiansRot", *(given or [1000]))
        return [len(found), str(found[7].dtype), found[7] - torch.tensor(wanted[7]).float()]

    report("1 sample_2d_datasets: the points of each name; 1000 with seed 0, of 5 Gaussians, without other arguments",
           lambda: [*(points(name, 99, 4, 3) for name in names), points("GaussiansRot")])
    report("1 ToyDataset: num_samples items, each a sample as a float32 tensor",
           lambda: [items(), items(40, 3, 7)])


def networks(its, inputs, report):
    layer, flow, x = its.CouplingLayer(tensor([1.0, 0.0])), its.CouplingFlow(3), 3 * tensor(inputs["points"])[:12]
    shapes = [list(each.shape) for function in (layer.s_func, layer.t_func) for each in function.parameters()]
    report("1 CouplingLayer: the mask stays as given, scale_factor is learned and starts at 0",
           lambda: [each for part in (layer.mask, layer.scale_factor) for each in (part, part.requires_grad)])
    vector_to_parameters(tensor(inputs["weights"]), [*layer.s_func.parameters(), *layer.t_func.parameters()])
    report("1 CouplingLayer: s_func and t_func are of widths 2-32-32-2, LeakyReLU in between, nothing after",
           lambda: [shapes, layer.s_func(x), layer.t_func(x)])
    report("1 CouplingFlow: its layers, with masks (1, 0), (0, 1) in turn", lambda: [each.mask for each in flow.layers])
    report("1 CouplingFlow: the prior is the standard normal distribution",
           lambda: flow.prior.log_prob(x).reshape(len(x), -1).sum(1))


def coupling_layer(its, inputs, report):
    layers, x = [its.CouplingLayer(tensor(mask)) for mask in ([1.0, 0.0], [0.0, 1.0])], tensor(inputs["points"])[:12]
    for layer in layers:
        # Its networks are known ones, so that it is the layer alone that is asked.
        layer.s_func, layer.t_func = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        vector_to_parameters(tensor(inputs["weights"]), [*layer.s_func.parameters(), *layer.t_func.parameters()])
        layer.scale_factor = torch.nn.Parameter(tensor(inputs["scale_factor"]))

    def moved(way, x, part=slice(2)):
        return [[*getattr(layer, way)(given := x.clone()), given][part] for layer in layers]

    for way, formula in (("forward", "x · exp(s) + t"), ("inverse", "(y − t) · exp(−s)")):
        report(f"3 {way}: {formula} where the mask is 0, the rest as it came", lambda: moved(way, x, 0))
        report(f"3 {way}: log|det| of the Jacobian, one number a sample", lambda: moved(way, x, 1))
        report(f"2 {way}: gradients reach s_func and t_func, nothing is detached",
               lambda: [slope(out, function.weight) for layer in layers for function in (layer.s_func, layer.t_func)
                        for out in getattr(layer, way)(x.clone())])
        report(f"1 {way}: right for one sample", lambda: moved(way, x[:1]))
        report(f"1 {way}: the input stays as it is", lambda: moved(way, x, 2))
    for layer, large in zip(layers, (30, -30)):
        vector_to_parameters(tensor(4 * [large]), [layer.s_func.bias, layer.t_func.bias])
    for way in ("forward", "inverse"):
        report(f"1 {way}: right for large s too, nothing is clamped", lambda: moved(way, 30 * x))


def slope(out, of):
    """The gradient of a sum; zeros where autograd does not reach."""
    return torch.autograd.grad(out.sum() + 0 * of.sum(), of, retain_graph=True)[0]


def coupling_flow(its, inputs, report):
    flow, x = its.CouplingFlow(4), tensor(inputs["points"])[:12] / 2
    leaf, column = x.clone().requires_grad_(), False
    with contextlib.suppress(Exception):  # which is said of the layer
        column = flow.layers[0].forward(x.clone())[1].dim() == 2
    know(flow, inputs, column)
    name = "log_probability"
    report(f"4 {name}: log p(z) plus inverse log-determinants, last to first", lambda: flow.log_probability(x.clone()))
    report(f"1 {name}: right far out too, nothing is clamped", lambda: flow.log_probability(30 * x))
    report(f"1 {name}: gradients pass, nothing is detached", lambda: slope(flow.log_probability(1 * leaf), leaf))
    report(f"1 {name}: right for one sample", lambda: flow.log_probability(x[:1].clone()))
    report(f"0 {name}: the input stays as it is", lambda: (flow.log_probability(given := x.clone()), given)[1])
    for name, share, words in (("sample_x", 3, "samples of the prior through all layers"),
                        ("sample_x_each_step", 1, "begins with samples of the prior")):
        draw = getattr(flow, name)
        report(f"1 {name}: each call gives new samples", lambda: not torch.equal(draw(9)[0], draw(9)[0]))
        report(f"{share} {name}: {words}", lambda: [draw(100)[0] for _ in range(300)])
    report("3 sample_x: log_prob is log p of the samples that come with it", lambda: list(flow.sample_x(1000)))
    report("0 sample_x: one sample", lambda: list(np.shape(flow.sample_x(1)[0])))
    report(f"3 {name}: each step is the one before, through the next layer", lambda: list(draw(1000)))


def know(flow, inputs, column=False):
    """Give a flow known maps as layers, so that it is the flow alone that is asked.

    Each coordinate goes to sinh(stretch · asinh z + shift); the log-determinant is (B,) or (B, 1).
    """
    def bend(z, a, b):
        inner = a * torch.asinh(z) + b
        log_slope = a.abs().log() + inner.cosh().log() - (1 + z * z).log() / 2
        return inner.sinh(), log_slope.sum(-1, keepdim=column)

    for layer, a, b in zip(flow.layers, tensor(inputs["stretches"]), tensor(inputs["shifts"])):
        layer.forward = lambda z, a=a, b=b: bend(z, a, b)
        layer.inverse = lambda x, a=a, b=b: bend(x, 1 / a, -b / a)


class Bowl(torch.nn.Module):
    """In place of a flow: what is learned is a centre, of which log p ignores the last coordinate."""

    def __init__(self, start):
        super().__init__()
        self.centre = torch.nn.Parameter(torch.full((3,), start, dtype=torch.float64))

    def log_probability(self, x):
        return -(x**2 * torch.cosh(10 * self.centre[:2])).sum(-1)


def training(its, inputs, report):
    def trained(start, num, **options):
        torch.manual_seed(inputs["seed"])
        data = torch.utils.data.Subset(tensor(inputs["points"]), range(num))
        data.data, data.num_samples = np.array(inputs["points"])[:num], num
        model, *losses = its.train(Bowl(start), data, **options)
        return [np.array(losses, float), model.centre]

    report("1 train: Adam of rate 0.001 and nothing else, mean losses of batches of nine tenths by random_split",
           lambda: trained(1.0, 60, epochs=120, batch_size=10))
    report("1 train: 100 epochs of batches of 64 without other arguments", lambda: trained(1.0, 100))
    # The best weights are those of the first epoch; in the second they leave the middle again.
    for num, words in ((5000, "500 held out the best"), (4990, "fewer the last")):
        report(f"1 train: with {words} weights are returned", lambda: trained(0.015, num, epochs=2, batch_size=250))
    report("1 to_np: an array", lambda: type(its.to_np(tensor([1.0, 2.0]).requires_grad_())).__name__)


QUESTIONS = (samplers, estimator, data, networks, coupling_layer, coupling_flow, training)
