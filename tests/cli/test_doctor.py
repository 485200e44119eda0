import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from garment_transfer import runtime
from garment_transfer.cli import doctor
from garment_transfer.kernels import driver


@pytest.fixture
def shipped(tiny_bundle, monkeypatch) -> None:
    """Puts the tiny bundle in the place of the one that ships."""
    monkeypatch.setattr(runtime, "sample_bundle", lambda: tiny_bundle)


@pytest.mark.usefixtures("shipped")
def test_all_is_well(invoke):
    printed = invoke("doctor")
    assert "backend onnxruntime" in printed
    assert "bundle in the package: whole" in printed
    assert "a transfer can run here" in printed


@pytest.mark.usefixtures("shipped")
def test_json(invoke):
    printed = invoke("doctor", "--json")
    found = json.loads(printed)
    assert found["can_transfer"] is True
    assert found["backends"][0]["available"] is True
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")


def test_damaged_bundle(invoke, own_tiny_bundle, monkeypatch):
    (own_tiny_bundle / "parsing.onnx").unlink()
    monkeypatch.setattr(runtime, "sample_bundle", lambda: own_tiny_bundle)
    printed = invoke("doctor", code=1)
    assert "parsing.onnx, which the manifest lists, cannot be read" in printed
    assert "a transfer CANNOT run here" in printed


def test_the_packages_of_an_extra_are_the_metadatas(monkeypatch):
    requirements = [
        "numpy>=1.26",
        "torch>=2.9; extra == 'export'",
        'onnx-not-there[x]>=1.17; extra == "export"',
        'anny<0.7,>=0.6; python_version < "3.14" and extra == "train"',
        'exporter; extra == "exports"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    extras = doctor._findings()["extras"]
    assert list(extras["export"]) == ["torch", "onnx-not-there"]
    assert list(extras["train"]) == ["anny"]
    assert extras["export"]["onnx-not-there"] is None


@pytest.mark.usefixtures("shipped")
def test_missing_packages(invoke, monkeypatch):
    monkeypatch.setattr(doctor, "_BASE", (("no_such_module", "x", "no-such-package"),))
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["nor-this; extra == 'train'"])
    printed = invoke("doctor", code=1)
    assert "no-such-package MISSING" in printed
    assert "pip install no-such-package" in printed
    assert "extra train: not installed: nor-this" in printed
    assert 'pip install ".[train]"' in printed


@pytest.mark.usefixtures("shipped")
def test_what_engines_can_be_built(invoke, monkeypatch):
    engines = json.loads(invoke("doctor", "--json"))["engines"]
    backends = {backend["name"]: backend for backend in engines["backends"]}
    assert set(backends) == {"tensorrt", "tensorrt-rtx"}
    for backend in backends.values():
        # what cannot be used says why
        assert backend["builds"] or backend["reason"]
        assert backend["version"] or "pip install" in backend["reason"]
    if backends["tensorrt-rtx"]["version"]:
        assert backends["tensorrt-rtx"]["builds"]  # with no GPU
    assert engines["gpu"]["name"] or "no GPU" in engines["gpu"]["reason"]
    output = invoke("doctor")
    assert "build with tensorrt-rtx" in output
    assert "FlowWarp's TensorRT plugin: " in output


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("loads", [False, True])
def test_the_library_of_fit_and_compose(invoke, monkeypatch, loads):
    from garment_transfer import kernels
    from garment_transfer.kernels import photos

    monkeypatch.setattr(kernels, "photos_library", lambda: Path("/lib/photos.so"))
    library = SimpleNamespace(has_cuda=True) if loads else None
    monkeypatch.setattr(photos, "load", lambda: library)
    output = invoke("doctor")
    assert ("Fit and Compose in C++: /lib/photos.so, with CUDA" in output) == loads
    assert ("again where there is a C++ compiler" in output) != loads


