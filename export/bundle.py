"""Export: ONNX graphs from networks, compared with them, and the bundle's manifest."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import helper
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from garment_transfer.bundle import (
    CLASSES,
    ENGINES,
    FRAMING,
    MANIFEST,
    MAPS,
    NUM_PARTS,
    STAGES,
    Accuracy,
    Bundle,
    Checkpoint,
    Code,
    ExportError,
    Framing,
    OtherPrecision,
    OutputError,
    Parity,
    Signature,
    Size,
    Stage,
    Tensor,
    contract,
    differences,
    maps_contract,
    replacing_folder,
    sha256_of,
    write_manifest,
)
from garment_transfer.export import float16, int8
from garment_transfer.export.flow_warp import OPSET, attach_flow_warp
from garment_transfer.export.passes import (
    align_channels,
    expand_masks,
    name_nodes,
    quiet,
    share_constants,
    shrink_constants,
    uint8_at_the_border,
)
from garment_transfer.models.checkpoint import load_checkpoint

Arrays = dict[str, npt.NDArray[np.generic]]

#: What counts as equal, by the unit of an output, and the share of values that has to be.
TOLERANCE: Final = {
    "image": 1.0,
    "warped_garment": 1.0,
    "flow": 0.05,
    "flow_confidence": 1.0,
    "transfer_parsing": 0.0,
    "transfer_scores": 1.0,
    "parsing": 0.0,
    "densepose": 1.0,
    "parsing_confidence": 2.0,
    "densepose_confidence": 2.0,
}
#: Outputs that are labels.
_LABELS: Final = ("transfer_parsing", "parsing")
SHARE_WITHIN_TOLERANCE: Final = 0.999

#: A checkpoint's path to the preset's name and the networks by stage.
Factory = Callable[[Path], tuple[str, dict[str, nn.Module]]]

#: Turns a stage's float32 graph into that of another precision, given its inputs for every sample.
Converter = Callable[[Stage, onnx.ModelProto, Sequence[Arrays]], onnx.ModelProto]


def export_bundle(
    checkpoint: Path,
    output: Path,
    *,
    size: Size,
    framing: Framing = FRAMING,
    people: Sequence[Mapping[str, npt.NDArray[np.generic]]] = (),
    factory: Factory = load_checkpoint,
    converters: Mapping[OtherPrecision, Converter] = MappingProxyType({}),
    maps: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Write the bundle of a checkpoint, complete and compared with torch, or nothing.

    Args:
        checkpoint: weights, as `garment-transfer train` writes them.
        output: the bundle's folder; it must not exist yet, or be a bundle, which is replaced.
        size: height and width of the graphs, both divisible by 32.
        framing: how the pictures were framed that the networks were trained on.
        people: label maps and photos at `size` to compare on, each with the contract's names
            (`person_image`, `person_parsing`, ... without a batch axis); random ones are added.
        factory: what makes networks of the contract from `checkpoint`; this package's own by
            default. Anybody's networks can be exported so.
        converters: what makes graphs of other precisions, which are added: for float16
            `float16.convert_by_list` or `float16.convert_by_autocast`, for int8
            `int8.convert_to_int8`, which gets `people` alone.
        maps: a checkpoint that has the weights of the graph `maps`, where `checkpoint` itself has
            none; without any the bundle has no such graph.
        report: gets a line per step.

    Raises:
        ExportError: a stage is missing, a graph differs from its network by more than
            `TOLERANCE` on more than 0.1 % of the pixels of any sample, a layer of a float16 graph
            takes values on a sample that float16 does not hold, or the graphs of another
            precision miss its `MOST_DIFFERENT_LABELS` or `LEAST_PSNR`.
        OutputError: `output` cannot be written or holds something else.
    """
    if size.height % 32 or size.width % 32:
        raise ExportError(
            Code.EXPORT_INVALID,
            f"the size is {size}",
            expected="a height and a width that are divisible by 32",
            fix="give another --size",
        )
    if output.exists() and not _is_bundle(output):
        raise OutputError(
            Code.OUTPUT_EXISTS,
            f"{output} exists and is not a bundle alone",
            expected="nothing there, or a folder of a manifest, its graphs and engines",
            fix="choose another --output",
        )
    preset, networks = factory(checkpoint)
    missing = [stage for stage in STAGES if stage not in networks]
    if missing:
        raise ExportError(
            Code.CHECKPOINT_INVALID,
            f"{checkpoint} has no weights for {', '.join(missing)}; it has {', '.join(networks)}",
            fix="train the rest with `garment-transfer train`",
        )
    seeing = networks if maps is None else load_checkpoint(maps)[1]
    if maps is not None and MAPS not in seeing:
        raise ExportError(
            Code.CHECKPOINT_INVALID,
            f"{maps} has no weights for {MAPS}; it has {', '.join(seeing)}",
            fix=f"train them with `garment-transfer train {MAPS}`",
        )
    samples: list[Arrays] = [
        {k: v[None] for k, v in one.items()} for one in (*people, *_random_people(size))
    ]
    description = f"{len(people)} pairs of people and {len(samples) - len(people)} random ones"
    # ranges of activations are those of people; without any, random ones have to do
    calibration = {"int8": samples[: len(people)] or samples}
    parity: dict[str, dict[str, Parity]] = {}
    with replacing_folder(output) as folder:
        # each stage is compared on what torch's stages before it gave, so that a difference is its
        # own
        for stage, signature in contract(size).items():
            network = networks[stage].eval()
            file = folder / f"{stage}.onnx"
            report(f"{stage}: exporting")
            model = to_onnx(network, signature, size)
            onnx.save(model, file)
            report(f"{stage}: comparing with torch")
            parity[stage] = _compare(file, network, signature, samples, description)
            for precision, converter in converters.items():
                report(f"{stage}: converting to {precision}")
                converted = converter(stage, model, calibration.get(precision, samples))
                onnx.save(converted, folder / f"{stage}.{precision}.onnx")
        found = None
        if MAPS in seeing:
            report(f"{MAPS}: exporting and comparing with torch")
            network, signature = seeing[MAPS].eval(), maps_contract(size)
            onnx.save(to_onnx(network, signature, size), folder / f"{MAPS}.onnx")
            photos: list[Arrays] = [
                {"image": sample[f"{who}_image"]}
                for sample in samples
                for who in ("person", "garment")
            ]
            own = _compare(folder / f"{MAPS}.onnx", network, signature, photos, description)
            found = own, _source(maps or checkpoint, preset, {MAPS: network})
        accuracy: dict[OtherPrecision, Accuracy] = {}
        for precision in converters:
            report(f"comparing {precision} with float32")
            compared = calibration.get(precision, samples)
            inputs = description if compared is samples else f"{len(compared)} pairs of people"
            accuracy[precision] = _accuracy(folder, size, precision, compared, inputs)
        write_manifest(
            folder,
            name=output.name,
            size=size,
            framing=framing,
            opset=OPSET,
            parity=parity,
            versions={
                module.__name__: str(module.__version__) for module in (torch, onnx, onnxruntime)
            },
            checkpoint=_source(checkpoint, preset, {stage: networks[stage] for stage in STAGES}),
            accuracy=accuracy,
            maps=found,
        )
    return Bundle.load(output)


