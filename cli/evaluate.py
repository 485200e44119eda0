"""`garment-transfer evaluate`: how good a bundle is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import click

from garment_transfer.bundle import CLASSES, check_writable

# `training.synthetic.groups.HELD_OUT_PAIRS`, whose import is slow; `--help` has to answer at once.
HELD_OUT_PAIRS = 256

COLUMNS = {
    "garment_iou": "garment IoU",
    "skin_iou": "skin IoU",
    "arms_iou": "arms IoU",
    "changed_ssim": "SSIM changed",
    "garment_psnr_db": "PSNR garment",
    "whole_ssim": "SSIM whole",
    "flat_ssim": "SSIM flat",
    "mean_iou": "mean IoU",
    "skin_error": "skin error",
    "cycle_ssim": "SSIM cycle",
}

Rows: TypeAlias = list[dict[str, float | str]]


@click.command("evaluate")
@click.option("--bundle", type=click.Path(path_type=Path), help="The shipped one if not given.")
@click.option(
    "--pairs",
    type=click.IntRange(0, HELD_OUT_PAIRS),
    default=HELD_OUT_PAIRS,
    show_default=True,
    help="Held-out pairs, from the first on.",
)
@click.option(
    "--without-stn",
    type=click.Path(path_type=Path),
    help="Checkpoint of preset lite-without-stn for its row; the shipped one if not given.",
)
@click.option(
    "--people",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of real people: their garments given back, and every pair of them.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    help="Write a picture of the best, the middle and the worst pairs, and of the people.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Processes that render the pairs.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the backend.")
def command(
    bundle: Path | None,
    pairs: int,
    without_stn: Path | None,
    people: Path | None,
    json_file: Path | None,
    sheet: Path | None,
    workers: int,
    threads: int | None,
) -> None:
    """Measure a bundle on the held-out rendered pairs, beside baselines, and on real people."""
    if not pairs and not people:
        raise click.UsageError("nothing to measure: give --pairs 1 or more, --people, or both")
    folders = _people_in(people) if people else []

    from garment_transfer.benchmarks.measuring import write_json
    from garment_transfer.runtime.photos import check_output, write_rgb

    # Before anything slow is loaded or run.
    if sheet:
        check_output(sheet)
    if json_file:
        check_writable(json_file)

    from numpy.typing import NDArray
    from tqdm import tqdm

    from garment_transfer.models.checkpoint import load_checkpoint
    from garment_transfer.models.presets import shipped_checkpoint
    from garment_transfer.runtime import Person, Pipeline, sample_bundle
    from garment_transfer.training.data import held_out_pairs
    from garment_transfer.training.evaluation import (
        cases,
        contact_sheet,
        evaluate_held_out,
        evaluate_real,
        pair_similarity,
    )

    pipeline = Pipeline.load(bundle or sample_bundle(), threads=threads)
    size = (pipeline.size.height, pipeline.size.width)
    real = {folder.name: Person.load(folder) for folder in folders}
    for person in real.values():
        person.check_garment("person")
    report: dict[str, int | list[int] | Rows] = {"pairs": pairs, "size": list(size)}
    pictures: list[list[NDArray]] = []
    if pairs:
        _, networks = load_checkpoint(without_stn or shipped_checkpoint("lite-without-stn"))

        shown: list[list[NDArray]] = []
        similarity: list[float] = []

        def keep(pair: Mapping[str, NDArray], outputs: dict[str, NDArray]) -> None:
            if sheet:
                similarity.append(pair_similarity(pair, outputs))
                given = [pair["person_image"], pair["garment_image"]]
                made = [outputs["warped_garment"], outputs["image"]]
                shown.append([*given, *made, pair["true_image"]])

        rendered = tqdm(
            held_out_pairs(range(pairs), size, workers=workers), total=pairs, desc="held out"
        )
        rows = evaluate_held_out(pipeline, rendered, networks["warping"], keep)
        report["rows"] = rows
        _print(rows)
        _print_classes(rows)
        pictures += [shown[index] for index in cases(similarity)]
    if real:
        rows, images = evaluate_real(pipeline, real)
        report["given_back"] = rows
        _print(rows)
        for name, person in real.items():
            pictures.append([person.image, *(images[name, other] for other in real)])
    if json_file:
        write_json(json_file, report)
    if sheet:
        write_rgb(sheet, contact_sheet(pictures))


def _people_in(folder: Path) -> list[Path]:
    """The folders of people in a folder; a usage error where there is none."""
    folders = [path for path in sorted(folder.iterdir()) if (path / "meta.json").is_file()]
    if not folders:
        raise click.UsageError(
            f"{folder} holds no people: each is a folder with image, maps and meta.json"
        )
    return folders


def _print(rows: Rows) -> None:
    columns = [c for c in COLUMNS if all(c in row for row in rows)]
    width = max(len(str(row["name"])) for row in rows)
    click.echo(" " * width + "".join(f"{COLUMNS[c]:>14}" for c in columns))
    for row in rows:
        click.echo(f"{row['name']:<{width}}" + "".join(f"{row[c]:>14.4f}" for c in columns))


def _print_classes(rows: Rows) -> None:
    """The second table, of the method alone."""
    names = [name for name in CLASSES if f"iou_{name}" in rows[0]]
    click.echo("IoU of " + ", ".join(f"{name} {rows[0][f'iou_{name}']:.4f}" for name in names))
