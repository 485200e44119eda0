"""What each training phase minimises.

The method (Fang et al., arXiv 2401.12433) needs no truth of a transfer. Its phases, in their order:

    try-on-parsing      teacher T_p       a person in their own garment, which the shop shows too
    transfer-parsing    student S_p       T_p's response and feature knowledge
    self-study          student S_p       a garment given back to its owner: hard knowledge
    try-on-warping      teacher T_w       the shop's garment warped onto the person who wears it
    aligning            student S_w       its STN, by the target shape that S_p reasons
    warping             student S_w       its flow, by that shape and T_w's warped garment
    warping-joint       student S_w       both
    regrowth            arm regrowth      arms erased as by longer sleeves, and regrown

All of them take `Photos`, which have no field for the truth of a transfer. The phases named
`supervised-*` take `Transfers` and are taught by that truth, which only rendering knows: the bound
that the method is measured against. The paper does not publish its losses; where it is silent, the
docstrings say what is done here and why.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from msgspec import Meta, Struct
from torch import Tensor, nn

from garment_transfer.bundle import BACKGROUND, CLASSES, FACE, GARMENT, HAIR, LEGS, LOWER, SKIN
from garment_transfer.models.flow_warp import affine_warp, flow_warp
from garment_transfer.models.layers import (
    HAND_PARTS,
    float_to_image,
    image_to_float,
    is_part,
    label_neck,
    one_hot,
    positions,
    push_pull,
)
from garment_transfer.models.maps import MapsNetwork
from garment_transfer.models.parsing import (
    REASONED,
    WORN,
    ParsingNetwork,
    Reasoned,
    is_kept,
    known_planes,
    merge,
    parsing_loss,
    torso_affine,
)
from garment_transfer.models.regrowth import RegrowthNetwork
from garment_transfer.models.teachers import TryOnParsingNetwork, reserved_planes, shop_parsing
from garment_transfer.models.warping import Flows, WarpingNetwork
from garment_transfer.training.data import Batch, Fields, Photos, Snapshots, Transfers
from garment_transfer.training.lighting import relit
from garment_transfer.training.losses import (
    Content,
    Scalars,
    content_loss,
    feature_loss,
    flow_loss,
    intersection_over_union,
    painting_loss,
    places_loss,
    response_loss,
    shape_loss,
    smoothness,
)
from garment_transfer.training.synthetic.snapshots import UNKNOWN

_Weight = Annotated[float, Meta(ge=0)]


class Weights(Struct, frozen=True, forbid_unknown_fields=True):
    """How much each kind of knowledge counts; 0 switches it off, and with it what it needs.

    Attributes:
        response: of `T_p`'s soft output, for `transfer-parsing` and `self-study`.
        feature: of `T_p`'s feature maps, for `transfer-parsing`.
        cycle: of a person's own garment after a random one, for `try-on-parsing`; what is taught
            by `T_p` goes without the person's lower garment where it is 0.
        hard: of the owner's own parsing, for `self-study`.
        content: of `T_w`'s warped garment, for `warping` and `warping-joint`.
        shape: of the target region, for all phases that warp.
        smooth: of the flow's bending, for all phases that estimate it.
        annotation: of annotated places of the cloth: what the teachers see of them and learn from
            them, and those of the owner's photo for `warping` and `warping-joint`; without effect
            on data that lack them.
        erasing: how `regrowth` erases arms: as the garments of other people would, or by
            rectangles at random, which is how inpainting is usually trained.
    """

    response: _Weight = 1.0
    feature: _Weight = 1.0
    cycle: _Weight = 1.0
    hard: _Weight = 1.0
    content: _Weight = 1.0
    shape: _Weight = 1.0
    smooth: _Weight = 0.25
    annotation: _Weight = 1.0
    erasing: Literal["garments", "rectangles"] = "garments"


@dataclass(frozen=True)
class Knowledge:
    """What a phase learns from beside its batch: trained networks by name, frozen, and weights."""

    weights: Weights = field(default_factory=Weights)
    networks: Mapping[str, nn.Module] = field(default_factory=dict)


#: What a step minimises, what it logs, and a function that gives pictures for the log: images,
#: uint8 [N,H,W,3], and parsings, [N,H,W], side by side.
Step = tuple[Tensor, Scalars, Callable[[], list[Tensor]]]
Loss = Callable[[Any, Any, Knowledge], Step]


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        network: whose weights it trains, a key of `NETWORKS`.
        loss: from the network, a batch and `Knowledge`.
        batch: the type that `loss` takes.
        after: the phase whose result it starts from; from fresh weights if empty.
        teachers: the networks it learns from, each with the weights that make it needed; always
            needed if there are none.
        frozen: the part of the network that is left as it is.
    """

    network: str
    loss: Loss
    batch: type[Fields] = Photos
    after: str = ""
    teachers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    frozen: str = ""

    def needed(self, weights: Weights) -> list[str]:
        """The networks it learns from under these weights."""
        return [
            name
            for name, causes in self.teachers.items()
            if not causes or any(getattr(weights, cause) for cause in causes)
        ]

    def needs_shop(self, weights: Weights) -> bool:
        """Whether it needs the garments in the shop, which teachers see, under these weights."""
        return any(name.startswith("try_on") for name in (self.network, *self.needed(weights)))


