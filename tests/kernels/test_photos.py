"""Fit and Compose in C++ against their definitions, which NumPy runs."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from garment_transfer import kernels
from garment_transfer.bundle import BACKGROUND, GARMENT, LOWER, SKIN, Size
from garment_transfer.kernels import photos
from garment_transfer.kernels.compose import Composed, compose
from garment_transfer.kernels.compose.definition import _extended
from garment_transfer.kernels.fit import Box, Fit, fit_map, fit_photo
from garment_transfer.kernels.remove_arms import define as remove_by_definition, remove_arms
from garment_transfer.kernels.upsample_labels import (
    define as upsample_by_definition,
    upsample_labels,
)

pytestmark = pytest.mark.skipif(
    kernels.photos_library() is None, reason="the photos' library is not built: no C++ compiler"
)

sides = st.integers(1, 70)
# blocks, as people have, and noise; few classes, and ids that are none
roughness = st.sampled_from([1, 3, 9])


@st.composite
def fits(draw: st.DrawFn, target: Size) -> Fit:
    """A photo with a box that is all of it, part of it, or leaves it."""
    source = Size(draw(sides), draw(sides))
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    box = Box(
        draw(st.integers(1 - height, source.height - 1)),
        draw(st.integers(1 - width, source.width - 1)),
        height,
        width,
    )
    return Fit(source, target, draw(st.sampled_from([None, box])))


def noise(random: np.random.Generator, size: Size, values: int, block: int = 1) -> np.ndarray:
    coarse = random.integers(
        0, values, (-(-size.height // block), -(-size.width // block)), np.uint8
    )
    return np.kron(coarse, np.ones((block, block), np.uint8))[: size.height, : size.width]


def picture(random: np.random.Generator, size: Size, channels: int = 3) -> np.ndarray:
    return random.integers(0, 256, (size.height, size.width, channels), np.uint8)


def in_other_memory(random: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """The same values, with rows apart, upside down, or column by column."""
    way = random.integers(5)
    if way == 0:
        return np.asfortranarray(array)
    if way == 1:
        return np.ascontiguousarray(array[::-1])[::-1]
    if way == 2:
        return np.ascontiguousarray(array[:, ::-1])[:, ::-1]
    if way == 3:
        return np.pad(array, [(1, 1), (2, 3)] + [(0, 0)] * (array.ndim - 2))[1:-1, 2:-3]
    return array


@settings(max_examples=150, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_fit_is_its_definition(data: st.DataObject, seed: int) -> None:
    random = np.random.default_rng(seed)
    fit = data.draw(fits(Size(data.draw(sides), data.draw(sides))))
    for image in (picture(random, fit.source), picture(random, fit.source, 1)[..., 0]):
        given_image = in_other_memory(random, image)
        assert (fit.photo(given_image) == fit_photo(fit, image)).all()
        assert (fit.map(given_image) == fit_map(fit, image)).all()


def call(data: st.DataObject, random: np.random.Generator) -> tuple[tuple, dict]:
    """Random arguments of `compose`."""
    frame = Size(data.draw(st.integers(1, 24)), data.draw(st.integers(1, 24)))
    fit, owner_fit = data.draw(fits(frame)), data.draw(fits(frame))
    values = data.draw(st.sampled_from([7, 7, 256]))
    reach = data.draw(st.sampled_from([0.5, 4, 100]))
    flow = (reach * random.standard_normal((2, frame.height, frame.width))).astype(np.float32)
    odd = data.draw(st.sampled_from([None, np.nan, np.inf, -np.inf, 1e30]))
    if odd is not None:
        flow[random.random(flow.shape) < 0.1] = odd
    garment = noise(random, owner_fit.source, data.draw(st.integers(1, 3)), data.draw(roughness))
    arrays = [
        picture(random, fit.source),
        noise(random, fit.source, values, data.draw(roughness)),
        picture(random, owner_fit.source),
        garment > 0,
    ]
    with_scores, with_kept = data.draw(st.booleans()), data.draw(st.booleans())
    named = {
        "image": picture(random, frame),
        "transfer_parsing": noise(random, frame, values, data.draw(st.sampled_from([1, 4]))),
        "warped_garment": picture(random, frame),
        "transfer_scores": picture(random, frame, 4) if with_scores else None,
        "kept": noise(random, fit.source, 3, 5) == 0 if with_kept else None,
    }
    return (*arrays, fit, owner_fit), {**named, "flow": flow}


@pytest.fixture(scope="module")
def by_definition() -> Callable[..., Composed]:
    """`compose` as where no library was built."""

    def run(*arrays: object, **named: object) -> Composed:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(photos, "load", lambda: None)
            return compose(*arrays, **named)

    return run


@settings(max_examples=150, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_compose_is_its_definition(
    by_definition: Callable[..., Composed], data: st.DataObject, seed: int
) -> None:
    random = np.random.default_rng(seed)
    arrays, named = call(data, random)
    due = by_definition(*arrays, **named, with_garment=True)

    def moved(value: object) -> object:
        return in_other_memory(random, value) if isinstance(value, np.ndarray) else value

    found = compose(
        *map(moved, arrays),
        **{name: value if name == "flow" else moved(value) for name, value in named.items()},
        with_garment=True,
    )
    assert (found.parsing == due.parsing).all()
    for name in ("image", "warped_garment"):
        difference = np.abs(getattr(found, name).astype(int) - getattr(due, name))
        assert difference.max() <= 1, name
    assert compose(*arrays, **named).warped_garment is None


def test_a_garment_is_extended_by_its_nearest_pixels() -> None:
    photo = np.arange(1, 1 + 7 * 9, dtype=np.uint8).reshape(7, 9, 1).repeat(3, axis=2)
    mask = np.zeros((7, 9), np.uint8)
    mask[2:5, 3:7] = 1
    found = _extended(photo, mask, 2)
    due = np.zeros((7, 9), np.uint8)
    due[2:5, 1:9] = photo[2:5, [3, 3, 3, 4, 5, 6, 6, 6], 0]
    due[0:2, 3:7], due[5:7, 3:7] = photo[2, 3:7, 0], photo[4, 3:7, 0]
    assert (found[..., 0] == due).all()
    assert (found[..., 3] == 255 * (due > 0)).all()


@pytest.mark.parametrize(("label", "scale"), [(SKIN, 4), (LOWER, 3), (SKIN, 2)])
def test_painted_skin_and_cloth_have_the_photo_s_grain(
    by_definition: Callable[..., Composed], label: int, scale: int
) -> None:
    """A garment on the right gives way to what the left half shows, which has noise."""
    random = np.random.default_rng(3)
    frame = Size(48, 64)
    size = Size(scale * 48, scale * 64)
    fit = Fit(size, frame)
    tone = np.array([190, 150, 120])
    photo = (tone + random.normal(0, 4, (size.height, size.width, 3))).round().astype(np.uint8)
    own = np.full((size.height, size.width), label, np.uint8)
    own[:, size.width // 2 :] = GARMENT
    found, due = (
        run(
            *(photo, own, photo, own == GARMENT, fit, fit),
            image=np.tile(tone.astype(np.uint8), (48, 64, 1)),
            transfer_parsing=np.full((48, 64), label, np.uint8),
            warped_garment=np.zeros((48, 64, 3), np.uint8),
            flow=np.zeros((2, 48, 64), np.float32),
        ).image.astype(int)
        for run in (compose, by_definition)
    )
    assert np.abs(found - due).max() <= 1
    painted = found[:, size.width // 2 + 4 * scale :]
    assert 0.6 * 4 < painted.std() / np.sqrt(1 + (tone.std() / 4) ** 2) < 1.4 * 4
    np.testing.assert_allclose(painted.mean(axis=(0, 1)), tone, atol=1)
    # nothing is repeated: a patch of grain is like no other place
    patch = painted[8:24, 8:24] - tone
    places = cv2.matchTemplate(
        (painted - tone).astype(np.float32), patch.astype(np.float32), cv2.TM_CCOEFF_NORMED
    )
    assert np.sort(places.ravel())[-2] < 0.5


def on_device(path: Path) -> Callable[..., Composed]:
    """`compose` by the device's code, which a library runs on the CPU."""
    library = photos.Library(str(path))

    def run(
        photo: np.ndarray,
        own: np.ndarray,
        owner_photo: np.ndarray,
        owner_garment: np.ndarray,
        *fits: Fit,
        flow: np.ndarray,
        **graphs: np.ndarray,
    ) -> Composed:
        names = ("photo", "own", "owner_photo", "owner_garment", "image", "parsing", "warped")
        arrays = (photo, own, owner_photo, owner_garment.view(np.uint8), *graphs.values())
        given = {
            name: SimpleNamespace(pointer=array.ctypes.data, shape=array.shape)
            for name, array in zip(names, arrays, strict=True)
        }
        image, parsing = np.empty_like(photo), np.empty_like(own)
        call = library.composing_on_device(
            {**given, "kept": None, "scores": None},
            fits,
            flow.ctypes.data,
            (image.ctypes.data, parsing.ctypes.data),
        )
        workspace = np.empty(library.workspace(call) + 256, np.uint8)
        library.compose_on_device(call, workspace.ctypes.data + -workspace.ctypes.data % 256, 0)
        return Composed(image, parsing, None)

    return run


