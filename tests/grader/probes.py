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
    means, seed = array(inputs["means"]), inputs["seed"]

    def draw(num, i):
        return called(its.sample_gaussian_mixture, seed + i, num_samples=num, sigma=0.5, means=means)

    report("samples", lambda: draw(20_000, 0))
    report("batches", lambda: np.stack([draw(400, i) for i in range(1, 201)]))
    report("fresh", lambda: not np.array_equal(draw(9, 0), draw(9, 1)))


def spiral(its, inputs, report):
    report("samples", lambda: called(its.sample_spiral, inputs["seed"], num_samples=30_000))
    report("fresh", lambda: not np.array_equal(*(called(its.sample_spiral, inputs["seed"] + i, num_samples=9) for i in (0, 1))))


def kernel(its, inputs, report):
    x, samples = array(inputs["plane"]), array(inputs["points"])[:200]
    for key, H in inputs["bandwidths"].items():
        report(key, lambda H=H: its.kernel_density_estimate(x=x, samples=samples, H=array(H)))
    full = array(inputs["bandwidths"]["full"])
    report("one", lambda: its.kernel_density_estimate(x=x[:1], samples=samples, H=full))
    report("grid", lambda: its.kernel_density_on_grid(xs=x[:6, 0], ys=x[:6, 1], samples=samples, H=full))
    report("mixture", lambda: its.gaussian_mixture_density(x=x, sigma=0.6, means=array(inputs["means"]) / 100))
    report("spiral", lambda: its.spiral_density(x=x))


def data(its, inputs, report):
    report("sets", lambda: [its.sample_2d_datasets(name, 300, 4, num_gaussians=3) for name in SETS])
    report("default", lambda: its.sample_2d_datasets("GaussiansRot"))
    report("Squares", lambda: refused(its.sample_2d_datasets, "Squares"))
    report("items", lambda: [[len(data), *(data[i] for i in (0, 7, 19))] for data in (
        its.ToyDataset("GaussiansRot"), its.ToyDataset("GaussiansRot", 40, 3, 7), its.ToyDataset("Moons", num_samples=50))])
    report("dtype", lambda: str(its.ToyDataset("Moons", num_samples=50)[7].dtype))


def refused(function, *arguments):
    try:
        function(*arguments)
    except Exception:
        return True
    return False


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
        report(f"{name} shapes", lambda function=function: [list(p.shape) for p in function.parameters()])
        fill(function.parameters(), array(inputs["weights"]))
        report(name, lambda function=function: function(x))


def coupling_layer(its, inputs, report):
    layers = [its.CouplingLayer(tensor(mask)) for mask in ([1.0, 0.0], [0.0, 1.0])]
    for layer in layers:
        # Its networks are known ones, so that it is the layer alone that is asked.
        layer.s_func, layer.t_func = (torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
                                      for _ in range(2))
        fill([*layer.s_func.parameters(), *layer.t_func.parameters()], array(inputs["weights"]))
        fill([layer.scale_factor], array(inputs["scale_factor"]))
    x, far = tensor(inputs["x"]), 30 * tensor(inputs["x"])
    for way in ("forward", "inverse"):
        moves = [getattr(layer, way) for layer in layers]
        report(way, lambda moves=moves: [list(move(x.clone())) for move in moves])
        report(f"{way} far", lambda moves=moves: [list(move(far.clone())) for move in moves])
        report(f"{way} one", lambda moves=moves: [list(move(x[:1].clone())) for move in moves])
        report(f"{way} input", lambda moves=moves: changed(moves[0], x))
        report(f"{way} gradients", lambda moves=moves: [gradients(*pair, x) for pair in zip(layers, moves)])


def changed(function, x):
    """An input after a call."""
    given = x.clone()
    function(given)
    return given


def gradients(layer, move, x):
    """Of the sums of outputs and of log-determinants, by all that is learned; zeros where autograd does not reach."""
    learned = [layer.scale_factor, *layer.s_func.parameters(), *layer.t_func.parameters()]
    return [[slope(out, parameter) for parameter in learned] for out in move(x.clone())]


