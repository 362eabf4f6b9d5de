"""What is right, judged outside of the sandbox: a notebook has to answer what the right solution answers.

Numbers have to agree, samples have to be of one distribution. Where they do not, the cause is that of the usual mistakes
which makes the right solution answer the same.
"""

import contextlib
import json
import re
import secrets
import signal
from collections import namedtuple
from functools import cache
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from scipy.stats import ks_2samp

from grader import inside, probes, sandbox

SAMPLERS, ESTIMATE, DENSITIES = "Part I, Task 1 (samplers)", "Part I, Task 2 (estimator)", "Part I, Task 3 (densities)"
LAYER, FLOW = "Part II, Task 6 (coupling layer)", "Part II, Task 8 (coupling flow)"
GIVEN, TRAINING = "Given code (data, networks, prior)", "Given code (training)"
ASKED = {  # by question: what it needs, and the tasks whose mistakes may show in the answers
    "mixture": ([], SAMPLERS), "spiral": ([], SAMPLERS), "kernel": ([], ESTIMATE, DENSITIES),
    "data": (["sample_2d_datasets", "ToyDataset"], GIVEN), "networks": (["CouplingLayer"], GIVEN),
    "coupling_layer": (["CouplingLayer"], LAYER, GIVEN), "coupling_flow": (["CouplingFlow"], FLOW, GIVEN),
    "training": (["CouplingFlow", "ToyDataset", "train"], TRAINING),
}
PARAMETERS = {  # names of ours, by which Part I can be graded
    "sample_gaussian_mixture": {"num_samples", "sigma", "means"}, "sample_spiral": {"num_samples"},
    "kernel_density_estimate": {"x", "samples", "H"}, "kernel_density_on_grid": {"xs", "ys", "samples", "H"},
    "gaussian_mixture_density": {"x", "sigma", "means"}, "spiral_density": {"x"},
}
RNG = np.random.default_rng(secrets.randbits(64))  # nobody knows the inputs before
MEANS = 100 * np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [2.0, 3.0]])
INPUTS = {
    "seed": int(RNG.integers(2**31)), "seconds": 20, "means": MEANS, "num": 4000, "points": RNG.normal(size=(5000, 2)),
    "plane": RNG.normal(0, np.repeat([[0.5], [3]], 30, 0), (60, 2)), "x": RNG.normal(size=(12, 2)),
    "bandwidths": [[[0.4, 0.3], [-0.1, 0.6]], [[0, 0.4], [0.7, 0]], [[0.5, 0], [0, 0.5]]],
    "weights": RNG.normal(0, 0.4, 1218), "scale_factor": RNG.uniform(1.5, 2.5, 2),
    "stretches": RNG.uniform([1.25, 0.65], [1.4, 0.8], (4, 2)) ** [[1], [-1], [1], [1]],
    "shifts": RNG.uniform(0.3, 0.8, (4, 2)) * [[1], [-1], [1], [-1]],
    "far": 100.0, "steep": 300.0,  # where a centre starts that is to be trained, and how steep its first four steps are
    "runs": {  # of training: number of samples, after how many steps the loss is lowest, what else train is given
        "short": (700, None, {"epochs": 3}), "batches": (700, None, {"epochs": 2, "batch_size": 100}),
        "long": (20, None, {"epochs": 120}), "default": (20, None, {}),
        "many": (5000, 41.4, {"epochs": 4, "batch_size": 250}), "few": (4990, 41.4, {"epochs": 4, "batch_size": 250}),
    },
}

# The right solution and the usual mistakes ---------------------------------------------------------------------------

TEXT = (Path(__file__).parent / "solution.txt").read_text(encoding="utf-8").split("\n# %% ")[1:]
CELLS = [re.sub("(?m)^#.*\n", "", cell.partition("\n")[2]) for cell in TEXT]
RIGHT = "\n".join(CELLS[:-2])  # without those that only use it
Mistake = namedtuple("Mistake", "task words text")


