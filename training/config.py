"""The configuration of a training: a TOML file, which msgspec reads and checks, and options."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from garment_transfer.bundle import Code, InputError
from garment_transfer.models.presets import NETWORKS, PRESETS
from garment_transfer.training.phases import PHASES, Weights
from garment_transfer.training.trainer import TrainingConfig

_Count = Annotated[int, Meta(ge=1)]
_Rate = Annotated[float, Meta(gt=0)]
_Side = Annotated[int, Meta(ge=32, multiple_of=32)]


class PhaseConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What a table `[phases.NAME]` may say; the file's own values hold where it is silent."""

    steps: _Count | None = None
    batch: _Count | None = None
    learning_rate: _Rate | None = None
    initial: str | None = None


class RunConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A training of several phases.

    Attributes:
        preset, seed, steps, batch, learning_rate, average, save_every: see `TrainingConfig`.
        size: (H, W) that people are rendered at, or fitted to.
        groups: groups to render where no data are given; each is four people and their garments.
        built_in_maps: whether photos are seen with the shipped graph's maps too (`maps`), and not
            with rough ones alone.
        weights: table `[weights]`, how much each kind of knowledge counts.
        knowledge: table `[knowledge]`, checkpoints to learn from by network.
        phases: tables `[phases.NAME]`.
    """

    preset: str = "lite"
    seed: Annotated[int, Meta(ge=0)] = 0
    steps: _Count = 4000
    batch: _Count = 8
    learning_rate: _Rate = 1e-3
    average: Annotated[float, Meta(ge=0, le=1)] = 0.998
    save_every: _Count = 200
    size: tuple[_Side, _Side] = (256, 192)
    groups: _Count = 2000
    built_in_maps: bool = False
    weights: Weights = Weights()
    knowledge: dict[str, str] = {}
    phases: dict[str, PhaseConfig] = {}

    def __post_init__(self) -> None:
        names: tuple[tuple[str, Collection[str], Collection[str]], ...] = (
            ("preset", (self.preset,), PRESETS),
            ("network", self.knowledge, NETWORKS),
            ("phase", self.phases, PHASES),
        )
        for kind, given, available in names:
            for name in given:
                if name not in available:
                    raise ValueError(f"Unknown {kind} {name!r}, not one of {', '.join(available)}")

    def phase(
        self, name: str, data: Path, output: Path, initial: Path | None = None
    ) -> TrainingConfig:
        """The configuration of one phase."""
        own = self.phases.get(name, PhaseConfig())
        return TrainingConfig(
            phase=name,
            preset=self.preset,
            data=data,
            output=output,
            steps=own.steps or self.steps,
            batch=own.batch or self.batch,
            learning_rate=own.learning_rate or self.learning_rate,
            average=self.average,
            seed=self.seed,
            save_every=self.save_every,
            initial=initial or (Path(own.initial) if own.initial else None),
            weights=self.weights,
            knowledge={network: Path(file) for network, file in self.knowledge.items()},
            size=self.size,
        )


def read_config(path: Path) -> RunConfig:
    """The configuration in a TOML file; what it leaves out has its default.

    Raises:
        InputError: the file cannot be read, or the first wrong name or value in it.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=RunConfig)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise _invalid(str(path), error) from error


def override(
    config: RunConfig,
    options: Mapping[str, str | float | tuple[int, int] | None],
    weights: Mapping[str, str],
    knowledge: Mapping[str, str],
) -> RunConfig:
    """A configuration with the options of a command over it.

    Args:
        config: what holds where no option is given.
        options: fields of `RunConfig`, None where not given; steps, batch and learning rate hold
            for every phase.
        weights: values by the names of `Weights`, as they were typed.
        knowledge: checkpoints by network.

    Raises:
        InputError: the first wrong name or value.
    """
    given = {name: value for name, value in options.items() if value is not None}
    values = msgspec.to_builtins(config)
    values["weights"] |= weights
    values["knowledge"] |= knowledge
    for phase in values["phases"].values():
        phase.update(dict.fromkeys(phase.keys() & given.keys()))
    try:
        return msgspec.convert({**values, **given}, RunConfig, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid("the command's options", error) from error


def _invalid(source: str, error: Exception) -> InputError:
    return InputError(
        Code.CONFIG_INVALID,
        f"{source}: no configuration of a training: {error}",
        fix="training/configs has whole ones, and RunConfig lists the names",
    )
