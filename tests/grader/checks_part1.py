"""Checks of Part I, for notebooks that define its functions by our names and parameters."""

import math
from itertools import product

import numpy as np
import torch

from grading import check, compare, numbers
from reference import MEANS, mixture, plane
from solution import Fault

SAMPLING = "Part I, Task 1 (samples and true densities)"
ESTIMATE = "Part I, Task 2 (kernel density estimate)"
GRID = "Part I, Task 3 (the estimate on a grid)"

SIGNATURES = {
    "sample_gaussian_mixture": ["num_samples", "sigma", "means", "rng"],
    "sample_spiral": ["num_samples", "rng"],
    "gaussian_mixture_density": ["x", "sigma", "means"],
    "spiral_density": ["x"],
    "kernel_density_estimate": ["x", "samples", "H"],
    "kernel_density_on_grid": ["xs", "ys", "samples", "H"],
}
MANY = 100_000


def tensor(array):
    return torch.from_numpy(np.asarray(array, dtype=float))


# Gaussian mixture ----------------------------------------------------------------------------------------------------


@check(SAMPLING, "sample_gaussian_mixture spreads by sigma around each mean", SIGNATURES)
def mixture_spread(solution, sample_gaussian_mixture):
    # Means so far apart that the nearest one is the sample's own.
    drawn = sample_gaussian_mixture(MANY, 0.5, 100 * MEANS, solution.ask("generator", 0))
    drawn = numbers("the samples", drawn, MANY, 2)
    measured = (drawn - 200 * (drawn / 200).round()).std().item()
    if abs(measured - 0.5) > 0.01:
        known = {0.25: ": sigma² is used as the standard deviation", math.sqrt(0.5): ": sigma is used as the variance"}
        cause = next((words for value, words in known.items() if abs(measured - value) < 0.01), "")
        raise Fault(f"for sigma = 0.5 they spread by {measured:.3f}{cause}")


@check(SAMPLING, "sample_gaussian_mixture draws the component of each sample, with equal probabilities", SIGNATURES)
def mixture_components(solution, sample_gaussian_mixture):
    rng, counts = solution.ask("generator", 0), []
    for _ in range(300):
        drawn = numbers("the samples", sample_gaussian_mixture(400, 0.01, MEANS, rng), 400, 2)
        counts.append([(torch.cdist(drawn, tensor(mean)[None]) < 1).sum().item() for mean in MEANS])
    mean, variance = np.mean(counts, axis=0), np.var(counts, axis=0).mean()
    if np.abs(mean - 100).max() > 5 * math.sqrt(75 / 300):
        raise Fault(f"of 400 samples the four means get {', '.join(f'{share:.0f}' for share in mean)} on average, not 100 each")
    if not 60 < variance < 90:
        dealt = ": the components are dealt out in fixed numbers, so the samples are not independent" if variance < 60 else ""
        raise Fault(f"the number of samples per component has the variance {variance:.0f}, not 75{dealt}")


@check(SAMPLING, "gaussian_mixture_density is the mixture's density", SIGNATURES)
def mixture_density(gaussian_mixture_density):
    x = np.random.default_rng(0).normal(1, 1, (60, 2))
    for sigma in (0.5, 1.5):
        expected, found = tensor(mixture(x, sigma)), numbers("the density", gaussian_mixture_density(x, sigma, MEANS), 60)
        causes = {
            "sigma is used as the variance": tensor(mixture(x, math.sqrt(sigma))),
            "sigma² is used as the standard deviation": tensor(mixture(x, sigma**2)),
            "the factor 1/M is forgotten": 4 * expected,
            "the factor 1/(2πσ²) is forgotten": expected * 2 * math.pi * sigma**2,
            "it has the factor of one dimension": expected * math.sqrt(2 * math.pi) * sigma,
        }
        compare(f"the density for sigma = {sigma}", found, expected, lambda: causes)


# Spiral --------------------------------------------------------------------------------------------------------------

SPIRAL_MISTAKES = {
    "0.25 is used as the standard deviation, but it is the variance": {"sd": 0.25},
    "the variance is used as 0.5, but it is 0.25": {"sd": math.sqrt(0.5)},
    "negative r is left out": {"negative": False},
    "theta runs to 2π, not to 4π": {"windings": 1},
}


