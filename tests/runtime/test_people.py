import codecs
import contextlib
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from garment_transfer.bundle import Code, InputError
from garment_transfer.runtime.photos import (
    MAX_SIDE,
    PHOTO_SUFFIXES,
    Person,
    _person,
    decode_densepose,
    parula_palette,
    read_photo,
)


@pytest.fixture
def folder(make_person, save_person, tmp_path) -> Path:
    """The folder of a person that can be loaded."""
    return save_person(make_person(), tmp_path / "anna")


def arrays(make_person) -> dict[str, Any]:
    person = make_person()
    return {
        "image": person.image.copy(),
        "parsing": person.parsing.copy(),
        "densepose": person.densepose.copy(),
    }


def test_load(folder, make_person):
    person, due = Person.load(folder), make_person()
    assert person.name == str(folder)
    assert (person.image == due.image).all()
    assert (person.parsing == due.parsing).all()
    assert (person.densepose == due.densepose).all()


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("make", [Person, Person.from_arrays])
def test_nobody_can_change_a_person(make_person, make, view):
    """Not by itself or the arrays that it was made of, nor by what they are views of."""
    given = arrays(make_person)
    views = {name: array[:] for name, array in given.items()}
    for array in views.values():
        array.flags.writeable = not view
    person = make(**(views if view else given))
    for name, array in given.items():
        array[:] = 250
        assert getattr(person, name).max() < 250
        with pytest.raises(ValueError, match="read-only"):
            getattr(person, name)[0] = 1


def test_arrays_that_cannot_change_are_not_copied(make_person, monkeypatch, folder):
    person = make_person()
    for other in (
        Person(person.image, person.parsing, person.densepose),
        Person(person.image[:], person.parsing[:], person.densepose[:]),
    ):
        for name in ("image", "parsing", "densepose"):
            assert np.shares_memory(getattr(other, name), getattr(person, name))
    read: list[np.ndarray] = []
    monkeypatch.setattr(
        _person, "read_photo", lambda *given: read.append(read_photo(*given)) or read[-1]
    )
    assert Person.load(folder).image is read[0]


def test_photos_of_every_suffix(folder):
    """What is in a file says how it is read."""
    photo = folder / "image.png"
    for suffix in PHOTO_SUFFIXES:
        photo = photo.rename(photo.with_suffix(suffix))
        assert Person.load(folder).image.any()


def test_names_as_other_systems_write_them(folder, make_person):
    """Capitals, a byte order mark, and folders that are called like files."""
    for name in ("image.png", "parse.png", "densepose.png", "meta.json"):
        (folder / name).rename(folder / name.upper())
    meta = folder / "META.JSON"
    meta.write_bytes(codecs.BOM_UTF8 + meta.read_bytes())
    (folder / "image.jpg").mkdir()
    (folder / "densepose.npy").mkdir()
    assert (Person.load(folder).parsing == make_person().parsing).all()
    shutil.copy(folder / "IMAGE.PNG", folder / "image.webp")
    with pytest.raises(InputError, match=r"more than one image: IMAGE\.PNG, image\.webp"):
        Person.load(folder)


