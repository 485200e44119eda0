"""Timing in turn, quantiles and warm-up, against samples whose answer is known."""

import itertools
from collections import Counter

import numpy as np
import pytest

from garment_transfer.benchmarks.measuring import (
    in_turn,
    interleaved,
    medians,
    p99_in_services,
    quantiles,
)


def test_turns():
    names = list(in_turn("abcd", 200, seed=3))
    assert names == list(in_turn("abcd", 200, seed=3))
    assert all(sorted(names[i : i + 4]) == list("abcd") for i in range(0, 800, 4))
    pairs = Counter(itertools.pairwise(names))
    # each follows each other about as often, and seldom itself
    others = [count for (a, b), count in pairs.items() if a != b]
    assert len(others) == 12
    assert max(others) < 1.6 * min(others)


def test_what_leaves_has_no_further_turn():
    names = {"a": 0, "b": 0, "c": 0}
    for name in in_turn(names, 3):
        names[name] += 1
        if name == "a":
            names.pop("b", None)
    assert names == {"a": 3, "c": 3}


def test_every_run_is_timed_as_often_and_after_an_untimed_one():
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    times = interleaved(runs, rounds=3, warm_up=1)
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert all(calls.count(name) >= 2 * 4 for name in runs)
    assert medians({"a": [3.0, 1.0, 2.0]}) == {"a": 2.0}


def test_quantiles():
    samples = list(range(101))
    assert quantiles(samples) == {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "mean_ms": 50}


@pytest.mark.parametrize("load", [0.3, 0.5, 0.8])
def test_p99_in_services(load):
    """Beside simulated requests: each waits for what the one before it left over (Lindley)."""
    rng = np.random.default_rng(0)
    wait, times = 0.0, []
    for gap in rng.exponential(1 / load, 200_000):
        wait = max(0.0, wait + 1 - gap)
        times.append(1 + wait)
    assert p99_in_services(load) == pytest.approx(np.quantile(times, 0.99), rel=0.03)
