"""How far one result is from the reference's, in numbers that show a wrong one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def parity(
    outputs: Mapping[str, npt.NDArray[Any]], reference: Mapping[str, npt.NDArray[Any]]
) -> dict[str, float | None]:
    """Differences of a pipeline's outputs from the reference's.

    `labels_differ` is the share of pixels with another class, `image_psnr_db` the peak
    signal-to-noise ratio of the picture (None where no pixel differs), `image_max_difference` in
    grey levels, `flow_max_difference` in pixels. What is not finite is infinitely far.
    """
    image = outputs["image"].astype(np.float64) - reference["image"]
    error = float(np.mean(image**2))
    flow = np.abs(outputs["flow"].astype(np.float64) - reference["flow"])
    return {
        "labels_differ": float(
            np.mean(outputs["transfer_parsing"] != reference["transfer_parsing"])
        ),
        "image_psnr_db": 10 * math.log10(255**2 / error) if error else None,
        "image_max_difference": float(np.abs(image).max()),
        "flow_max_difference": float(np.nan_to_num(flow, nan=3.4e38).max()),
    }
