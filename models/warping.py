"""Garment warping: an affine that aligns, then a flow that is refined from coarse to fine.

`S_w` of Fang et al. (arXiv 2401.12433). An STN regresses one affine from the worn garment to
the target shape. Two feature pyramids, of the garment as it was worn and of the target shape
with the pose, then give a flow over five levels: each level upsamples the flow so far, warps
the garment's features with it and with the affine, and adds a residual. Both are composed by
FlowWarp, and the original garment is sampled once.

The paper does not publish the network. Where an arm points elsewhere no affine helps and no
local comparison finds it, so that here every place of the target at 1/16 of the size is also
matched against all places of the garment, and the flow's second level may take up the match.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from garment_transfer.models.flow_warp import flow_warp, identity_affine
from garment_transfer.models.layers import (
    Conv,
    Encoder,
    Maps,
    dilate,
    float_to_image,
    image_to_float,
    moments,
    one_hot,
    positions,
    push_pull,
    upsample2x,
)
from garment_transfer.runtime.labels import FACE, GARMENT, HAIR, LOWER, SKIN, border_width


@dataclass(frozen=True)
class WarpingConfig:
    """Widths of the warping network: both pyramids from 1/2 to 1/32 of the size, the decoders.

    `aligning` switches the STN; without it the affine is the identity.
    """

    garment_widths: tuple[int, int, int, int, int]
    shape_widths: tuple[int, int, int, int, int]
    blocks: tuple[int, int, int, int, int]
    flow_widths: tuple[int, int, int, int, int]
    part_width: int
    aligning: bool = True


@dataclass(frozen=True)
class Warp:
    """What `WarpingNetwork.warp` gives; positions and flows in pixels of their own level.

    affine: [N,2,3], output to source, normalised. match: the flow of the matching, [N,2,h,w] at
    1/16 of the size. flows: per level, coarse to fine, [N,2,h,w],
    without the affine; the last has the full size. garment: [N,4,H,W], colours times weight,
    and the weight, in 0..1: how surely a pixel shows the garment.
    """

    affine: Tensor
    match: Tensor
    flows: list[Tensor]
    garment: Tensor


class Aligning(nn.Module):
    """The STN: a correction to the affine that matches centre and extent of both regions.

    Starting from the regions' moments leaves the network what they cannot tell: a turned body,
    a sleeve that is hidden.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(Conv(channels, 64), Conv(64, 64, 2))
        self.regress = nn.Sequential(nn.Linear(64 + 8, 64), nn.ReLU(), nn.Linear(64, 6))
        last = self.regress[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """[N,C,h,w] features, [N,1,H,W] masks of the worn and the target region: [N,2,3]."""
        source_centre, source_extent = moments(source)
        target_centre, target_extent = moments(target)
        shapes = torch.cat([source_centre, source_extent, target_centre, target_extent], dim=1)
        pooled = self.features(features).mean(dim=(2, 3))
        correction = self.regress(torch.cat([pooled, shapes], dim=1)).float().view(-1, 2, 3)
        scale = (source_extent / target_extent).clamp(0.4, 2.5)
        matrix = torch.diag_embed(scale) + correction[:, :, :2]
        # the correction turns about the target's centre, so that it does not also move it
        moved = (matrix * target_centre[:, None]).sum(dim=2)
        shift = source_centre - moved + correction[:, :, 2]
        return torch.cat([matrix, shift[:, :, None]], dim=2)


class Matching(nn.Module):
    """Where in the garment each place of the target shape comes from, by attention.

    The expected position under a softmax over all places of the garment, as in Xu et al.,
    "GMFlow" (CVPR 2022).
    """

    def __init__(self, garment: int, shape: int, width: int = 32) -> None:
        super().__init__()
        self.key = nn.Conv2d(garment + 2, width, 1)
        self.query = nn.Conv2d(shape + 2, width, 1)

    def forward(self, garment: Tensor, shape: Tensor, mask: Tensor) -> Tensor:
        """[N,G,h,w], [N,S,h,w] and the garment's mask [N,1,h,w] to normalised [N,2,h,w]."""
        grid = positions(garment)
        place = grid.expand(garment.shape[0], -1, -1, -1)
        key = self.key(torch.cat([garment, place], dim=1)).flatten(2)
        query = self.query(torch.cat([shape, place], dim=1)).flatten(2)
        likeness = query.transpose(1, 2) @ key / key.shape[1] ** 0.5
        likeness = likeness.float() - 20 * (mask.flatten(2) < 0.1).float()
        weights = torch.softmax(likeness, dim=-1)
        # not a matrix product, which autocast would round
        x, y = (weights * axis.flatten(2) for axis in grid.split(1, dim=1))
        matched = torch.stack([x.sum(dim=-1), y.sum(dim=-1)], dim=1)
        return matched.unflatten(2, (garment.shape[-2], garment.shape[-1]))


def to_flow(matched: Tensor, affine: Tensor) -> Tensor:
    """The flow that leads to normalised source positions [N,2,h,w] through the affine, [N,2,h,w].

    In pixels, without the affine: affine(p + flow(p)) is the matched position.
    """
    h, w = matched.shape[-2:]
    a, b, c, d = (affine[:, i, j, None, None] for i in (0, 1) for j in (0, 1))
    x = matched[:, 0] - affine[:, 0, 2, None, None]
    y = matched[:, 1] - affine[:, 1, 2, None, None]
    area = (a * d - b * c).clamp_min(0.05)
    undone = torch.stack([(d * x - b * y) / area, (a * y - c * x) / area], dim=1)
    return (undone - positions(matched)) * undone.new_tensor([w / 2, h / 2]).view(1, 2, 1, 1)


class FlowLevel(nn.Module):
    """One level of the progressive flow: warp, compare with the target's features, correct.

    `coarser` is the width of the level before, whose features are carried on: a fine level alone
    sees too little of the body to know which fold or hem it looks at. 0 at the coarsest.
    """

    def __init__(self, garment: int, shape: int, width: int, coarser: int, matching: bool) -> None:
        super().__init__()
        self.matching = matching
        inputs, outputs = (4, 3) if matching else (2, 2)
        carried = min(coarser, 16)
        self.carry = nn.Conv2d(coarser, carried, 1) if coarser else None
        self.layers = nn.Sequential(
            Conv(garment + shape + inputs + carried, width), Conv(width, width)
        )
        self.change = nn.Conv2d(width, outputs, 3, 1, 1)
        nn.init.normal_(self.change.weight, std=1e-3)
        assert self.change.bias is not None
        nn.init.zeros_(self.change.bias)

    def forward(
        self,
        garment: Tensor,
        shape: Tensor,
        coarser: tuple[Tensor, Tensor] | None,
        affine: Tensor,
        match: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Flow and features of this level from those of the coarser one."""
        nothing = torch.zeros_like(shape[:, :2])
        if coarser is None or self.carry is None:
            # the coarsest level may have odd sides, and then no level at half its size: it is
            # warped at twice its size, where the coarser flow has its own
            doubled = F.interpolate(garment, scale_factor=2.0, mode="nearest")
            warped, _ = flow_warp(doubled, nothing, torch.zeros_like(doubled[:, :2]), affine)
            flow, known = nothing, [F.avg_pool2d(warped, 2)]
        else:
            warped, flow = flow_warp(garment, coarser[0], nothing, affine)
            known = [warped, upsample2x(self.carry(coarser[1]))]
        known += [shape, flow / 8]
        if not self.matching:
            features = self.layers(torch.cat(known, dim=1))
            return flow + self.change(features), features
        towards = match - flow
        features = self.layers(torch.cat([*known, towards / 8], dim=1))
        change = self.change(features)
        return flow + change[:, :2] + torch.sigmoid(change[:, 2:]) * towards, features


class WarpingNetwork(nn.Module):
    """The graph `warping`; `warp` gives affine and flows for training."""

    def __init__(self, config: WarpingConfig) -> None:
        super().__init__()
        self.maps = Maps(4, config.part_width)
        self.garment = Encoder(8, config.garment_widths, config.blocks)
        self.stem = Conv(self.maps.channels, config.shape_widths[0])
        self.shape = Encoder(config.shape_widths[0], config.shape_widths[1:], config.blocks[1:])
        self.aligning = (
            Aligning(config.garment_widths[-1] + config.shape_widths[-1])
            if config.aligning
            else None
        )
        widths = list(
            zip(config.garment_widths, config.shape_widths, config.flow_widths, strict=True)
        )
        self.matching = Matching(*widths[3][:2])
        coarser = (*config.flow_widths[1:], 0)
        self.levels = nn.ModuleList(
            FlowLevel(*widths[i], coarser[i], matching=i == 3) for i in reversed(range(5))
        )

    def warp(
        self,
        garment_image: Tensor,
        garment_parsing: Tensor,
        transfer_parsing: Tensor,
        person_densepose: Tensor,
    ) -> Warp:
        """Affine, flows of all levels and the garment to be sampled; inputs as in `forward`."""
        mask = one_hot(garment_parsing, (GARMENT,))
        # the border of a label map is off by a pixel or two, so colours there count little
        inner = 1 - dilate(1 - mask, border_width(mask.shape[-2]) // 2 or 1)
        weight = mask * (0.3 + 0.7 * inner)
        worn = torch.cat([image_to_float(garment_image) * weight, weight], dim=1)
        # what surrounds the garment tells which of its parts is where
        around = one_hot(garment_parsing, (SKIN, FACE, HAIR, LOWER))
        target = one_hot(transfer_parsing, (GARMENT, SKIN, FACE, LOWER))
        garment = self.garment(torch.cat([worn, around], dim=1))
        stem = self.stem(self.maps(target, person_densepose))
        shape = [stem, *self.shape(stem)]
        if self.aligning is None:
            affine = identity_affine(worn)
        else:
            coarsest = torch.cat([garment[-1], shape[-1]], dim=1)
            affine = self.aligning(coarsest, mask, target[:, :1])
        matched = self.matching(garment[3], shape[3], F.avg_pool2d(mask, 16))
        match = to_flow(matched, affine)
        flows: list[Tensor] = []
        coarser = None
        for level, g, s in zip(self.levels, reversed(garment), reversed(shape), strict=True):
            coarser = level(g, s, coarser, affine, match)
            flows.append(coarser[0])
        warped, flow = flow_warp(worn, flows[-1], torch.zeros_like(worn[:, :2]), affine)
        return Warp(affine, match, [*flows, flow], warped)

    def forward(
        self,
        garment_image: Tensor,
        garment_parsing: Tensor,
        transfer_parsing: Tensor,
        person_densepose: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The warped garment and its flow.

        Args:
            garment_image: uint8 [N,H,W,3], the owner's photo.
            garment_parsing, transfer_parsing: uint8 [N,H,W].
            person_densepose: uint8 [N,H,W,3], IUV.

        Returns:
            uint8 [N,H,W,3], complete in the transfer parsing's garment and 0 outside it, and
            float32 [N,2,H,W], (dx, dy) in pixels with the affine in it: pixel p shows the
            owner's photo at p + flow(p).
        """
        warp = self.warp(garment_image, garment_parsing, transfer_parsing, person_densepose)
        target = one_hot(transfer_parsing, (GARMENT,))
        image = float_to_image(fill_garment(warp.garment) * target)
        return image, displacement(warp.flows[-1], warp.affine)


def fill_garment(garment: Tensor) -> Tensor:
    """Colours [N,3,H,W] everywhere from premultiplied colours and their weight [N,4,H,W].

    What the owner's photo does not show of the garment (a hand was in front of it, or the
    target region is larger) continues what surrounds it.
    """
    weight = garment[:, 3:]
    colour = garment[:, :3] / weight.clamp_min(1e-3)
    return push_pull(colour.clamp(0, 1), weight)


def displacement(flow: Tensor, affine: Tensor) -> Tensor:
    """`flow` with the affine composed in: affine(p + flow(p)) - p in pixels, [N,2,H,W]."""
    h, w = flow.shape[-2:]
    half = flow.new_tensor([w / 2, h / 2]).view(1, 2, 1, 1)
    place = positions(flow)
    u, v = (place + flow / half).split(1, dim=1)
    a = affine[:, :, :, None, None]
    source = a[:, :, 0] * u + a[:, :, 1] * v + a[:, :, 2]
    return (source - place) * half
