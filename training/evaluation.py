"""Evaluation: on held-out rendered pairs, whose truth is known, and on real people, whose is not.

Every figure is over a whole set, not a mean of images: intersections, unions and squared errors
are summed first, so that a class that is absent from an image does not count as right.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio

from garment_transfer.bundle import CLASSES, GARMENT, SKIN, InputError, Size, chained, contract
from garment_transfer.models.layers import TORSO_PARTS
from garment_transfer.runtime import Pipeline, Transfer
from garment_transfer.runtime.photos import Person

Arrays = Mapping[str, NDArray]

#: DensePose parts that the neck may belong to.
_TORSO_AND_HEAD = (*TORSO_PARTS, 23, 24)

#: What the graphs take, by the contract's names.
INPUTS = [tensor.name for tensor in chained(contract(Size(32, 32)).values()).inputs]


class Runs(Protocol):
    """What runs the three graphs on a batch: a `Pipeline`, or networks (`Networks`)."""

    def run(self, inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Outputs of the graphs by the contract's names, from `INPUTS`."""
        ...


class Networks:
    """Networks of the three stages that run as the graphs of a bundle would."""

    def __init__(self, stages: Mapping[str, nn.Module]) -> None:
        self._stages = {name: network.eval() for name, network in stages.items()}

    def run(self, inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """As `Runs.run`."""
        known = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items()}
        height, width = inputs["person_parsing"].shape[-2:]
        for stage, signature in contract(Size(height, width)).items():
            with torch.inference_mode():
                outputs = self._stages[stage](*(known[tensor.name] for tensor in signature.inputs))
            outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
            known |= {t.name: x for t, x in zip(signature.outputs, outputs, strict=True)}
        return {name: x.numpy() for name, x in known.items() if name not in inputs}


class Score:
    """What torchmetrics has counted over a set of transfers; `row` gives the figures."""

    def __init__(self) -> None:
        self.classes = MulticlassConfusionMatrix(len(CLASSES), validate_args=False)
        self.changed = MeanMetric()
        self.whole = MeanMetric()
        self.garment = PeakSignalNoiseRatio(data_range=255.0)
        self.regrown = MeanAbsoluteError()

    def add(
        self,
        image: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        true_image: NDArray[np.uint8],
        true_labels: NDArray[np.uint8],
        own_labels: NDArray[np.uint8] | None = None,
    ) -> None:
        """Count one transfer: uint8 [H,W,3] images and uint8 [H,W] parsings.

        `own_labels` are the person's before the transfer; they say which skin was regrown.
        """
        self.add_labels(labels, true_labels)
        similar = similarity_map(image, true_image)
        self.changed.update(torch.from_numpy(similar[changed_pixels(labels, true_labels)]))
        self.whole.update(torch.from_numpy(similar))
        self._compare(self.garment, image, true_image, true_labels == GARMENT)
        if own_labels is not None:
            skin = (labels == SKIN) & (true_labels == SKIN) & (own_labels != SKIN)
            self._compare(self.regrown, image, true_image, skin)

    @staticmethod
    def _compare(
        metric: Metric, image: NDArray, true_image: NDArray, where: NDArray[np.bool_]
    ) -> None:
        if where.any():
            a, b = (torch.from_numpy(x[where].astype(np.float32)) for x in (image, true_image))
            metric.update(a, b)

    def add_labels(self, labels: NDArray[np.uint8], true_labels: NDArray[np.uint8]) -> None:
        """Count the parsing alone of one transfer, uint8 of any shape."""
        self.classes.update(
            torch.from_numpy(labels.astype(np.int64)),
            torch.from_numpy(true_labels.astype(np.int64)),
        )

    def ious(self) -> dict[str, float]:
        """Intersection over union of each class that occurs, over the whole set."""
        table = self.classes.confmat.double()
        shared, either = table.diag(), table.sum(dim=0) + table.sum(dim=1) - table.diag()
        return {
            name: float(shared[i] / either[i]) for i, name in enumerate(CLASSES) if either[i] > 0
        }

    def row(self, name: str) -> dict[str, float | str]:
        """The figures: IoU, mean SSIM over changed pixels and over all, PSNR in the garment.

        `iou_CLASS` for each class that occurs and their mean; and, where skin was regrown,
        `skin_error`, its mean absolute difference from the true skin in grey levels, 0 to 255.
        """
        ious = self.ious()
        row: dict[str, float | str] = {
            "name": name,
            "garment_iou": ious.get("garment", 0.0),
            "skin_iou": ious.get("skin", 0.0),
            "changed_ssim": _mean(self.changed),
            # a perfect garment would be infinitely good, which JSON cannot say
            "garment_psnr_db": min(138.0, _mean(self.garment)),
            "whole_ssim": _mean(self.whole),
            "mean_iou": sum(ious.values()) / max(1, len(ious)),
            **{f"iou_{label}": value for label, value in ious.items()},
        }
        if self.regrown.update_called:
            row["skin_error"] = _mean(self.regrown)
        return row


