"""Model repositories: what they hold, by Triton's configuration schema and by the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from garment_transfer.bundle import (
    ENGINES,
    STAGES,
    BackendError,
    Batch,
    Bundle,
    BundleError,
    EngineError,
    EngineSet,
    GarmentTransferError,
    OutputError,
    Plugin,
    Signature,
    contract,
)
from garment_transfer.cli.main import main
from garment_transfer.export.triton import Serving, write_repository
from garment_transfer.runtime import Person, Pipeline, sample_bundle, stage_inputs

TYPES = {"uint8": schema.TYPE_UINT8, "float32": schema.TYPE_FP32}

INPUTS = {
    "person_image",
    "person_parsing",
    "person_densepose",
    "garment_image",
    "garment_parsing",
    "garment_densepose",
}
OUTPUTS = {"image", "transfer_parsing", "warped_garment", "flow"}


@pytest.fixture
def bundle(own_tiny_bundle: Path) -> Bundle:
    return Bundle.load(own_tiny_bundle)


def config_of(folder: Path) -> Any:
    """The configuration of a model's folder, by Triton's schema."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def check_signature(config: Any, signature: Signature) -> None:
    for have, due in ((config.input, signature.inputs), (config.output, signature.outputs)):
        assert {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in have} == {
            tensor.name: (TYPES[tensor.dtype], tensor.shape[1:]) for tensor in due
        }


def test_python(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path, serving=Serving(4, 1.5, 3), threads=2)
    folder = tmp_path / "garment_transfer"
    config = config_of(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("garment_transfer", "python", 4)
    assert {tensor.name for tensor in config.input} == INPUTS
    assert {tensor.name for tensor in config.output} == OUTPUTS
    every = [
        tensor
        for signature in contract(bundle.manifest.size).values()
        for tensor in (*signature.inputs, *signature.outputs)
    ]
    shapes = {tensor.name: tensor.shape[1:] for tensor in every}
    for tensor in (*config.input, *config.output):
        assert tuple(tensor.dims) == shapes[tensor.name]
    assert config.version_policy.latest.num_versions == 1
    assert config.HasField("response_cache")
    assert not config.response_cache.enable
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, schema.ModelInstanceGroup.KIND_CPU)
    assert config.dynamic_batching.max_queue_delay_microseconds == 1500
    assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
    assert {name: value.string_value for name, value in config.parameters.items()} == {
        "backend": "onnxruntime",
        "threads": "2",
    }
    assert [warm_up.batch_size for warm_up in config.model_warmup] == [1, 4]
    for warm_up in config.model_warmup:
        assert set(warm_up.inputs) == INPUTS
        for name, entry in warm_up.inputs.items():
            data = (folder / "warmup" / entry.input_data_file).read_bytes()
            due = 1
            for size in shapes[name]:
                due *= size
            assert len(data) == due  # uint8
    # the copy is whole, and serves alone
    copy = Bundle.load(folder / "1" / "bundle")
    assert copy.manifest == bundle.manifest
    assert (folder / "1" / "model.py").is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "config.pbtxt", "warmup"]


def test_python_on_a_gpu(put: Callable[..., EngineSet], bundle: Bundle, tmp_path: Path) -> None:
    put("8.9")
    write_repository(bundle, tmp_path / "new", backend="tensorrt", precision="float32")
    folder = tmp_path / "new" / "garment_transfer"
    config = config_of(folder)
    (group,) = config.instance_group
    assert group.kind == schema.ModelInstanceGroup.KIND_GPU
    assert {name: value.string_value for name, value in config.parameters.items()} == {
        "backend": "tensorrt",
        "precision": "float32",
    }
    copy = folder / "1" / "bundle" / "engines" / "tensorrt-sm89-float32"
    assert (copy / "warping.plan").read_bytes() == b"warping for 8.9"


