"""TensorRT and TensorRT-RTX: engines that `garment-transfer build` added to the bundle.

One backend for both backends, over the API that they share. EngineSet are found, compared with the
bundle, the versions and the GPU, and read with their hashes checked before TensorRT sees a byte,
since a plan is code.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from garment_transfer.bundle import (
    MANIFEST,
    RTX_COMPUTE_CAPABILITIES,
    STAGES,
    BackendError,
    Bundle,
    EngineError,
    EngineSet,
    Plugin,
    Tensor,
    cache_folder,
    find_engines,
    list_engines,
    must_be_copied,
    sha256_of,
)
from garment_transfer.kernels import tensorrt_library
from garment_transfer.runtime.backends import DeviceOptions, Status
from garment_transfer.runtime.cuda import Chain, CudaDevice, Device

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

_log = logging.getLogger(__name__)


class TensorRTContext:
    """An execution context on one stream, for one batch size; its memory is given to it."""

    def __init__(self, owner: TensorRTEngine, context: Any, batch: int, stream: int) -> None:
        self._owner = owner
        self._context = context
        self._stream = stream
        owner.require(
            context.set_optimization_profile_async(0, stream), "take its optimisation profile"
        )
        for tensor in owner.inputs:
            shape = tuple(batch if isinstance(size, str) else size for size in tensor.shape)
            owner.require(context.set_input_shape(tensor.name, shape), f"take {tensor} as {shape}")
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
        for tensor in (*self._owner.inputs, *self._owner.outputs):
            bound = self._context.set_tensor_address(tensor.name, addresses[tensor.name])
            self._owner.require(bound, f"take an address for {tensor}")
        if self.activation_bytes:
            self._context.set_device_memory(activation, self.activation_bytes)

    def enqueue(self) -> None:
        """Queues the engine; BackendError when TensorRT refuses."""
        if not self._context.execute_async_v3(self._stream):
            self._owner.require(False, "run")

    def profile(self, report: Callable[[str, float], None]) -> None:
        """From now on `report` gets name and milliseconds of every layer, and runs wait for it."""
        trt = self._owner._trt

        class Profiler(trt.IProfiler):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                report(layer_name, ms)

        self._profiler = Profiler()  # the context does not keep it alive
        self._context.profiler = self._profiler

    def close(self) -> None:
        """Ends the context, before its memory and its stream."""
        self._context = None


class TensorRTEngine:
    """An engine of a bundle, deserialised."""

    def __init__(self, trt: Any, runtime: Any, engines: EngineSet, stage: str, plan: bytes) -> None:
        """From bytes whose hash was checked. EngineError when TensorRT does not take them."""
        self._trt = trt
        self._runtime = runtime  # outlives the engine
        self._logger = _logger(trt)
        self._engines = engines
        self._stage = stage
        self._record = engines.record.stages[stage]
        self._guard = threading.Lock()
        self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{engines.record.backend} {trt.__version__} does not load "
                f"{engines.path / self._record.file}: {_said(self._logger)}; run "
                f"`{engines.build_command}`"
            )
        self._check_tensors()
        self._config = self._runtime_config()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the engine takes."""
        return self._record.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What the engine gives."""
        return self._record.outputs

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
                f"{record.backend} {record.backend_version} cannot {what} in the {self._stage} "
                f"engine of {self._engines.path}: {_said(self._logger)}; if the GPU's memory is "
                "short, use a smaller batch or fewer sessions (`sessions=`), otherwise run "
                f"`{self._engines.build_command}`"
            )

    def _check_tensors(self) -> None:
        """EngineError unless the engine has the record's tensors."""
        trt, engine = self._trt, self._engine
        types = {trt.DataType.UINT8: "uint8", trt.DataType.FLOAT: "float32"}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {
            (
                name,
                types.get(engine.get_tensor_dtype(name)),
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            )
            for name in names
        }
        due = {(tensor.name, tensor.dtype, True) for tensor in self.inputs}
        due |= {(tensor.name, tensor.dtype, False) for tensor in self.outputs}
        if found != due:
            raise EngineError(
                f"{self._engines.path / self._record.file} has the tensors {', '.join(names)}, and "
                f"its record says ({', '.join(map(str, self.inputs))}) and "
                f"({', '.join(map(str, self.outputs))}); run `{self._engines.build_command}`"
            )

    def _runtime_config(self) -> Any:
        """What contexts are made with: memory that the chain shares among them."""
        trt = self._trt
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


