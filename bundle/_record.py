"""TensorRT engines of a bundle: where they lie, their record, and what is checked before loading.

Engines lie in `BUNDLE/engines/<backend>-<sm>-<precision>/`: one `<stage>.plan` per stage and
`record.json`, which docs/bundle.md specifies. A plan is code, so a loader

1. finds the engines with `find_engines`, which compares backend, precision and GPU,
2. calls `EngineSet.check`, which compares graphs, versions, GPU and plugin with the record,
3. and gives TensorRT only bytes that `EngineSet.read_plan` returned, which compares size and hash.

Every error says what differs and the command that builds the engines again. Hashes prove that an
engine is whole, not that it can be trusted: load engines from where you would load code.

Nothing here needs TensorRT or a GPU.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn, get_args

from msgspec import Meta, Struct

from garment_transfer.bundle._contract import Stage, differences
from garment_transfer.bundle._errors import Code, EngineError, reason_of
from garment_transfer.bundle._json import (
    Count,
    InvalidFile,
    Number,
    Positive,
    Sha256,
    Text,
    Time,
    TooNewFile,
    read_struct,
    write_struct,
)
from garment_transfer.bundle._manifest import (
    PRECISIONS,
    Bundle,
    Graph,
    Precision,
    is_whole,
    sha256_of,
)

ENGINES: Final = "engines"
RECORD: Final = "record.json"
RECORD_VERSION: Final = 2

#: What builds and runs engines. Both share one API; only the second builds without a GPU.
EngineBackend = Literal["tensorrt", "tensorrt-rtx"]
ENGINE_BACKENDS: Final[tuple[EngineBackend, ...]] = get_args(EngineBackend)

#: FlowWarp's plugin in an engine: where its library is there, inside the engine, or not at all.
PluginChoice = Literal["auto", "embed", "off"]

#: The GPUs that TensorRT-RTX's engines are built for, by compute capability. It runs on 7.5 too,
#: but only engines that run nowhere else; TensorRT itself runs on all of these and on those of
#: data centres.
RTX_COMPUTE_CAPABILITIES: Final = ("8.0", "8.6", "8.9", "12.0", "12.1")

#: What `build` takes unless told otherwise.
DEFAULT_OPTIMIZATION_LEVEL: Final = 3

# The bundle and the people in the package, which nothing may change.
_SHIPPED: Final = Path(__file__).resolve().parents[1] / "runtime" / "assets"


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """Batch sizes of an optimisation profile: smallest, the one it is tuned for, largest.

    Raises:
        ValueError: they are not 1 or more in rising order.
    """

    min: Positive = 1
    opt: Positive = 1
    max: Positive = 8

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(
                f"batch {self}: expected MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, such as 1:1:8"
            )

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


class Plugin(Struct, frozen=True, forbid_unknown_fields=True):
    """The FlowWarp plugin that engines call: its name, version and the hash of its library.

    `embedded` engines carry the library and need no other; TensorRT then has to be allowed to run
    host code from them (`Runtime.engine_host_code_allowed`).
    """

    name: Text
    version: Text
    sha256: Sha256
    embedded: bool

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


class StageEngine(Graph, frozen=True):
    """One stage's engine: its file, the graph it was built from, what it takes and gives.

    `device_memory_bytes` is the activation memory of one execution context at the largest batch;
    None where the engines were built without a GPU.
    """

    onnx_sha256: Sha256
    build_seconds: Number
    device_memory_bytes: Count | None


class EngineRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of `record.json`."""

    schema_version: Literal[2]
    backend: EngineBackend
    backend_version: Annotated[
        str,
        Meta(
            pattern=r"^\d+(\.\d+)+",
            description="Version of the library that built the engines; no other loads them.",
        ),
    ]
    compute_capabilities: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^\d+\.\d+(?!\n)$")], ...],
        Meta(
            min_length=1,
            description="The GPUs the engines run on: TensorRT's one, TensorRT-RTX's several.",
        ),
    ]
    precision: Precision
    batch: Batch
    optimization_level: Annotated[int, Meta(ge=0, le=5)]
    plugin: Annotated[
        Plugin | None,
        Meta(description="FlowWarp's plugin where the engines call it; null with its body."),
    ]
    bundle: Annotated[Text, Meta(description="Name of the bundle whose graphs were built.")]
    built: Time
    stages: Annotated[dict[Stage, StageEngine], Meta(min_length=3)]

    def __post_init__(self) -> None:
        if len(set(self.compute_capabilities)) < len(self.compute_capabilities):
            raise ValueError("Expected compute capabilities that differ")

    @property
    def folder(self) -> str:
        """The name of the folder of these engines, `<backend>-<sm>-<precision>`."""
        return engine_folder(self.backend, self.compute_capabilities, self.precision)


