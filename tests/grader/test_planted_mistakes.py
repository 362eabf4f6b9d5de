"""The grader: it passes right solutions, loads any style, and names each mistake planted in a student's notebook or in ours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import notebook
from notebook import NOTEBOOK, ROOT, Definitions, code_cells, write_notebook
from test_solution import CHECKS

STUDENT = (Path(__file__).parent / "student.py").read_text().split("# %%\n")[1:]
OURS = ["".join(cell["source"]) for cell in code_cells(NOTEBOOK)]
SAMPLING, ESTIMATE, ON_GRID = "Part I, Task 1", "Part I, Task 2", "Part I, Task 3"
DATASETS, LAYER, FLOW, TRAINING = "Part II, Task 1", "Part II, Task 6", "Part II, Task 8", "Part II, training"

# (task, words of its message, text in the notebook, text with the mistake, and so on for a mistake in two places)
IN_STUDENT = {
    "s not masked in forward": (
        LAYER,
        "in it, s is not masked",
        "torch.where(self.mask == 1, torch.zeros_like(log_scale), log_scale)",
        "log_scale",
    ),
    "s not masked in inverse": (
        LAYER,
        "s is not masked",
        "self.s_func(y_keep) * self.scale_factor * (1 - self.mask)",
        "self.s_func(y_keep) * self.scale_factor",
    ),
    "t not masked in forward": (LAYER, "t is not masked", "(1 - self.mask) * self.t_func(x_keep)", "self.t_func(x_keep)"),
    "t not masked in inverse": (LAYER, "t is not masked", "self.t_func(y_keep) * (1 - self.mask)", "self.t_func(y_keep)"),
    "scale_factor forgotten in forward": (
        LAYER,
        "in forward, scale_factor is forgotten",
        "self.scale_factor * self.s_func(x_keep)",
        "self.s_func(x_keep)",
    ),
    "scale_factor forgotten in inverse": (
        LAYER,
        "in inverse, scale_factor is forgotten",
        "self.s_func(y_keep) * self.scale_factor",
        "self.s_func(y_keep)",
    ),
    "s subtracted in forward": (LAYER, "s has the wrong sign", "* x * log_scale.exp()", "* x * (-log_scale).exp()"),
    "networks see everything": (LAYER, "s_func and t_func get the whole input", "y_keep = self.mask * y", "y_keep = y"),
    "log-det summed over the batch": (
        LAYER,
        "one number for a batch of 9 samples: summed over the batch",
        "log_scale.sum(dim=1)",
        "log_scale.sum()",
    ),
    "log-det summed over the batch and repeated": (
        LAYER,
        "it is summed over the batch",
        "log_scale.sum(dim=1)",
        "log_scale.sum().repeat(len(x))",
    ),
    "log-det of the wrong sign in both directions": (
        LAYER,
        "it has the wrong sign",
        "log_scale.sum(dim=1)",
        "-log_scale.sum(dim=1)",
        "-torch.sum(log_scale, 1)",
        "torch.sum(log_scale, 1)",
    ),
    "not implemented": (
        LAYER,
        "the output of forward is None: it is not implemented yet",
        "return y, log_det_jac",
        "return None, None",
    ),
    "gradient cut off": (LAYER, "cut off from autograd", "return y, log_det_jac", "return y.detach(), log_det_jac.detach()"),
    "masks never alternate": (FLOW, "the masks never alternate", "(first if k % 2 == 0 else second)", "first"),
    "layers inverted in the wrong order": (
        FLOW,
        "inverted in the wrong order",
        "range(len(self.layers) - 1, -1, -1)",
        "range(len(self.layers))",
    ),
    "prior at x": (FLOW, "the prior is evaluated at x", "self.prior.log_prob(z) + total", "self.prior.log_prob(x) + total"),
    "log-det subtracted in log_probability": (
        FLOW,
        "the log-determinants are subtracted",
        "log_prob(z) + total",
        "log_prob(z) - total",
    ),
    "log-det added in sample_x": (
        FLOW,
        "added with the wrong sign",
        "log_prob = log_prob - log_det",
        "log_prob = log_prob + log_det",
    ),
    "sample_x from the last layer on": (
        FLOW,
        "applied in the wrong order",
        "self.layers:\n            x, log_det",
        "reversed(self.layers):\n            x, log_det",
    ),
    "steps without the prior": (FLOW, "the samples of the prior are missing", "samples = [z]", "samples = []"),
    "steps without the last layer": (
        FLOW,
        "the samples after the last layer are missing",
        "self.layers:\n            z = coupling",
        "self.layers[:-1]:\n            z = coupling",
    ),
    "grid with sigma² for sigma": (
        DATASETS,
        "around their centres, not by 0.500: sigma² is used",
        "sigma_grid = 0.5",
        "sigma_grid = 0.25",
    ),
    "ring with sigma² for sigma": (DATASETS, "sigma² is used as the standard deviation", "0.1**0.5", "0.1"),
    "seed not used": (DATASETS, "seed is not used", "noise=0.1, random_state=seed", "noise=0.1, random_state=0"),
    "np.Inf": (TRAINING, "`np.Inf` was removed", "best, best_model = np.inf", "best, best_model = np.Inf"),
    "loss of the wrong sign": (TRAINING, "it is its negative", "epoch_loss += loss.item()", "epoch_loss -= loss.item()"),
    "no step": (TRAINING, "as before: ", "optimizer.step()", "pass"),
    "endless training": (TRAINING, "it has not finished after", "epoch_loss = 0", "epoch_loss = 0\n        while True: pass"),
}
IN_OURS = {
    "s not masked": (
        LAYER,
        "s is not masked",
        "moved * self.scale_factor * self.s_func(kept)",
        "self.scale_factor * self.s_func(kept)",
    ),
    "t not masked": (LAYER, "t is not masked", "moved * self.t_func(kept)", "self.t_func(kept)"),
    "scale_factor forgotten in forward": (
        LAYER,
        "in forward, scale_factor is forgotten",
        "self.scale_and_shift(x)",
        "(1 - self.mask) * self.s_func(x * self.mask), self.scale_and_shift(x)[1]",
    ),
    "scale_factor forgotten in inverse": (
        LAYER,
        "in inverse, scale_factor is forgotten",
        "self.scale_and_shift(y)",
        "(1 - self.mask) * self.s_func(y * self.mask), self.scale_and_shift(y)[1]",
    ),
    "log-det summed over the batch": (
        LAYER,
        "summed over the batch",
        "return x * torch.exp(s) + t, s.sum(-1)",
        "return x * torch.exp(s) + t, s.sum()",
    ),
    "log-det of the wrong sign in both directions": (
        LAYER,
        "it has the wrong sign",
        "torch.exp(s) + t, s.sum(-1)",
        "torch.exp(s) + t, -s.sum(-1)",
        "torch.exp(-s), -s.sum(-1)",
        "torch.exp(-s), s.sum(-1)",
    ),
    "masks never alternate": (
        FLOW,
        "the masks never alternate",
        "torch.arange(num_layers)[:, None] % 2",
        "torch.zeros(num_layers, 1)",
    ),
    "layers inverted in the wrong order": (FLOW, "inverted in the wrong order", "in reversed(self.layers):", "in self.layers:"),
    "prior at x": (
        FLOW,
        "the prior is evaluated at x",
        "log_prob = 0\n        for layer in reversed(self.layers)",
        "given, log_prob = x, 0\n        for layer in reversed(self.layers)",
        "log_prob + self.prior.log_prob(x)",
        "log_prob + self.prior.log_prob(given)",
    ),
    "steps without the prior": (
        FLOW,
        "the samples of the prior are missing",
        "samples.append(layer(samples[-1])[0])\n        return samples",
        "samples.append(layer(samples[-1])[0])\n        return samples[1:]",
    ),
    "steps without the last layer": (
        FLOW,
        "the samples after the last layer are missing",
        "self.layers:\n            samples.append",
        "self.layers[:-1]:\n            samples.append",
    ),
    "blobs with sigma² for sigma": (
        DATASETS,
        "sigma² is used as the standard deviation",
        '"GaussiansGrid": 0.5, "GaussiansRot": np.sqrt(0.1)',
        '"GaussiansGrid": 0.25, "GaussiansRot": 0.1',
    ),
    "np.Inf": (
        TRAINING,
        "`np.Inf` was removed",
        "    train_losses, valid_losses = [], []\n",
        "    train_losses, valid_losses, lowest = [], [], np.Inf\n",
    ),
    "H squared": (ESTIMATE, "H is squared", "np.linalg.inv(H).T", "np.linalg.inv(H @ H).T"),
    "H not inverted": (ESTIMATE, "H is not inverted", "np.linalg.inv(H).T", "H.T"),
    "det H forgotten": (ESTIMATE, "det H is forgotten", "-np.linalg.slogdet(H)[1] - len(H) / 2", "-len(H) / 2"),
    "det H signed": (
        ESTIMATE,
        "det H has to be an absolute value",
        "        density[i:i + rows] = exp_in_place(log_peak - squared / 2, least=TINY + min(log_peak, 0)).mean(1)\n",
        "        density[i:i + rows] = exp_in_place(log_peak - squared / 2).mean(1) * np.sign(np.linalg.det(H))\n",
    ),
    "H squared on the grid": (
        ON_GRID,
        "H is squared and det H is squared",
        "abs(H[0, 0])",
        "H[0, 0] ** 2",
        "abs(H[1, 1])",
        "H[1, 1] ** 2",
    ),
    "det H signed on the grid": (
        ON_GRID,
        "det H has to be an absolute value",
        "return density / len(samples)",
        "return density / len(samples) * np.sign(np.linalg.det(H))",
    ),
    "transposed grid": (ON_GRID, "the grid is transposed", "return density / len(samples)", "return density.T / len(samples)"),
    "spiral without negative r": (SAMPLING, "negative r is left out", "np.arange(-1, 6)", "np.arange(0, 6, 2)"),
    "samples without negative r": (
        SAMPLING,
        "negative r is left out",
        "rng.normal(theta / 2, SPIRAL_SD)",
        "np.abs(rng.normal(theta / 2, SPIRAL_SD))",
    ),
    "spiral without windings": (SAMPLING, "only the first winding is counted", "theta <= SPIRAL_END", "theta <= 2 * np.pi"),
    "samples without windings": (SAMPLING, "theta runs to 2π", "SPIRAL_END = 4 * np.pi", "SPIRAL_END = 2 * np.pi"),
    "spiral without 1/ρ": (SAMPLING, "the factor 1/ρ is forgotten", "/ (SPIRAL_END * rho[:, 0])", "/ SPIRAL_END"),
    "spiral with sigma² for sigma": (SAMPLING, "0.25 is used as the standard deviation", "SPIRAL_SD = 0.5", "SPIRAL_SD = 0.25"),
    "mixture samples with sigma² for sigma": (
        SAMPLING,
        "sigma² is used as the standard deviation",
        "+ sigma * rng",
        "+ sigma**2 * rng",
    ),
    "mixture with sigma for sigma²": (
        SAMPLING,
        "sigma is used as the variance",
        "squared = (((x[:, None] - means) / sigma) ** 2).sum(-1)",
        "sigma = np.sqrt(sigma)\n        squared = (((x[:, None] - means) / sigma) ** 2).sum(-1)",
    ),
    "components dealt out": (
        SAMPLING,
        "the components are dealt out",
        "rng.integers(len(means), size=num_samples)",
        "np.arange(num_samples) % len(means)",
    ),
}


def replaced(cells, *texts):
    """The cells with pieces of text replaced, each of which has to be there exactly once."""
    for old, new in zip(texts[::2], texts[1::2], strict=True):
        assert sum(cell.count(old) for cell in cells) == 1, f"to be replaced once: {old}"
        cells = [cell.replace(old, new) for cell in cells]
    return cells


def graded(path, task=""):
    """{title: verdict} of the checks of a task."""
    definitions = Definitions(path)
    return {check.title: check(definitions) for check in CHECKS if check.task.startswith(task)}


def failures(verdicts):
    return {title: message for title, (outcome, message) in verdicts.items() if outcome == "FAIL"}


@pytest.mark.parametrize(
    "cells, mistake",
    [
        *(pytest.param(STUDENT, mistake, id=f"student: {name}") for name, mistake in IN_STUDENT.items()),
        *(pytest.param(OURS, mistake, id=f"ours: {name}") for name, mistake in IN_OURS.items()),
    ],
)
def test_planted_mistake_is_named(tmp_path, monkeypatch, cells, mistake):
    task, words, *texts = mistake
    if "while True" in texts[1]:
        monkeypatch.setattr(notebook, "SECONDS", 1)
    verdicts = graded(write_notebook(tmp_path / "wrong.ipynb", replaced(cells, *texts)), task)
    assert any(words in message for message in failures(verdicts).values()), failures(verdicts)


def assert_right(cells, tmp_path):
    """The cells pass every check that applies, and leave no file beside the notebook."""
    verdicts = graded(write_notebook(tmp_path / "right.ipynb", cells))
    assert not failures(verdicts)
    assert [path.name for path in tmp_path.iterdir()] == ["right.ipynb"]
    return verdicts


def test_right_solution_passes_and_part1_of_other_names_is_not_graded(tmp_path):
    verdicts = assert_right(STUDENT, tmp_path)
    assert {check.title for check in CHECKS if check.task.startswith("Part I,")} == {
        t for t, v in verdicts.items() if v.outcome == "SKIP"
    }


def test_other_parameters_of_our_names_are_not_graded(tmp_path):
    verdicts = assert_right([*STUDENT, "def sample_spiral(N):\n    return np.zeros((N, 2))"], tmp_path)
    assert verdicts["sample_spiral fills the plane like the spiral"] == (
        "SKIP",
        "sample_spiral takes (N), not (num_samples, rng)",
    )


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param(
            [
                "%matplotlib inline\n!pip install -q torch\n" + STUDENT[0],
                "%%time\n" + STUDENT[1],
                *STUDENT[2:],
                "%%bash\nls",
                "train?",
                "x = !ls",
            ],
            id="magics",
        ),
        pytest.param(
            ["import seaborn as sns, math\nfrom google.colab import drive\ndrive.mount('/content/drive')", *STUDENT],
            id="missing imports",
        ),
        pytest.param(
            [
                "try:\n    import seaborn\nexcept ImportError:\n    !pip install seaborn",
                "import sys\nif 'x' in sys.path:\n    print(1)\nelse:\n    k = 2",
                *STUDENT,
            ],
            id="guarded imports",
        ),
        pytest.param([*STUDENT, "def broken(:\n    pass", "class AlsoBroken(Missing):\n    pass", "1 / 0"], id="cells that fail"),
        pytest.param(
            [STUDENT[0] + "plt.plot([1, 2])\nplt.show()\nprint('x' * 3)\nwhile True: pass\n" + "\n".join(STUDENT[1:])],
            id="all in one cell",
        ),
        pytest.param([*STUDENT[:4], "raise SystemExit", *STUDENT[4:]], id="exit"),
        pytest.param(
            replaced(STUDENT, "np.inf, model", "np.Inf, model", "device = torch", "np.Inf = np.inf\ndevice = torch"),
            id="np.Inf brought back",
        ),
        pytest.param(
            [
                "import torch\ntorch.set_default_dtype(torch.float64)",
                *replaced(
                    STUDENT,
                    "batch.to(device)",
                    "batch.to(device).double()",
                    "model.log_probability(batch).mean() for",
                    "model.log_probability(batch.double()).mean() for",
                ),
            ],
            id="float64",
        ),
        pytest.param(
            replaced(
                STUDENT,
                "self.prior = Multi",
                "self.prior = make_prior() if False else Multi",
                "first, second = torch.eye(2)",
                "first, second = MASKS",
                "sigma_grid = 0.5",
                "sigma_grid = 0.5\nMASKS = torch.eye(2)",
            ),
            id="constants",
        ),
    ],
)
def test_style_does_not_matter(tmp_path, monkeypatch, cells):
    monkeypatch.setattr(np, "Inf", None, raising=False)  # to be taken back
    monkeypatch.delattr(np, "Inf")
    try:
        assert_right(cells, tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("class ToyDataset(Dataset)", "class ToyDataset(Missing)", "ToyDataset cannot be defined: NameError in code cell 4"),
        ("class ToyDataset(Dataset):", "class ToyDataset(Dataset:", "ToyDataset cannot be defined: syntax error in code cell 4"),
        ("class ToyDataset", "class Another", "the notebook does not define ToyDataset"),
        (
            "return self.points.shape[0]",
            "return len(sns)",
            "name 'sns' is not defined; ModuleNotFoundError in code cell 10, line 1: No module named 'seaborn'",
        ),
    ],
)
def test_what_fails_to_load_fails_alone(tmp_path, old, new, words):
    path = write_notebook(tmp_path / "part.ipynb", [*replaced(STUDENT, old, new), "import seaborn as sns"])
    failed = failures(graded(path, DATASETS))
    assert failed and all("ToyDataset" in title for title in failed) and any(words in message for message in failed.values())
    assert not failures(graded(path, LAYER)) and not failures(graded(path, FLOW))


def test_command_line_gives_a_grade_sheet(tmp_path):
    wrong = replaced(STUDENT, "self.prior.log_prob(z) + total", "self.prior.log_prob(x) + total")
    path = write_notebook(tmp_path / "other.ipynb", wrong)
    command = [sys.executable, "-m", "pytest", str(ROOT / "tests"), "--notebook", str(path)]
    lines = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.splitlines()
    assert "Part I, Task 2 (kernel density estimate): not graded" in lines
    assert "Part II, Task 6 (coupling layer): 15 of 15" in lines
    assert any(
        line.startswith("  FAIL  log_probability is log p(z) plus") and line.endswith("the prior is evaluated at x instead of z")
        for line in lines
    )
    assert "Part II, Task 8 (coupling flow): 10 of 14" in lines
    assert "passed" in lines[-1] and "failed" in lines[-1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["other.ipynb"]
