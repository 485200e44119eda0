"""Checkpoints: one safetensors file with the weights of one or more networks of a preset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from garment_transfer.bundle import Code, GarmentTransferError, replacing
from garment_transfer.models.presets import NETWORKS, PRESETS, build_network

_FORMAT = "garment-transfer checkpoint 1"


class CheckpointError(GarmentTransferError):
    """A checkpoint that cannot be used."""


def save_checkpoint(
    path: Path,
    preset: str,
    networks: Mapping[str, nn.Module],
    phase: str = "",
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the weights of `networks` (by name, see `NETWORKS`) to `path`, atomically.

    Networks that the file holds already and `networks` lacks are kept, if the preset is the same.

    Args:
        path: the file.
        preset: a key of `PRESETS`.
        networks: by name; written as float32, unless `phase` is given.
        phase: the phase of training whose result the weights are, if they are one. A result is
            half the size: its kernels and matrices are float16. Vectors, which scale and normalise
            whole planes, stay float32: they are 1 % of the weights, and flows of the shipped
            `lite` weights change by 0.003 pixels in the mean so, by 0.009 with them in float16.
        settings: what the phase was trained with, as JSON can hold it.

    Raises:
        CheckpointError: `path` holds another preset.
    """
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
    }
    if phase:
        tensors = {key: t.half() if t.ndim > 1 else t for key, t in tensors.items()}
    # phases that train at the same time write to one file: none may lose the other's stage
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            check_preset(path, preset)
            _, kept = _read(path)
            tensors |= {key: kept[key] for key in kept if key.split(".")[0] not in networks}
        with replacing(path) as temporary:
            metadata = {"format": _FORMAT, "preset": preset, "phase": phase}
            if settings is not None:
                metadata["settings"] = msgspec.json.encode(settings).decode()
            save_file(tensors, temporary, metadata=metadata)


def check_preset(path: Path, preset: str) -> None:
    """Raises CheckpointError unless `path` could be written to, or added to, for a preset."""
    if path.exists() and (present := _read(path)[0]["preset"]) != preset:
        raise CheckpointError(
            Code.CHECKPOINT_INVALID,
            f"{path} holds preset {present!r}, not {preset!r}",
            fix="choose another output",
        )


def settings_of(path: Path) -> dict[str, Any] | None:
    """What the phase whose result a checkpoint is was trained with; None where it does not say.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    settings = _read(path)[0].get("settings")
    if settings is None:
        return None
    try:
        return msgspec.json.decode(settings, type=dict)
    except msgspec.DecodeError as error:
        raise CheckpointError(
            Code.CHECKPOINT_INVALID, f"{path}: its settings are not JSON: {error}"
        ) from error


def load_checkpoint(path: Path) -> tuple[str, dict[str, nn.Module]]:
    """The preset's name and the networks that `path` holds, by name, float32, in evaluation mode.

    Raises:
        CheckpointError: the file is missing, is not a checkpoint of this package, names an unknown
            preset, or its weights do not fit that preset.
    """
    metadata, tensors = _read(path)
    preset = metadata["preset"]
    names = {key.split(".")[0] for key in tensors}
    if unknown := names - set(NETWORKS):
        raise CheckpointError(
            Code.CHECKPOINT_INVALID,
            f"{path} has unknown networks {', '.join(sorted(unknown))}",
            expected=f"some of {', '.join(NETWORKS)}",
        )
    networks = {}
    for name in (n for n in NETWORKS if n in names):
        network = build_network(preset, name)
        try:
            prefix = f"{name}."
            network.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        except RuntimeError as error:
            raise CheckpointError(
                Code.CHECKPOINT_INVALID,
                f"{path}: the weights of {name} do not fit preset {preset!r}: {error}",
            ) from error
        networks[name] = network
    return preset, networks


def load_network(path: Path, preset: str, name: str, phases: Sequence[str] = ()) -> nn.Module:
    """One network of a checkpoint, for a training that goes on from it or learns from it.

    Args:
        path: the checkpoint.
        preset: whose configuration of the network it has to have.
        name: a key of `NETWORKS`.
        phases: the phases that it may come from, where the checkpoint says; any if empty.

    Raises:
        CheckpointError: as `load_checkpoint`, or it holds another network, preset or phase.
    """
    metadata, _ = _read(path)
    own, phase = metadata["preset"], metadata.get("phase")
    if getattr(PRESETS[own], name) != getattr(PRESETS[preset], name):
        raise CheckpointError(
            Code.CHECKPOINT_INVALID,
            f"{path} is of preset {own!r}, whose {name} is not that of {preset!r}",
            fix=f"give a checkpoint of {preset!r}",
        )
    if phases and phase and phase not in phases:
        raise CheckpointError(
            Code.CHECKPOINT_INVALID,
            f"{path} comes from phase {phase!r}",
            expected=" or ".join(map(repr, phases)),
        )
    _, networks = load_checkpoint(path)
    if name not in networks:
        raise CheckpointError(
            Code.CHECKPOINT_INVALID,
            f"{path} holds {', '.join(networks)} of preset {own!r}",
            expected=name,
        )
    return networks[name]


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and tensors of a checkpoint of a known preset, not yet fitted into networks."""
    if not path.is_file():
        raise CheckpointError(
            Code.CHECKPOINT_INVALID,
            f"no checkpoint at {path}",
            fix="`garment-transfer train` writes one",
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            Code.CHECKPOINT_INVALID, f"{path} is not a readable safetensors file: {error}"
        ) from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            Code.CHECKPOINT_INVALID,
            f"{path} has format {metadata.get('format')!r}",
            expected=f"{_FORMAT!r}, as `garment-transfer train` writes it",
        )
    if metadata.get("preset") not in PRESETS:
        raise CheckpointError(
            Code.CHECKPOINT_INVALID,
            f"{path} is of preset {metadata.get('preset')!r}",
            expected=f"one of {', '.join(PRESETS)}",
        )
    return metadata, tensors
