"""The questions: what is called in the sandbox, with inputs that come from outside. Results leave as they are.

A question takes what the notebook defines, the inputs, and `report(title, function)`, which sends what it gives. A
title begins with its share of the task's points and its subject.
"""

import contextlib
import inspect

import numpy as np
import torch


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


def samplers(its, inputs, report):
    def draw(name, num, i=0):
        given = {"num_samples": num, "sigma": 0.5, "means": np.array(inputs["means"])}
        return called(getattr(its, name), inputs["seed"] + i, **given)

    name = "sample_gaussian_mixture"
    report(f"2 {name}: normal noise of standard deviation sigma, new each time", lambda: draw(name, 8000))
    report(f"2 {name}: the component is drawn with equal probabilities",
           lambda: np.stack([draw(name, 400, i) for i in range(1, 101)]))
    report("2 sample_spiral: the samples fill the plane like the spiral", lambda: draw("sample_spiral", 30_000))
    for name in ("sample_gaussian_mixture", "sample_spiral"):
        report(f"1 {name}: another seed gives other samples",
               lambda: not np.array_equal(draw(name, 9), draw(name, 9, 1)))


def estimator(its, inputs, report):
    x, samples, H = np.array(inputs["plane"]), np.array(inputs["points"])[:200], np.array(inputs["bandwidths"])
    for title, i, num in (("2 kernel_density_estimate: right for a bandwidth matrix with different rows", 0, None),
                          ("2 kernel_density_estimate: right for H = 0.5 I", 1, None),
                          ("1 kernel_density_estimate: right for a matrix of negative determinant", 2, None),
                          ("1 kernel_density_estimate: right for one point", 0, 1)):
        report(title, lambda: its.kernel_density_estimate(x=x[:num], samples=samples, H=H[i]))


def densities(its, inputs, report):
    x, samples, H = np.array(inputs["plane"]), np.array(inputs["points"])[:200], np.array(inputs["bandwidths"])[0]
    report("1 gaussian_mixture_density", lambda: its.gaussian_mixture_density(x, 0.6, np.array(inputs["means"]) / 100))
    report("1 spiral_density", lambda: its.spiral_density(x))
    report("1 kernel_density_on_grid", lambda: its.kernel_density_on_grid(x[:6, 0], x[:6, 1], samples, H))


def data(its, inputs, report):
    def items(*arguments, **more):
        given = its.ToyDataset(*arguments, **more)
        return [len(given), str(given[7].dtype), *(given[i] for i in (0, 7, 19))]

    sets = ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")
    report("1 sample_2d_datasets: the points of the four sets",
           lambda: [its.sample_2d_datasets(name, 300, 4, num_gaussians=3) for name in sets])
    report("1 sample_2d_datasets: 1000 points with seed 0 and 5 Gaussians without other arguments",
           lambda: its.sample_2d_datasets("GaussiansRot"))
    report("1 ToyDataset: num_samples items, each a sample as a float32 tensor",
           lambda: [items("GaussiansRot"), items("GaussiansRot", 40, 3, 7), items("Moons", num_samples=50)])


def fill(parameters, values):
    """Give learned numbers these values, as many as there are."""
    for parameter in parameters:
        size = parameter.numel()
        parameter.data.copy_(tensor(np.resize(values, size)).view_as(parameter))
        values = np.roll(values, -size)


def networks(its, inputs, report):
    layer, flow, x = its.CouplingLayer(tensor([1.0, 0.0])), its.CouplingFlow(3), 3 * tensor(inputs["x"])
    report("1 CouplingLayer: mask is the one given, scale_factor starts at 0", lambda: [layer.mask, layer.scale_factor])
    report("1 CouplingLayer: scale_factor is learned, mask is not",
           lambda: [layer.mask.requires_grad, layer.scale_factor.requires_grad])
    for name in ("s_func", "t_func"):
        function = getattr(layer, name)
        report(f"1 {name}: Linear layers of widths 2-32-32-2",
               lambda: [list(each.shape) for each in function.parameters()])
        fill(function.parameters(), inputs["weights"])
        report(f"1 {name}: LeakyReLU in between, nothing after", lambda: function(x))
    report("1 CouplingFlow: as many layers as asked for, the masks (1, 0) and (0, 1) in turn",
           lambda: [each.mask for each in flow.layers])
    report("1 CouplingFlow: the prior is the standard normal distribution",
           lambda: flow.prior.log_prob(x).reshape(len(x), -1).sum(1))


