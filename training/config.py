"""The configuration of a training: a TOML file, which msgspec reads and checks, and options."""

from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from garment_transfer.bundle import Code, InputError
from garment_transfer.models.presets import NETWORKS, PRESETS
from garment_transfer.training.phases import PHASES
from garment_transfer.training.trainer import Count, Rate, TrainingConfig, TrainingOptions


class PhaseConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What a table `[phases.NAME]` may say; the file's own values hold where it is silent."""

    steps: Count | None = None
    batch: Count | None = None
    learning_rate: Rate | None = None
    initial: str | None = None


class RunConfig(TrainingOptions, frozen=True, kw_only=True):
    """A training of several phases; the options are table `[weights]` and the file's own.

    Attributes:
        groups: groups to render where no data are given; each is four people and their garments.
        built_in_maps: whether photos are seen with the shipped graph's maps too (`maps`), and not
            with rough ones alone.
        knowledge: table `[knowledge]`, checkpoints to learn from by network.
        phases: tables `[phases.NAME]`.
    """

    groups: Count = 2000
    built_in_maps: bool = False
    knowledge: dict[str, str] = msgspec.field(default_factory=dict)
    phases: dict[str, PhaseConfig] = msgspec.field(default_factory=dict)

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
        own = msgspec.structs.asdict(self.phases.get(name, PhaseConfig()))
        own_initial = own.pop("initial")
        first = initial or own_initial
        options = {key: getattr(self, key) for key in TrainingOptions.__struct_fields__}
        options |= {key: value for key, value in own.items() if value is not None}
        return TrainingConfig(
            phase=name,
            data=data,
            output=output,
            initial=Path(first) if first else None,
            knowledge={network: Path(file) for network, file in self.knowledge.items()},
            **options,
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
