"""The process in which a solution runs: started once, it makes a confined copy of itself for each notebook.

Four steps of forks: this process, which only waits for requests; a keeper in namespaces of its own, which ends everything
below it; the process that executes the notebook's definitions; and a copy of that one for each check, which answers the
grader's requests, so that what a check breaks is whole again for the next.
"""

import base64
import builtins
import contextlib
import ctypes
import importlib
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

globals()["__builtins__"] = dict(vars(builtins))  # its own ones: what a solution does to the builtins does not reach it
LIMIT = 8 << 20  # bytes of a message
DTYPES = {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"}
MEMORY, FILE_SIZE, PROCESSES, FILES = 2 << 30, 64 << 20, 48, 256  # bytes more than at the start, bytes, processes and threads
NOBODY = 65534
NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
OFTEN_IMPORTED = ("matplotlib.pyplot", "scipy.stats", "sklearn.datasets", "sklearn.neighbors", "tqdm", "IPython.display")
TOOLBOXES = ("builtins", "math", "random", "numpy", "numpy.linalg", "numpy.random", "torch", "torch.nn", "torch.autograd",
             "torch.nn.functional", "torch.optim", "torch.linalg", "torch.utils.data", "sklearn.datasets")
TOOL_CLASSES = (torch.Tensor, torch.nn.Module, torch.nn.Linear, torch.nn.LeakyReLU, torch.nn.Sequential, torch.nn.ModuleList,
                torch.optim.Adam, torch.optim.Optimizer, torch.utils.data.DataLoader, torch.distributions.Normal,
                torch.distributions.MultivariateNormal)


# Messages: plain values as JSON, a line each ----------------------------------------------------------------------------


def pack(value, refer):
    """A value as JSON; what is neither plain nor an array is left to `refer`."""
    kind = type(value)  # whatever it says of its class
    if value is None or kind in (bool, int, float, str):
        return value
    if issubclass(kind, (list, tuple)):
        return {"list" if issubclass(kind, list) else "tuple": [pack(part, refer) for part in value]}
    if issubclass(kind, dict):
        return {"dict": [[pack(key, refer), pack(part, refer)] for key, part in value.items()]}
    if issubclass(kind, torch.Tensor) and str(value.dtype).removeprefix("torch.") in DTYPES:
        return {**pack(value.detach().cpu().numpy(), refer), "tensor": True, "grad": value.requires_grad}
    if issubclass(kind, (np.ndarray, np.generic)) and value.dtype.name in DTYPES:
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"array": data, "dtype": value.dtype.name, "shape": list(value.shape)}
    return refer(value)


def unpack(data, resolve):
    """The value of such JSON, references by `resolve`. A ValueError or the like if it is none."""
    if not isinstance(data, dict):
        return data
    if "list" in data or "tuple" in data:
        parts = [unpack(part, resolve) for part in data.get("list", data.get("tuple"))]
        return parts if "list" in data else tuple(parts)
    if "dict" in data:
        return {unpack(key, resolve): unpack(part, resolve) for key, part in data["dict"]}
    if "array" not in data:
        return resolve(data)
    if data["dtype"] not in DTYPES:
        raise ValueError(f"expected an array of numbers, got one of {data['dtype']}")
    array = np.frombuffer(base64.b64decode(data["array"]), data["dtype"]).reshape(data["shape"]).copy()
    if not data.get("tensor"):
        return array
    return torch.from_numpy(array).requires_grad_(bool(data["grad"]) and array.dtype.kind == "f")


def send(sock, message):
    sock.sendall(json.dumps(message).encode() + b"\n")


def receive(sock, deadline=None):
    """The next message; each is answered before another is sent. ValueError if it is none, EOFError at the end."""
    data = bytearray()
    while not data.endswith(b"\n"):
        sock.settimeout(deadline and max(deadline - time.monotonic(), 1e-3))
        if not (part := sock.recv(1 << 20)):
            raise EOFError
        data += part
        if len(data) > LIMIT:
            raise ValueError(f"expected a message of at most {LIMIT} bytes")
    return json.loads(data)


# Confinement ---------------------------------------------------------------------------------------------------------


