"""The C++ server example under wrk, with bad requests mixed in, beside the library alone.

    python -m garment_transfer.benchmarks.cpp_server --server FILE --library FILE
        [--seconds 30] [--connections 1,4,16] [--workers N] [--json FILE]

--server is the built example garment_transfer_server, --library the built program
tests/latency, which tells how many transfers as many sessions reach without a server around them.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import click

from garment_transfer.benchmarks.cpp import Latency
from garment_transfer.benchmarks.measuring import processor

# Prints what wrk counted as JSON; latencies are microseconds.
_SCRIPT = """
wrk.method = "POST"
wrk.path = "/transfer"
wrk.headers["Content-Type"] = "multipart/form-data; boundary=BOUNDARY"
local file = io.open("FILE", "rb")
wrk.body = file:read("*all")
file:close()
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nJSON {"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "connect": %d, ' ..
    '"read": %d, "write": %d, "status": %d, "timeout": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.connect, e.read, e.write, e.status, e.timeout))
end
"""

_BOUNDARY = "gt-boundary"


def form(parts: dict[str, bytes]) -> bytes:
    """A multipart body."""
    body = b"".join(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        "\r\n".encode()
        + content
        + b"\r\n"
        for name, content in parts.items()
    )
    return body + f"--{_BOUNDARY}--\r\n".encode()


def request(body: bytes, length: int | None = None, kind: str = "") -> bytes:
    """A whole HTTP request, whose stated length may be a lie."""
    kind = kind or f"multipart/form-data; boundary={_BOUNDARY}"
    head = (
        "POST /transfer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def bad_requests(parts: dict[str, bytes]) -> dict[str, tuple[bytes, tuple[int, ...]]]:
    """By name: what is sent, and the status codes that refuse it."""
    body = form(parts)
    return {
        "truncated multipart": (request(body[: len(body) // 2]), (400,)),
        "wrong type": (request(b"{}", kind="application/json"), (415,)),
        "not an image": (request(form({**parts, "person_photo": b"none"})), (400,)),
        "broken image": (
            request(form({**parts, "garment_parse": parts["garment_parse"][:60]})),
            (400,),
        ),
        "oversized": (request(form({**parts, "person_photo": bytes(2 << 20)})), (413,)),
        "no request": (b"\x00\xff\r\n\r\n", (400,)),
    }


def send(address: tuple[str, int], content: bytes) -> int:
    """The status code of the answer to raw bytes; 0 where there is none."""
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(content)
        words = connection.recv(65536).split(b" ", 2)
    return int(words[1]) if len(words) > 1 else 0


@contextmanager
def misbehaving(address: tuple[str, int], parts: dict[str, bytes]) -> Iterator[dict[str, int]]:
    """Sends bad requests, and bytes as slowly as they are taken, until the block ends."""
    ending = threading.Event()
    counts = {"bad_requests": 0, "bad_requests_refused": 0, "slow_clients": 0}

    def bad() -> None:
        for content, due in itertools.cycle(bad_requests(parts).values()):
            try:
                code = send(address, content)
            except OSError:
                code = 0
            counts["bad_requests"] += 1
            counts["bad_requests_refused"] += code in due
            if ending.wait(0.25):
                return

    def slow() -> None:
        while not ending.is_set():
            counts["slow_clients"] += 1
            try:
                with socket.create_connection(address, timeout=60) as connection:
                    for byte in request(b"", 100):
                        connection.sendall(bytes([byte]))
                        if ending.wait(0.1):
                            return
            except OSError:
                continue

    threads = [threading.Thread(target=bad), threading.Thread(target=slow)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def sample_parts(inputs: dict[str, Any]) -> dict[str, bytes]:
    """The sample pair at the bundle's size as PNG files."""
    from PIL import Image

    parts = {}
    for role in ("person", "garment"):
        for field, name in (("photo", "image"), ("parse", "parsing"), ("densepose", "densepose")):
            file = BytesIO()
            Image.fromarray(inputs[f"{role}_{name}"][0]).save(file, "png")
            parts[f"{role}_{field}"] = file.getvalue()
    return parts


def own_size_parts() -> dict[str, bytes]:
    """The sample pair's own files."""
    from garment_transfer.runtime import sample_people

    return {
        f"{role}_{field}": next(folder.glob(f"{stem}.*")).read_bytes()
        for role, folder in zip(("person", "garment"), sample_people(), strict=True)
        for field, stem in (("photo", "image"), ("parse", "parse"), ("densepose", "densepose"))
    }


@click.command()
@click.option("--server", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--library", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--seconds", default=30, show_default=True, help="Time of each measurement.")
@click.option("--connections", default="1,4,16", show_default=True, help="Of wrk, one run each.")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True, help="Sessions.")
@click.option("--own-size", is_flag=True, help="Photos as they are, not at the bundle's size.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    server: Path,
    library: Path,
    seconds: int,
    connections: str,
    workers: int,
    own_size: bool,
    json_file: Path | None,
) -> None:
    """Throughput and latency of the server, and what became of bad requests."""
    from garment_transfer.bundle import replacing
    from garment_transfer.runtime import sample_bundle

    latency = Latency(library, threads=1)
    parts = own_size_parts() if own_size else sample_parts(latency.inputs)
    command = [server, sample_bundle(), "--port", 0, "--workers", workers, "--max-body-mb", 2]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().split()[0]
    host, port = url.removeprefix("http://").split(":")
    rows = []
    for count in map(int, connections.split(",")):
        # The library before and after, so that drift of the machine shows and evens out.
        at_once = min(count, workers)
        alone = [latency.ask(f"throughput {at_once} {seconds / 3}")]
        with misbehaving((host, int(port)), parts) as bad:
            measured = wrk(url, parts, count, seconds)
        alone.append(latency.ask(f"throughput {at_once} {seconds / 3}"))
        lost = sum(measured.pop(kind) for kind in ("connect", "read", "write", "status", "timeout"))
        per_second = measured["requests"] / measured["seconds"]
        row = {
            "connections": count,
            **measured,
            "lost": lost,
            "per_second": per_second,
            "library_alone_per_second": alone,
            "share_of_library": per_second / (sum(alone) / len(alone)),
            **bad,
        }
        rows.append(row)
        click.echo(
            f"{count:3} connections: {per_second:6.1f}/s, p99 {row['p99_ms']:7.1f} ms, {lost} lost;"
            f" library {alone[0]:.1f} and {alone[1]:.1f}/s; {bad['bad_requests_refused']} of "
            f"{bad['bad_requests']} bad requests refused"
        )
    latency.close()
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    if code:
        raise click.ClickException(f"the server ended with code {code}")
    report = {
        "what": "garment_transfer_server under wrk with bad requests and a slow client beside it; "
        "the library alone as many sessions at once",
        "photos": "768x1024" if own_size else "at the bundle's size",
        "workers": workers,
        "rows": rows,
        "machine": {"processor": processor(), "cores": os.cpu_count()},
    }
    if json_file:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def wrk(url: str, parts: dict[str, bytes], connections: int, seconds: int) -> dict[str, Any]:
    """What wrk counts of good requests."""
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        body.write_bytes(form(parts))
        script = Path(folder) / "post.lua"
        script.write_text(_SCRIPT.replace("BOUNDARY", _BOUNDARY).replace("FILE", str(body)))
        ran = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "--latency",
             "-s", str(script), url],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    line = next(line for line in ran.stdout.splitlines() if line.startswith("JSON "))
    counted: dict[str, Any] = json.loads(line[5:])
    return counted


if __name__ == "__main__":
    main()
