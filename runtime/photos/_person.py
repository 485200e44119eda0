"""A person: photo, parsing and DensePose of one size, read from a folder or from arrays.

A person's folder holds

- `image.*`: the photo, of any colour mode and profile (png, jpg, jpeg, jfif, mpo, webp, gif, bmp;
  avif with Pillow 11.3 or later; heic, heif with the package pillow-heif);
- `parse.png`: label ids, grey or palette, or in the colours of the label set;
- `densepose.*`: DensePose (npy, png, jpg, jpeg, webp or bmp);
- `meta.json`: `{"parse": LABEL_SET, "densepose": ENCODING}`.

Neither the label set nor the encoding can be told from the pixels, so both are named.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final, Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    BACKGROUND,
    CLASSES,
    GARMENT,
    LABEL_SETS,
    SKIN,
    Code,
    InputError,
    Size,
    as_path,
    kind_of,
    label_set,
    reason_of,
    replacing,
)
from garment_transfer.kernels.fit import Box
from garment_transfer.kernels.remove_arms import remove_arms
from garment_transfer.runtime.photos._bodies import (
    choose_body,
    drop_not_worn,
    hands,
    in_front,
    somebody_else,
    view_fault,
)
from garment_transfer.runtime.photos._densepose import (
    ENCODINGS,
    FOREARMS,
    HANDS,
    MIN_SHARE,
    TORSO,
    Pixels,
    check_body,
    check_image,
    check_parts,
    check_uint8,
    decode_densepose,
    describe,
)
from garment_transfer.runtime.photos._fit import is_any, resize_map
from garment_transfer.runtime.photos._images import (
    MAX_SIDE,
    PHOTO_SUFFIXES,
    PICTURE_SUFFIXES,
    check_file,
    read_indices,
    read_photo,
    read_rgb,
)
from garment_transfer.runtime.photos._parsing import checked_ids, to_classes

# A map may have another size than its photo when the aspects agree within this share: enough for
# sizes that were rounded, too little to stretch anything visibly.
_ASPECT_TOLERANCE: Final = 0.01

# Bytes of the largest DensePose array: three channels of float64.
_MAX_NPY: Final = 3 * 8 * MAX_SIDE**2

# The least that a garment covers, as a share of the torso's area.
_LEAST_GARMENT: Final = 0.1

# The least of the body that DensePose shows on which a parse map has something.
_LEAST_COVERED: Final = 0.1

# How far a finger may be from the map's hand, as one part in so many of the photo's height.
_FINGERS: Final = 128
# How far the border of a map of an arm may be off, as one part in so many of the garment's height.
_BORDER: Final = 50

_META: Final = '{"parse": LABEL_SET, "densepose": ENCODING}'


@dataclass(frozen=True, eq=False)
class Person:
    """A photo with its maps, all of one size; validated, and unchangeable from then on.

    Arrays that somebody could still write to are copied.

    Attributes:
        image: uint8 RGB [H,W,3].
        parsing: uint8 [H,W], the seven classes of `CLASSES`.
        densepose: uint8 IUV [H,W,3]: part 0..24, U and V scaled from 0..1 to 0..255.
        name: what messages call the person, which is the folder where it was loaded from one.
        protected: bool [H,W], pixels that stay as they are: other people, things in front, hands.
            None for none.
        confidence: how sure the maps are by class (`CLASSES`), 0 to 1, in the mean over its pixels;
            empty where they were given.

    Raises:
        InputError: an array has another type, shape or range, or shows nobody.
    """

    image: npt.NDArray[np.uint8]
    parsing: npt.NDArray[np.uint8]
    densepose: npt.NDArray[np.uint8]
    name: str = ""
    protected: npt.NDArray[np.bool_] | None = None
    confidence: Mapping[str, float] = field(default_factory=dict)
    #: by callers that have compared both maps already, in messages that name the files
    _ids_checked: InitVar[bool] = False

    def __post_init__(self, _ids_checked: bool) -> None:
        check_image(self.image, "image")
        height, width = self.image.shape[:2]
        check_uint8(self.parsing, (height, width), "parsing", "class ids [H,W]")
        check_uint8(self.densepose, (height, width, 3), "densepose", "IUV [H,W,3]")
        if not _ids_checked and self.parsing.max() >= len(CLASSES):
            raise InputError(
                Code.ID_OUT_OF_RANGE,
                f"parsing has class {self.parsing.max()}",
                expected=f"classes 0..{len(CLASSES) - 1}",
                fix="for ids of another label set use Person.from_arrays(..., label_set=)",
            )
        check_body(self.densepose, "densepose")
        if not _ids_checked:
            check_parts(self.densepose[..., 0], "densepose")
            _check_covered(self.parsing, self.densepose[..., 0], "parsing", "densepose")
        if self.protected is not None and (
            self.protected.dtype != np.bool_ or self.protected.shape != (height, width)
        ):
            raise InputError(
                Code.ARRAY_INVALID,
                f"protected is {self.protected.dtype} {list(self.protected.shape)}",
                expected=f"bool [{height},{width}]",
            )
        for name in ("image", "parsing", "densepose", "protected"):
            array = getattr(self, name)
            if array is not None and not _is_immutable(array):
                array = np.array(array, order="C")
                array.flags.writeable = False
                object.__setattr__(self, name, array)

    @cached_property
    def garment(self) -> npt.NDArray[np.bool_]:
        """Where the photo shows the garment with nothing in front of it, bool [H,W].

        What lies beside a hand does not count, a 128th of the height far: it may be a finger that
        the map leaves out. Unchangeable too.
        """
        garment: npt.NDArray[np.bool_] = self.parsing == GARMENT
        if self.protected is not None:
            garment &= ~self.protected
        side = 2 * (len(garment) // _FINGERS) + 1
        hands = self._skin_of(HANDS).view(np.uint8)
        beside = cv2.dilate(hands, np.ones((side, side), np.uint8)).view(np.bool_)
        garment &= ~beside
        garment.flags.writeable = False
        return garment

    def _skin_of(self, parts: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Where the photo shows skin of some parts of DensePose, bool [H,W]."""
        return np.asarray((self.parsing == SKIN) & is_any(self.densepose[..., 0], parts), np.bool_)

    @property
    def worn_image(self) -> npt.NDArray[np.uint8]:
        """The photo as its garment is taken from it, uint8 RGB [H,W,3].

        As if no bare forearm was in front of the garment (`kernels.remove_arms`); `image` itself
        where none is. Unchangeable too.
        """
        return self._without_arms[0]

    @property
    def worn_garment(self) -> npt.NDArray[np.bool_]:
        """Where `worn_image` shows the garment, bool [H,W]; unchangeable too."""
        return self._without_arms[1]

    @cached_property
    def _without_arms(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        arms = self._skin_of((*HANDS, *FOREARMS)).view(np.uint8)
        if not arms.any():
            return self.image, self.garment
        height = cv2.boundingRect(self.garment.view(np.uint8))[3]
        side = 2 * (height // _BORDER) + 1
        around = cv2.dilate(arms, np.ones((side, side), np.uint8)).view(np.bool_)
        if self.protected is not None:
            around &= ~self.protected
        worn = remove_arms(self.image, self.garment, around & ~self.garment)
        for array in worn:
            array.flags.writeable = False
        return worn

    def __repr__(self) -> str:
        height, width = self.parsing.shape
        return f"<Person {self.name or 'without a name'}, {width}x{height} pixels>"

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        label_set: str | None = None,
        densepose_encoding: str | None = None,
        box: Box | None = None,
    ) -> Person:
        """Reads a person's folder.

        Args:
            folder: holds `image.*`, `parse.png`, `densepose.*` and `meta.json`.
            label_set: overrides what `meta.json` says.
            densepose_encoding: overrides what `meta.json` says.
            box: of the person who is meant, roughly, where DensePose shows several.

        Raises:
            InputError: a file is missing or wrong; the message names it.
        """
        folder = as_path(folder, "the person")
        if not folder.is_dir():
            raise InputError(
                Code.PERSON_MISSING,
                f"{folder} {'is ' + kind_of(folder) if folder.exists() else 'does not exist'}",
                expected="a person, which is a folder with image.*, parse.png, densepose.* and "
                "meta.json",
            )
        image = _find(folder, "image", PHOTO_SUFFIXES)
        parsing = _find(folder, "parse", (".png",))
        densepose = _find(folder, "densepose", (".npy", *PICTURE_SUFFIXES))
        meta = _named(folder, "meta", (".json",)) or [folder / "meta.json"]
        label_set, encoding = read_meta(meta[0], label_set, densepose_encoding)
        return cls.from_files(
            image, parsing, densepose, label_set, encoding, name=str(folder), box=box
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
        box: Box | None = None,
    ) -> Person:
        """A person from three files, as a folder of `load` holds: what a server was sent.

        Each file is a path, or a binary file open for reading, which is left open.

        Args:
            image: the photo; it becomes upright sRGB.
            parsing: label ids, grey or palette, or in colours of the label set.
            densepose: where it is open, a NumPy file if the encoding is "iuv", else an image; of a
                path the suffix decides.
            label_set: a key of `LABEL_SETS`.
            densepose_encoding: a key of `ENCODINGS`.
            name: what messages call the person.
            box: of the person who is meant, roughly, where DensePose shows several.

        Raises:
            InputError: a file cannot be read, or is not what it should be.
        """

        def of(given: str | os.PathLike[str] | BinaryIO, what: str) -> tuple[Path | BinaryIO, str]:
            if isinstance(given, str | os.PathLike):
                return Path(given), str(given)
            return given, f"{what} of {name}" if name else what

        image_file, image_name = of(image, "image")
        parsing_file, parsing_name = of(parsing, "parsing")
        densepose_file, densepose_name = of(densepose, "densepose")
        is_npy = (
            densepose_file.suffix.lower() == ".npy"
            if isinstance(densepose_file, Path)
            else densepose_encoding == "iuv"
        )
        pixels = read_photo(image_file, image_name)
        pixels.flags.writeable = False  # nobody else has it, so it need not be copied
        return cls._build(
            pixels,
            read_indices(parsing_file, parsing_name, LABEL_SETS.get(str(label_set))),
            _read_npy(densepose_file, densepose_name)
            if is_npy
            else read_rgb(densepose_file, densepose_name),
            label_set,
            densepose_encoding,
            name=name,
            array_names=(image_name, parsing_name, densepose_name),
            box=box,
        )

    @classmethod
    def from_arrays(
        cls,
        image: npt.NDArray[np.uint8],
        parsing: npt.NDArray[np.uint8],
        densepose: Pixels,
        label_set: str = "classes7",
        densepose_encoding: str = "iuv-png",
        name: str = "",
        box: Box | None = None,
    ) -> Person:
        """A person from arrays; those that somebody could still write to are copied.

        Args:
            image: uint8 RGB [H,W,3], in sRGB.
            parsing: uint8 [H,W] with the ids of `label_set`; 255 is background.
            densepose: uint8 [H,W,3] for "iuv-png" (I, 255 U, 255 V) and "parula" (RGB colours), or
                float [3,H,W] (I, U, V) for "iuv".
            label_set: a key of `LABEL_SETS`.
            densepose_encoding: a key of `ENCODINGS`.
            name: what messages call the person.
            box: of the person who is meant, roughly, where DensePose shows several.

        Raises:
            InputError: an array is not what it should be, the aspects differ, or DensePose shows
                several people and `box` chooses none.
        """
        return cls._build(
            image,
            parsing,
            densepose,
            label_set,
            densepose_encoding,
            name=name,
            array_names=("image", "parsing", "densepose"),
            box=box,
        )

    @classmethod
    def _build(
        cls,
        image: npt.NDArray[np.uint8],
        parsing: npt.NDArray[np.uint8],
        densepose: Pixels,
        label_set_name: str,
        densepose_encoding: str,
        name: str,
        array_names: tuple[str, str, str],
        box: Box | None,
        built_in: bool = False,
    ) -> Person:
        """From arrays.

        Maps that are `built_in` are a bundle's network's: nobody resized them smoothly, which is
        checked of others, and their borders follow the photo's.
        """
        image_name, parsing_name, densepose_name = array_names
        labels = label_set(label_set_name, parsing_name)
        check_image(image, image_name)
        check_uint8(parsing, (None, None), parsing_name, "label ids [H,W]")
        iuv = decode_densepose(densepose, densepose_encoding, name=densepose_name)
        size = image.shape[:2]
        iuv = _to_photo(iuv, size, densepose_name, image_name)
        parsing = parsing if built_in else checked_ids(parsing, parsing_name)
        ids = _to_photo(parsing, size, parsing_name, image_name)
        check_body(iuv, densepose_name)
        iuv, others = choose_body(iuv, box, densepose_name)
        parts = np.asarray(cv2.extractChannel(iuv, 0), np.uint8)
        classes = to_classes(ids, labels, parts, name=parsing_name)
        _check_covered(classes, parts, parsing_name, densepose_name)
        others = somebody_else(image, classes, parts, others)
        classes[others] = BACKGROUND
        classes, iuv, things = in_front(classes, iuv, is_any(ids, labels.in_front))
        drop_not_worn(image, classes, things)
        protected = others | things | hands(classes, parts, built_in)
        for array in (classes, iuv, protected):
            array.flags.writeable = False  # made here: nobody else has them
        kept = protected if protected.any() else None
        return cls(image, classes, iuv, name, kept, _ids_checked=True)

    @classmethod
    def from_photo(
        cls,
        photo: str | os.PathLike[str] | BinaryIO | npt.NDArray[np.uint8],
        name: str = "",
        box: Box | None = None,
    ) -> Person:
        """The person in a photo, with maps by the network in the package.

        `Pipeline.maps.person` does the same by the network of another bundle.

        Args:
            photo: a file, by its path or open for reading; or uint8 RGB [H,W,3], in sRGB.
            name: what messages call the person; the path where it is empty.
            box: of the person who is meant, roughly, where there are several.

        Raises:
            InputError: the photo cannot be read, or shows nobody, somebody too small, or several
                people and `box` chooses none.
            BackendError: ONNX Runtime cannot run here.
        """
        from garment_transfer.runtime._maps import built_in

        return built_in().person(photo, name, box)

    def check_view(self, role: str = "person") -> None:
        """Raises InputError unless the person stands upright and is seen from the front.

        `role` is what the message calls the person, beside the name.
        """
        reason = view_fault(self.densepose[..., 0])
        if reason:
            raise InputError(
                Code.VIEW_UNSUPPORTED,
                f"{' '.join(filter(None, (role, self.name)))} {reason}",
                expected="somebody upright and seen from the front",
                fix="choose another photo, and check that the DensePose map is this photo's own",
            )

    def check_garment(self, role: str = "garment owner") -> None:
        """Raises InputError unless the person wears an upper garment that can be given away.

        `role` is what the message calls the person, beside the name.
        """
        count = int(np.count_nonzero(self.parsing == GARMENT))
        torso = int(np.count_nonzero(is_any(self.densepose[..., 0], TORSO)))
        if count < max(MIN_SHARE * self.parsing.size, _LEAST_GARMENT * torso):
            who = f"{role} {self.name}" if self.name else role
            raise InputError(
                Code.GARMENT_MISSING,
                f"{who} wears no upper garment: {count} pixels of {self.parsing.size} have class "
                f"{GARMENT} ({CLASSES[GARMENT]}), and {torso} are torso",
                expected=f"at least {MIN_SHARE:.1%} of the photo and {_LEAST_GARMENT:.0%} of the "
                "torso's area",
                fix="choose a photo that shows one, and check that the label set is the parse "
                f"map's own ({', '.join(sorted(LABEL_SETS))})",
            )


def read_meta(
    path: Path, label_set: str | None = None, densepose_encoding: str | None = None
) -> tuple[str, str]:
    """The names of label set and DensePose encoding that hold for a person or a data set.

    Args:
        path: `meta.json`, which need not exist where both names are given.
        label_set: overrides the file's.
        densepose_encoding: overrides the file's.

    Raises:
        InputError: the file is not valid, or a name is missing or unknown.
    """
    meta = _Meta()
    check_file(path, str(path), Code.META_INVALID, _META)
    if path.exists():
        try:
            # some editors begin UTF-8 files with a mark
            content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
            meta = msgspec.json.decode(content, type=_Meta)
        except (OSError, RecursionError, UnicodeDecodeError, msgspec.DecodeError) as error:
            raise InputError(
                Code.META_INVALID, f"{path} cannot be read ({reason_of(error)})", expected=_META
            ) from error
    return (
        _name(path, "parse", meta.parse, label_set, LABEL_SETS),
        _name(path, "densepose", meta.densepose, densepose_encoding, ENCODINGS),
    )


def write_meta(path: Path, label_set: str, densepose_encoding: str) -> None:
    """Writes a `meta.json` that `read_meta` reads. Raises OutputError where it cannot."""
    with replacing(path) as temporary:
        meta = {"parse": label_set, "densepose": densepose_encoding}
        temporary.write_text(json.dumps(meta) + "\n", encoding="utf-8")


class _Meta(msgspec.Struct):
    """The contents of `meta.json`."""

    parse: str | None = None
    densepose: str | None = None


_OPTIONS: Final = {
    "parse": "`transfer --label-set` / label_set=",
    "densepose": "`transfer --densepose` / densepose_encoding=",
}


def _name(
    path: Path, key: str, of_file: str | None, given: str | None, available: Collection[str]
) -> str:
    """The name of a label set or encoding: that of an option first, then that of `meta.json`."""
    name = of_file if given is None else given
    expected = f"one of {', '.join(sorted(available))}"
    if name is None:
        raise InputError(
            Code.META_INVALID,
            f'{path} {"does not name" if path.exists() else "is missing, which names"} "{key}", '
            "and it cannot be told from the pixels",
            expected=expected,
            fix=f"write {_META} into it, or give {_OPTIONS[key]}",
        )
    if not isinstance(name, str) or name not in available:
        raise InputError(
            Code.LABEL_SET_UNKNOWN if key == "parse" else Code.DENSEPOSE_ENCODING_UNKNOWN,
            f"{path if given is None else _OPTIONS[key]}: unknown name {name!r}",
            expected=expected,
            fix=f"name the one that the files use, there or with {_OPTIONS[key]}"
            if given is None
            else "name the one that the files use",
        )
    return name


def _is_immutable(array: npt.NDArray[np.uint8] | bytes | None) -> bool:
    """Whether nobody can write to the memory of an array, not by what it is a view of either."""
    if isinstance(array, np.ndarray):
        return not array.flags.writeable and _is_immutable(array.base)
    return array is None or isinstance(array, bytes)


def _to_photo(
    array: npt.NDArray[np.uint8], size: tuple[int, ...], name: str, photo: str
) -> npt.NDArray[np.uint8]:
    """Brings a map to its photo's size by nearest neighbours where the aspect agrees."""
    (height, width), (rows, columns) = size[:2], array.shape[:2]
    if (rows, columns) == (height, width):
        return array
    if abs(rows * width - columns * height) > _ASPECT_TOLERANCE * rows * width:
        raise InputError(
            Code.SIZES_DIFFER,
            f"{name} is {columns}x{rows} pixels (width x height) and {photo} {width}x{height}: the "
            "aspects differ, so one of them was cropped or turned",
            fix="make both from the same photo",
        )
    return resize_map(array, Size(height, width))


def _named(folder: Path, stem: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a stem with one of the suffixes, in small letters or capitals."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.stem.lower() == stem and path.suffix.lower() in suffixes
    ]
    # a folder of such a name is told of where there is nothing else
    return [path for path in found if not path.is_dir()] or found


def _check_covered(
    classes: npt.NDArray[np.uint8], parts: npt.NDArray[np.uint8], parsing: str, densepose: str
) -> None:
    """Raises InputError where a parse map has next to nothing on the body that DensePose shows."""
    body = parts > 0
    share = np.count_nonzero((classes > 0) & body) / np.count_nonzero(body)
    if share < _LEAST_COVERED:
        raise InputError(
            Code.BODY_MISSING,
            f"{parsing} has something other than background on {share:.0%} of the body that "
            f"{densepose} shows",
            expected=f"at least {_LEAST_COVERED:.0%}",
            fix="make both maps from the same photo",
        )


def _find(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    """The one file of a stem with one of the suffixes."""
    files = _named(folder, stem, suffixes)
    if len(files) == 1:
        return files[0]
    name = f"{stem}.png" if suffixes == (".png",) else stem
    expected = f"{stem} with one of {', '.join(suffixes)}"
    if not files:
        entries = sorted(folder.iterdir())
        others = [path for path in entries if path.stem.lower() == stem]
        if name != stem:
            expected = "the map as a PNG" + ", as lossy formats change ids" * bool(others)
        raise InputError(
            Code.PERSON_INCOMPLETE,
            f"{folder} has no {name}; there is: {_listed(others or entries)}",
            expected=expected,
            fix="add the file",
        )
    raise InputError(
        Code.PERSON_AMBIGUOUS,
        f"{folder} has more than one {name}: {_listed(files)}",
        expected=f"one {expected}",
        fix="remove all but one",
    )


def _listed(paths: Collection[Path]) -> str:
    return ", ".join(path.name for path in paths) or "nothing"


def _read_npy(file: Path | BinaryIO, name: str) -> Pixels:
    check_file(file, name, Code.IMAGE_UNREADABLE, "float32 [3,H,W]")
    try:
        # Arrays of Python objects would run code of the file's choice. Mapped, not read: a header
        # may claim more than the file, or the memory, holds. (An open file cannot be mapped; NumPy
        # reads it piece by piece and ends where it ends.)
        mode: Literal["r"] | None = "r" if isinstance(file, Path) else None
        array = np.load(file, mmap_mode=mode, allow_pickle=False)
    # Broken headers and archives raise what has no base in common: OSError, ValueError, EOFError,
    # TokenError, BadZipFile, MemoryError.
    except Exception as error:
        # NumPy takes whatever it does not know for a pickle, and tells how to run it.
        reason = "not a NumPy file" if "pickle" in str(error) else error
        raise InputError(
            Code.IMAGE_UNREADABLE,
            f"{name} cannot be read as a NumPy array ({reason})",
            expected="float32 [3,H,W]",
            fix="write it again with numpy.save",
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(
            Code.ARRAY_INVALID,
            f"{name} is an archive of arrays",
            expected="one array from numpy.save",
        )
    if array.nbytes > _MAX_NPY:
        raise InputError(
            Code.IMAGE_SIZE,
            f"{name} holds {describe(array)}, {array.nbytes} bytes",
            expected=f"[3,H,W] of at most {MAX_SIDE} pixels on either side",
            fix="scale the photo and its maps down first",
        )
    return np.array(array)
