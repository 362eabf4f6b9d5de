"""What is right, judged outside of the sandbox: a notebook has to answer what the right solution answers.

Numbers have to agree, samples have to be of one distribution. Where they do not, the cause is the first of the usual mistakes
that makes the right solution answer the same.
"""

import contextlib
import json
import secrets
import signal
from collections import namedtuple
from functools import cache, partial
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from scipy.stats import ks_2samp

from grader import inside, probes, sandbox
from grader.mistakes import ALL, DENSITIES, ESTIMATE, FLOW, GIVEN, LAYER, SAMPLERS, TRAINING, changed

SOLUTION = (Path(__file__).parent / "solution.txt").read_text()
RIGHT = SOLUTION.partition("# From here on it is used")[0]
RNG = np.random.default_rng(secrets.randbits(64))  # nobody knows the inputs before
MEANS = 100 * np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [2.0, 3.0]])
SIGNS = np.array([[1], [-1], [1], [-1]])
INPUTS = {
    "seed": int(RNG.integers(2**31)), "seconds": 20, "means": MEANS, "num": 4000,
    "plane": np.concatenate([RNG.normal(0, 0.5, (30, 2)), RNG.normal(0, 3, (30, 2))]), "points": RNG.normal(size=(5000, 2)),
    "bandwidths": {"full": [[0.4, 0.3], [-0.1, 0.6]], "negative": [[0, 0.4], [0.7, 0]], "round": [[0.5, 0], [0, 0.5]]},
    "x": RNG.normal(size=(12, 2)), "weights": RNG.normal(0, 0.4, 1218), "scale_factor": RNG.uniform(1.5, 2.5, 2),
    "stretches": RNG.uniform([1.25, 0.65], [1.4, 0.8], (4, 2)) ** [[1], [-1], [1], [1]], "shifts": SIGNS * RNG.uniform(0.3, 0.8, (4, 2)),
    "far": 100.0, "steep": 300.0,  # where a centre starts that is to be trained, and how steep its first four steps are
    "runs": {  # of training: number of samples, after how many steps the loss is lowest, what else train is given
        "short": (700, None, {"epochs": 3}), "batches": (700, None, {"epochs": 2, "batch_size": 100}),
        "long": (20, None, {"epochs": 120}), "default": (20, None, {}),
        "many": (5000, 41.4, {"epochs": 4, "batch_size": 250}), "few": (4990, 41.4, {"epochs": 4, "batch_size": 250}),
    },
}
PARAMETERS = {  # names of ours, by which Part I can be graded
    "sample_gaussian_mixture": ["num_samples", "sigma", "means"], "sample_spiral": ["num_samples"],
    "kernel_density_estimate": ["x", "samples", "H"], "kernel_density_on_grid": ["xs", "ys", "samples", "H"],
    "gaussian_mixture_density": ["x", "sigma", "means"], "spiral_density": ["x"],
}


class Fault(Exception):
    """What is wrong."""


class NotJudged(Exception):
    """Why something cannot be judged: it earns no points, and its cause is reported elsewhere."""


class NotGraded(Exception):
    """Why something is no part of the points: a notebook does not have to define it by our names."""


# What is compared of an answer: columns of random numbers, or numbers ------------------------------------------------


def columns(*parts):
    """Columns of random numbers and the gaps between their sorted values, which tell lattices and repetitions."""
    return [*parts, *(len(part) * np.diff(np.sort(part)) for part in parts)]


def noise_of(samples):
    """The noise of mixture samples, alone, of both coordinates and of neighbours together; and the components."""
    nearest = np.linalg.norm(samples[:, None] - MEANS, axis=2).argmin(1)
    noise = samples - MEANS[nearest]
    return columns(*noise.T, noise[:, 0] + noise[:, 1], noise[:, 0] - noise[:, 1], noise[1:, 0] - noise[:-1, 0])


def components_of(batches):
    """How often each mean is in each batch, and how often two neighbours are of one mean."""
    nearest = np.linalg.norm(batches[:, :, None] - MEANS, axis=3).argmin(2)
    return [np.concatenate([(nearest == k).sum(1) for k in range(4)]), (nearest[:, 1:] == nearest[:, :-1]).sum(1)]


