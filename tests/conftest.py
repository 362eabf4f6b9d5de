from pathlib import Path

import joblib
import matplotlib
import pytest
import torch

from grading import CHECKS, Check, Verdict, grade_sheet, table
from notebook import NOTEBOOK, ROOT, load_definitions
from solution import printable

matplotlib.use("Agg")
TABLE = ROOT / ".build" / "grades.csv"
VERDICTS = []  # what the tests of grading say, in order, from whichever process they ran in
torch.set_num_threads(1)  # the matrices are tiny, and the results do not depend on the machine's load


def pytest_addoption(parser):
    parser.addoption("--notebook", type=Path, default=NOTEBOOK, help="a notebook to grade, or a folder of them")


def pytest_configure(config):
    if not notebooks(config):
        raise pytest.UsageError(f"--notebook: there is no notebook {config.option.notebook}")
    if grades_another(config):  # the sheet says it all
        config.option.tbstyle, config.option.reportchars = "no", ""


def notebooks(config):
    """The notebooks to grade."""
    given = config.option.notebook
    return sorted(path for path in (given.glob("*.ipynb") if given.is_dir() else [given]) if path.is_file())


def grades_another(config):
    return config.option.notebook.resolve() != NOTEBOOK


def pytest_xdist_auto_num_workers(config):
    """No others for another notebook, which one process grades in less time than others take to start."""
    return 0 if grades_another(config) else None


def pytest_generate_tests(metafunc):
    if "solution" in metafunc.fixturenames:
        paths = notebooks(metafunc.config)
        metafunc.parametrize("solution", paths, indirect=True, scope="module", ids=[path.stem for path in paths])


def pytest_ignore_collect(collection_path, config):
    """With another notebook only the grading runs: the other modules are about this project."""
    if grades_another(config) and collection_path.suffix == ".py" and collection_path.name != "test_solution.py":
        return True


def pytest_runtest_logreport(report):
    if report.when == "call":
        VERDICTS.extend(value for name, value in report.user_properties if name == "verdict")


def verdicts_of(config):
    """{notebook: its pairs of a check and its verdict}."""
    sheets = {path: [] for path in notebooks(config)}
    for path, task, title, *verdict in VERDICTS:
        sheets.setdefault(Path(path), []).append((Check(task, title, None), Verdict(*verdict)))
    return sheets


def pytest_sessionfinish(session, exitstatus):
    """A sheet that is not complete is no success."""
    sheets = verdicts_of(session.config)
    if grades_another(session.config) and exitstatus == 0 and any(len(sheet) < len(CHECKS) for sheet in sheets.values()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    sheets = {path: verdicts for path, verdicts in verdicts_of(config).items() if verdicts}
    for path, verdicts in sheets.items():
        terminalreporter.section(f"grade sheet of {printable(path.name)}")
        for line in grade_sheet(verdicts):
            terminalreporter.line(line)
    if config.option.notebook.is_dir():
        terminalreporter.section(f"points, also in {TABLE.relative_to(ROOT)}")
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(table({printable(path.name): verdicts for path, verdicts in sheets.items()}))
        terminalreporter.write(TABLE.read_text())


@pytest.fixture(scope="session")
def nb():
    """The definitions of the notebook, as attributes; what it does side by side is done one after the other here."""
    with joblib.parallel_config(backend="sequential"):
        yield load_definitions()
