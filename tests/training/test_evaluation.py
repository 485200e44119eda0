"""Figures of the evaluation against values worked out by hand or by another library."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from garment_transfer.bundle import GARMENT, SKIN, STAGES, Bundle, Size, chained, contract
from garment_transfer.models.checkpoint import load_checkpoint
from garment_transfer.models.presets import build_network, shipped_checkpoint
from garment_transfer.runtime import Pipeline, sample_bundle
from garment_transfer.runtime.backends import find_backend
from garment_transfer.runtime.photos import Composed, Person
from garment_transfer.training.evaluation import (
    FlowScore,
    Networks,
    Score,
    _best_affine,
    _small_flow,
    _true_flow,
    border_figures,
    cases,
    cycle,
    evaluate_borders,
    evaluate_real,
    flow_round_trip,
    give_back,
    places_error,
    regrown_skin,
    similarity_map,
    skin_figures,
)
from garment_transfer.training.losses import places_loss


def _labels():
    labels = np.zeros((32, 32), np.uint8)
    labels[4:20, 4:20] = GARMENT
    labels[20:28, 4:12] = SKIN
    return labels


def test_a_perfect_transfer():
    image = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    score = Score()
    score.add(image, _labels(), image, _labels())
    row = score.row("x")
    assert row["garment_iou"] == row["skin_iou"] == 1
    assert row["changed_ssim"] == pytest.approx(1)
    assert row["garment_psnr_db"] > 100


def test_intersections_are_summed_before_they_are_divided():
    labels = _labels()
    absent = np.zeros_like(labels)
    image = np.zeros((32, 32, 3), np.uint8)
    score = Score()
    score.add(image, labels, image, labels)
    score.add(image, labels, image, absent)
    # 256 garment pixels right, 256 where there is none
    assert score.row("x")["garment_iou"] == pytest.approx(0.5)
    # an image without the class changes nothing when none is inferred
    score.add(image, absent, image, absent)
    assert score.row("x")["garment_iou"] == pytest.approx(0.5)


def test_psnr_inside_the_true_garment_alone():
    truth = np.full((32, 32, 3), 100, np.uint8)
    image = np.full((32, 32, 3), 250, np.uint8)
    image[_labels() == GARMENT] = 110
    score = Score()
    score.add(image, _labels(), truth, _labels())
    assert score.row("x")["garment_psnr_db"] == pytest.approx(20 * np.log10(255 / 10))


def test_iou_of_every_class_that_occurs():
    labels, truth = _labels(), _labels()
    labels[4:12, 4:20] = SKIN  # half of the garment, taken for skin
    score = Score()
    score.add_labels(labels, truth)
    assert score.ious() == pytest.approx({"background": 1.0, "garment": 0.5, "skin": 64 / 192})
    row = score.row("x")
    assert row["mean_iou"] == pytest.approx((1 + 0.5 + 64 / 192) / 3)
    assert row["iou_skin"] == row["skin_iou"] == pytest.approx(64 / 192)
    assert "iou_hair" not in row


def test_skin_error_counts_what_was_regrown_alone():
    truth = np.full((32, 32, 3), 100, np.uint8)
    image = truth.copy()
    own = _labels()
    own[20:24, 4:12] = GARMENT  # the upper half of the skin was covered before
    image[20:24, 4:12] = 130
    image[24:28, 4:12] = 0
    image[24:28, 20:] = 0
    score = Score()
    score.add(image, _labels(), truth, _labels(), own)
    assert score.row("x")["skin_error"] == pytest.approx(30)
    none = Score()
    none.add(image, _labels(), truth, _labels(), _labels())
    assert "skin_error" not in none.row("x")


def test_cases_are_the_best_the_middle_and_the_worst():
    scores = [0.1 * i for i in (3, 9, 0, 6, 1, 8, 5, 2, 7, 4)]
    assert [round(10 * scores[i]) for i in cases(scores, 2)] == [9, 8, 5, 4, 1, 0]
    assert cases([0.2, 0.9, 0.5]) == [1, 2, 0]
    assert cases([]) == []


def test_a_cycle_that_gives_the_garment_back_whole(make_person):
    owner, person = make_person(128, 64, seed=0), make_person(128, 64, seed=1)

    class Perfect:
        def transfer(self, person, wearer):
            assert wearer.image is there.image or (wearer.image == there.image).all()
            return SimpleNamespace(image=owner.image)

    there = SimpleNamespace(image=person.image, transfer_parsing=person.parsing)
    assert cycle(Perfect(), owner, there, person) == pytest.approx(1)
    there.transfer_parsing = np.where(person.parsing == GARMENT, SKIN, person.parsing)
    there.transfer_parsing = there.transfer_parsing.astype(np.uint8)
    assert cycle(Perfect(), owner, there, person) == 0


def test_a_neck_that_the_parser_left_out_does_not_count_against_arms():
    image = np.random.default_rng(0).integers(256, size=(128, 64, 3), dtype=np.uint8)
    parsing, densepose = np.zeros((128, 64), np.uint8), np.zeros((128, 64, 3), np.uint8)
    parsing[40:80, 20:44] = GARMENT
    densepose[30:80, 20:44, 0] = 2  # the torso, neck included
    arm = np.s_[40:60, 10:20]
    densepose[(*arm, 0)] = 16
    parsing[arm] = SKIN

    def given_back(labels):
        transfer = SimpleNamespace(image=image, transfer_parsing=labels)
        return give_back(transfer, Person(image, parsing, densepose))

    labels = parsing.copy()
    labels[30:40, 20:44] = SKIN
    found = given_back(labels)
    assert found["arms_iou"] == found["garment_iou"] == 1
    assert found["skin_iou"] == pytest.approx(200 / 440)
    labels[40:60, 10:15] = 0
    assert given_back(labels)["arms_iou"] == pytest.approx(0.5)
    labels[arm] = parsing[arm] = 0
    assert "arms_iou" not in given_back(labels)


def test_networks_run_as_the_graphs_do():
    random = np.random.default_rng(0)
    tensors = chained(contract(Size(256, 192)).values()).inputs
    inputs = {t.name: random.integers(7, size=t.shape_of(1), dtype=np.uint8) for t in tensors}
    _, networks = load_checkpoint(shipped_checkpoint("lite"))
    found = Networks({stage: networks[stage] for stage in STAGES}).run(inputs)
    due = Pipeline.load(sample_bundle(), threads=1).run(inputs)
    assert {k: (x.shape, x.dtype) for k, x in found.items()} == {
        k: (x.shape, x.dtype) for k, x in due.items()
    }
    assert (np.abs(found["image"].astype(int) - due["image"]) <= 1).mean() > 0.999


def test_similarity_agrees_with_the_formula():
    random = np.random.default_rng(1)
    a = random.integers(256, size=(40, 36, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + random.integers(-40, 40, size=a.shape), 0, 255).astype(np.uint8)
    x, y = (v.astype(np.float64) / 255 for v in (a, b))

    def blur(v):
        return cv2.GaussianBlur(v, (11, 11), 1.5)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    due = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    inner = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(similarity_map(a, b)[inner], due.mean(axis=2)[inner], atol=1e-4)


def test_the_best_affine_finds_an_affine():
    random = np.random.default_rng(2)
    image = cv2.GaussianBlur(random.integers(256, size=(64, 48, 3), dtype=np.uint8), (9, 9), 3)
    matrix = np.array([[1.1, 0.1, -4.0], [-0.05, 0.9, 3.0]])
    xs, ys = np.meshgrid(np.arange(48), np.arange(64))
    sx = matrix[0, 0] * xs + matrix[0, 1] * ys + matrix[0, 2]
    sy = matrix[1, 0] * xs + matrix[1, 1] * ys + matrix[1, 2]
    labels = np.zeros((64, 48), np.uint8)
    labels[20:40, 15:35] = GARMENT
    pair = {
        "garment_image": image,
        "garment_parsing": np.full((64, 48), GARMENT, np.uint8),
        "true_flow": np.stack([sx - xs, sy - ys]).astype(np.float32),
        "flow_valid": (labels == GARMENT).astype(np.uint8),
    }
    due = cv2.remap(image, sx.astype(np.float32), sy.astype(np.float32), cv2.INTER_LINEAR)
    found = _best_affine(pair)
    np.testing.assert_allclose(found[labels == GARMENT], due[labels == GARMENT], atol=3)


def test_the_true_flow_moves_whole_pixels():
    random = np.random.default_rng(3)
    image = random.integers(256, size=(24, 20, 3), dtype=np.uint8)
    flow = np.zeros((2, 24, 20), np.float32)
    flow[0], flow[1] = 3, -2
    valid = np.zeros((24, 20), np.uint8)
    valid[6:12, 4:10] = 2
    parsing = np.full((24, 20), GARMENT, np.uint8)
    pair = {
        "garment_image": image,
        "garment_parsing": parsing,
        "true_flow": flow,
        "flow_valid": valid,
    }
    moved = _true_flow(pair)
    np.testing.assert_array_equal(moved[6:12, 4:10], image[4:10, 7:13])
    np.testing.assert_array_equal(moved[0, 0], image.reshape(-1, 3).mean(axis=0).round())


def _flow_pair(having_uv):
    """A pair without people: a true flow of 0 that holds for the left half, and U, V as told."""
    valid = np.zeros((64, 64), np.uint8)
    valid[:, :32] = 2
    valid[:, 32:40] = 1
    random = np.random.default_rng(0)
    pair = {"true_flow": np.zeros((2, 64, 64), np.float32), "flow_valid": valid}
    for role, has in zip(("person", "garment"), having_uv, strict=True):
        pair[f"{role}_densepose"] = np.zeros((64, 64, 3), np.uint8)
        pair[f"{role}_densepose"][..., 0] = 2
        pair[f"{role}_densepose"][5, 5, 1] = 9 * has
        pair[f"{role}_parsing"] = np.full((64, 64), GARMENT, np.uint8)
        pair[f"{role}_image"] = random.integers(256, size=(64, 64, 3), dtype=np.uint8)
    places = random.normal(size=(3, 64, 64)).astype(np.float32)
    return pair | {"true_places": places, "garment_places": places[:, ::-1].copy()}


def test_flow_errors_by_maps_that_have_u_and_v():
    score = FlowScore()
    for shift, having_uv in enumerate(
        [(True, True), (True, False), (False, True), (False, False), (False, False)]
    ):
        flow = np.full((2, 64, 64), 1000, np.float32)
        flow[0, :, :32], flow[1, :, :32] = 3 * shift, 4 * shift  # where both photos show the cloth
        score.add(_flow_pair(having_uv), {"flow": flow})
    rows = {
        row["name"]: (row["pairs"], row["flow_px"], row["median_flow_px"]) for row in score.rows()
    }
    assert rows == {
        "all pairs": (5, 10, 10),
        "U, V of both people": (1, 0, 0),
        "U, V of one of them": (2, 7.5, 7.5),
        "U, V of neither": (2, 17.5, 17.5),
    }


def test_surface_coordinates_are_those_of_the_network():
    network = build_network("lite", "warping")
    pair = _flow_pair((True, False))
    outputs = {
        "flow": np.zeros((2, 64, 64), np.float32), "transfer_parsing": pair["person_parsing"]
    }  # fmt: skip
    score = FlowScore(network)
    score.add(pair, outputs)
    row = score.rows()[0]
    with torch.inference_mode():
        flows = network.flows(
            *(
                torch.from_numpy(x[None])
                for x in (
                    pair["garment_image"], pair["garment_parsing"], pair["garment_densepose"],
                    outputs["transfer_parsing"], pair["person_densepose"],
                )
            )
        )  # fmt: skip
    # the loss has the mean in decimetres, where all cells are whole
    for name, places, truth in (
        ("owner_cm", flows.worn, pair["garment_places"]),
        ("person_cm", flows.wanted, pair["true_places"]),
    ):
        due = 10 * float(places_loss(places, torch.from_numpy(truth[None])))
        assert row[name] == pytest.approx(due, rel=1e-3)


def test_distance_of_surface_coordinates():
    truth = np.zeros((3, 16, 16), np.float32)
    truth[:, :10, :8] = np.array([0.2, -0.1, 0.4])[:, None, None]  # metres
    places = np.full((3, 4, 4), 50, np.float32)
    places[:, :2, :2] = np.array([2.3, -1.0, 4.4])[:, None, None]  # decimetres
    # of the third row of cells no more than half is garment
    np.testing.assert_allclose(places_error(places, truth), np.full(4, 5), rtol=1e-4)


def test_skin_that_comes_back_as_it_was_and_other_skin():
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    photo = np.stack([60 + rows, 80 + columns // 2, 90 + rows // 2], axis=2)
    photo = (photo + random.integers(-5, 6, photo.shape)).astype(np.uint8)
    skin = np.zeros((64, 64), bool)
    skin[8:56, 10:40] = True

    def figures(image):
        return skin_figures(np.clip(image, 0, 255).astype(np.uint8), photo, skin, skin)

    assert figures(photo) == pytest.approx(
        {
            "skin_error": 0, "flat_error": np.abs(photo[skin] - photo[skin].mean(axis=0)).mean(),
            "tone_error": 0, "light_correlation": 1, "light_ratio": 1,
        }
    )  # fmt: skip
    flat = figures(np.broadcast_to(photo[skin].mean(axis=0).round(), photo.shape))
    assert flat["skin_error"] == pytest.approx(flat["flat_error"], abs=0.1)
    assert flat["tone_error"] < 0.5
    assert flat["light_correlation"] == pytest.approx(0, abs=1e-3)
    assert flat["light_ratio"] == pytest.approx(0, abs=1e-3)
    lighter = figures(photo.astype(int) + 10)
    assert lighter["skin_error"] == lighter["tone_error"] == pytest.approx(10)
    assert [lighter["light_correlation"], lighter["light_ratio"]] == pytest.approx([1, 1])
    # as dark where the photo is light, with half of the contrast, whatever is outside the skin
    turned = np.where(skin[..., None], 160 - 0.5 * photo, 0)
    assert figures(turned)["light_correlation"] == pytest.approx(-1, abs=1e-2)
    assert figures(turned)["light_ratio"] == pytest.approx(0.5, abs=1e-2)


def test_all_skin_but_hands_is_erased_and_painted_by_the_graph(tiny_bundle, tiny, make_person):
    person = make_person(tiny.size.height, tiny.size.width)
    densepose = person.densepose.copy()
    densepose[40:, :8, 0] = 4
    person = Person(person.image, person.parsing, densepose)
    engine = find_backend("onnxruntime").load(Bundle.load(tiny_bundle), None, {})["regrowth"]
    seen = {}

    def regrow(inputs):
        seen.update(inputs)
        return engine.run(inputs)

    figures = regrown_skin(regrow, person, tiny.size)
    skin = person.parsing == SKIN
    hands = skin & (densepose[..., 0] == 4)
    assert hands.any()
    np.testing.assert_array_equal(seen["person_parsing"][0] == SKIN, hands)
    colour = person.image[person.parsing == GARMENT].mean(axis=0).round()
    assert (seen["person_image"][0][skin & ~hands] == colour).all()
    counted = cv2.erode((skin & ~hands).astype(np.uint8), np.ones((3, 3))) > 0
    due = np.abs(person.image[counted].astype(int) - tiny.drawn).mean()
    assert figures["skin_error"] == pytest.approx(due)
    # hands alone are too little
    densepose[..., 0] = 3
    assert regrown_skin(regrow, Person(person.image, person.parsing, densepose), tiny.size) is None


def test_a_way_there_and_back(make_person):
    size = Size(64, 32)
    person, other = make_person(64, 32, seed=0), make_person(64, 32, seed=1)

    def ends(there, back):
        def run(inputs):
            is_back = (inputs["garment_image"][0] == person.image).all()
            flow = np.zeros((1, 2, 64, 32), np.float32)
            flow[0] += np.float32(back if is_back else there)[:, None, None]
            return {"flow": flow}

        return flow_round_trip(SimpleNamespace(run=run, size=size), person, other)

    garment = (person.parsing == GARMENT).sum()
    assert ends((3, 4), (-3, -4)).tolist() == [0] * garment
    assert ends((3, 4), (0, 0)).tolist() == [5] * garment
    assert ends((1, 1), (2, 3)).tolist() == [5] * garment


def test_flows_of_real_people(tiny_bundle, tiny, make_person):
    """The tiny bundle's flow is one shift, also where nothing should move."""
    person = make_person(2 * tiny.size.height, 2 * tiny.size.width)
    rows, _ = evaluate_real(Pipeline.load(tiny_bundle), {"somebody": person})
    shift = float(np.hypot(*tiny.flow))
    for key, due in (("own_px", shift), ("mirror_px", 2 * shift)):
        assert rows[0][key] == rows[0][f"median_{key}"] == pytest.approx(due)


