"""The held-out test comes out pixel for pixel as it was, whatever becomes of the renderer.

`python tests/training/test_frozen.py SET FOLDER` renders the pictures of set A or B anew, and
figures of the flow and the places that its figures rest on. Who replaces those that are here makes
every earlier figure of the set incomparable.
"""

import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from garment_transfer.bundle import GARMENT
from garment_transfer.runtime.photos import read_rgb, write_rgb
from garment_transfer.training.synthetic import HELD_OUT_PAIRS, held_out_pair

INDICES = range(0, HELD_OUT_PAIRS, 36)


def _picture(pair: dict[str, np.ndarray]) -> np.ndarray:
    """A pair side by side, uint8 [256, 6 * 192, 3].

    Photos of person, owner and truth; DensePose of person and owner; the parsings of person, owner
    and truth as red, green and blue.
    """
    coloured = ("person_image", "garment_image", "true_image")
    coloured += ("person_densepose", "garment_densepose")
    parsings = [pair[name] for name in ("person_parsing", "garment_parsing", "true_parsing")]
    return np.hstack([*(pair[name] for name in coloured), np.stack(parsings, axis=-1)])


def _figures(pair: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Shares of what the owner hides and shows; over the garment, mean flow and places."""
    valid = pair["flow_valid"]
    figures = {"valid": [float((valid == kind).mean()) for kind in (1, 2)]}
    for name, where in (
        ("true_flow", valid > 0),
        ("true_places", valid > 0),
        ("garment_places", pair["garment_true_parsing"] == GARMENT),
    ):
        planes = pair[name].astype(np.float64)[:, where]
        figures[name] = [*planes.mean(axis=1).tolist(), *planes.std(axis=1).tolist()]
    return figures


@pytest.mark.parametrize(("held_out", "index"), list(product("AB", INDICES)))
def test_a_held_out_pair_comes_out_as_it_was(held_out, index):
    folder = Path(__file__).parent / f"held_out_{held_out.lower()}"
    stored = read_rgb(folder / f"{index:03d}.png")
    pair = held_out_pair(index, (256, 192), held_out)
    rendered = _picture(pair)
    assert rendered.shape == stored.shape
    # Processors round differently. That can move a border by a pixel here and there, and in photos
    # another quantised coefficient changes a block of JPEG, 16x16 pixels, by a few levels.
    off = np.abs(rendered.astype(int) - stored).max(axis=-1)
    for k, part in enumerate(np.split(off, 6, axis=1)):
        is_photo = k < 3
        assert (part > (16 if is_photo else 1)).mean() <= 0.001
        assert np.count_nonzero(part > 1) <= (2 * 16**2 if is_photo else part.size * 0.001)
    due = json.loads((folder / "figures.json").read_text())[f"{index:03d}"]
    # pixels of the flow, shares, and metres
    limits = {"true_flow": 0.05, "valid": 0.001, "true_places": 0.001, "garment_places": 0.001}
    for name, values in _figures(pair).items():
        assert values == pytest.approx(due[name], abs=limits[name]), name


if __name__ == "__main__":
    which, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    figures = {}
    for index in INDICES:
        pair = held_out_pair(index, (256, 192), which)
        write_rgb(folder / f"{index:03d}.png", _picture(pair))
        figures[f"{index:03d}"] = _figures(pair)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
