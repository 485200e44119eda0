"""The held-out test comes out pixel for pixel as it was, whatever becomes of the renderer.

`python tests/training/test_frozen.py SET FOLDER` renders the pictures of set A or B anew. Who
replaces those that are here makes every earlier figure of the set incomparable.
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from garment_transfer.runtime.photos import read_rgb, write_rgb
from garment_transfer.training.synthetic import HELD_OUT_PAIRS, HeldOut, held_out_pair

INDICES = range(0, HELD_OUT_PAIRS, 36)


def _picture(held_out: HeldOut, index: int) -> np.ndarray:
    """A pair side by side, uint8 [256, 6 * 192, 3].

    Photos of person, owner and truth; DensePose of person and owner; the parsings of person, owner
    and truth as red, green and blue.
    """
    pair = held_out_pair(index, (256, 192), held_out)
    coloured = ("person_image", "garment_image", "true_image")
    coloured += ("person_densepose", "garment_densepose")
    parsings = [pair[name] for name in ("person_parsing", "garment_parsing", "true_parsing")]
    return np.hstack([*(pair[name] for name in coloured), np.stack(parsings, axis=-1)])


@pytest.mark.parametrize(("held_out", "index"), product("AB", INDICES))
def test_a_held_out_pair_comes_out_as_it_was(held_out, index):
    folder = Path(__file__).parent / f"held_out_{held_out.lower()}"
    stored = read_rgb(folder / f"{index:03d}.png")
    rendered = _picture(held_out, index)
    assert rendered.shape == stored.shape
    # processors round differently, which can move a border by a pixel here and there
    off = np.abs(rendered.astype(int) - stored).max(axis=-1) > 1
    for part in np.split(off, 6, axis=1):
        assert part.mean() <= 0.001


if __name__ == "__main__":
    which, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    for pair in INDICES:
        write_rgb(folder / f"{pair:03d}.png", _picture(which, pair))
