"""A run, a measure, a number kept or a picture that is not what it says: section "The experiments of Tasks 9 to 12"."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import random_split

from cells import cell_with
from reference import plain_loop, plane


@pytest.mark.parametrize("dist_type, num_gaussians", [("Moons", 5), ("GaussiansRot", 3)])
def test_runs_are_the_assignments_loop_with_its_seeds(nb, monkeypatch, dist_type, num_gaussians):
    config, other = nb.Configuration(dist_type, num_gaussians, 200), nb.Configuration("Circles", 5, 200)
    monkeypatch.setattr(nb, "NUM_RUNS", 2)
    monkeypatch.setattr(nb, "SETTINGS", [(config, 1), (config, 3), (other, 2)])
    trained = nb.train_runs([other, config])
    for epochs in (1, 3):
        for run, (flow, train_set) in enumerate(trained[config, epochs]):
            torch.manual_seed(8 + run)
            data, reference = nb.ToyDataset(dist_type, 200, run, num_gaussians), nb.CouplingFlow(4)
            state = torch.random.get_rng_state()
            list(plain_loop(reference, data, epochs))
            torch.random.set_rng_state(state)
            assert torch.equal(train_set, torch.stack([data[i] for i in random_split(data, [180, 20])[0].indices]))
            for ours, theirs in zip(flow.parameters(), reference.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


def test_measures_of_a_flow_with_a_known_density(nb):
    configuration = nb.Configuration(num_gaussians=3, num_samples=400)
    _, flow, training = nb.prepare(configuration, 1)
    for p in flow.parameters():
        p.data.zero_()  # the standard normal
    distance, training_kl, gap, fresh_kl = nb.measure(flow, training, configuration).values()

    def kl(x):
        return (nb.true_log_density("GaussiansRot", x, 3) - stats.norm.logpdf(x).sum(1)).mean()

    assert training.shape == (360, 2) and training_kl == pytest.approx(kl(training.double().numpy()), rel=1e-5)
    assert fresh_kl == pytest.approx(kl(nb.sample_2d_datasets("GaussiansRot", 10_000, 1000, 3)), rel=1e-5)
    assert gap == fresh_kl - training_kl
    points = plane(np.linspace(-7, 7, 561))
    p, q = np.exp(nb.true_log_density("GaussiansRot", points, 3)), np.exp(stats.norm.logpdf(points).sum(1))
    assert distance == pytest.approx(np.abs(p - q).sum() * 0.025**2 / 2, abs=2e-3)


def test_what_is_quoted_of_repetitions_is_what_is_kept(nb, monkeypatch):
    monkeypatch.setattr(nb, "NUMBERS", {})
    values = np.array([0.3, -0.1, 0.2, 0.7, 0.4])
    half = stats.t.ppf(0.975, 4) * values.std(ddof=1) / np.sqrt(5)
    mean, low, high = values.mean(), values.mean() - half, values.mean() + half
    assert nb.record("mean", nb.interval(values), "+.2f") == f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
    nb.show_table("title", "key", {"row": {"column": 0.25, "other": 2}}, ".2f")
    kept = {"mean.mean": f"{mean:+.2f}", "mean.low": f"{low:+.2f}", "mean.high": f"{high:+.2f}",
            "key.row.column": "0.25", "key.row.other": "2"}
    assert kept == nb.NUMBERS


# Pictures ------------------------------------------------------------------------


def test_a_blob_off_the_diagonal_is_drawn_where_it_is(nb):
    grid = nb.Grid(-1, 3, 10, 40)
    density = grid.values(stats.multivariate_normal([7, 5], 0.1 * np.eye(2)).pdf)
    assert density.sum() * grid.area == pytest.approx(1, abs=1e-6)
    image, = nb.plot_density([("title", grid, density, density)]).axes[0].images
    row, column = np.unravel_index(image.get_array().argmax(), image.get_array().shape)
    assert image.origin == "lower" and image.get_extent() == [-1, 9, 3, 13]
    assert abs(-1 + (column + 0.5) / 4 - 7) < 0.2 and abs(3 + (row + 0.5) / 4 - 5) < 0.2


def test_figures_are_white_whatever_style_was_on_before(nb):
    with nb.plt.rc_context():
        nb.plt.style.use("dark_background")
        nb.plt.rcParams["image.origin"] = "lower"
        exec(cell_with("rcParams.update"), vars(nb).copy())
        assert nb.plt.rcParams["figure.facecolor"] == nb.plt.rcParams["axes.facecolor"] == "white"
        assert nb.plt.rcParams["image.origin"] == "upper"
