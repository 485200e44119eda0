"""`garment-transfer prepare`: a person's folder from a photo, by the user's own models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garment_transfer.cli.options import BOX, BOX_HELP, THREADS_HELP, set_opencv_threads
from garment_transfer.runtime import model_kinds

if TYPE_CHECKING:
    from garment_transfer.runtime.photos import Box

_PATH = click.Path(path_type=Path)


@click.command("prepare")
@click.argument("photo", type=_PATH)
@click.option("-o", "--output", "folder", type=_PATH, required=True, help="Folder to write.")
@click.option("--parser", type=_PATH, required=True, help="ONNX human parser.")
@click.option("--parser-kind", help=f"Its kind: {', '.join(model_kinds('parsing'))}.")
@click.option("--densepose", type=_PATH, required=True, help="ONNX DensePose model.")
@click.option("--densepose-kind", help=f"Its kind: {', '.join(model_kinds('densepose'))}.")
@click.option("--box", type=BOX, help=BOX_HELP)
@click.option("--threads", type=click.IntRange(min=1), help=THREADS_HELP)
def command(
    photo: Path,
    folder: Path,
    parser: Path,
    parser_kind: str | None,
    densepose: Path,
    densepose_kind: str | None,
    box: Box | None,
    threads: int | None,
) -> None:
    """Make the folder of the person in PHOTO that `transfer` reads.

    A kind says how photos go into a published model and what comes out (docs/prepare.md has
    where they are from). For others a JSON file beside the model says it: parser.json for
    parser.onnx.
    """
    from garment_transfer.runtime import DensePose, Parser, prepare

    set_opencv_threads(threads)
    person = prepare(
        photo,
        folder,
        Parser.load(parser, threads, parser_kind),
        DensePose.load(densepose, threads, densepose_kind),
        box,
    )
    height, width = person.parsing.shape
    click.echo(f"{folder}: a person of {width}x{height} pixels")
