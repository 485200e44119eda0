import copy
import json

import numpy as np
import pytest
from click.testing import CliRunner

from garment_transfer.benchmarks.comparing import compare_reports, read_report
from garment_transfer.benchmarks.harness import write_report
from garment_transfer.benchmarks.samples import drift, summarise
from garment_transfer.bundle import InputError
from garment_transfer.cli.main import main


def times(samples, batch=1):
    found = summarise(samples)
    return {
        "p50_ms": found.p50,
        "p90_ms": found.p90,
        "p99_ms": found.p99,
        "mean_ms": found.mean,
        "pairs_per_s": 1000 * batch / found.mean,
        "drift": drift(samples),
        "samples_ms": [round(sample, 3) for sample in samples],
    }


def report_of(rows):
    """A valid result with the given compute samples by row name; end to end is twice as long."""
    return {
        "schema_version": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "bundle": {
            "name": "b",
            "size": [64, 32],
            "precision": "float32",
            "checkpoint": "0" * 64,
            "parameters": 1,
        },
        "threads": 2,
        "rounds": 60,
        "interrupted": False,
        "reference": "torch-eager",
        "included": {"compute": {"cpu": "a", "cuda": "b"}, "end_to_end": "c"},
        "environment": {
            "processor": "p",
            "cores": 2,
            "logical_cores": 2,
            "usable_cores": 2,
            "governor": None,
            "clock_mhz": None,
            "memory_gib": 8.0,
            "system": "s",
            "python": "3",
            "garment_transfer": "1",
            "packages": {},
            "gpus": [],
            "git_revision": None,
        },
        "quietness": {
            "quiet": True,
            "statement": "The machine was quiet.",
            "others_share": 0.0,
            "lost_share": 0.0,
            "load_average": [0.0, 0.0, 0.0],
            "unstable_rows": [],
        },
        "overhead": None,
        "rows": [
            {
                "name": name,
                "label": name,
                "device": "cpu",
                "batch": 1,
                "status": "measured",
                "load_s": 0.1,
                "build_s": None,
                "first_call_ms": 1.0,
                "warm_up": {"calls": 0, "tried": 5},
                "memory": {"host_mib": 100.0, "device_mib": None},
                "parity": {
                    "labels_differ": 0.0,
                    "image_psnr_db": None,
                    "image_max_difference": 0.0,
                    "flow_max_difference": 0.0,
                },
                "compute": times(samples),
                "end_to_end": times([2 * sample for sample in samples]),
                "parts_ms": {"read": 1.0},
                "warping_and_regrowth_ms": 1.0,
            }
            for name, samples in rows.items()
        ],
        "clients": [],
    }


def noisy(seed, scale=1.0):
    """Sixty times as a machine gives them: lognormal, with disturbances that last some calls."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.choice([1.0, 1.1], 12, p=[0.8, 0.2]), 5)
    return list(scale * 50 * level * rng.lognormal(0, 0.03, 60))


def test_noise_is_not_flagged():
    for seed in range(40):
        old, new = (report_of({"onnxruntime": noisy(2 * seed + i)}) for i in range(2))
        assert {change.verdict for change in compare_reports(old, new)} == {"same"}, seed


def test_a_planted_regression_is_found():
    for seed in range(20):
        old = report_of({"onnxruntime": noisy(2 * seed), "openvino": noisy(100 + seed)})
        new = report_of(
            {"onnxruntime": noisy(2 * seed + 1, 1.25), "openvino": noisy(200 + seed, 0.7)}
        )
        verdicts = {(c.name, c.scope): c.verdict for c in compare_reports(old, new)}
        assert verdicts == {
            ("onnxruntime", "compute"): "slower",
            ("onnxruntime", "end_to_end"): "slower",
            ("openvino", "compute"): "faster",
            ("openvino", "end_to_end"): "faster",
        }, seed


def test_a_lost_row():
    old = report_of({"onnxruntime": noisy(0), "openvino": noisy(1)})
    new = copy.deepcopy(old)
    row = new["rows"][1]
    new["rows"][1] = {k: row[k] for k in ("name", "label", "device", "batch")} | {
        "status": "failed",
        "reason": "it broke",
    }
    assert [c.verdict for c in compare_reports(old, new)] == ["same", "same", "lost", "lost"]
    with pytest.raises(InputError, match="no row in common"):
        compare_reports(old, report_of({"other": noisy(0)}))


@pytest.mark.parametrize(
    ("scale", "status", "word"), [(1.0, 0, "0 worse"), (1.3, 1, "SLOWER  onnxruntime")]
)
def test_command(tmp_path, scale, status, word):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_report(report_of({"onnxruntime": noisy(0)}), old)
    other = report_of({"onnxruntime": noisy(1, scale)})
    other["threads"] = 4
    write_report(other, new)
    result = CliRunner().invoke(main, ["compare", str(old), str(new)])
    assert result.exit_code == status, result.output
    assert word in result.output
    assert "caution: threads differ: 2 before, 4 now" in result.output


@pytest.mark.parametrize(
    ("text", "due"),
    [
        (None, "cannot be read"),
        ("nonsense", "is not JSON"),
        ('{"rows": []}', "is no benchmark result"),
        (json.dumps(report_of({}) | {"threads": 0}), "threads: 0 is less than"),
    ],
)
def test_no_result(tmp_path, text, due):
    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"{due}.*benchmark --json"):
        read_report(path)


def test_samples_take_one_line(tmp_path):
    report = report_of({"onnxruntime": noisy(0)})
    write_report(report, tmp_path / "r.json")
    assert read_report(tmp_path / "r.json") == report
    assert len((tmp_path / "r.json").read_text().splitlines()) < 150
    report["rounds"] = 0
    with pytest.raises(ValueError, match="rounds"):
        write_report(report, tmp_path / "r.json")
