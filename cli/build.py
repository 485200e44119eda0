"""`garment-transfer build`: TensorRT engines for a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garment_transfer.bundle import PRECISIONS
from garment_transfer.cli.options import BATCH

if TYPE_CHECKING:
    from garment_transfer.bundle import Batch, EngineBackend, PluginChoice, Precision


@click.command("build")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    required=True,
    help="TensorRT builds on the GPU that the engines are for; TensorRT-RTX needs none.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="Which of the bundle's graphs are built.",
)
@click.option("--batch", type=BATCH, default="1:1:8", show_default=True, help="Batch sizes.")
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="How long to search for faster kernels.",
)
@click.option(
    "--plugin",
    type=click.Choice(["auto", "embed", "off"]),
    default="auto",
    show_default=True,
    help="FlowWarp by TensorRT's plugin where it is built, by the plugin inside the engines, or "
    "by standard operators.",
)
@click.option("--device", default=0, show_default=True, help="The GPU that TensorRT builds on.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Copy BUNDLE there and build there."
)
def command(
    bundle: Path,
    backend: EngineBackend,
    precision: Precision,
    batch: Batch,
    optimization_level: int,
    plugin: PluginChoice,
    device: int,
    output: Path | None,
) -> None:
    """Add engines to BUNDLE, one per graph, with a record of what they are for.

    Engines of the same backend, GPU and precision are replaced. The bundle in the package is
    never changed: use -o.
    """
    from tqdm import tqdm

    from garment_transfer.bundle import Bundle
    from garment_transfer.export.tensorrt import build_engines, copy_bundle

    loaded = Bundle.load(bundle)
    if output is not None:
        loaded = copy_bundle(loaded, output)
    with tqdm(
        total=100, disable=None, bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}"
    ) as bar:

        def progress(stage: str, part: str, done: float) -> None:
            bar.set_description_str(f"{stage}: {part[:40]}", refresh=False)
            bar.n = round(100 * done)
            bar.refresh()

        try:
            engines = build_engines(
                loaded,
                backend,
                precision,
                batch=batch,
                optimization_level=optimization_level,
                plugin=plugin,
                device=device,
                progress=progress,
            )
        finally:
            bar.leave = False
    record = engines.record
    for stage, engine in record.stages.items():
        memory = engine.device_memory_bytes
        click.echo(
            f"{stage}: {engine.bytes:,} bytes in {engine.build_seconds:.1f} s"
            + (f", {memory:,} bytes of GPU memory" if memory is not None else "")
        )
    warp = "its body" if record.plugin is None else f"plugin {record.plugin.version}"
    click.echo(
        f"wrote {engines.path}: {backend} {record.backend_version}, compute capability "
        f"{', '.join(record.compute_capabilities)}, batch {record.batch}, FlowWarp by {warp}"
    )
