"""From a photo to a person, with small models that read classes and parts from colours.

Every class has a colour, a corner of the RGB cube, and a model's score for a class is how near a
pixel, as the description beside the model says that it goes in, comes to that colour as it ought
to go in. So a slip in order, scale or place of anything gives other classes.
"""

from __future__ import annotations

import json
import pydoc
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto
from PIL import Image

from garment_transfer.bundle import BackendError, Code, InputError, OutputError
from garment_transfer.runtime import (
    DensePose,
    Parser,
    ParserDescription,
    Person,
    model_kinds,
    prepare,
)
from garment_transfer.runtime.photos import read_rgb

#: Colours of the seven classes, RGB.
COLOURS = np.array(
    [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)], float
)

#: The DensePose part that a class's colour stands for: arms, since blocks of torsos and heads would
#: be several people.
PART_OF = np.array([0, 19, 20, 15, 16, 17, 21])

#: As the descriptions below say it: three different numbers each, so that their order matters.
MEAN = np.array([0.1, 0.3, 0.6])
STD = np.array([0.2, 0.5, 0.9])


def ids_of_blocks(height: int, width: int, block: int, seed: int = 0) -> np.ndarray:
    """Class ids in random blocks, with garment and background among them."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, len(COLOURS), (height // block, width // block))
    blocks[0, 0], blocks[-1, -1] = 4, 0
    return np.kron(blocks, np.ones((block, block), int)).astype(np.uint8)


def photo_of(ids: np.ndarray) -> np.ndarray:
    return (255 * COLOURS[ids]).astype(np.uint8)


def as_it_goes_in(colours: np.ndarray, description: dict[str, Any]) -> np.ndarray:
    """Colours [n,3] of 0..1, RGB, as the model sees them."""
    given = description["input"]
    ordered = 255 * (colours[:, ::-1] if given["channels"] == "BGR" else colours)
    return (ordered * given.get("scale", 1) - given["mean"]) / given["std"]


class Net:
    """An ONNX model under construction: `flat` is the photo as float32 [1,3,H,W]."""

    def __init__(
        self, description: dict[str, Any], dtype: int = TensorProto.FLOAT, batch: bool = True
    ):
        self.description = description
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.outputs: list[Any] = []
        given = description["input"]
        size = given.get("size")
        height, width = (size["height"], size["width"]) if size else ("h", "w")
        shape = [3, height, width] if given["layout"] == "NCHW" else [height, width, 3]
        self.input = onnx.helper.make_tensor_value_info(
            "photo", dtype, [1, *shape] if batch else shape
        )
        self.add("Cast", "photo", "cast", to=TensorProto.FLOAT)
        if not batch:
            axes = self.constant(np.array([0]))
            self.nodes.append(onnx.helper.make_node("Unsqueeze", ["cast", axes], ["four"]))
        order = [0, 1, 2, 3] if given["layout"] == "NCHW" else [0, 3, 1, 2]
        self.add("Transpose", "cast" if batch else "four", "flat", perm=order)

    def add(self, kind: str, source: str, result: str, *more: str, **attributes: Any) -> str:
        self.nodes.append(onnx.helper.make_node(kind, [source, *more], [result], **attributes))
        return result

    def constant(self, array: np.ndarray) -> str:
        name = f"constant{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    def scores(
        self, result: str, channel_of: np.ndarray, channels: int, source: str = "flat"
    ) -> str:
        """Scores [1,channels,H,W]: how near a pixel comes to the colour that has the channel."""
        colours = as_it_goes_in(COLOURS, self.description)
        weight = np.zeros((channels, 3, 1, 1), np.float32)
        bias = np.full(channels, -1e6, np.float32)
        for channel, colour in zip(channel_of, colours, strict=True):
            weight[channel, :, 0, 0] = 2 * colour
            bias[channel] = -np.square(colour).sum()
        return self.add("Conv", source, result, self.constant(weight), self.constant(bias))

    def smaller(self, source: str, result: str, factor: int) -> str:
        return self.add(
            "AveragePool", source, result, kernel_shape=[factor, factor], strides=[factor, factor]
        )

    def give(self, source: str, name: str, rank: int, dtype: int = TensorProto.FLOAT) -> None:
        self.add("Cast", source, name, to=dtype)
        shape = [f"{name}{axis}" for axis in range(rank)]
        self.outputs.append(onnx.helper.make_tensor_value_info(name, dtype, shape))

    def save(self, folder: Path, stem: str) -> Path:
        graph = onnx.helper.make_graph(
            self.nodes, stem, [self.input], self.outputs, self.initializers
        )
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
        )
        onnx.checker.check_model(model)
        onnx.save(model, folder / f"{stem}.onnx")
        (folder / f"{stem}.json").write_text(json.dumps(self.description))
        return folder / f"{stem}.onnx"


def description_of(
    task: str, output: dict[str, Any], size: tuple[int, int] | None = None, **given: Any
) -> dict[str, Any]:
    fields = {
        "channels": "BGR",
        "layout": "NCHW",
        "scale": 1 / 255,
        "mean": MEAN.tolist(),
        "std": STD.tolist(),
        **given,
    }
    if size:
        fields["size"] = {"height": size[0], "width": size[1]}
    description: dict[str, Any] = {"task": task, "input": fields, "output": output}
    if task == "parsing":
        description["label_set"] = "classes7"
    return description


LOGITS = {"name": "logits", "kind": "logits", "layout": "NCHW"}
HEADS = {"kind": "heads", "parts": "parts", "u": "u", "v": "v"}


def parser_model(
    folder: Path,
    description: dict[str, Any],
    pooled: int = 1,
    dtype: int = TensorProto.FLOAT,
    batch: bool = True,
) -> Path:
    """A parser of the colours, whose output is `pooled` times smaller than its input."""
    net = Net(description, dtype, batch)
    source = net.smaller("flat", "pooled", pooled) if pooled > 1 else "flat"
    scores = net.scores("scores", np.arange(7), 7, source)
    output = description["output"]
    if output["kind"] == "logits":
        if output["layout"] == "NHWC":
            scores = net.add("Transpose", scores, "last", perm=[0, 2, 3, 1])
        net.give(scores, output["name"], 4)
    else:
        labels = net.add("ArgMax", scores, "labels_", axis=1, keepdims=0)
        net.give(labels, output["name"], 3, TensorProto.INT64)
    return net.save(folder, "parser")


def uv_of(part: np.ndarray) -> np.ndarray:
    """U and V of a part, 0..255: other numbers for each."""
    return np.rint(255 * np.stack([part / 40, 1 - part / 30], axis=-1)) * (part > 0)[..., None]


def add_uv(net: Net, like: str, names: tuple[str, str] = ("u", "v")) -> None:
    """U and V heads, one plane of its own number per part."""
    for name, values in zip(names, (np.arange(25) / 40, 1 - np.arange(25) / 30), strict=True):
        nothing = net.add("Sub", like, f"{name}_nothing", like)
        plane = net.constant(values.astype(np.float32)[None, :, None, None])
        net.give(net.add("Add", nothing, f"{name}_", plane), name, 4)


def densepose_model(folder: Path, description: dict[str, Any], pooled: int = 1) -> Path:
    net = Net(description)
    source = net.smaller("flat", "pooled", pooled) if pooled > 1 else "flat"
    parts = net.scores("parts_", PART_OF, 25, source)
    net.give(parts, "parts", 4)
    add_uv(net, parts)
    return net.save(folder, "densepose")


@pytest.mark.parametrize(
    ("size", "given", "pooled"),
    [
        (None, {}, 1),
        (None, {"channels": "RGB", "layout": "NHWC"}, 1),
        ((64, 64), {}, 1),  # half as large, with padding at the sides
        ((64, 64), {"pad": [255, 255, 255], "layout": "NHWC", "channels": "RGB"}, 1),
        ((64, 64), {"resize": "stretch"}, 1),
        ((256, 128), {}, 1),
        ((256, 192), {}, 4),  # a smaller output
        ((128, 256), {}, 2),
    ],
)
@pytest.mark.parametrize("kind", ["logits", "labels"])
def test_parser(tmp_path, size, given, pooled, kind):
    ids = ids_of_blocks(128, 64, 16)
    description = description_of("parsing", {**LOGITS, "kind": kind}, size, **given)
    parser = Parser.load(parser_model(tmp_path, description, pooled))
    assert parser.label_set == "classes7"
    assert (parser.parse(photo_of(ids)) == ids).all()


@pytest.mark.parametrize(
    ("dtype", "batch"), [(TensorProto.FLOAT16, True), (TensorProto.FLOAT, False)]
)
def test_parser_of_other_inputs(tmp_path, dtype, batch):
    ids = ids_of_blocks(64, 64, 16)
    output = {**LOGITS, "layout": "NHWC"}
    description = description_of("parsing", output, (64, 64))
    parser = Parser.load(parser_model(tmp_path, description, 1, dtype, batch))
    assert (parser.parse(photo_of(ids)) == ids).all()


def test_parser_of_bytes(tmp_path):
    ids = ids_of_blocks(64, 48, 16)
    bytes_in = {"scale": 1, "mean": [0, 0, 0], "std": [1, 1, 1], "layout": "NHWC"}
    description = description_of("parsing", LOGITS, **bytes_in)
    parser = Parser.load(parser_model(tmp_path, description, 1, TensorProto.UINT8))
    assert (parser.parse(photo_of(ids)) == ids).all()


def test_nothing_is_shifted_at_odd_sizes(tmp_path):
    """A disc comes back where it was, through 473 pixels and an output a fourth of that."""
    height, width = 311, 207
    rows, columns = np.mgrid[:height, :width]
    ids = np.where(np.hypot(rows - 140.3, columns - 110.8) < 70, 4, 0).astype(np.uint8)
    description = description_of("parsing", LOGITS, (473, 473))
    found = Parser.load(parser_model(tmp_path, description, 4)).parse(photo_of(ids))
    # the pool leaves the last pixel of 473 out, which puts its output 1/946 off
    assert abs(np.argwhere(found == 4).mean(axis=0) - (140.3, 110.8)).max() < 0.5
    union, both = ((found == 4) | (ids == 4)).sum(), ((found == 4) & (ids == 4)).sum()
    assert both / union > 0.97


@pytest.mark.parametrize(("size", "pooled"), [(None, 1), ((64, 64), 1), ((256, 256), 2)])
def test_densepose_heads(tmp_path, size, pooled):
    ids = ids_of_blocks(128, 64, 16, seed=1)
    description = description_of("densepose", HEADS, size)
    iuv = DensePose.load(densepose_model(tmp_path, description, pooled)).estimate(photo_of(ids))
    assert iuv.dtype == np.uint8
    assert (iuv[..., 0] == PART_OF[ids]).all()
    assert np.abs(iuv[..., 1:] - uv_of(PART_OF[ids])).max() <= 1


@pytest.mark.parametrize(("layout", "uv_max"), [("NCHW", 1), ("NHWC", 255)])
def test_densepose_picture(tmp_path, layout, uv_max):
    ids = ids_of_blocks(64, 64, 16, seed=3)
    output = {"kind": "iuv", "name": "iuv", "layout": layout, "uv_max": uv_max}
    net = Net(description_of("densepose", output, (32, 32)))
    best = net.add("Hardmax", net.scores("scores", PART_OF, 25), "best", axis=1)
    table = np.zeros((3, 25, 1, 1), np.float32)
    table[0, :, 0, 0] = np.arange(25)
    table[1:, :, 0, 0] = uv_of(np.arange(25)).T * uv_max / 255
    picture = net.add("Conv", best, "picture", net.constant(table))
    if layout == "NHWC":
        picture = net.add("Transpose", picture, "last", perm=[0, 2, 3, 1])
    net.give(picture, "iuv", 4)
    iuv = DensePose.load(net.save(tmp_path, "densepose")).estimate(photo_of(ids))
    assert (iuv[..., 0] == PART_OF[ids]).all()
    assert np.abs(iuv[..., 1:] - uv_of(PART_OF[ids])).max() <= 1


#: The parser kinds, with the size of what such models give, and how many classes.
PARSER_KINDS = {"schp-lip": (119, 20), "schp-atr": (128, 18), "segformer-clothes": (128, 18)}


def kind_of(name: str) -> dict[str, Any]:
    """The ready description of a kind."""
    files = model_kinds("parsing") | model_kinds("densepose")
    description: dict[str, Any] = json.loads(files[name].read_text())
    return description


def smooth(*shape: int) -> torch.Tensor:
    """Random scores of a standard deviation of about 1, which change over eight pixels or so."""
    coarse = torch.randn(*shape[:-2], *(-(-side // 8) for side in shape[-2:]))
    return F.interpolate(coarse, shape[-2:], mode="bicubic")


def published_parser(folder: Path, kind: str) -> tuple[Path, torch.Tensor]:
    """A parser of a kind's shapes that sees the same in every photo; and its scores [1,C,h,w]."""
    side, classes = PARSER_KINDS[kind]
    scores = smooth(1, classes, side, side)
    # SCHP's code gives three outputs: what it parses, that with the edges fused in, and edges
    given = {"b": scores}
    if kind.startswith("schp"):
        given = {"a": -scores, "b": scores, "c": scores[:, :2]}
    net = Net(kind_of(kind))
    for name, values in given.items():
        net.give(net.constant(values.numpy()), name, 4)
        declared = onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape)
        net.outputs[-1].CopyFrom(declared)
    path = net.save(folder, "parser")
    path.with_suffix(".json").unlink()
    return path, scores


