"""TensorRT engines of a bundle: where they lie, their record, and what is checked before loading.

Engines lie in `BUNDLE/engines/<flavour>-<sm>-<precision>/`: one `<stage>.plan` per stage and
`record.json`, which `engine.schema.json` beside this file specifies. A plan is code, so a loader

1. finds the engines with `find_engines`, which compares flavour, precision and GPU,
2. calls `Engines.check`, which compares graphs, versions, GPU and plugin with the record,
3. and gives TensorRT only bytes that `Engines.read_plan` returned, which compares size and hash.

Every error says what differs and the command that builds the engines again. Hashes prove that an
engine is whole, not that it can be trusted: load engines from where you would load code.

Nothing here needs TensorRT or a GPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from garment_transfer.runtime.bundle import Bundle, Tensor, sha256_of
from garment_transfer.runtime.errors import EngineError
from garment_transfer.runtime.files import read_json, replacing, schema_error
from garment_transfer.runtime.version import package_version

ENGINES: Final = "engines"
RECORD: Final = "record.json"
RECORD_VERSION: Final = 1

#: What builds and runs engines. Both share one API; only the second builds without a GPU.
FLAVOURS: Final = ("tensorrt", "tensorrt-rtx")

#: FlowWarp's plugin in an engine: where its library is there, inside the engine, or not at all.
PluginChoice = Literal["auto", "embed", "off"]

#: The GPUs that TensorRT-RTX's engines are built for, by compute capability. It runs on 7.5 too,
#: but only engines that run nowhere else; TensorRT itself runs on all of these and on those of
#: data centres.
RTX_COMPUTE_CAPABILITIES: Final = ("8.0", "8.6", "8.9", "12.0", "12.1")

#: What `build` takes unless told otherwise.
DEFAULT_OPTIMIZATION_LEVEL: Final = 3


@dataclass(frozen=True)
class Batch:
    """Batch sizes of an optimisation profile: smallest, the one it is tuned for, largest."""

    min: int = 1
    opt: int = 1
    max: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise EngineError(
                f"batch {self}: expected MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, such as 1:1:8"
            )

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


@dataclass(frozen=True)
class Plugin:
    """The FlowWarp plugin that engines call: its name, version and the hash of its library.

    `embedded` engines carry the library and need no other; TensorRT then has to be allowed to run
    host code from them (`Runtime.engine_host_code_allowed`).
    """

    name: str
    version: str
    sha256: str
    embedded: bool


@dataclass(frozen=True)
class StageEngine:
    """One stage's engine: its file, the graph it was built from, what it takes and gives.

    `device_memory_bytes` is the activation memory of one execution context at the largest batch;
    None where the engines were built without a GPU.
    """

    file: str
    bytes: int
    sha256: str
    onnx_sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    build_seconds: float
    device_memory_bytes: int | None


@dataclass(frozen=True)
class Record:
    """The contents of `record.json`, field by field as in `engine.schema.json`."""

    flavour: str
    flavour_version: str
    compute_capabilities: tuple[str, ...]
    precision: str
    batch: Batch
    optimization_level: int
    plugin: Plugin | None
    bundle: str
    built: str
    stages: Mapping[str, StageEngine]
    schema_version: int = RECORD_VERSION

    @property
    def folder(self) -> str:
        """The name of the folder of these engines, `<flavour>-<sm>-<precision>`."""
        return engine_folder(self.flavour, self.compute_capabilities, self.precision)

    def build_command(
        self,
        bundle: Path,
        *,
        batch: Batch | None = None,
        plugin: PluginChoice | None = None,
    ) -> str:
        """The command that builds these engines of `bundle` again, or with a change."""
        if plugin is None:
            plugin = "off" if self.plugin is None else "embed" if self.plugin.embedded else "auto"
        return build_command(
            bundle,
            self.flavour,
            self.precision,
            batch=batch or self.batch,
            optimization_level=self.optimization_level,
            plugin=plugin,
        )

    def to_dict(self) -> dict[str, Any]:
        """The record as `json.dump` takes it, schema version first."""
        fields = dataclasses.asdict(self)
        return {"schema_version": fields.pop("schema_version"), **fields}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Record:
        """The record of a dict that is valid by the schema."""
        stages = {
            stage: StageEngine(
                **{
                    **engine,
                    "inputs": _tensors(engine["inputs"]),
                    "outputs": _tensors(engine["outputs"]),
                }
            )
            for stage, engine in fields["stages"].items()
        }
        return cls(
            **{
                **fields,
                "compute_capabilities": tuple(fields["compute_capabilities"]),
                "batch": Batch(**fields["batch"]),
                "plugin": Plugin(**fields["plugin"]) if fields["plugin"] else None,
                "stages": stages,
            }
        )


@dataclass(frozen=True)
class Engines:
    """The engines of one folder of a bundle, with their record."""

    bundle: Bundle
    path: Path
    record: Record

    @property
    def build_command(self) -> str:
        """The command that builds these engines again, with the same options."""
        return self.record.build_command(self.bundle.path)

    def check(
        self,
        flavour_version: str,
        compute_capability: str,
        plugin_library: Path | None = None,
    ) -> None:
        """Raises EngineError unless these engines are the bundle's own and can run here.

        Reads no engine. `flavour_version` is the TensorRT at hand, `compute_capability` the GPU
        at hand, such as "8.9"; `plugin_library` the FlowWarp plugin at hand, if any.
        """
        for stage, engine in self.record.stages.items():
            graph = self.bundle.manifest.graphs_of(self.record.precision)[stage]
            if engine.onnx_sha256 != graph.sha256:
                self._refuse(
                    f"the engine of {stage} was built from another graph than "
                    f"{self.bundle.path / graph.file} (its SHA-256 is {graph.sha256}, the "
                    f"record's {engine.onnx_sha256})"
                )
            if (engine.inputs, engine.outputs) != (graph.inputs, graph.outputs):
                self._refuse(
                    f"the engine of {stage} takes ({', '.join(map(str, engine.inputs))}) and "
                    f"gives ({', '.join(map(str, engine.outputs))}); the bundle's graph takes "
                    f"({', '.join(map(str, graph.inputs))}) and gives "
                    f"({', '.join(map(str, graph.outputs))})"
                )
        if self.record.flavour_version != flavour_version:
            self._refuse(
                f"they were built by {self.record.flavour} {self.record.flavour_version}, and "
                f"{flavour_version} is installed: engines run in the version that built them"
            )
        if compute_capability not in self.record.compute_capabilities:
            self._refuse(
                "they were built for compute capability "
                f"{', '.join(self.record.compute_capabilities)}, and this GPU has "
                f"{compute_capability}"
            )
        self._check_plugin(plugin_library)

    def check_batch(self, batch: int) -> None:
        """Raises EngineError unless the engines take a batch of that size."""
        have = self.record.batch
        if not have.min <= batch <= have.max:
            wanted = Batch(max(1, min(have.min, batch)), have.opt, max(have.max, batch))
            command = self.record.build_command(self.bundle.path, batch=wanted)
            raise EngineError(
                f"a batch of {batch}: the engines in {self.path} were built for "
                f"{have.min} to {have.max}; use such a batch, or run `{command}`"
            )

    def read_plan(self, stage: str) -> bytes:
        """The bytes of a stage's engine, which are whole: their size and SHA-256 are the record's.

        Raises EngineError when the file is missing, truncated or altered.
        """
        engine = self.record.stages[stage]
        path = self.path / engine.file
        try:
            plan = path.read_bytes()
        except OSError as error:
            self._refuse(f"{path.name} cannot be read: {error.strerror}")
        if len(plan) < engine.bytes:
            self._refuse(
                f"{path.name} is truncated: {len(plan)} bytes of the {engine.bytes} in the record"
            )
        if len(plan) > engine.bytes or hashlib.sha256(plan).hexdigest() != engine.sha256:
            self._refuse(
                f"{path.name} was altered: its size ({len(plan)} bytes, {engine.bytes} in the "
                "record) or its SHA-256 is not the record's"
            )
        return plan

    def _check_plugin(self, library: Path | None) -> None:
        plugin = self.record.plugin
        if plugin is None or plugin.embedded:
            return
        named = f"the plugin {plugin.name} version {plugin.version}"
        without = self.record.build_command(self.bundle.path, plugin="off")
        if library is None or not library.is_file():
            where = "none is installed" if library is None else f"there is no file {library}"
            raise EngineError(
                f"the engines in {self.path} call {named}, and {where}: install garment-transfer "
                "where TensorRT_ROOT names TensorRT's headers and there is nvcc, which builds it, "
                f"or run `{without}`, which builds engines that need none"
            )
        if sha256_of(library) != plugin.sha256:
            self._refuse(
                f"they were built with {named}, whose library has the SHA-256 {plugin.sha256}; "
                f"{library} is another one"
            )

    def _refuse(self, what: str) -> NoReturn:
        raise EngineError(
            f"the engines in {self.path} cannot be used: {what}; run `{self.build_command}`"
        )


def sm_name(compute_capabilities: Sequence[str]) -> str:
    """The part of a folder's name that says for which GPU: "sm89", or "portable" for several."""
    if len(compute_capabilities) > 1:
        return "portable"
    return "sm" + compute_capabilities[0].replace(".", "")


