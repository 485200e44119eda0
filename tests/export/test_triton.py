"""Model repositories: what they hold, by Triton's configuration schema and by the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from garment_transfer import export
from garment_transfer.bundle import (
    ENGINES,
    STAGES,
    Batch,
    Bundle,
    Code,
    EngineError,
    EngineSet,
    Framing,
    GarmentTransferError,
    OutputError,
    Plugin,
    Signature,
    chained,
    contract,
)
from garment_transfer.export.triton import Serving, write_repository
from garment_transfer.runtime import Pipeline, sample_bundle, stage_inputs

TYPES = {"uint8": schema.TYPE_UINT8, "float32": schema.TYPE_FP32}


@pytest.fixture
def bundle(own_tiny_bundle) -> Bundle:
    return Bundle.load(own_tiny_bundle)


def config_of(folder: Path) -> Any:
    """The configuration of a model's folder, by Triton's schema."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def check_signature(config: Any, signature: Signature) -> None:
    for found, expected in ((config.input, signature.inputs), (config.output, signature.outputs)):
        assert [(tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in found] == [
            (tensor.name, TYPES[tensor.dtype], tensor.shape[1:]) for tensor in expected
        ]


def test_python(bundle, tmp_path):
    (bundle.path / "engines" / ".interrupted").mkdir(parents=True)
    (bundle.path / "engines" / ".interrupted" / "parsing.plan").touch()
    write_repository(bundle, tmp_path, serving=Serving(4, 1.5, 3), threads=2)
    folder = tmp_path / "garment_transfer"
    config = config_of(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("garment_transfer", "python", 4)
    maps = ("parsing", "densepose", "label_set", "encoding")
    assert [(one.name, one.optional) for one in config.input] == [
        (f"{role}_{field}", field in maps)
        for role in ("person", "garment")
        for field in ("image", *maps)
    ]
    assert [one.name for one in config.output] == ["image"]
    for one in (*config.input, *config.output):
        assert (one.data_type, list(one.dims)) == (schema.TYPE_UINT8, [-1])
    assert all(one.allow_ragged_batch for one in config.input)
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
        "max_megapixels": "4.0",
    }
    # the copy is whole, and serves alone
    copy = Bundle.load(folder / "1" / "bundle")
    assert copy.manifest == bundle.manifest
    assert not (copy.path / "engines").exists()
    source = Path(export.__file__).with_name("triton_model.py")
    assert (folder / "1" / "model.py").read_bytes() == source.read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "config.pbtxt"]


def test_python_on_a_gpu(put, bundle, tmp_path):
    put("8.9")
    write_repository(bundle, tmp_path / "new", backend="tensorrt", precision="float32")
    folder = tmp_path / "new" / "garment_transfer"
    config = config_of(folder)
    (group,) = config.instance_group
    assert group.kind == schema.ModelInstanceGroup.KIND_GPU
    assert {name: value.string_value for name, value in config.parameters.items()} == {
        "backend": "tensorrt",
        "precision": "float32",
        "max_megapixels": "4.0",
    }
    copy = folder / "1" / "bundle" / "engines" / "tensorrt-sm89-float32"
    assert (copy / "warping.plan").read_bytes() == b"warping for 8.9"


def check_ensemble(bundle: Bundle, repository: Path) -> None:
    """The steps lead from the contract's inputs to all of its outputs, each by its stage."""
    signatures = contract(bundle.manifest.size)
    config = config_of(repository / "garment_transfer")
    assert config.platform == "ensemble"
    check_signature(config, chained(signatures.values()))
    framing = config.parameters["framing"].string_value
    assert msgspec.json.decode(framing, type=Framing) == bundle.manifest.framing
    assert not list((repository / "garment_transfer" / "1").iterdir())
    assert not config.instance_group
    assert not config.HasField("dynamic_batching")
    steps = config.ensemble_scheduling.step
    for step, (stage, signature) in zip(steps, signatures.items(), strict=True):
        assert step.model_name == f"garment_transfer_{stage}"
        for names, tensors in (
            (step.input_map, signature.inputs),
            (step.output_map, signature.outputs),
        ):
            assert dict(names) == {tensor.name: tensor.name for tensor in tensors}
        of_stage = config_of(repository / step.model_name)
        check_signature(of_stage, signature)
        assert of_stage.max_batch_size == config.max_batch_size
        assert of_stage.HasField("dynamic_batching")
        assert [warm_up.batch_size for warm_up in of_stage.model_warmup] == [1, 8]
        for warm_up in of_stage.model_warmup:
            assert set(warm_up.inputs) == set(step.input_map)
            assert all(entry.zero_data for entry in warm_up.inputs.values())