# parsing


def _labels(logits: Tensor, parsing: Tensor) -> Tensor:
    """`merge`, for the log: with a pixel's logits beside each other, six times as fast on a CPU."""
    return merge(logits.detach().contiguous(memory_format=torch.channels_last), parsing)


def _ious(labels: Tensor, truth: Tensor) -> Scalars:
    return {
        "garment_iou": intersection_over_union(labels, truth, GARMENT),
        "skin_iou": intersection_over_union(labels, truth, SKIN),
    }


def _try_on_parsing(network: TryOnParsingNetwork, batch: Photos, knowledge: Knowledge) -> Step:
    """`T_p` teaches itself: a person's own garment, at once or after a random one, is their photo.

    At once it must not see the lower garment, whose upper end is the answer. A random garment
    first, and the own one put on over that result, closes a cycle: there the lower garment is as
    `T_p` has drawn it, so that it can be shown and the hem still has to come from the shop. Half
    of a batch goes either way. A fifth of the garments comes without its annotation, so that a
    teacher is of use on data that have none.
    """
    parsing, densepose, weights = batch.person_parsing, batch.person_densepose, knowledge.weights
    reserved = reserved_planes(parsing, densepose, lower=False)
    round_trip = (len(reserved) + int(torch.randint(2, ()))) // 2 if weights.cycle else 0
    if round_trip:
        mask, *places = _shop(batch, "garment", weights)
        first = slice(round_trip)
        known = [None if p is None else p[first] for p in places]
        with torch.no_grad(), _evaluating(network):
            other = network.reason_planes(reserved[first], densepose[first], mask[first], *known)
        dressed = merge(other.logits, parsing[first])
        reserved[first] = reserved_planes(dressed, densepose[first], lower=True)
    mask, *places = _shop(batch, "person", weights)
    told = (torch.rand(len(reserved), 1, 1, 1) < 0.8).to(reserved.device)
    known = [None if p is None else p * told for p in places]
    logits = network.reason_planes(reserved, densepose, mask, *known).logits
    labels = _labels(logits, parsing)
    scalars = _ious(labels, batch.person_reference)
    loss = torch.zeros((), device=logits.device)
    for name, part, weight in (
        ("own", slice(round_trip, None), 1.0),
        ("cycle", slice(round_trip), weights.cycle),
    ):
        if len(logits[part]):
            entropy = parsing_loss(logits[part], batch.person_reference[part], parsing[part])
            loss = loss + weight * entropy
            scalars[name] = entropy.item()
    shop_image = _given(batch.person_shop_image)
    return loss, scalars, lambda: [batch.person_image, shop_image, labels, batch.person_reference]


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Without what a pass in training leaves behind: running statistics."""
    network.eval()
    try:
        yield
    finally:
        network.train()


def _shop(
    batch: Photos, role: str, weights: Weights
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What `T_p` sees of a garment: its mask in the shop, and places of it there and on its wearer.

    uint8 [N,H,W] and [N,3,H,W] in metres. Places are annotations, of one picture each: None if
    there are none or they do not count.
    """
    mask = _given(getattr(batch, f"{role}_shop_mask"))
    if not weights.annotation:
        return mask, None, None
    return mask, getattr(batch, f"{role}_shop_places"), getattr(batch, f"{role}_places")


