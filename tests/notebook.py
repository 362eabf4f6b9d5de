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
CONTAINERS = (ast.If, ast.Try, ast.ExceptHandler, ast.With)
CHANGES = ("append", "extend", "insert", "add", "update", "setdefault", "set_default_dtype")  # what they are called on


class NoNotebook(ValueError):
    """A file is no notebook."""


def code_cells(path=NOTEBOOK):
    """The code cells of a notebook, in order; one of format 3 is converted."""
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    if not text.strip():
        raise NoNotebook("it is empty")
    try:
        content = json.loads(text)
        if "worksheets" in content:
            content = nbformat.convert(nbformat.from_dict(content), 4)
        return [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    except (ValueError, RecursionError) as error:
        raise NoNotebook(f"it is cut off or no JSON ({error})") from None
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


class Definitions(ast.NodeTransformer):
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
        self.needed = names_needed([statement for body in bodies.values() for statement in flattened(body.body)])
        for where, body in bodies.items():
            for statement in self.visit(body).body:
                if not all(isinstance(part, (ast.Pass, *CONTAINERS)) for part in flattened([statement])):
                    self.execute(statement, where)

    def parse(self, where, cell):
        """The tree of a cell; an empty one if it is no Python, and then what it seems to define has failed."""
        try:
            text = source(cell)
            linecache.cache[where] = len(text), None, text.splitlines(keepends=True), where  # for tracebacks
            return ast.parse(text, where)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            names = re.findall(r"^(?:def|class)\s+(\w+)", "".join(cell["source"]), re.MULTILINE)
            why = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
            self.failures |= dict.fromkeys(names, f"syntax error in {where}, {why}")
            return ast.Module([], [])

    def visit(self, node):
        """Each import for itself, what else defines something as it is, blocks of such, and nothing for the rest."""
        if isinstance(node, ast.Import):
            return [ast.copy_location(ast.Import([alias]), node) for alias in node.names]
        if isinstance(node, (ast.Module, *CONTAINERS)):
            return self.generic_visit(node)
        kept = defines(node) or self.needed & names_changed(node)
        return ast.copy_location(ast.Pass(), node) if isinstance(node, ast.stmt) and not kept else node

    def execute(self, statement, where):
        """Execute one statement in the namespace, or note why it failed."""
        names = bound_names(statement) or names_changed(statement)
        place = f"{where}, line {statement.lineno}"
        why = place in self.skip and f"{place}: {self.skip[place]}"
        try:
            if reason := not isinstance(statement, DEFINITIONS) and self.reason_against(statement):
                self.left_out |= dict.fromkeys(names, f"{place}, is not executed, because {reason}")
                return
            if not why:
                self.announce(place)
                code = compile(ast.Module([statement], []), where, "exec", self.flags, dont_inherit=True)
                exec(code, self.namespace)
                self.flags |= code.co_flags & __future__.annotations.compiler_flag  # for the cells that follow
        except BaseException as error:
            why = f"{type(error).__name__} in {place}: {error}"
        for name in names:
            self.failures.pop(name, None)
            if why:
                self.failures[name] = why
                self.namespace.pop(name, None)

    def reason_against(self, statement):
        """That a statement reads what is not there or calls something of the notebook, if it does: it might train."""
        changed = set() if isinstance(statement, CONTAINERS) else names_changed(statement)
        known = {**vars(builtins), **dict.fromkeys([None, *self.failures, *changed]), **self.namespace}
        if isinstance(statement, (*LOOPS, *ASSIGNMENTS)) and (unknown := sorted(names_read(ast.unparse(statement)) - set(known))):
            return f"it reads {unknown[0]}"
        for call in (node for node in executed(statement) if isinstance(node, ast.Call)):
            called = known.get(name := root_name(call))
            if name not in known or getattr(called, "__module__", None) == MODULE and not isinstance(called, type):
                return f"it calls {ast.unparse(call.func)}"
        return None


def flattened(nodes):
    """The statements among some nodes, with those inside of blocks in their places."""
    for node in nodes:
        if isinstance(node, ast.stmt):
            yield node
        if isinstance(node, CONTAINERS):
            yield from flattened(ast.iter_child_nodes(node))


def executed(node, but=()):
    """The nodes that run when a statement does: none inside of functions that it only defines, or of these others."""
    yield node
    if not isinstance(node, (ast.Lambda, *FUNCTIONS, *but)):
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.comprehension) and child is node.target):
                yield from executed(child, but)


def bound_names(statement, but=(ast.ClassDef, *LOOPS)):
    """The names that a statement, but no loop in it, gives a value."""
    nodes = list(executed(statement, but))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.name for node in nodes if isinstance(node, DEFINITIONS)}
    return names | {node.asname or node.name.partition(".")[0] for node in nodes if isinstance(node, ast.alias)}


def names_changed(statement):
    """Those that a statement, with its loops, gives a value or changes, as `name.append(...)` and `name[0] = 1` do."""
    names = {root_name(node) for node in executed(statement, [ast.ClassDef]) if isinstance(getattr(node, "ctx", 0), ast.Store)
             or isinstance(node, ast.Call) and getattr(node.func, "attr", None) in CHANGES}
    return bound_names(statement, [ast.ClassDef]) | names - {None}


def defines(statement):
    """Whether a statement is a definition, or a loop that makes some."""
    return any(isinstance(node, (ast.ImportFrom, *DEFINITIONS)) for node in executed(statement))


def names_needed(statements):
    """Names in UPPER_CASE, and those that definitions read, directly or through what gives them their values."""
    effects = [(statement, names_changed(statement), names_read(ast.unparse(statement))) for statement in statements
               if not isinstance(statement, CONTAINERS)]
    needed = {name for _, names, _ in effects for name in names if name.isupper()}
    needed.update(*(read for statement, _, read in effects if defines(statement)))
    while more := {name for _, names, read in effects if needed & names for name in read} - needed:
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


def root_name(node):
    """The name at the start of a chain like `name.attribute(argument)[index]`, or None."""
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


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
