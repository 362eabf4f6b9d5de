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


def test_no_machine_in_it(text):
    for word in ("np.Inf", "/root/", "/home/", "/Users/", str(ROOT)):
        assert word not in text, word


def test_cells_are_short_where_they_are_not_folded():
    def length(cell):
        return sum(1 for line in "".join(cell["source"]).splitlines() if line.strip())

    cells = [cell for cell in code_cells() if cell["metadata"].get("cellView") != "form"]
    lengths = sorted(map(length, cells))
    assert lengths[len(lengths) // 2] <= 16 and lengths[-1] <= 40
    folded = [cell for cell in code_cells() if cell not in cells]
    assert all(cell["metadata"]["jupyter"]["source_hidden"] and cell["source"][0].startswith("#@title ") for cell in folded)


def test_no_line_of_code_is_wide():
    assert [line for cell in code_cells() for line in "".join(cell["source"]).splitlines() if len(line) > 120] == []


def test_no_number_at_the_level_of_rounding_is_shown():
    shown = json.dumps(outputs(), ensure_ascii=False)
    exponents = [int(e) for pair in re.findall(r"cdot10\^\{(-\d+)\}|\de(-\d\d?)\b", re.sub(r'"image/\w+": ".*?"', "", shown))
                 for e in pair if e]
    assert exponents and min(exponents) > -12


def test_imports_only_what_is_promised():
    allowed = {"numpy", "matplotlib", "scipy", "sklearn", "torch", "tqdm", "IPython", "google"}
    standard = {"collections", "concurrent", "copy", "dataclasses", "functools", "hashlib", "inspect", "io", "json", "logging",
                "os", "pathlib", "re", "shutil", "threading"}
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
    not_exported = 2  # the loss curves
    assert shown == sum(name.endswith(".pdf") for name in names) + not_exported


def test_pdfs_carry_no_date():
    for path in FIGURES.glob("*.pdf"):
        assert b"CreationDate" not in path.read_bytes(), path.name


def printed():
    lines = (FIGURES / "results.tex").read_text().splitlines()
    return dict(re.fullmatch(r"\\expandafter\\def\\csname result:(.+?)\\endcsname\{(.*)\}", line).groups() for line in lines[1:])


def test_tex_and_json_hold_the_same_numbers():
    values, texts = read_results(ROOT), printed()
    assert texts.keys() == values.keys()
    for key, shown in texts.items():
        digits = len(shown.partition("e")[0].partition(".")[2])
        scale = 10 ** float(shown.partition("e")[2] or 0)
        assert abs(float(shown) - values[key]) <= 0.5001 * scale * 10**-digits, key


def test_every_number_that_the_notebook_says_is_a_recorded_one():
    recorded, checked = {text.partition("e")[0] for text in printed().values()}, 0
    for output in outputs():
        text = "".join(output.get("data", {}).get("text/markdown", ""))
        text = re.sub(r"\$[^$]*\$", "", re.sub(r"\$([\d.]+)\\cdot.*?\$", r"\1", text))
        numbers = re.findall(r"(?<![\d.])[+-]?\d+\.\d+", text)
        assert [number for number in numbers if number not in recorded] == []
        checked += len(numbers)
    assert checked > 300


def test_the_comparison_with_the_kernel_has_intervals():
    values = read_results(ROOT)
    for d in ("Circles", "Moons", "GaussiansGrid", "GaussiansRot"):
        low, mean, high = (values[f"beyond.top.{d}.minus_kernel.total_variation.{name}"] for name in ("low", "mean", "high"))
        assert low < mean < high
    assert values["setup.num_runs"] >= 8
