"""The configuration file of a training: TOML, read into dataclasses, every slip named at once."""

import dataclasses
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from garment_transfer.bundle import InputError
from garment_transfer.models.presets import NETWORKS, PRESETS
from garment_transfer.training.phases import PHASES, Weights
from garment_transfer.training.trainer import TrainingConfig


@dataclass(frozen=True)
class PhaseConfig:
    """What a table `[phases.NAME]` may say; the file's own values hold where it is silent."""

    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    initial: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """A training of several phases.

    Attributes:
        preset, seed, steps, batch, learning_rate, average, save_every: see `TrainingConfig`.
        size: (H, W) that people are rendered at, or fitted to.
        groups: groups to render where no data are given; each is four people and their garments.
        label_set, densepose: of a data set in VITON's layout whose `meta.json` does not say.
        weights: table `[weights]`, how much each kind of knowledge counts.
        knowledge: table `[knowledge]`, checkpoints to learn from by network.
        phases: tables `[phases.NAME]`.
    """

    preset: str = "lite"
    seed: int = 0
    steps: int = 4000
    batch: int = 8
    learning_rate: float = 1e-3
    average: float = 0.998
    save_every: int = 200
    size: tuple[int, int] = (256, 192)
    groups: int = 2000
    label_set: str | None = None
    densepose: str | None = None
    weights: Weights = field(default_factory=Weights)
    knowledge: Mapping[str, str] = field(default_factory=dict)
    phases: Mapping[str, PhaseConfig] = field(default_factory=dict)

    def phase(
        self, name: str, data: Path, output: Path, initial: Path | None = None
    ) -> TrainingConfig:
        """The configuration of one phase."""
        own = self.phases.get(name, PhaseConfig())
        start = initial or (Path(own.initial) if own.initial else None)
        return TrainingConfig(
            phase=name,
            preset=self.preset,
            data=data,
            output=output,
            steps=self.steps if own.steps is None else own.steps,
            batch=self.batch if own.batch is None else own.batch,
            learning_rate=self.learning_rate if own.learning_rate is None else own.learning_rate,
            average=self.average,
            seed=self.seed,
            save_every=self.save_every,
            initial=start,
            weights=self.weights,
            knowledge={network: Path(file) for network, file in self.knowledge.items()},
            label_set=self.label_set,
            densepose=self.densepose,
            size=self.size,
        )


def read_config(path: Path) -> RunConfig:
    """The configuration in a TOML file; what it leaves out has its default. Raises InputError."""
    return config_from(read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The values in a TOML file; InputError where it cannot be read as one."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from error


def config_from(values: Mapping[str, Any], source: str) -> RunConfig:
    """A `RunConfig` from plain values, as a TOML file holds them; `source` names them in errors.

    Raises:
        InputError: lists every unknown name and wrong value.
    """
    problems: list[str] = []
    tables = {
        key: value if isinstance(value, dict) else {}
        for key, value in values.items()
        if key in ("weights", "knowledge", "phases")
    }
    problems += [f"{key} is no table" for key in tables if not isinstance(values[key], dict)]
    plain = _fields(RunConfig, {k: v for k, v in values.items() if k not in tables}, "", problems)
    weights = _fields(Weights, tables.get("weights", {}), "weights.", problems)
    phases = {
        name: PhaseConfig(**_fields(PhaseConfig, table, f"phases.{name}.", problems))
        for name, table in tables.get("phases", {}).items()
        if isinstance(table, dict)
    }
    for kind, names, known in (
        ("phase", tables.get("phases", {}), PHASES),
        ("network", tables.get("knowledge", {}), NETWORKS),
    ):
        problems += [
            f"unknown {kind} {name!r}; available: {', '.join(known)}"
            for name in names
            if name not in known
        ]
    if plain.get("preset", "lite") not in PRESETS:
        problems.append(f"unknown preset {plain['preset']!r}; available: {', '.join(PRESETS)}")
    problems += [
        f"weights.{name} is {value}; expected 0 or more"
        for name, value in weights.items()
        if isinstance(value, float) and value < 0
    ]
    counts = {f"{name}": plain.get(name) for name in ("steps", "batch", "groups", "save_every")}
    counts |= {
        f"phases.{phase}.{name}": getattr(config, name)
        for phase, config in phases.items()
        for name in ("steps", "batch")
    }
    problems += [
        f"{name} is {value}; expected 1 or more"
        for name, value in counts.items()
        if value is not None and value < 1
    ]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise InputError(f"{source} is no configuration of a training:{listed}")
    return RunConfig(
        **plain,
        weights=Weights(**weights),
        knowledge={name: str(file) for name, file in tables.get("knowledge", {}).items()},
        phases=phases,
    )


def _fields(
    kind: type, values: Mapping[str, Any], prefix: str, problems: list[str]
) -> dict[str, Any]:
    """Those of `values` that fit the fields of a dataclass, whole numbers as floats where due."""
    types = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind) if f.name not in ("phases", "knowledge")]
    found = {}
    for name, value in values.items():
        if name not in known:
            problems.append(f"unknown name {prefix}{name}; available: {', '.join(known)}")
            continue
        try:
            found[name] = _value(value, types[name])
        except ValueError as error:
            problems.append(f"{prefix}{name} is {value!r}; expected {error}")
    return found


def _value(value: Any, due: Any) -> Any:
    """`value` as a field of type `due` takes it; ValueError says what it expects."""
    origin = typing.get_origin(due)
    if origin is UnionType:
        due = next(t for t in typing.get_args(due) if t is not type(None))
        origin = None
    if origin is typing.Literal:
        if value not in typing.get_args(due):
            raise ValueError(" or ".join(map(repr, typing.get_args(due))))
        return value
    if origin is tuple:
        whole = isinstance(value, list) and [type(v) for v in value] == [int, int]
        if not whole or any(v < 32 or v % 32 for v in value):
            raise ValueError("[height, width], both divisible by 32")
        return tuple(value)
    if due is float and type(value) is int:
        return float(value)
    if type(value) is not due:
        raise ValueError({int: "a whole number", float: "a number", str: "text"}[due])
    return value
