"""A real `tritonserver` on this machine, for the tests and the benchmark of Triton.

The server is that of the package `nvidia-pytriton` 0.7 (a wheel of 55 MB, with the Python backend
alone, which runs without a GPU):

    pip install --no-deps nvidia-pytriton==0.7.0

`--no-deps`, because its Python part, which is not used here, wants an older NumPy.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from garment_transfer.bundle import GarmentTransferError

INSTALL: Final = "pip install --no-deps nvidia-pytriton==0.7.0"


class ServerError(GarmentTransferError):
    """A Triton server that is not installed or does not start."""


@dataclass(frozen=True)
class Server:
    """A server that answers: "host:port" of HTTP, gRPC and metrics, its process and its log."""

    http: str
    grpc: str
    metrics: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def log_text(self) -> str:
        """What the server has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, timeout_s: float = 40) -> int:
        """Asks the server to finish what it has begun and to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def why_not() -> str:
    """Why no server can be started here; empty where one can."""
    try:
        _installed()
    except ServerError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def serve(repository: Path, *options: str, start_s: float = 60) -> Iterator[Server]:
    """Runs a server over a model repository until the block ends; it is ready in the block.

    Models run in this Python and its environment. Raises ServerError, with the server's log, when
    it is not installed, does not load a model, or takes longer than `start_s`.
    """
    binary, backend, stub, libraries = _installed()
    with tempfile.TemporaryDirectory() as folder:
        backends = Path(folder, "backends")
        shutil.copytree(backend, backends / "python")
        shutil.copy(stub, backends / "python")
        http, grpc, metrics = _free_ports(3)
        environment = dict(os.environ)
        # The stub looks up its interpreter's library and, by PATH, its environment.
        environment["LD_LIBRARY_PATH"] = ":".join(
            filter(None, [_python_libraries(), str(libraries), os.environ.get("LD_LIBRARY_PATH")])
        )
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    str(binary),
                    *("--model-repository", str(repository)),
                    *("--backend-directory", str(backends)),
                    "--disable-auto-complete-config",
                    *("--http-address", "127.0.0.1", "--http-port", str(http)),
                    *("--grpc-address", "127.0.0.1", "--grpc-port", str(grpc)),
                    *("--metrics-address", "127.0.0.1", "--metrics-port", str(metrics)),
                    *("--allow-gpu-metrics", "false", "--allow-cpu-metrics", "false"),
                    *options,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        server = Server(
            http=f"127.0.0.1:{http}",
            grpc=f"127.0.0.1:{grpc}",
            metrics=f"127.0.0.1:{metrics}",
            process=process,
            log=log,
        )
        try:
            _wait_until_ready(server, start_s)
            yield server
        finally:
            if process.poll() is None:
                try:
                    server.stop()
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _installed() -> tuple[Path, Path, Path, Path]:
    """The server's binary, its Python backend, that backend's stub, and their libraries."""
    # Found, not imported: its modules need packages that are not installed.
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(f"no Triton server is installed; run `{INSTALL}`")
    package = Path(spec.submodule_search_locations[0])
    root = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        have = sorted(path.name for path in stub.parents[1].glob("3.*"))
        raise ServerError(
            f"the installed Triton server has no Python backend for Python {version}, only for "
            f"{', '.join(have)}; run one of these"
        )
    library = f"libpython{version}.so.1.0"
    if not _python_libraries() and not any(
        Path(place, library).exists() for place in ("/lib/x86_64-linux-gnu", "/usr/lib64")
    ):
        raise ServerError(
            f"Triton's Python backend needs {library}, and this Python has none; run a Python "
            "that was built with --enable-shared"
        )
    return (
        root / "bin" / "tritonserver",
        root / "backends" / "python",
        stub,
        package.parent / "nvidia_pytriton.libs",
    )


def _python_libraries() -> str:
    """The folder of this Python's shared library; empty where it has none of its own."""
    folder = sysconfig.get_config_var("LIBDIR") or ""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return folder if Path(folder, f"libpython{version}.so.1.0").exists() else ""


def _free_ports(count: int) -> Sequence[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_until_ready(server: Server, start_s: float) -> None:
    deadline = time.monotonic() + start_s
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise ServerError(
        f"the Triton server did not become ready; its log ends:\n{server.log_text()[-4000:]}"
    )
