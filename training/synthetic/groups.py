"""Groups of people with every truth that training needs, and the held-out test as seeds."""

import contextlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from garment_transfer.bundle import Code, InputError, replacing
from garment_transfer.training.synthetic.people import (
    HELD_OUT,
    HELD_OUT_B,
    TRAIN,
    Body,
    Distribution,
    Garment,
    sample_body,
    sample_garment,
)
from garment_transfer.training.synthetic.render import (
    Rendered,
    build_figure,
    garment_places,
    paint,
    render_person,
    render_shop,
    true_flow,
)
from garment_transfer.training.synthetic.rough import roughen
from garment_transfer.training.synthetic.views import render_view, view_size

Arrays = dict[str, NDArray[np.generic]]

#: Names of the arrays of a group's garments in the shop; see `training_group`.
SHOP_KEYS: Final = ("shop_image", "shop_mask", "shop_places")
#: Names of all arrays of a group.
KEYS: Final[tuple[str, ...]] = (
    "image",
    "parsing",
    "rough_parsing",
    "rough_densepose",
    "flow",
    "flow_valid",
    "places",
    *SHOP_KEYS,
)
#: Names of the arrays of a group's views; see `training_views`.
VIEW_KEYS: Final[tuple[str, ...]] = ("view_image", "view_parsing", "view_densepose")
SHARD_GROUPS: Final = 64
#: Pairs of each set of the held-out test.
HELD_OUT_PAIRS: Final = 256
HeldOut = Literal["A", "B"]
HELD_OUT_SETS: Final[dict[HeldOut, Distribution]] = {"A": HELD_OUT, "B": HELD_OUT_B}
#: First spawn key of each use, so that no two draw from one stream.
_TRAIN_STREAM, _HELD_OUT_STREAM, _ROUGH_STREAM, _SINGLE_STREAM, _VIEW_STREAM = 1, 2, 3, 4, 5


def sample_group(
    seed: int, distribution: Distribution = TRAIN
) -> tuple[tuple[Body, Body], tuple[Garment, Garment]]:
    """The recipe of group `seed` of a distribution, without rendering."""
    stream = _TRAIN_STREAM if distribution.name == "train" else _HELD_OUT_STREAM
    rng = distribution.rng(stream, seed)
    bodies = sample_body(rng, distribution), sample_body(rng, distribution)
    first = sample_garment(rng, distribution)
    # Two of three pairs change the sleeves: that is where arms appear and vanish.
    other = first.sleeve if rng.random() < 0.66 else None
    return bodies, (first, sample_garment(rng, distribution, other_than=other))


def training_group(index: int, size: tuple[int, int] = (256, 192)) -> Arrays:
    """Group `index` (0 or more) of the training stream.

    Two bodies in two garments each: four people and four transfers with their truth; and both
    garments as a shop shows them.

    Returns:
        Arrays indexed [body, garment, ...]: `image` uint8 [2, 2, H, W, 3] RGB; `parsing` uint8
        [2, 2, H, W] clean; `rough_parsing` uint8 [2, 2, H, W]; `rough_densepose` uint8
        [2, 2, H, W, 3] IUV; `flow` float16 [2, 2, 2, H, W], from the person of that index to the
        other body in the same garment, (dx, dy) in pixels; `flow_valid` uint8 [2, 2, H, W]:
        0 no garment, 1 hidden in the source, 2 visible there; `places` float16 [2, 2, 3, H, W],
        see `garment_places`. Of the shop, indexed [garment, ...]: `shop_image` uint8
        [2, H, W, 3] RGB, `shop_mask` uint8 [2, H, W] of 0 and 1, `shop_places` float16
        [2, 3, H, W].
    """
    bodies, garments = sample_group(index)
    figures = [build_figure(body, size) for body in bodies]
    atlases = [paint(garment, size) for garment in garments]
    people = [
        [render_person(b, g, size, f, a) for g, a in zip(garments, atlases, strict=True)]
        for b, f in zip(bodies, figures, strict=True)
    ]
    photos: list[Arrays] = []
    for b, g in np.ndindex(2, 2):
        person = people[b][g]
        rng = TRAIN.rng(_ROUGH_STREAM, index, b, g)
        parsing, densepose = roughen(person, rng, TRAIN.roughness)
        flow, valid = true_flow(person, people[1 - b][g])
        photos.append(
            {
                "image": person.image,
                "parsing": person.parsing,
                "rough_parsing": parsing,
                "rough_densepose": densepose,
                "flow": flow.astype(np.float16),
                "flow_valid": valid,
                "places": garment_places(person).astype(np.float16),
            }
        )
    shops = [render_shop(garment, size) for garment in garments]
    return {
        **{
            key: np.stack([photo[key] for photo in photos]).reshape(2, 2, *array.shape)
            for key, array in photos[0].items()
        },
        "shop_image": np.stack([shop.image for shop in shops]),
        "shop_mask": np.stack([shop.mask for shop in shops]).astype(np.uint8),
        "shop_places": np.stack([shop.places for shop in shops]).astype(np.float16),
    }


