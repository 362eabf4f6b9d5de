"""The committed notebook is not one clean run of readable cells, or disagrees with the files that it exported."""

import json
import re

from cells import NOTEBOOK, ROOT, cells, numbers, sources

FIGURES = ROOT / "figures"
TEXT = NOTEBOOK.read_text(encoding="utf-8")
OUTPUTS = [output for cell in cells() for output in cell["outputs"]]
LENGTHS = [sum(1 for line in text.splitlines() if line.strip()) for text in sources()]


def test_saved_from_one_run_in_order_without_a_complaint():
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    assert not [o for o in OUTPUTS if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert "Bit for bit the saved run: True" in TEXT


def test_it_names_no_machine_and_converts_to_a_script():
    assert not [word for word in ("/root/", "/home/", "/Users/", str(ROOT)) if word in TEXT]
    metadata = json.loads(TEXT)["metadata"]
    assert "widgets" not in metadata and metadata["language_info"] == {"name": "python", "file_extension": ".py"}


def test_it_is_short():
    middle, words = sorted(LENGTHS)[len(LENGTHS) // 2], sum(len(text.split()) for text in sources("markdown"))
    assert sum(LENGTHS) <= 720 and middle <= 8 and max(LENGTHS) <= 35
    assert len(LENGTHS) + len(cells("markdown")) <= 115 and words <= 4000
    assert [line for text in sources() for line in text.splitlines() if len(line) > 120] == []


def test_imports_only_what_is_promised():
    allowed = {"numpy", "matplotlib", "scipy", "sklearn", "joblib", "torch", "tqdm", "IPython"}  # joblib: sklearn's
    standard = {"collections", "copy", "functools", "itertools", "json", "os", "pathlib"}
    assert set(re.findall(r"^\s*(?:from|import) (\w+)", "\n".join(sources()), re.M)) <= allowed | standard


def test_the_figures_shown_are_those_exported_and_the_first_flow():
    shown = sum("image/png" in output.get("data", {}) for output in OUTPUTS)
    assert shown == len(list(FIGURES.glob("*.pdf"))) + 1


def test_few_numbers_are_kept():
    assert 200 < len(numbers()) <= 350