def _source(file: Path, preset: str, networks: Mapping[str, nn.Module]) -> Checkpoint:
    """Where the weights of networks come from."""
    parameters = {n: sum(p.numel() for p in net.parameters()) for n, net in networks.items()}
    return Checkpoint(preset=preset, sha256=sha256_of(file), parameters=parameters)


def _is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle and nothing else, so that replacing it loses nothing."""
    if not folder.is_dir():
        return False
    graphs = {f"{stage}{suffix}.onnx" for stage in STAGES for suffix in ("", ".float16", ".int8")}
    graphs.add(f"{MAPS}.onnx")
    names = {path.name for path in folder.iterdir()}
    # one that lacks a graph is replaced too: that is how it is repaired
    return MANIFEST in names and bool(names & graphs) and names <= {MANIFEST, ENGINES, *graphs}


def load_factory(name: str) -> Factory:
    """The factory that `package.module:function` names.

    Raises:
        ExportError: there is no such module or function.
    """
    try:
        factory: Factory = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExportError(
            Code.EXPORT_INVALID,
            f"the factory {name!r} cannot be loaded ({error})",
            expected="package.module:function",
        ) from error
    return factory


def export_program(
    network: nn.Module, example: tuple[torch.Tensor, ...], **options: Any
) -> torch.onnx.ONNXProgram:
    """What torch's exporter makes of a network; `options` are those of `torch.onnx.export`."""
    with quiet():
        program = torch.onnx.export(
            network, example, dynamo=True, opset_version=OPSET, verbose=False, **options
        )
    assert program is not None  # torch returns None only when it writes a file itself
    return program


