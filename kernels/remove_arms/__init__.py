"""A garment as it would be without the arms in front of it.

An arm in front of a garment hides some of the cloth and darkens what is beside it. Moved onto
somebody else, who holds no arm there, that would be a hole with dark edges. So the cloth near the
arm is brightened to where the darker parts of the same garment are elsewhere, and no farther, so
that a dark pattern stays what it is; what the arm hides, and the cloth right beside it, takes the
colours of the cloth around, as evenly as they can lead from one side to the other (the solution of
Laplace's equation).

It runs in C++ (remove_arms_cpu.cpp) where the library is built, and else by the definition below,
with the same pixels: everything is whole numbers.
"""

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.kernels import photos
from garment_transfer.kernels.fit import Whole, lerp, taps

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Cells = npt.NDArray[np.int64]

# Brightness and colours are averaged over square cells, so many along the garment's height, and no
# more along the photo than are quick to go through.
_CELLS, _MOST_CELLS = 80, 1024
# How many cells a shadow reaches; over the last of them it fades.
_REACH, _FADE = 16, 8
# The fewest cells of a piece of an arm that counts.
_PIECE = 40
# What of the cells farther off may be darker than what is lifted, as one part in so many, and how
# many cells there have to be.
_DARKER, _ENOUGH = 10, 20
# A gain of 1, and the largest one.
_ONE, _MOST = 256, 3 * 256
# How many cells beside an arm take the colours of the cloth around too.
_BESIDE = 2
# Colours of cells are in this part of a level; how often each becomes the mean of those around.
_FINE, _SWEEPS = 64, 512


def remove_arms(photo: Pixels, garment: Mask, arms: Mask) -> tuple[Pixels, Mask]:
    """A photo, and where it shows the garment, as if no arm was in front of it.

    An arm that hangs beside the garment stays, with its shadow, which somebody else's arm will
    throw there too.

    Args:
        photo: uint8 RGB [H,W,3].
        garment: bool [H,W], where the photo shows the garment.
        arms: bool [H,W], where it shows bare arms and hands, and what a map may miss of them.

    Returns:
        uint8 RGB [H,W,3] and bool [H,W]: copies, or the arguments themselves where no arm is in
        front.
    """
    if not arms.any():
        return photo, garment
    library = photos.load()
    if library is None:
        return define(photo, garment, arms)
    return library.remove_arms(photo, garment, arms)


