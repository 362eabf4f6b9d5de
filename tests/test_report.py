"""The report: built from scratch, whole, in step with the notebook's numbers and figures, and with nothing typed by hand."""

import json
import os
import re
import shutil
import subprocess
from functools import lru_cache

import pytest
from PIL import Image
from pypdf import PdfReader

from notebook import ROOT

NAME = "ee048954_hw1"
SOURCE, PDF = ROOT / "report" / f"{NAME}.tex", ROOT / "report" / f"{NAME}.pdf"
HANDOUT = {"0.1", "0.25", "0.5", "0.8", "2.5"}  # bandwidths, the spiral's variance, the toy datasets' noise, factor and radius
needs_tex = pytest.mark.skipif(not all(map(shutil.which, ("latexmk", "pdflatex", "bibtex"))), reason="LaTeX is not installed")


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
def results():
    return json.loads((ROOT / "figures" / "results.json").read_text())


@lru_cache
def macros():
    """{key: text} of all numbers that the report can quote."""
    files = ROOT / "figures" / "results.tex", ROOT / "tests" / "benchmark.tex"
    return dict(re.findall(r"csname result:(.+?)\\endcsname\{(.*)\}", "".join(file.read_text() for file in files)))


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
    prose = re.sub(r"\\(?:R|result|ci|medrange|ratio)\{.*?\}|\\includegraphics\{.*?\}|\\begin\{tikzpicture\}.*?\\end\{tikzpicture\}"
                   r"|\\tikzset\{.*?\}\}\n|\[\d*\.?\d+(?:pt|mm)\]|\\\w+row\{.*?\}", "", body(), flags=re.S)
    prose = re.sub(r"\\newcommand.*|\\node.*|\d+(?:\.\d+)?(?:pt|mm|in)\b", "", prose)
    assert set(re.findall(r"\d+\.\d+", prose)) <= HANDOUT


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
    pictures = re.findall(r"\\pictured\{(.+?)\}\{(?:%\n)?\\(includegraphics|begin\{tabular\})", body())
    assert len(pictures) == body().count(r"\includegraphics") + 1 and all(len(text) > 20 for text, _ in pictures)
    contents = b"".join(page.get_contents().get_data() for page in PdfReader(PDF).pages)
    assert contents.count(b"/Alt") == len(pictures)


def test_every_reference_is_cited_and_dated():
    entries = dict(re.findall(r"@\w+\{(\w+),(.*?)\n\}", (ROOT / "report" / "references.bib").read_text(), re.S))
    cited = {key for keys in re.findall(r"\\citep?t?\{(.+?)\}", body()) for key in keys.split(",")}
    assert entries.keys() == cited
    for key, fields in entries.items():
        assert "year" in fields and re.search(r"booktitle|journal|publisher", fields), key


def mean(key):
    return results()[f"{key}.mean"]


def excludes(key, value, sign):
    """Whether the interval lies wholly above (sign 1) or below (-1) a value."""
    return all(sign * (results()[f"{key}.{end}"] - value) > 0 for end in ("low", "high"))


def apart(*keys):
    """Whether the intervals follow one another in this order without touching."""
    return all(results()[f"{a}.high"] < results()[f"{b}.low"] for a, b in zip(keys, keys[1:]))


def tv(name, h):
    return results()[f"part1.task3.{name}.h_{h}.total_variation"]


def task3(name, h, part):
    return results()[f"part1.task3.{name}.h_{h}.{part}_per_unit_area"]


