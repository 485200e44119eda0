"""Inference: people, backends, and the pipeline that chains a bundle's graphs.

    from garment_transfer import Person, Pipeline, sample_bundle

    pipeline = Pipeline.load(sample_bundle())
    transfer = pipeline.transfer(Person.load("alice"), Person.load("bob"))

Public names are imported on first use, so that a path or an error alone, or the command line's
`--help`, needs neither NumPy and OpenCV nor a backend.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from garment_transfer.bundle import (
    BackendError as BackendError,
    Bundle as Bundle,
    BundleError as BundleError,
    EngineError as EngineError,
    GarmentTransferError as GarmentTransferError,
    InputError as InputError,
    OutputError as OutputError,
)

if TYPE_CHECKING:
    from garment_transfer.runtime._maps import Maps as Maps
    from garment_transfer.runtime._pairs import (
        Outcome as Outcome,
        Pair as Pair,
        check_outputs as check_outputs,
        is_done as is_done,
        read_pairs as read_pairs,
        shard as shard,
        transfer_each as transfer_each,
        transfer_pairs as transfer_pairs,
    )
    from garment_transfer.runtime._panel import (
        flow_colours as flow_colours,
        flow_wheel as flow_wheel,
        maps_picture as maps_picture,
        panel as panel,
        pictures_of as pictures_of,
    )
    from garment_transfer.runtime._pipeline import (
        Pipeline as Pipeline,
        Transfer as Transfer,
        stage_inputs as stage_inputs,
    )
    from garment_transfer.runtime._prepare import (
        DensePose as DensePose,
        DensePoseDescription as DensePoseDescription,
        DensePoseHeads as DensePoseHeads,
        DensePosePicture as DensePosePicture,
        InputSize as InputSize,
        ModelInput as ModelInput,
        Parser as Parser,
        ParserDescription as ParserDescription,
        ParserOutput as ParserOutput,
        prepare as prepare,
        prepare_photo as prepare_photo,
    )
    from garment_transfer.runtime._serving import (
        REQUEST_FIELDS as REQUEST_FIELDS,
        check_megapixels as check_megapixels,
        read_request as read_request,
        warm_up as warm_up,
    )
    from garment_transfer.runtime.photos import Person as Person

_MODULES: Final = {
    name: module
    for module, names in {
        "_maps": "Maps",
        "_pipeline": "Pipeline Transfer stage_inputs",
        "_pairs": "Outcome Pair check_outputs is_done read_pairs shard transfer_each "
        "transfer_pairs",
        "_panel": "flow_colours flow_wheel maps_picture panel pictures_of",
        "_prepare": "DensePose DensePoseDescription DensePoseHeads DensePosePicture InputSize "
        "ModelInput Parser ParserDescription ParserOutput prepare "
        "prepare_photo",
        "_serving": "REQUEST_FIELDS check_megapixels read_request warm_up",
        "photos": "Person",
    }.items()
    for name in names.split()
}

_ASSETS: Final = Path(__file__).parent / "assets"


def sample_bundle() -> Path:
    """The folder of the bundle that ships with the package."""
    return _ASSETS / "bundle"


def sample_people() -> tuple[Path, Path]:
    """The folders of the two people that ship with the package: receiver and garment owner."""
    return _ASSETS / "samples" / "person", _ASSETS / "samples" / "garment_owner"


def model_kinds(task: str) -> dict[str, Path]:
    """Ready descriptions of published models for `prepare`: JSON files by the kind's name.

    Args:
        task: "parsing" or "densepose".
    """
    return {path.stem: path for path in sorted((_ASSETS / "map_models" / task).glob("*.json"))}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
