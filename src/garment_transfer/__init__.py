"""Garment transfer: the upper garment that one person wears, on another person, photo to photo.

    from garment_transfer import Person, Pipeline, sample_bundle, sample_people

    pipeline = Pipeline.load(sample_bundle())
    transfer = pipeline.transfer(*map(Person.load, sample_people()))

Importing this loads no backend, and NumPy and OpenCV only once `Person` or `Pipeline` is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from garment_transfer import runtime as _runtime
from garment_transfer.bundle import (
    BackendError as BackendError,
    Bundle as Bundle,
    BundleError as BundleError,
    Code as Code,
    EngineError as EngineError,
    ExportError as ExportError,
    GarmentTransferError as GarmentTransferError,
    InputError as InputError,
    OutputError as OutputError,
    package_version as _package_version,
)
from garment_transfer.runtime import (
    sample_bundle as sample_bundle,
    sample_people as sample_people,
)

if TYPE_CHECKING:
    from garment_transfer.runtime import (
        Person as Person,
        Pipeline as Pipeline,
        Transfer as Transfer,
    )

__version__ = _package_version()


def __getattr__(name: str) -> object:
    if name not in ("Person", "Pipeline", "Transfer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_runtime, name)