def _mean(metric: Metric) -> float:
    """A metric's value; 0 where nothing was counted."""
    return float(metric.compute()) if metric.update_called else 0.0


def changed_pixels(labels: NDArray[np.uint8], true_labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a transfer shows or should show garment or skin, bool [H,W]."""
    return np.isin(labels, (GARMENT, SKIN)) | np.isin(true_labels, (GARMENT, SKIN))


def pair_similarity(pair: Arrays, outputs: Arrays) -> float:
    """Mean SSIM over the changed pixels of one pair with truth."""
    where = changed_pixels(outputs["transfer_parsing"], pair["true_parsing"])
    return _similarity(outputs["image"], pair["true_image"], where)


def cases(scores: Sequence[float], count: int = 4) -> list[int]:
    """Indices of the best, the middle and the worst of `scores`, `count` each, from the best on."""
    order = [int(i) for i in np.argsort(-np.asarray(scores), kind="stable")]
    middle = max(0, (len(order) - count) // 2)
    chosen = [*range(count), *range(middle, middle + count), *range(len(order) - count, len(order))]
    return [order[i] for i in sorted({i for i in chosen if 0 <= i < len(order)})]


def _similarity(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], where: NDArray[np.bool_]
) -> float:
    return float(similarity_map(image, truth)[where].mean())


def similarity_map(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float32]:
    """SSIM at every pixel of two uint8 [H,W,3] images (mean over channels), float32 [H,W].

    Wang et al. 2004 with a Gaussian window of standard deviation 1.5, as torchmetrics has it.
    """
    a, b = (torch.tensor(x).permute(2, 0, 1)[None].float() / 255 for x in (image, truth))
    _, full = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
    return full[0].mean(dim=0).numpy()


def evaluate_held_out(
    pipeline: Runs,
    pairs: Iterable[Arrays],
    without_stn: nn.Module | None = None,
    each: Callable[[Arrays, dict[str, NDArray]], None] = lambda pair, outputs: None,
) -> list[dict[str, float | str]]:
    """The method and its baselines on rendered pairs with truth.

    Args:
        pipeline: a bundle, or networks; graphs run at their own size, which is the pairs'.
        pairs: as `garment_transfer.training.synthetic.held_out_pair` gives them.
        without_stn: the warping network of preset `lite-without-stn`, for its row.
        each: called with every pair and the graphs' outputs for it.

    Returns:
        A row per method; the first is named "method".
    """
    scores: dict[str, Score] = {}

    def count(name: str, image: NDArray, labels: NDArray, pair: Arrays) -> None:
        scores.setdefault(name, Score()).add(
            image, labels, pair["true_image"], pair["true_parsing"], pair["person_parsing"]
        )

    waiting = iter(pairs)
    while batch := list(islice(waiting, 8)):
        inputs = {name: np.stack([pair[name] for pair in batch]) for name in INPUTS}
        outputs = pipeline.run(inputs)
        labels = outputs["transfer_parsing"]
        warped = {
            "garment filled with its mean colour": [_mean_colour(pair) for pair in batch],
            "garment moved by the best affine": [_best_affine(pair) for pair in batch],
            "garment moved by the true flow": [_true_flow(pair) for pair in batch],
        }
        if without_stn is not None:
            warped["flow without the STN"] = _warp(without_stn, inputs, labels)
        for i, pair in enumerate(batch):
            own = {name: value[i] for name, value in outputs.items()}
            each(pair, own)
            count("method", own["image"], own["transfer_parsing"], pair)
            count("person unchanged", pair["person_image"], pair["person_parsing"], pair)
            region = own["transfer_parsing"] == GARMENT
            for name, garments in warped.items():
                image = np.where(region[..., None], garments[i], own["image"])
                count(name, image, own["transfer_parsing"], pair)
    return [score.row(name) for name, score in scores.items()]


def _mean_colour(pair: Arrays) -> NDArray[np.uint8]:
    """An image of the mean colour of the owner's garment."""
    image = pair["garment_image"]
    mean = image[pair["garment_parsing"] == GARMENT].mean(axis=0)
    return np.broadcast_to(mean.round().astype(np.uint8), image.shape).copy()


def _best_affine(pair: Arrays) -> NDArray[np.uint8]:
    """The owner's photo moved by the affine that fits the true flow best in least squares.

    Where it leaves the garment, the garment's mean colour stands.
    """
    ys, xs = np.nonzero(pair["flow_valid"])
    source = np.stack([xs, ys, np.ones_like(xs)], axis=1).astype(np.float64)
    target = source[:, :2] + pair["true_flow"][:, ys, xs].T
    matrix = np.linalg.lstsq(source, target, rcond=None)[0].T
    height, width = pair["flow_valid"].shape
    inverse = cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(
        pair["garment_image"], matrix, (width, height), flags=cv2.INTER_LINEAR | inverse
    )
    mask = (pair["garment_parsing"] == GARMENT).astype(np.uint8)
    hit = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST | inverse)
    return np.where(hit[..., None] > 0, moved, _mean_colour(pair))


