"""Bringing the graphs' result, at the bundle's size, back to the person's own photo.

Nothing that can be had at full resolution is taken from the small size: kept pixels are the
person's photo, the garment is sampled from its owner's photo by the flow, and borders follow the
person's full-size parsing wherever the transfer left them alone. Only what nobody's photo shows
(regrown skin, uncovered background, holes in the garment) is the graphs' picture, scaled up.

Label maps are rough: a rim around a region still shows some of it. What stays background, skin or
lower garment beside a region that vanished is therefore not kept but the graphs', and so is the
new garment's own rim. The graphs do the same at their size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    BACKGROUND,
    FACE,
    GARMENT,
    HAIR,
    LEGS,
    LOWER,
    SKIN,
    Size,
    border_width,
)
from garment_transfer.runtime.photos._fit import Fit, resize
from garment_transfer.runtime.photos._person import Person

# What the graph contract says every transfer leaves alone.
_RESERVED: Final = (HAIR, FACE, LEGS)

# Where the photo of a class that stays may still show what vanished beside it.
_ROUGH: Final = (BACKGROUND, SKIN, LOWER)

# What a transfer may draw anew.
_DRAWN: Final = (BACKGROUND, SKIN, GARMENT, LOWER)

# Blur, in pixels of the bundle's size, that turns the stairs of a label border into a curve.
_BORDER_SIGMA: Final = 0.8

# How much the detail of the full-size parsing counts. Above 0.5 it decides alone where the
# transfer changed nothing; the nearer to 1, the more specks of old borders outlive a change.
_DETAIL: Final = 0.6

# The sampled garment fades into the graph's own between these shares of the owner's mask.
_WEAK_MASK: Final = (0.25, 0.75)

# Above this many owner's pixels per person's pixel, bilinear sampling alone would skip some.
_MINIFYING: Final = 1.5

# How many positions are sampled as one row of a picture.
_ROW: Final = 4096

# What stands for a flow that is not finite, in pixels.
_FAR: Final = 1e5


_S = TypeVar("_S", bound=np.generic)


@dataclass(frozen=True)
class Composed:
    """A result at the person's own size.

    Attributes:
        image: uint8 RGB [H,W,3].
        parsing: uint8 [H,W], ids of the seven classes.
        warped_garment: uint8 RGB [H,W,3], 0 outside the garment.
    """

    image: npt.NDArray[np.uint8]
    parsing: npt.NDArray[np.uint8]
    warped_garment: npt.NDArray[np.uint8]


def compose(
    person: Person,
    owner: Person,
    person_fit: Fit,
    owner_fit: Fit,
    *,
    image: npt.NDArray[np.uint8],
    transfer_parsing: npt.NDArray[np.uint8],
    warped_garment: npt.NDArray[np.uint8],
    flow: npt.NDArray[np.float32],
    transfer_scores: npt.NDArray[np.uint8] | None = None,
) -> Composed:
    """The transfer at the person's own size from the graphs' outputs for one pair.

    A photo of exactly the bundle's size gets the graphs' outputs as they are. At any other size
    every pixel that keeps a class other than garment is the person's own, but for background, skin
    and lower garment within the border of a label map (`border_width`) of what vanished: these are
    the graphs' at both sizes. Outside the person's box, and where the person is protected, the
    photo stays as it is.

    Args:
        person: who receives the garment.
        owner: who wears it.
        person_fit: where the person's photo lies in the bundle's size.
        owner_fit: where the owner's photo lies in it.
        image: uint8 RGB [h,w,3] at the bundle's size.
        transfer_parsing: uint8 [h,w].
        warped_garment: uint8 RGB [h,w,3].
        flow: float32 [2,h,w], (dx, dy) in pixels of the bundle's size.
        transfer_scores: uint8 [h,w,4]. Where they are given, they draw the borders between the
            reasoned classes at the photo's size, scaled up bicubically, and not
            `transfer_parsing`.
    """
    window, fit = person_fit.window()
    owner_window, owner_fit = owner_fit.window()
    mask = owner.parsing == GARMENT
    if owner.protected is not None:
        mask &= ~owner.protected
    if person_fit.is_identity:
        drawn = Composed(image.copy(), transfer_parsing.copy(), warped_garment.copy())
    else:
        drawn = _draw(
            person.image[window],
            person.parsing[window],
            owner.image[owner_window],
            mask[owner_window].astype(np.uint8),
            fit,
            owner_fit,
            image=image,
            transfer_parsing=transfer_parsing,
            warped_garment=warped_garment,
            flow=flow,
            transfer_scores=transfer_scores,
        )
    whole = drawn
    if drawn.parsing.shape != person.parsing.shape:
        whole = Composed(
            person.image.copy(), person.parsing.copy(), np.zeros(person.image.shape, np.uint8)
        )
        whole.image[window] = drawn.image
        whole.parsing[window] = drawn.parsing
        whole.warped_garment[window] = drawn.warped_garment
    if person.protected is not None:
        stays = np.flatnonzero(person.protected)
        whole.image.reshape(-1, 3)[stays] = _at(person.image, stays)
        whole.parsing.reshape(-1)[stays] = _at(person.parsing, stays)
        whole.warped_garment.reshape(-1, 3)[stays] = 0
    return whole


def _draw(
    photo: npt.NDArray[np.uint8],
    own: npt.NDArray[np.uint8],
    owner_photo: npt.NDArray[np.uint8],
    owner_mask: npt.NDArray[np.uint8],
    person_fit: Fit,
    owner_fit: Fit,
    *,
    image: npt.NDArray[np.uint8],
    transfer_parsing: npt.NDArray[np.uint8],
    warped_garment: npt.NDArray[np.uint8],
    flow: npt.NDArray[np.float32],
    transfer_scores: npt.NDArray[np.uint8] | None,
) -> Composed:
    """What `compose` gives for the part of the photo that the box shows.

    `photo` is uint8 [H,W,3] and `own` its classes, `owner_mask` 1 where `owner_photo` shows the
    garment.
    """
    # Off every photo, so that the graph's own garment shows there.
    flow = np.clip(np.nan_to_num(flow, nan=_FAR), -_FAR, _FAR)
    if transfer_scores is None:
        scores = _class_scores(person_fit, transfer_parsing, own)
    else:
        scores = _scaled_shares(person_fit, transfer_scores, own)
    parsing = _best_class(scores, own)
    vanished = _beside_vanished(person_fit, own, parsing)
    rim = vanished & (parsing == own) & _is_any(own, _ROUGH)
    # What follows is for these pixels alone, by their places in the flattened photo.
    pixels = np.flatnonzero((parsing != own) | (parsing == GARMENT) | rim)
    weights = _weights(
        {label: _at(score, pixels) for label, score in scores.items()},
        sharpness=max(1.0, 1 / min(person_fit.scale)),
    )
    picture = person_fit.unfit(image)
    blend = np.zeros((len(pixels), 3), np.float32)
    # not like the photo, whose memory may be laid out in another order: flattened, it is a view
    warped = np.zeros(photo.shape, np.uint8)
    for label in _DRAWN:
        # Most pixels are of one class alone.
        share = np.flatnonzero(weights[label])
        here = pixels[share]
        source = warped_garment if label == GARMENT else image
        colours = _spread(person_fit, source, transfer_parsing == label, here, picture)
        if label == GARMENT:
            sampled, opacity = _sample(
                owner_photo, owner_mask, person_fit, owner_fit, transfer_parsing, flow, here
            )
            colours += opacity * (sampled - colours)
            warped.reshape(-1, 3)[here] = _to_uint8(colours)
        else:
            is_kept = _at(own, here) == label
            if label in _ROUGH:
                is_kept &= ~_at(vanished, here)
            kept = np.flatnonzero(is_kept)
            colours[kept] = _at(photo, here[kept])
        blend[share] += _at(weights[label], share)[:, None] * colours

    result = np.array(photo, order="C")
    result.reshape(-1, 3)[pixels] = _to_uint8(blend)
    warped *= (parsing == GARMENT)[..., None]
    return Composed(result, parsing, warped)


def _at(array: npt.NDArray[_S], pixels: npt.NDArray[np.intp]) -> npt.NDArray[_S]:
    """Values [n,...] of an array [H,W,...] or [n,...] at places counted row by row.

    `take` over one axis is several times faster than a mask over two.
    """
    return array.reshape(-1, *array.shape[2:]).take(pixels, axis=0)


def _is_any(labels: npt.NDArray[np.uint8], classes: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    return functools.reduce(np.logical_or, [labels == label for label in classes])


def _best_class(
    scores: dict[int, npt.NDArray[np.float32]], own: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """The drawn class of the highest score at each pixel; a reserved class stays what it is."""
    parsing = np.where(_is_any(own, _RESERVED), own, np.uint8(_DRAWN[0]))
    best = scores[_DRAWN[0]].copy()
    best[parsing != _DRAWN[0]] = np.inf
    for label in _DRAWN[1:]:
        parsing[scores[label] > best] = label
        np.maximum(best, scores[label], out=best)
    return parsing


def _beside_vanished(
    fit: Fit, own: npt.NDArray[np.uint8], parsing: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Where the person lost a class other than background, and the border around it: [H,W]."""
    gone = (own != BACKGROUND) & (parsing != own)
    return cv2.dilate(gone.astype(np.uint8), _square(fit, border_width(fit.target.height))) > 0


