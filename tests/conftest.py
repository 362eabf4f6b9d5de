"""What all tests share: the notebook's definitions, skips with their reasons, a word on what only `make` checks."""

import joblib
import matplotlib
import pytest
from threadpoolctl import threadpool_limits

from cells import load_definitions
from needs import MISSING

matplotlib.use("Agg")


def pytest_addoption(parser):
    parser.addoption("--no-skips", action="store_true", help="fail what would be skipped because something is not here")


def pytest_report_header():
    return [f"skips, {reason}" for reason in MISSING.values()]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("first") is None)  # the longest file


def pytest_runtest_setup(item):
    for marker in item.iter_markers("needs"):
        for need in MISSING.keys() & set(marker.args):
            (pytest.fail if item.config.option.no_skips else pytest.skip)(MISSING[need])


def pytest_terminal_summary(terminalreporter):
    terminalreporter.line("Not checked here: that the whole notebook gives the committed numbers, figures and report "
                          "again, byte for byte. That is `make && git diff --exit-code`.")


@pytest.fixture(scope="session")
def nb():
    """The definitions of the notebook, as attributes; what runs side by side there runs one by one here."""
    nb = load_definitions()
    with joblib.parallel_config(backend="sequential"), threadpool_limits(1):  # quicker where all cores are busy
        yield nb
