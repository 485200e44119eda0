import cv2
import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

from garment_transfer.bundle import (
    CLASSES,
    FACE,
    GARMENT,
    LABEL_SETS,
    LOWER,
    SKIN,
    InputError,
    label_set,
)
from garment_transfer.runtime import Person, sample_people
from garment_transfer.runtime.photos import (
    COLOURS,
    checked_ids,
    colour,
    hip_row,
    read_indices,
    to_classes,
)

NO_PARTS = np.zeros((1, 1), np.uint8)

# Written out by hand from the data sets' documents, by name of the class.
DUE = {
    "classes7": "background hair face skin garment lower legs",
    "viton14": "background hair ? ? garment legs legs garment lower legs legs skin face skin",
    "cihp20": "background hair hair skin face garment garment garment legs lower skin garment "
    "lower face skin skin legs legs legs legs",
    "lip20": "background hair hair skin face garment garment garment legs lower garment garment "
    "lower face skin skin legs legs legs legs",
    "atr18": "background hair hair face garment lower lower garment lower legs legs face legs legs "
    "skin skin background garment skin",
}


def test_every_set_is_covered():
    assert set(DUE) == set(LABEL_SETS)
    assert len(COLOURS) == len(CLASSES)


@pytest.mark.parametrize("name", DUE)
def test_table(name):
    for source, target in enumerate(DUE[name].split()):
        ids = np.full((1, 1), source, np.uint8)
        if target == "?":
            with pytest.raises(InputError):
                to_classes(ids, label_set(name), NO_PARTS)
        else:
            assert CLASSES[to_classes(ids, label_set(name), NO_PARTS).item()] == target


def test_unknown_ids_are_named_as_ranges():
    given = np.array([[0, 2, 3, 200]], np.uint8)
    message = r"^parse\.png has .* have: 2-3, 200; expected ids 0-1, 4-13; .*--label-set"
    with pytest.raises(InputError, match=message):
        to_classes(given, label_set("viton14"), NO_PARTS, name="parse.png")


def test_unknown_set_lists_the_known_ones():
    with pytest.raises(InputError, match=r"unknown label set 'viton'.*atr18, cihp20.*meta\.json"):
        label_set("viton")


@pytest.mark.parametrize(("name", "label"), [("cihp20", 6), ("lip20", 10), ("atr18", 7)])
def test_a_dress_is_lower_below_the_hips(name, label):
    ids = np.full((10, 4), label, np.uint8)
    parts = np.full((10, 4), 2, np.uint8)
    parts[6:] = 9
    parts[5, 0] = 9  # a thigh that reaches higher at the side
    parts[8, 2] = 2  # and a stray bit of torso
    assert hip_row(parts) == 6
    classes = to_classes(ids, label_set(name), parts)
    assert (classes[:6] == GARMENT).all()
    assert (classes[6:] == LOWER).all()


def test_a_dress_with_no_legs_in_sight_is_all_garment():
    parts = np.full((4, 4), 2, np.uint8)
    ids = np.full((4, 4), 6, np.uint8)
    assert hip_row(parts) is None
    assert (to_classes(ids, label_set("cihp20"), parts) == GARMENT).all()


@pytest.mark.parametrize("part", range(25))
def test_the_neck_that_atr_calls_face(part):
    ids = np.full((1, 1), 11, np.uint8)
    parts = np.full((1, 1), part, np.uint8)
    due = SKIN if part in (1, 2) else FACE  # DensePose: back and front of the torso
    assert to_classes(ids, label_set("atr18"), parts).item() == due
    # other sets have an id for it, and faces at the rim of a rough map stay faces
    assert to_classes(np.full((1, 1), 13, np.uint8), label_set("cihp20"), parts).item() == FACE


# CIHP's ids as ATR's parsers name them; the neck, 10, is part of the face.
CIHP_TO_ATR = [0, 1, 2, 14, 3, 4, 7, 4, 12, 6, 11, 17, 5, 11, 14, 15, 12, 13, 9, 10]


