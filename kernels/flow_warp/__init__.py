"""FlowWarp on CUDA arrays of any library, compiled for the GPU at hand by NVRTC.

Needs cuda-python's `cuda.core` and `cuda.bindings`, and NVRTC with CUDA's headers, which the extra
`cuda` brings. Importing this needs none of them and no GPU, and neither does `compile_flow_warp`
need a GPU.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from garment_transfer.kernels.driver import (
    INSTALL,
    Array,
    CudaError,
    DeviceArrayLike,
    StreamLike,
    array_of,
    check_context,
    checked,
    current,
    stream_handle,
)

if TYPE_CHECKING:
    from cuda.core import Kernel

Padding = Literal["zeros", "border"]
Layout = Literal["planes", "hwc8"]

T = TypeVar("T", bound=DeviceArrayLike)

_PADDINGS: Final = ("zeros", "border")
_SIZES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
_SOURCE: Final = '#include "flow_warp_kernels.cuh"\n'

# As flow_warp_types.h has them.
_THREADS: Final = 128
_BLOCKS: Final = 384
_PLANES_CHANNELS: Final = 2


class _Call(ctypes.Structure):
    """`FlowWarpCall` of flow_warp_types.h, field for field."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("n", "c", "h", "w", "padding")),
        *((name, ctypes.c_void_p) for name in ("x", "coarse_flow", "residual", "affine")),
        *((name, ctypes.c_void_p) for name in ("y", "flow")),
    )


