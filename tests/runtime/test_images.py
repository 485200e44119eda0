import io
import itertools
import os
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from garment_transfer.bundle import LABEL_SETS, InputError, OutputError, voc_colour
from garment_transfer.runtime.photos import (
    MAX_SIDE,
    check_output,
    photo_size,
    png_bytes,
    read_indices,
    read_photo,
    read_rgb,
    write_rgb,
)

# Primaries (x, y) of red, green and blue; all three spaces are lit by D65.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
D65 = (0.3127, 0.3290)
D50 = np.array([0.9642, 1.0, 0.8249])  # the profile connection space's white

# Bradford's cone responses, as ICC.1 names them for adapting to D50.
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)

IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def to_xyz(primaries: Sequence[tuple[float, float]]) -> np.ndarray:
    """The matrix from linear RGB to XYZ under D50, from chromaticities alone."""

    def xyz(x: float, y: float) -> list[float]:
        return [x / y, 1, (1 - x - y) / y]

    columns = np.array([xyz(*primary) for primary in primaries]).T
    white = np.array(xyz(*D65))
    matrix = columns * np.linalg.solve(columns, white)
    gains = BRADFORD @ D50 / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(gains) @ BRADFORD @ matrix


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear sRGB of 0 to 1 as levels, by IEC 61966-2-1."""
    linear = linear.clip(0, 1)
    low, high = 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    return 255 * np.where(linear <= 0.0031308, low, high)


def due_in_srgb(
    levels: np.ndarray, primaries: Sequence[tuple[float, float]], gamma: float
) -> np.ndarray:
    linear = (levels / 255) ** gamma
    return encoded(linear @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries)).T)


def icc(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2.4 by ICC.1:2001-04."""
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": fixed(D50),
        **tags,
    }
    table, body = struct.pack(">I", len(tags)), b""
    at = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = bytes(8) + struct.pack(">I", 0x02400000) + kind + space + connection
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", *(round(65536 * value) for value in D50))
    profile = header.ljust(128, b"\0") + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


def fixed(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in values))


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))


