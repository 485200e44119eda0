import gc
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from garment_transfer.bundle import BackendError, Bundle
from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people, stage_inputs
from garment_transfer.runtime.backends import HostEngine, find_backend

pytest.importorskip("openvino", reason="openvino is not installed")


def load_parsing(folder: Path) -> HostEngine:
    """The engine of a bundle's first stage, on one thread."""
    engines = find_backend("openvino").load(Bundle.load(folder), None, {"threads": 1})
    assert isinstance(engines, dict)
    return engines["parsing"]


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    person, owner = (Person.load(folder) for folder in sample_people())
    pair = stage_inputs(person, owner, Bundle.load(sample_bundle()).manifest.size)
    return {name: array[None] for name, array in pair.items()}


@pytest.mark.parametrize("precision", ["float32", "default"])
def test_parity_on_the_shipped_bundle(inputs, precision):
    due = Pipeline.load(sample_bundle(), threads=1).run(inputs)
    pipeline = Pipeline.load(sample_bundle(), "openvino", threads=1, inference_precision=precision)
    found = pipeline.run(inputs)
    assert {name: (a.shape, a.dtype) for name, a in found.items()} == {
        name: (a.shape, a.dtype) for name, a in due.items()
    }
    # a processor with bfloat16 rounds there, and only there
    labels, grey = (0.001, 1) if precision == "float32" else (0.02, 40)
    assert np.mean(found["transfer_parsing"] != due["transfer_parsing"]) <= labels
    difference = np.abs(found["image"].astype(int) - due["image"])
    assert np.mean(difference <= grey) > 0.999
    if precision == "float32":
        assert np.abs(found["flow"] - due["flow"]).max() < 0.01


def test_threads_share_an_engine(tiny_bundle):
    engine = load_parsing(tiny_bundle)
    random = np.random.default_rng(0)
    shapes = {tensor.name: (2, *tensor.shape[1:]) for tensor in engine.signature.inputs}
    feeds = [
        {name: random.integers(0, 7, shape, dtype=np.uint8) for name, shape in shapes.items()}
        for _ in range(8)
    ]
    due = [engine.run(feed)["transfer_parsing"] for feed in feeds]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda feed: engine.run(feed)["transfer_parsing"], feeds * 20))
    for index, result in enumerate(found):
        np.testing.assert_array_equal(result, due[index % 8])


def test_results_outlive_the_next_run(tiny_bundle):
    engine = load_parsing(tiny_bundle)
    shapes = {tensor.name: (1, *tensor.shape[1:]) for tensor in engine.signature.inputs}
    first = engine.run({name: np.full(shape, 4, np.uint8) for name, shape in shapes.items()})
    kept = first["transfer_parsing"].copy()
    engine.run({name: np.zeros(shape, np.uint8) for name, shape in shapes.items()})
    np.testing.assert_array_equal(first["transfer_parsing"], kept)
    assert kept.any()


def test_a_request_in_the_pool_does_not_keep_its_inputs(tiny_bundle):
    engine = load_parsing(tiny_bundle)
    inputs = {
        tensor.name: np.zeros((1, *tensor.shape[1:]), np.uint8)
        for tensor in engine.signature.inputs
    }
    kept = [weakref.ref(array) for array in inputs.values()]
    engine.run(inputs)
    inputs.clear()
    gc.collect()
    assert [reference() for reference in kept] == [None] * len(kept)


def test_errors(tiny_bundle):
    engine = load_parsing(tiny_bundle)
    with pytest.raises(BackendError, match=r"failed to run.*on \(nonsense uint8 \[1\]\)"):
        engine.run({"nonsense": np.zeros(1, np.uint8)})


INTERRUPTED = """
import gc, signal, sys
from garment_transfer.runtime import Pipeline

pipelines = [Pipeline.load(sys.argv[1], "openvino", threads=1) for _ in range(2)]
del pipelines[0]
gc.collect()
del pipelines
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("interrupted"))
signal.raise_signal(signal.SIGTERM)
"""


def test_signals_are_survived_after_engines_are_gone(tiny_bundle):
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, tiny_bundle],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "interrupted\n"), ran.stderr
