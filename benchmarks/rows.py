"""What the benchmark measures: one entry per row, whether it can run here, and its pipeline.

The peers are the networks in torch. They and a finished result are engines of a pipeline, so that
everything around the networks is the same code for all rows.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    ENGINE_BACKENDS,
    STAGES,
    BackendError,
    Bundle,
    Code,
    InputError,
    Precision,
    Signature,
    Stage,
    contract,
    list_engines,
    sha256_of,
)
from garment_transfer.runtime import Pipeline
from garment_transfer.runtime.backends import Arrays, find_backend

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda"]

#: The peers by device, each as it is and compiled in two ways; with float16 or without.
_PEERS: Final[tuple[tuple[Device, bool], ...]] = (("cpu", False), ("cuda", False), ("cuda", True))


@dataclass(frozen=True)
class Row:
    """One way to run a bundle.

    `backend` is one of `Pipeline.load`, which gets the options `load`; or "torch", which runs the
    checkpoint that the bundle was exported from; or "empty", which hands out a finished result.
    `plugin` asks for TensorRT engines that were built with FlowWarp's plugin, or without. Torch
    compiles in the mode `compile`, for one shape at a time; with `float16` it runs autocast,
    channels last.
    """

    name: str
    label: str
    backend: str
    device: Device = "cpu"
    load: Mapping[str, bool | int | str] = field(default_factory=dict)
    plugin: bool | None = None
    compile: str = ""
    float16: bool = False


def _peer(device: Device, compile: str, float16: bool) -> Row:
    how = {"default": "compile", "max-autotune": "compile-max-autotune"}.get(compile, "eager")
    name = ["torch", *["cuda"] * (device == "cuda"), *["float16"] * float16, how]
    label = {"default": "torch.compile", "max-autotune": "torch.compile, max-autotune"}
    return Row(
        "-".join(name),
        label.get(compile, "torch eager")
        + ", GPU" * (device == "cuda")
        + ", channels last, float16" * float16,
        "torch",
        device,
        compile=compile,
        float16=float16,
    )


ROWS: Final = (
    Row("empty", "empty: a finished result is handed out", "empty"),
    *(
        _peer(device, compile, float16)
        for device, float16 in _PEERS
        for compile in ("", "default", "max-autotune")
    ),
    Row(
        "onnxruntime", "ONNX Runtime with the FlowWarp kernel", "onnxruntime", load={"kernel": True}
    ),
    Row(
        "onnxruntime-standard",
        "ONNX Runtime, standard operators",
        "onnxruntime",
        load={"kernel": False},
    ),
    Row("onnxruntime-cuda", "ONNX Runtime, CUDA provider, I/O binding", "onnxruntime-cuda", "cuda"),
    Row(
        "onnxruntime-cuda-graph",
        "ONNX Runtime, CUDA provider, its own CUDA graphs",
        "onnxruntime-cuda",
        "cuda",
        {"cuda_graph": True},
    ),
    Row("openvino", "OpenVINO, float32", "openvino", load={"inference_precision": "float32"}),
    Row(
        "openvino-default",
        "OpenVINO, its default precision",
        "openvino",
        load={"inference_precision": "default"},
    ),
    *(
        Row(
            f"tensorrt{'' if plugin else '-no-plugin'}{'' if graphs else '-no-graphs'}",
            f"TensorRT, {'plugin' if plugin else 'no plugin'}, "
            f"{'CUDA graphs' if graphs else 'plain launches'}",
            "tensorrt",
            "cuda",
            {"graphs": graphs},
            plugin,
        )
        for plugin in (True, False)
        for graphs in (True, False)
    ),
    *(
        Row(
            f"tensorrt-rtx{'' if graphs else '-no-graphs'}",
            f"TensorRT-RTX, {'CUDA graphs' if graphs else 'plain launches'}",
            "tensorrt-rtx",
            "cuda",
            {"graphs": graphs},
        )
        for graphs in (True, False)
    ),
)


def select_rows(patterns: str, bundle: Bundle, checkpoint: Path | None) -> tuple[Row, ...]:
    """The rows that a comma-separated list of names or patterns names; "all" is every row.

    "empty" is always among them. Raises InputError for a name or pattern that no row has; its
    message lists the rows and their state.
    """
    chosen = {"empty"}
    for pattern in (part.strip() for part in patterns.split(",")):
        matching = fnmatch.filter([row.name for row in ROWS], "*" if pattern == "all" else pattern)
        if not matching:
            states = (
                f"{row.name} ({unavailable(row, bundle, checkpoint) or 'can run here'})"
                for row in ROWS
            )
            raise InputError(
                Code.BACKEND_UNKNOWN,
                f"unknown backend {pattern!r}",
                expected="`all`, or names or patterns such as 'onnxruntime*' of: "
                + "; ".join(states),
            )
        chosen.update(matching)
    return tuple(row for row in ROWS if row.name in chosen)


def find_checkpoint(bundle: Bundle, checkpoint: Path | None) -> Path | None:
    """The checkpoint that a bundle was exported from: the one given, or a shipped one.

    None where it is not at hand. Raises InputError when the one given is another.
    """
    expected = bundle.manifest.checkpoint.sha256
    if checkpoint is None:
        shipped = Path(__file__).parents[1] / "models" / "checkpoints"
        return next((p for p in shipped.glob("*.safetensors") if sha256_of(p) == expected), None)
    if not checkpoint.is_file():
        raise InputError(
            Code.CHECKPOINT_INVALID,
            f"{checkpoint} does not exist",
            fix="name a .safetensors file by --checkpoint",
        )
    if sha256_of(checkpoint) != expected:
        raise InputError(
            Code.CHECKPOINT_INVALID,
            f"{checkpoint} is not what {bundle.path} was exported from",
            expected=f"the checkpoint of SHA-256 {expected[:16]}...",
            fix="give that one, or leave --checkpoint away",
        )
    return checkpoint


def unavailable(row: Row, bundle: Bundle, checkpoint: Path | None) -> str:
    """Why a row cannot run here and what fixes it; empty where nothing is known to forbid it."""
    if row.backend == "empty":
        return ""
    if row.backend == "torch":
        return _torch_unavailable(row, bundle, checkpoint)
    try:
        status = find_backend(row.backend).status()
    except BackendError as error:
        return str(error)
    if not status.available:
        return f"{status.reason}; {status.fix}"
    if row.load.get("kernel"):
        from garment_transfer.runtime.backends.onnxruntime import kernel_problem

        problem = kernel_problem()
        if problem:
            return f"FlowWarp: {problem}; `garment-transfer doctor` says what fixes it"
    return "" if row.plugin is None else _plugin_problem(row, bundle)


def _plugin_problem(row: Row, bundle: Bundle) -> str:
    engines = [found for found in list_engines(bundle) if found.record.backend == row.backend]
    if any((found.record.plugin is not None) == row.plugin for found in engines):
        return ""
    other = "without" if row.plugin else "with"
    have = f"engines of {row.backend} {other} the plugin" if engines else "no engines"
    return (
        f"{bundle.path} has {have}; run `garment-transfer build {bundle.path} --backend "
        f"{row.backend} --plugin {'auto' if row.plugin else 'off'} -o COPY`, and give COPY as "
        "--bundle"
    )


def _torch_unavailable(row: Row, bundle: Bundle, checkpoint: Path | None) -> str:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("safetensors") is None:
        return 'torch or safetensors is not installed; run `pip install "garment-transfer[export]"`'
    if checkpoint is None:
        return (
            f"the checkpoint that {bundle.path} was exported from (SHA-256 "
            f"{bundle.manifest.checkpoint.sha256[:16]}...) is not at hand; --checkpoint names it"
        )
    import torch

    if row.device == "cuda":
        return "" if torch.cuda.is_available() else "torch sees no GPU"
    if row.compile and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler for the CPU; install g++"
    return ""


def load_row(
    row: Row,
    bundle: Bundle,
    checkpoint: Path | None,
    threads: int,
    precision: Precision | None = None,
    finished: Arrays | None = None,
) -> Pipeline:
    """The pipeline of a row.

    `finished` are the outputs that the row "empty" gives. Raises BackendError or CheckpointError
    where it cannot be loaded.
    """
    if row.backend == "empty":
        signatures = contract(bundle.manifest.size)
        return Pipeline(bundle, {s: FinishedEngine(signatures[s], finished or {}) for s in STAGES})
    if row.backend == "torch":
        return Pipeline(bundle, torch_engines(row, bundle, checkpoint, threads))
    options = dict(row.load)
    if row.backend not in ENGINE_BACKENDS:
        options["threads"] = threads
    return Pipeline.load(bundle, row.backend, precision=precision, **options)


class FinishedEngine:
    """Gives a finished result, whatever its inputs: the cost of everything but the networks."""

    def __init__(self, signature: Signature, finished: Arrays) -> None:
        self.signature = signature
        self._finished = {tensor.name: finished[tensor.name] for tensor in signature.outputs}

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The finished outputs."""
        return dict(self._finished)


