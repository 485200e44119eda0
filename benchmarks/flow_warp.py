"""FlowWarp's kernels beside what else computes the same, in one run.

    python -m garment_transfer.benchmarks.flow_warp [--threads 2] [--rounds 60] --json FILE

On the CPU: ONNX Runtime with the kernel; the same graph without it, which runs the function body;
torch's interpolate, add and grid_sample; and for few channels OpenCV's remap, which is given the
finished positions and channels-last pixels. All but torch write into arrays that are there. Arrays
stay in the caches that hold them, as in a network, where the operator before has just written x.
On a GPU, where torch sees one: the CUDA kernel beside torch's eager chain, torch.compile of it and
a copy of as many bytes. Each is a CUDA graph of at least 50 calls, so that its launch does not
count, timed by events. "DRAM": calls take turns on sets of arrays that are together twice as large
as the L2 cache, so that a call finds none of its own there. "L2": one set, which fits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from msgspec import Struct
from numpy.typing import NDArray

from garment_transfer.benchmarks.measuring import in_turn, interleaved, medians, write_rows
from garment_transfer.export.flow_warp import flow_warp_model
from garment_transfer.kernels import onnxruntime_library

#: Channels, height, width.
CPU_SHAPES = ((64, 128, 96), (256, 64, 48), (4, 1024, 768))
#: Batch, channels, height, width: a level of the networks, and what exceeds every cache.
GPU_SHAPES = ((1, 64, 128, 96), (1, 256, 64, 48), (1, 4, 1024, 768), (64, 64, 128, 96))
#: Calls in a CUDA graph at least.
GPU_CALLS = 50

Arrays = dict[str, NDArray[np.float32]]


class Row(Struct):
    """Medians of every way by name, and the kernel's throughput beside that of a copy."""

    device: str
    shape: str
    median_ms: dict[str, float]
    bytes: int
    gb_per_s: float
    share_of_copy: float


