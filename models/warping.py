"""Garment warping: an affine that aligns, then a flow that is refined from coarse to fine.

`S_w` of Fang et al. (arXiv 2401.12433). An STN regresses one affine from the worn garment to
the target shape. Two feature pyramids, of the garment as it was worn and of the target shape
with the pose, then give a flow over five levels: each level upsamples the flow so far, warps
the garment's features with it and with the affine, and adds a residual. Both are composed by
FlowWarp, and the original garment is sampled once.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from garment_transfer.models.flow_warp import flow_warp, identity_affine
from garment_transfer.models.layers import (
    Conv,
    DensePose,
    Encoder,
    border_width,
    dilate,
    float_to_image,
    image_to_float,
    one_hot,
    push_pull,
)
from garment_transfer.runtime.labels import FACE, GARMENT, HAIR, LOWER, SKIN


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

    affine: [N,2,3], output to source, normalised. flows: per level, coarse to fine, [N,2,h,w],
    without the affine; the last has the full size. garment: [N,4,H,W], colours times weight,
    and the weight, in 0..1: how surely a pixel shows the garment.
    """

    affine: Tensor
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
        source_centre, source_extent = _moments(source)
        target_centre, target_extent = _moments(target)
        moments = torch.cat([source_centre, source_extent, target_centre, target_extent], dim=1)
        pooled = self.features(features).mean(dim=(2, 3))
        correction = self.regress(torch.cat([pooled, moments], dim=1)).view(-1, 2, 3)
        scale = (source_extent / target_extent).clamp(0.4, 2.5)
        matrix = torch.diag_embed(scale) + correction[:, :, :2]
        # the correction turns about the target's centre, so that it does not also move it
        shift = source_centre - (matrix @ target_centre[:, :, None])[:, :, 0] + correction[:, :, 2]
        return torch.cat([matrix, shift[:, :, None]], dim=2)


def _moments(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and standard deviation of a region, normalised coordinates, each [N,2] (x, y)."""
    h, w = mask.shape[-2:]
    xs = ((torch.arange(w, device=mask.device) * 2 + 1) / w - 1).view(1, 1, 1, w)
    ys = ((torch.arange(h, device=mask.device) * 2 + 1) / h - 1).view(1, 1, h, 1)
    area = mask.sum(dim=(1, 2, 3)).clamp_min(1.0)

    def mean(value: Tensor) -> Tensor:
        return (value * mask).sum(dim=(1, 2, 3)) / area

    cx, cy = mean(xs), mean(ys)
    vx = mean((xs - cx.view(-1, 1, 1, 1)) ** 2)
    vy = mean((ys - cy.view(-1, 1, 1, 1)) ** 2)
    extent = torch.stack([vx, vy], dim=1).clamp_min(1e-3).sqrt()
    return torch.stack([cx, cy], dim=1), extent


class FlowLevel(nn.Module):
    """One level of the progressive flow: warp, compare with the target's features, correct."""

    def __init__(self, garment: int, shape: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv(garment + shape + 2, width), Conv(width, width), nn.Conv2d(width, 2, 3, 1, 1)
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.normal_(last.weight, std=1e-3)
        assert last.bias is not None
        nn.init.zeros_(last.bias)

    def forward(self, garment: Tensor, shape: Tensor, coarse: Tensor, affine: Tensor) -> Tensor:
        nothing = torch.zeros_like(shape[:, :2])
        warped, flow = flow_warp(garment, coarse, nothing, affine)
        return flow + self.layers(torch.cat([warped, shape, flow / 8], dim=1))


class WarpingNetwork(nn.Module):
    """The graph `warping`; `warp` gives affine and flows for training."""

    def __init__(self, config: WarpingConfig) -> None:
        super().__init__()
        self.pose = DensePose(config.part_width)
        self.garment = Encoder(8, config.garment_widths, config.blocks)
        self.shape = Encoder(self.pose.channels + 4, config.shape_widths, config.blocks)
        self.aligning = (
            Aligning(config.garment_widths[-1] + config.shape_widths[-1])
            if config.aligning
            else None
        )
        self.levels = nn.ModuleList(
            FlowLevel(*widths)
            for widths in reversed(
                list(zip(config.garment_widths, config.shape_widths, config.flow_widths, strict=True))
            )
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
        shape = self.shape(torch.cat([self.pose(person_densepose), target], dim=1))
        if self.aligning is None:
            affine = identity_affine(worn)
        else:
            coarsest = torch.cat([garment[-1], shape[-1]], dim=1)
            affine = self.aligning(coarsest, mask, target[:, :1])
        # the coarsest level has no coarser one: a flow of zeros at half its size
        flow = F.avg_pool2d(torch.zeros_like(shape[-1][:, :2]), 2)
        flows = []
        for level, g, s in zip(self.levels, reversed(garment), reversed(shape), strict=True):
            flow = level(g, s, flow, affine)
            flows.append(flow)
        warped, flow = flow_warp(worn, flow, torch.zeros_like(worn[:, :2]), affine)
        return Warp(affine, [*flows, flow], warped)

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
    xs = torch.arange(w, dtype=torch.float32, device=flow.device).view(1, 1, w)
    ys = torch.arange(h, dtype=torch.float32, device=flow.device).view(1, h, 1)
    u = (2 * (xs + flow[:, 0]) + 1) / w - 1
    v = (2 * (ys + flow[:, 1]) + 1) / h - 1
    a = affine[:, :, :, None, None]
    source_u = a[:, 0, 0] * u + a[:, 0, 1] * v + a[:, 0, 2]
    source_v = a[:, 1, 0] * u + a[:, 1, 1] * v + a[:, 1, 2]
    dx = ((source_u + 1) * w - 1) / 2 - xs
    dy = ((source_v + 1) * h - 1) / 2 - ys
    return torch.stack([dx, dy], dim=1)
