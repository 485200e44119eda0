"""People as the `maps` network meets them: somewhere in a photo, with their true maps."""

from dataclasses import replace

import numpy as np

from garment_transfer.training.synthetic.people import (
    Body,
    sample_body,
    sample_garment,
)
from garment_transfer.training.synthetic.render import U8, build_figure, paint, render_person
from garment_transfer.training.synthetic.rough import rough_densepose
from garment_transfer.training.synthetic.shots import REAL, direction

#: A view has so many eighths of the pixels that the networks see, along either side: room to
#: move and turn a frame in.
VIEW_EIGHTHS = 11
#: A photo that no edge of comes near the person: height, aspect, room above, shift.
_OPEN = (3.0, 1.0, 0.4, 0.0)


def view_size(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the views that frames of `size` are cut from."""
    height, width = (side * VIEW_EIGHTHS // 8 for side in size)
    return height, width


def render_view(rng: np.random.Generator, size: tuple[int, int]) -> tuple[U8, U8, U8]:
    """Somebody of the training distribution, in more of a photo than the networks are shown.

    Six of ten fill a frame of `size` as the framing rule has it; others are smaller, down to
    whole figures. Some are seen from the side or from behind, and light is harder than that of
    the transfers' pictures. Nobody else is there.

    Returns:
        Photo uint8 [h, w, 3], true parsing uint8 [h, w] and DensePose uint8 [h, w, 3] as
        `as_given` has it, of `view_size(size)`.
    """
    body = _seen(sample_body(rng), rng)
    garment = sample_garment(rng)
    figure = build_figure(body, size)
    near = rng.random() < 0.6
    factor = VIEW_EIGHTHS / 8 * (1.0 if near else float(rng.uniform(1.0, 1.75)))
    above = (factor - 1) * float(rng.uniform(0.1, 0.7) if near else rng.uniform(0.05, 0.45))
    x, z = figure.origin
    aside = figure.height * float(np.clip(rng.normal(0, 0.06), -0.15, 0.15))
    figure = replace(
        figure, height=figure.height * factor, origin=(x + aside, z + above * figure.height)
    )
    view = view_size(size)
    person = render_person(body, garment, view, figure, paint(garment, view))
    return person.image, person.parsing, as_given(person.densepose, factor)


def as_given(densepose: U8, factor: float) -> U8:
    """DensePose [h, w, 3] of a body as the tool gives it for photos, without its errors.

    That is fuller than the skin below the clothes: what `rough_densepose` does in the middle of
    the ranges of `REAL`, so that the other graphs get what they were trained on.

    Args:
        densepose: the body's own.
        factor: height of the view through that of the person's frame.
    """
    window = max(round(5 * VIEW_EIGHTHS / 8 / factor), 2)
    roughness = replace(_GIVEN, window=(window, window + 1))
    return rough_densepose(densepose, np.random.default_rng(0), roughness)


_GIVEN = replace(
    REAL,
    sway=(0, 0),
    shrink=(1, 1),
    fray=None,
    blobs=(5, 5),
    limbs=(1.45, 1.45),
    fringe=0,
    lost_limb=0,
    stop=0,
    charts=1,
    noise=0,
)


def _seen(body: Body, rng: np.random.Generator) -> Body:
    """A body with a shot, as anybody may photograph it."""
    assert body.shot is not None
    shot = replace(body.shot, photo=_OPEN, strangers=())
    if rng.random() < 0.35:  # sun, a lamp at one side, a window behind
        shot = replace(
            shot,
            light=direction(float(rng.uniform(-2.4, 2.4)), float(rng.uniform(-0.1, 1.3))),
            key=float(rng.uniform(0.6, 0.95)),
            soft=float(rng.uniform(0, 0.6)),
            exposure=float(rng.uniform(0.6, 1.3)),
        )
    turn = body.turn
    way = rng.random()
    if way < 0.07:
        turn += np.pi
    elif way < 0.2:
        turn += float(rng.uniform(-1.2, 1.2))
    lower = body.lower
    if lower.kind == "trousers" and rng.random() < 0.75:  # down to the shoe, not over it
        lower = replace(lower, hem=float(rng.uniform(-0.8, -0.7)))
    return replace(body, shot=shot, turn=float(turn), lower=lower)