def engine_folder(flavour: str, compute_capabilities: Sequence[str], precision: str) -> str:
    """The name of a folder of engines inside `BUNDLE/engines`."""
    return f"{flavour}-{sm_name(compute_capabilities)}-{precision}"


def build_command(
    bundle: str | os.PathLike[str],
    flavour: str,
    precision: str,
    *,
    batch: Batch | None = None,
    optimization_level: int = DEFAULT_OPTIMIZATION_LEVEL,
    plugin: PluginChoice = "auto",
) -> str:
    """The command line that builds engines, as error messages give it.

    A bundle that may not be written to is copied first: the command then has `-o`.
    """
    path = Path(bundle)
    words = ["garment-transfer", "build", str(path), "--backend", flavour]
    words += ["--precision", precision]
    if batch is not None and batch != Batch():
        words += ["--batch", str(batch)]
    if optimization_level != DEFAULT_OPTIMIZATION_LEVEL:
        words += ["--optimization-level", str(optimization_level)]
    if flavour == "tensorrt" and plugin != "auto":
        words += ["--plugin", plugin]
    if must_be_copied(path):
        words += ["-o", f"./{path.resolve().name}"]
    return shlex.join(words)


def must_be_copied(bundle: Path) -> bool:
    """Whether engines may not be put into a bundle: it is the package's own, or read-only."""
    package = Path(__file__).parent.resolve()
    return bundle.resolve().is_relative_to(package) or not os.access(bundle, os.W_OK)


