"""`garment-transfer compare`: regressions between two results of the benchmark."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command("compare")
@click.argument("old", type=_PATH)
@click.argument("new", type=_PATH)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.05,
    show_default=True,
    help="Share by which medians may differ from run to run.",
)
@click.pass_context
def command(context: click.Context, old: Path, new: Path, tolerance: float) -> None:
    """Tell what became slower from OLD to NEW, two files of `benchmark --json`.

    A row is slower where the new median over the old one is above 1 plus the tolerance. The exit
    status is 1 where a row is slower, or ran and no longer does.
    """
    from garment_transfer.benchmarks.report import caveats, compare_reports, read_report

    before, after = read_report(old), read_report(new)
    changes = compare_reports(before, after, tolerance)
    for line in caveats(before, after):
        click.echo(f"caution: {line}")
    for change in changes:
        row = f"{change.name}, batch {change.batch}, {change.scope}"
        if change.new_ms is None:
            click.echo(f"LOST    {row}: {change.old_ms:.4g} ms, and does not run any more")
            continue
        verdict = change.verdict.upper() if change.verdict == "slower" else change.verdict
        click.echo(
            f"{verdict:<7} {row}: {change.old_ms:.4g} to {change.new_ms:.4g} ms, "
            f"ratio {change.new_ms / change.old_ms:.3f}"
        )
    bad = sum(change.verdict in ("slower", "lost") for change in changes)
    click.echo(f"{len(changes)} compared, {bad} worse")
    context.exit(1 if bad else 0)
