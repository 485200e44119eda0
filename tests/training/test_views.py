"""People as the `maps` network meets them: views of rendered people, and frames of these."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from garment_transfer.bundle import BACKGROUND, CLASSES, FACE, NUM_PARTS, SKIN
from garment_transfer.training.synthetic.people import sample_body, sample_garment
from garment_transfer.training.synthetic.render import render_person
from garment_transfer.training.synthetic.snapshots import UNKNOWN, View, take_photo
from garment_transfer.training.synthetic.views import as_given, render_view, view_size

SIZE = (128, 96)


@pytest.fixture(scope="module")
def views() -> list[View]:
    return [render_view(np.random.default_rng([3, i]), SIZE) for i in range(2)]


def test_views_are_functions_of_their_generator(views):
    again = render_view(np.random.default_rng([3, 0]), SIZE)
    for made, first, other in zip(again, views[0], views[1], strict=True):
        assert made.shape[:2] == view_size(SIZE)
        np.testing.assert_array_equal(made, first)
        assert (made != other).any()


def test_densepose_as_given_covers_the_body_and_little_more(views):
    """Real maps are fuller than the skin below the clothes; parts stay where they are."""
    rng = np.random.default_rng(4)
    body, garment = sample_body(rng), sample_garment(rng)
    person = render_person(body, garment, SIZE)
    given = as_given(person.densepose, 1.0)
    own, made = person.densepose[..., 0], given[..., 0]
    assert set(np.unique(made)) <= set(np.unique(own))
    assert (made[own > 0] > 0).mean() > 0.97
    assert 1.0 < np.count_nonzero(made) / np.count_nonzero(own) < 1.5
    assert (made == own)[own > 0].mean() > 0.85


def test_limbs_darken_all_skin_but_the_face():
    body, garment = (
        sample_body(np.random.default_rng(11)),
        sample_garment(np.random.default_rng(12)),
    )
    light, dark = (render_person(replace(body, limbs=limbs), garment, SIZE) for limbs in (1.0, 0.5))
    np.testing.assert_array_equal(light.parsing, dark.parsing)
    skin, face = (light.albedo[light.parsing == label] for label in (SKIN, FACE))
    darker, same = (dark.albedo[light.parsing == label] for label in (SKIN, FACE))
    # medians: pixels at the border hold both
    assert np.median(darker / np.maximum(skin, 1e-6)) == pytest.approx(0.5, abs=0.02)
    assert np.median(same / np.maximum(face, 1e-6)) == pytest.approx(1, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_frames_say_what_they_show_or_that_they_do_not_know(views, seed):
    photo, parsing, densepose = take_photo(*views, SIZE, np.random.default_rng(seed))
    assert photo.shape == densepose.shape == (*SIZE, 3)
    assert photo.dtype == parsing.dtype == densepose.dtype == np.uint8
    unknown = parsing == UNKNOWN
    np.testing.assert_array_equal(unknown, densepose[..., 0] == UNKNOWN)
    assert not unknown.all()
    assert (parsing[~unknown] < len(CLASSES)).all()
    assert (densepose[~unknown][:, 0] < NUM_PARTS).all()
    again = take_photo(*views, SIZE, np.random.default_rng(seed))
    for first, second in zip((photo, parsing, densepose), again, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("seed", range(8))
def test_a_backdrop_stands_behind_the_person_and_nowhere_else(views, seed):
    dark, light = np.zeros((90, 160, 3), np.uint8), np.full((90, 160, 3), 255, np.uint8)
    (one, parsing, _), (other, *_) = (
        take_photo(*views, SIZE, np.random.default_rng(seed), backdrop)
        for backdrop in (dark, light)
    )
    brighter = other.astype(int).mean(axis=2) - one.mean(axis=2)
    # a pixel away from borders, which a camera blurs; what is in front of everything counts too
    behind, person = (
        cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        for mask in (parsing == BACKGROUND, (parsing != BACKGROUND) & (parsing != UNKNOWN))
    )
    assert np.median(brighter[behind]) > 100
    assert np.abs(brighter[person]).max(initial=0) < 30
