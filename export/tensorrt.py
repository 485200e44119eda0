"""TensorRT engines from a bundle's graphs, by TensorRT or TensorRT-RTX.

One builder over the API that both share. Networks are strongly typed: the precision is the
graph's. TensorRT builds on the GPU that the engines are for; TensorRT-RTX needs none, and its
engines run on several.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Final

import onnx

from garment_transfer.bundle import (
    DEFAULT_OPTIMIZATION_LEVEL,
    ENGINES,
    MANIFEST,
    RECORD_VERSION,
    RTX_COMPUTE_CAPABILITIES,
    STAGES,
    BackendError,
    Batch,
    Bundle,
    Code,
    EngineBackend,
    EngineError,
    EngineRecord,
    EngineSet,
    OutputError,
    Plugin,
    PluginChoice,
    Precision,
    Signature,
    Stage,
    StageEngine,
    Tensor,
    build_command,
    cache_folder,
    differences,
    engine_folder,
    list_engines,
    must_be_copied,
    now,
    replacing,
    replacing_folder,
    sha256_of,
    write_record,
)
from garment_transfer.export.int8 import for_tensorrt
from garment_transfer.kernels import tensorrt_library
from garment_transfer.runtime.backends.tensorrt import (
    engines_here,
    gathering_errors,
    load_plugin,
    logger_of,
    take_errors,
    tensor_of,
    tensorrt_module,
)
from garment_transfer.runtime.cuda import CudaDevice

if TYPE_CHECKING:
    import tensorrt

_LOG: Final = logging.getLogger(__name__)

PLUGIN_NAME: Final = "FlowWarp"
PLUGIN_VERSION: Final = "1"

#: Gets the stage, the part of its build that runs, and how much of that is done, 0 to 1.
Progress = Callable[[str, str, float], None]


def build_engines(
    bundle: Bundle,
    backend: EngineBackend,
    precision: Precision = "float32",
    *,
    batch: Batch | None = None,
    optimization_level: int = DEFAULT_OPTIMIZATION_LEVEL,
    plugin: PluginChoice = "auto",
    device: int = 0,
    progress: Progress = lambda stage, part, done: None,
) -> EngineSet:
    """Build one engine per stage and put them into the bundle, all of them or nothing.

    Engines of the same backend, GPU and precision are replaced. An interrupt ends the build at
    TensorRT's next step, and leaves the bundle as it was.

    Args:
        bundle: where the graphs come from and the engines go.
        backend: "tensorrt" or "tensorrt-rtx".
        precision: one of the bundle's.
        batch: the optimisation profile's batch sizes, 1:1:8 if not given.
        optimization_level: 0 to 5, how long the builder searches; 3 is its own default.
        plugin: "auto" has TensorRT call FlowWarp's plugin where its library is built, "embed" puts
            the library into the engines too, "off" has the standard operators of FlowWarp's body
            built, which TensorRT-RTX always does.
        device: the GPU that TensorRT builds on and for; TensorRT-RTX uses none.
        progress: is told how far the build is.

    Raises:
        BackendError: the backend is not installed, or TensorRT has no GPU here.
        EngineError: the bundle may not be written to or has no such graphs, the plugin is asked
            for and missing, or TensorRT refuses a graph; with what it logged.
        OutputError: the engines cannot be written.
    """
    if not 0 <= optimization_level <= 5:
        raise EngineError(
            Code.ARGUMENT_INVALID,
            f"the optimization level is {optimization_level}",
            expected="0 to 5",
        )
    if must_be_copied(bundle.path):
        raise EngineError(
            Code.OUTPUT_UNWRITABLE,
            f"{bundle.path} may not be changed, since it is part of the package or read-only",
            fix=f"have it copied first, as `{build_command(bundle.path, backend, precision)}` does",
        )
    graphs = bundle.manifest.graphs_of(precision)
    trt = tensorrt_module(backend)
    library = _plugin_library(backend, plugin)
    builder = _Builder(
        trt, backend, batch or Batch(), optimization_level, device, library, plugin == "embed"
    )
    folder = bundle.path / ENGINES / engine_folder(backend, builder.targets, precision)
    stages: dict[Stage, StageEngine] = {}
    files: dict[str, bytes] = {}
    calls = 0
    with _interruptible() as interrupted:
        for stage in STAGES:
            start = time.perf_counter()
            plan, plugins = builder.build(
                stage,
                bundle.graph_path(stage, precision),
                _in_its_form(bundle.read_graph(stage, precision), precision),
                graphs[stage].signature,
                functools.partial(progress, stage),
                interrupted,
            )
            calls += plugins
            files[f"{stage}.plan"] = plan
            layers, device_memory = builder.inspect(plan)
            if layers:
                files[f"{stage}.layers.json"] = layers.encode()
            stages[stage] = StageEngine(
                file=f"{stage}.plan",
                bytes=len(plan),
                sha256=hashlib.sha256(plan).hexdigest(),
                onnx_sha256=graphs[stage].sha256,
                inputs=graphs[stage].inputs,
                outputs=graphs[stage].outputs,
                build_seconds=round(time.perf_counter() - start, 3),
                device_memory_bytes=device_memory,
            )
    record = EngineRecord(
        schema_version=RECORD_VERSION,
        backend=backend,
        backend_version=trt.__version__,
        compute_capabilities=builder.targets,
        precision=precision,
        batch=builder.batch,
        optimization_level=optimization_level,
        plugin=builder.plugin if calls else None,
        bundle=bundle.manifest.name,
        built=now(),
        stages=stages,
    )
    with replacing_folder(folder) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        write_record(temporary, record)
    return EngineSet(bundle, folder, record)


def _in_its_form(graph: bytes, precision: Precision) -> bytes:
    """A graph as TensorRT takes it: those of int8 have other zero points than in the bundle."""
    if precision != "int8":
        return graph
    converted: bytes = for_tensorrt(onnx.load_from_string(graph)).SerializeToString()
    return converted


def copy_bundle(bundle: Bundle, output: Path) -> Bundle:
    """A copy of a bundle, engines included, that engines can be added to.

    Where `output` is a copy of the same bundle already, it is that.

    Raises:
        OutputError: `output` is something else, or cannot be written.
    """
    if output.exists():
        try:
            same = (output / MANIFEST).read_bytes() == (bundle.path / MANIFEST).read_bytes()
        except OSError:
            same = False
        if not same:
            raise OutputError(
                Code.OUTPUT_EXISTS,
                f"{output} exists and is not a copy of {bundle.path}",
                fix="choose another --output",
            )
        return Bundle.load(output)
    with replacing_folder(output) as temporary:
        # contents alone: the permissions of a read-only bundle are not for its copy; and not what
        # starts with a dot, which may be the copy itself, or what an interrupted build left
        shutil.copytree(
            bundle.path,
            temporary,
            ignore=shutil.ignore_patterns(".*"),
            dirs_exist_ok=True,
            copy_function=shutil.copyfile,
        )
        for folder in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
    return Bundle.load(output)


def ensure_engines(
    bundle: Bundle, backend: EngineBackend, precision: Precision | None = None, device: int = 0
) -> Bundle:
    """A bundle whose engines run on this GPU: the one given, built anew where they do not fit.

    They are built with the options of those that did not fit. A bundle that may not be changed, as
    the package's own, is copied into the user's cache (`XDG_CACHE_HOME`) first, and built there
    once.

    Raises:
        BackendError: the backend or a GPU is missing, or TensorRT refuses a graph.
        OutputError: the engines cannot be written.
    """
    precision = precision or bundle.manifest.precision

    def problem() -> EngineError | None:
        try:
            engines = engines_here(backend, bundle, precision, CudaDevice(device))
            for stage in STAGES:
                engines.read_plan(stage)
        except EngineError as error:
            return error
        return None

    wrong = problem()
    if wrong is not None and must_be_copied(bundle.path):
        content = sha256_of(bundle.path / MANIFEST)[:12]
        copy = cache_folder() / "bundles" / f"{bundle.manifest.name}-{content}"
        bundle = copy_bundle(bundle, copy)
        wrong = problem()
    if wrong is not None:
        _LOG.warning("%s: building them now", wrong)
        earlier = None  # for whatever GPU
        with contextlib.suppress(EngineError):
            for engines in list_engines(bundle):
                if (engines.record.backend, engines.record.precision) == (backend, precision):
                    earlier = engines.record
        plugin = earlier.plugin if earlier else None
        build_engines(
            bundle,
            backend,
            precision,
            batch=earlier.batch if earlier else None,
            optimization_level=(
                earlier.optimization_level if earlier else DEFAULT_OPTIMIZATION_LEVEL
            ),
            plugin="embed" if plugin and plugin.embedded else "auto",
            device=device,
        )
    return bundle


class _Builder:
    """A backend with its options, the GPUs that its engines are for, and FlowWarp's plugin."""

    def __init__(
        self,
        trt: ModuleType,
        backend: EngineBackend,
        batch: Batch,
        optimization_level: int,
        device: int,
        library: Path | None,
        embed: bool,
    ) -> None:
        self.plugin: Plugin | None = None
        if library is not None:
            self.plugin = Plugin(PLUGIN_NAME, PLUGIN_VERSION, sha256_of(library), embed)
        self._library = library
        self._embed = embed
        self._trt = trt
        self._backend = backend
        self.batch = batch
        self._level = optimization_level
        self._device: CudaDevice | None = None
        if backend == "tensorrt":
            try:
                self._device = CudaDevice(device)
            except BackendError as error:
                raise BackendError(
                    Code.BACKEND_UNAVAILABLE,
                    f"TensorRT builds engines on the GPU that they are for, and {error.what}",
                    fix="run the same command on the machine that is to run them, or build with "
                    "`--backend tensorrt-rtx`, which needs no GPU",
                ) from error
            self.targets: tuple[str, ...] = (self._device.compute_capability,)
        else:
            known = trt.ComputeCapability.__members__
            names = {target: "SM" + target.replace(".", "") for target in RTX_COMPUTE_CAPABILITIES}
            self._capabilities = {t: known[name] for t, name in names.items() if name in known}
            self.targets = tuple(self._capabilities)

    def build(
        self,
        stage: Stage,
        path: Path,
        graph: bytes,
        signature: Signature,
        progress: Callable[[str, float], None],
        interrupted: Callable[[], bool],
    ) -> tuple[bytes, int]:
        """One stage's plan and its calls of the plugin; EngineError with what TensorRT logged."""
        with (
            self._device.active() if self._device else contextlib.nullcontext(),
            gathering_errors(self._trt),
        ):
            builder = self._trt.Builder(logger_of(self._trt))
            if self.plugin is not None:
                load_plugin(self._trt, self._library, self.plugin)
            network, plugins = parse(
                self._trt, builder, graph, path, signature, plugin=self.plugin is not None
            )
            config = self._configure(builder, network)
            monitor = _make_monitor(self._trt, progress, interrupted)
            config.progress_monitor = monitor
            cache = self._load_timing_cache(config)
            plan = builder.build_serialized_network(network, config)
            if interrupted():
                raise KeyboardInterrupt
            if plan is None:
                raise EngineError(
                    Code.BUILD_FAILED,
                    f"{self._backend} {self._trt.__version__} builds no engine of the {stage} "
                    f"graph {path}: {take_errors(self._trt)}",
                    fix="a lower --optimization-level or a smaller --batch needs less memory",
                )
            if cache is not None:
                self._save_timing_cache(cache, config)
            return bytes(plan), plugins

    def _configure(
        self, builder: tensorrt.Builder, network: tensorrt.INetworkDefinition
    ) -> tensorrt.IBuilderConfig:
        trt = self._trt
        config = builder.create_builder_config()
        config.builder_optimization_level = self._level
        # TF32 would round float32 products to 11 bits, and so FlowWarp's coordinates
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        # a session of a small batch would otherwise need the memory of the largest
        config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
        if self._backend == "tensorrt-rtx":
            config.num_compute_capabilities = len(self.targets)
            for index, target in enumerate(self.targets):
                config.set_compute_capability(self._capabilities[target], index)
        if self._embed:
            # libraries travel in version-compatible engines alone
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            config.plugins_to_serialize = [str(self._library)]
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            shape = tuple(tensor.shape)[1:]
            profile.set_shape(
                tensor.name,
                *((size, *shape) for size in (self.batch.min, self.batch.opt, self.batch.max)),
            )
        config.add_optimization_profile(profile)
        return config

    def _timing_cache_path(self) -> Path | None:
        # TensorRT-RTX times nothing when it builds; asking it for a cache asks for a GPU
        if self._device is None:
            return None
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", self._device.name)
        return cache_folder() / f"timing-{self._trt.__version__}-{gpu}.cache"

    def _load_timing_cache(self, config: tensorrt.IBuilderConfig) -> Path | None:
        """Start from the timings of earlier builds with this version on such a GPU."""
        path = self._timing_cache_path()
        if path is None:
            return None
        known = path.read_bytes() if path.is_file() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
        return path

    def _save_timing_cache(self, path: Path, config: tensorrt.IBuilderConfig) -> None:
        cache = config.get_timing_cache()
        # it saves time, and no build is lost for it
        with contextlib.suppress(OSError, OutputError):
            if path.is_file():  # another build may have saved its own meanwhile
                cache.combine(config.create_timing_cache(path.read_bytes()), False)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(bytes(cache.serialize()))

    def inspect(self, plan: bytes) -> tuple[str, int | None]:
        """Layers and memory of an engine, where it can be loaded: that takes a GPU it is for."""
        trt, device = self._trt, self._device
        if device is None:
            try:
                device = CudaDevice()
            except BackendError:
                return "", None
        if device.compute_capability not in self.targets:
            return "", None
        with device.active():
            runtime = trt.Runtime(logger_of(trt))
            runtime.engine_host_code_allowed = self._embed
            engine = runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise EngineError(
                    Code.ENGINE_REJECTED,
                    f"{self._backend} does not load the engine that it has built: "
                    f"{take_errors(trt)}",
                )
            inspector = engine.create_engine_inspector()
            layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
            return str(layers), int(engine.device_memory_size_v2)


