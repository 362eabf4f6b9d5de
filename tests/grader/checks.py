"""What is right, and what went wrong where it is not: judged here, outside of the sandbox, by what a notebook sent."""

import math
import secrets
import signal
from itertools import combinations, product
from types import SimpleNamespace

import numpy as np
from scipy.stats import kstest

from reference import MEANS, kernel_estimate, mixture, plane, toy_points

CHECKS = []
RNG = np.random.default_rng(secrets.randbits(64))  # nobody knows the inputs before
SAMPLERS, ESTIMATE, ON_GRID = "Part I, Task 1 (samplers)", "Part I, Task 2 (estimator)", "Part I, Task 3 (true densities, grid)"
LAYER, FLOW = "Part II, Task 6 (coupling layer)", "Part II, Task 8 (coupling flow)"
GIVEN, TRAINING = "Given code (data, networks, prior)", "Given code (train)"
PARAMETERS = {  # names of ours, by which Part I can be graded
    "sample_gaussian_mixture": ["num_samples", "sigma", "means"], "sample_spiral": ["num_samples"],
    "kernel_density_estimate": ["x", "samples", "H"], "kernel_density_on_grid": ["xs", "ys", "samples", "H"],
    "gaussian_mixture_density": ["x", "sigma", "means"], "spiral_density": ["x"],
}
OF_QUESTIONS = {"toy_sets": ["sample_2d_datasets"], "toy_items": ["ToyDataset"], "coupling_layer": ["CouplingLayer"],
                "coupling_flow": ["CouplingFlow"], "training": ["train", "CouplingFlow"]}


class Fault(Exception):
    """What is wrong."""


class NotJudged(Exception):
    """Why something cannot be judged: it earns no points, and its cause is reported elsewhere."""


class NotGraded(Exception):
    """Why something is no part of the points: a notebook does not have to define it by these names."""


def check(task, title, share=1, name=None):
    """Register a function of a run's answers, which raises a Fault where the title is false; it has a share in the task."""
    def register(function):
        CHECKS.append((task, title, share, name, function))
        return function
    return register


def grade(run):
    """The verdicts on a run: (task, title, share, outcome, message), the outcome PASS, FAIL, NOT JUDGED or NOT GRADED."""
    answers = Answers(run)
    for task, title, share, name, function in CHECKS:
        outcome, message = "PASS", ""
        try:
            answers.require(name)
            with np.errstate(all="ignore"):
                function(answers)
        except Fault as fault:
            outcome, message = "FAIL", str(fault)
        except (NotJudged, NotGraded) as reason:
            outcome, message = "NOT " + type(reason).__name__[3:].upper(), str(reason)
        except Exception as error:  # an answer of a kind that nobody thought of
            outcome, message = "FAIL", f"the answer makes no sense ({type(error).__name__}: {error})"
        yield task, title, share, outcome, message


class Answers:
    """What a notebook answered. A missing answer is a Fault where it is first needed, and not judged from then on."""

    def __init__(self, run):
        self.run, self.reported = run, set()

    def require(self, name):
        """That a name of ours is defined, with its parameters."""
        if name and name not in self.run.names:
            raise NotGraded(f"the notebook does not define {name}")
        takes = name and self.run.names[name]
        if name and (not isinstance(takes, list) or {*PARAMETERS[name]} != {*map(str, takes)} - {"rng"}):
            raise NotGraded(f"{name} takes ({takes}), not ({', '.join(PARAMETERS[name])})")

    def __call__(self, question, key):
        if (question, key) in self.run.answers:
            return self.run.answers[question, key]
        for name in OF_QUESTIONS.get(question, []):
            if name not in self.run.names:
                self.once(f"the notebook does not define {name}{self.why_not(name)}")
        what = key.rstrip("01").replace("_", " ")
        if (question, key) in self.run.raised:
            self.once(self.run.raised[question, key], f"{what}: ")
        if (question, None) in self.run.raised:
            self.once(self.run.raised[question, None])
        if self.run.ended.get(question):
            self.once(how(self.run.ended[question]))
        self.once(self.run.stopped or "there is no answer")

    def once(self, words, where=""):
        if words in self.reported:
            raise NotJudged(f"because of what is said above: {words}")
        self.reported.add(words)
        raise Fault(where + words)

    def why_not(self, name):
        """Which cell failed that would define a name."""
        for number, text in enumerate(self.run.cells, 1):
            if f"class {name}" in text or f"def {name}" in text or f"{name} =" in text:
                why = self.run.skipped.get(number) or self.run.failed.get(number, "")
                return f": cell {number}: {why}" if why else ""
        return ""

    def array(self, question, key, *shape):
        return numbers(key.rstrip("01").replace("_", " "), self(question, key), *shape)


def how(status):
    """How a process ended, in words."""
    if isinstance(status, int) and 0 < status < 128:
        return f"it crashes or is killed ({signal.strsignal(status & 127)})"
    return "it ends the process, or does not react to an interrupt"


def expect(true, words):
    if not true:
        raise Fault(words)


def numbers(what, value, *shape):
    """An answer as an array of finite numbers of a shape, where a column is as good as a row."""
    expect(value is not None, f"{what} is None: it is not implemented")
    if isinstance(value, list | int | float):
        value = np.array([np.asarray(part, float) for part in value] if isinstance(value, list) else value)
    expect(isinstance(value, np.ndarray), f"{what} is of type {getattr(value, 'get', dict().get)('type')}, not an array of numbers")
    if len(shape) == 1 and value.shape == (*shape, 1):
        value = value[:, 0]
    expect(value.shape == shape, f"{what} has the shape {value.shape}, not {shape}")
    expect(np.isfinite(value).all(), f"{what} holds NaN or infinity")
    return value


def near(actual, expected, tolerance=1e-3):
    return bool(np.abs(actual - expected).max() <= tolerance * np.abs(expected).max() + 1e-6)


def cause(actual, predict, mistakes):
    """The first of some mistakes, arguments of `predict`, that explains an answer."""
    return next((words for words, mistake in mistakes.items() if near(actual, predict(**mistake))), None)


def compare(what, actual, predict, mistakes=None, otherwise="no usual mistake gives these numbers"):
    """A Fault with its cause where an answer is not what `predict()` gives."""
    if not near(actual, right := predict()):
        words = cause(actual, predict, mistakes or {}) or otherwise
        raise Fault(f"{what} is off by up to {np.abs(actual - right).max():.2g}: {words}")


