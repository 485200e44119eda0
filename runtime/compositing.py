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

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.runtime.bundle import Size
from garment_transfer.runtime.fitting import Fit, resize
from garment_transfer.runtime.labels import (
    BACKGROUND,
    CLASSES,
    FACE,
    GARMENT,
    HAIR,
    LEGS,
    LOWER,
    SKIN,
    border_width,
)
from garment_transfer.runtime.people import Person

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

# What stands for a flow that is not finite, in pixels.
_FAR: Final = 1e5


@dataclass(frozen=True)
class Composed:
    """A result at the person's own size [H,W]."""

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
) -> Composed:
    """The transfer at the person's own size from the graphs' outputs for one pair.

    `image` and `warped_garment` are uint8 [h,w,3], `transfer_parsing` uint8 [h,w], `flow` float32
    [2,h,w], all at the bundle's size; `owner` wears the garment. A photo of exactly the bundle's
    size gets the graphs' outputs as they are. At any other size every pixel that keeps a class
    other than garment is the person's own, but for background, skin and lower garment within the
    border of a label map (`border_width`) of what vanished: these are the graphs' at both sizes.
    """
    if person_fit.is_identity:
        return Composed(image, transfer_parsing, warped_garment)
    # Off every photo, so that the graph's own garment shows there.
    flow = np.clip(np.nan_to_num(flow, nan=_FAR), -_FAR, _FAR)
    own = person.parsing
    scores = _class_scores(person_fit, transfer_parsing, own)
    parsing = np.argmax(scores, axis=0).astype(np.uint8)
    vanished = _beside_vanished(person_fit, own, parsing)
    rim = vanished & (parsing == own) & np.isin(own, _ROUGH)
    # What follows is for these pixels alone; arrays are [n,...] over them.
    changed = (parsing != own) | (parsing == GARMENT) | rim
    weights = _weights(scores[:, changed], sharpness=max(1.0, 1 / min(person_fit.scale)))
    photo, photo_labels = person.image[changed], own[changed]
    picture = person_fit.unfit(image)[changed].astype(np.float32)
    blend = np.zeros_like(picture)
    for label in _DRAWN:
        source = warped_garment if label == GARMENT else image
        colours = _spread(person_fit, source, transfer_parsing == label, changed, picture)
        if label == GARMENT:
            sampled, opacity = _sample(owner, person_fit, owner_fit, transfer_parsing, flow)
            colours += opacity[changed] * (sampled[changed] - colours)
            garment = colours
        else:
            mine = photo_labels == label
            if label in _ROUGH:
                mine &= ~vanished[changed]
            colours[mine] = photo[mine]
        blend += weights[label][:, None] * colours

    result = person.image.copy()
    result[changed] = _to_uint8(blend)
    warped = np.zeros_like(result)
    warped[changed] = _to_uint8(garment)
    warped[parsing != GARMENT] = 0
    return Composed(result, parsing, warped)


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
) -> npt.NDArray[np.float32]:
    """How much each class claims each full-size pixel, float32 [7,H,W]; the highest has it.

    The transfer's regions, smoothed and scaled up, plus the detail that the full-size parsing
    `own` has over itself fitted, smoothed and scaled up. Where the transfer changed nothing the
    two smooth parts cancel and the full-size parsing remains.
    """
    scores = np.empty((len(CLASSES), *own.shape), np.float32)
    for label in range(len(CLASSES)):
        mine = own == label
        if label in _RESERVED:
            scores[label] = np.where(mine, np.inf, -np.inf)
            continue
        # Areas, not nearest neighbours: these would be off by up to half a pixel of the small
        # size, and leave specks of old borders inside new regions.
        detail = mine.astype(np.float32) * _DETAIL
        change = fit.crop(transfer_parsing == label) - resize(detail, fit.scaled)
        smooth = cv2.GaussianBlur(change, (0, 0), _BORDER_SIGMA, borderType=cv2.BORDER_REPLICATE)
        scores[label] = resize(smooth, fit.source) + detail
    return scores


