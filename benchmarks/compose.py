"""Fit and Compose in C++ beside their definitions in NumPy, in one run.

    python -m garment_transfer.benchmarks.compose [--rounds 40] [--held-out 3] --json FILE

The sample pair at 1024x768 and 2048x1536, and rendered held-out pairs at 1024x768 (extra `train`),
framed as the pipeline does. "fit" is photos, parsings and DensePose of both people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final
from unittest import mock

import click
import cv2
import numpy as np
from msgspec import Struct

from garment_transfer.benchmarks.measuring import interleaved, medians, write_rows
from garment_transfer.bundle import GARMENT, LOWER, SKIN
from garment_transfer.kernels import photos
from garment_transfer.kernels.compose import Composed
from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people, stage_inputs
from garment_transfer.runtime.photos import compose

# Fewer pixels than these say nothing about grain.
_LEAST_PIXELS: Final = 200


class Row(Struct):
    """Medians of a pair, and what its finished photo looks like.

    Attributes:
        drawn: the share of the photo that is not the person's any more.
        loose_pieces: pieces of garment beside the largest one.
        grain: of skin and lower garment, how strong the high frequencies of painted pixels are for
            those of the person's own; classes with few pixels of either kind are left out.
    """

    pair: str
    size: str
    drawn: float
    loose_pieces: int
    grain: dict[str, float]
    median_ms: dict[str, float]


def _scaled(person: Person, factor: int) -> Person:
    """A person at several times the size."""

    def larger(array: np.ndarray, interpolation: int) -> np.ndarray:
        return cv2.resize(array, None, fx=factor, fy=factor, interpolation=interpolation)

    kept = person.protected
    return Person(
        larger(person.image, cv2.INTER_LINEAR),
        larger(person.parsing, cv2.INTER_NEAREST),
        larger(person.densepose, cv2.INTER_NEAREST),
        protected=None if kept is None else larger(kept.view(np.uint8), cv2.INTER_NEAREST) > 0,
    )


def _held_out(index: int) -> tuple[Person, Person]:
    from garment_transfer.training.synthetic.groups import held_out_pair

    pair = held_out_pair(index, (1024, 768))
    one, other = (
        Person.from_arrays(
            np.asarray(pair[f"{role}_image"], np.uint8),
            np.asarray(pair[f"{role}_parsing"], np.uint8),
            np.asarray(pair[f"{role}_densepose"], np.uint8),
        )
        for role in ("person", "garment")
    )
    return one, other


def _loose_pieces(parsing: np.ndarray) -> int:
    """Pieces of garment beside the largest one."""
    pieces, _ = cv2.connectedComponents((parsing == GARMENT).astype(np.uint8), connectivity=8)
    return max(pieces - 2, 0)


def _grain(person: Person, finished: Composed) -> dict[str, float]:
    """Mean absolute high frequencies of painted pixels over those of the person's, by class."""
    grey = cv2.cvtColor(finished.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    high = np.abs(grey - cv2.blur(grey, (5, 5)))
    same = (finished.image == person.image).all(axis=2)
    around = np.ones((9, 9), np.uint8)
    ratios = {}
    for name, label in (("skin", SKIN), ("lower", LOWER)):
        now, before = finished.parsing == label, person.parsing == label
        amounts = []
        for where in (now & ~before, now & before & same):
            # away from edges of the class, which are no grain
            inner = cv2.erode(where.astype(np.uint8), around) > 0
            if inner.sum() >= _LEAST_PIXELS:
                amounts.append(float(high[inner].mean()))
        if len(amounts) == 2:
            ratios[name] = round(amounts[0] / amounts[1], 2)
    return ratios


def measure(pipeline: Pipeline, name: str, person: Person, owner: Person, rounds: int) -> Row:
    """Fit and compose a pair, in turn with their definitions."""
    inputs = stage_inputs(person, owner, pipeline.size, pipeline.bundle.manifest.framing)
    outputs = pipeline.run({key: array[None] for key, array in inputs.items()})
    fits = {someone: pipeline.fit(someone) for someone in (person, owner)}

    def fit() -> None:
        for someone, into in fits.items():
            into.photo(someone.image)
            into.map(someone.parsing)
            into.map(someone.densepose)

    used = ("image", "transfer_parsing", "warped_garment", "flow")
    finish = partial(
        compose, person, owner, *fits.values(), **{key: outputs[key][0] for key in used}
    )

    def by_definition(run: Callable[[], object]) -> None:
        with mock.patch.object(photos, "load", return_value=None):
            run()

    runs: dict[str, Callable[[], object]] = {
        "fit": fit,
        "fit by definition": partial(by_definition, fit),
        "compose": finish,
        "compose by definition": partial(by_definition, finish),
    }
    finished = finish()
    drawn = round(float((finished.image != person.image).any(axis=2).mean()), 3)
    loose, grain = _loose_pieces(finished.parsing), _grain(person, finished)
    height, width = person.parsing.shape
    times = medians(interleaved(runs, rounds, warm_up=3))
    return Row(name, f"{height}x{width}", drawn, loose, grain, times)


def _rows(pipeline: Pipeline, held_out: tuple[int, ...], rounds: int) -> Iterator[Row]:
    sample = [Person.load(folder) for folder in sample_people()]
    for factor in (1, 2):
        people = [_scaled(person, factor) for person in sample]
        yield measure(pipeline, "sample", people[0], people[1], rounds // factor)
    for index in held_out:
        yield measure(pipeline, f"held out {index}", *_held_out(index), rounds)


@click.command()
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--rounds", default=40, show_default=True, help="Timed rounds; half at 2048x1536.")
@click.option("--held-out", multiple=True, type=int, help="Index of a rendered pair; repeatable.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(threads: int, rounds: int, held_out: tuple[int, ...], json_file: Path | None) -> None:
    """Time Fit and Compose beside their definitions."""
    if photos.load() is None:
        raise click.ClickException(
            "the photos' library is not built: `garment-transfer doctor` says what fixes it"
        )
    cv2.setNumThreads(threads)
    rows = []
    for row in _rows(Pipeline.load(sample_bundle(), threads=threads), held_out, rounds):
        rows.append(row)
        times = ", ".join(f"{way} {ms:.2f} ms" for way, ms in row.median_ms.items())
        click.echo(
            f"{row.pair}, {row.size}, {row.drawn:.0%} drawn: {times}; "
            f"{row.loose_pieces} loose pieces, grain {row.grain}"
        )
    if json_file:
        what = "Fit and Compose, medians of rounds in which all take turns"
        write_rows(json_file, what, threads, rounds, rows)


if __name__ == "__main__":
    main()
