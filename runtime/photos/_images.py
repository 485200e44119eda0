"""Reading photos and label maps, and writing pictures whole or not at all.

Pillow reads the files: unlike OpenCV it gives the stored indices of a palette PNG, which are the
labels of a parse map, and it says what colour mode and colour profile a file has.

Photos are brought to upright sRGB, whatever they were. Maps are data: their numbers stay.
"""

from __future__ import annotations

import functools
import io
import logging
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from garment_transfer.bundle import (
    IGNORED,
    Code,
    ColourMap,
    InputError,
    LabelSet,
    OutputError,
    check_writable,
    kind_of,
    reason_of,
    replacing,
)

_LOG: Final = logging.getLogger(__name__)

#: Photos and maps may be this many pixels high or wide. It bounds the memory a transfer takes,
#: and OpenCV's remap ends at 32767.
MAX_SIDE: Final = 8192

#: Suffixes of the formats that pictures are written in, and DensePose pictures read.
PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

#: Suffixes of the formats that photos are read in.
PHOTO_SUFFIXES: Final = (*PICTURE_SUFFIXES, ".jfif", ".mpo", ".gif", ".avif", ".heic", ".heif")

#: How hard zlib tries at a PNG file: at the usual 6 a photo takes 2.5 times as long and is 7 %
#: smaller.
_PNG_LEVEL: Final = 4

#: Quality of JPEG and WebP unless told otherwise, of 1 to 100.
QUALITY: Final = 95

# Formats that are read. Pillow knows more, some of which start other programs on a file's behalf.
_READ: Final = ("PNG", "JPEG", "WEBP", "BMP")
_READ_PHOTOS: Final = (*_READ, "GIF")

# Brands of the container that AVIF and HEIC share, ISO/IEC 23000-22 and 23008-12.
_AVIF: Final = (b"avif", b"avis")
_HEIC: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Pixels on either side that a format can hold; the others hold all that a panel may have.
_MAX_WRITTEN: Final = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}

# Grey PNGs of few levels may be stored with fewer bits per pixel. Pillow spreads those levels
# over 0..255; labels must come back as stored.
_SPREAD: Final = {"L;2": 85, "L;4": 17}

# What Pillow calls grey of 16 bits, by its version and the order of the bytes.
_GREY_16: Final = ("I;16", "I;16B", "I;16L", "I")

# The colour space that a profile names, by the mode of the pictures that it describes.
_SPACES: Final = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}

_SRGB: Final = ImageCms.createProfile("sRGB")

_KEPT: Final = "a whole PNG, JPEG, WebP or BMP file that you may read"
_KEPT_PHOTOS: Final = "a whole PNG, JPEG, WebP, AVIF, HEIC, GIF or BMP file that you may read"

# It is said in the log where it matters, and costs a command's user two lines of Python.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning, r"PIL\.")

# What Pillow's decoders raise on broken files, beside OSError.
_BROKEN: Final = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error)


def read_photo(file: Path | BinaryIO, name: str = "") -> npt.NDArray[np.uint8]:
    """A photo in sRGB, uint8 [H,W,3], turned upright by its EXIF orientation.

    Any colour mode and profile will do. What cannot be kept is said in the log, once a photo:
    transparent pixels become white, of an animation the first frame is taken, and CMYK without a
    profile has no exact colours.

    Args:
        file: a path, or a binary file open for reading at its start.
        name: what messages call the file; its path if empty.

    Raises:
        InputError: the file is missing, cannot be read or is too large.
    """
    name = name or str(file)
    image = _decode(file, name, photo=True)
    _turn_upright(image, name)
    return np.array(_to_srgb(image, name))


def read_rgb(file: Path | BinaryIO, name: str = "") -> npt.NDArray[np.uint8]:
    """The numbers of an RGB picture that is data, uint8 [H,W,3], turned upright by its EXIF.

    Colour profiles are ignored. A palette and an alpha channel without transparency are undone. The
    arguments are those of `read_photo`.

    Raises:
        InputError: the file is missing, cannot be read, is not RGB or is too large.
    """
    name = name or str(file)
    image = _without_alpha(_decode(file, name))
    if image.mode == "P":
        image = image.convert("RGB")
    if image.mode != "RGB":
        raise InputError(
            Code.IMAGE_MODE,
            f"{name} has colour mode {image.mode}",
            expected="RGB with 8 bits a channel and no transparency",
            fix="take the picture as it was written first: what another mode lost cannot be "
            "brought back",
        )
    _turn_upright(image, name)
    return np.array(image)


