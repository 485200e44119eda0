"""The backends of the GPU as far as they go without one; the rest is in tests/gpu."""

import ast
import ctypes
import importlib.util
import inspect
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from garment_transfer import kernels
from garment_transfer.bundle import (
    ENGINES,
    STAGES,
    BackendError,
    Batch,
    Bundle,
    Code,
    EngineError,
    EngineSet,
)
from garment_transfer.export import tensorrt as builder
from garment_transfer.kernels import driver
from garment_transfer.runtime import Pipeline
from garment_transfer.runtime.backends import find_backend, onnxruntime_cuda, tensorrt as backend
from garment_transfer.runtime.cuda import CudaDevice

RTX = "tensorrt-rtx"


def gpu_is_there() -> bool:
    try:
        CudaDevice()
    except BackendError:
        return False
    return True


without_gpu = pytest.mark.skipif(gpu_is_there(), reason="there is a GPU; tests/gpu covers it")


@pytest.fixture(scope="module")
def rtx() -> Any:
    """TensorRT-RTX's module; skips where it is not installed."""
    try:
        return backend.tensorrt_module(RTX)
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture
def put(own_tiny_bundle, rtx, put_engines) -> Callable[..., Bundle]:
    """`put(**fields)`: the tiny bundle with TensorRT-RTX engines whose plans are no plans."""

    def put(**fields: Any) -> Bundle:
        bundle = Bundle.load(own_tiny_bundle)
        given = {
            "backend": RTX,
            "backend_version": rtx.__version__,
            "compute_capabilities": ("8.6", "8.9"),  # as its builder does: one for several
            "batch": Batch(1, 1, 4),
            **fields,
        }
        put_engines(bundle, **given)
        return bundle

    return put


def gpu(compute_capability: str = "8.9") -> Any:
    """What the backend asks of a device before it loads an engine."""
    return SimpleNamespace(index=0, name="GPU", compute_capability=compute_capability)


def gpu_to_run_on(index: int | None = None) -> Any:
    """`CudaDevice` of a machine on whose GPU engines are chosen for, and none can be loaded."""
    if index is None:
        raise BackendError(Code.BACKEND_UNAVAILABLE, "no GPU that engines can be loaded on")
    return gpu()


def verified(bundle: Bundle, compute_capability: str = "8.9") -> tuple[EngineSet, dict[str, bytes]]:
    engines = backend.engines_here(RTX, bundle, None, gpu(compute_capability))
    return engines, {stage: engines.read_plan(stage) for stage in STAGES}


def names_build(error: pytest.ExceptionInfo[EngineError], bundle: Bundle) -> bool:
    """Whether a message ends with the command that builds the engines."""
    command = str(error.value).rpartition("run `")[2].rstrip("`")
    return shlex.split(command)[:5] == [
        "garment-transfer",
        "build",
        str(bundle.path),
        "--backend",
        RTX,
    ]


def test_every_attribute_of_tensorrt_that_is_used_exists(rtx):
    """Reads the backend's source: what stands behind these names has to have what it asks for."""
    classes = {
        "trt": rtx,
        "self.trt": rtx,
        "runtime": rtx.Runtime,
        "registry": rtx.IPluginRegistry,
        "engine": rtx.ICudaEngine,
        "self._engine": rtx.ICudaEngine,
        "context": rtx.IExecutionContext,
        "self._context": rtx.IExecutionContext,
        "config": rtx.IRuntimeConfig,
    }
    found: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(backend))):
        if isinstance(node, ast.Attribute):
            value, names = node.value, [node.attr]
            while ast.unparse(value) not in classes and isinstance(value, ast.Attribute):
                names.append(value.attr)
                value = value.value
            owner = classes.get(ast.unparse(value))
            for name in reversed(names if owner is not None else []):
                assert hasattr(owner, name), ast.unparse(node)
                owner = getattr(owner, name)
                found.add(name)
    assert len(found) > 30


def test_engines_that_fit(put, rtx):
    engines, plans = verified(put())
    assert plans == {stage: f"plan of {stage}".encode() for stage in STAGES}
    assert engines.record.batch.max == 4


