"""The grader loads solutions of any style, and none can fool or harm it."""

import csv
import json
import socket
import subprocess
import sys
from contextlib import closing

import psutil
import pytest

import solution
from notebook import ROOT, write_notebook
from solution import NO_ANSWER, Solution, nursery
from test_planted_mistakes import DATASETS, FLOW, LAYER, STUDENT, failures, graded, replaced
from test_solution import CHECKS

pytestmark = pytest.mark.slow
SOME = ("the moons", "ToyDataset has num", "forward gives", "log_probability is log p(z) plus", "train returns", "to_np")


def right(path, cells, titles=SOME):
    """The verdicts on cells that pass every check that applies, and leave no file beside the notebook."""
    before = set(path.parent.iterdir())
    verdicts = graded(write_notebook(path, cells), titles=titles)
    assert not failures(verdicts) and set(path.parent.iterdir()) == before | {path}
    return verdicts


def test_right_solution_passes_and_part1_of_other_names_or_parameters_is_not_graded(tmp_path):
    verdicts = right(tmp_path / "right.ipynb", [*STUDENT, "def sample_spiral(N):\n    return np.zeros((N, 2))"], ("",))
    skipped = {title: message for title, (outcome, message) in verdicts.items() if outcome == "SKIP"}
    assert {check.title for check in CHECKS if check.task.startswith("Part I,")} == set(skipped)
    assert "sample_spiral takes (N), not (num_samples, rng)" in skipped.values()


LOOPS = """
sizes, k = [], 0
for pair in [(2, 32), (32, 32)]:
    sizes.append(pair)
while k < 1:
    sizes += [(32, 2)]
    k += 1
with open("notes", "w") as notes, torch.no_grad():
    sigma_grid = 0.5
    print(1 / 0)
for name in ["twice"]:
    def twice(x, name=name):
        return 2 * x
"""
DECORATOR = """from __future__ import annotations
import functools
def logged(function):
    return functools.wraps(function)(lambda *arguments, **options: function(*arguments, **options))
limit: int = 3
later: Later
"""
STYLES = {
    "magics": ["%matplotlib inline\n!pip install -q torch\n" + STUDENT[0], "%%time\n" + STUDENT[1], *STUDENT[2:],
               "%%bash\nls", "train?", "x = !ls"],
    "missing imports": ["import seaborn as sns, math\nfrom google.colab import drive\ndrive.mount('/content/drive')", *STUDENT],
    "guarded imports": ["try:\n    import seaborn\nexcept ImportError:\n    !pip install seaborn\n"
                        "import sys\nif 'x' in sys.path:\n    print(1)\nelse:\n    k = 2", *STUDENT],
    "cells that fail": [*STUDENT, "def broken(:\n    pass", "class AlsoBroken(Missing):\n    pass", "1 / 0"],
    "all in one cell": [STUDENT[0] + "plt.plot([1, 2])\nplt.show()\nprint('x' * 3)\nwhile True: pass\n" + "\n".join(STUDENT[1:])],
    "exit": [*STUDENT[:4], "raise SystemExit", *STUDENT[4:]],
    "np.Inf brought back": replaced(STUDENT, "np.inf, model", "np.Inf, model", "device = t", "np.Inf = np.inf\ndevice = t"),
    "float64": ["import torch\ntorch.set_default_dtype(torch.float64)", *replaced(
        STUDENT, "batch.to(device)", "batch.to(device).double()", "(batch).mean() for", "(batch.double()).mean() for")],
    "constants": replaced(STUDENT, "self.prior = Multi", "self.prior = make_prior() if False else Multi",
                          "first, second = torch.eye(2)", "first, second = MASKS",
                          "sigma_grid = 0.5", "sigma_grid = 0.5\nMASKS = torch.eye(2)"),
    "loops": replaced(STUDENT, "in [(2, 32), (32, 32), (32, 2)]", "in sizes", "sigma_grid = 0.5", LOOPS,
                      "step()", "step(), twice(1)"),
    "annotations and decorators": [DECORATOR, *replaced(STUDENT, "def to_np(x):", "@logged\ndef to_np(x: Tensor) -> Array:",
                                                        "def mlp():", "@logged\ndef mlp() -> nn.Module:")],
}


