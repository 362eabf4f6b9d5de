"""What is right, judged outside of the sandbox: a notebook has to answer what the right solution answers.

Numbers have to agree, samples to be of one distribution. Else the cause is the mistake that makes ours answer the same.
"""

import contextlib
import json
import re
import secrets
from collections import namedtuple
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from scipy.stats import ks_2samp

from grader import inside, probes

TASKS = {  # by question
    "samplers": "Part I, Task 1 (samplers)", "estimator": "Part I, Task 2 (estimator)",
    "coupling_layer": "Part II, Task 6 (coupling layer)", "coupling_flow": "Part II, Task 8 (coupling flow)",
    "data": "Given code (data)", "networks": "Given code (networks, prior)", "training": "Given code (training)",
}
PARAMETERS = {  # names of ours, by which Part I can be graded
    "sample_gaussian_mixture": "num_samples sigma means", "sample_spiral": "num_samples",
    "kernel_density_estimate": "x samples H",
}
RNG = np.random.default_rng(secrets.randbits(64))  # nobody knows the inputs before
MEANS = 100 * np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [2.0, 3.0]])
INPUTS = {
    "seed": int(RNG.integers(2**31)), "seconds": 20, "means": MEANS, "num": 1000, "points": RNG.normal(size=(5000, 2)),
    "plane": RNG.normal(0, np.repeat([[0.5], [3]], 30, 0), (60, 2)), "x": RNG.normal(size=(12, 2)),
    "bandwidths": [[[0.4, 0.3], [-0.1, 0.6]], [[0, 0.4], [0.7, 0]], [[0.5, 0], [0, 0.5]]],
    "weights": RNG.normal(0, 0.4, 1218), "scale_factor": RNG.uniform(0.5, 0.7, 2),
    "stretches": RNG.uniform([1.25, 0.65], [1.4, 0.8], (4, 2)) ** [[1], [-1], [1], [1]],
    "shifts": RNG.uniform(0.3, 0.8, (4, 2)) * [[1], [-1], [1], [-1]],
}

TEXT = (Path(__file__).parent / "solution.txt").read_text(encoding="utf-8").split("\n# %% ")[1:]
CELLS = [re.sub("(?m)^#.*\n", "", cell.partition("\n")[2]) for cell in TEXT]
RIGHT = "\n".join(CELLS)
Mistake = namedtuple("Mistake", "subject named words text")


def changed(text, *texts):
    """A text with pieces changed, each at its first place."""
    for old, new in zip(texts[::2], texts[1::2]):
        assert old in text, f"not there to be changed: {old}"
        text = text.replace(old, new, 1)
    return text


def mistakes():
    """Each mistake of the solution's comments: its function, and the text of the solution that makes it."""
    for cell, plain in zip(TEXT, CELLS):
        for kind, comment in re.findall(r"(?m)^#([-=]) (.*(?:\n#  .*)*)", cell):
            old, _, entries = comment.replace("\n#  ", " ").rpartition(" => ")
            for entry in (" " + entries).split(" | "):
                words, *texts = re.split(" ~ ?| ;; ?", entry)
                texts = [old, *texts] if kind == "-" else texts
                for function in filter(lambda text: texts[0] in text, plain.split("\n\n")):
                    text = RIGHT.replace(function, changed(function, *texts))
                    subject = re.search(r"def (\w+)", function)[1]
                    yield Mistake(subject, kind == "-", words.strip(), text)


MISTAKES = list(mistakes())


@cache
def module_of(text):
    module = ModuleType("solution")
    exec(text, vars(module))
    return module


def asked(question, text, asked_for=None):
    """{title: answer} of a solution to a question; none but that asked for is called."""
    found = {}

    def report(title, function):
        found[title] = json.loads(json.dumps(function(), default=inside.plain)) if title == asked_for else None

    getattr(probes, question)(module_of(text), INPUTS, report)
    return found


def means_of(samples):
    """Of each sample of a mixture the mean that is nearest."""
    return MEANS[np.linalg.norm(np.array(samples)[..., None, :] - MEANS, axis=-1).argmin(-1)]


def unrolled(samples):
    """Samples of a spiral, and how far each is off the middle of an arm."""
    x, y = np.moveaxis(samples, -1, 0)
    return np.stack([x, y, (np.hypot(x, y) - np.arctan2(y, x) / 2) % np.pi], axis=-1)


@cache
def known_flow():
    flow = module_of(RIGHT).CouplingFlow(4)
    probes.know(flow, INPUTS)
    return flow


def errors_of_log_prob(x, log_prob):
    return rounded(numbers(log_prob, (len(x),)) - known_flow().log_probability(torch.tensor(x)).numpy())


def errors_of_steps(*steps):
    """What each step differs by from the one before passed through the next layer."""
    ahead = [layer(torch.tensor(x))[0] for layer, x in zip(known_flow().layers, steps)]
    return rounded(np.dstack([np.arcsinh(x) - np.arcsinh(wanted.numpy()) for x, wanted in zip(steps[1:], ahead)]))


def rounded(errors):
    """So coarse that rounding is no error, and as one batch."""
    return (errors * 20).round().reshape(1, len(errors), -1) / 20


RANDOM = {  # by words of a title: what of an answer, given in parts, has a distribution, in batches of samples
    "normal noise": lambda *samples: samples - means_of(samples), "the component": lambda *samples: means_of(samples),
    "the spiral": lambda *samples: unrolled(samples), "samples of the prior": lambda *samples: np.arcsinh(samples),
    "log_prob is": errors_of_log_prob, "each step is": errors_of_steps,
}


