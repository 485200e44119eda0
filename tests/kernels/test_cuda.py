"""FlowWarp on CUDA arrays: what NVRTC makes and what is refused, here; the rest on a GPU."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("cuda.core", reason="cuda-python is not installed: pip install cuda-python")

from garment_transfer.kernels import flow_warp as cuda

KERNELS = [
    f"flow_warp_{layout}_{dtype}"
    for layout in ("planes", "hwc8")
    for dtype in ("float32", "float16", "bfloat16")
]


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "sm_120"])
def test_nvrtc_makes_code_for_a_gpu_that_is_not_there(architecture):
    cubin = cuda.compile_flow_warp(architecture)
    assert cubin.startswith(b"\x7fELF")
    assert all(name.encode() in cubin for name in KERNELS)


def test_an_unknown_architecture_is_named():
    with pytest.raises(cuda.CudaError, match=r"for sm_20: .*upgrade nvidia-cuda-nvrtc"):
        cuda.compile_flow_warp("sm_20")


def arrays(**changed):
    shapes = {
        "x": (1, 3, 8, 6),
        "coarse_flow": (1, 2, 4, 3),
        "residual": (1, 2, 8, 6),
        "affine": (1, 2, 3),
        "y": (1, 3, 8, 6),
        "flow": (1, 2, 8, 6),
    }
    made = {name: cuda.Array(4096, shape, "float32", 0) for name, shape in shapes.items()}
    return {**made, **changed}


def test_shapes_that_fit():
    assert cuda._checked_shape(arrays(), "border", False) == (1, 3, 8, 6)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": ((1, 3, 7, 6), "float32", 0)}, ValueError, "both sides must be even"),
        ({"x": ((3, 8, 6), "float32", 0)}, ValueError, r"expected \[N,C,H,W\]"),
        ({"x": ((1, 3, 8, 6), "float64", 0)}, TypeError, "x is float64; expected one of float32"),
        ({"residual": ((1, 2, 8, 4), "float32", 0)}, ValueError, r"expected \(1, 2, 8, 6\)"),
        ({"affine": ((1, 2, 3), "float16", 0)}, TypeError, "affine is float16; expected float32"),
        ({"y": ((1, 3, 8, 6), "float16", 0)}, TypeError, "y is float16; expected float32"),
        ({"flow": ((1, 2, 8, 6), "float32", 1)}, ValueError, "flow is on device 1, x on device 0"),
    ],
)
def test_what_does_not_fit_is_named(changed, error, message):
    changed = {name: cuda.Array(4096, *rest) for name, rest in changed.items()}
    with pytest.raises(error, match=message):
        cuda._checked_shape(arrays(**changed), "zeros", False)


def test_an_array_that_starts_at_an_odd_element_is_named():
    y = cuda.Array(4100, (1, 3, 8, 6), "float32", 0)
    with pytest.raises(ValueError, match="y starts at address 0x1004; expected a multiple of 8"):
        cuda._checked_shape(arrays(y=y), "zeros", False)


def test_channels_last():
    def last(channels, pointer=4096):
        array = cuda.Array(pointer, (1, 8, 6, channels), "float16", 0)
        return arrays(x=array, y=array)

    assert cuda._checked_shape(last(16), "zeros", True) == (1, 16, 8, 6)
    with pytest.raises(ValueError, match=r"x has shape .*; expected .* C a multiple of 8"):
        cuda._checked_shape(last(12), "zeros", True)
    with pytest.raises(ValueError, match="x starts at address 0x1008; expected a multiple of 16"):
        cuda._checked_shape(last(16, 4104), "zeros", True)


def test_an_unknown_padding_is_named():
    with pytest.raises(ValueError, match="padding is 'mirror'"):
        cuda._checked_shape(arrays(), "mirror", False)


def call(x, **options):
    n, c, h, w = (1, 3, 8, 6)
    rest = [torch.zeros(n, 2, h // 2, w // 2), torch.zeros(n, 2, h, w), torch.zeros(n, 2, 3)]
    out = (torch.zeros(n, c, h, w), torch.zeros(n, 2, h, w))
    return cuda.flow_warp(x, *rest, out=out, **options)


def test_arrays_that_are_not_on_a_gpu_are_refused():
    with pytest.raises(ValueError, match="x is not on a GPU"):
        call(torch.zeros(1, 3, 8, 6))
    with pytest.raises(ValueError, match="x is not on a GPU"):
        call(np.zeros((1, 3, 8, 6), np.float32))
    with pytest.raises(TypeError, match="x is a list; expected an array on a GPU"):
        call([1.0])
    with pytest.raises(TypeError, match="stream is a str"):
        call(torch.zeros(1, 3, 8, 6), stream="default")


gpu = pytest.mark.gpu


def on_gpu(arrays, dtype=torch.float32):
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    tensors = {name: torch.from_numpy(array).cuda() for name, array in arrays.items()}
    return {**tensors, "x": tensors["x"].to(dtype)}


def outputs(tensors):
    return torch.empty_like(tensors["x"]), torch.empty_like(tensors["residual"])


DTYPES = {torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
SHAPES = [(1, 1, 2, 2), (3, 7, 34, 46), (2, 300, 64, 48), (1, 4, 1024, 768)]


def assert_right(truth, arrays, x, y, flow, padding):
    """y and flow against float64: half an ulp of the type, and what float32 positions are off."""
    reach = 2.0
    due, flow_due = truth.flow_warp(**{**arrays, "x": x.cpu().double()}, padding=padding)
    np.testing.assert_allclose(flow.cpu(), flow_due, rtol=1e-6, atol=4e-6)
    slack = truth.half_an_ulp(due, DTYPES[x.dtype]) + 12 * truth.position_error(arrays, reach)
    assert (np.abs(y.cpu().double().numpy() - due) <= slack + 2.0**-20 * np.abs(due)).all()


@gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_right_on_a_gpu(truth, dtype, padding, shape, channels_last):
    arrays = truth.arguments(1, *shape, 2.0)
    tensors = on_gpu(arrays, dtype)
    x, c = tensors["x"], shape[1]
    if channels_last:  # a multiple of eight channels, as TensorRT's plugin gets them
        tensors["x"] = F.pad(x.permute(0, 2, 3, 1), (0, -c % 8)).contiguous()
    y, flow = outputs(tensors)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    options = {"padding": padding, "channels_last": channels_last, "stream": stream}
    cuda.flow_warp(**tensors, out=(y, flow), **options)
    stream.synchronize()
    if channels_last:
        assert (y[..., c:] == 0).all()
        y = y[..., :c].permute(0, 3, 1, 2)
    assert_right(truth, arrays, x, y, flow, padding)


@gpu
def test_a_call_is_captured_into_a_graph(truth):
    tensors = on_gpu(truth.arguments(2, 1, 8, 64, 48, 2.0))
    y, flow = outputs(tensors)
    cuda.flow_warp(**tensors, out=(y, flow))
    torch.cuda.synchronize()
    due = y.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        current = torch.cuda.current_stream()
        cuda.flow_warp(**tensors, out=(y, flow), stream=current)
    y.zero_()
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(y, due)


@gpu
def test_an_array_that_is_not_contiguous_is_refused(truth):
    tensors = on_gpu(truth.arguments(3, 1, 4, 8, 6, 1.0))
    y, flow = outputs(tensors)
    tensors["x"] = tensors["x"].permute(0, 1, 3, 2)
    with pytest.raises(ValueError, match="expected a contiguous array"):
        cuda.flow_warp(**tensors, out=(y, flow))