def of_two(what, value):
    expect(isinstance(value, list) and len(value) == 2, f"{what} does not return a pair")
    return value


# Part I --------------------------------------------------------------------------------------------------------------

SEED, POINTS = int(RNG.integers(2**31)), RNG.normal(size=(5000, 2))
MIXTURE_MEANS = 100 * np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [2.0, 3.0]])
PLANE = np.concatenate([RNG.normal(0, 0.5, (30, 2)), RNG.normal(0, 3, (30, 2))])
XS, YS = np.linspace(-2, 2, 6), np.linspace(-1, 2, 6)
BANDWIDTHS = {"full": [[0.4, 0.3], [-0.1, 0.6]], "negative": [[0, 0.4], [0.7, 0]], "round": [[0.5, 0], [0, 0.5]]}
SPIRAL_MISTAKES = {
    "0.25 is used as the standard deviation, but it is the variance": {"sd": 0.25},
    "the variance is used as 0.5, but it is 0.25": {"sd": math.sqrt(0.5)},
    "negative r is left out": {"negative": False},
    "theta runs to 2π, not to 4π": {"windings": 1},
    "r is θ, not θ/2": {"rate": 1},
    "r has no noise": {"sd": 1e-9},
}


def regular(values):
    """Whether sorted values of a uniform distribution have gaps that are those of chance."""
    gaps = np.diff(np.sort(values))
    return abs(gaps.var() / gaps.mean() ** 2 - 1) > 0.2


def fresh(a, question):
    """The samples of a question; a Fault where another seed gives the same."""
    samples = a(question, "samples")
    expect(not np.array_equal(samples, a(question, "others")), "every call gives the same samples: a seed is fixed inside")
    return samples


@check(SAMPLERS, "sample_gaussian_mixture spreads by sigma around each mean, in both coordinates", 2, "sample_gaussian_mixture")
def mixture_noise(a):
    samples = numbers("the samples", fresh(a, "mixture"), 20_000, 2)
    distance = np.linalg.norm(samples[:, None] - MIXTURE_MEANS, axis=2)
    noise = samples - MIXTURE_MEANS[distance.argmin(1)]
    spread, known = noise.std(), {0.25: "sigma² is used as the standard deviation", 0.5**0.5: "sigma is used as the variance"}
    words = next((words for value, words in known.items() if abs(spread - value) < 0.01), "the means or the noise are others")
    expect(abs(spread - 0.5) < 0.015, f"for sigma = 0.5 they spread by {spread:.3f}: {words}")
    normal_noise(noise / 0.5)


def normal_noise(z):
    """A Fault where z (N, 2) is not what a standard normal distribution gives."""
    error = 5.5 / math.sqrt(len(z))
    means, sds, correlation = z.mean(0), z.std(0), np.corrcoef(z.T)[0, 1]
    words = f"the noise has means {means.round(2)} and standard deviations {sds.round(2)}, not 0 and 1"
    expect(not (abs(correlation) > 0.99), "both coordinates get the same noise")
    expect(abs(correlation) < error, f"the noise of both coordinates is correlated ({correlation:.2f})")
    expect(max(abs(means)) < error and max(abs(sds - 1)) < error, words)
    repeated = [1 - len(np.unique(column)) / len(z) for column in z.T]
    expect(max(repeated) < 0.01, f"{max(repeated):.0%} of the numbers are there more than once: clamped, or drawn too rarely")
    for column in z.T:
        test = kstest(column, "norm")
        expect(test.pvalue > 1e-7, "the noise is not normal: it has another shape, such as uniform")
        expect(test.statistic * math.sqrt(len(z)) > 0.25, "the noise is too even for chance, such as a lattice")


@check(SAMPLERS, "sample_gaussian_mixture draws each sample's component, all of the same probability", 2, "sample_gaussian_mixture")
def mixture_components(a):
    batches = numbers("200 batches of samples", a("mixture", "batches"), 200, 400, 2)
    nearest = np.linalg.norm(batches[:, :, None] - MIXTURE_MEANS, axis=3).argmin(2)
    counts = np.stack([(nearest == k).sum(1) for k in range(4)], 1)
    words = f"of 400 samples the four means get {', '.join(f'{n:.0f}' for n in counts.mean(0))} on average, not 100 each"
    expect(np.abs(counts.mean(0) - 100).max() < 5.5 * math.sqrt(75 / 200), words)
    variance = counts.var(0).mean()
    expect(variance > 55, "the components are dealt out in fixed numbers: the samples are not independent")
    expect(variance < 100, f"a component's number varies by {variance:.0f}, not 75: the samples are not independent")
    switches = (nearest[:, 1:] != nearest[:, :-1]).mean()
    expect(abs(switches - 0.75) < 0.02, "neighbouring samples' components depend on each other")


def spiral_samples(num, sd=0.5, negative=True, windings=2, rate=0.5):
    theta = RNG.uniform(0, 2 * np.pi * windings, num)
    r = RNG.normal(rate * theta, sd)
    r = r if negative else np.abs(r)
    return np.stack([r * np.cos(theta), r * np.sin(theta)], axis=1)


def spiral_counts(x):
    edges = np.concatenate([np.arange(-15, -1, 1), np.arange(-1, 1.01, 0.25), np.arange(2, 16, 1)])
    return np.histogram2d(*x.T, [edges, edges])[0]


@check(SAMPLERS, "sample_spiral fills the plane like the spiral", 3, "sample_spiral")
def spiral(a):
    samples = numbers("the samples", fresh(a, "spiral"), 40_000, 2)
    counts = spiral_counts(samples)

    def chi_square(**mistake):
        """χ² per cell of these and ten times as many of ours, about 1 if they are from one distribution."""
        expected = spiral_counts(spiral_samples(400_000, **mistake)) / 10
        return ((counts - expected) ** 2 / (expected * 1.1))[expected > 10].mean()

    if not (measured := chi_square()) < 1.6:
        found = (words for words, mistake in SPIRAL_MISTAKES.items() if chi_square(**mistake) < 1.6)
        raise Fault(f"χ² per cell is {measured:.1f} instead of 1: {next(found, 'no usual mistake gives these samples')}")
    angles = np.arctan2(samples[:, 1], samples[:, 0]) % np.pi
    expect(not regular(angles), "the angles are not drawn: they are a lattice, or repeat")


