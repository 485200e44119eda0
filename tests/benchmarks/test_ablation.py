"""The ablation: rows of one training budget, trained once, measured, and not trained again."""

import json
from collections import Counter
from pathlib import Path

from garment_transfer.benchmarks import ablation, tables
from garment_transfer.training.config import read_config
from garment_transfer.training.phases import PHASES


def test_every_row_trains_its_stages_for_as_many_steps_as_the_full_method():
    config = read_config(ablation.CONFIG)

    def steps(name):
        total = Counter()
        for phase, parts in ablation.ROWS[name].phases.items():
            for part in parts:
                total[PHASES[phase].network] += config.phase(part, Path(), Path()).steps
        return total

    for name in ablation.ROWS:
        assert steps(name).items() <= steps(ablation.FULL).items(), name


def test_a_row_is_trained_measured_and_not_trained_again(invoke, tmp_path):
    file = tmp_path / "tiny.toml"
    file.write_text("steps = 1\nbatch = 2\nsize = [64, 64]\ngroups = 1\n")
    arguments = [
        "--json", str(tmp_path / "rows.json"), "--work", str(tmp_path / "work"),
        "--config", str(file), "--pairs", "1", "--workers", "1", "--threads", "1",
    ]  # fmt: skip

    def run(*rows):
        chosen = [word for row in rows for word in ("--row", row)]
        invoke(*arguments, *chosen, command=ablation.main)
        return json.loads((tmp_path / "rows.json").read_text())["rows"]

    first = run("regrowth of rectangles")
    assert [(row["name"], row["stages"]) for row in first] == [
        (ablation.FULL, ["parsing", "warping", "regrowth"]),
        ("regrowth of rectangles", ["regrowth"]),
    ]
    # only the affected stage differs
    assert first[0]["garment_iou"] == first[1]["garment_iou"]
    rows = run("regrowth of rectangles", "without STN")
    assert rows[:2] == first
    assert [row["stages"] for row in rows[2:]] == [["warping"]]
    file.write_text("steps = 2\nbatch = 2\nsize = [64, 64]\ngroups = 1\n")
    printed = invoke(*arguments, code=1, command=ablation.main)
    assert "holds results of another config" in printed


def test_the_table_gives_means_spreads_and_a_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    same = {"skin_iou": 0.5, "changed_ssim": 0.8, "garment_psnr_db": 20.0}
    rows = [
        {
            "name": name,
            "seed": seed,
            "stages": stages,
            "garment_iou": iou,
            "skin_error": error,
            **same,
        }
        for name, seed, stages, iou, error in (
            ("full", 0, ["parsing", "warping", "regrowth"], 0.90, 10.0),
            ("full", 1, ["parsing", "warping", "regrowth"], 0.92, 12.0),
            ("less", 0, ["parsing"], 0.80, 10.0),
            ("arms", 0, ["regrowth"], 0.90, 9.0),
            ("arms", 1, ["regrowth"], 0.92, 11.0),
            ("hands", 0, ["regrowth"], 0.90, 9.0),
            ("hands", 1, ["regrowth"], 0.92, 13.0),
        )
    ]
    report = {"pairs": 256, "config": {"size": [128, 96]}, "rows": rows}
    (tmp_path / "ablation.json").write_text(json.dumps(report))
    header, _, *lines = tables.ablation().splitlines()
    assert header.startswith("| 256 pairs of set B at 128x96 | seeds |")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == [
        "full", "2", "0.910 ± 0.010", "0.500 ± 0.000", "0.800 ± 0.000", "20.0 ± 0.0", "11.0 ± 1.0",
        "-",
    ]  # fmt: skip
    # of what a stage without its knowledge decides, the garment is worse and the skin is not
    assert [(name, verdict) for name, *_, verdict in cells[1:]] == [
        ("less", "mixed"),
        ("arms", "not worse"),
        ("hands", "mixed"),
    ]
