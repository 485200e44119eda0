"""`render`, `train`, `export` and `evaluate` as a user calls them."""

import json

import cv2
import pytest
from click.testing import CliRunner

from garment_transfer.cli.main import main
from garment_transfer.models.checkpoint import load_checkpoint, save_checkpoint
from garment_transfer.models.presets import build
from garment_transfer.runtime import Bundle, Person


def invoke(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_render_writes_people_that_can_be_read(tmp_path):
    invoke(
        "render", "-o", tmp_path / "people", "--count", 2, "--size", "64x64",
        "--sheet", tmp_path / "sheet.png",
    )  # fmt: skip
    folders = sorted((tmp_path / "people").iterdir())
    assert len(folders) == 2
    for folder in folders:
        person = Person.load(folder)
        assert person.image.shape == (64, 64, 3)
        person.check_garment("person")
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (64, 128, 3)


def test_train_renders_trains_and_logs(tmp_path):
    invoke(
        "train", "regrowth", "-o", tmp_path / "run", "--groups", 1, "--workers", 1,
        "--steps", 10, "--batch", 1,
    )  # fmt: skip
    preset, networks = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert preset == "lite"
    assert set(networks) == {"regrowth"}
    assert list((tmp_path / "run" / "logs" / "regrowth").iterdir())


def test_export_writes_a_bundle(tmp_path):
    checkpoint = tmp_path / "lite.safetensors"
    save_checkpoint(checkpoint, "lite", build("lite"))
    invoke("render", "-o", tmp_path / "people", "--count", 1, "--size", "64x64")
    output = invoke(
        "export", checkpoint, "-o", tmp_path / "bundle", "--size", "64x64",
        "--people", tmp_path / "people",
    )  # fmt: skip
    assert "warping/flow: largest difference from torch" in output
    manifest = Bundle.load(tmp_path / "bundle").manifest
    assert manifest.parity["regrowth"]["image"].inputs.startswith("1 pairs of people")


def test_export_of_nothing_says_what_writes_a_checkpoint(tmp_path):
    output = invoke("export", tmp_path / "none", "-o", tmp_path / "bundle", code=1)
    assert "Error: no checkpoint at" in output
    assert "garment-transfer train" in output


@pytest.mark.parametrize("size", ["250x192", "0x32", "big"])
def test_export_sizes(tmp_path, size):
    output = invoke("export", tmp_path / "c", "-o", tmp_path / "b", "--size", size, code=2)
    assert "divisible by 32" in output or "HEIGHTxWIDTH" in output


def test_evaluate_writes_rows_and_a_sheet(tmp_path):
    invoke(
        "evaluate", "--pairs", 2, "--workers", 1, "--json", tmp_path / "rows.json",
        "--sheet", tmp_path / "sheet.png",
    )  # fmt: skip
    report = json.loads((tmp_path / "rows.json").read_text())
    assert report["rows"][0]["name"] == "method"
    assert {"garment_iou", "skin_iou", "changed_ssim", "garment_psnr_db"} <= set(report["rows"][0])
    assert len(report["rows"]) == 5
    # person, owner, warped garment, result, truth
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (2 * 256, 5 * 192, 3)
