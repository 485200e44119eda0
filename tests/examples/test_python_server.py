"""The example server over real connections, with the tiny bundle whose results are known."""

import asyncio
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from garment_transfer import InputError, Person
from garment_transfer.runtime.photos import png_bytes

httpx = pytest.importorskip("httpx", reason="the extra serve is not installed")
pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")

FOLDER = Path(__file__).parents[2] / "examples" / "python_server"
sys.path.append(str(FOLDER))

from batcher import Batcher  # noqa: E402
from load import Server, form, serving  # noqa: E402
from server import Settings, create_app  # noqa: E402

Fields = dict[str, Any]


@pytest.fixture(scope="module")
def people(tmp_path_factory, make_person, save_person) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("people")
    owner = make_person(96, 48, garment=(0.25, 0.5, 0.15, 0.9), seed=1)
    return save_person(make_person(128, 64), folder / "a"), save_person(owner, folder / "b")


def start(bundle: Path, temporary: Path | None = None, **settings: object) -> Any:
    names = {"bundle": bundle, **settings}
    environment = {f"GARMENT_TRANSFER_{name.upper()}": str(value) for name, value in names.items()}
    return serving(1, environment | ({"TMPDIR": str(temporary)} if temporary else {}))


@pytest.fixture(scope="module")
def temporary(tmp_path_factory) -> Path:
    """The server's temporary folder."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(tiny_bundle, temporary) -> Iterator[Server]:
    """A server of small limits."""
    limits = {"max_body_mb": 2.0, "max_megapixels": 0.5, "upload_seconds": 2.0}
    with start(tiny_bundle, temporary, **limits) as started:
        yield started


@pytest.fixture
def url(server) -> str:
    return server.url


@pytest.fixture
def fields(people) -> Fields:
    """What a transfer sends; to be spoiled."""
    return {name: value for name, (_, value) in form(people).items()}


def request(url: str, fields: Fields) -> Any:
    parts = {k: (k if isinstance(v, bytes) else None, v) for k, v in fields.items()}
    return httpx.Request("POST", f"{url}/transfer", files=parts)


def post(url: str, fields: Fields) -> Any:
    with httpx.Client(timeout=60) as client:
        return client.send(request(url, fields))


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def test_the_answer_is_the_pipeline_s(url, fields, people, pipeline):
    response = post(url, fields)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "image/png"
    assert "warping;dur=" in response.headers["Server-Timing"]
    expected = pipeline.transfer(*map(Person.load, people))
    with Image.open(io.BytesIO(response.content)) as image:
        assert (np.array(image) == expected.image).all()
        assert image.info == {"srgb": 0}


def test_densepose_as_a_numpy_file(url, fields):
    expected = post(url, fields)
    iuv = np.array(Image.open(io.BytesIO(fields["person_densepose"])), np.float32)
    file = io.BytesIO()
    np.save(file, iuv.transpose(2, 0, 1) / np.float32([[[1]], [[255]], [[255]]]))
    fields |= {"person_densepose": file.getvalue(), "person_encoding": "iuv"}
    response = post(url, fields)
    assert response.status_code == 200, response.text
    assert response.content == expected.content


def test_nothing_is_kept_of_photos(server, temporary, fields):
    """Not in the log, nor in metrics, errors or the temporary folder, where large files go."""
    photo = fields["person_image"] + bytes(1_500_000)  # what follows a PNG's end is not read
    sent = {name: ("secret.png" if type(v) is bytes else None, v) for name, v in fields.items()}
    said = ""
    for image, status in ((photo, 200), (photo[:100], 422)):
        sent["person_image"] = ("secret.png", image)
        answer = httpx.post(f"{server.url}/transfer", files=sent, timeout=60)
        assert answer.status_code == status
        said = answer.text
    said += server.log.read_text() + httpx.get(f"{server.url}/metrics").text
    assert "secret" not in said
    assert list(temporary.rglob("*")) == []


def test_interface(url, fields, check_interface):
    check_interface(url, create_app().openapi(), fields, too_large=2_100_000)


def test_openapi(url, fields):
    described = httpx.get(f"{url}/openapi.json").json()
    answers = described["paths"]["/transfer"]["post"]["responses"]
    assert set(answers) == {"200", "400", "408", "413", "422", "429", "500"}
    assert "`busy`" in answers["429"]["description"]
    assert set(described["components"]["schemas"]["Refusal"]["required"]) == {"detail", "code"}
    (body,) = (
        schema for name, schema in described["components"]["schemas"].items() if "Body" in name
    )
    assert set(body["properties"]) == set(fields)
    assert body["required"] == ["person_image", "garment_image"]
    assert "viton14" in body["properties"]["person_label_set"]["enum"]


def refused(response: Any, status: int, code: str) -> str:
    """The words of a refusal, whose status and code are checked."""
    assert response.status_code == status, response.text
    assert response.json()["code"] == code
    assert "0x" not in response.text  # no addresses, and no traceback
    return str(response.json()["detail"])


@pytest.mark.parametrize(
    ("field", "value", "code", "says"),
    [
        ("garment_parsing", np.full((96, 48), 2, np.uint8), "garment_missing", "wears no upper"),
        ("person_encoding", "tiff", "densepose_encoding_unknown", "person_densepose: unknown"),
        ("garment_image", b"%!PS-Adobe-3.0\n%%EOF\n", "image_unreadable", "garment_image cannot"),
        ("garment_encoding", "iuv", "image_unreadable", "garment_densepose cannot be read as a"),
        ("person_parsing", np.zeros((64, 64), np.uint8), "sizes_differ", "64x64"),
        ("person_densepose", np.zeros((128, 64, 3), np.uint8), "body_missing", "person_densepose"),
    ],
)
def test_refusals_are_the_package_s(url, fields, field, value, code, says):
    fields[field] = png_bytes(value) if isinstance(value, np.ndarray) else value
    detail = refused(post(url, fields), 422, code)
    assert says in detail
    assert "--" not in detail
    assert "meta.json" not in detail


def test_a_missing_field_is_named(url, fields):
    del fields["garment_densepose"]
    assert "garment_densepose" in refused(post(url, fields), 422, "fields_invalid")


def test_more_files_than_a_transfer_has(url, fields):
    refused(post(url, {**fields, "another": b"x"}), 400, "body_invalid")


def test_bodies_over_the_limit_are_refused(url, fields):
    fields["person_image"] = bytes(2_100_000)
    assert "2 MB" in refused(post(url, fields), 413, "too_large")

    def chunks() -> Iterator[bytes]:  # no Content-Length says how much comes
        for _ in range(60):
            yield bytes(50_000)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = httpx.post(f"{url}/transfer", content=chunks(), headers=headers)
    assert response.status_code in (400, 413)  # zeros are no multipart either
    assert metric(url, "garment_transfer_pending") == 0


@pytest.mark.parametrize(
    ("field", "width", "height"),
    [
        ("person_image", 1000, 501),
        ("garment_parsing", 8000, 8000),
        ("garment_densepose", 30000, 30000),
    ],
)
def test_bombs_are_refused_by_their_header(url, fields, field, width, height):
    image = bytearray(png_bytes(np.zeros((1, 1, 3), np.uint8)))
    image[16:24] = struct.pack(">II", width, height)
    image[29:33] = struct.pack(">I", zlib.crc32(image[12:29]))
    fields[field] = bytes(image)
    # Decoding would have ended in 422: the data is cut short.
    assert "0.5 megapixels" in refused(post(url, fields), 413, "too_large")


def half_a_request(url: str, fields: Fields, keep: int | None) -> socket.socket:
    """A connection over which `keep` bytes of a transfer's body were sent; None sends all."""
    whole = request(url, fields)
    body = whole.read()
    connection = socket.create_connection(("127.0.0.1", whole.url.port), timeout=30)
    head = "".join(f"{name}: {value}\r\n" for name, value in whole.headers.items())
    connection.sendall(f"POST /transfer HTTP/1.1\r\n{head}\r\n".encode() + body[:keep])
    return connection


