"""Fit: a photo, or a box of it, and its maps at a bundle's size.

The classes here say where a photo lies; `Fit.photo` and `Fit.map` are the operator. It runs in C++
(fit_cpu.cpp) where the library is built, and else by the definition below, with the same pixels:
everything is whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import Code, InputError, Size
from garment_transfer.kernels import photos

# a coordinate, or an array of them
_C = TypeVar("_C", float, npt.NDArray[np.floating])
_S = TypeVar("_S", bound=np.generic)

Pixels = npt.NDArray[np.uint8]
Whole = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

#: Places between two pixels of a frame, as a power of two, and what a colour is multiplied with so
#: that scaling up along one axis does not round it.
BITS = 15
_FINER = 4


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
        rows, columns = self.window
        if rows.stop <= rows.start or columns.stop <= columns.start:
            raise InputError(
                Code.ARGUMENT_INVALID,
                f"{self.shown} does not touch the photo",
                expected=f"a box that shows some of {self.source} pixels",
            )

    @property
    def shown(self) -> Box:
        """The box, which is all of the image where none is given."""
        return self.box or Box(0, 0, self.source.height, self.source.width)

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the box shows."""
        box, source = self.shown, self.source
        rows = slice(max(0, box.top), min(source.height, box.top + box.height))
        columns = slice(max(0, box.left), min(source.width, box.left + box.width))
        return rows, columns

    @cached_property
    def scaled(self) -> Size:
        """The size that the box has inside the frame."""
        box = self.shown
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
        return self.scaled.width / self.shown.width, self.scaled.height / self.shown.height

    @property
    def is_identity(self) -> bool:
        """Whether the image fills the frame pixel for pixel."""
        whole = Box(0, 0, self.source.height, self.source.width)
        return self.source == self.target and self.shown == whole

    def to_target(self, x: _C, y: _C) -> tuple[_C, _C]:
        """Source coordinates, numbers or arrays, in the frame."""
        (scale_x, scale_y), box = self.scale, self.shown
        return (
            (x - box.left + 0.5) * scale_x - 0.5 + self.left,
            (y - box.top + 0.5) * scale_y - 0.5 + self.top,
        )

    def photo(self, image: Pixels) -> Pixels:
        """A photo, uint8 [H,W,3] or [H,W] of size `source`, in the frame.

        Scaled down by area, up linearly, rounded to the nearest, halves up; the edges are repeated
        into the padding and where the box leaves the photo, so that a network sees no border there.
        """
        return self._framed(image, is_map=False)

    def map(self, labels: Pixels) -> Pixels:
        """A map, uint8 [H,W] or [H,W,3] of size `source`, in the frame.

        Each pixel is the one of the map that holds its centre, as a mean of labels is no label; 0
        in the padding and where the box leaves the map.
        """
        return self._framed(labels, is_map=True)

    def crop(self, framed: npt.NDArray[_S]) -> npt.NDArray[_S]:
        """The part of a framed array [h,w,...] that is the box, not padding: a view."""
        return framed[
            self.top : self.top + self.scaled.height, self.left : self.left + self.scaled.width
        ]

    def _framed(self, array: Pixels, is_map: bool) -> Pixels:
        due = (self.source.height, self.source.width)
        if array.dtype != np.uint8 or array.shape not in (due, (*due, 3)):
            raise InputError(
                Code.ARRAY_INVALID,
                f"an image is {array.dtype} {list(array.shape)}",
                expected=f"uint8 {list(due)} or {[*due, 3]}",
            )
        if self.is_identity:
            return array
        library = photos.load()
        if library is not None:
            return library.fit(self, array, is_map)
        return fit_map(self, array) if is_map else fit_photo(self, array)


def fit_photo(fit: Fit, image: Pixels) -> Pixels:
    """The definition of `Fit.photo`."""
    box, scaled, (rows, columns) = fit.shown, fit.scaled, fit.window
    part: Pixels = cv2.copyMakeBorder(  # type: ignore[assignment]
        image[rows, columns],
        rows.start - box.top,
        box.top + box.height - rows.stop,
        columns.start - box.left,
        box.left + box.width - columns.stop,
        cv2.BORDER_REPLICATE,
    )
    if scaled.height <= box.height and scaled.width <= box.width:
        small = shrink(part, scaled)
    else:
        y = taps(np.arange(scaled.height), scaled.height, box.height)
        x = taps(np.arange(scaled.width), scaled.width, box.width)
        finer = np.atleast_3d(part).astype(np.int32) << _FINER
        finer = lerp(finer[y.first], finer[y.second], y.part[:, None, None])
        finer = lerp(finer[:, x.first], finer[:, x.second], x.part[:, None])
        finer = (finer + (1 << (_FINER - 1))) >> _FINER
        small = finer.astype(np.uint8).reshape(scaled.height, scaled.width, *image.shape[2:])
    sides = fit.target.height - fit.top - scaled.height, fit.target.width - fit.left - scaled.width
    framed = cv2.copyMakeBorder(small, fit.top, sides[0], fit.left, sides[1], cv2.BORDER_REPLICATE)
    return np.asarray(framed, np.uint8)


