"""A lamp beside the person, for photos that regrowth trains on."""

import numpy as np
import torch

from garment_transfer.bundle import SKIN
from garment_transfer.training.lighting import relit


def test_a_limb_turns_away_from_the_lamp_and_the_background_does_not():
    image = torch.full((64, 128, 64, 3), 150, dtype=torch.uint8)
    parsing = torch.zeros((64, 128, 64), dtype=torch.uint8)
    parsing[:, 20:110, 26:38] = SKIN  # an upright arm
    torch.manual_seed(0)
    lit = relit(image, parsing)
    torch.manual_seed(0)
    assert torch.equal(lit, relit(image, parsing))
    arms = lit[:, 40:90].float().mean(dim=(1, 3))
    assert (arms[:, :20] == 150).all()
    assert (arms[:, 44:] == 150).all()
    left, middle, right = arms[:, 28], arms[:, 32], arms[:, 35]
    unlit = (lit == image).flatten(1).all(dim=1)
    assert 4 <= unlit.sum() <= 24  # a fifth
    # one side is darker than what faces the camera, now this one and now that
    darker = torch.minimum(left, right) < middle - 2
    assert darker[~unlit].float().mean() > 0.7
    assert np.ptp((left < right)[darker].numpy().astype(int)) == 1
