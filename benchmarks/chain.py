"""The chain on a GPU beside its peers, uint8 host arrays to uint8 host arrays, in one run.

    python -m garment_transfer.benchmarks.chain [--bundle BUNDLE] [--batch 1] [--json FILE]

Every backend of the GPU that runs here (TensorRT needs a bundle with engines for this GPU), with
and without a CUDA graph; ONNX Runtime's CUDA provider with the same three graphs called one after
another on host arrays; torch eager and torch.compile with the shipped weights, whatever the bundle
is. All take turns, so that drift hits all alike. TF32 is off for everyone; with float16 torch runs
autocast.

Of every chain three more figures:

- host time: a transfer's wall time less the time of its copies and kernels on the GPU (events) and
  less the time to put arrays into page-locked memory and to take results out;
- GPU time: from the first copy to the last, by events;
- idle: the share of the time between a run's first and last kernel in which no kernel runs, by
  CUPTI through torch's profiler.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from garment_transfer.benchmarks.measuring import interleaved, medians, processor

Arrays = dict[str, NDArray[Any]]


def inputs_of(pipeline_size: Any, batch: int) -> Arrays:
    """The people of the package, fitted, `batch` times."""
    from garment_transfer.runtime import Person, sample_people, stage_inputs

    person, owner = (Person.load(folder) for folder in sample_people())
    pair = stage_inputs(person, owner, pipeline_size)
    return {name: np.stack([array] * batch) for name, array in pair.items()}


def host_sessions(bundle: Any, precision: str | None, inputs: Arrays) -> Callable[[], Arrays]:
    """ONNX Runtime's CUDA provider as it is used most: one session after another, host arrays."""
    import onnxruntime

    from garment_transfer.bundle import STAGES
    from garment_transfer.kernels import has_cuda_kernels, onnxruntime_library

    graphs = bundle.manifest.graphs_of(precision)
    library = onnxruntime_library()
    sessions = {}
    for stage in STAGES:
        options = onnxruntime.SessionOptions()
        if library is not None and has_cuda_kernels(library):
            options.register_custom_ops_library(str(library))
        sessions[stage] = onnxruntime.InferenceSession(
            str(bundle.graph_path(stage, precision)),
            options,
            providers=[("CUDAExecutionProvider", {"use_tf32": "0"})],
        )
        # it falls back to the CPU without an error
        if "CUDAExecutionProvider" not in sessions[stage].get_providers():
            raise RuntimeError("ONNX Runtime's CUDA provider does not start here")

    def run() -> Arrays:
        values = dict(inputs)
        for stage, session in sessions.items():
            feeds = {tensor.name: values[tensor.name] for tensor in graphs[stage].inputs}
            names = [tensor.name for tensor in graphs[stage].outputs]
            values.update(zip(names, session.run(names, feeds), strict=True))
        return values

    return run


def torch_peers(size: Any, precision: str | None, inputs: Arrays) -> dict[str, Callable[[], Any]]:
    """The networks in torch on the GPU, as they are and compiled, from host to host arrays."""
    import torch

    from garment_transfer.bundle import STAGES, contract
    from garment_transfer.models.checkpoint import load_checkpoint
    from garment_transfer.models.presets import shipped_checkpoint

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    _, networks = load_checkpoint(shipped_checkpoint("lite"))
    signatures = contract(size)
    stages = {stage: networks[stage].cuda().eval() for stage in STAGES}
    compiled = {stage: torch.compile(net, mode="max-autotune") for stage, net in stages.items()}

    def chain(nets: dict[str, Any]) -> Callable[[], Arrays]:
        def run() -> Arrays:
            values = {name: torch.from_numpy(array).cuda() for name, array in inputs.items()}
            given = {}
            with torch.inference_mode(), torch.autocast("cuda", enabled=precision == "float16"):
                for stage in STAGES:
                    signature = signatures[stage]
                    made = nets[stage](*(values[tensor.name] for tensor in signature.inputs))
                    results = made if isinstance(made, tuple) else (made,)
                    for tensor, value in zip(signature.outputs, results, strict=True):
                        # a compiled network's next call would overwrite it
                        values[tensor.name] = given[tensor.name] = value.clone()
            return {name: value.cpu().numpy() for name, value in given.items()}

        return run

    return {"torch eager": chain(stages), "torch.compile": chain(compiled)}


def figures(session: Any, inputs: Arrays, rounds: int) -> dict[str, float | bool | None]:
    """Host time, GPU time and idle share of a session."""
    import torch

    stream = torch.cuda.ExternalStream(session.stream)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    host, gpu = [], []
    for turn in range(rounds + 10):
        start = time.perf_counter()
        session.transfer(inputs)
        wall = time.perf_counter() - start

        start = time.perf_counter()
        for name, array in inputs.items():
            session.host_inputs[name][...] = array
        for array in session.host_outputs.values():
            array.copy()
        staging = time.perf_counter() - start

        begin.record(stream)
        session.upload()
        session.run()
        session.download()
        end.record(stream)
        session.synchronize()
        on_gpu = begin.elapsed_time(end) / 1000
        if turn >= 10:
            host.append(1e6 * (wall - staging - on_gpu))
            gpu.append(1000 * on_gpu)
    return {
        "replays": session.replays,
        "host_us": statistics.median(host),
        "gpu_ms": statistics.median(gpu),
        "idle": idle_share(session, 10),
    }


