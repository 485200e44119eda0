"""Bundles: a folder with `manifest.json` and one ONNX graph per stage.

The manifest says what the graphs take and give, where they come from and how near they come to
their source; `manifest.schema.json` beside this file specifies it. The contract of the three
graphs lives here once (`contract`): the exporter writes it, `Bundle.load` checks it.

Sizes and hashes prove that a bundle is whole, not that it can be trusted.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from garment_transfer.runtime.errors import BundleError
from garment_transfer.runtime.files import read_json, replacing, schema_error
from garment_transfer.runtime.labels import CLASSES
from garment_transfer.runtime.version import package_version

MANIFEST: Final = "manifest.json"
#: The newest schema that this release reads; a manifest without variants is written as schema 1.
SCHEMA_VERSION: Final = 2

#: The stages in the order in which they run.
STAGES: Final = ("parsing", "warping", "regrowth")

_MEND: Final = (
    "copy the bundle again from where it came, or write it anew with "
    "`garment-transfer export CHECKPOINT -o BUNDLE`"
)


@dataclass(frozen=True)
class Size:
    """Height and width in pixels of everything that a bundle's graphs take and give."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph; `shape` names the free batch size "N"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Signature:
    """What one graph takes and gives."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def contract(size: Size) -> dict[str, Signature]:
    """The inputs and outputs of each stage's graph for one image size.

    Images are uint8 RGB, parsings uint8 class ids, DensePose uint8 IUV (part 0..24, U and V
    scaled to 0..255). `flow` is (dx, dy) in pixels of this size, the affine included: the warped
    garment at pixel p is the garment owner's image at p + flow(p). `warped_garment` is complete
    inside the garment region of `transfer_parsing` and 0 outside it.
    """
    labels = ("N", size.height, size.width)
    pixels = (*labels, 3)
    person_image = Tensor("person_image", "uint8", pixels)
    person_parsing = Tensor("person_parsing", "uint8", labels)
    person_densepose = Tensor("person_densepose", "uint8", pixels)
    garment_image = Tensor("garment_image", "uint8", pixels)
    garment_parsing = Tensor("garment_parsing", "uint8", labels)
    garment_densepose = Tensor("garment_densepose", "uint8", pixels)
    transfer_parsing = Tensor("transfer_parsing", "uint8", labels)
    warped_garment = Tensor("warped_garment", "uint8", pixels)
    flow = Tensor("flow", "float32", ("N", 2, size.height, size.width))
    image = Tensor("image", "uint8", pixels)
    return {
        "parsing": Signature(
            (person_parsing, person_densepose, garment_parsing, garment_densepose),
            (transfer_parsing,),
        ),
        "warping": Signature(
            (garment_image, garment_parsing, transfer_parsing, person_densepose),
            (warped_garment, flow),
        ),
        "regrowth": Signature(
            (person_image, person_parsing, transfer_parsing, warped_garment), (image,)
        ),
    }


@dataclass(frozen=True)
class Graph:
    """A graph file of a bundle: its name in the folder, size in bytes, hash and signature."""

    file: str
    bytes: int
    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Parity:
    """How near one output of an exported graph comes to the network it was exported from.

    Differences are in the output's own unit: grey levels for images, pixels for the flow. For
    label maps the tolerance is 0, so that `share_within_tolerance` is the share of equal labels.
    """

    max_abs_difference: float
    tolerance: float
    share_within_tolerance: float
    inputs: str


@dataclass(frozen=True)
class Accuracy:
    """How near the graphs of a variant come to the float32 graphs on the same inputs.

    `different_labels` is the share of labels of `transfer_parsing` that differ, PSNRs are in dB
    over all samples (capped at 100 for equal ones), `flow_difference` is the largest difference
    of `flow` in pixels. `largest_activation` is the largest magnitude that any tensor inside the
    variant's graphs took; float16 ends at 65504.
    """

    different_labels: float
    image_psnr: float
    warped_garment_psnr: float
    flow_difference: float
    largest_activation: float
    inputs: str


@dataclass(frozen=True)
class Variant:
    """The same stages in another precision: graphs of the same contract, and how near they come."""

    graphs: Mapping[str, Graph]
    accuracy: Accuracy


@dataclass(frozen=True)
class Producer:
    """The package that wrote a bundle."""

    package: str
    version: str


@dataclass(frozen=True)
class Checkpoint:
    """Where the weights come from: preset, hash of the checkpoint, parameters per stage."""

    preset: str
    sha256: str
    parameters: Mapping[str, int]


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`, field by field as in `manifest.schema.json`."""

    name: str
    producer: Producer
    created: str
    size: Size
    precision: str
    opset: int
    graphs: Mapping[str, Graph]
    parity: Mapping[str, Mapping[str, Parity]]
    versions: Mapping[str, str]
    checkpoint: Checkpoint
    classes: tuple[str, ...] = CLASSES
    variants: Mapping[str, Variant] = dataclasses.field(default_factory=dict)

    @property
    def schema_version(self) -> int:
        """The lowest schema that has everything this manifest says."""
        return 2 if self.variants else 1

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions in which the bundle has its graphs, the main one first."""
        return (self.precision, *self.variants)

    def graphs_of(self, precision: str | None = None) -> Mapping[str, Graph]:
        """The graphs by stage in a precision, the main one for None; BundleError without it."""
        if precision is None or precision == self.precision:
            return self.graphs
        if precision not in self.variants:
            raise BundleError(
                f"the bundle {self.name} has no {precision} graphs, only "
                f"{', '.join(self.precisions)}; export it anew with "
                f"`garment-transfer export CHECKPOINT -o BUNDLE --precision {precision}`"
            )
        return self.variants[precision].graphs

    def to_dict(self) -> dict[str, Any]:
        """The manifest as `json.dump` takes it, schema version first."""
        fields = dataclasses.asdict(self)
        if not self.variants:
            del fields["variants"]
        return {"schema_version": self.schema_version, **fields}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Manifest:
        """The manifest of a dict that is valid by the schema."""
        variants = {
            precision: Variant(_graphs(variant["graphs"]), Accuracy(**variant["accuracy"]))
            for precision, variant in fields.get("variants", {}).items()
        }
        parity = {
            stage: {name: Parity(**numbers) for name, numbers in outputs.items()}
            for stage, outputs in fields["parity"].items()
        }
        return cls(
            name=fields["name"],
            producer=Producer(**fields["producer"]),
            created=fields["created"],
            size=Size(**fields["size"]),
            precision=fields["precision"],
            opset=fields["opset"],
            graphs=_graphs(fields["graphs"]),
            parity=parity,
            versions=dict(fields["versions"]),
            checkpoint=Checkpoint(**fields["checkpoint"]),
            classes=tuple(fields["classes"]),
            variants=variants,
        )


@dataclass(frozen=True)
class Bundle:
    """A bundle that was found whole and valid."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads and verifies the bundle in the folder `path`: schema, contract, sizes, hashes.

        Raises BundleError when the folder is no bundle, the manifest is not valid or of a newer
        schema, or a graph is missing, truncated or altered.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        for precision in manifest.precisions:
            for graph in manifest.graphs_of(precision).values():
                _verify_file(folder / graph.file, graph)
        return cls(folder, manifest)

    def graph_path(self, stage: str, precision: str | None = None) -> Path:
        """The ONNX file of a stage, in the main precision or another that the bundle has."""
        return self.path / self.manifest.graphs_of(precision)[stage].file


