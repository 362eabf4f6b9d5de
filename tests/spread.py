"""Measure how far rounding moves the notebook's results, and keep the table: python tests/spread.py

Runs the notebook under CONDITIONS that change nothing but rounding, in .build/spread/, and compares each run with what
is committed. tests/spread.csv keeps, for each kind of result, the largest movement under each condition, and what
test_reexecution.py allows: MARGIN times the largest of all. tests/spread.tex has the largest of each for the report.
"""

import csv
import json
import math
import re
import shutil

import numpy as np

from conclusions import claims, verdicts
from notebook import NOTEBOOK, ROOT, execute_alone

TABLE, MACROS = ROOT / "tests" / "spread.csv", ROOT / "tests" / "spread.tex"
MARGIN = 2
ROUNDING = 1e-6  # the least that is allowed

CONDITIONS = {
    "2 threads": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
    "1 thread": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    "torch without vectors": {"ATEN_CPU_CAPABILITY": "default"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "both": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
    "OpenBLAS without AVX": {"OPENBLAS_CORETYPE": "Nehalem"},
}

RUN, OVER_RUNS = r"(own\.{0}|{0}\.replicas)", r"{0}\.(mean|median)"
FLOWS = r"part2\.task\d+\w*\.\w+\."
KINDS = [  # (kind of result, pattern of its keys, whether a second execution is held to it)
    ("what does not train, relative", r"part1\..*|part2\.one_scale\.\w+\.kde\..*", True),
    ("total variation, one run", FLOWS + RUN.format("total_variation"), True),
    ("total variation, mean or median", FLOWS + OVER_RUNS.format("total_variation"), True),
    ("total variation, mean difference", r"part2\.task\d+\w*\.difference\.total_variation\.mean", True),
    ("gap on training data, one run (nats)", FLOWS + RUN.format("training_gap_nats"), True),
    ("gap on training data, mean or median (nats)", FLOWS + OVER_RUNS.format("training_gap_nats"), True),
    ("KL, median (nats)", FLOWS + r"kl_nats\.median", True),
    ("overfitting, median (nats)", FLOWS + r"overfitting_nats\.median", True),
    ("stray mass, mean or median", FLOWS + OVER_RUNS.format("stray_mass"), True),
    ("mass in the window", r"part2\.task09\.\w+\.mass_in_window", True),
    ("KL, ratio of two arms", r"part2\.task\d+\w*\.kl_ratio\.median", False),
    ("KL, one run (nats)", FLOWS + RUN.format("kl_nats"), False),
    ("KL, mean (nats)", FLOWS + r"kl_nats\.mean", False),
]


def movement(key, one, other):
    """The largest distance between two values of a key, relative where nothing trains."""
    one, other = np.asarray(one), np.asarray(other)
    relative = re.fullmatch(KINDS[0][1], key)
    return float(np.max(np.abs(one - other) / (np.maximum(np.abs(one), 1e-12) if relative else 1)))


def movements(kind, committed, again):
    """{key: movement} of all keys of a kind."""
    pattern = next(pattern for name, pattern, _ in KINDS if name == kind)
    return {key: movement(key, value, again[key]) for key, value in committed.items() if re.fullmatch(pattern, key)}


def allowed():
    """{kind: the movement that a second execution may show}, from the table."""
    with TABLE.open(newline="") as file:
        return {row["result"]: float(row["allowed"]) for row in csv.DictReader(file) if row["allowed"]}


def round_up(value):
    """One significant digit, never less than `value`."""
    step = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / step) * step:.0e}")


def read_results(folder):
    return json.loads((folder / "figures" / "results.json").read_text())


def run(condition):
    """The folder of the notebook executed under a condition, from an earlier call if the notebook is the same."""
    folder = ROOT / ".build" / "spread" / condition.replace(" ", "_")
    finished = (folder / "executed.ipynb").exists() and (folder / NOTEBOOK.name).read_bytes() == NOTEBOOK.read_bytes()
    if not finished:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        execute_alone(folder, **CONDITIONS[condition])
    return folder


def differences(folder):
    """The conclusions of a run that are not those of the committed notebook."""
    said = zip(verdicts(NOTEBOOK), verdicts(folder / "executed.ipynb"), strict=True)
    return ([f"committed: {ours}; here: {theirs}" for ours, theirs in said if ours != theirs]
            + [f"does not hold: {claim}" for claim, holds in claims(read_results(folder)).items() if not holds])


def write_macros(largest):
    """The largest movement of each kind as \\result{spread.kind}, with underscores for what is no letter."""
    keys = {re.sub(r"\W+", "_", kind).strip("_"): f"{value:.3f}" for kind, value in largest.items()}
    lines = [rf"\expandafter\def\csname result:spread.{key}\endcsname{{{text}}}" for key, text in keys.items()]
    MACROS.write_text("\n".join(lines) + "\n")


def main():
    committed, folders, largest = read_results(ROOT), {}, {}
    for condition in CONDITIONS:
        print(condition, flush=True)
        folders[condition] = run(condition)
    again = {condition: read_results(folder) for condition, folder in folders.items()}
    rows = []
    for kind, _, held in KINDS:
        moved = {condition: max(movements(kind, committed, values).values()) for condition, values in again.items()}
        largest[kind] = max(moved.values())
        limit = max(ROUNDING, round_up(MARGIN * largest[kind])) if held else ""
        rows.append({"result": kind, **{condition: f"{value:.2g}" for condition, value in moved.items()}, "allowed": limit})
    write_macros(largest)
    differ = {condition: differences(folder) for condition, folder in folders.items()}
    counts = {condition: len(found) for condition, found in differ.items()}
    rows.append({"result": "conclusions that differ", **counts, "allowed": 0})
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for condition, found in differ.items():
        print(*(f"{condition}: {difference}" for difference in found), sep="\n", end="\n" * bool(found))


if __name__ == "__main__":
    main()