def changed(text, *texts):
    """A text with pieces changed, each at its first place."""
    for old, new in zip(texts[::2], texts[1::2]):
        if old not in text:
            raise ValueError(f"not there to be changed: {old}")
        text = text.replace(old, new, 1)
    return text


def mistakes():
    """Each mistake of the solution's comments, with the text of the solution that makes it."""
    for cell, plain in zip(TEXT, CELLS):
        for kind, comment in re.findall(r"(?m)^#([-+]) (.*(?:\n#  .*)*)", cell):
            old, _, entries = comment.replace("\n#  ", " ").partition(" => ")
            for entry in (" " + entries).split(" | "):
                values = re.search(r"{([\w.,]+)}", entry)
                for value in values[1].split(",") if values else [""]:
                    words, *texts = re.split(" ~ ?| ;; ", entry.replace(values[0], value) if values else entry)
                    for function in filter(lambda text: old in text, plain.split("\n\n")):
                        text = RIGHT.replace(function, changed(function, old, *texts))
                        yield Mistake(GIVEN if kind == "+" else cell.partition("\n")[0], words.strip(), text)


MISTAKES = list(mistakes())


def module_of(text):
    module = ModuleType("solution")
    exec(text, vars(module))
    return module


@cache
def answers_of(text, question, only=None):
    """{key: what a solution answers to a question, or to a part of it}."""
    module, found = module_of(text), {}

    def report(key, function):
        with contextlib.suppress(Exception):
            if only in (None, key):
                found[key] = sandbox.decoded(json.loads(json.dumps(function(), default=inside.plain)))

    with contextlib.suppress(Exception):
        getattr(probes, question)(module, INPUTS, report)
    return found


# What is compared of an answer: columns of random numbers, or numbers ------------------------------------------------


def columns(*parts):
    """Columns of random numbers and the gaps between their sorted values, which tell lattices and repetitions."""
    return [*parts, *(len(part) * np.diff(np.sort(part)) for part in parts)]


def nearest(samples):
    return np.linalg.norm(samples[..., None, :] - MEANS, axis=-1).argmin(-1)


def noise_of(samples):
    """The noise of mixture samples, alone, of both coordinates and of neighbours together."""
    noise = samples - MEANS[nearest(samples)]
    return columns(*noise.T, noise[:, 0] + noise[:, 1], noise[:, 0] - noise[:, 1], noise[1:, 0] - noise[:-1, 0])


def components_of(batches):
    """How often each mean is in each batch, and how often two neighbours are of one mean."""
    found = nearest(batches)
    return [np.concatenate([(found == k).sum(1) for k in range(4)]), (found[:, 1:] == found[:, :-1]).sum(1)]


def spiral_of(samples):
    rho, phi = np.hypot(*samples.T), np.arctan2(samples[:, 1], samples[:, 0])
    return [*samples.T, rho, *columns(phi % np.pi), (rho - phi / 2) % np.pi]


def samples_of(parts):
    """Of the first part, samples through maps with heavy tails."""
    x = np.arcsinh(parts[0])
    return columns(*x.T, x[:, 0] + x[:, 1], x[:, 0] - x[:, 1])


@cache
def known_flow():
    flow = module_of(RIGHT).CouplingFlow(4)
    probes.know(flow, INPUTS)
    return flow


def off(actual, right):
    """What numbers differ by from right ones, so coarsely that rounding is no difference."""
    return ((actual - np.asarray(right.detach())) * 20).round().ravel() / 20


def error_of(pair):
    """What log_prob of sample_x differs by from the right log-probability."""
    close = np.abs(pair[0]).max(1) < 30
    right = known_flow().log_probability(torch.tensor(pair[0][close], dtype=torch.float32))
    return [off(numbers(pair[1], (len(close),))[close], right)]


def steps_of(steps):
    """What each step differs by from the one before passed through the next layer."""
    ahead = [layer(torch.tensor(x, dtype=torch.float32))[0] for layer, x in zip(known_flow().layers, steps)]
    return [len(steps) * np.ones(100), *(off(np.arcsinh(x), a.asinh()) for a, x in zip(ahead, steps[1:]))]


