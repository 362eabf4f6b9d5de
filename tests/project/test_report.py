"""The report: built from scratch, whole, in step with the notebook's numbers and figures, and with nothing typed by hand."""

import os
import re
import shutil
import subprocess
from functools import lru_cache

import pytest
from pypdf import PdfReader

from conclusions import claims
from notebook import ROOT
from rerun import read_results

NAME = "ee048954_hw1"
SOURCE, PDF = ROOT / "report" / f"{NAME}.tex", ROOT / "report" / f"{NAME}.pdf"
# Bandwidths, the spiral's variance, the toy datasets' noise, factor and radius, a quantile, a learning rate; √(π/2) / 4π².
CONSTANTS = {"0.1", "0.25", "0.5", "0.8", "2.5", "0.999", "0.015", "0.032"}
HAS_TEX = all(map(shutil.which, ("latexmk", "pdflatex", "bibtex")))


def needs_tex(test):
    """Mark a test that typesets the report."""
    return pytest.mark.slow(pytest.mark.skipif(not HAS_TEX, reason="LaTeX is not installed")(test))


@lru_cache
def body():
    """The report's text after \\begin{document}, without comments."""
    return re.sub(r"(?<!\\)%.*", "", SOURCE.read_text()).partition(r"\begin{document}")[2]


def expanded(text):
    """The text with our own macros of the form \\newcommand{\\name}[n]{...} replaced by what they stand for."""
    macros = re.findall(r"\\newcommand\{\\(\w+)\}\[(\d)\]\{(.*)\}\s*$", SOURCE.read_text(), re.M)
    for _ in range(3):
        for name, count, meaning in macros:
            if name not in ("R", "pictured", "task"):
                call = rf"\\{name}" + r"\{([^{}]*)\}" * int(count)
                text = re.sub(call, lambda m, meaning=meaning: re.sub(r"#(\d)", lambda n: m[int(n[1])], meaning), text)
    return text


@lru_cache
def macros():
    """{key: text} of all numbers that the report can quote."""
    return dict(re.findall(r"csname result:(.+?)\\endcsname\{(.*)\}", (ROOT / "figures" / "results.tex").read_text()))


def used_keys():
    return set(re.findall(r"\\R\{([^#{}]+)\}", expanded(body())))


def pages(pdf):
    return [page.extract_text() for page in PdfReader(pdf).pages]


def squeezed(text):
    return re.sub(r"\s", "", text)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of what a build reads, so that it starts from nothing and leaves the project alone."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("figures", "report", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", f"{NAME}.ipynb"):
        shutil.copy(ROOT / name, folder)
    (folder / "report" / f"{NAME}.pdf").unlink()
    return folder


def make(folder, *arguments, **environment):
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def built(copied):
    done = make(copied, "report")
    assert done.returncode == 0, done.stdout + done.stderr
    return copied


def test_figures_shown_are_the_figures_exported():
    shown = re.findall(r"\\includegraphics\{(.+?)\}", body())
    exported = {path.stem for path in (ROOT / "figures").glob("*.pdf")}
    assert len(shown) == len(set(shown)) and set(shown) == exported


def test_figures_are_printed_at_their_own_size():
    assert not re.findall(r"\\includegraphics\[|\\(?:scale|resize)box", body())
    text_width = float(re.search(r"textwidth=([\d.]+)in", SOURCE.read_text())[1])
    for path in (ROOT / "figures").glob("*.pdf"):
        assert float(PdfReader(path).pages[0].mediabox.width) / 72 <= text_width + 0.001, path.name


def test_no_number_is_typed_that_the_notebook_measures():
    quoted = r"\\(R|ci|medrange|arm)\{.*?\}"
    lengths_and_drawings = r"\\newcommand.*|\\tikzset.*(\n  .*)*|[\d.]+(pt|mm)\b"
    prose = re.sub(f"{quoted}|{lengths_and_drawings}", "", body())
    assert set(re.findall(r"\d+\.\d+", prose)) <= CONSTANTS


def test_every_quoted_number_exists():
    missing = used_keys() - macros().keys()
    assert not missing and len(used_keys()) > 200


def test_the_committed_pdf_holds_the_numbers():
    text = squeezed("".join(pages(PDF)))
    for key in used_keys():
        mantissa, _, exponent = macros()[key].lstrip("+-").partition("e")
        number = f"{mantissa}×10" if exponent and float(mantissa) != 1 else "10" if exponent else mantissa
        assert number in text, f"{key} = {macros()[key]} is not in the PDF: run `make report`"


