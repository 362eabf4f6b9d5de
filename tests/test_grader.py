"""The grader: it passes right solutions, loads any style, and names each mistake planted in a student's notebook or in ours."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
from grading import CHECKS

import notebook
from notebook import NOTEBOOK, ROOT, Definitions, code_cells

STUDENT = (ROOT / "tests" / "student.py").read_text().split("# %%\n")[1:]
OURS = ["".join(cell["source"]) for cell in code_cells(NOTEBOOK)]
LAYER, FLOW, DATASETS, TRAINING = (f"Part II, {part}" for part in ("Task 6", "Task 8", "Task 1", "training"))


def written(path, cells):
    """A notebook of code cells."""
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": cell} for cell in cells]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}))
    return path


def graded(path, task=""):
    """{title: verdict} of the checks of a task."""
    definitions = Definitions(path)
    return {check.title: check(definitions) for check in CHECKS if check.task.startswith(task)}


def failures(verdicts):
    return {title: message for title, (outcome, message) in verdicts.items() if outcome == "FAIL"}


def replaced(cells, old, new):
    """The cells with one piece of text replaced, which has to be there once."""
    assert sum(cell.count(old) for cell in cells) == 1, old
    return [cell.replace(old, new) for cell in cells]


def test_a_right_solution_passes_everything_that_applies(tmp_path):
    verdicts = graded(written(tmp_path / "student.ipynb", STUDENT))
    assert not failures(verdicts)
    assert {verdict.outcome for title, verdict in verdicts.items()} == {"PASS", "SKIP"}