@pytest.mark.parametrize("kind", PARSER_KINDS)
@pytest.mark.parametrize("factor", [1, 2, 3.5])
def test_scores_are_where_the_published_programs_put_them(tmp_path, kind, factor):
    """At a photo's pixels as torch samples them, corner to corner or over the same area."""
    torch.manual_seed(0)
    path, scores = published_parser(tmp_path, kind)
    corners = kind.startswith("schp")
    assert corners == kind_of(kind)["output"].get("align_corners", False)
    size = kind_of(kind)["input"]["size"]
    places = []
    for side in (size["width"], size["height"]):
        pixels = round(factor * side)
        seen = (torch.arange(pixels) + 0.5) * side / pixels - 0.5  # in the model's input
        places.append(2 * seen / (side - 1) - 1 if corners else (2 * seen + 1) / side - 1)
    y, x = torch.meshgrid(places[1], places[0], indexing="ij")
    grid = torch.stack([x, y], -1)[None]
    expected = F.grid_sample(scores, grid, padding_mode="border", align_corners=corners).argmax(1)
    found = Parser.load(path, 1, kind).parse(np.zeros((*y.shape, 3), np.uint8))
    assert len(np.unique(found)) > 9
    assert (found == expected[0].numpy()).mean() > 0.998


def test_densepose_heads_in_boxes(tmp_path):
    """As detectron2's DensePose R-CNN gives them, compared with its rule in torch.

    In a box of whole pixels each head is scaled to the box bilinearly; parts count where the body's
    score is the highest; U and V are those of the part. Everybody who is surely there is in it.
    """
    torch.manual_seed(0)
    boxes = ((10, 20, 60, 90), (200, 120, 611, 743), (620, 30, 790, 700))
    heads = [smooth(3, channels, 112, 112) for channels in (2, 25, 25, 25)]
    net = Net(kind_of("densepose-rcnn"), batch=False)
    net.give(net.constant(np.array(boxes, np.float32)), "pred_boxes", 2)
    net.give(net.constant(np.array([0.6, 0.9, 0.4], np.float32)), "scores", 1)
    for name, head in zip(("coarse_segm", "fine_segm", "u", "v"), heads, strict=True):
        net.give(net.constant(head.numpy()), name, 4)
    path = net.save(tmp_path, "densepose")
    path.with_suffix(".json").unlink()
    photo = np.zeros((800, 800, 3), np.uint8)
    found = DensePose.load(path, 1, "densepose-rcnn").estimate(photo)
    for index, (x1, y1, x2, y2) in enumerate(boxes[:2]):
        scaled = [
            F.interpolate(head[index : index + 1], (y2 - y1, x2 - x1), mode="bilinear")[0]
            for head in heads
        ]
        part = torch.where(scaled[0].argmax(0) > 0, scaled[1].argmax(0), 0)
        uv = [head.gather(0, part[None])[0].clamp(0, 1) * 255 * (part > 0) for head in scaled[2:]]
        expected = torch.stack([part, *uv], -1).numpy()
        inside = found[y1:y2, x1:x2]
        assert len(np.unique(inside[..., 0])) > 5
        same = inside[..., 0] == expected[..., 0]
        assert same.mean() > 0.999
        assert np.abs(inside[same] - expected[same]).max() < 1.01
        found[y1:y2, x1:x2] = 0
    assert not found.any()