@pytest.mark.parametrize(("compute_capability", "runs"), [("8.9", True), ("9.0", False)])
def test_the_status_knows_the_gpus_of_the_backend(rtx, monkeypatch, compute_capability, runs):
    monkeypatch.setattr(backend, "CudaDevice", lambda: gpu(compute_capability))
    status = find_backend(RTX).status()
    assert status.available == runs
    assert compute_capability in (status.details if runs else status.reason)
    assert status.fix == ("" if runs else "use the backend tensorrt or onnxruntime-cuda")


def test_what_tensorrt_refuses_is_said_in_its_words(put, rtx):
    bundle = put()
    engines, plans = verified(bundle)
    runtime = rtx.Runtime(backend.logger_of(rtx))
    with pytest.raises(
        EngineError, match=r"does not load .*parsing\.plan: .*(Assertion|Error)"
    ) as error:
        backend.TensorRTEngine(rtx, runtime, engines, "parsing", plans["parsing"])
    assert names_build(error, bundle)


class Refusing:
    """The calls of a TensorRT context that say by an exception, or in the log, that they fail."""

    def __init__(self, rtx: Any, call: str) -> None:
        self.rtx = rtx
        self.call = call

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._refuse("set_optimization_profile_async", RuntimeError)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return True

    def infer_shapes(self) -> list[str]:
        self._refuse("infer_shapes", RuntimeError)
        return []

    def update_device_memory_size_for_shapes(self) -> int:
        return 1000

    def set_tensor_address(self, name: str, address: int) -> bool:
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self._refuse("set_device_memory")

    def _refuse(self, call: str, kind: type[Exception] | None = None) -> None:
        if call == self.call:
            logger = backend.logger_of(self.rtx)
            logger.log(self.rtx.ILogger.Severity.ERROR, f"no {call} today")
            if kind is not None:
                raise kind("it is said in the log")


@pytest.mark.parametrize(
    ("call", "cannot"),
    [
        ("set_optimization_profile_async", "take its optimisation profile"),
        ("infer_shapes", "infer its shapes"),
        ("set_device_memory", "take 1000 bytes of memory"),
    ],
)
def test_calls_that_refuse_in_ways_of_their_own(put, rtx, call, cannot):
    bundle = put()
    engines, _ = verified(bundle)
    engine = object.__new__(backend.TensorRTEngine)  # no GPU, no engine
    engine.trt, engine._engines, engine._stage = rtx, engines, "parsing"
    tensors = (*engine.signature.inputs, *engine.signature.outputs)
    addresses = {tensor.name: 512 for tensor in tensors}
    backend.logger_of(rtx).log(rtx.ILogger.Severity.ERROR, "of another call")
    context = backend.TensorRTContext(engine, Refusing(rtx, "none"), 1, 1)
    context.bind(addresses, 512)
    with pytest.raises(BackendError, match=rf"cannot {cannot} in .*: no {call} today") as error:
        backend.TensorRTContext(engine, Refusing(rtx, call), 1, 1).bind(addresses, 512)
    assert "of another call" not in str(error.value)
    assert names_build(error, bundle)


def test_errors_are_gathered_by_who_waits_for_them(rtx):
    logger, error = backend.logger_of(rtx), rtx.ILogger.Severity.ERROR
    logger.log(error, "before")
    logger.log(rtx.ILogger.Severity.WARNING, "a warning")
    with backend.gathering_errors(rtx), ThreadPoolExecutor(1) as other:
        other.submit(logger.log, error, "of a builder's thread").result()
        assert "of a builder's thread" in other.submit(backend.take_errors, rtx).result()
        logger.log(error, "of this one")
        assert backend.take_errors(rtx) == "of a builder's thread | of this one"
    assert backend.take_errors(rtx) == "of this one"
    assert "another library's logger" in backend.take_errors(rtx)


def test_engines_that_do_not_fit_are_built_anew(put, rtx, monkeypatch):
    monkeypatch.setattr(builder, "CudaDevice", gpu_to_run_on)
    pytest.importorskip("onnx")
    bundle = put(backend_version="1.2.0.54", batch=Batch(1, 2, 3), optimization_level=1)
    assert builder.ensure_engines(bundle, RTX).path == bundle.path
    engines, plans = verified(bundle)
    record = engines.record
    assert (record.backend_version, record.batch) == (rtx.__version__, Batch(1, 2, 3))
    assert record.optimization_level == 1
    assert all(len(plan) > 1000 for plan in plans.values())


