"""Where the time of a chain on a GPU goes: what the host adds, and what the GPU takes."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from garment_transfer.runtime.backends import Arrays
    from garment_transfer.runtime.cuda import Session

_WARM_UP = 10


class ChainTimes(Struct):
    """What a transfer of a chain is made of; `profile` has the GPU's time in parts.

    `replays` says whether it is one CUDA graph. `gpu_ms` is from the first copy to the last, by
    events. `host_us` is a transfer's wall time less `gpu_ms`, and less the time to put arrays into
    page-locked memory and to take results out.
    """

    replays: bool
    host_us: float
    gpu_ms: float


def chain_times(session: Session, inputs: Arrays, rounds: int = 100) -> ChainTimes:
    """Medians of a session's transfers of host arrays."""
    device = session.device
    with device.active():
        begin, end = (device.create_event(timing=True) for _ in range(2))
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

        with device.active():
            device.record(begin, session.stream)
            session.upload()
            session.run()
            session.download()
            device.record(end, session.stream)
            session.synchronize()
            gpu.append(device.elapsed(begin, end))
        host.append(1e6 * (wall - staging) - 1000 * gpu[-1])
    with device.active():
        for event in (begin, end):
            device.destroy_event(event)
    return ChainTimes(
        session.replays,
        round(statistics.median(host[_WARM_UP:]), 3),
        round(statistics.median(gpu[_WARM_UP:]), 4),
    )
