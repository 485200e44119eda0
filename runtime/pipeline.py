"""The pipeline: a bundle's three graphs in a row, with fitting before and compositing after."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from garment_transfer.runtime.backends import Engine, check_options, find_backend
from garment_transfer.runtime.bundle import STAGES, Bundle, Size
from garment_transfer.runtime.choosing import AUTO, fastest_backend
from garment_transfer.runtime.compositing import compose
from garment_transfer.runtime.errors import InputError
from garment_transfer.runtime.fitting import Fit
from garment_transfer.runtime.people import Person

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Transfer:
    """What a transfer gives.

    At the person's own size: `image` uint8 RGB [H,W,3], the person in the other's garment;
    `transfer_parsing` uint8 [H,W], its seven classes; `warped_garment` uint8 RGB [H,W,3], the
    garment as worn now and 0 around it. At the bundle's size: `flow` float32 [2,h,w], (dx, dy) in
    pixels: pixel p of the fitted person shows the garment owner's fitted photo at p + flow(p).

    `timings` are milliseconds for "fit", each stage and "compose". In a batch "compose" is the
    pair's own, and the others are those of the whole batch.
    """

    image: npt.NDArray[np.uint8]
    transfer_parsing: npt.NDArray[np.uint8]
    warped_garment: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.float32]
    timings: Mapping[str, float]


class Pipeline:
    """A bundle loaded into a backend. One pipeline may be used from several threads at once."""

    def __init__(self, bundle: Bundle, engines: Mapping[str, Engine]) -> None:
        """From an engine per stage; `Pipeline.load` is the usual way."""
        self.bundle = bundle
        self._engines = engines
        # What no stage gives has to be given.
        given = {tensor.name for engine in engines.values() for tensor in engine.outputs}
        self._inputs = {
            tensor.name: tensor
            for graph in bundle.manifest.graphs.values()
            for tensor in graph.inputs
            if tensor.name not in given
        }

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        backend: str = "onnxruntime",
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Pipeline:
        """Loads a bundle, or the bundle in a folder, which is verified.

        `backend` is one of `backends.BACKENDS`, or "auto" for the fastest measured one that runs
        here; the choice and its reason are logged. `threads` is the number of threads each graph
        runs on; None leaves it to the backend. `options` are what the backend's `load` takes
        beyond that, such as `{"precision": "default"}` for openvino. Raises InputError for less
        than one thread, BundleError or BackendError.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; expected 1 or more, or None for the default")
        if backend == AUTO:
            choice = fastest_backend()
            _LOG.info(choice.reason)
            backend = choice.name
        module = find_backend(backend)
        check_options(backend, module, options or {})
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle)
        engines = {
            stage: module.load(
                bundle.graph_path(stage), bundle.manifest.graphs[stage], threads, **(options or {})
            )
            for stage in STAGES
        }
        return cls(bundle, engines)

    @property
    def size(self) -> Size:
        """The bundle's image size."""
        return self.bundle.manifest.size

    def transfer(self, person: Person, garment_owner: Person) -> Transfer:
        """Puts the garment that `garment_owner` wears on `person`.

        Raises InputError when the garment owner wears no upper garment, BackendError when a graph
        fails.
        """
        return self.transfer_batch([person], [garment_owner])[0]

    def transfer_batch(
        self, people: Sequence[Person], garment_owners: Sequence[Person]
    ) -> list[Transfer]:
        """One transfer per pair, all pairs in one run of each graph; photos may differ in size.

        Raises InputError when the lists differ in length or a garment owner wears no upper
        garment, before anything is run.
        """
        if len(people) != len(garment_owners):
            raise InputError(
                f"{len(people)} people and {len(garment_owners)} garment owners; expected one "
                "garment owner per person: repeat an owner for each person who tries the garment on"
            )
        for index, owner in enumerate(garment_owners):
            owner.check_garment(f"garment owner {index}" if len(people) > 1 else "garment owner")
        if not people:
            return []

        timings: dict[str, float] = {}
        with _timed(timings, "fit"):
            pairs = [
                stage_inputs(person, owner, self.size)
                for person, owner in zip(people, garment_owners, strict=True)
            ]
            inputs = {name: np.stack([pair[name] for pair in pairs]) for name in self._inputs}
        outputs = self._run(inputs, timings)

        transfers = []
        for index, (person, owner) in enumerate(zip(people, garment_owners, strict=True)):
            own_timings = dict(timings)
            flow = outputs["flow"][index]
            with _timed(own_timings, "compose"):
                composed = compose(
                    person,
                    owner,
                    _fit(person, self.size),
                    _fit(owner, self.size),
                    image=outputs["image"][index],
                    transfer_parsing=outputs["transfer_parsing"][index],
                    warped_garment=outputs["warped_garment"][index],
                    flow=flow,
                )
            transfers.append(
                Transfer(
                    image=composed.image,
                    transfer_parsing=composed.parsing,
                    warped_garment=composed.warped_garment,
                    flow=flow,
                    timings=own_timings,
                )
            )
        return transfers

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Runs the graphs on arrays that are already at the bundle's size, moving bytes only.

        `inputs` are the six arrays of `bundle.contract` that no graph gives: `person_image`,
        `person_parsing`, `person_densepose`, `garment_image`, `garment_parsing` and
        `garment_densepose`, uint8 with one batch size N. Every graph's outputs come back by name:
        `transfer_parsing`, `warped_garment`, `flow` and `image`. Raises InputError for other
        names, types or shapes (values are taken on trust), BackendError when a graph fails.
        """
        self._check(inputs)
        return self._run(inputs, {})

    def _run(
        self, inputs: Mapping[str, npt.NDArray[Any]], timings: dict[str, float]
    ) -> dict[str, npt.NDArray[Any]]:
        values = dict(inputs)
        outputs = {}
        for stage in STAGES:
            engine = self._engines[stage]
            with _timed(timings, stage):
                given = engine.run({tensor.name: values[tensor.name] for tensor in engine.inputs})
            values.update(given)
            outputs.update(given)
        return outputs

    def _check(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        due = f"expected {', '.join(map(str, self._inputs.values()))}"
        if set(inputs) != set(self._inputs):
            raise InputError(
                f"the inputs are {', '.join(sorted(inputs)) or 'none'}; {due}: pass these and no "
                "others"
            )
        for name, tensor in self._inputs.items():
            array = inputs[name]
            if not isinstance(array, np.ndarray):
                raise InputError(
                    f"{name} is a {type(array).__name__}, not a numpy array; {due}: numpy.asarray "
                    "makes one"
                )
            if array.dtype != tensor.dtype or array.shape[1:] != tensor.shape[1:]:
                raise InputError(
                    f"{name} is {array.dtype} {list(array.shape)}; {due}: fit people "
                    "with pipeline.stage_inputs, or use Pipeline.transfer, which does"
                )
        batches = {name: len(array) for name, array in inputs.items()}
        if len(set(batches.values())) > 1:
            sizes = ", ".join(f"{name} {size}" for name, size in batches.items())
            raise InputError(f"batch sizes differ: {sizes}; expected one size for all inputs")


def stage_inputs(
    person: Person, garment_owner: Person, size: Size
) -> dict[str, npt.NDArray[np.uint8]]:
    """One pair fitted to `size` under the contract's names, without a batch axis.

    Stacked along a new first axis, pairs are what `Pipeline.run` takes.
    """
    inputs = {}
    for role, someone in (("person", person), ("garment", garment_owner)):
        fit = _fit(someone, size)
        inputs[f"{role}_image"] = fit.photo(someone.image)
        inputs[f"{role}_parsing"] = fit.map(someone.parsing)
        inputs[f"{role}_densepose"] = fit.map(someone.densepose)
    return inputs


def _fit(person: Person, size: Size) -> Fit:
    return Fit(Size(*person.parsing.shape), size)


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    nvtx = _nvtx()
    if nvtx:
        nvtx.push_range(name, domain="garment_transfer")
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[name] = 1000 * (time.perf_counter() - start)
        if nvtx:
            nvtx.pop_range(domain="garment_transfer")


@functools.cache
def _nvtx() -> Any:
    """The module whose ranges Nsight Systems shows; None where it is not installed."""
    try:
        import nvtx
    except ImportError:
        return None
    return nvtx
