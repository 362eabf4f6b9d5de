"""The grader names each mistake planted in a student's notebook or in ours, and passes both without."""

from contextlib import closing
from pathlib import Path

import pytest

import solution
from notebook import NOTEBOOK, code_cells, write_notebook
from solution import Solution
from test_solution import CHECKS

STUDENT = (Path(__file__).parent / "student.py").read_text().split("# %%\n")[1:]
OURS = ["".join(cell["source"]) for cell in code_cells(NOTEBOOK)]
pytestmark = pytest.mark.slow
SAMPLING, ESTIMATE, ON_GRID = "Part I, Task 1", "Part I, Task 2", "Part I, Task 3"
DATASETS, LAYER, FLOW, TRAINING = "Part II, Task 1", "Part II, Task 6", "Part II, Task 8", "Part II, training"

# (task, words of its message, text in the notebook, text with the mistake, and so on for a mistake in two places)
IN_STUDENT = [
    (LAYER, "in it, s is not masked", "torch.where(self.mask == 1, torch.zeros_like(log_scale), log_scale)", "log_scale"),
    (LAYER, "s is not masked", "self.scale_factor * (1 - self.mask)", "self.scale_factor"),
    (LAYER, "t is not masked", "(1 - self.mask) * self.t_func(x_keep)", "self.t_func(x_keep)"),
    (LAYER, "t is not masked", "self.t_func(y_keep) * (1 - self.mask)", "self.t_func(y_keep)"),
    (LAYER, "scale_factor is forgotten", "self.scale_factor * self.s_func(x_keep)", "self.s_func(x_keep)"),
    (LAYER, "scale_factor is forgotten", "self.s_func(y_keep) * self.scale_factor", "self.s_func(y_keep)"),
    (LAYER, "s is not exponentiated", "x * log_scale.exp()", "x * log_scale"),
    (LAYER, "s has the wrong sign", "* x * log_scale.exp()", "* x * (-log_scale).exp()"),
    (LAYER, "s_func and t_func get the whole input", "y_keep = self.mask * y", "y_keep = y"),
    (LAYER, "one number for a batch of 9 samples: summed over the batch", "log_scale.sum(dim=1)", "log_scale.sum()"),
    (LAYER, "it is summed over the batch", "log_scale.sum(dim=1)", "log_scale.sum().repeat(len(x))"),
    (LAYER, "it has the wrong sign", "log_scale.sum(dim=1)", "-log_scale.sum(dim=1)", "-torch.sum(", "torch.sum("),
    (LAYER, "the output of forward is None: it is not implemented yet", "return y, log_det_jac", "return None, None"),
    (LAYER, "cut off from autograd", "return y, log_det_jac", "return y.detach(), log_det_jac.detach()"),
    (FLOW, "the masks never alternate", "(first if k % 2 == 0 else second)", "first"),
    (FLOW, "inverted in the wrong order", "range(len(self.layers) - 1, -1, -1)", "range(len(self.layers))"),
    (FLOW, "the prior is evaluated at x", "self.prior.log_prob(z) + total", "self.prior.log_prob(x) + total"),
    (FLOW, "the log-determinants are subtracted", "log_prob(z) + total", "log_prob(z) - total"),
    (FLOW, "or the other way round", "log_prob = log_prob - log_det", "log_prob = log_prob + log_det"),
    (FLOW, "applied in the wrong order", "self.layers:\n            x, log", "reversed(self.layers):\n            x, log"),
    (FLOW, "the samples of the prior are missing", "samples = [z]", "samples = []"),
    (FLOW, "the samples after the last layer are missing", "self.layers:\n            z =", "self.layers[:-1]:\n            z ="),
    (DATASETS, "GaussiansGrid is off", "sigma_grid = 0.5", "sigma_grid = 0.25"),
    (DATASETS, "sigma² is used as the standard deviation", "0.1**0.5", "0.1"),
    (DATASETS, "seed is not used", "noise=0.1, random_state=seed", "noise=0.1, random_state=0"),
    (TRAINING, "`np.Inf` was removed", "np.inf", "np.Inf"),
    (TRAINING, "it is its negative", "epoch_loss += loss.item()", "epoch_loss -= loss.item()"),
    (TRAINING, "as before: ", "optimizer.step()", "pass"),
    (TRAINING, "it has not finished after", "epoch_loss = 0", "epoch_loss = 0\n        while True: pass"),
    # Settings, which the handout gives.
    (DATASETS, "it has 500 samples", "__init__(self, dist_type, num_samples=1000", "__init__(self, dist_type, num_samples=500"),
    (DATASETS, "its first items is off", "num_gaussians=5):\n        points", "num_gaussians=6):\n        points"),
    (DATASETS, "num_samples, seed or num_gaussians is not handed on", "seed, num_gaussians)\n", "seed)\n"),
    (DATASETS, "the spread around the shape is left out", "noise=0.1, factor", "noise=0, factor"),
    (DATASETS, "Circles is off", "factor=0.8", "factor=0.5"),
    (DATASETS, "GaussiansRot is off", "2.5 * np.cos", "2 * np.cos"),
    (DATASETS, "raises no error", "raise NotImplementedError(dist_type)", "return ring"),
    (DATASETS, "not a float32 tensor", "dtype=torch.float32", "dtype=torch.float64"),
    (LAYER, "the widths 2-64-64-2", "[(2, 32), (32, 32), (32, 2)]", "[(2, 64), (64, 64), (64, 2)]"),
    (LAYER, "the widths 2-32-2", "[(2, 32), (32, 32), (32, 2)]", "[(2, 32), (32, 2)]"),
    (LAYER, "the widths 2-32-32-32-2", "(32, 32), (32, 2)]", "(32, 32), (32, 32), (32, 2)]"),
    (LAYER, "not all of them a bias", "nn.Linear(n_in, n_out)", "nn.Linear(n_in, n_out, bias=False)"),
    (LAYER, "ReLU is in between", "nn.LeakyReLU()", "nn.ReLU()"),
    (LAYER, "Tanh is in between", "nn.LeakyReLU()", "nn.Tanh()"),
    (LAYER, "LeakyReLU of slope 0.2 is in between", "nn.LeakyReLU()", "nn.LeakyReLU(0.2)"),
    (LAYER, "no activation is in between", "nn.LeakyReLU()", "nn.Identity()"),
    (LAYER, "LeakyReLU follows the last one", "*parts[:-1]", "*parts"),
    (LAYER, "Tanh follows the last one", "*parts[:-1]", "*parts[:-1], nn.Tanh()"),
    (LAYER, "the mask is learnable", "nn.Parameter(mask, requires_grad=False)", "nn.Parameter(mask)"),
    (LAYER, "it has to start at 0", "nn.Parameter(torch.zeros(2))", "nn.Parameter(torch.ones(2))"),
    (LAYER, "scale_factor is not learnable", "nn.Parameter(torch.zeros(2))", "torch.zeros(2)"),
    (FLOW, "the first layer keeps coordinate 2", "k % 2 == 0", "k % 2 == 1"),
    (FLOW, "log p(z) is off", "torch.eye(2))\n", "2 * torch.eye(2))\n"),
    (FLOW, "log p(z) is off", "MultivariateNormal(torch.zeros(2)", "MultivariateNormal(torch.ones(2)"),
    (FLOW, "they do not start from the prior", "x = self.prior.sample((num_samples,))", "x = torch.rand(num_samples, 2)"),
    (FLOW, "the standard deviations 2", "z = self.prior.sample", "z = 2 * self.prior.sample"),
    (TRAINING, "the learning rate is 0.01", "lr=0.001", "lr=0.01"),
    (TRAINING, "the learning rate is 0.0001", "lr=0.001", "lr=0.0001"),
    (TRAINING, "it is SGD with learning rate 0.001", "optim.Adam(", "optim.SGD("),
    (TRAINING, "it is AdamW", "optim.Adam(", "optim.AdamW("),
    (TRAINING, "it is RMSprop", "optim.Adam(", "optim.RMSprop("),
    (TRAINING, "its weight decay is 0.0001", "lr=0.001", "lr=0.001, weight_decay=1e-4"),
    (TRAINING, "gradients are not set to zero", "optimizer.zero_grad()", "pass"),
    (TRAINING, "no usual optimizer moves it so", "backward()", "backward(), nn.utils.clip_grad_norm_(model.parameters(), 0.01)"),
    (TRAINING, "of 700 samples 560 are for training and 140 for validation", "(0.9, 0.1)", "(0.8, 0.2)"),
    (TRAINING, "in the order of the data, not at random", "random_split(data, (0.9, 0.1))", "(data[:630], data[630:])"),
    (TRAINING, "630 of 700 samples are for both", "DataLoader(valid_part", "DataLoader(train_part"),
    (TRAINING, "70 of 700 samples are for both", "DataLoader(train_part", "DataLoader(data"),
    (TRAINING, "they have 128, 128, 128, 128, 118 samples", "batch_size=64", "batch_size=128"),
    (TRAINING, "they have 64, 64, 64,", "(train_part, batch_size)", "(train_part, 64)"),
    (TRAINING, "the last, smaller one is dropped", "(train_part, batch_size)", "(train_part, batch_size, drop_last=True)"),
    (TRAINING, "shuffled anew in each epoch", "(train_part, batch_size)", "(train_part, batch_size, shuffle=True)"),
    (TRAINING, "there are 50", "data, epochs=100", "data, epochs=50"),
    (TRAINING, "the losses of training is off", "loss.item() / len(loader)", "loss.item()"),
    (TRAINING, "they are sums over the batches", "loss.item() / len(loader)", "loss.item()"),
    (TRAINING, "they are those of training", "nll(model, valid_loader))", "nll(model, valid_loader) * 0 + train_losses[-1])"),
    (TRAINING, "it returns the ones of the lowest validation loss", "if len(valid_part) >= 500 else model", "if True else model"),
    (TRAINING, "it returns the ones of the lowest validation loss", "len(valid_part) >= 500", "len(valid_part) >= 100"),
    (TRAINING, "it returns the last ones", "len(valid_part) >= 500", "len(valid_part) > 500"),
    (TRAINING, "it returns the last ones", "copy.deepcopy(model)", "model"),
    (TRAINING, "it returns the ones of the lowest training loss", "score = valid_losses[-1]", "score = train_losses[-1]"),
    (TRAINING, "it returns the first ones", "score = valid_losses[-1]", "score = len(valid_losses)"),
]
IN_OURS = [
    (LAYER, "s is not masked", "free * self.scale_factor * self.s_func(kept)", "self.scale_factor * self.s_func(kept)"),
    (LAYER, "summed over the batch", "return x * torch.exp(s) + t, s.sum(-1)", "return x * torch.exp(s) + t, s.sum()"),
    (LAYER, "it has the wrong sign", "+ t, s.sum(-1)", "+ t, -s.sum(-1)", "exp(-s), -s.sum(-1)", "exp(-s), s.sum(-1)"),
    (FLOW, "inverted in the wrong order", "in reversed(self.layers)]", "in self.layers]"),
    (FLOW, "the samples of the prior are missing", "[0])\n        return samples", "[0])\n        return samples[1:]"),
    (DATASETS, "sigma² is used as the standard deviation", "cluster_std=0.1**0.5", "cluster_std=0.1"),
    (ESTIMATE, "H is squared", "np.linalg.inv(H)", "np.linalg.inv(H @ H)"),
    (ESTIMATE, "H is not inverted", "np.linalg.inv(H)", "H"),
    (ESTIMATE, "det H is forgotten", "(abs(np.linalg.det(H)) * ", "("),
    (ESTIMATE, "det H has to be an absolute value", "abs(np.linalg.det(H))", "np.linalg.det(H)"),
    (ON_GRID, "H is squared and det H is squared", "part[:, 0], H[0, 0])", "part[:, 0], H[0, 0] ** 2)",
     "part[:, 1], H[1, 1])", "part[:, 1], H[1, 1] ** 2)"),
    (ON_GRID, "det H has to be an absolute value",
     "density / len(samples)", "density / len(samples) * np.sign(np.linalg.det(H))"),
    (ON_GRID, "the grid is transposed", "return density / len(samples)", "return density.T / len(samples)"),
    (SAMPLING, "negative r is left out", "np.arange(-1, 6)", "np.arange(0, 6, 2)"),
    (SAMPLING, "negative r is left out", "rng.normal(theta / 2, 0.5)", "np.abs(rng.normal(theta / 2, 0.5))"),
    (SAMPLING, "only the first winding is counted", "theta <= 4 * np.pi", "theta <= 2 * np.pi"),
    (SAMPLING, "theta runs to 2π", "rng.uniform(0, 4 * np.pi", "rng.uniform(0, 2 * np.pi"),
    (SAMPLING, "the factor 1/ρ is forgotten", "/ (4 * np.pi * rho)", "/ (4 * np.pi)"),
    (SAMPLING, "0.25 is used as the standard deviation", "rng.normal(theta / 2, 0.5)", "rng.normal(theta / 2, 0.25)"),
    (SAMPLING, "sigma² is used as the standard deviation", "+ sigma * rng", "+ sigma**2 * rng"),
    (SAMPLING, "sigma is used as the variance", "density(x, sigma, means))", "density(x, np.sqrt(sigma), means))"),
    (SAMPLING, "the components are dealt out", "integers(len(means), size=num_samples)", "permutation(num_samples) % len(means)"),
]