def new_namespaces(libc):
    """Cut this process's children off from network, processes and mounts: "root" or "user" by whose right, or None."""
    spaces, uid, gid = NEW_MOUNTS | NEW_IPC | NEW_PIDS | NEW_NETWORK, os.getuid(), os.getgid()
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or forbidden
        if libc.unshare(spaces) == 0:
            return "root"
        if libc.unshare(spaces | NEW_USER) == 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
            return "user"


def confine(libc, spaces, sock, scratch, seconds):
    """Give up all rights that a solution does not need."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.closerange(3, sock.fileno())
    os.closerange(sock.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    if spaces:  # everything is read-only but a scratch folder and shared memory, both of limited size
        private, read_only = 1 << 18, struct.pack("4Q", 1, 0, 1 << 18, 0)
        libc.mount(None, b"/", None, private | 1 << 14, None)
        libc.mount(b"proc", b"/proc", b"proc", 0, None)
        libc.syscall(442, -100, b"/", 0x8000, read_only, len(read_only))  # mount_setattr
        for folder in (scratch.encode(), b"/dev/shm"):
            libc.mount(b"tmpfs", folder, b"tmpfs", 0, b"size=%d,mode=777" % FILE_SIZE)
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
    with contextlib.suppress(AttributeError):  # not Linux
        if os.getuid() == 0 and spaces != "user":
            os.chown(scratch, NOBODY, NOBODY)
            libc.prctl(8, 1, 0, 0, 0)  # keep capabilities, one of which lets it read the libraries wherever they are
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            can_read = 1 << 2
        libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", can_read, can_read, 0, 0, 0, 0))
        libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    os.environ.update(dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "IPYTHONDIR"), scratch))
    os.chdir(scratch)
    tempfile.tempdir = None


@contextlib.contextmanager
def exiting():
    """End this process, a copy, after the block: with 0 if nothing is raised."""
    try:
        yield
        os._exit(0)
    finally:
        os._exit(1)


def keep(sock, control, request):
    """Run the solution below this process until the grader says so or is gone; end it all, and tell how the solution ended."""
    libc = ctypes.CDLL(None)
    spaces = new_namespaces(libc)
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(AttributeError):
        libc.prctl(36, 1, 0, 0, 0)  # orphans below this process become its children
    if (solution := os.fork()) == 0:
        with exiting():
            confine(libc, spaces, sock, request["scratch"], request["seconds"])
            serve(sock, request, bool(spaces))
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
    os._exit(0)


def main(descriptor):
    """Answer the grader's requests for a process, each of which brings two sockets."""
    requests = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in OFTEN_IMPORTED:
        importlib.import_module(name)
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # which completes the class
    requests.send(b".")
    while True:
        data, descriptors, *_ = socket.recv_fds(requests, 1 << 20, 2)
        if not data:
            return
        sock, control = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        if os.fork() == 0:
            requests.close()
            os.setsid()
            keep(sock, control, json.loads(data))
        sock.close()
        control.close()


# What answers the grader's requests -----------------------------------------------------------------------------------


def serve(sock, request, alone):
    """Execute the definitions, announcing each; then answer each check's requests in a copy of this process."""
    before = tools_now()
    sys.path.insert(0, str(Path(request["path"]).parent))

    def announce(place):
        send(sock, {"at": place})
        receive(sock)

    try:
        definitions = Definitions(request["path"], request["skip"], announce)
    except (NoNotebook, MemoryError) as error:
        send(sock, {"broken": str(error) or "it takes too much memory"})
        return
    facts = {"failures": definitions.failures, "replaced": replaced(before),
             "names": list(definitions.namespace), "float64": torch.get_default_dtype() == torch.float64, "alone": alone}
    send(sock, {"loaded": facts})
    before = tools_now()
    while True:
        if receive(sock) != "check":
            continue  # a late word to the last copy
        if (copy := os.fork()) == 0:
            with exiting():
                os.setpgid(0, 0)
                answer(sock, definitions, before)
        status = os.waitpid(copy, 0)[1]
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL) if alone else os.killpg(copy, signal.SIGKILL)
        send(sock, {"end": status})


