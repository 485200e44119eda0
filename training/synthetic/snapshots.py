"""Frames of views as cameras and people make them: what the renderer has too little of.

Other colours, patterns that cross borders, open jackets, scarves and hats, clothes in the colour
of what they lie on, light and shade, other backdrops, things and people, lenses and sensors. All
of it is cheap enough to be drawn anew each time a view is seen.
"""

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from garment_transfer.bundle import (
    BACKGROUND,
    FACE,
    FRAMING,
    GARMENT,
    HAIR,
    LEGS,
    LOWER,
    SKIN,
    Size,
)
from garment_transfer.runtime.photos import frame
from garment_transfer.training.synthetic.anatomy import Floats
from garment_transfer.training.synthetic.people import HAIR_COLOURS, sample_colour
from garment_transfer.training.synthetic.render import U8, to_bytes

#: What a parsing or a part is where nothing is known: outside the photo.
UNKNOWN = 255

#: Photo [h, w, 3], parsing [h, w] and DensePose [h, w, 3].
View = tuple[U8, U8, U8]
_Mask = NDArray[np.bool_]


def take_photo(
    view: View,
    other: View,
    size: tuple[int, int],
    rng: np.random.Generator,
    backdrop: U8 | None = None,
) -> View:
    """A frame of a view as the network may get it, and what it shows.

    Two of three frames are about those of the framing rule, one in ten of them nearer, down to a
    portrait; the others show more of a photo, as they do before anybody is found in it.

    Args:
        view, other: two people; the other may turn up behind the first.
        size: (H, W) of the frame.
        rng: source of chance.
        backdrop: a photo without people, uint8 [h, w, 3]; a part of it stands behind the person.

    Returns:
        Photo uint8 [H, W, 3], parsing uint8 [H, W], DensePose uint8 [H, W, 3]; parsing and part
        are `UNKNOWN` outside the photo.
    """
    whole = rng.random() < 0.35
    matrix = _placed(view[2], size, rng, whole)
    photo, parsing, densepose = _moved(view, matrix, size)
    image: Floats = photo.astype(np.float32) / 255
    image, parsing = _dressed(image, parsing, densepose[..., 0], rng)
    image = _lit(image, parsing > 0, rng)
    person = parsing > 0
    if backdrop is not None or rng.random() < (0.6 if whole else 0.35):
        behind, classes, parts = _somewhere(other, backdrop, size, rng)
        soft = cv2.GaussianBlur(person.astype(np.float32), (0, 0), rng.uniform(0.4, 0.8))
        image = behind + (image - behind) * soft[..., None]
        parsing = np.where(person, parsing, classes)
        densepose = np.where(person[..., None], densepose, parts)
    elif rng.random() < 0.3:
        image = np.where(person[..., None], image, image + 0.15 * _field(rng, size))
    if rng.random() < 0.12:
        image, parsing = _covered(image, parsing, rng)
    photo = _developed(image, rng)
    # below its lower edge a view knows nothing of the person
    ends = [0, 0, max(size[0] - _foot(view, matrix), 0), 0]
    x, y, wide, high = cv2.boundingRect(person.astype(np.uint8))
    room = (y, x, size[0] - y - high, size[1] - x - wide)
    for side in range(4):  # the photo ends within the frame
        if rng.random() < 0.2:
            most = room[side] if rng.random() < 0.7 else size[side % 2] // 6
            ends[side] = max(ends[side], int(rng.integers(0, max(most, 1))))
    top, left, bottom, right = ends
    shown = np.s_[top : size[0] - bottom, left : size[1] - right]
    if min(photo[shown].shape) == 0:
        return photo, parsing, densepose
    known = np.zeros(size, bool)
    known[shown] = True
    photo = np.asarray(
        cv2.copyMakeBorder(photo[shown], top, bottom, left, right, cv2.BORDER_REPLICATE), np.uint8
    )
    densepose[~known] = UNKNOWN
    return photo, np.where(known, parsing, np.uint8(UNKNOWN)), densepose


