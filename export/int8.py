"""The int8 graph of a stage: its convolutions on 8-bit integers, quantised after training (QDQ).

Weights have a scale per channel, activations one per tensor from the largest magnitude on the
samples, and zero points lie in the middle: 128 of uint8 in the bundle, which processors with VNNI
multiply fastest, 0 of int8 in TensorRT's form (`for_tensorrt`), which computes the same.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from garment_transfer.bundle import Code, ExportError, Stage
from garment_transfer.export.passes import open_session, quiet, replace_nodes

if TYPE_CHECKING:
    from onnxruntime.quantization import TensorsData

Arrays = Mapping[str, npt.NDArray[np.generic]]

#: What int8 graphs have to reach against float32: share of labels that differ, dB of pictures.
MOST_DIFFERENT_LABELS: Final = 0.003
LEAST_PSNR: Final = 38.0

_MIDDLE: Final = 128


def convert_to_int8(
    stage: Stage, model: onnx.ModelProto, samples: Sequence[Arrays]
) -> onnx.ModelProto:
    """The int8 graph of a stage.

    All convolutions are quantised where the stage's outputs then keep `MOST_DIFFERENT_LABELS` and
    `LEAST_PSNR`; otherwise those stay float32 that lose the most when they alone are quantised.

    Args:
        stage: whose graph it is.
        model: the float32 graph; its nodes have names.
        samples: its inputs for people like those to come, by name, with a batch axis; the ranges
            of activations are taken from them.

    Raises:
        ExportError: no choice of layers keeps these limits (`export_inaccurate`).
    """
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    inputs = [value.name for value in model.graph.input]
    given = [{name: sample[name] for name in inputs} for sample in samples]
    float32 = Session(model)
    expected = [float32.run(arrays)[0] for arrays in given]

    def loss(candidate: onnx.ModelProto) -> float:
        graph = Session(candidate)
        return max(_loss(graph.run(x)[0], due) for x, due in zip(given, expected, strict=True))

    ranges = _ranges(model, given)
    quantised = _quantise(model, ranges, convolutions)
    found = loss(quantised)
    if found > 1:
        alone = {name: loss(_quantise(model, ranges, [name])) for name in convolutions}
        convolutions.sort(key=lambda name: alone[name])
    while found > 1 and len(convolutions) > 1:
        del convolutions[-max(1, len(convolutions) // 8) :]
        quantised = _quantise(model, ranges, convolutions)
        found = loss(quantised)
    if found > 1:
        raise ExportError(
            Code.EXPORT_INACCURATE,
            f"{stage}: with a single convolution in int8 the outputs are off {found:.1f} times as "
            "far as they may be",
            expected=f"at most {MOST_DIFFERENT_LABELS:.1%} of labels that differ and at least "
            f"{LEAST_PSNR:.0f} dB",
            fix="export without --precision int8",
        )
    return quantised


def _ranges(model: onnx.ModelProto, samples: Sequence[Arrays]) -> TensorsData:
    """The ranges that what convolutions read and give has on the samples."""
    from onnxruntime.quantization import CalibrationDataReader, create_calibrator

    class Samples(CalibrationDataReader):  # type: ignore[misc]  # has no types
        def __init__(self) -> None:
            self._left: Iterator[Arrays] = iter(samples)

        def get_next(self) -> Arrays | None:
            return next(self._left, None)

    with quiet(), tempfile.TemporaryDirectory() as folder:
        file, augmented = Path(folder, "graph.onnx"), Path(folder, "augmented.onnx")
        onnx.save(model, file)
        calibrator = create_calibrator(file, ["Conv"], augmented_model_path=str(augmented))
        calibrator.collect_data(Samples())
        return calibrator.compute_data()


def _quantise(
    model: onnx.ModelProto, ranges: TensorsData, convolutions: Sequence[str]
) -> onnx.ModelProto:
    """A copy of a graph, some convolutions between QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import QDQQuantizer, QuantType

    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=convolutions,
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )
    with quiet():
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    del quantised.metadata_props[:], quantised.graph.value_info[:]
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


class Session:
    """A graph in ONNX Runtime on the CPU."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = open_session(model)
        self._outputs = [value.name for value in model.graph.output]
        self._largest = _largest_value(model)

    def run(self, inputs: Arrays) -> tuple[dict[str, npt.NDArray[np.generic]], float]:
        """The outputs by name, and the largest magnitude that an 8-bit activation holds."""
        values = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, values, strict=True)), self._largest


def _loss(found: Arrays, expected: Arrays) -> float:
    """How far outputs are off, in shares of what they may be; labels and pictures count."""
    losses = [0.0]
    for name, due in expected.items():
        off = found[name].astype(np.float64) - due.astype(np.float64)
        if name == "transfer_parsing":
            losses.append(float((off != 0).mean()) / MOST_DIFFERENT_LABELS)
        elif name in ("image", "warped_garment"):
            losses.append(float(np.sqrt((off**2).mean())) / (255 / 10 ** (LEAST_PSNR / 20)))
    return max(losses)


def _largest_value(model: onnx.ModelProto) -> float:
    """The largest magnitude that an 8-bit activation of an int8 graph holds."""
    constants = _constants(model)
    scales = [
        float(constants[node.input[1]].max())
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    return max(scales, default=0.0) * _MIDDLE


def for_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """An int8 graph as TensorRT takes it: zero points 0, biases float32; the same numbers.

    A graph without 8-bit activations comes back as it is.
    """
    converted = copy.deepcopy(model)
    constants = _constants(model)
    nodes = []
    for node in converted.graph.node:
        quantises = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if quantises and constants[node.input[2]].dtype == np.int32:
            values, scales, _ = (constants[name] for name in node.input)
            bias = np.multiply(values, scales, dtype=np.float64).astype(np.float32)
            tensor = numpy_helper.from_array(bias, node.output[0])
            converted.graph.initializer.append(tensor)
            continue
        nodes.append(node)
    for tensor in converted.graph.initializer:
        if tensor.data_type == TensorProto.UINT8 and tensor.name.endswith("_zero_point"):
            zero = numpy_helper.to_array(tensor).astype(np.int16) - _MIDDLE
            tensor.CopyFrom(numpy_helper.from_array(zero.astype(np.int8), tensor.name))
    replace_nodes(converted, nodes)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def _constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
