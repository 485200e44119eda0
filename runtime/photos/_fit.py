"""Which box of a photo the networks see, and pictures at other sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import Code, Framing, InputError, Size
from garment_transfer.kernels.fit import Box, Fit, hold_centres
from garment_transfer.runtime.photos._densepose import TORSO, UPPER_LEGS

# a pixel
_P = TypeVar("_P", np.uint8, np.float32)
_S = TypeVar("_S", np.uint8, np.bool_)


def frame(densepose: npt.NDArray[np.uint8], framing: Framing, target: Size) -> Box:
    """The box of a photo that the networks see, by the rule of `Framing`.

    Args:
        densepose: uint8 [H,W,3] or [H,W], IUV or the part ids alone, at the photo's size.
        framing: the rule, from a bundle's manifest.
        target: the bundle's size, whose aspect the box has, to the nearest pixel.

    Raises:
        InputError: the map shows none of the rule's parts.
    """
    ids = densepose
    if densepose.ndim == 3:
        ids = np.asarray(cv2.extractChannel(densepose, 0), np.uint8)
    counted = is_any(ids, framing.parts)
    number = int(np.count_nonzero(counted))
    if not number:
        raise InputError(
            Code.BODY_MISSING,
            "the DensePose map shows nobody",
            expected=f"some of the parts {', '.join(map(str, framing.parts))}",
        )
    least = math.sqrt(number) / 64
    legs = counted & is_any(ids, UPPER_LEGS)
    torso = is_any(ids, TORSO)
    if legs.any() and torso.any():
        top = _span(counted, 1, least)[0]
        lowest = top + framing.legs * (_span(torso, 1, least)[1] - top)
        rest = counted.copy()
        rest[math.ceil(lowest) :] &= ~legs[math.ceil(lowest) :]
        counted = rest if rest.any() else counted
    top, bottom = _span(counted, 1, least)
    left, right = _span(counted, 0, least)
    margin = framing.margin * (bottom - top)
    height, width = bottom - top + 2 * margin, right - left + 2 * margin
    height = max(height, width * target.height / target.width)
    width = height * target.width / target.height
    return Box(
        top=_rounded(top - margin),
        left=_rounded((left + right - width) / 2),
        height=max(1, _rounded(height)),
        width=max(1, _rounded(width)),
    )


def fit_person(densepose: npt.NDArray[np.uint8], framing: Framing, target: Size) -> Fit:
    """How the photo of a person is fitted to a bundle: the box of `frame`, which takes its args."""
    return Fit(Size(*densepose.shape[:2]), target, frame(densepose, framing, target))


def is_any(ids: npt.NDArray[np.uint8], of: Iterable[int]) -> npt.NDArray[np.bool_]:
    """Where a map has one of some ids, bool [H,W]."""
    table = np.zeros(256, np.uint8)
    table[list(of)] = 1
    return np.asarray(cv2.LUT(np.ascontiguousarray(ids), table), np.uint8).view(np.bool_)


def _rounded(value: float) -> int:
    """To the nearest integer, halves up: a person who moves by a pixel moves the box by one."""
    return math.floor(value + 0.5)


def _span(mask: npt.NDArray[np.bool_], axis: int, least: float) -> tuple[int, int]:
    """First and last plus one of the rows (axis 1) or columns (axis 0) with `least` pixels."""
    counts = np.asarray(
        cv2.reduce(mask.view(np.uint8), axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    ).ravel()
    found = np.flatnonzero(counts >= min(least, counts.max()))
    return int(found[0]), int(found[-1]) + 1


def unfit(fit: Fit, framed: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A framed field [h,w,C] back at the photo's size; around the box its edges are repeated."""
    box = fit.shown
    boxed: npt.NDArray[np.float32] = resize(fit.crop(framed), Size(box.height, box.width))
    rows = (np.arange(fit.source.height) - box.top).clip(0, box.height - 1)
    columns = (np.arange(fit.source.width) - box.left).clip(0, box.width - 1)
    return np.asarray(boxed[rows[:, None], columns])


def resize(image: npt.NDArray[_P], size: Size) -> npt.NDArray[_P]:
    """A picture or field [h,w] or [h,w,C] at another size, dtype kept: down by area, up linearly.

    Half-pixel centres, edges clamped. A size that grows along one axis and shrinks along the
    other counts as up.
    """
    height, width = image.shape[:2]
    if (height, width) == (size.height, size.width):
        return image
    down = size.height <= height and size.width <= width
    scaled = cv2.resize(
        image,
        (size.width, size.height),
        interpolation=cv2.INTER_AREA if down else cv2.INTER_LINEAR,
    )
    return np.asarray(scaled, image.dtype)


def resize_map(labels: npt.NDArray[_S], size: Size) -> npt.NDArray[_S]:
    """A map [h,w] or [h,w,3] at another size: each pixel is the one that holds its centre.

    As in the C++ library. OpenCV's versions differ in what is nearest.
    """
    rows, columns = map(hold_centres, (size.height, size.width), labels.shape)
    resized: npt.NDArray[_S] = labels.take(rows, axis=0).take(columns, axis=1)
    return resized
