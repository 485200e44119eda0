"""The C++ examples: the same picture as Python's, and a server that takes what clients do."""

import contextlib
import http.client
import json
import os
import re
import shutil
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

from garment_transfer.bundle import GARMENT, LABEL_SETS, SKIN
from garment_transfer.runtime import InputError, Person, Pipeline, sample_bundle, sample_people
from garment_transfer.runtime.photos import Box

Build = Callable[..., Path]
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
def pipeline() -> Pipeline:
    return Pipeline.load(sample_bundle())


def pythons_picture(pipeline: Pipeline, person: Path, owner: Path) -> np.ndarray:
    return pipeline.transfer(Person.load(person), Person.load(owner)).image


def test_command_line_gives_pythons_picture(
    programs: Path, run: Run, pipeline: Pipeline, make_person: MakePerson,
    save_person: SavePerson, tmp_path: Path,
) -> None:  # fmt: skip
    """Larger, smaller and of the bundle's size, both aspects; the owner minified and magnified."""

    def saved(size: tuple[int, int], seed: int) -> Path:
        return save_person(make_person(*size, seed=seed), tmp_path / f"{seed}")

    pairs = [sample_people()]
    sizes = [(1024, 768), (201, 335), (256, 192), (97, 61), (701, 301)]
    for index, (one, other) in enumerate(zip(sizes, sizes[1:] + sizes[:1], strict=True)):
        pairs.append((saved(one, 2 * index), saved(other, 2 * index + 1)))
    for person, owner in pairs:
        output = tmp_path / "cpp.png"
        run([programs / "garment_transfer_cli", sample_bundle(), person, owner, output])
        found = np.asarray(Image.open(output))
        assert np.array_equal(found, pythons_picture(pipeline, person, owner))


BLUE = (30, 60, 200)


