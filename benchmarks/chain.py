"""Where the time of a chain on a GPU goes: host, GPU, and how much of it no kernel runs."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from garment_transfer.runtime.backends import Arrays
    from garment_transfer.runtime.cuda import Session

_WARM_UP = 10


class ChainTimes(Struct):
    """What a transfer of a chain is made of.

    `replays` says whether it is one CUDA graph. `gpu_ms` is from the first copy to the last, by
    events. `host_us` is a transfer's wall time less that, and less the time to put arrays into
    page-locked memory and to take results out. `idle` is the share of the time between a run's
    first and last kernel in which none runs, by CUPTI; None where it sees no kernel.
    """

    replays: bool
    host_us: float
    gpu_ms: float
    idle: float | None


def chain_times(session: Session, inputs: Arrays, rounds: int = 100) -> ChainTimes | None:
    """Medians of a session's transfers of host arrays; None without torch for CUDA."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None

    stream = torch.cuda.ExternalStream(session.stream)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    host, gpu = [], []
    for _ in range(_WARM_UP + rounds):
        start = time.perf_counter()
        session.transfer(inputs)
        wall = time.perf_counter() - start

        start = time.perf_counter()
        for name, array in inputs.items():
            session.host_inputs[name][...] = array
        for array in session.host_outputs.values():
            array.copy()
        staging = time.perf_counter() - start

        begin.record(stream)
        session.upload()
        session.run()
        session.download()
        end.record(stream)
        session.synchronize()
        gpu.append(begin.elapsed_time(end))
        host.append(1e6 * (wall - staging) - 1000 * gpu[-1])
    return ChainTimes(
        session.replays,
        round(statistics.median(host[_WARM_UP:]), 3),
        round(statistics.median(gpu[_WARM_UP:]), 4),
        _idle_share(session, 10),
    )


def _idle_share(session: Session, rounds: int) -> float | None:
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(rounds):
            session.run()
            session.synchronize()
            time.sleep(0.005)
        torch.cuda.synchronize()
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA
    ]
    return idle_of(sorted(spans), gap=2500)


def idle_of(spans: Sequence[tuple[float, float]], gap: float) -> float | None:
    """The median, over runs, of the share that no span covers; a longer gap begins a new run.

    `spans` are starts and ends, sorted; None where there are none.
    """
    runs: list[list[float]] = []  # first start, last end, time that is covered
    for start, end in spans:
        if not runs or start - runs[-1][1] > gap:
            runs.append([start, start, 0.0])
        run = runs[-1]
        run[2] += max(0.0, end - max(start, run[1]))
        run[1] = max(run[1], end)
    shares = [1 - busy / (last - first) for first, last, busy in runs if last > first]
    return statistics.median(shares) if shares else None
