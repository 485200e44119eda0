"""From a photo to a person: human parsing and DensePose by ONNX models that the user has.

Such models differ in what they take and give, so a JSON file beside each says it
(`map_model.schema.json` specifies the file): `parser.json` for `parser.onnx`.
"""

from __future__ import annotations

import importlib.resources
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from garment_transfer.bundle import (
    NUM_PARTS,
    InputError,
    OutputError,
    Size,
    label_set,
    read_json,
    replacing,
    schema_error,
)
from garment_transfer.runtime.backends.onnxruntime import OnnxRuntimeEngine, open_model
from garment_transfer.runtime.photos import Fit, Person, read_rgb, resize

_SCHEMA: Final = "map_model.schema.json"

_NUMPY: Final = {"uint8": np.uint8, "float32": np.float32, "tensor(float16)": np.float16}

# Suffixes that `Person.load` finds; a photo under another, such as .jfif, is written as PNG.
_KEPT: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

# x1, y1, x2, y2: edges, so that pixel i reaches from i to i + 1.
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Placement:
    """Where pixel (x, y) of the photo lies in a map: (x * scale_x + left, y * scale_y + top).

    Coordinates are those of pixel centres, at integers.
    """

    scale_x: float
    left: float
    scale_y: float
    top: float

    def within(self, box: _Box, to: Size) -> _Placement:
        """The place in a map of size `to` that covers a box of this one, edges in pixels."""
        x1, y1, x2, y2 = box
        across, down = to.width / (x2 - x1), to.height / (y2 - y1)
        return _Placement(
            self.scale_x * across,
            (self.left + 0.5 - x1) * across - 0.5,
            self.scale_y * down,
            (self.top + 0.5 - y1) * down - 0.5,
        )


