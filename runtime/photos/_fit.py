"""Fitting a photo and its maps to a bundle's size with the aspect kept, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import Size

# a coordinate, or an array of them
_C = TypeVar("_C", float, npt.NDArray[np.floating])
# a pixel
_P = TypeVar("_P", np.uint8, np.float32)
_S = TypeVar("_S", bound=np.generic)


@dataclass(frozen=True)
class Fit:
    """Where an image of size `source` lies inside the frame `target`.

    The image is scaled to `scaled`, the largest size of its aspect that the frame holds (rounded
    to whole pixels), and its upper left pixel put at `top`, `left`, so that it is in the middle.
    Coordinates are (x, y) in pixels, pixel centres at integers.
    """

    source: Size
    target: Size

    @property
    def scaled(self) -> Size:
        """The size that the image has inside the frame."""
        factor = min(self.target.height / self.source.height, self.target.width / self.source.width)
        return Size(
            max(1, round(self.source.height * factor)), max(1, round(self.source.width * factor))
        )

    @property
    def top(self) -> int:
        """Rows of padding above the image."""
        return (self.target.height - self.scaled.height) // 2

    @property
    def left(self) -> int:
        """Columns of padding to the left of the image."""
        return (self.target.width - self.scaled.width) // 2

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels per source pixel along x and y; they differ by the rounding of `scaled`."""
        return self.scaled.width / self.source.width, self.scaled.height / self.source.height

    @property
    def is_identity(self) -> bool:
        """Whether the image fills the frame pixel for pixel."""
        return self.source == self.target

    def to_target(self, x: _C, y: _C) -> tuple[_C, _C]:
        """Source coordinates, numbers or arrays, in the frame."""
        scale_x, scale_y = self.scale
        return (x + 0.5) * scale_x - 0.5 + self.left, (y + 0.5) * scale_y - 0.5 + self.top

    def to_source(self, x: _C, y: _C) -> tuple[_C, _C]:
        """Frame coordinates, numbers or arrays, in the source image."""
        scale_x, scale_y = self.scale
        return (x - self.left + 0.5) / scale_x - 0.5, (y - self.top + 0.5) / scale_y - 0.5

    def photo(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A photo, uint8 [H,W,3] of size `source`, in the frame.

        Scaled down by area, up linearly; the edges are repeated into the padding, so that a
        network sees no border there.
        """
        if self.is_identity:
            return image
        scaled = resize(image, self.scaled)
        return np.asarray(cv2.copyMakeBorder(scaled, *self._padding(), cv2.BORDER_REPLICATE))

    def map(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A map, uint8 [H,W] or [H,W,C] of size `source`, in the frame.

        Scaled by nearest neighbours, as a mean of labels is no label; 0 in the padding.
        """
        if self.is_identity:
            return labels
        scaled = cv2.resize(
            labels,
            (self.scaled.width, self.scaled.height),
            interpolation=cv2.INTER_NEAREST_EXACT,
        )
        return np.asarray(
            cv2.copyMakeBorder(scaled, *self._padding(), cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
        )

    def crop(self, framed: npt.NDArray[_S]) -> npt.NDArray[_S]:
        """The part of a framed array [h,w,...] that is image, not padding: a view."""
        return framed[
            self.top : self.top + self.scaled.height, self.left : self.left + self.scaled.width
        ]

    def unfit(self, framed: npt.NDArray[_P]) -> npt.NDArray[_P]:
        """A framed picture or field [h,w] or [h,w,C] back at size `source`, same dtype."""
        return resize(self.crop(framed), self.source)

    def _padding(self) -> tuple[int, int, int, int]:
        bottom = self.target.height - self.scaled.height - self.top
        right = self.target.width - self.scaled.width - self.left
        return self.top, bottom, self.left, right


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
