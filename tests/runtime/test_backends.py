import builtins
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from garment_transfer.bundle import CLASSES, BackendError, Bundle, BundleError, Code
from garment_transfer.runtime import Pipeline, sample_bundle
from garment_transfer.runtime.backends import BACKENDS, find_backend, onnxruntime as backend


def test_every_backend_has_a_status() -> None:
    for name in BACKENDS:
        status = find_backend(name).status()
        assert status.name == name
        assert status.available or (status.reason and status.fix)


def test_unknown_backend() -> None:
    with pytest.raises(
        BackendError, match=r"unknown backend 'tpu'; expected one of onnxruntime.*doctor"
    ):
        find_backend("tpu")


def test_engine(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    engine = backend.load(bundle, None, backend.Options(threads=1))["parsing"]
    assert engine.signature == bundle.manifest.graphs["parsing"].signature
    with pytest.raises(BackendError, match=r"failed to run.*person_parsing uint8.*if the inputs"):
        engine.run({"person_parsing": np.zeros((1, 64, 32), np.uint8)})


def replace_graph(folder: Path, content: bytes) -> Bundle:
    """A bundle whose parsing graph has other bytes, with a manifest that says so."""
    (folder / "parsing.onnx").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"]["parsing"] |= {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.load(folder)


def test_file_that_does_not_load(own_tiny_bundle: Path) -> None:
    bundle = replace_graph(own_tiny_bundle, b"not a graph")
    with pytest.raises(BackendError, match=r"does not load .*parsing\.onnx.*--upgrade") as error:
        backend.load(bundle, None, backend.Options())
    assert error.value.code == Code.GRAPH_REJECTED


def test_what_is_loaded_is_what_was_verified(own_tiny_bundle: Path) -> None:
    bundle = Bundle.load(own_tiny_bundle)
    (own_tiny_bundle / "parsing.onnx").write_bytes(b"another graph")
    with pytest.raises(BundleError, match=r"parsing\.onnx is truncated"):
        backend.load(bundle, None, backend.Options())


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
def test_graph_against_its_manifest(own_tiny_bundle: Path, signature: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]> g {signature} '
        "{ transfer_parsing = Identity (person_parsing) }"
    )
    bundle = replace_graph(own_tiny_bundle, model.SerializeToString())
    with pytest.raises(BackendError, match=r"not the graph of its manifest: the inputs .*export"):
        backend.load(bundle, None, backend.Options())


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    def version(name: str) -> str:
        if name in packages:
            return "1.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_both_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    status = find_backend("onnxruntime").status()
    assert not status.available
    assert "both installed" in status.reason
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in status.fix


def test_no_package(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch)
    real_import = builtins.__import__

    def no_onnxruntime(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_onnxruntime)
    with pytest.raises(
        BackendError, match=r"onnxruntime is not installed.*pip install onnxruntime"
    ) as error:
        Pipeline.load(tiny_bundle)
    assert error.value.code == Code.BACKEND_UNAVAILABLE


def test_remains_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    status = find_backend("onnxruntime").status()
    assert not status.available
    # pip takes it for installed
    assert "pip install --force-reinstall --no-deps onnxruntime" in status.fix
    pretend_installed(monkeypatch)
    assert "pip uninstall" in find_backend("onnxruntime").status().fix


@pytest.mark.parametrize("what", ["none", "broken"])
def test_without_the_kernel_the_function_body_serves(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    library = None
    if what == "broken":
        library = tmp_path / "libgarment_transfer_onnxruntime.so"
        library.write_bytes(b"no library")
    monkeypatch.setattr(backend, "onnxruntime_library", lambda: library)
    details = backend.available().details
    assert "FlowWarp by standard operators" in details
    assert ("its kernel is not built" if library is None else "does not load") in details
    assert "libonnxruntime-dev" in details
    assert backend.load(Bundle.load(tiny_bundle), None, backend.Options(threads=1))


@pytest.mark.parametrize(
    ("name", "options"),
    [("onnxruntime", {}), ("onnxruntime", {"kernel": False}), ("openvino", {})],
    ids=["onnxruntime", "onnxruntime-body", "openvino"],
)
def test_ids_out_of_range_cannot_fault_a_graph(name: str, options: dict[str, bool]) -> None:
    """The pipeline refuses them; an engine that is given them all the same gives some picture."""
    if not find_backend(name).status().available:
        pytest.skip(f"{name} is not installed")
    engines = find_backend(name).load(Bundle.load(sample_bundle()), None, {"threads": 1, **options})
    assert isinstance(engines, dict)
    random = np.random.default_rng(0)
    values: dict[str, Any] = {}
    for engine in engines.values():
        for tensor in engine.signature.inputs:
            shape = tensor.shape_of(1)
            wild = random.integers(0, 256, shape, dtype=np.uint8)
            values.setdefault(tensor.name, wild)
        values |= engine.run({t.name: values[t.name] for t in engine.signature.inputs})
    # ids that the person's map has and no graph knows come through; no others appear
    known = set(range(len(CLASSES))) | set(np.unique(values["person_parsing"]).tolist())
    assert set(np.unique(values["transfer_parsing"]).tolist()) <= known
    assert np.isfinite(values["flow"]).all()