def test_an_uncovered_lower_garment_goes_on_as_what_is_seen_below_it(
    by_definition: Callable[..., Composed], photos_on_cpu: Path
) -> None:
    """A hem that rises from row 200 to row 120, over 60 rows of cloth that all differ."""
    frame, size = Size(96, 64), Size(288, 192)
    fit = Fit(size, frame)
    photo = np.zeros((288, 192, 3), np.uint8)
    photo[:, :, 0] = np.arange(288)[:, None] - 100
    photo[:, :, 1] = np.arange(192)
    own = np.full((288, 192), LOWER, np.uint8)
    own[:200] = GARMENT
    own[260:] = BACKGROUND
    transfer = fit_map(fit, own)
    transfer[40:70] = LOWER
    given_image = np.full((96, 64, 3), 255, np.uint8)
    named = {
        "image": given_image,
        "transfer_parsing": transfer,
        "warped_garment": given_image,
        "flow": np.zeros((2, 96, 64), np.float32),
    }
    found, due, device = (
        run(*(photo, own, photo, own == GARMENT, fit, fit), **named).image
        for run in (compose, by_definition, on_device(photos_on_cpu))
    )
    assert (found == due).all()
    assert (found == device).all()
    # each row is one of those that are seen, and they follow each other, up and down, but for a
    # pixel of the frame where the photo begins
    rows = found[126:260, :, 0].astype(int) + 100
    assert (rows == rows[:, :1]).all()
    steps = np.abs(np.diff(rows[:, 0]))
    assert (steps > 1).sum() <= 1
    assert steps.max() <= 3
    assert set(rows[:, 0]) <= set(range(200, 260))
    assert len(set(rows[:, 0])) > 40
    assert (found[126:260, :, 1] == photo[126:260, :, 1]).all()
    # with nothing seen below the graphs' picture shows
    bare = np.where(own == LOWER, BACKGROUND, own).astype(np.uint8)
    painted = compose(*(photo, bare, photo, own == GARMENT, fit, fit), **named).image
    assert (painted[130:190, 8:-8] == 255).all()


