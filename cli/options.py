"""Option values that several commands share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from garment_transfer.bundle import Batch, Size


class SizeType(click.ParamType):
    """HxW, such as 256x192."""

    name = "HxW"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Size:
        """A `Size` from text, or a usage error."""
        # Here, because it imports numpy, which `--help` does not need.
        from garment_transfer.bundle import Size

        if isinstance(value, Size):
            return value
        match = re.fullmatch(r"(\d+)x(\d+)", str(value))
        if not match:
            self.fail(f"{value!r} is not HEIGHTxWIDTH, such as 256x192", param, ctx)
        size = Size(int(match[1]), int(match[2]))
        if not size.height or not size.width or size.height % 32 or size.width % 32:
            self.fail(f"{value}: height and width have to be divisible by 32", param, ctx)
        return size


class CountsType(click.ParamType):
    """Whole numbers of at least 1, such as 1,8,32."""

    name = "N,N,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Numbers in ascending order from text, or a usage error."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(re.fullmatch(r" *0*[1-9]\d* *", part) for part in parts):
            self.fail(f"{value!r} is not whole numbers of at least 1, such as 1,8,32", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


SIZE = SizeType()
COUNTS = CountsType()


class BatchType(click.ParamType):
    """MIN:OPT:MAX, such as 1:1:8."""

    name = "MIN:OPT:MAX"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Batch:
        """A `Batch` from text, or a usage error."""
        from garment_transfer.bundle import Batch

        if isinstance(value, Batch):
            return value
        match = re.fullmatch(r"(\d+):(\d+):(\d+)", str(value))
        if not match:
            self.fail(f"{value!r} is not MIN:OPT:MAX, such as 1:1:8", param, ctx)
        try:
            return Batch(*map(int, match.groups()))
        except ValueError as error:
            self.fail(str(error), param, ctx)


BATCH = BatchType()


class ShardType(click.ParamType):
    """I/N, such as 0/4: part I, counted from 0, of N."""

    name = "I/N"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Index and count from text, or a usage error."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)/(\d+)", str(value))
        if not match:
            self.fail(f"{value!r} is not I/N, such as 0/4 for the first of four", param, ctx)
        return int(match[1]), int(match[2])


SHARD = ShardType()
