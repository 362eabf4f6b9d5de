"""Run the notebook again, alone in an empty folder: the same numbers, text and pictures as the committed ones.

Where there is a browser, JupyterLab runs it there, through the menu, and what the page shows is looked at as well. Where the
machine's PyTorch computes otherwise (without MKL, say), training ends elsewhere: the notebook says so, and only its claims
are compared.
"""

import pytest

from conclusions import claims
from notebook import NOTEBOOK, ROOT, code_cells
from rerun import arithmetic, other_numbers, read_results, saved_texts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def same_arithmetic(executed):
    if arithmetic(executed):
        pytest.skip(f"only claims are compared, not digits: {arithmetic(executed)}")


def test_in_the_browser_all_cells_run_in_order_and_none_shows_an_error(seen):
    assert seen["errors"] == []
    folded = [cell["metadata"].get("jupyter", {}).get("source_hidden", False) for cell in code_cells()]
    assert seen["prompts"] == ["" if hidden else f"[{i}]:" for i, hidden in enumerate(folded, 1)]


def test_in_the_browser_all_images_are_there(seen):
    widths = seen["widths"]
    kinds = [kind for cell in code_cells() for output in cell["outputs"] for kind in output.get("data", ())]
    saved = [kind for kind in kinds if kind.startswith("image/")]
    assert len(widths) == len(saved) and min(widths) > 100


def test_in_the_browser_figures_are_written_beside_the_notebook(seen, folder):
    assert {path.name for path in (folder / "figures").iterdir()} == {path.name for path in (ROOT / "figures").iterdir()}


def test_committed_in_the_arithmetic_that_it_names():
    assert arithmetic(NOTEBOOK) is None


def test_writes_figures_and_nothing_else(executed):
    jupyter = {"executed.ipynb", ".ipynb_checkpoints"}
    assert {p.name for p in executed.parent.iterdir()} - jupyter == {"ee048954_hw1.ipynb", "figures"}
    assert {p.name for p in (executed.parent / "figures").iterdir()} == {p.name for p in (ROOT / "figures").iterdir()}


def test_every_cell_has_run_in_order(executed):
    assert [cell["execution_count"] for cell in code_cells(executed)] == list(range(1, len(code_cells()) + 1))


def test_nothing_on_stderr(executed):
    assert not [o for cell in code_cells(executed) for o in cell["outputs"] if o.get("name") == "stderr"]


def test_the_same_numbers(executed, same_arithmetic):
    assert other_numbers(executed.parent) == {}


def test_the_same_text_to_the_letter(executed, same_arithmetic):
    assert saved_texts(executed) == saved_texts(NOTEBOOK)


def test_the_same_files(executed, same_arithmetic):
    committed, again = ({p.name: p.read_bytes() for p in (folder / "figures").iterdir()} for folder in (ROOT, executed.parent))
    assert [name for name in committed if committed[name] != again[name]] == []


def test_the_same_inline_pictures(executed, same_arithmetic):
    def pictures(path):
        return [o["data"]["image/png"] for cell in code_cells(path) for o in cell["outputs"] if "image/png" in o.get("data", {})]

    assert pictures(executed) == pictures(NOTEBOOK)


def test_claims_hold_in_both_runs(executed):
    for folder in (ROOT, executed.parent):
        assert [claim for claim, holds in claims(read_results(folder)).items() if not holds] == []