def is_timed_out(connection: socket.socket) -> bool:
    """Whether a request over this connection is answered that it came too slowly."""
    answer = b""
    while b"upload_timeout" not in answer:
        answer += (more := connection.recv(1000))
        assert more, answer
    return b" 408 " in answer


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_upload_that_stalls(url, fields):
    with half_a_request(url, fields, 1000) as connection:
        assert is_timed_out(connection)
    until(lambda: metric(url, "garment_transfer_pending") == 0)


def test_a_client_that_leaves_in_the_middle_of_its_upload(url, fields):
    left = 'garment_transfer_requests_total{status="499"}'
    before = metric(url, left)
    half_a_request(url, fields, 1000).close()
    until(lambda: metric(url, left) == before + 1)
    assert metric(url, "garment_transfer_pending") == 0


def test_slots_batches_and_clients_that_leave(tiny_bundle, fields):
    # The batch stays open as long as nobody fills it, so what waits in it can be looked at.
    with (
        start(tiny_bundle, max_uploads=2, max_batch=3, max_wait_ms=60_000) as server,
        ThreadPoolExecutor() as clients,
    ):
        url = server.url
        leaving = half_a_request(url, fields, None)
        until(lambda: metric(url, "garment_transfer_pending") == 1)
        first = clients.submit(post, url, fields)
        until(lambda: metric(url, "garment_transfer_pending") == 2)
        leaving.close()
        until(lambda: metric(url, "garment_transfer_pending") == 1)
        assert not first.done()
        # Clients that send slowly hold no slot, and the first of them makes way for another one.
        with half_a_request(url, fields, 1000) as slow, half_a_request(url, fields, 1000):
            # Who left takes no place in the batch: two more fill it.
            others = [clients.submit(post, url, fields) for _ in range(2)]
            assert [answer.result().status_code for answer in (first, *others)] == [200] * 3
            assert is_timed_out(slow)
            assert metric(url, "garment_transfer_batch_size_count") == 1
            assert metric(url, "garment_transfer_batch_size_sum") == 3
            assert metric(url, 'garment_transfer_requests_total{status="499"}') == 1


