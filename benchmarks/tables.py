"""The documents' tables and plot from the committed results, so that no figure in them is typed.

    python -m garment_transfer.benchmarks.tables README.md docs/*.md examples/*/README.md

rewrites what stands between `<!-- table: NAME -->` and `<!-- end -->`, and where a document shows
`docs/benchmark.png`, that plot, if the result it shows has changed.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import click

RESULTS = Path(__file__).parent / "results"

_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def held_out() -> str:
    """The method and its baselines on the held-out rendered pairs."""
    rows = [
        [
            row["name"],
            f"{row['garment_iou']:.3f}",
            f"{row['skin_iou']:.3f}",
            f"{row['changed_ssim']:.3f}",
            f"{row['garment_psnr_db']:.1f} dB",
            f"{row['whole_ssim']:.3f}",
        ]
        for row in _read("evaluate-lite")["rows"]
    ]
    header = [
        "on 256 held-out pairs",
        "garment IoU",
        "skin IoU",
        "SSIM, changed pixels",
        "PSNR in the garment",
        "SSIM, whole image",
    ]
    return _markdown(header, rows)


def real() -> str:
    """Real people's own garments given back."""
    figures = ("changed_ssim", "flat_ssim", "cycle_ssim", "garment_iou", "skin_iou", "arms_iou")
    rows = [
        [row["name"], *(f"{row[key]:.3f}" if key in row else "-" for key in figures)]
        for row in _read("evaluate-lite")["given_back"]
    ]
    header = [
        "own garment given back",
        "SSIM, garment and skin",
        "same, flat colour instead",
        "same, by way of the others",
        "garment IoU",
        "skin IoU",
        "arms IoU",
    ]
    return _markdown(header, rows)


def _benchmark(name: str = "benchmark-cpu") -> tuple[dict, list[dict]]:
    """A result of the benchmark and its measured rows."""
    report = _read(name)
    return report, [row for row in report["rows"] if row["status"] == "measured"]


def latency() -> str:
    """Every backend at batch 1, how it compares with torch eager, and whether it is right."""
    from garment_transfer.benchmarks.published import threads_of

    report, measured = _benchmark()
    rows = [row for row in measured if row["batch"] == 1]
    eager = next(row for row in rows if row["name"] == "torch-eager")["compute"]["p50_ms"]
    cells = [
        [
            row["label"],
            *(f"{row['compute'][f'{name}_ms']:.1f}" for name in ("p50", "p90", "p99")),
            "-" if row["name"] == "empty" else f"{eager / row['compute']['p50_ms']:.2f}",
            f"{row['end_to_end']['p50_ms']:.0f}",
            f"{row['memory']['host_mib']:.0f}",
            f"{row['load_s']:.1f}",
            f"{row['parity']['labels_differ']:.2%}",
            "equal"
            if row["parity"]["image_psnr_db"] is None
            else f"{row['parity']['image_psnr_db']:.0f} dB",
        ]
        for row in rows
    ]
    header = [
        f"one pair, {report['environment']['processor']}, {threads_of(report)}",
        "p50, ms",
        "p90",
        "p99",
        "times as fast as torch eager",
        "end to end, ms",
        "peak MiB",
        "load, s",
        "labels differ",
        "PSNR",
    ]
    return f"{report['quietness']['statement']}\n\n{_markdown(header, cells)}"


def batches() -> str:
    """Throughput at every batch size, and of threads that share one pipeline."""
    report, measured = _benchmark()
    sizes = sorted({row["batch"] for row in measured})
    counts = sorted({point["clients"] for point in report["clients"]})
    of_batch = {
        (row["label"], row["batch"]): row["compute"]["pairs_per_s"]
        for row in measured
        if row["name"] != "empty"
    }
    of_clients = {
        (point["label"], point["clients"]): f"{point['pairs_per_s']:.1f} ({point['p50_ms']:.0f} ms)"
        for point in report["clients"]
    }
    rows = [
        [
            label,
            *(
                f"{of_batch[label, size]:.1f}" if (label, size) in of_batch else "-"
                for size in sizes
            ),
            *(of_clients.get((label, count), "-") for count in counts),
        ]
        for label in dict.fromkeys(label for label, _ in of_batch)
    ]
    header = [
        "pairs/s",
        *(f"batch {size}" for size in sizes),
        *(f"{count} client{'s' if count > 1 else ''} (p50)" for count in counts),
    ]
    return _markdown(header, rows)


def published() -> str:
    """Published times of the networks beside ours with the same exclusions."""
    from garment_transfer.benchmarks.published import network_time_rows

    return _markdown(
        ["networks, 256x192, batch 1, float32", "ms", "origin"],
        network_time_rows(_benchmark()[0]),
    )


def flow_warp() -> str:
    """FlowWarp's kernel beside its peers."""
    report = _read("flow-warp")
    peers = list(dict.fromkeys(peer for row in report["rows"] for peer in row["median_ms"]))
    rows = [
        [
            f"{row['device']}, {row['shape']}",
            *(
                f"{row['median_ms'][peer]:.2f}" if peer in row["median_ms"] else "-"
                for peer in peers
            ),
            f"{row['gb_per_s']:.0f} GB/s",
        ]
        for row in report["rows"]
    ]
    if not report["gpu"]["measured"]:
        rows.append(["GPU", *("not measured" for _ in peers), "not measured"])
    return _markdown(["median ms", *peers, "moved by the kernel"], rows)


