"""The questions: what is called in the sandbox, with inputs that come from outside. Results leave as they are, unjudged.

A question takes what the notebook defines, the inputs, and `report(key, function)`, which sends what a function gives.
"""

import inspect

import numpy as np
import torch

SETS = ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")


def array(given):
    return np.array(given, dtype=float)


def tensor(given):
    return torch.tensor(given, dtype=torch.get_default_dtype())


def called(function, seed, **arguments):
    """Call a function with those arguments whose names it takes, and a NumPy generator of the new or the old kind."""
    takes = inspect.signature(function).parameters
    arguments = {name: value for name, value in arguments.items() if name in takes}
    if "rng" not in takes:
        np.random.seed(seed)
        return function(**arguments)
    try:
        return function(**arguments, rng=np.random.default_rng(seed))
    except (AttributeError, TypeError):
        return function(**arguments, rng=np.random.RandomState(seed))


def mixture(its, inputs, report):
    seed, means, sample = inputs["seed"], array(inputs["means"]), its.sample_gaussian_mixture
    for key, start in (("samples", seed), ("others", seed + 1)):
        report(key, lambda start=start: called(sample, start, num_samples=20_000, sigma=0.5, means=means))
    report("batches", lambda: np.stack([called(sample, seed + 2 + i, num_samples=400, sigma=0.5, means=means)
                                        for i in range(200)]))
    report("density", lambda: its.gaussian_mixture_density(array(inputs["plane"]), 0.5, array(inputs["close_means"])))


def spiral(its, inputs, report):
    for key, start in (("samples", inputs["seed"]), ("others", inputs["seed"] + 1)):
        report(key, lambda start=start: called(its.sample_spiral, start, num_samples=40_000))
    report("density", lambda: its.spiral_density(array(inputs["plane"])))


def kernel(its, inputs, report):
    x, samples = array(inputs["plane"]), array(inputs["points"])[:200]
    for key, H in inputs["bandwidths"].items():
        report(key, lambda H=H: its.kernel_density_estimate(x, samples, array(H)))
    report("one", lambda: its.kernel_density_estimate(x[:1], samples, array(inputs["bandwidths"]["full"])))
    xs, ys = array(inputs["xs"]), array(inputs["ys"])
    report("grid", lambda: its.kernel_density_on_grid(xs, ys, samples, array(inputs["bandwidths"]["full"])))


def toy_sets(its, inputs, report):
    for dist_type in SETS:
        report(dist_type, lambda name=dist_type: its.sample_2d_datasets(name, 300, 4, num_gaussians=3))
    report("default", lambda: its.sample_2d_datasets("GaussiansRot"))
    report("Squares", lambda: its.sample_2d_datasets("Squares"))


def toy_items(its, inputs, report):
    report("type", lambda: str(its.ToyDataset("Moons", num_samples=50)[7].dtype))
    for key, arguments in (("default", ["GaussiansRot"]), ("given", ["GaussiansRot", 40, 3, 7])):
        data = its.ToyDataset(*arguments)
        report(f"{key} length", lambda data=data: len(data))
        report(key, lambda data=data: [data[i] for i in range(20)])


def fill(parameters, values):
    """Give learned numbers these values, as many as there are."""
    for parameter in parameters:
        size = parameter.numel()
        parameter.data.copy_(tensor(np.resize(values, size)).view_as(parameter))
        values = np.roll(values, -size)


def coupling_layer(its, inputs, report):
    x = tensor(inputs["x"])
    for k, mask in enumerate(inputs["masks"]):
        layer = its.CouplingLayer(tensor(mask))
        report(f"mask{k}", lambda layer=layer: layer.mask)
        report("learned", lambda layer=layer: {name: getattr(layer, name).requires_grad for name in ("mask", "scale_factor")})
        report("scale_factor", lambda layer=layer: layer.scale_factor)
        fill([layer.scale_factor], array(inputs["scale_factor"]))
        for name in ("s", "t"):
            function, values = getattr(layer, f"{name}_func"), array(inputs[f"{name}_weights"])
            report(f"{name}_shapes", lambda function=function: [list(p.shape) for p in function.parameters()])
            fill(function.parameters(), values)
            report(f"{name}_seen", lambda function=function: function(x))
            for key, kept in (("kept", mask), ("all", [1, 1]), ("moved", [1 - one for one in mask])):
                report(f"{name}_{key}{k}", lambda function=function, kept=kept: function(x * tensor(kept)))
        for way, move in (("forward", layer), ("inverse", layer.inverse)):
            report(f"{way}{k}", lambda move=move: move(x.clone()))
            report(f"{way}_one{k}", lambda move=move: move(x[:1].clone()))
            report(f"{way}_input{k}", lambda move=move: changed(move, x))
            report(f"{way}_gradients{k}", lambda move=move, layer=layer: gradients(layer, move(x.clone())))


