# A small solution in another style than ours, cut into cells by "# %%": the tests of the grader plant mistakes in it.
# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn as nn
from sklearn import datasets
from torch.distributions.multivariate_normal import MultivariateNormal
from torch.utils.data import DataLoader, Dataset, random_split

device = torch.device("cpu")
sigma_grid = 0.5
sigma_ring = 0.1**0.5
# %%
def sample_2d_datasets(dist_type, num_samples=1000, seed=0, num_gaussians=5):
    angles, grid = 2 * np.pi * np.arange(num_gaussians) / num_gaussians, [[0, 0], [0, 2], [2, 0], [2, 2]]
    ring = np.stack([2.5 * np.cos(angles), 2.5 * np.sin(angles)], 1)
    if dist_type == "Circles":
        return datasets.make_circles(num_samples, noise=0.1, factor=0.8, random_state=seed)[0]
    if dist_type == "Moons":
        return datasets.make_moons(num_samples, noise=0.1, random_state=seed)[0]
    if dist_type == "GaussiansGrid":
        return datasets.make_blobs(num_samples, centers=grid, cluster_std=sigma_grid, random_state=seed)[0]
    if dist_type == "GaussiansRot":
        return datasets.make_blobs(num_samples, centers=ring, cluster_std=sigma_ring, random_state=seed)[0]
    raise NotImplementedError(dist_type)
# %%
plt.scatter(*sample_2d_datasets("Moons").T)
plt.savefig("moons.png")
# %%
class ToyDataset(Dataset):
    def __init__(self, dist_type, num_samples=1000, seed=0, num_gaussians=5):
        points = sample_2d_datasets(dist_type, num_samples, seed, num_gaussians)
        self.points = torch.tensor(points, dtype=torch.float32)
    def __len__(self):
        return self.points.shape[0]
    def __getitem__(self, i):
        return self.points[i]
# %%
def mlp():
    parts = []
    for n_in, n_out in [(2, 32), (32, 32), (32, 2)]:
        parts += [nn.Linear(n_in, n_out), nn.LeakyReLU()]
    return nn.Sequential(*parts[:-1])
class CouplingLayer(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = nn.Parameter(mask, requires_grad=False)
        self.s_func, self.t_func = mlp(), mlp()
        self.scale_factor = nn.Parameter(torch.zeros(2))
    def forward(self, x):
        x_keep = self.mask * x
        log_scale = self.scale_factor * self.s_func(x_keep)
        log_scale = torch.where(self.mask == 1, torch.zeros_like(log_scale), log_scale)
        y = x_keep + (1 - self.mask) * x * log_scale.exp() + (1 - self.mask) * self.t_func(x_keep)
        log_det_jac = log_scale.sum(dim=1)
        return y, log_det_jac
    def inverse(self, y):
        y_keep = self.mask * y
        log_scale = self.s_func(y_keep) * self.scale_factor * (1 - self.mask)
        x = (y - self.t_func(y_keep) * (1 - self.mask)) / torch.exp(log_scale)
        return x, -torch.sum(log_scale, 1)
# %%
class CouplingFlow(nn.Module):
    def __init__(self, num_layers):
        super().__init__()
        first, second = torch.eye(2)
        self.layers = nn.ModuleList([CouplingLayer((first if k % 2 == 0 else second).clone()) for k in range(num_layers)])
        self.prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    def log_probability(self, x):
        z, total = x, torch.zeros(len(x))
        for k in range(len(self.layers) - 1, -1, -1):
            z, inv_log_det = self.layers[k].inverse(z)
            total = total + inv_log_det
        return self.prior.log_prob(z) + total
    def sample_x(self, num_samples):
        x = self.prior.sample((num_samples,))
        log_prob = self.prior.log_prob(x)
        for coupling in self.layers:
            x, log_det = coupling(x)
            log_prob = log_prob - log_det
        return x, log_prob
    def sample_x_each_step(self, num_samples):
        z = self.prior.sample([num_samples])
        samples = [z]
        for coupling in self.layers:
            z = coupling(z)[0]
            samples.append(z)
        return samples
# %%
def to_np(x):
    return x.detach().numpy()
# %%
def nll(model, loader):
    losses = [-model.log_probability(batch).mean() for batch in loader]
    return float(sum(losses) / len(losses))
def train(model, data, epochs=100, batch_size=64):
    train_part, valid_part = random_split(data, (0.9, 0.1))
    loader, valid_loader = DataLoader(train_part, batch_size), DataLoader(valid_part, batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    train_losses, valid_losses, best, best_model = [], [], np.inf, model
    for _ in range(epochs):
        epoch_loss = 0
        for batch in loader:
            loss = -model.log_probability(batch.to(device)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch_loss += loss.item() / len(loader)
        train_losses.append(epoch_loss)
        valid_losses.append(nll(model, valid_loader))
        score = valid_losses[-1]
        if score < best:
            best, best_model = score, copy.deepcopy(model)
    return (best_model if len(valid_part) >= 500 else model), train_losses, valid_losses
# %%
torch.manual_seed(8)
flow, train_losses, valid_losses = train(CouplingFlow(4), ToyDataset("Moons", 1500), epochs=1000)
plt.plot(train_losses)
print(train_losses[-1])
