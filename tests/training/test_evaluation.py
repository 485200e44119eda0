"""Figures of the evaluation against values worked out by hand or by another library."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from garment_transfer.bundle import GARMENT, SKIN
from garment_transfer.models.presets import build
from garment_transfer.runtime.photos import Person
from garment_transfer.training.evaluation import (
    INPUTS,
    Networks,
    Score,
    _best_affine,
    _true_flow,
    cases,
    cycle,
    give_back,
    similarity_map,
)


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
            return SimpleNamespace(image=owner.image, transfer_parsing=owner.parsing)

    there = SimpleNamespace(image=person.image, transfer_parsing=person.parsing)
    assert cycle(Perfect(), owner, there, person) == {
        "cycle_ssim": pytest.approx(1),
        "cycle_garment_iou": 1,
    }
    there.transfer_parsing = np.where(person.parsing == GARMENT, SKIN, person.parsing)
    there.transfer_parsing = there.transfer_parsing.astype(np.uint8)
    assert cycle(Perfect(), owner, there, person)["cycle_ssim"] == 0


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
        pipeline = SimpleNamespace(transfer=lambda *_: transfer)
        return give_back(pipeline, Person(image, parsing, densepose))

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
    inputs = {
        name: random.integers(
            7 if "parsing" in name else 25,
            size=(2, 64, 64) if "parsing" in name else (2, 64, 64, 3),
            dtype=np.uint8,
        )
        for name in INPUTS
    }
    outputs = Networks(build("lite")).run(inputs)
    assert {name: (x.shape, x.dtype.name) for name, x in outputs.items()} == {
        "transfer_parsing": ((2, 64, 64), "uint8"),
        "warped_garment": ((2, 64, 64, 3), "uint8"),
        "flow": ((2, 2, 64, 64), "float32"),
        "image": ((2, 64, 64, 3), "uint8"),
    }


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