@pytest.mark.usefixtures("shipped")
def test_a_gpu_and_a_plugin(invoke, monkeypatch):
    from garment_transfer import kernels
    from garment_transfer.runtime import cuda

    monkeypatch.setattr(
        cuda, "CudaDevice", lambda: SimpleNamespace(name="H100", compute_capability="9.0")
    )
    monkeypatch.setattr(kernels, "tensorrt_library", lambda: Path("/lib/plugin.so"))
    output = invoke("doctor")
    assert "GPU: H100, compute capability 9.0" in output
    assert "TensorRT runs on it, TensorRT-RTX does not" in output
    assert "FlowWarp's TensorRT plugin: /lib/plugin.so" in output


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("kernel_module", "cuda", "said"),
    [
        ("NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23", 12080, "570.86.15, for CUDA "),
        ("NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release", 13000, "580.65.06, for "),
        (None, 13010, "there, for CUDA 13.1\n"),  # where the kernel is another's, as in WSL
    ],
)
def test_the_driver_that_is_found(invoke, monkeypatch, tmp_path, kernel_module, cuda, said):
    def without_gpus() -> None:
        raise driver.CudaError("CUDA says no CUDA-capable device is detected")

    file = tmp_path / "version"
    if kernel_module:
        file.write_text(f"NVRM version: {kernel_module} 22:30:43 UTC 2025\nGCC version: 12.3.0\n")
    monkeypatch.setattr(doctor, "_DRIVER", file)
    monkeypatch.setattr(driver, "driver_version", lambda: cuda)
    if cuda >= driver.MIN_CUDA:  # it is asked for its GPUs, and is not there
        monkeypatch.setattr(driver, "driver", without_gpus)
    output = invoke("doctor")
    assert f"NVIDIA driver: {said}" in output
    assert ("CUDA 12.8: it is too old" in output) == (cuda < 13000)
    assert "needed on a GPU: 580 or later, for CUDA 13.0" in output


@pytest.mark.usefixtures("shipped")
def test_no_driver(invoke, monkeypatch):
    def missing() -> int:
        raise driver.CudaError("there is no NVIDIA driver here")

    monkeypatch.setattr(driver, "driver_version", missing)
    output = invoke("doctor")
    assert "NVIDIA driver: not found: there is no NVIDIA driver here" in output
    assert "GPU: none: no GPU can be used here" in output
    assert "needed on a GPU: 580 or later" in output


@pytest.mark.parametrize(
    ("module", "content", "due"),
    [
        # as OpenCV 4.9 is with NumPy 2
        (
            "cv2",
            "raise ImportError('numpy.core.multiarray failed to import')",
            "opencv-python-headless is installed, but cannot be used: ImportError: "
            "numpy.core.multiarray failed to import\n  fix: run `pip install --force-reinstall "
            '--no-deps "opencv-python-headless>=4.10.0.84"`',
        ),
        ("cv2", "", "fix: run `pip install --force-reinstall --no-deps "),
        ("numpy", "raise AttributeError('_ARRAY_API')", "force-reinstall --no-deps numpy`"),
        ("onnxruntime", "", "fix: run `pip install --force-reinstall --no-deps onnxruntime"),
        ("onnx", "raise TypeError('Descriptors cannot be created')", "force-reinstall onnx`"),
        ("tensorrt", "raise TypeError('half of it')", "tensorrt does not load: half of it"),
        ("tensorrt", "", "builds none: AttributeError: module 'tensorrt' has no attribute"),
        ("cuda", "raise TypeError('half of it')", "GPU: none: TypeError: half of it"),
        ("msgspec", "", "garment-transfer cannot start: cannot import name"),
        ("click", "", "'Group'; run `pip install --force-reinstall --no-deps click msgspec`"),
    ],
)
def test_damaged_packages(tmp_path, module, content, due):
    """In a process of its own, which finds a package in their place that is damaged indeed."""
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text(content)
    run = subprocess.run(
        [sys.executable, "-c", "from garment_transfer.cli.main import main; main()", "doctor"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in run.stdout + run.stderr
    assert due in run.stdout + run.stderr
    assert run.returncode == (0 if module in ("onnx", "tensorrt", "cuda") else 1)
