"""The body of `anny` with everything that belongs to its surface, loaded once per process.

Lengths are metres; x points to the subject's left (the viewer's right), y away from the camera,
z up. *Canonical* coordinates are those of the template mesh: they name a place on the skin that is
the same for every body, so cuts, paint and patterns are functions of them.

Reference: Brégier et al., "Human Mesh Modeling for Anny Body", arXiv 2511.03589 (package `anny`,
built on MakeHuman's CC0 data).
"""

import itertools
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    import anny

Floats = NDArray[np.floating]
I32 = NDArray[np.int32]
Mask = NDArray[np.bool_]

#: Landmarks of the template, metres.
CROTCH_Z = -0.042
NECK_Z = 0.59
HEAD_CENTRE = (0.0, -0.04, 0.735)
TORSO_AXIS_Y = -0.03
#: Phenotype of an average adult; with "gender" it is whole.
AVERAGE = {"age": 0.68, "muscle": 0.5, "weight": 0.35, "height": 0.5, "proportions": 0.8}


@dataclass(frozen=True)
class Mesh:
    """Fixed topology of a surface: F triangles over V vertices."""

    faces: I32  #: [F, 3]
    incidence: sp.csr_matrix  #: [V, F], sums what belongs to triangles into vertices

    @classmethod
    def of(cls, faces: I32, vertices: int) -> "Mesh":
        """The mesh of triangles [F, 3] over so many vertices."""
        columns = np.repeat(np.arange(len(faces)), 3)
        ones = np.ones(len(columns), np.float32)
        shape = vertices, len(faces)
        return cls(faces, sp.csr_matrix((ones, (faces.reshape(-1), columns)), shape=shape))

    def normals(self, vertices: Floats) -> Floats:
        """Area-weighted unit normals [V, 3] of the mesh with its vertices [V, 3] there."""
        a, b, c = (vertices[self.faces[:, k]] for k in range(3))
        return unit(self.incidence @ np.cross(b - a, c - a))


@dataclass(frozen=True)
class Anatomy(Mesh):
    """Fixed facts of the body's mesh: V vertices, F triangles, J bones."""

    canonical: Floats  #: [V, 3] template coordinates
    chart: Floats  #: [V, 3] an average adult at rest, scaled to the template: where patterns lie
    skin_weights: sp.csr_matrix  #: [V, J]
    bones: dict[str, int]  #: name to index
    parents: tuple[int, ...]  #: parents[j] < j but for the root (-1)
    arm_share: Floats  #: [V] 0 torso .. 1 arm
    arm_length: Floats  #: [V] way along the arm, 0 at the shoulder joint, 1 at the wrist
    arm_round: Floats  #: [V, 2] place in the cross-section of the arm, (forwards, inwards), metres
    side: Floats  #: [V] +1 subject's left, -1 right
    head_share: Floats  #: [V] weight of head and upper neck
    hand_share: Floats  #: [V]
    part_scores: Floats  #: [V, 12] what `part_of` decides DensePose parts from
    part_uv: Floats  #: [F, 3, 2] DensePose U and V, 0..1, at the corners: the first charts
    real_uv: Floats  #: [F, 3, 2] likewise, charts as DensePose draws them on photos
    bridge: I32  #: [K, 3] triangles that span the gap between the thighs, in front
    torso: Mask  #: [V] vertices of trunk and thighs that cloth drapes over
    model: "anny.Anny"


def unit(v: Floats) -> Floats:
    """Vectors scaled to length one along the last axis."""
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


@cache
def grid(columns: int, rows: int) -> Mesh:
    """Two triangles for each cell of a grid whose vertices are counted along its rows."""
    i = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1)
    below = i + columns
    faces = [np.stack([i, below, i + 1], 1), np.stack([i + 1, below, below + 1], 1)]
    return Mesh.of(np.concatenate(faces).astype(np.int32), columns * rows)


def smoothstep(x: Floats | np.floating, a: float, b: float) -> Floats:
    """0 below a, 1 above b, smooth between; b may lie below a."""
    t = np.clip((x - a) / (b - a), 0, 1)
    return t * t * (3 - 2 * t)


