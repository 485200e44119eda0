"""Other methods' networks beside ours, in one process, with random weights: speed, not quality.

    python -m garment_transfer.benchmarks.peers FOLDER --json benchmarks/results/peers.json

FOLDER is a clone of the public repository KiseKloset/DM-VTON, which has the networks of six
methods side by side. All take 256x192 pictures. What another method needs before its networks
(parsing, pose) is left out, as is ours. Their correlation is CUDA alone; here it is plain torch.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import click
import msgspec
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from garment_transfer.benchmarks.measuring import environment, interleaved, medians, write_json
from garment_transfer.bundle import STAGES, Size, contract
from garment_transfer.export.passes import align_channels, share_constants, shrink_constants
from garment_transfer.kernels import onnxruntime_library
from garment_transfer.models.checkpoint import load_checkpoint
from garment_transfer.models.presets import shipped_checkpoint
from garment_transfer.runtime import sample_bundle

#: Module and class of each method's networks, how they are made, and the channels that they take.
_METHODS: Final[dict[str, tuple[str, str, dict[str, Any], tuple[int, ...]]]] = {
    "DM-VTON": ("pipelines", "DMVTONPipeline", {}, (3, 3, 1)),
    "PF-AFN": ("PFAFN.raw", "PFAFN", {}, (3, 3, 1)),
    "FS-VTON": ("FlowStyle.raw", "FlowStyle", {}, (3, 3, 1)),
    "RMGN": ("RMGN.raw", "RMGN", {}, (3, 3, 1)),
    "SDAFN": ("SDAFN.raw", "SDAFN", {"ref_in_channel": 6}, (6, 3, 3)),
    "CP-VTON": ("CPVTON.raw", "CPVTON", {"device": "cpu"}, (22, 3)),
}
_OURS: Final = "ours, the three networks"
_SIZE: Final = Size(256, 192)
_OPSET: Final = 18


class Row(msgspec.Struct):
    """A method's networks; milliseconds are medians, None where they do not export."""

    name: str
    parameters: int
    giga_multiply_adds: float
    eager_ms: float
    onnxruntime_ms: float | None
    note: str = ""


class _Ours(nn.Module):
    """The three networks in a row, from the six inputs of a transfer."""

    def __init__(self) -> None:
        super().__init__()
        _, networks = load_checkpoint(shipped_checkpoint("lite"))
        self.stages = nn.ModuleDict({stage: networks[stage] for stage in STAGES})

    def forward(self, *inputs: Tensor) -> Tensor:
        known = dict(zip(_input_names(), inputs, strict=True))
        for stage, signature in contract(_SIZE).items():
            outputs = self.stages[stage](*(known[tensor.name] for tensor in signature.inputs))
            outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
            known |= {t.name: x for t, x in zip(signature.outputs, outputs, strict=True)}
        return known["image"]


def _input_names() -> list[str]:
    """What the first graphs take that no graph gives."""
    taken = [t.name for signature in contract(_SIZE).values() for t in signature.inputs]
    given = {t.name for signature in contract(_SIZE).values() for t in signature.outputs}
    return [name for name in dict.fromkeys(taken) if name not in given]


def _our_inputs() -> tuple[Tensor, ...]:
    shapes = {t.name: t.shape_of(1) for s in contract(_SIZE).values() for t in s.inputs}
    return tuple(torch.randint(0, 7, shapes[name], dtype=torch.uint8) for name in _input_names())


def _correlation(tenFirst: Tensor, tenSecond: Tensor, intStride: int = 1) -> Tensor:
    """The cost volume of 7x7 places, [N,49,H,W], as the methods call it: mean over the channels."""
    if intStride != 1:
        raise NotImplementedError(f"a stride of {intStride}")
    height, width = tenFirst.shape[2:]
    second = F.pad(tenSecond, (3, 3, 3, 3))
    return torch.stack(
        [
            (tenFirst * second[:, :, y : y + height, x : x + width]).mean(1)
            for y in range(7)
            for x in range(7)
        ],
        dim=1,
    )


@contextlib.contextmanager
def _importing(folder: Path) -> Iterator[None]:
    """Packages in a folder of the clone can be imported, without a GPU and its libraries."""
    # what their files import and the networks do not use: a CUDA library, and losses' networks
    unused: dict[str, Any] = {name: ModuleType(name) for name in ("cupy", "torchvision")}
    unused["cupy"].memoize = lambda **_: lambda function: function
    unused["torchvision"].models = None
    unused = {name: module for name, module in unused.items() if find_spec(name) is None}
    paths, arguments = sys.path[:], sys.argv[:]
    sys.path.insert(0, str(folder))
    sys.argv[1:] = ["--gpu_ids", "-1"]  # their options are read from there
    sys.modules |= unused
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.path[:], sys.argv[:] = paths, arguments
        for name in unused:
            del sys.modules[name]


