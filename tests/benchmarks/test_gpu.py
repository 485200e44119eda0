"""The first hour on a GPU without one: limits, what a killed step leaves, and a rehearsal."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

from garment_transfer.benchmarks import gpu
from garment_transfer.benchmarks.rows import ROWS, select_rows
from garment_transfer.bundle import Bundle
from garment_transfer.runtime import sample_bundle

ROOT = Path(__file__).parents[2]


def test_pieces_fit_nine_minutes():
    minutes: dict[str, float] = defaultdict(float)
    for step in gpu.read_steps()[0]:
        minutes[step.piece] += step.minutes
    assert round(max(minutes.values()), 3) <= 9


@pytest.mark.parametrize("rehearse", [False, True])
def test_every_step_names_rows_needs_and_tests_that_exist(rehearse, tmp_path):
    steps, settings, rehearsed = gpu.read_steps()
    assert set(rehearsed) < set(settings)
    settings = {**settings, **(rehearsed if rehearse else {}), "architecture": "90"}
    bundle = Bundle.load(sample_bundle())
    for step in steps:
        assert set(step.needs) <= {
            *("gpu", "tests", "no kernels", "headers", "cmake", "nvcc", "compute-sanitizer"),
            *("onnxruntime-cuda", "tensorrt", "tensorrt-rtx"),
        }
        result = tmp_path / step.piece / f"{step.name}.json"
        command = gpu.fill_in(step, settings, result, bundle.path)
        assert not any("{" in word for word in command)
        for option, value in itertools.pairwise(command):
            if option == "--backends":
                assert len(select_rows(value, bundle, None)) > 1
            if option == "--backend" and "profile" in command:
                assert value in [row.name for row in ROWS]
        for word in command:
            if word.startswith("tests/"):
                assert (ROOT / word).exists()


def test_a_step_that_takes_too_long_saves_what_it_has(tmp_path):
    # its child ignores the interrupt and would outlive it
    program = "sleep 100 & trap 'echo saved; exit' INT; echo begun $!; wait"
    log = tmp_path / "log"
    outcome = gpu.run_command(["sh", "-c", program], log, 4)
    assert outcome == "stopped after 3 s"
    begun, saved = log.read_text().splitlines()
    assert saved == "saved"
    child = int(begun.split()[1])
    for _ in range(1000):  # it has been killed, and takes a moment to end
        if not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie":
            break
        time.sleep(0.01)
    else:
        pytest.fail("the step's child lives on")
    assert gpu.run_command(["sh", "-c", "exit 3"], log, 20) == "failed with status 3"
    assert gpu.run_command(["true"], log, 20) == "passed"


def test_a_run_that_is_stopped_leaves_its_piece(tmp_path):
    command = [sys.executable, "-m", "garment_transfer.benchmarks.gpu", "run", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "load/threads", "--rehearse"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    piece = tmp_path / "load.json"
    while not piece.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() != 0
    step = json.loads(piece.read_text())["steps"]["threads"]
    assert step["outcome"] == "interrupted"


def test_rehearsal(invoke, tmp_path, tiny_bundle, monkeypatch):
    """One step of every kind; the tiny bundle has no float16 graphs, which is a step's failure."""
    monkeypatch.chdir(ROOT)
    names = [
        *("kernels/doctor", "chain/float32", "load/threads", "load/profile", "load/rtx"),
        *("engines/body-float16", "engines/body-float32"),
    ]
    arguments = ["run", str(tmp_path), *names, "--rehearse", "--bundle", str(tiny_bundle)]
    invoke(*arguments, code=1, command=gpu.main)
    found = {
        f"{piece}/{name}": step
        for piece in ("kernels", "chain", "load", "engines")
        for name, step in json.loads((tmp_path / f"{piece}.json").read_text())["steps"].items()
    }
    assert list(found) == names
    for name, step in found.items():
        if name == "engines/body-float16":
            assert step["outcome"] == "failed with status 1"
            assert "float16" in step["printed"][-1]
        elif step["outcome"] != "passed":
            # TensorRT-RTX's packages are not everywhere
            assert name in ("load/rtx", "engines/body-float32")
            assert "tensorrt" in step["outcome"] + "".join(step["printed"])
    rows = found["chain/float32"]["result"]["rows"]
    assert [row["name"] for row in rows] == ["empty", "onnxruntime"]
    threads = found["load/threads"]["result"]
    assert threads["transfers"] + sum(threads["refused"].values()) == 16
    assert (tmp_path / "load" / "profile-trace.json").exists()


def test_a_machine_without_a_gpu_runs_what_needs_none(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = gpu.obstacles(rehearse=False)
    if "gpu" not in missing:
        pytest.skip("there is a GPU")
    printed = invoke("run", "out", "kernels/tests", "tensorrt", command=gpu.main)
    steps = json.loads(Path("out/tensorrt.json").read_text())["steps"]
    assert all(step["outcome"].startswith("left out: ") for step in steps.values())
    assert printed.startswith("no GPU\n")
    assert "== kernels/tests: left out: " in printed
    invoke("run", "out", "kernels/memcheck", command=gpu.main)
    kernels = json.loads(Path("out/kernels.json").read_text())
    assert list(kernels["steps"]) == ["tests", "memcheck"]
    assert kernels["missing"] == missing
    assert "not here: tests: the working folder is not a checkout" in printed


def test_an_unknown_piece_is_refused(invoke, tmp_path):
    printed = invoke("run", tmp_path, "kernel", code=2, command=gpu.main)
    assert "no piece or step kernel" in printed
