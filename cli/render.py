"""`garment-transfer render`: people out of the renderer, as files or as a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garment_transfer.cli.options import SIZE

if TYPE_CHECKING:
    from garment_transfer.bundle import Size

_COLUMNS = 8


@click.command("render")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of people."
)
@click.option("--count", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--size", type=SIZE, default="256x192", show_default=True, help="Divisible by 32.")
@click.option(
    "--viton",
    is_flag=True,
    help="Write VITON's layout (image, image-parse, densepose, cloth, cloth-mask), to train on.",
)
@click.option("--rough", is_flag=True, help="Label maps as rough as those of real photos.")
@click.option("--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Contact sheet.")
def command(
    output: Path | None,
    count: int,
    seed: int,
    size: Size,
    viton: bool,
    rough: bool,
    sheet: Path | None,
) -> None:
    """Render COUNT seeded people, each in a folder that `transfer` reads, or on one picture.

    The same seed gives the same people; they are drawn from the training distribution, never from
    the held-out one.
    """
    if output is None and sheet is None:
        raise click.UsageError("say where to: --output FOLDER, --sheet FILE, or both")
    from garment_transfer.runtime.photos import (
        check_output,
        check_written_side,
        write_meta,
        write_rgb,
    )

    # What is asked for is checked before anything slow is loaded or rendered.
    columns = min(_COLUMNS, count)
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        check_output(sheet)
        check_written_side(sheet, -(-count // columns) * size.height, columns * size.width)

    from tqdm import tqdm

    from garment_transfer.runtime.photos import Person
    from garment_transfer.training.evaluation import contact_sheet
    from garment_transfer.training.photos import write_viton
    from garment_transfer.training.synthetic import (
        render_shop,
        render_single,
        roughen,
        single_recipe,
    )

    if output is not None:  # not before the packages are known to be there
        output.mkdir(parents=True, exist_ok=True)
    pictures = []
    for index in tqdm(range(count), unit="person", disable=None):
        person, rng = render_single(seed, index, (size.height, size.width))
        parsing, densepose = person.parsing, person.densepose
        if rough:
            parsing, densepose = roughen(person, rng)
        pictures.append(person.image)
        if output is not None and viton:
            _, garment, _ = single_recipe(seed, index)
            shop = render_shop(garment, (size.height, size.width))
            wearer = Person(person.image, parsing, densepose)
            write_viton(output, f"{seed:04d}{index:06d}", wearer, shop.image, shop.mask)
        elif output is not None:
            folder = output / f"{seed:04d}-{index:04d}"
            folder.mkdir(exist_ok=True)
            write_rgb(folder / "image.png", person.image)
            write_rgb(folder / "parse.png", parsing)
            write_rgb(folder / "densepose.png", densepose)
            write_meta(folder / "meta.json", "classes7", "iuv-png")
    if output is not None:
        click.echo(f"wrote {count} people to {output}")
    if sheet is not None:
        rows = [pictures[i : i + columns] for i in range(0, count, columns)]
        write_rgb(sheet, contact_sheet(rows, size.height))
        click.echo(f"wrote {sheet}")
