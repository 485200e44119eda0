"""A person: photo, parsing and DensePose of one size, read from a folder or from arrays.

A person's folder holds

- `image.*`: the photo, RGB (png, jpg, jpeg, webp or bmp);
- `parse.png`: label ids, grey or palette;
- `densepose.*`: DensePose (npy, png, jpg, jpeg, webp or bmp);
- `meta.json`: `{"parse": LABEL_SET, "densepose": ENCODING}`.

Neither the label set nor the encoding can be told from the pixels, so both are named.

DensePose parts (left and right are the subject's): 0 background, 1 back and 2 front of the torso,
3/4 right/left hand, 5/6 left/right foot, 7, 9 right and 8, 10 left thigh, 11, 13 right and 12, 14
left calf, 15, 17 left and 16, 18 right upper arm, 19, 21 left and 20, 22 right forearm, 23, 24
head. The neck belongs to the torso; loose cloth and hair are not covered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.runtime.errors import InputError
from garment_transfer.runtime.files import read_json
from garment_transfer.runtime.images import MAX_SIDE, check_side, read_indices, read_rgb
from garment_transfer.runtime.labels import CLASSES, GARMENT, LABEL_SETS, label_set, to_classes

#: The highest DensePose part id.
PARTS: Final = 24

#: A body or a garment smaller than this share of its photo is a stray pixel, not one.
MIN_SHARE: Final = 0.001

# A map may have another size than its photo when the aspects agree within this share: enough for
# sizes that were rounded, too little to stretch anything visibly.
_ASPECT_TOLERANCE: Final = 0.01

# Networks overshoot U and V a little. Beyond this the array is on another scale.
_UV_SLACK: Final = 0.25

# Squared RGB distance to the nearest colour of the rendering: JPEG noise stays within it, blends of
# two colours at borders lie beyond; a picture with much beyond it is something else.
_TRUSTED_DISTANCE2: Final = 12**2
_TRUSTED_SHARE: Final = 0.5

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
        _check_image(self.image, "image")
        height, width = self.image.shape[:2]
        _check_uint8(self.parsing, (height, width), "parsing", "class ids [H,W]")
        _check_uint8(self.densepose, (height, width, 3), "densepose", "IUV [H,W,3]")
        if self.parsing.max() >= len(CLASSES):
            raise InputError(
                f"parsing has class {self.parsing.max()}; the classes are 0..{len(CLASSES) - 1}; "
                "for ids of another label set use Person.from_arrays(..., label_set=)"
            )
        _check_parts(self.densepose[..., 0], "densepose")
        _check_body(self.densepose, "densepose")
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
        _check_image(image, image_name)
        _check_uint8(parsing, (None, None), parsing_name, "label ids [H,W]")
        iuv = decode_densepose(densepose, densepose_encoding, name=densepose_name)
        size = image.shape[:2]
        iuv = _to_photo(iuv, size, densepose_name, image_name)
        ids = _to_photo(parsing, size, parsing_name, image_name)
        classes = to_classes(ids, labels, iuv[..., 0], name=parsing_name)
        _check_body(iuv, densepose_name)
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


def decode_densepose(
    densepose: npt.NDArray[Any], encoding: str, *, name: str = "densepose"
) -> npt.NDArray[np.uint8]:
    """DensePose in one of `ENCODINGS` as uint8 IUV [H,W,3], a new array. Raises InputError."""
    try:
        decode = ENCODINGS[encoding]
    except KeyError:
        raise InputError(
            f"unknown DensePose encoding {encoding!r}; available: {', '.join(ENCODINGS)}; name the "
            'one the file uses in meta.json ("densepose") or with --densepose / '
            "densepose_encoding="
        ) from None
    _check_array(densepose, name, f"of DensePose in encoding {encoding}")
    return decode(densepose, name)


def _decode_iuv(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    if array.ndim != 3 or array.shape[0] != 3 or array.dtype.kind != "f":
        raise InputError(
            f"{name} is {_describe(array)}; encoding iuv is float [3,H,W] with channels I (part "
            "0..24), U and V (0..1); for uint8 [H,W,3] name encoding iuv-png instead"
        )
    height, width = array.shape[1:]
    check_side(height, width, name)
    if not np.isfinite(array).all():
        raise InputError(
            f"{name} has NaN or infinite values; expected I, U and V as DensePose gives them: "
            "write the file again"
        )
    part, uv = array[0], array[1:]
    if part.min() < 0 or part.max() > PARTS or (part != np.rint(part)).any():
        raise InputError(
            f"{name}: channel I runs from {part.min():g} to {part.max():g}; expected whole part "
            f"ids 0..{PARTS}: check the order of the channels (I, U, V), and resize such maps with "
            "nearest neighbours only"
        )
    if uv.min() < -_UV_SLACK or uv.max() > 1 + _UV_SLACK:
        raise InputError(
            f"{name}: U and V run from {uv.min():g} to {uv.max():g}; expected 0..1: divide by 255 "
            "if they were scaled to bytes, and check the order of the channels (I, U, V)"
        )
    iuv = np.concatenate([part[None], np.rint(255 * np.clip(uv, 0, 1))])
    return np.ascontiguousarray(iuv.transpose(1, 2, 0).astype(np.uint8))


_FLOATS: Final = " (floats [3,H,W] are encoding iuv)"


def _decode_iuv_png(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    _check_uint8(array, (None, None, 3), name, "IUV [H,W,3] for encoding iuv-png" + _FLOATS)
    _check_parts(array[..., 0], name)
    return np.array(array, order="C")


def _decode_parula(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Parts from the colours of a lossy rendering; U and V, which it lacks, are 0.

    A colour near none of the palette's is a blend at a border: it takes the part of the nearest
    pixel that can be trusted, because the nearest colour of a blend may be any part's. Blends
    that happen to meet a palette colour make thin fringes, which the median filter removes.
    """
    _check_uint8(array, (None, None, 3), name, "RGB [H,W,3] for encoding parula" + _FLOATS)
    palette = parula_palette().astype(np.float32)
    part = np.zeros(array.shape[:2], np.uint8)
    trusted = np.ones(array.shape[:2], bool)
    # A picture has far fewer colours than pixels, and black is most of it.
    red, green, blue = (array[..., channel].astype(np.uint32) for channel in range(3))
    codes = (red << 16 | green << 8 | blue).ravel()
    coloured = np.flatnonzero(codes)
    codes, which = np.unique(codes[coloured], return_inverse=True)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1).astype(np.float32)
    # |a - b|^2 = |a|^2 - 2ab + |b|^2, all of them whole numbers that float32 holds exactly
    lengths = np.square(colours).sum(axis=1)
    distances = np.square(palette).sum(axis=1) - 2 * colours @ palette.T + lengths[:, None]
    # what is nearly black is black: it says nothing about the colours of the parts
    foreground = lengths > _TRUSTED_DISTANCE2
    near = distances.min(axis=1, initial=np.inf) <= _TRUSTED_DISTANCE2
    part.ravel()[coloured] = np.where(foreground, distances.argmin(axis=1), 0)[which]
    trusted.ravel()[coloured] = (near | ~foreground)[which]
    counted = foreground[which]
    share = near[which][counted].mean() if counted.any() else 1.0
    if share < _TRUSTED_SHARE:
        raise InputError(
            f"{name} does not look like encoding parula: only {share:.0%} of its coloured pixels "
            f"come near OpenCV's COLORMAP_PARULA at part * 255 / {PARTS}; name the encoding it has "
            f"({', '.join(ENCODINGS)})"
        )
    if not trusted.all():
        _, zones = cv2.distanceTransformWithLabels(
            (~trusted).astype(np.uint8),
            cv2.DIST_L2,
            cv2.DIST_MASK_5,
            labelType=cv2.DIST_LABEL_PIXEL,
        )
        of_zone = np.zeros(int(zones.max()) + 1, np.uint8)
        of_zone[zones[trusted]] = part[trusted]
        part = of_zone[zones]
    part = np.asarray(cv2.medianBlur(part, 5), np.uint8)
    iuv = np.zeros((*part.shape, 3), np.uint8)
    iuv[..., 0] = part
    return iuv


