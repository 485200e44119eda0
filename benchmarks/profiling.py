"""Where the time of a transfer goes: stages on the host, and layers by the backend's own profiler.

The transfers that are timed are whole ones, from files to a picture in memory. On a GPU every part
of the chain, copies included, is timed by CUDA events. Profilers slow a run down: shares count, not
milliseconds.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import numpy.typing as npt

from garment_transfer.benchmarks.rows import ROWS, Row, find_checkpoint, torch_engines, unavailable
from garment_transfer.bundle import (
    STAGES,
    BackendError,
    Bundle,
    Code,
    InputError,
    Signature,
    Stage,
    replacing,
)
from garment_transfer.kernels import photos
from garment_transfer.runtime import Person, Pipeline, sample_people
from garment_transfer.runtime.backends import Arrays, HostEngine, find_backend, open_stages
from garment_transfer.runtime.cuda import Chain, CudaDevice, DeviceEngine

if TYPE_CHECKING:
    from cuda.bindings.driver import CUevent

Layers = Iterable[tuple[str, str, float]]

_LOG: Final = logging.getLogger(__name__)

#: What runs where FlowWarp's kernel is not there.
_STANDARD: Final = "onnxruntime-standard"

#: Calls before the timed ones, at most as many as those.
_WARM_UP: Final = 3

#: Where spans are drawn: process and thread of the trace.
TRACKS: Final = {"transfer": (1, 1), "layers": (1, 2), "device": (2, 1), "device layers": (2, 2)}

#: What a stage's time outside its layers is called.
OUTSIDE: Final = "outside layers"

_LAYERS_FROM: Final = {
    "onnxruntime": "ONNX Runtime's profiler",
    "openvino": "OpenVINO's counters, which have no starts: layers are drawn end to end",
    "torch": "torch's profiler",
}


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
        found: dict[str, float] = defaultdict(float)
        for span in sorted(self.spans, key=lambda span: span.start):
            if span.stage and span.name == span.stage and not span.op:
                found[span.name] += 1000 * span.seconds / self.transfers
        return {**found, "other": self.total_ms() - sum(found.values())}

    def total_ms(self) -> float:
        """Milliseconds of a transfer."""
        whole = (s.seconds for s in self.spans if s.track == "transfer" and not s.stage)
        return 1000 * sum(whole) / self.transfers

    def bound_by(self) -> str:
        """The stage that takes most of a transfer."""
        stages = self.stages()
        return max(stages, key=lambda name: stages[name])

    def layers(self) -> list[tuple[str, str, str, float]]:
        """Stage, layer, type and milliseconds per transfer, slowest first; all of a transfer.

        A stage has an entry `OUTSIDE` for what its layers leave, or one of type "host" or "GPU" for
        all of it where it has no layers.
        """
        times: dict[tuple[str, str, str], float] = defaultdict(float)
        for span in self.spans:
            if span.op:
                times[span.stage, span.name, span.op] += 1000 * span.seconds / self.transfers
        on_gpu = {span.stage for span in self.spans if span.track == "device"}
        for stage, milliseconds in self.stages().items():
            inside = [ms for key, ms in times.items() if key[0] == stage]
            whole = ("whole stage", "GPU" if stage in on_gpu else "host")
            name, op = (OUTSIDE, OUTSIDE) if inside else whole
            times[stage, name, op] = milliseconds - sum(inside)
        return sorted(((*key, ms) for key, ms in times.items()), key=lambda entry: -entry[3])

    def to_dict(self) -> dict[str, object]:
        """Stages and layers with their shares, as JSON has them."""
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


def profile_row(
    name: str, bundle: Bundle, threads: int, transfers: int = 20, checkpoint: Path | None = None
) -> Profile:
    """Profiles a row of the benchmark on the two sample people.

    Raises InputError for an unknown row or one without layers, BackendError where it cannot run.
    """
    known = {row.name: row for row in ROWS if row.backend != "empty" and not row.compile}
    if name not in known:
        raise InputError(
            Code.BACKEND_UNKNOWN, f"unknown backend {name!r}", expected=f"one of {', '.join(known)}"
        )
    row = known[name]
    checkpoint = find_checkpoint(bundle, checkpoint)
    reason = unavailable(row, bundle, checkpoint)
    if reason and row.load.get("kernel") and not unavailable(known[_STANDARD], bundle, checkpoint):
        _LOG.warning("%s is profiled in place of %s: %s", _STANDARD, name, reason)
        row, reason = known[_STANDARD], ""
    if reason:
        raise BackendError(Code.BACKEND_UNAVAILABLE, f"{name} cannot run here: {reason}")
    spans: list[Span] = []
    if row.backend == "torch":
        profiled = _torch(row, bundle, checkpoint, threads, spans)
    else:
        by = {"onnxruntime": _onnxruntime, "openvino": _openvino}.get(row.backend, _chain)
        profiled = by(row, bundle, threads, spans)
    with profiled as pipeline:
        first = _transfers(pipeline, spans, transfers, threads)
    spans = [span for span in spans if span.start >= first]
    in_chain = "nothing: CUDA events time the parts alone"
    if any(span.op for span in spans):
        in_chain = f"{row.backend}'s profiler, which gives no starts: layers are drawn end to end"
    layers_from = _LAYERS_FROM.get(row.backend, in_chain)
    return Profile(row, str(bundle.manifest.size), threads, transfers, layers_from, spans)


def _transfers(pipeline: Pipeline, spans: list[Span], count: int, threads: int) -> float:
    """Runs transfers, adds their spans on the host, and returns when the first timed one began."""
    import cv2

    cv2.setNumThreads(threads)
    person, owner = sample_people()
    warm_up = min(_WARM_UP, count)
    starts = []
    for _ in range(warm_up + count):
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
        starts.append(start)
    return starts[warm_up]


@dataclass
class _TimedEngine:
    """An engine whose runs are spans, with the layers that `layers` reports of the last run."""

    stage: str
    engine: HostEngine
    spans: list[Span]
    layers: Callable[[], Layers] = tuple

    @property
    def signature(self) -> Signature:
        """The engine's."""
        return self.engine.signature

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Runs the engine."""
        start = time.time()
        outputs = self.engine.run(inputs)
        self.spans.append(Span(self.stage, start, time.time() - start, "transfer", self.stage))
        for name, op, milliseconds in self.layers():
            self.spans.append(Span(name, start, milliseconds / 1000, "layers", self.stage, op))
            start += milliseconds / 1000
        return outputs


@contextmanager
def _onnxruntime(row: Row, bundle: Bundle, threads: int, spans: list[Span]) -> Iterator[Pipeline]:
    from garment_transfer.runtime.backends import onnxruntime

    with tempfile.TemporaryDirectory(prefix="garment-transfer-") as folder:
        given = {**row.load, "threads": threads, "profile": f"{folder}/"}
        options = msgspec.convert(given, onnxruntime.Options)
        engines = open_stages(bundle, None, partial(onnxruntime.open_graph, options))
        timed = {stage: _TimedEngine(stage, engine, spans) for stage, engine in engines.items()}
        yield Pipeline(bundle, timed)
        for stage, engine in engines.items():
            path, start_ns = engine.end_profiling()
            for event in json.loads(path.read_text(encoding="utf-8")):
                if event.get("cat") == "Node":
                    start = start_ns / 1e9 + event["ts"] / 1e6
                    name = event["name"].removesuffix("_kernel_time")
                    op = event["args"]["op_name"]
                    spans.append(Span(name, start, event["dur"] / 1e6, "layers", stage, op))


@contextmanager
def _openvino(row: Row, bundle: Bundle, threads: int, spans: list[Span]) -> Iterator[Pipeline]:
    from garment_transfer.runtime.backends import openvino

    given = {**row.load, "threads": threads, "profiling": True}
    options = msgspec.convert(given, openvino.Options)
    engines = open_stages(bundle, None, partial(openvino.open_graph, options))
    timed = {
        stage: _TimedEngine(stage, engine, spans, engine.layers)
        for stage, engine in engines.items()
    }
    yield Pipeline(bundle, timed)


@contextmanager
def _torch(
    row: Row, bundle: Bundle, checkpoint: Path | None, threads: int, spans: list[Span]
) -> Iterator[Pipeline]:
    from torch.profiler import ProfilerActivity, profile, record_function

    engines = torch_engines(row, bundle, checkpoint, threads)
    timed = {stage: _TimedEngine(stage, engine, spans) for stage, engine in engines.items()}
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (row.device == "cuda")]
    marker = "garment_transfer.clock"
    with profile(activities=activities, record_shapes=True) as profiler:
        began = time.time()
        with record_function(marker):
            pass
        yield Pipeline(bundle, timed)
    events = list(profiler.events())
    # the profiler's clock has its own zero
    offset = began - next(e.time_range.start for e in events if e.name == marker) / 1e6
    stages = [span for span in spans if span.name in STAGES]
    for event in events:
        on_device = "CUDA" in str(event.device_type)
        start = offset + event.time_range.start / 1e6
        stage = next((s.stage for s in stages if s.start <= start <= s.start + s.seconds), "")
        if not stage or not (on_device or event.cpu_parent is None):
            continue
        seconds = event.time_range.elapsed_us() / 1e6
        if on_device:
            # host layers already count this time: they wait for it at a stage's end
            spans.append(Span(event.name, start, seconds, "device", stage))
        else:
            shape = next((list(s) for s in event.input_shapes or () if s), "")
            name = f"{event.name} {shape}".strip()
            spans.append(Span(name, start, seconds, "layers", stage, event.name))


@contextmanager
def _chain(row: Row, bundle: Bundle, threads: int, spans: list[Span]) -> Iterator[Pipeline]:
    # a captured graph is one launch, in which stages and layers cannot be separated
    launches = {"graphs": False} if "graphs" in row.load else {"threads": threads}
    chain = find_backend(row.backend).load(bundle, None, {**row.load, "sessions": 1, **launches})
    assert isinstance(chain, Chain)
    with timed_parts(bundle, chain.device, chain.engines, spans) as pipeline:
        yield pipeline


@contextmanager
def timed_parts(
    bundle: Bundle, device: CudaDevice, engines: Mapping[Stage, DeviceEngine], spans: list[Span]
) -> Iterator[Pipeline]:
    """A pipeline whose chain has one session, of one pair; its parts are spans at the end."""
    clock = _EventClock(device)
    chain = Chain(
        device, engines, sessions=1, graphs=False, part=clock.part, photos=photos.load_cuda()
    )
    with Pipeline(bundle, chain) as pipeline:
        with pipeline.session() as session:
            session.profile(clock.layer)
        yield pipeline
        with pipeline.session(), device.active():  # which waits for what is queued
            spans += clock.spans()


class _EventClock:
    """Times the parts of a chain by events on its stream, and gathers their layers."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._zero: tuple[CUevent, float] | None = None
        self._runs: list[tuple[str, CUevent, CUevent, list[tuple[str, float]]]] = []
        self._layers: list[tuple[str, float]] = []

    @contextmanager
    def part(self, name: str, stream: int) -> Iterator[None]:
        """Records an event before and after what the block queues. The device is active."""
        if self._zero is None:  # one moment on both clocks
            event = self._record(stream)
            self._device.synchronize(stream)
            self._zero = event, time.time()
        self._layers = []
        begin = self._record(stream)
        yield
        self._runs.append((name, begin, self._record(stream), self._layers))

    def layer(self, name: str, milliseconds: float) -> None:
        """Adds a layer to the part that is queued now."""
        self._layers.append((name, milliseconds))

    def spans(self) -> Iterator[Span]:
        """The parts so far, which have to be over, with their layers; they are forgotten then."""
        if self._zero is None:
            return
        zero, zero_s = self._zero
        for name, begin, end, layers in self._runs:
            start = zero_s + self._device.elapsed(zero, begin) / 1000
            yield Span(name, start, self._device.elapsed(begin, end) / 1000, "device", name)
            for layer, milliseconds in layers:
                length = milliseconds / 1000
                yield Span(layer, start, length, "device layers", name, "layer")
                start += length
        for event in (zero, *(event for run in self._runs for event in run[1:3])):
            self._device.destroy_event(event)
        self._zero, self._runs = None, []

    def _record(self, stream: int) -> CUevent:
        event = self._device.create_event(timing=True)
        self._device.record(event, stream)
        return event


