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

from grader import checks, sandbox

TASKS = {  # by question: its title, and its share of the handout's 30 and 70 points; what is given earns nothing
    "samplers": ("Part I, Task 1 (samplers)", 10), "estimator": ("Part I, Task 2 (estimator)", 20),
    "coupling_layer": ("Part II, Task 6 (coupling layer)", 35),
    "coupling_flow": ("Part II, Task 8 (coupling flow)", 35), "data": ("Given code (data)", 0),
    "networks": ("Given code (networks, prior)", 0), "training": ("Given code (training)", 0),
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
    names = sheet_names(notebooks)
    with open(options.out / "grades.csv", "w", newline="", encoding="utf-8-sig") as file, ProcessPoolExecutor() as pool:
        table = csv.DictWriter(file, ["path", *(title for title, _ in TASKS.values()), "total", "of", "status"])
        table.writeheader()
        work = {pool.submit(grade, path, options): path for path in notebooks}
        for done in as_completed(work):
            path, (row, lines) = work[done], done.result()
            sheet = "\n".join([f"# {printable(path)}", "", *lines]) + "\n"
            (options.out / names[path]).write_text(sheet, encoding="utf-8")
            print(sheet, flush=True)
            table.writerow({**row, "path": harmless(printable(path)), "status": harmless(printable(row["status"]))})
            file.flush()
    print(f"Sheets and grades.csv are in {options.out}.")
    sys.exit(0 if all("total" in done.result()[0] for done in work) else 1)


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
        for each in sorted(path.rglob("*.[iI][pP][yY][nN][bB]")) if path.is_dir() else [path]:
            hidden = each.is_symlink() or not each.is_file() or re.search(r"(^|/)\.", str(each.relative_to(path)))
            (left_out if hidden and each != path else found).append(each)
    return list(dict.fromkeys(found)), left_out


def sheet_names(paths):
    """A file name for each notebook's sheet, after its path, all different."""
    stems = [re.sub(r"[^\w.-]+", "_", str(path.with_suffix("")).lstrip("./"))[-100:] for path in paths]
    return {path: f"{stem}.md" if stem not in stems[:i] else f"{stem}~{i}.md"
            for i, (path, stem) in enumerate(zip(paths, stems))}


def grade(path, options):
    """A notebook's row in the table: points of each task, in total, of how many, status; and the lines of its sheet."""
    isolation, run = ", not isolated" if options.unsafe else "", None
    try:
        run = sandbox.run(code_cells(path), checks.INPUTS, options.seconds, options.cell_seconds, not options.unsafe)
        status = f"not graded: {run['stopped']}{isolation}"
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        status = f"not graded: this is no notebook ({type(error).__name__}: {error})"
    if not run or "cells" not in run["done"]:
        return {"status": status}, [printable(status)]
    points, of, lines, verdicts = {}, 0, [], list(checks.verdicts(run))
    for question, (title, weight) in TASKS.items():
        said = [verdict for verdict in verdicts if verdict[0].question == question]
        shares = [(int(check.title[0]), outcome == "PASS") for check, outcome, _ in said if outcome != "NOT GRADED"]
        if shares:
            earned = weight * sum(share for share, right in shares if right) / sum(share for share, _ in shares)
            points[title], of = round(earned, 1), of + weight
        lines += ["", f"## {title}: " + (f"{points[title]:.1f} of {weight} points" if shares else "not graded")]
        titles = {}  # of the same outcome, for the same reason
        for check, outcome, message in sorted(said, key=lambda verdict: verdict[1] == "PASS"):
            titles.setdefault((outcome, message), []).append(check.title[2:])
        for (outcome, message), same in titles.items():
            lines.append(f"- {outcome}: {'; '.join(same)}" + (f": **{printable(message)}**" if message else ""))
    total = round(sum(points.values()), 1)
    status = (f"graded in part: {run['stopped']}" if run["stopped"] else "graded") + isolation
    head = [f"**{total} of {of} points**, {printable(status)}", "", NOT_GRADED]
    head += ["", "Remarks:", *(f"- {printable(line)}" for line in run["remarks"].values())] if run["remarks"] else []
    return {**points, "total": total, "of": of, "status": status}, head + lines


def code_cells(path):
    """The text of each code cell of a notebook, of whatever format."""
    content = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
    cells = [cell for sheet in content.get("worksheets", [content]) for cell in sheet["cells"]]
    return ["".join(cell.get("source", cell.get("input", ""))) for cell in cells if cell["cell_type"] == "code"]


def printable(text):
    """Other people's words on one line, without what a terminal takes for a command."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:1000])


def harmless(text):
    """A cell of a table that no program takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


if __name__ == "__main__":
    main()
