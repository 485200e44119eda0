"""Results at sizes other than the bundle's, with the tiny bundle and with made-up outputs."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from garment_transfer.bundle import Size, border_width
from garment_transfer.runtime import Pipeline
from garment_transfer.runtime.photos import Box, Composed, Fit, Person, compose

MakePerson = Callable[..., Person]

FRAME = Size(64, 32)
OTHER_GARMENT = (0.25, 0.5, 0.15, 0.9)


def fit_of(person: Person, frame: Size = FRAME) -> Fit:
    return Fit(Size(*person.parsing.shape), frame)


def around(mask: np.ndarray, radius: float, fit: Fit) -> np.ndarray:
    """A mask and what lies within `radius` pixels of the bundle's size around it."""
    side = 2 * int(radius / max(fit.scale) + 0.5) + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def bare(person: Person) -> Person:
    """The same with nothing but skin."""
    skin = np.where(person.densepose[..., 0] > 0, np.uint8(3), np.uint8(0))
    return Person(person.image, skin, person.densepose)


def beyond_rim(person: Person, parsing: np.ndarray, fit: Fit) -> np.ndarray:
    """Which pixels keep a class other than garment, away from what vanished."""
    own = person.parsing
    rim = around((own != 0) & (parsing != own), border_width(fit.target.height), fit)
    return (parsing == own) & (own != 4) & ~(rim & np.isin(own, (0, 3, 5)))


def composed(
    person: Person,
    owner: Person,
    parsing: np.ndarray,
    image: np.ndarray | int = 128,
    garment: np.ndarray | int = 10,
    fit: Fit | None = None,
    **given: Any,
) -> Composed:
    """What graphs lead to that give this parsing, and pictures or colours, and move nothing."""
    fit = fit or fit_of(person)
    shape = (*parsing.shape, 3)
    outputs = {
        "image": np.full(shape, image, np.uint8),
        "transfer_parsing": parsing,
        "warped_garment": np.full(shape, garment, np.uint8) * (parsing == 4)[..., None],
        "flow": np.zeros((2, *parsing.shape), np.float32),
        **given,
    }
    return compose(person, owner, fit, fit if owner is person else fit_of(owner), **outputs)


def given_back(person: Person, frame: Size = FRAME) -> Composed:
    """A person's own garment given back by graphs that change nothing."""
    fit = fit_of(person, frame)
    image = fit.photo(person.image)
    return composed(person, person, fit.map(person.parsing), image, image, fit, with_garment=True)


@pytest.mark.parametrize(
    ("height", "width"), [(256, 128), (129, 64), (200, 200), (90, 180), (65, 33), (40, 20)]
)
def test_nothing_changed_is_the_photo(make_person: MakePerson, height: int, width: int) -> None:
    person = make_person(height, width)
    result = given_back(person)
    assert (result.parsing == person.parsing).all()
    kept = person.parsing != 4
    assert (result.image[kept] == person.image[kept]).all()
    # The garment's own rim is the graph's, since its owner's map is rough.
    inner = ~around(kept, 1.5, fit_of(person))
    assert inner.any()
    difference = np.abs(result.image.astype(int) - person.image)[inner]
    # Sampling half-way between pixels at sizes that are no multiple costs a little at the edges.
    assert np.percentile(difference, 95) <= 1
    assert (result.warped_garment[kept] == 0).all()


def test_the_order_of_the_photos_memory_is_all_the_same(make_person: MakePerson) -> None:
    person = make_person(129, 64)
    due = given_back(person)
    columns_first = Person(
        *map(np.asfortranarray, (person.image, person.parsing, person.densepose))
    )
    found = given_back(columns_first)
    for name in ("image", "parsing", "warped_garment"):
        assert (getattr(found, name) == getattr(due, name)).all(), name
    assert found.warped_garment.any()


def test_real_people_given_back(real_samples: Path) -> None:
    for name in ("vitonhd_00006_00", "catalog_blue_tee"):
        person = Person.load(real_samples / name)
        result = given_back(person, Size(256, 192))
        assert (result.parsing == person.parsing).mean() > 0.9999
        # The garment's rim, which comes from the small size, differs, and shadows are lifted.
        kept, worn = person.parsing != 4, person.worn_image
        inner = person.garment & ~around(~person.garment, 2, fit_of(person, Size(256, 192)))
        expected = np.where(kept[..., None], person.image, worn)
        difference = np.abs(result.image.astype(int) - expected)
        assert difference[inner | kept].mean() < 0.01
        assert difference.mean() < 0.5


