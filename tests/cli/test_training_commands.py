"""`render`, `train`, `export` and `evaluate` as a user calls them."""

import json

import cv2
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from garment_transfer.bundle import Bundle
from garment_transfer.cli import evaluate as evaluate_module, train as train_module
from garment_transfer.models.checkpoint import load_checkpoint
from garment_transfer.models.presets import PRESETS, shipped_checkpoint
from garment_transfer.runtime import Person
from garment_transfer.training.phases import METHOD, PHASES
from garment_transfer.training.synthetic import HELD_OUT_PAIRS, render_single
from garment_transfer.training.synthetic.groups import HELD_OUT_SETS


def test_render_writes_people_that_can_be_read(invoke, tmp_path):
    invoke(
        "render", "-o", tmp_path / "people", "--count", 2, "--size", "64x64",
        "--sheet", tmp_path / "sheet.png",
    )  # fmt: skip
    folders = sorted((tmp_path / "people").iterdir())
    assert len(folders) == 2
    for index, folder in enumerate(folders):
        person, (rendered, _) = Person.load(folder), render_single(0, index, (64, 64))
        for name in ("image", "parsing", "densepose"):
            assert (getattr(person, name) == getattr(rendered, name)).all()
        person.check_garment("person")
    assert "say where to" in invoke("render", code=2)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (64, 128, 3)


def test_render_of_several_rows(invoke, tmp_path):
    invoke("render", "--count", 9, "--size", "32x32", "--sheet", tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 32, 8 * 32, 3)
    assert (sheet[32:, 32:] == 255).all()


@pytest.mark.parametrize(
    ("sheet", "count", "due"),
    [
        ("s.txt", 1, "s.txt does not name a picture format"),
        ("s.webp", 5000, "s.webp holds at most 16383"),
    ],
)
def test_render_checks_its_sheet_first(invoke, tmp_path, monkeypatch, sheet, count, due):
    def render(*_):
        raise AssertionError("a person was rendered first")

    monkeypatch.setattr("garment_transfer.training.synthetic.render_single", render)
    output = invoke("render", "--count", count, "--sheet", tmp_path / sheet, code=1)
    assert due.replace("s.webp holds", ".webp holds") in output
    assert not list(tmp_path.iterdir())


def test_constants_that_help_needs_are_the_networks_own():
    assert set(train_module.PRESETS) == set(PRESETS)
    assert train_module.METHOD == METHOD
    assert {*train_module.METHOD, "maps", *train_module.SUPERVISED} == set(PHASES)
    assert evaluate_module.HELD_OUT_PAIRS == HELD_OUT_PAIRS
    assert tuple(HELD_OUT_SETS) == evaluate_module.HELD_OUT_SETS


def test_evaluate_of_nothing(invoke, tmp_path):
    assert "nothing to measure" in invoke("evaluate", "--pairs", 0, code=2)
    (tmp_path / "empty").mkdir()
    assert "holds no people" in invoke("evaluate", "--people", tmp_path, code=2)


@pytest.mark.parametrize(
    ("option", "name", "due"),
    [
        ("--sheet", "s.txt", "does not name a picture format"),
        ("--sheet", "file/s.png", "cannot be written"),
        ("--json", "file/rows.json", "cannot be written"),
    ],
)
def test_evaluate_checks_its_outputs_first(invoke, tmp_path, monkeypatch, option, name, due):
    def load(*_, **__):
        raise AssertionError("the bundle was loaded first")

    monkeypatch.setattr(Bundle, "load", load)
    (tmp_path / "file").write_text("")
    assert due in invoke("evaluate", option, tmp_path / name, code=1)


def test_evaluate_of_people_alone_needs_no_checkpoint(
    invoke, tmp_path, tiny_bundle, make_person, save_person, monkeypatch
):
    def load(path):
        raise AssertionError(f"{path} was loaded")

    monkeypatch.setattr("garment_transfer.models.checkpoint.load_checkpoint", load)
    for seed in range(2):
        save_person(make_person(128, 64, seed=seed), tmp_path / "people" / str(seed))
    (tmp_path / "people" / "notes").mkdir()
    invoke(
        "evaluate", "--pairs", 0, "--people", tmp_path / "people", "--bundle", tiny_bundle,
        "--json", tmp_path / "rows.json", "--sheet", tmp_path / "sheet.png",
    )  # fmt: skip
    report = json.loads((tmp_path / "rows.json").read_text())
    assert [row["name"] for row in report["given_back"]] == ["0", "1"]
    assert [row["name"] for row in report["regrown"]] == ["0", "1", "mean"]
    # each person, and in the garment of either
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (2 * 256, 3 * 128, 3)


