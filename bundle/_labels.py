"""The seven classes that every parsing of this package uses, and the label sets they come from.

A parsing is an array of class ids, uint8. Files carry the ids of the data set they come from;
the ids of different sets overlap, so the set is named (`meta.json`, an option) and never guessed.
`labels.json` has both; the C++ library reads the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from garment_transfer.bundle._errors import Code, InputError

BACKGROUND: Final = 0
HAIR: Final = 1
FACE: Final = 2
SKIN: Final = 3
GARMENT: Final = 4
LOWER: Final = 5
LEGS: Final = 6

#: The id that parsers give pixels they do not decide on, in every label set: background.
IGNORED: Final = 255

#: How many values a DensePose part id has: 0 is the background, 1 to 24 are parts of the body.
NUM_PARTS: Final = 25


#: An RGB colour per id.
ColourMap = Mapping[int, tuple[int, int, int]]


class LabelSet(Struct, frozen=True):
    """The ids that a data set's parse maps use.

    `classes` maps each id to one of the seven classes. Ids in `whole_body` are garments that go
    on below the hips (dress, jumpsuit): the part above is upper garment, the part below lower.
    Ids in `with_neck` are faces down to the collar: what lies on a torso part of DensePose is
    skin. Those in `added` are no classes of the parser, but another program's. Those in
    `in_front` are things that a person carries. `colours` are the colour maps that programs draw
    its ids in.
    """

    name: str
    classes: Mapping[int, int]
    whole_body: frozenset[int] = frozenset()
    with_neck: frozenset[int] = frozenset()
    added: frozenset[int] = frozenset()
    in_front: frozenset[int] = frozenset()
    colours: tuple[ColourMap, ...] = ()


_LABELS: Final = json.loads(Path(__file__).with_name("labels.json").read_bytes())

#: Names of the classes in the order of their ids, as the bundle's manifest lists them.
CLASSES: Final[tuple[str, ...]] = tuple(_LABELS["classes"])


def voc_colour(value: int) -> tuple[int, int, int]:
    """The colour of an id by PASCAL VOC's colour map (its development kit's VOClabelcolormap).

    Bits 0, 3, 6 of the id are the highest bits of red, downwards; 1, 4, 7 those of green; 2 and 5
    those of blue.
    """
    red, green, blue = (
        sum((value >> 3 * place + channel & 1) << 7 - place for place in range(3))
        for channel in range(3)
    )
    return red, green, blue


def _label_set(name: str, found: Mapping[str, Any]) -> LabelSet:
    """A label set as `labels.json` has it."""
    classes = {each["id"]: CLASSES.index(each["class"]) for each in found["ids"]}
    colours = [{value: voc_colour(value) for value in (*classes, IGNORED)}]
    if "colours" in found:
        colours.insert(0, dict(zip(classes, found["colours"], strict=True)))
    fields = {**found, "name": name, "classes": classes, "colours": colours}
    return msgspec.convert(fields, LabelSet)


LABEL_SETS: Final[Mapping[str, LabelSet]] = {
    name: _label_set(name, found) for name, found in _LABELS["label_sets"].items()
}


def label_set(name: str, of: str = "") -> LabelSet:
    """The label set of a name. Raises InputError, which says `of` what, where there is none."""
    try:
        return LABEL_SETS[name]
    except (KeyError, TypeError):  # not a name at all
        raise InputError(
            Code.LABEL_SET_UNKNOWN,
            f"{of and f'{of}: '}unknown label set {name!r}",
            expected=f"one of {', '.join(sorted(LABEL_SETS))}",
            fix='name the one the parse map uses in meta.json ("parse") or with '
            "`transfer --label-set` / label_set=",
        ) from None


def border_width(height: int) -> int:
    """How far, in pixels, the border of a label map of this height may be off: 3 at 256.

    The regrowth graph and the compositing at the photo's own size repaint as much around what
    vanished.
    """
    return max(1, 3 * height // 256)
