"""FlowWarp: compose a flow with its coarser level and sample a tensor at the affinely moved flow.

This is the definition that every front end is tested against.

=============  ===========================  ==================================================
name           shape, dtype                 meaning
=============  ===========================  ==================================================
x              [N,C,H,W] f32, f16 or bf16   what is sampled; tensors that share a flow are one
                                            tensor with more channels
coarse_flow    [N,2,H/2,W/2] f32            flow of the coarser level, (dx, dy) in its pixels
residual       [N,2,H,W] f32                what this level adds, in its own pixels
affine         [N,2,3] f32                  output to source, in normalised coordinates
                                            (align_corners=False: -1 and 1 are the outer edges
                                            of the outer pixels), hence the same at every level
padding        "zeros" or "border"          what lies outside x: 0, or the nearest edge pixel
-> y           [N,C,H,W] as x               x at affine(p + flow(p)), bilinear
-> flow        [N,2,H,W] f32                2 * upsample2x(coarse_flow) + residual; the affine
                                            is not in it
=============  ===========================  ==================================================

Pixel centres lie at integers. The upsampling is bilinear with half-pixel centres and clamped
edges. Coordinates and weights are float32 whatever x is. A position that is not finite reads 0
under either padding.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Padding = Literal["zeros", "border"]

#: Where the ONNX node lives; a runtime with a kernel registers it under this domain.
DOMAIN = "garment_transfer"
OP_TYPE = "FlowWarp"


def identity_affine(like: Tensor) -> Tensor:
    """The affine that moves nothing, [N,2,3] float32 for the batch and device of `like`."""
    eye = torch.eye(2, 3, dtype=torch.float32, device=like.device)
    return eye.expand(like.shape[0], 2, 3)


def _check(x: Tensor, coarse_flow: Tensor, residual: Tensor, affine: Tensor, padding: str) -> None:
    if padding not in get_args(Padding):
        raise ValueError(f"padding is {padding!r}; expected one of {get_args(Padding)}")
    n, _, h, w = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"x is {h}x{w}; FlowWarp doubles its coarse flow: both sides must be even")
    wanted = {
        "coarse_flow": (coarse_flow, (n, 2, h // 2, w // 2)),
        "residual": (residual, (n, 2, h, w)),
        "affine": (affine, (n, 2, 3)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected {shape} for x of shape "
                f"{tuple(x.shape)}"
            )


def flow_warp(
    x: Tensor, coarse_flow: Tensor, residual: Tensor, affine: Tensor, padding: Padding = "zeros"
) -> tuple[Tensor, Tensor]:
    """FlowWarp in torch operators, differentiable in all four tensors.

    Shapes, units and border rules: the table of this module. While a model is exported to ONNX
    this emits the bare `garment_transfer::FlowWarp` node, to which the exporter attaches the
    function body.

    Raises:
        ValueError: a shape or the padding is not as the table says.
    """
    if torch.onnx.is_in_onnx_export():
        y, flow = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{OP_TYPE}",
            (x, coarse_flow, residual, affine),
            attrs={"padding": padding},
            dtypes=(x.dtype, torch.float32),
            shapes=(x.shape, residual.shape),
            version=1,
        )
        return y, flow
    _check(x, coarse_flow, residual, affine, padding)
    h, w = x.shape[-2:]
    # torch's own upsampling by two is the table's: half-pixel centres, clamped edges
    flow = 2 * F.interpolate(coarse_flow.float(), size=(h, w), mode="bilinear") + residual.float()
    size = flow.new_tensor([w, h]).view(1, 2, 1, 1)
    u, v = ((2 * (_pixel_grid(flow) + flow) + 1) / size - 1).unbind(dim=1)
    # written out: under autocast a matrix product would round positions to bfloat16
    a = affine.float()[:, :, :, None, None].unbind(dim=1)
    grid = torch.stack([row[:, 0] * u + row[:, 1] * v + row[:, 2] for row in a], dim=-1)
    # NaN compares false too; -4 is outside x whatever its size
    finite = grid.abs() <= torch.finfo(torch.float32).max
    grid = torch.where(finite, grid, torch.full_like(grid, -4.0))
    y = F.grid_sample(x.float(), grid, "bilinear", padding, align_corners=False)
    if padding == "border":
        y = y * finite.all(dim=-1)[:, None]
    if x.is_contiguous(memory_format=torch.channels_last):
        # or the convolutions behind it turn it round, with all that it is joined to
        y = y.contiguous(memory_format=torch.channels_last)
    return y.to(x.dtype), flow


def affine_warp(x: Tensor, affine: Tensor) -> Tensor:
    """`x` [N,C,H,W] moved by an affine [N,2,3] alone, with FlowWarp and 0 outside."""
    coarse, residual = torch.zeros_like(x[:, :2, ::2, ::2]), torch.zeros_like(x[:, :2])
    return flow_warp(x, coarse, residual, affine)[0]


def _pixel_grid(flow: Tensor) -> Tensor:
    """Coordinates (x, y) of every pixel, [1,2,H,W] float32."""
    h, w = flow.shape[-2:]
    ys = torch.arange(h, dtype=torch.float32, device=flow.device).view(1, 1, h, 1)
    xs = torch.arange(w, dtype=torch.float32, device=flow.device).view(1, 1, 1, w)
    return torch.cat([xs.expand(1, 1, h, w), ys.expand(1, 1, h, w)], dim=1)
