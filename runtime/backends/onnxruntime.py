"""ONNX Runtime on the CPU, from the package `onnxruntime` or `onnxruntime-gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from garment_transfer.bundle import (
    BackendError,
    Code,
    Signature,
    Tensor,
    installed_versions,
)
from garment_transfer.kernels import onnxruntime_library
from garment_transfer.runtime.backends import (
    Arrays,
    Status,
    Threads,
    check_signature,
    default_threads,
    given_text,
)

if TYPE_CHECKING:
    import onnxruntime

#: Packages that each install the module `onnxruntime`; two of them overwrite each other's files.
PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu")

_INSTALL: Final = "pip install onnxruntime"

_DTYPES: Final = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class Options(Struct, frozen=True, kw_only=True):
    """How ONNX Runtime runs a bundle on the CPU.

    `threads` are those of each graph, None for what `default_threads` counts. Without `kernel`,
    FlowWarp runs by its function body even where its kernel is built. `profile` is how the paths
    of profiles begin, one per stage, that `OnnxRuntimeEngine.end_profiling` writes.
    """

    threads: Threads | None = None
    kernel: bool = True
    profile: str = ""


class OnnxRuntimeEngine:
    """One graph in an ONNX Runtime session. Sessions may be run from several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.signature = signature_of(session)
        self._output_names = [tensor.name for tensor in self.signature.outputs]

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Runs the graph on arrays by input name; new arrays by output name come back."""
        try:
            values = self._session.run(self._output_names, dict(inputs))
        # Its errors share no base class but this.
        except Exception as error:
            raise BackendError(
                Code.RUN_FAILED,
                f"ONNX Runtime failed to run a graph on ({given_text(inputs)}): "
                f"{first_line(error)}",
                expected=f"({', '.join(map(str, self.signature.inputs))})",
                fix="if the inputs agree, try a smaller batch or another version of onnxruntime",
            ) from error
        return dict(zip(self._output_names, values, strict=True))

    def end_profiling(self) -> tuple[Path, int]:
        """ONNX Runtime's profile of the runs so far, and the moment that its times count from.

        The moment is in nanoseconds of `time.time_ns`. Only for a graph loaded with `profile`.
        """
        start = self._session.get_profiling_start_time_ns()
        return Path(self._session.end_profiling()), start


def open_graph(
    options: Options, content: bytes, path: Path, expected: Signature
) -> OnnxRuntimeEngine:
    """A session of a bundle's graph. Raises BackendError."""
    profile = f"{options.profile}{path.stem}" if options.profile else ""
    engine = _open(content, path, options.threads, options.kernel, profile)
    check_signature(path, expected, engine.signature)
    return engine


def open_model(path: Path, threads: int | None) -> OnnxRuntimeEngine:
    """A session for any ONNX file; `threads` as in `Options`. Raises BackendError."""
    return _open(str(path), path, threads)


def _open(
    model: bytes | str, path: Path, threads: int | None, kernel: bool = True, profile: str = ""
) -> OnnxRuntimeEngine:
    available()
    import onnxruntime

    options = session_options(threads)
    if kernel:
        register_kernels(options)
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        session = onnxruntime.InferenceSession(
            model, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise BackendError(
            Code.GRAPH_REJECTED,
            f"ONNX Runtime {onnxruntime.__version__} does not load {path}: {first_line(error)}",
            fix="run `pip install --upgrade onnxruntime`, or export it anew",
        ) from error
    return OnnxRuntimeEngine(session)


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """What a session is made with; `threads` as in `Options`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal ones only: errors are raised as well
    # Each graph has its own threads, and waiting in a loop they would hold the cores that the
    # next graph needs: measured, four times slower on two busy cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or default_threads() or 0  # 0: its own choice
    return options


def register_kernels(options: onnxruntime.SessionOptions) -> str:
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


def available() -> Status:
    """What runs here. Raises BackendError without ONNX Runtime, or with two of its packages."""
    installed = installed_versions(PACKAGES)
    if len(installed) > 1:
        raise BackendError(
            Code.BACKEND_UNAVAILABLE,
            f"{' and '.join(installed)} are both installed and overwrite each other's files, so "
            "neither can be relied on",
            fix=f"run `pip uninstall -y {' '.join(installed)}`, then `{_INSTALL}` or "
            "`pip install onnxruntime-gpu`",
        )
    # pip does nothing for a package that it takes for installed, damaged or not
    again = f"pip install --force-reinstall --no-deps {' '.join(installed)}"
    try:
        import onnxruntime
    # A package that is half removed, or does not fit another, raises whatever it meets first.
    except Exception as error:
        what = "is installed but does not import" if installed else "is not installed"
        raise BackendError(
            Code.BACKEND_UNAVAILABLE,
            f"onnxruntime {what} ({error})",
            fix=f"run `{again if installed else _INSTALL}`",
        ) from error
    # What an uninstalled package left behind imports as an empty namespace package.
    if not hasattr(onnxruntime, "InferenceSession"):
        raise BackendError(
            Code.BACKEND_UNAVAILABLE,
            "onnxruntime is only what another package left of it",
            fix=f"run `{again}`"
            if installed
            else f"run `pip uninstall -y {' '.join(PACKAGES)}`, then `{_INSTALL}`",
        )
    providers = ", ".join(onnxruntime.get_available_providers())
    without = kernel_problem()
    warp = "FlowWarp by its kernel"
    if without:
        warp = (
            f"FlowWarp by standard operators, with which the networks of a transfer take about 7 % "
            f"longer, because {without}: install a C++ compiler and ONNX Runtime's headers (Debian "
            "13's libonnxruntime-dev), then garment-transfer again; on Debian 12 "
            "`ONNXRUNTIME_ROOT=$(.ci/onnxruntime_headers DIR) pip install .` in a copy of the "
            "repository does both"
        )
    return Status(
        "onnxruntime",
        available=True,
        version=onnxruntime.__version__,
        details=f"runs on the CPU; providers built in: {providers}; {warp}",
    )


def signature_of(session: onnxruntime.InferenceSession) -> Signature:
    """What a session's graph takes and gives."""

    def tensors(values: list[onnxruntime.NodeArg]) -> tuple[Tensor, ...]:
        return tuple(
            # sizes that the graph leaves open are strings, or None where they have no name
            Tensor(
                value.name,
                _DTYPES.get(value.type, value.type),
                tuple(size if isinstance(size, int) else str(size or "?") for size in value.shape),
            )
            for value in values
        )

    return Signature(tensors(session.get_inputs()), tensors(session.get_outputs()))


def first_line(error: Exception) -> str:
    """The first line of what an error says: ONNX Runtime adds its own stack trace."""
    return str(error).strip().partition("\n")[0]
