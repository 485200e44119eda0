"""What the benchmark measures: one entry per row, and whether it can run here."""

from __future__ import annotations

import fnmatch
import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from garment_transfer.bundle import BackendError, Bundle, InputError, sha256_of
from garment_transfer.runtime.backends import find_backend

#: Where `Row.compile` is one of torch.compile's modes, it compiles for one shape at a time.
CompileMode = Literal["", "default", "max-autotune"]


@dataclass(frozen=True)
class Row:
    """One way to run a bundle.

    `kind` says what runs: "empty" hands out a finished result, "torch" runs the checkpoint that
    the bundle was exported from, "backend" is `Pipeline.load` with `backend` and the arguments
    `load`. `kernel` asks for FlowWarp's kernel in ONNX Runtime, `plugin` for TensorRT engines that
    were built with its plugin, or without.
    """

    name: str
    label: str
    kind: Literal["empty", "torch", "backend"]
    device: Literal["cpu", "cuda"] = "cpu"
    backend: str = ""
    load: Mapping[str, Any] = field(default_factory=dict)
    kernel: bool | None = None
    plugin: bool | None = None
    compile: CompileMode = ""
    channels_last: bool = False
    half: bool = False


ROWS: Final = (
    Row("empty", "empty: a finished result is handed out", "empty"),
    Row("torch-eager", "torch eager", "torch"),
    Row("torch-compile", "torch.compile", "torch", compile="default"),
    Row(
        "torch-compile-max-autotune",
        "torch.compile, max-autotune",
        "torch",
        compile="max-autotune",
    ),
    Row("torch-cuda-eager", "torch eager, GPU", "torch", "cuda"),
    Row("torch-cuda-compile", "torch.compile, GPU", "torch", "cuda", compile="default"),
    Row(
        "torch-cuda-compile-max-autotune",
        "torch.compile, max-autotune, GPU",
        "torch",
        "cuda",
        compile="max-autotune",
    ),
    Row(
        "torch-cuda-half",
        "torch eager, GPU, channels last, float16",
        "torch",
        "cuda",
        channels_last=True,
        half=True,
    ),
    Row(
        "torch-cuda-half-compile-max-autotune",
        "torch.compile, max-autotune, GPU, channels last, float16",
        "torch",
        "cuda",
        compile="max-autotune",
        channels_last=True,
        half=True,
    ),
    Row(
        "onnxruntime",
        "ONNX Runtime with the FlowWarp kernel",
        "backend",
        backend="onnxruntime",
        load={"options": {"kernel": True}},
        kernel=True,
    ),
    Row(
        "onnxruntime-standard",
        "ONNX Runtime, standard operators",
        "backend",
        backend="onnxruntime",
        load={"options": {"kernel": False}},
        kernel=False,
    ),
    Row(
        "onnxruntime-cuda",
        "ONNX Runtime, CUDA provider, I/O binding",
        "backend",
        "cuda",
        backend="onnxruntime-cuda",
    ),
    Row(
        "openvino",
        "OpenVINO, float32",
        "backend",
        backend="openvino",
        load={"options": {"inference_precision": "float32"}},
    ),
    Row(
        "openvino-default",
        "OpenVINO, its default precision",
        "backend",
        backend="openvino",
        load={"options": {"inference_precision": "default"}},
    ),
    *(
        Row(
            f"tensorrt{'' if plugin else '-no-plugin'}{'' if graphs else '-no-graphs'}",
            f"TensorRT, {'plugin' if plugin else 'no plugin'}, "
            f"{'CUDA graphs' if graphs else 'plain launches'}",
            "backend",
            "cuda",
            backend="tensorrt",
            load={"graphs": graphs},
            plugin=plugin,
        )
        for plugin in (True, False)
        for graphs in (True, False)
    ),
    *(
        Row(
            f"tensorrt-rtx{'' if graphs else '-no-graphs'}",
            f"TensorRT-RTX, {'CUDA graphs' if graphs else 'plain launches'}",
            "backend",
            "cuda",
            backend="tensorrt-rtx",
            load={"graphs": graphs},
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
        matching = [
            row.name
            for row in ROWS
            if fnmatch.fnmatchcase(row.name, "*" if pattern == "all" else pattern)
        ]
        if not matching:
            states = (
                f"{row.name} ({unavailable(row, bundle, checkpoint) or 'can run here'})"
                for row in ROWS
            )
            raise InputError(
                f"unknown backend {pattern!r}; expected `all`, or names or patterns such as "
                f"'onnxruntime*' of: {'; '.join(states)}"
            )
        chosen.update(matching)
    return tuple(row for row in ROWS if row.name in chosen)


def find_checkpoint(bundle: Bundle, checkpoint: Path | None) -> Path | None:
    """The checkpoint that a bundle was exported from: the one given, or a shipped one.

    None where it is not at hand. Raises InputError when the one given is another.
    """
    due = bundle.manifest.checkpoint.sha256
    if checkpoint is not None:
        if not checkpoint.is_file():
            raise InputError(f"{checkpoint} does not exist; --checkpoint names a .safetensors file")
        if sha256_of(checkpoint) != due:
            raise InputError(
                f"{checkpoint} is not what {bundle.path} was exported from (SHA-256 {due[:16]}...)"
                "; give that one, or leave --checkpoint away"
            )
        return checkpoint
    # an editable install has several folders; models itself would import torch
    spec = importlib.util.find_spec("garment_transfer.models")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, "checkpoints").glob("*.safetensors")):
            if sha256_of(path) == due:
                return path
    return None


def unavailable(row: Row, bundle: Bundle, checkpoint: Path | None) -> str:
    """Why a row cannot run here and what mends it; empty where nothing is known to forbid it."""
    if row.kind == "torch":
        return _torch_unavailable(row, bundle, checkpoint)
    if row.kind == "backend":
        try:
            backend = find_backend(row.backend)
        except BackendError as error:
            return str(error)
        status = backend.status()
        if not status.available:
            return f"{status.reason}; {status.remedy}"
        if row.kernel:
            from garment_transfer.runtime.backends.onnxruntime import kernel_problem

            problem = kernel_problem()
            if problem:
                return f"FlowWarp's kernel: {problem}; `garment-transfer doctor` says what mends it"
        if row.plugin is not None:
            return _plugin_problem(row, bundle)
    return ""


def _plugin_problem(row: Row, bundle: Bundle) -> str:
    from garment_transfer.bundle import list_engines

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
