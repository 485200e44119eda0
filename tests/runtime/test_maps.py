"""Bare photos: who is found in them, what is refused, and that every way takes them.

The tiny bundle's graph reads classes and parts off the colours of a photo, so the truth is known.
"""

import logging

import numpy as np
import pytest
from PIL import Image

from garment_transfer.bundle import (
    FACE,
    GARMENT,
    HAIR,
    SKIN,
    Bundle,
    BundleError,
    Code,
    InputError,
    Size,
)
from garment_transfer.runtime import Maps, Person, Pipeline, panel, pictures_of, sample_people
from garment_transfer.runtime._maps import _corrected, _Seen
from garment_transfer.runtime.photos import Box, Fit, choose_body

#: Top, bottom, left and right of rectangles in shares of a figure, with class and part.
_FIGURE = (
    ((0.0, 0.18, 0.35, 0.65), 2, 23),
    ((0.18, 0.6, 0.25, 0.75), 4, 2),
    ((0.18, 0.5, 0.05, 0.25), 4, 16),
    ((0.18, 0.5, 0.75, 0.95), 4, 15),
    ((0.5, 0.62, 0.05, 0.25), 3, 3),
    ((0.5, 0.62, 0.75, 0.95), 3, 4),
    ((0.6, 1.0, 0.25, 0.75), 5, 9),
)


def coded(
    size: tuple[int, int], *figures: tuple[int, int, int], sure: int = 250
) -> tuple[np.ndarray, np.ndarray]:
    """A photo with figures (top, left, height) of half their height in width; and its classes."""
    image = np.zeros((*size, 3), np.uint8)
    classes = np.zeros(size, np.uint8)
    image[..., 2] = sure
    for top, left, height in figures:
        for (y0, y1, x0, x1), label, part in _FIGURE:
            rows = slice(top + round(y0 * height), top + round(y1 * height))
            columns = slice(left + round(x0 * height / 2), left + round(x1 * height / 2))
            image[rows, columns, :2] = 36 * label + 18, 10 * part + 5
            classes[rows, columns] = label
    return image, classes


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))


@pytest.fixture(scope="module")
def maps(tiny_bundle) -> Maps:
    return Maps.load(tiny_bundle, threads=1)


@pytest.mark.parametrize("figure", [(10, 20, 300), (200, 260, 150), (120, 30, 250), (0, 0, 400)])
def test_somebody_is_found_wherever_they_are(maps, figure):
    image, classes = coded((400, 360), figure)
    person = maps.person(image)
    for label in (2, 4, 5):
        assert iou(person.parsing == label, classes == label) > 0.75
    assert iou(person.densepose[..., 0] > 0, classes > 0) > 0.85
    assert set(np.unique(person.densepose[..., 1:])) == {0, 100}
    assert person.confidence["garment"] == pytest.approx(250 / 255, abs=0.01)


def refusal(maps: Maps, image: np.ndarray, box: Box | None = None) -> tuple[Code, str]:
    with pytest.raises(InputError) as error:
        maps.person(image, "anna.jpg", box)
    return error.value.code, str(error.value)


def test_who_is_small_in_a_photo_is_found_in_their_box(maps):
    image, classes = coded((400, 8000), (150, 1200, 160))
    assert refusal(maps, image)[0] == Code.BODY_MISSING
    person = maps.person(image, box=Box(140, 1190, 180, 100))
    assert iou(person.parsing == 4, classes == 4) > 0.85
    code, words = refusal(maps, image, Box(100, 300, 200, 100))
    assert code == Code.BODY_MISSING
    assert "anna.jpg in the box 300,100,400,300 shows nobody" in words
    near = Box(140, 7999, 1 << 28, 1 << 28)  # most of it is outside
    assert refusal(maps, image, near)[0] == Code.BODY_MISSING
    for wrong in ((140, 1190, 180, 100), Box(140.5, 1190, 180, 100)):
        assert refusal(maps, image, wrong)[0] == Code.ARGUMENT_INVALID


