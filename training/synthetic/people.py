"""Who is rendered: bodies and garments as plain numbers, drawn from a seeded generator.

Nothing here renders; a `Body` or `Garment` is the whole recipe of what `render` makes of it.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from garment_transfer.training.synthetic.anatomy import AVERAGE
from garment_transfer.training.synthetic.shots import (
    FIRST,
    REAL,
    Colour,
    Roughness,
    Shot,
    sample_shot,
    triple,
)

#: Skin in even daylight, from light to dark.
SKIN_TONES: Final[tuple[Colour, ...]] = (
    (0.98, 0.86, 0.79),
    (0.96, 0.82, 0.73),
    (0.93, 0.77, 0.66),
    (0.89, 0.71, 0.59),
    (0.82, 0.62, 0.49),
    (0.72, 0.52, 0.39),
    (0.58, 0.40, 0.29),
    (0.44, 0.30, 0.22),
    (0.33, 0.22, 0.17),
)
HAIR_COLOURS: Final[tuple[Colour, ...]] = (
    (0.06, 0.05, 0.05),
    (0.11, 0.08, 0.07),
    (0.19, 0.12, 0.08),
    (0.30, 0.19, 0.11),
    (0.43, 0.28, 0.16),
    (0.62, 0.45, 0.26),
    (0.80, 0.66, 0.44),
    (0.45, 0.20, 0.11),
    (0.55, 0.53, 0.52),
)


@dataclass(frozen=True)
class Arm:
    """How one arm is held."""

    pose: str  #: a key of `_POSE_WEIGHTS`, or crossed
    jitter: tuple[float, float, float]  #: wrist shift in arm lengths, about -1..1 (scaled inside)
    swivel: float  #: turn of the elbow about shoulder-wrist, radians
    twist: float  #: turn of the hand from where the pose wants the palm, radians
    curl: float  #: finger bend, radians per joint
    spread: float  #: 0..1, how far the pose is from its tightest form


@dataclass(frozen=True)
class Hair:
    style: str  #: bald, buzz, short, tied, bun, bob or long
    colour: Colour
    length: float  #: 0..1 within the style
    volume: float  #: metres off the skull
    fringe: float  #: 0 none .. 1 down to the brows
    parting: float  #: -1..1, subject's right to left
    front: tuple[bool, bool]  #: (right, left) lock in front of the shoulder
    waves: float  #: 0 straight .. 1 wavy
    seed: int


@dataclass(frozen=True)
class Lower:
    """Trousers or skirt."""

    kind: str  #: "trousers", "shorts" or "skirt"
    colour: Colour
    denim: bool
    looseness: float  #: metres off the skin
    waist: float  #: canonical height of the waistband, metres
    hem: float  #: canonical height of the lower edge, metres
    drape: float  #: 0 pencil skirt .. 1 flared
    seed: int


@dataclass(frozen=True)
class Body:
    phenotype: dict[str, float]
    slim: float  #: width and depth of the body below the head, of the phenotype's
    head_size: float  #: of the phenotype's
    neck: float  #: metres that the neck is shorter
    skin: Colour
    hair: Hair
    lower: Lower
    arms: tuple[Arm, Arm]  #: subject's right, left
    turn: float  #: of the whole body about the vertical, radians
    lean: tuple[float, float]  #: sideways and forward bend of the trunk, radians
    hips: float  #: contrapposto, radians
    legs: tuple[float, float]  #: spread, one leg forward, radians
    head: tuple[float, float, float]  #: turn, tilt, nod, radians
    shoulders: float  #: lift, radians
    frame: tuple[float, float, float]  #: height (of the body's), top margin, x shift (of height)
    light: tuple[float, float, float]  #: direction to the light: right, up, towards the camera
    contrast: float  #: 0 flat light .. 1 hard
    exposure: float
    background: Colour
    gradient: float  #: brightness fall from top to bottom
    makeup: float
    eyes: Colour
    seed: int
    #: How the photo is taken; without one, light, background and frame are the fields above. (The
    #: representation of bodies without is part of a hash.)
    shot: Shot | None = field(default=None, repr=False)
    #: How bright skin below the jaw is beside the face's.
    limbs: float = field(default=1.0, repr=False)


@dataclass(frozen=True)
class Garment:
    """An upper garment. Lengths are canonical metres unless said otherwise."""

    sleeve: float  #: 0 sleeveless/straps; else share of the way from shoulder to wrist
    strap: float  #: without sleeves: distance of the strap's outer edge from the middle
    sleeve_width: float  #: extra radius at the cuff, metres
    neckline: str  #: crew, scoop, v, boat, turtleneck, square or collar
    neck_width: float  #: half width of the opening
    #: drop of the opening's lowest point in front; of a turtleneck, how high it stands instead
    neck_depth: float
    hem: float  #: height of the lower edge (0.25 waist, -0.04 crotch)
    hem_curve: float  #: rise of the hem at the sides
    tucked: bool
    looseness: float  #: metres off the skin
    drape: float  #: 0 follows the body .. 1 hangs straight from chest and shoulders
    folds: float  #: 0..1
    placket: bool  #: a buttoned opening in front
    trim: float  #: 0 none .. 1 contrasting cuffs and collar
    pattern: str  #: plain, or a key of `Distribution.patterns`
    colours: tuple[Colour, Colour, Colour]
    scale: float  #: size of the pattern, metres
    angle: float  #: of the pattern, radians
    text: str
    sheen: float
    seed: int


@dataclass(frozen=True)
class Distribution:
    """What people and garments are drawn from. `entropy` keeps the streams of two apart."""

    name: str
    entropy: int
    plain: float  #: share of plain garments
    collar: float  #: metres that a turtleneck rises at most
    max_turn: float  #: radians
    letters: str
    patterns: dict[str, float] = field(default_factory=dict)  #: weights of the others
    roughness: Roughness = REAL
    shots: bool = True  #: whether bodies have a `Shot`, and DensePose its real charts
    strangers: int = 0  #: number of the first stranger in its photos
    #: of `Body.limbs`: at 1 arms come out a sixth brighter than faces; on photos they are darker
    limbs: tuple[float, float] = (1.0, 1.0)

    def rng(self, *index: int) -> np.random.Generator:
        """The generator of item `index` of stream `index[0]`: a function of nothing else."""
        return np.random.default_rng(np.random.SeedSequence(self.entropy, spawn_key=index))


TRAIN: Final = Distribution(
    "train",
    20240123_001,
    plain=0.42,
    collar=0.03,
    max_turn=0.4,
    letters="ABCDEFGHIKLMNOPRSTUVY",
    patterns={
        "stripes": 0.24,
        "checks": 0.11,
        "dots": 0.09,
        "floral": 0.12,
        "print": 0.15,
        "lettering": 0.13,
        "gradient": 0.04,
        "blocks": 0.07,
        "noise": 0.05,
    },
    limbs=(0.64, 1.02),
)
HELD_OUT: Final = Distribution(
    "held_out",
    77_620_411_903,
    plain=0.20,
    collar=0.0,
    max_turn=0.3,
    letters="JQWXZ23456789",
    patterns={
        "stripes": 0.24,
        "checks": 0.13,
        "dots": 0.10,
        "floral": 0.13,
        "print": 0.15,
        "lettering": 0.12,
        "gradient": 0.03,
        "blocks": 0.07,
        "noise": 0.03,
    },
    roughness=FIRST,
    shots=False,
)
#: Set A of the held-out test is drawn from HELD_OUT, set B from this.
HELD_OUT_B: Final = replace(
    HELD_OUT,
    name="held_out_b",
    entropy=40_958_113_776_201,
    plain=0.66,
    collar=0.03,
    max_turn=0.4,
    roughness=REAL,
    shots=True,
    strangers=1000,
)


def _choice(rng: np.random.Generator, weights: dict[str, float]) -> str:
    names = list(weights)
    p = np.array([weights[n] for n in names])
    return names[int(rng.choice(len(names), p=p / p.sum()))]


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _normal(rng: np.random.Generator, sigma: float, limit: float) -> float:
    return float(np.clip(rng.normal(0, sigma), -limit, limit))


def hsv(h: float, s: float, v: float) -> Colour:
    """RGB of hue, saturation and value, each 0..1."""
    i = np.array([5.0, 3.0, 1.0])
    k = (i + (h % 1.0) * 6) % 6
    return triple(v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1))


def sample_colour(rng: np.random.Generator) -> Colour:
    """A cloth colour: blacks, navies, whites and greys are common, loud colours are not rare."""
    u = rng.random()
    if u < 0.20:
        g = _between(rng, 0.055, 0.14)
        return hsv(rng.random(), _between(rng, 0, 0.2), g)
    if u < 0.30:
        return hsv(
            0.63 + _normal(rng, 0.03, 0.06), _between(rng, 0.4, 0.8), _between(rng, 0.14, 0.4)
        )
    if u < 0.43:
        return hsv(0.1 + _normal(rng, 0.04, 0.1), _between(rng, 0, 0.07), _between(rng, 0.88, 0.98))
    if u < 0.53:
        return hsv(rng.random(), _between(rng, 0, 0.08), _between(rng, 0.35, 0.82))
    hue = rng.random()
    if u < 0.75:
        return hsv(hue, _between(rng, 0.12, 0.45), _between(rng, 0.55, 0.95))
    return hsv(hue, _between(rng, 0.5, 0.95), _between(rng, 0.3, 0.9))


def sample_hair(rng: np.random.Generator, female: bool, skin: int) -> Hair:
    if female:
        style = _choice(rng, {"short": 0.08, "tied": 0.20, "bun": 0.14, "bob": 0.20, "long": 0.38})
    else:
        styles = {"bald": 0.06, "buzz": 0.2, "short": 0.6, "bun": 0.04, "bob": 0.04, "long": 0.06}
        style = _choice(rng, styles)
    dark = skin >= 5
    weights = (
        np.array([3, 3, 3, 3, 2, 2, 2, 0.7, 0.7])
        if not dark
        else np.array([6, 5, 3, 1, 0.3, 0.2, 0.2, 0.3, 0.5])
    )
    base = np.array(HAIR_COLOURS[int(rng.choice(len(weights), p=weights / weights.sum()))])
    colour = np.clip(base * _between(rng, 0.85, 1.15) + rng.normal(0, 0.01, 3), 0.02, 0.95)
    return Hair(
        style=style,
        colour=triple(colour),
        length=float(rng.random()),
        volume=_between(rng, 0.008, 0.024),
        fringe=float(rng.random()) if rng.random() < 0.3 else 0.0,
        parting=_normal(rng, 0.4, 0.8),
        front=(bool(rng.random() < 0.55), bool(rng.random() < 0.55)),
        waves=float(rng.random()),
        seed=int(rng.integers(2**31)),
    )


def sample_lower(rng: np.random.Generator, female: bool) -> Lower:
    kind = _choice(
        rng,
        {"trousers": 0.72, "shorts": 0.08, "skirt": 0.20}
        if female
        else {"trousers": 0.88, "shorts": 0.12},
    )
    u = rng.random()
    denim = kind != "skirt" and u < 0.42
    if denim:
        colour = hsv(
            0.6 + _normal(rng, 0.015, 0.03), _between(rng, 0.3, 0.65), _between(rng, 0.2, 0.72)
        )
    elif u < 0.62:
        colour = hsv(rng.random(), 0.1, _between(rng, 0.05, 0.16))
    elif u < 0.75:
        colour = hsv(0.1, _between(rng, 0, 0.08), _between(rng, 0.85, 0.97))
    else:
        colour = sample_colour(rng)
    hem = -0.9
    if kind == "shorts":
        hem = _between(rng, -0.30, -0.10)
    elif kind == "skirt":
        hem = _between(rng, -0.42, -0.16)
    return Lower(
        kind=kind,
        colour=colour,
        denim=denim,
        looseness=_between(rng, 0.004, 0.014)
        if rng.random() < 0.7
        else _between(rng, 0.014, 0.035),
        waist=_between(rng, 0.10, 0.24) if female else _between(rng, 0.10, 0.18),
        hem=hem,
        drape=float(rng.random()),
        seed=int(rng.integers(2**31)),
    )


_POSE_WEIGHTS: Final = {
    "down": 0.46,
    "wide": 0.10,
    "akimbo": 0.11,
    "across": 0.06,
    "pocket": 0.09,
    "behind": 0.06,
    "front": 0.05,
    "thigh": 0.05,
    "chest": 0.02,
}


def _sample_arm(rng: np.random.Generator, pose: str) -> Arm:
    return Arm(
        pose=pose,
        jitter=triple(rng.normal(0, 0.4, 3).clip(-1, 1)),
        swivel=_normal(rng, 0.15, 0.35),
        twist=_normal(rng, 0.25, 0.6),
        curl=_between(rng, 0.08, 0.4),
        spread=float(rng.random()),
    )


def sample_arms(rng: np.random.Generator) -> tuple[Arm, Arm]:
    """The two arms; some poses need both."""
    u = rng.random()
    if u < 0.06:
        pair = ("crossed", "crossed")
    elif u < 0.10:
        pair = ("front", "front")
    elif u < 0.14:
        pair = ("behind", "behind")
    elif u < 0.40:
        pair = ("down", "down")
    else:
        pair = (_choice(rng, _POSE_WEIGHTS), _choice(rng, _POSE_WEIGHTS))
    return _sample_arm(rng, pair[0]), _sample_arm(rng, pair[1])


def sample_body(rng: np.random.Generator, distribution: Distribution = TRAIN) -> Body:
    """A person without the upper garment: mostly slim adults, two of three of them women."""
    female = bool(rng.random() < 0.68)
    phenotype = {
        "gender": _between(rng, 0.85, 1.0) if female else _between(rng, 0.0, 0.2),
        "age": _between(rng, 0.62, 0.78),
        "muscle": _between(rng, 0.3, 0.6) if female else _between(rng, 0.45, 0.8),
        "weight": float(np.clip(rng.normal(0.33, 0.12), 0.12, 0.75)),
        "height": _between(rng, 0.42, 0.55),
        "proportions": _between(rng, 0.55, 1.0),
    }
    tone = int(rng.choice(9, p=np.array([3, 4, 4, 3, 2, 1.5, 1.3, 1.2, 1]) / 21))
    skin = np.clip(np.array(SKIN_TONES[tone]) * _between(rng, 0.95, 1.03), 0, 1)
    skin += rng.normal(0, 0.008, 3)
    turn = _normal(rng, 0.12, distribution.max_turn)
    grey = _between(rng, 0.80, 0.985) if rng.random() < 0.92 else _between(rng, 0.45, 0.8)
    tint = rng.normal(0, 0.008 if rng.random() < 0.85 else 0.04, 3)
    background = np.clip(grey + tint, 0, 1)
    eyes = ((0.22, 0.13, 0.08), (0.30, 0.20, 0.11), (0.28, 0.36, 0.44), (0.25, 0.33, 0.22))
    body = Body(
        phenotype=phenotype,
        slim=_between(rng, 0.85, 0.96),
        head_size=_between(rng, 0.99, 1.06),
        neck=_between(rng, 0.003, 0.02),
        skin=triple(skin),
        hair=sample_hair(rng, female, tone),
        lower=sample_lower(rng, female),
        arms=sample_arms(rng),
        turn=turn,
        lean=(_normal(rng, 0.05, 0.12), _normal(rng, 0.04, 0.1)),
        hips=_normal(rng, 0.06, 0.14),
        legs=(_between(rng, 0.03, 0.13), _normal(rng, 0.08, 0.2)),
        head=(
            _normal(rng, 0.3, 0.75) - 0.4 * turn,
            _normal(rng, 0.09, 0.25),
            _normal(rng, 0.08, 0.2),
        ),
        shoulders=0.03 + _normal(rng, 0.06, 0.12),
        frame=(
            _between(rng, 0.52, 0.68),
            float(np.clip(rng.normal(0.022, 0.020), -0.05, 0.06)),
            _normal(rng, 0.03, 0.08),
        ),
        # a studio's soft light from the front, as catalogues have it: a garment that is moved
        # keeps the light of its owner's photo
        light=(_normal(rng, 0.25, 0.5), _between(rng, 0.4, 0.9), 1.0),
        contrast=_between(rng, 0.08, 0.22),
        exposure=_between(rng, 0.97, 1.03),
        background=triple(background),
        gradient=_normal(rng, 0.05, 0.12),
        makeup=float(rng.random()) if female else 0.12 * float(rng.random()),
        eyes=eyes[int(rng.choice(4, p=[0.45, 0.25, 0.18, 0.12]))],
        seed=int(rng.integers(2**31)),
    )
    if not distribution.shots:
        return body
    limbs = np.random.default_rng([body.seed, 22]).uniform(*distribution.limbs)
    return replace(body, shot=sample_shot(body.seed, distribution.strangers), limbs=float(limbs))


def sample_sleeve(rng: np.random.Generator) -> float:
    """A sleeve length of Garment's scale."""
    kind = rng.choice(6, p=[0.22, 0.07, 0.26, 0.08, 0.09, 0.28])
    if kind == 0:
        return 0.0
    low, high = ((0.06, 0.14), (0.22, 0.44), (0.46, 0.56), (0.62, 0.8), (0.9, 1.03))[kind - 1]
    return _between(rng, low, high)


