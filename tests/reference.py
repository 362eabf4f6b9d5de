"""References that share no code with the notebook, and inputs to try things at: for tests, grader and benchmark."""

import math

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from sklearn.datasets import make_blobs, make_circles, make_moons
from torch.utils.data import DataLoader, random_split

MEANS = np.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])
TOY_SETS = ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")
LEARNING_RATE = 1e-3


# Samples, densities and kernel density estimates ---------------------------------------------------------------------


def plane(xs, ys=None):
    """All points of a grid over xs (A,) and ys (B,), by default also xs: (A·B, 2), those of one x in a row."""
    return np.stack(np.meshgrid(xs, xs if ys is None else ys, indexing="ij"), -1).reshape(-1, 2)


def mixture(x, sigma, means=MEANS, extra=0):
    """Density at x, (M, 2), of the equal mixture of N(mean, sigma² I + extra) over means, (K, 2), by SciPy: (M,)."""
    covariance = sigma**2 * np.eye(2) + extra
    return np.mean([np.reshape(multivariate_normal(mean, covariance).pdf(x), len(x)) for mean in means], axis=0)


def log_kernel_estimate(x, samples, H):
    """Logarithm of the kernel density estimate by its definition: x (M, d), samples (N, d), H (d, d) → (M,)."""
    u = np.linalg.solve(H, (samples - x[:, None]).reshape(-1, len(H)).T).T.reshape(len(x), *samples.shape)
    return logsumexp(norm.logpdf(u).sum(2), axis=1) - math.log(len(samples)) - np.linalg.slogdet(H)[1]


def ring(num_gaussians):
    """Centres of the Gaussians in a ring: (num_gaussians, 2)."""
    angles = 2 * np.pi * np.arange(num_gaussians) / num_gaussians
    return 2.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def toy_points(dist_type, num_samples, seed, num_gaussians, shuffle=True, power=1):
    """The handout's points, (num_samples, 2), or those of a mistake: no shuffling, another power of σ."""
    sd = {"Circles": 0.1, "Moons": 0.1, "GaussiansGrid": 0.5, "GaussiansRot": math.sqrt(0.1)}[dist_type] ** power
    if dist_type == "Circles":
        return make_circles(num_samples, noise=sd, factor=0.8, random_state=seed, shuffle=shuffle)[0]
    if dist_type == "Moons":
        return make_moons(num_samples, noise=sd, random_state=seed, shuffle=shuffle)[0]
    centers = MEANS if dist_type == "GaussiansGrid" else ring(num_gaussians)
    return make_blobs(num_samples, centers=centers, cluster_std=sd, random_state=seed, shuffle=shuffle)[0]


def kernel_estimate(x, samples, H):
    """The kernel density estimate: x (M, d), samples (N, d), H (d, d) → (M,)."""
    return np.exp(log_kernel_estimate(x, samples, H))


# Flows ---------------------------------------------------------------------------------------------------------------


def normal(*shape):
    """A tensor of this shape of normal numbers, the same at each call, in torch's default precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def randomised(module):
    """All learnable numbers but the masks drawn anew: a fresh layer has s = 0, which hides every mistake in the scale."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.endswith("mask"):
                parameter.normal_(std=0.3 if "t_func" in name else 0.2, generator=generator)
            if name.endswith("scale_factor"):
                parameter.add_(1)
    return module


def jacobian(function, v):
    """Jacobian of a row-wise function at each row by autograd: (B, d) → (B, d, d), float64."""
    return torch.autograd.functional.jacobian(lambda rows: function(rows).sum(0), v).transpose(0, 1).double()


def log_abs_det(matrices):
    """log|det| of each matrix: (B, d, d) → (B,)."""
    return torch.linalg.slogdet(matrices).logabsdet


def log_normal(z):
    """Log density of N(0, I): (B, d) → (B,)."""
    return -z.square().sum(-1) / 2 - z.shape[-1] / 2 * math.log(2 * math.pi)


def log_probability(layers, x, log_prior=log_normal):
    """Log density of a flow of these layers by their own inverses, from the last to the first: (B, d) → (B,)."""
    log_prob = 0
    for layer in reversed(layers):
        x, inv_log_det_jac = layer.inverse(x)
        log_prob = log_prob + inv_log_det_jac
    return log_prob + log_prior(x)


# Training ------------------------------------------------------------------------------------------------------------


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
    """The assignment's `train`, default Adam on a dataset of (d,) items: yields training and validation loss of each epoch."""
    # Without progress bar and copies of the best model; whoever wants the weights of an epoch takes them when it yields.
    num_train = int(len(data) * 0.9)
    parts = random_split(data, [num_train, len(data) - num_train])
    train_loader, valid_loader = (DataLoader(part, batch_size=batch_size) for part in parts)
    optimizer, like = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE), next(model.parameters())

    def loss_of(batch):
        return -model.log_probability(batch.to(like)).mean(0)

    for _ in range(epochs):
        model.train(True)
        train_loss = train_epoch(loss_of, optimizer, train_loader)
        model.train(False)
        yield train_loss, (sum(map(loss_of, valid_loader)) / len(valid_loader)).item()
