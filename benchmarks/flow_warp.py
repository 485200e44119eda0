"""FlowWarp's kernels beside what else computes the same, in one run.

    python -m garment_transfer.benchmarks.flow_warp [--threads 2] [--rounds 60] --json FILE

On the CPU: ONNX Runtime with the kernel; the same graph without it, which runs the function body;
torch's interpolate, add and grid_sample; and for few channels OpenCV's remap, which is given the
finished positions and channels-last pixels. All but torch write into arrays that are there. Arrays
stay in the caches that hold them, as in a network, where the operator before has just written x.
On a GPU, where torch sees one: the CUDA kernel beside torch's eager chain and torch.compile of it,
all as replays of CUDA graphs timed by events. `ratios` maps peer/shape to the peer's time over the
kernel's.
"""

import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from garment_transfer.benchmarks.measuring import interleaved, medians, processor

#: Channels, height, width.
CPU_SHAPES = ((64, 128, 96), (256, 64, 48), (4, 1024, 768))
#: Batch, channels, height, width: a level of the networks, and what exceeds every cache.
GPU_SHAPES = ((1, 64, 128, 96), (1, 256, 64, 48), (1, 4, 1024, 768), (64, 64, 128, 96))

Arrays = dict[str, NDArray[np.float32]]


def arguments(n: int, c: int, h: int, w: int) -> Arrays:
    """x is noise; the flow is smooth, as a garment's is, and moves a few pixels."""
    import cv2

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


def torch_chain(x: Any, coarse: Any, residual: Any, affine: Any) -> Any:
    """What a model without FlowWarp runs: upsample, add, positions, grid_sample."""
    import torch
    import torch.nn.functional as F

    n, _, h, w = x.shape
    flow = 2 * F.interpolate(coarse, scale_factor=2.0, mode="bilinear") + residual
    grid = F.affine_grid(affine, [n, 1, h, w], align_corners=False)
    # no tensor of constants: copying it to a GPU could not be captured into a graph
    normalised = torch.stack([flow[:, 0] * (2 / w), flow[:, 1] * (2 / h)], dim=-1)
    moved = normalised @ affine[:, None, :, :2].transpose(-1, -2)
    return F.grid_sample(x, (grid + moved).to(x.dtype), align_corners=False), flow


def torch_short_chain(x: Any, coarse: Any, residual: Any) -> Any:
    """interpolate, add, grid_sample and nothing else: a bound that torch's chain cannot beat.

    It takes the flow for normalised positions, which costs the same and skips the affine.
    """
    import torch.nn.functional as F

    flow = 2 * F.interpolate(coarse, scale_factor=2.0, mode="bilinear") + residual
    return F.grid_sample(x, flow.permute(0, 2, 3, 1), align_corners=False)


def _session(graph: bytes | str, threads: int, library: Path | None, profile: str = "") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # as the runtime sets it: a session that waits in a loop would hold the cores of the next run
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _bound(session: Any, arrays: Arrays) -> tuple[Callable[[], Any], NDArray[np.float32]]:
    """A run of the session into arrays that are there, and its y: Python's copies do not count."""
    import onnxruntime

    made = {name: np.empty_like(arrays[name]) for name in ("x", "residual")}
    binding = session.io_binding()
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()
    }
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for name, like in (("y", "x"), ("flow", "residual")):
        array = made[like]
        binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    # what is bound lives as long as the function
    return lambda _keep=(values, made): session.run_with_iobinding(binding), made["x"]


