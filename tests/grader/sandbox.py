"""Runs one notebook in a sandbox of bubblewrap; what it writes is data, limited in size, and not believed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
MEMORY, FILES, PROCESSES = 3 << 30, 256 << 20, 48  # bytes of all processes together, bytes on its disk, processes
LIMITS = {"DATA": MEMORY, "FSIZE": FILES // 4, "NPROC": 64, "NOFILE": 256, "CORE": 0}  # of each process; NPROC of all
LONGEST, MOST = 8 << 20, 32 << 20  # bytes of a message and of all
ENVIRONMENT = {
    "PATH": os.defpath, "HOME": "/tmp", "LANG": "C.UTF-8", "USER": "student", "MPLBACKEND": "Agg", "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1", "PIP_RETRIES": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


def bubblewrap():
    """The command that runs what follows it with the system and this Python alone, read-only, and a private /tmp."""
    command = ["/usr/bin/env", shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--cap-drop", "ALL"]
    command += ["--uid", "65534", "--gid", "65534", "--die-with-parent", "--new-session", "--proc", "/proc"]
    command += ["--dev", "/dev", "--size", str(FILES // 4), "--tmpfs", "/dev/shm"]
    command += ["--size", str(FILES), "--tmpfs", "/tmp"]
    system = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"]
    system += ["/etc/fonts", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime"]
    for place in dict.fromkeys([*system, sys.base_prefix, sys.prefix, os.path.realpath(sys.prefix)]):
        command += ["--ro-bind-try", place, place]
    for name in ("inside.py", "probes.py"):
        command += ["--ro-bind", str(HERE / name), f"/run/{name}"]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--"]


@cache
def account():
    """As whom bubblewrap runs: root hands over to a user without rights where that one can read the program."""
    for user in [{"user": 65534, "group": 65534, "extra_groups": []}] * (os.geteuid() == 0) + [{}]:
        done = subprocess.run([*bubblewrap(), sys.executable, "-ISc", ""], capture_output=True, text=True, **user)
        if not done.returncode:
            return user
    sys.exit(f"Bubblewrap does not run (on Debian, Ubuntu: apt-get install bubblewrap): {done.stderr.strip()}\n"
             "Nothing was graded. --unsafe runs notebooks without a sandbox: only for those you trust.")


def run(cells, inputs, seconds=120, cell_seconds=5, isolated=True):
    """Run a notebook's cells and put the questions to it: the messages by kind and key, and why it was stopped."""
    found, skip, deadline = defaultdict(dict), [0], time.monotonic() + seconds
    job = {"cells": cells, "inputs": inputs, "limits": LIMITS if isolated else {}, "cell_seconds": cell_seconds}
    while True:
        job |= {"skip": skip, "seconds": (deadline - time.monotonic()) * 0.6}
        with tempfile.TemporaryFile() as sent:
            why = execute(job, sent, deadline, isolated)
            sent.seek(0)
            found["cell"] = {}
            for line in sent:
                with contextlib.suppress(Exception):  # it may say anything
                    kind, key, value = json.loads(line[:LONGEST])
                    found[kind][key] = value if kind == "answers" else str(value)
        cell = next(reversed(found["cell"]), 0)  # which is before the first
        if "cells" in found["done"] or cell in skip or time.monotonic() > deadline - 10:
            asked = "while it was asked" if "cells" in found["done"] else f"in cell {cell}"
            return found | {"stopped": "" if "questions" in found["done"] else f"{asked}: {why}"}
        skip.append(cell)
        found["remarks"][cell] = f"cell {cell} was left out, because {why}"


def execute(job, sent, deadline, isolated):
    """Let a process do a job and send what it has to say; why it ended before it was done."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        json.dump(job, given, default=np.ndarray.tolist)
        given.seek(0)
        command = [sys.executable, "-I", "-B", "/run/inside.py" if isolated else str(HERE / "inside.py")]
        command, options = ([*bubblewrap(), *command], account()) if isolated else (command, {"cwd": scratch})
        process = subprocess.Popen(command, stdin=given, stdout=sent, stderr=subprocess.DEVNULL, env=ENVIRONMENT,
                                   start_new_session=True, **options)
        below, why = [], ""
        while not why:
            time.sleep(0.1)
            ended = "" if process.poll() is None else "it ends the process, or does not react to an interrupt"
            with contextlib.suppress(psutil.NoSuchProcess):
                below = psutil.Process(process.pid).children(recursive=True)
            why = "its time is over" if time.monotonic() > deadline else too_much(below, sent) or ended
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with which all end that is in the sandbox
        process.wait()
        psutil.wait_procs(below, timeout=5)
    return why


def too_much(processes, sent):
    """What processes take too much of, all together, in words."""
    if len(processes) > PROCESSES:
        return f"it starts more than {PROCESSES} processes"
    if os.fstat(sent.fileno()).st_size > MOST:
        return "it sends more than the questions ask for"
    memory = 0
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess, AttributeError):
            facts = each.as_dict(["memory_full_info", "memory_info"])
            known = facts["memory_full_info"] or facts["memory_info"]  # of another user's processes the latter alone
            memory += getattr(known, "pss", known.rss)
    machine = psutil.virtual_memory()  # where it is short, those that take most of it go first
    if memory > (MEMORY if machine.available > machine.total / 20 else MEMORY // 3):
        return f"it takes too much memory (more than {MEMORY >> 30} GB, or what the machine has left)"
    return ""
