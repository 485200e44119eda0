"""Export: three ONNX graphs from three networks, compared with them, and the bundle's manifest."""

import importlib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from garment_transfer.bundle import (
    CLASSES,
    MANIFEST,
    STAGES,
    Accuracy,
    Bundle,
    Checkpoint,
    ExportError as ExportError,
    OutputError,
    Parity,
    Signature,
    Size,
    contract,
    read_json,
    replacing_folder,
    sha256_of,
    write_manifest,
)
from garment_transfer.export import float16
from garment_transfer.export.flow_warp import OPSET, attach_flow_warp
from garment_transfer.export.passes import (
    align_channels,
    expand_masks,
    name_nodes,
    share_constants,
    shrink_constants,
    uint8_at_the_border,
)
from garment_transfer.models.checkpoint import load_checkpoint

Arrays = dict[str, NDArray]

#: What counts as equal, by the unit of an output, and the share of values that has to be.
TOLERANCE = {"image": 1.0, "warped_garment": 1.0, "flow": 0.05, "transfer_parsing": 0.0}
SHARE_WITHIN_TOLERANCE = 0.999

#: A checkpoint's path to the preset's name and the networks by stage.
Factory = Callable[[Path], tuple[str, dict[str, nn.Module]]]


#: Turns a stage's float32 graph into its float16 graph, given its inputs for every sample.
HalfMaker = Callable[[str, onnx.ModelProto, Sequence[Arrays]], onnx.ModelProto]


def listed_half(stage: str, model: onnx.ModelProto, samples: Sequence[Arrays]) -> onnx.ModelProto:
    """The float16 graph of one of this package's own networks, by `float16.json`."""
    return float16.to_float16(model, float16.rules()[stage])


