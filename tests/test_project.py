"""Something lies where it should not, or ruff objects to the code."""

import subprocess
import sys

import pytest

from cells import NOTEBOOK, ROOT

TOP = {NOTEBOOK.name, "figures", "report", "tests", "requirements.txt", "Makefile", "README.md"}


@pytest.mark.needs("git")
def test_what_is_tracked_is_what_belongs_here():
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]  # whoever owns the clone
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    assert {name.split("/")[0] for name in tracked if name and not name.startswith(".")} == TOP
    figures = {name.removeprefix("figures/") for name in tracked if name.startswith("figures/")}
    assert figures == {path.name for path in (ROOT / "figures").iterdir()}


@pytest.mark.parametrize("path", [NOTEBOOK, ROOT / "tests"], ids=lambda path: path.name)
def test_ruff_finds_nothing(path):
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", ROOT / "tests" / "ruff.toml", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