def spiral_samples(rng, num_samples, sd=0.5, negative=True, windings=2):
    theta = rng.uniform(0, 2 * np.pi * windings, num_samples)
    r = rng.normal(theta / 2, sd)
    r = r if negative else np.abs(r)
    return np.stack([r * np.cos(theta), r * np.sin(theta)], axis=1)


def cells(x):
    """Counts of samples in the cells of a raster, half of which lies close to the origin, where r can be negative."""
    edges = np.concatenate([np.arange(-9, -1, 1), np.arange(-1, 1.01, 0.25), np.arange(2, 10, 1)])
    return np.histogram2d(*x.T, [edges, edges])[0]


def chi_square(counts, reference):
    """χ² per cell of two sets of counts, about 1 if they are from one distribution."""
    scale = counts.sum() / reference.sum()
    enough = scale * reference > 20
    return ((counts - scale * reference) ** 2 / (scale * reference * (1 + scale)))[enough].mean()


@check(SAMPLING, "sample_spiral fills the plane like the spiral", SIGNATURES)
def spiral_sampler(solution, sample_spiral):
    drawn = numbers("the samples", sample_spiral(MANY, solution.ask("generator", 0)), MANY, 2).numpy()
    counts, rng = cells(drawn), np.random.default_rng(1)
    measured = chi_square(counts, cells(spiral_samples(rng, 10 * MANY)))
    if not measured < 1.6:
        causes = (cause for cause, mistake in SPIRAL_MISTAKES.items()
                  if chi_square(counts, cells(spiral_samples(rng, 10 * MANY, **mistake))) < 1.6)
        raise Fault(f"χ² per cell is {measured:.1f} instead of 1: {next(causes, 'no usual mistake gives these samples')}")


def spiral(x, sd=0.5, negative=True, windings=2, jacobian=True):
    """Density of the spiral, summed over the angles that lead to a point, or that of a mistake."""
    rho, phi = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0]) % (2 * np.pi)
    total = 0
    for half_turn in range(-1, 2 * windings + 1):
        theta, r = phi + half_turn * np.pi, rho * (-1) ** half_turn
        on = (theta >= 0) & (theta <= 2 * np.pi * windings)
        if half_turn % 2 == 0 or negative:
            total = total + on * np.exp(-((r - theta / 2) ** 2) / (2 * sd**2)) / math.sqrt(2 * np.pi * sd**2)
    return total / (2 * np.pi * windings) / (rho if jacobian else 1)


@check(SAMPLING, "spiral_density is the spiral's density", SIGNATURES)
def spiral_formula(spiral_density):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.5, (60, 2)), rng.normal(0, 3.5, (60, 2))])
    rho, found = tensor(np.hypot(*x.T)), numbers("the density", spiral_density(x), 120)
    mistakes = SPIRAL_MISTAKES | {"the factor 1/ρ is forgotten": {"jacobian": False}}
    causes = {"only the first winding is counted": tensor(spiral(x, windings=1)) / 2 * rho}
    causes |= {cause: tensor(spiral(x, **mistake)) * rho for cause, mistake in mistakes.items()}
    compare("the density times ρ", found * rho, tensor(spiral(x)) * rho, lambda: causes)


# Kernel density estimate ---------------------------------------------------------------------------------------------

ARGUMENTS = {  # what the kernel gets for u = x_i - x
    "": lambda u, H: u @ np.linalg.inv(H).T,
    "H is squared": lambda u, H: u @ np.linalg.inv(H @ H).T,
    "H is not inverted": lambda u, H: u @ H.T,
    "H is transposed": lambda u, H: u @ np.linalg.inv(H),
}
FACTORS = {  # what stands where 1/|det H| belongs
    "": lambda det: 1 / abs(det),
    "det H is forgotten": lambda det: 1,
    "det H has to be an absolute value": lambda det: 1 / det,
    "det H is squared": lambda det: 1 / det**2,
    "it is multiplied by det H": lambda det: abs(det),
}


