"""Lists of pairs: CSV files with the header `person,garment_owner,output`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from garment_transfer.runtime.errors import InputError

COLUMNS: Final = ("person", "garment_owner", "output")


@dataclass(frozen=True)
class Pair:
    """Folders of the person and of the garment's owner, and the picture to write."""

    person: Path
    garment_owner: Path
    output: Path


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a CSV file; relative paths in it start from its folder.

    InputError names the line when a cell is missing or two pairs have one output, and says what
    is due when the file has another header, no pairs, or cannot be read.
    """
    header = ",".join(COLUMNS)
    try:
        # utf-8-sig: spreadsheets begin UTF-8 files with a mark that would join the first name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            found = tuple(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as a list of pairs ({error}); expected a UTF-8 CSV file with "
            f"the header {header}"
        ) from error
    if found != COLUMNS:
        raise InputError(
            f"{path} has the header {','.join(found) or '(none)'}; expected {header} as its first "
            "line"
        )
    pairs: list[Pair] = []
    line_of: dict[Path, int] = {}
    for line, row in rows:
        cells = [row[name] for name in COLUMNS]
        # DictReader puts surplus cells under None.
        if not all(cells) or None in row:
            raise InputError(f"{path}, line {line}: expected three cells, {header}")
        pair = Pair(*(path.parent / cell for cell in cells))
        if pair.output in line_of:
            raise InputError(
                f"{path}, line {line}: the output {cells[2]} is that of line "
                f"{line_of[pair.output]} too; give each pair its own"
            )
        line_of[pair.output] = line
        pairs.append(pair)
    if not pairs:
        raise InputError(f"{path} lists no pairs; add a line below its header {header}")
    return pairs
