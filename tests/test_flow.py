"""A wrong coupling layer or flow: Part II, Tasks 2 to 8. Randomised layers, against autograd and closed forms."""

import math

import numpy as np
import pytest
import torch

from reference import jacobian, normal, randomised

MASKS = [[1, 0], [0, 1], [1, 0, 1], [0, 0, 1], [1, 0, 0, 1, 1]]


@pytest.fixture(params=MASKS, ids=str)
def layer(nb, request):
    return randomised(nb.CouplingLayer(torch.tensor(request.param, dtype=torch.float32), hidden=16))


def test_forward_is_the_formula(layer):
    x = normal(20, len(layer.mask))
    for i, row in enumerate(x):
        kept = row * layer.mask
        s, t = layer.scale_factor * layer.s_func(kept), layer.t_func(kept)
        y = torch.where(layer.mask == 1, row, row * torch.exp(s) + t)
        torch.testing.assert_close(layer(x)[0][i], y)
        torch.testing.assert_close(layer(x)[1][i], s[layer.mask == 0].sum())


def test_the_inverse_leads_back_and_both_have_the_jacobian_of_their_log_det(layer):
    x = normal(10, len(layer.mask))
    torch.testing.assert_close(layer.inverse(layer(x)[0]), (x, -layer(x)[1]), atol=1e-10, rtol=0)
    kept, moved = layer.mask == 1, layer.mask == 0
    for function in (layer.forward, layer.inverse):
        y, log_det_jac = function(x)
        J = jacobian(lambda v: function(v)[0], x)
        torch.testing.assert_close(torch.linalg.slogdet(J).logabsdet, log_det_jac)
        assert log_det_jac.shape == (10,) and log_det_jac.abs().max() > 0.05
        assert torch.equal(y[:, kept], x[:, kept])  # to the bit
        assert torch.equal(J[:, kept][:, :, kept], torch.eye(int(kept.sum())).double().expand(10, -1, -1))
        assert not J[:, kept][:, :, moved].any() and J[:, moved][:, :, kept].abs().min() > 0
        block = J[:, moved][:, :, moved]
        assert torch.equal(block, torch.diag_embed(torch.diagonal(block, dim1=1, dim2=2)))


def test_a_fresh_layer_is_the_assignments_and_only_shifts(nb):
    torch.manual_seed(8)  # default Linear layers, those of s_func before those of t_func: the seeds rely on it
    expected = [torch.nn.Linear(a, b).weight for _ in range(2) for a, b in ((2, 32), (32, 32), (32, 2))]
    torch.manual_seed(8)
    layer, x = nb.CouplingFlow(1).layers[0], torch.randn(9, 2)
    for weight, linear in zip(expected, (*layer.s_func[::2], *layer.t_func[::2]), strict=True):
        assert torch.equal(weight, linear.weight)
    assert [type(module).__name__ for module in layer.t_func[1::2]] == ["LeakyReLU", "LeakyReLU"]
    assert not layer.scale_factor.any() and layer.scale_factor.requires_grad and not layer(x)[1].any()
    torch.testing.assert_close(layer(x)[0][:, 1] - x[:, 1], layer.t_func(x * layer.mask)[:, 1])


@pytest.mark.parametrize("mask", [[1.0, 1.0], [0.0, 0.0], [1.0, 0.5], [1.0, 2.0, 0.0], [[1.0, 0.0]]], ids=str)
def test_a_mask_that_is_not_0_and_1_is_refused(nb, mask):
    with pytest.raises(ValueError, match="^mask: expected"):
        nb.CouplingLayer(torch.tensor(mask))


# Flows ------------------------------------------------------------------------


@pytest.fixture(params=[(1, 2), (2, 2), (5, 2), (3, 3), (3, 8)], ids=str)
def flow(nb, request):
    return randomised(nb.CouplingFlow(*request.param))


def test_masks_alternate(nb):
    assert [layer.mask.tolist() for layer in nb.CouplingFlow(3).layers] == [[1, 0], [0, 1], [1, 0]]
    assert [layer.mask.tolist() for layer in nb.CouplingFlow(2, dim=3).layers] == [[1, 0, 1], [0, 1, 0]]


def test_log_probability_is_the_change_of_variables(flow):
    z = normal(20, len(flow.layers[0].mask))
    x, log_det_jac = flow(z)
    expected = torch.linalg.slogdet(jacobian(lambda v: flow(v)[0], z)).logabsdet
    torch.testing.assert_close(log_det_jac, expected, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(flow.inverse(x), (z, -expected), atol=1e-8, rtol=1e-8)
    log_p = torch.distributions.Normal(0, 1).log_prob(z).sum(-1) - expected
    torch.testing.assert_close(flow.log_probability(x), log_p, atol=1e-8, rtol=1e-8)


def test_samples_are_the_prior_sent_through_the_layers_and_know_their_density(flow):
    dim, seeded = len(flow.layers[0].mask), []
    for draw in (flow.sample_x, flow.sample_x_each_step, lambda n: flow.prior.sample((n,)).double()):
        torch.manual_seed(5)
        seeded.append(draw(300))
    (x, log_prob), steps, z = seeded
    assert x.shape == (300, dim) and log_prob.shape == (300,) and isinstance(steps, list)
    torch.testing.assert_close(flow.log_probability(x), log_prob, atol=1e-8, rtol=1e-8)
    assert torch.equal(steps[0], z) and torch.equal(steps[-1], x)
    for layer, before, after in zip(flow.layers, steps[:-1], steps[1:], strict=True):
        assert torch.equal(layer(before)[0], after)
    assert abs(z.mean()) < 0.2 and abs(z.std() - 1) < 0.15


def test_leading_axes_are_batches_of_their_own(flow):
    x = normal(3, 4, 20, len(flow.layers[0].mask))
    for function in (flow.log_probability, lambda x: flow.layers[0](x)[1], lambda x: flow.layers[0].inverse(x)[1]):
        alone = [torch.stack([function(points) for points in row]) for row in x]
        torch.testing.assert_close(function(x), torch.stack(alone))


def test_far_out_the_density_is_0_and_what_is_nan_shows(nb):
    flow = randomised(nb.CouplingFlow(4)).float()
    log_p = nb.flow_log_density(flow, np.array([[3e38, -1.0], [1e30, 1e30], [0, 0]]))
    assert (log_p[:2] == -math.inf).all() and math.isfinite(log_p[2])
    assert flow.log_probability(torch.tensor([[math.nan, 0]])).isnan()
    with pytest.raises(ValueError, match="^x: expected finite numbers"):
        nb.flow_log_density(flow, np.array([[math.nan, 0]]))
    fresh = nb.CouplingFlow(4)  # s = 0: x = z + shifts, so the answer is known to be about -|x|²/2
    assert fresh.log_probability(torch.tensor([[1e6, 0.0]])).item() == pytest.approx(-0.5e12, rel=0.5)
    flow.layers[0].t_func[0].weight.data[0, 0] = math.nan
    assert not flow.log_probability(normal(3, 2).float()).isfinite().any()
    with pytest.raises(ValueError, match="^flow: expected finite numbers"):
        nb.flow_log_density(flow, np.zeros((1, 2)))


def test_points_of_another_dimension_or_none_are_refused(nb):
    flow = nb.CouplingFlow(1)
    for x in (torch.zeros(3, 1), torch.zeros(3, 3), torch.zeros(1), torch.zeros(0, 2)):  # one column would be two
        for method in (flow.log_probability, flow.layers[0], flow.layers[0].inverse):
            with pytest.raises(ValueError, match="^x: expected points .* 2"):
                method(x)
