"""What each kind of knowledge is worth: the method without it, and taught by the truth.

    python -m garment_transfer.benchmarks.ablation --seeds 0,1,2 --json ablation.json

trains the whole method once a seed and then, for every other row, the affected stage again; all
else is the full method's. A stage always gets the same number of steps: a row that leaves out a
phase spends its steps in another. Every row is measured on set B of the held-out rendered pairs,
whose people stand as no training shows them. Repeated after a stop, it goes on with the step where
it was.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import click
import msgspec
import torch

import garment_transfer.training.config as training_config
from garment_transfer.benchmarks.measuring import environment, write_json
from garment_transfer.bundle import STAGES, GarmentTransferError, check_writable, read_json
from garment_transfer.models.checkpoint import load_checkpoint
from garment_transfer.training.config import RunConfig, read_config
from garment_transfer.training.data import held_out_pairs
from garment_transfer.training.evaluation import Networks, evaluate_held_out
from garment_transfer.training.phases import LEARNT_IN, METHOD, PHASES
from garment_transfer.training.synthetic import HELD_OUT_PAIRS, write_shards
from garment_transfer.training.trainer import CHECKPOINT, result_of, train

CONFIG = Path(training_config.__file__).parent / "configs" / "ablation.toml"
FULL = "full method"


@dataclass(frozen=True)
class Row:
    """A way to train: `phases`, each for the steps of those of the method that it stands for."""

    phases: Mapping[str, Sequence[str]]
    weights: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None


_PARSING = {"transfer-parsing": ["transfer-parsing"], "self-study": ["self-study"]}

ROWS = {
    FULL: Row({phase: [phase] for phase in METHOD}),
    "without feature knowledge": Row(_PARSING, {"feature": 0.0}),
    "without response knowledge": Row(_PARSING, {"response": 0.0}),
    "without self-study": Row({"transfer-parsing": ["transfer-parsing", "self-study"]}),
    "without STN": Row(
        {"warping": ["aligning", "warping"], "warping-joint": ["warping-joint"]},
        preset="lite-without-stn",
    ),
    "without content knowledge": Row(
        {phase: [phase] for phase in ("aligning", "warping", "warping-joint")}, {"content": 0.0}
    ),
    "regrowth of rectangles": Row({"regrowth": ["regrowth"]}, {"erasing": "rectangles"}),
    "supervised by the truth": Row(
        {
            "supervised-parsing": ["transfer-parsing", "self-study"],
            "supervised-warping": ["aligning", "warping", "warping-joint"],
            "supervised-regrowth": ["regrowth"],
        }
    ),
}


def train_row(config: RunConfig, name: str, data: Path, folder: Path) -> dict[str, torch.nn.Module]:
    """Train what a row changes of the full method, which has to be there, below `folder`.

    Returns:
        The networks of the three stages.
    """
    row, full = ROWS[name], folder / FULL.replace(" ", "-")
    output = folder / name.replace(" ", "-")
    knowledge = {network: str(result_of(full, phase)) for network, phase in LEARNT_IN.items()}
    config = msgspec.structs.replace(
        config,
        preset=row.preset or config.preset,
        weights=msgspec.structs.replace(config.weights, **row.weights),
        knowledge=knowledge,
    )
    stages = load_checkpoint(full / CHECKPOINT)[1] if name != FULL else {}
    for phase, parts in row.phases.items():
        steps = sum(config.phase(part, data, output).steps for part in parts)
        result = train(msgspec.structs.replace(config.phase(phase, data, output), steps=steps))
        if PHASES[phase].network in STAGES:
            stages |= load_checkpoint(result)[1]
    return stages


def stages_of(name: str) -> list[str]:
    """The stages that a row trains again."""
    return [s for s in STAGES if s in {PHASES[p].network for p in ROWS[name].phases}]


@click.command()
@click.option("--row", "chosen", multiple=True, type=click.Choice(list(ROWS)), help="All if none.")
@click.option("--seeds", default="0", show_default=True, help="Whole numbers, separated by commas.")
@click.option("--json", "json_file", required=True, type=click.Path(path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), default="runs/ablation", show_default=True)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=CONFIG,
)
@click.option("--pairs", type=click.IntRange(1, HELD_OUT_PAIRS), default=HELD_OUT_PAIRS)
@click.option("--workers", type=click.IntRange(min=1), default=2, help="Processes that render.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of torch.")
def main(
    chosen: tuple[str, ...],
    seeds: str,
    json_file: Path,
    work: Path,
    config_file: Path,
    pairs: int,
    workers: int,
    threads: int | None,
) -> None:
    """Train and measure the rows that the JSON file lacks."""
    check_writable(json_file)
    if threads:
        torch.set_num_threads(threads)
    config = read_config(config_file)
    settings: dict[str, Any] = {
        "config": msgspec.json.decode(msgspec.json.encode(config)),
        "pairs": pairs,
        "environment": environment(),
    }
    report = {**settings, "rows": []}
    if json_file.exists():
        report = read_json(json_file)
        for key in ("config", "pairs"):
            if report.get(key) != settings[key]:
                raise click.ClickException(
                    f"{json_file} holds results of another {key}: choose another file"
                )

    write_shards(work / "data", config.groups, config.size, workers)
    rendered = list(held_out_pairs(range(pairs), config.size, workers, "B"))
    done = {(row["name"], row["seed"]) for row in report["rows"]}
    # every row needs the full method
    rows = [name for name in ROWS if name == FULL or not chosen or name in chosen]
    for seed, name in product(map(int, seeds.split(",")), rows):
        if (name, seed) in done:
            continue
        start = time.monotonic()
        own = msgspec.structs.replace(config, seed=seed)
        try:
            stages = train_row(own, name, work / "data", work / f"seed-{seed}")
        except GarmentTransferError as error:
            raise click.ClickException(str(error)) from error
        # of this session: a row that was stopped before took longer
        seconds = round(time.monotonic() - start)
        figures = evaluate_held_out(Networks(stages), rendered)[0]
        entry = {"name": name, "seed": seed, "stages": stages_of(name), "seconds": seconds}
        report["rows"].append({**figures, **entry})
        write_json(json_file, report)


if __name__ == "__main__":
    main()
