"""FlowWarp's kernels: the native library of each runtime, and the operator on CUDA arrays."""

from __future__ import annotations

from pathlib import Path

_ONNXRUNTIME_LIBRARY = "libgarment_transfer_onnxruntime.so"


def onnxruntime_library() -> Path | None:
    """The library that an ONNX Runtime session registers; None where none was built.

    `pip install` builds it where it finds a C++ compiler and ONNX Runtime's headers
    (`ONNXRUNTIME_ROOT` names their folder). With it a session computes FlowWarp in one kernel,
    without it by the function body in the graph.
    """
    # an editable install has the sources in one folder and what was built in another
    found = (Path(folder) / _ONNXRUNTIME_LIBRARY for folder in __path__)
    return next((path for path in found if path.is_file()), None)
