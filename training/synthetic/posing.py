"""From how a `Body` holds itself to bone rotations.

The wrists are put where a pose wants them (on the hip, in front of the belly, behind the back) by
analytic two-bone inverse kinematics in the rest body's own coordinates; trunk and hips are turned
afterwards and take the arms along.
"""

from collections.abc import Callable

import numpy as np

from garment_transfer.training.synthetic.anatomy import Floats, anatomy, rotation, unit
from garment_transfer.training.synthetic.people import Arm, Body

#: (half width, front y, back y) of the trunk at a height of the rest body.
Profile = Callable[[float], tuple[float, float, float]]


#: Where the fingers point, for the subject's left hand: (outwards, away from the camera, up).
_HAND_DIRECTION = {
    "akimbo": (-0.35, -0.35, -1.0),
    "pocket": (-0.2, -0.2, -1.0),
    "thigh": (-0.3, -0.1, -1.0),
}


def _frame(along: Floats, hinge: Floats) -> Floats:
    """Rotation whose columns are a bone's direction, its hinge, and the third axis."""
    a = unit(along)
    h = unit(hinge - (hinge @ a) * a)
    return np.stack([a, h, np.cross(a, h)], axis=1)


def _minimal(a: Floats, b: Floats) -> Floats:
    """Least rotation that takes direction a to b."""
    a, b = unit(a), unit(b)
    axis = np.cross(a, b)
    s = float(np.linalg.norm(axis))
    if s < 1e-6:
        return np.eye(3, dtype=np.float32)
    return rotation(axis / s, float(np.arctan2(s, a @ b)))


def behind(arm: Arm) -> bool:
    """Whether the hand is behind the body."""
    return arm.pose == "behind" or (arm.pose == "akimbo" and arm.spread >= 0.7)


def _target(
    arm: Arm,
    side: float,
    shoulder: Floats,
    reach: float,
    z: Callable[[float], float],
    body: Profile,
) -> tuple[Floats, Floats, Floats]:
    """Wrist, elbow pole and palm direction, for the subject's left (side=1) or right (-1)."""
    jx, jy, jz = (reach * 0.05 * v for v in arm.jitter)
    s = arm.spread
    out = np.array([side, 1, 1])

    def at(x: float, y: float, h: float) -> Floats:
        return np.array([side * x + jx, y + jy, h + jz], np.float32)

    def vec(x: float, y: float, h: float) -> Floats:
        return (np.array([x, y, h]) * out).astype(np.float32)

    # where the trunk is measured that a hand lies on
    heights = {
        "akimbo": 0.11 + 0.09 * s,
        "thigh": -0.02,
        "across": 0.08 + 0.20 * s,
        "crossed": 0.32,
        "front": 0.02 + 0.08 * s,
        "chest": 0.44 + 0.06 * s,
    }
    level = z(heights.get(arm.pose, 0.06))
    wide, front, back = body(level)
    x0 = abs(float(shoulder[0]))
    if arm.pose == "down":
        x = max(x0 + reach * (0.02 + 0.22 * s), wide + 0.045)
        y = float(shoulder[1]) - 0.015
        drop = np.sqrt(max(reach**2 * 0.975 - (x - x0) ** 2, 0.01))
        return at(x, y, float(shoulder[2]) - drop), vec(0.35, 1, 0), vec(-1, 0.35, 0)
    if arm.pose == "wide":
        x = x0 + reach * (0.25 + 0.3 * s)
        y = float(shoulder[1]) - 0.03
        drop = np.sqrt(max(reach**2 * 0.96 - (x - x0) ** 2, 0.01))
        return at(x, y, float(shoulder[2]) - drop), vec(0.4, 1, 0), vec(-1, 0.2, 0)
    if arm.pose == "akimbo":
        y = 0.85 * back if behind(arm) else 0.25 * front + 0.02
        return at(wide + 0.04, y, level), vec(1, 0.35 - 0.3 * s, 0), vec(-1, 0.1, 0)
    if arm.pose == "pocket":
        return at(wide * 0.94, 0.55 * front, z(0.05)), vec(0.8, 1, 0), vec(-1, 0.3, 0)
    if arm.pose == "thigh":
        return at(wide * 0.92 + 0.02, front - 0.06, level), vec(1, 0.25, 0), vec(-0.2, 1, 0)
    if arm.pose == "behind":
        h = z(0.10 + 0.05 * s)
        return at(0.10 - 0.06 * s, back + 0.06, h), vec(1, 0.9, 0), vec(0, -1, 0)
    if arm.pose == "across":
        return at(0.03 - 0.08 * s, front - 0.075, level), vec(1, 0.25, -0.5), vec(-0.1, 1, 0)
    if arm.pose == "crossed":
        h = z(0.24 + 0.03 * s + 0.02 * side)
        depth = 0.085 + (0.03 if side > 0 else 0.0)
        return at(-0.055, front - depth, h), vec(1, 0.0, -0.6), vec(0, 1, -0.2)
    if arm.pose == "front":
        depth = 0.06 + (0.025 if side > 0 else 0.0)
        return at(0.055, front - depth, level), vec(1, 0.6, -0.2), vec(-0.5, 0.8, 0)
    if arm.pose == "chest":
        return at(0.06, front - 0.075, level - 0.04), vec(1, 0.1, -1), vec(-0.2, 1, -0.2)
    raise ValueError(f"unknown pose {arm.pose!r}")