def pick(part):
    return lambda answer: [each[part] for each in answer] if isinstance(answer, list) else answer[part]


# The checks ----------------------------------------------------------------------------------------------------------

# A title names its subject first. What fails after its first fault, without a cause of its own, is put down to that.
Check = namedtuple("Check", "task question share key title take random tolerance", defaults=(None, False, 1e-3))
CHECKS = [Check(*place, *row) for place, rows in {
    (SAMPLERS, "mixture"): [
        (2, "samples", "sample_gaussian_mixture: normal noise of standard deviation sigma, new each time", noise_of, True),
        (2, "batches", "sample_gaussian_mixture: the component is drawn with equal probabilities", components_of, True),
        (1, "fresh", "sample_gaussian_mixture: another seed gives other samples")],
    (SAMPLERS, "spiral"): [
        (2, "samples", "sample_spiral: the samples fill the plane like the spiral", spiral_of, True),
        (1, "fresh", "sample_spiral: another seed gives other samples")],
    (ESTIMATE, "kernel"): [
        (2, "full", "kernel_density_estimate: right for a bandwidth matrix with different rows"),
        (2, "round", "kernel_density_estimate: right for H = 0.5 I"),
        (1, "negative", "kernel_density_estimate: right for a matrix of negative determinant"),
        (1, "one", "kernel_density_estimate: right for one point")],
    (DENSITIES, "kernel"): [
        (1, "mixture", "gaussian_mixture_density"), (1, "spiral", "spiral_density"), (1, "grid", "kernel_density_on_grid")],
    (GIVEN, "data"): [
        (1, "sets", "sample_2d_datasets: the points of the four sets"),
        (1, "default", "sample_2d_datasets: 1000 points with seed 0 and 5 Gaussians without other arguments"),
        (1, "items", "ToyDataset: num_samples items, each a sample as a float32 tensor")],
    (GIVEN, "networks"): [
        (1, "parts", "CouplingLayer: mask is the one given, scale_factor starts at 0"),
        (1, "learned", "CouplingLayer: scale_factor is learned, mask is not"),
        *((1, key, f"{name}: {title}") for name in ("s_func", "t_func") for key, title in (
            (f"{name} shapes", "Linear layers of widths 2-32-32-2"), (name, "LeakyReLU in between, nothing after")))],
    (GIVEN, "coupling_flow"): [
        (1, "layers", "CouplingFlow: as many layers as asked for"),
        (1, "masks", "CouplingFlow: the masks are (1, 0) and (0, 1) in turn"),
        (1, "prior", "CouplingFlow: the prior is the standard normal distribution")],
    (LAYER, "coupling_layer"): [row for way, formula in (("forward", "x · exp(s) + t"), ("inverse", "(y − t) · exp(−s)"))
                                for row in (
        (3, way, f"{way}: {formula} where the mask is 0, the rest as it came", pick(0)),
        (3, way, f"{way}: log|det| of the Jacobian, one number a sample", pick(1)),
        (1, f"{way} far", f"{way}: right for large s too, nothing is clamped"),
        (1, f"{way} gradients", f"{way}: gradients reach all that is learned"),
        (1, f"{way} one", f"{way}: right for one sample"),
        (1, f"{way} input", f"{way}: the input stays as it is"))],
    (FLOW, "coupling_flow"): [
        (4, "log_probability", "log_probability: log p(z) plus the inverse log-determinants, last layer to first"),
        (1, "far", "log_probability: right far out too, nothing is clamped"),
        (1, "slope", "log_probability: gradients pass all of it"),
        (1, "one", "log_probability: right for one sample"),
        (0, "input", "log_probability: the input stays as it is"),
        (3, "sample_x", "sample_x: samples of the prior through all layers", samples_of, True),
        (3, "sample_x", "sample_x: log_prob is log p of the samples that come with it", error_of, True),
        (1, "sample_x fresh", "sample_x: each call gives new samples"),
        (0, "sample_x one", "sample_x: one sample"),
        (1, "sample_x_each_step", "sample_x_each_step: begins with samples of the prior", samples_of, True),
        (3, "sample_x_each_step", "sample_x_each_step: each step is the one before, through the next layer", steps_of, True),
        (1, "sample_x_each_step fresh", "sample_x_each_step: each call gives new samples"),
        (0, "own", "CouplingFlow: the three methods run with the notebook's own layers")],
    (TRAINING, "training"): [
        *((1, key, f"train: {title}", pick(what), False, 1e-9) for key, what, title in (
            ("short", "path", "Adam with learning rate 0.001 on nine tenths of the data, from random_split, in batches of 64"),
            ("short", "losses", "a loss is the mean of -log p over an epoch's batches"),
            ("batches", "path", "batches of batch_size"),
            ("long", "path", "the learning rate stays the same, without a scheduler"),
            ("long", "losses", "as many epochs as asked for"), ("default", "losses", "100 epochs without other arguments"),
            ("many", "epoch", "with 500 samples for validation the best weights are returned"),
            ("few", "epoch", "with fewer the last weights are returned"))),
        (1, "own", "to_np gives an array, and train runs with the notebook's own flow and data")],
}.items() for row in rows]


