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

from garment_transfer.bundle import FACE, GARMENT, HAIR, LEGS, LOWER, SKIN
from garment_transfer.models.flow_warp import affine_warp
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


class TryOnParsingNetwork(ParsingTrunk):
    """`T_p`: from A's reserved parsing and DensePose and an in-shop garment's mask, A's parsing.

    The mask is moved onto A so that its trunk has the width of A's torso and hangs from the same
    height; its length then says where the hem is. How far sleeves reach on A is left to the
    network, which also gets the mask's proportions in numbers. A mask does not tell a wide garment
    from a short one, nor whether somebody wears it tucked in. Annotated places of the cloth do, in
    the shop's picture and in a photo of its wearer, where a data set has them.
    """

    def __init__(self, config: ParsingConfig) -> None:
        super().__init__(config, person_planes=5, owner_channels=8 + 2, covered_channels=2 + 6 + 2)
        self.shop = Conv(3 + 3, 8, 2)

    def reason_planes(
        self,
        reserved: Tensor,
        person_densepose: Tensor,
        shop_mask: Tensor,
        shop_places: Tensor | None = None,
        worn_places: Tensor | None = None,
    ) -> Reasoned:
        """Logits of the classes `REASONED`, and features.

        Args:
            reserved: float [N,5,H,W], as `reserved_planes` gives it.
            person_densepose: uint8 [N,H,W,3], IUV.
            shop_mask: uint8 or bool [N,H,W], where the shop's picture shows the garment.
            shop_places: [N,3,H,W], which place of the cloth it shows, metres; None if unknown.
            worn_places: the same of a photo of its wearer, which tells whether it is tucked in.
        """
        mask = (shop_mask > 0)[:, None].float()
        places = torch.zeros_like(mask).expand(-1, 3, -1, -1)
        worn_places = places if worn_places is None else worn_places.float()
        if shop_places is not None:
            places = shop_places.float() * mask
        trunk = mask * _trunk(mask)
        place = within(moments(trunk), mask)
        shop = self.shop(torch.cat([mask, place * mask, 2 * places], dim=1))
        owner = torch.cat([shop, place[..., ::2, ::2]], dim=1)
        torso = is_part(person_densepose, TORSO_PARTS)[:, None].float()
        aligned = affine_warp(owner, _hanging_affine(torso, trunk))
        person = self.person(reserved, person_densepose)
        wider = _extent(mask, 3) / _extent(trunk, 3)
        proportions = torch.stack([wider, _extent(trunk, 2) / _extent(trunk, 3)], dim=1)
        # hem, collar and both sleeves' ends are where the cloth reaches farthest
        reach = [_least(places), -_least(-places), _hem(places)]
        # the height of the waistband is its wearer's and means nothing on A
        known = [(p != 0).flatten(1).any(dim=1, keepdim=True) for p in (places, worn_places)]
        raised = _hem(worn_places) - _hem(places) > 0.03
        tucked = (raised & known[0] & known[1]).float()
        # a garment reaches some decimetres: near 1, as features are
        numbers = torch.cat([proportions.log(), *(4 * end for end in reach), tucked], dim=1)
        h, w = mask.shape[-2] // 4, mask.shape[-1] // 4
        covered = numbers[:, :, None, None].expand(-1, -1, h, w)
        return self.reason_features(person, owner, aligned, covered)


def reserved_planes(parsing: Tensor, densepose: Tensor, lower: bool) -> Tensor:
    """What of a person's own parsing `T_p` may see: float [N,5,H,W].

    Hair, face, lower garment, legs and the hands. Where the lower garment begins tells how far the
    garment above it reaches, so without `lower` that plane is 0.
    """
    hands = (parsing == SKIN) & is_part(densepose, HAND_PARTS)
    planes = one_hot(parsing, (HAIR, FACE, LOWER, LEGS))
    if not lower:
        planes[:, 2] = 0
    return torch.cat([planes, hands[:, None].float()], dim=1)


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


def _least(places: Tensor) -> Tensor:
    """The least of each coordinate [N,3,H,W] over a garment, which is where any is not 0: [N,3]."""
    known = (places != 0).any(dim=1, keepdim=True)
    least = torch.where(known, places, torch.inf).amin(dim=(2, 3))
    return torch.where(least.isinf(), 0.0, least)


def _hem(places: Tensor) -> Tensor:
    """How low on the trunk the cloth reaches, [N,3,H,W] to [N,1], metres; sleeves lie beside it."""
    return _least(places * (places[:, :1].abs() < 0.2))[:, 2:]


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
