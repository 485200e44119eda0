"""The float16 graph of a stage, from its float32 graph and a list of what is half.

`float16.json` beside this file names, per stage, the modules of the network that compute in half
("half"), those whose FlowWarp samples half features ("warp_half"; its flow and affine stay
float32), and the operators that stay float32 wherever they stand. Everything else follows from
its inputs as torch promotes types: half only where all of them are. So flows, coordinates and
affines are float32 without being named, and what a network gains later is until it is named.

A converter of whole nodes will not do: FlowWarp takes half features and float32 coordinates at
once, and that is what the operator is for.
"""

from __future__ import annotations

import fnmatch
import importlib.resources
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from garment_transfer.bundle import ExportError
from garment_transfer.export.passes import MOVING, Names, module_of, replace_nodes, types_of
from garment_transfer.models.flow_warp import DOMAIN, OP_TYPE

#: The largest finite float16.
LARGEST: Final = 65504.0

#: Rounding before these gives what rounding after them does.
_EXACT: Final = MOVING | {"MaxPool", "Relu"}

#: Inputs that are float32 whatever the node's precision, by operator.
_ALWAYS_FLOAT: Final = {"Resize": (1, 2), OP_TYPE: (1, 2, 3)}


@dataclass(frozen=True)
class Rule:
    """What of one stage's network is half; patterns of module names as in `float16.json`."""

    half: tuple[str, ...]
    warp_half: tuple[str, ...]
    float32_operators: frozenset[str]


def rules() -> dict[str, Rule]:
    """The rule of each stage, from `float16.json`."""
    text = importlib.resources.files(__package__).joinpath("float16.json").read_text("utf-8")
    fields = json.loads(text)
    operators = frozenset(fields.pop("float32_operators"))
    return {
        stage: Rule(tuple(lists["half"]), tuple(lists["warp_half"]), operators)
        for stage, lists in fields.items()
    }


def to_float16(model: onnx.ModelProto, rule: Rule) -> onnx.ModelProto:
    """A copy of a float32 graph in which what the rule names is float16.

    Inputs and outputs keep their types. Node names have to begin with the module's name
    (`garment_transfer.export.passes.name_nodes`).

    Raises:
        ExportError: the rule names no module of this network, or a weight is larger than float16
            holds.
    """
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    _check_names(model, rule)
    _Conversion(converted, rule).run()
    onnx.checker.check_model(converted, full_check=True)
    return converted


def _check_names(model: onnx.ModelProto, rule: Rule) -> None:
    modules = {module_of(node) for node in model.graph.node}
    if not any(matches(module, rule.half) for module in modules):
        raise ExportError(
            f"float16: the network has no module named {', '.join(rule.half)}, which "
            "export/float16.json lists; it has "
            f"{', '.join(sorted({module.partition('.')[0] for module in modules if module}))}. "
            "The list is of this package's own networks: use --autocast for others"
        )


def matches(module: str, patterns: Iterable[str]) -> bool:
    """Whether a module is one of `patterns` or inside one; "" is the network itself alone."""
    return any(
        module == pattern
        or (pattern and fnmatch.fnmatchcase(module, pattern + ".*"))
        or fnmatch.fnmatchcase(module, pattern)
        for pattern in patterns
    )


class _Conversion:
    """One graph on its way to float16."""

    def __init__(self, model: onnx.ModelProto, rule: Rule) -> None:
        self._model = model
        self._rule = rule
        self._types = types_of(model)
        self._names = Names(model)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._numbers = {t.name for t in model.graph.initializer if not t.dims}
        self._outputs = {value.name for value in model.graph.output}
        self._users: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                self._users.setdefault(name, []).append((node, index))
        self._half_nodes: set[str] = set()
        self._half_tensors: set[str] = set()
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        """Choose precisions, then put casts where two of them meet."""
        for node in self._model.graph.node:
            if self._chooses_half(node):
                self._mark(node)
        for node in reversed(self._model.graph.node):
            if node.op_type in _EXACT and not node.domain and self._is_read_as_half(node):
                self._mark(node)
        for node in self._model.graph.node:
            self._rewrite(node)
        replace_nodes(self._model, self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._model.graph.initializer if tensor.name in used]
        del self._model.graph.initializer[:]
        self._model.graph.initializer.extend(kept)

    def _chooses_half(self, node: onnx.NodeProto) -> bool:
        module = module_of(node)
        if self._outputs.intersection(node.output):
            return False
        if node.domain == DOMAIN:
            named = matches(module, self._rule.warp_half)
            return node.op_type == OP_TYPE and (named or node.input[0] in self._half_tensors)
        if node.op_type in self._rule.float32_operators or not self._gives_float(node):
            return False
        if node.op_type == "Cast":
            return matches(module, self._rule.half)
        if matches(module, self._rule.half):
            return bool(self._float_inputs(node))
        # a constant number takes the type of what it meets
        floats = {node.input[i] for i in self._float_inputs(node)} - self._numbers
        return bool(floats) and floats <= self._half_tensors

    def _is_read_as_half(self, node: onnx.NodeProto) -> bool:
        """Whether all that reads the node's outputs reads them as half."""
        if not self._gives_float(node) or self._outputs.intersection(node.output):
            return False
        users = [user for name in node.output for user in self._users.get(name, ())]
        return bool(users) and all(
            user.name in self._half_nodes and index in self._float_inputs(user)
            for user, index in users
        )

    def _mark(self, node: onnx.NodeProto) -> None:
        self._half_nodes.add(node.name)
        outputs = node.output[:1] if node.domain == DOMAIN else node.output
        self._half_tensors |= {n for n in outputs if self._types.get(n) == TensorProto.FLOAT}

    def _gives_float(self, node: onnx.NodeProto) -> bool:
        return any(self._types.get(name) == TensorProto.FLOAT for name in node.output)

    def _float_inputs(self, node: onnx.NodeProto) -> list[int]:
        """The inputs that take the node's own precision."""
        always = _ALWAYS_FLOAT.get(node.op_type, ())
        return [
            index
            for index, name in enumerate(node.input)
            if self._types.get(name) == TensorProto.FLOAT and index not in always
        ]

    def _rewrite(self, node: onnx.NodeProto) -> None:
        half = node.name in self._half_nodes
        own = self._float_inputs(node)
        for index, name in enumerate(node.input):
            if self._types.get(name) == TensorProto.FLOAT and node.op_type != "Cast":
                wanted = TensorProto.FLOAT16 if half and index in own else TensorProto.FLOAT
                node.input[index] = self._as(name, wanted)
        if half and node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT16
        self._nodes.append(node)

    def _as(self, name: str, wanted: int) -> str:
        """The name of a tensor's values in a precision; puts a cast there where there is none."""
        have = TensorProto.FLOAT16 if name in self._half_tensors else TensorProto.FLOAT
        if wanted == have:
            return name
        if (name, wanted) not in self._casts:
            suffix = "half" if wanted == TensorProto.FLOAT16 else "float"
            target = self._names.new(f"{name}_{suffix}")
            self._casts[name, wanted] = target
            if name in self._constants:
                self._model.graph.initializer.append(_half(self._constants[name], target))
            else:
                self._nodes.append(
                    helper.make_node("Cast", [name], [target], self._names.new(target), to=wanted)
                )
        return self._casts[name, wanted]