class MapModel:
    """An ONNX model with the description beside it. `Parser` and `DensePose` are the two kinds."""

    task: str

    def __init__(self, path: Path, description: Mapping[str, Any], engine: OnnxRuntimeEngine):
        """Of a loaded model; `load` is the usual way."""
        self.path = path
        self._input: Mapping[str, Any] = description["input"]
        self._output: Mapping[str, Any] = description["output"]
        self._engine = engine
        self._tensor = self._find_input()
        for key in ("name", "parts", "u", "v", "coarse", "boxes", "scores"):
            if key in self._output:
                self._check_output(key)

    @classmethod
    def load(cls, path: Path, threads: int | None = None) -> Self:
        """The model of an ONNX file and its JSON file.

        Raises InputError where the description is missing, not valid, of another task, or does
        not agree with the model's inputs and outputs; BackendError where ONNX Runtime does not
        load the model.
        """
        description = _read_description(path, cls.task)
        return cls(path, description, open_model(path, threads))

    def _run(
        self, photo: npt.NDArray[np.uint8]
    ) -> tuple[dict[str, npt.NDArray[Any]], Size, _Placement]:
        """The model's outputs for a photo, the size it saw, and where the photo lies in that."""
        size = Size(*photo.shape[:2])
        target = Size(**self._input["size"]) if "size" in self._input else size
        if self._input.get("resize", "fit") == "stretch":
            framed = resize(photo, target)
            placement = _Placement(1, 0, 1, 0).within((0, 0, size.width, size.height), target)
        else:
            fit = Fit(size, target)
            framed = np.empty((target.height, target.width, 3), np.float32)
            framed[:] = self._input.get("pad", (0, 0, 0))
            fit.crop(framed)[:] = resize(photo, fit.scaled)
            (left, top), (scale_x, scale_y) = fit.to_target(0, 0), fit.scale
            placement = _Placement(scale_x, left, scale_y, top)
        pixels = framed.astype(np.float32)
        if self._input["channels"] == "BGR":
            pixels = pixels[..., ::-1]
        pixels = pixels * np.float32(self._input.get("scale", 1))
        pixels = (pixels - np.float32(self._input["mean"])) / np.float32(self._input["std"])
        dtype = _NUMPY[self._tensor.dtype]
        if dtype == np.uint8:
            pixels = np.clip(np.rint(pixels), 0, 255)
        if self._input["layout"] == "NCHW":
            pixels = pixels.transpose(2, 0, 1)
        if len(self._tensor.shape) == 4:
            pixels = pixels[None]
        return (
            self._engine.run({self._tensor.name: np.ascontiguousarray(pixels, dtype)}),
            target,
            placement,
        )

    def _find_input(self) -> Any:
        """The input that takes the photo, compared with the description."""
        inputs = {tensor.name: tensor for tensor in self._engine.signature.inputs}
        name = self._input.get("name") or next(iter(inputs))
        listed = ", ".join(map(str, inputs.values()))
        if name not in inputs or len(inputs) > 1:
            raise InputError(
                f"{self.path} takes ({listed}); expected one input, a picture"
                + (f", and {self._json} names it {name!r}" if name not in inputs else "")
                + ": export the model so that the photo is all it takes, and name that input"
            )
        tensor = inputs[name]
        if tensor.dtype not in _NUMPY or len(tensor.shape) not in (3, 4):
            raise InputError(
                f"{self.path} takes {tensor}; expected a picture of float32, float16 or uint8 with "
                "three axes, or four with the batch"
            )
        axes = dict(zip(self._input["layout"][-len(tensor.shape) :], tensor.shape, strict=True))
        due = {"N": 1, "C": 3}
        if "size" in self._input:
            due |= {"H": self._input["size"]["height"], "W": self._input["size"]["width"]}
        if any(isinstance(have, int) and have != due.get(axis) for axis, have in axes.items()):
            size = (
                "the size {height}x{width}".format(**self._input["size"])
                if "H" in due
                else "no size"
            )
            raise InputError(
                f"{self.path} takes {tensor}, and {self._json} says layout "
                f"{self._input['layout']} and {size} (height x width); correct them there"
            )
        return tensor

    def _check_output(self, key: str) -> None:
        names = [tensor.name for tensor in self._engine.signature.outputs]
        if self._output[key] not in names:
            raise InputError(
                f"{self._json} names the output {self._output[key]!r} ({key}), and {self.path} "
                f"gives {', '.join(names)}; name one of these"
            )

    @property
    def _json(self) -> Path:
        return self.path.with_suffix(".json")

    def _planes(self, array: npt.NDArray[Any], name: str, layout: str) -> npt.NDArray[np.float32]:
        """An output [1,C,H,W], [C,H,W] or such with channels last, as float32 [C,H,W]."""
        planes = array[0] if array.ndim == 4 and len(array) == 1 else array
        if planes.ndim != 3:
            raise InputError(
                f"{self.path} gave {name} of shape {list(array.shape)}; expected {layout} with one "
                "photo in it"
            )
        if layout == "NHWC":
            planes = planes.transpose(2, 0, 1)
        if planes.dtype.kind == "f" and not np.isfinite(planes).all():
            raise InputError(
                f"{self.path} gave NaN or infinite values in {name}; check mean, std and scale in "
                f"{self._json}, and the model's precision"
            )
        return np.ascontiguousarray(planes, np.float32)

    def _check_channels(self, planes: npt.NDArray[Any], name: str, due: int, why: str) -> None:
        if len(planes) != due:
            raise InputError(
                f"{self.path} gave {name} with {len(planes)} channels; expected {due}, {why}: "
                f"correct {self._json}, or export the model with that output"
            )


