"""The kernels' C++ and CUDA sources, compiled with sanitizers and run against their truth."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels/flow_warp"
COMPILER = shutil.which(os.environ.get("CXX", "g++"))

pytestmark = pytest.mark.skipif(
    COMPILER is None, reason="no C++ compiler: install g++, or name one in CXX"
)


def cuda_headers() -> Path | None:
    """The folder of cuda_fp16.h: of nvcc's toolkit, or of the package nvidia-cuda-runtime."""
    nvcc = shutil.which("nvcc")
    if nvcc:
        dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True)
        top = re.search(r"#\$ TOP=(\S+)", dry.stderr.decode())
        for root in (top[1] if top else "", "/usr/local/cuda"):
            if root and (Path(root) / "include/cuda_fp16.h").is_file():
                return Path(root) / "include"
    try:
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError:
        return None
    found = find_nvidia_header_directory("cudart")
    return Path(found) if found else None


def build_and_run(folder, sources, *options):
    program = folder / "program"
    command = [
        COMPILER, "-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-psabi",
        "-Wno-unknown-pragmas", "-fno-trapping-math", "-fno-math-errno",
        "-DGT_ONE_TARGET", f"-I{KERNELS}", f"-I{HERE}", *options,
        *map(str, sources), "-o", str(program), "-pthread",
    ]  # fmt: skip
    for step in (command, [str(program)]):
        ran = subprocess.run(step, capture_output=True, text=True, timeout=600)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "passed" in ran.stdout


SANITIZERS = {
    "address and undefined": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_cpu_kernel(tmp_path, sanitizer):
    sources = [HERE / "flow_warp_cpu_test.cpp", KERNELS / "flow_warp_cpu.cpp"]
    build_and_run(tmp_path, sources, *SANITIZERS[sanitizer])


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_cuda_kernels_thread_by_thread_on_the_cpu(tmp_path, sanitizer):
    headers = cuda_headers()
    if headers is None:
        pytest.skip(
            "no CUDA headers: install nvidia-cuda-runtime and cuda-pathfinder, or a toolkit"
        )
    sources = [HERE / "flow_warp_cuda_on_cpu_test.cpp"]
    build_and_run(tmp_path, sources, "-isystem", str(headers), *SANITIZERS[sanitizer])
