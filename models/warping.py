"""Garment warping: an affine that aligns, then a flow that is refined from coarse to fine.

`S_w` of Fang et al. (arXiv 2401.12433). An STN regresses one affine from the worn garment to
the target shape. Two feature pyramids, of the garment as it was worn and of the target shape
with the pose, then give a flow over five levels: each level upsamples the flow so far, warps
the garment's features with it and with the affine, and adds a residual. Both are composed by
FlowWarp, and the original garment is sampled once.

The paper does not publish the network. Here both pyramids also say which place of the cloth
every pixel shows, as three coordinates that are the same on every body (DensePose's idea, Guler
et al., CVPR 2018, with a garment in place of the skin). Where they differ is what a level has to
mend. And where an arm points elsewhere no affine helps and no local comparison finds it, so the
flow's second level may take up a match of these coordinates against the whole garment. DensePose
says where on the body each pixel of either person is, which on a garment that fits is nearly the
same: both sides read it by one table.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from garment_transfer.bundle import FACE, GARMENT, HAIR, LOWER, NUM_PARTS, SKIN, border_width
from garment_transfer.models.flow_warp import flow_warp, identity_affine
from garment_transfer.models.layers import (
    Context,
    Conv,
    Encoder,
    Maps,
    densepose_planes,
    dilate,
    float_to_image,
    image_to_float,
    join,
    matching_affine,
    moments,
    one_hot,
    positions,
    push_pull,
    upsample2x,
    within,
)


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
class Flows:
    """What `WarpingNetwork.flows` gives; flows in pixels of their own level, without the affine.

    affine: [N,2,3], output to source, normalised. match: the flow of the matching, [N,2,h,w] at
    1/16 of the size. levels: the progressive flow from 1/32 to 1/2 of the size, [N,2,h,w] each.
    worn, wanted: which place of the cloth the owner's photo and the target show, [N,3,h,w] at 1/4
    of the size, decimetres; they mean nothing outside the garment.
    """

    affine: Tensor
    match: Tensor
    levels: list[Tensor]
    worn: Tensor
    wanted: Tensor


class Aligning(nn.Module):
    """The STN: a correction to the affine that matches centre and extent of both regions.

    Starting from the regions' moments leaves the network what they cannot tell: a turned body,
    a sleeve that is hidden.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(Conv(channels, 24), Conv(24, 48, 2))
        self.regress = nn.Sequential(nn.Linear(48 + 8, 64), nn.ReLU(), nn.Linear(64, 6))
        last = self.regress[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self, features: Tensor, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]
    ) -> Tensor:
        """[N,C,h,w] features and the `moments` of the worn and the target region: [N,2,3]."""
        shapes = torch.cat([*source, *target], dim=1)
        pooled = self.features(features).mean(dim=(2, 3))
        correction = self.regress(torch.cat([pooled, shapes], dim=1)).float().view(-1, 2, 3)
        # it turns about the target's centre, so that it does not also move it
        moved = (correction[:, :, :2] * target[0][:, None]).sum(dim=2)
        correction = torch.cat(
            [correction[:, :, :2], (correction[:, :, 2] - moved)[:, :, None]], dim=2
        )
        return matching_affine(target, source) + correction


class Places(nn.Module):
    """Which place of the cloth each pixel shows, from features at 1/4 of the size.

    Float32 even under autocast: bfloat16 would round a coordinate to most of a pixel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = Conv(channels + 2 + 3, 24)
        self.place = nn.Conv2d(24 + 2 + 3, 3, 1)

    def forward(self, features: Tensor, region: tuple[Tensor, Tensor], body: Tensor) -> Tensor:
        """[N,C,h,w], the garment's `moments` and places of the `Body` to [N,3,h,w], decimetres."""
        place = torch.cat([within(region, features), body], dim=1)
        features = self.features(torch.cat([features, place.to(features.dtype)], dim=1))
        with torch.autocast(features.device.type, enabled=False):
            return self.place(torch.cat([features.float(), place], dim=1))