def test_more_requests_than_slots(tiny_bundle, fields):
    with start(tiny_bundle, max_pending=1, max_batch=2, max_wait_ms=60_000) as server:
        with half_a_request(server.url, fields, None):
            until(lambda: metric(server.url, "garment_transfer_pending") == 1)
            answer = post(server.url, fields)
            assert "1 slots" in refused(answer, 429, "busy")
            assert int(answer.headers["Retry-After"]) >= 1
        until(lambda: metric(server.url, "garment_transfer_pending") == 0)


def test_a_pair_that_fails_leaves_its_batch_alone(pipeline, make_person):
    person, bare = make_person(), make_person(garment=(0, 0, 0, 0))
    sizes: list[int] = []

    async def run() -> list[Any]:
        batcher = Batcher(pipeline, 3, 60, sizes.append)
        answers = await asyncio.gather(
            *(batcher.transfer(person, owner) for owner in (person, bare, person)),
            return_exceptions=True,
        )
        await batcher.close()
        assert not batcher.alive
        return answers

    first, second, third = asyncio.run(run())
    expected = pipeline.transfer(person, person)
    assert sizes == [3]
    assert (first.image == expected.image).all()
    assert isinstance(second, InputError)
    assert (third.image == expected.image).all()


def test_settings_of_another_type(monkeypatch):
    monkeypatch.setenv("GARMENT_TRANSFER_MAX_BATCH", "7")
    assert Settings.from_environment() == Settings(max_batch=7)
    monkeypatch.setenv("GARMENT_TRANSFER_MAX_BATCH", "many")
    with pytest.raises(ValueError, match=r"Expected `int`.*GARMENT_TRANSFER_MAX_BATCH"):
        Settings.from_environment()


def test_load_beside_queueing_arithmetic(tiny_bundle, people, tmp_path):
    result = tmp_path / "capacity.json"
    command = [sys.executable, str(FOLDER / "load.py"), "--queueing", "--seconds", "1"]
    options = ["--person", str(people[0]), "--garment-owner", str(people[1]), "--json", str(result)]
    environment = {**os.environ, "GARMENT_TRANSFER_BUNDLE": str(tiny_bundle)}
    subprocess.run([*command, *options], env=environment, check=True)
    one, two = json.loads(result.read_text())["rows"]
    assert (one["workers"], two["workers"]) == (1, 2)
    for row in (one, two):
        shares = [load["share"] for load in row["loads"]]
        assert shares == [0.5, 0.8]
        for load in row["loads"]:
            assert load["asked_per_second"] == pytest.approx(
                load["share"] * 1000 * row["workers"] / row["service_ms"], rel=0.05, abs=0.01
            )
            assert load["expected_p99_ms"] > row["service_ms"]


def test_load_command(tiny_bundle, people, tmp_path):
    """Capacity, load, overload, a killed worker and the drain, all short."""
    result = tmp_path / "serve.json"
    command = [sys.executable, str(FOLDER / "load.py"), "--minutes", "0.02", "--seconds", "1"]
    options = ["--person", str(people[0]), "--garment-owner", str(people[1]), "--json", str(result)]
    done = subprocess.run(
        [*command, *options],
        env={
            **os.environ,
            "GARMENT_TRANSFER_BUNDLE": str(tiny_bundle),
            "GARMENT_TRANSFER_MAX_PENDING": "4",
        },
        capture_output=True,
        text=True,
    )
    assert result.exists(), done.stdout + done.stderr
    report = json.loads(result.read_text())
    # Which share is refused, and how fast the rest is, is the machine's; these are the server's.
    assert set(report["capacity"]["statuses"]) == {"200"}
    assert set(report["steady"]["statuses"]) <= {"200", "429"}
    assert set(report["overload"]["statuses"]) <= {"200", "429"}
    assert set(report["kill"]["statuses"]) <= {"200", "429", "none"}
    assert report["kill"]["replaced_after_seconds"] > 0
    assert report["drain"]["statuses"] == {"200": 4}
    machines_own = ("statuses {'200'", "nothing was refused", "memory grew", "a request took")
    assert [x for x in report["broken"] if not any(words in x for words in machines_own)] == []
    assert ("BROKEN" in done.stderr) == bool(report["broken"]) == bool(done.returncode)