def arguments(n: int, c: int, h: int, w: int) -> Arrays:
    """x is noise; the flow is smooth, as a garment's is, and moves a few pixels."""
    random = np.random.default_rng(0)

    def smooth(height: int, width: int) -> NDArray[np.float32]:
        coarse = 3 * random.standard_normal((4, 4, 2 * n), dtype=np.float32)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.ascontiguousarray(
            fine.reshape(height, width, n, 2).transpose(2, 3, 0, 1), np.float32
        )

    affine = np.array([[1.03, 0.02, 0.01], [-0.02, 0.98, 0.02]], np.float32)
    return {
        "x": random.standard_normal((n, c, h, w), dtype=np.float32),
        "coarse_flow": smooth(h // 2, w // 2) * np.float32(0.5),
        "residual": smooth(h, w),
        "affine": np.tile(affine, (n, 1, 1)),
    }


def moved_bytes(n: int, c: int, h: int, w: int, element: int) -> int:
    """What has to be read and written once: x, y, residual, flow and the coarse flow."""
    return n * h * w * (2 * c * element + 2 * 2 * 4 + 2)


def torch_chain(
    x: torch.Tensor, coarse: torch.Tensor, residual: torch.Tensor, affine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model without FlowWarp runs: upsample, add, positions, grid_sample."""
    n, _, h, w = x.shape
    flow = 2 * F.interpolate(coarse, scale_factor=2.0, mode="bilinear") + residual
    grid = F.affine_grid(affine, [n, 1, h, w], align_corners=False)
    # no tensor of constants: copying it to a GPU could not be captured into a graph
    normalised = torch.stack([flow[:, 0] * (2 / w), flow[:, 1] * (2 / h)], dim=-1)
    moved = normalised @ affine[:, None, :, :2].transpose(-1, -2)
    return F.grid_sample(x, (grid + moved).to(x.dtype), align_corners=False), flow


def torch_short_chain(
    x: torch.Tensor, coarse: torch.Tensor, residual: torch.Tensor
) -> torch.Tensor:
    """interpolate, add, grid_sample and nothing else: a bound that torch's chain cannot beat.

    It takes the flow for normalised positions, which costs the same and skips the affine.
    """
    flow = 2 * F.interpolate(coarse, scale_factor=2.0, mode="bilinear") + residual
    return F.grid_sample(x, flow.permute(0, 2, 3, 1), align_corners=False)


def _bound(graph: bytes, threads: int, library: Path | None, arrays: Arrays) -> Callable[[], None]:
    """A run of ONNX Runtime into arrays that are there: Python's copies do not count.

    Its inputs have to live as long as the run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # as the runtime sets it: a session that waits in a loop would hold the cores of the next run
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if library:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in arrays.items():
        binding.bind_cpu_input(name, array)
    for name, like in (("y", arrays["x"]), ("flow", arrays["residual"])):
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(like))
        binding.bind_ortvalue_output(name, value)
    return partial(session.run_with_iobinding, binding)


def _remap(arrays: Arrays) -> Callable[[], object]:
    """OpenCV on finished positions."""
    height, width = arrays["x"].shape[2:]
    image = np.ascontiguousarray(arrays["x"][0].transpose(1, 2, 0))
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    at = (xs + arrays["residual"][0, 0], ys + arrays["residual"][0, 1])
    return partial(cv2.remap, image, *at, cv2.INTER_LINEAR, np.empty_like(image))


def _row(device: str, shape: str, moved: int, median: dict[str, float]) -> Row:
    """`median` has the "kernel", and a "copy" that reads and writes as many bytes."""
    share = median.pop("copy") / median["kernel"]
    return Row(device, shape, median, moved, moved / median["kernel"] / 1e6, share)


def measure_cpu(threads: int, rounds: int, library: Path) -> Iterator[Row]:
    """A row per shape on the CPU."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    graph = flow_warp_model().SerializeToString()
    for c, h, w in CPU_SHAPES:
        arrays = arguments(1, c, h, w)
        tensors = [torch.from_numpy(array) for array in arrays.values()]
        moved = moved_bytes(1, c, h, w, 4)
        # of as many bytes, which then lie in the same cache as the kernel's
        source, target = (torch.zeros(moved // 2, dtype=torch.uint8) for _ in range(2))
        runs: dict[str, Callable[[], object]] = {
            "kernel": _bound(graph, threads, library, arrays),
            "onnxruntime's function body": _bound(graph, threads, None, arrays),
            "torch": partial(torch.inference_mode()(torch_chain), *tensors),
            "torch, no affine": partial(torch.inference_mode()(torch_short_chain), *tensors[:3]),
            "copy": partial(target.copy_, source),
        }
        if c <= 4:
            runs["cv2.remap"] = _remap(arrays)
        yield _row("cpu", f"{c}x{h}x{w}", moved, medians(interleaved(runs, rounds)))


def buffer_sets(moved: int, cache: int) -> dict[str, int]:
    """How many sets of arrays calls of so many bytes take turns on, by the memory they then find.

    In DRAM the sets are together twice as large as the L2 cache; in L2 one set fills half of it at
    most.
    """
    sets = {"DRAM": -(-2 * cache // moved)}
    if 2 * moved <= cache:
        sets["L2"] = 1
    return sets


def measure_gpu(rounds: int) -> Iterator[Row]:
    """A row per shape, type, layout and memory on the GPU that torch sees."""
    device = torch.cuda.get_device_properties(0)
    for n, c, h, w in GPU_SHAPES:
        for dtype in (torch.float32, torch.float16):
            moved = moved_bytes(n, c, h, w, dtype.itemsize)
            # channels last is what TensorRT's plugin gets in float16
            for last in (False, True)[: 2 if dtype == torch.float16 and c % 8 == 0 else 1]:
                torch._dynamo.reset()  # it compiles for eight shapes and no more
                for memory, sets in buffer_sets(moved, device.L2_cache_size).items():
                    calls = _gpu_calls(arguments(n, c, h, w), dtype, last, moved, sets)
                    graphs = {way: _captured(of_way) for way, of_way in calls.items()}
                    times: dict[str, list[float]] = {way: [] for way in graphs}
                    for way in in_turn(graphs, rounds):
                        times[way].append(_call_ms(*graphs[way]))
                    name = str(dtype).removeprefix("torch.") + (" channels last" if last else "")
                    label = f"{n}x{c}x{h}x{w} {name}, {memory}"
                    yield _row(device.name, label, moved, medians(times))


def _gpu_calls(
    arrays: Arrays, dtype: torch.dtype, channels_last: bool, moved: int, sets: int
) -> dict[str, list[Callable[[], object]]]:
    """The calls of every way, one for each of `sets` sets of arrays."""
    from garment_transfer.kernels.flow_warp import flow_warp

    compiled = torch.compile(torch_chain, mode="max-autotune-no-cudagraphs", dynamic=False)
    form = torch.channels_last if channels_last else torch.contiguous_format

    def kernel(values: Sequence[torch.Tensor], out: tuple[torch.Tensor, torch.Tensor]) -> None:
        x, coarse_flow, residual, affine = values
        stream, (y, flow) = torch.cuda.current_stream(), out
        if channels_last:
            x, y = x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)
        flow_warp(
            *(x, coarse_flow, residual, affine),
            out=(y, flow),
            stream=stream,
            channels_last=channels_last,
        )

    calls: dict[str, list[Callable[[], object]]] = {
        way: [] for way in ("kernel", "torch eager", "torch.compile", "copy")
    }
    for _ in range(sets):
        values = [torch.from_numpy(array).cuda() for array in arrays.values()]
        values[0] = values[0].to(dtype, memory_format=form)
        out = (torch.empty_like(values[0]), torch.empty_like(values[2]))
        source, target = (torch.zeros(moved // 2, dtype=torch.uint8).cuda() for _ in range(2))
        calls["kernel"].append(partial(kernel, values, out))
        calls["torch eager"].append(partial(torch_chain, *values))
        calls["torch.compile"].append(partial(compiled, *values))
        calls["copy"].append(partial(target.copy_, source))
    return calls


def in_graph(calls: Sequence[Callable[[], object]]) -> Iterator[Callable[[], object]]:
    """What one graph runs: every call equally often, together at least GPU_CALLS times."""
    for _ in range(-(-GPU_CALLS // len(calls))):
        yield from calls


def _captured(calls: Sequence[Callable[[], object]]) -> tuple[torch.cuda.CUDAGraph, int]:
    """A graph of `in_graph`, and the number of its calls."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    count = 0
    # what torch returns lives until the next call on the same set, so that it is not written to
    # memory that the call before has just freed
    results: list[object] = [None] * len(calls)
    with torch.cuda.graph(graph):
        for call in in_graph(calls):
            results[count % len(calls)] = call()
            count += 1
    return graph, count


def _call_ms(graph: torch.cuda.CUDAGraph, count: int) -> float:
    """Milliseconds of a call on the GPU."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()  # while it runs, the next replay is queued
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / count


@click.command()
@click.option("--threads", default=2, show_default=True, help="CPU threads of everyone.")
@click.option("--rounds", default=60, show_default=True, help="Timed rounds, after 10 untimed.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(threads: int, rounds: int, json_file: Path | None) -> None:
    """Time FlowWarp's kernels beside what else computes the same."""
    library = onnxruntime_library()
    if library is None:
        raise click.ClickException(
            "ONNX Runtime's kernel is not built: `garment-transfer doctor` says what fixes it"
        )
    on_gpu = torch.cuda.is_available()
    rows: list[Row] = []
    try:
        measured = measure_cpu(threads, rounds, library)
        for row in itertools.chain(measured, measure_gpu(rounds) if on_gpu else ()):
            rows.append(row)
            times = ", ".join(f"{way} {ms:.3f} ms" for way, ms in row.median_ms.items())
            click.echo(f"{row.device} {row.shape}: {times}; {row.share_of_copy:.0%} of a copy")
        if not on_gpu:
            click.echo("GPU: not measured: torch sees no GPU on this machine")
    finally:  # one that is interrupted keeps what it has
        if json_file:
            what = "FlowWarp, medians of rounds in which all take turns"
            write_rows(json_file, what, threads, rounds, rows, gpu={"measured": on_gpu})


if __name__ == "__main__":
    main()
