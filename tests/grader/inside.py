"""The process in which a solution runs: started once, it makes a confined copy of itself for each notebook.

Four steps of forks: this process, which only waits for requests; a keeper in namespaces of its own, which ends everything
below it; the process that executes the notebook's definitions; and a copy of that one for each check, which answers the
grader's requests, so that what a check breaks is whole again for the next.
"""

import builtins
import contextlib
import ctypes
import inspect
import json
import operator
import os
import random
import resource
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import psutil
import torch

from notebook import Definitions, NoNotebook

__builtins__ = dict(vars(builtins))  # its own ones: what a solution does to the builtins does not reach it
LIMIT = 12 << 20  # bytes of a message
DTYPES = {kind.name: kind for kind in map(np.dtype, "?Bbhilefd")}  # bool, uint8, int8 to int64, float16 to float64
MEMORY, FILE_SIZE, PROCESSES, FILES = 2 << 30, 64 << 20, 48, 256  # bytes more than at the start, bytes, processes and threads
NOBODY = 65534
LINUX = ctypes.CDLL(None)
unshare, prctl, capset = (getattr(LINUX, name, lambda *arguments: -1) for name in ("unshare", "prctl", "capset"))
SPACES, NEW_USER = 0x20000 | 0x8000000 | 0x20000000 | 0x40000000, 0x10000000  # of mounts, IPC, processes, network; of users
OFTEN_IMPORTED = ("matplotlib.pyplot", "scipy.stats", "sklearn.datasets", "sklearn.neighbors", "tqdm", "IPython.display")
TOOLBOXES = ("builtins", "math", "random", "numpy", "numpy.linalg", "numpy.random", "torch", "torch.nn", "torch.autograd",
             "torch.nn.functional", "torch.optim", "torch.linalg", "torch.utils.data", "sklearn.datasets")
TOOL_CLASSES = (torch.Tensor, torch.nn.Module, torch.nn.Linear, torch.nn.LeakyReLU, torch.nn.Sequential, torch.nn.ModuleList,
                torch.optim.Adam, torch.optim.Optimizer, torch.utils.data.DataLoader, torch.distributions.Normal,
                torch.distributions.MultivariateNormal)


def pack(message, refer=None):
    """A message of plain values and arrays, and of what `refer` gives for anything else in it."""

    def encode(value):
        kind = type(value)  # whatever it says of its class
        if issubclass(kind, torch.Tensor) and str(value.dtype).removeprefix("torch.") in DTYPES:
            return {**encode(value.detach().cpu().numpy()), "grad": value.requires_grad}
        if issubclass(kind, (np.ndarray, np.generic)) and value.dtype.name in DTYPES:
            return {"$array": value.tobytes().hex(), "dtype": value.dtype.name, "shape": value.shape}
        return refer(value)

    return json.dumps(message, default=encode, check_circular=False).encode() + b"\n"


def receive(sock, resolve=None, deadline=None):
    """The next message, references in it by `resolve`; an EOFError at the end. Each is answered before another is sent."""

    def decode(data):
        if "$array" not in data:
            return resolve(data) if "$object" in data else data
        array = np.frombuffer(bytes.fromhex(data["$array"]), DTYPES[data["dtype"]]).reshape(data["shape"]).copy()
        if "grad" not in data:
            return array
        return torch.from_numpy(array).requires_grad_(bool(data["grad"]) and array.dtype.kind == "f")

    line = bytearray()
    while not line.endswith(b"\n"):
        sock.settimeout(deadline and max(deadline - time.monotonic(), 1e-3))
        if not (part := sock.recv(1 << 20)):
            raise EOFError
        line += part
        if len(line) > LIMIT:
            raise ValueError(f"expected a message of at most {LIMIT} bytes")
    return json.loads(line, object_hook=decode)


def new_namespaces():
    """Cut this process's children off from network, processes and mounts: "root" or "user" by whose right, or None."""
    uid, gid = os.getuid(), os.getgid()
    if unshare(SPACES) == 0:
        return "root"
    if unshare(SPACES | NEW_USER) == 0:
        for name, text in {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}.items():
            Path("/proc/self", name).write_text(text)
        return "user"
    return None


