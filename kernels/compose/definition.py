"""What Compose computes, in NumPy and OpenCV; compose.h and compose_cpu.cpp compute the same.

Classes are decided by whole numbers. Colours are float32, in the order of operations of the C++.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import BACKGROUND, GARMENT, LOWER, SKIN, Size, border_width
from garment_transfer.kernels.fit import (
    BITS,
    Fit,
    Pixels,
    Taps,
    Whole,
    lerp,
    nearest,
    shrink,
    window_taps,
)

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]

# What a transfer may draw anew: hair, face and legs stay, as the graph contract says.
_DRAWN: Final = (BACKGROUND, SKIN, GARMENT, LOWER)

# What the scores of a pixel sum to: 255, and four bits more for what lies between two pixels.
_UNIT: Final = 16 * 255

# 256 times a Gaussian of 0.8 pixels, which turns the stairs of a label border into a curve.
_BLUR: Final = (6, 58, 128, 58, 6)

# The transfer's own classes count this far, in pixels of the bundle's size, around what it changed:
# nearer, the person's old border would pull the new one to itself.
_CHANGED_REACH: Final = 2

# The share that another class has in a pixel, in parts of this.
_WHOLE: Final = 256

# The sampled garment fades into the graph's own between these shares of the owner's mask.
_WEAK, _STRONG = np.float32(0.25), np.float32(0.75)

# A region's colour is the graphs' in it where it has at least this share of what is around.
_LEAST_SHARE: Final = np.float32(1e-3)

# By how many pixels of the frame the owner's garment is extended over what is around it.
_EXTENDED: Final = 2

# Above this many owner's pixels per person's pixel, bilinear sampling alone would skip some.
_MINIFYING: Final = 1.5

# Classes whose painted pixels get the photo's grain: the graphs' picture is the blurrier one.
_GRAINED: Final = (SKIN, LOWER)

# Sides of a patch of grain in pixels of the photo, the best first; how many are compared, and the
# largest difference of a level that is still grain.
_PATCH_SIDES: Final = (32, 16)
_PATCHES: Final = 9
_MOST_GRAIN: Final = 4

# Classes whose painted border takes the colour of what is inside it: the colours that the graphs'
# picture has there lie between both classes, and would be a rim of three pixels of a large photo.
_CLEANED: Final = (SKIN, LOWER)

# The fewest pixels of the frame, one above the other, that a lower garment is continued from; they
# touch no other class, and within `border_width` of them nothing changed.
_LEAST_RUN: Final = 8
# Where the runs of two neighbouring columns differ by at most so many pixels, the mirror's line is
# interpolated between them.
_SMOOTH: Final = 2

# Plain background: within so many pixels of the frame, every other one is looked at; the standard
# deviation up to which it is plain, and from which on it is not at all; how many pixels are enough.
_PLAIN_REACH: Final = 6
_PLAIN_STEP: Final = 2
_PLAIN, _UNEVEN = np.float32(4), np.float32(8)
_PLAIN_COUNT: Final = 12

# What stands for a flow that is not finite, in pixels: off every photo, so that the graph's own
# garment shows there.
_FAR: Final = 1e5


class Composed(NamedTuple):
    """A finished photo.

    Attributes:
        image: uint8 RGB [H,W,3].
        parsing: uint8 [H,W], ids of the seven classes.
        warped_garment: uint8 RGB [H,W,3], 0 outside the garment; None where it was not wanted.
    """

    image: Pixels
    parsing: Pixels
    warped_garment: Pixels | None


class _Places(NamedTuple):
    """n pixels of the photo's window, and where they lie in the frame.

    Attributes:
        pixels: [n], counted row by row.
        corners: four of [n], the surrounding pixels of the part of the frame that is the box,
            counted row by row: upper left, lower left, upper right, lower right.
        part: y and x, [n,1] whole numbers.
        place: x and y, float32 [n].
    """

    pixels: Places
    corners: tuple[Places, ...]
    part: tuple[Whole, Whole]
    place: tuple[Floats, Floats]

    def some(self, chosen: Places) -> _Places:
        """Those that are chosen."""
        return _Places(
            self.pixels[chosen],
            tuple(corner[chosen] for corner in self.corners),
            (self.part[0][chosen], self.part[1][chosen]),
            (self.place[0][chosen], self.place[1][chosen]),
        )

    def whole(self, field: Whole) -> Whole:
        """A field of whole numbers [h*w,C] between its pixels, [n,C]."""
        a, b, c, d = (field[corner] for corner in self.corners)
        return lerp(lerp(a, b, self.part[0]), lerp(c, d, self.part[0]), self.part[1])

    def mixed(self, field: Floats) -> Floats:
        """A field of colours [h*w,C] between its pixels, [n,C]."""
        y, x = (part.astype(np.float32) * np.float32(2.0**-BITS) for part in self.part)
        a, b, c, d = (field[corner] for corner in self.corners)
        return _mix(_mix(a, b, y), _mix(c, d, y), x)


def _mix(first: Floats, second: Floats, part: Floats) -> Floats:
    return first + (second - first) * part


def define(
    given: Mapping[str, Pixels | None],
    fit: Fit,
    owner_fit: Fit,
    flow: Floats,
    with_garment: bool,
) -> Composed:
    """The definition of `compose.compose`, whose arrays `given` has by the names of the C call."""
    pictures = {name: array for name, array in given.items() if array is not None}
    window = fit.window
    photo, own = pictures["photo"][window], pictures["own"][window]
    stays = pictures["kept"][window] > 0 if "kept" in pictures else np.zeros(own.shape, bool)
    of_frame = pictures.keys() & {"image", "parsing", "warped", "scores"}
    frame = {name: np.ascontiguousarray(fit.crop(pictures[name])) for name in of_frame}
    flow = np.clip(np.nan_to_num(flow, nan=_FAR), -_FAR, _FAR)
    rows, columns = window_taps(fit)

    # which class, and which share of which other one
    before = nearest(fit, pictures["own"])
    differs = (before != frame["parsing"]).astype(np.uint8)
    changed: Pixels = cv2.dilate(
        differs,
        np.ones((2 * _CHANGED_REACH + 1,) * 2, np.uint8),
    ).astype(np.uint8, copy=False)
    frame["image"] = _clean_borders(frame, _plain_background(frame, changed > 0), changed > 0)
    places = _places(rows, columns, fit.scaled.width, ~stays & np.isin(own, _DRAWN), changed)
    fields = _scores(frame, changed > 0)
    parsing = np.array(own, order="C")
    other, share = np.zeros_like(parsing), np.zeros(parsing.shape, np.int64)
    chosen = _choose(places.whole(fields), parsing.ravel()[places.pixels], _sharpness(fit))
    np.put(parsing, places.pixels, chosen[0])
    np.put(other, places.pixels, chosen[1])
    np.put(share, places.pixels, chosen[2])

    # which pixels get another colour than the photo's
    gone = (own != BACKGROUND) & (parsing != own)
    side = 2 * _in_photo(border_width(fit.target.height), fit) + 1
    vanished = cv2.dilate(gone.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    rim = vanished & np.isin(own, (BACKGROUND, SKIN, LOWER))
    drawn = ((parsing != own) | (parsing == GARMENT) | rim) & ~stays
    places = _places(rows, columns, fit.scaled.width, drawn)

    side = 2 * border_width(fit.target.height) + 1
    clear = cv2.dilate(differs, np.ones((side, side), np.uint8)) == 0
    lower = cv2.erode((before == LOWER).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    runs = _runs(clear & lower)
    grains = {
        label: _grain(pictures["photo"], (before == label) & (frame["parsing"] == label), fit)
        for label in _GRAINED
    }

    def colours(labels: Pixels, places: _Places) -> Floats:
        """Those of each pixel's class in `labels` [n], float32 [n,3]."""
        result = np.empty((len(labels), 3), np.float32)
        for label in _DRAWN:
            chosen = np.flatnonzero(labels == label)
            here = places.some(chosen)
            if label == GARMENT:
                result[chosen] = _garment(pictures, frame, here, fit, owner_fit, flow)
            else:
                kept = (own.ravel()[here.pixels] == label) & ~vanished.ravel()[here.pixels]
                result[chosen[kept]] = photo.reshape(-1, 3)[here.pixels[kept]]
                painted = np.flatnonzero(~kept)
                result[chosen[painted]] = _painted(frame, label, here.some(painted))
                y, x = np.divmod(here.pixels[painted], own.shape[1])
                y, x = y + window[0].start, x + window[1].start
                grain = grains.get(label)
                if grain is not None:
                    result[chosen[painted]] += grain[_scattered(y, x, len(grain))]
                if label == LOWER:
                    source = _continued(runs, rows, columns, fit, y, x, pictures["own"])
                    found = source >= 0
                    result[chosen[painted[found]]] = pictures["photo"][source[found], x[found]]
        return result

    labels = parsing.ravel()[places.pixels]
    found = colours(labels, places)
    whole = Composed(
        np.array(pictures["photo"], order="C"),
        np.array(pictures["own"], order="C"),
        np.zeros_like(pictures["photo"], order="C") if with_garment else None,
    )
    if whole.warped_garment is not None:
        worn = np.flatnonzero(labels == GARMENT)
        _put(whole.warped_garment[window], places.pixels[worn], found[worn])
    shares = share.ravel()[places.pixels]
    mixed = np.flatnonzero(shares)
    beside = colours(other.ravel()[places.pixels[mixed]], places.some(mixed))
    part = shares[mixed, None].astype(np.float32) * np.float32(1 / _WHOLE)
    found[mixed] = _mix(found[mixed], beside, part)
    _put(whole.image[window], places.pixels, found)
    whole.parsing[window] = parsing
    return whole