class Body(nn.Module):
    """Which place of the cloth would cover each place of the body, if cloth were skin.

    A table: per DensePose part a place, and how it moves with U and with V.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Embedding(NUM_PARTS, 9)

    def forward(self, densepose: Tensor) -> Tensor:
        """Uint8 IUV [N,H,W,3] to [N,3,H/4,W/4], decimetres; by parts alone where U and V are 0."""
        planes = densepose_planes(self.parts, densepose[:, 2::4, 2::4])
        place, along_u, along_v, u, v = planes.split([3, 3, 3, 1, 1], dim=1)
        known = (u + v > 0).float()
        return place + known * (along_u * (u - 0.5) + along_v * (v - 0.5))


class Matching(nn.Module):
    """Where in the garment each place of the target comes from: the nearest place of the cloth.

    The expected position under a Gaussian of the distance between places, so that it lies between
    the cells of the coarse grid that it looks at.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(1.9))  # log of 1 / (0.15 decimetres)

    def forward(self, worn: Tensor, wanted: Tensor) -> Tensor:
        """[N,4,h,w] and [N,4,k,l], places times coverage and coverage, to normalised [N,2,k,l]."""
        source, target = worn.flatten(2), wanted.flatten(2)
        grid = positions(worn).flatten(2)
        scale = torch.exp(self.sharpness)
        key = scale * source[:, :3] / source[:, 3:].clamp_min(1e-3)
        query = scale * target[:, :3] / target[:, 3:].clamp_min(1e-3)
        distance = (query[:, :, :, None] - key[:, :, None]).square().sum(dim=1)
        # what is hardly garment is no answer, however far the next place is
        coverage = source[:, 3:]
        likeness = torch.where(coverage > 0.02, torch.log(coverage) - distance / 2, -1e6)
        weights = torch.softmax(likeness, dim=-1)
        # not a matrix product, which autocast would round
        x, y = (weights * axis for axis in grid.split(1, dim=1))
        matched = torch.stack([x.sum(dim=-1), y.sum(dim=-1)], dim=1)
        return matched.unflatten(2, (wanted.shape[-2], wanted.shape[-1]))


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
    """One level of the progressive flow: warp, compare with the target, correct.

    `coarser` is the width of the level before, whose features are carried on: a fine level alone
    sees too little of the body to know which fold or hem it looks at. 0 at the coarsest, which
    has no places to compare either.
    """

    def __init__(self, garment: int, shape: int, width: int, coarser: int, matching: bool) -> None:
        super().__init__()
        self.matching = matching
        inputs = garment + shape + 2
        self.carry: nn.Module | None = None
        if coarser:
            carried = min(coarser, 16)
            self.carry = nn.Conv2d(coarser, carried, 1)
            inputs += carried + 4
        if matching:
            inputs += 2
        self.layers = nn.Sequential(Conv(inputs, width), Conv(width, width))
        self.change = nn.Conv2d(width, 3 if matching else 2, 3, 1, 1)
        nn.init.normal_(self.change.weight, std=1e-3)
        assert self.change.bias is not None
        nn.init.zeros_(self.change.bias)

    def coarsest(self, garment: Tensor, shape: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
        """Flow and features of the coarsest level, which starts from the affine alone."""
        nothing = torch.zeros_like(shape[:, :2])
        # it may have odd sides, and then no level at half its size: it is warped at twice its
        # size, where the coarser flow has its own
        doubled = F.interpolate(garment, scale_factor=2.0, mode="nearest")
        warped, _ = flow_warp(doubled, nothing, torch.zeros_like(doubled[:, :2]), affine)
        features = self.layers(torch.cat([F.avg_pool2d(warped, 2), shape, nothing], dim=1))
        return self.change(features), features

    def forward(
        self,
        garment: Tensor,
        shape: Tensor,
        worn: Tensor,
        wanted: Tensor,
        coarser: tuple[Tensor, Tensor],
        affine: Tensor,
        match: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Flow and features of this level from those of the coarser one.

        `worn` and `wanted` are [N,4,h,w], places times coverage and coverage.
        """
        assert self.carry is not None
        channels = garment.shape[1]
        moved, flow = flow_warp(
            join(garment, worn.to(garment.dtype)),
            coarser[0],
            torch.zeros_like(shape[:, :2]),
            affine,
        )
        shown = moved[:, channels + 3 :]
        # in about pixels of the full size, and only where both are garment
        error = 25 * (wanted[:, :3] * shown - moved[:, channels : channels + 3] * wanted[:, 3:])
        carried = upsample2x(self.carry(coarser[1]))
        known = [moved[:, :channels], shape, error, shown, carried, flow / 8]
        if match is None:
            features = self.layers(join(*known))
            return flow + self.change(features), features
        towards = match - flow
        features = self.layers(join(*known, towards / 8))
        change = self.change(features)
        return flow + change[:, :2] + torch.sigmoid(change[:, 2:]) * towards, features


class WarpingNetwork(nn.Module):
    """The graph `warping`; `flows` gives affine and flows for training."""

    def __init__(self, config: WarpingConfig) -> None:
        super().__init__()
        self.maps = Maps(4, config.part_width)
        self.garment_stem = Encoder(8 + 2, config.garment_widths[:1], config.blocks[:1])
        self.garment = Encoder(
            config.garment_widths[0] + config.part_width + 2,
            config.garment_widths[1:],
            config.blocks[1:],
        )
        self.stem = Conv(self.maps.channels + 2, config.shape_widths[0])
        self.shape = Encoder(config.shape_widths[0], config.shape_widths[1:], config.blocks[1:])
        self.garment_context = Context(config.garment_widths[1:])
        self.shape_context = Context(config.shape_widths[1:])
        self.body = Body()
        self.worn = Places(config.garment_widths[1])
        self.wanted = Places(config.shape_widths[1])
        self.aligning = (
            Aligning(config.garment_widths[-1] + config.shape_widths[-1])
            if config.aligning
            else None
        )
        self.matching = Matching()
        widths = list(
            zip(config.garment_widths, config.shape_widths, config.flow_widths, strict=True)
        )
        coarser = (*config.flow_widths[1:], 0)
        self.levels = nn.ModuleList(
            FlowLevel(*widths[i], coarser[i], matching=i == 3) for i in reversed(range(5))
        )

    def flows(
        self,
        garment_image: Tensor,
        garment_parsing: Tensor,
        garment_densepose: Tensor,
        transfer_parsing: Tensor,
        person_densepose: Tensor,
        garment_places: Tensor | None = None,
    ) -> Flows:
        """Affine and flows of all levels; inputs as in `forward`.

        `garment_places` [N,3,H,W], decimetres: which place of the cloth the owner's photo shows,
        where that is annotated: the flow goes by it in place of the estimate `worn`.
        """
        mask = one_hot(garment_parsing, (GARMENT,))
        # what surrounds the garment tells which of its parts is where
        around = one_hot(garment_parsing, (SKIN, FACE, HAIR, LOWER))
        target = one_hot(transfer_parsing, (GARMENT, SKIN, FACE, LOWER))
        source_region, target_region = moments(mask), moments(target[:, :1])
        pixels = [image_to_float(garment_image) * mask, mask, around, within(source_region, mask)]
        garment = self.garment_stem(torch.cat(pixels, dim=1))
        owner = densepose_planes(self.maps.parts, garment_densepose[:, 1::2, 1::2])
        garment += self.garment(join(garment[0], owner))
        maps = self.maps(target, person_densepose)
        shape = [self.stem(join(maps, within(target_region, maps)))]
        shape += self.shape(shape[0])
        garment[1:] = self.garment_context(garment[1:])
        shape[1:] = self.shape_context(shape[1:])
        if self.aligning is None:
            affine = identity_affine(mask)
        else:
            coarsest = torch.cat([garment[-1], shape[-1]], dim=1)
            affine = self.aligning(coarsest, source_region, target_region)

        worn = self.worn(garment[1], source_region, self.body(garment_densepose))
        wanted = self.wanted(shape[1], target_region, self.body(person_densepose))
        shown = worn
        if garment_places is not None:
            covered = F.avg_pool2d(mask, 4).clamp_min(1e-6)
            shown = F.avg_pool2d(garment_places.float() * mask, 4) / covered
        worn_levels, wanted_levels = _levels(shown, mask), _levels(wanted, target[:, :1])
        match = to_flow(self.matching(worn_levels[1], wanted_levels[0]), affine)

        coarsest_level, *finer_levels = self.levels
        assert isinstance(coarsest_level, FlowLevel)
        coarser = coarsest_level.coarsest(garment[-1], shape[-1], affine)
        flows = [coarser[0]]
        for i, level in enumerate(finer_levels):
            coarser = level(
                garment[3 - i],
                shape[3 - i],
                worn_levels[i],
                wanted_levels[i],
                coarser,
                affine,
                match if level.matching else None,
            )
            flows.append(coarser[0])
        return Flows(affine, match, flows, worn, wanted)

    def forward(
        self,
        garment_image: Tensor,
        garment_parsing: Tensor,
        garment_densepose: Tensor,
        transfer_parsing: Tensor,
        person_densepose: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The warped garment, its flow, and how surely the owner's photo shows it.

        Args:
            garment_image: uint8 [N,H,W,3], the owner's photo.
            garment_parsing, transfer_parsing: uint8 [N,H,W].
            garment_densepose: uint8 [N,H,W,3], IUV of the owner.
            person_densepose: uint8 [N,H,W,3], IUV.

        Returns:
            uint8 [N,H,W,3], complete in the transfer parsing's garment and 0 outside it;
            float32 [N,2,H,W], (dx, dy) in pixels with the affine in it: pixel p shows the
            owner's photo at p + flow(p); and uint8 [N,H,W], 255 where that photo surely shows the
            garment there, 0 where it does not and outside the garment.
        """
        flows = self.flows(
            garment_image, garment_parsing, garment_densepose, transfer_parsing, person_densepose
        )
        warped, flow = sample(garment_image, garment_parsing, flows)
        target = one_hot(transfer_parsing, (GARMENT,))
        image = float_to_image(fill_garment(warped) * target)
        confidence = (warped[:, 3:] * target * 255 + 0.5).to(torch.uint8)[:, 0]
        return image, displacement(flow, flows.affine), confidence


def _levels(places: Tensor, mask: Tensor) -> list[Tensor]:
    """Places at 1/4 of the size times coverage, and coverage, [N,4,h,w] at 1/16, 1/8, 1/4, 1/2."""
    coverage = F.avg_pool2d(mask, 4)
    levels = [torch.cat([places * coverage, coverage], dim=1)]
    for _ in range(2):
        levels.insert(0, F.avg_pool2d(levels[0], 2))
    return [*levels, upsample2x(levels[-1])]


def sample(garment_image: Tensor, garment_parsing: Tensor, flows: Flows) -> tuple[Tensor, Tensor]:
    """Move the garment along flow and affine, once.

    Returns:
        [N,4,H,W], colours times weight, and the weight, in 0..1: how surely a pixel shows the
        garment; and the flow [N,2,H,W] in pixels of the full size, without the affine.
    """
    mask = one_hot(garment_parsing, (GARMENT,))
    # the border of a label map is off by up to three pixels and may show what is behind it,
    # so colours there count little
    inner = 1 - dilate(1 - mask, border_width(mask.shape[-2]))
    weight = mask * (0.05 + 0.95 * inner)
    worn = torch.cat([image_to_float(garment_image) * weight, weight], dim=1)
    return flow_warp(worn, flows.levels[-1], torch.zeros_like(worn[:, :2]), flows.affine)


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
