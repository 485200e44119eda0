"""Finished photos on the GPU: Fit before a session's engines and Compose after them.

Photos and maps are uploaded once, in one copy, and finished photos downloaded once; what lies
between is queued on the session's stream. Photos that a caller has on the GPU are read where they
are, and finished ones written where the caller wants them. Sizes of photos differ, so that these
are plain launches and no part of the captured graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import BackendError, Code, InputError
from garment_transfer.kernels.compose import Composed
from garment_transfer.kernels.driver import Array, OutOfMemory
from garment_transfer.kernels.fit import Fit
from garment_transfer.kernels.photos import Composing, Library
from garment_transfer.runtime.cuda._device import CudaDevice, aligned
from garment_transfer.runtime.photos import Person

Pixels = npt.NDArray[np.uint8]
_T = TypeVar("_T")

#: A session that had larger photos gives their memory back, in bytes on the GPU: that much is two
#: people at 24 megapixels, or three pairs at 12.
_KEPT: Final = 1 << 30


@dataclass(frozen=True, eq=False)
class Pair:
    """Two people, their fits, and a caller's arrays on the GPU: both photos and the finished one.

    Where `photo` or `owner_photo` is None, the GPU gets that of the person; the finished photo goes
    to `out` if there is one.
    """

    person: Person
    owner: Person
    fit: Fit
    owner_fit: Fit
    photo: Array | None
    owner_photo: Array | None
    out: Array | None

    @property
    def fitted_on_device(self) -> tuple[str, ...]:
        """Which photos the GPU fits: where things hide the garment, the host does more than that.

        They are called as in `arrays`.
        """
        photos = {"photo": self.person, "owner_photo": self.owner}
        return tuple(name for name, someone in photos.items() if someone.protected is None)

    @property
    def downloaded(self) -> int:
        """Bytes of the finished photo's classes, and of its colours unless they go to `out`."""
        return (4 if self.out is None else 1) * self.person.parsing.size

    @cached_property
    def arrays(self) -> dict[str, Pixels | Array | None]:
        """What Compose reads, by the names of its call; what is on the host is uploaded."""
        kept, owner = self.person.protected, self.owner
        # a caller's photo still has the arms in front of the garment
        worn = owner.garment if self.owner_photo else owner.worn_garment
        return {
            "photo": self.photo or self.person.image,
            "own": self.person.parsing,
            "owner_photo": self.owner_photo or owner.worn_image,
            "owner_garment": worn.view(np.uint8),
            "kept": None if kept is None else kept.view(np.uint8),
        }


class _Placed(NamedTuple):
    """A pair's arrays on the GPU, and where what is downloaded of its result begins."""

    pair: Pair
    arrays: dict[str, Array | None]
    output: int


