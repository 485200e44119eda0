"""Garments as shells of the body: where they end (cuts) and how far they stand off (drape)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.sparse as sp

from garment_transfer.training.synthetic.anatomy import (
    NECK_Z,
    TORSO_AXIS_Y,
    Floats,
    Mesh,
    anatomy,
    grid,
    smoothstep,
)
from garment_transfer.training.synthetic.people import Garment, Lower
from garment_transfer.training.synthetic.raster import Opening

_BINS = 40
_LEVELS = np.arange(0.62, -0.56, -0.02)


@cache
def upper_shell() -> Mesh:
    """Triangles that an upper garment can use: trunk, neck, arms, thighs and the bridge."""
    a = anatomy()
    c = a.canonical[a.faces]
    centre = c.mean(1)
    usable = (a.hand_share[a.faces].max(1) < 0.9) & (centre[:, 2] > -0.30)
    usable &= (a.head_share[a.faces].max(1) < 0.999) | (centre[:, 2] < 0.66)
    usable &= ~((centre[:, 2] > 0.615) & (centre[:, 1] < -0.078))
    return Mesh.of(np.concatenate([a.faces[usable], a.bridge]), len(a.canonical))


@cache
def lower_shell() -> Mesh:
    """Triangles of trousers: hips and legs."""
    a = anatomy()
    usable = (a.canonical[a.faces][:, :, 2].max(1) < 0.30) & (a.arm_share[a.faces].max(1) < 0.2)
    return Mesh.of(a.faces[usable], len(a.canonical))


_SKIRT_ROWS, _SKIRT_COLUMNS = 26, 56


def skirt_shell() -> Mesh:
    """A tube of rows (waist to hem) and columns (around, closed), see `skirt_rest`."""
    return grid(_SKIRT_COLUMNS + 1, _SKIRT_ROWS)


@cache
def _smoothing() -> sp.csr_matrix:
    """One step of Laplacian smoothing over the mesh, [V, V]."""
    a = anatomy()
    n = len(a.canonical)
    f = a.faces
    rows = np.concatenate([f[:, 0], f[:, 1], f[:, 2]])
    cols = np.concatenate([f[:, 1], f[:, 2], f[:, 0]])
    ones = np.ones(len(rows), np.float32)
    m = sp.csr_matrix((ones, (rows, cols)), shape=(n, n))
    m = ((m + m.T) > 0).astype(np.float32) + sp.identity(n, np.float32, format="csr")
    return sp.diags(1 / np.asarray(m.sum(1)).ravel()).astype(np.float32) @ m


@dataclass(frozen=True)
class Trunk:
    """Outline of one body's trunk at rest, for drape, poses and hair."""

    radius: Floats  #: [levels, bins] distance of the surface from the vertical axis
    level: Callable[[float], float]  #: canonical height to this body's height
    heights: Floats  #: [levels] this body's heights of the canonical _LEVELS

    def profile(self, height: float) -> tuple[float, float, float]:
        """(half width, front y, back y) at a height of this body, metres."""
        row = int(np.abs(self.heights - height).argmin())
        front, left, back, right = self.radius[row, :: _BINS // 4]
        return (float(max(left, right)), float(TORSO_AXIS_Y - front), float(TORSO_AXIS_Y + back))


def _theta_bin(v: Floats) -> Floats:
    return np.arctan2(v[:, 0], -(v[:, 1] - TORSO_AXIS_Y)) / (2 * np.pi) * _BINS


def trunk(rest: Floats) -> Trunk:
    """Measure the trunk of a body at rest, [V, 3]."""
    a = anatomy()
    pick = np.flatnonzero(a.torso)
    v, c = rest[pick], a.canonical[pick]
    middle = np.abs(c[:, 0]) < 0.05
    order = np.argsort(c[middle, 2])
    zc, zb = c[middle, 2][order], v[middle, 2][order]
    knots = np.arange(-0.4, 0.62, 0.04)
    near = np.abs(zc - knots[:, None]) < 0.03
    knots = knots[near.any(1)]
    at_knots = np.array([zb[there].mean() for there in near[near.any(1)]])
    slope = float(np.polyfit(knots, at_knots, 1)[0])

    def level(z: float) -> float:
        if z < knots[0]:
            return float(at_knots[0] + (z - knots[0]) * slope)
        return float(np.interp(z, knots, at_knots))

    reach = np.zeros((len(_LEVELS), _BINS), np.float32)
    row = np.clip(np.round((_LEVELS[0] - c[:, 2]) / 0.02).astype(int), 0, len(_LEVELS) - 1)
    col = np.round(_theta_bin(v)).astype(int) % _BINS
    r = np.hypot(v[:, 0], v[:, 1] - TORSO_AXIS_Y)
    np.maximum.at(reach, (row, col), r)
    # Bins that no vertex fell into take the larger neighbour.
    for _ in range(3):
        near = np.stack([np.roll(reach, 1, 1), np.roll(reach, -1, 1)]).max(0)
        reach = np.where(reach == 0, near, reach)
        reach[1:] = np.where(reach[1:] == 0, reach[:-1], reach[1:])
        reach[:-1] = np.where(reach[:-1] == 0, reach[1:], reach[:-1])
    smooth = (np.roll(reach, 1, 1) + 2 * reach + np.roll(reach, -1, 1)) / 4
    heights = np.array([level(float(z)) for z in _LEVELS], np.float32)
    return Trunk(np.maximum(smooth, 0.97 * reach).astype(np.float32), level, heights)


def _envelope(t: Trunk, slope: float, start: float = 0.42) -> Floats:
    """Radius of cloth that hangs from above and falls back by `slope` metres a metre."""
    out = t.radius.copy()
    for k in range(1, len(out)):
        if _LEVELS[k] < start:
            drop = float(t.heights[k - 1] - t.heights[k])
            out[k] = np.maximum(out[k], out[k - 1] - slope * drop)
    # Across, cloth bridges hollows: the gap between the legs, the small of the back.
    for k in range(len(out)):
        blurred = out[k]
        for _ in range(4 if _LEVELS[k] < 0.1 else 2):
            blurred = (np.roll(blurred, 1) + 2 * blurred + np.roll(blurred, -1)) / 4
        out[k] = np.maximum(out[k], blurred)
    return out


def _sample_envelope(grid: Floats, rest: Floats) -> Floats:
    """Envelope radius at every vertex, [V], bilinear."""
    c = anatomy().canonical
    row = np.clip((_LEVELS[0] - c[:, 2]) / 0.02, 0, len(_LEVELS) - 1.001)
    col = _theta_bin(rest) % _BINS
    r0, c0 = row.astype(int), col.astype(int)
    fr, fc = row - r0, col - c0
    c0 %= _BINS
    c1 = (c0 + 1) % _BINS
    top = grid[r0, c0] * (1 - fc) + grid[r0, c1] * fc
    bottom = grid[r0 + 1, c0] * (1 - fc) + grid[r0 + 1, c1] * fc
    return (top * (1 - fr) + bottom * fr).astype(np.float32)


def _push_out(rest: Floats, radius: Floats, share: Floats) -> Floats:
    """Move vertices away from the vertical axis, `share` of the way to `radius`."""
    d = rest[:, :2] - np.array([0, TORSO_AXIS_Y], np.float32)
    r = np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-4)
    grow = np.maximum(radius - r, 0) * share
    out = rest.copy()
    out[:, :2] += d / r[:, None] * grow[:, None]
    return out