class TensorRTBackend:
    """The backend of a backend, "tensorrt" or "tensorrt-rtx"."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def load(self, bundle: Bundle, options: DeviceOptions) -> Chain:
        """A chain over the bundle's engines for this GPU.

        Raises BackendError when the backend cannot run here, EngineError when there are no
        engines that fit; with `rebuild_if_needed` these are built.
        """
        trt = self.module()
        device = CudaDevice(options.device)
        precision = options.precision or bundle.manifest.precision
        library = tensorrt_library()
        try:
            engines, plans = self.verified(bundle, precision, device, library)
        except EngineError as error:
            if not options.rebuild_if_needed:
                raise
            _log.warning("%s: building them now", error)
            engines, plans = self.rebuilt(bundle, precision, device, library)
        plugin = engines.record.plugin
        with device.active():
            if plugin is not None and not plugin.embedded:
                _load_plugin(trt, plugin, str(library))
            runtime = trt.Runtime(_logger(trt))
            # only what was checked against a record that asks for it
            runtime.engine_host_code_allowed = plugin is not None and plugin.embedded
            loaded = {
                stage: TensorRTEngine(trt, runtime, engines, stage, plan)
                for stage, plan in plans.items()
            }
        return Chain(device, loaded, sessions=options.sessions, graphs=options.graphs)

    def status(self) -> Status:
        """Whether the backend can run here."""
        try:
            trt = self.module()
            device = CudaDevice()
        except BackendError as error:
            reason, _, remedy = str(error).partition("; ")
            return Status(self.backend, available=False, reason=reason, remedy=remedy)
        warp = "takes no plugins"
        if self.backend == "tensorrt":
            built = tensorrt_library() is not None
            warp = f"FlowWarp's plugin is {'there' if built else 'not built'}"
        elif device.compute_capability not in RTX_COMPUTE_CAPABILITIES:
            return Status(
                self.backend,
                available=False,
                reason=f"TensorRT-RTX does not run on {device.name}, whose compute capability "
                f"{device.compute_capability} is none of {', '.join(RTX_COMPUTE_CAPABILITIES)}",
                remedy="use the backend tensorrt or onnxruntime-cuda",
            )
        return Status(
            self.backend,
            available=True,
            version=trt.__version__,
            details=f"{device.name}, compute capability {device.compute_capability}; {warp}",
        )

    def module(self) -> Any:
        """The backend's Python module; BackendError where it is not installed."""
        failures = []
        for name in MODULES[self.backend]:
            try:
                return importlib.import_module(name)
            except ImportError as error:
                failures.append(str(error))
            except (OSError, RuntimeError) as error:  # its library does not load
                failures.append(f"{name} does not load: {error}")
        raise BackendError(
            f"{self.backend} is not installed ({', '.join(failures)}); run "
            f"`{_INSTALL[self.backend]}`"
        )

    def verified(
        self, bundle: Bundle, precision: str, device: Device, library: Path | None
    ) -> tuple[EngineSet, dict[str, bytes]]:
        """EngineSet that can run on the device, and their bytes by stage.

        EngineError says what differs and names the command that mends it. `library` is FlowWarp's
        plugin, where there is one.
        """
        engines = find_engines(bundle, self.backend, precision, device.compute_capability)
        engines.check(self.module().__version__, device.compute_capability, library)
        return engines, {stage: engines.read_plan(stage) for stage in STAGES}

    def rebuilt(
        self, bundle: Bundle, precision: str, device: Device, library: Path | None
    ) -> tuple[EngineSet, dict[str, bytes]]:
        """As `verified`, of engines built now, with the options of those that did not fit.

        A bundle that may not be changed, as the package's own, is copied into the user's cache
        (`XDG_CACHE_HOME`) first, and built there once.
        """
        # the runtime does without, unless it is asked for
        from garment_transfer.export.tensorrt import build_engines, copy_bundle

        if must_be_copied(bundle.path):
            bundle = copy_bundle(bundle, _copy_of(bundle))
            with contextlib.suppress(EngineError):
                return self.verified(bundle, precision, device, library)
        build_engines(
            bundle,
            self.backend,
            precision,
            device=device.index,
            **self._earlier_options(bundle, precision),
        )
        return self.verified(bundle, precision, device, library)

    def _earlier_options(self, bundle: Bundle, precision: str) -> dict[str, Any]:
        """With what the bundle's engines of that precision were built; nothing without any."""
        with contextlib.suppress(EngineError):
            for engines in list_engines(bundle):
                record = engines.record
                if (record.backend, record.precision) == (self.backend, precision):
                    plugin = record.plugin
                    return {
                        "batch": record.batch,
                        "optimization_level": record.optimization_level,
                        "plugin": "embed" if plugin is not None and plugin.embedded else "auto",
                    }
        return {}


def _copy_of(bundle: Bundle) -> Path:
    """Where the copy of a bundle lies that engines are added to."""
    content = sha256_of(bundle.path / MANIFEST)[:12]
    return cache_folder() / "bundles" / f"{bundle.manifest.name}-{content}"


def _load_plugin(trt: Any, plugin: Plugin, library: str) -> None:
    registry = trt.get_plugin_registry()
    # one library is not taken twice in a process
    known = registry.get_creator(plugin.name, plugin.version, "") is not None
    if not known and registry.load_library(library) is None:
        raise BackendError(
            f"TensorRT does not load FlowWarp's plugin {library}: {_said(_logger(trt))}; install "
            "garment-transfer anew where TensorRT_ROOT names the headers of this version"
        )


@cache
def _logger(trt: Any) -> Any:
    """TensorRT's messages as Python's logging has them; the last errors are kept for ours."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=2)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.errors.append(message)
            _log.log(level, "%s", message)

    return Logger()


def _said(logger: Any) -> str:
    """What TensorRT last complained of."""
    said = " | ".join(logger.errors) or "it says no more"
    logger.errors.clear()
    return said
