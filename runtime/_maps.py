"""A photo is enough: who is in it, and their maps, by the graph `maps` of a bundle."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import BinaryIO, Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    BACKGROUND,
    CLASSES,
    Bundle,
    Code,
    Framing,
    InputError,
    Size,
)
from garment_transfer.runtime import sample_bundle
from garment_transfer.runtime.backends import DEVICE_BACKENDS, HostEngine, find_backend
from garment_transfer.runtime.photos import Box, Fit, Person, frame, read_photo

_LOG: Final = logging.getLogger(__name__)

_Map = npt.NDArray[np.uint8]
_Mask = npt.NDArray[np.bool_]

#: Where a frame moves by more than this share of itself, the photo is looked at once more.
_SETTLED: Final = 0.06
#: Times that a photo is looked at after the first, at most.
_LOOKS: Final = 3
#: Somebody of this share of the largest person's size makes it unclear whom a photo is about.
_RIVAL: Final = 0.6
#: Least rows of the photo that a person's frame takes.
_LEAST_ROWS: Final = 96
#: Share of a frame that shows nobody, should fewer of its pixels be body.
_LEAST_BODY: Final = 0.004
#: Mean confidence below which the maps of a photo are doubtful.
DOUBTFUL: Final = 0.8
_HEAD: Final = (23, 24)
_TORSO: Final = (1, 2)


class Maps:
    """The graph that makes maps of photos. May be used from several threads at once."""

    def __init__(self, engine: HostEngine, size: Size, framing: Framing) -> None:
        """From the loaded graph; `Maps.load` is the usual way."""
        self._engine = engine
        self._size = size
        self._framing = framing

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        backend: str = "onnxruntime",
        **options: object,
    ) -> Maps:
        """Loads the graph of a bundle into a backend of the CPU.

        Args:
            bundle: the bundle or its folder.
            backend: one of `backends.BACKENDS`; in place of one of a GPU ONNX Runtime runs it on
                the CPU, since the photos are there.
            options: those of the backend, such as `threads`.

        Raises:
            BundleError: the bundle is not valid, or has no such graph (`graph_missing`).
            BackendError: the backend cannot run here, or has no such option.
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle)
        if backend in DEVICE_BACKENDS:
            backend, options = "onnxruntime", {}
        load = find_backend(backend).load_maps
        assert load is not None  # every backend of the CPU has it
        engine = load(bundle, options)
        return cls(engine, bundle.manifest.size, bundle.manifest.framing)

    def person(
        self,
        photo: str | os.PathLike[str] | BinaryIO | _Map,
        name: str | None = None,
    ) -> Person:
        """The person whom a photo shows.

        Args:
            photo: a file, by its path or open for reading, that becomes upright sRGB; or uint8
                RGB [H,W,3].
            name: what messages call the person; the path where it is not given.

        Raises:
            InputError: the photo cannot be read, or shows nobody, several people alike or somebody
                too small (`body_missing`).
        """
        if isinstance(photo, np.ndarray):
            image = photo
        elif isinstance(photo, str | os.PathLike):
            image, name = read_photo(Path(photo)), name or str(photo)
        else:
            image = read_photo(photo, f"image of {name}" if name else "image")
        name = name or ""
        parsing, densepose, confidence = self._find(image, name or "the photo")
        person = Person(image, parsing, densepose, name, confidence)
        doubt = min(confidence.values(), default=1.0)
        if doubt < DOUBTFUL:
            worst = min(confidence, key=lambda key: confidence[key])
            _LOG.warning(
                "%s: the maps are doubtful, most of all %s (%.2f of 1); look at them (--panel), or "
                "give maps of other models (garment-transfer prepare)",
                name or "the photo",
                worst,
                doubt,
            )
        return person

    def _find(self, image: _Map, name: str) -> tuple[_Map, _Map, dict[str, float]]:
        """Parsing, DensePose and mean confidence by class of the person in a photo."""
        source = Size(*image.shape[:2])
        fit, before = Fit(source, self._size), Box(0, 0, source.height, source.width)
        parsing, densepose, sure = self._look(image, fit)
        people = _people(densepose[..., 0])
        _check_alone(people, densepose[..., 0], name)
        main = people[0]
        for _ in range(_LOOKS):
            box = frame(np.where(main, densepose[..., 0], np.uint8(0)), self._framing, self._size)
            found = _in_photo(box, fit)
            if _agree(found, before):
                break
            place = fit
            fit, before = Fit(source, self._size, found), found
            parsing, densepose, sure = self._look(image, fit)
            there = _carried(main, place, fit)
            people = _people(densepose[..., 0])
            if not people:
                raise _nobody(name)
            # whom the first look was about, or else who fills the frame
            main = max(people, key=lambda one: (np.count_nonzero(one & there), one.sum()))
        if found.height < _LEAST_ROWS:
            raise InputError(
                Code.BODY_MISSING,
                f"{name} shows somebody who is too small: from head to hips about {found.height} "
                f"of its {source.height} rows",
                expected=f"at least {_LEAST_ROWS}",
                fix="choose a photo from nearer by, or one of more pixels",
            )
        own = _belonging(main, people)
        parsing = np.where(own, parsing, np.uint8(BACKGROUND))
        densepose = np.where(main[..., None], densepose, np.uint8(0))
        counts = np.bincount(parsing.reshape(-1), minlength=len(CLASSES))
        sums = np.bincount(parsing.reshape(-1), sure.reshape(-1) / 255, len(CLASSES))
        confidence = {
            CLASSES[label]: float(sums[label] / counts[label])
            for label in range(1, len(CLASSES))
            if counts[label]
        }
        return _enlarged(parsing, fit), fit.unfit_map(densepose), confidence

    def _look(self, image: _Map, fit: Fit) -> tuple[_Map, _Map, _Map]:
        """Parsing, DensePose and confidence of what is seen in a box of a photo, in its frame."""
        seen = self._engine.run({"image": fit.photo(image)[None]})
        parsing, densepose, sure = (
            np.array(seen[name][0], np.uint8)
            for name in ("parsing", "densepose", "parsing_confidence")
        )
        outside = fit.map(np.ones(image.shape[:2], np.uint8)) == 0
        parsing[outside], densepose[outside] = BACKGROUND, 0
        return parsing, densepose, sure