@pytest.mark.parametrize(("height", "width"), [(256, 128), (150, 90), (90, 150), (32, 16)])
def test_kept_pixels_are_the_photos_own(
    pipeline: Pipeline, make_person: MakePerson, height: int, width: int
) -> None:
    person, owner = make_person(height, width), make_person(garment=OTHER_GARMENT, seed=1)
    transfer = pipeline.transfer(person, owner)
    worn = transfer.transfer_parsing == 4
    kept = beyond_rim(person, transfer.transfer_parsing, fit_of(person))
    assert worn.any()
    assert not kept.all()
    assert (transfer.image[kept] == person.image[kept]).all()
    assert (transfer.warped_garment[~worn] == 0).all()
    # Hair, face and legs are kept whatever the graphs say, and appear nowhere else.
    for label in (1, 2, 6):
        assert ((transfer.transfer_parsing == label) == (person.parsing == label)).all()


def test_garment_is_the_owners_photo(
    pipeline: Pipeline, make_person: MakePerson, tiny: SimpleNamespace
) -> None:
    """At four times the bundle's size its flow of whole pixels is one of whole pixels too."""
    person = make_person(256, 128)
    owner = make_person(256, 128, garment=OTHER_GARMENT, seed=1)
    transfer = pipeline.transfer(person, owner)
    dx, dy = 4 * tiny.flow[0], 4 * tiny.flow[1]
    rows, columns = np.nonzero(cv2.erode((transfer.transfer_parsing == 4).astype(np.uint8), None))
    inside = (rows + dy >= 0) & (columns + dx < 128)
    rows, columns = rows[inside], columns[inside]
    hits = ~around(owner.parsing != 4, 1, fit_of(owner))
    hit = hits[rows + dy, columns + dx]
    assert hit.mean() > 0.5
    here = transfer.image[rows[hit], columns[hit]]
    there = owner.image[rows[hit] + dy, columns[hit] + dx]
    assert np.abs(here.astype(int) - there).max() <= 1


def test_garment_of_a_photo_of_another_size(
    pipeline: Pipeline, make_person: MakePerson, tiny: SimpleNamespace
) -> None:
    """The owner's photo is read at the place the two fits and the flow lead to."""
    person, owner = make_person(256, 128), make_person(192, 96, garment=OTHER_GARMENT, seed=1)
    ramp = np.zeros((192, 96, 3), np.uint8)
    ramp[..., 0] = np.arange(192)[:, None]
    ramp[..., 1] = 2 * np.arange(96)
    owner = Person(ramp, owner.parsing, owner.densepose)
    transfer = pipeline.transfer(person, owner)
    inner = cv2.erode((transfer.transfer_parsing == 4).astype(np.uint8), np.ones((5, 5)))
    rows, columns = np.nonzero(inner)
    # Person to frame is 1/4, frame to owner 3, both about pixel corners.
    y = ((rows + 0.5) / 4 + tiny.flow[1]) * 3 - 0.5
    x = ((columns + 0.5) / 4 + tiny.flow[0]) * 3 - 0.5
    near = np.clip(np.rint(np.stack([y, x])).astype(int), 0, [[191], [95]])
    mask = ~around(owner.parsing != 4, 2, fit_of(owner))
    hit = (mask[near[0], near[1]] > 0) & (y >= 1) & (x <= 94)
    assert hit.mean() > 0.4
    colours = transfer.image[rows, columns].astype(float)[hit]
    assert np.abs(colours[:, 0] - y[hit]).max() <= 1.1
    assert np.abs(colours[:, 1] - 2 * x[hit]).max() <= 1.6


def test_no_background_bleeds_into_the_garment(pipeline: Pipeline, make_person: MakePerson) -> None:
    person, owner = make_person(200, 100), make_person(333, 150, garment=OTHER_GARMENT)
    image = np.full((333, 150, 3), (255, 0, 0), np.uint8)
    image[owner.parsing == 4] = (0, 90, 0)
    owner = Person(image, owner.parsing, owner.densepose)
    transfer = pipeline.transfer(person, owner)
    worn = transfer.transfer_parsing == 4
    assert transfer.warped_garment[worn][:, 0].max() <= 40  # what the graph fills holes with


