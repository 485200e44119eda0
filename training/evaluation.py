"""Evaluation: on held-out rendered pairs, whose truth is known, and on real people, whose is not.

Every figure is over a whole set, not a mean of images: intersections, unions and squared errors
are summed first, so that a class that is absent from an image does not count as right.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio

from garment_transfer.bundle import CLASSES, GARMENT, SKIN, InputError, Size, chained, contract
from garment_transfer.models.layers import HAND_PARTS, TORSO_PARTS
from garment_transfer.models.parsing import REASONED
from garment_transfer.models.warping import WarpingNetwork
from garment_transfer.runtime import Maps, Pipeline, Transfer, stage_inputs
from garment_transfer.runtime.photos import Composed, Fit, Person, compose, resize
from garment_transfer.training.data import built_in_maps, mirror

Arrays = Mapping[str, NDArray]
Rows = list[dict[str, float | str]]

#: DensePose parts that the neck may belong to.
_TORSO_AND_HEAD = (*TORSO_PARTS, 23, 24)

#: Of any size, since only names are asked of it.
_CONTRACT = contract(Size(32, 32))

#: What the graphs take, by the contract's names.
INPUTS = [tensor.name for tensor in chained(_CONTRACT.values()).inputs]


class Networks:
    """Networks of the three stages that run as the graphs of a bundle would."""

    def __init__(self, stages: Mapping[str, nn.Module]) -> None:
        self._stages = {name: network.eval() for name, network in stages.items()}

    def run(self, inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Outputs of the graphs by the contract's names, from `INPUTS`."""
        known = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items()}
        for stage, signature in _CONTRACT.items():
            with torch.inference_mode():
                outputs = self._stages[stage](*(known[tensor.name] for tensor in signature.inputs))
            outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
            known |= {t.name: x for t, x in zip(signature.outputs, outputs, strict=True)}
        return {name: x.numpy() for name, x in known.items() if name not in inputs}


#: What runs the three graphs on a batch, from `INPUTS` to outputs by the contract's names.
Graphs: TypeAlias = Pipeline | Networks


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


class FlowScore:
    """How far flows and surface coordinates are off over a set of transfers; `rows` gives figures.

    Counted are all pixels of the true garment that the owner's photo shows too. Surface coordinates
    say which place of the cloth a pixel shows, of the owner's photo and of the result (`worn` and
    `wanted` of `Flows`). The flow comes from comparing the two.

    Args:
        warping: the network behind the graph `warping`; without it coordinates are not counted.
    """

    def __init__(self, warping: WarpingNetwork | None = None) -> None:
        self._warping = warping
        # one dictionary of distances per pair, by how many of its two DensePose maps have U and V
        self._pairs: list[tuple[int, dict[str, NDArray[np.float32]]]] = []

    def add(self, pair: Arrays, outputs: Arrays) -> None:
        """Count a pair with truth (`held_out_pair`), and the graphs' outputs for it."""
        shown = pair["flow_valid"] == 2
        error = np.linalg.norm(outputs["flow"] - pair["true_flow"], axis=0)
        found = {"flow_px": error[shown]}
        if self._warping is not None:
            known = {**pair, **outputs}
            inputs = (known[tensor.name] for tensor in _CONTRACT["warping"].inputs)
            with torch.inference_mode():
                flows = self._warping.flows(*(torch.from_numpy(x[None]) for x in inputs))
            for name, places, truth in (
                ("owner_cm", flows.worn, pair["garment_places"]),
                ("person_cm", flows.wanted, pair["true_places"]),
            ):
                found[name] = places_error(places[0].numpy(), truth)
        having_uv = sum(bool(pair[f"{role}_densepose"][..., 1:].any()) for role in _ROLES)
        self._pairs.append((having_uv, found))

    def rows(self) -> Rows:
        """A row for all pairs and for those with U and V on both sides, on one and on neither.

        `pairs`; mean and median over all pixels of `flow_px`, in pixels, and of `owner_cm` and
        `person_cm`, the distance of surface coordinates in centimetres, where they are counted.
        """
        rows: Rows = []
        for name, counts in _UV_ROWS.items():
            chosen = [found for having_uv, found in self._pairs if having_uv in counts]
            if not chosen:
                continue
            row: dict[str, float | str] = {"name": name, "pairs": len(chosen)}
            for key in chosen[0]:
                row |= _mean_and_median(key, np.concatenate([found[key] for found in chosen]))
            rows.append(row)
        return rows


