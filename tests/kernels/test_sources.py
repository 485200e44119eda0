"""The kernels' C++ and CUDA sources, compiled with sanitizers and run against their truth."""

import ctypes
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import pytest

from garment_transfer.bundle import Bundle
from garment_transfer.kernels import flow_warp as cuda
from garment_transfer.runtime import sample_bundle

HERE = Path(__file__).parent
ALL_KERNELS = HERE.parents[1] / "kernels"
KERNELS = ALL_KERNELS / "flow_warp"
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
# what runs programs of another processor, as aarch64.sh has it
EMULATOR = shlex.split(os.environ.get("GARMENT_TRANSFER_EMULATOR", ""))

pytestmark = pytest.mark.skipif(
    COMPILER is None, reason="no C++ compiler: install g++, or name one in CXX"
)


def cuda_headers() -> Path | None:
    """The folder of cuda_fp16.h: of nvcc's toolkit, or of the package nvidia-cuda-runtime."""
    nvcc = shutil.which("nvcc")
    if nvcc:
        dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True)
        top = re.search(r"#\$ TOP=(\S+)", dry.stderr.decode())
        for root in (top[1] if top else "", "/usr/local/cuda"):
            if root and (Path(root) / "include/cuda_fp16.h").is_file():
                return Path(root) / "include"
    try:
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError:
        return None
    found = find_nvidia_header_directory("cudart")
    return Path(found) if found else None


def built(folder, sources, *options):
    program = folder / "program"
    command = [
        COMPILER, "-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi",
        "-Wno-unknown-pragmas", "-fno-trapping-math", "-fno-math-errno",
        "-DGT_ONE_TARGET", f"-I{KERNELS}", f"-I{HERE}", *options,
        *map(str, sources), "-pthread",
    ]  # fmt: skip
    run([*command, "-o", str(program)])
    return program


def run(command, stdin=b""):
    """What a program writes; it must not fail."""
    ran = subprocess.run(command, input=stdin, capture_output=True, timeout=600)
    assert ran.returncode == 0, ran.stderr.decode() + ran.stdout[:1000].decode(errors="replace")
    return ran.stdout


