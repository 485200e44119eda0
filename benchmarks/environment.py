"""What machine it was, what it ran, and whether anything else ran on it."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from garment_transfer.benchmarks.measuring import processor
from garment_transfer.bundle import installed_versions, package_version

#: Packages whose version may change a figure.
PACKAGES: Final = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13-libs",
    "torch",
)

#: A machine is called quiet when others took at most this share of its processors ...
OTHERS_LIMIT: Final = 0.05
#: ... and an empty loop lost at most this share of its time.
LOST_LIMIT: Final = 0.02
#: A row is called stable when the medians of its first and second half differ by at most this.
DRIFT_LIMIT: Final = 0.05


def environment() -> dict[str, Any]:
    """Processor, memory, GPU, versions, clocks and git revision; None where it cannot be read."""
    return {
        "processor": processor(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": usable_cores(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": _clock_mhz(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "garment_transfer": package_version(),
        "packages": installed_versions(PACKAGES),
        "gpus": _gpus(),
        "git_revision": git_revision(),
    }


def usable_cores() -> int:
    """The logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def git_revision() -> str | None:
    """The revision of the checkout that this file belongs to, "-dirty" where files differ.

    None where it belongs to none, such as in an installed package.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # an environment may lie inside a checkout of something else
        git("ls-files", "--error-unmatch", Path(__file__).name)
        revision = git("rev-parse", "HEAD")
        return revision + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class Watch:
    """Tells how much of the processors went to others while some processes were measured."""

    def __init__(self) -> None:
        self._wall_s = 0.0
        self._others_s = 0.0
        self._start: tuple[float, float, float] | None = None

    def start(self, processes: Iterable[int]) -> None:
        """Begins to watch; `processes` and this one do not count as others."""
        self._processes = list(processes)
        self._start = (time.monotonic(), _busy_s(), self._own_s())

    def stop(self) -> None:
        """Ends what `start` began, while the processes still live."""
        if self._start is None:
            return
        wall, busy, own = self._start
        self._wall_s += time.monotonic() - wall
        self._others_s += max(0.0, (_busy_s() - busy) - (self._own_s() - own))
        self._start = None

    @property
    def others_share(self) -> float:
        """The share of all processors' time that went to others, steal included."""
        return self._others_s / (self._wall_s * (psutil.cpu_count() or 1)) if self._wall_s else 0.0

    def _own_s(self) -> float:
        seconds = 0.0
        for pid in (os.getpid(), *self._processes):
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.Error:
                continue
            seconds += times.user + times.system
        return seconds


def lost_share(seconds: float = 0.5) -> float:
    """The share of its time that an empty loop lost to interruptions."""
    count, gaps = 0, []
    last = begin = time.perf_counter()
    while last - begin < seconds:
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
        count += 1
    values = np.asarray(gaps)
    return float(values[values > 50 * np.median(values)].sum() / values.sum())


def quietness(others: float, lost: float, drifting: Iterable[str]) -> dict[str, Any]:
    """Whether a run can be trusted, in numbers and in a sentence."""
    unstable = list(drifting)
    where = ", ".join(unstable) if len(unstable) <= 3 else f"{len(unstable)} rows"
    found = []
    if others > OTHERS_LIMIT:
        found.append(f"other processes took {others:.0%} of the processors")
    if lost > LOST_LIMIT:
        found.append(f"an empty loop lost {lost:.0%} of its time")
    if unstable:
        found.append(f"the two halves of the run differ by more than {DRIFT_LIMIT:.0%} in {where}")
    return {
        "quiet": not found,
        "statement": f"The machine was not quiet: {'; '.join(found)}."
        if found
        else "The machine was quiet.",
        "others_share": round(others, 4),
        "lost_share": round(lost, 4),
        "load_average": [round(value, 2) for value in psutil.getloadavg()],
        "unstable_rows": unstable,
    }


def _busy_s() -> float:
    times = psutil.cpu_times()
    return sum(
        getattr(times, name, 0.0) for name in ("user", "system", "nice", "irq", "softirq", "steal")
    )


def _clock_mhz() -> float | None:
    try:
        frequency = psutil.cpu_freq()
    # raised where the kernel shows no clocks
    except (OSError, NotImplementedError):
        return None
    return round(frequency.current, 1) if frequency else None


def _gpus() -> list[dict[str, Any]]:
    try:
        import pynvml

        pynvml.nvmlInit()
    # no package, or no driver
    except Exception:
        return []
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpus.append(
                {
                    "name": pynvml.nvmlDeviceGetName(handle),
                    "driver": pynvml.nvmlSystemGetDriverVersion(),
                    "memory_mib": pynvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20,
                    "sm_clock_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
                    "memory_clock_mhz": pynvml.nvmlDeviceGetClockInfo(
                        handle, pynvml.NVML_CLOCK_MEM
                    ),
                }
            )
        return gpus
    finally:
        pynvml.nvmlShutdown()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
