"""Checkpoints: one safetensors file with the weights of one or more stages of a preset."""

from collections.abc import Mapping
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from garment_transfer.models.presets import PRESETS, build
from garment_transfer.runtime.bundle import STAGES
from garment_transfer.runtime.errors import GarmentTransferError
from garment_transfer.runtime.files import replacing

_FORMAT = "garment-transfer checkpoint 1"


class CheckpointError(GarmentTransferError):
    """A checkpoint that cannot be used; the message says why and what would mend it."""


def save_checkpoint(path: Path, preset: str, networks: Mapping[str, nn.Module]) -> None:
    """Write the weights of `networks` (by stage) to `path`, atomically.

    Stages that the file holds already and `networks` lacks are kept, if the preset is the same.

    Raises:
        CheckpointError: `path` holds another preset.
    """
    tensors = {
        f"{stage}.{name}": tensor.detach().cpu().contiguous()
        for stage, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    # phases that train at the same time write to one file: none may lose the other's stage
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            present, kept = _read(path)
            if present != preset:
                raise CheckpointError(
                    f"{path} holds preset {present!r}, not {preset!r}: choose another output"
                )
            tensors |= {key: kept[key] for key in kept if key.split(".")[0] not in networks}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"format": _FORMAT, "preset": preset})
            temporary.chmod(0o644)  # safetensors makes it 0600


def load_checkpoint(path: Path) -> tuple[str, dict[str, nn.Module]]:
    """The preset's name and the networks that `path` holds, by stage, in evaluation mode.

    Raises:
        CheckpointError: the file is missing, is no checkpoint of this package, names an unknown
            preset, or its weights do not fit that preset.
    """
    preset, tensors = _read(path)
    networks = {}
    for stage, network in build(preset).items():
        weights = _stage(tensors, stage)
        if not weights:
            continue
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: the weights of {stage} do not fit preset {preset!r}: {error}"
            ) from error
        networks[stage] = network
    unknown = {key.split(".")[0] for key in tensors} - set(STAGES)
    if unknown:
        raise CheckpointError(f"{path} has unknown stages {sorted(unknown)}; known: {STAGES}")
    return preset, networks


def _stage(tensors: Mapping[str, torch.Tensor], stage: str) -> dict[str, torch.Tensor]:
    prefix = f"{stage}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _read(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Preset and tensors of a checkpoint, not yet fitted into networks."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: `garment-transfer train` writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} has format {metadata.get('format')!r}; expected {_FORMAT!r}, "
            "as `garment-transfer train` writes it"
        )
    preset = metadata.get("preset", "")
    if preset not in PRESETS:
        raise CheckpointError(
            f"{path} is of preset {preset!r}; this version knows {', '.join(PRESETS)}"
        )
    return preset, tensors
