"""Parse maps: from the ids of a label set to the seven classes, and pictures of them."""

from __future__ import annotations

import logging
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    IGNORED,
    LABEL_SETS,
    LOWER,
    SKIN,
    Code,
    InputError,
    LabelSet,
)
from garment_transfer.runtime.photos._densepose import LEGS, TORSO

_LOG: Final = logging.getLogger(__name__)

#: A colour per class for pictures of parsings, RGB.
COLOURS: Final = tuple(LABEL_SETS["classes7"].colours[0].values())

# Of the borders between ids that are no neighbours, the share that may run through ids in between.
# Measured: up to 0.04 on maps of parsers and rendered ones, from 0.39 on when they were resized
# linearly, cubically or by areas.
_MAX_SMOOTH: Final = 0.2

# Fewer pixels are no reason: a map of 256x192 that was resized smoothly has thousands.
_MIN_SMOOTH: Final = 100


def checked_ids(ids: npt.NDArray[np.uint8], name: str = "parsing") -> npt.NDArray[np.uint8]:
    """The ids of a parse map as it was read, uint8 [H,W], with those that parsers ignore as 0.

    Raises:
        InputError: the map was resized smoothly, which invents ids at every border.
    """
    if ids.max() == IGNORED:
        ignored = np.count_nonzero(ids == IGNORED)
        _LOG.warning("%s: %d pixels have id %d and count as background", name, ignored, IGNORED)
        ids = np.where(ids == IGNORED, np.uint8(0), ids)
    # some rows and columns of a large map say enough
    step = max(1, min(ids.shape) // 256)
    # a larger map may have been smaller before: 2 pixels of 256x192
    thin = max(2, min(ids.shape) // 96)
    across, down = _borders(ids[::step], thin), _borders(ids[:, ::step].T, thin)
    smooth, direct = across[0] + down[0], across[1] + down[1]
    if smooth > _MAX_SMOOTH * (smooth + direct) and smooth > _MIN_SMOOTH:
        raise InputError(
            Code.LABEL_SET_MISMATCH,
            f"{name} was resized smoothly, or was a JPEG: at {smooth} of {smooth + direct} borders "
            "one id turns into another by way of the ids in between",
            expected="ids as the parser gave them",
            fix="take the map as the parser wrote it (it may be smaller than the photo), or resize "
            "it with nearest neighbours, and keep it as PNG",
        )
    return ids


def _borders(ids: npt.NDArray[np.uint8], thin: int) -> tuple[int, int]:
    """How many borders along the rows run through ids in between, and how many do not.

    Ids in between are those of at most `thin` pixels in a row, between a smaller and a larger one.
    """
    width = ids.shape[1]
    flat = np.ascontiguousarray(ids).ravel()
    changes = flat[1:] != flat[:-1]
    changes[width - 1 :: width] = True  # rows end
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=flat.size)
    steps = np.diff(flat[starts].astype(np.int16))
    within = starts[1:] % width != 0
    is_thin = lengths <= thin
    smooth = is_thin[1:-1] & within[:-1] & within[1:] & (steps[:-1] * steps[1:] > 0)
    direct = ~is_thin[:-1] & ~is_thin[1:] & within & (np.abs(steps) > 1)
    return int(np.count_nonzero(smooth)), int(np.count_nonzero(direct))


def to_classes(
    ids: npt.NDArray[np.uint8],
    label_set: LabelSet,
    parts: npt.NDArray[np.uint8],
    *,
    name: str = "parsing",
) -> npt.NDArray[np.uint8]:
    """Turns the ids of a label set into the seven classes.

    Args:
        ids: uint8 [H,W], of `label_set`.
        parts: uint8 [H,W], DensePose part ids, which say where neck and hips are.
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
            "meta.json or with `transfer --label-set` / label_set=; if its ids were lost (a "
            "palette turned into grey levels, a lossy format, smooth resizing), take the map as "
            "the parser wrote it",
        )
    table = np.zeros(256, np.uint8)
    for source, target in label_set.classes.items():
        table[source] = target
    classes = np.asarray(cv2.LUT(ids, table), np.uint8)
    whole_body = label_set.whole_body.intersection(present)
    hip = hip_row(parts) if whole_body else None
    if hip is not None:
        classes[hip:][np.isin(ids[hip:], list(whole_body))] = LOWER
    for value in label_set.with_neck.intersection(present):
        classes[(ids == value) & np.isin(parts, TORSO)] = SKIN
    return classes


def hip_row(parts: npt.NDArray[np.uint8]) -> int | None:
    """The first row below the hips of DensePose parts, uint8 [H,W]; None where no leg shows.

    It is the cut with the fewest torso pixels below it and leg pixels above it, which holds for
    ragged maps and for legs that reach higher at the sides. Hands and arms hang past the hips.
    """
    torso = np.isin(parts, TORSO).sum(axis=1)
    legs = np.isin(parts, LEGS).sum(axis=1)
    if not legs.any():
        return None
    legs_above = np.concatenate([[0], np.cumsum(legs)])
    torso_below = torso.sum() - np.concatenate([[0], np.cumsum(torso)])
    return int(np.argmin(legs_above + torso_below))


def colour(parsing: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture, uint8 RGB [H,W,3], of a parsing, uint8 [H,W]: each class in its `COLOURS`."""
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
