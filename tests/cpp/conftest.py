"""How the C++ library is built for its tests, and what they read.

GARMENT_TRANSFER_CPP_BUILD names a folder that builds are kept in from one run to the next.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from filelock import FileLock

from garment_transfer.bundle import STAGES, Accuracy, Bundle, contract, write_manifest
from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people, stage_inputs

ROOT = Path(__file__).parents[2]
HEADERS = os.environ.get("ONNXRUNTIME_ROOT", "/usr/include/onnxruntime")
NEEDED = [
    "/usr/include/nlohmann/json.hpp", "/usr/include/openssl/evp.h", "/usr/include/gtest/gtest.h",
    "/usr/include/opencv4/opencv2/imgproc.hpp", HEADERS, "/usr/include/httplib.h",
    "/usr/include/jpeglib.h", "/usr/include/png.h",
]  # fmt: skip

SANITIZERS = {
    "none": "",
    "address": "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer",
    "thread": "-fsanitize=thread",
}

# Frames of a library without instrumentation are unknown to a sanitizer; tsan.supp says more.
OPTIONS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": f"suppressions={Path(__file__).with_name('tsan.supp')}",
}


def run(
    command: Sequence[object],
    timeout: float = 600,
    stdin: str = "",
    cwd: Path | None = None,
    **environment: str,
) -> str:
    """The standard output of a command that succeeds."""
    ran = subprocess.run(
        list(map(str, command)),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env={**os.environ, **OPTIONS, **environment},
    )
    assert ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="session", name="run")
def _run() -> Callable[..., str]:
    """`run(command, timeout, stdin, **environment)`: the output of a command that succeeds."""
    return run


@pytest.fixture(scope="session")
def build(shared_folder) -> Callable[..., Path]:
    """`build(sanitizer, targets)`: a build folder in which these targets are made."""
    kept = os.environ.get("GARMENT_TRANSFER_CPP_BUILD")
    folder = Path(kept) if kept else shared_folder / "cpp"
    folder.mkdir(parents=True, exist_ok=True)
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"))

    def make(
        sanitizer: str, targets: Sequence[str] = ("all",), tensorrt: Path | None = None
    ) -> Path:
        missing = [tool for tool in ("cmake", "g++") if not shutil.which(tool)]
        for file in NEEDED:
            missing += [] if Path(file).exists() else [file]
        if missing:
            pytest.skip(f"not built without {', '.join(missing)}: see CONTRIBUTING.md for packages")
        made = folder / (tensorrt.name if tensorrt else sanitizer)
        flags = "-Wall -Wextra -Werror " + SANITIZERS[sanitizer]
        if sanitizer != "none":
            # with sanitizers GCC takes parts of std::regex for uninitialized
            flags += " -O1 -g1 -Wno-maybe-uninitialized"
        configure = [
            "cmake", "-S", ROOT / "runtime/cpp", "-B", made,
            f"-DONNXRUNTIME_ROOT={HEADERS}", f"-DONNXRUNTIME_LIBRARY={library}",
            "-DGARMENT_TRANSFER_CUDA=OFF", "-DGARMENT_TRANSFER_TESTS=ON",
            f"-DCMAKE_BUILD_TYPE={'Release' if sanitizer == 'none' else 'None'}",
            f"-DCMAKE_CXX_FLAGS={flags}",
            *([f"-DTensorRT_ROOT={tensorrt}"] if tensorrt else []),
            # the headers of JSON and OpenCV take longer than the code behind them
            *(["-DCMAKE_UNITY_BUILD=ON"] if sanitizer != "none" else []),
            # which variant of a function runs is chosen before the thread sanitizer is there
            *(["-DGARMENT_TRANSFER_TARGET_CLONES=OFF"] if sanitizer == "thread" else []),
        ]  # fmt: skip
        with FileLock(f"{made}.lock"):  # another process may want the same
            run(configure)
            run(["cmake", "--build", made, "-j", os.cpu_count() or 1, "-t", *targets])
        return made

    return make


def write_golden(
    folder: Path, pipeline: Pipeline, cases: Mapping[str, Mapping[str, np.ndarray]]
) -> Path:
    """Each case's inputs and what a pipeline makes of them, as raw bytes."""
    for name, inputs in cases.items():
        (folder / name).mkdir()
        for key, array in {**inputs, **pipeline.run(inputs)}.items():
            (folder / name / key).write_bytes(np.ascontiguousarray(array).tobytes())
    return folder


