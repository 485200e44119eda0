import builtins
import importlib.metadata
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from garment_transfer.bundle import BackendError, Bundle
from garment_transfer.runtime.backends import BACKENDS, find_backend, onnxruntime as backend


def test_every_backend_has_a_status() -> None:
    for name in BACKENDS:
        status = find_backend(name).status()
        assert status.name == name
        assert status.available or (status.reason and status.remedy)


def test_unknown_backend() -> None:
    with pytest.raises(
        BackendError, match=r"unknown backend 'tpu'; available: onnxruntime.*doctor"
    ):
        find_backend("tpu")


def test_engine(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    graph = bundle.manifest.graphs["parsing"]
    engine = backend.load(bundle.graph_path("parsing"), graph, threads=1)
    assert [tensor.name for tensor in engine.inputs] == [tensor.name for tensor in graph.inputs]
    assert engine.inputs[0].dtype == "uint8"
    assert engine.inputs[0].shape == ("N", 64, 32)
    with pytest.raises(BackendError, match=r"failed to run.*person_parsing uint8.*if the inputs"):
        engine.run({"person_parsing": np.zeros((1, 64, 32), np.uint8)})


def test_file_that_does_not_load(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    graph = Bundle.load(tiny_bundle).manifest.graphs["parsing"]
    with pytest.raises(BackendError, match=r"does not load .*bad\.onnx.*pip install --upgrade"):
        backend.load(tmp_path / "bad.onnx", graph, threads=1)


@pytest.mark.parametrize(
    "signature",
    [
        "(uint8[N,64,32] person_parsing) => (uint8[N,64,32] transfer_parsing)",  # inputs missing
        "(uint8[1,64,32] person_parsing, uint8[1,64,32,3] person_densepose, uint8[1,64,32] "
        "garment_parsing, uint8[1,64,32,3] garment_densepose) => (uint8[1,64,32] transfer_parsing)",
        "(uint8[N,32,64] person_parsing, uint8[N,32,64,3] person_densepose, uint8[N,32,64] "
        "garment_parsing, uint8[N,32,64,3] garment_densepose) => (uint8[N,32,64] transfer_parsing)",
    ],
)
def test_graph_against_its_manifest(tiny_bundle: Path, tmp_path: Path, signature: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]> g {signature} '
        "{ transfer_parsing = Identity (person_parsing) }"
    )
    onnx.save(model, tmp_path / "g.onnx")
    graph = Bundle.load(tiny_bundle).manifest.graphs["parsing"]
    with pytest.raises(BackendError, match=r"g\.onnx has the inputs .*manifest says .*export"):
        backend.load(tmp_path / "g.onnx", graph, threads=1)


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    def version(name: str) -> str:
        if name in packages:
            return "1.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_both_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    status = backend.status()
    assert not status.available
    assert "both installed" in status.reason
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in status.remedy


def test_no_package(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch)
    real_import = builtins.__import__

    def no_onnxruntime(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_onnxruntime)
    graph = Bundle.load(tiny_bundle).manifest.graphs["parsing"]
    with pytest.raises(
        BackendError, match=r"onnxruntime is not installed.*pip install onnxruntime"
    ):
        backend.load(tiny_bundle / "parsing.onnx", graph, threads=None)


def test_remains_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    status = backend.status()
    assert not status.available
    assert "pip uninstall" in status.remedy


@pytest.mark.parametrize("what", ["none", "broken"])
def test_without_the_kernel_the_function_body_serves(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    library = None
    if what == "broken":
        library = tmp_path / "libgarment_transfer_onnxruntime.so"
        library.write_bytes(b"no library")
    monkeypatch.setattr(backend, "onnxruntime_library", lambda: library)
    details = backend.status().details
    assert "FlowWarp by standard operators" in details
    assert ("its kernel is not built" if library is None else "does not load") in details
    assert "libonnxruntime-dev" in details
    graph = Bundle.load(tiny_bundle).manifest.graphs["parsing"]
    assert backend.load(Bundle.load(tiny_bundle).graph_path("parsing"), graph, threads=1)
