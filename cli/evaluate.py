"""`garment-transfer evaluate`: how good a bundle is."""

from collections.abc import Mapping
from pathlib import Path

import click

COLUMNS = {
    "garment_iou": "garment IoU",
    "skin_iou": "skin IoU",
    "changed_ssim": "SSIM changed",
    "garment_psnr_db": "PSNR garment",
    "whole_ssim": "SSIM whole",
    "flat_ssim": "SSIM flat",
}


@click.command("evaluate")
@click.option("--bundle", type=click.Path(path_type=Path), help="The shipped one if not given.")
@click.option("--pairs", default=256, show_default=True, help="Held-out pairs, from the first on.")
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
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a picture of the results.")
@click.option("--workers", default=2, show_default=True, help="Processes that render the pairs.")
@click.option("--threads", type=int, help="Threads of the backend.")
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
    import json

    from numpy.typing import NDArray
    from tqdm import tqdm

    from garment_transfer.models.checkpoint import load_checkpoint
    from garment_transfer.models.presets import shipped_checkpoint
    from garment_transfer.runtime import Person, Pipeline, sample_bundle
    from garment_transfer.runtime.files import replacing
    from garment_transfer.runtime.images import write_rgb
    from garment_transfer.training.data import held_out_pairs
    from garment_transfer.training.evaluation import (
        contact_sheet,
        evaluate_held_out,
        evaluate_real,
    )

    pipeline = Pipeline.load(bundle or sample_bundle(), threads=threads)
    size = (pipeline.size.height, pipeline.size.width)
    _, networks = load_checkpoint(without_stn or shipped_checkpoint("lite-without-stn"))
    report: dict[str, object] = {"pairs": pairs, "size": list(size)}
    pictures: list[list[NDArray]] = []
    if pairs:

        def keep(pair: Mapping[str, NDArray], outputs: dict[str, NDArray]) -> None:
            if len(pictures) < 16:
                pictures.append(
                    [
                        pair["person_image"],
                        pair["garment_image"],
                        outputs["warped_garment"],
                        outputs["image"],
                        pair["true_image"],
                    ]
                )

        rendered = tqdm(
            held_out_pairs(range(pairs), size, workers=workers), total=pairs, desc="held out"
        )
        report["rows"] = evaluate_held_out(pipeline, rendered, networks["warping"], keep)
        _print(report["rows"])
    if people:
        folders = [folder for folder in sorted(people.iterdir()) if folder.is_dir()]
        real = {folder.name: Person.load(folder) for folder in folders}
        report["given_back"], images = evaluate_real(pipeline, real)
        _print(report["given_back"])
        for name, person in real.items():
            pictures.append([person.image, *(images[name, other] for other in real)])
    if sheet:
        write_rgb(sheet, contact_sheet(pictures))
    if json_file:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _print(rows: object) -> None:
    assert isinstance(rows, list)
    columns = [c for c in COLUMNS if c in rows[0]]
    width = max(len(str(row["name"])) for row in rows)
    click.echo(" " * width + "".join(f"{COLUMNS[c]:>14}" for c in columns))
    for row in rows:
        click.echo(f"{row['name']:<{width}}" + "".join(f"{row[c]:>14.4f}" for c in columns))