def idle_share(session: Any, rounds: int) -> float | None:
    """The median share of a run in which no kernel runs; None where CUPTI sees no kernel."""
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(rounds):
            session.run()
            session.synchronize()
            time.sleep(0.005)
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA
    )
    return idle_of(spans, gap=2500)


def idle_of(spans: list[tuple[float, float]], gap: float) -> float | None:
    """The median, over runs, of the share that no span covers; a longer gap begins a new run."""
    shares = []
    busy, first, last = 0.0, None, 0.0
    for start, end in [*spans, (float("inf"), float("inf"))]:
        if first is None or start - last > gap:
            if first is not None and last > first:
                shares.append(1 - busy / (last - first))
            busy, first, last = 0.0, start, start
        busy += max(0.0, end - max(start, last)) if end < float("inf") else 0.0
        last = max(last, end)
    return statistics.median(shares) if shares else None


def measure(bundle: Any, precision: str | None, batch: int, rounds: int) -> dict[str, Any]:
    """All that runs on this GPU, and why the rest does not."""
    import torch

    from garment_transfer.bundle import BackendError, BundleError
    from garment_transfer.runtime import Pipeline
    from garment_transfer.runtime.backends import DEVICE_BACKENDS

    inputs = inputs_of(bundle.manifest.size, batch)
    truth = Pipeline.load(bundle).run(inputs)["image"].astype(float)
    runs: dict[str, Callable[[], Any]] = {}
    pipelines = {}
    missing: dict[str, str] = {}
    for backend in DEVICE_BACKENDS:
        for graphs in (True, False):
            name = f"chain, {backend}" + ("" if graphs else ", no graph")
            try:
                loaded = Pipeline.load(bundle, backend, precision=precision, graphs=graphs)
            except (BackendError, BundleError) as error:
                missing[name] = str(error)
                continue
            with loaded.session(batch) as session:
                if graphs and not session.replays:
                    missing[name + ", graph"] = "its engines cannot be captured"
            if graphs or backend != "onnxruntime-cuda":
                pipelines[name] = loaded
                runs[name] = lambda p=loaded: p.run(inputs)  # type: ignore[misc]
    try:
        runs["onnxruntime-cuda, host arrays"] = host_sessions(bundle, precision, inputs)
    except Exception as error:
        missing["onnxruntime-cuda, host arrays"] = str(error)
    runs |= torch_peers(bundle.manifest.size, precision, inputs)

    psnr = {}
    for name, run in runs.items():
        mean_square = float(((run()["image"] - truth) ** 2).mean())
        psnr[name] = float(10 * np.log10(255**2 / max(mean_square, 1e-9)))
    times = interleaved(runs, rounds)
    of_session = {}
    for name, loaded in pipelines.items():
        with loaded.session(batch) as session:
            of_session[name] = figures(session, inputs, rounds)
    return {
        "median_ms": medians(times),
        "p90_ms": {name: statistics.quantiles(t, n=10)[-1] for name, t in times.items()},
        "image_psnr_db": psnr,
        "sessions": of_session,
        "not_measured": missing,
        "gpu": torch.cuda.get_device_name(0),
    }


@click.command()
@click.option("--bundle", "folder", type=click.Path(path_type=Path), help="Default: the package's.")
@click.option("--precision", type=click.Choice(["float32", "float16"]))
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--rounds", default=200, show_default=True, help="Timed rounds, after 10 untimed.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    folder: Path | None, precision: str | None, batch: int, rounds: int, json_file: Path | None
) -> None:
    """Time the chain of engines on a GPU beside its peers."""
    from garment_transfer.bundle import BackendError, Bundle, replacing
    from garment_transfer.runtime import sample_bundle
    from garment_transfer.runtime.cuda import CudaDevice

    bundle = Bundle.load(folder or sample_bundle())
    report: dict[str, Any] = {
        "what": "uint8 host arrays to uint8 host arrays at the bundle's size, three stages",
        "size": str(bundle.manifest.size),
        "precision": precision or bundle.manifest.precision,
        "batch": batch,
        "rounds": rounds,
        "machine": {"processor": processor(), "python": platform.python_version()},
    }
    try:
        CudaDevice()
    except BackendError as error:
        report |= {"measured": False, "reason": str(error)}
        click.echo(f"not measured: {error}")
    else:
        report |= {"measured": True, **measure(bundle, precision, batch, rounds)}
        for name, value in report["median_ms"].items():
            click.echo(f"{name:<40} {value:8.3f} ms")
        for name, of in report["sessions"].items():
            idle = "not measured" if of["idle"] is None else f"{of['idle']:.1%}"
            click.echo(
                f"{name:<40} host {of['host_us']:6.1f} us, GPU {of['gpu_ms']:.3f} ms, idle {idle}"
            )
        for name, reason in report["not_measured"].items():
            click.echo(f"{name:<40} not measured: {reason}")
    if json_file:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
