"""Inference backends: a module each, imported when used.

To add one, write `runtime/backends/NAME.py` with the names below and add it to `BACKENDS`:

- `Options`: a struct of what the backend can be told, each with a default;
- `available() -> Status`: its version and what it runs on; raises BackendError where it cannot run;
- of a backend of the CPU, `open_graph(options, content, path, expected)`: an engine of one of a
  bundle's graphs, whose bytes are those of a verified file, and whose signature is compared;
- of one of `DEVICE_BACKENDS`, `load(bundle, precision, options)`: a `Chain` of all stages.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    ENGINE_BACKENDS,
    STAGES,
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


E = TypeVar("E", bound=HostEngine)


@dataclass(frozen=True)
class Status:
    """Whether a backend can run here; where it cannot, `reason` says why and `fix` what to do."""

    name: str
    available: bool
    version: str | None = None
    details: str = ""
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Backend:
    """A backend by its name, of the functions of its module; options are given as keywords.

    An option that the backend does not have raises BackendError (`option_unknown`), one of another
    type or out of range InputError (`option_invalid`).
    """

    name: str
    options: type[msgspec.Struct]
    available: Callable[[], Status]
    chain: Callable[[Bundle, str | None, Any], Chain] | None = None
    open_graph: Callable[[Any, bytes, Path, Signature], HostEngine] | None = None

    def status(self) -> Status:
        """Whether it can run here."""
        try:
            return self.available()
        except BackendError as error:
            return Status(self.name, available=False, reason=error.what, fix=error.fix)
        # A package that is half removed, or was built for another version of what it needs, fails
        # in a way of its own.
        except Exception as error:
            return Status(
                self.name,
                available=False,
                reason=f"a package of it is damaged ({type(error).__name__}: {error})",
                fix="run `pip install --force-reinstall` with that package, or make a new "
                "environment",
            )

    def load(
        self, bundle: Bundle, precision: str | None, given: Mapping[str, object]
    ) -> Mapping[Stage, HostEngine] | Chain:
        """The bundle's graphs, ready to run: an engine per stage on the CPU, a chain on a GPU.

        Raises:
            BundleError: the bundle has no graphs of that precision, or one changed.
            BackendError: the backend cannot run here or does not take a graph, or a graph's inputs
                and outputs are not the manifest's.
        """
        options = _make_options(self.name, self.options, given)
        if self.chain is not None:
            return self.chain(bundle, precision, options)
        assert self.open_graph is not None  # as every backend of the CPU has it
        return open_stages(bundle, precision, functools.partial(self.open_graph, options))

    def load_maps(self, bundle: Bundle, given: Mapping[str, object]) -> HostEngine:
        """The graph `maps` on the CPU. Raises as `load`, and BundleError where there is none."""
        options = _make_options(self.name, self.options, given)
        content, graph = bundle.read_maps(), bundle.manifest.maps
        assert graph is not None  # it was read
        assert self.open_graph is not None
        return self.open_graph(options, content, bundle.path / graph.file, graph.signature)


def open_stages(
    bundle: Bundle, precision: str | None, open_graph: Callable[[bytes, Path, Signature], E]
) -> dict[Stage, E]:
    """An engine per stage, by a backend's `open_graph` with its options. As `Backend.load`."""
    graphs = bundle.manifest.graphs_of(precision)
    return {
        stage: open_graph(
            # the bytes that were verified, not a file that may have changed since
            bundle.read_graph(stage, precision),
            bundle.graph_path(stage, precision),
            graphs[stage].signature,
        )
        for stage in STAGES
    }


def _make_options(
    name: str, kind: type[msgspec.Struct], given: Mapping[str, object]
) -> msgspec.Struct:
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
    if name in DEVICE_BACKENDS:
        return Backend(name, module.Options, module.available, chain=module.load)
    return Backend(name, module.Options, module.available, open_graph=module.open_graph)


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
