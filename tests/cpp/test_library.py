"""The C++ library: built with CMake, run by CTest on what Python makes of the same inputs."""

import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from garment_transfer.bundle import STAGES, Bundle, BundleError, Code, package_version
from garment_transfer.kernels import onnxruntime_library
from garment_transfer.runtime import sample_bundle

CTest = Callable[[Path, str], None]

ROOT = Path(__file__).parents[2]
KERNEL = onnxruntime_library()

pytestmark = pytest.mark.skipif(
    KERNEL is None,
    reason="Python runs without FlowWarp's kernel, which the C++ library has: install garment-"
    "transfer again with ONNXRUNTIME_ROOT set",
)


@pytest.fixture
def ctest(run, data) -> Callable[[Path, str], None]:
    """`ctest(folder, pattern)` runs the tests of a build folder."""

    def tests(folder: Path, pattern: str) -> None:
        kernel = {}
        if folder.name == "address":  # so built, FlowWarp rounds otherwise: Python's own kernel
            kernel = {"GARMENT_TRANSFER_KERNEL": str(KERNEL)}
        run(["ctest", "--test-dir", folder, "-R", pattern, "--output-on-failure"], **data, **kernel)

    return tests


def test_golden_parity_and_bad_input(build, ctest):
    """Plain build: what is shipped."""
    ctest(build("none"), "bundle_test|library_test|cuda_provider_test")


def test_address_undefined_and_leak_sanitizer(build, ctest):
    folder = build("address", ["bundle_test", "library_test", "bundle_messages"])
    ctest(folder, "bundle_test|library_test")


def test_threads_under_thread_sanitizer(build, ctest):
    ctest(build("thread", ["threads_test"]), "threads_test")


