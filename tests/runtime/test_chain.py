"""The chain of engines over an in-memory double of a GPU, byte for byte against the CPU pipeline.

The double runs what is queued on a stream only when somebody waits for it, so that a missing
dependency between streams, or host memory that is read or written too early, shows as a wrong
result. It knows its allocations, checks every address, fills what it hands out and what it gets
back with rubbish, and counts. Its engines are those of the backend `onnxruntime-cuda`, bound to
raw pointers as on a GPU, but on ONNX Runtime's CPU provider.

Not tested here, because it takes a GPU (`pytest -m gpu tests/gpu`): CUDA itself (`CudaDevice`, real
streams running at the same time, capture of real kernels, page-locked memory), ONNX Runtime's CUDA
provider on the caller's stream, TensorRT's contexts and their activation memory, arrays of torch
and PyCUDA, and time.
"""

import ctypes
import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from garment_transfer.bundle import STAGES, BackendError, Bundle, Code, InputError, chained
from garment_transfer.kernels.driver import Array, OutOfMemory, check_contiguous
from garment_transfer.runtime import Pipeline, stage_inputs
from garment_transfer.runtime.backends.onnxruntime_cuda import OnnxRuntimeEngine
from garment_transfer.runtime.cuda import Chain, CudaDevice

RUBBISH = 0xCC


