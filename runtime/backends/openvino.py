"""OpenVINO on the CPU, from the package `openvino`.

OpenVINO's ONNX reader does not know FlowWarp and does not open model-local functions, so the
function body is inlined when a graph is loaded, by the package `onnx`.
"""

from __future__ import annotations

import functools
import importlib
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from garment_transfer.bundle import (
    BackendError,
    Code,
    Signature,
    Tensor,
    installed_versions,
)
from garment_transfer.runtime.backends import (
    Arrays,
    Status,
    Threads,
    check_signature,
    default_threads,
    given_text,
)

if TYPE_CHECKING:
    import openvino

_INSTALL: Final = "pip install openvino onnx"

_CORE_LOCK: Final = threading.Lock()


class Options(Struct, frozen=True, kw_only=True):
    """How OpenVINO runs a bundle.

    `threads` are those of each graph, None for what `default_threads` counts.
    `inference_precision` is float32 whatever the processor has, or "default", OpenVINO's own
    choice: bfloat16 or float16 on processors that compute them faster. With `profiling` the engines
    time their layers.
    """

    threads: Threads | None = None
    inference_precision: Literal["float32", "default"] = "float32"
    profiling: bool = False


class OpenVinoEngine:
    """One compiled graph, with as many infer requests as were ever run at the same time."""

    def __init__(self, compiled: openvino.CompiledModel, expected: Signature) -> None:
        self._compiled = compiled
        # An infer request serves one caller at a time; idle ones wait here for the next.
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        found = {port.get_any_name(): _tensor(port) for port in compiled.inputs}
        # OpenVINO drops what a graph does not use.
        unused = tuple(tensor for tensor in expected.inputs if tensor.name not in found)
        self._unused = {tensor.name for tensor in unused}
        self.signature = Signature(
            (*found.values(), *unused), tuple(_tensor(port) for port in compiled.outputs)
        )

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Runs the graph on arrays by input name; new arrays by output name come back."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            used = {name: array for name, array in inputs.items() if name not in self._unused}
            # copied: a request in the pool would otherwise keep its last caller's arrays alive
            found = request.infer(used, share_inputs=False)
        # It raises RuntimeError and, for names and types, several others.
        except Exception as error:
            raise BackendError(
                Code.RUN_FAILED,
                f"OpenVINO failed to run a graph on ({given_text(inputs)}): {_reason(error)}",
                expected=f"({', '.join(map(str, self.signature.inputs))})",
                fix="if the inputs agree, try a smaller batch or another version of openvino",
            ) from error
        self._idle.put(request)
        return {
            tensor.name: value
            for tensor, value in zip(self.signature.outputs, found.values(), strict=True)
        }

    def layers(self) -> list[tuple[str, str, float]]:
        """Name, type and milliseconds of every layer that ran in the last run, in order.

        Only for a graph that was loaded with `profiling`, and not while it is run.
        """
        request = self._idle.get_nowait()
        layers = [
            (layer.node_name, layer.node_type, layer.real_time.total_seconds() * 1000)
            for layer in request.profiling_info
            if layer.status == layer.status.EXECUTED
        ]
        self._idle.put(request)
        return layers


def open_graph(options: Options, content: bytes, path: Path, expected: Signature) -> OpenVinoEngine:
    """A bundle's graph, compiled. Raises BackendError."""
    available()
    import openvino

    # One stream, or the threads would be divided among several transfers at once.
    properties: dict[str, str | int | bool] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    threads = options.threads or default_threads()
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    if options.inference_precision == "float32":
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    if options.profiling:
        properties["PERF_COUNT"] = True
    try:
        with _CORE_LOCK:  # a cache alone would let two first callers make one each
            core = _core()
        compiled = core.compile_model(core.read_model(_inlined(content)), "CPU", properties)
    except Exception as error:
        raise BackendError(
            Code.GRAPH_REJECTED,
            f"OpenVINO {openvino.__version__} does not load {path}: {_reason(error)}",
            fix="run `pip install --upgrade openvino`, or export the bundle anew",
        ) from error
    engine = OpenVinoEngine(compiled, expected)
    check_signature(path, expected, engine.signature)
    return engine


@functools.cache
def _core() -> openvino.Core:
    """The one Core of this process, never destroyed.

    On a processor with AMX every Core gives its thread a stack for signal handlers and takes it
    back when it is destroyed. Two that are not destroyed in the reverse order leave the thread
    with the stack of the one that is gone, and the next signal (Ctrl-C, SIGTERM) ends the process
    with a segmentation fault.
    """
    import openvino

    return openvino.Core()


def _inlined(content: bytes) -> bytes:
    """A graph with its model-local functions replaced by their bodies."""
    import onnx
    import onnx.inliner

    model = onnx.load_model_from_string(content)
    inlined: bytes = onnx.inliner.inline_local_functions(model).SerializeToString()
    return inlined


def available() -> Status:
    """What runs here. Raises BackendError without OpenVINO or onnx."""
    for package in ("onnx", "openvino"):
        try:
            importlib.import_module(package)
        # A package that is half removed, or does not fit another, raises whatever it meets first.
        except Exception as error:
            installed = bool(installed_versions((package,)))
            # pip does nothing for a package that it takes for installed, damaged or not
            again = f"pip install --force-reinstall {package}"
            raise BackendError(
                Code.BACKEND_UNAVAILABLE,
                f"{package} {'does not import' if installed else 'is not installed'} ({error})",
                fix=f"run `{again if installed else _INSTALL}`",
            ) from error
    import openvino

    return Status(
        "openvino",
        available=True,
        version=openvino.__version__.partition("-")[0],
        details="runs on the CPU in float32; FlowWarp by its function body",
    )


def _tensor(port: openvino.Output) -> Tensor:
    shape = tuple(
        size.get_length() if size.is_static else str(size) for size in port.get_partial_shape()
    )
    return Tensor(port.get_any_name(), str(port.get_element_type().to_dtype()), shape)


def _reason(error: Exception) -> str:
    """The last line of a message says what failed; those before it say where in OpenVINO."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