ARGUMENTS = {"": lambda H: H, "H is squared": lambda H: H @ H, "H is not inverted": np.linalg.inv, "H is transposed": np.transpose}
FACTORS = {
    "": lambda det: 1 / abs(det), "det H is forgotten": lambda det: 1, "det H is squared": lambda det: 1 / det**2,
    "it is multiplied by det H": abs, "the square root of det H is used": lambda det: abs(det) ** -0.5,
}
ESTIMATE_MISTAKES = {
    **{" and ".join(filter(None, pair)): dict(zip(("argument", "factor"), pair)) for pair in product(ARGUMENTS, FACTORS)},
    "the factor 1/N is forgotten": {"scale": 200},
    "the factor 1/(2π) is forgotten": {"scale": 2 * np.pi},
    "the kernel has the factor of one dimension": {"scale": math.sqrt(2 * np.pi)},
    **{f"only every {k}th sample is used": {"part": slice(None, None, k)} for k in (2, 3, 5, 10)},
    "only the first half of the samples is used": {"part": slice(100)},
}


def estimate(H, x=PLANE, argument="", factor="", scale=1, part=slice(None)):
    """The definition, or a mistake in some of its parts."""
    H = np.array(H, float)
    used, det = ARGUMENTS[argument](H), np.linalg.det
    return scale * kernel_estimate(x, POINTS[:200][part], used) * abs(det(used)) * FACTORS[factor](det(H))


def kernel(a, key):
    compare("the estimate", a.array("kernel", key, 60), lambda **mistake: estimate(BANDWIDTHS[key], **mistake), ESTIMATE_MISTAKES)


check(ESTIMATE, "it is right for a bandwidth matrix with different rows", 2, "kernel_density_estimate")(lambda a: kernel(a, "full"))
check(ESTIMATE, "it is right for H = 0.5 I", 2, "kernel_density_estimate")(lambda a: kernel(a, "round"))


@check(ESTIMATE, "the sign of det H does not matter but in the result's sign", 1, "kernel_density_estimate")
def kernel_negative(a):
    found = a.array("kernel", "negative", 60)
    compare("the estimate", np.abs(found), lambda **mistake: estimate(BANDWIDTHS["negative"], **mistake), ESTIMATE_MISTAKES)


@check(ESTIMATE, "it can be asked for one point alone", 1, "kernel_density_estimate")
def kernel_one(a):
    found = np.reshape(a("kernel", "one"), -1)
    expect(found.shape == (1,), f"for one point it has the shape {found.shape}")
    expect(near(found, a.array("kernel", "full", 60)[:1]), "for one point alone it gives another value than among others")


@check(ON_GRID, "gaussian_mixture_density is the mixture's density", 1, "gaussian_mixture_density")
def mixture_density(a):
    mistakes = {"sigma is used as the variance": {"sd": math.sqrt(0.5)}, "sigma² is used as the standard deviation": {"sd": 0.25},
                "the factor 1/M is forgotten": {"factor": 4}, "the factor 1/(2πσ²) is forgotten": {"factor": np.pi / 2},
                "it has the factor of one dimension": {"factor": math.sqrt(2 * np.pi) / 2}}
    compare("the density", a.array("mixture", "density", 60), lambda sd=0.5, factor=1: factor * mixture(PLANE, sd), mistakes)


def spiral_formula(x, sd=0.5, negative=True, windings=2, rate=0.5, factor=1):
    """Density of the spiral times ρ, summed over the angles that lead to a point, or that of a mistake."""
    rho, phi, total = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0]) % (2 * np.pi), 0
    for half_turn in range(-1, 2 * windings + 1):
        theta, r = phi + half_turn * np.pi, rho * (-1) ** half_turn
        on = (theta >= 0) & (theta <= 2 * np.pi * windings)
        if half_turn % 2 == 0 or negative:
            total = total + on * np.exp(-((r - rate * theta) ** 2) / (2 * sd**2)) / math.sqrt(2 * np.pi * sd**2)
    return factor * total / (2 * np.pi * windings)


@check(ON_GRID, "spiral_density is the spiral's density", 1, "spiral_density")
def spiral_density(a):
    rho, found = np.hypot(*PLANE.T), a.array("spiral", "density", 60)
    mistakes = {"only the first winding is counted": {"windings": 1, "factor": 1 / 2}, **SPIRAL_MISTAKES,
                "the factor 1/ρ is forgotten": {"factor": rho}}
    compare("the density times ρ", found * rho, lambda **mistake: spiral_formula(PLANE, **mistake), mistakes)


@check(ON_GRID, "kernel_density_on_grid is the estimate at all (xs[i], ys[j])", 1, "kernel_density_on_grid")
def kernel_grid(a):
    found, H = a.array("kernel", "grid", 6, 6), BANDWIDTHS["full"]

    def predict(**mistake):
        grid = estimate(H, plane(XS, YS), **mistake).reshape(6, 6)
        return grid.T if near(found, grid.T) else grid  # either axis may come first

    compare("the estimate", found, predict, ESTIMATE_MISTAKES)


# Given code: data and networks ---------------------------------------------------------------------------------------

POINT_MISTAKES = {
    "sigma² is used as the standard deviation": {"power": 2}, "the noise is left out": {"power": math.inf},
    "the samples are not shuffled": {"shuffle": False}, "seed is not used": {"seed": 0},
    "num_gaussians is not used": {"num_gaussians": 5},
}
RING = toy_points("GaussiansRot", 1000, 0, 5)


@check(GIVEN, "sample_2d_datasets gives the handout's points")
def toy_sets(a):
    for name in ("Circles", "Moons", "GaussiansGrid", "GaussiansRot"):
        def predict(seed=4, num_gaussians=3, name=name, **mistake):
            return toy_points(name, 300, seed, num_gaussians, **mistake)
        compare(name, a.array("toy_sets", name, 300, 2), predict, POINT_MISTAKES)
    compare("GaussiansRot without other arguments", a.array("toy_sets", "default", 1000, 2), lambda: RING)
    expect(("toy_sets", "Squares") not in a.run.answers, "sample_2d_datasets('Squares') raises no error")


