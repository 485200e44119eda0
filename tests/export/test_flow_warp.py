"""The ONNX function body of FlowWarp against the plain float64 reference."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings, strategies as st
from onnx import TensorProto

from garment_transfer.export.flow_warp import flow_warp_model
from garment_transfer.models.flow_warp import flow_warp_reference


def _session(padding, dtype=TensorProto.FLOAT):
    model = flow_warp_model(padding, dtype)
    assert [function.name for function in model.functions] == ["FlowWarp"]
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def sessions():
    return {padding: _session(padding) for padding in ("zeros", "border")}


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31 - 1),
    n=st.integers(1, 2),
    c=st.integers(1, 3),
    h=st.integers(1, 6).map(lambda v: 2 * v),
    w=st.integers(1, 6).map(lambda v: 2 * v),
    reach=st.sampled_from([0.5, 4.0, 200.0]),
    padding=st.sampled_from(["zeros", "border"]),
)
def test_agrees_with_the_reference(sessions, seed, n, c, h, w, reach, padding):
    random = np.random.default_rng(seed)
    arguments = {
        "x": random.standard_normal((n, c, h, w)),
        "coarse_flow": reach / 2 * random.standard_normal((n, 2, h // 2, w // 2)),
        "residual": reach / 2 * random.standard_normal((n, 2, h, w)),
        "affine": np.eye(2, 3) + 0.2 * random.standard_normal((n, 2, 3)),
    }
    arguments = {name: value.astype(np.float32) for name, value in arguments.items()}
    y, flow = sessions[padding].run(None, arguments)
    y_expected, flow_expected = flow_warp_reference(*arguments.values(), padding=padding)
    np.testing.assert_allclose(flow, flow_expected, rtol=1e-5, atol=1e-5 * max(1.0, reach))
    np.testing.assert_allclose(y, y_expected, atol=1e-4 * max(1.0, reach / 4))


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_position_that_is_not_finite_reads_zero(sessions, padding, value):
    residual = np.zeros((1, 2, 4, 4), np.float32)
    residual[0, 1, 2, 1] = value
    y, _ = sessions[padding].run(
        None,
        {
            "x": np.ones((1, 2, 4, 4), np.float32),
            "coarse_flow": np.zeros((1, 2, 2, 2), np.float32),
            "residual": residual,
            "affine": np.eye(2, 3, dtype=np.float32)[None],
        },
    )
    expected = np.ones((1, 2, 4, 4), np.float32)
    expected[0, :, 2, 1] = 0
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_float16_features_keep_float32_coordinates():
    random = np.random.default_rng(5)
    x = random.standard_normal((1, 3, 8, 64)).astype(np.float16)
    residual = random.uniform(-3, 3, (1, 2, 8, 64)).astype(np.float32)
    arguments = {
        "x": x,
        "coarse_flow": np.zeros((1, 2, 4, 32), np.float32),
        "residual": residual,
        "affine": np.eye(2, 3, dtype=np.float32)[None],
    }
    y, _ = _session("zeros", TensorProto.FLOAT16).run(None, arguments)
    expected, _ = flow_warp_reference(*arguments.values())
    assert y.dtype == np.float16
    # half an ulp of float16 below 4 is 2**-10; coordinates in float16 would be off by far more
    np.testing.assert_allclose(y.astype(float), expected, atol=2**-9)