class Parser(MapModel):
    """A human parser: a class id per pixel."""

    task = "parsing"

    def __init__(self, path: Path, description: Mapping[str, Any], engine: OnnxRuntimeEngine):
        """Of a loaded model; `load` is the usual way."""
        super().__init__(path, description, engine)
        self.label_set: str = description["label_set"]

    def parse(self, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The class ids of a photo, uint8 [H,W] of its size; the photo is uint8 RGB [H,W,3].

        Scores are scaled before the best class is taken, ids by nearest neighbours. InputError
        where the model gives something else than its description says.
        """
        outputs, target, placement = self._run(photo)
        name, layout = self._output["name"], self._output["layout"]
        array = outputs[name]
        if self._output["kind"] == "labels":
            if array.ndim == 2 or (array.ndim == 3 and len(array) == 1):
                array = array.reshape(1, *array.shape[-2:])
                layout = "NCHW"
            planes = self._planes(array, name, layout)
            self._check_channels(planes, name, 1, "since it is the class ids")
            _check_whole(planes[0], 255, self.path, name)
            return _nearest(planes[0], _over(planes, target, placement), photo).astype(np.uint8)
        planes = self._planes(array, name, layout)
        count = max(label_set(self.label_set).classes) + 1
        self._check_channels(planes, name, count, f"one per class of {self.label_set}")
        return _best(planes, _over(planes, target, placement), photo)


class DensePose(MapModel):
    """DensePose: part, U and V per pixel."""

    task = "densepose"

    def estimate(self, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """DensePose of a photo, uint8 IUV [H,W,3] of its size; the photo is uint8 RGB [H,W,3].

        InputError where the model finds nobody, or gives something else than its description
        says.
        """
        outputs, target, placement = self._run(photo)
        if self._output["kind"] == "iuv":
            return self._picture(outputs, target, placement, photo)
        return self._heads(outputs, target, placement, photo)

    def _picture(
        self,
        outputs: Mapping[str, npt.NDArray[Any]],
        target: Size,
        placement: _Placement,
        photo: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.uint8]:
        name = self._output["name"]
        planes = self._planes(outputs[name], name, self._output["layout"])
        self._check_channels(planes, name, 3, "part, U and V")
        _check_whole(planes[0], NUM_PARTS - 1, self.path, name)
        place = _over(planes, target, placement)
        part, u, v = (_nearest(plane, place, photo) for plane in planes)
        scale = 255 / self._output["uv_max"]
        return _iuv(part, np.stack([u, v]) * scale)

    def _heads(
        self,
        outputs: Mapping[str, npt.NDArray[Any]],
        target: Size,
        placement: _Placement,
        photo: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.uint8]:
        box = None
        names = {
            key: self._output[key] for key in ("parts", "u", "v", "coarse") if key in self._output
        }
        arrays = {key: outputs[name] for key, name in names.items()}
        if "boxes" in self._output:
            index, box = self._choose(outputs)
            arrays = {key: array[index][None] for key, array in arrays.items()}
        heads = {key: self._planes(array, names[key], "NCHW") for key, array in arrays.items()}
        for key in ("parts", "u", "v"):
            self._check_channels(heads[key], names[key], NUM_PARTS, "one per part and background")
        place = {
            key: placement.within(box or (0, 0, target.width, target.height), _size(head))
            for key, head in heads.items()
        }
        part = _best(heads["parts"], place["parts"], photo)
        if "coarse" in heads:
            part[_best(heads["coarse"], place["coarse"], photo) == 0] = 0
        if box is not None:
            part[~_inside(box, placement, photo)] = 0
        uv = np.zeros((2, *part.shape), np.float32)
        for which in np.unique(part[part > 0]):
            here = part == which
            for plane, key in zip(uv, ("u", "v"), strict=True):
                plane[here] = _linear(heads[key][which], place[key], photo)[here]
        return _iuv(part, 255 * uv)

    def _choose(self, outputs: Mapping[str, npt.NDArray[Any]]) -> tuple[int, _Box]:
        """The person of the highest score, and the box that the heads cover."""
        boxes = outputs[self._output["boxes"]]
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise InputError(
                f"{self.path} gave {self._output['boxes']} of shape {list(boxes.shape)}; expected "
                "boxes [n,4] of x1, y1, x2, y2"
            )
        if not len(boxes):
            raise InputError(
                f"{self.path} finds no person in the photo; choose one that shows a whole person, "
                f"and check channels, scale, mean and std in {self._json}"
            )
        index = 0
        if "scores" in self._output:
            index = int(np.argmax(outputs[self._output["scores"]].reshape(-1)))
        x1, y1, x2, y2 = map(float, boxes[index])
        if not (x2 > x1 and y2 > y1):
            raise InputError(
                f"{self.path} gave the box {[x1, y1, x2, y2]}; expected x1, y1, x2, y2 in pixels "
                "of its input, x1 < x2 and y1 < y2"
            )
        return index, (x1, y1, x2, y2)


def prepare(photo: Path, folder: Path, parser: Parser, densepose: DensePose) -> Person:
    """Writes the folder of the person in a photo, which `Person.load` reads; the person.

    The folder is made, or has to be empty. Nothing is written unless the maps are those of a
    person. Raises InputError or BackendError, OutputError where the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "a folder that is not empty" if folder.is_dir() else "a file"
        raise OutputError(f"{folder} is {what}; remove it, or choose another")
    image = read_rgb(photo)
    ids = parser.parse(image)
    iuv = densepose.estimate(image)
    person = Person.from_arrays(image, ids, iuv, parser.label_set, "iuv-png", str(photo))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made: {error.strerror}; choose a place that you may write to"
        ) from error
    suffix = photo.suffix.lower()
    with replacing(folder / f"image{suffix if suffix in _KEPT else '.png'}") as temporary:
        if suffix in _KEPT:
            shutil.copyfile(photo, temporary)
        else:
            Image.fromarray(image).save(temporary)
    for name, array in (("parse.png", ids), ("densepose.png", iuv)):
        with replacing(folder / name) as temporary:
            Image.fromarray(array).save(temporary)
    # Last: a folder without it is no person yet.
    with replacing(folder / "meta.json") as temporary:
        meta = {"parse": parser.label_set, "densepose": "iuv-png"}
        temporary.write_text(json.dumps(meta) + "\n", encoding="utf-8")
    return person


