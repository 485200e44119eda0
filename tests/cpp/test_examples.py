"""The C++ examples: the same picture as Python's, and a server that takes what clients do."""

import codecs
import contextlib
import http.client
import importlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from garment_transfer.bundle import FACE, GARMENT, LABEL_SETS, LOWER, SKIN
from garment_transfer.runtime import InputError, Person, Pipeline, sample_bundle, sample_people
from garment_transfer.runtime.photos import Box

Build = Callable[..., Path]
Cli = Callable[..., subprocess.CompletedProcess[str]]
Run = Callable[..., str]
MakePerson = Callable[..., Person]
SavePerson = Callable[..., Path]
NewScene = Callable[..., Any]

FIELDS = {"image": "image", "parsing": "parse", "densepose": "densepose"}


ROOT = Path(__file__).parents[2]

# The shell commands of docs/cpp.md: how the library is built, how the examples, and how they run.
LIBRARY, EXAMPLES, TRANSFERS = re.findall(
    r"^```sh\n(.*?)^```", (ROOT / "docs/cpp.md").read_text(), re.DOTALL | re.MULTILINE
)


def environment(folder: Path) -> dict[str, str]:
    """What the document's commands read, in place of what they would take by themselves."""
    return {
        "BUILD": str(folder),
        "PREFIX": str(folder / "prefix"),
        "ONNXRUNTIME_ROOT": os.environ.get("ONNXRUNTIME_ROOT", "/usr/include/onnxruntime"),
        "CXXFLAGS": "-Wall -Wextra -Werror",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


@pytest.fixture(scope="module")
def programs(build: Build, run: Run) -> Path:
    """The examples, built as the document says, on the library that other tests built."""
    folder = build("none")
    with FileLock(f"{folder}.examples.lock"):  # another process may want the same
        run(["bash", "-euc", LIBRARY + EXAMPLES], cwd=ROOT, **environment(folder))
    return folder / "examples"


def test_the_documents_transfers(programs: Path, run: Run, pipeline: Pipeline) -> None:
    """The command line's and the server's, both of bare photos."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder = programs.parent
    commands = "trap 'kill $(jobs -p)' EXIT\n" + TRANSFERS
    run(["bash", "-euc", commands], cwd=ROOT, PORT=port, **environment(folder))
    pictures = [np.asarray(Image.open(folder / name)) for name in ("out.png", "served.png")]
    people = [pipeline.person(person / "image.jpg") for person in sample_people()]
    expected = pipeline.transfer(*people).image
    assert all(np.array_equal(picture, expected) for picture in pictures)


@pytest.fixture(scope="module")
def cli(programs: Path) -> Cli:
    """`cli(person, owner, output, *options)`: what the command line made of the shipped bundle."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [programs / "garment_transfer_cli", sample_bundle(), *arguments]
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=600,
            env={**os.environ, **environment},
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(sample_bundle())


def pythons_picture(pipeline: Pipeline, person: Path, owner: Path) -> np.ndarray:
    return pipeline.transfer(Person.load(person), Person.load(owner)).image


def assert_pythons(cli: Cli, pipeline: Pipeline, person: Path, owner: Path, output: Path) -> None:
    """The command line gives Python's picture of two people."""
    ran = cli(person, owner, output)
    assert ran.returncode == 0, ran.stderr
    found = np.asarray(Image.open(output))
    assert np.array_equal(found, pythons_picture(pipeline, person, owner))


def test_command_line_gives_pythons_picture(
    cli: Cli, pipeline: Pipeline, make_person: MakePerson, save_person: SavePerson, tmp_path: Path
) -> None:
    """Larger, smaller and of the bundle's size, both aspects; the owner minified and magnified."""

    def saved(size: tuple[int, int], seed: int) -> Path:
        return save_person(make_person(*size, seed=seed), tmp_path / f"{seed}")

    pairs = [sample_people()]
    sizes = [(1024, 768), (201, 335), (256, 192), (97, 61), (701, 301)]
    for index, (one, other) in enumerate(zip(sizes, sizes[1:] + sizes[:1], strict=True)):
        pairs.append((saved(one, 2 * index), saved(other, 2 * index + 1)))
    for person, owner in pairs:
        assert_pythons(cli, pipeline, person, owner, tmp_path / "cpp.png")


def test_command_line_sees_real_photos_as_python_does(
    cli: Cli, pipeline: Pipeline, real_samples: Path, tmp_path: Path
) -> None:
    """The person as found in the photo, in a box beyond it, and too small to be found without."""
    photos = [real_samples / name / "image.jpg" for name in ("vitonhd_00006_00", "viton_000240_0")]
    owner = pipeline.person(photos[1])
    wide = np.full((560, 8000, 3), 200, np.uint8)
    wide[24:536, 4000:4384] = Image.open(photos[0]).convert("RGB").resize((384, 512))
    Image.fromarray(wide).save(tmp_path / "wide.png")
    with pytest.raises(InputError, match="shows nobody"):
        pipeline.person(tmp_path / "wide.png")
    for photo, box in (
        (photos[0], None),
        (photos[0], Box(95, 121, 1000, 400)),
        (tmp_path / "wide.png", Box(40, 4060, 480, 240)),
    ):
        options = ["--person-box", str(box)] if box else []
        ran = cli(*options, photo, photos[1], tmp_path / "cpp.png")
        assert ran.returncode == 0, ran.stderr
        expected = pipeline.transfer(pipeline.person(photo, box=box), owner).image
        assert np.array_equal(np.asarray(Image.open(tmp_path / "cpp.png")), expected)


BLUE = (30, 60, 200)


def test_command_line_reads_people_as_python_does(
    cli: Cli, pipeline: Pipeline, new_scene: NewScene, tmp_path: Path
) -> None:
    """Small in a wide photo, others beside, a bag in front of either, one of two bodies."""
    scenes = {
        "owner": (new_scene(300, 200).person(97, BLUE), "classes7"),
        "small": (new_scene(333, 601).person(421, size=0.7), "classes7"),
        "two": (new_scene().person(101).person(280, BLUE), "classes7"),
        "arm across": (
            new_scene().person(272, BLUE, 0.8, top=40).person(180).reach((218, 100), (280, 130)),
            "classes7",
        ),
    }
    without_head = new_scene().person(272, BLUE).person(180)
    without_head.iuv[:50, 250:295] = 0
    scenes["head cut off"] = without_head, "classes7"
    for name, distance in (("apart", 120), ("touching", 92)):
        scene = new_scene().person(131 + distance, BLUE, covered=False).person(131)
        scenes[name] = scene, "classes7"
    with_bag = new_scene(300, 240).person(110)
    to_atr = np.array([0, 2, 11, 14, 4, 6], np.uint8)
    bag = cv2.line(np.zeros((300, 240), np.uint8), (85, 55), (135, 145), 1, 9) > 0
    with_bag.classes = np.where(bag, np.uint8(16), to_atr[with_bag.classes])
    with_bag.image[bag], with_bag.iuv[bag] = (250, 0, 250), 0
    scenes["bag"] = with_bag, "atr18"
    for name, (scene, labels) in scenes.items():
        scene.save(tmp_path / name, labels)
    for person in map(tmp_path.joinpath, scenes):
        giver = tmp_path / ("bag" if person.name == "owner" else "owner")
        box, options = None, []
        if person.name in ("two", "arm across"):
            box, options = Box(10, 230, 210, 100), ["--person-box", "230,10,330,220"]
        output = tmp_path / "cpp.png"
        ran = cli(person, giver, output, *options)
        assert ran.returncode == 0, ran.stderr
        assert ("147 pixels high in the photo" in ran.stderr) == (person.name == "small")
        someone = Person.load(person, box=box)
        expected = pipeline.transfer(someone, Person.load(giver)).image
        found = np.asarray(Image.open(output))
        assert np.array_equal(found, expected)
        if someone.protected is not None:
            assert (found[someone.protected] == someone.image[someone.protected]).all()


def test_command_line_refuses_as_python_does(
    cli: Cli, pipeline: Pipeline, new_scene: NewScene, tmp_path: Path
) -> None:
    """Two bodies, from behind, lying, hardly a garment: with the same message."""
    good = new_scene().person(190).save(tmp_path / "good")
    behind = new_scene().person(190)
    behind.iuv[behind.iuv[..., 0] == 2] = (1, 90, 90)
    lying = new_scene().person(190)
    for name in ("image", "classes", "iuv"):
        setattr(lying, name, np.ascontiguousarray(np.rot90(getattr(lying, name))))
    bare = new_scene().person(190)
    bare.classes[bare.classes == GARMENT] = SKIN
    bare.classes[60:66, 160:220] = GARMENT
    scenes = {
        "two": new_scene().person(100).person(280, BLUE), "behind": behind, "lying": lying,
        "bare": bare,
    }  # fmt: skip
    for name, scene in scenes.items():
        folder = scene.save(tmp_path / name)
        with pytest.raises(InputError) as error:
            pipeline.transfer(Person.load(good), Person.load(folder))
        ran = cli(good, folder, tmp_path / "o.png")
        assert ran.returncode == 1
        expected = str(error.value).replace(
            " with --person-box, --owner-box, `prepare --box` or box=", ", as the person's box"
        )
        assert ran.stderr == f"Error: {expected}\n"
        assert not (tmp_path / "o.png").exists()
    assert cli("p", "o", "out", "--person-box", "9,9,9,20").returncode == 2


def test_command_line_refuses_a_photo_as_python_does(
    programs: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Somebody is there, but the network is sure of nothing: with the same message."""
    image = np.full((300, 200, 3), (0, 0, 120), np.uint8)
    figure = ((20, 70, FACE, 23), (70, 190, GARMENT, 2), (190, 290, LOWER, 9))
    for top, bottom, label, part in figure:  # the tiny bundle reads both off the colours
        image[top:bottom, 60:140, :2] = 36 * label + 18, 10 * part + 5
    photo = tmp_path / "anna.png"
    Image.fromarray(image).save(photo)
    with pytest.raises(InputError, match="cannot be made out") as error:
        Pipeline.load(tiny_bundle, threads=1).person(photo)
    command = [programs / "garment_transfer_cli", tiny_bundle, photo, photo, tmp_path / "o.png"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 1
    assert ran.stderr == f"Error: {error.value}\n"


def test_nothing_is_left_in_the_home_folder(cli: Cli, tmp_path: Path) -> None:
    """ONNX Runtime keeps an identifier there for its vendor, unless it is told not to."""
    home = tmp_path / "home"
    home.mkdir()
    folders = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    assert cli(*sample_people(), tmp_path / "out.png", **folders).returncode == 0
    assert list(home.rglob("*")) == []


def drawn(folder: Path, how: str) -> None:
    """Files of a person in other ways than RGB and ids."""
    image, parse = Image.open(folder / "image.png"), Image.open(folder / "parse.png")
    wide = np.asarray(image).astype(np.uint16)
    if how == "16-bit colours, ids in colours":
        cv2.imwrite(str(folder / "image.png"), wide[..., ::-1] * 255 + 77)
        colours = np.array(list(LABEL_SETS["classes7"].colours[-1].values()), np.uint8)
        Image.fromarray(colours[np.asarray(parse)]).save(folder / "parse.png")
    elif how == "16-bit grey levels, 16-bit ids":
        cv2.imwrite(str(folder / "image.png"), wide[..., 0] * 251 + 99)
        cv2.imwrite(str(folder / "parse.png"), np.asarray(parse).astype(np.uint16))
    elif how == "turned JPEG, parula":
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = image.transpose(Image.Transpose.ROTATE_90)
        turned.save(folder / "image.jpg", exif=exif, quality=90)
        (folder / "image.png").unlink()
        levels = np.array([part * 255 // 24 for part in range(25)], np.uint8)
        palette = cv2.applyColorMap(levels[:, None], cv2.COLORMAP_PARULA)[:, 0, ::-1].copy()
        palette[0] = 0
        parts = np.asarray(Image.open(folder / "densepose.png"))[..., 0]
        Image.fromarray(palette[parts]).save(folder / "densepose.png")
        (folder / "meta.json").write_text('{"parse": "classes7", "densepose": "parula"}')
    elif how == "a palette in another order, capitals, a byte order mark":
        ids = np.asarray(parse)
        shrunk = Image.fromarray(ids.max() - ids, "P")
        colours = list(LABEL_SETS["classes7"].colours[-1].values())[: ids.max() + 1]
        shrunk.putpalette([level for colour in colours[::-1] for level in colour])
        shrunk.save(folder / "PARSE.PNG")
        (folder / "parse.png").unlink()
        meta = folder / "meta.json"
        meta.write_bytes(codecs.BOM_UTF8 + meta.read_bytes())
    elif how == "grey JPEG, 4-bit palette":
        image.convert("L").save(folder / "image.jpg", progressive=True)
        (folder / "image.png").unlink()
        parse.convert("P").save(folder / "parse.png", bits=4)


@pytest.mark.parametrize(
    "how",
    ["16-bit colours, ids in colours", "16-bit grey levels, 16-bit ids", "turned JPEG, parula",
     "grey JPEG, 4-bit palette", "a palette in another order, capitals, a byte order mark"],
)  # fmt: skip
def test_files_are_read_as_python_does(
    cli: Cli, pipeline: Pipeline, make_person: MakePerson, save_person: SavePerson, tmp_path: Path,
    how: str,
) -> None:  # fmt: skip
    person = save_person(make_person(256, 192, seed=5), tmp_path / "p")
    owner = save_person(make_person(256, 192, seed=6), tmp_path / "o")
    drawn(person, how)
    assert_pythons(cli, pipeline, person, owner, tmp_path / "o.png")


@pytest.mark.parametrize(
    ("label_set", "palette"), [(name, i % 2 == 1) for i, name in enumerate(sorted(LABEL_SETS))]
)
def test_label_sets_are_pythons(
    cli: Cli, pipeline: Pipeline, make_person: MakePerson, save_person: SavePerson, tmp_path: Path,
    label_set: str, palette: bool,
) -> None:  # fmt: skip
    """Every id of a set, in stripes down the body, so that whole-body garments cross the hips."""
    person = make_person(256, 192, seed=3)
    folder = save_person(person, tmp_path / "p", parse=label_set)
    ids = np.array(sorted(LABEL_SETS[label_set].classes), np.uint8)
    parse = np.tile(ids[np.arange(192) * len(ids) // 192], (256, 1))
    densepose = person.densepose.copy()
    densepose[:140, 20:170, 0] = 2
    densepose[140:, 20:170, 0] = 9
    Image.fromarray(densepose).save(folder / "densepose.png")
    image = Image.fromarray(parse)
    if palette:
        image = image.convert("P")
        image.putpalette([value % 251 for value in range(768)])
        image.frombytes(parse.tobytes())
    image.save(folder / "parse.png")
    assert_pythons(cli, pipeline, folder, folder, tmp_path / "o.png")


def test_command_line_refuses_spoilt_files_as_python_does(
    cli: Cli, bad_people: list[tuple[Path, str, str]], tmp_path: Path
) -> None:
    for folder, code, says in [*bad_people, (tmp_path / "nowhere", "person_missing", "nowhere")]:
        ran = cli(folder, folder, tmp_path / "o.png")
        assert (ran.returncode, says in ran.stderr) == (1, True), (code, says, ran.stderr)
    assert list(tmp_path.iterdir()) == []


def test_command_line_writes_over_no_input(
    cli: Cli, small_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    photo = small_pair[1] / "image.png"
    before = photo.read_bytes()
    (tmp_path / "link").symlink_to(photo)
    os.link(photo, tmp_path / "hard")
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("link", "what this run reads"), ("hard", "what this run reads"),
                       ("pipe", "is no file")):  # fmt: skip
        ran = cli(*small_pair, tmp_path / name)
        assert (ran.returncode, says in ran.stderr) == (1, True), ran.stderr
    assert photo.read_bytes() == before
    assert cli(*small_pair, tmp_path / "new" / "folder" / "out.png").returncode == 0
    assert os.listdir(tmp_path / "new" / "folder") == ["out.png"]


@contextlib.contextmanager
def serving(programs: Path, **settings: int) -> Iterator[tuple[str, int, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [programs / "garment_transfer_server", sample_bundle(), "127.0.0.1", "0"],
        env={**os.environ, **{f"GARMENT_TRANSFER_{k}": str(v) for k, v in settings.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        host, port = process.stdout.readline().split()[0].removeprefix("http://").split(":")
        yield host, int(port), process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    finally:
        process.kill()
        process.wait()


def form(parts: dict[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its header."""
    boundary = uuid.uuid4().hex
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in parts.items()
    )
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def parts_of(person: Path, owner: Path) -> dict[str, bytes]:
    parts = {}
    for role, folder in (("person", person), ("garment", owner)):
        for field, stem in FIELDS.items():
            parts[f"{role}_{field}"] = next(folder.glob(f"{stem}.*")).read_bytes()
        meta = json.loads((folder / "meta.json").read_text())
        parts[f"{role}_label_set"] = meta["parse"].encode()
        parts[f"{role}_encoding"] = meta["densepose"].encode()
    return parts


def ask(
    host: str, port: int, method: str, path: str, body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:  # fmt: skip
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request(method, path, body or None, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.fixture
def small_pair(
    make_person: MakePerson, save_person: SavePerson, tmp_path: Path
) -> tuple[Path, Path]:
    return (
        save_person(make_person(256, 192, seed=1), tmp_path / "person"),
        save_person(make_person(256, 192, seed=2), tmp_path / "owner"),
    )


def test_server_answers_with_the_picture(programs: Path, pipeline: Pipeline) -> None:
    with serving(programs, SESSIONS=2) as (host, port, _):
        status, body = ask(host, port, "POST", "/transfer", *form(parts_of(*sample_people())))
        assert status == 200, body
        found = np.asarray(Image.open(BytesIO(body)))
        assert np.array_equal(found, pythons_picture(pipeline, *sample_people()))
        assert ask(host, port, "GET", "/health/live") == (200, b'{"status":"live"}')
        assert ask(host, port, "GET", "/health/ready") == (200, b'{"status":"ready"}')
        metrics = ask(host, port, "GET", "/metrics")[1].decode()
        for line in (
            'garment_transfer_requests_total{status="200"} 1',
            "garment_transfer_request_seconds_count 1",
            "garment_transfer_pending 0",
        ):
            assert f"{line}\n" in metrics


def bad_requests(parts: dict[str, bytes]) -> list[tuple[bytes, dict[str, str], int, str]]:
    """Bodies, headers, and the status and code that they are refused with."""
    body, header = form(parts)
    text = {"Content-Type": "text/plain"}
    large = BytesIO()
    Image.new("RGB", (2001, 2000)).save(large, "png")
    np.save(short := BytesIO(), np.zeros((3, 256, 192), np.float32))
    cut = {"person_encoding": b"iuv", "person_densepose": short.getvalue()[:-9]}
    return [
        (b"hello", text, 400, "body_invalid"),
        (body[: len(body) // 2], header, 400, "body_invalid"),
        (*form(parts | {f"more{i}": b"" for i in range(9)}), 400, "body_invalid"),
        (*form({**parts, "person_encoding": b"iuv"}), 422, "image_unreadable"),
        (*form(parts | cut), 422, "image_unreadable"),
        (*form({**parts, "person_label_set": b"\xff"}), 422, "label_set_unknown"),
        (*form({**parts, "person_image": large.getvalue()}), 413, "too_large"),
    ]


def test_server_survives_bad_requests_beside_good_ones(
    programs: Path, small_pair: tuple[Path, Path]
) -> None:
    parts = parts_of(*small_pair)
    body, header = form(parts)
    settings = {"SESSIONS": 2, "MAX_BODY_MB": 1}
    with serving(programs, **settings) as (host, port, process):
        # slow clients hold connections, not workers; and some leave in the middle
        slow = [socket.create_connection((host, port)) for _ in range(4)]
        for client in slow:
            client.sendall(b"POST /transfer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n")
        left = socket.create_connection((host, port))
        left.sendall(b"POST /transfer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        left.close()

        refused = bad_requests(parts)
        with ThreadPoolExecutor(4) as pool:
            good = [
                pool.submit(ask, host, port, "POST", "/transfer", body, header) for _ in range(12)
            ]
            bad = [
                pool.submit(ask, host, port, "POST", "/transfer", sent, headers)
                for sent, headers, _, _ in refused
            ]
        pictures = {future.result() for future in good}
        assert len(pictures) == 1
        assert pictures.pop()[0] == 200
        for future, (_, _, status, code) in zip(bad, refused, strict=True):
            found, answer = future.result()
            assert (found, json.loads(answer)["code"]) == (status, code), answer
            assert json.loads(answer)["detail"]
        for client in slow:
            client.close()
        assert process.poll() is None
        assert ask(host, port, "GET", "/health/ready")[0] == 200


def test_server_has_the_interface_of_pythons(
    programs: Path, small_pair: tuple[Path, Path], check_interface: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "examples/python_server"))
    document = importlib.import_module("server").create_app().openapi()
    fields = {
        name: content.decode() if name.endswith(("set", "encoding")) else content
        for name, content in parts_of(*small_pair).items()
    }
    with serving(programs, MAX_BODY_MB=2) as (host, port, _):
        check_interface(f"http://{host}:{port}", document, fields, too_large=2_100_000)


def test_server_takes_little_memory_for_a_large_photo(
    programs: Path, small_pair: tuple[Path, Path]
) -> None:
    parts = parts_of(*small_pair)
    for role in ("person", "garment"):
        photo = Image.open(BytesIO(parts[f"{role}_image"])).resize((3000, 4000))
        photo.save(file := BytesIO(), "jpeg")
        parts[f"{role}_image"] = file.getvalue()
    with serving(programs, SESSIONS=2, MAX_MEGAPIXELS=12) as (host, port, process):
        assert ask(host, port, "POST", "/transfer", *form(parts))[0] == 200
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) < 600_000  # kB


def test_server_reads_densepose_as_a_numpy_file(
    programs: Path, small_pair: tuple[Path, Path]
) -> None:
    parts = parts_of(*small_pair)
    iuv = np.array(Image.open(BytesIO(parts["person_densepose"])), np.float32)
    file = BytesIO()
    np.save(
        file, np.ascontiguousarray(iuv.transpose(2, 0, 1)) / np.float32([[[1]]] + [[[255]]] * 2)
    )
    arrays = {**parts, "person_densepose": file.getvalue(), "person_encoding": b"iuv"}
    with serving(programs, SESSIONS=1) as (host, port, _):
        first, second = (
            ask(host, port, "POST", "/transfer", *form(each)) for each in (parts, arrays)
        )
    assert first == second
    assert first[0] == 200


def sending(host: str, port: int, headers: str, body: bytes = b"") -> socket.socket:
    """A connection over which the beginning of a transfer was sent."""
    connection = socket.create_connection((host, port), timeout=60)
    head = f"POST /transfer HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\n{headers}"
    connection.sendall(head.encode() + body)
    return connection


def refusal(connection: socket.socket) -> tuple[int, str]:
    """Status and code of the answer that comes over a connection."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read())["code"]


def test_server_refuses_large_bodies_unread(programs: Path) -> None:
    with serving(programs, SESSIONS=1, MAX_BODY_MB=1) as (host, port, _):
        with sending(host, port, "Content-Length: 5000000000\r\n\r\n") as connection:
            assert refusal(connection) == (413, "too_large")
        with sending(host, port, "Transfer-Encoding: chunked\r\n\r\n") as connection:
            with contextlib.suppress(ConnectionError):  # it answers before all is sent
                for _ in range(64):
                    connection.sendall(b"8000\r\n" + bytes(0x8000) + b"\r\n")
            assert refusal(connection) in ((413, "too_large"), (400, "body_invalid"))


def test_server_takes_nothing_that_grows(programs: Path, small_pair: tuple[Path, Path]) -> None:
    """Compressed bodies, endless headers, and answers in a thousand parts."""
    with serving(programs, SESSIONS=1) as (host, port, _):
        headers = "Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n"
        with sending(host, port, headers) as connection:
            assert refusal(connection) == (400, "body_invalid")
        with sending(host, port, "") as connection:
            with contextlib.suppress(ConnectionError):  # it answers before all is sent
                for _ in range(100):
                    connection.sendall(1000 * b"a: b\r\n")
            with contextlib.suppress(ConnectionError):
                assert refusal(connection)[0] in (400, 413)
        content, headers_of = form(parts_of(*small_pair))
        ranges = {**headers_of, "Range": f"bytes={','.join(300 * ['0-'])}"}
        whole = ask(host, port, "POST", "/transfer", content, headers_of)
        assert ask(host, port, "POST", "/transfer", content, ranges) == whole


def test_server_refuses_spoilt_files_as_python_does(
    programs: Path, bad_people: list[tuple[Path, str, str]]
) -> None:
    with serving(programs, SESSIONS=1) as (host, port, _):
        for folder, code, _ in bad_people:
            if code.startswith(("person_", "meta_")) or any(map(Path.is_fifo, folder.iterdir())):
                continue  # of the folder, which a form has not
            answer = ask(host, port, "POST", "/transfer", *form(parts_of(folder, folder)))
            found = answer[0], json.loads(answer[1])["code"]
            assert found == (422, code), (folder, code, answer)


def test_slow_clients_make_way(programs: Path, small_pair: tuple[Path, Path]) -> None:
    """The oldest of more than there may be, in its headers or its body; others wait on."""
    with serving(programs, SESSIONS=1, MAX_UPLOADS=3, UPLOAD_SECONDS=600) as (host, port, _):
        slow = [
            sending(host, port, "Content-Len"),
            sending(host, port, "Content-Length: 99999\r\n\r\n", b"--x"),
        ]
        sent = form(parts_of(*small_pair))
        assert ask(host, port, "POST", "/transfer", *sent)[0] == 200
        slow += [sending(host, port, "Content-Len") for _ in range(3)]
        for connection in slow[:2]:
            assert refusal(connection) == (408, "upload_timeout")
        for connection in slow:
            connection.close()


def test_bytes_that_trickle_are_no_request(programs: Path) -> None:
    with serving(programs, SESSIONS=1, UPLOAD_SECONDS=1) as (host, port, _):
        with sending(host, port, "X: ") as connection:
            while not select.select([connection], [], [], 0.1)[0]:
                connection.sendall(b"x")
            assert refusal(connection) == (408, "upload_timeout")
        metrics = ask(host, port, "GET", "/metrics")[1].decode()
        assert 'requests_total{status="408"} 1\n' in metrics


def test_server_refuses_more_than_it_has_slots(
    programs: Path, small_pair: tuple[Path, Path]
) -> None:
    body, header = form(parts_of(*small_pair))
    with (
        serving(programs, SESSIONS=1, MAX_PENDING=2) as (host, port, _),
        ThreadPoolExecutor(8) as pool,
    ):
        codes: list[int] = []
        while 429 not in codes:  # eight at once on two slots
            futures = [
                pool.submit(ask, host, port, "POST", "/transfer", body, header) for _ in range(8)
            ]
            codes += [future.result()[0] for future in futures]
        assert set(codes) == {200, 429}
        metrics = ask(host, port, "GET", "/metrics")[1].decode()
        for code in (200, 429):
            line = f'garment_transfer_requests_total{{status="{code}"}} {codes.count(code)}\n'
            assert line in metrics


def test_server_answers_what_it_took_before_it_stops(
    programs: Path, small_pair: tuple[Path, Path]
) -> None:
    body, header = form(parts_of(*small_pair))
    with serving(programs, SESSIONS=1) as (host, port, process):
        answers: list[int] = []
        connections = []
        for _ in range(4):
            connection = http.client.HTTPConnection(host, port, timeout=60)
            connection.request("POST", "/transfer", body, header)
            connections.append(connection)
        deadline = time.monotonic() + 60
        taken = 0
        while taken < 4 and time.monotonic() < deadline:
            metrics = ask(host, port, "GET", "/metrics")[1].decode()
            taken = sum(
                int(metrics.partition(f"\ngarment_transfer_{name} ")[2].split()[0])
                for name in ("pending", "request_seconds_count")
            )
        process.send_signal(signal.SIGTERM)
        threads = [
            threading.Thread(target=lambda c=c: answers.append(c.getresponse().status))
            for c in connections
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 4
        assert process.wait(60) == 0
