"""The grader: right solutions in many styles keep all points, each usual mistake is named, attacks end in a sheet."""

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from grader import checks, inside
from grader.checks import CELLS, RIGHT, changed

GRADE = Path(checks.__file__).parents[1] / "grade.py"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mistake", [
    pytest.param(mistake, marks=[pytest.mark.thorough] * (i % 4 > 0), id=f"{mistake.subject}: {mistake.words}")
    for i, mistake in enumerate(checks.MISTAKES)])
def test_a_mistake_is_named_once(mistake):
    module, run = checks.module_of(mistake.text), {"answers": {}, "raised": {}, "stopped": ""}
    run["names"] = {name: inside.parameters(value) for name, value in vars(module).items()}
    for question, title, _ in checks.CHECKS:
        inside.report(lambda kind, title, value: run[kind].update({title: value}), title,
                      lambda: checks.asked(question, mistake.text, title)[title])
    said = [message for _, outcome, message in checks.verdicts(run) if outcome == "FAIL"]
    assert said == [mistake.words] * bool(mistake.words)


TEXT = "\n# %%\n".join(CELLS)


def restyled(*texts):
    """The cells of the right solution with pieces changed, each at its first place."""
    return changed(TEXT, *texts).split("# %%")


BODY = RIGHT[RIGHT.index("    def forward"):RIGHT.index("\nclass CouplingFlow")]  # of CouplingLayer
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
    "`touch pwned`": ["if __name__ == '__main__':\n    " + TEXT.replace("\n", "\n    ")],
    "two\nlines": ["%%writefile flow.py\n" + RIGHT, "from flow import *", "drawn = sample_2d_datasets('Moons')"],
    "it's \"quoted\"": [  # methods attached later, an alias, a partial function
        *CELLS[:4], CELLS[4].replace(BODY, ""), BODY.replace("\n    ", "\n")[4:],
        "CouplingLayer.forward, CouplingLayer.inverse = forward, inverse", *[
            cell.replace("class CouplingFlow", "class RealNVP").replace("train(", "fit(rate, ").replace("0.001", "rate")
            for cell in CELLS[5:]],
        "from functools import partial\nCouplingFlow, train = RealNVP, partial(fit, 1e-3)"],
    "=HYPERLINK(1)": restyled(  # columns of log-determinants
        "s.sum(dim=1)", "s.sum(1, keepdim=True)", "-s.sum(dim=1)", "-s.sum(1)[:, None]",
        "total + inv_log_det", "total + inv_log_det.squeeze(1)", "total + log_det\n", "total + log_det[:, 0]\n"),
    "\x1b[2Jred": restyled(  # another prior, best weights loaded, conventions that the handout leaves open
        "MultivariateNormal(torch.zeros(2), torch.eye(2))", "Normal(torch.zeros(2), torch.ones(2))",
        "prior.log_prob(z) + total", "prior.log_prob(z).sum(1) + total", "prior.log_prob(z) - total",
        "prior.log_prob(z).sum(-1) - total", "copy.deepcopy(model)", "copy.deepcopy(model.state_dict())",
        "    return (best if len(parts[1]) >= 500 else model),",
        "    if len(parts[1]) >= 500:\n        model.load_state_dict(best)\n    return model,", "np.inf", "np.Inf",
        "rng.choice(len(means), num_samples)", "rng.randint(0, len(means), size=num_samples)", "abs(np.", "(np."),
    "-rf": ["import torch\ntorch.set_default_dtype(torch.float64)", *restyled(  # of double precision, without rng
        "(batch).mean()\n", "(batch.double()).mean()\n", "(batch).mean().item()", "(batch.double()).mean().item()",
        "means, rng)", "means)", "component = rng", "rng = np.random\n    component = rng",
        "sample_spiral(num_samples, rng)", "sample_spiral(num_samples)", "theta = rng", "theta = np.random",
        "+ rng", "+ np.random")],
    "endless": [
        "import seaborn, math\nfrom google.colab import drive\ndrive.mount('/content/drive')", "name = input('?')",
        "def broken(:\n    pass", "1 / 0", "import time\ntime.sleep(1000)", *CELLS[:4], "sum(iter(int, 1))", *CELLS[4:],
        "import os\nos._exit(0)", "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "exit()"],
}
CHANNEL = ("import os\nchannel = max(n for n in range(64) if os.path.exists(f'/proc/self/fd/{n}') and "
           "'(deleted)' in os.readlink(f'/proc/self/fd/{n}'))\n")
