"""ONNX Runtime's CUDA provider, from the package `onnxruntime-gpu`: a chain with nothing to build.

Each session of the chain has ONNX Runtime sessions of its own, because the provider takes the
stream to work on when a session is made; weights are therefore in device memory once per session.
ONNX Runtime brings its own activation memory, and its runs cannot be captured into a caller's CUDA
graph; it can capture each graph itself (`cuda_graph`). Float32 is float32: the provider's TF32,
which would cost accuracy, is off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
from msgspec import Meta, Struct

from garment_transfer.bundle import STAGES, BackendError, Bundle, Code, InputError, Signature
from garment_transfer.kernels import has_cuda_kernels, onnxruntime_library, photos
from garment_transfer.kernels.driver import INSTALL
from garment_transfer.runtime.backends import Status, Threads, check_signature, onnxruntime as cpu
from garment_transfer.runtime.cuda import Chain, CudaDevice

if TYPE_CHECKING:
    import onnxruntime

NAME: Final = "onnxruntime-cuda"

_PROVIDER: Final = "CUDAExecutionProvider"
_INSTALL: Final = 'pip install "garment-transfer[gpu]"'


class Options(Struct, frozen=True, kw_only=True):
    """How ONNX Runtime runs a bundle on a GPU.

    `device` is CUDA's number of the GPU; `sessions` how many transfers may be under way at once at
    most, each with buffers of its own; `threads` those of each graph for what runs on the host.

    With `cuda_graph` ONNX Runtime replays each of the three graphs as a CUDA graph of its own. It
    captures them anew in every thread that runs them, and disturbs what other threads do on the GPU
    meanwhile: there is one session then, for which threads wait. All nodes have to run on the GPU.
    An ONNX Runtime from before June 2026 ends every replay with a wait.
    """

    device: Annotated[int, Meta(ge=0)] = 0
    sessions: Annotated[int, Meta(ge=1)] = 8
    threads: Threads | None = None
    cuda_graph: bool = False


class OnnxRuntimeContext:
    """A graph in an ONNX Runtime session of its own, on one stream, for one batch size."""

    #: The session allocates activations itself, at its first run.
    activation_bytes = 0
    #: The process would end.
    capturable = False

    def __init__(
        self, session: onnxruntime.InferenceSession, engine: OnnxRuntimeEngine, batch: int
    ) -> None:
        import onnxruntime

        self._session = session
        self._engine = engine
        self._batch = batch
        self._binding = session.io_binding()
        self._options = onnxruntime.RunOptions()
        # a run would otherwise end by waiting for the GPU
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, addresses: Mapping[str, int], activation: int) -> None:
        """Binds inputs and outputs to memory; done once."""
        engine = self._engine
        for tensors, bind in (
            (engine.signature.inputs, self._binding.bind_input),
            (engine.signature.outputs, self._binding.bind_output),
        ):
            for tensor in tensors:
                bind(
                    tensor.name,
                    engine.memory,
                    engine.device,
                    np.dtype(tensor.dtype).type,
                    tensor.shape_of(self._batch),
                    addresses[tensor.name],
                )

    def enqueue(self) -> None:
        """Queues the graph; BackendError when ONNX Runtime refuses."""
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:
            raise BackendError(
                Code.RUN_FAILED,
                f"ONNX Runtime failed to run {self._engine.path} on a batch of {self._batch}: "
                f"{cpu.first_line(error)}",
                fix="if the GPU's memory is short, use a smaller batch or fewer sessions "
                "(`sessions=`)",
            ) from error

    def profile(self, report: Callable[[str, float], None]) -> None:
        """ONNX Runtime reports no layers to a caller while it runs on the caller's stream."""

    def close(self) -> None:
        """Ends the ONNX Runtime session, before its stream ends."""
        del self._binding, self._session


