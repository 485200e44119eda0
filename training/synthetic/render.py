"""From a `Body` and a `Garment` to pixels, label maps and the true flow between two people.

All views are orthographic along +y. Image positions are in pixels of the output, pixel centres at
integers, as everywhere in this package.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

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
    InputError,
    Size,
)
from garment_transfer.runtime.photos import frame
from garment_transfer.training.synthetic import cloth, hair, raster, surroundings, texture
from garment_transfer.training.synthetic.anatomy import (
    I32,
    Floats,
    Mesh,
    anatomy,
    apply_transforms,
    bone_transforms,
    part_of,
    rest_body,
    skin_transforms,
    smoothstep,
    unit,
)
from garment_transfer.training.synthetic.people import (
    HELD_OUT,
    Body,
    Garment,
    neutral_body,
    sample_body,
    sample_garment,
)
from garment_transfer.training.synthetic.posing import behind, pose
from garment_transfer.training.synthetic.raster import (
    DROP_A,
    DROP_B,
    KEEP_A,
    KEEP_B,
    OPENING,
    Fragments,
)
from garment_transfer.training.synthetic.shots import Shot

U8 = NDArray[np.uint8]
_SKIN, _UPPER, _LOWER, _CAP, _HAIR = range(5)


@dataclass(frozen=True)
class Figure:
    """A posed body, before it is dressed; shared by all garments on it."""

    body: Body
    rest: Floats  #: [V, 3]
    trunk: cloth.Trunk
    blend: Floats  #: [V, 3, 4] skinning transforms
    posed: Floats  #: [V, 3]
    lower: Floats  #: [V or N, 3] posed shell of trousers or skirt
    skirt: Floats | None  #: [N, 3] canonical places of a skirt
    hair: tuple[tuple[hair.HairMesh, Floats, int], ...]  #: piece, posed vertices, layer
    bias: Floats  #: [V] metres that limbs are drawn nearer, so that cloth cannot swallow them
    tall: float  #: height of the body, metres
    height: float  #: of the frame, metres
    origin: tuple[float, float]  #: world x of the frame's middle, world z of the frame's top
    #: (top, bottom, left, right) of the photo that the frame is cut from, world z and x
    photo: tuple[float, float, float, float]


@dataclass(frozen=True)
class Rendered:
    """A rendered person and what `true_flow` needs."""

    image: U8  #: [H, W, 3] RGB
    parsing: U8  #: [H, W] seven classes
    densepose: U8  #: [H, W, 3] IUV: I 0..24, U and V 0..255
    garment_face: I32  #: [H, W] triangle of the upper shell, -1 elsewhere
    garment_bary: Floats  #: [H, W, 3]
    depth: Floats  #: [H, W] metres, nearest surface
    shell: Floats  #: [V, 3] upper shell: x and y in pixels, depth in metres
    neck: NDArray[np.bool_]  #: [H, W] bare neck and chest, skin that some label sets leave out
    albedo: U8  #: [H, W, 3] RGB, colours without light (background as in the image)
    others: U8  #: [H, W] seven classes of other people in the photo, 0 elsewhere
    inside: tuple[int, int, int, int]  #: (top, bottom, left, right) of the photo in the frame


def build_figure(body: Body, size: tuple[int, int] = (256, 192)) -> Figure:
    """Pose a body, its hair and its lower garment.

    The photo of a body with a `Shot` is framed by the rule of `bundle.FRAMING` for views of the
    aspect of `size`, (H, W).
    """
    a = anatomy()
    rest, heads = rest_body(body.phenotype, body.slim, body.head_size, body.neck)
    t = cloth.trunk(rest)
    if body.hair.style in ("bob", "long"):
        rest = hair.flatten_ears(rest)
    bones = bone_transforms(heads, pose(body, heads, t.profile, t.level))
    blend = skin_transforms(bones)
    posed = apply_transforms(blend, rest)
    skirt: Floats | None = None
    if body.lower.kind == "skirt":
        tube, skirt, legs = cloth.skirt_rest(body.lower, t)
        names = ("root", "upperleg01.L", "upperleg01.R")
        shares = np.concatenate([1 - legs.sum(1, keepdims=True), legs], 1)
        mixed = np.einsum("nb,bij->nij", shares, bones[[a.bones[b] for b in names]])
        lower = apply_transforms(mixed, tube)
    else:
        lower = apply_transforms(blend, cloth.trousers_rest(body.lower, rest))
    normals = a.normals(rest)
    eyes = (heads[a.bones["eye.L"]] + heads[a.bones["eye.R"]]) / 2
    shoulder = float(heads[a.bones["upperarm01.L"], 2]) + 0.03
    head_bone, spine = bones[a.bones["head"]], bones[a.bones["spine01"]]
    pieces = []
    for piece, layer in (
        (hair.cap(body.hair, rest, normals), _CAP),
        (hair.curtain(body.hair, rest, eyes, shoulder), _HAIR),
        (hair.bun(body.hair, rest), _HAIR),
    ):
        if piece is None:
            continue
        with_head = piece.vertices @ head_bone[:, :3].T + head_bone[:, 3]
        with_spine = piece.vertices @ spine[:, :3].T + spine[:, 3]
        w = piece.head[:, None]
        pieces.append((piece, (with_head * w + with_spine * (1 - w)).astype(np.float32), layer))
    lower_arm = smoothstep(a.arm_length, 0.45, 0.8) * a.arm_share
    bias = 0.035 * lower_arm + 0.03 * smoothstep(a.hand_share, 0.2, 0.8) * a.arm_share
    for side, arm in zip((-1, 1), body.arms, strict=True):
        if behind(arm):
            bias = np.where(a.side == side, 0, bias)
    tall = float(np.ptp(rest[:, 2]))
    height = body.frame[0] * tall
    top = float(posed[a.head_share > 0.9, 2].max()) + body.frame[1] * tall
    trunk_x = posed[a.torso & (a.canonical[:, 2] > 0)]
    middle = float(trunk_x[:, 0].mean()) + body.frame[2] * height
    figure = Figure(
        body,
        rest,
        t,
        blend,
        posed,
        lower,
        skirt,
        tuple(pieces),
        bias.astype(np.float32),
        tall,
        height,
        (middle, top),
        (np.inf, -np.inf, -np.inf, np.inf),
    )
    return figure if body.shot is None else _framed(figure, body.shot, size)


#: Rows that a body's height takes in the view that its frame is found in.
_FRAMING_ROWS = 240


def _framed(figure: Figure, shot: Shot, size: tuple[int, int]) -> Figure:
    """A figure in the frame that the rule finds in its photo."""
    a = anatomy()
    high, aspect, room, shift = shot.photo
    high *= figure.tall
    wide = high * aspect
    tops = [figure.posed[a.head_share > 0.9], *(posed for _, posed, _ in figure.hair)]
    crown = max(float(top[:, 2].max()) for top in tops)
    top = crown + room * high
    left = figure.origin[0] - (0.5 + shift) * wide
    photo = top, top - high, left, left + wide
    # Of the photo as much is looked at as the parts of the rule can reach.
    pixel = figure.tall / _FRAMING_ROWS
    low = np.array([figure.posed[:, 0].min() - pixel, crown - 0.72 * figure.tall])
    x0, x1 = max(left, float(low[0])), min(left + wide, float(figure.posed[:, 0].max()) + pixel)
    z0, z1 = max(top - high, float(low[1])), min(top, crown + pixel)
    shown = max(round((z1 - z0) / pixel), 1), max(round((x1 - x0) / pixel), 1)
    view = replace(figure, height=shown[0] * pixel, origin=((x0 + x1) / 2, z1), photo=photo)
    try:
        box = frame(_densepose(view, shown), FRAMING, Size(*size))
    except InputError:  # the photo misses the body
        return replace(figure, photo=photo)
    rng = np.random.default_rng([shot.seed, 2])
    # DensePose is no surer of where the body ends than of anything else
    near = rng.normal(0, 0.008, 3).clip(-0.02, 0.02)
    height = box.height * pixel * (1 + 2 * float(near[0]))
    left = (x0 + x1) / 2 + (box.left + box.width / 2 - shown[1] / 2 + near[1] * box.width) * pixel
    return replace(
        view, height=height, origin=(float(left), z1 - (box.top + near[2] * box.height) * pixel)
    )


def _project(vertices: Floats, figure: Figure, size: tuple[int, int]) -> Floats:
    """World [N, 3] to (x pixels, y pixels, depth metres)."""
    h, w = size
    scale = h / figure.height
    return np.stack(
        [
            (w - 1) / 2 + (vertices[:, 0] - figure.origin[0]) * scale,
            (figure.origin[1] - vertices[:, 2]) * scale - 0.5,
            vertices[:, 1],
        ],
        axis=1,
    ).astype(np.float32)


@dataclass(frozen=True)
class _Scene:
    """All layers of a dressed figure in one vertex and triangle list."""

    points: Floats  #: [N, 3] pixels and biased depth
    faces: I32  #: [M, 3]
    mode: I32  #: [M]
    cuts: Floats  #: [N, 6]
    opening: raster.Opening
    normals: Floats
    layer: I32  #: [M + 1] layer of each triangle, and -1 for none
    attributes: Floats  #: [N, 10] canonical xyz, arm round (2), along, arm share, chart xyz


def _compose(
    figure: Figure, garment: Garment, shell: Floats, size: tuple[int, int], alone: bool
) -> _Scene:
    """The layers of a figure in a garment, or those of the garment `alone`."""
    a = anatomy()
    v = a.canonical
    body = figure.body
    tucked_hem = body.lower.waist - 0.03 if garment.tucked else None
    cuts_upper = cloth.upper_cuts(garment, tucked_hem)
    cuts_lower = cloth.lower_cuts(body.lower)
    surface = np.concatenate(
        [v, a.arm_round, a.arm_length[:, None], a.arm_share[:, None], a.chart], 1
    )
    parts: list[tuple[int, Floats, I32, int, Floats, Floats, Floats]] = []

    def add(
        layer: int,
        mesh: Mesh,
        vertices: Floats,
        mode: int,
        cuts: Sequence[Floats],
        attributes: Floats = surface,
        nearer: Floats | float = 0.0,
    ) -> None:
        points = _project(vertices, figure, size)
        points[:, 2] -= nearer
        normals = mesh.normals(vertices)
        parts.append((layer, points, mesh.faces, mode, np.hstack(cuts), normals, attributes))

    upper = cloth.upper_shell()
    if alone:
        add(_UPPER, upper, shell, KEEP_A | OPENING, (cuts_upper, cuts_lower), nearer=figure.bias)
    else:
        hidden = cuts_upper - 0.004
        for side, arm in ((-1, body.arms[0]), (1, body.arms[1])):
            if arm.pose == "pocket":
                # The hand is in the pocket: leave it out beyond the wrist.
                hand = (a.side == side) & (a.hand_share > 0.2)
                gone = (a.hand_share - 0.75) * 0.05
                hidden[hand, 1:] = np.maximum(hidden[hand, 1:], gone[hand, None])
                hidden[hand, 0] = 1.0
        inner = cuts_lower - 0.004
        mode = DROP_A | DROP_B | OPENING
        add(_SKIN, a, figure.posed, mode, (hidden, inner), nearer=figure.bias)
        mode = KEEP_A | OPENING | (DROP_B if garment.tucked else 0)
        add(_UPPER, upper, shell, mode, (cuts_upper, inner), nearer=figure.bias)
        mode = KEEP_B | (0 if garment.tucked else DROP_A | OPENING)
        over: Sequence[Floats]
        if figure.skirt is None:
            over = (cuts_upper - 0.004, cuts_lower)
            add(_LOWER, cloth.lower_shell(), figure.lower, mode, over)
        else:
            z = figure.skirt[:, 2:]
            height = garment.hem + garment.hem_curve * figure.skirt[:, :1] ** 2
            one = np.ones_like(z)
            over = (0 * z, one, z - height - 0.03, body.lower.waist - z, z - body.lower.hem, one)
            attributes = np.pad(figure.skirt, ((0, 0), (0, 7)))
            add(_LOWER, cloth.skirt_shell(), figure.lower, mode, over, attributes)
        for piece, posed, layer in figure.hair:
            attributes = np.pad(piece.strand, ((0, 0), (0, 8)))
            add(layer, piece.mesh, posed, KEEP_A, [piece.cut[:, None]] * 6, attributes)
    layers, points, faces, modes, cuts, normals, attributes_of = zip(*parts, strict=True)
    offsets = np.cumsum([0, *(len(p) for p in points[:-1])])
    counts = [len(f) for f in faces]
    return _Scene(
        points=np.concatenate(points),
        faces=np.concatenate([f + o for f, o in zip(faces, offsets, strict=True)], dtype=np.int32),
        mode=np.repeat(modes, counts).astype(np.int32),
        cuts=np.concatenate(cuts, dtype=np.float32),
        normals=np.concatenate(normals, dtype=np.float32),
        opening=cloth.opening(garment),
        layer=np.append(np.repeat(layers, counts), -1).astype(np.int32),
        attributes=np.concatenate(attributes_of, dtype=np.float32),
    )


def _rasterise(scene: _Scene, points: Floats, size: tuple[int, int]) -> Fragments:
    return raster.rasterise(
        points, scene.faces, size, scene.mode, scene.cuts, scene.attributes[:, :3], scene.opening
    )


def _interpolate(values: Floats, corners: I32, bary: Floats) -> Floats:
    """Vertex values [N, C] at fragments [P]: corners [P, 3], bary [P, 3]."""
    return (
        values[corners[:, 0]] * bary[:, :1]
        + values[corners[:, 1]] * bary[:, 1:2]
        + values[corners[:, 2]] * bary[:, 2:]
    )


def _is_face(canonical: Floats) -> NDArray[np.bool_]:
    """Whether skin belongs to the face: above the jaw line and not the neck."""
    y, z = canonical[:, 1], canonical[:, 2]
    return z > 0.616 + 0.32 * np.maximum(y + 0.125, 0)


def _labels(scene: _Scene, fragments: Fragments) -> tuple[U8, NDArray[np.bool_]]:
    """Seven classes [H, W] of what pixels see, and where skin is neck or chest."""
    face = fragments.face.reshape(-1)
    layer = scene.layer[face]
    # by layer, none last
    out = np.array([SKIN, GARMENT, LOWER, HAIR, HAIR, BACKGROUND], np.uint8)[layer]
    on = np.flatnonzero(layer == _SKIN)
    c = _interpolate(scene.attributes, scene.faces[face[on]], fragments.bary.reshape(-1, 3)[on])
    arm = c[:, 6]
    kind = np.where(_is_face(c), FACE, SKIN)
    kind = np.where((c[:, 2] < 0.0) & (arm < 0.5), LEGS, kind)
    out[on] = kind
    neck = np.zeros(len(face), bool)
    neck[on] = (kind == SKIN) & (arm < 0.5)
    return out.reshape(fragments.face.shape), neck.reshape(fragments.face.shape)


def _blob(
    x: Floats, z: Floats, cx: float, cz: float, rx: float, rz: float, soft: float = 0.3
) -> Floats:
    """Soft ellipse, 1 inside."""
    d = np.sqrt(((x - cx) / rx) ** 2 + ((z - cz) / rz) ** 2)
    return smoothstep(d, 1 + soft, 1 - soft)


def _paint_skin(body: Body, c: Floats) -> Floats:
    """Skin colour [P, 3] at canonical places [P, 3]."""
    base = np.asarray(body.skin, np.float32)
    out = np.broadcast_to(base, (len(c), 3)).copy()
    head = np.flatnonzero((c[:, 2] > 0.60) & (c[:, 1] < -0.05))
    if len(head) == 0:
        return out
    x, z = np.abs(c[head, 0]), c[head, 2]
    face = out[head]
    front = smoothstep(c[head, 1], -0.09, -0.115)

    def mix(mask: Floats, colour: ArrayLike, strength: float) -> None:
        m = (mask * front * strength)[:, None]
        face[:] = face * (1 - m) + np.asarray(colour, np.float32) * m

    red = base * np.array([1.0, 0.78, 0.76])
    dark = base * 0.55
    mix(_blob(x, z, 0.045, 0.688, 0.026, 0.022, 0.8), red, 0.25 + 0.25 * body.makeup)
    mix(_blob(x, z, 0.031, 0.733, 0.022, 0.011, 0.6), dark, 0.35 + 0.25 * body.makeup)
    mix(_blob(x, z, 0.0, 0.684, 0.010, 0.004, 0.7), dark, 0.4)
    mix(_blob(x, z, 0.007, 0.6835, 0.004, 0.0025, 0.5), dark * 0.6, 0.8)
    # Eyes: white, iris, pupil, lid line, brow.
    eye = _blob(x, z, 0.0315, 0.7275, 0.0140, 0.0054, 0.2)
    mix(eye, (0.93, 0.91, 0.89), 0.95)
    iris = _blob(x, z, 0.0315, 0.728, 0.0062, 0.0066, 0.2) * eye
    mix(iris, body.eyes, 1.0)
    mix(_blob(x, z, 0.0315, 0.728, 0.0030, 0.0032, 0.3) * eye, (0.03, 0.03, 0.03), 1.0)
    lid_z = 0.7345 - 30 * (x - 0.0315) ** 2
    lid = smoothstep(np.abs(z - lid_z), 0.0032, 0.0012) * smoothstep(
        np.abs(x - 0.0325), 0.018, 0.014
    )
    mix(lid, np.asarray(body.hair.colour) * 0.35, 0.7 + 0.3 * body.makeup)
    brow_z = 0.7515 + 0.10 * (x - 0.02) - 6.0 * np.maximum(x - 0.036, 0) ** 1.5
    brow = smoothstep(np.abs(z - brow_z), 0.0055, 0.002) * smoothstep(
        np.abs(x - 0.034), 0.024, 0.017
    )
    brow_colour = np.asarray(body.hair.colour) * 0.6 + 0.05
    mix(brow, np.minimum(brow_colour, base * 0.75), 0.65)
    # Lips: two bows that meet in a darker line.
    half = 0.0245
    bow = np.clip(1 - (x / half) ** 2, 0, 1)
    upper = 0.0085 * bow * (1 - 0.25 * np.exp(-((x / 0.006) ** 2)))
    lower = 0.0105 * np.sqrt(bow) * bow**0.3
    lip_line = 0.6605
    lips = (
        smoothstep(z, lip_line - lower - 0.001, lip_line - lower + 0.0015)
        * smoothstep(z, lip_line + upper + 0.001, lip_line + upper - 0.0015)
        * (x < half)
    )
    natural = base * np.array([0.86, 0.62, 0.60])
    made_up = np.array([0.70, 0.16, 0.20])
    mix(lips, natural * (1 - 0.5 * body.makeup) + made_up * 0.5 * body.makeup, 0.85)
    line = smoothstep(np.abs(z - lip_line), 0.0022, 0.0006) * (x < half)
    mix(line, dark * 0.7, 0.7)
    out[head] = face
    return out


def _mottled(colour: Floats, body: Body, places: Floats) -> Floats:
    """Skin colours [P, 3] as photos show them: warmer, never quite even, limbs unlike the face."""
    rng = np.random.default_rng([body.seed, 4])
    spots = texture.tileable_noise(rng, 128, (14.0, 14.0), 1.5)
    n = texture.remap(spots, (places[:, 0] + places[:, 1]) * 500, places[:, 2] * 500, wrap=True)
    tint = 1 + 0.025 * n
    tint *= np.where(_is_face(places), np.float32(1), np.float32(body.limbs))
    return colour * np.array([1.0, 0.92, 0.84], np.float32) * tint[:, None]


def _chart_coordinates(
    attributes: Floats,
) -> tuple[Floats, Floats, Floats, Floats, NDArray[np.bool_]]:
    """Trunk (u, v), sleeve (u, v) and whether a fragment is on a sleeve; metres."""
    c = attributes[:, 7:]
    u = 0.17 * np.arctan2(c[:, 0], -(c[:, 1] - 0.03))
    along, share = attributes[:, 5], attributes[:, 6]
    su = 0.055 * np.arctan2(attributes[:, 4], attributes[:, 3]) * np.sign(c[:, 0])
    sv = along * 0.40
    sleeve = (along > 0.015) & (share > 0.45)
    return u, c[:, 2], su, sv, sleeve


def _paint_cloth(
    garment: Garment, atlas: texture.Atlas, attributes: Floats, cuts: Floats
) -> Floats:
    """Cloth colour [P, 3] with darker seams and hems."""
    u, v, su, sv, sleeve = _chart_coordinates(attributes)
    out = np.empty((len(u), 3), np.float32)
    for here, image, chart, x, y in (
        (~sleeve, atlas.trunk, texture.TRUNK_CHART, u, v),
        (sleeve, atlas.sleeve, texture.SLEEVE_CHART, su, sv),
    ):
        if here.any():
            out[here] = texture.sample_chart(image, chart, x[here], y[here], atlas.density)
    neck, cuff, hem = cuts[:, 0], cuts[:, 1], cuts[:, 2]
    if garment.trim > 0:
        trim = np.asarray(garment.colours[1], np.float32)
        rib = (neck < 0.018) | (cuff < 0.016)
        out[rib] = out[rib] * (1 - garment.trim) + trim * garment.trim
    # A line of stitches runs beside every edge, and the very edge is in its own shade.
    edge = np.minimum(np.minimum(neck, cuff), hem)
    shade = 1 - 0.22 * smoothstep(edge, 0.004, 0.0)
    stitch = np.minimum(np.abs(neck - 0.018), np.minimum(np.abs(cuff - 0.018), np.abs(hem - 0.02)))
    shade = shade - 0.13 * smoothstep(stitch, 0.0035, 0.0005)
    if garment.sleeve > 0:
        seam = np.abs(attributes[:, 5] - 0.015) * 0.4 + (attributes[:, 6] < 0.45)
        shade = shade - 0.12 * smoothstep(seam, 0.0035, 0.0005)
    if garment.placket:
        x, z = attributes[:, 0], attributes[:, 2]
        front = (attributes[:, 1] < -0.03) & ~sleeve
        line = smoothstep(np.abs(np.abs(x) - 0.014), 0.003, 0.0005) * front
        shade = shade - 0.22 * line
        dz = (z / 0.075) % 1.0 - 0.5
        button = smoothstep(np.hypot(x, dz * 0.075), 0.0065, 0.0045) * front
        tone = 0.25 if np.mean(garment.colours[0]) > 0.5 else 0.8
        out = out * (1 - button[:, None]) + tone * button[:, None]
    return out * shade[:, None]


def _fold_gradient(body: Body, garment: Garment, attributes: Floats) -> tuple[Floats, Floats]:
    """Slope of the folds across and along the cloth at fragments, about -1..1."""
    rng = np.random.default_rng([garment.seed, 11])
    wide = texture.tileable_noise(rng, 128, (30.0, 13.0), 4.5)
    u, v, su, sv, sleeve = _chart_coordinates(attributes)
    u, v = np.where(sleeve, su * 0.8 + 0.4, u), np.where(sleeve, sv * 1.3, v)
    # Folds belong to the cloth, pressed and worn into it, and move with it; what a pose adds is
    # more than anything that moves pixels of one photo can foresee.
    shift = np.random.default_rng([body.seed, garment.seed]).normal(0, 0.004, 2)
    slant = np.clip(2.5 * u, -0.4, 0.4) * smoothstep(v, 0.0, 0.4)
    x = (u + shift[0] + slant * (v - 0.2)) * 170
    y = (v + shift[1]) * 120
    gy, gx = np.gradient(wide)
    field = np.stack([gx, gy], -1).astype(np.float32) * 3.6
    g = texture.remap(field, x, y, wrap=True)
    # They gather where cloth is pulled or pushed together.
    gather = (
        0.45 + 0.8 * np.exp(-(((v - 0.2) / 0.13) ** 2)) + 0.5 * np.exp(-(((v - 0.02) / 0.08) ** 2))
    )
    elbow = 0.5 + 1.0 * np.exp(-(((attributes[:, 5] - 0.5) / 0.14) ** 2))
    amount = np.where(sleeve, elbow, gather) * smoothstep(v, 0.56, 0.44)
    return g[:, 0] * amount, g[:, 1] * amount


def _paint_lower(body: Body, attributes: Floats, cuts: Floats) -> Floats:
    lower = body.lower
    x, y, z = attributes[:, 0], attributes[:, 1], attributes[:, 2]
    out = np.broadcast_to(np.asarray(lower.colour, np.float32), (len(x), 3)).copy()
    shade = np.ones(len(x), np.float32)
    shade -= 0.25 * smoothstep(np.abs(cuts[:, 0] - 0.035), 0.003, 0.001)
    if lower.kind != "skirt":
        fly = np.abs(x - 0.004) + np.maximum(-0.02 - z, 0)
        shade -= 0.25 * smoothstep(fly, 0.003, 0.001) * (y < 0)
        pocket = np.abs(z - (lower.waist - 0.09 + 0.7 * (np.abs(x) - 0.09))) + 0.5 * np.maximum(
            0.085 - np.abs(x), 0
        )
        shade -= 0.2 * smoothstep(pocket, 0.004, 0.001) * (y < 0.0)
    rng = np.random.default_rng(lower.seed)
    grain = texture.tileable_noise(rng, 128, (9.0, 9.0), 1.6)
    shade += (0.03 if lower.denim else 0.008) * texture.remap(grain, x * 500, z * 400, wrap=True)
    if lower.denim:
        worn = smoothstep(np.abs(np.abs(x) - 0.10), 0.07, 0.0) * smoothstep(z, 0.0, -0.15)
        out += (0.16 * worn * (y < 0))[:, None]
        shade += 0.03 * texture.remap(grain, x * 2200, z * 300, wrap=True)
    return out * shade[:, None]


def _paint_hair(body: Body, attributes: Floats, layer: I32) -> Floats:
    """Hair colour [P, 3] from strand coordinates."""
    rng = np.random.default_rng([body.hair.seed, 5])
    strands = texture.tileable_noise(rng, 256, (120.0, 7.0), 1.1)
    u, v = attributes[:, 0], attributes[:, 1]
    n = texture.remap(strands, u * 420, v * 60 + 20 * np.sin(u * 9), wrap=True)
    base = np.asarray(body.hair.colour, np.float32)
    shine = 0.16 * np.exp(-(((v - 0.22) / 0.09) ** 2))
    tone = 1 + 0.20 * n + np.where(layer == _HAIR, 0.10 * (v - 0.4), 0.0)
    return np.clip(base * tone[:, None] + shine[:, None] * (0.3 + base), 0, 1)


def _background(body: Body, size: tuple[int, int]) -> Floats:
    h, w = size
    y = np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None, None]
    x = np.linspace(-1, 1, w, dtype=np.float32)[None, :, None]
    corner = 0.0 if min(body.background) >= 1 else 0.03
    base = np.asarray(body.background, np.float32) * (1 - body.gradient * y - corner * x**2)
    return np.clip(base, 0, 1)


def _occlusion(depth: Floats, scale: float) -> Floats:
    """How much nearby surfaces take of the light, [H, W], 0..1, from the depth buffer."""
    far = depth >= raster.FAR * 0.5
    d = np.where(far, 0.35, depth).astype(np.float32)
    total = np.zeros_like(d)
    for radius, weight in ((0.012, 0.6), (0.045, 0.7)):
        sigma = max(radius * scale, 0.6)
        k = max(1, int(sigma / 2.5))
        # Wide blurs at lower resolution: this is a soft effect.
        small = (
            cv2.resize(d, None, fx=1 / k, fy=1 / k, interpolation=cv2.INTER_AREA) if k > 1 else d
        )
        blurred = cv2.GaussianBlur(small, (0, 0), sigma / k)
        if k > 1:
            blurred = cv2.resize(blurred, (d.shape[1], d.shape[0]), interpolation=cv2.INTER_LINEAR)
        total += weight * np.clip((d - blurred) / (4 * radius), 0, 1)
    return np.where(far, 0, np.clip(total, 0, 1))


def _shade(
    figure: Figure,
    garment: Garment,
    scene: _Scene,
    size: tuple[int, int],
    atlas: texture.Atlas,
    backdrop: Floats,
) -> tuple[Floats, Floats]:
    """Colour and albedo [H, W, 3], supersampled, before a backdrop where the body has a shot."""
    body, shot = figure.body, figure.body.shot
    size = 2 * size[0], 2 * size[1]
    twice, half = np.array([2, 2, 1], np.float32), np.array([0.5, 0.5, 0], np.float32)
    fragments = _rasterise(scene, scene.points * twice + half, size)
    scale = size[0] / figure.height
    face = fragments.face.reshape(-1)
    on = np.flatnonzero(face >= 0)
    corners = scene.faces[face[on]]
    bary = fragments.bary.reshape(-1, 3)[on]
    layer = scene.layer[face[on]]
    normals = unit(_interpolate(scene.normals, corners, bary))
    attributes = _interpolate(scene.attributes, corners, bary)
    # The far side of a shell is seen from inside.
    inside = normals[:, 1] > 0.05
    albedo = np.zeros((len(on), 3), np.float32)
    for kind in range(5):
        pick = np.flatnonzero(layer == kind)
        if len(pick) == 0:
            continue
        at = attributes[pick]
        if kind == _SKIN:
            albedo[pick] = _paint_skin(body, at)
            if shot is not None:
                albedo[pick] = _mottled(albedo[pick], body, at)
        elif kind == _UPPER:
            cuts = _interpolate(scene.cuts[:, :3], corners[pick], bary[pick])
            cuts[:, 0] = cloth.opening_cut(garment, at[:, :3])
            albedo[pick] = _paint_cloth(garment, atlas, at, cuts)
            gx, gy = _fold_gradient(body, garment, at)
            strength = garment.folds * (0.35 + 0.9 * min(garment.looseness / 0.02, 1.2))
            normals[pick, 0] += 0.46 * strength * gx
            normals[pick, 2] += 0.38 * strength * gy
        elif kind == _LOWER:
            cuts = _interpolate(scene.cuts[:, 3:], corners[pick], bary[pick])
            albedo[pick] = _paint_lower(body, at, cuts)
        else:
            albedo[pick] = _paint_hair(body, at, layer[pick])
    normals = unit(normals)
    lift = np.where(inside, np.array([1, 0.5, 0.45, 1, 0.6], np.float32)[layer], np.float32(1))
    facing = np.where(inside[:, None], -normals, normals)
    right, up, near = body.light if shot is None else shot.light
    light = unit(np.array([right, -near, up], np.float32))
    occlusion = _occlusion(fragments.depth, scale).reshape(-1)[on]
    if shot is None:
        shade = _studio_light(body, facing, light)
        shade = (shade * (1 - 0.5 * occlusion) * lift * body.exposure)[:, None]
    else:
        lit = _lit(fragments.depth[::2, ::2], light, shot.soft, scale / 2)
        lit = np.asarray(cv2.resize(lit, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        lit = lit.reshape(-1)[on]
        shade = _shot_light(shot, facing, light, lit)
        shade = shade * ((1 - 0.7 * occlusion) * lift)[:, None]
    colour = albedo * shade
    skin = layer == _SKIN
    # Light that goes through skin comes back red in its shadows.
    if shot is None:
        colour[skin] += (albedo[skin] * (1 - shade[skin])) * np.array([0.16, 0.03, 0.0])
    else:
        dark = np.maximum(1 - shade[skin], 0)
        colour[skin] += albedo[skin] * dark * np.array([0.16, 0.0, -0.05])
    gloss = np.clip(unit(light + np.array([0, -1, 0], np.float32)) @ facing.T, 0, 1)
    shine = np.array([0.06 if shot is None else shot.gloss, garment.sheen, 0.0, 0.12, 0.12])[layer]
    if shot is not None:
        gloss = gloss * lit * (0.4 + shot.key)
    colour[layer == _UPPER] += 0.05 * gloss[layer == _UPPER, None] ** 5
    colour += (shine * gloss**24)[:, None]
    behind = _background(body, size) if shot is None else backdrop.repeat(2, 0).repeat(2, 1)
    out = behind.reshape(-1, 3)
    flat = out.copy()
    out[on] = colour
    flat[on] = albedo
    return _halve(out.reshape(*size, 3)), _halve(flat.reshape(*size, 3))


def _studio_light(body: Body, facing: Floats, light: Floats) -> Floats:
    """How bright surfaces of normals [P, 3] are in a studio's soft light, [P]."""
    lambert = np.clip(facing @ light, 0, 1)
    upward = 0.5 + 0.5 * facing[:, 2]
    rim = np.clip(-facing[:, 1], 0, 1)
    k = body.contrast
    shade: Floats = (1 - k) * (0.72 + 0.16 * upward + 0.14 * rim)
    return shade + k * (0.38 + 0.10 * upward + 0.62 * lambert)


