"""float16 graphs of networks that are not this package's own: NVIDIA's ModelOpt chooses.

AutoCast runs a graph on samples and keeps in float32 what takes large values. It reads and writes
ONNX files and needs no GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner

from garment_transfer.bundle import Code, ExportError, Stage
from garment_transfer.models.flow_warp import DOMAIN


def convert_by_autocast(
    stage: Stage, model: onnx.ModelProto, samples: Sequence[Mapping[str, npt.NDArray[np.generic]]]
) -> onnx.ModelProto:
    """The float16 graph of a stage by AutoCast, with every sample for calibration.

    Inputs and outputs keep their types. AutoCast knows no local functions, so FlowWarp's body is
    inlined; it stays float32, and no kernel or plugin takes it up.

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
