"""Evaluation: on held-out rendered pairs, whose truth is known, and on real people, whose is not.

Every figure is over a whole set, not a mean of images: intersections, unions and squared errors
are summed first, so that a class that is absent from an image does not count as right.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure

from garment_transfer.models.warping import WarpingNetwork
from garment_transfer.runtime.labels import GARMENT, SKIN
from garment_transfer.runtime.people import Person
from garment_transfer.runtime.pipeline import Pipeline

Arrays = Mapping[str, NDArray]

#: What the graphs take, by the contract's names.
INPUTS = (
    "person_image",
    "person_parsing",
    "person_densepose",
    "garment_image",
    "garment_parsing",
    "garment_densepose",
)


@dataclass
class Score:
    """Sums over a set of transfers; the properties are the figures."""

    intersection: dict[int, int] = field(default_factory=lambda: {GARMENT: 0, SKIN: 0})
    union: dict[int, int] = field(default_factory=lambda: {GARMENT: 0, SKIN: 0})
    similarity: float = 0.0
    changed: int = 0
    squared_error: float = 0.0
    garment_values: int = 0
    whole_similarity: float = 0.0
    whole_pixels: int = 0

    def add(
        self,
        image: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        true_image: NDArray[np.uint8],
        true_labels: NDArray[np.uint8],
    ) -> None:
        """Count one transfer: uint8 [H,W,3] images and uint8 [H,W] parsings."""
        self.add_labels(labels, true_labels)
        changes = np.isin(labels, (GARMENT, SKIN)) | np.isin(true_labels, (GARMENT, SKIN))
        similar = similarity_map(image, true_image)
        self.similarity += float(similar[changes].sum())
        self.changed += int(changes.sum())
        self.whole_similarity += float(similar.sum())
        self.whole_pixels += similar.size
        error = image.astype(np.float64) - true_image
        inside = error[true_labels == GARMENT]
        self.squared_error += float((inside**2).sum())
        self.garment_values += inside.size

    def add_labels(self, labels: NDArray[np.uint8], true_labels: NDArray[np.uint8]) -> None:
        """Count the parsing alone of one transfer, uint8 [H,W]."""
        for label in (GARMENT, SKIN):
            a, b = labels == label, true_labels == label
            self.intersection[label] += int((a & b).sum())
            self.union[label] += int((a | b).sum())

    def row(self, name: str) -> dict[str, float | str]:
        """The figures: IoU, mean SSIM over changed pixels and over all, PSNR in the garment."""
        mse = self.squared_error / max(1, self.garment_values)
        return {
            "name": name,
            "garment_iou": self.intersection[GARMENT] / max(1, self.union[GARMENT]),
            "skin_iou": self.intersection[SKIN] / max(1, self.union[SKIN]),
            "changed_ssim": self.similarity / max(1, self.changed),
            "garment_psnr_db": 10 * float(np.log10(255**2 / max(mse, 1e-9))),
            "whole_ssim": self.whole_similarity / max(1, self.whole_pixels),
        }


def similarity_map(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float32]:
    """SSIM at every pixel of two uint8 [H,W,3] images (mean over channels), float32 [H,W].

    Wang et al. 2004 with a Gaussian window of standard deviation 1.5, as torchmetrics has it.
    """
    a, b = (torch.tensor(x).permute(2, 0, 1)[None].float() / 255 for x in (image, truth))
    _, full = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
    return full[0].mean(dim=0).numpy()


def batches(pairs: Iterable[Arrays], size: int) -> Iterator[list[Arrays]]:
    """Lists of at most `size` pairs."""
    waiting: list[Arrays] = []
    for pair in pairs:
        waiting.append(pair)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def evaluate_held_out(
    pipeline: Pipeline,
    pairs: Iterable[Arrays],
    without_stn: nn.Module | None = None,
    each: Callable[[Arrays, dict[str, NDArray]], None] = lambda pair, outputs: None,
) -> list[dict[str, float | str]]:
    """The method and its baselines on rendered pairs with truth.

    Args:
        pipeline: a bundle; its graphs run at their own size, which is the pairs'.
        pairs: as `garment_transfer.training.synthetic.held_out_pair` gives them.
        without_stn: the warping network of preset `lite-without-stn`, for its row.
        each: called with every pair and the graphs' outputs for it.

    Returns:
        A row per method; the first is named "method".
    """
    scores: dict[str, Score] = {}

    def count(name: str, image: NDArray, labels: NDArray, pair: Arrays) -> None:
        scores.setdefault(name, Score()).add(
            image, labels, pair["true_image"], pair["true_parsing"]
        )

    for batch in batches(pairs, 8):
        inputs = {name: np.stack([pair[name] for pair in batch]) for name in INPUTS}
        outputs = pipeline.run(inputs)
        labels = outputs["transfer_parsing"]
        warped = {
            "garment filled with its mean colour": np.stack([_mean_colour(p) for p in batch]),
            "garment moved by the best affine": np.stack(
                [_best_affine(p, labels[i]) for i, p in enumerate(batch)]
            ),
        }
        warped["garment moved by the true flow"] = np.stack([_true_flow(p) for p in batch])
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


def _best_affine(pair: Arrays, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The owner's photo moved by the affine that fits the true flow best in least squares.

    Where it leaves the garment, the garment's mean colour stands.
    """
    ys, xs = np.nonzero(pair["flow_valid"])
    source = np.stack([xs, ys, np.ones_like(xs)], axis=1).astype(np.float64)
    target = source[:, :2] + pair["true_flow"][:, ys, xs].T
    solution, *_ = np.linalg.lstsq(source, target, rcond=None)
    matrix = solution.T.astype(np.float64)
    height, width = labels.shape
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


