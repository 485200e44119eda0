"""Transfer parsing reasoning: who wears what where, before a pixel is painted.

`S_p` of Fang et al. (arXiv 2401.12433): from A's reserved parsing and DensePose, and B's
garment parsing and DensePose, the parsing of A in B's garment. The paper does not publish the
network; here it is a U-Net over both people's maps, with three ways for B's garment to reach
A's body that do not depend on where B stands in the picture:

- alignment: B's maps are moved and scaled so that both torsos have one centre and one extent,
  which brings neckline and hem to their places;
- coverage: how much of each body part B's garment and B's skin cover, read off at the same part
  of A (sleeve length and hem in numbers);
- attention from the U-Net's features to those of B alone, at 1/16 of the size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from garment_transfer.bundle import (
    BACKGROUND,
    FACE,
    GARMENT,
    HAIR,
    LEGS,
    LOWER,
    NUM_PARTS,
    SKIN,
    border_width,
)
from garment_transfer.models.flow_warp import affine_warp
from garment_transfer.models.layers import (
    FOREARM_PARTS,
    HAND_PARTS,
    TORSO_PARTS,
    Conv,
    Encoder,
    Maps,
    Residual,
    dilate,
    is_part,
    join,
    label_neck,
    matching_affine,
    moments,
    one_hot,
    positions,
    softmax_planes,
    upsample2x,
)

#: The classes that are reasoned, in the order of the network's logits. The person's own hair,
#: face and legs are kept as they are.
REASONED = (BACKGROUND, SKIN, GARMENT, LOWER)
KEPT = (HAIR, FACE, LEGS)
#: The owner's classes that the network sees, in the order of its planes.
WORN = (GARMENT, SKIN, HAIR, LOWER)


#: The share of the forearms that is skin from which on they count as bare.
_BARE = 0.7
#: Doubt between garment and lower garment, the lesser of both probabilities, in the mean over the
#: pixels around (0 at kept ones and off the frame): from the first on hems are smoothed, from the
#: second on fully.
_SMOOTHED, _FULLY_SMOOTHED = 0.05, 0.12
#: The least mean of garment and lower garment that is divided by.
_LEAST = 1e-4


@dataclass(frozen=True)
class ParsingConfig:
    """Widths of the parsing network: trunk from 1/2 to 1/32 of the size, B's own encoder, head."""

    widths: tuple[int, int, int, int, int]
    blocks: tuple[int, int, int, int, int]
    garment_widths: tuple[int, int, int]
    part_width: int
    head_width: int


@dataclass(frozen=True)
class Reasoned:
    """What a parsing network makes of its inputs.

    logits: [N,4,H,W] of the classes `REASONED`. features: the decoder's maps from 1/16 to 1/2 of
    the size, [N,C,h,w] each, which is what one network can learn from another beside the result.
    """

    logits: Tensor
    features: list[Tensor]


