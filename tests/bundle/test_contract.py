"""Comparing a loaded graph with the contract, and constants that other files go by."""

import pytest
from msgspec.structs import replace

import garment_transfer.bundle as bundle
from garment_transfer.bundle import CLASSES, Signature, Size, border_width, contract, differences

EXPECTED = contract(Size(64, 32))["parsing"]


@pytest.mark.parametrize(
    ("change", "agrees"),
    [
        ({}, True),
        ({"shape": ("batch", "height", 32)}, True),  # what is open agrees with any size
        ({"shape": (-1, -1, 32)}, True),  # as some runtimes say it
        ({"shape": ("N", 64, 33)}, False),
        ({"shape": ("N", 0, 32)}, False),
        ({"shape": (1, 64, 32)}, False),  # the batch has to be open
        ({"shape": ("N", 64)}, False),
        ({"dtype": "int8"}, False),
        ({"dtype": "uint9"}, False),
        ({"name": "other"}, False),
    ],
)
def test_a_tensor_agrees_or_is_named(change, agrees):
    first, *rest = EXPECTED.inputs
    found = Signature((*rest, replace(first, **change)), EXPECTED.outputs)  # in any order
    assert (differences(EXPECTED, found) == "") == agrees
    if not agrees:
        assert "the inputs are" in differences(EXPECTED, found)


def test_constants_are_the_classes_places():
    names = ("BACKGROUND", "HAIR", "FACE", "SKIN", "GARMENT", "LOWER", "LEGS")
    assert [CLASSES[getattr(bundle, name)] for name in names] == [name.lower() for name in names]


@pytest.mark.parametrize(("height", "width"), [(32, 1), (170, 1), (171, 2), (256, 3), (1024, 12)])
def test_border_width(height, width):
    assert border_width(height) == width


@pytest.mark.parametrize("given", ["", "elsewhere"])
def test_cache_folder(given, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / given) if given else "")
    assert bundle.cache_folder() == tmp_path / (given or ".cache") / "garment-transfer"
