"""CUDA's driver from Python: errors, primary contexts, and the memory of other libraries' arrays.

Needs cuda-python, which the extra `cuda` brings; importing this needs neither it nor a driver.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import c_void_p
from dataclasses import dataclass
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeGuard

import numpy as np

if TYPE_CHECKING:
    from cuda.bindings.driver import CUcontext

INSTALL: Final = 'pip install "garment-transfer[cuda]"'

#: The CUDA of cuda-python and of the kernels, as the driver counts, and the first driver for it.
MIN_CUDA: Final = 13000
MIN_DRIVER: Final = 580


class SupportsCudaArrayInterface(Protocol):
    """An array that says where its memory is, as PyCUDA's, Numba's and CuPy's do."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]:
        """Pointer, shape, type and strides."""


class SupportsDLPack(Protocol):
    """An array that gives its memory away by DLPack, as torch's and CuPy's do."""

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        """A capsule."""


#: What is taken for an array on a GPU.
DeviceArrayLike = SupportsCudaArrayInterface | SupportsDLPack

#: A stream's handle as an int, or a stream of torch, CuPy, PyCUDA, Numba or cuda.core.
StreamLike = Any


class CudaError(RuntimeError):
    """CUDA, its compiler or its Python packages fail or are missing; the message says how."""


class OutOfMemory(CudaError):
    """CUDA has not the memory that was asked for."""


@dataclass(frozen=True)
class Array:
    """A C-contiguous array on a GPU, as torch, CuPy, PyCUDA and Numba take it.

    `dtype` is NumPy's name. The memory is another's: a session's for as long as that is held.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    device: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def item(self, index: int) -> Array:
        """One of the batch, without its axis."""
        pointer = self.pointer + index * self.nbytes // self.shape[0]
        return Array(pointer, self.shape[1:], self.dtype, self.device)

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            # no stream: who writes and reads it says so to `Session.run`
            "stream": None,
        }


def driver() -> ModuleType:
    """`cuda.bindings.driver`, initialised. CudaError without cuda-python, a driver or a GPU."""
    version = driver_version()
    if version < MIN_CUDA:
        raise CudaError(
            f"the NVIDIA driver is for CUDA {cuda_name(version)}, and CUDA {cuda_name(MIN_CUDA)} "
            f"is needed; install driver {MIN_DRIVER} or later"
        )
    from cuda.bindings import driver as bindings

    checked(bindings.cuInit(0))
    return bindings


def driver_version() -> int:
    """The CUDA that the installed driver is for, as it counts: 12090 is 12.9.

    Raises CudaError without cuda-python or a driver. No GPU is needed.
    """
    try:
        from cuda.bindings import driver as bindings
        from cuda.pathfinder import DynamicLibNotFoundError
    except ImportError as error:
        raise CudaError(f"cuda-python does not import ({error}); run `{INSTALL}`") from error
    try:
        return int(checked(bindings.cuDriverGetVersion()))
    except DynamicLibNotFoundError as error:
        raise CudaError(
            "there is no NVIDIA driver here (libcuda is not found); install the driver, or run "
            "where there is one"
        ) from error


def cuda_name(version: int) -> str:
    """A version of CUDA as people write it: 12.9 for the driver's 12090."""
    return f"{version // 1000}.{version % 1000 // 10}"


def checked(result: tuple[Any, ...]) -> Any:
    """The value of a driver call (a tuple of several), or its error."""
    from cuda.bindings import driver

    error, *values = result
    if error != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(error)
        kind = OutOfMemory if error == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY else CudaError
        raise kind(f"CUDA says {(text or b'').decode()} ({error.name})")
    return values[0] if len(values) == 1 else tuple(values) or None


@cache
def primary_context(device: int) -> CUcontext:
    """The primary context of a device, kept for as long as the process runs."""
    bindings = driver()
    return checked(bindings.cuDevicePrimaryCtxRetain(checked(bindings.cuDeviceGet(device))))


@contextmanager
def current(device: int) -> Iterator[None]:
    """Makes the primary context of a device current, and puts back what was."""
    from cuda.bindings import driver

    checked(driver.cuCtxPushCurrent(primary_context(device)))
    try:
        yield
    finally:
        checked(driver.cuCtxPopCurrent())


