"""A check inside the notebook passes by its seed: each cell with such a check again, for thirty seeds."""

import numpy as np
import pytest

from cells import cell_with

CHECKS = {  # words of a check's cell: what is replaced in it, by a fresh seed or fewer samples
    "theirs = np.mean([multivariate_normal": ("[:2000]", "[:100]"),
    "p_value(1.02 * points, DENSITIES": ("default_rng(1)", "default_rng({seed})"),
    "p_value(1.02 * points, truth": ("50_000)", "50_000, {seed})"),
    "simulated_mise(name, h, np.random": ("default_rng(2)", "default_rng({seed})"),
    "jacobians(layer, x)": ("for mask", "torch.manual_seed({seed})\nfor mask"),
    "jacobians(flow, z)": ("flow = ", "torch.manual_seed({seed})\nflow = "),
}


@pytest.mark.slow
@pytest.mark.parametrize("words", CHECKS)
def test_a_check_does_not_pass_by_its_seed(nb, monkeypatch, words):
    old, new = CHECKS[words]
    text = cell_with(words)
    assert text.count(old) == 1 and "assert" in text
    monkeypatch.setattr(nb, "NUM_SAMPLES", 300)
    monkeypatch.setattr(nb, "save_figure", lambda fig, name: nb.plt.close(fig))
    if "simulated" in words:  # the same integral on a coarser grid
        monkeypatch.setattr(nb, "GRIDS", {name: nb.Grid(-4, -4, 10, 60) for name in nb.SIGMAS})
    truths = {name: grid.values(nb.DENSITIES[name]) for name, grid in nb.GRIDS.items()}
    monkeypatch.setattr(nb, "TRUTHS", truths, raising=False)
    for seed in range(1, 31):
        samples = {"spiral": nb.sample_spiral(100, np.random.default_rng(seed))}
        exec(text.replace(old, new.format(seed=seed)), {**vars(nb), "samples": samples})
