"""What the parsing graph does around its network."""

import torch

from garment_transfer.bundle import BACKGROUND, GARMENT, LOWER, SKIN
from garment_transfer.models.parsing import settle


def arm(left, right, label=SKIN):
    """A limb of 64x64 pixels on the background, as tall as the picture, and a garment far off."""
    parsing = torch.full((1, 64, 64), BACKGROUND, dtype=torch.uint8)
    parsing[..., left:right] = label
    parsing[..., 50:60] = GARMENT
    return parsing


def test_an_edge_that_is_a_pixel_off_is_the_persons_own():
    for label in (SKIN, LOWER):
        own, reasoned = arm(10, 24, label), arm(9, 25, label)
        assert (settle(reasoned, own) == own).all()
        assert (settle(own, reasoned) == reasoned).all()


def test_what_really_changes_stays_changed():
    own, reasoned = arm(10, 24), arm(10, 34)  # ten pixels more: a sleeve that went
    settled = settle(reasoned, own)
    # all but a border's width, which is 1 for this height, at the old edge
    assert (settled[..., 25:34] == SKIN).all()
    assert (settled[..., 50:60] == GARMENT).all()


def test_beside_a_garment_nothing_is_settled():
    own, reasoned = arm(30, 50), arm(29, 50)
    own[..., 28:31] = torch.tensor([GARMENT, BACKGROUND, SKIN], dtype=torch.uint8)
    reasoned[..., 28:31] = torch.tensor([GARMENT, SKIN, SKIN], dtype=torch.uint8)
    assert (settle(reasoned, own) == reasoned).all()
