"""A part of the notebook under conditions that may change speed, but no bit of what is trained and no digit of what is kept.

Each condition runs this file as a program, which prints what it computed: the digest of trained weights, and measures of
flows and kernel density estimates. They have to be equal to the bit, as a figure's file shows more digits than are recorded.
On an emulated processor, where all takes many times as long, weights of a short training have to do.
"""

import hashlib
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import matplotlib
import pytest
import torch

from notebook import ROOT, load_definitions
from rerun import RELATIVE, read_results

pytestmark = pytest.mark.slow


def vector_features():
    """All that NumPy dispatches by the processor, as NPY_DISABLE_CPU_FEATURES wants it."""
    umath = importlib.import_module("numpy._core._multiarray_umath")
    found = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]
    return " ".join(found)


CONDITIONS = {
    "one stack after the other, two threads in each operation":
        {"WORKERS": "1", "THREADS": "2", "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},  # else they wait at full speed
    "torch and MKL without AVX-512, NumPy and OpenBLAS without AVX":
        {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "NPY_DISABLE_CPU_FEATURES": vector_features(),
         "OPENBLAS_CORETYPE": "Nehalem"},
}
EMULATOR = shutil.which("qemu-x86_64") if platform.machine() == "x86_64" else None


def digest(models):
    """Of all weights of some flows."""
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for model in models for p in model.parameters())).hexdigest()


def weights():
    """Train two flows for two epochs, by the plain loop and together."""
    nb, found = load_definitions(), {}
    torch.set_num_threads(1)

    def train_in_turn(flows, datasets, epochs):
        return [nb["train"](*one, epochs) for one in zip(flows, datasets)]

    for train in (train_in_turn, nb["train_together"]):
        torch.manual_seed(8)
        flows, datasets = zip(*((nb["CouplingFlow"](4), nb["ToyDataset"](name, 500)) for name in ("Moons", "Circles")))
        found[train.__name__] = digest(model for model, *_ in train(flows, datasets, epochs=2))
    return found


def measure():
    """Train flows of four shapes by two recipes for a while, and take the measures that figures draw of them and of kernels."""
    nb, found = load_definitions(), {}
    torch.set_num_threads(int(os.environ.get("THREADS", 1)))
    os.cpu_count = lambda: int(os.environ.get("WORKERS", 2))
    arms = {"K2": nb["Arm"]("GaussiansRot", 20, 2), "K4": nb["Arm"]("GaussiansRot", 20),
            "Moons": nb["Arm"]("Moons", epochs=20, num_samples=3000)}
    modes = {"modes": nb["Arm"]("Circles", epochs=20, prior=partial(nb["MixturePrior"], nb["NUM_MODES"]))}
    runs = {**nb["train_arms"](arms, range(5)), **nb["train_arms"](modes, range(3), nb["DECAY"])}
    torch.set_num_threads(1)  # as in the notebook: MKL promises the same bits for one number of threads only
    tables = {name: nb["tabulate"](partial(nb["evaluate"], arm), runs[name]) for name, arm in {**arms, **modes}.items()}
    for dist_type in nb["TOY_SETS"]:
        samples = nb["sample_2d_datasets"](dist_type, 1500)
        tables[f"kde.{dist_type}"] = nb["tabulate"](partial(nb["evaluate_kernel"], dist_type), [samples])
    for name, table in tables.items():
        found |= {f"{name}.{key}.{i}": value for key, values in table.items() for i, value in enumerate(values.tolist())}
    mixture = nb["distribution"]("mixture_half", "", (-2.5, 4.5), *nb["MIXTURE"], sigma=0.5, means=nb["MEANS"])
    found |= zip(("bias", "variance", "error"), nb["simulated_mise"](mixture, 0.1, nb["np"].random.default_rng(2)).tolist())
    found["h"] = float(nb["best_mise_bandwidth"](0.5, 10_000))
    return {"weights": digest(run.model for each in runs.values() for run in each), **found}


