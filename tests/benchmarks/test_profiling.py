"""Real profiles of real transfers: the numbers have to add up, the trace has to be a valid one."""

import json

import pytest

from garment_transfer.benchmarks.profiling import OUTSIDE, Profile, Span, profile_row, trace
from garment_transfer.benchmarks.rows import ROWS
from garment_transfer.bundle import BackendError, Bundle, InputError
from garment_transfer.runtime import sample_bundle
from garment_transfer.runtime.backends import onnxruntime


@pytest.fixture(scope="module")
def command(invoke, tmp_path_factory, tiny_bundle):
    folder = tmp_path_factory.mktemp("profile")
    arguments = ["profile", "--bundle", str(tiny_bundle), "--backend", "onnxruntime-standard"]
    arguments += ["--transfers", "3", "--threads", "1", "--json", str(folder / "p.json")]
    arguments += ["--plot", str(folder / "p.png"), "--trace", str(folder / "t.json")]
    printed = invoke(*arguments)
    return folder, printed


def test_shares_add_up(command):
    found = json.loads((command[0] / "p.json").read_text())
    for kind in ("stages", "layers"):
        assert sum(entry["share"] for entry in found[kind]) == pytest.approx(1)
        assert sum(entry["ms"] for entry in found[kind]) == pytest.approx(found["total_ms"])
    stages = {entry["name"]: entry["ms"] for entry in found["stages"]}
    assert list(stages) == ["read", "fit", "parsing", "warping", "regrowth", "compose", "other"]
    assert found["bound_by"] == max(stages, key=stages.get)
    for stage in ("parsing", "warping", "regrowth"):
        inside = [e["ms"] for e in found["layers"] if e["stage"] == stage and e["type"] != OUTSIDE]
        assert 0 < sum(inside) <= stages[stage]
    assert f"the latency is bound by {found['bound_by']}" in command[1]
    assert (command[0] / "p.png").read_bytes().startswith(b"\x89PNG")


def check_trace(events, transfers):
    """The parts of Chrome's trace event format that Perfetto's importer needs."""
    complete = [event for event in events if event["ph"] == "X"]
    assert {event["ph"] for event in events} == {"X", "M"}
    for event in events:
        assert {"name", "pid", "tid"} <= set(event)
    for event in complete:
        assert event["ts"] >= 0
        assert event["dur"] >= 0
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in complete} == named
    whole = [event for event in complete if event["name"] == "transfer"]
    assert len(whole) == transfers
    return complete, whole


def test_trace(command):
    found = json.loads((command[0] / "t.json").read_text())
    complete, whole = check_trace(found["traceEvents"], 3)
    # layers lie within their stage, on the same clock
    stages = [e for e in complete if e["tid"] == 1 and e["name"] == e["args"]["stage"]]
    layers = [e for e in complete if e["tid"] == 2]
    assert len(layers) > 30
    slack = 500  # microseconds
    for layer in layers:
        assert any(
            stage["name"] == layer["args"]["stage"]
            and stage["ts"] - slack <= layer["ts"]
            and layer["ts"] + layer["dur"] <= stage["ts"] + stage["dur"] + slack
            for stage in stages
        )
    # what nests on one thread does not overlap otherwise, or Perfetto drops it
    for stage in stages:
        assert any(
            w["ts"] <= stage["ts"] and stage["ts"] + stage["dur"] <= w["ts"] + w["dur"] + 1
            for w in whole
        )


@pytest.mark.parametrize("name", ["torch-eager", "openvino"])
def test_other_profilers(name):
    if name == "openvino":
        pytest.importorskip("openvino")
    profile = profile_row(name, Bundle.load(sample_bundle()), threads=1, transfers=1)
    layers = profile.layers()
    assert sum(layer[3] for layer in layers) == pytest.approx(profile.total_ms())
    types = {op for stage, _, op, _ in layers if stage == "warping"}
    convolution = {"torch-eager": "aten::conv2d", "openvino": "Convolution"}[name]
    assert convolution in types
    check_trace(trace(profile)["traceEvents"], 1)


def test_host_and_device_share_a_time_line():
    spans = [
        Span("transfer", 100.0, 0.010, "transfer"),
        Span("warping", 100.002, 0.004, "device", "warping"),
        Span("k", 100.002, 0.003, "device layers", "warping", "layer"),
    ]
    row = next(row for row in ROWS if row.name == "tensorrt")
    profile = Profile(row, "64x32", 1, 1, "events", spans)
    assert profile.stages() == pytest.approx({"warping": 4, "other": 6})
    assert [layer[3] for layer in profile.layers()] == pytest.approx([6, 3, 1])
    complete = [e for e in trace(profile)["traceEvents"] if e["ph"] == "X"]
    assert [(e["name"], e["pid"], e["ts"]) for e in complete] == [
        ("transfer", 1, 0),
        ("warping", 2, pytest.approx(2000, abs=0.1)),
        ("k", 2, pytest.approx(2000, abs=0.1)),
    ]


def test_without_flow_warp_s_kernel(invoke, monkeypatch, caplog):
    monkeypatch.setattr(onnxruntime, "onnxruntime_library", lambda: None)
    printed = invoke("profile", "--transfers", "1")
    assert "ONNX Runtime, standard operators" in printed
    assert "onnxruntime-standard is profiled in place of onnxruntime: " in caplog.text


def test_bad_input(invoke, tiny_bundle):
    bundle = Bundle.load(tiny_bundle)
    with pytest.raises(InputError, match="unknown backend 'tpu'; expected one of torch-eager"):
        profile_row("tpu", bundle, 1)
    with pytest.raises(BackendError, match=r"torch-eager cannot run here: the checkpoint"):
        profile_row("torch-eager", bundle, 1)
    printed = invoke("profile", "--trace", "/dev/null/t.json", code=1)
    assert "cannot be written" in printed
