"""Rewrites of an ONNX graph that leave what it computes as it is.

They make an exported graph portable (`uint8_at_the_border`), small (`share_constants`) and fast
(`align_channels`, `expand_masks`).
"""

from __future__ import annotations

import ast
import collections
import contextlib
import itertools
import logging
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import DeduplicateInitializersPass

#: Operators that move or compare values without computing new ones: exact in any type that holds
#: the values.
MOVING = frozenset(
    {
        *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape"),
        *("Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
    }
)
_COMPARING = frozenset(
    {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Shape", "Size"}
)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The element type (`TensorProto.FLOAT`, ...) of every tensor of a graph by its name."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def channels_of(model: onnx.ModelProto) -> dict[str, int]:
    """The channels of every input and intermediate tensor of four axes by its name; 0 if open."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: axes[1].dim_value
        for value in (*graph.input, *graph.value_info)
        if len(axes := value.type.tensor_type.shape.dim) == 4
    }


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime on the CPU, which warns of nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of exporters and quantizers, of packages and passes nobody needs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class Names:
    """Names that a graph does not use yet."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._taken = {tensor.name for tensor in graph.initializer}
        self._taken |= {value.name for value in (*graph.input, *graph.output)}
        for node in graph.node:
            self._taken |= {node.name, *node.output}

    def new(self, wish: str) -> str:
        """`wish`, or `wish` with a number."""
        numbered = (f"{wish}_{number}" for number in itertools.count(2))
        name = next(n for n in itertools.chain([wish], numbered) if n not in self._taken)
        self._taken.add(name)
        return name


def name_nodes(model: onnx_ir.Model) -> None:
    """Name each node after the module that it comes from, as `module/Operator` and a number.

    Errors, profilers and TensorRT's layers then speak the network's own language. The modules are
    what torch's exporter notes beside each node.
    """
    counts: collections.Counter[str] = collections.Counter()
    for node in model.graph:
        # such as ['', 'levels.3', 'levels.3.layers', 'relu_7']: the last is the operation's own
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', '']"))
        module = scopes[-2] if len(scopes) > 1 else ""
        # torch's own, for what belongs to no module
        name = f"{'' if module.startswith('_') else module}/{node.op_type}"
        node.name = f"{name}_{counts[name]}"
        counts[name] += 1


def module_of(node: onnx.NodeProto) -> str:
    """The module that a node of `name_nodes` comes from; "" for the network itself."""
    return node.name.rpartition("/")[0]


def replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Put `nodes` in place of a graph's; constants that they do not read are dropped.

    Types and shapes inside the graph are no longer stated.
    """
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)


def _add_integers(model: onnx.ModelProto, name: str, *values: int) -> str:
    """Adds a constant vector; its name."""
    array = np.array(values, np.int64)
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def align_channels(model: onnx.ModelProto) -> None:
    """Give every convolution over a Concat a multiple of four input channels.

    ONNX Runtime's blocked convolutions (NCHWc) take no other number, and its plain ones are
    slower. What is missing is a repetition of channels that are there, with weights of 0.
    """
    channels = channels_of(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = collections.defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    results = {value.name for value in model.graph.output}
    names = Names(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        joins = node.op_type == "Concat" and node.attribute[0].i == 1
        if not joins or node.output[0] in results:
            continue
        filters = [reader.input[1] for reader in readers[node.output[0]] if _is_plain(reader)]
        if not filters or len(filters) < len(readers[node.output[0]]):
            continue
        if any(name not in weights or len(readers[name]) > 1 for name in filters):
            continue
        joined = weights[filters[0]].dims[1]
        # fewer than a block's are taken as they are
        missing = -joined % 4 if joined >= 8 else 0
        enough = [name for name in node.input if channels.get(name, 0) >= missing]
        if not missing or not enough:
            continue
        repeated = names.new(f"{node.output[0]}_repeated")
        constants = [
            _add_integers(model, names.new(f"{repeated}_{part}"), value)
            for part, value in (("starts", 0), ("ends", missing), ("axes", 1))
        ]
        name = names.new(f"{module_of(node)}/Slice")
        nodes.insert(-1, helper.make_node("Slice", [enough[0], *constants], [repeated], name))
        node.input.append(repeated)
        for name in filters:
            values = numpy_helper.to_array(weights[name])
            padded = np.pad(values, ((0, 0), (0, missing), (0, 0), (0, 0)))
            weights[name].CopyFrom(numpy_helper.from_array(padded, name))
    replace_nodes(model, nodes)


def expand_masks(model: onnx.ModelProto) -> None:
    """Give a mask that multiplies a photo the photo's channels first.

    ONNX Runtime moves the transposition of a photo (to [N,C,H,W]) behind its products with masks.
    A mask of one channel is then broadcast along the last axis, which takes 15 times as long as
    the product of two equal shapes.
    """
    channels = channels_of(model)
    names = Names(model)
    photos: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        turned = node.op_type == "Transpose" and list(node.attribute[0].ints) == [0, 3, 1, 2]
        scaled = node.op_type in ("Cast", "Div") and node.input[0] in photos
        if turned or scaled:
            photos.update(node.output)
        elif node.op_type == "Mul" and len(photos.intersection(node.input)) == 1:
            at = 0 if node.input[1] in photos else 1
            photo, mask = node.input[1 - at], node.input[at]
            if channels.get(photo, 0) > 1 and channels.get(mask) == 1:
                expanded = names.new(f"{mask}_expanded")
                shape = names.new(f"{expanded}_shape")
                _add_integers(model, shape, 1, channels[photo], 1, 1)
                name = names.new(f"{module_of(node)}/Expand")
                nodes.append(helper.make_node("Expand", [mask, shape], [expanded], name))
                node.input[at] = expanded
        nodes.append(node)
    replace_nodes(model, nodes)


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution of images without groups."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return (
        node.op_type == "Conv"
        and len(attributes.get("kernel_shape", ())) == 2
        and attributes.get("group", 1) == 1
    )


def share_constants(model: onnx.ModelProto) -> None:
    """Keep one of several equal constants."""
    shared = onnx_ir.from_proto(model)
    DeduplicateInitializersPass(size_limit=sys.maxsize)(shared)
    model.graph.CopyFrom(onnx_ir.to_proto(shared.graph))
    del model.graph.value_info[:]


def shrink_constants(model: onnx.ModelProto) -> None:
    """Store once what a large constant repeats along an axis; `Expand` repeats it."""
    names = Names(model)
    expanding = []
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        small = values
        for axis in range(values.ndim):
            first = small.take([0], axis)
            if (small == first).all():
                small = first
        if values.nbytes - small.nbytes < 4096:
            continue
        stored, shape = names.new(f"{tensor.name}_stored"), names.new(f"{tensor.name}_shape")
        model.graph.initializer.append(numpy_helper.from_array(small, stored))
        _add_integers(model, shape, *values.shape)
        model.graph.initializer.remove(tensor)
        expanding.append(
            helper.make_node("Expand", [stored, shape], [tensor.name], names.new(tensor.name))
        )
    replace_nodes(model, [*expanding, *model.graph.node])


def uint8_at_the_border(model: onnx.ModelProto) -> None:
    """Leave uint8 to inputs and outputs; inside, the same numbers are float32.

    TensorRT knows uint8 only there, and casts it only to and from floating point. An operator
    that computes in uint8 and neither moves nor compares keeps it, between casts.
    """
    graph = model.graph
    types = types_of(model)
    names = Names(model)
    nodes: list[onnx.NodeProto] = []
    inputs = {value.name for value in graph.input}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = sorted(v.name for v in graph.output if types[v.name] == TensorProto.UINT8)
    as_float = {output: names.new(f"{output}_float") for output in outputs}

    def cast(source: str, target: str, to: int = TensorProto.FLOAT) -> str:
        nodes.append(helper.make_node("Cast", [source], [target], names.new(target), to=to))
        return target

    def float_of(name: str) -> str:
        """The tensor that holds in float32 what `name` held in uint8."""
        if types.get(name) != TensorProto.UINT8:
            return name
        if name not in as_float:
            as_float[name] = name
            if name in inputs:
                as_float[name] = cast(name, names.new(f"{name}_float"))
            elif name in constants:
                as_float[name] = names.new(f"{name}_float")
                values = numpy_helper.to_array(constants[name]).astype(np.float32)
                graph.initializer.append(numpy_helper.from_array(values, as_float[name]))
        return as_float[name]

    for node in graph.node:
        takes = [i for i, name in enumerate(node.input) if types.get(name) == TensorProto.UINT8]
        gives = [i for i, name in enumerate(node.output) if types.get(name) == TensorProto.UINT8]
        if not takes and not gives:
            nodes.append(node)
        elif node.op_type == "Cast" and not node.domain:
            (source,), (target,) = node.input, map(float_of, node.output)
            if gives and types[source] in (TensorProto.FLOAT, TensorProto.FLOAT16):
                # uint8 cuts off what is behind the point; no value here is negative
                if types[source] == TensorProto.FLOAT16:
                    source = cast(source, names.new(f"{target}_wide"))
                nodes.append(helper.make_node("Floor", [source], [target], names.new(target)))
            else:
                to = TensorProto.FLOAT if gives else node.attribute[0].i
                direct = source in inputs and to == TensorProto.FLOAT
                cast(source if direct else float_of(source), target, to)
        elif not node.domain and node.op_type in MOVING | _COMPARING:
            node.input[:] = map(float_of, node.input)
            node.output[:] = map(float_of, node.output)
            nodes.append(node)
        else:
            for i in takes:
                exact = names.new(f"{node.input[i]}_uint8")
                node.input[i] = cast(float_of(node.input[i]), exact, TensorProto.UINT8)
            nodes.append(node)
            for i in gives:
                exact = names.new(f"{node.output[i]}_uint8")
                cast(exact, float_of(node.output[i]))
                node.output[i] = exact
    for output in outputs:
        cast(as_float[output], output, TensorProto.UINT8)
    replace_nodes(model, nodes)