def to_onnx(network: nn.Module, signature: Signature, size: Size) -> onnx.ModelProto:
    """The ONNX graph of a stage's network: opset 18, batch dynamic, FlowWarp a local function.

    Nodes are named after the network's modules; uint8 is a type of inputs and outputs alone.

    Raises:
        ExportError: names, types or shapes of the graph are not the contract's.
    """
    example = tuple(
        torch.zeros(tensor.shape_of(2), dtype=getattr(torch, tensor.dtype))
        for tensor in signature.inputs
    )
    batch = torch.export.Dim("N", min=1, max=1024)
    program = export_program(
        network,
        example,
        input_names=[tensor.name for tensor in signature.inputs],
        output_names=[tensor.name for tensor in signature.outputs],
        dynamic_shapes=tuple({0: batch} for _ in example),
    )
    name_nodes(program.model)
    # paths and stack traces of this machine's source files
    ClearMetadataAndDocStringPass()(program.model)
    program.model.metadata_props.clear()
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        value.metadata_props.clear()
    model = program.model_proto
    attach_flow_warp(model)
    uint8_at_the_border(model)
    align_channels(model)
    expand_masks(model)
    share_constants(model)
    shrink_constants(model)
    onnx.checker.check_model(model, full_check=True)
    found = Signature(_tensors(model.graph.input), _tensors(model.graph.output))
    if found != signature:
        raise ExportError(
            Code.CONTRACT_MISMATCH,
            f"the graph does not keep the contract at size {size}: "
            f"{differences(signature, found) or 'its tensors are in another order'}",
        )
    return model


def _tensors(values: Sequence[onnx.ValueInfoProto]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            value.name,
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim),
        )
        for value in values
    )


