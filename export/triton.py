"""Model repositories for NVIDIA Triton: a bundle as one Python model, or as an ensemble of stages.

The configurations are Triton's own protobuf messages, written in their text format, so that what
Triton would not parse cannot be written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from garment_transfer.bundle import (
    STAGES,
    Bundle,
    EngineError,
    EngineSet,
    OutputError,
    Signature,
    Size,
    Tensor,
    build_command,
    contract,
    list_engines,
    replacing,
)
from garment_transfer.runtime import sample_people, stage_inputs
from garment_transfer.runtime.backends import DEVICE_BACKENDS, find_backend
from garment_transfer.runtime.photos import Person

#: What serves the bundle: this package's runtime, or Triton's own backends stage by stage.
Form = Literal["python", "onnx", "tensorrt"]
FORMS: Final[tuple[Form, ...]] = ("python", "onnx", "tensorrt")

#: Requests that may wait for a model before Triton answers "unavailable" (HTTP 503).
QUEUE: Final = 256

CONFIG: Final = "config.pbtxt"

_MODEL_PY: Final = '''\
"""Runs the bundle beside this file; written by `garment-transfer triton`."""

from garment_transfer.export.triton_model import TritonPythonModel as TritonPythonModel
'''

_TYPES: Final = {
    "uint8": model_config_pb2.TYPE_UINT8,
    "float32": model_config_pb2.TYPE_FP32,
}


@dataclass(frozen=True)
class Serving:
    """How Triton runs a model.

    `max_batch` is the most pairs in one run; those that wait while another runs share the next.
    `max_delay_ms` is how long a pair waits for others when nothing runs, `instances` the number of
    copies that run side by side, on each GPU where they run on one.
    """

    max_batch: int = 8
    max_delay_ms: float = 0.0
    instances: int = 1


def pipeline_signature(size: Size) -> Signature:
    """What the three stages together take and give, in the order of the contract."""
    given: dict[str, Tensor] = {}
    taken: dict[str, Tensor] = {}
    for signature in contract(size).values():
        taken.update((tensor.name, tensor) for tensor in signature.inputs)
        given.update((tensor.name, tensor) for tensor in signature.outputs)
    inputs = tuple(tensor for name, tensor in taken.items() if name not in given)
    return Signature(inputs, tuple(given.values()))


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
    """Writes the models of a bundle into a model repository; what `tritonserver` needs comes back.

    `form` "python" is one model that runs the bundle with this package's `backend` on `threads`
    threads; "onnx" and "tensorrt" are an ensemble `name` of the models `name_<stage>`, which
    Triton's own backends run. `precision` is that of the graphs or engines, None the bundle's own.
    A repository may hold other models, and other versions of these: a version is added, never
    replaced.

    The list holds sentences for whoever starts the server. Raises OutputError where the version
    is there already or cannot be written, EngineError where "tensorrt" finds no engines,
    BundleError for a precision that the bundle lacks, BackendError for an unknown backend.
    """
    serving = serving or Serving()
    if form == "python":
        find_backend(backend)
        bundle.manifest.graphs_of(precision)
        models = _python_models(bundle, name, serving, backend, threads, precision)
        notes = ["install garment-transfer in the Python that tritonserver runs"]
    elif form == "onnx":
        models = _onnx_models(bundle, name, serving, precision)
        notes = []
    else:
        engines = _tensorrt_engines(bundle, precision)
        models = _tensorrt_models(bundle, name, serving, engines)
        notes = _tensorrt_notes(engines)
    _write(repository, version, models)
    return notes


@dataclass(frozen=True)
class _Model:
    """A model to write: its configuration, and files by their path in the version's folder."""

    config: Any
    files: dict[str, Path | str]
    warm_up: dict[str, bytes]