@pytest.mark.parametrize("name", STYLES)
def test_style_does_not_matter(tmp_path, name):
    right(tmp_path / "right.ipynb", STYLES[name])


def test_helper_modules_beside_the_notebook(tmp_path):
    (tmp_path / "helper.py").write_text("\n".join([*STUDENT[:2], STUDENT[4]]))
    right(tmp_path / "right.ipynb", ["from helper import *", STUDENT[3], *STUDENT[5:]])


def test_format_3(tmp_path):
    cells = [{"cell_type": "code", "input": text.splitlines(True), "language": "python", "outputs": []} for text in STUDENT]
    content = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": cells}]}
    (tmp_path / "old.ipynb").write_text(json.dumps(content))
    assert not failures(graded(tmp_path / "old.ipynb", LAYER))


@pytest.mark.parametrize("content, words", [
    ("", "it is empty"),
    ('{"cells": [{"cell_type": "co', "it is cut off or no JSON"),
    ("[" * 100_000, "it is cut off or no JSON"),
    ('{"cells": 3}', "JSON without the cells of a notebook"),
])
def test_a_broken_file_is_said_to_be_one(tmp_path, content, words):
    (tmp_path / "broken.ipynb").write_text(content)
    assert all(words in verdict.message for verdict in graded(tmp_path / "broken.ipynb").values())


LATE = "it has not finished after 2 seconds"


@pytest.mark.parametrize("old, new, words", [
    ("ToyDataset(Dataset):", "ToyDataset(Missing):", "ToyDataset cannot be defined: NameError in code cell 4"),
    ("ToyDataset(Dataset):", "ToyDataset(Dataset:", "ToyDataset cannot be defined: syntax error in code cell 4"),
    ("ToyDataset(Dataset):", "Another(Dataset):", "the notebook does not define ToyDataset"),
    ("(Dataset):", "(Dataset):\n    import os\n    os._exit(0)", "code cell 4, line 1: it ends the process (exit code 0)"),
    ("(Dataset):", "(Dataset):\n    sum(iter(int, 1))", f"code cell 4, line 1: {LATE}"),
    ("(Dataset):", "(Dataset):\n    b = bytearray(1 << 40)", "ToyDataset cannot be defined: MemoryError in code cell 4"),
    ("return self.points.shape[0]", "return len(sns)",
     "name 'sns' is not defined; ModuleNotFoundError in code cell 10, line 1: No module named 'seaborn'"),
])
def test_what_fails_to_load_fails_alone(tmp_path, monkeypatch, old, new, words):
    monkeypatch.setattr(solution, "SECONDS", 2)
    path = write_notebook(tmp_path / "part.ipynb", [*replaced(STUDENT, old, new), "import seaborn as sns"])
    failed = failures(graded(path, DATASETS))
    assert failed and all("ToyDataset" in title for title in failed) and any(words in message for message in failed.values())
    assert not failures(graded(path, FLOW, ("log_prob",)))