def rgb_profile(primaries: Sequence[tuple[float, float]], gamma: float) -> bytes:
    red, green, blue = map(fixed, to_xyz(primaries).T)
    tags = {b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue}
    tags |= {name: curve(gamma) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return icc(b"RGB ", b"XYZ ", b"mntr", tags)


def grey_profile(gamma: float) -> bytes:
    return icc(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": curve(gamma)})


#: What the profile of a press says of its inks, by (C, M, Y, K) full or none: L*, a*, b*.
INKS = {(0, 0, 0, 0): (100, 0, 0), (1, 0, 0, 0): (55, -36, -40), (0, 1, 1, 0): (47, 60, 40)}


def cmyk_profile() -> bytes:
    ends = struct.pack(">2H", 0, 65535)
    table = b""
    for inks in itertools.product((0, 1), repeat=4):
        light, a, b = INKS.get(inks, (0, 0, 0))
        table += struct.pack(">3H", round(light * 652.8), (a + 128) * 256, (b + 128) * 256)
    identity = struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    lut = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + identity + struct.pack(">2H", 2, 2)
    lut += 4 * ends + table + 3 * ends
    return icc(b"CMYK", b"Lab ", b"prtr", {b"A2B0": lut})


def lab_in_srgb(light: float, a: float, b: float) -> np.ndarray:
    """CIE's formulas from L*, a*, b* to XYZ, and from there to levels of sRGB."""
    fy = (light + 16) / 116
    f = np.array([fy + a / 500, fy, fy - b / 200])
    xyz = D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return encoded(np.linalg.solve(to_xyz(SRGB), xyz))


#: Colours of every hue from dark to light; saved without loss.
COLOURS = np.stack(np.meshgrid(*3 * [np.linspace(0, 255, 9)]), axis=-1).reshape(27, 27, 3)
COLOURS = COLOURS.round().astype(np.uint8)


@pytest.mark.parametrize(("primaries", "gamma"), [(DISPLAY_P3, 2.2), (ADOBE_RGB, 2.2), (SRGB, 1.8)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_colours_of_a_profile_become_srgb(tmp_path, primaries, gamma, mode, suffix):
    if (mode, suffix) == ("P", "webp"):
        pytest.skip("WebP has no palettes")
    image = Image.fromarray(COLOURS[:15] if mode == "P" else COLOURS)
    if mode == "P":
        image = image.quantize(256)
    levels = np.array(image.convert("RGB"))
    image = image.convert(mode)
    path = tmp_path / f"image.{suffix}"
    image.save(path, icc_profile=rgb_profile(primaries, gamma), lossless=True)
    due = due_in_srgb(levels, primaries, gamma)
    assert np.abs(due - levels).max() > 10
    assert np.abs(read_photo(path) - due).max() <= 1
    # as data the same file keeps its numbers
    assert (read_rgb(path) == levels).all()


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_by_a_profile_of_grey(tmp_path, mode):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(grey).convert(mode)
    levels = np.array(image.convert("L"))
    image.save(tmp_path / "image.png", icc_profile=grey_profile(1.75))
    due = np.repeat(encoded((levels / 255) ** 1.75)[..., None], 3, axis=2)
    # LittleCMS looks grey up in a table, which is coarse near black
    assert np.abs(read_photo(tmp_path / "image.png") - due).max() <= 2
    # a programme that made it grey may leave the profile of the colours
    image.save(tmp_path / "image.png", icc_profile=rgb_profile(DISPLAY_P3, 1.75))
    assert np.abs(read_photo(tmp_path / "image.png") - due).max() <= 1


def test_cmyk_by_its_profile(tmp_path, caplog):
    path = tmp_path / "image.jpg"
    for inks, lab in INKS.items():
        image = Image.new("CMYK", (16, 16), tuple(255 * ink for ink in inks))
        image.save(path, quality=100, icc_profile=cmyk_profile())
        assert np.abs(read_photo(path) - lab_in_srgb(*lab)).max() <= 2
    assert not caplog.records
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)
    assert np.abs(read_photo(path) - [255.0, 0, 0]).max() <= 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is CMYK without a usable colour profile: its colours are guessed"
    ]


def test_srgb_by_another_name_is_left_alone(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(COLOURS).save(tmp_path / "image.png", icc_profile=profile)
    assert (read_photo(tmp_path / "image.png") == COLOURS).all()


@pytest.mark.parametrize(
    ("profile", "due"),
    [(b"nothing", "cannot open profile"), (grey_profile(1.0), "it is for GRAY")],
    ids=["broken", "another space"],
)
def test_profiles_that_do_not_describe_the_photo(tmp_path, caplog, profile, due):
    Image.fromarray(COLOURS).save(tmp_path / "image.png", icc_profile=profile)
    assert (read_photo(tmp_path / "image.png") == COLOURS).all()
    assert len(caplog.records) == 1
    assert "its colour profile cannot be used, and is ignored: " in caplog.messages[0]
    assert due in caplog.messages[0]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits(tmp_path, channels):
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 65536, (9, 7, channels), dtype=np.uint16)
    wide[0, :2] = [[0], [65535]]
    if channels == 4:
        wide[..., 3] = 65535
    cv2.imwrite(str(tmp_path / "image.png"), wide)  # OpenCV takes BGR
    due = np.broadcast_to(wide[..., :3][..., ::-1] / 257, (9, 7, 3))
    # Pillow reads colours by their high bytes
    assert np.abs(read_photo(tmp_path / "image.png") - due).max() <= (0.5 if channels == 1 else 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_are_white(tmp_path, caplog, mode):
    path = tmp_path / "image.png"
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    options: dict[str, object] = {}
    if mode == "LA":
        rgba[..., :3] = rgba[..., :1]
    if mode in ("P", "RGB"):  # one colour is transparent
        rgba[..., 3] = 255
        rgba[2:4, :, :3] = 10, 20, 30
        options["transparency"] = (10, 20, 30)
    image = Image.fromarray(rgba).convert(mode)
    if mode == "P":
        image = Image.fromarray(rgba).convert("RGB").quantize(64)
        options["transparency"] = int(np.array(image)[2, 0])
        rgba[..., :3] = np.array(image.convert("RGB"))
    image.save(path, **options)
    if mode in ("P", "RGB"):
        rgba[2:4, :, 3] = 0
    alpha = rgba[..., 3:] / 255
    due = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(read_photo(path) - due).max() <= 1
    assert caplog.messages == [f"{path} has transparent pixels, which become white"]


def test_an_alpha_channel_that_hides_nothing_is_not_worth_a_word(tmp_path, caplog):
    Image.fromarray(COLOURS).convert("RGBA").save(tmp_path / "image.png")
    assert (read_photo(tmp_path / "image.png") == COLOURS).all()
    assert (read_rgb(tmp_path / "image.png") == COLOURS).all()
    assert not caplog.messages


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "avif"])
def test_the_first_frame_of_an_animation(tmp_path, caplog, kind):
    if kind == "avif" and not has_avif():
        pytest.skip("this Pillow reads no AVIF")
    path = tmp_path / f"image.{kind}"
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("#ff0000", "#0000ff")]
    options = {"lossless": True} if kind == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert np.abs(read_photo(path) - [255.0, 0, 0]).max() <= 3
    assert caplog.messages == [f"{path} is animated: its first frame is taken"]