def parse(
    trt: ModuleType,
    builder: tensorrt.Builder,
    graph: bytes,
    path: Path,
    signature: Signature,
    *,
    plugin: bool = False,
) -> tuple[tensorrt.INetworkDefinition, int]:
    """The strongly typed network of an ONNX graph, and how many of its layers are the plugin's.

    Raises:
        EngineError: TensorRT does not take the graph, or with other inputs and outputs than
            `signature`, or does not put the plugin in the place of FlowWarp.
    """
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger_of(trt))
    if plugin:
        override = getattr(trt.OnnxParserFlag, "ENABLE_PLUGIN_OVERRIDE", None)
        if override is None:
            raise EngineError(
                Code.BUILD_FAILED,
                f"TensorRT {trt.__version__} does not put a plugin in the place of an ONNX "
                "function, which 10.16 and later do",
                fix="upgrade it, or use `--plugin off`",
            )
        parser.set_flag(override)
    if not parser.parse(graph, str(path)):
        errors = [parser.get_error(index).desc().strip() for index in range(parser.num_errors)]
        raise EngineError(
            Code.BUILD_FAILED,
            f"TensorRT {trt.__version__} does not take {path}: "
            f"{' | '.join(errors) or take_errors(trt)}",
            fix="export the bundle anew with `garment-transfer export CHECKPOINT -o BUNDLE`",
        )
    if wrong := differences(signature, _signature_of(trt, network)):
        raise EngineError(Code.BUILD_FAILED, f"TensorRT reads {path} otherwise: {wrong}")
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    plugins = sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers)
    if plugin and not plugins and any(layer.type == trt.LayerType.GRID_SAMPLE for layer in layers):
        raise EngineError(
            Code.BUILD_FAILED,
            f"TensorRT {trt.__version__} built FlowWarp's body in {path}, though its plugin is "
            f"loaded: {take_errors(trt)}",
            fix="use `--plugin off`",
        )
    return network, plugins


