"""FlowWarp by torch, the ONNX function's body and ONNX Runtime's kernel, against its table."""

import gc
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from onnx import TensorProto, helper

from garment_transfer.export.flow_warp import flow_warp_model
from garment_transfer.kernels import onnxruntime_library
from garment_transfer.models.flow_warp import OP_TYPE, flow_warp
from garment_transfer.runtime import Pipeline, sample_bundle

LIBRARY = onnxruntime_library()
needs_kernel = pytest.mark.skipif(
    LIBRARY is None,
    reason="the kernel is not built: install ONNX Runtime's headers and a C++ compiler, set "
    "ONNXRUNTIME_ROOT, and install garment-transfer again",
)
KERNEL = pytest.param("kernel", marks=needs_kernel)
PADDINGS = ("zeros", "border")


def model(padding="zeros", element=TensorProto.FLOAT):
    return flow_warp_model(padding, element).SerializeToString()


def session(content, kernel=True, threads=2, **entries):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    for name, value in entries.items():
        setattr(options, name, value)
    if kernel:
        options.register_custom_ops_library(str(LIBRARY))
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def by_torch(inputs, padding="zeros"):
    y, flow = flow_warp(*map(torch.from_numpy, inputs.values()), padding)
    return y.numpy(), flow.numpy()


def by_sessions(kernel):
    sessions = {padding: session(model(padding), kernel) for padding in PADDINGS}
    return lambda inputs, padding="zeros": sessions[padding].run(None, inputs)


@pytest.fixture(scope="module")
def kernel():
    """`kernel(inputs, padding="zeros")`: y and flow by ONNX Runtime's kernel."""
    return by_sessions(True)


@pytest.fixture(scope="module", params=["torch", "body", KERNEL])
def run(request):
    """`run(inputs, padding="zeros")`: y and flow by one front end, whose name is `run.name`."""
    run = by_torch if request.param == "torch" else by_sessions(request.param == "kernel")
    run.name = request.param
    return run


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_table_is_what_operators_of_torch_compute(truth, padding):
    inputs = truth.arguments(0, 3, 5, 12, 20, 4.0)
    x, coarse, residual, affine = (torch.from_numpy(a).double() for a in inputs.values())
    flow = 2 * F.interpolate(coarse, scale_factor=2.0, mode="bilinear") + residual
    identity = torch.eye(2, 3, dtype=torch.float64).expand(3, 2, 3)
    places = F.affine_grid(identity, [3, 1, 12, 20], align_corners=False)
    places = places + flow.permute(0, 2, 3, 1) * torch.tensor([2 / 20, 2 / 12]).double()
    grid = places @ affine[:, None, :, :2].transpose(-1, -2) + affine[:, None, None, :, 2]
    y = F.grid_sample(x, grid, "bilinear", padding, align_corners=False)
    found = truth.flow_warp(**inputs, padding=padding)
    for a, b in zip(found, (y, flow), strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31 - 1),
    n=st.integers(0, 2),
    c=st.integers(0, 5),
    h=st.integers(1, 8).map(lambda v: 2 * v),
    w=st.integers(1, 9).map(lambda v: 2 * v),
    reach=st.sampled_from([0.0, 0.5, 4.0, 1000.0]),
    padding=st.sampled_from(PADDINGS),
    odd=st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30, 5e9]), max_size=6),
)
def test_agrees_with_the_table_whatever_the_flow(truth, run, seed, n, c, h, w, reach, padding, odd):
    if (
        run.name == "body"
    ):  # ONNX Runtime's operators refuse what is empty, and 1e30 overflows there
        n, c = max(n, 1), max(c, 1)
        odd = [value for value in odd if not np.isfinite(value)]
    inputs = truth.arguments(seed, n, c, h, w, reach)
    flat = inputs["residual"].reshape(-1)
    flat[: len(odd)] = odd[: len(flat)]
    y, flow = run(inputs, padding)
    y_due, flow_due = truth.flow_warp(**inputs, padding=padding)
    np.testing.assert_allclose(flow, flow_due, rtol=1e-5, atol=1e-5 * max(1, reach))
    # a float32 position that lies 1000 pixels out carries an error of 1e-4 pixels
    slack = 1e-4 * max(1, reach / 4)
    if run.name == "kernel":
        slack = min(slack, 12 * truth.position_error(inputs, reach))
    np.testing.assert_allclose(y, y_due, rtol=1e-6, atol=slack)


