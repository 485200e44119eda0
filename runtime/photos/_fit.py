"""Fitting a photo, or a box of it, and its maps to a bundle's size, and the way back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import Code, Framing, InputError, Size

# a coordinate, or an array of them
_C = TypeVar("_C", float, npt.NDArray[np.floating])
# a pixel
_P = TypeVar("_P", np.uint8, np.float32)
_S = TypeVar("_S", bound=np.generic)

#: The torso and the upper legs among the DensePose parts.
_TORSO = (1, 2)
_UPPER_LEGS = (7, 8, 9, 10)


@dataclass(frozen=True)
class Box:
    """A rectangle of a photo in whole pixels, which may leave the photo.

    Its text is LEFT,TOP,RIGHT,BOTTOM, the last two just outside.
    """

    top: int
    left: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.left},{self.top},{self.left + self.width},{self.top + self.height}"


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
    legs = counted & is_any(ids, _UPPER_LEGS)
    torso = is_any(ids, _TORSO)
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


@dataclass(frozen=True)
class Fit:
    """Where a box of an image of size `source` lies inside the frame `target`.

    The box, which may leave the image and is all of it by default, is scaled to `scaled`, the
    largest size of its aspect that the frame holds (rounded to whole pixels), and its upper left
    pixel put at `top`, `left`, so that it is in the middle. Coordinates are (x, y) in pixels,
    pixel centres at integers.

    Raises:
        InputError: the box does not touch the image.
    """

    source: Size
    target: Size
    box: Box | None = None

    def __post_init__(self) -> None:
        box, source = self._box, self.source
        if min(box.top + box.height, source.height) <= max(box.top, 0) or min(
            box.left + box.width, source.width
        ) <= max(box.left, 0):
            raise InputError(
                Code.ARGUMENT_INVALID,
                f"{box} does not touch the photo",
                expected=f"a box that shows some of {source} pixels",
            )

    @property
    def _box(self) -> Box:
        return self.box or Box(0, 0, self.source.height, self.source.width)

    @property
    def scaled(self) -> Size:
        """The size that the box has inside the frame."""
        box = self._box
        factor = min(self.target.height / box.height, self.target.width / box.width)
        return Size(max(1, round(box.height * factor)), max(1, round(box.width * factor)))

    @property
    def top(self) -> int:
        """Rows of padding above the box."""
        return (self.target.height - self.scaled.height) // 2

    @property
    def left(self) -> int:
        """Columns of padding to the left of the box."""
        return (self.target.width - self.scaled.width) // 2

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels per source pixel along x and y; they differ by the rounding of `scaled`."""
        return self.scaled.width / self._box.width, self.scaled.height / self._box.height

    @property
    def is_identity(self) -> bool:
        """Whether the image fills the frame pixel for pixel."""
        whole = Box(0, 0, self.source.height, self.source.width)
        return self.source == self.target and self._box == whole

    def window(self) -> tuple[tuple[slice, slice], Fit]:
        """Rows and columns of the image that the box shows, and the fit of that part alone."""
        box, source = self._box, self.source
        top, left = max(0, box.top), max(0, box.left)
        bottom = min(source.height, box.top + box.height)
        right = min(source.width, box.left + box.width)
        part = Box(box.top - top, box.left - left, box.height, box.width)
        fit = Fit(Size(bottom - top, right - left), self.target, part)
        return (slice(top, bottom), slice(left, right)), fit

    def to_target(self, x: _C, y: _C) -> tuple[_C, _C]:
        """Source coordinates, numbers or arrays, in the frame."""
        (scale_x, scale_y), box = self.scale, self._box
        return (
            (x - box.left + 0.5) * scale_x - 0.5 + self.left,
            (y - box.top + 0.5) * scale_y - 0.5 + self.top,
        )

    def to_source(self, x: _C, y: _C) -> tuple[_C, _C]:
        """Frame coordinates, numbers or arrays, in the source image."""
        (scale_x, scale_y), box = self.scale, self._box
        return (
            (x - self.left + 0.5) / scale_x - 0.5 + box.left,
            (y - self.top + 0.5) / scale_y - 0.5 + box.top,
        )

    def photo(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A photo, uint8 [H,W,3] of size `source`, in the frame.

        Scaled down by area, up linearly; the edges are repeated into the padding and where the
        box leaves the photo, so that a network sees no border there.
        """
        if self.is_identity:
            return image
        scaled = resize(_cut(image, self._box, cv2.BORDER_REPLICATE), self.scaled)
        return np.asarray(cv2.copyMakeBorder(scaled, *self._padding(), cv2.BORDER_REPLICATE))

    def map(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A map, uint8 [H,W] or [H,W,C] of size `source`, in the frame.

        Scaled by nearest neighbours, as a mean of labels is no label; 0 in the padding and where
        the box leaves the map.
        """
        if self.is_identity:
            return labels
        scaled = cv2.resize(
            _cut(labels, self._box, cv2.BORDER_CONSTANT),
            (self.scaled.width, self.scaled.height),
            interpolation=cv2.INTER_NEAREST_EXACT,
        )
        return np.asarray(
            cv2.copyMakeBorder(scaled, *self._padding(), cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
        )

    def crop(self, framed: npt.NDArray[_S]) -> npt.NDArray[_S]:
        """The part of a framed array [h,w,...] that is the box, not padding: a view."""
        return framed[
            self.top : self.top + self.scaled.height, self.left : self.left + self.scaled.width
        ]

    def unfit(self, framed: npt.NDArray[_P]) -> npt.NDArray[_P]:
        """A framed picture or field [h,w] or [h,w,C] back at size `source`, same dtype.

        Around the box its edges are repeated.
        """
        return self._back(resize(self.crop(framed), self.boxed), cv2.BORDER_REPLICATE)

    def unfit_map(self, framed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A framed map [h,w] or [h,w,C] back at size `source`, by nearest neighbours; 0 around."""
        size = (self.boxed.width, self.boxed.height)
        boxed = cv2.resize(self.crop(framed), size, interpolation=cv2.INTER_NEAREST_EXACT)
        return self.place(np.asarray(boxed, np.uint8))

    def place(self, boxed: npt.NDArray[_P]) -> npt.NDArray[_P]:
        """What is at the box's size at that of the image; 0 around the box."""
        return self._back(boxed, cv2.BORDER_CONSTANT)

    def shrink(self, field: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A field [H,W] of the image at the size `scaled`, which is that of `crop`."""
        return resize(_cut(field, self._box, cv2.BORDER_REPLICATE), self.scaled)

    def enlarge(
        self, part: npt.NDArray[np.float32], interpolation: int = cv2.INTER_LINEAR
    ) -> npt.NDArray[np.float32]:
        """A field [h,w] or [h,w,C] of size `scaled` back at size `source`; 0 around the box."""
        return self.place(resize(part, self.boxed, interpolation))

    @property
    def boxed(self) -> Size:
        """The size of the box in the image."""
        return Size(self._box.height, self._box.width)

    def _back(self, boxed: npt.NDArray[_P], border: int) -> npt.NDArray[_P]:
        """What is at the box's size at that of the image, filled by OpenCV's rule `border`."""
        whole = Box(-self._box.top, -self._box.left, self.source.height, self.source.width)
        return _cut(boxed, whole, border)

    def _padding(self) -> tuple[int, int, int, int]:
        bottom = self.target.height - self.scaled.height - self.top
        right = self.target.width - self.scaled.width - self.left
        return self.top, bottom, self.left, right


def _cut(image: npt.NDArray[_P], box: Box, border: int) -> npt.NDArray[_P]:
    """A box of an image [H,W] or [H,W,C], filled by OpenCV's rule `border` where it leaves it.

    A view where it does not.
    """
    height, width = image.shape[:2]
    above, left = max(0, -box.top), max(0, -box.left)
    below = max(0, box.top + box.height - height)
    right = max(0, box.left + box.width - width)
    inside = image[max(0, box.top) : box.top + box.height, max(0, box.left) : box.left + box.width]
    if not (above or below or left or right):
        return inside
    sides = above, below, left, right
    return np.asarray(cv2.copyMakeBorder(inside, *sides, border, value=(0, 0, 0, 0)), image.dtype)


def resize(
    image: npt.NDArray[_P], size: Size, interpolation: int = cv2.INTER_LINEAR
) -> npt.NDArray[_P]:
    """A picture or field [h,w] or [h,w,C] at another size, dtype kept: down by area, up linearly.

    Half-pixel centres, edges clamped. A size that grows along one axis and shrinks along the
    other counts as up. `interpolation` is OpenCV's for what goes up.
    """
    height, width = image.shape[:2]
    if (height, width) == (size.height, size.width):
        return image
    down = size.height <= height and size.width <= width
    scaled = cv2.resize(
        image,
        (size.width, size.height),
        interpolation=cv2.INTER_AREA if down else interpolation,
    )
    return np.asarray(scaled, image.dtype)
