"""The benchmark's result: what its file holds, and two of them compared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from msgspec import Meta, Struct

from garment_transfer.benchmarks.chain import ChainTimes
from garment_transfer.benchmarks.measuring import Environment
from garment_transfer.bundle import Code, InputError, InvalidFile, read_struct
from garment_transfer.runtime.backends import Arrays

SCHEMA_VERSION: Final = 1

#: Beyond these a row computes something else than the reference.
WRONG_LABELS: Final = 0.01
WRONG_PSNR_DB: Final = 30.0

Milliseconds = Annotated[float, Meta(gt=0)]


class Latency(Struct, kw_only=True):
    """Quantiles of calls, and the throughput by their mean."""

    p50_ms: Milliseconds
    p90_ms: float
    p99_ms: float
    mean_ms: float
    pairs_per_s: float


class Times(Latency, kw_only=True):
    """The same with every sample, in the order in which they were measured."""

    samples_ms: list[float]


class Clients(Latency, kw_only=True):
    """A number of threads that share one pipeline."""

    name: str
    label: str
    clients: int
    calls: int


class Memory(Struct):
    """The most that a row's process ever held on the host, and what it holds on the GPU."""

    host_mib: float
    device_mib: float | None


class Parity(Struct):
    """How far a result is from the reference's.

    The share of pixels with another class, the peak signal-to-noise ratio of the picture (None
    where no pixel differs), and the largest differences in grey levels and in pixels.
    """

    labels_differ: float
    image_psnr_db: float | None
    image_max_difference: float
    flow_max_difference: float

    @classmethod
    def of(cls, outputs: Arrays, reference: Arrays) -> Parity:
        """Of a pipeline's outputs. What is not finite is infinitely far."""
        image = outputs["image"].astype(np.float64) - reference["image"].astype(np.float64)
        error = float(np.mean(image**2))
        flow = outputs["flow"].astype(np.float64) - reference["flow"].astype(np.float64)
        labels = outputs["transfer_parsing"] != reference["transfer_parsing"]
        return cls(
            float(np.mean(labels)),
            10 * math.log10(255**2 / error) if error else None,
            float(np.abs(image).max()),
            float(np.nan_to_num(np.abs(flow), nan=3.4e38).max()),
        )


class RowResult(Struct, tag_field="status"):
    """A row at a batch size."""

    name: str
    label: str
    device: Literal["cpu", "cuda"]
    batch: int

    @property
    def status(self) -> str:
        """What the row's class is called in the file."""
        return str(self.__struct_config__.tag)


class Measured(RowResult, tag="measured"):
    """What was measured. In the first call some backends compile."""

    load_s: float
    first_call_ms: float
    memory: Memory
    parity: Parity
    compute: Times
    end_to_end: Times
    parts_ms: dict[str, float]
    #: What the field publishes as the time of the networks; None for a chain on a GPU.
    chain: ChainTimes | None = None

    @property
    def wrong(self) -> bool:
        """Whether the result is not the reference's."""
        psnr = self.parity.image_psnr_db
        return self.parity.labels_differ > WRONG_LABELS or (
            psnr is not None and psnr < WRONG_PSNR_DB
        )


class Idle(RowResult):
    """A row that was not measured, and why."""

    reason: str


class CannotRun(Idle, tag="cannot run"):
    """Something that the row needs is not here."""


class Skipped(Idle, tag="skipped"):
    """The row takes very long, and was not asked for by name."""


class Failed(Idle, tag="failed"):
    """The row ended in an error."""


class Subject(Struct):
    """The bundle that was measured."""

    name: str
    size: tuple[int, int]
    precision: str
    checkpoint: str
    parameters: int


class Report(Struct, kw_only=True):
    """A result of the benchmark."""

    schema_version: int = SCHEMA_VERSION
    created: str
    bundle: Subject
    threads: int
    rounds: int
    interrupted: bool = False
    reference: str | None = None
    environment: Environment
    rows: list[Measured | CannotRun | Skipped | Failed]
    clients: list[Clients]

    @property
    def measured(self) -> list[Measured]:
        """The rows that have figures."""
        return [row for row in self.rows if isinstance(row, Measured)]

    @property
    def idle(self) -> list[Idle]:
        """The other rows."""
        return [row for row in self.rows if isinstance(row, Idle)]


def read_report(path: Path) -> Report:
    """A result of `garment-transfer benchmark --json`. Raises InputError where a file is none."""
    try:
        return read_struct(path, Report, SCHEMA_VERSION)
    except (OSError, InvalidFile) as error:
        raise InputError(
            Code.RESULT_INVALID,
            f"{path} is not a result of the benchmark: {error}",
            expected="a file that `garment-transfer benchmark --json` wrote",
        ) from error


@dataclass(frozen=True)
class Change:
    """How a row's median changed. A row that ran and no longer does is "lost", without new time."""

    name: str
    batch: int
    scope: str
    old_ms: float
    new_ms: float | None
    verdict: Literal["slower", "faster", "same", "lost"]


def compare_reports(old: Report, new: Report, tolerance: float = 0.05) -> list[Change]:
    """Every row that the old report measured and the new one has, compute and end to end.

    A row is slower where the ratio of its medians is above 1 + `tolerance`, faster where it is
    below the inverse of that. Raises InputError where no row is in both.
    """
    present = {(row.name, row.batch): row for row in new.rows}
    changes = []
    for row in old.measured:
        other = present.get((row.name, row.batch))
        if row.name == "empty" or other is None:
            continue
        for scope in ("compute", "end_to_end"):
            before, after = getattr(row, scope).p50_ms, None
            verdict: Literal["slower", "faster", "same", "lost"] = "lost"
            if isinstance(other, Measured):
                after = getattr(other, scope).p50_ms
                slower, faster = after / before > 1 + tolerance, before / after > 1 + tolerance
                verdict = "slower" if slower else "faster" if faster else "same"
            changes.append(Change(row.name, row.batch, scope, before, after, verdict))
    if not changes:
        raise InputError(
            Code.RESULT_INVALID,
            "the two results have no row in common",
            fix="measure the same --backends and --batch in both",
        )
    return changes


def caveats(old: Report, new: Report) -> list[str]:
    """Why two results may not compare: another machine, threads or graphs."""
    facts = [
        {
            "processor": report.environment.processor,
            "GPUs": [gpu.name for gpu in report.environment.gpus],
            "threads": report.threads,
            "size": report.bundle.size,
            "checkpoint": report.bundle.checkpoint[:16],
        }
        for report in (old, new)
    ]
    return [
        f"{what} differ: {before} before, {facts[1][what]} now"
        for what, before in facts[0].items()
        if before != facts[1][what]
    ]
