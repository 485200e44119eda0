"""The README's tables from the committed results, so that no figure in it is typed.

    python -m garment_transfer.benchmarks.tables README.md

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
        "of the loop",
        "median, ms",
        "99th percentile, ms",
        "processor time per pair, ms",
        "runs by batch size",
    ]
    return _markdown(header, rows)


TABLES: dict[str, Callable[[], str]] = {
    "held_out": held_out,
    "real": real,
    "latency": latency,
    "flow_warp": flow_warp,
    "triton": triton,
}


def filled(text: str) -> str:
    """`text` with the contents of every table made anew."""
    return _TABLE.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    """Rewrite the tables of FILE from the committed results."""
    file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
