"""The C++ server example under wrk, beside the library alone.

    python -m garment_transfer.benchmarks.cpp_server --server FILE --library FILE
        [--seconds 30] [--connections 1,4,16] [--workers N] [--json FILE]

--server is the built example garment_transfer_server, --library the built program
tests/latency, which tells how many transfers as many sessions reach without a server around them.
"""

import json
import os
import signal
import subprocess
import tempfile
from io import BytesIO
from pathlib import Path

import click

from garment_transfer.benchmarks.cpp import Inputs, Latency
from garment_transfer.benchmarks.measuring import processor
from garment_transfer.bundle import replacing
from garment_transfer.runtime import sample_bundle

# Prints what wrk counted as JSON; latencies are microseconds.
_SCRIPT = """
wrk.method = "POST"
wrk.path = "/transfer"
wrk.headers["Content-Type"] = "TYPE"
local file = io.open("FILE", "rb")
wrk.body = file:read("*all")
file:close()
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nJSON {"requests": %d, "per_second": %f, "p50_ms": %f, "p99_ms": %f, "lost": %d}\\n',
    summary.requests, summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def sample_parts(inputs: Inputs) -> dict[str, bytes]:
    """The sample pair at the bundle's size as the fields of a request."""
    from PIL import Image

    parts = {}
    for name, array in inputs.items():
        file = BytesIO()
        Image.fromarray(array[0]).save(file, "png")
        parts[name] = file.getvalue()
    return {**parts, "person_label_set": b"classes7", "garment_label_set": b"classes7"}


def wrk(url: str, parts: dict[str, bytes], connections: int, seconds: int) -> dict[str, float]:
    """What wrk counts."""
    import httpx

    request = httpx.Request("POST", url, files=parts)
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        body.write_bytes(request.read())
        script = Path(folder) / "post.lua"
        text = _SCRIPT.replace("TYPE", request.headers["Content-Type"]).replace("FILE", str(body))
        script.write_text(text)
        ran = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "--latency",
             "-s", str(script), url],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    line = next(line for line in ran.stdout.splitlines() if line.startswith("JSON "))
    counted: dict[str, float] = json.loads(line[5:])
    return counted


@click.command()
@click.option("--server", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--library", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--seconds", default=30, show_default=True, help="Time of each measurement.")
@click.option("--connections", default="1,4,16", show_default=True, help="Of wrk, one run each.")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True, help="Sessions.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    server: Path,
    library: Path,
    seconds: int,
    connections: str,
    workers: int,
    json_file: Path | None,
) -> None:
    """Throughput and latency of the server."""
    latency = Latency(library, threads=1)
    parts = sample_parts(latency.inputs)
    command = [server, sample_bundle(), "--port", 0, "--workers", workers]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().split()[0]
    rows = []
    for count in map(int, connections.split(",")):
        # The library before and after, so that drift of the machine shows and evens out.
        ask = f"throughput {min(count, workers)} {seconds / 3}"
        alone = [latency.ask(ask)]
        measured = wrk(url, parts, count, seconds)
        alone.append(latency.ask(ask))
        share = measured["per_second"] / (sum(alone) / len(alone))
        row = {"connections": count, **measured, "library_alone_per_second": alone}
        rows.append({**row, "share_of_library": share})
        click.echo(
            f"{count:3} connections: {measured['per_second']:6.1f}/s, p99 "
            f"{measured['p99_ms']:7.1f} ms, {measured['lost']:g} lost; library {alone[0]:.1f} and "
            f"{alone[1]:.1f}/s"
        )
    latency.close()
    process.send_signal(signal.SIGTERM)
    if code := process.wait(60):
        raise click.ClickException(f"the server ended with code {code}")
    report = {
        "what": "garment_transfer_server under wrk, photos at the bundle's size; the library alone "
        "as many sessions at once",
        "workers": workers,
        "rows": rows,
        "machine": {"processor": processor(), "cores": os.cpu_count()},
    }
    if json_file:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
