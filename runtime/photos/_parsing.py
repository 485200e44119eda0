"""Parse maps: from the ids of a label set to the seven classes, and pictures of them."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import LABEL_SETS, LOWER, Code, InputError, LabelSet

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

# DensePose part ids (see _densepose.py) on either side of the hips. Hands and arms hang past the
# hips and the head is far from them, so neither says where the hips are.
_TORSO: Final = (1, 2)
_THIGHS_AND_CALVES: Final = (7, 8, 9, 10, 11, 12, 13, 14)


def to_classes(
    ids: npt.NDArray[np.uint8],
    label_set: LabelSet,
    parts: npt.NDArray[np.uint8],
    *,
    name: str = "parsing",
) -> npt.NDArray[np.uint8]:
    """Turns the ids of a label set into the seven classes.

    Args:
        ids: uint8 [H,W].
        label_set: whose ids they are.
        parts: uint8 [H,W], DensePose part ids, which say where the hips are.
        name: what messages call the map.

    Returns:
        A new array, uint8 [H,W].

    Raises:
        InputError: there are ids that the set does not have; they are listed.
    """
    ids = np.ascontiguousarray(ids)
    present = np.flatnonzero(cv2.calcHist([ids], [0], None, [256], [0, 256])).tolist()
    unknown = [value for value in present if value not in label_set.classes]
    if unknown:
        raise InputError(
            Code.LABEL_SET_MISMATCH,
            f"{name} has ids that label set {label_set.name} does not have: {_ranges(unknown)}",
            expected=f"ids {_ranges(sorted(label_set.classes))}",
            fix=f"if the map uses another set ({', '.join(sorted(LABEL_SETS))}), name it in "
            "meta.json or with --label-set / label_set=; if its ids were lost (a palette turned "
            "into grey levels, a lossy format, smooth resizing), take the map as the parser wrote "
            "it",
        )
    table = np.zeros(256, np.uint8)
    for source, target in label_set.classes.items():
        table[source] = target
    classes = np.asarray(cv2.LUT(ids, table), np.uint8)
    whole_body = label_set.whole_body.intersection(present)
    hip = hip_row(parts) if whole_body else None
    if hip is not None:
        classes[hip:][np.isin(ids[hip:], list(whole_body))] = LOWER
    return classes


def hip_row(parts: npt.NDArray[np.uint8]) -> int | None:
    """The first row below the hips of DensePose parts, uint8 [H,W]; None where no leg shows.

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
    """A picture of a parsing.

    Args:
        parsing: uint8 [H,W], ids of the seven classes.

    Returns:
        uint8 RGB [H,W,3], each class in its colour of `COLOURS`.
    """
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
