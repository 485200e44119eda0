"""TensorRT and TensorRT-RTX: engines that `garment-transfer build` added to the bundle.

Both run over the API that they share. Engines are found, compared with the bundle, the versions
and the GPU, and read with their hashes checked before TensorRT sees a byte, since a plan is code.
"""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from garment_transfer.bundle import (
    RTX_COMPUTE_CAPABILITIES,
    STAGES,
    BackendError,
    Bundle,
    Code,
    EngineBackend,
    EngineError,
    EngineSet,
    Plugin,
    Signature,
    Stage,
    Tensor,
    differences,
    find_engines,
)
from garment_transfer.kernels import photos, tensorrt_library
from garment_transfer.runtime.backends import Backend, Status
from garment_transfer.runtime.cuda import Chain, CudaDevice

if TYPE_CHECKING:
    import tensorrt

#: The Python modules of each backend, the first that imports is used. TensorRT-RTX's packages on
#: PyPI have the bindings alone.
MODULES: Final = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}

_INSTALL: Final = {
    "tensorrt": 'pip install "garment-transfer[tensorrt]"',
    "tensorrt-rtx": 'pip install "garment-transfer[rtx]"',
}

#: A process has one logger for TensorRT: the first that any library gives it.
_NO_REASON: Final = "TensorRT gives no reason, or gives it to another library's logger"

_LOG: Final = logging.getLogger(__name__)


class Options(Struct, frozen=True, kw_only=True):
    """How TensorRT runs a bundle's engines.

    `device` is CUDA's number of the GPU; `sessions` how many transfers may be under way at once at
    most, each with buffers of its own for one batch size; with `graphs` a transfer is replayed as
    one CUDA graph where the engines can be captured.
    """

    device: Annotated[int, Meta(ge=0)] = 0
    sessions: Annotated[int, Meta(ge=1)] = 8
    graphs: bool = True


def backend_of(name: EngineBackend) -> Backend:
    """The backend of that name."""
    return Backend(name, Options, functools.partial(available, name), functools.partial(load, name))


def load(name: EngineBackend, bundle: Bundle, precision: str | None, options: Options) -> Chain:
    """A chain over the bundle's engines for this GPU.

    Raises:
        BackendError: the backend cannot run here.
        EngineError: there are no engines that fit; says what differs and the command that builds
            engines that do.
    """
    trt = tensorrt_module(name)
    device = CudaDevice(options.device)
    engines = engines_here(name, bundle, precision, device)
    plans = {stage: engines.read_plan(stage) for stage in STAGES}
    plugin = engines.record.plugin
    with device.active():
        if plugin is not None and not plugin.embedded:
            load_plugin(trt, tensorrt_library(), plugin)
        runtime = trt.Runtime(logger_of(trt))
        # only what was checked against a record that asks for it
        runtime.engine_host_code_allowed = plugin is not None and plugin.embedded
        loaded = {
            stage: TensorRTEngine(trt, runtime, engines, stage, plan)
            for stage, plan in plans.items()
        }
    return Chain(
        device, loaded, sessions=options.sessions, graphs=options.graphs, photos=photos.load_cuda()
    )


def engines_here(
    name: EngineBackend, bundle: Bundle, precision: str | None, device: CudaDevice | None = None
) -> EngineSet:
    """The bundle's engines that can run on a device with the installed version.

    Raises:
        BackendError: TensorRT or the GPU is missing.
        EngineError: there are none; says what differs and the command that builds them.
    """
    version = tensorrt_module(name).__version__
    device = device or CudaDevice()
    engines = find_engines(
        bundle, name, precision or bundle.manifest.precision, device.compute_capability
    )
    engines.check(version, device.compute_capability, tensorrt_library())
    return engines


def available(name: EngineBackend) -> Status:
    """What runs here. Raises BackendError without TensorRT, or a GPU that it takes."""
    trt = tensorrt_module(name)
    device = CudaDevice()
    plugin = "takes no plugins"
    if name == "tensorrt":
        built = tensorrt_library() is not None
        plugin = f"FlowWarp's plugin is {'there' if built else 'not built'}"
    elif device.compute_capability not in RTX_COMPUTE_CAPABILITIES:
        raise BackendError(
            Code.BACKEND_UNAVAILABLE,
            f"TensorRT-RTX does not run on {device.name}, whose compute capability "
            f"{device.compute_capability} is none of {', '.join(RTX_COMPUTE_CAPABILITIES)}",
            fix="use the backend tensorrt or onnxruntime-cuda",
        )
    return Status(
        name,
        available=True,
        version=trt.__version__,
        details=f"{device.name}, compute capability {device.compute_capability}; {plugin}",
    )


