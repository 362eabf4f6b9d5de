"""Time, memory and accuracy of the notebook beside the handout's own code and public libraries.

    python benchmark.py [--quick]

Prints Markdown tables and writes them to benchmark.md beside this file. --quick: fewer rounds, no tables 3 and 4, no file.
"""
import itertools
import math
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from time import perf_counter

import numpy as np

os.environ.setdefault("MKL_CBWR", "COMPATIBLE")  # as in the notebook, before torch multiplies
os.environ.setdefault("TQDM_DISABLE", "1")
import torch
import torch.nn.functional as F
from notebook import execute_alone, load_definitions
from reference import LEARNING_RATE, log_probability, plain_loop, train_epoch
from scipy.spatial.distance import cdist
from scipy.stats import gaussian_kde
from sklearn.neighbors import KernelDensity
from threadpoolctl import threadpool_limits
from torch import nn
from torch.distributions import MultivariateNormal

nb = load_definitions()
torch.set_num_threads(1)  # more are no faster at this size, and lose much time to each other when the machine is busy
threadpool_limits(1)

NUM_LAYERS, NUM_POINTS, BATCH_SIZE = 4, 1500, 64
LOOP, MANY, SCIPY = "assignment's loop", "`train_together`, 34 flows", "SciPy `gaussian_kde`"
ON_GRID, AT_POINTS, FFT = "`kernel_density_on_grid`", "`kernel_density_estimate`", "KDEpy `FFTKDE`"
OUT = Path(__file__).parent / "benchmark.md"
LINES = []


def say(text):
    """Print a block of Markdown, and keep it for the file."""
    print(text, end="\n\n", flush=True)
    LINES.append(text)


def say_table(header, rows):
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    say("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


def short(number):
    """Three significant digits, without an exponent."""
    return f"{number:,.{max(0, 2 - math.floor(math.log10(number)))}f}"


def ratio(above, below):
    """The ratio of the medians, and the smallest and largest ratio within one round."""
    if above is below:
        return "1"
    each = [a / b for a, b in zip(above, below, strict=True)]
    middle, low, high = map(short, (median(above) / median(below), min(each), max(each)))
    return f"{middle} ({low}–{high})"


def measure(contestants, rounds):
    """{name: prepare() → run()} → {name: seconds of each round of run()}, {name: what it last returned}.

    The contestants take turns, so that a change of the machine's speed meets all of them alike.
    """
    seconds, results = {name: [] for name in contestants}, {}
    for _ in range(rounds):
        for name, prepare in contestants.items():
            run = prepare()
            start = perf_counter()
            results[name] = run()
            seconds[name].append(perf_counter() - start)
    return seconds, results


class AssignmentFlow(nn.Module):
    """The flow as the assignment lays it out: its prior, and no guards against overflow."""

    def __init__(self):
        super().__init__()
        masks = F.one_hot(torch.arange(NUM_LAYERS) % 2, 2).float()
        self.layers = nn.ModuleList(nb.CouplingLayer(mask) for mask in masks)
        self.prior = MultivariateNormal(torch.zeros(2), torch.eye(2))

    def log_probability(self, x):
        return log_probability(self.layers, x, self.prior.log_prob)


def normflows_flow():
    """two networks a layer like the assignment's, their last layer starting at zero, and no `scale_factor`."""
    import normflows as nf

    layers = []
    for mask in F.one_hot(torch.arange(NUM_LAYERS) % 2, 2).float():
        t, s = (nf.nets.MLP([2, 32, 32, 2], leaky=0.01, init_zeros=True) for _ in "ts")
        layers.append(nf.flows.MaskedAffineFlow(mask, t, s))
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(2, trainable=False), layers)
    return model, model.forward_kld


def zuko_flow():
    """one network 1→32→32→2 a layer gives both shift and scale of the other coordinate; the scale is bounded below."""
    import zuko

    model = zuko.flows.NICE(2, transforms=NUM_LAYERS, hidden_features=(32, 32), activation=nn.LeakyReLU)
    return model, lambda batch: -model().log_prob(batch).mean()


