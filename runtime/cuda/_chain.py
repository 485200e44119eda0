"""The chain: a bundle's engines in a row on a GPU, with nothing in between.

Written once for every backend that runs on a GPU. A `DeviceEngine` is a loaded graph; it gives a
`Context` per batch size and session. A `Session` is all that one transfer at a time needs: a
stream, a context per engine, buffers, and a CUDA graph of the whole chain. A `Chain` keeps a pool
of sessions, so that threads work side by side.

Once a session is made, a transfer allocates nothing and waits for nothing but its own results:
the outputs of one engine are the inputs of the next in device memory, inputs lie packed in one
block and outputs in another (one copy each way, through page-locked memory), and a transfer is
one graph launch where every context can be captured, one call per engine where not. Contexts of
a session run one after another on its stream, so they share their activation memory.

A captured graph has fixed addresses and shapes; that is why a session has one batch size, and why
device arrays are copied into its buffers. Who writes into `Session.inputs` saves that copy.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    BackendError,
    Code,
    InputError,
    Signature,
    Stage,
    Tensor,
    chained,
)
from garment_transfer.kernels.compose import Composed
from garment_transfer.kernels.driver import Array, OutOfMemory, StreamLike, stream_handle
from garment_transfer.kernels.photos import Library
from garment_transfer.runtime.cuda._device import ALIGNMENT, CudaDevice, aligned
from garment_transfer.runtime.cuda._photos import Pair, Photos

#: Entered around what a part of a transfer queues on a stream: `upload`, `fit`, a stage, `compose`,
#: `download`.
Part = Callable[[str, int], AbstractContextManager[None]]

_LOG: Final = logging.getLogger(__name__)

#: Held while a session is made whose chain is captured: engines that run for the first time may
#: wait for the whole GPU, which ends the captures of other threads.
_MAKING: Final = threading.Lock()


class Context(Protocol):
    """An engine made ready for one batch size and one stream. Used by one thread at a time."""

    @property
    def activation_bytes(self) -> int:
        """Device memory that `bind` has to be given; 0 where the backend has its own."""

    @property
    def capturable(self) -> bool:
        """Whether `enqueue` may be captured into a CUDA graph once it has run."""

    def bind(self, addresses: Mapping[str, int], activation: int) -> None:
        """Fixes where inputs and outputs lie, by name, and the activation memory."""

    def enqueue(self) -> None:
        """Queues the engine on its stream. BackendError when the backend refuses."""

    def profile(self, report: Callable[[str, float], None]) -> None:
        """From now on `report` gets name and milliseconds of layers, where the backend tells."""

    def close(self) -> None:
        """Frees everything; its memory and its stream, where nothing is left to do, are there."""


class DeviceEngine(Protocol):
    """A loaded graph, shared by all sessions."""

    @property
    def signature(self) -> Signature:
        """What the graph takes and gives."""

    def check_batch(self, batch: int) -> None:
        """Raises a GarmentTransferError where the engine does not take that batch size."""

    def context(self, batch: int, stream: int) -> Context:
        """A new context. The device is active. BackendError where the backend refuses."""


HostArray = npt.NDArray[np.generic]


class _Arrays(NamedTuple):
    """A session's tensors by name, in both memories."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    host_inputs: Mapping[str, HostArray]
    host_outputs: Mapping[str, HostArray]


@dataclass(frozen=True)
class _Block:
    """Where each of several tensors begins in one block of memory, and the block's size."""

    tensors: tuple[tuple[Tensor, tuple[int, ...], int], ...]
    size: int

    @classmethod
    def of(cls, tensors: Sequence[Tensor], batch: int) -> _Block:
        offset = 0
        placed = []
        for tensor in tensors:
            shape = tensor.shape_of(batch)
            placed.append((tensor, shape, offset))
            offset += aligned(math.prod(shape) * np.dtype(tensor.dtype).itemsize)
        return cls(tuple(placed), offset)

    def on_device(self, base: int, device: int) -> Mapping[str, Array]:
        return MappingProxyType(
            {
                tensor.name: Array(base + offset, shape, tensor.dtype, device)
                for tensor, shape, offset in self.tensors
            }
        )

    def on_host(self, memory: npt.NDArray[np.uint8]) -> Mapping[str, HostArray]:
        return MappingProxyType(
            {
                tensor.name: np.ndarray(shape, np.dtype(tensor.dtype), memory, offset)
                for tensor, shape, offset in self.tensors
            }
        )


