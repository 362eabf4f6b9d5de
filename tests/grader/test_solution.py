"""Grade a notebook, ours or those given by --notebook."""

import importlib

import pytest

from grading import CHECKS
from solution import Solution

for module in ("checks_part1", "checks_part2"):
    importlib.import_module(module)  # registers its checks


@pytest.fixture(scope="module")
def solution(request):
    solution = Solution(request.param)
    yield solution
    solution.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.title)
def test_notebook(check, solution, request, record_property):
    outcome, message = check(solution)
    path = request.node.callspec.params["solution"]
    record_property("verdict", (str(path), check.task, check.title, outcome, message))  # for the sheets
    if outcome == "SKIP":
        pytest.skip(message)
    if outcome == "FAIL":
        pytest.fail(message, pytrace=False)
