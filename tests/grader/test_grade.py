"""The grader: right solutions in many styles keep all points, each usual mistake is named, and attacks end in a sheet."""

import csv
import json
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from grader import checks, inside, probes, sandbox
from grader.mistakes import ALL, FLOW, LAYER, changed

GRADE = Path(checks.__file__).parents[1] / "grade.py"
OURS = GRADE.parents[1] / "ee048954_hw1.ipynb"
CELLS = checks.SOLUTION.split("# %%")[1:]
try:
    sandbox.check()
    REFUSED = ""
except sandbox.Refused as refused:
    REFUSED = str(refused)
needs_sandbox = pytest.mark.skipif(bool(REFUSED), reason=f"no notebook was graded: {REFUSED}")
pytestmark = pytest.mark.slow


# Mistakes, without a sandbox, as they are ours -------------------------------------------------------------------------

QUESTIONS = {  # by the beginning of a task
    "Part I,": (probes.mixture, probes.spiral, probes.kernel), LAYER: (probes.coupling_layer,), FLOW: (probes.coupling_flow,),
    "Given code (d": (probes.data, probes.networks, probes.coupling_layer, probes.coupling_flow), "Given code (t": (probes.training,),
}


def answered(text, questions):
    """A run in this process."""
    run, module = sandbox.Run(), checks.module_of(text)
    run.cells, run.done = [text], True
    run.names = {name: inside.parameters(value) for name, value in vars(module).items() if callable(value)}

    def send(**message):
        sandbox.note(run, json.loads(json.dumps(message, default=inside.plain)))

    for question in questions:
        question(module, checks.INPUTS, partial(inside.report, question.__name__, send))
    return run


@pytest.fixture(scope="module")
def right():
    return answered(checks.RIGHT, probes.QUESTIONS)


def failures(run):
    return {check.title: message for check, outcome, message in checks.Judge(run).verdicts() if outcome == "FAIL"}


def test_the_right_solution_is_right(right):
    assert not failures(right)


@pytest.mark.parametrize("mistake", ALL, ids=[f"{task}: {words or 'as good'}" for task, words, *_ in ALL])
def test_a_mistake_is_named_once(mistake, right):
    task, words, *texts = mistake
    run = answered(changed(checks.RIGHT, *texts), next(asked for start, asked in QUESTIONS.items() if task.startswith(start)))
    run.answers = right.answers | run.answers
    assert list(failures(run).values()) == [words] * bool(words)


# Right solutions in other styles ---------------------------------------------------------------------------------------

TEXT = "# %%".join(["", *CELLS])


def restyled(*texts, text=TEXT):
    """The cells of the right solution with pieces changed, each at its first place."""
    return changed(text, "", *texts).split("# %%")[1:]


def indented(text):
    return "\n".join("    " + line for line in text.splitlines() if not line.startswith("%"))


LAYER_BODY = checks.RIGHT[checks.RIGHT.index("    def forward"):checks.RIGHT.index("# %%\nclass CouplingFlow")]
BY_COORDINATES = """    def forward(self, x):
        fixed = 0 if self.mask[0] == 1 else 1
        a, b = x[:, fixed], x[:, 1 - fixed]
        masked = torch.where(self.mask.bool(), x, torch.zeros_like(x))
        s = self.s_func(masked)[:, 1 - fixed] * self.scale_factor[1 - fixed]
        b = torch.exp(s) * b + self.t_func(masked)[:, 1 - fixed]
        return torch.stack([a, b] if fixed == 0 else [b, a], 1), s[:, None]

    def inverse(self, y):
        s = self.scale_factor * self.s_func(y * self.mask) * (1 - self.mask)
        t = self.t_func(y * self.mask) * (1 - self.mask)
        return (y - t).div(s.exp()), -s.sum(1, keepdim=True)


"""
COLUMNS = ("total + inv_log_det", "total + inv_log_det.squeeze(1)", "total + log_det\n", "total + log_det[:, 0]\n")
NORMAL = ("MultivariateNormal(torch.zeros(2), torch.eye(2))", "torch.distributions.Normal(torch.zeros(2), torch.ones(2))",
          "prior.log_prob(z) + total", "prior.log_prob(z).sum(1) + total", "prior.log_prob(z) - total", "prior.log_prob(z).sum(-1) - total")
STATE = ("best = score, copy.deepcopy(model)", "best = score, copy.deepcopy(model.state_dict())",
         "    return (best if len(valid_part) >= 500 else model),", "    if len(valid_part) >= 500:\n        model.load_state_dict(best)\n    return model,")