def test_the_person_alone_goes_in(tmp_path):
    """A parser for pictures of one person sees a small one as large as it can."""
    ids = np.zeros((480, 640), np.uint8)
    ids[200:360, 300:460] = ids_of_blocks(160, 160, 16)
    densepose = DensePose.load(
        densepose_model(tmp_path, description_of("densepose", HEADS, (480, 640)))
    )
    description = description_of("parsing", LOGITS, (48, 48))
    photo = tmp_path / "photo.png"
    Image.fromarray(photo_of(ids)).save(photo)
    right = {}
    for region in ("photo", "person"):
        path = parser_model(tmp_path, {**description, "region": region})
        person = prepare(photo, tmp_path / region, Parser.load(path), densepose)
        right[region] = (person.parsing == ids)[200:360, 300:460].mean()
    assert right["person"] > 0.9 > right["photo"] + 0.1


def test_kinds(tmp_path):
    path, _ = published_parser(tmp_path, "schp-lip")
    with pytest.raises(InputError, match=r"no kind 'schp' .*one of schp-atr, schp-lip, segformer"):
        Parser.load(path, kind="schp")
    with pytest.raises(InputError, match=r"no kind 'schp-lip' .* densepose; .*densepose-rcnn"):
        DensePose.load(path, kind="schp-lip")
    with pytest.raises(
        InputError, match=r"parser\.json does not exist.*where it is one of schp-atr"
    ):
        Parser.load(path)
    size = r"takes photo .*473, 473\], and the kind schp-atr says .*512x512.*docs/prepare\.md"
    with pytest.raises(InputError, match=size):
        Parser.load(path, kind="schp-atr")
    path.with_suffix(".json").write_text(json.dumps(kind_of("schp-lip")))
    with pytest.raises(InputError, match=r"described twice: by the kind schp-lip and by .*\.json"):
        Parser.load(path, kind="schp-lip")
    # the shapes of one, the classes of the other
    atr, _ = published_parser(tmp_path, "segformer-clothes")
    lip = {**kind_of("segformer-clothes"), "label_set": "lip20"}
    atr.with_suffix(".json").write_text(json.dumps(lip))
    with pytest.raises(InputError, match=r"gives b \[1, 18, 128, 128\]; expected scores with 20"):
        Parser.load(atr)