def confine(spaces, sock, scratch, seconds):
    """Give up all rights that a solution does not need."""
    for stream in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    os.closerange(3, sock.fileno())
    os.closerange(sock.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    if spaces:  # everything is read-only but a scratch folder and shared memory, both of limited size
        private, read_only = 1 << 18, struct.pack("4Q", 1, 0, 1 << 18, 0)
        LINUX.mount(None, b"/", None, private | 1 << 14, None)
        LINUX.mount(b"proc", b"/proc", b"proc", 0, None)
        LINUX.syscall(442, -100, b"/", 0x8000, read_only, len(read_only))  # mount_setattr
        for folder in (scratch.encode(), b"/dev/shm"):
            LINUX.mount(b"tmpfs", folder, b"tmpfs", 0, b"size=%d,mode=777" % FILE_SIZE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, it goes first
    uid = os.getuid() or NOBODY
    running = [p.info for p in psutil.process_iter(["uids", "num_threads"]) if p.info["uids"] and p.info["uids"].real == uid]
    others = 0 if spaces == "user" else sum(info["num_threads"] or 0 for info in running)
    limits = {"AS": psutil.Process().memory_info().vms + MEMORY, "CPU": seconds, "FSIZE": FILE_SIZE, "NOFILE": FILES,
              "NPROC": others + PROCESSES, "CORE": 0}
    for name, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    can_read = 0
    if os.getuid() == 0 and spaces != "user":
        os.chown(scratch, NOBODY, NOBODY)
        prctl(8, 1, 0, 0, 0)  # keep capabilities, one of which lets it read the libraries wherever they are
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        can_read = 1 << 2
    capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", can_read, can_read, 0, 0, 0, 0))
    prctl(38, 1, 0, 0, 0)  # no new privileges
    os.environ.update(dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "IPYTHONDIR"), scratch))
    os.chdir(scratch)
    tempfile.tempdir = None


def fork(function, *arguments):
    """Call a function in a copy of this process, which ends with 0 if nothing is raised; the number of the copy."""
    if (copy := os.fork()) == 0:
        try:
            function(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return copy


def main(descriptor):
    """Make a process for each request of the grader, which brings two sockets: to the solution, and to what keeps it."""
    requests = socket.socket(fileno=descriptor)
    prctl(36, 1, 0, 0, 0)  # orphans below this process become its children
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for name in OFTEN_IMPORTED:
        __import__(name)
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # which completes the class
    requests.send(b".")
    while (request := socket.recv_fds(requests, 1, 2))[0]:
        sock, control = (socket.socket(fileno=descriptor) for descriptor in request[1])
        with sock, control:
            fork(keep, sock, control)


def keep(sock, control):
    """Run the solution below this process until the grader says so or is gone; end it all, and tell how the solution ended."""
    os.setsid()
    spaces = new_namespaces()
    if os.fork():  # the copy is the first process in them
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    prctl(36, 1, 0, 0, 0)
    solution = fork(serve, spaces, sock)
    sock.close()
    control.recv(1)
    os.kill(solution, signal.SIGKILL)
    status = os.waitpid(solution, 0)[1]
    while not spaces and (rest := psutil.Process().children(recursive=True)):  # namespaces end with their first process
        for process in rest:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(rest, timeout=1)
    control.sendall(status.to_bytes(4, "big"))


def serve(spaces, sock):
    """Execute the definitions, announcing each; then answer each check's requests in a copy of this process."""
    path, skip, *limits = receive(sock)
    confine(spaces, sock, *limits)
    before = tools_now()
    sys.path.insert(0, str(Path(path).parent))

    def announce(place):
        sock.sendall(pack(["at", place]))
        receive(sock)

    try:
        definitions = Definitions(path, skip, announce)
    except (NoNotebook, MemoryError) as error:
        sock.sendall(pack(["broken", str(error) or "it takes too much memory"]))
        return
    facts = {"names": list(definitions.namespace), "failures": definitions.failures, "replaced": replaced(before),
             "float64": torch.get_default_dtype() == torch.float64, "alone": bool(spaces)}
    sock.sendall(pack(["loaded", facts]))
    before = tools_now()
    while True:
        if receive(sock) != "check":
            continue  # a late word to the last copy
        copy = fork(answer, sock, definitions, before)
        status = os.waitpid(copy, 0)[1]
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL) if spaces else os.killpg(copy, signal.SIGKILL)
        sock.sendall(pack(["end", status]))


