"""A part of the notebook under conditions that may change speed, but no bit of what is trained and no digit of what is kept.

Each condition runs this file as a program, which prints what it computed: the digest of trained weights, and measures of
flows and kernel density estimates. Weights have to be equal to the bit, measures to eight digits.
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
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from notebook import ROOT, load_definitions
from rerun import read_results

pytestmark = pytest.mark.slow


def vector_features():
    """All that NumPy dispatches by the processor, as NPY_DISABLE_CPU_FEATURES wants it."""
    umath = importlib.import_module("numpy._core._multiarray_umath")
    found = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]
    return " ".join(found)


ALONE = {"LOKY_MAX_CPU_COUNT": "1"}  # no other processes: one stack after the other in this one
CONDITIONS = {
    "one stack after the other, two threads in each operation":
        {**ALONE, "THREADS": "2", "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},  # else they wait at full speed
    "torch and MKL without AVX-512, NumPy and OpenBLAS without AVX":
        {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "NPY_DISABLE_CPU_FEATURES": vector_features(),
         "OPENBLAS_CORETYPE": "Nehalem"},
}
EMULATOR = shutil.which("qemu-x86_64") if platform.machine() == "x86_64" else None


def digest(*arrays):
    """Of all numbers in some arrays."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def numbers_of(flows):
    return [parameter.detach().numpy() for flow in flows for parameter in flow.parameters()]


def weights():
    """Train two flows for two epochs, one by one and together."""
    nb, found = load_definitions(), {}
    for name in ("train", "train_together"):
        torch.manual_seed(8)
        flows, data = [nb.CouplingFlow(4) for _ in range(2)], [nb.ToyDataset(name, 500) for name in ("Moons", "Circles")]
        if name == "train":
            for pair in zip(flows, data):
                nb.train(*pair, 2)
        else:
            nb.train_together(flows, data, 2)
        found[name] = digest(*numbers_of(flows))
    return found


def measure():
    """Train flows of four shapes in both ways for a while, and take the measures that figures draw of them and of kernels."""
    nb, found = load_definitions(), {}
    torch.set_num_threads(int(os.environ.get("THREADS", 1)))
    configurations = [nb.Configuration("Moons"), nb.Configuration(num_samples=3000), nb.Configuration(num_layers=2)]
    prepared = [[nb.prepare(configuration, run) for run in range(4)] for configuration in configurations]
    trained = nb.side_by_side(nb.train_stack, *zip(*(zip(*runs) for runs in prepared)), [[10, 20], [10], [20]])
    flows = {(configuration, epochs): nb.unstack(stacked, [nb.copy.deepcopy(flow) for flow, _ in runs])
             for configuration, runs, looked in zip(configurations, prepared, trained)
             for epochs, (stacked, _) in looked.items()}
    nb.NUM_RUNS = 1
    torch.set_num_threads(1)  # as in the notebook: with more, products of the larger matrices that follow are other sums
    digits, image_flow = nb.Digits(0), nb.CouplingFlow(8, dim=64, hidden=64)
    z = digits.to_normal(digits.train)
    nb.descend(image_flow, lambda: torch.from_numpy(z).float(), epochs=3, rate=0.003, weight_decay=1.0)
    for (configuration, epochs), runs in flows.items():
        for run, flow in enumerate(runs):
            found[f"{configuration} {epochs} {run}"] = nb.measure(configuration, run, flow)
    densities, = nb.learn_densities("Circles", flows[configurations[0], 20][:1])
    truth = nb.toy_truth(nb.TASK_9["Circles"])
    found["learned"] = [nb.total_variation(truth, density, nb.TOY_GRIDS["Circles"]) for density in densities]
    found["digits"] = nb.bandwidth_by_likelihood(z), digits.bits_per_pixel(lambda x: nb.flow_log_density(image_flow, x))
    density = nb.estimate(nb.sample_spiral(2000, np.random.default_rng(2)), 0.1, nb.GRIDS["spiral"])
    found["kernel"] = nb.total_variation(nb.GRIDS["spiral"].values(nb.spiral_density), density, nb.GRIDS["spiral"]),
    found["h"] = [nb.lowest(lambda h: sum(nb.exact_mise(h, 0.5, 10_000)))]
    return {key: [f"{value:.8g}" for value in values] for key, values in found.items()} | {
        "weights": digest(*numbers_of([*sum(flows.values(), []), image_flow])), "pixels": digest(z)}


