"""The ablation: rows of one training budget, trained once, measured, and not trained again."""

import json
import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

from garment_transfer.benchmarks import ablation
from garment_transfer.training.config import read_config
from garment_transfer.training.phases import PHASES

ROOT = Path(__file__).parents[2]


def test_every_row_trains_its_stages_for_as_many_steps_as_the_full_method():
    config = read_config(ablation.CONFIG)

    def steps(name):
        total = {}
        for phase, parts in ablation.ROWS[name].phases.items():
            network = PHASES[phase].network
            own = [config.phase(part, Path(), Path()).steps for part in parts]
            total[network] = total.get(network, 0) + sum(own)
        return total

    full = steps(ablation.FULL)
    for name in ablation.ROWS:
        for network, count in steps(name).items():
            assert count == full[network], name


def test_a_row_is_trained_measured_and_not_trained_again(tmp_path):
    file = tmp_path / "tiny.toml"
    file.write_text("steps = 1\nbatch = 2\nsize = [64, 64]\ngroups = 1\n")
    arguments = [
        "--json", str(tmp_path / "rows.json"), "--work", str(tmp_path / "work"),
        "--config", str(file), "--pairs", "1", "--workers", "1", "--threads", "1",
    ]  # fmt: skip

    def run(rows):
        result = CliRunner().invoke(ablation.main, [*arguments, "--rows", rows])
        assert result.exit_code == 0, result.output
        return json.loads((tmp_path / "rows.json").read_text())["rows"]

    first = run("regrowth of rectangles")
    assert [(row["name"], row["stages"]) for row in first] == [
        (ablation.FULL, ["parsing", "warping", "regrowth"]),
        ("regrowth of rectangles", ["regrowth"]),
    ]
    # only the affected stage differs
    assert first[0]["garment_iou"] == first[1]["garment_iou"]
    rows = run("regrowth of rectangles,without STN")
    assert rows[:2] == first
    assert [row["stages"] for row in rows[2:]] == [["warping"]]
    wrong = CliRunner().invoke(ablation.main, [*arguments, "--rows", "without hair"])
    assert "without feature knowledge" in wrong.output
    file.write_text("steps = 2\nbatch = 2\nsize = [64, 64]\ngroups = 1\n")
    wrong = CliRunner().invoke(ablation.main, arguments)
    assert "holds results of another config" in wrong.output


@pytest.fixture
def table(tmp_path, monkeypatch):
    tables = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
    monkeypatch.setitem(tables["_read"].__globals__, "RESULTS", tmp_path)

    def row(name, stages, seed, iou, error):
        figures = {"garment_iou": iou, "skin_iou": 0.5, "changed_ssim": 0.8}
        return {
            "name": name, "stages": stages, "seed": seed, **figures,
            "garment_psnr_db": 20.0, "skin_error": error,
        }  # fmt: skip

    report = {
        "pairs": 256,
        "config": {"size": [128, 96]},
        "rows": [
            row("full", ["parsing", "warping", "regrowth"], 0, 0.90, 10.0),
            row("full", ["parsing", "warping", "regrowth"], 1, 0.92, 10.0),
            row("less", ["parsing"], 0, 0.80, 10.0),
            row("arms", ["regrowth"], 0, 0.90, 9.0),
        ],
    }
    (tmp_path / "ablation.json").write_text(json.dumps(report))
    return tables["ablation"]().splitlines()


def test_the_table_gives_means_spreads_and_a_verdict(table):
    assert table[0].startswith("| 256 held-out pairs at 128x96 |")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert cells[0] == [
        "full", "0.910 ± 0.010", "0.500 ± 0.000", "0.800 ± 0.000", "20.0 ± 0.0", "10.0 ± 0.0", "-"
    ]  # fmt: skip
    # of what a stage without its knowledge decides, the garment is worse and the skin is not
    assert cells[1][0] == "less"
    assert cells[1][-1] == "mixed"
    assert cells[2][-1] == "not worse"
