"""Run the notebook as Colab would, where it may write to its own folder only.

The oldest versions that the notebook supports are those of Colab's runtime, in environments/colab.txt. They lie in a
folder of their own ahead of the installed ones; PyTorch and Jupyter are the installed ones. What is executed is one run:
on these versions, by a shell that says that it is Colab's, with `google.colab` at hand, warnings as errors, the parent
folder and HOME read-only, and old files in figures/. Every cell runs, but two flows of each kind are trained, not eight, for
a twentieth of the epochs: that their digits are the same on these versions is for test_same_bits.py to show.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from notebook import NOTEBOOK, ONE_THREAD, ROOT, code_cells, execute_alone, source, write_notebook
from rerun import COLAB, arithmetic, other_numbers, read_results, saved_texts

STUB = Path(__file__).parent / "colab_stub"
SHORTER = {  # what is replaced in the notebook, so that it takes a quarter of the time: an epoch for each look, two runs
    "NUM_RUNS = 8": "NUM_RUNS = 2",
    "zip(range(1, max(looks) + 1), fit_stack": "zip(looks, fit_stack",
    "epochs=40, rate": "epochs=2, rate", "epochs=60, rate": "epochs=2, rate"}
# Permissions bind an ordinary user; root has to give up the right to ignore them.
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
BOUND = BOUND if os.geteuid() == 0 and shutil.which("setpriv") else []

pytestmark = pytest.mark.slow


def as_in_colab(base, packages=()):
    """The environment for a kernel that looks like Colab's, in which a warning in a cell is an error."""
    spec = base / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}",
              "--IPKernelApp.kernel_class=google.colab._shell.Kernel"]
    (spec / "kernel.json").write_text(json.dumps({"argv": launch, "display_name": "Python 3", "language": "python"}))
    return {"JUPYTER_PATH": str(base / "jupyter"), "PYTHONPATH": os.pathsep.join(map(str, (*packages, STUB))),
            "PYTHONWARNINGS": "error:::__main__", "COLAB_CALLS": str(base / "calls"), **ONE_THREAD}


def calls(base):
    """What was called in google.colab."""
    return (base / "calls").read_text().splitlines() if (base / "calls").exists() else []


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("colab")


@pytest.fixture(scope="module")
def environment(base, colab_packages):
    """The variables that bring in Colab's versions."""
    return as_in_colab(base, [colab_packages])


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


def test_calls_nothing_of_colab(base, in_colab):
    assert calls(base) == []


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
    assert len(known) > 25
    assert other_numbers(in_colab.parent).keys() & known == set()


def test_it_would_call_colab_if_asked_to(tmp_path):
    """The last cell with its switch on, in the same shell: the run above did believe that it was in Colab."""
    export, = [text for text in map(source, code_cells()) if "COPY_FIGURES_TO_DRIVE" in text]
    folder = tmp_path / "work"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "a.pdf").write_text("a figure")
    notebook = write_notebook(folder / "export.ipynb", [
        "from pathlib import Path\nFIGURES, RESULTS, save = Path('figures'), {}, lambda *_: None",
        export.replace("False", "True").replace("/content/drive", str(tmp_path / "drive"))])
    execute_alone(folder, notebook=notebook, **as_in_colab(tmp_path))
    assert calls(tmp_path) == [f"drive.mount('{tmp_path / 'drive'}',)"]
    assert (tmp_path / "drive" / "MyDrive" / "ee048954_hw1_figures" / "a.pdf").read_text() == "a figure"


@pytest.mark.parametrize("warning", ["warnings.warn('planted')", "warnings.warn('planted', DeprecationWarning)", "np.log([0.0])"])
def test_a_warning_in_a_cell_would_stop_the_run(tmp_path, warning):
    notebook = write_notebook(tmp_path / "warns.ipynb", [f"import warnings\nimport numpy as np\n{warning}"])
    with pytest.raises(AssertionError, match="Warning.{0,9}: (planted|divide by zero)"):
        execute_alone(tmp_path, notebook=notebook, **as_in_colab(tmp_path))
