"""A notebook from outside: its code cells, what it defines, a run of all of it, or a new one of given cells."""

import __future__

import ast
import builtins
import json
import linecache
import os
import re
import shutil
import subprocess
import symtable
import sys
import types
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "ee048954_hw1.ipynb"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as fast with these small matrices, and much faster where other programs are at work
MODULE = "notebook_definitions"  # the name under which the definitions know themselves

ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (ast.ClassDef, *FUNCTIONS)
LOOPS = (ast.For, ast.While)
CONTAINERS = (ast.If, ast.Try, ast.With)
CHANGES = ("append", "extend", "insert", "add", "update", "setdefault")  # methods by which a constant gets its value


class NoNotebook(ValueError):
    """A file is no notebook."""


def code_cells(path=NOTEBOOK):
    """The code cells of a notebook, in order; one of format 3 is converted."""
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    if not text.strip():
        raise NoNotebook("it is empty")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoNotebook(f"it is cut off or no JSON ({error})") from None
    try:
        if "worksheets" in content:
            content = nbformat.convert(nbformat.from_dict(content), 4)
        return [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    except (TypeError, KeyError, AttributeError) as error:
        raise NoNotebook(f"it is JSON without the cells of a notebook ({type(error).__name__}: {error})") from None


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


class NotExecuted(Exception):
    """A statement does more than define something."""


class Definitions:
    """What a notebook defines, in `namespace`; by name, why a definition failed, in `failures`, or is `left_out`.

    Executed one by one: imports, functions, classes, and those assignments and loops that give a value to a name which
    a definition reads or which is UPPER_CASE, unless they call a function of the notebook. What trains, samples, plots or
    prints is not executed. `announce` is told the place of each statement before; `skip` has {place: why it failed before}.
    """

    def __init__(self, path, skip=types.MappingProxyType({}), announce=lambda place: None):
        sys.modules[MODULE] = types.ModuleType(MODULE)  # where dataclasses look for themselves
        self.namespace, self.failures, self.left_out = vars(sys.modules[MODULE]), {}, {}
        self.skip, self.announce, self.flags = skip, announce, 0
        bodies = {f"code cell {n}": self.parse(f"code cell {n}", cell) for n, cell in enumerate(code_cells(path), 1)}
        self.needed = names_needed([statement for body in bodies.values() for statement in flattened(body)])
        for where, body in bodies.items():
            for statement in self.defining(body):
                self.execute(statement, where)

    def parse(self, where, cell):
        """The statements of a cell; none if it is no Python, and then what it seems to define has failed."""
        try:
            text = source(cell)
            linecache.cache[where] = len(text), None, text.splitlines(keepends=True), where  # for tracebacks
            return ast.parse(text, where).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            names = re.findall(r"^(?:def|class)\s+(\w+)", "".join(cell["source"]), re.MULTILINE)
            why = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
            self.failures |= dict.fromkeys(names, f"syntax error in {where}, {why}")
            return []

    def defining(self, statements):
        """The statements that define something, each import for itself, and blocks without the rest of their branches."""
        for statement in statements:
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    yield ast.copy_location(ast.Import([alias]), statement)
            elif isinstance(statement, CONTAINERS):
                kept = [list(self.defining(branch)) for branch in branches(statement)]
                for branch, part in zip(branches(statement), kept, strict=True):
                    branch[:] = part or [ast.copy_location(ast.Pass(), statement)] * bool(branch)
                if any(kept):
                    yield statement
            elif defines(statement) or sets_precision(statement) or self.needed & names_changed(statement):
                yield statement

    def execute(self, statement, where):
        """Execute one statement in the namespace, or note why it failed."""
        names = bound_names(statement) or names_changed(statement)
        place = f"{where}, line {statement.lineno}"
        try:
            if not isinstance(statement, DEFINITIONS):
                self.refuse_own_functions(statement)
            if place not in self.skip:
                self.announce(place)
                code = compile(ast.Module([statement], []), where, "exec", self.flags, dont_inherit=True)
                exec(code, self.namespace)
                self.flags |= code.co_flags & __future__.annotations.compiler_flag  # for the cells that follow
        except NotExecuted as reason:
            self.left_out |= dict.fromkeys(names, f"{place}, is not executed, because {reason}")
        except BaseException as error:
            self.fail(names, f"{type(error).__name__} in {place}: {error}")
        else:
            if place in self.skip:
                self.fail(names, f"{place}: {self.skip[place]}")
            else:
                for name in names:
                    self.failures.pop(name, None)

    def fail(self, names, why):
        self.failures |= dict.fromkeys(names, why)
        for name in names:
            self.namespace.pop(name, None)

    def refuse_own_functions(self, statement):
        """Raise NotExecuted if a statement reads what is not there or calls something of the notebook: it might train."""
        known = {**vars(builtins), **dict.fromkeys([*self.failures, *names_changed(statement)]), **self.namespace}
        if isinstance(statement, (*LOOPS, *ASSIGNMENTS)) and (unknown := sorted(names_read(ast.unparse(statement)) - set(known))):
            raise NotExecuted(f"it reads {unknown[0]}")
        for call in calls(statement):
            name = root_name(call)
            if name and (
                name not in known or getattr(known[name], "__module__", None) == MODULE and not isinstance(known[name], type)
            ):
                raise NotExecuted(f"it calls {ast.unparse(call.func)}")


def branches(statement):
    """The lists of statements inside a block."""
    parts = (statement, *getattr(statement, "handlers", ()))
    return [getattr(part, branch) for part in parts for branch in ("body", "orelse", "finalbody") if hasattr(part, branch)]


def flattened(statements):
    """The statements, with those inside of blocks in their places."""
    for statement in statements:
        yield statement
        if isinstance(statement, CONTAINERS):
            for branch in branches(statement):
                yield from flattened(branch)


def names_in(nodes, *contexts):
    """The variables in some nodes, at any depth, of these contexts."""
    found = [child for node in nodes for child in ast.walk(node) if isinstance(child, ast.Name)]
    return {name.id for name in found if isinstance(name.ctx, contexts)}


def defines(statement):
    """Whether a statement is a definition, or a loop that makes some."""
    inner = ast.walk(statement) if isinstance(statement, LOOPS) else ()
    return isinstance(statement, (ast.ImportFrom, *DEFINITIONS)) or any(isinstance(part, DEFINITIONS) for part in inner)


def bound_names(statement):
    """The names that a statement gives a value."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, DEFINITIONS):
        return {statement.name}
    if isinstance(statement, CONTAINERS):
        heads = [item.optional_vars for item in getattr(statement, "items", ()) if item.optional_vars]
        inner = [part for part in flattened([statement]) if part is not statement]
        return names_in(heads, ast.Store).union(*map(bound_names, inner))
    return names_in(targets(statement), ast.Store)


def targets(statement):
    """What an assignment gives a value to."""
    return (getattr(statement, "targets", None) or [statement.target]) if isinstance(statement, ASSIGNMENTS) else []


def names_changed(statement):
    """The names whose values an assignment, a loop or a call like `name.append(...)` makes or changes."""
    if isinstance(statement, LOOPS):
        inner = [part for branch in branches(statement) for part in flattened(branch)]
        return names_in(getattr(statement, "target", ()) and [statement.target], ast.Store).union(
            *(bound_names(part) | names_changed(part) for part in inner)
        )
    call = getattr(statement, "value", None) if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in CHANGES:
        return {root_name(call)}
    return names_in(targets(statement), ast.Store, ast.Load)


def names_needed(statements):
    """Names in UPPER_CASE, and those that definitions read, directly or through what gives them their values."""
    statements = list(statements)
    changed = [(names_changed(statement), names_read(ast.unparse(statement))) for statement in statements
               if not isinstance(statement, (*DEFINITIONS, *CONTAINERS))]
    needed = {name for statement in statements for name in names_in(targets(statement), ast.Store, ast.Load) if name.isupper()}
    for statement in filter(defines, statements):
        needed |= names_read(ast.unparse(statement))
    while more := {name for names, read in changed if needed & names for name in read} - needed:
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