@check(GIVEN, "ToyDataset has num_samples items, each a sample as a float32 tensor")
def toy_items(a):
    for key, num, points in (("default", 1000, RING), ("given", 40, toy_points("GaussiansRot", 40, 3, 7))):
        found = a("toy_items", f"{key} length")
        expect(found == num, f"it has {found} samples, not {num}")
        compare("its items", a.array("toy_items", key, 20, 2), lambda points=points: points[:20],
                otherwise="num_samples, seed or num_gaussians is not handed on, or has another default")
    expect(a("toy_items", "type") == "torch.float32", f"an item is {a('toy_items', 'type')}, not float32")


MASKS = [[1.0, 0.0], [0.0, 1.0]]
X = np.concatenate([RNG.normal(size=(9, 2)), 8 * RNG.choice([-1, 1], (6, 2)) * RNG.uniform(0.7, 1.3, (6, 2))])
CLOSE, FAR = slice(9), slice(9, None)
SCALE_FACTOR = RNG.uniform(0.9, 1.3, 2)
SHAPES = [[32, 2], [32], [32, 32], [32], [2, 32], [2]]
WEIGHTS = {"s": RNG.normal(0, 0.25, 1218), "t": RNG.normal(0, 0.3, 1218)}
ACTIVATIONS = {
    "no activation": lambda v: v, "ReLU": lambda v: v.clip(0), "Tanh": np.tanh, "Sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "ELU": lambda v: np.where(v > 0, v, np.expm1(v)), "SiLU": lambda v: v / (1 + np.exp(-v)),
    "LeakyReLU of slope 0.1": lambda v: np.where(v > 0, v, 0.1 * v),
    "LeakyReLU of slope 0.2": lambda v: np.where(v > 0, v, 0.2 * v),
    "LeakyReLU": lambda v: np.where(v > 0, v, 0.01 * v),
}


def mlp(name, v, between="LeakyReLU", last="no activation"):
    """A network of the handout with the weights that were sent."""
    parts = np.split(WEIGHTS[name], np.cumsum([np.prod(shape) for shape in SHAPES])[:-1])
    weights = [part.reshape(shape) for part, shape in zip(parts, SHAPES)]
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2]):
        v = ACTIVATIONS[between](v @ weight.T + bias)
    return ACTIVATIONS[last](v @ weights[-2].T + weights[-1])


@check(GIVEN, "s_func and t_func are Linear layers of widths 2-32-32-2 with LeakyReLU in between")
def networks(a):
    for name in WEIGHTS:
        shapes = a("coupling_layer", f"{name}_shapes")
        matrices = [shape for shape in shapes if len(shape) == 2]
        widths = "-".join(str(width) for width in [m[1] for m in matrices[:1]] + [m[0] for m in matrices])
        expect(shapes == SHAPES, f"{name}_func has the widths {widths} or misses a bias")
        mistakes = {**{f"{kind} is in between": {"between": kind} for kind in ACTIVATIONS},
                    **{f"{kind} follows the last layer": {"last": kind} for kind in ACTIVATIONS}}
        compare(f"{name}_func", a.array("coupling_layer", f"{name}_seen", 15, 2), lambda name=name, **m: mlp(name, X, **m), mistakes)


@check(GIVEN, "the mask is fixed, and scale_factor is learned from 0 on")
def layer_parts(a):
    for k, mask in enumerate(MASKS):
        compare("mask", a.array("coupling_layer", f"mask{k}", 2), lambda mask=mask: np.array(mask), otherwise="it is not the one given")
    learned = a("coupling_layer", "learned")
    expect(not learned["mask"], "the mask is learnable: it needs requires_grad=False")
    expect(learned["scale_factor"], "scale_factor is not learnable: it needs to be an nn.Parameter")
    expect(not a.array("coupling_layer", "scale_factor", 2).any(), "scale_factor does not start at 0")


# Part II, Task 6 -----------------------------------------------------------------------------------------------------

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
    "the mask is used the wrong way round, as 1 marks what is kept": {"flipped": True, "seen": "moved"},
    "s_func and t_func are exchanged": {"exchanged": True},
    "it is what the other direction should do": {"other": True},
}
LAYER_MISTAKES |= {f"{a}, and {b}": LAYER_MISTAKES[a] | LAYER_MISTAKES[b] for a, b in combinations(LAYER_MISTAKES, 2)}
SUMS = {
    "it has the wrong sign": lambda s: -s.sum(-1),
    "it is summed over the batch as well, not only over the coordinates": lambda s: np.full(len(s), s.sum()),
    "it is the mean over the batch": lambda s: np.full(len(s), s.sum(-1).mean()),
    "it is the mean over the coordinates, not their sum": lambda s: s.mean(-1),
    "it is the determinant, not its logarithm": lambda s: np.exp(s.sum(-1)),
    "it is always 0": lambda s: 0 * s.sum(-1),
}


def seen(a, name, k, inputs):
    """What a network gives: computed here where it is the handout's, else as it was sent."""
    kept = np.array({"kept": MASKS[k], "all": [1, 1], "moved": MASKS[1 - k]}[inputs])
    if a.run.answers.get(("coupling_layer", f"{name}_shapes")) == SHAPES and near(
            a.array("coupling_layer", f"{name}_seen", 15, 2), mlp(name, X)):
        return mlp(name, X * kept)
    sent = a.array("coupling_layer", f"{name}_{inputs}{k}", 15, 2)
    expect(sent.std(0).min() > 0.01, f"{name}_func does not depend on its input")
    return sent


def coupling(a, k, way, s_masked=True, t_masked=True, scaled=True, s_sign=1, t_sign=1, swapped=False, exponentiated=True,
             seen_as="kept", flipped=False, exchanged=False, other=False, **options):
    """What a coupling layer gives, or gives with a mistake: output, and s for the log-determinant."""
    seen_as = options.get("seen", seen_as)
    move = np.array(MASKS[k] if flipped else MASKS[1 - k])
    s, t = (seen(a, name, k, seen_as) for name in ("ts" if exchanged else "st"))
    s = s_sign * s * (SCALE_FACTOR if scaled else 1) * (move if s_masked else 1)
    t = t_sign * t * (move if t_masked else 1)
    scale = np.exp(s) if exponentiated else s + (1 - move)
    if (way == "forward") != other:
        return (X + t) * scale if swapped else X * scale + t, s
    return X / scale - t if swapped else (X - t) / scale, -s


