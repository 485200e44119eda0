import json
import re
from pathlib import Path

import pytest

from garment_transfer.benchmarks.measuring import write_json
from garment_transfer.benchmarks.report import Failed, compare_reports, read_report
from garment_transfer.bundle import Code, InputError

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "benchmark-cpu.json"


def result(**medians):
    """The committed result with these rows alone, and their medians at batch 1."""
    report = read_report(RESULT)
    report.rows = [row for row in report.measured if row.name in medians and row.batch == 1]
    for row in report.rows:
        row.compute.p50_ms = medians[row.name]
    return report


def test_verdicts():
    old = result(empty=0.1, onnxruntime=100, openvino=100)
    new = result(empty=9.0, onnxruntime=106, openvino=94)
    verdicts = {(c.name, c.scope): c.verdict for c in compare_reports(old, new)}
    assert verdicts == {
        ("onnxruntime", "compute"): "slower",
        ("onnxruntime", "end_to_end"): "same",
        ("openvino", "compute"): "faster",
        ("openvino", "end_to_end"): "same",
    }
    assert {c.verdict for c in compare_reports(old, new, tolerance=0.1)} == {"same"}


def test_a_lost_row():
    old, new = (result(onnxruntime=100, openvino=100) for _ in range(2))
    new.rows[1] = Failed("openvino", "OpenVINO", "cpu", 1, "it broke")
    assert [c.verdict for c in compare_reports(old, new)] == ["same", "same", "lost", "lost"]
    with pytest.raises(InputError, match="no row in common"):
        compare_reports(old, result())


@pytest.mark.parametrize(
    ("median", "status", "word"), [(104, 0, "0 worse"), (130, 1, "SLOWER  onnxruntime")]
)
def test_command(invoke, tmp_path, median, status, word):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_json(old, result(onnxruntime=100))
    other = result(onnxruntime=median)
    other.threads = 4
    write_json(new, other)
    printed = invoke("compare", old, new, code=status)
    assert word in printed
    assert "caution: threads differ: 2 before, 4 now" in printed


@pytest.mark.parametrize("text", [None, "nonsense", '{"rows": []}', "newer", "zero"])
def test_no_result(tmp_path, text):
    path = tmp_path / "r.json"
    if text == "newer":
        text = json.dumps({"schema_version": 99})
    elif text == "zero":
        text = re.sub(r'"p50_ms": [0-9.]+', '"p50_ms": 0', RESULT.read_text(), count=1)
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="benchmark --json") as error:
        read_report(path)
    assert error.value.code == Code.RESULT_INVALID


def test_a_result_is_read_as_it_was_written(tmp_path):
    report = read_report(RESULT)
    write_json(tmp_path / "r.json", report)
    assert read_report(tmp_path / "r.json") == report
    # samples take one line
    assert len((tmp_path / "r.json").read_text().splitlines()) < len(report.rows) * 60
