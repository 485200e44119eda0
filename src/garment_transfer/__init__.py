"""Garment transfer: the upper garment that one person wears, on another person, photo to photo.

    from garment_transfer import Person, Pipeline, sample_bundle, sample_people

    pipeline = Pipeline.load(sample_bundle())
    transfer = pipeline.transfer(*map(Person.load, sample_people()))

Importing this loads nothing else: a name is imported when it is used, so that the command line can
say what is wrong with an installation of which packages are missing or damaged.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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
    )
    from garment_transfer.runtime import (
        Person as Person,
        Pipeline as Pipeline,
        Transfer as Transfer,
        sample_bundle as sample_bundle,
        sample_people as sample_people,
    )

    __version__: str

# These libraries tell their vendors how they are used unless they are told not to before they are
# loaded. A toolkit for photos of people tells nobody anything; whoever sets the variables, or has
# imported OpenVINO already, decides otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if "openvino" not in sys.modules:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_RUNTIME: Final = ("Person", "Pipeline", "Transfer", "sample_bundle", "sample_people")
_BUNDLE: Final = (
    "BackendError",
    "Bundle",
    "BundleError",
    "Code",
    "EngineError",
    "ExportError",
    "GarmentTransferError",
    "InputError",
    "OutputError",
)


__all__ = [*_RUNTIME, *_BUNDLE, "__version__"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.import_module("garment_transfer.bundle").package_version()
    for folder, names in (("runtime", _RUNTIME), ("bundle", _BUNDLE)):
        if name in (folder, *names):
            module = importlib.import_module(f"garment_transfer.{folder}")
            return module if name == folder else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
