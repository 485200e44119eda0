"""The C++ library beside Python on ONNX Runtime, in one run: a transfer, its overhead, loading.

    python -m garment_transfer.benchmarks.cpp BUILD [--threads 1] [--rounds 100] [--json FILE]

BUILD is where the library was built with its tests. The programs are asked in turn, so that
whatever else the machine does hits all alike.
"""

import json
import platform
import runpy
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from garment_transfer.benchmarks.measuring import medians, processor
from garment_transfer.bundle import replacing
from garment_transfer.kernels import onnxruntime_library
from garment_transfer.runtime import (
    Person,
    Pipeline,
    sample_bundle,
    sample_people,
    stage_inputs,
)

#: A batch of one pair as `Pipeline.run` takes it.
Inputs = dict[str, npt.NDArray[np.uint8]]

#: What tests/cpp/latency.cpp can be asked for.
PARTS = ("library", "networks", "load")


class Latency:
    """The program `latency` on the sample pair at the bundle's size, or on another bundle's."""

    def __init__(self, program: Path, threads: int, bundle: Path | None = None) -> None:
        kernel = onnxruntime_library()
        if kernel is None:
            raise click.ClickException("FlowWarp's kernel is not built: see CONTRIBUTING.md")
        bundle = bundle or sample_bundle()
        self.pipeline = Pipeline.load(bundle, threads=threads)
        self.inputs = sample_inputs(self.pipeline)
        with tempfile.TemporaryDirectory() as folder:
            for name, array in {**self.inputs, **self.pipeline.run(self.inputs)}.items():
                (Path(folder) / name).write_bytes(array.tobytes())
            command = [program, bundle, folder, str(threads), kernel]
            self._process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self.ask("library")  # it has read the folder by then

    def ask(self, words: str) -> float:
        """Its answer: milliseconds, or runs per second for "throughput WORKERS SECONDS"."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(words + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise click.ClickException(f"latency ended with code {process.wait()}")
        return float(answer)

    def close(self) -> None:
        """Ends the program."""
        self._process.communicate()


def sample_inputs(pipeline: Pipeline) -> Inputs:
    """The sample pair at the bundle's size."""
    person, owner = (Person.load(folder) for folder in sample_people())
    return {k: v[None].copy() for k, v in stage_inputs(person, owner, pipeline.size).items()}


def overhead(program: Path) -> float:
    """Milliseconds of `library` above `networks`: the median of the differences of 1000 pairs.

    On the tests' bundle of 64x32, whose graphs do next to nothing; with pixels close together the
    library does nothing that grows with their number.
    """
    with tempfile.TemporaryDirectory() as folder:
        tests = Path(__file__).parents[1] / "tests/conftest.py"  # from a checkout
        bundle = runpy.run_path(str(tests))["write_tiny_bundle"](Path(folder))
        latency = Latency(program, 1, bundle)
        differences = [latency.ask("library") - latency.ask("networks") for _ in range(1000)]
        latency.close()
    return statistics.median(differences)


@click.command()
@click.argument("build", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--threads", default=1, show_default=True, help="Threads of each graph.")
@click.option("--rounds", default=100, show_default=True, help="Timed rounds, after 5 untimed.")
@click.option("--cycles", default=1000, show_default=True, help="Loads for the memory's growth.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(build: Path, threads: int, rounds: int, cycles: int, json_file: Path | None) -> None:
    """Median times of a transfer in C++ and in Python, of the bare networks, and of loading."""
    import onnxruntime

    latency = Latency(build / "tests/latency", threads)
    timed: dict[str, list[float]] = {"python": [], **{part: [] for part in PARTS}}
    for turn in range(rounds + 5):
        # each after an untimed call of itself, which `latency` makes too
        latency.pipeline.run(latency.inputs)
        start = time.perf_counter()
        latency.pipeline.run(latency.inputs)
        took = {"python": 1000 * (time.perf_counter() - start)}
        took |= {part: latency.ask(part) for part in PARTS}
        if turn >= 5:
            for name, value in took.items():
                timed[name].append(value)
    latency.close()
    median = medians(timed)
    memory = json.loads(
        subprocess.run(
            [build / "tests/cycles", sample_bundle(), str(cycles)],
            check=True,
            capture_output=True,
        ).stdout
    )
    (library,) = build.glob("lib/libgarment_transfer.so.*.*.*")
    report = {
        "what": "one pair at the bundle's size, uint8 arrays to uint8 arrays, ONNX Runtime on the "
        "CPU; library: gt_session_run, networks: bare sessions, load: gt_pipeline_load; "
        "overhead: library above networks where the graphs do next to nothing",
        "threads": threads,
        "rounds": rounds,
        "median_ms": median,
        "p10_ms": {name: statistics.quantiles(v, n=10)[0] for name, v in timed.items()},
        "p90_ms": {name: statistics.quantiles(v, n=10)[-1] for name, v in timed.items()},
        "overhead_ms": overhead(build / "tests/latency"),
        "library_bytes": library.stat().st_size,
        "memory": memory,
        "machine": {
            "processor": processor(),
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
        },
    }
    for name, value in median.items():
        click.echo(f"{name:<12} {value:8.2f} ms")
    click.echo(f"overhead above the networks {report['overhead_ms']:.3f} ms")
    click.echo(f"library {report['library_bytes']} bytes; {memory}")
    if json_file:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
