"""What test_device.py runs where libcuda is a double: `... BUNDLE FOLDER PHOTOS`.

FOLDER is for what it writes, PHOTOS the library of Fit and Compose whose device code is compiled
for the CPU (tests/kernels/photos_on_cpu.cpp).
"""

import ctypes
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from garment_transfer.benchmarks.chain import chain_times
from garment_transfer.benchmarks.profiling import (
    Profile,
    Span,
    describe,
    timed_parts,
    trace,
    write_plot,
)
from garment_transfer.benchmarks.rows import ROWS
from garment_transfer.bundle import STAGES, BackendError, Bundle, InputError, Size, Stage, chained
from garment_transfer.kernels import photos
from garment_transfer.kernels.driver import Array, CudaError, OutOfMemory, check_context
from garment_transfer.runtime import Person, Pipeline, sample_people
from garment_transfer.runtime.backends.onnxruntime_cuda import OnnxRuntimeEngine
from garment_transfer.runtime.cuda import Chain, CudaDevice
from garment_transfer.runtime.photos import Fit


class OnDevice:
    """An array as PyCUDA or CuPy shows it."""

    def __init__(self, pointer: int, array: np.ndarray, version: int = 3) -> None:
        self.array = array
        self.pointer = pointer
        self.version = version

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        interface = {**self.array.__array_interface__, "data": (self.pointer, False)}
        return {**interface, "version": self.version}


def refusal(call: Any, kind: type[Exception]) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def check_device(device: CudaDevice) -> None:
    assert (device.name, device.compute_capability) == ("double", "8.9")
    with device.active():
        free, total = device.memory()
        pointer, host = device.allocate(1000), device.allocate_host(1000)
        assert pointer % 256 == 0
        assert device.memory() == (free - 1000, total)
        stream, event = device.create_stream(), device.create_event()
        host[:] = 7
        device.copy(pointer, host.ctypes.data, 1000, stream)
        host[:] = 0
        graph = device.capture(stream, lambda: device.copy(host.ctypes.data, pointer, 1000, stream))
        assert not host.any()
        device.launch(graph, stream)
        assert (host == 7).all()
        for other in (stream, 0):
            device.record(event, other)
            device.wait(stream, event)
        device.synchronize(stream)

        def fail() -> None:
            raise KeyError("in a capture")

        refusal(lambda: device.capture(stream, fail), KeyError)
        device.synchronize(stream)  # refused while a capture is open

        def copy() -> None:
            assert device.is_capturing(stream)
            assert not device.is_capturing(0)
            device.copy(host.ctypes.data, pointer, 1000, stream)

        double = ctypes.CDLL("libcuda.so.1")
        for ended, captured in ((4, True), (5, False)):
            double.double_end_captures(ended)
            again = device.capture(stream, copy)
            assert (again is not None) == captured
            if again is not None:
                device.destroy_graph(again)
        assert not device.is_capturing(stream)

        begin, end = (device.create_event(timing=True) for _ in range(2))
        device.record(begin, stream)
        device.copy(pointer, host.ctypes.data, 1000, stream)
        device.record(end, stream)
        assert device.elapsed(begin, end) == 2
        for timed in (begin, end):
            device.destroy_event(timed)
        assert "out of memory" in refusal(lambda: device.allocate(1 << 29), OutOfMemory)
        device.destroy_graph(graph)
        device.free(pointer)
        device.free_host(host)
        device.destroy_event(event)
        device.destroy_stream(stream)

    def free_twice() -> None:
        with device.active():
            device.free(pointer)

    assert "GPU 0 (double): CUDA says" in refusal(free_twice, BackendError)
    assert "device is 3, and CUDA sees 1" in refusal(lambda: CudaDevice(3), BackendError)
    double.double_set_version(12090)
    old = refusal(CudaDevice, BackendError)
    assert "is for CUDA 12.9, and CUDA 13.0 is needed; install driver 580 or later" in old
    double.double_set_version(13000)


def check_arrays(device: CudaDevice) -> None:
    array = np.zeros((2, 3), np.uint8)
    with device.active():
        pointer = device.allocate(6)
        for version in (2, 3):
            found = device.array_of("x", OnDevice(pointer, array, version))
            assert found == Array(pointer, (2, 3), "uint8", 0)
        check_context(Array(8192, (1,), "uint8", 0))  # mapped memory is not asked for its context
        elsewhere = OnDevice(4096, array)
        text = refusal(lambda: device.array_of("x", elsewhere), CudaError)
        assert "import pycuda.autoprimaryctx" in text
        device.free(pointer)


def engines_of(bundle: Bundle) -> dict[Stage, OnnxRuntimeEngine]:
    return {
        stage: OnnxRuntimeEngine(
            bundle.graph_path(stage),
            bundle.read_graph(stage),
            bundle.manifest.graphs[stage].signature,
            threads=1,
            provider="CPUExecutionProvider",
            memory="cpu",
        )
        for stage in STAGES
    }


