"""Runs one notebook in a sandbox of bubblewrap, and listens: what comes out is data, limited in size, not believed."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
MEMORY, FILES, PROCESSES = 3 << 30, 256 << 20, 48  # bytes of all processes together, bytes on its disk, processes
LIMITS = {"DATA": MEMORY, "FSIZE": FILES // 4, "NPROC": 64, "NOFILE": 256, "CORE": 0}  # of each process; NPROC of all
LONGEST, MOST = 8 << 20, 32 << 20  # bytes of a message and of all
RESTARTS = 4  # without a cell that ends the process
ENVIRONMENT = {
    "PATH": os.defpath, "HOME": "/tmp", "LANG": "C.UTF-8", "USER": "student", "MPLBACKEND": "Agg", "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1", "PIP_RETRIES": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


class Refused(Exception):
    """There is no sandbox here."""


class Stopped(Exception):
    """Why a sandbox was stopped."""


class Run:
    """What a notebook's run sent: `answers` {(question, key): value}, `raised` the same of words, and what happened."""

    def __init__(self, cells):
        self.cells, self.answers, self.raised, self.ended, self.names = cells, {}, {}, {}, None
        self.failed, self.skipped, self.stand_ins, self.stopped, self.done = {}, {}, set(), "", False


def bubblewrap():
    """The command that runs what follows it with the system and this Python alone, read-only, and a private /tmp."""
    command = ["bwrap", "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--die-with-parent"]
    command += ["--new-session", "--cap-drop", "ALL", "--clearenv", "--proc", "/proc", "--dev", "/dev"]
    command += ["--size", str(FILES // 4), "--tmpfs", "/dev/shm", "--size", str(FILES), "--tmpfs", "/tmp"]
    command += ["--ro-bind", "/usr", "/usr"]
    for folder in map(Path, ("/bin", "/sbin", "/lib", "/lib32", "/lib64")):
        kind, source = ("--symlink", os.readlink(folder)) if folder.is_symlink() else ("--ro-bind-try", str(folder))
        command += [kind, source, str(folder)]
    for name in ("fonts", "ld.so.cache", "alternatives", "localtime"):
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for folder in {sys.base_prefix, sys.prefix, os.path.realpath(sys.prefix)} - {"/usr"}:
        command += ["--ro-bind", folder, folder]
    for name in ("inside.py", "probes.py"):
        command += ["--ro-bind", str(HERE / name), f"/run/{name}"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--"]


@cache
def account():
    """As whom bubblewrap runs: root hands over to a user without rights where that user can read the program.

    Raises Refused, with the reason, where it cannot run.
    """
    if not shutil.which("bwrap"):
        raise Refused("bubblewrap (the program bwrap) is not installed; on Debian, Ubuntu: apt-get install bubblewrap")
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    for user in (nobody, {}) if os.geteuid() == 0 else ({},):
        done = subprocess.run([*bubblewrap(), sys.executable, "-ISc", ""], capture_output=True, text=True, **user)
        if not done.returncode:
            return user
    raise Refused(f"bubblewrap is refused by this system: {done.stderr.strip()}")


def run(cells, inputs, seconds=120, cell_seconds=5, isolated=True):
    """Run a notebook's cells and put the questions to it, in so many seconds at most: a Run."""
    found, deadline = Run(cells), time.monotonic() + seconds
    job = {"cells": cells, "inputs": inputs, "limits": LIMITS if isolated else {}, "cell_seconds": cell_seconds}
    while True:
        cell = 0
        job |= {"skip": list(found.skipped), "seconds": (deadline - time.monotonic()) * 0.6}
        try:
            for message in messages(job, deadline, isolated):
                with contextlib.suppress(Exception):  # it may say anything
                    cell = int(message.get("cell", cell))
                    note(found, message)
            why = "it ends the process, or does not react to an interrupt"
        except Stopped as stopped:
            why = str(stopped)
        if found.names is not None:
            found.stopped = "" if found.done else f"while it was asked: {why}"
            return found
        if cell in {0, *found.skipped} or len(found.skipped) == RESTARTS or time.monotonic() > deadline - 10:
            found.stopped = f"in cell {cell}: {why}" if cell else why
            return found
        found.skipped[cell] = why


def note(found, message):
    """Take a message into a run."""
    question, key = message.get("question"), message.get("key")
    if isinstance(message.get("names"), dict):
        found.names = message["names"]
    elif "done" in message:
        found.done = True
    elif isinstance(message.get("failed"), int) and 0 < message["failed"] <= len(found.cells):
        found.failed[message["failed"]] = str(message.get("why"))
    elif "stand_in" in message:
        found.stand_ins.add(str(message["stand_in"]))
    elif isinstance(question, str) and isinstance(key, str | None):
        if "status" in message:
            found.ended[question] = message["status"]
        elif "raised" in message:
            found.raised[question, key] = str(message["raised"])
        else:
            found.answers[question, key] = decoded(message.get("value"))


def decoded(value):
    """A message's value with its arrays; one that is none is None."""
    if isinstance(value, list):
        return [decoded(part) for part in value]
    if isinstance(value, dict) and "array" in value:
        with contextlib.suppress(Exception):
            return np.frombuffer(base64.b64decode(value["array"]), "<f8").reshape(value["shape"])
        return None
    return {str(key): decoded(part) for key, part in value.items()} if isinstance(value, dict) else value


def messages(job, deadline, isolated):
    """The messages of one process, until it ends; Stopped where it goes too far."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        json.dump(job, given, default=np.ndarray.tolist)
        given.seek(0)
        command = [sys.executable, "-I", "-B", "/run/inside.py" if isolated else str(HERE / "inside.py")]
        options = {"cwd": scratch, "env": {**ENVIRONMENT, "HOME": scratch}}
        if isolated:
            command, options = [*bubblewrap(), *command], account()
        process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   start_new_session=True, **options)
        line, total = bytearray(), 0
        try:
            for part in chunks(process, deadline):
                *whole, rest = (line + part).split(b"\n")
                line, total = rest, total + len(part)
                if total > MOST or len(line) > LONGEST:
                    raise Stopped("it sends more than the questions ask for")
                for text in whole:
                    with contextlib.suppress(ValueError, RecursionError):
                        if isinstance(message := json.loads(text), dict):
                            yield message
        finally:
            end(process)


def chunks(process, deadline):
    """The bytes that a process sends, as they come, as long as it keeps to the limits."""
    watched = 0.0
    while True:
        if time.monotonic() - watched > 0.2:
            watch(process)
            watched = time.monotonic()
        if watched > deadline:
            raise Stopped("its time is over")
        if select.select([process.stdout], [], [], 0.1)[0]:
            if not (data := os.read(process.stdout.fileno(), 1 << 20)):
                return
            yield data


def watch(process):
    """Stopped where all processes of a sandbox together take too much."""
    below, memory = family(process)[1:], 0
    if len(below) > PROCESSES:
        raise Stopped(f"it starts more than {PROCESSES} processes")
    for each in below:
        with contextlib.suppress(psutil.Error, OSError):
            memory += proportional(each.pid)
    machine = psutil.virtual_memory()
    # Where memory is short on the machine, those that take most of it go first.
    if memory > (MEMORY if machine.available > machine.total / 20 else MEMORY // 3):
        raise Stopped(f"it takes too much memory (more than {MEMORY >> 30} GB, or what the machine has left)")


def family(process):
    with contextlib.suppress(psutil.Error):
        return [process, *psutil.Process(process.pid).children(recursive=True)]
    return [process]


def proportional(pid):
    """Bytes of memory of a process, of what it shares only its part; where the system does not tell, all."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return psutil.Process(pid).memory_info().rss


def end(process):
    """End a process and all below it, whose memory is free again then."""
    processes = family(process)
    for each in processes:
        with contextlib.suppress(psutil.Error, OSError):
            os.kill(each.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()
    psutil.wait_procs(processes[1:], timeout=5)
