"""What is right, judged outside of the sandbox: a notebook has to answer what the right solution answers.

Numbers have to agree, samples have to be of one distribution. Where they do not, the cause is that usual mistake which
makes the right solution answer the same.
"""

import contextlib
import json
import re
import secrets
import signal
from collections import namedtuple
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from scipy.stats import ks_2samp

from grader import inside, probes, sandbox

SAMPLERS, ESTIMATE, DENSITIES = "Part I, Task 1 (samplers)", "Part I, Task 2 (estimator)", "Part I, Task 3 (densities)"
LAYER, FLOW = "Part II, Task 6 (coupling layer)", "Part II, Task 8 (coupling flow)"
GIVEN, TRAINING = "Given code (data, networks, prior)", "Given code (training)"
ASKED = {  # by question: the task, and others whose mistakes may show in the answers
    "samplers": (SAMPLERS,), "estimator": (ESTIMATE,), "densities": (DENSITIES, ESTIMATE), "data": (GIVEN,),
    "networks": (GIVEN,), "coupling_layer": (LAYER, GIVEN), "coupling_flow": (FLOW, GIVEN), "training": (TRAINING,),
}
NEEDED = {"data": "sample_2d_datasets ToyDataset", "networks": "CouplingFlow CouplingLayer",
          "coupling_layer": "CouplingLayer", "coupling_flow": "CouplingFlow",
          "training": "CouplingFlow ToyDataset train"}
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


RANDOM = {  # by words of a title: what is compared of random answers
    "normal noise": noise_of, "the component": components_of, "the spiral": spiral_of, "through all layers": samples_of,
    "log_prob is": error_of, "begins with": samples_of, "each step": steps_of,
}
Check = namedtuple("Check", "task question title")
CHECKS = [Check(ASKED[each.__name__][0], each.__name__, title)
          for each in probes.QUESTIONS for title in answers_of(RIGHT, each.__name__)]


# Comparing -----------------------------------------------------------------------------------------------------------


class Verdict(Exception):
    """An outcome, and why: FAIL, NOT JUDGED if the cause is reported elsewhere, NOT GRADED if it is no part of it."""


def numbers(value, shape):
    """An answer as an array of finite numbers of a shape, where a column is as good as a row."""
    with contextlib.suppress(TypeError, ValueError):
        value = np.asarray(value, float) if value is not None else None
    if not isinstance(value, np.ndarray):
        raise Verdict("FAIL", f"it is {brief(value)}, no numbers" if value is not None else "it is None, not written")
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
    many = isinstance(right, list | dict)
    if type(actual) is not type(right) or (len(actual) != len(right) if many else actual != right):
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
    return next((take(value) for words, take in RANDOM.items() if words in check.title), value)


@cache
def expected(check, text):
    """What a solution answers; None where a mistake leaves nothing to compare."""
    with contextlib.suppress(Exception):
        return taken(check, answers_of(text, check.question, *[check.title] * (check.task == TRAINING))[check.title])


def differs(check, actual, text):
    right = expected(check, text)
    if right is None:
        return "that cannot be"
    if any(words in check.title for words in RANDOM):
        return unlike(actual, right, 1e-7 if text == RIGHT else 1e-5)
    return difference(actual, right, 1e-9 if check.task == TRAINING else 1e-3)


class Judge:
    """The verdicts on a run: (check, outcome, message)."""

    def __init__(self, run):
        self.run, self.said, self.faults = run, set(), {}

    def verdicts(self):
        for check in CHECKS:
            outcome, message = "PASS", ""
            try:
                self.judge(check, check.title[2:].partition(":")[0])
            except Verdict as verdict:
                outcome, message = verdict.args
            except Exception as error:  # of an answer that nobody thought of
                outcome, message = "FAIL", f"the answer makes no sense ({type(error).__name__})"
            if outcome == "FAIL":
                self.faults.setdefault(check.title[2:].partition(":")[0], check.title)
            yield check, outcome, message

    def judge(self, check, subject):
        takes = self.run.names.get(subject)
        names = {*map(str, takes)} if isinstance(takes, list) else set()
        if subject in PARAMETERS and names - {"rng"} != PARAMETERS[subject]:
            given = f"it takes {takes}" if takes else "the notebook does not define it"
            raise Verdict("NOT GRADED", f"{given}; expected: {', '.join(sorted(PARAMETERS[subject]))}")
        value = self.value(check)
        try:
            actual = taken(check, value)
            why = differs(check, actual, RIGHT)
        except Exception:
            actual, why = None, f"it has not the form that is asked for: it is {brief(value)}"
        known = check.task == TRAINING and subject in self.faults  # it earns nothing, and the search takes its time
        if why and actual is not None and not known and (cause := self.cause(check, actual)):
            if not cause.words or cause.task != check.task:
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

        usual = [mistake for mistake in MISTAKES if mistake.task in ASKED[check.question]]
        usual.sort(key=lambda mistake: (check.question, mistake.words) not in self.said)
        causes = (mistake for mistake in usual if not differs(check, actual, mistake.text))
        others = []
        for other in CHECKS:
            with contextlib.suppress(Exception):
                if other.question == check.question:
                    others.append((other, taken(other, self.run.answers[other.question, other.title])))
        return max(causes, key=fits, default=None)

    def say(self, words, question=None):
        """FAIL in these words; where they are said already, it is not judged."""
        if (question, words) in self.said:
            raise Verdict("NOT JUDGED", f"because of what is said elsewhere: {words}")
        self.said.add((question, words))
        raise Verdict("FAIL", words)

    def value(self, check):
        """An answer; a missing one is a fault where it is first needed, and not judged from then on."""
        run, question, place = self.run, check.question, (check.question, check.title)
        if place in run.answers:
            return run.answers[place]
        for name in NEEDED.get(question, "").split():
            if name not in run.names:
                failed = [f": cell {number}: {why}" for number, why in {**run.failed, **run.skipped}.items()
                          if re.search(rf"(class|def) {name}\b", run.cells[number - 1])]
                self.say(f"the notebook does not define {name}{''.join(failed[:1])}")
        raised, status = run.raised.get(place) or run.raised.get((question, None)), run.ended.get(question)
        return self.say(raised or (how(status) if status else run.stopped or "there is no answer"))


def how(status):
    """How a process ended, in words."""
    if isinstance(status, int) and 0 < status < 128:
        return f"it crashes or is killed ({signal.strsignal(status & 127)})"
    return "it ends the process, or does not react to an interrupt"
