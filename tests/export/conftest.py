"""One bundle of untrained networks, in both precisions, exported once for this folder."""

import pytest
import torch

from garment_transfer.bundle import Size
from garment_transfer.export.bundle import export_bundle, listed_half
from garment_transfer.models.checkpoint import save_checkpoint
from garment_transfer.models.presets import build

SIZE = Size(64, 96)


@pytest.fixture(scope="session")
def networks():
    torch.manual_seed(0)
    return build("lite")


@pytest.fixture(scope="session")
def checkpoint(networks, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "lite.safetensors"
    save_checkpoint(path, "lite", networks)
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("export") / "bundle"
    return export_bundle(checkpoint, output, size=SIZE, half=listed_half)
