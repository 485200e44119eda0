"""The operators, a folder each, and the native libraries that `pip install` built of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_ONNXRUNTIME_LIBRARY = "libgarment_transfer_onnxruntime.so"
_TENSORRT_LIBRARY = "libgarment_transfer_tensorrt.so"
_PHOTOS_LIBRARY = "libgarment_transfer_photos.so"


def onnxruntime_library() -> Path | None:
    """The library that an ONNX Runtime session registers; None where none was built.

    `pip install` builds it where it finds a C++ compiler and ONNX Runtime's headers
    (`ONNXRUNTIME_ROOT` names their folder). With it a session computes FlowWarp in one kernel,
    without it by the function body in the graph.
    """
    return _built(_ONNXRUNTIME_LIBRARY)


def tensorrt_library() -> Path | None:
    """TensorRT's plugin, for its plugin registry's `load_library`; None where none was built.

    `pip install` builds it where `TensorRT_ROOT` names TensorRT's headers and there is nvcc.
    """
    return _built(_TENSORRT_LIBRARY)


def photos_library() -> Path | None:
    """Fit and Compose, which `kernels.photos` calls; None where none was built.

    `pip install` builds it where it finds a C++ compiler. Without it their definitions in NumPy
    run, which give the same pictures in several times the time.
    """
    return _built(_PHOTOS_LIBRARY)


def _built(library: str) -> Path | None:
    # an editable install has the sources in one folder and what was built in another
    found = (Path(folder) / library for folder in __path__)
    return next((path for path in found if path.is_file()), None)


@cache
def has_cuda_kernels(library: Path) -> bool:
    """Whether a library holds code for GPUs: nvcc puts it into a section of its own."""
    return b".nv_fatbin" in library.read_bytes()
