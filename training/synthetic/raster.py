# mypy: disable-error-code="valid-type"
"""A z-buffer rasteriser for orthographic views, as one `warp` kernel on the CPU.

Fragments can be cut by interpolated per-vertex scalars, so that hems, necklines and sleeves are
cut per pixel and not per triangle, and what lies behind a cut shows.
"""

from dataclasses import astuple, dataclass

import numpy as np
import warp as wp

from garment_transfer.training.synthetic.anatomy import I32, Floats

#: A triangle is kept where the least of channels 0..2 is >= 0 / < 0, of 3..5 is >= 0 / < 0.
KEEP_A, DROP_A, KEEP_B, DROP_B = 1, 2, 4, 8
#: Channel 0 is an offset to the garment's opening, which is computed per pixel.
OPENING = 16


@dataclass(frozen=True)
class Opening:
    """Neck opening and armholes of a garment, in canonical metres (see `cloth.opening_cut`)."""

    style: int = 0  #: 0 round, 1 pointed, 2 square, 3 turtleneck
    width: float = 0.07
    depth: float = 0.06
    top: float = 0.586
    strap: float = -1.0  #: outer edge of the straps; negative for a garment with sleeves


#: Depth where nothing is, metres.
FAR = np.float32(1e6)


# warp's banner and progress lines would land in the output of every command. Older releases know
# only `quiet`.
if hasattr(wp.config, "log_level"):
    wp.config.log_level = wp.LOG_WARNING
else:
    wp.config.quiet = True  # type: ignore[attr-defined]


