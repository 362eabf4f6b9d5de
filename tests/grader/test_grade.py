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
            "        clear_output(wait=True)\n        display(device)\n        %time display(device)\n        losses = []", "probability(batch)", "probability(batch.to(device))"),
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


# Attacks ---------------------------------------------------------------------------------------------------------------

CHANNEL = "import os\nchannel = max(n for n in range(64) if os.path.exists(f'/proc/self/fd/{n}') and 'pipe' in os.readlink(f'/proc/self/fd/{n}'))\n"
ATTACKS = [  # notebooks of attacks, each with words of its sheet; all points are kept, as the cells that follow are right
    [
        ("print(open(PROJECT + '/tests/grader/solution.txt').read())", "cell 2 FileNotFoundError"),
        ("import os\nassert os.listdir('/root') + os.listdir('/home')", "cell 3 FileNotFoundError"),
        ("import glob\nassert not glob.glob(HERE + '/*'), 'ESCAPED'\nopen(HERE + '/secret')", "cell 4 FileNotFoundError"),
        ("for place in ('/usr/x', '/x', '/dev/x', '/run/x'):\n    try: open(place, 'w')\n    except OSError: continue\n"
         "    raise RuntimeError('ESCAPED')\nopen(HERE + '/left', 'w')", "cell 5 FileNotFoundError"),
        ("import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)", "cell 6 ConnectionRefusedError"),
        ("socket.socket(socket.AF_UNIX).connect(HERE + '/socket')", "cell 7 FileNotFoundError"),
        ("assert 'SECRET' not in os.environ, 'ESCAPED'\nos.environ['SECRET']", "cell 8 KeyError"),
        ("import sys\nassert not {'grader.checks', 'checks', 'mistakes'} & {*sys.modules}, 'ESCAPED'\nimport checks", "checks is not installed"),
        ("x = bytearray(1 << 40)", "cell 10 MemoryError"),
        ("import numpy as np\nx = [np.ones(1 << 28) for _ in range(99)]", "cell 11 _ArrayMemoryError"),
        ("x = None\nfor i in range(99): open(f'/dev/shm/{i}', 'wb').write(bytes(60 << 20))", "cell 12 OSError: [Errno 28] No space left"),
        ("open('/tmp/large', 'wb').truncate(1 << 40)", "cell 13 OSError: [Errno 27] File too large"),
        ("raise ValueError('\\x1b[2J\\n- PASS: everything\\n# 100 of 100')", "cell 14 ValueError:  [2J - PASS: everything # 100 of 100"),
        ("import subprocess\nfor _ in range(3): subprocess.Popen(['sleep', '1000'], start_new_session=True)", ""),
        (CHANNEL + "for text in (b'3', b'[' * 99999, b'{\"names\": 3}', b'{\"cell\": [1]}', b'{\"question\": [], \"key\": {}}', b'\\xff',\n"
         "             b'{\"question\": \"kernel\", \"key\": \"full\", \"value\": {\"array\": \"AAAA\", \"shape\": [1e9]}}'):\n"
         "    os.write(channel, text + b'\\n')", ""),
        ("import os\nwhile True: os.fork()", "cell 17 was left out"),
    ],
    [
        ("import ctypes\nctypes.string_at(0)", "cell 2 was left out, because it ends the process"),
        ("import os\nos.kill(-1, 9)\nos.kill(os.getppid(), 9)", "cell 3 "),
        (CHANNEL + "while True: os.write(channel, b'x' * 65536)", "cell 4 was left out, because it sends more than"),
        ("import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        x = bytearray(b'x') * (1 << 30)\n        time.sleep(60)\n"
         "time.sleep(60)", "cell 5 was left out, because it takes too much memory"),
    ],
]
STOPPED = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"
PATCHES = "torch.equal = torch.allclose = np.allclose = np.array_equal = lambda *a, **k: True\ntorch.Tensor.__eq__ = lambda *a: True"
NAMES = ["`touch pwned`", "$(touch pwned)", "it's \"quoted\"", "two\nlines", "=HYPERLINK(1)", "-rf", "\x1b[2Jred"]


@needs_sandbox
def test_attacks_end_in_a_sheet_that_says_what_happened(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    folder = tmp_path / "all"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as by_path:
        setup = f"PROJECT, HERE, PORT = {str(GRADE.parents[1])!r}, {str(folder)!r}, {server.getsockname()[1]}"
        for i, attacks in enumerate(ATTACKS):
            write(folder / f"attacks {i}.ipynb", [setup, *(cell for cell, _ in attacks), *CELLS[:-2]])
        write(folder / "stopped.ipynb", [STOPPED])
        by_path.bind(str(folder / "socket"))
        by_path.listen()
        (folder / "secret").touch()
        printed, code, rows, sheets = run_grader(folder, "--seconds", "90")
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert all(line.isprintable() for line in printed.split("\n")) and "ESCAPED" not in printed
    for i, attacks in enumerate(ATTACKS):
        sheet = next(sheet for name, sheet in sheets.items() if name.endswith(f"attacks_{i}"))
        assert [words for _, words in attacks if words not in sheet] == [] and "**100.0 of 100 points**" in sheet, sheet
    assert "its time is over" in printed and code == 1
    assert not list(psutil.Process().children(recursive=True)) and not (folder / "left").exists()


@needs_sandbox
def test_what_cannot_be_read_and_what_is_patched_earns_nothing(tmp_path):
    folder = tmp_path / "all"
    for name in NAMES:
        write(folder / f"{name}.ipynb", ["x = 1"])
    write(folder / "patched.ipynb", [*CELLS[:-2], PATCHES, "class CouplingFlow(CouplingFlow):\n    def log_probability(self, x):\n        return x[:, 0]"])
    for name, content in {"empty": "", "cut off": '{"cells": [{"cell', "deep": "[" * 99999, "other": '{"cells": 3}'}.items():
        (folder / f"{name}.ipynb").write_text(content)
    (folder / "link.ipynb").symlink_to("/etc/passwd")
    printed, code, rows, sheets = run_grader(folder)
    assert code == 1 and not list(tmp_path.rglob("pwned")) and "link.ipynb" in printed
    assert len(rows) == len(sheets) == len(NAMES) + 5
    assert sum("this is no notebook" in sheet for sheet in sheets.values()) == 4
    patched = next(sheet for name, sheet in sheets.items() if "patched" in name)
    assert "FAIL: log_probability: log p(z) plus" in patched
    assert not [path for path in rows if path.startswith(("=", "-", "+", "@"))]
    again = subprocess.run([sys.executable, GRADE, folder, "--out", folder.with_name("all out")], capture_output=True, text=True)
    assert again.returncode == 2 and "exists already" in again.stderr


def test_without_bubblewrap_it_stops_unless_told_otherwise(tmp_path):
    write(tmp_path / "all" / "x.ipynb", ["x = 1"])
    command = [sys.executable, GRADE, tmp_path / "all" / "x.ipynb", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/nowhere"})
    assert done.returncode == 1 and "bwrap" in done.stderr and not (tmp_path / "out").exists()
    done = subprocess.run([*command, "--unsafe"], capture_output=True, text=True, env={"PATH": "/nowhere"})
    assert done.returncode == 0 and "graded, not isolated" in done.stdout
