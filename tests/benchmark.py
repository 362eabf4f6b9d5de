"""Program: prints how long training and estimates take in the notebook, the handout's loop and SciPy."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from statistics import median
from time import perf_counter

import numpy as np
import torch
from scipy.stats import gaussian_kde
from threadpoolctl import threadpool_limits
from torch.distributions import MultivariateNormal

from cells import NOTEBOOK, ROOT, load_definitions
from reference import plain_loop, plane

nb = load_definitions()
threadpool_limits(1)  # more are no faster at this size, and lose much time to each other when the machine is busy
ROUNDS, EPOCHS, NUM_LAYERS, STEPS = 5, 50, 4, 22
ASSIGNED = 22 * (2500 + 500 + 400 + 500) + 43 * 400  # steps that Tasks 9, 10, 11 and 12 ask for


def timed(function, *arguments, **options):
    start = perf_counter()
    function(*arguments, **options)
    return perf_counter() - start


def compare(title, contestants):
    """Print a table of {name: (function, how many things it does)}: seconds for one, and relative to the first."""
    seconds = {name: [] for name in contestants}
    for _ in range(ROUNDS):  # in turns, so that the machine's moods meet all alike
        for name, (function, count) in contestants.items():
            seconds[name].append(timed(function) / count)
    first = next(iter(seconds.values()))
    print(f"\n| {title} | seconds | times faster than the first (range over {ROUNDS} rounds) |\n|---|---:|---:|")
    for name, each in seconds.items():
        faster = sorted(a / b for a, b in zip(first, each))
        print(f"| {name} | {median(each):.2g} | {median(faster):.3g} ({faster[0]:.3g} to {faster[-1]:.3g}) |")


def assignments_flow():
    """The flow with the assignment's prior."""
    flow = nb.CouplingFlow(NUM_LAYERS)
    flow.prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    return flow


def together(count):
    """Two stacks, side by side."""
    train = partial(nb.train_together, datasets=[data] * (count // 2), epochs=EPOCHS)
    halves = [[nb.CouplingFlow(NUM_LAYERS) for _ in range(count // 2)] for _ in range(2)]
    return lambda: nb.side_by_side(train, halves), EPOCHS * STEPS * count


print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}")
data = nb.ToyDataset("Moons", 1500)
compare("one step of one flow", {
    "the assignment's loop": (lambda: list(plain_loop(assignments_flow(), data, EPOCHS)), EPOCHS * STEPS),
    "`train`": (lambda: nb.train(nb.CouplingFlow(NUM_LAYERS), data, EPOCHS), EPOCHS * STEPS),
    **{f"`train_together`, {count} flows": together(count) for count in (10, 34)}})

samples, xs = nb.sample_gaussian_mixture(10_000, 0.5, nb.MEANS, np.random.default_rng(0)), np.linspace(-2, 4, 100)
points, h, H = plane(xs), 0.2, 0.2 * np.eye(2)
compare("an estimate, 10 000 samples, 100 × 100 points", {
    "SciPy `gaussian_kde`": (lambda: gaussian_kde(samples.T, h)(points.T), 1),
    "`kernel_density_estimate`": (lambda: nb.kernel_density_estimate(points, samples, H), 1),
    "`kernel_density_on_grid`": (lambda: nb.kernel_density_on_grid(xs, xs, samples, H), 1)})


def seconds_a_step():
    return timed(lambda: list(plain_loop(assignments_flow(), data, 4 * EPOCHS))) / (4 * EPOCHS * STEPS)


with tempfile.TemporaryDirectory() as folder:
    execute = [sys.executable, ROOT / "tests" / "execute.py", shutil.copy(NOTEBOOK, folder)]
    before, run_all, after = seconds_a_step(), timed(subprocess.run, execute, check=True), seconds_a_step()
share = run_all / ASSIGNED / np.mean([before, after])
print(f"\nRun all takes {run_all:.0f} s, {share:.2f} of what the assignment's {ASSIGNED} steps take in its own loop.")
