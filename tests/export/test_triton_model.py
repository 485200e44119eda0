"""The Python-backend model in a real Triton server, through Triton's own clients."""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.util
import io
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from PIL import Image
from tritonclient.utils import InferenceServerException

from garment_transfer.bundle import BackendError, Bundle, write_manifest
from garment_transfer.export.passes import replace_nodes
from garment_transfer.export.triton import Serving, write_repository
from garment_transfer.runtime import Person, Pipeline, Transfer
from garment_transfer.runtime.photos import png_bytes

Fields = dict[str, bytes]

NAME = "garment_transfer"

#: Found, not imported: its modules need packages that are not installed.
PACKAGE = importlib.util.find_spec("pytriton")
ROOT = Path(PACKAGE.origin).parent if PACKAGE and PACKAGE.origin else Path()
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB = ROOT / "tritonserver/python_backend_stubs" / PYTHON / "triton_python_backend_stub"
LIBRARIES = sysconfig.get_config_var("LIBDIR") or ""

pytestmark = pytest.mark.skipif(
    not STUB.is_file()
    or not (
        Path(LIBRARIES, f"libpython{PYTHON}.so.1.0").exists()
        or ctypes.util.find_library(f"python{PYTHON}")
    ),
    reason="needs `pip install --no-deps nvidia-pytriton==0.7.0`, and one of the Pythons that it "
    "is for, built with --enable-shared",
)

#: Long enough for all that a test sends at once to meet in one run.
DELAY_MS = 200.0


@dataclass(frozen=True)
class Server:
    """A server that answers: "host:port" of HTTP, gRPC and metrics, its process and its log."""

    http: str
    grpc: str
    metrics: str
    process: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def serve(repository: Path, folder: Path, *options: str) -> Iterator[Server]:
    """Runs a server over a model repository, with its files in an empty folder.

    Models run in this Python and its environment.
    """
    shutil.copytree(ROOT / "tritonserver/backends/python", folder / "python")
    shutil.copy(STUB, folder / "python")
    # the stub looks up its interpreter's library and, by PATH, its environment
    environment = dict(os.environ)
    for name, folders in (
        ("LD_LIBRARY_PATH", (LIBRARIES, str(ROOT.parent / "nvidia_pytriton.libs"))),
        ("PATH", (str(Path(sys.executable).parent),)),
    ):
        environment[name] = ":".join(filter(None, (*folders, os.environ.get(name))))
    command = [
        str(ROOT / "tritonserver/bin/tritonserver"),
        *("--model-repository", str(repository), "--backend-directory", str(folder)),
        *("--allow-gpu-metrics", "false", "--allow-cpu-metrics", "false"),
        *("--disable-auto-complete-config", *options),
    ]
    addresses = {}
    with contextlib.ExitStack() as free:
        for name in ("http", "grpc", "metrics"):
            port = free.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            command += [f"--{name}-address", "127.0.0.1", f"--{name}-port", str(port)]
            addresses[name] = f"127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    server = Server(**addresses, process=process, log=folder / "log")
    try:
        wait_until_ready(server)
        yield server
    finally:
        # it finishes what it has begun
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=5).close()
            return
        time.sleep(0.05)
    pytest.fail(f"the server did not become ready:\n{server.log.read_text()[-4000:]}")


def failing_bundle(source: Path, folder: Path, size: int, *index: onnx.NodeProto) -> Bundle:
    """The tiny bundle with a graph that fails where the output of `index` is `size` or more."""
    path = Path(shutil.copytree(source, folder)) / "regrowth.onnx"
    model = onnx.load(path)
    nodes = list(model.graph.node)
    at = next(i for i, node in enumerate(nodes) if "result" in node.output)
    nodes[at].output[0] = "sound"
    nodes[at + 1 : at + 1] = [
        *index,
        onnx.helper.make_node("Constant", [], ["table"], value_floats=[0.0] * size),
        onnx.helper.make_node("Gather", ["table", *index[-1].output], ["nothing"]),
        onnx.helper.make_node("Add", ["sound", "nothing"], ["result"]),
    ]
    replace_nodes(model, nodes)
    onnx.save(model, path)
    was = Bundle.load(source).manifest
    same = ("size", "framing", "opset", "parity", "versions", "checkpoint")
    write_manifest(folder, name="failing", **{field: getattr(was, field) for field in same})
    return Bundle.load(folder)