FLOWS = ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")
CLAIMS = {
    "h = 0.1 is the best of three for the narrow mixture and the spiral, 0.5 for the wide one": lambda: all(
        min((0.1, 0.5, 1.0), key=lambda h: tv(name, h)) == best for name, best in
        (("mixture_half", 0.1), ("spiral", 0.1), ("mixture_one", 0.5))),
    "at h = 0.1 the wide mixture's error is nearly all variance, at 1 both are nearly all bias": lambda: (
        task3("mixture_one", 0.1, "variance") > 0.95 * task3("mixture_one", 0.1, "mise")
        and all(task3(m, 1.0, "bias2") > 0.95 * task3(m, 1.0, "mise") for m in ("mixture_half", "mixture_one"))),
    "half the sigma asks for less than half the bandwidth": lambda: (
        results()["part1.task3.mixture_half.best_h_mise"] < results()["part1.task3.mixture_one.best_h_mise"] / 2),
    "easiest: wide mixture, hardest: spiral, the intervals do not overlap": lambda: apart(
        *(f"part1.task4.{m}.total_variation" for m in ("mixture_one", "mixture_half", "spiral"))),
    "at h = 0.5 and 1 the narrow mixture has the largest error": lambda: all(
        tv("mixture_half", h) > max(tv("mixture_one", h), tv("spiral", h)) for h in (0.5, 1.0)),
    "the grid has the lowest mean total variation": lambda: (
        min(FLOWS, key=lambda d: mean(f"part2.task09.{d}.total_variation")) == "GaussiansGrid"),
    "the five Gaussians have the highest, apart from all others": lambda: all(
        apart(f"part2.task09.{d}.total_variation", "part2.task09.GaussiansRot.total_variation") for d in FLOWS[:3]),
    "the five Gaussians have the most stray mass, apart from the grid": lambda: apart(
        "part2.task09.GaussiansGrid.stray_mass", "part2.task09.GaussiansRot.stray_mass"),
    "the five Gaussians are stretched more than the grid": lambda: (
        results()["part2.task09.GaussiansRot.stretch.median"] > 3 * results()["part2.task09.GaussiansGrid.stretch.median"]),
    "four layers fit better than two, by both measures, and every pair falls": lambda: (
        excludes("part2.task10.difference.total_variation", 0, -1) and excludes("part2.task10.kl_ratio", 1, -1)
        and all(results()[f"part2.task10.difference.{m}.replicas_lower"] == results()["setup.num_pairs"]
                for m in ("total_variation", "kl_nats", "training_gap_nats"))),
    "two layers underfit; depth overfits more, by less than it gains": lambda: (
        apart("part2.task10.K4.training_gap_nats", "part2.task10.K2.training_gap_nats")
        and excludes("part2.task10.difference.overfitting_nats", 0, 1)
        and mean("part2.task10.difference.kl_nats") < 0),
    "3000 samples fit better, by both measures, by less than two layers more": lambda: (
        excludes("part2.task11.difference.total_variation", 0, -1) and excludes("part2.task11.kl_ratio", 1, -1)
        and mean("part2.task11.difference.total_variation") > mean("part2.task10.difference.total_variation") / 2),
    "the gap on the training data does not change visibly with N, the overfitting falls": lambda: (
        not excludes("part2.task11.difference.training_gap_nats", 0, 1)
        and not excludes("part2.task11.difference.training_gap_nats", 0, -1)
        and results()["part2.task11.N3000.overfitting_nats.median"] < results()["part2.task11.N1500.overfitting_nats.median"]),
    "with equal steps both measures are undecided, but the overfitting is lower": lambda: (
        not any(excludes(key, even, sign) for sign in (1, -1) for key, even in
                (("part2.task11_steps.difference.total_variation", 0), ("part2.task11_steps.kl_ratio", 1)))
        and results()["part2.task11_steps.difference.overfitting_nats.replicas_lower"] >= 0.75 * results()["setup.num_pairs"]
        and results()["part2.task11_steps.difference.overfitting_nats.median"] < 0),
    "more steps on the same samples lower total variation": lambda: (
        excludes("part2.task11_epochs.difference.total_variation", 0, -1)),
    "three Gaussians are fitted better than seven, by both measures and in every pair": lambda: (
        excludes("part2.task12.difference.total_variation", 0, 1) and excludes("part2.task12.kl_ratio", 1, 1)
        and results()["part2.task12.difference.total_variation.replicas_lower"] == 0
        and results()["part2.task12.difference.training_gap_nats.replicas_lower"] == 0),
    "the seven are mainly underfitted": lambda: (
        excludes("part2.task12.difference.training_gap_nats", 0, 1)
        and mean("part2.task12.difference.training_gap_nats") > results()["part2.task12.difference.kl_nats.median"] / 2),
    "KDE is closer than the flow on every dataset": lambda: all(
        excludes(f"part2.one_scale.{d}.flow_minus_kde.total_variation", 0, 1) for d in FLOWS),
    "the two do not overlap anywhere": lambda: all(
        results()[f"part2.one_scale.{d}.kde.{m}.max"] < results()[f"part2.task09.{d}.{m}.min"]
        for d in FLOWS for m in ("kl_nats", "total_variation")),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_the_report_says_in_words_is_what_was_measured(claim):
    assert CLAIMS[claim]()


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
    done = make(copied, "submission", f"IDS={ids}")
    assert done.returncode != 0 and "IDS: expected two numbers of nine digits" in done.stderr
    assert not list(copied.glob(f"submission/*_{ids.split(' ')[0]}_*")) or not ids


def test_without_latex_the_report_is_left_alone(copied, tmp_path):
    for program in ("sh", "make", "cp", "mv", "mkdir"):
        (tmp_path / program).symlink_to(shutil.which(program))
    pdf = copied / "report" / f"{NAME}.pdf"
    kept = pdf.exists() and pdf.read_bytes()
    done = make(copied, "report", PATH=str(tmp_path))
    assert done.returncode == 0 and "apt-get install" in done.stdout and "left as it is" in done.stdout, done.stderr
    assert (pdf.exists() and pdf.read_bytes()) == kept


def test_the_animation_moves_and_is_small():
    path = ROOT / "figures" / "flow.gif"
    assert path.stat().st_size < 1.5e6
    with Image.open(path) as picture:
        assert picture.n_frames > 30 and picture.info.get("loop") == 0