def changed(function, x):
    """An input after a call."""
    given = x.clone()
    function(given)
    return given


def gradients(layer, outputs):
    """Of the sums of an output and of a log-determinant, by scale_factor; and whether the output's reaches both networks."""
    slopes = [torch.autograd.grad(out.sum(), layer.scale_factor, retain_graph=True)[0] for out in outputs]
    first = [next(function.parameters()) for function in (layer.s_func, layer.t_func)]
    reached = torch.autograd.grad(outputs[0].sum(), first, allow_unused=True)
    return [*slopes, *(slope is not None and bool(slope.any()) for slope in reached)]


def coupling_flow(its, inputs, report):
    flow, num = its.CouplingFlow(len(inputs["stretches"])), inputs["num"]
    for count in (1, 3):
        report(f"layers{count}", lambda count=count: len(its.CouplingFlow(count).layers))
    report("layers", lambda: len(flow.layers))
    report("masks", lambda: [layer.mask for layer in flow.layers])
    report("prior", lambda: flow.prior.log_prob(tensor(inputs["x"])).reshape(len(inputs["x"]), -1).sum(1))
    report("prior_samples", lambda: flow.prior.sample((num,)))
    fill([p for name, p in flow.named_parameters() if not name.endswith("mask")], array(inputs["s_weights"]))
    report("own", lambda: [flow.log_probability(tensor(inputs["x"])), flow.sample_x(9)[0], len(flow.sample_x_each_step(9))])
    # From here on its layers are known maps, so that it is the flow alone that is asked.
    for layer, stretch, shift in zip(flow.layers, inputs["stretches"], inputs["shifts"]):
        layer.forward, layer.inverse = known_map(tensor(stretch), tensor(shift))
    x = tensor(inputs["x"])
    report("log_probability", lambda: flow.log_probability(x.clone()))
    report("one", lambda: flow.log_probability(x[:1].clone()))
    report("input", lambda: changed(flow.log_probability, x))
    leaf = x.clone().requires_grad_()
    report("slope", lambda: torch.autograd.grad(flow.log_probability(1 * leaf).sum(), leaf)[0])
    report("samples", lambda: flow.sample_x(num))
    report("again", lambda: [flow.sample_x(9)[0] for _ in range(2)])
    report("one_sample", lambda: flow.sample_x(1))
    report("steps", lambda: list(flow.sample_x_each_step(num)))
    report("steps_again", lambda: [flow.sample_x_each_step(9)[0] for _ in range(2)])


def known_map(stretch, shift):
    """A map of each coordinate, sinh(stretch · asinh z + shift), and its inverse, each with its log-determinant."""
    def bend(z, a, b):
        inner = a * torch.asinh(z) + b
        log_slope = a.abs().log() + inner.cosh().log() - (1 + z * z).log() / 2
        return inner.sinh(), log_slope.sum(-1)

    return lambda z: bend(z, stretch, shift), lambda x: bend(x, 1 / stretch, -shift / stretch)


def training(its, inputs, report):
    report("to_np", lambda: [type(its.to_np(tensor([1.0, 2.0]).requires_grad_())).__name__])
    report("own", lambda: its.train(its.CouplingFlow(2), its.ToyDataset("GaussiansGrid", num_samples=100), epochs=3)[1:])
    for key, (num, lowest, options) in inputs["runs"].items():
        report(key, lambda num=num, lowest=lowest, options=options: watched(its, inputs, num, lowest, options))


def watched(its, inputs, num, lowest, options):
    """What a flow that has but a centre to learn notes in training: batches, the centre before each, at the end, returned."""
    points, notes = tensor(inputs["points"][:num]), []
    data = torch.utils.data.Subset(points, range(num))
    data.data, data.num_samples = points.numpy(), num

    class Watched(its.CouplingFlow):
        def log_probability(self, x):
            notes.append((x.detach().clone(), self.centre.detach().clone()))
            steps = sum(not torch.equal(a, b) for (_, a), (_, b) in zip(notes, notes[1:]))
            if lowest is None:
                weight = inputs["steep"] if steps < 4 else 1
                return -weight * (x - (self.centre - inputs["far"])).square().sum(-1) / 2
            return (self.centre - self.centre.detach()).sum() - ((steps - lowest) / 10) ** 2 + 0 * x.sum(-1)

    model = Watched(1)
    model.centre = torch.nn.Parameter(torch.full((2,), inputs["far"], dtype=torch.float64))
    returned, *losses = its.train(model, data, **options)
    return {"batches": [x[:, 0] for x, _ in notes], "centres": [centre for _, centre in notes], "end": model.centre,
            "returned": returned.centre, "losses": [[float(loss) for loss in part] for part in losses]}


QUESTIONS = (mixture, spiral, kernel, toy_sets, toy_items, coupling_layer, coupling_flow, training)
