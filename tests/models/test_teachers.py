"""What the try-on teacher may see of a person, and where it hangs a garment from the shop."""

import torch

from garment_transfer.bundle import BACKGROUND, FACE, GARMENT, LOWER, SKIN
from garment_transfer.models.layers import moments
from garment_transfer.models.presets import NETWORKS, PRESETS, build_network
from garment_transfer.models.teachers import _hanging_affine, _trunk, reserved_planes, shop_parsing

#: Where the shop's picture shows the garment.
MASK = torch.zeros(1, 64, 64, dtype=torch.uint8)
MASK[:, 10:50, 16:48] = 1


def person():
    parsing = torch.full((1, 64, 64), BACKGROUND, dtype=torch.uint8)
    densepose = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    parsing[:, 4:12, 28:36] = FACE
    parsing[:, 12:40, 20:44] = GARMENT
    parsing[:, 40:64, 20:44] = LOWER
    parsing[:, 14:34, 12:20] = SKIN
    parsing[:, 34:38, 12:20] = SKIN
    densepose[:, 12:42, 20:44, 0] = 2
    densepose[:, 34:38, 12:20, 0] = 3  # the right hand
    return parsing, densepose


def test_every_network_of_every_preset_can_be_built():
    for preset in PRESETS:
        for name in NETWORKS:
            assert not build_network(preset, name).training


def test_the_teacher_does_not_see_what_the_person_wears():
    parsing, densepose = person()
    undressed = parsing.clone()
    undressed[parsing == GARMENT] = SKIN
    undressed[:, 14:34, 12:20] = GARMENT  # and the arm in a sleeve
    longer = undressed.clone()
    longer[:, 40:50, 20:44] = GARMENT  # and over the lower garment
    network = build_network("lite", "try_on_parsing")
    with torch.no_grad():
        a, b, c = (
            network.reason_planes(reserved_planes(p, densepose, lower=False), densepose, MASK)
            for p in (parsing, undressed, longer)
        )
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.logits, c.logits)
    assert [f.shape[-1] for f in a.features] == [4, 8, 16, 32]


def test_the_lower_garment_is_shown_where_it_is_asked_for():
    parsing, densepose = person()
    shown, hidden = (reserved_planes(parsing, densepose, lower) for lower in (True, False))
    assert torch.equal(shown[:, 2], (parsing == LOWER).float())
    assert not hidden[:, 2].any()
    shown[:, 2] = 0
    assert torch.equal(shown, hidden)
    assert hidden[:, 4, 34:38, 12:20].all()  # the hand is known


def test_the_teacher_goes_by_places_of_the_cloth_where_it_has_them():
    parsing, densepose = person()
    places = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = build_network("lite", "try_on_parsing")
    reserved = reserved_planes(parsing, densepose, lower=False)
    with torch.no_grad():
        unknown, zero, known, outside = (
            network.reason_planes(reserved, densepose, MASK, p).logits
            for p in (None, 0 * places, places, torch.where(MASK[:, None] > 0, places, places + 1))
        )
    assert torch.equal(unknown, zero)
    assert not torch.equal(known, zero)
    assert torch.equal(known, outside)  # places mean nothing beside the garment


def test_of_a_photo_the_teacher_sees_only_whether_the_garment_is_tucked_in():
    parsing, densepose = person()
    shop = torch.zeros(1, 3, 64, 64)
    shop[:, 2, 10:50, 16:48] = torch.linspace(0.5, 0.1, 40)[:, None]
    network = build_network("lite", "try_on_parsing")
    reserved = reserved_planes(parsing, densepose, lower=False)

    def logits(worn):
        with torch.no_grad():
            return network.reason_planes(reserved, densepose, MASK, shop, worn).logits

    hanging, moved, tucked, higher = (shop.clone() for _ in range(4))
    moved[:, 2, 10:20] += 0.1  # above the hem
    tucked[:, :, 45:] = 0
    higher[:, :, 40:] = 0
    assert torch.equal(logits(hanging), logits(moved))
    assert torch.equal(logits(hanging), logits(0 * shop))  # not annotated
    assert not torch.equal(logits(hanging), logits(tucked))
    assert torch.equal(logits(tucked), logits(higher))  # whose waistband it is does not matter


def test_a_garment_hangs_from_the_torsos_top_at_the_torsos_width():
    torso = torch.zeros(1, 1, 64, 64)
    torso[..., 20:50, 24:40] = 1
    shop = torch.zeros(1, 1, 64, 64)
    shop[..., 8:56, 16:48] = 1
    shop[..., 8:20, 4:60] = 1  # sleeves
    trunk = shop * _trunk(shop)
    assert trunk.sum() == 48 * 32  # the sleeves are left out
    affine = _hanging_affine(torso, trunk)
    top = torch.tensor([0.0, 20.5 / 32 - 1, 1.0])
    torch.testing.assert_close(affine[0] @ top, torch.tensor([0.0, 8.5 / 32 - 1]))
    # one scale for both sides: twice as wide in the shop as on the person
    torch.testing.assert_close(affine[0, :, :2], 2 * torch.eye(2), atol=0.02, rtol=0)
    (_, a), (_, b) = moments(torso), moments(trunk)
    torch.testing.assert_close(b[0, 0], 2 * a[0, 0], atol=1e-3, rtol=0)


def test_a_shop_mask_is_a_parsing_of_one_garment():
    mask = torch.tensor([[[0, 1], [255, 0]]], dtype=torch.uint8)
    assert shop_parsing(mask).tolist() == [[[0, GARMENT], [GARMENT, 0]]]
