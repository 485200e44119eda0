"""Samples of rendered groups: which person is which, and what a mirror does."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from garment_transfer.bundle import GARMENT, InputError
from garment_transfer.runtime import Maps, sample_bundle
from garment_transfer.runtime.photos import Person
from garment_transfer.training.data import (
    BUILT_IN_KEYS,
    RenderedPhotos,
    Shards,
    SnapshotBatches,
    TransferBatches,
    mirror,
    sample_of,
    write_built_in_maps,
)
from garment_transfer.training.synthetic import (
    build_figure,
    render_person,
    single_recipe,
    training_group,
    write_shards,
)


def _warp_error(sample):
    """Mean absolute difference, in grey levels, of the owner's photo moved by the true flow."""
    height, width = sample["true_parsing"].shape
    xs, ys = np.meshgrid(np.arange(width), np.arange(height))
    map_x = (xs + sample["true_flow"][0]).astype(np.float32)
    map_y = (ys + sample["true_flow"][1]).astype(np.float32)
    moved = cv2.remap(sample["garment_image"], map_x, map_y, cv2.INTER_LINEAR)
    visible = sample["flow_valid"] == 2
    return np.abs(moved.astype(float) - sample["true_image"])[visible].mean()


@pytest.fixture(scope="module")
def group():
    return training_group(3, (128, 96))


@pytest.mark.parametrize(
    ("person", "owner"),
    [((0, 0), (1, 1)), ((1, 1), (0, 0)), ((0, 1), (1, 1)), ((0, 0), (0, 0)), ((1, 0), (1, 1))],
)
def test_the_true_flow_moves_the_owners_garment_onto_the_truth(group, person, owner):
    sample = sample_of(group, person, owner)
    flipped = mirror(sample)
    # the light of the two photos differs
    assert _warp_error(sample) < 35
    assert _warp_error(flipped) == pytest.approx(_warp_error(sample), abs=1.0)
    wrong = {**sample, "true_flow": sample["true_flow"] + 12}
    assert _warp_error(wrong) > _warp_error(sample)


def test_the_truth_is_the_person_in_the_owners_garment(group):
    sample = sample_of(group, (0, 0), (1, 1))
    assert (sample["person_image"] == group["image"][0, 0]).all()
    assert (sample["garment_image"] == group["image"][1, 1]).all()
    assert (sample["true_image"] == group["image"][0, 1]).all()
    assert (sample["true_parsing"] == group["parsing"][0, 1]).all()


def test_a_mirror_changes_sides_and_twice_is_the_same(group):
    sample = sample_of(group, (0, 0), (1, 1))
    flipped = mirror(sample)
    left, right = (sample["person_densepose"][..., 0] == part for part in (3, 4))
    assert ((flipped["person_densepose"][..., 0] == 4) == np.flip(left, axis=1)).all()
    assert ((flipped["person_densepose"][..., 0] == 3) == np.flip(right, axis=1)).all()
    twice = mirror(flipped)
    for name, array in sample.items():
        np.testing.assert_array_equal(twice[name], array)


def _mirrored_body(body):
    """The same body as a mirror shows it."""
    right, left = (
        replace(arm, jitter=(-arm.jitter[0], *arm.jitter[1:])) for arm in reversed(body.arms)
    )
    turn, tilt, nod = body.head
    return replace(
        body,
        arms=(right, left),
        turn=-body.turn,
        lean=(-body.lean[0], body.lean[1]),
        hips=-body.hips,
        legs=(body.legs[0], -body.legs[1]),
        head=(-turn, -tilt, nod),
        light=(-body.light[0], *body.light[1:]),
    )


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_mirrored_map_is_the_map_of_the_mirrored_body(index):
    body, garment, _ = single_recipe(0, index)
    body = replace(body, frame=(0.6, 0.02, 0.0), shot=replace(body.shot, things=(), strangers=()))
    figure, other = build_figure(body), build_figure(_mirrored_body(body))
    other = replace(other, height=figure.height, origin=(-figure.origin[0], figure.origin[1]))
    wide = {"photo": (np.inf, -np.inf, -np.inf, np.inf)}
    seen, expected = (
        render_person(f.body, garment, figure=replace(f, **wide)).densepose for f in (figure, other)
    )
    found = mirror({"densepose": seen})["densepose"]
    same = found[..., 0] == expected[..., 0]
    assert same[(found[..., 0] > 0) | (expected[..., 0] > 0)].mean() > 0.97
    for part in np.unique(expected[..., 0])[1:]:
        there = same & (expected[..., 0] == part)
        if there.sum() >= 80:
            difference = np.abs(found[there].astype(int) - expected[there])[:, 1:]
            assert difference.mean(axis=0).max() < 10, part


