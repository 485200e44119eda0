"""int8 graphs: what their 8-bit convolutions compute, in both forms, and what stays float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper

from garment_transfer.bundle import Batch, Bundle, Code, ExportError, Size, contract
from garment_transfer.export import int8
from garment_transfer.export.bundle import export_bundle
from garment_transfer.export.tensorrt import _Builder, _in_its_form

_GRAPH = """
<ir_version: 8, opset_import: ["" : 18]>
stage (float[n, 3, 16, 16] x) => (float[n, 3, 16, 16] image)
{
    first = Conv <pads: ints = [1, 1, 1, 1]> (x, w1, b1)
    hidden = Mul (first, factors)
    image = Conv <pads: ints = [1, 1, 1, 1]> (hidden, w2, b2)
}
"""


def _saturates() -> bool:
    """Whether ONNX Runtime's products of int8 saturate at 16 bits, as without VNNI on x86-64."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (uint8[1,16,4,4] x, int8[8,16,3,3] w) => (uint8[1,8,2,2] y)
        <float one = {1}, float step = {20000}, uint8 zero = {0}, int8 none = {0}>
        { y = QLinearConv (x, one, zero, w, one, none, step, zero) }
    """)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x, w = np.full((1, 16, 4, 4), 255, np.uint8), np.full((8, 16, 3, 3), 127, np.int8)
    (found,) = session.run(None, {"x": x, "w": w})
    return bool((found != round(16 * 9 * 255 * 127 / 20000)).any())


exact = pytest.mark.skipif(
    _saturates(), reason="int8 products saturate on this processor, so more stays float32"
)


def _weights(seed: int) -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (3, 8, 3, 3), "b2": (3,)}.items()
    }
    return {**weights, "factors": np.ones((1, 8, 1, 1), np.float32)}


def _model(weights: dict[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(_GRAPH)
    for node, name in zip(model.graph.node, ("a/Conv_0", "a/Mul_0", "b/Conv_0"), strict=True):
        node.name = name
    tensors = (numpy_helper.from_array(values, name) for name, values in weights.items())
    model.graph.initializer.extend(tensors)
    return model


def _sample(seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    image = np.random.default_rng(seed).normal(0, 100, (1, 3, 16, 16))
    return {"x": image.astype(np.float32)}


def _rounded(values: npt.NDArray[np.float64], largest: float) -> npt.NDArray[np.float64]:
    """To the 255 numbers of even distance that reach the largest magnitude."""
    step = 2 * largest / 255
    return np.clip(np.rint(values / step), -128, 127) * step


@exact
def test_convolutions_compute_on_rounded_numbers():
    """Beside torch in float64: activations rounded per tensor, weights per output channel."""
    weights, x = _weights(1), _sample()["x"].astype(np.float64)
    quantised = int8.convert_to_int8("regrowth", _model(weights), [_sample()])
    found = int8.Session(quantised).run(_sample())[0]["image"]

    def convolved(x: npt.NDArray[np.float64], layer: str) -> npt.NDArray[np.float64]:
        kernel = weights[f"w{layer}"].astype(np.float64)
        step = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / 127
        values = (x, np.rint(kernel / step) * step, weights[f"b{layer}"].astype(np.float64))
        return F.conv2d(*map(torch.from_numpy, values), padding=1).numpy()

    exact = convolved(convolved(x, "1"), "2")
    due = _rounded(x, np.abs(x).max())
    due = convolved(due, "1")
    due = convolved(_rounded(due, np.abs(due).max()), "2")
    step = 2 * np.abs(exact).max() / 255
    # the output is rounded too, and its range is that of the float32 graph
    assert np.abs(found - due).max() < 2 * step
    assert np.abs(due - exact).max() > step / 4  # what is compared is more than float32's rounding


@exact
def test_tensorrt_s_form_computes_the_same():
    quantised = int8.convert_to_int8("regrowth", _model(_weights(2)), [_sample()])
    other = int8.for_tensorrt(quantised)
    a, b = (int8.Session(model).run(_sample(3))[0]["image"] for model in (quantised, other))
    step = np.abs(a).max() / 127
    assert np.abs(a - b).max() <= 1.01 * step  # a half may be rounded either way
    assert (a != b).mean() < 0.02
    types = {tensor.name: tensor.data_type for tensor in other.graph.initializer}
    assert TensorProto.UINT8 not in types.values()
    assert TensorProto.INT32 not in types.values()
    constants = {t.name: numpy_helper.to_array(t) for t in other.graph.initializer}
    zeros = [
        constants[node.input[2]]
        for node in other.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert zeros
    assert not any(zero.any() for zero in zeros)


@exact
def test_what_loses_too_much_stays_float32():
    """A hidden channel that is far larger than the others takes their bits away."""
    weights = _weights(4)
    weights["factors"][0, 0] = 1000
    weights["w2"][:, 0] /= 1000
    quantised = int8.convert_to_int8("regrowth", _model(weights), [_sample()])
    read = {name for node in quantised.graph.node if node.op_type == "Conv" for name in node.input}
    assert "hidden" in read  # the second convolution reads what the first one gives, as it is
    assert any(node.op_type == "QuantizeLinear" for node in quantised.graph.node)


def test_where_nothing_may_be_rounded_nothing_is_written():
    model = _model(_weights(5))
    x = _sample()
    x["x"][0, 0, 0, 0] = 1e9  # all else is nothing beside it
    with pytest.raises(ExportError) as caught:
        int8.convert_to_int8("regrowth", model, [x])
    assert caught.value.code == Code.EXPORT_INACCURATE


@pytest.fixture(scope="module")
def regrowth(bundle) -> onnx.ModelProto:
    """The int8 graph of a whole network."""
    rng = np.random.default_rng(6)
    sample = {
        tensor.name: rng.integers(0, 5, tensor.shape_of(1)).astype(np.uint8)
        for tensor in contract(bundle.manifest.size)["regrowth"].inputs
    }
    model = onnx.load(bundle.graph_path("regrowth"))
    return int8.convert_to_int8("regrowth", model, [sample])


def test_tensorrt_rtx_builds_them(bundle, regrowth):
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="extra rtx is not installed")
    builder = _Builder(trt, "tensorrt-rtx", Batch(1, 1, 1), 0, 0, None, False)
    content = _in_its_form(regrowth.SerializeToString(), "int8")
    signature = contract(bundle.manifest.size)["regrowth"]
    plan, _ = builder.build(
        "regrowth",
        Path("regrowth.onnx"),
        content,
        signature,
        lambda part, done: None,
        lambda: False,
    )
    assert len(plan) > 10_000


def test_a_bundle_has_them_beside_the_others(checkpoint, plain_networks, tmp_path):
    bundle = export_bundle(
        checkpoint,
        tmp_path / "bundle",
        size=Size(32, 32),
        factory=lambda path: ("tiny", plain_networks),
        converters={"int8": lambda stage, model, samples: model},
    )
    assert bundle.manifest.precisions == ("float32", "int8")
    accuracy = Bundle.load(bundle.path).manifest.variants["int8"].accuracy
    assert accuracy.different_labels == 0
    assert accuracy.image_psnr == 100
    assert (bundle.path / "warping.int8.onnx").is_file()
