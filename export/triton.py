"""Model repositories for NVIDIA Triton: a bundle as one Python model, or as an ensemble of stages.

The configurations are Triton's own protobuf messages, written in their text format, so that what
Triton would not parse cannot be written.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from garment_transfer.bundle import (
    Bundle,
    Code,
    EngineError,
    EngineSet,
    OutputError,
    Signature,
    build_command,
    chained,
    contract,
    list_engines,
    replacing,
    replacing_folder,
    sm_name,
)
from garment_transfer.runtime import REQUEST_FIELDS
from garment_transfer.runtime.backends import DEVICE_BACKENDS, find_backend

#: What serves the bundle: this package's runtime, or Triton's own backends stage by stage.
Form = Literal["python", "onnx", "tensorrt"]

#: Requests that may wait for a model before Triton answers "unavailable" (HTTP 503).
QUEUE: Final = 256

CONFIG: Final = "config.pbtxt"

_TYPES: Final = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


@dataclass(frozen=True)
class Serving:
    """How Triton runs a model.

    Attributes:
        max_batch: the most pairs in one run; those that wait while another runs share the next.
        max_delay_ms: how long a pair waits for others when nothing runs.
        instances: copies that run side by side, on each GPU where they run on one.
        max_megapixels: of the photo and of each map that form "python" takes.
    """

    max_batch: int = 8
    max_delay_ms: float = 0.0
    instances: int = 1
    max_megapixels: float = 4.0


def write_repository(
    bundle: Bundle,
    repository: Path,
    *,
    form: Form = "python",
    name: str = "garment_transfer",
    version: int = 1,
    serving: Serving | None = None,
    backend: str = "onnxruntime",
    threads: int | None = None,
    precision: str | None = None,
) -> list[str]:
    """Writes the models of a bundle into a model repository.

    A repository may hold other models, and other versions of these: a version is added, never
    replaced.

    Args:
        bundle: what is served; the Python model gets a copy of it.
        repository: the folder that `tritonserver --model-repository` names.
        form: "python" is one model, which runs the bundle with this package; "onnx" and "tensorrt"
            are an ensemble `name` of the models `name_<stage>`, which Triton's own backends run.
        backend, threads: what runs the graphs of form "python", and threads of each instance.
        precision: that of the graphs or engines; None is the bundle's own.

    Returns:
        What the server needs, in sentences for its operator.

    Raises:
        OutputError: the version is there already or cannot be written.
        EngineError: "tensorrt" finds no engines, or none that fit together.
        BundleError: the bundle lacks the precision.
        BackendError: the backend is unknown.
    """
    serving = serving or Serving()
    if form == "python":
        find_backend(backend)
        bundle.manifest.graphs_of(precision)
        models = [_python_model(bundle, name, serving, backend, threads, precision)]
        notes = ["install garment-transfer in the Python that tritonserver runs"]
    else:
        engines = [] if form == "onnx" else _tensorrt_engines(bundle, precision, serving)
        models = _ensemble(bundle, name, serving, precision, engines)
        notes = _tensorrt_notes(engines) if engines else []
    _write(repository, version, models)
    return notes


@dataclass(frozen=True)
class _Model:
    """A model to write: its configuration, and files by their path in the version's folder."""

    config: ModelConfig
    files: Mapping[str, Path] = field(default_factory=dict)


def _python_model(
    bundle: Bundle,
    name: str,
    serving: Serving,
    backend: str,
    threads: int | None,
    precision: str | None,
) -> _Model:
    config = _config(name, serving)
    content: Any = {"data_type": "TYPE_UINT8", "dims": [-1]}  # the bytes of a file, or of a name
    for each in REQUEST_FIELDS:
        optional = not each.endswith("_image")
        # ragged: files of other lengths may share a run
        config.input.add(name=each, **content, optional=optional, allow_ragged_batch=True)
    config.output.add(name="image", **content)
    _run_by(config, serving, "python", "GPU" if backend in DEVICE_BACKENDS else "CPU")
    parameters = {
        "backend": backend,
        "threads": threads,
        "precision": precision,
        "max_megapixels": serving.max_megapixels,
    }
    for key, value in parameters.items():
        if value is not None:
            config.parameters[key].string_value = str(value)
    files = {"model.py": Path(__file__).with_name("triton_model.py")}
    for path in sorted(bundle.path.rglob("*")):
        inside = path.relative_to(bundle.path)
        # What an interrupted build left in a bundle starts with a dot.
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            files[f"bundle/{inside}"] = path
    return _Model(config, files)


def _ensemble(
    bundle: Bundle, name: str, serving: Serving, precision: str | None, engines: Sequence[EngineSet]
) -> list[_Model]:
    """The model that runs the stages in a row, and theirs: of engines, or of graphs without any."""
    signatures = contract(bundle.manifest.size)
    config = _config(name, serving, chained(signatures.values()))
    config.platform = "ensemble"
    # by which clients cut photos
    rule = msgspec.json.encode(bundle.manifest.framing)
    config.parameters["framing"].string_value = rule.decode()
    models = [_Model(config)]
    for stage, signature in signatures.items():
        config.ensemble_scheduling.step.add(
            model_name=f"{name}_{stage}",
            model_version=-1,
            input_map={tensor.name: tensor.name for tensor in signature.inputs},
            output_map={tensor.name: tensor.name for tensor in signature.outputs},
        )
        backend, kind = ("tensorrt", "GPU") if engines else ("onnxruntime", "AUTO")
        of_stage = _config(f"{name}_{stage}", serving, signature)
        _run_by(of_stage, serving, backend, kind)
        for batch in sorted({1, serving.max_batch}):
            warm_up = of_stage.model_warmup.add(name=f"batch of {batch}", batch_size=batch)
            for tensor in of_stage.input:
                zeros = warm_up.inputs[tensor.name]
                zeros.data_type, zeros.zero_data = tensor.data_type, True
                zeros.dims.extend(tensor.dims)
        files = {} if engines else {"model.onnx": bundle.graph_path(stage, precision)}
        for engine_set in engines:
            engine_set.read_plan(stage)  # compares size and hash with the record
            (capability,) = engine_set.record.compute_capabilities
            file = f"{sm_name([capability])}.plan"
            files[file] = engine_set.path / engine_set.record.stages[stage].file
            of_stage.cc_model_filenames[capability] = file
        of_stage.default_model_filename = next(iter(files))
        models.append(_Model(of_stage, files))
    return models