def columns(batches):
    """Numbers whose distributions tell samples apart: coordinates alone, together, and beside those of the next sample.

    The means of batches vary otherwise where something is shared, dealt out, on a lattice or the same each time.
    """
    first, last = batches[..., 0], batches[..., -1]
    parts = [*np.moveaxis(batches, -1, 0), first + last, first - last, np.diff(first, axis=1), np.diff(last, axis=1)]
    return [column for part in parts for column in (part.ravel(), part.mean(axis=1))[:len(batches)]]


Check = namedtuple("Check", "question title subject")
CHECKS = [Check(each.__name__, title, title[2:].partition(":")[0])
          for each in probes.QUESTIONS for title in asked(each.__name__, RIGHT)]


def taken(check, answer):
    """What is compared of an answer."""
    for words, take in RANDOM.items():
        if words in check.title:
            return columns(take(*(np.asarray_chkfinite(part, float) for part in answer)))
    return answer


@cache
def expected(check, text):
    """What is compared of what a solution answers."""
    return taken(check, asked(check.question, text, check.title)[check.title])


def difference(check, actual, text):
    """How an answer differs from a solution's, in words; none where it does not."""
    try:
        right, is_random = expected(check, text), any(words in check.title for words in RANDOM)
        (compare_distributions if is_random else compare)(actual[check], right)
    except Exception as error:  # also of an answer that nobody thought of
        return str(error) or type(error).__name__
    return ""


def compare_distributions(actual, right):
    if len(actual) != len(right):
        raise ValueError("it has another number of parts")
    for column, wanted in zip(actual, right):
        if not ks_2samp(column, wanted, method="asymp").pvalue > 1e-7:  # which may be NaN
            measured = f"mean {column.mean():.3g}, standard deviation {column.std():.3g}"
            raise ValueError(f"it is of another distribution ({measured}, not {wanted.mean():.3g}, {wanted.std():.3g})")


def compare(actual, right):
    """ValueError where an answer, or a part of it, is not the right one."""
    with contextlib.suppress(ValueError):  # of what has parts that are no numbers, or of other shapes
        right = right if isinstance(right, bool) else np.array(right, float)
    if isinstance(right, np.ndarray):
        error = np.abs(numbers(actual, right.shape) - right).max()
        if error > 1e-3 * (np.abs(right).max() + 1e-6):
            raise ValueError(f"it is off by up to {error:.2g}")
    elif isinstance(right, list) and isinstance(actual, list) and len(actual) == len(right):
        for part, wanted in zip(actual, right):
            compare(part, wanted)
    elif actual != right:
        raise ValueError(f"it is {actual!r:.80}, not {right!r:.80}")


def numbers(value, shape):
    """An answer as an array of finite numbers of a shape, where a column is as good as a row."""
    if value is None:
        raise ValueError("it is None, not written")
    value = np.array(value, float)
    value = value[..., 0] if value.shape == (*shape, 1) else value
    if value.shape != shape:
        raise ValueError(f"its shape is {value.shape}, not {shape}")
    if not np.isfinite(value).all():
        raise ValueError("it holds NaN or infinity")
    return value


def verdicts(run):
    """(check, outcome, message) of each: a cause is a FAIL once, then NOT JUDGED; what is no part of it NOT GRADED."""
    said, faults, actual = set(), {}, {}
    for check in CHECKS:
        with contextlib.suppress(Exception):  # of an answer that nobody thought of
            actual[check] = taken(check, run["answers"][check.title])
    for check in CHECKS:
        outcome, message, named = verdict(run, check, actual)
        prior = check.question == "coupling_flow" and faults.get("prior")  # which shows in all of the flow
        because, named = prior or faults.get(check.subject), named and not prior
        if outcome == "FAIL" and named and (check.question, message) in said:
            outcome, message = "NOT JUDGED", f"because of what is said elsewhere: {message}"
        elif outcome == "FAIL" and not named and because:
            outcome, message = "NOT JUDGED", f"because that is not right: {because}"
        elif outcome == "FAIL":
            said.add((check.question, message))
            faults.setdefault(check.subject, check.title[2:])
        yield check, outcome, message


def verdict(run, check, actual):
    """An outcome, why, and whether that names the cause."""
    takes, wanted = run["names"].get(check.subject), PARAMETERS.get(check.subject)
    if wanted and {*str(takes).split()} - {"rng"} != {*wanted.split()}:
        given = "the notebook does not define it" if takes is None else f"it takes: {takes}"
        return "NOT GRADED", f"{given}; expected: {wanted}", True
    if check.title not in run["answers"]:
        raised = run["raised"].get(check.title) or run["raised"].get(check.question)
        return "FAIL", raised or run["stopped"] or "there is no answer", True
    if check not in actual:
        answer = run["answers"][check.title]
        return "FAIL", f"it has not the form that is asked for, or NaN in it: it is {answer!r:.80}", False
    if not (why := difference(check, actual, RIGHT)):
        return "PASS", "", True
    # The cause is a mistake that explains this answer and what is right of the function, and most of all else of it.
    mine = [each for each in actual if each.subject == check.subject]
    known = [each for each in mine if each == check or not difference(each, actual, RIGHT)]
    causes = [mistake for mistake in MISTAKES if mistake.named and mistake.subject == check.subject
              and not any(difference(each, actual, mistake.text) for each in known)]
    if not causes:
        return "FAIL", why, False
    best = min(causes, key=lambda mistake: sum(bool(difference(each, actual, mistake.text)) for each in mine))
    return ("FAIL", best.words, True) if best.words else ("PASS", "", True)
