"""The documents' tables and plot from the committed results, so that no figure in them is typed.

    python -m garment_transfer.benchmarks.tables README.md docs/*.md examples/*/README.md

rewrites what stands between `<!-- table: NAME -->` and `<!-- end -->`, and where a document shows
`docs/benchmark.png`, that plot, if the result it shows has changed.
"""

import hashlib
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from garment_transfer.benchmarks.report import Report, read_report
from garment_transfer.benchmarks.views import network_times, threads_of, write_plot
from garment_transfer.bundle import read_json

RESULTS = Path(__file__).parent / "results"

_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _read(name: str) -> Any:
    return read_json(RESULTS / f"{name}.json")


def _benchmark() -> Report:
    return read_report(RESULTS / "benchmark-cpu.json")


def _table(
    rows: Iterable[Mapping[str, str | float | None]], columns: Mapping[str, tuple[str, str]]
) -> str:
    """Markdown with a column per heading: a row's key, and the template for its value."""
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)]]
    lines += [
        ["-" if row.get(key) is None else text.format(row[key]) for key, text in columns.values()]
        for row in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def held_out() -> str:
    """The method and its baselines on the held-out rendered pairs."""
    columns = {
        "on 256 held-out pairs": ("name", "{}"),
        "garment IoU": ("garment_iou", "{:.3f}"),
        "skin IoU": ("skin_iou", "{:.3f}"),
        "SSIM, changed pixels": ("changed_ssim", "{:.3f}"),
        "PSNR in the garment": ("garment_psnr_db", "{:.1f} dB"),
        "SSIM, whole image": ("whole_ssim", "{:.3f}"),
    }
    return _table(_read("evaluate-lite")["rows"], columns)


def real() -> str:
    """Real people's own garments given back."""
    columns = {
        "own garment given back": ("name", "{}"),
        "SSIM, garment and skin": ("changed_ssim", "{:.3f}"),
        "same, flat colour instead": ("flat_ssim", "{:.3f}"),
        "same, by way of the others": ("cycle_ssim", "{:.3f}"),
        "garment IoU": ("garment_iou", "{:.3f}"),
        "skin IoU": ("skin_iou", "{:.3f}"),
        "arms IoU": ("arms_iou", "{:.3f}"),
    }
    return _table(_read("evaluate-lite")["given_back"], columns)


def latency() -> str:
    """Every backend at batch 1, how it compares with torch eager, and whether it is right."""
    report = _benchmark()
    rows = [row for row in report.measured if row.batch == 1]
    eager = next(row.compute.p50_ms for row in rows if row.name == "torch-eager")
    psnr = {row.name: row.parity.image_psnr_db for row in rows}
    cells = [
        {
            "label": row.label,
            "p50": row.compute.p50_ms,
            "p90": row.compute.p90_ms,
            "p99": row.compute.p99_ms,
            "ratio": None if row.name == "empty" else eager / row.compute.p50_ms,
            "end to end": row.end_to_end.p50_ms,
            "mib": row.memory.host_mib,
            "load": row.load_s,
            "labels": row.parity.labels_differ,
            "psnr": "equal" if psnr[row.name] is None else f"{psnr[row.name]:.0f} dB",
        }
        for row in rows
    ]
    machine = f"one pair, {report.environment.processor}, {threads_of(report)}"
    columns = {
        machine: ("label", "{}"),
        "p50, ms": ("p50", "{:.1f}"),
        "p90": ("p90", "{:.1f}"),
        "p99": ("p99", "{:.1f}"),
        "times as fast as torch eager": ("ratio", "{:.2f}"),
        "end to end, ms": ("end to end", "{:.0f}"),
        "peak MiB": ("mib", "{:.0f}"),
        "load, s": ("load", "{:.1f}"),
        "labels differ": ("labels", "{:.2%}"),
        "PSNR": ("psnr", "{}"),
    }
    return _table(cells, columns)


def batches() -> str:
    """Throughput at every batch size, and of threads that share one pipeline."""
    report = _benchmark()
    rows: dict[str, dict[str, str | float | None]] = {}
    columns = {"pairs/s": ("label", "{}")}
    for row in report.measured:
        if row.name != "empty":
            found = rows.setdefault(row.label, {"label": row.label})
            found[f"batch {row.batch}"] = row.compute.pairs_per_s
            columns[f"batch {row.batch}"] = (f"batch {row.batch}", "{:.1f}")
    for point in report.clients:
        heading = f"{point.clients} client{'s' if point.clients > 1 else ''} (p50)"
        rows[point.label][heading] = f"{point.pairs_per_s:.1f} ({point.p50_ms:.0f} ms)"
        columns[heading] = (heading, "{}")
    return _table(rows.values(), columns)


def published() -> str:
    """Published times of the networks beside ours with the same exclusions."""
    headings = ("networks, 256x192, batch 1, float32", "ms", "origin")
    rows = (dict(zip(headings, row, strict=True)) for row in network_times(_benchmark()))
    return _table(rows, {heading: (heading, "{}") for heading in headings})


def flow_warp() -> str:
    """FlowWarp's kernel beside what else computes the same."""
    report = _read("flow-warp")
    ways = list(dict.fromkeys(way for row in report["rows"] for way in row["median_ms"]))
    rows = [
        {**row["median_ms"], "what": f"{row['device']}, {row['shape']}", "moved": row["gb_per_s"]}
        for row in report["rows"]
    ]
    columns = {
        "median ms": ("what", "{}"),
        **{way: (way, "{:.2f}") for way in ways},
        "moved by the kernel": ("moved", "{:.0f} GB/s"),
    }
    table = _table(rows, columns)
    if not report["gpu"]["measured"]:
        table += f"| {' | '.join(['GPU', *['not measured'] * (len(ways) + 1)])} |\n"
    return table


def triton() -> str:
    """Triton's Python backend beside the pipeline in a loop."""
    report = _read("triton")
    rate, cpu = report["pairs_per_second"], report["cpu_ms_per_pair"]
    rows = [
        {
            "what": "`Pipeline` in a loop",
            "rate": rate["loop"],
            **report["loop_ms"],
            "cpu": f"{cpu['loop']:.0f}",
            "runs": "1",
        },
        {
            "what": f"Triton, {report['concurrency']} requests at a time",
            "rate": rate["triton"],
            "share": report["ratio"],
            **report["triton_ms"],
            "cpu": f"{cpu['server']:.0f} + {cpu['client']:.0f}",
            "runs": ", ".join(f"{count} of {size}" for size, count in report["batches"].items()),
        },
    ]
    columns = {
        f"{report['threads']} CPU threads, one instance": ("what", "{}"),
        "pairs/s": ("rate", "{:.1f}"),
        "share of the loop's": ("share", "{:.0%}"),
        "median, ms": ("p50", "{:.0f}"),
        "99th percentile, ms": ("p99", "{:.0f}"),
        "processor time per pair, ms": ("cpu", "{}"),
        "runs by batch size": ("runs", "{}"),
    }
    return _table(rows, columns)


#: The figures of the ablation that a stage decides, and whether more of them is better.
_DECIDED = {
    "parsing": (("garment_iou", 1), ("skin_iou", 1)),
    "warping": (("changed_ssim", 1), ("garment_psnr_db", 1)),
    "regrowth": (("skin_error", -1),),
}


def ablation() -> str:
    """What each kind of knowledge is worth: means over the seeds, and how far they spread."""
    report = _read("ablation")
    digits = {
        "garment_iou": 3,
        "skin_iou": 3,
        "changed_ssim": 3,
        "garment_psnr_db": 1,
        "skin_error": 1,
    }
    runs: dict[str, list[Any]] = {}
    for row in report["rows"]:
        runs.setdefault(row["name"], []).append(row)

    def mean(name: str, key: str) -> float:
        return statistics.mean(run[key] for run in runs[name])

    def cell(name: str, key: str) -> str:
        values = [run[key] for run in runs[name]]
        text = f"{mean(name, key):.{digits[key]}f}"
        if len(values) > 1:
            text += f" ± {(max(values) - min(values)) / 2:.{digits[key]}f}"
        return text

    def verdict(name: str, base: str) -> str:
        """Whether what was left out is missed, in each figure that the stage decides."""
        stages = runs[name][0]["stages"]
        if len(stages) > 1:
            return "-"
        words = {
            "worse" if sign * (mean(name, key) - mean(base, key)) < 0 else "not worse"
            for key, sign in _DECIDED[stages[0]]
        }
        return words.pop() if len(words) == 1 else "mixed"

    base = next(iter(runs))
    rows = [
        {"name": name, **{key: cell(name, key) for key in digits}, "verdict": verdict(name, base)}
        for name in runs
    ]
    height, width = report["config"]["size"]
    headings = {
        f"{report['pairs']} held-out pairs at {height}x{width}": "name",
        "garment IoU": "garment_iou",
        "skin IoU": "skin_iou",
        "SSIM, changed pixels": "changed_ssim",
        "PSNR in the garment, dB": "garment_psnr_db",
        "error of regrown skin": "skin_error",
        "than the full method": "verdict",
    }
    return _table(rows, {heading: (key, "{}") for heading, key in headings.items()})


def serve() -> str:
    """The example server under load."""
    report = _read("serve-cpu")
    phases = {
        "capacity": f"capacity, {report['capacity']['clients']} clients that wait",
        "steady": f"80 %, {report['steady']['minutes']:g} minutes",
        "overload": "200 %",
        "kill": "30 %, one worker killed",
    }
    rows = []
    for phase, name in phases.items():
        figures = report[phase]
        statuses = {"200": 0, "429": 0, "none": 0, **figures["statuses"]}
        rows.append(
            {
                "name": name,
                "asked": figures.get("asked_per_second") or figures["per_second"],
                **statuses,
                "errors": sum(n for s, n in statuses.items() if s not in ("200", "429", "none")),
                **{key: ms / 1000 for key, ms in figures["latency_ms"].items()},
                "memory": figures.get("memory_mb", {}).get("last_third"),
            }
        )
    columns = {
        f"{report['workers']} workers": ("name", "{}"),
        "asked/s": ("asked", "{:.2f}"),
        "200": ("200", "{}"),
        "429": ("429", "{}"),
        "lost with the worker": ("none", "{}"),
        "other errors": ("errors", "{}"),
        "p50, s": ("p50", "{:.1f}"),
        "p99, s": ("p99", "{:.1f}"),
        "max, s": ("max", "{:.1f}"),
        "memory, MB": ("memory", "{}"),
    }
    replaced = report["kill"]["replaced_after_seconds"]
    return f"{_table(rows, columns)}\nThe killed worker was replaced after {replaced:g} s.\n"


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table
    for table in (held_out, real, latency, batches, published, flow_warp, triton, serve, ablation)
}

#: The plot, from the folder of the document that shows it.
PLOT = "docs/benchmark.png"


def is_current(plot: Path) -> bool:
    """Whether a plot shows the committed result: it names the result's SHA-256."""
    from PIL import Image

    if not plot.is_file():
        return False
    with Image.open(plot) as image:
        return image.info.get("Description") == _hash()


def _hash() -> str:
    return hashlib.sha256((RESULTS / "benchmark-cpu.json").read_bytes()).hexdigest()


def filled(text: str) -> str:
    """`text` with the contents of every table made anew."""
    return _TABLE.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
def main(files: tuple[Path, ...]) -> None:
    """Rewrite the tables of FILES, and the plot that one of them shows, from committed results."""
    for file in files:
        text = file.read_text(encoding="utf-8")
        file.write_text(filled(text), encoding="utf-8")
        plot = file.parent / PLOT
        if PLOT in text and not is_current(plot):
            plot.parent.mkdir(exist_ok=True)
            write_plot(_benchmark(), plot, _hash())


if __name__ == "__main__":
    main()