def spiral_of(samples):
    rho, phi = np.hypot(*samples.T), np.arctan2(samples[:, 1], samples[:, 0])
    return [*samples.T, rho, *columns(phi % np.pi), (rho - phi / 2) % np.pi]


def samples_of(x):
    """Of samples through maps with heavy tails."""
    x = np.arcsinh(x)
    return columns(*x.T, x[:, 0] + x[:, 1], x[:, 0] - x[:, 1])


def error_of(pair):
    """What log_prob of sample_x differs by from the right log-probability, in hundredths."""
    x, log_prob = pair
    with torch.no_grad():
        right = known_flow().log_probability(torch.tensor(x, dtype=torch.float32)).numpy()
    close = np.abs(x).max(1) < 30
    return [((numbers(log_prob, (len(x),)) - right)[close] * 20).round() / 20]


def steps_of(steps):
    """What each step differs by from the one before passed through the next layer, in hundredths."""
    maps = [layer.forward for layer in known_flow().layers]
    ahead = [move(torch.tensor(step, dtype=torch.float32))[0].numpy() for move, step in zip(maps, steps)]
    return [len(steps) * np.ones(100), *(((np.arcsinh(a) - np.arcsinh(b)) * 20).round().ravel() / 20 for a, b in zip(ahead, steps[1:]))]


