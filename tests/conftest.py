"""Fixtures for every test: a tiny bundle whose rule is known, and the real samples."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# several processes with as many threads as cores each wait for one another most of the time
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import click
import cv2
import hypothesis
import msgspec
import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner
from filelock import FileLock
from msgspec.structs import replace
from PIL import Image

from garment_transfer.bundle import (
    BACKGROUND,
    ENGINES,
    FACE,
    FRAMING,
    GARMENT,
    HAIR,
    LOWER,
    MAPS,
    RECORD_VERSION,
    SKIN,
    STAGES,
    Batch,
    Bundle,
    Checkpoint,
    EngineRecord,
    EngineSet,
    Parity,
    Size,
    StageEngine,
    contract,
    maps_contract,
    write_manifest,
    write_record,
)
from garment_transfer.cli.main import main
from garment_transfer.runtime import Pipeline
from garment_transfer.runtime.photos import Box, Person

# the same examples at every run, however long a busy machine takes for one
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

REAL_SAMPLES = Path(__file__).parents[1] / ".." / "shared" / "real_samples"

#: Size of the tiny bundle: not square, so that a swap of height and width shows.
TINY = Size(64, 32)

#: What the tiny bundle's flow is everywhere: (dx, dy).
FLOW = (3, -2)

#: Colours that the tiny bundle fills holes of the garment, and everything else it draws, with.
HOLE = 40
DRAWN = 200

#: Frames the whole photo of `make_person`, whose body is all of it.
TINY_FRAMING = msgspec.structs.replace(FRAMING, margin=0.0)


def tiny_graphs() -> list[Any]:
    """The tiny bundle's functions of ONNX Script, all in whole numbers that float32 has exactly.

    Casts to and from uint8 go by way of float32, since TensorRT converts that alone.
    """
    from onnxscript import opset18 as op, script

    dx, dy = FLOW

    @script()
    def parsing(person_parsing, person_densepose, garment_parsing, garment_densepose):
        # the garment covers its owner's region, but nothing reserved and not the lower garment;
        # what it leaves of the person's own garment becomes skin
        own = op.Cast(person_parsing, to=1)
        is_garment = own == GARMENT
        free = op.Or(op.Or(is_garment, own == SKIN), own == BACKGROUND)
        put = op.And(op.Cast(garment_parsing, to=1) == GARMENT, free)
        label = op.Where(put, GARMENT, op.Where(is_garment, SKIN, own))
        won = op.Unsqueeze(label, [-1]) == op.Constant(value_floats=[0.0, 3.0, 4.0, 5.0])
        transfer_parsing = op.Cast(label, to=2)
        transfer_scores = op.Cast(255.0 * op.Cast(won, to=1), to=2)
        return transfer_parsing, transfer_scores

    @script()
    def warping(
        garment_image, garment_parsing, garment_densepose, transfer_parsing, person_densepose
    ):
        # the garment image moved by FLOW; HOLE where its mask does not reach
        mask = op.Unsqueeze(op.Cast(op.Cast(garment_parsing, to=1) == GARMENT, to=1), [-1])
        layers = op.Concat(op.Cast(garment_image, to=1) * mask, mask, axis=3)
        moved = op.Slice(op.Pad(layers, [0, 8, 8, 0, 0, 8, 8, 0]), [6, 11], [70, 43], [1, 2])
        hit = op.Slice(moved, [3], [4], [3]) == 1.0
        complete = op.Where(hit, op.Slice(moved, [0], [3], [3]), HOLE)
        region = op.Cast(transfer_parsing, to=1) == GARMENT
        plane = op.Cast(op.Unsqueeze(region, [1]), to=1)
        flow = op.Concat(plane - plane + dx, plane - plane + dy, axis=1)
        worn = op.Cast(op.Unsqueeze(region, [-1]), to=1)
        shown = op.Cast(op.And(op.Squeeze(hit, [-1]), region), to=1)
        warped_garment = op.Cast(complete * worn, to=2)
        flow_confidence = op.Cast(255.0 * shown, to=2)
        return warped_garment, flow, flow_confidence

    @script()
    def regrowth(person_image, person_parsing, person_densepose, transfer_parsing, warped_garment):
        # kept pixels are the person's, the garment is the warped one, and the rest is DRAWN
        new = op.Cast(transfer_parsing, to=1)
        same = op.Unsqueeze(op.Cast(person_parsing, to=1) == new, [-1])
        person = op.Cast(person_image, to=1)
        worn = op.Unsqueeze(new == GARMENT, [-1])
        rest = op.Where(same, person, DRAWN)
        result = op.Where(worn, op.Cast(warped_garment, to=1), rest)
        image = op.Cast(result, to=2)
        return image

    @script()
    def maps(image):
        # of a photo in which colours say what is what: red / 36 the class, green / 10 the part,
        # blue how sure both are; U and V are 100
        red, green, sure = op.Split(op.Cast(image, to=1), axis=3, num_outputs=3)
        parsing = op.Cast(op.Squeeze(op.Min(op.Floor(red / 36.0), 6.0), [3]), to=2)
        part = op.Min(op.Floor(green / 10.0), 24.0)
        chart = 100.0 * op.Cast(part > 0.0, to=1)
        densepose = op.Cast(op.Concat(part, chart, chart, axis=3), to=2)
        parsing_confidence = op.Cast(op.Squeeze(sure, [3]), to=2)
        densepose_confidence = op.Identity(parsing_confidence)
        return parsing, densepose, parsing_confidence, densepose_confidence

    return [parsing, warping, regrowth, maps]


def write_tiny_bundle(folder: Path) -> Path:
    """Writes the tiny bundle and returns its folder."""
    from onnxscript import FLOAT, UINT8, optimizer

    graphs = {**contract(TINY), MAPS: maps_contract(TINY)}
    for (stage, signature), function in zip(graphs.items(), tiny_graphs(), strict=True):
        inputs, outputs = (
            [{"uint8": UINT8, "float32": FLOAT}[tensor.dtype][tensor.shape] for tensor in tensors]
            for tensors in (signature.inputs, signature.outputs)
        )
        model = function.to_model_proto(input_types=inputs, output_types=outputs, ir_version=8)
        model = optimizer.optimize(model)  # without it every number would be cast
        onnx.checker.check_model(model)
        onnx.save(model, folder / f"{stage}.onnx")
    write_manifest(
        folder,
        name="tiny",
        size=TINY,
        framing=TINY_FRAMING,
        opset=18,
        parity={
            stage: {
                tensor.name: Parity(0.0, 0.0, 1.0, "made by hand") for tensor in signature.outputs
            }
            for stage, signature in contract(TINY).items()
        },
        versions={"onnx": onnx.__version__},
        checkpoint=Checkpoint("none", "0" * 64, {stage: 0 for stage in STAGES}),
        maps=({"parsing": Parity(0.0, 0.0, 1.0, "made by hand")}, Checkpoint("none", "0" * 64, {})),
    )
    return folder


def make_person(
    height: int = 64,
    width: int = 32,
    *,
    garment: tuple[float, float, float, float] = (0.3, 0.7, 0.2, 0.8),
    seed: int = 0,
) -> Person:
    """A person of rectangles: hair, face, arms, garment (top, bottom, left, right), legs.

    Pixels are random around a smooth ramp, so that every place can be told from every other.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = np.stack(
        [rows * 200 / height, columns * 200 / width, np.full((height, width), 60.0)], axis=2
    )
    image = (image + rng.integers(0, 50, image.shape)).astype(np.uint8)
    parsing = np.zeros((height, width), np.uint8)

    def fill(label: int, top: float, bottom: float, left: float, right: float) -> None:
        parsing[
            round(top * height) : round(bottom * height), round(left * width) : round(right * width)
        ] = label

    fill(1, 0.05, 0.15, 0.35, 0.65)
    fill(2, 0.15, 0.28, 0.4, 0.6)
    fill(3, 0.3, 0.8, 0.1, 0.9)
    fill(5, 0.7, 0.9, 0.25, 0.75)
    fill(6, 0.9, 1.0, 0.3, 0.7)
    fill(4, *garment)
    densepose = np.zeros((height, width, 3), np.uint8)
    densepose[...] = (2, 100, 150)  # so that the tiny bundle frames the whole photo
    return Person.from_arrays(image, parsing, densepose)