def trace(profile: Profile) -> dict[str, object]:
    """The spans as Chrome's trace events, which Perfetto opens: host and device on one time line.

    Microseconds count from the first transfer's start.
    """
    zero = min(span.start for span in profile.spans)
    used = {span.track for span in profile.spans}
    events: list[dict[str, object]] = [
        {"ph": "M", "pid": pid, "tid": tid, "name": kind, "args": {"name": name}}
        for track, (pid, tid) in TRACKS.items()
        if track in used
        for kind, name in (("process_name", ("host", "device")[pid - 1]), ("thread_name", track))
    ]
    events += [
        {
            "ph": "X",
            "pid": TRACKS[span.track][0],
            "tid": TRACKS[span.track][1],
            "name": span.name,
            "cat": span.op or span.stage or "transfer",
            "ts": round(1e6 * (span.start - zero), 3),
            "dur": round(1e6 * span.seconds, 3),
            "args": {"stage": span.stage},
        }
        for span in sorted(profile.spans, key=lambda span: (span.start, -span.seconds))
    ]
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


def write_plot(profile: Profile, path: Path) -> None:
    """Writes a bar per stage, stacked by types of layers. OutputError."""
    from matplotlib.figure import Figure

    names = list(profile.stages())
    types: dict[str, npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(names)))
    for stage, _, op, ms in profile.layers():
        types[op][names.index(stage)] += max(0, ms)
    outside = types.pop(OUTSIDE, np.zeros(len(names)))
    ranked = sorted(types.items(), key=lambda item: -item[1].sum())
    other = sum((widths for _, widths in ranked[9:]), np.zeros(len(names)))
    left = np.zeros(len(names))
    figure = Figure(figsize=(9, 4))
    axis = figure.subplots()
    for op, widths in [*ranked[:9], ("other types", other), (OUTSIDE, outside)]:
        if widths.any():
            color = "lightgrey" if op == OUTSIDE else None
            axis.barh(names, widths, left=left, label=op, color=color)
            left += widths
    axis.invert_yaxis()
    axis.set_xlabel("ms per transfer")
    axis.set_title(f"{profile.row.label}: bound by {profile.bound_by()}")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
