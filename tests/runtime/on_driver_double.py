"""What test_device.py runs where libcuda is a double: `python on_driver_double.py BUNDLE`."""

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np

from garment_transfer.bundle import STAGES, BackendError, Bundle, InputError
from garment_transfer.kernels.driver import OutOfMemory
from garment_transfer.runtime import Pipeline
from garment_transfer.runtime.backends.onnxruntime_cuda import OnnxRuntimeEngine
from garment_transfer.runtime.cuda import Chain, CudaDevice


class OnDevice:
    """An array as PyCUDA or CuPy shows it."""

    def __init__(self, pointer: int, array: np.ndarray) -> None:
        self.array = array
        self.pointer = pointer

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.array.__array_interface__, "data": (self.pointer, False), "version": 3}


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
        assert "out of memory" in refusal(lambda: device.allocate(1 << 21), OutOfMemory)
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


def check_pipeline(device: CudaDevice, folder: Path) -> None:
    bundle = Bundle.load(folder)
    engines = {
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
    cpu = Pipeline.load(bundle, threads=1)
    random = np.random.default_rng(0)
    with Pipeline(bundle, Chain(device, engines, sessions=2, graphs=True)) as pipeline:
        for batch in (1, 2, 3):
            inputs = {
                tensor.name: random.integers(0, 7, (batch, *tensor.shape[1:]), np.uint8)
                for tensor in pipeline._inputs.values()
            }
            due = cpu.run(inputs)
            found = pipeline.run(inputs)
            assert all(found[name].tobytes() == array.tobytes() for name, array in due.items())

            images = np.zeros_like(due["image"])
            with device.active():
                stream = device.create_stream()
                sources = {}
                for name, array in inputs.items():
                    sources[name] = OnDevice(device.allocate(array.nbytes), array)
                    device.copy(sources[name].pointer, array.ctypes.data, array.nbytes, stream)
                target = OnDevice(device.allocate(images.nbytes), images)
                pipeline.run(sources, out={"image": target}, stream=stream)
                device.copy(images.ctypes.data, target.pointer, images.nbytes, stream)
                device.synchronize(stream)
                assert (images == due["image"]).all()
                elsewhere = {**sources, "person_image": OnDevice(4096, inputs["person_image"])}
                assert "import pycuda.autoprimaryctx" in refusal(
                    lambda e=elsewhere, t=target: pipeline.run(e, out={"image": t}),  # type: ignore[misc]
                    InputError,
                )
                for array in (*sources.values(), target):
                    device.free(array.pointer)
                device.destroy_stream(stream)


def main() -> None:
    device = CudaDevice()
    check_device(device)
    check_pipeline(device, Path(sys.argv[1]))
    double = ctypes.CDLL("libcuda.so.1")
    assert double.double_alive() == 0
    assert double.double_contexts() == 0
    print("all is well")


if __name__ == "__main__":
    main()
