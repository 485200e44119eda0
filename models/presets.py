"""The sizes that the networks come in."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from garment_transfer.models.parsing import ParsingConfig, ParsingNetwork
from garment_transfer.models.regrowth import RegrowthConfig, RegrowthNetwork
from garment_transfer.models.warping import WarpingConfig, WarpingNetwork


@dataclass(frozen=True)
class Preset:
    """One configuration per stage."""

    parsing: ParsingConfig
    warping: WarpingConfig
    regrowth: RegrowthConfig


#: `lite`: at most 2.3 million parameters in all, for CPUs and the shipped bundle.
#: `full`: about 10 million a stage, for GPUs.
PRESETS = {
    "lite": Preset(
        ParsingConfig(
            widths=(24, 40, 64, 96, 112),
            blocks=(0, 1, 1, 1, 1),
            garment_widths=(24, 32, 48),
            part_width=8,
            head_width=32,
        ),
        WarpingConfig(
            garment_widths=(12, 24, 32, 48, 64),
            shape_widths=(12, 24, 32, 48, 64),
            blocks=(0, 0, 1, 1, 1),
            flow_widths=(24, 32, 48, 64, 40),
            part_width=8,
        ),
        RegrowthConfig(widths=(20, 32, 48, 64), blocks=(0, 1, 1, 1), head_width=24),
    ),
    "full": Preset(
        ParsingConfig(
            widths=(48, 96, 160, 256, 352),
            blocks=(1, 1, 2, 2, 1),
            garment_widths=(64, 96, 128),
            part_width=16,
            head_width=48,
        ),
        WarpingConfig(
            garment_widths=(40, 80, 120, 176, 232),
            shape_widths=(40, 80, 120, 176, 232),
            blocks=(1, 1, 2, 2, 1),
            flow_widths=(64, 96, 128, 160, 192),
            part_width=16,
        ),
        RegrowthConfig(widths=(64, 128, 256, 448), blocks=(1, 2, 2, 1), head_width=48),
    ),
}

# the ablation that `evaluate` sets beside the method
PRESETS["lite-without-stn"] = replace(
    PRESETS["lite"], warping=replace(PRESETS["lite"].warping, aligning=False)
)


def build(preset: str) -> dict[str, nn.Module]:
    """The three networks of a preset by stage, with fresh weights, in evaluation mode.

    Raises:
        ValueError: no preset has that name.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; available: {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    networks: dict[str, nn.Module] = {
        "parsing": ParsingNetwork(chosen.parsing),
        "warping": WarpingNetwork(chosen.warping),
        "regrowth": RegrowthNetwork(chosen.regrowth),
    }
    return {stage: network.eval() for stage, network in networks.items()}


def shipped_checkpoint(preset: str) -> Path:
    """The checkpoint of a preset that ships with the package."""
    return Path(__file__).parent / "checkpoints" / f"{preset}.safetensors"