def check_ensemble(bundle: Bundle, repository: Path) -> None:
    """The steps lead from the contract's inputs to all of its outputs, each by its stage."""
    config = config_of(repository / "garment_transfer")
    assert config.platform == "ensemble"
    assert {tensor.name for tensor in config.input} == INPUTS
    assert {tensor.name for tensor in config.output} == OUTPUTS
    assert [path.name for path in (repository / "garment_transfer" / "1").iterdir()] == []
    assert not config.instance_group
    assert not config.HasField("dynamic_batching")
    known = {tensor.name for tensor in config.input}
    steps = config.ensemble_scheduling.step
    assert [step.model_name for step in steps] == [f"garment_transfer_{stage}" for stage in STAGES]
    for step in steps:
        stage = config_of(repository / step.model_name)
        assert set(step.input_map) == {tensor.name for tensor in stage.input}
        assert set(step.output_map) == {tensor.name for tensor in stage.output}
        assert set(step.input_map.values()) <= known
        known |= set(step.output_map.values())
        assert stage.max_batch_size == config.max_batch_size
        assert stage.HasField("dynamic_batching")
        assert all(
            entry.zero_data for warm_up in stage.model_warmup for entry in warm_up.inputs.values()
        )
        assert set(stage.model_warmup[0].inputs) == set(step.input_map)
    assert known >= OUTPUTS
    for stage, signature in contract(bundle.manifest.size).items():
        check_signature(config_of(repository / f"garment_transfer_{stage}"), signature)


def test_onnx(bundle: Bundle, tmp_path: Path) -> None:
    assert write_repository(bundle, tmp_path, form="onnx") == []
    check_ensemble(bundle, tmp_path)
    for stage in STAGES:
        folder = tmp_path / f"garment_transfer_{stage}"
        config = config_of(folder)
        assert config.backend == "onnxruntime"
        assert config.default_model_filename == "model.onnx"
        assert (folder / "1" / "model.onnx").read_bytes() == bundle.graph_path(stage).read_bytes()


def test_the_ensembles_steps_give_what_the_pipeline_gives(
    bundle: Bundle, tmp_path: Path, make_person: Callable[..., Person]
) -> None:
    write_repository(bundle, tmp_path, form="onnx")
    pairs = [(make_person(seed=i), make_person(seed=i + 5)) for i in range(3)]
    fitted = [stage_inputs(*pair, bundle.manifest.size) for pair in pairs]
    inputs = {name: np.stack([one[name] for one in fitted]) for name in fitted[0]}
    tensors = dict(inputs)
    for step in config_of(tmp_path / "garment_transfer").ensemble_scheduling.step:
        session = onnxruntime.InferenceSession(tmp_path / step.model_name / "1" / "model.onnx")
        given = session.run(
            list(step.output_map),
            {name: tensors[source] for name, source in step.input_map.items()},
        )
        tensors.update(zip(step.output_map.values(), given, strict=True))
    for name, array in Pipeline.load(bundle, threads=1).run(inputs).items():
        assert (tensors[name] == array).all(), name


@pytest.fixture
def put(bundle: Bundle, put_engines: Callable[..., EngineSet]) -> Callable[..., EngineSet]:
    """`put(capability, **fields)`: engines of the bundle, whose plans say which they are."""

    def put(capability: str, **fields: Any) -> EngineSet:
        plan = f"{{stage}} for {capability}"
        given = {"compute_capabilities": (capability,), "batch": Batch(1, 2, 8), **fields}
        return put_engines(bundle, plan=plan, **given)

    return put


def test_tensorrt(put: Callable[..., EngineSet], bundle: Bundle, tmp_path: Path) -> None:
    put("8.6")
    put("9.0")
    put("8.9", backend="tensorrt-rtx")  # Triton does not run these
    notes = write_repository(bundle, tmp_path, form="tensorrt", serving=Serving(instances=2))
    assert len(notes) == 1
    assert "10.16.1.11" in notes[0]
    check_ensemble(bundle, tmp_path)
    for stage in STAGES:
        folder = tmp_path / f"garment_transfer_{stage}"
        config = config_of(folder)
        assert config.backend == "tensorrt"
        (group,) = config.instance_group
        assert (group.count, group.kind) == (2, schema.ModelInstanceGroup.KIND_GPU)
        assert set(config.cc_model_filenames) == {"8.6", "9.0"}
        for capability, file in config.cc_model_filenames.items():
            assert (folder / "1" / file).read_bytes() == f"{stage} for {capability}".encode()
        assert (folder / "1" / config.default_model_filename).is_file()