class Session:
    """One transfer at a time of one batch size: stream, contexts, buffers, graph.

    `inputs` and `outputs` are the tensors on the GPU, `host_inputs` and `host_outputs` the same in
    page-locked memory; their addresses never change. `upload` copies all inputs to the GPU, `run`
    queues the chain, `download` copies all outputs back, all on `stream` and in the order of the
    calls; `synchronize` waits for them. A session is used by one thread at a time, the one that
    holds it.
    """

    def __init__(
        self,
        device: CudaDevice,
        engines: Mapping[Stage, DeviceEngine],
        batch: int,
        graphs: bool,
        part: Part,
        photos: Library | None,
    ) -> None:
        """`Chain.session` is the usual way. BackendError when memory runs out."""
        self.batch = batch
        self.device = device
        self._part = part
        self._caller: int | None = None
        self._host_in_use = False
        #: The thread that has it, or had it last.
        self.holder = threading.get_ident()
        #: Whether one of its own calls failed, so that its state is not known.
        self.broken = False
        signature = chained(engine.signature for engine in engines.values())
        inputs, outputs = _Block.of(signature.inputs, batch), _Block.of(signature.outputs, batch)
        with device.active(), ExitStack() as resources:
            self.stream = device.create_stream()
            resources.callback(device.destroy_stream, self.stream)
            self._event = device.create_event()
            resources.callback(device.destroy_event, self._event)
            self._photos = None
            if photos is not None:
                self._photos = Photos(device, photos, self.stream)
                resources.callback(self._photos.close)
            # freed after the contexts, which have to say how much they need
            memory = resources.enter_context(ExitStack())
            self._contexts: dict[Stage, Context] = {}
            for stage, engine in engines.items():
                context = engine.context(batch, self.stream)
                resources.callback(context.close)
                self._contexts[stage] = context
            activation = max(context.activation_bytes for context in self._contexts.values())
            begin, on_host = _allocate(device, memory, batch, inputs, outputs, activation)
            resources.callback(device.synchronize, self.stream)

            on_device = begin + aligned(activation)
            at = int(on_host.ctypes.data)
            self._upload = (on_device, at, inputs.size)
            self._download = (at + inputs.size, on_device + inputs.size, outputs.size)
            self._arrays = _Arrays(
                inputs.on_device(on_device, device.index),
                outputs.on_device(on_device + inputs.size, device.index),
                inputs.on_host(on_host[: inputs.size]),
                outputs.on_host(on_host[inputs.size :]),
            )
            addresses = {
                name: array.pointer
                for arrays in (self._arrays.inputs, self._arrays.outputs)
                for name, array in arrays.items()
            }
            for context in self._contexts.values():
                context.bind(addresses, begin)

            # What backends put off until their first run happens now, and may not be captured.
            on_host[:] = 0
            device.copy(*self._upload, self.stream)
            self._enqueue()
            device.synchronize(self.stream)
            self._graph = None
            if graphs and all(context.capturable for context in self._contexts.values()):
                self._graph = device.capture(self.stream, self._enqueue)
                if self._graph is None:
                    _LOG.warning(
                        "the capture of a session's CUDA graph was ended at every attempt, as "
                        "other threads do that wait for the whole GPU (`torch.cuda.synchronize`): "
                        "its engines are queued one by one, which is slower. Wait for streams or "
                        "events instead, or take a session before"
                    )
                else:
                    resources.callback(device.destroy_graph, self._graph)
            # also when nobody closes it: a pipeline may just be dropped
            self._finalizer = weakref.finalize(
                self, _release, device, self.stream, resources.pop_all()
            )

    @property
    def inputs(self) -> Mapping[str, Array]:
        """The chain's inputs on the GPU, by name, to be written into."""
        return self._open().inputs

    @property
    def outputs(self) -> Mapping[str, Array]:
        """The outputs of all engines on the GPU, by name."""
        return self._open().outputs

    @property
    def host_inputs(self) -> Mapping[str, HostArray]:
        """What `upload` copies."""
        return self._open().host_inputs

    @property
    def host_outputs(self) -> Mapping[str, HostArray]:
        """What `download` fills once `synchronize` has returned."""
        return self._open().host_outputs

    @property
    def replays(self) -> bool:
        """Whether the chain is one CUDA graph; otherwise each engine is queued by itself."""
        return self._graph is not None

    def upload(self) -> None:
        """Queues one copy of `host_inputs` to `inputs`."""
        with self._working(), self._part("upload", self.stream):
            self._host_in_use = True
            self.device.copy(*self._upload, self.stream)

    def run(self, stream: StreamLike | None = None) -> None:
        """Queues the chain.

        With a caller's `stream` (a handle as an int, or an object of torch, CuPy, PyCUDA or
        cuda.core) it runs after what is queued there, and what is queued there later runs after
        it. The stream has to live until the session is given back. Without one, `synchronize`
        comes before anybody reads `outputs` or writes `inputs` again.

        InputError for a stream that is none, or that the caller is capturing into a graph.
        """
        caller = None if stream is None else handle_of(self.device, stream)
        with self._working():
            if caller is not None:
                self._caller = caller
                self._wait_for(caller)
            self._launch()
            if caller is not None:
                self._signal(caller)

    def download(self) -> None:
        """Queues one copy of `outputs` to `host_outputs`."""
        with self._working(), self._part("download", self.stream):
            self._host_in_use = True
            self.device.copy(*self._download, self.stream)

    def synchronize(self) -> None:
        """Waits for all that was queued."""
        with self._working():
            self.device.synchronize(self.stream)
            self._host_in_use = False

    def transfer(self, inputs: Mapping[str, HostArray]) -> dict[str, HostArray]:
        """Host arrays in, new host arrays out; their types and shapes have been checked."""
        arrays = self._open()
        for name, array in inputs.items():
            arrays.host_inputs[name][...] = array
        self.upload()
        self.run()
        self.download()
        self.synchronize()
        return {name: array.copy() for name, array in arrays.host_outputs.items()}

    def transfer_photos(
        self,
        inputs: Sequence[Mapping[str, HostArray]],
        pairs: Mapping[int, Pair],
        stream: int | None = None,
    ) -> tuple[dict[str, HostArray], dict[int, Composed]]:
        """As `transfer`, and the finished photos of some of the batch's pairs, by their number.

        `inputs` are of each pair, without a batch axis and without the images that the GPU fits.
        Photos that are there already are read after what is queued on the caller's `stream`.
        BackendError (`out_of_memory`) where there is not the memory for photos, InputError as of
        `Photos.prepare`; the session stays whole.
        """
        arrays, photos = self._open(), self._photos
        assert photos is not None

        def of_pairs(tensors: Mapping[str, Array]) -> list[dict[str, Array]]:
            return [
                {name: tensor.item(index) for name, tensor in tensors.items()} for index in pairs
            ]

        with self.device.active():  # without the memory the session goes on without them
            photos.prepare(list(pairs.values()), of_pairs(arrays.outputs))
        for index, given in enumerate(inputs):
            for name, array in given.items():
                arrays.host_inputs[name][index] = array
        self.upload()
        with self._working(), self._part("upload", self.stream):
            photos.upload()
        with self._working(), self._part("fit", self.stream):
            if stream is not None:
                self._wait_for(stream)
            photos.fit(of_pairs(arrays.inputs))
        self.run()
        with self._working(), self._part("compose", self.stream):
            photos.compose()
        self.download()
        with self._working(), self._part("download", self.stream):
            photos.download()
        self.synchronize()
        outputs = {name: array.copy() for name, array in arrays.host_outputs.items()}
        with self._working():
            return outputs, dict(zip(pairs, photos.finished(), strict=True))

    def transfer_on_device(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], stream: int
    ) -> None:
        """Queues a transfer between device arrays; their types and shapes have been checked.

        On the caller's stream it looks like one kernel: it starts after what was queued there, and
        what is queued there next starts after it.
        """
        arrays = self._open()
        with self._working():
            self._wait_for(stream)
            for name, array in inputs.items():
                own = arrays.inputs[name]
                self.device.copy(own.pointer, array.pointer, own.nbytes, self.stream)
            self._launch()
            for name, array in outputs.items():
                own = arrays.outputs[name]
                self.device.copy(array.pointer, own.pointer, own.nbytes, self.stream)
            self._signal(stream)

    def settle(self) -> None:
        """Makes the session safe for its next holder.

        Copies between host and GPU that nobody waited for are waited for, and what the caller's
        stream holds by now goes before whatever the next holder queues.
        """
        if self._host_in_use:
            self.synchronize()
        if self._caller is not None:
            with self._working():
                self._wait_for(self._caller)
            self._caller = None

    def profile(self, report: Callable[[str, float], None]) -> None:
        """From now on `report` gets name and milliseconds of every layer, where backends tell."""
        for context in self._contexts.values():
            context.profile(report)

    def close(self) -> None:
        """Waits for what is queued and frees everything. Closing twice does no harm."""
        self._finalizer()

    def _open(self) -> _Arrays:
        if not self._finalizer.alive:
            raise BackendError(
                Code.SESSION_CLOSED,
                "the session is closed, and its memory is freed",
                fix="take one inside `with pipeline.session() as session:` and use it there",
            )
        return self._arrays

    @contextmanager
    def _working(self) -> Iterator[None]:
        """The device is active in the block, and a block that fails breaks the session."""
        self._open()
        try:
            with self.device.active():
                yield
        except BaseException:
            self.broken = True
            raise

    def _enqueue(self) -> None:
        for stage, context in self._contexts.items():
            with self._part(stage, self.stream):
                context.enqueue()

    def _launch(self) -> None:
        if self._graph is None:
            self._enqueue()
        else:
            self.device.launch(self._graph, self.stream)

    def _wait_for(self, stream: int) -> None:
        """What is queued on the session's stream from now on waits for what is queued there."""
        self.device.record(self._event, stream)
        self.device.wait(self.stream, self._event)

    def _signal(self, stream: int) -> None:
        """What is queued there from now on waits for what is queued on the session's stream."""
        self.device.record(self._event, self.stream)
        self.device.wait(stream, self._event)


