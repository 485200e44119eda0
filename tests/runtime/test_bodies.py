"""Whose body a photo is about, others in it, things in front, views, and results that cannot be."""

import logging
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from garment_transfer.bundle import Code, InputError
from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people
from garment_transfer.runtime.photos import Box, check_plausible, choose_body, drop_not_worn

HAIR, FACE, SKIN, GARMENT, LOWER = 1, 2, 3, 4, 5
BLUE = (30, 60, 200)


def test_two_bodies_are_refused_until_a_box_chooses(new_scene):
    scene = new_scene().person(100).person(280, BLUE)
    with pytest.raises(
        InputError, match=r"shows 2 people, in the boxes 54,10,146,220 and 234,10,326"
    ):
        scene.load()
    left, right = scene.load(Box(0, 40, 200, 120)), scene.load(Box(20, 230, 200, 80))
    assert left.densepose[:, 200:].max() == right.densepose[:, :200].max() == 0
    alone = new_scene().person(280, BLUE)
    assert (right.densepose == alone.iuv).all()
    # who was not chosen takes no part and stays, clothes and skin and all
    assert (right.parsing == alone.classes).all()
    assert right.protected is not None
    assert right.protected[:, :200][scene.classes[:, :200] > 0].all()
    with pytest.raises(InputError, match="nobody in the box 370,0,380,9"):
        scene.load(Box(0, 370, 9, 10))


def test_bodies_that_touch_in_densepose_are_two(new_scene):
    scene = new_scene().person(150).person(150 + 92, BLUE)
    with pytest.raises(InputError) as error:
        scene.load()
    assert error.value.code is Code.BODY_AMBIGUOUS
    chosen = scene.load(Box(0, 200, 256, 90))
    alone = new_scene().person(242, BLUE)
    assert (chosen.densepose == alone.iuv).all(axis=2).mean() > 0.98


@pytest.mark.parametrize("size", [1.0, 0.8, 0.7])
def test_an_arm_across_somebody_else_is_its_owners(new_scene, size):
    """The shorter person's head is nearer to the taller one's hips than the taller one's own."""
    arm = (188, 100), (250, 130)  # from the elbow to the other's chest
    low = 200 * (1 - size)
    scene = new_scene().person(242, BLUE, size=size, top=low).person(150).reach(*arm)
    taller = new_scene().person(150).reach(*arm).iuv
    shorter = new_scene().person(242, BLUE, size=size, top=low).iuv
    shorter[taller[..., 0] > 0] = 0
    for truth, box in ((taller, Box(0, 100, 256, 100)), (shorter, Box(60, 210, 190, 70))):
        assert (scene.load(box).densepose == truth).all(axis=2).mean() > 0.99


def test_somebody_whose_head_the_photo_cuts_off_is_somebody_else(new_scene):
    scene = new_scene().person(242, BLUE).person(150)
    scene.iuv[:50, 220:265] = 0
    found, others = choose_body(scene.iuv, None, "")
    alone = new_scene().person(150).iuv
    assert (found == alone).all(axis=2).mean() > 0.99
    assert (others == ((scene.iuv[..., 0] > 0) & (alone[..., 0] == 0))).mean() > 0.99


@pytest.mark.parametrize("hidden", [0, 12, 16])
def test_a_torso_that_a_forearm_parts_is_ones_own(new_scene, hidden):
    """Of whose head things may hide a part."""
    scene = new_scene().person(190)
    scene.iuv[50:130, 178:202] = 20, 90, 90
    scene.iuv[10:50, 174 : 174 + hidden] = scene.iuv[10:50, 206 - hidden : 206] = 0
    found, others = choose_body(scene.iuv, None, "")
    assert (found == scene.iuv).all()
    assert not others.any()


def test_a_map_of_hundreds_of_heads_has_bodies(new_scene):
    scene = new_scene(200, 200)
    scene.iuv[..., 0] = 2
    scene.iuv[::10, ::10, 0] = 23
    with pytest.raises(InputError, match="254 people"):
        choose_body(scene.iuv, None, "")


def test_a_body_in_pieces_is_one(new_scene):
    strap = new_scene().person(190)
    cv2.line(strap.iuv, (150, 50), (235, 230), (0, 0, 0), 9)
    hair = new_scene().person(190)
    hair.iuv[46:56, 150:230] = 0
    rail = new_scene().person(190)
    rail.iuv[120:150] = 0
    for scene in (strap, hair, rail):
        found, others = choose_body(scene.iuv, None, "")
        assert found is scene.iuv
        assert not others.any()