@settings(max_examples=20, deadline=None)
@given(hem=st.integers(80, 120), slant=st.integers(-30, 30), seed=st.integers(0, 2**32 - 1))
def test_a_slanted_hem_uncovers_the_same_on_every_device(
    by_definition: Callable[..., Composed], photos_on_cpu: Path, hem: int, slant: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    frame, size = Size(192, 64), Size(320, 100)
    fit = Fit(size, frame)
    photo = picture(random, size)
    y, x = np.indices((320, 100))
    old_hem = 200 + slant * x // 50
    own = np.where(y < old_hem, GARMENT, LOWER).astype(np.uint8)
    own[noise(random, size, 40, 12) == 0] = SKIN
    own[:, :5] = BACKGROUND
    transfer = fit_map(fit, own)
    uncovered = transfer[hem : 200 * 192 // 320 + 20]
    uncovered[uncovered == GARMENT] = LOWER
    arrays = (photo, own, photo, own == GARMENT, fit, fit)
    named = {
        "image": picture(random, frame),
        "transfer_parsing": transfer,
        "warped_garment": picture(random, frame),
        "flow": np.zeros((2, 192, 64), np.float32),
    }
    runs = (compose, by_definition, on_device(photos_on_cpu))
    found, due, device = (run(*arrays, **named) for run in runs)
    assert (found.parsing == LOWER).sum() > (own == LOWER).sum()
    for other in (due, device):
        assert (found.parsing == other.parsing).all()
        assert np.abs(found.image.astype(int) - other.image).max() <= 1


@settings(max_examples=100, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_removed_arms_are_their_definition(data: st.DataObject, seed: int) -> None:
    random = np.random.default_rng(seed)
    sides = data.draw(st.sampled_from([(300, 200), (12, 2500)]))
    size = Size(*(data.draw(st.integers(1, side)) for side in sides))
    photo = noise(random, size, 256, data.draw(roughness))[..., None] // [1, 2, 3]
    photo = photo.astype(np.uint8)
    # from torn garments to whole ones
    garment = noise(random, size, 1 + data.draw(st.integers(1, 40)), 20) > 0
    arms = ~garment & (noise(random, size, 200, 10) < data.draw(st.integers(1, 200)))
    due = remove_by_definition(photo, garment, arms)
    arrays = (in_other_memory(random, array) for array in (photo, garment, arms))
    found = remove_arms(*arrays)
    for one, other in zip(found, due, strict=True):
        assert (one == other).all()
    assert (found[1] <= garment | arms).all()
    assert (found[0][~found[1]] == photo[~found[1]]).all()


ARM = np.s_[200:240, 200:330]


def with_an_arm(shadow: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A garment that darkens to the left, uint8 [512,384,3], without and with an arm; the arm."""
    random = np.random.default_rng(2)
    light = np.linspace(0.7, 1, 384)[:, None] * [90, 120, 150]
    cloth = light + random.normal(0, 1, (512, 384, 3))
    photo = cloth.copy()
    photo[240:290, 200:330] *= shadow
    photo[ARM] = 200
    arm = np.zeros(photo.shape[:2], bool)
    arm[ARM] = True
    return cloth.astype(np.uint8), photo.astype(np.uint8), arm


def test_behind_an_arm_is_the_cloth_around_it() -> None:
    cloth, photo, arm = with_an_arm(shadow=1)
    found, worn = remove_arms(photo, ~arm, arm)
    assert worn.all()
    np.testing.assert_allclose(found[ARM].mean(axis=0), cloth[ARM].mean(axis=0), atol=3)
    far = cv2.dilate(arm.astype(np.uint8), np.ones((301, 301), np.uint8)) == 0
    assert (found[far] == photo[far]).all()
    # an arm beside the garment stays
    beside = np.broadcast_to(np.arange(384) < 189, arm.shape).copy()
    assert remove_arms(photo, beside, arm)[0] is photo


def test_an_arms_shadow_is_lifted_no_farther_than_to_darker_parts() -> None:
    _, photo, arm = with_an_arm(shadow=0.3)
    found, _ = remove_arms(photo, ~arm, arm)
    shadow, darkest = np.s_[256:284, 220:310], np.s_[:, :64]
    np.testing.assert_allclose(found[shadow].mean(), photo[darkest].mean(), rtol=0.1)
    assert (found[darkest] == photo[darkest]).all()


def test_a_dark_pattern_stays_beside_an_arm() -> None:
    _, photo, arm = with_an_arm(shadow=1)
    photo[np.arange(512) // 32 % 2 == 0] //= 5
    found, _ = remove_arms(photo, ~arm, arm)
    # but for the cells right beside the arm, seven pixels each
    far = cv2.dilate(arm.astype(np.uint8), np.ones((81, 81), np.uint8)) == 0
    assert np.abs(found.astype(int) - photo)[far].mean() < 1


@settings(max_examples=100, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_upsampled_labels_are_their_definition(data: st.DataObject, seed: int) -> None:
    random = np.random.default_rng(seed)
    # windows of one pixel around, of 21 and of the most
    rows = data.draw(st.one_of(sides, st.sampled_from([700, 2100])))
    frame = Size(rows, data.draw(st.integers(1, 30 if rows > 70 else 70)))
    fit = data.draw(fits(frame))
    levels = data.draw(st.sampled_from([1, 2, 256]))
    photo = np.dstack([noise(random, fit.source, levels, data.draw(roughness)) for _ in range(3)])
    labels = noise(random, frame, data.draw(st.sampled_from([1, 7, 256])), data.draw(roughness))
    arrays = photo, fit.photo(photo), labels
    due = upsample_by_definition(*arrays, fit)
    found = upsample_labels(*(in_other_memory(random, array) for array in arrays), fit)
    assert (found == due).all()
    assert set(np.unique(found)) <= {0, *np.unique(labels)}


def slow_guided_filter(guide: np.ndarray, mask: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Equations 19 to 21 of the paper, a window at a time, in its plain words."""
    height, width = mask.shape
    a, b = np.empty((height, width, 3)), np.empty((height, width))

    def window(y: int, x: int) -> tuple[slice, slice]:
        return (
            slice(max(y - radius, 0), y + radius + 1),
            slice(max(x - radius, 0), x + radius + 1),
        )

    for y, x in np.ndindex(height, width):
        colours, members = guide[window(y, x)].reshape(-1, 3), mask[window(y, x)].ravel()
        mean, share = colours.mean(axis=0), members.mean()
        covariance = np.cov(colours.T, bias=True) + eps * np.eye(3)
        a[y, x] = np.linalg.solve(covariance, colours.T @ members / len(members) - mean * share)
        b[y, x] = share - a[y, x] @ mean
    said = np.empty((height, width))
    for y, x in np.ndindex(height, width):
        said[y, x] = a[window(y, x)].reshape(-1, 3).mean(axis=0) @ guide[y, x]
        said[y, x] += b[window(y, x)].mean()
    return said


def test_upsampled_labels_are_those_of_the_guided_filter() -> None:
    random = np.random.default_rng(4)
    size = Size(96, 72)  # a window of three pixels' radius
    photo = np.dstack([noise(random, size, 256, 12) // 2 for _ in range(3)])
    photo += random.integers(0, 64, photo.shape, np.uint8)
    labels = noise(random, size, 4, 10)
    said = [slow_guided_filter(photo.astype(float), labels == c, 3, 6.5) for c in range(4)]
    found = upsample_labels(photo, photo, labels, Fit(size, size))
    best = np.max(said, axis=0)
    # all but what rounding decides, and much is another class than before
    assert (best - np.choose(found, said)).max() < 0.01
    assert 0.02 < (found != labels).mean() < 0.3


def test_upsampled_labels_end_where_the_photo_says() -> None:
    """A disc of another colour, which the frame's labels miss by a pixel of theirs and more."""
    y, x = np.indices((512, 384))
    disc = (y - 250) ** 2 + (x - 190) ** 2 < 110**2
    random = np.random.default_rng(6)
    photo = np.where(disc[..., None], [150, 60, 50], [90, 110, 120]) + random.normal(
        0, 4, (512, 384, 3)
    )
    photo = photo.round().astype(np.uint8)
    size = Size(256, 192)
    fit = Fit(Size(512, 384), size)
    labels = 4 * fit_map(fit, disc.astype(np.uint8))
    rough = np.roll(labels, 2, axis=1)
    rough[120:124] = np.roll(rough[120:124], 3, axis=1)
    found = upsample_labels(photo, fit.photo(photo), rough, fit)
    enlarged = rough.repeat(2, axis=0).repeat(2, axis=1)
    wrong, before = ((one != 4 * disc).sum() for one in (found, enlarged))
    assert before > 1500
    assert wrong < 50


def test_any_number_of_threads_draws_one_picture() -> None:
    random = np.random.default_rng(5)
    size, frame = Size(300, 200), Size(64, 48)
    fit = Fit(size, frame)
    arrays = (picture(random, size), noise(random, size, 7, 25), picture(random, size))
    named = {
        "image": picture(random, frame),
        "transfer_parsing": noise(random, frame, 7, 8),
        "warped_garment": picture(random, frame),
        "flow": random.standard_normal((2, 64, 48)).astype(np.float32),
    }
    found = []
    before = cv2.getNumThreads()
    try:
        for threads in (1, 2, 5):
            cv2.setNumThreads(threads)
            found.append(compose(*arrays, noise(random, size, 1) == 0, fit, fit, **named))
    finally:
        cv2.setNumThreads(before)
    assert (found[0].image != arrays[0]).any()
    for other in found[1:]:
        assert (other.image == found[0].image).all()
        assert (other.parsing == found[0].parsing).all()


def test_what_does_not_agree_is_refused() -> None:
    random = np.random.default_rng(0)
    size = Size(20, 10)
    fit = Fit(size, Size(8, 4))
    photo, parsing = picture(random, size), noise(random, size, 7)
    named = {
        "image": picture(random, fit.target),
        "transfer_parsing": noise(random, fit.target, 7),
        "warped_garment": picture(random, fit.target),
        "flow": np.zeros((2, 8, 4), np.float32),
    }
    arrays = (photo, parsing, photo, parsing == 4, fit, fit)
    with pytest.raises(ValueError, match=r"own is uint8 \[10, 20\]; expected uint8 \[20, 10\]"):
        compose(photo, parsing.T, *arrays[2:], **named)
    with pytest.raises(ValueError, match=r"flow is float64"):
        compose(*arrays, **{**named, "flow": named["flow"].astype(float)})
    with pytest.raises(ValueError, match="expected one size"):
        compose(*arrays[:5], Fit(size, Size(4, 4)), **named)


def test_without_a_library_it_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "library.so"
    broken.write_bytes(b"no library")
    photos.load.cache_clear()
    try:
        for found, reason in ((None, "was not built"), (broken, "library.so")):
            photos.load.cache_clear()
            monkeypatch.setattr(kernels, "photos_library", lambda found=found: found)
            with caplog.at_level(logging.WARNING):
                assert photos.load() is None
                assert photos.load() is None
            (record,) = caplog.records
            assert reason in record.getMessage()
            caplog.clear()
    finally:
        photos.load.cache_clear()
