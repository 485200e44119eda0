"""The method's phases: each learns, none sees the truth of a transfer, any photos do."""

import dataclasses
import itertools
import shutil

import cv2
import numpy as np
import pytest
import torch

from garment_transfer.bundle import BACKGROUND, FACE, GARMENT, HAIR, LEGS, LOWER, SKIN, InputError
from garment_transfer.models.checkpoint import load_checkpoint, save_checkpoint
from garment_transfer.models.parsing import REASONED
from garment_transfer.models.presets import build_network
from garment_transfer.training.data import PhotoBatches, Photos, RenderedPhotos, Transfers
from garment_transfer.training.losses import (
    Content,
    _pyramid,
    content_loss,
    feature_loss,
    response_loss,
    shape_loss,
)
from garment_transfer.training.phases import (
    METHOD,
    PHASES,
    Knowledge,
    Weights,
    _teach,
    covering,
    erased,
)
from garment_transfer.training.photos import open_photos
from garment_transfer.training.synthetic.groups import SHOP_KEYS, shard_paths
from garment_transfer.training.trainer import TrainingConfig, TrainingError, open_data, train


def config(data, output, phase, **changes):
    return TrainingConfig(
        phase=phase, preset="lite", data=data, output=output, batch=2, average=0.5,
        **{"steps": 40 if "regrowth" in phase else 10, **changes},
    )  # fmt: skip


def networks():
    """Every network with fresh weights: the same ones each time."""
    torch.manual_seed(5)
    names = ("parsing", "warping", "regrowth", "try_on_parsing", "try_on_warping")
    return {name: build_network("lite", name) for name in names}


