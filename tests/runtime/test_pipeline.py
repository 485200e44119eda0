import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from garment_transfer.bundle import BackendError, Bundle, Code, InputError, border_width
from garment_transfer.cli.options import THREADS
from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people
from garment_transfer.runtime.backends import (
    MAX_THREADS,
    Arrays,
    HostEngine,
    choose_backend,
    find_backend,
)

OTHER_GARMENT = (0.25, 0.5, 0.15, 0.9)


def expected(person: Person, owner: Person, tiny: SimpleNamespace) -> dict[str, np.ndarray]:
    """What the tiny bundle's rule gives for two people of its size, one pixel after another."""
    height, width = tiny.size.height, tiny.size.width
    dx, dy = tiny.flow
    parsing = person.parsing.copy()
    warped = np.zeros_like(person.image)
    image = person.image.copy()
    confidence = np.zeros_like(parsing)
    for y in range(height):
        for x in range(width):
            own = person.parsing[y, x]
            if owner.parsing[y, x] == 4 and own in (0, 3, 4):
                parsing[y, x] = 4
            elif own == 4:
                parsing[y, x] = 3
            if parsing[y, x] == 4:
                row, column = y + dy, x + dx
                hit = 0 <= row < height and 0 <= column < width and owner.parsing[row, column] == 4
                warped[y, x] = owner.image[row, column] if hit else tiny.hole
                confidence[y, x] = 255 * hit
                image[y, x] = warped[y, x]
            elif parsing[y, x] != own:
                image[y, x] = tiny.drawn
    return {
        "transfer_parsing": parsing,
        "transfer_scores": 255 * (parsing[..., None] == (0, 3, 4, 5)).astype(np.uint8),
        "warped_garment": warped,
        "flow_confidence": confidence,
        "image": image,
    }


def inputs_of(people: list[Person], owners: list[Person]) -> dict[str, np.ndarray]:
    return {
        f"{role}_{field}": np.stack([getattr(person, field) for person in group])
        for role, group in (("person", people), ("garment", owners))
        for field in ("image", "parsing", "densepose")
    }


def test_transfer_at_the_bundles_size(pipeline, make_person, tiny):
    person, owner = make_person(), make_person(garment=OTHER_GARMENT, seed=1)
    start = time.perf_counter()
    transfer = pipeline.transfer(person, owner)
    took = 1000 * (time.perf_counter() - start)
    due = expected(person, owner, tiny)
    for name in ("image", "transfer_parsing", "warped_garment"):
        assert (getattr(transfer, name) == due[name]).all(), name
    assert transfer.flow.shape == (2, 64, 32)
    assert transfer.flow.dtype == np.float32
    assert (transfer.flow == np.float32(tiny.flow)[:, None, None]).all()
    assert set(transfer.timings) == {"fit", "parsing", "warping", "regrowth", "compose"}
    # what a stage takes is inside what the whole call took
    assert 0 < sum(transfer.timings.values()) < took


def test_run_moves_arrays_only(pipeline, make_person, tiny):
    people = [make_person(seed=1), make_person(garment=OTHER_GARMENT, seed=2)]
    owners = [make_person(garment=OTHER_GARMENT, seed=3), make_person(seed=4)]
    outputs = pipeline.run(inputs_of(people, owners))
    assert set(outputs) == {*expected(people[0], owners[0], tiny), "flow"}
    for index, (person, owner) in enumerate(zip(people, owners, strict=True)):
        for name, array in expected(person, owner, tiny).items():
            assert (outputs[name][index] == array).all(), name


def test_batch_of_several_sizes(pipeline, make_person):
    people = [make_person(), make_person(256, 128, seed=1), make_person(100, 90, seed=2)]
    owners = [make_person(300, 100, garment=OTHER_GARMENT, seed=3), people[0], people[1]]
    batch = pipeline.transfer_batch(people, owners)
    for person, owner, transfer in zip(people, owners, batch, strict=True):
        alone = pipeline.transfer(person, owner)
        assert transfer.image.shape == person.image.shape
        for name in ("image", "transfer_parsing", "warped_garment", "flow"):
            assert (getattr(transfer, name) == getattr(alone, name)).all(), name
    assert pipeline.transfer_batch([], []) == []


def test_threads_agree(pipeline, make_person):
    pairs = [(make_person(128, 64, seed=i), make_person(seed=50 + i)) for i in range(8)]
    alone = [pipeline.transfer(*pair).image for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: pipeline.transfer(*pair).image, pairs * 4))
    for index, image in enumerate(together):
        assert (image == alone[index % 8]).all()