class Double(CudaDevice):
    """A GPU's memory and streams in host memory; what is queued runs when it is waited for."""

    index = 0
    name = "double"
    compute_capability = "0.0"

    def __init__(self, size: int = 1 << 30) -> None:
        self.size = size
        self.counts: Counter[str] = Counter()
        self.memories: dict[int, tuple[np.ndarray, int]] = {}
        self.captured_streams: set[int] = set()  # of callers
        self.captures_end = False  # by what other threads do
        self.while_capturing: Callable[[], None] = lambda: None
        self._host: dict[int, int] = {}
        self._streams: dict[int, list[Any]] = {0: []}
        self._run: Counter[int] = Counter()
        self._numbers = iter(range(1, 1 << 30))
        self._lock = threading.RLock()
        self._thread = threading.local()

    @contextmanager
    def active(self) -> Iterator[None]:
        before = getattr(self._thread, "active", False)
        self._thread.active = True
        try:
            yield
        finally:
            self._thread.active = before

    def memory(self) -> tuple[int, int]:
        # a copy: other threads allocate meanwhile
        return self.size - sum(size for _, size in list(self.memories.values())), self.size

    def allocate(self, size: int) -> int:
        self._count("allocate")
        if size > self.memory()[0]:
            raise OutOfMemory("CUDA says out of memory (CUDA_ERROR_OUT_OF_MEMORY)")
        block = np.full(size + 256, RUBBISH, np.uint8)
        pointer = -(-block.ctypes.data // 256) * 256
        self.memories[pointer] = block, size
        return pointer

    def free(self, pointer: int) -> None:
        self._count("free")
        block, _ = self.memories.pop(pointer)
        block[:] = RUBBISH

    def allocate_host(self, size: int) -> np.ndarray:
        self._count("allocate_host")
        memory = np.full(size, RUBBISH, np.uint8)
        self._host[memory.ctypes.data] = size
        return memory

    def free_host(self, memory: np.ndarray) -> None:
        self._count("free_host")
        del self._host[memory.ctypes.data]
        memory[:] = RUBBISH

    def create_stream(self) -> int:
        self._count("create_stream")
        stream = next(self._numbers)
        self._streams[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        self._count("destroy_stream")
        assert self._run[stream] == len(self._streams.pop(stream)), "work was left"

    def create_event(self, *, timing: bool = False) -> list[Any]:
        self._count("create_event")
        return []

    def destroy_event(self, event: list[Any]) -> None:
        self._count("destroy_event")

    def record(self, event: list[Any], stream: int) -> None:
        self._count("record")
        event[:] = [stream, len(self._streams[stream])]

    def wait(self, stream: int, event: list[Any]) -> None:
        self._count("wait")
        other, position = event
        self.queue(stream, lambda: self._run_until(other, position))

    def copy(self, destination: int, source: int, size: int, stream: int) -> None:
        self._count("copy")

        def move() -> None:
            for pointer in (destination, source):
                assert self._inside(pointer, size), "address outside of what is allocated"
            ctypes.memmove(destination, source, size)

        self.queue(stream, move)

    def synchronize(self, stream: int) -> None:
        self._count("synchronize")
        self._run_until(stream, len(self._streams[stream]))

    def is_capturing(self, stream: int) -> bool:
        return stream in self.captured_streams

    def capture(self, stream: int, enqueue: Callable[[], None]) -> tuple[Any, ...] | None:
        if self.captures_end:
            return None
        self._count("capture")
        self._thread.captured = captured = []
        try:
            enqueue()
            self.while_capturing()
        finally:
            del self._thread.captured
        return tuple(captured)

    def launch(self, graph: tuple[Any, ...], stream: int) -> None:
        self._count("launch")
        for work in graph:
            self.queue(stream, work)

    def destroy_graph(self, graph: tuple[Any, ...]) -> None:
        self._count("destroy_graph")

    def array_of(self, name: str, value: Any, *, written: bool = False) -> Array:
        interface = value.__cuda_array_interface__
        dtype = np.dtype(interface["typestr"])
        strides = interface["strides"] and tuple(s // dtype.itemsize for s in interface["strides"])
        check_contiguous(name, interface["shape"], strides)
        device = getattr(value, "device", 0)
        return Array(interface["data"][0], interface["shape"], str(dtype), device)

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        captured = getattr(self._thread, "captured", None)
        (self._streams[stream] if captured is None else captured).append(work)

    def _run_until(self, stream: int, position: int) -> None:
        with self._lock:
            # a destroyed stream has run all it had
            while stream in self._streams and self._run[stream] < position:
                work = self._streams[stream][self._run[stream]]
                self._run[stream] += 1
                work()

    def _inside(self, pointer: int, size: int) -> bool:
        blocks = [(at, length) for at, (_, length) in self.memories.items()]
        return any(
            at <= pointer and pointer + size <= at + length
            for at, length in (*blocks, *self._host.items())
        )

    def _count(self, what: str) -> None:
        assert getattr(self._thread, "active", False), f"{what} outside of the context"
        self.counts[what] += 1


class OnDevice:
    """A caller's array on the double, `offset` bytes into what was allocated."""

    def __init__(self, double: Double, array: np.ndarray, device: int = 0, offset: int = 0) -> None:
        self.device = device
        with double.active():
            pointer = double.allocate(max(array.nbytes, 1) + offset) + offset
        memory = (ctypes.c_uint8 * array.nbytes).from_address(pointer)
        self.array = np.frombuffer(memory, array.dtype).reshape(array.shape)
        self.array[...] = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.array.__array_interface__, "version": 3}


class DoubleEngine:
    """An engine of the backend `onnxruntime-cuda`, on the CPU, queued on the double's streams."""

    def __init__(
        self, double: Double, engine: OnnxRuntimeEngine, activation_bytes: int, capturable: bool
    ) -> None:
        self.double = double
        self.engine = engine
        self.activation_bytes = activation_bytes
        self.capturable = capturable
        self.signature = engine.signature
        self.enqueued = 0
        self.fail = False
        self.fail_late = False
        self.open = 0
        self.bound: list[dict[str, int]] = []
        self.activations: list[int] = []

    def check_batch(self, batch: int) -> None:
        self.engine.check_batch(batch)

    def context(self, batch: int, stream: int) -> "DoubleContext":
        return DoubleContext(self, batch, stream)


class DoubleContext:
    def __init__(self, engine: DoubleEngine, batch: int, stream: int) -> None:
        self._engine = engine
        self._stream = stream
        self._context = engine.engine.context(batch, stream)
        engine.open += 1
        self.activation_bytes = engine.activation_bytes
        self.capturable = engine.capturable
        self._activation: int | None = None

    def bind(self, addresses: dict[str, int], activation: int) -> None:
        self._engine.bound.append(dict(addresses))
        self._engine.activations.append(activation)
        self._context.bind(addresses, activation)
        self._activation = activation

    def enqueue(self) -> None:
        if self._engine.fail:
            raise BackendError(Code.RUN_FAILED, "the engine refuses")
        self._engine.enqueued += 1
        self._engine.double.queue(self._stream, self._work)

    def _work(self) -> None:
        if self._engine.fail_late:
            raise BackendError(Code.RUN_FAILED, "a kernel fails")
        double, size = self._engine.double, self.activation_bytes
        if size:
            assert double._inside(self._activation, size)
            ctypes.memset(self._activation, RUBBISH, size)
        self._context.enqueue()

    def close(self) -> None:
        double = self._engine.double
        assert self._stream in double._streams, "the stream ended before"
        if self._activation is not None:
            assert double._inside(self._activation, 1), "the memory was freed before"
        self._engine.open -= 1
        self._context.close()


class Setup:
    """A pipeline over the double, and what it is made of."""

    def __init__(
        self,
        folder: Path,
        *,
        size: int = 1 << 30,
        activations: tuple[int, ...] = (1000, 5000, 3000),
        capturable: tuple[bool, ...] = (True, True, True),
        sessions: int = 8,
        graphs: bool = True,
    ) -> None:
        bundle = Bundle.load(folder)
        self.double = Double(size)
        self.engines = {
            stage: DoubleEngine(
                self.double,
                OnnxRuntimeEngine(
                    bundle.graph_path(stage),
                    bundle.read_graph(stage),
                    bundle.manifest.graphs[stage].signature,
                    threads=1,
                    provider="CPUExecutionProvider",
                    memory="cpu",
                ),
                activation,
                can,
            )
            for stage, activation, can in zip(STAGES, activations, capturable, strict=True)
        }
        self.chain = Chain(self.double, self.engines, sessions=sessions, graphs=graphs)
        self.pipeline = Pipeline(bundle, self.chain)

    @property
    def enqueued(self) -> list[int]:
        return [engine.enqueued for engine in self.engines.values()]


@pytest.fixture
def setup(tiny_bundle) -> Iterator[Setup]:
    made = Setup(tiny_bundle)
    yield made
    made.pipeline.close()
    assert_nothing_left(made.double)


@pytest.fixture(scope="module")
def cpu(tiny_bundle) -> Pipeline:
    return Pipeline.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def pairs(make_person, tiny) -> list[dict[str, np.ndarray]]:
    """Inputs of six different pairs."""
    return [
        stage_inputs(
            make_person(seed=i), make_person(garment=(0.25, 0.5, 0.15, 0.9), seed=20 + i), tiny.size
        )
        for i in range(6)
    ]


@contextmanager
def callers_stream(double: Double) -> Iterator[int]:
    """A stream of a caller, who waits for it at the end."""
    with double.active():
        stream = double.create_stream()
    yield stream
    with double.active():
        double.synchronize(stream)
        double.destroy_stream(stream)


def batch_of(pairs: list[dict[str, np.ndarray]], *which: int) -> dict[str, np.ndarray]:
    return {name: np.stack([pairs[i][name] for i in which]) for name in pairs[0]}


def assert_same(found: dict[str, Any], due: dict[str, Any]) -> None:
    assert set(found) == set(due)
    for name, array in due.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes(), name


def assert_nothing_left(double: Double) -> None:
    made = double.counts
    assert made["allocate_host"] == made["free_host"]
    assert made["create_stream"] == made["destroy_stream"]
    assert made["create_event"] == made["destroy_event"]
    assert made["capture"] == made["destroy_graph"]
    assert not double._host


@pytest.mark.parametrize("graphs", [True, False])
def test_the_chain_gives_what_the_cpu_gives(tiny_bundle, cpu, pairs, graphs):
    with Setup(tiny_bundle, graphs=graphs).pipeline as pipeline:
        for which in ((0,), (1,), (2, 3), (0, 1, 5), (4,)):
            inputs = batch_of(pairs, *which)
            assert_same(pipeline.run(inputs), cpu.run(inputs))


def test_photos_go_through_the_same_chain(setup, cpu, make_person):
    people = [make_person(128, 64, seed=1), make_person(96, 90, seed=2)]
    found = setup.pipeline.transfer_batch(people, people[::-1])
    due = cpu.transfer_batch(people, people[::-1])
    for one, other in zip(found, due, strict=True):
        for name in ("image", "transfer_parsing", "warped_garment", "flow"):
            assert (getattr(one, name) == getattr(other, name)).all(), name
        assert set(one.timings) == {"fit", "chain", "compose"}


def test_finished_photos_of_the_cpu_go_to_callers_arrays(setup, cpu, make_person):
    people = [make_person(128, 64, seed=1), make_person(96, 90, seed=2)]
    due = cpu.transfer_batch(people, people[::-1])
    outs = [OnDevice(setup.double, np.zeros_like(one.image), offset=1) for one in due]
    with callers_stream(setup.double) as stream:
        setup.double.queue(stream, lambda: outs[0].array.fill(1))  # before the picture, not after
        setup.pipeline.transfer_batch(people, people[::-1], out=outs, stream=stream)
        for out, one in zip(outs, due, strict=True):
            assert (out.array == one.image).all()


def test_callers_photos_that_do_not_fit(setup, cpu, make_person):
    person, image = make_person(128, 64), np.zeros((128, 64, 3), np.uint8)
    for array, due in (
        (image, r"the person's photo is a ndarray, and others .*all photos on the GPU"),
        (OnDevice(setup.double, image[:, :32]), r"is uint8 \[128, 32, 3\]; expected .*128, 64, 3"),
        (OnDevice(setup.double, image.astype(np.int8)), r"the person's photo is int8"),
        (OnDevice(setup.double, image, device=1), r"is on GPU 1, and the pipeline on 0"),
    ):
        with pytest.raises(InputError, match=due):
            setup.pipeline.transfer(person, person, photos=(array, None))
    array = OnDevice(setup.double, image)
    with pytest.raises(InputError, match=r"runs on the CPU, and takes no device arrays"):
        cpu.transfer(person, person, out=array)
    with pytest.raises(InputError, match=r"1 pairs, 1 pairs of `photos` and 2 of `out`"):
        setup.pipeline.transfer_batch([person], [person], out=[array, array])
    assert setup.double.counts["create_stream"] == 0


def test_a_transfer_is_two_copies_a_replay_and_one_wait(setup, pairs):
    setup.pipeline.run(batch_of(pairs, 0))
    assert setup.enqueued == [2, 2, 2]  # once for real, once into the graph
    before = setup.double.counts.copy()
    for i in range(5):
        setup.pipeline.run(batch_of(pairs, i))
    assert setup.double.counts - before == {"copy": 10, "launch": 5, "synchronize": 5}
    assert setup.enqueued == [2, 2, 2]
    assert [len(engine.bound) for engine in setup.engines.values()] == [1, 1, 1]


def test_captures_that_other_threads_end(setup, cpu, pairs, caplog):
    setup.double.captures_end = True
    assert_same(setup.pipeline.run(batch_of(pairs, 0)), cpu.run(batch_of(pairs, 0)))
    with setup.pipeline.session() as session:
        assert not session.replays
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "torch.cuda.synchronize" in record.message


def test_no_session_is_made_while_another_one_is_captured(setup, cpu, pairs):
    """What engines do at their first run would end the capture."""
    others: list[Future[Any]] = []

    def meanwhile() -> None:
        if not others:
            others.append(pool.submit(setup.pipeline.run, batch_of(pairs, 1, 2)))
            done, _ = wait(others, timeout=0.3)
            assert not done

    setup.double.while_capturing = meanwhile
    with ThreadPoolExecutor(1) as pool:
        assert_same(setup.pipeline.run(batch_of(pairs, 0)), cpu.run(batch_of(pairs, 0)))
        assert_same(others[0].result(60), cpu.run(batch_of(pairs, 1, 2)))


@pytest.mark.parametrize("reason", ["an engine", "wish"])
def test_without_a_graph_every_engine_is_queued(tiny_bundle, pairs, reason):
    options: dict[str, Any] = {"graphs": False}
    if reason == "an engine":
        options = {"capturable": (True, False, True)}
    setup = Setup(tiny_bundle, **options)
    setup.pipeline.run(batch_of(pairs, 0))
    before, enqueued = setup.double.counts.copy(), setup.enqueued
    setup.pipeline.run(batch_of(pairs, 1))
    assert setup.double.counts - before == {"copy": 2, "synchronize": 1}
    assert setup.enqueued == [n + 1 for n in enqueued]
    assert setup.double.counts["capture"] == 0
    with setup.pipeline.session() as session:
        assert not session.replays


def test_outputs_are_inputs_in_place_and_activations_are_shared(setup, pairs):
    setup.pipeline.run(batch_of(pairs, 0, 1))
    bound = [engine.bound[0] for engine in setup.engines.values()]
    assert bound[0] == bound[1] == bound[2]  # one address per name, whoever reads or writes
    assert all(pointer % 512 == 0 for pointer in bound[0].values())
    # activations lie before all tensors, where nothing moves them off what TensorRT asks
    (activation,) = {engine.activations[0] for engine in setup.engines.values()}
    assert activation % 512 == 0
    assert activation + 5000 <= min(bound[0].values())
    ((_, size),) = setup.double.memories.values()
    signature = chained(engine.signature for engine in setup.engines.values())
    sizes = [
        2 * int(np.prod(t.shape[1:])) * np.dtype(t.dtype).itemsize
        for t in (*signature.inputs, *signature.outputs)
    ]
    # and CUDA gives memory at 256 bytes
    assert size == sum(-(-n // 512) * 512 for n in (5000, *sizes)) + 256


def test_results_are_the_callers_own(setup, cpu, pairs):
    first = setup.pipeline.run(batch_of(pairs, 0))
    setup.pipeline.run(batch_of(pairs, 1))
    assert_same(first, cpu.run(batch_of(pairs, 0)))


@pytest.mark.parametrize("offset", [0, 3])  # callers' arrays lie anywhere
def test_device_arrays_follow_the_callers_stream(setup, cpu, pairs, offset):
    double = setup.double
    inputs = batch_of(pairs, 0, 1)
    due = cpu.run(inputs)
    setup.pipeline.run(inputs)  # makes the session
    sources = {
        name: OnDevice(double, np.zeros_like(array), offset=offset)
        for name, array in inputs.items()
    }
    targets = {
        name: OnDevice(double, np.zeros_like(due[name]), offset=offset)
        for name in ("image", "flow")
    }
    seen: dict[str, np.ndarray] = {}
    with callers_stream(double) as stream:
        # whoever fills the inputs and reads the outputs has only queued it
        for name, array in inputs.items():
            double.queue(stream, lambda s=sources[name], a=array: s.array.__setitem__(..., a))
        before = double.counts.copy()
        out = setup.pipeline.run(sources, out=targets, stream=stream)
        spent = double.counts - before
        assert spent == {"copy": 6 + 2, "launch": 1, "record": 2, "wait": 2}
        assert out == targets
        assert not targets["image"].array.any()  # nothing has run yet
        for name, target in targets.items():
            double.queue(stream, lambda n=name, t=target: seen.__setitem__(n, t.array.copy()))
        for source in sources.values():  # and may reuse its arrays in the order of its stream
            double.queue(stream, lambda s=source: s.array.fill(RUBBISH))
    assert_same(seen, {name: due[name] for name in targets})
    # engines were given the session's addresses alone
    (bound,) = setup.engines["parsing"].bound
    assert all(pointer % 512 == 0 for pointer in bound.values())


def view(array: Any) -> np.ndarray:
    """A session's tensor, as who reads and writes it on the double sees it."""
    interface = array.__cuda_array_interface__
    memory = (ctypes.c_uint8 * array.nbytes).from_address(interface["data"][0])
    return np.frombuffer(memory, interface["typestr"]).reshape(interface["shape"])


def test_two_holders_in_a_row_write_on_streams_of_their_own(setup, cpu, pairs):
    double = setup.double
    seen: list[dict[str, np.ndarray]] = [{}, {}]
    # the second one's stream is waited for first
    with callers_stream(double) as first, callers_stream(double) as second:
        for i, stream in enumerate((first, second)):
            with setup.pipeline.session() as session:
                for name, array in batch_of(pairs, i).items():
                    target = view(session.inputs[name])
                    double.queue(stream, lambda t=target, a=array: t.__setitem__(..., a))
                before = double.counts.copy()
                session.run(stream)
                spent = double.counts - before
                assert spent == {"launch": 1, "record": 2, "wait": 2}  # and no copy
                for name, array in session.outputs.items():
                    made = view(array)
                    double.queue(stream, lambda s=seen[i], n=name, m=made: s.update({n: m.copy()}))
        assert double.counts["create_stream"] == 3  # one session
    for i, found in enumerate(seen):
        assert_same(found, cpu.run(batch_of(pairs, i)))


def test_a_session_given_back_early_is_not_overtaken(setup, cpu, pairs):
    inputs = batch_of(pairs, 2)
    with setup.pipeline.session() as session:
        for name, array in inputs.items():
            session.host_inputs[name][...] = array
        session.upload()
        session.run()
    with setup.pipeline.session() as again:
        assert again is session
        for array in again.host_inputs.values():
            array.fill(RUBBISH)
        again.download()
        again.synchronize()
        assert_same(dict(again.host_outputs), cpu.run(inputs))


def test_sessions_of_other_batches_make_room(tiny_bundle, cpu, pairs):
    setup = Setup(tiny_bundle, sessions=2)
    counts = setup.double.counts
    for which in ((0,), (0, 1), (2,), (2, 3)):
        setup.pipeline.run(batch_of(pairs, *which))
    assert counts["capture"] == 2
    inputs = batch_of(pairs, 0, 1, 2)  # the longest idle, of one pair, goes
    assert_same(setup.pipeline.run(inputs), cpu.run(inputs))
    assert (counts["capture"], counts["destroy_graph"]) == (3, 1)
    setup.pipeline.run(batch_of(pairs, 4, 5))
    assert counts["capture"] == 3
    setup.pipeline.close()
    assert_nothing_left(setup.double)
    assert not setup.double.memories


def test_memory_stays_flat(setup, pairs):
    inputs = batch_of(pairs, 0)
    setup.pipeline.run(inputs)
    free = setup.double.memory()
    allocated = {k: n for k, n in setup.double.counts.items() if "allocate" in k or "create" in k}
    for _ in range(2000):
        setup.pipeline.run(inputs)
    assert setup.double.memory() == free
    for what, count in allocated.items():
        assert setup.double.counts[what] == count


@pytest.mark.parametrize("sessions", [2, 8])
def test_eight_threads(tiny_bundle, cpu, pairs, sessions):
    setup = Setup(tiny_bundle, sessions=sessions)
    work = [batch_of(pairs, *which) for which in ((0,), (1,), (2, 3), (4,), (5, 0), (3,))]
    due = [cpu.run(inputs) for inputs in work]
    barrier = threading.Barrier(8)

    def many(start: int) -> None:
        barrier.wait()
        for i in range(start, start + 12):
            assert_same(setup.pipeline.run(work[i % 6]), due[i % 6])

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(many, start) for start in range(8)]:
            future.result()
    counts = setup.double.counts
    assert counts["capture"] - counts["destroy_graph"] <= sessions
    setup.pipeline.close()
    assert_nothing_left(setup.double)
    assert not setup.double.memories


def test_exhaustion(tiny_bundle, cpu, pairs):
    pipeline = Setup(tiny_bundle, sessions=1).pipeline

    def ask() -> None:
        with pipeline.session(timeout=0.01):
            pass

    with ThreadPoolExecutor(1) as pool, pipeline.session():
        asked = pool.submit(ask)
        with pytest.raises(
            BackendError, match=r"all 1 sessions are in use.*within 0\.01 s.*`sessions=`"
        ) as error:
            asked.result(60)
        assert error.value.code == Code.SESSIONS_IN_USE
    # whoever waits without a limit gets the session when it is given back
    with ThreadPoolExecutor(1) as pool:
        with pipeline.session(batch=2):
            future = pool.submit(pipeline.run, batch_of(pairs, 0))
        assert set(future.result(timeout=60)) == set(cpu.run(batch_of(pairs, 0)))


def test_a_thread_does_not_wait_for_itself(tiny_bundle, cpu, pairs):
    setup = Setup(tiny_bundle, sessions=1)
    with setup.pipeline.session() as session:
        with pytest.raises(BackendError, match=r"would wait for itself.*session\.run") as error:
            setup.pipeline.run(batch_of(pairs, 0))
        assert error.value.code == Code.SESSIONS_IN_USE
        assert_same(session.transfer(batch_of(pairs, 0)), cpu.run(batch_of(pairs, 0)))
    # with one more that is free, a holder may run
    setup = Setup(tiny_bundle, sessions=2)
    with setup.pipeline.session():
        assert_same(setup.pipeline.run(batch_of(pairs, 1)), cpu.run(batch_of(pairs, 1)))


def test_a_thread_gets_the_session_that_it_had(tiny_bundle):
    pipeline = Setup(tiny_bundle).pipeline

    def take() -> Any:
        with pipeline.session() as session:
            return session

    with ThreadPoolExecutor(1) as other:
        with pipeline.session() as own:
            its = other.submit(take).result(60)
        assert other.submit(take).result(60) is its  # though the other one was given back last
        assert take() is own


def test_threads_that_hold_one_each_and_want_another_do_not_wait(tiny_bundle):
    pipeline = Setup(tiny_bundle, sessions=2).pipeline
    barrier = threading.Barrier(2)

    def hold_and_ask() -> Code:
        with pipeline.session():
            barrier.wait(60)
            try:
                with pytest.raises(BackendError) as error, pipeline.session():
                    pass
                return error.value.code
            finally:
                barrier.wait(60)

    with ThreadPoolExecutor(2) as pool:
        codes = [future.result(60) for future in [pool.submit(hold_and_ask) for _ in range(2)]]
    assert codes == [Code.SESSIONS_IN_USE] * 2


def test_a_callers_exception_costs_the_session_nothing(tiny_bundle, cpu, pairs):
    setup = Setup(tiny_bundle, sessions=1)
    with setup.pipeline.session() as first:
        pass

    def fail_inside() -> None:
        with setup.pipeline.session() as session:
            assert session is first
            session.host_inputs["person_image"][...] = 0
            session.upload()
            raise KeyError("of the caller's")

    for _ in range(3):
        with pytest.raises(KeyError):
            fail_inside()
    assert setup.double.counts["create_stream"] == 1
    assert_same(setup.pipeline.run(batch_of(pairs, 1)), cpu.run(batch_of(pairs, 1)))


def test_close_waits_for_the_sessions_of_others(tiny_bundle):
    setup = Setup(tiny_bundle)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with setup.pipeline.session():
            held.set()
            assert let_go.wait(60)

    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(hold)
        assert held.wait(60)
        closing = pool.submit(setup.pipeline.close)
        while not setup.chain._closed:
            pass
        assert not closing.done()
        assert setup.double.memories
        let_go.set()
        closing.result(60)
        holding.result(60)
    assert not setup.double.memories
    assert_nothing_left(setup.double)


def test_threads_that_hold_one_each_may_both_close(tiny_bundle):
    setup = Setup(tiny_bundle, sessions=2)
    barrier = threading.Barrier(2)

    def hold_and_close() -> None:
        with setup.pipeline.session():
            barrier.wait(60)
            setup.pipeline.close()

    threads = [threading.Thread(target=hold_and_close, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert_nothing_left(setup.double)


def test_use_after_close(setup, pairs):
    pipeline = setup.pipeline
    with pipeline.session() as session:
        pipeline.close()
        session.run()  # who holds one may go on
        session.synchronize()
    for use in (session.run, session.upload, session.download, session.synchronize):
        with pytest.raises(BackendError, match=r"session is closed.*with pipeline\.session"):
            use()
    with pytest.raises(BackendError, match="session is closed"):
        _ = session.inputs
    session.close()
    pipeline.close()
    assert not setup.double.memories
    with pytest.raises(BackendError, match=r"pipeline is closed; load it again"):
        pipeline.run(batch_of(pairs, 0))


def test_close_wakes_those_who_wait(tiny_bundle, pairs):
    pipeline = Setup(tiny_bundle, sessions=1).pipeline
    with ThreadPoolExecutor(1) as pool, pipeline.session():
        future = pool.submit(pipeline.run, batch_of(pairs, 0))
        pipeline._chain.close()
        with pytest.raises(BackendError, match="pipeline is closed"):
            future.result(timeout=60)


def test_a_dropped_pipeline_frees_its_memory(tiny_bundle, pairs):
    setup = Setup(tiny_bundle)
    setup.pipeline.run(batch_of(pairs, 0))
    double = setup.double
    del setup
    gc.collect()
    assert not double.memories
    assert_nothing_left(double)


def test_out_of_memory_says_how_much_was_needed(tiny_bundle, cpu, pairs):
    setup = Setup(tiny_bundle, size=2 << 20, activations=(1 << 20, 100, 100), sessions=1)
    with pytest.raises(
        BackendError,
        match=r"batch of 64 needs 5\.2 MiB of device memory \(inputs 1\.8 MiB, outputs 2\.5 MiB, "
        r"activations 1\.0 MiB\), and GPU 0 \(double\) has 2\.0 MiB of 2\.0 MiB free; use",
    ):
        setup.pipeline.run(batch_of(pairs, *[0] * 64))
    assert not setup.double.memories
    assert_nothing_left(setup.double)
    assert_same(setup.pipeline.run(batch_of(pairs, 1)), cpu.run(batch_of(pairs, 1)))


@pytest.mark.parametrize("when", ["first run", "later"])
def test_an_engine_that_fails(tiny_bundle, cpu, pairs, when):
    setup = Setup(tiny_bundle, graphs=False, sessions=1)
    if when == "later":
        setup.pipeline.run(batch_of(pairs, 0))
    setup.engines["warping"].fail = True
    with pytest.raises(BackendError, match="the engine refuses"):
        setup.pipeline.run(batch_of(pairs, 0))
    assert not setup.double.memories
    assert_nothing_left(setup.double)
    assert [engine.open for engine in setup.engines.values()] == [0, 0, 0]
    setup.engines["warping"].fail = False
    assert_same(setup.pipeline.run(batch_of(pairs, 1)), cpu.run(batch_of(pairs, 1)))


def test_a_kernel_that_fails_shows_when_the_session_is_made(tiny_bundle):
    setup = Setup(tiny_bundle)
    setup.engines["warping"].fail_late = True
    sessions = []
    with pytest.raises(BackendError, match="a kernel fails"), setup.pipeline.session() as session:
        sessions.append(session)
    assert not sessions


def test_close_waits_for_what_is_under_way(tiny_bundle, cpu, pairs):
    setup = Setup(tiny_bundle)
    inputs, due = batch_of(pairs, 3), cpu.run(batch_of(pairs, 3))["image"]
    sources = on_double(setup.double, inputs)
    target = OnDevice(setup.double, np.zeros_like(due))
    setup.pipeline.run(sources, out={"image": target}, stream=0)
    assert not target.array.any()
    setup.pipeline.close()
    assert (target.array == due).all()
    assert [engine.open for engine in setup.engines.values()] == [0, 0, 0]


IMAGE = np.zeros((1, 64, 32, 3), np.uint8)


def on_double(double: Double, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: OnDevice(double, array) for name, array in arrays.items()}


def in_steps(double: Double, labels: np.ndarray) -> OnDevice:
    array = OnDevice(double, labels)
    array.array = labels.reshape(1, 32, 64).transpose(0, 2, 1)
    return array


@pytest.mark.parametrize(
    ("wrong", "due"),
    [
        (lambda _, a: a, r"person_parsing is a ndarray, and others are device arrays.*move it"),
        (
            lambda double, a: OnDevice(double, a.astype(np.int16)),
            r"person_parsing is int16 \[1, 64, 32\]; expected person_parsing uint8",
        ),
        (
            lambda double, a: OnDevice(double, a.reshape(1, 32, 64)),
            r"person_parsing is uint8 \[1, 32, 64\]; expected",
        ),
        (
            lambda double, a: OnDevice(double, np.concatenate([a, a])),
            r"the batch sizes are .*person_parsing 2",
        ),
        (in_steps, r"person_parsing of shape \(1, 64, 32\) has strides.*expected a contiguous"),
        (
            lambda double, a: OnDevice(double, a, device=1),
            r"person_parsing is on GPU 1, and the pipeline on 0; .*`device=`",
        ),
        (None, r"the inputs are garment_densepose, .*expected person_parsing uint8"),
    ],
)
def test_device_arrays_that_do_not_fit(setup, pairs, wrong, due):
    arrays = batch_of(pairs, 0)
    inputs = on_double(setup.double, arrays)
    labels = inputs.pop("person_parsing").array
    if wrong:
        inputs["person_parsing"] = wrong(setup.double, labels)
    with pytest.raises(InputError, match=due):
        setup.pipeline.run(inputs, out=on_double(setup.double, {"image": IMAGE}))
    assert setup.double.counts["create_stream"] == 0  # before anything is made


@pytest.mark.parametrize(
    ("out", "due"),
    [
        (None, r"no `out` says where outputs go; expected .*image uint8"),
        ({"image": IMAGE, "picture": IMAGE}, r"the outputs are image, picture; expected image"),
        ({"image": np.concatenate([IMAGE, IMAGE])}, r"the batch sizes are .*image 2"),
    ],
)
def test_outputs_that_do_not_fit(setup, pairs, out, due):
    inputs = on_double(setup.double, batch_of(pairs, 0))
    with pytest.raises(InputError, match=due):
        setup.pipeline.run(inputs, out=out and on_double(setup.double, out))
    with pytest.raises(InputError, match=r"image is a ndarray, and others are device arrays"):
        setup.pipeline.run(inputs, out={"image": IMAGE})
    assert setup.double.counts["create_stream"] == 0


def test_streams_that_are_refused(setup, pairs):
    double = setup.double
    inputs = on_double(double, batch_of(pairs, 0))
    out = on_double(double, {"image": IMAGE})
    with pytest.raises(InputError, match=r"stream is a str; expected a handle"):
        setup.pipeline.run(inputs, out=out, stream="default")
    double.captured_streams = {7}
    captured = r"the stream is being captured into a CUDA graph; end the capture"
    with pytest.raises(InputError, match=captured):
        setup.pipeline.run(inputs, out=out, stream=7)
    assert double.counts["create_stream"] == 0  # before anything is made
    with setup.pipeline.session() as session:
        with pytest.raises(InputError, match=captured):
            session.run(7)
        session.run()  # which cost the session nothing
        assert not session.broken


def test_the_cpu_takes_no_device_arrays(cpu, pairs):
    inputs = on_double(Double(), batch_of(pairs, 0))
    images = {"image": np.zeros(1, np.uint8)}
    for given, options in ((inputs, {}), (batch_of(pairs, 0), {"out": images})):
        with pytest.raises(InputError, match=r"no `out`; pass NumPy arrays alone, or .*tensorrt"):
            cpu.run(given, **options)
    with pytest.raises(InputError, match=r"runs on the CPU and has no sessions"):
        cpu.session()


def test_an_empty_batch(setup):
    with pytest.raises(InputError, match=r"the batch has 0 pairs"), setup.pipeline.session(0):
        pass
