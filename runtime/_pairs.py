"""Lists of pairs, CSV files with the header `person,garment_owner,output`, and their transfers."""

from __future__ import annotations

import csv
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from garment_transfer.bundle import Code, GarmentTransferError, InputError
from garment_transfer.runtime._pipeline import Pipeline, Transfer
from garment_transfer.runtime.photos import QUALITY, Person, check_output, write_rgb

COLUMNS: Final = ("person", "garment_owner", "output")

# How the names of the files that `Person.load` reads begin.
_FILES_OF_A_PERSON: Final = ("image.", "parse.", "densepose.", "meta.json")

_People = tuple[Person, Person]
_Error = GarmentTransferError | OSError

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """Folders or photos of the person and of the garment's owner, and the picture to write."""

    person: Path
    garment_owner: Path
    output: Path


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a CSV file with the header `person,garment_owner,output`.

    Args:
        path: the file; relative paths in it start from its folder.

    Raises:
        InputError: it cannot be read, has another header or no pairs, lacks a cell, or gives two
            pairs one output.
    """
    header = ",".join(COLUMNS)

    invalid = functools.partial(InputError, Code.PAIRS_INVALID)
    try:
        # utf-8-sig: spreadsheets begin UTF-8 files with a mark that would join the first name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = tuple(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise invalid(
            f"{path} cannot be read as a list of pairs ({error})",
            expected=f"a UTF-8 CSV file with the header {header}",
        ) from error
    if names != COLUMNS:
        raise invalid(
            f"{path} has the header {','.join(names) or '(none)'}",
            expected=f"{header} as its first line",
        )
    pairs: list[Pair] = []
    line_of: dict[Path, int] = {}
    for line, row in rows:
        cells = [row[name] for name in COLUMNS]
        # DictReader puts surplus cells under None.
        if not all(cells) or None in row:
            raise invalid(
                f"{path}, line {line}: a cell is empty, missing or surplus",
                expected=f"three cells, {header}",
            )
        pair = Pair(*(path.parent / cell for cell in cells))
        if pair.output in line_of:
            raise invalid(
                f"{path}, line {line}: the output {cells[2]} is that of line "
                f"{line_of[pair.output]} too",
                fix="give each pair its own",
            )
        line_of[pair.output] = line
        pairs.append(pair)
    if not pairs:
        raise invalid(f"{path} lists no pairs", fix=f"add a line below its header {header}")
    return pairs


def shard(pairs: Sequence[Pair], index: int, count: int) -> list[Pair]:
    """Part `index`, from 0, of `count` parts of a list; together they are the list.

    Neighbours go to different parts, as the pairs of one person often stand together.

    Raises:
        InputError: there is no such part.
    """
    if not 0 <= index < count:
        raise InputError(
            Code.ARGUMENT_INVALID,
            f"there is no shard {index}/{count}",
            expected="I/N with I from 0 to N-1, such as 0/4 for the first of four machines",
        )
    return list(pairs[index::count])


def is_done(pair: Pair) -> bool:
    """Whether the output is there and newer than the files of both people.

    Outputs are written whole or not at all, so one that is there is complete.
    """
    try:
        written = pair.output.stat().st_mtime_ns
        return all(
            file.stat().st_mtime_ns < written
            for source in (pair.person, pair.garment_owner)
            for file in ([source] if source.is_file() else source.iterdir())
            if source.is_file() or file.name.startswith(_FILES_OF_A_PERSON)
        )
    # What is wrong with a person is for the transfer to say; a path may hold a NUL character.
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class Outcome:
    """A pair that is written, or why it is not."""

    pair: Pair
    error: GarmentTransferError | OSError | None = None


def transfer_pairs(
    pipeline: Pipeline,
    pairs: Iterable[Pair],
    *,
    batch: int = 1,
    label_set: str | None = None,
    densepose_encoding: str | None = None,
    quality: int = QUALITY,
) -> Iterator[Outcome]:
    """Transfers pairs and writes their pictures.

    While pairs run, threads read the people of the next ones and write the pictures of those
    before: three batches are in memory, however long the list. A pair that fails costs no other
    anything: should a run of several fail, each is run alone.

    Args:
        pipeline: what transfers them.
        pairs: as `read_pairs` gives them.
        batch: how many pairs share a run of each graph.
        label_set: overrides the people's `meta.json`.
        densepose_encoding: overrides the people's `meta.json`.
        quality: of JPEG and WebP, 1 to 100.

    Yields:
        An outcome per pair, in order.

    Raises:
        InputError: `batch` is below 1.
    """
    if batch < 1:
        raise InputError(
            Code.ARGUMENT_INVALID, f"the batch has {batch} pairs", expected="1 or more"
        )
    pairs = iter(pairs)
    groups = iter(lambda: list(itertools.islice(pairs, batch)), [])
    with ThreadPoolExecutor(max(2, min(2 * batch, os.cpu_count() or 1))) as pool:

        def reading() -> list[tuple[Pair, Future[_People]]]:
            return [
                (pair, pool.submit(_read, pipeline, pair, label_set, densepose_encoding))
                for pair in next(groups, [])
            ]

        upcoming = reading()
        writing: list[tuple[Pair, Future[None]]] = []
        while upcoming:
            current, upcoming = upcoming, reading()
            results = _run(pipeline, [future for _, future in current])
            yield from _outcomes(writing)
            writing = [
                (pair, pool.submit(_write, pair, result, quality))
                for (pair, _), result in zip(current, results, strict=True)
            ]
        yield from _outcomes(writing)


def _read(
    pipeline: Pipeline, pair: Pair, label_set: str | None, densepose_encoding: str | None
) -> _People:
    # Before anything slow, so that a slip in a path costs little.
    check_output(pair.output)
    person = pipeline.person(pair.person, label_set, densepose_encoding)
    garment_owner = pipeline.person(pair.garment_owner, label_set, densepose_encoding)
    # here, so that the rest of a batch is not run again without them
    person.check_view()
    garment_owner.check_view("garment owner")
    garment_owner.check_garment()
    return person, garment_owner


def _run(pipeline: Pipeline, reads: Iterable[Future[_People]]) -> list[Transfer | _Error]:
    results = [_attempt(read.result) for read in reads]
    transfers = iter(_transfer(pipeline, [each for each in results if isinstance(each, tuple)]))
    return [next(transfers) if isinstance(each, tuple) else each for each in results]


def _transfer(pipeline: Pipeline, people: list[_People]) -> Sequence[Transfer | _Error]:
    """The transfers of a batch, one by one where the batch fails."""
    transfers = _attempt(
        lambda: pipeline.transfer_batch([one for one, _ in people], [owner for _, owner in people])
    )
    if isinstance(transfers, list):
        return transfers
    if len(people) == 1:
        return [transfers]
    return [transfer for pair in people for transfer in _transfer(pipeline, [pair])]


def _write(pair: Pair, result: Transfer | _Error, quality: int) -> None:
    if isinstance(result, Exception):
        raise result
    write_rgb(pair.output, result.image, quality)


def _outcomes(writing: Iterable[tuple[Pair, Future[None]]]) -> Iterator[Outcome]:
    for pair, written in writing:
        yield Outcome(pair, _attempt(written.result))


def _attempt(function: Callable[[], T]) -> T | _Error:
    """What a function gives, or how it fails."""
    try:
        return function()
    except (GarmentTransferError, OSError) as error:
        return error
