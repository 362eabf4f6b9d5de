"""Grade a notebook: checks of what it defines, each with a verdict in words that help its author."""

import csv
import inspect
import io
import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch

from solution import Fault, Remote, printable

CHECKS = []
VERDICTS = pytest.StashKey()  # for the sheets: (notebook, check, verdict) of each test
TOLERANCE = 1e-3  # of float32 results, relative to the largest; the faults looked for are far larger


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

    def __call__(self, solution):
        """The verdict on a solution."""
        needs = [name for name in inspect.signature(self.function).parameters if name not in (*self.constants, "solution")]
        try:
            self.refuse(solution, needs)
            with solution.check(), torch.random.fork_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                found = {name: self.find(solution, name) for name in needs}
                if "solution" in inspect.signature(self.function).parameters:
                    found["solution"] = solution
                self.function(**found, **self.constants)
        except NotGraded as reason:
            return Verdict("SKIP", printable(reason))
        except Fault as fault:
            return Verdict("FAIL", printable(fault))
        except Exception as error:  # its answers are of another kind than expected
            return Verdict("FAIL", printable(f"{type(error).__name__}: {error}"))
        return Verdict("PASS")

    def refuse(self, solution, needs):
        """Raise why the check cannot be made, if it cannot."""
        if solution.broken:
            raise Fault(solution.broken)
        for name in needs:
            if name in solution.failures:
                raise Fault(f"{name} cannot be defined: {solution.failures[name]}")
            if name not in solution.names:
                raise (Fault if self.signatures is None else NotGraded)(f"the notebook does not define {name}")

    def find(self, solution, name):
        """What the solution defines under a name. Names that are ours, not the handout's, have to have our parameters."""
        found = solution.ask("name", name)
        if self.signatures is not None and (given := solution.ask("signature", found)) != self.signatures[name]:
            raise NotGraded(f"{name} takes ({', '.join(given)}), not ({', '.join(self.signatures[name])})")
        return found


def check(task, title, signatures=None, **constants):
    """Register a function as a check. `signatures`: the parameters of names that a notebook need not define."""

    def register(function):
        CHECKS.append(Check(task, title, function, constants, signatures))
        return function

    return register


def numbers(what, value, *shape):
    """A result as a tensor of finite float64 numbers of the given shape, cut off from its graph; else a Fault."""
    if value is None:
        raise Fault(f"{what} is None: it is not implemented yet")
    try:
        if isinstance(value, Remote):
            raise TypeError
        tensor = torch.as_tensor(value).detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise Fault(f"{what} is a {getattr(value, '_kind', type(value).__name__)}, not an array of numbers") from None
    if tensor.shape != shape:
        raise Fault(f"{what} has the shape {tuple(tensor.shape)}, not {shape}")
    if not tensor.isfinite().all():
        raise Fault(f"{what} holds NaN or infinity")
    return tensor


def near(actual, expected):
    """Whether two tensors of finite numbers agree up to TOLERANCE."""
    return bool((actual - expected).abs().max() <= TOLERANCE * (1 + expected.abs().max()) < math.inf)


def compare(what, actual, expected, causes=dict, otherwise="no usual mistake gives these numbers"):
    """Raise a Fault with the largest difference, unless there is none, and the first of the causes that predicts it."""
    if not near(actual, expected):
        fitting = (cause for cause, predicted in causes().items() if near(actual, predicted))
        raise Fault(f"{what} is off by up to {(actual - expected).abs().max():.2g}: {next(fitting, otherwise)}")


def by_task(verdicts):
    """{task: [(title, verdict)]} from pairs of a check and its verdict."""
    return {task: [(check.title, verdict) for check, verdict in verdicts if check.task == task]
            for task in dict.fromkeys(check.task for check, _ in verdicts)}


def points(verdicts):
    """(passed, graded) of some verdicts."""
    count = Counter(verdict.outcome for verdict in verdicts)
    return count["PASS"], count["PASS"] + count["FAIL"]


def grade_sheet(verdicts):
    """The lines of a grader's sheet by task, from pairs of a check and its verdict."""
    if len(set(same := [verdict for _, verdict in verdicts])) == 1 and same[0].outcome == "FAIL":
        yield f"0 of {len(same)}: {same[0].message}"
        return
    for task, mine in by_task(verdicts).items():
        passed, graded = points(verdict for _, verdict in mine)
        yield f"{task}: " + (f"{passed} of {graded}" if graded else "not graded")
        for title, (outcome, message) in mine:
            yield f"  {outcome}  {title}" + (f": {message}" if message else "")


def table(sheets):
    """CSV with a row for each file: its points for each task, none where it is not graded, and their sum."""
    out, tasks = io.StringIO(), dict.fromkeys(check.task for verdicts in sheets.values() for check, _ in verdicts)
    rows = csv.writer(out)
    rows.writerow(["file", *tasks, "total"])
    for name, verdicts in sheets.items():
        scores = [points(verdict for _, verdict in mine) for mine in by_task(verdicts).values()]
        rows.writerow([name, *(passed if graded else "" for passed, graded in scores), sum(passed for passed, _ in scores)])
    return out.getvalue()