def test_onnx(bundle, tmp_path):
    assert write_repository(bundle, tmp_path, form="onnx") == []
    check_ensemble(bundle, tmp_path)
    for stage in STAGES:
        folder = tmp_path / f"garment_transfer_{stage}"
        config = config_of(folder)
        assert config.backend == "onnxruntime"
        assert config.default_model_filename == "model.onnx"
        assert (folder / "1" / "model.onnx").read_bytes() == bundle.graph_path(stage).read_bytes()


def test_the_ensembles_steps_give_what_the_pipeline_gives(bundle, tmp_path, make_person):
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
def put(bundle, put_engines) -> Callable[..., EngineSet]:
    """`put(capability, **fields)`: engines of the bundle, whose plans say which they are."""

    def put(capability: str, **fields: Any) -> EngineSet:
        plan = f"{{stage}} for {capability}"
        given = {"compute_capabilities": (capability,), "batch": Batch(1, 2, 8), **fields}
        return put_engines(bundle, plan=plan, **given)

    return put


def test_tensorrt(put, bundle, tmp_path):
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
    ("embedded", "says"), [(False, "tensorrt,plugins="), (True, "tensorrt,version-compatible=true")]
)
def test_tensorrt_says_what_a_plugin_needs(put, bundle, tmp_path, embedded, says):
    put("8.9", plugin=Plugin("FlowWarp", "1", "0" * 64, embedded))
    notes = write_repository(bundle, tmp_path, form="tensorrt")
    assert f"--backend-config={says}" in " ".join(notes)


def test_tensorrt_checks_the_engines(put, bundle, tmp_path):
    def code(**options: Any) -> Code:
        with pytest.raises(EngineError) as raised:
            write_repository(bundle, tmp_path / "new", form="tensorrt", **options)
        assert not (tmp_path / "new").exists()
        return raised.value.code

    put("8.9", backend="tensorrt-rtx")
    assert code() == Code.ENGINES_MISSING
    put("8.9")
    assert code(serving=Serving(16)) == Code.ENGINE_BATCH
    plan = bundle.path / ENGINES / "tensorrt-sm89-float32" / "warping.plan"
    content = plan.read_bytes()
    plan.write_bytes(content[::-1])
    assert code() == Code.ENGINE_ALTERED
    plan.write_bytes(content)
    put("9.0", backend_version="10.17.0.1")
    assert code() == Code.ENGINE_VERSION


def test_versions_are_added_and_never_replaced(bundle, tmp_path):
    repository = tmp_path / "repository"
    write_repository(bundle, repository)
    with pytest.raises(OutputError, match=r"--model-version 2"):
        write_repository(bundle, repository)
    write_repository(bundle, repository, version=2, serving=Serving(16))
    assert config_of(repository / "garment_transfer").max_batch_size == 16
    with pytest.raises(OutputError, match=r"another backend") as raised:
        write_repository(bundle, repository, version=3, form="onnx")
    assert raised.value.code == Code.OUTPUT_EXISTS
    write_repository(bundle, repository, form="onnx", name="other")
    with pytest.raises(OutputError, match=r"another input"):
        write_repository(
            Bundle.load(sample_bundle()), repository, form="onnx", name="other", version=2
        )
    write_repository(Bundle.load(sample_bundle()), repository, version=3)  # takes any size
    assert len(list(repository.iterdir())) == 5


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"backend": "none"}, Code.BACKEND_UNKNOWN),
        ({"form": "onnx", "precision": "float16"}, Code.PRECISION_MISSING),
        ({"form": "python", "precision": "float16"}, Code.PRECISION_MISSING),
    ],
)
def test_bad_options(bundle, tmp_path, options, code):
    with pytest.raises(GarmentTransferError) as raised:
        write_repository(bundle, tmp_path / "new", **options)
    assert raised.value.code == code
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_way(bundle, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file.* cannot be written") as raised:
        write_repository(bundle, tmp_path / "file")
    assert raised.value.code == Code.OUTPUT_UNWRITABLE


def test_command(bundle, tmp_path, invoke):
    repository = str(tmp_path / "repository")
    printed = invoke(
        "triton",
        bundle.path,
        "-o",
        repository,
        "--max-batch",
        "2",
        "--max-delay",
        "0.5",
        "--max-megapixels",
        "12",
        "--threads",
        "1",
    )
    assert f"tritonserver --model-repository {repository}" in printed
    config = config_of(tmp_path / "repository" / "garment_transfer")
    assert config.max_batch_size == 2
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.parameters["max_megapixels"].string_value == "12.0"
    printed = invoke("triton", bundle.path, "-o", repository, code=1)
    assert "--model-version 2" in printed
    for arguments, says in (
        (("--form", "onnx", "--threads", "2"), "--backend and --threads are for --form python"),
        (("--form", "none"), "none"),
    ):
        printed = invoke("triton", bundle.path, "-o", repository, *arguments, code=2)
        assert says in printed