def test_unequal_lengths(pipeline, make_person):
    with pytest.raises(InputError, match=r"2 people and 1 garment owners; expected one.*repeat"):
        pipeline.transfer_batch([make_person()] * 2, [make_person()])


def test_owner_without_a_garment(pipeline, make_person):
    bare = make_person(garment=(0, 0, 0, 0))
    with pytest.raises(InputError, match=r"^garment owner wears no upper garment"):
        pipeline.transfer(make_person(), bare)
    with pytest.raises(InputError, match=r"^garment owner 1 wears no upper garment"):
        pipeline.transfer_batch([make_person()] * 2, [make_person(), bare])
    pipeline.transfer(bare, make_person())  # who receives a garment may wear none


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"person_image": None},
            r"the inputs are garment_densepose.*expected person_parsing uint8",
        ),
        ({"flow": np.zeros(1)}, r"the inputs are flow, .*pass these and no others"),
        ({"person_image": [1]}, r"person_image is a list, not a numpy array; expected .*asarray"),
        (
            {"person_image": np.zeros((1, 64, 32, 3), np.float32)},
            r"person_image is float32 \[1, 64",
        ),
        (
            {"person_image": np.zeros((2, 64, 32, 3), np.uint8)},
            r"the batch sizes are .*person_image 2",
        ),
        ({"garment_parsing": np.zeros((1, 32, 64), np.uint8)}, r"garment_parsing .*stage_inputs"),
    ],
)
def test_run_checks_its_inputs(pipeline, make_person, change, words):
    inputs = {**inputs_of([make_person()], [make_person()]), **change}
    with pytest.raises(InputError, match=words):
        pipeline.run({name: array for name, array in inputs.items() if array is not None})


def test_load(tiny_bundle, tiny):
    assert Pipeline.load(Bundle.load(tiny_bundle)).size == tiny.size
    with pytest.raises(BackendError, match=r"unknown backend 'nope'; expected one of ") as error:
        Pipeline.load(tiny_bundle, backend="nope")
    assert error.value.code == Code.BACKEND_UNKNOWN


@pytest.mark.parametrize(
    ("backend", "options", "code", "words"),
    [
        ("onnxruntime", {"device": 7}, "option_unknown", "expected some of threads, kernel, pro"),
        ("openvino", {"kernel": True}, "option_unknown", "threads, inference_precision, prof"),
        ("tensorrt", {"threads": 2}, "option_unknown", "expected some of device, sessions, graphs"),
        ("onnxruntime", {"threads": "2"}, "option_invalid", "threads .* is '2'; expected int"),
        ("tensorrt", {"sessions": 0}, "option_invalid", "sessions .* is 0; expected int >= 1"),
        ("openvino", {"inference_precision": "int8"}, "option_invalid", "'int8'"),
    ],
)
def test_options_are_never_ignored(tiny_bundle, backend, options, code, words):
    with pytest.raises((BackendError, InputError), match=words) as error:
        Pipeline.load(tiny_bundle, backend, **options)
    assert error.value.code == code


def test_auto_is_the_cpu_without_engines_and_a_gpu(tiny_bundle, caplog):
    name, reason = choose_backend(Bundle.load(tiny_bundle))
    if name != "onnxruntime":
        pytest.skip("there is a GPU")
    assert "no engines" in reason
    assert "onnxruntime-cuda: " in reason
    with caplog.at_level("INFO", "garment_transfer"):
        Pipeline.load(tiny_bundle, "auto", threads=1)
    assert f"backend onnxruntime: {reason}" in caplog.text


@pytest.mark.parametrize("name", ["person_parsing", "garment_parsing", "garment_densepose"])
def test_ids_that_do_not_exist_are_refused(pipeline, make_person, name):
    inputs = inputs_of([make_person()], [make_person()])
    inputs[name][0, 3, 4] = 200
    with pytest.raises(InputError, match=rf"{name} has the id 200; expected 0 to") as error:
        pipeline.run(inputs)
    assert error.value.code == Code.ID_OUT_OF_RANGE


def test_an_empty_batch_is_refused(pipeline, make_person):
    inputs = {k: v[:0] for k, v in inputs_of([make_person()], [make_person()]).items()}
    with pytest.raises(InputError, match=r"expected one size for all arrays, 1 or more") as error:
        pipeline.run(inputs)
    assert error.value.code == Code.BATCH_INVALID