def both(a, way, part):
    """A layer's outputs (0) or log-determinants (1) for both masks in one array."""
    found = [of_two(way, a("coupling_layer", f"{way}{k}"))[part] for k in range(2)]
    if part == 0:
        return np.stack([numbers(f"the output of {way}", value, 15, 2) for value in found])
    for value in found:
        expect(not (isinstance(value, int | float) or np.size(value) == 1),
               "it is one number for a batch of 15 samples: summed over the batch, not only over the coordinates")
        expect(np.shape(value) != (15, 2), "it has a number for each coordinate: it is not summed over them")
    return np.stack([numbers(f"the log-determinant of {way}", value, 15) for value in found])


def predicted(a, way, part, rows):
    def predict(of=None, **mistake):
        results = [coupling(a, k, way, **mistake)[part] for k in range(2)]
        if part == 1:
            results = [(of or (lambda s: s.sum(-1)))(s) for s in results]
        return np.stack(results)[:, rows]
    return predict


def layer_fault(a, way):
    """The mistake in a layer's output in one direction: "" if there is none, None if it has no usual cause."""
    actual, predict = both(a, way, 0)[:, CLOSE], predicted(a, way, 0, CLOSE)
    return "" if near(actual, predict()) else cause(actual, predict, LAYER_MISTAKES)


def judge_output(a, way):
    found = layer_fault(a, way)
    if way == "inverse" and found and found == earlier_fault(a):
        raise NotJudged(f"because of the fault of forward: {found}")
    off = np.abs(both(a, way, 0)[:, CLOSE] - predicted(a, way, 0, CLOSE)()).max()
    otherwise = "no usual mistake gives these numbers"
    expect(found == "", f"the output is off by up to {off:.2g}: {found or otherwise}")
    far = both(a, way, 0)[:, FAR], predicted(a, way, 0, FAR)()
    expect(all(near(*rows) for rows in zip(far[0].reshape(-1), far[1].reshape(-1))),
           "it is right where s is small, and off where it is large: something is clamped")


def earlier_fault(a):
    try:
        return layer_fault(a, "forward")
    except (Fault, NotJudged):
        return None


def judge_log_det(a, way):
    actual = both(a, way, 1)
    predict = predicted(a, way, 1, CLOSE)
    try:
        found = layer_fault(a, way)
    except (Fault, NotJudged):
        found = None
    if found != "" and not near(actual[:, CLOSE], predict()):
        known = LAYER_MISTAKES.get(found)
        if known is None or near(actual[:, CLOSE], predict(**known)):
            raise NotJudged(f"because the output of {way} is wrong")
        sums = {words: {**known, "of": of} for words, of in SUMS.items()}
        if words := cause(actual[:, CLOSE], predict, sums):
            raise Fault(words)
        raise NotJudged(f"because the output of {way} is wrong")
    compare("the log-determinant", actual[:, CLOSE], predict, {
        **{words: {"of": of} for words, of in SUMS.items()}, **{f"in it, {words}": m for words, m in LAYER_MISTAKES.items()}})
    expect(near(actual[:, FAR], predicted(a, way, 1, FAR)()), "it is off where s is large: something is clamped")


def judge_gradients(a, way):
    """That autograd reaches all that is to be learned, through the output and the log-determinant."""
    for k in range(2):
        found = a("coupling_layer", f"{way}_gradients{k}")
        expect(isinstance(found, list) and len(found) == 4, "the gradients are missing")
        expect(found[2] is True, "no gradient of the output reaches s_func")
        expect(found[3] is True, "no gradient of the output reaches t_func")
        slope = numbers("the gradient of the log-determinant", found[1], 2)
        s = coupling(a, k, way)[1]
        compare("the gradient of the log-determinant by scale_factor", slope, lambda s=s: (s / SCALE_FACTOR).sum(0),
                otherwise="a part of it is cut off from autograd, by detach or no_grad")


def judge_habits(a, way):
    for k in range(2):
        compare("the input afterwards", a.array("coupling_layer", f"{way}_input{k}", 15, 2), lambda: X, otherwise="it is overwritten")
        y, log_det = of_two(f"{way} of one sample", a("coupling_layer", f"{way}_one{k}"))
        expect(np.shape(y) == (1, 2) and np.size(log_det) == 1, f"for one sample {way} has the shapes {np.shape(y)}, {np.shape(log_det)}")
        expect(near(y, both(a, way, 0)[k, :1]), "one sample alone gives another value than among others")


def needs(judge, *before):
    """A judgement that is only passed where others are right: else it would report what follows from their faults."""
    def careful(a, way):
        for other in before:
            try:
                other(a, way)
            except Exception:
                raise NotJudged(f"because {way} is wrong") from None
        judge(a, way)
    return careful


careful_gradients, careful_habits = needs(judge_gradients, judge_output, judge_log_det), needs(judge_habits, judge_output)
for way, formula in (("forward", "x · exp(s) + t"), ("inverse", "(y − t) · exp(−s)")):
    name = {"forward": "log_det_jac", "inverse": "inv_log_det_jac"}[way]
    check(LAYER, f"{way} gives {formula} where the mask is 0, and keeps the other coordinate", 3)(lambda a, way=way: judge_output(a, way))
    check(LAYER, f"{name} is log|det| of {way}'s Jacobian, one number a sample", 3)(lambda a, way=way: judge_log_det(a, way))
    check(LAYER, f"{way} can be trained: gradients reach s_func, t_func and scale_factor")(lambda a, way=way: careful_gradients(a, way))
    check(LAYER, f"{way} leaves its input as it is, and takes one sample")(lambda a, way=way: careful_habits(a, way))


# Part II, Task 8: a flow whose layers are known maps -------------------------------------------------------------------

STRETCHES, SHIFTS = RNG.uniform([1.2, 0.7], [1.4, 0.8], (4, 2)) ** [[1], [-1], [1], [1]], RNG.uniform(0.3, 0.8, (4, 2))
SHIFTS *= [[1], [-1], [1], [-1]]
NUM = 4000