def _placed(densepose: U8, size: tuple[int, int], rng: np.random.Generator, whole: bool) -> Floats:
    """The affine map [2, 3] from a view to a frame."""
    h, w = size
    box = frame(densepose, FRAMING, Size(*size))
    grow = float(np.exp(rng.uniform(0.0, 1.2) if whole else rng.normal(0.01, 0.07)))
    across, down = rng.uniform(-0.5, 0.5, 2) * max(1 - 1 / grow, 0) + rng.normal(0, 0.03, 2)
    if not whole and rng.random() < 0.1:  # nearer, to a portrait that ends at the chest
        grow = float(np.exp(rng.uniform(-0.7, 0)))
        down += (1 / grow - 1) / 2
    scale, squeeze, turn = h / box.height / grow, np.exp(rng.normal(0, 0.03)), rng.normal(0, 0.04)
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    linear = np.array([[cos * squeeze, -sin], [sin * squeeze, cos]])
    middle = np.array([box.left + box.width / 2, box.top + box.height / 2])
    target = np.array([w * (0.5 + across), h * (0.5 + down)])
    return np.hstack([linear, (target - linear @ middle)[:, None]]).astype(np.float32)


def _foot(view: View, matrix: Floats) -> int:
    """The row of a frame where a view ends."""
    height, width = view[1].shape
    return int(matrix[1] @ (width / 2, height, 1))


def _moved(view: View, matrix: Floats, size: tuple[int, int]) -> View:
    """A view in a frame."""
    photo, *maps = view
    if np.linalg.det(matrix[:, :2]) < 0.5:  # what becomes small must not flicker
        photo = np.asarray(cv2.GaussianBlur(photo, (0, 0), 0.8), np.uint8)
    at = size[::-1]
    image = cv2.warpAffine(photo, matrix, at, borderMode=cv2.BORDER_REPLICATE)
    parsing, densepose = (cv2.warpAffine(m, matrix, at, flags=cv2.INTER_NEAREST) for m in maps)
    return _u8(image), _u8(parsing), _u8(densepose)


def _u8(pixels: object) -> U8:
    return np.asarray(pixels, np.uint8)


def _field(
    rng: np.random.Generator, size: tuple[int, int], channels: int = 3, most: int = 14
) -> Floats:
    """Smooth noise [H, W, channels] of unit deviation, of any grain."""
    cells = rng.integers(2, most, 2)
    coarse = rng.standard_normal((*cells, 1)).astype(np.float32)
    if channels > 1:  # grey through gaudy
        colours = rng.standard_normal((*cells, channels)).astype(np.float32)
        coarse = coarse + rng.uniform(0, 1) ** 2 * (colours - coarse)
    how = cv2.INTER_CUBIC if rng.random() < 0.75 else cv2.INTER_NEAREST
    fine = cv2.resize(coarse, size[::-1], interpolation=how)
    return np.asarray(fine.reshape(*size, channels), np.float32)


