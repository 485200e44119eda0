"""TensorRT engines from a bundle's graphs, by TensorRT or TensorRT-RTX.

One builder over the API that both backends share. Networks are strongly typed: the precision is
the graph's. TensorRT builds on the GPU that the engines are for; TensorRT-RTX needs none, and its
engines run on several.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from garment_transfer.bundle import (
    DEFAULT_OPTIMIZATION_LEVEL,
    ENGINE_BACKENDS,
    ENGINES,
    MANIFEST,
    RECORD_VERSION,
    RTX_COMPUTE_CAPABILITIES,
    STAGES,
    BackendError,
    Batch,
    Bundle,
    EngineError,
    EngineRecord,
    EngineSet,
    Graph,
    OutputError,
    Plugin,
    PluginChoice,
    StageEngine,
    build_command,
    cache_folder,
    engine_folder,
    must_be_copied,
    replacing,
    replacing_folder,
    sha256_of,
    write_record,
)
from garment_transfer.kernels import tensorrt_library
from garment_transfer.runtime.backends.tensorrt import TensorRTBackend
from garment_transfer.runtime.cuda import CudaDevice

PLUGIN_NAME: Final = "FlowWarp"
PLUGIN_VERSION: Final = "1"

#: Gets the stage, the part of its build that runs, and how much of that is done, 0 to 1.
Progress = Callable[[str, str, float], None]


def build_engines(
    bundle: Bundle,
    backend: str,
    precision: str = "float32",
    *,
    batch: Batch | None = None,
    optimization_level: int = DEFAULT_OPTIMIZATION_LEVEL,
    plugin: PluginChoice = "auto",
    device: int = 0,
    progress: Progress = lambda stage, part, done: None,
) -> EngineSet:
    """Build one engine per stage and put them into the bundle, all of them or nothing.

    EngineSet of the same backend, GPU and precision are replaced. An interrupt ends the build at
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
    if backend not in ENGINE_BACKENDS:
        raise EngineError(f"unknown backend {backend!r}; available: {', '.join(ENGINE_BACKENDS)}")
    if not 0 <= optimization_level <= 5:
        raise EngineError(f"optimization level {optimization_level}; expected 0 to 5")
    if must_be_copied(bundle.path):
        command = build_command(bundle.path, backend, precision)
        raise EngineError(
            f"{bundle.path} may not be changed, since it is part of the package or read-only: "
            f"have it copied first, as `{command}` does"
        )
    graphs = bundle.manifest.graphs_of(precision)
    trt = TensorRTBackend(backend).module()
    builder = _Builder(trt, backend, batch or Batch(), optimization_level, device)
    library = _plugin_library(backend, plugin)
    folder = bundle.path / ENGINES / engine_folder(backend, builder.targets, precision)
    with _writing(folder) as temporary, _interruptible() as interrupted:
        stages = {}
        embed = plugin == "embed"
        plugins = 0
        for stage in STAGES:
            start = time.perf_counter()
            built = builder.build(
                stage,
                bundle.graph_path(stage, precision),
                graphs[stage],
                library,
                embed,
                functools.partial(progress, stage),
                interrupted,
            )
            plugins += built.plugins
            (temporary / f"{stage}.plan").write_bytes(built.plan)
            if built.layers is not None:
                (temporary / f"{stage}.layers.json").write_text(built.layers, encoding="utf-8")
            stages[stage] = StageEngine(
                file=f"{stage}.plan",
                bytes=len(built.plan),
                sha256=hashlib.sha256(built.plan).hexdigest(),
                onnx_sha256=graphs[stage].sha256,
                inputs=graphs[stage].inputs,
                outputs=graphs[stage].outputs,
                build_seconds=round(time.perf_counter() - start, 3),
                device_memory_bytes=built.device_memory,
            )
        record = EngineRecord(
            schema_version=RECORD_VERSION,
            backend=backend,
            backend_version=trt.__version__,
            compute_capabilities=builder.targets,
            precision=precision,
            batch=builder.batch,
            optimization_level=optimization_level,
            plugin=(
                Plugin(PLUGIN_NAME, PLUGIN_VERSION, sha256_of(library), embed)
                if library is not None and plugins
                else None
            ),
            bundle=bundle.manifest.name,
            built=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            stages=stages,
        )
        write_record(temporary, record)
    return EngineSet(bundle, folder, record)


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
                f"{output} exists and is not a copy of {bundle.path}: choose another --output"
            )
        return Bundle.load(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error
    try:
        temporary.chmod(0o755)
        # contents alone: the permissions of a read-only bundle are not for its copy
        shutil.copytree(bundle.path, temporary, dirs_exist_ok=True, copy_function=shutil.copyfile)
        for folder in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        os.replace(temporary, output)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle.load(output)


class _Built:
    """What a stage's build gave."""

    def __init__(self, plan: bytes, plugins: int) -> None:
        self.plan = plan
        self.plugins = plugins
        self.layers: str | None = None
        self.device_memory: int | None = None


class _Builder:
    """A backend with its options, and the GPUs that its engines are for."""

    def __init__(
        self, trt: Any, backend: str, batch: Batch, optimization_level: int, device: int
    ) -> None:
        self._trt = trt
        self._flavour = backend
        self.batch = batch
        self._level = optimization_level
        self._device: CudaDevice | None = None
        if backend == "tensorrt":
            try:
                self._device = CudaDevice(device)
            except BackendError as error:
                raise BackendError(
                    "TensorRT builds engines on the GPU that they are for, and "
                    f"{error}; run the same command on the machine that is to run them, or build "
                    "with `--backend tensorrt-rtx`, which needs no GPU"
                ) from error
            self.targets: tuple[str, ...] = (self._device.compute_capability,)
        else:
            known = trt.ComputeCapability.__members__
            names = {target: "SM" + target.replace(".", "") for target in RTX_COMPUTE_CAPABILITIES}
            self._capabilities = {t: known[name] for t, name in names.items() if name in known}
            self.targets = tuple(self._capabilities)

    def build(
        self,
        stage: str,
        path: Path,
        graph: Graph,
        library: Path | None,
        embed: bool,
        progress: Callable[[str, float], None],
        interrupted: Callable[[], bool],
    ) -> _Built:
        """One stage's engine; EngineError with what TensorRT logged."""
        with self._device.active() if self._device else contextlib.nullcontext():
            logger = make_logger(self._trt)
            builder = self._trt.Builder(logger)
            if library is not None:
                load_plugin(self._trt, library, logger)
            network, plugins = parse(
                self._trt, builder, logger, path, graph, plugin=library is not None
            )
            config = self._configure(builder, network, library if embed else None)
            monitor = _make_monitor(self._trt, progress, interrupted)
            config.progress_monitor = monitor
            cache = self._load_timing_cache(config)
            plan = builder.build_serialized_network(network, config)
            if interrupted():
                raise KeyboardInterrupt
            if plan is None:
                raise EngineError(
                    f"{self._flavour} {self._trt.__version__} builds no engine of {path}: "
                    f"{said(logger)}; a lower --optimization-level or a smaller --batch needs less "
                    "memory"
                )
            if cache is not None:
                self._save_timing_cache(cache, config)
            built = _Built(bytes(plan), plugins)
            self._inspect(built, logger, embed)
            return built

    def _configure(self, builder: Any, network: Any, embedded: Path | None) -> Any:
        trt = self._trt
        config = builder.create_builder_config()
        config.builder_optimization_level = self._level
        # TF32 would round float32 products to 11 bits, and so FlowWarp's coordinates
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if self._flavour == "tensorrt-rtx":
            config.num_compute_capabilities = len(self.targets)
            for index, target in enumerate(self.targets):
                config.set_compute_capability(self._capabilities[target], index)
        if embedded is not None:
            # libraries travel in version-compatible engines alone
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            config.plugins_to_serialize = [str(embedded)]
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

    def _load_timing_cache(self, config: Any) -> Path | None:
        """Start from the timings of earlier builds with this version on such a GPU."""
        path = self._timing_cache_path()
        if path is None:
            return None
        known = path.read_bytes() if path.is_file() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
        return path

    def _save_timing_cache(self, path: Path, config: Any) -> None:
        cache = config.get_timing_cache()
        # it saves time, and no build is lost for it
        with contextlib.suppress(OSError, OutputError):
            if path.is_file():  # another build may have saved its own meanwhile
                cache.combine(config.create_timing_cache(path.read_bytes()), False)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(bytes(cache.serialize()))

    def _inspect(self, built: _Built, logger: Any, embed: bool) -> None:
        """Layers and memory of an engine, where it can be loaded: that takes a GPU it is for."""
        trt, device = self._trt, self._device
        if device is None:
            try:
                device = CudaDevice()
            except BackendError:
                return
        if device.compute_capability not in self.targets:
            return
        with device.active():
            runtime = trt.Runtime(logger)
            runtime.engine_host_code_allowed = embed
            engine = runtime.deserialize_cuda_engine(built.plan)
            if engine is None:
                raise EngineError(
                    f"{self._flavour} does not load the engine that it has built: {said(logger)}"
                )
            inspector = engine.create_engine_inspector()
            built.layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
            built.device_memory = int(engine.device_memory_size_v2)


def parse(
    trt: Any, builder: Any, logger: Any, path: Path, graph: Graph, *, plugin: bool = False
) -> tuple[Any, int]:
    """The strongly typed network of an ONNX file, and how many of its layers are the plugin's.

    Raises:
        EngineError: TensorRT does not take the file, or with other inputs and outputs than
            `graph` has, or does not put the plugin in the place of FlowWarp.
    """
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if plugin:
        override = getattr(trt.OnnxParserFlag, "ENABLE_PLUGIN_OVERRIDE", None)
        if override is None:
            raise EngineError(
                f"TensorRT {trt.__version__} does not put a plugin in the place of an ONNX "
                "function, which 10.16 and later do; upgrade it, or use `--plugin off`"
            )
        parser.set_flag(override)
    if not parser.parse(path.read_bytes(), str(path)):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(
            f"TensorRT {trt.__version__} does not take {path}: "
            f"{' | '.join(error.strip() for error in errors) or said(logger)}; export the bundle "
            "anew with `garment-transfer export CHECKPOINT -o BUNDLE`"
        )
    _check_signature(trt, network, path, graph)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    plugins = sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers)
    if plugin and not plugins and any(layer.type == trt.LayerType.GRID_SAMPLE for layer in layers):
        raise EngineError(
            f"TensorRT {trt.__version__} built FlowWarp's body in {path}, though its plugin is "
            f"loaded: {said(logger)}; use `--plugin off`"
        )
    return network, plugins


