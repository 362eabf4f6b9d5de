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

torch.set_num_threads(1)  # as many notebooks are graded at a time as there are processors

RNG = np.random.default_rng(secrets.randbits(64))  # nobody knows the inputs before
MEANS = 100 * np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [2.0, 3.0]])
INPUTS = {
    "seed": int(RNG.integers(2**31)), "means": MEANS, "points": RNG.normal(size=(5000, 2)),
    "plane": RNG.normal(0, np.repeat([[0.5], [3]], 30, 0), (60, 2)), "weights": RNG.normal(0, 0.4, 9999),
    "bandwidths": [[[0.4, 0.3], [-0.1, 0.6]], [[0, 0.4], [0.7, 0]], [[0.5, 0], [0, 0.5]]], "scale_factor": [0.5, 0.7],
    "stretches": RNG.uniform([1.25, 0.65], [1.4, 0.8], (4, 2)) ** [[1], [-1], [1], [1]],
    "shifts": RNG.uniform(0.3, 0.8, (4, 2)) * [[1], [-1], [1], [-1]],
}
TEXT = (Path(__file__).parent / "solution.txt").read_text(encoding="utf-8").split("\n# %% ")[1:]
CELLS = [re.sub("(?m)^#.*\n", "", cell.partition("\n")[2]) for cell in TEXT]
RIGHT = "\n".join(CELLS)
Mistake = namedtuple("Mistake", "subject words text")


def changed(text, *texts):
    """A text with pieces changed, each at its first place."""
    for old, new in zip(texts[::2], texts[1::2]):
        assert old in text, f"not there to be changed: {old}"
        text = text.replace(old, new, 1)
    return text


def mistakes():
    """Each mistake of the solution's comments: its function or class, and the text of the solution that makes it."""
    for cell, plain in zip(TEXT, CELLS):
        for old, comment in re.findall(r"(?m)^#- (.*?) => (.*(?:\n#  .*)*)", cell):
            for entry in comment.replace("\n#  ", " ").split(" | "):
                *given, entry = entry.split(" => ")
                old, (words, *texts) = (given or [old])[0], re.split("(?:^| )~ ?| ;; ?", entry)
                for function in filter(lambda text: old in text, plain.split("\n\n")):
                    text = RIGHT.replace(function, changed(function, old, *texts))
                    yield Mistake(re.search(r"(?:def|class) (\w+)", function)[1], words.strip(), text)


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


FLOW = module_of(RIGHT).CouplingFlow(4)
probes.know(FLOW, INPUTS)


def errors_of_log_prob(x, log_prob):
    return (numbers(log_prob, (len(x),)) - FLOW.log_probability(torch.tensor(x)).numpy())[None, :, None]


def errors_of_steps(*steps):
    """What each step differs by from the one before passed through the next layer."""
    ahead = [layer(torch.tensor(x))[0] for layer, x in zip(FLOW.layers, steps)]
    return np.hstack([np.arcsinh(x) - np.arcsinh(wanted.numpy()) for x, wanted in zip(steps[1:], ahead)])[None]


RANDOM = {  # by words of a title: what of an answer, given in parts, has a distribution, in batches of samples
    "normal noise": lambda *samples: samples - means_of(samples), "the component": lambda *samples: means_of(samples),
    "the spiral": lambda *samples: unrolled(samples), "samples of the prior": lambda *samples: np.arcsinh(samples),
    "log_prob is": errors_of_log_prob, "each step is": errors_of_steps,
}


def columns(batches):
    """Numbers whose distributions tell samples apart: coordinates alone, together, and beside those of the next sample.

    The means of batches vary otherwise where something is shared, dealt out, on a lattice or the same each time.
    """
    batches = (batches * 20).round() / 20  # so coarse that rounding is no error
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


def difference(check, run, text):
    """How an answer differs from a solution's, in words; none where it does not."""
    try:
        compare(taken(check, run["answers"][check.title]), expected(check, text))
    except ValueError as error:
        return str(error)
    except Exception:  # of an answer that nobody thought of
        return f"it has not the form that is asked for: it is {run['answers'][check.title]!r:.80}"
    return ""


