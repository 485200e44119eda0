"""Bundles: a folder with `manifest.json`, one ONNX graph per stage, and perhaps `maps.onnx`.

docs/bundle.md specifies the format, and the structs of this file define it: msgspec reads and
checks JSON by them, writes it, and makes `manifest.schema.json` of them. Sizes and hashes prove
that a bundle is whole, not that it can be trusted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias, get_args

from msgspec import Meta, Struct, structs

from garment_transfer.bundle._contract import (
    FRAMING,
    MAPS,
    STAGES,
    Framing,
    Signature,
    Size,
    Stage,
    Tensor,
    contract,
    differences,
    maps_contract,
)
from garment_transfer.bundle._errors import BundleError, Code
from garment_transfer.bundle._files import as_path
from garment_transfer.bundle._json import (
    MAX_INTEGER,
    Count,
    FileName,
    InvalidFile,
    Number,
    Positive,
    Sha256,
    Share,
    Text,
    Time,
    TooNewFile,
    TooOldFile,
    now,
    read_struct,
    write_struct,
)
from garment_transfer.bundle._labels import CLASSES
from garment_transfer.bundle._version import package_version

MANIFEST: Final = "manifest.json"
#: The schema that this release reads and writes; it goes with the contract of the graphs.
SCHEMA_VERSION: Final = 4
#: In ONNX's protobuf, the entry of a tensor that says in which file its data are.
_EXTERNAL: Final = b"\x0a\x08location\x12"

_FIX: Final = (
    "copy the bundle again from where it came, or write it anew with "
    "`garment-transfer export CHECKPOINT -o BUNDLE`"
)

Precision: TypeAlias = Literal["float32", "float16", "int8"]

#: Precisions of graphs that lie beside the main ones.
OtherPrecision: TypeAlias = Literal["float16", "int8"]

PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


class Graph(Struct, frozen=True, forbid_unknown_fields=True):
    """A graph file of a bundle: its name in the folder, size in bytes, hash and signature."""

    file: FileName
    bytes: Positive
    sha256: Sha256
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]
    outputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]

    @property
    def signature(self) -> Signature:
        """What the graph takes and gives."""
        return Signature(self.inputs, self.outputs)


def is_whole(file: Graph, content: bytes) -> bool:
    """Whether a file's content has the size and the hash that a manifest or a record says."""
    return len(content) == file.bytes and hashlib.sha256(content).hexdigest() == file.sha256


#: One for each of the three stages.
Graphs = Annotated[dict[Stage, Graph], Meta(min_length=3)]


class Parity(Struct, frozen=True, forbid_unknown_fields=True):
    """How near one output of an exported graph comes to the network it was exported from.

    Differences are in the output's own unit: grey levels for images, pixels for the flow. For
    label maps the tolerance is 0, so that `share_within_tolerance` is the share of equal labels.
    """

    max_abs_difference: Number
    tolerance: Number
    share_within_tolerance: Share
    inputs: Annotated[Text, Meta(description="What was compared.")]


class Accuracy(Struct, frozen=True, forbid_unknown_fields=True):
    """How near the graphs of a variant come to the float32 graphs on the same inputs.

    `different_labels` is the share of labels of `transfer_parsing` that differ, PSNRs are in dB
    over all samples (capped at 100 for equal ones), `flow_difference` is the largest difference
    of `flow` in pixels. `largest_activation` is the largest magnitude that any tensor inside the
    float16 graphs took, where float16 ends at 65504; of int8 graphs, the largest that an 8-bit
    tensor holds.
    """

    different_labels: Share
    image_psnr: float
    warped_garment_psnr: float
    flow_difference: Number
    largest_activation: Number
    inputs: Annotated[Text, Meta(description="What was compared.")]


class Variant(Struct, frozen=True, forbid_unknown_fields=True):
    """The same stages in another precision: graphs of the same contract, and how near they come."""

    graphs: Graphs
    accuracy: Accuracy


class Producer(Struct, frozen=True, forbid_unknown_fields=True):
    """The package that wrote a bundle."""

    package: Text
    version: Text


