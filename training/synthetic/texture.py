"""Cloth patterns painted into flat charts in metres, and the noise fields that folds come from."""

from dataclasses import dataclass

import cv2
import numpy as np

from garment_transfer.training.synthetic.anatomy import Floats
from garment_transfer.training.synthetic.people import Garment

#: Charts in metres: (u0, u1, v0, v1), v upwards on the trunk, down the sleeve on the arm.
TRUNK_CHART = (-0.50, 0.50, -0.32, 0.70)
SLEEVE_CHART = (-0.20, 0.20, -0.06, 0.66)


_FONTS = (
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)


@dataclass(frozen=True)
class Atlas:
    """Painted charts of a garment, float32 RGB 0..1, [rows, columns, 3], row 0 at v0."""

    trunk: Floats
    sleeve: Floats
    density: float  #: pixels a metre


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: float) -> Floats:
    """Noise of about -1..1 with features of rows / cells pixels, the same at any resolution."""
    n = max(int(np.ceil(cells)) + 3, 4)
    m = max(int(np.ceil(cells * shape[1] / shape[0])) + 3, 4)
    coarse = rng.standard_normal((n, m)).astype(np.float32)
    fine = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine, np.float32)


def tileable_noise(
    rng: np.random.Generator, size: int, wavelength: tuple[float, float], power: float
) -> Floats:
    """Periodic noise [size, size] of unit deviation.

    Args:
        rng: source of chance.
        size: pixels a side.
        wavelength: typical (vertical, horizontal) feature size in pixels.
        power: how fast finer detail dies away.
    """
    white = rng.standard_normal((size, size)).astype(np.float32)
    fy = np.fft.fftfreq(size)[:, None] * wavelength[0]
    fx = np.fft.rfftfreq(size)[None, :] * wavelength[1]
    f = np.sqrt(fy**2 + fx**2)
    field = np.fft.irfft2(np.fft.rfft2(white) * (f / (1 + f ** (1 + power))), s=(size, size))
    return (field / max(field.std(), 1e-9)).astype(np.float32)


def _soft(x: Floats, width: float) -> Floats:
    """A step at 0 that is `width` wide, so that edges are not jagged."""
    return np.clip(x / width + 0.5, 0, 1)


def _paint(garment: Garment, chart: tuple[float, ...], density: float, stream: int) -> Floats:
    u0, u1, v0, v1 = chart
    w, h = int((u1 - u0) * density), int((v1 - v0) * density)
    u = np.linspace(u0, u1, w, dtype=np.float32)[None, :]
    v = np.linspace(v0, v1, h, dtype=np.float32)[:, None]
    rng = np.random.default_rng([garment.seed, stream])
    first, second, third = (np.asarray(c, np.float32) for c in garment.colours)
    out = np.empty((h, w, 3), np.float32)
    out[:] = first
    s = garment.scale
    edge = 1.5 / density

    def mix(mask: Floats, colour: Floats) -> None:
        m = np.broadcast_to(mask, (h, w))[..., None]
        out[:] = out * (1 - m) + colour * m

    kind = garment.pattern
    shared = np.random.default_rng([garment.seed, 7])
    variant = float(shared.random())
    across = u * np.sin(garment.angle) + v * np.cos(garment.angle)
    along = u * np.cos(garment.angle) - v * np.sin(garment.angle)
    if kind == "stripes":
        duty = 0.25 + 0.35 * variant
        phase = np.abs((across / s + 0.13) % 1.0 - 0.5) * s
        mix(_soft(duty * s * 0.5 - phase, edge), second)
        if variant > 0.6:
            phase = np.abs((across / s + 0.63) % 1.0 - 0.5) * s
            mix(_soft(0.06 * s - phase, edge), third)
    elif kind == "checks":
        for way in (across, along):
            mix(0.55 * _soft(0.25 * s - np.abs((way / s) % 1.0 - 0.5) * s, edge), second)
        for way in (across, along) if variant > 0.4 else ():
            line = _soft(0.04 * s - np.abs((way / s + 0.5) % 1.0 - 0.5) * s, edge)
            mix(0.8 * line, third)
    elif kind == "dots":
        p = s * 0.8
        row = np.floor(v / p)
        du = ((u / p + 0.5 * (row % 2)) % 1.0 - 0.5) * p
        dv = ((v / p) % 1.0 - 0.5) * p
        mix(_soft((0.18 + 0.16 * variant) * p - np.hypot(du, dv), edge), second)
    elif kind == "floral":
        count = int(np.clip(0.5 * (u1 - u0) * (v1 - v0) / s**2, 20, 700))
        petals = int(shared.integers(3, 7))
        for _ in range(count):
            cu, cv = rng.uniform(u0, u1), rng.uniform(v0, v1)
            size, turn = s * rng.uniform(0.25, 0.6), rng.uniform(0, 2 * np.pi)
            colour = (second, third)[int(rng.random() < 0.4)] * rng.uniform(0.85, 1.1)
            x, y = (cu - u0) * density, (cv - v0) * density
            for k in range(petals):
                t = turn + 2 * np.pi * k / petals
                cx = x + np.cos(t) * size * density * 0.5
                cy = y + np.sin(t) * size * density * 0.5
                # in sixteenths of a pixel
                centre = int(cx * 16), int(cy * 16)
                axes = max(int(size * density * 0.42 * 16), 8), max(int(size * density * 4), 6)
                petal = (centre, axes, np.degrees(t), 0, 360, colour.tolist())
                cv2.ellipse(out, *petal, -1, cv2.LINE_8, 4)
    elif kind == "gradient":
        t = np.clip((v - 0.05) / 0.45, 0, 1) if stream == 0 else np.clip(v / 0.5, 0, 1)
        mix(t.astype(np.float32) if variant > 0.5 else 1 - t.astype(np.float32), second)
    elif kind == "blocks":
        if stream == 0:
            border = 0.2 + 0.2 * variant
            mix(_soft(v - border, edge), second)
            mix(_soft(0.022 - np.abs(v - border + 0.05), edge), third)
        else:
            mix(np.ones((1, 1), np.float32), second if variant > 0.5 else first)
    elif kind == "noise":
        n = smooth_noise(rng, (h, w), (v1 - v0) / s * 1.5)
        mix(_soft(n - 0.1, 0.4), second)
        n = smooth_noise(rng, (h, w), (v1 - v0) / s * 1.5)
        mix(_soft(n - 0.8, 0.4), third)
    elif kind in ("print", "lettering") and stream == 0:
        _emblem(garment, out, (u0, v0), density, shared)
    weave = smooth_noise(rng, (h, w), 12) * 0.012
    out += weave[..., None]
    return np.clip(out, 0, 1)


