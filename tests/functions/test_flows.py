"""Part II, Tasks 6 and 8: layers and flows, randomised, against autograd, closed forms and each other."""

import math

import numpy as np
import pytest
import torch

from reference import jacobian, log_abs_det, log_normal, normal, plane, randomised

MASKS = [[1, 0], [0, 1], [1, 0, 1], [0, 0, 1], [1, 0, 0, 1, 1]]


@pytest.fixture(params=MASKS, ids=str)
def layer(nb, request):
    return randomised(nb.CouplingLayer(torch.tensor(request.param, dtype=torch.float32), hidden=16).double())


def test_forward_is_the_formula(layer):
    x = normal(20, len(layer.mask)).double()
    for i, row in enumerate(x):
        kept = row * layer.mask
        s, t = layer.scale_factor * layer.s_func(kept), layer.t_func(kept)
        y = torch.where(layer.mask == 1, row, row * torch.exp(s) + t)
        torch.testing.assert_close(layer(x)[0][i], y)
        torch.testing.assert_close(layer(x)[1][i], s[layer.mask == 0].sum())


def test_round_trip_and_opposite_log_dets(layer):
    x = normal(50, len(layer.mask)).double()
    y, log_det_jac = layer(x)
    back, inv_log_det_jac = layer.inverse(y)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0)
    torch.testing.assert_close(inv_log_det_jac, -log_det_jac)
    assert log_det_jac.shape == (50,) and log_det_jac.abs().max() > 0.05


def test_kept_half_is_bit_equal(layer):
    x = normal(50, len(layer.mask)).double()
    kept = layer.mask == 1
    assert torch.equal(layer(x)[0][:, kept], x[:, kept]) and torch.equal(layer.inverse(x)[0][:, kept], x[:, kept])


def test_jacobian_structure_and_log_det(layer):
    x = normal(10, len(layer.mask)).double()
    kept, moved = layer.mask == 1, layer.mask == 0
    for function in (layer.forward, layer.inverse):
        J = jacobian(lambda v: function(v)[0], x)
        torch.testing.assert_close(log_abs_det(J), function(x)[1])
        identity = torch.eye(int(kept.sum()), dtype=torch.float64).expand(10, -1, -1)
        assert torch.equal(J[:, kept][:, :, kept], identity)
        assert not J[:, kept][:, :, moved].any()
        block = J[:, moved][:, :, moved]
        assert torch.equal(block, torch.diag_embed(torch.diagonal(block, dim1=1, dim2=2)))
        assert J[:, moved][:, :, kept].abs().min() > 0


def test_fresh_layer_only_shifts(nb):
    layer = nb.CouplingLayer(torch.tensor([1.0, 0.0]))
    x = torch.randn(9, 2)
    assert not layer.scale_factor.any() and not layer(x)[1].any()
    torch.testing.assert_close(layer(x)[0][:, 1] - x[:, 1], layer.t_func(x * layer.mask)[:, 1])


def test_layer_architecture(nb):
    layer = nb.CouplingLayer(torch.tensor([1.0, 0.0]))
    for function in (layer.s_func, layer.t_func):
        assert [type(m).__name__ for m in function] == ["Linear", "LeakyReLU", "Linear", "LeakyReLU", "Linear"]
        assert [m.weight.shape for m in function[::2]] == [(32, 2), (32, 32), (2, 32)]
    assert not layer.mask.requires_grad and layer.scale_factor.requires_grad


def test_same_seed_same_initial_weights_as_the_assignments_layer(nb):
    """The assignment builds s_func before t_func from default Linear layers; the seeds rely on it."""
    torch.manual_seed(8)
    expected = [torch.nn.Linear(a, b).weight for _ in range(2) for a, b in ((2, 32), (32, 32), (32, 2))]
    torch.manual_seed(8)
    layer = nb.CouplingFlow(1).layers[0]
    for weight, linear in zip(expected, (*layer.s_func[::2], *layer.t_func[::2])):
        assert torch.equal(weight, linear.weight)


@pytest.fixture(params=[(1, 2), (2, 2), (5, 2), (3, 3), (3, 8)], ids=str)
def flow(nb, request):
    return randomised(nb.CouplingFlow(*request.param).double())


def test_masks_alternate(nb):
    assert [layer.mask.tolist() for layer in nb.CouplingFlow(3).layers] == [[1, 0], [0, 1], [1, 0]]
    assert [layer.mask.tolist() for layer in nb.CouplingFlow(2, dim=3).layers] == [[1, 0, 1], [0, 1, 0]]


def test_log_probability_is_the_change_of_variables(nb, flow):
    z = normal(20, len(flow.layers[0].mask)).double()
    expected = log_normal(z) - log_abs_det(jacobian(lambda v: flow(v)[0], z))
    torch.testing.assert_close(flow.log_probability(flow(z)[0]), expected, atol=1e-8, rtol=1e-8)


def test_sample_x_agrees_with_log_probability(flow):
    x, log_prob = flow.sample_x(300)
    assert x.shape == (300, len(flow.layers[0].mask)) and log_prob.shape == (300,)
    torch.testing.assert_close(flow.log_probability(x), log_prob, atol=1e-8, rtol=1e-8)


