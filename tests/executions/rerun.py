"""Compare an execution of the notebook with the committed one: digits and saved text."""

import json
import re
from pathlib import Path

from notebook import ROOT, code_cells

COLAB = Path(__file__).parent / "environments" / "colab.txt"  # the versions of its runtime


def read_results(folder):
    """The numbers that a run of the notebook in a folder has written."""
    return {key: float(text) for key, text in json.loads((folder / "figures" / "results.json").read_text()).items()}


def other_numbers(folder):
    """{key: (committed, other)} of the recorded numbers that differ."""
    committed, again = read_results(ROOT), read_results(folder)
    assert committed.keys() == again.keys()
    return {key: (value, again[key]) for key, value in committed.items() if value != again[key]}


def saved_texts(path):
    """What each code cell shows as text; not what goes to stderr, nor the names of objects that stand for pictures."""
    texts = []
    for cell in code_cells(path):
        shown = [output.get("data", {"text/plain": output.get("text", "")})
                 for output in cell["outputs"] if output.get("name") != "stderr"]
        each = ["".join(one.get("text/markdown", one.get("text/plain", ""))) for one in shown]
        texts.append([text for text in each if not text.startswith("<")])
    return texts


def arithmetic(path):
    """Why digits cannot be compared, in the words of the executed notebook; None where they can."""
    said = (re.search(r"another arithmetic \([-.\d]+\)", text) for texts in saved_texts(path) for text in texts)
    return next((match[0] for match in said if match), None)