def bend(v, k, inverse=False):
    """The known map of layer k, or its inverse, with its log-determinant."""
    a, b = (1 / STRETCHES[k], -SHIFTS[k] / STRETCHES[k]) if inverse else (STRETCHES[k], SHIFTS[k])
    inner = a * np.arcsinh(v) + b
    return np.sinh(inner), (np.log(a) + np.log(np.cosh(inner)) - np.log(1 + v * v) / 2).sum(-1)


def chain(v, order, inverse=True):
    """v through the maps in an order: where it ends, and the sum of the log-determinants."""
    total = 0
    for k in order:
        v, log_det = bend(v, k, inverse)
        total = total + log_det
    return v, total


def log_normal(z):
    return -np.square(z).sum(-1) / 2 - math.log(2 * math.pi)


FORWARDS, BACK = range(4), range(3, -1, -1)
LOG_PROB_MISTAKES = {  # from x, its z and the sum of the inverse log-determinants
    "the prior is evaluated at x instead of z": lambda x, z, total: log_normal(x) + total,
    "the log-determinants are subtracted instead of added, or the other way round": lambda x, z, total: log_normal(z) - total,
    "the log-determinants are left out": lambda x, z, total: log_normal(z),
    "log p(z) is left out": lambda x, z, total: total,
    "the log-determinants are summed over the batch": lambda x, z, total: log_normal(z) + np.sum(total),
    "it is summed over the batch": lambda x, z, total: np.full(len(x), np.sum(log_normal(z) + total)),
    "it is minus the log-probability": lambda x, z, total: -log_normal(z) - total,
    "it is the probability, not its logarithm": lambda x, z, total: np.exp(log_normal(z) + total),
}
ORDERS = {
    "the layers are inverted in the wrong order, first to last": {"order": FORWARDS},
    "the layers run forward instead of being inverted": {"order": FORWARDS, "inverse": False},
    "the layers run forward, and last to first": {"order": BACK, "inverse": False},
    "the first layer is left out": {"order": BACK[:-1]},
    "the last layer is left out": {"order": BACK[1:]},
}


@check(GIVEN, "the flow has as many layers as asked for, with masks (1, 0) and (0, 1) in turn")
def flow_layers(a):
    for key, count in (("layers1", 1), ("layers3", 3), ("layers", 4)):
        found = a("coupling_flow", key)
        expect(found == count, f"CouplingFlow({count}) has {found} layers")
    masks = a.array("coupling_flow", "masks", 4, 2)
    expect(not (masks == masks[0]).all(), "all layers have the same mask: the masks never alternate")
    expect((masks == np.array(MASKS * 2)).all(), f"the masks are {masks.astype(int).tolist()}")


@check(GIVEN, "the prior is the standard normal distribution")
def prior(a):
    compare("log p(z)", a.array("coupling_flow", "prior", 15), lambda: log_normal(X), otherwise="the prior is another distribution")
    normal_noise(a.array("coupling_flow", "prior_samples", NUM, 2))


def follows_from_the_prior(a):
    try:
        prior(a)
    except (Fault, NotJudged):
        raise NotJudged("because the prior is another distribution") from None


@check(FLOW, "log_probability is log p(z) plus the inverse log-determinants, from the last layer to the first", 4)
def log_probability(a):
    found = a("coupling_flow", "log_probability")
    expect(np.size(found) != 1, "it is one number for 15 samples: summed over the batch")
    found = numbers("log_probability", found, 15)

    def predict(formula=lambda x, z, total: log_normal(z) + total, order=BACK, inverse=True):
        return formula(X, *chain(X, order, inverse))[CLOSE]

    if not near(found[CLOSE], predict()):
        mistakes = {**{words: {"formula": formula} for words, formula in LOG_PROB_MISTAKES.items()}, **ORDERS}
        words = cause(found[CLOSE], predict, mistakes)
        if words is None:
            follows_from_the_prior(a)
        compare("it", found[CLOSE], predict, mistakes)
    z, total = chain(X, BACK)
    expect(near(found[FAR], (log_normal(z) + total)[FAR]), "it is right where p(x) is large, and off where it is small: clamped?")
    one = a("coupling_flow", "one")
    expect(np.size(one) == 1 and near(np.reshape(one, -1), found[:1]), "one sample alone gives another value than among others")
    compare("the input afterwards", a.array("coupling_flow", "input", 15, 2), lambda: X, otherwise="it is overwritten in place")
    of_own, _, steps = a("coupling_flow", "own")
    numbers("log_probability with the notebook's own layers", of_own, 15)


@check(FLOW, "log_probability can be trained: its gradient passes all layers")
def flow_gradients(a):
    h, found = 1e-4, a.array("coupling_flow", "slope", 15, 2)

    def log_p(x):
        z, total = chain(x, BACK)
        return log_normal(z) + total

    try:
        log_probability(a)
    except Exception:
        raise NotJudged("because log_probability is wrong") from None
    right = np.stack([(log_p(X + h * e) - log_p(X - h * e)) / (2 * h) for e in np.eye(2)], 1)
    compare("the gradient by x", found[CLOSE], lambda: right[CLOSE], otherwise="a part of it is cut off from autograd, by detach or no_grad")


WAYS = {
    "": {"order": BACK}, "the layers are applied in the wrong order, last to first": {"order": FORWARDS},
    "the last layer is left out": {"order": BACK[1:]}, "the first layer is left out": {"order": BACK[:-1]},
    "no layer is applied": {"order": ()}, "the inverses are applied": {"order": FORWARDS, "inverse": False},
    "the inverses are applied, last to first": {"order": BACK, "inverse": False},
}


def sampled_way(a):
    """In which way the samples of sample_x come from the prior: their z and log-determinants undone, or None."""
    x = numbers("x", of_two("sample_x", a("coupling_flow", "samples"))[0], NUM, 2)
    for words, way in WAYS.items():
        z, total = chain(x, **way)
        if max(np.abs(z.mean(0)).max(), np.abs(np.cov(z.T) - np.eye(2)).max() / 1.5) < 5.5 / math.sqrt(NUM):
            return words, x, z, total
    return None, x, *chain(x, BACK)