def _dressed(image: Floats, parsing: U8, parts: U8, rng: np.random.Generator) -> tuple[Floats, U8]:
    """Somebody in other colours and more clothes."""
    size = parsing.shape
    masks = {c: parsing == c for c in range(7)}
    means = {c: image[m].mean(0) for c, m in masks.items() if np.count_nonzero(m) > 30}

    def colour(of: int | None = None) -> Floats:
        if rng.random() < 0.3:  # that of anything else in the photo
            near = means[int(rng.choice([c for c in means if c != of]))]
            return np.asarray(np.clip(near + rng.normal(0, 0.04, 3), 0.02, 1), np.float32)
        if of == HAIR and rng.random() < 0.8:
            return np.asarray(HAIR_COLOURS[int(rng.integers(len(HAIR_COLOURS)))], np.float32)
        return np.asarray(sample_colour(rng), np.float32)

    def shade(mask: _Mask) -> Floats:
        """How light what a mask shows is, [P, 1]."""
        grey = image[mask].mean(1, keepdims=True)
        return np.clip(grey / max(float(grey.mean()), 0.02), 0.2, 2.5)

    def dye(mask: _Mask, ink: Floats) -> None:
        if mask.any():
            kept = rng.uniform(0, 0.6) * (image[mask] - image[mask].mean(0))
            image[mask] = np.clip(ink * shade(mask) ** rng.uniform(0.4, 1.1) + kept, 0, 1.2)

    for label in (GARMENT, LOWER, HAIR):
        if label in means and rng.random() < 0.5:
            dye(masks[label], colour(label))
    if LEGS in means:
        if rng.random() < 0.7:
            dye(masks[LEGS] & np.isin(parts, (5, 6)), colour())  # shoes
        if rng.random() < 0.2:
            dye(masks[LEGS], colour())  # tights
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.35 else 0):
        pattern = _pattern(rng, size)
        region = (masks[GARMENT], masks[LOWER], masks[GARMENT] | masks[LOWER])[int(rng.integers(3))]
        mask = region & (pattern > 0.02)
        if mask.any():
            share = pattern[mask][:, None] * rng.uniform(0.4, 1)
            image[mask] += (colour() * shade(mask) - image[mask]) * share
    if GARMENT in means and rng.random() < 0.35:  # folds that shine, as those of dark cloth do
        folds = np.float32(rng.uniform(0.02, 0.1)) * _field(rng, size, 1, 40)
        image[masks[GARMENT]] += folds[masks[GARMENT]]
    parsing = parsing.copy()
    xg, yg, wg, hg = cv2.boundingRect(masks[GARMENT].astype(np.uint8))
    xf, yf, wf, hf = cv2.boundingRect(masks[FACE].astype(np.uint8))
    if GARMENT in means and rng.random() < 0.1:  # an open jacket
        middle, half = xg + wg * rng.normal(0.5, 0.05), wg * rng.uniform(0.05, 0.22)
        band = np.array([[middle - half * a, y] for a, y in ((0.7, yg), (1.2, yg + hg))])
        other = np.array([[middle + half * a, y] for a, y in ((1.2, yg + hg), (0.7, yg))])
        dye(_inside(np.vstack([band, other]), size) & masks[GARMENT], colour(GARMENT))
    if FACE in means and wf > 6:
        if rng.random() < 0.05:  # a scarf
            low = (xf + wf / 2, yf + hf * rng.uniform(1.05, 1.25))
            wrap = _ellipse(low, (wf * rng.uniform(0.6, 0.95), hf * rng.uniform(0.2, 0.45)), size)
            wrap &= np.isin(parsing, (SKIN, GARMENT, HAIR))
            dye(wrap, colour())
            parsing[wrap] = GARMENT
        if rng.random() < 0.05:  # a hat
            crown = (xf + wf / 2, yf + hf * rng.uniform(-0.15, 0.1))
            hat = _ellipse(crown, (wf * rng.uniform(0.6, 1.0), hf * rng.uniform(0.3, 0.5)), size)
            image[hat] = colour() * rng.uniform(0.8, 1.2)
            parsing[hat] = HAIR
        if rng.random() < 0.12:  # a fringe
            tips = 6 + int(rng.integers(12))
            x = np.linspace(xf - 0.1 * wf, xf + 1.1 * wf, tips)
            edge = yf + hf * (rng.uniform(0.15, 0.4) + rng.normal(0, 0.04, tips))
            top = np.array([[x[-1], yf - 0.3 * hf], [x[0], yf - 0.3 * hf]])
            locks = _inside(np.vstack([np.stack([x, edge], 1), top]), size)
            locks &= np.isin(parsing, (FACE, HAIR))
            ink = means[HAIR] if HAIR in means else colour(HAIR)
            image[locks] = ink * (1 + 0.15 * _field(rng, size, 1, 40)[locks])
            parsing[locks] = HAIR
        if rng.random() < 0.08:  # glasses
            ink = colour() * rng.uniform(0.1, 1)
            for side in (-1, 1):
                eye = (xf + wf * (0.5 + 0.23 * side), yf + hf * rng.uniform(0.36, 0.44))
                lens = _ellipse(eye, (wf * 0.19, hf * rng.uniform(0.08, 0.15)), size)
                lens &= parsing == FACE
                image[lens] += (ink - image[lens]) * np.float32(rng.uniform(0.3, 1))
    return image, parsing


