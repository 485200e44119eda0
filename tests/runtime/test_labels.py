import numpy as np
import pytest
from hypothesis import given, strategies as st

from garment_transfer.bundle import CLASSES, GARMENT, LABEL_SETS, LOWER, InputError, label_set
from garment_transfer.runtime.photos import COLOURS, colour, hip_row, to_classes

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
    "skin skin background garment",
}


def test_every_set_is_covered() -> None:
    assert set(DUE) == set(LABEL_SETS)
    assert len(COLOURS) == len(CLASSES)


@pytest.mark.parametrize("name", DUE)
def test_table(name: str) -> None:
    for source, target in enumerate(DUE[name].split()):
        ids = np.full((1, 1), source, np.uint8)
        if target == "?":
            with pytest.raises(InputError):
                to_classes(ids, label_set(name), NO_PARTS)
        else:
            assert CLASSES[to_classes(ids, label_set(name), NO_PARTS).item()] == target


@given(name=st.sampled_from(sorted(LABEL_SETS)), data=st.data())
def test_each_pixel_is_mapped_alone(name: str, data: st.DataObject) -> None:
    known = LABEL_SETS[name].classes
    values = data.draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=30))
    classes = to_classes(np.array([values], np.uint8), label_set(name), NO_PARTS)
    assert classes.dtype == np.uint8
    assert classes.tolist() == [[known[value] for value in values]]


@given(name=st.sampled_from(sorted(LABEL_SETS)), stray=st.integers(0, 255))
def test_unknown_ids_are_named(name: str, stray: int) -> None:
    if stray in LABEL_SETS[name].classes:
        return
    with pytest.raises(InputError) as error:
        to_classes(np.array([[0, stray]], np.uint8), label_set(name), NO_PARTS, name="parse.png")
    message = str(error.value)
    assert "parse.png" in message
    assert f"does not have: {stray};" in message
    assert "--label-set" in message


def test_ids_are_named_as_ranges() -> None:
    with pytest.raises(InputError, match=r"have: 2-3, 200; expected ids 0-1, 4-13"):
        to_classes(np.array([[0, 2, 3, 200]], np.uint8), label_set("viton14"), NO_PARTS)


def test_unknown_set_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown label set 'viton'.*atr18, cihp20.*meta\.json"):
        label_set("viton")


@pytest.mark.parametrize(("name", "label"), [("cihp20", 6), ("lip20", 10), ("atr18", 7)])
def test_a_dress_is_lower_below_the_hips(name: str, label: int) -> None:
    ids = np.full((10, 4), label, np.uint8)
    parts = np.full((10, 4), 2, np.uint8)
    parts[6:] = 9
    parts[5, 0] = 9  # a thigh that reaches higher at the side
    parts[8, 2] = 2  # and a stray bit of torso
    assert hip_row(parts) == 6
    classes = to_classes(ids, label_set(name), parts)
    assert (classes[:6] == GARMENT).all()
    assert (classes[6:] == LOWER).all()


def test_a_dress_with_no_legs_in_sight_is_all_garment() -> None:
    parts = np.full((4, 4), 2, np.uint8)
    ids = np.full((4, 4), 6, np.uint8)
    assert hip_row(parts) is None
    assert (to_classes(ids, label_set("cihp20"), parts) == GARMENT).all()


def test_colour() -> None:
    assert colour(np.array([[0, 4]], np.uint8)).tolist() == [[list(COLOURS[0]), list(COLOURS[4])]]
