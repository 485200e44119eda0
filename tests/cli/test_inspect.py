import json

from click.testing import CliRunner

from garment_transfer.bundle import Bundle
from garment_transfer.cli.main import main


def test_text(tiny_bundle):
    result = CliRunner().invoke(main, ["inspect", str(tiny_bundle)])
    assert result.exit_code == 0, result.output
    manifest = Bundle.load(tiny_bundle).manifest
    for graph in manifest.graphs.values():
        assert graph.sha256 in result.output
    for words in (
        "64x32",
        "float32, opset 18",
        "background, hair",
        "flow float32 [N, 2, 64, 32]",
        "legs 1.2, margin 0",
    ):
        assert words in result.output
    assert "transfer_parsing: max abs difference 0; 100.0000% within 0" in result.output


def test_json(tiny_bundle):
    result = CliRunner().invoke(main, ["inspect", str(tiny_bundle), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found.pop("path") == str(tiny_bundle)
    assert found == json.loads((tiny_bundle / "manifest.json").read_text())


def test_damage(own_tiny_bundle):
    (own_tiny_bundle / "warping.onnx").write_bytes(b"")
    result = CliRunner().invoke(main, ["inspect", str(own_tiny_bundle)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "warping.onnx is truncated" in result.output
