"""Other methods' networks beside ours, in one process, with random weights: speed, not quality.

    python -m garment_transfer.benchmarks.peers FOLDER --json benchmarks/results/peers.json

FOLDER is a clone of the public repository KiseKloset/DM-VTON, which has the networks of six
methods side by side. All take 256x192 pictures. What another method needs before its networks
(parsing, pose) is left out, as is ours. Their correlation is CUDA alone; here it is plain torch.
None has FlowWarp's pattern: they sample one flow at the places of the next, where it adds them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import click
import msgspec
import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from garment_transfer.benchmarks.measuring import (
    interleaved,
    medians,
    peak_host_mib,
    write_rows,
)
from garment_transfer.bundle import STAGES, Size, chained, contract
from garment_transfer.export.bundle import export_program
from garment_transfer.export.passes import align_channels, share_constants, shrink_constants
from garment_transfer.models.checkpoint import load_checkpoint
from garment_transfer.models.presets import shipped_checkpoint
from garment_transfer.runtime import Pipeline, sample_bundle
from garment_transfer.runtime.backends.onnxruntime import open_model
from garment_transfer.training.evaluation import Networks

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


class Row(msgspec.Struct):
    """A method's networks; milliseconds are medians.

    `eager_mib` is the memory that they and a run in eager torch took in a process of their own.
    """

    name: str
    parameters: int
    giga_multiply_adds: float
    eager_mib: int
    eager_ms: float
    onnxruntime_ms: float


def our_inputs() -> dict[str, NDArray[np.uint8]]:
    """A transfer's inputs at random."""
    rng = np.random.default_rng(0)
    tensors = chained(contract(_SIZE).values()).inputs
    return {t.name: rng.integers(0, 7, t.shape_of(1), np.uint8) for t in tensors}


def _correlation(tenFirst: Tensor, tenSecond: Tensor, intStride: int = 1) -> Tensor:
    """The cost volume of 7x7 places, [N,49,H,W], as the methods call it: mean over the channels."""
    if intStride != 1:
        raise NotImplementedError(f"a stride of {intStride}")
    channels, height, width = tenFirst.shape[1:]
    second = F.pad(tenSecond, (3, 3, 3, 3))
    # a product with a row of weights: twice as fast as torch's mean, five times ONNX Runtime's
    mean = torch.full((1, 1, channels), 1 / channels)
    return torch.cat(
        [
            (mean @ (tenFirst * second[:, :, y : y + height, x : x + width]).flatten(2)).unflatten(
                2, (height, width)
            )
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


def _eager(folder: Path, name: str) -> tuple[nn.Module, Callable[[], object], tuple[Tensor, ...]]:
    """A method's networks, or ours, a run of them in torch, and the pictures that theirs take."""
    if name != _OURS:
        network, pictures = load_method(folder, name)
        return network, partial(network, *pictures), pictures
    _, trained = load_checkpoint(shipped_checkpoint("lite"))
    own = Networks({stage: trained[stage] for stage in STAGES})
    return nn.ModuleList(trained[stage] for stage in STAGES), partial(own.run, our_inputs()), ()


def _eager_mib(folder: Path, name: str, threads: int) -> int:
    """The memory that a method's networks and a run took, in a process that has done neither."""
    before = peak_host_mib()
    torch.set_num_threads(threads)
    _, run, _ = _eager(folder, name)
    with torch.inference_mode():
        run()
    return round(peak_host_mib() - before)


def _in_onnxruntime(
    network: nn.Module, inputs: tuple[Tensor, ...], file: Path, threads: int
) -> Callable[[], object]:
    """A run of the networks as one ONNX graph, with this package's passes where they apply.

    AssertionError: its results are not torch's.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        model = export_program(network, inputs).model_proto
    for improve in (align_channels, share_constants, shrink_constants):
        improve(model)
    onnx.save(model, file)
    engine = open_model(file, threads)
    names = (tensor.name for tensor in engine.signature.inputs)
    given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    due = network(*inputs)
    results = [due] if isinstance(due, Tensor) else due
    for found, result in zip(engine.run(given).values(), results, strict=True):
        torch.testing.assert_close(torch.as_tensor(found), result, atol=1e-3, rtol=0)
    return partial(engine.run, given)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--rounds", default=15, show_default=True, help="In which all take turns.")
@click.option("--threads", default=2, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
def main(folder: Path, rounds: int, threads: int, json_file: Path | None) -> None:
    """Time other methods' networks beside ours, in eager torch and in ONNX Runtime."""
    if not (folder / "exp" / "runtime").is_dir():
        raise click.UsageError(
            f"{folder} has no folder exp/runtime; give a clone of the public repository "
            "KiseKloset/DM-VTON"
        )
    torch.set_num_threads(threads)
    networks: dict[str, nn.Module] = {}
    runs: dict[str, Callable[[], object]] = {
        f"{_OURS} onnxruntime": partial(
            Pipeline.load(sample_bundle(), threads=threads).run, our_inputs()
        ),
    }
    memory: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone,
        torch.inference_mode(),
    ):
        for name in (_OURS, *_METHODS):
            memory[name] = alone.submit(_eager_mib, folder, name, threads).result()
            networks[name], runs[f"{name} eager"], inputs = _eager(folder, name)
            if name != _OURS:  # which is exported already
                file = Path(temporary, f"{name}.onnx")
                run = _in_onnxruntime(networks[name], inputs, file, threads)
                runs[f"{name} onnxruntime"] = run
        counts = {}
        for name in networks:
            with FlopCounterMode(display=False) as counter:
                runs[f"{name} eager"]()
            counts[name] = round(counter.get_total_flops() / 2e9, 2)
        times = medians(interleaved(runs, rounds, warm_up=2))
    rows = [
        Row(
            name,
            sum(parameter.numel() for parameter in network.parameters()),
            counts[name],
            memory[name],
            times[f"{name} eager"],
            times[f"{name} onnxruntime"],
        )
        for name, network in networks.items()
    ]
    for row in rows:
        click.echo(
            f"{row.name}: {row.parameters / 1e6:.1f} M parameters, {row.giga_multiply_adds} G "
            f"multiply-adds, {row.eager_mib} MiB, eager {row.eager_ms:.1f} ms, "
            f"ONNX Runtime {row.onnxruntime_ms:.1f} ms"
        )
    if json_file:
        what = "networks of several methods with random weights, 256x192, batch 1, float32"
        write_rows(json_file, what, threads, rounds, rows)


if __name__ == "__main__":
    main()