STYLES = {
    "as it is": CELLS,
    "device from a function, magics, display": [
        "%matplotlib inline\n!pip install -q torch\nx = !ls\nfrom IPython.display import display, clear_output", *restyled(
            "def train(", "def get_device():\n    return torch.device('cpu')\ndevice = get_device()\ndef train(", "        losses = []",
            "        clear_output(wait=True)\n        display(device)\n        %time losses = []", "probability(batch)", "probability(batch.to(device))"),
        "train?", "%%bash\nls", "%%time\ntrain"],
    "under __main__": [f'if __name__ == "__main__":\n{indented(TEXT)}'],
    "a module written by a cell": ["%%writefile flow.py\n" + checks.RIGHT, "from flow import *", "drawn = sample_2d_datasets('Moons')"],
    "methods attached later": ["\n".join([*CELLS[:5], CELLS[5].replace(LAYER_BODY, "")]), LAYER_BODY.replace("\n    ", "\n")[4:],
                               "CouplingLayer.forward, CouplingLayer.inverse = forward, inverse", *CELLS[6:]],
    "aliases and partial": [*restyled("class CouplingFlow", "class RealNVP", "def train(", "def fit(rate, ", "lr=0.001", "lr=rate")[:-2],
                            "from functools import partial\nCouplingFlow, train = RealNVP, partial(fit, 1e-3)"],
    "by coordinates, columns": restyled(LAYER_BODY, BY_COORDINATES, *COLUMNS),
    "best weights loaded, normal prior": restyled(*STATE, *NORMAL),
    "np.Inf, det of either sign, old generator, xy": restyled(
        "np.inf", "np.Inf", "abs(np.linalg.det(H))", "np.linalg.det(H)", "rng.choice(len(means), num_samples)",
        "rng.randint(0, len(means), size=num_samples)", '"ij"', '"xy"', "(len(xs), len(ys))", "(len(ys), len(xs))"),
    "float64": ["import torch\ntorch.set_default_dtype(torch.float64)", *restyled("(batch).mean()\n", "(batch.double()).mean()\n", "(batch).mean().item() for", "(batch.double()).mean().item() for")],
    "names overwritten, deep expressions": [*CELLS, "CouplingLayer, to_np = 3, None", "CouplingFlow = CouplingFlow(4)", "deep = " + "1 + " * 3000 + "1",
                                            "train_losses = [train, 3]\nfor train in range(3): pass"],
    "not installed, cells that fail": ["import seaborn as sns, math\nfrom google.colab import drive\ndrive.mount('/content/drive')", "input()",
                                       "name = input('?')", "def broken(:\n    pass", "1 / 0", *CELLS, "exit()", "raise SystemExit"],
    "cells that do not end": ["while True: pass", "import time\ntime.sleep(1000)", *CELLS[:4], "sum(iter(int, 1))", *CELLS[4:],
                              "import os\nos._exit(0)", "while True:\n    try:\n        while True: pass\n    except BaseException: pass"],
    "no rng, other order": restyled("num_samples, sigma, means, rng)", "means, sigma, num_samples)", "component = rng", "rng = np.random\n    component = rng",
                                    "sample_spiral(num_samples, rng)", "sample_spiral(num_samples)", "theta = rng", "rng = np.random\n    theta = rng"),
}


def write(path, cells, **more):
    """A notebook of these code cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"nbformat": 4, "cells": [{"cell_type": "code", "source": cell} for cell in cells], **more}
    path.write_text(json.dumps(content), encoding="utf-8")


def run_grader(folder, *options):
    """What the program prints of the notebooks in a folder, its exit code, and rows of its table by the path."""
    out = folder.with_name(f"{folder.name} out")
    command = [sys.executable, GRADE, folder, "--out", out, "--cell-seconds", "3", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent)
    assert not done.stderr, done.stderr
    with open(out / "grades.csv", newline="", encoding="utf-8-sig") as file:
        rows = {row.pop("path"): row for row in csv.DictReader(file)}
    return done.stdout, done.returncode, rows, {path.stem: path.read_text() for path in out.glob("*.md")}


@needs_sandbox
def test_right_solutions_of_all_styles_keep_all_points(tmp_path):
    for i, cells in enumerate(STYLES.values()):
        write(tmp_path / "all" / f"student {i}" / "hw.ipynb", cells)
    write(tmp_path / "all" / "OLD.IPYNB", [], worksheets=[{"cells": [{"cell_type": "code", "input": CELLS}]}])
    (tmp_path / "all" / "ours.ipynb").write_bytes(OURS.read_bytes())
    for name in (".hidden.ipynb", "__MACOSX/._hw.ipynb"):
        write(tmp_path / "all" / name, CELLS)
    printed, code, rows, _ = run_grader(tmp_path / "all")
    wrong = {name: row for name, row in rows.items() if (row["total"], row["of"]) != ("100.0", "100")}
    assert not wrong, printed
    assert code == 0 and len(rows) == len(STYLES) + 2 and printed.count("left out: ") == 2
