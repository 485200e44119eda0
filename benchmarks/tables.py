"""The documents' tables from the committed results, so that no figure in them is typed.

    python -m garment_transfer.benchmarks.tables README.md examples/python_server/README.md

rewrites what stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

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
    rows = [
        [
            row["name"],
            f"{row['changed_ssim']:.3f}",
            f"{row['flat_ssim']:.3f}",
            f"{row['garment_iou']:.3f}",
            f"{row['skin_iou']:.3f}",
        ]
        for row in _read("evaluate-lite")["given_back"]
    ]
    header = [
        "own garment given back",
        "SSIM, garment and skin",
        "same, flat colour instead",
        "garment IoU",
        "skin IoU",
    ]
    return _markdown(header, rows)


def latency() -> str:
    """One pair on the CPU, ONNX Runtime beside torch eager."""
    report = _read("pipeline-cpu")
    rows = [
        [name, f"{report['median_ms'][name]:.1f}", f"{report['p90_ms'][name]:.1f}"]
        for name in report["median_ms"]
    ]
    return _markdown(["one pair, CPU, two threads", "median, ms", "90th percentile, ms"], rows)


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
    "flow_warp": flow_warp,
    "serve": serve,
}


def filled(text: str) -> str:
    """`text` with the contents of every table made anew."""
    return _TABLE.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
def main(files: tuple[Path, ...]) -> None:
    """Rewrite the tables of FILES from the committed results."""
    for file in files:
        file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
