"""Lists of pairs, CSV files with the header `person,garment_owner,output`, and their transfers."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from PIL import Image

from garment_transfer.bundle import Code, GarmentTransferError, InputError, OutputError, reason_of
from garment_transfer.runtime._pipeline import Pipeline, Transfer
from garment_transfer.runtime.photos import QUALITY, Person, check_output, write_rgb

_LOG: Final = logging.getLogger(__name__)

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
    """The pairs of a CSV file whose header has person, garment_owner and output.

    Commas, semicolons or tabs part its cells, blanks around them do not count, and other columns
    may stand beside these, in any order.

    Args:
        path: the file, or "-" for standard input; relative paths in it start from its folder, or
            from the current one.

    Raises:
        InputError: it cannot be read, has another header or no pairs, lacks a cell, or gives two
            pairs one output.
    """
    header = ",".join(COLUMNS)
    invalid = functools.partial(InputError, Code.PAIRS_INVALID)
    try:
        # utf-8-sig: spreadsheets begin UTF-8 files with a mark that would join the first name.
        text = sys.stdin.read() if path == Path("-") else path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        reader = csv.DictReader(
            io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True
        )
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise invalid(
            f"{path} cannot be read as a list of pairs ({reason_of(error)})",
            expected=f"a UTF-8 CSV file with the header {header}",
        ) from error
    if not set(COLUMNS) <= set(names):
        raise invalid(
            f"{path} has the header {','.join(names) or '(none)'}",
            expected=f"{header} among the names of its first line",
        )
    pairs: list[Pair] = []
    line_of: dict[object, int] = {}
    for line, row in rows:
        cells = [(row[name] or "").strip() for name in COLUMNS]
        # DictReader puts surplus cells under None.
        if not all(cells) or None in row:
            raise invalid(
                f"{path}, line {line}: a cell is empty, missing or surplus",
                expected=f"a cell under each of {','.join(names)}",
            )
        pairs.append(Pair(*(path.parent / cell for cell in cells)))
        output = _identity(pairs[-1].output)
        if output == _identity(path):
            raise invalid(
                f"{path}, line {line}: the output is the list itself",
                fix="choose another path for the picture",
            )
        if output in line_of:
            raise invalid(
                f"{path}, line {line}: the output {cells[2]} is that of line {line_of[output]} too",
                fix="give each pair its own",
            )
        line_of[output] = line
    if not pairs:
        raise invalid(f"{path} lists no pairs", fix=f"add a line below its header {header}")
    return pairs


def check_outputs(pairs: Sequence[Pair], *outputs: Path) -> None:
    """Raises OutputError where a run would write over what it reads, or two pictures to one file.

    Links, other spellings of a path and hard links count as what they lead to.

    Args:
        pairs: of one run.
        outputs: what the run writes beside the pairs' own.
    """
    inputs: dict[object, Path] = {}
    for source in {source for pair in pairs for source in (pair.person, pair.garment_owner)}:
        for file in source.iterdir() if source.is_dir() else [source]:
            if file == source or file.name.lower().startswith(_FILES_OF_A_PERSON):
                inputs[_identity(file)] = file
    written: dict[object, Path] = {}
    for output in (*(pair.output for pair in pairs), *outputs):
        identity = _identity(output)
        if identity in inputs:
            raise OutputError(
                Code.OUTPUT_EXISTS,
                f"{output} is what this run reads"
                + f", as {inputs[identity]}" * (output != inputs[identity]),
                fix="choose another path for the picture",
            )
        if identity in written:
            raise OutputError(
                Code.OUTPUT_EXISTS,
                f"{output} and {written[identity]} are one file",
                fix="give each picture its own",
            )
        written[identity] = output


def _identity(path: Path) -> object:
    """What tells files apart: the file itself where there is one, else where the path leads."""
    try:
        found = path.stat()
    except OSError:
        return os.path.normcase(os.path.realpath(path))
    except ValueError:  # a NUL character, which `check_output` refuses
        return str(path)
    return found.st_dev, found.st_ino


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
    """Whether the output is there, whole, and newer than the files of both people."""
    try:
        with Image.open(pair.output) as picture:
            picture.load()
        written = pair.output.stat().st_mtime_ns
        return all(
            file.stat().st_mtime_ns < written
            for source in (pair.person, pair.garment_owner)
            for file in ([source] if source.is_file() else source.iterdir())
            if source.is_file() or file.name.lower().startswith(_FILES_OF_A_PERSON)
        )
    # What is wrong with a person is for the transfer to say; a path may hold a NUL character, and
    # Pillow raises SyntaxError too.
    except (OSError, ValueError, SyntaxError):
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
    check_outputs([pair])
    person = pipeline.person(pair.person, label_set, densepose_encoding)
    garment_owner = pipeline.person(pair.garment_owner, label_set, densepose_encoding)
    # here, so that the rest of a batch is not run again without them
    person.check_view()
    garment_owner.check_view("garment owner")
    garment_owner.check_garment()
    return person, garment_owner


def _run(pipeline: Pipeline, reads: Iterable[Future[_People]]) -> list[Transfer | Exception]:
    results = [_attempt(read.result) for read in reads]
    people = [each for each in results if isinstance(each, tuple)]
    transfers = iter(transfer_each(pipeline, people))
    return [next(transfers) if isinstance(each, tuple) else each for each in results]


def transfer_each(
    pipeline: Pipeline, people: Sequence[tuple[Person, Person]]
) -> list[Transfer | Exception]:
    """The transfer of each pair, or why there is none: a pair that fails costs no other anything.

    They run as one batch; should that fail, which is logged, each runs alone.

    Args:
        pipeline: what transfers them.
        people: person and garment owner of each pair.
    """
    try:
        return [
            *pipeline.transfer_batch([one for one, _ in people], [owner for _, owner in people])
        ]
    except Exception as error:
        if len(people) == 1:
            return [error]
        _LOG.warning("a batch of %d failed, its pairs run one by one: %s", len(people), error)
        return [result for pair in people for result in transfer_each(pipeline, [pair])]


def _write(pair: Pair, result: Transfer | Exception, quality: int) -> None:
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
