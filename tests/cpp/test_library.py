"""The C++ library: built with CMake, run by CTest on what Python makes of the same inputs."""

import copy
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from garment_transfer.bundle import Bundle, BundleError
from garment_transfer.kernels import onnxruntime_library
from garment_transfer.runtime import sample_bundle

Build = Callable[..., Path]
Run = Callable[..., str]
CTest = Callable[[Path, str], None]

HERE = Path(__file__).parent
KERNEL = onnxruntime_library()

pytestmark = pytest.mark.skipif(
    KERNEL is None,
    reason="Python runs without FlowWarp's kernel, which the C++ library has: install garment-"
    "transfer again with ONNXRUNTIME_ROOT set",
)


@pytest.fixture
def ctest(run: Callable[..., str], data: dict[str, str]) -> Callable[[Path, str], None]:
    """`ctest(folder, pattern)` runs the tests of a build folder."""

    def tests(folder: Path, pattern: str) -> None:
        kernel = {}
        if folder.name == "address":  # so built, FlowWarp rounds otherwise: Python's own kernel
            kernel = {"GARMENT_TRANSFER_KERNEL": str(KERNEL)}
        run(["ctest", "--test-dir", folder, "-R", pattern, "--output-on-failure"], **data, **kernel)

    return tests


def test_golden_parity_and_bad_input(build: Build, ctest: CTest) -> None:
    """Plain build: what is shipped."""
    ctest(build("none"), "bundle_test|library_test")


def test_address_undefined_and_leak_sanitizer(build: Build, ctest: CTest) -> None:
    folder = build("address", ["bundle_test", "library_test", "fuzz_manifest", "fuzz_api"])
    ctest(folder, "bundle_test|library_test")


def test_threads_under_thread_sanitizer(build: Build, ctest: CTest) -> None:
    ctest(build("thread", ["threads_test"]), "threads_test")


def test_fuzzing_shortly(build: Build, run: Run) -> None:
    folder = build("address", ["fuzz_manifest", "fuzz_api"])
    report = json.loads(run([sys.executable, HERE / "fuzz.py", folder, 2000]))
    for target in ("fuzz_manifest", "fuzz_api"):
        assert report[target]["executions"] == 2000
        assert report[target]["crashes"] == 0


def test_memory_is_flat_over_loads(build: Build, run: Run) -> None:
    cycles = build("none") / "tests/cycles"
    report = json.loads(run([cycles, sample_bundle(), 30]))
    grown = report["resident_kb_at_the_end"] - report["resident_kb_after_a_tenth"]
    # a bundle is 11 MB, so that even one that stays would show
    assert grown < 8_000, report