def test_what_is_refused_is_refused_in_words(maps):
    code, words = refusal(maps, coded((300, 200))[0])
    assert code == Code.BODY_MISSING
    assert "anna.jpg shows nobody" in words
    code, words = refusal(maps, coded((400, 300), (100, 100, 90))[0])
    assert code == Code.BODY_MISSING
    assert "too small: from head to hips about" in words
    code, words = refusal(maps, coded((300, 200), (10, 20, 280), sure=120)[0])
    assert code == Code.BODY_MISSING
    assert "cannot be made out (confidence 0.47: hair 0.47, face 0.47" in words
    assert refusal(maps, coded((300, 400), (10, 20, 280), (10, 220, 270))[0])[0] == (
        Code.BODY_AMBIGUOUS
    )


def test_of_two_people_the_one_in_the_box(maps):
    image, classes = coded((300, 400), (10, 20, 280), (10, 220, 270))
    for left in (20, 220):
        person = maps.person(image, box=Box(10, left, 280, 140))
        mine = np.zeros(classes.shape, bool)
        mine[:, left : left + 140] = True
        assert iou(person.parsing == 4, (classes == 4) & mine) > 0.85
        assert not (person.densepose[..., 0] > 0)[~mine].any()


def test_a_speck_of_face_on_the_chest_is_skin(maps):
    image, _ = coded((300, 200), (10, 20, 280))
    clean = maps.person(image.copy())
    image[100:112, 80:92, 0] = 36 * 2 + 18  # the chest's part stays
    person = maps.person(image)
    # the enlarged border is off by a pixel or two
    assert (person.parsing[103:109, 83:89] == 3).all()
    np.testing.assert_array_equal(person.parsing == 2, clean.parsing == 2)


def test_pieces_of_another_class_take_what_is_around_them():
    """A sleeve called skin and hand, hair and a head on the real hand, somebody far behind."""
    size = Size(128, 128)
    image = np.full((128, 128, 3), 240, np.uint8)
    parsing, densepose = np.zeros((128, 128), np.uint8), np.zeros((128, 128, 3), np.uint8)
    black, skin = (20, 20, 25), (190, 140, 120)
    for rows, columns, colour, label, part in (
        (slice(0, 10), slice(40, 60), (60, 40, 30), HAIR, 24),
        (slice(10, 26), slice(40, 60), skin, FACE, 23),
        (slice(26, 30), slice(45, 55), black, SKIN, 2),  # a collar: cloth, but no arm
        (slice(26, 30), slice(55, 58), black, GARMENT, 0),
        (slice(30, 90), slice(30, 70), black, GARMENT, 2),
        (slice(40, 60), slice(15, 30), black, GARMENT, 20),
        (slice(60, 80), slice(15, 27), (22, 19, 24), SKIN, 4),  # it is a sleeve
        (slice(80, 84), slice(15, 25), (22, 19, 24), GARMENT, 0),
        (slice(80, 84), slice(25, 27), (22, 19, 24), GARMENT, 20),
        (slice(84, 100), slice(15, 27), skin, SKIN, 4),
        (slice(94, 97), slice(18, 21), skin, HAIR, 24),  # it is the hand
        (slice(40, 44), slice(110, 114), skin, FACE, 23),  # somebody far behind
        (slice(44, 60), slice(108, 116), (90, 90, 200), GARMENT, 2),
    ):
        image[rows, columns], parsing[rows, columns] = colour, label
        densepose[rows, columns] = part, 7 * part, 5 * part
    seen = _corrected(_Seen(Fit(size, size), image, parsing, parsing, densepose))
    sleeve, hand = np.s_[40:84, 15:27], np.s_[84:100, 15:27]
    assert (seen.parsing[sleeve] == GARMENT).all()
    assert (seen.densepose[sleeve] == (20, 140, 100)).all()
    assert (seen.parsing[hand] == SKIN).all()
    assert (seen.densepose[hand] == (4, 28, 20)).all()
    collar, face_behind = np.s_[26:30, 45:58], np.s_[40:44, 110:114]
    assert (seen.parsing[collar] == GARMENT).all()
    assert (seen.parsing[face_behind] == SKIN).all()
    np.testing.assert_array_equal(seen.densepose[collar], densepose[collar])
    changed = (seen.parsing != parsing) | (seen.densepose != densepose).any(axis=2)
    for place in (sleeve, hand, collar, face_behind):
        changed[place] = False
    assert not changed.any()
    # who is behind still is somebody else
    (_, before), (_, after) = (
        choose_body(each, Box(0, 10, 128, 70), "photo") for each in (densepose, seen.densepose)
    )
    assert before.any()
    np.testing.assert_array_equal(after, before)