def tensorrt_module(name: EngineBackend) -> ModuleType:
    """The Python module of TensorRT or TensorRT-RTX; BackendError where it is not installed."""
    failures = []
    for module in MODULES[name]:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            failures.append(str(error))
        # Its library does not load, or it is half removed and raises whatever it meets first.
        except Exception as error:
            failures.append(f"{module} does not load: {error}")
    raise BackendError(
        Code.BACKEND_UNAVAILABLE,
        f"{name} is not installed ({', '.join(failures)})",
        fix=f"run `{_INSTALL[name]}`",
    )


def load_plugin(trt: ModuleType, library: Path | None, plugin: Plugin) -> None:
    """Makes FlowWarp's plugin known to TensorRT; BackendError where its library does not load."""
    registry = trt.get_plugin_registry()
    # one library is not taken twice in a process
    if registry.get_creator(plugin.name, plugin.version, "") is not None:
        return
    if library is None or registry.load_library(str(library)) is None:
        raise BackendError(
            Code.PLUGIN_MISSING,
            f"TensorRT {trt.__version__} does not load FlowWarp's plugin {library}: "
            f"{take_errors(trt)}",
            fix="it fits the major version whose headers it was built with: install "
            "garment-transfer again where TensorRT_ROOT names this one's, or build engines with "
            "`--plugin off`",
        )


def tensor_of(trt: ModuleType, name: str, dtype: tensorrt.DataType, shape: tensorrt.Dims) -> Tensor:
    """A tensor as TensorRT describes it; sizes that it leaves open are negative."""
    names = {trt.DataType.UINT8: "uint8", trt.DataType.FLOAT: "float32"}
    return Tensor(name, names.get(dtype, str(dtype)), tuple(shape))


