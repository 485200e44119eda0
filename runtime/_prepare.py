"""From a photo to a person: human parsing and DensePose by ONNX models that the user has.

Such models differ in what they take and give. A description says it: a ready one for a kind of
published model, or a JSON file beside the model, `parser.json` for `parser.onnx`.
`ParserDescription` and `DensePoseDescription` define what is in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Generic, Literal, Self, TypeAlias, TypeVar

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct
from PIL import Image

from garment_transfer.bundle import (
    NUM_PARTS,
    Code,
    InputError,
    OutputError,
    Size,
    Tensor,
    label_set,
    replacing_folder,
)
from garment_transfer.runtime import model_kinds
from garment_transfer.runtime._maps import Maps, built_in
from garment_transfer.runtime.backends.onnxruntime import OnnxRuntimeEngine, open_model
from garment_transfer.runtime.photos import (
    MAX_SIDE,
    PHOTO_SUFFIXES,
    Box,
    Fit,
    Person,
    choose_body,
    read_photo,
    resize,
    write_meta,
)

# The least score of a detection that counts.
_SURE: Final = 0.5

_NUMPY: Final = {"uint8": np.uint8, "float32": np.float32, "tensor(float16)": np.float16}

_Array: TypeAlias = npt.NDArray[np.generic]
_Plane: TypeAlias = npt.NDArray[np.float32]
_Layout = Literal["NCHW", "NHWC"]
_Colour = tuple[float, float, float]
_Deviation = Annotated[float, Meta(gt=0)]
_Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]


class InputSize(Struct, frozen=True, forbid_unknown_fields=True):
    """Height and width, in pixels, of the photos that a model takes."""

    height: _Side
    width: _Side


class ModelInput(Struct, frozen=True, forbid_unknown_fields=True):
    """How a photo goes into a model.

    Attributes:
        channels: the order of the colours.
        layout: the order of the axes.
        mean: subtracted after `scale`, in the order of `channels`.
        std: divided by last, in the order of `channels`.
        scale: pixels 0..255 are multiplied by it first: 1/255 where the model was trained on 0..1.
        size: pixels that the model takes; without it, the photo goes in at its own size.
        resize: "fit" keeps the aspect, puts the photo in the middle and pads; "stretch" does not.
        pad: colour of the padding, RGB, 0..255.
        name: the model's input; the only one where it is not named.
    """

    channels: Literal["RGB", "BGR"]
    layout: _Layout
    mean: _Colour
    std: tuple[_Deviation, _Deviation, _Deviation]
    scale: _Deviation = 1
    size: InputSize | None = None
    resize: Literal["fit", "stretch"] = "fit"
    pad: _Colour = (0, 0, 0)
    name: str | None = None


class ParserOutput(Struct, frozen=True, forbid_unknown_fields=True):
    """What comes out of a parser.

    Attributes:
        kind: "logits" is a score per class; "labels" the class ids, one channel or none.
        layout: the order of the axes.
        name: the model's output; where it is not named, the last with a channel per class for
            "logits", the only one for "labels".
        align_corners: whether the centres of the outermost pixels of the output lie on those of
            the input, as torch's `interpolate(..., align_corners=True)` puts them; else the
            pixels of both cover the same area.
    """

    kind: Literal["logits", "labels"]
    layout: _Layout
    name: str | None = None
    align_corners: bool = False


class DensePoseHeads(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="heads"
):
    """Outputs of a DensePose model: scores of the 25 parts, and U and V for each of them, NCHW.

    Attributes:
        parts: output with the scores of background and parts.
        u: output with U, 0..1, for each part.
        v: output with V, 0..1, for each part.
        coarse: output with scores of background first and body after it, where there is one.
        boxes: output with boxes [n,4] of x1, y1, x2, y2 in pixels of the input that the heads
            cover; without it, they cover all of it.
        scores: output with scores [n] of the boxes; the highest is taken, or the first box
            without them.
    """

    parts: str
    u: str
    v: str
    coarse: str | None = None
    boxes: str | None = None
    scores: str | None = None


class DensePosePicture(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="iuv"
):
    """Output of a DensePose model: one picture of part, U and V.

    Attributes:
        name: the model's output.
        layout: the order of the axes.
        uv_max: what U and V reach.
    """

    name: str
    layout: _Layout
    uv_max: Literal[1, 255]


class ParserDescription(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="task", tag="parsing"
):
    """The JSON file beside a parser: `"task": "parsing"`, and

    Attributes:
        input: how a photo goes in, a `ModelInput`.
        output: what comes out, a `ParserOutput`.
        label_set: whose class ids the parser gives, such as lip20, cihp20 or atr18.
        region: what `prepare` puts in: the whole "photo", or the "person" alone, the box of what
            DensePose shows and a fifth of its longer side around it. "person" for models that
            were trained on pictures of one person. What is outside becomes background.
    """

    input: ModelInput
    output: ParserOutput
    label_set: str
    region: Literal["photo", "person"] = "photo"


class DensePoseDescription(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="task", tag="densepose"
):
    """The JSON file beside a DensePose model: `"task": "densepose"`, and

    Attributes:
        input: how a photo goes in, a `ModelInput`.
        output: what comes out: `"kind": "heads"` and `DensePoseHeads`, or `"kind": "iuv"` and
            `DensePosePicture`.
    """

    input: ModelInput
    output: DensePoseHeads | DensePosePicture


_D = TypeVar("_D", ParserDescription, DensePoseDescription)

# x1, y1, x2, y2: edges, so that pixel i reaches from i to i + 1.
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Placement:
    """Where a photo lies in a map: its pixel (x, y) at (x, y) * scale + start.

    Coordinates are those of pixel centres, at integers; `map` is the map's size.
    """

    photo: Size
    map: Size
    scale: npt.NDArray[np.float64]
    start: npt.NDArray[np.float64]

    def within(self, box: _Box | None, to: Size) -> _Placement:
        """The place in a map of size `to` that covers a box of this one, all of it for None."""
        x1, y1, x2, y2 = box or (0, 0, self.map.width, self.map.height)
        ratio = np.divide((to.width, to.height), (x2 - x1, y2 - y1))
        start = (self.start + 0.5 - (x1, y1)) * ratio - 0.5
        return _Placement(self.photo, to, self.scale * ratio, start)

    def corner_to_corner(self, to: Size) -> _Placement:
        """The place in a map of size `to` whose outermost pixel centres are those of this one."""
        last = (max(1, self.map.width - 1), max(1, self.map.height - 1))
        ratio = np.divide((to.width - 1, to.height - 1), last)
        return _Placement(self.photo, to, self.scale * ratio, self.start * ratio)

    def linear(self, plane: _Plane) -> _Plane:
        """A plane of scores or coordinates at the photo's pixels, linearly, edges repeated."""
        scaled = cv2.warpAffine(
            plane,
            np.column_stack([np.diag(self.scale), self.start]),
            (self.photo.width, self.photo.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(scaled, np.float32)

    def _columns_and_rows(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Where the photo's columns and rows lie in the map."""
        x, y = np.arange(self.photo.width), np.arange(self.photo.height)
        return x * self.scale[0] + self.start[0], y * self.scale[1] + self.start[1]

    def nearest(self, plane: _Plane) -> _Plane:
        """A plane of ids at the photo's pixels, by nearest neighbours."""
        columns, rows = (np.rint(places).astype(int) for places in self._columns_and_rows())
        rows, columns = rows.clip(0, plane.shape[0] - 1), columns.clip(0, plane.shape[1] - 1)
        return np.asarray(plane[rows[:, None], columns], np.float32)

    def best(self, planes: _Plane) -> npt.NDArray[np.uint8]:
        """The channel of the highest score at the photo's pixels, uint8 [H,W].

        One channel after another: all at a large photo's size would take gigabytes.
        """
        best = self.linear(planes[0])
        ids = np.zeros(best.shape, np.uint8)
        for index, plane in enumerate(planes[1:], start=1):
            score = self.linear(plane)
            ids[score > best] = index
            np.maximum(best, score, out=best)
        return ids

    def inside(self, box: _Box) -> npt.NDArray[np.bool_]:
        """Which pixels of the photo lie in a box of the map."""
        x, y = (places + 0.5 for places in self._columns_and_rows())
        x1, y1, x2, y2 = box
        return np.asarray(((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2)))


class _MapModel(Generic[_D]):
    """An ONNX model with its description. `Parser` and `DensePose` are the two."""

    def __init__(self, path: Path, description: _D, engine: OnnxRuntimeEngine, kind: str | None):
        """Of a loaded ONNX file; `kind` names the description where it is a ready one."""
        self.path = path
        self.description: _D = description
        self._input = description.input
        self._engine = engine
        beside = path.with_suffix(".json")
        self._described = str(beside) if kind is None else f"the kind {kind}"
        self._fix = "correct it there, or export the model so that it agrees"
        if kind is not None:
            self._fix = (
                "export the model as docs/prepare.md shows for that kind, or leave the kind out "
                f"and describe the model in {beside}"
            )
        self._tensor = self._find_input()
        self._declared = {tensor.name: tensor.shape for tensor in engine.signature.outputs}
        for key in ("name", "parts", "u", "v", "coarse", "boxes", "scores"):
            name: str | None = getattr(description.output, key, None)
            if name is not None and name not in self._declared:
                raise _invalid(
                    f"{self._described} names the output {name!r} ({key}), and {path} gives "
                    f"{', '.join(self._declared)}",
                    fix=self._fix,
                )

    def _run(self, photo: npt.NDArray[np.uint8]) -> tuple[Mapping[str, _Array], _Placement]:
        """The model's outputs for a photo, and where the photo lies in what the model saw."""
        size = Size(*photo.shape[:2])
        given = self._input.size
        target = Size(given.height, given.width) if given else size
        if self._input.resize == "stretch":
            framed = resize(photo, target)
            placement = _Placement(size, size, np.ones(2), np.zeros(2)).within(None, target)
        else:
            fit = Fit(size, target)
            framed = np.empty((target.height, target.width, 3), np.float32)
            framed[:] = self._input.pad
            fit.crop(framed)[:] = resize(photo, fit.scaled)
            start = np.array(fit.to_target(0, 0))
            placement = _Placement(size, target, np.array(fit.scale), start)
        pixels = framed.astype(np.float32)
        if self._input.channels == "BGR":
            pixels = pixels[..., ::-1]
        pixels = pixels * np.float32(self._input.scale)
        pixels -= np.array(self._input.mean, np.float32)
        pixels /= np.array(self._input.std, np.float32)
        dtype = _NUMPY[self._tensor.dtype]
        if dtype == np.uint8:
            pixels = np.clip(np.rint(pixels), 0, 255)
        if self._input.layout == "NCHW":
            pixels = pixels.transpose(2, 0, 1)
        if len(self._tensor.shape) == 4:
            pixels = pixels[None]
        inputs = {self._tensor.name: np.ascontiguousarray(pixels, dtype)}
        return self._engine.run(inputs), placement

    def _find_input(self) -> Tensor:
        """The input that takes the photo, compared with the description."""
        inputs = {tensor.name: tensor for tensor in self._engine.signature.inputs}
        name = self._input.name or next(iter(inputs))
        if name not in inputs or len(inputs) > 1:
            raise _invalid(
                f"{self.path} takes ({', '.join(map(str, inputs.values()))})"
                + (f", and {self._described} names {name!r}" if name not in inputs else ""),
                expected="one input, a picture",
                fix="export the model so that the photo is all it takes, and name that input",
            )
        tensor = inputs[name]
        if tensor.dtype not in _NUMPY or len(tensor.shape) not in (3, 4):
            raise _invalid(
                f"{self.path} takes {tensor}",
                expected="a picture of float32, float16 or uint8 with three axes, or four with the "
                "batch",
            )
        size = self._input.size
        axes = {"N": 1, "C": 3} | ({"H": size.height, "W": size.width} if size else {})
        layout = self._input.layout[-len(tensor.shape) :]
        if any(
            isinstance(length, int) and length != axes.get(axis)
            for axis, length in zip(layout, tensor.shape, strict=True)
        ):
            says = f"the size {size.height}x{size.width}" if size else "no size"
            raise _invalid(
                f"{self.path} takes {tensor}, and {self._described} says layout "
                f"{self._input.layout} and {says} (height x width)",
                fix=self._fix,
            )
        return tensor

    def _planes(self, array: _Array, name: str, layout: _Layout) -> _Plane:
        """An output [1,C,H,W], [C,H,W] or such with channels last, as float32 [C,H,W]."""
        planes = array[0] if array.ndim == 4 and len(array) == 1 else array
        if planes.ndim != 3:
            raise _invalid(
                f"{self.path} gave {name} of shape {list(array.shape)}",
                expected=f"{layout} with one photo in it",
            )
        if layout == "NHWC":
            planes = planes.transpose(2, 0, 1)
        values = np.ascontiguousarray(planes, np.float32)
        if not np.isfinite(values).all():
            raise _invalid(
                f"{self.path} gave NaN or infinite values in {name}",
                fix=f"check mean, std and scale of {self._described}, and the model's precision",
            )
        return values

    def _check_channels(self, channels: int | None, name: str, expected: int, why: str) -> None:
        """Refuses a number of channels that is not the expected one; None is not known yet."""
        if channels not in (None, expected):
            raise _invalid(
                f"{self.path} gives {name} with {channels} channels",
                expected=f"{expected}, {why}",
                fix=self._fix,
            )

    def _check_ids(self, plane: _Plane, most: int, name: str) -> None:
        if plane.min() < 0 or plane.max() > most or (plane != np.rint(plane)).any():
            raise _invalid(
                f"{self.path} gave {name} with ids from {plane.min():g} to {plane.max():g}",
                expected=f"whole numbers 0..{most}",
                fix="check the order of its channels, and whether it gives scores",
            )


class Parser(_MapModel[ParserDescription]):
    """A human parser: a class id per pixel."""

    @property
    def label_set(self) -> str:
        """The name of the label set whose ids it gives."""
        description: ParserDescription = self.description
        return description.label_set

    @classmethod
    def load(cls, path: Path, threads: int | None = None, kind: str | None = None) -> Self:
        """The model of an ONNX file by a ready description, or by the JSON file beside it.

        Args:
            path: the ONNX file.
            threads: threads that run it, one per physical core for None.
            kind: a ready description, a name of `model_kinds("parsing")`; None for the JSON file,
                which `ParserDescription` defines.

        Raises:
            InputError: there is no such kind, the description is missing, not valid or of another
                task, there are two, or it does not agree with the model's inputs and outputs.
            BackendError: ONNX Runtime does not load the model.
        """
        description = _read_description(path, ParserDescription, "parsing", kind)
        label_set(description.label_set)
        parser = cls(path, description, open_model(path, threads), kind)
        parser._find_output(parser._declared)
        return parser

    def parse(self, photo: npt.NDArray[np.uint8], box: Box | None = None) -> npt.NDArray[np.uint8]:
        """The class ids of a photo: scores are scaled linearly, ids by nearest neighbours.

        Args:
            photo: uint8 RGB [H,W,3].
            box: what of the photo the model sees, inside the photo; all of it for None.

        Returns:
            Ids of `label_set`, uint8 [H,W]; 0, background, outside the box.

        Raises:
            InputError: the model gives something else than its description says.
        """
        if box is not None:
            rows = slice(box.top, box.top + box.height)
            columns = slice(box.left, box.left + box.width)
            ids = np.zeros(photo.shape[:2], np.uint8)
            ids[rows, columns] = self.parse(np.ascontiguousarray(photo[rows, columns]))
            return ids
        outputs, placement = self._run(photo)
        output = self.description.output
        name = self._find_output({key: array.shape for key, array in outputs.items()})
        array, layout = outputs[name], output.layout
        if output.kind == "labels" and (array.ndim == 2 or (array.ndim == 3 and len(array) == 1)):
            array, layout = array.reshape(1, *array.shape[-2:]), "NCHW"
        planes = self._planes(array, name, layout)
        if output.align_corners:
            placement = placement.corner_to_corner(_size(planes))
        else:
            placement = placement.within(None, _size(planes))
        if output.kind == "logits":
            return placement.best(planes)
        self._check_channels(len(planes), name, 1, "since it is the class ids")
        self._check_ids(planes[0], 255, name)
        return placement.nearest(planes[0]).astype(np.uint8)

    def _find_output(self, shapes: Mapping[str, Sequence[int | str]]) -> str:
        """The output with the scores or ids, by the shapes of all; strings are open lengths."""
        output = self.description.output
        names = list(shapes) if output.name is None else [output.name]
        if output.kind == "logits":
            labels = label_set(self.label_set)
            classes = max(set(labels.classes) - labels.added) + 1
            expected = f"scores with {classes} channels ({output.layout}), one per class of "
            expected += self.label_set
            names = [
                name for name in names if _channels(shapes[name], output.layout) in (None, classes)
            ]
        else:
            expected = "one output, the class ids"
            names = names if len(names) == 1 else []
        if not names:
            given = ", ".join(
                f"{name} [{', '.join(map(str, shape))}]" for name, shape in shapes.items()
            )
            raise _invalid(f"{self.path} gives {given}", expected=expected, fix=self._fix)
        return names[-1]


class DensePose(_MapModel[DensePoseDescription]):
    """A DensePose model: part, U and V per pixel."""

    @classmethod
    def load(cls, path: Path, threads: int | None = None, kind: str | None = None) -> Self:
        """The model of an ONNX file by a ready description, or by the JSON file beside it.

        As `Parser.load`, with `model_kinds("densepose")` and `DensePoseDescription`.
        """
        description = _read_description(path, DensePoseDescription, "densepose", kind)
        densepose = cls(path, description, open_model(path, threads), kind)
        output = description.output
        if isinstance(output, DensePoseHeads):
            for name in (output.parts, output.u, output.v):
                densepose._check_head(_channels(densepose._declared[name], "NCHW"), name)
        return densepose

    def _check_head(self, channels: int | None, name: str) -> None:
        self._check_channels(channels, name, NUM_PARTS, "one per part and background")

    def estimate(self, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """DensePose of a photo.

        Args:
            photo: uint8 RGB [H,W,3].

        Returns:
            uint8 IUV [H,W,3]: part 0..24, U and V scaled to 0..255.

        Raises:
            InputError: the model finds nobody, or gives something else than its description says.
        """
        outputs, placement = self._run(photo)
        output = self.description.output
        if isinstance(output, DensePoseHeads):
            return self._heads(output, outputs, placement)
        name = output.name
        planes = self._planes(outputs[name], name, output.layout)
        self._check_channels(len(planes), name, 3, "part, U and V")
        self._check_ids(planes[0], NUM_PARTS - 1, name)
        part, *uv = map(placement.within(None, _size(planes)).nearest, planes)
        return _iuv(part, np.stack(uv) * (255 / output.uv_max))

    def _heads(
        self, output: DensePoseHeads, outputs: Mapping[str, _Array], placement: _Placement
    ) -> npt.NDArray[np.uint8]:
        if output.boxes is None:
            return self._body(output, outputs, placement, None)
        scores = None if output.scores is None else outputs[output.scores]
        whole = np.zeros((placement.photo.height, placement.photo.width, 3), np.uint8)
        for index, box in self._people(output.boxes, outputs[output.boxes], scores):
            names = filter(None, (output.parts, output.u, output.v, output.coarse))
            own = {name: outputs[name][index][None] for name in names}
            iuv = self._body(output, own, placement, box)
            np.copyto(whole, iuv, where=iuv[..., :1] > 0)
        return whole

    def _body(
        self,
        output: DensePoseHeads,
        heads: Mapping[str, _Array],
        placement: _Placement,
        box: _Box | None,
    ) -> npt.NDArray[np.uint8]:
        """IUV of one body from its heads, which cover a box of the model's input, or all of it."""

        def placed(name: str) -> tuple[_Plane, _Placement]:
            planes = self._planes(heads[name], name, "NCHW")
            if name != output.coarse:
                self._check_head(len(planes), name)
            return planes, placement.within(box, _size(planes))

        scores, place = placed(output.parts)
        part = place.best(scores)
        if output.coarse is not None:
            scores, place = placed(output.coarse)
            part[place.best(scores) == 0] = 0
        if box is not None:
            part[~placement.inside(box)] = 0
        uv = np.zeros((2, *part.shape), np.float32)
        for plane, name in zip(uv, (output.u, output.v), strict=True):
            values, place = placed(name)
            for index in np.unique(part[part > 0]).tolist():
                here = part == index
                plane[here] = place.linear(values[index])[here]
        return _iuv(part, 255 * uv)

    def _people(self, name: str, boxes: _Array, scores: _Array | None) -> list[tuple[int, _Box]]:
        """Index and box of everybody who is surely there, the surest last; one at least."""
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise _invalid(
                f"{self.path} gave {name} of shape {list(boxes.shape)}",
                expected="boxes [n,4] of x1, y1, x2, y2",
            )
        if not len(boxes):
            raise InputError(
                Code.BODY_MISSING,
                f"{self.path} finds no person in the photo",
                fix="choose one that shows a whole person, and check channels, scale, mean and std "
                f"of {self._described}",
            )
        order = [0]
        if scores is not None:
            scores = scores.reshape(-1)
            order = np.argsort(scores, kind="stable").tolist()
            order = [index for index in order if scores[index] > _SURE] or order[-1:]
        found = []
        for index in order:
            x1, y1, x2, y2 = boxes[index].tolist()
            if not (x2 > x1 and y2 > y1):
                raise _invalid(
                    f"{self.path} gave the box {[x1, y1, x2, y2]}",
                    expected="x1, y1, x2, y2 in pixels of its input, x1 < x2 and y1 < y2",
                )
            found.append((index, (x1, y1, x2, y2)))
        return found


def prepare(
    photo: Path, folder: Path, parser: Parser, densepose: DensePose, box: Box | None = None
) -> Person:
    """Writes the folder of the person in a photo, which `Person.load` reads.

    Nothing is written unless the maps are those of a person.

    Args:
        photo: a file that `read_photo` reads.
        folder: is made, or has to be empty.
        parser: gives the parse map.
        densepose: gives DensePose.
        box: of the person who is meant, roughly, where there are several.

    Raises:
        InputError: the photo cannot be read, shows nobody, or several people of whom no box chooses
            one, or somebody who is not seen upright and from the front; or a model's maps are not
            valid.
        BackendError: a model does not run.
        OutputError: the folder is not empty, or cannot be written.
    """
    _check_empty(folder)
    image = read_photo(photo)
    iuv, _ = choose_body(densepose.estimate(image), box, f"the DensePose map of {photo}")
    ids = parser.parse(image, _around(iuv) if parser.description.region == "person" else None)
    return _write(folder, photo, image, ids, iuv, parser.label_set)


def prepare_photo(
    photo: Path, folder: Path, box: Box | None = None, maps: Maps | None = None
) -> Person:
    """As `prepare`, with the maps that a bundle's own network gives.

    Args:
        photo: a file that `read_photo` reads.
        folder: is made, or has to be empty.
        box: of the person who is meant, roughly, where there are several.
        maps: the network; that in the package if not given.

    Raises:
        InputError: as of `Maps.person`, or the person is not seen upright and from the front.
        BackendError: the network does not run.
        OutputError: the folder is not empty, or cannot be written.
    """
    _check_empty(folder)
    image = read_photo(photo)
    found = (maps or built_in()).find(image, str(photo), box)
    iuv, _ = choose_body(found.densepose, found.frame, f"the DensePose map of {photo}")
    return _write(folder, photo, image, found.parsing, iuv, "classes7")


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            Code.OUTPUT_EXISTS,
            f"{folder} is {'a folder that is not empty' if folder.is_dir() else 'a file'}",
            fix="remove it, or choose another",
        )


def _write(
    folder: Path,
    photo: Path,
    image: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.uint8],
    iuv: npt.NDArray[np.uint8],
    labels: str,
) -> Person:
    """The person of a photo and its maps, whose folder is written where they can be served."""
    person = Person.from_arrays(image, ids, iuv, labels, "iuv-png", str(photo))
    person.check_view()
    suffix = photo.suffix.lower()
    # As it is, unless `Person.load` does not find it under that suffix, such as .jpe.
    with replacing_folder(folder) as temporary:
        if suffix in PHOTO_SUFFIXES:
            shutil.copyfile(photo, temporary / f"image{suffix}")
        else:
            Image.fromarray(image).save(temporary / "image.png")
        Image.fromarray(ids).save(temporary / "parse.png")
        Image.fromarray(iuv).save(temporary / "densepose.png")
        write_meta(temporary / "meta.json", labels, "iuv-png")
    return person


def _around(iuv: npt.NDArray[np.uint8]) -> Box | None:
    """The box of a photo that a parser of one person sees: DensePose's and a fifth around it.

    DensePose covers the body alone, and hair, wide clothes and bags lie outside. None where it
    shows nobody.
    """
    left, top, width, height = cv2.boundingRect(cv2.extractChannel(iuv, 0))
    if not width:
        return None
    around = round((max(height, width) - 1) / 5)
    bottom, right = top + height + around, left + width + around
    top, left = max(0, top - around), max(0, left - around)
    return Box(top, left, min(iuv.shape[0], bottom) - top, min(iuv.shape[1], right) - left)


def _read_description(path: Path, model: type[_D], task: str, kind: str | None) -> _D:
    """The ready description of a kind, or the one in the JSON file beside a model."""
    if not path.is_file():
        raise _invalid(f"{path} does not exist", fix="give the ONNX file of a model")
    beside = path.with_suffix(".json")
    if kind is not None:
        kinds = model_kinds(task)
        if kind not in kinds:
            raise InputError(
                Code.ARGUMENT_INVALID,
                f"there is no kind {kind!r} of models for {task}",
                expected=f"one of {', '.join(kinds)}",
                fix=f"name one of these, or describe the model in {beside}",
            )
        if beside.exists():
            raise _invalid(
                f"{path} is described twice: by the kind {kind} and by {beside}",
                fix=f"leave the kind out, or move {beside} away",
            )
        return msgspec.json.decode(kinds[kind].read_bytes(), type=model)
    expected = f"how a photo goes into {path.name}, and what comes out"
    fix = f"`python -m pydoc garment_transfer.runtime.{model.__name__}` describes the file"
    try:
        return msgspec.json.decode(beside.read_bytes(), type=model)
    except FileNotFoundError:
        kinds = model_kinds(task)
        raise _invalid(
            f"{beside} does not exist",
            expected=expected,
            fix=f"name the model's kind where it is one of {', '.join(kinds)}, or write the file: "
            + fix,
        ) from None
    except (OSError, RecursionError, UnicodeDecodeError, msgspec.DecodeError) as error:
        if isinstance(error, msgspec.ValidationError):
            if "`$.task`" in str(error):
                fix = "check that --parser and --densepose are not swapped"
            expected = _allowed(model, str(error)) or expected
        raise _invalid(f"{beside} is not valid: {error}", expected=expected, fix=fix) from error


def _allowed(model: type[_D], error: str) -> str:
    """The values that a field takes where msgspec refused one; empty where it takes any."""
    field = error.rpartition(".")[2].rstrip("`")
    structs = msgspec.json.schema(model)["$defs"].values()
    rules = [struct["properties"].get(field, {}) for struct in structs]
    values = dict.fromkeys(str(value) for rule in rules for value in rule.get("enum", ()))
    return f"one of {', '.join(values)}" if values else ""


def _channels(shape: Sequence[int | str], layout: _Layout) -> int | None:
    """The number of channels of an output; None where it is open, 0 where it has no such axis."""
    if not shape:
        return None
    if len(shape) not in (3, 4):
        return 0
    length = shape[layout.index("C") - 4]
    return length if isinstance(length, int) else None


def _size(planes: _Array) -> Size:
    return Size(*planes.shape[-2:])


def _iuv(part: npt.NDArray[np.uint8 | np.float32], uv: _Plane) -> npt.NDArray[np.uint8]:
    """uint8 IUV [H,W,3] from parts and U, V in 0..255; 0 where there is no part."""
    planes = np.concatenate([part[None], np.where(part > 0, np.clip(np.rint(uv), 0, 255), 0)])
    return np.ascontiguousarray(planes.transpose(1, 2, 0).astype(np.uint8))


def _invalid(what: str, expected: str = "", fix: str = "") -> InputError:
    return InputError(Code.MAP_MODEL_INVALID, what, expected=expected, fix=fix)
