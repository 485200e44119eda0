"""`transfer --pairs` of this installation beside that of another one, on the same photos.

    python -m garment_transfer.benchmarks.pairs --beside OTHER/bin/python --json FILE

The people of the package at 1024x768, each with its installation's own bundle. A list is run short
and long, so that loading counts for neither; lists of all ways take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median

import click
from msgspec import Struct

from garment_transfer.benchmarks.measuring import in_turn, write_rows
from garment_transfer.runtime import sample_people

_SHORT, _LONG = 4, 34


class Row(Struct):
    """Medians of the rounds, per pair; `core_ms` is processor time of all threads."""

    installation: str
    output: str
    core_ms: float
    pairs_per_s: float


def _run(python: str, folder: Path, suffix: str, count: int) -> tuple[float, float]:
    """Processor and wall time of a list, in milliseconds."""
    people = sample_people()
    lines = ["person,garment_owner,output"]
    for index in range(count):
        person, owner = people if index % 2 else people[::-1]
        lines.append(f"{person},{owner},{folder / f'{index}{suffix}'}")
    pairs = folder / "pairs.csv"
    pairs.write_text("\n".join(lines) + "\n")
    code = "from garment_transfer.cli.main import main; main()"
    before, start = os.times(), time.perf_counter()
    subprocess.run([python, "-c", code, "transfer", "--pairs", pairs], check=True)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system
    return 1000 * (cpu - before.children_user - before.children_system), 1000 * wall


def measure(pythons: Mapping[str, str], rounds: int, folder: Path) -> list[Row]:
    """A row per installation, by the path of its Python, and format of the outputs."""
    ways = [(name, suffix) for suffix in (".png", ".jpg") for name in pythons]
    cpu: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    wall: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for way in in_turn(ways, rounds):
        run = partial(_run, pythons[way[0]], folder, way[1])
        (short, short_wall), (long, long_wall) = run(_SHORT), run(_LONG)
        cpu[way].append((long - short) / (_LONG - _SHORT))
        wall[way].append((long_wall - short_wall) / (_LONG - _SHORT))
    return [
        Row(
            *way, core_ms=round(median(cpu[way]), 1), pairs_per_s=round(1000 / median(wall[way]), 2)
        )
        for way in ways
    ]


@click.command()
@click.option("--beside", type=click.Path(exists=True), help="The Python of another installation.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(beside: str | None, rounds: int, json_file: Path | None) -> None:
    """Time lists of pairs."""
    pythons = {"here": sys.executable} | ({"beside": beside} if beside else {})
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(pythons, rounds, Path(folder))
    for row in rows:
        click.echo(
            f"{row.installation}, {row.output}: {row.core_ms:.1f} core-ms a pair, "
            f"{row.pairs_per_s:.2f} pairs/s"
        )
    if json_file:
        what = "transfer --pairs, per pair at 1024x768; medians of rounds in which all take turns"
        write_rows(json_file, what, os.cpu_count() or 1, rounds, rows)


if __name__ == "__main__":
    main()
