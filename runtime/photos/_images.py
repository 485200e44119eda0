"""Reading photos and label maps, and writing pictures whole or not at all.

Pillow reads the files: unlike OpenCV it gives the stored indices of a palette PNG, which are the
labels of a parse map, and it says what colour mode a file has.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from garment_transfer.bundle import Code, InputError, OutputError, check_writable, replacing

#: Photos and maps may be this many pixels high or wide. It bounds the memory a transfer takes,
#: and OpenCV's remap ends at 32767.
MAX_SIDE: Final = 8192

#: Suffixes of the formats that pictures are read and written in.
PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

# Formats that are read. Pillow knows more, some of which start other programs on a file's behalf.
_READ: Final = ("PNG", "JPEG", "WEBP", "BMP")

# Pixels on either side that a format can hold; the others hold all that a panel may have.
_MAX_WRITTEN: Final = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}

# Grey PNGs of few levels may be stored with fewer bits per pixel. Pillow spreads those levels
# over 0..255; labels must come back as stored.
_SPREAD: Final = {"L;2": 85, "L;4": 17}


def read_rgb(file: Path | BinaryIO, name: str = "") -> npt.NDArray[np.uint8]:
    """The pixels of an RGB image, uint8 [H,W,3], turned upright by its EXIF orientation.

    Args:
        file: a path, or a binary file open for reading at its start.
        name: what messages call the file; its path if empty.

    Raises:
        InputError: the file is missing, cannot be read, is not RGB or is too large.
    """
    name = name or str(file)
    image = _decode(file, name)
    if image.mode != "RGB":
        raise InputError(
            Code.IMAGE_MODE,
            f"{name} has colour mode {image.mode}",
            expected="RGB with 8 bits a channel and no transparency",
            fix='save it as such: `python -c "from PIL import Image; '
            f"Image.open('{name}').convert('RGB').save('image.png')\"`",
        )
    return np.array(ImageOps.exif_transpose(image))


def read_indices(file: Path | BinaryIO, name: str = "") -> npt.NDArray[np.uint8]:
    """The label ids of a parse map, uint8 [H,W]: grey levels, or the indices of a palette image.

    Args:
        file: as in `read_rgb`.
        name: as in `read_rgb`.

    Raises:
        InputError: the file is missing, cannot be read, holds colours instead, or is too large.
    """
    name = name or str(file)
    image = _decode(file, name)
    if image.mode not in ("L", "P"):
        lost = " (palette lost)" if image.mode in ("RGB", "RGBA") else ""
        raise InputError(
            Code.IMAGE_MODE,
            f"{name} has colour mode {image.mode}, not label ids{lost}",
            expected="a grey or palette PNG with 8 bits a pixel whose stored values are the ids",
            fix="take the map as the parser wrote it, not a coloured copy, and do not save it "
            "through a library that expands palettes (OpenCV does)",
        )
    indices = np.array(image)
    return indices // _SPREAD.get(image.info["rawmode"], 1)


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


def _decode(file: Path | BinaryIO, name: str) -> Image.Image:
    """Opens and decodes an image; `info["rawmode"]` says how its pixels are stored."""
    try:
        with Image.open(file, formats=_READ) as image:
            check_side(image.height, image.width, name)
            # Tiles are gone once the image is loaded.
            rawmode = image.tile[0][3] if image.tile else None
            image.load()
            image.info["rawmode"] = rawmode if isinstance(rawmode, str) else image.mode
            return image
    except FileNotFoundError:
        raise InputError(
            Code.IMAGE_MISSING, f"{name} does not exist", fix="check the path"
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name, "absurdly large") from None
    # Pillow's decoders raise SyntaxError and ValueError too on broken files.
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow names an open file by its address in memory.
        reason = (
            "cannot identify image file" if isinstance(error, UnidentifiedImageError) else error
        )
        raise InputError(
            Code.IMAGE_UNREADABLE,
            f"{name} cannot be read as an image ({_extent(file)}: {reason})",
            expected="a whole PNG, JPEG, WebP or BMP file that you may read",
        ) from error


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


def write_rgb(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Writes a picture, uint8 RGB [H,W,3] or grey [H,W], whole or not at all.

    The suffix of `path` names the format.

    Raises:
        OutputError: the path cannot be written, or the format cannot hold so many pixels.
    """
    _check_suffix(path)
    check_written_side(path, *image.shape[:2])
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, quality=95)
