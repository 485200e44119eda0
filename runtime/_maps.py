"""A photo is enough: who is in it, and their maps, by the graph `maps` of a bundle."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    BACKGROUND,
    CLASSES,
    FACE,
    SKIN,
    Bundle,
    Code,
    Framing,
    InputError,
    Size,
)
from garment_transfer.kernels.upsample_labels import upsample_labels
from garment_transfer.runtime import sample_bundle
from garment_transfer.runtime.backends import DEVICE_BACKENDS, HostEngine, find_backend
from garment_transfer.runtime.photos import (
    Box,
    Fit,
    Person,
    check_body,
    choose_body,
    frame,
    read_photo,
)

_LOG: Final = logging.getLogger(__name__)

_Map = npt.NDArray[np.uint8]

#: Where a frame moves by more than this share of itself, the photo is looked at once more.
_SETTLED: Final = 0.06
#: Times that a photo is looked at after the first, at most.
_LOOKS: Final = 3
#: Least rows of the photo that a person's frame takes.
_LEAST_ROWS: Final = 96
#: Faces that are smaller than this share of the largest one are skin.
_LEAST_FACE: Final = 0.6
#: Mean confidence below which the maps of a photo are doubtful: of 48 rendered people six were, and
#: half of these had a garment of an IoU below 0.75, of the others one in forty.
DOUBTFUL: Final = 0.93


@dataclass(frozen=True, eq=False)
class Found:
    """Maps of a photo, and the person in it.

    Attributes:
        parsing: uint8 [H,W], the seven classes.
        densepose: uint8 IUV [H,W,3].
        frame: the box that the person was seen in; both maps are 0 outside.
        confidence: how sure the network is of each class, 0 to 1, in the mean over its pixels.
    """

    parsing: _Map
    densepose: _Map
    frame: Box
    confidence: Mapping[str, float]


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
                the CPU, where the photos are.
            options: those of the backend, such as `threads`.

        Raises:
            BundleError: the bundle is not valid, or has no such graph (`graph_missing`).
            BackendError: the backend cannot run here, or has no such option.
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle)
        if backend in DEVICE_BACKENDS:
            backend, options = "onnxruntime", {}
        engine = find_backend(backend).load_maps(bundle, options)
        return cls(engine, bundle.manifest.size, bundle.manifest.framing)

    def person(
        self,
        photo: str | os.PathLike[str] | BinaryIO | _Map,
        name: str = "",
        box: Box | None = None,
    ) -> Person:
        """The person whom a photo shows, with `Person.confidence`; doubtful maps are logged.

        Args:
            photo: a file, by its path or open for reading, that becomes upright sRGB; or uint8
                RGB [H,W,3].
            name: what messages call the person; the path where it is empty.
            box: of the person who is meant, roughly, where there are several.

        Raises:
            InputError: the photo cannot be read, or shows nobody, somebody too small
                (`body_missing`), or several people (`body_ambiguous`) and `box` chooses none.
            BackendError: the graph fails.
        """
        if isinstance(photo, np.ndarray):
            image = photo
        elif isinstance(photo, str | os.PathLike):
            name = name or str(photo)
            image = read_photo(Path(photo))
        elif hasattr(photo, "read"):
            image = read_photo(photo, f"image of {name}" if name else "image")
        else:
            raise InputError(
                Code.ARRAY_INVALID,
                f"the photo is a {type(photo).__name__}",
                expected="a path, a file open for reading, or uint8 RGB [H,W,3]",
            )
        name = name or "the photo"
        found = self.find(image, name, box)
        person = Person._build(
            image,
            found.parsing,
            found.densepose,
            "classes7",
            "iuv-png",
            name=name,
            array_names=(name, f"parsing of {name}", f"densepose of {name}"),
            box=found.frame,
            checked=False,
        )
        return replace(person, confidence=found.confidence)

    def find(self, image: _Map, name: str = "the photo", box: Box | None = None) -> Found:
        """What the network says of a photo, uint8 RGB [H,W,3]; `name`, `box` and errors: `person`.

        The maps may show others beside the person.
        """
        source = Size(*image.shape[:2])
        fit, before = Fit(source, self._size), Box(0, 0, source.height, source.width)
        parsing, iuv, sure = self._look(image, fit, name)
        for look in range(_LOOKS):
            own, _ = choose_body(iuv, before if look else box, name)
            found = frame(own, self._framing, self._size)
            if _agree(found, before):
                break
            fit, before = Fit(source, self._size, found), found
            parsing, iuv, sure = self._look(image, fit, name)
        if found.height < _LEAST_ROWS:
            raise InputError(
                Code.BODY_MISSING,
                f"{name} shows somebody who is too small: from head to hips about {found.height} "
                f"of its {source.height} rows",
                expected=f"at least {_LEAST_ROWS}",
                fix="choose a photo from nearer by, or one of more pixels",
            )
        parsing = _without_specks(parsing)
        return Found(upsample_labels(image, parsing, fit), iuv, found, _confidence(parsing, sure, name))

    def _look(self, image: _Map, fit: Fit, name: str) -> tuple[_Map, _Map, _Map]:
        """What is seen in a box of a photo: parsing, confidence (in the frame), IUV (photo)."""
        seen = self._engine.run({"image": fit.photo(image)[None]})
        parsing, iuv, sure = (
            np.asarray(seen[name][0], np.uint8)
            for name in ("parsing", "densepose", "parsing_confidence")
        )
        iuv = _unfit(iuv, fit)
        try:
            check_body(iuv, name)
        except InputError as error:
            raise InputError(
                Code.BODY_MISSING,
                f"{name} shows nobody, or nobody large enough to be found",
                expected="one person, upright, with head and torso in the photo",
                fix="choose another photo, or give a person's folder with maps (garment-transfer "
                "prepare)",
            ) from error
        return parsing, iuv, sure


def _without_specks(parsing: _Map) -> _Map:
    """A parsing whose face is skin where it is a speck: on a hand or a chest, which would stay."""
    face = (parsing == FACE).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(face, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    specks = areas < _LEAST_FACE * areas[1:].max(initial=0)
    specks[0] = False
    return np.where(specks[labels], np.uint8(SKIN), parsing) if count > 2 else parsing


def _confidence(parsing: _Map, sure: _Map, name: str) -> dict[str, float]:
    """The mean confidence of each class that a map has; a warning is logged where it is low."""
    counts = np.bincount(parsing.reshape(-1), minlength=len(CLASSES))
    sums = np.bincount(parsing.reshape(-1), sure.reshape(-1) / 255, len(CLASSES))
    shown = [label for label in range(len(CLASSES)) if counts[label] and label != BACKGROUND]
    confidence = {CLASSES[label]: float(sums[label] / counts[label]) for label in shown}
    overall = float(sums[shown].sum() / max(counts[shown].sum(), 1))
    if overall < DOUBTFUL:
        each = ", ".join(f"{key} {share:.2f}" for key, share in confidence.items())
        _LOG.warning(
            "%s: its maps are doubtful (confidence %.2f: %s); look at them with --panel, or make "
            "them with other models by `garment-transfer prepare`",
            name,
            overall,
            each,
        )
    return confidence


@functools.cache
def built_in() -> Maps:
    """The graph in the package, in ONNX Runtime."""
    return Maps.load(sample_bundle())


def _agree(found: Box, before: Box) -> bool:
    """Whether two boxes are as good as one."""
    moves = (
        found.top - before.top,
        found.top + found.height - before.top - before.height,
        found.left + found.width / 2 - before.left - before.width / 2,
    )
    return max(map(abs, moves)) <= _SETTLED * found.height


def _unfit(framed: _Map, fit: Fit) -> _Map:
    """A framed map back at the photo's size, by nearest neighbours; 0 around the box."""
    size = (fit.shown.width, fit.shown.height)
    boxed = cv2.resize(fit.crop(framed), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return _placed(np.asarray(boxed, np.uint8), fit)


def _placed(boxed: _Map, fit: Fit) -> _Map:
    """What is at the box's size at that of the photo; 0 around the box."""
    whole = np.zeros((fit.source.height, fit.source.width, *boxed.shape[2:]), np.uint8)
    rows, columns = fit.window
    top, left = rows.start - fit.shown.top, columns.start - fit.shown.left
    part = boxed[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]
    whole[rows, columns] = part
    return whole
