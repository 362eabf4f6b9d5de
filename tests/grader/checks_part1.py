"""Checks of Part I, for notebooks that define its functions by our names and parameters."""

import math
from functools import partial
from itertools import product

import numpy as np
import torch

from grading import PREPARED, SIGNATURES, checks, compare, expect, numbers
from reference import MEANS, kernel_estimate, mixture, plane
from solution import Fault

SIGNATURES |= {
    "sample_gaussian_mixture": ["num_samples", "sigma", "means", "rng"],
    "sample_spiral": ["num_samples", "rng"],
    "gaussian_mixture_density": ["x", "sigma", "means"],
    "spiral_density": ["x"],
    "kernel_density_estimate": ["x", "samples", "H"],
    "kernel_density_on_grid": ["xs", "ys", "samples", "H"],
}
MANY, NUM, FULL = 100_000, 200, np.array([[0.4, 0.3], [-0.1, 0.6]])
PREPARED["rng"] = lambda solution: solution.ask("default_rng", 0)


def mixture_spread(sample_gaussian_mixture, rng):
    # Means so far apart that the nearest one is the sample's own.
    drawn = numbers("the samples", sample_gaussian_mixture(MANY, 0.5, 100 * MEANS, rng), MANY, 2)
    measured = (drawn - 200 * (drawn / 200).round()).std().item()
    known = {0.25: ": sigma² is used as the standard deviation", math.sqrt(0.5): ": sigma is used as the variance"}
    cause = next((words for value, words in known.items() if abs(measured - value) < 0.01), "")
    expect(abs(measured - 0.5) < 0.01, f"for sigma = 0.5 they spread by {measured:.3f}{cause}")


def mixture_components(sample_gaussian_mixture, rng):
    drawn = [numbers("the samples", sample_gaussian_mixture(400, 0.01, MEANS, rng), 400, 2) for _ in range(300)]
    counts = (torch.cdist(torch.stack(drawn), torch.from_numpy(MEANS)) < 1).sum(1).double()
    shares, variance = counts.mean(0), counts.var(0, correction=0).mean()
    words = f"of 400 samples the four means get {', '.join(f'{share:.0f}' for share in shares)} on average, not 100 each"
    expect((shares - 100).abs().max() <= 5 * math.sqrt(75 / 300), words)
    dealt = ": the components are dealt out in fixed numbers, so the samples are not independent" if variance < 60 else ""
    expect(60 < variance < 90, f"the number of samples per component has the variance {variance:.0f}, not 75{dealt}")


def mixture_density(gaussian_mixture_density):
    x = np.random.default_rng(0).normal(1, 1, (60, 2))
    for sigma in (0.5, 1.5):
        mistakes = {
            "sigma is used as the variance": {"sd": math.sqrt(sigma)},
            "sigma² is used as the standard deviation": {"sd": sigma**2},
            "the factor 1/M is forgotten": {"factor": 4},
            "the factor 1/(2πσ²) is forgotten": {"factor": 2 * math.pi * sigma**2},
            "it has the factor of one dimension": {"factor": math.sqrt(2 * math.pi) * sigma},
        }
        compare(f"the density for sigma = {sigma}", gaussian_mixture_density(x, sigma, MEANS),
                lambda sd=sigma, factor=1: factor * mixture(x, sd), mistakes)


SPIRAL_MISTAKES = {
    "0.25 is used as the standard deviation, but it is the variance": {"sd": 0.25},
    "the variance is used as 0.5, but it is 0.25": {"sd": math.sqrt(0.5)},
    "negative r is left out": {"negative": False},
    "theta runs to 2π, not to 4π": {"windings": 1},
}
DENSITY_MISTAKES = {"only the first winding is counted": {"windings": 1, "factor": 1 / 2}, **SPIRAL_MISTAKES}


def spiral_samples(rng, num_samples, sd=0.5, negative=True, windings=2):
    theta = rng.uniform(0, 2 * np.pi * windings, num_samples)
    r = rng.normal(theta / 2, sd)
    r = r if negative else np.abs(r)
    return np.stack([r * np.cos(theta), r * np.sin(theta)], axis=1)


def cells(x):
    """Counts of samples in the cells of a raster, half of which lies close to the origin, where r can be negative."""
    edges = np.concatenate([np.arange(-9, -1, 1), np.arange(-1, 1.01, 0.25), np.arange(2, 10, 1)])
    return np.histogram2d(*x.T, [edges, edges])[0]


def spiral_sampler(sample_spiral, rng):
    counts, generator = cells(numbers("the samples", sample_spiral(MANY, rng), MANY, 2).numpy()), np.random.default_rng(1)

    def chi_square(**mistake):
        """χ² per cell of these samples and ten times as many of ours, about 1 if they are from one distribution."""
        expected = cells(spiral_samples(generator, 10 * MANY, **mistake)) * (scale := counts.sum() / (10 * MANY))
        return ((counts - expected) ** 2 / (expected * (1 + scale)))[expected > 20].mean()

    if not (measured := chi_square()) < 1.6:
        causes = (cause for cause, mistake in SPIRAL_MISTAKES.items() if chi_square(**mistake) < 1.6)
        raise Fault(f"χ² per cell is {measured:.1f} instead of 1: {next(causes, 'no usual mistake gives these samples')}")