@wp.func
def _smooth(x: float, a: float, b: float) -> float:
    t = wp.clamp((x - a) / (b - a), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@wp.func
def _opening(
    place: wp.vec3, style: int, width: float, depth: float, top: float, strap: float
) -> float:
    # The same as cloth.opening_cut, which explains it.
    x = wp.abs(place[0])
    y = place[1]
    z = place[2]
    cut = 0.0
    if style == 3:
        cut = top + 0.4 * (y + 0.03) - z
    else:
        front = _smooth(y, 0.01, -0.05)
        deep = 0.022 + (depth - 0.022) * front
        drop = wp.max(top - z, 0.0) / deep
        across = x / width
        f = 0.0
        if style == 1:
            f = across + drop - 1.0
        elif style == 2:
            f = wp.pow(wp.pow(across, 6.0) + wp.pow(drop, 6.0), 1.0 / 6.0) - 1.0
        else:
            f = wp.sqrt(across * across + drop * drop) - 1.0
        cut = wp.min(f * wp.min(deep, width), 0.035 + top - z)
    if strap >= 0.0:
        edge = strap + (0.155 - strap) * _smooth(z, 0.50, 0.39) + 0.1 * _smooth(z, 0.41, 0.33)
        cut = wp.min(cut, edge - x)
    return cut


@wp.kernel
def _rasterise(
    points: wp.array(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    mode: wp.array(dtype=wp.int32),
    cuts: wp.array2d(dtype=wp.float32),
    places: wp.array(dtype=wp.vec3),
    style: int,
    neck_width: float,
    neck_depth: float,
    top: float,
    strap: float,
    width: int,
    height: int,
    depth: wp.array(dtype=wp.float32),
    face: wp.array(dtype=wp.int32),
    bary: wp.array2d(dtype=wp.float32),
) -> None:
    # One thread walks all triangles: launches on the CPU are serial, so there are no races.
    for f in range(faces.shape[0]):
        i = faces[f, 0]
        j = faces[f, 1]
        k = faces[f, 2]
        a = points[i]
        b = points[j]
        c = points[k]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if wp.abs(area) > 1.0e-9:
            x0 = wp.max(int(wp.ceil(wp.min(a[0], wp.min(b[0], c[0])))), 0)
            x1 = wp.min(int(wp.floor(wp.max(a[0], wp.max(b[0], c[0])))), width - 1)
            y0 = wp.max(int(wp.ceil(wp.min(a[1], wp.min(b[1], c[1])))), 0)
            y1 = wp.min(int(wp.floor(wp.max(a[1], wp.max(b[1], c[1])))), height - 1)
            m = mode[f]
            for y in range(y0, y1 + 1):
                for x in range(x0, x1 + 1):
                    px = float(x)
                    py = float(y)
                    u = ((b[0] - px) * (c[1] - py) - (b[1] - py) * (c[0] - px)) / area
                    v = ((c[0] - px) * (a[1] - py) - (c[1] - py) * (a[0] - px)) / area
                    w = 1.0 - u - v
                    if u >= -1.0e-5 and v >= -1.0e-5 and w >= -1.0e-5:
                        d = u * a[2] + v * b[2] + w * c[2]
                        at = y * width + x
                        if d < depth[at]:
                            keep = 1
                            if m > 0:
                                la = 1.0e6
                                lb = 1.0e6
                                for n in range(3):
                                    cut = u * cuts[i, n] + v * cuts[j, n] + w * cuts[k, n]
                                    if n == 0 and (m & 16) != 0:
                                        place = u * places[i] + v * places[j] + w * places[k]
                                        cut += _opening(
                                            place, style, neck_width, neck_depth, top, strap
                                        )
                                    la = wp.min(la, cut)
                                for n in range(3, 6):
                                    cut = u * cuts[i, n] + v * cuts[j, n] + w * cuts[k, n]
                                    lb = wp.min(lb, cut)
                                if ((m & 1) != 0 and la < 0.0) or ((m & 2) != 0 and la >= 0.0):
                                    keep = 0
                                if ((m & 4) != 0 and lb < 0.0) or ((m & 8) != 0 and lb >= 0.0):
                                    keep = 0
                            if keep == 1:
                                depth[at] = d
                                face[at] = f
                                bary[at, 0] = u
                                bary[at, 1] = v


@dataclass(frozen=True)
class Fragments:
    """What each pixel sees: nearest surviving surface."""

    depth: Floats  #: [H, W], FAR where nothing
    face: I32  #: [H, W], -1 where nothing
    bary: Floats  #: [H, W, 3]


def rasterise(
    points: Floats,
    faces: I32,
    size: tuple[int, int],
    mode: I32 | None = None,
    cuts: Floats | None = None,
    places: Floats | None = None,
    opening: Opening | None = None,
) -> Fragments:
    """Rasterise triangles onto pixel centres at integer coordinates.

    Args:
        points: [N, 3] float32: x and y in pixels, depth (smaller is nearer).
        faces: [M, 3] int32.
        size: (H, W).
        mode: [M] int32, bits KEEP_A .. OPENING; nothing is cut without.
        cuts: [N, 6] float32 cut scalars.
        places: [N, 3] float32 canonical coordinates, where mode has OPENING.
        opening: the opening meant by it.
    """
    opening = opening or Opening()
    mode = np.zeros(len(faces), np.int32) if mode is None else mode
    cuts = np.zeros((1, 6), np.float32) if cuts is None else cuts
    places = np.zeros((1, 3), np.float32) if places is None else places
    h, w = size
    depth = np.full(h * w, FAR, np.float32)
    face = np.full(h * w, -1, np.int32)
    bary = np.zeros((h * w, 2), np.float32)

    def share(x: Floats | I32, dtype: type) -> wp.array:
        return wp.array(np.ascontiguousarray(x), dtype=dtype, device="cpu", copy=False)

    wp.launch(
        _rasterise,
        dim=1,
        inputs=[
            share(points, wp.vec3),
            share(faces, wp.int32),
            share(mode, wp.int32),
            share(cuts, wp.float32),
            share(places, wp.vec3),
            *astuple(opening),
            w,
            h,
            share(depth, wp.float32),
            share(face, wp.int32),
            share(bary, wp.float32),
        ],
        device="cpu",
    )
    third = 1 - bary[:, :1] - bary[:, 1:]
    return Fragments(
        depth.reshape(h, w), face.reshape(h, w), np.concatenate([bary, third], 1).reshape(h, w, 3)
    )
