import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from garment_transfer.cli.main import main
from garment_transfer.runtime import Person, Pipeline, images, sample_people

MakePerson = Callable[..., Person]
SavePerson = Callable[..., Path]


@pytest.fixture
def people(tmp_path: Path, make_person: MakePerson, save_person: SavePerson) -> tuple[Path, Path]:
    """Folders of a person and of a garment's owner."""
    owner = make_person(96, 48, garment=(0.25, 0.5, 0.15, 0.9), seed=1)
    return (
        save_person(make_person(128, 64), tmp_path / "anna"),
        save_person(owner, tmp_path / "bob"),
    )


def transfer(bundle: Path | None, *arguments: str | Path) -> Result:
    options = ["--bundle", str(bundle), "--threads", "1"] if bundle else []
    return CliRunner().invoke(main, ["transfer", *map(str, arguments), *options])


def test_one_pair(tiny_bundle: Path, people: tuple[Path, Path], tmp_path: Path) -> None:
    output, panel = tmp_path / "out.png", tmp_path / "panel.png"
    result = transfer(tiny_bundle, *people, "-o", output, "--panel", panel)
    assert result.exit_code == 0, result.output
    assert result.output == ""
    person, owner = map(Person.load, people)
    due = Pipeline.load(tiny_bundle, threads=1).transfer(person, owner)
    assert (np.array(Image.open(output)) == due.image).all()
    picture = np.array(Image.open(panel))
    assert picture.shape == (128, 5 * 64, 3)
    assert (picture[:, :64] == person.image).all()
    assert (picture[:, 4 * 64 :] == due.image).all()
    assert (picture[:, 3 * 64 : 4 * 64] == due.warped_garment).all()
    assert sorted(os.listdir(tmp_path)) == ["anna", "bob", "out.png", "panel.png"]


def test_options_name_the_maps(
    tiny_bundle: Path, people: tuple[Path, Path], tmp_path: Path
) -> None:
    for folder in people:
        (folder / "meta.json").unlink()
    result = transfer(tiny_bundle, *people, "-o", tmp_path / "out.png")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "--label-set" in result.output
    assert not (tmp_path / "out.png").exists()
    result = transfer(
        tiny_bundle,
        *people,
        "-o",
        tmp_path / "out.png",
        "--label-set",
        "classes7",
        "--densepose",
        "iuv-png",
    )
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "due"),
    [
        ((), "Give either PERSON and GARMENT_OWNER, or --sample, or --pairs"),
        (("anna", "bob", "--sample", "-o", "x.png"), "Give either"),
        (("--sample", "--pairs", "p.csv"), "Give either"),
        (("anna", "-o", "x.png"), "Missing argument 'GARMENT_OWNER'"),
        (("anna", "bob"), "Missing option '-o'"),
        (("--sample",), "Missing option '-o'"),
        (("--pairs", "p.csv", "-o", "x.png"), "--pairs names its own outputs"),
        (("anna", "bob", "-o", "x.png", "--panel", "x.png"), "name the same file"),
        (("anna", "bob", "-o", "x.png", "--threads", "0"), "--threads"),
    ],
)
def test_usage(arguments: tuple[str, ...], due: str) -> None:
    result = transfer(None, *arguments)
    assert result.exit_code == 2
    assert due in " ".join(result.output.split())


@pytest.mark.parametrize("option", ["-o", "--panel"])
def test_unwritable_outputs_fail_before_anything_is_loaded(
    people: tuple[Path, Path], tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the bundle was loaded first")

    monkeypatch.setattr(Pipeline, "load", load)
    others = [] if option == "-o" else ["-o", tmp_path / "out.png"]
    result = transfer(None, *people, option, tmp_path / "none" / "x.png", *others)
    assert result.exit_code == 1
    assert "x.png cannot be written" in result.output
    assert "create the folder" in result.output


def test_pairs(tiny_bundle: Path, people: tuple[Path, Path], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("person,garment_owner,output\nanna,bob,1.png\nbob,anna,2.jpg\n")
    result = transfer(tiny_bundle, "--pairs", pairs)
    assert result.exit_code == 0, result.output
    assert "2 of 2 pairs written, 0 failed" in result.output
    assert Image.open(tmp_path / "1.png").size == (64, 128)
    assert Image.open(tmp_path / "2.jpg").size == (48, 96)


def test_a_failing_pair_does_not_stop_the_others(
    tiny_bundle: Path, people: tuple[Path, Path], tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "person,garment_owner,output\n"
        "nobody,bob,1.png\n"
        "anna,bob,none/2.png\n"
        "anna,bob,3.txt\n"
        "anna,bob,4\0.png\n"
        "anna,bob,4.png\n"
    )
    result = transfer(tiny_bundle, "--pairs", pairs)
    assert result.exit_code == 1
    assert "1 of 5 pairs written, 4 failed" in result.output
    assert "holds a NUL character" in result.output
    assert "1.png: " in result.output
    assert "nobody does not exist" in result.output
    assert "2.png cannot be written" in result.output
    assert "3.txt does not name a picture format" in result.output
    assert sorted(os.listdir(tmp_path)) == ["4.png", "anna", "bob", "pairs.csv"]


def test_a_panel_too_wide_for_its_format_is_told_before_anything_is_written(
    tiny_bundle: Path, tmp_path: Path, make_person: MakePerson, save_person: SavePerson
) -> None:
    folder = save_person(make_person(64, 3300), tmp_path / "anna")
    output, panel = tmp_path / "out.png", tmp_path / "panel.webp"
    result = transfer(tiny_bundle, folder, folder, "-o", output, "--panel", panel)
    assert result.exit_code == 1
    assert "panel.webp cannot be written: the picture is 16500x64 pixels" in result.output
    assert "end the path in .png" in result.output
    assert os.listdir(tmp_path) == ["anna"]


def test_outputs_are_checked_once(
    tiny_bundle: Path, people: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    monkeypatch.setattr(images, "check_writable", checked.append)
    result = transfer(tiny_bundle, *people, "-o", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    assert checked == [tmp_path / "out.png"]


def test_a_bad_list_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    result = transfer(tmp_path / "no bundle", "--pairs", tmp_path / "none.csv")
    assert result.exit_code == 1
    assert "none.csv cannot be read" in result.output


def test_sample(tmp_path: Path) -> None:
    result = transfer(
        None, "--sample", "-o", tmp_path / "out.png", "--panel", tmp_path / "panel.png"
    )
    assert result.exit_code == 0, result.output
    person = Person.load(sample_people()[0])
    assert np.array(Image.open(tmp_path / "out.png")).shape == person.image.shape


def test_options_reach_the_backend(
    tiny_bundle: Path, people: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out.png"
    result = transfer(tiny_bundle, *people, "-o", output, "--precision", "float32")
    assert result.exit_code == 0, result.output
    result = transfer(tiny_bundle, *people, "-o", output, "--precision", "float16")
    assert result.exit_code == 1
    assert "has no float16 graphs" in result.output
    result = transfer(tiny_bundle, *people, "-o", output, "--backend", "tensorflow")
    assert result.exit_code == 1
    assert "available: onnxruntime, onnxruntime-cuda, tensorrt, tensorrt-rtx" in result.output
