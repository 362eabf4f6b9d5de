"""Grade a notebook, ours or the one given by --notebook."""

import importlib

import pytest

from grading import CHECKS
from notebook import Definitions

for module in ("checks_part1", "checks_part2"):
    importlib.import_module(module)  # registers its checks


@pytest.fixture(scope="module")
def definitions(pytestconfig):
    return Definitions(pytestconfig.option.notebook)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.title)
def test_notebook(check, definitions, record_property):
    verdict = check(definitions)
    record_property("verdict", (check, verdict))
    if verdict.outcome == "SKIP":
        pytest.skip(verdict.message)
    if verdict.outcome == "FAIL":
        pytest.fail(verdict.message, pytrace=False)
