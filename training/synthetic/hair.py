"""Hair as a cap on the skull and a curtain of strands that falls from it."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial import cKDTree

from garment_transfer.training.synthetic.anatomy import (
    HEAD_CENTRE,
    I32,
    Floats,
    Mesh,
    anatomy,
    grid,
    smoothstep,
)
from garment_transfer.training.synthetic.people import Hair

_COLUMNS, _ROWS = 72, 28


@dataclass(frozen=True)
class HairMesh:
    """A piece of hair at rest: topology, vertices, weights and strand coordinates."""

    mesh: Mesh
    vertices: Floats  #: [N, 3]
    head: Floats  #: [N] share that moves with the head, the rest with the upper spine
    strand: Floats  #: [N, 2] (angle about the head / pi, way down 0..1)
    cut: Floats  #: [N] hair where >= 0

    @classmethod
    def of(
        cls, mesh: Mesh, vertices: Floats, head: Floats, strand: Floats, cut: Floats
    ) -> "HairMesh":
        """From arrays of N entries in any number of axes."""
        shaped = (vertices.reshape(-1, 3), head.reshape(-1), strand.reshape(-1, 2), cut.reshape(-1))
        return cls(mesh, *(array.astype(np.float32) for array in shaped))


@cache
def _cap_topology() -> tuple[I32, Mesh]:
    """Vertex indices of the skull and the mesh of them."""
    a = anatomy()
    z = a.canonical[:, 2]
    # The first connected component is the skin; eyes and mouth come after it.
    inside = (z > 0.60) & (a.head_share > 0.5) & (np.arange(len(z)) < 13348)
    faces = a.faces[inside[a.faces].all(1)]
    c = a.canonical[faces].mean(1)
    # The mouth's cavity lies inside the skull.
    cavity = (np.abs(c[:, 0]) < 0.045) & (c[:, 2] < 0.70) & (c[:, 1] > -0.145) & (c[:, 1] < 0.0)
    faces = faces[~cavity]
    used = np.unique(faces)
    index = np.full(len(z), -1, np.int32)
    index[used] = np.arange(len(used))
    return used.astype(np.int32), Mesh.of(index[faces], len(used))


def _angle(c: Floats) -> Floats:
    """Angle about the head, 0 in front, positive to the subject's left, radians."""
    return np.arctan2(c[:, 0] - HEAD_CENTRE[0], -(c[:, 1] - HEAD_CENTRE[1]))


def hairline(hair: Hair, angle: Floats) -> Floats:
    """Canonical height of the hairline at angles about the head."""
    front = 0.806 - 0.05 * hair.fringe - 0.006 * np.clip(hair.volume / 0.02, 0, 1)
    # Loose hair covers the ears, other styles leave them free.
    ear = 0.70 if hair.style in ("bob", "long") else 0.750
    knots = np.radians([0, 25, 45, 62, 82, 91, 114, 126, 180])
    values = [front, front, front - 0.012, 0.768, 0.722, ear, ear, 0.660, 0.632]
    return np.interp(np.abs(angle), knots, values)


def flatten_ears(rest: Floats) -> Floats:
    """A body at rest, [V, 3], with its ears laid flat under loose hair."""
    c = anatomy().canonical
    ear = (np.abs(c[:, 0]) > 0.071) & (np.abs(c[:, 2] - 0.71) < 0.055) & (np.abs(c[:, 1]) < 0.09)
    out = rest.copy()
    out[ear, 0] *= 0.070 / np.abs(c[ear, 0])
    return out