def _photo_pair():
    """A pair whose result has a disc of garment, in a photo of four times the bundle's size."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:256, :256]
    parsing = np.zeros((256, 256), np.uint8)
    parsing[np.hypot(rows - 130.3, columns - 121.8) < 70] = GARMENT
    own = np.zeros_like(parsing)
    own[100:150, 100:150] = GARMENT
    densepose = np.where(own[..., None] > 0, np.uint8(2), np.uint8(0)).repeat(3, axis=2)
    background = np.full((256, 256, 3), 230, np.uint8)
    smooth = cv2.GaussianBlur(random.integers(256, size=(256, 256, 3), dtype=np.uint8), (0, 0), 9)
    worn = np.full((256, 256), GARMENT, np.uint8)
    return {
        "person_image": np.where(own[..., None] > 0, np.uint8(40), background),
        "person_parsing": own, "person_true_parsing": own, "person_densepose": densepose,
        "garment_image": np.roll(smooth, (8, -4), axis=(0, 1)),
        "garment_parsing": worn, "garment_densepose": densepose,
        "true_image": np.where(parsing[..., None] > 0, smooth, background),
        "true_parsing": parsing,
        "true_flow": np.where(parsing > 0, np.float32([-4, 8])[:, None, None], 0),
    }  # fmt: skip


def test_the_truth_is_at_the_ceiling_of_the_borders_measure():
    pair = _photo_pair()
    image, labels = pair["true_image"], pair["true_parsing"]

    def figures(image, parsing):
        return border_figures(Composed(image, parsing, image), pair)

    assert figures(image, labels) == pytest.approx(
        {"border_db": 138.1, "inside_db": 138.1, "changed_db": 138.1, "garment_iou": 1}, abs=0.1
    )
    off = np.where(image < 128, image + 10, image - 10).astype(np.uint8)
    decibels = 20 * np.log10(255 / 10)
    assert figures(off, labels) == pytest.approx(
        {"border_db": decibels, "inside_db": decibels, "changed_db": decibels, "garment_iou": 1}
    )
    # within 6 pixels of the border, seven with the border's own
    distance = np.abs(np.hypot(*(np.mgrid[:256, :256] - [[[130.3]], [[121.8]]])) - 70)
    assert figures(np.where(distance[..., None] > 10.5, off, image), labels)["border_db"] > 138
    assert figures(np.where(distance[..., None] < 5, off, image), labels)["inside_db"] > 138
    assert figures(image, pair["person_parsing"])["garment_iou"] == pytest.approx(
        2500 / (np.pi * 70**2), rel=1e-2
    )


def test_shares_draw_a_border_better_than_labels():
    pair = _photo_pair()
    size = Size(64, 64)
    small = cv2.resize(
        (pair["true_parsing"] > 0).astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA
    )
    scores = np.zeros((64, 64, 4), np.uint8)
    scores[..., 0], scores[..., 2] = np.rint(255 * (1 - small)), np.rint(255 * small)
    labels = np.where(small > 0.5, GARMENT, 0).astype(np.uint8)

    def run(inputs):
        assert inputs["person_image"].shape == (1, 64, 64, 3)
        return {"transfer_parsing": labels[None], "transfer_scores": scores[None]}

    rows = evaluate_borders(SimpleNamespace(run=run), [pair], size)
    by_labels, by_shares, own_labels, own_scores = (
        {key: value for key, value in row.items() if key != "name"} for row in rows
    )
    # networks that are right are as good as the truth
    assert own_labels == by_labels
    assert own_scores == by_shares
    assert by_shares["garment_iou"] > max(0.99, by_labels["garment_iou"])
    assert by_shares["border_db"] > by_labels["border_db"] + 1


def test_the_true_flow_at_the_bundles_size():
    pair = _photo_pair()
    flow = _small_flow(pair, Size(64, 64))
    np.testing.assert_allclose(
        flow, np.broadcast_to(np.float32([-1, 2])[:, None, None], flow.shape)
    )