def spoilt(manifest: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A copy of a manifest with one to three places changed."""
    values = [
        None, True, False, 0, 1, 2, -1, 40, 2.5, 64.0, 1e308, "", "N", "x", "it's", "../up", 'a"b',
        "é\n\x01", [], {}, [1, "N"], {"a": [None, 1.5]}, ["background"],
    ]  # fmt: skip
    result = copy.deepcopy(manifest)
    for _ in range(rng.randint(1, 3)):
        node: Any = result
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and rng.random() < 0.75:
                node = node[key]
                continue
            action = rng.random()
            if action < 0.25:
                del node[key]
            elif action < 0.4 and isinstance(node, dict):
                node[rng.choice(["extra", "more", "'", ""])] = copy.deepcopy(rng.choice(values))
            else:
                node[key] = copy.deepcopy(rng.choice(values))
            break
    return result


def python_message(folder: Path) -> str:
    try:
        Bundle.load(folder)
    except BundleError as error:
        return str(error)
    return ""


def test_bundle_errors_are_in_pythons_words(
    build: Build, tiny_bundle: Path, tmp_path: Path
) -> None:
    rng = random.Random(3)
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    folders: list[Path] = []

    def bundle() -> Path:
        folders.append(Path(shutil.copytree(tiny_bundle, tmp_path / f"b{len(folders)}")))
        return folders[-1]

    for _ in range(300):
        spoilt_manifest = spoilt(manifest, rng)
        (bundle() / "manifest.json").write_text(json.dumps(spoilt_manifest))
    (bundle() / "manifest.json").unlink()
    (bundle() / "warping.onnx").unlink()
    (bundle() / "regrowth.onnx").write_bytes(b"short")
    with (bundle() / "parsing.onnx").open("ab") as file:
        file.write(b"more")
    graph = bundle() / "parsing.onnx"
    graph.write_bytes(bytes([graph.read_bytes()[0] ^ 1]) + graph.read_bytes()[1:])
    newer = {**manifest, "schema_version": 99, "novelty": True}
    (bundle() / "manifest.json").write_text(json.dumps(newer))
    (bundle() / "manifest.json").write_text("[" * 100_000 + "]" * 100_000)
    nested = bundle() / "manifest.json"
    nested.unlink()
    nested.mkdir()
    folders += [tmp_path / "nowhere", folders[0] / "warping.onnx", Path("nowhere/../here")]
    messages = [
        line.split("\t", 1)
        for line in run_messages(build("none") / "tests/bundle_messages", folders)
    ]
    assert len(messages) == len(folders)
    refused = 0
    for folder, (status, found) in zip(folders, messages, strict=True):
        due = python_message(folder)
        refused += bool(due)
        assert (status, found.replace("\x1f", "\n") if due else "") == ("2" if due else "0", due)
    assert refused > 250

    # what a parser says of broken JSON is its own
    broken = bundle()
    for text in ("", "{", "\x00", '{"schema_version": 1', "[" * 100_000):
        (broken / "manifest.json").write_text(text)
        ((status, found),) = [
            line.split("\t", 1)
            for line in run_messages(build("none") / "tests/bundle_messages", [broken])
        ]
        due = python_message(broken)
        assert status == "2"
        assert found.startswith(due[: due.index("(")])
        assert found.endswith(due[due.rindex(")") :])


def run_messages(program: Path, folders: Sequence[Path]) -> list[str]:
    ran = subprocess.run(
        [program], input="\n".join(map(str, folders)), capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.rstrip("\n").split("\n")


CONSUMER = """
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C CXX)
find_package(GarmentTransfer {version} CONFIG REQUIRED COMPONENTS onnxruntime)
add_executable(consumer consumer.cpp)
target_link_libraries(consumer PRIVATE GarmentTransfer::garment_transfer)
add_executable(consumer_c consumer.c)
target_link_libraries(consumer_c PRIVATE GarmentTransfer::garment_transfer)
"""

# Both programs print the library's description of a loaded bundle.
CONSUMER_CPP = """
#include <garment_transfer/garment_transfer.hpp>
#include <iostream>
int main(int, char** argv) {
  std::cout << garment_transfer::Pipeline(argv[1]).description();
}
"""

CONSUMER_C = """
#include <garment_transfer/garment_transfer.h>
#include <stdio.h>
int main(int argc, char** argv) {
  gt_pipeline* pipeline = NULL;
  if (argc != 2 || gt_pipeline_load(argv[1], NULL, &pipeline)) return 1;
  printf("%s", gt_pipeline_description(pipeline));
  gt_pipeline_free(pipeline);
  return 0;
}
"""


def test_installed_package_serves_a_consumer(build: Build, run: Run, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    run(["cmake", "--install", build("none"), "--prefix", prefix, "--strip"])
    # Moved, so that nothing in it may point to where it was built or installed first.
    prefix = prefix.rename(tmp_path / "moved")
    (library,) = prefix.rglob("libgarment_transfer.so.*.*.*")
    assert library.stat().st_size < 2_000_000
    version = library.name.partition(".so.")[2]
    exported = run(["nm", "-D", "--defined-only", library]).split()[2::3]
    assert exported
    assert all(name.startswith("gt_") for name in exported), exported

    (tmp_path / "CMakeLists.txt").write_text(CONSUMER.replace("{version}", version))
    (tmp_path / "consumer.cpp").write_text(CONSUMER_CPP)
    (tmp_path / "consumer.c").write_text(CONSUMER_C)
    made = tmp_path / "build"
    run(["cmake", "-S", tmp_path, "-B", made, f"-DCMAKE_PREFIX_PATH={prefix}"])
    run(["cmake", "--build", made])
    due = f"ONNX Runtime {onnxruntime.__version__} on the CPU; FlowWarp by its kernel"
    for program in ("consumer", "consumer_c"):
        assert run([made / program, sample_bundle()]) == due

    if shutil.which("pkg-config"):
        (pc,) = prefix.rglob("garment_transfer.pc")
        ask = {"PKG_CONFIG_PATH": str(pc.parent)}
        assert run(["pkg-config", "--modversion", "garment_transfer"], **ask).strip() == version
        flags = run(["pkg-config", "--cflags", "--libs", "garment_transfer"], **ask).split()
        # the library's own folder has ONNX Runtime too
        run(
            ["g++", "-std=c++17", tmp_path / "consumer.cpp", "-o", tmp_path / "by_pkg_config",
             *flags, f"-Wl,-rpath,{library.parent}"]
        )  # fmt: skip
        assert run([tmp_path / "by_pkg_config", sample_bundle()]) == due

    # a backend that is not there, and an older version's wish
    for usual, wish, word in (
        ("COMPONENTS onnxruntime", "COMPONENTS tensorrt", "tensorrt"),
        ("{version}", "99.0", r"99\.0"),
    ):
        text = CONSUMER.replace(usual, wish).replace("{version}", version)
        (tmp_path / "CMakeLists.txt").write_text(text)
        with pytest.raises(AssertionError, match=word):
            run(["cmake", "-S", tmp_path, "-B", tmp_path / wish[:4],
                 f"-DCMAKE_PREFIX_PATH={prefix}"])  # fmt: skip
