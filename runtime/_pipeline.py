"""The pipeline: a bundle's three graphs in a row, with fitting before and compositing after."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import ModuleType
from typing import Final, TypeGuard, TypeVar, overload

import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    CLASSES,
    FRAMING,
    NUM_PARTS,
    STAGES,
    BackendError,
    Bundle,
    Code,
    Framing,
    InputError,
    Size,
    Stage,
    Tensor,
    as_path,
    chained,
)
from garment_transfer.kernels.driver import (
    Array,
    CudaError,
    DeviceArrayLike,
    StreamLike,
    is_device_array,
)
from garment_transfer.runtime._maps import Maps
from garment_transfer.runtime.backends import (
    AUTO,
    DEVICE_BACKENDS,
    Arrays,
    HostEngine,
    choose_backend,
    find_backend,
)
from garment_transfer.runtime.cuda import Chain, Pair, Session, handle_of
from garment_transfer.runtime.photos import (
    Box,
    Composed,
    Fit,
    Person,
    check_plausible,
    compose,
    fit_person,
    uncovered,
)

_LOG: Final = logging.getLogger(__name__)

#: Somebody in a photo has at least this share of the bundle's height in pixels, 200 of 256, or the
#: networks see less than they could.
_SMALL: Final = 200 / 256

D = TypeVar("D", bound=DeviceArrayLike)

#: The photos of person and garment owner on a GPU; None for one that is on the host alone.
DevicePhotos = tuple[DeviceArrayLike | None, DeviceArrayLike | None]


@dataclass(frozen=True, eq=False)
class Transfer:
    """What a transfer gives.

    At the person's own size: `image` uint8 RGB [H,W,3], the person in the other's garment (where
    `out` took it, made on the CPU when it is asked for), and `transfer_parsing` uint8 [H,W], its
    seven classes. At the bundle's size: `flow` float32 [2,h,w],
    (dx, dy) in pixels: pixel p of the fitted person shows the garment owner's fitted photo at
    p + flow(p).

    `timings` are milliseconds for "fit", each stage ("chain" for all that runs on a GPU) and
    "compose" on the CPU. In a batch "compose" is the pair's own, the others are the whole batch's.
    """

    transfer_parsing: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.float32]
    timings: Mapping[str, float]
    _image: npt.NDArray[np.uint8] | None = field(repr=False)
    _compose: Callable[..., Composed] = field(repr=False)

    def __repr__(self) -> str:
        height, width = self.transfer_parsing.shape
        took = sum(self.timings.values())
        return f"<Transfer, {width}x{height} pixels in {took:.0f} ms>"

    @functools.cached_property
    def image(self) -> npt.NDArray[np.uint8]:
        """The finished photo, uint8 RGB [H,W,3]."""
        return self._compose().image if self._image is None else self._image

    @functools.cached_property
    def warped_garment(self) -> npt.NDArray[np.uint8]:
        """The garment as worn now, uint8 RGB [H,W,3], 0 around it; made when it is asked for."""
        garment = self._compose(with_garment=True).warped_garment
        assert garment is not None
        return garment


class Pipeline:
    """A bundle loaded into a backend. One pipeline may be used from several threads at once."""

    def __init__(self, bundle: Bundle, engines: Mapping[Stage, HostEngine] | Chain) -> None:
        """From an engine per stage or a chain of them; `Pipeline.load` is the usual way."""
        self.bundle = bundle
        self._chain = engines if isinstance(engines, Chain) else None
        self._engines = {} if isinstance(engines, Chain) else dict(engines)
        self._maps = functools.partial(Maps.load, bundle)
        self.backend = "the engines that were given"
        self._closed = False
        self._under_way = 0
        self._changed = threading.Condition()
        signature = chained(graph.signature for graph in bundle.manifest.graphs.values())
        self._inputs = {tensor.name: tensor for tensor in signature.inputs}
        self._outputs = {tensor.name: tensor for tensor in signature.outputs}

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        backend: str = "onnxruntime",
        *,
        precision: str | None = None,
        **options: object,
    ) -> Pipeline:
        """Loads a bundle, or the bundle in a folder, which is verified.

        Args:
            bundle: the bundle or its folder.
            backend: one of `backends.BACKENDS`, or "auto" for what `backends.choose_backend`
                chooses; the choice and its reason are logged.
            precision: "float32", "float16" or "int8", in which the bundle has to have graphs
                (and for TensorRT engines); None is the bundle's main one.
            options: those of the backend, by the fields of `Options` in its module:
                `threads` on a CPU, `device` and `sessions` on a GPU, and its own.

        Raises:
            InputError: an option has another type or is out of range.
            BundleError: the bundle is not valid, or has no graphs of that precision.
            BackendError: the backend is unknown, cannot run here, or has no such option.
            EngineError: a BackendError; names the command that builds engines that fit.
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle)
        if backend == AUTO:
            backend, reason = choose_backend(bundle, precision)
            _LOG.info("backend %s: %s", backend, reason)
        found = find_backend(backend)
        pipeline = cls(bundle, found.load(bundle, precision, options))
        pipeline.backend = backend
        pipeline._maps = functools.partial(Maps.load, bundle, backend, **options)
        return pipeline

    def close(self) -> None:
        """Frees what the pipeline holds once transfers under way have ended, which it waits for.

        A pipeline that is dropped frees it too. Closing twice does no harm.
        """
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._under_way)
        self._engines = {}
        if self._chain is not None:
            self._chain.close()

    def __repr__(self) -> str:
        manifest = self.bundle.manifest
        state = ", closed" if self._closed else ""
        return f"<Pipeline of {manifest.name} at {self.size} on {self.backend}{state}>"

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> Size:
        """The bundle's image size."""
        return self.bundle.manifest.size

    def fit(self, person: Person) -> Fit:
        """Where the photo of a person, framed by the bundle's rule, lies in the bundle's size.

        A warning is logged where the person is small.

        Raises:
            InputError: DensePose shows none of what the rule frames.
        """
        fit = fit_person(person.densepose, self.bundle.manifest.framing, self.size)
        least = round(_SMALL * self.size.height)
        if fit.box is not None and fit.box.height < 2 * least:
            rows = np.flatnonzero(person.densepose[..., 0].any(axis=1))
            height = int(rows[-1] - rows[0]) + 1
            if height < least:
                _LOG.warning(
                    "%s is %d pixels high in the photo; from %d on the picture is better",
                    person.name or "somebody",
                    height,
                    least,
                )
        return fit

    @functools.cached_property
    def maps(self) -> Maps:
        """What makes people of bare photos: the graph `maps` of the bundle, loaded when first used.

        Raises:
            BundleError: the bundle has none (`graph_missing`).
            BackendError: it cannot run here.
        """
        return self._maps()

    def person(
        self,
        source: str | os.PathLike[str],
        label_set: str | None = None,
        densepose_encoding: str | None = None,
        box: Box | None = None,
    ) -> Person:
        """A person of a folder with maps (`Person.load`), or of a bare photo (`Maps.person`)."""
        if as_path(source, "the person").is_file():
            return self.maps.person(source, box=box)
        return Person.load(source, label_set, densepose_encoding, box)

    def transfer(
        self,
        person: Person,
        garment_owner: Person,
        *,
        photos: DevicePhotos = (None, None),
        out: DeviceArrayLike | None = None,
        stream: StreamLike = 0,
    ) -> Transfer:
        """Puts the garment that `garment_owner` wears on `person`.

        On a GPU photos need not go through the host. `photos` are those of both people where they
        lie there already, the same pixels as `Person.image`; `out` is where the finished one goes.
        They are device arrays as `run` takes them, uint8 [H,W,3], read and written after what was
        queued on the caller's `stream`; when the call returns, that is done. They are taken as they
        are, with the arms in front of the garment (`Person.worn_image`). Maps are read and framed
        on the host. Where the CPU composes, its picture is copied to `out`.

        Raises:
            InputError: one of them is not seen upright and from the front, the garment owner wears
                no upper garment, the result cannot be right, which tells of wrong maps, or device
                arrays are not as said.
            BackendError: a graph fails, or the pipeline is closed.
        """
        outs = None if out is None else [out]
        return self.transfer_batch(
            [person], [garment_owner], photos=[photos], out=outs, stream=stream
        )[0]

    def transfer_batch(
        self,
        people: Sequence[Person],
        garment_owners: Sequence[Person],
        *,
        photos: Sequence[DevicePhotos] | None = None,
        out: Sequence[DeviceArrayLike] | None = None,
        stream: StreamLike = 0,
    ) -> list[Transfer]:
        """One transfer per pair, all pairs in one run of each graph; photos may differ in size.

        `photos` and `out` have an entry per pair, as of `transfer`.

        Raises:
            InputError: the lists differ in length, or as of `transfer`.
            BackendError: a graph fails, or the pipeline is closed.
        """
        if len(people) != len(garment_owners):
            raise InputError(
                Code.BATCH_INVALID,
                f"{len(people)} people and {len(garment_owners)} garment owners",
                expected="one garment owner per person",
                fix="repeat an owner for each person who tries the garment on",
            )
        for index, (person, owner) in enumerate(zip(people, garment_owners, strict=True)):
            for someone in (person, owner):
                if not isinstance(someone, Person):
                    raise InputError(
                        Code.ARRAY_INVALID,
                        f"a person is a {type(someone).__name__}",
                        expected="Person",
                        fix="Person.load(folder), Person.from_photo(file) and Person.from_arrays() "
                        "make one",
                    )
            number = f" {index}" if len(people) > 1 else ""
            person.check_view(f"person{number}")
            owner.check_view(f"garment owner{number}")
            owner.check_garment(f"garment owner{number}")
        if not people:
            return []
        given = self._given(people, garment_owners, photos, out)
        handle = None
        if self._chain is not None and any(array for arrays in given for array in arrays):
            handle = handle_of(self._chain.device, stream)
        timings: dict[str, float] = {}
        with self._open():
            with _timed(timings, "fit"):
                fits = [
                    (self.fit(person), self.fit(owner))
                    for person, owner in zip(people, garment_owners, strict=True)
                ]
            chosen = list(zip(people, garment_owners, fits, strict=True))
            finished: dict[int, Composed] = {}
            outputs: Mapping[str, npt.NDArray[np.generic]] = {}
            chain = self._chain
            on_device = {
                index: Pair(person, owner, *fit, *given[index])
                for index, (person, owner, fit) in enumerate(chosen)
                if chain is not None and chain.photos is not None and not fit[0].is_identity
            }
            if chain is not None and on_device:
                pairs = self._framed(chosen, on_device, timings)
                try:
                    with _timed(timings, "chain"), chain.held(len(pairs)) as session:
                        outputs, finished = session.transfer_photos(pairs, on_device, handle)
                except BackendError as error:
                    if error.code != Code.OUT_OF_MEMORY:
                        raise
                    _LOG.warning("photos are fitted and composed on the CPU: %s", error)
            if not outputs:
                pairs = self._framed(chosen, {}, timings)
                with _timed(timings, "fit"):
                    inputs = {name: np.stack([one[name] for one in pairs]) for name in self._inputs}
                outputs = self._run(inputs, timings)
        image, parsing, scores, garment = (
            np.asarray(outputs[name], np.uint8)
            for name in ("image", "transfer_parsing", "transfer_scores", "warped_garment")
        )
        flow = np.asarray(outputs["flow"], np.float32)
        for index, pair in enumerate(pairs):
            check_plausible(pair, parsing[index], f" {index}" if len(people) > 1 else "")
        transfers = []
        for index, (person, owner) in enumerate(zip(people, garment_owners, strict=True)):
            own_timings = dict(timings)
            with _timed(own_timings, "compose"):
                make = functools.partial(
                    compose,
                    person,
                    owner,
                    *fits[index],
                    image=image[index],
                    transfer_parsing=parsing[index],
                    transfer_scores=scores[index],
                    warped_garment=garment[index],
                    flow=flow[index],
                )
                composed = finished.get(index) or make()
                target = given[index][2]
                if target is not None and handle is not None and index not in finished:
                    assert chain is not None
                    chain.write(composed.image, target, handle)
            transfers.append(
                Transfer(
                    transfer_parsing=composed.parsing,
                    flow=flow[index],
                    timings=own_timings,
                    _image=composed.image if target is None else None,
                    _compose=make,
                )
            )
        return transfers

    @overload
    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]: ...

    @overload
    def run(
        self,
        inputs: Mapping[str, DeviceArrayLike],
        *,
        out: Mapping[str, D],
        stream: StreamLike = 0,
    ) -> dict[str, D]: ...

    def run(
        self,
        inputs: Arrays | Mapping[str, DeviceArrayLike],
        *,
        out: Mapping[str, D] | None = None,
        stream: StreamLike = 0,
    ) -> dict[str, npt.NDArray[np.generic]] | dict[str, D]:
        """Runs the graphs on arrays that are already at the bundle's size, moving bytes only.

        `inputs` are the six arrays of `bundle.contract` that no graph gives: `person_image`,
        `person_parsing`, `person_densepose`, `garment_image`, `garment_parsing` and
        `garment_densepose`, uint8 with one batch size N. Every graph's outputs come back by name:
        `transfer_parsing`, `transfer_scores`, `warped_garment`, `flow`, `flow_confidence` and
        `image`, in new NumPy arrays.

        On a GPU the inputs may all be device arrays: anything with `__cuda_array_interface__` or
        DLPack (torch, CuPy, PyCUDA, Numba), contiguous, in the primary context of the pipeline's
        GPU. `out` then names device arrays for some or all of the outputs; they come back, and
        the call returns at once: on the caller's `stream` (a handle as an int, or a stream object
        of these libraries) the transfer comes after what was queued before, and before what is
        queued next.

        Raises:
            InputError: other names, types or shapes, an empty batch, arrays on another GPU or in
                another context; in host memory also ids that do not exist (`id_out_of_range`), of
                which those on a GPU are taken on trust.
            BackendError: a graph fails, or the pipeline is closed.
        """
        if out is None and _all_on_host(inputs):
            _check(inputs, self._inputs, "inputs")
            _check_ids(inputs)
            with self._open():
                return self._run(inputs, {})
        chain = self._with_gpu()
        if out is None:
            raise InputError(
                Code.ARRAY_INVALID,
                "the inputs are device arrays, and no `out` says where outputs go",
                expected=f"device arrays for some of {', '.join(map(str, self._outputs.values()))}",
            )
        handle = handle_of(chain.device, stream)
        sources = _on_device(chain, inputs, self._inputs, "inputs")
        asked = {name: tensor for name, tensor in self._outputs.items() if name in out}
        targets = _on_device(chain, out, asked or self._outputs, "outputs")
        _check_batches({**sources, **targets})
        batch = next(iter(sources.values())).shape[0]
        with self._open(), chain.held(batch) as session:
            session.transfer_on_device(sources, targets, handle)
        return dict(out)

    def session(
        self, batch: int = 1, timeout: float | None = None
    ) -> AbstractContextManager[Session]:
        """A session to write inputs straight into, on the GPU or in page-locked host memory.

            with pipeline.session(batch=4) as session:
                torch.as_tensor(session.inputs["person_image"], device="cuda").copy_(image)
                session.run(torch.cuda.current_stream())

        Waits while all sessions are in use, at most `timeout` seconds; a thread that holds one
        does not wait for another.

        Raises:
            InputError: the pipeline runs on the CPU.
            BackendError: no session came free, memory runs out, or the pipeline is closed.
            EngineError: the engines do not take that batch size.
        """
        if self._chain is None:
            raise InputError(
                Code.ARGUMENT_INVALID,
                "this pipeline runs on the CPU and has no sessions",
                fix=f"load it with one of the backends {', '.join(DEVICE_BACKENDS)}",
            )
        return self._chain.session(batch, timeout)

    @contextmanager
    def _open(self) -> Iterator[None]:
        """The pipeline is not closed before the block ends. Raises BackendError if it is."""
        with self._changed:
            if self._closed:
                raise BackendError(
                    Code.PIPELINE_CLOSED, "the pipeline is closed", fix="load it again"
                )
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _framed(
        self,
        chosen: Sequence[tuple[Person, Person, tuple[Fit, Fit]]],
        on_device: Mapping[int, Pair],
        timings: dict[str, float],
    ) -> list[dict[str, npt.NDArray[np.uint8]]]:
        """The graphs' inputs for each pair, without the images that a GPU fits."""
        pairs = []
        with _timed(timings, "fit"):
            for index, (person, owner, (fit, owner_fit)) in enumerate(chosen):
                pair = on_device.get(index)
                there = pair.fitted_on_device if pair else ()
                # a caller's photo is taken as it is, and what the host fits of it is the same
                worn = owner.image if pair and pair.owner_photo else owner.worn_image
                pairs.append(
                    _fitted("person", person, person.image, fit, "photo" in there)
                    | _fitted("garment", owner, worn, owner_fit, "owner_photo" in there)
                )
        return pairs

    def _with_gpu(self) -> Chain:
        if self._chain is None:
            raise InputError(
                Code.ARRAY_INVALID,
                "this pipeline runs on the CPU, and takes no device arrays and no `out`",
                fix="pass NumPy arrays alone, or load it for a GPU with one of the backends "
                f"{', '.join(DEVICE_BACKENDS)}",
            )
        return self._chain

    def _given(
        self,
        people: Sequence[Person],
        owners: Sequence[Person],
        photos: Sequence[DevicePhotos] | None,
        out: Sequence[DeviceArrayLike] | None,
    ) -> list[tuple[Array | None, ...]]:
        """A caller's arrays on the GPU for each pair, checked: both photos, the finished one."""
        count = len(people)
        photos = [(None, None)] * count if photos is None else photos
        outs: Sequence[DeviceArrayLike | None] = [None] * count if out is None else out
        if len(photos) != count or len(outs) != count:
            raise InputError(
                Code.BATCH_INVALID,
                f"{count} pairs, {len(photos)} pairs of `photos` and {len(outs)} of `out`",
                expected="one for each",
            )
        return [
            tuple(
                None if array is None else self._photo_on_device(name, array, someone, kind)
                for name, array, someone, kind in (
                    ("the person's photo", photo, person, "photos"),
                    ("the garment owner's photo", owner_photo, owner, "photos"),
                    ("the finished photo", target, person, "outputs"),
                )
            )
            for person, owner, (photo, owner_photo), target in zip(
                people, owners, photos, outs, strict=True
            )
        ]

    def _photo_on_device(
        self, name: str, array: DeviceArrayLike, someone: Person, kind: str
    ) -> Array:
        found = _device_array(self._with_gpu(), name, array, kind)
        if found.dtype != "uint8" or found.shape != someone.image.shape:
            raise InputError(
                Code.ARRAY_INVALID,
                f"{name} is {found.dtype} {list(found.shape)}",
                expected=f"uint8 {list(someone.image.shape)}, as the host has it",
            )
        return found

    def _run(self, inputs: Arrays, timings: dict[str, float]) -> dict[str, npt.NDArray[np.generic]]:
        if self._chain is not None:
            batch = len(next(iter(inputs.values())))
            with _timed(timings, "chain"), self._chain.held(batch) as session:
                return session.transfer(inputs)
        values = dict(inputs)
        for stage in STAGES:
            engine = self._engines[stage]
            with _timed(timings, stage):
                values |= engine.run({t.name: values[t.name] for t in engine.signature.inputs})
        return {name: values[name] for name in self._outputs}