def covering(logits: Tensor, parsing: Tensor, densepose: Tensor) -> Tensor:
    """Logits [N,4,H,W] of `REASONED`, without what no change of an upper garment does.

    What a person's own map [N,H,W] shows as skin or lower garment can only be covered by another
    garment, and so can background; but for skin that the map has missed on the body, by IUV
    [N,H,W,3].
    """
    background, skin, lower = (parsing == label for label in (BACKGROUND, SKIN, LOWER))
    barred = {
        BACKGROUND: skin | lower,
        SKIN: lower | background & (densepose[..., 0] == 0),
        GARMENT: torch.zeros_like(skin),
        LOWER: skin | background,
    }
    return logits.masked_fill(torch.stack([barred[label] for label in REASONED], dim=1), -30.0)


def _given(tensor: Tensor | None) -> Tensor:
    """A field that the phase needs; `train` makes sure of it before the first step."""
    assert tensor is not None
    return tensor


def _soft_planes(logits: Tensor, parsing: Tensor) -> Tensor:
    """Shares of hair, face, lower garment, legs, garment and skin, float [N,6,H,W].

    As reasoned, but for a person's kept classes; a gradient flows through.
    """
    shares = torch.softmax(logits.float(), dim=1) * ~is_kept(parsing)[:, None]
    _, skin, garment, lower = shares.split(1, dim=1)
    hair, face, legs = one_hot(parsing, (HAIR, FACE, LEGS)).split(1, dim=1)
    return torch.cat([hair, face, lower, legs, garment, skin], dim=1)


def _teach(batch: Photos, knowledge: Knowledge) -> Reasoned:
    """What `T_p` says of the same transfer, from the owner's garment in the shop.

    Somebody's own garment given back need not be asked of it: the photo says what comes of that.
    """
    teacher = knowledge.networks["try_on_parsing"]
    assert isinstance(teacher, TryOnParsingNetwork)
    weights, densepose = knowledge.weights, batch.person_densepose
    with torch.no_grad():
        # it has seen lower garments that end anywhere in its cycle alone
        reserved = reserved_planes(batch.person_parsing, densepose, lower=bool(weights.cycle))
        taught = teacher.reason_planes(reserved, densepose, *_shop(batch, "garment", weights))
    logits = covering(taught.logits, batch.person_parsing, densepose)
    known = 30 * one_hot(batch.person_reference, REASONED)
    own = batch.own.view(-1, 1, 1, 1)
    return Reasoned(torch.where(own, known, logits), taught.features)


def _study(network: ParsingNetwork, batch: Photos) -> Reasoned:
    """What `S_p` makes of a pair of photos."""
    worn = one_hot(label_neck(batch.garment_parsing, batch.garment_densepose), WORN)
    return network.reason_planes(
        known_planes(batch.person_parsing, batch.person_densepose),
        batch.person_densepose,
        worn,
        batch.garment_densepose,
    )


def _transfer_parsing(network: ParsingNetwork, batch: Photos, knowledge: Knowledge) -> Step:
    """`S_p` learns from `T_p`, which sees in the shop what it has to see on another body."""
    weights = knowledge.weights
    student, teacher = _study(network, batch), _teach(batch, knowledge)
    response = response_loss(student.logits, teacher.logits, batch.person_parsing)
    feature = feature_loss(student.features, teacher.features)
    loss = weights.response * response + weights.feature * feature
    own, taught = (_labels(x.logits, batch.person_parsing) for x in (student, teacher))
    scalars = {
        "response": response.item(),
        "feature": feature.item(),
        **{f"teacher_{name}": value for name, value in _ious(own, taught).items()},
    }
    return loss, scalars, lambda: [batch.person_image, batch.garment_image, own, taught]


