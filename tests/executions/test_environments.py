"""Run the notebook as Colab would, where it may write to its own folder only.

The oldest versions that the notebook supports are those of Colab's runtime, in environments/colab.txt. They lie in a
folder of their own ahead of the installed ones; PyTorch and Jupyter are the installed ones. What is executed is one run:
on these versions, warnings as errors, the parent folder and HOME read-only, and old files in figures/. Every cell runs,
but two flows of each kind are trained, not eight, for an epoch a look: that their digits are the same on these versions is
for test_same_bits.py to show.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from notebook import NOTEBOOK, ONE_THREAD, ROOT, code_cells, execute_alone, source, write_notebook
from rerun import COLAB, arithmetic, other_numbers, read_results, saved_texts

SHORTER = {  # what is replaced in the notebook, so that it takes a quarter of the time: an epoch for each look, two runs
    "NUM_RUNS = 8": "NUM_RUNS = 2",
    "zip(range(1, max(looks) + 1), fit(": "zip(sorted(looks) if max(looks) > 5 else range(1, 6), fit(",
    "epochs=40, rate": "epochs=2, rate", "epochs=60, rate": "epochs=2, rate"}
# Permissions bind an ordinary user; root has to give up the right to ignore them.
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
BOUND = BOUND if os.geteuid() == 0 and shutil.which("setpriv") else []

pytestmark = pytest.mark.slow


WARNINGS_ARE_ERRORS = {"PYTHONWARNINGS": "error:::__main__", **ONE_THREAD}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("colab")


@pytest.fixture(scope="module")
def environment(colab_packages):
    """The variables that bring in Colab's versions."""
    return {"PYTHONPATH": str(colab_packages), **WARNINGS_ARE_ERRORS}


@pytest.fixture(scope="module")
def in_colab(base, environment):
    """The notebook executed in base/parent/alone; the parent and HOME are read-only, figures/ has old files."""
    alone, home = base / "parent" / "alone", base / "home"
    (alone / "figures").mkdir(parents=True)
    home.mkdir()
    for old in (ROOT / "figures").iterdir():
        (alone / "figures" / old.name).write_text("old")
    (alone / "figures" / "notes.txt").write_text("mine")
    notebook = NOTEBOOK.read_text()
    for long, short in SHORTER.items():
        assert notebook.count(long) == 1
        notebook = notebook.replace(long, short)
    (alone / NOTEBOOK.name).write_text(notebook)
    for folder in (alone.parent, home):
        folder.chmod(0o555)
    yield execute_alone(alone, *BOUND, notebook=alone / NOTEBOOK.name, **environment, HOME=str(home))
    for folder in (alone.parent, home):
        folder.chmod(0o755)


def test_ran_on_the_versions_of_colab(environment):
    names = ("numpy", "scipy", "sklearn", "matplotlib")
    ask = f"import {', '.join(names)}\n" + "\n".join(f"print({name}.__version__)" for name in names)
    found = subprocess.check_output([sys.executable, "-c", ask], env={**os.environ, **environment}, text=True)
    assert found.split() == re.findall(r"==(\S+)", COLAB.read_text())


def test_prints_nothing_on_stderr_but_where_matplotlib_keeps_its_cache(in_colab):
    said = "".join("".join(o["text"]) for cell in code_cells(in_colab) for o in cell["outputs"] if o.get("name") == "stderr")
    about_the_cache = r"mkdir -p failed for path .*matplotlib|Matplotlib created a temporary (cache|config) directory"
    assert [line for line in said.splitlines() if not re.match(about_the_cache, line)] == []


def test_nothing_else_could_be_written(base, in_colab):
    for folder in (in_colab.parent.parent, base / "home"):
        if subprocess.run([*BOUND, "touch", folder / "probe"], capture_output=True).returncode == 0:
            pytest.skip("whoever runs the tests can write to read-only folders")
    assert [path.name for path in in_colab.parent.parent.iterdir()] == ["alone"] and not list((base / "home").iterdir())


def test_writes_figures_over_old_ones_and_leaves_other_files_alone(in_colab):
    assert {path.name for path in in_colab.parent.iterdir()} == {NOTEBOOK.name, "executed.ipynb", "figures"}
    contents = {path.name: path.read_bytes() for path in (in_colab.parent / "figures").iterdir()}
    assert contents.pop("notes.txt") == b"mine"
    assert contents.keys() == {path.name for path in (ROOT / "figures").iterdir()}
    assert b"old" not in contents.values()


def test_gives_the_same_text_up_to_the_runs_of_flows(in_colab):
    if arithmetic(in_colab):
        pytest.skip(f"digits are not compared: {arithmetic(in_colab)}")
    first, = [i for i, cell in enumerate(code_cells()) if "NUM_RUNS = 8" in source(cell)]
    assert saved_texts(in_colab)[:first] == saved_texts(NOTEBOOK)[:first]


def test_gives_the_same_numbers_of_part_one(in_colab):
    known = {key for key in read_results(in_colab.parent) if key.startswith("part1.")}
    assert len(known) > 15
    assert other_numbers(in_colab.parent).keys() & known == set()


@pytest.mark.parametrize("warning", ["warnings.warn('planted')", "warnings.warn('planted', DeprecationWarning)", "np.log([0.0])"])
def test_a_warning_in_a_cell_would_stop_the_run(tmp_path, warning):
    notebook = write_notebook(tmp_path / "warns.ipynb", [f"import warnings\nimport numpy as np\n{warning}"])
    with pytest.raises(AssertionError, match="Warning.{0,9}: (planted|divide by zero)"):
        execute_alone(tmp_path, notebook=notebook, **WARNINGS_ARE_ERRORS)
