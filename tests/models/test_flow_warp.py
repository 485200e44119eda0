"""FlowWarp in torch against the plain float64 reference, and against torch's own operators."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from garment_transfer.models.flow_warp import flow_warp, flow_warp_reference, identity_affine


def _arguments(seed, n, c, h, w, reach):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    affine = torch.eye(2, 3) + 0.2 * normal(n, 2, 3)
    return (
        normal(n, c, h, w),
        reach / 2 * normal(n, 2, h // 2, w // 2),
        reach / 2 * normal(n, 2, h, w),
        affine,
    )


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31 - 1),
    n=st.integers(1, 2),
    c=st.integers(1, 4),
    h=st.integers(1, 8).map(lambda v: 2 * v),
    w=st.integers(1, 8).map(lambda v: 2 * v),
    reach=st.sampled_from([0.0, 0.5, 4.0, 1000.0]),
    padding=st.sampled_from(["zeros", "border"]),
)
def test_agrees_with_the_reference(seed, n, c, h, w, reach, padding):
    arguments = _arguments(seed, n, c, h, w, reach)
    y, flow = flow_warp(*arguments, padding=padding)
    y_due, flow_due = flow_warp_reference(*(a.numpy() for a in arguments), padding=padding)
    np.testing.assert_allclose(flow, flow_due, rtol=1e-5, atol=1e-5 * max(1.0, reach))
    # a float32 position that lies 1000 pixels out carries an error of 1e-4 pixels
    np.testing.assert_allclose(y, y_due, atol=1e-4 * max(1.0, reach / 4))


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_agrees_with_affine_grid_and_grid_sample(padding):
    x, coarse, residual, affine = _arguments(1, 2, 3, 16, 12, 0.0)
    y, _ = flow_warp(x, coarse, residual, affine, padding)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    due = F.grid_sample(x, grid, "bilinear", padding, align_corners=False)
    torch.testing.assert_close(y, due, atol=2e-5, rtol=1e-5)


def test_whole_pixels_move_whole_pixels():
    x = torch.arange(2 * 8 * 6, dtype=torch.float32).view(1, 2, 8, 6)
    residual = torch.zeros(1, 2, 8, 6)
    residual[:, 0] = 2
    residual[:, 1] = -1
    y, flow = flow_warp(x, torch.zeros(1, 2, 4, 3), residual, identity_affine(x))
    torch.testing.assert_close(flow, residual)
    torch.testing.assert_close(y[:, :, 1:, :4], x[:, :, :7, 2:], atol=1e-3, rtol=0)
    assert (y[:, :, 0] == 0).all()
    assert y[:, :, :, 4:].abs().max() < 1e-3


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_position_that_is_not_finite_reads_zero(padding, value):
    x = torch.ones(1, 2, 4, 4)
    residual = torch.zeros(1, 2, 4, 4)
    residual[0, 0, 1, 2] = value
    y, _ = flow_warp(x, torch.zeros(1, 2, 2, 2), residual, identity_affine(x), padding)
    assert (y[0, :, 1, 2] == 0).all()
    y[0, :, 1, 2] = 1
    torch.testing.assert_close(y, x)


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_gradients(padding):
    x, coarse, residual, affine = _arguments(2, 1, 2, 6, 4, 0.6)
    # in float32, since coordinates are; gradcheck's own tolerances are for float64
    arguments = [t.requires_grad_() for t in (x, coarse, residual, affine)]
    torch.autograd.gradcheck(
        lambda *a: flow_warp(*a, padding=padding),
        arguments,
        eps=1e-3,
        atol=2e-2,
        rtol=2e-2,
        nondet_tol=1e-5,
    )


def test_empty_batch():
    y, flow = flow_warp(
        torch.zeros(0, 3, 4, 6),
        torch.zeros(0, 2, 2, 3),
        torch.zeros(0, 2, 4, 6),
        torch.zeros(0, 2, 3),
    )
    assert y.shape == (0, 3, 4, 6)
    assert flow.shape == (0, 2, 4, 6)


def test_half_precision_keeps_its_type_and_its_coordinates():
    x, coarse, residual, affine = _arguments(3, 1, 2, 8, 8, 2.0)
    y, flow = flow_warp(x.half(), coarse, residual, affine)
    due, _ = flow_warp(x.half().float(), coarse, residual, affine)
    assert y.dtype == torch.float16
    assert flow.dtype == torch.float32
    torch.testing.assert_close(y, due.half())


def test_errors_name_the_argument_and_what_was_expected():
    x, coarse, residual, affine = _arguments(4, 1, 2, 8, 8, 1.0)
    with pytest.raises(ValueError, match=r"coarse_flow has shape .*; expected \(1, 2, 4, 4\)"):
        flow_warp(x, residual, residual, affine)
    with pytest.raises(ValueError, match=r"affine has shape .*; expected \(1, 2, 3\)"):
        flow_warp(x, coarse, residual, affine[:, :, :2])
    with pytest.raises(ValueError, match="both sides must be even"):
        flow_warp(x[:, :, :7], coarse, residual, affine)
    with pytest.raises(ValueError, match="padding is 'mirror'; expected one of"):
        flow_warp(x, coarse, residual, affine, "mirror")
