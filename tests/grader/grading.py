"""Grade a notebook: checks of what it defines, each with a verdict in words that help its author."""

import csv
import inspect
import io
import math
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

import torch

from solution import Fault, Remote, printable

CHECKS = []
PREPARED = {}  # functions like those of checks; checks get what they give under their names
SIGNATURES = {}  # the parameters of functions that a notebook need not define
TOLERANCE = 1e-3  # of float32 results, relative to the largest; the faults looked for are far larger


class NotGraded(Fault):
    """Why a check does not apply to a notebook."""


class Verdict(NamedTuple):
    outcome: str  # PASS, FAIL or, where the check does not apply, SKIP
    message: str = ""


class Check(NamedTuple):
    """One statement about a notebook. `function` takes the names that it is about, and raises a Fault if it is false."""

    task: str
    title: str
    function: Callable

    def __call__(self, solution):
        """The verdict on a solution."""
        try:
            expect(not solution.broken, solution.broken)
            with solution.check(), warnings.catch_warnings(action="ignore"):
                self.call(self.function, solution)
        except Fault as fault:
            return Verdict("SKIP" if isinstance(fault, NotGraded) else "FAIL", printable(fault))
        except Exception as error:  # its answers are of another kind than expected
            return Verdict("FAIL", printable(f"{type(error).__name__}: {error}"))
        return Verdict("PASS")

    def call(self, function, solution):
        parameters = inspect.signature(function).parameters.values()
        return function(**{p.name: self.find(p.name, solution) for p in parameters if p.default is p.empty})

    def find(self, name, solution):
        """What a parameter stands for: the solution, what is prepared of it, or what it defines."""
        if name == "solution":
            return solution
        if name in PREPARED:
            return self.call(PREPARED[name], solution)
        failures, wanted = solution.loaded["failures"], SIGNATURES.get(name)
        expect(name not in failures, f"{name} cannot be defined: {failures.get(name)}")
        expect(name in solution.loaded["names"], f"the notebook does not define {name}", NotGraded if wanted else Fault)
        found = solution.ask("name", name)
        if wanted and (given := solution.ask("signature", found)) != wanted:
            raise NotGraded(f"{name} takes ({', '.join(given)}), not ({', '.join(wanted)})")
        return found


def checks(task, functions):
    """Register checks of a task: {title: function}."""
    CHECKS.extend(Check(task, title, function) for title, function in functions.items())


def expect(true, words, kind=Fault):
    if not true:
        raise kind(words)


def numbers(what, value, *shape):
    """A result as a tensor of finite float64 numbers of the given shape, cut off from its graph; else a Fault."""
    expect(value is not None, f"{what} is None: it is not implemented yet")
    try:
        tensor = torch.as_tensor(None if isinstance(value, Remote) else value).detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise Fault(f"{what} is a {getattr(value, '_kind', type(value).__name__)}, not an array of numbers") from None
    expect(tensor.shape == shape, f"{what} has the shape {tuple(tensor.shape)}, not {shape}")
    expect(tensor.isfinite().all(), f"{what} holds NaN or infinity")
    return tensor


def near(actual, expected):
    """Whether two arrays of finite numbers agree up to TOLERANCE."""
    actual, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (actual, expected))
    return bool((actual - expected).abs().max() <= TOLERANCE * (1 + expected.abs().max()) < math.inf)


def compare(what, value, expected, mistakes=None, otherwise="no usual mistake gives these numbers"):
    """Raise a Fault with the largest difference, if any, and the first mistake, numbers or options of `expected`, that fits."""
    predict = expected if callable(expected) else lambda: expected
    correct = torch.as_tensor(predict()).detach().double()
    actual = numbers(what, value, *correct.shape)
    if not near(actual, correct):
        fitting = (cause for cause, mistake in (mistakes or {}).items()
                   if near(actual, predict(**mistake) if isinstance(mistake, dict) else mistake))
        raise Fault(f"{what} is off by up to {(actual - correct).abs().max():.2g}: {next(fitting, otherwise)}")


def scores(verdicts):
    """For each task, from pairs of a check and its verdict: (task, passed, graded, its pairs)."""
    for task, mine in groupby(verdicts, key=lambda pair: pair[0].task):
        mine = list(mine)
        count = Counter(verdict.outcome for _, verdict in mine)
        yield task, count["PASS"], count["PASS"] + count["FAIL"], mine


def grade_sheet(verdicts):
    """The lines of a grader's sheet by task, from pairs of a check and its verdict."""
    if len(same := {verdict for _, verdict in verdicts}) == 1 and (verdict := same.pop()).outcome == "FAIL":
        yield f"0 of {len(verdicts)}: {verdict.message}"
        return
    for task, passed, graded, mine in scores(verdicts):
        yield f"{task}: " + (f"{passed} of {graded}" if graded else "not graded")
        for check, (outcome, message) in mine:
            yield f"  {outcome}  {check.title}" + (f": {message}" if message else "")


def table(sheets):
    """CSV with a row for each file: its points for each task, none where it is not graded, and their sum."""
    out, tasks = io.StringIO(), dict.fromkeys(check.task for verdicts in sheets.values() for check, _ in verdicts)
    rows = csv.writer(out)
    rows.writerow(["file", *tasks, "total"])
    for name, verdicts in sheets.items():
        points = [passed if graded else "" for _, passed, graded, _ in scores(verdicts)]
        rows.writerow([name, *points, sum(filter(None, points))])
    return out.getvalue()
