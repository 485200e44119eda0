"""How the benchmarks time, and on what machine."""

from __future__ import annotations

import math
import os
import platform
import random
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from garment_transfer.bundle import installed_versions, package_version, replacing

if TYPE_CHECKING:
    from types import ModuleType

T = TypeVar("T")

#: Seconds that a run is repeated untimed before it is timed.
_WARM_SECONDS: Final = 0.02

#: Packages whose version may change a figure.
_PACKAGES: Final = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13-libs",
    "torch",
    "tritonclient",
)


def in_turn(items: Collection[T], rounds: int, seed: int = 0) -> Iterator[T]:
    """Each item once a round, in an order shuffled anew, so that each follows each.

    An item that leaves `items` has no further turn.
    """
    rng = random.Random(seed)
    for _ in range(rounds):
        for item in rng.sample(list(items), len(items)):
            if item in items:
                yield item


def timed(run: Callable[[], object]) -> float:
    """Milliseconds of a run."""
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def settled(run: Callable[[], object], warm: bool = True) -> float:
    """Milliseconds of a run as on a busy server, whatever ran before.

    A pause lets the threads of the run before, which wait in a loop for more work, go to sleep,
    since they would hold the cores. After it a processor is slow for some milliseconds (its clock,
    its caches, threads that are woken), so the run is repeated untimed, unless not `warm`.
    """
    time.sleep(0.005)
    if warm:
        end = time.perf_counter() + _WARM_SECONDS
        run()
        while time.perf_counter() < end:
            run()
    return timed(run)


def interleaved(
    runs: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 10
) -> dict[str, list[float]]:
    """Milliseconds of every run, `rounds` times in turn, so that drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name in in_turn(runs, warm_up + rounds):
        times[name].append(settled(runs[name]))
    return {name: values[warm_up:] for name, values in times.items()}


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of every run."""
    return {name: statistics.median(values) for name, values in times.items()}


def quantiles(samples: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and mean of samples in milliseconds."""
    figures = [*np.quantile(samples, (0.5, 0.9, 0.99)), np.mean(samples)]
    names = ("p50_ms", "p90_ms", "p99_ms", "mean_ms")
    return {name: round(float(value), 4) for name, value in zip(names, figures, strict=True)}


def p99_in_services(load: float) -> float:
    """How long 99 % of requests take at most that wait for one worker, in service times.

    Requests come at random and each takes as long as any other (M/D/1). Waits beyond some service
    times are exponential (H. Tijms, A First Course in Stochastic Models, chapter 9); that is used
    for all.

    Args:
        load: the share of the time that the worker is busy, above 0 and below 1.
    """
    decay = 1 / load
    for _ in range(2000):  # to the root of load (exp(decay) - 1) = decay
        decay = math.log1p(decay / load)
    waiting = math.log(100 * (1 - load) / (load + decay - 1)) / decay
    return 1 + max(0.0, waiting)


def write_json(path: Path, result: Struct | Mapping[str, object]) -> None:
    """Writes a result, whole or not at all; a list of numbers takes one line. OutputError."""
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
    text = re.sub(r"\[[\s\d.,eE+-]+\]", lambda match: re.sub(r"\s+", " ", match[0]), text)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_rows(
    path: Path, what: str, threads: int, rounds: int, rows: Sequence[object], **more: object
) -> None:
    """Writes the rows of a benchmark with `what` they are and where they were measured."""
    about = {"what": what, "threads": threads, "rounds": rounds, "rows": rows}
    write_json(path, {**about, **more, "environment": environment()})


def processor() -> str:
    """The processor's name as Linux knows it."""
    file = Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def usable_cores() -> int:
    """The logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Gpu(Struct):
    """A GPU as its driver names it."""

    name: str
    driver: str
    memory_mib: int


class Environment(Struct):
    """Processor, memory, GPUs, versions and git revision; None where it cannot be read."""

    processor: str
    cores: int | None
    logical_cores: int | None
    usable_cores: int
    governor: str | None
    memory_gib: float
    system: str
    python: str
    garment_transfer: str
    packages: dict[str, str]
    gpus: list[Gpu]
    git_revision: str | None


def environment() -> Environment:
    """This machine and what is installed."""
    import psutil

    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return Environment(
        processor=processor(),
        cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count(),
        usable_cores=usable_cores(),
        governor=governor.read_text().strip() if governor.exists() else None,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=platform.platform(),
        python=platform.python_version(),
        garment_transfer=package_version(),
        packages=installed_versions(_PACKAGES),
        gpus=[
            Gpu(
                nvml.nvmlDeviceGetName(gpu),
                nvml.nvmlSystemGetDriverVersion(),
                nvml.nvmlDeviceGetMemoryInfo(gpu).total // 2**20,
            )
            for nvml, gpu in _gpus()
        ],
        git_revision=git_revision(),
    )


def git_revision() -> str | None:
    """The revision of the checkout that this file belongs to, "-dirty" where files differ.

    None where it belongs to none, such as in an installed package.
    """
    # an environment may lie inside a checkout of something else
    known = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        *_, revision = (
            subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=True)
            for command in (known, describe)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision.stdout.decode().strip()


def peak_host_mib() -> float:
    """The most memory that this process ever held, in MiB."""
    import resource

    status = Path("/proc/self/status")
    # getrusage's figure is inherited from the process that started this one
    found = re.search(r"VmHWM:\s*(\d+)", status.read_text()) if status.exists() else None
    kib = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 1024


def device_mib() -> float | None:
    """The GPU memory that this process holds, in MiB; None where no driver says."""
    held = [
        process.usedGpuMemory
        for nvml, gpu in _gpus()
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
        if process.pid == os.getpid() and process.usedGpuMemory is not None
    ]
    return sum(held) / 2**20 if held else None


def _gpus() -> Iterator[tuple[ModuleType, object]]:
    """NVML and the handle of every GPU; nothing where there is no driver, or no package for it."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return
    for index in range(pynvml.nvmlDeviceGetCount()):
        yield pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)