def loss_and_gradient(phase, batch, weights=None):
    fresh = networks()
    network = fresh[PHASES[phase].network].train()
    torch.manual_seed(6)  # what a loss draws
    loss, _, pictures = PHASES[phase].loss(network, batch, Knowledge(weights or Weights(), fresh))
    loss.backward()
    assert {picture.shape[:3] for picture in pictures()} == {batch.person_parsing.shape}
    return loss.item(), [p.grad for p in network.parameters() if p.grad is not None]


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A run folder with all phases of the method, a few steps each."""
    folder = tmp_path_factory.mktemp("run")
    for phase in METHOD:
        train(config(shards, folder, phase))
    return folder


@pytest.mark.parametrize("phase", list(PHASES))
def test_a_phase_lowers_its_loss(run, shards, tmp_path, phase):
    own = config(shards, tmp_path, phase)
    batches = list(itertools.islice(open_data(own), 4))
    result = run / f"{phase}.safetensors" if phase in METHOD else train(own)
    trained = load_checkpoint(result)[1]
    assert set(trained) == {PHASES[phase].network}
    learnt = {
        name: load_checkpoint(run / f"{source}.safetensors")[1][name]
        for name, source in (
            ("parsing", "self-study"),
            ("try_on_parsing", "try-on-parsing"),
            ("try_on_warping", "try-on-warping"),
        )
    }
    before = PHASES[phase].after
    if before:
        start = load_checkpoint(run / f"{before}.safetensors")[1]
    else:
        torch.manual_seed(own.seed)
        start = {PHASES[phase].network: build_network("lite", PHASES[phase].network)}

    def loss(network):
        torch.manual_seed(1)
        knowledge = Knowledge(Weights(), learnt)
        with torch.no_grad():
            return sum(PHASES[phase].loss(network.train(), b, knowledge)[0] for b in batches)

    (old,), (new,) = start.values(), trained.values()
    assert loss(new) < loss(old)


def test_the_checkpoint_has_the_last_result_of_every_stage(run):
    stages = load_checkpoint(run / "checkpoint.safetensors")[1]
    for stage, phase in (
        ("parsing", "self-study"), ("warping", "warping-joint"), ("regrowth", "regrowth")
    ):  # fmt: skip
        due = load_checkpoint(run / f"{phase}.safetensors")[1][stage].state_dict()
        for key, tensor in stages[stage].state_dict().items():
            assert torch.equal(tensor, due[key])
    assert set(stages) == {"parsing", "warping", "regrowth"}


# no truth


def test_a_batch_of_photos_has_no_field_for_the_truth():
    names = {field.name for field in dataclasses.fields(Photos)}
    assert not [name for name in names if "true" in name or "truth" in name or "flow" in name]
    truths = {field.name for field in dataclasses.fields(Transfers)} - names
    assert truths == {
        "true_image", "true_parsing", "rough_truth", "true_flow", "flow_valid", "true_places"
    }  # fmt: skip
    assert all(PHASES[phase].batch is Photos for phase in METHOD)


class Two:
    """Photos of two bodies in two garments; the truth of either transfer is rendered beside them.

    Of group 0, body 0 in garment 0 and body 1 in garment 1.
    """

    has_shop = True

    def __init__(self, folder):
        self.photos = RenderedPhotos(folder)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.photos[3 * index]


def poisoned(shards, folder):
    """The shards with everything ruined but the photos of `Two` and what is known of each alone."""
    folder.mkdir()
    for key, path in shard_paths(shards, 0).items():
        array = np.load(path)
        kept = np.zeros(array.shape, bool)
        if key in SHOP_KEYS:
            kept[0] = True
        elif key not in ("flow", "flow_valid"):
            kept[0, 0, 0] = kept[0, 1, 1] = True
        array[~kept] = np.nan if array.dtype.kind == "f" else 4
        np.save(folder / path.name, array)
    return folder


@pytest.mark.parametrize("phase", METHOD)
def test_no_truth_of_a_transfer_reaches_a_loss(shards, tmp_path, phase):
    ruined = poisoned(shards, tmp_path / "ruined")
    clean, other = (
        loss_and_gradient(phase, next(iter(PhotoBatches(Two(folder), 3, 0))))
        for folder in (shards, ruined)
    )
    assert np.isfinite(clean[0])
    assert clean[0] == other[0]
    assert clean[1]
    assert all(torch.equal(a, b) for a, b in zip(clean[1], other[1], strict=True))


@pytest.mark.parametrize("phase", METHOD)
def test_annotations_that_do_not_count_reach_no_loss(shards, phase):
    batch = next(iter(PhotoBatches(RenderedPhotos(shards), 3, 0)))
    places = [name for name in vars(batch) if name.endswith("places")]
    ruined = dataclasses.replace(
        batch, **{name: torch.full_like(getattr(batch, name), torch.nan) for name in places}
    )
    without = Weights(annotation=0)
    losses = [loss_and_gradient(phase, b, without)[0] for b in (batch, ruined)]
    assert np.isfinite(losses[0])
    assert losses[0] == losses[1]


def test_annotations_that_count_reach_the_losses(shards):
    batch = next(iter(PhotoBatches(RenderedPhotos(shards), 3, 0)))
    for phase, name in (
        ("try-on-parsing", "person_shop_places"),
        ("transfer-parsing", "garment_shop_places"),
        ("try-on-warping", "person_shop_places"),
        ("warping", "garment_places"),
    ):
        other = dataclasses.replace(batch, **{name: 0.8 * getattr(batch, name)})
        losses = [loss_and_gradient(phase, b)[0] for b in (batch, other)]
        assert losses[0] != losses[1], phase


def test_the_parsing_teacher_can_learn_from_a_batch_of_one(shards):
    batch = next(iter(PhotoBatches(RenderedPhotos(shards), 1, 0)))
    loss, gradient = loss_and_gradient("try-on-parsing", batch)
    assert np.isfinite(loss)
    assert any(g.abs().max() > 0 for g in gradient)


def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(shards, tmp_path):
    """A phase that is taught by the truth is ruined by what leaves the others alone."""
    ruined, run = poisoned(shards, tmp_path / "ruined"), tmp_path / "run"
    with pytest.raises(TrainingError, match=r"the loss is nan .* the batch is in"):
        train(config(ruined, run, "supervised-warping", steps=1))
    saved = torch.load(run / "supervised-warping.nan-batch.pt", weights_only=True)
    assert saved["true_flow"].isnan().any()
    assert not (run / "checkpoint.safetensors").exists()


# any photos


def test_real_people_run_the_phases_that_need_no_shop(real_samples, tmp_path):
    size = (64, 64)
    without = Weights(response=0, content=0)
    (tmp_path / "run").mkdir()
    start = {"parsing": build_network("lite", "parsing")}
    save_checkpoint(tmp_path / "run" / "transfer-parsing.safetensors", "lite", start)
    for phase in ("self-study", "aligning", "warping", "warping-joint", "regrowth"):
        train(config(real_samples, tmp_path / "run", phase, steps=1, size=size, weights=without))
    for phase in ("try-on-parsing", "transfer-parsing", "try-on-warping"):
        with pytest.raises(TrainingError, match=r"needs the garments in the shop.*cloth-mask"):
            train(config(real_samples, tmp_path / "run", phase, steps=1, size=size))
    with pytest.raises(TrainingError, match="set response to 0 to do without try_on_parsing"):
        train(config(real_samples, tmp_path / "other", "self-study", steps=1, size=size))


def test_all_problems_of_a_data_set_are_listed_at_once(viton, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(viton, broken)
    (broken / "cloth" / "000000_1.png").unlink()
    (broken / "densepose" / "000001_0.png").unlink()
    image = cv2.imread(str(broken / "image" / "000002_0.png"))
    cv2.imwrite(str(broken / "image" / "000002_0.png"), image[:32])
    ids = cv2.imread(str(broken / "image-parse" / "000003_0.png"), cv2.IMREAD_GRAYSCALE)
    ids[0, 0] = 19
    cv2.imwrite(str(broken / "image-parse" / "000003_0.png"), ids)
    (broken / "cloth-mask" / "000003_1.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as error:
        open_photos(broken)
    message = str(error.value)
    for problem in (
        "5 problems",
        "cloth/000000_1 or 000000_0.* is missing",
        "densepose/000001_0.* is missing",
        "image/000002_0.png is 32x64, most are 64x64",
        "cloth-mask/000003_1.png cannot be read",
        "000003_0.png has ids that label set classes7 does not have: 19",
    ):
        assert problem in message
    for meta, problem in (
        ('{"parse": "viton", "densepose": "iuv"}', "unknown name 'viton'; expected one of atr18"),
        ('{"parse": "classes7", "densepose": "guessed"}', "unknown name 'guessed'; expected one"),
        ("[]", "cannot be read"),  # also where assertions are off
    ):
        (broken / "meta.json").write_text(meta)
        with pytest.raises(InputError, match=rf"meta\.json:? {problem}"):
            open_photos(broken)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no photos"):
        open_photos(tmp_path / "empty")


def test_vitons_layout_comes_back_as_it_was_written(viton, shards):
    written, rendered = open_photos(viton), RenderedPhotos(shards)
    assert len(written) == 4
    for index in range(4):
        photo, due = written[index], rendered[index]
        for key in ("image", "parsing", "densepose", "shop_image", "shop_mask"):
            assert (photo[key] == due[key]).all(), key


# losses


def test_response_loss_is_least_at_the_teacher():
    torch.manual_seed(0)
    teacher = torch.randn(2, 4, 16, 16)
    person = torch.zeros(2, 16, 16, dtype=torch.uint8)
    person[:, :4] = HAIR
    # entropy and Dice are both least where the student is as sure as can be of the same
    sure = 20 * teacher
    least = response_loss(sure, sure, person)
    assert least < response_loss(sure + torch.randn_like(sure) * 20, sure, person)
    # what is kept does not count
    other = sure.clone()
    other[:, :, :4] = 5
    assert response_loss(other, sure, person) == least


def test_the_teacher_lets_a_garment_only_cover():
    logits = torch.randn(1, len(REASONED), 1, 5, generator=torch.Generator().manual_seed(0))
    parsing = torch.tensor([[[BACKGROUND, BACKGROUND, SKIN, LOWER, GARMENT]]], dtype=torch.uint8)
    densepose = torch.zeros(1, 1, 5, 3, dtype=torch.uint8)
    densepose[..., 1, 0] = 2  # a neck that the parser has not labelled
    possible = [
        {BACKGROUND, GARMENT},
        {BACKGROUND, SKIN, GARMENT},
        {SKIN, GARMENT},
        {LOWER, GARMENT},
        set(REASONED),
    ]
    shares = torch.softmax(covering(logits, parsing, densepose), dim=1)[0, :, 0]
    for column, labels in enumerate(possible):
        at = [REASONED.index(label) for label in labels]
        torch.testing.assert_close(
            shares[at, column], torch.softmax(logits[0, at, 0, column], dim=0)
        )


def test_the_teacher_teaches_nothing_else(shards):
    batch = next(iter(PhotoBatches(RenderedPhotos(shards), 8, 0)))
    taught = _teach(batch, Knowledge(networks=networks()))
    shares = torch.softmax(taught.logits, dim=1)
    given_back = batch.own[:, None, None].expand_as(batch.person_parsing)
    for label, never in ((SKIN, (BACKGROUND, LOWER)), (LOWER, (BACKGROUND, SKIN))):
        own = (batch.person_parsing == label) & ~given_back
        assert own.any()
        for other in never:
            assert shares[:, REASONED.index(other)][own].max() < 1e-9
    # of somebody's own garment their photo is the answer
    assert given_back.any()
    for i, label in enumerate(REASONED):
        assert shares[:, i][(batch.person_reference == label) & given_back].min() > 0.99


def test_feature_loss_compares_where_not_which_channel():
    torch.manual_seed(0)
    maps = [torch.randn(2, 8, 16, 16), torch.randn(2, 4, 8, 8)]
    assert feature_loss(maps, [m.flip(1).repeat(1, 3, 1, 1) for m in maps]) == pytest.approx(
        0, abs=1e-6
    )
    assert feature_loss(maps, [m.flip(2) for m in maps]) > 0.01


def test_levels_of_content_are_means_over_what_is_known():
    rng = np.random.default_rng(2)
    image = rng.random((2, 6, 32, 64)).astype(np.float32)
    mask = (rng.random((2, 1, 32, 64)) < 0.3).astype(np.float32)
    mask[:, :, :8, :8] = 0
    levels = _pyramid(Content(torch.from_numpy(image * mask), torch.from_numpy(mask)), 4)
    assert list(levels) == [16, 8, 4]
    for height, (values, shares) in levels.items():
        side = 32 // height
        known = mask.reshape(2, 1, height, side, -1, side).sum(axis=(3, 5))
        total = (image * mask).reshape(2, 6, height, side, -1, side).sum(axis=(3, 5))
        np.testing.assert_allclose(shares.numpy(), known / side**2, atol=1e-6)
        np.testing.assert_allclose(values.numpy(), total / np.maximum(known, 1e-6), atol=1e-5)


def test_content_and_shape_are_least_where_the_flow_is_right(still):
    image = torch.zeros(1, 6, 64, 64)
    image[:, 3] = torch.arange(64) * 0.04  # places: a ramp to the right
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48] = 1
    target = Content(image.roll(-8, dims=3) * mask.roll(-8, dims=3), mask.roll(-8, dims=3))
    source = Content(image * mask, mask)
    losses = [content_loss(still(64, shift), source, target)[0] for shift in (0, 8, 16)]
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]
    shapes = [shape_loss(still(64, s), mask, target.mask) for s in (0, 8, 16)]
    assert shapes[1] == pytest.approx(0, abs=1e-5)
    assert min(shapes[0], shapes[2]) > 0.2
    # on either side of the right flow the gradient leads towards it
    for shift, sign in ((4, -1), (12, 1)):
        flows = still(64, shift)
        flows.levels[-1].requires_grad_()
        content_loss(flows, source, target)[0].backward()
        assert sign * flows.levels[-1].grad[:, 0].sum() > 0


def test_erasing_leaves_what_no_sleeve_covers(shards):
    batch = next(iter(PhotoBatches(RenderedPhotos(shards), 8, 3)))
    for kind in ("garments", "rectangles"):
        torch.manual_seed(0)
        parsing, image = erased(batch, Knowledge(Weights(erasing=kind)))
        changed = parsing != batch.person_parsing
        assert (parsing[changed] == GARMENT).all()
        assert changed[batch.person_parsing == SKIN].any()
        for label in (HAIR, FACE, LEGS, GARMENT):
            assert not changed[batch.person_parsing == label].any()
        hands = (batch.person_densepose[..., 0] == 3) | (batch.person_densepose[..., 0] == 4)
        assert not changed[hands].any()
        assert (image[~changed] == batch.person_image[~changed]).all()