def cap(hair: Hair, rest: Floats, normals: Floats) -> HairMesh | None:
    """Hair that lies on the skull of a body at rest."""
    if hair.style == "bald":
        return None
    a = anatomy()
    used, mesh = _cap_topology()
    c = a.canonical[used]
    angle = _angle(c)
    rng = np.random.default_rng(hair.seed)
    line = hairline(hair, angle)
    # A parting is a small notch in the front hairline, to one side.
    if hair.fringe == 0 and hair.style != "buzz":
        line = line + 0.01 * np.exp(-(((angle - 0.35 * np.sign(hair.parting)) / 0.3) ** 2))
    jitter = rng.normal(0, 0.0025, len(c))
    cut = c[:, 2] - line + jitter
    high = smoothstep(c[:, 2], 0.72, 0.84)
    thickness = {
        "buzz": 0.002 + 0.002 * high,
        "short": 0.004 + hair.volume * (0.25 + 1.3 * high),
        "tied": 0.003 + 0.4 * hair.volume * high,
        "bun": 0.003 + 0.4 * hair.volume * high,
        "bob": 0.005 + hair.volume * (0.7 + 0.5 * high),
        "long": 0.005 + hair.volume * (0.6 + 0.5 * high),
    }[hair.style]
    # Thin at the hairline: hair grows out of the skin, it is not a helmet.
    thickness = thickness * (0.35 + 0.65 * smoothstep(cut, 0.0, 0.03))
    lumps = 0.0
    if hair.style in ("short", "bob", "long"):
        k = rng.normal(0, 1, (4, 3)) * 45
        lumps = sum(np.sin(c @ k[i] + rng.uniform(0, 6)) for i in range(4)) * 0.06 * hair.volume
    vertices = rest[used] + normals[used] * (thickness + lumps)[:, None]
    strand = np.stack([angle / np.pi, (0.86 - c[:, 2]) / 0.3], 1)
    return HairMesh.of(mesh, vertices, np.ones(len(c)), strand, cut)


