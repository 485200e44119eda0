"""The chain on a GPU, over every backend that runs here: `pytest -m gpu tests/gpu`.

The truth is ONNX Runtime on the CPU. The tiny bundle computes in integers, so there every byte has
to agree; on the shipped one float32 is rounded in another order.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from garment_transfer.bundle import (
    BackendError,
    Bundle,
    InputError,
)
from garment_transfer.export.tensorrt import build_engines, copy_bundle
from garment_transfer.kernels import photos, tensorrt_library
from garment_transfer.kernels.driver import checked
from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people, stage_inputs
from garment_transfer.runtime.backends import DEVICE_BACKENDS, find_backend
from garment_transfer.runtime.cuda import CudaDevice

pytestmark = pytest.mark.gpu

EXAMPLES = Path(__file__).parents[2] / "examples"

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=DEVICE_BACKENDS)
def backend(request) -> str:
    """The name of a backend that can run here."""
    name = str(request.param)
    status = find_backend(name).status()
    if not status.available:
        pytest.skip(f"{name}: {status.reason}")
    return name


@pytest.fixture(scope="module")
def tiny_folder(backend, tiny_bundle, with_engines) -> Path:
    return with_engines(tiny_bundle, backend)


@pytest.fixture(scope="module")
def shipped_folder(backend, with_engines) -> Path:
    return with_engines(sample_bundle(), backend)


@pytest.fixture
def pipeline(backend, tiny_folder) -> Iterator[Pipeline]:
    with Pipeline.load(tiny_folder, backend, sessions=4) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def cpu(tiny_bundle) -> Pipeline:
    return Pipeline.load(tiny_bundle)


@pytest.fixture(scope="module")
def torch() -> Any:
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    return module


def some(pipeline: Pipeline, batch: int, seed: int = 0) -> Arrays:
    """Random inputs."""
    random = np.random.default_rng(seed)
    return {
        name: random.integers(0, 7, (batch, *tensor.shape[1:]), np.uint8)
        for name, tensor in pipeline._inputs.items()
    }


def assert_same(found: Arrays, due: Arrays) -> None:
    for name, array in due.items():
        assert found[name].tobytes() == array.tobytes(), name


def on_gpu(torch: Any, arrays: Arrays) -> dict[str, Any]:
    return {name: torch.from_numpy(array).cuda() for name, array in arrays.items()}


def outputs_for(torch: Any, due: Arrays) -> dict[str, Any]:
    return {name: torch.zeros_like(torch.from_numpy(a), device="cuda") for name, a in due.items()}


def test_agrees_with_the_cpu_byte_for_byte(pipeline, cpu):
    for batch in (1, 3, 8, 1):
        inputs = some(pipeline, batch, seed=batch)
        assert_same(pipeline.run(inputs), cpu.run(inputs))


def test_agrees_with_the_cpu_on_people(backend, shipped_folder):
    person, owner = (Person.load(folder) for folder in sample_people())
    size = Bundle.load(shipped_folder).manifest.size
    inputs = {name: array[None] for name, array in stage_inputs(person, owner, size).items()}
    due = Pipeline.load(sample_bundle()).run(inputs)
    with Pipeline.load(shipped_folder, backend) as pipeline:
        found = pipeline.run(inputs)
    assert (found["transfer_parsing"] != due["transfer_parsing"]).mean() <= 0.002
    difference = found["image"].astype(np.float64) - due["image"]
    assert 10 * np.log10(255**2 / max((difference**2).mean(), 1e-9)) >= 40
    assert np.abs(found["flow"] - due["flow"]).mean() <= 0.01


def test_ids_out_of_range_cannot_fault(torch, backend, shipped_folder):
    """Nobody looks at those in device memory: wrong pixels, and the next transfer is right."""
    with Pipeline.load(shipped_folder, backend) as pipeline:
        good = {name: np.zeros(t.shape_of(1), np.uint8) for name, t in pipeline._inputs.items()}
        due = pipeline.run(good)
        wild = on_gpu(torch, {name: np.full_like(array, 255) for name, array in good.items()})
        outputs = outputs_for(torch, due)
        pipeline.run(wild, out=outputs, stream=torch.cuda.current_stream())
        torch.cuda.synchronize()
        assert outputs["flow"].isfinite().all()
        assert_same(pipeline.run(good), due)


def test_a_replay_gives_what_plain_launches_give(backend, shipped_folder):
    with (
        Pipeline.load(shipped_folder, backend) as replayed,
        Pipeline.load(shipped_folder, backend, graphs=False) as plain,
    ):
        with replayed.session() as one, plain.session() as other:
            assert one.replays == (backend != "onnxruntime-cuda")
            assert not other.replays
        for batch in (1, 4):
            inputs = some(plain, batch)
            assert_same(replayed.run(inputs), plain.run(inputs))


def test_eight_threads(pipeline, cpu):
    work = [some(pipeline, 1 + seed % 3, seed) for seed in range(9)]
    due = [cpu.run(inputs) for inputs in work]

    def many(start: int) -> None:
        for i in range(start, start + 40):
            assert_same(pipeline.run(work[i % 9]), due[i % 9])

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(many, start) for start in range(8)]:
            future.result()


def test_threads_that_come_and_go_leave_memory_as_it_was(backend, tiny_folder, cpu):
    """ONNX Runtime keeps handles and memory for every thread that runs a session."""
    device = CudaDevice()

    def free() -> int:
        with device.active():
            return device.memory()[0]

    with Pipeline.load(tiny_folder, backend, sessions=8) as pipeline:
        inputs = some(pipeline, 1)
        due = cpu.run(inputs)
        before = 0
        for generation in range(20):
            with ThreadPoolExecutor(8) as pool:
                for future in [pool.submit(pipeline.run, inputs) for _ in range(64)]:
                    assert_same(future.result(), due)
            if generation == 4:
                before = free()
        assert before - free() <= 64 << 20


def test_eight_sessions_of_the_shipped_bundle_fit_into_4_gib(backend, shipped_folder):
    device = CudaDevice()
    with Pipeline.load(shipped_folder, backend, sessions=8) as pipeline, ExitStack() as held:
        with device.active():
            before = device.memory()[0]
        for _ in range(8):
            # a thread that holds one may take another as long as one is free
            held.enter_context(pipeline.session())
        with device.active():
            assert before - device.memory()[0] <= 4 << 30


def test_ten_thousand_transfers_leave_memory_as_it_was(pipeline, cpu):
    device = CudaDevice()
    inputs = some(pipeline, 2)
    due = cpu.run(inputs)

    def memory() -> tuple[int, int]:
        with device.active():
            on_device = device.memory()[0]
        pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
        return on_device, int(pages) * 4096

    for _ in range(200):
        pipeline.run(inputs)
    before = memory()
    for _ in range(10_000):
        found = pipeline.run(inputs)
    after = memory()
    assert_same(found, due)
    assert before[0] - after[0] <= 2 << 20
    assert after[1] - before[1] <= 16 << 20


def test_a_closed_or_dropped_pipeline_frees_its_memory(backend, tiny_folder):
    device = CudaDevice()

    def cycle() -> int:
        pipeline = Pipeline.load(tiny_folder, backend)
        pipeline.run(some(pipeline, 8))
        pipeline.close()
        with device.active():
            return device.memory()[0]

    cycle()
    free = cycle()
    for _ in range(5):
        assert cycle() >= free - (4 << 20)


def test_two_holders_in_a_row_write_on_streams_of_their_own(torch, pipeline, cpu):
    work = [some(pipeline, 2, seed) for seed in (1, 2)]
    values = [on_gpu(torch, inputs) for inputs in work]
    pipeline.run(work[0])
    streams = [torch.cuda.Stream() for _ in work]
    found: list[dict[str, Any]] = []
    torch.cuda.synchronize()
    for stream, tensors in zip(streams, values, strict=True):
        with pipeline.session(batch=2) as session, torch.cuda.stream(stream):
            if not found:
                torch.cuda._sleep(200_000_000)  # the first one's run is late
            for name, tensor in tensors.items():
                torch.as_tensor(session.inputs[name], device="cuda").copy_(tensor)
            session.run(stream)
            views = {n: torch.as_tensor(a, device="cuda") for n, a in session.outputs.items()}
            found.append({name: view.clone() for name, view in views.items()})
    torch.cuda.synchronize()
    for inputs, outputs in zip(work, found, strict=True):
        assert_same({n: t.cpu().numpy() for n, t in outputs.items()}, cpu.run(inputs))


def test_sessions_are_made_while_others_wait_for_the_whole_gpu(torch, backend, tiny_folder, cpu):
    over = threading.Event()

    def wait_for_all() -> None:
        while not over.is_set():
            with suppress(RuntimeError):  # CUDA refuses it to who waits during a capture
                torch.cuda.synchronize()

    with Pipeline.load(tiny_folder, backend) as pipeline, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_for_all)
        try:
            for batch in range(1, 9):
                inputs = some(pipeline, batch, seed=batch)
                assert_same(pipeline.run(inputs), cpu.run(inputs))
        finally:
            over.set()
        waiting.result()


def test_photos_are_finished_as_on_the_cpu(pipeline):
    if not photos.load_cuda():
        pytest.skip("Fit and Compose were built without CUDA: install again where nvcc is")
    alice, bob = map(Person.load, sample_people())
    for transfer in pipeline.transfer_batch([alice, bob], [bob, alice]):
        due = transfer._compose()  # from the same outputs of the graphs
        assert (transfer.transfer_parsing == due.parsing).all()
        assert np.abs(transfer.image.astype(int) - due.image).max() <= 1


def test_a_stream_that_is_being_captured_is_refused(torch, pipeline, cpu):
    inputs = some(pipeline, 1)
    with pipeline.session() as session:
        graph = torch.cuda.CUDAGraph()
        tensor = torch.zeros(1, device="cuda")
        with torch.cuda.graph(graph):
            tensor += 1
            with pytest.raises(InputError, match="is being captured into a CUDA graph"):
                session.run(torch.cuda.current_stream())
        graph.replay()
        assert tensor.item() == 1
        assert_same(session.transfer(inputs), cpu.run(inputs))


def test_tensors_of_torch_on_a_stream_of_their_own(torch, pipeline, cpu):
    inputs = some(pipeline, 2)
    due = cpu.run(inputs)
    pipeline.run(inputs)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        out = outputs_for(torch, due)
        late = {name: torch.zeros_like(torch.from_numpy(a)).cuda() for name, a in inputs.items()}
        values = on_gpu(torch, inputs)
        torch.cuda._sleep(200_000_000)  # the inputs come late, and the call may not wait for them
        for name, tensor in late.items():
            tensor.copy_(values[name])
        assert pipeline.run(late, out=out, stream=stream) == out
        assert not stream.query()
        results = {name: tensor.clone() for name, tensor in out.items()}
        for tensor in (*late.values(), *out.values()):
            tensor.fill_(255)
    stream.synchronize()
    assert_same({name: tensor.cpu().numpy() for name, tensor in results.items()}, due)


def test_memory_of_another_context(torch, pipeline):
    from cuda.bindings import driver

    inputs = on_gpu(torch, some(pipeline, 1))
    out = {"image": torch.empty_like(inputs["person_image"])}
    context = checked(driver.cuCtxCreate(None, 0, checked(driver.cuDeviceGet(0))))
    try:
        array = inputs["person_image"]
        pointer = int(checked(driver.cuMemAlloc(array.nbytes)))

        class Other:
            __cuda_array_interface__ = {  # noqa: RUF012
                **array.__cuda_array_interface__,
                "data": (pointer, False),
                "version": 3,
                "stream": None,
            }

        checked(driver.cuCtxPopCurrent())
        with pytest.raises(InputError, match=r"another context.*import pycuda\.autoprimaryctx"):
            pipeline.run({**inputs, "person_image": Other()}, out=out)
    finally:
        checked(driver.cuCtxDestroy(context))


def test_out_of_memory(backend, pipeline, cpu):
    if backend != "onnxruntime-cuda":
        pytest.skip("the profile of the engines ends long before the memory does")
    device = CudaDevice()
    with device.active():
        batch = device.memory()[1] // 1000  # a pair of the tiny bundle takes some 59 kB
    with (
        pytest.raises(BackendError, match=r"needs \d+\.\d MiB of device memory .* free; use a"),
        pipeline.session(batch),
    ):
        pass
    inputs = some(pipeline, 1)
    assert_same(pipeline.run(inputs), cpu.run(inputs))


def test_a_small_batch_needs_less_memory_than_the_largest(backend, pipeline):
    if backend == "onnxruntime-cuda":
        pytest.skip("it has memory of its own")
    chain = pipeline._chain
    assert chain is not None
    needed = []
    with chain.device.active():
        stream = chain.device.create_stream()
        for batch in (1, 8):
            context = chain.engines["warping"].context(batch, stream)
            needed.append(context.activation_bytes)
            context.close()
        chain.device.destroy_stream(stream)
    assert needed[0] < needed[1]


def test_cuda_graphs_of_onnxruntime(backend, shipped_folder):
    if backend != "onnxruntime-cuda":
        pytest.skip("the chain is captured as a whole")
    with (
        Pipeline.load(shipped_folder, backend, cuda_graph=True) as replayed,
        Pipeline.load(shipped_folder, backend) as plain,
    ):
        work = [some(plain, batch, seed) for seed, batch in enumerate((1, 1, 2, 1))]
        due = [plain.run(inputs) for inputs in work]
        for _ in range(3):
            for inputs, outputs in zip(work, due, strict=True):
                assert_same(replayed.run(inputs), outputs)
        with ThreadPoolExecutor(4) as pool:  # captured anew in each
            for found, outputs in zip(pool.map(replayed.run, work * 4), due * 4, strict=True):
                assert_same(found, outputs)


def test_engines_that_carry_the_plugin(backend, shipped_folder, tmp_path):
    """They load where the library has been loaded by itself before, and the other way round."""
    if backend != "tensorrt" or tensorrt_library() is None:
        pytest.skip("it takes TensorRT, and FlowWarp's plugin")
    own = copy_bundle(Bundle.load(shipped_folder), tmp_path / "bundle")
    build_engines(own, "tensorrt", plugin="embed")
    with Pipeline.load(shipped_folder, backend) as plain, Pipeline.load(own, backend) as carrying:
        inputs = some(plain, 2)
        due = plain.run(inputs)
        found = carrying.run(inputs)
    assert (found["transfer_parsing"] != due["transfer_parsing"]).mean() <= 0.002
    command = [sys.executable, "-c", _LOAD, str(own.path), str(shipped_folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


_LOAD = """
import sys
from garment_transfer import Pipeline
pipelines = [Pipeline.load(folder, "tensorrt") for folder in sys.argv[1:]]
"""


@pytest.mark.parametrize(
    ("library", "allocator"),
    # memory that torch maps belongs to no context
    [("torch", ""), ("torch", "expandable_segments:True"), ("pycuda", "")],
)
def test_examples(backend, shipped_folder, tmp_path, monkeypatch, library, allocator):
    pytest.importorskip(library)
    if allocator:
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", allocator)
    command = [sys.executable, str(EXAMPLES / f"{library}_arrays.py"), "--backend", backend]
    command += ["--bundle", str(shipped_folder), "-o", str(tmp_path / "image.png")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    if library == "torch":
        assert result.stdout == "both ways agree: True\n"
    person, owner = (Person.load(folder) for folder in sample_people())
    pipeline = Pipeline.load(shipped_folder, backend)
    inputs = stage_inputs(person, owner, pipeline.size)
    due = pipeline.run({name: array[None] for name, array in inputs.items()})["image"][0]
    assert (np.asarray(Image.open(tmp_path / "image.png")) == due).all()
