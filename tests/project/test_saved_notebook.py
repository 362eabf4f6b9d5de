"""The committed notebook: one clean run, readable cells, and numbers that agree with what it exported."""

import json
import re
import subprocess

import pytest

from notebook import NOTEBOOK, ROOT, code_cells, source
from rerun import read_results

FIGURES = ROOT / "figures"


@pytest.fixture(scope="module")
def text():
    return NOTEBOOK.read_text()


def outputs():
    return [output for cell in code_cells() for output in cell["outputs"]]


def test_saved_from_one_run_in_order():
    assert [cell["execution_count"] for cell in code_cells()] == list(range(1, len(code_cells()) + 1))


def test_no_error_and_nothing_on_stderr(text):
    assert not [o for o in outputs() if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert "widgets" not in json.loads(text)["metadata"]
    assert not any("execution" in cell["metadata"] for cell in code_cells())  # times would differ at every run


def test_what_a_cell_prints_is_saved_in_one_piece():
    for cell in code_cells():  # pieces would depend on the speed of the machine
        kinds = [output["output_type"] for output in cell["outputs"]]
        assert ("stream", "stream") not in zip(kinds, kinds[1:])


def test_no_machine_in_it(text):
    for word in ("np.Inf", "/root/", "/home/", "/Users/", str(ROOT)):
        assert word not in text, word


def code_lines():
    """The number of lines of each code cell."""
    return [sum(1 for line in "".join(cell["source"]).splitlines() if line.strip()) for cell in code_cells()]


def markdown():
    return ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "markdown"]


def test_the_notebook_is_short():
    lengths = sorted(code_lines())
    assert sum(lengths) <= 720 and lengths[len(lengths) // 2] <= 8 and lengths[-1] <= 35
    assert len(lengths) + len(markdown()) <= 115 and sum(len(text.split()) for text in markdown()) <= 4000


def test_the_first_formula_comes_soon():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    first = next(i for i, cell in enumerate(cells) if cell["cell_type"] == "markdown" and "$$" in "".join(cell["source"]))
    before = sum(cell["cell_type"] == "code" for cell in cells[:first])
    assert before <= 3 and sum(code_lines()[:before]) <= 35


def test_no_line_of_code_is_wide():
    assert [line for cell in code_cells() for line in "".join(cell["source"]).splitlines() if len(line) > 120] == []


def test_imports_only_what_is_promised():
    allowed = {"numpy", "matplotlib", "scipy", "sklearn", "joblib", "torch", "tqdm", "IPython"}  # joblib: sklearn's
    standard = {"collections", "copy", "functools", "itertools", "json", "os", "pathlib"}
    imported = {match for cell in code_cells() for match in re.findall(r"^\s*(?:from|import) (\w+)", source(cell), re.M)}
    assert imported <= allowed | standard


@pytest.mark.parametrize("part, tasks", [("I", range(1, 5)), ("II", [1, 2, 6, 7, 8, 9, 10, 11, 12])])
def test_every_task_has_its_place(text, part, tasks):
    for task in tasks:
        anchor = f"part-{part.lower()}-task-{task}"
        assert f'id=\\"{anchor}\\"' in text and f"(#{anchor})" in text, anchor


def test_saved_figures_are_the_ones_that_the_notebook_writes():
    tracked = subprocess.run(["git", "ls-files", "figures"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {name.removeprefix("figures/") for name in tracked.split()}
    assert names == {path.name for path in FIGURES.iterdir()}
    shown = sum("image/png" in o.get("data", {}) for o in outputs())
    not_exported = 1  # the loss curves
    assert shown == sum(name.endswith(".pdf") for name in names) + not_exported


def test_pdfs_carry_no_date():
    for path in FIGURES.glob("*.pdf"):
        assert b"CreationDate" not in path.read_bytes(), path.name


def printed():
    lines = (FIGURES / "results.tex").read_text().splitlines()
    return dict(re.fullmatch(r"\\expandafter\\def\\csname result:(.+?)\\endcsname\{(.*)\}", line).groups() for line in lines)


def test_tex_and_json_hold_the_same_numbers():
    assert printed() == json.loads((FIGURES / "results.json").read_text())


def test_few_numbers_are_kept():
    assert 200 < len(printed()) <= 350


def test_the_comparison_with_the_kernel_has_intervals():
    values = read_results(ROOT)
    for d in ("Circles", "Moons", "GaussiansGrid", "GaussiansRot"):
        low, mean, high = (values[f"beyond.top.{d}.minus_kernel.total_variation.{name}"] for name in ("low", "mean", "high"))
        assert low < mean < high < 0
