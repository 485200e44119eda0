"""Option values that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import click
import msgspec

from garment_transfer.bundle import Batch, Size

if TYPE_CHECKING:
    from garment_transfer.runtime.photos import Box

T = TypeVar("T")


class Parsed(click.ParamType, Generic[T]):
    """A value written in parts, such as 256x192."""

    def __init__(self, name: str, what: str, pattern: str, make: Callable[..., T]) -> None:
        """`make` takes the groups of `pattern`; `what` completes "'x' is not ..."."""
        self.name = name
        self._what = what
        self._pattern = pattern
        self._make = make

    def convert(
        self, value: str | T, param: click.Parameter | None, ctx: click.Context | None
    ) -> T:
        """The value from text, or a usage error; a default is taken as it is."""
        if not isinstance(value, str):
            return value
        match = re.fullmatch(self._pattern, value)
        if not match:
            self.fail(f"{value!r} is not {self._what}", param, ctx)
        try:
            return self._make(*match.groups())
        except ValueError as error:
            self.fail(f"{value}: {error}", param, ctx)


#: As `backends.MAX_THREADS`, which `--help` has no time to import.
THREADS: Final = click.IntRange(1, 1024)
THREADS_HELP: Final = (
    "Threads; default: as many as affinity, the container's share of time and the cores allow."
)


def set_opencv_threads(threads: int | None) -> None:
    """Lets OpenCV have as many threads as a graph; None stands for the default."""
    import cv2

    from garment_transfer.runtime.backends import default_threads

    cv2.setNumThreads(threads or default_threads() or -1)  # -1: its own choice


def people_in(folder: Path) -> list[Path]:
    """The folders of people in a folder; a usage error where there is none."""
    folders = [path for path in sorted(folder.iterdir()) if (path / "meta.json").is_file()]
    if not folders:
        raise click.UsageError(
            f"{folder} holds no people: each is a folder with image, maps and meta.json"
        )
    return folders


def _size(height: str, width: str) -> Size:
    try:
        return msgspec.convert({"height": int(height), "width": int(width)}, Size)
    except msgspec.ValidationError:
        raise ValueError("expected sides of 32 to 8192 pixels, divisible by 32") from None


def _box(*sides: str) -> Box:
    # after `--help`, which has to answer without NumPy
    from garment_transfer.runtime.photos import Box

    left, top, right, bottom = map(int, sides)
    if right <= left or bottom <= top:
        raise ValueError("expected right beyond left, and bottom beyond top")
    return Box(top, left, bottom - top, right - left)


BOX = Parsed(
    "LEFT,TOP,RIGHT,BOTTOM",
    "LEFT,TOP,RIGHT,BOTTOM in pixels, such as 0,20,300,600",
    r"(-?\d+),(-?\d+),(-?\d+),(-?\d+)",
    _box,
)
BOX_HELP: Final = "Who is meant where the photo shows several people: a box about the person."
SIZE = Parsed("HxW", "HEIGHTxWIDTH, such as 256x192", r"(\d+)x(\d+)", _size)
BATCH = Parsed(
    "MIN:OPT:MAX",
    "MIN:OPT:MAX, such as 1:1:8",
    r"(\d+):(\d+):(\d+)",
    lambda *sizes: Batch(*map(int, sizes)),
)
COUNTS = Parsed(
    "N,N,...",
    "whole numbers of at least 1, such as 1,8,32",
    r"( *0*[1-9]\d* *(?:, *0*[1-9]\d* *)*)",
    lambda text: tuple(sorted({int(part) for part in text.split(",")})),
)
SHARD = Parsed(
    "I/N",
    "I/N, such as 0/4 for the first of four",
    r"(\d+)/(\d+)",
    lambda index, count: (int(index), int(count)),
)