def define(photo: Pixels, garment: Mask, arms: Mask) -> tuple[Pixels, Mask]:
    """The definition of `remove_arms`."""
    height = cv2.boundingRect(garment.view(np.uint8))[3]
    if not height:
        return photo, garment
    side = max(-(-height // _CELLS), -(-max(garment.shape) // _MOST_CELLS))
    count = _sums(garment, side)
    distance = _distance(count, _sums(arms, side) > 0, side)
    if distance.min() > 0:
        return photo, garment
    lifted = _lift_shadows(photo, garment, count, distance, side)
    return _fill(lifted, garment, arms, count, distance, side)


def _distance(count: Cells, covered: Mask, side: int) -> Cells:
    """Cells between a cell and the nearest one with an arm in front of the garment, to _REACH.

    An arm is in front where the garment is on both sides of it, in most of a piece to its left and
    its right: an arm that hangs beside a waist has the garment above and below it alone. A cell
    has the garment where it fills more than half of it.
    """
    worn = (2 * count > side * side).astype(np.uint8)
    side_of = np.zeros((1, 2 * _REACH + 1), np.uint8)
    side_of[:, :_REACH] = 1
    left, right, above, below = (
        cv2.dilate(worn, kernel) > 0
        for kernel in (side_of, side_of[:, ::-1], side_of.T, side_of.T[::-1])
    )
    across = covered & left & right
    pieces, piece = cv2.connectedComponents((across | covered & above & below).astype(np.uint8))
    size, most = (np.bincount(where.ravel(), minlength=pieces) for where in (piece, piece[across]))
    is_in_front = (size >= _PIECE) & (2 * most >= size)
    is_in_front[0] = False  # the rest
    in_front = is_in_front[piece].astype(np.uint8)
    distance = np.full(count.shape, _REACH)
    for step in reversed(range(_REACH)):
        distance[cv2.dilate(in_front, np.ones((2 * step + 1,) * 2, np.uint8)) > 0] = step
    return distance


def _lift_shadows(photo: Pixels, garment: Mask, count: Cells, distance: Cells, side: int) -> Pixels:
    """The photo with a garment that is no darker beside an arm in front than it is elsewhere."""
    luminance = photo.astype(np.int64) @ np.array([1, 2, 1])
    total = _around(_sums(luminance * garment, side))
    brightness = total // np.maximum(_around(count), 1)
    near = (count > 0) & (distance < _REACH)
    others = np.sort(brightness[(count > 0) & ~near])
    if len(others) < _ENOUGH:
        return photo
    wanted = others[len(others) // _DARKER]
    gain = np.minimum(_ONE * wanted // np.maximum(brightness, 1), _MOST)
    gain = (np.maximum(gain, _ONE) - _ONE) * np.minimum(_REACH - distance, _FADE) // _FADE
    gain = _ONE + _around(np.where(near, gain, 0)) // 9
    each = _between_cells(gain[..., None], garment.shape, side)
    lifted = np.minimum((photo * each + _ONE // 2) // _ONE, 255).astype(np.uint8)
    return np.where(garment[..., None], lifted, photo)


def _fill(
    photo: Pixels, garment: Mask, arms: Mask, count: Cells, distance: Cells, side: int
) -> tuple[Pixels, Mask]:
    """The photo, and its garment, with the cloth that arms hide."""
    # colours are known where everything around is garment too: the border of a map is rough
    area = _sums(np.ones_like(garment), side)
    known = (_around(area - count) == 0) & (distance > _BESIDE)
    hole = (distance <= _BESIDE) & ((count > 0) | (distance == 0))
    if known.sum() < _ENOUGH:
        return photo, garment
    sums = np.stack([_sums(photo[..., channel], side) for channel in range(3)], axis=2)
    colours = np.where(known[..., None], _FINE * sums // area[..., None], 0)
    colours[hole] = colours.sum(axis=(0, 1)) // known.sum()
    colours = np.pad(colours, ((1, 1), (1, 1), (0, 0)))
    valid = np.pad(known | hole, 1).astype(np.int64)
    y, x = (places + 1 for places in np.nonzero(hole))
    cross = [(y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    weights = np.sum([valid[places] for places in cross], axis=0)[:, None]
    for _ in range(_SWEEPS):
        colours[y, x] = (sum(colours[places] for places in cross) + weights // 2) // weights

    valid = valid[1:-1, 1:-1, None]
    weight = _around(_ONE * hole)[..., None] // 9
    fields = np.concatenate([colours[1:-1, 1:-1], np.full_like(valid, _ONE), weight], axis=2)
    each = _between_cells(fields * valid, garment.shape, side)
    cloth = each[..., :3] * (_ONE // _FINE) // np.maximum(each[..., 3:4], 1)
    hidden = np.repeat(np.repeat(hole, side, axis=0), side, axis=1)[: len(arms), : arms.shape[1]]
    hidden = hidden & arms & ~garment
    part = np.where(hidden, _ONE, np.where(garment, each[..., 4], 0))[..., None]
    filled = (photo * (_ONE - part) + cloth * part + _ONE // 2) // _ONE
    return np.minimum(filled, 255).astype(np.uint8), garment | hidden


def _between_cells(fields: Cells, shape: tuple[int, ...], side: int) -> Whole:
    """Fields of cells [h,w,C], linearly between their centres: int32 [H,W,C]."""
    cells = fields.astype(np.int32)
    y, x = (
        taps(np.arange(length), count * side, count)
        for length, count in zip(shape, cells.shape[:2], strict=True)
    )
    rows = lerp(cells[y.first], cells[y.second], y.part[:, None, None])
    return lerp(rows[:, x.first], rows[:, x.second], x.part[:, None])


def _sums(values: npt.NDArray[np.generic], side: int) -> Cells:
    """Sums over square cells; those at the lower and right end may be smaller."""
    rows, columns = (-(-length // side) for length in values.shape)
    padded = np.zeros((rows * side, columns * side), np.int64)
    padded[: values.shape[0], : values.shape[1]] = values
    return np.asarray(padded.reshape(rows, side, columns, side).sum(axis=(1, 3)))


def _around(cells: Cells) -> Cells:
    """Sums over the 3 x 3 cells around each."""
    padded = np.pad(cells, 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return np.asarray(windows.sum(axis=(2, 3)))
