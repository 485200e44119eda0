"""What the regrowth network sees of the body."""

import torch

from garment_transfer.bundle import CLASSES, NUM_PARTS
from garment_transfer.models.presets import build_network


def inputs(part: int) -> tuple[torch.Tensor, ...]:
    """A random transfer whose DensePose map is all of one part."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 1, 32, 32, 3), generator=random, dtype=torch.uint8)
    maps = torch.randint(len(CLASSES), (2, 1, 32, 32), generator=random, dtype=torch.uint8)
    densepose = torch.full((1, 32, 32, 3), part, dtype=torch.uint8)
    densepose[..., 1:] = 100
    return images[0], maps[0], densepose, maps[1], images[1]


def test_a_network_with_part_vectors_sees_the_body_and_one_without_does_not():
    for preset, sees in (("lite-body", True), ("lite", False)):
        torch.manual_seed(0)
        network = build_network(preset, "regrowth")
        with torch.no_grad():
            network.head[1].weight.normal_()  # a fresh network paints nothing of its own
            arm, torso = network(*inputs(15)), network(*inputs(2))
        assert bool((arm != torso).any()) == sees


def test_a_part_that_does_not_exist_is_the_last_one():
    network = build_network("lite-body", "regrowth")
    with torch.no_grad():
        network.head[1].weight.normal_()
        assert torch.equal(network(*inputs(255)), network(*inputs(NUM_PARTS - 1)))
