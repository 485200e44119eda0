"""Where the time of a transfer goes: stages on the host, and layers by the backend's own profiler.

The transfers that are timed are whole ones, from files to a picture in memory. Layers come from
ONNX Runtime's profiler, torch's profiler, OpenVINO's counters, or TensorRT's IProfiler; on a GPU
the stages of the chain are timed by CUDA events. Profilers slow a run down: shares count, not
milliseconds.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy.typing as npt

from garment_transfer.benchmarks.peers import torch_engines
from garment_transfer.benchmarks.rows import ROWS, Row, find_checkpoint, unavailable
from garment_transfer.bundle import STAGES, BackendError, Bundle, InputError, replacing
from garment_transfer.kernels.driver import checked, driver
from garment_transfer.runtime import Person, Pipeline, sample_people
from garment_transfer.runtime.backends import (
    DEVICE_BACKENDS,
    DeviceBackend,
    DeviceOptions,
    Engine,
    find_backend,
)
from garment_transfer.runtime.backends.tensorrt import TensorRTContext
from garment_transfer.runtime.cuda import Chain, Context, Engine as ChainEngine

#: Calls before the timed ones, at most as many as those.
_WARM_UP: Final = 3

#: Where spans are drawn: process and thread of the trace.
TRACKS: Final = {
    "transfer": (1, 1),
    "layers": (1, 2),
    "device": (2, 1),
    "device layers": (2, 2),
}

#: What a stage's time outside its layers is called.
OUTSIDE: Final = "outside layers"


@dataclass(frozen=True)
class Span:
    """Something that took time. `start` is seconds since the epoch, `seconds` how long it took.

    `track` is where it is drawn, one of `TRACKS`. `stage` is the stage it belongs
    to, empty for a whole transfer; `op` is a layer's type.
    """

    name: str
    start: float
    seconds: float
    track: str
    stage: str = ""
    op: str = ""


@dataclass(frozen=True)
class Profile:
    """The spans of several transfers, and what was profiled."""

    row: Row
    size: str
    threads: int
    transfers: int
    layers_from: str
    spans: Sequence[Span] = field(repr=False)

    def stages(self) -> dict[str, float]:
        """Milliseconds per transfer of every stage in order; "other" is what lies between."""
        in_time = sorted(self.spans, key=lambda span: span.start)
        names = dict.fromkeys(span.name for span in in_time if _is_stage(span))
        found = {
            name: self._per_transfer(s for s in self.spans if _is_stage(s) and s.name == name)
            for name in names
        }
        total = self.total_ms()
        return {**found, "other": total - sum(found.values())}

    def total_ms(self) -> float:
        """Milliseconds of a transfer."""
        return self._per_transfer(s for s in self.spans if s.track == "transfer" and not s.stage)

    def bound_by(self) -> str:
        """The stage that takes most of a transfer."""
        stages = self.stages()
        return max(stages, key=lambda name: stages[name])

    def layers(self) -> list[tuple[str, str, str, float]]:
        """Stage, layer, type and milliseconds per transfer, slowest first; all of a transfer.

        A stage has an entry `OUTSIDE` for what its layers leave, or one of type "host" for all of
        it where it has no layers.
        """
        times: dict[tuple[str, str, str], list[Span]] = {}
        for span in self.spans:
            if span.op:
                times.setdefault((span.stage, span.name, span.op), []).append(span)
        found = [(*key, self._per_transfer(spans)) for key, spans in times.items()]
        for stage, milliseconds in self.stages().items():
            inside = [entry[3] for entry in found if entry[0] == stage]
            name, op = (OUTSIDE, OUTSIDE) if inside else ("whole stage", "host")
            found.append((stage, name, op, milliseconds - sum(inside)))
        return sorted(found, key=lambda entry: -entry[3])

    def to_dict(self) -> dict[str, Any]:
        """Stages and layers with their shares, as `json.dump` takes them."""
        total = self.total_ms()
        return {
            "row": self.row.name,
            "size": self.size,
            "threads": self.threads,
            "transfers": self.transfers,
            "layers_from": self.layers_from,
            "total_ms": total,
            "bound_by": self.bound_by(),
            "stages": [
                {"name": name, "ms": ms, "share": ms / total} for name, ms in self.stages().items()
            ],
            "layers": [
                {"stage": stage, "layer": name, "type": op, "ms": ms, "share": ms / total}
                for stage, name, op, ms in self.layers()
            ],
        }

    def _per_transfer(self, spans: Any) -> float:
        return 1000 * sum(span.seconds for span in spans) / self.transfers


def profile_row(
    name: str,
    bundle: Bundle,
    threads: int,
    transfers: int = 20,
    checkpoint: Path | None = None,
) -> Profile:
    """Profiles a row of the benchmark on the two sample people.

    Raises InputError for an unknown row or one without layers, BackendError where it cannot run.
    """
    if transfers < 1:
        raise InputError(f"transfers is {transfers}; expected at least 1")
    known = {row.name: row for row in ROWS if row.kind != "empty" and not row.compile}
    if name not in known:
        raise InputError(f"unknown backend {name!r}; available: {', '.join(known)}")
    row = known[name]
    checkpoint = find_checkpoint(bundle, checkpoint)
    reason = unavailable(row, bundle, checkpoint)
    if reason:
        raise BackendError(f"{name} cannot run here: {reason}")
    profiled = _profiler(row, bundle, checkpoint, threads)
    spans, layers_from = profiled(transfers)
    return Profile(row, str(bundle.manifest.size), threads, transfers, layers_from, spans)


class _TimedEngine:
    """An engine whose runs are spans; `after` is called with each."""

    def __init__(self, stage: str, engine: Engine, spans: list[Span]) -> None:
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.engine = engine
        self._stage = stage
        self._spans = spans

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The engine's run."""
        start = time.time_ns()
        outputs = self.engine.run(inputs)
        end = time.time_ns()
        self._spans.append(
            Span(self._stage, start / 1e9, (end - start) / 1e9, "transfer", self._stage)
        )
        return outputs


