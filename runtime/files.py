"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from garment_transfer.runtime.errors import OutputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, of the same suffix, that takes its place at the block's end.

    A block that raises leaves `path` as it was and nothing beside it. OutputError when the file
    cannot be made or put in place.
    """
    temporary = _create_beside(path)
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raises OutputError unless a file can be written to `path`; leaves nothing behind.

    For calling before long work, so that a slip in a path does not cost its result. A file is
    made to find out, because permission bits do not tell of read-only or full file systems.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the path of a file")
    _create_beside(path).unlink()


def _create_beside(path: Path) -> Path:
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        temporary.open("xb").close()
    except OSError as error:
        raise _cannot_write(path, error) from error
    return temporary


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written: {error.strerror} (folder {path.parent}); create the folder, or "
        "choose a path that you may write to"
    )
