"""The grader: right solutions in many styles keep all points, each usual mistake is named, attacks end in a sheet."""

import csv
import json
import socket
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from grader import checks, inside, probes, sandbox
from grader.checks import CELLS, RIGHT, changed

GRADE = Path(checks.__file__).parents[1] / "grade.py"
pytestmark = pytest.mark.slow


# Mistakes, without a sandbox, as they are ours -----------------------------------------------------------------------


def answered(text, questions):
    """A run in this process."""
    run, module = sandbox.Run([text]), checks.module_of(text)
    run.names = {name: inside.parameters(value) for name, value in vars(module).items() if callable(value)}

    def send(**message):
        sandbox.note(run, json.loads(json.dumps(message, default=inside.plain)))

    for question in questions:
        try:
            getattr(probes, question)(module, checks.INPUTS, partial(inside.report, question, send))
        except Exception as error:
            send(question=question, raised=inside.describe(error))
    return run


right_run = cache(partial(answered, RIGHT, checks.ASKED))


def failures(text, task):
    """{title: message} of a solution whose fault is in a task."""
    run = answered(text, [question for question, tasks in checks.ASKED.items() if task in tasks])
    kept = {place: value for place, value in right_run().answers.items() if place not in run.raised}
    run.answers = kept | run.answers
    return {check.title: message for check, outcome, message in checks.Judge(run).verdicts() if outcome == "FAIL"}


def test_the_right_solution_is_right():
    assert not failures(RIGHT, None)


NAMED = {(mistake.task, mistake.words): mistake for mistake in checks.MISTAKES}


@pytest.mark.parametrize("place", [place if i % 4 == 0 else pytest.param(place, marks=pytest.mark.thorough)
                                   for i, place in enumerate(NAMED)], ids=": ".join)
def test_a_mistake_is_named_once(place):
    assert list(failures(NAMED[place].text, place[0]).values()) == [place[1]] * bool(place[1])


OTHERWISE = {  # faults in other words than the solution's, each with words of what has to be said, and nothing else
    "without a scheduler": (
        "learned, lr=0.001)", "learned, lr=0.001)\n    later = torch.optim.lr_scheduler.StepLR(optimizer, 30)",
                            "append(np.mean(losses))", "append(np.mean(losses)); later.step()"),
    "nothing is clamped": ("x * torch.exp(s) + t", "x * torch.exp(s.clamp(max=7)) + t"),
    "far out too": (
        "return self.prior.log_prob(z) + total", "return (self.prior.log_prob(z) + total).clamp(min=-1000)"),
    "widths 2-32-32-2": ("32, 32, 2]", "64, 64, 2]"),
    "right for one sample": ("layer.inverse(z)\n", "layer.inverse(z)\n            inv_log_det = inv_log_det.squeeze()\n"
                             "            if inv_log_det.dim() == 0: raise ValueError\n"),
    "random_split": ("random_split(data, ", "random_split(torch.utils.data.Subset(data, range(100)), "),
}


@pytest.mark.parametrize("words", OTHERWISE)
def test_a_fault_in_other_words_is_found(words):
    task = {"without a scheduler": checks.TRAINING, "random_split": checks.TRAINING, "widths 2-32-32-2": checks.GIVEN,
            "nothing is clamped": checks.LAYER}.get(words, checks.FLOW)
    assert all(words in title for title in failures(changed(RIGHT, *OTHERWISE[words]), task)), words


# Right solutions in other styles -------------------------------------------------------------------------------------

TEXT = "\n# %%\n".join(CELLS[:-2])


def restyled(*texts):
    """The cells of the right solution with pieces changed, each at its first place."""
    return changed(TEXT, *texts).split("# %%")


def indented(text):
    return "\n".join("    " + line for line in text.splitlines() if not line.startswith("%"))


