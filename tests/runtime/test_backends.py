import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from garment_transfer.bundle import CLASSES, BackendError, Bundle, BundleError, Code
from garment_transfer.runtime import Pipeline, sample_bundle
from garment_transfer.runtime.backends import (
    BACKENDS,
    default_threads,
    find_backend,
    onnxruntime as backend,
)


def test_every_backend_has_a_status():
    for name in BACKENDS:
        status = find_backend(name).status()
        assert status.name == name
        assert status.available or (status.reason and status.fix)


def test_engine(tiny_bundle):
    bundle = Bundle.load(tiny_bundle)
    engine = find_backend("onnxruntime").load(bundle, None, {"threads": 1})["parsing"]
    assert engine.signature == bundle.manifest.graphs["parsing"].signature
    with pytest.raises(BackendError, match=r"failed to run.*person_parsing uint8.*if the inputs"):
        engine.run({"person_parsing": np.zeros((1, 64, 32), np.uint8)})


def test_file_that_does_not_load(replace_graph, own_tiny_bundle):
    replace_graph(own_tiny_bundle, b"not a graph")
    bundle = Bundle.load(own_tiny_bundle)
    with pytest.raises(BackendError, match=r"does not load .*parsing\.onnx.*--upgrade") as error:
        find_backend("onnxruntime").load(bundle, None, {})
    assert error.value.code == Code.GRAPH_REJECTED


def test_what_is_loaded_is_what_was_verified(own_tiny_bundle):
    bundle = Bundle.load(own_tiny_bundle)
    (own_tiny_bundle / "parsing.onnx").write_bytes(b"another graph")
    with pytest.raises(BundleError, match=r"parsing\.onnx is truncated"):
        find_backend("onnxruntime").load(bundle, None, {})


@pytest.mark.parametrize(
    "signature",
    [
        "(uint8[N,64,32] person_parsing) => (uint8[N,64,32] transfer_parsing)",  # inputs missing
        "(uint8[1,64,32] person_parsing, uint8[1,64,32,3] person_densepose, uint8[1,64,32] "
        "garment_parsing, uint8[1,64,32,3] garment_densepose) => (uint8[1,64,32] transfer_parsing)",
        "(uint8[N,32,64] person_parsing, uint8[N,32,64,3] person_densepose, uint8[N,32,64] "
        "garment_parsing, uint8[N,32,64,3] garment_densepose) => (uint8[N,32,64] transfer_parsing)",
    ],
)
def test_graph_against_its_manifest(replace_graph, own_tiny_bundle, signature):
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]> g {signature} '
        "{ transfer_parsing = Identity (person_parsing) }"
    )
    replace_graph(own_tiny_bundle, model.SerializeToString())
    bundle = Bundle.load(own_tiny_bundle)
    with pytest.raises(BackendError, match=r"not the graph of its manifest: the inputs .*export"):
        find_backend("onnxruntime").load(bundle, None, {})


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    def version(name: str) -> str:
        if name in packages:
            return "1.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_both_packages(monkeypatch):
    pretend_installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    status = find_backend("onnxruntime").status()
    assert not status.available
    assert "both installed" in status.reason
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in status.fix


def test_no_package(tiny_bundle, monkeypatch):
    pretend_installed(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        BackendError, match=r"onnxruntime is not installed.*pip install onnxruntime"
    ) as error:
        Pipeline.load(tiny_bundle)
    assert error.value.code == Code.BACKEND_UNAVAILABLE


def test_remains_of_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    status = find_backend("onnxruntime").status()
    assert not status.available
    # pip takes it for installed
    assert "pip install --force-reinstall --no-deps onnxruntime" in status.fix
    pretend_installed(monkeypatch)
    assert "pip uninstall" in find_backend("onnxruntime").status().fix


@pytest.mark.parametrize("what", ["none", "broken"])
def test_without_the_kernel_the_function_body_serves(tiny_bundle, tmp_path, monkeypatch, what):
    library = None
    if what == "broken":
        library = tmp_path / "libgarment_transfer_onnxruntime.so"
        library.write_bytes(b"no library")
    monkeypatch.setattr(backend, "onnxruntime_library", lambda: library)
    details = backend.available().details
    assert "FlowWarp by standard operators" in details
    assert ("its kernel is not built" if library is None else "does not load") in details
    assert "libonnxruntime-dev" in details
    assert "7 % longer" in details
    assert find_backend("onnxruntime").load(Bundle.load(tiny_bundle), None, {})