def test_a_bundle_that_may_not_be_changed_is_copied_once(
    own_tiny_bundle, tmp_path, rtx, monkeypatch
):
    pytest.importorskip("onnx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(builder, "CudaDevice", gpu_to_run_on)
    # whoever runs the tests may be allowed to write anywhere
    monkeypatch.setattr(builder, "must_be_copied", lambda path: path == own_tiny_bundle)
    bundle = Bundle.load(own_tiny_bundle)
    engines, plans = verified(builder.ensure_engines(bundle, RTX))
    assert engines.path.is_relative_to(tmp_path / "cache" / "garment-transfer" / "bundles")
    assert not (own_tiny_bundle / ENGINES).exists()
    built = (engines.path / "record.json").stat().st_mtime_ns
    again, same = verified(builder.ensure_engines(bundle, RTX))
    assert (again.path, same) == (engines.path, plans)
    assert (engines.path / "record.json").stat().st_mtime_ns == built


@without_gpu
@pytest.mark.parametrize("name", [RTX, "onnxruntime-cuda"])
def test_without_a_gpu(tiny_bundle, name):
    status = find_backend(name).status()
    assert not status.available
    assert status.reason
    assert status.fix
    with pytest.raises(BackendError) as error:
        Pipeline.load(tiny_bundle, backend=name)
    assert status.reason in str(error.value)


@without_gpu
def test_the_device_says_what_is_missing():
    with pytest.raises(BackendError, match=r"no GPU can be used here: .*; .*runs on the CPU"):
        CudaDevice()


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is there")
def test_a_backend_that_is_not_installed(tiny_bundle):
    with pytest.raises(
        BackendError, match=r"tensorrt is not installed \(No module.*garment-transfer\[tensorrt\]"
    ):
        Pipeline.load(tiny_bundle, backend="tensorrt")


def test_cuda_python_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(
        BackendError, match=r"cuda-python does not import.*garment-transfer\[cuda\]"
    ):
        CudaDevice()


def test_a_provider_that_does_not_start(tiny_bundle):
    """ONNX Runtime falls back to the CPU without an error; a transfer may not."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers() and gpu_is_there():
        pytest.skip("the provider starts here")
    bundle = Bundle.load(tiny_bundle)
    engine = onnxruntime_cuda.OnnxRuntimeEngine(
        bundle.graph_path("parsing"),
        bundle.read_graph("parsing"),
        bundle.manifest.graphs["parsing"].signature,
    )
    with pytest.raises(BackendError, match=r"CUDAExecutionProvider.*garment-transfer\[gpu\]"):
        engine.context(1, 1)


@pytest.mark.parametrize("content", [b"\x7fELF .text", b"\x7fELF .text\0.nv_fatbin\0"])
def test_which_library_has_code_for_gpus(tmp_path, content):
    library = tmp_path / "library.so"
    library.write_bytes(content)
    assert kernels.has_cuda_kernels(library) == (b"nv_fatbin" in content)


def test_contiguous_arrays():
    driver.check_contiguous("x", (2, 3, 4), (12, 4, 1))
    driver.check_contiguous("x", (2, 1, 4), (4, 99, 1))  # one of something has no next
    driver.check_contiguous("x", (2, 0, 4), (1, 1, 1))
    driver.check_contiguous("x", (2, 3), None)
    for shape, strides in (((2, 3, 4), (12, 1, 3)), ((2, 3), (6, 1)), ((2, 3), (3, -1))):
        with pytest.raises(ValueError, match=r"x of shape .* has strides .*expected a contiguous"):
            driver.check_contiguous("x", shape, strides)


def test_streams_of_every_library():
    class Cuda:
        def __cuda_stream__(self) -> tuple[int, int]:
            return (0, 7)

    streams = (7, Cuda(), *(SimpleNamespace(**{n: 7}) for n in ("cuda_stream", "ptr", "handle")))
    assert [driver.stream_handle(stream) for stream in streams] == [7] * 5
    # Numba's before it had `__cuda_stream__`; ctypes has None for 0
    numba = [SimpleNamespace(handle=ctypes.c_void_p(handle)) for handle in (7, 0)]
    assert [driver.stream_handle(stream) for stream in numba] == [7, 0]
    with pytest.raises(TypeError, match="stream is a NoneType"):
        driver.stream_handle(None)
