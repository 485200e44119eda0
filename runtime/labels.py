"""The seven classes that every parsing of this package uses, and the label sets they come from.

A parsing is an array of class ids, uint8. Files carry the ids of the data set they come from;
the ids of different sets overlap, so the set is named (`meta.json`, an option) and never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.runtime.errors import InputError

BACKGROUND: Final = 0
HAIR: Final = 1
FACE: Final = 2
SKIN: Final = 3
GARMENT: Final = 4
LOWER: Final = 5
LEGS: Final = 6

#: Names of the classes in the order of their ids, as the bundle's manifest lists them.
CLASSES: Final = ("background", "hair", "face", "skin", "garment", "lower", "legs")

#: A colour per class for pictures of parsings, RGB.
COLOURS: Final = (
    (0, 0, 0),
    (110, 70, 40),
    (255, 205, 165),
    (230, 150, 110),
    (70, 130, 220),
    (60, 160, 90),
    (190, 110, 190),
)

# DensePose part ids (see people.py) on either side of the hips. Hands and arms hang past the
# hips and the head is far from them, so neither says where the hips are.
_TORSO: Final = (1, 2)
_THIGHS_AND_CALVES: Final = (7, 8, 9, 10, 11, 12, 13, 14)


@dataclass(frozen=True)
class LabelSet:
    """The ids that a data set's parse maps use.

    `classes` maps each id to one of the seven classes. Ids in `whole_body` are garments that go
    on below the hips (dress, jumpsuit): the part above is upper garment, the part below lower.
    """

    name: str
    classes: Mapping[int, int]
    whole_body: frozenset[int] = frozenset()


_CIHP: Final = {
    0: BACKGROUND,
    1: HAIR,  # hat
    2: HAIR,
    3: SKIN,  # glove
    4: FACE,  # sunglasses
    5: GARMENT,  # upper clothes
    6: GARMENT,  # dress
    7: GARMENT,  # coat
    8: LEGS,  # socks
    9: LOWER,  # pants
    10: SKIN,  # torso skin: neck and chest
    11: GARMENT,  # scarf
    12: LOWER,  # skirt
    13: FACE,
    14: SKIN,  # left arm
    15: SKIN,  # right arm
    16: LEGS,  # left leg
    17: LEGS,  # right leg
    18: LEGS,  # left shoe
    19: LEGS,  # right shoe
}

LABEL_SETS: Final[Mapping[str, LabelSet]] = {
    label_set.name: label_set
    for label_set in (
        # This package's own.
        LabelSet("classes7", {c: c for c in range(len(CLASSES))}),
        # VITON as ACGPN, DCTON and PG-VTON use it; 2 and 3 occur in none of its files. 7, "noise",
        # lies on the upper clothes. Neck and bare chest are 0.
        LabelSet(
            "viton14",
            {
                0: BACKGROUND,
                1: HAIR,
                4: GARMENT,  # upper clothes
                5: LEGS,  # left shoe
                6: LEGS,  # right shoe
                7: GARMENT,  # noise
                8: LOWER,  # lower clothes
                9: LEGS,  # left leg
                10: LEGS,  # right leg
                11: SKIN,  # left arm
                12: FACE,
                13: SKIN,  # right arm
            },
        ),
        LabelSet("cihp20", _CIHP, frozenset({6})),
        LabelSet("lip20", {**_CIHP, 10: GARMENT}, frozenset({6, 10})),  # 10: jumpsuit
        LabelSet(
            "atr18",
            {
                0: BACKGROUND,
                1: HAIR,  # hat
                2: HAIR,
                3: FACE,  # sunglasses
                4: GARMENT,  # upper clothes
                5: LOWER,  # skirt
                6: LOWER,  # pants
                7: GARMENT,  # dress
                8: LOWER,  # belt
                9: LEGS,  # left shoe
                10: LEGS,  # right shoe
                11: FACE,
                12: LEGS,  # left leg
                13: LEGS,  # right leg
                14: SKIN,  # left arm
                15: SKIN,  # right arm
                16: BACKGROUND,  # bag: no class of its own, and it is neither body nor clothes
                17: GARMENT,  # scarf
            },
            whole_body=frozenset({7}),
        ),
    )
}


def label_set(name: str) -> LabelSet:
    """The label set of a name; InputError where there is none."""
    try:
        return LABEL_SETS[name]
    except KeyError:
        raise InputError(
            f"unknown label set {name!r}; available: {', '.join(sorted(LABEL_SETS))}; name the "
            'one the parse map uses in meta.json ("parse") or with --label-set / label_set='
        ) from None


def to_classes(
    ids: npt.NDArray[np.uint8],
    label_set: LabelSet,
    parts: npt.NDArray[np.uint8],
    *,
    name: str = "parsing",
) -> npt.NDArray[np.uint8]:
    """Turns the ids of a label set into the seven classes.

    `ids` and `parts` are uint8 [H,W]; `parts` are DensePose part ids, which say where the hips
    are. A new array uint8 [H,W] comes back. InputError names ids that the set does not have;
    `name` is what the message calls the map.
    """
    known = np.zeros(256, bool)
    known[list(label_set.classes)] = True
    ids = np.ascontiguousarray(ids)
    present = np.flatnonzero(cv2.calcHist([ids], [0], None, [256], [0, 256]))
    unknown = present[~known[present]]
    if unknown.size:
        raise InputError(
            f"{name} has ids that label set {label_set.name} does not know: "
            f"{_ranges(unknown.tolist())}; known: {_ranges(sorted(label_set.classes))}. Either the "
            f"map uses another set ({', '.join(sorted(LABEL_SETS))}: name it in meta.json or with "
            "--label-set / label_set=), or its ids were lost: a palette turned into grey levels, "
            "a lossy format, or smooth resizing; take the map as the parser wrote it"
        )
    table = np.zeros(256, np.uint8)
    for source, target in label_set.classes.items():
        table[source] = target
    classes = np.asarray(cv2.LUT(ids, table), np.uint8)
    whole_body = label_set.whole_body.intersection(present.tolist())
    hip = hip_row(parts) if whole_body else None
    if hip is not None:
        classes[hip:][np.isin(ids[hip:], list(whole_body))] = LOWER
    return classes


def hip_row(parts: npt.NDArray[np.uint8]) -> int | None:
    """The first row below the hips of DensePose parts [H,W]; None where no leg is in sight.

    It is the cut with the fewest torso pixels below it and leg pixels above it, which holds for
    ragged maps and for legs that reach higher at the sides.
    """
    torso = np.isin(parts, _TORSO).sum(axis=1)
    legs = np.isin(parts, _THIGHS_AND_CALVES).sum(axis=1)
    if not legs.any():
        return None
    legs_above = np.concatenate([[0], np.cumsum(legs)])
    torso_below = torso.sum() - np.concatenate([[0], np.cumsum(torso)])
    return int(np.argmin(legs_above + torso_below))


def colour(parsing: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture, uint8 RGB [H,W,3], of a parsing in the seven classes, uint8 [H,W]."""
    return np.array(COLOURS, np.uint8)[parsing]


def _ranges(ids: list[int]) -> str:
    """Sorted ids as people write them: "0, 4-6, 9"."""
    runs: list[list[int]] = []
    for value in ids:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def border_width(height: int) -> int:
    """How far, in pixels, the border of a label map of this height may be off: 2 at 256.

    The regrowth graph and the compositing at the photo's own size repaint as much around what
    vanished.
    """
    return max(1, height // 128)