class EngineSet(Struct, frozen=True):
    """The engines of one folder of a bundle, with their record."""

    bundle: Bundle
    path: Path
    record: EngineRecord

    @property
    def build_command(self) -> str:
        """The command that builds these engines again, with the same options."""
        return self._command()

    def _command(self, batch: Batch | None = None, plugin: PluginChoice | None = None) -> str:
        """As `build_command`, or with a change."""
        record = self.record
        if plugin is None:
            own = record.plugin
            plugin = "off" if own is None else "embed" if own.embedded else "auto"
        return build_command(
            self.bundle.path,
            record.backend,
            record.precision,
            batch=batch or record.batch,
            optimization_level=record.optimization_level,
            plugin=plugin,
        )

    def check(
        self, backend_version: str, compute_capability: str, plugin_library: Path | None = None
    ) -> None:
        """Checks that these engines are the bundle's own and can run here; reads no engine.

        Args:
            backend_version: the TensorRT at hand.
            compute_capability: the GPU's at hand, such as "8.9".
            plugin_library: the FlowWarp plugin at hand, if any.

        Raises:
            EngineError: what differs, and the command that builds engines that fit.
        """
        record = self.record
        for stage, engine in record.stages.items():
            graph = self.bundle.manifest.graphs_of(record.precision)[stage]
            if engine.onnx_sha256 != graph.sha256:
                self._refuse(
                    Code.ENGINE_MISMATCH,
                    f"the engine of {stage} was built from another graph than "
                    f"{self.bundle.path / graph.file}, whose SHA-256 is {graph.sha256}",
                )
            if wrong := differences(graph.signature, engine.signature):
                self._refuse(Code.ENGINE_MISMATCH, f"of the engine of {stage}, {wrong}")
        if record.backend_version != backend_version:
            self._refuse(
                Code.ENGINE_VERSION,
                f"they were built by {record.backend} {record.backend_version}, and "
                f"{backend_version} is installed: engines run in the version that built them",
            )
        if compute_capability not in record.compute_capabilities:
            self._refuse(
                Code.ENGINE_GPU,
                "they were built for compute capability "
                f"{', '.join(record.compute_capabilities)}, and this GPU has {compute_capability}",
            )
        self._check_plugin(plugin_library)

    def check_batch(self, batch: int) -> None:
        """Raises EngineError unless the engines take a batch of that size."""
        have = self.record.batch
        if not have.min <= batch <= have.max:
            wider = Batch(max(1, min(have.min, batch)), have.opt, max(have.max, batch))
            raise EngineError(
                Code.ENGINE_BATCH,
                f"the engines in {self.path} do not take a batch of {batch}",
                expected=f"{have.min} to {have.max}",
                fix=f"use such a batch, or run `{self._command(batch=wider)}`",
            )

    def read_plan(self, stage: Stage) -> bytes:
        """The bytes of a stage's engine, whose size and hash are the record's.

        Raises:
            EngineError: the file is missing, truncated or altered.
        """
        engine = self.record.stages[stage]
        path = self.path / engine.file
        try:
            plan = path.read_bytes()
        except OSError as error:
            self._refuse(Code.ENGINE_ALTERED, f"{path.name} cannot be read: {error.strerror}")
        if not is_whole(engine, plan):
            self._refuse(
                Code.ENGINE_ALTERED,
                f"{path.name} was truncated or altered: its size ({len(plan)} bytes, "
                f"{engine.bytes} in the record) or its SHA-256 is not the record's",
            )
        return plan

    def _check_plugin(self, library: Path | None) -> None:
        plugin = self.record.plugin
        if plugin is None or plugin.embedded:
            return
        if library is None or not library.is_file():
            where = "none is installed" if library is None else f"there is no file {library}"
            raise EngineError(
                Code.PLUGIN_MISSING,
                f"the engines in {self.path} call the plugin {plugin}, and {where}",
                fix="install garment-transfer where TensorRT_ROOT names TensorRT's headers and "
                "there is nvcc, which builds it, or run "
                f"`{self._command(plugin='off')}`, which builds engines that need none",
            )
        if sha256_of(library) != plugin.sha256:
            self._refuse(
                Code.ENGINE_MISMATCH,
                f"they were built with the plugin {plugin}, whose library has the SHA-256 "
                f"{plugin.sha256}; {library} is another one",
            )

    def _refuse(self, code: Code, what: str) -> NoReturn:
        raise EngineError(
            code,
            f"the engines in {self.path} cannot be used: {what}",
            fix=f"run `{self.build_command}`",
        )


def sm_name(compute_capabilities: Sequence[str]) -> str:
    """The part of a folder's name that says for which GPU: "sm89", or "portable" for several."""
    if len(compute_capabilities) > 1:
        return "portable"
    return "sm" + compute_capabilities[0].replace(".", "")