ATTACKS = [  # cells, each with words of the sheet; all points are kept, as the cells that follow are right
    {
        "print(open(PROJECT + '/tests/grader/solution.txt').read())": "cell 2 FileNotFoundError",
        "import os\nassert os.listdir('/root') + os.listdir('/home')": "cell 3 FileNotFoundError",
        "import glob\nassert not glob.glob(HERE + '/*'), 'ESCAPED'\nopen(HERE + '/secret')": "cell 4 FileNotFoundError",
        "for place in ('/usr/x', '/x', '/dev/x', '/run/x'):\n    try: open(place, 'w')\n    except OSError: continue\n"
        "    raise RuntimeError('ESCAPED')\nopen(HERE + '/left', 'w')": "cell 5 FileNotFoundError",
        "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)": "cell 6 ConnectionRefusedError",
        "socket.socket(socket.AF_UNIX).connect(HERE + '/socket')": "cell 7 FileNotFoundError",
        "assert 'SECRET' not in os.environ, 'ESCAPED'\nos.environ['SECRET']": "cell 8 KeyError",
        "import checks": "checks is not installed",
        "x = bytearray(1 << 40)": "cell 10 MemoryError",
        "import numpy as np\nx = [np.empty(1 << 28) for _ in range(99)]": "cell 11 ",
        "for i in range(9): open(f'/dev/shm/{i}', 'wb').write(bytes(60 << 20))": "cell 12 OSError: [Errno 28]",
        "open('/tmp/large', 'wb').truncate(1 << 40)": "cell 13 OSError: [Errno 27] File too large",
        "raise ValueError('\\x1b[2J\\n- PASS: all\\n# 100 of 100')": "cell 14 ValueError:  [2J - PASS: all # 100",
        "import subprocess\nfor _ in range(3): subprocess.Popen(['sleep', '1000'], start_new_session=True)": "",
        CHANNEL + "for text in (b'3', b'[' * 99999, b'\\xff', b'[\"cell\", [1], 2]', b'[\"names\", 3, 4]',\n"
        "             b'[\"answers\", \"x\", {\"x\": NaN}]'):\n    os.write(channel, text + b'\\n')": "",
    }, {
        "import ctypes\nctypes.string_at(0)": "cell 2 was left out, because it ends the process",
        "import os\nos.kill(-1, 9)\nos.kill(os.getppid(), 9)": "cell 3 ",
        CHANNEL + "while True: os.write(channel, b'x' * 65536)": "cell 4 was left out, because it sends more than",
        # No more than 60: as root the system does not count them, and others may be at work here.
        "import os, time\nif all(os.fork() for _ in range(60)): time.sleep(60)\ntime.sleep(60)":
        "cell 5 was left out, because it starts more than 48 processes",
    }, {
        "import os, signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "for _ in range(20):\n    if os.fork() == 0:\n        x = bytearray(b'x') * (1 << 30)\n"
        "        time.sleep(60)\ntime.sleep(60)": "cell 2 was left out, because it takes too much memory",
    }, {
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)": "cell 2: its time is over",
    },
]
PATCHES = "import torch, numpy\ntorch.equal = torch.allclose = numpy.array_equal = lambda *a, **k: True"


