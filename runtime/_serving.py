"""What servers of a pipeline share: warming it up, and the two people of a request."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Final, cast

from garment_transfer.bundle import Code, InputError
from garment_transfer.runtime import sample_people
from garment_transfer.runtime._pipeline import Pipeline
from garment_transfer.runtime.photos import Person, photo_size

_FIELDS: Final = ("image", "parsing", "densepose", "label_set", "encoding")

#: What messages call the people, by how the names of their fields begin.
_WHO: Final = {"person": "person", "garment": "garment owner"}

#: The fields of a request: files, and the names of what the maps hold.
REQUEST_FIELDS: Final = tuple(f"{role}_{field}" for role in _WHO for field in _FIELDS)

# What fixes these in a request, where the package speaks of its own options.
_FIXES: Final = {
    Code.LABEL_SET_UNKNOWN: "name the parse map's own in person_label_set or garment_label_set",
    Code.LABEL_SET_MISMATCH: "name the parse map's own label set in person_label_set or "
    "garment_label_set, and send the map as the parser wrote it",
    Code.DENSEPOSE_ENCODING_UNKNOWN: "name the file's own in person_encoding or garment_encoding",
    Code.BODY_AMBIGUOUS: "crop the photo and its maps to the person who is meant",
}
_FILE_OF_SOMEBODY: Final = re.compile(r"\b(image|parsing|densepose) of (person|garment)( owner)?\b")


def warm_up(pipeline: Pipeline, batch: int = 1) -> None:
    """Runs every graph on the people in the package, so that no request waits for a first run.

    Args:
        pipeline: what is to be warm.
        batch: pairs of the largest batch to come; a batch of 1 is run too.

    Raises:
        GarmentTransferError: as of `Pipeline.transfer_batch`; the server could not run requests.
    """
    folders = sample_people()
    person, owner = map(Person.load, folders)
    for count in sorted({1, batch}):
        pipeline.transfer_batch([person] * count, [owner] * count)
    if pipeline.bundle.manifest.maps is not None:
        with contextlib.suppress(InputError):  # a bundle of one's own may see others there
            pipeline.person(next(folders[0].glob("image.*")))


def check_megapixels(fields: Mapping[str, BinaryIO | str], most: float) -> None:
    """Raises InputError (`image_size`) where a file's header says that it has more pixels.

    Nothing is decoded. NumPy files, and what their readers will refuse, have none.

    Args:
        fields: as of `read_request`.
        most: the megapixels that the photo and each map may have.
    """
    for name, file in fields.items():
        try:
            height, width = (None if isinstance(file, str) else photo_size(file)) or (0, 0)
        except InputError:  # too large to say
            height = width = 1 << 20
        if height * width > 1e6 * most:
            raise InputError(
                Code.IMAGE_SIZE,
                f"{name} has more than {most:g} megapixels",
                fix="scale the photo and its maps down first",
            )


def read_request(pipeline: Pipeline, fields: Mapping[str, BinaryIO | str]) -> tuple[Person, Person]:
    """The person and the garment's owner of a request, checked as far as it goes before a run.

    Args:
        pipeline: makes the maps of photos that come without.
        fields: `person_image` and `garment_image`; where a photo has maps, of the same role also
            `_parsing`, `_densepose`, `_label_set` and `_encoding`. Files are open for reading, and
            what they hold is that of `Person.from_files`.

    Raises:
        InputError: in the names of the fields; maps are not whole (`person_incomplete`), or as of
            `Person.from_files`, `Maps.person` and `Pipeline.transfer`.
        BundleError: a photo comes alone, and the bundle makes no maps (`graph_missing`).
        BackendError: the graph that makes them fails.
    """
    try:
        with ThreadPoolExecutor(2) as pool:  # decoders run side by side
            person, owner = pool.map(lambda role: _read(pipeline, role, fields), _WHO)
        # here, because they would fail the whole batch
        person.check_view("the")
        owner.check_view("the")
        owner.check_garment("the")
    except InputError as error:
        what, expected, fix = (
            _FILE_OF_SOMEBODY.sub(r"\2_\1", text)
            for text in (error.what, error.expected, _FIXES.get(error.code, error.fix))
        )
        raise InputError(error.code, what, expected=expected, fix=fix) from error
    return person, owner


def _read(pipeline: Pipeline, role: str, fields: Mapping[str, BinaryIO | str]) -> Person:
    names = [f"{role}_{field}" for field in _FIELDS]
    missing = [name for name in names if name not in fields]
    if missing == names[1:]:
        return pipeline.maps.person(cast(BinaryIO, fields[names[0]]), _WHO[role])
    if missing:
        raise InputError(
            Code.PERSON_INCOMPLETE,
            f"the request lacks {', '.join(missing)}",
            fix="send a photo alone, or with its maps, their label set and their encoding",
        )
    image, parsing, densepose = (cast(BinaryIO, fields[name]) for name in names[:3])
    label_set, encoding = (str(fields[name]) for name in names[3:])
    return Person.from_files(image, parsing, densepose, label_set, encoding, _WHO[role])
