"""A notebook from outside: its code cells, what it defines, a run of all of it, or a new one of given cells."""

import ast
import builtins
import contextlib
import json
import linecache
import os
import re
import shutil
import signal
import subprocess
import symtable
import sys
import tempfile
import types
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "ee048954_hw1.ipynb"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as fast with these small matrices, and much faster where other programs are at work
MODULE = "notebook_definitions"  # the name under which the definitions know themselves
SECONDS = 120  # after which a definition or a check counts as hanging

ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def code_cells(path=NOTEBOOK):
    """The code cells of a notebook, in order."""
    return [cell for cell in json.loads(Path(path).read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def source(cell):
    """The Python of a cell; lines that only IPython understands become calls of get_ipython()."""
    text = "".join(cell["source"])
    first, _, rest = text.lstrip().partition("\n")
    if first.startswith("%%"):
        text = rest if first.split()[0] in ("%%time", "%%timeit", "%%capture", "%%prun") else ""  # the others hold no Python
    return TransformerManager().transform_cell(text)


def write_notebook(path, sources):
    """A notebook of these code cells, which has not been run; returns its path."""
    cells = [{"cell_type": "code", "id": f"cell{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": text}
             for i, text in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


class OutOfTime(BaseException):
    """No Exception, so that the code that takes too long does not catch it."""


class NotExecuted(Exception):
    """A statement does more than define something."""


@contextlib.contextmanager
def time_limit():
    """Raise OutOfTime inside the block after SECONDS."""

    def stop(*_):
        raise OutOfTime(f"it has not finished after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def scratch_folder():
    """Work in a folder that is thrown away, so that other people's code leaves no file."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield


class Definitions:
    """What a notebook defines, in `namespace`; by name, why a definition failed, in `failures`, or is `left_out`.

    Executed one by one: imports, functions, classes, and those assignments that a definition reads or whose name is
    UPPER_CASE, unless they call a function of the notebook. What trains, samples, plots or prints is not executed.
    """

    def __init__(self, path):
        sys.modules[MODULE] = types.ModuleType(MODULE)  # where dataclasses look for themselves
        self.namespace, self.failures, self.left_out = vars(sys.modules[MODULE]), {}, {}
        bodies = {number: self.parse(f"code cell {number}", cell) for number, cell in enumerate(code_cells(path), 1)}
        self.needed = names_needed([statement for body in bodies.values() for statement in flattened(body)])
        with scratch_folder():
            for number, body in bodies.items():
                for statement in self.defining(body):
                    self.execute(statement, f"code cell {number}")

    def parse(self, where, cell):
        """The statements of a cell; none if it is no Python, and then what it seems to define has failed."""
        try:
            text = source(cell)
            linecache.cache[where] = len(text), None, text.splitlines(keepends=True), where  # for tracebacks
            return ast.parse(text, where).body
        except SyntaxError as error:
            names = re.findall(r"^(?:def|class)\s+(\w+)", "".join(cell["source"]), re.MULTILINE)
            self.failures |= dict.fromkeys(names, f"syntax error in {where}, line {error.lineno}: {error.msg}")
            return []

    def defining(self, statements):
        """The statements that define something, each import for itself, `if` and `try` without the rest of their branches."""
        for statement in statements:
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    yield ast.copy_location(ast.Import([alias]), statement)
            elif isinstance(statement, ASSIGNMENTS):
                if self.needed & names_in(statement, targets_only=True):
                    yield statement
            elif isinstance(statement, (ast.If, ast.Try)):
                kept = [list(self.defining(branch)) for branch in branches(statement)]
                for branch, part in zip(branches(statement), kept, strict=True):
                    branch[:] = part or [ast.copy_location(ast.Pass(), statement)] * bool(branch)
                if any(kept):
                    yield statement
            elif isinstance(statement, (ast.ImportFrom, ast.ClassDef, *FUNCTIONS)) or sets_precision(statement):
                yield statement

    def execute(self, statement, where):
        """Execute one statement in the namespace, or note why it failed."""
        names = bound_names(statement)
        try:
            if not isinstance(statement, (ast.ClassDef, *FUNCTIONS)):
                self.refuse_own_functions(statement)
            with time_limit():
                exec(compile(ast.Module([statement], []), where, "exec"), self.namespace)
        except NotExecuted as reason:
            self.left_out |= dict.fromkeys(names, f"{where}, line {statement.lineno}, is not executed, because {reason}")
        except (Exception, OutOfTime, SystemExit) as error:
            for name in names:
                self.failures[name] = f"{type(error).__name__} in {where}, line {statement.lineno}: {error}"
                self.namespace.pop(name, None)
        else:
            for name in names:
                self.failures.pop(name, None)

    def refuse_own_functions(self, statement):
        """Raise NotExecuted if the statement calls a function or an object of the notebook: it might train."""
        for call in calls(statement):
            name = root_name(call)
            known = {**vars(builtins), **dict.fromkeys(self.failures), **self.namespace}
            if name and (
                name not in known or getattr(known[name], "__module__", None) == MODULE and not isinstance(known[name], type)
            ):
                raise NotExecuted(f"it calls {ast.unparse(call.func)}")


def branches(statement):
    """The lists of statements inside an `if` or `try`."""
    parts = (statement, *getattr(statement, "handlers", ()))
    return [getattr(part, branch) for part in parts for branch in ("body", "orelse", "finalbody") if hasattr(part, branch)]


def flattened(statements):
    """The statements, with those inside an `if` or `try` in their places."""
    for statement in statements:
        yield statement
        if isinstance(statement, (ast.If, ast.Try)):
            for branch in branches(statement):
                yield from flattened(branch)


def names_in(assignment, targets_only=False):
    """All names in an assignment, or in its targets."""
    targets = getattr(assignment, "targets", None) or [assignment.target]
    parts = targets if targets_only else [assignment]
    return {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)}


def bound_names(statement):
    """The names that a statement gives a value."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, (ast.ClassDef, *FUNCTIONS)):
        return {statement.name}
    if isinstance(statement, (ast.If, ast.Try)):
        return {name for inner in flattened([statement]) if inner is not statement for name in bound_names(inner)}
    targets = getattr(statement, "targets", None) or [statement.target] if isinstance(statement, ASSIGNMENTS) else []
    nodes = [node for target in targets for node in ast.walk(target)]
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def names_needed(statements):
    """Names in UPPER_CASE, and those that definitions read, directly or through assignments."""
    statements = list(statements)
    assignments = [statement for statement in statements if isinstance(statement, ASSIGNMENTS)]
    needed = {name for assignment in assignments for name in names_in(assignment, targets_only=True) if name.isupper()}
    for statement in statements:
        if isinstance(statement, (ast.ClassDef, *FUNCTIONS)):
            needed |= names_read(ast.unparse(statement))
    while (
        more := {
            name
            for assignment in assignments
            if needed & names_in(assignment, targets_only=True)
            for name in names_read(ast.unparse(assignment))
        }
        - needed
    ):
        needed |= more
    return needed


def names_read(code):
    """The global names that some code reads, at any depth."""
    tables, names = [symtable.symtable(code, "code", "exec")], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return names


def calls(node):
    """The calls made when a statement is executed: not those inside of functions that it only defines."""
    if isinstance(node, ast.Call):
        yield node
    if not isinstance(node, (ast.Lambda, *FUNCTIONS)):
        for child in ast.iter_child_nodes(node):
            yield from calls(child)


def root_name(node):
    """The name at the start of a chain like `name.attribute(argument)[index]`, or None."""
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def sets_precision(statement):
    """Whether a statement is a call of torch.set_default_dtype, on which definitions may rely."""
    call = getattr(statement, "value", None)
    return isinstance(call, ast.Call) and getattr(call.func, "attr", None) == "set_default_dtype"


def load_definitions(path=NOTEBOOK):
    """The namespace of a notebook's definitions, all of which have to succeed."""
    definitions = Definitions(path)
    assert not definitions.failures, definitions.failures
    return definitions.namespace


def execute_alone(folder, *prefix, notebook=NOTEBOOK, **environment):
    """Run a copy of the notebook in a folder, its command after a prefix; returns the path of the executed copy."""
    if notebook.parent != folder:
        shutil.copy(notebook, folder)
    command = [*prefix, sys.executable, "-m", "nbconvert", "--log-level=ERROR", "--to", "notebook", "--execute",
               "--ExecutePreprocessor.record_timing=False", "--output", "executed.ipynb", notebook.name]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "executed.ipynb"
