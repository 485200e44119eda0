"""The record of engines: what it holds, which engines are found, and every refusal.

Plans are bytes here: nothing in this file deserialises one.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from functools import partial

import pytest
from msgspec.structs import replace

from garment_transfer.bundle import (
    ENGINES,
    BackendError,
    Bundle,
    BundleError,
    EngineError,
    EngineSet,
    Plugin,
    build_command,
    find_engines,
    list_engines,
    must_be_copied,
)
from garment_transfer.runtime import sample_bundle

VERSION = "10.16.1.11"


@pytest.fixture
def bundle(own_tiny_bundle) -> Bundle:
    return Bundle.load(own_tiny_bundle)


@pytest.fixture
def put(bundle, put_engines) -> Callable[..., EngineSet]:
    """`put(**fields)`: engines of the bundle with a record that differs in these fields."""
    return partial(put_engines, bundle, backend_version=VERSION)


def command_of(error: pytest.ExceptionInfo[EngineError]) -> list[str]:
    """The words of the `garment-transfer build` command in a message."""
    (command,) = (
        text for text in str(error.value).split("`") if text.startswith("garment-transfer build")
    )
    return shlex.split(command)


def test_round_trip(bundle, put):
    written = put(plugin=Plugin("FlowWarp", "1", "a" * 64, embedded=True))
    (read,) = list_engines(bundle)
    assert read == written
    assert read.path.name == "tensorrt-sm89-float32"
    fields = json.loads((read.path / "record.json").read_text())
    assert fields["schema_version"] == 2
    assert fields["batch"] == {"min": 1, "opt": 2, "max": 4}
    assert fields["stages"]["warping"]["outputs"][1] == {
        "name": "flow",
        "dtype": "float32",
        "shape": ["N", 2, 64, 32],
    }
    read.check(VERSION, "8.9")
    assert read.read_plan("warping") == b"plan of warping"


def test_bundle_without_engines(bundle):
    assert list_engines(bundle) == []
    with pytest.raises(EngineError, match=r"no float32 engines of tensorrt .*has: none") as error:
        find_engines(bundle, "tensorrt", "float32", "8.9")
    assert command_of(error) == [
        *("garment-transfer", "build", str(bundle.path)),
        *("--backend", "tensorrt", "--precision", "float32"),
    ]
    assert isinstance(error.value, BackendError)


def test_engines_are_found_by_backend_precision_and_gpu(bundle, put):
    ada = put()
    ampere = put(compute_capabilities=("8.6",))
    portable = put(backend="tensorrt-rtx", compute_capabilities=("8.0", "8.6", "8.9", "12.0"))
    own = put(backend="tensorrt-rtx", compute_capabilities=("8.9",))
    put(precision="int8")
    (bundle.path / ENGINES / ".tensorrt-sm75-float32").mkdir()
    assert len(list_engines(bundle)) == 5
    assert find_engines(bundle, "tensorrt", "float32", "8.9") == ada
    assert find_engines(bundle, "tensorrt", "float32", "8.6") == ampere
    assert find_engines(bundle, "tensorrt-rtx", "float32", "8.6") == portable
    assert find_engines(bundle, "tensorrt-rtx", "float32", "8.9") == own
    with pytest.raises(EngineError, match=r"capability 9\.0 \(it has: .*tensorrt-sm86-float32"):
        find_engines(bundle, "tensorrt", "float32", "9.0")
    with pytest.raises(EngineError, match=r"no float32 engines of tensorrt-rtx .* 12\.1"):
        find_engines(bundle, "tensorrt-rtx", "float32", "12.1")
    with pytest.raises(EngineError, match=r"not run on .* 9\.0; expected one of 8\.0, .*tensorrt "):
        find_engines(bundle, "tensorrt-rtx", "float32", "9.0")
    with pytest.raises(BundleError, match=r"has no float16 graphs.*--precision"):
        find_engines(bundle, "tensorrt", "float16", "8.9")


def test_another_version(put):
    engines = put(optimization_level=5)
    with pytest.raises(
        EngineError, match=rf"built by tensorrt {VERSION}, and 11\.0\.0\.1"
    ) as error:
        engines.check("11.0.0.1", "8.9")
    assert command_of(error)[3:] == [
        *("--backend", "tensorrt", "--precision", "float32"),
        *("--batch", "1:2:4", "--optimization-level", "5", "--plugin", "off"),
    ]


def test_another_gpu(put):
    with pytest.raises(EngineError, match=r"for compute capability 8\.9, and this GPU has 8\.6"):
        put().check(VERSION, "8.6")


def test_engines_of_another_bundle(put):
    engines = put()
    own = engines.record.stages
    for stage, change, due in (
        ("warping", {"onnx_sha256": "b" * 64}, r"engine of warping was built from another graph"),
        (
            "parsing",
            {"inputs": own["parsing"].inputs[:3]},
            r"engine of parsing, the inputs are .*expected \(p",
        ),
    ):
        stages = {**own, stage: replace(own[stage], **change)}
        other = replace(engines, record=replace(engines.record, stages=stages))
        with pytest.raises(EngineError, match=due):
            other.check(VERSION, "8.9")


def test_plugin(put, tmp_path):
    library = tmp_path / "libgarment_transfer_tensorrt.so"
    library.write_bytes(b"one build")
    plugin = Plugin(
        "FlowWarp", "1", hashlib.sha256(library.read_bytes()).hexdigest(), embedded=False
    )
    engines = put(plugin=plugin)
    engines.check(VERSION, "8.9", library)
    with pytest.raises(EngineError, match=r"FlowWarp version 1, and none is installed") as error:
        engines.check(VERSION, "8.9")
    assert command_of(error)[-2:] == ["--plugin", "off"]
    with pytest.raises(EngineError, match=r"and there is no file .*gone\.so"):
        engines.check(VERSION, "8.9", tmp_path / "gone.so")
    library.write_bytes(b"another build")
    with pytest.raises(EngineError, match=rf"SHA-256 {plugin.sha256}; .*is another one") as error:
        engines.check(VERSION, "8.9", library)
    assert "--plugin" not in command_of(error)


def test_engines_with_the_plugin_inside_need_no_library(put):
    engines = put(plugin=Plugin("FlowWarp", "1", "a" * 64, embedded=True))
    engines.check(VERSION, "8.9")
    assert engines.build_command.endswith("--plugin embed")


def test_batch_outside_the_profile(put):
    engines = put()
    for batch in (1, 4):
        engines.check_batch(batch)
    with pytest.raises(EngineError, match=r"do not take a batch of 9; expected 1 to 4") as error:
        engines.check_batch(9)
    assert "1:2:9" in command_of(error)
    with pytest.raises(EngineError, match=r"do not take a batch of 0"):
        engines.check_batch(0)


@pytest.mark.parametrize(
    ("content", "due"),
    [
        (b"plan ", r"warping\.plan was truncated or altered: its size \(5 bytes, 15"),
        (b"plan of warping!", r"warping\.plan was truncated or altered: .* \(16 bytes, 15"),
        (b"PLAN OF WARPING", r"warping\.plan was truncated or altered"),
        (None, r"warping\.plan cannot be read: No such file"),
    ],
)
def test_plan_that_is_not_whole(put, content, due):
    engines = put()
    path = engines.path / "warping.plan"
    assert path.read_bytes() == b"plan of warping"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=due) as error:
        engines.read_plan("warping")
    assert command_of(error)[:3] == ["garment-transfer", "build", str(engines.bundle.path)]
    assert engines.read_plan("parsing") == b"plan of parsing"


@pytest.mark.parametrize(
    ("fields", "due"),
    [
        ({"schema_version": 3}, r"schema version 3.*reads version 2; run `pip install --upgrade"),
        ({"backend": "tensorrt-lite"}, r"Invalid enum value 'tensorrt-lite' - at `\$\.backend`"),
        ({"batch": {"min": 4, "opt": 2, "max": 1}}, r"batch 4:2:1: expected MIN:OPT:MAX"),
        ({"plugin": 3}, r"got `int` - at `\$\.plugin`"),
        ({"stages": {}}, r"length >= 3 - at `\$\.stages`"),
        ({"compute_capabilities": ["8.6"]}, r"it is of tensorrt-sm86-float32, and lies"),
        ({"extra": 1}, r"unknown field `extra`"),
    ],
)
def test_record_that_is_not_valid(bundle, put, fields, due):
    path = put().path / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(EngineError, match=due) as error:
        find_engines(bundle, "tensorrt", "float32", "8.9")
    assert command_of(error)[3:5] == ["--backend", "tensorrt"]


def test_a_record_names_no_file_outside_its_folder(bundle, put):
    path = put().path / "record.json"
    fields = json.loads(path.read_text())
    fields["stages"]["parsing"]["file"] = "../../../outside.plan"
    path.write_text(json.dumps(fields))
    with pytest.raises(EngineError, match=r"matching regex .* - at `\$\.stages\[\.\.\.\]\.file`"):
        list_engines(bundle)


def test_engines_without_a_record(bundle, put):
    path = put().path / "record.json"
    path.write_text("{")
    with pytest.raises(
        EngineError, match=r"record\.json is not a valid record: Input data.*garment-transfer build"
    ):
        list_engines(bundle)
    path.unlink()
    with pytest.raises(EngineError, match=r"record\.json .*: No such file"):
        list_engines(bundle)


def test_the_package_s_own_bundle_is_copied(own_tiny_bundle):
    assert must_be_copied(sample_bundle())
    assert not must_be_copied(own_tiny_bundle)
    assert build_command(sample_bundle(), "tensorrt-rtx", "float32").endswith(" -o ./bundle")
