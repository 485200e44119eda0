"""Puts the server under load: its capacity, 80 % of it, twice of it, a killed worker, the end.

    python examples/python_server/load.py --minutes 10 --json benchmarks/results/serve-cpu.json

starts the server by itself, on Linux, and says at the end whether it kept its promises.
"""

import asyncio
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import httpx
import onnxruntime
from PIL import Image
from server import Settings

from garment_transfer.benchmarks.measuring import processor
from garment_transfer.bundle import read_json, replacing
from garment_transfer.runtime import sample_people

# Shares of the capacity that the phases ask for. What remains when one of two workers is killed
# has to carry the load of that phase alone, while its replacement starts on the same cores.
_STEADY, _OVERLOAD, _KILL = 0.8, 2.0, 0.3

# Requests that are under way when a worker is killed, and when the server is asked to end.
_BURST = 4

_NO_ANSWER = "none"


class Server:
    """uvicorn with this folder's server, from `with` until its end; `log` has what it says."""

    def __init__(self, workers: int, settings: Settings) -> None:
        self._workers = workers
        self._settings = {
            f"GARMENT_TRANSFER_{name.upper()}": str(value)
            for name, value in asdict(settings).items()
        }

    def __enter__(self) -> "Server":
        self._folder = tempfile.TemporaryDirectory()
        self.log = Path(self._folder.name) / "log"
        metrics = Path(self._folder.name) / "metrics"
        metrics.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", "--factory", "server:create_app"),
                    *("--app-dir", str(Path(__file__).parent), "--port", str(port)),
                    *("--workers", str(self._workers), "--no-access-log"),
                ],
                env={
                    **os.environ,
                    **self._settings,
                    "PROMETHEUS_MULTIPROC_DIR": str(metrics),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.wait_for_starts(self._workers)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            for pid in (*self.workers(), self.process.pid):
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
        self._folder.cleanup()

    def starts(self) -> int:
        """How many workers have begun to serve so far."""
        return self.log.read_text(encoding="utf-8").count("Application startup complete")

    def wait_for_starts(self, count: int, seconds: float = 120) -> None:
        """Waits until so many workers have begun to serve; RuntimeError with the log if not."""
        end = time.monotonic() + seconds
        while self.starts() < count:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
            time.sleep(0.1)

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        if self._workers == 1:
            return [self.process.pid]
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [
            int(pid)
            for pid in children.read_text().split()
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def memory_mb(self) -> float:
        """Memory that the workers hold, their resident sets summed."""
        total = 0
        for pid in self.workers():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
        return total / 1024

    def metric(self, name: str) -> float:
        """One figure of /metrics, such as `garment_transfer_batch_size_sum`."""
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        return 0.0


@dataclass(frozen=True)
class Answer:
    """What one request came to."""

    sent: float  #: `time.monotonic`
    seconds: float  #: from when it was due, which is no later than when it was sent
    status: str  #: of HTTP, or "none" where the connection broke
    retry_after: bool  #: whether it says when to try again


@dataclass(frozen=True)
class Body:
    """A transfer as multipart, encoded once."""

    content: bytes
    content_type: str

    @classmethod
    def of(cls, person: Path, garment_owner: Path) -> "Body":
        """The request for two people's folders."""
        data: dict[str, str] = {}
        files: dict[str, tuple[str, bytes]] = {}
        for role, folder in (("person", person), ("garment", garment_owner)):
            meta = read_json(folder / "meta.json")
            data |= {
                f"{role}_label_set": meta["parse"],
                f"{role}_encoding": meta["densepose"],
            }
            for field, pattern in (
                ("image", "image.*"),
                ("parsing", "parse.png"),
                ("densepose", "densepose.*"),
            ):
                (path,) = folder.glob(pattern)
                files[f"{role}_{field}"] = (path.name, path.read_bytes())
        request = httpx.Request("POST", "http://server", data=data, files=files)
        return cls(request.read(), request.headers["Content-Type"])


class Client:
    """Sends transfers, each over a connection of its own, so that every worker gets its share."""

    def __init__(self, client: httpx.AsyncClient, body: Body) -> None:
        self._client = client
        self._body = body

    @classmethod
    @asynccontextmanager
    async def to(cls, server: Server, body: Body) -> AsyncIterator["Client"]:
        """A client of a server."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
            yield cls(client, body)

    async def send(self, due: float | None = None) -> Answer:
        """One request; `due` is when it should have been sent, by `time.monotonic`."""
        sent = time.monotonic()
        try:
            response = await self._client.post(
                "/transfer",
                content=self._body.content,
                headers={"Content-Type": self._body.content_type},
            )
        except httpx.TransportError:
            status, retry_after = _NO_ANSWER, False
        else:
            status, retry_after = str(response.status_code), "Retry-After" in response.headers
        return Answer(sent, time.monotonic() - (due or sent), status, retry_after)

    async def closed(self, clients: int, seconds: float) -> list[Answer]:
        """`clients` that each send the next request when the last one is answered."""
        end = time.monotonic() + seconds

        async def one() -> list[Answer]:
            answers = []
            while time.monotonic() < end:
                answers.append(await self.send())
            return answers

        return list(chain.from_iterable(await asyncio.gather(*(one() for _ in range(clients)))))

    async def open(self, rate: float, seconds: float, seed: int = 0) -> list[Answer]:
        """Requests at random times (Poisson), `rate` a second, whether answered or not."""
        rng = random.Random(seed)
        due = time.monotonic()
        end = due + seconds
        tasks = []
        while (due := due + rng.expovariate(rate)) < end:
            await asyncio.sleep(due - time.monotonic())
            tasks.append(asyncio.create_task(self.send(due)))
        return await asyncio.gather(*tasks)


def described(answers: list[Answer], seconds: float) -> dict[str, Any]:
    """Counts by status, and the latency of what was answered with a picture."""
    taken = sorted(answer.seconds for answer in answers if answer.status == "200")
    report: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "requests": len(answers),
        "statuses": dict(sorted(Counter(answer.status for answer in answers).items())),
    }
    if len(taken) > 1:
        percentiles = statistics.quantiles(taken, n=100, method="inclusive")
        report["latency_ms"] = {
            name: round(1000 * value)
            for name, value in (
                ("p50", percentiles[49]),
                ("p90", percentiles[89]),
                ("p99", percentiles[98]),
                ("max", taken[-1]),
            )
        }
    return report


@asynccontextmanager
async def watched(server: Server) -> AsyncIterator[dict[str, Any]]:
    """Memory and batches while the block runs, in the dictionary once it has ended."""
    memory: list[float] = []

    async def watch() -> None:
        while True:
            memory.append(server.memory_mb())
            await asyncio.sleep(1)

    def batches() -> tuple[float, float]:
        name = "garment_transfer_batch_size"
        return server.metric(f"{name}_sum"), server.metric(f"{name}_count")

    report: dict[str, Any] = {}
    pairs, runs = batches()
    task = asyncio.create_task(watch())
    try:
        yield report
    finally:
        task.cancel()
    # Thirds, since batches come and go; in the first, batches may still be getting larger.
    third = max(1, len(memory) // 3)
    report["memory_mb"] = {
        "first_third": round(statistics.median(memory[:third])),
        "middle_third": round(statistics.median(memory[third : 2 * third] or memory)),
        "last_third": round(statistics.median(memory[-third:])),
        "max": round(max(memory)),
    }
    more_pairs, more_runs = batches()
    report["mean_batch"] = round((more_pairs - pairs) / max(1, more_runs - runs), 2)


async def capacity(server: Server, body: Body, clients: int, seconds: float) -> dict[str, Any]:
    """How many transfers a second come back with the server kept busy."""
    async with Client.to(server, body) as client, watched(server) as watch:
        await client.closed(clients, seconds / 5)  # until batches are as they will be
        start = time.monotonic()
        answers = await client.closed(clients, seconds)
        took = time.monotonic() - start
    done = sum(answer.status == "200" for answer in answers)
    return {
        "clients": clients,
        "per_second": round(done / took, 2),
        **described(answers, took),
        **watch,
    }


async def open_load(server: Server, body: Body, rate: float, seconds: float) -> dict[str, Any]:
    """Requests at a rate that does not wait for answers."""
    async with Client.to(server, body) as client, watched(server) as watch:
        start = time.monotonic()
        answers = await client.open(rate, seconds)
        took = time.monotonic() - start
    refused = [answer for answer in answers if answer.status == "429"]
    return {
        "asked_per_second": round(rate, 2),
        **described(answers, took),
        "all_429_say_when": all(answer.retry_after for answer in refused),
        **watch,
    }


async def kill(server: Server, body: Body, rate: float, seconds: float) -> dict[str, Any]:
    """One of the workers is killed in the middle of a load."""
    starts = server.starts()
    async with Client.to(server, body) as client:
        load = asyncio.create_task(client.open(rate, seconds))
        await asyncio.sleep(seconds / 4)
        burst = [asyncio.create_task(client.send()) for _ in range(_BURST)]
        await asyncio.sleep(0.1)
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.to_thread(server.wait_for_starts, starts + 1)
        replaced = time.monotonic() - killed
        answers = [*await load, *await asyncio.gather(*burst)]
        after = await asyncio.gather(*(client.send() for _ in range(_BURST)))
    lost = [answer for answer in answers if answer.status == _NO_ANSWER]
    return {
        "asked_per_second": round(rate, 2),
        **described(answers, seconds),
        "under_way_when_killed": sum(a.sent <= killed < a.sent + a.seconds for a in answers),
        "lost_of_these": sum(answer.sent <= killed for answer in lost),
        "lost_later": sum(answer.sent > killed for answer in lost),
        "replaced_after_seconds": round(replaced, 1),
        "statuses_after": dict(Counter(answer.status for answer in after)),
        "other_workers_untouched": victim not in server.workers() and len(server.workers()) > 1,
    }


async def drain(server: Server, body: Body) -> dict[str, Any]:
    """SIGTERM while requests are under way."""
    async with Client.to(server, body) as client:
        tasks = [asyncio.create_task(client.send()) for _ in range(_BURST)]
        while server.metric("garment_transfer_pending") < _BURST:
            await asyncio.sleep(0.01)
            if all(task.done() for task in tasks):
                break
        server.process.terminate()
        start = time.monotonic()
        answers = await asyncio.gather(*tasks)
        await asyncio.to_thread(server.process.wait, 60)
    return {
        "statuses": dict(Counter(answer.status for answer in answers)),
        "ended_after_seconds": round(time.monotonic() - start, 1),
    }


def broken_promises(report: Mapping[str, Any]) -> Iterator[str]:
    """What the report shows that must not be."""
    for phase, allowed in (
        ("capacity", {"200"}),
        ("steady", {"200"}),
        ("overload", {"200", "429"}),
    ):
        if not set(report[phase]["statuses"]) <= allowed:
            yield f"{phase}: statuses {report[phase]['statuses']}"
    overload, killed = report["overload"], report["kill"]
    if not overload["statuses"].get("429") or not overload["all_429_say_when"]:
        yield "overload: no 429, or one without Retry-After"
    if overload["latency_ms"]["max"] > overload["latency_bound_ms"]:
        yield f"overload: a request took {overload['latency_ms']['max']} ms"
    for phase in ("steady", "overload"):
        memory = report[phase]["memory_mb"]
        if memory["last_third"] > 1.1 * memory["middle_third"]:
            yield f"{phase}: memory grew from {memory['middle_third']} to {memory['last_third']} MB"
    if killed["lost_later"] or not set(killed["statuses"]) <= {"200", _NO_ANSWER}:
        yield f"kill: more was lost than what the worker had: {killed['statuses']}"
    if set(killed["statuses_after"]) != {"200"} or not killed["other_workers_untouched"]:
        yield f"kill: the worker was not replaced: {killed['statuses_after']}"
    if set(report["drain"]["statuses"]) != {"200"}:
        yield f"drain: statuses {report['drain']['statuses']}"


async def measure(
    server: Server,
    body: Body,
    workers: int,
    settings: Settings,
    minutes: float,
    short_seconds: float,
) -> dict[str, Any]:
    """All phases in a row; each but the steady one takes `short_seconds`."""
    report: dict[str, Any] = {}

    def done(phase: str, result: dict[str, Any]) -> None:
        report[phase] = result
        click.echo(f"{phase}: {json.dumps(result)}")

    # A batch that runs and one that waits for every worker, but no more than a single worker has
    # slots for, since all may meet the same one.
    clients = min(2 * workers * settings.max_batch, settings.max_pending)
    done("capacity", await capacity(server, body, clients, short_seconds))
    rate = report["capacity"]["per_second"]
    steady = await open_load(server, body, _STEADY * rate, 60 * minutes)
    done("steady", {"minutes": minutes, **steady})
    # How long it takes to work off all slots; what exceeds the capacity fills them as fast, so
    # that memory is as high as it gets in the last two thirds.
    slots_seconds = workers * settings.max_pending / rate
    overload = await open_load(
        server, body, _OVERLOAD * rate, max(short_seconds, 3 * slots_seconds)
    )
    bound = round(2 * 1000 * slots_seconds)  # twice, as refusing takes time too
    done("overload", {**overload, "latency_bound_ms": bound})
    done("kill", await kill(server, body, _KILL * rate, short_seconds))
    done("drain", await drain(server, body))
    return report


@click.command()
@click.option("--workers", type=click.IntRange(min=2), default=2, show_default=True)
@click.option("--minutes", default=10.0, show_default=True, help="At 80 % of the capacity.")
@click.option("--seconds", default=60.0, show_default=True, help="Of every other phase.")
@click.option("--person", type=click.Path(path_type=Path), help="Default: the sample person.")
@click.option("--garment-owner", type=click.Path(path_type=Path), help="Default: the sample's.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    workers: int,
    minutes: float,
    seconds: float,
    person: Path | None,
    garment_owner: Path | None,
    json_file: Path | None,
) -> None:
    """Start the server, put it under load, and say whether it kept its promises.

    The server's settings are those of the environment. The exit status is 1 where requests failed
    that should not have.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends with it
    settings = Settings.from_environment()
    folders = person or sample_people()[0], garment_owner or sample_people()[1]
    body = Body.of(*folders)
    with Server(workers, settings) as server:
        report = asyncio.run(measure(server, body, workers, settings, minutes, seconds))
    broken = list(broken_promises(report))
    if json_file:
        photos = []
        for folder in folders:
            (path,) = folder.glob("image.*")
            with Image.open(path) as image:
                photos.append(f"{image.height}x{image.width}")
        whole = {
            "what": "transfers over HTTP, client and server on one machine",
            "photos": photos,
            "request_kb": round(len(body.content) / 1000),
            "workers": workers,
            "settings": asdict(settings),
            **report,
            "broken_promises": broken,
            "machine": {
                "processor": processor(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "onnxruntime": onnxruntime.__version__,
            },
        }
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    for line in broken:
        click.echo(f"BROKEN {line}", err=True)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
