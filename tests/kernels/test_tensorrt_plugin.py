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


@pytest.fixture(scope="module", params=HEADERS, ids=str)
def build(request, tmp_path_factory):
    """`build(name, sources, *options)`: a program or library of the plugin against some headers."""
    folder, kernels = tmp_path_factory.mktemp("plugin"), ROOT / "kernels"
    command = [NVCC, "-std=c++17", "-O2", f"-I{kernels}", f"-I{kernels}/flow_warp", "-isystem"]
    command += [request.param, "-Werror", "all-warnings", "-cudart", "static"]
    command += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror"]
    # for nvcc's default architecture: no kernel runs here
    run(*command, "-c", kernels / "flow_warp/flow_warp_cuda.cu", "-o", folder / "kernels.o")
    run(*command, "-c", kernels / "tensorrt/flow_warp_plugin.cpp", "-o", folder / "plugin.o")

    def make(name, source, *options):
        objects = (folder / "kernels.o", folder / "plugin.o")
        run(*command, *options, kernels / "tensorrt/register.cpp", *source, *objects, "-o",
            folder / name)  # fmt: skip
        return folder / name

    return make


def run(*command):
    """What a command prints; it must not fail."""
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_plugin_answers_tensorrt_as_specified(build):
    run(build("plugin_test", [Path(__file__).with_name("plugin_test.cpp")]))


@pytest.mark.parametrize(
    ("options", "exported", "needed"),
    [
        ([], {"getCreators", "setLoggerFinder"}, set()),
        (["-DGT_REGISTER_ON_LOAD"], set(), {"getLogger", "getPluginRegistry"}),
    ],
    ids=["to be loaded", "registers on load"],
)
def test_what_the_libraries_export_and_need_of_tensorrt(build, options, exported, needed):
    library = build("library.so", [], "-shared", "-Xlinker", "--exclude-libs,ALL", *options)
    symbols = [line.split()[-2:] for line in run("nm", "-D", library).splitlines()]
    assert {name for kind, name in symbols if kind not in "Uw"} == exported
    # the system's libraries version what they have
    assert {name for kind, name in symbols if kind == "U" and "@" not in name} == needed
