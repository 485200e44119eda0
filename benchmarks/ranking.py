"""What `--backend auto` goes by, from results of `garment-transfer benchmark`.

    python -m garment_transfer.benchmarks.ranking RESULT.json ... -o runtime/backends/measured.json

takes the row that is named like its backend (the backend's own default) at batch 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from garment_transfer.benchmarks.rows import ROWS
from garment_transfer.bundle import read_json, replacing


def ranking(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """One entry per report: where it was measured, and p50 of compute by backend."""
    defaults = {row.name for row in ROWS if row.kind == "backend" and row.name == row.backend}
    entries = []
    for report in reports:
        gpus = [gpu["name"] for gpu in report["environment"]["gpus"]]
        entries.append(
            {
                "device": ", ".join([report["environment"]["processor"], *gpus]),
                "threads": report["threads"],
                "size": "x".join(map(str, report["bundle"]["size"])),
                "measured": report["created"],
                "p50_ms": {
                    row["name"]: row["compute"]["p50_ms"]
                    for row in report["rows"]
                    if row["status"] == "measured" and row["batch"] == 1 and row["name"] in defaults
                },
            }
        )
    return {"measurements": entries}


@click.command()
@click.argument(
    "results", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def main(results: tuple[Path, ...], output: Path) -> None:
    """Rank the backends that RESULTS measured."""
    text = json.dumps(ranking([read_json(path) for path in results]), indent=2)
    with replacing(output) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
