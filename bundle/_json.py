"""JSON files that a msgspec struct with a `schema_version` defines: manifests and records."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from garment_transfer.bundle._files import replacing
from garment_transfer.bundle._version import package_version

#: A file has at most so many bytes; the manifest of three graphs in two precisions has 10,000.
MAX_JSON_BYTES: Final = 1 << 20

Text = Annotated[str, Meta(min_length=1)]
# Readers in other languages keep integers in 64 bits with a sign.
MAX_INTEGER: Final = 2**63 - 1

Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Positive = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
Number = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
# In Python `$` matches before a last newline too, which is no part of any of these.
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]
FileName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(?!\n)$",
        description="A file name in the same folder, never a path out of it.",
    ),
]
Time = Annotated[
    str,
    Meta(
        pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})(?!\n)$",
        description="ISO 8601 date and time with its offset from UTC.",
    ),
]


class InvalidFile(ValueError):
    """A file that is not what it should be; the message says what is wrong with it."""


class TooOldFile(InvalidFile):
    """A file of an older schema than this release reads."""


class TooNewFile(InvalidFile):
    """A file of a newer schema than this release reads."""


class _Version(Struct):
    schema_version: Annotated[int, Meta(le=MAX_INTEGER)] | None = None


T = TypeVar("T", bound=Struct)


def read_struct(path: Path, kind: type[T], version: int) -> T:
    """What a file holds, checked by the struct `kind`.

    Raises:
        OSError: the file cannot be read.
        TooOldFile, TooNewFile: its schema version is not `version`.
        InvalidFile: it is too large, not JSON, or not valid by the struct.
    """
    with path.open("rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise InvalidFile(f"it is larger than {MAX_JSON_BYTES} bytes")
    return decode_struct(content, kind, version)


def decode_struct(content: bytes, kind: type[T], version: int) -> T:
    """As `read_struct`, of a file's bytes."""
    try:
        # Before all else: a file of another schema may well break this one, and is not to blame.
        found = msgspec.json.decode(content, type=_Version).schema_version
        if found is not None and found > 0 and found != version:
            raise (TooNewFile if found > version else TooOldFile)(
                f"it has schema version {found}, and this release of garment-transfer "
                f"({package_version()}) reads version {version}"
            )
        return msgspec.json.decode(content, type=kind)
    except RecursionError:
        raise InvalidFile("brackets are nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidFile(str(error)) from error


def write_struct(path: Path, struct: Struct, version: int) -> None:
    """Writes a struct as indented JSON, whole or not at all.

    Raises:
        InvalidFile: `read_struct` would not take it.
        OutputError: the file cannot be written.
    """
    content = msgspec.json.format(msgspec.json.encode(struct), indent=2) + b"\n"
    # msgspec checks what it reads, not what a struct is made of
    decode_struct(content, type(struct), version)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def now() -> str:
    """This moment, as such files name it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