def _pattern(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Stripes, blocks or patches, [H, W] in 0..1."""
    if rng.random() < 0.5:
        y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
        way, wave = rng.choice((0.0, np.pi / 2, rng.uniform(0, np.pi))), rng.uniform(3, 40)
        wave *= size[0] / 256
        t = np.sin((x * np.cos(way) + y * np.sin(way)) * (2 * np.pi / wave) + rng.uniform(0, 6))
        return np.asarray(t > rng.uniform(-0.7, 0.9), np.float32)
    return np.clip(_field(rng, size, 1, 40)[..., 0], 0, 1)


def _inside(polygon: Floats, size: tuple[int, int]) -> _Mask:
    out = np.zeros(size, np.uint8)
    cv2.fillPoly(out, [np.rint(polygon).astype(np.int32)], 1)
    return out > 0


def _ellipse(at: ArrayLike, radii: ArrayLike, size: tuple[int, int]) -> _Mask:
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return _inside(np.asarray(at) + np.stack([np.cos(t), np.sin(t)], 1) * np.asarray(radii), size)


def _lit(image: Floats, person: _Mask, rng: np.random.Generator) -> Floats:
    """Light and shade that fall on people, round limbs and across them."""
    size = person.shape
    if rng.random() < 0.5:
        gain = np.exp(rng.uniform(0, 0.35) * _field(rng, size, 1, 6))
        image = image * np.where(person[..., None], gain, np.float32(1))
    if rng.random() < 0.15:  # the shadow of something
        at, half = rng.uniform(0, 1, 2) * size[::-1], rng.uniform(0.1, 0.6, 2) * size[::-1]
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + rng.normal(0, 0.3, (4, 2))
        cast = _inside(at + corners * half, size).astype(np.float32)
        cast = np.asarray(cv2.GaussianBlur(cast, (0, 0), rng.uniform(0.5, 6)), np.float32)
        image = image * (1 - rng.uniform(0.2, 0.7) * cast[..., None])
    if rng.random() < 0.25:  # lit from a side: the silhouette as a relief
        inner = np.minimum(cv2.distanceTransform(person.astype(np.uint8), cv2.DIST_L2, 3), 16)
        relief = cv2.GaussianBlur(np.sqrt(inner), (0, 0), 1.5)
        slope = cv2.Sobel(relief, cv2.CV_32F, 1, 0) * np.float32(rng.uniform(-0.4, 0.4))
        image = image * np.clip(1 + slope, 0.2, 1.8)[..., None]
    return image


def _part_of(photo: U8, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """A part of a photo, [H, W, 3], stretched: each side is a third or more of what fits in."""
    closest = min(length / side for length, side in zip(photo.shape[:2], size, strict=True))
    part = [int(closest * rng.uniform(0.35, 1) * side) for side in size]
    top, left = (
        int(rng.integers(length - side + 1))
        for length, side in zip(photo.shape[:2], part, strict=True)
    )
    inside = photo[top : top + part[0], left : left + part[1]]
    resized = cv2.resize(inside, size[::-1], interpolation=cv2.INTER_AREA)
    return resized[:, :: int(rng.choice((-1, 1)))].astype(np.float32) / 255


def _nobody(behind: Floats) -> tuple[Floats, U8, U8]:
    """A backdrop [H, W, 3] with the maps of nobody."""
    size = behind.shape[:2]
    return behind, np.zeros(size, np.uint8), np.zeros((*size, 3), np.uint8)


def _somewhere(
    other: View, backdrop: U8 | None, size: tuple[int, int], rng: np.random.Generator
) -> tuple[Floats, U8, U8]:
    """What is behind [H, W, 3], and its maps: the backdrop, drawn, or a photo with its people."""
    if backdrop is not None:
        return _nobody(_part_of(backdrop, size, rng))
    h, w = size
    if rng.random() < 0.45:
        zoom = h / other[1].shape[0] * float(np.exp(rng.uniform(-0.3, 1.0)))
        x, y = rng.uniform(-0.7, 0.7, 2) * (w, h)
        turned = float(rng.normal(0, 0.05)) * zoom
        matrix = np.array([[zoom, -turned, x], [turned, zoom, y]], np.float32)
        photo, parsing, densepose = _moved(other, matrix, size)
        foot = _foot(other, matrix)
        behind = photo.astype(np.float32) / 255
        if foot < h:
            behind[max(foot, 0) :] = rng.uniform(0, 1, 3)
            parsing[max(foot, 0) :], densepose[max(foot, 0) :] = 0, 0
        return behind, parsing, densepose
    behind = np.clip(rng.uniform(0.1, 1) + rng.normal(0, 0.05, 3), 0, 1).astype(np.float32)
    behind = behind + rng.uniform(0.01, 0.2) * _field(rng, size)
    for _ in range(int(rng.integers(0, 9))):
        at, half = rng.uniform(0, 1, 2) * (w, h), rng.uniform(0.02, 0.4, 2) * (w, h)
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + rng.normal(0, 0.08, (4, 2))
        round_ = rng.random() < 0.3
        here = _ellipse(at, half, size) if round_ else _inside(at + corners * half, size)
        behind[here] += (rng.uniform(0, 1, 3) - behind[here]).astype(np.float32) * rng.uniform(
            0.3, 1
        )
    if rng.random() < 0.5:
        behind = np.asarray(cv2.GaussianBlur(behind, (0, 0), rng.uniform(0.5, 6) * h / 256))
    behind = behind + rng.uniform(0, 0.06) * rng.standard_normal((h, w, 1), dtype=np.float32)
    return _nobody(np.clip(behind, 0, 1))


def _covered(image: Floats, parsing: U8, rng: np.random.Generator) -> tuple[Floats, U8]:
    """Things in front of somebody: background, since no class is theirs."""
    h, w = parsing.shape
    for _ in range(int(rng.integers(1, 4))):
        at = rng.uniform(0.1, 0.9, 2) * (w, h)
        half = np.exp(rng.uniform(-4.0, -2.0, 2)) * h
        if rng.random() < 0.3:
            half[int(rng.integers(2))] *= 6  # a strap, a rail
        turn = rng.uniform(0, np.pi)
        way = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ way
        here = _inside(at + corners, (h, w))
        image[here] = rng.uniform(0, 1, 3) + 0.1 * _field(rng, (h, w))[here]
        parsing[here] = BACKGROUND
    return image, parsing


def _developed(image: Floats, rng: np.random.Generator) -> U8:
    """What lens, sensor and file make of light, uint8 [H, W, 3]."""
    h, w = image.shape[:2]
    unit = h / 256
    image = np.clip(image * (rng.uniform(0.7, 1.25) * np.exp(rng.normal(0, 0.06, 3))), 0, 1)
    image = image ** np.exp(rng.normal(0, 0.25))
    grey = image.mean(2, keepdims=True)
    colourful = 0.0 if rng.random() < 0.04 else rng.uniform(0.6, 1.3)
    image = np.clip(grey + colourful * (image - grey), 0, 1)
    low, high = (0.0, 1.0) if rng.random() < 0.6 else (rng.uniform(0, 0.15), rng.uniform(0.7, 1))
    image = (low + (high - low) * image).astype(np.float32)
    if rng.random() < 0.3:  # enlarged from fewer pixels
        share = rng.uniform(0.35, 0.9)
        small = cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR))
    elif rng.random() < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.3) * unit))
    elif rng.random() < 0.4:  # sharpened
        soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.5))
        image = image + rng.uniform(0.2, 1.2) * (image - soft)
    noise = rng.uniform(0, 0.015) if rng.random() < 0.8 else rng.uniform(0.015, 0.06)
    image = image + noise * rng.standard_normal((h, w, 3), dtype=np.float32)
    return to_bytes(image, int(rng.integers(35, 96)) if rng.random() < 0.3 else 0)
