"""The pipeline: a bundle's three graphs in a row, with fitting before and compositing after."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import STAGES, BackendError, Bundle, InputError, Size, Tensor
from garment_transfer.kernels.driver import (
    Array,
    CudaError,
    is_device_array,
)
from garment_transfer.runtime._choosing import AUTO, fastest_backend
from garment_transfer.runtime.backends import (
    DEVICE_BACKENDS,
    DeviceBackend,
    DeviceOptions,
    Engine,
    HostBackend,
    check_options,
    find_backend,
)
from garment_transfer.runtime.cuda import Chain, Session, handle_of
from garment_transfer.runtime.photos import Fit, Person, compose

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Transfer:
    """What a transfer gives.

    At the person's own size: `image` uint8 RGB [H,W,3], the person in the other's garment;
    `transfer_parsing` uint8 [H,W], its seven classes; `warped_garment` uint8 RGB [H,W,3], the
    garment as worn now and 0 around it. At the bundle's size: `flow` float32 [2,h,w], (dx, dy) in
    pixels: pixel p of the fitted person shows the garment owner's fitted photo at p + flow(p).

    `timings` are milliseconds for "fit", each stage ("chain" for all of them on a GPU, where they
    are one) and "compose". In a batch "compose" is the pair's own, and the others are those of the
    whole batch.
    """

    image: npt.NDArray[np.uint8]
    transfer_parsing: npt.NDArray[np.uint8]
    warped_garment: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.float32]
    timings: Mapping[str, float]


class Pipeline:
    """A bundle loaded into a backend. One pipeline may be used from several threads at once."""

    def __init__(self, bundle: Bundle, engines: Mapping[str, Engine] | Chain) -> None:
        """From an engine per stage or a chain of them; `Pipeline.load` is the usual way."""
        self.bundle = bundle
        self._chain = engines if isinstance(engines, Chain) else None
        self._engines = {} if isinstance(engines, Chain) else engines
        self._closed = False
        graphs = bundle.manifest.graphs.values()
        self._outputs = {tensor.name: tensor for graph in graphs for tensor in graph.outputs}
        # What no stage gives has to be given.
        self._inputs = {
            tensor.name: tensor
            for graph in graphs
            for tensor in graph.inputs
            if tensor.name not in self._outputs
        }

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        backend: str = "onnxruntime",
        threads: int | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        precision: str | None = None,
        device: int = DeviceOptions.device,
        sessions: int = DeviceOptions.sessions,
        graphs: bool = DeviceOptions.graphs,
        rebuild_if_needed: bool = DeviceOptions.rebuild_if_needed,
    ) -> Pipeline:
        """Loads a bundle, or the bundle in a folder, which is verified.

        Args:
            bundle: the bundle or its folder.
            backend: one of `backends.BACKENDS`, or "auto" for the fastest measured one that runs
                here; the choice and its reason are logged.
            threads: CPU threads each graph runs on; None leaves it to the backend.
            options: what a CPU's backend takes beyond that, such as
                `{"inference_precision": "default"}` for openvino.
            precision: "float32" or "float16", in which the bundle has to have graphs (and for
                TensorRT engines); None is the bundle's main one.
            device: CUDA's number of the GPU, where the backend uses one, as for what follows.
            sessions: how many transfers may be under way at once at most. Each has buffers of its
                own for one batch size, made when first needed; threads beyond wait.
            graphs: replay a transfer as one CUDA graph where the backend's engines can be captured.
            rebuild_if_needed: build TensorRT engines that are missing or do not fit.

        Raises InputError for less than one thread or session, BundleError, BackendError, or its
        subclass EngineError, which names the command that builds engines that fit.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; expected 1 or more, or None for the default")
        if sessions < 1:
            raise InputError(f"sessions is {sessions}; expected 1 or more")
        if backend == AUTO:
            choice = fastest_backend()
            _LOG.info(choice.reason)
            backend = choice.name
        found = find_backend(backend)
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle)
        if backend in DEVICE_BACKENDS:
            if options:
                raise BackendError(
                    f"backend {backend} has no option {', '.join(options)}; available: none"
                )
            on_device = DeviceOptions(
                precision, device, sessions, graphs, rebuild_if_needed, threads
            )
            return cls(bundle, cast(DeviceBackend, found).load(bundle, on_device))
        host = cast(HostBackend, found)
        check_options(backend, host, options or {})
        of_stage = bundle.manifest.graphs_of(precision)
        return cls(
            bundle,
            {
                stage: host.load(
                    bundle.graph_path(stage, precision),
                    of_stage[stage],
                    threads,
                    **(options or {}),
                )
                for stage in STAGES
            },
        )

    def close(self) -> None:
        """Frees what the pipeline holds on the GPU; transfers under way end first.

        A pipeline that is dropped frees it too. Closing twice does no harm.
        """
        self._closed = True
        self._engines = {}
        if self._chain is not None:
            self._chain.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def run(
        self,
        inputs: Mapping[str, Any],
        *,
        out: Mapping[str, Any] | None = None,
        stream: Any = 0,
    ) -> dict[str, Any]:
        """Runs the graphs on arrays that are already at the bundle's size, moving bytes only.

        `inputs` are the six arrays of `bundle.contract` that no graph gives: `person_image`,
        `person_parsing`, `person_densepose`, `garment_image`, `garment_parsing` and
        `garment_densepose`, uint8 with one batch size N. Every graph's outputs come back by name:
        `transfer_parsing`, `warped_garment`, `flow` and `image`, in new NumPy arrays.

        On a GPU the inputs may all be device arrays: anything with `__cuda_array_interface__` or
        DLPack (torch, CuPy, PyCUDA, Numba), contiguous, in the primary context of the pipeline's
        GPU. `out` then names device arrays for those outputs that are wanted; they come back, and
        the call returns at once: on the caller's `stream` (a handle as an int, or a stream object
        of these libraries) the transfer comes after what was queued before, and before what is
        queued next.

        Raises InputError for other names, types or shapes (values are taken on trust), arrays on
        another GPU or in another context; BackendError when a graph fails or after `close`.
        """
        if not any(_is_on_device(array) for array in inputs.values()) and out is None:
            self._check(inputs, self._inputs, "inputs")
            return self._run(inputs, {})
        if self._chain is None:
            raise InputError(
                "some inputs or outputs are not NumPy arrays, and this pipeline runs on the CPU; "
                "pass NumPy arrays, or load it for arrays on a GPU with one of the backends "
                f"{', '.join(DEVICE_BACKENDS)}"
            )
        if out is None:
            raise InputError(
                "the inputs are device arrays, and no `out` says where outputs go; expected device "
                f"arrays for some of {', '.join(map(str, self._outputs.values()))}"
            )
        handle = handle_of(stream)
        sources = self._on_device(inputs, self._inputs, "inputs", written=False)
        wanted = {name: tensor for name, tensor in self._outputs.items() if name in out}
        targets = self._on_device(out, wanted or self._outputs, "outputs", written=True)
        _check_batches({**sources, **targets})
        self._chain.run_on_device(sources, targets, handle)
        return dict(out)

    def session(
        self, batch: int = 1, timeout: float | None = None
    ) -> AbstractContextManager[Session]:
        """A session to write inputs straight into, on the GPU or in page-locked host memory.

            with pipeline.session(batch=4) as session:
                torch.as_tensor(session.inputs["person_image"], device="cuda").copy_(image)
                session.run(torch.cuda.current_stream())

        Waits while all sessions are in use, at most `timeout` seconds. Raises InputError on a
        pipeline of the CPU, BackendError when none came free, memory runs out or the pipeline is
        closed, EngineError for a batch size that the engines do not take.
        """
        if self._chain is None:
            raise InputError(
                "this pipeline runs on the CPU and has no sessions; load it with one of the "
                f"backends {', '.join(DEVICE_BACKENDS)}"
            )
        return self._chain.session(batch, timeout)

    def _run(
        self, inputs: Mapping[str, npt.NDArray[Any]], timings: dict[str, float]
    ) -> dict[str, npt.NDArray[Any]]:
        if self._chain is not None:
            with _timed(timings, "chain"):
                return self._chain.run(inputs)
        if self._closed:
            raise BackendError("the pipeline is closed; load it anew")
        values = dict(inputs)
        outputs = {}
        for stage in STAGES:
            engine = self._engines[stage]
            with _timed(timings, stage):
                given = engine.run({tensor.name: values[tensor.name] for tensor in engine.inputs})
            values.update(given)
            outputs.update(given)
        return outputs

    def _on_device(
        self, arrays: Mapping[str, Any], due: Mapping[str, Tensor], kind: str, *, written: bool
    ) -> dict[str, Array]:
        """The memory of device arrays, whose names, types, shapes and device are checked."""
        assert self._chain is not None
        device = self._chain.device
        found = {}
        for name, array in arrays.items():
            if not _is_on_device(array):
                raise InputError(
                    f"{name} is a {type(array).__name__}, and others are device arrays; expected "
                    f"all {kind} on the GPU: move it there first"
                )
            try:
                found[name] = device.array_of(name, array, written=written)
            except (TypeError, ValueError, CudaError) as error:
                raise InputError(str(error)) from error
            if found[name].device != device.index:
                raise InputError(
                    f"{name} is on GPU {found[name].device}, and the pipeline on {device.index}; "
                    "copy it there, or load the pipeline with `device=`"
                )
        self._check(found, due, kind)
        return found

    def _check(self, arrays: Mapping[str, Any], expected: Mapping[str, Tensor], kind: str) -> None:
        # made where it is needed alone: it takes longer than all of a transfer's other Python
        def refuse(what: str, mend: str) -> NoReturn:
            raise InputError(f"{what}; expected {', '.join(map(str, expected.values()))}: {mend}")

        if arrays.keys() != expected.keys():
            refuse(
                f"the {kind} are {', '.join(sorted(arrays)) or 'none'}", "pass these and no others"
            )
        for name, tensor in expected.items():
            array = arrays[name]
            if not isinstance(array, np.ndarray | Array):
                refuse(
                    f"{name} is a {type(array).__name__}, not a numpy array",
                    "numpy.asarray makes one",
                )
            if array.dtype != tensor.dtype or array.shape[1:] != tensor.shape[1:]:
                refuse(
                    f"{name} is {array.dtype} {list(array.shape)}",
                    "fit people with pipeline.stage_inputs, or use Pipeline.transfer, which does",
                )
        _check_batches(arrays)


def _is_on_device(array: Any) -> bool:
    # NumPy's arrays have DLPack too
    return is_device_array(array) and not isinstance(array, np.ndarray)


def _check_batches(arrays: Mapping[str, Any]) -> None:
    batches = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(batches.values())) > 1:
        sizes = ", ".join(f"{name} {size}" for name, size in batches.items())
        raise InputError(f"batch sizes differ: {sizes}; expected one size for all arrays")


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
