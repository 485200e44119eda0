import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from garment_transfer.bundle import remove_unfinished
from garment_transfer.runtime import Person, Pipeline


@pytest.fixture
def people(tmp_path, make_person, save_person) -> tuple[Path, Path]:
    """Folders of a person and of a garment's owner."""
    owner = make_person(96, 48, garment=(0.25, 0.5, 0.15, 0.9), seed=1)
    return (
        save_person(make_person(128, 64), tmp_path / "anna"),
        save_person(owner, tmp_path / "bob"),
    )


@pytest.fixture
def transfer(invoke) -> Callable[..., str]:
    """`transfer(bundle, *arguments, code=0)`: what the command prints."""

    def run(bundle: Path | None, *arguments: object, code: int = 0) -> str:
        options = ("--bundle", bundle, "--threads", 1) if bundle else ()
        return invoke("transfer", *arguments, *options, code=code)

    return run


def test_one_pair(transfer, pipeline, tiny_bundle, people, tmp_path):
    output, panel = tmp_path / "new" / "folder" / "out.png", tmp_path / "panel.png"
    printed = transfer(tiny_bundle, *people, "-o", output, "--panel", panel)
    assert re.fullmatch(rf"{output}: 64x128 pixels in \d+ ms\n", printed)
    person, owner = map(Person.load, people)
    due = pipeline.transfer(person, owner)
    assert (np.array(Image.open(output)) == due.image).all()
    picture = np.array(Image.open(panel))
    assert picture.shape == (128, 5 * 64, 3)
    assert (picture[:, :64] == person.image).all()
    assert (picture[:, 4 * 64 :] == due.image).all()
    assert (picture[:, 3 * 64 : 4 * 64] == due.warped_garment).all()
    assert sorted(os.listdir(tmp_path)) == ["anna", "bob", "new", "panel.png"]
    assert os.listdir(output.parent) == ["out.png"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_the_metadata_of_the_photo_stays_behind(transfer, tiny_bundle, people, tmp_path, suffix):
    exif = Image.Exif()
    exif[271] = "maker of cameras"
    exif.get_ifd(34853)[2] = (48.0, 8.0, 13.0)  # GPS: latitude
    for folder in people:
        Image.open(folder / "image.png").save(folder / "image.webp", exif=exif, lossless=True)
        (folder / "image.png").unlink()
        assert b"maker of cameras" in (folder / "image.webp").read_bytes()
    output, panel = tmp_path / f"out.{suffix}", tmp_path / f"panel.{suffix}"
    transfer(tiny_bundle, *people, "-o", output, "--panel", panel)
    for path in (output, panel):
        with Image.open(path) as image:
            assert not image.getexif()
            assert "xmp" not in image.info
        assert b"maker of cameras" not in path.read_bytes()


def test_quality(transfer, tiny_bundle, people, tmp_path):
    sizes = []
    for quality in ("30", "95"):
        output = tmp_path / f"{quality}.jpg"
        transfer(tiny_bundle, *people, "-o", output, "--quality", quality)
        sizes.append(output.stat().st_size)
        (tmp_path / "pairs.csv").write_text(
            f"person,garment_owner,output\n{people[0]},{people[1]},p{quality}.jpg\n"
        )
        transfer(tiny_bundle, "--pairs", tmp_path / "pairs.csv", "--quality", quality)
        assert (tmp_path / f"p{quality}.jpg").read_bytes() == output.read_bytes()
    transfer(tiny_bundle, *people, "-o", tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").stat().st_size == sizes[1]  # the default
    assert sizes[0] < 0.6 * sizes[1]
    transfer(tiny_bundle, *people, "-o", output, "--quality", "101", code=2)


def test_options_name_the_maps(transfer, tiny_bundle, people, tmp_path):
    for folder in people:
        (folder / "meta.json").unlink()
    printed = transfer(tiny_bundle, *people, "-o", tmp_path / "out.png", code=1)
    assert printed.startswith("Error: ")
    assert "--label-set" in printed
    assert not (tmp_path / "out.png").exists()
    transfer(
        tiny_bundle,
        *people,
        "-o",
        tmp_path / "out.png",
        "--label-set",
        "classes7",
        "--densepose",
        "iuv-png",
    )


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
        (("anna", "bob", "-o", "x.png", "--threads", "0"), "--threads"),
        (("anna", "bob", "-o", "x.png", "--resume"), "--batch, --resume and --shard are for"),
        (("--pairs", "p.csv", "--shard", "2"), "'2' is not I/N"),
        (("--pairs", "p.csv", "--batch", "0"), "--batch"),
    ],
)
def test_usage(transfer, arguments, due):
    printed = transfer(None, *arguments, code=2)
    assert due in " ".join(printed.split())


