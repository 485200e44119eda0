"""Writing files and folders whole or not at all, and reading JSON."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from garment_transfer.bundle._errors import OutputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, of the same suffix, that takes its place at the block's end.

    A block that raises leaves `path` as it was and nothing beside it. Where `path` is a link, the
    file it leads to is replaced. OutputError when the file cannot be made or put in place.
    """
    path = _target(path)
    temporary = _create_beside(path)
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` that takes its place at the block's end, as `replacing`.

    A block that raises leaves `path` as it was and nothing beside it. Folders above `path` are
    made. OutputError when the folder cannot be made or put in place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _folder_error(path, error) from error
    try:
        yield temporary
        try:
            _put_folder(temporary, path)
        except OSError as error:
            raise _folder_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def cache_folder() -> Path:
    """Where this package keeps what it can make again, below `XDG_CACHE_HOME` or `~/.cache`."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "garment-transfer"


def check_writable(path: Path) -> None:
    """Raises OutputError unless a file can be written to `path`; leaves nothing behind.

    For calling before long work, so that a slip in a path does not cost its result. A file is
    made to find out, because permission bits do not tell of read-only or full file systems.
    """
    _create_beside(_target(path)).unlink()


def read_json(path: Path) -> Any:
    """What a JSON file holds. OSError when it cannot be read, ValueError when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def schema_error(fields: Any, schema: str, package: str) -> str | None:  # TRANSITION
    import importlib.resources

    import jsonschema

    text = importlib.resources.files(package).joinpath(schema).read_text(encoding="utf-8")
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(json.loads(text)).iter_errors(fields)
    )
    if error is None:
        return None
    return f"{'.'.join(map(str, error.absolute_path)) or 'top level'}: {error.message}"


def _target(path: Path) -> Path:
    """Where writing to `path` ends: the path itself, or what it links to."""
    if "\0" in str(path):
        raise OutputError(
            f"{str(path)!r} is no path: it holds a NUL character; remove it from where the path "
            "was written"
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
            f"{path} cannot be written: it is a link that leads back to itself; remove it or "
            "choose another path"
        )
    return target


def _create_beside(path: Path) -> Path:
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the path of a file")
    # Shorter than most names, so that a name which the file system takes is not too long here.
    temporary = path.with_name(f".{secrets.token_hex(4)}{path.suffix}")
    try:
        temporary.open("xb").close()
    except OSError as error:
        raise _cannot_write(path, error) from error
    return temporary


def _put_folder(temporary: Path, path: Path) -> None:
    """Moves a finished folder to its place; an older one goes only once the new one is there."""
    temporary.chmod(0o755)  # mkdtemp's 0700 would hide it from a server's user
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


def _folder_error(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {error.strerror}")


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written: {error.strerror} (folder {path.parent}); create the folder, or "
        "choose a path that you may write to"
    )