def answer(sock, definitions, before):
    """Answer the requests of one check: [function, arguments, keyword arguments]. Objects stay here and go by number."""
    os.setpgid(0, 0)
    objects = []
    functions = {**TOOLS, "name": definitions.namespace.__getitem__, "replaced": lambda: replaced(before)}

    def refer(value):
        objects.append(value)
        return {"$object": len(objects) - 1, "type": type(value).__name__}

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    sock.sendall(pack(["ready", None]))
    while (request := receive(sock, lambda data: objects[data["$object"]])) != "done":
        function, arguments, options = request
        try:
            reply = pack(["value", functions[function](*arguments, **options)], refer)
        except BaseException as error:
            reply = pack(["error", describe(error, definitions)])
        sock.sendall(reply)


def describe(error, definitions):
    """An exception on one line, with the place in the notebook where it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("code cell")]
    place = f" in {frames[-1].name} ({frames[-1].filename}: `{frames[-1].line}`)" if frames else ""
    reasons = {**definitions.left_out, **definitions.failures}
    missing = reasons.get(getattr(error, "name", None)) or isinstance(error, NameError) and reasons.get("*")
    memory = "it runs out of memory: " if isinstance(error, MemoryError) or "allocate memory" in str(error) else ""
    return f"{memory}{type(error).__name__}{place}: {error}{f'; {missing}' if missing else ''}"


def tools_now():
    """The functions and classes that torch, NumPy and the builtins consist of, by name."""
    owners = {name: [sys.modules[name]] for name in TOOLBOXES} | {f"torch {kind.__name__}": kind.__mro__ for kind in TOOL_CLASSES}
    return {f"{owner}.{name}": value for owner, parts in owners.items() for part in reversed(parts)
            for name, value in vars(part).items() if callable(value) and name != "Storage"}  # which goes with the precision


def replaced(before):
    """Names of those that are others than before."""
    now = tools_now()
    return [name for name, value in before.items() if now.get(name) is not value]


def gradients(module, function, *arguments):
    """Whether a gradient reaches each of a module's parameters through a function's results."""
    results = function(*arguments)
    parts = results if isinstance(results, (list, tuple)) else [results]
    sum((part.square() + part).sum() for part in parts).backward()
    return {name: parameter.grad is not None and bool(parameter.grad.any()) for name, parameter in module.named_parameters()}


def watched(CouplingFlow, train, points, centre, lowest_after, **options):
    """What a flow that has but a centre to learn notes in training, its centre at the end, the returned model's, the losses."""
    notes, data = [], torch.utils.data.Subset(points, range(len(points)))
    data.data, data.num_samples = points.numpy(), len(points)

    class Watched(CouplingFlow):
        def log_probability(self, x):
            notes.append((x.detach().clone(), self.centre.detach().clone()))
            if lowest_after is None:  # else it is lowest after so many steps, whatever they do
                return -(x - (self.centre - centre)).square().sum(-1) / 2
            steps = sum(not torch.equal(a, b) for (_, a), (_, b) in zip(notes, notes[1:]))
            return (self.centre - self.centre.detach()).sum() - ((steps - lowest_after) / 10) ** 2 + 0 * x.sum(-1)

    vars(np)["Inf"] = np.inf  # so that the handout's old name for it fails where training is tried, and not here as well
    model = Watched(1)
    model.centre = torch.nn.Parameter(torch.full((2,), centre, dtype=torch.float64))
    best, *losses = train(model, data, **options)
    return notes, model.centre, best.centre, *([float(loss) for loss in part] for part in losses)


TOOLS = (getattr, hasattr, isinstance, len, operator.call, operator.getitem, np.random.default_rng, torch.manual_seed,
         gradients, watched)
TOOLS = {function.__name__: function for function in TOOLS} | {
    "afterwards": lambda function, argument: function(argument) and argument,
    "parameters": lambda module: dict(module.named_parameters()),
    "signature": lambda function: list(inspect.signature(function).parameters),
}