def nflows_flow():
    """one network 1→32→32→2 a layer gives both shift and scale of the other coordinate; the scale is a sigmoid."""
    from nflows import distributions, flows, transforms
    from nflows.nn.nets import MLP

    class Network(MLP):
        def forward(self, inputs, context=None):  # the coupling layer passes a context, which nflows' MLP does not take
            return super().forward(inputs)

    masks = ([-1, 1] if i % 2 == 0 else [1, -1] for i in range(NUM_LAYERS))
    layers = [transforms.AffineCouplingTransform(
        mask, lambda num_in, num_out: Network([num_in], [num_out], [32, 32], F.leaky_relu)) for mask in masks]
    model = flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([2]))
    return model, lambda batch: -model.log_prob(batch).mean()


LIBRARIES = {"normflows": normflows_flow, "zuko": zuko_flow, "nflows": nflows_flow}
OURS = {"`train`, 1 flow": 1, "`train_together`, 10 flows": 10, MANY: 34}


def flow_contestants(data, batches, epochs):
    def prepare(name):
        if name == LOOP:
            model = AssignmentFlow()
            return lambda: list(plain_loop(model, data, epochs, BATCH_SIZE))
        if name in LIBRARIES:
            model, loss_of = LIBRARIES[name]()
            optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
            return lambda: [train_epoch(loss_of, optimizer, batches) for _ in range(epochs)]
        models = [nb.CouplingFlow(NUM_LAYERS) for _ in range(OURS[name])]
        if name == "`train`, 1 flow":
            return lambda: nb.train(models[0], data, epochs, BATCH_SIZE)
        return lambda: nb.train_together(models, [data] * len(models), epochs, BATCH_SIZE)

    return {name: lambda name=name: prepare(name) for name in (LOOP, *OURS, *LIBRARIES)}


def table_of_steps(rounds, epochs=50):
    """Table 1."""
    data = nb.ToyDataset("Moons", NUM_POINTS)
    torch.manual_seed(8)
    expected, _ = zip(*plain_loop(AssignmentFlow(), data, 5, BATCH_SIZE))
    torch.manual_seed(8)
    losses = nb.train(nb.CouplingFlow(NUM_LAYERS), data, 5, BATCH_SIZE)[1]
    np.testing.assert_allclose(losses, expected, rtol=1e-3, err_msg="not the same training")

    batches = nb.split(data, nb.CouplingFlow(1))[0].split(BATCH_SIZE)
    measure(flow_contestants(data, batches, 2), 1)  # what only a first call pays
    seconds, _ = measure(flow_contestants(data, batches, epochs), rounds)
    step = {name: [t / (epochs * len(batches) * OURS.get(name, 1)) for t in times] for name, times in seconds.items()}
    rows = []
    for name, times in step.items():
        model = LIBRARIES[name]()[0] if name in LIBRARIES else AssignmentFlow()
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        rows.append([name, f"{size:,}", short(1e3 * median(times)), ratio(step[LOOP], times), ratio(times, step[MANY])])
    say("## 1. One optimisation step of one flow")
    say_table(["", "learnable parameters", "ms per flow and step", f"{LOOP} ÷ this", f"this ÷ {MANY}"], rows)
    say(f"""{NUM_LAYERS} affine coupling layers in the plane, {NUM_POINTS} samples, batches of {BATCH_SIZE}
({len(batches)} steps an epoch), Adam at {LEARNING_RATE:g}.
Medians of {rounds} rounds of {epochs} epochs each; in parentheses the range over the rounds.
The assignment's loop is timed without its progress bar and its copies of the best model. It and ours include splitting
and batching the data and the validation; the libraries' rows are training steps alone, on batches cut beforehand.
Where the libraries differ:""")
    say("\n".join(f"- {name}: {build.__doc__}" for name, build in LIBRARIES.items()))
def train_task_10():
    """Seconds to train the 34 flows of Task 10 in this process, with its arithmetic, and the total variation of each."""
    start, trained = perf_counter(), {}
    for configuration in (nb.TASK_10["K=2"], nb.TASK_10["K=4"]):
        flows, sets = zip(*(nb.prepare(configuration, run) for run in range(17)))
        (stacked, _), = nb.train_stack(flows, sets, [250]).values()
        trained[configuration] = nb.unstack(stacked, flows)
    seconds = perf_counter() - start
    return seconds, [nb.measure(configuration, *each)[0] for configuration, runs in trained.items() for each in enumerate(runs)]