def _square(fit: Fit, radius: int) -> npt.NDArray[np.uint8]:
    """What dilates or erodes full-size maps by `radius` pixels of the bundle's size."""
    side = 2 * round(radius / max(fit.scale)) + 1
    return np.ones((side, side), np.uint8)


def _class_scores(
    fit: Fit, transfer_parsing: npt.NDArray[np.uint8], own: npt.NDArray[np.uint8]
) -> dict[int, npt.NDArray[np.float32]]:
    """How much each drawn class claims each full-size pixel, float32 [H,W]; the highest has it.

    The transfer's regions, smoothed and scaled up, plus the detail that the full-size parsing
    `own` has over itself fitted, smoothed and scaled up. Where the transfer changed nothing the
    two smooth parts cancel and the full-size parsing remains.
    """
    scores = {}
    for label in _DRAWN:
        # Areas, not nearest neighbours: these would be off by up to half a pixel of the small
        # size, and leave specks of old borders inside new regions.
        detail = (own == label).astype(np.float32)
        detail *= _DETAIL
        change = fit.crop(transfer_parsing == label) - fit.shrink(detail)
        smooth = cv2.GaussianBlur(change, (0, 0), _BORDER_SIGMA, borderType=cv2.BORDER_REPLICATE)
        detail += fit.enlarge(np.asarray(smooth, np.float32))
        scores[label] = detail
    return scores