def _python_models(
    bundle: Bundle,
    name: str,
    serving: Serving,
    backend: str,
    threads: int | None,
    precision: str | None,
) -> list[_Model]:
    size = bundle.manifest.size
    config = _config(name, pipeline_signature(size), serving)
    config.backend = "python"
    kinds = model_config_pb2.ModelInstanceGroup
    _schedule(config, serving, kinds.KIND_GPU if backend in DEVICE_BACKENDS else kinds.KIND_CPU)
    for key, value in (("backend", backend), ("threads", threads), ("precision", precision)):
        if value is not None:
            config.parameters[key].string_value = str(value)
    # Zeros are no person, so the model is warmed up with the people in the package.
    person, owner = (Person.load(folder) for folder in sample_people())
    data = {key: array.tobytes() for key, array in stage_inputs(person, owner, size).items()}
    for warm_up in _warm_ups(config, serving):
        for tensor in config.input:
            _warm_up_input(warm_up, tensor).input_data_file = tensor.name
    # What an interrupted build left in a bundle starts with a dot.
    files: dict[str, Path | str] = {
        f"bundle/{path.relative_to(bundle.path)}": path
        for path in sorted(bundle.path.rglob("[!.]*"))
        if path.is_file()
    }
    return [_Model(config, {"model.py": _MODEL_PY, **files}, data)]


def _onnx_models(
    bundle: Bundle, name: str, serving: Serving, precision: str | None
) -> list[_Model]:
    models = [_ensemble(bundle, name, serving)]
    for stage in STAGES:
        config = _stage_config(bundle, stage, name, serving)
        config.backend = "onnxruntime"
        config.default_model_filename = "model.onnx"
        _schedule(config, serving, model_config_pb2.ModelInstanceGroup.KIND_AUTO)
        path = bundle.graph_path(stage, precision)
        models.append(_Model(config, {"model.onnx": path}, {}))
    return models


def _tensorrt_models(
    bundle: Bundle, name: str, serving: Serving, engines: list[EngineSet]
) -> list[_Model]:
    models = [_ensemble(bundle, name, serving)]
    for found in engines:
        found.check_batch(1)
        found.check_batch(serving.max_batch)
    for stage in STAGES:
        config = _stage_config(bundle, stage, name, serving)
        config.backend = "tensorrt"
        _schedule(config, serving, model_config_pb2.ModelInstanceGroup.KIND_GPU)
        files: dict[str, Path | str] = {}
        for found in engines:
            # Reading it compares size and hash with the record.
            found.read_plan(stage)
            (capability,) = found.record.compute_capabilities
            file = f"sm{capability.replace('.', '')}.plan"
            files[file] = found.path / found.record.stages[stage].file
            config.cc_model_filenames[capability] = file
        config.default_model_filename = next(iter(files))
        models.append(_Model(config, files, {}))
    return models


def _tensorrt_engines(bundle: Bundle, precision: str | None) -> list[EngineSet]:
    """The bundle's TensorRT engines in one precision, one per compute capability."""
    precision = precision or bundle.manifest.precision
    every = list_engines(bundle)
    engines = [
        found
        for found in every
        if found.record.backend == "tensorrt" and found.record.precision == precision
    ]
    if not engines:
        have = ", ".join(found.path.name for found in every) or "none"
        raise EngineError(
            f"{bundle.path} has no {precision} engines of tensorrt, which is what Triton runs (it "
            f"has: {have}); run `{build_command(bundle.path, 'tensorrt', precision)}` on each kind "
            "of GPU that will serve, or choose --form onnx"
        )
    versions = sorted({found.record.backend_version for found in engines})
    if len(versions) > 1:
        raise EngineError(
            f"the engines of {bundle.path} were built by TensorRT {' and '.join(versions)}, and a "
            "Triton server has one version; build them again with the server's"
        )
    return engines


def _tensorrt_notes(engines: list[EngineSet]) -> list[str]:
    notes = [
        f"use a Triton release that carries TensorRT {engines[0].record.backend_version}, which "
        "built these engines"
    ]
    plugins = [found.record.plugin for found in engines if found.record.plugin]
    if any(not plugin.embedded for plugin in plugins):
        notes.append(
            "start it with --backend-config=tensorrt,plugins="
            "/path/of/libgarment_transfer_tensorrt.so, since the engines call FlowWarp's plugin"
        )
    if any(plugin.embedded for plugin in plugins):
        notes.append(
            "start it with --backend-config=tensorrt,version-compatible=true, which lets engines "
            "run the plugin that they carry"
        )
    return notes