def measure_cpu(threads: int, rounds: int, library: Path) -> tuple[list[dict], dict[str, float]]:
    """Rows and ratios of the CPU."""
    import cv2
    import torch

    from garment_transfer.export.flow_warp import flow_warp_model

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    graph = flow_warp_model().SerializeToString()
    with_kernel, without = (_session(graph, threads, lib) for lib in (library, None))
    rows, ratios = [], {}
    for c, h, w in CPU_SHAPES:
        arrays = arguments(1, c, h, w)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        short = [tensors[name] for name in ("x", "coarse_flow", "residual")]

        def chain(call: Callable[..., Any], values: list[Any]) -> Callable[[], Any]:
            return torch.inference_mode()(lambda: call(*values))

        by_kernel, y = _bound(with_kernel, arrays)
        by_body, due = _bound(without, arrays)
        runs: dict[str, Callable[[], object]] = {
            "kernel": by_kernel,
            "onnxruntime's function body": by_body,
            "torch": chain(torch_chain, list(tensors.values())),
            "torch, no affine": chain(torch_short_chain, short),
        }
        if c <= 4:
            image = np.ascontiguousarray(arrays["x"][0].transpose(1, 2, 0))
            xs, ys = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
            at_x, at_y = xs + arrays["residual"][0, 0], ys + arrays["residual"][0, 1]
            out = np.empty_like(image)
            runs["cv2.remap"] = lambda i=image, x=at_x, y=at_y, o=out: cv2.remap(  # type: ignore[misc]
                i, x, y, cv2.INTER_LINEAR, o
            )
        moved = moved_bytes(1, c, h, w, 4)
        # of as many bytes, which then lie in the same cache as the kernel's
        halves = [torch.zeros(moved // 2, dtype=torch.uint8) for _ in range(2)]
        runs["copy"] = lambda to=halves[0], of=halves[1]: to.copy_(of)  # type: ignore[misc]
        median = medians(interleaved(runs, rounds))
        copied = moved / median.pop("copy") / 1e6
        error = float(np.abs(y - due).max())
        shape = f"{c}x{h}x{w}"
        rows.append(
            {
                "device": "cpu",
                "shape": shape,
                "median_ms": median,
                "bytes": moved,
                "gb_per_s": moved / median["kernel"] / 1e6,
                "copy_gb_per_s": copied,
                "share_of_copy": moved / median["kernel"] / 1e6 / copied,
                "largest_difference": error,
            }
        )
        for peer, value in median.items():
            if peer != "kernel":
                ratios[f"{peer}/{shape}"] = value / median["kernel"]
    return rows, ratios


def measure_stage(threads: int, rounds: int, library: Path, folder: Path) -> dict[str, float]:
    """The share of FlowWarp in the warping stage of the shipped bundle, by ONNX Runtime's profile.

    Without the kernel the function body is many nodes; its share is what they cost beyond the
    nodes that both graphs have.
    """
    from garment_transfer.bundle import Bundle
    from garment_transfer.runtime import (
        Person,
        Pipeline,
        sample_bundle,
        sample_people,
        stage_inputs,
    )

    bundle = Bundle.load(sample_bundle())
    pipeline = Pipeline.load(sample_bundle(), threads=threads)
    person, owner = (Person.load(f) for f in sample_people())
    inputs = {k: v[None] for k, v in stage_inputs(person, owner, pipeline.size).items()}
    inputs["transfer_parsing"] = pipeline.run(inputs)["transfer_parsing"]
    path = str(bundle.graph_path("warping"))
    sessions = {
        name: _session(path, threads, lib, str(folder / name))
        for name, lib in (("with", library), ("without", None))
    }
    feeds = {v.name: inputs[v.name] for v in sessions["with"].get_inputs()}
    interleaved(
        {name: lambda s=made: s.run(None, feeds) for name, made in sessions.items()},  # type: ignore[misc]
        rounds,
    )
    stage: dict[str, float] = {}
    warp = 0.0
    for name, made in sessions.items():
        events = json.loads(Path(made.end_profiling()).read_text(encoding="utf-8"))
        nodes: dict[str, list[float]] = {}
        kernel: set[str] = set()
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                nodes.setdefault(event["name"], []).append(event["dur"] / 1000)
                if event["args"]["op_name"] == "FlowWarp":
                    kernel.add(event["name"])
        median = {node: statistics.median(times) for node, times in nodes.items()}
        stage[name] = sum(median.values())
        warp += sum(median[node] for node in kernel)
    return {
        "stage_ms_with_kernel": stage["with"],
        "stage_ms_without": stage["without"],
        "flow_warp_ms": warp,
        "share_with_kernel": warp / stage["with"],
        "share_without": (stage["without"] - stage["with"] + warp) / stage["without"],
    }


def measure_gpu(rounds: int) -> tuple[list[dict], dict[str, float]]:
    """Rows and ratios of the GPU that torch sees: replays of CUDA graphs, timed by events."""
    import torch

    from garment_transfer.kernels.flow_warp import flow_warp

    compiled = torch.compile(torch_chain, mode="max-autotune-no-cudagraphs", dynamic=False)
    properties = torch.cuda.get_device_properties(0)
    big = [torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2)]

    def replayed(call: Callable[[], object]) -> Callable[[], object]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def time_of(replay: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(10):
            replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 10

    rows, ratios = [], {}
    for n, c, h, w in GPU_SHAPES:
        for dtype in (torch.float32, torch.float16):
            arrays = arguments(n, c, h, w)
            values = [torch.from_numpy(array).cuda() for array in arrays.values()]
            values[0] = values[0].to(dtype)
            out = (torch.empty_like(values[0]), torch.empty_like(values[2]))

            def ours(v: list[Any] = values, o: tuple[Any, Any] = out) -> object:
                return flow_warp(*v, out=o, stream=torch.cuda.current_stream())

            replays = {
                "kernel": replayed(ours),
                "torch eager": replayed(lambda v=values: torch_chain(*v)),  # type: ignore[misc]
                "torch.compile": replayed(lambda v=values: compiled(*v)),  # type: ignore[misc]
                "copy": replayed(lambda: big[0].copy_(big[1])),
            }
            times: dict[str, list[float]] = {name: [] for name in replays}
            for _ in range(rounds):
                for name, replay in replays.items():
                    times[name].append(time_of(replay))
            median = medians(times)
            copied = 2 * big[0].numel() / median.pop("copy") / 1e6
            moved = moved_bytes(n, c, h, w, values[0].element_size())
            shape = f"{n}x{c}x{h}x{w} {str(dtype).removeprefix('torch.')}"
            rows.append(
                {
                    "device": properties.name,
                    "shape": shape,
                    "median_ms": median,
                    "bytes": moved,
                    "l2_bytes": properties.L2_cache_size,
                    "gb_per_s": moved / median["kernel"] / 1e6,
                    "copy_gb_per_s": copied,
                    "share_of_copy": moved / median["kernel"] / 1e6 / copied,
                }
            )
            for peer, value in median.items():
                if peer != "kernel":
                    ratios[f"{peer}/{shape}"] = value / median["kernel"]
    return rows, ratios


@click.command()
@click.option("--threads", default=2, show_default=True, help="CPU threads of everyone.")
@click.option("--rounds", default=60, show_default=True, help="Timed rounds, after 10 untimed.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(threads: int, rounds: int, json_file: Path | None) -> None:
    """Time FlowWarp's kernels beside their peers."""
    import tempfile

    import cv2
    import onnxruntime
    import torch

    from garment_transfer.bundle import replacing
    from garment_transfer.kernels import onnxruntime_library

    library = onnxruntime_library()
    if library is None:
        raise click.ClickException(
            "ONNX Runtime's kernel is not built: `garment-transfer doctor` says what mends it"
        )
    rows, ratios = measure_cpu(threads, rounds, library)
    with tempfile.TemporaryDirectory() as folder:
        stage = measure_stage(threads, rounds, library, Path(folder))
    gpu: dict[str, Any] = {"measured": False, "reason": "torch sees no GPU on this machine"}
    if torch.cuda.is_available():
        gpu_rows, gpu_ratios = measure_gpu(rounds)
        rows += gpu_rows
        ratios |= gpu_ratios
        gpu = {"measured": True, "name": torch.cuda.get_device_name(0)}
    report = {
        "what": "FlowWarp, medians of rounds in which all take turns",
        "threads": threads,
        "rounds": rounds,
        "rows": rows,
        "ratios": ratios,
        "warping_stage": stage,
        "gpu": gpu,
        "machine": {
            "processor": processor(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "onnxruntime": onnxruntime.__version__,
            "opencv": cv2.__version__,
        },
    }
    for row in rows:
        times = ", ".join(f"{name} {value:.3f} ms" for name, value in row["median_ms"].items())
        click.echo(f"{row['device']} {row['shape']}: {times}; {row['share_of_copy']:.0%} of a copy")
    for name, ratio in ratios.items():
        click.echo(f"{name:<45} {ratio:6.2f} times the kernel's time")
    click.echo(
        f"warping stage: FlowWarp is {stage['share_with_kernel']:.1%} of it with the kernel, "
        f"{stage['share_without']:.1%} without"
    )
    if not gpu["measured"]:
        click.echo(f"GPU: not measured: {gpu['reason']}")
    if json_file:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
