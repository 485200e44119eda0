"""How the benchmarks time: side by side, in turn, medians; and what machine it was."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

#: Seconds that a run is repeated untimed before it is timed.
_WARM_SECONDS = 0.02


def interleaved(
    runs: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 10
) -> dict[str, list[float]]:
    """Milliseconds of every run, `rounds` times in turn, so that drift hits all alike.

    A pause before each lets the threads of the one before, which wait in a loop for more work, go
    to sleep, since they would hold the cores. After it a processor is slow for some milliseconds
    (its clock, its caches, threads that are woken), so the run is repeated untimed until it is
    back to where a busy server has it.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + warm_up):
        for name, run in runs.items():
            time.sleep(0.005)
            warm = time.perf_counter() + _WARM_SECONDS
            run()
            while time.perf_counter() < warm:
                run()
            start = time.perf_counter()
            run()
            if turn >= warm_up:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of every run."""
    return {name: statistics.median(values) for name, values in times.items()}


def processor() -> str:
    """The processor's name as Linux knows it."""
    file = Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