def _read_description(path: Path, task: str) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the ONNX file of a {task} model")
    beside = path.with_suffix(".json")
    schema_file = importlib.resources.files("garment_transfer.runtime").joinpath(_SCHEMA)
    try:
        fields = read_json(beside)
    except FileNotFoundError:
        raise InputError(
            f"{beside} does not exist: it says how a photo goes into {path.name} and what comes "
            f"out; write it as {schema_file} specifies, the README has examples"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{beside} cannot be read as JSON ({error}); {schema_file} specifies it"
        ) from error
    wrong = schema_error(fields, _SCHEMA, "garment_transfer.runtime")
    if wrong is not None:
        raise InputError(f"{beside}: {wrong}; {schema_file} specifies the file")
    if fields["task"] != task:
        raise InputError(
            f"{beside} describes a model for {fields['task']}, where one for {task} is due; check "
            "that --parser and --densepose are not swapped"
        )
    if task == "parsing":
        label_set(fields["label_set"])
    return dict(fields)


def _size(planes: npt.NDArray[Any]) -> Size:
    return Size(*planes.shape[-2:])


def _over(planes: npt.NDArray[Any], target: Size, placement: _Placement) -> _Placement:
    """The placement in an output that covers all of what the model saw."""
    return placement.within((0, 0, target.width, target.height), _size(planes))


def _linear(
    plane: npt.NDArray[np.float32], place: _Placement, photo: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """A plane of scores or coordinates at the photo's pixels, linearly, edges repeated."""
    matrix = np.array([[place.scale_x, 0, place.left], [0, place.scale_y, place.top]])
    height, width = photo.shape[:2]
    return np.asarray(
        cv2.warpAffine(
            plane,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


def _nearest(
    plane: npt.NDArray[np.float32], place: _Placement, photo: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """A plane of ids at the photo's pixels, by nearest neighbours."""
    height, width = photo.shape[:2]
    rows = np.rint(np.arange(height) * place.scale_y + place.top).astype(int)
    columns = np.rint(np.arange(width) * place.scale_x + place.left).astype(int)
    rows, columns = rows.clip(0, plane.shape[0] - 1), columns.clip(0, plane.shape[1] - 1)
    return plane[rows[:, None], columns]


def _best(
    planes: npt.NDArray[np.float32], place: _Placement, photo: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """The channel of the highest score at the photo's pixels, uint8 [H,W].

    One channel after another: all at a large photo's size would take gigabytes.
    """
    best = _linear(planes[0], place, photo)
    ids = np.zeros(best.shape, np.uint8)
    for index, plane in enumerate(planes[1:], start=1):
        score = _linear(plane, place, photo)
        ids[score > best] = index
        np.maximum(best, score, out=best)
    return ids


def _inside(
    box: _Box, placement: _Placement, photo: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Which pixels of the photo lie in a box of what the model saw."""
    height, width = photo.shape[:2]
    x = np.arange(width) * placement.scale_x + placement.left + 0.5
    y = np.arange(height) * placement.scale_y + placement.top + 0.5
    x1, y1, x2, y2 = box
    return np.asarray(((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2)))


def _iuv(part: npt.NDArray[Any], uv: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """uint8 IUV [H,W,3] from parts and U, V in 0..255; 0 where there is no part."""
    planes = np.concatenate([part[None], np.where(part > 0, np.clip(np.rint(uv), 0, 255), 0)])
    return np.ascontiguousarray(planes.transpose(1, 2, 0).astype(np.uint8))


def _check_whole(plane: npt.NDArray[np.float32], most: int, path: Path, name: str) -> None:
    if plane.min() < 0 or plane.max() > most or (plane != np.rint(plane)).any():
        raise InputError(
            f"{path} gave {name} with ids from {plane.min():g} to {plane.max():g}; expected whole "
            f"numbers 0..{most}: check the order of its channels, and whether it gives scores"
        )