@pytest.mark.parametrize("option", ["-o", "--panel"])
def test_unwritable_outputs_fail_before_anything_is_loaded(
    transfer, people, tmp_path, option, monkeypatch
):
    def load(*_: object) -> None:
        raise AssertionError("the bundle was loaded first")

    monkeypatch.setattr(Pipeline, "load", load)
    others = [] if option == "-o" else ["-o", tmp_path / "out.png"]
    printed = transfer(None, *people, option, people[0] / "image.png" / "x.png", *others, code=1)
    assert "x.png cannot be written" in printed


def test_an_output_is_no_input_and_no_other_output(transfer, tiny_bundle, people, tmp_path):
    """By the same path, another spelling of it, a link to the folder or the file, a hard link."""
    photo = people[0] / "image.png"
    before = photo.read_bytes()
    (tmp_path / "link").symlink_to(people[0])
    (tmp_path / "link.png").symlink_to(people[1] / "parse.png")
    os.link(photo, tmp_path / "hard.png")
    for output in (
        photo,
        people[0] / ".." / "anna" / "image.png",
        tmp_path / "link" / "image.png",
        tmp_path / "link.png",
        tmp_path / "hard.png",
    ):
        pairs = tmp_path / "pairs.csv"
        pairs.write_text(f"person,garment_owner,output\nbob,bob,1.png\nanna,bob,{output}\n")
        for arguments in ((*people, "-o", output), ("--pairs", pairs)):
            printed = transfer(tiny_bundle, *arguments, code=1)
            assert "is what this run reads" in printed
    assert photo.read_bytes() == before
    assert not (tmp_path / "1.png").exists()
    itself = tmp_path / "list.png"
    itself.write_text("person,garment_owner,output\nanna,bob,list.png\n")
    printed = transfer(tiny_bundle, "--pairs", itself, code=1)
    assert "line 2: the output is the list itself" in printed
    here = (tmp_path / "x.png", "--panel", tmp_path / "anna" / ".." / "x.png")
    printed = transfer(tiny_bundle, *people, "-o", *here, code=1)
    assert "are one file; give each picture its own" in printed


def test_a_failing_pair_does_not_stop_the_others(transfer, tiny_bundle, people, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "person,garment_owner,output\n"
        "nobody,bob,1.png\n"
        "anna,bob,pairs.csv/2.png\n"
        "anna,bob,3.txt\n"
        "anna,bob,4\0.png\n"
        "anna,bob,4.png\n"
    )
    printed = transfer(tiny_bundle, "--pairs", pairs, code=1)
    assert "1 of 5 pairs written, 4 failed" in printed
    assert "holds a NUL character" in printed
    assert "1.png: " in printed
    assert "nobody does not exist" in printed
    assert "2.png cannot be written" in printed
    assert printed.count("2.png") == 1
    assert "3.txt does not name a picture format" in printed
    assert sorted(os.listdir(tmp_path)) == ["4.png", "anna", "bob", "pairs.csv"]