def _compare(
    file: Path,
    network: nn.Module,
    signature: Signature,
    samples: Sequence[Arrays],
    description: str,
) -> dict[str, Parity]:
    """Run graph and network on every sample; adds torch's outputs to the samples."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in signature.outputs]
    found: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in names}
    for index, arrays in enumerate(samples):
        inputs = {tensor.name: arrays[tensor.name] for tensor in signature.inputs}
        with torch.inference_mode():
            result = network(*(torch.tensor(value) for value in inputs.values()))
        results = result if isinstance(result, tuple) else (result,)
        for name, expected, value in zip(names, results, session.run(names, inputs), strict=True):
            arrays[name] = expected.numpy()
            values = _per_pixel(name, value, arrays[name])
            found[name].append(values)
            share = float((values <= TOLERANCE[name]).mean())
            # a single value that is not finite is one too many
            if not np.isfinite(values).all() or share < SHARE_WITHIN_TOLERANCE:
                raise ExportError(
                    Code.EXPORT_INACCURATE,
                    f"{file.name}: {name} differs from torch by more than {TOLERANCE[name]} on "
                    f"{1 - share:.2%} of the pixels of sample {index} (largest difference "
                    f"{values.max():.4g}), so nothing was written",
                    expected=f"at most {1 - SHARE_WITHIN_TOLERANCE:.1%}",
                )
    parity = {}
    for name, differing in found.items():
        everything = np.concatenate([values.ravel() for values in differing])
        parity[name] = Parity(
            max_abs_difference=float(everything.max()),
            tolerance=TOLERANCE[name],
            share_within_tolerance=float((everything <= TOLERANCE[name]).mean()),
            inputs=description,
        )
    return parity


def _accuracy(
    folder: Path, size: Size, precision: OtherPrecision, samples: Sequence[Arrays], description: str
) -> Accuracy:
    """The graphs of a precision in a row, each on what those before it gave, against float32."""
    stages: dict[Stage, float16.Emulation | int8.Session] = {}
    for stage in STAGES:
        file = folder / f"{stage}.{precision}.onnx"
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])  # it loads as it is
        runner = float16.Emulation if precision == "float16" else int8.Session
        stages[stage] = runner(onnx.load(file))
    limits = float16 if precision == "float16" else int8
    errors: dict[str, list[float]] = {"image": [], "warped_garment": [], "transfer_parsing": []}
    flow_difference, largest = 0.0, 0.0
    for sample in samples:
        arrays = dict(sample)
        for stage, signature in contract(size).items():
            found, magnitude = stages[stage].run({t.name: arrays[t.name] for t in signature.inputs})
            arrays.update(found)
            largest = max(largest, magnitude)
        for name, values in errors.items():
            difference = arrays[name].astype(np.float64) - sample[name].astype(np.float64)
            labels = name == "transfer_parsing"
            values.append(float(((difference != 0) if labels else difference**2).mean()))
        moved = _per_pixel("flow", arrays["flow"], sample["flow"])
        flow_difference = max(flow_difference, float(moved.max()))

    def psnr(name: str) -> float:
        return float(min(100.0, 10 * np.log10(255**2 / max(float(np.mean(errors[name])), 1e-12))))

    accuracy = Accuracy(
        different_labels=float(np.mean(errors["transfer_parsing"])),
        image_psnr=psnr("image"),
        warped_garment_psnr=psnr("warped_garment"),
        flow_difference=flow_difference,
        largest_activation=largest,
        inputs=f"{description}, through all three graphs",
    )
    if (
        accuracy.different_labels > limits.MOST_DIFFERENT_LABELS
        or accuracy.image_psnr < limits.LEAST_PSNR
        or not np.isfinite(flow_difference)
    ):
        raise ExportError(
            Code.EXPORT_INACCURATE,
            f"the {precision} graphs differ from float32 in {accuracy.different_labels:.4%} of "
            "labels, "
            f"image has a PSNR of {accuracy.image_psnr:.1f} dB and flow differs by up to "
            f"{flow_difference:.4g} pixels, so nothing was written",
            expected=f"at most {limits.MOST_DIFFERENT_LABELS:.1%} of labels, at least "
            f"{limits.LEAST_PSNR:.0f} dB "
            "and a finite flow",
            fix="export without it, or take modules out of export/float16.json where it is float16",
        )
    return accuracy


def _per_pixel(
    name: str, found: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]
) -> npt.NDArray[np.float64]:
    """Largest difference over each pixel's channels, [N,H,W]; for labels, 1 where they differ."""
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    if difference.ndim == 3:
        return np.sign(difference) if name in _LABELS else difference
    return np.asarray(difference.max(axis=1 if name == "flow" else -1))


def _random_people(size: Size) -> list[Arrays]:
    """Two pairs that look like nobody: labels in random blocks, colours and U, V at random."""
    random = np.random.default_rng(0)
    shape = (size.height, size.width)

    def blocks(values: int, side: int) -> npt.NDArray[np.uint8]:
        small = random.integers(values, size=(size.height // side, size.width // side))
        return np.kron(small, np.ones((side, side))).astype(np.uint8)

    people = []
    for side in (1, 16):
        arrays: Arrays = {}
        for who in ("person", "garment"):
            arrays[f"{who}_image"] = random.integers(256, size=(*shape, 3), dtype=np.uint8)
            arrays[f"{who}_parsing"] = blocks(len(CLASSES), side)
            iuv = random.integers(256, size=(*shape, 3), dtype=np.uint8)
            iuv[..., 0] = blocks(NUM_PARTS, side)
            arrays[f"{who}_densepose"] = iuv
        people.append(arrays)
    return people
