"""Part II, Task 1: the toy datasets and their true densities."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from reference import TOY_SETS, mixture, plane, toy_points


@pytest.mark.parametrize("num_samples, seed", [(1000, 0), (17, 5)])
def test_the_assignments_calls_give_the_same_arrays(nb, num_samples, seed):
    for name in TOY_SETS:
        ours = nb.sample_2d_datasets(name, num_samples, seed, num_gaussians=3)
        np.testing.assert_allclose(ours, toy_points(name, num_samples, seed, 3), rtol=0, atol=1e-15)


def test_defaults(nb):
    points = nb.sample_2d_datasets("GaussiansRot")
    assert points.shape == (1000, 2)
    assert np.array_equal(points, nb.sample_2d_datasets("GaussiansRot", 1000, 0, num_gaussians=5))


def test_dataset_items(nb):
    data = nb.ToyDataset("Moons", num_samples=50, seed=3)
    assert len(data) == 50 and data[7].dtype == torch.float32 and data[7].shape == (2,)
    np.testing.assert_allclose(data[7].numpy(), nb.sample_2d_datasets("Moons", 50, 3)[7], rtol=1e-6)


def noiseless(name):
    """The curve of a dataset as evenly likely points, by brute force."""
    t = (np.arange(20_000) + 0.5) / 20_000
    if name == "Circles":
        ring = np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], 1)
        return np.concatenate([ring, 0.8 * ring])
    arc = np.stack([np.cos(np.pi * t), np.sin(np.pi * t)], 1)
    return np.concatenate([arc, [1, 0.5] - arc])


@pytest.mark.parametrize("name", ["Circles", "Moons"])
def test_curves_against_brute_force(nb, name):
    x = np.random.default_rng(0).uniform(-1.5, 2, size=(60, 2))
    expected = [stats.multivariate_normal(p, 0.01 * np.eye(2)).pdf(noiseless(name)).mean() for p in x]
    np.testing.assert_allclose(np.exp(nb.true_log_density(name, x)), expected, rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("name, sd", [("GaussiansGrid", 0.5), ("GaussiansRot", np.sqrt(0.1))])
def test_blobs_against_scipy(nb, name, sd):
    x = np.random.default_rng(0).normal(size=(60, 2), scale=2)
    expected = mixture(x, sd, nb.blob_centres(name, 7))
    np.testing.assert_allclose(np.exp(nb.true_log_density(name, x, 7)), expected, rtol=1e-10)


@pytest.mark.parametrize("name", TOY_SETS)
def test_total_mass(nb, name):
    axis = np.linspace(-6, 6, 601)
    density = np.exp(nb.true_log_density(name, plane(axis))).reshape(601, 601)
    assert integrate.trapezoid(integrate.trapezoid(density, axis), axis) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", TOY_SETS)
def test_far_away_the_logarithm_holds(nb, name):
    x = np.array([[1e3, 0], [-1e6, 1e6], [1e100, 1e100]])
    log_p = nb.true_log_density(name, x)
    assert np.isfinite(log_p).all() and (np.diff(log_p) < 0).all()


@pytest.mark.parametrize("name", TOY_SETS)
def test_samples_follow_the_density(nb, name):
    # Shares of fresh samples in cells against the integrated density; dealing out blobs evenly only lowers the spread.
    x = nb.sample_2d_datasets(name, 100_000, seed=11)
    edges = np.linspace(-4, 4, 17)
    counts = np.histogram2d(*x.T, [edges, edges])[0]
    fine = -4 + (np.arange(640) + 0.5) / 80
    expected = np.exp(nb.true_log_density(name, plane(fine))).reshape(16, 40, 16, 40).sum((1, 3)) / 80**2 * 100_000
    enough = expected > 20
    assert np.abs((counts - expected)[enough] / np.sqrt(expected[enough])).max() < 5


@pytest.mark.parametrize("name, call", [
    ("dist_type", lambda nb: nb.sample_2d_datasets("Circle")),
    ("dist_type", lambda nb: nb.ToyDataset(None)),
    ("dist_type", lambda nb: nb.true_log_density("moons", [[0, 0]])),
    ("num_samples", lambda nb: nb.sample_2d_datasets("Moons", 0)),
    ("num_samples", lambda nb: nb.sample_2d_datasets("Moons", "many")),
    ("seed", lambda nb: nb.sample_2d_datasets("Moons", 10, seed=-1)),
    ("num_gaussians", lambda nb: nb.sample_2d_datasets("GaussiansRot", num_gaussians=0)),
    ("x", lambda nb: nb.true_log_density("Moons", [0, 0])),
    ("x", lambda nb: nb.true_log_density("Moons", [[0, np.nan]])),
])
def test_bad_input_is_named(nb, name, call):
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        call(nb)
