"""A solution, as the grader sees it: a process that answers requests, of which only plain values are believed."""

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from inside import pack, receive, send, unpack

SECONDS = 60  # that a definition or a check may take
AFTER_A_TIMEOUT = 10  # that each check may take when one has not finished
NO_ANSWER = "it sends the grader what is no answer"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PATH": os.defpath, "LANG": "C.UTF-8"}


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


@functools.cache
def start_nursery():
    """The process that makes those of the solutions, and the socket to it."""
    ours, theirs = socket.socketpair()
    here = Path(__file__).parent
    program = f"""
import sys
known = list(sys.path)
sys.path[:0] = {[str(here), str(here.parent)]}
import inside
sys.path[:] = known
inside.main({theirs.fileno()})"""
    command = [sys.executable, "-I", "-B", "-c", program]
    process = subprocess.Popen(command, env=ENVIRONMENT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    ours.recv(1)  # when it has imported what it needs
    atexit.register(process.wait)
    atexit.register(ours.close)
    return process, ours


def nursery():
    if start_nursery()[0].poll() is not None:
        start_nursery.cache_clear()
    return start_nursery()[1]


class Process:
    """A confined process that is about to load a notebook."""

    def __init__(self, path, skip):
        self.scratch, self.alive = tempfile.TemporaryDirectory(ignore_cleanup_errors=True), True
        request = {"path": str(path), "skip": skip, "scratch": self.scratch.name, "seconds": 2 * SECONDS}
        self.sock, theirs = socket.socketpair()
        self.control, control = socket.socketpair()
        with theirs, control:
            socket.send_fds(nursery(), [json.dumps(request).encode()], [theirs.fileno(), control.fileno()])

    def give(self, seconds):
        """The time for what follows."""
        self.seconds, self.deadline = seconds, time.monotonic() + seconds

    def send(self, message):
        with contextlib.suppress(OSError):  # the next answer will tell
            self.sock.settimeout(max(self.deadline - time.monotonic(), 1e-3))
            send(self.sock, message)

    def receive(self):
        """The next answer; if there is none, the process is closed, and Ended says why."""
        try:
            return receive(self.sock, self.deadline)
        except TimeoutError:
            why = f"it has not finished after {self.seconds} seconds"
        except (ValueError, RecursionError):
            why = NO_ANSWER
        except (EOFError, OSError):
            why = None
        status = self.close()
        raise Ended(why or how(status))

    def close(self):
        """End the process and all that it has started; returns the status with which it ended."""
        status, self.alive = signal.SIGKILL, False
        with contextlib.suppress(OSError), self.sock, self.control:
            self.control.settimeout(20)
            self.control.send(b".")
            status = int.from_bytes(self.control.recv(4), "big")
        self.scratch.cleanup()
        return status


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
        self.path, self.skip, self.known = Path(path).resolve(), {}, {}
        self.seconds, self.process, self.broken = SECONDS, None, None
        try:
            self.load()
        except Fault as fault:
            self.broken = str(fault)

    def load(self):
        """Execute the definitions; once more without one that ends the process or takes too long."""
        for _ in range(20):
            self.close()
            self.process, place = Process(self.path, self.skip), None
            self.process.give(SECONDS)
            try:
                while "loaded" not in (message := self.process.receive()):
                    if "broken" in message:
                        raise Fault(f"the notebook cannot be read: {message['broken']}")
                    place = str(message["at"])
                    self.process.send("go on")
                loaded = message["loaded"]
                self.names, self.failures, self.replaced = set(loaded["names"]), dict(loaded["failures"]), loaded["replaced"]
                self.dtype = torch.float64 if loaded["float64"] is True else torch.float32
                self.alone = loaded["alone"]  # whether it has namespaces of its own
                return
            except Ended as ended:
                if place is None or place in self.skip:
                    raise
                self.skip[place] = str(ended)
            except (TypeError, KeyError, AttributeError):
                raise Fault(NO_ANSWER) from None
        raise Fault("too many of its definitions end the process")

    @contextlib.contextmanager
    def check(self):
        """A copy of the process for the requests of one check, and their time."""
        try:
            self.copy()
        except Ended:  # since the last check, which is not this one's fault
            self.copy()
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(self.dtype)
            yield
            if new := self.ask("replaced"):
                raise Fault(f"it replaces {', '.join(new[:3])}")
            self.finish()
        except BaseException as error:
            with contextlib.suppress(Ended):
                self.finish()
            if "it has not finished" in str(error):
                self.seconds = min(self.seconds, AFTER_A_TIMEOUT)
            raise
        finally:
            torch.set_default_dtype(before)

    def copy(self):
        if not self.process.alive:
            self.load()
        self.process.give(self.seconds)
        self.process.send("check")
        if self.process.receive() != "ready":
            self.process.close()
            raise Ended(NO_ANSWER)
        self.copied = True

    def finish(self):
        """End the copy, if it is still there."""
        if self.process.alive and self.copied:
            self.copied = False
            self.process.give(5)
            self.process.send("done")
            if self.process.receive() != {"end": 0}:
                self.process.close()
                raise Ended("it does not end with the check")

    def ask(self, function, *arguments, **options):
        """What one of the tools on the other side gives for these arguments."""
        self.process.send([pack(part, lambda value: {"object": value._number}) for part in (function, arguments, options)])
        reply = self.process.receive()
        try:
            if "end" in reply:
                self.copied = False
                raise Ended(how(int(reply["end"])))
            if "error" in reply:
                raise Raised(str(reply["error"]))
            return unpack(reply["value"], lambda data: Remote(self, int(data["object"]), str(data["type"])))
        except (TypeError, KeyError, ValueError, OverflowError, RecursionError):
            self.process.close()
            raise Ended(NO_ANSWER) from None

    def once(self, function, *arguments, **options):
        """What a function of this solution gives, or its Fault, for all checks that need the same."""
        key = function, *(argument for argument in arguments if not isinstance(argument, Remote)), *options.items()
        if key not in self.known:
            try:
                self.known[key] = function(self, *arguments, **options)
            except Fault as fault:
                self.known[key] = fault
        if isinstance(self.known[key], Fault):
            raise self.known[key]
        return self.known[key]

    def close(self):
        if self.process and self.process.alive:
            self.process.close()


class Remote:
    """An object that stays in the solution's process. What is asked of it is asked there."""

    def __init__(self, solution, number, kind):
        self._solution, self._number, self._kind = solution, number, kind

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._solution.ask("getattr", self, name)

    def __call__(self, *arguments, **options):
        return self._solution.ask("call", self, *arguments, **options)

    def __len__(self):
        return self._solution.ask("len", self)

    def __getitem__(self, index):
        return list(self)[index] if isinstance(index, slice) else self._solution.ask("item", self, index)

    def __iter__(self):
        return (self[i] for i in range(len(self)))
