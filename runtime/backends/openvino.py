"""OpenVINO on the CPU, from the package `openvino`.

OpenVINO's ONNX reader does not know FlowWarp and does not open model-local functions, so the
function body is inlined when a graph is loaded, by the package `onnx`.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from garment_transfer.bundle import BackendError, Graph, Tensor
from garment_transfer.runtime.backends import Status, check_signature

#: What `inference_precision` may be: float32 whatever the processor has, or OpenVINO's own choice,
#: which is bfloat16 or float16 on processors that compute them faster.
PRECISIONS: Final = ("float32", "default")

_INSTALL: Final = "pip install openvino onnx"

_CORE_LOCK: Final = threading.Lock()


class OpenVinoEngine:
    """One compiled graph, with as many infer requests as were ever run at the same time."""

    def __init__(self, compiled: Any, graph: Graph) -> None:
        self._compiled = compiled
        # An infer request serves one caller at a time; idle ones wait here for the next.
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        found = {port.get_any_name(): _tensor(port) for port in compiled.inputs}
        # OpenVINO drops what a graph does not use.
        self._unused = {tensor.name for tensor in graph.inputs} - set(found)
        unused = tuple(tensor for tensor in graph.inputs if tensor.name in self._unused)
        self.inputs = (*found.values(), *unused)
        self.outputs = tuple(_tensor(port) for port in compiled.outputs)

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Runs the graph on arrays by input name; new arrays by output name come back."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            used = {name: array for name, array in inputs.items() if name not in self._unused}
            found = request.infer(used, share_inputs=True)
        # It raises RuntimeError and, for names and types, several others.
        except Exception as error:
            given = ", ".join(
                f"{name} {array.dtype} {list(array.shape)}" for name, array in inputs.items()
            )
            raise BackendError(
                f"OpenVINO failed to run a graph that takes ({', '.join(map(str, self.inputs))}) "
                f"on ({given}): {_reason(error)}; if the inputs agree, try a smaller batch or "
                "another version of openvino"
            ) from error
        self._idle.put(request)
        return {
            tensor.name: value for tensor, value in zip(self.outputs, found.values(), strict=True)
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


def load(
    path: Path,
    graph: Graph,
    threads: int | None,
    inference_precision: str = "float32",
    profiling: bool = False,
) -> OpenVinoEngine:
    """A compiled graph; `threads` per graph, None for OpenVINO's choice.

    `inference_precision` is one of `PRECISIONS`; with `profiling` the engine times its layers.

    Raises BackendError when OpenVINO is not installed or does not take the file, when there is no
    such precision, or when the file's inputs and outputs are not the manifest's.
    """
    if inference_precision not in PRECISIONS:
        raise BackendError(
            f"openvino has no inference precision {inference_precision!r}; available: "
            f"{', '.join(PRECISIONS)}"
        )
    current = status()
    if not current.available:
        raise BackendError(f"{current.reason}; {current.remedy}")
    import openvino

    # One stream, or the threads would be divided among several transfers at once.
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    if inference_precision == "float32":
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    if profiling:
        properties["PERF_COUNT"] = True
    try:
        core = _core()
        compiled = core.compile_model(core.read_model(_inlined(path)), "CPU", properties)
    except Exception as error:
        raise BackendError(
            f"OpenVINO {openvino.__version__} does not load {path}: {_reason(error)}; run "
            "`pip install --upgrade openvino`, or export the bundle anew"
        ) from error
    engine = OpenVinoEngine(compiled, graph)
    check_signature(path, graph, engine)
    return engine


def _core() -> Any:
    """The one Core of this process, never destroyed.

    On a processor with AMX every Core gives its thread a stack for signal handlers and takes it
    back when it is destroyed. Two that are not destroyed in the reverse order leave the thread
    with the stack of the one that is gone, and the next signal (Ctrl-C, SIGTERM) ends the process
    with a segmentation fault.
    """
    with _CORE_LOCK:  # a cache alone would let two first callers make one each
        return _make_core()


@functools.cache
def _make_core() -> Any:
    import openvino

    return openvino.Core()


def _inlined(path: Path) -> bytes:
    """The graph file with its model-local functions replaced by their bodies."""
    import onnx
    import onnx.inliner

    return onnx.inliner.inline_local_functions(onnx.load(path)).SerializeToString()


def status() -> Status:
    """Whether OpenVINO can run here."""
    try:
        import onnx  # noqa: F401
        import openvino
    except ImportError as error:
        missing = (error.name or "openvino").partition(".")[0]
        return Status(
            "openvino",
            available=False,
            reason=f"{missing} is not installed or does not import ({error})",
            remedy=f"run `{_INSTALL}`",
        )
    return Status(
        "openvino",
        available=True,
        version=openvino.__version__.partition("-")[0],
        details="runs on the CPU in float32; FlowWarp by its function body",
    )


def _tensor(port: Any) -> Tensor:
    shape = tuple(
        size.get_length() if size.is_static else str(size) for size in port.get_partial_shape()
    )
    return Tensor(port.get_any_name(), str(port.get_element_type().to_dtype()), shape)


def _reason(error: Exception) -> str:
    """The last line of a message says what failed; those before it say where in OpenVINO."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
