"""One bundle of untrained networks, in both precisions, exported once for this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from garment_transfer.bundle import CLASSES, NUM_PARTS, Bundle, Size, contract
from garment_transfer.export.bundle import export_bundle
from garment_transfer.export.float16 import convert_by_list
from garment_transfer.models.checkpoint import save_checkpoint
from garment_transfer.models.presets import build

SIZE = Size(64, 96)


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return build("lite")


@pytest.fixture(scope="session")
def checkpoint(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "lite.safetensors"
    save_checkpoint(path, "lite", networks)
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    output = tmp_path_factory.mktemp("export") / "bundle"
    return export_bundle(checkpoint, output, size=SIZE, converter=convert_by_list)


@pytest.fixture(scope="session")
def random_inputs() -> Callable[..., dict[str, npt.NDArray[np.uint8]]]:
    """`random_inputs(size, batch=, seed=)`: every uint8 input of any stage, at random."""

    def make(size: Size, batch: int = 1, seed: int = 0) -> dict[str, npt.NDArray[np.uint8]]:
        random = np.random.default_rng(seed)
        arrays = {}
        for tensor in (t for signature in contract(size).values() for t in signature.inputs):
            shape = tensor.shape_of(batch)
            labels = len(CLASSES) if "parsing" in tensor.name else 256
            arrays[tensor.name] = random.integers(labels, size=shape, dtype=np.uint8)
            if "densepose" in tensor.name:
                arrays[tensor.name][..., 0] %= NUM_PARTS
        return arrays

    return make
