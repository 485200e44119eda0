"""Puts the server under load: its capacity, 80 % of it, twice of it, a killed worker, the end.

    python examples/python_server/load.py --minutes 10 --json benchmarks/results/serve-cpu.json

starts the server by itself and says at the end whether it kept its promises.

    python examples/python_server/load.py --queueing --json capacity.json

measures latencies of one worker and of two beside those that queueing arithmetic expects.
"""

import asyncio
import json
import os
import platform
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import click
import httpx
import msgspec
import numpy as np
import psutil
from server import Settings

from garment_transfer import sample_people
from garment_transfer.benchmarks.measuring import p99_in_services, processor, write_json

# Shares of the capacity that the phases ask for. What remains when one of two workers is killed
# has to carry the load of that phase alone, while its replacement starts on the same cores.
_STEADY, _OVERLOAD, _KILL = 0.8, 2.0, 0.3

# Shares of the capacity at which latencies are compared with queueing arithmetic.
_SHARES = (0.5, 0.8)

# Requests that are under way when a worker is killed, and when the server is asked to end.
_BURST = 4

_NO_ANSWER = "none"


@dataclass(frozen=True)
class Server:
    """A running uvicorn; `log` has what it says."""

    url: str
    process: psutil.Popen
    log: Path

    def starts(self) -> int:
        """How many workers have begun to serve so far."""
        return self.log.read_text(encoding="utf-8").count("Application startup complete")

    def wait_for_starts(self, count: int) -> None:
        """Waits until so many workers have begun to serve; RuntimeError with the log if not."""
        end = time.monotonic() + 120
        while self.starts() < count:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
            time.sleep(0.1)

    def workers(self) -> list[psutil.Process]:
        """The worker processes, where there is more than one."""
        return [p for p in self.process.children() if "spawn_main" in " ".join(p.cmdline())]