def compare(actual, right):
    """ValueError where an answer, or a part of it, is not the right one; an array is samples of a distribution."""
    if isinstance(right, np.ndarray):
        if not ks_2samp(actual, right, method="asymp").pvalue > 1e-7:  # which may be NaN
            measured = f"mean {actual.mean():.3g}, standard deviation {actual.std():.3g}"
            raise ValueError(f"it is of another distribution ({measured}, not {right.mean():.3g}, {right.std():.3g})")
        return
    with contextlib.suppress(ValueError):  # of what has parts that are no numbers, or of other shapes
        right = right if isinstance(right, bool) else np.array(right, float)
    if isinstance(right, np.ndarray):
        error = np.abs(numbers(actual, right.shape) - right).max()
        if error > 1e-3 * (np.abs(right).max() + 1e-6):
            raise ValueError(f"it is off by up to {error:.2g}")
    elif isinstance(right, list) and isinstance(actual, list) and len(actual) == len(right):
        for part, wanted in zip(actual, right):
            compare(part, wanted)
    elif isinstance(right, list) or actual != right:
        raise ValueError(f"it is {actual!r:.80}, not {right!r:.80}")


def numbers(value, shape):
    """An answer as an array of finite numbers of a shape, where a column is as good as a row."""
    if value is None:
        raise ValueError("it is None, not written")
    value = np.array(value, float)
    if value.shape not in (shape, (*shape, 1)):
        raise ValueError(f"its shape is {value.shape}, not {shape}")
    if not np.isfinite(value).all():
        raise ValueError("it holds NaN or infinity")
    return value.reshape(shape)


def verdicts(run):
    """(check, outcome, message) of each: a cause is a FAIL once, then NOT JUDGED; what is no part of it NOT GRADED."""
    said, failed = set(), []
    for check in CHECKS:
        outcome, message, named = verdict(run, check)
        prior = [each for each in failed if "the prior is" in each.title]  # which shows in all of the flow
        mine = [each for each in failed if each.subject == check.subject and not named]
        causes = check.question == "coupling_flow" and prior or mine
        if outcome == "FAIL" and causes:
            outcome, message = "NOT JUDGED", f"because that is not right: {causes[0].title[2:]}"
        elif outcome == "FAIL" and named and (check.question, message) in said:
            outcome, message = "NOT JUDGED", f"because of what is said elsewhere: {message}"
        elif outcome == "FAIL":
            said.add((check.question, message))
            failed.append(check)
        yield check, outcome, message


def verdict(run, check):
    """An outcome, why, and whether that names the cause."""
    takes, wanted = run["names"].get(check.subject), inside.parameters(getattr(module_of(RIGHT), check.subject, None))
    if check.question in ("samplers", "estimator") and ({*str(takes).split()} ^ {*wanted.split()}) - {"rng"}:
        given = "the notebook does not define it" if takes is None else f"it takes: {takes}"
        return "NOT GRADED", f"{given}; expected: {wanted}", True
    if check.title not in run["answers"]:
        raised = run["raised"].get(check.title) or run["raised"].get(check.question)
        return "FAIL", raised or run["stopped"] or "there is no answer", True
    if not (why := difference(check, run, RIGHT)):
        return "PASS", "", True
    # The cause is a mistake that explains this answer and what is right of the function, and most of all else of it.
    mine = [each for each in CHECKS if each.subject == check.subject and each.title in run["answers"]]
    known = [each for each in mine if each == check or not difference(each, run, RIGHT)]
    causes = [mistake for mistake in MISTAKES if mistake.subject == check.subject
              and not any(difference(each, run, mistake.text) for each in known)]
    if not causes:
        return "FAIL", why, False
    best = min(causes, key=lambda mistake: sum(bool(difference(each, run, mistake.text)) for each in mine))
    return ("FAIL", best.words, True) if best.words else ("PASS", "", True)