@dataclass(frozen=True, eq=False)
class OnnxRuntimeEngine:
    """A graph's bytes; every context loads them into a session of its own.

    `provider` and `memory` are ONNX Runtime's names of what runs it and of where tensors lie.
    """

    path: Path
    content: bytes
    signature: Signature
    device: int = 0
    threads: int | None = None
    provider: str = _PROVIDER
    memory: str = "cuda"
    cuda_graph: bool = False

    def check_batch(self, batch: int) -> None:
        """Raises InputError for an empty batch; any other will do."""
        if batch < 1:
            raise InputError(
                Code.BATCH_INVALID, f"the batch has {batch} pairs", expected="1 or more"
            )

    def context(self, batch: int, stream: int) -> OnnxRuntimeContext:
        """A session on the stream. BackendError when ONNX Runtime does not make one."""
        import onnxruntime

        options = cpu.session_options(self.threads)
        library = onnxruntime_library()
        provider: str | tuple[str, dict[str, str]] = self.provider
        if self.provider == _PROVIDER:
            provider = (
                self.provider,
                {
                    "device_id": str(self.device),
                    "has_user_compute_stream": "1",
                    "user_compute_stream": str(stream),
                    "use_tf32": "0",
                    "enable_cuda_graph": str(int(self.cuda_graph)),
                    # doubling would take far more than the graphs need, once per session
                    "arena_extend_strategy": "kSameAsRequested",
                },
            )
        # With the CPU's kernel alone FlowWarp would leave the GPU; its body need not.
        if self.provider != _PROVIDER or (library is not None and has_cuda_kernels(library)):
            cpu.register_kernels(options)
        try:
            session = onnxruntime.InferenceSession(
                self.content, sess_options=options, providers=[provider]
            )
        except Exception as error:
            raise BackendError(
                Code.GRAPH_REJECTED,
                f"ONNX Runtime {onnxruntime.__version__} does not load {self.path} for "
                f"{self.provider}: {cpu.first_line(error)}",
                fix="if the GPU's memory is short, use fewer sessions (`sessions=`), otherwise "
                f"run `{_INSTALL}`",
            ) from error
        # it falls back to the CPU without an error
        if self.provider not in session.get_providers():
            raise BackendError(
                Code.BACKEND_UNAVAILABLE,
                f"ONNX Runtime {onnxruntime.__version__} cannot start its {self.provider} here: "
                "the libraries of CUDA or cuDNN that it was built for are missing",
                fix=f"run `{_INSTALL}`",
            )
        check_signature(self.path, self.signature, cpu.signature_of(session))
        return OnnxRuntimeContext(session, self, batch)


def load(bundle: Bundle, precision: str | None, options: Options) -> Chain:
    """A chain over the bundle's graphs.

    Raises:
        BackendError: the backend cannot run here.
        BundleError: the bundle has no graphs of that precision, or one changed.
    """
    graphs = bundle.manifest.graphs_of(precision)
    _version()
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        # finds the libraries of NVIDIA's packages, which are not where the loader looks
        onnxruntime.preload_dlls()
    device = CudaDevice(options.device)
    engines = {
        stage: OnnxRuntimeEngine(
            bundle.graph_path(stage, precision),
            bundle.read_graph(stage, precision),
            graphs[stage].signature,
            options.device,
            options.threads,
            cuda_graph=options.cuda_graph,
        )
        for stage in STAGES
    }
    sessions = 1 if options.cuda_graph else options.sessions
    return Chain(device, engines, sessions=sessions, graphs=False, photos=photos.load_cuda())


def available() -> Status:
    """What runs here; whether the provider's libraries load shows at the first run.

    Raises:
        BackendError: there is no ONNX Runtime with the CUDA provider, or no GPU.
    """
    version = _version()
    try:
        device = CudaDevice()
    except BackendError as error:
        raise BackendError(
            error.code, error.what, fix=f"it needs an NVIDIA GPU with its driver, and `{INSTALL}`"
        ) from error
    library = onnxruntime_library()
    warp = "by its kernel" if library and has_cuda_kernels(library) else "by standard operators"
    return Status(
        NAME,
        available=True,
        version=version,
        details=f"{device.name}, compute capability {device.compute_capability}; FlowWarp {warp}",
    )


def _version() -> str | None:
    """The version of an ONNX Runtime that has the provider, be there a GPU or not."""
    version = cpu.available().version
    import onnxruntime

    if _PROVIDER not in onnxruntime.get_available_providers():
        raise BackendError(
            Code.BACKEND_UNAVAILABLE,
            f"the installed onnxruntime {version} has no {_PROVIDER}",
            fix=f"run `pip uninstall -y onnxruntime`, then `{_INSTALL}`",
        )
    return version
