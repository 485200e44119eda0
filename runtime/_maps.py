"""A photo is enough: who is in it, and their maps, by the graph `maps` of a bundle."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import BinaryIO, Final

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    BACKGROUND,
    CLASSES,
    FACE,
    GARMENT,
    HAIR,
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
    FOREARMS,
    HANDS,
    HEAD,
    Box,
    Fit,
    Person,
    check_body,
    check_box,
    choose_body,
    frame,
    is_any,
    of_nearest,
    read_photo,
    resize_map,
)

_LOG: Final = logging.getLogger(__name__)

_Map = npt.NDArray[np.uint8]
_Mask = npt.NDArray[np.bool_]

#: Where a frame moves by more than this share of itself, the photo is looked at once more.
_SETTLED: Final = 0.06
#: Times that a photo is looked at after the first, at most.
_LOOKS: Final = 3
#: Least rows of the photo that a person's frame takes.
_LEAST_ROWS: Final = 96
#: A piece of face below this share of the largest one is no face.
_LEAST_FACE: Final = 0.6
#: The same of hair, heads and hands.
_LEAST_PIECE: Final = 0.1
#: A piece of skin of so many pixels of the frame is a sleeve where its colour is so many times
#: nearer to that of the garment around it than to the face's, and garment and face differ by more
#: than so many levels.
_LEAST_SLEEVE: Final = 16
_NEARER: Final = 4
_APART: Final = 60
#: Pixels of the frame around a piece that count as beside it.
_BESIDE: Final = 4
#: Mean confidence below which the maps of a photo are doubtful: of 192 rendered people eleven were.
#: The garment had an IoU below 0.75 in five of the eleven, and in ten of the other 181.
_DOUBTFUL: Final = 0.93
#: Below this they are refused: the least of these 192 was 0.90; three photos that had less, of a
#: pressure suit and of people in a crowd and in a street, had useless maps.
_USELESS: Final = 0.8


@dataclass(frozen=True, eq=False)
class Found:
    """Maps of a photo, and the person in it.

    Attributes:
        parsing: uint8 [H,W], the seven classes.
        densepose: uint8 IUV [H,W,3].
        frame: the box that the person was seen in; both maps are 0 outside.
        confidence: how sure the network is of each class, 0 to 1, in the mean over its pixels.
        overall: the same over the pixels of all classes but the background.
    """

    parsing: _Map
    densepose: _Map
    frame: Box
    confidence: Mapping[str, float]
    overall: float


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the network sees in a box of a photo, all in the frame.

    Attributes:
        fit: where the box lies in the frame.
        image: the photo, uint8 RGB [h,w,3].
        parsing: uint8 [h,w], the seven classes.
        sure: uint8 [h,w], how sure it is of them.
        densepose: uint8 IUV [h,w,3].
    """

    fit: Fit
    image: _Map
    parsing: _Map
    sure: _Map
    densepose: _Map

    @cached_property
    def iuv(self) -> _Map:
        """`densepose` at the photo's size, by nearest neighbours; 0 around the box."""
        box = self.fit.shown
        whole = np.zeros((self.fit.source.height, self.fit.source.width, 3), np.uint8)
        boxed = resize_map(self.fit.crop(self.densepose), Size(box.height, box.width))
        rows, columns = self.fit.window
        whole[rows, columns] = boxed[
            rows.start - box.top : rows.stop - box.top,
            columns.start - box.left : columns.stop - box.left,
        ]
        return whole


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
            InputError: the photo cannot be read, or shows nobody, somebody too small or who cannot
                be made out (`body_missing`), or several people (`body_ambiguous`) of whom `box`
                chooses none.
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
            box=box or found.frame,
            built_in=True,
        )
        return replace(person, confidence=found.confidence)

    def find(self, image: _Map, name: str = "the photo", box: Box | None = None) -> Found:
        """What the network says of a photo, uint8 RGB [H,W,3]; `name`, `box` and errors: `person`.

        The maps may show others beside the person; doubtful ones are logged, useless ones refused.
        """
        check_box(box)
        source = Size(*image.shape[:2])
        seen, own = self._first_look(image, name, box)
        for look in range(_LOOKS):
            if look:
                own, _ = choose_body(seen.iuv, box or seen.fit.shown, name)
            found = frame(own, self._framing, self._size)
            if _agree(found, seen.fit.shown):
                break
            seen = self._look_for_body(image, Fit(source, self._size, found), name)
        if found.height < _LEAST_ROWS:
            raise InputError(
                Code.BODY_MISSING,
                f"{name} shows somebody who is too small: from head to hips about {found.height} "
                f"of its {source.height} rows",
                expected=f"at least {_LEAST_ROWS}",
                fix="choose a photo from nearer by, or one of more pixels",
            )
        maps = _found(image, seen, found)
        each = ", ".join(f"{key} {share:.2f}" for key, share in maps.confidence.items())
        confidence = f"confidence {maps.overall:.2f}: {each}"
        if maps.overall < _USELESS:
            raise InputError(
                Code.BODY_MISSING,
                f"{name} shows somebody whose body and clothes cannot be made out ({confidence})",
                expected=f"a confidence of at least {_USELESS}",
                fix="choose a photo with less around or in front of the person, or make the maps "
                "with other models by `garment-transfer prepare --parser`",
            )
        if maps.overall < _DOUBTFUL:
            _LOG.warning(
                "%s: its maps are doubtful (%s), below %s; look at them with --panel or by "
                "`garment-transfer prepare`, or make them with other models by its --parser",
                name,
                confidence,
                _DOUBTFUL,
            )
        return maps

    def _first_look(self, image: _Map, name: str, box: Box | None) -> tuple[_Seen, _Map]:
        """What the whole photo shows, or the surroundings of a box in which it shows nobody.

        And the DensePose of the person who is meant.
        """
        source = Size(*image.shape[:2])
        try:
            seen = self._look_for_body(image, Fit(source, self._size), name)
            return seen, choose_body(seen.iuv, box, name)[0]
        except InputError as error:
            around = _surroundings(box, source, self._size) if box else None
            if error.code is not Code.BODY_MISSING or around is None:
                raise
        fit = Fit(source, self._size, around)
        seen = self._look_for_body(image, fit, f"{name} in the box {box}")
        return seen, choose_body(seen.iuv, box, name)[0]

    def _look(self, image: _Map, fit: Fit) -> _Seen:
        framed = fit.photo(image)
        found = self._engine.run({"image": framed[None]})
        maps = (
            np.asarray(found[name][0], np.uint8)
            for name in ("parsing", "parsing_confidence", "densepose")
        )
        return _Seen(fit, framed, *maps)

    def _look_for_body(self, image: _Map, fit: Fit, name: str) -> _Seen:
        seen = self._look(image, fit)
        try:
            check_body(seen.iuv, name)
        except InputError as error:
            raise InputError(
                Code.BODY_MISSING,
                f"{name} shows nobody, or nobody large enough to be found",
                expected="one person, upright, with head and torso in the photo",
                fix="choose another photo, or give a person's folder with maps (garment-transfer "
                "prepare)",
            ) from error
        return seen