def list_engines(bundle: Bundle) -> list[Engines]:
    """All engines of a bundle, by folder name. EngineError where a record is not valid."""
    return [_load(bundle, folder) for folder in _folders(bundle)]


def find_engines(bundle: Bundle, flavour: str, precision: str, compute_capability: str) -> Engines:
    """The engines of a bundle for a flavour, a precision and a GPU, such as "8.9".

    Those built for this GPU alone come before portable ones. Raises EngineError when there are
    none, saying which there are and the command that builds them. `Engines.check` comes next.
    """
    if flavour not in FLAVOURS:
        raise EngineError(f"unknown flavour {flavour!r}; available: {', '.join(FLAVOURS)}")
    if precision not in bundle.manifest.precisions:
        raise EngineError(
            f"{bundle.path} has no {precision} graphs, only {', '.join(bundle.manifest.precisions)}"
            f"; export it anew with `garment-transfer export CHECKPOINT -o BUNDLE --precision "
            f"{precision}`"
        )
    if flavour == "tensorrt-rtx" and compute_capability not in RTX_COMPUTE_CAPABILITIES:
        raise EngineError(
            "what TensorRT-RTX builds here does not run on a GPU of compute capability "
            f"{compute_capability}, only on {', '.join(RTX_COMPUTE_CAPABILITIES)}; use TensorRT: "
            f"run `{build_command(bundle.path, 'tensorrt', precision)}`"
        )
    names = {
        engine_folder(flavour, [compute_capability], precision): None,
        engine_folder(flavour, RTX_COMPUTE_CAPABILITIES, precision): None,
    }
    folders = _folders(bundle)
    for name in names:
        for folder in folders:
            if folder.name == name:
                engines = _load(bundle, folder)
                if compute_capability in engines.record.compute_capabilities:
                    return engines
    others = ", ".join(folder.name for folder in folders) or "none"
    raise EngineError(
        f"{bundle.path} has no {precision} engines of {flavour} for a GPU of compute capability "
        f"{compute_capability} (it has: {others}); run "
        f"`{build_command(bundle.path, flavour, precision)}`"
    )


def write_record(folder: Path, record: Record) -> None:
    """Writes `record.json` into a folder of engines, atomically.

    Raises EngineError when the record is not valid by the schema.
    """
    # Through JSON and back, so that what is checked is what a reader will see.
    text = json.dumps(record.to_dict(), indent=2) + "\n"
    _validate(json.loads(text), folder / RECORD, "report it, since the builder wrote it")
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _folders(bundle: Bundle) -> list[Path]:
    # What an interrupted build may leave starts with a dot.
    pattern = re.compile(rf"(?:{'|'.join(FLAVOURS)})-(?:sm\d+|portable)-float(?:16|32)")
    try:
        found = [path for path in (bundle.path / ENGINES).iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(path for path in found if pattern.fullmatch(path.name))


def _load(bundle: Bundle, folder: Path) -> Engines:
    path = folder / RECORD
    flavour, _, precision = folder.name.rpartition("-")
    flavour = flavour.rpartition("-")[0]
    mend = f"run `{build_command(bundle.path, flavour, precision)}`"
    try:
        fields = read_json(path)
    except FileNotFoundError:
        raise EngineError(f"{folder} has engines without {RECORD}; {mend}") from None
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise EngineError(f"{path} is not valid JSON ({error}); {mend}") from error
    _validate(fields, path, mend)
    try:
        record = Record.from_dict(fields)
    except EngineError as error:
        raise EngineError(f"{path} is not a valid record: {error}; {mend}") from None
    if record.folder != folder.name:
        raise EngineError(
            f"{path} is the record of {record.folder}, and lies in a folder of another name; {mend}"
        )
    return Engines(bundle, folder, record)


def _validate(fields: Any, path: Path, mend: str) -> None:
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > RECORD_VERSION:
        raise EngineError(
            f"{path} has schema version {version}, and this release of garment-transfer "
            f"({package_version()}) reads up to {RECORD_VERSION}; "
            f"run `pip install --upgrade garment-transfer`, or {mend}"
        )
    error = schema_error(fields, "engine.schema.json")
    if error is not None:
        raise EngineError(f"{path} is not a valid record: {error}; {mend}")


def _tensors(fields: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(t["name"], t["dtype"], tuple(t["shape"])) for t in fields)
