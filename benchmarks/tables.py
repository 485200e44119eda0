"""The documents' tables and plot from the committed results, so that no figure in them is typed.

    python -m garment_transfer.benchmarks.tables README.md docs/*.md examples/*/README.md

rewrites what stands between `<!-- table: NAME -->` and `<!-- end -->`, and where a document shows
`benchmark.png`, that plot, if the result it shows has changed.
"""

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from garment_transfer.benchmarks.measuring import p99_in_services
from garment_transfer.benchmarks.report import Report, read_report
from garment_transfer.benchmarks.views import number, threads_of, write_plot
from garment_transfer.bundle import read_json, sha256_of

RESULTS = Path(__file__).parent / "results"

_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _read(name: str) -> Any:
    return read_json(RESULTS / f"{name}.json")


def _benchmark() -> Report:
    return read_report(RESULTS / "benchmark-cpu.json")


def _markdown(rows: Iterable[Mapping[str, str]]) -> str:
    """Rows by heading; "-" where one lacks a heading that another has."""
    rows = list(rows)
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    lines += [[row.get(heading, "-") for heading in headings] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _held_out(kind: str, heading: str, cells: Mapping[str, Callable[[Any], str]]) -> str:
    """Rows of one kind of the held-out sets by name; each cell has a value per set."""
    found = _read("evaluate-lite")["held_out"]
    sets = [{row["name"]: row for row in results[kind]} for results in found.values()]
    return _markdown(
        {
            f"{heading}, set {' / '.join(found)}": name,
            **{
                title: " / ".join(cell(rows[name]) for rows in sets)
                for title, cell in cells.items()
            },
        }
        for name in sets[0]
    )


def held_out() -> str:
    """The method and its baselines on the held-out rendered pairs."""
    return _held_out(
        "rows",
        f"{_read('evaluate-lite')['pairs']} held-out pairs",
        {
            "garment IoU": lambda row: f"{row['garment_iou']:.3f}",
            "skin IoU": lambda row: f"{row['skin_iou']:.3f}",
            "SSIM, changed pixels": lambda row: f"{row['changed_ssim']:.3f}",
            "PSNR in the garment, dB": lambda row: f"{row['garment_psnr_db']:.1f}",
            "SSIM, whole image": lambda row: f"{row['whole_ssim']:.3f}",
        },
    )


def flow() -> str:
    """How far flow and surface coordinates are off on the held-out pairs."""

    def mean(key: str) -> Callable[[Any], str]:
        return lambda row: f"{row[key]:.2f} ({row[f'median_{key}']:.2f})"

    return _held_out(
        "flow",
        "mean (median)",
        {
            "pairs": lambda row: str(row["pairs"]),
            "flow, pixels": mean("flow_px"),
            "owner's places, cm": mean("owner_cm"),
            "person's places, cm": mean("person_cm"),
        },
    )


def borders() -> str:
    """What compositing at the photo's size loses, by what draws the borders."""
    report = _read("evaluate-lite")
    height, width = report["size"]
    return _held_out(
        "borders",
        f"{report['border_pairs']} pairs at {4 * height}x{4 * width}",
        {
            "PSNR at the garment's border, dB": lambda row: f"{row['border_db']:.1f}",
            "inside it, dB": lambda row: f"{row['inside_db']:.1f}",
            "changed pixels, dB": lambda row: f"{row['changed_db']:.1f}",
            "garment IoU": lambda row: f"{row['garment_iou']:.3f}",
        },
    )


def skin() -> str:
    """Real people's skin erased and regrown."""
    return _markdown(
        {
            "skin erased and regrown": row["name"],
            "error, grey levels": f"{row['skin_error']:.1f}",
            "same, the photo's mean colour": f"{row['flat_error']:.1f}",
            "error of the mean colour": f"{row['tone_error']:.1f}",
            "light, correlation": f"{row['light_correlation']:.2f}",
            "light, ratio of deviations": f"{row['light_ratio']:.2f}",
        }
        for row in _read("evaluate-lite")["regrown"]
    )


def real() -> str:
    """Real people's own garments given back."""
    return _markdown(
        {
            "own garment given back": row["name"],
            "SSIM, garment and skin": f"{row['changed_ssim']:.3f}",
            "same, flat colour instead": f"{row['flat_ssim']:.3f}",
            "same, by way of the others": f"{row['cycle_ssim']:.3f}",
            "garment IoU": f"{row['garment_iou']:.3f}",
            "skin IoU": f"{row['skin_iou']:.3f}",
            "arms IoU": f"{row['arms_iou']:.3f}",
            "it moves, pixels": f"{row['own_px']:.1f}",
            "to the mirror image and back": f"{row['mirror_px']:.1f}",
        }
        for row in _read("evaluate-lite")["given_back"]
    )


def maps() -> str:
    """Maps of bare photos beside those that other models gave, and beside the truth."""
    found = _read("maps")

    def share(row: Mapping[str, Any], key: str) -> str:
        return "-" if row[key] is None else f"{row[key]:.3f}"

    return _markdown(
        {
            "IoU of the maps of a bare photo": row["name"],
            **{key: share(row, key) for key in ("garment", "lower", "hair", "face", "skin")},
            "equal parts": share(row, "parts"),
        }
        for row in (*found["people"], *found["held_out"])
    )


def latency() -> str:
    """Every backend at batch 1, how it compares with torch eager, and whether it is right."""
    report = _benchmark()
    rows = [row for row in report.measured if row.batch == 1]
    eager = next(row.compute.p50_ms for row in rows if row.name == "torch-eager")
    return _markdown(
        {
            f"one pair, {report.environment.processor}, {threads_of(report)}": row.label,
            "p50, ms": f"{row.compute.p50_ms:.1f}",
            "p90": f"{row.compute.p90_ms:.1f}",
            "p99": f"{row.compute.p99_ms:.1f}",
            "times as fast as torch eager": (
                "-" if row.name == "empty" else f"{eager / row.compute.p50_ms:.2f}"
            ),
            "end to end, ms": f"{row.end_to_end.p50_ms:.0f}",
            "peak MiB": f"{row.memory.host_mib:.0f}",
            "load, s": f"{row.load_s:.1f}",
            "labels differ": f"{row.parity.labels_differ:.2%}",
            "PSNR": number(row.parity.image_psnr_db, "{:.0f} dB", "equal"),
        }
        for row in rows
    )


def batches() -> str:
    """Throughput at every batch size, and of threads that share one pipeline."""
    report = _benchmark()
    rows: dict[str, dict[str, str]] = {}
    for row in report.measured:
        if row.name != "empty":
            found = rows.setdefault(row.label, {"pairs/s": row.label})
            found[f"batch {row.batch}"] = f"{row.compute.pairs_per_s:.1f}"
    for point in report.clients:
        heading = f"{point.clients} client{'s' if point.clients > 1 else ''} (p50)"
        rows[point.label][heading] = f"{point.pairs_per_s:.1f} ({point.p50_ms:.0f} ms)"
    return _markdown(rows.values())


def peers() -> str:
    """Other methods' networks beside ours."""
    report = _read("peers")
    where = f"{report['environment']['processor']}, {report['threads']} threads"
    return _markdown(
        {
            f"networks, {where}": row["name"],
            "parameters": f"{row['parameters'] / 1e6:.1f} M",
            "multiply-adds": f"{row['giga_multiply_adds']:.1f} G",
            "memory, torch eager": f"{row['eager_mib']} MiB",
            "torch eager, ms": f"{row['eager_ms']:.0f}",
            "ONNX Runtime, ms": f"{row['onnxruntime_ms']:.0f}",
        }
        for row in report["rows"]
    )


def flow_warp() -> str:
    """FlowWarp's kernel beside what else computes the same."""
    report = _read("flow-warp")
    ways = list(dict.fromkeys(way for row in report["rows"] for way in row["median_ms"]))
    moved = "moved by the kernel"
    rows = [
        {
            "median ms": f"{row['device']}, {row['shape']}",
            **{way: number(row["median_ms"].get(way), "{:.2f}") for way in ways},
            moved: f"{row['gb_per_s']:.0f} GB/s",
        }
        for row in report["rows"]
    ]
    if not report["gpu"]["measured"]:
        rows.append({"median ms": "GPU", **dict.fromkeys([*ways, moved], "not measured")})
    return _markdown(rows)


def compose() -> str:
    """Fit and Compose beside their definitions."""
    return _markdown(
        {
            "median ms": f"{row['pair']}, {row['size']}, {row['drawn']:.0%} drawn",
            **{way: number(ms, "{:.1f}") for way, ms in row["median_ms"].items()},
        }
        for row in _read("compose")["rows"]
    )


def triton() -> str:
    """Triton's Python backend beside the pipeline in a loop."""
    report = _read("triton")
    cpu = report["cpu_ms_per_pair"]
    runs = ", ".join(f"{count} of {size}" for size, count in report["batches"].items())
    ways = (
        ("`Pipeline` in a loop", "loop", "-", f"{cpu['loop']:.0f}", "1"),
        (
            f"Triton, {report['concurrency']} requests at a time",
            "triton",
            f"{report['ratio']:.0%}",
            f"{cpu['server']:.0f} + {cpu['client']:.0f}",
            runs,
        ),
    )
    return _markdown(
        {
            f"{report['threads']} CPU threads, one instance": name,
            "pairs/s": f"{report['pairs_per_second'][way]:.1f}",
            "share of the loop's": share,
            "median, ms": f"{report[f'{way}_ms']['p50']:.0f}",
            "99th percentile, ms": f"{report[f'{way}_ms']['p99']:.0f}",
            "processor time per pair, ms": processor_ms,
            "runs by batch size": sizes,
        }
        for name, way, share, processor_ms, sizes in ways
    )


#: The figures of the ablation: heading, key, digits, and the stage that decides it.
_FIGURES = (
    ("garment IoU", "garment_iou", 3, "parsing"),
    ("skin IoU", "skin_iou", 3, "parsing"),
    ("SSIM, changed pixels", "changed_ssim", 3, "warping"),
    ("PSNR in the garment, dB", "garment_psnr_db", 1, "warping"),
    ("error of regrown skin", "skin_error", 1, "regrowth"),
)


def ablation() -> str:
    """What each kind of knowledge is worth: means over the seeds, and how far they spread.

    What was left out is missed where the figures that its stage decides are worse than the full
    method's of the same seed: "mixed" where figures or seeds do not agree.
    """
    report = _read("ablation")
    runs: dict[str, list[Any]] = {}
    for row in report["rows"]:
        runs.setdefault(row["name"], []).append(row)
    height, width = report["config"]["size"]
    full = {run["seed"]: run for run in next(iter(runs.values()))}
    rows = []
    for name, own in runs.items():
        cells = {f"{report['pairs']} pairs of set B at {height}x{width}": name}
        cells["seeds"] = str(len(own))
        words = set()
        for heading, key, digits, stage in _FIGURES:
            values = [run[key] for run in own]
            cells[heading] = f"{statistics.mean(values):.{digits}f}"
            if len(values) > 1:
                cells[heading] += f" ± {(max(values) - min(values)) / 2:.{digits}f}"
            if own[0]["stages"] == [stage]:
                sign = -1 if key == "skin_error" else 1
                for run in own:
                    worse = sign * run[key] < sign * full[run["seed"]][key]
                    words.add("worse" if worse else "not worse")
        verdict = "mixed" if len(words) > 1 else "".join(words) or "-"
        rows.append({**cells, "than the full method": verdict})
    return _markdown(rows)


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
    for phase, title in phases.items():
        figures = report[phase]
        counts = Counter(figures["statuses"])
        times = {name: f"{ms / 1000:.1f}" for name, ms in figures["latency_ms"].items()}
        rows.append(
            {
                f"{report['workers']} workers": title,
                "asked/s": f"{figures['asked_per_second']:.2f}",
                "200": str(counts.pop("200", 0)),
                "429": str(counts.pop("429", 0)),
                "lost with the worker": str(counts.pop("none", 0)),
                "other errors": str(counts.total()),
                "p50, s": times["p50"],
                "p99, s": times["p99"],
                "max, s": times["max"],
                "memory, MB": number(figures.get("memory_mb", {}).get("last_third"), "{}"),
            }
        )
    replaced = report["kill"]["replaced_after_seconds"]
    return f"{_markdown(rows)}\nThe killed worker was replaced after {replaced:g} s.\n"


def capacity() -> str:
    """The p99 at a share of the capacity, the workers for a rate, and what a million takes."""
    report = _read("serve-cpu")
    service = report["workers"] / report["capacity"]["asked_per_second"]  # seconds of a worker
    return _markdown(
        {
            "share of the capacity": f"{share:.0%}",
            "p99, service times": f"{p99_in_services(share):.1f}",
            "p99 here, s": f"{service * p99_in_services(share):.1f}",
            "workers for 100 requests/s": str(math.ceil(100 * service / share)),
            "core-hours for a million": f"{1e6 / 3600 * service / share:.0f}",
        }
        for share in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
    )


def queueing() -> str:
    """Latencies of one worker and of two beside those that queueing arithmetic expects."""
    return _markdown(
        {
            "workers": str(row["workers"]),
            "service time, ms": f"{row['service_ms']:.0f}",
            "share of the capacity": f"{load['share']:.0%}",
            "p99 expected, ms": str(load["expected_p99_ms"]),
            "p99 measured, ms": str(load["latency_ms"]["p99"]),
        }
        for row in _read("capacity")["rows"]
        for load in row["loads"]
    )


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table
    for table in (
        held_out,
        flow,
        borders,
        real,
        skin,
        maps,
        latency,
        batches,
        peers,
        flow_warp,
        compose,
        triton,
        serve,
        capacity,
        queueing,
        ablation,
    )
}

#: The plot, from the folder of the document that shows it.
PLOT = "benchmark.png"


def is_current(plot: Path) -> bool:
    """Whether a plot shows the committed result: it names the result's SHA-256."""
    from PIL import Image

    if not plot.is_file():
        return False
    with Image.open(plot) as image:
        return image.info.get("Description") == _hash()


def _hash() -> str:
    return sha256_of(RESULTS / "benchmark-cpu.json")


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
            write_plot(_benchmark(), plot, _hash())


if __name__ == "__main__":
    main()
