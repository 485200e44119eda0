"""Batches to train on: of photos, which is all that the method needs, and of transfers with truth.

A student of the method sees `Photos`: two people who have nothing to do with each other, each as
a data set shows them, and their garments in the shop. There is no field for what a transfer
between them should give, and no data set to take it from: the two are drawn on their own.

`Transfers` have that truth, which only rendering knows: a rendered group is two bodies in the same
two garments (`garment_transfer.training.synthetic`), so every person of it can receive a garment
and the result is known. Phases named `supervised-*` train on them, for comparison.
"""

import abc
import logging
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from garment_transfer.bundle import GARMENT, Code, InputError, replacing
from garment_transfer.runtime import Maps, sample_bundle
from garment_transfer.runtime.photos import PICTURE_SUFFIXES, Box, read_photo
from garment_transfer.training.synthetic import held_out_pair
from garment_transfer.training.synthetic.groups import (
    KEYS,
    SHOP_KEYS,
    VIEW_KEYS,
    Arrays,
    HeldOut,
    renderers,
    shard_paths,
)
from garment_transfer.training.synthetic.snapshots import View, take_photo

#: DensePose parts after a mirror: left and right change places (data conventions of I).
_MIRRORED = np.arange(256, dtype=np.uint8)
for _a in (3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23):
    _MIRRORED[[_a, _a + 1]] = _a + 1, _a
#: Parts whose U, and whose V, runs across the body and so turns round in a mirror; that of other
#: parts runs the same way on both sides.
_TURNED_U, _TURNED_V = (3, 4, 5, 6, 23, 24), (1, 2)

#: How often a sample is which kind. Mostly transfers; a garment given back to its wearer, and to
#: its wearer as photographed in another garment, teach that the same pose needs no change.
_KINDS = {"transfer": 0.72, "worn by both": 0.08, "own photo": 0.14, "own other photo": 0.06}

#: Names of the arrays of a group's built-in maps; see `write_built_in_maps`.
BUILT_IN_KEYS = ("built_in_parsing", "built_in_densepose")

#: How often a photo of the folder `backdrops` stands behind a person.
_BACKDROP_SHARE = 0.5