def read_indices(
    file: Path | BinaryIO, name: str = "", label_set: LabelSet | None = None
) -> npt.NDArray[np.uint8]:
    """The label ids of a parse map, uint8 [H,W].

    They are grey levels, the indices of a palette, or colours of `label_set`. A palette of its
    colours in another order, as programs that shrink PNG files leave it, is read by colour.

    Args:
        file, name: as in `read_photo`.
        label_set: whose colours are known; without it no colours are.

    Raises:
        InputError: the file is missing, cannot be read, holds other colours, or is too large.
    """
    name = name or str(file)
    image = _without_alpha(_decode(file, name))
    known = label_set.colours if label_set else ()
    if image.mode in _GREY_16:
        wide = np.array(image)
        if wide.min() >= 0 and wide.max() <= IGNORED:
            return wide.astype(np.uint8)
    elif image.mode == "1":
        return np.array(image).astype(np.uint8)
    elif image.mode == "L":
        levels: npt.NDArray[np.uint8] = np.array(image)
        return np.asarray(levels // _SPREAD.get(image.info["rawmode"], 1), np.uint8)
    elif image.mode == "P":
        indices = np.array(image)
        palette = np.zeros((256, 3), np.uint8)
        stored = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
        palette[: len(stored)] = stored
        used = np.unique(indices)
        ids = _ids_of(palette[used], known, indices=used)
        if ids is None:
            return indices
        table = np.zeros(256, np.uint8)
        table[used] = ids
        return np.asarray(table[indices], np.uint8)
    elif image.mode == "RGB":
        pixels = np.array(image)
        if (pixels == pixels[..., :1]).all():  # a grey map that was saved in colour
            return np.ascontiguousarray(pixels[..., 0])
        packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        colours, inverse = np.unique(packed, return_inverse=True)
        if len(colours) < 256:
            rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1)
            ids = _ids_of(rgb, known)
            if ids is not None:
                return ids[inverse].reshape(packed.shape)
    lost = " (palette lost)" if image.mode in ("RGB", "RGBA") else ""
    colours_of = f", or the colours of {label_set.name}" if label_set else ""
    raise InputError(
        Code.IMAGE_MODE,
        f"{name} has colour mode {image.mode}, not label ids{lost}",
        expected="a grey or palette PNG with 8 bits a pixel whose stored values are the ids"
        + colours_of,
        fix="take the map as the parser wrote it, not a coloured copy, and do not save it "
        "through a library that expands palettes (OpenCV does)",
    )


def _ids_of(
    colours: npt.NDArray[np.integer],
    known: Sequence[ColourMap],
    indices: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8] | None:
    """The ids of colours, [N,3] to [N], by the one of the `known` maps that has all of them.

    None where none has, where two have and differ, or where one has `indices` as the ids.
    Programs round a colour's fractions up or down, so that 1 level is no difference.
    """
    found: list[npt.NDArray[np.uint8]] = []
    for one in known:
        ids = np.array(list(one), np.uint8)
        near = np.abs(colours[:, None].astype(int) - list(one.values())).max(axis=2) <= 1
        if near.any(axis=1).all():
            found.append(ids[near.argmax(axis=1)])
    if indices is not None and any((ids == indices).all() for ids in found):
        return None
    return found[0] if found and all((ids == found[0]).all() for ids in found) else None


def check_file(file: Path | BinaryIO, name: str, code: Code, expected: str) -> None:
    """Raises InputError for what is neither a file nor missing: a pipe would be waited for."""
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise InputError(code, f"{name} is {kind_of(file)}", expected=expected)
    if not isinstance(file, Path) and not hasattr(file, "read"):
        raise InputError(
            Code.ARGUMENT_INVALID, f"{name} is a {type(file).__name__}", expected="a path or a file"
        )


def check_side(height: int, width: int, name: str) -> None:
    """Raises InputError where an image is empty or larger than `MAX_SIDE` on either side."""
    if height < 1 or width < 1:
        raise InputError(
            Code.IMAGE_SIZE,
            f"{name} is empty ({width}x{height} pixels)",
            expected="at least one pixel",
            fix="check how it was cropped or written",
        )
    if max(height, width) > MAX_SIDE:
        raise _too_large(name, f"{width}x{height} pixels")


def photo_size(file: Path | BinaryIO) -> tuple[int, int] | None:
    """Height and width by the header of an image; None of what cannot be read as one.

    An open file is left at its start. Raises InputError where the size is absurd.
    """
    try:
        with Image.open(file, formats=_formats(file, "")) as image:
            return image.height, image.width
    except Image.DecompressionBombError:
        raise _too_large("the image", "absurdly large") from None
    except (*_BROKEN, InputError):
        return None
    finally:
        if not isinstance(file, Path):
            file.seek(0)