RED, GREY = (200, 30, 30), (120, 120, 120)


class Scene:
    """A photo in the making, with its maps; people are drawn into it one over the other."""

    def __init__(self, height: int = 256, width: int = 384) -> None:
        rng = np.random.default_rng(0)
        self.image = (np.array(GREY) + rng.integers(-9, 9, (height, width, 3))).astype(np.uint8)
        self.classes = np.zeros((height, width), np.uint8)
        self.iuv = np.zeros((height, width, 3), np.uint8)

    def box(self, x: float, y: float, w: float, h: float, part: int, label: int, colour) -> None:
        place = np.s_[max(0, round(y)) : round(y + h), max(0, round(x)) : round(x + w)]
        self.image[place], self.classes[place], self.iuv[place] = colour, label, (part, 90, 90)

    def person(
        self, x: float, colour=RED, size: float = 1.0, covered: bool = True, top: float = 0
    ) -> Scene:
        """Somebody whose middle is at column `x`, in a garment with sleeves to the elbow."""

        y = 10 + top

        def box(left, down, w, h, part, label, colour):
            part = part if covered else 0
            self.box(x + size * left, y + size * down, size * w, size * h, part, label, colour)

        skin = (225, 180, 150)
        box(-16, 0, 32, 10, 23, HAIR, (60, 40, 20))
        box(-16, 10, 32, 30, 24, FACE, skin)
        for side, upper, fore, hand in ((-1, 16, 20, 3), (1, 15, 19, 4)):
            left = -46 if side < 0 else 30
            box(left, 45, 16, 45, upper, GARMENT, colour)
            box(left, 90, 16, 40, fore, SKIN, skin)
            box(left, 130, 16, 20, hand, SKIN, skin)
        box(-30, 40, 60, 90, 2, GARMENT, colour)
        box(-30, 130, 60, 80, 9, LOWER, (40, 40, 60))
        return self

    def reach(self, start: tuple[int, int], end: tuple[int, int]) -> Scene:
        """A left forearm from one place to another, (x, y)."""
        arm = cv2.line(np.zeros(self.classes.shape, np.uint8), start, end, 1, 12) > 0
        self.image[arm], self.classes[arm], self.iuv[arm] = (225, 180, 150), SKIN, (19, 90, 90)
        return self

    def load(self, box: Box | None = None, labels: str = "classes7") -> Person:
        return Person.from_arrays(self.image, self.classes, self.iuv, labels, box=box)

    def save(self, folder: Path, labels: str = "classes7") -> Path:
        """Writes the person's folder, whose `classes` are ids of `labels`; returns it."""
        person = SimpleNamespace(image=self.image, parsing=self.classes, densepose=self.iuv)
        return save_person(person, folder, parse=labels)


