"""Figures that others published, beside ours of the same part of the work."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any


def published() -> dict[str, Any]:
    """The published figures: what they are of, the device, the source, and a row per method."""
    file = importlib.resources.files("garment_transfer.benchmarks").joinpath("published.json")
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return table


def network_time_rows(report: dict[str, Any]) -> list[list[str]]:
    """Name, milliseconds and origin: published rows, then a report's at batch 1.

    Ours is the time of warping and regrowth, without the parsing stage, since the published ones
    leave parsing out.
    """
    table = published()
    rows = [
        [row["name"], f"{row['ms']:.1f}", f"published, {table['device']}, not measured here"]
        for row in table["rows"]
    ]
    device = {
        "cpu": f"{report['environment']['processor']}, {report['threads']} threads",
        "cuda": ", ".join(gpu["name"] for gpu in report["environment"]["gpus"]),
    }
    rows += [
        [
            f"warping and regrowth, {row['label']}",
            f"{row['warping_and_regrowth_ms']:.1f}",
            f"measured, {device[row['device']]}"
            + (", copies included" if row["device"] == "cuda" else ""),
        ]
        for row in report["rows"]
        if row["status"] == "measured"
        and row["batch"] == 1
        and row["name"] != "empty"
        and row["warping_and_regrowth_ms"] is not None
    ]
    return rows