def _profiler(row: Row, bundle: Bundle, checkpoint: Path | None, threads: int) -> Any:
    """The function from a number of transfers to spans and the name of what timed the layers."""
    if row.backend in DEVICE_BACKENDS:
        return lambda transfers: _profile_chain(row, bundle, threads, transfers)
    by = {"onnxruntime": _profile_onnxruntime, "openvino": _profile_openvino, "": _profile_torch}
    return lambda transfers: by[row.backend](row, bundle, checkpoint, threads, transfers)


def _transfers(pipeline: Pipeline, spans: list[Span], count: int, threads: int) -> None:
    """Runs transfers and adds their spans, and those of the stages that the host takes."""
    import cv2

    cv2.setNumThreads(threads)
    person, owner = sample_people()
    warm_up = min(_WARM_UP, count)
    for index in range(warm_up + count):
        if index == warm_up:
            spans.clear()
        start = time.time()
        people = Person.load(person), Person.load(owner)
        read = time.time()
        timings = pipeline.transfer(*people).timings
        end = time.time()
        compose = timings["compose"] / 1000
        spans += [
            Span("transfer", start, end - start, "transfer"),
            Span("read", start, read - start, "transfer", "read"),
            Span("fit", read, timings["fit"] / 1000, "transfer", "fit"),
            Span("compose", end - compose, compose, "transfer", "compose"),
        ]


def _timed(bundle: Bundle, engines: Mapping[str, Engine], spans: list[Span]) -> Pipeline:
    return Pipeline(
        bundle, {stage: _TimedEngine(stage, engine, spans) for stage, engine in engines.items()}
    )