def check_context(array: Array) -> None:
    """Raises CudaError where an array's memory is in another context than the primary one."""
    from cuda.bindings import driver

    attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT
    error, context = driver.cuPointerGetAttribute(attribute, array.pointer)
    # Memory that was mapped or came from a pool is the device's: it has no context, or the
    # question is refused.
    if error != driver.CUresult.CUDA_SUCCESS:
        return
    if int(context or 0) not in (0, int(primary_context(array.device))):
        raise CudaError(
            f"the arrays are in another context of device {array.device} than its primary one; "
            "PyCUDA gets that by `import pycuda.autoprimaryctx`"
        )


def is_device_array(value: object) -> TypeGuard[DeviceArrayLike]:
    """Whether a value says where its memory is by `__cuda_array_interface__` or DLPack."""
    return hasattr(value, "__cuda_array_interface__") or hasattr(value, "__dlpack__")


def array_of(name: str, value: DeviceArrayLike, *, written: bool = False) -> Array:
    """The memory of `value`, which has to be C-contiguous on a GPU, and writable if `written`.

    Raises:
        TypeError: the value does not give its memory away.
        ValueError: it is not on a GPU, not contiguous, or read-only.
        CudaError: cuda-python or the driver is missing.
    """
    try:
        from cuda.core.utils import StridedMemoryView
        from cuda.pathfinder import DynamicLibNotFoundError
    except ImportError as error:
        raise CudaError(f"cuda.core does not import ({error}); run `{INSTALL}`") from error
    if not is_device_array(value):
        raise TypeError(
            f"{name} is a {type(value).__name__}; expected an array on a GPU, with "
            "__cuda_array_interface__ or __dlpack__ (torch, CuPy, PyCUDA, Numba)"
        )
    try:
        # -1: no synchronisation between streams, which is the caller's
        view = StridedMemoryView.from_any_interface(_as_version_3(value), stream_ptr=-1)
        dtype = str(view.dtype)
    except DynamicLibNotFoundError as error:
        raise CudaError(f"there is no NVIDIA driver here: {error}") from error
    except Exception as error:
        raise TypeError(f"{name}, a {type(value).__name__}, gives no view: {error}") from error
    if not view.is_device_accessible:
        raise ValueError(f"{name} is not on a GPU; move it there first")
    shape = tuple(view.shape)
    check_contiguous(name, shape, view.strides)
    if written and view.readonly:
        raise ValueError(f"{name} is read-only; expected an array that may be written")
    return Array(int(view.ptr), shape, dtype, int(view.device_id))


def _as_version_3(value: DeviceArrayLike) -> DeviceArrayLike:
    """The array with version 3 of the CUDA Array Interface, which cuda.core demands.

    What it adds to the versions before is the stream, which is not looked at here.
    """
    interface = getattr(value, "__cuda_array_interface__", None)
    if hasattr(value, "__dlpack__") or interface is None or interface["version"] >= 3:
        return value
    return SimpleNamespace(
        __cuda_array_interface__={**interface, "version": 3, "stream": None}, owner=value
    )


def check_contiguous(name: str, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    """Raises ValueError unless strides, in elements, are those of a C-contiguous array."""
    if strides is None:
        return
    # NumPy's rule: where there is one of something, the way to the next does not matter
    view = np.lib.stride_tricks.as_strided(np.empty(1, np.uint8), shape, strides)
    if not view.flags.c_contiguous:
        raise ValueError(
            f"{name} of shape {shape} has strides {tuple(strides)}; expected a contiguous array: "
            "copy it first (`.contiguous()`, `ascontiguousarray`)"
        )


def stream_handle(stream: StreamLike) -> int:
    """The handle of a stream: an int, or that of an object with `__cuda_stream__` or the like.

    Raises TypeError for anything else.
    """
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for attribute in ("cuda_stream", "ptr", "handle"):  # torch, CuPy, PyCUDA
        if hasattr(stream, attribute):
            handle = getattr(stream, attribute)
            # Numba's is of ctypes, which has None for the default stream's 0
            return int((handle.value or 0) if isinstance(handle, c_void_p) else handle)
    if isinstance(stream, int):
        return stream
    raise TypeError(
        f"stream is a {type(stream).__name__}; expected a handle as an int, or an object with "
        "__cuda_stream__"
    )
