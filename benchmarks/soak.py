"""Thousands of transfers of many sizes, with bad inputs among them: does memory or a file stay?

    python -m garment_transfer.benchmarks.soak --transfers 10000 --json benchmarks/results/soak.json

Exits with 1 where memory grows, a descriptor stays open or a bad input is not refused by its code.
One that is interrupted says what it has seen.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import click
import cv2
import msgspec
import numpy as np
import psutil
from PIL import Image

from garment_transfer.benchmarks.measuring import write_json
from garment_transfer.benchmarks.rows import ROWS, load_row
from garment_transfer.bundle import Bundle, Code, GarmentTransferError
from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people
from garment_transfer.runtime.cuda import CudaDevice

#: What runs the pairs, by the names of `benchmark`.
_ROWS: Final = {row.name: row for row in ROWS if row.backend not in ("empty", "torch")}
#: Shares of the sample's 1024x768 that people have, and how many good pairs one bad one follows.
_SCALES: Final = (1.0, 0.8, 0.62, 0.5, 0.41, 0.33, 0.25)
_GOOD: Final = 4
#: Memory may be this much more in the last third than in the one before, for what allocators do.
_GROWTH: Final = 1.03
#: Fewer pairs say nothing about what stays in use.
_TELLING: Final = 1000


class Soak(msgspec.Struct):
    """What a run came to.

    Memory is in MB, the median of each third: what is resident on the host, and what is in use on
    the GPU, by whomever.
    """

    transfers: int
    refused: dict[str, int]
    minutes: float
    memory_mb: list[int]
    device_mb: list[int]
    descriptors: list[int]
    broken: list[str]


def _scaled(source: Path, folder: Path, scale: float) -> Path:
    """A copy of a person at another size."""
    shutil.copytree(source, folder)
    for path in (*folder.glob("image.*"), folder / "parse.png", folder / "densepose.png"):
        with Image.open(path) as image:
            size = (round(image.width * scale), round(image.height * scale))
            smooth = path.stem == "image"
            image.resize(
                size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
            ).save(path)
    return folder


def _spoilt(source: Path, folder: Path) -> dict[Code, Path]:
    """People that are refused, by the code that says why."""

    def copy(code: Code) -> Path:
        return Path(shutil.copytree(source, folder / code))

    spoilt = {
        code: copy(code)
        for code in (
            Code.IMAGE_UNREADABLE,
            Code.PERSON_INCOMPLETE,
            Code.LABEL_SET_MISMATCH,
            Code.BODY_MISSING,
            Code.META_INVALID,
        )
    }
    photo = next(spoilt[Code.IMAGE_UNREADABLE].glob("image.*"))
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 3])
    (spoilt[Code.PERSON_INCOMPLETE] / "densepose.png").unlink()
    for code, name in ((Code.LABEL_SET_MISMATCH, "parse"), (Code.BODY_MISSING, "densepose")):
        path = spoilt[code] / f"{name}.png"
        blank = np.full_like(np.array(Image.open(path)), 0 if name == "densepose" else 77)
        Image.fromarray(blank).save(path)
    (spoilt[Code.META_INVALID] / "meta.json").write_text("{", encoding="utf-8")
    return spoilt


def soak(
    pipeline: Pipeline, count: int, clients: int, folder: Path, device: CudaDevice | None = None
) -> Soak:
    """Runs `count` pairs out of files below `folder`, and looks at memory and descriptors.

    Args:
        pipeline: what the threads share.
        count: pairs, three or more.
        clients: threads.
        folder: where the people's files go.
        device: the GPU that the pipeline runs on.
    """
    people = [
        _scaled(source, folder / f"{source.name}-{index}", scale)
        for index, scale in enumerate(_SCALES)
        for source in sample_people()
    ]
    spoilt = list(_spoilt(sample_people()[0], folder).items())
    chosen = np.random.default_rng(0).integers(len(people), size=(count, 2))

    process = psutil.Process()

    def outcomes(index: int) -> tuple[Code | None, Code | None, int]:
        """What became of a pair, what should, and the descriptors that are open afterwards.

        That is the code of a refusal, None for a transfer.
        """
        person, owner = (people[each] for each in chosen[index])
        got = expected = None
        if index % (_GOOD + 1) == _GOOD:
            expected, owner = spoilt[index // (_GOOD + 1) % len(spoilt)]
        try:
            pipeline.transfer(Person.load(person), Person.load(owner))
        except GarmentTransferError as error:
            got = error.code
        return got, expected, process.num_fds()

    memory, on_device, descriptors, broken = [], [], [], []
    refused: Counter[str] = Counter()
    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool, contextlib.suppress(KeyboardInterrupt):
        for index, (got, expected, open_files) in enumerate(pool.map(outcomes, range(count))):
            if got:
                refused[got] += 1
            if got != expected:
                broken.append(f"pair {index}: {got} in place of {expected}")
            memory.append(process.memory_info().rss)
            descriptors.append(open_files)
            if device:
                with device.active():
                    free, total = device.memory()
                on_device.append(total - free)
    minutes = round((time.monotonic() - start) / 60, 1)
    done = len(memory)
    if done < count:
        broken.append(f"interrupted after {done} pairs")
    host_mb, device_mb = _thirds(memory), _thirds(on_device)
    for name, thirds in (("memory", host_mb), ("the GPU's memory", device_mb)):
        if done >= _TELLING and thirds and thirds[2] > _GROWTH * thirds[1]:
            broken.append(f"{name} grew: {thirds} MB")
    # the least of each third, as other threads read files meanwhile
    least = [int(min(part, default=0)) for part in np.array_split(descriptors, 3)]
    if least[2] > least[1]:
        broken.append(f"descriptors stay open: {least}")
    transfers = done - sum(refused.values())
    counts = dict(sorted(refused.items()))
    return Soak(transfers, counts, minutes, host_mb, device_mb, least, broken)


def _thirds(samples: Sequence[int]) -> list[int]:
    """The median of each third of samples in bytes, in MB; none of fewer than three."""
    parts = np.array_split(samples, 3) if len(samples) >= 3 else []
    return [round(statistics.median(part) / 2**20) for part in parts]


@click.command()
@click.option("--transfers", type=click.IntRange(min=3), default=10_000, show_default=True)
@click.option("--bundle", type=click.Path(path_type=Path), help="The shipped one if not given.")
@click.option("--backend", type=click.Choice(list(_ROWS)), default="onnxruntime")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--clients", default=1, show_default=True, help="Threads that share the pipeline.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    transfers: int,
    bundle: Path | None,
    backend: str,
    threads: int,
    clients: int,
    json_file: Path | None,
) -> None:
    """Transfer pairs of many sizes, with bad ones among them, and watch memory and descriptors."""
    cv2.setNumThreads(threads)
    row = _ROWS[backend]
    device = CudaDevice() if row.device == "cuda" else None
    with (
        tempfile.TemporaryDirectory() as folder,
        load_row(row, Bundle.load(bundle or sample_bundle()), None, threads) as pipeline,
    ):
        result = soak(pipeline, transfers, clients, Path(folder), device)
    click.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
    if json_file:
        write_json(json_file, result)
    raise SystemExit(1 if result.broken else 0)


if __name__ == "__main__":
    main()