def kernels():
    """The numbers of the kernels over the notebook's runs, as it keeps them."""
    nb = load_definitions()
    for dist_type, grid in nb.TOY_GRIDS.items():
        samples = [nb.sample_2d_datasets(dist_type, 1500, run) for run in range(nb.NUM_RUNS)]
        truth, estimates = nb.toy_truth(nb.TASK_9[dist_type]), (
            nb.estimate(each, nb.bandwidth_by_likelihood(each), grid) for each in samples)
        distances = [nb.total_variation(truth, density, grid) for density in estimates]
        nb.keep(f"beyond.kernel.{dist_type}.total_variation.mean", np.mean(distances), ".3f")
    return {key: float(text) for key, text in nb.RESULTS.items()}


def clean_environment():
    environment = {key: value for key, value in os.environ.items() if key not in ("MKL_CBWR", "ATEN_CPU_CAPABILITY")}
    return environment | {"PYTHONPATH": os.pathsep.join(sys.path), "TQDM_DISABLE": "1"}


def under(*emulator, function=measure, **condition):
    """What a function gives in a process of its own."""
    command = [*emulator, sys.executable, __file__, function.__name__]
    done = subprocess.run(command, env={**clean_environment(), **condition}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def as_here():
    return under()


@pytest.fixture(scope="module")
def weights_here():
    return under(function=weights, **ALONE)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_same_bits_and_digits(as_here, condition):
    found = under(**CONDITIONS[condition])
    assert {key: (value, found[key]) for key, value in as_here.items() if found[key] != value} == {}


def test_the_same_bits_and_digits_on_colabs_versions(as_here, colab_packages):
    assert under(PYTHONPATH=os.pathsep.join([str(colab_packages), *sys.path])) == as_here


def test_the_committed_numbers_of_the_kernels_on_colabs_versions(colab_packages):
    committed = {key: value for key, value in read_results(ROOT).items() if key.startswith("beyond.kernel.")}
    found = under(function=kernels, PYTHONPATH=os.pathsep.join([str(colab_packages), *sys.path]))
    assert found == committed and found


@pytest.mark.skipif(not EMULATOR, reason="there is no qemu-x86_64: no processor of another maker was emulated")
def test_the_same_bits_on_an_emulated_processor_of_another_maker(weights_here):
    other = "Haswell-noTSX" if "AuthenticAMD" in Path("/proc/cpuinfo").read_text() else "EPYC-Milan"
    assert under(EMULATOR, "-cpu", other, function=weights, **ALONE) == weights_here


def test_free_bits_would_show(weights_here):
    if not torch.backends.mkl.is_available():
        pytest.skip("PyTorch computes without MKL here: there are no bits to fix")
    free = under(function=weights, MKL_CBWR="AUTO", **ALONE)
    assert all(free[name] != weights_here[name] for name in free), "on this machine the tests above cannot fail"


def said_of_the_arithmetic(*before):
    """What the notebook says of its arithmetic, in a process that has executed some statements before."""
    code = ["import os, torch", "torch.set_num_threads(1)", *before, "os.environ.setdefault('MKL_CBWR', 'COMPATIBLE')",
            "from notebook import code_cells, load_definitions, source", "nb = vars(load_definitions())",
            "for word in ('train_losses, valid_losses = train(', 'SAVED_CHECKSUM ='):",
            "    text = next(text for text in map(source, code_cells()) if word in text)",
            "    exec(text.replace('models[0]), data)', 'models[0]), data, epochs=5)'), nb)"]
    command = [sys.executable, "-c", "\n".join(code)]
    return subprocess.check_output(command, env={**clean_environment(), **ALONE}, text=True)


def test_the_notebook_says_which_arithmetic_it_has():
    if not torch.backends.mkl.is_available():
        pytest.skip("PyTorch computes without MKL here: there are no bits to fix")
    assert "The arithmetic is that of the saved run." in said_of_the_arithmetic()
    for before in ("torch.ones(64, 64) @ torch.ones(64, 64)", "os.environ['MKL_CBWR'] = 'AUTO'"):
        assert "another arithmetic" in said_of_the_arithmetic(before), before


if __name__ == "__main__":
    matplotlib.use("Agg")
    print(json.dumps(globals()[sys.argv[1]]()))
