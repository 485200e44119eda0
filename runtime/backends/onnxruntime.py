"""ONNX Runtime on the CPU, from the package `onnxruntime` or `onnxruntime-gpu`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from garment_transfer.bundle import BackendError, Graph, Tensor, installed_versions
from garment_transfer.kernels import onnxruntime_library
from garment_transfer.runtime.backends import Status, check_signature

#: Packages that each install the module `onnxruntime`; two of them overwrite each other's files.
PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu")

_INSTALL: Final = "pip install onnxruntime"

_DTYPES: Final = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class OnnxRuntimeEngine:
    """One graph in an ONNX Runtime session. Sessions may be run from several threads at once."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(_tensor(value) for value in session.get_inputs())
        self.outputs = tuple(_tensor(value) for value in session.get_outputs())
        self._output_names = [tensor.name for tensor in self.outputs]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Runs the graph on arrays by input name; new arrays by output name come back."""
        try:
            values = self._session.run(self._output_names, dict(inputs))
        # Its errors share no base class but this.
        except Exception as error:
            given = ", ".join(
                f"{name} {array.dtype} {list(array.shape)}" for name, array in inputs.items()
            )
            raise BackendError(
                f"ONNX Runtime failed to run a graph that takes "
                f"({', '.join(map(str, self.inputs))}) on ({given}): {first_line(error)}; "
                "if the inputs agree, try a smaller batch or another version of onnxruntime"
            ) from error
        return dict(zip(self._output_names, values, strict=True))

    def end_profiling(self) -> tuple[Path, int]:
        """ONNX Runtime's profile of the runs so far, and the moment that its times count from.

        The moment is in nanoseconds of `time.time_ns`. Only for a graph loaded with `profile`.
        """
        start = self._session.get_profiling_start_time_ns()
        return Path(self._session.end_profiling()), start


def load(
    path: Path,
    graph: Graph,
    threads: int | None,
    kernel: bool = True,
    profile: str = "",
) -> OnnxRuntimeEngine:
    """A session for the graph file; `threads` per graph, None for one per physical core.

    Without `kernel`, FlowWarp runs by its function body even where its kernel is built. `profile`
    is how the path of a profile begins that `OnnxRuntimeEngine.end_profiling` writes.

    Raises BackendError when ONNX Runtime is not installed, is installed twice, or does not take
    the file, or when the file's inputs and outputs are not the manifest's.
    """
    engine = open_model(path, threads, kernel, profile)
    check_signature(path, graph, engine)
    return engine


def open_model(
    path: Path, threads: int | None, kernel: bool = True, profile: str = ""
) -> OnnxRuntimeEngine:
    """A session for any ONNX file; arguments as in `load`. Raises BackendError."""
    current = status()
    if not current.available:
        raise BackendError(f"{current.reason}; {current.remedy}")
    import onnxruntime

    options = session_options(threads)
    if kernel:
        register_kernels(options)
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} does not load {path}: {first_line(error)}; "
            "run `pip install --upgrade onnxruntime`, or export it anew"
        ) from error
    return OnnxRuntimeEngine(session)


def session_options(threads: int | None) -> Any:
    """What a session is made with; `threads` as in `load`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; they are raised as well
    # Each graph has its own threads, and waiting in a loop they would hold the cores that the
    # next graph needs: measured, four times slower on two busy cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def register_kernels(options: Any) -> str:
    """Lets a session use FlowWarp's kernel; empty, or why it has to use the function body."""
    library = onnxruntime_library()
    if library is None:
        return "its kernel is not built"
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        return f"{library} does not load: {first_line(error)}"
    return ""


def kernel_problem() -> str:
    """Why FlowWarp's kernel cannot be used; empty where it can. ONNX Runtime has to be there."""
    import onnxruntime

    return register_kernels(onnxruntime.SessionOptions())


def status() -> Status:
    """Whether ONNX Runtime can run here."""
    installed = installed_versions(PACKAGES)
    if len(installed) > 1:
        return _unavailable(
            f"{' and '.join(installed)} are both installed and overwrite each other's files, so "
            "neither can be relied on",
            f"run `pip uninstall -y {' '.join(installed)}`, then `{_INSTALL}` or "
            "`pip install onnxruntime-gpu`",
        )
    try:
        import onnxruntime
    except ImportError as error:
        what = "is installed but does not import" if installed else "is not installed"
        return _unavailable(f"onnxruntime {what} ({error})", f"run `{_INSTALL}`")
    # What an uninstalled package left behind imports as an empty namespace package.
    if not hasattr(onnxruntime, "InferenceSession"):
        return _unavailable(
            "onnxruntime is only what another package left of it",
            f"run `pip uninstall -y {' '.join(PACKAGES)}`, then `{_INSTALL}`",
        )
    providers = ", ".join(onnxruntime.get_available_providers())
    without = kernel_problem()
    warp = "FlowWarp by its kernel"
    if without:
        warp = (
            f"FlowWarp by standard operators, several times slower, because {without}: install "
            "a C++ compiler and ONNX Runtime's headers (Debian's libonnxruntime-dev, or "
            "ONNXRUNTIME_ROOT), then install garment-transfer again"
        )
    return Status(
        "onnxruntime",
        available=True,
        version=onnxruntime.__version__,
        details=f"runs on the CPU; providers built in: {providers}; {warp}",
    )


def _unavailable(reason: str, remedy: str) -> Status:
    return Status("onnxruntime", available=False, reason=reason, remedy=remedy)


def _tensor(value: Any) -> Tensor:
    # Sizes that the graph leaves open are strings, or None where they have no name.
    shape = tuple(size if isinstance(size, int) else str(size or "?") for size in value.shape)
    return Tensor(value.name, _DTYPES.get(value.type, value.type), shape)


def first_line(error: Exception) -> str:
    """The first line of what an error says: ONNX Runtime adds its own stack trace."""
    return str(error).strip().partition("\n")[0]