def _true_flow(pair: Arrays) -> NDArray[np.uint8]:
    """The owner's photo moved by the true flow: what a perfect flow could reach.

    It keeps the light and the folds of the owner's photo. Where the truth has no garment, the
    garment's mean colour stands.
    """
    height, width = pair["flow_valid"].shape
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    flow = pair["true_flow"].astype(np.float32)
    moved = cv2.remap(pair["garment_image"], xs + flow[0], ys + flow[1], cv2.INTER_LINEAR)
    return np.where(pair["flow_valid"][..., None] > 0, moved, _mean_colour(pair))


def _warp(network: nn.Module, inputs: Arrays, labels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    signature = contract(Size(*labels.shape[1:]))["warping"]
    known = {**inputs, "transfer_parsing": labels}
    with torch.inference_mode():
        warped, *_ = network(*(torch.from_numpy(known[t.name]) for t in signature.inputs))
    return list(warped.numpy())


def give_back(pipeline: Pipeline, person: Person) -> dict[str, float]:
    """A real person's own garment given back, through the networks like any other pair.

    Returns:
        SSIM over the pixels of garment and skin against the photo, of the transfer
        (`changed_ssim`) and of the garment filled with its mean colour (`flat_ssim`); IoU of
        garment, skin and, if there are any, arms against the person's own parsing. Arms are the
        skin beside torso and head: not all label sets know the neck.
    """
    transfer = pipeline.transfer(person, person)
    counted = changed_pixels(person.parsing, person.parsing)
    garment = person.parsing == GARMENT
    flat = person.image.copy()
    flat[garment] = person.image[garment].mean(axis=0).round()
    beside = ~np.isin(person.densepose[..., 0], _TORSO_AND_HEAD)
    everywhere, limbs = Score(), Score()
    everywhere.add_labels(transfer.transfer_parsing, person.parsing)
    limbs.add_labels(transfer.transfer_parsing[beside], person.parsing[beside])
    ious, arms = everywhere.ious(), limbs.ious()
    row = {
        "changed_ssim": _similarity(transfer.image, person.image, counted),
        "flat_ssim": _similarity(flat, person.image, counted),
        "garment_iou": ious.get("garment", 0.0),
        "skin_iou": ious.get("skin", 0.0),
    }
    if "skin" in arms:
        row["arms_iou"] = arms["skin"]
    return row


def cycle(pipeline: Pipeline, owner: Person, there: Transfer, person: Person) -> dict[str, float]:
    """The owner's garment back from a transfer `there` of it to `person`.

    Returns:
        `cycle_ssim` over the owner's pixels of garment and skin, and `cycle_garment_iou`, against
        the owner's photo and parsing. Both 0 where nothing of the garment is left to give back.
    """
    wearer = Person(there.image, there.transfer_parsing, person.densepose)
    try:
        wearer.check_garment()
    except InputError:
        return {"cycle_ssim": 0.0, "cycle_garment_iou": 0.0}
    back = pipeline.transfer(owner, wearer)
    counted = changed_pixels(owner.parsing, owner.parsing)
    score = Score()
    score.add_labels(back.transfer_parsing, owner.parsing)
    return {
        "cycle_ssim": _similarity(back.image, owner.image, counted),
        "cycle_garment_iou": score.ious()["garment"],
    }


def evaluate_real(
    pipeline: Pipeline, people: Mapping[str, Person]
) -> tuple[list[dict[str, float | str]], dict[tuple[str, str], NDArray[np.uint8]]]:
    """Every pair of real people: a row per person, an image per pair.

    A row says how the person's own garment comes back, at once (`give_back`) and from everybody
    else, in the mean (`cycle`).
    """
    rows: list[dict[str, float | str]] = [
        {"name": name, **give_back(pipeline, person)} for name, person in people.items()
    ]
    cycles: dict[str, list[dict[str, float]]] = {name: [] for name in people}
    images = {}
    for name, person in people.items():
        for other, owner in people.items():
            there = pipeline.transfer(person, owner)
            images[name, other] = there.image
            if other != name:
                cycles[other].append(cycle(pipeline, owner, there, person))
    for row, found in zip(rows, cycles.values(), strict=True):
        for key in ("cycle_ssim", "cycle_garment_iou") if found else ():
            row[key] = sum(figures[key] for figures in found) / len(found)
    return rows, images


def contact_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]], height: int = 256
) -> NDArray[np.uint8]:
    """Images in rows and columns, each at one height (uint8 RGB), on white."""

    def scaled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        width = round(image.shape[1] * height / image.shape[0])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)

    strips = [np.hstack([scaled(image) for image in row]) for row in rows]
    width = max(strip.shape[1] for strip in strips)
    return np.vstack(
        [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    )
