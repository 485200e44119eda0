"""A person: photo, parsing and DensePose of one size, read from a folder or from arrays.

A person's folder holds

- `image.*`: the photo, RGB (png, jpg, jpeg, webp or bmp);
- `parse.png`: label ids, grey or palette;
- `densepose.*`: DensePose (npy, png, jpg, jpeg, webp or bmp);
- `meta.json`: `{"parse": LABEL_SET, "densepose": ENCODING}`.

Neither the label set nor the encoding can be told from the pixels, so both are named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import CLASSES, GARMENT, LABEL_SETS, InputError, label_set, read_json
from garment_transfer.runtime.photos._densepose import (
    ENCODINGS,
    MIN_SHARE,
    check_body,
    check_image,
    check_parts,
    check_uint8,
    decode_densepose,
    describe,
)
from garment_transfer.runtime.photos._images import MAX_SIDE, read_indices, read_rgb
from garment_transfer.runtime.photos._parsing import to_classes

# A map may have another size than its photo when the aspects agree within this share: enough for
# sizes that were rounded, too little to stretch anything visibly.
_ASPECT_TOLERANCE: Final = 0.01

# Bytes of the largest DensePose array: three channels of float64.
_MAX_NPY: Final = 3 * 8 * MAX_SIDE**2

_IMAGES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True, eq=False)
class Person:
    """A photo with its maps, all of one size; validated, and read-only from then on.

    - `image`: uint8 RGB [H,W,3];
    - `parsing`: uint8 [H,W], the seven classes of `labels.CLASSES`;
    - `densepose`: uint8 IUV [H,W,3]: part 0..24, U and V scaled from 0..1 to 0..255;
    - `name`: what messages call the person, which is the folder where it was loaded from one.
    """

    image: npt.NDArray[np.uint8]
    parsing: npt.NDArray[np.uint8]
    densepose: npt.NDArray[np.uint8]
    name: str = ""

    def __post_init__(self) -> None:
        check_image(self.image, "image")
        height, width = self.image.shape[:2]
        check_uint8(self.parsing, (height, width), "parsing", "class ids [H,W]")
        check_uint8(self.densepose, (height, width, 3), "densepose", "IUV [H,W,3]")
        if self.parsing.max() >= len(CLASSES):
            raise InputError(
                f"parsing has class {self.parsing.max()}; the classes are 0..{len(CLASSES) - 1}; "
                "for ids of another label set use Person.from_arrays(..., label_set=)"
            )
        check_parts(self.densepose[..., 0], "densepose")
        check_body(self.densepose, "densepose")
        for field in ("image", "parsing", "densepose"):
            view = getattr(self, field).view()  # leaves the caller's own array writeable
            view.flags.writeable = False
            object.__setattr__(self, field, view)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        label_set: str | None = None,
        densepose_encoding: str | None = None,
    ) -> Person:
        """Reads a person's folder; `label_set` and `densepose_encoding` override `meta.json`.

        Raises InputError, which names the file and the remedy.
        """
        folder = Path(folder)
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise InputError(
                f"{folder} {what}: a person is a folder with image.*, parse.png, densepose.* and "
                "meta.json"
            )
        meta = _read_meta(folder / "meta.json", label_set, densepose_encoding)
        image = _find(folder, "image", _IMAGES)
        parsing = _find_parse(folder)
        densepose = _find(folder, "densepose", (".npy", *_IMAGES))
        return cls.from_files(
            image, parsing, densepose, meta["parse"], meta["densepose"], name=str(folder)
        )

    @classmethod
    def from_files(
        cls,
        image: str | os.PathLike[str] | BinaryIO,
        parsing: str | os.PathLike[str] | BinaryIO,
        densepose: str | os.PathLike[str] | BinaryIO,
        label_set: str,
        densepose_encoding: str,
        name: str = "",
    ) -> Person:
        """A person from three files, as a folder of `load` holds: what a server was sent.

        Each is a path, or a binary file open for reading, which is left open. An open `densepose`
        is a NumPy file where the encoding is "iuv", else an image; of a path the suffix decides.
        `name` is what messages call the person. Raises InputError.
        """
        files: list[Path | BinaryIO] = []
        names = []
        for given, what in ((image, "image"), (parsing, "parsing"), (densepose, "densepose")):
            if isinstance(given, str | os.PathLike):
                files.append(Path(given))
                names.append(str(given))
            else:
                files.append(given)
                names.append(f"{what} of {name}" if name else what)
        image_file, parsing_file, densepose_file = files
        image_name, parsing_name, densepose_name = names
        is_npy = (
            densepose_file.suffix.lower() == ".npy"
            if isinstance(densepose_file, Path)
            else densepose_encoding == "iuv"
        )
        return cls._build(
            read_rgb(image_file, image_name),
            read_indices(parsing_file, parsing_name),
            _read_npy(densepose_file, densepose_name)
            if is_npy
            else read_rgb(densepose_file, densepose_name),
            label_set,
            densepose_encoding,
            name=name,
            array_names=(image_name, parsing_name, densepose_name),
        )

    @classmethod
    def from_arrays(
        cls,
        image: npt.NDArray[np.uint8],
        parsing: npt.NDArray[np.uint8],
        densepose: npt.NDArray[Any],
        label_set: str = "classes7",
        densepose_encoding: str = "iuv-png",
        name: str = "",
    ) -> Person:
        """A person from arrays; they are copied.

        `image` is uint8 RGB [H,W,3]; `parsing` uint8 [H,W] with the ids of `label_set`;
        `densepose` uint8 [H,W,3] for "iuv-png" (I, 255 U, 255 V) and "parula" (RGB colours), or
        float [3,H,W] (I, U, V) for "iuv". `name` is what messages call the person. Raises
        InputError.
        """
        return cls._build(
            image,
            parsing,
            densepose,
            label_set,
            densepose_encoding,
            name=name,
            array_names=("image", "parsing", "densepose"),
        )

    @classmethod
    def _build(
        cls,
        image: npt.NDArray[np.uint8],
        parsing: npt.NDArray[np.uint8],
        densepose: npt.NDArray[Any],
        label_set_name: str,
        densepose_encoding: str,
        name: str,
        array_names: tuple[str, str, str],
    ) -> Person:
        image_name, parsing_name, densepose_name = array_names
        labels = label_set(label_set_name)
        check_image(image, image_name)
        check_uint8(parsing, (None, None), parsing_name, "label ids [H,W]")
        iuv = decode_densepose(densepose, densepose_encoding, name=densepose_name)
        size = image.shape[:2]
        iuv = _to_photo(iuv, size, densepose_name, image_name)
        ids = _to_photo(parsing, size, parsing_name, image_name)
        classes = to_classes(ids, labels, iuv[..., 0], name=parsing_name)
        check_body(iuv, densepose_name)
        return cls(np.array(image, order="C"), classes, iuv, name)

    def check_garment(self, role: str = "garment owner") -> None:
        """Raises InputError unless the person wears an upper garment that can be given away.

        `role` is what the message calls the person, beside the name.
        """
        count = int(np.count_nonzero(self.parsing == GARMENT))
        if count < MIN_SHARE * self.parsing.size:
            who = f"{role} {self.name}" if self.name else role
            raise InputError(
                f"{who} wears no upper garment: {count} pixels of {self.parsing.size} have class "
                f"{GARMENT} ({CLASSES[GARMENT]}), expected at least {MIN_SHARE:.1%}; choose a "
                "photo that shows one, and check that the label set is the parse map's own "
                f"({', '.join(sorted(LABEL_SETS))})"
            )


def _to_photo(
    array: npt.NDArray[np.uint8], size: tuple[int, ...], name: str, photo: str
) -> npt.NDArray[np.uint8]:
    """Brings a map to its photo's size by nearest neighbours where the aspect agrees."""
    (height, width), (rows, columns) = size[:2], array.shape[:2]
    if (rows, columns) == (height, width):
        return array
    if abs(rows * width - columns * height) > _ASPECT_TOLERANCE * rows * width:
        raise InputError(
            f"{name} is {columns}x{rows} pixels (width x height) and {photo} {width}x{height}: the "
            "aspects differ, so one of them was cropped or turned; make both from the same photo"
        )
    resized = cv2.resize(array, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def _read_meta(
    path: Path, label_set: str | None, densepose_encoding: str | None
) -> Mapping[str, str]:
    """The names of label set and encoding: options first, then `meta.json`."""
    meta: dict[str, str] = {}
    if path.exists():
        try:
            loaded = read_json(path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read as JSON ({error}); expected "
                '{"parse": LABEL_SET, "densepose": ENCODING}'
            ) from error
        if isinstance(loaded, dict):
            meta = {key: value for key, value in loaded.items() if isinstance(value, str)}
    for key, option, given, available in (
        ("parse", "--label-set / label_set=", label_set, sorted(LABEL_SETS)),
        ("densepose", "--densepose / densepose_encoding=", densepose_encoding, sorted(ENCODINGS)),
    ):
        if given is not None:
            if given not in available:
                raise InputError(
                    f"{option}: unknown name {given!r}; available: {', '.join(available)}; name "
                    f"the one that the files use, or leave the option out to go by {path}"
                )
            meta[key] = given
            continue
        if key not in meta:
            raise InputError(
                f'{path} does not name "{key}", and it cannot be told from the pixels; available: '
                f'{", ".join(available)}; write {{"parse": LABEL_SET, "densepose": ENCODING}} into '
                f"it, or give {option}"
            )
        if meta[key] not in available:
            raise InputError(
                f'{path}: unknown "{key}" {meta[key]!r}; available: {", ".join(available)}; name '
                f"the one the file uses there or with {option}"
            )
    return meta


def _find(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    """The one file of a stem with one of the suffixes."""
    found = sorted(
        path for path in folder.iterdir() if path.stem == stem and path.suffix.lower() in suffixes
    )
    if len(found) == 1:
        return found[0]
    there = ", ".join(path.name for path in sorted(folder.iterdir())) or "nothing"
    due = f"{stem} with one of {', '.join(suffixes)}"
    if not found:
        raise InputError(f"{folder} has no {due}; there is: {there}; add the file")
    raise InputError(
        f"{folder} has more than one {due}: {', '.join(path.name for path in found)}; remove all "
        "but one"
    )


def _find_parse(folder: Path) -> Path:
    """`parse.png`; InputError says what is there instead."""
    path = folder / "parse.png"
    if os.path.lexists(path):
        return path
    others = sorted(other.name for other in folder.iterdir() if other.stem.lower() == "parse")
    there = ", ".join(others or sorted(other.name for other in folder.iterdir())) or "nothing"
    lossy = ", as lossy formats change ids" if others else ""
    raise InputError(
        f"{folder} has no parse.png; there is: {there}; the parse map has to be a PNG of that "
        f"name{lossy}: add it as the parser wrote it"
    )


def _read_npy(file: Path | BinaryIO, name: str) -> npt.NDArray[Any]:
    try:
        # Arrays of Python objects would run code of the file's choice. Mapped, not read: a header
        # may claim more than the file, or the memory, holds. (An open file cannot be mapped; NumPy
        # reads it piece by piece and ends where it ends.)
        mode: Any = "r" if isinstance(file, Path) else None
        array = np.load(file, mmap_mode=mode, allow_pickle=False)
    # Broken headers and archives raise what has no base in common: OSError, ValueError, EOFError,
    # TokenError, BadZipFile, MemoryError.
    except Exception as error:
        # NumPy takes whatever it does not know for a pickle, and tells how to run it.
        reason = "not a NumPy file" if "pickle" in str(error) else error
        raise InputError(
            f"{name} cannot be read as a NumPy array ({reason}); expected float32 [3,H,W]: write "
            "it again with numpy.save"
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{name} is an archive of arrays; expected one array from numpy.save")
    if array.nbytes > _MAX_NPY:
        raise InputError(
            f"{name} holds {describe(array)}, {array.nbytes} bytes; expected [3,H,W] of at most "
            f"{MAX_SIDE} pixels on either side: scale the photo and its maps down first"
        )
    return np.array(array)
