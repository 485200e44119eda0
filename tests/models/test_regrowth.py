"""What the regrowth network sees of the body, and what it paints without having learnt anything."""

import numpy as np
import pytest
import torch

from garment_transfer.bundle import CLASSES, FACE, GARMENT, LOWER, NUM_PARTS, SKIN, border_width
from garment_transfer.models.presets import build_network


def inputs(part: int) -> tuple[torch.Tensor, ...]:
    """A random transfer whose DensePose map is all of one part."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 1, 32, 32, 3), generator=random, dtype=torch.uint8)
    maps = torch.randint(len(CLASSES), (2, 1, 32, 32), generator=random, dtype=torch.uint8)
    densepose = torch.full((1, 32, 32, 3), part, dtype=torch.uint8)
    densepose[..., 1:] = 100
    return images[0], maps[0], densepose, maps[1], images[1]


def test_the_network_sees_the_body():
    torch.manual_seed(0)
    network = build_network("lite", "regrowth")
    with torch.no_grad():
        network.head[1].weight.normal_()  # a fresh network paints nothing of its own
        arm, torso = network(*inputs(15)), network(*inputs(2))
        last, beyond = network(*inputs(NUM_PARTS - 1)), network(*inputs(255))
    assert (arm != torso).any()
    assert torch.equal(last, beyond)


def repainted(photo, now, then):
    """What a fresh network paints of uint8 [H,W,3] where classes uint8 [H,W] change, float."""
    network = build_network("lite", "regrowth")
    torch.nn.init.zeros_(network.head[1].weight)
    torch.nn.init.zeros_(network.head[1].bias)
    arrays = (photo, now, np.zeros_like(photo), then, np.zeros_like(photo))
    with torch.no_grad():
        return network(*(torch.from_numpy(x)[None] for x in arrays))[0].numpy().astype(float)


def test_a_lower_garment_goes_on_with_its_own_cloth():
    """Stripes across the legs go on above the hem that a shorter garment frees, mirrored there."""
    photo = np.full((64, 64, 3), 200, np.uint8)
    stripes = np.arange(64) // 4 % 2 * 100
    photo[32:] = stripes[32:, None, None]
    now = np.full((64, 64), GARMENT, np.uint8)
    now[32:] = LOWER
    then = now.copy()
    then[20:] = LOWER
    image = repainted(photo, now, then)
    # beside the old garment labels are not to be trusted
    hem = 32 + border_width(64)
    mirrored = photo[hem : hem + 8][::-1].astype(float)
    assert image[hem - 8 : hem, 5:-5] == pytest.approx(mirrored[:, 5:-5], abs=1)


def test_regrown_skin_has_the_colour_of_most_of_what_is_seen():
    """Lips and a beard are labelled face and are no skin; the shade of a hand is."""
    skin, beard = np.array([200, 150, 120]), np.array([60, 60, 60])
    photo = np.full((64, 64, 3), (30, 60, 160), np.uint8)
    now = np.full((64, 64), GARMENT, np.uint8)
    now[4:24, 20:44] = FACE
    photo[4:24, 20:44] = skin
    photo[14:24, 20:44] = beard
    now[54:62, 4:14] = SKIN
    photo[54:62, 4:14] = skin // 2
    then = now.copy()
    then[30:50, 20:44] = SKIN
    painted = repainted(photo, now, then)[36:44, 26:38].reshape(-1, 3).mean(axis=0)
    shade = painted.sum() / skin.sum()
    assert 0.5 < shade < 1
    assert painted == pytest.approx(shade * skin, abs=5)


def test_arms_go_on_with_their_own_tones():
    """Where a shorter sleeve ends, the tone of this arm goes on, although the other is brighter."""
    tones = {(8, 32): np.array([140, 90, 70]), (64, 88): np.array([220, 170, 145])}
    photo = np.full((96, 96, 3), (30, 60, 160), np.uint8)
    now = np.full((96, 96), GARMENT, np.uint8)
    then = now.copy()
    for (left, right), tone in tones.items():
        photo[48:, left:right] = tone
        now[48:, left:right] = then[16:, left:right] = SKIN
    image = repainted(photo, now, then)
    other = sum(tones.values()) / 2
    for (left, right), tone in tones.items():
        beside, far = (
            image[rows, left + 4 : right - 4].mean(axis=(0, 1))
            for rows in (slice(42, 46), slice(18, 22))
        )
        off = np.abs(beside - tone).mean()
        assert off < 0.6 * np.abs(other - tone).mean()
        assert off < np.abs(far - tone).mean()