def _pose_arm(
    arm: Arm, side: float, heads: Floats, z: Callable[[float], float], body: Profile
) -> dict[str, Floats]:
    a = anatomy()
    tag = ".L" if side > 0 else ".R"

    def head(name: str) -> Floats:
        return heads[a.bones[name + tag]]

    s, e, w = head("upperarm01"), head("lowerarm01"), head("wrist")
    u0, w0 = e - s, w - e
    lu, ll = float(np.linalg.norm(u0)), float(np.linalg.norm(w0))
    target, pole, palm = _target(arm, side, s, lu + ll, z, body)
    reach = target - s
    distance = float(np.linalg.norm(reach))
    distance_ok = float(np.clip(distance, 0.35 * (lu + ll), 0.995 * (lu + ll)))
    direction = reach / max(distance, 1e-6)
    w1_at = s + direction * distance_ok
    # The elbow lies on a circle about shoulder-wrist; the pole says where on it.
    pole = rotation(direction, arm.swivel * side) @ pole
    lateral = unit(pole - (pole @ direction) * direction)
    cos = (lu**2 + distance_ok**2 - ll**2) / (2 * lu * distance_ok)
    cos = float(np.clip(cos, -1, 1))
    elbow = s + direction * (lu * cos) + lateral * (lu * np.sqrt(1 - cos**2))
    u1, w1 = elbow - s, w1_at - elbow
    hinge0 = np.cross(u0, w0)
    hinge1 = np.cross(u1, w1)
    if np.linalg.norm(hinge1) < 1e-5:
        hinge1 = np.cross(lateral, direction)
    full = _frame(u1, hinge1) @ _frame(u0, hinge0).T
    swing = _minimal(u0, u1)
    twist = full @ swing.T
    axial = np.array(
        [twist[2, 1] - twist[1, 2], twist[0, 2] - twist[2, 0], twist[1, 0] - twist[0, 1]]
    )
    angle = float(np.arctan2((axial / 2) @ unit(u1), (np.trace(twist) - 1) / 2))
    # The shoulder's skin cannot follow a whole twist at the joint: a share of it each.
    r1 = rotation(u1, 0.35 * angle) @ swing
    forearm = _frame(w1, hinge1) @ _frame(w0, hinge0).T
    local: dict[str, Floats] = {
        "upperarm01": r1,
        "upperarm02": r1.T @ full,
        "lowerarm01": full.T @ forearm,
    }
    # Turn the palm where it should look, as far as a forearm goes.
    across = np.cross(head("finger2-1") - w, head("finger5-1") - w)
    normal = unit(across)
    if normal @ np.array([-side, 0.0, -1.0]) < 0:
        normal = -normal
    d1 = unit(w1)
    n1 = forearm @ normal
    n1 = n1 - (n1 @ d1) * d1
    want = palm - (palm @ d1) * d1
    turn = float(np.arctan2(np.cross(n1, want) @ d1, n1 @ want)) + 0.6 * arm.twist
    turn = float(np.clip(turn, -1.7, 1.7))
    half, whole = rotation(d1, 0.5 * turn), rotation(d1, turn)
    local["lowerarm02"] = forearm.T @ half @ forearm
    before = half @ forearm
    hand = whole @ forearm
    if arm.pose in _HAND_DIRECTION:
        # The wrist bends, within its reach, to lay the hand along what it rests on.
        x, y, h = _HAND_DIRECTION[arm.pose]
        y = -y if target[1] > float(s[1]) + 0.04 else y
        goal = np.array([side * x, y, h], np.float32)
        now = unit(hand @ (head("finger3-1") - w))
        full_bend = float(np.arccos(np.clip(now @ unit(goal), -1, 1)))
        share = min(0.9, 1.05 / max(full_bend, 1e-3))
        hand = _minimal(now, now * (1 - share) + unit(goal) * share) @ hand
    local["wrist"] = before.T @ hand
    if arm.pose in ("across", "crossed", "front", "chest", "thigh"):
        # Bend the hand onto what it rests on.
        bend_axis = np.cross(head("finger3-1") - w, normal)
        local["wrist"] = local["wrist"] @ rotation(bend_axis, 0.25)
    middle = unit(head("finger3-2") - head("finger3-1"))
    for finger in range(1, 6):
        bones = [f"finger{finger}-{k}" for k in (1, 2, 3)]
        along = head(bones[1]) - head(bones[0])
        axis = np.cross(along, normal)
        bend = arm.curl * (0.5 if finger == 1 else 1.0) * (0.8 + 0.12 * finger)
        for k, bone in enumerate(bones):
            local[bone] = rotation(axis, bend * (1.0 if k else 0.6))
        # The rest pose spreads the fingers; hands at ease close them.
        closing = _minimal(along, along + (0.5 if finger == 1 else 1.5) * middle)
        local[bones[0]] = closing @ local[bones[0]]
    return {name + tag: r for name, r in local.items()}


