"""Writing files and folders whole or not at all, and reading JSON."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from garment_transfer.bundle._errors import Code, InputError, OutputError, reason_of

try:
    import fcntl
except ImportError:  # not on Windows, where what a killed process left stays
    fcntl = None  # type: ignore[assignment]

#: Names of what is being written, and is left behind where a process is killed.
_UNFINISHED: Final = re.compile(r"\.[0-9a-f]{8}\.partial(\.\w+)?")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, of the same suffix, that takes its place at the block's end.

    Folders above `path` are made. The file takes the permissions of the one that it replaces, and
    is on the disk before it does, so that a crash of the machine leaves one of the two whole. A
    block that raises leaves `path` as it was and nothing beside it; what a killed process leaves
    goes when something is written to that folder again. Where `path` is a link, the file it leads
    to is replaced.

    Raises:
        OutputError: the file cannot be made, written or put in place.
    """
    path = _target(path)
    temporary = _create_beside(path)
    with _writing(path, temporary):
        mode = stat.S_IMODE((path if path.exists() else temporary).stat().st_mode)
        # before the block, as what it writes may be for its owner's eyes alone
        temporary.chmod(mode | stat.S_IWUSR)
        yield temporary
        temporary.chmod(mode)  # the block may have made the file anew
        _sync(temporary)
        os.replace(temporary, path)
        _sync_names(path.parent)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` that takes its place at the block's end, as `replacing`.

    Folders above `path` are made. Nothing of an older folder is kept but its permissions.

    Raises:
        OutputError: the folder cannot be made, written or put in place.
    """
    temporary = _create_beside(path, folder=True)
    with _writing(path, temporary):
        yield temporary
        # 0700 would hide a new folder from a server's user
        temporary.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o755)
        for written in (*temporary.rglob("*"), temporary):
            if written.is_dir():
                _sync_names(written)
            elif written.is_file():
                _sync(written)
        _put_folder(temporary, path)
        _sync_names(path.parent)


def cache_folder() -> Path:
    """Where this package keeps what it can make again, below `XDG_CACHE_HOME` or `~/.cache`."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "garment-transfer"


def check_writable(path: Path) -> None:
    """Raises OutputError unless a file can be written to `path`; leaves no file behind.

    Folders above `path` are made. For calling before long work, so that a slip in a path does not
    cost its result. A file is made to find out, because permission bits do not tell of read-only or
    full file systems.
    """
    _create_beside(_target(path)).unlink()


def kind_of(path: Path) -> str:
    """What is at a path, as messages call it."""
    if path.is_dir():
        return "a folder"
    return "a file" if path.is_file() else "a pipe or a device"


def as_path(given: object, what: str) -> Path:
    """A path that was given as text or so; InputError, which calls it `what`, where it is none."""
    if isinstance(given, str | os.PathLike):
        return Path(given)
    raise InputError(
        Code.ARGUMENT_INVALID, f"{what} is a {type(given).__name__}", expected="a path"
    )


def read_json(path: Path) -> Any:
    """What a JSON file holds. OSError when it cannot be read, ValueError when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def _target(path: Path) -> Path:
    """Where writing to `path` ends: the path itself, or what it links to."""
    if "\0" in str(path):
        raise OutputError(
            Code.OUTPUT_UNWRITABLE,
            f"{str(path)!r} is not a path: it holds a NUL character",
            fix="remove it from where the path was written",
        )
    try:
        linked = stat.S_ISLNK(path.lstat().st_mode)
    except FileNotFoundError:
        return path
    except OSError as error:
        raise _cannot_write(path, error) from error
    if not linked:
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OutputError(
            Code.OUTPUT_UNWRITABLE,
            f"{path} cannot be written: it is a link that leads back to itself",
            fix="remove it or choose another path",
        )
    return target


def _create_beside(path: Path, folder: bool = False) -> Path:
    if not folder and path.exists() and not path.is_file():  # it would be replaced
        raise OutputError(
            Code.OUTPUT_UNWRITABLE, f"{path} is {kind_of(path)}", fix="give the path of a file"
        )
    # Shorter than most names, so that a name which the file system takes is not too long here.
    suffix = "" if folder else path.suffix
    temporary = path.with_name(f".{secrets.token_hex(4)}.partial{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(os.path.realpath(path.parent))
        if folder:
            temporary.mkdir(0o700)
        else:
            temporary.open("xb").close()
    except OSError as error:
        raise _cannot_write(path, error) from error
    return temporary


@contextlib.contextmanager
def _writing(path: Path, temporary: Path) -> Iterator[None]:
    """Holds a lock on what is written while it is, and removes it where it is not put in place."""
    lock = os.open(temporary, os.O_RDONLY)
    try:
        if fcntl:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except OSError as error:
        # one of another file, which a block reads, is its own
        if error.filename is not None and not str(error.filename).startswith(str(temporary)):
            raise
        raise _cannot_write(path, error) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        os.close(lock)


@functools.lru_cache(maxsize=64)
def remove_unfinished(folder: str) -> None:
    """Removes what processes that were killed left in a folder, if it is one, once a process.

    The lock of `_writing` ends with its process.
    """
    left: list[str] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [entry.path for entry in entries if _UNFINISHED.fullmatch(entry.name)]
    for path in left if fcntl else []:
        with contextlib.suppress(OSError):  # it is gone, or somebody else's
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.isdir(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
            finally:
                os.close(descriptor)


def _put_folder(temporary: Path, path: Path) -> None:
    """Moves a finished folder to its place; an older one goes only once the new one is there."""
    if not path.exists():
        os.replace(temporary, path)
        return
    aside = temporary.with_name(temporary.name + ".old")
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    """Waits until what a file holds, or a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_names(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot, and some folders are not read
        _sync(folder)


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        Code.OUTPUT_UNWRITABLE,
        f"{path} cannot be written: {reason_of(error)}",
        fix="free some space, or choose another place"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "choose a path that you may write to",
    )
