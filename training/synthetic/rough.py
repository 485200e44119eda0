"""Make clean label maps as rough as those that parsing networks and DensePose give on photos."""

import cv2
import numpy as np
from numpy.typing import NDArray

from garment_transfer.bundle import BACKGROUND, FACE, GARMENT, HAIR, LOWER, SKIN
from garment_transfer.training.synthetic.anatomy import Floats
from garment_transfer.training.synthetic.render import U8, Rendered
from garment_transfer.training.synthetic.shots import REAL, Roughness


def _field(rng: np.random.Generator, size: tuple[int, int], wavelength: float) -> Floats:
    """Smooth noise [H, W] of unit deviation with features of `wavelength` pixels."""
    h, w = size
    n = max(int(h / wavelength), 2) + 2
    m = max(int(w / wavelength), 2) + 2
    coarse = rng.standard_normal((n, m)).astype(np.float32)
    fine = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine / max(float(fine.std()), 1e-6), np.float32)


def _shift(labels: U8, rng: np.random.Generator, px: float, wavelength: float) -> U8:
    """Move labels [H, W, ...] along a smooth random displacement of deviation `px` pixels."""
    h, w = labels.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    dx, dy = (px * _field(rng, (h, w), wavelength) for _ in range(2))
    limit = 3 * px
    x, y = x + np.clip(dx, -limit, limit), y + np.clip(dy, -limit, limit)
    moved = cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)


def _votes(labels: U8, k: int, classes: int) -> Floats:
    """Share of each class in a k x k window, [classes, H, W]."""
    return np.stack([cv2.blur((labels == c).astype(np.float32), (k, k)) for c in range(classes)])


