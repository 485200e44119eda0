"""`garment-transfer prepare`: a person's folder from a photo, by the user's own models."""

from __future__ import annotations

from pathlib import Path

import click

from garment_transfer.cli.options import THREADS_HELP, set_opencv_threads

_PATH = click.Path(path_type=Path)


@click.command("prepare")
@click.argument("photo", type=_PATH)
@click.option("-o", "--output", "folder", type=_PATH, required=True, help="Folder to write.")
@click.option(
    "--parser", type=_PATH, required=True, help="ONNX human parser, with its .json beside it."
)
@click.option(
    "--densepose", type=_PATH, required=True, help="ONNX DensePose model, with its .json beside it."
)
@click.option("--threads", type=click.IntRange(min=1), help=THREADS_HELP)
def command(photo: Path, folder: Path, parser: Path, densepose: Path, threads: int | None) -> None:
    """Make the folder of the person in PHOTO that `transfer` reads.

    A JSON file beside each model says how photos go in and what comes out: parser.json for
    parser.onnx.
    """
    from garment_transfer.runtime import DensePose, Parser, prepare

    set_opencv_threads(threads)
    person = prepare(
        photo, folder, Parser.load(parser, threads), DensePose.load(densepose, threads)
    )
    height, width = person.parsing.shape
    click.echo(f"{folder}: a person of {width}x{height} pixels")
