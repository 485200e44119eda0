"""Benchmark and profile of a GPU's rows: `pytest -m gpu tests/gpu`."""

import pytest

from garment_transfer.benchmarks.profiling import profile_row, trace
from garment_transfer.benchmarks.report import read_report
from garment_transfer.benchmarks.rows import ROWS, find_checkpoint, unavailable
from garment_transfer.bundle import Bundle
from garment_transfer.runtime import sample_bundle

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["onnxruntime-cuda", "onnxruntime-cuda-graph", "torch-cuda-eager"])
def row(request) -> str:
    """A row that needs no engines; skips where it cannot run."""
    found = next(row for row in ROWS if row.name == request.param)
    bundle = Bundle.load(sample_bundle())
    reason = unavailable(found, bundle, find_checkpoint(bundle, None))
    if reason:
        pytest.skip(f"{found.name}: {reason}")
    return found.name


def test_profile(row):
    profile = profile_row(row, Bundle.load(sample_bundle()), threads=1, transfers=3)
    stages = profile.stages()
    graphs = ["parsing", "warping", "regrowth"]
    if not row.startswith("torch"):  # a chain's copies are timed by events, as its graphs are
        graphs = ["upload", *graphs, "download"]
    assert list(stages) == ["read", "fit", *graphs, "compose", "other"]
    assert min(stages.values()) > 0
    assert sum(layer[3] for layer in profile.layers()) == pytest.approx(profile.total_ms())
    events = [e for e in trace(profile)["traceEvents"] if e["ph"] == "X"]
    transfers = [e for e in events if e["name"] == "transfer"]
    device = [e for e in events if e["pid"] == 2]
    assert device
    for event in device:  # one clock
        assert any(t["ts"] - 200 <= event["ts"] <= t["ts"] + t["dur"] + 200 for t in transfers), (
            event
        )


def test_benchmark(invoke, row, tmp_path):
    file = tmp_path / "r.json"
    command = ["benchmark", "--backends", row, "--rounds", "5", "--json", str(file)]
    invoke(*command)
    report = read_report(file)
    (found,) = [entry for entry in report.measured if entry.name == row]
    if not row.startswith("torch"):
        assert found.chain is not None
        assert found.chain.gpu_ms > 0
    assert found.parity.labels_differ < 0.001
    assert found.parity.image_psnr_db is None or found.parity.image_psnr_db > 40
    assert report.environment.gpus