def export_bundle(
    checkpoint: Path,
    output: Path,
    *,
    size: Size,
    people: Sequence[Arrays] = (),
    factory: Factory = load_checkpoint,
    half: HalfMaker | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Write the bundle of a checkpoint, complete and compared with torch, or nothing.

    Args:
        checkpoint: weights, as `garment-transfer train` writes them.
        output: the bundle's folder; it must not exist yet, or be a bundle, which is replaced.
        size: height and width of the graphs, both divisible by 32.
        people: label maps and photos at `size` to compare on, each with the contract's names
            (`person_image`, `person_parsing`, ... without a batch axis); random ones are added.
        factory: what makes networks of the contract from `checkpoint`; this package's own by
            default. Anybody's networks can be exported so.
        half: adds float16 graphs, made by `listed_half` or `autocast.autocast_half`.
        report: gets a line per step.

    Raises:
        ExportError: a stage is missing, a graph differs from its network by more than
            `TOLERANCE` on more than 0.1 % of the pixels of any sample, or a layer of a float16
            graph takes values on a sample that float16 does not hold.
        OutputError: `output` cannot be written or holds something else.
    """
    if size.height % 32 or size.width % 32:
        raise ExportError(f"size {size}: height and width have to be divisible by 32")
    if output.exists() and not _is_bundle(output):
        raise OutputError(
            f"{output} exists and is not a bundle alone (a manifest, its graphs, engines): "
            "choose another --output"
        )
    preset, networks = factory(checkpoint)
    missing = [stage for stage in STAGES if stage not in networks]
    if missing:
        raise ExportError(
            f"{checkpoint} has no weights for {', '.join(missing)}; it has {', '.join(networks)}. "
            "Train the rest with `garment-transfer train`"
        )
    with replacing_folder(output) as folder:
        _write(folder, output.name, checkpoint, preset, networks, size, people, half, report)
    return Bundle.load(output)


def _is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle and nothing else, so that replacing it loses nothing."""
    try:
        manifest = read_json(folder / MANIFEST)
        variants = manifest.get("variants", {}).values()
        graphs = {
            graph["file"]
            for graphs in (manifest["graphs"], *(variant["graphs"] for variant in variants))
            for graph in graphs.values()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return {path.name for path in folder.iterdir()} <= graphs | {MANIFEST, "engines"}


def load_factory(name: str) -> Factory:
    """The factory that `package.module:function` names.

    Raises:
        ExportError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExportError(
            f"factory {name!r} cannot be loaded ({error}); expected package.module:function"
        ) from error


def _write(
    folder: Path,
    name: str,
    checkpoint: Path,
    preset: str,
    networks: Mapping[str, nn.Module],
    size: Size,
    people: Sequence[Arrays],
    half: HalfMaker | None,
    report: Callable[[str], None],
) -> None:
    signatures = contract(size)
    samples = [*people, *_random_people(size)]
    parity: dict[str, dict[str, Parity]] = {}
    description = f"{len(people)} pairs of people and {len(samples) - len(people)} random ones"
    # each stage is compared on what torch's stages before it gave, so that a difference is its own
    known: list[Arrays] = [{k: v[None] for k, v in sample.items()} for sample in samples]
    for stage in STAGES:
        network = networks[stage].eval()
        file = folder / f"{stage}.onnx"
        report(f"{stage}: exporting")
        model = to_onnx(network, signatures[stage], size)
        onnx.save(model, file)
        report(f"{stage}: comparing with torch")
        parity[stage] = _compare(file, network, signatures[stage], known, description)
        if half:
            report(f"{stage}: converting to float16")
            onnx.save(half(stage, model, known), folder / f"{stage}.float16.onnx")
    accuracy = {}
    if half:
        report("comparing float16 with float32")
        accuracy["float16"] = _accuracy(folder, size, known, description)
    write_manifest(
        folder,
        name=name,
        size=size,
        opset=OPSET,
        parity=parity,
        versions={
            module.__name__: str(module.__version__) for module in (torch, onnx, onnxruntime)
        },
        checkpoint=Checkpoint(
            preset=preset,
            sha256=sha256_of(checkpoint),
            parameters={
                stage: sum(p.numel() for p in networks[stage].parameters()) for stage in STAGES
            },
        ),
        accuracy=accuracy,
    )


def to_onnx(network: nn.Module, signature: Signature, size: Size) -> onnx.ModelProto:
    """The ONNX graph of a stage's network: opset 18, batch dynamic, FlowWarp a local function.

    Nodes are named after the network's modules; uint8 is a type of inputs and outputs alone.

    Raises:
        ExportError: names, types or shapes of the graph are not the contract's.
    """
    example = tuple(
        torch.zeros(
            [2 if axis == "N" else int(axis) for axis in tensor.shape],
            dtype=getattr(torch, tensor.dtype),
        )
        for tensor in signature.inputs
    )
    batch = torch.export.Dim("N", min=1, max=1024)
    # they report every package that they do not find and every constant that they do not fold
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=[tensor.name for tensor in signature.inputs],
                output_names=[tensor.name for tensor in signature.outputs],
                dynamic_shapes=tuple({0: batch} for _ in example),
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None  # torch returns None only when it writes a file itself
    model = program.model_proto
    attach_flow_warp(model)
    name_nodes(model)
    _strip(model)
    uint8_at_the_border(model)
    align_channels(model)
    expand_masks(model)
    share_constants(model)
    shrink_constants(model)
    onnx.checker.check_model(model, full_check=True)
    _check_signature(model, signature, size)
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes of this machine's source files: paths and stack traces."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        value.ClearField("metadata_props")


def _check_signature(model: onnx.ModelProto, signature: Signature, size: Size) -> None:
    for values, tensors in (
        (model.graph.input, signature.inputs),
        (model.graph.output, signature.outputs),
    ):
        for value, tensor in zip(values, tensors, strict=True):
            kind = value.type.tensor_type
            shape = tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
            if (value.name, dtype, shape) != (tensor.name, tensor.dtype, tensor.shape):
                raise ExportError(
                    f"the graph has {value.name} {dtype} {list(shape)}; "
                    f"the contract at {size} has {tensor}"
                )


def _compare(
    file: Path,
    network: nn.Module,
    signature: Signature,
    known: Sequence[Arrays],
    description: str,
) -> dict[str, Parity]:
    """Run graph and network on every sample; adds torch's outputs to the samples."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    differences: dict[str, list[NDArray]] = {tensor.name: [] for tensor in signature.outputs}
    for arrays in known:
        inputs = {tensor.name: arrays[tensor.name] for tensor in signature.inputs}
        with torch.inference_mode():
            result = network(*(torch.tensor(value) for value in inputs.values()))
        results = result if isinstance(result, tuple) else (result,)
        found = session.run([tensor.name for tensor in signature.outputs], inputs)
        for tensor, due, value in zip(signature.outputs, results, found, strict=True):
            arrays[tensor.name] = due.numpy()
            differences[tensor.name].append(_per_pixel(tensor.name, value, arrays[tensor.name]))
    parity = {}
    for name, samples in differences.items():
        for sample, values in enumerate(samples):
            share = float((values <= TOLERANCE[name]).mean())
            # a single value that is not finite is one too many
            if not np.isfinite(values).all() or share < SHARE_WITHIN_TOLERANCE:
                raise ExportError(
                    f"{file.name}: {name} differs from torch by more than {TOLERANCE[name]} on "
                    f"{1 - share:.2%} of the pixels of sample {sample} (largest difference "
                    f"{values.max():.4g}); at most {1 - SHARE_WITHIN_TOLERANCE:.1%} may. "
                    "Nothing was written"
                )
        everything = np.concatenate([values.ravel() for values in samples])
        parity[name] = Parity(
            max_abs_difference=float(everything.max()),
            tolerance=TOLERANCE[name],
            share_within_tolerance=float((everything <= TOLERANCE[name]).mean()),
            inputs=description,
        )
    return parity


def _accuracy(folder: Path, size: Size, samples: Sequence[Arrays], description: str) -> Accuracy:
    """Run the float16 graphs in a row, each on what those before it gave, against float32."""
    stages = {}
    for stage in STAGES:
        file = folder / f"{stage}.float16.onnx"
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])  # it loads as it is
        stages[stage] = float16.Emulation(onnx.load(file))
    signatures = contract(size)
    errors: dict[str, list[float]] = {"image": [], "warped_garment": [], "transfer_parsing": []}
    flow_difference, largest = 0.0, 0.0
    for sample in samples:
        outputs = {tensor for signature in signatures.values() for tensor in signature.outputs}
        arrays = {k: v for k, v in sample.items() if k not in {t.name for t in outputs}}
        for stage, signature in signatures.items():
            found, magnitude = stages[stage].run({t.name: arrays[t.name] for t in signature.inputs})
            arrays.update(found)
            largest = max(largest, magnitude)
        for name, values in errors.items():
            difference = arrays[name].astype(np.float64) - sample[name]
            labels = name == "transfer_parsing"
            values.append(float(((difference != 0) if labels else difference**2).mean()))
        flow_difference = max(flow_difference, float(np.abs(arrays["flow"] - sample["flow"]).max()))
    if not np.isfinite(flow_difference):
        raise ExportError("float16: the flow of warping is not finite. Nothing was written")

    def psnr(name: str) -> float:
        return float(min(100.0, 10 * np.log10(255**2 / max(float(np.mean(errors[name])), 1e-12))))

    return Accuracy(
        different_labels=float(np.mean(errors["transfer_parsing"])),
        image_psnr=psnr("image"),
        warped_garment_psnr=psnr("warped_garment"),
        flow_difference=flow_difference,
        largest_activation=largest,
        inputs=f"{description}, through all three graphs",
    )


