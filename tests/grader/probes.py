"""The questions: what is called in the sandbox, with inputs that come from outside. Results leave as they are.

`report(title, function)` sends what a function gives; a title begins with its share of the points, and its subject.
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
    def drawn(name, times, num=100):
        given = {"num_samples": num, "sigma": 0.5, "means": np.array(inputs["means"])}
        return [called(getattr(its, name), inputs["seed"] + i, **given) for i in range(times)]

    for name in ("sample_gaussian_mixture", "sample_spiral"):
        report(f"1 {name}: another seed gives other samples", lambda: not np.array_equal(*drawn(name, 2, 9)))
    name = "sample_gaussian_mixture"
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
    def items(wanted, *given, **more):
        found = its.ToyDataset("GaussiansRot", *given, **more)
        return [len(found), str(found[7].dtype), found[7] - tensor(its.sample_2d_datasets("GaussiansRot", *wanted)[7])]

    for name in ("Circles", "Moons", "GaussiansGrid", "GaussiansRot"):
        report(f"1 sample_2d_datasets: the points of {name}", lambda: its.sample_2d_datasets(name, 99, 4, 3))
    report("1 sample_2d_datasets: 1000 points with seed 0 and 5 Gaussians without other arguments",
           lambda: its.sample_2d_datasets("GaussiansRot"))
    report("1 ToyDataset: num_samples items, each a sample as a float32 tensor",
           lambda: [items((1000, 0, 5)), items((40, 3, 7), 40, 3, 7), items((50, 0, 5), num_samples=50)])


def fill(parameters, values):
    """Give learned numbers these values, as many as there are."""
    for i, parameter in enumerate(parameters):
        parameter.data.copy_(tensor(np.resize(np.roll(values, 97 * i), parameter.shape)))


def networks(its, inputs, report):
    layer, flow, x = its.CouplingLayer(tensor([1.0, 0.0])), its.CouplingFlow(3), 3 * tensor(inputs["x"])
    report("1 CouplingLayer: the mask stays as given, scale_factor is learned and starts at 0",
           lambda: [each for part in (layer.mask, layer.scale_factor) for each in (part, part.requires_grad)])
    functions = layer.s_func, layer.t_func
    report("1 s_func, t_func: Linear layers of widths 2-32-32-2",
           lambda: [[list(each.shape) for each in function.parameters()] for function in functions])
    for function in functions:
        fill(function.parameters(), inputs["weights"])
    report("1 s_func, t_func: LeakyReLU in between, nothing after", lambda: [function(x) for function in functions])
    report("1 CouplingFlow: as many layers as asked for, the masks (1, 0) and (0, 1) in turn",
           lambda: [each.mask for each in flow.layers])
    report("1 prior: the standard normal distribution", lambda: flow.prior.log_prob(x).reshape(len(x), -1).sum(1))


def coupling_layer(its, inputs, report):
    layers, x = [its.CouplingLayer(tensor(mask)) for mask in ([1.0, 0.0], [0.0, 1.0])], tensor(inputs["x"])
    for layer in layers:
        # Its networks are known ones, so that it is the layer alone that is asked.
        for name in ("s_func", "t_func"):
            setattr(layer, name, torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)))
        fill([*layer.s_func.parameters(), *layer.t_func.parameters()], inputs["weights"])
        layer.scale_factor = torch.nn.Parameter(tensor(inputs["scale_factor"]))

    def moved(way, x, part=slice(2)):
        return [list(getattr(layer, way)(x.clone()))[part] for layer in layers]

    for way, formula in (("forward", "x · exp(s) + t"), ("inverse", "(y − t) · exp(−s)")):
        report(f"3 {way}: {formula} where the mask is 0, the rest as it came", lambda: moved(way, x, 0))
        report(f"3 {way}: log|det| of the Jacobian, one number a sample", lambda: moved(way, x, 1))
        for name in ("s_func", "t_func"):
            report(f"1 {way}: gradients reach {name}, nothing is detached",
                   lambda: [slope(out, getattr(layer, name)[0].weight) for layer in layers
                            for out in getattr(layer, way)(x.clone())])
        report(f"1 {way}: right for one sample", lambda: moved(way, x[:1]))
        report(f"1 {way}: the input stays as it is", lambda: changed(getattr(layers[0], way), x))
    for layer, large in zip(layers, (30, -30)):
        fill([layer.s_func[2].bias, layer.t_func[2].bias], [large])
    for way in ("forward", "inverse"):
        report(f"1 {way}: right for large s too, nothing is clamped", lambda: moved(way, 30 * x))


def changed(function, x):
    """An input after a call."""
    given = x.clone()
    function(given)
    return given


def slope(out, of):
    """The gradient of a sum; zeros where autograd does not reach."""
    return torch.autograd.grad(out.sum() + 0 * of.sum(), of, retain_graph=True)[0]


def coupling_flow(its, inputs, report):
    flow, num, x = its.CouplingFlow(4), inputs["num"], tensor(inputs["x"]) / 2
    leaf, column = x.clone().requires_grad_(), False
    with contextlib.suppress(Exception):  # which is said of the layer
        column = flow.layers[0].forward(x.clone())[1].dim() == 2
    know(flow, inputs, column)
    name = "log_probability"
    report(f"4 {name}: log p(z) plus inverse log-determinants, last to first", lambda: flow.log_probability(x.clone()))
    report(f"1 {name}: right far out too, nothing is clamped", lambda: flow.log_probability(30 * x))
    report(f"1 {name}: gradients pass, nothing is detached", lambda: slope(flow.log_probability(1 * leaf), leaf))
    report(f"1 {name}: right for one sample", lambda: flow.log_probability(x[:1].clone()))
    report(f"0 {name}: the input stays as it is", lambda: changed(flow.log_probability, x))
    for name, share, words in (("sample_x", 3, "samples of the prior through all layers"),
                        ("sample_x_each_step", 1, "begins with samples of the prior")):
        draw = getattr(flow, name)
        report(f"1 {name}: each call gives new samples", lambda: not torch.equal(draw(9)[0], draw(9)[0]))
        report(f"{share} {name}: {words}", lambda: [draw(100)[0] for _ in range(300)])
    report("3 sample_x: log_prob is log p of the samples that come with it", lambda: list(flow.sample_x(num)))
    report("0 sample_x: one sample", lambda: list(np.shape(flow.sample_x(1)[0])))
    report(f"3 {name}: each step is the one before, through the next layer", lambda: list(draw(num)))


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
    points, ones = np.array(inputs["points"]), np.ones((5000, 2))
    valley = {"level": lambda k: -((k - 41.4) ** 2), "epochs": 4, "batch_size": 250}
    for title, part, given, options in (
            ("gradients are set to zero before each step", "last gradient", ones[:640], {"epochs": 1}),
            ("batches of 64, of nine tenths of the samples by random_split", "gradients", points[:700], {"epochs": 2}),
            ("batches of batch_size", "gradients", points[:700], {"epochs": 2, "batch_size": 100}),
            ("as many epochs as asked for", "epochs", ones[:20], {"epochs": 120}),
            ("100 epochs without other arguments", "epochs", ones[:20], {}),
            ("there is no weight decay", "way", ones[:20], {"epochs": 9, "steep": lambda k: 0, "start": 99.0}),
            ("Adam with learning rate 0.001 from first to last, no scheduler", "way", ones[:20], {"epochs": 120}),
            ("with 500 held out the best weights are returned", "way", ones, valley),
            ("with fewer the last weights are returned", "way", ones[:4990], valley),
            ("gradients are not clipped", "way", ones[:20], {"epochs": 9, "steep": lambda k: 9.0 * 2**k}),
            ("it is Adam itself, without amsgrad", "way", ones[:20],
             {"epochs": 120, "steep": lambda k: 0.1 if k < 3 else 0.001}),
            ("a loss is the mean of -log p over an epoch's batches", "losses", points[:640], {"epochs": 3})):
        report(f"1 train: {title}", lambda: trained(its, inputs["seed"], given, **options)[part])
    report("1 to_np: an array", lambda: type(its.to_np(tensor([1.0, 2.0]).requires_grad_())).__name__)


def trained(its, seed, points, steep=lambda k: 1, level=lambda k: 0, start=0.0, **options):
    """What a flow with but a centre to learn gets in training as gradients, its losses, and which way the centre goes.

    Its log p is linear in points and centre, as steep and on a level as the number of steps before says.
    """
    torch.manual_seed(seed)
    flow, data, gradients = its.CouplingFlow(1), torch.utils.data.Subset(tensor(points), range(len(points))), []
    data.data, data.num_samples = points, len(points)
    flow.centre = torch.nn.Parameter(torch.full((2,), start, dtype=torch.float64))
    flow.centre.register_post_accumulate_grad_hook(lambda centre: gradients.append(centre.grad.clone()))
    flow.log_probability = lambda x: level(len(gradients)) - steep(len(gradients)) * (x * flow.centre).sum(-1)
    returned, *losses = its.train(flow, data, **options)
    return {"gradients": torch.stack(gradients), "last gradient": gradients[-1], "way": returned.centre - start,
            "losses": np.array(losses, float), "epochs": [len(part) for part in losses]}


QUESTIONS = (samplers, estimator, data, networks, coupling_layer, coupling_flow, training)