def test_resume_and_shards(transfer, tiny_bundle, people, tmp_path):
    pairs = tmp_path / "pairs.csv"
    rows = [f"anna,bob,{number}.png\n" for number in range(5)]
    pairs.write_text("person,garment_owner,output\n" + "".join(rows))
    printed = transfer(tiny_bundle, "--pairs", pairs, "--shard", "1/2", "--batch", 2)
    assert "2 of 2 pairs written, 0 failed" in printed
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["1.png", "3.png"]
    before = (tmp_path / "1.png").stat().st_mtime_ns
    printed = transfer(tiny_bundle, "--pairs", pairs, "--resume")
    assert "3 of 5 pairs written, 2 were there, 0 failed" in printed
    assert (tmp_path / "1.png").stat().st_mtime_ns == before
    # nothing is left to do, so nothing is loaded; what a killed run left goes
    remove_unfinished.cache_clear()  # as in another process
    (tmp_path / ".abcdef01.partial.png").write_bytes(b"half")
    printed = transfer(tmp_path / "no bundle", "--pairs", pairs, "--resume")
    assert "0 of 5 pairs written, 5 were there, 0 failed" in printed
    assert list(tmp_path.glob(".*")) == []
    printed = transfer(tiny_bundle, "--pairs", pairs)
    assert "5 of 5 pairs written, 0 failed" in printed
    assert (tmp_path / "1.png").stat().st_mtime_ns > before


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing_half_and_is_resumed(
    transfer, tiny_bundle, people, tmp_path, how
):
    pairs, out, count = tmp_path / "pairs.csv", tmp_path / "out", 100
    rows = [f"anna,bob,out/{number}.png\n" for number in range(count)]
    pairs.write_text("person,garment_owner,output\n" + "".join(rows))
    command = "from garment_transfer.cli.main import main; main()"
    arguments = ["transfer", "--pairs", pairs, "--bundle", tiny_bundle, "--threads", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", command, *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and len(list(out.glob("[0-9]*.png"))) < 5:
            time.sleep(0.01)
        process.send_signal(how)
        said = process.communicate()[1]
    if how == signal.SIGTERM:
        assert process.returncode == 128 + how
        assert re.search(rf"stopped after \d+ of {count} pairs; --resume goes on", said)
        assert list(out.glob(".*")) == []
    there = {path: path.stat().st_mtime_ns for path in out.glob("[0-9]*.png")}
    assert 5 <= len(there) < count
    for path in there:
        Image.open(path).load()
    printed = transfer(tiny_bundle, "--pairs", pairs, "--resume", "--batch", 8)
    assert (
        f"{count - len(there)} of {count} pairs written, {len(there)} were there, 0 failed"
        in printed
    )
    assert all(path.stat().st_mtime_ns == then for path, then in there.items())
    assert len(list(out.glob("[0-9]*.png"))) == count


def test_a_panel_too_wide_for_its_format_is_told_before_anything_is_written(
    transfer, tiny_bundle, tmp_path, make_person, save_person
):
    folder = save_person(make_person(64, 3300), tmp_path / "anna")
    output, panel = tmp_path / "out.png", tmp_path / "panel.webp"
    printed = transfer(tiny_bundle, folder, folder, "-o", output, "--panel", panel, code=1)
    assert "panel.webp cannot be written: the picture is 16500x64 pixels" in printed
    assert "end the path in .png" in printed
    assert os.listdir(tmp_path) == ["anna"]


def test_a_bad_list_is_told_before_anything_is_loaded(transfer, tmp_path):
    printed = transfer(tmp_path / "no bundle", "--pairs", tmp_path / "none.csv", code=1)
    assert "none.csv cannot be read" in printed


def test_options_reach_the_backend(transfer, tiny_bundle, people, tmp_path):
    output = tmp_path / "out.png"
    transfer(tiny_bundle, *people, "-o", output, "--precision", "float32")
    printed = transfer(tiny_bundle, *people, "-o", output, "--precision", "float16", code=1)
    assert "has no float16 graphs" in printed
    printed = transfer(tiny_bundle, *people, "-o", output, "--backend", "tensorflow", code=1)
    assert (
        "expected one of onnxruntime, openvino, onnxruntime-cuda, tensorrt, tensorrt-rtx" in printed
    )