def fit_map(fit: Fit, labels: Pixels) -> Pixels:
    """The definition of `Fit.map`."""
    framed = np.zeros((fit.target.height, fit.target.width, *labels.shape[2:]), np.uint8)
    fit.crop(framed)[:] = nearest(fit, labels)
    return framed


def nearest(fit: Fit, labels: Pixels) -> Pixels:
    """A map at the size `scaled`, the pixels that hold the centres; 0 where the box leaves it."""
    box, scaled, source = fit.shown, fit.scaled, fit.source
    rows = hold_centres(scaled.height, box.height) + box.top
    columns = hold_centres(scaled.width, box.width) + box.left
    small = labels[rows.clip(0, source.height - 1)[:, None], columns.clip(0, source.width - 1)]
    small[(rows < 0) | (rows >= source.height)] = 0
    small[:, (columns < 0) | (columns >= source.width)] = 0
    return small


def hold_centres(small: int, large: int) -> Places:
    """The pixels of an axis of `large` ones that hold the centres of `small` ones, int64 [small].

    Right also where `small` is the greater number.
    """
    return (2 * np.arange(small) + 1) * large // (2 * small)


def shrink(image: Pixels, size: Size) -> Pixels:
    """An image [H,W] or [H,W,C] at a smaller size, the mean over each pixel's area.

    Halves are rounded up.
    """
    height, width = image.shape[:2]
    # sums of all that is above and to the left, of which 53 bits hold any photo's
    sums = np.asarray(cv2.integral(image, sdepth=cv2.CV_64F))
    sums = _along(sums, size.height).astype(np.int64)
    sums = _along(sums.swapaxes(0, 1), size.width).swapaxes(0, 1)
    means = np.diff(np.diff(sums, axis=0), axis=1)
    total = height * width
    return ((2 * means + total) // (2 * total)).astype(np.uint8)


def _along(sums: npt.NDArray[_S], count: int) -> npt.NDArray[_S]:
    """Running sums where an axis is cut into `count` parts, times `count`, which is whole again."""
    length = len(sums) - 1
    whole, part = np.divmod(np.arange(count + 1) * length, count)
    part = part.reshape(-1, *(1 for _ in sums.shape[1:]))
    return np.asarray(
        sums[whole] * (count - part) + sums[(whole + 1).clip(max=length)] * part, sums.dtype
    )


@dataclass(frozen=True)
class Taps:
    """Which two pixels of a small axis surround each pixel of a large one, edges repeated.

    Attributes:
        first: int64 [n], the pixel before.
        second: int64 [n], the one behind it.
        part: int32 [n], how far the place is from the first to the second, in 2**-BITS.
        base: int64 [n], the pixel before, which may be -1.
    """

    first: Places
    second: Places
    part: Whole
    base: Places


def taps(x: npt.NDArray[np.integer], large: int, small: int) -> Taps:
    """Where the pixels `x` of an axis of `large` pixels lie in the same axis of `small` ones."""
    place = (((2 * x.astype(np.int64) + 1) * small - large) << BITS) // (2 * large)
    first = place >> BITS
    return Taps(
        first.clip(0, small - 1),
        (first + 1).clip(0, small - 1),
        (place & ((1 << BITS) - 1)).astype(np.int32),
        first,
    )


def window_taps(fit: Fit) -> tuple[Taps, Taps]:
    """Where the rows and columns of `fit.window` lie in the part of the frame that is the box."""
    rows, columns = fit.window
    box, scaled = fit.shown, fit.scaled
    return (
        taps(np.arange(rows.start, rows.stop) - box.top, box.height, scaled.height),
        taps(np.arange(columns.start, columns.stop) - box.left, box.width, scaled.width),
    )


def lerp(first: Whole, second: Whole, part: Whole) -> Whole:
    """The value `part` of the way from the first to the second, halves rounded up."""
    return first + (((second - first) * part + (1 << (BITS - 1))) >> BITS)