@contextmanager
def serving(workers: int, environment: Mapping[str, str]) -> Iterator[Server]:
    """This folder's server, with more in its environment, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "server:create_app"]
    command += ["--app-dir", str(Path(__file__).parent), "--port", str(port)]
    command += ["--workers", str(workers), "--no-access-log"]
    with tempfile.TemporaryDirectory() as folder:
        metrics, log = Path(folder, "metrics"), Path(folder, "log")
        metrics.mkdir()
        environment = {**os.environ, **environment, "PROMETHEUS_MULTIPROC_DIR": str(metrics)}
        with log.open("wb") as file:
            process = psutil.Popen(command, env=environment, stdout=file, stderr=file)
        server = Server(f"http://127.0.0.1:{port}", process, log)
        try:
            server.wait_for_starts(workers)
            yield server
        finally:
            if process.poll() is None:
                family = [process, *process.children()]
                process.terminate()
                for left in psutil.wait_procs(family, 30)[1]:
                    left.kill()
                process.wait()


class Answer(NamedTuple):
    """What one request came to."""

    sent: float  #: `time.monotonic`
    seconds: float  #: from when it was planned, which is no later than `sent`
    status: str  #: of HTTP, or "none" where the connection broke
    retry_after: bool  #: whether it says when to try again


class Phase(msgspec.Struct, omit_defaults=True):
    """What came of the requests of a phase."""

    asked_per_second: float
    statuses: dict[str, int]
    latency_ms: dict[str, int]  #: p50, p99 and max of those answered with a picture
    memory_mb: dict[str, int] = {}  #: of all workers: medians of the last two thirds of the time
    clients: int = 0
    minutes: float = 0.0
    replaced_after_seconds: float = 0.0


class Load:
    """Sends one transfer again and again, each time over a connection of its own.

    So every worker gets its share. `phases` are the results by name, `broken` the promises that
    the server did not keep.
    """

    def __init__(self, server: Server, client: httpx.AsyncClient, folders: Sequence[Path]) -> None:
        self.phases: dict[str, Phase] = {}
        self.broken: list[str] = []
        self._server = server
        self._client = client
        self._form = form(folders)

    async def watch(
        self, name: str, requests: Awaitable[list[Answer]], allowed: set[str], rate: float = 0.0
    ) -> Phase:
        """The phase of these requests, with the memory that the workers hold meanwhile."""
        start = time.monotonic()
        task = asyncio.ensure_future(requests)
        memory = []
        while not task.done():
            memory.append(sum(p.memory_info().rss for p in self._server.workers()) / 2**20)
            await asyncio.wait({task}, timeout=1)
        answers = await task
        phase = self._phase(
            name, answers, allowed, rate or len(answers) / (time.monotonic() - start)
        )
        # In the first third, batches may still be getting larger. (Repeated, no third is empty.)
        _, middle, last = (round(np.median(m)) for m in np.array_split(np.repeat(memory, 3), 3))
        phase.memory_mb = {"middle_third": middle, "last_third": last}
        if last > 1.1 * middle:
            self.broken.append(f"{name}: memory grew: {phase.memory_mb}")
        return phase

    async def kill(self, rate: float, seconds: float) -> None:
        """One of the workers is killed in the middle of a load."""
        starts = self._server.starts()
        load = asyncio.create_task(self.open(rate, seconds))
        await asyncio.sleep(seconds / 4)
        burst = [asyncio.create_task(self._send()) for _ in range(_BURST)]
        await asyncio.sleep(0.1)
        victim, *others = self._server.workers()
        victim.kill()
        killed = time.monotonic()
        await asyncio.to_thread(self._server.wait_for_starts, starts + 1)
        replaced = time.monotonic() - killed
        answers = [*await load, *await asyncio.gather(*burst)]
        phase = self._phase("kill", answers, {"200", _NO_ANSWER}, rate)
        phase.replaced_after_seconds = round(replaced, 1)
        if any(answer.status == _NO_ANSWER and answer.sent > killed for answer in answers):
            self.broken.append("kill: more was lost than what the worker had")
        after = {(await self._send()).status for _ in range(_BURST)}
        if after != {"200"} or not set(others) < set(self._server.workers()):
            self.broken.append(f"kill: the worker was not replaced: {after}")

    async def drain(self) -> None:
        """SIGTERM while requests are under way."""
        tasks = [asyncio.create_task(self._send()) for _ in range(_BURST)]
        pending = ""
        while f"garment_transfer_pending {_BURST}." not in pending and not tasks[0].done():
            pending = (await self._client.get("/metrics")).text
        self._server.process.terminate()
        self._phase("drain", await asyncio.gather(*tasks), {"200"}, 0.0)
        await asyncio.to_thread(self._server.process.wait, 60)

    def _phase(self, name: str, answers: Sequence[Answer], allowed: set[str], rate: float) -> Phase:
        taken = [1000 * answer.seconds for answer in answers if answer.status == "200"] or [0.0]
        p50, p99, most = np.percentile(taken, (50, 99, 100)).round().astype(int).tolist()
        statuses = dict(sorted(Counter(answer.status for answer in answers).items()))
        phase = Phase(round(rate, 2), statuses, {"p50": p50, "p99": p99, "max": most})
        click.echo(f"{name}: {phase}")
        self.phases[name] = phase
        if not set(statuses) <= allowed:
            self.broken.append(f"{name}: statuses {statuses}")
        if not all(answer.retry_after for answer in answers if answer.status == "429"):
            self.broken.append(f"{name}: a 429 without Retry-After")
        return phase

    async def _send(self, planned: float | None = None) -> Answer:
        """One request; `planned` is when it should have been sent, by `time.monotonic`."""
        sent = time.monotonic()
        try:
            response = await self._client.post("/transfer", files=self._form)
            status, retry_after = str(response.status_code), "Retry-After" in response.headers
        except httpx.TransportError:
            status, retry_after = _NO_ANSWER, False
        return Answer(sent, time.monotonic() - (planned or sent), status, retry_after)

    async def closed(self, clients: int, seconds: float) -> list[Answer]:
        """`clients` that each send the next request when the last one is answered."""
        end = time.monotonic() + seconds
        answers = []

        async def one() -> None:
            while time.monotonic() < end:
                answers.append(await self._send())

        await asyncio.gather(*(one() for _ in range(clients)))
        return answers

    async def open(self, rate: float, seconds: float) -> list[Answer]:
        """Requests at random times (Poisson), `rate` a second, whether answered or not."""
        rng = random.Random(0)
        planned = time.monotonic()
        end = planned + seconds
        tasks = []
        while (planned := planned + rng.expovariate(rate)) < end:
            await asyncio.sleep(planned - time.monotonic())
            tasks.append(asyncio.create_task(self._send(planned)))
        return await asyncio.gather(*tasks)


def form(folders: Sequence[Path]) -> dict[str, tuple[str | None, str | bytes]]:
    """What a transfer sends for the folders of a person and a garment owner."""
    parts: dict[str, tuple[str | None, str | bytes]] = {}
    for role, folder in zip(("person", "garment"), folders, strict=True):
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for field, stem in (("image", "image"), ("parsing", "parse"), ("densepose", "densepose")):
            (path,) = folder.glob(f"{stem}.*")
            parts[f"{role}_{field}"] = (path.name, path.read_bytes())
        parts[f"{role}_label_set"] = (None, meta["parse"])
        parts[f"{role}_encoding"] = (None, meta["densepose"])
    return parts


async def measure(
    server: Server, folders: Sequence[Path], workers: int, minutes: float, seconds: float
) -> Load:
    """All phases in a row; each but the steady one takes `seconds`."""
    settings = Settings.from_environment()
    async with httpx.AsyncClient(
        base_url=server.url,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        timeout=120,
    ) as client:
        load = Load(server, client, folders)
        # A batch that runs and one that waits for every worker, but no more than a single worker
        # has slots for, since all may meet the same one.
        clients = min(2 * workers * settings.max_batch, settings.max_pending)
        await load.closed(clients, seconds / 5)  # until batches are as they will be
        capacity = await load.watch("capacity", load.closed(clients, seconds), {"200"})
        capacity.clients, rate = clients, capacity.asked_per_second
        requests = load.open(_STEADY * rate, 60 * minutes)
        steady = await load.watch("steady", requests, {"200"}, _STEADY * rate)
        steady.minutes = minutes
        # How long it takes to work off all slots; what exceeds the capacity fills them as fast,
        # so that memory is as high as it gets in the last two thirds.
        slots = workers * settings.max_pending / rate
        requests = load.open(_OVERLOAD * rate, max(seconds, 3 * slots))
        overload = await load.watch("overload", requests, {"200", "429"}, _OVERLOAD * rate)
        if "429" not in overload.statuses:
            load.broken.append("overload: nothing was refused")
        if overload.latency_ms["max"] > 2000 * slots:  # twice, as refusing takes time too
            load.broken.append(f"overload: a request took {overload.latency_ms['max']} ms")
        await load.kill(_KILL * rate, seconds)
        await load.drain()
    return load


async def compare(
    server: Server, folders: Sequence[Path], workers: int, seconds: float
) -> dict[str, object]:
    """A worker's service time, by what all answer at most, and latencies at shares of that rate.

    What is expected has each worker a queue of its own, to which requests come at random.
    """
    async with httpx.AsyncClient(
        base_url=server.url, limits=httpx.Limits(max_keepalive_connections=0), timeout=120
    ) as client:
        load = Load(server, client, folders)
        clients = 4 * workers
        await load.closed(clients, seconds / 5)
        start = time.monotonic()
        done = len(await load.closed(clients, seconds))
        rate = done / (time.monotonic() - start)
        service = 1000 * workers / rate
        rows = []
        for share in _SHARES:
            name = f"{workers} workers at {share:.0%}"
            answers = await load.open(share * rate, seconds)
            found = load._phase(name, answers, {"200"}, share * rate)
            due = round(service * p99_in_services(share))
            rows.append({"share": share, "expected_p99_ms": due, **msgspec.to_builtins(found)})
    return {"workers": workers, "service_ms": round(service, 1), "loads": rows}


@click.command()
@click.option("--workers", type=click.IntRange(min=2), default=2, show_default=True)
@click.option("--minutes", default=10.0, show_default=True, help="At 80 % of the capacity.")
@click.option("--seconds", default=60.0, show_default=True, help="Of every other phase.")
@click.option("--person", type=click.Path(path_type=Path), default=sample_people()[0])
@click.option("--garment-owner", type=click.Path(path_type=Path), default=sample_people()[1])
@click.option("--queueing", is_flag=True, help="Compare with queueing arithmetic; nothing else.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    workers: int,
    minutes: float,
    seconds: float,
    person: Path,
    garment_owner: Path,
    queueing: bool,
    json_file: Path | None,
) -> None:
    """Start the server, put it under load, and say whether it kept its promises.

    The server's settings are those of the environment. The exit status is 1 where requests failed
    that should not have.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends with it
    machine = f"{processor()}, {os.cpu_count()} cores, {platform.platform()}"
    if queueing:
        found = []
        for count in (1, 2):
            with serving(count, {}) as server:
                found.append(asyncio.run(compare(server, (person, garment_owner), count, seconds)))
        if json_file:
            write_json(json_file, {"machine": machine, "seconds": seconds, "rows": found})
        return
    with serving(workers, {}) as server:
        load = asyncio.run(measure(server, (person, garment_owner), workers, minutes, seconds))
    if json_file:
        whole = {"workers": workers, "machine": machine, "broken": load.broken, **load.phases}
        write_json(json_file, whole)
    for line in load.broken:
        click.echo(f"BROKEN {line}", err=True)
    sys.exit(1 if load.broken else 0)


if __name__ == "__main__":
    main()
