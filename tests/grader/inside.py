"""What runs in the sandbox: a notebook's cells in one IPython shell, then the grader's questions. It holds no answers.

A job comes as JSON on standard input, each message leaves as a line. Each question is put to a copy of this process.
"""

import contextlib
import faulthandler
import json
import os
import re
import resource
import signal
import sys
import traceback
import types
from functools import partial
from inspect import signature
from unittest.mock import MagicMock

import numpy as np
import psutil
import torch

GRACE, ASKED = 4, 20  # seconds that a cell has to end after its interrupt, and that a question has
LARGEST = 4 << 20  # bytes of an array that is sent


def main():
    import probes

    job = json.load(sys.stdin)
    for name, limit in job["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    channel = os.fdopen(os.dup(1), "w")
    for stream in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)

    def send(*message):
        print(json.dumps(message, default=plain), file=channel, flush=True)

    for name in ("matplotlib.pyplot", "scipy.stats", "sklearn.datasets", "torch.distributions", "torch.utils.data"):
        __import__(name)  # so that no cell is interrupted while it imports
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # which imports much more
    np.Inf = np.inf  # which the handout's code says, and NumPy 2 does not have
    sys.path[0] = ""
    its = types.SimpleNamespace(**run_cells(job, send))
    for question in probes.QUESTIONS:
        ask(question, its, job["inputs"], send)
    send("done", "questions", "")


def run_cells(job, send):
    """Run the cells in order, each for a fifth of the time left at most; the functions and classes that they leave."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    shell.showtraceback = shell.showsyntaxerror = shell.enable_gui = shell.ask_exit = lambda *given, **more: None
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    defined, end, process = {}, os.times().elapsed + job["seconds"], os.getpid()
    for number, text in enumerate(job["cells"], 1):
        send("cell", number, "")
        if re.search(r"\b(np|numpy)\.Inf\b", text):
            send("remarks", "Inf", "np.Inf is gone since NumPy 2, and was provided here: write np.inf")
        shell.execution_count = number  # by which tracebacks name the cell
        limit = min(job["cell_seconds"], max(0.3, (end - os.times().elapsed) / 5))
        error = None if number in job["skip"] else run_limited(limit, lambda: shell.run_cell(text).raise_error())
        while isinstance(error, ModuleNotFoundError) and error.name not in sys.modules:
            sys.modules[error.name] = MagicMock(__spec__=None)  # what is not installed here, such as google.colab
            send("remarks", error.name, f"{error.name} is not installed here: a stand-in without effect was used")
            error = run_limited(limit, lambda: shell.run_cell(text).raise_error())
        if os.getpid() != process:  # a cell's own copy of this process
            os._exit(0)
        if error is not None:
            send("remarks", number, f"cell {number} {describe(error)}")
        defined |= {name: value for name, value in shell.user_ns.items()
                    if callable(value) and not isinstance(value, torch.nn.Module)}
    for each in psutil.Process().children(recursive=True):  # which the cells have left running
        each.kill()
    shell.user_ns |= defined  # a name that a later cell gave to a plain value or an instance means function or class
    for name, value in defined.items():
        send("names", name, parameters(value))
    send("done", "cells", "")
    return defined


def parameters(function):
    with contextlib.suppress(Exception):
        return " ".join(signature(function).parameters)


def run_limited(seconds, function, *arguments):
    """Call a function; the exception that it ends with. It is interrupted in time; in a loop in C the process ends."""
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        function(*arguments)
    except BaseException as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def ask(question, its, inputs, send):
    """Put a question to a copy of this process."""
    name = question.__name__
    if (copy := os.fork()) == 0:
        try:
            torch.set_num_threads(1)
            if error := run_limited(ASKED, question, its, inputs, partial(report, send)):
                send("raised", name, describe(error))
        finally:
            os._exit(0)
    if status := os.waitpid(copy, 0)[1]:
        killed = f"it crashes or is killed ({signal.strsignal(status & 127)})" if status & 127 else ""
        send("raised", name, killed or "it ends the process, or does not react to an interrupt")


def report(send, title, function):
    """Send what a function gives, or the words of its exception."""
    try:
        send("answers", title, function())
    except Exception as error:
        send("raised", title, describe(error))


def describe(error):
    """An exception on one line, with the place in the notebook where it was raised."""
    if isinstance(error, KeyboardInterrupt):
        return "it takes too long, and was interrupted"
    if isinstance(getattr(error, "obj", None), types.SimpleNamespace):
        return f"the notebook does not define {error.name}"
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if cell := re.match(r"<ipython-input-(\d+)-|.*ipykernel_\d+/\d+\.py", frame.filename):
            place = f" in {frame.name}, cell {cell[1]}: `{frame.line}`"
    return f"{type(error).__name__}: {str(error)[:400]}{place}"[:800]


def plain(value):
    """For JSON: arrays as lists of numbers; of anything else only its kind."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf" and value.nbytes < LARGEST:
        return np.asarray(value, float).tolist()
    return f"<{type(value).__name__[:80]}>"


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
