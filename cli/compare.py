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
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.99,
    show_default=True,
    help="Confidence of the bootstrap interval.",
)
@click.pass_context
def command(
    context: click.Context, old: Path, new: Path, tolerance: float, confidence: float
) -> None:
    """Tell what became slower from OLD to NEW, two files of `benchmark --json`.

    A row is slower where the whole interval of new over old median lies above 1 plus the
    tolerance. The exit status is 1 where a row is slower, or ran and no longer does.
    """
    from garment_transfer.benchmarks.comparing import caveats, compare_reports, read_report

    before, after = read_report(old), read_report(new)
    changes = compare_reports(before, after, tolerance, confidence)
    for line in caveats(before, after):
        click.echo(f"caution: {line}")
    for change in changes:
        row = f"{change.name}, batch {change.batch}, {change.scope}"
        if change.interval is None:
            click.echo(f"LOST    {row}: {change.old_ms:.4g} ms, and does not run any more")
            continue
        low, high = change.interval
        verdict = change.verdict.upper() if change.verdict == "slower" else change.verdict
        click.echo(
            f"{verdict:<7} {row}: {change.old_ms:.4g} to {change.new_ms:.4g} ms, "
            f"ratio {low:.3f} to {high:.3f}"
        )
    bad = sum(change.verdict in ("slower", "lost") for change in changes)
    click.echo(f"{len(changes)} compared, {bad} worse")
    context.exit(1 if bad else 0)
