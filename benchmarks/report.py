"""A benchmark's result as text, plot and page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from garment_transfer.benchmarks.published import network_time_rows, threads_of
from garment_transfer.bundle import OutputError, replacing

#: The columns of a measured row. "Included" is said once, above the tables.
HEADER = (
    "batch",
    "row",
    "p50 ms",
    "p90",
    "p99",
    "mean",
    "pairs/s",
    "end to end p50",
    "host MiB",
    "device MiB",
    "load s",
    "build s",
    "warm-up calls",
    "labels differ",
    "PSNR dB",
)

#: Beyond these a row is marked: it computes something else.
WRONG_LABELS = 0.01
WRONG_PSNR_DB = 30.0


def is_wrong(row: dict[str, Any]) -> bool:
    """Whether a measured row's result is not the reference's."""
    found = row["parity"]
    psnr = found["image_psnr_db"]
    return found["labels_differ"] > WRONG_LABELS or (psnr is not None and psnr < WRONG_PSNR_DB)


def cells(row: dict[str, Any]) -> list[str]:
    """A measured row in the order of `HEADER`."""
    compute, found = row["compute"], row["parity"]
    warm_up = row["warm_up"]
    psnr = found["image_psnr_db"]
    return [
        str(row["batch"]),
        row["label"] + (" (WRONG)" if is_wrong(row) else ""),
        *(f"{compute[f'{name}_ms']:.4g}" for name in ("p50", "p90", "p99", "mean")),
        f"{compute['pairs_per_s']:.4g}",
        f"{row['end_to_end']['p50_ms']:.4g}",
        f"{row['memory']['host_mib']:.0f}",
        _or_dash(row["memory"]["device_mib"], ".0f"),
        f"{row['load_s']:.2f}",
        _or_dash(row["build_s"], ".1f"),
        f"> {warm_up['tried']}" if warm_up["calls"] is None else str(warm_up["calls"]),
        f"{found['labels_differ']:.2%}",
        "equal" if psnr is None else f"{psnr:.1f}",
    ]


def describe(report: dict[str, Any]) -> str:
    """The whole result as plain text."""
    measured = [row for row in report["rows"] if row["status"] == "measured"]
    lines = [
        f"{report['bundle']['name']}, {report['bundle']['size'][0]}x{report['bundle']['size'][1]}, "
        f"{threads_of(report)}, {report['environment']['processor']}",
        report["quietness"]["statement"],
    ]
    if report["interrupted"]:
        lines.append("The run was interrupted: the rows are those measured until then.")
    if measured:
        lines += [
            f"compute (p50 to pairs/s): {report['included']['compute']['cpu']}; on a GPU with "
            "copies there and back",
            f"end to end: {report['included']['end_to_end']}",
            f"parity: against {report['reference']}, float32",
            "",
            *_aligned([list(HEADER), *map(cells, measured)]),
        ]
    overhead = report["overhead"]
    if overhead:
        lines.append(
            f"measuring and the pipeline's own code: {overhead['empty_ms']:.3f} ms, "
            f"{overhead['share']:.2%} of {overhead['fastest']}"
        )
    reasons: dict[str, list[str]] = {}
    for row in report["rows"]:
        if row["status"] != "measured":
            text = f"{row['name']}: {row['status']}: {row['reason']}"
            reasons.setdefault(text, []).append(str(row["batch"]))
    lines += [f"{text} (batch {', '.join(batches)})" for text, batches in reasons.items()]
    if report["clients"]:
        lines += ["", "threads that share one pipeline, batch 1:"]
        header = ["row", "clients", "p50 ms", "p90", "p99", "pairs/s"]
        lines += _aligned([header, *map(client_cells, report["clients"])])
    lines += ["", "time of the networks, batch 1 (published figures are their authors'):"]
    lines += _aligned([["", "ms", ""], *network_time_rows(report)])
    return "\n".join(lines)


def client_cells(point: dict[str, Any]) -> list[str]:
    """A point of the clients' curve."""
    return [
        point["label"],
        str(point["clients"]),
        *(f"{point[f'{name}_ms']:.4g}" for name in ("p50", "p90", "p99")),
        f"{point['pairs_per_s']:.4g}",
    ]


def check_plot(path: Path | None) -> None:
    """Raises OutputError where matplotlib does not write the format of `path`.

    Raises ModuleNotFoundError where there is no matplotlib.
    """
    from matplotlib.figure import Figure

    formats = Figure().canvas.get_supported_filetypes()
    if path and path.suffix.lower().removeprefix(".") not in formats:
        raise OutputError(
            f"{path} does not name a picture format; end it in one of "
            f"{', '.join(f'.{name}' for name in sorted(formats))}"
        )


def write_plot(report: dict[str, Any], path: Path, description: str = "") -> None:
    """Writes the plot; the suffix names a format that matplotlib writes. OutputError.

    `description` is kept in the file, which has to be a PNG then.
    """
    with replacing(path) as temporary:
        metadata = {"Description": description} if description else None
        _figure(report).savefig(temporary, dpi=120, metadata=metadata)


def write_page(report: dict[str, Any], path: Path) -> None:
    """Writes one HTML file with tables and plot that loads nothing from elsewhere. OutputError."""
    buffer = io.BytesIO()
    _figure(report).savefig(buffer, format="png", dpi=120)
    picture = base64.b64encode(buffer.getvalue()).decode()
    measured = [row for row in report["rows"] if row["status"] == "measured"]
    idle = [row for row in report["rows"] if row["status"] != "measured"]
    parts = [
        _paragraph(report["quietness"]["statement"]),
        _paragraph("The run was interrupted.") if report["interrupted"] else "",
        _paragraph(
            f"Compute: {report['included']['compute']['cpu']}; on a GPU with copies there and "
            f"back. End to end: {report['included']['end_to_end']}. Parity is against "
            f"{report['reference']}."
        ),
        _table(HEADER, map(cells, measured)),
        f'<img alt="latency" src="data:image/png;base64,{picture}">',
        _table(
            ("row", "clients", "p50 ms", "p90", "p99", "pairs/s"),
            map(client_cells, report["clients"]),
        )
        if report["clients"]
        else "",
        _paragraph("Time of the networks, batch 1; published figures are their authors'."),
        _table(("", "ms", ""), network_time_rows(report)),
        _paragraph("Not measured:") if idle else "",
        _table(
            ("batch", "row", "state", "reason"),
            ([str(row["batch"]), row["label"], row["status"], row["reason"]] for row in idle),
        )
        if idle
        else "",
        _table(
            ("environment", ""),
            ([key, str(value)] for key, value in report["environment"].items()),
        ),
    ]
    title = (
        f"{report['bundle']['name']}, {report['bundle']['size'][0]}x{report['bundle']['size'][1]}, "
        f"{threads_of(report)}"
    )
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>body{{font:14px sans-serif;margin:2em}}"
        "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:2px 6px;"
        "text-align:right}td:nth-child(-n+2){text-align:left}img{max-width:100%}</style>"
        f"<h1>{html.escape(title)}</h1>{''.join(parts)}</html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _figure(report: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    measured = [row for row in report["rows"] if row["status"] == "measured"]
    batches = sorted({row["batch"] for row in measured}) or [1]
    count = len(batches) + bool(report["clients"])
    figure = Figure(figsize=(5 * count + 3, 0.35 * len(measured) / len(batches) + 3))
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis, batch in zip(axes, batches, strict=False):
        rows = [row for row in measured if row["batch"] == batch and row["name"] != "empty"][::-1]
        medians = [row["compute"]["p50_ms"] for row in rows]
        tails = [row["compute"]["p90_ms"] - row["compute"]["p50_ms"] for row in rows]
        axis.barh(
            [row["label"] for row in rows],
            medians,
            xerr=[[0] * len(rows), tails],
            color=["tab:red" if is_wrong(row) else "tab:blue" for row in rows],
        )
        if batch != batches[0]:
            axis.tick_params(labelleft=len(rows) != len(axes[0].patches))
        axis.set_title(f"batch {batch}")
        axis.set_xlabel("ms, p50 and p90")
    if report["clients"]:
        axis = axes[-1]
        for label in dict.fromkeys(point["label"] for point in report["clients"]):
            points = [point for point in report["clients"] if point["label"] == label]
            axis.plot(
                [point["pairs_per_s"] for point in points],
                [point["p50_ms"] for point in points],
                marker="o",
                label=label,
            )
            for point in points:
                axis.annotate(point["clients"], (point["pairs_per_s"], point["p50_ms"]))
        axis.set(xlabel="pairs/s", ylabel="p50 ms", title="threads that share a pipeline")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _table(header: Sequence[str], rows: Any) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if cells_are_text else cell.rjust(width)
            for cell, width, cells_are_text in zip(
                row, widths, [name in ("", "row") for name in rows[0]], strict=True
            )
        ).rstrip()
        for row in rows
    ]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