def _emblem(
    garment: Garment,
    out: Floats,
    origin: tuple[float, float],
    density: float,
    rng: np.random.Generator,
) -> None:
    """A print or lettering on the chest, drawn upright (rows of a chart run upwards)."""
    _, second, third = garment.colours
    centre_v = rng.uniform(0.33, 0.40)
    centre_u = rng.normal(0, 0.006)
    size = rng.uniform(0.12, 0.28)
    n = int(size * density)
    patch = np.zeros((n, n, 3), np.float32)
    stencil = np.zeros((n, n), np.uint8)
    if garment.pattern == "lettering":
        lines = [garment.text]
        if rng.random() >= 0.6:
            lines = [garment.text[:3], garment.text[3:] or "A"]
        font = int(rng.choice(_FONTS))
        for k, line in enumerate(lines):
            (tw, th), _ = cv2.getTextSize(line, font, 1.0, 2)
            scale = min(0.94 * n / tw, 0.42 * n / th)
            y = int(n * (0.5 + 0.42 * (k - (len(lines) - 1) / 2)) + th * scale / 2)
            x = int((n - tw * scale) / 2)
            thick = max(1, round(scale * rng.uniform(1.6, 4.0)))
            cv2.putText(stencil, line, (x, y), font, scale, 255, thick, cv2.LINE_8)
        patch[:] = second
    else:
        shapes = int(rng.integers(2, 6))
        if rng.random() < 0.35:
            stencil[:] = 255
            patch[:] = second
            cv2.rectangle(patch, (0, 0), (n - 1, n - 1), third, max(1, n // 30))
        for k in range(shapes):
            colour = (second, third)[k % 2]
            c = (int(n * rng.uniform(0.3, 0.7)), int(n * rng.uniform(0.3, 0.7)))
            r = max(2, int(n * rng.uniform(0.1, 0.28)))
            which = int(rng.integers(4))
            if which >= 2:
                k2 = int(rng.integers(3, 8)) * (2 if which == 3 else 1)
                t = np.linspace(0, 2 * np.pi, k2, endpoint=False) + rng.uniform(0, 6)
                rr = np.where(np.arange(k2) % 2 == 0, r, r * (0.45 if which == 3 else 1.0))
                pts = np.stack([c[0] + rr * np.cos(t), c[1] + rr * np.sin(t)], 1).astype(np.int32)
            for picture, ink in ((patch, colour), (stencil, (255,))):
                if which == 0:
                    cv2.circle(picture, c, r, ink, -1)
                elif which == 1:
                    low, high = (c[0] - r, c[1] - r // 2), (c[0] + r, c[1] + r // 2)
                    cv2.rectangle(picture, low, high, ink, -1)
                else:
                    cv2.fillPoly(picture, [pts], ink)
    alpha = cv2.GaussianBlur(stencil.astype(np.float32) / 255, (3, 3), 0)[::-1, :, None]
    x0 = int((centre_u - origin[0]) * density - n / 2)
    y0 = int((centre_v - origin[1]) * density - n / 2)
    region = out[y0 : y0 + n, x0 : x0 + n]
    region[:] = region * (1 - alpha) + patch[::-1] * alpha


def paint(garment: Garment, density: float) -> Atlas:
    """Paint a garment's charts at `density` pixels a metre."""
    return Atlas(
        _paint(garment, TRUNK_CHART, density, 0), _paint(garment, SLEEVE_CHART, density, 1), density
    )


def sample_chart(
    image: Floats, chart: tuple[float, ...], u: Floats, v: Floats, density: float
) -> Floats:
    """Bilinear colour [N, 3] of chart positions in metres."""
    x = ((u - chart[0]) * density).astype(np.float32)
    y = ((v - chart[2]) * density).astype(np.float32)
    return remap(image, x, y)


def remap(image: Floats, x: Floats, y: Floats, wrap: bool = False) -> Floats:
    """Bilinear samples [N, ...] of an image at N positions, of any N (OpenCV's limit is 32767)."""
    n = len(x)
    width = 4096
    pad = -n % width
    x2 = np.pad(x, (0, pad)).reshape(-1, width).astype(np.float32)
    y2 = np.pad(y, (0, pad)).reshape(-1, width).astype(np.float32)
    if wrap:
        x2, y2 = np.mod(x2, image.shape[1]), np.mod(y2, image.shape[0])
    border = cv2.BORDER_WRAP if wrap else cv2.BORDER_REPLICATE
    out = cv2.remap(image, x2, y2, cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(out, np.float32).reshape(-1, *image.shape[2:])[:n]
