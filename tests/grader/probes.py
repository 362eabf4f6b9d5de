"""The questions: what is called in the sandbox, with inputs that come from outside. Results leave as they are, unjudged.

A question takes what the notebook defines, the inputs, and `report(key, function)`, which sends what a function gives.
"""

import inspect

import numpy as np
import torch

SETS = ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")


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
    def draw(num, i):
        given = {"num_samples": num, "sigma": 0.5, "means": np.array(inputs["means"])}
        return called(its.sample_gaussian_mixture, inputs["seed"] + i, **given)

    report("samples", lambda: draw(8000, 0))
    report("batches", lambda: np.stack([draw(400, i) for i in range(1, 101)]))
    report("fresh", lambda: not np.array_equal(draw(9, 0), draw(9, 1)))


def spiral(its, inputs, report):
    def draw(num, i):
        return called(its.sample_spiral, inputs["seed"] + i, num_samples=num)

    report("samples", lambda: draw(30_000, 0))
    report("fresh", lambda: not np.array_equal(draw(9, 0), draw(9, 1)))


def kernel(its, inputs, report):
    x, samples, H = np.array(inputs["plane"]), np.array(inputs["points"])[:200], np.array(inputs["bandwidths"])
    for i, key in enumerate(("full", "negative", "round")):
        report(key, lambda: its.kernel_density_estimate(x=x, samples=samples, H=H[i]))
    report("one", lambda: its.kernel_density_estimate(x=x[:1], samples=samples, H=H[0]))
    report("grid", lambda: its.kernel_density_on_grid(xs=x[:6, 0], ys=x[:6, 1], samples=samples, H=H[0]))
    report("mixture", lambda: its.gaussian_mixture_density(x=x, sigma=0.6, means=np.array(inputs["means"]) / 100))
    report("spiral", lambda: its.spiral_density(x=x))


def data(its, inputs, report):
    def items(*arguments, **more):
        given = its.ToyDataset(*arguments, **more)
        return [len(given), str(given[7].dtype), *(given[i] for i in (0, 7, 19))]

    report("sets", lambda: [its.sample_2d_datasets(name, 300, 4, num_gaussians=3) for name in SETS])
    report("default", lambda: its.sample_2d_datasets("GaussiansRot"))
    report("items", lambda: [items("GaussiansRot"), items("GaussiansRot", 40, 3, 7), items("Moons", num_samples=50)])


def fill(parameters, values):
    """Give learned numbers these values, as many as there are."""
    for parameter in parameters:
        size = parameter.numel()
        parameter.data.copy_(tensor(np.resize(values, size)).view_as(parameter))
        values = np.roll(values, -size)


def networks(its, inputs, report):
    layer, x = its.CouplingLayer(tensor([1.0, 0.0])), 3 * tensor(inputs["x"])
    report("parts", lambda: [layer.mask, layer.scale_factor])
    report("learned", lambda: [layer.mask.requires_grad, layer.scale_factor.requires_grad])
    for name in ("s_func", "t_func"):
        function = getattr(layer, name)
        report(f"{name} shapes", lambda: [list(parameter.shape) for parameter in function.parameters()])
        fill(function.parameters(), inputs["weights"])
        report(name, lambda: function(x))


def coupling_layer(its, inputs, report):
    layers, x = [its.CouplingLayer(tensor(mask)) for mask in ([1.0, 0.0], [0.0, 1.0])], tensor(inputs["x"])
    for layer in layers:
        # Its networks are known ones, so that it is the layer alone that is asked.
        for name in ("s_func", "t_func"):
            setattr(layer, name, torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)))
        fill([*layer.s_func.parameters(), *layer.t_func.parameters()], inputs["weights"])
        fill([layer.scale_factor], inputs["scale_factor"])
    for way in ("forward", "inverse"):
        report(way, lambda: moved(layers, way, x))
        report(f"{way} one", lambda: moved(layers, way, x[:1]))
        report(f"{way} input", lambda: changed(getattr(layers[0], way), x))
        report(f"{way} gradients", lambda: [gradients(layer, way, x) for layer in layers])
    for layer, large in zip(layers, (12, -12)):
        fill([layer.s_func[2].bias, layer.t_func[2].bias], [large])
    for way in ("forward", "inverse"):
        report(f"{way} far", lambda: moved(layers, way, 30 * x))