def curtain(hair: Hair, rest: Floats, eyes: Floats, shoulder: float) -> HairMesh | None:
    """Hair that hangs: bobs, long hair, and the lock of tied hair over a shoulder.

    Args:
        hair: the style.
        rest: [V, 3] body at rest.
        eyes: [3] point between the eyes at rest.
        shoulder: its height at rest.
    """
    if hair.style not in ("bob", "long", "tied"):
        return None
    if hair.style == "tied" and hair.front[0] == hair.front[1]:
        return None
    a = anatomy()
    rng = np.random.default_rng([hair.seed, 1])
    crown = float(rest[a.head_share > 0.9, 2].max())
    k = (crown - float(eyes[2])) / (0.849 - 0.728)
    chin = float(eyes[2]) - 0.108 * k
    centre = np.array([0.0, eyes[1] + k * 0.085, eyes[2] + k * 0.007])
    lock = hair.style == "tied"
    if lock:
        side = 1.0 if hair.front[1] else -1.0
        phi = np.linspace(np.radians(95), np.radians(150), _COLUMNS) * side
    else:
        opening = np.radians(56 + 12 * rng.random())
        phi = np.linspace(opening, 2 * np.pi - opening, _COLUMNS)
    phi = (phi + np.pi) % (2 * np.pi) - np.pi
    order = np.linspace(0, 1, _COLUMNS)
    if hair.style == "bob":
        end = chin + 0.03 - 0.10 * hair.length
    elif lock:
        end = shoulder - 0.04 - 0.16 * hair.length
    else:
        end = shoulder - 0.03 - 0.24 * hair.length
    # Smooth noise of about -1..1, and some from strand to strand.
    n = np.interp(np.linspace(0, 8, _COLUMNS), np.arange(9), rng.normal(0, 1, 9))
    fine = rng.normal(0, 1, _COLUMNS)
    ends = end + 0.018 * n + 0.006 * fine
    # Hair at the face is cut a little shorter.
    ends = ends + 0.03 * np.exp(-np.minimum(order, 1 - order) / 0.06) * rng.uniform(-0.3, 1)
    start = centre[2] + 0.085 * k
    s = np.linspace(0, 1, _ROWS)[:, None]
    z = start + (ends[None, :] - start) * s
    rx, ry = k * 0.096 + hair.volume * 1.1, k * 0.112 + hair.volume
    up = np.clip((z - centre[2]) / (crown + 0.012 - centre[2]), 0, 1)
    swell = np.sqrt(np.clip(1 - up**2, 0.02, 1))
    below = smoothstep(z, chin + 0.02, shoulder - 0.01)
    if lock:
        # It comes forward beside the neck, above the shoulder that would hide it.
        below = smoothstep(z, chin + 0.05, chin - 0.01)
    angle = np.broadcast_to(phi[None, :], z.shape).copy()
    left = angle > 0
    in_front = np.where(left, hair.front[1], hair.front[0])
    # Locks behind the shoulder turn to the back below the chin.
    back = np.radians(118)
    turned = np.sign(angle) * np.maximum(np.abs(angle), back)
    behind = angle + (turned - angle) * smoothstep(z, chin + 0.06, chin - 0.03)
    angle = np.where(in_front, angle, behind)
    waves = (
        0.012 * hair.waves * np.sin(26 * (start - z) + 5 * order[None, :]) * smoothstep(s, 0.2, 0.6)
    )
    taper = 1 - 0.16 * below if hair.style != "bob" else 1 + 0.06 * smoothstep(s, 0.5, 0.9)
    x = centre[0] + (rx * swell * taper + waves) * np.sin(angle)
    y = centre[1] - ry * swell * np.cos(angle)
    if lock:
        x = x + (side * (0.082 + 0.05 * (order[None, :] - 0.5) * (1 - 0.6 * s**3)) - x) * below
    towards = (in_front & (np.abs(phi)[None, :] < np.radians(125))) | lock
    if not lock:
        # Locks that lie on the chest spread out flat there.
        share = np.clip((np.abs(phi) - np.radians(55)) / np.radians(70), 0, 1)[None, :]
        flat = np.sign(phi)[None, :] * k * (0.050 + 0.085 * share) + waves
        x = np.where(towards, x + (flat - x) * smoothstep(z, chin + 0.03, shoulder), x)
    # In front of the body hair lies on it; behind, it falls free.
    front_skin = a.torso | ((a.arm_share > 0.3) & (a.canonical[:, 2] > 0.45))
    skin = rest[front_skin & (a.canonical[:, 1] < 0.0) & (a.canonical[:, 2] > 0.1)]
    tree = cKDTree(skin[:, ::2])
    surface = skin[tree.query(np.stack([x.ravel(), z.ravel()], 1))[1], 1].reshape(z.shape)
    resting = np.minimum(y, surface - 0.028)
    y = np.where(towards, y + (resting - y) * below, y)
    head = 1 - smoothstep(z, chin + 0.01, shoulder - 0.02)
    vertices = np.stack([x, y, z], -1)
    strand = np.stack(np.broadcast_arrays(phi / np.pi, s), -1)
    ragged = 1 - s - np.clip(0.05 * np.abs(fine)[None, :], 0, 0.12)
    return HairMesh.of(grid(_COLUMNS, _ROWS), vertices, head, strand, ragged)


def bun(hair: Hair, rest: Floats) -> HairMesh | None:
    """A knot on top or at the back of the head."""
    if hair.style != "bun":
        return None
    a = anatomy()
    rng = np.random.default_rng([hair.seed, 2])
    crown = float(rest[a.head_share > 0.9, 2].max())
    back = float(rest[a.head_share > 0.9, 1].max())
    high = rng.random()
    r = rng.uniform(0.032, 0.05)
    centre = np.array([rng.normal(0, 0.008), back - 0.03 - 0.05 * high, crown - 0.05 + 0.06 * high])
    columns, rows = 25, 13
    p = np.linspace(0, 2 * np.pi, columns)[None, :]
    t = np.linspace(0.01, np.pi - 0.01, rows)[:, None]
    bumps = 1 + 0.06 * np.sin(3 * p + 4 * t)
    x, y = r * np.sin(t) * np.sin(p) * bumps, -r * np.sin(t) * np.cos(p) * bumps
    v = np.stack([x, y, 0.85 * r * np.cos(t) * bumps], -1)
    strand = np.stack([p / np.pi + t, t / np.pi + 0 * p], -1)
    n = columns * rows
    mesh = Mesh.of(grid(columns, rows).faces[:, ::-1].copy(), n)
    return HairMesh.of(mesh, centre + v, np.ones(n), strand, np.ones(n))
