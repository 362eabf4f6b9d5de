"""No dead weight: ruff finds nothing in the notebook or the tests, and every definition is used."""

import ast
import subprocess
import sys
from collections import Counter

import pytest

from notebook import CONTAINERS, NOTEBOOK, ROOT, bound_names, code_cells, flattened, source

TESTS = sorted((ROOT / "tests").rglob("*.py"))


def unused(sources, entry_points=()):
    """Top-level definitions that no source uses outside of the definition itself, as {name: number of its source}."""
    defined, used = {}, Counter()
    for number, text in enumerate(sources):
        statements = list(flattened(ast.parse(text).body))
        for statement in statements:
            own = set() if isinstance(statement, (ast.For, ast.While, *CONTAINERS)) else bound_names(statement)
            defined |= dict.fromkeys(own, number)
            used.update({name for node in ast.walk(statement) for name in names_used(node)} - own)
    return {name: number for name, number in defined.items() if not used[name] and name not in entry_points}


def names_used(node):
    """Names that a node reads: variables, attributes, arguments (which are fixtures in tests) and words in strings."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
        yield node.value


def test_the_search_finds_what_is_unused():
    sources = ["import os\nK = 1\ndef used(): return K", "def recursive(): return recursive()\nclass Lonely: pass\nprint(used)"]
    assert unused(sources) == {"os": 0, "recursive": 1, "Lonely": 1}
    assert unused(sources, entry_points={"os", "Lonely"}) == {"recursive": 1}


def test_every_definition_of_the_notebook_is_used():
    assert not unused([source(cell) for cell in code_cells(NOTEBOOK)], entry_points={"device", "os", "_"})


def test_every_definition_of_the_tests_is_used():
    found = unused([path.read_text() for path in TESTS], entry_points={"__builtins__"})  # which Python reads
    ours = {name: TESTS[number].name for name, number in found.items()}
    collected = ("test_", "pytest", "Test")  # by pytest, under these names
    assert not {name: file for name, file in ours.items() if not name.startswith(collected)}


@pytest.mark.parametrize("path", [NOTEBOOK, ROOT / "tests"], ids=lambda path: path.name)
def test_ruff_finds_nothing(path):
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(ROOT / "tests" / "ruff.toml"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
