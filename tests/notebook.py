"""Load a notebook's definitions, or run all of it, from outside."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "ee048954_hw1.ipynb"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as fast with these small matrices, and much faster where other programs are at work


def code_cells(path=NOTEBOOK):
    """The code cells of a notebook, in order."""
    return [cell for cell in json.loads(Path(path).read_text())["cells"] if cell["cell_type"] == "code"]


def source(cell):
    """The source of a cell without IPython magics."""
    return "\n".join(line for line in "".join(cell["source"]).splitlines() if not line.startswith(("%", "!")))


def is_definition(statement):
    """Imports, functions, classes, and constants (UPPER_CASE, CamelCase, or `device`): what costs nothing to run."""
    if isinstance(statement, ast.Assign):
        names = [node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        return bool(names) and all(name[0].isupper() or name in ("device", "leaky_relu_backward") for name in names)
    return isinstance(statement, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))


def load_definitions(path=NOTEBOOK):
    """Execute the cells that only define something; returns their namespace."""
    namespace = {"__name__": "notebook_definitions"}
    for cell in code_cells(path):
        tree = ast.parse(source(cell))
        if all(is_definition(statement) for statement in tree.body):
            exec(compile(tree, str(path), "exec"), namespace)
    return namespace


def execute_alone(folder, *prefix, notebook=NOTEBOOK, **environment):
    """Run a copy of the notebook in a folder, its command after a prefix; returns the path of the executed copy."""
    if notebook.parent != folder:
        shutil.copy(notebook, folder)
    command = [*prefix, sys.executable, "-m", "nbconvert", "--log-level=ERROR", "--to", "notebook", "--execute",
               "--ExecutePreprocessor.record_timing=False", "--output", "executed.ipynb", notebook.name]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "executed.ipynb"