def test_borders_and_sleeves_of_real_photos(real_samples):
    """Beside maps that other models made; a black cuff was called skin once (0.68)."""
    for name, garment, skin in (
        ("catalog_blue_tee", 0.965, 0.905),
        ("vitonhd_00006_00", 0.96, 0.84),
    ):
        given = Person.load(real_samples / name)
        person = Person.from_photo(given.image)
        assert iou(person.parsing == GARMENT, given.parsing == GARMENT) > garment
        assert iou(person.parsing == SKIN, given.parsing == SKIN) > skin


def test_doubtful_maps_are_told_of(maps, caplog):
    caplog.set_level(logging.WARNING)
    maps.person(coded((300, 200), (10, 20, 280))[0])
    assert not caplog.records
    person = maps.person(coded((300, 200), (10, 20, 280), sure=220)[0], "anna.jpg")
    assert "anna.jpg: its maps are doubtful (confidence 0.86" in caplog.text
    assert person.confidence["garment"] == pytest.approx(220 / 255, abs=0.01)


def test_a_bundle_without_the_graph_says_what_to_do(own_tiny_bundle):
    manifest = own_tiny_bundle / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[: text.index(',\n  "maps"')] + "\n}\n")
    (own_tiny_bundle / "maps.onnx").unlink()
    pipeline = Pipeline.load(own_tiny_bundle, threads=1)
    with pytest.raises(BundleError, match=r"no graph maps.*garment-transfer prepare") as error:
        _ = pipeline.maps
    assert error.value.code == Code.GRAPH_MISSING


def test_every_backend_of_the_cpu_gives_the_same(tiny_bundle):
    image, _ = coded((128, 64), (0, 0, 128))
    first, second = (
        Maps.load(Bundle.load(tiny_bundle), name, threads=1).person(image)
        for name in ("onnxruntime", "openvino")
    )
    assert (first.parsing == second.parsing).all()
    assert (first.densepose == second.densepose).all()


def test_photos_in_place_of_folders(invoke, pipeline, tiny_bundle, tmp_path):
    """The command, lists of pairs, the panel and `prepare` take them."""
    for name, figure in (("anna", (10, 20, 280)), ("bob", (30, 40, 260))):
        Image.fromarray(coded((300, 200), figure)[0]).save(tmp_path / f"{name}.png")
    anna, bob, output = (str(tmp_path / n) for n in ("anna.png", "bob.png", "out.png"))
    options = ["--bundle", str(tiny_bundle), "--threads", "1"]
    people = pipeline.person(anna), pipeline.person(bob)
    due = pipeline.transfer(*people)
    assert pictures_of(*people) == 7
    assert panel(*people, due).shape == (300, 7 * 200, 3)
    invoke("transfer", anna, bob, "-o", output, *options)
    assert (np.array(Image.open(output)) == due.image).all()
    (tmp_path / "list.csv").write_text("person,garment_owner,output\nanna.png,bob.png,listed.png\n")
    for again in ([], ["--resume"]):
        invoke("transfer", "--pairs", str(tmp_path / "list.csv"), *again, *options)
        assert (np.array(Image.open(tmp_path / "listed.png")) == due.image).all()


def test_the_network_in_the_package_finds_the_people_in_the_package(invoke, tmp_path):
    for folder in sample_people():
        given = Person.load(folder)
        (photo,) = folder.glob("image.*")
        person = Person.from_photo(photo)
        assert person.name == str(photo)
        assert iou(person.parsing == 4, given.parsing == 4) > 0.9
        assert iou(person.densepose[..., 0] > 0, given.densepose[..., 0] > 0) > 0.8
        target = tmp_path / folder.name
        invoke("prepare", photo, "-o", target)
        prepared = Person.load(target)
        assert (prepared.parsing == person.parsing).mean() > 0.999
        assert (prepared.densepose == person.densepose).mean() > 0.999
