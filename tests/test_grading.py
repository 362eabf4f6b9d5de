"""Grade a notebook, ours or the one given by --notebook."""

import checks_part1  # noqa: F401  (registers its checks)
import checks_part2  # noqa: F401
import pytest
from grading import CHECKS

from notebook import Definitions


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
