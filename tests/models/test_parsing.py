"""What the parsing graph does around its network."""

import pytest
import torch

from garment_transfer.bundle import BACKGROUND, CLASSES, FACE, GARMENT, LOWER, SKIN
from garment_transfer.models.parsing import (
    KEPT,
    REASONED,
    hands_as_seen,
    merge,
    scores,
    settle,
    smooth_hem,
)


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


@pytest.mark.parametrize("sharpness", [0.01, 1.0, 100.0])
def test_scores_agree_with_the_labels(sharpness):
    generator = torch.Generator().manual_seed(0)
    # blocks, so that `settle` has edges to settle
    own = torch.randint(len(CLASSES), (2, 8, 8), generator=generator)
    own = own.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    logits = sharpness * torch.randn(2, len(REASONED), 64, 64, generator=generator)
    logits += sharpness * 4 * (own.roll(1, 2)[:, None] == torch.tensor(REASONED).view(1, -1, 1, 1))
    probabilities = torch.softmax(logits, dim=1)
    merged = merge(probabilities, own)
    labels = settle(merged, own)
    assert (labels != merged).any()
    found = scores(probabilities, labels).int()

    kept = torch.isin(labels, torch.tensor(KEPT, dtype=torch.uint8))
    assert kept.any()
    assert (found[kept] == 0).all()
    assert (found.sum(dim=-1)[~kept] == 255).all()
    won = torch.tensor(REASONED)[found.argmax(dim=-1)]
    assert (won == labels)[~kept].all()
    # probabilities, but where `settle` has decided otherwise
    shares = 255 * probabilities.permute(0, 2, 3, 1)
    same = ~kept & (labels == merged)
    assert (found - shares)[same].abs().max() < len(REASONED)
    swapped = ~kept & (labels != merged)
    a, b = (x[swapped].sort(dim=-1).values for x in (found, shares))
    assert (a - b).abs().max() < len(REASONED)


def test_a_bare_hand_is_no_larger_than_its_own_map_shows():
    parsing = torch.full((2, 64, 64), GARMENT, dtype=torch.uint8)
    parsing[0, 8:48, 24:40] = SKIN  # a bare forearm and its hand; the other one is in a sleeve
    parsing[1, 36:48, 24:40] = SKIN
    densepose = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    densepose[:, 8:36, 24:40, 0] = 19
    densepose[:, 36:52, 20:44, 0] = 4  # rough: four pixels too large on three sides
    logits = torch.zeros(2, len(REASONED), 64, 64)
    logits[:, REASONED.index(SKIN)] = 1
    labels = merge(hands_as_seen(logits, parsing, densepose), parsing)
    drawn_as_hand = (densepose[0, ..., 0] == 4) & (parsing[0] != SKIN)
    assert (labels[0] == SKIN).logical_not().equal(drawn_as_hand)
    assert (labels[1] == SKIN).all()


def dressed(hems, width, strap=0):
    """Probabilities [1,4,256,64] of a garment that ends over `width` rows around each column's hem.

    Below it is a lower garment. In the first 64 rows there is skin, and a strap of so many columns.
    """
    rows = torch.arange(256)[:, None]
    garment = torch.sigmoid(8 / width * (hems[None] - rows - 0.5))
    garment[:64] = 0.1
    garment[:64, 32 : 32 + strap] = 0.9
    shares = torch.zeros(1, len(REASONED), 256, len(hems))
    shares[0, REASONED.index(GARMENT)] = garment
    shares[0, REASONED.index(LOWER)] = (1 - garment) * (rows >= 64)
    shares[0, REASONED.index(SKIN)] = (1 - garment) * (rows < 64)
    return shares


def lengths(shares):
    """How many rows of each column are garment below the strap."""
    garment = shares[:, :, 64:].argmax(dim=1) == REASONED.index(GARMENT)
    return garment.sum(dim=1)[0].float()


def test_a_hem_in_doubt_is_drawn_smooth_and_a_sure_one_and_a_strap_stay():
    generator = torch.Generator().manual_seed(0)
    own = torch.full((1, 256, 64), BACKGROUND, dtype=torch.uint8)
    ragged = 160 + 4 * torch.randn(64, generator=generator)
    before = dressed(ragged, 24, strap=4)
    after = smooth_hem(before, own)
    torch.testing.assert_close(after.sum(dim=1), torch.ones(1, 256, 64))
    assert lengths(after).std() < lengths(before).std() / 3
    assert abs(lengths(after).mean() - lengths(before).mean()) < 1
    assert after[:, :, :64].equal(before[:, :, :64])
    sure = dressed(torch.where(torch.arange(64) < 32, 160.0, 150.0), 1)
    assert lengths(smooth_hem(sure, own)).equal(lengths(sure))


def test_an_arm_across_a_hem_in_doubt_stays():
    own = torch.full((1, 256, 64), BACKGROUND, dtype=torch.uint8)
    before = dressed(torch.full((64,), 160.0) + 4 * (torch.arange(64) % 2), 24)
    before[:, :, 64:, 30:33] *= 0.2
    before[:, REASONED.index(SKIN), 64:, 30:33] = 0.8
    after = smooth_hem(before, own)
    others = [REASONED.index(label) for label in (BACKGROUND, SKIN)]
    assert after[:, others].equal(before[:, others])
    assert not after.equal(before)
    torch.testing.assert_close(after.sum(dim=1), before.sum(dim=1))


def test_a_kept_label_takes_no_part_in_a_hem():
    own = torch.full((1, 256, 64), BACKGROUND, dtype=torch.uint8)
    own[:, :, 30:34] = FACE
    shares = dressed(torch.full((64,), 160.0), 24)
    other = torch.where((own == FACE)[:, None], shares.flip(2), shares)
    found = [smooth_hem(x, own)[..., own[0, 0] != FACE] for x in (shares, other)]
    torch.testing.assert_close(*found)