@pytest.fixture(scope="module")
def repository(tiny_bundle, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    serving = Serving(max_batch=8, max_delay_ms=DELAY_MS)
    write_repository(Bundle.load(tiny_bundle), folder, serving=serving, threads=1)
    brightest = (  # of the person's photo
        onnx.helper.make_node("ReduceMax", ["person"], ["value"], keepdims=0),
        onnx.helper.make_node("Cast", ["value"], ["index"], to=onnx.TensorProto.INT64),
    )
    fragile = failing_bundle(tiny_bundle, tmp_path_factory.mktemp("new") / "b", 255, *brightest)
    write_repository(fragile, folder, name="fragile", serving=serving, threads=1)
    return folder


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory) -> Iterator[Server]:
    options = ("--model-control-mode=explicit", f"--load-model={NAME}", "--load-model=fragile")
    with serve(repository, tmp_path_factory.mktemp("server"), *options) as running:
        yield running


@pytest.fixture
def client(server) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(server.grpc) as connection:
        yield connection


@pytest.fixture(scope="module")
def pairs(make_person) -> list[Fields]:
    """Eight pairs with maps, no two photos of one size."""

    def fields(role: str, seed: int) -> Fields:
        person = make_person(64 + 11 * seed, 40 + 3 * seed, seed=seed)
        return {
            f"{role}_image": png_bytes(person.image),
            f"{role}_parsing": png_bytes(person.parsing),
            f"{role}_densepose": png_bytes(person.densepose),
            f"{role}_label_set": b"classes7",
            f"{role}_encoding": b"iuv-png",
        }

    return [fields("person", seed) | fields("garment", (seed + 7) % 8) for seed in range(8)]


def photo(height: int, width: int) -> bytes:
    """A photo in which the tiny bundle's maps see a torso in a garment everywhere."""
    image = np.full((height, width, 3), (162, 25, 250), np.uint8)
    image[..., 2] -= np.arange(width, dtype=np.uint8) % 50
    return png_bytes(image)


def inputs_of(module: Any, fields: Fields) -> list[Any]:
    inputs = []
    for name, value in fields.items():
        inputs.append(module.InferInput(name, [1, len(value)], "UINT8"))
        inputs[-1].set_data_from_numpy(np.frombuffer(value, np.uint8)[None])
    return inputs


def infer(client: Any, fields: Fields, model: str = NAME) -> Any:
    module = triton_http if isinstance(client, triton_http.InferenceServerClient) else triton_grpc
    return client.infer(model, inputs_of(module, fields))


def together(client: Any, pairs: list[Fields], model: str = NAME) -> list[Any]:
    """The results, or the errors, of requests that are sent at once."""
    with ThreadPoolExecutor(len(pairs)) as pool:
        futures: list[Future[Any]] = [pool.submit(infer, client, one, model) for one in pairs]
    return [future.exception() or future.result() for future in futures]


def transferred(pipeline: Pipeline, fields: Fields) -> Transfer:
    people = []
    for role in ("person", "garment"):
        files = [io.BytesIO(fields[name]) for name in fields if name.startswith(role)][:3]
        if len(files) == 1:
            people.append(pipeline.maps.person(*files))
        else:
            people.append(Person.from_files(*files, "classes7", "iuv-png"))
    return pipeline.transfer(*people)


def check(result: Any, pipeline: Pipeline, fields: Fields) -> None:
    with Image.open(io.BytesIO(result.as_numpy("image").tobytes())) as image:
        assert image.format == "PNG"
        assert (np.array(image) == transferred(pipeline, fields).image).all()


def batches(client: Any, model: str = NAME) -> dict[int, int]:
    """How often each batch size was run."""
    answer = client.get_inference_statistics(model, as_json=True)
    return {
        int(entry["batch_size"]): int(entry["compute_infer"]["count"])
        for entry in answer["model_stats"][0]["batch_stats"]
    }


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_gives_what_the_pipeline_gives(server, pipeline, pairs, protocol):
    module = triton_grpc if protocol == "grpc" else triton_http
    with module.InferenceServerClient(getattr(server, protocol)) as client:
        check(infer(client, pairs[0]), pipeline, pairs[0])


