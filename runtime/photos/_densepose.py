"""DensePose in the encodings that files come in, and checks of the arrays of a person.

Parts (left and right are the subject's): 0 background, 1 back and 2 front of the torso, 3/4
right/left hand, 5/6 left/right foot, 7, 9 right and 8, 10 left thigh, 11, 13 right and 12, 14 left
calf, 15, 17 left and 16, 18 right upper arm, 19, 21 left and 20, 22 right forearm, 23, 24 head.
The neck belongs to the torso; loose cloth and hair are not covered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import NUM_PARTS, Code, InputError
from garment_transfer.runtime.photos._images import check_side

#: An array as it comes from a caller, before it is known to be uint8 or float.
Pixels: TypeAlias = npt.NDArray[np.uint8 | np.floating]

# Parts, as above.
TORSO: Final = (1, 2)
HANDS: Final = (3, 4)
UPPER_LEGS: Final = (7, 8, 9, 10)
LEGS: Final = (*UPPER_LEGS, 11, 12, 13, 14)
FOREARMS: Final = (19, 20, 21, 22)
#: Arms and legs, each with its upper part first and its hand or foot last.
LIMBS: Final = ((15, 17, 19, 21, 4), (16, 18, 20, 22, 3), (7, 9, 11, 13, 6), (8, 10, 12, 14, 5))
HEAD: Final = (23, 24)

_LAST_PART: Final = NUM_PARTS - 1

#: A body or a garment smaller than this share of its photo is a stray pixel, not one.
MIN_SHARE: Final = 0.001

# Networks overshoot U and V a little. Beyond this the array is on another scale.
_UV_SLACK: Final = 0.25

# Squared RGB distance to the nearest colour of the rendering: JPEG noise stays within it, blends of
# two colours at borders lie beyond; a picture with much beyond it is something else.
_TRUSTED_DISTANCE2: Final = 12**2
_TRUSTED_SHARE: Final = 0.5


def decode_densepose(
    densepose: Pixels, encoding: str, *, name: str = "densepose"
) -> npt.NDArray[np.uint8]:
    """DensePose as uint8 IUV [H,W,3], a new array: part 0..24, U and V scaled to 0..255.

    It is given as `Person.from_arrays` takes it; `name` is what messages call it.

    Raises:
        InputError: there is no such encoding, or the array is not in it.
    """
    try:
        decode = ENCODINGS[encoding]
    except (KeyError, TypeError):  # not a name at all
        raise InputError(
            Code.DENSEPOSE_ENCODING_UNKNOWN,
            f"{name}: unknown DensePose encoding {encoding!r}",
            expected=f"one of {', '.join(ENCODINGS)}",
            fix='name the one the file uses in meta.json ("densepose") or with '
            "`transfer --densepose` / densepose_encoding=",
        ) from None
    _check_array(densepose, name, f"of DensePose in encoding {encoding}")
    return decode(densepose, name)


def _decode_iuv(array: Pixels, name: str) -> npt.NDArray[np.uint8]:
    if array.ndim != 3 or array.shape[0] != 3 or array.dtype.kind != "f":
        raise InputError(
            Code.ARRAY_INVALID,
            f"{name} is {describe(array)}",
            expected="float [3,H,W] with channels I (part 0..24), U and V (0..1) for encoding iuv",
            fix="for uint8 [H,W,3] name encoding iuv-png instead",
        )
    height, width = array.shape[1:]
    check_side(height, width, name)
    if not np.isfinite(array).all():
        raise InputError(
            Code.DENSEPOSE_INVALID,
            f"{name} has NaN or infinite values",
            expected="I, U and V as DensePose gives them",
            fix="write the file again",
        )
    part, uv = array[0], array[1:]
    if part.min() < 0 or part.max() > _LAST_PART or (part != np.rint(part)).any():
        raise InputError(
            Code.DENSEPOSE_INVALID,
            f"{name}: channel I runs from {part.min():g} to {part.max():g}",
            expected=f"whole part ids 0..{_LAST_PART}",
            fix="check the order of the channels (I, U, V), and resize such maps with nearest "
            "neighbours only",
        )
    if uv.min() < -_UV_SLACK or uv.max() > 1 + _UV_SLACK:
        raise InputError(
            Code.DENSEPOSE_INVALID,
            f"{name}: U and V run from {uv.min():g} to {uv.max():g}",
            expected="0..1",
            fix="divide by 255 if they were scaled to bytes, and check the order of the channels "
            "(I, U, V)",
        )
    iuv = np.concatenate([part[None], np.rint(255 * np.clip(uv, 0, 1))])
    return np.ascontiguousarray(iuv.transpose(1, 2, 0).astype(np.uint8))


_FLOATS: Final = " (floats [3,H,W] are encoding iuv)"


def _decode_iuv_png(array: Pixels, name: str) -> npt.NDArray[np.uint8]:
    iuv = check_uint8(array, (None, None, 3), name, "IUV [H,W,3] for encoding iuv-png" + _FLOATS)
    check_parts(iuv[..., 0], name)
    return np.array(iuv, order="C")


def _decode_parula(array: Pixels, name: str) -> npt.NDArray[np.uint8]:
    """Parts from the colours of a lossy rendering; U and V, which it lacks, are 0.

    A colour near none of the palette's is a blend at a border: it takes the part of the nearest
    pixel that can be trusted, because the nearest colour of a blend may be any part's. Blends
    that happen to meet a palette colour make thin fringes, which the median filter removes.
    """
    rgb = check_uint8(array, (None, None, 3), name, "RGB [H,W,3] for encoding parula" + _FLOATS)
    palette = parula_palette().astype(np.float32)
    part = np.zeros(rgb.shape[:2], np.uint8)
    trusted = np.ones(rgb.shape[:2], bool)
    # A picture has far fewer colours than pixels, and black is most of it.
    red, green, blue = (rgb[..., channel].astype(np.uint32) for channel in range(3))
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
            Code.DENSEPOSE_INVALID,
            f"{name} does not look like encoding parula: only {share:.0%} of its coloured pixels "
            f"come near OpenCV's COLORMAP_PARULA at part * 255 / {_LAST_PART}",
            fix=f"name the encoding it has ({', '.join(ENCODINGS)})",
        )
    if not trusted.all():
        part = of_nearest(part, trusted)
    part = np.asarray(cv2.medianBlur(part, 5), np.uint8)
    iuv = np.zeros((*part.shape, 3), np.uint8)
    iuv[..., 0] = part
    return iuv


def of_nearest(
    values: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """At each pixel the value of the nearest one that is known; uint8 [H,W] or [H,W,C]."""
    _, zones = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_zone = np.zeros((int(zones.max()) + 1, *values.shape[2:]), np.uint8)
    of_zone[zones[known]] = values[known]
    return np.asarray(of_zone[zones], np.uint8)


def parula_palette() -> npt.NDArray[np.uint8]:
    """The RGB colours, uint8 [25,3], of the parts in encoding parula; 0 is black."""
    levels = np.array([int(part * 255 / _LAST_PART) for part in range(NUM_PARTS)], np.uint8)
    colours = np.asarray(cv2.applyColorMap(levels[:, None], cv2.COLORMAP_PARULA), np.uint8)
    palette = colours[:, 0, ::-1].copy()
    palette[0] = 0
    return palette


#: How DensePose may be stored; see `Person.from_arrays` for shapes and types.
ENCODINGS: Final[Mapping[str, Callable[[Pixels, str], npt.NDArray[np.uint8]]]] = {
    "iuv": _decode_iuv,
    "iuv-png": _decode_iuv_png,
    "parula": _decode_parula,
}


def describe(array: Pixels) -> str:
    return f"{array.dtype} [{','.join(map(str, array.shape))}]"


def _check_array(array: Pixels, name: str, expected: str) -> None:
    """Raises InputError unless `array` is a numpy array."""
    if not isinstance(array, np.ndarray):
        raise InputError(
            Code.ARRAY_INVALID,
            f"{name} is a {type(array).__name__}",
            expected=f"a numpy array, {expected}",
            fix="numpy.asarray makes one",
        )


def check_uint8(
    array: Pixels, shape: tuple[int | None, ...], name: str, expected: str
) -> npt.NDArray[np.uint8]:
    """The array, if it is uint8 of `shape`, where None is any size; else raises InputError."""
    _check_array(array, name, f"uint8 {expected}")
    if array.dtype != np.uint8:
        fix = "check that its values are 0..255, then .astype(numpy.uint8)"
        nan = ""
        if array.dtype.kind not in "iub":
            nan = " with NaN" if array.dtype.kind == "f" and np.isnan(array).any() else ""
            fix = (
                "bring its values to 0..255 (networks often give 0..1 or -1..1), then "
                ".astype(numpy.uint8)"
            )
        raise InputError(
            Code.ARRAY_INVALID,
            f"{name} is {describe(array)}{nan}",
            expected=f"uint8 {expected}",
            fix=fix,
        )
    if array.ndim != len(shape) or any(
        size not in (None, found) for size, found in zip(shape, array.shape, strict=True)
    ):
        sizes = ",".join("any" if size is None else str(size) for size in shape)
        raise InputError(
            Code.ARRAY_INVALID,
            f"{name} is {describe(array)}",
            expected=f"uint8 {expected}, here [{sizes}]",
            fix="pass one photo with its maps, channels last, all of one size",
        )
    height, width = array.shape[:2]
    check_side(height, width, name)
    return np.asarray(array, np.uint8)


def check_image(array: Pixels, name: str) -> None:
    check_uint8(array, (None, None, 3), name, "RGB [H,W,3]")


def check_parts(part: npt.NDArray[np.uint8], name: str) -> None:
    if part.max() > _LAST_PART:
        raise InputError(
            Code.DENSEPOSE_INVALID,
            f"{name}: channel I reaches {part.max()}",
            expected=f"DensePose parts 0..{_LAST_PART} in the first channel (red), then 255 U and "
            "255 V",
            fix="check the order of the channels (OpenCV writes BGR) and the encoding "
            f"({', '.join(ENCODINGS)})",
        )


def check_body(iuv: npt.NDArray[np.uint8], name: str) -> None:
    part = iuv[..., 0]
    count = int(np.count_nonzero(part))
    if count < MIN_SHARE * part.size:
        raise InputError(
            Code.BODY_MISSING,
            f"{name} shows a person without a body: {count} pixels of {part.size} have a DensePose "
            "part",
            expected=f"at least {MIN_SHARE:.1%}",
            fix="choose a photo that shows a person, and check that the DensePose encoding is the "
            f"file's own ({', '.join(ENCODINGS)})",
        )
