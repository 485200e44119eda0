"""The contract: what the three graphs of every bundle, and the fourth of some, take and give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from garment_transfer.bundle._json import Positive, Share, Text

Stage = Literal["parsing", "warping", "regrowth"]

#: The stages in the order in which they run.
STAGES: Final[tuple[Stage, ...]] = ("parsing", "warping", "regrowth")
#: The graph that makes the maps of bare photos, which a bundle may have beside them.
MAPS: Final = "maps"

_Side = Annotated[int, Meta(ge=32, le=8192, multiple_of=32)]


class Size(Struct, frozen=True, forbid_unknown_fields=True):
    """Height and width in pixels.

    Of a bundle, both are divisible by 32 and at most 8192, which is checked when a manifest is
    read; of a photo they are whatever it has.
    """

    height: _Side
    width: _Side

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


class Framing(Struct, frozen=True, forbid_unknown_fields=True):
    """Which box of a photo the networks see: a rule that belongs to the weights.

    The box holds what DensePose shows of the person's `parts`. Upper legs (7 to 10) among them
    count down to `legs` times the distance from the box's top to just below the lowest row of the
    torso (1 and 2), so that a full-length photo and one that ends at the thighs are framed alike.
    `margin` is what is added on each side, as a share of the box's height. The shorter direction
    is then extended to the aspect of the bundle: columns on both sides, rows below. A row or a
    column counts where it has at least sqrt(n) / 64 pixels of the parts, n being their number in
    all, so that specks do not; where none has so many, the fullest counts. The box may leave the
    photo.
    """

    parts: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=24)], ...],
        Meta(min_length=1, description="DensePose parts that the box holds."),
    ]
    legs: Annotated[float, Meta(ge=0, le=10, description="How far down upper legs count.")]
    margin: Share


#: The framing of the training pictures: head, torso, arms, hands and upper legs.
FRAMING: Final = Framing(parts=(1, 2, 3, 4, 7, 8, 9, 10, *range(15, 25)), legs=1.2, margin=0.04)


class Tensor(Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of a graph; `shape` names the free batch size "N"."""

    name: Text
    dtype: Annotated[str, Meta(pattern=r"^(uint8|float32)(?!\n)$")]
    shape: Annotated[
        tuple[Positive | Annotated[str, Meta(pattern=r"^N(?!\n)$")], ...],
        Meta(description='Sizes in order; the batch, which is free, is named "N".'),
    ]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"

    def shape_of(self, batch: int) -> tuple[int, ...]:
        """The shape at a batch size."""
        return tuple(batch if isinstance(size, str) else size for size in self.shape)


class Signature(Struct, frozen=True):
    """What a graph, or several in a row, take and give."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def contract(size: Size) -> dict[Stage, Signature]:
    """The inputs and outputs of each stage's graph for one image size.

    Images are uint8 RGB, parsings uint8 class ids, DensePose uint8 IUV (part 0..24, U and V
    scaled to 0..255). An id out of range gives wrong pixels, never a fault.

    `transfer_scores` are probabilities times 255 of the four reasoned classes: background, skin,
    garment, lower garment. What is missing to 255 belongs to the others, which are the person's
    own. Where one of the four is the label, its score is the largest. `flow` is (dx, dy) in pixels
    of this size, the affine included: the warped garment at pixel p is the garment owner's image
    at p + flow(p). `flow_confidence` says how surely the owner's photo shows that place, 0 to 255;
    0 where it is hidden there, so that its colour continues what surrounds it, and where there is
    no garment. `warped_garment` is complete inside the garment region of `transfer_parsing` and 0
    outside it.
    """
    labels = ("N", size.height, size.width)
    pixels = (*labels, 3)
    person_image = Tensor("person_image", "uint8", pixels)
    person_parsing = Tensor("person_parsing", "uint8", labels)
    person_densepose = Tensor("person_densepose", "uint8", pixels)
    garment_image = Tensor("garment_image", "uint8", pixels)
    garment_parsing = Tensor("garment_parsing", "uint8", labels)
    garment_densepose = Tensor("garment_densepose", "uint8", pixels)
    transfer_parsing = Tensor("transfer_parsing", "uint8", labels)
    transfer_scores = Tensor("transfer_scores", "uint8", (*labels, 4))
    warped_garment = Tensor("warped_garment", "uint8", pixels)
    flow_confidence = Tensor("flow_confidence", "uint8", labels)
    flow = Tensor("flow", "float32", ("N", 2, size.height, size.width))
    image = Tensor("image", "uint8", pixels)
    return {
        "parsing": Signature(
            (person_parsing, person_densepose, garment_parsing, garment_densepose),
            (transfer_parsing, transfer_scores),
        ),
        "warping": Signature(
            (garment_image, garment_parsing, garment_densepose, transfer_parsing, person_densepose),
            (warped_garment, flow, flow_confidence),
        ),
        "regrowth": Signature(
            (person_image, person_parsing, person_densepose, transfer_parsing, warped_garment),
            (image,),
        ),
    }


def maps_contract(size: Size) -> Signature:
    """The inputs and outputs of the graph `maps`, for photos of one image size.

    `parsing` are class ids and `densepose` IUV, as the stages take them, of everybody in `image`;
    the confidences are the probabilities times 255 of each pixel's class and of its part.
    """
    labels = ("N", size.height, size.width)
    pixels = (*labels, 3)
    return Signature(
        (Tensor("image", "uint8", pixels),),
        (
            Tensor("parsing", "uint8", labels),
            Tensor("densepose", "uint8", pixels),
            Tensor("parsing_confidence", "uint8", labels),
            Tensor("densepose_confidence", "uint8", labels),
        ),
    )


def chained(signatures: Iterable[Signature]) -> Signature:
    """What graphs in a row take, which is what none of them gives, and give, which is all."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for signature in signatures:
        inputs.update((t.name, t) for t in signature.inputs if t.name not in outputs)
        outputs.update((t.name, t) for t in signature.outputs)
    return Signature(tuple(inputs.values()), tuple(outputs.values()))


def differences(expected: Signature, found: Signature) -> str:
    """How the tensors of a loaded graph differ from those expected; empty where they agree.

    The order does not count. A size that the graph leaves open (a name, or a negative number)
    agrees with any; the batch has to be open.
    """
    for kind, asked, given in (
        ("inputs", expected.inputs, found.inputs),
        ("outputs", expected.outputs, found.outputs),
    ):
        by_name = {tensor.name: tensor for tensor in given}
        if by_name.keys() != {tensor.name for tensor in asked} or not all(
            _agree(tensor, by_name[tensor.name]) for tensor in asked
        ):
            return (
                f"the {kind} are ({', '.join(map(str, given))}), expected "
                f"({', '.join(map(str, asked))})"
            )
    return ""


def _agree(expected: Tensor, found: Tensor) -> bool:
    return (
        expected.dtype == found.dtype
        and len(expected.shape) == len(found.shape)
        and all(
            isinstance(have, str) or have < 0 or have == size
            for size, have in zip(expected.shape, found.shape, strict=True)
        )
    )