@check(FLOW, "sample_x passes samples of the prior through all layers, first to last", 3)
def sample_x(a):
    words, x, z, _ = sampled_way(a)
    expect(not words, str(words))
    try:
        normal_noise(z)
    except Fault as fault:
        follows_from_the_prior(a)
        raise Fault(f"undone by the inverses, {fault}") from None
    first, second = a("coupling_flow", "again")
    expect(not np.array_equal(first, second), "every call gives the same samples: a seed is fixed inside")
    expect(np.shape(of_two("sample_x(1)", a("coupling_flow", "one_sample"))[0]) == (1, 2), "sample_x(1) does not have the shape (1, 2)")


@check(FLOW, "log_prob of sample_x is log p of the samples that come with it", 3)
def sample_x_log_prob(a):
    words, x, z, total = sampled_way(a)
    found = numbers("log_prob", of_two("sample_x", a("coupling_flow", "samples"))[1], NUM)
    middle = np.abs(x).max(1) < 30

    def predict(formula=lambda x, z, total: log_normal(z) + total):
        return formula(x, z, total)[middle]

    if words != "":
        if words is None or near(found[middle], predict()):
            raise NotJudged("because the samples are wrong")
    compare("it", found[middle], predict, {name: {"formula": formula} for name, formula in LOG_PROB_MISTAKES.items()})


@check(FLOW, "the first of sample_x_each_step is a sample of the prior")
def first_step(a):
    steps = a("coupling_flow", "steps")
    expect(isinstance(steps, list) and steps, "it is not a list")
    try:
        normal_noise(numbers("the first step", steps[0], NUM, 2))
    except Fault as fault:
        follows_from_the_prior(a)
        lost = len(steps) < 5 and "the samples of the prior are missing at its start"
        raise Fault(lost or str(fault)) from None
    first, second = a("coupling_flow", "steps_again")
    expect(not np.array_equal(first, second), "every call gives the same samples: a seed is fixed inside")


@check(FLOW, "each step of sample_x_each_step is the one before, passed through the next layer", 3)
def next_steps(a):
    steps = [numbers(f"step {k}", step, NUM, 2) for k, step in enumerate(a("coupling_flow", "steps"))]
    if len(steps) == 4 and near_logs(steps[1], bend(steps[0], 1)[0]):
        raise NotJudged("because the samples of the prior are missing at the start")
    lost = ": the samples after the last layer are missing" if len(steps) == 4 else ""
    expect(len(steps) == 5, f"it has {len(steps)} elements for 4 layers, not 5{lost}")
    for k, (before, after) in enumerate(zip(steps, steps[1:])):
        ways = {"the layer is not applied": before, "the layer is inverted": bend(before, k, True)[0],
                "the layers come in the wrong order": bend(before, 3 - k)[0], "it starts from the prior again": bend(steps[0], k)[0]}
        if not near_logs(after, bend(before, k)[0]):
            words = next((words for words, way in ways.items() if near_logs(after, way)), "they are not what the layer gives")
            raise Fault(f"step {k + 1}: {words}")


def near_logs(actual, expected):
    """Whether numbers of very different sizes agree."""
    return near(np.arcsinh(actual), np.arcsinh(expected))


# Given code: training, of a model that has but a centre to learn -------------------------------------------------------

RATE, START, STEEP = 1e-3, 100.0, 300.0  # of the optimizer; where the centre starts; how steep the first four steps are
RUNS = {  # number of samples, after how many steps the loss is lowest, what else train is given
    "short": (700, None, {"epochs": 3}), "batches": (700, None, {"epochs": 2, "batch_size": 100}),
    "long": (20, None, {"epochs": 120}), "default": (20, None, {}),
    "many": (5000, 41.4, {"epochs": 4, "batch_size": 250}), "few": (4990, 41.4, {"epochs": 4, "batch_size": 250}),
}


def trained(a, key):
    """How train went about a run: batches of training and validation as indices, with the centre before each."""
    found, num = a("training", key), RUNS[key][0]
    index = {np.float32(x): i for i, x in enumerate(POINTS[:num, 0])}
    expect(isinstance(found, dict), "train does not return a model and two lists of losses")
    batches = [[index.get(np.float32(x)) for x in batch] for batch in found["batches"]]
    expect(not any(None in batch for batch in batches), "log_probability gets samples that are not those of the data")
    expect(len(found["losses"]) == 2, "train does not return a model and two lists of losses")
    centres = np.stack([*found["centres"], found["end"]])
    steps = [not np.array_equal(*pair) for pair in zip(centres, centres[1:])]
    if batches[-1] in [batch for batch, step in zip(batches[:-1], steps) if not step]:
        steps[-1] = False  # after a batch of validation: the best weights are loaded into the model
    weights = np.where(np.cumsum([0, *steps[:-1]]) < 4, STEEP, 1)
    notes = [list(note) for note in zip(batches, centres, weights)]
    parts = [[note for note, step in zip(notes, steps) if step == wanted] for wanted in (True, False)]
    epochs = len(found["losses"][0])
    expect(parts[0] and epochs and len(parts[0]) % epochs == 0, f"there are {len(parts[0])} steps in {epochs} epochs")
    path = np.stack([*(note[1] for note in parts[0]), centres[len(steps) - 1 - steps[::-1].index(True) + 1]])
    return SimpleNamespace(training=parts[0], validation=parts[1], epochs=epochs, path=path, losses=found["losses"],
                           batches=[note[0] for note in parts[0]], returned=found["returned"])


def used(part):
    return {i for batch, *_ in part for i in batch}


@check(TRAINING, "to_np gives a NumPy array, and train trains the notebook's own flow")
def train_runs(a):
    expect(a("training", "to_np") == ["ndarray"], "to_np does not give a NumPy array")
    losses = a("training", "own")
    expect(isinstance(losses, list) and len(losses) == 2, "train does not return three values")
    for part in losses:
        expect(len(part) == 3, f"there are {len(part)} losses for 3 epochs")
        expect(np.isfinite(np.array([np.reshape(loss, -1)[0] for loss in part], float)).all(), "a loss is not finite")


@check(TRAINING, "nine tenths of the samples, drawn at random, are for training and the others for validation")
def split(a):
    seen = trained(a, "short")
    training, validation = used(seen.training), used(seen.validation)
    expect(not training & validation, f"{len(training & validation)} of 700 samples are for both")
    found = len(training), len(validation)
    expect(found == (630, 70), f"of 700 samples {found[0]} are for training and {found[1]} for validation, not 630 and 70")
    expect(max(training) - min(training) >= 630, "they are taken in the order of the data, not at random")