@pytest.mark.parametrize(
    ("embedded", "due"),
    [(False, "tensorrt,plugins="), (True, "tensorrt,version-compatible=true")],
)
def test_tensorrt_says_what_a_plugin_needs(
    put: Callable[..., EngineSet], bundle: Bundle, tmp_path: Path, embedded: bool, due: str
) -> None:
    put("8.9", plugin=Plugin("FlowWarp", "1", "0" * 64, embedded))
    notes = write_repository(bundle, tmp_path, form="tensorrt")
    assert f"--backend-config={due}" in " ".join(notes)


def test_tensorrt_without_engines(
    put: Callable[..., EngineSet], bundle: Bundle, tmp_path: Path
) -> None:
    put("8.9", backend="tensorrt-rtx")
    with pytest.raises(
        EngineError, match=r"no float32 engines.*has: tensorrt-rtx-sm89.*garment-transfer build"
    ):
        write_repository(bundle, tmp_path / "new", form="tensorrt")
    assert not (tmp_path / "new").exists()


def test_tensorrt_checks_the_engines(
    put: Callable[..., EngineSet], bundle: Bundle, tmp_path: Path
) -> None:
    put("8.9")
    with pytest.raises(EngineError, match=r"do not take a batch of 16; expected 1 to 8"):
        write_repository(bundle, tmp_path / "new", form="tensorrt", serving=Serving(16))
    put("9.0", backend_version="10.17.0.1")
    with pytest.raises(EngineError, match=r"TensorRT 10\.16\.1\.11 and 10\.17\.0\.1"):
        write_repository(bundle, tmp_path / "new", form="tensorrt")


def test_an_altered_engine_is_refused(
    put: Callable[..., EngineSet], bundle: Bundle, tmp_path: Path
) -> None:
    put("8.9")
    plan = next((bundle.path / ENGINES).glob("*/warping.plan"))
    plan.write_bytes(plan.read_bytes()[::-1])
    with pytest.raises(EngineError, match=r"warping\.plan was truncated or altered"):
        write_repository(bundle, tmp_path / "new", form="tensorrt")
    assert not (tmp_path / "new").exists()


def test_versions_are_added_and_never_replaced(bundle: Bundle, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_repository(bundle, repository)
    with pytest.raises(OutputError, match=r"is there already.*give --model-version 2 to add one"):
        write_repository(bundle, repository)
    write_repository(bundle, repository, version=2, serving=Serving(16))
    assert config_of(repository / "garment_transfer").max_batch_size == 16
    with pytest.raises(OutputError, match=r"is another model's, with another backend"):
        write_repository(bundle, repository, version=3, form="onnx")
    write_repository(bundle, repository, form="onnx", name="other")
    assert len(list(repository.iterdir())) == 5


def test_another_size_is_another_model(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path)
    with pytest.raises(OutputError, match=r"with another input: versions of one model share"):
        write_repository(Bundle.load(sample_bundle()), tmp_path, version=2)


@pytest.mark.parametrize(
    ("options", "error", "due"),
    [
        ({"backend": "none"}, BackendError, "unknown backend 'none'"),
        ({"form": "onnx", "precision": "float16"}, BundleError, "has no float16 graphs"),
        ({"form": "python", "precision": "float16"}, BundleError, "has no float16 graphs"),
    ],
)
def test_bad_options(
    bundle: Bundle,
    tmp_path: Path,
    options: dict[str, Any],
    error: type[GarmentTransferError],
    due: str,
) -> None:
    with pytest.raises(error, match=due):
        write_repository(bundle, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_way(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file cannot be written"):
        write_repository(bundle, tmp_path / "file")


def test_command(bundle: Bundle, tmp_path: Path) -> None:
    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["triton", str(bundle.path), *arguments])

    repository = str(tmp_path / "repository")
    result = invoke("-o", repository, "--max-batch", "2", "--max-delay", "0.5", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert f"tritonserver --model-repository {repository}" in result.output
    config = config_of(tmp_path / "repository" / "garment_transfer")
    assert config.max_batch_size == 2
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    result = invoke("-o", repository)
    assert result.exit_code == 1
    assert "--model-version 2" in result.output
    for arguments, due in (
        (("--form", "onnx", "--threads", "2"), "--backend and --threads are for --form python"),
        (("--form", "none"), "none"),
    ):
        result = invoke("-o", repository, *arguments)
        assert result.exit_code == 2
        assert due in result.output
