"""Wheels for a machine that reaches no registry, in pieces of a size.

    python -m garment_transfer.benchmarks.wheels bring FOLDER [--mb 60] [PACKAGE...]
    python benchmarks/wheels.py install PIECES TARGET

`install` needs click alone, none of this package's other requirements. What is whole among the
pieces that have come is installed; the others wait for theirs.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

_PATH = click.Path(path_type=Path)

#: What a machine with PyTorch for CUDA 13, cuda-python and the tests' tools lacks, in the order in
#: which it is needed.
WHEELS: Final = (
    "msgspec",
    "onnxruntime-gpu",
    "tensorrt-rtx-cu13-bindings",
    "tensorrt-rtx-cu13-libs",
)

#: pip compares tags, not versions: each that a machine with glibc 2.39 takes has to be named.
_TAGS: Final = ("1", "2010", "2014", *(f"_2_{minor}" for minor in range(5, 40)))


@click.group()
def main() -> None:
    """Wheels in pieces."""


@main.command()
@click.argument("folder", type=_PATH)
@click.argument("names", nargs=-1)
@click.option("--mb", default=60, show_default=True, help="Size of a piece, in millions of bytes.")
@click.option("--python", "version", default="3.12", show_default=True, help="Python there.")
def bring(folder: Path, names: tuple[str, ...], mb: int, version: str) -> None:
    """Download wheels for Linux on x86-64 and split them into FOLDER/00, FOLDER/01, ...

    NAMES are packages, without what they depend on; default: `WHEELS`.
    """
    tags = [f"--platform=manylinux{tag}_x86_64" for tag in _TAGS]
    what = [f"--python-version={version}", "--implementation=cp", "--only-binary=:all:", *tags]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        found: dict[Path, None] = {}
        for name in names or WHEELS:  # one by one, which keeps their order
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", temporary]
            subprocess.run([*pip, *what, name], check=True)
            found |= dict.fromkeys(sorted(set(Path(temporary).glob("*.whl")) - set(found)))
        for path in found:
            click.echo(f"{path.stat().st_size / 1e6:7.1f} MB  {path.name}")
        click.echo(f"{split([*found], folder, 1_000_000 * mb)} pieces in {folder}")


def split(files: Sequence[Path], folder: Path, size: int) -> int:
    """Splits files into folders 00, 01, ... of at most `size` bytes; returns how many.

    Each has all files' SHA-256 as well. Files come in their order, so the first are whole first.
    """
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    listing = json.dumps(digests)
    pieces: list[Path] = []
    room = 0
    for path in files:
        with path.open("rb") as file:
            for index in range(1000):
                if room == 0:
                    pieces.append(folder / f"{len(pieces):02}")
                    pieces[-1].mkdir(parents=True, exist_ok=True)
                    (pieces[-1] / "sha256.json").write_text(listing, encoding="utf-8")
                    room = size - len(listing)
                if not (chunk := file.read(room)):
                    break
                (pieces[-1] / f"{path.name}.{index:03}").write_bytes(chunk)
                room -= len(chunk)
    return len(pieces)


def join(folder: Path, target: Path) -> tuple[list[Path], list[str]]:
    """Writes the files that are whole in the pieces below a folder; these, and names of others."""
    listing = next(folder.glob("*/sha256.json"), None)
    if listing is None:
        raise click.UsageError(f"{folder} has no pieces")
    whole, parts = [], []
    for name, digest in json.loads(listing.read_text(encoding="utf-8")).items():
        chunks = sorted(folder.glob(f"*/{name}.[0-9][0-9][0-9]"), key=lambda path: path.name)
        content = b"".join(path.read_bytes() for path in chunks)
        if hashlib.sha256(content).hexdigest() == digest:
            whole.append(target / name)
            whole[-1].write_bytes(content)
        else:
            parts.append(name)
    return whole, parts


@main.command()
@click.argument("pieces", type=_PATH)
@click.argument("target", type=_PATH)
def install(pieces: Path, target: Path) -> None:
    """Install the wheels that are whole among PIECES into the folder TARGET, for PYTHONPATH."""
    with tempfile.TemporaryDirectory() as temporary:
        whole, parts = join(pieces, Path(temporary))
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
        options = ["--no-compile", "--no-cache-dir", "--upgrade", f"--target={target}"]
        if whole:
            subprocess.run([*pip, *options, *map(str, whole)], check=True)
    for path in whole:
        click.echo(f"installed {path.name}")
    for name in parts:
        click.echo(f"not whole yet: {name}")


if __name__ == "__main__":
    main()
