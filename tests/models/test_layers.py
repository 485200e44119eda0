"""Building blocks against plain NumPy."""

import cv2
import numpy as np
import pytest
import torch

from garment_transfer.bundle import BACKGROUND, GARMENT, SKIN
from garment_transfer.models.layers import dilate, join, label_neck, one_hot, push_pull


def test_push_pull_keeps_what_is_known_and_fills_the_rest():
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.random((1, 3, 64, 32), dtype=np.float32))
    weight = torch.from_numpy((random.random((1, 1, 64, 32)) < 0.5).astype(np.float32))
    filled = push_pull(x, weight)
    torch.testing.assert_close(filled * weight, x * weight)
    low, high = x[weight.expand_as(x) > 0].min(), x[weight.expand_as(x) > 0].max()
    assert filled.min() >= low - 1e-5
    assert filled.max() <= high + 1e-5


def test_push_pull_of_one_colour_is_that_colour():
    weight = torch.zeros(1, 1, 32, 64)
    weight[0, 0, 5, 9] = 1
    x = torch.zeros(1, 2, 32, 64)
    x[0, :, 5, 9] = torch.tensor([0.25, 0.75])
    filled = push_pull(x, weight)
    due = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1).expand_as(filled)
    torch.testing.assert_close(filled, due, atol=1e-5, rtol=0)


def test_push_pull_of_nothing_is_nothing():
    assert (push_pull(torch.ones(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)) == 0).all()


def test_one_hot():
    parsing = torch.tensor([[[0, 4], [4, 3]]], dtype=torch.uint8)
    planes = one_hot(parsing, (GARMENT, SKIN))
    assert planes.tolist() == [[[[0, 1], [1, 0]], [[0, 0], [0, 1]]]]


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_dilate_is_opencvs(radius):
    masks = (np.random.default_rng(radius).random((2, 3, 4, 11)) < 0.1).astype(np.float32)
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    grown = dilate(torch.from_numpy(masks), radius).numpy()
    for mask, result in zip(masks.reshape(-1, 4, 11), grown.reshape(-1, 4, 11), strict=True):
        np.testing.assert_array_equal(result, cv2.dilate(mask, kernel))


def test_join_puts_channels_last_in_the_type_of_autocast():
    torch.manual_seed(0)
    maps = [torch.randn(2, 5, 6, 4), torch.randn(2, 6, 4, 3).permute(0, 3, 1, 2).bfloat16()]
    for wanted in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", enabled=wanted == torch.bfloat16):
            joined = join(*maps)
        assert joined.dtype == wanted
        assert joined.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(joined[:, :5], maps[0].to(wanted))
        assert torch.equal(joined[:, 5:], maps[1].to(wanted))


def test_unlabelled_torso_becomes_skin_and_nothing_else_does():
    parsing = torch.tensor([[[BACKGROUND, BACKGROUND, GARMENT]]], dtype=torch.uint8)
    densepose = torch.zeros(1, 1, 3, 3, dtype=torch.uint8)
    densepose[0, 0, :, 0] = torch.tensor([2, 15, 2])
    assert label_neck(parsing, densepose).tolist() == [[[SKIN, BACKGROUND, GARMENT]]]