def load_method(folder: Path, name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A method's networks with random weights, and random pictures for them."""
    module, kind, options, channels = _METHODS[name]
    torch.manual_seed(0)
    # the first one's packages lie at the top, those that it was compared with below
    with _importing(folder if module == "pipelines" else folder / "exp" / "runtime"):
        network = getattr(importlib.import_module(module), kind)(**options)
    for loaded in list(sys.modules.values()):
        if getattr(loaded, "FunctionCorrelation", None) is not None:
            loaded.FunctionCorrelation = _correlation  # type: ignore[attr-defined]
    pictures = tuple(torch.rand(1, count, _SIZE.height, _SIZE.width) for count in channels)
    return network.eval(), pictures


def _exported(network: nn.Module, inputs: tuple[Tensor, ...], file: Path) -> None:
    """The networks as one ONNX graph, with this package's passes where they apply."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, inputs, dynamo=True, opset_version=_OPSET, verbose=False
        )
    assert program is not None
    model = program.model_proto
    for improve in (align_channels, share_constants, shrink_constants):
        improve(model)
    onnx.save(model, file)


def _session(content: bytes | str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # threads that spin after a run would slow down whoever is measured next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    library = onnxruntime_library()
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _our_graphs(threads: int) -> Callable[[], object]:
    """Our three graphs in a row in ONNX Runtime, as a bundle has them."""
    folder = sample_bundle()
    sessions = {stage: _session(str(folder / f"{stage}.onnx"), threads) for stage in STAGES}
    given = dict(zip(_input_names(), (x.numpy() for x in _our_inputs()), strict=True))

    def run() -> None:
        known = dict(given)
        for stage, signature in contract(_SIZE).items():
            names = [tensor.name for tensor in signature.outputs]
            inputs = {tensor.name: known[tensor.name] for tensor in signature.inputs}
            known |= zip(names, sessions[stage].run(names, inputs), strict=True)

    return run


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--rounds", default=15, show_default=True, help="In which all take turns.")
@click.option("--threads", default=2, show_default=True)
@click.option("--method", multiple=True, type=click.Choice(list(_METHODS)), help="All if none.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    folder: Path, rounds: int, threads: int, method: tuple[str, ...], json_file: Path | None
) -> None:
    """Time other methods' networks beside ours, in eager torch and in ONNX Runtime."""
    if not (folder / "exp" / "runtime").is_dir():
        raise click.UsageError(
            f"{folder} has no folder exp/runtime; give a clone of the public repository "
            "KiseKloset/DM-VTON"
        )
    torch.set_num_threads(threads)
    networks: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        _OURS: (_Ours().eval(), _our_inputs())
    }
    for name in method or _METHODS:
        networks[name] = load_method(folder, name)
    runs: dict[str, Callable[[], object]] = {}
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        for name, (network, inputs) in networks.items():
            with FlopCounterMode(display=False) as counter:
                network(*inputs)
            count = sum(parameter.numel() for parameter in network.parameters())
            multiply_adds = round(counter.get_total_flops() / 2e9, 2)
            rows[name] = Row(name, count, multiply_adds, 0.0, None)
            runs[f"{name} eager"] = partial(network, *inputs)
            if name == _OURS:
                runs[f"{name} onnxruntime"] = _our_graphs(threads)
                continue
            file = Path(temporary, f"{name}.onnx")
            try:
                _exported(network, inputs, file)
                session = _session(str(file), threads)
            except Exception as error:  # whatever torch's exporter meets in code of others
                rows[name].note = f"does not export: {type(error).__name__}"
                continue
            given = {
                value.name: x.numpy() for value, x in zip(session.get_inputs(), inputs, strict=True)
            }
            runs[f"{name} onnxruntime"] = partial(session.run, None, given)
        times = medians(interleaved(runs, rounds, warm_up=2))
    for name, row in rows.items():
        row.eager_ms = times[f"{name} eager"]
        row.onnxruntime_ms = times.get(f"{name} onnxruntime")
        ours = "-" if row.onnxruntime_ms is None else f"{row.onnxruntime_ms:.1f}"
        click.echo(
            f"{name}: {row.parameters / 1e6:.1f} M parameters, {row.giga_multiply_adds} G "
            f"multiply-adds, eager {row.eager_ms:.1f} ms, ONNX Runtime {ours} ms {row.note}"
        )
    if json_file:
        report = {
            "what": "networks of several methods with random weights, 256x192, batch 1, float32",
            "threads": threads,
            "rounds": rounds,
            "rows": list(rows.values()),
            "environment": environment(),
        }
        write_json(json_file, report)


if __name__ == "__main__":
    main()