def _decode(file: Path | BinaryIO, name: str, photo: bool = False) -> Image.Image:
    """Opens and decodes an image; `info["rawmode"]` says how its pixels are stored."""
    check_file(file, name, Code.IMAGE_UNREADABLE, _KEPT_PHOTOS if photo else _KEPT)
    try:
        with Image.open(file, formats=_formats(file, name) if photo else _READ) as image:
            check_side(image.height, image.width, name)
            # A phone's MPO holds a smaller copy or a second view, not a next frame.
            if photo and image.format != "MPO" and getattr(image, "is_animated", False):
                _LOG.warning("%s is animated: its first frame is taken", name)
            # Tiles are gone once the image is loaded.
            rawmode = image.tile[0][3] if getattr(image, "tile", None) else None
            image.load()
            image.info["rawmode"] = rawmode if isinstance(rawmode, str) else image.mode
            return image
    except FileNotFoundError:
        raise InputError(
            Code.IMAGE_MISSING, f"{name} does not exist", fix="check the path"
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name, "absurdly large") from None
    except _BROKEN as error:
        # Pillow names an open file by its address in memory.
        reason = reason_of(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "cannot identify image file"
        raise InputError(
            Code.IMAGE_UNREADABLE,
            f"{name} cannot be read as an image ({_extent(file)}: {reason})",
            expected=_KEPT_PHOTOS if photo else _KEPT,
        ) from error


def _formats(file: Path | BinaryIO, name: str) -> tuple[str, ...]:
    """Pillow's formats that a photo may have; InputError where its reader is not installed."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            head = opened.read(64)
    else:
        head = file.read(64)
        file.seek(0)
    if head[4:8] != b"ftyp":
        return _READ_PHOTOS
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[i : i + 4] for i in (8, *range(16, size - 3, 4))]
    if any(brand in _AVIF for brand in brands):
        Image.init()
        if "AVIF" in Image.OPEN:
            return ("AVIF",)
        raise InputError(
            Code.IMAGE_UNREADABLE,
            f"{name} is an AVIF file, which this Pillow does not read",
            fix='run `pip install --upgrade --force-reinstall "pillow>=11.3"`, or save it as JPEG',
        )
    if any(brand in _HEIC for brand in brands):
        try:
            import pillow_heif
        except ImportError as error:
            raise InputError(
                Code.IMAGE_UNREADABLE,
                f"{name} is a HEIC file, which Pillow alone does not read ({error})",
                fix='run `pip install --force-reinstall --no-deps "pillow-heif>=1.8.1"` '
                "(garment-transfer's extra heif), or save it as JPEG",
            ) from error
        pillow_heif.register_heif_opener()
        return ("HEIF",)
    return _READ_PHOTOS


def _turn_upright(image: Image.Image, name: str) -> None:
    """Turns an image by its EXIF orientation, in place: a copy costs more than reading the tag."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except _BROKEN as error:
        _LOG.warning("%s has EXIF data that cannot be read, and counts as upright: %s", name, error)


def _without_alpha(image: Image.Image) -> Image.Image:
    """The image without its alpha channel where all of it is opaque."""
    if image.mode in ("RGBA", "LA") and np.asarray(image.getchannel("A")).min() == 255:
        opaque = image.convert(image.mode[:-1])
        opaque.info["rawmode"] = opaque.mode
        return opaque
    return image


def _to_srgb(image: Image.Image, name: str) -> Image.Image:
    """A photo of any mode as RGB in sRGB, on white where it is transparent."""
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
    profile = image.info.get("icc_profile")
    if image.mode in _GREY_16:
        # 65535 is white; rounded as PNG's specification has it
        levels = np.array(image).clip(0, 65535).astype(np.uint32)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode == "P":
        # by way of RGBA: Pillow warns of palettes with transparency otherwise
        image = image.convert("RGBA").convert("RGB")
    elif image.mode not in _SPACES:
        image = image.convert("RGB")
    if profile:
        image = _by_profile(image, profile, name)
    if image.mode == "CMYK":
        _LOG.warning("%s is CMYK without a usable colour profile: its colours are guessed", name)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is not None and np.asarray(alpha).min() < 255:
        _LOG.warning("%s has transparent pixels, which become white", name)
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image


def _by_profile(image: Image.Image, profile: bytes, name: str) -> Image.Image:
    """The image in sRGB by its profile, or as it is where the profile does not describe it."""
    try:
        space, transform = _transform(profile, image.mode)
        if space == "RGB " and image.mode == "L":  # grey levels of a profile for colours
            image = image.convert("RGB")
            space, transform = _transform(profile, "RGB")
        if space == _SPACES[image.mode]:
            return image if transform is None else transform.apply(image)
        reason = f"it is for {space.strip()}"
    except (ImageCms.PyCMSError, *_BROKEN) as error:
        reason = str(error)
    _LOG.warning("%s: its colour profile cannot be used, and is ignored: %s", name, reason)
    return image


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """A profile's colour space, and the way from there to sRGB; None where it is sRGB itself.

    Making one takes longer than applying it, and photos of one camera share theirs. LittleCMS
    lets threads share one.
    """
    opened = ImageCms.getOpenProfile(io.BytesIO(profile))
    space = str(opened.profile.xcolor_space)
    if space != _SPACES[mode]:
        return space, None
    transform = ImageCms.buildTransform(opened, _SRGB, mode, "RGB")
    if mode == "RGB":
        # Variants of sRGB move no colour by more than a level: their photos are left as they are.
        axis = np.linspace(0, 255, 9).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 27, 3)
        moved = np.array(transform.apply(Image.fromarray(colours)))
        if np.abs(moved.astype(int) - colours).max() <= 1:
            return space, None
    return space, transform


