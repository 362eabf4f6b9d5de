"""Grade a notebook: checks of what it defines, each with a verdict in words that help its author."""

import inspect
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from notebook import OutOfTime, scratch_folder, time_limit

CHECKS = []
TOLERANCE = 1e-3  # of float32 results, relative to the largest; the faults looked for are far larger


class Fault(Exception):
    """What a check found wrong."""


class NotGraded(Exception):
    """Why a check does not apply to a notebook."""


class Verdict(NamedTuple):
    outcome: str  # PASS, FAIL or, where the check does not apply, SKIP
    message: str = ""


@dataclass(frozen=True)
class Check:
    """One statement about a notebook. `function` takes the names that it is about, and raises a Fault if it is false."""

    task: str
    title: str
    function: Callable
    constants: dict
    signatures: dict | None

    @property
    def needs(self):
        return [name for name in inspect.signature(self.function).parameters if name not in self.constants]

    def __call__(self, definitions):
        """The verdict on a notebook's definitions. Nothing that they do leaves a file or takes forever."""
        try:
            arguments = {name: self.find(definitions, name) for name in self.needs}
            with scratch_folder(), time_limit(), torch.random.fork_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                self.function(**arguments, **self.constants)
        except NotGraded as reason:
            return Verdict("SKIP", str(reason))
        except Fault as fault:
            return Verdict("FAIL", str(fault))
        except (Exception, OutOfTime, SystemExit) as error:
            return Verdict("FAIL", describe(error, definitions))
        return Verdict("PASS")

    def find(self, definitions, name):
        """What the notebook defines under a name. Names that are ours, not the handout's, have to have our parameters."""
        if name in definitions.failures:
            raise Fault(f"{name} cannot be defined: {definitions.failures[name]}")
        if self.signatures is None and name not in definitions.namespace:
            raise Fault(f"the notebook does not define {name}")
        if self.signatures is not None:
            if name not in definitions.namespace:
                raise NotGraded(f"the notebook does not define {name}")
            if (given := list(inspect.signature(definitions.namespace[name]).parameters)) != self.signatures[name]:
                raise NotGraded(f"{name} takes ({', '.join(given)}), not ({', '.join(self.signatures[name])})")
        return definitions.namespace[name]


def check(task, title, signatures=None, **constants):
    """Register a function as a check. `signatures`: the parameters of names that a notebook need not define."""

    def register(function):
        CHECKS.append(Check(task, title, function, constants, signatures))
        return function

    return register


def describe(error, definitions):
    """An exception on one line, with the place in the notebook where it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("code cell")]
    place = f" in {frames[-1].name} ({frames[-1].filename}: `{frames[-1].line}`)" if frames else ""
    missing = {**definitions.left_out, **definitions.failures}.get(getattr(error, "name", None))
    return " ".join(f"{type(error).__name__}{place}: {error}{f'; {missing}' if missing else ''}".split())


def numbers(what, value, *shape):
    """A result as a tensor of finite float64 numbers of the given shape, cut off from its graph; else a Fault."""
    if value is None:
        raise Fault(f"{what} is None: it is not implemented yet")
    try:
        value = torch.as_tensor(value).detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise Fault(f"{what} is a {type(value).__name__}, not an array of numbers") from None
    if value.shape != shape:
        raise Fault(f"{what} has the shape {tuple(value.shape)}, not {shape}")
    if not value.isfinite().all():
        raise Fault(f"{what} holds NaN or infinity")
    return value


def near(actual, expected):
    """Whether two tensors agree up to TOLERANCE."""
    return bool((actual - expected).abs().max() <= TOLERANCE * (1 + expected.abs().max()))


def compare(what, actual, expected, causes=dict, otherwise="no usual mistake gives these numbers"):
    """Raise a Fault with the largest difference, unless there is none, and the first of the causes that predicts it."""
    if not near(actual, expected):
        fitting = (cause for cause, predicted in causes().items() if near(actual, predicted))
        raise Fault(f"{what} is off by up to {(actual - expected).abs().max():.2g}: {next(fitting, otherwise)}")


def grade_sheet(verdicts):
    """The lines of a grader's sheet by task, from pairs of a check and its verdict."""
    for task in dict.fromkeys(check.task for check, _ in verdicts):
        mine = [(check.title, verdict) for check, verdict in verdicts if check.task == task]
        count = Counter(verdict.outcome for _, verdict in mine)
        graded = count["PASS"] + count["FAIL"]
        yield f"{task}: " + (f"{count['PASS']} of {graded}" if graded else "not graded")
        for title, (outcome, message) in mine:
            yield f"  {outcome}  {title}" + (f": {message}" if message else "")
