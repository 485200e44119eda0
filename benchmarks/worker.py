"""The process of one row at one batch size: loads it, and times it when it is told to.

The parent sends the name of a method of `Worker` and its arguments through a pipe, and gets what
it returns, or the message of its error. Only the worker's own process counts for its memory.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

#: Calls longer than this are timed without an untimed one before: they bring the caches back
#: themselves, and take long enough.
LONG_CALL_S = 0.25


@dataclass(frozen=True)
class Job:
    """What a worker is to run. `finished` is an .npz file of outputs for the row "empty"."""

    row: str
    bundle: Path
    checkpoint: Path | None
    batch: int
    threads: int
    finished: Path | None


class Worker:
    """One row, loaded. Times are in milliseconds unless a name says otherwise."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._last_s = 0.0

    def load(self) -> dict[str, Any]:
        """Loads the row; returns how long that took, in seconds."""
        import cv2
        import numpy as np

        from garment_transfer.benchmarks.peers import load_row
        from garment_transfer.benchmarks.rows import ROWS
        from garment_transfer.bundle import Bundle
        from garment_transfer.runtime import Person, sample_people, stage_inputs

        job = self._job
        cv2.setNumThreads(job.threads)
        finished = dict(np.load(job.finished)) if job.finished else {}
        row = next(row for row in ROWS if row.name == job.row)
        bundle = Bundle.load(job.bundle)
        start = time.perf_counter()
        self._pipeline = load_row(row, bundle, job.checkpoint, job.threads, finished)
        seconds = time.perf_counter() - start
        # each of the two people receives the other's garment in turn
        person, owner = sample_people()
        self._folders = [
            (person, owner) if i % 2 == 0 else (owner, person) for i in range(job.batch)
        ]
        both = [Person.load(folder) for folder in (person, owner)]
        pairs = [
            stage_inputs(both[i % 2], both[1 - i % 2], bundle.manifest.size)
            for i in range(job.batch)
        ]
        self._inputs = {name: np.stack([pair[name] for pair in pairs]) for name in pairs[0]}
        return {"load_s": seconds}

    def first_call(self) -> float:
        """Milliseconds of the first run, in which some backends compile."""
        return self._timed(self._compute)

    def compute(self) -> float:
        """Milliseconds from arrays to arrays at the bundle's size."""
        return self._settled(self._compute)

    def compute_unsettled(self) -> float:
        """As `compute`, with no untimed call before it: for the warm-up."""
        return self._timed(self._compute)

    def end_to_end(self) -> tuple[float, dict[str, float]]:
        """Milliseconds from files to pictures in memory, and those of its parts."""
        return self._settled(self._transfer), self._parts

    def outputs(self) -> dict[str, Any]:
        """The outputs of a run."""
        return self._pipeline.run(self._inputs)

    def clients(self, count: int, seconds: float) -> tuple[list[float], float]:
        """`count` threads that share the pipeline: milliseconds of their calls, seconds in all."""
        times: list[list[float]] = [[] for _ in range(count)]
        errors: list[BaseException] = []
        barrier = threading.Barrier(count + 1)

        def client(index: int) -> None:
            try:
                self._compute()
                barrier.wait()
                end = time.perf_counter() + seconds
                while time.perf_counter() < end:
                    times[index].append(self._timed(self._compute))
            except BaseException as error:
                errors.append(error)
                barrier.abort()

        threads = [threading.Thread(target=client, args=(index,)) for index in range(count)]
        for thread in threads:
            thread.start()
        with contextlib.suppress(threading.BrokenBarrierError):  # `errors` says why
            barrier.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        wall = time.perf_counter() - start
        if errors:
            raise errors[0]
        return [t for own in times for t in own], wall

    def memory(self) -> dict[str, float | None]:
        """Peak memory of this process on the host and what it holds on the device, in MiB."""
        return {"host_mib": peak_rss_mib(), "device_mib": device_mib(os.getpid())}

    def _compute(self) -> None:
        self._pipeline.run(self._inputs)

    def _transfer(self) -> None:
        from garment_transfer.runtime import Person

        start = time.perf_counter()
        people = [(Person.load(person), Person.load(owner)) for person, owner in self._folders]
        read = 1000 * (time.perf_counter() - start)
        transfers = self._pipeline.transfer_batch([p for p, _ in people], [o for _, o in people])
        self._parts = {
            "read": read,
            **transfers[0].timings,
            "compose": sum(transfer.timings["compose"] for transfer in transfers),
        }

    def _settled(self, call: Callable[[], None]) -> float:
        # Threads that wait in a loop for more work fall asleep in the pause, since they would hold
        # the cores of the next row; the untimed call brings back processor and caches.
        time.sleep(0.005)
        if self._last_s < LONG_CALL_S:
            call()
        return self._timed(call)

    def _timed(self, call: Callable[[], None]) -> float:
        start = time.perf_counter()
        call()
        self._last_s = time.perf_counter() - start
        return 1000 * self._last_s


def peak_rss_mib() -> float:
    """The most memory that this process ever held, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage's figure is inherited from the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def device_mib(pid: int) -> float | None:
    """The GPU memory that a process holds, in MiB; None where no driver says."""
    try:
        import pynvml

        pynvml.nvmlInit()
    # no package, or no driver
    except Exception:
        return None
    try:
        held = [
            process.usedGpuMemory
            for index in range(pynvml.nvmlDeviceGetCount())
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(
                pynvml.nvmlDeviceGetHandleByIndex(index)
            )
            if process.pid == pid and process.usedGpuMemory is not None
        ]
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return sum(held) / 2**20 if held else None


def serve(connection: Connection, job: Job, log: Path) -> None:
    """Runs the parent's requests until it hangs up."""
    # Ctrl-C reaches the whole group; the parent decides what becomes of the row.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # what libraries print would spoil the parent's lines; the end of it explains a crash
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    worker = Worker(job)
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            reply = ("done", getattr(worker, name)(*arguments))
        except Exception as error:
            reply = ("failed", str(error) or type(error).__name__)
        connection.send(reply)