def test_strong_minifying_does_not_alias(pipeline: Pipeline, make_person: MakePerson) -> None:
    person = make_person(96, 48)
    owner = make_person(1024, 512, garment=OTHER_GARMENT)
    rows = np.mgrid[:1024, :512][0]
    stripes = np.where(rows % 2, 255, 0)[..., None].repeat(3, axis=2).astype(np.uint8)
    owner = Person(stripes, owner.parsing, owner.densepose)
    transfer = pipeline.transfer(person, owner)
    inner = cv2.erode((transfer.transfer_parsing == 4).astype(np.uint8), np.ones((3, 3))) > 0
    values = transfer.image[inner].astype(int)
    striped = values[np.abs(values[:, 0] - 40) > 70]  # not the graph's filling
    assert len(striped) > 100
    assert np.abs(striped - 127).max() <= 20


def test_new_borders_are_smooth(make_person: MakePerson) -> None:
    """A new round garment comes back round, not as the stairs of the small size."""
    person = bare(make_person(512, 256))

    def disc(height: int, width: int) -> np.ndarray:
        y, x = np.mgrid[:height, :width]
        return ((x + 0.5) / width - 0.5) ** 2 + (((y + 0.5) / height - 0.5) * 2) ** 2 < 0.35**2

    parsing = np.where(disc(64, 32), 4, 0).astype(np.uint8)
    result = composed(person, make_person(garment=OTHER_GARMENT), parsing)
    due, got = disc(512, 256), result.parsing == 4

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        return float((a & b).sum() / (a | b).sum())

    stairs = np.kron(parsing, np.ones((8, 8), np.uint8)) == 4
    assert iou(got, due) > 0.975
    assert 1 - iou(got, due) < 0.6 * (1 - iou(stairs, due))


@pytest.mark.parametrize("scored", [False, True])
def test_what_lies_outside_the_box_stays(make_person: MakePerson, scored: bool) -> None:
    """A small person in a large photo, framed by a box that leaves it at the top."""
    small = make_person(160, 80)
    maps = [np.zeros((400, 300, *a.shape[2:]), np.uint8) for a in (small.parsing, small.densepose)]
    image = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    place = np.s_[0:160, 120:200]
    for whole, part in zip(
        (image, *maps), (small.image, small.parsing, small.densepose), strict=True
    ):
        whole[place] = part
    person = Person(image, *maps)
    fit = Fit(Size(400, 300), FRAME, Box(top=-16, left=112, height=192, width=96))
    parsing = fit.map(person.parsing)
    scores = 255 * (parsing[..., None] == (0, 3, 4, 5)).astype(np.uint8)
    given = {"transfer_scores": scores} if scored else {}
    result = composed(person, person, parsing, fit.photo(person.image), 0, fit, **given)
    garment, found = person.parsing == 4, result.parsing == 4
    # the scores alone know no more than the small size
    assert (garment & found).sum() / (garment | found).sum() > (0.85 if scored else 0.999)
    outside = np.ones((400, 300), bool)
    outside[:176, 112:208] = False
    assert (result.image[outside] == image[outside]).all()
    assert (result.parsing[outside] == person.parsing[outside]).all()


def test_shares_put_a_border_between_pixels_of_the_small_size(make_person: MakePerson) -> None:
    person = bare(make_person(512, 256))
    shares = np.zeros((64, 32, 4), np.uint8)
    # a garment from column 83 on, which is 3 of 8 columns into the small column 10
    shares[:, 11:, 2], shares[:, 10, 2] = 255, round(255 * 5 / 8)
    shares[..., 0] = 255 - shares[..., 2]
    parsing = np.where(shares[..., 2] > 127, 4, 0).astype(np.uint8)
    result = composed(person, person, parsing, transfer_scores=shares)
    columns = np.arange(256)
    assert (result.parsing[:, columns >= 84] == 4).all()
    assert (result.parsing[:, columns < 82] == 0).all()


