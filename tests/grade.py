"""Grade notebooks of this homework.

For staff: folders are searched for notebooks, and each gets a sheet, also as <name>.md in the output folder, and a row
of grades.csv there. For students: grade your own notebook and read the sheet. It is graded by the handout's names, and
Part I, where the handout fixes none, by these:

    sample_gaussian_mixture(num_samples, sigma, means, rng)    -> (num_samples, 2), sigma a standard deviation
    sample_spiral(num_samples, rng)                            -> (num_samples, 2)
    kernel_density_estimate(x, samples, H)                     (M, 2), (N, 2), (2, 2) -> (M,)

rng is a NumPy generator, of the new or the old kind, and may be left out. A task without these names is not graded.
"""

import argparse
import csv
import json
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from grader import checks, sandbox

WEIGHTS = {  # of the handout's 30 and 70 points; what the handout gives earns nothing
    "samplers": 10, "estimator": 20, "coupling_layer": 35, "coupling_flow": 35, "data": 0, "networks": 0, "training": 0,
}
NOT_GRADED = "Not graded by this program: Part I, Tasks 3 and 4, Part II, Tasks 1-5, 7 and 9-12, plots, the report."


def main():
    options = arguments()
    if not options.unsafe:
        sandbox.account()
    notebooks, left_out = search(options.path)
    for path in left_out:
        print(f"left out: {printable(path)}")
    if not notebooks:
        sys.exit("There is no notebook to grade.")
    options.out.mkdir(parents=True)
    complete, names = True, sheet_names(notebooks)
    with open(options.out / "grades.csv", "w", newline="", encoding="utf-8-sig") as file, \
            ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=[1]) as pool:
        rows = csv.writer(file)
        rows.writerow(["path", *map(checks.TASKS.get, WEIGHTS), "total", "of", "status"])
        work = {pool.submit(grade, path, options): path for path in notebooks}
        for done in as_completed(work):
            path, (points, status, lines) = work[done], done.result()
            complete = complete and not status.startswith("not graded")
            sheet = "\n".join([f"# {printable(path)}", "", *lines]) + "\n"
            (options.out / names[path]).write_text(sheet, encoding="utf-8")
            print(sheet, flush=True)
            rows.writerow([harmless(printable(path)), *points, harmless(printable(status))])
            file.flush()
    print(f"Sheets and grades.csv are in {options.out}.")
    sys.exit(0 if complete else 1)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, folder = parser.add_argument, Path(time.strftime("grades-%Y%m%d-%H%M%S"))
    add("path", nargs="+", type=Path, help="a notebook, or a folder that is searched for notebooks")
    add("--out", type=Path, default=folder, help="a new folder for the sheets")
    add("--seconds", type=float, default=120, help="that a notebook may take in all (default: 120)")
    add("--cell-seconds", type=float, default=5, help="after which a cell is interrupted (default: 5)")
    add("--unsafe", action="store_true", help="without a sandbox: a notebook can then read and write what you can")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"--out: {options.out} exists already")
    return options


def search(paths):
    """Notebooks among some paths and in folders below them, and what is left out: hidden files, links, no files."""
    found, left_out = [], []
    for path in paths:
        for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
            hidden = any(part.startswith(".") for part in each.relative_to(path).parts) or not each.is_file()
            if each == path or each.suffix.lower() == ".ipynb":
                (left_out if each != path and (hidden or each.is_symlink()) else found).append(each)
    return list(dict.fromkeys(found)), left_out


def sheet_names(paths):
    """A file name for each notebook's sheet, after its path, all different."""
    stems = [re.sub(r"[^\w.-]+", "_", str(path.with_suffix("")).lstrip("./"))[-100:] for path in paths]
    return {path: f"{stem}.md" if stem not in stems[:i] else f"{stem}~{i}.md"
            for i, (path, stem) in enumerate(zip(paths, stems))}


def grade(path, options):
    """Points of a notebook (of each task, in total, of how many), its status, and the lines of its sheet."""
    isolation = ", not isolated" if options.unsafe else ""
    try:
        cells = code_cells(path)
        run = sandbox.run(cells, checks.INPUTS, options.seconds, options.cell_seconds, not options.unsafe)
        status = f"not graded: {run['stopped']}{isolation}"
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        run, status = None, f"not graded: this is no notebook ({type(error).__name__}: {error})"
    if not run or "cells" not in run["done"]:
        return [""] * (len(WEIGHTS) + 2), status, [printable(status)]
    lines, points, most, verdicts = [], [], 0, list(checks.verdicts(run))
    for question, weight in WEIGHTS.items():
        said = [verdict for verdict in verdicts if verdict[0].question == question]
        mine = [verdict for verdict in said if verdict[1] != "NOT GRADED"]
        shares = sum(int(check.title[0]) for check, _, _ in mine)
        earned = weight * sum(int(check.title[0]) for check, outcome, _ in mine if outcome == "PASS") / max(shares, 1)
        points.append(round(earned, 1) if mine else "")
        most += weight if mine else 0
        lines += ["", f"## {checks.TASKS[question]}: " + (f"{earned:.1f} of {weight} points" if mine else "not graded")]
        titles = {}  # of the same outcome, for the same reason
        for check, outcome, message in said:
            titles.setdefault((outcome == "PASS", outcome, message), []).append(check.title[2:])
        for (_, outcome, message), same in sorted(titles.items(), key=lambda item: item[0][0]):
            lines.append(f"- {outcome}: {'; '.join(same)}" + (f": **{printable(message)}**" if message else ""))
    total = round(sum(filter(None, points)), 1)
    status = (f"graded in part: {run['stopped']}" if run["stopped"] else "graded") + isolation
    head = [f"**{total} of {most} points**, {printable(status)}", "", NOT_GRADED, *remarks(run, cells)]
    return [*points, total, most, status], status, head + lines


def code_cells(path):
    """The text of each code cell of a notebook, of whatever format."""
    content = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
    cells = [cell for sheet in content.get("worksheets", [content]) for cell in sheet["cells"]]
    texts = [cell.get("source", cell.get("input", "")) for cell in cells if cell["cell_type"] == "code"]
    return [text if isinstance(text, str) else "".join(text) for text in texts]


def remarks(run, cells):
    """Lines about what happened while the cells ran."""
    lines = [f"{name} is not installed here: a stand-in without effect was used" for name in run["stand_in"]]
    if any(re.search(r"\b(np|numpy)\.Inf\b", text) for text in cells):
        lines.append("np.Inf is gone since NumPy 2, and was provided here: write np.inf")
    lines += [f"cell {number} {why}" for number, why in run["failed"].items()]
    return ["", "Remarks:", *(f"- {printable(line)}" for line in lines)] if lines else []


def printable(text):
    """Other people's words on one line, without what a terminal takes for a command."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:1000])


def harmless(text):
    """A cell of a table that no program takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


if __name__ == "__main__":
    main()
