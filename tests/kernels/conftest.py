"""The truth of FlowWarp: random calls, what they give in float64, what may be off."""

from types import SimpleNamespace

import numpy as np
import pytest


def arguments(seed, n, c, h, w, reach):
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.standard_normal(shape, dtype=np.float32)

    return {
        "x": normal(n, c, h, w),
        "coarse_flow": np.float32(reach / 2) * normal(n, 2, h // 2, w // 2),
        "residual": np.float32(reach / 2) * normal(n, 2, h, w),
        "affine": np.eye(2, 3, dtype=np.float32) + np.float32(0.15) * normal(n, 2, 3),
    }


def sampled(image, sx, sy, padding):
    """`image` [N,C,H,W] at pixel positions [N,H',W'], bilinear, float64."""
    h, w = image.shape[2:]
    inside = np.isfinite(sx) & np.isfinite(sy)
    if padding == "border":
        sx, sy = sx.clip(0, w - 1), sy.clip(0, h - 1)
    else:
        inside &= (sx > -1) & (sx < w) & (sy > -1) & (sy < h)
    sx, sy = np.where(inside, sx, 0), np.where(inside, sy, 0)
    x0, y0 = np.floor(sx).astype(int), np.floor(sy).astype(int)
    batch = np.arange(len(image))[:, None, None]
    total = 0
    for xi, yi in ((x0, y0), (x0 + 1, y0), (x0, y0 + 1), (x0 + 1, y0 + 1)):
        weight = (1 - abs(sx - xi)) * (1 - abs(sy - yi))
        read = inside & (xi >= 0) & (xi < w) & (yi >= 0) & (yi < h) & (weight > 0)
        value = image[batch, :, yi.clip(0, h - 1), xi.clip(0, w - 1)]
        # what is not read may be infinite, and so may what is read
        with np.errstate(invalid="ignore"):
            part = np.where(read, weight, 0)[..., None] * np.where(read[..., None], value, 0)
            total = total + part
    return total.transpose(0, 3, 1, 2)


def flow_warp(x, coarse_flow, residual, affine, padding="zeros"):
    """The table of models/flow_warp.py in float64: y and flow."""
    x, coarse_flow, residual, affine = (
        np.asarray(a, np.float64) for a in (x, coarse_flow, residual, affine)
    )
    n, _, h, w = x.shape
    rows, columns = np.broadcast_to(np.mgrid[:h, :w][:, None], (2, n, h, w))
    upsampled = sampled(coarse_flow, columns / 2 - 0.25, rows / 2 - 0.25, "border")
    flow = 2 * upsampled + residual
    with np.errstate(invalid="ignore"):
        u = (2 * (columns + flow[:, 0]) + 1) / w - 1
        v = (2 * (rows + flow[:, 1]) + 1) / h - 1
        a = affine[..., None, None]
        at = a[:, :, 0] * u[:, None] + a[:, :, 1] * v[:, None] + a[:, :, 2]
        sx, sy = ((at[:, 0] + 1) * w - 1) / 2, ((at[:, 1] + 1) * h - 1) / 2
    return sampled(x, sx, sy, padding), flow


def position_error(inputs, reach):
    """How far a float32 position may be off, in pixels: a few roundings of what is summed."""
    n, _, h, w = inputs["x"].shape
    affine = np.abs(inputs["affine"] - np.eye(2, 3)).reshape(n, -1).max() if n else 0
    return 8 * 2.0**-23 * ((1 + affine) * 6 * reach + affine * 2 * max(h, w) + 1)


def half_an_ulp(values, bits):
    """Half the distance of neighbouring floats of `bits` bits of precision around `values`."""
    return 2.0 ** (np.floor(np.log2(np.maximum(np.abs(values), 2.0**-14))) - bits)


@pytest.fixture(scope="session")
def truth():
    """The functions of this file, which tests cannot import."""
    return SimpleNamespace(
        arguments=arguments,
        flow_warp=flow_warp,
        position_error=position_error,
        half_an_ulp=half_an_ulp,
    )