def _signature_of(trt: ModuleType, network: tensorrt.INetworkDefinition) -> Signature:
    def tensor(found: tensorrt.ITensor) -> Tensor:
        return tensor_of(trt, found.name, found.dtype, found.shape)

    return Signature(
        tuple(tensor(network.get_input(index)) for index in range(network.num_inputs)),
        tuple(tensor(network.get_output(index)) for index in range(network.num_outputs)),
    )


def _plugin_library(backend: EngineBackend, plugin: PluginChoice) -> Path | None:
    """The plugin library to build with; None for the function body."""
    if backend == "tensorrt-rtx":
        if plugin == "embed":
            raise EngineError(
                Code.ARGUMENT_INVALID,
                "TensorRT-RTX takes no plugins",
                fix="build without `--plugin embed`, or with `--backend tensorrt`",
            )
        return None
    library = tensorrt_library() if plugin != "off" else None
    if plugin == "embed" and library is None:
        raise EngineError(
            Code.PLUGIN_MISSING,
            "--plugin embed: FlowWarp's plugin is not built",
            fix="install garment-transfer again where TensorRT_ROOT names TensorRT's headers and "
            "there is nvcc, or use `--plugin off`",
        )
    return library


def _make_monitor(
    trt: ModuleType, progress: Callable[[str, float], None], interrupted: Callable[[], bool]
) -> tensorrt.IProgressMonitor:
    """Tells `progress` of the outermost part that has steps; ends the build on an interrupt."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._guard = threading.Lock()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with self._guard:
                if parent not in self._steps:
                    self._steps[phase] = steps
                    progress(phase, 0.0)

        def step_complete(self, phase: str, step: int) -> bool:
            with self._guard:
                if phase in self._steps:
                    progress(phase, min(1.0, (step + 1) / max(1, self._steps[phase])))
            return not interrupted()

        def phase_finish(self, phase: str) -> None:
            with self._guard:
                if self._steps.pop(phase, None) is not None:
                    progress(phase, 1.0)

    return Monitor()


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns an interrupt into a flag that TensorRT is shown at its next step.

    Raised inside its callbacks, KeyboardInterrupt would cross C++ code and end the process.
    """
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        pressed.set()

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