def _self_study(network: ParsingNetwork, batch: Photos, knowledge: Knowledge) -> Step:
    """`S_p` gives its own transfer back to the garment's owner, whose parsing is known.

    Before that the owner is put into the person's garment, by `S_p` too: a map of them that still
    had their own silhouette would give the answer away.
    """
    weights = knowledge.weights
    there = _study(network, batch)
    planes = _soft_planes(there.logits, batch.person_parsing)
    hair, _, lower, _, garment, skin = planes.split(1, dim=1)
    with torch.no_grad():
        person, owner = batch.maps[:2], batch.maps[2:]
        swapped = network.reason(*owner, *person)
        dressed = merge(swapped, batch.garment_parsing)
    back = network.reason_planes(
        known_planes(dressed, batch.garment_densepose),
        batch.garment_densepose,
        torch.cat([garment, skin, hair, lower], dim=1),  # WORN
        batch.person_densepose,
    ).logits
    hard = parsing_loss(back, batch.garment_reference, batch.garment_parsing)
    loss = weights.hard * hard
    labels = _labels(back, batch.garment_parsing)
    scalars = {"hard": hard.item(), **_ious(labels, batch.garment_reference)}
    if weights.response:
        teacher = _teach(batch, knowledge)
        response = response_loss(there.logits, teacher.logits, batch.person_parsing)
        loss = loss + weights.response * response
        scalars["response"] = response.item()
    return loss, scalars, lambda: [batch.garment_image, dressed, labels, batch.garment_reference]


def _supervised_parsing(network: ParsingNetwork, batch: Transfers, knowledge: Knowledge) -> Step:
    logits = network.reason(*batch.maps)
    loss = parsing_loss(logits, batch.true_parsing, batch.person_parsing)
    labels = _labels(logits, batch.person_parsing)
    people = batch.person_image, batch.garment_image
    scalars = _ious(labels, batch.true_parsing)
    return loss, scalars, lambda: [*people, labels, batch.true_parsing]


# warping


def annotation(places: Tensor | None, weights: Weights) -> Tensor | None:
    """Annotated places of the cloth, [N,3,H,W] in metres, as decimetres.

    None if there are none or they do not count.
    """
    return 10 * places.float() if places is not None and weights.annotation else None


def shop_positions(mask: Tensor) -> Tensor:
    """Positions in a shop's picture, decimetres, float [N,3,H,W] from its mask [N,1,H,W].

    They stand for places of the cloth where none are annotated: any coordinates do that are one and
    the same on the shop's picture and on everybody whom a teacher puts that garment on. The picture
    shows about 8 decimetres.
    """
    h, w = mask.shape[-2:]
    x, y = (4 * positions(mask)).split(1, dim=1)
    return torch.cat([x * w / h, y, torch.zeros_like(x)], dim=1) * mask


def worn_content(image: Tensor, mask: Tensor, places: Tensor) -> Content:
    """The garment of a photo, uint8 [N,H,W,3], where a mask, float [N,1,H,W], has it; with places
    of it, [N,3,H,W] in decimetres."""
    return Content(torch.cat([image_to_float(image), places], dim=1) * mask, mask)


def taught_content(batch: Photos, knowledge: Knowledge, parsing: Tensor, who: Tensor) -> Content:
    """`T_w` puts the owner's garment from the shop on somebody: [N,H,W] parsing, their IUV."""
    teacher = knowledge.networks["try_on_warping"]
    assert isinstance(teacher, WarpingNetwork)
    with torch.no_grad():
        shop = shop_parsing(_given(batch.garment_shop_mask))
        image = _given(batch.garment_shop_image)
        mask = one_hot(shop, (GARMENT,))
        places = annotation(batch.garment_shop_places, knowledge.weights)
        flows = teacher.flows(image, shop, torch.zeros_like(image), parsing, who, places)
        shown = worn_content(image, mask, shop_positions(mask) if places is None else places)
        return moved_content(shown, flows, parsing)