def table_of_bits(rounds):
    """What fixing the bits costs, and what it fixes: Task 10 with MKL's free choice of kernels and with the notebook's."""
    seconds, found = {"AUTO": [], "COMPATIBLE": []}, {}
    for _, setting in itertools.product(range(rounds), seconds):
        os.environ["MKL_CBWR"] = setting
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # which reads the setting before its first product
            elapsed, found[setting] = pool.apply(train_task_10)
        seconds[setting].append(elapsed)
    moved = np.abs(np.subtract(found["AUTO"], found["COMPATIBLE"]))
    say("## 4. Fixed bits")
    say_table(["34 flows of Task 10, MKL_CBWR", "seconds", "this ÷ AUTO"],
              [[name, short(median(times)), ratio(times, seconds["AUTO"])] for name, times in seconds.items()])
    say(f"""Medians of {rounds} rounds, in parentheses the range. Fixing the bits or not changes the total variation of a single
run by up to {short(moved.max())}, in the median by {short(np.median(moved))}.""")


def white_samples(num_samples):
    """Mixture samples with sample covariance I, so that SciPy's kernel, a multiple of it, becomes N(0, h² I)."""
    samples = nb.sample_gaussian_mixture(num_samples, 0.5, nb.MEANS, np.random.default_rng(0))
    samples -= samples.mean(0)
    return samples @ np.linalg.inv(np.linalg.cholesky(np.cov(samples.T))).T


def kde_contestants(samples, grid_size, h):
    """{name: function without arguments that estimates the density}; and the points."""
    from KDEpy import FFTKDE

    grid, H = nb.Grid(-3.5, -3.5, 7, grid_size), h * np.eye(2)
    return {
        ON_GRID: lambda: nb.kernel_density_on_grid(grid.xs, grid.ys, samples, H),
        AT_POINTS: lambda: nb.kernel_density_estimate(grid.points, samples, H),
        SCIPY: lambda: gaussian_kde(samples.T, bw_method=h)(grid.points.T),
        "scikit-learn `KernelDensity`": lambda: np.exp(
            KernelDensity(bandwidth=h, rtol=0, atol=0).fit(samples).score_samples(grid.points)),
        FFT: lambda: FFTKDE(bw=h).fit(samples).evaluate(grid.points),
    }, grid.points


def peak_memory():
    """The most memory that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def extra_memory_here(name, samples_file, grid_size):
    """By how many MB one estimate raises this process's peak."""
    samples = np.load(samples_file)
    kde_contestants(samples[:100], grid_size, 0.5)[0][name]()  # its code is loaded, its threads are started
    run, ballast, before = kde_contestants(samples, grid_size, 0.5)[0][name], [], peak_memory()
    while peak_memory() < before + 1:  # below an earlier peak, that of the imports, the estimate's own would not show
        ballast.append(np.ones(2**16))
    before = peak_memory()
    run()
    return peak_memory() - before


def extra_memory(name, samples, grid_size):
    """The same in a process of its own, as text."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
        np.save(samples_file := Path(folder, "samples.npy"), samples)
        extra = pool.apply(extra_memory_here, (name, samples_file, grid_size))
    return f"{extra:.0f}" if extra >= 1 else "< 1"


def table_of_estimates(rounds):
    """Table 2; returns the seconds of one estimate by SciPy."""
    samples, rows, scipy_seconds = white_samples(10_000), [], []
    memory = {name: extra_memory(name, samples, 100) for name in kde_contestants(samples, 100, 0.5)[0]}
    for h in (0.1, 0.5):
        np.testing.assert_allclose(gaussian_kde(samples.T, bw_method=h).covariance, h**2 * np.eye(2), atol=1e-12)
        runs, points = kde_contestants(samples, 100, h)
        exact = np.concatenate([np.exp(cdist(part, samples, "sqeuclidean") / (-2 * h**2)).mean(1) / (2 * np.pi * h**2)
                                for part in np.array_split(points, 100)])
        seen = exact > 1e-6 * exact.max()
        seconds, densities = measure({name: lambda run=run: run for name, run in runs.items()}, rounds)
        for name, times in seconds.items():
            off = np.abs(np.ravel(densities[name]) - exact)
            assert name == FFT or off.max() < 1e-9, f"{name} estimates something else"
            rows.append([name, h, short(median(times)), ratio(seconds[SCIPY], times), f"{off.max() / exact.max():.0e}",
                         f"{(off[seen] / exact[seen]).max():.0e}", memory[name]])
        scipy_seconds.append(median(seconds[SCIPY]))
    say("## 2. Kernel density estimates")
    say_table(["10 000 samples, 100 × 100 points", "h", "seconds", f"{SCIPY} ÷ this", "largest error ÷ peak",
               "largest relative error", "extra memory, MB"], rows)
    say(f"""Medians of {rounds} rounds; in parentheses the range over the rounds. The errors are against the plain sum
