"""Whose body a photo is about, and what in it stays whatever is worn: others, and things in front.

DensePose says where the person is. What a parse map shows of somebody else, or of a thing in front
of the body, takes no part in a transfer: the networks never see it, and its pixels stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    BACKGROUND,
    CLASSES,
    GARMENT,
    LOWER,
    SKIN,
    Code,
    InputError,
    Size,
)
from garment_transfer.kernels.fit import Box
from garment_transfer.runtime.photos._densepose import (
    HANDS,
    HEAD,
    LIMBS,
    TORSO,
    UPPER_LEGS,
    of_nearest,
)
from garment_transfer.runtime.photos._fit import is_any, resize, resize_map

_Mask = npt.NDArray[np.bool_]

# Bodies, and somebody else's pixels, are looked for at about this many pixels along the shorter
# side; borders between two people at twice as many.
_SIDE: Final = 256

#: Of garments in rough maps, in pixels of a map of that size: how far their borders may be off, and
#: how far around a pixel colours are compared. Colours are apart from so many grey levels on, and
#: alike within so much of the distance between garment and surroundings.
_ROUGH: Final = 3
_AROUND: Final = 6
_APART: Final = 40
_ALIKE: Final = 0.3

# A torso or a head smaller than this share of the largest one is a passer-by far behind, or a
# piece that an arm cut off: nobody to choose.
_CANDIDATE: Final = 0.3

# Of the torso, the share of its back from which on somebody is seen from the side, or from behind.
# Rendered people show 0.2 to 0.6 % of it from the front, 6 at 60 degrees, 20 to 40 from the side;
# photographed ones from the front up to 3.
_SIDEWAYS: Final = 0.15
_BEHIND: Final = 0.5

_CHOOSE: Final = (
    "name it as LEFT,TOP,RIGHT,BOTTOM in pixels of the photo with --person-box, --owner-box, "
    "`prepare --box` or box="
)

# A result cannot be right where more than this share of a covered torso becomes bare, or less than
# that of the garment is left.
_MOST: Final = 0.5
_LEAST: Final = 0.1

# A piece of torso that begins so many widths of the head beside its middle is somebody else's, if
# that is also more than this share of the root of the torso's area: a head may be half hidden.
_SHOULDERS: Final = 1.1
_HALF_WIDTH: Final = 0.4

# A piece of a map of parts of which more is head has a head, not specks of wrong parts.
_HEAD_SHARE: Final = 0.05

# What stands for a person far behind in a map of bodies.
_PASSER_BY: Final = 255

# Lengths below are shares of the root of the torso's area, which is about half its height.
# Clothes of one's own reach so far beyond DensePose: 99 in 100 do not on rendered people, none of
# four photographed ones (0.06 at most).
_REACH: Final = 0.15
# What is so near is one's own, where the photo decides between two people who touch.
_OWN: Final = 0.02
# The least area beyond reach of somebody who touches the person, as a share of the torso's.
_SOMEBODY: Final = 0.05
# Things are at most so wide that the body shows on both sides of them.
_GAP: Final = 0.8
# The least area of a hole in the clothes that is a thing in front of them, as a share of the
# torso's; parsers leave smaller ones by themselves.
_THING: Final = 0.02
# How much of the rim of such a hole is clothes or skin. Where a parser leaves out the neck its hole
# has a face above.
_ENCLOSED: Final = 0.85
# How far the border of a hand may show what is behind it: in any maps, and in maps whose borders
# follow the photo's.
_RIM: Final = 0.03
_EXACT_RIM: Final = 0.008


def check_box(box: Box | None) -> None:
    """Raises InputError where a caller's box is none."""
    if box is None:
        return
    if not isinstance(box, Box):
        found = f"a {type(box).__name__}"
    elif not all(isinstance(side, int | np.integer) for side in astuple(box)):
        found = str(box)
    else:
        return
    raise InputError(
        Code.ARGUMENT_INVALID, f"the box is {found}", expected="Box of whole numbers, or None"
    )


