"""The C++ library beside bare ONNX Runtime sessions: a transfer, its overhead, loading.

    python -m garment_transfer.benchmarks.cpp BUILD [--threads 1] [--rounds 100] [--json FILE]

BUILD is where the library was built with its tests.
"""

import subprocess
import tempfile
from pathlib import Path

import click
import cv2
import msgspec

from garment_transfer.benchmarks.measuring import environment, interleaved, medians, write_json
from garment_transfer.kernels import onnxruntime_library
from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people, stage_inputs


def latency(build: Path, threads: int, rounds: int) -> dict[str, float]:
    """What tests/cpp/latency.cpp measures on the sample pair, in milliseconds.

    "photo_python" is what its "photo" is, in Python.
    """
    kernel = onnxruntime_library()
    if kernel is None:
        raise click.ClickException("FlowWarp's kernel is not built: see CONTRIBUTING.md")
    pipeline = Pipeline.load(sample_bundle(), threads=threads)
    person, owner = map(Person.load, sample_people())
    fitted = stage_inputs(person, owner, pipeline.size)
    inputs = {name: array[None].copy() for name, array in fitted.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name, array in {**inputs, **pipeline.run(inputs)}.items():
            (Path(folder) / name).write_bytes(array.tobytes())
        maps = [(each.image, each.parsing, each.densepose) for each in (person, owner)]
        for role, arrays in zip(("person", "garment"), maps, strict=True):
            for name, array in zip(("image", "parsing", "densepose"), arrays, strict=True):
                (Path(folder) / f"photo_{role}_{name}").write_bytes(array.tobytes())
        cv2.setNumThreads(threads)

        def photo() -> bytes:
            return pipeline.transfer(*(Person.from_arrays(*each) for each in maps)).image.tobytes()

        (Path(folder) / "photo").write_bytes(photo())
        program = build / "tests/latency"
        size = person.image.shape[:2]
        command = (program, sample_bundle(), folder, threads, kernel, rounds, *size)
        text = subprocess.check_output(list(map(str, command)))
        times = msgspec.json.decode(text, type=dict[str, float])
        return {**times, **medians(interleaved({"photo_python": photo}, rounds, warm_up=1))}


@click.command()
@click.argument("build", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--threads", default=1, show_default=True, help="Threads of each graph.")
@click.option("--rounds", default=100, show_default=True, help="Timed rounds.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(build: Path, threads: int, rounds: int, json_file: Path | None) -> None:
    """Median times of a transfer in C++, of the bare networks, and of loading."""
    report = {
        "what": "one pair at the bundle's size, uint8 arrays to uint8 arrays, ONNX Runtime on the "
        "CPU; library: gt_session_run, of which parsing, warping and regrowth are the graphs, "
        "networks: bare sessions, load: gt_pipeline_load; photo: "
        "two gt_person_create and gt_session_transfer on the sample pair's photos and maps, and "
        "photo_python Python's Person.from_arrays and transfer",
        "threads": threads,
        "rounds": rounds,
        "median_ms": latency(build, threads, rounds),
        "library_bytes": (build / "lib/libgarment_transfer.so").stat().st_size,
        "environment": environment(),
    }
    click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    if json_file:
        write_json(json_file, report)


if __name__ == "__main__":
    main()