def _put(picture: Pixels, index: Places, colours: Floats) -> None:
    """Puts colours [n,3] into a picture [H,W,3] at pixels that are counted row by row."""
    rounded = (np.clip(colours, 0, 255) + np.float32(0.5)).astype(np.uint8)
    picture[np.divmod(index, picture.shape[1])] = rounded


def _places(
    rows: Taps,
    columns: Taps,
    width: int,
    wanted: npt.NDArray[np.bool_],
    changed: Pixels | None = None,
) -> _Places:
    """The pixels that are wanted, bool [H,W], and have a changed one of the frame around.

    `width` is that of the part of the frame that is the box.
    """
    if changed is not None:
        either = changed[rows.first] | changed[rows.second]
        wanted = wanted & ((either[:, columns.first] | either[:, columns.second]) > 0)
    index = np.flatnonzero(wanted)
    y, x = np.divmod(index, wanted.shape[1])
    corners = [
        row[y] * width + column[x]
        for column in (columns.first, columns.second)
        for row in (rows.first, rows.second)
    ]
    along_x, along_y = (
        axis.base.astype(np.float32) + axis.part.astype(np.float32) * np.float32(2.0**-BITS)
        for axis in (columns, rows)
    )
    return _Places(
        index,
        tuple(corners),
        (rows.part[y, None], columns.part[x, None]),
        (along_x[x], along_y[y]),
    )