@pytest.mark.parametrize(("name", "least"), [("vitonhd_00006_00", 0.6), ("catalog_blue_tee", 0.15)])
def test_real_necks_come_back_and_real_faces_stay(real_samples, name, least):
    person = Person.load(real_samples / name)
    ids = read_indices(real_samples / name / "parse.png")
    atr = np.array(CIHP_TO_ATR, np.uint8)[ids]
    found = Person.from_arrays(person.image, atr, person.densepose, "atr18").parsing
    # the rest of the neck lies on DensePose's head
    assert (found[ids == 10] == SKIN).mean() > least
    assert (found[ids == 13] == FACE).all()


def test_ignored_pixels_are_background(caplog):
    ids = np.array([[0, 255, 5], [255, 9, 9]], np.uint8)
    assert checked_ids(ids, "parse.png").tolist() == [[0, 0, 5], [0, 9, 9]]
    assert ids[0, 1] == 255  # the caller's
    assert caplog.messages == ["parse.png: 2 pixels have id 255 and count as background"]


def in_set(classes: np.ndarray, name: str) -> np.ndarray:
    """A parsing in the ids of a set, the first of each class."""
    known = LABEL_SETS[name].classes
    first = {target: source for source, target in reversed(known.items())}
    # VITON has no id for skin but that of the arms
    return np.array([first[value] for value in range(len(CLASSES))], np.uint8)[classes]


SAMPLES = [Person.load(folder).parsing for folder in sample_people()]


@given(
    name=st.sampled_from(sorted(LABEL_SETS)),
    sample=st.sampled_from([0, 1]),
    scale=st.floats(0.3, 2),
    method=st.sampled_from([cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA]),
    height=st.sampled_from([128, 256, 473, 512]),
)
def test_maps_that_were_resized_smoothly_are_refused(name, sample, scale, method, height):
    assume(scale * height >= 40)  # in smaller ones too few borders are left to tell by
    parsing = SAMPLES[sample]
    size = (height * 3 // 4, height)
    ids = in_set(cv2.resize(parsing, size, interpolation=cv2.INTER_NEAREST_EXACT), name)
    # as the parser wrote it, smaller or larger by nearest neighbours
    checked_ids(ids)
    if scale > 1.1:
        method = cv2.INTER_LINEAR if method == cv2.INTER_AREA else method
    elif scale > 0.9:
        return  # next to nothing happens
    else:
        method = cv2.INTER_AREA  # the others skip pixels, and mix hardly any
    smooth = cv2.resize(ids, None, fx=scale, fy=scale, interpolation=method)
    checked_ids(cv2.resize(ids, smooth.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT))
    # also where it was brought to a larger photo's size by nearest neighbours afterwards
    enlarged = smooth.repeat(4, axis=0).repeat(4, axis=1)
    for found in (smooth, enlarged) if min(smooth.shape) >= 96 else (smooth,):
        with pytest.raises(InputError, match=r"was resized smoothly, .*: at \d+ of \d+ borders"):
            checked_ids(found)


def test_a_map_that_was_a_jpeg_is_refused():
    ids = SAMPLES[0]
    lossy = cv2.imdecode(cv2.imencode(".jpg", ids, [cv2.IMWRITE_JPEG_QUALITY, 95])[1], 0)
    with pytest.raises(InputError, match="one id turns into another by way of the ids in between"):
        checked_ids(lossy)


def test_real_maps_are_not_refused(real_samples):
    for folder in sorted(path for path in real_samples.iterdir() if path.is_dir()):
        ids = read_indices(folder / "parse.png")
        assert (checked_ids(ids) == ids).all()
        for factor in (2, 3):
            height, width = ids.shape
            small = cv2.resize(ids, (width // factor, height // factor), interpolation=0)
            checked_ids(small)
            checked_ids(cv2.resize(small, (width, height), interpolation=0))
            with pytest.raises(InputError, match="was resized smoothly"):
                checked_ids(cv2.resize(small, (width, height)))


def test_colour():
    assert colour(np.array([[0, 4]], np.uint8)).tolist() == [[list(COLOURS[0]), list(COLOURS[4])]]
