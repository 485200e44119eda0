"""The statistics against numpy's and scipy's, and against samples whose answer is known."""

import numpy as np
import pytest
from scipy import stats

from garment_transfer.benchmarks.samples import drift, ratio_interval, summarise, warm_up_calls


def test_summary_is_numpys():
    samples = list(np.random.default_rng(0).lognormal(size=137))
    found = summarise(samples)
    assert (found.p50, found.p90, found.p99) == pytest.approx(np.percentile(samples, (50, 90, 99)))
    assert found.mean == pytest.approx(np.mean(samples))
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def test_warm_up():
    steady = summarise([10.0, 10.1, 9.9, 10.0])
    assert warm_up_calls([90, 40, 20, 10, 10, 10, 10], steady) == 3
    assert warm_up_calls([10, 10, 10, 10], steady) == 0
    assert warm_up_calls([90, 90, 90, 90], steady) is None
    # one slow call in the steady state is no warm-up
    assert warm_up_calls([10, 30, 10, 10], steady) == 0


def test_drift():
    assert drift([10, 10, 10, 12, 12, 12]) == pytest.approx(0.2)
    assert drift([12, 12, 10, 10]) == pytest.approx(0.2)
    assert drift([1, 2, 3]) == 0


def test_bootstrap_is_scipys():
    """With blocks of one sample it is the ordinary bootstrap of a ratio of medians."""
    rng = np.random.default_rng(1)
    old, new = rng.normal(100, 5, 80), rng.normal(108, 6, 80)
    found = ratio_interval(old, new, 0.95, np.random.default_rng(2), resamples=9999, block=1)
    due = stats.bootstrap(
        (new, old),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert found == pytest.approx((due.low, due.high), abs=0.004)


def test_blocks_widen_the_interval_of_samples_that_drift():
    """Neighbours that are alike say less than as many independent samples."""
    slow = np.repeat(np.random.default_rng(4).normal(100, 10, 12), 10)

    def width(block):
        low, high = ratio_interval(slow, slow, 0.95, np.random.default_rng(5), block=block)
        return high - low

    assert width(10) > 1.5 * width(1)
