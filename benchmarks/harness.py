"""The benchmark: every row in a process of its own, all rows in turn, in one run.

At each batch size the rows are loaded one after the other and then take turns, in an order that
changes from round to round, so that drift of the machine and what a row leaves in the caches hit
all alike. A report is saved after each batch size, and when the run is interrupted.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import multiprocessing
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from garment_transfer.benchmarks.environment import (
    DRIFT_LIMIT,
    Watch,
    environment,
    lost_share,
    quietness,
)
from garment_transfer.benchmarks.parity import parity
from garment_transfer.benchmarks.rows import ROWS, Row, find_checkpoint, unavailable
from garment_transfer.benchmarks.samples import Summary, drift, summarise, warm_up_calls
from garment_transfer.benchmarks.worker import Job, serve
from garment_transfer.bundle import (
    Bundle,
    GarmentTransferError,
    InputError,
    list_engines,
    replacing,
    schema_error,
)

SCHEMA_VERSION: Final = 1

#: The rows that can be the reference of parity, the first that runs: both compute in float32, and
#: the first does not depend on the bundle's graphs.
REFERENCES: Final = ("torch-eager", "onnxruntime-standard")

#: Rounds at larger batches than 1: `max(MIN_ROUNDS, 2 * rounds // batch)`.
MIN_ROUNDS: Final = 6

_WARM_UP_CALLS: Final = 15
_WARM_UP_SECONDS: Final = 4.0

#: Seconds of one point of the clients' curve, and how often each point has its turn.
_CLIENT_SECONDS: Final = 1.0
_CLIENT_TURNS: Final = 3

_COMPUTE_INCLUDED: Final = {
    "cpu": "uint8 arrays to uint8 arrays at the bundle's size; no copies to a device",
    "cuda": "uint8 arrays to uint8 arrays at the bundle's size; copies to the GPU and back",
}
_END_TO_END_INCLUDED: Final = (
    "reading both people's files, fitting, the three graphs with their copies, composing at the "
    "photo's size; writing the picture is not included"
)


class RowError(GarmentTransferError):
    """A row's process failed or died; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What to measure. `bundle` is a folder; `rounds` is for batch 1."""

    bundle: Path
    rows: Sequence[Row]
    batches: Sequence[int] = (1,)
    threads: int = 1
    rounds: int = 60
    clients: Sequence[int] = ()
    checkpoint: Path | None = None
    #: The rows that were asked for by name, not by "all".
    named: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        for name, values in (("batch", self.batches), ("clients", self.clients)):
            if any(value < 1 for value in values):
                raise InputError(f"{name} is {list(values)}; expected 1 or more each")
        if self.rounds < 1:
            raise InputError(f"rounds is {self.rounds}; expected at least 1 timed round")
        if self.threads < 1:
            raise InputError(f"threads is {self.threads}; expected 1 or more")


class RowProcess:
    """The process of a row at a batch size."""

    def __init__(self, job: Job, log: Path) -> None:
        self.job = job
        self._log = log
        # a fork would share libraries' threads and the parent's memory
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, job, log), daemon=True)
        self._process.start()
        theirs.close()
        self._waiting = False

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid or 0

    def ask(self, name: str, *arguments: Any) -> Any:
        """Calls a method of `Worker` there. RowError where it fails or the process dies."""
        try:
            if self._waiting:  # for the answer to a question that was interrupted
                self._connection.recv()
            self._waiting = True
            self._connection.send((name, arguments))
            state, value = self._connection.recv()
            self._waiting = False
        except (EOFError, OSError):
            self._process.join(5)
            raise RowError(self._death(name)) from None
        if state == "failed":
            raise RowError(_shortened(value))
        return value

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _death(self, name: str) -> str:
        text = self._log.read_text("utf-8", "replace").strip() if self._log.exists() else ""
        last = text.splitlines()[-1] if text else "it printed nothing"
        return _shortened(
            f"its process ended in {name} with status {self._process.exitcode}: {last}"
        )


def interleaving(names: Sequence[str], rounds: int, seed: int = 0) -> Iterator[list[str]]:
    """The order of every round: each name once, shuffled anew, so that each follows each."""
    rng = random.Random(seed)
    for _ in range(rounds):
        order = list(names)
        rng.shuffle(order)
        yield order


