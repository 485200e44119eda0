"""`garment-transfer export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garment_transfer.bundle import PRECISIONS
from garment_transfer.cli.options import SIZE, people_in

if TYPE_CHECKING:
    from garment_transfer.bundle import OtherPrecision, Precision, Size


@click.command("export", context_settings={"show_default": True})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle.")
@click.option("--size", type=SIZE, default="256x192", help="Divisible by 32.")
@click.option(
    "--people",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of people on whom the graphs are compared with torch; the samples if not given.",
)
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    help="Checkpoint with the weights for maps of bare photos, where CHECKPOINT has none.",
)
@click.option("--factory", help="package.module:function that makes networks from CHECKPOINT.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    help="float16 and int8 add such graphs beside the float32 ones; may be given twice.",
)
@click.option(
    "--autocast",
    is_flag=True,
    help="Choose what is float16 by NVIDIA's ModelOpt on the people, for networks that are not "
    "this package's own.",
)
def command(
    checkpoint: Path,
    output: Path,
    size: Size,
    people: Path | None,
    maps: Path | None,
    factory: str | None,
    precisions: tuple[Precision, ...],
    autocast: bool,
) -> None:
    """Export CHECKPOINT to a bundle: ONNX graphs, compared with torch, and a manifest."""
    if autocast and "float16" not in precisions:
        raise click.UsageError("--autocast makes float16 graphs: add --precision float16")
    from garment_transfer.cli.inspect import describe
    from garment_transfer.export.bundle import Converter, export_bundle, load_factory
    from garment_transfer.export.float16 import convert_by_autocast, convert_by_list
    from garment_transfer.export.int8 import convert_to_int8
    from garment_transfer.models.checkpoint import load_checkpoint
    from garment_transfer.runtime import sample_people, stage_inputs
    from garment_transfer.runtime.photos import Person

    loaded = [Person.load(folder) for folder in (people_in(people) if people else sample_people())]
    converters: dict[OtherPrecision, Converter] = {
        "float16": convert_by_autocast if autocast else convert_by_list,
        "int8": convert_to_int8,
    }
    bundle = export_bundle(
        checkpoint,
        output,
        size=size,
        people=[stage_inputs(a, b, size) for a in loaded for b in loaded],
        factory=load_factory(factory) if factory else load_checkpoint,
        converters={name: make for name, make in converters.items() if name in precisions},
        maps=maps,
        report=click.echo,
    )
    for line in describe(bundle):
        click.echo(line)
    click.echo(f"wrote {output}")
