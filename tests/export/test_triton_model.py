"""The Python-backend model in a real Triton server, through Triton's own clients."""

from __future__ import annotations

import queue
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from PIL import Image
from tritonclient.utils import InferenceServerException

from garment_transfer.benchmarks import triton as runner
from garment_transfer.bundle import BackendError, Bundle, InputError, write_manifest
from garment_transfer.export.passes import replace_nodes
from garment_transfer.export.triton import Serving, write_repository
from garment_transfer.runtime import Person, Pipeline, stage_inputs

pytestmark = pytest.mark.skipif(bool(runner.why_not()), reason=runner.why_not())

MakePerson = Callable[..., Person]
Arrays = dict[str, npt.NDArray[np.uint8]]

NAME = "garment_transfer"

#: Long enough for all that a test sends at once to meet in one run.
DELAY_MS = 200.0


def fragile_bundle(source: Path, folder: Path) -> Bundle:
    """The tiny bundle with a graph that fails where the person's photo has a value of 255."""
    path = Path(shutil.copytree(source, folder)) / "regrowth.onnx"
    model = onnx.load(path)
    nodes = list(model.graph.node)
    at = next(i for i, node in enumerate(nodes) if "result" in node.output)
    nodes[at].output[0] = "sound"
    nodes[at + 1 : at + 1] = [
        onnx.helper.make_node("ReduceMax", ["person"], ["brightest"], keepdims=0),
        onnx.helper.make_node("Cast", ["brightest"], ["index"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("Constant", [], ["table"], value_floats=[0.0] * 255),
        onnx.helper.make_node("Gather", ["table", "index"], ["nothing"]),
        onnx.helper.make_node("Add", ["sound", "nothing"], ["result"]),
    ]
    replace_nodes(model, nodes)
    onnx.save(model, path)
    was = Bundle.load(source).manifest
    write_manifest(
        folder,
        name="fragile",
        size=was.size,
        opset=was.opset,
        parity=was.parity,
        versions=was.versions,
        checkpoint=was.checkpoint,
    )
    return Bundle.load(folder)


@pytest.fixture(scope="module")
def repository(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    serving = Serving(max_batch=8, max_delay_ms=DELAY_MS)
    write_repository(Bundle.load(tiny_bundle), folder, serving=serving, threads=1)
    fragile = fragile_bundle(tiny_bundle, tmp_path_factory.mktemp("fragile") / "bundle")
    write_repository(fragile, folder, name="fragile", serving=serving, threads=1)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[runner.Server]:
    options = ("--model-control-mode=explicit", f"--load-model={NAME}", "--load-model=fragile")
    with runner.serve(repository, *options) as running:
        yield running


@pytest.fixture
def client(server: runner.Server) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(server.grpc) as connection:
        yield connection


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def pairs(pipeline: Pipeline, make_person: MakePerson) -> list[Arrays]:
    """Eight pairs, each with a batch axis of one."""
    people = [make_person(seed=seed) for seed in range(8)]
    return [
        {
            name: array[None]
            for name, array in stage_inputs(person, people[i - 1], pipeline.size).items()
        }
        for i, person in enumerate(people)
    ]


def inputs_of(module: Any, arrays: Arrays) -> list[Any]:
    inputs = []
    for name, array in arrays.items():
        inputs.append(module.InferInput(name, list(array.shape), "UINT8"))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def infer(client: Any, arrays: Arrays, model: str = NAME) -> Any:
    module = triton_http if isinstance(client, triton_http.InferenceServerClient) else triton_grpc
    return client.infer(model, inputs_of(module, arrays))


def together(client: Any, pairs: list[Arrays], model: str = NAME) -> list[Any]:
    """The results, or the errors, of pairs that are sent at once."""
    with ThreadPoolExecutor(len(pairs)) as pool:
        futures: list[Future[Any]] = [pool.submit(infer, client, one, model) for one in pairs]
    return [future.exception() or future.result() for future in futures]


def check(result: Any, arrays: Arrays, pipeline: Pipeline) -> None:
    for name, array in pipeline.run(arrays).items():
        given = result.as_numpy(name)
        assert given.dtype == array.dtype
        assert (given == array).all(), name


def batches(client: Any, model: str = NAME) -> dict[int, int]:
    """How often each batch size was run."""
    answer = client.get_inference_statistics(model, as_json=True)
    return {
        int(entry["batch_size"]): int(entry["compute_infer"]["count"])
        for entry in answer["model_stats"][0]["batch_stats"]
    }


def test_it_is_warm_before_it_is_ready(client: Any) -> None:
    assert client.is_model_ready(NAME)
    ran = batches(client)
    assert ran.get(1, 0) >= 1
    assert ran.get(8, 0) >= 1
    config = client.get_model_config(NAME, as_json=True)["config"]
    assert not config.get("response_cache", {}).get("enable", False)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_gives_what_the_pipeline_gives(
    server: runner.Server,
    pipeline: Pipeline,
    pairs: list[Arrays],
    protocol: str,
    count: int,
) -> None:
    module = triton_grpc if protocol == "grpc" else triton_http
    arrays = {name: np.concatenate([one[name] for one in pairs[:count]]) for name in pairs[0]}
    with module.InferenceServerClient(getattr(server, protocol)) as client:
        check(infer(client, arrays), arrays, pipeline)


def test_the_examples_client(
    server: runner.Server,
    pipeline: Pipeline,
    tmp_path: Path,
    make_person: MakePerson,
    save_person: Callable[..., Path],
) -> None:
    """A transfer at the photos' own size is what the pipeline makes of them."""
    folders = [
        save_person(make_person(*size, seed=seed), tmp_path / f"person{seed}")
        for seed, size in enumerate([(150, 100), (96, 48)])
    ]
    script = Path(__file__).parents[2] / "examples" / "triton" / "client.py"
    arguments = [*map(str, folders), "-o", str(tmp_path / "out.png"), "--url", server.grpc]
    subprocess.run([sys.executable, script, *arguments], check=True)
    expected = pipeline.transfer(*map(Person.load, folders)).image
    assert (np.array(Image.open(tmp_path / "out.png")) == expected).all()


def test_only_what_is_asked_for_comes_back(client: Any, pairs: list[Arrays]) -> None:
    result = client.infer(
        NAME,
        inputs_of(triton_grpc, pairs[0]),
        outputs=[triton_grpc.InferRequestedOutput("image")],
    )
    assert result.as_numpy("image") is not None
    assert result.as_numpy("flow") is None


def test_batches_form(client: Any, pipeline: Pipeline, pairs: list[Arrays]) -> None:
    before = batches(client)
    for result, arrays in zip(together(client, pairs), pairs, strict=True):
        check(result, arrays, pipeline)
    ran = {size: count - before.get(size, 0) for size, count in batches(client).items()}
    assert sum(size * count for size, count in ran.items()) == len(pairs)
    assert sum(ran.values()) < len(pairs)


def bad(arrays: Arrays, **values: int) -> Arrays:
    """The arrays, those that are named filled with a value."""
    return {
        name: np.full_like(array, values[name]) if name in values else array
        for name, array in arrays.items()
    }


@pytest.mark.parametrize(
    ("spoiled", "role"),
    [
        ({"garment_parsing": 0}, ""),
        ({"garment_parsing": 7}, "garment: "),
        ({"person_parsing": 200}, "person: "),
        ({"person_densepose": 25}, "person: "),
        ({"garment_densepose": 0}, "garment: "),
    ],
)
def test_input_errors_arrive_with_the_runtimes_code_and_words(
    server: runner.Server, client: Any, pairs: list[Arrays], spoiled: dict[str, int], role: str
) -> None:
    arrays = bad(pairs[0], **spoiled)

    def read() -> None:
        for who in ("person", "garment"):
            fields = (arrays[f"{who}_{field}"][0] for field in ("image", "parsing", "densepose"))
            someone = Person(*fields)
        someone.check_garment()

    with pytest.raises(InputError) as expected:
        read()
    with triton_http.InferenceServerClient(server.http) as http:
        for connection, status in ((client, "StatusCode.INVALID_ARGUMENT"), (http, "400")):
            with pytest.raises(InferenceServerException) as raised:
                infer(connection, arrays)
            assert raised.value.message() == f"[{expected.value.code}] {role}{expected.value}"
            assert raised.value.status() == status


def test_wrong_shapes_are_refused(client: Any, pairs: list[Arrays]) -> None:
    with pytest.raises(InferenceServerException, match="unexpected shape for input 'person_image'"):
        infer(client, {**pairs[0], "person_image": np.zeros((1, 32, 64, 3), np.uint8)})
    without = {name: array for name, array in pairs[0].items() if name != "person_image"}
    with pytest.raises(InferenceServerException, match="expected 6 inputs but got 5"):
        infer(client, without)


def test_a_bad_request_costs_its_batch_nothing(
    client: Any, pipeline: Pipeline, pairs: list[Arrays]
) -> None:
    mixed = [*pairs[:2], bad(pairs[2], garment_parsing=7), *pairs[3:5]]
    results = together(client, mixed)
    assert isinstance(results[2], InferenceServerException)
    for index in (0, 1, 3, 4):
        check(results[index], mixed[index], pipeline)


def test_a_failing_graph_costs_its_batch_nothing(
    client: Any, pipeline: Pipeline, pairs: list[Arrays], repository: Path
) -> None:
    white = {**pairs[1], "person_image": np.full_like(pairs[1]["person_image"], 255)}
    mixed = [pairs[0], white, *pairs[2:4]]
    own = Pipeline.load(repository / "fragile" / "1" / "bundle", threads=1)
    with pytest.raises(BackendError, match="out of data bounds") as expected:
        own.run(white)
    results = together(client, mixed, "fragile")
    assert isinstance(results[1], InferenceServerException)
    assert results[1].message() == f"[{expected.value.code}] {expected.value}"
    assert "INTERNAL" in results[1].status()
    for index in (0, 2, 3):
        check(results[index], mixed[index], pipeline)


def test_clients_that_go_away_leave_the_server_well(
    server: runner.Server, client: Any, pipeline: Pipeline, pairs: list[Arrays]
) -> None:
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
            NAME, inputs_of(triton_grpc, arrays), lambda result, error: errors.put(error)
        )
        for arrays in pairs[:4]
    ]
    for call in calls:
        call.cancel()
        assert "CANCELLED" in errors.get(timeout=20).status()
    for result, arrays in zip(together(client, pairs), pairs, strict=True):
        check(result, arrays, pipeline)


def test_a_new_version_takes_over(
    client: Any, pipeline: Pipeline, pairs: list[Arrays], repository: Path, tiny_bundle: Path
) -> None:
    serving = Serving(max_batch=8, max_delay_ms=DELAY_MS)
    write_repository(Bundle.load(tiny_bundle), repository, version=2, serving=serving, threads=1)
    client.load_model(NAME)
    assert client.is_model_ready(NAME, "2")
    result = infer(client, pairs[0])
    assert result.get_response().model_version == "2"
    check(result, pairs[0], pipeline)


def test_a_bundle_that_does_not_load_says_why(
    client: Any, repository: Path, tiny_bundle: Path
) -> None:
    write_repository(Bundle.load(tiny_bundle), repository, name="spoiled", threads=1)
    graph = repository / "spoiled" / "1" / "bundle" / "warping.onnx"
    graph.write_bytes(graph.read_bytes() + b" ")
    with pytest.raises(InferenceServerException, match=r"\[graph_altered\]") as raised:
        client.load_model("spoiled")
    assert "Traceback" not in raised.value.message()


def test_a_model_that_does_not_warm_up_does_not_load(
    client: Any, pipeline: Pipeline, pairs: list[Arrays], repository: Path
) -> None:
    folder = repository / "cold"
    shutil.copytree(repository / "fragile", folder)
    path = folder / "config.pbtxt"
    path.write_text(path.read_text().replace('name: "fragile"', 'name: "cold"'))
    photo = folder / "warmup" / "person_image"
    photo.write_bytes(b"\xff" * photo.stat().st_size)
    with pytest.raises(InferenceServerException, match="out of data bounds"):
        client.load_model("cold")
    check(infer(client, pairs[0]), pairs[0], pipeline)


def write_changed(repository: Path, bundle: Path, name: str, body: str, **config: str) -> None:
    """A model whose runs do something else, with other values in its configuration."""
    write_repository(Bundle.load(bundle), repository, name=name, serving=Serving(1), threads=1)
    with (repository / name / "1" / "model.py").open("a") as model:
        model.write(
            "import time\n"
            "Model = TritonPythonModel\n"
            f"class TritonPythonModel(Model):\n    def _run(self, inputs):\n        {body}\n"
        )
    path = repository / name / "config.pbtxt"
    text = path.read_text()
    for field, value in config.items():
        text, count = re.subn(rf"{field}: \S+", f"{field}: {value}", text)
        assert count == 1
    path.write_text(text)


def test_what_nobody_foresaw_stays_in_the_log(
    server: runner.Server,
    client: Any,
    pairs: list[Arrays],
    repository: Path,
    tiny_bundle: Path,
) -> None:
    write_changed(repository, tiny_bundle, "faulty", "raise RuntimeError('of the server alone')")
    config = repository / "faulty" / "config.pbtxt"
    config.write_text(re.sub(r"model_warmup \{.*?\n\}\n", "", config.read_text(), flags=re.DOTALL))
    client.load_model("faulty")
    with pytest.raises(InferenceServerException) as raised:
        infer(client, pairs[0], "faulty")
    assert raised.value.message() == "the server failed to run this request; its log says why"
    assert "INTERNAL" in raised.value.status()
    log = server.log_text()
    assert "Traceback" in log
    assert "RuntimeError: of the server alone" in log


def test_a_full_queue_is_told(
    client: Any, pipeline: Pipeline, pairs: list[Arrays], repository: Path, tiny_bundle: Path
) -> None:
    body = "time.sleep(0.4); return super()._run(inputs)"
    write_changed(repository, tiny_bundle, "slow", body, max_queue_size="1")
    client.load_model("slow")
    results = together(client, pairs, "slow")
    refused = [one for one in results if isinstance(one, InferenceServerException)]
    assert refused
    assert len(refused) < len(pairs)
    for result, arrays in zip(results, pairs, strict=True):
        if result in refused:
            assert "UNAVAILABLE" in result.status()
        else:
            check(result, arrays, pipeline)


def test_shutdown_answers_what_has_begun(
    tiny_bundle: Path, tmp_path: Path, pipeline: Pipeline, pairs: list[Arrays]
) -> None:
    serving = Serving(max_batch=8, max_delay_ms=1000)
    write_repository(Bundle.load(tiny_bundle), tmp_path, serving=serving, threads=1)
    with runner.serve(tmp_path) as server:
        with (
            triton_grpc.InferenceServerClient(server.grpc) as client,
            ThreadPoolExecutor(5) as pool,
        ):
            futures = [pool.submit(infer, client, arrays) for arrays in pairs[:5]]
            deadline = time.monotonic() + 20
            while pending(server) < 5 and time.monotonic() < deadline:
                time.sleep(0.01)
            server.process.terminate()
            for future, arrays in zip(futures, pairs, strict=False):
                check(future.result(timeout=20), arrays, pipeline)
        assert server.process.wait(30) == 0


def pending(server: runner.Server) -> int:
    """How many requests wait for the model, by the server's metrics."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("nv_inference_pending_request_count{"):
                return int(float(line.rsplit(" ", 1)[1]))
    return 0