def answer(sock, definitions, before):
    """Answer the requests of one check: [function, arguments, keyword arguments]. Objects stay here and go by number."""
    objects = []
    functions = {**TOOLS, "name": definitions.namespace.__getitem__, "replaced": lambda: replaced(before)}

    def refer(value):
        objects.append(value)
        return {"object": len(objects) - 1, "type": type(value).__name__}

    for module in (random, np.random):
        module.seed(0)
    torch.manual_seed(0)
    send(sock, "ready")
    while (request := receive(sock)) != "done":
        try:
            function, arguments, options = (unpack(part, lambda data: objects[data["object"]]) for part in request)
            reply = {"value": pack(functions[function](*arguments, **options), refer)}
        except BaseException as error:
            reply = {"error": describe(error, definitions)}
        send(sock, reply)


def describe(error, definitions):
    """An exception on one line, with the place in the notebook where it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("code cell")]
    place = f" in {frames[-1].name} ({frames[-1].filename}: `{frames[-1].line}`)" if frames else ""
    reasons = {**definitions.left_out, **definitions.failures}
    missing = reasons.get(getattr(error, "name", None)) or isinstance(error, NameError) and reasons.get("*")
    memory = "it runs out of memory: " if isinstance(error, MemoryError) or "allocate memory" in str(error) else ""
    return f"{memory}{type(error).__name__}{place}: {error}{f'; {missing}' if missing else ''}"


def tools_now():
    """What torch, NumPy and the builtins consist of."""
    owners = {name: sys.modules[name] for name in TOOLBOXES} | {f"torch {kind.__name__}": kind for kind in TOOL_CLASSES}
    parts = {owner: reversed(getattr(holder, "__mro__", [holder])) for owner, holder in owners.items()}
    return {owner: {name: value for part in inherited for name, value in vars(part).items() if name != "Storage"}
            for owner, inherited in parts.items()}  # torch.set_default_dtype sets torch.Storage


def replaced(before):
    """Names of the functions and classes of torch, NumPy and the builtins that are others than before."""
    now = tools_now()
    return [f"{owner}.{name}" for owner, holder in before.items() for name, value in holder.items()
            if now[owner].get(name) is not value and callable(value)]


def parameters(module):
    return dict(module.named_parameters())


def assign(module, values):
    """Give parameters other values."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in values:
                parameter.copy_(values[name])


def gradients(module, function, *arguments):
    """Whether a gradient reaches each of a module's parameters through a function's results."""
    results = function(*arguments)
    parts = results if isinstance(results, (list, tuple)) else [results]
    sum((part.square() + part).sum() for part in parts).backward()
    return {name: parameter.grad is not None and bool(parameter.grad.any()) for name, parameter in module.named_parameters()}


class Points(torch.utils.data.Dataset):
    """A dataset of given points, (N, 2)."""

    def __init__(self, points):
        self.data, self.num_samples = points.numpy(), len(points)

    def __len__(self):
        return self.num_samples

    def __getitem__(self, index):
        return torch.from_numpy(self.data[index])


def watched(CouplingFlow, train, points, centre, lowest_after, **options):
    """Let `train` train a flow that has but a centre to learn, and notes the batch and the centre at each call.

    Its loss is the half squared distance from the centre or, with `lowest_after`, lowest after so many steps whatever they
    do. Returns the notes, the centre at the end, that of the model returned, and the losses.
    """
    notes = []

    class Watched(CouplingFlow):
        def log_probability(self, x):
            notes.append((x.detach().clone(), self.centre.detach().clone()))
            if lowest_after is None:
                return -(x - (self.centre - centre)).square().sum(-1) / 2
            steps = sum(not torch.equal(a, b) for (_, a), (_, b) in zip(notes, notes[1:]))
            return (self.centre - self.centre.detach()).sum() - ((steps - lowest_after) / 10) ** 2 + 0 * x.sum(-1)

    vars(np)["Inf"] = np.inf  # so that the handout's old name for it fails where training is tried, and not here as well
    model = Watched(1)
    model.centre = torch.nn.Parameter(torch.full((2,), centre, dtype=torch.float64))
    best, *losses = train(model, Points(points), **options)
    return notes, model.centre, best.centre, *([float(loss) for loss in part] for part in losses)


TOOLS = {function.__name__: function for function in (parameters, assign, gradients, watched, getattr, hasattr, len, isinstance)}
TOOLS |= {
    "afterwards": lambda function, argument: function(argument) and argument,
    "call": lambda function, *arguments, **options: function(*arguments, **options),
    "item": operator.getitem,
    "generator": np.random.default_rng,
    "seed": torch.manual_seed,
    "signature": lambda function: list(inspect.signature(function).parameters),
}
