"""FlowWarp as an ONNX model-local function, in standard operators of opset 18.

A runtime that has a kernel of this name and domain uses it in place of the body; every other
one inlines the body. torch's exporter dissolves local functions, so it leaves bare nodes
(`garment_transfer.models.flow_warp`) and the function is attached here.
"""

from __future__ import annotations

from typing import Final

import onnx
import onnx.parser

from garment_transfer.models.flow_warp import DOMAIN, OP_TYPE, Padding

#: From opset 20 on GridSample's mode is spelt `linear`, for which TensorRT's parser up to 11.1
#: samples nearest without a word.
OPSET: Final = 18

# Positions are normalised first, so that one affine serves every level. -4 lies outside any
# image; with border padding it does not, hence the mask at the end.
_BODY: Final = f"""
<opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
{OP_TYPE} <padding: string = "zeros"> (x, coarse_flow, residual, affine) => (y, flow)
{{
    start = Constant <value_int: int = 0> ()
    step = Constant <value_int: int = 1> ()
    one = Constant <value_float: float = 1.0> ()
    two = Constant <value_float: float = 2.0> ()
    outside = Constant <value_float: float = -4.0> ()
    largest = Constant <value_float: float = 3.4028234e38> ()
    scales = Constant <value_floats: floats = [1.0, 1.0, 2.0, 2.0]> ()
    from_0 = Constant <value_ints: ints = [0]> ()
    to_2 = Constant <value_ints: ints = [2]> ()
    to_3 = Constant <value_ints: ints = [3]> ()
    last_axis = Constant <value_ints: ints = [-1]> ()
    channel_axis = Constant <value_ints: ints = [1]> ()
    as_x = Constant <value_ints: ints = [1, 1, 1, -1]> ()
    as_y = Constant <value_ints: ints = [1, 1, -1, 1]> ()
    as_pair = Constant <value_ints: ints = [1, 2, 1, 1]> ()

    doubled = Resize <mode: string = "linear",
        coordinate_transformation_mode: string = "half_pixel"> (coarse_flow, , scales)
    upsampled = Mul (doubled, two)
    flow = Add (upsampled, residual)

    height_1 = Shape <start: int = 2, end: int = 3> (residual)
    width_1 = Shape <start: int = 3, end: int = 4> (residual)
    height_f = Cast <to: int = 1> (height_1)
    width_f = Cast <to: int = 1> (width_1)
    height = Squeeze (height_1)
    width = Squeeze (width_1)
    columns = Range (start, width, step)
    rows = Range (start, height, step)
    xs = Cast <to: int = 1> (columns)
    ys = Cast <to: int = 1> (rows)
    xs_4 = Reshape (xs, as_x)
    ys_4 = Reshape (ys, as_y)
    flow_x, flow_y = Split <axis: int = 1, num_outputs: int = 2> (flow)
    px = Add (flow_x, xs_4)
    py = Add (flow_y, ys_4)
    position = Concat <axis: int = 1> (px, py)
    position_2 = Mul (position, two)
    position_3 = Add (position_2, one)
    size_1 = Concat <axis: int = 0> (width_f, height_f)
    size = Reshape (size_1, as_pair)
    position_4 = Div (position_3, size)
    position_5 = Sub (position_4, one)

    flat_shape = Constant <value_ints: ints = [0, 0, -1]> ()
    flat = Reshape (position_5, flat_shape)
    matrix = Slice (affine, from_0, to_2, to_2)
    shift = Slice (affine, to_2, to_3, to_2)
    turned = MatMul (matrix, flat)
    moved = Add (turned, shift)
    flow_shape = Shape (flow)
    planes = Reshape (moved, flow_shape)
    anywhere = Transpose <perm: ints = [0, 2, 3, 1]> (planes)
    magnitude = Abs (anywhere)
    finite = LessOrEqual (magnitude, largest)
    grid = Where (finite, anywhere, outside)

    x_float = Cast <to: int = 1> (x)
    sampled = GridSample <mode: string = "bilinear", padding_mode: string = @padding,
        align_corners: int = 0> (x_float, grid)
    finite_float = Cast <to: int = 1> (finite)
    both = ReduceMin <keepdims: int = 0> (finite_float, last_axis)
    mask = Unsqueeze (both, channel_axis)
    masked = Mul (sampled, mask)
    y = CastLike (masked, x)
}}
"""


def flow_warp_function() -> onnx.FunctionProto:
    """The function `FlowWarp(x, coarse_flow, residual, affine; padding) -> y, flow`.

    Its meaning is the table of `garment_transfer.models.flow_warp`; coordinates are float32.
    """
    return onnx.parser.parse_function(_BODY)


def flow_warp_model(
    padding: Padding | None = "zeros", element: int = onnx.TensorProto.FLOAT
) -> onnx.ModelProto:
    """A graph of one FlowWarp with every size open, to measure and to test a runtime with.

    Inputs `x` of type `element`, `coarse_flow`, `residual`, `affine`; outputs `y`, `flow`; without
    a `padding` the node has no such attribute.
    """
    kind = onnx.TensorProto.DataType.Name(element).lower()
    attribute = f'<padding = "{padding}">' if padding else ""
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 9, opset_import: ["" : {OPSET}, "{DOMAIN}" : 1]>
        flow_warp ({kind}[N,C,H,W] x, float[N,2,h,w] coarse_flow, float[N,2,H,W] residual,
                   float[N,2,3] affine) => ({kind}[N,C,H,W] y, float[N,2,H,W] flow) {{
            y, flow = {DOMAIN}.{OP_TYPE} {attribute} (x, coarse_flow, residual, affine)
        }}
        """
    )
    attach_flow_warp(model)
    return model


def attach_flow_warp(model: onnx.ModelProto) -> None:
    """Give `model` the function body for its bare FlowWarp nodes, where it has some."""
    if any(n.domain == DOMAIN and n.op_type == OP_TYPE for n in model.graph.node):
        del model.functions[:]
        model.functions.append(flow_warp_function())
        if not any(o.domain == DOMAIN for o in model.opset_import):
            model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
