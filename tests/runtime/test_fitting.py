import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, strategies as st

from garment_transfer.bundle import FRAMING, Framing, InputError, Size
from garment_transfer.runtime.photos import Box, Fit, frame, unfit

sizes = st.builds(Size, st.integers(1, 400), st.integers(1, 400))


def source_of(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """x and y in the source of the pixels that the box has in the frame, by `to_target`."""
    rows, columns = np.mgrid[: fit.scaled.height, : fit.scaled.width]
    (left, top), (right, bottom) = fit.to_target(0, 0), fit.to_target(100, 100)
    x = 100 * (columns + fit.left - left) / (right - left)
    return x, 100 * (rows + fit.top - top) / (bottom - top)


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
    assert unfit(fit, fitted.astype(np.float32)).shape == photo.shape


def test_the_same_size_is_untouched() -> None:
    fit = Fit(Size(64, 32), Size(64, 32))
    photo = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    assert fit.is_identity
    assert fit.photo(photo) is photo
    assert fit.map(photo) is photo


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
    due_x, due_y = source_of(fit)
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
    x, y = source_of(fit)

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


boxes = st.builds(
    Box,
    top=st.integers(-60, 60),
    left=st.integers(-60, 60),
    height=st.integers(1, 200),
    width=st.integers(1, 200),
).filter(lambda box: box.top + box.height > 0 and box.left + box.width > 0)


@given(source=sizes, target=sizes, box=st.none() | boxes)
def test_a_box_fills_the_frame_along_one_axis_and_lies_in_its_middle(
    source: Size, target: Size, box: Box | None
) -> None:
    shown = box or Box(0, 0, source.height, source.width)
    assume(shown.top < source.height and shown.left < source.width)
    fit = Fit(source, target, box)
    scaled = fit.scaled
    assert scaled.height <= target.height
    assert scaled.width <= target.width
    assert scaled.height == target.height or scaled.width == target.width
    # the corners of the box, which lie half a pixel outside the centres
    left, top = fit.to_target(shown.left - 0.5, shown.top - 0.5)
    right, bottom = fit.to_target(shown.left + shown.width - 0.5, shown.top + shown.height - 0.5)
    assert (left, top) == pytest.approx((fit.left - 0.5, fit.top - 0.5))
    assert (right - left, bottom - top) == pytest.approx((scaled.width, scaled.height))
    assert (left + right, top + bottom) == pytest.approx(
        (target.width - 1, target.height - 1), abs=1.01
    )


@given(box=boxes, channels=st.sampled_from([(), (3,)]))
def test_a_box_at_its_own_size_is_the_photo_shifted(box: Box, channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(1, 256, (61, 61, *channels), dtype=np.uint8)
    fit = Fit(Size(61, 61), Size(box.height, box.width), box)
    rows = np.arange(box.height) + box.top
    columns = np.arange(box.width) + box.left
    edges = photo[rows.clip(0, 60)[:, None], columns.clip(0, 60)]
    assert (fit.photo(photo) == edges).all()
    inside = ((rows >= 0) & (rows < 61))[:, None] & (columns >= 0) & (columns < 61)
    inside = inside.reshape(*inside.shape, *(1 for _ in channels))
    assert (fit.map(photo) == np.where(inside, edges, 0)).all()
    # and back: the photo's own pixels where the box shows it
    back = unfit(fit, edges.astype(np.float32))
    y, x = np.mgrid[:61, :61]
    shown = (y >= box.top) & (y < box.top + box.height)
    shown &= (x >= box.left) & (x < box.left + box.width)
    assert back.shape == photo.shape
    assert (back[shown] == photo[shown]).all()


def test_a_box_beside_the_photo_is_refused() -> None:
    with pytest.raises(InputError, match="does not touch the photo") as caught:
        Fit(Size(10, 20), Size(64, 32), Box(top=10, left=0, height=4, width=4))
    assert caught.value.code == "argument_invalid"


def _standing(height: int, width: int, top: int, left: int, scale: int) -> npt.NDArray[np.uint8]:
    """Part ids of a person: head 2, torso, upper legs and calves 4 times `scale` rows high."""
    ids = np.zeros((height, width), np.uint8)
    row = top
    for part, rows, columns in ((23, 2, 2), (2, 4, 4), (9, 4, 4), (11, 4, 4)):
        x = left + (4 - columns) * scale // 2
        ids[row : row + rows * scale, x : x + columns * scale] = part
        row += rows * scale
    return ids


def test_the_frame_of_a_person() -> None:
    framing = Framing(parts=(2, 9, 23), legs=1.5, margin=0.1)
    # head and torso are 60 rows, so that legs count to the row 90 below the top: 30 + 90 = 120
    box = frame(_standing(240, 200, 30, 80, 10), framing, Size(64, 32))
    # 90 rows and 40 columns, 9 more on each side: 108 rows; the aspect 2 : 1 asks for 116 of 58
    assert box == Box(top=21, left=71, height=116, width=58)


@given(
    scale=st.integers(4, 24),
    top=st.integers(0, 80),
    left=st.integers(0, 80),
    shift=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_the_frame_moves_with_the_person(
    scale: int, top: int, left: int, shift: tuple[int, int]
) -> None:
    size, target = 520, Size(256, 192)
    first = frame(_standing(size, size, top, left, scale), FRAMING, target)
    ids = _standing(size, size, top + shift[0], left + shift[1], scale)
    moved = frame(ids, FRAMING, target)
    assert (moved.height, moved.width) == (first.height, first.width)
    assert (moved.top - first.top, moved.left - first.left) == shift
    assert abs(moved.width * 256 - moved.height * 192) <= 256
    if scale >= 12:  # so large that a row of one pixel is a speck
        ids[-1, -1] = 23
        assert frame(ids, FRAMING, target) == moved


def test_the_frame_of_nobody_is_an_error() -> None:
    with pytest.raises(InputError, match="shows nobody") as caught:
        frame(np.zeros((8, 8, 3), np.uint8), FRAMING, Size(64, 32))
    assert caught.value.code == "body_missing"