def slope(out, of):
    if not (out.requires_grad and of.requires_grad):
        return torch.zeros_like(of)
    found = torch.autograd.grad(out.sum(), of, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(of) if found is None else found


def coupling_flow(its, inputs, report):
    flow, num, x, far = its.CouplingFlow(4), inputs["num"], tensor(inputs["x"]), 30 * tensor(inputs["x"])
    report("layers", lambda: [len(its.CouplingFlow(count).layers) for count in (1, 3, 4)])
    report("masks", lambda: [layer.mask for layer in flow.layers])
    report("prior", lambda: flow.prior.log_prob(x).reshape(len(x), -1).sum(1))
    report("own", lambda: [list(np.shape(flow.log_probability(x))), len(flow.sample_x(9)), len(flow.sample_x_each_step(9))])
    try:
        column = flow.layers[0].forward(x)[1].dim() == 2
    except Exception:  # which is said of the layer
        column = False
    # From here on its layers are known maps, so that it is the flow alone that is asked.
    for layer, stretch, shift in zip(flow.layers, inputs["stretches"], inputs["shifts"]):
        layer.forward, layer.inverse = known_map(tensor(stretch), tensor(shift), column)
    report("log_probability", lambda: flow.log_probability(x.clone()))
    report("far", lambda: flow.log_probability(far.clone()))
    report("one", lambda: flow.log_probability(x[:1].clone()))
    report("input", lambda: changed(flow.log_probability, x))
    leaf = x.clone().requires_grad_()
    report("slope", lambda: slope(flow.log_probability(1 * leaf), leaf))
    report("sample_x", lambda: list(flow.sample_x(num)))
    report("sample_x fresh", lambda: not torch.equal(flow.sample_x(9)[0], flow.sample_x(9)[0]))
    report("sample_x one", lambda: [list(np.shape(part)) for part in flow.sample_x(1)][0])
    report("steps", lambda: list(flow.sample_x_each_step(num)))
    report("steps fresh", lambda: not torch.equal(flow.sample_x_each_step(9)[0], flow.sample_x_each_step(9)[0]))


def known_map(stretch, shift, column=False):
    """A map of each coordinate, sinh(stretch · asinh z + shift), and its inverse, each with its log-determinant (B,) or (B, 1)."""
    def bend(z, a, b):
        inner = a * torch.asinh(z) + b
        log_slope = a.abs().log() + inner.cosh().log() - (1 + z * z).log() / 2
        return inner.sinh(), log_slope.sum(-1, keepdim=column)

    return lambda z: bend(z, stretch, shift), lambda x: bend(x, 1 / stretch, -shift / stretch)


def training(its, inputs, report):
    for key, (num, lowest, options) in inputs["runs"].items():
        report(key, lambda num=num, lowest=lowest, options=options: watched(its, inputs, num, lowest, options))
    report("to_np", lambda: type(its.to_np(tensor([1.0, 2.0]).requires_grad_())).__name__)
    report("own", lambda: len(its.train(its.CouplingFlow(2), its.ToyDataset("GaussiansGrid", num_samples=100), epochs=3)[1]))


def watched(its, inputs, num, lowest, options):
    """What a flow that has but a centre to learn notes in training: batches, the centre before each, at the end, returned."""
    points, notes, moves = tensor(inputs["points"][:num]), [], []
    data = torch.utils.data.Subset(points, range(num))
    data.data, data.num_samples = points.numpy(), num

    class Watched(its.CouplingFlow):
        def log_probability(self, x):
            notes.append((x.detach().clone(), self.centre.detach().clone()))
            moves.extend([0] if len(notes) > 1 and not torch.equal(notes[-2][1], notes[-1][1]) else [])
            steps = len(moves)
            if lowest is None:
                weight = inputs["steep"] if steps < 4 else 1
                return -weight * (x - (self.centre - inputs["far"])).square().sum(-1) / 2
            return (self.centre - self.centre.detach()).sum() - ((steps - lowest) / 10) ** 2 + 0 * x.sum(-1)

    model = Watched(1)
    model.centre = torch.nn.Parameter(torch.full((2,), inputs["far"], dtype=torch.float64))
    returned, *losses = its.train(model, data, **options)
    return {"batches": [x[:, 0] for x, _ in notes], "centres": [centre for _, centre in notes], "end": model.centre,
            "returned": returned.centre, "losses": [[float(loss) for loss in part] for part in losses]}


QUESTIONS = (mixture, spiral, kernel, data, networks, coupling_layer, coupling_flow, training)