def write_manifest(
    folder: str | os.PathLike[str],
    *,
    name: str,
    size: Size,
    opset: int,
    parity: Mapping[str, Mapping[str, Parity]],
    versions: Mapping[str, str],
    checkpoint: Checkpoint,
    precision: str = "float32",
    producer: Producer | None = None,
    accuracy: Mapping[str, Accuracy] | None = None,
) -> Manifest:
    """Writes `manifest.json` for the graphs `<stage>.onnx` that already lie in `folder`.

    For each precision in `accuracy` the graphs `<stage>.<precision>.onnx` lie there too.

    Sizes and hashes are taken from the files, inputs and outputs from `contract(size)`. The
    manifest replaces an older one atomically. Raises BundleError when a graph is missing or what
    would be written is not valid by the schema.
    """
    folder = Path(folder)
    manifest = Manifest(
        name=name,
        producer=producer or Producer("garment-transfer", package_version()),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        size=size,
        precision=precision,
        opset=opset,
        graphs=_files(folder, size),
        parity=parity,
        versions=versions,
        checkpoint=checkpoint,
        variants={
            other: Variant(_files(folder, size, f".{other}"), numbers)
            for other, numbers in (accuracy or {}).items()
        },
    )
    # Through JSON and back, so that what is checked is what a reader will see (lists, not tuples).
    text = json.dumps(manifest.to_dict(), indent=2) + "\n"
    _validate(json.loads(text), folder / MANIFEST)
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return manifest