def upper_rest(garment: Garment, rest: Floats, t: Trunk) -> Floats:
    """The shell of an upper garment on a body at rest, [V, 3]."""
    a = anatomy()
    c = a.canonical
    normals = a.normals(rest)
    trunk_share = (1 - smoothstep(a.arm_share, 0.1, 0.6)) * (1 - smoothstep(c[:, 2], 0.44, 0.56))
    env = _sample_envelope(_envelope(t, 0.35 - 0.42 * garment.drape), rest)
    # Even a tight garment does not follow the groin, so its lower part hangs a little.
    hang = np.maximum(garment.drape, 0.9 * smoothstep(c[:, 2], 0.02, -0.06))
    shell = _push_out(rest, env, (trunk_share * hang).astype(np.float32))
    flare = 0.6 * garment.looseness * smoothstep(c[:, 2], 0.3, 0.0) * trunk_share
    if not garment.tucked:
        # Worn over trousers, it has to stand off more than they do.
        flare = flare + 0.007 * smoothstep(c[:, 2], 0.24, 0.12) * trunk_share
    cuff = max(garment.sleeve, 0.15)
    sleeve = garment.sleeve_width * smoothstep(a.arm_length, 0.05, cuff) * a.arm_share
    # The neck rib lies on the skin, whatever hangs below it.
    settle = 1 - 0.55 * smoothstep(c[:, 2], 0.50, 0.60) * (1 - a.arm_share)
    # Cloth lies on what faces up, the tops of the shoulders, and stands off below.
    settle = settle * (1 - 0.65 * np.clip(normals[:, 2], 0, 1) * smoothstep(c[:, 2], 0.35, 0.5))
    shell = shell + normals * (garment.looseness * settle + flare + sleeve)[:, None]
    m = _smoothing()
    smooth = shell
    for _ in range(2 if garment.looseness < 0.012 else 4):
        smooth = m @ smooth
    # Along the normals only: sliding within the surface would bend the pattern.
    smooth = shell + normals * ((smooth - shell) * normals).sum(1, keepdims=True)
    keep = np.maximum(smoothstep(c[:, 2], 0.54, 0.60), 0.35 * (1 - garment.drape))[:, None]
    return (shell * keep + smooth * (1 - keep) + normals * 0.002).astype(np.float32)


