"""What runs in the sandbox: a notebook's cells in one IPython shell, then the grader's questions. It holds no answers.

A job comes as JSON on standard input; one JSON line a message goes to what was standard output. Each question is put to
a copy of this process, so that what it breaks is whole again for the next.
"""

import base64
import contextlib
import faulthandler
import json
import os
import random
import re
import resource
import signal
import sys
import traceback
import types
from functools import partial
from inspect import signature
from unittest.mock import MagicMock

GRACE = 4  # seconds that a cell has to end after its interrupt
LARGEST = 4 << 20  # bytes of an array that is sent
OFTEN_IMPORTED = ("matplotlib.pyplot", "scipy.stats", "sklearn.datasets", "torch.distributions", "torch.utils.data")


def main():
    job = json.load(sys.stdin)
    for name, limit in job["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    channel = os.fdopen(os.dup(1), "wb")
    for stream in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)

    def send(**message):
        channel.write(json.dumps(message, default=plain).encode() + b"\n")
        channel.flush()

    for name in OFTEN_IMPORTED:  # so that no cell is interrupted while it imports
        __import__(name)
    import numpy as np
    import probes
    import torch

    np.Inf = np.inf  # which the handout's code says, and NumPy 2 does not have
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # which imports much more
    sys.path[0] = ""
    its = types.SimpleNamespace(**run_cells(job, send))
    for question in probes.QUESTIONS:
        ask(question, its, job["inputs"], send)
    send(done=True)


def run_cells(job, send):
    """Run the cells in order, each for a few seconds; what they leave by its name, functions and classes first."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    shell.showtraceback = shell.showsyntaxerror = shell.enable_gui = shell.ask_exit = lambda *given, **more: None
    signal.signal(signal.SIGALRM, interrupt)
    defined, left, process = {}, job["seconds"], os.getpid()
    for number, text in enumerate(job["cells"], 1):
        send(cell=number)
        shell.execution_count = number  # by which tracebacks name the cell
        limit = min(job["cell_seconds"], max(0.3, left / 5))  # so that no cell takes the time of all that follow
        before = os.times().elapsed
        while number not in job["skip"]:
            error = run_limited(limit, shell.run_cell, text)
            if os.getpid() != process:  # a cell's own copy of this process
                os._exit(0)
            if not isinstance(error, ModuleNotFoundError) or error.name in sys.modules:
                if error is not None:
                    send(failed=number, why=describe(error))
                break
            sys.modules[error.name] = MagicMock(__spec__=None)  # what is not installed here, such as google.colab
            send(stand_in=error.name)
        left -= os.times().elapsed - before
        defined |= {name: value for name, value in shell.user_ns.items() if is_definition(value)}
    end_children()
    # A name that a later cell gave to a plain value or to an instance means the function or class.
    for name, value in defined.items():
        now = shell.user_ns.get(name)
        if not callable(now) or isinstance(value, type) and not is_definition(now):
            shell.user_ns[name] = value
    found = {name: value for name, value in shell.user_ns.items() if callable(value) and name.isidentifier()}
    send(names={name: parameters(value) for name, value in found.items() if not name.startswith("_")})
    return found


def is_definition(value):
    return isinstance(value, (types.FunctionType, type, partial))


def parameters(function):
    with contextlib.suppress(Exception):
        return list(signature(function).parameters)


def interrupt(number, frame):
    raise KeyboardInterrupt


def run_limited(seconds, function, *arguments):
    """Call a function; the exception that it ends with, or that a cell does. An interrupt comes in time, and again.

    Where that does not help, as in a loop in C, the process ends.
    """
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        result = function(*arguments)
        return getattr(result, "error_before_exec", None) or getattr(result, "error_in_exec", None)
    except BaseException as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def end_children():
    """End what the cells have left running."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(5)


def ask(question, its, inputs, send):
    """Put a question to a copy of this process."""
    name = question.__name__
    if (copy := os.fork()) == 0:
        try:
            import numpy as np
            import torch

            torch.set_num_threads(1)
            for seed in (random.seed, np.random.seed, torch.manual_seed):
                seed(inputs["seed"])
            if error := run_limited(inputs["seconds"], question, its, inputs, partial(report, name, send)):
                send(question=name, raised=describe(error))
        finally:
            os._exit(0)
    send(question=name, status=os.waitpid(copy, 0)[1])


def report(question, send, key, function):
    """Send what a function gives, or the words of its exception."""
    try:
        send(question=question, key=key, value=function())
    except Exception as error:
        send(question=question, key=key, raised=describe(error))


def describe(error):
    """An exception on one line, with the place in the notebook where it was raised."""
    if isinstance(error, KeyboardInterrupt):
        return "it takes too long, and was interrupted"
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if cell := re.match(r"<ipython-input-(\d+)-|.*ipykernel_\d+/\d+\.py", frame.filename):
            place = f" in {frame.name}, cell {cell[1]}: `{frame.line}`"
    return f"{type(error).__name__}: {str(error)[:400]}{place}"[:800]


def plain(value):
    """For JSON: numbers and arrays as the bytes of float64 numbers and a shape; of anything else only what it is."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf" and value.nbytes < LARGEST:
        array = np.ascontiguousarray(value, "<f8")
        return {"array": base64.b64encode(array.tobytes()).decode(), "shape": np.shape(value)}
    return {"type": type(value).__name__[:80]}


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