def test_the_examples_client(server, pipeline, tmp_path):
    """Two photos in files become the picture that the pipeline makes of them."""
    fields = {"person_image": photo(150, 100), "garment_image": photo(240, 130)}
    files = [tmp_path / name for name in fields]
    for file in files:
        file.write_bytes(fields[file.name])
    script = Path(__file__).parents[2] / "examples" / "triton" / "client.py"
    arguments = [*map(str, files), "-o", str(tmp_path / "out.png"), "--url", server.grpc]
    subprocess.run([sys.executable, script, *arguments], check=True)
    expected = transferred(pipeline, fields).image
    assert (np.array(Image.open(tmp_path / "out.png")) == expected).all()


def test_batches_form(client, pipeline, pairs):
    before = batches(client)
    for result, fields in zip(together(client, pairs), pairs, strict=True):
        check(result, pipeline, fields)
    ran = {size: count - before.get(size, 0) for size, count in batches(client).items()}
    assert sum(size * count for size, count in ran.items()) == len(pairs)
    assert sum(ran.values()) < len(pairs)


def test_photos_with_and_without_maps_at_once(client, pipeline, pairs):
    bare = {"person_image": photo(150, 100), "garment_image": photo(240, 130)}
    half = {**bare, **{name: pairs[0][name] for name in pairs[0] if name.startswith("garment")}}
    mixed = [pairs[0], bare, half, bare, pairs[1]]
    for result, fields in zip(together(client, mixed), mixed, strict=True):
        check(result, pipeline, fields)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "garment_parsing",
            png_bytes(np.full((141, 61), 2, np.uint8)),
            "[garment_missing] the garment",
        ),
        ("person_label_set", b"coco", "[label_set_unknown] person_parsing: unknown"),
        ("garment_encoding", b"\xff", "[densepose_encoding_unknown] garment_densepose: unknown"),
        ("person_image", b"of a secret", "[image_unreadable] person_image cannot be read"),
        (
            "person_image",
            png_bytes(np.zeros((2001, 2000), np.uint8)),
            "[image_size] person_image has more than 4 megapixels; scale the photo",
        ),
        ("person_image", None, "[person_incomplete] the request lacks person_image"),
        ("garment_densepose", None, "[person_incomplete] the request lacks garment_densepose"),
    ],
)
def test_input_errors_arrive_with_the_runtimes_code_and_words(
    server, client, pairs, name, value, says
):
    fields = {**pairs[0], name: value}
    if value is None:
        del fields[name]
    with triton_http.InferenceServerClient(server.http) as http:
        for connection, status in ((client, "StatusCode.INVALID_ARGUMENT"), (http, "400")):
            with pytest.raises(InferenceServerException) as raised:
                infer(connection, fields)
            assert raised.value.message().startswith(says)
            assert raised.value.status() == status
    assert "secret" not in server.log.read_text() + raised.value.message()


def test_a_request_is_one_pair(client, pairs):
    inputs = inputs_of(triton_grpc, pairs[0])
    for one in inputs:
        one.set_shape([2, 9]).set_data_from_numpy(np.zeros((2, 9), np.uint8))
    with pytest.raises(InferenceServerException, match=r"\[batch_invalid\] a request for 2 pairs"):
        client.infer(NAME, inputs)


def test_a_bad_request_costs_its_batch_nothing(client, pipeline, pairs):
    mixed = [*pairs[:2], {**pairs[2], "garment_image": b"no photo"}, *pairs[3:5]]
    results = together(client, mixed)
    assert isinstance(results[2], InferenceServerException)
    for index in (0, 1, 3, 4):
        check(results[index], pipeline, mixed[index])


def test_a_failing_graph_costs_its_batch_nothing(client, pipeline, pairs, repository):
    white = {**pairs[1], "person_image": png_bytes(np.full((75, 43, 3), 255, np.uint8))}
    mixed = [pairs[0], white, *pairs[2:4]]
    own = Pipeline.load(repository / "fragile" / "1" / "bundle", threads=1)
    with pytest.raises(BackendError, match="out of data bounds") as expected:
        transferred(own, white)
    results = together(client, mixed, "fragile")
    assert isinstance(results[1], InferenceServerException)
    assert results[1].message() == f"[{expected.value.code}] {expected.value}"
    assert "INTERNAL" in results[1].status()
    for index in (0, 2, 3):
        check(results[index], pipeline, mixed[index])


