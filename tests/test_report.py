"""The report is not built from its sources, misses a number or figure of the notebook, or has one typed by hand."""

import re
import shutil
import subprocess
from functools import cache

import pytest
from pypdf import PdfReader

from cells import ROOT, numbers

NAME = "ee048954_hw1"
SOURCE, PDF = ROOT / "report" / f"{NAME}.tex", ROOT / "report" / f"{NAME}.pdf"
# Bandwidths, the spiral's variance, the toy datasets' noise, factor and radius, a quantile, a rate; √(π/2) / 4π².
CONSTANTS = {"0.1", "0.4", "0.25", "0.5", "0.8", "2.5", "0.999", "0.015", "0.003", "0.032"}


@cache
def body():
    """The report's text after \\begin{document}, without comments."""
    return re.sub(r"(?<!\\)%.*", "", SOURCE.read_text(encoding="utf-8")).partition(r"\begin{document}")[2]


def pages(pdf):
    """The text of each page, without white space."""
    return [re.sub(r"\s", "", page.extract_text()) for page in PdfReader(pdf).pages]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of the project in which the report has been built from nothing."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("figures", "report"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "report" / f"{NAME}.pdf").unlink()
    done = subprocess.run(["make", "report"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_each_exported_figure_is_shown_once_at_its_own_size():
    shown = re.findall(r"\\includegraphics\{(.+?)\}", body())
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "figures").glob("*.pdf"))
    assert not re.findall(r"\\includegraphics\[|\\(?:scale|resize)box", body())
    for path in (ROOT / "figures").glob("*.pdf"):
        assert float(PdfReader(path).pages[0].mediabox.width) / 72 <= 7.5, f"{path.name} is wider than the page allows"


def test_no_number_is_typed_that_the_notebook_measures():
    macros = r"\\(R|ci|medrange|setting)\{.*?\}"
    lengths_and_drawings = r"\\newcommand.*|\\tikzset.*(\n  .*)*|[\d.]+(pt|mm)\b"
    prose = re.sub(f"{macros}|{lengths_and_drawings}", "", body())
    assert set(re.findall(r"\d+\.\d+", prose)) <= CONSTANTS


@pytest.mark.parametrize("rival, methods", [("kernel", ("modes", "top", "mixtures")), ("mixtures", ("top",))])
def test_rows_of_differences_are_those_to_their_rival(rival, methods):
    results, text = numbers(), "".join(pages(PDF)).replace("\u2212", "-")
    for method in methods:
        ends = [[results[f"beyond.{method}.{d}.minus_{rival}.total_variation.{end}"] for end in ("low", "high")]
                for d in ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")]
        assert "".join(f"{low}to{high}" for low, high in ends) in text, method


@pytest.mark.slow
@pytest.mark.needs("latex")
def test_the_committed_pdf_is_the_one_that_the_sources_give(built):
    assert pages(built / "report" / f"{NAME}.pdf") == pages(PDF), "run `make report`"


@pytest.mark.slow
@pytest.mark.needs("latex")
def test_latex_warns_of_nothing_that_matters(built):
    log = (built / ".build" / f"{NAME}.log").read_text(errors="replace")
    overfull = [float(points) for points in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log)]
    assert max(overfull, default=0) <= 2, sorted(overfull)
    matters = ("Float too large|undefined|multiply defined|Missing character|Font shape|may have changed|"
               "destination with the same identifier|Token not allowed")
    assert re.findall(f".*(?:{matters}).*", log) == []
    assert "Warning--" not in (built / ".build" / f"{NAME}.blg").read_text()


def titles(outline):
    for entry in outline:
        yield from titles(entry) if isinstance(entry, list) else [entry.title]


def test_every_task_has_its_section_and_no_page_is_nearly_empty():
    reader = PdfReader(PDF)
    tasks = [f"Part I, Task {n}" for n in range(1, 5)] + [f"Part II, Task {n}" for n in range(1, 13)]
    assert [title.partition(":")[0] for title in titles(reader.outline) if ", Task" in title] == tasks
    assert "normalizing flows" in reader.metadata.title and reader.metadata.author == "EE-048954, Homework 1"
    text = " ".join(page.extract_text() for page in reader.pages).rpartition("References")[0]
    assert len(reader.pages) <= 14 and len(re.findall("[A-Za-z]{2,}", text)) <= 4800
    assert all(len(text) > 350 for text in pages(PDF))