def test_the_two_pictures_of_a_phone(tmp_path, caplog):
    path = tmp_path / "image.jpg"
    first, second = Image.new("RGB", (8, 16), "red"), Image.new("RGB", (4, 8), "blue")
    first.save(path, "MPO", save_all=True, append_images=[second])
    assert Image.open(path).format == "MPO"
    photo = read_photo(path)
    assert photo.shape == (16, 8, 3)
    assert np.abs(photo - [255.0, 0, 0]).max() <= 3
    assert not caplog.messages


def has_avif() -> bool:
    Image.init()
    return "AVIF" in Image.OPEN


@pytest.mark.parametrize("kind", ["avif", "heic"])
def test_photos_of_phones(tmp_path, kind):
    if kind == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif not has_avif():
        pytest.skip("this Pillow reads no AVIF")
    path = tmp_path / f"image.{kind}"
    image = Image.new("RGB", (16, 32), (200, 100, 50))
    exif = image.getexif()
    exif[274] = 6
    image.save(path, quality=100, exif=exif.tobytes(), icc_profile=rgb_profile(DISPLAY_P3, 2.2))
    due = due_in_srgb(np.array([200.0, 100, 50]), DISPLAY_P3, 2.2)
    for file in (path, io.BytesIO(path.read_bytes())):
        photo = read_photo(file)
        assert photo.shape == (16, 32, 3)
        assert np.abs(photo - due).max() <= 3
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=rf"image\.{kind} cannot be read as an image"):
        read_photo(path)


def test_avif_that_this_pillow_does_not_read(tmp_path, monkeypatch):
    path = tmp_path / "image.jpg"
    path.write_bytes(struct.pack(">I", 24) + b"ftypavif" + bytes(4) + b"mif1avif" + bytes(80))
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(InputError, match=r'is an AVIF file.*pip install .*"pillow>=11\.3"'):
        read_photo(path)


def test_heic_without_its_package(tmp_path, monkeypatch):
    path = tmp_path / "image.jpg"  # phones' programs rename it without a change
    path.write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(80))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"is a HEIC file.*pip install .*pillow-heif.*extra heif"):
        read_photo(path)
    assert photo_size(path) is None