def _profile_onnxruntime(
    row: Row, bundle: Bundle, checkpoint: Path | None, threads: int, transfers: int
) -> tuple[list[Span], str]:
    from garment_transfer.runtime.backends import onnxruntime

    spans: list[Span] = []
    with tempfile.TemporaryDirectory(prefix="garment-transfer-") as folder:
        engines = {
            stage: onnxruntime.load(
                bundle.graph_path(stage),
                bundle.manifest.graphs[stage],
                threads,
                kernel=bool(row.kernel),
                profile=str(Path(folder, stage)),
            )
            for stage in STAGES
        }
        _transfers(_timed(bundle, engines, spans), spans, transfers, threads)
        first = min(span.start for span in spans)
        for stage, engine in engines.items():
            path, start_ns = engine.end_profiling()
            for event in json.loads(path.read_text(encoding="utf-8")):
                start = start_ns / 1e9 + event["ts"] / 1e6
                # the warm-up came before
                if event.get("cat") == "Node" and start >= first:
                    name = event["name"].removesuffix("_kernel_time")
                    op = event["args"]["op_name"]
                    spans.append(Span(name, start, event["dur"] / 1e6, "layers", stage, op))
    return spans, "ONNX Runtime's profiler"


def _profile_openvino(
    row: Row, bundle: Bundle, checkpoint: Path | None, threads: int, transfers: int
) -> tuple[list[Span], str]:
    from garment_transfer.runtime.backends import openvino

    spans: list[Span] = []

    class Counted:
        """Adds the layers of every run, one after the other from the run's start on."""

        def __init__(self, stage: str) -> None:
            self.engine = openvino.load(
                bundle.graph_path(stage),
                bundle.manifest.graphs[stage],
                threads,
                profiling=True,
                **row.load["options"],
            )
            self.inputs, self.outputs = self.engine.inputs, self.engine.outputs
            self.stage = stage

        def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
            start = time.time()
            outputs = self.engine.run(inputs)
            spans.append(Span(self.stage, start, time.time() - start, "transfer", self.stage))
            for name, op, milliseconds in self.engine.layers():
                seconds = milliseconds / 1000
                spans.append(Span(name, start, seconds, "layers", self.stage, op))
                start += seconds
            return outputs

    _transfers(
        Pipeline(bundle, {stage: Counted(stage) for stage in STAGES}), spans, transfers, threads
    )
    return spans, "OpenVINO's counters, which have no starts: layers are drawn end to end"


def _profile_torch(
    row: Row, bundle: Bundle, checkpoint: Path | None, threads: int, transfers: int
) -> tuple[list[Span], str]:
    from torch.profiler import ProfilerActivity, profile, record_function

    spans: list[Span] = []
    if checkpoint is None:
        raise BackendError(f"{row.name} needs the checkpoint of {bundle.path}; give it")
    pipeline = _timed(bundle, torch_engines(row, bundle, checkpoint, threads), spans)
    activities = [ProfilerActivity.CPU]
    if row.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    marker = "garment_transfer.clock"
    with profile(activities=activities, record_shapes=True) as profiler:
        began = time.time()
        with record_function(marker):
            pass
        _transfers(pipeline, spans, transfers, threads)
    events = list(profiler.events())
    # the profiler's clock has its own zero
    offset = began - next(e.time_range.start for e in events if e.name == marker) / 1e6
    stages = [span for span in spans if span.name in STAGES]
    for event in events:
        on_device = "CUDA" in str(event.device_type)
        if event.name == marker or (not on_device and event.cpu_parent is not None):
            continue
        start = offset + event.time_range.start / 1e6
        stage = _stage_at(stages, start)
        if not stage:
            continue
        shape = next((list(s) for s in event.input_shapes or () if s), "")
        seconds = event.time_range.elapsed_us() / 1e6
        if on_device:
            # host layers already count this time: they wait for it at a stage's end
            spans.append(Span(event.name, start, seconds, "device", stage))
        else:
            spans.append(
                Span(f"{event.name} {shape}".strip(), start, seconds, "layers", stage, event.name)
            )
    return spans, "torch's profiler"