def triton() -> str:
    """Triton's Python backend beside the pipeline in a loop."""
    report = _read("triton")
    rate, cpu = report["pairs_per_second"], report["cpu_ms_per_pair"]
    loop, served = report["loop_ms"], report["triton_ms"]
    batches = ", ".join(f"{count} of {size}" for size, count in report["batches"].items())
    rows = [
        [
            "`Pipeline` in a loop",
            f"{rate['loop']:.1f}",
            "-",
            f"{loop['p50']:.0f}",
            f"{loop['p99']:.0f}",
            f"{cpu['loop']:.0f}",
            "1",
        ],
        [
            f"Triton, {report['concurrency']} requests at a time",
            f"{rate['triton']:.1f}",
            f"{report['ratio']:.0%}",
            f"{served['p50']:.0f}",
            f"{served['p99']:.0f}",
            f"{cpu['server']:.0f} + {cpu['client']:.0f}",
            batches,
        ],
    ]
    header = [
        f"{report['threads']} CPU threads, one instance",
        "pairs/s",
        "share of the loop's",
        "median, ms",
        "99th percentile, ms",
        "processor time per pair, ms",
        "runs by batch size",
    ]
    return _markdown(header, rows)


def ablation() -> str:
    """What each kind of knowledge is worth: means over the seeds, and how far they spread."""
    report = _read("ablation")
    names = list(dict.fromkeys(row["name"] for row in report["rows"]))
    figures = {
        name: {
            key: [row[key] for row in report["rows"] if row["name"] == name]
            for key in ("garment_iou", "skin_iou", "changed_ssim", "garment_psnr_db", "skin_error")
        }
        for name in names
    }
    # the figures that a stage decides, and whether more of them is better
    decided = {
        "parsing": (("garment_iou", 1), ("skin_iou", 1)),
        "warping": (("changed_ssim", 1), ("garment_psnr_db", 1)),
        "regrowth": (("skin_error", -1),),
    }

    def cell(name: str, key: str, digits: int) -> str:
        values = figures[name][key]
        middle = f"{sum(values) / len(values):.{digits}f}"
        if len(values) == 1:
            return middle
        return f"{middle} ± {(max(values) - min(values)) / 2:.{digits}f}"

    def verdict(row: dict) -> str:
        """Whether what was left out is missed, in each figure that the stage decides."""
        if len(row["stages"]) > 1:
            return "-"
        base = figures[names[0]]
        words = []
        for key, sign in decided[row["stages"][0]]:
            without, full = (sum(x[key]) / len(x[key]) for x in (figures[row["name"]], base))
            words.append("worse" if sign * (without - full) < 0 else "not worse")
        return words[0] if len(set(words)) == 1 else "mixed"

    rows = [
        [
            name,
            cell(name, "garment_iou", 3),
            cell(name, "skin_iou", 3),
            cell(name, "changed_ssim", 3),
            cell(name, "garment_psnr_db", 1),
            cell(name, "skin_error", 1),
            verdict(next(row for row in report["rows"] if row["name"] == name)),
        ]
        for name in names
    ]
    height, width = report["config"]["size"]
    header = [
        f"{report['pairs']} held-out pairs at {height}x{width}",
        "garment IoU",
        "skin IoU",
        "SSIM, changed pixels",
        "PSNR in the garment, dB",
        "error of regrown skin",
        "than the full method",
    ]
    return _markdown(header, rows)


def serve() -> str:
    """The example server under load."""
    report = _read("serve-cpu")
    names = {
        "capacity": f"capacity, {report['capacity']['clients']} clients that wait",
        "steady": f"80 %, {report['steady']['minutes']:g} minutes",
        "overload": "200 %",
        "kill": "30 %, one worker killed",
    }
    rows = []
    for phase, name in names.items():
        figures = report[phase]
        statuses, latency = figures["statuses"], figures["latency_ms"]
        known = {"200", "429", "none"}
        rows.append(
            [
                name,
                f"{figures.get('asked_per_second') or figures['per_second']:.2f}",
                *(str(statuses.get(status, 0)) for status in ("200", "429", "none")),
                str(sum(count for status, count in statuses.items() if status not in known)),
                *(f"{latency[key] / 1000:.1f}" for key in ("p50", "p99", "max")),
                str(figures["memory_mb"]["last_third"]) if "memory_mb" in figures else "-",
            ]
        )
    header = [
        f"{report['workers']} workers",
        "asked/s",
        "200",
        "429",
        "lost with the worker",
        "other errors",
        "p50, s",
        "p99, s",
        "max, s",
        "memory, MB",
    ]
    replaced = report["kill"]["replaced_after_seconds"]
    return _markdown(header, rows) + f"\nThe killed worker was replaced after {replaced:g} s.\n"


TABLES: dict[str, Callable[[], str]] = {
    "held_out": held_out,
    "real": real,
    "latency": latency,
    "batches": batches,
    "published": published,
    "flow_warp": flow_warp,
    "triton": triton,
    "serve": serve,
    "ablation": ablation,
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
            from garment_transfer.benchmarks.report import write_plot

            plot.parent.mkdir(exist_ok=True)
            write_plot(_read("benchmark-cpu"), plot, _hash())


if __name__ == "__main__":
    main()