def moved(layers, way, x):
    return [list(getattr(layer, way)(x.clone())) for layer in layers]


def changed(function, x):
    """An input after a call."""
    given = x.clone()
    function(given)
    return given


def gradients(layer, way, x):
    """Of the sums of outputs and of log-determinants, by all that is learned; zeros where autograd does not reach."""
    learned = [layer.scale_factor, *layer.s_func.parameters(), *layer.t_func.parameters()]
    return [[slope(out, parameter) for parameter in learned] for out in getattr(layer, way)(x.clone())]


def slope(out, of):
    if not (out.requires_grad and of.requires_grad):
        return torch.zeros_like(of)
    found = torch.autograd.grad(out.sum(), of, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(of) if found is None else found


def coupling_flow(its, inputs, report):
    flow, num, x = its.CouplingFlow(4), inputs["num"], tensor(inputs["x"])
    report("layers", lambda: [len(its.CouplingFlow(count).layers) for count in (1, 3, 4)])
    report("masks", lambda: [layer.mask for layer in flow.layers])
    report("prior", lambda: flow.prior.log_prob(x).reshape(len(x), -1).sum(1))
    report("own", lambda: [list(np.shape(flow.log_probability(x))), len(flow.sample_x(9)), len(flow.sample_x_each_step(9))])
    try:
        column = flow.layers[0].forward(x)[1].dim() == 2
    except Exception:  # which is said of the layer
        column = False
    know(flow, inputs, column)
    for key, given in (("log_probability", x), ("far", 30 * x), ("one", x[:1])):
        report(key, lambda: flow.log_probability(given.clone()))
    report("input", lambda: changed(flow.log_probability, x))
    leaf = x.clone().requires_grad_()
    report("slope", lambda: slope(flow.log_probability(1 * leaf), leaf))
    for name in ("sample_x", "sample_x_each_step"):
        report(name, lambda: list(getattr(flow, name)(num)))
        report(f"{name} fresh", lambda: not torch.equal(*(getattr(flow, name)(9)[0] for _ in range(2))))
        report(f"{name} one", lambda: list(np.shape(getattr(flow, name)(1)[0])))


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


def training(its, inputs, report):
    for key, (num, lowest, options) in inputs["runs"].items():
        report(key, lambda: watched(its, inputs, num, lowest, options))
    report("own", lambda: [type(its.to_np(tensor([1.0, 2.0]).requires_grad_())).__name__, len(
        its.train(its.CouplingFlow(2), its.ToyDataset("Moons", num_samples=100), epochs=3)[1])])


def watched(its, inputs, num, lowest, options):
    """What a flow that has but a centre to learn notes of training: all its centres, losses, what is returned.

    Its loss is that of a normal distribution, very steep at first; or falls until a step and rises from then on.
    """
    torch.manual_seed(inputs["seed"])
    points, path = tensor(inputs["points"][:num]), []
    data = torch.utils.data.Subset(points, range(num))
    data.data, data.num_samples = points.numpy(), num

    class Watched(its.CouplingFlow):
        def log_probability(self, x):
            if not path or not torch.equal(path[-1], self.centre):
                path.append(self.centre.detach().clone())
            if lowest is None:
                weight = inputs["steep"] if len(path) < 5 else 1
                return -weight * (x - (self.centre - inputs["far"])).square().sum(-1) / 2
            return (self.centre - self.centre.detach()).sum() - ((len(path) - lowest) / 10) ** 2 + 0 * x.sum(-1)

    model = Watched(1)
    model.centre = torch.nn.Parameter(torch.full((2,), inputs["far"], dtype=torch.float64))
    returned, *losses = its.train(model, data, **options)
    epoch = [4 * i / max(1, len(path) - 1) for i, centre in enumerate(path) if torch.equal(centre, returned.centre)]
    return {"path": path[:130], "losses": [[float(loss) for loss in part] for part in losses], "epoch": epoch}


QUESTIONS = (mixture, spiral, kernel, data, networks, coupling_layer, coupling_flow, training)
