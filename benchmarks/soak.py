"""Thousands of transfers of many sizes, with bad inputs among them: does memory or a file stay?

    python -m garment_transfer.benchmarks.soak --transfers 10000 --json benchmarks/results/soak.json

Exits with 1 where memory grows, a descriptor stays open or a bad input is not refused by its code.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import click
import cv2
import msgspec
import numpy as np
import psutil
from PIL import Image

from garment_transfer.benchmarks.measuring import write_json
from garment_transfer.bundle import Code, GarmentTransferError
from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people

#: Shares of the sample's 1024x768 that people have, and how many good pairs one bad one follows.
_SCALES: Final = (1.0, 0.8, 0.62, 0.5, 0.41, 0.33, 0.25)
_GOOD: Final = 4
#: Memory may be this much more in the last third than in the one before, for what allocators do.
_GROWTH: Final = 1.03


class Soak(msgspec.Struct):
    """What a run came to; memory is resident, in MB, the median of each third."""

    transfers: int
    refused: dict[str, int]
    minutes: float
    memory_mb: list[int]
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


def soak(count: int, threads: int, folder: Path) -> Soak:
    """Runs `count` pairs out of files below `folder`, and looks at memory and descriptors."""
    cv2.setNumThreads(threads)
    pipeline = Pipeline.load(sample_bundle(), threads=threads)
    people = [
        _scaled(source, folder / f"{source.name}-{index}", scale)
        for index, scale in enumerate(_SCALES)
        for source in sample_people()
    ]
    spoilt = list(_spoilt(sample_people()[0], folder).items())
    process = psutil.Process()
    rng = np.random.default_rng(0)
    memory, descriptors, broken = [], [], []
    refused: Counter[str] = Counter()
    start = time.monotonic()
    for index in range(count):
        person, owner = (people[chosen] for chosen in rng.integers(len(people), size=2))
        expected = None
        if index % (_GOOD + 1) == _GOOD:
            expected, owner = spoilt[index // (_GOOD + 1) % len(spoilt)]
        got = None
        try:
            pipeline.transfer(Person.load(person), Person.load(owner))
        except GarmentTransferError as error:
            got = error.code
            refused[got] += 1
        if got != expected:
            broken.append(f"pair {index}: {got} in place of {expected}")
        memory.append(process.memory_info().rss / 2**20)
        descriptors.append(process.num_fds())
    thirds = [round(statistics.median(part)) for part in np.array_split(memory, 3)]
    most = [max(part) for part in np.array_split(descriptors, 3)]
    if thirds[2] > _GROWTH * thirds[1]:
        broken.append(f"memory grew: {thirds} MB")
    if most[2] > most[1]:
        broken.append(f"descriptors stay open: {most}")
    minutes = round((time.monotonic() - start) / 60, 1)
    done = count - sum(refused.values())
    return Soak(done, dict(sorted(refused.items())), minutes, thirds, list(map(int, most)), broken)


@click.command()
@click.option("--transfers", type=click.IntRange(min=3), default=10_000, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(transfers: int, threads: int, json_file: Path | None) -> None:
    """Transfer pairs of many sizes, with bad ones among them, and watch memory and descriptors."""
    with tempfile.TemporaryDirectory() as folder:
        result = soak(transfers, threads, Path(folder))
    click.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
    if json_file:
        write_json(json_file, result)
    raise SystemExit(1 if result.broken else 0)


if __name__ == "__main__":
    main()