# Comparing -----------------------------------------------------------------------------------------------------------


class Verdict(Exception):
    """An outcome, and why: FAIL, NOT JUDGED where the cause is reported elsewhere, NOT GRADED what is no part of the points."""


def numbers(value, shape):
    """An answer as an array of finite numbers of a shape, where a column is as good as a row."""
    with contextlib.suppress(TypeError, ValueError):
        value = np.asarray(value, float) if value is not None else None
    if not isinstance(value, np.ndarray):
        raise Verdict("FAIL", "it is None: not implemented" if value is None else f"it is {brief(value)}, no array of numbers")
    value = value[..., 0] if value.shape == (*shape, 1) else value
    if value.shape != shape:
        raise Verdict("FAIL", f"its shape is {value.shape}, not {shape}")
    if not np.isfinite(value).all():
        raise Verdict("FAIL", "it holds NaN or infinity")
    return value


def difference(actual, right, tolerance):
    """How an answer differs from the right one, in words; none where it does not."""
    if isinstance(right, np.ndarray | float):
        try:
            error = np.abs(numbers(actual, np.shape(right)) - right).max()
        except Verdict as verdict:
            return verdict.args[1]
        return "" if error <= tolerance * (np.abs(right).max() + 1e-6) else f"it is off by up to {error:.2g}"
    if type(actual) is not type(right) or (len(actual) != len(right) if isinstance(right, list | dict) else actual != right):
        return f"it is {brief(actual)}, not {brief(right)}"
    for key in right if isinstance(right, dict) else range(len(right)) if isinstance(right, list) else ():
        if why := difference(actual[key], right[key], tolerance):
            return f"{key}: {why}" if isinstance(key, str) else why
    return ""


def brief(value):
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, list) and any(isinstance(part, np.ndarray | list) for part in value):
        return f"a list of {len(value)}"
    return f"of type {value.get('type', 'dict')}" if isinstance(value, dict) else repr(value)[:80]


def unlike(actual, right, chance):
    """How random numbers differ from right ones in their distribution, in words; none where they do not."""
    if len(actual) != len(right):
        return "it has another number of parts"
    for column, wanted in zip(actual, right):
        if ks_2samp(column, wanted, method="asymp").pvalue < chance:
            measured = f"mean {column.mean():.3g}, standard deviation {column.std():.3g}"
            return f"it is of another distribution ({measured}, not {wanted.mean():.3g}, {wanted.std():.3g})"
    return ""


def taken(check, value):
    return check.take(value) if check.take else value


@cache
def expected(check, text):
    """What a solution answers; None where a mistake leaves nothing to compare."""
    with contextlib.suppress(Exception):
        return taken(check, answers_of(text, check.question, *[check.key] * (check.task == TRAINING))[check.key])