def _files(folder: Path, size: Size, suffix: str = "") -> dict[str, Graph]:
    """The graphs `<stage><suffix>.onnx` in a folder; BundleError where one is missing."""
    signatures = contract(size)
    graphs = {}
    for stage in STAGES:
        file = folder / f"{stage}{suffix}.onnx"
        if not file.is_file():
            raise BundleError(
                f"{file} is missing: the graphs "
                f"{', '.join(f'{s}{suffix}.onnx' for s in STAGES)} have to be in the folder before "
                "its manifest is written"
            )
        graphs[stage] = Graph(
            file=file.name,
            bytes=file.stat().st_size,
            sha256=sha256_of(file),
            inputs=signatures[stage].inputs,
            outputs=signatures[stage].outputs,
        )
    return graphs


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _graphs(fields: Mapping[str, Any]) -> dict[str, Graph]:
    return {
        stage: Graph(
            file=graph["file"],
            bytes=graph["bytes"],
            sha256=graph["sha256"],
            inputs=tuple(_tensor(tensor) for tensor in graph["inputs"]),
            outputs=tuple(_tensor(tensor) for tensor in graph["outputs"]),
        )
        for stage, graph in fields.items()
    }


def _tensor(fields: Mapping[str, Any]) -> Tensor:
    return Tensor(fields["name"], fields["dtype"], tuple(fields["shape"]))


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise BundleError(
            f"{folder} {what}: a bundle is a folder with {MANIFEST} and its graphs, as "
            "`garment-transfer export CHECKPOINT -o BUNDLE` writes it"
        )
    try:
        fields = read_json(path)
    except FileNotFoundError:
        raise BundleError(
            f"{folder} has no {MANIFEST}, so it is no bundle or not a whole one; {_MEND}"
        ) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BundleError(f"{path} is not valid JSON ({error}); {_MEND}") from error
    _validate(fields, path)
    manifest = Manifest.from_dict(fields)
    _check_contract(manifest, path)
    return manifest


def _validate(fields: Any, path: Path) -> None:
    """Raises BundleError unless `fields` is a manifest by the schema of this release."""
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    # Before all else: a newer manifest may well break today's schema, and that is not its fault.
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}, and this release of garment-transfer "
            f"({package_version()}) reads up to {SCHEMA_VERSION}; "
            "run `pip install --upgrade garment-transfer`, or export the bundle with this release"
        )
    error = schema_error(fields, "manifest.schema.json")
    if error is not None:
        raise BundleError(f"{path} is not a valid manifest: {error}; {_MEND}")


def _check_contract(manifest: Manifest, path: Path) -> None:
    for precision in manifest.precisions:
        for stage, signature in contract(manifest.size).items():
            graph = manifest.graphs_of(precision)[stage]
            for kind, found, due in (
                ("inputs", graph.inputs, signature.inputs),
                ("outputs", graph.outputs, signature.outputs),
            ):
                if found != due:
                    raise BundleError(
                        f"{path}: the {kind} of graph {stage} are "
                        f"({', '.join(map(str, found))}), but a bundle of size {manifest.size} "
                        f"has ({', '.join(map(str, due))}); {_MEND}"
                    )


def _verify_file(path: Path, graph: Graph) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing, though the manifest lists it; {_MEND}")
    size = path.stat().st_size
    if size < graph.bytes:
        raise BundleError(
            f"{path} is truncated: {size} bytes of the {graph.bytes} in the manifest; {_MEND}"
        )
    if size > graph.bytes or sha256_of(path) != graph.sha256:
        raise BundleError(
            f"{path} was altered: its size ({size} bytes, {graph.bytes} in the manifest) or its "
            f"SHA-256 is not the manifest's; {_MEND}"
        )
