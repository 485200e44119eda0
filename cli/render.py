"""`garment-transfer render`: people out of the renderer, as folders or as a contact sheet."""

from __future__ import annotations

import json
from pathlib import Path

import click

from garment_transfer.cli.options import SIZE
from garment_transfer.runtime.bundle import Size

_COLUMNS = 8


@click.command("render")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of people."
)
@click.option("--count", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--size", type=SIZE, default="256x192", show_default=True, help="Divisible by 32.")
@click.option("--rough", is_flag=True, help="Label maps as rough as those of real photos.")
@click.option("--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Contact sheet.")
def command(
    output: Path | None, count: int, seed: int, size: Size, rough: bool, sheet: Path | None
) -> None:
    """Render COUNT seeded people, each in a folder that `transfer` reads, or on one picture.

    The same seed gives the same people; they are drawn from the training distribution, never from
    the held-out one.
    """
    if output is None and sheet is None:
        raise click.UsageError("say where to: --output FOLDER, --sheet FILE, or both")
    import cv2
    import numpy as np
    from tqdm import tqdm

    from garment_transfer.training.synthetic import render_single, roughen

    pictures = []
    for index in tqdm(range(count), unit="person", disable=None):
        person, rng = render_single(seed, index, (size.height, size.width))
        parsing, densepose = person.parsing, person.densepose
        if rough:
            parsing, densepose = roughen(person, rng)
        pictures.append(person.image)
        if output is not None:
            folder = output / f"{seed:04d}-{index:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "image.png", person.image)
            _write(folder / "parse.png", parsing)
            _write(folder / "densepose.png", densepose)
            meta = {"parse": "classes7", "densepose": "iuv-png"}
            (folder / "meta.json").write_text(json.dumps(meta) + "\n")
    if output is not None:
        click.echo(f"wrote {count} people to {output}")
    if sheet is not None:
        columns = min(_COLUMNS, count)
        blank = np.full_like(pictures[0], 255)
        pictures += [blank] * (-count % columns)
        rows = [cv2.hconcat(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]
        sheet.parent.mkdir(parents=True, exist_ok=True)
        _write(sheet, cv2.vconcat(rows))
        click.echo(f"wrote {sheet}")


def _write(path: Path, picture: object) -> None:
    """Write a uint8 RGB [H, W, 3] or grey [H, W] picture, or fail with its name."""
    import cv2
    import numpy as np

    array = np.asarray(picture)
    if not cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array):
        raise click.FileError(str(path), hint="OpenCV cannot write this kind of picture")