def save_person(person: Person | SimpleNamespace, folder: Path, **meta: str) -> Path:
    """Writes a person's folder in this package's own label set and encoding; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(person.image).save(folder / "image.png")
    Image.fromarray(person.parsing).save(folder / "parse.png")
    Image.fromarray(person.densepose).save(folder / "densepose.png")
    fields = {"parse": "classes7", "densepose": "iuv-png", **meta}
    (folder / "meta.json").write_text(json.dumps(fields))
    return folder


def put_engines(
    bundle: Bundle, *, plan: str | None = "plan of {stage}", graph_sha256: str = "", **fields: Any
) -> EngineSet:
    """Puts engines whose plans are no plans, only text, into a bundle, with a whole record.

    With `plan` None they are the bundle's graphs, which the C++ tests' double runs.

    The record differs in `fields` from one of TensorRT's for compute capability 8.9, and in
    `graph_sha256`, if given, from the bundle's graphs.
    """
    stages = {}
    plans = {
        stage: plan.format(stage=stage).encode() if plan else bundle.read_graph(stage)
        for stage in STAGES
    }
    for stage, content in plans.items():
        graph = bundle.manifest.graphs[stage]
        stages[stage] = StageEngine(
            file=f"{stage}.plan",
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            onnx_sha256=graph_sha256 or graph.sha256,
            inputs=graph.inputs,
            outputs=graph.outputs,
            build_seconds=1.5,
            device_memory_bytes=None,
        )
    record = EngineRecord(
        schema_version=RECORD_VERSION,
        backend="tensorrt",
        backend_version="10.16.1.11",
        compute_capabilities=("8.9",),
        precision="float32",
        batch=Batch(1, 2, 4),
        optimization_level=3,
        plugin=None,
        bundle=bundle.manifest.name,
        built="2026-01-02T03:04:05+00:00",
        stages=stages,
    )
    record = replace(record, **fields)
    folder = bundle.path / ENGINES / record.folder
    folder.mkdir(parents=True)
    for stage, content in plans.items():
        (folder / f"{stage}.plan").write_bytes(content)
    write_record(folder, record)
    return EngineSet(bundle, folder, record)


def replace_graph(bundle: Path, content: bytes) -> None:
    """Puts other bytes in the place of a bundle's graph `parsing`, and a manifest that says so."""
    (bundle / "parsing.onnx").write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    manifest["graphs"]["parsing"] |= {"bytes": len(content), "sha256": digest}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def invoke(*arguments: object, code: int = 0, command: click.Command = main) -> str:
    """What a command prints that ends with this status."""
    result = CliRunner().invoke(command, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the C++ library come first: with `-n` others run beside its compiler."""
    items.sort(key=lambda item: "cpp" not in item.path.parts)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """A folder of this run that the processes of `-n` have in common."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def photos_on_cpu(shared_folder) -> Path:
    """The library of Fit and Compose whose device code runs on the CPU (photos_on_cpu.cpp)."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler: install g++, or name one in CXX")
    kernels, tests = Path(__file__).parents[1] / "kernels", Path(__file__).parent
    library = shared_folder / "photos_on_cpu.so"
    operators = ("compose", "fit", "remove_arms", "upsample_labels")
    names = (*(f"{name}/{name}_cpu" for name in operators), "photos/photos")
    sources = [kernels / f"{name}.cpp" for name in names]
    folders = (kernels, kernels / "photos", tests / "cpp/double")
    with FileLock(library.with_suffix(".lock")):
        if not library.is_file():
            command = [compiler, "-std=c++20", "-O2", "-shared", "-fPIC", "-ffp-contract=off"]
            command += ["-DGT_ONE_TARGET", "-DGT_PHOTOS_WITH_CUDA", "-Wno-psabi", "-pthread"]
            command += [f"-I{folder}" for folder in folders]
            files = map(str, (tests / "kernels/photos_on_cpu.cpp", *sources))
            subprocess.run([*command, *files, "-o", str(library)], check=True)
    return library


def _given(function: Callable[..., Any], name: str = "") -> object:
    """A fixture that gives a function, since test files cannot import this one (importlib mode)."""
    return pytest.fixture(scope="session", name=name or function.__name__)(lambda: function)


_make_person = _given(make_person)
_new_scene = _given(Scene, "new_scene")
_save_person = _given(save_person)
_put_engines = _given(put_engines)
_replace_graph = _given(replace_graph)
_invoke = _given(invoke)
_free_port = _given(free_port)


@pytest.fixture(scope="session")
def with_engines(tmp_path_factory) -> Callable[..., Path]:
    """`with_engines(bundle, backend, *options)`: the bundle, or a copy with this GPU's engines."""

    def build(bundle: Path, backend: str, *options: str) -> Path:
        if backend == "onnxruntime-cuda":  # needs none
            return bundle
        target = tmp_path_factory.mktemp("engines") / "bundle"
        arguments = ("--backend", backend, "--batch", "1:1:8", *options)
        invoke("build", bundle, *arguments, "-o", target)
        return target

    return build


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The rule of the tiny bundle: size, flow (dx, dy), and the values of holes and new pixels."""
    return SimpleNamespace(size=TINY, flow=FLOW, hole=HOLE, drawn=DRAWN)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """The folder of the tiny bundle; not to be changed."""
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def pipeline(tiny_bundle) -> Pipeline:
    """The tiny bundle on the CPU; not to be closed."""
    return Pipeline.load(tiny_bundle, threads=1)


@pytest.fixture
def own_tiny_bundle(tiny_bundle, tmp_path) -> Path:
    """A copy of the tiny bundle for a test to spoil."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def bad_bundles(tiny_bundle, tmp_path_factory) -> list[tuple[Path, str, str]]:
    """Bundles as bundle/bad_bundles.json spoils them: folder, code, and words of the message."""
    table = json.loads(Path(__file__).with_name("bundle").joinpath("bad_bundles.json").read_text())
    folder = tmp_path_factory.mktemp("bad")
    made = []
    for index, case in enumerate(table):
        path = Path(shutil.copytree(tiny_bundle, folder / f"{index} {case['name']}"))
        spoil(path, case)
        made.append((path, case["code"], case["says"]))
    return made


def spoil(bundle: Path, case: dict[str, Any]) -> None:
    """Changes a bundle as a row of bad_bundles.json says."""
    manifest = bundle / "manifest.json"
    fields = json.loads(manifest.read_text())

    def parent(path: str) -> tuple[Any, Any]:
        node: Any = fields
        *above, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        for key in above:
            node = node[key]
        return node, last

    for path, value in case.get("set", {}).items():
        node, key = parent(path)
        node[key] = value
    if "delete" in case:
        node, key = parent(case["delete"])
        del node[key]
    if "swap" in case:
        node, key = parent(case["swap"])
        node[key].reverse()
    text = json.dumps(fields)
    if "repeat" in case:
        text = case["repeat"][0] * case["repeat"][1]
    manifest.write_bytes(case.get("text", text).encode("utf-8", "surrogateescape"))
    if "remove" in case:
        (bundle / case["remove"]).unlink()
    if "folder" in case:
        (bundle / case["folder"]).unlink()
        (bundle / case["folder"]).mkdir()
    for change, edit in (
        ("cut", lambda content: content[:-1]),
        ("empty", lambda content: b""),
        ("append", lambda content: content + b"more"),
        ("flip", lambda content: bytes([content[0] ^ 1]) + content[1:]),
    ):
        if change in case:
            file = bundle / case[change]
            file.write_bytes(edit(file.read_bytes()))


def _changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """What changes the pixels of a person's PNG."""

    def spoil(folder: Path) -> None:
        pixels = np.array(Image.open(folder / f"{name}.png"))
        Image.fromarray(change(pixels)).save(folder / f"{name}.png")

    return spoil


def _with_meta(**names: str) -> Callable[[Path], None]:
    meta = {"parse": "classes7", "densepose": "iuv-png", **names}
    return lambda folder: (folder / "meta.json").write_text(json.dumps(meta)) and None


def _as_numpy(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """What makes DensePose a NumPy file, and changes it."""

    def spoil(folder: Path) -> None:
        iuv = np.array(Image.open(folder / "densepose.png"), np.float32).transpose(2, 0, 1)
        (folder / "densepose.png").unlink()
        np.save(folder / "densepose.npy", change(iuv / np.float32([[[1]], [[255]], [[255]]])))
        _with_meta(densepose="iuv")(folder)

    return spoil


def _cut(name: str, kind: str, **options: Any) -> Callable[[Path], None]:
    """What leaves a part of a file that is no PNG by its content, whatever it is called."""

    def spoil(folder: Path) -> None:
        file = folder / f"{name}.png"
        Image.open(file).save(file, kind, **options)
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])

    return spoil


