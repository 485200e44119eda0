"""Batches of transfers with truth from rendered groups.

A group is two bodies in the same two garments (`garment_transfer.training.synthetic`), so every
person of it can receive a garment and the result is known.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from garment_transfer.runtime.errors import InputError
from garment_transfer.runtime.labels import GARMENT
from garment_transfer.training.synthetic import held_out_pair
from garment_transfer.training.synthetic.groups import KEYS, one_thread, shard_paths

#: DensePose parts after a mirror: left and right change places (data conventions of I).
_MIRRORED = np.arange(256, dtype=np.uint8)
for _a in (3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23):
    _MIRRORED[[_a, _a + 1]] = _a + 1, _a

#: How often a sample is which kind. Mostly transfers; a garment given back to its wearer, and to
#: its wearer as photographed in another garment, teach that the same pose needs no change.
_KINDS = {"transfer": 0.72, "worn by both": 0.08, "own photo": 0.14, "own other photo": 0.06}


@dataclass(frozen=True)
class Transfers:
    """A batch; maps as the graph contract has them, rough, and the truth beside them.

    uint8 [N,H,W,3] images and IUV, uint8 [N,H,W] parsings; `true_flow` float32 [N,2,H,W] in
    pixels, where `flow_valid` uint8 [N,H,W] is positive; 2 is where the owner's photo shows the
    point. `rough_truth` is the true parsing as a parser would have drawn it. `true_places` and
    `garment_places` float16 [N,3,H,W] say which place of the cloth the truth and the owner's photo
    show, metres (`garment_places` of the renderer); 0 where there is no garment.
    """

    person_image: Tensor
    person_parsing: Tensor
    person_densepose: Tensor
    garment_image: Tensor
    garment_parsing: Tensor
    garment_densepose: Tensor
    true_image: Tensor
    true_parsing: Tensor
    rough_truth: Tensor
    true_flow: Tensor
    flow_valid: Tensor
    true_places: Tensor
    garment_places: Tensor

    def to(self, device: torch.device) -> "Transfers":
        """The same batch on `device`."""
        return Transfers(**{k: v.to(device, non_blocking=True) for k, v in vars(self).items()})


def mirror(sample: dict[str, NDArray]) -> dict[str, NDArray]:
    """A sample seen in a mirror: sides of the body change places.

    U and V of a part do not mirror simply, so a mirrored map carries its parts alone, as many
    real ones do.
    """
    flipped = {}
    for name, array in sample.items():
        axis = 2 if name in ("true_flow", "true_places", "garment_places") else 1
        flipped[name] = np.flip(array, axis=axis).copy()
    for name in ("person_densepose", "garment_densepose"):
        flipped[name][..., 0] = _MIRRORED[flipped[name][..., 0]]
        flipped[name][..., 1:] = 0
    for name in ("true_flow", "true_places", "garment_places"):
        flipped[name][0] *= -1
    return flipped


class Groups:
    """The groups of a folder of shards (`write_shards`), memory-mapped.

    Raises:
        InputError: the folder holds no shard.
    """

    def __init__(self, folder: Path) -> None:
        numbers = sorted(
            int(path.name.split(".")[0].removeprefix("shard-"))
            for path in folder.glob("shard-*.image.npy")
        )
        if not numbers:
            raise InputError(
                f"{folder} holds no shards of rendered groups; `garment-transfer train` without "
                "--data renders them"
            )
        self._shards = [
            {key: np.load(path, mmap_mode="r") for key, path in shard_paths(folder, n).items()}
            for n in numbers
        ]
        self._index = [
            (shard, group)
            for shard, arrays in enumerate(self._shards)
            for group in range(len(arrays["image"]))
        ]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict[str, NDArray]:
        """The arrays of one group, as `render_group` gives them."""
        shard, group = self._index[index]
        return {key: self._shards[shard][key][group] for key in KEYS}


def held_out_pairs(
    indices: Sequence[int], size: tuple[int, int], workers: int
) -> Iterator[dict[str, NDArray]]:
    """Pairs of the held-out test in order, rendered by `workers` processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=one_thread) as pool:
        try:
            yield from pool.map(held_out_pair, indices, [size] * len(indices), chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest


class TransferBatches:
    """Endless seeded batches over the shards of a folder.

    The state is one generator, so a resumed training continues with the batches that a stopped
    one had not seen.
    """

    def __init__(self, folder: Path, batch: int, seed: int) -> None:
        self.groups = Groups(folder)
        self.batch = batch
        self.random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[Transfers]:
        while True:
            samples = [self._draw() for _ in range(self.batch)]
            yield Transfers(
                **{k: torch.from_numpy(np.stack([s[k] for s in samples])) for k in samples[0]}
            )

    def _draw(self) -> dict[str, NDArray]:
        group = self.groups[int(self.random.integers(len(self.groups)))]
        kind = self.random.choice(list(_KINDS), p=list(_KINDS.values()))
        body, garment = (int(v) for v in self.random.integers(2, size=2))
        person = (body, garment if kind in ("worn by both", "own photo") else 1 - garment)
        owner = (1 - body if kind in ("transfer", "worn by both") else body, garment)
        sample = sample_of(group, person, owner)
        return mirror(sample) if self.random.random() < 0.5 else sample


def sample_of(
    group: dict[str, NDArray], person: tuple[int, int], owner: tuple[int, int]
) -> dict[str, NDArray]:
    """One transfer of a group; person and owner as (body, garment). Fields as `Transfers`."""
    truth = (person[0], owner[1])
    if owner[0] == person[0]:
        flow = np.zeros_like(group["flow"][truth], dtype=np.float32)
        valid = np.where(group["parsing"][truth] == GARMENT, 2, 0).astype(np.uint8)
    else:
        flow = group["flow"][truth].astype(np.float32)
        valid = group["flow_valid"][truth]
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
