"""The float16 graph of a stage, from its float32 graph and a list of what is float16.

`float16.json` beside this file names, per stage, the modules of the network that compute in
float16 ("modules") and those whose FlowWarp samples float16 features ("flow_warp"; its flow and
affine stay float32). `FLOAT32_OPERATORS` stay float32 wherever they stand. Everything else follows
from its inputs as torch promotes types: float16 only where all of them are. So flows, coordinates
and affines are float32 without being named, and what a network gains later is until it is named.

A converter of whole nodes will not do: FlowWarp takes float16 features and float32 coordinates at
once, and that is what the operator is for.
"""

from __future__ import annotations

import copy
import fnmatch
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from garment_transfer.bundle import Code, ExportError, Stage
from garment_transfer.export.passes import (
    MOVING,
    Names,
    module_of,
    open_session,
    replace_nodes,
    types_of,
)
from garment_transfer.models.flow_warp import DOMAIN, OP_TYPE

#: The largest finite float16.
LARGEST: Final = 65504.0

#: What loses too much in float16, wherever it stands.
FLOAT32_OPERATORS: Final = frozenset(
    {
        *("ArgMax", "Div", "Exp", "Log", "Pow", "ReduceMean", "ReduceSum", "Sigmoid", "Softmax"),
        "Sqrt",
    }
)

#: Rounding before these gives what rounding after them does.
_EXACT: Final = MOVING | {"MaxPool", "Relu"}

#: Inputs that are float32 whatever the node's precision, by operator.
_ALWAYS_FLOAT32: Final = {"Resize": (1, 2), OP_TYPE: (1, 2, 3)}

#: What float16 graphs have to reach against float32: share of labels that differ, dB of `image`.
MOST_DIFFERENT_LABELS: Final = 0.002
LEAST_PSNR: Final = 40.0

_FIX: Final = "take its module out of export/float16.json"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of one stage's network is float16; patterns of module names as in `float16.json`."""

    modules: tuple[str, ...]
    flow_warp: tuple[str, ...]


def rules() -> dict[Stage, Rule]:
    """The rule of each stage, from `float16.json`."""
    content = Path(__file__).with_name("float16.json").read_bytes()
    return msgspec.json.decode(content, type=dict[Stage, Rule])


def convert_by_list(
    stage: Stage, model: onnx.ModelProto, samples: Sequence[Mapping[str, npt.NDArray[np.generic]]]
) -> onnx.ModelProto:
    """The float16 graph of one of this package's own networks, by `float16.json`."""
    return to_float16(model, rules()[stage])


def convert_by_autocast(
    stage: Stage, model: onnx.ModelProto, samples: Sequence[Mapping[str, npt.NDArray[np.generic]]]
) -> onnx.ModelProto:
    """The float16 graph of anybody's network by NVIDIA's AutoCast, calibrated on every sample.

    AutoCast runs the graph and keeps in float32 what takes large values. It knows no local
    functions, so FlowWarp's body is inlined; it stays float32, and no kernel or plugin takes it up.

    Raises:
        ExportError: ModelOpt is not installed, or what it makes is not a valid graph.
    """
    try:
        from modelopt.onnx.autocast import convert_to_mixed_precision
    except ImportError as error:
        raise ExportError(
            Code.BACKEND_UNAVAILABLE,
            f"--autocast needs NVIDIA's ModelOpt, which does not import ({error})",
            fix='run `pip install "garment-transfer[autocast]"`, or `pip install ".[autocast]"` in '
            "a copy of the repository",
        ) from error
    inlined = onnx.inliner.inline_local_functions(model)
    for index, node in enumerate(inlined.graph.node):
        node.name = node.name or f"FlowWarp/{index}"  # the body's nodes have none
    names = [value.name for value in model.graph.input]
    with tempfile.TemporaryDirectory() as folder:
        file, calibration = Path(folder, f"{stage}.onnx"), Path(folder, "samples")
        onnx.save(inlined, file)
        calibration.mkdir()
        for index, sample in enumerate(samples):
            arrays = {name: sample[name] for name in names}
            np.savez(calibration / f"{index:05d}.npz", allow_pickle=False, **arrays)
        converted: onnx.ModelProto = convert_to_mixed_precision(
            str(file),
            low_precision_type="fp16",
            nodes_to_exclude=["FlowWarp/"],
            keep_io_types=True,
            calibration_data=str(calibration),
            providers=["cpu"],
        )
    kept = [opset for opset in converted.opset_import if opset.domain != DOMAIN]
    del converted.opset_import[:]
    converted.opset_import.extend(kept)
    try:
        onnx.checker.check_model(converted, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            Code.EXPORT_INVALID,
            f"{stage}: AutoCast made a graph that is not valid ({error})",
            fix="export this network without --precision float16",
        ) from error
    return converted


def to_float16(model: onnx.ModelProto, rule: Rule) -> onnx.ModelProto:
    """A copy of a float32 graph in which what the rule names is float16.

    Inputs and outputs keep their types. Node names have to begin with the module's name
    (`garment_transfer.export.passes.name_nodes`).

    Raises:
        ExportError: the rule names no module of this network (`export_invalid`), or a weight is
            larger than float16 holds (`export_inaccurate`).
    """
    modules = {module_of(node) for node in model.graph.node}
    if not any(matches(module, rule.modules) for module in modules):
        found = sorted({module.partition(".")[0] for module in modules if module})
        raise ExportError(
            Code.EXPORT_INVALID,
            f"the network's modules are {', '.join(found)}",
            expected=f"one of {', '.join(rule.modules)}, which export/float16.json lists for this "
            "package's own networks",
            fix="use --autocast for others",
        )
    converted = copy.deepcopy(model)
    _Conversion(converted, rule).run()
    onnx.checker.check_model(converted, full_check=True)
    return converted


def matches(module: str, patterns: Iterable[str]) -> bool:
    """Whether a module is one of `patterns` or inside one; "" is the network itself alone."""
    return any(
        fnmatch.fnmatchcase(module, pattern)
        or (pattern and fnmatch.fnmatchcase(module, f"{pattern}.*"))
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
        self._numbers = {tensor.name for tensor in model.graph.initializer if not tensor.dims}
        self._outputs = {value.name for value in model.graph.output}
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                self._readers.setdefault(name, []).append((node, index))
        self._float16_nodes: set[str] = set()
        self._float16_tensors: set[str] = set()
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        """Choose precisions, then put casts where two of them meet."""
        for node in self._model.graph.node:
            if self._may_be_float16(node) and self._is_chosen(node):
                self._mark(node)
        for node in reversed(self._model.graph.node):
            if node.op_type in _EXACT and self._may_be_float16(node) and self._is_read_so(node):
                self._mark(node)
        for node in self._model.graph.node:
            self._rewrite(node)
        replace_nodes(self._model, self._nodes)

    def _may_be_float16(self, node: onnx.NodeProto) -> bool:
        gives = any(self._types.get(name) == TensorProto.FLOAT for name in node.output)
        return gives and not self._outputs.intersection(node.output)

    def _is_chosen(self, node: onnx.NodeProto) -> bool:
        """Whether the rule names the node, or all that it reads is float16."""
        module = module_of(node)
        if node.domain == DOMAIN:
            named = matches(module, self._rule.flow_warp)
            return named or node.input[0] in self._float16_tensors
        if node.op_type in FLOAT32_OPERATORS:
            return False
        named = matches(module, self._rule.modules)
        if node.op_type == "Cast":
            return named
        floats = {node.input[i] for i in self._float_inputs(node)}
        if named:
            return bool(floats)
        # a constant number takes the type of what it meets
        floats -= self._numbers
        return bool(floats) and floats <= self._float16_tensors

    def _is_read_so(self, node: onnx.NodeProto) -> bool:
        """Whether all that reads the node's outputs reads them as float16."""
        readers = [reader for name in node.output for reader in self._readers.get(name, ())]
        return bool(readers) and all(
            reader.name in self._float16_nodes and index in self._float_inputs(reader)
            for reader, index in readers
        )

    def _mark(self, node: onnx.NodeProto) -> None:
        self._float16_nodes.add(node.name)
        outputs = node.output[:1] if node.domain == DOMAIN else node.output
        self._float16_tensors |= {n for n in outputs if self._types.get(n) == TensorProto.FLOAT}

    def _float_inputs(self, node: onnx.NodeProto) -> list[int]:
        """The inputs that take the node's own precision."""
        always = _ALWAYS_FLOAT32.get(node.op_type, ())
        return [
            index
            for index, name in enumerate(node.input)
            if self._types.get(name) == TensorProto.FLOAT and index not in always
        ]

    def _rewrite(self, node: onnx.NodeProto) -> None:
        chosen = node.name in self._float16_nodes
        own = self._float_inputs(node)
        for index, name in enumerate(node.input):
            if self._types.get(name) == TensorProto.FLOAT and node.op_type != "Cast":
                to = TensorProto.FLOAT16 if chosen and index in own else TensorProto.FLOAT
                node.input[index] = self._as(name, to)
        if chosen and node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT16
        self._nodes.append(node)

    def _as(self, name: str, to: int) -> str:
        """The name of a tensor's values in a precision; puts a cast there where there is none."""
        if (to == TensorProto.FLOAT16) == (name in self._float16_tensors):
            return name
        if (name, to) not in self._casts:
            # tensors keep the names that they have in bundles already exported
            suffix = "half" if to == TensorProto.FLOAT16 else "float"
            target = self._names.new(f"{name}_{suffix}")
            self._casts[name, to] = target
            if name in self._constants:
                self._model.graph.initializer.append(_rounded(self._constants[name], target))
            else:
                self._nodes.append(
                    helper.make_node("Cast", [name], [target], self._names.new(target), to=to)
                )
        return self._casts[name, to]


def _rounded(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= LARGEST:
        raise ExportError(
            Code.EXPORT_INACCURATE,
            f"the weight {tensor.name} holds {largest:.4g}",
            expected=f"at most {LARGEST:.0f}, where float16 ends",
            fix=_FIX,
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


#: `x` rounded to the 11 bits of a float16, by Veltkamp's splitting of a 24-bit float32, and its
#: largest magnitude, infinity where a value is not a number.
_ROUND: Final = """
<opset_import: ["" : 18], domain: "emulation">
Round (x) => (rounded, largest) {
    factor = Constant <value_float: float = 8193.0> ()
    infinity = Constant <value_float: float = inf> ()
    scaled = Mul (x, factor)
    rest = Sub (scaled, x)
    rounded = Sub (scaled, rest)
    nan = IsNaN (x)
    size = Abs (x)
    sizes = Where (nan, infinity, size)
    largest = ReduceMax <keepdims: int = 0> (sizes)
}
"""


class Emulation:
    """A float16 graph, run in float32 with every float16 tensor rounded as float16 is.

    ONNX Runtime's CPU kernels are float32, and it drops casts between two of them: run as it is,
    a float16 graph neither rounds nor overflows there. Sums are in float32, as in a GPU's tensor
    cores; a tensor that a GPU fuses away is rounded here all the same.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        emulated = copy.deepcopy(model)
        self._outputs = [value.name for value in model.graph.output]
        #: The node by the output that holds its largest magnitude.
        self._probes: dict[str, str] = {}
        names = Names(model)
        types = types_of(model)
        nodes: list[onnx.NodeProto] = []
        for node in emulated.graph.node:
            nodes.append(node)
            rounded = [i for i, n in enumerate(node.output) if types.get(n) == TensorProto.FLOAT16]
            if rounded and node.op_type == "Cast":
                node.attribute[0].i = TensorProto.FLOAT
            for index in rounded if node.op_type not in _EXACT else ():
                name = node.output[index]
                node.output[index] = exact = names.new(f"{name}_exact")
                probe = names.new(f"{name}_largest")
                self._probes[probe] = node.name
                nodes.append(helper.make_node("Round", [exact], [name, probe], domain="emulation"))
        for tensor in emulated.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT16:
                values = numpy_helper.to_array(tensor).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        replace_nodes(emulated, nodes)
        emulated.functions.append(onnx.parser.parse_function(_ROUND))
        emulated.opset_import.append(helper.make_opsetid("emulation", 1))
        emulated.graph.output.extend(
            helper.make_tensor_value_info(probe, TensorProto.FLOAT, []) for probe in self._probes
        )
        self._session = open_session(emulated)

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.generic]]
    ) -> tuple[dict[str, npt.NDArray[np.generic]], float]:
        """The outputs by name, and the largest magnitude that a float16 tensor took.

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
                    Code.EXPORT_INACCURATE,
                    f"the layer {node} reaches {reached} in float16, so nothing was written",
                    expected=f"at most {LARGEST:.0f}, where float16 ends",
                    fix=f"{_FIX} ({node.rpartition('/')[0]!r}), or train with smaller activations",
                )
        return outputs, max(magnitudes, default=0.0)
