"""The sizes that the networks come in."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from garment_transfer.models.maps import MapsConfig, MapsNetwork
from garment_transfer.models.parsing import ParsingConfig, ParsingNetwork
from garment_transfer.models.regrowth import RegrowthConfig, RegrowthNetwork
from garment_transfer.models.teachers import TryOnParsingNetwork
from garment_transfer.models.warping import WarpingConfig, WarpingNetwork

#: 1.7 million parameters, in every preset.
_MAPS = MapsConfig(widths=(24, 40, 72, 112, 144), blocks=(0, 1, 1, 2, 1), head_width=32)


@dataclass(frozen=True)
class Preset:
    """One configuration per stage.

    The teachers have the sizes of their students: theirs is the easier task, and what limits a
    student here is its input, not its width.
    """

    parsing: ParsingConfig
    warping: WarpingConfig
    regrowth: RegrowthConfig
    maps: MapsConfig = _MAPS

    @property
    def try_on_parsing(self) -> ParsingConfig:
        """The size of `T_p`."""
        return self.parsing

    @property
    def try_on_warping(self) -> WarpingConfig:
        """The size of `T_w`, which always has its STN."""
        return replace(self.warping, aligning=True)


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
        RegrowthConfig(widths=(20, 32, 48, 64), blocks=(0, 1, 1, 1), head_width=24, part_width=6),
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
        RegrowthConfig(
            widths=(64, 128, 256, 448), blocks=(1, 2, 2, 1), head_width=48, part_width=16
        ),
    ),
}

#: Every network by the name of its configuration in `Preset`: the stages, and the teachers.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "parsing": ParsingNetwork,
    "warping": WarpingNetwork,
    "regrowth": RegrowthNetwork,
    "maps": MapsNetwork,
    "try_on_parsing": TryOnParsingNetwork,
    "try_on_warping": WarpingNetwork,
}

# for the ablation's row without an STN
PRESETS["lite-without-stn"] = replace(
    PRESETS["lite"], warping=replace(PRESETS["lite"].warping, aligning=False)
)


def build_network(preset: str, name: str) -> nn.Module:
    """One network of a preset, a key of `NETWORKS`, with fresh weights, in evaluation mode.

    Raises:
        ValueError: no preset or no network has that name.
    """
    for given, kind, available in (
        (preset, "preset", tuple(PRESETS)),
        (name, "network", tuple(NETWORKS)),
    ):
        if given not in available:
            raise ValueError(f"unknown {kind} {given!r}; available: {', '.join(available)}")
    return NETWORKS[name](getattr(PRESETS[preset], name)).eval()


def shipped_checkpoint(preset: str) -> Path:
    """The checkpoint of a preset that ships with the package."""
    return Path(__file__).parent / "checkpoints" / f"{preset}.safetensors"
