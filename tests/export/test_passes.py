"""Rewrites of graphs: what they compute is what it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from garment_transfer.bundle import STAGES
from garment_transfer.export.passes import (
    align_channels,
    expand_masks,
    module_of,
    share_constants,
    shrink_constants,
    types_of,
    uint8_at_the_border,
)

Arrays = Mapping[str, npt.NDArray[np.generic]]


def _run(model: ModelProto, inputs: Arrays) -> list[npt.NDArray[np.generic]]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def _rewrite(
    change: Callable[[ModelProto], None], model: ModelProto, inputs: Arrays, atol: float = 0.0
) -> None:
    """Changes a graph, which then gives what it gave before."""
    expected = _run(model, inputs)
    change(model)
    for value, before in zip(_run(model, inputs), expected, strict=True):
        assert value.dtype == before.dtype
        np.testing.assert_allclose(value, before, rtol=0, atol=atol)


def _parse(body: str) -> ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]>\n{body}')


#: One graph for every way uint8 occurs: moved, compared, computed with (and wrapped), chosen,
#: made from floats, passed through, constant.
_UINT8 = """
g (uint8[N,4] a, uint8[N,4] b, float[N,4] x) => (uint8[N,4] moved, uint8[N,4] sum, uint8[N,4] cut,
                                                 bool[N,4] equal, int32[N,4] wide) {
  ten = Constant <value_int: int = 10> ()
  ten_8 = Cast <to = 2> (ten)
  is_ten = Equal (a, ten_8)
  moved = Where (is_ten, b, a)
  sum = Add (a, b)
  cut = Cast <to = 2> (x)
  equal = Equal (cut, a)
  wide = Cast <to = 6> (sum)
}
"""


def test_uint8_is_a_type_of_inputs_and_outputs_alone():
    random = np.random.default_rng(3)
    inputs = {
        "a": random.integers(8, 12, (3, 4), dtype=np.uint8),
        "b": random.integers(240, 256, (3, 4), dtype=np.uint8),
        "x": random.uniform(0, 255.9, (3, 4)).astype(np.float32),
    }
    model = _parse(_UINT8)
    _rewrite(uint8_at_the_border, model, inputs)
    # only what cannot be done without it still computes in uint8
    types = types_of(model)
    for node in model.graph.node:
        if any(types.get(n) == TensorProto.UINT8 for n in (*node.input, *node.output)):
            assert node.op_type in ("Cast", "Add")
    assert all(
        node.op_type != "Add" or types[node.output[0]] == TensorProto.UINT8
        for node in model.graph.node
    )


def test_exported_graphs_touch_uint8_in_casts_of_inputs_and_outputs_alone(bundle):
    for stage in STAGES:
        model = onnx.load(bundle.graph_path(stage))
        types = types_of(model)
        border = {value.name for value in (*model.graph.input, *model.graph.output)}
        for node in model.graph.node:
            for name in (*node.input, *node.output):
                if types.get(name) == TensorProto.UINT8:
                    assert node.op_type == "Cast", node.name
                    assert name in border
                    other = {*node.input, *node.output} - {name}
                    # what TensorRT's documentation allows
                    assert {types[n] for n in other} == {TensorProto.FLOAT}


def test_nodes_are_named_after_modules(bundle, networks):
    model = onnx.load(bundle.graph_path("warping"))
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    modules = {name for name, _ in networks["warping"].named_modules()}
    found = {module_of(node) for node in model.graph.node}
    assert found <= modules
    assert "levels.3.layers.0.0" in found or "levels.3.layers.0.1" in found


def test_equal_constants_are_stored_once():
    model = _parse(
        """
        g (float[2] x) => (float[2] y)
        <float[2] a = {1, 2}, float[2] b = {1, 2}, float[2] c = {1, 3}, float[1,2] d = {1, 2}> {
          p = Mul (x, a)
          q = Mul (p, b)
          r = Mul (q, c)
          s = Squeeze (d)
          y = Add (r, s)
        }
        """
    )
    _rewrite(share_constants, model, {"x": np.array([3, 5], np.float32)})
    assert [tensor.name for tensor in model.graph.initializer] == ["a", "c", "d"]


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), ()])
def test_a_constant_that_repeats_is_stored_once(axes):
    model = _parse(
        """
        g (float[64,96] x) => (float[64,96] y) {
          y = Add (x, repeated)
        }
        """
    )
    random = np.random.default_rng(1)
    shape = [1 if axis in axes else size for axis, size in enumerate((64, 96))]
    values = np.broadcast_to(random.standard_normal(shape).astype(np.float32), (64, 96)).copy()
    model.graph.initializer.append(numpy_helper.from_array(values, "repeated"))
    x = random.standard_normal((64, 96)).astype(np.float32)
    _rewrite(shrink_constants, model, {"x": x})
    stored = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert stored == (4 * np.prod(shape) + 16 if axes else values.nbytes)


def test_a_bundle_is_little_more_than_its_weights(bundle, networks):
    weights = {s: 4 * sum(p.numel() for p in networks[s].parameters()) for s in STAGES}
    for stage, graph in bundle.manifest.graphs.items():
        assert graph.bytes < weights[stage] + 150_000, stage
    for stage, graph in bundle.manifest.graphs_of("float16").items():
        assert graph.bytes < weights[stage] / 2 + 200_000, stage


#: A joint that two convolutions read, one that something else reads too, and one that is aligned.
_JOINTS = """
g (float[N,7,6,5] a, float[N,3,6,5] b)
  => (float[N,2,4,3] one, float[N,2,6,5] two, float[N,2,6,5] other, float[N,2,6,5] aligned,
      float[N,10,6,5] read) {
  joint = Concat <axis = 1> (b, a)
  one = Conv <kernel_shape = [3, 3]> (joint, w3)
  two = Conv <kernel_shape = [1, 1]> (joint, w1)
  read = Concat <axis = 1> (a, b)
  other = Conv <kernel_shape = [1, 1]> (read, v1)
  even = Concat <axis = 1> (b, a, b, b)
  aligned = Conv <kernel_shape = [1, 1]> (even, u1)
}
"""


def test_channels_are_aligned_and_the_result_is_the_same():
    random = np.random.default_rng(5)
    model = _parse(_JOINTS)
    for name, shape in (("w3", (2, 10, 3, 3)), ("w1", (2, 10, 1, 1)), ("v1", (2, 10, 1, 1)),
                        ("u1", (2, 16, 1, 1))):  # fmt: skip
        values = random.standard_normal(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    inputs = {
        "a": random.standard_normal((2, 7, 6, 5), np.float32),
        "b": random.standard_normal((2, 3, 6, 5), np.float32),
    }
    _rewrite(align_channels, model, inputs, atol=1e-5)
    found = {tensor.name: tensor.dims[1] for tensor in model.graph.initializer if tensor.dims[1:]}
    assert found == {"w3": 12, "w1": 12, "v1": 10, "u1": 16}


def test_exported_convolutions_over_joints_are_aligned(bundle):
    for stage in STAGES:
        for precision in ("float32", "float16"):
            model = onnx.load(bundle.graph_path(stage, precision))
            joints = {n.output[0] for n in model.graph.node if n.op_type == "Concat"}
            widths = {tensor.name: tensor.dims for tensor in model.graph.initializer}
            found = [
                widths[node.input[1]][1]
                for node in model.graph.node
                if node.op_type == "Conv" and node.input[0] in joints
            ]
            assert found
            assert not [width for width in found if width >= 8 and width % 4], stage


#: A photo's products with a mask, with a plane for each channel, and of something that is no photo.
_MASKED = """
g (float[N,4,5,3] photo, float[N,1,4,5] mask, float[N,3,4,5] planes)
  => (float[N,3,4,5] masked, float[N,3,4,5] other, float[N,3,4,5] alone) {
  turned = Transpose <perm = [0, 3, 1, 2]> (photo)
  scaled = Div (turned, scale)
  masked = Mul (mask, scaled)
  other = Mul (scaled, planes)
  alone = Mul (planes, mask)
}
"""


def test_masks_of_photos_are_expanded_and_the_result_is_the_same():
    random = np.random.default_rng(6)
    model = _parse(_MASKED)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "scale"))
    inputs = {
        "photo": random.standard_normal((2, 4, 5, 3), np.float32),
        "mask": random.standard_normal((2, 1, 4, 5), np.float32),
        "planes": random.standard_normal((2, 3, 4, 5), np.float32),
    }
    _rewrite(expand_masks, model, inputs)
    expanded = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Expand"}
    assert list(expanded.values()) == ["mask"]
    products = {n.output[0]: set(n.input) for n in model.graph.node if n.op_type == "Mul"}
    assert products["masked"] == {*expanded, "scaled"}
