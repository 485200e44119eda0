"""Which backend `auto` stands for: the fastest, by measurement, of those that run here.

The measurement is `backends/measured.json`, which `python -m garment_transfer.benchmarks.ranking`
makes from results of `garment-transfer benchmark`.
"""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass
from typing import Any, Final

from garment_transfer.bundle import BackendError
from garment_transfer.runtime.backends import BACKENDS, find_backend

#: The name that stands for the fastest backend.
AUTO: Final = "auto"


@dataclass(frozen=True)
class Choice:
    """A backend's name, and one line that says why it and no other."""

    name: str
    reason: str


def fastest_backend() -> Choice:
    """The fastest measured backend that runs here.

    Raises BackendError where none of the measured ones does.
    """
    return _fastest(measurements())


def measurements() -> list[dict[str, Any]]:
    """One entry per measured machine: its processor, and p50 in milliseconds by backend."""
    file = importlib.resources.files("garment_transfer.runtime.backends").joinpath("measured.json")
    entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["measurements"]
    return entries


def _fastest(entries: list[dict[str, Any]]) -> Choice:
    measured = {name for entry in entries for name in entry["p50_ms"]}
    status = {name: find_backend(name).status() for name in BACKENDS if name in measured}
    available = {name for name, found in status.items() if found.available}
    if not available:
        reasons = "; ".join(f"{name}: {found.reason}" for name, found in status.items())
        raise BackendError(
            f"no measured backend runs here ({reasons or 'none is measured'}); expected one of "
            f"{', '.join(BACKENDS)}: run `pip install onnxruntime`"
        )
    # The machine that says most about what is here.
    entry = max(entries, key=lambda e: len(available & set(e["p50_ms"])))
    ranked = sorted(available & set(entry["p50_ms"]), key=lambda name: entry["p50_ms"][name])
    figures = ", ".join(f"{name} {entry['p50_ms'][name]:.1f} ms" for name in ranked)
    reason = (
        f"backend {ranked[0]}: the fastest here by measurement ({figures} a pair on "
        f"{entry['device']}, {entry['threads']} threads, {entry['size']})"
    )
    absent = [
        f"{name} (not installed, {entry['p50_ms'][name]:.1f} ms)"
        for name in sorted(set(entry["p50_ms"]) - available)
    ]
    unmeasured = [f"{name} (not measured)" for name in BACKENDS if name not in entry["p50_ms"]]
    left_out = ", ".join(absent + unmeasured)
    return Choice(ranked[0], reason + (f"; left out: {left_out}" if left_out else ""))