class _LaunchShape(ctypes.Structure):
    """`LaunchShape` of flow_warp_types.h, field for field."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("tiles", "parts", "threads_x", "threads_y")),
        *((name, ctypes.c_int) for name in ("tile", "groups")),
        *((name, ctypes.c_uint) for name in ("magic", "shift")),
        *((name, ctypes.c_float) for name in ("w_over_h", "h_over_w")),
    )


def flow_warp(
    x: DeviceArrayLike,
    coarse_flow: DeviceArrayLike,
    residual: DeviceArrayLike,
    affine: DeviceArrayLike,
    padding: Padding = "zeros",
    *,
    channels_last: bool = False,
    out: tuple[T, T],
    stream: StreamLike = 0,
) -> tuple[T, T]:
    """FlowWarp in one kernel; shapes, units and border rules: the table of `models.flow_warp`.

    Args:
        x: [N,C,H,W] float32, float16 or bfloat16, as any object with `__cuda_array_interface__`
            or DLPack (torch, CuPy, PyCUDA, Numba, ...), C-contiguous, on one device with the
            others, in its primary context. H and W even.
        coarse_flow: [N,2,H/2,W/2] float32, pixels.
        residual: [N,2,H,W] float32, pixels.
        affine: [N,2,3] float32, normalised coordinates.
        padding: "zeros" or "border".
        channels_last: x and y are [N,H,W,C], with C a multiple of 8, at multiples of 16 bytes. This
            is faster in float16 and bfloat16.
        out: y, as x, and flow [N,2,H,W] float32, which are written and returned; they share no
            memory with the inputs. residual, y and flow start at multiples of two elements, as
            all memory does that a library allocates.
        stream: on which the kernel is queued: a handle as an int (0 is the default stream), or an
            object with `__cuda_stream__` or, as torch's, `cuda_stream`. Nothing is allocated or
            waited for, so the call can be captured into a CUDA graph once the first has compiled
            the kernel.

    Returns:
        `out`.

    Raises:
        ValueError: an array has another shape than expected, is not contiguous, not aligned or not
            on a GPU, on another device than x, or the padding is unknown.
        TypeError: an array has another type than expected or does not give its memory away.
        CudaError: packages are missing, or CUDA refuses to compile or to launch.
    """
    handle = stream_handle(stream)
    names = ("x", "coarse_flow", "residual", "affine", "y", "flow")
    values = (x, coarse_flow, residual, affine, *out)
    arrays = {
        name: array_of(name, value, written=name in ("y", "flow"))
        for name, value in zip(names, values, strict=True)
    }
    n, c, h, w = _checked_shape(arrays, padding, channels_last)
    layout: Layout = "hwc8" if channels_last else "planes"
    if n and h and w:
        call = _Call(
            *(n, c, h, w, _PADDINGS.index(padding)), *(arrays[name].pointer for name in names)
        )
        check_context(arrays["x"])
        with current(arrays["x"].device):
            kernel = _kernel(arrays["x"].device, layout, arrays["x"].dtype)
            shape = _launch_shape(n, c, h, w, layout, _SIZES[arrays["x"].dtype])
            _launch(kernel, call, shape, handle)
    return out


def compile_flow_warp(architecture: str) -> bytes:
    """The kernels for an architecture such as "sm_90", a cubin by NVRTC; no GPU is needed.

    They are the `extern "C"` names of flow_warp_kernels.cuh.

    Raises:
        CudaError: NVRTC or CUDA's headers are missing, or NVRTC does not know the architecture.
    """
    try:
        from cuda.core import Program, ProgramOptions
        from cuda.pathfinder import DynamicLibNotFoundError
    except ImportError as error:
        raise CudaError(f"cuda.core does not import ({error}); run `{INSTALL}`") from error
    options = ProgramOptions(
        name="flow_warp.cu",
        arch=architecture,
        std="c++17",
        include_path=[*__path__, str(_cuda_headers())],
    )
    try:
        return bytes(Program(_SOURCE, "c++", options).compile("cubin").code)
    except DynamicLibNotFoundError as error:
        raise CudaError(f"NVRTC is not found ({error}); run `{INSTALL}`") from error
    except Exception as error:  # its own errors share no base class but this
        said = " ".join(str(error).strip("\0 \n").split())
        raise CudaError(
            f"NVRTC does not compile FlowWarp for {architecture}: {said}; if it does not know the "
            "architecture, upgrade nvidia-cuda-nvrtc"
        ) from error


def _cuda_headers() -> Path:
    """The folder of cuda_fp16.h: of the package nvidia-cuda-runtime, or of a CUDA toolkit."""
    try:
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError as error:
        raise CudaError(f"cuda.pathfinder does not import ({error}); run `{INSTALL}`") from error
    found = find_nvidia_header_directory("cudart")
    if found is None:
        raise CudaError(
            "CUDA's headers (cuda_fp16.h) are not found, neither those of the package "
            "nvidia-cuda-runtime nor a toolkit by CUDA_HOME; run `pip install nvidia-cuda-runtime`"
        )
    return Path(found)


def _checked_shape(
    arrays: dict[str, Array], padding: str, channels_last: bool
) -> tuple[int, int, int, int]:
    if padding not in _PADDINGS:
        raise ValueError(f"padding is {padding!r}; expected one of {_PADDINGS}")
    x = arrays["x"]
    if x.dtype not in _SIZES:
        raise TypeError(f"x is {x.dtype}; expected one of {', '.join(_SIZES)}")
    expected_x = "[N,H,W,C] with C a multiple of 8" if channels_last else "[N,C,H,W]"
    if len(x.shape) != 4 or (channels_last and x.shape[3] % 8):
        raise ValueError(f"x has shape {x.shape}; expected {expected_x}")
    n, c, h, w = (x.shape[i] for i in ((0, 3, 1, 2) if channels_last else range(4)))
    if h % 2 or w % 2:
        raise ValueError(f"x is {h}x{w}; FlowWarp doubles its coarse flow: both sides must be even")
    if n > 65535 or h * w > 1 << 30:
        raise ValueError(f"x has shape {x.shape}; at most 65535 images of 2**30 pixels are allowed")
    expected = {
        "coarse_flow": (n, 2, h // 2, w // 2),
        "residual": (n, 2, h, w),
        "affine": (n, 2, 3),
        "y": x.shape,
        "flow": (n, 2, h, w),
    }
    for name, shape in expected.items():
        array = arrays[name]
        if array.shape != shape:
            raise ValueError(
                f"{name} has shape {array.shape}; expected {shape} for x of shape {x.shape}"
            )
        dtype = x.dtype if name == "y" else "float32"
        if array.dtype != dtype:
            raise TypeError(f"{name} is {array.dtype}; expected {dtype}")
        if array.device != x.device:
            raise ValueError(f"{name} is on device {array.device}, x on device {x.device}")
    size = _SIZES[x.dtype]
    x_bytes, y_bytes = (16, 16) if channels_last else (size, 2 * size)
    multiples = {"x": x_bytes, "residual": 8, "y": y_bytes, "flow": 8}
    for name, multiple in multiples.items():
        if arrays[name].pointer % multiple:
            raise ValueError(
                f"{name} starts at address {arrays[name].pointer:#x}; expected a multiple of "
                f"{multiple} bytes: do not cut it out of another array"
            )
    return n, c, h, w


def _launch_shape(n: int, c: int, h: int, w: int, layout: Layout, size: int) -> _LaunchShape:
    """`launch_shape` of flow_warp_types.h, which says why; `size` is that of an element, bytes."""
    planes = layout == "planes"
    pixels = h * w
    channels = c if planes else 8 * _parts(c, 8)
    groups = max(_parts(channels, _PLANES_CHANNELS if planes else 16 // size), 1)
    tile = 2 * _THREADS if planes else _THREADS
    least, most = (16, tile) if planes else (2, 4 * _THREADS // groups)
    splits = groups if planes else 1
    while tile > least and (tile > most or _parts(pixels, tile) * splits * n < _BLOCKS):
        tile //= 2
    tiles = _parts(pixels, tile)
    each = max(groups // _parts(_BLOCKS, tiles * max(n, 1)), 1)
    threads_x = tile // 2 if planes else min(each, 32)
    threads_y = 1 if planes else min(_THREADS // threads_x, tile)
    half = w // 2
    shift = (half - 1).bit_length()
    magic = (((1 << shift) - half) << 32) // half + 1
    parts = _parts(groups, each)
    return _LaunchShape(tiles, parts, threads_x, threads_y, tile, each, magic, shift, w / h, h / w)


def _parts(whole: int, part: int) -> int:
    """How many parts of a size cover the whole."""
    return (whole + part - 1) // part


@cache
def _kernel(device: int, layout: Layout, dtype: str) -> Kernel:
    """A kernel, compiled for a device and loaded in its primary context once."""
    from cuda.core import Device, ObjectCode

    major, minor = Device(device).compute_capability
    code = ObjectCode.from_cubin(compile_flow_warp(f"sm_{major}{minor}"))
    return code.get_kernel(f"flow_warp_{layout}_{dtype}")


def _launch(kernel: Kernel, call: _Call, shape: _LaunchShape, stream: int) -> None:
    from cuda.bindings import driver

    pointers = (ctypes.c_void_p * 2)(ctypes.addressof(call), ctypes.addressof(shape))
    checked(
        driver.cuLaunchKernel(
            driver.CUfunction(int(kernel.handle)),
            *(shape.tiles, shape.parts, call.n),
            *(shape.threads_x, shape.threads_y, 1),
            0,
            stream,
            ctypes.addressof(pointers),
            0,
        )
    )