def _config(name: str, serving: Serving, signature: Signature | None = None) -> ModelConfig:
    """A configuration, with the inputs and outputs of `signature` where there is one."""
    config = ModelConfig(
        name=name,
        max_batch_size=serving.max_batch,
        # The newest version serves. One that is added takes over once it is loaded and warm.
        version_policy={"latest": {"num_versions": 1}},
        response_cache={"enable": False},
    )
    if signature:
        for tensors, own in ((signature.inputs, config.input), (signature.outputs, config.output)):
            for tensor in tensors:
                # max_batch_size stands for the batch axis
                own.add(name=tensor.name, data_type=_TYPES[tensor.dtype], dims=tensor.shape[1:])
    return config


def _run_by(config: ModelConfig, serving: Serving, backend: str, kind: str) -> None:
    """Says which backend runs a model, on what, and how requests wait for it."""
    config.backend = backend
    config.instance_group.add(count=serving.instances, kind=f"KIND_{kind}")
    config.dynamic_batching.max_queue_delay_microseconds = round(1000 * serving.max_delay_ms)
    config.dynamic_batching.default_queue_policy.max_queue_size = QUEUE


def _tensorrt_engines(bundle: Bundle, precision: str | None, serving: Serving) -> list[EngineSet]:
    """The bundle's TensorRT engines in one precision, one per compute capability."""
    precision = precision or bundle.manifest.precision
    found = list_engines(bundle)
    engines = [
        engine_set
        for engine_set in found
        if engine_set.record.backend == "tensorrt" and engine_set.record.precision == precision
    ]
    command = build_command(bundle.path, "tensorrt", precision)
    if not engines:
        raise EngineError(
            Code.ENGINES_MISSING,
            f"{bundle.path} has no {precision} engines of tensorrt, which is what Triton runs (it "
            f"has: {', '.join(engine_set.path.name for engine_set in found) or 'none'})",
            fix=f"run `{command}` on each kind of GPU that will serve, or choose --form onnx",
        )
    versions = sorted({engine_set.record.backend_version for engine_set in engines})
    if len(versions) > 1:
        raise EngineError(
            Code.ENGINE_VERSION,
            f"the engines of {bundle.path} were built by TensorRT {' and '.join(versions)}",
            expected="one version, since a Triton server has one",
            fix=f"run `{command}` with the server's version",
        )
    for engine_set in engines:
        engine_set.check_batch(1)
        engine_set.check_batch(serving.max_batch)
    return engines


def _tensorrt_notes(engines: Sequence[EngineSet]) -> list[str]:
    notes = [
        f"use a Triton release that carries TensorRT {engines[0].record.backend_version}, which "
        "built these engines"
    ]
    embedded = {found.record.plugin.embedded for found in engines if found.record.plugin}
    if False in embedded:
        notes.append(
            "start it with --backend-config=tensorrt,plugins="
            "/path/of/libgarment_transfer_tensorrt.so, since the engines call FlowWarp's plugin"
        )
    if True in embedded:
        notes.append(
            "start it with --backend-config=tensorrt,version-compatible=true, which lets engines "
            "run the plugin that they carry"
        )
    return notes


def _write(repository: Path, version: int, models: Sequence[_Model]) -> None:
    for model in models:
        folder = repository / model.config.name
        if (folder / str(version)).exists():
            newest = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
            raise OutputError(
                Code.OUTPUT_EXISTS,
                f"{folder / str(version)} is there already, and a version is never replaced under "
                "a running server",
                fix=f"give --model-version {newest + 1} to add one, or another repository",
            )
        _check_same_model(folder / CONFIG, model.config)
    try:
        # The ensemble comes last: a server that polls then finds its stages there.
        for model in reversed(models):
            _write_model(repository / model.config.name, version, model)
    except OSError as error:
        raise OutputError(
            Code.OUTPUT_UNWRITABLE,
            f"{error.filename or repository} cannot be written: {error.strerror}",
            fix="choose a repository that you may write to",
        ) from error


def _write_model(folder: Path, version: int, model: _Model) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = text_format.MessageToString(model.config, use_short_repeated_primitives=True)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(f"# Written by garment-transfer triton.\n{text}", encoding="utf-8")
    with replacing_folder(folder / str(version)) as temporary:
        for name, source in model.files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, temporary / name)


def _check_same_model(path: Path, config: ModelConfig) -> None:
    """Raises OutputError where a model of this name with other inputs or outputs is there."""
    if not path.exists():
        return
    names = ["backend", "platform", "input", "output"]
    try:
        found = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
        names = [name for name in names if getattr(found, name) != getattr(config, name)]
    except (OSError, UnicodeDecodeError, text_format.ParseError):
        pass  # nobody knows what it serves
    if names:
        raise OutputError(
            Code.OUTPUT_EXISTS,
            f"{path} is another model's, with another {', '.join(names)}",
            expected="versions of one model, which share form, inputs and outputs",
            fix="give another --name or repository",
        )