def spiral(x, sd=0.5, negative=True, windings=2):
    """Density of the spiral times ρ, summed over the angles that lead to a point, or that of a mistake."""
    rho, phi = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0]) % (2 * np.pi)
    total = 0
    for half_turn in range(-1, 2 * windings + 1):
        theta, r = phi + half_turn * np.pi, rho * (-1) ** half_turn
        on = (theta >= 0) & (theta <= 2 * np.pi * windings)
        if half_turn % 2 == 0 or negative:
            total = total + on * np.exp(-((r - theta / 2) ** 2) / (2 * sd**2)) / math.sqrt(2 * np.pi * sd**2)
    return total / (2 * np.pi * windings)


def spiral_formula(spiral_density):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.5, (60, 2)), rng.normal(0, 3.5, (60, 2))])
    rho, found = np.hypot(*x.T), numbers("the density", spiral_density(x), 120)
    mistakes = DENSITY_MISTAKES | {"the factor 1/ρ is forgotten": {"factor": rho}}
    compare("the density times ρ", found * rho, lambda factor=1, **mistake: factor * spiral(x, **mistake), mistakes)


ARGUMENTS = {  # the matrix whose inverse the kernel's argument is multiplied by
    "": lambda H: H,
    "H is squared": lambda H: H @ H,
    "H is not inverted": np.linalg.inv,
    "H is transposed": np.transpose,
}
FACTORS = {  # what stands where 1/|det H| belongs
    "": lambda det: 1 / abs(det),
    "det H is forgotten": lambda det: 1,
    "det H has to be an absolute value": lambda det: 1 / det,
    "det H is squared": lambda det: 1 / det**2,
    "it is multiplied by det H": lambda det: abs(det),
}
ESTIMATE_MISTAKES = {
    **{" and ".join(filter(None, pair)): dict(zip(("argument", "factor"), pair)) for pair in product(ARGUMENTS, FACTORS)},
    "the factor 1/N is forgotten": {"scale": NUM},
    "the factor 1/(2π) is forgotten": {"scale": 2 * np.pi},
    "the kernel has the factor of one dimension": {"scale": math.sqrt(2 * np.pi)},
}


def estimate(x, samples, H, argument="", factor="", scale=1):
    """The definition, or a mistake in some of its parts."""
    used, det = ARGUMENTS[argument](H), np.linalg.det
    return scale * kernel_estimate(x, samples, used) * abs(det(used)) * FACTORS[factor](det(H))


def estimate_at_points(kernel_density_estimate, H):
    rng = np.random.default_rng(0)
    x, samples = rng.normal(0, 1, (30, 2)), rng.normal(0, 1, (NUM, 2))
    compare("the estimate", kernel_density_estimate(x, samples, H), partial(estimate, x, samples, H), ESTIMATE_MISTAKES)


def kernel_mass(kernel_density_estimate):
    x = plane(np.linspace(-8, 8, 81))
    samples, H = np.random.default_rng(0).normal(0, 1, (50, 2)), np.array([[0.5, 0.4], [0.0, 0.6]])
    mass = numbers("the estimate", kernel_density_estimate(x, samples, H), len(x)).sum().item() * 0.2**2
    expect(abs(mass - 1) <= 1e-3, f"its integral is {mass:.3g}: is it divided by |det H| and by N?")


def kernel_grid(kernel_density_on_grid, H):
    rng, axis = np.random.default_rng(0), np.linspace(-2, 2, 12)
    samples, x = rng.normal(0, [1, 0.4], (NUM, 2)) + [0.5, -0.5], plane(axis, axis + 0.3)
    mistakes = {"the grid is transposed: entry [i, j] is at (xs[j], ys[i])": {"turn": np.transpose},
                "the grid is upside down": {"turn": lambda grid: grid[:, ::-1].copy()}, **ESTIMATE_MISTAKES}
    compare("the estimate", kernel_density_on_grid(axis, axis + 0.3, samples, H),
            lambda turn=np.array, **mistake: turn(estimate(x, samples, H, **mistake).reshape(12, 12)), mistakes)


def grid_shape(kernel_density_on_grid):
    found = kernel_density_on_grid(np.arange(3.0), np.arange(5.0), np.zeros((4, 2)), np.eye(2))
    expect(np.shape(found) != (5, 3), "it has the shape (5, 3) for 3 xs and 5 ys: the grid is transposed")
    numbers("the result for 3 xs and 5 ys", found, 3, 5)


checks("Part I, Task 1 (samples and true densities)", {
    "sample_gaussian_mixture spreads by sigma around each mean": mixture_spread,
    "sample_gaussian_mixture draws the component of each sample, with equal probabilities": mixture_components,
    "gaussian_mixture_density is the mixture's density": mixture_density,
    "sample_spiral fills the plane like the spiral": spiral_sampler,
    "spiral_density is the spiral's density": spiral_formula,
})
checks("Part I, Task 2 (kernel density estimate)", {
    "it is right for a bandwidth matrix with different rows": partial(estimate_at_points, H=FULL),
    "it is right for a bandwidth matrix with negative determinant": partial(estimate_at_points, H=np.array([[0, 0.4], [0.7, 0]])),
    "it is right for h = 0.5 in both directions": partial(estimate_at_points, H=0.5 * np.eye(2)),
    "it integrates to 1": kernel_mass,
})
checks("Part I, Task 3 (the estimate on a grid)", {
    "entry [i, j] is the estimate at (xs[i], ys[j]), for a full H": partial(kernel_grid, H=FULL),
    "entry [i, j] is the estimate at (xs[i], ys[j]), for a diagonal H": partial(kernel_grid, H=np.diag([0.4, -0.7])),
    "the first axis of the result belongs to xs, the second to ys": grid_shape,
})
