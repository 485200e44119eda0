"""Two results of the benchmark beside each other: what became slower beyond the noise of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from garment_transfer.benchmarks.harness import validate
from garment_transfer.benchmarks.samples import ratio_interval
from garment_transfer.bundle import InputError, read_json


@dataclass(frozen=True)
class Change:
    """One row's change: medians in milliseconds, and the interval of new over old.

    `verdict` is "slower" where the whole interval lies above 1 plus the tolerance, "faster" where
    it lies below the inverse of that, "same" otherwise; "lost" for a row that ran in the old
    result and could not in the new one. A lost row has no new median and no interval.
    """

    name: str
    batch: int
    scope: str
    old_ms: float
    new_ms: float | None
    interval: tuple[float, float] | None
    verdict: str


def read_report(path: Path) -> dict[str, Any]:
    """A result of `garment-transfer benchmark`. Raises InputError where a file is none."""
    mend = "expected a result of `garment-transfer benchmark --json`"
    try:
        report: dict[str, Any] = read_json(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; {mend}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); {mend}") from error
    try:
        validate(report)
    except ValueError as error:
        raise InputError(f"{path} is no benchmark result: {error}; {mend}") from error
    return report


def compare_reports(
    old: dict[str, Any],
    new: dict[str, Any],
    tolerance: float = 0.05,
    confidence: float = 0.99,
    seed: int = 0,
) -> list[Change]:
    """Every row that the old report measured and the new one has, compute and end to end.

    The interval covers the noise within the two runs. `tolerance` is the share by which a quiet
    machine's medians may differ from run to run. Raises InputError where no row is in both.
    """
    rng = np.random.default_rng(seed)
    present = {(row["name"], row["batch"]): row for row in new["rows"]}
    changes = []
    for row in old["rows"]:
        other = present.get((row["name"], row["batch"]))
        if row["status"] != "measured" or row["name"] == "empty" or other is None:
            continue
        for scope in ("compute", "end_to_end"):
            before = row[scope]
            if other["status"] != "measured":
                changes.append(
                    Change(row["name"], row["batch"], scope, before["p50_ms"], None, None, "lost")
                )
                continue
            after = other[scope]
            low, high = ratio_interval(before["samples_ms"], after["samples_ms"], confidence, rng)
            verdict = "same"
            if low > 1 + tolerance:
                verdict = "slower"
            elif high < 1 / (1 + tolerance):
                verdict = "faster"
            changes.append(
                Change(
                    row["name"],
                    row["batch"],
                    scope,
                    before["p50_ms"],
                    after["p50_ms"],
                    (low, high),
                    verdict,
                )
            )
    if not changes:
        raise InputError(
            "the two results have no row in common; measure the same --backends and --batch in both"
        )
    return changes


def caveats(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Why two results may not compare: machine, threads, graphs, or a run that was not quiet."""
    found = []
    for what, values in (
        ("processor", [report["environment"]["processor"] for report in (old, new)]),
        ("GPUs", [[gpu["name"] for gpu in r["environment"]["gpus"]] for r in (old, new)]),
        ("threads", [report["threads"] for report in (old, new)]),
        ("size", [report["bundle"]["size"] for report in (old, new)]),
        ("checkpoint", [report["bundle"]["checkpoint"][:16] for report in (old, new)]),
    ):
        if values[0] != values[1]:
            found.append(f"{what} differ: {values[0]} before, {values[1]} now")
    for name, report in (("old", old), ("new", new)):
        if not report["quietness"]["quiet"]:
            found.append(f"{name}: {report['quietness']['statement']}")
    return found