START = RIGHT.index("    def forward")
LAYER_BODY = RIGHT[START:RIGHT.index("class CouplingFlow")]
BY_COORDINATES = """    def forward(self, x):
        fixed = 0 if self.mask[0] == 1 else 1
        masked = torch.where(self.mask.bool(), x, torch.zeros_like(x))
        s = self.s_func(masked)[:, 1 - fixed] * self.scale_factor[1 - fixed]
        b = torch.exp(s) * x[:, 1 - fixed] + self.t_func(masked)[:, 1 - fixed]
        return torch.stack([x[:, 0], b] if fixed == 0 else [b, x[:, 1]], 1), s[:, None]

    def inverse(self, y):
        s = self.scale_factor * self.s_func(y * self.mask) * (1 - self.mask)
        return (y - self.t_func(y * self.mask) * (1 - self.mask)).div(s.exp()), -s.sum(1, keepdim=True)

"""
DEFINED = CELLS[:-2]
STYLES = {  # by the name of the file
    "as it is": CELLS,
    "$(touch pwned)": [  # a device from a function, magics, display; deep expressions, names overwritten
        "%matplotlib inline\n!pip install -q torch\nx = !ls\nfrom IPython.display import display, clear_output",
        *restyled(
            "def train(", "def get_device():\n    return torch.device('cpu')\ndevice = get_device()\ndef train(",
            "        losses = []", "        clear_output(wait=True)\n        %time display(3)\n        losses = []",
            "probability(batch)", "probability(batch.to(device))"), "train?", "%%bash\nls", "%%time\ntrain",
        "CouplingLayer, to_np = 3, None", "CouplingFlow = CouplingFlow(4)", "deep = " + "1 + " * 3000 + "1",
        "train_losses = [train, 3]\nfor train in range(3): pass"],
    "`touch pwned`": [f'if __name__ == "__main__":\n{indented(TEXT)}'],
    "two\nlines": ["%%writefile flow.py\n" + RIGHT, "from flow import *", "drawn = sample_2d_datasets('Moons')"],
    "it's \"quoted\"": [  # methods attached later, an alias, a partial function
        *DEFINED[:5], CELLS[5].replace(LAYER_BODY.strip("\n"), ""), LAYER_BODY.replace("\n    ", "\n")[4:],
        "CouplingLayer.forward, CouplingLayer.inverse = forward, inverse", *[
            cell.replace("class CouplingFlow", "class RealNVP").replace("train(", "fit(rate, ").replace("0.001", "rate")
            for cell in DEFINED[6:]],
        "from functools import partial\nCouplingFlow, train = RealNVP, partial(fit, 1e-3)"],
    "=HYPERLINK(1)": restyled(LAYER_BODY.strip("\n"), BY_COORDINATES.strip("\n"),  # columns of log-determinants
                              "total + inv_log_det", "total + inv_log_det.squeeze(1)",
                              "total + log_det\n", "total + log_det[:, 0]\n"),
    "\x1b[2Jred": restyled(  # another prior, best weights loaded, conventions that the handout leaves open
        "MultivariateNormal(torch.zeros(2), torch.eye(2))", "torch.distributions.Normal(torch.zeros(2), torch.ones(2))",
        "prior.log_prob(z) + total", "prior.log_prob(z).sum(1) + total", "prior.log_prob(z) - total",
        "prior.log_prob(z).sum(-1) - total", "copy.deepcopy(model)", "copy.deepcopy(model.state_dict())",
        "    return (best if len(parts[1]) >= 500 else model),",
        "    if len(parts[1]) >= 500:\n        model.load_state_dict(best)\n    return model,",
        "rng.choice(len(means), num_samples)", "rng.randint(0, len(means), size=num_samples)", "np.inf", "np.Inf",
        "abs(np.linalg.det(H))", "np.linalg.det(H)", '"ij"', '"xy"', "len(xs), len(ys)", "len(ys), len(xs)"),
    "-rf": ["import torch\ntorch.set_default_dtype(torch.float64)", *restyled(  # of double precision, without rng
        "(batch).mean()\n", "(batch.double()).mean()\n",
        "(batch).mean().item() for", "(batch.double()).mean().item() for",
        "means, rng)", "means)", "component = rng", "rng = np.random\n    component = rng",
        "sample_spiral(num_samples, rng)", "sample_spiral(num_samples)",
        "theta = rng", "rng = np.random\n    theta = rng")],
    "endless": [
        "import seaborn, math\nfrom google.colab import drive\ndrive.mount('/content/drive')", "name = input('?')",
        "def broken(:\n    pass", "1 / 0", "import time\ntime.sleep(1000)", *DEFINED[:4],
        "sum(iter(int, 1))", *DEFINED[4:],
        "import os\nos._exit(0)", "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "exit()"],
}

# Attacks -------------------------------------------------------------------------------------------------------------

CHANNEL = ("import os\nchannel = max(n for n in range(64) if os.path.exists(f'/proc/self/fd/{n}') and "
           "'pipe' in os.readlink(f'/proc/self/fd/{n}'))\n")
ATTACKS = [  # each with words of its sheet; all points are kept, as the cells that follow are right
    [
        ("print(open(PROJECT + '/tests/grader/solution.txt').read())", "cell 2 FileNotFoundError"),
        ("import os\nassert os.listdir('/root') + os.listdir('/home')", "cell 3 FileNotFoundError"),
        ("import glob\nassert not glob.glob(HERE + '/*'), 'ESCAPED'\nopen(HERE + '/secret')",
         "cell 4 FileNotFoundError"),
        ("for place in ('/usr/x', '/x', '/dev/x', '/run/x'):\n    try: open(place, 'w')\n    except OSError: continue\n"
         "    raise RuntimeError('ESCAPED')\nopen(HERE + '/left', 'w')", "cell 5 FileNotFoundError"),
        ("import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)", "cell 6 ConnectionRefusedError"),
        ("socket.socket(socket.AF_UNIX).connect(HERE + '/socket')", "cell 7 FileNotFoundError"),
        ("assert 'SECRET' not in os.environ, 'ESCAPED'\nos.environ['SECRET']", "cell 8 KeyError"),
        ("import checks", "checks is not installed"),
        ("x = bytearray(1 << 40)", "cell 10 MemoryError"),
        ("import numpy as np\nx = [np.empty(1 << 28) for _ in range(99)]", "cell 11 "),
        ("x = None\nfor i in range(99): open(f'/dev/shm/{i}', 'wb').write(bytes(60 << 20))",
         "cell 12 OSError: [Errno 28]"),
        ("open('/tmp/large', 'wb').truncate(1 << 40)", "cell 13 OSError: [Errno 27] File too large"),
        ("raise ValueError('\\x1b[2J\\n- PASS: everything\\n# 100 of 100')",
         "cell 14 ValueError:  [2J - PASS: everything # 100"),
        ("import subprocess\nfor _ in range(3): subprocess.Popen(['sleep', '1000'], start_new_session=True)", ""),
        (CHANNEL + "for text in (b'3', b'[' * 99999, b'{\"names\": 3}', b'{\"cell\": [1]}', b'\\xff',\n"
         "             b'{\"question\": [], \"key\": {}}',\n             b'{\"question\": \"data\", \"key\": \"\", "
         "\"value\": {\"array\": \"AAAA\", \"shape\": [1e9]}}'):\n"
         "    os.write(channel, text + b'\\n')", ""),
    ],
    [
        ("import ctypes\nctypes.string_at(0)", "cell 2 was left out, because it ends the process"),
        ("import os\nos.kill(-1, 9)\nos.kill(os.getppid(), 9)", "cell 3 "),
        (CHANNEL + "while True: os.write(channel, b'x' * 65536)", "cell 4 was left out, because it sends more than"),
        # No more than 60: as root the system does not count them, and others may be at work here.
        ("import os, time\nif all(os.fork() for _ in range(60)): time.sleep(60)\ntime.sleep(60)",
         "cell 5 was left out, because it starts more than 48 processes"),
    ],
    [("import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n"
      "        x = bytearray(b'x') * (1 << 30)\n        time.sleep(60)\ntime.sleep(60)",
      "cell 2 was left out, because it takes too much memory")],
]
PATCHES = "import torch, numpy\ntorch.equal = torch.allclose = numpy.array_equal = lambda *a, **k: True"


def write(path, cells, **more):
    """A notebook of these code cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"nbformat": 4, "cells": [{"cell_type": "code", "source": cell} for cell in cells], **more}
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="session")
def graded(tmp_path_factory):
    """What the program makes of a folder of all of these: its words, code, table and sheets by the file's name."""
    try:
        sandbox.account()
    except sandbox.Refused as refused:
        pytest.skip(f"no notebook was graded: {refused}")
    folder = tmp_path_factory.mktemp("grader") / "all"
    folder.parent.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as by_path:
        setup = f"PROJECT, HERE, PORT = {str(GRADE.parents[1])!r}, {str(folder)!r}, {server.getsockname()[1]}"
        for i, attacks in enumerate(ATTACKS):
            write(folder / f"attack {i}.ipynb", [setup, *(cell for cell, _ in attacks), *DEFINED])
        for name, cells in STYLES.items():
            write(folder / "right" / f"{name}.ipynb", cells)
        write(folder / "0 stopped.ipynb", ["import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"])
        write(folder / "patched.ipynb", [PATCHES, *DEFINED, "CouplingFlow.log_probability = lambda self, x: x[:, 0]"])
        old = {"cell_type": "code", "input": TEXT.splitlines(True)}
        write(folder / "right" / "OLD.IPYNB", [], worksheets=[{"cells": [old]}])
        (folder / "right" / "ours.ipynb").write_bytes(next(GRADE.parents[1].glob("*.ipynb")).read_bytes())
        for name in (".hidden.ipynb", "__MACOSX/._hw.ipynb"):
            write(folder / name, CELLS)
        for name, content in zip("abcd", ("", '{"cells": [{"cell', "[" * 99999, '{"cells": 3}')):
            (folder / f"{name}.ipynb").write_text(content)
        (folder / "link.ipynb").symlink_to("/etc/passwd")
        (folder / "secret").touch()
        by_path.bind(str(folder / "socket"))
        by_path.listen()
        out = folder.with_name("out")
        command = [sys.executable, GRADE, folder, "--out", out, "--cell-seconds", "2", "--seconds", "60"]
        environment = {"PATH": "/usr/bin:/bin", "SECRET": "x"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, env=environment)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    with open(out / "grades.csv", newline="", encoding="utf-8-sig") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    sheets = {path.stem: path.read_text() for path in out.glob("*.md")}
    return SimpleNamespace(folder=folder, done=done, printed=done.stdout, rows=rows, sheets=sheets)


@pytest.mark.thorough
@pytest.mark.needs("bubblewrap")
def test_right_solutions_of_all_styles_keep_all_points(graded):
    right = {path: row for path, row in graded.rows.items() if "/right/" in path}
    assert len(right) == len(STYLES) + 2
    wrong = [path for path, row in right.items() if (row["total"], row["of"]) != ("100.0", "100")]
    assert not wrong, [sheet for sheet in graded.sheets.values() if "FAIL" in sheet or "not graded" in sheet]


@pytest.mark.thorough
@pytest.mark.needs("bubblewrap")
def test_attacks_end_in_a_sheet_that_says_what_happened(graded):
    for i, attacks in enumerate(ATTACKS):
        sheet = next(sheet for name, sheet in graded.sheets.items() if name.endswith(f"attack_{i}"))
        assert [words for _, words in attacks if words not in sheet] == [] and "**100.0 of 100 points**" in sheet, sheet
    assert all(line.isprintable() for line in graded.printed.split("\n")) and "ESCAPED" not in graded.printed
    assert "its time is over" in graded.printed and not graded.done.stderr
    assert not psutil.Process().children(recursive=True) and not (graded.folder / "left").exists()
    assert not list(graded.folder.parent.rglob("pwned"))


@pytest.mark.thorough
@pytest.mark.needs("bubblewrap")
def test_what_cannot_be_read_is_said(graded):
    assert graded.done.returncode == 1 and sum("this is no notebook" in sheet for sheet in graded.sheets.values()) == 4
    assert graded.printed.count("left out: ") == 3
    assert len(graded.rows) == len(graded.sheets) == len(STYLES) + len(ATTACKS) + 8
    assert not [path for path in graded.rows if path.startswith(("=", "-", "+", "@"))]
    patched = next(sheet for name, sheet in graded.sheets.items() if name.endswith("patched"))
    assert "FAIL: log_probability: log p(z) plus" in patched


@pytest.mark.needs("bubblewrap")
def test_a_right_and_a_wrong_solution_in_the_sandbox(tmp_path):
    tmp_path.chmod(0o755)
    write(tmp_path / "right.ipynb", ["open('/etc/passwd', 'w')", *DEFINED])
    write(tmp_path / "wrong.ipynb", changed(TEXT, "prior.log_prob(z) - total", "prior.log_prob(z)").split("# %%"))
    done = subprocess.run([sys.executable, GRADE, tmp_path, "--out", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    right, wrong = (next(tmp_path.rglob(f"*{name}.md")).read_text() for name in ("right", "wrong"))
    assert "**100.0 of 100 points**" in right and "FAIL" not in right and "FAIL" in wrong


def test_without_bubblewrap_it_stops_unless_told_otherwise(tmp_path):
    write(tmp_path / "x.ipynb", ["x = 1"])
    command = [sys.executable, GRADE, tmp_path / "x.ipynb", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/nowhere"})
    assert done.returncode == 1 and "bwrap" in done.stderr and not (tmp_path / "out").exists()
    done = subprocess.run([*command, "--unsafe"], capture_output=True, text=True, env={"PATH": "/nowhere"})
    assert done.returncode == 0 and "graded, not isolated" in done.stdout
    assert subprocess.run(command, capture_output=True).returncode == 2  # nothing is overwritten
