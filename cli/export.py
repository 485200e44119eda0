"""`garment-transfer export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garment_transfer.cli.options import SIZE

if TYPE_CHECKING:
    from garment_transfer.runtime.bundle import Size


@click.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle.")
@click.option("--size", type=SIZE, default="256x192", show_default=True, help="Divisible by 32.")
@click.option(
    "--people",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of people on whom the graphs are compared with torch; the samples if not given.",
)
@click.option(
    "--factory",
    help="package.module:function that makes networks of the contract from CHECKPOINT.",
)
def command(
    checkpoint: Path, output: Path, size: Size, people: Path | None, factory: str | None
) -> None:
    """Export CHECKPOINT to a bundle: three ONNX graphs, compared with torch, and a manifest."""
    from garment_transfer.export.bundle import export_bundle, load_factory
    from garment_transfer.models.checkpoint import load_checkpoint
    from garment_transfer.runtime import sample_people
    from garment_transfer.runtime.people import Person
    from garment_transfer.runtime.pipeline import stage_inputs

    folders = sorted(people.iterdir()) if people else list(sample_people())
    loaded = [Person.load(folder) for folder in folders if (folder / "meta.json").is_file()]
    if not loaded:
        raise click.UsageError(
            f"{people} holds no people: each is a folder with image, maps and meta.json"
        )
    pairs = [(a, b) for a in loaded for b in loaded]
    bundle = export_bundle(
        checkpoint,
        output,
        size=size,
        people=[stage_inputs(a, b, size) for a, b in pairs],
        factory=load_factory(factory) if factory else load_checkpoint,
        report=click.echo,
    )
    for stage, outputs in bundle.manifest.parity.items():
        for name, parity in outputs.items():
            click.echo(
                f"{stage}/{name}: largest difference from torch {parity.max_abs_difference:.3g}, "
                f"{parity.share_within_tolerance:.4%} within {parity.tolerance:g}"
            )
    click.echo(f"wrote {output}")
