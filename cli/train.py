"""`garment-transfer train`: one phase of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garment_transfer.cli.options import SIZE

if TYPE_CHECKING:
    from garment_transfer.runtime.bundle import Size

PHASES = ("parsing", "warping", "regrowth")

# Those of `models.presets`, which imports torch; `--help` has to answer without it.
PRESETS = ("lite", "full", "lite-without-stn")

_AT_LEAST_1 = click.IntRange(min=1)


@click.command("train")
@click.argument("phase", type=click.Choice(PHASES))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Run folder.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Shards; OUTPUT/data if not given.",
)
@click.option(
    "--groups",
    type=_AT_LEAST_1,
    default=2000,
    show_default=True,
    help="Groups to render where missing.",
)
@click.option(
    "--workers", type=_AT_LEAST_1, default=2, show_default=True, help="Processes that render."
)
@click.option(
    "--size",
    type=SIZE,
    default="256x192",
    show_default=True,
    help="Size that is rendered at. Half of it is a quick start for --initial.",
)
@click.option("--preset", type=click.Choice(PRESETS), default="lite", show_default=True)
@click.option("--steps", type=_AT_LEAST_1, default=4000, show_default=True)
@click.option("--batch", type=_AT_LEAST_1, default=8, show_default=True)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-3,
    show_default=True,
)
@click.option("--threads", type=_AT_LEAST_1, help="CPU threads of torch.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--initial",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Checkpoint to start from.",
)
def command(
    phase: str,
    output: Path,
    data: Path | None,
    groups: int,
    workers: int,
    size: Size,
    preset: str,
    steps: int,
    batch: int,
    learning_rate: float,
    threads: int | None,
    seed: int,
    initial: Path | None,
) -> None:
    """Train one PHASE of a preset on rendered people; goes on where a stopped run was.

    Rendered data that is missing is rendered first (a group is 4 people, 4 transfers with truth).
    OUTPUT/checkpoint.safetensors gets the weights, OUTPUT/logs what TensorBoard shows.
    """
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from garment_transfer.training.synthetic import write_shards
    from garment_transfer.training.trainer import TrainingConfig, train

    if threads:
        torch.set_num_threads(threads)
    shards = data or output / "data"
    if data is None:
        write_shards(shards, range(groups), (size.height, size.width), workers)
    config = TrainingConfig(
        phase=phase,
        preset=preset,
        data=shards,
        output=output,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        initial=initial,
    )
    with SummaryWriter(str(output / "logs" / phase)) as writer:

        def log(step: int, scalars: dict[str, float]) -> None:
            for name, value in scalars.items():
                writer.add_scalar(f"{phase}/{name}", value, step)

        checkpoint = train(config, log)
    click.echo(f"wrote {checkpoint}")
