"""The project around the notebook."""

import subprocess

from notebook import ROOT

TOP = {"ee048954_hw1.ipynb", "figures", "report", "tests", "requirements.txt", "Makefile", "README.md"}


def test_nothing_else_at_the_top():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert {name.split("/")[0] for name in tracked if name and not name.startswith(".")} <= TOP


def test_requirements_are_pinned():
    lines = (ROOT / "requirements.txt").read_text().split()
    assert lines and all("==" in line for line in lines) and "torch==2.13.0" in lines


def test_readme_names_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert "make\n" in readme and "make test\n" in readme
