"""What each training phase minimises.

Supervised by the rendered truth: the same body, pose and light in the other garment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from garment_transfer.models.layers import image_to_float, one_hot
from garment_transfer.models.parsing import KEPT, ParsingNetwork, merge, parsing_loss
from garment_transfer.models.regrowth import RegrowthNetwork
from garment_transfer.models.warping import Warp, WarpingNetwork, displacement, fill_garment
from garment_transfer.runtime.labels import GARMENT, SKIN
from garment_transfer.training.data import Transfers

Scalars = dict[str, float]


@dataclass(frozen=True)
class Phase:
    """A phase trains one stage; `loss` gives what is minimised and what is logged."""

    stage: str
    loss: Callable[[nn.Module, Transfers], tuple[Tensor, Scalars]]


def true_transfer(batch: Transfers, rough: bool) -> Tensor:
    """The transfer parsing that a perfect `S_p` would give: uint8 [N,H,W].

    The person's own kept classes as in their map, the rest from the truth; or, `rough`, the
    truth as a parser would have drawn it.
    """
    if rough:
        return batch.rough_truth
    kept = one_hot(batch.person_parsing, KEPT).sum(dim=1) > 0
    return torch.where(kept, batch.person_parsing, batch.true_parsing)


def intersection_over_union(labels: Tensor, truth: Tensor, label: int) -> float:
    """Of one class over a whole batch of class ids."""
    a, b = labels == label, truth == label
    return float((a & b).sum() / (a | b).sum().clamp_min(1))


def _parsing(network: nn.Module, batch: Transfers) -> tuple[Tensor, Scalars]:
    logits = cast(ParsingNetwork, network).reason(
        batch.person_parsing,
        batch.person_densepose,
        batch.garment_parsing,
        batch.garment_densepose,
    )
    loss = parsing_loss(logits, batch.true_parsing, batch.person_parsing)
    with torch.no_grad():
        labels = merge(logits, batch.person_parsing)
    return loss, {
        "garment_iou": intersection_over_union(labels, batch.true_parsing, GARMENT),
        "skin_iou": intersection_over_union(labels, batch.true_parsing, SKIN),
    }


def flow_loss(warp: Warp, true_flow: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Distance between where the warp and the truth sample, over all levels and the affine alone.

    Args:
        warp: positions in pixels of each level.
        true_flow: [N,2,H,W] in pixels of the full size.
        valid: [N,1,H,W], 1 where the truth is known.

    Returns:
        The loss, and the mean distance at the full size in pixels.
    """
    height = true_flow.shape[-2]
    total = true_flow.new_zeros(())
    distance = total
    for flow in [warp.match, *warp.flows]:
        factor = height // flow.shape[-2]
        known = F.avg_pool2d(valid, factor)
        truth = F.avg_pool2d(true_flow * valid, factor) / known.clamp_min(1e-6)
        counted = (known > 0.5).float()
        difference = displacement(flow, warp.affine) * factor - truth
        length = (difference.square().sum(dim=1, keepdim=True) + 0.01).sqrt()
        distance = (length * counted).sum() / counted.sum().clamp_min(1.0)
        total = total + distance * (0.1 if factor > 1 else 0.5)
    aligned = displacement(torch.zeros_like(true_flow), warp.affine) - true_flow
    length = (aligned.square().sum(dim=1, keepdim=True) + 0.01).sqrt()
    return total + 0.1 * (length * valid).sum() / valid.sum().clamp_min(1.0), distance


def smoothness(flow: Tensor) -> Tensor:
    """Mean absolute second difference of a flow [N,2,H,W], in pixels: bending costs, not moving."""
    across = flow[..., 2:] - 2 * flow[..., 1:-1] + flow[..., :-2]
    down = flow[..., 2:, :] - 2 * flow[..., 1:-1, :] + flow[..., :-2, :]
    return across.abs().mean() + down.abs().mean()


def _warping(network: nn.Module, batch: Transfers) -> tuple[Tensor, Scalars]:
    # every other sample sees the target shape as a parser would have drawn it
    transfer = true_transfer(batch, rough=False)
    transfer = transfer.clone()
    transfer[::2] = batch.rough_truth[::2]
    warp = cast(WarpingNetwork, network).warp(
        batch.garment_image, batch.garment_parsing, transfer, batch.person_densepose
    )
    valid = (batch.flow_valid > 0)[:, None].float()
    position, distance = flow_loss(warp, batch.true_flow, valid)
    visible = (batch.flow_valid == 2)[:, None].float()
    difference = (fill_garment(warp.garment) - image_to_float(batch.true_image)).abs()
    colour = (difference * visible).sum() / (3 * visible.sum()).clamp_min(1.0)
    bending = smoothness(warp.flows[-1])
    loss = position + 10 * colour + 0.5 * bending
    return loss, {
        "distance_px": distance.item(),
        "colour_l1": colour.item(),
        "bending": bending.item(),
    }


def _regrowth(network: nn.Module, batch: Transfers) -> tuple[Tensor, Scalars]:
    transfer = true_transfer(batch, rough=False)
    # the truth's own garment stands in for the warped one: it is copied, never painted
    garment = (batch.true_image * (transfer == GARMENT)[..., None]).to(torch.uint8)
    image, painted = cast(RegrowthNetwork, network).paint(
        batch.person_image, batch.person_parsing, transfer, garment
    )
    truth = image_to_float(batch.true_image)
    skin = one_hot(transfer, (SKIN,))
    weight = painted * (1 + skin)
    difference = image - truth
    colour = (difference.abs() * weight).sum() / (3 * weight.sum()).clamp_min(1.0)
    across = difference[..., 1:] - difference[..., :-1]
    down = difference[..., 1:, :] - difference[..., :-1, :]
    edges = (across.abs() * weight[..., 1:]).sum() + (down.abs() * weight[..., 1:, :]).sum()
    edges = edges / (6 * weight.sum()).clamp_min(1.0)
    return colour + edges, {"colour_l1": colour.item(), "edges_l1": edges.item()}


PHASES = {
    "parsing": Phase("parsing", _parsing),
    "warping": Phase("warping", _warping),
    "regrowth": Phase("regrowth", _regrowth),
}