def render_single(
    seed: int, index: int, size: tuple[int, int] = (256, 192)
) -> tuple[Rendered, np.random.Generator]:
    """Person `index` of a seeded series of single people of the training distribution.

    Returns:
        The person, and a generator to `roughen` it with.
    """
    body, garment, rng = single_recipe(seed, index)
    return render_person(body, garment, size), rng


def single_recipe(seed: int, index: int) -> tuple[Body, Garment, np.random.Generator]:
    """What `render_single` renders, and the generator that it returns."""
    rng = TRAIN.rng(_SINGLE_STREAM, seed, index)
    return sample_body(rng), sample_garment(rng), rng


def training_views(index: int, size: tuple[int, int] = (256, 192)) -> Arrays:
    """Four people of the training distribution, who have nothing to do with each other.

    Returns:
        Arrays [4, ...] of `view_size(size)`, as `render_view` gives them: `view_image` uint8
        [4, h, w, 3], `view_parsing` uint8 [4, h, w], `view_densepose` uint8 [4, h, w, 3].
    """
    views = [render_view(TRAIN.rng(_VIEW_STREAM, index, k), size) for k in range(4)]
    return {
        key: np.stack(maps) for key, maps in zip(VIEW_KEYS, zip(*views, strict=True), strict=True)
    }


def held_out_recipe(index: int, held_out: HeldOut = "A") -> tuple[Body, Body, Garment, Garment]:
    """Person A, owner B, A's own garment, B's garment of held-out pair `index` of a set."""
    if not 0 <= index < HELD_OUT_PAIRS:
        raise IndexError(f"held-out pairs are numbered 0 to {HELD_OUT_PAIRS - 1}, not {index}")
    (a, b), (own, theirs) = sample_group(index, HELD_OUT_SETS[held_out])
    return a, b, own, theirs


