"""The network that makes the maps of photos."""

import torch

from garment_transfer.bundle import CLASSES, NUM_PARTS, Size, maps_contract
from garment_transfer.models.maps import MapsNetwork
from garment_transfer.models.presets import PRESETS, build_network


def photos(batch: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, 64, 32, 3), generator=random, dtype=torch.uint8)


def network() -> MapsNetwork:
    torch.manual_seed(0)
    return MapsNetwork(PRESETS["lite"].maps).eval()


def test_its_outputs_are_the_contracts():
    with torch.no_grad():
        outputs = network()(photos())
    for tensor, output in zip(maps_contract(Size(64, 32)).outputs, outputs, strict=True):
        assert output.dtype == getattr(torch, tensor.dtype)
        assert tuple(output.shape) == tensor.shape_of(2)
    parsing, densepose, *_ = outputs
    assert parsing.max() < len(CLASSES)
    assert densepose[..., 0].max() < NUM_PARTS
    assert not densepose[densepose[..., 0] == 0].any()


def test_confidence_is_the_probability_of_the_class():
    with torch.no_grad():
        logits = network().look(photos()).classes
        parsing, _, sure, _ = network()(photos())
    share, label = torch.softmax(logits, dim=1).max(dim=1)
    assert torch.equal(parsing.long(), label)
    assert (sure.float() - 255 * share).abs().max() <= 1


def test_it_has_at_most_two_million_parameters_in_every_preset():
    for preset in PRESETS:
        parameters = build_network(preset, "maps").parameters()
        assert sum(p.numel() for p in parameters) <= 2_000_000
