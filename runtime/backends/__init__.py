"""Inference backends: one module each, imported when used.

A backend of the CPU has `load(path, graph, threads, **options) -> Engine`, a graph of a bundle,
ready to run on host arrays; the options are its own and have defaults. One of `DEVICE_BACKENDS` has
`load(bundle, options) -> Chain`, all graphs in a row on a GPU. Either has `status() -> Status`:
whether it can run here, and if not, why and what mends it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy.typing as npt

from garment_transfer.bundle import BackendError, Bundle, Graph, Tensor

if TYPE_CHECKING:
    from garment_transfer.runtime.cuda import Chain

#: The backends that run on a GPU.
DEVICE_BACKENDS: Final = ("onnxruntime-cuda", "tensorrt", "tensorrt-rtx")

#: The backends by name.
BACKENDS: Final = ("onnxruntime", "openvino", *DEVICE_BACKENDS)


class Engine(Protocol):
    """A loaded graph. `run` may be called from several threads at once."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the graph takes."""

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What the graph gives."""

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Runs the graph on arrays by input name; new arrays by output name come back."""


@dataclass(frozen=True)
class Status:
    """Whether a backend can run here; where it cannot, `reason` and `remedy` say more."""

    name: str
    available: bool
    version: str | None = None
    details: str = ""
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class DeviceOptions:
    """How a chain is loaded; `Pipeline.load` says what each field does."""

    precision: str | None = None
    device: int = 0
    sessions: int = 8
    graphs: bool = True
    rebuild_if_needed: bool = False
    threads: int | None = None


class Backend(Protocol):
    """What every backend provides."""

    def status(self) -> Status:
        """Whether the backend can run here."""


class HostBackend(Backend, Protocol):
    """What a backend of the CPU provides."""

    def load(self, path: Path, graph: Graph, threads: int | None, **options: Any) -> Engine:
        """A graph of a bundle, ready to run on `threads` threads (None: the backend's choice)."""


class DeviceBackend(Backend, Protocol):
    """What a backend of the GPU provides."""

    def load(self, bundle: Bundle, options: DeviceOptions) -> Chain:
        """A bundle's graphs in a row on the GPU."""


def find_backend(name: str) -> HostBackend | DeviceBackend:
    """The backend of a name; a DeviceBackend for those of `DEVICE_BACKENDS`.

    Raises BackendError where there is none.
    """
    if name not in BACKENDS:
        raise BackendError(
            f"unknown backend {name!r}; available: {', '.join(BACKENDS)}; "
            "`garment-transfer doctor` says which of them can run here"
        )
    if name in ("tensorrt", "tensorrt-rtx"):
        from garment_transfer.runtime.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(name)
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return cast("HostBackend | DeviceBackend", module)


def check_options(name: str, backend: HostBackend, options: Mapping[str, Any]) -> None:
    """Raises BackendError for options that a backend's `load` does not take."""
    known = list(inspect.signature(backend.load).parameters)[3:]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise BackendError(
            f"backend {name} has no option {', '.join(unknown)}; available: "
            f"{', '.join(known) or 'none'}"
        )


def check_signature(path: Path, graph: Graph, engine: Engine) -> None:
    """Raises BackendError unless a loaded graph has the inputs and outputs of its manifest.

    A size that the engine leaves open agrees with any; the batch has to be open.
    """
    for kind, due, found in (
        ("input", graph.inputs, engine.inputs),
        ("output", graph.outputs, engine.outputs),
    ):
        of_name = {tensor.name: tensor for tensor in found}
        if set(of_name) != {tensor.name for tensor in due} or not all(
            _agree(tensor, of_name[tensor.name]) for tensor in due
        ):
            raise BackendError(
                f"{path} has the {kind}s ({', '.join(map(str, found))}), but its manifest says "
                f"({', '.join(map(str, due))}): write the bundle anew with "
                "`garment-transfer export CHECKPOINT -o BUNDLE`"
            )


def _agree(due: Tensor, found: Tensor) -> bool:
    return (
        due.dtype == found.dtype
        and len(due.shape) == len(found.shape)
        and all(
            isinstance(have, str) or have == want
            for want, have in zip(due.shape, found.shape, strict=True)
        )
    )