def _surroundings(box: Box, source: Size, target: Size) -> Box | None:
    """A box, less what is outside the photo, grown to the aspect of `target`, and twice that.

    None where the box is outside, or its surroundings are larger than the photo.
    """
    top, left = max(box.top, 0), max(box.left, 0)
    rows = min(box.top + box.height, source.height) - top
    columns = min(box.left + box.width, source.width) - left
    height = 2 * max(rows, -(-columns * target.height // target.width))
    width = max(height * target.width // target.height, 1)
    if min(rows, columns) <= 0 or (height >= source.height and width >= source.width):
        return None
    return Box(top + (rows - height) // 2, left + (columns - width) // 2, height, width)


def _found(image: _Map, seen: _Seen, box: Box) -> Found:
    seen = _corrected(seen)
    labels = seen.parsing.reshape(-1)
    counts = np.bincount(labels, minlength=len(CLASSES))
    sums = np.bincount(labels, seen.sure.reshape(-1) / 255, len(CLASSES))
    shown = [label for label in range(len(CLASSES)) if counts[label] and label != BACKGROUND]
    return Found(
        upsample_labels(image, seen.image, seen.parsing, seen.fit),
        seen.iuv,
        box,
        {CLASSES[label]: float(sums[label] / counts[label]) for label in shown},
        float(sums[shown].sum() / max(counts[shown].sum(), 1)),
    )


def _corrected(seen: _Seen) -> _Seen:
    """The same without the pieces that cannot be what they are labelled.

    Of several faces the small ones are skin: they lie on a hand or a chest, and would stay. A small
    piece of hair far from the face takes the labels beside it, and one of a head or a hand the
    parts, but not where it is of somebody farther away, whose head is small. Skin of the colour of
    the garment around it is a sleeve, and no hand.
    """
    parsing, densepose = seen.parsing.copy(), seen.densepose.copy()
    parsing[_small_pieces(parsing == FACE, _LEAST_FACE)] = SKIN
    hair = _small_pieces(parsing == HAIR, _LEAST_PIECE)
    hair &= ~_pieces_at(hair, _around(parsing == FACE))
    _fill(parsing, hair, ~hair & (parsing != BACKGROUND))

    body = densepose[..., 0] > 0
    heads, hands, forearms = (is_any(densepose[..., 0], of) for of in (HEAD, HANDS, FOREARMS))
    small = _small_pieces(heads, _LEAST_PIECE)
    main = _pieces_at(body, heads & ~small)
    wrong = (small | _small_pieces(hands, _LEAST_PIECE)) & main
    _fill(densepose, wrong, body & ~wrong)

    sleeves = _sleeves(seen.image, parsing)
    parsing[sleeves] = GARMENT
    arms = _pieces_at(sleeves, hands | forearms)
    wrong = (arms & hands) | (_around(_around(arms)) & (parsing == GARMENT) & ~body)
    _fill(densepose, wrong, forearms)
    return replace(seen, parsing=parsing, densepose=densepose)


def _sleeves(image: _Map, parsing: _Map) -> _Mask:
    """Where skin has the colour of the garment around it, bool [h,w]."""
    garment, face = parsing == GARMENT, parsing == FACE
    sleeves = np.zeros(face.shape, bool)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats((parsing == SKIN).view(np.uint8))
    for index in range(1, count):
        if stats[index, cv2.CC_STAT_AREA] < _LEAST_SLEEVE:
            continue
        piece = pieces == index
        own, cloth, skin = (_colour(image, of) for of in (piece, _around(piece) & garment, face))
        is_cloth = _NEARER**2 * _squared_distance(own, cloth) < _squared_distance(own, skin)
        if is_cloth and _squared_distance(cloth, skin) > _APART**2:
            sleeves |= piece
    return sleeves


def _small_pieces(mask: _Mask, least: float) -> _Mask:
    """The connected pieces of a mask whose area is below a share of the largest one's."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # of what is around
    return np.asarray((areas < least * areas.max())[pieces] & mask)


def _pieces_at(mask: _Mask, places: _Mask) -> _Mask:
    """The connected pieces of a mask that have some of the places."""
    count, pieces = cv2.connectedComponents(mask.view(np.uint8))
    chosen = np.zeros(count, bool)
    chosen[pieces[places & mask]] = True
    return np.asarray(chosen[pieces])


def _fill(values: _Map, where: _Mask, known: _Mask) -> None:
    """Gives what is marked the value of the nearest known pixel, if there is one."""
    if where.any() and known.any():
        values[where] = of_nearest(values, known)[where]


def _around(mask: _Mask) -> _Mask:
    """A mask and what lies beside it."""
    square = np.ones((2 * _BESIDE + 1,) * 2, np.uint8)
    return cv2.dilate(mask.view(np.uint8), square).view(np.bool_)


def _colour(framed: _Map, mask: _Mask) -> npt.NDArray[np.float64]:
    """The mean colour of what is marked, not a number where nothing is."""
    return np.array(cv2.mean(framed, mask.view(np.uint8))[:3]) if mask.any() else np.full(3, np.nan)


def _squared_distance(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(np.square(one - other).sum())


@cache
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