#: Groups of `Anatomy.part_scores`, in order; four more columns follow them (see `part_of`).
_GROUPS = ("trunk", "head", "upperarm", "forearm", "hand", "thigh", "calf", "foot")
#: DensePose index of (subject's right near, right far, left near, left far) side of each group.
_PARTS = np.array(
    [
        (2, 1, 2, 1),
        (23, 23, 24, 24),
        (16, 18, 15, 17),
        (20, 22, 19, 21),
        (3, 3, 4, 4),
        (9, 7, 10, 8),
        (11, 13, 12, 14),
        (6, 6, 5, 5),
    ],
    np.uint8,
)


def part_of(scores: Floats) -> NDArray[np.uint8]:
    """DensePose part index [P], 1..24, from interpolated `Anatomy.part_scores` [P, 12].

    Columns 0 to 7 are the weights of the groups, 8 is positive on the subject's left, 9 on the
    leotard that DensePose's trunk is, 10 on the front of the trunk, 11 on the near side of a limb
    (front of the leg, inner side of the upper arm, palm side of the forearm).
    """
    weights = scores[:, :8].copy()
    lower = (weights[:, 0] + weights[:, 5]) > weights[:, [1, 2, 3, 4, 6, 7]].max(1)
    weights[:, 0] = np.where(lower, (scores[:, 9] > 0) * 2.0, weights[:, 0])
    weights[:, 5] = np.where(lower, (scores[:, 9] <= 0) * 2.0, weights[:, 5])
    group = weights.argmax(1)
    near = np.where(group == 0, scores[:, 10], scores[:, 11]) > 0
    return _PARTS[group, 2 * (scores[:, 8] > 0) + ~near]


#: Of the near and the far side of limbs: slope from the first chart's V to the real one, a pair of
#: values that belong together, and how much V falls on the way along the limb.
_REAL_V = {
    "upperarm": ((0.6, 0.3), ((0.84, 0.62), (0.85, 0.76)), (0.0, 0.24)),
    "forearm": ((0.9, 0.8), ((0.20, 0.25), (0.82, 0.65)), (0.0, 0.2)),
    "thigh": ((1.0, 1.0), ((0.5, 0.53), (0.5, 0.53)), (0.35, 0.35)),
    "calf": ((1.0, 1.0), ((0.5, 0.5), (0.5, 0.5)), (0.0, 0.0)),
}


