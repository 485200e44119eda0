"""One bundle of untrained networks, in both precisions, exported once for this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from garment_transfer.bundle import CLASSES, NUM_PARTS, STAGES, Bundle, Size, contract
from garment_transfer.models.checkpoint import save_checkpoint
from garment_transfer.models.presets import build_network

SIZE = Size(64, 96)


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {stage: build_network("lite", stage) for stage in STAGES}


@pytest.fixture(scope="session")
def checkpoint(networks, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "lite.safetensors"
    save_checkpoint(path, "lite", networks)
    return path


@pytest.fixture(scope="session")
def exported(invoke, checkpoint, shared_folder, save_person, make_person) -> tuple[Bundle, str]:
    """The bundle, and what `garment-transfer export` printed."""
    folder = shared_folder / "export"
    with FileLock(f"{folder}.lock"):  # another process may export it
        if not folder.exists():
            save_person(make_person(SIZE.height, SIZE.width), folder / "people" / "one")
            command = ["export", checkpoint, "-o", folder / "bundle", "--size", SIZE]
            command += ["--precision", "float16", "--people", folder / "people"]
            printed = invoke(*command)
            (folder / "output").write_text(printed)
    return Bundle.load(folder / "bundle"), (folder / "output").read_text()


@pytest.fixture(scope="session")
def bundle(exported) -> Bundle:
    return exported[0]


# What these ignore of their inputs, the exporter has to keep.


class Parsing(nn.Module):
    def forward(
        self, labels: Tensor, iuv: Tensor, other: Tensor, other_iuv: Tensor
    ) -> tuple[Tensor, Tensor]:
        parsing = labels.int().byte()
        return parsing, (labels.int()[..., None] * torch.tensor([0, 0, 1, 0])).byte()


class Warping(nn.Module):
    def forward(
        self, garment: Tensor, labels: Tensor, own_iuv: Tensor, new_labels: Tensor, iuv: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        zero = 0.0 * labels.float()
        flow = zero[:, None].expand(-1, 2, -1, -1) + 0.0
        return garment.float().byte(), flow, zero.byte()


class Regrowth(nn.Module):
    def forward(
        self, person: Tensor, labels: Tensor, iuv: Tensor, new: Tensor, garment: Tensor
    ) -> Tensor:
        return person.float().byte()


@pytest.fixture
def plain_networks() -> dict[str, nn.Module]:
    """Networks that are exported in a moment."""
    return {"parsing": Parsing(), "warping": Warping(), "regrowth": Regrowth()}


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