def kernels():
    """The numbers of the kernels over the notebook's runs, as it records them."""
    nb = load_definitions()
    for dist_type in nb["TOY_SETS"]:
        samples = [nb["sample_2d_datasets"](dist_type, 1500, run) for run in range(nb["NUM_RUNS"])]
        measured, key = nb["tabulate"](partial(nb["evaluate_kernel"], dist_type), samples), f"beyond.kernel.{dist_type}"
        nb["record"](f"{key}.total_variation.mean", measured["total_variation"].mean())
        for measure in ("kl_nats", "stray_mass"):
            nb["record"](f"{key}.{measure}.median", nb["np"].median(measured[measure]))
        if dist_type == "GaussiansGrid":
            nb["record_mean"]("beyond.grid.h", measured["h"])
    nb["record"]("beyond.grid.best_h_mise", nb["best_mise_bandwidth"](0.5, 1500))
    return nb["RESULTS"]


def under(*emulator, function=measure, **condition):
    """What a function gives in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key not in ("MKL_CBWR", "ATEN_CPU_CAPABILITY")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [*emulator, sys.executable, __file__, function.__name__]
    done = subprocess.run(command, env={**environment, **condition}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def as_here():
    return under()


@pytest.fixture(scope="module")
def weights_here():
    return under(function=weights)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_same_bits_and_digits(as_here, condition):
    found = under(**CONDITIONS[condition])
    assert {key: (value, found[key]) for key, value in as_here.items() if found[key] != value} == {}
    assert len(found) > 100


def test_the_same_bits_and_digits_on_colabs_versions(as_here, colab_packages):
    assert under(PYTHONPATH=os.pathsep.join([str(colab_packages), *sys.path])) == as_here


def test_the_committed_numbers_of_the_kernels_on_colabs_versions(colab_packages):
    committed = {key: value for key, value in read_results(ROOT).items() if key.startswith(("beyond.kernel.", "beyond.grid."))}
    found = under(function=kernels, PYTHONPATH=os.pathsep.join([str(colab_packages), *sys.path]))
    assert found == pytest.approx(committed, rel=RELATIVE)


@pytest.mark.skipif(not EMULATOR, reason="there is no qemu-x86_64: no processor of another maker was emulated")
def test_the_same_bits_on_an_emulated_processor_of_another_maker(weights_here):
    other = "Haswell-noTSX" if "AuthenticAMD" in Path("/proc/cpuinfo").read_text() else "EPYC-Milan"
    assert under(EMULATOR, "-cpu", other, function=weights) == weights_here


def test_free_bits_would_show(weights_here):
    if not torch.backends.mkl.is_available():
        pytest.skip("PyTorch computes without MKL here: there are no bits to fix")
    free = under(function=weights, MKL_CBWR="AUTO")
    assert all(free[name] != weights_here[name] for name in free), "on this machine the tests above cannot fail"


def said_of_the_arithmetic(*before):
    """What the notebook says of its arithmetic, in a process that has executed some statements before."""
    code = ["import os, torch", "torch.set_num_threads(1)", *before, "os.environ.setdefault('MKL_CBWR', 'COMPATIBLE')",
            "from notebook import code_cells, load_definitions, source", "nb = load_definitions()",
            "nb.update(say=print, bound='')",
            "exec(next(source(cell) for cell in code_cells() if 'DIGEST = ' in source(cell)), nb)"]
    environment = {key: value for key, value in os.environ.items() if key != "MKL_CBWR"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.check_output([sys.executable, "-c", "\n".join(code)], env=environment, text=True)


def test_the_notebook_says_which_arithmetic_it_has():
    if not torch.backends.mkl.is_available():
        pytest.skip("PyTorch computes without MKL here: there are no bits to fix")
    assert "This is the arithmetic of the report" in said_of_the_arithmetic()
    for before in ("torch.ones(64, 64) @ torch.ones(64, 64)", "os.environ['MKL_CBWR'] = 'AUTO'"):
        assert "another arithmetic than that of the report" in said_of_the_arithmetic(before), before


if __name__ == "__main__":
    matplotlib.use("Agg")
    print(json.dumps(globals()[sys.argv[1]]()))
