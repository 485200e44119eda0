"""Shadows on a garment of what is in front of it, lifted.

An arm in front of a garment darkens the cloth beside it. Moved onto somebody else, who holds no arm
there, such a shadow would be a dark wedge with a sharp edge. Here the cloth near what covers it is
brightened to where the darker parts of the same garment are elsewhere, and no farther, so that a
dark pattern stays what it is.

It runs in C++ (shadows_cpu.cpp) where the library is built, and else by the definition below, with
the same pixels: everything is whole numbers.
"""

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.kernels import photos
from garment_transfer.kernels.fit import lerp, taps

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64]

# Brightness is averaged over square cells, so many along the photo's height.
_CELLS = 128
# How many cells a shadow reaches; over the last of them it fades.
_REACH, _FADE = 16, 8
# What of the cells farther off may be darker than what is lifted, as one part in so many, and how
# many cells there have to be.
_DARKER, _ENOUGH = 10, 20
# A gain of 1, and the largest one.
_ONE, _MOST = 256, 3 * 256


def lift_shadows(photo: Pixels, garment: Mask, covering: Mask) -> Pixels:
    """A photo whose garment is no darker beside what covers it than it is elsewhere.

    Args:
        photo: uint8 RGB [H,W,3].
        garment: bool [H,W], where the photo shows the garment.
        covering: bool [H,W], where something is in front of it.

    Returns:
        uint8 RGB [H,W,3]: a copy, or the photo itself where there is no such shadow.
    """
    if not covering.any():
        return photo
    library = photos.load()
    if library is None:
        return define(photo, garment, covering)
    return library.lift_shadows(photo, garment, covering)


def define(photo: Pixels, garment: Mask, covering: Mask) -> Pixels:
    """The definition of `lift_shadows`."""
    height, width = garment.shape
    side = -(-height // _CELLS)
    luminance = photo.astype(np.int64) @ np.array([1, 2, 1])
    count = _sums(garment, side)
    around, total = _around(count), _around(_sums(luminance * garment, side))
    brightness = total // np.maximum(around, 1)

    # something is in front where the garment is on both sides of it: an arm that hangs beside it
    # throws no more of a shadow there than one will on somebody else
    worn, side_of = (count > 0).astype(np.uint8), np.zeros((1, 2 * _REACH + 1), np.uint8)
    side_of[:, :_REACH] = 1
    left, right, above, below = (
        cv2.dilate(worn, kernel) > 0
        for kernel in (side_of, side_of[:, ::-1], side_of.T, side_of.T[::-1])
    )
    in_front = (_sums(covering, side) > 0) & (left & right | above & below)

    # cells between a cell and the nearest one with something in front
    distance = np.full(count.shape, _REACH)
    for step in reversed(range(_REACH)):
        square = np.ones((2 * step + 1,) * 2, np.uint8)
        distance[cv2.dilate(in_front.astype(np.uint8), square) > 0] = step
    near = (count > 0) & (distance < _REACH)
    others = np.sort(brightness[(count > 0) & ~near])
    if len(others) < _ENOUGH:
        return photo
    wanted = others[len(others) // _DARKER]
    gain = np.minimum(_ONE * wanted // np.maximum(brightness, 1), _MOST)
    gain = (np.maximum(gain, _ONE) - _ONE) * np.minimum(_REACH - distance, _FADE) // _FADE
    gain = (_ONE + _around(np.where(near, gain, 0)) // 9).astype(np.int32)
    if (gain == _ONE).all():
        return photo

    down, across = gain.shape
    y = taps(np.arange(height), down * side, down)
    x = taps(np.arange(width), across * side, across)
    rows = lerp(gain[y.first], gain[y.second], y.part[:, None])
    each = lerp(rows[:, x.first], rows[:, x.second], x.part)
    lifted = np.minimum((photo * each[..., None] + _ONE // 2) // _ONE, 255).astype(np.uint8)
    return np.where(garment[..., None], lifted, photo)


def _sums(values: npt.NDArray[np.generic], side: int) -> Whole:
    """Sums over square cells; those at the lower and right end may be smaller."""
    rows, columns = (-(-length // side) for length in values.shape)
    padded = np.zeros((rows * side, columns * side), np.int64)
    padded[: values.shape[0], : values.shape[1]] = values
    return np.asarray(padded.reshape(rows, side, columns, side).sum(axis=(1, 3)))


def _around(cells: Whole) -> Whole:
    """Sums over the 3 x 3 cells around each."""
    padded = np.pad(cells, 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return np.asarray(windows.sum(axis=(2, 3)))
