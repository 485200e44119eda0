"""Triton's Python backend beside the same pipeline called in a loop, on the CPU.

    python -m garment_transfer.benchmarks.triton [--seconds 60] [--json FILE]

Both run the shipped bundle on the same pair, from uint8 arrays to uint8 arrays at the bundle's
size, with as many threads. They take turns of a few seconds, so that whatever else the machine
does hits both. The client runs on the same cores as the server, and takes every output. On a busy
machine processor time per pair says more than throughput: it is counted too.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click

from garment_transfer.benchmarks.measuring import processor


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
    import onnxruntime
    import tritonclient.grpc as triton

    from garment_transfer.benchmarks.triton_server import serve
    from garment_transfer.bundle import Bundle, replacing
    from garment_transfer.export.triton import Serving, write_repository
    from garment_transfer.runtime import (
        Person,
        Pipeline,
        sample_bundle,
        sample_people,
        stage_inputs,
    )

    pipeline = Pipeline.load(sample_bundle(), threads=threads)
    person, owner = (Person.load(folder) for folder in sample_people())
    arrays = {k: v[None] for k, v in stage_inputs(person, owner, pipeline.size).items()}
    serving = Serving()
    loop_ms: list[list[float]] = []
    triton_ms: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_repository(
            Bundle.load(sample_bundle()), Path(folder), serving=serving, threads=threads
        )
        with serve(Path(folder)) as server:
            inputs = []
            for name, array in arrays.items():
                inputs.append(triton.InferInput(name, list(array.shape), "UINT8"))
                inputs[-1].set_data_from_numpy(array)

            def client(deadline: float, milliseconds: list[float]) -> None:
                with triton.InferenceServerClient(server.grpc) as connection:
                    while time.perf_counter() < deadline:
                        start = time.perf_counter()
                        connection.infer("garment_transfer", inputs).as_numpy("image")
                        milliseconds.append(1000 * (time.perf_counter() - start))

            def load() -> list[float]:
                milliseconds: list[float] = []
                deadline = time.perf_counter() + turn
                clients = [
                    threading.Thread(target=client, args=(deadline, milliseconds))
                    for _ in range(concurrency)
                ]
                for one in clients:
                    one.start()
                for one in clients:
                    one.join()
                return milliseconds

            def loop() -> list[float]:
                milliseconds = []
                deadline = time.perf_counter() + turn
                while time.perf_counter() < deadline:
                    start = time.perf_counter()
                    pipeline.run(arrays)
                    milliseconds.append(1000 * (time.perf_counter() - start))
                return milliseconds

            rates: dict[str, list[float]] = {"loop": [], "triton": []}
            cpu = {"loop": 0.0, "server": 0.0, "client": 0.0}
            turns = max(1, round(seconds / turn))
            with triton.InferenceServerClient(server.grpc) as connection:
                load(), loop()  # untimed
                before = _batches(connection)
                # Who goes first alternates, so that drift favours neither.
                for number in range(turns):
                    sides: list[tuple[str, Any, list[list[float]]]] = [
                        ("loop", loop, loop_ms),
                        ("triton", load, triton_ms),
                    ]
                    for name, run, times in sides if number % 2 else reversed(sides):
                        start, own = time.perf_counter(), time.process_time()
                        servers = _cpu_seconds(server.process.pid)
                        times.append(run())
                        rates[name].append(len(times[-1]) / (time.perf_counter() - start))
                        cpu["loop" if name == "loop" else "client"] += time.process_time() - own
                        if name == "triton":
                            cpu["server"] += _cpu_seconds(server.process.pid) - servers
                after = _batches(connection)
                version = connection.get_server_metadata(as_json=True)["version"]
    batches = {
        str(size): count - before.get(size, 0)
        for size, count in sorted(after.items())
        if count > before.get(size, 0)
    }
    ratios = [
        served / called for served, called in zip(rates["triton"], rates["loop"], strict=True)
    ]
    report = {
        "what": "one pair, uint8 arrays to uint8 arrays at the bundle's size, three stages",
        "size": [pipeline.size.height, pipeline.size.width],
        "threads": threads,
        "concurrency": concurrency,
        "instances": serving.instances,
        "max_batch": serving.max_batch,
        "max_delay_ms": serving.max_delay_ms,
        "turns": turns,
        "turn_seconds": turn,
        "pairs_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": statistics.median(ratios),
        "ratio_of_each_turn": ratios,
        "cpu_ms_per_pair": {
            name: 1000 * value / sum(map(len, loop_ms if name == "loop" else triton_ms))
            for name, value in cpu.items()
        },
        "loop_ms": _percentiles(loop_ms),
        "triton_ms": _percentiles(triton_ms),
        "batches": batches,
        "machine": {
            "processor": processor(),
            "load_average": os.getloadavg()[0],
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "tritonserver": version,
            "tritonclient": importlib.metadata.version("tritonclient"),
        },
    }
    for name, values in rates.items():
        click.echo(f"{name:<8} {statistics.median(values):6.2f} pairs/s")
    click.echo(f"Triton reaches {report['ratio']:.0%} of the loop; batches {batches}")
    click.echo(f"latency under load, ms: {report['triton_ms']}")
    click.echo(f"processor time per pair, ms: {report['cpu_ms_per_pair']}")
    if json_file:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _batches(connection: Any) -> dict[int, int]:
    """How many runs of each batch size the server has made."""
    statistics_ = connection.get_inference_statistics("garment_transfer", as_json=True)
    return {
        int(entry["batch_size"]): int(entry["compute_infer"].get("count", 0))
        for entry in statistics_["model_stats"][0].get("batch_stats", [])
    }


def _cpu_seconds(process: int) -> float:
    """The processor time that a process and its descendants have used (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = {
        int(child)
        for file in Path(f"/proc/{process}/task").glob("*/children")
        for child in file.read_text().split()
    }
    return own + sum(map(_cpu_seconds, children))


def _percentiles(turns: list[list[float]]) -> dict[str, float]:
    values = statistics.quantiles([value for turn in turns for value in turn], n=100)
    return {"p50": values[49], "p90": values[89], "p99": values[98]}


if __name__ == "__main__":
    main()