def _densepose(
    v: Floats, faces: I32, weights: dict[str, Floats], heads: dict[str, Floats]
) -> tuple[Floats, Floats, Floats]:
    """Part scores [V, 12] and both charts [F, 3, 2] at the corners of triangles.

    The charts follow what DensePose gives on real photos: U runs down the trunk and
    the upper arms and up the thighs, V runs across. In the first charts V takes all of 0..1 on
    the visible half of a limb; the real ones take the part of it that the medians, ranges and
    gradients of published maps show.
    """
    scores = np.zeros((len(v), 12), np.float32)
    scores[:, :8] = np.stack([weights[g] for g in _GROUPS], 1)
    scores[:, 8] = v[:, 0]
    # The leotard is cut high at the hip and low at the crotch.
    x = np.abs(v[:, 0])
    scores[:, 9] = v[:, 2] - (CROTCH_Z + 0.015 + 0.50 * np.clip(x - 0.015, 0, 1))
    scores[:, 10] = TORSO_AXIS_Y + 0.022 + 0.03 * smoothstep(v[:, 2], 0.35, 0.05) - v[:, 1]
    scores[:, 11] = 1.0
    uv = np.zeros((len(faces), 3, 2), np.float32)
    real_v = np.zeros((len(faces), 3), np.float32)
    corner = v[faces]  # [F, 3, 3]
    fw = scores[faces].mean(1)
    best = fw[:, :8].argmax(1)
    left = fw[:, 8] > 0

    def limb(p: Floats, top: Floats, bottom: Floats, out: Floats) -> tuple[Floats, Floats]:
        """Way along (0 top .. 1 bottom) and angle from `out` about the limb, places [..., 3]."""
        p = p.copy()
        p[..., 0] = np.abs(p[..., 0])
        axis = bottom - top
        length = float(np.linalg.norm(axis))
        axis = axis / length
        rel = p - top
        along = rel @ axis / length
        radial = rel - (rel @ axis)[..., None] * axis
        e1 = out - (out @ axis) * axis
        e1 = e1 / np.linalg.norm(e1)
        e2 = np.cross(axis, e1)
        return np.clip(along, 0, 1), np.arctan2(radial @ e2, radial @ e1)

    trunk = best == 0
    uv[trunk, :, 0] = np.clip((0.60 - corner[trunk][..., 2]) / 0.68, 0, 1)
    uv[trunk, :, 1] = np.clip(0.5 - corner[trunk][..., 0] / 0.42, 0, 1)
    head = best == 1
    turn = np.arctan2(corner[head][..., 0], -(corner[head][..., 1] - HEAD_CENTRE[1])) / np.pi
    uv[head, :, 0] = np.clip(np.where(left[head][:, None], turn, 1 + turn), 0, 1)
    uv[head, :, 1] = np.clip((corner[head][..., 2] - 0.61) / 0.25, 0, 1)
    # In the template arms point down and out, so inwards is also down.
    table = (
        ("upperarm", "upperarm01", "lowerarm01", (-0.66, -0.52, -0.54)),
        ("forearm", "lowerarm01", "wrist", (-0.8, -0.35, -0.45)),
        ("thigh", "upperleg01", "lowerleg01", (0.0, -1.0, 0.0)),
        ("calf", "lowerleg01", "foot", (0.0, -1.0, 0.0)),
    )
    for name, top, bottom, out in table:
        g = _GROUPS.index(name)
        m = best == g
        direction = np.asarray(out, np.float32)
        width = np.pi / 2
        _, around = limb(v, heads[top], heads[bottom], direction)
        mine = scores[:, :8].argmax(1) == g
        scores[mine, 11] = np.cos(around[mine]) - np.cos(width)
        along, angle = limb(corner[m], heads[top], heads[bottom], direction)
        near = np.cos(angle).mean(1) > np.cos(width)
        # Angles grow inwards.
        v_near = 0.5 + angle / np.pi * (-1.0 if name == "upperarm" else 0.9)
        outwards = -angle if "arm" in name else angle
        wrapped = np.where(outwards < 0, outwards + 2 * np.pi, outwards)
        v_far = 1.5 - wrapped / np.pi
        u = along * 0.9 + 0.05
        if name == "thigh":
            u = 0.88 - along * 0.85
        elif name == "forearm":
            u = np.where(near[:, None], 0.95 - along * 0.85, u)
        uv[m, :, 0] = u
        uv[m, :, 1] = np.clip(np.where(near[:, None], v_near, v_far), 0, 1)
        slope, place, fall = _REAL_V[name]
        for side, at in ((near, 0), (~near, 1)):
            middle = np.where(side[:, None], place[at][1] - fall[at] * (along - 0.5), 0)
            bent = middle + slope[at] * (uv[m, :, 1] - place[at][0])
            real_v[m] = np.where(side[:, None], np.clip(bent, 0, 1), real_v[m])
    hand = best == 4
    p = corner[hand].copy()
    p[..., 0] = np.abs(p[..., 0])
    down = np.linalg.norm(p - heads["wrist"], axis=-1) / 0.2
    uv[hand, :, 0] = np.where(left[hand], 0.75, 0.25)[:, None]
    uv[hand, :, 1] = np.clip(0.15 + 0.7 * down, 0, 1)
    uv[best == 7] = 0.5
    real = uv.copy()
    limbs = np.isin(best, [_GROUPS.index(name) for name in _REAL_V])
    real[limbs, :, 1] = real_v[limbs]
    # From the wrist on the hand takes a forearm's place, and the neck the trunk's.
    arm = best == _GROUPS.index("forearm")
    near = (scores[faces[arm], 11].mean(1) > 0)[:, None]
    real[arm, :, 0] = np.where(near, 0.15 + 0.85 * uv[arm, :, 0], 0.10 + 0.92 * uv[arm, :, 0])
    real[trunk, :, 0] = 0.055 + 0.9 * uv[trunk, :, 0]
    real[trunk, :, 1] = np.clip(0.5 + 0.75 * (uv[trunk, :, 1] - 0.5), 0, 1)
    # On hands both run from the inner side to the outer one, and V down to the fingers too.
    axis = unit(heads["wrist"] - heads["lowerarm01"])
    outwards = np.array([1.0, 0.0, 0.6])
    outwards = unit(outwards - (outwards @ axis) * axis)
    out = np.clip((p - heads["wrist"]) @ outwards / 0.03, -1, 1)
    real[hand, :, 0] = np.where(left[hand, None], 0.70 - 0.16 * out, 0.30 + 0.16 * out)
    real[hand, :, 1] = np.clip(0.48 + 1.4 * (down - 0.4) + 0.16 * out, 0, 1)
    return scores, uv, real