class Checkpoint(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the weights come from: preset, hash of the checkpoint, parameters per stage."""

    preset: Text
    sha256: Sha256
    parameters: dict[str, Count]


class MapsGraph(Graph, frozen=True):
    """The graph `maps`, float32: how near it comes to its network by output, and whose it is."""

    parity: Annotated[dict[str, Parity], Meta(min_length=1)]
    checkpoint: Checkpoint


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The contents of `manifest.json`."""

    schema_version: Literal[4]
    name: Text
    producer: Producer
    created: Time
    size: Size
    framing: Framing
    precision: Precision
    opset: Annotated[int, Meta(ge=16, le=MAX_INTEGER)]
    graphs: Graphs
    parity: Annotated[
        dict[Stage, Annotated[dict[str, Parity], Meta(min_length=1)]], Meta(min_length=3)
    ]
    versions: dict[str, str]
    checkpoint: Checkpoint
    classes: Annotated[
        tuple[str, ...], Meta(description="Names of the classes in the order of their ids.")
    ]
    variants: Annotated[
        dict[OtherPrecision, Variant], Meta(description="The same stages in other precisions.")
    ] = {}
    maps: Annotated[
        MapsGraph | None, Meta(description="The graph that makes the maps of bare photos.")
    ] = None

    def __post_init__(self) -> None:
        if self.classes != CLASSES:
            raise ValueError(f"Expected classes {', '.join(CLASSES)}")

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions in which the bundle has its graphs, the main one first."""
        return (self.precision, *self.variants)

    def graphs_of(self, precision: str | None = None) -> Mapping[Stage, Graph]:
        """The graphs by stage in a precision, the main one for None.

        Raises:
            BundleError: the bundle has no graphs of that precision (`precision_missing`).
        """
        if precision is None or precision == self.precision:
            return self.graphs
        for name, variant in self.variants.items():
            if name == precision:
                return variant.graphs
        raise BundleError(
            Code.PRECISION_MISSING,
            f"the bundle {self.name} has no {precision} graphs",
            expected=f"one of {', '.join(self.precisions)}",
            fix="export it anew with `garment-transfer export CHECKPOINT -o BUNDLE --precision "
            f"{precision}`",
        )


class Bundle(Struct, frozen=True):
    """A bundle that was found whole and valid."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads and verifies the bundle in the folder `path`: manifest, contract, sizes, hashes.

        Raises:
            BundleError: the folder is not a bundle, the manifest is not valid or of a newer schema,
                or a graph is missing, truncated or altered.
            InputError: `path` is no path.
        """
        folder = as_path(path, "the bundle")
        bundle = cls(folder, _read_manifest(folder))
        for precision in bundle.manifest.precisions:
            for stage in bundle.manifest.graphs_of(precision):
                bundle.read_graph(stage, precision)
        if bundle.manifest.maps is not None:
            bundle.read_maps()
        return bundle

    def graph_path(self, stage: Stage, precision: str | None = None) -> Path:
        """The ONNX file of a stage, in the main precision or another that the bundle has."""
        return self.path / self.manifest.graphs_of(precision)[stage].file

    def read_graph(self, stage: Stage, precision: str | None = None) -> bytes:
        """The bytes of a stage's ONNX file, whose size and hash are the manifest's.

        Who loads these bytes loads what was verified; the file may have changed a moment later.

        Raises:
            BundleError: the file is missing, truncated or altered.
        """
        return self._read(self.manifest.graphs_of(precision)[stage])

    def read_maps(self) -> bytes:
        """As `read_graph`, of the graph `maps`, which the bundle has to have.

        Raises:
            BundleError: the bundle has none, or its file is missing, truncated or altered.
        """
        if self.manifest.maps is None:
            raise BundleError(
                Code.GRAPH_MISSING,
                f"the bundle {self.manifest.name} has no graph {MAPS}, which makes maps of photos",
                fix="give people as folders with their maps, which `garment-transfer prepare "
                "--parser --densepose` makes, or export a checkpoint with weights for it",
            )
        return self._read(self.manifest.maps)

    def _read(self, graph: Graph) -> bytes:
        path = self.path / graph.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(
                Code.GRAPH_MISSING,
                f"{path}, which the manifest lists, cannot be read: {error.strerror}",
                fix=_FIX,
            ) from error
        if len(content) < graph.bytes:
            raise BundleError(
                Code.GRAPH_TRUNCATED,
                f"{path} is truncated: it has {len(content)} bytes",
                expected=f"{graph.bytes} by the manifest",
                fix=_FIX,
            )
        if not is_whole(graph, content):
            raise BundleError(
                Code.GRAPH_ALTERED,
                f"{path} was altered: its size ({len(content)} bytes) or its SHA-256 is not the "
                "manifest's",
                expected=f"{graph.bytes} bytes, SHA-256 {graph.sha256}",
                fix=_FIX,
            )
        if _EXTERNAL in content:
            raise BundleError(
                Code.GRAPH_ALTERED,
                f"{path} keeps weights in another file, which no hash of the manifest covers",
                expected="graphs with their weights inside",
                fix="save the graph again with its weights in it, and write the manifest anew",
            )
        return content


def write_manifest(
    folder: str | os.PathLike[str],
    *,
    name: str,
    size: Size,
    framing: Framing = FRAMING,
    opset: int,
    parity: Mapping[str, Mapping[str, Parity]],
    versions: Mapping[str, str],
    checkpoint: Checkpoint,
    accuracy: Mapping[OtherPrecision, Accuracy] | None = None,
    maps: tuple[Mapping[str, Parity], Checkpoint] | None = None,
) -> Manifest:
    """Writes `manifest.json` for the graphs `<stage>.onnx` that already lie in `folder`.

    For each precision in `accuracy` the graphs `<stage>.<precision>.onnx` lie there too, and
    `maps.onnx` where its parity and checkpoint are given. Sizes and hashes are taken from the
    files, inputs and outputs from the contract. The manifest replaces an older one atomically.

    Raises:
        BundleError: a graph is missing, or what would be written is not valid.
    """
    folder = Path(folder)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        producer=Producer("garment-transfer", package_version()),
        created=now(),
        size=size,
        framing=framing,
        precision="float32",
        opset=opset,
        graphs=_graphs(folder, size),
        parity={stage: dict(parity[stage]) for stage in STAGES},
        versions=dict(versions),
        checkpoint=checkpoint,
        classes=CLASSES,
        variants={
            other: Variant(_graphs(folder, size, f".{other}"), numbers)
            for other, numbers in (accuracy or {}).items()
        },
        maps=MapsGraph(
            **structs.asdict(_graph(folder / f"{MAPS}.onnx", maps_contract(size))),
            parity=dict(maps[0]),
            checkpoint=maps[1],
        )
        if maps
        else None,
    )
    try:
        write_struct(folder / MANIFEST, manifest, SCHEMA_VERSION)
    except InvalidFile as error:
        raise BundleError(
            Code.MANIFEST_INVALID, f"what would be written is not valid: {error}"
        ) from error
    return manifest


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise BundleError(
            Code.BUNDLE_MISSING,
            f"{folder} {what}",
            expected=f"a bundle, which is a folder with {MANIFEST} and its graphs",
            fix="`garment-transfer export CHECKPOINT -o BUNDLE` writes one",
        )
    try:
        manifest = read_struct(path, Manifest, SCHEMA_VERSION)
    except FileNotFoundError:
        raise BundleError(
            Code.MANIFEST_MISSING,
            f"{folder} has no {MANIFEST}, so it is not a bundle or not a whole one",
            fix=_FIX,
        ) from None
    except OSError as error:
        raise BundleError(
            Code.MANIFEST_UNREADABLE, f"{path} cannot be read: {error.strerror}", fix=_FIX
        ) from error
    except TooOldFile as error:
        raise BundleError(
            Code.MANIFEST_TOO_OLD,
            f"{path} is too old: {error}",
            fix=f"write the bundle anew with `garment-transfer export CHECKPOINT -o {folder}`",
        ) from error
    except TooNewFile as error:
        raise BundleError(
            Code.MANIFEST_TOO_NEW,
            f"{path} is too new: {error}",
            fix="run `pip install --upgrade garment-transfer`, or export the bundle with this "
            "release",
        ) from error
    except InvalidFile as error:
        raise BundleError(
            Code.MANIFEST_INVALID, f"{path} is not a valid manifest: {error}", fix=_FIX
        ) from error
    graphs: list[tuple[str, Signature, Graph]] = [
        (stage, signature, manifest.graphs_of(precision)[stage])
        for precision in manifest.precisions
        for stage, signature in contract(manifest.size).items()
    ]
    if manifest.maps is not None:
        graphs.append((MAPS, maps_contract(manifest.size), manifest.maps))
    for name, signature, graph in graphs:
        if graph.signature != signature:
            raise BundleError(
                Code.CONTRACT_MISMATCH,
                f"{path}: graph {name} does not keep the contract at size {manifest.size}: "
                f"{differences(signature, graph.signature) or 'its tensors are in another order'}",
                fix=_FIX,
            )
    return manifest


def _graphs(folder: Path, size: Size, suffix: str = "") -> dict[Stage, Graph]:
    """The graphs `<stage><suffix>.onnx` in a folder; BundleError where one is missing."""
    return {
        stage: _graph(folder / f"{stage}{suffix}.onnx", signature)
        for stage, signature in contract(size).items()
    }


def _graph(file: Path, signature: Signature) -> Graph:
    """What is to be said of a graph's file; BundleError where it is missing."""
    if not file.is_file():
        raise BundleError(
            Code.GRAPH_MISSING,
            f"{file} is missing",
            expected="every graph in the folder before its manifest is written",
        )
    return Graph(
        file.name, file.stat().st_size, sha256_of(file), signature.inputs, signature.outputs
    )