@functools.cache
def logger_of(trt: ModuleType) -> tensorrt.ILogger:
    """The one logger of a process: Python's logging gets the messages, `take_errors` the errors.

    TensorRT takes one logger for all of a process's builders and runtimes.
    """
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.INFO,
    }

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=5)
            # by the thread that gathers its own, as `gathering_errors` says
            self.gathered: dict[int, deque[str]] = {}

        def log(self, severity: tensorrt.ILogger.Severity, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                for errors in (self.errors, *self.gathered.copy().values()):
                    errors.append(message.strip())
            _LOG.log(level, "%s", message)

    return Logger()


@contextmanager
def gathering_errors(trt: ModuleType) -> Iterator[deque[str]]:
    """The errors that are logged in the block, which `take_errors` of this thread gives too.

    None that was logged before is among them, and none is lost to other threads that take errors.
    What TensorRT's own threads log meanwhile, as those of a builder do, belongs to the block.
    """
    gathered, thread = logger_of(trt).gathered, threading.get_ident()
    gathered[thread] = deque(maxlen=5)
    try:
        yield gathered[thread]
    finally:
        del gathered[thread]


def take_errors(trt: ModuleType) -> str:
    """The last errors that TensorRT logged, in a line; they are forgotten then."""
    logger = logger_of(trt)
    errors = logger.gathered.get(threading.get_ident(), logger.errors)
    text = " | ".join(errors) or _NO_REASON
    errors.clear()
    return text


class TensorRTContext:
    """An execution context on one stream, for one batch size; its memory is given to it."""

    def __init__(
        self,
        owner: TensorRTEngine,
        context: tensorrt.IExecutionContext,
        batch: int,
        stream: int,
    ) -> None:
        self._owner = owner
        self._context = context
        self._stream = stream
        with owner.expected_to("take its optimisation profile"):
            done = context.set_optimization_profile_async(0, stream)
        owner.require(done, "take its optimisation profile")
        for tensor in owner.signature.inputs:
            shape = tensor.shape_of(batch)
            owner.require(context.set_input_shape(tensor.name, shape), f"take {tensor} as {shape}")
        with owner.expected_to("infer its shapes"):
            unknown = context.infer_shapes()
        owner.require(not unknown, f"infer the shapes of {', '.join(unknown)}")
        self.activation_bytes = int(context.update_device_memory_size_for_shapes())

    @property
    def capturable(self) -> bool:
        """TensorRT's contexts are, once they have run; TensorRT-RTX says so of each."""
        # an engine without loops and conditions, as these graphs are, always is
        if not hasattr(self._context, "is_stream_capturable"):
            return True
        return bool(self._context.is_stream_capturable(self._stream))

    def bind(self, addresses: Mapping[str, int], activation: int) -> None:
        """Fixes addresses by name; done once."""
        for tensor in (*self._owner.signature.inputs, *self._owner.signature.outputs):
            bound = self._context.set_tensor_address(tensor.name, addresses[tensor.name])
            self._owner.require(bound, f"take an address for {tensor}")
        if self.activation_bytes:
            with self._owner.expected_to(f"take {self.activation_bytes} bytes of memory"):
                self._context.set_device_memory(activation, self.activation_bytes)

    def enqueue(self) -> None:
        """Queues the engine; BackendError when TensorRT refuses."""
        if not self._context.execute_async_v3(self._stream):
            self._owner.require(False, "run")

    def profile(self, report: Callable[[str, float], None]) -> None:
        """From now on `report` gets name and milliseconds of every layer, and runs wait for it."""
        trt = self._owner.trt

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                report(layer_name, ms)

        self._profiler = Profiler()  # the context does not keep it alive
        self._context.profiler = self._profiler

    def close(self) -> None:
        """Ends the context, before its memory and its stream."""
        del self._context


class TensorRTEngine:
    """An engine of a bundle, deserialised."""

    def __init__(
        self,
        trt: ModuleType,
        runtime: tensorrt.Runtime,
        engines: EngineSet,
        stage: Stage,
        plan: bytes,
    ) -> None:
        """From bytes whose hash was checked. EngineError when TensorRT does not take them."""
        self.trt = trt
        self._runtime = runtime  # outlives the engine
        self._engines = engines
        self._stage = stage
        self._guard = threading.Lock()
        self._engine = runtime.deserialize_cuda_engine(plan)
        file = engines.path / engines.record.stages[stage].file
        if self._engine is None:
            self._reject(f"{engines.record.backend} {trt.__version__} does not load {file}")
        if wrong := differences(self.signature, self._found()):
            self._reject(f"{file} is not the engine of its record: {wrong}")
        self._config = self._runtime_config()

    @property
    def signature(self) -> Signature:
        """What the engine takes and gives."""
        return self._engines.record.stages[self._stage].signature

    def check_batch(self, batch: int) -> None:
        """EngineError for a batch that the engine's profile does not have."""
        self._engines.check_batch(batch)

    def context(self, batch: int, stream: int) -> TensorRTContext:
        """An execution context without memory of its own."""
        with self._guard:
            context = self._engine.create_execution_context(self._config)
            self.require(context is not None, "make an execution context")
            return TensorRTContext(self, context, batch, stream)

    def require(self, done: bool, what: str) -> None:
        """BackendError, with what TensorRT logged, where a call of its API did not do its work."""
        if not done:
            record = self._engines.record
            raise BackendError(
                Code.RUN_FAILED,
                f"{record.backend} {record.backend_version} cannot {what} in the {self._stage} "
                f"engine of {self._engines.path}: {take_errors(self.trt)}",
                fix="if the GPU's memory is short, use a smaller batch or fewer sessions "
                f"(`sessions=`), otherwise run `{self._engines.build_command}`",
            )

    @contextmanager
    def expected_to(self, what: str) -> Iterator[None]:
        """As `require`, for calls that say by RuntimeError, or in the log alone, that they fail."""
        with gathering_errors(self.trt) as errors:
            try:
                yield
            except RuntimeError as error:
                errors.append(str(error))
            self.require(not errors, what)

    def _reject(self, what: str) -> None:
        raise EngineError(
            Code.ENGINE_REJECTED,
            f"{what}: {take_errors(self.trt)}",
            fix=f"run `{self._engines.build_command}`",
        )

    def _found(self) -> Signature:
        """What the engine itself says that it takes and gives."""
        engine, modes = self._engine, self.trt.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs, outputs = (
            tuple(
                tensor_of(
                    self.trt, name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name)
                )
                for name in names
                if engine.get_tensor_mode(name) == mode
            )
            for mode in (modes.INPUT, modes.OUTPUT)
        )
        return Signature(inputs, outputs)

    def _runtime_config(
        self,
    ) -> tensorrt.IRuntimeConfig | tensorrt.ExecutionContextAllocationStrategy:
        """What contexts are made with: memory that the chain shares among them."""
        trt = self.trt
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._engines.record.backend == "tensorrt":
            return strategy
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        # The whole chain is captured, not each engine. What a graph replays cannot be exchanged
        # for a better kernel later, so kernels for the shape are compiled at the first run.
        config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        # they are compiled once, not once per context
        self._cache = config.create_runtime_cache()
        config.set_runtime_cache(self._cache)
        return config
