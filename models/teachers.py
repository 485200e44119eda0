"""The teachers: virtual try-on, which sees the garment in the shop in place of a worn one.

`T_p` and `T_w` of Fang et al. (arXiv 2401.12433). A person in their own garment, and that garment
in the shop, is a try-on whose result is the photo itself, so a teacher needs no other truth. The
paper builds on its authors' PG-VTON and publishes neither; here both teachers are the students'
own building blocks with another input, so what a teacher computes inside can be compared with
what its student does.

`T_w` is a `WarpingNetwork` that takes the shop's picture for the owner's photo, and its mask for
the owner's parsing (`shop_parsing`).
"""

import torch
from torch import Tensor

from garment_transfer.models.flow_warp import flow_warp
from garment_transfer.models.layers import (
    HAND_PARTS,
    TORSO_PARTS,
    Conv,
    is_part,
    moments,
    one_hot,
    positions,
    within,
)
from garment_transfer.models.parsing import ParsingConfig, ParsingTrunk, Reasoned
from garment_transfer.runtime.labels import FACE, GARMENT, HAIR, LEGS, LOWER, SKIN


class TryOnParsingNetwork(ParsingTrunk):
    """`T_p`: from A's reserved parsing and DensePose and an in-shop garment's mask, A's parsing.

    The mask is moved onto A so that its trunk has the width of A's torso and hangs from the same
    height; its length then says where the hem is. How far sleeves reach on A is left to the
    network, which also gets the mask's proportions in numbers.
    """

    def __init__(self, config: ParsingConfig) -> None:
        super().__init__(config, person_planes=5, owner_channels=8 + 2, covered_channels=2)
        self.shop = Conv(3, 8, 2)

    def reason_planes(
        self, reserved: Tensor, person_densepose: Tensor, shop_mask: Tensor
    ) -> Reasoned:
        """Logits of the classes `REASONED`, and features.

        Args:
            reserved: float [N,5,H,W], as `reserved_planes` gives it.
            person_densepose: uint8 [N,H,W,3], IUV.
            shop_mask: uint8 or bool [N,H,W], where the shop's picture shows the garment.
        """
        mask = (shop_mask > 0)[:, None].float()
        trunk = mask * _trunk(mask)
        place = within(moments(trunk), mask)
        shop = self.shop(torch.cat([mask, place * mask], dim=1))
        owner = torch.cat([shop, place[..., ::2, ::2]], dim=1)
        torso = is_part(person_densepose, TORSO_PARTS)[:, None].float()
        affine = _hanging_affine(torso, trunk)
        coarse = torch.zeros_like(owner[:, :2, ::2, ::2])
        aligned, _ = flow_warp(owner, coarse, torch.zeros_like(owner[:, :2]), affine)
        person = self.person(reserved, person_densepose)
        numbers = torch.stack([_extent(mask, 3) / _extent(trunk, 3), _slimness(trunk)], dim=1)
        h, w = mask.shape[-2] // 4, mask.shape[-1] // 4
        covered = numbers.log()[:, :, None, None].expand(-1, -1, h, w)
        return self.think(person, owner, aligned, covered)


def reserved_planes(person_parsing: Tensor, person_densepose: Tensor, hem: int) -> Tensor:
    """What of a person's own parsing `T_p` may see: float [N,5,H,W].

    Hair, face, lower garment, legs and the hands. The lower garment `hem` rows or less below the
    person's own garment is left out: where it begins would tell how far that garment reaches.
    """
    hands = (person_parsing == SKIN) & is_part(person_densepose, HAND_PARTS)
    planes = one_hot(person_parsing, (HAIR, FACE, LOWER, LEGS, GARMENT))
    return reserved_from(planes, hands[:, None].float(), hem)


def reserved_from(planes: Tensor, hands: Tensor, hem: int) -> Tensor:
    """`reserved_planes` from soft planes [N,5,H,W] of hair, face, lower garment, legs, garment."""
    hair, face, lower, legs, garment = planes.split(1, dim=1)
    if hem:
        # upwards: a pixel is hidden if one of the `hem` rows above it is garment
        above = torch.nn.functional.pad(garment, (0, 0, hem, 0))
        lower = lower * (1 - torch.nn.functional.max_pool2d(above, (hem + 1, 1), 1))
    return torch.cat([hair, face, lower, legs, hands], dim=1)


def shop_parsing(shop_mask: Tensor) -> Tensor:
    """A shop picture's mask [N,H,W] as the parsing that `T_w` takes: uint8, garment or nothing."""
    return (shop_mask > 0).to(torch.uint8) * GARMENT


def _trunk(mask: Tensor) -> Tensor:
    """The columns [N,1,1,W] where a garment [N,1,H,W] is at least half as tall as at its tallest.

    In the shop's pose sleeves hang beside the trunk and are slanted, so their columns are short.
    """
    column = mask.sum(dim=2, keepdim=True)
    return (column > 0.5 * column.amax(dim=3, keepdim=True)).float()


def _extent(mask: Tensor, axis: int) -> Tensor:
    """How many rows (axis 2) or columns (axis 3) of [N,1,H,W] a mask touches, at least 1: [N]."""
    return mask.amax(dim=5 - axis).sum(dim=(1, 2)).clamp_min(1.0)


def _slimness(mask: Tensor) -> Tensor:
    return _extent(mask, 2) / _extent(mask, 3)


def _hanging_affine(target: Tensor, source: Tensor) -> Tensor:
    """The affine [N,2,3], output to source, between masks [N,1,H,W] of a torso and of a trunk.

    One scale, from their widths; their upper edges and the middle of their columns meet. No side
    grows or shrinks by more than 4.
    """
    (centre_a, extent_a), (centre_b, extent_b) = moments(target), moments(source)
    scale = (extent_b[:, 0] / extent_a[:, 0]).clamp(0.25, 4.0)
    ys = positions(target)[:, 1:]
    top_a, top_b = (torch.where(m > 0, ys, 1.0).amin(dim=(1, 2, 3)) for m in (target, source))
    nothing = torch.zeros_like(scale)
    rows = [
        torch.stack([scale, nothing, centre_b[:, 0] - scale * centre_a[:, 0]], dim=1),
        torch.stack([nothing, scale, top_b - scale * top_a], dim=1),
    ]
    return torch.stack(rows, dim=1)
