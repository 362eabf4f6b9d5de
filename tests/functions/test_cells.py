"""Cells that check or draw something, for other seeds and settings than the notebook's; what is kept of a number, and how."""

import functools

import numpy as np
import pytest
import torch
from scipy import stats

from notebook import code_cells, source


def cell(word):
    """The source of the one code cell with a word in it."""
    found, = [text for text in map(source, code_cells()) if word in text]
    return found


SEEDS = range(1, 31)
CHECKS = {  # words of a check's cell: what is replaced in it, as it says, a fresh seed, or fewer samples
    "theirs = np.mean([multivariate_normal": ("[:2000]", "[:100]"),
    "p_value(SAMPLERS[name]": ("default_rng(1)", "default_rng({seed})"),
    "p_value(sample_2d": ("50_000)", "50_000, {seed})"),
    "simulated_mise(name, h, np.random": ("default_rng(2)", "default_rng({seed})"),
    "jacobians(layer, x)": ("manual_seed(0)", "manual_seed({seed})"),
    "jacobians(flow, z)": ("manual_seed(0)", "manual_seed({seed})"),
}


@pytest.mark.slow
@pytest.mark.parametrize("word", CHECKS)
def test_a_check_does_not_pass_by_its_seed(nb, monkeypatch, word):
    old, new = CHECKS[word]
    text = cell(word)
    assert text.count(old) == 1 and "assert" in text
    monkeypatch.setattr(nb, "NUM_SAMPLES", 300)
    monkeypatch.setattr(nb, "save_figure", lambda fig, name: nb.plt.close(fig))
    monkeypatch.setattr(nb, "truths", {name: grid.values(nb.DENSITIES[name]) for name, grid in nb.GRIDS.items()}, raising=False)
    close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-10)  # as in the notebook
    for seed in SEEDS:
        samples = {"spiral": nb.sample_spiral(100, np.random.default_rng(seed))}
        exec(text.replace(old, new.format(seed=seed)), {**vars(nb), "samples": samples, "assert_close": close})


def test_figures_are_white_whatever_style_was_on_before(nb):
    with nb.plt.rc_context():
        before = dict(nb.plt.rcParams)
        nb.plt.style.use("dark_background")
        nb.plt.rcParams["image.origin"] = "lower"
        exec(cell("rcParams.update"), vars(nb).copy())
        assert {key: value for key, value in nb.plt.rcParams.items() if before[key] != value and key != "backend"} == {}
        assert nb.plt.rcParams["figure.facecolor"] == nb.plt.rcParams["axes.facecolor"] == "white"


def test_steps_of_a_flow_are_all_drawn_whatever_its_depth(nb, monkeypatch):
    settings = {f"K={k}": nb.Configuration(num_layers=k) for k in (8, 2)}
    monkeypatch.setattr(nb, "flows", {each: [nb.CouplingFlow(each.num_layers)] for each in settings.values()}, raising=False)
    fig = nb.plot_steps(settings)
    drawn = [ax.get_title() for ax in fig.axes if ax.collections]
    assert drawn == ["latent $z$", *(f"after layer {k}" for k in range(1, 9)), "latent $z$", "after layer 1", "after layer 2"]
    nb.plt.close(fig)


def test_the_truth_that_is_drawn_is_that_of_the_configuration(nb, monkeypatch):
    three, figures = nb.Configuration(num_gaussians=3), []
    monkeypatch.setattr(nb, "flows", {three: [nb.CouplingFlow(2)]}, raising=False)
    monkeypatch.setattr(nb, "save_figure", lambda fig, name: figures.append(fig))
    nb.show_pictures("test", {"3 Gaussians": three})
    shown, grid = figures[0].axes[0].images[0].get_array(), nb.TOY_GRIDS["GaussiansRot"]
    truth = np.exp(grid.values(lambda x: nb.true_log_density("GaussiansRot", x, 3))).T
    np.testing.assert_allclose(shown / shown.max(), truth / truth.max(), rtol=1e-10)
    for fig in figures:
        nb.plt.close(fig)


def test_a_file_is_replaced_whole_or_not_at_all(nb, monkeypatch, tmp_path):
    monkeypatch.setattr(nb, "FIGURES", tmp_path / "figures")
    nb.save("a.txt", lambda path: path.write_text("old"))

    def write_half(path):
        path.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nb.save("a.txt", write_half)
    assert (tmp_path / "figures" / "a.txt").read_text() == "old"
    nb.save("a.txt", lambda path: path.write_text("new"))
    assert (tmp_path / "figures" / "a.txt").read_text() == "new"


def test_what_is_quoted_of_repetitions_is_what_is_kept(nb, monkeypatch):
    monkeypatch.setattr(nb, "RESULTS", {})
    values = np.array([0.3, -0.1, 0.2, 0.7, 0.4])
    half = stats.t.ppf(0.975, 4) * values.std(ddof=1) / np.sqrt(5)
    mean, low, high = values.mean(), values.mean() - half, values.mean() + half
    assert nb.keep("mean", nb.interval(values), "+.2f") == f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
    assert nb.keep("one", 1 / 3, ".1f") == "0.3"
    nb.show_table("title", "key", {"row": {"column": 0.25, "other": {"deep": {"mean": 2}}}}, ".2f")
    kept = {
        "mean.mean": f"{mean:+.2f}", "mean.low": f"{low:+.2f}", "mean.high": f"{high:+.2f}", "one": "0.3",
        "key.row.column": "0.25", "key.row.other.deep.mean": "2"}
    assert kept == nb.RESULTS