def engine_folder(
    backend: EngineBackend, compute_capabilities: Sequence[str], precision: str
) -> str:
    """The name of a folder of engines inside `BUNDLE/engines`."""
    return f"{backend}-{sm_name(compute_capabilities)}-{precision}"


def build_command(
    bundle: str | os.PathLike[str],
    backend: EngineBackend,
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
    words = ["garment-transfer", "build", str(path), "--backend", backend]
    words += ["--precision", precision]
    if batch is not None and batch != Batch():
        words += ["--batch", str(batch)]
    if optimization_level != DEFAULT_OPTIMIZATION_LEVEL:
        words += ["--optimization-level", str(optimization_level)]
    if backend == "tensorrt" and plugin != "auto":
        words += ["--plugin", plugin]
    if must_be_copied(path):
        words += ["-o", f"./{path.resolve().name}"]
    return shlex.join(words)


def must_be_copied(bundle: Path) -> bool:
    """Whether engines may not be put into a bundle: it is the package's own, or read-only."""
    return bundle.resolve().is_relative_to(_SHIPPED) or not os.access(bundle, os.W_OK)


def list_engines(bundle: Bundle) -> list[EngineSet]:
    """All engines of a bundle, by folder name. EngineError where a record is not valid."""
    return [_load(bundle, folder) for folder in _folders(bundle)]


def find_engines(
    bundle: Bundle, backend: EngineBackend, precision: str, compute_capability: str
) -> EngineSet:
    """The engines of a bundle for a backend, a precision and a GPU, such as "8.9".

    Those built for this GPU alone come before portable ones. `EngineSet.check` comes next.

    Raises:
        BundleError: the bundle has no graphs of that precision.
        EngineError: it has no such engines; says which there are and the command that builds them.
    """
    bundle.manifest.graphs_of(precision)
    if backend == "tensorrt-rtx" and compute_capability not in RTX_COMPUTE_CAPABILITIES:
        raise EngineError(
            Code.ENGINE_GPU,
            "what TensorRT-RTX builds here does not run on a GPU of compute capability "
            f"{compute_capability}",
            expected=f"one of {', '.join(RTX_COMPUTE_CAPABILITIES)}",
            fix=f"use TensorRT: run `{build_command(bundle.path, 'tensorrt', precision)}`",
        )
    folders = {folder.name: folder for folder in _folders(bundle)}
    for capabilities in ([compute_capability], RTX_COMPUTE_CAPABILITIES):
        folder = folders.get(engine_folder(backend, capabilities, precision))
        if folder is not None:
            engines = _load(bundle, folder)
            if compute_capability in engines.record.compute_capabilities:
                return engines
    raise EngineError(
        Code.ENGINES_MISSING,
        f"{bundle.path} has no {precision} engines of {backend} for a GPU of compute capability "
        f"{compute_capability} (it has: {', '.join(folders) or 'none'})",
        fix=f"run `{build_command(bundle.path, backend, precision)}`",
    )


def write_record(folder: Path, record: EngineRecord) -> None:
    """Writes `record.json` into a folder of engines, atomically.

    Raises:
        EngineError: the record is not valid.
    """
    try:
        write_struct(folder / RECORD, record, RECORD_VERSION)
    except InvalidFile as error:
        raise EngineError(
            Code.RECORD_INVALID, f"what would be written is not valid: {error}"
        ) from error


def _folders(bundle: Bundle) -> list[Path]:
    # What an interrupted build may leave starts with a dot.
    kinds = "|".join(ENGINE_BACKENDS), "|".join(PRECISIONS)
    pattern = re.compile(rf"(?:{kinds[0]})-(?:sm\d+|portable)-(?:{kinds[1]})")
    try:
        found = [path for path in (bundle.path / ENGINES).iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(path for path in found if pattern.fullmatch(path.name))


def _load(bundle: Bundle, folder: Path) -> EngineSet:
    path = folder / RECORD
    (backend,) = (
        name for name in ENGINE_BACKENDS if re.match(rf"{name}-(sm|portable)", folder.name)
    )
    fix = f"run `{build_command(bundle.path, backend, folder.name.rpartition('-')[2])}`"
    try:
        record = read_struct(path, EngineRecord, RECORD_VERSION)
        if record.folder != folder.name:
            raise InvalidFile(f"it is of {record.folder}, and lies in a folder of another name")
    except (OSError, InvalidFile) as error:
        if isinstance(error, TooNewFile):
            fix = f"run `pip install --upgrade garment-transfer`, or {fix}"
        raise EngineError(
            Code.RECORD_INVALID, f"{path} is not a valid record: {reason_of(error)}", fix=fix
        ) from error
    return EngineSet(bundle, folder, record)