def held_out_pair(
    index: int, size: tuple[int, int] = (256, 192), held_out: HeldOut = "A"
) -> Arrays:
    """One transfer of a set of the held-out test: A in their own garment receives what B wears.

    Returns:
        The inputs of the graph contract, `person_image`, `garment_image` uint8 [H, W, 3],
        `person_parsing`, `garment_parsing` uint8 [H, W] (rough), `person_densepose`,
        `garment_densepose` uint8 [H, W, 3] (rough); and the truth: `true_image` uint8 [H, W, 3]
        and `true_parsing` uint8 [H, W] of A in B's garment, `true_flow` float32 [2, H, W] from it
        into `garment_image`, `flow_valid` uint8 [H, W] (0, 1 hidden, 2 visible),
        `person_true_parsing` uint8 [H, W] and `garment_true_parsing` uint8 [H, W] (clean),
        `true_places` and `garment_places` float32 [3, H, W], which place of the cloth
        `true_image` and `garment_image` show, see `garment_places`.
    """
    a, b, own, theirs = held_out_recipe(index, held_out)
    distribution = HELD_OUT_SETS[held_out]
    figure = build_figure(a, size)
    person = render_person(a, own, size, figure)
    atlas = paint(theirs, size)
    truth = render_person(a, theirs, size, figure, atlas)
    owner = render_person(b, theirs, size, None, atlas)
    flow, valid = true_flow(truth, owner)
    (parsing, densepose), (owner_parsing, owner_densepose) = (
        roughen(r, distribution.rng(_ROUGH_STREAM, index, k), distribution.roughness)
        for k, r in enumerate((person, owner))
    )
    return {
        "person_image": person.image,
        "person_parsing": parsing,
        "person_densepose": densepose,
        "garment_image": owner.image,
        "garment_parsing": owner_parsing,
        "garment_densepose": owner_densepose,
        "true_image": truth.image,
        "true_parsing": truth.parsing,
        "true_flow": flow,
        "flow_valid": valid,
        "person_true_parsing": person.parsing,
        "garment_true_parsing": owner.parsing,
        "true_places": garment_places(truth),
        "garment_places": garment_places(owner),
    }


def renderers(workers: int) -> ProcessPoolExecutor:
    """Processes to render in."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)


def _one_thread() -> None:
    """Several renderers share the cores, so each keeps to one."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def shard_paths(folder: Path, shard: int, keys: Sequence[str] = KEYS) -> dict[str, Path]:
    """The files of a shard, one `.npy` per key."""
    return {key: folder / f"shard-{shard:05d}.{key}.npy" for key in keys}


def write_shards(
    folder: Path,
    count: int,
    size: tuple[int, int] = (256, 192),
    workers: int = 2,
    views: bool = False,
) -> None:
    """Render training groups 0 to `count` - 1 into files that a training loop memory-maps.

    A shard is `SHARD_GROUPS` groups; each key is one `.npy` with the group as first axis
    (`np.load(path, mmap_mode="r")`). Files appear whole or not at all, and a shard that is there
    is not rendered again.

    Args:
        folder: where the shards go.
        count: groups.
        size: (H, W) in pixels.
        workers: processes that render; 1 renders in this one.
        views: render `training_views` instead, which lie beside the others.
    """
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    render, keys, shape = training_group, KEYS, size
    if views:
        render, keys, shape = training_views, VIEW_KEYS, view_size(size)
    missing = []
    for shard, first in enumerate(range(0, count, SHARD_GROUPS)):
        indices = range(first, min(first + SHARD_GROUPS, count))
        if not _complete(folder, shard, keys, len(indices), shape):
            missing.append((shard, indices))
    total = sum(len(indices) for _, indices in missing)
    with (
        tqdm(total=total, desc="rendering", disable=None if missing else True) as bar,
        renderers(workers) if workers > 1 and missing else contextlib.nullcontext() as pool,
    ):
        for shard, indices in missing:
            sizes = [size] * len(indices)
            results = pool.map(render, indices, sizes) if pool else map(render, indices, sizes)
            rendered = []
            for arrays in results:
                rendered.append(arrays)
                bar.update()
            for key, path in shard_paths(folder, shard, keys).items():
                with replacing(path) as temporary:
                    np.save(temporary, np.stack([arrays[key] for arrays in rendered]))


def _complete(
    folder: Path, shard: int, keys: Sequence[str], length: int, size: tuple[int, int]
) -> bool:
    """Whether every file of a shard is there and holds at least `length` groups."""
    paths = shard_paths(folder, shard, keys)
    if not all(path.exists() for path in paths.values()):
        return False
    # images come first; what is written last is whole only where all is
    images, last = (np.load(paths[key], mmap_mode="r") for key in (keys[0], keys[-1]))
    found = images.shape[-3:-1]
    if found != tuple(size):
        raise InputError(
            Code.CONFIG_INVALID,
            f"{paths[keys[0]]} holds pictures of {found}, not {size}",
            fix="use another folder",
        )
    return len(last) >= length
