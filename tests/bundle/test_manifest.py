import json
import os
import pickle
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

import garment_transfer.bundle as bundle_package
from garment_transfer import sample_bundle
from garment_transfer.bundle import (
    MAPS,
    SCHEMA_VERSION,
    STAGES,
    Accuracy,
    Bundle,
    BundleError,
    Checkpoint,
    Code,
    Manifest,
    Parity,
    Size,
    sha256_of,
    write_manifest,
)
from garment_transfer.bundle.__main__ import schemas
from garment_transfer.bundle._json import write_struct


def test_load(tiny_bundle, tiny):
    bundle = Bundle.load(tiny_bundle)
    manifest = bundle.manifest
    assert manifest.size == tiny.size
    assert list(manifest.graphs) == list(STAGES)
    for stage in STAGES:
        assert bundle.graph_path(stage).is_file()
        assert manifest.graphs[stage].sha256 == sha256_of(bundle.graph_path(stage))
    assert manifest.graphs["warping"].outputs[1].shape == ("N", 2, 64, 32)
    assert (
        msgspec.json.decode((tiny_bundle / "manifest.json").read_bytes(), type=Manifest) == manifest
    )


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


def test_a_bundle_of_one_precision_has_no_variants(tiny_bundle):
    fields = json.loads((tiny_bundle / "manifest.json").read_text())
    assert "variants" not in fields
    bundle = Bundle.load(tiny_bundle)
    assert bundle.manifest.precisions == ("float32",)
    with pytest.raises(BundleError, match=r"no float16 graphs; expected one of float32; export it"):
        bundle.graph_path("parsing", "float16")


def test_a_second_precision(own_tiny_bundle):
    bundle = Bundle.load(with_float16(own_tiny_bundle))
    assert bundle.manifest.precisions == ("float32", "float16")
    assert bundle.manifest.variants["float16"].accuracy.warped_garment_psnr == 99.5
    assert bundle.graph_path("warping").name == "warping.onnx"
    assert bundle.graph_path("warping", "float32") == bundle.graph_path("warping")
    assert bundle.graph_path("warping", "float16").name == "warping.float16.onnx"


def test_graphs_of_a_second_precision_are_verified_too(own_tiny_bundle):
    path = with_float16(own_tiny_bundle) / "warping.float16.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"warping\.float16\.onnx is truncated"):
        Bundle.load(own_tiny_bundle)
    path.unlink()
    with pytest.raises(BundleError, match=r"warping\.float16\.onnx, .*: No such file"):
        Bundle.load(own_tiny_bundle)


def test_a_second_precision_keeps_the_contract(own_tiny_bundle):
    path = with_float16(own_tiny_bundle) / "manifest.json"
    fields = json.loads(path.read_text())
    fields["variants"]["float16"]["graphs"]["warping"]["outputs"][1]["dtype"] = "uint8"
    path.write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=r"graph warping .*the outputs are .*flow uint8"):
        Bundle.load(own_tiny_bundle)


def test_writing_leaves_nothing_else(own_tiny_bundle):
    assert sorted(os.listdir(own_tiny_bundle)) == sorted(
        ["manifest.json", *(f"{stage}.onnx" for stage in (*STAGES, MAPS))]
    )


def test_writing_replaces_only_by_what_is_valid(own_tiny_bundle):
    before = (own_tiny_bundle / "manifest.json").read_text()

    def write(size: Size) -> None:
        write_manifest(
            own_tiny_bundle,
            name="x",
            size=size,
            opset=18,
            parity={stage: {"x": Parity(0.0, 0.0, 1.0, "none")} for stage in STAGES},
            versions={},
            checkpoint=Checkpoint("none", "0" * 64, {}),
        )

    with pytest.raises(BundleError, match=r"multiple of 32 - at `\$\.size\.height`"):
        write(Size(60, 32))
    assert (own_tiny_bundle / "manifest.json").read_text() == before
    (own_tiny_bundle / "warping.onnx").unlink()
    with pytest.raises(BundleError, match=r"warping\.onnx is missing; expected every graph"):
        write(Size(64, 32))
    assert (own_tiny_bundle / "manifest.json").read_text() == before


def test_what_is_written_is_what_was_read(tmp_path):
    """Every field and their order, of the bundle in the package."""
    content = (sample_bundle() / "manifest.json").read_bytes()
    write_struct(tmp_path / "manifest.json", Bundle.load(sample_bundle()).manifest, SCHEMA_VERSION)
    written = json.loads((tmp_path / "manifest.json").read_bytes())
    assert json.dumps(written) == json.dumps(json.loads(content))


def test_the_json_schemas_are_those_of_the_structs():
    """`python -m garment_transfer.bundle` writes them."""
    folder = Path(bundle_package.__file__).parent
    for name, text in schemas().items():
        assert (folder / name).read_text(encoding="utf-8") == text


def test_no_folder(tmp_path):
    for path, what in ((tmp_path / "nope", "does not exist"), (tmp_path / "file", "is a file")):
        (tmp_path / "file").write_text("")
        with pytest.raises(BundleError, match=rf"{path.name} {what}; expected a bundle") as error:
            Bundle.load(path)
        assert error.value.code == Code.BUNDLE_MISSING


def test_refusals_are_as_the_table_says(bad_bundles):
    """The C++ library is held to the same table (tests/cpp/test_library.py)."""
    for folder, code, says in bad_bundles:
        with pytest.raises(BundleError, match=re.escape(says)) as error:
            Bundle.load(folder)
        assert error.value.code == code, folder.name
        assert error.value.fix, folder.name


def test_a_graph_that_changed_after_it_was_verified_is_not_loaded(own_tiny_bundle):
    bundle = Bundle.load(own_tiny_bundle)
    content = bundle.read_graph("parsing")
    assert content == (own_tiny_bundle / "parsing.onnx").read_bytes()
    (own_tiny_bundle / "parsing.onnx").write_bytes(content[::-1])
    with pytest.raises(BundleError, match=r"parsing\.onnx was altered"):
        bundle.read_graph("parsing")


def test_errors_survive_pickling_and_say_their_parts():
    error = BundleError(Code.GRAPH_MISSING, "a.onnx is gone", expected="it", fix="run `x`")
    assert str(error) == "a.onnx is gone; expected it; run `x`"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is BundleError
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_weights_outside_a_graph_are_refused(replace_graph, own_tiny_bundle):
    """No hash covers the file that they are in."""
    graph = own_tiny_bundle / "parsing.onnx"
    model = onnx.load(graph)
    weights = np.arange(2048, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "unused"))
    onnx.save(model, graph, save_as_external_data=True, location="weights.bin")
    replace_graph(own_tiny_bundle, graph.read_bytes())
    with pytest.raises(BundleError, match=r"parsing\.onnx keeps weights in another file"):
        Bundle.load(own_tiny_bundle)
