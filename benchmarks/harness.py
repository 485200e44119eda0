"""The benchmark: every row in a process of its own, all rows in turn, in one run.

At each batch size the rows are loaded one after the other and then take turns, in an order that
changes from round to round, so that drift of the machine and what a row leaves in the caches hit
all alike. A report is saved after each batch size, and when the run is interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Concatenate, Final, Literal, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from garment_transfer.benchmarks import measuring
from garment_transfer.benchmarks.chain import ChainTimes, chain_times
from garment_transfer.benchmarks.measuring import in_turn, quantiles, settled, timed
from garment_transfer.benchmarks.report import (
    CannotRun,
    Clients,
    Failed,
    Measured,
    Memory,
    Parity,
    Report,
    Skipped,
    Subject,
    Times,
)
from garment_transfer.benchmarks.rows import ROWS, Row, find_checkpoint, load_row, unavailable
from garment_transfer.bundle import Bundle, Code, GarmentTransferError, InputError, Precision, now
from garment_transfer.runtime import Person, Pipeline, sample_people, stage_inputs

P = ParamSpec("P")
T = TypeVar("T")
Outputs = dict[str, npt.NDArray[np.generic]]

#: The rows that can be the reference of parity, the first that runs: both compute in float32, and
#: the first does not depend on the bundle's graphs.
REFERENCES: Final = ("torch-eager", "onnxruntime-standard")

#: Rounds at larger batches than 1: `max(MIN_ROUNDS, 2 * rounds // batch)`.
MIN_ROUNDS: Final = 6

_WARM_UP_CALLS: Final = 15
_WARM_UP_SECONDS: Final = 4.0

#: Calls longer than this are timed without an untimed one before: they bring the caches back
#: themselves, and take long enough.
_LONG_CALL_MS: Final = 250.0

#: Seconds of one point of the clients' curve, and how often each point has its turn.
_CLIENT_SECONDS: Final = 1.0
_CLIENT_TURNS: Final = 3


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
    #: Of the bundle's graphs; None is its main one.
    precision: Precision | None = None
    #: The rows that were asked for by name, not by "all".
    named: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Job:
    """A row to run at a batch size. `finished` is an .npz file of outputs for the row "empty"."""

    row: Row
    batch: int
    settings: Settings
    finished: Path | None = None


class Worker:
    """A row in its own process, which alone counts for its memory. Times are in milliseconds."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._last_ms = 0.0
        self._compute: list[float] = []
        self._end_to_end: list[float] = []
        self._parts: list[dict[str, float]] = []
        self._pipeline: Pipeline

    def pid(self) -> int:
        """The process's id."""
        return os.getpid()

    def load(self) -> None:
        """Loads the row."""
        import cv2

        job, settings = self._job, self._job.settings
        cv2.setNumThreads(settings.threads)
        finished = dict(np.load(job.finished)) if job.finished else {}
        bundle = Bundle.load(settings.bundle)
        checkpoint = find_checkpoint(bundle, settings.checkpoint)
        start = time.perf_counter()
        self._pipeline = load_row(
            job.row, bundle, checkpoint, settings.threads, settings.precision, finished
        )
        self._load_s = time.perf_counter() - start
        # each of the two people receives the other's garment in turn
        folders = sample_people()
        self._folders = [folders if i % 2 == 0 else folders[::-1] for i in range(job.batch)]
        pairs = [
            stage_inputs(Person.load(person), Person.load(owner), bundle.manifest.size)
            for person, owner in self._folders
        ]
        self._inputs = {name: np.stack([pair[name] for pair in pairs]) for name in pairs[0]}

    def warm_up(self) -> None:
        """Runs it for a while; in the first run some backends compile."""
        self._first_ms = timed(self._run)
        self._transfer()
        end = time.monotonic() + _WARM_UP_SECONDS
        for call in range(_WARM_UP_CALLS):
            self._last_ms = timed(self._run)
            if call >= 2 and time.monotonic() > end:
                break

    def take_turn(self) -> None:
        """Measures from arrays to arrays at the bundle's size, and from files to pictures."""
        self._compute.append(self._settled(self._run))
        # Large batches spend most of it on the host, in the same code for all: half as often.
        if self._job.batch > 1 and len(self._compute) % 2 == 0:
            return
        self._end_to_end.append(self._settled(self._transfer))
        self._parts.append(self._last_parts)

    def result(self, reference: Outputs) -> Measured | None:
        """What was measured, and how far the outputs are from the reference's; None of no turns."""
        if not (self._compute and self._end_to_end):
            return None
        on_device = measuring.device_mib()
        host, device = measuring.peak_host_mib(), None if on_device is None else round(on_device, 1)
        return Measured(
            *_identity(self._job.row, self._job.batch),
            load_s=round(self._load_s, 3),
            first_call_ms=round(self._first_ms, 3),
            memory=Memory(round(host, 1), device),
            parity=Parity.of(self.outputs(), reference),
            compute=_times(self._compute, self._job.batch),
            end_to_end=_times(self._end_to_end, self._job.batch),
            parts_ms={
                name: round(statistics.median(parts[name] for parts in self._parts), 3)
                for name in self._parts[0]
            },
            chain=self._chain(),
        )

    def outputs(self) -> Outputs:
        """The outputs of a run."""
        return self._pipeline.run(self._inputs)

    def clients(self, count: int, seconds: float) -> tuple[list[float], float]:
        """`count` threads that share the pipeline: milliseconds of their calls, seconds in all."""

        def client(end: float) -> list[float]:
            times = [timed(self._run)]
            while time.perf_counter() < end:
                times.append(timed(self._run))
            return times

        with ThreadPoolExecutor(count) as threads:
            list(threads.map(lambda _: self._run(), range(count)))
            start = time.perf_counter()
            times = list(threads.map(client, [start + seconds] * count))
            return [t for own in times for t in own], time.perf_counter() - start

    def _chain(self) -> ChainTimes | None:
        """Where the time of a chain on a GPU goes; None for other rows."""
        if self._job.row.device == "cpu" or self._job.row.backend == "torch":
            return None
        with self._pipeline.session(self._job.batch) as session:
            return chain_times(session, self._inputs)

    def _run(self) -> None:
        self._pipeline.run(self._inputs)

    def _transfer(self) -> None:
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:  # as `garment-transfer transfer` reads them
            loaded = list(pool.map(Person.load, chain(*self._folders)))
        read = 1000 * (time.perf_counter() - start)
        transfers = self._pipeline.transfer_batch(loaded[::2], loaded[1::2])
        self._last_parts = {
            "read": read,
            **transfers[0].timings,
            "compose": sum(transfer.timings["compose"] for transfer in transfers),
        }

    def _settled(self, call: Callable[[], None]) -> float:
        self._last_ms = settled(call, warm=self._last_ms < _LONG_CALL_MS)
        return self._last_ms