class ParsingTrunk(nn.Module):
    """The U-Net that both parsing networks are: what they read differs, how they reason does not.

    `owner_channels` and `covered_channels` say how many features of the garment there are and how
    many planes join at 1/4 of the size.
    """

    def __init__(
        self, config: ParsingConfig, person_planes: int, owner_channels: int, covered_channels: int
    ) -> None:
        super().__init__()
        self.person = Maps(person_planes, config.part_width)
        widths = config.widths
        self.stem = nn.Sequential(
            Conv(self.person.channels + owner_channels, widths[0]),
            *(Residual(widths[0]) for _ in range(config.blocks[0])),
        )
        self.trunk = nn.ModuleList(
            [
                # what is known at 1/4 joins there
                Encoder(widths[0], widths[1:2], (0,)),
                Encoder(widths[1], widths[2:3], config.blocks[2:3]),
                Encoder(widths[2], widths[3:4], config.blocks[3:4]),
                Encoder(widths[3], widths[4:5], config.blocks[4:5]),
            ]
        )
        self.cover = nn.Sequential(
            Conv(widths[1] + covered_channels, widths[1]),
            *(Residual(widths[1]) for _ in range(config.blocks[1])),
        )
        tokens = config.garment_widths[-1]
        self.garment = Encoder(owner_channels + 2, config.garment_widths, (0, 0, 0))
        self.query = nn.Conv2d(widths[3], tokens, 1)
        self.key_value = nn.Conv2d(tokens, 2 * tokens, 1)
        self.attended = Conv(widths[3] + tokens, widths[3])
        self.decoder = nn.ModuleList(
            [Conv(widths[i + 1] + widths[i], widths[i]) for i in reversed(range(4))]
        )
        # four pixels at once from half the size: layers at the full size would cost the most
        self.head = nn.Sequential(
            Conv(widths[0], config.head_width),
            nn.Conv2d(config.head_width, 4 * len(REASONED), 3, 1, 1),
            nn.PixelShuffle(2),
        )

    def reason_features(
        self, person: Tensor, owner: Tensor, aligned: Tensor, covered: Tensor
    ) -> Reasoned:
        """From features of the person, of the garment as it was and moved onto the person, all at
        1/2 of the size, and planes at 1/4."""
        features = [self.stem(join(person, aligned))]
        x = self.trunk[0](features[-1])[-1]
        features.append(self.cover(join(x, covered)))
        features += self.trunk[1](features[-1])
        x = self.trunk[2](features[-1])[-1]
        # attention has no other sense of place
        place = positions(owner).expand(owner.shape[0], -1, -1, -1)
        tokens = self.garment(join(owner, place))[-1]
        features.append(self.attended(torch.cat([x, self._attend(x, tokens)], dim=1)))
        x = self.trunk[3](features[-1])[-1]
        decoded = []
        for layer, skip in zip(self.decoder, reversed(features), strict=True):
            x = layer(torch.cat([upsample2x(x), skip], dim=1))
            decoded.append(x)
        return Reasoned(self.head(x), decoded)

    def _attend(self, x: Tensor, tokens: Tensor) -> Tensor:
        query = self.query(x).flatten(2).transpose(1, 2)
        key, value = self.key_value(tokens).flatten(2).chunk(2, dim=1)
        weights = torch.softmax(query @ key / query.shape[-1] ** 0.5, dim=-1)
        mixed = weights @ value.transpose(1, 2)
        return mixed.transpose(1, 2).unflatten(2, (x.shape[-2], x.shape[-1]))


