"""A pipeline for each row: backends as they are, and torch's networks and a finished result as
engines of their own, so that everything around the networks is the same code for all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from garment_transfer.benchmarks.rows import Row
from garment_transfer.bundle import STAGES, BackendError, Bundle, Signature, contract
from garment_transfer.runtime import Pipeline

Arrays = Mapping[str, npt.NDArray[Any]]


class FinishedEngine:
    """Gives what it was told to, whatever it is given: the cost of everything but the networks."""

    def __init__(self, signature: Signature, finished: Arrays) -> None:
        self.inputs = signature.inputs
        self.outputs = signature.outputs
        self._finished = {tensor.name: finished[tensor.name] for tensor in self.outputs}

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """The finished outputs."""
        return dict(self._finished)


class TorchEngine:
    """A network in torch, from arrays to arrays; on a GPU that includes the copies."""

    def __init__(self, network: Any, signature: Signature, row: Row) -> None:
        import torch

        network = network.to(row.device)
        if row.channels_last:
            network = network.to(memory_format=torch.channels_last)
        if row.compile:
            network = torch.compile(network, mode=row.compile, dynamic=False)
        self._network = network
        self._row = row
        self.inputs = signature.inputs
        self.outputs = signature.outputs

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Runs the network; new arrays come back."""
        import torch

        row = self._row
        values = [
            torch.from_numpy(np.require(inputs[tensor.name], requirements=["C", "W"])).to(
                row.device
            )
            for tensor in self.inputs
        ]
        with torch.inference_mode(), torch.autocast(row.device, torch.float16, enabled=row.half):
            result = self._network(*values)
        results = result if isinstance(result, tuple) else (result,)
        return {
            tensor.name: value.to("cpu", getattr(torch, tensor.dtype)).numpy()
            for tensor, value in zip(self.outputs, results, strict=True)
        }


def load_row(
    row: Row, bundle: Bundle, checkpoint: Path | None, threads: int, finished: Arrays
) -> Pipeline:
    """The pipeline of a row.

    `finished` are the outputs that the row "empty" gives. Raises BackendError or CheckpointError
    where it cannot be loaded.
    """
    signatures = contract(bundle.manifest.size)
    if row.kind == "empty":
        return Pipeline(bundle, {s: FinishedEngine(signatures[s], finished) for s in STAGES})
    if row.kind == "backend":
        return Pipeline.load(bundle, row.backend, threads, **row.load)
    if checkpoint is None:
        raise BackendError(
            f"{row.name} needs the checkpoint of {bundle.path}; --checkpoint names it"
        )
    return Pipeline(bundle, torch_engines(row, bundle, checkpoint, threads))


def torch_engines(
    row: Row, bundle: Bundle, checkpoint: Path, threads: int
) -> dict[str, TorchEngine]:
    """The networks of a checkpoint as engines, by stage. CheckpointError where it is none."""
    import torch

    from garment_transfer.models.checkpoint import load_checkpoint

    torch.set_num_threads(threads)
    signatures = contract(bundle.manifest.size)
    _, networks = load_checkpoint(checkpoint)
    return {stage: TorchEngine(networks[stage], signatures[stage], row) for stage in STAGES}
