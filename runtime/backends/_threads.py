"""How many threads a graph gets unless told otherwise."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta

#: Threads of a graph. More than any machine has cores make a runtime start them for minutes.
MAX_THREADS = 1024
Threads = Annotated[int, Meta(ge=1, le=MAX_THREADS)]


def default_threads(root: Path = Path("/")) -> int | None:
    """The smallest of: cores that this process may run on, its control group's quota, real cores.

    Runtimes count the machine's cores: a container that may use two of 64 would get 64 threads
    that wait for one another.

    Args:
        root: where /proc and /sys are.

    Returns:
        At least 1; None where the system does not say, which leaves it to the runtime.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = os.sched_getaffinity(0)
    quota = min(_quotas(root), default=float(len(allowed)))
    # A part of a core is left out: a thread that has it alone would keep the others waiting.
    return max(1, min(_real_cores(root, allowed), int(quota)))


def _real_cores(root: Path, processors: Collection[int]) -> int:
    """How many cores some logical processors lie on, all of them where the kernel does not say."""
    cores = set()
    for number in processors:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        try:
            cores.add((topology / "thread_siblings_list").read_text())
        except OSError:
            cores.add(str(number))
    return len(cores)


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that this process's control groups, and those above them, may take."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:  # such as 0::/a/b, or 4:cpu,cpuacct:/a/b in version 1
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's, of which only the last part is there.
        group = Path(path.lstrip("/"))
        for mount in (mounts / controllers, mounts / "cpu") if controllers else (mounts,):
            for folder in (group, *group.parents):
                yield from _quota(mount / folder)


def _quota(folder: Path) -> Iterator[float]:
    try:
        # version 2 has both numbers in one file, version 1 a file each
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return