def _ensemble(bundle: Bundle, name: str, serving: Serving) -> _Model:
    size = bundle.manifest.size
    config = _config(name, pipeline_signature(size), serving)
    config.platform = "ensemble"
    for stage, signature in contract(size).items():
        step = config.ensemble_scheduling.step.add(model_name=f"{name}_{stage}", model_version=-1)
        for tensor in signature.inputs:
            step.input_map[tensor.name] = tensor.name
        for tensor in signature.outputs:
            step.output_map[tensor.name] = tensor.name
    return _Model(config, {}, {})


def _stage_config(bundle: Bundle, stage: str, name: str, serving: Serving) -> Any:
    signature = contract(bundle.manifest.size)[stage]
    config = _config(f"{name}_{stage}", signature, serving)
    for warm_up in _warm_ups(config, serving):
        for tensor in config.input:
            _warm_up_input(warm_up, tensor).zero_data = True
    return config


def _config(name: str, signature: Signature, serving: Serving) -> Any:
    config = model_config_pb2.ModelConfig(name=name, max_batch_size=serving.max_batch)
    # The newest version serves. One that is added takes over once it is loaded and warm.
    config.version_policy.latest.num_versions = 1
    config.response_cache.enable = False
    for tensors, field in ((signature.inputs, config.input), (signature.outputs, config.output)):
        for tensor in tensors:
            # max_batch_size stands for the batch axis.
            field.add(name=tensor.name, data_type=_TYPES[tensor.dtype], dims=tensor.shape[1:])
    return config


def _schedule(config: Any, serving: Serving, kind: Any) -> None:
    config.instance_group.add(count=serving.instances, kind=kind)
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = round(1000 * serving.max_delay_ms)
    batching.default_queue_policy.max_queue_size = QUEUE


def _warm_ups(config: Any, serving: Serving) -> Iterator[Any]:
    for batch in sorted({1, serving.max_batch}):
        yield config.model_warmup.add(name=f"batch of {batch}", batch_size=batch)


def _warm_up_input(warm_up: Any, tensor: Any) -> Any:
    entry = warm_up.inputs[tensor.name]
    entry.data_type = tensor.data_type
    entry.dims.extend(tensor.dims)
    return entry


def _write(repository: Path, version: int, models: Sequence[_Model]) -> None:
    for model in models:
        folder = repository / model.config.name
        if (folder / str(version)).exists():
            raise OutputError(
                f"{folder / str(version)} is there already, and a version is never replaced under "
                f"a running server; give --model-version {_next_version(folder)} to add one, or "
                "another repository"
            )
        _check_same_model(folder / CONFIG, model.config)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        # The ensemble comes last: a server that polls then finds its stages there.
        for model in reversed(models):
            _write_model(repository / model.config.name, version, model)
    except OSError as error:
        raise OutputError(
            f"{error.filename or repository} cannot be written: {error.strerror}; choose a "
            "repository that you may write to"
        ) from error


def _write_model(folder: Path, version: int, model: _Model) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in model.warm_up.items():
        (folder / "warmup").mkdir(exist_ok=True)
        with replacing(folder / "warmup" / name) as temporary:
            temporary.write_bytes(data)
    text = "# Written by garment-transfer triton.\n" + text_format.MessageToString(
        model.config, use_short_repeated_primitives=True
    )
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with _whole_folder(folder / str(version)) as temporary:
        for name, source in model.files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, str):
                target.write_text(source, encoding="utf-8")
            else:
                shutil.copyfile(source, target)


@contextlib.contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """A folder that is at `path` once the block ends, and nowhere should it fail."""
    # Triton takes folders with whole numbers for versions and leaves others alone.
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _check_same_model(path: Path, config: Any) -> None:
    """Raises OutputError where a model of this name with other inputs or outputs is there."""
    if not path.exists():
        return
    try:
        have = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise OutputError(
            f"{path} cannot be read as a model's configuration ({error}); give another --name or "
            "repository"
        ) from error
    for field in ("backend", "platform", "input", "output"):
        if getattr(have, field) != getattr(config, field):
            raise OutputError(
                f"{path} is another model's, with another {field}: versions of one model share "
                "size and form; give another --name or repository"
            )


def _next_version(folder: Path) -> int:
    return 1 + max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