#: How often the owner of a pair of photos is the person, who gets their own garment back.
_OWN = 0.15


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What phases train on: tensors by name, with the batch as first axis."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The fields that are there."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def apply(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The batch of what a function makes of every field."""
        return type(self)(**{name: function(tensor) for name, tensor in self.tensors.items()})


@dataclass(frozen=True, kw_only=True)
class Snapshots(Fields):
    """Photos of people, rendered, and their true maps.

    `image` uint8 [N,H,W,3], `parsing` uint8 [N,H,W] and `densepose` uint8 [N,H,W,3] (IUV);
    parsing and part are `UNKNOWN` where a frame leaves its photo.
    """

    image: Tensor
    parsing: Tensor
    densepose: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch(Fields):
    """Pairs of photos with their maps: `person` receives what the owner of `garment` wears.

    `*_image` uint8 [N,H,W,3], `*_parsing` uint8 [N,H,W] and `*_densepose` uint8 [N,H,W,3] (IUV),
    maps as a parser draws them.
    """

    person_image: Tensor
    person_parsing: Tensor
    person_densepose: Tensor
    garment_image: Tensor
    garment_parsing: Tensor
    garment_densepose: Tensor

    @property
    def maps(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the graph `parsing` takes."""
        return (
            self.person_parsing,
            self.person_densepose,
            self.garment_parsing,
            self.garment_densepose,
        )

    @property
    def person(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the graph `regrowth` takes of the person."""
        return self.person_image, self.person_parsing, self.person_densepose

    @property
    def garment(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the graph `warping` takes of the garment's owner."""
        return self.garment_image, self.garment_parsing, self.garment_densepose


@dataclass(frozen=True, kw_only=True)
class Photos(Batch):
    """A batch of what a data set says of photos, and nothing of the transfer between the two:

    - `*_reference` uint8 [N,H,W], the parsing that counts as right for that photo: the renderer's
      own where the photo is rendered, else the parser's map once more;
    - `*_shop_image` uint8 [N,H,W,3] and `*_shop_mask` uint8 [N,H,W], the garment that the photo
      shows as the shop shows it; None where a data set has no shop;
    - `*_places` and `*_shop_places` float16 [N,3,H,W], which place of the cloth the photo and the
      shop's picture show (`garment_places` of the renderer), metres, 0 outside the garment. An
      annotation of one picture at a time, as a person could make it; None where a data set lacks
      it, as all public ones do;
    - `own` bool [N], where both are one photo of somebody who gets their own garment back: there
      alone the result is known, since it is that photo.
    """

    person_reference: Tensor
    garment_reference: Tensor
    own: Tensor
    person_shop_image: Tensor | None = None
    person_shop_mask: Tensor | None = None
    garment_shop_image: Tensor | None = None
    garment_shop_mask: Tensor | None = None
    person_places: Tensor | None = None
    person_shop_places: Tensor | None = None
    garment_places: Tensor | None = None
    garment_shop_places: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Transfers(Batch):
    """A batch with the truth of its transfers.

    `true_image` uint8 [N,H,W,3], `true_parsing` uint8 [N,H,W]; `true_flow` float32 [N,2,H,W] in
    pixels, where `flow_valid` uint8 [N,H,W] is positive; 2 is where the owner's photo shows the
    point. `rough_truth` is the true parsing as a parser would have drawn it. `true_places` and
    `garment_places` float16 [N,3,H,W] say which place of the cloth the truth and the owner's photo
    show, metres (`garment_places` of the renderer); 0 where there is no garment.
    """

    true_image: Tensor
    true_parsing: Tensor
    rough_truth: Tensor
    true_flow: Tensor
    flow_valid: Tensor
    true_places: Tensor
    garment_places: Tensor


_Kind = TypeVar("_Kind", Photos, Transfers, Snapshots)


class PhotoSet(Protocol):
    """Photos of people, each in their own garment.

    An item is a dictionary of arrays for one photo: `image`, `parsing`, `reference`, `densepose`;
    with a shop also `shop_image`, `shop_mask`; rendered also `places`, `shop_places`. Meaning and
    types as in `Photos`, without the batch axis. All have one size.
    """

    #: Whether every photo comes with its garment in the shop.
    has_shop: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Arrays: ...


def mirror(sample: Arrays) -> Arrays:
    """A sample seen in a mirror: sides of the body change places.

    U and V follow the symmetry of DensePose's charts; a map that has none stays without.
    """
    flipped = {}
    for name, array in sample.items():
        field = name.endswith(("flow", "places"))
        flipped[name] = np.flip(array, axis=2 if field else 1).copy()
        if field:
            flipped[name][0] *= -1
        elif name.endswith("densepose"):
            parts, u, v = np.moveaxis(flipped[name], -1, 0)
            if u.any() or v.any():
                for chart, turned in ((u, _TURNED_U), (v, _TURNED_V)):
                    across = np.isin(parts, turned)
                    chart[across] = 255 - chart[across]
            parts[...] = _MIRRORED[parts]
    return flipped


class Shards:
    """What a folder's shards (`write_shards`) hold, memory-mapped: arrays by key.

    Args:
        folder: where the shards are.
        keys: which arrays.
        axes: how many of their first axes items are counted along: 1 for groups.

    Raises:
        InputError: the folder holds no such shard.
    """

    def __init__(self, folder: Path, keys: Sequence[str] = KEYS, axes: int = 1) -> None:
        numbers = shards_in(folder, keys[0])
        if not numbers:
            raise InputError(
                Code.CONFIG_INVALID,
                f"{folder} holds no shards of rendered people ({keys[0]})",
                fix="`garment-transfer train` without --data renders them",
            )
        self._items: list[tuple[Arrays, tuple[int, ...]]] = []
        for number in numbers:
            files = shard_paths(folder, number, keys)
            arrays = {key: np.load(file, mmap_mode="r") for key, file in files.items()}
            self._items += [(arrays, at) for at in np.ndindex(*arrays[keys[0]].shape[:axes])]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Arrays:
        arrays, at = self._items[index]
        return {key: array[at] for key, array in arrays.items()}


def shards_in(folder: Path, key: str = KEYS[0]) -> list[int]:
    """The numbers of a folder's shards that have an array of a key, in order."""
    files = folder.glob(f"shard-*.{key}.npy")
    return sorted(int(file.name.split(".")[0].removeprefix("shard-")) for file in files)


class RenderedPhotos:
    """The people of a folder of shards, one photo each: a `PhotoSet`.

    That the same body stands there in another garment is nothing that a photo knows of. Where
    there are built-in maps, every photo is there twice: with rough maps and with these.
    """

    has_shop = True

    def __init__(self, folder: Path) -> None:
        built_in = shards_in(folder, BUILT_IN_KEYS[-1]) == shards_in(folder)
        self._kinds = ("rough", "built_in") if built_in else ("rough",)
        self._groups = Shards(folder, KEYS + built_in * BUILT_IN_KEYS)

    def __len__(self) -> int:
        return 4 * len(self._kinds) * len(self._groups)

    def __getitem__(self, index: int) -> Arrays:
        index, kind = divmod(index, len(self._kinds))
        maps = self._kinds[kind]
        group = self._groups[index // 4]
        body, garment = index // 2 % 2, index % 2
        worn = {
            "image": "image",
            "parsing": f"{maps}_parsing",
            "reference": "parsing",
            "densepose": f"{maps}_densepose",
            "places": "places",
        }
        photo = {name: group[key][body, garment] for name, key in worn.items()}
        return photo | {key: group[key][garment] for key in SHOP_KEYS}


def write_built_in_maps(folder: Path) -> None:
    """Add to shards of rendered groups the maps that the shipped graph `maps` makes of the photos.

    Arrays as the rough maps, which stay where the graph refuses a photo. Shards that have them are
    left alone.
    """
    maps = Maps.load(sample_bundle())
    for number in shards_in(folder):
        files = shard_paths(folder, number, BUILT_IN_KEYS)
        if all(file.is_file() for file in files.values()):
            continue
        images, *arrays = (
            np.load(folder / f"shard-{number:05d}.{key}.npy")
            for key in ("image", "rough_parsing", "rough_densepose")
        )
        for at in np.ndindex(*images.shape[:3]):
            if found := built_in_maps(maps, images[at], arrays[1][at]):
                arrays[0][at], arrays[1][at] = found
        for file, array in zip(files.values(), arrays, strict=True):
            with replacing(file) as temporary:
                np.save(temporary, array)


def built_in_maps(maps: Maps, photo: NDArray, densepose: NDArray) -> tuple[NDArray, NDArray] | None:
    """Parsing and DensePose that the graph `maps` makes of a photo; None where it refuses it.

    Args:
        maps: the graph.
        photo: uint8 RGB [H,W,3].
        densepose: uint8 IUV [H,W,3] of the person who is meant, where there are others too.
    """
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(densepose[..., 0]))
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of every doubtful map
    try:
        person = maps.person(np.ascontiguousarray(photo), box=Box(top, left, height, width))
    except InputError:
        return None
    finally:
        logging.disable(disabled)
    return person.parsing, person.densepose


def held_out_pairs(
    indices: Sequence[int], size: tuple[int, int], workers: int, held_out: HeldOut = "A"
) -> Iterator[Arrays]:
    """Pairs of a set of the held-out test in order, rendered by `workers` processes; 1 is this."""
    if workers == 1:
        yield from (held_out_pair(index, size, held_out) for index in indices)
        return
    with renderers(workers) as pool:
        try:
            n = len(indices)
            yield from pool.map(held_out_pair, indices, [size] * n, [held_out] * n, chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest


_Source = TypeVar("_Source", bound=Sized)


class Batches(abc.ABC, Generic[_Source, _Kind]):
    """Endless seeded batches of samples drawn from a source, whose length is theirs.

    The state is one generator, `random`, so a resumed training continues with the batches that a
    stopped one had not seen.
    """

    kind: type[_Kind]

    def __init__(self, source: _Source, batch: int, seed: int) -> None:
        self.source = source
        self.batch = batch
        self.random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[_Kind]:
        while True:
            samples = [self._draw() for _ in range(self.batch)]
            yield self.kind(
                **{k: torch.from_numpy(np.stack([s[k] for s in samples])) for k in samples[0]}
            )

    @abc.abstractmethod
    def _draw(self) -> Arrays:
        """One sample: the fields of a batch, without its axis."""


class PhotoBatches(Batches[PhotoSet, Photos]):
    """Pairs drawn from a set of photos.

    Person and owner are drawn on their own, each mirrored half the time, but for `_OWN` of the
    pairs, which are one photo twice.
    """

    kind = Photos

    def _draw(self) -> Arrays:
        person, owner = (int(i) for i in self.random.integers(len(self.source), size=2))
        mirrored = self.random.random(2) < 0.5
        if self.random.random() < _OWN:
            owner, mirrored[1] = person, mirrored[0]
        sample: Arrays = {"own": np.array(owner == person and mirrored[0] == mirrored[1])}
        for role, index, flip in zip(("person", "garment"), (person, owner), mirrored, strict=True):
            photo = self.source[index]
            if flip:
                photo = mirror(photo)
            sample |= {f"{role}_{name}": array for name, array in photo.items()}
        return sample


class SnapshotBatches(Batches[Shards, Snapshots]):
    """Photos taken of the views in shards, half of them mirrored, with somebody else at hand.

    Where a folder `backdrops` lies beside the shards, its photos, which show no people, stand
    behind `_BACKDROP_SHARE` of them.
    """

    kind = Snapshots

    def __init__(self, folder: Path, batch: int, seed: int, size: tuple[int, int]) -> None:
        super().__init__(Shards(folder, VIEW_KEYS, axes=2), batch, seed)
        self._size = size
        files = (folder / "backdrops").glob("*")
        self._backdrops = sorted(f for f in files if f.suffix.lower() in PICTURE_SUFFIXES)

    def _draw(self) -> Arrays:
        view, other = (self.source[int(i)] for i in self.random.integers(len(self.source), size=2))
        if self.random.random() < 0.5:
            view = mirror(view)
        backdrop = None
        if self._backdrops and self.random.random() < _BACKDROP_SHARE:
            backdrop = read_photo(self._backdrops[self.random.integers(len(self._backdrops))])
        photo = take_photo(_maps_of(view), _maps_of(other), self._size, self.random, backdrop)
        return dict(zip(("image", "parsing", "densepose"), photo, strict=True))


def _maps_of(view: Arrays) -> View:
    image, parsing, densepose = (np.asarray(view[key], np.uint8) for key in VIEW_KEYS)
    return image, parsing, densepose


class TransferBatches(Batches[Shards, Transfers]):
    """Transfers within rendered groups."""

    kind = Transfers

    def _draw(self) -> Arrays:
        group = self.source[int(self.random.integers(len(self.source)))]
        kind = self.random.choice(list(_KINDS), p=list(_KINDS.values()))
        body, garment = (int(v) for v in self.random.integers(2, size=2))
        person = (body, garment if kind in ("worn by both", "own photo") else 1 - garment)
        owner = (1 - body if kind in ("transfer", "worn by both") else body, garment)
        sample = sample_of(group, person, owner)
        return mirror(sample) if self.random.random() < 0.5 else sample


def sample_of(group: Arrays, person: tuple[int, int], owner: tuple[int, int]) -> Arrays:
    """One transfer of a group; person and owner as (body, garment). Fields as `Transfers`."""
    truth = (person[0], owner[1])
    flow, valid = group["flow"][truth].astype(np.float32), group["flow_valid"][truth]
    if owner[0] == person[0]:
        flow = np.zeros_like(flow)
        valid = np.where(group["parsing"][truth] == GARMENT, 2, 0).astype(np.uint8)
    return {
        "person_image": group["image"][person],
        "person_parsing": group["rough_parsing"][person],
        "person_densepose": group["rough_densepose"][person],
        "garment_image": group["image"][owner],
        "garment_parsing": group["rough_parsing"][owner],
        "garment_densepose": group["rough_densepose"][owner],
        "true_image": group["image"][truth],
        "true_parsing": group["parsing"][truth],
        "rough_truth": group["rough_parsing"][truth],
        "true_flow": flow,
        "flow_valid": valid,
        "true_places": group["places"][truth],
        "garment_places": group["places"][owner],
    }
