import numpy as np
import pytest
from hypothesis import given, strategies as st

from garment_transfer.bundle import Size
from garment_transfer.runtime.photos import Fit

sizes = st.builds(Size, st.integers(1, 400), st.integers(1, 400))
numbers = st.floats(-1e4, 1e4)


@given(source=sizes, target=sizes, x=numbers, y=numbers)
def test_coordinates_round_trip(source: Size, target: Size, x: float, y: float) -> None:
    fit = Fit(source, target)
    back = fit.to_source(*fit.to_target(x, y))
    assert back == pytest.approx((x, y), abs=1e-6)
    there = fit.to_target(*fit.to_source(x, y))
    assert there == pytest.approx((x, y), abs=1e-6)


@given(source=sizes, target=sizes)
def test_the_image_fills_the_frame_along_one_axis(source: Size, target: Size) -> None:
    fit = Fit(source, target)
    scaled = fit.scaled
    assert scaled.height <= target.height
    assert scaled.width <= target.width
    assert scaled.height == target.height or scaled.width == target.width
    # The corners of the image, which lie half a pixel outside the centres, meet the frame's.
    left, top = fit.to_target(-0.5, -0.5)
    right, bottom = fit.to_target(source.width - 0.5, source.height - 0.5)
    assert (left, top) == pytest.approx((fit.left - 0.5, fit.top - 0.5))
    assert (right - left, bottom - top) == pytest.approx((scaled.width, scaled.height))


@given(source=sizes, target=sizes)
def test_shapes_and_padding(source: Size, target: Size) -> None:
    fit = Fit(source, target)
    photo = np.full((source.height, source.width, 3), 7, np.uint8)
    fitted = fit.photo(photo)
    assert fitted.shape == (target.height, target.width, 3)
    assert (fitted == 7).all()  # the padding repeats the edge
    labels = np.full((source.height, source.width), 4, np.uint8)
    framed = fit.map(labels)
    assert framed.shape == (target.height, target.width)
    assert (fit.crop(framed) == 4).all()
    assert np.count_nonzero(framed) == fit.scaled.height * fit.scaled.width
    assert fit.map(np.dstack([labels] * 3)).shape == (target.height, target.width, 3)
    assert fit.unfit(fitted).shape == photo.shape


def test_the_same_size_is_untouched() -> None:
    fit = Fit(Size(64, 32), Size(64, 32))
    photo = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    assert fit.is_identity
    assert fit.photo(photo) is photo
    assert fit.map(photo) is photo
    assert fit.unfit(photo).base is photo  # all of it, uncopied
    assert (fit.unfit(photo) == photo).all()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (Size(40, 20), Size(80, 40)),
        (Size(120, 60), Size(30, 15)),
        (Size(30, 30), Size(64, 32)),
        (Size(50, 100), Size(64, 96)),
    ],
)
def test_coordinates_agree_with_the_pixels(source: Size, target: Size) -> None:
    """A ramp of x and y, fitted, reads at each frame pixel the source coordinate of that pixel."""
    y, x = np.mgrid[: source.height, : source.width].astype(np.uint8)
    ramp = np.dstack([2 * x, 2 * y, 2 * y])
    fit = Fit(source, target)
    fitted = fit.crop(fit.photo(ramp)).astype(float) / 2
    rows, columns = np.mgrid[: fit.scaled.height, : fit.scaled.width]
    due_x, due_y = fit.to_source(columns + fit.left, rows + fit.top)
    margin = 2 + int(1 / min(fit.scale))  # linear scaling clamps at the edges
    inner = (slice(margin, -margin), slice(margin, -margin))
    assert np.abs(fitted[..., 0] - due_x)[inner].max() <= 0.51
    assert np.abs(fitted[..., 1] - due_y)[inner].max() <= 0.51


@given(height=st.integers(1, 60), width=st.integers(1, 60), target=sizes, data=st.data())
def test_maps_take_the_nearest_label(
    height: int, width: int, target: Size, data: st.DataObject
) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    labels = np.random.default_rng(seed).integers(1, 7, (height, width), dtype=np.uint8)
    fit = Fit(Size(height, width), target)
    framed = fit.crop(fit.map(labels))
    rows, columns = np.mgrid[: fit.scaled.height, : fit.scaled.width]
    x, y = fit.to_source(columns + fit.left, rows + fit.top)

    def candidates(values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
        # Half-way between two pixels either is nearest.
        low = np.ceil(values - 0.5 - 1e-4).astype(int)
        high = np.floor(values + 0.5 + 1e-4).astype(int)
        return np.clip(low, 0, limit - 1), np.clip(high, 0, limit - 1)

    hits = [
        framed == labels[row, column]
        for row in candidates(y, height)
        for column in candidates(x, width)
    ]
    assert np.any(hits, axis=0).all()