@pytest.mark.parametrize("name", ["image.png", "parse.png", "densepose.png", "meta.json"])
def test_a_folder_in_place_of_a_file(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(InputError, match=r"is a folder|\(Is a directory\)") as error:
        Person.load(folder)
    assert str(error.value).count(str(folder)) == 1


def test_options_override_meta(folder):
    (folder / "meta.json").write_text('{"parse": "viton14", "densepose": "parula"}')
    Person.load(folder, label_set="classes7", densepose_encoding="iuv-png")
    (folder / "meta.json").unlink()
    Person.load(folder, label_set="classes7", densepose_encoding="iuv-png")


def test_iuv_array(make_person):
    given = arrays(make_person)
    due = given["densepose"]
    iuv = due.transpose(2, 0, 1) / np.float32([[[1]], [[255]], [[255]]])
    iuv[1, 0, 0] = 1.01  # networks overshoot
    iuv[2, 0, 0] = -0.01
    given["densepose"] = iuv.astype(np.float32)
    due[0, 0, 1:] = (255, 0)
    assert (Person.from_arrays(**given, densepose_encoding="iuv").densepose == due).all()


def test_parula_survives_jpeg():
    part = np.zeros((96, 96), np.uint8)
    for i in range(1, 25):
        row, column = divmod(i - 1, 5)
        part[2 + 18 * row : 20 + 18 * row, 2 + 18 * column : 20 + 18 * column] = i
    coded = cv2.imencode(".jpg", parula_palette()[part][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    picture = cv2.imdecode(coded[1], cv2.IMREAD_COLOR)[..., ::-1]
    iuv = decode_densepose(np.ascontiguousarray(picture), "parula")
    assert not iuv[..., 1:].any()
    # Corners are rounded by the median, the rest has to be right.
    assert (iuv[..., 0] == part).mean() > 0.97
    inner = cv2.erode((part > 0).astype(np.uint8), np.ones((3, 3))) > 0
    for i in range(1, 25):
        block = cv2.erode((part == i).astype(np.uint8), np.ones((7, 7))) > 0
        assert (iuv[..., 0][block & inner] == i).all()


def test_parula_palette_is_opencvs():
    palette = parula_palette()
    assert palette[0].tolist() == [0, 0, 0]
    level = np.full((1, 1), int(13 * 255 / 24), np.uint8)
    due = cv2.applyColorMap(level, cv2.COLORMAP_PARULA)[0, 0, ::-1]
    assert palette[13].tolist() == due.tolist()


def test_maps_of_another_size_are_fitted(folder, make_person):
    person = make_person()
    for name, scale in (("parse.png", 2), ("densepose.png", 4)):
        with Image.open(folder / name) as image:
            size = (image.width * scale, image.height * scale)
            image.resize(size, Image.Resampling.NEAREST).save(folder / name)
    loaded = Person.load(folder)
    assert (loaded.parsing == person.parsing).all()
    assert (loaded.densepose == person.densepose).all()


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"bob does not exist; expected a person"):
        Person.load(tmp_path / "bob")
    (tmp_path / "bob").write_text("")
    with pytest.raises(InputError, match=r"bob is a file"):
        Person.load(tmp_path / "bob")


def test_missing_parse_map(folder):
    (folder / "parse.png").rename(folder / "parse.jpg")
    with pytest.raises(
        InputError, match=r"anna has no parse\.png; there is: parse\.jpg; .* as a PNG"
    ):
        Person.load(folder)
    (folder / "parse.jpg").unlink()
    with pytest.raises(
        InputError, match=r"no parse\.png; there is: densepose\.png, image\.png, me"
    ):
        Person.load(folder)


@pytest.mark.parametrize(
    ("key", "option", "code"),
    [
        ("parse", "label_set", Code.LABEL_SET_UNKNOWN),
        ("densepose", "densepose_encoding", Code.DENSEPOSE_ENCODING_UNKNOWN),
    ],
)
def test_missing_or_unknown_names(folder, key, option, code):
    path = folder / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in meta.items() if name != key}))
    with pytest.raises(
        InputError, match=rf'meta\.json does not name "{key}".*one of.*{option}='
    ) as e:
        Person.load(folder)
    assert e.value.code == Code.META_INVALID
    path.write_text(json.dumps({**meta, key: "mine"}))
    with pytest.raises(InputError, match=r"meta\.json: unknown name 'mine'; expected one of") as e:
        Person.load(folder)
    assert e.value.code == code
    with pytest.raises(InputError, match=rf"^`transfer --.*{option}=: unknown name 'its'") as e:
        Person.load(folder, **{option: "its"})
    assert e.value.code == code


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "\xff"])
def test_broken_meta(folder, text):
    (folder / "meta.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"meta\.json cannot be read .*expected") as error:
        Person.load(folder)
    assert error.value.code == Code.META_INVALID


def test_spoilt_files(bad_people):
    for folder, code, says in bad_people:
        with pytest.raises(InputError) as error:
            Person.load(folder)
        assert (error.value.code, says in str(error.value)) == (code, True), error.value


def npy_header(shape: str) -> bytes:
    """An .npy file that says it has a shape, and ends there."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", npy_header("(3, 1000000, 1000000)"), npy_header("(" * 4000)]
)
def test_unreadable_densepose(folder, content):
    (folder / "densepose.png").unlink()
    (folder / "densepose.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"densepose\.npy cannot be read as .*numpy\.save"):
        Person.load(folder, densepose_encoding="iuv")


def test_densepose_that_is_too_large_is_not_read(folder):
    (folder / "densepose.png").unlink()
    path = folder / "densepose.npy"
    path.write_bytes(npy_header("(3, 1000000, 1000000)"))
    # Sparse: the file has the size that its header claims, and takes no room.
    os.truncate(path, path.stat().st_size + 4 * 3 * 10**12)
    with pytest.raises(InputError, match=r"npy holds float32 \[3,1000000,1000000\].*scale the"):
        Person.load(folder, densepose_encoding="iuv")


@pytest.mark.parametrize("encoding", ["iuv", "iuv-png", "parula"])
@pytest.mark.parametrize("densepose", [None, [[0]]])
def test_densepose_that_is_no_array(densepose, encoding):
    with pytest.raises(InputError, match=r"densepose is a \w+; expected a numpy array"):
        decode_densepose(densepose, encoding)


def test_densepose_objects_are_not_unpickled(folder):
    (folder / "densepose.png").unlink()
    np.save(folder / "densepose.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"densepose\.npy cannot be read"):
        Person.load(folder, densepose_encoding="iuv")


def iuv(height: int = 64, width: int = 32) -> np.ndarray:
    array = np.zeros((3, height, width), np.float32)
    array[0, 10:, 10:] = 2
    return array


def with_value(channel: int, value: float) -> np.ndarray:
    array = iuv()
    array[channel, 20, 20] = value
    return array


@pytest.mark.parametrize(
    ("densepose", "encoding", "due"),
    [
        (with_value(0, -1), "iuv", r"channel I runs from -1 to 2"),
        (with_value(0, 1.5), "iuv", r"channel I .*expected whole part ids.*nearest"),
        (with_value(1, 200), "iuv", r"U and V run from 0 to 200; expected 0\.\.1"),
        (iuv().transpose(1, 2, 0), "iuv", r"densepose is float32 \[64,32,3\].*\[3,H,W\]"),
        (iuv()[:, :0], "iuv", r"densepose is empty"),
        (iuv(), "iuv-png", r"densepose is float32 \[3,64,32\]; expected uint8 IUV"),
        (iuv(), "parula", r"expected uint8 RGB .*floats \[3,H,W\] are encoding iuv"),
        (np.zeros((64, 32), np.uint8), "iuv-png", r"densepose is uint8 \[64,32\]; expected"),
    ],
)
def test_densepose_out_of_range(make_person, densepose, encoding, due):
    given = {**arrays(make_person), "densepose": densepose}
    with pytest.raises(InputError, match=due):
        Person.from_arrays(**given, densepose_encoding=encoding)


@pytest.mark.parametrize("name", ["image", "parsing", "densepose"])
@pytest.mark.parametrize(
    ("change", "due"),
    [
        (lambda a: a.astype(np.float32) / 255, r"is float32 \[.*; expected uint8 .*astype"),
        (lambda a: np.where(a > 3, np.nan, a), r"is float64 \[.*with NaN; expected uint8"),
        (lambda a: a.astype(np.int64), r"is int64 \[.*expected uint8 .*check that its values"),
        (lambda a: a[None], r"is uint8 \[1,64,32.*expected uint8 .*one photo"),
        (lambda a: a[:0], r"is empty \(32x0 pixels\); expected at least one pixel"),
        (lambda a: a.tolist(), r"is a list; expected a numpy array.*numpy\.asarray"),
    ],
)
def test_arrays_of_the_wrong_kind(make_person, name, change, due):
    given = arrays(make_person)
    given[name] = change(given[name])
    with pytest.raises(InputError, match=f"^{name} {due}"):
        Person.from_arrays(**given)


def test_image_that_is_not_rgb(make_person):
    given = arrays(make_person)
    for image in (given["image"][..., 0], np.dstack([given["image"], given["parsing"]])):
        with pytest.raises(InputError, match=r"^image is uint8 .*expected uint8 RGB \[H,W,3\]"):
            Person.from_arrays(**{**given, "image": image})


def test_absurdly_large_array(make_person):
    # A view of one byte: nothing of this size is ever allocated.
    image = np.broadcast_to(np.uint8(0), (10**6, 10**6, 3))
    with pytest.raises(InputError, match=rf"image is 1000000x1000000.*at most {MAX_SIDE}"):
        Person.from_arrays(**{**arrays(make_person), "image": image})


def test_names_that_are_no_text(make_person, folder):
    for wrong in (7, ["classes7"]):
        with pytest.raises(InputError, match="unknown name"):
            Person.load(folder, label_set=wrong)
    with pytest.raises(InputError, match="the photo is a int; expected a path"):
        Person.from_photo(7)
    for given, what in ((None, "NoneType"), (7, "int")):
        with pytest.raises(InputError, match=f"the person is a {what}; expected a path"):
            Person.load(given)
        with pytest.raises(InputError, match=f"image is a {what}; expected a path or a file"):
            Person.from_files(given, given, given, "classes7", "iuv-png")
    with pytest.raises(InputError, match="the box is a tuple; expected Box"):
        Person.load(folder, box=(1, 2, 3, 4))
    for option in ("label_set", "densepose_encoding"):
        with pytest.raises(InputError, match=r"unknown .* \['classes7'\]; expected one of"):
            Person.from_arrays(**arrays(make_person), **{option: ["classes7"]})


def test_open_files_give_the_person_of_their_folder(make_person, save_person, tmp_path):
    folder = save_person(make_person(), tmp_path)
    due = Person.load(folder)
    names = ("image.png", "parse.png", "densepose.png")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context((folder / name).open("rb")) for name in names]
        person = Person.from_files(*opened, "classes7", "iuv-png", "alice")
        assert not any(file.closed for file in opened)
    paths = Person.from_files(*(str(folder / name) for name in names), "classes7", "iuv-png")
    for other in (person, paths):
        for field in ("image", "parsing", "densepose"):
            assert (getattr(other, field) == getattr(due, field)).all()
    assert person.name == "alice"
    iuv = io.BytesIO()
    np.save(iuv, due.densepose.transpose(2, 0, 1) / np.float32([[[1]], [[255]], [[255]]]))
    iuv.seek(0)
    with (folder / names[0]).open("rb") as image, (folder / names[1]).open("rb") as parsing:
        other = Person.from_files(image, parsing, iuv, "classes7", "iuv")
    assert (other.densepose == due.densepose).all()


def test_open_files_are_called_by_what_they_are(make_person, save_person, tmp_path):
    folder = save_person(make_person(), tmp_path)
    files = {
        name: (folder / f"{name}.png").read_bytes() for name in ("image", "parse", "densepose")
    }

    def person(encoding: str = "iuv-png", **spoiled: bytes) -> Person:
        opened = [io.BytesIO(content) for content in {**files, **spoiled}.values()]
        return Person.from_files(*opened, "classes7", encoding, "alice")

    with pytest.raises(
        InputError, match=r"^image of alice cannot be read as an image \(9 bytes: cannot identify"
    ):
        person(image=b"no image!")
    with pytest.raises(InputError, match=r"^parsing of alice has colour mode RGB.*palette lost"):
        person(parse=files["image"])
    with pytest.raises(
        InputError, match=r"^densepose of alice cannot be read as a NumPy array \(not a NumPy file"
    ):
        person("iuv")
    bomb = npy_header("(3, 1000000, 10000000)") + bytes(100)
    with pytest.raises(InputError, match=r"^densepose of alice cannot be read as a NumPy array"):
        person("iuv", densepose=bomb)


def test_direct_construction_is_validated_and_leaves_the_arrays_alone(make_person):
    given = arrays(make_person)
    Person(**given)
    given["parsing"][0, 0] = 7
    with pytest.raises(InputError, match=r"parsing has class 7; expected classes 0\.\.6"):
        Person(**given)
    given["parsing"] = given["parsing"][:10]
    with pytest.raises(InputError, match=r"parsing is uint8 \[10,32\].*here \[64,32\].*one size"):
        Person(**given)
    with pytest.raises(InputError, match="on 0% of the body that densepose shows"):
        replace(make_person(), parsing=np.zeros((64, 32), np.uint8))


@pytest.mark.parametrize(
    ("name", "size", "classes"),
    [
        ("viton_000174_0", (256, 192), {0, 1, 2, 3, 4, 5}),
        ("viton_000240_0", (256, 192), {0, 1, 2, 3, 4, 5}),
        ("vitonhd_00006_00", (1024, 768), {0, 1, 2, 3, 4, 5}),
        ("catalog_blue_tee", (1024, 768), {0, 1, 2, 3, 4, 5}),
    ],
)
def test_real_people(real_samples, name, size, classes):
    person = Person.load(real_samples / name)
    assert person.parsing.shape == size
    assert set(np.unique(person.parsing).tolist()) == classes
    person.check_garment()
    part = person.densepose[..., 0]
    # Everyone stands facing the camera: the front of the torso is the largest part, no calf or
    # foot is in sight, and clothes and DensePose lie on the same body.
    counts = np.bincount(part.ravel(), minlength=25)
    assert counts[1:].argmax() + 1 == 2
    assert counts[[5, 6, 11, 12, 13, 14]].sum() < 0.002 * part.size
    assert (person.parsing[part == 2] == 4).mean() > 0.6
    assert part[person.parsing == 2].astype(bool).mean() > 0.9


def test_real_maps_of_a_wrong_set_are_found_out(real_samples):
    with pytest.raises(InputError, match=r"parse\.png has ids that label set viton14 does not"):
        Person.load(real_samples / "vitonhd_00006_00", label_set="viton14")
    with pytest.raises(InputError, match=r"densepose\.jpg: channel I reaches .*encoding"):
        Person.load(real_samples / "vitonhd_00006_00", densepose_encoding="iuv-png")