@check(TRAINING, "a batch has 64 samples, or batch_size, and the batches are the same in each epoch")
def batches(a):
    for key, size in (("short", 64), ("batches", 100)):
        seen = trained(a, key)
        epoch = seen.batches[: len(seen.batches) // seen.epochs]
        sizes, num = [len(batch) for batch in epoch], 700 - len(used(seen.validation))
        words = ": the last, smaller one is dropped" if set(sizes) == {size} else ""
        expect(sizes == [size] * (num // size) + [num % size] * (num % size > 0),
               f"they have {', '.join(map(str, sizes))} samples{words}")
        expect(seen.batches == seen.epochs * epoch, "the samples are shuffled anew in each epoch, which the handout's train does not do")


def path_by(seen, kind="Adam", lr=RATE, reset=True, clip=None, value=None, **options):
    """The centre after each step, in units of the rate, if an optimizer takes the steps."""
    import torch

    centre = torch.nn.Parameter(torch.full((2,), START, dtype=torch.float64))
    optimizer, path = getattr(torch.optim, kind)([centre], lr=lr, **options), [START * np.ones(2)]
    for batch, _, weight in seen.training:
        if reset:
            optimizer.zero_grad()
        points = torch.from_numpy(POINTS[batch].astype(np.float32))
        (weight * (points - (centre - START)).square().sum(-1).mean() / 2).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_([centre], clip)
        if value:
            torch.nn.utils.clip_grad_value_([centre], value)
        optimizer.step()
        path.append(centre.detach().numpy().copy())
    return (np.stack(path) - START) / RATE


OPTIMIZER_MISTAKES = {
    **{f"the learning rate is {rate}": {"lr": rate} for rate in (0.1, 0.01, 0.005, 0.002, 5e-4, 1e-4)},
    **{f"it is SGD with learning rate {rate}": {"kind": "SGD", "lr": rate} for rate in (0.001, 0.01, 0.1)},
    **{f"its weight decay is {decay}": {"weight_decay": decay} for decay in (1e-2, 1e-3, 1e-4, 1e-5)},
    **{f"it is {kind}": {"kind": kind} for kind in ("AdamW", "RMSprop", "NAdam", "Adamax")},
    "it uses amsgrad": {"amsgrad": True},
    "gradients are not set to zero before each step": {"reset": False},
    **{f"gradients are clipped to the norm {norm}": {"clip": norm} for norm in (0.1, 0.5, 1, 2, 5, 10)},
    **{f"gradients are clipped to the value {value}": {"value": value} for value in (0.1, 0.5, 1, 5)},
}


@check(TRAINING, "the optimizer is Adam with learning rate 0.001, the same in all epochs")
def optimizer(a):
    for key in ("short", "long"):
        seen = trained(a, key)
        path, right = (seen.path - START) / RATE, path_by(seen)
        if not np.allclose(path, right, rtol=1e-4, atol=1e-4):
            found = (words for words, mistake in OPTIMIZER_MISTAKES.items()
                     if np.allclose(path, path_by(seen, **mistake), rtol=1e-4, atol=1e-4))
            size = 1 + len(path) // seen.epochs
            changing = np.allclose(path[:size], right[:size], atol=1e-4) and "the learning rate or the loop changes after an epoch"
            raise Fault(next(found, changing or "no usual optimizer moves a weight so"))


@check(TRAINING, "a loss is the mean of -log p over the batches of its epoch")
def losses(a):
    seen, means = trained(a, "short"), {}
    for what, part, found in zip(("training", "validation"), (seen.training, seen.validation), seen.losses):
        expect(part and len(part) % seen.epochs == 0, f"there are {len(part)} batches of {what} in {seen.epochs} epochs")
        values = np.array([w * np.square(POINTS[batch] - (centre - START)).sum(-1).mean() / 2 for batch, centre, w in part])
        values, sizes = (np.reshape(v, (seen.epochs, -1)) for v in (values, [len(batch) for batch, *_ in part]))
        if not near(np.array(found, float), (values * sizes).sum(1) / sizes.sum(1)):  # which is as good
            mistakes = {"they are sums over the batches": values.sum(1), "they are negative": -values.mean(1), **means}
            compare(f"the losses of {what}", numbers("the losses", found, seen.epochs), lambda v=values.mean(1): v,
                    {words: {"v": value} for words, value in mistakes.items()})
        means[f"they are those of {what}"] = values.mean(1)


@check(TRAINING, "without other arguments there are 100 epochs, and as many as asked for with them")
def epochs(a):
    for key, wanted in (("default", 100), ("long", 120)):
        found = trained(a, key).epochs
        expect(found == wanted, f"there are {found} epochs, not {wanted}")


@check(TRAINING, "with 500 samples for validation the best weights are returned, with fewer the last")
def best_weights(a):
    # Of 18 steps an epoch, step 41 has the lowest loss: for validation, epoch 2 is next to it, for training epoch 3.
    which = {1: "first ones", 2: "ones of the lowest validation loss", 3: "ones of the lowest training loss", 4: "last ones"}
    for key, kept in (("many", 2), ("few", 4)):
        seen = trained(a, key)
        found = [4 * step / len(seen.training) for step, centre in enumerate(seen.path) if np.array_equal(centre, seen.returned)]
        expect(found[:1] == [kept], f"with {len(used(seen.validation))} samples for validation it returns the "
                                    f"{which.get(found[0] if found else 0, 'ones of no epoch')}, not the {which[kept]}")


INPUTS = {
    "seed": SEED, "seconds": 20, "means": MIXTURE_MEANS, "close_means": MEANS, "plane": PLANE, "points": POINTS,
    "bandwidths": BANDWIDTHS, "xs": XS, "ys": YS, "masks": MASKS, "x": X, "scale_factor": SCALE_FACTOR,
    "s_weights": WEIGHTS["s"], "t_weights": WEIGHTS["t"], "stretches": STRETCHES, "shifts": SHIFTS, "num": NUM,
    "far": START, "steep": STEEP, "runs": RUNS,
}
