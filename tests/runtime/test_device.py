"""CUDA's driver as the runtime calls it, on a double of libcuda (tests/cpp/double).

It shows that the calls go through cuda-python with arguments of the right kind, that contexts are
pushed and popped, and that everything is given back. It shows nothing of CUDA itself, and
streams of the double run at once. `pytest -m gpu` covers that.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DOUBLE = HERE.parent / "cpp/double"


def test_the_driver_is_called_as_it_wants(tiny_bundle, photos_on_cpu, tmp_path):
    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed")
    compiler = shutil.which("g++") or pytest.skip("there is no g++ to compile the double with")
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-fvisibility=hidden", f"-I{DOUBLE}", "-o", tmp_path / "libcuda.so.1"]
    subprocess.run([*command, DOUBLE / "driver.cpp", DOUBLE / "cuda.cpp"], check=True)
    path = os.pathsep.join([str(tmp_path), os.environ.get("LD_LIBRARY_PATH", "")])
    arguments = (HERE / "on_driver_double.py", tiny_bundle, tmp_path, photos_on_cpu)
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "LD_LIBRARY_PATH": path.strip(os.pathsep)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "all is well\n"