def moved_content(content: Content, flows: Flows, parsing: Tensor) -> Content:
    """Content moved along all flows at the full size, complete in the parsing's garment."""
    planes = torch.cat([content.image, content.mask], dim=1)
    nothing = torch.zeros_like(planes[:, :2])
    moved, _ = flow_warp(planes, flows.levels[-1].float(), nothing, flows.affine)
    weight = moved[:, -1:]
    target = one_hot(parsing, (GARMENT,))
    filled = push_pull(moved[:, :-1] / weight.clamp_min(1e-3), weight)
    return Content(filled * target, target)


def _try_on_warping(network: WarpingNetwork, batch: Photos, knowledge: Knowledge) -> Step:
    """`T_w` teaches itself: the shop's garment on the person who wears it looks as in the photo.

    Where a data set says which place of the cloth a photo and the shop's picture show, the two
    meet there too. That is an annotation of one photo, as a parsing is, and knows nothing of a
    transfer; without it a plain garment is led by its outline alone.
    """
    weights = knowledge.weights
    image, shop = _given(batch.person_shop_image), shop_parsing(_given(batch.person_shop_mask))
    wearing = _half_rough(batch.person_reference, batch.person_parsing)
    region = one_hot(batch.person_reference, (GARMENT,))
    there = annotation(batch.person_shop_places, weights)
    here = annotation(batch.person_places, weights)
    annotated = weights.annotation if there is not None and here is not None else 0.0
    bodiless = torch.zeros_like(image)
    flows = network.flows(image, shop, bodiless, wearing, batch.person_densepose, there)
    nothing = torch.zeros_like(region).expand(-1, 3, -1, -1)
    mask = one_hot(shop, (GARMENT,))
    own = worn_content(batch.person_image, region, nothing if here is None else here)
    source = worn_content(image, mask, nothing if there is None else there)
    content, distance, colours = content_loss(flows, source, own, annotated)
    shape = shape_loss(flows, mask, region)
    bending = smoothness(flows.levels[-1])
    loss = content + 5 * weights.shape * shape + weights.smooth * bending
    scalars = {"colours": colours.item(), "shape": shape.item(), "bending": bending.item()}
    if here is not None and there is not None:
        wanted, worn = places_loss(flows.wanted, here / 10), places_loss(flows.worn, there / 10)
        loss = loss + 8 * annotated * (wanted + worn)
        scalars["places_dm"] = distance.item()
        scalars |= {"worn_dm": worn.item(), "wanted_dm": wanted.item()}
    return loss, scalars, lambda: [image, _moved(image, shop, flows, wearing), batch.person_image]


def _moved(image: Tensor, parsing: Tensor, flows: Flows, target: Tensor) -> Tensor:
    """The garment of a photo moved, complete in the target's garment: uint8 [N,H,W,3]."""
    mask = one_hot(parsing, (GARMENT,))
    return float_to_image(
        moved_content(Content(image_to_float(image) * mask, mask), flows, target).image
    )


def reasoned_transfer(batch: Batch, knowledge: Knowledge) -> Tensor:
    """The person in the owner's garment as `S_p` reasons it: uint8 [N,H,W]."""
    with torch.no_grad():
        return knowledge.networks["parsing"](*batch.maps)[0]


def _half_rough(parsing: Tensor, rough: Tensor) -> Tensor:
    """A parsing [N,H,W] that every other sample has as a parser would have drawn it."""
    half = parsing.clone()
    half[::2] = rough[::2]
    return half


def _worn_flows(network: WarpingNetwork, batch: Batch, transfer: Tensor) -> Flows:
    return network.flows(*batch.garment, transfer, batch.person_densepose)


