"""Triton's Python backend beside the same pipeline called in a loop, on the CPU.

    python -m garment_transfer.benchmarks.triton [--seconds 60] [--json FILE]

Both run the shipped bundle on the same two photos without maps, from JPEG files' bytes to a PNG
file's, with as many threads. They take turns of a few seconds, so that whatever else the machine
does hits both. The client runs on the same cores as the server. On a busy machine processor time
per pair says more than throughput: it is counted too.

The server is that of the package `nvidia-pytriton` 0.7 (a wheel of 55 MB, with the Python backend
alone, which runs without a GPU). Its Python part, which wants an older NumPy, is not used.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import dataclasses
import functools
import importlib.util
import io
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import click
import cv2
import msgspec
import numpy as np
import psutil
import tritonclient.grpc as triton

from garment_transfer.benchmarks.measuring import environment, write_json
from garment_transfer.bundle import BackendError, Bundle, Code
from garment_transfer.export.triton import Serving, write_repository
from garment_transfer.runtime import Pipeline, read_request, sample_bundle, sample_people
from garment_transfer.runtime.photos import png_bytes

INSTALL: Final = "pip install --no-deps nvidia-pytriton==0.7.0"

_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_LIBRARY: Final = f"python{_PYTHON}"


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that answers: "host:port" of HTTP, gRPC and metrics, its process and its log."""

    http: str
    grpc: str
    metrics: str
    process: subprocess.Popen[bytes]
    log: Path

    def log_text(self) -> str:
        """What the server has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def why_not() -> str:
    """Why no server can be started here; empty where one can."""
    try:
        _installed()
    except BackendError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def serve(repository: Path, *options: str, start_s: float = 60) -> Iterator[Server]:
    """Runs a server over a model repository until the block ends; it is ready in the block.

    Models run in this Python and its environment.

    Raises:
        BackendError: it is not installed, or, with the server's log, does not load a model or
            takes longer than `start_s`.
    """
    package, stub = _installed()
    root = package / "tritonserver"
    # The stub looks up its interpreter's library and, by PATH, its environment.
    libraries = [_python_libraries(), str(package.parent / "nvidia_pytriton.libs")]
    programs = [str(Path(sys.executable).parent)]
    environment = dict(os.environ)
    for name, folders in (("LD_LIBRARY_PATH", libraries), ("PATH", programs)):
        environment[name] = ":".join(filter(None, [*folders, os.environ.get(name)]))
    with tempfile.TemporaryDirectory() as folder:
        backends, log = Path(folder, "backends"), Path(folder, "log")
        shutil.copytree(root / "backends" / "python", backends / "python")
        shutil.copy(stub, backends / "python")
        ports = dict(zip(("http", "grpc", "metrics"), _free_ports(3), strict=True))
        command = [
            str(root / "bin" / "tritonserver"),
            *("--model-repository", str(repository), "--backend-directory", str(backends)),
            *("--allow-gpu-metrics", "false", "--allow-cpu-metrics", "false"),
            "--disable-auto-complete-config",
        ]
        for name, port in ports.items():
            command += [f"--{name}-address", "127.0.0.1", f"--{name}-port", str(port)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *options], stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        server = Server(**addresses, process=process, log=log)
        try:
            _wait_until_ready(server, start_s)
            yield server
        finally:
            # it finishes what it has begun
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _installed() -> tuple[Path, Path]:
    """The package of the server, and the stub of its Python backend for this Python."""
    # Found, not imported: its modules need packages that are not installed.
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise BackendError(
            Code.BACKEND_UNAVAILABLE, "no Triton server is installed", fix=f"run `{INSTALL}`"
        )
    package = Path(spec.submodule_search_locations[0])
    stubs = package / "tritonserver" / "python_backend_stubs"
    stub = stubs / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file() or not (_python_libraries() or ctypes.util.find_library(_LIBRARY)):
        raise BackendError(
            Code.BACKEND_UNAVAILABLE,
            f"the Triton server's Python backend does not run in this Python {_PYTHON}",
            expected=f"one of {', '.join(sorted(path.name for path in stubs.glob('3.*')))} that "
            "was built with --enable-shared",
        )
    return package, stub


def _python_libraries() -> str:
    """The folder of this Python's shared library; empty where it has none of its own."""
    folder = sysconfig.get_config_var("LIBDIR") or ""
    return folder if Path(folder, f"lib{_LIBRARY}.so.1.0").exists() else ""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", 0)
        sockets = [stack.enter_context(socket.create_server(address)) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _wait_until_ready(server: Server, start_s: float) -> None:
    deadline = time.monotonic() + start_s
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise BackendError(
        Code.RUN_FAILED,
        f"the Triton server did not become ready; its log ends:\n{server.log_text()[-4000:]}",
    )


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="Measured time of either.")
@click.option("--turn", default=5.0, show_default=True, help="Seconds of one turn.")
@click.option("--concurrency", default=4, show_default=True, help="Requests under way at a time.")
@click.option("--threads", default=2, show_default=True, help="Threads of either.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    seconds: float, turn: float, concurrency: int, threads: int, json_file: Path | None
) -> None:
    """Throughput of Triton with one instance, its latency under load, the batches it forms."""
    cv2.setNumThreads(threads)
    pipeline = Pipeline.load(sample_bundle(), threads=threads)
    photos = {
        name: (folder / "image.jpg").read_bytes()
        for name, folder in zip(("person_image", "garment_image"), sample_people(), strict=True)
    }
    inputs = []
    for name, photo in photos.items():
        inputs.append(triton.InferInput(name, [1, len(photo)], "UINT8"))
        inputs[-1].set_data_from_numpy(np.frombuffer(photo, np.uint8)[None])

    def call() -> bytes:
        people = read_request(pipeline, {name: io.BytesIO(photo) for name, photo in photos.items()})
        return png_bytes(pipeline.transfer(*people).image)

    def infer(client: triton.InferenceServerClient) -> None:
        client.infer("garment_transfer", inputs).as_numpy("image")

    serving = Serving()
    turns = max(1, round(seconds / turn))
    times: dict[str, list[float]] = {"loop": [], "triton": []}
    rates: dict[str, list[float]] = {"loop": [], "triton": []}
    cpu = {"loop": 0.0, "server": 0.0, "client": 0.0}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_repository(Bundle.load(sample_bundle()), folder, serving=serving, threads=threads)
        server = stack.enter_context(serve(folder))
        clients = [
            stack.enter_context(triton.InferenceServerClient(server.grpc))
            for _ in range(concurrency)
        ]
        calls: dict[str, list[Callable[[], object]]] = {
            "loop": [call],
            "triton": [functools.partial(infer, client) for client in clients],
        }
        for name in calls:
            _repeat(calls[name], turn)  # untimed
        before = _batches(clients[0])
        for number in range(turns):
            # Who goes first alternates, so that drift favours neither.
            for name in sorted(calls, reverse=number % 2 == 0):
                start, own = time.perf_counter(), time.process_time()
                servers = _cpu_seconds(server.process.pid)
                milliseconds = _repeat(calls[name], turn)
                times[name] += milliseconds
                rates[name].append(len(milliseconds) / (time.perf_counter() - start))
                cpu["loop" if name == "loop" else "client"] += time.process_time() - own
                if name == "triton":
                    cpu["server"] += _cpu_seconds(server.process.pid) - servers
        after = _batches(clients[0])
        version = clients[0].get_server_metadata(as_json=True)["version"]
    new = {size: count - before.get(size, 0) for size, count in sorted(after.items())}
    ratios = [
        served / called for served, called in zip(rates["triton"], rates["loop"], strict=True)
    ]
    report = {
        "what": "one pair, JPEG files' bytes to a PNG file's, maps by the bundle",
        "threads": threads,
        "concurrency": concurrency,
        **dataclasses.asdict(serving),
        "turns": turns,
        "turn_seconds": turn,
        "pairs_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": statistics.median(ratios),
        "ratio_of_each_turn": ratios,
        "cpu_ms_per_pair": {
            name: 1000 * value / len(times["loop" if name == "loop" else "triton"])
            for name, value in cpu.items()
        },
        **{
            f"{name}_ms": {f"p{p}": float(np.percentile(values, p)) for p in (50, 90, 99)}
            for name, values in times.items()
        },
        "batches": {str(size): count for size, count in new.items() if count},
        "load_average": os.getloadavg()[0],
        "tritonserver": version,
        "environment": environment(),
    }
    click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    if json_file:
        write_json(json_file, report)


def _repeat(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Milliseconds of every call within some seconds, each of `calls` in a thread of its own."""
    deadline = time.perf_counter() + seconds

    def repeat(call: Callable[[], object]) -> list[float]:
        milliseconds = []
        while (start := time.perf_counter()) < deadline:
            call()
            milliseconds.append(1000 * (time.perf_counter() - start))
        return milliseconds

    with ThreadPoolExecutor(len(calls)) as pool:
        return [value for values in pool.map(repeat, calls) for value in values]


def _batches(client: triton.InferenceServerClient) -> dict[int, int]:
    """How many runs of each batch size the server has made."""
    answer = client.get_inference_statistics("garment_transfer", as_json=True)
    return {
        int(entry["batch_size"]): int(entry["compute_infer"].get("count", 0))
        for entry in answer["model_stats"][0].get("batch_stats", [])
    }


def _cpu_seconds(process: int) -> float:
    """The processor time that a process and its descendants have used."""
    root = psutil.Process(process)
    times = [one.cpu_times() for one in (root, *root.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


if __name__ == "__main__":
    main()
