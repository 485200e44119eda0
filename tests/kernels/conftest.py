"""The truth of FlowWarp's kernels: random calls, what they give in float64, what may be off."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F


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


def torch_float64(x, coarse, residual, affine, padding):
    """The table of models/flow_warp.py by torch's own operators in float64."""
    x, coarse, residual, affine = (
        torch.from_numpy(np.asarray(a, np.float64)) for a in (x, coarse, residual, affine)
    )
    n, _, h, w = x.shape
    flow = 2 * F.interpolate(coarse, scale_factor=2.0, mode="bilinear") + residual
    identity = torch.eye(2, 3, dtype=torch.float64).expand(n, 2, 3)
    places = F.affine_grid(identity, [n, 1, h, w], align_corners=False)
    size = torch.tensor([w, h], dtype=torch.float64)
    places = places + 2 * flow.permute(0, 2, 3, 1) / size
    grid = places @ affine[:, None, :, :2].transpose(-1, -2) + affine[:, None, None, :, 2]
    y = F.grid_sample(x, grid, "bilinear", padding, align_corners=False)
    return y.numpy(), flow.numpy(), grid.numpy()


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
        torch_float64=torch_float64,
        position_error=position_error,
        half_an_ulp=half_an_ulp,
    )