#: How upright pixels lie in a file, by its EXIF orientation (TIFF 6.0, Orientation).
STORED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_nvimagecodec_turns_photos_upright_too(orientation, form):
    codec = pytest.importorskip("nvidia.nvimgcodec", reason="the extra codec is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, exif=exif, quality=95)
    file.seek(0)
    due = read_photo(file, "file")
    found = np.zeros_like(due)
    decoder = codec.Decoder(device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY)
    stream = codec.CodeStream(file.getvalue())
    assert decoder.decode(stream, image=codec.as_image(found)) is not None
    assert (found == due).all()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16", "CMYK"])
def test_photos_are_turned_upright(tmp_path, mode, orientation):
    """Of every mode, with the remedies that nobody needs any more gone."""
    grey = np.add.outer(20 * np.arange(8), 5 * np.arange(6)).astype(np.uint8)
    stored = np.ascontiguousarray(STORED[orientation](grey))
    if mode == "I;16":
        image = Image.fromarray(stored.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(stored).convert("RGB")
        image = image.quantize(64) if mode == "P" else image.convert(mode)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path, exif=exif, quality=100)
    found = read_photo(path)
    assert found.shape == (8, 6, 3)
    assert np.abs(found - grey[..., None].astype(float)).max() <= (6 if mode == "CMYK" else 0)


def test_broken_exif_costs_no_photo(tmp_path, caplog):
    Image.fromarray(COLOURS).save(tmp_path / "image.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01")
    assert (read_photo(tmp_path / "image.png") == COLOURS).all()
    Image.fromarray(COLOURS).save(tmp_path / "image.png", exif=b"Exif\0\0no TIFF at all")
    assert (read_photo(tmp_path / "image.png") == COLOURS).all()
    assert "EXIF data that cannot be read, and counts as upright" in caplog.messages[-1]


def test_data_keeps_its_numbers(tmp_path):
    profile = grey_profile(1.0)
    Image.fromarray(IDS).save(tmp_path / "parse.png", icc_profile=profile)
    assert (read_indices(tmp_path / "parse.png") == IDS).all()
    image = Image.fromarray(COLOURS[0, None]).quantize(256)
    image.save(tmp_path / "densepose.png", icc_profile=rgb_profile(DISPLAY_P3, 2.2))
    assert (read_rgb(tmp_path / "densepose.png") == np.array(image.convert("RGB"))).all()
    for mode in ("L", "CMYK"):
        Image.new(mode, (4, 4)).save(tmp_path / "densepose.jpg")
        with pytest.raises(InputError, match=rf"has colour mode {mode}; expected RGB"):
            read_rgb(tmp_path / "densepose.jpg")


#: The colours of LIP's and CIHP's ids as VITON-HD's palettes have them, rounded down.
VITON_HD = (
    "000000 800000 fe0000 005500 a90033 fe5500 000055 0077dc 555500 005555 553300 345680 008000 "
    "0000fe 33a9dc 00fefe 55fea9 a9fe55 fefe00 fea900"
)


@pytest.mark.parametrize("name", sorted(LABEL_SETS))
@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P", "P in another order"])
@pytest.mark.parametrize("colours", ["voc", "own"])
def test_colours_of_a_label_set(tmp_path, name, kind, colours):
    known = [*sorted(LABEL_SETS[name].classes), *([255] if colours == "voc" else [])]
    table = np.array([voc_colour(value) for value in range(256)], np.uint8)
    if colours == "own":
        if name not in ("cihp20", "lip20"):
            pytest.skip("no other colours are known")
        rounded = [list(bytes.fromhex(text)) for text in VITON_HD.split()]
        table[: len(rounded)] = rounded
    ids = np.random.default_rng(0).choice(known, (12, 9)).astype(np.uint8)
    ids.ravel()[: len(known)] = known
    if kind.startswith("P"):
        order = np.arange(256)
        if kind != "P":
            order[known] = np.roll(known, 1)
        image = Image.fromarray(order.argsort().astype(np.uint8)[ids], mode="P")
        image.putpalette(table[order].tobytes())
    else:
        image = Image.fromarray(table[ids]).convert(kind)
    image.save(tmp_path / "parse.png")
    assert (read_indices(tmp_path / "parse.png", label_set=LABEL_SETS[name]) == ids).all()


def test_the_colour_map_of_voc_is_scph_s():
    """The bytes that human parsers put into their palettes, by the loop that makes them."""
    palette = [0] * 3 * 256
    for j in range(256):
        lab, i = j, 0
        while lab:
            for channel in range(3):
                palette[3 * j + channel] |= (lab >> channel & 1) << (7 - i)
            i, lab = i + 1, lab >> 3
    assert [level for value in range(256) for level in voc_colour(value)] == palette


def test_colours_of_no_set(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "parse.png")
    with pytest.raises(InputError, match=r"has colour mode RGB.*or the colours of cihp20"):
        read_indices(tmp_path / "parse.png", label_set=LABEL_SETS["cihp20"])
    # (0, 128, 0) is hair in one colour map and a skirt in the other
    Image.new("RGB", (4, 4), (0, 128, 0)).save(tmp_path / "parse.png")
    with pytest.raises(InputError, match=r"has colour mode RGB"):
        read_indices(tmp_path / "parse.png", label_set=LABEL_SETS["cihp20"])


@pytest.mark.parametrize("kind", ["RGB", "I;16", "RGBA"])
def test_ids_in_a_wider_mode(tmp_path, kind):
    image = Image.fromarray(IDS.astype(np.uint16) if kind == "I;16" else IDS)
    if kind != "I;16":
        image = image.convert(kind)
    image.save(tmp_path / "parse.png")
    assert (read_indices(tmp_path / "parse.png") == IDS).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_files_of_few_bits(tmp_path, bits):
    ids = IDS % min(2**bits, 12)
    image = Image.fromarray(ids, mode="P")
    image.putpalette([(37 * i) % 256 for i in range(3 * 2**bits)])
    image.save(tmp_path / "parse.png", bits=bits)
    assert (read_indices(tmp_path / "parse.png") == ids).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_files_of_few_bits_keep_their_ids(tmp_path, bits):
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


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (20000, 20000)])
@pytest.mark.parametrize("read", [read_photo, read_rgb, read_indices])
def test_absurdly_large_file(tmp_path, size, read):
    # The header alone says the size; the pixels are never decoded.
    Image.new("1", size).save(tmp_path / "image.png")
    with pytest.raises(InputError, match=rf"image\.png.*at most {MAX_SIDE}"):
        read(tmp_path / "image.png")