def choose_body(
    iuv: npt.NDArray[np.uint8], box: Box | None, name: str
) -> tuple[npt.NDArray[np.uint8], _Mask]:
    """The DensePose of one person, where it may show several.

    Args:
        iuv: uint8 [H,W,3].
        box: of the person who is meant, roughly; None where there is one alone.
        name: what messages call the map.

    Returns:
        The map of that body alone, `iuv` itself where it shows no other; and where the others are,
        bool [H,W].

    Raises:
        InputError: there are several bodies and no box, or the box holds none.
    """
    check_box(box)
    parts = np.asarray(cv2.extractChannel(iuv, 0), np.uint8)
    step = _step(parts)
    bodies = _bodies(parts[::step, ::step])
    count = int(bodies[bodies < _PASSER_BY].max(initial=0))
    found = [_bounds(bodies == index, step) for index in range(1, count + 1)]
    chosen = 1
    if box is None and count > 1:
        raise InputError(
            Code.BODY_AMBIGUOUS,
            f"{name} shows {count} people, in the boxes {' and '.join(map(str, found))}",
            expected="one, or the box of one of them",
            fix=_CHOOSE,
        )
    if box is not None:
        overlaps = [_overlap(box, each) for each in found]
        if not any(overlaps):
            raise InputError(
                Code.BODY_MISSING,
                f"{name} shows nobody in the box {box}",
                expected=f"one of {' and '.join(map(str, found)) or 'none'}, roughly",
                fix=_CHOOSE,
            )
        chosen = 1 + int(np.argmax(overlaps))
    mine = bodies == chosen
    if np.array_equal(mine, bodies > 0):
        return iuv, np.zeros(parts.shape, bool)
    others = (parts > 0) & ~_enlarged(mine, parts.shape)
    own = iuv.copy()
    own[others] = 0
    return own, others


def somebody_else(
    image: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.uint8],
    parts: npt.NDArray[np.uint8],
    others: _Mask,
) -> _Mask:
    """Where a parse map shows others than the person whom DensePose covers.

    What does not touch the body is somebody else's, and so is much that lies far from it. Where
    that touches the person's own, the border follows the edges of the photo (by the watershed of
    Meyer, 1992, as OpenCV has it).

    Args:
        image: uint8 RGB [H,W,3].
        classes: uint8 [H,W], the seven classes.
        parts: uint8 [H,W], DensePose parts of the person alone.
        others: bool [H,W], where DensePose shows others.

    Returns:
        bool [H,W].
    """
    step = _step(classes)
    marks = classes[::step, ::step] != BACKGROUND
    small = parts[::step, ::step]
    body = (small > 0).astype(np.uint8)
    area = _torso_area(small)
    distance = cv2.distanceTransform(1 - body, cv2.DIST_L2, 3) / math.sqrt(area)
    _, pieces = cv2.connectedComponents(marks.astype(np.uint8))
    near = np.zeros(int(pieces.max()) + 1, bool)
    near[pieces[distance < _OWN]] = True
    near[0] = False
    apart = marks & ~near[pieces]
    _, far = cv2.connectedComponents((marks & ~apart & (distance > _REACH)).astype(np.uint8))
    large = np.bincount(far.ravel()) >= _SOMEBODY * area
    large[0] = False
    touching = large[far] | (others[::step, ::step] & marks & ~apart)
    if not apart.any() and not touching.any():
        return np.zeros(classes.shape, bool)
    found = _enlarged(apart, classes.shape)
    if touching.any():
        side = 2 * round(_RIM * math.sqrt(area)) + 1
        own = cv2.erode(body, np.ones((side, side), np.uint8)) > 0
        found |= _enlarged(_divided(image, marks, own, touching), classes.shape)
    return np.asarray(found & (classes != BACKGROUND) & (parts == 0))