def test_clients_that_go_away_leave_the_server_well(server, client, pipeline, pairs):
    host, port = server.http.split(":")
    for _ in range(4):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                f"POST /v2/models/{NAME}/infer HTTP/1.1\r\nHost: {host}\r\n"
                "Content-Length: 100000\r\n\r\n{".encode()
            )
    errors: queue.Queue[Any] = queue.Queue()
    calls = [
        client.async_infer(
            NAME, inputs_of(triton_grpc, fields), lambda result, error: errors.put(error)
        )
        for fields in pairs[:4]
    ]
    for call in calls:
        call.cancel()
        assert "CANCELLED" in errors.get(timeout=20).status()
    for result, fields in zip(together(client, pairs), pairs, strict=True):
        check(result, pipeline, fields)


def test_a_new_version_takes_over(client, pipeline, pairs, repository, tiny_bundle):
    serving = Serving(max_batch=8, max_delay_ms=DELAY_MS)
    write_repository(Bundle.load(tiny_bundle), repository, version=2, serving=serving, threads=1)
    client.load_model(NAME)
    assert client.is_model_ready(NAME, "2")
    result = infer(client, pairs[0])
    assert result.get_response().model_version == "2"
    check(result, pipeline, pairs[0])


def test_a_bundle_that_does_not_load_says_why(client, repository, tiny_bundle):
    write_repository(Bundle.load(tiny_bundle), repository, name="spoiled", threads=1)
    graph = repository / "spoiled" / "1" / "bundle" / "warping.onnx"
    graph.write_bytes(graph.read_bytes() + b" ")
    with pytest.raises(InferenceServerException, match=r"\[graph_altered\]") as raised:
        client.load_model("spoiled")
    assert "Traceback" not in raised.value.message()


@pytest.mark.parametrize("batch", [1, 8])
def test_it_is_warm_before_it_is_ready(
    client, pipeline, pairs, repository, tiny_bundle, tmp_path, batch
):
    """A model whose graphs fail in a batch of one, or of the most pairs, does not load."""
    index = (
        onnx.helper.make_node("Shape", ["person"], ["sizes"], end=1),
        onnx.helper.make_node("Squeeze", ["sizes"], ["index"]),
    )
    cold = failing_bundle(tiny_bundle, tmp_path / "bundle", batch, *index)
    write_repository(cold, repository, name=f"cold{batch}", serving=Serving(max_batch=8), threads=1)
    with pytest.raises(InferenceServerException, match="out of data bounds"):
        client.load_model(f"cold{batch}")
    check(infer(client, pairs[0]), pipeline, pairs[0])


def test_what_nobody_foresaw_stays_in_the_log(server, client, pairs, repository, tiny_bundle):
    write_repository(Bundle.load(tiny_bundle), repository, name="faulty", threads=1)
    with (repository / "faulty" / "1" / "model.py").open("a") as model:
        model.write(
            "Model = TritonPythonModel\n"
            "class TritonPythonModel(Model):\n"
            "    def initialize(self, args): super().initialize(args); self._pipeline = None\n"
        )
    client.load_model("faulty")
    with pytest.raises(InferenceServerException) as raised:
        infer(client, pairs[0], "faulty")
    assert raised.value.message() == "the server failed to run this request; its log says why"
    assert "INTERNAL" in raised.value.status()
    log = server.log.read_text()
    assert "Traceback" in log
    assert "AttributeError: 'NoneType' object has no attribute 'transfer_batch'" in log


def test_shutdown_answers_what_has_begun(tiny_bundle, tmp_path, pipeline, pairs):
    serving = Serving(max_batch=8, max_delay_ms=1000)
    repository, folder = tmp_path / "repository", tmp_path / "server"
    folder.mkdir()
    write_repository(Bundle.load(tiny_bundle), repository, serving=serving, threads=1)
    with serve(repository, folder) as server:
        with (
            triton_grpc.InferenceServerClient(server.grpc) as client,
            ThreadPoolExecutor(5) as pool,
        ):
            futures = [pool.submit(infer, client, fields) for fields in pairs[:5]]
            deadline = time.monotonic() + 20
            while pending(server) < 5 and time.monotonic() < deadline:
                time.sleep(0.01)
            server.process.terminate()
            for future, fields in zip(futures, pairs, strict=False):
                check(future.result(timeout=20), pipeline, fields)
        assert server.process.wait(30) == 0


def pending(server: Server) -> int:
    """How many requests wait for the model, by the server's metrics."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("nv_inference_pending_request_count{"):
                return int(float(line.rsplit(" ", 1)[1]))
    return 0