@pytest.fixture(scope="session")
def tiny_golden(tmp_path_factory, tiny_bundle) -> Path:
    """As `golden`, random inputs for the tiny bundle, batches of 1 to 3."""
    pipeline = Pipeline.load(tiny_bundle, threads=1)
    rng = np.random.default_rng(11)
    tensors = {
        tensor.name: tensor
        for signature in contract(pipeline.size).values()
        for tensor in signature.inputs
        if tensor.name.startswith(("person_", "garment_"))
    }
    cases = {
        f"noise{index}": {
            name: rng.integers(0, 7, (1 + index % 3, *tensor.shape[1:]), np.uint8)
            for name, tensor in tensors.items()
        }
        for index in range(6)
    }
    return write_golden(tmp_path_factory.mktemp("tiny-golden"), pipeline, cases)


@pytest.fixture(scope="session")
def golden(tmp_path_factory, make_person) -> Path:
    """A folder of cases: the inputs of a run, and what Python makes of them, as raw bytes."""
    pipeline = Pipeline.load(sample_bundle(), threads=1)
    size = pipeline.size
    cases = {
        "sample": {
            name: array[None]
            for name, array in stage_inputs(*map(Person.load, sample_people()), size).items()
        }
    }
    rng = np.random.default_rng(7)
    pairs = []
    for _ in range(12):
        people = []
        for _ in range(2):
            height, width = rng.integers(60, 500, 2)
            top, left = rng.uniform(0.2, 0.4, 2)
            bottom, right = rng.uniform(0.6, 0.8, 2)
            people.append(
                make_person(
                    int(height), int(width), garment=(top, bottom, left, right),
                    seed=int(rng.integers(1000)),
                )
            )  # fmt: skip
        pairs.append(stage_inputs(people[0], people[1], size))
    for index, pair in enumerate(pairs):
        cases[f"rectangles{index}"] = {name: array[None] for name, array in pair.items()}
    for index in range(4):
        cases[f"noise{index}"] = {
            name: rng.integers(0, 7 if name.endswith("parsing") else 25, array.shape, np.uint8)
            for name, array in cases["sample"].items()
        }
    cases["batch"] = {name: np.stack([pair[name] for pair in pairs[:3]]) for name in pairs[0]}
    return write_golden(tmp_path_factory.mktemp("golden"), pipeline, cases)


@pytest.fixture(scope="session")
def with_variant(tmp_path_factory, tiny_bundle) -> Path:
    """The tiny bundle with float16 graphs, copies of the others, beside them."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("variant") / "bundle"))
    manifest = Bundle.load(folder).manifest
    for stage in STAGES:
        shutil.copy(folder / f"{stage}.onnx", folder / f"{stage}.float16.onnx")
    write_manifest(
        folder, name=manifest.name, size=manifest.size, opset=manifest.opset,
        parity=manifest.parity, versions=manifest.versions, checkpoint=manifest.checkpoint,
        accuracy={"float16": Accuracy(0.0, 100.0, 99.5, 0.25, 255.0, "made by hand")},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def data(golden, tiny_bundle) -> dict[str, str]:
    """What the C++ tests read, as environment variables."""
    return {
        "GARMENT_TRANSFER_GOLDEN": str(golden),
        "GARMENT_TRANSFER_BUNDLE": str(sample_bundle()),
        "GARMENT_TRANSFER_TINY": str(tiny_bundle),
    }