def _shot_light(shot: Shot, facing: Floats, light: Floats, lit: Floats) -> Floats:
    """Colour of the light on surfaces of normals [P, 3], of which the key reaches `lit`, [P, 3].

    A wide source wraps around what it shines on. The camera exposes for what faces it.
    """
    key, fill = (np.asarray(tint, np.float32) for tint in shot.tints)
    wrap = 0.1 + 0.6 * shot.soft

    def light_on(normals: Floats, reached: Floats | float) -> Floats:
        direct = np.clip((normals @ light + wrap) / (1 + wrap), 0, None) * reached
        around = 0.2 + 0.2 * normals[:, 2] - 0.68 * normals[:, 1]
        amount = 1.5 * shot.key * direct[:, None] * key + (1 - shot.key) * around[:, None] * fill
        return np.asarray(amount, np.float32)

    towards = light_on(np.array([[0, -1, 0], [-0.6, -0.8, 0], [0.6, -0.8, 0]], np.float32), 1.0)
    return light_on(facing, lit) * (0.95 * shot.exposure / towards.mean())


def _lit(depth: Floats, light: Floats, soft: float, scale: float) -> Floats:
    """How much of the key light reaches what pixels see, [H, W], 0..1, from the depth buffer.

    From every pixel the buffer is followed towards the light (0.3 m, in growing steps): what lies
    between, and is no thicker than an arm, casts a shadow.

    Args:
        depth: [H, W] metres.
        light: [3] unit vector towards the light.
        soft: 0 a point .. 1 a wide source.
        scale: pixels a metre.
    """
    h, w = depth.shape
    hidden = np.zeros((h, w), np.float32)
    for way in 0.3 * np.linspace(0.2, 1, 14) ** 2:
        x, y = round(float(light[0] * way * scale)), round(float(-light[2] * way * scale))
        if (x, y) == (0, 0) or abs(x) >= w or abs(y) >= h:
            continue
        here = np.s_[max(-y, 0) : h - max(y, 0), max(-x, 0) : w - max(x, 0)]
        there = np.s_[max(y, 0) : h + min(y, 0), max(x, 0) : w + min(x, 0)]
        over = depth[here] + np.float32(light[1] * way) - depth[there]
        cast = np.clip((over - 0.006) * 120, 0, 1) * (over < 0.14)
        np.maximum(hidden[here], cast, out=hidden[here])
    blur = (0.004 + 0.03 * soft) * scale
    hidden = np.asarray(cv2.GaussianBlur(hidden, (0, 0), max(blur, 0.5)), np.float32)
    return 1 - (1 - 0.35 * soft) * hidden


