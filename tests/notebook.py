"""A notebook from outside: its code cells, what it defines, a run of all of it, or a new one of given cells.

nbformat is imported where it is needed: it takes as long as PyTorch, and many processes of the tests begin here.
"""

import __future__

import ast
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

import cloudpickle
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "ee048954_hw1.ipynb"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as fast with these small matrices, and much faster where other programs are at work
MODULE = "notebook_definitions"  # the name under which the definitions know themselves

DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
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
            import nbformat

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
    import nbformat

    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in sources]), path)
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
        statements = [part for body in bodies.values() for part in flattened(body.body) if not isinstance(part, CONTAINERS)]
        self.needed = {"os"}  # whose environment libraries read
        for statement in (*statements, *reversed(statements)):  # first by definitions, then by what gives values to such names
            if self.keeps(statement):
                self.needed |= names_read(statement)
        for where, body in bodies.items():
            for statement in self.visit(body).body:
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
        return node if not isinstance(node, ast.stmt) or self.keeps(node) else ast.copy_location(ast.Pass(), node)

    def keeps(self, statement):
        """Whether a statement defines something, or gives a value to a name that is needed or in UPPER_CASE."""
        defined = any(isinstance(node, (ast.ImportFrom, *DEFINITIONS)) for node in executed(statement))
        return defined or any(name in self.needed or name.isupper() for name in bound_names(statement))

    def execute(self, statement, where):
        """Execute one statement in the namespace, or note why it failed or is left out."""
        names, place, reason = bound_names(statement), f"{where}, line {statement.lineno}", None
        why = place in self.skip and f"{place}: {self.skip[place]}"
        try:
            if not (reason := self.reason_against(statement)) and not why:
                self.announce(place)
                code = compile(ast.Module([statement], []), where, "exec", self.flags, dont_inherit=True)
                exec(code, self.namespace)
                self.flags |= code.co_flags & __future__.annotations.compiler_flag  # for the cells that follow
        except BaseException as error:
            why = f"{type(error).__name__} in {place}: {error}"
            lost = names_read(statement) & self.left_out.keys() if not isinstance(error, NameError) else {error.name}
            if lost - self.failures.keys() and not isinstance(statement, DEFINITIONS):
                reason = f"it reads {min(lost)}"  # which is left out as well, or in part
        if reason:
            self.left_out |= dict.fromkeys(names, f"{place}, is not executed, because {reason}")
            return
        for name in names:
            self.failures.pop(name, None)
            if why:
                self.failures[name] = why
                self.namespace.pop(name, None)

    def reason_against(self, statement):
        """That a statement which is no definition calls something of the notebook, if it does: it might train."""
        for call in (node for node in executed(statement) if isinstance(node, ast.Call)):
            called = self.namespace.get(root_name(call))
            if getattr(called, "__module__", None) == MODULE and not isinstance(called, (type, tuple)):
                return f"it calls {ast.unparse(call.func)}"
        return None


def flattened(nodes):
    """The statements among some nodes, with those inside of blocks in their places."""
    for node in nodes:
        if isinstance(node, ast.stmt):
            yield node
        if isinstance(node, CONTAINERS):
            yield from flattened(ast.iter_child_nodes(node))


def executed(node):
    """The nodes that run when a statement does: none inside of what it only defines."""
    yield node
    if not isinstance(node, (ast.Lambda, *DEFINITIONS)):
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.comprehension) and child is node.target):
                yield from executed(child)


def bound_names(statement):
    """The names that a statement gives a value or changes, as `name.append(...)` and `name[0] = 1` do."""
    nodes = list(executed(statement))
    names = {node.name for node in nodes if isinstance(node, DEFINITIONS)}
    names |= {node.asname or node.name.partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    names |= {root_name(node) for node in nodes if isinstance(getattr(node, "ctx", None), ast.Store)
              or isinstance(node, ast.Call) and getattr(node.func, "attr", None) in CHANGES}
    return names - {None}


def names_read(statement):
    """The global names that a statement reads, at any depth."""
    tables = [symtable.symtable(ast.unparse(statement), "code", "exec")]
    for table in tables:
        tables += table.get_children()
    symbols = [symbol for table in tables for symbol in table.get_symbols()]
    return {symbol.get_name() for symbol in symbols if symbol.is_global() and symbol.is_referenced()}


def root_name(node):
    """The name at the start of a chain like `name.attribute(argument)[index]`, or None."""
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def load_definitions(path=NOTEBOOK):
    """A module of a notebook's definitions, all of which have to succeed."""
    definitions = Definitions(path)
    assert not definitions.failures, definitions.failures
    cloudpickle.register_pickle_by_value(sys.modules[MODULE])  # other processes, to which functions are sent, do not have it
    return sys.modules[MODULE]


def execute_alone(folder, *prefix, notebook=NOTEBOOK, **environment):
    """Run a copy of the notebook in a folder, its command after a prefix; returns the path of the executed copy."""
    if notebook.parent != folder:
        shutil.copy(notebook, folder)
    command = [*prefix, sys.executable, ROOT / "tests" / "execute.py", notebook.name, "executed.ipynb"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "executed.ipynb"