def test_sizes_are_refused_before_anything_is_decoded(tmp_path):
    path = tmp_path / "image.gif"
    Image.new("P", (4, 4)).save(path)
    content = bytearray(path.read_bytes())
    content[6:10] = struct.pack("<2H", 60000, 60000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"image\.gif is .*at most {MAX_SIDE}"):
        read_photo(path)


def test_pictures_say_that_they_are_srgb(tmp_path):
    srgb = ImageCms.createProfile("sRGB")
    for suffix in ("png", "jpg", "webp"):
        path = tmp_path / f"a.{suffix}"
        write_rgb(path, COLOURS)
        with Image.open(path) as image:
            info = image.info
        if suffix == "png":
            assert info == {"srgb": 0}
            assert png_bytes(COLOURS).count(b"sRGB") == 1
            assert (read_photo(io.BytesIO(png_bytes(COLOURS))) == COLOURS).all()
        else:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(info["icc_profile"]))
            grey = Image.linear_gradient("L").convert("RGB")
            seen = np.array(ImageCms.profileToProfile(grey, profile, srgb))
            assert np.abs(seen.astype(int) - np.array(grey)).max() <= 1
        assert "exif" not in info
        first = path.read_bytes()
        write_rgb(path, COLOURS)
        assert path.read_bytes() == first
        assert read_photo(path).shape == COLOURS.shape


def test_grey_pictures_are_written_as_they_are(tmp_path):
    write_rgb(tmp_path / "parse.png", IDS)
    assert (read_indices(tmp_path / "parse.png") == IDS).all()


@pytest.mark.parametrize(
    ("name", "width"), [("a.webp", 16384), ("a.WEBP", 16384), ("a.jpg", 65501), ("a.jpeg", 65501)]
)
def test_pictures_too_wide_for_their_format(tmp_path, name, width):
    with pytest.raises(OutputError, match=rf"{name} cannot be written.*at most \d+ on .*\.png"):
        write_rgb(tmp_path / name, np.zeros((1, width, 3), np.uint8))
    assert os.listdir(tmp_path) == []
    write_rgb(tmp_path / name, np.zeros((1, width - 1, 3), np.uint8))
    write_rgb(tmp_path / "a.png", np.zeros((1, width, 3), np.uint8))


def test_the_longest_name_that_the_file_system_takes(tmp_path):
    path = tmp_path / ("a" * 251 + ".png")
    write_rgb(path, np.zeros((1, 1, 3), np.uint8))
    assert path.is_file()
    with pytest.raises(OutputError, match=r"cannot be written: File name too long"):
        check_output(tmp_path / ("a" * 252 + ".png"))


@pytest.mark.parametrize("name", ["target.png", "without_suffix"])
def test_a_link_stays_and_its_target_is_written(tmp_path, name):
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link.png", tmp_path / "there" / name
    link.symlink_to(Path("there") / name)
    for value in (7, 8):  # the target is not there at first
        check_output(link)
        write_rgb(link, np.full((2, 2, 3), value, np.uint8))
        assert link.is_symlink()
        assert (read_rgb(target) == value).all()
    assert os.listdir(tmp_path / "there") == [name]
    (tmp_path / "circle.png").symlink_to("circle.png")
    with pytest.raises(OutputError, match=r"circle\.png cannot be written"):
        check_output(tmp_path / "circle.png")


def test_unwritable_outputs(tmp_path):
    (tmp_path / "file").write_text("")
    for path, due in (
        (tmp_path / "file" / "a.png", r"a\.png cannot be written: .*choose a path that you may"),
        (tmp_path / "a", r"does not name a picture format; end it in one of \.png"),
        (tmp_path / "a.txt", r"a\.txt does not name a picture format"),
    ):
        with pytest.raises(OutputError, match=due):
            check_output(path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=r"folder\.png is a folder; give the path of a file"):
        check_output(tmp_path / "folder.png")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def write_eps(path: Path) -> None:
    Image.new("RGB", (4, 4)).save(path, "EPS")
    assert Image.open(path).format == "EPS"  # Pillow by itself takes it, and starts Ghostscript


@pytest.mark.parametrize("read", [read_photo, read_rgb])
@pytest.mark.parametrize(
    ("make", "due"),
    [
        (lambda path: None, "does not exist; check the path"),
        (Path.mkdir, "is a folder"),
        (os.mkfifo, "is a pipe or a device; expected a whole PNG"),  # which is not waited for
        (write_eps, "cannot be read as an image"),
    ],
)
def test_what_is_no_picture(tmp_path, make, due, read):
    path = tmp_path / "image.png"
    make(path)
    with pytest.raises(InputError, match=rf"image\.png {due}"):
        read(path)
