"""What the phases of training minimise, without what they learn from: see `phases`."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from garment_transfer.models.layers import positions, push_pull
from garment_transfer.models.parsing import soft_parsing_loss
from garment_transfer.models.warping import Flows, displacement

Scalars = dict[str, float]


def intersection_over_union(labels: Tensor, truth: Tensor, label: int) -> float:
    """Of one class over a whole batch of class ids."""
    a, b = labels == label, truth == label
    return float((a & b).sum() / (a | b).sum().clamp_min(1))


def response_loss(student: Tensor, teacher: Tensor, person_parsing: Tensor) -> Tensor:
    """Response knowledge: how far a student's logits are from a teacher's soft output.

    Logits [N,4,H,W] each; the person's kept classes (uint8 [N,H,W]) are not reasoned and do not
    count. Cross-entropy and Dice as towards a truth, so its least value is the teacher's doubt.
    """
    return soft_parsing_loss(student, torch.softmax(teacher.float(), dim=1), person_parsing)


def feature_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Feature knowledge: where in the picture a student's maps are active, against a teacher's.

    Maps of one size each, of any width: their channels have nothing to do with each other, so what
    is compared is the energy over them, as in Zagoruyko and Komodakis, "Paying More Attention to
    Attention" (ICLR 2017). 0 where they agree, at most 4.
    """

    def energy(features: Tensor) -> Tensor:
        flat = features.float().square().mean(dim=1).flatten(1)
        return F.normalize(flat, dim=1)

    differences = [
        (energy(a) - energy(b)).square().sum(dim=1).mean()
        for a, b in zip(student, teacher, strict=True)
    ]
    return torch.stack(differences).mean()