@needs_tex
def test_the_committed_pdf_is_the_one_that_the_sources_give(built):
    fresh, committed = (list(map(squeezed, pages(pdf))) for pdf in (built / "report" / f"{NAME}.pdf", PDF))
    assert fresh == committed, "run `make report`"


@needs_tex
def test_latex_warns_of_nothing_that_matters(built):
    log = (built / ".build" / f"{NAME}.log").read_text(errors="replace")
    overfull = [float(points) for points in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log)]
    assert max(overfull, default=0) <= 2, sorted(overfull)
    log = log.replace("\n", " ")
    for warning in ("Float too large", "undefined", "multiply defined", "Missing character", "Font shape", "may have changed",
                    "destination with the same identifier", "Token not allowed"):
        assert warning not in log, log[log.index(warning) - 200:][:400]
    assert "Warning--" not in (built / ".build" / f"{NAME}.blg").read_text()


def test_length_metadata_outline():
    reader = PdfReader(PDF)
    assert 12 <= len(reader.pages) <= 18
    assert "normalizing flows" in reader.metadata.title and "EE-048954" in reader.metadata.subject
    flat = [entry.title for entry in flatten(reader.outline)]
    tasks = [f"Part I, Task {n}" for n in range(1, 5)] + [f"Part II, Task {n}" for n in range(1, 13)]
    assert [title.partition(":")[0] for title in flat if ", Task" in title] == tasks
    assert all(len(text) > 400 for text in pages(PDF)), "a page is nearly empty"


def flatten(outline):
    for entry in outline:
        yield from flatten(entry) if isinstance(entry, list) else [entry]


def test_every_picture_has_an_alternative_text():
    pictures = re.findall(r"\\pictured\{(.+?)\}\{\s*\\(includegraphics|begin\{tabular\})", body())
    assert len(pictures) == body().count(r"\includegraphics") + 1 and all(len(text) > 20 for text, _ in pictures)
    contents = b"".join(page.get_contents().get_data() for page in PdfReader(PDF).pages)
    assert contents.count(b"/Alt") == len(pictures)


def test_every_reference_is_cited_and_dated():
    entries = dict(re.findall(r"@\w+\{(\w+),(.*?)\n\}", (ROOT / "report" / "references.bib").read_text(), re.S))
    cited = {key for keys in re.findall(r"\\citep?t?\{(.+?)\}", body()) for key in keys.split(",")}
    assert entries.keys() == cited
    for key, fields in entries.items():
        assert "year" in fields and re.search(r"booktitle|journal|publisher", fields), key


def test_what_the_report_says_in_words_is_what_was_measured():
    assert [claim for claim, holds in claims(read_results(ROOT)).items() if not holds] == []


@needs_tex
def test_submission_has_two_files_with_the_ids_on_the_title_page(copied):
    done = make(copied, "submission", "IDS=123456789 987654321")
    assert done.returncode == 0, done.stdout + done.stderr
    names = [f"{NAME}_123456789_987654321.{ending}" for ending in ("ipynb", "pdf")]
    assert sorted(path.name for path in (copied / "submission").iterdir()) == names
    assert "123456789987654321" in squeezed(pages(copied / "submission" / names[1])[0])
    assert (copied / "submission" / names[0]).read_bytes() == (ROOT / f"{NAME}.ipynb").read_bytes()


@pytest.mark.parametrize("ids", ["", "123456789", "12345678 987654321", "123456789 987654321 111111111", "12345678a 987654321",
                                 "1234567890 987654321", "123456789  987654321 "])
def test_submission_refuses_other_ids(copied, ids):
    before = list(copied.glob("submission/*"))
    done = make(copied, "submission", f"IDS={ids}")
    assert done.returncode != 0 and "IDS: expected two numbers of nine digits" in done.stderr
    assert list(copied.glob("submission/*")) == before


def test_without_latex_the_report_is_left_alone(copied, tmp_path):
    for program in ("sh", "make", "cp", "mv", "mkdir"):
        (tmp_path / program).symlink_to(shutil.which(program))
    pdf = copied / "report" / f"{NAME}.pdf"
    kept = pdf.exists() and pdf.read_bytes()
    done = make(copied, "report", PATH=str(tmp_path))
    assert done.returncode == 0 and "apt-get install" in done.stdout and "left as it is" in done.stdout, done.stderr
    assert (pdf.exists() and pdf.read_bytes()) == kept
