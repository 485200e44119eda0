"""How a photo of a body is taken, and how rough the maps are that are made of it: plain numbers.

Nothing here renders. A `Shot` is the recipe of light, surroundings, camera and frame of one photo;
a body without one stands in a studio's soft light, in the frame that the body itself names.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

Colour = tuple[float, float, float]  #: RGB, 0..1
Range = tuple[float, float]


def triple(values: np.ndarray) -> tuple[float, float, float]:
    """Three numbers of an array as numbers of Python."""
    x, y, z = (float(v) for v in values)
    return x, y, z


def direction(azimuth: float, height: float) -> tuple[float, float, float]:
    """Where light comes from, (right, up, towards the camera), by its angles, radians."""
    across = np.cos(height)
    return triple(np.array([np.sin(azimuth) * across, np.sin(height), np.cos(azimuth) * across]))


@dataclass(frozen=True)
class Roughness:
    """How parsers and DensePose err: shares of maps, and pixels at 256 rows unless said otherwise.

    Ranges are drawn from evenly.
    """

    neck: float  #: share of parsings that leave neck and chest to the background, as VITON's do
    drift: Range  #: deviation of the slow shift of label borders
    drift_wave: Range  #: its wavelength
    jag: Range  #: deviation of their fast shift, of wavelength 5
    majority: float  #: share of parsings whose slivers are voted away
    blocky: float  #: share of parsings drawn at a lower resolution
    holes: float  #: mean number of holes and specks
    hole_radius: Range
    lost_hand: float  #: share of parsings with a hand taken for something else
    hairline: float  #: share of parsings with a hairline that is anybody's guess
    sway: Range  #: deviation of the slow shift of DensePose
    sway_wave: Range  #: its wavelength
    window: tuple[int, int]  #: side of the window whose most frequent part a pixel gets, exclusive
    shrink: Range  #: weight of the background in it is 1 through this
    fray: Range | None  #: deviation of the fast shift of what comes out, of wavelength 4
    blobs: Range  #: weight of hands and head in it
    limbs: Range | None  #: weight of arms in it
    fringe: float  #: share of maps with wrong parts at the rim
    lost_limb: float  #: share of maps with a hole in a forearm or hand
    stop: float  #: share of maps that stop above the bottom of the photo
    stop_rows: tuple[int, int]  #: by so many rows, exclusive
    charts: float  #: share of maps that carry U and V
    smooth: float  #: deviation of the blur of U and V within a part; 0 for none
    noise: float  #: deviation of the noise of U and V, 0..255
    noise_wave: float  #: its wavelength


#: What set A of the held-out test was made with.
FIRST: Final = Roughness(
    neck=0.5,
    drift=(0.3, 1.1),
    drift_wave=(14, 40),
    jag=(0.1, 0.5),
    majority=0.7,
    blocky=0.2,
    holes=1.2,
    hole_radius=(1, 3.5),
    lost_hand=0.25,
    hairline=0.3,
    sway=(0.5, 1.5),
    sway_wave=(18, 50),
    window=(3, 8),
    shrink=(0.85, 1.35),
    fray=None,
    blobs=(1.2, 2.2),
    limbs=None,
    fringe=0.5,
    lost_limb=0.15,
    stop=0.35,
    stop_rows=(1, 8),
    charts=0.5,
    smooth=0.0,
    noise=6.0,
    noise_wave=20.0,
)
#: Calibrated on photos with published maps (docs/training.md has figures of both).
REAL: Final = replace(
    FIRST,
    drift=(0.2, 0.9),
    drift_wave=(25, 70),
    jag=(0.0, 0.25),
    blocky=0.1,
    holes=3.0,
    hole_radius=(0.7, 3.0),
    window=(4, 8),
    fray=(0.0, 0.4),
    blobs=(3.0, 8.0),
    limbs=(1.1, 1.8),
    stop=0.7,
    stop_rows=(1, 6),
    smooth=3.5,
    noise=2.0,
    noise_wave=25.0,
)


@dataclass(frozen=True)
class Thing:
    """A thing in front of the body."""

    kind: str  #: strap, bag, phone or rail
    side: int  #: -1 the subject's right, 1 left
    size: float  #: 0..1 within what the kind allows
    at: tuple[float, float]  #: -1..1, shift of its place
    colour: Colour
    hole: bool  #: whether DensePose has a hole there


@dataclass(frozen=True)
class Stranger:
    """Somebody else in the photo, behind the person."""

    number: int  #: which of those that are kept
    side: int  #: -1 at the left of the picture, 1 right
    shift: float  #: of the middle of the frame, share of the frame's width
    size: float  #: of the frame's height
    mirrored: bool


@dataclass(frozen=True)
class Shot:
    """Light, surroundings, camera and frame of a photo."""

    light: tuple[float, float, float]  #: direction to the key light: right, up, towards the camera
    key: float  #: 0..1, share of the light that comes from there
    soft: float  #: 0 a point .. 1 a wide window
    tints: tuple[Colour, Colour]  #: of the key light, of the light from all around
    exposure: float
    gloss: float  #: of the skin
    backdrop: str  #: a key of `_BACKDROPS`
    palette: tuple[Colour, Colour, Colour]
    defocus: float  #: blur of the backdrop, share of the frame's height
    balance: Colour  #: gain of the channels
    gamma: float
    curve: float  #: -1 faded .. 1 harsh
    saturation: float
    vignette: float
    blur: float  #: pixels at 256 rows
    noise: float  #: of 0..1
    jpeg: int  #: quality; 0 for none
    #: height of the photo (of the body's), width through height, room above the crown (of the
    #: photo's height), shift of the body from the middle (of the photo's width)
    photo: tuple[float, float, float, float]
    things: tuple[Thing, ...]
    strangers: tuple[Stranger, ...]
    seed: int


_BACKDROPS: Final = {"studio": 0.5, "wall": 0.17, "room": 0.13, "street": 0.1, "leaves": 0.1}
#: How many strangers a distribution has.
STRANGERS: Final = 24


def sample_shot(seed: int, strangers: int) -> Shot:
    """The shot of a body of this seed; `strangers` is the number of the first of its strangers."""
    rng = np.random.default_rng([seed, 21])

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def normal(sigma: float, limit: float) -> float:
        return float(np.clip(rng.normal(0, sigma), -limit, limit))

    backdrop = str(rng.choice(list(_BACKDROPS), p=list(_BACKDROPS.values())))
    studio = backdrop == "studio"
    soft = between(0.4, 1.0) if studio or rng.random() < 0.5 else between(0.0, 0.5)
    azimuth = normal(0.6, 1.2) if studio else between(-1.9, 1.9)
    height = between(0.0, 1.1)
    warm = normal(0.05, 0.12)
    cool = -0.6 * warm + normal(0.02, 0.05)
    grey = between(0.82, 0.97) if studio and rng.random() < 0.8 else between(0.15, 0.9)
    palette = tuple(
        triple(np.clip(g + rng.normal(0, s, 3), 0.02, 0.99))
        for g, s in (
            (grey, 0.008 if studio else 0.035),
            (between(0.1, 0.9), 0.06),
            (between(0.1, 0.9), 0.09),
        )
    )
    u = rng.random()
    if u < 0.25:
        size, room = between(0.42, 0.54), 0.02 + normal(0.025, 0.05)
    elif u < 0.65:
        size, room = between(0.52, 0.68), 0.05 + normal(0.03, 0.06)
    elif u < 0.85:
        size, room = between(0.68, 1.0), between(0.04, 0.2)
    else:
        size, room = between(1.05, 2.2), between(0.04, 0.3)
    aspects = (0.75, 2 / 3, 0.5625, 1.0, 4 / 3, 16 / 9)
    aspect = float(rng.choice(aspects, p=(0.42, 0.2, 0.12, 0.1, 0.1, 0.06)))
    if aspect < 0.7 and size < 0.75:
        aspect = 0.75
    free = max(0.5 - 0.19 / (size * aspect), 0.0)
    things = []
    for kind, share in (("strap", 0.09), ("bag", 0.07), ("phone", 0.04), ("rail", 0.03)):
        if rng.random() < share:
            things.append(
                Thing(
                    kind=kind,
                    side=int(rng.choice((-1, 1))),
                    size=float(rng.random()),
                    at=(between(-1, 1), between(-1, 1)),
                    colour=triple(
                        np.clip(between(0.03, 0.7) * rng.uniform(0.7, 1.3, 3), 0.01, 0.95)
                    ),
                    hole=bool(rng.random() < 0.4),
                )
            )
    crowd = 0
    if rng.random() < (0.04 if studio else 0.22):
        crowd = int(rng.choice((1, 2), p=(0.8, 0.2)))
    others = tuple(
        Stranger(
            number=strangers + int(rng.integers(STRANGERS)),
            side=int(rng.choice((-1, 1))),
            shift=between(0.32, 0.62),
            size=between(0.75, 1.25),
            mirrored=bool(rng.random() < 0.5),
        )
        for _ in range(crowd)
    )
    return Shot(
        light=direction(azimuth, height),
        key=between(0.2, 0.6) if studio else between(0.15, 0.7),
        soft=soft,
        tints=(
            triple(np.array([1 + warm, 1 + 0.2 * warm, 1 - warm])),
            triple(np.array([1 + cool, 1.0, 1 - cool])),
        ),
        exposure=between(0.88, 1.08),
        gloss=between(0.02, 0.11),
        backdrop=backdrop,
        palette=palette,  # type: ignore[arg-type]
        defocus=between(0.004, 0.03) if backdrop == "leaves" or rng.random() < 0.6 else 0.0,
        balance=triple(1 + np.clip(rng.normal(0, 0.025, 3), -0.07, 0.07)),
        gamma=between(0.85, 1.25),
        curve=normal(0.3, 0.7),
        saturation=between(0.7, 1.2),
        vignette=between(0.0, 0.25) if rng.random() < 0.3 else 0.0,
        blur=between(0.0, 0.55),
        noise=between(0.0, 0.007) if rng.random() < 0.85 else between(0.007, 0.02),
        jpeg=int(rng.integers(55, 96)) if rng.random() < 0.5 else 0,
        photo=(size, aspect, room, normal(0.4, 1.0) * free),
        things=tuple(things),
        strangers=others,
        seed=int(rng.integers(2**31)),
    )