def _too_large(name: str, size: str) -> InputError:
    return InputError(
        Code.IMAGE_SIZE,
        f"{name} is {size}",
        expected=f"at most {MAX_SIDE} pixels on either side",
        fix="scale the photo and its maps down first",
    )


def _extent(file: Path | BinaryIO) -> str:
    if not isinstance(file, Path):
        return f"{file.seek(0, io.SEEK_END)} bytes"
    if file.is_dir():
        return "a folder"
    return f"{file.stat().st_size if file.is_file() else None} bytes"


def check_written_side(path: Path, height: int, width: int) -> None:
    """Raises OutputError where the format of `path` cannot hold a picture of that size."""
    limit = _MAX_WRITTEN.get(path.suffix.lower())
    if limit is not None and max(height, width) > limit:
        raise OutputError(
            Code.OUTPUT_FORMAT,
            f"{path} cannot be written: the picture is {width}x{height} pixels, and "
            f"{path.suffix} holds at most {limit} on either side",
            fix="end the path in .png",
        )


def check_output(path: Path) -> None:
    """Raises OutputError unless a picture can be written to `path`; leaves nothing behind."""
    _check_suffix(path)
    check_writable(path)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise OutputError(
            Code.OUTPUT_FORMAT,
            f"{path} does not name a picture format",
            fix=f"end it in one of {', '.join(PICTURE_SUFFIXES)}",
        )


def write_rgb(path: Path, image: npt.NDArray[np.uint8], quality: int = QUALITY) -> None:
    """Writes a picture, uint8 RGB [H,W,3] or grey [H,W], whole or not at all.

    The suffix of `path` names the format. RGB says that it is sRGB, where the format can; there is
    no other metadata.

    Args:
        path: ends in one of `PICTURE_SUFFIXES`.
        image: the picture.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        OutputError: the path cannot be written, or the format cannot hold so many pixels.
    """
    _check_suffix(path)
    check_written_side(path, *image.shape[:2])
    with replacing(path) as temporary:
        # by the format: where `path` is a link, `temporary` has the suffix of what it leads to
        kind = Image.registered_extensions()[path.suffix.lower()]
        Image.fromarray(image).save(
            temporary,
            kind,
            quality=quality,
            compress_level=_PNG_LEVEL,
            **_saying_srgb(path.suffix, image),
        )


def png_bytes(image: npt.NDArray[np.uint8]) -> bytes:
    """A picture as `write_rgb` writes it to a PNG file, a sixth larger and sooner."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1, **_saying_srgb(".png", image))
    return stream.getvalue()


def _saying_srgb(suffix: str, image: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """What Pillow is told so that a file says that its colours are sRGB."""
    if image.ndim == 2:
        return {}
    if suffix.lower() == ".png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add(b"sRGB", b"\0")  # its rendering intent is perceptual
        return {"pnginfo": chunks}
    return {"icc_profile": _srgb_profile()}


@functools.cache
def _srgb_profile() -> bytes:
    """LittleCMS's profile of sRGB with a fixed date, so that equal pictures are equal files."""
    profile = bytearray(ImageCms.ImageCmsProfile(_SRGB).tobytes())
    profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)