SOCKET = "next(int(n) for n in os.listdir('/proc/self/fd') if 'socket' in os.readlink('/proc/self/fd/' + n))"
ATTACKS = {  # {what to_np does: words of its verdict, none if it passes}
    "os._exit(0)": "it ends the process (exit code 0)",
    "raise SystemExit(0)": "SystemExit in to_np",
    "import ctypes; ctypes.string_at(0)": "it crashes the process (Segmentation fault)",
    "os.kill(os.getpid(), 9)": "it is killed",
    "os.kill(os.getppid(), 9)": "it is killed",
    "os.kill(-1, 9)": "it is killed",
    "sum(iter(int, 1))": LATE,
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); time.sleep(99)": LATE,
    "while True: print('x' * 9999, flush=True); os.write(2, b'x' * 9999)": LATE,
    "[np.empty(1 << 27) for _ in range(99)]": "it runs out of memory: MemoryError in",
    "torch.zeros(1 << 40)": "it runs out of memory",
    "def f(): return f()\n    f()": "RecursionError in f",
    "a = [1]; a.append(a); return a": "RecursionError",
    "open('big', 'wb').truncate(1 << 40)": "File too large",
    "for i in range(99): open(str(i), 'wb').write(b'x' * (60 << 20))": "OSError",
    "while True: os.fork() or time.sleep(99)": "BlockingIOError in to_np",
    "for _ in range(999): threading.Thread(target=time.sleep, args=(99,)).start()": "can't start new thread",
    "threading.Thread(target=exec, args=('while True: pass',)).start()": None,
    "os.fork() or (os.setsid(), os.fork() or time.sleep(99), os._exit(0))": None,
    "socket.create_connection(('127.0.0.1', PORT), 1)": "OSError",
    "open(NOTEBOOK, 'w')": "Error",
    "open(HERE + '/left', 'w')": "Error",
    "pathlib.Path(pwd.getpwuid(os.getuid()).pw_dir, 'left').write_text('x')": "Error",
    "pathlib.Path.home().joinpath('left').write_text('x'); assert pathlib.Path.home() == pathlib.Path.cwd()": None,
    "assert 'SECRET' not in os.environ and not {'reference', 'solution'} & set(sys.modules)": None,
    "os.symlink(HERE, 'link')": None,
    "raise ValueError('\\x1b[2J\\n  PASS  all\\n' + 'x' * 10**6)": "ValueError in to_np (code cell 7: `raise ValueError(",
    "torch.Tensor.sum = torch.Tensor.mean": "it replaces torch Tensor.sum",
    "import builtins; builtins.callable = lambda x: False": "it replaces builtins.callable",
    "import ctypes; c = ctypes.CDLL(None); c.unshare(0x10020000); c.mount(None, b'/', None, 4128, None); open(HERE + '/x', 'w')":
        "Error",
    "[open(f'/proc/{n}/mem', 'r+b') for n in os.listdir('/proc') if n.isdigit() and int(n) < os.getppid()]": "Error",
    f"os.write({SOCKET}, b'x' * 999 + b'\\n')": NO_ANSWER,
    f"os.write({SOCKET}, b'3\\n')": NO_ANSWER,
    f"os.write({SOCKET}, b'[\"value\", {{\"$array\": \"\", \"dtype\": \"O\", \"shape\": [0]}}]\\n')": NO_ANSWER,
    f"os.write({SOCKET}, b'[' * 10**5 + b'\\n')": NO_ANSWER,
    f"os.write({SOCKET}, b'{{'); time.sleep(99)": LATE,
    f"while True: os.write({SOCKET}, b'x' * 10**6)": NO_ANSWER,
    f"os.close({SOCKET})": "it ends the process",
    "return Liar()": "it gives a Liar",
    "return type('Array', (np.ndarray,), {'__array_finalize__': lambda *a: os._exit(0)})(4)": "it ends the process",
}
SETUP = """import os, pathlib, pwd, signal, socket, sys, threading, time
import numpy as np
class Liar:
    def __eq__(self, other): return True
    def __len__(self): return 1 << 62
    def __getattr__(self, name): return self
    __class__ = np.ndarray
"""
NEED_NAMESPACES = ("os.kill(-1", "socket.create", "for i in range(99): open", "open(NOTEBOOK", "open(HERE", "import ctypes; c")