def test_steps_go_from_the_prior_to_the_data(flow):
    torch.manual_seed(5)
    steps = flow.sample_x_each_step(100)
    torch.manual_seed(5)
    x, _ = flow.sample_x(100)
    torch.manual_seed(5)
    z = flow.prior.sample((100,)).double()
    assert len(steps) == len(flow.layers) + 1 and isinstance(steps, list)
    assert torch.equal(steps[0], z) and torch.equal(steps[-1], x)
    for layer, before, after in zip(flow.layers, steps, steps[1:]):
        assert torch.equal(layer(before)[0], after)


def test_prior_is_the_standard_normal(nb):
    z = torch.randn(50, 2)
    torch.testing.assert_close(nb.CouplingFlow(1).prior.log_prob(z), log_normal(z))


def test_total_mass(nb):
    flow, points = randomised(nb.CouplingFlow(4).double()), torch.from_numpy(plane(np.linspace(-20, 20, 801)))
    with torch.no_grad():
        assert flow.log_probability(points).exp().sum() * 0.05**2 == pytest.approx(1, abs=5e-3)


def test_every_parameter_receives_a_gradient(nb):
    flow = randomised(nb.CouplingFlow(4))
    flow.log_probability(normal(64, 2)).mean().backward()
    for layer in flow.layers:
        kept, moved = layer.mask == 1, layer.mask == 0
        for network in (layer.s_func, layer.t_func):
            assert network[0].weight.grad[:, kept].any() and not network[0].weight.grad[:, moved].any()
            assert network[2].weight.grad.any() and network[4].weight.grad[moved].any()
        assert layer.scale_factor.grad[moved].any() and layer.mask.grad is None


def test_leading_axes_are_batches_of_their_own(flow):
    x = normal(3, 4, 20, len(flow.layers[0].mask)).double()
    for function in (flow.log_probability, lambda x: flow.layers[0](x)[1], lambda x: flow.layers[0].inverse(x)[1]):
        alone = [torch.stack([function(points) for points in row]) for row in x]
        torch.testing.assert_close(function(x), torch.stack(alone))


def test_no_samples_have_no_densities(nb):
    assert nb.CouplingFlow(2).log_probability(torch.zeros(0, 2)).shape == (0,)


def test_the_flow_inverts_itself_and_its_log_dets_are_opposite(flow):
    z = normal(30, len(flow.layers[0].mask)).double()
    x, log_det_jac = flow(z)
    back, inv_log_det_jac = flow.inverse(x)
    torch.testing.assert_close(back, z, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(inv_log_det_jac, -log_det_jac)


def test_far_out_the_density_is_0_and_a_nan_stays_one(nb):
    flow = randomised(nb.CouplingFlow(4))
    log_p = nb.flow_log_density(flow, np.array([[3e38, -1.0], [1e30, 1e30], [0, 0]]))
    assert (log_p[:2] == -math.inf).all() and math.isfinite(log_p[2])
    assert flow.log_probability(torch.tensor([[math.nan, 0]])).isnan()
    with pytest.raises(ValueError, match="^x: expected finite numbers"):
        nb.flow_log_density(flow, np.array([[math.nan, 0]]))
    assert flow.double().log_probability(torch.tensor([[1e6, -1e6]]).double()) < -1e6
    fresh = nb.CouplingFlow(4)  # s = 0: x = z + shifts, so the answer is known to be about -|x|²/2
    assert fresh.log_probability(torch.tensor([[1e6, 0.0]])).item() == pytest.approx(-0.5e12, rel=0.5)


def test_a_weight_that_is_nan_shows(nb):
    flow = randomised(nb.CouplingFlow(2))
    with torch.no_grad():
        flow.layers[0].t_func[0].weight[0, 0] = math.nan
    assert not flow.log_probability(normal(3, 2)).isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_works_in_either_precision_and_as_the_default_one(nb, dtype):
    x, log_prob = nb.CouplingFlow(2).to(dtype).sample_x(4)
    assert x.dtype == log_prob.dtype == dtype
    torch.set_default_dtype(dtype)
    try:
        flow, losses, _ = nb.train(nb.CouplingFlow(2), nb.ToyDataset("Moons", 40), epochs=1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in flow.parameters()} == {dtype} and math.isfinite(losses[0])


def test_density_on_a_grid(nb):
    # A flow of fresh layers with zero shift is the standard normal; its image is known in closed form.
    flow = nb.CouplingFlow(2)
    for parameter in flow.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    grid = nb.Grid(-3, -2, 7, 80)  # more points than a block
    expected = np.exp(-(grid.xs[:, None] ** 2 + grid.ys**2) / 2) / (2 * math.pi)
    np.testing.assert_allclose(nb.flow_density(flow, grid), expected, rtol=1e-5)


@pytest.mark.parametrize("mask", [[1.0, 1.0], [0.0, 0.0], [1.0, 0.5], [1.0, 2.0, 0.0], [[1.0, 0.0]]], ids=str)
def test_a_mask_that_is_not_0_and_1_is_refused(nb, mask):
    with pytest.raises(ValueError, match="^mask: expected"):
        nb.CouplingLayer(torch.tensor(mask))


def test_points_of_another_dimension_are_refused(nb):
    for x in (torch.zeros(3, 1), torch.zeros(3, 3), torch.zeros(1)):  # one column would be taken for both
        for method in (nb.CouplingFlow(1).log_probability, nb.CouplingFlow(1).layers[0], nb.CouplingFlow(1).layers[0].inverse):
            with pytest.raises(ValueError, match="^x: expected .* 2.* coordinates"):
                method(x)