def test_memory_is_flat_over_loads(build):
    program = build("none") / "tests/bundle_messages"
    resident = []
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for _ in range(30):
            process.stdin.write(f"{sample_bundle()}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline().startswith(b"ok\t")
            statm = Path(f"/proc/{process.pid}/statm").read_text()
            resident.append(int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    # a bundle is 11 MB: were each to stay, it would be 297
    assert resident[-1] - resident[2] < 50_000_000


@pytest.fixture(scope="module", params=["none", "address"])
def answers(request, build, run) -> Callable[[Sequence[Path]], list[list[str]]]:
    """`answers(folders)`: the code and the message of loading each, by the C++ library."""
    program = build(request.param, ["bundle_messages"]) / "tests/bundle_messages"

    def ask(folders: Sequence[Path]) -> list[list[str]]:
        output = run([program], stdin="".join(f"{folder}\n" for folder in folders))
        found = [line.split("\t", 1) for line in output.splitlines()]
        assert len(found) == len(folders)
        return found

    return ask


def test_codes_are_pythons(build, run):
    header = (ROOT / "runtime/cpp/include/garment_transfer/garment_transfer.h").read_text()
    statuses = dict(re.findall(r"^  GT_(\w+) = (\d{3})", header, re.M))
    assert len(statuses) > 30
    assert len(set(statuses.values())) == len(statuses)
    program = build("none") / "tests/bundle_messages"
    names = run([program, *statuses.values(), 0, 9999]).split()
    assert names == [*map(str.lower, statuses), "ok", "unknown"]
    assert set(names[:-2]) <= set(Code)


def test_bundles_are_refused_as_the_table_says(
    replace_graph, answers, tiny_bundle, bad_bundles, tmp_path
):
    """Python is held to the same table (tests/bundle/test_manifest.py), in its own words."""
    for (folder, code, says), (found, message) in zip(
        bad_bundles, answers([folder for folder, _, _ in bad_bundles]), strict=True
    ):
        assert found == code, (folder.name, message)
        field = says.removeprefix("missing required field").strip(" `")
        assert field in message, (folder.name, message)
    outside = Path(shutil.copytree(tiny_bundle, tmp_path / "outside"))
    weights_elsewhere = b"\x0a\x08location\x12"
    replace_graph(outside, (outside / "parsing.onnx").read_bytes() + weights_elsewhere)
    ((code, message),) = answers([outside])
    assert code == "graph_altered"
    assert "parsing.onnx keeps weights in another file" in message
    (tmp_path / "file").write_text("")
    folders = [tiny_bundle, sample_bundle(), tmp_path / "nowhere", tmp_path / "file"]
    codes = [code for code, _ in answers(folders)]
    assert codes == ["ok", "ok", "bundle_missing", "bundle_missing"]


def spoilt(manifest: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A copy of a manifest with one to three places changed."""
    values = [
        None, True, False, 0, 1, 2, -1, 32, 40, 64, 2**63, 2.5, 64.0, 1e308, "", "N", "x", "it's",
        "../up", "parsing.onnx", "float16", "2026-01-02T03:04:05.5Z", "é\n\x01", [], {}, [1, "N"],
        {"a": [None, 1.5]}, ["background"],
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
                node[rng.choice(["extra", "float16", ""])] = copy.deepcopy(rng.choice(values))
            else:
                node[key] = copy.deepcopy(rng.choice(values))
            break
    return result


def test_python_and_cpp_agree_on_any_manifest(answers, with_variant, tmp_path):
    """On what is refused and with which code; the words are each one's own."""
    rng = random.Random(3)
    manifest = json.loads((with_variant / "manifest.json").read_text())
    folders = [Path(shutil.copytree(with_variant, tmp_path / f"b{i}")) for i in range(400)]
    expected = []
    for folder in folders:
        (folder / "manifest.json").write_text(json.dumps(spoilt(manifest, rng)))
        try:
            Bundle.load(folder)
            expected.append("ok")
        except BundleError as error:
            expected.append(str(error.code))
    for folder, code, (found, message) in zip(folders, expected, answers(folders), strict=True):
        assert found == code, (message, (folder / "manifest.json").read_text())
    assert {"ok", "manifest_invalid", "contract_mismatch"} <= set(expected)


def test_benchmark(build, run, tmp_path):
    report_file = tmp_path / "cpp.json"
    command = [sys.executable, "-m", "garment_transfer.benchmarks.cpp", build("none")]
    run([*command, "--rounds", 3, "--json", report_file])
    report = json.loads(report_file.read_text())
    times = report["median_ms"]
    stages = [times.pop(stage) for stage in STAGES]
    assert sorted(times) == ["library", "load", "networks", "overhead", "photo", "photo_python"]
    assert times["library"] > 0
    assert min(stages) > 0


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


def test_installed_package_serves_a_consumer(build, run, tmp_path):
    prefix = tmp_path / "prefix"
    run(["cmake", "--install", build("none"), "--prefix", prefix, "--strip"])
    # Moved, so that nothing in it may point to where it was built or installed first.
    prefix = prefix.rename(tmp_path / "moved")
    (library,) = prefix.rglob("libgarment_transfer.so.*.*.*")
    assert not (library.parent / "libonnxruntime.so.1").is_symlink()
    assert library.stat().st_size < 2_000_000
    version = library.name.partition(".so.")[2]
    assert version == package_version()
    exported = run(["nm", "-D", "--defined-only", library]).split()[2::3]
    assert exported
    assert all(name.startswith("gt_") for name in exported), exported

    (tmp_path / "CMakeLists.txt").write_text(CONSUMER.replace("{version}", version))
    (tmp_path / "consumer.cpp").write_text(CONSUMER_CPP)
    (tmp_path / "consumer.c").write_text(CONSUMER_C)
    made = tmp_path / "build"
    run(["cmake", "-S", tmp_path, "-B", made, f"-DCMAKE_PREFIX_PATH={prefix}"])
    run(["cmake", "--build", made])
    expected = f"ONNX Runtime {onnxruntime.__version__} on the CPU; FlowWarp by its kernel"
    for program in ("consumer", "consumer_c"):
        assert run([made / program, sample_bundle()]) == expected

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
        assert run([tmp_path / "by_pkg_config", sample_bundle()]) == expected

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
