"""The notebook in JupyterLab in a real browser, run through the menu: what is there to see."""

import pytest

from notebook import ROOT, code_cells

pytestmark = pytest.mark.slow


def test_all_cells_run_in_order_and_none_shows_an_error(seen):
    assert seen["errors"] == []
    folded = [cell["metadata"].get("jupyter", {}).get("source_hidden", False) for cell in code_cells()]
    assert seen["prompts"] == ["" if hidden else f"[{i}]:" for i, hidden in enumerate(folded, 1)]


def test_all_images_are_there(seen):
    widths = seen["widths"]
    kinds = [kind for cell in code_cells() for output in cell["outputs"] for kind in output.get("data", ())]
    saved = [kind for kind in kinds if kind.startswith("image/")]
    assert len(widths) == len(saved) and min(widths) > 100


def test_figures_are_written_beside_the_notebook(seen, folder):
    assert {path.name for path in (folder / "figures").iterdir()} == {path.name for path in (ROOT / "figures").iterdir()}