def _plain_background(frame: Mapping[str, Pixels], changed: npt.NDArray[np.bool_]) -> Pixels:
    """The graphs' image with a plain background's own colour where they painted it.

    Their colours are a little off there, which a plain wall shows as a rim around the garment.
    What is around says how plain the background is, and its colour, where the photo shows it.
    """
    image, label = frame["image"], frame["parsing"] == BACKGROUND
    known = label & ~changed
    shown = image * known[..., None]
    kernel = np.zeros((2 * _PLAIN_REACH + 1,) * 2)
    kernel[::_PLAIN_STEP, ::_PLAIN_STEP] = 1
    sums, squares = (
        # whole numbers, which a filter by way of frequencies leaves a little beside
        np.rint(cv2.filter2D(layer, -1, kernel, borderType=cv2.BORDER_CONSTANT))
        for layer in (
            np.dstack([shown, known]).astype(np.float64),
            np.square(shown.astype(np.float64)).sum(axis=2),
        )
    )
    painted = label & changed & (sums[..., 3] > 0)
    count = sums[painted, 3].astype(np.float32)
    means = sums[painted, :3].astype(np.float32) / count[:, None]
    variance = squares[painted].astype(np.float32) / count
    for channel in range(3):
        variance -= np.square(means[:, channel])
    deviation = np.sqrt(np.maximum(variance, 0) / np.float32(3))
    weight = ((_UNEVEN - deviation) / (_UNEVEN - _PLAIN)).clip(0, 1)
    weight *= np.minimum(count / np.float32(_PLAIN_COUNT), 1)
    result = image.copy()
    found = _mix(image[painted].astype(np.float32), means, weight[:, None])
    result[painted] = (found + np.float32(0.5)).astype(np.uint8)
    return result