@pytest.mark.parametrize(
    ("name", "options"),
    [("onnxruntime", {}), ("onnxruntime", {"kernel": False}), ("openvino", {})],
    ids=["onnxruntime", "onnxruntime-body", "openvino"],
)
def test_ids_out_of_range_cannot_fault_a_graph(name, options):
    """The pipeline refuses them; an engine that is given them all the same gives some picture."""
    if not find_backend(name).status().available:
        pytest.skip(f"{name} is not installed")
    engines = find_backend(name).load(Bundle.load(sample_bundle()), None, {"threads": 1, **options})
    assert isinstance(engines, dict)
    random = np.random.default_rng(0)
    values: dict[str, Any] = {}
    for engine in engines.values():
        for tensor in engine.signature.inputs:
            shape = tensor.shape_of(1)
            wild = random.integers(0, 256, shape, dtype=np.uint8)
            values.setdefault(tensor.name, wild)
        values |= engine.run({t.name: values[t.name] for t in engine.signature.inputs})
    # ids that the person's map has and no graph knows come through; no others appear
    known = set(range(len(CLASSES))) | set(np.unique(values["person_parsing"]).tolist())
    assert set(np.unique(values["transfer_parsing"]).tolist()) <= known
    assert np.isfinite(values["flow"]).all()


def control_groups(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A /proc and /sys of a process in control groups, two real cores for eight processors."""
    for number in range(8):
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    for name, content in {"proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


V2 = "sys/fs/cgroup/"
V1 = "sys/fs/cgroup/cpu,cpuacct/"


@pytest.mark.parametrize(
    ("processors", "groups", "files", "due"),
    [
        ({0, 1, 2, 3, 4, 5, 6, 7}, "0::/\n", {}, 4),  # real cores
        ({0, 4}, "0::/\n", {}, 1),  # both on one
        ({1, 2, 3}, "0::/\n", {}, 3),  # affinity
        ({*range(8)}, "0::/\n", {f"{V2}cpu.max": "max 100000\n"}, 4),
        ({*range(8)}, "0::/\n", {f"{V2}cpu.max": "200000 100000\n"}, 2),
        ({*range(8)}, "0::/\n", {f"{V2}cpu.max": "290000 100000\n"}, 2),
        ({*range(8)}, "0::/\n", {f"{V2}cpu.max": "20000 100000\n"}, 1),
        # that of a group above is smaller
        (
            {*range(8)},
            "0::/pods/one\n",
            {f"{V2}pods/cpu.max": "100000 100000\n", f"{V2}pods/one/cpu.max": "300000 100000\n"},
            1,
        ),
        # the host's path, of which the container sees the last folder alone
        ({*range(8)}, "0::/docker/0123\n", {f"{V2}cpu.max": "150000 50000\n"}, 3),
        (
            {*range(8)},
            "5:memory:/a\n4:cpu,cpuacct:/a\n0::/\n",
            {f"{V1}a/cpu.cfs_quota_us": "200000\n", f"{V1}a/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        (
            {*range(8)},
            "4:cpu,cpuacct:/docker/0123\n",
            {f"{V1}cpu.cfs_quota_us": "-1\n", f"{V1}cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ({*range(8)}, "0::/\n", {f"{V2}cpu.max": "garbled\n"}, 4),
    ],
)
def test_threads_by_default(tmp_path, monkeypatch, processors, groups, files, due):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: processors)
    assert default_threads(control_groups(tmp_path, groups, files)) == due


def test_where_the_system_says_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert default_threads(tmp_path) == 3  # neither /proc nor /sys
    monkeypatch.delattr(os, "sched_getaffinity")
    assert default_threads() is None
    assert backend.session_options(None).intra_op_num_threads == 0  # ONNX Runtime's own choice


_ON_ONE_CORE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from garment_transfer import Pipeline
from garment_transfer.cli.options import set_opencv_threads
import cv2
set_opencv_threads(None)
assert cv2.getNumThreads() == 1, cv2.getNumThreads()
bundle, backend = sys.argv[1:]
def threads(**options):
    before = len(os.listdir("/proc/self/task"))
    loaded.append(Pipeline.load(bundle, backend, **options))
    return len(os.listdir("/proc/self/task")) - before
loaded = []
threads(threads=1)  # what a process has once
print(threads(threads=1), threads())
"""


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_process_on_one_core_gets_no_more_threads(tiny_bundle, name):
    if not find_backend(name).status().available:
        pytest.skip(f"{name} is not installed")
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        pytest.skip("there is one core, or no affinity")
    run = subprocess.run(
        [sys.executable, "-c", _ON_ONE_CORE, str(tiny_bundle), name], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    due, found = map(int, run.stdout.split())
    assert found == due