def test_old_borders_leave_no_specks_in_new_regions(make_person: MakePerson) -> None:
    """A garment over all of a person with ragged full-size borders is one region."""
    person = make_person(512, 256)
    ragged = person.parsing.copy()
    rng = np.random.default_rng(0)
    for row in range(512):
        ragged[row] = np.roll(ragged[row], rng.integers(-3, 4))
    ragged[np.isin(ragged, (1, 2, 6))] = 0
    person = Person(person.image, ragged, person.densepose)
    parsing = np.zeros((64, 32), np.uint8)
    parsing[8:56, 2:30] = 4
    result = composed(person, make_person(garment=OTHER_GARMENT), parsing)
    assert (result.parsing[80:432, 32:224] == 4).all()


def uncovering(person: Person) -> tuple[Composed, Fit]:
    """A person's garment gives way to skin; the graphs draw all of it in one colour, 200."""
    fit = fit_of(person)
    parsing = fit.map(person.parsing)
    parsing[parsing == 4] = 3
    return composed(person, person, parsing, 200), fit


def test_no_rim_of_the_old_garment_stays(make_person: MakePerson) -> None:
    """The old garment is wider than its label by as much as the border of a map may be off."""
    person = make_person(256, 128, garment=(0.3, 0.6, 0.2, 0.9))
    fit = fit_of(person)
    assert border_width(64) / max(fit.scale) == 4
    image = np.full_like(person.image, 90)
    image[around(person.parsing == 4, 1, fit) & np.isin(person.parsing, (0, 3, 4))] = (255, 0, 0)
    result, _ = uncovering(Person(image, person.parsing, person.densepose))
    assert not (result.image == (255, 0, 0)).all(axis=2).any()
    assert (result.image[beyond_rim(person, result.parsing, fit)] == 90).all()


def test_the_rim_spares_hair_face_and_legs(make_person: MakePerson) -> None:
    person = make_person(256, 128, garment=(0.28, 0.7, 0.2, 0.8))
    result, fit = uncovering(person)
    rim = around((person.parsing == 4) & (result.parsing != 4), 1, fit)
    for label, spared in ((0, False), (3, False), (5, False), (2, True)):
        beside = rim & (person.parsing == label) & (result.parsing == label)
        assert beside.any()
        kept = (result.image[beside] == person.image[beside]).all(axis=1)
        assert kept.all() == spared, label


def test_the_rim_is_the_graphs() -> None:
    regrowth = pytest.importorskip("garment_transfer.models.regrowth")
    for height in (32, 64, 128, 256, 384, 512, 1024):
        assert border_width(height) == regrowth.border_width(height)


def test_the_rim_of_the_owners_map_is_not_sampled(make_person: MakePerson) -> None:
    """Background at the border of the owner's garment gives way to the graph's garment."""
    person = make_person(256, 128)
    fit = fit_of(person)
    image = np.full_like(person.image, 90)
    image[around(person.parsing != 4, 0.75, fit)] = (255, 0, 0)
    owner = Person(image, person.parsing, person.densepose)
    parsing, photo = fit.map(person.parsing), fit.photo(person.image)
    result = composed(person, owner, parsing, photo, with_garment=True)
    garment = result.warped_garment[result.parsing == 4]
    assert set(np.unique(garment[:, 1])) <= set(range(10, 91))
    assert (garment == 90).all(axis=1).any()
    assert (garment[:, 0] <= 90).all()


def test_an_owners_thin_garment_does_not_vanish(make_person: MakePerson) -> None:
    person = make_person(256, 128)
    fit = fit_of(person)
    owner = make_person(256, 128, garment=(0.4, 0.425, 0.2, 0.8))
    owner = Person(np.full_like(owner.image, 90), owner.parsing, owner.densepose)
    parsing, photo = fit.map(owner.parsing), fit.photo(person.image)
    result = composed(person, owner, parsing, photo, with_garment=True)
    assert (result.warped_garment == 90).any()


def test_flow_that_is_not_finite_does_no_harm(make_person: MakePerson) -> None:
    person = make_person(128, 64)
    fit = fit_of(person)
    flow = np.full((2, 64, 32), np.nan, np.float32)
    flow[:, ::2] = np.inf
    parsing, photo = fit.map(person.parsing), fit.photo(person.image)
    result = composed(person, person, parsing, photo, flow=flow)
    kept = person.parsing != 4
    assert (result.image[kept] == person.image[kept]).all()
