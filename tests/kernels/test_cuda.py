"""FlowWarp on CUDA arrays: what NVRTC makes and what is refused, here; the rest on a GPU."""

import ctypes

import numpy as np
import pytest
import torch

pytest.importorskip("cuda.core", reason="cuda-python is not installed: pip install cuda-python")

from garment_transfer.kernels import cuda
from garment_transfer.models.flow_warp import flow_warp as torch_flow_warp

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
    ptx = cuda.compile_flow_warp(architecture, "ptx").decode()
    assert f".target {architecture}" in ptx
    assert all(f".entry {name}(" in ptx for name in KERNELS)


def test_the_argument_is_laid_out_as_the_kernel_reads_it():
    # parameters of a kernel in PTX say their size
    ptx = cuda.compile_flow_warp("sm_90", "ptx").decode()
    declared = f"flow_warp_planes_float32_param_0[{ctypes.sizeof(cuda._Call)}]"
    assert declared in ptx


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
    assert cuda._checked_shape(arrays(), "border") == (1, 3, 8, 6)


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
        cuda._checked_shape(arrays(**changed), "zeros")


def test_an_unknown_padding_is_named():
    with pytest.raises(ValueError, match="padding is 'mirror'"):
        cuda._checked_shape(arrays(), "mirror")


@pytest.mark.parametrize("n", [1, 3, 64])
@pytest.mark.parametrize("c", [0, 1, 8, 9, 64, 300])
@pytest.mark.parametrize("size", [(2, 2), (64, 48), (1024, 768)])
def test_a_launch_covers_every_pixel_and_every_channel_once(n, c, size):
    blocks, parts, each = cuda._launch_shape(n, c, *size)
    pixels = size[0] * size[1]
    assert (blocks - 1) * 128 < pixels <= blocks * 128
    assert each % 8 == 0
    assert (parts - 1) * each < max(c, 1) <= parts * each


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


def on_gpu(seed, n, c, h, w, reach, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    affine = torch.eye(2, 3) + 0.1 * normal(n, 2, 3)
    tensors = (
        normal(n, c, h, w).to(dtype),
        reach / 2 * normal(n, 2, h // 2, w // 2),
        reach / 2 * normal(n, 2, h, w),
        affine,
    )
    return [t.cuda() for t in tensors]


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 2, 2), (3, 7, 34, 46), (2, 300, 64, 48), (1, 4, 1024, 768)]
)
def test_agrees_with_torch_on_a_gpu(dtype, padding, shape):
    x, coarse, residual, affine = on_gpu(1, *shape, 2.0, dtype)
    y, flow = torch.empty_like(x), torch.empty_like(residual)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    cuda.flow_warp(x, coarse, residual, affine, padding, out=(y, flow), stream=stream)
    stream.synchronize()
    due, flow_due = torch_flow_warp(x.float(), coarse, residual, affine, padding)
    rounding = {torch.float32: 0, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(flow, flow_due, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(y.float(), due, rtol=rounding, atol=2e-3)


@gpu
def test_a_call_is_captured_into_a_graph():
    x, coarse, residual, affine = on_gpu(2, 1, 8, 64, 48, 2.0, torch.float32)
    y, flow = torch.empty_like(x), torch.empty_like(residual)
    cuda.flow_warp(x, coarse, residual, affine, out=(y, flow))
    torch.cuda.synchronize()
    due = y.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        current = torch.cuda.current_stream()
        cuda.flow_warp(x, coarse, residual, affine, out=(y, flow), stream=current)
    y.zero_()
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(y, due)


@gpu
def test_an_array_that_is_not_contiguous_is_refused():
    x, coarse, residual, affine = on_gpu(3, 1, 4, 8, 6, 1.0, torch.float32)
    with pytest.raises(ValueError, match="expected a contiguous array"):
        cuda.flow_warp(
            x.permute(0, 1, 3, 2), coarse, residual, affine, out=(x, torch.empty_like(residual))
        )