class Photos:
    """The photos of a session's pairs: memory for them, as large as the largest so far, and a cap.

    `prepare` allocates; `upload`, `fit`, `compose` and `download` queue on the session's stream, in
    this order, and `finished` is for when that has happened. The device is active, and one thread
    at a time calls.
    """

    def __init__(self, device: CudaDevice, library: Library, stream: int) -> None:
        """On the stream of a session, whose resources `close` belongs to."""
        self._device = device
        self._library = library
        self._stream = stream
        self._on_host = _Growing(device.allocate_host, device.free_host)
        self._on_device = _Growing(device.allocate, device.free)
        self._workspace = _Growing(device.allocate, device.free)
        self._placed: list[_Placed] = []
        self._calls: list[Composing] = []
        self._inputs = self._outputs = 0  # bytes of each

    def prepare(self, pairs: Sequence[Pair], outputs: Sequence[Mapping[str, Array]]) -> None:
        """Makes memory for pairs, where there is too little, and puts their photos and maps there.

        `outputs` are the graphs' for each pair, without a batch axis. BackendError
        (`out_of_memory`) where there is not so much, InputError where a finished photo would be
        written over what is read; nothing is queued then.
        """
        arrays = [array for pair in pairs for array in pair.arrays.values()]
        uploaded = [array.nbytes for array in arrays if isinstance(array, np.ndarray)]
        self._inputs = sum(map(aligned, uploaded))
        self._outputs = sum(aligned(pair.downloaded) for pair in pairs)
        size = self._inputs + self._outputs
        on_device, on_host = self._on_device.reserve(size), self._on_host.reserve(size)
        self._placed = []
        at, output = 0, self._inputs
        for pair in pairs:
            placed: dict[str, Array | None] = {}
            for name, array in pair.arrays.items():
                if not isinstance(array, np.ndarray):
                    placed[name] = array
                    continue
                on_host[at : at + array.nbytes].reshape(array.shape)[:] = array
                placed[name] = Array(on_device + at, array.shape, "uint8", self._device.index)
                at += aligned(array.nbytes)
            self._placed.append(_Placed(pair, placed, output))
            output += aligned(pair.downloaded)
        self._calls = [
            self._composing(placed, graphs)
            for placed, graphs in zip(self._placed, outputs, strict=True)
        ]
        needed = [self._library.workspace(call) for call in self._calls]
        if not all(needed):
            raise InputError(
                Code.ARRAY_INVALID,
                "a finished photo would be written over a photo that is read",
                fix="give it memory of its own with `out=`",
            )
        # one after another, so that one workspace is enough
        self._workspace.reserve(max(needed))

    def _composing(self, placed: _Placed, graphs: Mapping[str, Array]) -> Composing:
        pair, arrays, output = placed
        pictures = {
            **arrays,
            "image": graphs["image"],
            "parsing": graphs["transfer_parsing"],
            "scores": graphs["transfer_scores"],
            "warped": graphs["warped_garment"],
        }
        image = parsing = self._on_device.memory + output
        if pair.out is None:
            parsing += 3 * pair.person.parsing.size
        else:
            image = pair.out.pointer
        fits, outputs = (pair.fit, pair.owner_fit), (image, parsing)
        return self._library.composing_on_device(pictures, fits, graphs["flow"].pointer, outputs)

    def upload(self) -> None:
        """Copies what is not there yet of photos and maps into the GPU's memory."""
        host = int(self._on_host.memory.ctypes.data)
        self._device.copy(self._on_device.memory, host, self._inputs, self._stream)

    def fit(self, inputs: Sequence[Mapping[str, Array]]) -> None:
        """Fits the photos into the graphs' inputs for each pair, which have no batch axis."""
        for (pair, arrays, _), graphs in zip(self._placed, inputs, strict=True):
            for name in pair.fitted_on_device:
                image = arrays[name]
                assert image is not None
                fit, role = (pair.fit, "person") if name == "photo" else (pair.owner_fit, "garment")
                out = graphs[f"{role}_image"].pointer
                self._library.fit_on_device(fit, image, out, self._stream)

    def compose(self) -> None:
        """Makes the finished photos of the graphs' outputs."""
        for call in self._calls:
            self._library.compose_on_device(call, self._workspace.memory, self._stream)

    def download(self) -> None:
        """Copies the finished photos back."""
        host, on_device = int(self._on_host.memory.ctypes.data), self._on_device.memory
        begin = self._inputs
        self._device.copy(host + begin, on_device + begin, self._outputs, self._stream)

    def finished(self) -> list[Composed]:
        """The finished photos, once the stream was waited for; large memory is given back.

        The image of one that went to `Pair.out` has no rows.
        """
        found = []
        for pair, _, output in self._placed:
            height, width = pair.person.parsing.shape
            both = self._on_host.memory[output : output + pair.downloaded].copy()
            image, parsing = np.split(both, [-height * width])
            image, parsing = image.reshape(-1, width, 3), parsing.reshape(height, width)
            found.append(Composed(image, parsing, None))
        self._placed, self._calls = [], []
        if self._on_device.size + self._workspace.size > _KEPT:
            self.close()
        return found

    def close(self) -> None:
        """Frees the memory; the device is active, and nothing is queued that uses it."""
        for memory in (self._on_host, self._on_device, self._workspace):
            memory.close()


class _Growing(Generic[_T]):
    """Memory that is made anew where more is needed, which loses what it held."""

    def __init__(self, allocate: Callable[[int], _T], free: Callable[[_T], None]) -> None:
        self._allocate, self._free = allocate, free
        self._memory: _T | None = None
        self.size = 0

    @property
    def memory(self) -> _T:
        assert self._memory is not None
        return self._memory

    def reserve(self, size: int) -> _T:
        if size > self.size:
            self.close()
            try:
                self._memory = self._allocate(size)
            except OutOfMemory as error:
                raise BackendError(
                    Code.OUT_OF_MEMORY,
                    f"the photos of a batch need {size / 2**20:.0f} MiB, and there is not so much",
                    fix="use a smaller batch or smaller photos, or fewer sessions (`sessions=`)",
                ) from error
            self.size = size
        return self.memory

    def close(self) -> None:
        if self._memory is not None:
            self._free(self._memory)
        self._memory, self.size = None, 0