def _slopes(densepose, part):
    """Slope of U and V across and down the picture, [2, 2], of one part; None where it is small."""
    y, x = np.nonzero(densepose[..., 0] == part)
    if len(x) < 300:
        return None
    axes = np.stack([np.ones(len(x)), x, y], axis=1)
    return np.linalg.lstsq(axes, densepose[y, x, 1:].astype(float), rcond=None)[0][1:]


def test_a_real_map_in_the_mirror_looks_like_a_real_map(real_samples):
    """Every part of a mirrored person runs as the same part of somebody who is not mirrored."""
    people = [Person.load(real_samples / name) for name in ("viton_000174_0", "viton_000240_0")]
    compared = 0
    for one in people:
        flipped = mirror({"densepose": one.densepose})["densepose"]
        for other in people:
            for part in range(1, 25):
                a, b = _slopes(flipped, part), _slopes(other.densepose, part)
                if a is None or b is None:
                    continue
                clear = (np.abs(a) > 0.8) & (np.abs(b) > 0.8)
                assert (np.sign(a) == np.sign(b))[clear].all(), part
                compared += int(clear.sum())
    assert compared > 60


def test_a_map_without_u_and_v_stays_without():
    parts = np.tile(np.arange(25, dtype=np.uint8), (4, 1))
    iuv = np.stack([parts, np.zeros_like(parts), np.zeros_like(parts)], axis=-1)
    assert not mirror({"densepose": iuv})["densepose"][..., 1:].any()


def test_batches_are_seeded(shards):
    groups = Shards(shards)
    first, again, other = (next(iter(TransferBatches(groups, 4, seed))) for seed in (1, 1, 2))
    assert (first.person_image == again.person_image).all()
    assert (first.person_image != other.person_image).any()
    assert first.true_flow.shape == (4, 2, 64, 64)
    assert ((first.flow_valid > 0) <= (first.true_parsing == GARMENT)).all()


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no shards"):
        Shards(tmp_path)


def test_photos_come_with_rough_maps_and_with_built_in_ones(tmp_path):
    write_shards(tmp_path, 1, (128, 96), workers=1)
    assert len(RenderedPhotos(tmp_path)) == 4
    write_built_in_maps(tmp_path)
    files = [tmp_path / f"shard-00000.{key}.npy" for key in BUILT_IN_KEYS]
    written = [file.stat().st_mtime_ns for file in files]
    write_built_in_maps(tmp_path)
    assert [file.stat().st_mtime_ns for file in files] == written
    photos, maps, seen = RenderedPhotos(tmp_path), Maps.load(sample_bundle()), 0
    assert len(photos) == 8
    for index in range(4):
        rough, built_in = photos[2 * index], photos[2 * index + 1]
        for name in ("image", "reference", "places", "shop_image"):
            assert (rough[name] == built_in[name]).all()
        try:
            person = maps.person(np.ascontiguousarray(rough["image"]))
        except InputError:
            person = Person(rough["image"], rough["parsing"], rough["densepose"])
        else:
            seen += 1
        assert (built_in["parsing"] == person.parsing).all()
        assert (built_in["densepose"] == person.densepose).all()
    assert seen


def test_photos_beside_the_shards_stand_behind_half_of_the_people(shards, tmp_path):
    batches = []
    for level in (0, 255):
        folder = tmp_path / str(level)
        (folder / "backdrops").mkdir(parents=True)
        (folder / "backdrops" / "a note.txt").write_text("not a photo")
        cv2.imwrite(str(folder / "backdrops" / "wall.png"), np.full((90, 120, 3), level, np.uint8))
        for file in shards.glob("*.view_*.npy"):
            (folder / file.name).symlink_to(file)
        batches.append(iter(SnapshotBatches(folder, 8, 0, (64, 64))))
    brighter = []
    for _ in range(10):
        dark, light = (next(batch) for batch in batches)
        assert torch.equal(dark.parsing, light.parsing)
        difference = light.image.float().mean(dim=3) - dark.image.float().mean(dim=3)
        brighter += [d[p == 0].mean() > 60 for d, p in zip(difference, dark.parsing, strict=True)]
    assert 0.35 < np.mean(brighter) < 0.65
