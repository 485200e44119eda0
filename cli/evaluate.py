"""`garment-transfer evaluate`: how good a bundle is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from garment_transfer.bundle import CLASSES, Bundle, check_writable, sha256_of
from garment_transfer.cli.options import people_in

if TYPE_CHECKING:
    from garment_transfer.models.warping import WarpingNetwork
    from garment_transfer.training.synthetic import HeldOut

# Those of `training.synthetic.groups`, whose import is slow; `--help` has to answer at once.
HELD_OUT_PAIRS = 256
HELD_OUT_SETS: tuple[HeldOut, ...] = ("A", "B")

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
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="What the bundle was exported from, whose surface coordinates are measured; the shipped "
    "one of the shipped bundle.",
)
@click.option(
    "--borders",
    type=click.IntRange(0, HELD_OUT_PAIRS),
    default=0,
    show_default=True,
    help="Held-out pairs at four times the size, for the borders of the finished photo; slow.",
)
@click.option(
    "--people",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of real people: their garments given back, every pair of them, their skin "
    "erased and regrown.",
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
    checkpoint: Path | None,
    borders: int,
    people: Path | None,
    json_file: Path | None,
    sheet: Path | None,
    workers: int,
    threads: int | None,
) -> None:
    """Measure a bundle on the held-out rendered pairs, beside baselines, and on real people."""
    if not (pairs or borders or people):
        raise click.UsageError(
            "nothing to measure: give --pairs 1 or more, --borders, --people, or several of them"
        )
    folders = people_in(people) if people else []

    from garment_transfer.benchmarks.measuring import write_json
    from garment_transfer.runtime.photos import check_output, write_rgb

    # Before anything slow is loaded or run.
    if sheet:
        check_output(sheet)
    if json_file:
        check_writable(json_file)

    from numpy.typing import NDArray
    from tqdm import tqdm

    from garment_transfer.runtime import Maps, Person, Pipeline, sample_bundle
    from garment_transfer.runtime.backends import find_backend
    from garment_transfer.training.data import held_out_pairs
    from garment_transfer.training.evaluation import (
        PHOTO_FACTOR,
        FlowScore,
        cases,
        contact_sheet,
        evaluate_borders,
        evaluate_held_out,
        evaluate_real,
        evaluate_skin,
        pair_similarity,
    )

    loaded = Bundle.load(bundle or sample_bundle())
    engines = find_backend("onnxruntime").load(loaded, None, {"threads": threads})
    assert isinstance(engines, Mapping)  # no chain: on a CPU
    pipeline = Pipeline(loaded, engines)
    maps = Maps.load(loaded, threads=threads) if loaded.manifest.maps else None
    size = (pipeline.size.height, pipeline.size.width)
    real = {folder.name: Person.load(folder) for folder in folders}
    for person in real.values():
        person.check_garment("person")
    held_out: dict[HeldOut, dict[str, Rows]] = {which: {} for which in HELD_OUT_SETS}
    report: dict[str, object] = {"pairs": pairs, "size": list(size), "held_out": held_out}
    if borders:
        report["border_pairs"] = borders
    pictures: list[list[NDArray]] = []

    def rendered(
        which: HeldOut, count: int, size: tuple[int, int]
    ) -> Iterable[Mapping[str, NDArray]]:
        found = held_out_pairs(range(count), size, workers, which)
        return tqdm(found, total=count, desc=f"set {which}, {size[0]}x{size[1]}")

    if pairs:
        warping = _warping_of(loaded, checkpoint)

    def measure(which: HeldOut) -> None:
        flows = FlowScore(warping)
        shown: list[list[NDArray]] = []
        similarity: list[float] = []

        def keep(pair: Mapping[str, NDArray], outputs: dict[str, NDArray]) -> None:
            flows.add(pair, outputs)
            if sheet:
                similarity.append(pair_similarity(pair, outputs))
                given = [pair["person_image"], pair["garment_image"]]
                made = [outputs["warped_garment"], outputs["image"]]
                shown.append([*given, *made, pair["true_image"]])

        given = rendered(which, pairs, size)
        rows = evaluate_held_out(pipeline, given, keep, maps)
        click.echo(f"set {which}")
        held_out[which] |= {"rows": _print(rows), "flow": flows.rows()}
        own = rows[0]  # the method's
        ious = (f"{name} {own[f'iou_{name}']:.4f}" for name in CLASSES if f"iou_{name}" in own)
        click.echo(f"IoU of {', '.join(ious)}")
        _print(flows.rows())
        pictures.extend(shown[index] for index in cases(similarity))

    for which in HELD_OUT_SETS if pairs else ():
        measure(which)
    for which, found in held_out.items() if borders else ():
        large = (PHOTO_FACTOR * size[0], PHOTO_FACTOR * size[1])
        rows = evaluate_borders(pipeline, rendered(which, borders, large), pipeline.size)
        click.echo(f"set {which}")
        found["borders"] = _print(rows)
    if real:
        rows, images = evaluate_real(pipeline, real)
        report["given_back"] = _print(rows)
        for name, person in real.items():
            pictures.append([person.image, *(images[name, other] for other in real)])
        rows = evaluate_skin(engines["regrowth"].run, real, pipeline.size)
        report["regrown"] = _print(rows)
    if json_file:
        write_json(json_file, report)
    if sheet:
        write_rgb(sheet, contact_sheet(pictures))


def _warping_of(bundle: Bundle, checkpoint: Path | None) -> WarpingNetwork | None:
    """The network behind a bundle's graph `warping`; None where nobody says where its weights are.

    A usage error where the bundle is not the export of the given checkpoint.
    """
    from garment_transfer.models.checkpoint import load_checkpoint
    from garment_transfer.models.presets import shipped_checkpoint
    from garment_transfer.models.warping import WarpingNetwork

    file = checkpoint or shipped_checkpoint("lite")
    _, networks = load_checkpoint(file)
    if sha256_of(file) == bundle.manifest.checkpoint.sha256:
        warping = networks["warping"]
        assert isinstance(warping, WarpingNetwork)
        return warping
    if checkpoint:
        raise click.UsageError(f"{bundle.path} was not exported from {checkpoint}")
    return None


def _print(rows: Rows) -> Rows:
    """Prints a table of the figures that all rows have, no IoUs of classes; the rows come back."""
    if not rows:
        return rows
    shown = [key for key in rows[0] if not key.startswith(("name", "iou_"))]
    shown = [key for key in shown if all(key in row for row in rows)]
    width = max(len(str(row["name"])) for row in rows)
    click.echo(" " * width + "".join(f"  {key}" for key in shown))
    for row in rows:
        line = f"{row['name']:<{width}}"
        for key in shown:
            value = row[key]
            text = f"{value:.4f}" if isinstance(value, float) else str(value)
            line += f"  {text:>{len(key)}}"
        click.echo(line)
    return rows