def test_train_renders_trains_and_logs(invoke, tmp_path):
    invoke(
        "train", "regrowth", "-o", tmp_path / "run", "--groups", 1, "--workers", 1,
        "--steps", 10, "--batch", 1,
    )  # fmt: skip
    preset, networks = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert preset == "lite"
    assert set(networks) == {"regrowth"}
    logs = EventAccumulator(str(tmp_path / "run" / "logs" / "regrowth")).Reload().Tags()
    assert "regrowth/colour_l1" in logs["scalars"]
    assert logs["images"] == ["regrowth/pairs"]


def test_all_phases_train_on_a_data_set_in_vitons_layout(invoke, tmp_path):
    invoke(
        "render", "-o", tmp_path / "people", "--viton", "--count", 2, "--size", "64x64", "--rough"
    )
    config = tmp_path / "run.toml"
    config.write_text(
        "steps = 1\nbatch = 2\n[phases.aligning]\nsteps = 7\n[weights]\nfeature = 0.5\n"
    )
    arguments = (
        "train", "all", "-o", tmp_path / "run", "--data", tmp_path / "people",
        "--config", config, "--threads", 1,
    )  # fmt: skip
    output = invoke(*arguments, "--steps", 2)
    _, networks = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert set(networks) == {"parsing", "warping", "regrowth"}
    assert [line.rpartition("/")[2] for line in output.splitlines() if "wrote" in line] == [
        f"{phase}.safetensors" for phase in METHOD
    ]
    # --steps holds for every phase, over the file's own numbers
    again = invoke(*arguments, code=1)
    assert "steps was 2 and is now 1" in again


def test_train_says_before_its_first_step_what_data_lack(
    invoke, tmp_path, make_person, save_person
):
    for seed in range(2):
        save_person(make_person(64, 64, seed=seed), tmp_path / "people" / str(seed))
    arguments = ("train", "-o", tmp_path / "run", "--data", tmp_path / "people", "--size", "64x64")
    output = invoke(*arguments, "regrowth", "transfer-parsing", "--steps", 1, code=1)
    assert "transfer-parsing needs the garments in the shop" in output
    assert not list((tmp_path / "run").glob("*.safetensors"))
    output = invoke(*arguments, "regrowth", "--weight", "erasing=none", code=1)
    assert "'none' - at `$.weights.erasing`" in output
    assert "is not NAME=VALUE" in invoke(*arguments, "regrowth", "--weight", "shape", code=2)


def test_export_of_nothing_says_what_writes_a_checkpoint(invoke, tmp_path):
    output = invoke("export", tmp_path / "none", "-o", tmp_path / "bundle", code=1)
    assert "Error: no checkpoint at" in output
    assert "garment-transfer train" in output


@pytest.mark.parametrize("size", ["250x192", "0x32", "big"])
def test_export_sizes(invoke, tmp_path, size):
    output = invoke("export", tmp_path / "c", "-o", tmp_path / "b", "--size", size, code=2)
    assert "divisible by 32" in output or "HEIGHTxWIDTH" in output


def test_evaluate_writes_rows_and_a_sheet(invoke, tmp_path):
    invoke(
        "evaluate", "--pairs", 2, "--workers", 1, "--json", tmp_path / "rows.json",
        "--sheet", tmp_path / "sheet.png",
    )  # fmt: skip
    report = json.loads((tmp_path / "rows.json").read_text())
    assert list(report["held_out"]) == ["A", "B"]
    for found in report["held_out"].values():
        method = found["rows"][0]
        assert method["name"] == "method"
        assert {"garment_iou", "skin_iou", "changed_ssim", "garment_psnr_db"} <= set(method)
        assert [row["name"] for row in found["rows"]][:2] == ["method", "photos alone"]
        assert len(found["rows"]) == 6
        assert found["flow"][0]["pairs"] == 2
        assert {"flow_px", "owner_cm", "person_cm"} <= set(found["flow"][0])
    # person, owner, warped garment, result, truth
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (2 * 2 * 256, 5 * 192, 3)


def test_evaluate_of_another_bundle(invoke, tmp_path, tiny_bundle):
    """Surface coordinates need its own checkpoint; borders are those of four times its size."""
    options = ("evaluate", "--pairs", 1, "--workers", 1, "--bundle", tiny_bundle)
    output = invoke(*options, "--checkpoint", shipped_checkpoint("lite"), code=2)
    assert "was not exported from" in output
    invoke(*options, "--borders", 1, "--json", tmp_path / "rows.json")
    report = json.loads((tmp_path / "rows.json").read_text())
    assert report["border_pairs"] == 1
    found = report["held_out"]["A"]
    assert "owner_cm" not in found["flow"][0]
    true_labels, true_shares, *_ = found["borders"]
    assert len(found["borders"]) == 4
    assert true_shares["border_db"] > true_labels["border_db"]