def _profile_chain(
    row: Row, bundle: Bundle, threads: int, transfers: int
) -> tuple[list[Span], str]:
    # a captured graph is one launch, in which neither stages nor layers can be told
    options = DeviceOptions(sessions=1, graphs=False, threads=threads)
    chain = cast(DeviceBackend, find_backend(row.backend)).load(bundle, options)
    events = {stage: _EventEngine(stage, engine) for stage, engine in chain.engines.items()}
    timed = Chain(chain.device, events, sessions=1, graphs=False)
    spans: list[Span] = []
    with Pipeline(bundle, timed) as pipeline:
        _transfers(pipeline, spans, transfers, threads)
        first = min(span.start for span in spans)
        with chain.device.active():
            found = [span for engine in events.values() for span in engine.spans()]
    spans += [span for span in found if span.start >= first]
    if any(span.op for span in spans):
        return spans, "TensorRT's IProfiler, which gives no starts: layers are drawn end to end"
    return spans, "nothing: CUDA events time the stages alone"


class _EventEngine:
    """An engine of a chain whose runs are timed by CUDA events on its stream."""

    def __init__(self, stage: str, engine: ChainEngine) -> None:
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self._stage = stage
        self._engine = engine
        self._contexts: list[_EventContext] = []

    def check_batch(self, batch: int) -> None:
        """The engine's check."""
        self._engine.check_batch(batch)

    def context(self, batch: int, stream: int) -> _EventContext:
        """A context that records an event before and after each run."""
        context = _EventContext(self._engine.context(batch, stream), stream)
        self._contexts.append(context)
        return context

    def spans(self) -> Iterator[Span]:
        """The runs so far, which have to be over, and their layers."""
        for context in self._contexts:
            for start, seconds, layers in context.runs():
                yield Span(self._stage, start, seconds, "device", self._stage)
                for name, milliseconds in layers:
                    length = milliseconds / 1000
                    yield Span(name, start, length, "device layers", self._stage, "layer")
                    start += length


class _EventContext:
    """A context between CUDA events; TensorRT's also reports its layers."""

    capturable = False

    def __init__(self, context: Context, stream: int) -> None:
        self._context = context
        self._stream = stream
        self._events: list[tuple[Any, Any]] = []
        self._layers: list[list[tuple[str, float]]] = []
        self.activation_bytes = context.activation_bytes
        if isinstance(context, TensorRTContext):
            context.profile(lambda name, ms: self._layers[-1].append((name, ms)))
        # one moment on both clocks
        self._zero = self._record()
        checked(driver().cuStreamSynchronize(stream))
        self._zero_s = time.time()

    def bind(self, addresses: Mapping[str, int], activation: int) -> None:
        """The context's bind."""
        self._context.bind(addresses, activation)

    def enqueue(self) -> None:
        """The context's run, between two events."""
        self._layers.append([])
        begin = self._record()
        self._context.enqueue()
        self._events.append((begin, self._record()))

    def close(self) -> None:
        """The context's end."""
        self._context.close()

    def runs(self) -> Iterator[tuple[float, float, list[tuple[str, float]]]]:
        """Start in seconds since the epoch, seconds and layers of every run."""
        for (begin, end), layers in zip(self._events, self._layers, strict=True):
            start = self._zero_s + checked(driver().cuEventElapsedTime(self._zero, begin)) / 1000
            yield start, checked(driver().cuEventElapsedTime(begin, end)) / 1000, layers

    def _record(self) -> Any:
        event = checked(driver().cuEventCreate(0))
        checked(driver().cuEventRecord(event, self._stream))
        return event


def _stage_at(stages: Sequence[Span], moment: float) -> str:
    return next(
        (s.stage for s in stages if s.start <= moment <= s.start + s.seconds),
        "",
    )


