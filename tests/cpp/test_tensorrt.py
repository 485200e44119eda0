"""The C++ library's TensorRT backend, compiled against TensorRT's headers; runs none of it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

VARIABLE = "GARMENT_TRANSFER_TENSORRT_HEADERS"
HEADERS = [Path(p) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]

pytestmark = [
    pytest.mark.skipif(
        not HEADERS,
        reason=f"{VARIABLE} is not set: name folders include with NvInferRuntime.h in it, "
        f"separated by {os.pathsep!r}; NVIDIA's public TensorRT repository has one",
    ),
    pytest.mark.skipif(
        shutil.which("nvcc") is None, reason="nvcc is not on PATH: install the CUDA toolkit"
    ),
]


@pytest.mark.parametrize("headers", HEADERS, ids=str)
def test_backend_compiles(
    build: Callable[..., Path], run: Callable[..., str], headers: Path, tmp_path: Path
) -> None:
    target = "garment_transfer_tensorrt_backend"
    made = build("none", [target], tensorrt=headers.parent)
    (compiled,) = made.rglob("tensorrt_backend.cpp.o")
    # all that it leaves to others: TensorRT, CUDA, C++, and the rest of the library
    undefined = run(["nm", "-C", "--undefined-only", compiled])
    assert "createInferRuntime_INTERNAL" in undefined
    assert "cudaGraphLaunch" in undefined
