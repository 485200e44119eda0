"""`garment-transfer train`: phases of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garment_transfer.cli.options import SIZE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from garment_transfer.bundle import Size

# Those of `training.phases` and `models.presets`, which import torch; `--help` has to answer
# without it.
METHOD = (
    "try-on-parsing",
    "transfer-parsing",
    "self-study",
    "try-on-warping",
    "aligning",
    "warping",
    "warping-joint",
    "regrowth",
)
SUPERVISED = ("supervised-parsing", "supervised-warping", "supervised-regrowth")
PRESETS = ("lite", "full", "lite-without-stn")

_AT_LEAST_1 = click.IntRange(min=1)


def _pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE options as a dictionary."""
    wrong = [value for value in values if "=" not in value]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not NAME=VALUE")
    return dict(value.split("=", 1) for value in values)


@click.command("train")
@click.argument(
    "phases",
    metavar="PHASE...",
    nargs=-1,
    required=True,
    type=click.Choice(("all", *METHOD, "maps", *SUPERVISED)),
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Run folder.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file; the options below override it.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Shards, a data set in VITON's layout, or people's folders; shards in OUTPUT/data, "
    "rendered if missing, if not given.",
)
@click.option("--groups", type=_AT_LEAST_1, help="Groups to render where missing.  [2000]")
@click.option(
    "--workers", type=_AT_LEAST_1, default=2, show_default=True, help="Processes that render."
)
@click.option(
    "--size",
    type=SIZE,
    help="Size that people are rendered at, or fitted to. Half of it is a quick start for "
    "--initial.  [256x192]",
)
@click.option("--preset", type=click.Choice(PRESETS), help="[lite]")
@click.option("--steps", type=_AT_LEAST_1, help="Of every phase.  [4000]")
@click.option("--batch", type=_AT_LEAST_1, help="Of every phase.  [8]")
@click.option(
    "--learning-rate", type=click.FloatRange(min=0, min_open=True), help="Of every phase.  [0.001]"
)
@click.option("--threads", type=_AT_LEAST_1, help="CPU threads of torch.")
@click.option("--seed", type=click.IntRange(min=0), help="[0]")
@click.option(
    "--initial",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Checkpoint that the first PHASE starts from.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    callback=_pairs,
    metavar="NAME=VALUE",
    help="How much a kind of knowledge counts, such as feature=0.",
)
@click.option(
    "--knowledge",
    multiple=True,
    callback=_pairs,
    metavar="NETWORK=FILE",
    help="Checkpoint of a network to learn from, such as try_on_parsing=FILE.",
)
def command(
    phases: tuple[str, ...],
    output: Path,
    config_file: Path | None,
    data: Path | None,
    workers: int,
    threads: int | None,
    size: Size | None,
    initial: Path | None,
    weights: dict[str, str],
    knowledge: dict[str, str],
    **options: str | float | None,
) -> None:
    """Train one PHASE after the other; goes on where a stopped run was.

    The method's phases, in the order that `all` trains them: try-on-parsing, transfer-parsing,
    self-study, try-on-warping, aligning, warping, warping-joint, regrowth. None of them sees the
    truth of a transfer. supervised-parsing, supervised-warping and supervised-regrowth are taught
    by it, which only rendered people have.

    OUTPUT/checkpoint.safetensors gets the weights to export, OUTPUT/PHASE.safetensors those of
    each phase, OUTPUT/logs what TensorBoard shows.
    """
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from garment_transfer.training.config import RunConfig, override, read_config
    from garment_transfer.training.data import Photos, Snapshots, write_built_in_maps
    from garment_transfer.training.phases import PHASES
    from garment_transfer.training.photos import open_photos
    from garment_transfer.training.synthetic import write_shards
    from garment_transfer.training.trainer import open_data, phases_of, train

    config = read_config(config_file) if config_file else RunConfig()
    pixels = (size.height, size.width) if size else None
    config = override(config, {**options, "size": pixels}, weights, knowledge)
    if threads:
        torch.set_num_threads(threads)
    folder = data or output / "data"
    names = [
        n for phase in phases for n in (phases_of(config.preset) if phase == "all" else [phase])
    ]
    if data is None:
        for views in sorted({PHASES[name].batch is Snapshots for name in names}):
            write_shards(folder, config.groups, config.size, workers, views)
        if config.built_in_maps:
            write_built_in_maps(folder)
    configs = [
        config.phase(name, folder, output, initial if i == 0 else None)
        for i, name in enumerate(names)
    ]
    # every phase's data, before the first step of the first; a data set is checked once
    photos = None
    if any(PHASES[name].batch is Photos for name in names):
        photos = open_photos(folder, config.size)
    batches = [open_data(phase, photos) for phase in configs]
    for name, phase, opened in zip(names, configs, batches, strict=True):
        with SummaryWriter(str(output / "logs" / name)) as writer:

            def log(step: int, scalars: dict[str, float]) -> None:
                for key, value in scalars.items():
                    writer.add_scalar(f"{name}/{key}", value, step)  # noqa: B023

            def show(step: int, picture: NDArray[np.uint8]) -> None:
                writer.add_image(f"{name}/pairs", picture, step, dataformats="HWC")  # noqa: B023

            checkpoint = train(phase, log, show, opened)
        click.echo(f"wrote {checkpoint}")