in float64, the relative one where the density exceeds 1e-6 of its peak. The samples are whitened: H = h I for all.
scikit-learn runs exactly (rtol = atol = 0). KDEpy approximates: it bins the samples and cuts the kernel off.
Extra memory is the rise of the peak in a process of its own.""")
    return mean(scipy_seconds)


def table_of_growth(rounds):
    rows = []
    for num_samples in (10**3, 10**4, 10**5, 10**6):
        samples, row = white_samples(num_samples), [f"{num_samples:,}"]
        for name, grid_size in ((ON_GRID, 100), (AT_POINTS, 10)):
            run = kde_contestants(samples, grid_size, 0.5)[0][name]
            seconds, _ = measure({name: lambda: run}, rounds)
            row += [short(median(seconds[name])), extra_memory(name, samples, grid_size)]
        rows.append(row)
    say_table(["samples", f"{ON_GRID}, 100 × 100, seconds", "extra memory, MB", f"{AT_POINTS}, 100 points, seconds",
               "extra memory, MB"], rows)


def seconds_per_step(epochs=100):
    """Of the assignment's loop, now."""
    start = perf_counter()
    list(plain_loop(AssignmentFlow(), nb.ToyDataset("Moons", NUM_POINTS), epochs, BATCH_SIZE))
    return (perf_counter() - start) / (epochs * math.ceil(int(0.9 * NUM_POINTS) / BATCH_SIZE))


def table_of_notebook(scipy_seconds):
    before = seconds_per_step()
    with tempfile.TemporaryDirectory() as folder:
        start = perf_counter()
        execute_alone(Path(folder))
        whole = perf_counter() - start
    per_epoch, per_epoch_3000 = (math.ceil(int(0.9 * n) / BATCH_SIZE) for n in (NUM_POINTS, 3000))
    epochs = {9: 3 * 500 + 1000, 10: 2 * 250, 11: 400, 12: 2 * 250}  # by task, with 1500 samples
    steps = sum(epochs.values()) * per_epoch + 400 * per_epoch_3000
    training, estimates = steps * (before + seconds_per_step()) / 2, 9 * scipy_seconds
    rows = [["the notebook, executed once", whole], ["the assignment's route, projected", training + estimates],
            [f"– {steps:,} steps of the {LOOP}", training], [f"– nine estimates by {SCIPY}", estimates]]
    say("## 3. The whole notebook")
    say_table(["", "seconds", "÷ the notebook", "the notebook ÷ this"],
              [[name, short(t), short(t / whole), short(whole / t)] for name, t in rows])
    say(f"""The notebook is timed once, as it stands, a step of the loop right before and after it. It also runs its checks and
draws its figures, trains {nb.NUM_RUNS} runs of each flow and the controls, and what comes after Task 12; the
assignment's route trains each flow once and draws nothing.""")


def machine():
    try:
        cpu = next(line for line in open("/proc/cpuinfo") if line.startswith("model name")).split(":")[1].strip()
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return (f"{cpu}, {os.cpu_count()} cores, {platform.system()}; Python {platform.python_version()}, "
            f"PyTorch {torch.__version__}, NumPy {np.__version__}. `train_together` uses a process for each "
            "stack, all else in tables 1 and 2 one thread.")


def main(quick):
    say("# Benchmark")
    say(machine())
    table_of_steps(rounds=2 if quick else 5)
    scipy_seconds = table_of_estimates(rounds=2 if quick else 5)
    table_of_growth(rounds=1 if quick else 3)
    if not quick:
        table_of_notebook(scipy_seconds)
        table_of_bits(rounds=2)
        part = OUT.with_suffix(".part")
        part.write_text("\n\n".join(LINES) + "\n", encoding="utf-8")
        part.replace(OUT)


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