def _is_stage(span: Span) -> bool:
    return bool(span.stage) and span.name == span.stage and not span.op


def trace(profile: Profile) -> dict[str, Any]:
    """The spans as Chrome's trace events, which Perfetto opens: host and device on one time line.

    Microseconds count from the first transfer's start.
    """
    zero = min(span.start for span in profile.spans)
    used = {span.track for span in profile.spans}
    events: list[dict[str, Any]] = []
    for track, (pid, tid) in TRACKS.items():
        if track in used:
            process = "device" if pid == 2 else "host"
            for kind, name in (("process_name", process), ("thread_name", track)):
                events.append(
                    {"ph": "M", "pid": pid, "tid": tid, "name": kind, "args": {"name": name}}
                )
    for span in sorted(profile.spans, key=lambda span: (span.start, -span.seconds)):
        pid, tid = TRACKS[span.track]
        events.append(
            {
                "ph": "X",
                "pid": pid,
                "tid": tid,
                "name": span.name,
                "cat": span.op or span.stage or "transfer",
                "ts": round(1e6 * (span.start - zero), 3),
                "dur": round(1e6 * span.seconds, 3),
                "args": {"stage": span.stage},
            }
        )
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"row": profile.row.name, "layers": profile.layers_from},
    }


def describe(profile: Profile, top: int) -> str:
    """Stages and the slowest layers as text."""
    total = profile.total_ms()
    stages = profile.stages()
    bound = profile.bound_by()
    lines = [
        f"{profile.row.label}, {profile.size}, {profile.threads} threads, mean of "
        f"{profile.transfers} transfers; layers by {profile.layers_from}",
        "",
        *(f"{name:<10} {ms:9.2f} ms {ms / total:6.1%}" for name, ms in stages.items()),
        f"{'transfer':<10} {total:9.2f} ms",
        f"the latency is bound by {bound}: {stages[bound] / total:.0%} of a transfer",
        "",
        "slowest layers:",
    ]
    layers = profile.layers()
    for stage, name, op, ms in layers[:top]:
        lines.append(f"{ms:9.3f} ms {ms / total:6.1%}  {stage:<9} {op:<14} {name}")
    rest = sum(layer[3] for layer in layers[top:])
    if layers[top:]:
        lines.append(f"{rest:9.3f} ms {rest / total:6.1%}  {len(layers) - top} more")
    return "\n".join(lines)


def write_trace(profile: Profile, path: Path) -> None:
    """Writes the trace. OutputError where the path cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(trace(profile)) + "\n", encoding="utf-8")


def write_plot(profile: Profile, path: Path) -> None:
    """Writes a bar per stage, stacked by types of layers. OutputError."""
    from matplotlib.figure import Figure

    by_stage: dict[str, dict[str, float]] = {stage: {} for stage in profile.stages()}
    totals: dict[str, float] = {}
    for stage, _, op, ms in profile.layers():
        by_stage[stage][op] = by_stage[stage].get(op, 0) + ms
        totals[op] = totals.get(op, 0) + ms
    shown = sorted((op for op in totals if op != OUTSIDE), key=lambda op: -totals[op])[:9]
    figure = Figure(figsize=(9, 4))
    axis = figure.subplots()
    names = list(by_stage)
    left = [0.0] * len(names)
    for op in [*shown, "other types", OUTSIDE]:
        widths = [
            sum(ms for o, ms in by_stage[n].items() if o not in (*shown, OUTSIDE))
            if op == "other types"
            else max(0.0, by_stage[n].get(op, 0.0))
            for n in names
        ]
        if any(widths):
            color = "lightgrey" if op == OUTSIDE else None
            axis.barh(names, widths, left=left, label=op, color=color)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("ms per transfer")
    axis.set_title(f"{profile.row.label}: bound by {profile.bound_by()}")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