def _scaled_shares(
    fit: Fit, transfer_scores: npt.NDArray[np.uint8], own: npt.NDArray[np.uint8]
) -> dict[int, npt.NDArray[np.float32]]:
    """The scores of each drawn class at the photo's size, float32 [H,W], about 0..1.

    What they lack to 1 goes to the class that the person has there.
    """
    planes = (fit.crop(transfer_scores) / 255).astype(np.float32)
    large = fit.enlarge(planes, cv2.INTER_CUBIC)
    rest = 1 - large.sum(axis=2)
    return {
        label: np.asarray(large[..., i] + rest * (own == label), np.float32)
        for i, label in enumerate(_DRAWN)
    }


def _weights(
    scores: dict[int, npt.NDArray[np.float32]], sharpness: float
) -> dict[int, npt.NDArray[np.float32]]:
    """Shares, float32 [n] per drawn class, that blend the classes over about a pixel.

    `scores` are float32 [n] per drawn class. A class's share grows with its lead over the best
    other class; `sharpness` is the number of full-size pixels over which scores of the small size
    rise. Shares sum to 1.
    """
    best = scores[_DRAWN[0]]
    second = np.full_like(best, -np.inf)
    for label in _DRAWN[1:]:
        second = np.maximum(second, np.minimum(best, scores[label]))
        best = np.maximum(best, scores[label])
    weights = {}
    total = np.zeros_like(best)
    for label, score in scores.items():
        # of two that share the lead, each is the other's best: `second` is `best` there
        lead = score - np.where(score == best, second, best)
        weights[label] = np.clip(0.5 + sharpness * lead, 0, 1)
        total += weights[label]
    return {label: weight / total for label, weight in weights.items()}