def _halve(x: Floats) -> Floats:
    """Mean over 2x2 blocks of [H, W, C]."""
    return np.asarray((x[::2, ::2] + x[::2, 1::2] + x[1::2, ::2] + x[1::2, 1::2]) * 0.25)


def _camera(image: Floats, body: Body) -> U8:
    """What a camera adds: a breath of blur and noise; of the body's seed only."""
    rng = np.random.default_rng([body.seed, 3])
    h, w = image.shape[:2]
    blur = float(rng.uniform(0.0, 0.55)) * (h / 256) ** 0.5
    if blur > 0.25:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), blur))
    noise = rng.standard_normal((h, w, 1), dtype=np.float32)
    image = image + noise * float(rng.uniform(0.0, 0.006))
    return to_bytes(image)


def _shot_camera(image: Floats, shot: Shot) -> U8:
    """What the camera of a shot makes of light, [H, W, 3]: colours, tone, blur, noise, JPEG."""
    rng = np.random.default_rng([shot.seed, 3])
    h, w = image.shape[:2]
    image = np.clip(image * np.asarray(shot.balance, np.float32), 0, None)
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    image = np.clip(grey[..., None] + shot.saturation * (image - grey[..., None]), 0, 1)
    image = image**shot.gamma
    # a curve that keeps black, white and the middle
    image = image + shot.curve * 0.5 * image * (1 - image) * (2 * image - 1)
    if shot.vignette:
        y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)[None, :]
        image = image * (1 - shot.vignette * 0.5 * (x**2 + y**2))[..., None]
    unit = h / 256
    if shot.blur * unit > 0.25:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), shot.blur * unit))
    # coarser grain in the colours than in the brightness
    grain = rng.standard_normal((h, w, 1), dtype=np.float32)
    tint = rng.standard_normal((-(-h // 2), -(-w // 2), 3), dtype=np.float32)
    tint = tint.repeat(2, 0).repeat(2, 1)[:h, :w]
    return to_bytes(image + shot.noise * (grain + 0.5 * tint), shot.jpeg)


def to_bytes(image: Floats, jpeg: int = 0) -> U8:
    """Colours 0..1 as uint8 [H, W, 3], by way of a JPEG file of a quality if that is not 0."""
    out: U8 = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    if jpeg:
        _, data = cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg])
        out = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    return np.ascontiguousarray(out)


def _densepose(figure: Figure, size: tuple[int, int]) -> U8:
    """IUV [H, W, 3] of the body alone."""
    a = anatomy()
    points = _project(figure.posed, figure, size)
    points[:, 2] -= figure.bias
    # The mouth and the eyes are inside the head.
    f = raster.rasterise(points, a.faces, size)
    on = f.face >= 0
    out = np.zeros((*size, 3), np.uint8)
    face = f.face[on]
    # Borders between parts are smooth lines on the skin, so they are decided per pixel.
    scores = _interpolate(a.part_scores, a.faces[face], f.bary[on])
    out[on, 0] = part_of(scores)
    charts = a.part_uv if figure.body.shot is None else a.real_uv
    uv = np.einsum("pkc,pk->pc", charts[face], f.bary[on])
    out[on, 1:] = np.clip(uv * 255 + 0.5, 1, 255).astype(np.uint8)
    return out


def paint(garment: Garment, size: tuple[int, int]) -> texture.Atlas:
    """The garment's cloth, as finely as a view of this size, (H, W), shows it."""
    return texture.paint(garment, float(np.clip(size[0] * 2.6, 400, 2200)))


def render_person(
    body: Body,
    garment: Garment,
    size: tuple[int, int] = (256, 192),
    figure: Figure | None = None,
    atlas: texture.Atlas | None = None,
) -> Rendered:
    """Render a person in a garment.

    Args:
        body: the person.
        garment: the upper garment.
        size: (H, W) in pixels.
        figure: `build_figure(body)`, where several garments go on one body.
        atlas: `paint(garment, size)`, where one garment goes on several bodies.
    """
    figure = figure or build_figure(body, size)
    atlas = atlas or paint(garment, size)
    shell = apply_transforms(figure.blend, cloth.upper_rest(garment, figure.rest, figure.trunk))
    scene = _compose(figure, garment, shell, size, alone=False)
    clean = _rasterise(scene, scene.points, size)
    backdrop: Floats = np.empty(0)
    others = np.zeros(size, np.uint8)
    if body.shot is not None:
        backdrop, others = _behind(body.shot, size)
    colour, albedo = _shade(figure, garment, scene, size, atlas, backdrop)
    # the skin comes first, and has as many vertices as the shell over it
    before, n = len(anatomy().faces), len(shell)
    on_garment = scene.layer[clean.face] == _UPPER
    labels, neck = _labels(scene, clean)
    others[clean.face >= 0] = BACKGROUND
    rendered = Rendered(
        image=_camera(colour, body) if body.shot is None else np.zeros((*size, 3), np.uint8),
        parsing=labels,
        densepose=_densepose(figure, size),
        garment_face=np.where(on_garment, clean.face - before, -1).astype(np.int32),
        garment_bary=clean.bary,
        depth=clean.depth,
        shell=scene.points[n : 2 * n],
        neck=neck,
        albedo=to_bytes(albedo),
        others=others,
        inside=(0, size[0], 0, size[1]),
    )
    return rendered if body.shot is None else _taken(rendered, figure, body.shot, colour)


@cache
def _stranger(number: int) -> tuple[Floats, U8]:
    """Photo, float32 [256, 192, 3], and parsing of somebody whom others have in their photos."""
    rng = np.random.default_rng([number, 22])
    person = render_person(sample_body(rng, HELD_OUT), sample_garment(rng))
    return person.image.astype(np.float32) / 255, person.parsing


def _behind(shot: Shot, size: tuple[int, int]) -> tuple[Floats, U8]:
    """Backdrop with other people, float32 [H, W, 3], and their parsing, [H, W]."""
    h, w = size
    picture = surroundings.backdrop(shot, size)
    labels = np.zeros(size, np.uint8)
    for stranger in shot.strangers:
        image, parsing = _stranger(stranger.number)
        if stranger.mirrored:
            image, parsing = image[:, ::-1], parsing[:, ::-1]
        scale = stranger.size * h / len(image)
        x = w * (0.5 + stranger.side * stranger.shift) - scale * image.shape[1] / 2
        matrix = np.array([[scale, 0, x], [0, scale, h - scale * len(image)]], np.float32)
        moved = cv2.warpAffine(image, matrix, (w, h), flags=cv2.INTER_LINEAR)
        there = cv2.warpAffine(parsing, matrix, (w, h), flags=cv2.INTER_NEAREST)
        shown = there > 0
        picture[shown] = moved[shown] * shot.exposure
        labels[shown] = there[shown]
    return picture, labels


def _marks(figure: Figure, size: tuple[int, int]) -> dict[str, Floats]:
    """Where shoulders, hips, hands and neck are in the view, [2] pixels, for `outline`."""
    a = anatomy()
    points = _project(figure.posed, figure, size)[:, :2]
    c = a.canonical
    marks = {"neck": points[np.abs(c - (0, -0.05, 0.57)).sum(1).argmin()]}
    for side in (-1, 1):
        marks[f"shoulder{side}"] = points[np.abs(c - (side * 0.15, -0.03, 0.55)).sum(1).argmin()]
        marks[f"hip{side}"] = points[np.abs(c - (side * 0.16, -0.03, 0.03)).sum(1).argmin()]
        marks[f"hand{side}"] = points[(a.hand_share > 0.9) & (a.side == side)].mean(0)
    return marks


#: DensePose parts of arms and hands.
_ARMS = (3, 4, *range(15, 23))


def _taken(person: Rendered, figure: Figure, shot: Shot, colour: Floats) -> Rendered:
    """A person as the photo of a shot shows them, of the colours [H, W, 3] that are there."""
    h, w = person.parsing.shape
    scale = h / figure.height
    densepose = person.densepose
    hidden = np.zeros((h, w), bool)
    for thing in shot.things:
        first, *others = surroundings.outline(thing, _marks(figure, (h, w)), scale)
        alpha = surroundings.cover([first], (h, w))
        if thing.kind == "strap":  # it lies on the trunk and goes on behind it
            alpha[np.isin(person.densepose[..., 0], _ARMS) | (person.parsing == BACKGROUND)] = 0
        alpha = np.maximum(alpha, surroundings.cover(others, (h, w)))
        here = alpha > 0.5
        rim = 1 - 0.3 * (cv2.blur(alpha, (5, 5)) < 0.99)
        ink = np.asarray(thing.colour, np.float32) * (rim * shot.exposure)[..., None]
        colour = colour + (ink - colour) * alpha[..., None]
        hidden |= here
        if thing.hole:
            densepose = np.where(here[..., None], np.uint8(0), densepose)
    image = _shot_camera(colour, shot)
    top, bottom, left, right = figure.photo
    ys = (figure.origin[1] - np.clip([top, bottom], -99, 99)) * scale
    xs = (np.clip([left, right], -99, 99) - figure.origin[0]) * scale + w / 2
    y0, y1 = (int(v) for v in np.rint(ys).clip(0, h))
    x0, x1 = (int(v) for v in np.rint(xs).clip(0, w))
    if y1 - y0 < 1 or x1 - x0 < 1:
        y0, y1, x0, x1 = 0, h, 0, w
    outside = np.ones((h, w), bool)
    outside[y0:y1, x0:x1] = False
    edges = y0, h - y1, x0, w - x1
    padded = cv2.copyMakeBorder(image[y0:y1, x0:x1], *edges, cv2.BORDER_REPLICATE)
    hidden |= outside
    return replace(
        person,
        image=np.asarray(padded, np.uint8),
        parsing=np.where(hidden, np.uint8(BACKGROUND), person.parsing),
        densepose=np.where(outside[..., None], np.uint8(0), densepose),
        garment_face=np.where(hidden, np.int32(-1), person.garment_face),
        neck=person.neck & ~hidden,
        others=np.where(hidden, np.uint8(BACKGROUND), person.others),
        inside=(y0, y1, x0, x1),
    )


def true_flow(target: Rendered, source: Rendered) -> tuple[Floats, U8]:
    """Where every garment pixel of `target` lies in `source`, who wears the same garment.

    Returns:
        flow: float32 [2, H, W], (dx, dy) in pixels; target pixel p shows the surface that lies at
            p + flow(p) in the source, hidden there or not; 0 outside the garment.
        valid: [H, W], 0 where the target shows no garment, 1 where the source hides what it
            shows, 2 where both show it.
    """
    garment = target.garment_face >= 0
    at = _on_garment(source.shell, target)
    y, x = np.nonzero(garment)
    flow = np.zeros((2, *garment.shape), np.float32)
    flow[:, garment] = at[:, :2].T - np.stack([x, y])
    h, w = garment.shape
    x, y = np.rint(at[:, :2]).astype(int).T
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    x, y = np.clip(x, 0, w - 1), np.clip(y, 0, h - 1)
    near = np.abs(source.depth[y, x] - at[:, 2]) < 0.02
    valid = garment.astype(np.uint8)
    valid[garment] += inside & (source.garment_face[y, x] >= 0) & near
    return flow, valid


def _on_garment(values: Floats, person: Rendered) -> Floats:
    """Values [V, C] of the shell's vertices at the garment pixels of a person, [P, C]."""
    shown = person.garment_face >= 0
    corners = cloth.upper_shell().faces[person.garment_face[shown]]
    return _interpolate(values, corners, person.garment_bary[shown])


def garment_places(person: Rendered) -> Floats:
    """Which place of the cloth every garment pixel shows, float32 [3, H, W]; 0 elsewhere.

    The canonical x, y, z (`anatomy`) of the skin below, in metres: the same on every body, so two
    pixels of two people show the same place of a garment where these agree.
    """
    out = np.zeros((3, *person.garment_face.shape), np.float32)
    out[:, person.garment_face >= 0] = _on_garment(anatomy().canonical, person).T
    return out


@dataclass(frozen=True)
class Shop:
    """A garment as a shop shows it."""

    image: U8  #: [H, W, 3] RGB
    mask: NDArray[np.bool_]  #: [H, W], where the garment is
    places: Floats  #: [3, H, W], which place of the cloth it shows, as `garment_places`


def render_shop(garment: Garment, size: tuple[int, int] = (256, 192)) -> Shop:
    """The garment alone as a shop shows it: nobody in it, from the front, on white."""
    body = neutral_body(female=garment.seed % 3 != 0)
    figure = build_figure(body)
    a = anatomy()
    shell = apply_transforms(figure.blend, cloth.upper_rest(garment, figure.rest, figure.trunk))
    loose = replace(garment, tucked=False)
    cuts = cloth.upper_cuts(loose)
    cuts[:, 0] += cloth.opening_cut(loose, a.canonical)
    shown = shell[cuts.min(1) >= 0]
    low, high = shown.min(0), shown.max(0)
    h, w = size
    height = max((high[2] - low[2]) * 1.12, (high[0] - low[0]) * 1.12 * h / w)
    figure = replace(
        figure,
        height=height,
        origin=(float(low[0] + high[0]) / 2, float(low[2] + high[2]) / 2 + height / 2),
    )
    scene = _compose(figure, loose, shell, size, alone=True)
    clean = _rasterise(scene, scene.points, size)
    colour, _ = _shade(figure, loose, scene, size, paint(garment, size), np.empty(0))
    mask = clean.face >= 0
    places = np.zeros((3, h, w), np.float32)
    corners = scene.faces[clean.face[mask]]
    places[:, mask] = _interpolate(scene.attributes[:, :3], corners, clean.bary[mask]).T
    return Shop(to_bytes(colour), mask, places)
