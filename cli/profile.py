"""`garment-transfer profile`: where the time of a transfer goes."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command("profile")
@click.option("--bundle", type=_PATH, help="Bundle to run; default: the one in the package.")
@click.option(
    "--backend",
    default="onnxruntime",
    show_default=True,
    help="What runs it, by the names of `benchmark`, such as torch-eager.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads; default: one per core.")
@click.option(
    "--transfers",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many to time.",
)
@click.option("--top", type=click.IntRange(min=1), default=15, show_default=True, help="Layers.")
@click.option("--checkpoint", type=_PATH, help="Checkpoint of the bundle, for torch.")
@click.option("--json", "json_file", type=_PATH, help="Write stages and layers here.")
@click.option("--plot", "plot_file", type=_PATH, help="Write a picture of bars here.")
@click.option("--trace", "trace_file", type=_PATH, help="Write a trace for Perfetto here.")
def command(
    bundle: Path | None,
    backend: str,
    threads: int | None,
    transfers: int,
    top: int,
    checkpoint: Path | None,
    json_file: Path | None,
    plot_file: Path | None,
    trace_file: Path | None,
) -> None:
    """Time the stages and layers of a transfer, and name the stage that bounds the latency.

    On a GPU the stages are the parts of the chain, copies included, by events on its stream.

    Layers come from the backend's own profiler, which slows it down: shares count.
    """
    from garment_transfer.benchmarks import profiling
    from garment_transfer.benchmarks.measuring import usable_cores, write_json
    from garment_transfer.benchmarks.views import check_plot
    from garment_transfer.bundle import Bundle, check_writable
    from garment_transfer.runtime import sample_bundle

    for path in (json_file, plot_file, trace_file):
        if path:
            check_writable(path)
    if plot_file:
        check_plot(plot_file)
    profile = profiling.profile_row(
        backend,
        Bundle.load(bundle or sample_bundle()),
        threads or usable_cores(),
        transfers,
        checkpoint,
    )
    click.echo(profiling.describe(profile, top))
    if json_file:
        write_json(json_file, profile.to_dict())
    if plot_file:
        profiling.write_plot(profile, plot_file)
    if trace_file:
        write_json(trace_file, profiling.trace(profile))