def check_photos(device: CudaDevice, bundle: Bundle, library: photos.Library) -> None:
    """Finished photos of the GPU's path beside the CPU's, in batches of photos of all kinds."""
    size = bundle.manifest.size
    alice, bob = (Person.load(person) for person in sample_people())
    things = np.zeros(alice.parsing.shape, bool)
    things[500:600, 300:340] = True
    behind = replace(alice, protected=things)
    small = Person.from_arrays(
        *(
            Fit(Size(*bob.parsing.shape), size).photo(bob.image),
            Fit(Size(*bob.parsing.shape), size).map(bob.parsing),
        ),
        Fit(Size(*bob.parsing.shape), size).map(bob.densepose),
    )
    cpu = Pipeline.load(bundle, threads=1)
    chain = Chain(device, engines_of(bundle), sessions=1, graphs=True, photos=library)
    with Pipeline(bundle, chain) as pipeline:
        for people, owners in (
            ([alice], [bob]),
            ([behind], [bob]),
            ([small, alice, bob], [alice, small, behind]),
        ):
            found = pipeline.transfer_batch(people, owners)
            due = cpu.transfer_batch(people, owners)
            for one, other, person in zip(found, due, people, strict=True):
                assert (one.transfer_parsing == other.transfer_parsing).all()
                assert np.abs(one.image.astype(int) - other.image).max() <= 1
                assert (one.image != person.image).any()
                assert (one.warped_garment == other.warped_garment).all()
                assert (one.flow == other.flow).all()
        people = [replace(one, protected=None) for one in (alice, bob)]
        check_callers_photos(device, pipeline, cpu, people)


def check_callers_photos(
    device: CudaDevice, pipeline: Pipeline, cpu: Pipeline, people: list[Person]
) -> None:
    """Photos on the GPU are what is read, and the finished one is written where a caller wants."""
    person, owner = people
    # a caller's photo is taken with the arms that are in front of the garment
    vars(owner)["_without_arms"] = owner.image, owner.garment
    due = cpu.transfer(*people)
    finished = np.zeros_like(due.image)
    # what is read of the host's pixels would be black
    blank = [replace(one, image=np.zeros_like(one.image)) for one in people]
    with device.active():
        stream = device.create_stream()
        arrays = [
            OnDevice(device.allocate(image.nbytes + 1) + 1, image)
            for image in (person.image, owner.image, person.image)
        ]
        *given, out = arrays
        for array in given:
            device.copy(array.pointer, array.array.ctypes.data, array.array.nbytes, stream)
        found = pipeline.transfer(*blank, photos=tuple(given), out=out, stream=stream)
        device.copy(finished.ctypes.data, out.pointer, finished.nbytes, stream)
        device.synchronize(stream)
        assert np.abs(finished.astype(int) - due.image).max() <= 1
        assert (found.transfer_parsing == due.transfer_parsing).all()
        one = pipeline.transfer(people[0], blank[1], photos=(None, given[1]))
        assert (one.image == finished).all()
        assert (pipeline.transfer(*people, out=out).image == due.image).all()
        over = refusal(
            lambda: pipeline.transfer(*people, photos=(given[0], None), out=given[0]), InputError
        )
        assert "written over a photo that is read" in over
        for array in arrays:
            device.free(array.pointer - 1)
        device.destroy_stream(stream)


def check_profile(device: CudaDevice, bundle: Bundle, folder: Path) -> None:
    copies = ("upload", "download")
    sizes = dict.fromkeys(copies, 0)
    signature = chained(engine.signature for engine in engines_of(bundle).values())
    for name, tensors in zip(copies, (signature.inputs, signature.outputs), strict=True):
        for tensor in tensors:
            size = int(np.prod(tensor.shape[1:])) * np.dtype(tensor.dtype).itemsize
            sizes[name] += -(-size // 512) * 512
    spans: list[Span] = []
    people = [Person.load(person) for person in sample_people()]
    with timed_parts(bundle, device, engines_of(bundle), spans) as pipeline:
        start = time.time()
        pipeline.transfer(*people)
        spans.append(Span("transfer", start, time.time() - start, "transfer"))
    # besides: both photos with a map each, what the person keeps, and the finished photo with its
    # classes
    pixels = people[0].parsing.size
    assert people[0].protected is not None
    photo_sizes = {"upload": (4 + 4 + 1) * pixels, "download": 4 * pixels}
    # after the transfer come the parts of the session's first run, which had no copies
    spans = [spans[0], *spans[-9:]]
    row = next(row for row in ROWS if row.name == "onnxruntime-cuda")
    profile = Profile(row, "64x32", 1, 1, "nothing", spans)
    parts = profile.stages()
    assert [*parts][:-1] == ["upload", "fit", *STAGES, "compose", "download"]
    for name in STAGES:
        assert abs(parts[name] - 1) < 1e-3  # the double's event
    for name in copies:
        due = 2 + (sizes[name] + photo_sizes[name]) / 1000
        assert abs(parts[name] - due) < 1e-3, (name, parts, due)
    assert {op for stage, _, op, _ in profile.layers() if stage != "other"} == {"GPU"}
    text = describe(profile, 20)
    assert all(f"{name:<10} {parts[name]:9.2f} ms" in text for name in parts)
    drawn = [e for e in trace(profile)["traceEvents"] if e["ph"] == "X"]
    assert {e["name"] for e in drawn if e["pid"] == 2} == {*parts} - {[*parts][-1]}
    write_plot(profile, folder / "parts.png")
    assert (folder / "parts.png").stat().st_size

    with (
        Pipeline(bundle, Chain(device, engines_of(bundle), sessions=1, graphs=True)) as pipeline,
        pipeline.session() as session,
    ):
        inputs = {n: np.zeros(t.shape_of(1), np.uint8) for n, t in pipeline._inputs.items()}
        times = chain_times(session, inputs, rounds=3)
    assert abs(times.gpu_ms - sum(sizes.values()) / 1000 - 1) < 1e-3


def main() -> None:
    device = CudaDevice()
    bundle, folder = Bundle.load(Path(sys.argv[1])), Path(sys.argv[2])
    library = photos.Library(sys.argv[3])
    photos.load_cuda = lambda: library
    check_device(device)
    check_arrays(device)
    check_photos(device, bundle, library)
    check_profile(device, bundle, folder)
    double = ctypes.CDLL("libcuda.so.1")
    assert double.double_alive() == 0
    assert double.double_contexts() == 0
    print("all is well")


if __name__ == "__main__":
    main()