class TorchEngine:
    """A network in torch, from arrays to arrays; on a GPU that includes the copies."""

    def __init__(self, network: torch.nn.Module, signature: Signature, row: Row) -> None:
        import torch

        network = network.to(row.device)
        if row.float16:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = (
            torch.compile(network, mode=row.compile, dynamic=False) if row.compile else network
        )
        self._row = row
        self.signature = signature

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Runs the network; new arrays come back."""
        import torch

        device = self._row.device
        values = [
            torch.from_numpy(np.require(inputs[tensor.name], requirements=["C", "W"])).to(device)
            for tensor in self.signature.inputs
        ]
        with torch.inference_mode(), torch.autocast(device, torch.float16, self._row.float16):
            result = self._network(*values)
        results = result if isinstance(result, tuple) else (result,)
        return {
            tensor.name: value.to("cpu", getattr(torch, tensor.dtype)).numpy()
            for tensor, value in zip(self.signature.outputs, results, strict=True)
        }


def torch_engines(
    row: Row, bundle: Bundle, checkpoint: Path | None, threads: int
) -> dict[Stage, TorchEngine]:
    """The networks of a checkpoint as engines, by stage. CheckpointError where it is none."""
    import torch

    from garment_transfer.models.checkpoint import load_checkpoint

    assert checkpoint is not None  # `unavailable` has said so
    torch.set_num_threads(threads)
    signatures = contract(bundle.manifest.size)
    _, networks = load_checkpoint(checkpoint)
    return {stage: TorchEngine(networks[stage], signatures[stage], row) for stage in STAGES}
