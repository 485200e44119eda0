import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from garment_transfer.bundle import InputError, OutputError
from garment_transfer.runtime.photos import (
    MAX_SIDE,
    check_output,
    read_indices,
    read_rgb,
    write_rgb,
)

IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_rgb_round_trip(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_rgb(tmp_path / "a.png", image)
    assert (read_rgb(tmp_path / "a.png") == image).all()
    assert os.listdir(tmp_path) == ["a.png"]


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    exif = image.getexif()
    exif[274] = 6  # orientation: turned by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(tmp_path / "a.jpg").shape == (8, 4, 3)


def test_palette_files_are_read_by_index(tmp_path: Path) -> None:
    image = Image.fromarray(IDS, mode="P")
    image.putpalette([(37 * i) % 256 for i in range(768)])
    image.save(tmp_path / "parse.png")
    assert (read_indices(tmp_path / "parse.png") == IDS).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_files_of_few_bits(tmp_path: Path, bits: int) -> None:
    ids = IDS % min(2**bits, 12)
    image = Image.fromarray(ids, mode="P")
    image.putpalette([(37 * i) % 256 for i in range(3 * 2**bits)])
    image.save(tmp_path / "parse.png", bits=bits)
    assert (read_indices(tmp_path / "parse.png") == ids).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_files_of_few_bits_keep_their_ids(tmp_path: Path, bits: int) -> None:
    import struct
    import zlib

    ids = IDS % 2**bits
    rows = b"".join(
        b"\0"
        + bytes(
            int("".join(f"{v:0{bits}b}" for v in row)[i : i + 8].ljust(8, "0"), 2)
            for i in range(0, 4 * bits, 8)
        )
        for row in ids
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 4, 3, bits, 0, 0, 0, 0)
    (tmp_path / "parse.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert (read_indices(tmp_path / "parse.png") == ids).all()


def test_lost_palette(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "parse.png")
    with pytest.raises(InputError, match=r"parse\.png has colour mode RGB.*palette lost.*as\s+the"):
        read_indices(tmp_path / "parse.png")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_photo_that_is_not_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(InputError, match=rf"image\.\w+ has colour mode {mode}; expected RGB"):
        read_rgb(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image\.png does not exist; check the path"):
        read_rgb(tmp_path / "image.png")


@pytest.mark.parametrize("keep", [0, 20, 100])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_file(tmp_path: Path, keep: int, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"image\.{suffix} cannot be read.*{keep} bytes.*whole"):
        read_rgb(path)


def test_formats_that_start_other_programs_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (4, 4)).save(path, "EPS")
    assert Image.open(path).format == "EPS"  # Pillow by itself takes it
    with pytest.raises(InputError, match=r"image\.png cannot be read as an image"):
        read_rgb(path)


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "image.png").mkdir()
    with pytest.raises(InputError, match=r"image\.png cannot be read.*a folder"):
        read_rgb(tmp_path / "image.png")


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (20000, 20000)])
def test_absurdly_large_file(tmp_path: Path, size: tuple[int, int]) -> None:
    # The header alone says the size; the pixels are never decoded.
    Image.new("1", size).save(tmp_path / "image.png")
    with pytest.raises(InputError, match=rf"image\.png.*at most {MAX_SIDE}"):
        read_rgb(tmp_path / "image.png")


def test_grey_pictures_are_written_as_they_are(tmp_path: Path) -> None:
    write_rgb(tmp_path / "parse.png", IDS)
    assert (read_indices(tmp_path / "parse.png") == IDS).all()


@pytest.mark.parametrize(
    ("name", "width"), [("a.webp", 16384), ("a.WEBP", 16384), ("a.jpg", 65501), ("a.jpeg", 65501)]
)
def test_pictures_too_wide_for_their_format(tmp_path: Path, name: str, width: int) -> None:
    with pytest.raises(OutputError, match=rf"{name} cannot be written.*at most \d+ on .*\.png"):
        write_rgb(tmp_path / name, np.zeros((1, width, 3), np.uint8))
    assert os.listdir(tmp_path) == []
    write_rgb(tmp_path / name, np.zeros((1, width - 1, 3), np.uint8))
    write_rgb(tmp_path / "a.png", np.zeros((1, width, 3), np.uint8))


def test_the_longest_name_that_the_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".png")
    write_rgb(path, np.zeros((1, 1, 3), np.uint8))
    assert path.is_file()
    with pytest.raises(OutputError, match=r"cannot be written: File name too long"):
        check_output(tmp_path / ("a" * 252 + ".png"))


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link.png", tmp_path / "there" / "target.png"
    link.symlink_to(Path("there") / "target.png")
    for value in (7, 8):  # the target is not there at first
        check_output(link)
        write_rgb(link, np.full((2, 2, 3), value, np.uint8))
        assert link.is_symlink()
        assert (read_rgb(target) == value).all()
    assert os.listdir(tmp_path / "there") == ["target.png"]
    (tmp_path / "circle.png").symlink_to("circle.png")
    with pytest.raises(OutputError, match=r"circle\.png cannot be written"):
        check_output(tmp_path / "circle.png")


def test_nul_in_an_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"NUL character; remove it"):
        check_output(tmp_path / "a\0.png")
    with pytest.raises(OutputError, match=r"NUL character; remove it"):
        write_rgb(tmp_path / "a\0.png", np.zeros((1, 1, 3), np.uint8))


def test_unwritable_outputs(tmp_path: Path) -> None:
    for path, due in (
        (tmp_path / "none" / "a.png", r"a\.png cannot be written: No such file.*create the folder"),
        (tmp_path / "a", r"does not name a picture format; end it in one of \.png"),
        (tmp_path / "a.txt", r"a\.txt does not name a picture format"),
    ):
        with pytest.raises(OutputError, match=due):
            check_output(path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=r"folder\.png is a folder; give the path of a file"):
        check_output(tmp_path / "folder.png")
    assert os.listdir(tmp_path) == ["folder.png"]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OutputError, match=r"a\.png cannot be written: No space left.*free some"):
        write_rgb(path, np.zeros((2, 2, 3), np.uint8))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]