def hands(classes: npt.NDArray[np.uint8], parts: npt.NDArray[np.uint8], is_exact: bool) -> _Mask:
    """Bare hands less their borders, bool [H,W]: no upper garment covers them.

    `is_exact` says that the borders of `classes` follow the photo's.
    """
    found = is_any(parts, HANDS)
    left, top, width, height = cv2.boundingRect(found.view(np.uint8))
    part = (slice(top, top + height), slice(left, left + width))
    rim = _EXACT_RIM if is_exact else _RIM
    side = 2 * round(rim * math.sqrt(_torso_area(parts))) + 1
    if width:
        bare = (found[part] & (classes[part] == SKIN)).astype(np.uint8)
        square = np.ones((side, side), np.uint8)
        found[part] = cv2.erode(bare, square, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    return found


def view_fault(parts: npt.NDArray[np.uint8]) -> str:
    """Why a body cannot be served as it is seen; empty where it can.

    Args:
        parts: uint8 [H,W], DensePose parts of one person.
    """
    step = _step(parts)
    small = parts[::step, ::step]
    back, front = (int(np.count_nonzero(small == part)) for part in TORSO)
    if not back + front:
        return ""
    share = back / (back + front)
    if share > _SIDEWAYS:
        view = "from behind" if share > _BEHIND else "from the side"
        return f"is seen {view}: DensePose has {share:.0%} of the torso as its back (part 1)"
    middles = [m for of in (HEAD, TORSO, UPPER_LEGS) if (m := _middle(small, of))]
    if len(middles) > 1:
        upper, lower = middles[:2]
        if lower[0] - upper[0] < abs(lower[1] - upper[1]):
            return "does not stand upright: the head is not above the torso"
    return ""


def check_plausible(
    inputs: Mapping[str, npt.NDArray[np.uint8]], transfer_parsing: npt.NDArray[np.uint8], who: str
) -> None:
    """Raises InputError where the networks' answer cannot be right, whatever people wear.

    Args:
        inputs: of the graphs for one pair, by the contract's names, without a batch axis.
        transfer_parsing: what they answer, uint8 [h,w].
        who: what messages call the pair.
    """
    person, owner = inputs["person_parsing"], inputs["garment_parsing"]
    torso, owner_torso = (
        np.isin(inputs[f"{role}_densepose"][..., 0], TORSO) for role in ("person", "garment")
    )
    if not torso.any() or not owner_torso.any():
        return
    reason = ""
    bare = (transfer_parsing == SKIN)[torso].mean()
    clothed = np.isin(person, (GARMENT, LOWER))[torso].mean()
    owners = (owner == GARMENT)[owner_torso].mean()
    size = np.count_nonzero(transfer_parsing == GARMENT) / np.count_nonzero(torso)
    due = np.count_nonzero(owner == GARMENT) / np.count_nonzero(owner_torso)
    if min(bare, clothed, owners) > _MOST:
        reason = (
            f"would bare {bare:.0%} of a torso of which {clothed:.0%} was covered, in a garment "
            f"that covers {owners:.0%} of its owner's"
        )
    elif size < _LEAST * due:
        reason = f"would show {size / due:.0%} of the owner's garment"
    if reason:
        raise InputError(
            Code.TRANSFER_IMPLAUSIBLE,
            f"the transfer{who} {reason}, which cannot be right",
            expected="maps that belong to their photos, of people seen from the front",
            fix="look at parse map and DensePose beside the photo of each, and check label set and "
            "encoding",
        )


def _middle(parts: npt.NDArray[np.uint8], of: tuple[int, ...]) -> tuple[float, float] | None:
    """Row and column of the middle of some parts; None where there are none."""
    rows, columns = np.nonzero(is_any(parts, of))
    return (float(rows.mean()), float(columns.mean())) if len(rows) else None


def _torso_area(parts: npt.NDArray[np.uint8]) -> float:
    """Pixels of the torso, or a quarter of the body where things hide it."""
    torso, body = (int(np.count_nonzero(each)) for each in (is_any(parts, TORSO), parts))
    return max(torso, body / 4, 1.0)


def _divided(image: npt.NDArray[np.uint8], marks: _Mask, own: _Mask, others: _Mask) -> _Mask:
    """Where, of two people who touch, the other is, at twice the size of the masks."""
    height, width = marks.shape
    small = np.zeros(marks.shape, np.uint8)
    small[own], small[others], small[~marks] = 1, 2, 3
    seeds = np.kron(small, np.ones((2, 2), np.uint8))
    divided = cv2.watershed(resize(image, Size(2 * height, 2 * width)), seeds.astype(np.int32))
    # what the watershed draws as the line between two is nobody's: it stays
    return np.asarray(((divided == 2) | (divided == -1)) & (seeds % 2 == 0))


def in_front(
    classes: npt.NDArray[np.uint8], iuv: npt.NDArray[np.uint8], things: _Mask
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], _Mask]:
    """Things in front of a person, and the maps beneath them.

    Args:
        classes: uint8 [H,W], the seven classes.
        iuv: uint8 [H,W,3], DensePose of the person.
        things: bool [H,W], where the parser says so.

    Returns:
        The maps, with what the nearest part of body and clothes has where a thing hides them, and
        where the things are, bool [H,W].
    """
    holes = _holes(classes, iuv[..., 0])
    found = things if holes is None else things | holes
    if not found.any():
        return classes, iuv, found
    beneath = np.where(found, np.uint8(BACKGROUND), classes)
    body = iuv[..., 0] > 0
    # what lies between two parts of the body lies in front of it, though DensePose has a hole there
    side = 2 * round(_GAP * math.sqrt(_torso_area(iuv[..., 0])) / 2) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    closed = cv2.morphologyEx(body.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0
    hidden = found & closed
    known = body & (beneath != BACKGROUND)
    if known.any():
        beneath[hidden] = of_nearest(classes, known)[hidden]
        iuv = iuv.copy()
        missing = hidden & ~body
        iuv[missing] = of_nearest(iuv, body)[missing]
    return beneath, iuv, found


def drop_not_worn(
    image: npt.NDArray[np.uint8], classes: npt.NDArray[np.uint8], things: _Mask
) -> None:
    """Takes from the garment of a rough parse map what lies beside it, by its colour.

    That is a gap between sleeve and torso, or the trousers beside a cuff: pixels near the garment's
    border whose colour is the mean of what is around the garment, far from the mean of the
    garment inside its border, and no part of its pattern (beyond three standard deviations). What
    it also takes is a hem or a cuff of the wall's own colour, up to a sixtieth of the photo wide.

    Args:
        image: uint8 RGB [H,W,3].
        classes: uint8 [H,W], the seven classes; such pixels get the nearest other one.
        things: bool [H,W], what lies in front, whose colours do not count.
    """
    if min(classes.shape) < _SIDE // 2:
        return  # a pixel is too large for colours to tell
    step = _step(classes)
    seen = (classes[::step, ::step] == GARMENT) & ~things[::step, ::step]
    garment = seen.astype(np.uint8)
    left, top, width, height = cv2.boundingRect(garment)
    if not height:
        return
    # the box, and as much around it as counts
    top, left = (max(0, first - _AROUND) for first in (top, left))
    box = np.s_[top : top + height + 2 * _AROUND, left : left + width + 2 * _AROUND]
    small = np.ascontiguousarray(classes[::step, ::step][box])
    garment = np.ascontiguousarray(garment[box])
    photo = np.ascontiguousarray(image[::step, ::step][box])
    inside = np.asarray(cv2.erode(garment, np.ones((2 * _ROUGH + 1,) * 2, np.uint8)), np.uint8)
    outside = np.asarray(1 - cv2.dilate(garment, np.ones((3, 3), np.uint8)), np.uint8)
    side = (2 * _AROUND + 1,) * 2

    def sums(values: npt.NDArray[np.uint8], squares: bool = False) -> npt.NDArray[np.float32]:
        """Over the square around every pixel: whole numbers, which float32 holds exactly."""
        of = cv2.sqrBoxFilter if squares else cv2.boxFilter
        found = of(values, cv2.CV_32F, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(found, np.float32)

    inner, outer = sums(inside), sums(outside)
    at = np.nonzero((garment > 0) & (inner > 0) & (outer > 0))
    count, beside_count = (each[at][:, None].astype(np.float64) for each in (inner, outer))
    worn = photo * inside[..., None]
    mean = sums(worn)[at] / count
    variance = sums(worn, squares=True)[at] / count - mean * mean
    beside = sums(photo * outside[..., None])[at] / beside_count
    pixel, apart = photo[at].astype(np.float64), mean - beside
    distance = (apart * apart).sum(axis=1)
    along = ((mean - pixel) * apart).sum(axis=1)
    near = ((pixel - beside) ** 2).sum(axis=1) < _ALIKE**2 * distance
    # channels of a pattern go together, so that their deviations add up
    spread = (np.abs(apart) * np.sqrt(np.maximum(variance, 0))).sum(axis=1)
    odd = along > 3 * spread
    found = near & odd & (distance > _APART**2)
    if not found.any():
        return
    marks = np.full(garment.shape, GARMENT, np.uint8)
    marks[at] = np.where(found, of_nearest(small, outside > 0)[at], np.uint8(GARMENT))
    large = marks.repeat(step, axis=0).repeat(step, axis=1)
    y, x = top * step, left * step
    part = classes[y : y + len(large), x : x + len(large[0])]
    height, width = part.shape
    np.copyto(part, large[:height, :width], where=part == GARMENT)


def uncovered(
    image: npt.NDArray[np.uint8], classes: npt.NDArray[np.uint8], things: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """A photo with the garment's own colours where things hide it: a bag is no part of its pattern.

    Args:
        image: uint8 RGB [h,w,3].
        classes: uint8 [h,w], the seven classes, those beneath the things.
        things: uint8 [h,w], 1 where things are.
    """
    garment = classes == GARMENT
    # a pixel more, where the scaled photo shows some of the thing
    hidden = garment & (cv2.dilate(things, np.ones((3, 3), np.uint8)) > 0)
    shown = garment & ~hidden
    if not hidden.any() or not shown.any():
        return image
    image = image.copy()
    image[hidden] = of_nearest(image, shown)[hidden]
    return image


def _holes(classes: npt.NDArray[np.uint8], parts: npt.NDArray[np.uint8]) -> _Mask | None:
    """Where nothing is labelled over the body with clothes all around, such as a phone, [H,W]."""
    step = _step(classes)
    small, body = classes[::step, ::step], parts[::step, ::step]
    hole = ((small == BACKGROUND) & (body > 0)).astype(np.uint8)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(hole)
    least = max(_THING * np.count_nonzero(is_any(body, TORSO)), 9)
    found = np.zeros(small.shape, bool)
    for index in np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= least) + 1:
        piece = (pieces == index).astype(np.uint8)
        rim = (cv2.dilate(piece, np.ones((5, 5), np.uint8)) > 0) & (piece == 0)
        shares = np.bincount(small[rim], minlength=len(CLASSES)) / np.count_nonzero(rim)
        if shares[[SKIN, GARMENT, LOWER]].sum() >= _ENCLOSED and shares[GARMENT] > shares[SKIN]:
            found |= piece > 0
    return _enlarged(found, classes.shape) & (classes == BACKGROUND) if found.any() else None


def _bodies(parts: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Which body each pixel of a map of parts is of: 0 for none, 1 and so on, or `_PASSER_BY`."""
    marks = (parts > 0).astype(np.uint8)
    count, pieces = cv2.connectedComponents(marks)
    _, heads, stats, _ = cv2.connectedComponentsWithStats(np.isin(parts, HEAD).astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = np.flatnonzero(areas >= _CANDIDATE * areas.max(initial=1)) + 1
    torso = is_any(parts, TORSO)
    if count == 2 and len(large) < 2 and cv2.connectedComponents(torso.view(np.uint8))[0] < 3:
        return marks
    torsos = np.bincount(pieces[torso], minlength=count)
    if not torsos.any():
        torsos = np.bincount(pieces.ravel(), minlength=count)
        torsos[0] = 0
    large_heads = np.isin(heads, large)
    headed = np.bincount(pieces[large_heads], minlength=count) > 0
    candidates = torsos >= max(_CANDIDATE * torsos.max(), 1)
    for head in np.flatnonzero(headed & (torsos == 0)):
        # hair parts it from the body below
        columns = (pieces == head).any(axis=0)
        below = np.bincount(pieces[:, columns].ravel(), minlength=count) * candidates * ~headed
        if below.any():
            pieces[pieces == head] = below.argmax()
            headed[[head, below.argmax()]] = False, True
    bodies = np.zeros(parts.shape, np.uint8)
    number = 0
    # those with a head first
    for piece in np.lexsort((-torsos, ~headed)):
        if not candidates[piece]:
            continue
        here = pieces == piece
        if not headed[piece] and number and not here[0].any():
            continue  # not cut off by the photo: half of a body that a strap cuts in two
        own = np.unique(heads[here & large_heads])
        for region in [here & (heads == head) for head in own] or [here]:
            number = min(number + 1, _PASSER_BY - 1)
            bodies[region] = number
        if len(own):
            _assign_parts(bodies, parts, here)
        _to_nearest(bodies, here)
    areas = np.maximum(np.bincount(pieces.ravel(), minlength=count), 1)
    shares = np.bincount(pieces[heads > 0], minlength=count) / areas
    for piece in np.flatnonzero(shares > _HEAD_SHARE):
        if not bodies[pieces == piece].any():
            bodies[pieces == piece] = _PASSER_BY
    _to_nearest(bodies, marks > 0)
    return bodies


def _assign_parts(bodies: npt.NDArray[np.uint8], parts: npt.NDArray[np.uint8], here: _Mask) -> None:
    """Gives torsos and limbs of a region to the bodies whose heads are in it.

    A pixel of a torso goes to the head that is nearest in its column. A piece of torso too far
    beside that head is a passer-by's, whose head the photo cuts off. A limb goes to the torso that
    its upper part has the longest border with: the rest of it may reach across somebody else.
    """
    numbers = np.unique(bodies[here & (bodies > 0)])
    columns = np.arange(parts.shape[1])
    spans = [np.flatnonzero((bodies == number).any(axis=0)) for number in numbers]
    distances = [np.maximum(span[0] - columns, columns - span[-1]) for span in spans]
    torsos = here & is_any(parts, TORSO)
    bodies[torsos] = np.broadcast_to(numbers[np.argmin(distances, axis=0)], parts.shape)[torsos]
    for number, span in zip(numbers, spans, strict=True):
        own = torsos & (bodies == number)
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(own.view(np.uint8))
        if count < 3:
            continue  # the piece nearest to the head is its own
        all_of_it = int(np.count_nonzero(own))
        least = max(_SHOULDERS * (span[-1] - span[0] + 1), _HALF_WIDTH * math.sqrt(all_of_it))
        left, width, area = (
            stats[1:, column] for column in (cv2.CC_STAT_LEFT, cv2.CC_STAT_WIDTH, cv2.CC_STAT_AREA)
        )
        ends = span[0] + span[-1]
        beside = np.maximum(2 * left - ends, ends - 2 * (left + width - 1))
        apart = (beside > 2 * least) & (area >= _SOMEBODY * all_of_it)
        apart[np.argmin(beside)] = False
        bodies[np.append(False, apart)[pieces]] = _PASSER_BY
    square = np.ones((3, 3), np.uint8)
    for limb in LIMBS:
        upper = is_any(parts, limb[:2])
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(
            (here & is_any(parts, limb)).view(np.uint8)
        )
        for piece in range(1, count):
            x, y, wide, high, _ = stats[piece]
            around = np.s_[max(y - 1, 0) : y + high + 1, max(x - 1, 0) : x + wide + 1]
            marks = pieces[around] == piece
            for root in (marks & upper[around], marks):
                grown = cv2.dilate(root.view(np.uint8), square).view(np.bool_)
                votes = bodies[around][grown & torsos[around]]
                if len(votes):
                    bodies[around][marks] = np.bincount(votes).argmax()
                    break


def _to_nearest(bodies: npt.NDArray[np.uint8], within: _Mask) -> None:
    """Gives what no body has yet to the nearest one of the same region."""
    missing = within & (bodies == 0)
    seeds = within & (bodies > 0) & (bodies < _PASSER_BY)
    if missing.any() and seeds.any():
        bodies[missing] = of_nearest(bodies, seeds)[missing]


def _step(array: npt.NDArray[np.uint8]) -> int:
    return int(max(1, min(array.shape) // _SIDE))


def _enlarged(mask: _Mask, shape: tuple[int, ...]) -> _Mask:
    return resize_map(mask, Size(shape[0], shape[1]))


def _bounds(mask: _Mask, step: int) -> Box:
    left, top, width, height = (step * edge for edge in cv2.boundingRect(mask.view(np.uint8)))
    return Box(top, left, height, width)


def _overlap(one: Box, other: Box) -> float:
    """The area that two boxes share through the area that either covers."""
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    shared = max(height, 0) * max(width, 0)
    return shared / (one.height * one.width + other.height * other.width - shared)
