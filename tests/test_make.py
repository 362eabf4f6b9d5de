"""make does something else than the README says, or takes a name or a value for a command."""

import os
import shutil
import subprocess

import pytest
from pypdf import PdfReader

from cells import NOTEBOOK, ROOT

NAME = NOTEBOOK.stem


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of what make reads to build the report, in a folder with a name that a shell would take apart."""
    folder = tmp_path_factory.mktemp("make") / "a b's & c"
    for name in ("figures", "report"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Makefile", NOTEBOOK.name):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder, *arguments, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.needs("latex")
def test_a_submission_has_two_files_with_the_ids_on_the_title_page(folder):
    done = make(folder, "submission", "IDS=123456789 987654321")
    assert done.returncode == 0, done.stdout + done.stderr
    notebook, report = (folder / "submission" / f"{NAME}_123456789_987654321.{ending}" for ending in ("ipynb", "pdf"))
    assert sorted((folder / "submission").iterdir()) == [notebook, report]
    title_page = "".join(PdfReader(report).pages[0].extract_text().split())
    assert "123456789" in title_page and "987654321" in title_page
    assert notebook.read_bytes() == NOTEBOOK.read_bytes()


@pytest.mark.parametrize("ids", [
    "", "123456789", "12345678 987654321", "123456789 987654321 111111111", "12345678a 987654321",
    "1234567890 987654321", "123456789  987654321 ", "$(shell touch planted)", "'; touch planted; '"])
def test_other_ids_are_refused_and_run_nothing(folder, ids):
    before = sorted(folder.rglob("*"))
    done = make(folder, "submission", f"IDS={ids}")
    assert done.returncode != 0 and "IDS: expected two numbers of nine digits" in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_without_latex_the_report_is_left_alone(folder, tmp_path):
    for program in ("sh", "make", "cp", "mv", "mkdir"):
        (tmp_path / program).symlink_to(shutil.which(program))
    pdf = folder / "report" / f"{NAME}.pdf"
    before = pdf.read_bytes()
    done = make(folder, "report", PATH=str(tmp_path))
    assert done.returncode == 0 and "apt-get install" in done.stdout and "left as it is" in done.stdout, done.stderr
    assert pdf.read_bytes() == before