def _per_pixel(name: str, found: NDArray, due: NDArray) -> NDArray[np.float64]:
    """Largest difference over each pixel's channels, [N,H,W]; for labels, 1 where they differ."""
    difference = np.abs(found.astype(np.float64) - due)
    if name == "transfer_parsing":
        return (difference > 0).astype(np.float64)
    return difference.max(axis=1 if name == "flow" else -1)


def _random_people(size: Size) -> list[Arrays]:
    """Two pairs that look like nobody: labels in random blocks, colours and U, V at random."""
    random = np.random.default_rng(0)
    shape = (size.height, size.width)

    def blocks(values: int, side: int) -> NDArray:
        small = random.integers(values, size=(-(-shape[0] // side), -(-shape[1] // side)))
        large = np.repeat(np.repeat(small, side, axis=0), side, axis=1)
        return large[: shape[0], : shape[1]].astype(np.uint8)

    people = []
    for side in (1, 16):
        arrays: Arrays = {}
        for who in ("person", "garment"):
            arrays[f"{who}_image"] = random.integers(256, size=(*shape, 3), dtype=np.uint8)
            arrays[f"{who}_parsing"] = blocks(len(CLASSES), side)
            iuv = random.integers(256, size=(*shape, 3), dtype=np.uint8)
            iuv[..., 0] = blocks(25, side)
            arrays[f"{who}_densepose"] = iuv
        people.append(arrays)
    return people