class _Slow:
    """An engine that waits inside its run until it is let go."""

    def __init__(self, engine: HostEngine) -> None:
        self.signature = engine.signature
        self._engine = engine
        self.running = threading.Event()
        self.let_go = threading.Event()

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        self.running.set()
        assert self.let_go.wait(60)
        return self._engine.run(inputs)


def test_close_waits_for_transfers_under_way(tiny_bundle, make_person):
    bundle = Bundle.load(tiny_bundle)
    engines = find_backend("onnxruntime").load(bundle, None, {"threads": 1})
    assert isinstance(engines, dict)
    slow = _Slow(engines["parsing"])
    pipeline = Pipeline(bundle, {**engines, "parsing": slow})
    person = make_person()
    with ThreadPoolExecutor(2) as pool:
        transfer = pool.submit(pipeline.transfer, person, person)
        assert slow.running.wait(60)
        closing = pool.submit(pipeline.close)
        while not pipeline._closed:
            pass
        with pytest.raises(BackendError) as error:
            pipeline.transfer(person, person)
        assert error.value.code == Code.PIPELINE_CLOSED
        assert not closing.done()
        slow.let_go.set()
        assert transfer.result(60).image.shape == person.image.shape
        closing.result(60)


def test_the_shipped_bundle_transfers_the_shipped_people():
    pipeline = Pipeline.load(sample_bundle(), threads=2)
    person, owner = (Person.load(folder) for folder in sample_people())
    transfer = pipeline.transfer(person, owner)
    assert transfer.image.shape == person.image.shape
    worn = transfer.transfer_parsing == 4
    assert 0.5 < worn.sum() / (person.parsing == 4).sum() < 2
    assert (transfer.warped_garment[~worn] == 0).all()
    kept = (transfer.transfer_parsing == person.parsing) & ~worn
    reserved = np.isin(person.parsing, (1, 2, 6))
    assert kept[reserved].all()
    # Beside what vanished, background, skin and lower garment are the graph's; half a border more
    # where the map of the small size vanishes beyond that of the full size.
    gone = (person.parsing != 0) & (transfer.transfer_parsing != person.parsing)
    height, own_height = pipeline.size.height, person.parsing.shape[0]
    side = 2 * round(1.5 * border_width(height) * max(1, own_height / height)) + 1
    rim = cv2.dilate(gone.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    kept &= ~(rim & np.isin(person.parsing, (0, 3, 5)))
    assert kept.mean() > 0.3
    assert (transfer.image[kept] == person.image[kept]).all()


@pytest.mark.parametrize(
    ("name", "owner_name"),
    [
        ("viton_000174_0", "viton_000240_0"),
        ("viton_000240_0", "viton_000174_0"),
        ("vitonhd_00006_00", "catalog_blue_tee"),
        ("catalog_blue_tee", "viton_000174_0"),
    ],
)
def test_the_shipped_bundle_transfers_real_people(real_samples, name, owner_name):
    pipeline = Pipeline.load(sample_bundle(), threads=2)
    person, owner = (Person.load(real_samples / folder) for folder in (name, owner_name))
    transfer = pipeline.transfer(person, owner)
    assert transfer.image.shape == person.image.shape
    reserved = np.isin(person.parsing, (1, 2, 6))
    assert (transfer.image[reserved] == person.image[reserved]).all()
    assert np.isfinite(transfer.flow).all()


def test_one_line_each(tiny_bundle, make_person):
    person = make_person()
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        assert repr(pipeline) == "<Pipeline of tiny at 64x32 on onnxruntime>"
        assert re.fullmatch(
            r"<Transfer, 32x64 pixels in \d+ ms>", repr(pipeline.transfer(person, person))
        )
    assert repr(pipeline).endswith(", closed>")
    assert repr(person) == "<Person without a name, 32x64 pixels>"


def test_what_is_no_person_and_no_number_of_threads(pipeline, tiny_bundle):
    with pytest.raises(InputError, match="the bundle is a NoneType; expected a path"):
        Pipeline.load(None)
    with pytest.raises(InputError, match="the person is a int; expected a path"):
        pipeline.person(7)
    with pytest.raises(InputError, match="the inputs are a NoneType; expected arrays by name"):
        pipeline.run(None)
    with pytest.raises(InputError, match=r"a person is a str; expected Person; Person\.load"):
        pipeline.transfer("anna", "bob")
    for threads in (2.5, "2", True, 0, MAX_THREADS + 1, 10**20):
        with pytest.raises(InputError, match="threads"):
            Pipeline.load(tiny_bundle, threads=threads)
    assert THREADS.max == MAX_THREADS