class RowProcess:
    """The process of a row at a batch size."""

    def __init__(self, job: Job, log: Path) -> None:
        self._log = log
        # a fork would share libraries' threads and the parent's memory
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, spawn, _start, (job, log))
        self.pid = self.ask(Worker.pid)

    def ask(
        self, method: Callable[Concatenate[Worker, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Calls a method of `Worker` there. RowError where it fails or the process dies."""
        try:
            return self._pool.submit(partial(_call, method, *args, **kwargs)).result()
        except BrokenExecutor:
            text = self._log.read_text("utf-8", "replace").strip() if self._log.exists() else ""
            last = text.splitlines()[-1] if text else "it printed nothing"
            raise _failure(f"its process ended in {method.__name__}: {last}") from None

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        for child in multiprocessing.active_children():
            if child.pid == self.pid:
                child.kill()
        self._pool.shutdown()


_worker: Worker


def _start(job: Job, log: Path) -> None:
    global _worker
    # Ctrl-C reaches the whole group; the parent decides what becomes of the row.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # what libraries print would spoil the parent's lines; the end of it explains a crash
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    _worker = Worker(job)


def _call(method: Callable[Concatenate[Worker, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return method(_worker, *args, **kwargs)
    except Exception as error:
        # others' exceptions may not be pickled
        raise _failure(str(error) or type(error).__name__) from None


def _failure(what: str) -> RowError:
    return RowError(Code.RUN_FAILED, textwrap.shorten(what, 400, placeholder="..."))


def rounds_for(batch: int, rounds: int) -> int:
    """How many rounds a batch size gets where batch 1 gets `rounds`."""
    return rounds if batch == 1 else max(min(rounds, MIN_ROUNDS), 2 * rounds // batch)


def run_benchmark(
    settings: Settings, save: Callable[[Report], None], say: Callable[[str], None]
) -> Report:
    """Measures and returns the report.

    `save` gets the report so far after each batch size; `say` gets lines of progress. A
    KeyboardInterrupt ends the run early: what was measured until then is in the report, whose
    `interrupted` is true.
    """
    with tempfile.TemporaryDirectory(prefix="garment-transfer-") as folder:
        run = _Run(settings, Path(folder), say)
        try:
            for batch in settings.batches:
                run.measure_batch(batch)
                save(run.report)
            if settings.clients:
                run.measure_clients()
        except KeyboardInterrupt:
            run.report.interrupted = True
    save(run.report)
    return run.report


class _Run:
    """A run of the benchmark and its report so far."""

    def __init__(self, settings: Settings, folder: Path, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.bundle = bundle = Bundle.load(settings.bundle)
        checkpoint = find_checkpoint(bundle, settings.checkpoint)
        self.folder = folder
        self.say = say
        manifest = bundle.manifest
        self.report = Report(
            created=now(),
            bundle=Subject(
                manifest.name,
                (manifest.size.height, manifest.size.width),
                settings.precision or manifest.precision,
                manifest.checkpoint.sha256,
                sum(manifest.checkpoint.parameters.values()),
            ),
            threads=settings.threads,
            rounds=settings.rounds,
            environment=measuring.environment(),
            rows=[],
            clients=[],
        )
        self.reasons = {
            row.name: unavailable(row, bundle, checkpoint)
            for row in ROWS
            if row in settings.rows or row.name in REFERENCES
        }

    def process(self, row: Row, batch: int, settings: Settings | None = None) -> RowProcess:
        finished = self.folder / "finished.npz" if row.backend == "empty" else None
        job = Job(row, batch, settings or self.settings, finished)
        return RowProcess(job, self.folder / f"{row.name}.log")

    def measure_batch(self, batch: int) -> None:
        reference = self.reference(batch)
        np.savez(self.folder / "finished.npz", **reference)  # type: ignore[arg-type]
        with contextlib.ExitStack() as stack:
            loaded: dict[str, RowProcess] = {}
            rows = {row.name: row for row in self.settings.rows}
            for name, row in rows.items():
                if not self.can_run(row, batch):
                    continue
                self.say(f"batch {batch}: loading {name}")
                process = stack.enter_context(contextlib.closing(self.process(row, batch)))
                try:
                    process.ask(Worker.load)
                    process.ask(Worker.warm_up)
                except RowError as error:
                    process.close()
                    self.fail(row, batch, error)
                else:
                    loaded[name] = process
            rounds = rounds_for(batch, self.settings.rounds)
            self.say(f"batch {batch}: {rounds} rounds of {', '.join(loaded)}")
            try:
                for name in in_turn(loaded, rounds):
                    try:
                        loaded[name].ask(Worker.take_turn)
                    except RowError as error:
                        del loaded[name]
                        self.fail(rows[name], batch, error)
            finally:
                # also what an interrupted run has measured so far
                for name, process in loaded.items():
                    try:
                        if found := process.ask(Worker.result, reference):
                            self.report.rows.append(found)
                    except RowError as error:
                        self.fail(rows[name], batch, error)
                order = [row.name for row in ROWS]
                self.report.rows.sort(key=lambda row: (row.batch, order.index(row.name)))

    def fail(self, row: Row, batch: int, error: RowError) -> None:
        self.report.rows.append(Failed(*_identity(row, batch), str(error)))

    def can_run(self, row: Row, batch: int) -> bool:
        """Whether a row is measured at a batch size; the report says why not."""
        settings = self.settings
        if self.reasons[row.name]:
            self.report.rows.append(CannotRun(*_identity(row, batch), self.reasons[row.name]))
            return False
        first = batch == settings.batches[0] or row.name in settings.named
        if row.compile and row.device == "cpu" and not first:
            reason = (
                "each batch size is compiled anew, which takes minutes on a CPU: "
                f"`--backends {row.name} --batch {batch}` measures it"
            )
            self.report.rows.append(Skipped(*_identity(row, batch), reason))
            return False
        return True

    def reference(self, batch: int) -> Outputs:
        """The outputs that the others' are compared with."""
        for name in REFERENCES:
            if not self.reasons[name]:
                row = next(row for row in ROWS if row.name == name)
                self.report.reference = name
                float32 = dataclasses.replace(self.settings, precision=None)
                with contextlib.closing(self.process(row, batch, float32)) as process:
                    process.ask(Worker.load)
                    return process.ask(Worker.outputs)
        raise InputError(
            Code.BACKEND_UNAVAILABLE,
            "no float32 reference can run here: "
            + "; ".join(f"{name}: {self.reasons[name]}" for name in REFERENCES),
        )

    def measure_clients(self) -> None:
        """Latency and throughput of one process whose threads share a pipeline, points in turn."""
        with contextlib.ExitStack() as stack:
            processes: dict[str, RowProcess] = {}
            rows = {row.name: row for row in self.settings.rows}
            for name, row in rows.items():
                if row.backend in ("empty", "torch") or self.reasons[name]:
                    continue
                process = stack.enter_context(contextlib.closing(self.process(row, 1)))
                try:
                    process.ask(Worker.load)
                    process.ask(Worker.outputs)
                except RowError as error:
                    self.say(f"clients: {name}: {error}")
                    continue
                processes[name] = process
            counts = self.settings.clients
            self.say(f"clients: {', '.join(map(str, counts))} of {', '.join(processes)}")
            points: dict[tuple[str, int], list[tuple[list[float], float]]] = {
                point: [] for point in product(processes, counts)
            }
            try:
                for name, count in in_turn(points, _CLIENT_TURNS):
                    turn = processes[name].ask(Worker.clients, count, _CLIENT_SECONDS)
                    points[name, count].append(turn)
            finally:
                for (name, count), turns in points.items():
                    if not turns:
                        continue
                    times = [time for own, _ in turns for time in own]
                    self.report.clients.append(
                        Clients(
                            name=name,
                            label=rows[name].label,
                            clients=count,
                            calls=len(times),
                            **quantiles(times),
                            pairs_per_s=round(len(times) / sum(wall for _, wall in turns), 3),
                        )
                    )


def _identity(row: Row, batch: int) -> tuple[str, str, Literal["cpu", "cuda"], int]:
    return row.name, row.label, row.device, batch


def _times(samples: Sequence[float], batch: int) -> Times:
    return Times(
        **quantiles(samples),
        pairs_per_s=float(f"{1000 * batch / statistics.mean(samples):.5g}"),
        samples_ms=[round(sample, 3) for sample in samples],
    )
