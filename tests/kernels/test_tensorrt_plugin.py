"""The TensorRT plugin, compiled against TensorRT's headers; needs neither its library nor a GPU."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VARIABLE = "GARMENT_TRANSFER_TENSORRT_HEADERS"
HEADERS = [Path(p) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]
NVCC = shutil.which("nvcc")

pytestmark = [
    pytest.mark.skipif(
        not HEADERS,
        reason=f"{VARIABLE} is not set: name folders with NvInferRuntime.h in it, separated by "
        f"{os.pathsep!r}; NVIDIA's public TensorRT repository has one at every release, include/",
    ),
    pytest.mark.skipif(NVCC is None, reason="nvcc is not on PATH: install the CUDA toolkit"),
]


@pytest.mark.parametrize("headers", HEADERS, ids=str)
def test_plugin_answers_tensorrt_as_specified(headers, tmp_path):
    kernels = ROOT / "kernels"
    program = tmp_path / "plugin_test"
    # for nvcc's default architecture: no kernel runs here
    command = [
        str(NVCC),
        "-std=c++17",
        f"-I{kernels}",
        f"-I{kernels}/flow_warp",
        "-isystem",
        str(headers),
    ]
    sources = [
        kernels / "flow_warp" / "flow_warp_cuda.cu",
        kernels / "tensorrt" / "flow_warp_plugin.cpp",
        kernels / "tensorrt" / "register.cpp",
        Path(__file__).with_name("plugin_test.cpp"),
    ]
    for step in ([*command, *map(str, sources), "-o", str(program)], [str(program)]):
        ran = subprocess.run(step, capture_output=True, text=True, timeout=600)
        assert ran.returncode == 0, ran.stdout + ran.stderr
