from pathlib import Path
from types import ModuleType

import matplotlib
import pytest
import torch

from grading import grade_sheet
from notebook import NOTEBOOK, load_definitions

matplotlib.use("Agg")
torch.set_num_threads(1)  # the matrices are tiny, and the results do not depend on the machine's load


def pytest_addoption(parser):
    parser.addoption("--notebook", type=Path, default=NOTEBOOK, help="a notebook to grade instead of checking this project")


def pytest_configure(config):
    if not config.option.notebook.is_file():
        raise pytest.UsageError(f"--notebook: there is no file {config.option.notebook}")
    if grades_another(config):  # the sheet says it all
        config.option.tbstyle, config.option.reportchars = "no", ""


def grades_another(config):
    return config.option.notebook.resolve() != NOTEBOOK


def pytest_ignore_collect(collection_path, config):
    """With another notebook only the grading runs: the other modules are about this project."""
    if grades_another(config) and collection_path.suffix == ".py" and collection_path.name != "test_solution.py":
        return True


def pytest_terminal_summary(terminalreporter, config):
    reports = [report for outcome in ("passed", "failed", "skipped") for report in terminalreporter.getreports(outcome)]
    verdicts = [value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "verdict"]
    if verdicts:
        terminalreporter.section(f"grade sheet of {config.option.notebook.name}")
        for line in grade_sheet(verdicts):
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def nb():
    """The definitions of the notebook, as attributes."""
    module = ModuleType("nb")
    vars(module).update(load_definitions())
    return module
