"""The GPU as the chain of engines uses it: memory, streams, events, copies, graphs.

Pointers and streams are integers, as CUDA's other users (TensorRT, ONNX Runtime, torch, PyCUDA)
take them. Everything happens in the device's primary context, which these share: calls other than
`active` expect to be made inside `with device.active():`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import BackendError, Code
from garment_transfer.kernels import driver as cuda
from garment_transfer.kernels.driver import Array, DeviceArrayLike

if TYPE_CHECKING:
    from cuda.bindings import driver


#: Of activations, tensors and pictures in a block, in bytes: TensorRT asks 512 of activations, as
#: its check says, and 256 of tensors.
ALIGNMENT: Final = 512

#: How often a graph is captured again when other threads end its capture.
_ATTEMPTS: Final = 5


class CudaDevice:
    """An NVIDIA GPU in its primary context, by cuda-python. Many threads may use it at once.

    Attributes:
        index: CUDA's number of the device.
        name: the product's name.
        compute_capability: such as "8.9".
    """

    def __init__(self, index: int = 0) -> None:
        """The GPU of that number; BackendError without cuda-python, a driver or that GPU."""
        try:
            self._driver = driver = cuda.driver()
            count = cuda.checked(driver.cuDeviceGetCount())
            if not 0 <= index < count:
                raise BackendError(
                    Code.BACKEND_UNAVAILABLE,
                    f"device is {index}, and CUDA sees {count}, numbered from 0",
                    fix="choose one of them, or see what CUDA_VISIBLE_DEVICES hides",
                )
            handle = cuda.checked(driver.cuDeviceGet(index))
            name = cuda.checked(driver.cuDeviceGetName(256, handle))
            attributes = driver.CUdevice_attribute
            major, minor = (
                cuda.checked(driver.cuDeviceGetAttribute(attribute, handle))
                for attribute in (
                    attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                    attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                )
            )
            cuda.primary_context(index)
        except cuda.CudaError as error:
            raise BackendError(
                Code.BACKEND_UNAVAILABLE,
                f"no GPU can be used here: {error}",
                fix="`garment-transfer transfer` without --backend runs on the CPU",
            ) from error
        self.index = index
        self.name = name.split(b"\0")[0].decode()
        self.compute_capability = f"{major}.{minor}"

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the primary context current in this thread for as long as it lasts.

        What CUDA refuses inside is raised as BackendError.
        """
        try:
            with cuda.current(self.index):
                yield
        except cuda.CudaError as error:
            raise BackendError(
                Code.CUDA_FAILED,
                f"GPU {self.index} ({self.name}): {error}",
                fix="if it happens again, start the process anew; `compute-sanitizer` finds what "
                "writes beyond its memory",
            ) from error

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = cuda.checked(self._driver.cuMemGetInfo())
        return free, total

    def allocate(self, size: int) -> int:
        """Device memory, aligned to 256 bytes at least. OutOfMemory when there is none."""
        return int(cuda.checked(self._driver.cuMemAlloc(size)))

    def free(self, pointer: int) -> None:
        """Gives device memory back."""
        cuda.checked(self._driver.cuMemFree(pointer))

    def allocate_host(self, size: int) -> npt.NDArray[np.uint8]:
        """Page-locked host memory, which copies read and write asynchronously."""
        # portable: page-locked for other devices of the process too
        flags = self._driver.CU_MEMHOSTALLOC_PORTABLE
        pointer = int(cuda.checked(self._driver.cuMemHostAlloc(size, flags)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))

    def free_host(self, memory: npt.NDArray[np.uint8]) -> None:
        """Gives host memory back."""
        cuda.checked(self._driver.cuMemFreeHost(memory.ctypes.data))

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        flags = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        return int(cuda.checked(self._driver.cuStreamCreate(flags)))

    def destroy_stream(self, stream: int) -> None:
        """Ends a stream that has nothing left to do."""
        cuda.checked(self._driver.cuStreamDestroy(stream))

    def create_event(self, *, timing: bool = False) -> driver.CUevent:
        """An event; `elapsed` takes those with timing."""
        flags = self._driver.CUevent_flags
        kind = flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING
        return cuda.checked(self._driver.cuEventCreate(kind))

    def destroy_event(self, event: driver.CUevent) -> None:
        """Ends an event."""
        cuda.checked(self._driver.cuEventDestroy(event))

    def record(self, event: driver.CUevent, stream: int) -> None:
        """The event stands for all that is queued on the stream now."""
        cuda.checked(self._driver.cuEventRecord(event, stream))

    def wait(self, stream: int, event: driver.CUevent) -> None:
        """What is queued on the stream from now on runs after what the event stands for."""
        cuda.checked(self._driver.cuStreamWaitEvent(stream, event, 0))

    def elapsed(self, begin: driver.CUevent, end: driver.CUevent) -> float:
        """Milliseconds on the GPU between two events with timing, which have happened."""
        return float(cuda.checked(self._driver.cuEventElapsedTime(begin, end)))

    def copy(self, destination: int, source: int, size: int, stream: int) -> None:
        """Queues a copy of bytes between device memory and device or page-locked host memory."""
        # unified addresses say by themselves which side is the host's
        cuda.checked(self._driver.cuMemcpyAsync(destination, source, size, stream))

    def synchronize(self, stream: int) -> None:
        """Waits until all that is queued on the stream has run."""
        cuda.checked(self._driver.cuStreamSynchronize(stream))

    def is_capturing(self, stream: int) -> bool:
        """Whether what is queued on the stream goes into a graph, and does not run."""
        status = cuda.checked(self._driver.cuStreamIsCapturing(stream))
        return bool(status != self._driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> driver.CUgraphExec | None:
        """A graph of what `enqueue` queues on the stream, which is not run now.

        Whoever waits for the whole GPU meanwhile, as `torch.cuda.synchronize` does, ends the
        capture, in whatever thread and mode. None where that happened several times in a row.
        """
        driver = self._driver
        captures = (self._capture(stream, enqueue) for _ in range(_ATTEMPTS))
        graph = next((graph for graph in captures if graph is not None), None)
        if graph is None:
            return None
        try:
            executable = cuda.checked(driver.cuGraphInstantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)
        # otherwise the first replay would pay for it
        cuda.checked(driver.cuGraphUpload(executable, stream))
        return executable

    def _capture(self, stream: int, enqueue: Callable[[], None]) -> driver.CUgraph | None:
        """One attempt; None where the capture was ended."""
        driver, results = self._driver, self._driver.CUresult
        # relaxed: this thread may free memory meanwhile, as a finalizer does
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        cuda.checked(driver.cuStreamBeginCapture(stream, mode))
        try:
            enqueue()
        except BaseException as error:
            result, graph = driver.cuStreamEndCapture(stream)
            if result == results.CUDA_SUCCESS:
                driver.cuGraphDestroy(graph)
            elif result == results.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED and isinstance(
                error, Exception
            ):
                return None  # backends refuse a stream whose capture was ended
            raise
        result, graph = driver.cuStreamEndCapture(stream)
        if result == results.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED:
            return None
        return cuda.checked((result, graph))

    def launch(self, graph: driver.CUgraphExec, stream: int) -> None:
        """Queues a graph."""
        cuda.checked(self._driver.cuGraphLaunch(graph, stream))

    def destroy_graph(self, graph: driver.CUgraphExec) -> None:
        """Ends a graph that has nothing left to do."""
        cuda.checked(self._driver.cuGraphExecDestroy(graph))

    def array_of(self, name: str, value: DeviceArrayLike, *, written: bool = False) -> Array:
        """The memory of a caller's array, as `kernels.driver.array_of` and `check_context`."""
        array = cuda.array_of(name, value, written=written)
        cuda.check_context(array)
        return array


def aligned(size: int) -> int:
    """A size rounded up to `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT
