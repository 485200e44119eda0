import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from garment_transfer.runtime.bundle import (
    STAGES,
    Bundle,
    Checkpoint,
    Parity,
    Size,
    contract,
    sha256_of,
    write_manifest,
)
from garment_transfer.runtime.errors import BundleError


def edit(folder: Path, **fields: Any) -> None:
    """Changes top-level fields of a bundle's manifest; None removes a field."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))


def test_load(tiny_bundle: Path, tiny: SimpleNamespace) -> None:
    bundle = Bundle.load(tiny_bundle)
    manifest = bundle.manifest
    assert manifest.size == tiny.size
    assert list(manifest.graphs) == list(STAGES)
    for stage in STAGES:
        assert bundle.graph_path(stage).is_file()
        assert manifest.graphs[stage].sha256 == sha256_of(bundle.graph_path(stage))
    assert manifest.graphs["warping"].outputs[1].shape == ("N", 2, 64, 32)
    assert manifest.from_dict(json.loads((tiny_bundle / "manifest.json").read_text())) == manifest


def test_the_contract_chains() -> None:
    signatures = contract(Size(256, 192))
    known = {tensor.name for tensor in signatures["parsing"].inputs}
    known |= {"garment_image", "person_image"}
    for stage in STAGES:
        assert {tensor.name for tensor in signatures[stage].inputs} <= known
        known |= {tensor.name for tensor in signatures[stage].outputs}


def test_writing_leaves_nothing_else(own_tiny_bundle: Path) -> None:
    assert sorted(os.listdir(own_tiny_bundle)) == sorted(
        ["manifest.json", *(f"{stage}.onnx" for stage in STAGES)]
    )


def test_writing_replaces_only_by_what_is_valid(own_tiny_bundle: Path) -> None:
    before = (own_tiny_bundle / "manifest.json").read_text()
    parity = {stage: {"x": Parity(0.0, 0.0, 1.0, "none")} for stage in STAGES}
    with pytest.raises(BundleError, match=r"size\.height: 60"):
        write_manifest(
            own_tiny_bundle,
            name="x",
            size=Size(60, 32),
            opset=18,
            parity=parity,
            versions={},
            checkpoint=Checkpoint("none", "0" * 64, {}),
        )
    assert (own_tiny_bundle / "manifest.json").read_text() == before
    (own_tiny_bundle / "warping.onnx").unlink()
    with pytest.raises(BundleError, match=r"warping\.onnx is missing: the graphs parsing\.onnx, "):
        write_manifest(
            own_tiny_bundle,
            name="x",
            size=Size(64, 32),
            opset=18,
            parity=parity,
            versions={},
            checkpoint=Checkpoint("none", "0" * 64, {}),
        )
    assert (own_tiny_bundle / "manifest.json").read_text() == before


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nope does not exist: a bundle is a folder.*export"):
        Bundle.load(tmp_path / "nope")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"file is a file: a bundle is a folder"):
        Bundle.load(tmp_path / "file")
    with pytest.raises(BundleError, match=r"has no manifest\.json.*garment-transfer export"):
        Bundle.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"schema_version": 1', "[" * 100_000])
def test_manifest_that_is_no_json(own_tiny_bundle: Path, text: str) -> None:
    (own_tiny_bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json is not valid JSON.*export"):
        Bundle.load(own_tiny_bundle)


def test_newer_schema(own_tiny_bundle: Path) -> None:
    edit(own_tiny_bundle, schema_version=3, graphs=None, novelty=True)
    with pytest.raises(
        BundleError, match=r"has schema version 3.*reads up to 2; run `pip install --upgrade"
    ):
        Bundle.load(own_tiny_bundle)


@pytest.mark.parametrize(
    ("fields", "due"),
    [
        ({"graphs": None}, r"top level: 'graphs' is a required property"),
        ({"schema_version": 0}, r"schema_version: 0 is not one of"),
        ({"schema_version": None}, r"top level: 'schema_version' is a required property"),
        ({"opset": "18"}, r"opset: '18' is not of type 'integer'"),
        ({"size": {"height": 64, "width": 40}}, r"size\.width: 40 is not a multiple of 32"),
        ({"precision": "int4"}, r"precision: 'int4' is not one of"),
        ({"classes": ["background"]}, r"classes: .*was expected"),
        ({"created": "today"}, r"created: 'today' does not match"),
        ({"extra": 1}, r"top level: Additional properties.*'extra'"),
    ],
)
def test_invalid_manifest(own_tiny_bundle: Path, fields: dict[str, Any], due: str) -> None:
    edit(own_tiny_bundle, **fields)
    with pytest.raises(
        BundleError, match=rf"manifest\.json is not a valid manifest: {due}.*export"
    ):
        Bundle.load(own_tiny_bundle)


@pytest.mark.parametrize("name", ["../x.onnx", "/etc/passwd", "a/b.onnx", "..", ".hidden"])
def test_graph_files_stay_in_the_folder(own_tiny_bundle: Path, name: str) -> None:
    graphs = json.loads((own_tiny_bundle / "manifest.json").read_text())["graphs"]
    graphs["parsing"]["file"] = name
    edit(own_tiny_bundle, graphs=graphs)
    with pytest.raises(BundleError, match=r"graphs\.parsing\.file: .*does not match"):
        Bundle.load(own_tiny_bundle)


def test_manifest_against_the_contract(own_tiny_bundle: Path) -> None:
    edit(own_tiny_bundle, size={"height": 96, "width": 32})
    with pytest.raises(BundleError, match=r"the inputs of graph parsing are .*size 96x32 has .*"):
        Bundle.load(own_tiny_bundle)


def test_missing_file(own_tiny_bundle: Path) -> None:
    (own_tiny_bundle / "warping.onnx").unlink()
    with pytest.raises(BundleError, match=r"warping\.onnx is missing, though.*copy the bundle"):
        Bundle.load(own_tiny_bundle)


def test_truncated_file(own_tiny_bundle: Path) -> None:
    path = own_tiny_bundle / "regrowth.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        BundleError, match=rf"regrowth\.onnx is truncated: {len(content) - 1} bytes of.*copy"
    ):
        Bundle.load(own_tiny_bundle)


@pytest.mark.parametrize("longer", [False, True])
def test_altered_file(own_tiny_bundle: Path, longer: bool) -> None:
    path = own_tiny_bundle / "parsing.onnx"
    content = bytearray(path.read_bytes())
    if longer:
        content.append(0)
    else:
        content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"parsing\.onnx was altered.*copy the bundle again"):
        Bundle.load(own_tiny_bundle)