def _clean_borders(
    frame: Mapping[str, Pixels], image: Pixels, changed: npt.NDArray[np.bool_]
) -> Pixels:
    """The graphs' image without what shines into a class from another one beside it.

    A pixel that touches another class takes the mean of those around it that are of its own class
    and touch no other.
    """
    result = image.copy()
    for label in _CLEANED:
        own = (frame["parsing"] == label).astype(np.uint8)
        inner = cv2.erode(own, np.ones((3, 3), np.uint8))
        layers = np.dstack([image * inner[..., None], inner])
        sums = cv2.boxFilter(
            layers, cv2.CV_32S, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT
        )
        count = sums[..., 3]
        border = changed & (own > inner) & (count > 0)
        total, n = sums[border, :3], count[border, None]
        result[border] = (2 * total + n) // (2 * n)
    return result


def _scores(frame: Mapping[str, Pixels], changed: npt.NDArray[np.bool_]) -> Whole:
    """How much each drawn class, and the class that the person has, claim pixels: [h*w,5].

    Where the transfer changed nothing nearby all is the person's, so that the classes at the
    photo's size stay what they are.
    """
    if "scores" in frame:
        scores = 16 * frame["scores"].astype(np.int32)
    else:
        scores = _UNIT * (frame["parsing"][..., None] == _DRAWN).astype(np.int32)
        weights = np.array([_BLUR], np.float64)
        for kernel in (weights, weights.T):
            blurred = cv2.filter2D(
                scores.astype(np.float64), -1, kernel, borderType=cv2.BORDER_REPLICATE
            )
            scores = (blurred.astype(np.int32) + 128) >> 8
    scores *= changed[..., None]
    own = np.maximum(_UNIT - scores.sum(axis=2, keepdims=True), 0)
    return np.concatenate([scores, own], axis=2).reshape(-1, 5)