@pytest.mark.parametrize("code", ATTACKS)
def test_an_attack_costs_the_check_in_which_it_happens(tmp_path, monkeypatch, code):
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setattr(solution, "SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        attack = code.replace("PORT", str(server.getsockname()[1]))
        cells = replaced(STUDENT, "    return x.detach().numpy()", f"    {attack}\n    return x.detach().numpy()")
        setup = f"{SETUP}\nHERE = {str(tmp_path)!r}\nNOTEBOOK = HERE + '/hostile.ipynb'\n"
        path = write_notebook(tmp_path / "hostile.ipynb", [setup + cells[0], *cells[1:]])
        content, titles = path.read_bytes(), ("the flow has as many", "to_np turns", "the batches are the same")
        with closing(Solution(path)) as found:
            if code.startswith(NEED_NAMESPACES) and not found.loaded["alone"]:
                pytest.skip("the system gives no namespaces")
            number, array, other = (check(found) for check in CHECKS if check.title.startswith(titles))
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]
    assert number.outcome == "PASS" and other.outcome == "PASS"
    assert array.outcome == ("FAIL" if ATTACKS[code] else "PASS") and (ATTACKS[code] or "") in array.message, array
    assert array.message.isprintable() and len(array.message) < 1000
    assert not psutil.wait_procs(psutil.Process(nursery()[0].pid).children(recursive=True), timeout=5)[1]


def test_replaced_tools_are_named_and_do_not_help(tmp_path):
    lies = "torch.Tensor.__le__ = torch.Tensor.__gt__ = lambda *a: True; torch.Tensor.abs = np.abs = lambda x: 0 * x"
    cells = replaced(STUDENT, "factor=0.8", "factor=0.5", "sigma_grid = 0.5", f"class Lies:\n    {lies}\nsigma_grid = 0.5")
    failed = failures(graded(write_notebook(tmp_path / "liar.ipynb", cells), titles=("the notebook leaves", "the circles")))
    assert "Circles is off" in failed["the circles are the handout's, point by point"]
    assert "it replaces numpy.abs, torch Tensor.__le__, torch Tensor.__gt__, torch Tensor.abs" in failed.values()


def test_the_grader_outlives_the_process_that_makes_the_others(tmp_path):
    path = write_notebook(tmp_path / "right.ipynb", STUDENT)
    for _ in range(2):
        assert not failures(graded(path, titles=("to_np",)))
        process = nursery()[0]
        process.kill()
        process.wait()


def make_test(notebook, *options, **where):
    command = [sys.executable, "-P", "-m", "pytest", str(ROOT / "tests"), f"--notebook={notebook}", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **where)


def test_command_line_gives_a_sheet_for_each_file_of_a_folder_and_a_table_and_0_only_for_a_complete_sheet(tmp_path):
    (tmp_path / "right").mkdir()
    other = make_test(write_notebook(tmp_path / "right" / "right.ipynb", STUDENT), "-k", "to_np", cwd=ROOT)
    write_notebook(tmp_path / "other.ipynb", replaced(STUDENT, "prior.log_prob(z) + total", "prior.log_prob(x) + total"))
    for name in ("torch.py", "conftest.py", "pytest.py"):
        (tmp_path / name).write_text("raise SystemExit")
    (tmp_path / "empty.ipynb").touch()
    before, folder = set(tmp_path.iterdir()), make_test(tmp_path, cwd=tmp_path)
    lines = folder.communicate()[0].splitlines()
    assert "1 passed" in other.communicate()[0] and other.returncode == pytest.ExitCode.TESTS_FAILED
    assert folder.returncode == pytest.ExitCode.TESTS_FAILED and set(tmp_path.iterdir()) == before
    assert {"Part I, Task 2 (kernel density estimate): not graded", "Part II, Task 6 (coupling layer): 16 of 16"} < set(lines)
    words = "  FAIL  log_probability is log p(z) plus"
    assert any(line.startswith(words) and line.endswith("the prior is evaluated at x instead of z") for line in lines)
    assert f"0 of {len(CHECKS)}: the notebook cannot be read: it is empty" in lines
    rows = list(csv.reader(lines[[line.startswith("file,") for line in lines].index(True):]))[1:3]
    assert [(*row[:2], *row[-2:]) for row in rows] == [("empty.ipynb", "0", "0", "0"), ("other.ipynb", "", "12", "46")]