def _weights(
    scores: npt.NDArray[np.float32], sharpness: float
) -> dict[int, npt.NDArray[np.float32]]:
    """Shares, float32 [n] per drawn class, that blend the classes over about a pixel.

    `scores` are float32 [7,n]. A class's share grows with its lead over the best other class;
    `sharpness` is the number of full-size pixels over which scores of the small size rise. Shares
    sum to 1.
    """
    drawn = scores[list(_DRAWN)]
    best = drawn.max(axis=0)
    leader = drawn.argmax(axis=0)
    np.put_along_axis(drawn, leader[None], -np.inf, axis=0)
    second = drawn.max(axis=0)
    weights = {}
    total = np.zeros_like(best)
    for index, label in enumerate(_DRAWN):
        lead = scores[label] - np.where(leader == index, second, best)
        weights[label] = np.clip(0.5 + sharpness * lead, 0, 1)
        total += weights[label]
    return {label: weight / total for label, weight in weights.items()}


def _spread(
    fit: Fit,
    source: npt.NDArray[np.uint8],
    region: npt.NDArray[np.bool_],
    where: npt.NDArray[np.bool_],
    elsewhere: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """The colours of a region, scaled up with nothing from outside it, float32 [n,3].

    `source` is uint8 [h,w,3] and `region` [h,w] at the bundle's size; `where` [H,W] has n pixels
    set. Out of the region's reach the result is `elsewhere`, float32 [n,3].
    """
    inside = fit.crop(region)[..., None].astype(np.float32)
    premultiplied = np.concatenate([fit.crop(source) * inside, inside], axis=2)
    layers = resize(premultiplied, fit.source)[where]
    share = layers[:, 3:]
    return np.where(share > 1e-3, layers[:, :3] / np.maximum(share, 1e-3), elsewhere)


def _sample(
    owner: Person,
    person_fit: Fit,
    owner_fit: Fit,
    transfer_parsing: npt.NDArray[np.uint8],
    flow: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The garment of its owner's photo, sampled by the flow: colours [H,W,3] and opacity [H,W,1].

    The photo is premultiplied by the owner's garment mask, so that no background bleeds in;
    opacity falls to 0 where little of the mask is hit. The mask is a pixel of the bundle's size
    narrower than the garment's map, whose border shows some of what is around it.
    """
    mask = (owner.parsing == GARMENT).astype(np.uint8)
    inner = np.asarray(cv2.erode(mask, _square(owner_fit, 1)), np.uint8)
    mask = inner if inner.any() else mask
    layers = np.concatenate([owner.image * mask[..., None], 255 * mask[..., None]], axis=2)
    step = _owner_pixels_per_pixel(person_fit, owner_fit, transfer_parsing, flow)
    if step > _MINIFYING:
        height, width = mask.shape
        layers = resize(layers, Size(max(1, round(height / step)), max(1, round(width / step))))
    # From the person's pixels into the frame, by the flow, and out into the owner's photo.
    rows, columns = person_fit.source.height, person_fit.source.width
    x, y = person_fit.to_target(
        np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)[:, None]
    )
    moved = person_fit.unfit(flow.transpose(1, 2, 0))
    x, y = owner_fit.to_source(x + moved[..., 0], y + moved[..., 1])
    # The same place in the layers, which may be the photo scaled down.
    x = (x + 0.5) * (layers.shape[1] / owner.image.shape[1]) - 0.5
    y = (y + 0.5) * (layers.shape[0] / owner.image.shape[0]) - 0.5
    sampled = np.asarray(
        cv2.remap(layers, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR), np.float32
    )
    share = sampled[..., 3:] / 255
    weak, strong = _WEAK_MASK
    opacity = np.asarray(np.clip((share - weak) / (strong - weak), 0, 1), np.float32)
    return np.asarray(sampled[..., :3] / np.maximum(share, weak), np.float32), opacity


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
