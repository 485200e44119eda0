"""From a photo to a person: human parsing and DensePose by ONNX models that the user has.

Such models differ in what they take and give, so a JSON file beside each says it: `parser.json`
for `parser.onnx`, which `ParserDescription` and `DensePoseDescription` define.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
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
from garment_transfer.runtime.backends.onnxruntime import OnnxRuntimeEngine, open_model
from garment_transfer.runtime.photos import (
    MAX_SIDE,
    PICTURE_SUFFIXES,
    Fit,
    Person,
    read_photo,
    resize,
    write_meta,
)

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
        name: the model's output.
        kind: "logits" is a score per class; "labels" the class ids, one channel or none.
        layout: the order of the axes.
    """

    name: str
    kind: Literal["logits", "labels"]
    layout: _Layout


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
    """

    input: ModelInput
    output: ParserOutput
    label_set: str


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
    """Where a photo lies in a map: its pixel (x, y) at (x * scale_x + left, y * scale_y + top).

    Coordinates are those of pixel centres, at integers; `map` is the map's size.
    """

    photo: Size
    map: Size
    scale_x: float
    left: float
    scale_y: float
    top: float

    def within(self, box: _Box | None, to: Size) -> _Placement:
        """The place in a map of size `to` that covers a box of this one, all of it for None."""
        x1, y1, x2, y2 = box or (0, 0, self.map.width, self.map.height)
        across, down = to.width / (x2 - x1), to.height / (y2 - y1)
        return _Placement(
            self.photo,
            to,
            self.scale_x * across,
            (self.left + 0.5 - x1) * across - 0.5,
            self.scale_y * down,
            (self.top + 0.5 - y1) * down - 0.5,
        )

    def linear(self, plane: _Plane) -> _Plane:
        """A plane of scores or coordinates at the photo's pixels, linearly, edges repeated."""
        scaled = cv2.warpAffine(
            plane,
            np.array([[self.scale_x, 0, self.left], [0, self.scale_y, self.top]]),
            (self.photo.width, self.photo.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(scaled, np.float32)

    def nearest(self, plane: _Plane) -> _Plane:
        """A plane of ids at the photo's pixels, by nearest neighbours."""
        rows = np.rint(np.arange(self.photo.height) * self.scale_y + self.top).astype(int)
        columns = np.rint(np.arange(self.photo.width) * self.scale_x + self.left).astype(int)
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
        x = np.arange(self.photo.width) * self.scale_x + self.left + 0.5
        y = np.arange(self.photo.height) * self.scale_y + self.top + 0.5
        x1, y1, x2, y2 = box
        return np.asarray(((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2)))


class _MapModel(Generic[_D]):
    """An ONNX model with the description beside it. `Parser` and `DensePose` are the two kinds."""

    def __init__(self, path: Path, description: _D, engine: OnnxRuntimeEngine):
        """Of a loaded model; `load` is the usual way."""
        self.path = path
        self.description: _D = description
        self._input = description.input
        self._engine = engine
        self._tensor = self._find_input()
        given = [tensor.name for tensor in engine.signature.outputs]
        for key in ("name", "parts", "u", "v", "coarse", "boxes", "scores"):
            name: str | None = getattr(description.output, key, None)
            if name is not None and name not in given:
                raise _invalid(
                    f"{self._json} names the output {name!r} ({key}), and {path} gives "
                    f"{', '.join(given)}",
                    fix="name one of these",
                )

    def _run(self, photo: npt.NDArray[np.uint8]) -> tuple[Mapping[str, _Array], _Placement]:
        """The model's outputs for a photo, and where the photo lies in what the model saw."""
        size = Size(*photo.shape[:2])
        given = self._input.size
        target = Size(given.height, given.width) if given else size
        if self._input.resize == "stretch":
            framed = resize(photo, target)
            placement = _Placement(size, size, 1, 0, 1, 0).within(None, target)
        else:
            fit = Fit(size, target)
            framed = np.empty((target.height, target.width, 3), np.float32)
            framed[:] = self._input.pad
            fit.crop(framed)[:] = resize(photo, fit.scaled)
            (left, top), (scale_x, scale_y) = fit.to_target(0, 0), fit.scale
            placement = _Placement(size, target, scale_x, left, scale_y, top)
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
                + (f", and {self._json} names {name!r}" if name not in inputs else ""),
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
                f"{self.path} takes {tensor}, and {self._json} says layout {self._input.layout} "
                f"and {says} (height x width)",
                fix="correct them there",
            )
        return tensor

    @property
    def _json(self) -> Path:
        return self.path.with_suffix(".json")

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
                fix=f"check mean, std and scale in {self._json}, and the model's precision",
            )
        return values

    def _check_channels(self, planes: _Plane, name: str, expected: int, why: str) -> None:
        if len(planes) != expected:
            raise _invalid(
                f"{self.path} gave {name} with {len(planes)} channels",
                expected=f"{expected}, {why}",
                fix=f"correct {self._json}, or export the model with that output",
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
    def load(cls, path: Path, threads: int | None = None) -> Self:
        """The model of an ONNX file and the JSON file beside it.

        Args:
            path: the ONNX file; `ParserDescription` defines the JSON file.
            threads: threads that run it, one per physical core for None.

        Raises:
            InputError: the description is missing, not valid, of another task, or does not agree
                with the model's inputs and outputs.
            BackendError: ONNX Runtime does not load the model.
        """
        description = _read_description(path, ParserDescription)
        label_set(description.label_set)
        return cls(path, description, open_model(path, threads))

    def parse(self, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The class ids of a photo: scores are scaled linearly, ids by nearest neighbours.

        Args:
            photo: uint8 RGB [H,W,3].

        Returns:
            Ids of `label_set`, uint8 [H,W].

        Raises:
            InputError: the model gives something else than its description says.
        """
        outputs, placement = self._run(photo)
        output = self.description.output
        name, layout = output.name, output.layout
        array = outputs[name]
        if output.kind == "logits":
            planes = self._planes(array, name, layout)
            classes = max(label_set(self.label_set).classes) + 1
            self._check_channels(planes, name, classes, f"one per class of {self.label_set}")
            return placement.within(None, _size(planes)).best(planes)
        if array.ndim == 2 or (array.ndim == 3 and len(array) == 1):
            array, layout = array.reshape(1, *array.shape[-2:]), "NCHW"
        planes = self._planes(array, name, layout)
        self._check_channels(planes, name, 1, "since it is the class ids")
        self._check_ids(planes[0], 255, name)
        return placement.within(None, _size(planes)).nearest(planes[0]).astype(np.uint8)


class DensePose(_MapModel[DensePoseDescription]):
    """A DensePose model: part, U and V per pixel."""

    @classmethod
    def load(cls, path: Path, threads: int | None = None) -> Self:
        """The model of an ONNX file and the JSON file beside it, as `Parser.load`.

        `DensePoseDescription` defines the JSON file.
        """
        return cls(path, _read_description(path, DensePoseDescription), open_model(path, threads))

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
        self._check_channels(planes, name, 3, "part, U and V")
        self._check_ids(planes[0], NUM_PARTS - 1, name)
        part, *uv = map(placement.within(None, _size(planes)).nearest, planes)
        return _iuv(part, np.stack(uv) * (255 / output.uv_max))

    def _heads(
        self, output: DensePoseHeads, outputs: Mapping[str, _Array], placement: _Placement
    ) -> npt.NDArray[np.uint8]:
        box = None
        names = {"parts": output.parts, "u": output.u, "v": output.v}
        if output.coarse is not None:
            names["coarse"] = output.coarse
        arrays = {key: outputs[name] for key, name in names.items()}
        if output.boxes is not None:
            scores = None if output.scores is None else outputs[output.scores]
            index, box = self._choose(output.boxes, outputs[output.boxes], scores)
            arrays = {key: array[index][None] for key, array in arrays.items()}
        heads = {key: self._planes(array, names[key], "NCHW") for key, array in arrays.items()}
        for key in ("parts", "u", "v"):
            self._check_channels(heads[key], names[key], NUM_PARTS, "one per part and background")
        place = {key: placement.within(box, _size(head)) for key, head in heads.items()}
        part = place["parts"].best(heads["parts"])
        if "coarse" in heads:
            part[place["coarse"].best(heads["coarse"]) == 0] = 0
        if box is not None:
            part[~placement.inside(box)] = 0
        uv = np.zeros((2, *part.shape), np.float32)
        for index in np.unique(part[part > 0]).tolist():
            here = part == index
            for plane, key in zip(uv, ("u", "v"), strict=True):
                plane[here] = place[key].linear(heads[key][index])[here]
        return _iuv(part, 255 * uv)

    def _choose(self, name: str, boxes: _Array, scores: _Array | None) -> tuple[int, _Box]:
        """The person of the highest score, and the box that the heads cover."""
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
                f"in {self._json}",
            )
        index = 0 if scores is None else int(np.argmax(scores.reshape(-1)))
        x1, y1, x2, y2 = boxes[index].tolist()
        if not (x2 > x1 and y2 > y1):
            raise _invalid(
                f"{self.path} gave the box {[x1, y1, x2, y2]}",
                expected="x1, y1, x2, y2 in pixels of its input, x1 < x2 and y1 < y2",
            )
        return index, (x1, y1, x2, y2)


def prepare(photo: Path, folder: Path, parser: Parser, densepose: DensePose) -> Person:
    """Writes the folder of the person in a photo, which `Person.load` reads.

    Nothing is written unless the maps are those of a person.

    Args:
        photo: a file that `read_photo` reads.
        folder: is made, or has to be empty.
        parser: gives the parse map.
        densepose: gives DensePose.

    Raises:
        InputError: the photo cannot be read, shows nobody, or a model's maps are not valid.
        BackendError: a model does not run.
        OutputError: the folder is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            Code.OUTPUT_EXISTS,
            f"{folder} is {'a folder that is not empty' if folder.is_dir() else 'a file'}",
            fix="remove it, or choose another",
        )
    image = read_photo(photo)
    ids = parser.parse(image)
    iuv = densepose.estimate(image)
    person = Person.from_arrays(image, ids, iuv, parser.label_set, "iuv-png", str(photo))
    suffix = photo.suffix.lower()
    # As it is, unless `Person.load` does not find it under that suffix, such as .jfif.
    with replacing_folder(folder) as temporary:
        if suffix in PICTURE_SUFFIXES:
            shutil.copyfile(photo, temporary / f"image{suffix}")
        else:
            Image.fromarray(image).save(temporary / "image.png")
        Image.fromarray(ids).save(temporary / "parse.png")
        Image.fromarray(iuv).save(temporary / "densepose.png")
        write_meta(temporary / "meta.json", parser.label_set, "iuv-png")
    return person


def _read_description(path: Path, kind: type[_D]) -> _D:
    if not path.is_file():
        raise _invalid(f"{path} does not exist", fix="give the ONNX file of a model")
    beside = path.with_suffix(".json")
    expected = f"how a photo goes into {path.name}, and what comes out"
    fix = f"`python -m pydoc garment_transfer.runtime.{kind.__name__}` describes the file"
    try:
        return msgspec.json.decode(beside.read_bytes(), type=kind)
    except FileNotFoundError:
        raise _invalid(f"{beside} does not exist", expected=expected, fix=fix) from None
    except (OSError, RecursionError, UnicodeDecodeError, msgspec.DecodeError) as error:
        if isinstance(error, msgspec.ValidationError) and "`$.task`" in str(error):
            fix = "check that --parser and --densepose are not swapped"
        raise _invalid(f"{beside} is not valid: {error}", expected=expected, fix=fix) from error


def _size(planes: _Array) -> Size:
    return Size(*planes.shape[-2:])


def _iuv(part: npt.NDArray[np.uint8 | np.float32], uv: _Plane) -> npt.NDArray[np.uint8]:
    """uint8 IUV [H,W,3] from parts and U, V in 0..255; 0 where there is no part."""
    planes = np.concatenate([part[None], np.where(part > 0, np.clip(np.rint(uv), 0, 255), 0)])
    return np.ascontiguousarray(planes.transpose(1, 2, 0).astype(np.uint8))


def _invalid(what: str, expected: str = "", fix: str = "") -> InputError:
    return InputError(Code.MAP_MODEL_INVALID, what, expected=expected, fix=fix)