def test_a_passer_by_is_left_out(new_scene):
    found, others = choose_body(new_scene().person(120).person(300, BLUE, size=0.4).iuv, None, "")
    assert (found == new_scene().person(120).iuv).all()
    assert (others == (new_scene().person(300, BLUE, size=0.4).iuv[..., 0] > 0)).mean() > 0.999


@pytest.mark.parametrize("distance", [110, 92, 70])
def test_somebody_whom_densepose_leaves_out_stays(new_scene, distance):
    """Apart, touching, and half hidden behind the person."""
    scene = new_scene().person(150 + distance, BLUE, covered=False).person(150)
    alone = new_scene().person(150)
    person = scene.load()
    other = (scene.classes > 0) & (alone.classes == 0)
    assert person.protected is not None
    # their arms are of one colour
    assert person.protected[other].mean() > 0.93
    assert not person.protected[(alone.classes > 0) & ~np.isin(alone.iuv[..., 0], (3, 4))].any()
    assert (person.parsing == alone.classes)[~other].all()
    assert (person.parsing[other & person.protected] == 0).all()


def test_wide_clothes_are_ones_own(new_scene):
    scene = new_scene().person(190)
    # a tenth of the torso wider than DensePose on either side, and a skirt
    for left in (134, 234):
        scene.classes[60:120, left : left + 12] = GARMENT
        scene.image[60:120, left : left + 12] = scene.image[90, 190]
    scene.classes[140:225, 150:235] = LOWER
    person = scene.load()
    assert (person.parsing == scene.classes).all()


def test_things_in_front_stay_and_hide_the_maps_beneath(new_scene):
    to_atr = np.array([0, 2, 11, 14, 4, 6], np.uint8)
    for hole in (False, True):
        scene = new_scene().person(190)
        bag = np.zeros(scene.classes.shape, np.uint8)
        cv2.line(bag, (165, 55), (215, 125), 1, 7)
        whole = scene.classes.copy()
        scene.classes = np.where(bag > 0, np.uint8(16), to_atr[scene.classes])
        parts = scene.iuv[..., 0].copy()
        if hole:
            scene.iuv[bag > 0] = 0
        person = scene.load(labels="atr18")
        assert person.protected is not None
        assert person.protected[bag > 0].all()
        over = bag & (cv2.erode((whole == GARMENT).astype(np.uint8), np.ones((3, 3))))
        assert (person.parsing[over > 0] == GARMENT).all()
        assert (person.densepose[..., 0][over > 0] == parts[over > 0]).mean() > 0.97


def test_a_hole_in_the_clothes_is_a_thing_and_a_speck_is_none(new_scene):
    scene = new_scene().person(190)
    scene.classes[80:105, 180:195] = 0  # a phone
    scene.classes[120:124, 200:204] = 0  # what parsers leave
    scene.classes[46:60, 178:202] = 0  # a neck without a label, below the face
    person = scene.load()
    assert person.protected is not None
    assert person.protected[80:105, 180:195].all()
    assert (person.parsing[80:105, 180:195] == GARMENT).all()
    assert not person.protected[120:124, 200:204].any()
    assert not person.protected[46:60, 178:202].any()


def test_bare_hands_stay_less_their_borders(new_scene):
    person = new_scene().person(190).load()
    hands = np.isin(person.densepose[..., 0], (3, 4))
    assert person.protected is not None
    assert not (person.protected & ~hands).any()
    assert person.protected[145:155, 149:155].all()
    assert not person.protected[141, 146]
    covered = new_scene().person(190)
    covered.classes[covered.classes == SKIN] = GARMENT
    assert covered.load().protected is None


def turned(scene: Any, quarter_turns: int) -> Any:
    for name in ("image", "classes", "iuv"):
        array = np.rot90(getattr(scene, name), quarter_turns)
        setattr(scene, name, np.ascontiguousarray(array))
    return scene


def test_views_that_cannot_be_served(new_scene):
    front = new_scene().person(190).load()
    front.check_view()
    for share, view in ((0.05, None), (0.35, "from the side"), (0.9, "from behind")):
        scene = new_scene().person(190)
        columns = np.s_[50:140, 160 : 160 + round(60 * share)]
        scene.iuv[columns] = (1, 90, 90)
        person = scene.load()
        if view is None:
            person.check_view()
            continue
        with pytest.raises(
            InputError, match=rf"garment owner is seen {view}: .*\(part 1\)"
        ) as error:
            person.check_view("garment owner")
        assert error.value.code is Code.VIEW_UNSUPPORTED
    for turns in (1, 2, 3):
        with pytest.raises(InputError, match="person does not stand upright"):
            turned(new_scene().person(190), turns).load().check_view()
    headless = new_scene().person(190)
    headless.iuv[:50] = 0
    headless.load().check_view()
    with pytest.raises(InputError, match="upright"):
        turned(headless, 2).load().check_view()


