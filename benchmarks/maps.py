"""How good the maps of bare photos are: beside given ones, and on rendered people, whose are true.

    python -m garment_transfer.benchmarks.maps --people FOLDER --held-out 256 --json maps.json

Of real people, each figure is the agreement with maps that other models gave, which err too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer import InputError, Person, Pipeline, sample_bundle
from garment_transfer.benchmarks.measuring import write_json
from garment_transfer.bundle import BACKGROUND, CLASSES, FACE, GARMENT, HAIR, LOWER, SKIN, Code
from garment_transfer.models.layers import TORSO_PARTS
from garment_transfer.runtime.photos import Box
from garment_transfer.training.evaluation import Score
from garment_transfer.training.synthetic import held_out_recipe, render_person
from garment_transfer.training.synthetic.views import as_given

U8 = npt.NDArray[np.uint8]
_COLUMNS: Final = (GARMENT, LOWER, HAIR, FACE, SKIN)


class Agreement:
    """Counts of how far maps agree with others: IoU by class, and the share of equal parts."""

    def __init__(self) -> None:
        self._labels = Score()
        self._equal: int = 0
        self._covered: int = 0

    def add(self, parsing: U8, parts: U8, reference: U8, body: U8) -> None:
        """Maps, and those that count as right, [H,W] each; `body` has parts.

        What the reference leaves without a label on the torso does not count: some label sets
        leave the neck out.
        """
        counted = ~((reference == BACKGROUND) & np.isin(body, TORSO_PARTS))
        self._labels.add_labels(parsing[counted], reference[counted])
        self._equal += int(np.count_nonzero((parts == body) & (body > 0)))
        self._covered += int(np.count_nonzero(body))

    def row(self, name: str) -> dict[str, Any]:
        """The figures; None of a class that neither map has."""
        ious = self._labels.ious()
        shares = {CLASSES[label]: ious.get(CLASSES[label]) for label in _COLUMNS}
        return {"name": name, **shares, "parts": self._equal / max(self._covered, 1)}


@click.command()
@click.option("--people", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--held-out", type=click.IntRange(0, 256), default=0, help="Pairs of set B.")
@click.option("--bundle", type=click.Path(path_type=Path), help="The shipped one if not given.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
def main(
    people: Path | None,
    held_out: int,
    bundle: Path | None,
    json_file: Path | None,
    threads: int,
) -> None:
    """Compare the maps that a bundle makes of photos with given or true ones."""
    cv2.setNumThreads(threads)
    pipeline = Pipeline.load(bundle or sample_bundle(), threads=threads)
    report: dict[str, Any] = {}
    if people:
        rows = []
        for folder in sorted(path.parent for path in people.glob("*/meta.json")):
            given, score = Person.load(folder), Agreement()
            score.add(*_maps(pipeline.maps.person(given.image, folder.name)), *_maps(given))
            rows.append(score.row(folder.name))
        report["people"] = _print([*rows, _mean(rows)])
    if held_out:
        score, refused = Agreement(), 0
        for image, parsing, densepose in _rendered(held_out):
            parts = densepose[..., 0]
            x, y, width, height = cv2.boundingRect((parts > 0).astype(np.uint8))
            try:
                person = pipeline.maps.person(image)
            except InputError as error:
                refused += error.code == Code.BODY_AMBIGUOUS
                person = pipeline.maps.person(image, box=Box(y, x, height, width))
            score.add(*_maps(person), parsing, parts)
        row = score.row(f"{2 * held_out} rendered people of set B") | {"several_people": refused}
        report["held_out"] = _print([row])
    if json_file:
        write_json(json_file, report)


def _maps(person: Person) -> tuple[U8, U8]:
    return person.parsing, person.densepose[..., 0]


def _rendered(count: int) -> Iterator[tuple[U8, U8, U8]]:
    """Both people of held-out pairs: photo, true parsing, DensePose as the tool gives it."""
    for index in range(count):
        a, b, own, theirs = held_out_recipe(index, "B")
        for body, garment in ((a, own), (b, theirs)):
            person = render_person(body, garment)
            top, bottom, left, right = person.inside
            shown = np.s_[top:bottom, left:right]
            maps = person.image, person.parsing, as_given(person.densepose, 1.0)
            photo, parsing, densepose = (np.ascontiguousarray(pixels[shown]) for pixels in maps)
            yield photo, parsing, densepose


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each column over the rows that have it."""
    means: dict[str, Any] = {"name": "mean"}
    for key in list(rows[0])[1:]:
        values = [row[key] for row in rows if row[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    return means


def _print(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prints a table; the rows come back."""
    columns = list(rows[0])[1:]
    width = max(len(row["name"]) for row in rows)
    click.echo(" " * width + "".join(f"{key:>14}" for key in columns))
    for row in rows:
        cells = ("-" if row[key] is None else f"{row[key]:.3f}" for key in columns)
        click.echo(f"{row['name']:<{width}}" + "".join(f"{cell:>14}" for cell in cells))
    return rows


if __name__ == "__main__":
    main()