def write(path, cells, **more):
    """A notebook of these code cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"nbformat": 4, "cells": [{"cell_type": "code", "source": cell} for cell in cells], **more}
    path.write_text(json.dumps(content), encoding="utf-8")


def graded(place, path, *options, **environment):
    """What the program says of a path, its code, and the rows of its table by path."""
    place.chmod(0o755)
    command = [sys.executable, GRADE, path, "--out", place / "out", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place,
                          env={"PATH": "/usr/bin:/bin", "SECRET": "x", **environment})
    if (place / "out").exists():
        table = (place / "out" / "grades.csv").read_text(encoding="utf-8-sig")
        done.rows = {row["path"]: row for row in csv.DictReader(table.splitlines())}
    return done


@pytest.mark.thorough
@pytest.mark.needs("bubblewrap")
def test_all_at_once(tmp_path):
    """Right solutions keep all points, attacks end in a sheet that says what happened, what cannot be read is said."""
    folder, out = tmp_path / "all", tmp_path / "out"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as by_path:
        setup = f"PROJECT, HERE, PORT = {str(GRADE.parents[1])!r}, {str(folder)!r}, {server.getsockname()[1]}"
        for i, attacks in enumerate(ATTACKS):
            write(folder / f"attack {i}.ipynb", [setup, *attacks, *CELLS])
        for name, cells in STYLES.items():
            write(folder / "right" / f"{name}.ipynb", cells)
        write(folder / "patched.ipynb", [PATCHES, *CELLS, "CouplingFlow.log_probability = lambda self, x: x[:, 0]"])
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
        done = graded(tmp_path, folder, "--cell-seconds", "4", "--seconds", "100")
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    sheets = {path.stem.rpartition("_all_")[2]: path.read_text() for path in out.glob("*.md")}
    right = {name: sheet for name, sheet in sheets.items() if name.startswith("right_")}
    wrong = [sheet for sheet in right.values() if "**100.0 of 100 points**" not in sheet or "- FAIL" in sheet]
    assert not wrong and len(right) == len(STYLES) + 2, wrong
    for i, attacks in enumerate(ATTACKS):
        assert [words for words in attacks.values() if words not in sheets[f"attack_{i}"]] == [], sheets[f"attack_{i}"]
        assert "**100.0 of 100 points**" in sheets[f"attack_{i}"] or attacks == ATTACKS[-1]
    assert all(line.isprintable() for line in done.stdout.split("\n")) and "ESCAPED" not in done.stdout + done.stderr
    assert not psutil.Process().children(recursive=True) and not [*tmp_path.rglob("pwned"), *tmp_path.rglob("left")]
    assert done.returncode == 1 and sum("this is no notebook" in sheet for sheet in sheets.values()) == 4
    assert done.stdout.count("left out: ") == 3 and not [path for path in done.rows if path[0] in "=-+@"]
    assert len(done.rows) == len(sheets) == len(STYLES) + len(ATTACKS) + 7
    assert "FAIL: log_probability: log p(z) plus" in sheets["patched"]


@pytest.mark.needs("bubblewrap")
def test_a_right_and_a_wrong_solution_in_the_sandbox(tmp_path):
    write(tmp_path / "right.ipynb", ["open('/etc/passwd', 'w')", *CELLS])
    write(tmp_path / "wrong.ipynb", restyled("prior.log_prob(z) - total", "prior.log_prob(z)"))
    done = graded(tmp_path, tmp_path)
    assert [row["total"] for _, row in sorted(done.rows.items())] == ["100.0", "94.5"], done.stdout + done.stderr


def test_without_bubblewrap_it_stops_unless_told_otherwise(tmp_path):
    write(tmp_path / "x.ipynb", ["x = 1"])
    done = graded(tmp_path, tmp_path, PATH="/nowhere")
    assert done.returncode == 1 and "bwrap" in done.stderr and not (tmp_path / "out").exists()
    done = graded(tmp_path, tmp_path, "--unsafe", PATH="/nowhere")
    assert done.returncode == 0 and "graded, not isolated" in done.stdout
    assert graded(tmp_path, tmp_path).returncode == 2  # nothing is overwritten