def differs(check, actual, text):
    right = expected(check, text)
    if right is None:
        return "that cannot be"
    if check.random:
        return unlike(actual, right, 1e-7 if text == RIGHT else 1e-5)
    return difference(actual, right, check.tolerance)


class Judge:
    """The verdicts on a run: (check, outcome, message)."""

    def __init__(self, run):
        self.run, self.said, self.faults = run, set(), {}

    def verdicts(self):
        for check in CHECKS:
            outcome, message = "PASS", ""
            try:
                self.judge(check, check.title.partition(":")[0])
            except Verdict as verdict:
                outcome, message = verdict.args
            except Exception as error:  # of an answer that nobody thought of
                outcome, message = "FAIL", f"the answer makes no sense ({type(error).__name__})"
            if outcome == "FAIL":
                self.faults.setdefault(check.title.partition(":")[0], check.title)
            yield check, outcome, message

    def judge(self, check, subject):
        takes = self.run.names.get(subject)
        if subject in PARAMETERS and (not isinstance(takes, list) or PARAMETERS[subject] != {*map(str, takes)} - {"rng"}):
            given = f"it takes {takes}" if takes else "the notebook does not define it"
            raise Verdict("NOT GRADED", f"{given}; expected: {', '.join(sorted(PARAMETERS[subject]))}")
        value = self.value(check.question, check.key)
        try:
            actual = taken(check, value)
            why = differs(check, actual, RIGHT)
        except Exception:
            actual, why = None, f"it has not the form that is asked for: it is {brief(value)}"
        if why and actual is not None and (cause := self.cause(check, actual)):
            if not cause.words or cause.task != check.task and cause.task == GIVEN:
                return  # it is as good, or right but for what is said elsewhere
            self.say(cause.words, check.question)
        if why and subject in self.faults:
            raise Verdict("NOT JUDGED", f"because that is not right: {self.faults[subject]}")
        if why:
            raise Verdict("FAIL", why)

    def cause(self, check, actual):
        """The mistake that explains an answer, and most of the other answers to the question."""
        def fits(mistake):
            return sum(not differs(other, mine, mistake.text) for other, mine in others)

        usual = [mistake for mistake in MISTAKES if mistake.task in ASKED[check.question][1:]]
        usual.sort(key=lambda mistake: (check.question, mistake.words) not in self.said)
        causes = (mistake for mistake in usual if not differs(check, actual, mistake.text))
        others = []
        for other in CHECKS:
            with contextlib.suppress(Exception):
                if other.question == check.question:
                    others.append((other, taken(other, self.run.answers[other.question, other.key])))
        return max(causes, key=fits, default=None)

    def say(self, words, question=None):
        """FAIL in these words; where they are said already, it is not judged."""
        if (question, words) in self.said:
            raise Verdict("NOT JUDGED", f"because of what is said elsewhere: {words}")
        self.said.add((question, words))
        raise Verdict("FAIL", words)

    def value(self, question, key):
        """An answer; a missing one is a fault where it is first needed, and not judged from then on."""
        run = self.run
        if (question, key) in run.answers:
            return run.answers[question, key]
        for name in ASKED[question][0]:
            if name not in run.names:
                failed = [f": cell {number}: {why}" for number, why in {**run.failed, **run.skipped}.items()
                          if re.search(rf"(class|def) {name}\b", run.cells[number - 1])]
                self.say(f"the notebook does not define {name}{''.join(failed[:1])}")
        raised, status = run.raised.get((question, key)) or run.raised.get((question, None)), run.ended.get(question)
        return self.say(raised or (how(status) if status else run.stopped or "there is no answer"))


def how(status):
    """How a process ended, in words."""
    if isinstance(status, int) and 0 < status < 128:
        return f"it crashes or is killed ({signal.strsignal(status & 127)})"
    return "it ends the process, or does not react to an interrupt"
