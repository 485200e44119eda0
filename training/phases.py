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
from garment_transfer.models.warping import Flows, WarpingNetwork, displacement
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


def flow_loss(flows: Flows, true_flow: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Distance between where the flows and the truth sample, over all levels and the affine alone.

    Args:
        flows: of all levels.
        true_flow: [N,2,H,W] in pixels of the full size.
        valid: [N,H,W]; 0 where no truth is known, 2 where the owner's photo shows the point. What
            it does not show counts a third: there the flow only has to lead to the right end.

    Returns:
        The loss, and the mean distance at the finest level where the point is shown, in pixels of
        the full size.
    """
    height = true_flow.shape[-2]
    known, shown = (valid > 0)[:, None].float(), (valid == 2)[:, None].float()
    weight = (known + 2 * shown) / 3

    def distance(flow: Tensor, over: Tensor) -> Tensor:
        factor = height // flow.shape[-2]
        share = F.avg_pool2d(known, factor)
        truth = F.avg_pool2d(true_flow * known, factor) / share.clamp_min(1e-6)
        counted = F.avg_pool2d(over, factor) * (share > 0.5)
        difference = displacement(flow, flows.affine) * factor - truth
        length = (difference.square().sum(dim=1, keepdim=True) + 0.01).sqrt()
        return (length * counted).sum() / counted.sum().clamp_min(1.0)

    aligned = distance(torch.zeros_like(flows.levels[-2]), weight)
    coarse = [distance(flow, weight) for flow in (flows.match, *flows.levels[:-1])]
    finest = distance(flows.levels[-1], weight)
    with torch.no_grad():
        reached = distance(flows.levels[-1], shown)
    return 0.5 * finest + 0.1 * (aligned + sum(coarse)), reached


def places_loss(places: Tensor, truth: Tensor) -> Tensor:
    """Mean distance between places of the cloth, in decimetres, where there is a garment.

    Args:
        places: [N,3,h,w], decimetres.
        truth: [N,3,H,W], metres; 0 where there is no garment.
    """
    factor = truth.shape[-2] // places.shape[-2]
    truth = 10 * truth.float()
    known = (truth != 0).any(dim=1, keepdim=True).float()
    share = F.avg_pool2d(known, factor)
    truth = F.avg_pool2d(truth, factor) / share.clamp_min(1e-6)
    counted = share * (share > 0.5)
    length = ((places - truth).square().sum(dim=1, keepdim=True) + 1e-5).sqrt()
    return (length * counted).sum() / counted.sum().clamp_min(1.0)


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
    flows = cast(WarpingNetwork, network).flows(
        batch.garment_image, batch.garment_parsing, transfer, batch.person_densepose
    )
    position, distance = flow_loss(flows, batch.true_flow, batch.flow_valid)
    worn = places_loss(flows.worn, batch.garment_places)
    wanted = places_loss(flows.wanted, batch.true_places)
    bending = smoothness(flows.levels[-1])
    # a pixel is about 0.04 decimetres
    loss = position + 0.25 * bending + 8 * (worn + wanted)
    return loss, {
        "distance_px": distance.item(),
        "worn_dm": worn.item(),
        "wanted_dm": wanted.item(),
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
