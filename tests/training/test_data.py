"""Samples of rendered groups: which person is which, and what a mirror does."""

import cv2
import numpy as np
import pytest

from garment_transfer.bundle import GARMENT, InputError
from garment_transfer.training.data import Groups, TransferBatches, mirror, sample_of
from garment_transfer.training.synthetic import training_group


def _warp_error(sample):
    """Mean absolute difference, in grey levels, of the owner's photo moved by the true flow."""
    height, width = sample["true_parsing"].shape
    xs, ys = np.meshgrid(np.arange(width), np.arange(height))
    map_x = (xs + sample["true_flow"][0]).astype(np.float32)
    map_y = (ys + sample["true_flow"][1]).astype(np.float32)
    moved = cv2.remap(sample["garment_image"], map_x, map_y, cv2.INTER_LINEAR)
    visible = sample["flow_valid"] == 2
    return np.abs(moved.astype(float) - sample["true_image"])[visible].mean()


@pytest.fixture(scope="module")
def group():
    return training_group(3, (128, 96))


@pytest.mark.parametrize(
    ("person", "owner"),
    [((0, 0), (1, 1)), ((1, 1), (0, 0)), ((0, 1), (1, 1)), ((0, 0), (0, 0)), ((1, 0), (1, 1))],
)
def test_the_true_flow_moves_the_owners_garment_onto_the_truth(group, person, owner):
    sample = sample_of(group, person, owner)
    flipped = mirror(sample)
    assert _warp_error(sample) < 25
    assert _warp_error(flipped) == pytest.approx(_warp_error(sample), abs=1.0)
    wrong = {**sample, "true_flow": sample["true_flow"] + 12}
    assert _warp_error(wrong) > _warp_error(sample)


def test_the_truth_is_the_person_in_the_owners_garment(group):
    sample = sample_of(group, (0, 0), (1, 1))
    assert (sample["person_image"] == group["image"][0, 0]).all()
    assert (sample["garment_image"] == group["image"][1, 1]).all()
    assert (sample["true_image"] == group["image"][0, 1]).all()
    assert (sample["true_parsing"] == group["parsing"][0, 1]).all()


def test_a_mirror_changes_sides_and_twice_is_the_same(group):
    sample = sample_of(group, (0, 0), (1, 1))
    flipped = mirror(sample)
    left, right = (sample["person_densepose"][..., 0] == part for part in (3, 4))
    assert ((flipped["person_densepose"][..., 0] == 4) == np.flip(left, axis=1)).all()
    assert ((flipped["person_densepose"][..., 0] == 3) == np.flip(right, axis=1)).all()
    twice = mirror(flipped)
    for name, array in sample.items():
        if "densepose" in name:
            np.testing.assert_array_equal(twice[name][..., 0], array[..., 0])
        else:
            np.testing.assert_array_equal(twice[name], array)


def test_batches_are_seeded(shards):
    groups = Groups(shards)
    first, again, other = (next(iter(TransferBatches(groups, 4, seed))) for seed in (1, 1, 2))
    assert (first.person_image == again.person_image).all()
    assert (first.person_image != other.person_image).any()
    assert first.true_flow.shape == (4, 2, 64, 64)
    assert ((first.flow_valid > 0) <= (first.true_parsing == GARMENT)).all()


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no shards"):
        Groups(tmp_path)