def _nobody(name: str) -> InputError:
    return InputError(
        Code.BODY_MISSING,
        f"{name} shows nobody, or nobody large enough to be found",
        expected="one person, upright, with head and torso in the photo",
        fix="choose another photo, or give a person's folder with maps (garment-transfer prepare)",
    )


def _people(parts: _Map) -> list[_Mask]:
    """Where each person is by the parts [H,W], the largest first.

    A person is what is joined, or nearly, and has a head or a torso; what has neither, such as a
    hand beyond a strap, belongs to the person next to it.
    """
    joined = cv2.dilate((parts > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
    count, labels = cv2.connectedComponents(joined)
    labels = np.where(parts > 0, labels, 0)
    core = np.isin(parts, (*_HEAD, *_TORSO))
    areas = np.bincount(labels.reshape(-1), minlength=count)[1:]
    cores = np.bincount(labels[core], minlength=count)[1:]
    least = max(_LEAST_BODY * parts.size, 0.02 * areas.max(initial=0))
    whole = [i for i in np.argsort(-areas) if areas[i] >= least and cores[i] >= 0.15 * areas[i]]
    people = [labels == i + 1 for i in whole]
    rest = (labels > 0) & ~np.any([np.zeros(parts.shape, bool), *people], axis=0)
    if people and rest.any():
        nearest = np.argmin([_distance(one) for one in people], axis=0)
        near = rest & (_distance(people[0] if len(people) == 1 else np.any(people, 0)) < 0.06 * len(parts))
        people = [one | near & (nearest == i) for i, one in enumerate(people)]
    return people


def _distance(mask: _Mask) -> npt.NDArray[np.float32]:
    """How far each pixel is from a mask, in pixels."""
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3), np.float32)


def _check_alone(people: list[_Mask], parts: _Map, name: str) -> None:
    """Raises InputError unless it is clear whom a photo is about."""
    if not people:
        raise _nobody(name)
    heads = people[0] & np.isin(parts, _HEAD)
    _, _, stats, _ = cv2.connectedComponentsWithStats(heads.astype(np.uint8))
    areas = np.sort(stats[1:, cv2.CC_STAT_AREA])[::-1]
    sizes = [np.count_nonzero(one) for one in people]
    several = len(areas) > 1 and areas[1] >= _RIVAL * areas[0]
    if several or len(sizes) > 1 and sizes[1] >= _RIVAL * sizes[0]:
        raise InputError(
            Code.BODY_MISSING,
            f"{name} shows several people of about one size",
            expected="one person, or one who is clearly the largest",
            fix="cut the photo so that it shows one of them",
        )


def _in_photo(box: Box, fit: Fit) -> Box:
    """A box of a frame as a box of the photo, of the frame's aspect."""
    left, top = fit.to_source(box.left - 0.5, box.top - 0.5)
    scale = fit.scale[1]
    return Box(
        top=round(top + 0.5),
        left=round(left + 0.5),
        height=max(1, round(box.height / scale)),
        width=max(1, round(box.height / scale * fit.target.width / fit.target.height)),
    )


def _agree(found: Box, before: Box) -> bool:
    """Whether two boxes are as good as one."""
    moves = (
        found.top - before.top,
        found.top + found.height - before.top - before.height,
        found.left + found.width / 2 - before.left - before.width / 2,
    )
    return max(map(abs, moves)) <= _SETTLED * found.height


def _carried(mask: _Mask, old: Fit, new: Fit) -> _Mask:
    """A mask of one frame of a photo in another."""
    (a, b), (c, d) = (old.to_target(*new.to_source(float(v), float(v))) for v in (0, 1))
    back = np.array([[c - a, 0, a], [0, d - b, b]])
    moved = cv2.warpAffine(
        mask.astype(np.uint8),
        back,
        (new.target.width, new.target.height),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
    )
    return np.asarray(moved > 0)


def _belonging(main: _Mask, people: list[_Mask]) -> _Mask:
    """Where a person and what they wear may be: near their body, and nearer than to another's."""
    rows = np.flatnonzero(main.any(1))
    own = _distance(main)
    near = own <= 0.3 * (rows[-1] + 1 - rows[0])
    for other in people:
        if other is not main:
            near &= own <= _distance(other)
    return near


def _enlarged(parsing: _Map, fit: Fit) -> _Map:
    """A framed parsing at the photo's size, its borders smooth: each class enlarged for itself."""
    labels = [int(label) for label in np.unique(parsing)]
    if fit.scale[1] >= 1 or len(labels) == 1:
        return fit.unfit_map(parsing)
    size = fit.boxed
    best = np.zeros((size.height, size.width), np.uint8)
    out = np.zeros_like(best)
    for label in labels:
        plane = cv2.GaussianBlur((fit.crop(parsing) == label) * np.uint8(255), (3, 3), 0)
        plane = cv2.resize(plane, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
        out[plane > best] = label
        np.maximum(best, plane, out=best)
    return fit.place(out)