def _spread(
    fit: Fit,
    source: npt.NDArray[np.uint8],
    region: npt.NDArray[np.bool_],
    pixels: npt.NDArray[np.intp],
    elsewhere: npt.NDArray[np.uint8],
) -> npt.NDArray[np.float32]:
    """The colours of a region, scaled up with nothing from outside it, float32 [n,3].

    `source` is uint8 [h,w,3] and `region` [h,w] at the bundle's size, `pixels` are n places at
    the photo's. Out of the region's reach the result is that of `elsewhere`, uint8 [H,W,3].
    """
    inside = fit.crop(region)[..., None].astype(np.float32)
    premultiplied = np.concatenate([fit.crop(source) * inside, inside], axis=2)
    layers = _at(fit.enlarge(premultiplied), pixels)
    share = layers[:, 3:]
    colours = np.asarray(layers[:, :3] / np.maximum(share, 1e-3), np.float32)
    beyond = np.flatnonzero(share <= 1e-3)
    colours[beyond] = _at(elsewhere, pixels[beyond])
    return colours


def _sample(
    photo: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    person_fit: Fit,
    owner_fit: Fit,
    transfer_parsing: npt.NDArray[np.uint8],
    flow: npt.NDArray[np.float32],
    pixels: npt.NDArray[np.intp],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The garment of its owner's photo, sampled by the flow at n places of the person's photo.

    Colours are float32 [n,3], opacity [n,1].

    The owner's photo is premultiplied by the mask of the garment, so that no background bleeds in;
    opacity falls to 0 where little of the mask is hit. The mask is a pixel of the bundle's size
    narrower than the garment's map, whose border shows some of what is around it.
    """
    inner = np.asarray(cv2.erode(mask, _square(owner_fit, 1)), np.uint8)
    mask = inner if inner.any() else mask
    layers = np.asarray(cv2.merge([*cv2.split(photo * mask[..., None]), 255 * mask]), np.uint8)
    step = _owner_pixels_per_pixel(person_fit, owner_fit, transfer_parsing, flow)
    if step > _MINIFYING:
        height, width = mask.shape
        layers = resize(layers, Size(max(1, round(height / step)), max(1, round(width / step))))
    # From the person's pixels into the frame, by the flow, and out into the owner's photo.
    rows, columns = np.divmod(pixels, person_fit.source.width)
    x, y = person_fit.to_target(columns.astype(np.float32), rows.astype(np.float32))
    moved = _at(person_fit.unfit(flow.transpose(1, 2, 0)), pixels)
    x, y = owner_fit.to_source(x + moved[:, 0], y + moved[:, 1])
    # The same place in the layers, which may be the photo scaled down.
    x = (x + 0.5) * (layers.shape[1] / photo.shape[1]) - 0.5
    y = (y + 0.5) * (layers.shape[0] / photo.shape[0]) - 0.5
    sampled = _remap(layers, x, y)
    share = sampled[:, 3:] / 255
    weak, strong = _WEAK_MASK
    opacity = np.asarray(np.clip((share - weak) / (strong - weak), 0, 1), np.float32)
    return np.asarray(sampled[:, :3] / np.maximum(share, weak), np.float32), opacity


def _remap(
    layers: npt.NDArray[np.uint8], x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Layers [H,W,C] at n positions, sampled bilinearly: [n,C], 0 off the image."""
    if len(x) == 0:
        return np.zeros((0, layers.shape[2]), np.float32)
    # OpenCV takes no list of positions, and no image of 32,768 rows: the last row is filled up
    shape = (-(-len(x) // _ROW), _ROW)
    sampled = cv2.remap(layers, np.resize(x, shape), np.resize(y, shape), cv2.INTER_LINEAR)
    return np.asarray(sampled.reshape(-1, layers.shape[2])[: len(x)], np.float32)


def _owner_pixels_per_pixel(
    person_fit: Fit,
    owner_fit: Fit,
    transfer_parsing: npt.NDArray[np.uint8],
    flow: npt.NDArray[np.float32],
) -> float:
    """How many pixels of the owner's photo one pixel of the person's spans in the garment.

    The median over the garment of the length scale of p + flow(p), times the scales of the fits.
    """
    region = transfer_parsing == GARMENT
    if not region.any():
        return 1.0
    dx_dy, dx_dx = np.gradient(flow[0])
    dy_dy, dy_dx = np.gradient(flow[1])
    area = np.abs((1 + dx_dx) * (1 + dy_dy) - dx_dy * dy_dx)[region]
    stretch = float(np.sqrt(np.median(area)))
    return stretch * float(np.sqrt(np.prod(person_fit.scale) / np.prod(owner_fit.scale)))


def _to_uint8(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
