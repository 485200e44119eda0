"""Real runs on the tiny bundle, in real processes; nothing is asserted about how long they take."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from garment_transfer.benchmarks.harness import (
    Job,
    RowError,
    RowProcess,
    Settings,
    Worker,
    rounds_for,
)
from garment_transfer.benchmarks.measuring import git_revision
from garment_transfer.benchmarks.report import Parity, read_report
from garment_transfer.benchmarks.rows import ROWS, find_checkpoint, select_rows
from garment_transfer.bundle import Bundle, Code, InputError
from garment_transfer.models.presets import shipped_checkpoint
from garment_transfer.runtime import sample_bundle
from garment_transfer.runtime.backends import BACKENDS


@pytest.fixture(scope="module")
def result(invoke, tiny_bundle, tmp_path_factory):
    """A run of two cheap rows and one whose backend is not there, by the command."""
    folder = tmp_path_factory.mktemp("result")
    command = ["benchmark", "--bundle", str(tiny_bundle), "--rounds", "3", "--threads", "1"]
    command += ["--backends", "onnxruntime-standard,onnxruntime-cuda,torch-eager"]
    command += ["--batch", "1,2", "--clients", "1,2", "--json", str(folder / "r.json")]
    command += ["--plot", str(folder / "r.png")]
    printed = invoke(*command)
    return folder, json.loads((folder / "r.json").read_text()), printed


def test_result(result):
    folder, report, output = result
    assert (folder / "r.png").read_bytes().startswith(b"\x89PNG")
    assert len(read_report(folder / "r.json").measured) == 4
    rows = {(row["name"], row["batch"]): row for row in report["rows"]}
    assert {key for key, row in rows.items() if row["status"] == "measured"} == {
        (name, batch) for name in ("empty", "onnxruntime-standard") for batch in (1, 2)
    }
    row = rows["onnxruntime-standard", 2]
    assert len(row["compute"]["samples_ms"]) == 3
    assert len(row["end_to_end"]["samples_ms"]) == 2  # at larger batches half as often, rounded up
    assert row["compute"]["p50_ms"] == pytest.approx(
        np.median(row["compute"]["samples_ms"]), abs=2e-3
    )
    assert set(row["parts_ms"]) == {"read", "fit", "parsing", "warping", "regrowth", "compose"}
    assert row["memory"]["host_mib"] > 30
    assert report["reference"] == "onnxruntime-standard"
    assert row["parity"] == {
        "labels_differ": 0,
        "image_psnr_db": None,
        "image_max_difference": 0,
        "flow_max_difference": 0,
    }
    assert "% of onnxruntime-standard" in output
    assert report["environment"]["packages"]["numpy"] == np.__version__


def test_rows_that_cannot_run_say_why(result):
    _, report, output = result
    reasons = {row["name"]: row["reason"] for row in report["rows"] if "reason" in row}
    assert "checkpoint" in reasons["torch-eager"]
    assert reasons["onnxruntime-cuda"] in output


def test_clients(result):
    points = result[1]["clients"]
    assert [(p["name"], p["clients"]) for p in points] == [
        ("onnxruntime-standard", count) for count in (1, 2)
    ]
    assert all(p["p50_ms"] <= p["p90_ms"] <= p["p99_ms"] for p in points)


def test_interrupted_run_keeps_finished_rows(tiny_bundle, tmp_path):
    file = tmp_path / "r.json"
    command = [sys.executable, "-c", "from garment_transfer.cli.main import main; main()"]
    command += ["benchmark", "--bundle", str(tiny_bundle), "--backends", "onnxruntime-standard"]
    command += ["--rounds", "2", "--batch", "1,2,3,4", "--threads", "1", "--json", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # The next batch size takes seconds to start its processes.
        deadline = time.monotonic() + 120
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    finally:
        process.kill()
    report = read_report(file)
    assert report.interrupted
    assert {row.name for row in report.rows if row.batch == 1} == {"empty", "onnxruntime-standard"}
    assert 4 not in {row.batch for row in report.rows}


def job_of(name, bundle):
    row = next(row for row in ROWS if row.name == name)
    return Job(row, 1, Settings(bundle, [row]))


def test_a_process_that_dies_is_a_row_with_a_reason(tiny_bundle, tmp_path):
    job = job_of("onnxruntime-standard", tiny_bundle)
    with contextlib.closing(RowProcess(job, tmp_path / "log")) as process:
        process.ask(Worker.load)
        os.kill(process.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(RowError, match="ended in take_turn: it printed nothing"):
                process.ask(Worker.take_turn)


def test_a_row_that_fails_says_what_the_runtime_said(tiny_bundle, tmp_path):
    process = RowProcess(job_of("tensorrt", tiny_bundle), tmp_path / "log")
    with contextlib.closing(process), pytest.raises(RowError, match=r"(?i)tensorrt"):
        process.ask(Worker.load)


def test_rounds():
    assert [rounds_for(batch, 60) for batch in (1, 8, 32)] == [60, 15, 6]
    assert rounds_for(32, 3) == 3


def test_rows():
    names = {row.name for row in ROWS}
    assert len(names) == len(ROWS)
    assert {row.backend for row in ROWS} == {*BACKENDS, "torch", "empty"}
    assert {"torch-eager", "torch-compile", "torch-cuda-float16-compile-max-autotune"} <= names
    tensorrt = [row for row in ROWS if row.backend == "tensorrt"]
    assert {(row.plugin, row.load["graphs"]) for row in tensorrt} == {
        (plugin, graphs) for plugin in (True, False) for graphs in (True, False)
    }


def test_selection(tiny_bundle):
    bundle = Bundle.load(tiny_bundle)
    chosen = [row.name for row in select_rows("onnxruntime*, torch-eager", bundle, None)]
    onnxruntime = ["", "-standard", "-cuda", "-cuda-graph"]
    assert chosen == ["empty", "torch-eager", *(f"onnxruntime{name}" for name in onnxruntime)]
    with pytest.raises(InputError, match=r"unknown backend 'tpu'.*onnxruntime-standard \(can run"):
        select_rows("onnxruntime,tpu", bundle, None)


def test_checkpoint_is_found_by_its_hash(tiny_bundle, tmp_path):
    shipped = Bundle.load(sample_bundle())
    assert find_checkpoint(shipped, None) == shipped_checkpoint("lite")
    assert find_checkpoint(Bundle.load(tiny_bundle), None) is None
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"x")
    for wrong in (other, tmp_path / "none"):
        with pytest.raises(InputError) as error:
            find_checkpoint(shipped, wrong)
        assert error.value.code == Code.CHECKPOINT_INVALID


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--rounds", "0"], 2, "0 is not in the range"),
        (["--batch", "0"], 2, "whole numbers of at least 1"),
        (["--clients", "1,x"], 2, "whole numbers of at least 1"),
        (["--backends", "tpu"], 1, "unknown backend 'tpu'"),
        (["--json", "/dev/null/r.json"], 1, "cannot be written"),
        (["--plot", "r.doc"], 1, "does not name a picture format"),
        (["--checkpoint", "none"], 1, "does not exist"),
    ],
)
def test_bad_input(invoke, tiny_bundle, tmp_path, monkeypatch, arguments, code, expected):
    monkeypatch.chdir(tmp_path)
    printed = invoke("benchmark", "--bundle", tiny_bundle, *arguments, code=code)
    assert expected in printed
    assert not list(tmp_path.iterdir())


def test_parity():
    outputs = {
        "image": np.full((1, 2, 2, 3), 100, np.uint8),
        "transfer_parsing": np.zeros((1, 2, 2), np.uint8),
        "flow": np.zeros((1, 2, 2, 2), np.float32),
    }
    other = {name: array.copy() for name, array in outputs.items()}
    other["image"] += 10
    other["transfer_parsing"][0, 0, 0] = 1
    other["flow"][0, 0, 0, 0] = -2
    found = Parity.of(other, outputs)
    assert found.labels_differ == 0.25
    assert found.image_psnr_db == pytest.approx(20 * np.log10(255 / 10))
    assert (found.image_max_difference, found.flow_max_difference) == (10, 2)
    other["flow"][0, 0, 0, 0] = np.nan
    assert Parity.of(other, outputs).flow_max_difference > 1e38


def test_git_revision():
    here = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(here, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert git_revision() is None or git_revision().startswith(head.stdout.strip())