def replaced(cells, *texts):
    """The cells with pieces of text replaced, each of which has to be there exactly once."""
    for old, new in zip(texts[::2], texts[1::2], strict=True):
        assert sum(cell.count(old) for cell in cells) == 1, f"to be replaced once: {old}"
        cells = [cell.replace(old, new) for cell in cells]
    return cells


def graded(path, task="", titles=("",)):
    """{title: verdict} of the checks of a task."""
    with closing(Solution(path)) as found:
        return {c.title: c(found) for c in CHECKS if c.task.startswith(task) and c.title.startswith(titles)}


def failures(verdicts):
    return {title: message for title, (outcome, message) in verdicts.items() if outcome == "FAIL"}


PLANTED = [(STUDENT, mistake) for mistake in IN_STUDENT] + [(OURS, mistake) for mistake in IN_OURS]


@pytest.mark.parametrize("cells, mistake", PLANTED, ids=[f"{mistake[0]}: {mistake[1]}" for _, mistake in PLANTED])
def test_planted_mistake_is_named(tmp_path, monkeypatch, cells, mistake):
    task, words, *texts = mistake
    monkeypatch.setattr(solution, "SECONDS", 2 if "while True" in texts[1] else solution.SECONDS)
    with closing(Solution(write_notebook(tmp_path / "wrong.ipynb", replaced(cells, *texts)))) as found:
        messages = (check(found).message for check in CHECKS if check.task.startswith(task))
        assert any(words in message for message in messages), f"no message says {words!r}"
