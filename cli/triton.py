"""`garment-transfer triton`: a model repository for NVIDIA Triton."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from garment_transfer.export.triton import Form

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)


@click.command("triton", context_settings={"show_default": True})
@click.argument("bundle", type=_PATH, required=False)
@click.option("-o", "--output", "repository", type=_PATH, required=True, help="Model repository.")
@click.option(
    "--form",
    type=click.Choice(["python", "onnx", "tensorrt"]),
    default="python",
    help="One model that runs this package, or an ensemble of the stages as ONNX or TensorRT.",
)
@click.option("--name", default="garment_transfer", help="Name of the model.")
@click.option("--model-version", type=_COUNT, default=1, help="To add; the highest one serves.")
@click.option("--max-batch", type=_COUNT, default=8, help="The most pairs that run together.")
@click.option(
    "--max-delay",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Milliseconds that a pair waits for others; those that wait for a run share it anyway.",
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    default=4.0,
    help="Of the photo and of each map that form python takes.",
)
@click.option("--instances", type=_COUNT, default=1, help="Copies side by side, on each GPU used.")
@click.option("--backend", help="Inference backend of form python; default: onnxruntime.")
@click.option("--threads", type=_COUNT, help="Threads of an instance of form python.")
@click.option("--precision", help="Precision of graphs or engines; default: the bundle's own.")
def command(
    bundle: Path | None,
    repository: Path,
    form: Form,
    name: str,
    model_version: int,
    max_batch: int,
    max_delay: float,
    max_megapixels: float,
    instances: int,
    backend: str | None,
    threads: int | None,
    precision: str | None,
) -> None:
    """Write a model repository that NVIDIA Triton serves BUNDLE from.

    Without BUNDLE it is the one that ships in the package. Form python takes two photos, as
    files, and gives the finished one; the others take and give the graphs' arrays.
    """
    if form != "python" and (backend or threads):
        raise click.UsageError("--backend and --threads are for --form python.")
    from garment_transfer.bundle import Bundle
    from garment_transfer.export.triton import Serving, write_repository
    from garment_transfer.runtime import sample_bundle

    notes = write_repository(
        Bundle.load(bundle or sample_bundle()),
        repository,
        form=form,
        name=name,
        version=model_version,
        serving=Serving(max_batch, max_delay, instances, max_megapixels),
        backend=backend or "onnxruntime",
        threads=threads,
        precision=precision,
    )
    click.echo(
        f"{repository}: model {name}, version {model_version}; run "
        f"`tritonserver --model-repository {repository}`"
    )
    for note in notes:
        click.echo(f"  {note}")