def _half(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= LARGEST:
        raise ExportError(
            f"float16: the weight {tensor.name} holds {largest:.4g}, and float16 ends at "
            f"{LARGEST:.0f}; leave its module out of export/float16.json"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


class Emulation:
    """A float16 graph, run in float32 with every half tensor rounded as float16 is.

    ONNX Runtime's CPU kernels are float32, and it drops casts between two of them: run as it is,
    a float16 graph neither rounds nor overflows there. Sums are in float32, as in a GPU's tensor
    cores; a tensor that a GPU fuses away is rounded here all the same.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        emulated = onnx.ModelProto()
        emulated.CopyFrom(model)
        self._outputs = [value.name for value in model.graph.output]
        #: The node by the output that holds its largest magnitude.
        self._probes: dict[str, str] = {}
        self._names = Names(model)
        self._constants: dict[str, TensorProto] = {}
        types = types_of(model)
        nodes: list[onnx.NodeProto] = []
        for node in emulated.graph.node:
            halves = [i for i, n in enumerate(node.output) if types.get(n) == TensorProto.FLOAT16]
            if halves and node.op_type == "Cast":
                node.attribute[0].i = TensorProto.FLOAT
            nodes.append(node)
            if node.op_type not in _EXACT:
                for index in halves:
                    name = node.output[index]
                    node.output[index] = self._names.new(f"{name}_exact")
                    nodes += self._round(node.output[index], name)
                    nodes += self._probe(node.output[index], node.name)
        for tensor in emulated.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT16:
                values = numpy_helper.to_array(tensor).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        replace_nodes(emulated, nodes)
        emulated.graph.initializer.extend(self._constants.values())
        emulated.graph.output.extend(
            helper.make_tensor_value_info(probe, TensorProto.FLOAT, []) for probe in self._probes
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            emulated.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], float]:
        """The outputs by name, and the largest magnitude that a half tensor took.

        Raises:
            ExportError: a value is not finite in float16; names the node, and so its module.
        """
        values = self._session.run([*self._outputs, *self._probes], dict(inputs))
        outputs = dict(zip(self._outputs, values, strict=False))
        magnitudes = [float(value) for value in values[len(self._outputs) :]]
        for node, magnitude in zip(self._probes.values(), magnitudes, strict=True):
            if not magnitude <= LARGEST:
                reached = f"{magnitude:.4g}" if np.isfinite(magnitude) else "infinity or no number"
                raise ExportError(
                    f"float16: the layer {node} reaches {reached}, and float16 ends at "
                    f"{LARGEST:.0f}; take its module {node.rpartition('/')[0]!r} out of the list "
                    "in export/float16.json, or train with smaller activations. Nothing was "
                    "written"
                )
        return outputs, max(magnitudes, default=0.0)

    def _round(self, source: str, target: str) -> list[onnx.NodeProto]:
        """Round to the 11 bits of a float16, by Veltkamp's splitting of a 24-bit float32."""
        scaled, rest = self._names.new(f"{target}_scaled"), self._names.new(f"{target}_rest")
        factor = self._constant("half_splitter", 2.0**13 + 1)
        return [
            helper.make_node("Mul", [source, factor], [scaled]),
            helper.make_node("Sub", [scaled, source], [rest]),
            helper.make_node("Sub", [scaled, rest], [target]),
        ]

    def _probe(self, source: str, node: str) -> list[onnx.NodeProto]:
        isnan, size, whole, probe = (
            self._names.new(f"{source}_{step}") for step in ("nan", "size", "whole", "largest")
        )
        self._probes[probe] = node
        infinity = self._constant("half_infinity", np.inf)
        return [
            helper.make_node("IsNaN", [source], [isnan]),
            helper.make_node("Abs", [source], [size]),
            helper.make_node("Where", [isnan, infinity, size], [whole]),
            helper.make_node("ReduceMax", [whole], [probe], keepdims=0),
        ]

    def _constant(self, name: str, value: float) -> str:
        if name not in self._constants:
            array = np.array(value, np.float32)
            self._constants[name] = numpy_helper.from_array(array, self._names.new(name))
        return self._constants[name].name
