"""`garment-transfer prepare`: a person's folder from a photo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garment_transfer.cli.options import BOX, BOX_HELP, THREADS, THREADS_HELP, set_opencv_threads
from garment_transfer.runtime import model_kinds

if TYPE_CHECKING:
    from garment_transfer.runtime.photos import Box

_PATH = click.Path(path_type=Path)


@click.command("prepare")
@click.argument("photo", type=_PATH)
@click.option("-o", "--output", "folder", type=_PATH, required=True, help="Folder to write.")
@click.option("--parser", type=_PATH, help="ONNX human parser, in place of the built-in network.")
@click.option("--parser-kind", help=f"Its kind: {', '.join(model_kinds('parsing'))}.")
@click.option("--densepose", type=_PATH, help="ONNX DensePose model, with --parser.")
@click.option("--densepose-kind", help=f"Its kind: {', '.join(model_kinds('densepose'))}.")
@click.option("--box", type=BOX, help=BOX_HELP)
@click.option("--threads", type=THREADS, help=THREADS_HELP)
def command(
    photo: Path,
    folder: Path,
    parser: Path | None,
    parser_kind: str | None,
    densepose: Path | None,
    densepose_kind: str | None,
    box: Box | None,
    threads: int | None,
) -> None:
    """Make the folder of the person in PHOTO that `transfer` reads.

    The maps are those that `transfer` makes of a bare photo, to look at or to mend, or by other
    models those of --parser and --densepose. A kind says how photos go into a published model and
    what comes out (docs/prepare.md has where they are from); `--parser schp-lip` alone is the file
    schp-lip.onnx of that kind. For others a JSON file beside the model says it: parser.json for
    parser.onnx.
    """
    if bool(parser) != bool(densepose):
        raise click.UsageError("Give --parser and --densepose, or neither.")
    from garment_transfer.runtime import DensePose, Parser, prepare, prepare_photo

    set_opencv_threads(threads)
    if parser and densepose:
        parser, parser_kind = _by_name(parser, parser_kind, "parsing")
        densepose, densepose_kind = _by_name(densepose, densepose_kind, "densepose")
        person = prepare(
            photo,
            folder,
            Parser.load(parser, threads, parser_kind),
            DensePose.load(densepose, threads, densepose_kind),
            box,
        )
    else:
        person = prepare_photo(photo, folder, box)
    height, width = person.parsing.shape
    click.echo(f"{folder}: a person of {width}x{height} pixels")


def _by_name(model: Path, kind: str | None, task: str) -> tuple[Path, str | None]:
    """The file and the kind of a model that may be called by its kind."""
    named = kind is None and model.stem in model_kinds(task)
    if not named or model.with_suffix(".json").exists():
        return model, kind
    return model.with_suffix(".onnx"), model.stem