@needs_kernel
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31 - 1),
    n=st.integers(1, 3),
    c=st.integers(1, 20) | st.sampled_from([64, 129, 300]),
    h=st.integers(1, 128).map(lambda v: 2 * v),
    w=st.integers(1, 128).map(lambda v: 2 * v),
    reach=st.sampled_from([0.0, 0.5, 4.0, 60.0, 1000.0]),
    padding=st.sampled_from(PADDINGS),
)
def test_the_kernel_is_right_at_any_size(truth, kernel, seed, n, c, h, w, reach, padding):
    if n * c * h * w > 2_000_000:
        n, c = 1, min(c, 20)
    inputs = truth.arguments(seed, n, c, h, w, reach)
    y, flow = kernel(inputs, padding)
    y_due, flow_due = truth.flow_warp(**inputs, padding=padding)
    np.testing.assert_allclose(flow, flow_due, rtol=1e-6, atol=2e-6 * max(reach, 1))
    slope = 12  # of neighbours in a standard normal, at most
    np.testing.assert_allclose(
        y, y_due, rtol=1e-6, atol=slope * truth.position_error(inputs, reach)
    )


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients(truth, padding):
    inputs = truth.arguments(2, 1, 2, 6, 4, 0.6)
    # in float32, since coordinates are; gradcheck's own tolerances are for float64
    torch.autograd.gradcheck(
        lambda *a: flow_warp(*a, padding=padding),
        [torch.from_numpy(a).requires_grad_() for a in inputs.values()],
        eps=1e-3,
        atol=2e-2,
        rtol=2e-2,
        nondet_tol=1e-5,
    )


def half_by_session(inputs, element, kernel):
    # ONNX Runtime's Python takes bfloat16 only as its own values
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            a.view(torch.uint16).numpy(), element
        )
        if name == "x"
        else onnxruntime.OrtValue.ortvalue_from_numpy(a.numpy())
        for name, a in inputs.items()
    }
    made = session(model(element=element), kernel)
    return torch.from_dlpack(made.run_with_ort_values(["y"], values)[0]._ortvalue)


@pytest.mark.parametrize(
    ("by", "dtype", "size"),
    [
        ("torch", torch.float16, (12, 20)),
        ("torch", torch.bfloat16, (12, 20)),
        ("body", torch.float16, (8, 64)),
        *(
            pytest.param("kernel", dtype, size, marks=needs_kernel)
            for dtype in (torch.float16, torch.bfloat16)
            for size in ((12, 20), (1024, 768))
        ),
    ],
)
def test_half_precision_is_off_by_its_own_rounding(truth, by, dtype, size):
    inputs = truth.arguments(2, 1, 3, *size, 3.0)
    inputs["affine"][:] = np.eye(2, 3)
    inputs["affine"][:, :, 2] = 0.01
    tensors = {name: torch.from_numpy(a) for name, a in inputs.items()}
    tensors["x"] = tensors["x"].to(dtype)
    if by == "torch":
        y, _ = flow_warp(*tensors.values())
    else:
        element = TensorProto.FLOAT16 if dtype == torch.float16 else TensorProto.BFLOAT16
        y = half_by_session(tensors, element, by == "kernel")
    assert y.dtype == dtype
    due, _ = truth.flow_warp(**{**inputs, "x": tensors["x"].double()})
    slack = truth.half_an_ulp(due, 11 if dtype == torch.float16 else 8)
    # coordinates in half precision would be off by far more
    slack += 12 * truth.position_error(inputs, 3.0) if by == "kernel" else 1e-4
    assert (np.abs(y.double().numpy() - due) <= slack + 2.0**-20 * np.abs(due)).all()


@needs_kernel
def test_a_padding_that_is_left_out_is_zeros(truth, kernel):
    inputs = truth.arguments(3, 1, 2, 4, 6, 8.0)
    y, _ = session(model(padding=None)).run(None, inputs)
    np.testing.assert_array_equal(y, kernel(inputs)[0])