def _aligning(network: WarpingNetwork, batch: Photos, knowledge: Knowledge) -> Step:
    """`S_w`'s STN brings the worn garment onto the target region as well as an affine can."""
    transfer = reasoned_transfer(batch, knowledge)
    flows = _worn_flows(network, batch, transfer)
    mask, target = (one_hot(p, (GARMENT,)) for p in (batch.garment_parsing, transfer))
    shape = shape_loss(flows, mask, target, aligning=True)
    garment = image_to_float(batch.garment_image) * mask
    loss, scalars = knowledge.weights.shape * shape, {"shape": shape.item()}
    return loss, scalars, lambda: [transfer, float_to_image(affine_warp(garment, flows.affine))]


def _warping(network: WarpingNetwork, batch: Photos, knowledge: Knowledge) -> Step:
    """`S_w` learns from `T_w`, which warps the same garment from the shop onto the same shape.

    A flow of `S_w` is right where it leads to the place of the cloth that `T_w` has there. Which
    place the owner's photo shows is annotated, or `T_w` says it too, since it can put the garment
    on its owner as well. Of somebody's own garment given back the photo itself is the content.
    """
    weights = knowledge.weights
    transfer = reasoned_transfer(batch, knowledge)
    flows = _worn_flows(network, batch, transfer)
    mask, target = (one_hot(p, (GARMENT,)) for p in (batch.garment_parsing, transfer))
    shape = shape_loss(flows, mask, target)
    bending = smoothness(flows.levels[-1])
    loss = 5 * weights.shape * shape + weights.smooth * bending
    if network.aligning is not None:
        loss = loss + weights.shape * shape_loss(flows, mask, target, aligning=True)
    scalars = {"shape": shape.item(), "bending": bending.item()}
    columns = [batch.person_image, batch.garment_image]
    if weights.content:
        taught = taught_content(batch, knowledge, transfer, batch.person_densepose)
        places = annotation(batch.garment_places, weights)
        if places is None:
            worn = (batch.garment_parsing, batch.garment_densepose)
            places = taught_content(batch, knowledge, *worn).image[:, 3:]
        # a parser's garment is not quite the annotated one
        known = mask * (places != 0).any(dim=1, keepdim=True)
        shown = worn_content(batch.garment_image, known, places)
        own = batch.own.view(-1, 1, 1, 1)
        expected = Content(
            torch.where(own, shown.image, taught.image), torch.where(own, shown.mask, taught.mask)
        )
        content, distance, colours = content_loss(flows, shown, expected)
        heads = places_loss(flows.worn, places / 10)
        heads = heads + places_loss(flows.wanted, expected.image[:, 3:] / 10)
        loss = loss + weights.content * (content + 8 * heads)
        scalars |= {
            "content_dm": distance.item(),
            "content_colours": colours.item(),
            "heads_dm": heads.item() / 2,
        }
        columns.append(float_to_image(taught.image[:, :3]))
    owner = batch.garment_image, batch.garment_parsing
    return loss, scalars, lambda: [*columns, _moved(*owner, flows, transfer)]


def _as_kept(batch: Batch, parsing: Tensor) -> Tensor:
    """A parsing [N,H,W] with the person's own classes as in their map: uint8 [N,H,W].

    Of the truth, that is the transfer parsing that a perfect `S_p` would give.
    """
    return torch.where(is_kept(batch.person_parsing), batch.person_parsing, parsing)


def _supervised_warping(network: WarpingNetwork, batch: Transfers, knowledge: Knowledge) -> Step:
    transfer = _half_rough(_as_kept(batch, batch.true_parsing), batch.rough_truth)
    flows = _worn_flows(network, batch, transfer)
    position, distance = flow_loss(flows, batch.true_flow, batch.flow_valid)
    worn = places_loss(flows.worn, batch.garment_places)
    wanted = places_loss(flows.wanted, batch.true_places)
    bending = smoothness(flows.levels[-1])
    # a pixel is about 0.04 decimetres
    loss = position + 0.25 * bending + 8 * (worn + wanted)
    scalars = {
        "distance_px": distance.item(),
        "worn_dm": worn.item(),
        "wanted_dm": wanted.item(),
        "bending": bending.item(),
    }
    owner = batch.garment_image, batch.garment_parsing
    return loss, scalars, lambda: [*owner, _moved(*owner, flows, transfer), batch.true_image]