class Chain:
    """Engines in a row and a pool of sessions over them. May be used from several threads."""

    def __init__(
        self,
        device: CudaDevice,
        engines: Mapping[Stage, DeviceEngine],
        *,
        sessions: int,
        graphs: bool,
        part: Part | None = None,
        photos: Library | None = None,
    ) -> None:
        """From an engine per stage, in the order in which they run.

        At most `sessions` exist at a time; each has one batch size and is made when first needed.
        When all are there, an idle one of another batch size makes room, and when all are in use,
        threads wait for one. `graphs=False` queues engines one by one instead of replaying, and so
        does `part`, which is entered around each part of a transfer to time it. `photos` is Fit and
        Compose where they were built with CUDA (`kernels.photos.load_cuda`).
        """
        self.device = device
        self.engines = engines
        self._graphs = graphs and part is None
        self._part = part or (lambda name, stream: nullcontext())
        self.photos = photos
        self._limit = sessions
        self._idle: list[Session] = []  # the longest idle first
        # Sessions that are there, by thread those that it holds, and the threads that close.
        self._count = 0
        self._held: Counter[int] = Counter()
        self._closing: set[int] = set()
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def session(self, batch: int, timeout: float | None = None) -> Iterator[Session]:
        """A session for a batch size, given back at the end.

        It is quiet: nothing of an earlier holder is queued any more, so that its inputs may be
        written into on any stream.

        Waits for one while all are in use, at most `timeout` seconds. An exception of the caller's
        in the block costs the session nothing; one of its own calls ends it.

        Raises:
            BackendError: none came free, or this thread holds one already and none is free, which
                it might wait for forever (`sessions_in_use`); the chain is closed; memory runs out.
            GarmentTransferError: an engine does not take that batch size.
        """
        with self.held(batch, timeout) as session:
            session.synchronize()
            yield session

    @contextmanager
    def held(self, batch: int, timeout: float | None = None) -> Iterator[Session]:
        """As `session`, but what an earlier holder queued on its stream may still run.

        That is enough for `Session.transfer` and its like.
        """
        for engine in self.engines.values():
            engine.check_batch(batch)
        holder = threading.get_ident()
        session = self._take(batch, timeout, holder)
        try:
            yield session
        finally:
            try:
                if not session.broken:
                    session.settle()
            finally:
                self._give_back(session, holder)

    def write(self, image: HostArray, out: Array, stream: int) -> None:
        """Copies a picture to a caller's array, after what is queued on the caller's stream."""
        with self.device.active(), ExitStack() as memory:
            on_host = self.device.allocate_host(image.nbytes)
            memory.callback(self.device.free_host, on_host)
            on_host[:] = image.reshape(-1)
            self.device.copy(out.pointer, on_host.ctypes.data, image.nbytes, stream)
            self.device.synchronize(stream)

    def close(self) -> None:
        """Waits for the sessions that other threads use, and frees all of them.

        A session is freed when it is given back where the thread that holds it is in this call.
        """
        thread = threading.get_ident()
        with self._changed:
            self._closed = True
            self._closing.add(thread)
            idle, self._idle = self._idle, []
            self._count -= len(idle)
            self._changed.notify_all()
        for session in idle:
            session.close()
        with self._changed:
            # threads that hold one each would wait for each other without end
            self._changed.wait_for(
                lambda: self._count <= sum(self._held[closing] for closing in self._closing)
            )
            self._closing.discard(thread)

    def _take(self, batch: int, timeout: float | None, holder: int) -> Session:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                if self._closed:
                    raise BackendError(
                        Code.PIPELINE_CLOSED, "the pipeline is closed", fix="load it again"
                    )
                fitting = [session for session in reversed(self._idle) if session.batch == batch]
                if fitting:
                    # ONNX Runtime keeps handles and memory for every thread that ran a session
                    session = max(fitting, key=lambda session: session.holder == holder)
                    self._idle.remove(session)
                    self._held[holder] += 1
                    session.holder = holder
                    return session
                if self._count < self._limit or self._idle:
                    break
                left = None if deadline is None else deadline - time.monotonic()
                if self._held[holder]:
                    self._refuse("and this thread, which holds one, would wait for itself")
                if left is not None and left <= 0:
                    self._refuse(f"and none came free within {timeout:g} s")
                self._changed.wait(left)
            self._held[holder] += 1
            if self._count < self._limit:
                evicted = None
                self._count += 1
            else:
                evicted = self._idle.pop(0)
        # outside the lock: it takes long, and others may work meanwhile
        try:
            if evicted is not None:
                evicted.close()
            with _MAKING if self._graphs else nullcontext():
                return Session(
                    self.device, self.engines, batch, self._graphs, self._part, self.photos
                )
        except BaseException:
            self._forget(holder)
            raise

    def _refuse(self, why: str) -> NoReturn:
        raise BackendError(
            Code.SESSIONS_IN_USE,
            f"all {self._limit} sessions are in use, {why}",
            fix="use the session that is held (`session.run`), load the pipeline with more "
            "(`sessions=`), or wait longer",
        )

    def _give_back(self, session: Session, holder: int) -> None:
        with self._changed:
            if not self._closed and not session.broken:
                self._idle.append(session)
                self._let_go(holder)
                return
        try:
            session.close()
        finally:
            self._forget(holder)

    def _forget(self, holder: int) -> None:
        with self._changed:
            self._count -= 1
            self._let_go(holder)

    def _let_go(self, holder: int) -> None:
        """The thread holds one less, and those that wait look again. The lock is held."""
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]  # threads come and go for as long as a server runs
        self._changed.notify_all()