def fitted(garment_rows: slice = np.s_[20:60]) -> dict[str, np.ndarray]:
    """A pair at a bundle's size, both clothed, with torsos in rows 20 to 60."""
    parts = np.zeros((80, 60, 3), np.uint8)
    parts[20:60, 20:40] = (2, 0, 0)
    parsing = np.zeros((80, 60), np.uint8)
    parsing[20:60, 20:40] = GARMENT
    owner = np.zeros((80, 60), np.uint8)
    owner[garment_rows, 20:40] = GARMENT
    return {
        "person_parsing": parsing,
        "person_densepose": parts,
        "garment_parsing": owner,
        "garment_densepose": parts,
    }


def test_results_that_cannot_be():
    pair, answer = fitted(), fitted()["person_parsing"]
    check_plausible(pair, answer, "")
    bare = np.where(answer == GARMENT, np.uint8(SKIN), answer)
    mostly = answer.copy()
    mostly[20:42] = bare[20:42]
    with pytest.raises(InputError, match=r"transfer 3 would bare 55% of a torso") as error:
        check_plausible(pair, mostly, " 3")
    assert error.value.code is Code.TRANSFER_IMPLAUSIBLE
    # a cropped top bares as much, and rightly
    check_plausible(fitted(np.s_[20:38]), mostly, "")
    # a person without clothes stays so where nothing can be told from it
    check_plausible(pair | {"person_parsing": bare}, mostly, "")
    hardly = np.zeros_like(answer)
    hardly[20:23, 20:40] = GARMENT
    with pytest.raises(InputError, match="would show 8% of the owner's garment"):
        check_plausible(pair, hardly, "")


def test_an_owner_with_next_to_no_garment(new_scene):
    scene = new_scene().person(190)
    scene.classes[scene.classes == GARMENT] = SKIN
    scene.classes[60:66, 160:220] = GARMENT
    with pytest.raises(InputError, match=r"wears no upper garment: 360 pixels .* 5400 are torso"):
        scene.load().check_garment()
    scene.classes[60:72, 160:220] = GARMENT
    scene.load().check_garment()


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(sample_bundle(), threads=1)


@pytest.fixture(scope="module")
def people() -> list[Person]:
    """The sample people at a quarter of their size, so that tests are quick."""
    found = []
    for person in map(Person.load, sample_people()):
        arrays = [
            cv2.resize(array, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_NEAREST)
            for array in (person.image, person.parsing, person.densepose)
        ]
        found.append(Person.from_arrays(*arrays))
    return found


def in_a_larger_photo(person: Person, top: int, left: int, size: tuple[int, int]) -> Person:
    """The person at a place of a photo whose rest repeats the edges."""
    height, width = person.parsing.shape
    sides = (top, size[0] - top - height), (left, size[1] - left - width)
    return Person.from_arrays(
        np.pad(person.image, (*sides, (0, 0)), mode="edge"),
        np.pad(person.parsing, sides),
        np.pad(person.densepose, (*sides, (0, 0))),
    )


@pytest.mark.parametrize(
    ("top", "left", "size"), [(0, 0, (256, 455)), (40, 300, (512, 512)), (500, 7, (768, 900))]
)
def test_a_person_anywhere_in_the_photo(pipeline, people, top, left, size):
    """The same as the photo that shows the person alone, and the rest of the photo as it is."""
    person, owner = people
    due = pipeline.transfer(person, owner)
    height, width = person.parsing.shape
    small = in_a_larger_photo(person, top, left, size)
    found = pipeline.transfer(small, owner)
    place = np.s_[top : top + height, left : left + width]
    here, there = (
        each == GARMENT for each in (found.transfer_parsing[place], due.transfer_parsing)
    )
    assert (here & there).sum() / (here | there).sum() > 0.98
    assert np.abs(found.image[place].astype(int) - due.image).mean() < 0.5
    outside = np.ones(size, bool)
    outside[place] = False
    assert (found.image[outside] == small.image[outside]).all()
    given = pipeline.transfer(person, in_a_larger_photo(owner, top, left, size))
    assert np.abs(given.image.astype(int) - due.image).mean() < 0.5


def test_a_small_person_is_served_with_a_warning(pipeline, people, caplog):
    person, owner = people
    with caplog.at_level(logging.WARNING):
        pipeline.transfer(person, owner)
    assert not caplog.records
    arrays = [array[::2, ::2] for array in (person.image, person.parsing, person.densepose)]
    with caplog.at_level(logging.WARNING):
        pipeline.transfer(Person.from_arrays(*arrays), owner)
    assert "pixels high in the photo; from 200 on the picture is better" in caplog.text


def test_what_is_protected_comes_back(pipeline, people):
    """A bag over the garment of either: the person's stays, the owner's is not given away."""
    person, owner = people
    bag = np.zeros(person.parsing.shape, np.uint8)
    cv2.line(bag, (70, 90), (120, 160), 1, 9)
    bag &= cv2.erode((person.parsing == GARMENT).astype(np.uint8), np.ones((3, 3)))
    assert bag.sum() > 300

    def with_bag(someone: Person) -> Person:
        image = np.where(bag[..., None] > 0, np.uint8((250, 0, 250)), someone.image)
        return Person(image, someone.parsing, someone.densepose, protected=bag > 0)

    found = pipeline.transfer(with_bag(person), owner)
    assert (found.image[bag > 0] == (250, 0, 250)).all()
    assert (found.warped_garment[bag > 0] == 0).all()
    given = pipeline.transfer(person, with_bag(owner))
    garment = given.image[given.transfer_parsing == GARMENT].astype(int)
    magenta = (garment[:, 0] > 180) & (garment[:, 2] > 180) & (garment[:, 1] < 60)
    assert magenta.mean() < 0.002


def test_the_commands_take_boxes(invoke, new_scene, tmp_path, tiny_bundle):
    scene = new_scene().person(100).person(280, BLUE)
    scene.save(tmp_path)
    both = ["transfer", str(tmp_path), str(tmp_path), "-o", str(tmp_path / "out.png")]
    both += ["--bundle", str(tiny_bundle), "--threads", "1"]
    printed = invoke(*both, code=1)
    assert "shows 2 people, in the boxes 54,10,146,220 and 234,10,326,220" in printed
    assert "--person-box" in printed
    boxes = ["--person-box", "54,10,146,220", "--owner-box", "234,10,326,220"]
    invoke(*(both + boxes))
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    assert (picture[:, 200:] == scene.image[:, 200:]).all()
    assert (picture[:, :200] != scene.image[:, :200]).any()
    printed = invoke(*both, "--person-box", "9,9,9,20", code=2)
    assert "right beyond left" in printed


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize(
    ("garment", "around", "dropped"),
    [
        ((30, 30, 60), (230, 228, 225), True),  # dark before a light wall
        ((200, 40, 40), (120, 120, 120), True),
        ((230, 228, 225), (240, 240, 238), False),  # white before white: colours cannot tell
    ],
)
def test_what_a_rough_map_takes_for_the_garment(garment, around, dropped, scale):
    """Its border lies two pixels outside the garment's."""
    random = np.random.default_rng(1)
    image = np.empty((256, 256, 3), np.uint8)
    image[:] = around
    image[40:200, 60:180] = garment
    image = np.clip(image + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    classes, due = np.zeros((2, 256, 256), np.uint8)
    classes[38:202, 58:182] = GARMENT
    due[40:200, 60:180] = GARMENT
    image, classes, due = (
        np.repeat(np.repeat(a, scale, 0), scale, 1) for a in (image, classes, due)
    )
    drop_not_worn(image, classes, np.zeros(classes.shape, bool))
    assert (classes == due).all() == dropped


@pytest.mark.parametrize(("wide", "apart"), [(8, 16), (2, 12), (3, 16)])
def test_a_garment_s_own_pattern_stays(wide, apart):
    """Stripes of the wall's colour, as far as the garment's border."""
    image = np.full((256, 256, 3), 235, np.uint8)
    image[40:200, 60:180] = (20, 30, 80)
    for y in range(48, 200, apart):
        image[y : y + wide, 60:180] = 235
    classes = np.zeros((256, 256), np.uint8)
    classes[40:200, 60:180] = GARMENT
    due = classes.copy()
    drop_not_worn(image, classes, np.zeros(classes.shape, bool))
    assert (classes == due).all()