def pose(
    body: Body, heads: Floats, profile: Profile, z: Callable[[float], float]
) -> dict[str, Floats]:
    """Rotations [3, 3] per bone, in rest-pose axes, for `anatomy.bone_transforms`.

    Args:
        body: whose pose.
        heads: [J, 3] bone heads of this body at rest.
        profile: the trunk's outline.
        z: canonical height to the height of the same level of this body.
    """
    local: dict[str, Floats] = {}
    for arm, side in zip(body.arms, (-1.0, 1.0), strict=True):
        local.update(_pose_arm(arm, side, heads, z, profile))
    lift = body.shoulders
    local["clavicle.L"] = rotation((0, 1, 0), -lift)
    local["clavicle.R"] = rotation((0, 1, 0), lift)
    turn = rotation((0, 0, 1), body.turn)
    hips = rotation((0, 1, 0), body.hips)
    local["root"] = turn @ hips
    sideways, forward = body.lean
    # The shoulders counter the hips, which is what makes a stance look at ease.
    third = rotation((0, 1, 0), (sideways - 1.3 * body.hips) / 3) @ rotation((1, 0, 0), forward / 3)
    for bone in ("spine05", "spine03", "spine02"):
        local[bone] = third
    spread, step = body.legs
    local["upperleg01.L"] = rotation((0, 1, 0), -body.hips + spread) @ rotation((1, 0, 0), step)
    local["upperleg01.R"] = rotation((0, 1, 0), -body.hips - spread) @ rotation((1, 0, 0), -step)
    yaw, tilt, nod = body.head
    level = -0.7 * (sideways - 0.3 * body.hips)
    for bone, share in (("neck01", 0.3), ("neck03", 0.3), ("head", 0.4)):
        local[bone] = (
            rotation((0, 0, 1), share * yaw)
            @ rotation((0, 1, 0), share * (tilt + level))
            @ rotation((1, 0, 0), share * nod)
        )
    return local
