"""`garment-transfer benchmark`: every way to run a bundle, side by side."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from garment_transfer.bundle import PRECISIONS
from garment_transfer.cli.options import COUNTS

if TYPE_CHECKING:
    from garment_transfer.benchmarks.report import Report
    from garment_transfer.bundle import Precision

_PATH = click.Path(path_type=Path)


@click.command("benchmark")
@click.option("--bundle", type=_PATH, help="Bundle to run; default: the one in the package.")
@click.option(
    "--backends",
    default="all",
    show_default=True,
    help="Rows to measure: names or patterns such as 'onnxruntime*,torch-eager'.",
)
@click.option("--batch", type=COUNTS, default="1", show_default=True, help="Batch sizes.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; default: one per core.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=60, show_default=True, help="Rounds at batch 1."
)
@click.option("--clients", type=COUNTS, help="Threads that share a pipeline, such as 1,2,4,8.")
@click.option("--checkpoint", type=_PATH, help="Checkpoint of the bundle, for the torch rows.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Of the bundle's graphs; default: its main one.",
)
@click.option("--json", "json_file", type=_PATH, help="Write the result here.")
@click.option("--plot", "plot_file", type=_PATH, help="Write a plot here.")
@click.pass_context
def command(
    context: click.Context,
    bundle: Path | None,
    backends: str,
    batch: tuple[int, ...],
    threads: int | None,
    rounds: int,
    clients: tuple[int, ...] | None,
    checkpoint: Path | None,
    precision: Precision | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure every backend on the same inputs, in turn, each in its own process.

    A row that cannot run is listed with the reason. An interrupted run keeps what it measured.
    """
    from garment_transfer.benchmarks.harness import Settings, run_benchmark
    from garment_transfer.benchmarks.measuring import usable_cores, write_json
    from garment_transfer.benchmarks.rows import find_checkpoint, select_rows
    from garment_transfer.benchmarks.views import check_plot, describe, write_plot
    from garment_transfer.bundle import Bundle, check_writable
    from garment_transfer.runtime import sample_bundle

    for path in (json_file, plot_file):
        if path:
            check_writable(path)
    if plot_file:
        check_plot(plot_file)
    loaded = Bundle.load(bundle or sample_bundle())
    rows = select_rows(backends, loaded, find_checkpoint(loaded, checkpoint))
    settings = Settings(
        bundle=loaded.path,
        rows=rows,
        batches=batch,
        threads=threads or usable_cores(),
        rounds=rounds,
        clients=clients or (),
        checkpoint=checkpoint,
        precision=precision,
        named=frozenset(part.strip() for part in backends.split(",")),
    )

    def save(report: Report) -> None:
        if json_file:
            write_json(json_file, report)

    # a scheduler's stop is the keyboard's: what was measured is kept
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = run_benchmark(settings, save, lambda line: click.echo(line, err=True))
    click.echo(describe(report))
    if plot_file:
        write_plot(report, plot_file)
    context.exit(130 if report.interrupted else 0)
