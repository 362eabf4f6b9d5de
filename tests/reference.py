"""References that share no code with the notebook, and inputs to try things at: for tests and benchmark."""

import math

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from torch.utils.data import DataLoader, random_split

MEANS = np.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])


def plane(xs, ys=None):
    """All points of a grid over xs (A,) and ys (B,), by default also xs: (A·B, 2), those of one x in a row."""
    return np.stack(np.meshgrid(xs, xs if ys is None else ys, indexing="ij"), -1).reshape(-1, 2)


def mixture(x, sigma, means=MEANS, weights=None):
    """Density at x, (M, 2), of the mixture of N(mean, sigma² I) over means, (K, 2), by SciPy: (M,)."""
    each = [multivariate_normal(mean, sigma**2 * np.eye(2)).pdf(x) for mean in means]
    return np.average(each, axis=0, weights=weights)


def log_kernel_estimate(x, samples, H):
    """Logarithm of the kernel density estimate by its definition: x (M, d), samples (N, d), H (d, d) → (M,)."""
    u = np.linalg.solve(H, (samples - x[:, None]).reshape(-1, len(H)).T).T.reshape(len(x), *samples.shape)
    return logsumexp(norm.logpdf(u).sum(2), axis=1) - math.log(len(samples)) - np.linalg.slogdet(H)[1]


# Flows ------------------------------------------------------------------------


def normal(*shape):
    """A tensor of this shape of normal numbers, the same at each call, in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)).double()


def randomised(module):
    """In float64, all that it learns drawn anew: a fresh layer has s = 0, which hides every mistake in the scale."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.double().named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if "t_func" in name else 0.2, generator=generator)
        parameter.data += name.endswith("scale_factor")
    return module


def jacobian(function, v):
    """Jacobian of a row-wise function at each row by autograd: (B, d) → (B, d, d)."""
    return torch.autograd.functional.jacobian(lambda rows: function(rows).sum(0), v).transpose(0, 1)


# Training ------------------------------------------------------------------------


def train_epoch(loss_of, optimizer, batches):
    """One step on each batch, (B, d), as the assignment and other libraries show it; returns the mean of the losses."""
    epoch_loss = 0
    for batch in batches:
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        epoch_loss += loss
    return (epoch_loss / len(batches)).item()


def plain_loop(model, data, epochs, batch_size=64):
    """The assignment's `train` on a dataset of (d,) items: yields training and validation loss of each epoch."""
    # Without progress bar and copies of the best model: whoever wants an epoch's weights takes them when it yields.
    num_train = int(len(data) * 0.9)
    parts = random_split(data, [num_train, len(data) - num_train])
    train_loader, valid_loader = (DataLoader(part, batch_size=batch_size) for part in parts)
    optimizer, like = torch.optim.Adam(model.parameters(), lr=1e-3), next(model.parameters())

    def loss_of(batch):
        return -model.log_probability(batch.to(like)).mean(0)

    for _ in range(epochs):
        model.train(True)
        train_loss = train_epoch(loss_of, optimizer, train_loader)
        model.train(False)
        yield train_loss, (sum(map(loss_of, valid_loader)) / len(valid_loader)).item()