def _all_on_host(arrays: Arrays | Mapping[str, DeviceArrayLike]) -> TypeGuard[Arrays]:
    if not isinstance(arrays, Mapping):
        raise InputError(
            Code.ARRAY_INVALID,
            f"the inputs are a {type(arrays).__name__}",
            expected="arrays by name",
        )
    return not any(_is_on_device(array) for array in arrays.values())


def _is_on_device(array: object) -> TypeGuard[DeviceArrayLike]:
    # NumPy's arrays have DLPack too
    return is_device_array(array) and not isinstance(array, np.ndarray)


def _on_device(
    chain: Chain,
    arrays: Mapping[str, object],
    expected: Mapping[str, Tensor],
    kind: str,
) -> dict[str, Array]:
    """The memory of device arrays, whose names, types, shapes and device are checked."""
    found = {name: _device_array(chain, name, array, kind) for name, array in arrays.items()}
    _check(found, expected, kind)
    return found


def _device_array(chain: Chain, name: str, array: object, kind: str) -> Array:
    """The memory of a device array on the pipeline's GPU; `outputs` have to be writable."""
    device = chain.device
    if not _is_on_device(array):
        raise InputError(
            Code.ARRAY_INVALID,
            f"{name} is a {type(array).__name__}, and others are device arrays",
            expected=f"all {kind} on the GPU",
            fix="move it there first",
        )
    try:
        found = device.array_of(name, array, written=kind == "outputs")
    except (TypeError, ValueError, CudaError) as error:
        raise InputError(Code.ARRAY_INVALID, str(error)) from error
    if found.device != device.index:
        raise InputError(
            Code.ARRAY_INVALID,
            f"{name} is on GPU {found.device}, and the pipeline on {device.index}",
            fix="copy it there, or load the pipeline with `device=`",
        )
    return found