def _rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost pixels of a mask."""
    return mask ^ cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def _blocky(labels: U8, factor: float) -> U8:
    """Labels at a lower resolution and back: the staircase borders of small networks."""
    h, w = labels.shape[:2]
    size = max(int(w / factor), 1), max(int(h / factor), 1)
    small = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_NEAREST), np.uint8)


def rough_parsing(
    parsing: U8,
    canonical_neck: NDArray[np.bool_],
    rng: np.random.Generator,
    roughness: Roughness = REAL,
) -> U8:
    """A parsing [H, W] as a network would draw it.

    Args:
        parsing: clean seven classes.
        canonical_neck: neck and bare chest, which VITON's label set leaves to the background.
        rng: source of chance.
        roughness: how rough.
    """
    h, w = parsing.shape
    unit = h / 256
    out = parsing.copy()
    if rng.random() < roughness.neck:
        out[canonical_neck] = BACKGROUND
    # Calibrated on real maps: a dark garment on a light ground, cut out by its brightness, agrees
    # with its label at an IoU of 0.95 to 0.97.
    out = _shift(
        out, rng, rng.uniform(*roughness.drift) * unit, rng.uniform(*roughness.drift_wave) * unit
    )
    out = _shift(out, rng, rng.uniform(*roughness.jag) * unit, 5 * unit)
    if rng.random() < roughness.majority:
        # the most frequent label around, which removes slivers
        out = _votes(out, max(3, int(3 * unit) | 1), 7).argmax(0).astype(np.uint8)
    if rng.random() < roughness.blocky:
        out = _blocky(out, float(rng.uniform(1.3, 2.2)) * unit)
    yy, xx = np.mgrid[:h, :w]

    def blob(cy: float, cx: float, radius: float) -> NDArray[np.bool_]:
        d = np.hypot(yy - cy, xx - cx) + radius * 0.4 * _field(rng, (h, w), max(radius, 3))
        return d < radius

    # Holes and specks near borders, where networks hesitate.
    edge = np.argwhere(_rim(out > 0))
    for _ in range(int(rng.poisson(roughness.holes))):
        if len(edge):
            cy, cx = edge[int(rng.integers(len(edge)))]
            value = BACKGROUND if rng.random() < 0.6 else int(rng.integers(1, 6))
            spot = blob(float(cy), float(cx), float(rng.uniform(*roughness.hole_radius)) * unit)
            out[spot] = value
    # Hands are taken for cloth, trousers or nothing.
    hands = (out == SKIN) & (yy > 0.62 * h)
    if hands.any() and rng.random() < roughness.lost_hand:
        count, regions = cv2.connectedComponents(hands.astype(np.uint8))
        if count > 1:
            region = regions == int(rng.integers(1, count))
            ys, xs = np.nonzero(region)
            fate = rng.random()
            if fate < 0.35 and ys.size < 600 * unit**2:
                out[region] = (BACKGROUND, LOWER)[int(rng.random() < 0.5)]
            else:
                at = int(rng.integers(len(ys)))
                spot = blob(float(ys[at]), float(xs[at]), float(rng.uniform(2, 5)) * unit)
                out[region & spot] = (BACKGROUND, LOWER, GARMENT)[int(rng.integers(3))]
    # The hairline against the face, and strands against the garment, are anybody's guess.
    if rng.random() < roughness.hairline:
        border = cv2.dilate((out == HAIR).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        wobble = _field(rng, (h, w), 8 * unit) > 0.9
        out[border & wobble & ((out == FACE) | (out == GARMENT))] = HAIR
    return out


def rough_densepose(
    densepose: U8, rng: np.random.Generator, roughness: Roughness = REAL, bottom: int | None = None
) -> U8:
    """DensePose [H, W, 3] as the tool gives it: blobs, a wrong fringe, no U and V for some.

    The photo ends at row `bottom`, by default with the map.
    """
    h, w = densepose.shape[:2]
    unit = h / 256
    moved = _shift(
        densepose,
        rng,
        rng.uniform(*roughness.sway) * unit,
        rng.uniform(*roughness.sway_wave) * unit,
    )
    labels, u, v = (np.ascontiguousarray(moved[..., k]) for k in range(3))
    # Smooth blobs: fingers and thin gaps are beyond DensePose's resolution.
    k = max(3, int(rng.integers(*roughness.window) * unit) | 1)
    votes = _votes(labels, k, 25)
    votes[0] *= 1 / rng.uniform(*roughness.shrink)
    # Heads and hands come out as round blobs, larger than the bare skull and the fingers.
    votes[[3, 4, 23, 24]] *= float(rng.uniform(*roughness.blobs))
    if roughness.limbs:
        votes[15:23] *= float(rng.uniform(*roughness.limbs))
    smooth = votes.argmax(0).astype(np.uint8)
    if roughness.fray:
        smooth = _shift(smooth, rng, rng.uniform(*roughness.fray) * unit, 4 * unit)
    gained = (smooth > 0) & (labels == 0)
    if gained.any():
        known = (labels > 0).astype(np.float32)
        weight = cv2.blur(known, (2 * k + 1, 2 * k + 1)) + 1e-6
        for chart in (u, v):
            fill = cv2.blur(chart.astype(np.float32) * known, (2 * k + 1, 2 * k + 1)) / weight
            chart[gained] = fill[gained].astype(np.uint8)
    labels = smooth
    if rng.random() < roughness.fringe:
        wrong = _rim(labels > 0) & (_field(rng, (h, w), 6 * unit) > 1.3)
        labels[wrong] = rng.integers(1, 25, int(wrong.sum()))
    if rng.random() < roughness.lost_limb:
        limb = int(rng.choice([3, 4, 19, 20, 21, 22]))
        where = np.argwhere(labels == limb)
        if len(where):
            cy, cx = where[int(rng.integers(len(where)))]
            y, x = np.mgrid[:h, :w]
            labels[(np.hypot(y - cy, x - cx) < rng.uniform(2, 6) * unit) & (labels == limb)] = 0
    if rng.random() < roughness.stop:
        labels[(bottom or h) - int(rng.integers(*roughness.stop_rows) * unit) :] = 0
    if rng.random() < 1 - roughness.charts:
        u, v = np.zeros_like(u), np.zeros_like(v)
    else:
        wave = roughness.noise_wave * unit
        smooth = _blurred(labels, (u, v), roughness.smooth * unit) if roughness.smooth else (u, v)
        u, v = (
            np.clip(chart + roughness.noise * _field(rng, (h, w), wave), 0, 255).astype(np.uint8)
            for chart in smooth
        )
    out = np.stack([labels, u, v], -1)
    out[labels == 0] = 0
    return out


def _blurred(labels: U8, charts: tuple[U8, U8], sigma: float) -> tuple[Floats, Floats]:
    """U and V [H, W] blurred within each part: a network gives them smoother than the skin is."""
    out = tuple(chart.astype(np.float32) for chart in charts)
    margin = int(3 * sigma) + 1
    for part in np.unique(labels)[1:]:
        x, y, wide, high = cv2.boundingRect((labels == part).astype(np.uint8))
        window = np.s_[
            max(y - margin, 0) : y + high + margin, max(x - margin, 0) : x + wide + margin
        ]
        mask = labels[window] == part
        weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)[mask]
        for chart, blurred in zip(charts, out, strict=True):
            sums = cv2.GaussianBlur(chart[window] * mask.astype(np.float32), (0, 0), sigma)
            blurred[window][mask] = sums[mask] / weight
    return out[0], out[1]


def roughen(
    rendered: Rendered, rng: np.random.Generator, roughness: Roughness = REAL
) -> tuple[U8, U8]:
    """Rough parsing [H, W] and DensePose [H, W, 3] of a rendered person, uint8.

    Other people in the photo are in the parsing, as a parser does not know whom it is about.
    """
    parsing = rendered.parsing
    if rendered.others.any() and rng.random() < 0.8:
        parsing = np.where(parsing == BACKGROUND, rendered.others, parsing)
    parsing = rough_parsing(parsing, rendered.neck, rng, roughness)
    y0, y1, x0, x1 = rendered.inside
    densepose = rough_densepose(rendered.densepose, rng, roughness, y1)
    for labels in (parsing, densepose):  # nothing is known of what the photo does not show
        labels[:y0], labels[y1:], labels[:, :x0], labels[:, x1:] = 0, 0, 0, 0
    return parsing, densepose
