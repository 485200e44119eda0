"""Inference: bundles, people, backends and the pipeline that chains a bundle's graphs.

    from garment_transfer.runtime import Person, Pipeline, sample_bundle

    pipeline = Pipeline.load(sample_bundle())
    transfer = pipeline.transfer(Person.load("alice"), Person.load("bob"))

Public names are imported on first use, because the command line imports this package for its
errors and has to answer `--help` at once.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from garment_transfer.runtime.bundle import Bundle as Bundle
    from garment_transfer.runtime.errors import BackendError as BackendError
    from garment_transfer.runtime.errors import BundleError as BundleError
    from garment_transfer.runtime.errors import GarmentTransferError as GarmentTransferError
    from garment_transfer.runtime.errors import InputError as InputError
    from garment_transfer.runtime.errors import OutputError as OutputError
    from garment_transfer.runtime.people import Person as Person
    from garment_transfer.runtime.pipeline import Pipeline as Pipeline
    from garment_transfer.runtime.pipeline import Transfer as Transfer

_HOMES = {
    "BackendError": "errors",
    "Bundle": "bundle",
    "BundleError": "errors",
    "GarmentTransferError": "errors",
    "InputError": "errors",
    "OutputError": "errors",
    "Person": "people",
    "Pipeline": "pipeline",
    "Transfer": "pipeline",
}

__all__ = [*_HOMES, "sample_bundle", "sample_people"]

_ASSETS = Path(__file__).parent / "assets"


def sample_bundle() -> Path:
    """The folder of the bundle that ships with the package."""
    return _ASSETS / "bundle"


def sample_people() -> tuple[Path, Path]:
    """The folders of the two people that ship with the package: receiver and garment owner."""
    return _ASSETS / "samples" / "person", _ASSETS / "samples" / "garment_owner"


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