def _check(arrays: Arrays | Mapping[str, Array], expected: Mapping[str, Tensor], kind: str) -> None:
    """Raises InputError unless arrays have the names, types and shapes of tensors."""

    def invalid(what: str, fix: str) -> InputError:
        listed = ", ".join(map(str, expected.values()))
        return InputError(Code.ARRAY_INVALID, what, expected=listed, fix=fix)

    if arrays.keys() != expected.keys():
        raise invalid(
            f"the {kind} are {', '.join(sorted(arrays)) or 'none'}", "pass these and no others"
        )
    for name, tensor in expected.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray | Array):
            raise invalid(
                f"{name} is a {type(array).__name__}, not a numpy array", "numpy.asarray makes one"
            )
        if array.dtype != tensor.dtype or array.shape[1:] != tensor.shape[1:]:
            raise invalid(
                f"{name} is {array.dtype} {list(array.shape)}",
                "fit people with `stage_inputs`, or use `Pipeline.transfer`, which does",
            )
    _check_batches(arrays)


def _check_batches(arrays: Arrays | Mapping[str, Array]) -> None:
    batches = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(batches.values())) > 1 or not all(batches.values()):
        raise InputError(
            Code.BATCH_INVALID,
            f"the batch sizes are {', '.join(f'{n} {size}' for n, size in batches.items())}",
            expected="one size for all arrays, 1 or more",
        )