def _piped(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for file in folder.glob(f"{Path(name).stem}.*"):
            file.unlink()
        os.mkfifo(folder / name)

    return spoil


def _flipped(folder: Path) -> None:
    content = bytearray((folder / "image.png").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "image.png").write_bytes(content)


def _in_true_colour(folder: Path) -> None:
    """A parse map in true colour that suggests a palette, as PNG files may."""
    path = folder / "parse.png"
    ids = np.array(Image.open(path))
    Image.fromarray(np.dstack([ids * 30, ids, ids])).save(path)
    content = path.read_bytes()
    chunk = b"PLTE" + bytes(range(30))
    chunk = struct.pack(">I", 30) + chunk + struct.pack(">I", zlib.crc32(chunk))
    at = content.index(b"IDAT") - 4
    path.write_bytes(content[:at] + chunk + content[at:])


#: How people's files are spoilt, with the code and words that Python and C++ refuse them with.
_BAD_PEOPLE: tuple[tuple[Callable[[Path], Any], str, str], ...] = (
    (_changed("parse", lambda a: 0 * a), "body_missing", "on 0% of the body that"),
    (_changed("parse", lambda a: 0 * a + 255), "body_missing", "on 0% of the body that"),
    (_changed("parse", lambda a: a + 9), "label_set_mismatch", "does not have: 9"),
    (_changed("parse", lambda a: a[:, :32]), "sizes_differ", "the aspects differ"),
    (_changed("parse", lambda a: np.dstack([a * 30, a, a])), "image_mode", "not label ids"),
    (_changed("parse", lambda a: np.dstack([a, a, a, a])), "image_mode", "parse.png"),
    (_in_true_colour, "image_mode", "parse.png"),
    (_changed("parse", lambda a: a.astype(np.uint16) + 300), "image_mode", "parse.png"),
    (
        _changed("parse", lambda a: np.array(Image.fromarray(20 * a).resize((384, 512), 2)) // 20),
        "label_set_mismatch",
        "was resized smoothly",
    ),
    (_changed("densepose", lambda a: a[:, :32]), "sizes_differ", "the aspects differ"),
    (_changed("densepose", lambda a: 0 * a), "body_missing", "a person without a body"),
    (_changed("densepose", lambda a: 0 * a + 25), "densepose_invalid", "channel I reaches 25"),
    (_changed("densepose", lambda a: a[..., 0]), "image_mode", "densepose.png"),
    (_with_meta(densepose="parula"), "densepose_invalid", "not look like encoding parula"),
    (_with_meta(densepose="tiff"), "densepose_encoding_unknown", "'tiff'; expected one of iuv"),
    (_with_meta(parse="coco"), "label_set_unknown", "'coco'; expected one of atr18"),
    (_as_numpy(lambda a: a * np.nan), "densepose_invalid", "NaN or infinite values"),
    (_as_numpy(lambda a: a * 99), "densepose_invalid", "channel I runs from"),
    (_as_numpy(lambda a: a.astype(np.uint8)), "array_invalid", "densepose.npy"),
    (_as_numpy(lambda a: a[:2]), "array_invalid", "densepose.npy"),
    (_cut("image", "PNG"), "image_unreadable", "image.png cannot be read"),
    (_cut("image", "JPEG"), "image_unreadable", "image.png cannot be read"),
    (_cut("image", "JPEG", progressive=True), "image_unreadable", "image.png cannot be read"),
    (_cut("parse", "PNG"), "image_unreadable", "parse.png cannot be read"),
    (_flipped, "image_unreadable", "image.png cannot be read"),
    (lambda folder: (folder / "image.png").write_bytes(b""), "image_unreadable", "(0 bytes"),
    (_changed("image", lambda a: a[:1, :1].repeat(9000, 1)), "image_size", "is 9000x1 pixels"),
    (lambda folder: (folder / "image.png").unlink(), "person_incomplete", "image"),
    (lambda folder: (folder / "parse.png").unlink(), "person_incomplete", "parse.png"),
    (
        lambda folder: shutil.copy(folder / "image.png", folder / "IMAGE.JPG"),
        "person_ambiguous",
        "more than one",
    ),
    (lambda folder: (folder / "meta.json").write_text("{"), "meta_invalid", "meta.json"),
    (
        lambda folder: (folder / "meta.json").write_text('{"parse": 1}'),
        "meta_invalid",
        "meta.json",
    ),
    (_piped("parse.png"), "image_unreadable", "a pipe or a device"),
    (_piped("densepose.npy"), "image_unreadable", "a pipe or a device"),
    (_piped("meta.json"), "meta_invalid", "a pipe or a device"),
)


@pytest.fixture(scope="session")
def bad_people(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str, str]]:
    """Folders of people as `_BAD_PEOPLE` spoils them, with code and words of the refusal."""
    made = []
    for spoil, code, says in _BAD_PEOPLE:
        folder = save_person(make_person(64, 48), tmp_path_factory.mktemp("person"))
        spoil(folder)
        made.append((folder, code, says))
    return made


#: What servers are asked: method, path, what else goes with it, status and code of the answer.
_REQUESTS: tuple[tuple[str, str, dict[str, Any], int, str], ...] = (
    ("GET", "/health/live", {}, 200, ""),
    ("GET", "/health/ready", {}, 200, ""),
    ("GET", "/metrics", {}, 200, ""),
    ("HEAD", "/health/live", {}, 200, ""),
    ("HEAD", "/metrics", {}, 200, ""),
    ("OPTIONS", "/health/live", {}, 204, ""),
    ("OPTIONS", "/transfer", {}, 204, ""),
    ("GET", "/nothing", {}, 404, "not_found"),
    ("OPTIONS", "/nothing", {}, 404, "not_found"),
    ("DELETE", "/health/live", {}, 405, "method_not_allowed"),
    ("GET", "/transfer", {}, 405, "method_not_allowed"),
    ("POST", "/transfer", {}, 200, ""),
    ("POST", "/transfer", {"content": b"{}"}, 400, "body_invalid"),
    ("POST", "/transfer", {"content": b"xx", "type": "multipart/form-data"}, 400, "body_invalid"),
    (
        "POST",
        "/transfer",
        {"content": b"xx", "type": "multipart/form-data; boundary=x"},
        400,
        "body_invalid",
    ),
    ("POST", "/transfer", {"field": ("person_image", None)}, 422, "fields_invalid"),
    ("POST", "/transfer", {"field": ("garment_densepose", None)}, 422, "fields_invalid"),
    ("POST", "/transfer", {"field": ("person_image", b"GIF89a")}, 422, "image_unreadable"),
    ("POST", "/transfer", {"field": ("person_label_set", "coco")}, 422, "label_set_unknown"),
    (
        "POST",
        "/transfer",
        {"field": ("garment_encoding", "tiff")},
        422,
        "densepose_encoding_unknown",
    ),
    ("POST", "/transfer", {"field": ("person_image", None), "large": True}, 413, "too_large"),
)


def check_interface(
    url: str, document: dict[str, Any], fields: dict[str, Any], too_large: int
) -> None:
    """A server's answers to good and bad requests are those of the OpenAPI document.

    Args:
        url: where it listens.
        document: the one that `examples/python_server` generates.
        fields: the form of a transfer that works.
        too_large: bytes, more than a body may have.
    """
    import httpx

    counted: Counter[int] = Counter()
    with httpx.Client(base_url=url, timeout=60) as client:

        def metrics() -> Counter[int]:
            lines = re.findall(r'requests_total{status="(\d+)"} (\d+)', client.get("/metrics").text)
            return Counter({int(status): int(count) for status, count in lines})

        before = metrics()
        for method, path, given, status, code in _REQUESTS:
            name, value = given.get("field", ("", None))
            form = {**fields, **({name: value} if name else {})}
            if given.get("large"):
                form["person_image"] = bytes(too_large)
            parts = {
                field: (field if isinstance(content, bytes) else None, content)
                for field, content in form.items()
                if content is not None
            }
            body = {"files": parts} if method == "POST" else {}
            if "content" in given:
                body = {"content": given["content"]}
            headers = {"Content-Type": given["type"]} if "type" in given else {}
            answer = client.request(method, path, headers=headers, **body)
            about = (method, path, given, answer.status_code, answer.text[:300])
            assert answer.status_code == status, about
            counted[status] += method == "POST"
            if path in document["paths"]:
                described = document["paths"][path].get(method.lower(), {"responses": {}})
                if described["responses"]:
                    assert str(status) in described["responses"], about
                methods = {each.upper() for each in document["paths"][path]}
                methods |= {"OPTIONS", *["HEAD"] * ("GET" in methods)}
                if status in (204, 405):
                    assert set(answer.headers["Allow"].split(", ")) == methods, about
            if code:
                assert answer.headers["Content-Type"] == "application/json", about
                assert set(answer.json()) == {"detail", "code"}, about
                assert answer.json()["code"] == code, about
                assert len(answer.json()["detail"]) > 10, about
            elif method == "HEAD":
                whole = client.get(path)
                assert answer.content == b""
                assert answer.headers["Content-Type"] == whole.headers["Content-Type"]
            elif method == "POST":
                assert answer.headers["Content-Type"] == "image/png"
                assert answer.content.startswith(b"\x89PNG")
        assert metrics() - before == +counted
        text = client.get("/metrics").text
        for name in ("request_seconds_count", "request_seconds_sum", "pending"):
            assert f"\ngarment_transfer_{name} " in text


_check_interface = _given(check_interface)


@pytest.fixture(scope="session")
def real_samples() -> Path:
    """The folder of the real people; skips where it is absent."""
    if not REAL_SAMPLES.is_dir():
        pytest.skip("the real samples, which may not be published, are not at ../shared")
    return REAL_SAMPLES