def estimate(x, samples, H, argument="", factor=""):
    """The definition with a product kernel, or a mistake in one or both of its parts."""
    u = ARGUMENTS[argument]((samples[None] - x[:, None]).reshape(-1, 2), H)
    kernel = np.exp(-(u**2).sum(1) / 2).reshape(len(x), len(samples)) / (2 * np.pi)
    return tensor(kernel.mean(1) * FACTORS[factor](np.linalg.det(H)))


def estimate_causes(x, samples, H):
    correct = estimate(x, samples, H)
    pairs = [pair for pair in product(ARGUMENTS, FACTORS) if any(pair)]
    return {" and ".join(filter(None, pair)): estimate(x, samples, H, *pair) for pair in pairs} | {
        "the factor 1/N is forgotten": correct * len(samples),
        "the factor 1/(2π) is forgotten": correct * 2 * np.pi,
        "the kernel has the factor of one dimension": correct * math.sqrt(2 * np.pi),
    }


@check(ESTIMATE, "it is right for a bandwidth matrix with different rows", SIGNATURES, H=[[0.4, 0.3], [-0.1, 0.6]])
@check(ESTIMATE, "it is right for a bandwidth matrix with negative determinant", SIGNATURES, H=[[0.0, 0.4], [0.7, 0.0]])
@check(ESTIMATE, "it is right for h = 0.5 in both directions", SIGNATURES, H=[[0.5, 0.0], [0.0, 0.5]])
def kernel_estimate(kernel_density_estimate, H):
    rng, H = np.random.default_rng(0), np.array(H)
    x, samples = rng.normal(0, 1, (30, 2)), rng.normal(0, 1, (200, 2))
    found = numbers("the estimate", kernel_density_estimate(x, samples, H), 30)
    compare("the estimate", found, estimate(x, samples, H), lambda: estimate_causes(x, samples, H))


@check(ESTIMATE, "it integrates to 1", SIGNATURES)
def kernel_mass(kernel_density_estimate):
    x = plane(np.linspace(-8, 8, 81))
    samples, H = np.random.default_rng(0).normal(0, 1, (50, 2)), np.array([[0.5, 0.4], [0.0, 0.6]])
    mass = numbers("the estimate", kernel_density_estimate(x, samples, H), len(x)).sum().item() * 0.2**2
    if abs(mass - 1) > 1e-3:
        raise Fault(f"its integral is {mass:.3g}: is it divided by |det H| and by N?")


@check(GRID, "entry [i, j] is the estimate at (xs[i], ys[j]), for a full H", SIGNATURES, H=[[0.4, 0.3], [-0.1, 0.6]])
@check(GRID, "entry [i, j] is the estimate at (xs[i], ys[j]), for a diagonal H", SIGNATURES, H=[[0.4, 0.0], [0.0, -0.7]])
def kernel_grid(kernel_density_on_grid, H):
    rng, H, axis = np.random.default_rng(0), np.array(H), np.linspace(-2, 2, 12)
    samples, ys = rng.normal(0, [1, 0.4], (200, 2)) + [0.5, -0.5], axis + 0.3
    x = plane(axis, ys)
    found = numbers("the estimate", kernel_density_on_grid(axis, ys, samples, H), 12, 12)
    correct = estimate(x, samples, H).reshape(12, 12)
    causes = {"the grid is transposed: entry [i, j] is at (xs[j], ys[i])": correct.T, "the grid is upside down": correct.flip(1)}
    causes |= {cause: value.reshape(12, 12) for cause, value in estimate_causes(x, samples, H).items()}
    compare("the estimate", found, correct, lambda: causes)


@check(GRID, "the first axis of the result belongs to xs, the second to ys", SIGNATURES)
def grid_shape(kernel_density_on_grid):
    found = kernel_density_on_grid(np.arange(3.0), np.arange(5.0), np.zeros((4, 2)), np.eye(2))
    if np.shape(found) == (5, 3):
        raise Fault("it has the shape (5, 3) for 3 xs and 5 ys: the grid is transposed")
    numbers("the result for 3 xs and 5 ys", found, 3, 5)
