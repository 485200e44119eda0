import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from garment_transfer.runtime.bundle import (
    STAGES,
    Accuracy,
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


def with_float16(folder: Path) -> Path:
    """Adds float16 graphs, copies of the others, to a bundle and its manifest."""
    manifest = Bundle.load(folder).manifest
    for stage in STAGES:
        shutil.copy(folder / f"{stage}.onnx", folder / f"{stage}.float16.onnx")
    write_manifest(
        folder,
        name=manifest.name,
        size=manifest.size,
        opset=manifest.opset,
        parity=manifest.parity,
        versions=manifest.versions,
        checkpoint=manifest.checkpoint,
        accuracy={"float16": Accuracy(0.0, 100.0, 99.5, 0.25, 255.0, "made by hand")},
    )
    return folder


def test_a_bundle_of_one_precision_stays_what_it_was(tiny_bundle: Path) -> None:
    fields = json.loads((tiny_bundle / "manifest.json").read_text())
    assert fields["schema_version"] == 1
    assert "variants" not in fields
    bundle = Bundle.load(tiny_bundle)
    assert bundle.manifest.precisions == ("float32",)
    with pytest.raises(BundleError, match=r"has no float16 graphs, only float32; export it anew"):
        bundle.graph_path("parsing", "float16")


def test_a_second_precision(own_tiny_bundle: Path) -> None:
    bundle = Bundle.load(with_float16(own_tiny_bundle))
    fields = json.loads((own_tiny_bundle / "manifest.json").read_text())
    assert fields["schema_version"] == 2
    assert bundle.manifest.from_dict(fields) == bundle.manifest
    assert bundle.manifest.precisions == ("float32", "float16")
    assert bundle.manifest.variants["float16"].accuracy.warped_garment_psnr == 99.5
    assert bundle.graph_path("warping").name == "warping.onnx"
    assert bundle.graph_path("warping", "float32") == bundle.graph_path("warping")
    assert bundle.graph_path("warping", "float16").name == "warping.float16.onnx"


def test_graphs_of_a_second_precision_are_verified_too(own_tiny_bundle: Path) -> None:
    path = with_float16(own_tiny_bundle) / "warping.float16.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"warping\.float16\.onnx is truncated"):
        Bundle.load(own_tiny_bundle)
    path.unlink()
    with pytest.raises(BundleError, match=r"warping\.float16\.onnx is missing"):
        Bundle.load(own_tiny_bundle)


def test_a_second_precision_keeps_the_contract(own_tiny_bundle: Path) -> None:
    path = with_float16(own_tiny_bundle) / "manifest.json"
    fields = json.loads(path.read_text())
    fields["variants"]["float16"]["graphs"]["warping"]["outputs"][1]["dtype"] = "uint8"
    path.write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=r"outputs of graph warping are .*flow uint8"):
        Bundle.load(own_tiny_bundle)


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