def coupling_layer(its, inputs, report):
    layers, x = [its.CouplingLayer(tensor(mask)) for mask in ([1.0, 0.0], [0.0, 1.0])], tensor(inputs["x"])
    for layer in layers:
        # Its networks are known ones, so that it is the layer alone that is asked.
        for name in ("s_func", "t_func"):
            setattr(layer, name, torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)))
        fill([*layer.s_func.parameters(), *layer.t_func.parameters()], inputs["weights"])
        fill([layer.scale_factor], inputs["scale_factor"])

    def moved(way, x, part=slice(2)):
        return [list(getattr(layer, way)(x.clone()))[part] for layer in layers]

    for way, formula in (("forward", "x · exp(s) + t"), ("inverse", "(y − t) · exp(−s)")):
        report(f"3 {way}: {formula} where the mask is 0, the rest as it came", lambda: moved(way, x, 0))
        report(f"3 {way}: log|det| of the Jacobian, one number a sample", lambda: moved(way, x, 1))
        report(f"1 {way}: gradients reach all that is learned", lambda: [gradients(layer, way, x) for layer in layers])
        report(f"1 {way}: right for one sample", lambda: moved(way, x[:1]))
        report(f"1 {way}: the input stays as it is", lambda: changed(getattr(layers[0], way), x))
    for layer, large in zip(layers, (12, -12)):
        fill([layer.s_func[2].bias, layer.t_func[2].bias], [large])
    for way in ("forward", "inverse"):
        report(f"1 {way}: right for large s too, nothing is clamped", lambda: moved(way, 30 * x))


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
    leaf, column, name = x.clone().requires_grad_(), False, "sample_x_each_step"
    report("0 CouplingFlow: the three methods run with the notebook's own layers", lambda: [
        list(np.shape(flow.log_probability(x))), len(flow.sample_x(9)), len(flow.sample_x_each_step(9))])
    with contextlib.suppress(Exception):  # which is said of the layer
        column = flow.layers[0].forward(x)[1].dim() == 2
    know(flow, inputs, column)
    report("4 log_probability: log p(z) plus the inverse log-determinants, last layer to first",
           lambda: flow.log_probability(x))
    report("1 log_probability: right far out too, nothing is clamped", lambda: flow.log_probability(30 * x))
    report("1 log_probability: gradients pass all of it", lambda: slope(flow.log_probability(1 * leaf), leaf))
    report("1 log_probability: right for one sample", lambda: flow.log_probability(x[:1].clone()))
    report("0 log_probability: the input stays as it is", lambda: changed(flow.log_probability, x))
    report("3 sample_x: samples of the prior through all layers", lambda: list(flow.sample_x(num)))
    report("3 sample_x: log_prob is log p of the samples that come with it", lambda: list(flow.sample_x(num)))
    report("1 sample_x: each call gives new samples", lambda: not torch.equal(flow.sample_x(9)[0], flow.sample_x(9)[0]))
    report("0 sample_x: one sample", lambda: list(np.shape(flow.sample_x(1)[0])))
    report(f"1 {name}: begins with samples of the prior", lambda: list(flow.sample_x_each_step(num)))
    report(f"3 {name}: each step is the one before, through the next layer", lambda: list(flow.sample_x_each_step(num)))
    report(f"1 {name}: each call gives new samples",
           lambda: not torch.equal(flow.sample_x_each_step(9)[0], flow.sample_x_each_step(9)[0]))


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
    for title, part, num, lowest, options in (
            ("Adam with learning rate 0.001, nine tenths by random_split, batches of 64", 0, 700, None, {"epochs": 3}),
            ("a loss is the mean of -log p over an epoch's batches", 1, 700, None, {"epochs": 3}),
            ("batches of batch_size", 0, 700, None, {"epochs": 2, "batch_size": 100}),
            ("the learning rate stays the same, without a scheduler", 0, 20, None, {"epochs": 120}),
            ("as many epochs as asked for", 1, 20, None, {"epochs": 120}),
            ("100 epochs without other arguments", 1, 20, None, {}),
            ("with 500 held out the best weights are returned", 2, 5000, 41.4, {"epochs": 4, "batch_size": 250}),
            ("with fewer the last weights are returned", 2, 4990, 41.4, {"epochs": 4, "batch_size": 250})):
        report(f"1 train: {title}", lambda: watched(its, inputs, num, lowest, options)[part])
    report("1 to_np: an array, with which train runs on the notebook's own flow and data", lambda: [
        type(its.to_np(tensor([1.0, 2.0]).requires_grad_())).__name__,
        len(its.train(its.CouplingFlow(2), its.ToyDataset("Moons", num_samples=100), epochs=3)[1])])


def watched(its, inputs, num, lowest, options):
    """All centres of a flow in training that has but a centre to learn; the losses; the epoch, of 4, that is returned.

    Its loss is that of a normal distribution, very steep at first; or falls until a step and rises from then on.
    """
    torch.manual_seed(inputs["seed"])
    points, path, far = tensor(inputs["points"][:num]), [], 100
    data = torch.utils.data.Subset(points, range(num))
    data.data, data.num_samples = points.numpy(), num

    class Watched(its.CouplingFlow):
        def log_probability(self, x):
            if not path or not torch.equal(path[-1], self.centre):
                path.append(self.centre.detach().clone())
            if lowest is None:
                return -(300 if len(path) < 5 else 1) * (x - (self.centre - far)).square().sum(-1) / 2
            return (self.centre - self.centre.detach()).sum() - ((len(path) - lowest) / 10) ** 2 + 0 * x.sum(-1)

    model = Watched(1)
    model.centre = torch.nn.Parameter(torch.full((2,), far, dtype=torch.float64))
    returned, *losses = its.train(model, data, **options)
    epoch = [4 * i / max(1, len(path) - 1) for i, centre in enumerate(path) if torch.equal(centre, returned.centre)]
    return path, [[float(loss) for loss in part] for part in losses], epoch


QUESTIONS = (samplers, estimator, coupling_layer, coupling_flow, densities, data, networks, training)