def parula_palette() -> npt.NDArray[np.uint8]:
    """The RGB colours, uint8 [25,3], of the parts in encoding parula; 0 is black."""
    levels = np.array([int(part * 255 / PARTS) for part in range(PARTS + 1)], np.uint8)
    colours = np.asarray(cv2.applyColorMap(levels[:, None], cv2.COLORMAP_PARULA), np.uint8)
    palette = colours[:, 0, ::-1].copy()
    palette[0] = 0
    return palette


#: How DensePose may be stored; see `Person.from_arrays` for shapes and types.
ENCODINGS: Final[Mapping[str, Callable[[npt.NDArray[Any], str], npt.NDArray[np.uint8]]]] = {
    "iuv": _decode_iuv,
    "iuv-png": _decode_iuv_png,
    "parula": _decode_parula,
}


def _describe(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} [{','.join(map(str, array.shape))}]"


def _check_array(array: object, name: str, due: str) -> None:
    """Raises InputError unless `array` is a numpy array."""
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"{name} is a {type(array).__name__}; expected a numpy array, {due}: "
            "numpy.asarray makes one"
        )


def _check_uint8(
    array: npt.NDArray[Any], shape: tuple[int | None, ...], name: str, due: str
) -> None:
    """Raises InputError unless `array` is uint8 of `shape`, where None is any size."""
    _check_array(array, name, f"uint8 {due}")
    if array.dtype.kind in "iub" and array.dtype != np.uint8:
        raise InputError(
            f"{name} is {_describe(array)}; expected uint8 {due}: check that its values are "
            "0..255, then .astype(numpy.uint8)"
        )
    if array.dtype != np.uint8:
        nan = " with NaN" if array.dtype.kind == "f" and np.isnan(array).any() else ""
        raise InputError(
            f"{name} is {_describe(array)}{nan}; expected uint8 {due}: bring its values to 0..255 "
            "(networks often give 0..1 or -1..1), then .astype(numpy.uint8)"
        )
    if array.ndim != len(shape) or any(
        want is not None and have != want for have, want in zip(array.shape, shape, strict=True)
    ):
        want = ",".join("any" if size is None else str(size) for size in shape)
        raise InputError(
            f"{name} is {_describe(array)}; expected uint8 {due}, here [{want}]: pass one photo "
            "with its maps, channels last, all of one size"
        )
    height, width = array.shape[:2]
    check_side(height, width, name)


def _check_image(array: npt.NDArray[Any], name: str) -> None:
    _check_uint8(array, (None, None, 3), name, "RGB [H,W,3]")


def _check_parts(part: npt.NDArray[np.uint8], name: str) -> None:
    if part.max() > PARTS:
        raise InputError(
            f"{name}: channel I reaches {part.max()}; expected DensePose parts 0..{PARTS} in the "
            "first channel (red), then 255 U and 255 V: check the order of the channels (OpenCV "
            f"writes BGR) and the encoding ({', '.join(ENCODINGS)})"
        )


def _check_body(iuv: npt.NDArray[np.uint8], name: str) -> None:
    part = iuv[..., 0]
    count = int(np.count_nonzero(part))
    if count < MIN_SHARE * part.size:
        raise InputError(
            f"{name} shows a person without a body: {count} pixels of {part.size} have a DensePose "
            f"part, expected at least {MIN_SHARE:.1%}; choose a photo that shows a person, and "
            f"check that the DensePose encoding is the file's own ({', '.join(ENCODINGS)})"
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
            f"{name} holds {_describe(array)}, {array.nbytes} bytes; expected [3,H,W] of at most "
            f"{MAX_SIDE} pixels on either side: scale the photo and its maps down first"
        )
    return np.array(array)
