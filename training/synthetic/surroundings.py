"""What is around a person in a photo: the backdrop, things in front of them, other people."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from garment_transfer.training.synthetic.anatomy import Floats
from garment_transfer.training.synthetic.shots import Shot, Thing
from garment_transfer.training.synthetic.texture import smooth_noise

_SHIFT = 4  #: binary digits after the point that OpenCV's drawing takes


def _fill(canvas: NDArray[np.generic], points: Floats, ink: object) -> None:
    """A polygon [K, 2] of pixels, pixel centres at integers, drawn to a sixteenth of a pixel."""
    fixed = np.rint(points * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], ink, cv2.LINE_8, _SHIFT)  # type: ignore[call-overload]


def backdrop(shot: Shot, size: tuple[int, int]) -> Floats:
    """What is behind the person, float32 [H, W, 3] RGB 0..1: the same scene at any size."""
    h, w = size
    rng = np.random.default_rng([shot.seed, 1])
    first, second, third = (np.asarray(c, np.float32) for c in shot.palette)
    out = np.empty((h, w, 3), np.float32)
    out[:] = first

    def box(x0: float, y0: float, x1: float, y1: float, colour: Floats, lean: float = 0.0) -> None:
        """A block between shares of the frame."""
        corners = np.array([[x0, y0], [x1, y0 + lean], [x1, y1 + lean], [x0, y1]])
        _fill(out, corners * (w, h) - 0.5, tuple(float(c) for c in colour))

    _DRAWINGS[shot.backdrop](box, rng, (first, second, third))
    if shot.backdrop == "leaves":
        n = smooth_noise(rng, (h, w), rng.uniform(6, 30))[..., None]
        out += (second - first) * np.clip(0.5 + 0.6 * n, 0, 1)
        n = smooth_noise(rng, (h, w), rng.uniform(4, 12))[..., None]
        out += (third - out) * np.clip(n - 0.7, 0, 1)
    blur = shot.defocus * h * (1.5 if shot.backdrop in ("street", "leaves") else 1.0)
    if blur > 0.4:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), blur), np.float32)
    # light falls off to one side, and no surface is quite even
    y = np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None]
    x = np.linspace(-0.5, 0.5, w, dtype=np.float32)[None, :]
    fall = rng.normal(0, 0.05 + 0.12 * shot.key, 2)
    shade = 1 + fall[0] * y + fall[1] * x + 0.02 * smooth_noise(rng, (h, w), 5)
    if shot.backdrop != "studio":
        shade = shade + 0.02 * smooth_noise(rng, (h, w), 60)
    return np.clip(out * shade[..., None] * shot.exposure, 0, 1).astype(np.float32)


_Box = Callable[..., None]
_Palette = tuple[Floats, Floats, Floats]


def _studio(box: _Box, rng: np.random.Generator, palette: _Palette) -> None:
    if rng.random() < 0.25:  # the floor begins in the frame
        box(0, rng.uniform(0.75, 0.98), 1, 1.2, palette[0] * rng.uniform(0.85, 1.02))


def _wall(box: _Box, rng: np.random.Generator, palette: _Palette) -> None:
    first, second, third = palette
    if rng.random() < 0.5:  # a corner
        box(rng.uniform(-0.1, 1.1), 0, 1.3, 1, first * rng.uniform(0.7, 1.15))
    kind = rng.random()
    if kind < 0.3:  # panels or boards
        step = rng.uniform(0.08, 0.3)
        for x in np.arange(rng.uniform(-step, 0), 1, step):
            box(x, 0, x + 0.012, 1, first * 0.7)
    elif kind < 0.5:  # bricks or tiles
        height = rng.uniform(0.03, 0.07)
        for row, y in enumerate(np.arange(0, 1, height)):
            box(0, y, 1, y + 0.006, first * 0.75)
            for x in np.arange(-0.1 + 0.1 * (row % 2), 1, 0.2):
                box(x, y, x + 0.009, y + height, first * 0.75)
    for _ in range(int(rng.integers(0, 3))):  # pictures, windows, doors
        x, y = rng.uniform(-0.2, 1.0), rng.uniform(-0.2, 0.6)
        wide, high = rng.uniform(0.12, 0.4), rng.uniform(0.15, 0.8)
        box(x, y, x + wide, y + high, second)
        box(x + 0.02, y + 0.02, x + wide - 0.02, y + high - 0.02, third)


def _room(box: _Box, rng: np.random.Generator, palette: _Palette) -> None:
    first, second, third = palette
    floor = rng.uniform(0.65, 1.0)
    lean = rng.normal(0, 0.04)
    box(-0.1, floor, 1.1, 1.3, second * 0.8, lean)
    box(-0.1, floor - 0.02, 1.1, floor, np.minimum(first * 1.15, 1), lean)
    for _ in range(int(rng.integers(2, 7))):  # furniture
        x, top = rng.uniform(-0.2, 1.0), rng.uniform(0.05, floor)
        wide = rng.uniform(0.08, 0.45)
        colour = (second, third, first * 0.6)[int(rng.integers(3))] * rng.uniform(0.6, 1.2)
        box(x, top, x + wide, max(top, floor) + rng.uniform(0, 0.15), colour)
        if rng.random() < 0.6:
            for y in np.arange(top, floor, rng.uniform(0.06, 0.2)):
                box(x, y, x + wide, y + 0.01, colour * 0.6)
    if rng.random() < 0.4:  # a bright window or lamp
        x, y = rng.uniform(-0.1, 0.9), rng.uniform(-0.1, 0.4)
        box(x, y, x + rng.uniform(0.1, 0.3), y + rng.uniform(0.1, 0.5), np.ones(3, np.float32))


def _street(box: _Box, rng: np.random.Generator, palette: _Palette) -> None:
    first, second, third = palette
    box(0, 0, 1, rng.uniform(0, 0.5), np.array([0.75, 0.83, 0.92], np.float32))  # sky
    ground = rng.uniform(0.6, 0.95)
    x = -0.1
    while x < 1:  # houses
        wide = rng.uniform(0.15, 0.5)
        top = rng.uniform(-0.2, 0.3)
        colour = (first, second, third)[int(rng.integers(3))] * rng.uniform(0.6, 1.1)
        box(x, top, x + wide, ground + 0.02, colour)
        high = rng.uniform(0.06, 0.14)
        for y in np.arange(top + 0.05, ground - high, high * 1.7):
            for at in np.arange(x + 0.03, x + wide - 0.05, rng.uniform(0.08, 0.16)):
                box(at, y, at + 0.045, y + high, colour * rng.uniform(0.3, 0.8))
        x += wide
    box(-0.1, ground, 1.1, 1.3, np.full(3, rng.uniform(0.25, 0.65), np.float32))


_DRAWINGS: dict[str, Callable[[_Box, np.random.Generator, _Palette], None]] = {
    "studio": _studio,
    "wall": _wall,
    "room": _room,
    "street": _street,
    "leaves": lambda box, rng, palette: None,
}


def outline(thing: Thing, marks: dict[str, Floats], scale: float) -> list[Floats]:
    """The polygons [K, 2] of a thing, in pixels; of a strap the first is what lies on the body.

    Args:
        thing: what is drawn.
        marks: [2] where the person's shoulders (-1, 1), hips and hands are in the picture, by
            names such as "hand-1" and "hip1".
        scale: pixels a metre.
    """
    own, other = thing.side, -thing.side
    jitter = np.array(thing.at) * scale
    if thing.kind == "strap":
        width = (0.012 + 0.035 * thing.size) * scale
        start = marks[f"shoulder{own}"] + np.array([0, -0.03]) * scale
        start = start + (marks["neck"] - start) * (0.35 + 0.2 * thing.at[0])
        end = marks[f"hip{other}"] + jitter * 0.02
        along = (end - start) / max(float(np.linalg.norm(end - start)), 1e-6)
        across = np.array([-along[1], along[0]]) * width / 2
        middle = (start + end) / 2 + across * 0.6
        far = end + 0.15 * (end - start)
        band = [start + across, middle + across, far + across]
        band += [far - across, middle - across, start - across]
        shapes: list[Floats] = [np.array(band)]
        if thing.at[1] > 0:
            shapes.append(_rounded(end + np.array([0, 0.08]) * scale, 0.10 * scale, 0.08 * scale))
        return shapes
    if thing.kind == "bag":
        half = (0.09 + 0.09 * thing.size) * scale
        hand = marks[f"hand{own}"] + jitter * 0.03
        centre = hand + np.array([0, 0.10 * scale + half])
        handle = [[-0.5, -1.0], [-0.35, -1.9], [0.35, -1.9], [0.5, -1.0]]
        handle += [[0.4, -1.0], [0.28, -1.75], [-0.28, -1.75], [-0.4, -1.0]]
        tall = half * (0.8 + 0.3 * thing.at[1])
        return [_rounded(centre, half, tall), centre + np.array(handle) * (half, tall)]
    if thing.kind == "phone":
        hand = marks[f"hand{own}"] + jitter * 0.01
        size = 0.034 + 0.01 * thing.size
        return [_rounded(hand + np.array([0, -0.04]) * scale, size * scale, 2 * size * scale)]
    # a rail, a table or the back of a chair crosses the bottom of the picture
    y = float(marks["hip1"][1]) + (0.05 + 0.15 * thing.at[1]) * scale
    thick = (0.02 + 0.2 * thing.size) * scale
    x0, x1 = (float(marks["neck"][0]) + scale * v for v in (-1.5, 1.5))
    lean = 0.05 * thing.at[0] * scale
    return [np.array([[x0, y - lean], [x1, y + lean], [x1, y + thick + lean], [x0, y + thick]])]


def _rounded(centre: Floats, half_width: float, half_height: float) -> Floats:
    """A rectangle with round corners, [K, 2]."""
    t = np.linspace(0, 2 * np.pi, 33)
    x, y = np.cos(t), np.sin(t)
    corner = np.stack([np.sign(x) * np.abs(x) ** 0.35, np.sign(y) * np.abs(y) ** 0.35], 1)
    return centre + corner * (half_width, half_height)


def cover(polygons: list[Floats], size: tuple[int, int]) -> Floats:
    """How much of every pixel the polygons cover, float32 [H, W], 0..1."""
    h, w = size
    fine = np.zeros((2 * h, 2 * w), np.uint8)
    for polygon in polygons:
        _fill(fine, polygon * 2 + 0.5, 255)
    return fine.reshape(h, 2, w, 2).mean((1, 3), dtype=np.float32) / 255