# regrowth


def erased(batch: Photos, knowledge: Knowledge) -> tuple[Tensor, Tensor]:
    """The person as if a longer garment had covered more of them: parsing and image.

    The garments of two other people of the batch, each moved by the affine between the torsos,
    cover what they would cover of arms, background and lower garment; in half of the photos all
    skin is covered, since a short garment after a long one leaves face and hands alone to tell its
    colour. Hands and what is never covered stay. Or, by the weights, up to three rectangles cover.

    Returns:
        uint8 [N,H,W] and uint8 [N,H,W,3].
    """
    covered = torch.zeros_like(batch.person_parsing, dtype=torch.float32)[:, None]
    image = image_to_float(batch.person_image)
    if knowledge.weights.erasing == "garments":
        for others in (0, 1):
            owner = [tensor.roll(others, dims=0) for tensor in batch.garment]
            mask = one_hot(owner[1], (GARMENT,))
            planes = torch.cat([image_to_float(owner[0]) * mask, mask], dim=1)
            moved = affine_warp(planes, torso_affine(batch.person_densepose, owner[2]))
            hit = (moved[:, 3:] > 0.5).float()
            image = torch.where(hit > 0, moved[:, :3] / moved[:, 3:].clamp_min(0.5), image)
            covered = torch.maximum(covered, hit)
    else:
        h, w = covered.shape[-2:]
        for sample in covered[:, 0]:
            for _ in range(int(torch.randint(4, ()))):
                top, left = int(torch.randint(h, ())), int(torch.randint(w, ()))
                bottom = top + int(torch.randint(h // 8, h // 2, ()))
                sample[top:bottom, left : left + int(torch.randint(w // 8, w // 2, ()))] = 1
        image = image * (1 - covered) + 0.5 * covered
    hands = is_part(batch.person_densepose, HAND_PARTS)[:, None].float()
    coverable = one_hot(batch.person_parsing, (BACKGROUND, SKIN, LOWER)).sum(dim=1, keepdim=True)
    if knowledge.weights.erasing == "garments":
        everything = (torch.rand(len(covered), 1, 1, 1) < 0.5).to(covered.device)
        covered = torch.maximum(covered, everything * one_hot(batch.person_parsing, (SKIN,)))
    covered = covered * coverable * (1 - hands)
    garment = torch.full_like(batch.person_parsing, GARMENT)
    parsing = torch.where(covered[:, 0] > 0, garment, batch.person_parsing)
    image = torch.where(covered > 0, image, image_to_float(batch.person_image))
    return parsing, float_to_image(image)


def _painting(
    network: RegrowthNetwork,
    person: tuple[Tensor, Tensor, Tensor],
    target: Tensor,
    truth: Tensor,
) -> Step:
    """Image, parsing and DensePose of a person, painted by a target's parsing [N,H,W].

    The garment of the truth, uint8 [N,H,W,3], stands in for the warped one: it is copied, never
    painted.
    """
    garment = truth * (target == GARMENT)[..., None]
    image, painted = network.paint(*person, target, garment)
    skin = one_hot(target, (SKIN,))
    loss, scalars = painting_loss(image, image_to_float(truth), painted, skin)
    return loss, scalars, lambda: [person[0], float_to_image(image), truth]


def _regrowth(network: RegrowthNetwork, batch: Photos, knowledge: Knowledge) -> Step:
    """Arms erased from a photo as by longer sleeves grow back: the photo is the truth.

    In another light, since rendered skin has less contrast than that of photos.
    """
    batch = replace(batch, person_image=relit(batch.person_image, batch.person_reference))
    parsing, seen = erased(batch, knowledge)
    target = _half_rough(_as_kept(batch, batch.person_reference), batch.person_parsing)
    person = seen, parsing, batch.person_densepose
    return _painting(network, person, target, batch.person_image)


def _supervised_regrowth(network: RegrowthNetwork, batch: Transfers, knowledge: Knowledge) -> Step:
    transfer = _as_kept(batch, batch.true_parsing)
    return _painting(network, batch.person, transfer, batch.true_image)


# maps


def _maps(network: MapsNetwork, batch: Snapshots, knowledge: Knowledge) -> Step:
    """Parsing and DensePose from the photo alone; the renderer's own are the truth.

    Parts and charts have half the size: each step compares them at one of every four pixels, at
    any one of them, so that none of the four is preferred.
    """
    seen = network.look(batch.image)
    truth = batch.parsing.long()
    known = truth != UNKNOWN
    logits = seen.classes.float()
    entropy = F.cross_entropy(logits, truth, ignore_index=UNKNOWN)
    shares = torch.softmax(logits, dim=1) * known[:, None]
    planes = one_hot(batch.parsing, tuple(range(len(CLASSES))))
    overlap, total = ((x).sum(dim=(0, 2, 3)) for x in (shares * planes, shares + planes))
    dice = 1 - ((2 * overlap + 1) / (total + 1)).mean()
    down, across = (int(v) for v in torch.randint(2, (2,)))
    iuv = batch.densepose[:, down::2, across::2]
    part = iuv[..., 0].long()
    parts = F.cross_entropy(seen.parts.float(), part, ignore_index=UNKNOWN)
    body = ((part > 0) & (part != UNKNOWN))[:, None].float()
    off = (seen.charts.float() - iuv[..., 1:].permute(0, 3, 1, 2).float() / 255).abs()
    charts = (off * body).sum() / body.sum().clamp_min(1.0)
    labels = torch.where(known, logits.detach().argmax(dim=1), truth)
    scalars = {
        "entropy": entropy.item(),
        "parts": parts.item(),
        "charts": charts.item(),
        "garment_iou": intersection_over_union(labels, truth, GARMENT),
    }
    loss = entropy + 0.5 * dice + 0.5 * parts + 0.25 * charts
    return loss, scalars, lambda: [batch.image, labels % UNKNOWN, truth % UNKNOWN]


PHASES = {
    "try-on-parsing": Phase("try_on_parsing", _try_on_parsing),
    "transfer-parsing": Phase("parsing", _transfer_parsing, teachers={"try_on_parsing": ()}),
    "self-study": Phase(
        "parsing",
        _self_study,
        after="transfer-parsing",
        teachers={"try_on_parsing": ("response",)},
    ),
    "try-on-warping": Phase("try_on_warping", _try_on_warping),
    "aligning": Phase("warping", _aligning, teachers={"parsing": ()}),
    "warping": Phase(
        "warping",
        _warping,
        after="aligning",
        teachers={"parsing": (), "try_on_warping": ("content",)},
        frozen="aligning",
    ),
    "warping-joint": Phase(
        "warping",
        _warping,
        after="warping",
        teachers={"parsing": (), "try_on_warping": ("content",)},
    ),
    "regrowth": Phase("regrowth", _regrowth),
    "maps": Phase("maps", _maps, Snapshots),
    "supervised-parsing": Phase("parsing", _supervised_parsing, Transfers),
    "supervised-warping": Phase("warping", _supervised_warping, Transfers),
    "supervised-regrowth": Phase("regrowth", _supervised_regrowth, Transfers),
}

#: The method: its phases in their order. Which later phase gives what an earlier one is named for:
#: the result of `self-study` is `S_p`.
METHOD = tuple(n for n in PHASES if n != "maps" and not n.startswith("supervised-"))

#: The phase whose result each taught network is, where no other is given.
LEARNT_IN = {
    "try_on_parsing": "try-on-parsing",
    "try_on_warping": "try-on-warping",
    "parsing": "self-study",
}
