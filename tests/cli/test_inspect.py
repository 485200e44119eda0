import json

from garment_transfer.bundle import Bundle


def test_text(invoke, tiny_bundle):
    printed = invoke("inspect", tiny_bundle)
    manifest = Bundle.load(tiny_bundle).manifest
    for graph in manifest.graphs.values():
        assert graph.sha256 in printed
    for words in (
        "64x32",
        "float32, opset 18",
        "background, hair",
        "flow float32 [N, 2, 64, 32]",
        "legs 1.2, margin 0",
    ):
        assert words in printed
    assert "transfer_parsing: max abs difference 0; 100.0000% within 0" in printed
    assert "graph maps: maps.onnx" in printed


def test_json(invoke, tiny_bundle):
    printed = invoke("inspect", tiny_bundle, "--json")
    found = json.loads(printed)
    assert found.pop("path") == str(tiny_bundle)
    assert found == json.loads((tiny_bundle / "manifest.json").read_text())


def test_damage(invoke, own_tiny_bundle):
    (own_tiny_bundle / "warping.onnx").write_bytes(b"")
    printed = invoke("inspect", own_tiny_bundle, code=1)
    assert printed.startswith("Error: ")
    assert "warping.onnx is truncated" in printed