def rounds_for(batch: int, rounds: int) -> int:
    """How many rounds a batch size gets where batch 1 gets `rounds`."""
    return rounds if batch == 1 else max(min(rounds, MIN_ROUNDS), 2 * rounds // batch)


def run_benchmark(
    settings: Settings, save: Callable[[dict[str, Any]], None], say: Callable[[str], None]
) -> dict[str, Any]:
    """Measures and returns the report, valid by `benchmark.schema.json`.

    `save` gets the report so far after each batch size; `say` gets lines of progress. A
    KeyboardInterrupt ends the run early: what was measured until then is in the report, whose
    `interrupted` is true.
    """
    bundle = Bundle.load(settings.bundle)
    checkpoint = find_checkpoint(bundle, settings.checkpoint)
    report = _report(settings, bundle)
    watch = Watch()
    lost = [lost_share()]
    try:
        with tempfile.TemporaryDirectory(prefix="garment-transfer-") as folder:
            runnable = []
            for row in settings.rows:
                reason = unavailable(row, bundle, checkpoint)
                if reason:
                    report["rows"] += [
                        _idle_row(row, batch, "cannot run", reason) for batch in settings.batches
                    ]
                else:
                    runnable.append(row)
            for batch in settings.batches:
                _measure_batch(
                    settings, bundle, runnable, batch, checkpoint, Path(folder), watch, report, say
                )
                lost.append(lost_share())
                _finish(report, watch, lost)
                save(report)
            if settings.clients:
                _measure_clients(settings, runnable, checkpoint, Path(folder), watch, report, say)
    except KeyboardInterrupt:
        report["interrupted"] = True
    _finish(report, watch, lost)
    save(report)
    return report


def write_report(report: dict[str, Any], path: Path) -> None:
    """Writes a report as JSON, whole or not at all. Raises OutputError, or ValueError where it is
    not valid by the schema."""
    validate(report)
    text = json.dumps(report, indent=1, allow_nan=False)
    # one line per list of numbers: samples would take one line each
    text = re.sub(r"\[[\s\d.,e+-]+\]", lambda match: re.sub(r"\s+", " ", match[0]), text)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def validate(report: Any) -> None:
    """Raises ValueError unless a report is valid by `benchmark.schema.json`."""
    error = schema_error(report, "benchmark.schema.json", "garment_transfer.benchmarks")
    if error is not None:
        raise ValueError(error)


def _report(settings: Settings, bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "bundle": {
            "name": manifest.name,
            "size": [manifest.size.height, manifest.size.width],
            "precision": manifest.precision,
            "checkpoint": manifest.checkpoint.sha256,
            "parameters": sum(manifest.checkpoint.parameters.values()),
        },
        "threads": settings.threads,
        "rounds": settings.rounds,
        "interrupted": False,
        "reference": None,
        "included": {"compute": _COMPUTE_INCLUDED, "end_to_end": _END_TO_END_INCLUDED},
        "environment": environment(),
        "quietness": quietness(0, 0, ()),
        "overhead": None,
        "rows": [],
        "clients": [],
    }


def _idle_row(row: Row, batch: int, status: str, reason: str) -> dict[str, Any]:
    return {
        "name": row.name,
        "label": row.label,
        "device": row.device,
        "batch": batch,
        "status": status,
        "reason": reason,
    }


def _measure_batch(
    settings: Settings,
    bundle: Bundle,
    rows: Sequence[Row],
    batch: int,
    checkpoint: Path | None,
    folder: Path,
    watch: Watch,
    report: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    reference, name = _reference(settings, bundle, batch, checkpoint, folder)
    report["reference"] = name
    finished = folder / "finished.npz"
    np.savez(finished, **reference)
    with contextlib.ExitStack() as stack:
        loaded: dict[str, _Measurement] = {}
        for row in rows:
            # a CPU compiles for minutes, and for each shape anew
            if (
                row.compile
                and row.device == "cpu"
                and batch != settings.batches[0]
                and row.name not in settings.named
            ):
                report["rows"].append(
                    _idle_row(
                        row,
                        batch,
                        "skipped",
                        "each batch size is compiled anew, which takes minutes on a CPU: "
                        f"`--backends {row.name} --batch {batch}` measures it",
                    )
                )
                continue
            say(f"batch {batch}: loading {row.name}")
            job = Job(
                row.name,
                settings.bundle,
                checkpoint,
                batch,
                settings.threads,
                finished if row.kind == "empty" else None,
            )
            process = RowProcess(job, folder / f"{row.name}.log")
            stack.callback(process.close)
            measurement = _Measurement(row, batch, process)
            try:
                measurement.load()
            except RowError as error:
                process.close()
                report["rows"].append(_idle_row(row, batch, "failed", str(error)))
                continue
            loaded[row.name] = measurement
        rounds = rounds_for(batch, settings.rounds)
        say(f"batch {batch}: {rounds} rounds of {', '.join(loaded)}")
        watch.start(measurement.process.pid for measurement in loaded.values())
        try:
            for order in interleaving(list(loaded), rounds):
                for turn in order:
                    if turn in loaded:
                        try:
                            loaded[turn].take_turn()
                        except RowError as error:
                            row = loaded.pop(turn).row
                            report["rows"].append(_idle_row(row, batch, "failed", str(error)))
        finally:
            # also what an interrupted run has measured so far
            watch.stop()
            for measurement in loaded.values():
                if measurement.compute and measurement.end_to_end:
                    report["rows"].append(measurement.result(reference, bundle))


def _reference(
    settings: Settings, bundle: Bundle, batch: int, checkpoint: Path | None, folder: Path
) -> tuple[dict[str, Any], str]:
    reasons = []
    for name in REFERENCES:
        row = next(row for row in ROWS if row.name == name)
        reason = unavailable(row, bundle, checkpoint)
        if reason:
            reasons.append(f"{name}: {reason}")
            continue
        job = Job(name, settings.bundle, checkpoint, batch, settings.threads, None)
        with contextlib.closing(RowProcess(job, folder / "reference.log")) as process:
            process.ask("load")
            outputs: dict[str, Any] = process.ask("outputs")
        return outputs, name
    raise InputError(f"no float32 reference can run here: {'; '.join(reasons)}")


class _Measurement:
    """What is known of a row at a batch size while it is measured."""

    def __init__(self, row: Row, batch: int, process: RowProcess) -> None:
        self.row = row
        self.process = process
        self.compute: list[float] = []
        self.end_to_end: list[float] = []
        self._batch = batch
        self._parts: list[dict[str, float]] = []

    def load(self) -> None:
        self._load_s = self.process.ask("load")["load_s"]
        self._first = [self.process.ask("first_call")]
        self.process.ask("end_to_end")
        end = time.monotonic() + _WARM_UP_SECONDS
        for call in range(_WARM_UP_CALLS):
            self._first.append(self.process.ask("compute_unsettled"))
            if time.monotonic() > end and call >= 2:
                break

    def take_turn(self) -> None:
        self.compute.append(self.process.ask("compute"))
        # Large batches spend most of it on the host, in the same code for all: half as often.
        if self._batch > 1 and len(self.compute) % 2 == 0:
            return
        milliseconds, parts = self.process.ask("end_to_end")
        self.end_to_end.append(milliseconds)
        self._parts.append(parts)

    def _warping_and_regrowth(self) -> float | None:
        """What the field publishes as the time of the networks; None for a chain on a GPU."""
        if "warping" not in self._parts[0]:
            return None
        return round(float(np.median([p["warping"] + p["regrowth"] for p in self._parts])), 3)

    def result(self, reference: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
        row = self.row
        steady = summarise(self.compute)
        build_s = _engine_build_s(bundle, row)
        if row.compile:
            build_s = (self._first[0] - steady.p50) / 1000
        memory = self.process.ask("memory")
        return {
            "name": row.name,
            "label": row.label,
            "device": row.device,
            "batch": self._batch,
            "status": "measured",
            "load_s": round(self._load_s, 3),
            "build_s": None if build_s is None else round(build_s, 3),
            "first_call_ms": round(self._first[0], 3),
            "warm_up": {
                "calls": warm_up_calls(self._first, steady),
                "tried": len(self._first),
            },
            "memory": {
                key: None if value is None else round(value, 1) for key, value in memory.items()
            },
            "parity": parity(self.process.ask("outputs"), reference),
            "compute": _times(self.compute, self._batch),
            "end_to_end": _times(self.end_to_end, self._batch),
            "parts_ms": {
                name: round(float(np.median([parts[name] for parts in self._parts])), 3)
                for name in self._parts[0]
            },
            "warping_and_regrowth_ms": self._warping_and_regrowth(),
        }


def _times(samples: Sequence[float], batch: int) -> dict[str, Any]:
    return {
        **_quantiles(summarise(samples)),
        "pairs_per_s": _significant(1000 * batch / float(np.mean(samples))),
        "drift": round(drift(samples), 4),
        "samples_ms": [round(sample, 3) for sample in samples],
    }


def _quantiles(summary: Summary) -> dict[str, float]:
    return {
        f"{name}_ms": round(getattr(summary, name), 4) for name in ("p50", "p90", "p99", "mean")
    }


def _measure_clients(
    settings: Settings,
    rows: Sequence[Row],
    checkpoint: Path | None,
    folder: Path,
    watch: Watch,
    report: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Latency and throughput of one process whose threads share a pipeline, points in turn."""
    with contextlib.ExitStack() as stack:
        processes: dict[str, RowProcess] = {}
        for row in rows:
            if row.kind != "backend":
                continue
            job = Job(row.name, settings.bundle, checkpoint, 1, settings.threads, None)
            process = RowProcess(job, folder / f"{row.name}.log")
            stack.callback(process.close)
            try:
                process.ask("load")
                process.ask("first_call")
            except RowError as error:
                say(f"clients: {row.name}: {error}")
                continue
            processes[row.name] = process
        say(f"clients: {', '.join(map(str, settings.clients))} of {', '.join(processes)}")
        points: dict[tuple[str, int], tuple[list[float], float]] = {}
        watch.start(process.pid for process in processes.values())
        try:
            for order in interleaving(list(processes), _CLIENT_TURNS):
                for clients in settings.clients:
                    for name in order:
                        times, wall = processes[name].ask("clients", clients, _CLIENT_SECONDS)
                        before, walls = points.get((name, clients), ([], 0.0))
                        points[name, clients] = (before + times, walls + wall)
        finally:
            watch.stop()
            report["clients"] = [
                {
                    "name": row.name,
                    "label": row.label,
                    "clients": clients,
                    "calls": len(points[row.name, clients][0]),
                    **_quantiles(summarise(points[row.name, clients][0])),
                    "pairs_per_s": _significant(
                        len(points[row.name, clients][0]) / points[row.name, clients][1]
                    ),
                }
                for row in rows
                for clients in settings.clients
                if (row.name, clients) in points
            ]


def _finish(report: dict[str, Any], watch: Watch, lost: Sequence[float]) -> None:
    """Sorts the rows and adds what depends on all of them."""
    order = {row.name: index for index, row in enumerate(ROWS)}
    report["rows"].sort(key=lambda row: (row["batch"], order[row["name"]]))
    measured = [row for row in report["rows"] if row["status"] == "measured"]
    report["quietness"] = quietness(
        watch.others_share,
        float(np.median(lost)),
        [
            f"{row['name']} at batch {row['batch']}"
            for row in measured
            if row["name"] != "empty" and row["compute"]["drift"] > DRIFT_LIMIT
        ],
    )
    empty = [row for row in measured if row["name"] == "empty"]
    others = [row for row in measured if row["name"] != "empty" and row["batch"] == 1]
    if empty and others and empty[0]["batch"] == 1:
        fastest = min(others, key=lambda row: row["compute"]["p50_ms"])
        cost = empty[0]["compute"]["p50_ms"]
        report["overhead"] = {
            "empty_ms": cost,
            "fastest": fastest["name"],
            "share": round(cost / fastest["compute"]["p50_ms"], 6),
        }


def _engine_build_s(bundle: Bundle, row: Row) -> float | None:
    """How long a bundle's engines took to build, by their record; None where a row has none."""
    found = [
        engines.record
        for engines in list_engines(bundle)
        if engines.record.backend == row.backend
        and (row.plugin is None or (engines.record.plugin is not None) == row.plugin)
    ]
    if len(found) != 1:
        return None
    return sum(stage.build_seconds for stage in found[0].stages.values())


def _significant(value: float) -> float:
    return float(f"{value:.5g}")


def _shortened(text: str, length: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]}..."