def test_command_line_reads_people_as_python_does(
    programs: Path, pipeline: Pipeline, new_scene: NewScene, tmp_path: Path
) -> None:
    """Small in a wide photo, others beside, a bag in front of either, one of two bodies."""
    scenes = {
        "owner": (new_scene(300, 200).person(97, BLUE), "classes7"),
        "small": (new_scene(333, 601).person(421, size=0.7), "classes7"),
        "two": (new_scene().person(101).person(280, BLUE), "classes7"),
    }
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
        if person.name == "two":
            box, options = Box(10, 230, 210, 100), ["--person-box", "230,10,330,220"]
        output = tmp_path / "cpp.png"
        command = [programs / "garment_transfer_cli", *options]
        ran = subprocess.run(
            [*command, sample_bundle(), person, giver, output], capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        assert ("147 pixels high in the photo" in ran.stderr) == (person.name == "small")
        someone = Person.load(person, box=box)
        expected = pipeline.transfer(someone, Person.load(giver)).image
        found = np.asarray(Image.open(output))
        assert np.array_equal(found, expected)
        if someone.protected is not None:
            assert (found[someone.protected] == someone.image[someone.protected]).all()


def test_command_line_refuses_as_python_does(
    programs: Path, pipeline: Pipeline, new_scene: NewScene, tmp_path: Path
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
        ran = subprocess.run(
            [programs / "garment_transfer_cli", sample_bundle(), good, folder, tmp_path / "o.png"],
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 1
        expected = str(error.value).replace(
            " with --person-box, --owner-box, `prepare --box` or box=", ", as the person's box"
        )
        assert ran.stderr == f"Error: {expected}\n"
        assert not (tmp_path / "o.png").exists()
    usage = [programs / "garment_transfer_cli", "--person-box", "9,9,9,20", "b", "p", "o", "out"]
    assert subprocess.run(usage, capture_output=True).returncode == 2


def test_nothing_is_left_in_the_home_folder(programs: Path, run: Run, tmp_path: Path) -> None:
    """ONNX Runtime keeps an identifier there for its vendor, unless it is told not to."""
    home = tmp_path / "home"
    home.mkdir()
    command = [programs / "garment_transfer_cli", sample_bundle(), *sample_people()]
    run([*command, tmp_path / "out.png"], HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
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
    elif how == "grey JPEG, 4-bit palette":
        image.convert("L").save(folder / "image.jpg", progressive=True)
        (folder / "image.png").unlink()
        parse.convert("P").save(folder / "parse.png", bits=4)


@pytest.mark.parametrize(
    "how",
    ["16-bit colours, ids in colours", "16-bit grey levels, 16-bit ids", "turned JPEG, parula",
     "grey JPEG, 4-bit palette"],
)  # fmt: skip
def test_files_are_read_as_python_does(
    programs: Path, run: Run, pipeline: Pipeline, make_person: MakePerson,
    save_person: SavePerson, tmp_path: Path, how: str,
) -> None:  # fmt: skip
    person = save_person(make_person(256, 192, seed=5), tmp_path / "p")
    owner = save_person(make_person(256, 192, seed=6), tmp_path / "o")
    drawn(person, how)
    command = [
        programs / "garment_transfer_cli",
        sample_bundle(),
        person,
        owner,
        tmp_path / "o.png",
    ]
    run(command)
    expected = pythons_picture(pipeline, person, owner)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o.png")), expected)


@pytest.mark.parametrize(
    ("label_set", "palette"), [(name, i % 2 == 1) for i, name in enumerate(sorted(LABEL_SETS))]
)
def test_label_sets_are_pythons(
    programs: Path, run: Run, pipeline: Pipeline, make_person: MakePerson,
    save_person: SavePerson, tmp_path: Path, label_set: str, palette: bool,
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
    run([programs / "garment_transfer_cli", sample_bundle(), folder, folder, tmp_path / "o.png"])
    expected = pythons_picture(pipeline, folder, folder)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o.png")), expected)


def test_command_line_refuses_with_a_message(
    programs: Path, make_person: MakePerson, save_person: SavePerson, tmp_path: Path
) -> None:
    good = save_person(make_person(64, 48), tmp_path / "good")

    def error(person: Path) -> str:
        ran = subprocess.run(
            [programs / "garment_transfer_cli", sample_bundle(), person, good, tmp_path / "o.png"],
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 1
        return ran.stderr

    assert "meta.json cannot be read" in error(tmp_path / "nowhere")
    bad = Path(shutil.copytree(good, tmp_path / "bad"))
    (bad / "meta.json").write_text('{"parse": "classes7", "densepose": "rainbow"}')
    assert "encoding 'rainbow'; expected one of iuv, iuv-png, parula" in error(bad)
    (bad / "meta.json").write_text('{"parse": "nine", "densepose": "iuv-png"}')
    assert "unknown label set 'nine'; expected one of atr18" in error(bad)
    shutil.copy(good / "meta.json", bad)
    shutil.copy(good / "image.png", bad / "parse.png")
    assert "parse.png has colours, not label ids" in error(bad)
    Image.fromarray(np.full((64, 48), 9, np.uint8)).save(bad / "parse.png")
    assert "has ids that label set classes7 does not have: 9; expected ids 0-6" in error(bad)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(bad / "parse.png")
    assert "the aspects differ" in error(bad)
    shutil.copy(good / "parse.png", bad)
    for name in ("image.png", "parse.png", "densepose.png"):
        content = (good / name).read_bytes()
        (bad / name).write_bytes(content[: len(content) // 2])
        assert f"{name} cannot be read as an image" in error(bad)
        (bad / name).write_bytes(content)
    Image.open(bad / "image.png").save(bad / "image.jpg")
    (bad / "image.png").unlink()
    content = (bad / "image.jpg").read_bytes()
    (bad / "image.jpg").write_bytes(content[: len(content) * 3 // 4])
    assert "image.jpg cannot be read as an image (Premature end of JPEG file)" in error(bad)


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
    Image.new("RGB", (5000, 10)).save(large, "png")
    missing = {name: content for name, content in parts.items() if name != "garment_parsing"}
    return [
        (b"hello", text, 400, "body_invalid"),
        (body[: len(body) // 2], header, 400, "body_invalid"),
        (*form(missing), 422, "fields_invalid"),
        (*form({**parts, "person_image": b"no image"}), 422, "image_unreadable"),
        (*form({**parts, "person_image": parts["person_image"][:200]}), 422, "image_unreadable"),
        (*form({**parts, "person_parsing": parts["person_densepose"]}), 422, "image_mode"),
        (*form({**parts, "person_label_set": b"nine"}), 422, "label_set_unknown"),
        (*form({**parts, "person_label_set": b"\xff"}), 422, "label_set_unknown"),
        (*form({**parts, "person_encoding": b"rainbow"}), 422, "densepose_encoding_unknown"),
        (*form({**parts, "person_image": large.getvalue()}), 413, "too_large"),
        (*form({**parts, "person_image": bytes(2 << 20)}), 413, "too_large"),
    ]


def test_server_survives_bad_requests_beside_good_ones(
    programs: Path, small_pair: tuple[Path, Path]
) -> None:
    parts = parts_of(*small_pair)
    body, header = form(parts)
    settings = {"SESSIONS": 2, "MAX_BODY_MB": 1, "IDLE_SECONDS": 1, "CONNECTIONS": 16}
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
        assert ask(host, port, "GET", "/nowhere")[0] == 404


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