_ROLES = ("person", "garment")
_FIELDS = ("image", "parsing", "densepose")

#: Rows of `FlowScore` by how many of the two DensePose maps have U and V.
_UV_ROWS = {
    "all pairs": (0, 1, 2),
    "U, V of both people": (2,),
    "U, V of one of them": (1,),
    "U, V of neither": (0,),
}


def _mean_and_median(key: str, values: NDArray) -> dict[str, float]:
    """`KEY` and `median_KEY`; empty where nothing was counted."""
    if not values.size:
        return {}
    return {key: float(values.mean(dtype=np.float64)), f"median_{key}": float(np.median(values))}


def places_error(places: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances in centimetres of surface coordinates from the truth, where it has a garment: [P].

    Args:
        places: float32 [3,h,w], decimetres.
        truth: float [3,H,W], metres, 0 where there is no garment; means are taken over cells of
            `places`, of which those count that are garment for more than half.
    """
    size = Size(*places.shape[1:])
    known = (truth != 0).any(axis=0).astype(np.float32)
    share = resize(known, size)
    sums = np.stack([resize(plane.astype(np.float32), size) for plane in truth])
    counted = share > 0.5
    return 100 * np.linalg.norm(places / 10 - sums / np.maximum(share, 1e-6), axis=0)[counted]


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
    pipeline: Graphs,
    pairs: Iterable[Arrays],
    each: Callable[[Arrays, dict[str, NDArray]], None] = lambda pair, outputs: None,
    maps: Maps | None = None,
) -> Rows:
    """The method and its baselines on rendered pairs with truth.

    Args:
        pipeline: a bundle, or networks; graphs run at their own size, which is the pairs'.
        pairs: as `garment_transfer.training.synthetic.held_out_pair` gives them.
        each: called with every pair and the graphs' outputs for it.
        maps: of a bundle, for the row of photos without other maps than its own, without those
            that it refuses; `refused` says how many these are.

    Returns:
        A row per method; the first is named "method".
    """
    scores = {"method": Score()}  # the first of the rows

    def count(name: str, image: NDArray, labels: NDArray, pair: Arrays) -> None:
        scores.setdefault(name, Score()).add(
            image, labels, pair["true_image"], pair["true_parsing"], pair["person_parsing"]
        )

    def run(batch: Sequence[Arrays]) -> dict[str, NDArray]:
        return pipeline.run({name: np.stack([pair[name] for pair in batch]) for name in INPUTS})

    refused = 0
    waiting = iter(pairs)
    while batch := list(islice(waiting, 8)):
        outputs = run(batch)
        found = [(pair, _maps_of(pair, maps)) for pair in batch] if maps else []
        bare = [{**pair, **own_maps} for pair, own_maps in found if own_maps]
        refused += len(found) - len(bare)
        if bare:
            seen = run(bare)
            for i, own_pair in enumerate(bare):
                count("photos alone", seen["image"][i], seen["transfer_parsing"][i], own_pair)
        warped = {
            "garment filled with its mean colour": [_mean_colour(pair) for pair in batch],
            "garment moved by the best affine": [_best_affine(pair) for pair in batch],
            "garment moved by the true flow": [_true_flow(pair) for pair in batch],
        }
        for i, pair in enumerate(batch):
            own = {name: value[i] for name, value in outputs.items()}
            each(pair, own)
            count("method", own["image"], own["transfer_parsing"], pair)
            count("person unchanged", pair["person_image"], pair["person_parsing"], pair)
            region = own["transfer_parsing"] == GARMENT
            for name, garments in warped.items():
                image = np.where(region[..., None], garments[i], own["image"])
                count(name, image, own["transfer_parsing"], pair)
    rows = {name: score.row(name) for name, score in scores.items()}
    if "photos alone" in rows:
        rows["photos alone"]["refused"] = float(refused)
    return list(rows.values())


def _maps_of(pair: Arrays, maps: Maps) -> dict[str, NDArray] | None:
    """The maps that a bundle's own graph makes of both photos of a pair, by the names of `INPUTS`.

    None where it refuses one of them.
    """
    result: dict[str, NDArray] = {}
    for role in ("person", "garment"):
        found = built_in_maps(maps, pair[f"{role}_image"], pair[f"{role}_densepose"])
        if found is None:
            return None
        result[f"{role}_parsing"], result[f"{role}_densepose"] = found
    return result


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


#: How many times the bundle's size the photos of `evaluate_borders` are.
PHOTO_FACTOR = 4

#: Half the width of the band around the true border of the garment, in pixels of the photo.
_BAND = 6


def evaluate_borders(pipeline: Graphs, pairs: Iterable[Arrays], size: Size) -> Rows:
    """What compositing alone loses at the photo's size, by what draws its borders.

    The graphs' outputs are replaced by the truth at the bundle's size: colours and class shares by
    area, the flow by area over the garment. What then differs from the truth at the photo's size
    was lost by compositing, or by the labels or shares that a row is named after.

    Args:
        pipeline: a bundle, or networks, whose labels and scores the last rows are of.
        pairs: as `held_out_pair` gives them, at a multiple of `size`.
        size: of the bundle.

    Returns:
        A row per way to draw borders: means over the pairs of `border_figures`.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for pair in pairs:
        person, owner = (_person(pair, role) for role in _ROLES)
        fit = Fit(Size(*person.parsing.shape), size)
        # the share of each pixel that each class has, [h,w,7]
        planes = (pair["true_parsing"] == label for label in range(len(CLASSES)))
        shares = np.stack([resize(plane.astype(np.float32), size) for plane in planes], axis=2)
        labels = shares.argmax(axis=2).astype(np.uint8)
        image = resize(pair["true_image"], size)
        flow = _small_flow(pair, size)
        reasoned = _run_pair(pipeline, person, owner, size)
        own_labels = np.asarray(reasoned["transfer_parsing"], np.uint8)
        ways = {
            "true labels": (labels, None),
            "true shares": (labels, np.rint(255 * shares[..., REASONED]).astype(np.uint8)),
            "the networks' labels": (own_labels, None),
            "the networks' scores": (own_labels, np.asarray(reasoned["transfer_scores"])),
        }
        for name, (parsing, scores) in ways.items():
            composed = compose(
                person,
                owner,
                fit,
                fit,
                image=image,
                transfer_parsing=parsing,
                warped_garment=image * (parsing == GARMENT)[..., None],
                flow=flow,
                transfer_scores=scores,
            )
            found.setdefault(name, []).append(border_figures(composed, pair))
    return [{"name": name, **_means(rows)} for name, rows in found.items()]


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over rows that have the same ones."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _run_pair(graphs: Graphs, person: Person, owner: Person, size: Size) -> dict[str, NDArray]:
    """Outputs of the graphs for one pair of people, fitted to `size`, without the batch axis."""
    inputs = stage_inputs(person, owner, size, None)
    outputs = graphs.run({name: inputs[name][None] for name in INPUTS})
    return {name: array[0] for name, array in outputs.items()}


def _person(arrays: Arrays, role: str) -> Person:
    """The person of a role, from arrays by the contract's names."""
    image, parsing, densepose = (np.asarray(arrays[f"{role}_{f}"], np.uint8) for f in _FIELDS)
    return Person(image, parsing, densepose)


def border_figures(composed: Composed, pair: Arrays) -> dict[str, float]:
    """A transfer at the photo's size against the truth of its pair.

    PSNR within 6 pixels of the true garment's border (`border_db`), of the garment inside that
    band (`inside_db`) and where the class changed or there is garment (`changed_db`), at most
    138 dB; and the `garment_iou`.
    """
    garment, own = pair["true_parsing"] == GARMENT, composed.parsing == GARMENT
    edge = cv2.morphologyEx(garment.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    side = 2 * _BAND + 1
    band = cv2.dilate(edge, np.ones((side, side), np.uint8)) > 0
    changed = (pair["true_parsing"] != pair["person_true_parsing"]) | garment
    error = (composed.image.astype(np.float64) - pair["true_image"]) ** 2

    def psnr(where: NDArray[np.bool_]) -> float:
        # no error would be infinitely good, which JSON cannot say
        return float(10 * np.log10(255**2 / max(error[where].mean(), 1e-9)))

    return {
        "border_db": psnr(band),
        "inside_db": psnr(garment & ~band),
        "changed_db": psnr(changed),
        "garment_iou": float((garment & own).sum() / (garment | own).sum()),
    }


def _small_flow(pair: Arrays, size: Size) -> NDArray[np.float32]:
    """The true flow at the bundle's size, float32 [2,h,w] in its pixels.

    Outside the garment that of its nearest pixel stands, as a network would continue it.
    """
    mask = (pair["true_parsing"] == GARMENT).astype(np.float32)
    share = resize(mask, size)
    planes = [resize(plane.astype(np.float32) * mask, size) for plane in pair["true_flow"]]
    flow = np.stack(planes) / np.maximum(share, 1e-3) * (size.height / mask.shape[0])
    y, x = distance_transform_edt(share < 0.5, return_distances=False, return_indices=True)
    return np.asarray(flow[:, y, x], np.float32)


def evaluate_skin(
    regrow: Callable[[Arrays], Arrays], people: Mapping[str, Person], size: Size
) -> Rows:
    """`regrown_skin` of everybody who shows some, a row each, and the mean of the rows."""
    found = {name: regrown_skin(regrow, person, size) for name, person in people.items()}
    shown = {name: figures for name, figures in found.items() if figures}
    rows: Rows = [{"name": name, **figures} for name, figures in shown.items()]
    if rows:
        rows.append({"name": "mean", **_means(list(shown.values()))})
    return rows


def regrown_skin(
    regrow: Callable[[Arrays], Arrays], person: Person, size: Size
) -> dict[str, float] | None:
    """The skin of a real photo erased, and painted anew by the graph `regrowth`, against the photo.

    All skin but hands is taken for garment of that garment's mean colour, and the person's own
    parsing for the transfer's; faces are a class of their own and stay. What is measured is the
    erased region less its outermost pixels, whose label may be wrong.

    Args:
        regrow: runs the graph, `HostEngine.run`.
        person: who is erased.
        size: of the bundle.

    Returns:
        `skin_error`, the mean absolute difference in grey levels; `flat_error`, the same of the
        photo's own mean colour; `tone_error`, the mean absolute difference of the mean colours;
        `light_correlation` of the low-pass luminance with the photo's, and `light_ratio` of their
        standard deviations. None where the person shows too little skin (under a thousandth of
        the picture).
    """
    given = stage_inputs(person, person, size, None)
    photo, parsing = given["person_image"], given["person_parsing"]
    erased = (parsing == SKIN) & ~np.isin(given["person_densepose"][..., 0], HAND_PARTS)
    counted = cv2.erode(erased.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if counted.mean() < 1e-3:
        return None
    inputs = given | {
        "person_image": np.where(erased[..., None], _mean_colour(given), photo),
        "person_parsing": np.where(erased, np.uint8(GARMENT), parsing),
        "transfer_parsing": parsing,
        "warped_garment": photo * (parsing == GARMENT)[..., None],
    }
    taken = {tensor.name: inputs[tensor.name][None] for tensor in _CONTRACT["regrowth"].inputs}
    image = regrow(taken)["image"][0]
    return skin_figures(np.asarray(image, np.uint8), photo, erased, counted)


def skin_figures(
    image: NDArray[np.uint8],
    photo: NDArray[np.uint8],
    skin: NDArray[np.bool_],
    counted: NDArray[np.bool_],
) -> dict[str, float]:
    """The figures of `regrown_skin`, of uint8 [H,W,3] pictures over `counted` pixels of `skin`."""
    own, true = (x[counted].astype(np.float64) for x in (image, photo))
    light, true_light = (_low_pass_luminance(x, skin)[counted] for x in (image, photo))
    deviation, true_deviation = light.std(), true_light.std()
    # one flat colour goes with nothing
    covariance = ((light - light.mean()) * (true_light - true_light.mean())).mean()
    return {
        "skin_error": float(np.abs(own - true).mean()),
        "flat_error": float(np.abs(true.mean(axis=0) - true).mean()),
        "tone_error": float(np.abs(own.mean(axis=0) - true.mean(axis=0)).mean()),
        "light_correlation": float(covariance / max(deviation * true_deviation, 1e-9)),
        "light_ratio": float(deviation / max(true_deviation, 1e-9)),
    }


def _low_pass_luminance(image: NDArray[np.uint8], region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Luminance [H,W] (Rec. 601) of a region alone, without detail of less than about 6 pixels at
    a height of 256."""
    inside = region.astype(np.float64)
    sigma = 3 * region.shape[0] / 256
    luminance = image @ np.array([0.299, 0.587, 0.114])
    total, weight = (cv2.GaussianBlur(x, (0, 0), sigma) for x in (luminance * inside, inside))
    return np.asarray(total / np.maximum(weight, 1e-9), np.float64)


def flow_round_trip(pipeline: Pipeline, person: Person, other: Person) -> NDArray[np.float32]:
    """How far from their start a garment's pixels end after a transfer and one back, in pixels [P].

    Each pixel of `person`'s garment goes to `other` and back by the flows of both transfers, at
    the bundle's size. Where these agree it comes home, which needs no truth of a real photo; of
    `other` it needs the same garment, all of it: the photo moved, or its mirror image.
    """
    moves = []
    for receiver, owner in ((person, other), (other, person)):
        outputs = _run_pair(pipeline, receiver, owner, pipeline.size)
        moves.append(np.asarray(outputs["flow"], np.float32))
    there, back = moves
    rows, columns = np.indices(there.shape[1:], np.float32)
    x, y = columns + there[0], rows + there[1]
    then = [cv2.remap(p, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for p in back]
    distance = np.linalg.norm(there + np.stack(then), axis=0)
    return np.asarray(distance[_fitted_garment(person, pipeline.size)], np.float32)


def _fitted_garment(person: Person, size: Size) -> NDArray[np.bool_]:
    """Where a person's garment is at the bundle's size, bool [h,w]."""
    return np.asarray(stage_inputs(person, person, size, None)["person_parsing"] == GARMENT)


def give_back(transfer: Transfer, person: Person) -> dict[str, float]:
    """A real person's own garment given back, through the networks like any other pair.

    Args:
        transfer: of the person's garment to the person.
        person: whose photo is the truth.

    Returns:
        SSIM over the pixels of garment and skin against the photo, of the transfer
        (`changed_ssim`) and of the garment filled with its mean colour (`flat_ssim`); IoU of
        garment, skin and, if there are any, arms against the person's own parsing. Arms are the
        skin beside torso and head: not all label sets know the neck.
    """
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


def cycle(pipeline: Pipeline, owner: Person, there: Transfer, person: Person) -> float:
    """How well the owner's garment comes back from a transfer `there` of it to `person`.

    Returns:
        SSIM over the owner's pixels of garment and skin against the owner's photo; 0 where nothing
        of the garment is left to give back.
    """
    wearer = Person(there.image, there.transfer_parsing, person.densepose)
    try:
        wearer.check_garment()
    except InputError:
        return 0.0
    counted = changed_pixels(owner.parsing, owner.parsing)
    return _similarity(pipeline.transfer(owner, wearer).image, owner.image, counted)


def evaluate_real(
    pipeline: Pipeline, people: Mapping[str, Person]
) -> tuple[Rows, dict[tuple[str, str], NDArray[np.uint8]]]:
    """Every pair of real people: a row per owner of a garment, an image per (person, owner).

    A row says how the owner's garment comes back, at once (`give_back`) and from everybody else,
    in the mean (`cycle`). Of flows it says how far the garment's pixels move where they should
    stay, given back (`own_px` and `median_own_px`), and how far from their start they end by way
    of the owner's mirror image (`mirror_px` and `median_mirror_px`, see `flow_round_trip`).
    """
    rows: Rows = []
    images: dict[tuple[str, str], NDArray[np.uint8]] = {}
    for name, owner in people.items():
        transfers = {other: pipeline.transfer(person, owner) for other, person in people.items()}
        images |= {(other, name): there.image for other, there in transfers.items()}
        own = transfers.pop(name)
        row: dict[str, float | str] = {"name": name, **give_back(own, owner)}
        cycles = [cycle(pipeline, owner, there, people[x]) for x, there in transfers.items()]
        if cycles:
            row["cycle_ssim"] = float(np.mean(cycles))
        moved = np.linalg.norm(own.flow, axis=0)[_fitted_garment(owner, pipeline.size)]
        row |= _mean_and_median("own_px", moved)
        photo = {f"person_{field}": getattr(owner, field) for field in _FIELDS}
        mirrored = _person(mirror(photo), "person")
        row |= _mean_and_median("mirror_px", flow_round_trip(pipeline, owner, mirrored))
        rows.append(row)
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
