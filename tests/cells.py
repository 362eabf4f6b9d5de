"""The notebook from outside: its cells, what they define, and what they show."""

import ast
import json
import re
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "ee048954_hw1.ipynb"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as fast with these small matrices, and faster where other programs are at work


def numbers(folder=ROOT):
    """{key: text} of what the notebook in a folder has kept."""
    line = r"\\expandafter\\def\\csname result:(.+?)\\endcsname\{(.*)\}\n"
    return dict(re.findall(line, (folder / "figures" / "results.tex").read_text()))


def cells(kind="code", path=NOTEBOOK):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def sources(kind="code"):
    return ["".join(cell["source"]) for cell in cells(kind)]


def cell_with(words):
    """The source of the one code cell that has some words in it."""
    found, = [text for text in sources() if words in text]
    return found


def defines(statement):
    """Whether a statement imports, defines, gives a value to a Name, or sets PyTorch up; else it computes."""
    if isinstance(statement, ast.Assign):
        names = [node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        return all(name[0].isupper() or name == "device" for name in names)
    sets_up = ast.unparse(statement).startswith(("os.environ", "torch.set_num_threads"))
    return sets_up or isinstance(statement, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))


def load_definitions():
    """What the notebook defines, as attributes, without running its experiments."""
    nb = types.ModuleType("definitions")
    for number, text in enumerate(sources(), 1):
        body = [statement for statement in ast.parse(text).body if defines(statement)]
        exec(compile(ast.Module(body, []), f"code cell {number}", "exec"), vars(nb))
    return nb


def shown(path=NOTEBOOK):
    """What each code cell shows as text, but for the names of objects that stand for pictures."""
    texts = []
    for cell in cells(path=path):
        data = [output.get("data", {"text/plain": output.get("text", "")}) for output in cell["outputs"]]
        each = ["".join(one.get("text/markdown", one.get("text/plain", ""))) for one in data]
        texts.append([text for text in each if not text.startswith("<")])
    return texts