def sleeve_kind(sleeve: float) -> int:
    """0 without, 1 cap, 2 short, 3 elbow, 4 three-quarter, 5 long: what counts as other length."""
    return int(np.searchsorted([0.03, 0.18, 0.45, 0.6, 0.85], sleeve))


def sample_garment(
    rng: np.random.Generator, distribution: Distribution = TRAIN, other_than: float | None = None
) -> Garment:
    """An upper garment.

    Args:
        rng: source of chance.
        distribution: TRAIN or HELD_OUT.
        other_than: a sleeve length; the new one is of another kind.
    """
    sleeve = sample_sleeve(rng)
    while other_than is not None and sleeve_kind(sleeve) == sleeve_kind(other_than):
        sleeve = sample_sleeve(rng)
    bare = sleeve == 0.0
    neckline = _choice(
        rng,
        {"crew": 0.2, "scoop": 0.42, "v": 0.2, "boat": 0.04, "turtleneck": 0.03, "square": 0.11}
        if bare
        else {
            "crew": 0.40,
            "scoop": 0.14,
            "v": 0.17,
            "boat": 0.08,
            "turtleneck": 0.12,
            "square": 0.02,
            "collar": 0.07,
        },
    )
    width, depth = {
        "crew": ((0.066, 0.082), (0.045, 0.075)),
        "scoop": ((0.075, 0.105), (0.09, 0.17)),
        "v": ((0.064, 0.095), (0.10, 0.23)),
        "boat": ((0.11, 0.15), (0.035, 0.06)),
        "turtleneck": ((0.07, 0.07), (0.05, 0.05 + distribution.collar)),
        "square": ((0.08, 0.105), (0.10, 0.15)),
        "collar": ((0.062, 0.068), (0.05, 0.12)),
    }[neckline]
    neck_width = _between(rng, *width)
    strap_width = _between(rng, 0.012, 0.03) if rng.random() < 0.45 else _between(rng, 0.03, 0.07)
    if neckline in ("crew", "v", "boat", "turtleneck", "collar"):
        strap_width = max(strap_width, 0.03)
    if bare and neckline == "boat":
        neck_width = min(neck_width, 0.12)
    fit = rng.random()
    if bare:
        looseness = _between(rng, 0.004, 0.010) if fit < 0.7 else _between(rng, 0.010, 0.02)
    else:
        looseness = _between(rng, 0.005, 0.010) if fit < 0.45 else _between(rng, 0.010, 0.026)
    loose = float(np.clip((looseness - 0.005) / 0.02, 0, 1))
    cut = rng.random()
    if cut < 0.08:
        hem = _between(rng, 0.17, 0.25)
    elif cut < 0.90:
        hem = _between(rng, -0.02, 0.13)
    else:
        hem = _between(rng, -0.16, -0.02)
    tucked = bool(cut >= 0.08 and rng.random() < 0.16)
    pattern = "plain" if rng.random() < distribution.plain else _choice(rng, distribution.patterns)
    first = sample_colour(rng)
    second = sample_colour(rng)
    # A pattern that cannot be told from its ground would be a plain garment under another name.
    while np.abs(np.subtract(first, second)).max() < 0.22:
        second = sample_colour(rng)
    third = sample_colour(rng)
    letters = rng.choice(list(distribution.letters), size=int(rng.integers(3, 8)))
    return Garment(
        sleeve=sleeve,
        strap=min(neck_width + strap_width, 0.165),
        sleeve_width=_between(rng, 0.0, 0.01) if rng.random() < 0.6 else _between(rng, 0.01, 0.045),
        neckline=neckline,
        neck_width=neck_width,
        neck_depth=_between(rng, *depth),
        hem=hem,
        hem_curve=_between(rng, 0.5, 2.0) if rng.random() < 0.2 else _normal(rng, 0.2, 0.4),
        tucked=tucked,
        looseness=looseness,
        drape=float(np.clip(loose * 0.9 + rng.normal(0, 0.15), 0.0, 1.0)),
        folds=_between(rng, 0.15, 1.0),
        placket=neckline == "collar" or (not bare and rng.random() < 0.05),
        trim=float(rng.random() < 0.25) * _between(rng, 0.4, 1.0),
        pattern=pattern,
        colours=(first, second, third),
        scale=float(np.exp(_between(rng, np.log(0.018), np.log(0.10)))),
        angle=float(
            (0.0, np.pi / 2, _between(rng, 0.5, 1.1))[int(rng.choice(3, p=[0.6, 0.22, 0.18]))]
        ),
        text="".join(str(x) for x in letters),
        sheen=_between(rng, 0, 0.25) if rng.random() < 0.3 else 0.0,
        seed=int(rng.integers(2**31)),
    )


def neutral_body(female: bool) -> Body:
    """The mannequin of shop images: arms a little out, no turn, flat light."""
    arm = Arm("wide", (0.0, 0.0, 0.0), 0.0, 0.0, 0.1, 0.55)
    return replace(
        sample_body(np.random.default_rng(0)),
        phenotype=AVERAGE | {"gender": 0.95 if female else 0.05},
        slim=0.93,
        head_size=1.0,
        neck=0.01,
        arms=(arm, arm),
        turn=0.0,
        lean=(0.0, 0.0),
        hips=0.0,
        legs=(0.08, 0.0),
        head=(0.0, 0.0, 0.0),
        shoulders=0.0,
        light=(0.2, 0.8, 1.0),
        contrast=0.45,
        exposure=1.0,
        background=(1.0, 1.0, 1.0),
        gradient=0.0,
        shot=None,
    )
