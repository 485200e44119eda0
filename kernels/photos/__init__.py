"""Fit, Compose and what they need by ctypes: the library `garment_transfer_photos`, if built.

The first two run on a GPU too, where it was built with CUDA.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer import kernels
from garment_transfer.kernels.driver import Array, CudaError

if TYPE_CHECKING:
    from garment_transfer.kernels.fit import Fit

_LOG: Final = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

#: What the statuses of photos.h say; all but the last two would be a mistake of the callers here.
_FAULTS: Final = (
    "a pointer is missing",
    "sizes do not agree",
    "rows overlap",
    "the box does not fit",
    "memory overlaps",
    "there is no memory left",
    "CUDA refuses a launch: the library may have no code for this GPU, or the driver be older than "
    "its CUDA; install garment-transfer again on this machine, or without nvcc for the CPU's code",
)
_MEMORY, _CUDA = 6, 7


class _Picture(ctypes.Structure):
    """`GtPicture` of photos.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("channels", ctypes.c_int32),
    )


class _Fit(ctypes.Structure):
    """`GtFit` of photos.h."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in (
            *("source_height", "source_width", "top", "left", "height", "width"),
            *("scaled_height", "scaled_width", "frame_top", "frame_left"),
            *("target_height", "target_width"),
        )
    )


class Composing(ctypes.Structure):
    """`GtCompose` of photos.h."""

    _fields_ = (
        *((name, _Picture) for name in ("photo", "own", "kept", "owner_photo", "owner_garment")),
        ("fit", _Fit),
        ("owner_fit", _Fit),
        *((name, _Picture) for name in ("image", "parsing", "warped", "scores")),
        *((name, ctypes.c_void_p) for name in ("flow", "out_image", "out_parsing", "out_warped")),
        ("threads", ctypes.c_int32),
    )


class Library:
    """The functions of photos.h on NumPy arrays, whose types and shapes the callers have checked.

    They run on as many threads as OpenCV does (`cv2.setNumThreads`).
    """

    def __init__(self, path: str) -> None:
        self._functions = ctypes.CDLL(path)
        if self.has_cuda:
            self._functions.gt_compose_cuda_bytes.restype = ctypes.c_uint64

    def fit(self, fit: Fit, image: Pixels, is_map: bool) -> Pixels:
        """A photo or a map in the frame: `Fit.photo` and `Fit.map`."""
        picture, _image = _picture(image)
        shape = (fit.target.height, fit.target.width, *image.shape[2:])
        out = np.empty(shape, np.uint8)
        common = ctypes.byref(picture), ctypes.byref(_fit(fit)), ctypes.c_void_p(out.ctypes.data)
        if is_map:
            _check(self._functions.gt_fit_map(*common))
        else:
            threads = ctypes.c_int32(cv2.getNumThreads())
            _check(self._functions.gt_fit_photo(*common, threads))
        return out

    def remove_arms(
        self, photo: Pixels, garment: npt.NDArray[np.bool_], arms: npt.NDArray[np.bool_]
    ) -> tuple[Pixels, npt.NDArray[np.bool_]]:
        """`remove_arms.remove_arms`: copies, or photo and garment where no arm is in front."""
        masks = garment.view(np.uint8), arms.view(np.uint8)
        given = [_picture(array) for array in (photo, *masks)]
        out, worn = np.empty(photo.shape, np.uint8), np.empty(garment.shape, np.bool_)
        removed = ctypes.c_int32()
        _check(
            self._functions.gt_remove_arms(
                *(ctypes.byref(picture) for picture, _ in given),
                ctypes.c_void_p(out.ctypes.data),
                ctypes.c_void_p(worn.ctypes.data),
                ctypes.byref(removed),
                ctypes.c_int32(cv2.getNumThreads()),
            )
        )
        return (out, worn) if removed else (photo, garment)

    def upsample_labels(self, photo: Pixels, framed: Pixels, labels: Pixels, fit: Fit) -> Pixels:
        """`upsample_labels.upsample_labels`."""
        pictures = [_picture(array) for array in (photo, framed, labels)]
        out = np.empty(photo.shape[:2], np.uint8)
        _check(
            self._functions.gt_upsample_labels(
                *(ctypes.byref(picture) for picture, _ in pictures),
                ctypes.byref(_fit(fit)),
                ctypes.c_void_p(out.ctypes.data),
                ctypes.c_int32(cv2.getNumThreads()),
            )
        )
        return out

    def compose(
        self,
        pictures: dict[str, Pixels | None],
        fits: tuple[Fit, Fit],
        flow: npt.NDArray[np.float32],
        with_garment: bool,
    ) -> tuple[Pixels, Pixels, Pixels | None]:
        """`compose.compose`: `pictures` by the names of `Composing`, fits of person and owner.

        Returns the image, its classes, and the garment if it is asked for.
        """
        photo = pictures["photo"]
        assert photo is not None
        height, width = photo.shape[:2]
        image = np.empty((height, width, 3), np.uint8)
        parsing = np.empty((height, width), np.uint8)
        garment = np.empty_like(image) if with_garment else None
        flow = np.ascontiguousarray(flow, np.float32)
        given = {name: _picture(array) for name, array in pictures.items()}
        call = Composing(
            **{name: picture for name, (picture, _) in given.items()},
            fit=_fit(fits[0]),
            owner_fit=_fit(fits[1]),
            flow=flow.ctypes.data,
            out_image=image.ctypes.data,
            out_parsing=parsing.ctypes.data,
            out_warped=None if garment is None else garment.ctypes.data,
            threads=cv2.getNumThreads(),
        )
        _check(self._functions.gt_compose(ctypes.byref(call)))
        return image, parsing, garment

    @property
    def has_cuda(self) -> bool:
        """Whether the library was built with CUDA; without it the two below are missing."""
        return hasattr(self._functions, "gt_compose_cuda")

    def fit_on_device(self, fit: Fit, image: Array, out: int, stream: int) -> None:
        """Queues `Fit.photo` on a stream: a photo on the current GPU, and where the result goes."""
        picture = _picture_on_device(image)
        pointers = ctypes.c_void_p(out), ctypes.c_void_p(stream)
        _check(
            self._functions.gt_fit_photo_cuda(
                ctypes.byref(picture), ctypes.byref(_fit(fit)), *pointers
            )
        )

    def composing_on_device(
        self,
        pictures: dict[str, Array | None],
        fits: tuple[Fit, Fit],
        flow: int,
        outputs: tuple[int, int],
    ) -> Composing:
        """The call of `compose` on a GPU: arrays there, and where image and classes are written."""
        return Composing(
            **{name: _picture_on_device(array) for name, array in pictures.items()},
            fit=_fit(fits[0]),
            owner_fit=_fit(fits[1]),
            flow=flow,
            out_image=outputs[0],
            out_parsing=outputs[1],
        )

    def workspace(self, call: Composing) -> int:
        """The bytes of device memory that a call of `composing_on_device` works in."""
        size: int = self._functions.gt_compose_cuda_bytes(ctypes.byref(call))
        return size

    def compose_on_device(self, call: Composing, workspace: int, stream: int) -> None:
        """Queues such a call on a stream."""
        pointers = ctypes.c_void_p(workspace), ctypes.c_void_p(stream)
        _check(self._functions.gt_compose_cuda(ctypes.byref(call), *pointers))


@cache
def load() -> Library | None:
    """The library, loaded; None where it was not built or does not load, which is logged once."""
    path = kernels.photos_library()
    reason = "it was not built: install garment-transfer again where there is a C++ compiler"
    if path is not None:
        try:
            return Library(str(path))
        except OSError as error:
            reason = str(error)
    _LOG.warning("finished photos take several times as long without their C++ library: %s", reason)
    return None


def load_cuda() -> Library | None:
    """The library if it was built with CUDA."""
    library = load()
    return library if library is not None and library.has_cuda else None


def _picture(array: Pixels | None) -> tuple[_Picture, Pixels | None]:
    """An array's memory and the array that it is: a copy where its pixels are not side by side."""
    if array is None:
        return _Picture(), None
    channels = array.shape[2] if array.ndim == 3 else 1
    row = array.shape[1] * channels
    beside = (channels, 1)[: array.ndim - 1] if array.ndim == 3 else (1,)
    if array.strides[1:] != beside or abs(array.strides[0]) < row:
        array = np.ascontiguousarray(array)
    return _Picture(array.ctypes.data, array.strides[0], *array.shape[:2], channels), array


def _picture_on_device(array: Array | None) -> _Picture:
    if array is None:
        return _Picture()
    height, width, channels = (*array.shape, 1)[:3]
    return _Picture(array.pointer, width * channels, height, width, channels)


def _fit(fit: Fit) -> _Fit:
    box, scaled = fit.shown, fit.scaled
    return _Fit(
        *(fit.source.height, fit.source.width, box.top, box.left, box.height, box.width),
        *(scaled.height, scaled.width, fit.top, fit.left, fit.target.height, fit.target.width),
    )


def _check(status: Any) -> None:
    if status:
        error = {_MEMORY: MemoryError, _CUDA: CudaError}.get(status, ValueError)
        raise error(f"the photos' library: {_FAULTS[status - 1]}")
