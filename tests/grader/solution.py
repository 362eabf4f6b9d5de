"""A solution, as the grader sees it: a process that answers requests, of which only plain values are believed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partialmethod
from pathlib import Path

import torch

from inside import pack, receive

SECONDS = 60  # that loading or a check may take
AFTER_A_TIMEOUT = 10  # that each check may take when one has not finished
NO_ANSWER = "it sends the grader what is no answer"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PATH": os.defpath, "LANG": "C.UTF-8"}
NURSERY = []  # the process that makes those of the solutions, and the socket to it


class Fault(Exception):
    """What a check found wrong."""


class Raised(Fault):
    """The solution raised an exception."""


class Ended(Fault):
    """The solution's process ended, or gave no answer that makes sense."""


def printable(text):
    """Other people's words on one line, without what a terminal takes for a command."""
    text = "".join(character if character.isprintable() else " " for character in str(text)[:2000])
    return " ".join(text.split())[:600]


def nursery():
    """NURSERY as it is, or a new one if it has ended."""
    if not NURSERY or NURSERY[0].poll() is not None:
        ours, theirs = socket.socketpair()
        own, number = [str(folder) for folder in Path(__file__).parents[:2]], theirs.fileno()
        program = ["import sys", f"sys.path[:0] = {own}", "import inside", "del sys.path[:2]", f"inside.main({number})"]
        options = {"env": ENVIRONMENT, "pass_fds": [number], "stdin": subprocess.DEVNULL, "start_new_session": True}
        with theirs:
            process = subprocess.Popen([sys.executable, "-I", "-B", "-c", "\n".join(program)], **options)
        ours.recv(1)  # when it has imported what it needs
        NURSERY[:] = process, ours
    return NURSERY


def how(status):
    """How a process ended, in words."""
    if os.WIFEXITED(status):
        return f"it ends the process (exit code {os.WEXITSTATUS(status)})"
    words = {signal.SIGKILL: "it is killed, as where memory runs out", signal.SIGXCPU: "it uses up its processor time"}
    number = os.WTERMSIG(status)
    return f"{words.get(number, 'it crashes the process')} ({signal.strsignal(number)})"


class Solution:
    """A notebook of somebody else's. `broken`: why it cannot be loaded; else what loading said, and requests to it."""

    def __init__(self, path):
        self.path, self.skip, self.known, self.seconds = Path(path).resolve(), {}, {}, SECONDS
        self.alive = self.copied = False
        try:
            self.load()
        except Ended as ended:
            self.broken = str(ended)

    def load(self):
        """Execute the definitions in a new process; once more without one that ends the process or takes too long."""
        for _ in range(20):
            self.close()
            self.scratch, place = tempfile.TemporaryDirectory(ignore_cleanup_errors=True), None
            (self.sock, theirs), (self.control, control) = socket.socketpair(), socket.socketpair()
            with theirs, control:
                socket.send_fds(nursery()[1], [b"."], [theirs.fileno(), control.fileno()])
            self.alive = True
            try:
                message = [str(self.path), self.skip, self.scratch.name, 2 * SECONDS]
                kind, self.loaded = self.exchange(message, ("at", "broken", "loaded"), SECONDS)
                while kind == "at":
                    place = str(self.loaded)
                    kind, self.loaded = self.exchange("go on", ("at", "broken", "loaded"))
                self.broken = f"the notebook cannot be read: {self.loaded}" if kind == "broken" else None
                return
            except Ended as ended:
                if place is None or place in self.skip:
                    raise
                self.skip[place] = str(ended)
        raise Ended("too many of its definitions end the process")

    def exchange(self, message, kinds, seconds=None):
        """The answer to a message, one of these kinds and its value, in what is left of the time or in `seconds`."""
        if seconds:
            self.limit, self.deadline = seconds, time.monotonic() + seconds
        try:
            with contextlib.suppress(OSError):  # the answer will tell
                self.sock.settimeout(max(self.deadline - time.monotonic(), 1e-3))
                self.sock.sendall(pack(message, lambda value: {"$object": value._number}))
            kind, value = receive(self.sock, lambda data: Remote(self, data["$object"], str(data["type"])), self.deadline)
            if kind in kinds:
                return kind, value
            why = NO_ANSWER
        except TimeoutError:
            why = f"it has not finished after {self.limit} seconds"
            self.seconds = min(self.seconds, AFTER_A_TIMEOUT) if self.copied else self.seconds
        except (EOFError, OSError):
            why = None
        except Exception:
            why = NO_ANSWER
        status = self.close()
        raise Ended(why or how(status))

    def close(self):
        """End the process, if there is one, and all that it has started; the status with which it ended."""
        status = signal.SIGKILL
        if self.alive:
            self.alive = self.copied = False
            with contextlib.suppress(OSError), self.sock, self.control:
                self.control.settimeout(20)
                self.control.send(b".")
                status = int.from_bytes(self.control.recv(4), "big")
            self.scratch.cleanup()
        return status

    @contextlib.contextmanager
    def check(self):
        """A copy of the process for the requests of one check, and their time."""
        try:
            self.copy()
        except Ended:  # since the last check, which is not this one's fault
            self.copy()
        torch.set_default_dtype(torch.float64 if self.loaded["float64"] is True else torch.float32)
        try:
            yield
            if new := self.ask("replaced"):
                raise Fault(f"it replaces {', '.join(new[:3])}")
            self.finish()
        finally:
            torch.set_default_dtype(torch.float32)
            with contextlib.suppress(Ended):
                self.finish()

    def copy(self):
        if not self.alive:
            self.load()
        self.copied = self.exchange("check", ["ready"], self.seconds)

    def finish(self):
        """End the copy, if it is still there."""
        if self.copied:
            self.copied = False
            if self.exchange("done", ["end"], 5)[1] != 0:
                self.close()
                raise Ended("it does not end with the check")

    def ask(self, function, *arguments, **options):
        """What one of the tools on the other side gives for these arguments."""
        kind, value = self.exchange([function, arguments, options], ("value", "error", "end"))
        if kind == "error":
            raise Raised(value)
        if kind == "end":
            self.copied = False
            raise Ended(how(value))
        return value

    def once(self, function, *arguments, **options):
        """What a function gives for these arguments, or its Fault, for all checks that need the same by their options."""
        key = function, *options.items()
        if key not in self.known:
            try:
                self.known[key] = function(*arguments, **options)
            except Fault as fault:
                self.known[key] = fault
        if isinstance(self.known[key], Fault):
            raise self.known[key]
        return self.known[key]


def ask(remote, tool, *arguments, **options):
    """What a tool on the other side gives for an object there."""
    return remote._solution.ask(tool, remote, *arguments, **options)


class Remote:
    """An object that stays in the solution's process. What is asked of it is asked there."""

    __call__, __len__, __getitem__ = (partialmethod(ask, tool) for tool in ("call", "len", "getitem"))

    def __init__(self, solution, number, kind):
        self._solution, self._number, self._kind = solution, number, kind

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return ask(self, "getattr", name)

    def __iter__(self):
        return (self[i] for i in range(len(self)))