def trousers_rest(lower: Lower, rest: Floats) -> Floats:
    """The shell of trousers at rest, [V, 3]."""
    a = anatomy()
    c = a.canonical
    normals = a.normals(rest)
    wide = lower.looseness * smoothstep(c[:, 2], 0.2, -0.15)
    m = _smoothing()
    shell = m @ (m @ (rest + normals * 0.008))
    return (shell + normals * wide[:, None]).astype(np.float32)


def skirt_rest(lower: Lower, t: Trunk) -> tuple[Floats, Floats, Floats]:
    """A skirt at rest: vertices [N, 3], canonical places [N, 3], share of the legs [N, 2] (L, R).

    It hangs as a tube from the hips, so it spans the gap between the legs.
    """
    flare = -0.10 - 0.25 * lower.drape if lower.drape > 0.4 else 0.03
    envelope = _envelope(t, flare, 0.2)
    heights = np.linspace(lower.waist, lower.hem, _SKIRT_ROWS)
    row = np.clip((_LEVELS[0] - heights) / 0.02, 0, len(_LEVELS) - 1.001)
    r0 = row.astype(int)
    fraction = (row - r0)[:, None]
    radius = envelope[r0] * (1 - fraction) + envelope[r0 + 1] * fraction
    theta = np.linspace(0, 2 * np.pi, _SKIRT_COLUMNS + 1) + np.pi
    at = (theta / (2 * np.pi) * _BINS) % _BINS
    c0 = at.astype(int)
    f = at - c0
    radius = radius[:, c0 % _BINS] * (1 - f) + radius[:, (c0 + 1) % _BINS] * f
    rng = np.random.default_rng(lower.seed)
    down = np.linspace(0, 1, _SKIRT_ROWS)[:, None]
    pleats = np.sin(theta * int(rng.integers(5, 9)) + rng.uniform(0, 6))
    radius = radius + 0.008 + 0.014 * lower.drape * down * pleats

    def around(r: Floats, z: Floats) -> Floats:
        x, y = r * np.sin(theta), TORSO_AXIS_Y - r * np.cos(theta)
        return np.stack([x, y, np.broadcast_to(z[:, None], r.shape)], -1).reshape(-1, 3)

    vertices = around(radius, np.array([t.level(float(h)) for h in heights]))
    places = around(radius, heights)
    side = smoothstep(places[:, 0], -0.1, 0.1)
    leg = 0.75 * smoothstep(places[:, 2], 0.06, -0.25)
    legs = np.stack([leg * side, leg * (1 - side)], 1)
    return vertices.astype(np.float32), places.astype(np.float32), legs.astype(np.float32)


