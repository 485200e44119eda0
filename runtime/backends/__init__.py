"""Inference backends: a module each, imported when used.

To add one, write `runtime/backends/NAME.py` with the names below and add it to `BACKENDS`:

- `Options`: a struct of what the backend can be told, each with a default;
- `available() -> Status`: its version and what it runs on; raises BackendError where it cannot run;
- `load(bundle, precision, options)`: the bundle's graphs, ready to run. A backend of the CPU gives
  an engine per stage, one of `DEVICE_BACKENDS` a `Chain` of all stages on the GPU;
- `load_maps(bundle, options)`, of a backend of the CPU: the graph `maps` of a bundle that has it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    ENGINE_BACKENDS,
    BackendError,
    Bundle,
    Code,
    InputError,
    Signature,
    Stage,
    differences,
    list_engines,
)
from garment_transfer.runtime.backends._threads import (
    MAX_THREADS as MAX_THREADS,
    Threads as Threads,
    default_threads as default_threads,
)

if TYPE_CHECKING:
    from garment_transfer.runtime.cuda import Chain

#: The backends that run on a GPU.
DEVICE_BACKENDS: Final = ("onnxruntime-cuda", *ENGINE_BACKENDS)

#: The backends by name.
BACKENDS: Final = ("onnxruntime", "openvino", *DEVICE_BACKENDS)

#: The name that stands for the backend that `choose_backend` chooses.
AUTO: Final = "auto"

#: Arrays in host memory by the contract's names, uint8 or float32.
Arrays = Mapping[str, npt.NDArray[np.generic]]


class HostEngine(Protocol):
    """A loaded graph that takes and gives host arrays."""

    @property
    def signature(self) -> Signature:
        """What the graph takes and gives."""

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Runs the graph; new arrays by output name come back. May be called from many threads."""


@dataclass(frozen=True)
class Status:
    """Whether a backend can run here; where it cannot, `reason` says why and `fix` what to do."""

    name: str
    available: bool
    version: str | None = None
    details: str = ""
    reason: str = ""
    fix: str = ""

    @classmethod
    def of(cls, name: str, available: Callable[[], Status]) -> Status:
        """What `available` gives, or the error that it raises."""
        try:
            return available()
        except BackendError as error:
            return cls(name, available=False, reason=error.what, fix=error.fix)
        # A package that is half removed, or was built for another version of what it needs, fails
        # in a way of its own.
        except Exception as error:
            return cls(
                name,
                available=False,
                reason=f"a package of it is damaged ({type(error).__name__}: {error})",
                fix="run `pip install --force-reinstall` with that package, or make a new "
                "environment",
            )


O = TypeVar("O", bound=msgspec.Struct)  # noqa: E741


@dataclass(frozen=True)
class Backend:
    """A backend by its name: whether it can run here, and a loader that takes keyword options.

    `load` raises BackendError for an option that the backend does not have (`option_unknown`), and
    InputError for one of another type or out of range (`option_invalid`).
    """

    name: str
    status: Callable[[], Status]
    load: Callable[[Bundle, str | None, Mapping[str, object]], Mapping[Stage, HostEngine] | Chain]
    load_maps: Callable[[Bundle, Mapping[str, object]], HostEngine] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        options: type[O],
        available: Callable[[], Status],
        load: Callable[[Bundle, str | None, O], Mapping[Stage, HostEngine] | Chain],
        load_maps: Callable[[Bundle, O], HostEngine] | None = None,
    ) -> Backend:
        """From the names that a backend's module has."""
        return cls(
            name,
            lambda: Status.of(name, available),
            lambda bundle, precision, given: load(
                bundle, precision, _make_options(name, options, given)
            ),
            load_maps
            and (lambda bundle, given: load_maps(bundle, _make_options(name, options, given))),
        )


def _make_options(name: str, kind: type[O], given: Mapping[str, object]) -> O:
    unknown = [option for option in given if option not in kind.__struct_fields__]
    if unknown:
        raise BackendError(
            Code.OPTION_UNKNOWN,
            f"backend {name} has no option {', '.join(unknown)}",
            expected=f"some of {', '.join(kind.__struct_fields__)}",
        )
    try:
        return msgspec.convert(dict(given), kind)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$.")
        option = where.rstrip("`")
        raise InputError(
            Code.OPTION_INVALID,
            f"option {option} of backend {name} is {given.get(option)!r}",
            expected=text.removeprefix("Expected ").replace("`", ""),
        ) from error


def find_backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        BackendError: there is none (`backend_unknown`).
    """
    if name not in BACKENDS:
        raise BackendError(
            Code.BACKEND_UNKNOWN,
            f"unknown backend {name!r}",
            expected=f"one of {', '.join(BACKENDS)}",
            fix="`garment-transfer doctor` says which of them can run here",
        )
    if name in ENGINE_BACKENDS:
        from garment_transfer.runtime.backends.tensorrt import backend_of

        return backend_of(name)
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    load_maps = None if name in DEVICE_BACKENDS else module.load_maps
    return Backend.of(name, module.Options, module.available, module.load, load_maps)


def choose_backend(bundle: Bundle, precision: str | None = None) -> tuple[str, str]:
    """What the name "auto" stands for, and why.

    The first of: TensorRT with engines of the bundle that fit this GPU and this version; ONNX
    Runtime on CUDA; ONNX Runtime on the CPU.
    """
    try:
        engines = list_engines(bundle)
    except BackendError:  # a record that is not valid
        engines = []
    names = {found.record.backend for found in engines}
    for name in ENGINE_BACKENDS:
        if name not in names:
            continue
        from garment_transfer.runtime.backends.tensorrt import engines_here

        try:
            return name, f"{engines_here(name, bundle, precision).path} fits this GPU"
        except BackendError:
            continue
    cuda = find_backend("onnxruntime-cuda").status()
    if cuda.available:
        return cuda.name, f"no engines in {bundle.path} fit, and there is {cuda.details}"
    return "onnxruntime", f"no engines in {bundle.path} fit, and onnxruntime-cuda: {cuda.reason}"


def check_signature(path: object, expected: Signature, found: Signature) -> None:
    """Raises BackendError unless a loaded graph has the inputs and outputs of its manifest."""
    if wrong := differences(expected, found):
        raise BackendError(
            Code.GRAPH_REJECTED,
            f"{path} is not the graph of its manifest: {wrong}",
            fix="write the bundle anew with `garment-transfer export CHECKPOINT -o BUNDLE`",
        )


def given_text(arrays: Arrays) -> str:
    """Names, dtypes and shapes of arrays, for messages."""
    return ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items())