def _choose(scores: Whole, own: Pixels, sharpness: int) -> tuple[Pixels, Pixels, Whole]:
    """The class of the highest score, the next one, and its share in the pixel's colour.

    `scores` are [n,5] and `own` [n]. The share falls from a half to nothing with the lead of the
    first, over about a pixel of the photo.
    """
    n = np.arange(len(scores))
    person = scores[:, 4]
    scores[n, np.searchsorted(_DRAWN, np.arange(256))[own]] += person
    order = np.argsort(-scores[:, :4], axis=1, kind="stable")[:, :2]
    best, second = np.take_along_axis(scores, order, axis=1).T
    lead = np.minimum(best - second, 2 * _UNIT)
    share = np.maximum(_WHOLE // 2 - ((lead * sharpness + (1 << 15)) >> 16), 0)
    label, other = np.array(_DRAWN, np.uint8)[order].T
    return label, other, share


def _sharpness(fit: Fit) -> int:
    """How fast a share falls with the lead, in 2**-16: with the pixels of the photo per frame's."""
    large, small = max(_ratios(fit), key=lambda ratio: ratio[0] / ratio[1])
    steepest = 63  # beyond it products of 32 bits overflow
    least = (_WHOLE << 16) // _UNIT
    found = (_WHOLE << 16) * large // (_UNIT * small)
    return min(max(found, least), steepest * (_WHOLE << 16) // _UNIT)


def _in_photo(radius: int, fit: Fit) -> int:
    """`radius` pixels of the frame in pixels of the photo, halves rounded up, or all of it."""
    large, small = _least_ratio(fit)
    longest = max(fit.source.height, fit.source.width)
    return min((2 * radius * large + small) // (2 * small), longest)


def _least_ratio(fit: Fit) -> tuple[int, int]:
    """The lesser of `_ratios`."""
    return min(_ratios(fit), key=lambda ratio: ratio[0] / ratio[1])


def _ratios(fit: Fit) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels of the photo per pixel of the frame along both axes, as fractions."""
    return (fit.shown.width, fit.scaled.width), (fit.shown.height, fit.scaled.height)


def _painted(frame: Mapping[str, Pixels], label: int, places: _Places) -> Floats:
    """The graphs' colours of a class with nothing of another in them, float32 [n,3].

    Out of the class's reach whatever the graphs have there.
    """
    image = frame["image"].reshape(-1, 3).astype(np.float32)
    inside = (frame["parsing"].reshape(-1, 1) == label).astype(np.float32)
    source = frame["warped"].reshape(-1, 3) if label == GARMENT else image
    found = places.mixed(np.concatenate([source * inside, inside], axis=1))
    share = found[:, 3:]
    colours = np.asarray(found[:, :3] / np.maximum(share, _LEAST_SHARE), np.float32)
    beyond = np.flatnonzero(share <= _LEAST_SHARE)
    colours[beyond] = places.some(beyond).mixed(image)
    return colours


def _runs(seen: npt.NDArray[np.bool_]) -> Whole:
    """Of each pixel [h,w] the first run of seen ones in its column, from it downwards, [h,w,2].

    That is its first row and the one behind its last; equal where there is none.
    """
    runs = np.zeros((*seen.shape, 2), np.int32)
    run = np.zeros((seen.shape[1], 2), np.int32)
    for i in range(len(seen) - 1, -1, -1):
        run[seen[i] & (run[:, 0] != i + 1), 1] = i + 1
        run[seen[i], 0] = i
        runs[i] = run
    return runs


def _continued(
    runs: Whole, rows: Taps, columns: Taps, fit: Fit, y: Places, x: Places, own: Pixels
) -> Places:
    """The row of the photo in whose place each painted pixel of the lower garment is, or -1.

    What is uncovered goes on as what is seen below it in its column does, there and back, as in a
    mirror: at the photo's size the graphs' picture would be a flat band.

    Args:
        runs: those of the part of the frame that is the box.
        rows, columns: where the window's pixels lie in it.
        fit: where the photo lies in the frame.
        y, x: of the painted pixels, in the photo, [n].
        own: uint8 [H,W], the photo's classes.
    """
    half = 1 << (BITS - 1)
    i, j = y - fit.window[0].start, x - fit.window[1].start
    near = np.where(rows.part[i] < half, rows.first[i], rows.second[i])
    part = columns.part[j]
    one, other = runs[near, columns.first[j]], runs[near, columns.second[j]]
    alone = np.where((part < half)[:, None], one, other)
    smooth = (np.diff(one) >= _LEAST_RUN) & (np.diff(other) >= _LEAST_RUN)
    smooth = smooth[:, 0] & (np.abs(one - other) <= _SMOOTH).all(axis=1)

    def edge(run: Whole) -> Whole:
        """Rows of the photo where those of the frame begin."""
        large, small = fit.shown.height, fit.scaled.height
        begins = fit.shown.top + (run.astype(np.int64) * large + small - 1) // small
        return begins.astype(np.int32)

    between = lerp(edge(one), edge(other), part[:, None])
    top, bottom = np.where(smooth[:, None], between, edge(alone)).astype(np.int64).T
    length = np.maximum(bottom - top, 1)
    offset = (top - 1 - y) % (2 * length)
    source = top + np.where(offset < length, offset, 2 * length - 1 - offset)
    found = (np.diff(alone)[:, 0] >= _LEAST_RUN) & (source >= 0) & (source < len(own))
    found[found] &= own[source[found], x[found]] == LOWER
    return np.where(found, source, -1)


def _grain(photo: Pixels, seen: npt.NDArray[np.bool_], fit: Fit) -> Floats | None:
    """What a patch of the photo has that the frame is too small for, float32 [n,3] in levels.

    That is how far its n pixels are from the mean over a pixel of the frame around. Of the patches
    that lie in a class, some are looked at, and a calm one is taken, which has grain and no edges.
    None where the photo is hardly larger than the frame, or no patch fits in.

    Args:
        photo: uint8 RGB [H,W,3].
        seen: bool [h,w] of the part of the frame that is the box: the class is there and stays.
        fit: where the photo lies in the frame.
    """
    large, small = _least_ratio(fit)
    if 2 * large < 3 * small:
        return None
    for side in _PATCH_SIDES:
        cells = (side * small + large - 1) // large + 2  # a pixel of the class around the patch
        within = cv2.erode(
            seen.astype(np.uint8),
            np.ones((cells, cells), np.uint8),
            anchor=(0, 0),
            borderType=cv2.BORDER_CONSTANT,
            borderValue=0.0,
        )
        found = np.flatnonzero(within)
        if len(found):
            break
    else:
        return None
    radius = _in_photo(1, fit)
    area = (2 * radius + 1) ** 2
    patches = []
    for index in found[np.arange(_PATCHES) * (len(found) - 1) // (_PATCHES - 1)].tolist():
        i, j = divmod(index, seen.shape[1])
        top = fit.shown.top + (i + 1) * fit.shown.height // fit.scaled.height - radius
        left = fit.shown.left + (j + 1) * fit.shown.width // fit.scaled.width - radius
        rows, columns = (
            np.arange(start, start + side + 2 * radius).clip(0, length - 1)
            for start, length in ((top, photo.shape[0]), (left, photo.shape[1]))
        )
        patch = photo[rows[:, None], columns]
        # whole numbers, which float64 holds exactly
        sums = cv2.boxFilter(patch, cv2.CV_64F, (2 * radius + 1,) * 2, normalize=False)
        inner = np.s_[radius : radius + side, radius : radius + side]
        mean = (2 * sums[inner].astype(np.int64) + area) // (2 * area)
        patches.append((patch[inner] - mean).clip(-_MOST_GRAIN, _MOST_GRAIN))
    amounts = [int(np.abs(patch).sum()) for patch in patches]
    calm = np.argsort(amounts, kind="stable")[_PATCHES // 3]
    return patches[calm].astype(np.float32).reshape(-1, 3)


def _scattered(y: Places, x: Places, count: int) -> Places:
    """Which of `count` differences a pixel gets: any, so that nothing of the patch is repeated."""
    mixed = y.astype(np.uint32) * np.uint32(0x9E3779B1) + x.astype(np.uint32) * np.uint32(
        0x85EBCA77
    )
    mixed = (mixed ^ (mixed >> 15)) * np.uint32(0x2C1B3C6D)
    return (mixed ^ (mixed >> 13)).astype(np.intp) % count


def _garment(
    pictures: Mapping[str, Pixels],
    frame: Mapping[str, Pixels],
    places: _Places,
    fit: Fit,
    owner_fit: Fit,
    flow: Floats,
) -> Floats:
    """The garment, float32 [n,3], of its owner's photo where that shows it, else the graphs'.

    The photo is premultiplied by the owner's garment mask, so that no background bleeds in. The
    mask is a pixel of the bundle's size narrower than the garment's map, whose border shows some of
    what is around it, and from there on the garment is extended, as flows end beside it too; where
    they end farther off the garment's share falls to 0.
    """
    mask = (pictures["owner_garment"] > 0).astype(np.uint8)
    if not mask.any():
        return _painted(frame, GARMENT, places)
    left, top, width, height = cv2.boundingRect(mask)
    side = 2 * _in_photo(1, owner_fit) + 1
    inner = np.asarray(cv2.erode(mask, np.ones((side, side), np.uint8)), np.uint8)
    mask = inner if inner.any() else mask
    reach = _in_photo(_EXTENDED, owner_fit)
    bottom, right = (
        min(top + height + reach, mask.shape[0]),
        min(left + width + reach, mask.shape[1]),
    )
    top, left = max(top - reach, 0), max(left - reach, 0)
    height, width = bottom - top, right - left
    layers = _extended(
        pictures["owner_photo"][top:bottom, left:right], mask[top:bottom, left:right], reach
    )

    # from the person's frame to the owner's photo, to its part in the layers, to their pixels
    starts = (
        (fit.left, owner_fit.left, owner_fit.shown.left - left),
        (
            fit.top,
            owner_fit.top,
            owner_fit.shown.top - top,
        ),
    )
    scales = [large / small for large, small in _ratios(owner_fit)]
    shifts = [
        (to - from_ + 0.5) * scale - 0.5 + start
        for (to, from_, start), scale in zip(starts, scales, strict=True)
    ]
    step = _owner_pixels_per_pixel(fit, owner_fit, pictures["parsing"], flow)
    if step > _MINIFYING:
        small = Size(*(max(1, math.floor(length / step + 0.5)) for length in (height, width)))
        layers = shrink(layers, small)
        ratios = small.width / width, small.height / height
        scales = [scale * ratio for scale, ratio in zip(scales, ratios, strict=True)]
        shifts = [(shift + 0.5) * ratio - 0.5 for shift, ratio in zip(shifts, ratios, strict=True)]
    moved = places.mixed(fit.crop(flow.transpose(1, 2, 0)).reshape(-1, 2))
    x, y = (
        ((place + moved[:, axis]) * np.float32(scales[axis]) + np.float32(shifts[axis])).clip(
            -1, layers.shape[1 - axis]
        )
        for axis, place in enumerate(places.place)
    )

    # a pixel of nothing before and two behind, so that no place is outside
    padded = np.pad(layers, ((1, 2), (1, 2), (0, 0)))
    whole_x, whole_y = np.floor(x), np.floor(y)
    first = (whole_y.astype(np.intp) + 1) * padded.shape[1] + whole_x.astype(np.intp) + 1
    pixels = padded.reshape(-1, 4)
    a, b, c, d = (
        pixels[first + offset].astype(np.float32)
        for offset in (0, padded.shape[1], 1, padded.shape[1] + 1)
    )
    part_x, part_y = (x - whole_x)[:, None], (y - whole_y)[:, None]
    found = _mix(_mix(a, b, part_y), _mix(c, d, part_y), part_x)
    share = found[:, 3:] * np.float32(1 / 255)
    opacity = ((share - _WEAK) * np.float32(1 / (_STRONG - _WEAK))).clip(0, 1)
    colours = np.asarray(found[:, :3] / np.maximum(share, _WEAK), np.float32)
    weak = np.flatnonzero(opacity < 1)
    painted = _painted(frame, GARMENT, places.some(weak))
    colours[weak] = _mix(painted, colours[weak], opacity[weak])
    return colours


def _extended(photo: Pixels, mask: Pixels, reach: int) -> Pixels:
    """A photo's garment in premultiplied RGBA [h,w,4], extended by `reach` pixels.

    A pixel beside the mask [h,w] takes the colour of the nearest one in its row or column.
    """
    far = 2 * sum(mask.shape) + reach  # of the nearest one where there is none
    y, x = np.indices(mask.shape)
    worn = mask > 0
    before, above = (
        np.maximum.accumulate(np.where(worn, places, -far), axis=axis)
        for places, axis in ((x, 1), (y, 0))
    )
    behind, below = (
        np.flip(np.minimum.accumulate(np.flip(np.where(worn, places, far), axis), axis), axis)
        for places, axis in ((x, 1), (y, 0))
    )
    distances = np.stack([x - before, behind - x, y - above, below - y])
    way, nearest = distances.argmin(axis=0), distances.min(axis=0)
    rows = np.choose(way, [y, y, above, below]).clip(0, mask.shape[0] - 1)
    columns = np.choose(way, [before, behind, x, x]).clip(0, mask.shape[1] - 1)
    alpha = np.where(nearest <= reach, np.uint8(1), np.uint8(0))[..., None]
    return np.concatenate([photo[rows, columns] * alpha, 255 * alpha], axis=2)


def _owner_pixels_per_pixel(fit: Fit, owner_fit: Fit, parsing: Pixels, flow: Floats) -> float:
    """How many pixels of the owner's photo one pixel of the person's spans in the garment.

    The median over the garment of the length scale of p + flow(p), times the scales of the fits.
    """
    region = parsing == GARMENT
    if not region.any() or min(parsing.shape) < 2:
        return 1.0
    dx_dy, dx_dx = np.gradient(flow[0])
    dy_dy, dy_dx = np.gradient(flow[1])
    areas = np.abs((1 + dx_dx) * (1 + dy_dy) - dx_dy * dy_dx)[region]
    middle = len(areas) // 2
    stretch = math.sqrt(np.partition(areas, middle)[middle])
    scale, owner_scale = (s[0] * s[1] for s in (fit.scale, owner_fit.scale))
    return stretch * math.sqrt(scale / owner_scale)
