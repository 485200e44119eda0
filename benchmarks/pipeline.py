"""The pipeline on the CPU, ONNX Runtime beside torch eager, in one run.

    python -m garment_transfer.benchmarks.pipeline [--threads 2] [--rounds 60] [--json FILE]

Both run the same weights on the same pair at the bundle's size, from uint8 arrays to uint8
arrays, in turn, so that whatever else the machine does hits both.
"""

import json
import platform
import statistics
from pathlib import Path

import click

from garment_transfer.benchmarks.measuring import interleaved, medians, processor


@click.command()
@click.option("--threads", default=2, show_default=True, help="Threads of either.")
@click.option("--rounds", default=60, show_default=True, help="Timed rounds, after 10 untimed.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(threads: int, rounds: int, json_file: Path | None) -> None:
    """Median time of a transfer, one pair, per stage and in all."""
    import numpy as np
    import onnxruntime
    import torch

    from garment_transfer.models.checkpoint import load_checkpoint
    from garment_transfer.models.presets import shipped_checkpoint
    from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people
    from garment_transfer.runtime.bundle import STAGES, contract
    from garment_transfer.runtime.files import replacing
    from garment_transfer.runtime.pipeline import stage_inputs

    torch.set_num_threads(threads)
    pipeline = Pipeline.load(sample_bundle(), threads=threads)
    _, networks = load_checkpoint(shipped_checkpoint("lite"))
    signatures = contract(pipeline.size)
    person, owner = (Person.load(folder) for folder in sample_people())
    inputs = {k: v[None] for k, v in stage_inputs(person, owner, pipeline.size).items()}

    def eager() -> dict[str, np.ndarray]:
        values = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
        with torch.inference_mode():
            for stage in STAGES:
                signature = signatures[stage]
                result = networks[stage](*(values[tensor.name] for tensor in signature.inputs))
                results = result if isinstance(result, tuple) else (result,)
                for tensor, value in zip(signature.outputs, results, strict=True):
                    values[tensor.name] = value
        return {name: value.numpy() for name, value in values.items()}

    runs = {"onnxruntime": lambda: pipeline.run(inputs), "torch eager": eager}
    images = {name: run()["image"] for name, run in runs.items()}
    difference = np.abs(images["onnxruntime"].astype(int) - images["torch eager"])
    times = interleaved(runs, rounds)
    median = medians(times)
    spread = {name: statistics.quantiles(values, n=10) for name, values in times.items()}
    report = {
        "what": "one pair, uint8 arrays to uint8 arrays at the bundle's size, three stages",
        "size": [pipeline.size.height, pipeline.size.width],
        "threads": threads,
        "rounds": rounds,
        "median_ms": median,
        "p10_ms": {name: values[0] for name, values in spread.items()},
        "p90_ms": {name: values[-1] for name, values in spread.items()},
        "ratio": median["torch eager"] / median["onnxruntime"],
        "image_values_within_1": float((difference <= 1).mean()),
        "machine": {
            "processor": processor(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "onnxruntime": onnxruntime.__version__,
        },
    }
    for name, value in median.items():
        click.echo(f"{name:<12} {value:8.1f} ms")
    click.echo(f"torch eager takes {report['ratio']:.2f} times as long")
    if json_file:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