def _mean(values: Tensor, known: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Averages of values [N,C,H,W] over blocks, where they are known [N,1,H,W], and how much is."""
    share = F.avg_pool2d(known, factor)
    return F.avg_pool2d(values * known, factor) / share.clamp_min(1e-6), share


def _moved(image: Tensor, flow: Tensor, affine: Tensor, padding: str) -> Tensor:
    """An image [N,C,h,w] along a flow of its size and the affine, which a gradient leads."""
    h, w = flow.shape[-2:]
    half = flow.new_tensor([w / 2, h / 2], dtype=torch.float32).view(1, 2, 1, 1)
    grid = positions(flow) + displacement(flow.float(), affine.float()) / half
    grid = grid.permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, padding_mode=padding, align_corners=False)


@dataclass(frozen=True)
class Content:
    """A garment as an image: colours 0..1 and places of the cloth, decimetres, [N,6,H,W].

    A garment in one plain colour says nothing of where its cloth went; places do, on any garment.
    `mask` [N,1,H,W] is where both are known.
    """

    image: Tensor
    mask: Tensor


def _pyramid(content: Content, least: int) -> dict[int, tuple[Tensor, Tensor]]:
    """As `_mean` with the factors 2, 4, ...: by heights down to `least`, values and shares.

    Each level from the one before it, since averages over equal blocks average to that of all.
    """
    total, share = content.image * content.mask, content.mask
    levels = {}
    while share.shape[-2] > least:
        total, share = F.avg_pool2d(total, 2), F.avg_pool2d(share, 2)
        levels[share.shape[-2]] = total / share.clamp_min(1e-6), share
    return levels


def content_loss(
    flows: Flows, source: Content, target: Content, annotated: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """How far what the flows show of `source` is from `target`, over all levels and the affine.

    Each level compares at its own size, where both are averages, so a coarse level sees far and a
    fine one exactly; beyond the edge of the garment its content continues, so that a flow that
    leads there is no better than its edge.

    Returns:
        The loss, and at the finest level the mean distance of places in decimetres, which
        `annotated` weighs, and the mean difference of colours, 0..1.
    """

    def compare(flow: Tensor) -> tuple[Tensor, Tensor]:
        expected, share = targets[flow.shape[-2]]
        moved = _moved(sources[flow.shape[-2]], flow, flows.affine, "border")
        counted = share * (share > 0.5)
        error = moved - expected
        distance = (error[:, 3:].square().sum(dim=1, keepdim=True) + 1e-5).sqrt()
        difference = error[:, :3].abs().mean(dim=1, keepdim=True)
        total = counted.sum().clamp_min(1.0)
        return (distance * counted).sum() / total, (difference * counted).sum() / total

    def loss(flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        places, colours = compare(flow)
        # in about pixels at a height of 256: a decimetre is 25 of them
        return 25 * annotated * places + 20 * colours, places, colours

    with torch.autocast(source.image.device.type, enabled=False):
        least = min(flow.shape[-2] for flow in flows.levels)
        sources = {h: push_pull(*content) for h, content in _pyramid(source, least).items()}
        targets = _pyramid(target, least)
        aligned = loss(torch.zeros_like(flows.levels[-2]))[0]
        coarse = [loss(flow)[0] for flow in (flows.match, *flows.levels[:-1])]
        finest, places, colours = loss(flows.levels[-1])
    return 0.5 * finest + 0.1 * (aligned + sum(coarse)), places, colours


def shape_loss(flows: Flows, mask: Tensor, target: Tensor, aligning: bool = False) -> Tensor:
    """Share of the target region, [N,1,H,W], that the moved mask misses or exceeds.

    Of the finest flow, or of the affine alone at 1/4 of the size, where averages are smooth enough
    to lead it.
    """
    with torch.autocast(mask.device.type, enabled=False):
        if aligning:
            mask, target = F.avg_pool2d(mask, 4), F.avg_pool2d(target, 4)
            flow = torch.zeros_like(flows.levels[-2])
        else:
            mask, target = F.avg_pool2d(mask, 2), F.avg_pool2d(target, 2)
            flow = flows.levels[-1]
        moved = _moved(mask, flow, flows.affine, "zeros")
        return (moved - target).abs().sum() / target.sum().clamp_min(1.0)


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
        truth, share = _mean(true_flow, known, factor)
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
    truth, share = _mean(truth, known, factor)
    counted = share * (share > 0.5)
    length = ((places - truth).square().sum(dim=1, keepdim=True) + 1e-5).sqrt()
    return (length * counted).sum() / counted.sum().clamp_min(1.0)


def smoothness(flow: Tensor) -> Tensor:
    """Mean absolute second difference of a flow [N,2,H,W], in pixels: bending costs, not moving."""
    across = flow[..., 2:] - 2 * flow[..., 1:-1] + flow[..., :-2]
    down = flow[..., 2:, :] - 2 * flow[..., 1:-1, :] + flow[..., :-2, :]
    return across.abs().mean() + down.abs().mean()


def painting_loss(
    image: Tensor, truth: Tensor, painted: Tensor, skin: Tensor
) -> tuple[Tensor, Scalars]:
    """Difference of colours and of their steps where an image was painted; skin counts twice.

    And of the mean colour of the painted skin, of each picture and within squares of 16 pixels:
    the median, which the difference of single colours is least for, has neither the tone nor the
    light of skin that is partly in shade. Images float [N,3,H,W], `painted` and `skin` [N,1,H,W].
    """
    weight = painted * (1 + skin)
    difference = image - truth
    colour = (difference.abs() * weight).sum() / (3 * weight.sum()).clamp_min(1.0)
    across = difference[..., 1:] - difference[..., :-1]
    down = difference[..., 1:, :] - difference[..., :-1, :]
    edges = (across.abs() * weight[..., 1:]).sum() + (down.abs() * weight[..., 1:, :]).sum()
    edges = edges / (6 * weight.sum()).clamp_min(1.0)
    regrown = painted * skin
    area = regrown.sum().clamp_min(1.0)
    squares = F.avg_pool2d(difference * regrown, 16).abs().sum() * 256 / (3 * area)
    tone = (difference * regrown).sum(dim=(2, 3)).abs().sum() / (3 * area)
    return colour + edges + squares + tone, {
        "colour_l1": colour.item(),
        "edges_l1": edges.item(),
        "light_l1": squares.item(),
        "tone_l1": tone.item(),
    }