def seen(answer):
    """How train went about a model that has but a centre to learn: the batches of training and validation, the path, the losses."""
    index = {np.float32(x): i for i, x in enumerate(INPUTS["points"][:, 0])}
    batches = [[index[np.float32(x)] for x in batch] for batch in answer["batches"]]
    centres = np.stack([*answer["centres"], answer["end"]])
    steps = [not np.array_equal(*pair) for pair in zip(centres, centres[1:])]
    if batches[-1] in [batch for batch, step in zip(batches[:-1], steps) if not step]:
        steps[-1] = False  # after a batch of validation: the best weights are loaded into the model
    trained, held_out = ([batch for batch, step in zip(batches, steps) if step == wanted] for wanted in (True, False))
    epochs = len(answer["losses"][0])
    path = [centre for centre, step in zip(centres[1:], steps) if step]
    return SimpleNamespace(epochs=epochs, trained=trained, held_out=held_out, path=np.stack(path), losses=answer["losses"],
                           first=[sum(part[: len(part) // max(epochs, 1)], []) for part in (trained, held_out)],
                           returned=answer["returned"])


def split_of(answer):
    training, validation = map(set, seen(answer).first)
    return {"samples for validation": len(validation), "samples for both": len(training & validation),
            "in the order of the data": max(training) - min(training) < len(training)}


def batches_of(answer):
    """Sizes of batches in the first epoch, and whether all epochs have the same batches."""
    found = seen(answer)
    num = len(found.trained) // found.epochs
    return [{"the same batches in each epoch": found.trained == found.trained[:num] * found.epochs},
            [len(batch) for batch in found.trained[:num]]]


def returned_of(answer):
    """The epoch whose weights are returned, of 4."""
    found = seen(answer)
    same = [4 * (i + 1) / len(found.path) for i, centre in enumerate(found.path) if np.array_equal(centre, found.returned)]
    return same[:1]


def pick(part):
    return lambda pairs: [pair[part] for pair in pairs]


# (task, share, question, key, what is compared, title, title of the check without which it says nothing)
Check = namedtuple("Check", "task share question key take title after name random tolerance", defaults=(None, "", None, False, 1e-3))

CHECKS = []
for name, question, take, title in (
        ("sample_gaussian_mixture", "mixture", noise_of, "the noise is normal, of standard deviation sigma, new for each coordinate"),
        ("sample_spiral", "spiral", spiral_of, "the samples fill the plane like the spiral")):
    CHECKS += [Check(SAMPLERS, 2, question, "samples", take, f"{name}: {title}", name=name, random=True),
               Check(SAMPLERS, 1, question, "fresh", None, f"{name}: another seed gives other samples", name=name)]
CHECKS += [
    Check(SAMPLERS, 2, "mixture", "batches", components_of, "sample_gaussian_mixture: the component is drawn, all with the same "
          "probability", name="sample_gaussian_mixture", random=True),
    *(Check(ESTIMATE, share, "kernel", key, None, f"kernel_density_estimate: {title}", name="kernel_density_estimate") for key, share, title in (
        ("full", 2, "right for a bandwidth matrix with different rows"), ("round", 2, "right for H = 0.5 I"),
        ("negative", 1, "right for a matrix of negative determinant"), ("one", 1, "right for one point"))),
    *(Check(DENSITIES, 1, "kernel", key, None, name, name=name) for key, name in (
        ("mixture", "gaussian_mixture_density"), ("spiral", "spiral_density"), ("grid", "kernel_density_on_grid"))),
    Check(GIVEN, 1, "data", "sets", None, "sample_2d_datasets: the points of the four sets"),
    Check(GIVEN, 1, "data", "default", None, "sample_2d_datasets: 1000 points with seed 0 without other arguments, 5 Gaussians in the ring"),
    Check(GIVEN, 1, "data", "Squares", None, "sample_2d_datasets: an unknown name is refused"),
    Check(GIVEN, 1, "data", "items", None, "ToyDataset: num_samples items, each a sample"),
    Check(GIVEN, 1, "data", "dtype", None, "ToyDataset: items are float32 tensors"),
    Check(GIVEN, 1, "networks", "parts", None, "CouplingLayer: mask is the one given, scale_factor starts at 0"),
    Check(GIVEN, 1, "networks", "learned", None, "CouplingLayer: scale_factor is learned, mask is not"),
]
for key in ("s_func", "t_func"):
    CHECKS += [Check(GIVEN, 1, "networks", f"{key} shapes", None, f"{key}: Linear layers of widths 2-32-32-2"),
               Check(GIVEN, 1, "networks", key, None, f"{key}: LeakyReLU in between, nothing after", after=f"{key}: Linear layers of widths 2-32-32-2")]
CHECKS += [
    Check(GIVEN, 1, "coupling_flow", "layers", None, "CouplingFlow: as many layers as asked for"),
    Check(GIVEN, 1, "coupling_flow", "masks", None, "CouplingFlow: the masks are (1, 0) and (0, 1) in turn", after="CouplingFlow: as many layers as asked for"),
    Check(GIVEN, 1, "coupling_flow", "prior", None, "CouplingFlow: the prior is the standard normal distribution"),
]
for way, formula in (("forward", "x · exp(s) + t"), ("inverse", "(y − t) · exp(−s)")):
    output, log_det = f"{way}: {formula} where the mask is 0, the rest as it came", f"{way}: log|det| of the Jacobian, one number a sample"
    CHECKS += [
        Check(LAYER, 3, "coupling_layer", way, pick(0), output),
        Check(LAYER, 3, "coupling_layer", way, pick(1), log_det, after=output),
        Check(LAYER, 1, "coupling_layer", f"{way} far", pick(0), f"{way}: right for large s too, nothing is clamped", after=output),
        Check(LAYER, 0, "coupling_layer", f"{way} far", pick(1), f"{way}: the log-determinant is right for large s too", after=log_det),
        Check(LAYER, 1, "coupling_layer", f"{way} gradients", None, f"{way}: gradients reach all that is learned", after=log_det),
        Check(LAYER, 1, "coupling_layer", f"{way} one", None, f"{way}: right for one sample", after=log_det),
        Check(LAYER, 1, "coupling_layer", f"{way} input", None, f"{way}: the input stays as it is"),
    ]
log_p, sampled = "log_probability: log p(z) plus the inverse log-determinants, last layer to first", "sample_x: samples of the prior through all layers"
CHECKS += [
    Check(FLOW, 4, "coupling_flow", "log_probability", None, log_p),
    Check(FLOW, 1, "coupling_flow", "far", None, "log_probability: right far out too, nothing is clamped", after=log_p),
    Check(FLOW, 1, "coupling_flow", "slope", None, "log_probability: gradients pass all of it", after=log_p),
    Check(FLOW, 1, "coupling_flow", "one", None, "log_probability: right for one sample", after=log_p),
    Check(FLOW, 0, "coupling_flow", "input", None, "log_probability: the input stays as it is"),
    Check(FLOW, 0, "coupling_flow", "own", None, "the three methods run with the notebook's own layers"),
    Check(FLOW, 3, "coupling_flow", "sample_x", lambda pair: samples_of(pair[0]), sampled, random=True),
    Check(FLOW, 3, "coupling_flow", "sample_x", error_of, "sample_x: log_prob is log p of the samples that come with it", after=sampled, random=True),
    Check(FLOW, 1, "coupling_flow", "sample_x fresh", None, "sample_x: each call gives new samples", after=sampled),
    Check(FLOW, 0, "coupling_flow", "sample_x one", None, "sample_x: one sample", after=sampled),
    Check(FLOW, 1, "coupling_flow", "steps", lambda steps: samples_of(steps[0]), "sample_x_each_step: begins with samples of the prior", random=True),
    Check(FLOW, 3, "coupling_flow", "steps", steps_of, "sample_x_each_step: each step is the one before, passed through the next layer", random=True),
    Check(FLOW, 1, "coupling_flow", "steps fresh", None, "sample_x_each_step: each call gives new samples"),
    Check(TRAINING, 1, "training", "to_np", None, "to_np: a NumPy array"),
    Check(TRAINING, 1, "training", "own", None, "train: trains the notebook's own flow on its own data"),
    Check(TRAINING, 1, "training", "short", split_of, "train: nine tenths of the samples, drawn at random, for training, the others for validation"),
    Check(TRAINING, 1, "training", "short", batches_of, "train: batches of 64, the same in each epoch"),
    Check(TRAINING, 1, "training", "batches", batches_of, "train: batches of batch_size, the same in each epoch"),
    Check(TRAINING, 1, "training", "short", lambda v: seen(v).path, "train: Adam with learning rate 0.001", tolerance=1e-9,
          after="train: batches of 64, the same in each epoch"),
    Check(TRAINING, 1, "training", "long", lambda v: seen(v).path[:120], "train: the same in all epochs, the learning rate too", tolerance=1e-9,
          after="train: Adam with learning rate 0.001"),
    Check(TRAINING, 1, "training", "short", lambda v: seen(v).losses, "train: a loss is the mean of -log p over an epoch's batches",
          after="train: Adam with learning rate 0.001"),
    Check(TRAINING, 1, "training", "default", lambda v: seen(v).epochs, "train: 100 epochs without other arguments",
          after="train: batches of 64, the same in each epoch"),
    Check(TRAINING, 1, "training", "long", lambda v: seen(v).epochs, "train: as many epochs as asked for",
          after="train: batches of 64, the same in each epoch"),
    Check(TRAINING, 1, "training", "many", returned_of, "train: with 500 samples for validation the best weights are returned"),
    Check(TRAINING, 1, "training", "few", returned_of, "train: with fewer the last weights are returned"),
]


# The right answers, and those of the usual mistakes ------------------------------------------------------------------


def module_of(text):
    module = ModuleType("solution")
    exec(text, vars(module))
    return module


def load(index):
    """The right solution, or with a mistake, as a module."""
    return module_of(RIGHT if index is None else changed(RIGHT, *ALL[index][2:]))


@cache
def known_flow():
    """The right flow with the known maps as layers."""
    flow = load(None).CouplingFlow(4)
    for layer, stretch, shift in zip(flow.layers, INPUTS["stretches"], INPUTS["shifts"]):
        layer.forward, layer.inverse = probes.known_map(probes.tensor(stretch), probes.tensor(shift))
    return flow


def answers_of(index, question, only=None, split=None):
    """{key: what the right solution answers to a question, or with a mistake}; where it trains, on this split of the data."""
    module, found = load(index), {}
    if split:
        module.random_split = lambda data, lengths: [torch.utils.data.Subset(data, part) for part in split]

    def report(key, function):
        with contextlib.suppress(Exception):
            if only in (None, key):
                found[key] = sandbox.decoded(json.loads(json.dumps(function(), default=inside.plain)))

    with contextlib.suppress(Exception):
        getattr(probes, question)(module, INPUTS, report)
    return found


known_answers = cache(answers_of)


def expected(check, index, split):
    if check.take is split_of:
        return {"samples for validation": 70, "samples for both": 0, "in the order of the data": False}
    if check.question == "training":
        value = answers_of(index, check.question, check.key, split).get(check.key)
    else:
        value = known_answers(index, check.question).get(check.key)
    with contextlib.suppress(Exception):  # of a mistake that leaves nothing to compare
        return check.take(value) if check.take else value
    return None


def difference(actual, right, tolerance):
    """How an answer differs from the right one, in words; none where it does not."""
    if isinstance(right, np.ndarray):
        try:
            actual = numbers(actual, right.shape)
        except Fault as fault:
            return str(fault)
        off = np.abs(actual - right).max()
        return "" if off <= tolerance * np.abs(right).max() + 1e-6 * tolerance else f"it is off by up to {off:.2g}"
    if isinstance(right, list | dict):
        if not isinstance(actual, type(right)) or len(actual) != len(right):
            return f"it is {brief(actual)}, not {brief(right)}"
        keys = right if isinstance(right, dict) else range(len(right))
        words = ((key, difference(actual[key], right[key], tolerance)) for key in keys)
        return next((f"{key}: {why}" if isinstance(key, str) else why for key, why in words if why), "")
    if isinstance(right, float):
        right = np.array(right)
        return difference(actual, right, tolerance)
    return "" if actual == right and isinstance(actual, type(right)) else f"it is {brief(actual)}, not {brief(right)}"


def brief(value):
    """What an answer is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, list) and any(isinstance(part, np.ndarray | list) for part in value):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"of type {value.get('type', 'dict')}"
    return repr(value)[:80]


def numbers(value, shape):
    """An answer as an array of finite numbers of a shape, where a column is as good as a row."""
    if value is None:
        raise Fault("it is None: not implemented")
    with contextlib.suppress(TypeError, ValueError):
        value = np.asarray(value, float)
    if not isinstance(value, np.ndarray):
        raise Fault(f"it is {brief(value)}, not an array of numbers")
    value = value[..., 0] if value.shape == (*shape, 1) else value
    if value.shape != shape:
        raise Fault(f"its shape is {value.shape}, not {shape}")
    if not np.isfinite(value).all():
        raise Fault("it holds NaN or infinity")
    return value


def unlike(actual, right, chance):
    """How random numbers differ from right ones in their distribution, in words; none where they do not."""
    if len(actual) != len(right):
        return "it has another number of parts"
    for column, wanted in zip(actual, right):
        if ks_2samp(column, wanted, method="asymp").pvalue < chance:
            measured = f"mean {column.mean():.3g}, standard deviation {column.std():.3g}"
            return f"the numbers are of another distribution ({measured}, not {wanted.mean():.3g}, {wanted.std():.3g})"
    return ""


class Judge:
    """The verdicts on a run."""

    def __init__(self, run):
        self.run, self.said, self.outcomes = run, set(), {}

    def verdicts(self):
        """(check, outcome, message), the outcome PASS, FAIL, NOT JUDGED or NOT GRADED."""
        for check in CHECKS:
            try:
                self.judge(check)
                outcome, message = "PASS", ""
            except Fault as fault:
                outcome, message = "FAIL", str(fault)
            except NotJudged as reason:
                outcome, message = "NOT JUDGED", str(reason)
            except NotGraded as reason:
                outcome, message = "NOT GRADED", str(reason)
            except Exception as error:  # of an answer that nobody thought of
                outcome, message = "FAIL", f"the answer makes no sense ({type(error).__name__})"
            self.outcomes[check.title] = outcome
            yield check, outcome, message

    def judge(self, check):
        self.require(check.name)
        value, split = self.value(check.question, check.key), None
        try:
            actual = check.take(value) if check.take else value
            split = seen(value).first if check.question == "training" and isinstance(value, dict) and "end" in value else None
        except Exception:
            if check.after and self.outcomes[check.after] != "PASS":
                raise NotJudged(f"because that is not right: {check.after}") from None
            raise Fault(f"it has not the form that is asked for: it is {brief(value)}") from None
        why = self.differs(check, actual, None, split)
        if not why:
            return
        tasks = {check.task, *([ESTIMATE] if check.task == DENSITIES else []), *([GIVEN] if check.task != TRAINING else [])}
        likely = sorted(range(len(ALL)), key=lambda i: (check.question, ALL[i][1]) not in self.said)
        causes = (i for i in likely if ALL[i][0] in tasks and not self.differs(check, actual, i, split))
        if causes := list(islice(causes, None if check.task != TRAINING else 1)):  # whose mistakes take their time
            task, words, *_ = ALL[max(causes, key=partial(self.fits, check.question))]
            if not words or task != check.task and task == GIVEN:
                return  # it is as good, or right but for what is said elsewhere
            self.say(words, check.question)
        if check.after and self.outcomes[check.after] != "PASS":
            raise NotJudged(f"because that is not right: {check.after}")
        raise Fault(why)

    def differs(self, check, actual, index, split):
        """How an answer differs from that of the right solution, or one with a mistake."""
        right = expected(check, index, split)
        if right is None:
            return "that cannot be"
        return unlike(actual, right, 1e-7 if index is None else 1e-5) if check.random else difference(actual, right, check.tolerance)

    def fits(self, question, index):
        """How many answers to a question a mistake explains."""
        found = 0
        for check in CHECKS:
            if check.question == question and question != "training":
                with contextlib.suppress(Exception):
                    value = self.run.answers[question, check.key]
                    found += not self.differs(check, check.take(value) if check.take else value, index, None)
        return found

    def say(self, words, question=None):
        """A Fault in these words; where they are said already, it is not judged."""
        if (question, words) in self.said:
            raise NotJudged(f"because of what is said elsewhere: {words}")
        self.said.add((question, words))
        raise Fault(words)

    def require(self, name):
        """That a name of ours is defined, with its parameters."""
        takes = self.run.names.get(name)
        if name and (not isinstance(takes, list) or set(PARAMETERS[name]) != {*map(str, takes)} - {"rng"}):
            given = f"it takes {takes}" if name in self.run.names else "the notebook does not define it"
            raise NotGraded(f"{given}; expected {name}({', '.join(PARAMETERS[name])})")

    def value(self, question, key):
        """An answer; a missing one is a fault where it is first needed, and not judged from then on."""
        if (question, key) in self.run.answers:
            return self.run.answers[question, key]
        for name in NEEDED[question]:
            if name not in self.run.names:
                self.say(f"the notebook does not define {name}{self.why_not(name)}")
        status = self.run.ended.get(question)
        self.say(self.run.raised.get((question, key)) or self.run.raised.get((question, None)) or
                 (how(status) if status else self.run.stopped or "there is no answer"))

    def why_not(self, name):
        """Which cell failed that would define a name."""
        for number, text in enumerate(self.run.cells, 1):
            why = self.run.skipped.get(number) or self.run.failed.get(number)
            if why and (f"class {name}" in text or f"def {name}" in text):
                return f": cell {number}: {why}"
        return ""


NEEDED = {"mixture": [], "spiral": [], "kernel": [], "data": ["sample_2d_datasets", "ToyDataset"], "networks": ["CouplingLayer"],
          "coupling_layer": ["CouplingLayer"], "coupling_flow": ["CouplingFlow"], "training": ["CouplingFlow", "ToyDataset", "train"]}


def how(status):
    """How a process ended, in words."""
    if isinstance(status, int) and 0 < status < 128:
        return f"it crashes or is killed ({signal.strsignal(status & 127)})"
    return "it ends the process, or does not react to an interrupt"