@pytest.mark.parametrize("by", ["torch", KERNEL])
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("coarse_flow", (1, 2, 8, 8), r"coarse_flow has shape .1,2,8,8.; expected .1,2,4,4."),
        ("residual", (1, 2, 8, 6), r"residual has shape .1,2,8,6.; expected .1,2,8,8."),
        ("affine", (2, 2, 3), r"affine has shape .2,2,3.; expected .1,2,3."),
        ("x", (1, 3, 7, 8), r"both sides (have to|must) be even"),
    ],
)
def test_errors_name_the_input_and_what_was_expected(truth, request, by, name, shape, message):
    run = by_torch if by == "torch" else request.getfixturevalue("kernel")
    inputs = {**truth.arguments(4, 1, 3, 8, 8, 1.0), name: np.zeros(shape, np.float32)}
    with pytest.raises(Exception, match=message.replace(",", ", ?")):
        run(inputs)


@needs_kernel
def test_an_unknown_padding_is_refused(truth):
    with pytest.raises(Exception, match="padding is 'mirror'; expected 'zeros' or 'border'"):
        session(model("mirror"))
    with pytest.raises(ValueError, match="padding is 'mirror'; expected one of"):
        by_torch(truth.arguments(4, 1, 3, 8, 8, 1.0), "mirror")


@needs_kernel
def test_a_padding_of_another_type_is_refused():
    made = onnx.load_model_from_string(model())
    made.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("padding", 1))
    with pytest.raises(Exception, match=r"padding|attribute"):
        session(made.SerializeToString())


@needs_kernel
@pytest.mark.parametrize("sizes", [[None] * 4, None])
def test_unknown_sizes_do_not_keep_a_graph_from_loading(truth, sizes):
    made = onnx.load_model_from_string(model())
    tensor = made.graph.input[0].type.tensor_type
    if sizes is None:
        tensor.ClearField("shape")
    else:
        for dimension in tensor.shape.dim:
            dimension.Clear()
    turned = helper.make_node("Transpose", ["y"], ["turned"], perm=[0, 2, 3, 1])
    joined = helper.make_node("Concat", ["turned", "turned"], ["twice"], axis=1)
    made.graph.node.extend([turned, joined])
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("twice", TensorProto.FLOAT, None))
    inputs = truth.arguments(7, 1, 3, 4, 6, 1.0)
    found, due = (
        session(made.SerializeToString(), kernel).run(None, inputs)[0] for kernel in (1, 0)
    )
    np.testing.assert_allclose(found, due, atol=1e-5)


@needs_kernel
def test_sessions_give_their_memory_back(truth):
    # an allocator that is not released keeps the arena of its session for good
    inputs = truth.arguments(8, 1, 16, 512, 512, 1.0)

    def resident():
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096

    sizes = []
    for _ in range(6):
        made = session(model())
        made.run(None, inputs)
        del made
        gc.collect()
        sizes.append(resident())
    assert sizes[-1] - sizes[1] < 2 * inputs["x"].nbytes


@needs_kernel
def test_threads_share_a_session(truth, kernel):
    cases = [truth.arguments(seed, 1, 8, 32, 24, 3.0) for seed in range(8)]
    due = [kernel(case)[0] for case in cases]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            found = list(pool.map(lambda case: kernel(case)[0], cases))
            for a, b in zip(found, due, strict=True):
                np.testing.assert_array_equal(a, b)


@needs_kernel
def test_the_kernel_takes_the_place_of_the_function_body(truth, tmp_path):
    inputs = truth.arguments(5, 1, 6, 16, 12, 2.0)
    used = {}
    for kernel in (True, False):
        made = session(
            model(), kernel, enable_profiling=True, profile_file_prefix=str(tmp_path / "p")
        )
        made.run(None, inputs)
        with open(made.end_profiling(), encoding="utf-8") as file:
            used[kernel] = {e.get("args", {}).get("op_name") for e in json.load(file)}
    assert OP_TYPE in used[True]
    assert "GridSample" not in used[True]
    assert OP_TYPE not in used[False]
    assert "GridSample" in used[False]


@needs_kernel
def test_the_pipeline_registers_it():
    from garment_transfer.runtime.backends import onnxruntime as backend

    assert "FlowWarp by its kernel" in backend.available().details
    assert Pipeline.load(sample_bundle(), threads=1)
