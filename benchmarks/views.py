"""A benchmark's result as text and plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from garment_transfer.benchmarks.report import Latency, Report
from garment_transfer.bundle import Code, OutputError, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def number(value: float | None, text: str, none: str = "-") -> str:
    """A number put into a template, or `none` where there is none."""
    return none if value is None else text.format(value)


def tables(report: Report) -> dict[str, list[dict[str, str]]]:
    """Everything that a result holds: the rows of each table by its title, cells by heading."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in report.idle:
        reasons.setdefault((row.label, row.status, row.reason), []).append(str(row.batch))
    found = {
        f"Parity is against {report.reference}, float32.": [
            {
                "batch": str(row.batch),
                "row": row.label + (" (WRONG)" if row.wrong else ""),
                **_quantiles(row.compute),
                "mean": f"{row.compute.mean_ms:.4g}",
                "pairs/s": f"{row.compute.pairs_per_s:.4g}",
                "end to end p50": f"{row.end_to_end.p50_ms:.4g}",
                "host MiB": f"{row.memory.host_mib:.0f}",
                "device MiB": number(row.memory.device_mib, "{:.0f}"),
                "load s": f"{row.load_s:.2f}",
                "first call ms": f"{row.first_call_ms:.0f}",
                "labels differ": f"{row.parity.labels_differ:.2%}",
                "PSNR dB": number(row.parity.image_psnr_db, "{:.1f}", "equal"),
            }
            for row in report.measured
        ],
        "Where the time of a chain on a GPU goes, from its first copy to its last:": [
            {
                "batch": str(row.batch),
                "row": row.label,
                "host us": f"{row.chain.host_us:.1f}",
                "GPU ms": f"{row.chain.gpu_ms:.3f}",
                "CUDA graph": "yes" if row.chain.replays else "no",
            }
            for row in report.measured
            if row.chain
        ],
        "Threads that share one pipeline, batch 1:": [
            {
                "clients": str(point.clients),
                "row": point.label,
                **_quantiles(point),
                "pairs/s": f"{point.pairs_per_s:.4g}",
            }
            for point in report.clients
        ],
        "Not measured:": [
            {"batch": ", ".join(batches), "row": label, "state": state, "reason": reason}
            for (label, state, reason), batches in reasons.items()
        ],
    }
    return {title: rows for title, rows in found.items() if rows}


def _quantiles(times: Latency) -> dict[str, str]:
    found = {"p50 ms": times.p50_ms, "p90": times.p90_ms, "p99": times.p99_ms}
    return {name: f"{ms:.4g}" for name, ms in found.items()}


def threads_of(report: Report) -> str:
    """Such as "2 threads"."""
    return f"{report.threads} thread{'s' if report.threads > 1 else ''}"


def describe(report: Report) -> str:
    """The whole result as plain text."""
    bundle = report.bundle
    lines = [
        f"{bundle.name}, {bundle.size[0]}x{bundle.size[1]}, {threads_of(report)}, "
        f"{report.environment.processor}",
        "Compute (p50 to pairs/s): uint8 arrays to uint8 arrays at the bundle's size; on a GPU "
        "with copies there and back.",
        "End to end: reading both people's files, fitting, the three graphs with their copies, "
        "composing at the photo's size; writing the picture is not included.",
    ]
    at_one = {row.name: row.compute.p50_ms for row in report.measured if row.batch == 1}
    empty = at_one.pop("empty", None)
    if empty and at_one:
        fastest = min(at_one, key=lambda name: at_one[name])
        lines.append(
            f"Measuring and the pipeline's own code: {empty:.3f} ms, "
            f"{empty / at_one[fastest]:.2%} of {fastest}."
        )
    if report.interrupted:
        lines.append("The run was interrupted: the rows are those measured until then.")
    for title, rows in tables(report).items():
        lines += ["", title]
        columns = []
        for name in rows[0]:
            column = [name, *(row[name] for row in rows)]
            side = "<" if name in ("row", "state", "reason") else ">"
            columns.append([f"{cell:{side}{max(map(len, column))}}" for cell in column])
        lines += ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    return "\n".join(lines)


def check_plot(path: Path) -> None:
    """Raises OutputError where matplotlib does not write the format of `path`.

    Raises ModuleNotFoundError where there is no matplotlib.
    """
    from matplotlib.figure import Figure

    formats = Figure().canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in formats:
        raise OutputError(
            Code.OUTPUT_FORMAT,
            f"{path} does not name a picture format",
            fix=f"end it in one of {', '.join(f'.{name}' for name in sorted(formats))}",
        )


def write_plot(report: Report, path: Path, description: str = "") -> None:
    """Writes the plot; the suffix names a format that matplotlib writes. OutputError.

    `description` is kept in the file, which has to be a PNG then.
    """
    with replacing(path) as temporary:
        metadata = {"Description": description} if description else None
        _figure(report).savefig(temporary, dpi=120, metadata=metadata)


def _figure(report: Report) -> Figure:
    from matplotlib.figure import Figure

    measured = [row for row in report.measured if row.name != "empty"]
    batches = sorted({row.batch for row in measured}) or [1]
    count = len(batches) + bool(report.clients)
    figure = Figure(figsize=(5 * count + 3, 0.35 * len(measured) / len(batches) + 3))
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis, batch in zip(axes, batches, strict=False):
        rows = [row for row in measured if row.batch == batch][::-1]
        axis.barh(
            [row.label for row in rows],
            [row.compute.p50_ms for row in rows],
            xerr=[[0] * len(rows), [row.compute.p90_ms - row.compute.p50_ms for row in rows]],
            color=["tab:red" if row.wrong else "tab:blue" for row in rows],
        )
        if batch != batches[0]:
            axis.tick_params(labelleft=len(rows) != len(axes[0].patches))
        axis.set(title=f"batch {batch}", xlabel="ms, p50 and p90")
    if report.clients:
        axis = axes[-1]
        for label in dict.fromkeys(point.label for point in report.clients):
            points = [point for point in report.clients if point.label == label]
            rates = [point.pairs_per_s for point in points]
            axis.plot(rates, [point.p50_ms for point in points], marker="o", label=label)
            for point in points:
                axis.annotate(str(point.clients), (point.pairs_per_s, point.p50_ms))
        axis.set(xlabel="pairs/s", ylabel="p50 ms", title="threads that share a pipeline")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure
