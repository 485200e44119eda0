"""The C++ library's TensorRT backend: on a double, against TensorRT's headers, and on a GPU."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from garment_transfer.bundle import Bundle, Plugin
from garment_transfer.kernels import tensorrt_library
from garment_transfer.runtime import sample_bundle
from garment_transfer.runtime.backends import find_backend

VARIABLE = "GARMENT_TRANSFER_TENSORRT_HEADERS"
HEADERS = [Path(p) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not on PATH: install the CUDA toolkit"
)


def test_backend_on_a_double(
    build, run, own_tiny_bundle, tiny_golden, golden, put_engines, tmp_path
):
    """Parity with Python, addresses, broken captures, times; `double/cuda.cpp` is the GPU."""
    rejected = shutil.copytree(own_tiny_bundle, tmp_path / "rejected")
    put_engines(Bundle.load(rejected))
    put_engines(Bundle.load(own_tiny_bundle), plan=None)
    shipped = shutil.copytree(sample_bundle(), tmp_path / "shipped")
    library = shipped / "manifest.json"  # the double takes any file for the plugin's library
    plugin = Plugin("FlowWarp", "1", hashlib.sha256(library.read_bytes()).hexdigest(), False)
    put_engines(Bundle.load(shipped), plan=None, plugin=plugin)
    run(
        [build("address", ["tensorrt_double_test"]) / "tests/tensorrt_double_test"],
        GARMENT_TRANSFER_ENGINES=str(own_tiny_bundle),
        GARMENT_TRANSFER_REJECTED=str(rejected),
        GARMENT_TRANSFER_GOLDEN=str(tiny_golden),
        GARMENT_TRANSFER_SHIPPED=str(shipped),
        GARMENT_TRANSFER_PLUGIN=str(library),
        GARMENT_TRANSFER_PEOPLE=str(golden / "sample"),
    )


@needs_nvcc
@pytest.mark.skipif(
    not HEADERS,
    reason=f"{VARIABLE} is not set: name folders include with NvInferRuntime.h in it, "
    f"separated by {os.pathsep!r}; NVIDIA's public TensorRT repository has one",
)
@pytest.mark.parametrize("headers", HEADERS, ids=str)
def test_backend_compiles(build, run, headers):
    targets = ["garment_transfer_tensorrt_backend", "tensorrt_test_code"]
    made = build("none", targets, tensorrt=headers.parent)
    (compiled,) = made.rglob("tensorrt_backend.cpp.o")
    # all that it leaves to others: TensorRT, CUDA, C++, and the rest of the library
    undefined = run(["nm", "-C", "--undefined-only", compiled])
    assert "createInferRuntime_INTERNAL" in undefined
    assert "cudaGraphLaunch" in undefined


@needs_nvcc
@pytest.mark.gpu
def test_backend_on_a_gpu(build, run, tiny_bundle, tiny_golden, golden, with_engines):
    """Parity with Python, device pointers, two streams at once, the plugin beside and inside."""
    root = os.environ.get("TensorRT_ROOT")  # noqa: SIM112 - CMake's spelling
    if root is None:
        pytest.skip("TensorRT_ROOT is not set: name TensorRT's folder, with include and lib in it")
    status = find_backend("tensorrt").status()
    if not status.available:
        pytest.skip(f"tensorrt: {status.reason}")
    folder = build("none", ["tensorrt_test"], tensorrt=Path(root))
    plugin = tensorrt_library()
    shipped = [
        with_engines(sample_bundle(), "tensorrt", "--plugin", choice)
        for choice in (("auto", "embed") if plugin else ())
    ]
    run(
        ["ctest", "--test-dir", folder, "-R", "^tensorrt_test$", "--output-on-failure"],
        GARMENT_TRANSFER_ENGINES=str(with_engines(tiny_bundle, "tensorrt")),
        GARMENT_TRANSFER_GOLDEN=str(tiny_golden),
        GARMENT_TRANSFER_SHIPPED=":".join(map(str, shipped)),
        GARMENT_TRANSFER_PLUGIN=str(plugin or ""),
        GARMENT_TRANSFER_PEOPLE=str(golden / "sample"),
    )