def _check_ids(arrays: Arrays) -> None:
    """Raises InputError for class ids or DensePose parts that no graph knows."""
    for role in ("person", "garment"):
        for name, ids, count in (
            (f"{role}_parsing", arrays[f"{role}_parsing"], len(CLASSES)),
            (f"{role}_densepose", arrays[f"{role}_densepose"][..., 0], NUM_PARTS),
        ):
            highest = int(np.asarray(ids, np.uint8).max())
            if highest >= count:
                raise InputError(
                    Code.ID_OUT_OF_RANGE,
                    f"{name} has the id {highest}",
                    expected=f"0 to {count - 1}",
                    fix="ids of a data set become classes by Person.from_arrays(..., label_set=)",
                )


def stage_inputs(
    person: Person, garment_owner: Person, size: Size, framing: Framing | None = FRAMING
) -> dict[str, npt.NDArray[np.uint8]]:
    """One pair fitted to `size` under the contract's names, without a batch axis.

    Stacked along a new first axis, pairs are what `Pipeline.run` takes.

    Args:
        person: who receives the garment.
        garment_owner: who wears it.
        size: of the bundle.
        framing: which part of each photo the networks see, by the bundle's manifest (the default is
            that of the shipped bundle); None for the whole photo.

    Raises:
        InputError: DensePose shows none of what the rule frames.
    """
    inputs: dict[str, npt.NDArray[np.uint8]] = {}
    for role, someone in (("person", person), ("garment", garment_owner)):
        if framing is None:
            fit = Fit(Size(*someone.parsing.shape), size)
        else:
            fit = fit_person(someone.densepose, framing, size)
        photo = someone.worn_image if role == "garment" else someone.image
        inputs |= _fitted(role, someone, photo, fit)
    return inputs


def _fitted(
    role: str, person: Person, photo: npt.NDArray[np.uint8], fit: Fit, on_device: bool = False
) -> dict[str, npt.NDArray[np.uint8]]:
    """Photo and maps of one person in the frame, by the contract's names.

    Where the GPU fits the photo, it is left out.
    """
    parsing = fit.map(person.parsing)
    maps = {f"{role}_parsing": parsing, f"{role}_densepose": fit.map(person.densepose)}
    if on_device:
        return maps
    image = fit.photo(photo)
    if person.protected is not None:
        image = uncovered(image, parsing, fit.map(person.protected.view(np.uint8)))
    return {f"{role}_image": image, **maps}


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    nvtx = _nvtx()
    with nvtx.annotate(name, domain="garment_transfer") if nvtx else nullcontext():
        start = time.perf_counter()
        try:
            yield
        finally:
            timings[name] = timings.get(name, 0) + 1000 * (time.perf_counter() - start)


@functools.cache
def _nvtx() -> ModuleType | None:
    """The module whose ranges Nsight Systems shows; None where it is not installed."""
    try:
        return importlib.import_module("nvtx")
    except ImportError:
        return None
