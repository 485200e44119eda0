import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from garment_transfer.benchmarks.ranking import ranking
from garment_transfer.bundle import BackendError
from garment_transfer.cli.main import main
from garment_transfer.runtime import Pipeline, _choosing as choosing

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def entry(device: str, **p50_ms: float) -> dict:
    return {"device": device, "threads": 2, "size": "256x192", "p50_ms": p50_ms}


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The backends that run here, for a test to choose."""
    names: set[str] = set()

    def find(name: str) -> SimpleNamespace:
        status = SimpleNamespace(available=name in names, reason=f"no {name}")
        return SimpleNamespace(status=lambda: status)

    monkeypatch.setattr(choosing, "find_backend", find)
    return names


def test_the_fastest_that_is_installed(available: set[str]) -> None:
    entries = [entry("cpu", onnxruntime=60, openvino=40)]
    available.update(("onnxruntime", "openvino"))
    choice = choosing._fastest(entries)
    assert choice.name == "openvino"
    assert "openvino 40.0 ms, onnxruntime 60.0 ms a pair on cpu, 2 threads" in choice.reason
    assert "tensorrt (not measured)" in choice.reason
    available.remove("openvino")
    choice = choosing._fastest(entries)
    assert choice.name == "onnxruntime"
    assert "openvino (not installed, 40.0 ms)" in choice.reason


def test_the_machine_that_says_most(available: set[str]) -> None:
    gpu = {"onnxruntime": 30.0, "tensorrt": 2.0}
    entries = [entry("cpu", onnxruntime=60, openvino=40), entry("gpu", **gpu)]
    available.update(("onnxruntime", "tensorrt"))
    assert choosing._fastest(entries).name == "tensorrt"


def test_none_runs(available: set[str]) -> None:
    with pytest.raises(BackendError, match=r"no measured backend.*no onnxruntime.*pip install"):
        choosing._fastest([entry("cpu", onnxruntime=60)])


def test_the_data_are_the_committed_results() -> None:
    report = json.loads((RESULTS / "benchmark-cpu.json").read_text(encoding="utf-8"))
    assert choosing.measurements() == ranking([report])["measurements"]


def test_pipeline_takes_it(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert Pipeline.load(tiny_bundle, "auto")
    assert choosing.fastest_backend().reason in caplog.text


def test_command_says_it(tiny_bundle: Path, tmp_path: Path) -> None:
    command = ["transfer", "--sample", "--bundle", str(tiny_bundle), "--backend", "auto"]
    result = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "o.png")])
    assert result.exit_code == 0, result.output
    assert choosing.fastest_backend().reason in result.output
    assert (tmp_path / "o.png").exists()