def make_logger(trt: Any) -> Any:
    """A logger of TensorRT that keeps messages: `messages`, of (severity, text)."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: deque[tuple[Any, str]] = deque(maxlen=20_000)

        def log(self, severity: Any, message: str) -> None:
            self.messages.append((severity, message))

    return Logger()


def said(logger: Any) -> str:
    """The errors that TensorRT logged, in a line."""
    severity = type(logger).Severity
    errors = [
        message.strip()
        for level, message in logger.messages
        if level in (severity.ERROR, severity.INTERNAL_ERROR)
    ]
    return " | ".join(errors[-5:]) or "it says no more"


def _plugin_library(backend: str, plugin: PluginChoice) -> Path | None:
    """The plugin library to build with; None for the function body."""
    if backend == "tensorrt-rtx":
        if plugin == "embed":
            raise EngineError(
                "TensorRT-RTX takes no plugins: build without `--plugin embed`, or with "
                "`--backend tensorrt`"
            )
        return None
    library = tensorrt_library() if plugin != "off" else None
    if plugin == "embed" and library is None:
        raise EngineError(
            "--plugin embed: FlowWarp's plugin is not built; install garment-transfer anew where "
            "TensorRT_ROOT names TensorRT's headers and there is nvcc, or use `--plugin off`"
        )
    return library


def load_plugin(trt: Any, library: Path, logger: Any) -> None:
    """Make FlowWarp's plugin known to TensorRT; EngineError where its library does not load."""
    registry = trt.get_plugin_registry()
    # a second load of one library is refused, since its creator is there
    if registry.get_creator(PLUGIN_NAME, PLUGIN_VERSION, "") is not None:
        return
    if registry.load_library(str(library)) is None:
        raise EngineError(
            f"TensorRT {trt.__version__} does not load FlowWarp's plugin {library}: "
            f"{said(logger)}; it fits the major version whose headers it was built with: install "
            "garment-transfer anew where TensorRT_ROOT names this one's, or use `--plugin off`"
        )


def _check_signature(trt: Any, network: Any, path: Path, graph: Graph) -> None:
    names = {trt.DataType.UINT8: "uint8", trt.DataType.FLOAT: "float32"}
    for kind, due, count, get in (
        ("inputs", graph.inputs, network.num_inputs, network.get_input),
        ("outputs", graph.outputs, network.num_outputs, network.get_output),
    ):
        tensors = [get(index) for index in range(count)]
        found = [
            (tensor.name, names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)[1:])
            for tensor in tensors
        ]
        if found != [(tensor.name, tensor.dtype, tensor.shape[1:]) for tensor in due]:
            raise EngineError(
                f"TensorRT finds the {kind} {found} in {path}; expected "
                f"({', '.join(map(str, due))})"
            )


def _make_monitor(
    trt: Any, progress: Callable[[str, float], None], interrupted: Callable[[], bool]
) -> Any:
    """Tells `progress` of the outermost part that has steps; ends the build on an interrupt."""

    class Monitor(trt.IProgressMonitor):
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


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """`replacing_folder` for engines: what cannot be written in the block is an OutputError too."""
    try:
        with replacing_folder(folder) as temporary:
            yield temporary
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # where this build made it and put nothing there