def test_the_command_takes_kinds(tmp_path, invoke):
    path, _ = published_parser(tmp_path, "schp-lip")
    given = ("prepare", "photo.jpg", "-o", tmp_path / "anna")
    models = ("--parser", path, "--densepose", path)
    for kinds, unknown in ((("lip",), "lip"), (("schp-lip", "--densepose-kind", "x"), "x")):
        printed = invoke(*given, *models, "--parser-kind", *kinds, code=1)
        assert f"there is no kind '{unknown}'" in printed
    # a file that is called by its kind
    path.rename(tmp_path / "schp-lip.onnx")
    named = ("--parser", tmp_path / "schp-lip", "--densepose", tmp_path / "densepose-rcnn")
    printed = invoke(*given, *named, code=1)
    assert f"{tmp_path}/densepose-rcnn.onnx does not exist" in printed
    text = invoke("prepare", "--help")
    for name in model_kinds("parsing") | model_kinds("densepose"):
        assert name in text


@pytest.fixture
def models(tmp_path) -> tuple[Path, Path]:
    """A parser and a DensePose model for photos of any size."""
    return (
        parser_model(tmp_path, description_of("parsing", LOGITS)),
        densepose_model(tmp_path, description_of("densepose", HEADS, (64, 64))),
    )


@pytest.fixture
def photo(tmp_path) -> Path:
    """A photo that is stored lying on its side."""
    upright = photo_of(ids_of_blocks(128, 64, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    path = tmp_path / "holiday.png"
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(path, exif=exif)
    assert (read_rgb(path) == upright).all()
    return path


def test_prepare(invoke, models, photo, tmp_path, tiny_bundle):
    folder = tmp_path / "anna"
    arguments = ("--parser", models[0], "--densepose", models[1], "--threads", 1)
    printed = invoke("prepare", photo, "-o", folder, *arguments)
    assert "a person of 64x128 pixels" in printed
    assert sorted(path.name for path in folder.iterdir()) == [
        "densepose.png",
        "image.png",
        "meta.json",
        "parse.png",
    ]
    assert (folder / "image.png").read_bytes() == photo.read_bytes()
    person = Person.load(folder)
    ids = ids_of_blocks(128, 64, 16)
    assert (person.parsing == ids).all()
    assert (person.densepose[..., 0] == PART_OF[ids]).all()
    assert (person.image == photo_of(ids)).all()
    # and it is what a transfer takes
    output = tmp_path / "out.png"
    options = ("--bundle", tiny_bundle, "--threads", 1)
    invoke("transfer", folder, folder, "-o", output, *options)
    assert Image.open(output).size == (64, 128)


def test_a_photo_under_another_name_becomes_png(models, photo, tmp_path):
    other = tmp_path / "photo.jpe"
    Image.fromarray(read_rgb(photo)).save(other, "JPEG", quality=95)
    folder = tmp_path / "anna"
    prepare(other, folder, Parser.load(models[0]), DensePose.load(models[1]))
    assert (Person.load(folder).image == read_rgb(other)).all()


def test_nothing_is_written_for_a_photo_without_a_person(models, tmp_path):
    path = tmp_path / "wall.png"
    Image.new("RGB", (64, 128)).save(path)
    with pytest.raises(InputError, match="shows a person without a body"):
        prepare(path, tmp_path / "anna", Parser.load(models[0]), DensePose.load(models[1]))
    assert not (tmp_path / "anna").exists()


def test_a_folder_that_is_not_empty(models, photo, tmp_path):
    parser, densepose = Parser.load(models[0]), DensePose.load(models[1])
    with pytest.raises(OutputError, match=r"is a folder that is not empty"):
        prepare(photo, tmp_path, parser, densepose)
    with pytest.raises(OutputError, match=r"holiday\.png is a file"):
        prepare(photo, photo, parser, densepose)


def test_the_description_is_checked(models):
    parser, densepose = models
    good = json.loads(parser.with_suffix(".json").read_text())

    def write(**fields: Any) -> None:
        parser.with_suffix(".json").write_text(json.dumps({**good, **fields}))

    with pytest.raises(InputError, match=r"none\.onnx does not exist"):
        Parser.load(parser.with_name("none.onnx"))
    with pytest.raises(InputError, match=r"densepose\.json is not valid.*not swapped"):
        Parser.load(densepose)
    write(label_set="ade20k")
    with pytest.raises(InputError, match="unknown label set 'ade20k'"):
        Parser.load(parser)
    write(output={**LOGITS, "name": "heatmap"})
    with pytest.raises(InputError, match=r"'heatmap' \(name\).*gives logits"):
        Parser.load(parser)
    write(input={**good["input"], "name": "picture"})
    with pytest.raises(InputError, match=r"takes \(photo float32.*names 'picture'"):
        Parser.load(parser)
    write(input={**good["input"], "layout": "NHWC"})
    with pytest.raises(InputError, match=r"says layout NHWC and no size"):
        Parser.load(parser)
    fixed = description_of("densepose", HEADS, (64, 64))["input"]
    fixed["size"]["width"] = 48
    densepose_json = densepose.with_suffix(".json")
    densepose_json.write_text(json.dumps({"task": "densepose", "input": fixed, "output": HEADS}))
    with pytest.raises(InputError, match=r"takes photo .*64, 64\], .* the size 64x48 \(height"):
        DensePose.load(densepose)
    for wrong, where in (
        ({"mean": [0.5]}, "input.mean"),
        ({"std": [1, 0, 1]}, "input.std"),
        ({"size": {"height": 8193, "width": 1}}, "input.size.height"),
        ({"channel": "RGB"}, "unknown field `channel`"),
    ):
        write(input={**good["input"], **wrong})
        with pytest.raises(InputError, match=rf"parser\.json.*{where}.*pydoc (\S+)`") as error:
            Parser.load(parser)
        assert error.value.code == Code.MAP_MODEL_INVALID
        named = re.findall(r"pydoc (\S+)`", error.value.fix)
        assert pydoc.locate(named[0]) is ParserDescription
    for wrong, where in (
        ({"input": {**good["input"], "layout": "CHW"}}, "one of NCHW, NHWC"),
        ({"output": {**LOGITS, "kind": "heatmap"}}, "one of labels, logits"),
    ):
        write(**wrong)
        with pytest.raises(InputError, match=rf"parser\.json is not valid.*expected {where};"):
            Parser.load(parser)
    write(label_set="lip20")
    photo = photo_of(ids_of_blocks(64, 32, 16))
    with pytest.raises(InputError, match=r"gives logits .*20 channels .*one per class of lip20"):
        Parser.load(parser).parse(photo)
    fixed["size"]["width"] = 64
    picture = {"kind": "picture", "name": "parts"}
    densepose_json.write_text(json.dumps({"task": "densepose", "input": fixed, "output": picture}))
    with pytest.raises(InputError, match=r"expected one of heads, iuv;"):
        DensePose.load(densepose)
    densepose_json.write_text(json.dumps({"task": "densepose", "input": fixed, "output": HEADS}))
    write(output={**LOGITS, "kind": "labels"})
    with pytest.raises(InputError, match=r"logits with 7 channels; expected 1"):
        Parser.load(parser).parse(photo)
    parser.with_suffix(".json").write_text("{")
    with pytest.raises(InputError, match=r"parser\.json is not valid"):
        Parser.load(parser)
    parser.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"parser\.json does not exist; expected how"):
        Parser.load(parser)
    densepose.write_bytes(b"no model")
    with pytest.raises(BackendError, match=r"does not load .*densepose\.onnx"):
        DensePose.load(densepose)


def test_values_that_are_no_numbers(tmp_path):
    net = Net(description_of("parsing", LOGITS))
    scores = net.scores("scores", np.arange(7), 7)
    net.give(
        net.add("Log", net.add("Neg", net.add("Abs", scores, "abs"), "neg"), "log"), "logits", 4
    )
    with pytest.raises(InputError, match="gave NaN or infinite values in logits; check mean"):
        Parser.load(net.save(tmp_path, "parser")).parse(photo_of(ids_of_blocks(32, 32, 16)))


def test_nobody_in_the_photo(tmp_path):
    description = description_of("densepose", {**HEADS, "boxes": "boxes"})
    net = Net(description)
    parts = net.scores("parts_", PART_OF, 25)
    net.give(parts, "parts", 4)
    add_uv(net, parts)
    net.give(net.constant(np.zeros((0, 4), np.float32)), "boxes", 2)
    with pytest.raises(InputError, match="finds no person in the photo"):
        DensePose.load(net.save(tmp_path, "densepose")).estimate(
            photo_of(ids_of_blocks(32, 32, 16))
        )