def opening(garment: Garment) -> Opening:
    """The neck opening and armholes of a garment as the rasteriser takes them."""
    style = {"v": 1, "collar": 1, "square": 2, "turtleneck": 3}.get(garment.neckline, 0)
    return Opening(
        style=style,
        width=garment.neck_width,
        depth=garment.neck_depth,
        top=NECK_Z + (garment.neck_depth - 0.032 if style == 3 else -0.004),
        strap=garment.strap if garment.sleeve <= 0 else -1.0,
    )


def opening_cut(garment: Garment, places: Floats) -> Floats:
    """Distance from neck opening and armholes at canonical places, >= 0 where there is cloth.

    The neck opening is an ellipse, a V or a rounded square that hangs from the points where
    neck meets shoulders, shallow behind and `neck_depth` deep in front. An armhole runs from
    the strap's outer edge down to the armpit.

    Args:
        garment: whose opening.
        places: [P, 3] canonical coordinates.

    Returns:
        [P] about metres near the edge.
    """
    o = opening(garment)
    x, y, z = np.abs(places[:, 0]), places[:, 1], places[:, 2]
    if o.style == 3:
        cut = o.top + 0.4 * (y + 0.03) - z
    else:
        depth = 0.022 + (o.depth - 0.022) * smoothstep(y, 0.01, -0.05)
        drop = np.maximum(o.top - z, 0) / depth
        across = x / o.width
        if o.style == 1:
            f = across + drop - 1
        elif o.style == 2:
            f = (across**6 + drop**6) ** (1 / 6) - 1
        else:
            f = np.sqrt(across**2 + drop**2) - 1
        # Above the shoulders there is only neck.
        cut = np.minimum(f * np.minimum(depth, o.width), 0.035 + o.top - z)
    if o.strap >= 0:
        edge = o.strap + (0.155 - o.strap) * smoothstep(z, 0.50, 0.39)
        cut = np.minimum(cut, edge + 0.1 * smoothstep(z, 0.41, 0.33) - x)
    return cut.astype(np.float32)


def upper_cuts(garment: Garment, hem: float | None = None) -> Floats:
    """Cut scalars [V, 3] of an upper garment: cloth where all are >= 0.

    Channel 0 is to be added to `opening_cut` (it excludes the head), 1 is the sleeve's end, 2 the
    hem, in about metres.

    Args:
        garment: the garment.
        hem: height that replaces the garment's own (tucked into a waistband).
    """
    a = anatomy()
    v = a.canonical
    x, z = np.abs(v[:, 0]), v[:, 2]
    blend = smoothstep(a.arm_share, 0.0, 0.6)
    along = a.arm_length * blend - 0.2 * (1 - blend)
    sleeve = 0.02 - along * 0.4 if garment.sleeve <= 0 else (garment.sleeve - along) * 0.4
    height = garment.hem if hem is None else hem
    bottom = z - height - (garment.hem_curve * x**2 if hem is None else 0.0)
    # Seen from the front, the back of a hem stays behind its front.
    bottom = bottom - 0.016 * smoothstep(v[:, 1], -0.01, 0.04)
    bottom = np.where(a.arm_share > 0.3, 1.0, bottom)
    head = np.where(a.head_share > 0.999, -1.0, 0.0)
    return np.stack([head, sleeve, bottom], 1).astype(np.float32)


def lower_cuts(lower: Lower) -> Floats:
    """Cut scalars [V, 3] (waistband, hem, not an arm) of what trousers or skirt cover."""
    a = anatomy()
    z = a.canonical[:, 2]
    return np.stack([lower.waist - z, z - lower.hem, 0.25 - a.arm_share], 1).astype(np.float32)