SANITIZERS = {
    "address and undefined": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
if EMULATOR:
    SANITIZERS = {"none": ["-static"]}

LAYOUTS = ("planes", "hwc8")
BITS = {np.dtype(np.float32): 24, np.dtype(np.float16): 11, np.dtype(ml_dtypes.bfloat16): 8}

# Shape, reach and what is odd: odd coarse sides, one pixel, one more and one less than a vector or
# a block, many channels.
CALLS = [
    ((1, 1, 2, 2), 0, None), ((2, 3, 6, 10), 1, None), ((1, 4, 10, 18), 3, "flows"),
    ((1, 5, 14, 6), 100, None), ((3, 8, 4, 16), 1, "flows"), ((1, 9, 8, 258), 20, None),
    ((1, 64, 12, 16), 2, None), ((1, 67, 6, 514), 2, "flows"), ((2, 16, 34, 2), 5, None),
    ((1, 300, 4, 6), 1, None), ((1, 0, 4, 4), 1, None), ((1, 2, 2, 1026), 1e6, "flows"),
    ((1, 13, 22, 22), 0, None), ((2, 11, 16, 32), 4, "pixels"),
]  # fmt: skip
# rows by a ring: several strips, rows that leave it, more rows than it holds
OF_THE_CPU = [
    ((0, 3, 4, 4), 1, None), ((2, 4, 130, 36), 2, "flows"), ((1, 3, 66, 2048), 0, None),
    ((1, 4, 66, 2048), 9, "flows"),
]  # fmt: skip
# so many images that a block has all channels, and a thread several pixels or channels
OF_A_GPU = [((2, 40, 18, 34), 3, None), ((1, 23, 2, 40), 3, None), ((384, 35, 4, 8), 1, None)]


def arguments(truth, seed, shape, reach, odd):
    """Random arguments. Flows that are not finite, or huge; or x that is not finite here and there,
    under flows of half and whole pixels, so that weights are exactly 0 beside such a pixel.
    """
    inputs = truth.arguments(seed, *shape, reach)
    random = np.random.default_rng(seed)
    values = np.float32([np.inf, -np.inf, np.nan, 1e30, -1e30, 3e9])
    if odd == "flows":
        flows = inputs["residual"].reshape(-1)
        flows[::3] = random.choice(values, len(flows[::3]))
    elif odd == "pixels":
        pixels = inputs["x"].reshape(-1)
        pixels[::3] = random.choice(values[:3], len(pixels[::3]))
        inputs["residual"] = np.round(2 * inputs["residual"]) / 2
        inputs["coarse_flow"][:] = 0
        inputs["affine"][:] = np.eye(2, 3)
    return inputs


def sent(inputs, dtype, layout, padding, wants_flow=True):
    """The memory of x and y, and a call as flow_warp_calls.h reads it."""
    n, c, h, w = inputs["x"].shape
    x = inputs["x"]
    if layout == "hwc8":
        x = np.pad(x.transpose(0, 2, 3, 1), [(0, 0)] * 3 + [(0, -c % 8)])
    x = np.ascontiguousarray(x, dtype)
    head = [n, c, h, w, padding == "border", list(BITS).index(dtype), LAYOUTS.index(layout)]
    head += [x.nbytes, wants_flow]
    rest = (inputs[name] for name in ("coarse_flow", "residual", "affine"))
    return x, b"".join(array.tobytes() for array in (np.int32(head), x, *rest))


def check_kernel(truth, program, calls, layouts):
    """What a program makes of calls in every type, padding and layout, against their truth."""
    given, due, sending = [], [], []
    for seed, (shape, reach, odd) in enumerate(calls):
        inputs = arguments(truth, seed, shape, reach, odd)
        for dtype, bits in BITS.items():
            inputs = {**inputs, "x": inputs["x"].astype(dtype).astype(np.float32)}
            for padding in ("zeros", "border"):
                y, flow = truth.flow_warp(**inputs, padding=padding)
                slack = 12 * truth.position_error(inputs, reach) + 2.0**-20 * (1 + np.abs(y))
                slack += truth.half_an_ulp(y, bits)
                ways = [(layout, True) for layout in layouts]
                if layouts == LAYOUTS and odd == "pixels":  # a GPU may be asked for y alone
                    ways += [(layout, False) for layout in layouts]
                for layout, wanted in ways:
                    x, call = sent(inputs, dtype, layout, padding, wanted)
                    sending.append(call)
                    given.append((x, layout, shape))
                    due.append((y, slack, flow if wanted else np.full_like(flow, -7), reach))
    written = np.frombuffer(run([*EMULATOR, program], b"".join(sending)), np.uint8)
    at = 0
    for (x, layout, shape), (y_due, slack, flow_due, reach) in zip(given, due, strict=True):
        y = written[at : at + x.nbytes].view(x.dtype).reshape(x.shape).astype(np.float64)
        at += x.nbytes
        flow = written[at : at + 4 * flow_due.size].view(np.float32).reshape(flow_due.shape)
        at += flow.nbytes
        if layout == "hwc8":
            assert (y[..., shape[1] :] == 0).all()  # the layout's own
            y = y[..., : shape[1]].transpose(0, 3, 1, 2)
        np.testing.assert_allclose(flow, flow_due, rtol=1e-5, atol=1e-5 * (1 + reach))
        with np.errstate(invalid="ignore"):
            close = (np.abs(y - y_due) <= slack) | (y == y_due) | (np.isnan(y) & np.isnan(y_due))
        assert close.all(), (shape, x.dtype, layout)
    assert at == len(written)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_cpu_kernel(truth, tmp_path, sanitizer):
    sources = [HERE / "flow_warp_cpu_test.cpp", KERNELS / "flow_warp_cpu.cpp"]
    program = built(tmp_path, sources, *SANITIZERS[sanitizer])
    check_kernel(truth, program, CALLS + OF_THE_CPU, LAYOUTS[:1])


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_photos_on_random_calls_and_spoilt_ones(tmp_path, sanitizer):
    operators = ("compose", "fit", "remove_arms", "upsample_labels")
    names = (*(f"{name}/{name}_cpu" for name in operators), "photos/photos")
    sources = [HERE / "photos_test.cpp", HERE / "photos_on_cpu.cpp"]
    sources += [ALL_KERNELS / f"{name}.cpp" for name in names]
    folders = (ALL_KERNELS, ALL_KERNELS / "photos", HERE.parent / "cpp/double")
    options = [*(f"-I{folder}" for folder in folders), "-DGT_PHOTOS_WITH_CUDA", "-ffp-contract=off"]
    program = built(tmp_path, sources, *options, *SANITIZERS[sanitizer])
    assert b"passed" in run([*EMULATOR, program, "2000"])


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_cuda_kernels_thread_by_thread_on_the_cpu(truth, tmp_path, sanitizer):
    headers = cuda_headers()
    if headers is None:
        pytest.skip(
            "no CUDA headers: install nvidia-cuda-runtime and cuda-pathfinder, or a toolkit"
        )
    sources = [HERE / "flow_warp_cuda_on_cpu_test.cpp"]
    program = built(tmp_path, sources, "-isystem", str(headers), *SANITIZERS[sanitizer])
    check_kernel(truth, program, CALLS + OF_A_GPU, LAYOUTS)


SIZES = ("tiles", "parts", "threads_x", "threads_y", "tile", "groups", "magic", "shift")
RATIOS = ("w_over_h", "h_over_w")


@pytest.fixture(scope="module")
def launch_shapes(tmp_path_factory):
    """Calls (n, c, h, w, layout, element's bytes) -> what C++'s `launch_shape` makes of them."""
    sizes = [
        f"-DPYTHON_{name}={ctypes.sizeof(structure)}"
        for name, structure in (("CALL", cuda._Call), ("SHAPE", cuda._LaunchShape))
    ]
    program = built(tmp_path_factory.mktemp("launch_shape"), [HERE / "launch_shape.cpp"], *sizes)

    def of(calls):
        rows = [(n, c, h, w, LAYOUTS.index(layout), size) for n, c, h, w, layout, size in calls]
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
        lines = run([program], text.encode()).decode().splitlines()
        assert len(lines) == len(rows)
        for line in lines:
            values = line.split()
            sizes = dict(zip(SIZES, map(int, values), strict=False))
            ratios = dict(zip(RATIOS, map(float, values[len(SIZES) :]), strict=False))
            yield SimpleNamespace(**sizes, **ratios, wrong_quotients=int(values[-1]))

    return of


def calls_of_all_sizes(count):
    """Single pixels, odd halves, large photos, no channel, an odd number of them, many images."""
    random = np.random.default_rng(3)
    for _ in range(count):
        n = int(random.choice([0, 1, 1, 2, 3, 64, 1000]))
        c = int(random.choice([0, 1, 8, 9, random.integers(1, 70), random.integers(1, 3000)]))
        h, w = (2 * int(2 ** random.uniform(0, 11)) for _ in range(2))
        yield n, c, h, w, str(random.choice(LAYOUTS)), int(random.choice([2, 4]))
    yield 1, 1, 2, 1 << 29, "planes", 2
    yield 1, 1, 1 << 29, 2, "hwc8", 2


def test_a_launch_covers_every_pixel_and_every_channel_once(launch_shapes):
    calls = list(calls_of_all_sizes(2000))
    for call, shape in zip(calls, launch_shapes(calls), strict=True):
        _, c, h, w, layout, size = call
        pixels, planes = h * w, layout == "planes"
        channels = shape.groups * (2 if planes else 16 // size)
        assert (shape.tiles - 1) * shape.tile < pixels <= shape.tiles * shape.tile, call
        assert (shape.parts - 1) * channels < max(c if planes else -(-c // 8) * 8, 1), call
        assert c <= shape.parts * channels, call
        # a thread for every pair of pixels, no more than a block has, and shared memory for them
        threads = shape.threads_x * shape.threads_y
        assert shape.tile % 2 == 0, call
        assert shape.tile // 2 <= threads <= 128, call
        assert shape.threads_x == shape.tile // 2 if planes else shape.tile <= 128, call
        assert shape.wrong_quotients == 0, call


def test_python_launches_as_the_library_does(launch_shapes):
    calls = list(calls_of_all_sizes(500))
    for call, due in zip(calls, launch_shapes(calls), strict=True):
        found = cuda._launch_shape(*call)
        assert [getattr(found, name) for name in SIZES] == [getattr(due, name) for name in SIZES]
        for name in RATIOS:
            assert np.float32(getattr(found, name)) == np.float32(getattr(due, name)), call


def shipped_levels():
    """Channels, height and width of what the shipped graphs give to FlowWarp."""
    bundle = Bundle.load(sample_bundle())
    for stage in ("parsing", "warping"):
        graph = onnx.shape_inference.infer_shapes(onnx.load(bundle.graph_path(stage))).graph
        shapes = {v.name: v.type.tensor_type.shape.dim for v in graph.value_info}
        for node in graph.node:
            if node.op_type == "FlowWarp":
                yield tuple(d.dim_value for d in shapes[node.input[0]][1:])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_picture_fills_a_gpu_at_every_level(launch_shapes, layout):
    # two blocks for each of an H100's 132 multiprocessors; wider networks have these levels too
    levels = [*shipped_levels(), (64, 128, 96), (256, 64, 48)]
    assert (64, 16, 12) in levels
    calls = [(1, *level, layout, 2) for level in levels]
    for level, shape in zip(levels, launch_shapes(calls), strict=True):
        print(f"{layout} {level}: {shape.tiles} x {shape.parts} blocks of", end=" ")
        print(f"{shape.threads_x} x {shape.threads_y} threads, {shape.tile} pixels")
        assert shape.tiles * shape.parts >= 2 * 132, level
