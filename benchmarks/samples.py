"""What is said about samples of time: quantiles, warm-up, and whether two sets of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Summary:
    """Quantiles and mean of samples, in the samples' unit."""

    p50: float
    p90: float
    p99: float
    mean: float


def summarise(samples: Sequence[float]) -> Summary:
    """Quantiles by linear interpolation between the order statistics, as numpy's default.

    Raises ValueError for no samples.
    """
    if not samples:
        raise ValueError("no samples to summarise")
    p50, p90, p99 = (float(value) for value in np.quantile(samples, (0.5, 0.9, 0.99)))
    return Summary(p50, p90, p99, float(np.mean(samples)))


def warm_up_calls(first: Sequence[float], steady: Summary, window: int = 3) -> int | None:
    """How many calls came before the times were those of the steady state.

    `first` are the times of the first calls, in order. The state is steady from the first call on
    that, like the median of the window it begins, takes at most the steady p90, or 1.1 times the
    steady p50 where that is more. None where there is none: `first` has too few.
    """
    limit = max(steady.p90, 1.1 * steady.p50)
    for start in range(len(first) - window + 1):
        if max(first[start], np.median(first[start : start + window])) <= limit:
            return start
    return None


def drift(samples: Sequence[float]) -> float:
    """How far the medians of the two halves of samples in order are apart, as a share of the less.

    0 for fewer than four samples.
    """
    if len(samples) < 4:
        return 0.0
    half = len(samples) // 2
    low, high = sorted((float(np.median(samples[:half])), float(np.median(samples[half:]))))
    return high / low - 1


def ratio_interval(
    old: Sequence[float],
    new: Sequence[float],
    confidence: float,
    rng: np.random.Generator,
    resamples: int = 2000,
    block: int | None = None,
) -> tuple[float, float]:
    """Bootstrap interval of median(new) / median(old).

    Times that follow each other are alike, because a disturbance lasts longer than a call, so
    blocks of neighbours are drawn, not single samples: `block` of them, by default the cube root
    of their number, rounded up.
    """
    low = (1 - confidence) / 2
    ratios = _resampled_medians(new, rng, resamples, block) / _resampled_medians(
        old, rng, resamples, block
    )
    lower, upper = np.quantile(ratios, (low, 1 - low))
    return float(lower), float(upper)


def _resampled_medians(
    samples: Sequence[float], rng: np.random.Generator, resamples: int, block: int | None
) -> npt.NDArray[np.float64]:
    values = np.asarray(samples, np.float64)
    length = min(block or int(np.ceil(len(values) ** (1 / 3))), len(values))
    count = -(-len(values) // length)
    starts = rng.integers(0, len(values) - length + 1, (resamples, count))
    drawn = values[(starts[..., None] + np.arange(length)).reshape(resamples, -1)]
    return np.median(drawn[:, : len(values)], axis=1)