def handle_of(device: CudaDevice, stream: StreamLike) -> int:
    """A stream's handle, as `kernels.driver.stream_handle`.

    InputError for what is no stream, and for one that is being captured: a session waits and
    allocates, and its own graph cannot become part of another.
    """
    try:
        handle = stream_handle(stream)
    except TypeError as error:
        raise InputError(Code.ARGUMENT_INVALID, str(error)) from error
    with device.active():
        capturing = device.is_capturing(handle)
    if capturing:
        raise InputError(
            Code.ARGUMENT_INVALID,
            "the stream is being captured into a CUDA graph",
            fix="end the capture first; a session replays a graph of its own",
        )
    return handle


def _allocate(
    device: CudaDevice,
    resources: ExitStack,
    batch: int,
    inputs: _Block,
    outputs: _Block,
    activation: int,
) -> tuple[int, npt.NDArray[np.uint8]]:
    """One block on the GPU (activations, inputs, outputs), one on the host (inputs, outputs)."""
    needed = aligned(activation) + inputs.size + outputs.size
    try:
        # CUDA promises 256 bytes
        on_device = device.allocate(needed + ALIGNMENT - 256)
    except OutOfMemory as error:
        free, total = device.memory()
        raise BackendError(
            Code.OUT_OF_MEMORY,
            f"a session for a batch of {batch} needs {_mib(needed)} of device memory (inputs "
            f"{_mib(inputs.size)}, outputs {_mib(outputs.size)}, activations {_mib(activation)}), "
            f"and GPU {device.index} ({device.name}) has {_mib(free)} of {_mib(total)} free",
            fix="use a smaller batch, fewer sessions (`sessions=`), or end what else uses the GPU",
        ) from error
    resources.callback(device.free, on_device)
    size = inputs.size + outputs.size
    try:
        on_host = device.allocate_host(size)
    except OutOfMemory as error:
        raise BackendError(
            Code.OUT_OF_MEMORY,
            f"a session for a batch of {batch} needs {_mib(size)} of page-locked host memory, and "
            "there is not so much",
            fix="use a smaller batch, fewer sessions (`sessions=`), or raise the limit of locked "
            "memory (`ulimit -l`)",
        ) from error
    resources.callback(device.free_host, on_host)
    return aligned(on_device), on_host


def _release(device: CudaDevice, stream: int, resources: ExitStack) -> None:
    with device.active(), resources:
        device.synchronize(stream)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