def _bridge(v: Floats) -> I32:
    """Triangles between mirrored vertex chains down the fronts of the thighs.

    A hem below the crotch hangs in front of the gap between the legs; without these a shirt would
    end in two trouser legs.
    """
    mirror = cKDTree(v).query(v * np.array([-1, 1, 1]))[1]
    triangles = []
    for back in (False, True):
        side = (v[:, 1] > 0.0) if back else (v[:, 1] < -0.03)
        candidates = np.flatnonzero((v[:, 0] > 0.012) & (v[:, 2] < 0.05) & (v[:, 2] > -0.5) & side)
        chain: list[int] = []
        for z in np.arange(0.02, -0.44, -0.025):
            # The chain moves from the middle of the belly onto the crest of the thigh.
            x = 0.03 + 0.05 * smoothstep(z, 0.02, -0.10)
            d = np.abs(v[candidates, 0] - x) + 1.5 * np.abs(v[candidates, 2] - z)
            pick = int(candidates[d.argmin()])
            if not chain or chain[-1] != pick:
                chain.append(pick)
        for a, b in itertools.pairwise(chain):
            triangles += [(a, int(mirror[a]), b), (b, int(mirror[a]), int(mirror[b]))]
    return np.asarray(triangles, np.int32)


def _average(model: "anny.Anny", v: Floats) -> Floats:
    """An average adult's vertices [V, 3], moved so that heights agree with the template's.

    The template is no adult: lines that are level on it wave over the chest of one.
    """
    with torch.inference_mode():
        rest = model(phenotype_kwargs=AVERAGE | {"gender": 0.7})["rest_vertices"][0].numpy()
    trunk = (np.abs(v[:, 0]) < 0.12) & (v[:, 2] > -0.1) & (v[:, 2] < 0.58)
    scale, shift = np.polyfit(rest[trunk, 2], v[trunk, 2], 1)
    out = rest * scale
    out[:, 2] = rest[:, 2] * scale + shift
    out[:, 1] += (v[trunk, 1] - out[trunk, 1]).mean()
    return out.astype(np.float32)


@cache
def anatomy() -> Anatomy:
    """The mesh and its groups; the first call in a process takes seconds."""
    import anny

    model = anny.Anny()
    v = model.template_vertices.numpy().astype(np.float32)
    faces = model.faces.numpy().astype(np.int32)
    bones = {name: i for i, name in enumerate(model.bone_labels)}
    n, j = len(v), len(bones)
    index, weight = model.vertex_bone_indices.numpy(), model.vertex_bone_weights.numpy()
    rows = np.repeat(np.arange(n), index.shape[1])
    skin = sp.csr_matrix(
        (weight.reshape(-1).astype(np.float32), (rows, index.reshape(-1))), shape=(n, j)
    )
    dense = skin.toarray()
    heads_all = model.template_bone_heads.numpy().astype(np.float32)
    heads = {name.removesuffix(".L"): heads_all[i] for name, i in bones.items() if ".R" not in name}

    def share(*prefixes: str) -> Floats:
        ids = [i for name, i in bones.items() if name.startswith(prefixes)]
        return dense[:, ids].sum(1)

    fingers = ("wrist", "finger", "metacarpal")
    hand = share(*fingers)
    arm = share("upperarm", "lowerarm", *fingers)
    head = share("head", "eye", "neck03")
    mirrored = np.abs(v[:, :1]) * np.array([1, 0, 0]) + v * np.array([0, 1, 1])
    s, e, w = heads["upperarm01"], heads["lowerarm01"], heads["wrist"]
    upper, lower = e - s, w - e
    lu, ll = np.linalg.norm(upper), np.linalg.norm(lower)
    t1 = (mirrored - s) @ upper / lu
    t2 = (mirrored - e) @ lower / ll
    on_lower = t2 > 0
    along = np.where(on_lower, lu + t2, np.minimum(t1, lu)) / (lu + ll)
    axis = np.where(on_lower[:, None], lower / ll, upper / lu)
    radial = mirrored - np.where(on_lower[:, None], e, s)
    radial = radial - (radial * axis).sum(1, keepdims=True) * axis
    forwards = np.array([0.3, -1.0, 0.0]) - axis * (axis @ np.array([0.3, -1.0, 0.0]))[:, None]
    forwards = unit(forwards)
    arm_round = np.stack(
        [(radial * forwards).sum(1), (radial * np.cross(axis, forwards)).sum(1)], 1
    )
    groups = {
        "trunk": share("root", "pelvis", "spine", "clavicle", "shoulder01", "neck01", "neck02"),
        "head": head,
        "upperarm": share("upperarm"),
        "forearm": share("lowerarm"),
        "hand": hand,
        "thigh": share("upperleg"),
        "calf": share("lowerleg"),
        "foot": share("foot", "toe"),
    }
    part_scores, part_uv, real_uv = _densepose(
        v, faces, {k: g.astype(np.float32) for k, g in groups.items()}, heads
    )
    return Anatomy(
        canonical=v,
        chart=_average(model, v),
        faces=faces,
        skin_weights=skin,
        bones=bones,
        parents=tuple(int(p) for p in model.bone_parents),
        arm_share=arm,
        arm_length=along.astype(np.float32),
        arm_round=arm_round.astype(np.float32),
        side=np.where(v[:, 0] >= 0, 1, -1).astype(np.float32),
        head_share=head,
        hand_share=hand,
        part_scores=part_scores,
        part_uv=part_uv,
        real_uv=real_uv,
        bridge=_bridge(v),
        torso=(arm < 0.3) & (v[:, 2] < 0.60) & (v[:, 2] > -0.5) & (head < 0.5),
        incidence=Mesh.of(faces, n).incidence,
        model=model,
    )


def rest_body(
    phenotype: dict[str, float], slim: float, head_size: float, neck: float
) -> tuple[Floats, Floats]:
    """Vertices [V, 3] and bone heads [J, 3] of a body in the rest pose, metres.

    Fashion models are narrower for their heads, and shorter in the neck, than the phenotypes
    reach; the three factors bring the proportions to those of the photos.

    Args:
        phenotype: of `anny`, each 0..1.
        slim: factor of width and depth below the head.
        head_size: factor of the head.
        neck: metres that the neck is shorter.
    """
    a = anatomy()
    with torch.inference_mode():
        out = a.model(phenotype_kwargs=phenotype)
    vertices = out["rest_vertices"][0].numpy().astype(np.float32)
    heads = out["rest_bone_heads"][0].numpy().astype(np.float32)
    pivot = heads[a.bones["neck03"]].copy()
    base = float(heads[a.bones["neck01"], 2])
    for points in (vertices, heads):
        above = smoothstep(points[:, 2], pivot[2] - 0.07, pivot[2] + 0.01)
        lowered = neck * smoothstep(points[:, 2], base - 0.01, pivot[2])
        factor = 1 + (slim - 1) * (1 - above)
        points[:, 0] *= factor
        points[:, 1] = TORSO_AXIS_Y + (points[:, 1] - TORSO_AXIS_Y) * factor
        points += (points - pivot) * ((head_size - 1) * above)[:, None]
        points[:, 2] -= lowered
    return vertices, heads


def rotation(axis: ArrayLike, angle: float) -> Floats:
    """Rotation matrix [3, 3] by `angle` radians about `axis` (Rodrigues)."""
    x, y, z = np.asarray(axis, np.float64) / max(float(np.linalg.norm(axis)), 1e-12)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    r = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)
    return r.astype(np.float32)


def bone_transforms(heads: Floats, local: dict[str, Floats]) -> Floats:
    """World transforms [J, 3, 4] of rotations [3, 3] given per bone in rest-pose axes.

    A rotation is about the bone's own head and moves everything that hangs on the bone.
    """
    a = anatomy()
    rotations = {a.bones[name]: r for name, r in local.items()}
    world: list[Floats] = []
    for j, p in enumerate(a.parents):
        out = world[p].copy() if p >= 0 else np.eye(3, 4, dtype=np.float32)
        if j in rotations:
            r = rotations[j]
            out[:, 3] += out[:, :3] @ (heads[j] - r @ heads[j])
            out[:, :3] = out[:, :3] @ r
        world.append(out)
    return np.stack(world)


def skin_transforms(transforms: Floats) -> Floats:
    """Blend of bone transforms per vertex, [V, 3, 4] (linear blend skinning)."""
    blend = anatomy().skin_weights @ transforms.reshape(len(transforms), 12)
    return blend.reshape(-1, 3, 4)


def apply_transforms(blend: Floats, vertices: Floats) -> Floats:
    """Posed vertices [V, 3]."""
    return np.einsum("vij,vj->vi", blend[:, :, :3], vertices) + blend[:, :, 3]