def _warp(network: nn.Module, inputs: Arrays, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    assert isinstance(network, WarpingNetwork)
    with torch.inference_mode():
        warped, _ = network(
            torch.from_numpy(inputs["garment_image"]),
            torch.from_numpy(inputs["garment_parsing"]),
            torch.from_numpy(labels),
            torch.from_numpy(inputs["person_densepose"]),
        )
    return warped.numpy()


def give_back(pipeline: Pipeline, person: Person) -> dict[str, float]:
    """A real person's own garment given back, through the networks like any other pair.

    Returns:
        SSIM over the pixels of garment and skin against the photo, of the transfer
        (`changed_ssim`) and of the garment filled with its mean colour (`flat_ssim`); IoU of
        garment and skin against the person's own parsing.
    """
    transfer = pipeline.transfer(person, person)
    counted = np.isin(person.parsing, (GARMENT, SKIN))
    garment = person.parsing == GARMENT
    flat = person.image.copy()
    flat[garment] = person.image[garment].mean(axis=0).round()
    score = Score()
    score.add_labels(transfer.transfer_parsing, person.parsing)
    row = score.row("")
    return {
        "changed_ssim": float(similarity_map(transfer.image, person.image)[counted].mean()),
        "flat_ssim": float(similarity_map(flat, person.image)[counted].mean()),
        "garment_iou": float(row["garment_iou"]),
        "skin_iou": float(row["skin_iou"]),
    }


def evaluate_real(
    pipeline: Pipeline, people: Mapping[str, Person]
) -> tuple[list[dict[str, float | str]], dict[tuple[str, str], NDArray[np.uint8]]]:
    """Every pair of real people: a row per person (garment given back), an image per pair."""
    rows: list[dict[str, float | str]] = []
    images = {}
    for name, person in people.items():
        rows.append({"name": name, **give_back(pipeline, person)})
        for other, owner in people.items():
            images[name, other] = pipeline.transfer(person, owner).image
    return rows, images


def contact_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]], height: int = 256
) -> NDArray[np.uint8]:
    """Images in rows and columns, each at one height (uint8 RGB), on white."""
    strips = []
    for row in rows:
        scaled = [
            cv2.resize(
                image,
                (round(image.shape[1] * height / image.shape[0]), height),
                interpolation=cv2.INTER_AREA,
            )
            for image in row
        ]
        strips.append(np.concatenate(scaled, axis=1))
    width = max(strip.shape[1] for strip in strips)
    padded = [
        np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips
    ]
    return np.concatenate(padded, axis=0).astype(np.uint8)