class ParsingNetwork(ParsingTrunk):
    """The graph `parsing`; `reason` gives its logits for training."""

    def __init__(self, config: ParsingConfig) -> None:
        owner = Maps(4, config.part_width)
        super().__init__(config, 6, owner.channels, 3)
        self.owner = owner

    def reason(
        self,
        person_parsing: Tensor,
        person_densepose: Tensor,
        garment_parsing: Tensor,
        garment_densepose: Tensor,
    ) -> Tensor:
        """Logits [N,4,H,W] of the classes `REASONED`; inputs as in `forward`."""
        garment_parsing = label_neck(garment_parsing, garment_densepose)
        worn = one_hot(garment_parsing, WORN)
        known = known_planes(person_parsing, person_densepose)
        return self.reason_planes(known, person_densepose, worn, garment_densepose).logits

    def reason_planes(
        self, known: Tensor, person_densepose: Tensor, worn: Tensor, garment_densepose: Tensor
    ) -> Reasoned:
        """As `reason`, from planes [N,C,H,W] in 0..1, through which a gradient can flow.

        `known` as `known_planes` gives it, `worn` the owner's classes `WORN`.
        """
        person = self.person(known, person_densepose)
        owner = self.owner(worn, garment_densepose)
        aligned = affine_warp(owner, torso_affine(person_densepose, garment_densepose))
        covered = self._coverage(person_densepose, garment_densepose, worn)
        return self.reason_features(person, owner, aligned, covered)

    def _coverage(
        self, person_densepose: Tensor, garment_densepose: Tensor, worn: Tensor
    ) -> Tensor:
        """Share of each part that B's garment and B's skin cover, at A's parts: [N,3,H/4,W/4]."""
        person = one_hot(person_densepose[:, 2::4, 2::4, 0], tuple(range(1, NUM_PARTS))).flatten(2)
        owner = one_hot(garment_densepose[:, 2::4, 2::4, 0], tuple(range(1, NUM_PARTS))).flatten(2)
        height, width = worn.shape[-2] // 4, worn.shape[-1] // 4
        kinds = worn[:, :2, 2::4, 2::4].flatten(2)
        area = owner.sum(dim=2, keepdim=True)
        share = owner @ kinds.transpose(1, 2) / area.clamp_min(1.0)
        share = torch.cat([share, (area >= 4.0).float()], dim=2)
        return (share.transpose(1, 2) @ person).unflatten(2, (height, width))

    def forward(
        self,
        person_parsing: Tensor,
        person_densepose: Tensor,
        garment_parsing: Tensor,
        garment_densepose: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The transfer parsing.

        Args:
            person_parsing, garment_parsing: uint8 [N,H,W], the seven classes.
            person_densepose, garment_densepose: uint8 [N,H,W,3], IUV.

        Returns:
            uint8 [N,H,W]: the person's own hair, face and legs, the rest reasoned; and uint8
            [N,H,W,4], the `scores` of `REASONED`.
        """
        logits = self.reason(person_parsing, person_densepose, garment_parsing, garment_densepose)
        logits = hands_as_seen(logits, person_parsing, person_densepose)
        shares = smooth_hem(softmax_planes(logits.float()), person_parsing)
        parsing = settle(merge(shares, person_parsing), person_parsing)
        return parsing, scores(shares, parsing)


def known_planes(person_parsing: Tensor, person_densepose: Tensor) -> Tensor:
    """What of a person's own parsing the network may see: float [N,6,H,W].

    Hair, face, lower garment and legs; hands, which are never under a garment; and the outline of
    the dressed person, which is sharper than DensePose's. What of it is the person's own skin or
    garment must not be known, or the network would learn to keep them.
    """
    hands = (person_parsing == SKIN) & is_part(person_densepose, HAND_PARTS)
    outline = (person_parsing == SKIN) | (person_parsing == GARMENT)
    known = one_hot(person_parsing, (HAIR, FACE, LOWER, LEGS))
    return torch.cat([known, torch.stack([hands, outline], dim=1).float()], dim=1)


def hands_as_seen(logits: Tensor, person_parsing: Tensor, person_densepose: Tensor) -> Tensor:
    """Logits [N,4,H,W] of `REASONED` with no more of a bare hand than the person's own map shows.

    DensePose draws hands larger than they are. Where the forearms are bare, no sleeve hides a part
    of a hand, so what its map [N,H,W] shows of other classes there is what lies behind the hand.
    """
    skin = person_parsing == SKIN
    forearms = is_part(person_densepose[:, 2::4, 2::4], FOREARM_PARTS)
    seen = (forearms & skin[:, 2::4, 2::4]).float().sum(dim=(1, 2))
    bare = seen > _BARE * forearms.float().sum(dim=(1, 2))
    hidden = is_part(person_densepose, HAND_PARTS) & ~skin & bare[:, None, None]
    background, of_skin, garment, lower = logits.split(1, dim=1)
    of_skin = of_skin.masked_fill(hidden[:, None], -30.0)
    return torch.cat([background, of_skin, garment, lower], dim=1)


def smooth_hem(shares: Tensor, person_parsing: Tensor) -> Tensor:
    """Probabilities with a smooth hem where the garment may end anywhere in a wide band.

    Where the network cannot tell in which of twenty rows a hem is, chance decides each column, and
    the hem comes out ragged. There garment and lower garment divide what they have together as they
    do in the mean around, over more columns than rows. A hem that the network is sure of stays as
    it is, and so does all that borders on other classes.

    Args:
        shares: [N,4,H,W], of the classes `REASONED`.
        person_parsing: uint8 [N,H,W]; pixels of a kept class are left out of the means and stay.

    Returns:
        [N,4,H,W].
    """
    reasoned = (~is_kept(person_parsing))[:, None].float()
    background, skin, garment, lower = shares.split(1, dim=1)
    both = garment + lower
    # at half the size: means are smooth, and layers at the full size cost the most
    doubt = F.avg_pool2d(torch.minimum(garment, lower) * reasoned, 2)
    sums = F.avg_pool2d(torch.cat([garment, both], dim=1) * reasoned, 2)
    height = sums.shape[-2]
    for _ in range(2):
        doubt = _mean(doubt, height // 64, height // 64)
        sums = _mean(sums, height // 128, height // 64)
    weight = torch.clamp((doubt - _SMOOTHED) / (_FULLY_SMOOTHED - _SMOOTHED), 0.0, 1.0)
    divided = upsample2x(torch.cat([weight, sums[:, :1] / sums[:, 1:].clamp_min(_LEAST)], dim=1))
    weight, part = divided.split(1, dim=1)
    more = (both * part - garment) * weight * reasoned
    return torch.cat([background, skin, garment + more, lower - more], dim=1)


def _mean(planes: Tensor, rows: int, columns: int) -> Tensor:
    """Means over so many rows and columns to each side; beyond the edges are zeros."""
    planes = F.avg_pool2d(planes, (2 * rows + 1, 1), 1, (rows, 0))
    return F.avg_pool2d(planes, (1, 2 * columns + 1), 1, (0, columns))


def torso_affine(person_densepose: Tensor, garment_densepose: Tensor) -> Tensor:
    """The scaling and shift, [N,2,3], that lead from the person's torso to the owner's.

    From centre and extent of the torsos in uint8 IUV maps [N,H,W,3], normalised coordinates.
    """
    target, source = (
        moments(is_part(densepose[:, 1::2, 1::2], TORSO_PARTS)[:, None].float())
        for densepose in (person_densepose, garment_densepose)
    )
    return matching_affine(target, source)


def merge(logits: Tensor, person_parsing: Tensor) -> Tensor:
    """The likeliest class ids, and the person's own where they are kept: uint8 [N,H,W].

    `logits` may be probabilities as well.
    """
    # REASONED[i], without a gather: ids of the four classes are 0, 3, 4, 5
    index = logits.argmax(dim=1).to(torch.int32)
    reasoned = torch.where(index > 0, index + 2, index).to(torch.uint8)
    return torch.where(is_kept(person_parsing), person_parsing, reasoned)


def scores(shares: Tensor, transfer_parsing: Tensor) -> Tensor:
    """Probabilities [N,4,H,W] of the classes `REASONED` times 255: uint8 [N,H,W,4].

    0 where the label [N,H,W] is a kept one. Where it is one of `REASONED`, its score is the
    largest, and the four are 255 in all: where `settle` has changed the label, its probability
    and the largest one change places.
    """
    best = shares.argmax(dim=1).to(torch.int32)[:, None]
    won = (best == torch.arange(len(REASONED), dtype=torch.int32).view(1, -1, 1, 1)).float()
    own = one_hot(transfer_parsing, REASONED)
    reasoned = own.sum(dim=1, keepdim=True)
    most, least = ((shares * which).sum(dim=1, keepdim=True) for which in (won, own))
    shares = shares + (own - won) * reasoned * (most - least)
    # rounded down, so that what is left for the label is at least its own share
    others = torch.floor(255 * shares) * (1 - own)
    left = 255 - others.sum(dim=1, keepdim=True)
    return ((others + own * left) * reasoned).to(torch.uint8).permute(0, 2, 3, 1)


def is_kept(parsing: Tensor) -> Tensor:
    """Where a person's own label [N,H,W] stays whatever they wear, bool [N,H,W]."""
    return one_hot(parsing, KEPT).sum(dim=1) > 0


def settle(transfer_parsing: Tensor, person_parsing: Tensor) -> Tensor:
    """Edges that no garment touches as the person's own map has them, uint8 [N,H,W].

    Where skin or lower garment ends does not change with the garment, but two maps draw it a
    pixel or two apart. There the person's own label stays, and with it the photo.
    """
    classes = (GARMENT, BACKGROUND, SKIN, LOWER)
    own, reasoned = (one_hot(parsing, classes) for parsing in (person_parsing, transfer_parsing))
    radius = border_width(own.shape[-2])
    beside = dilate(own * reasoned, radius)
    keeps = 1 - dilate(torch.maximum(own[:, :1], reasoned[:, :1]), radius)[:, 0]
    edge = torch.zeros_like(keeps)
    for a, b in ((1, 2), (1, 3), (2, 3)):
        swapped = own[:, a] * reasoned[:, b] + own[:, b] * reasoned[:, a]
        edge = edge + swapped * beside[:, a] * beside[:, b]
    return torch.where(keeps * edge > 0, person_parsing, transfer_parsing)


def parsing_loss(logits: Tensor, target: Tensor, person_parsing: Tensor) -> Tensor:
    """Cross-entropy over the pixels that are reasoned, plus soft Dice of garment and skin.

    Args:
        logits: [N,4,H,W].
        target: uint8 [N,H,W], the true parsing in seven classes.
        person_parsing: uint8 [N,H,W]; its kept classes are not reasoned and do not count.
    """
    return soft_parsing_loss(logits, one_hot(target, REASONED), person_parsing)


def soft_parsing_loss(logits: Tensor, planes: Tensor, person_parsing: Tensor) -> Tensor:
    """`parsing_loss` towards shares of the classes `REASONED` instead, [N,4,H,W] in 0..1."""
    counted = planes.sum(dim=1) * ~is_kept(person_parsing)
    entropy = -(F.log_softmax(logits, dim=1) * planes).sum(dim=1)
    loss = (entropy * counted).sum() / counted.sum().clamp_min(1.0)
    soft = torch.softmax(logits, dim=1) * counted[:, None]
    planes = planes * counted[:, None]
    overlap = (soft * planes).sum(dim=(0, 2, 3))
    total = (soft + planes).sum(dim=(0, 2, 3))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return loss + 0.5 * dice[1:3].sum()
