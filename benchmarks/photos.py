"""Photos as people have them, made of rendered people: which are right, refused, or wrong silently.

    python -m garment_transfer.benchmarks.photos make FOLDER --seed 1
    python -m garment_transfer.benchmarks.photos run FOLDER... --json photos.json

`make` writes a folder per input; `run` transfers each and compares it with what is due. To measure
another release on the same inputs, run this file by its path with that release installed: `run`
uses the public API alone.
"""

import contextlib
import functools
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

U8 = npt.NDArray[np.uint8]
Person = tuple[U8, U8, U8]  #: photo, parsing of the seven classes, IUV; all of one size

_GARMENT: Final = 4
#: Least IoU of the garment with that of the same pixels cut by hand, and with the truth.
_AS_CROPPED, _AS_TRUE = 0.98, 0.85
#: How much of what has to stay may differ, and the mean difference of a photo in another file.
_MOVED, _OTHER_FILE = 0.005, 3.0
_CIHP: Final = np.array([0, 2, 13, 14, 5, 9, 16], np.uint8)
_ATR: Final = np.array([0, 2, 11, 14, 4, 6, 12], np.uint8)
_ATR_BAG, _ATR_NECK, _ATR_FACE, _IGNORED = 16, 18, 11, 255
_SIZE: Final = (384, 288)


class Case:
    """An input in the making: folders of people and what is due."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder = folder
        self.due: dict[str, Any] = {"title": title}
        shutil.rmtree(folder, ignore_errors=True)

    def add(self, role: str, person: Person, labels: str = "classes7") -> Path:
        folder = self.folder / role
        folder.mkdir(parents=True)
        for name, array in zip(("image", "parse", "densepose"), person, strict=True):
            Image.fromarray(array).save(folder / f"{name}.png")
        meta = {"parse": labels, "densepose": "iuv-png"}
        (folder / "meta.json").write_text(json.dumps(meta))
        return folder

    def pair(
        self, person: Person, owner: Person, reference: tuple[Person, Person] | None = None
    ) -> None:
        """Who is transferred, and the pair whose transfer is as good as true."""
        roles = {"person": person, "owner": owner}
        if reference:
            roles |= {"person of reference": reference[0], "owner of reference": reference[1]}
        for role, someone in roles.items():
            self.add(role, someone)

    def stays(self, mask: npt.NDArray[np.bool_]) -> None:
        """Where the person's photo has to come back."""
        Image.fromarray(mask).save(self.folder / "stays.png")

    def truth(self, parsing: U8) -> None:
        """What the transfer's classes should be."""
        Image.fromarray(parsing).save(self.folder / "truth.png")

    def write(self, **due: Any) -> None:
        (self.folder / "case.json").write_text(json.dumps(self.due | due))


@functools.cache
def _render(
    seed: int, index: int, garment_of: int, turn: float | None = None, full_length: bool = False
) -> tuple[Person, Any]:
    """Person `index` of a seed, alone in a photo, in the garment of another index.

    Returns:
        The photo with maps as rough as real ones, and what was rendered, with the true maps.
    """
    from garment_transfer.training.synthetic.groups import single_recipe
    from garment_transfer.training.synthetic.people import TRAIN
    from garment_transfer.training.synthetic.render import render_person
    from garment_transfer.training.synthetic.rough import roughen

    body, _, rng = single_recipe(seed, index)
    garment = single_recipe(seed, garment_of)[1]
    if full_length or body.shot is None:
        body = replace(body, shot=None, frame=(1.1, 0.05, 0.0))
    else:
        body = replace(body, shot=replace(body.shot, things=(), strangers=()))
    if turn is not None:
        body = replace(body, turn=turn)
    found = render_person(body, garment, (640, 480) if full_length else (384, 288))
    return (found.image, *roughen(found, rng, TRAIN.roughness)), found


def _people(seed: int, index: int, count: int = 2) -> list[Person]:
    """`count` people of a round."""
    return [_render(seed, i, i)[0] for i in range(count * index, count * index + count)]


def _pad(person: Person, shares: tuple[float, float, float, float]) -> tuple[Person, list[int]]:
    """A person in a larger photo, by shares of the size above, below, left and right.

    Returns:
        The person, and top, left, height and width of the old photo in the new one.
    """
    height, width = person[1].shape
    above, below = round(shares[0] * height), round(shares[1] * height)
    left, right = round(shares[2] * width), round(shares[3] * width)
    sides = ((above, below), (left, right))
    photo = np.pad(person[0], (*sides, (0, 0)), mode="edge")
    maps = np.pad(person[1], sides), np.pad(person[2], (*sides, (0, 0)))
    return (photo, *maps), [above, left, height, width]


_FRAMES: Final = {
    "half as high as the photo": (0.6, 0.4, 0.3, 0.7),
    "a third, off the middle": (0.3, 1.7, 1.6, 0.4),
    "16:9": (0.0, 0.0, 0.9, 0.47),
    "1:1": (0.0, 0.0, 0.1, 0.23),
    "9:16": (0.5, 0.05, 0.0, 0.0),
}


def _frames(case: Callable[[str], Case], seed: int, index: int) -> None:
    person, owner = _people(seed, index)
    for name, shares in _FRAMES.items():
        here = case(f"person {name}")
        padded, place = _pad(person, shares)
        here.pair(padded, owner, (person, owner))
        here.write(place=place)
    for name, shares in _FRAMES.items():
        here = case(f"owner {name}")
        here.pair(person, _pad(owner, shares)[0], (person, owner))
        here.write(place=[0, 0, *person[1].shape])


def _full_length(case: Callable[[str], Case], seed: int, index: int) -> None:
    person, found = _render(seed, 2 * index, 2 * index, full_length=True)
    owner, _ = _render(seed, 2 * index + 1, 2 * index + 1)
    here = case("full length")
    # cut by hand: from above the head to the middle of the thighs
    rows = np.flatnonzero((person[2][..., 0] > 0).any(axis=1))
    torso = np.flatnonzero(np.isin(person[2][..., 0], (1, 2)).any(axis=1))
    top = max(0, rows[0] - 15)
    bottom = int(torso[-1] + 0.25 * (torso[-1] - rows[0]))
    photo, parsing, iuv = (array[top:bottom] for array in person)
    here.pair(person, owner, ((photo, parsing, iuv), owner))
    here.stays(np.isin(found.parsing, (1, 2, 6)) & (found.parsing == person[1]))
    here.write(place=[int(top), 0, int(bottom - top), person[1].shape[1]])


def _beside(
    person: Person, other: Person, mask: npt.NDArray[np.bool_], shift: float
) -> tuple[Person, npt.NDArray[np.bool_]]:
    """Somebody else in the same photo, behind the person by `shift` of the width to the right.

    `mask` is the other's outline. The mask that comes back is where the other is seen.
    """
    width = person[1].shape[1]
    (photo, parsing, iuv), _ = _pad(person, (0, 0, 0, 1.0))
    (behind, labels, others_iuv), _ = _pad(other, (0, 0, shift, 1.0 - shift))
    moved = np.pad(mask, ((0, 0), (round(shift * width), width)))
    behind, labels = behind[:, : 2 * width], labels[:, : 2 * width]
    seen = moved[:, : 2 * width] & (parsing == 0) & (iuv[..., 0] == 0)
    photo, parsing = photo.copy(), parsing.copy()
    photo[seen], parsing[seen] = behind[seen], labels[seen]
    both = iuv.copy()
    both[seen] = others_iuv[:, : 2 * width][seen]
    return (photo, parsing, both), seen


def _others(case: Callable[[str], Case], seed: int, index: int) -> None:
    person, owner, other = _people(seed, index, 3)
    mask = _render(seed, 3 * index + 2, 3 * index + 2)[1].parsing > 0
    height, width = person[1].shape
    for name, shift in (("apart", 0.95), ("touching", 0.55)):
        (photo, parsing, both), seen = _beside(person, other, mask, shift)
        alone = both.copy()
        alone[seen] = 0
        here = case(f"somebody {name}, DensePose of the person alone")
        here.pair((photo, parsing, alone), owner, (person, owner))
        # less the pixels at the person's own outline, which rough maps do not know
        from cv2 import erode

        inner = erode(seen.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        here.stays(inner & np.isin(parsing, (3, 4, 5)))
        here.write(place=[0, 0, height, width], iou=0.95)
        (photo, parsing, both), seen = _beside(owner, other, mask, shift)
        alone = both.copy()
        alone[seen] = 0
        here = case(f"the owner's neighbour {name}")
        here.pair(person, (photo, parsing, alone), (person, owner))
        here.write(place=[0, 0, height, width], iou=0.95)
    here = case("two bodies in DensePose")
    (photo, parsing, both), _ = _beside(person, other, mask, 0.95)
    here.pair((photo, parsing, both), owner)
    here.write(refused=True)


def _in_front(case: Callable[[str], Case], seed: int, index: int) -> None:
    import cv2

    rng = np.random.default_rng([seed, index])
    person, owner = _people(seed, index)
    found = _render(seed, 2 * index, 2 * index)[1]
    torso = np.isin(person[2][..., 0], (1, 2)) & (found.parsing == _GARMENT)
    rows, columns = np.nonzero(torso)
    top, bottom = np.percentile(rows, (8, 92)).astype(int)
    left, right = np.percentile(columns, (15, 85)).astype(int)
    for hole in (False, True):
        mask = np.zeros(person[1].shape, np.uint8)
        cv2.line(mask, (left, top), (right, bottom), 1, max(4, person[1].shape[0] // 40))
        bag = (left + rng.integers(-10, 10), bottom - 30)
        cv2.rectangle(mask, bag, (bag[0] + 50, bag[1] + 60), 1, -1)
        seen = mask > 0
        photo, iuv = person[0].copy(), person[2].copy()
        photo[seen] = rng.integers(10, 90, 3) + rng.integers(0, 12, (int(seen.sum()), 3))
        if hole:
            iuv[seen] = 0
        here = case(f"a bag, DensePose {'with a hole' if hole else 'beneath it'}")
        ids = np.where(seen, np.uint8(_ATR_BAG), _ATR[person[1]])
        here.add("person", (photo, ids, iuv), "atr18")
        here.add("owner", owner)
        here.stays(seen)
        here.add("person of reference", person)
        here.add("owner of reference", owner)
        here.write(place=[0, 0, *person[1].shape], iou=0.85)


def _views(case: Callable[[str], Case], seed: int, index: int) -> None:
    for name, turn, refused in (("behind", np.pi, True), ("the side", np.pi / 2, False)):
        for turned in ("person", "owner"):
            yaws = [turn if who == turned else None for who in ("person", "owner")]
            here = case(f"{turned} from {name}")
            for i, role in enumerate(("person", "owner")):
                here.add(role, _render(seed, 2 * index + i, 2 * index + i, yaws[i])[0])
            here.truth(_render(seed, 2 * index, 2 * index + 1, yaws[0])[1].parsing)
            here.write(**({"refused": True} if refused else {"may_refuse": True}))
    person, owner = _people(seed, index)
    for name, turns in (("lying", 1), ("upside down", 2)):
        here = case(name)
        photo, parsing, iuv = (np.ascontiguousarray(np.rot90(a, turns)) for a in person)
        here.pair((photo, parsing, iuv), owner)
        here.write(refused=True)
    here = case("maps of another photo: all of the body bare")
    bare = np.where(np.isin(owner[1], (_GARMENT,)), np.uint8(0), owner[1])
    here.pair(person, (owner[0], bare, owner[2]))
    here.write(refused=True)


def _files(case: Callable[[str], Case], seed: int, index: int) -> None:
    person, owner = _people(seed, index)
    photo = Image.fromarray(person[0])
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    lying = Image.Exif()
    lying[0x0112] = 6
    alpha = photo.convert("RGBA")
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "JPEG upside down by its tag": (photo.rotate(180), "jpg", {"exif": upside_down}),
        "WebP on its side by its tag": (
            photo.transpose(Image.Transpose.ROTATE_90),
            "webp",
            {"exif": lying, "lossless": True},
        ),
        "grey with an orientation tag": (
            photo.convert("L").rotate(180),
            "jpg",
            {"exif": upside_down},
        ),
        "palette": (photo.quantize(256), "png", {}),
        "CMYK": (photo.convert("CMYK"), "jpg", {"quality": 95}),
        "RGBA": (alpha, "png", {}),
        "grey and alpha": (photo.convert("LA"), "png", {}),
        "MPO of two pictures": (
            photo,
            "mpo",
            {"format": "MPO", "save_all": True, "append_images": [photo]},
        ),
        "animated GIF": (photo, "gif", {"save_all": True, "append_images": [photo.rotate(3)]}),
    }
    for name, (picture, suffix, options) in kinds.items():
        here = case(name)
        folder = here.add("person", person)
        (folder / "image.png").unlink()
        with contextlib.redirect_stderr(io.StringIO()):
            picture.save(
                folder / f"image.{suffix}", **({"quality": 97} if suffix != "png" else {}) | options
            )
        here.add("owner", owner)
        like = photo.convert("L").convert("RGB") if picture.mode in ("L", "LA") else photo
        if suffix == "gif" or picture.mode == "P":
            like = photo.quantize(256).convert("RGB")
        here.add("person of reference", (np.asarray(like), *person[1:]))
        here.add("owner of reference", owner)
        here.write(place=[0, 0, *person[1].shape], photo=_OTHER_FILE)
    here = case("a truncated JPEG")
    folder = here.add("person", person)
    (folder / "image.png").unlink()
    whole = io.BytesIO()
    photo.save(whole, "JPEG")
    (folder / "image.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    here.add("owner", owner)
    here.write(refused=True)


def _label_maps(case: Callable[[str], Case], seed: int, index: int) -> None:
    import cv2

    person, owner = _people(seed, index)
    found = _render(seed, 2 * index, 2 * index)[1]
    neck = found.neck & (person[1] == 3)

    def like_cihp(title: str, one: U8, labels: str, **due: Any) -> None:
        here = case(title)
        here.add("person", (person[0], one, person[2]), labels)
        here.add("owner", owner)
        here.add("person of reference", (person[0], _CIHP[person[1]], person[2]), "cihp20")
        here.add("owner of reference", owner)
        here.write(**({"place": [0, 0, *person[1].shape]} | due))

    atr = _ATR[person[1]]
    like_cihp("ATR, the neck as face", np.where(neck, np.uint8(_ATR_FACE), atr), "atr18", iou=0.97)
    like_cihp("ATR and 18 = neck", np.where(neck, np.uint8(_ATR_NECK), atr), "atr18")
    cihp = _CIHP[person[1]]
    edge = cv2.morphologyEx(person[1], cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    like_cihp(
        "255 at borders", np.where(edge & (person[1] == 0), np.uint8(_IGNORED), cihp), "cihp20"
    )
    height, width = person[1].shape
    small = cihp[::2, ::2]
    for labels, ids in (("cihp20", small), ("atr18", atr[::2, ::2]), ("lip20", small)):
        smooth = cv2.resize(ids, (width, height), interpolation=cv2.INTER_LINEAR)
        like_cihp(f"{labels} resized smoothly", np.asarray(smooth, np.uint8), labels, refused=True)
    like_cihp("another set's name", cihp, "viton14", refused=True)


KINDS: Final[dict[str, Callable[[Callable[[str], Case], int, int], None]]] = {
    "where the person stands": _frames,
    "full length": _full_length,
    "others in the photo": _others,
    "things in front": _in_front,
    "views": _views,
    "files": _files,
    "label maps": _label_maps,
}
#: Rounds per kind, so that each has eight inputs or more.
_ROUNDS: Final = {"full length": 8, "things in front": 4}


@click.group()
def main() -> None:
    """Photos as people have them: right, refused or wrong."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def make(folder: Path, seed: int) -> None:
    """Write the inputs of a seed to FOLDER."""
    for kind, write in KINDS.items():
        count = 0

        def case(title: str, kind: str = kind) -> Case:
            nonlocal count
            count += 1
            return Case(folder / kind / f"{count - 1:03d}", title)

        for index in range(_ROUNDS.get(kind, 2)):
            write(case, 1000 + seed, index)
        click.echo(f"{kind}: {count}")


@main.command()
@click.argument(
    "folders",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    nargs=-1,
    required=True,
)
@click.option("--json", "path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--threads", type=int, default=2, show_default=True)
def run(folders: tuple[Path, ...], path: Path | None, threads: int) -> None:
    """Transfer every input below FOLDERS and say which are right, refused or wrong.

    "right" is also who is refused and had to be.
    """
    from garment_transfer.runtime import Pipeline, sample_bundle

    pipeline = Pipeline.load(sample_bundle(), threads=threads)
    kinds: dict[str, dict[str, int]] = {}
    wrong = []
    for case in sorted(case for folder in folders for case in folder.glob("*/*/case.json")):
        outcome, reason = _outcome(pipeline, case.parent)
        row = kinds.setdefault(case.parent.parent.name, {"right": 0, "refused": 0, "wrong": 0})
        row[outcome] += 1
        title = json.loads(case.read_text())["title"]
        if outcome != "right":
            wrong.append({"input": "/".join(case.parent.parts[-3:]), "title": title,
                          "outcome": outcome, "reason": reason})  # fmt: skip
            click.echo(f"{outcome}: {case.parent}: {title}: {reason}")
    for kind, row in kinds.items():
        click.echo(f"{kind}: {row}")
    if path:
        path.write_text(json.dumps({"kinds": kinds, "others": wrong}, indent=1) + "\n")


def _outcome(pipeline: Any, folder: Path) -> tuple[str, str]:
    """ "right", "refused" where it need not be, or "wrong"; and why."""
    from garment_transfer.runtime import GarmentTransferError, Person as Someone

    due = json.loads((folder / "case.json").read_text())
    try:
        person = Someone.load(folder / "person")
        result = pipeline.transfer(person, Someone.load(folder / "owner"))
    except GarmentTransferError as error:
        refusal = due.get("refused") or due.get("may_refuse")
        return ("right" if refusal else "refused"), str(error)
    if due.get("refused"):
        return "wrong", "served, and was to be refused"
    reasons = list(_faults(pipeline, folder, due, person, result))
    return ("wrong" if reasons else "right"), "; ".join(reasons)


def _faults(pipeline: Any, folder: Path, due: Any, person: Any, result: Any) -> Iterator[str]:
    from garment_transfer.runtime import Person as Someone

    stays = np.zeros(result.transfer_parsing.shape, bool)
    if (folder / "stays.png").exists():
        stays = np.asarray(Image.open(folder / "stays.png")) > 0
        moved = (result.image[stays] != person.image[stays]).any(axis=1)
        if moved.size and moved.mean() > _MOVED:
            yield f"{moved.mean():.1%} of what has to stay changed"
    if "place" in due:
        roles = ("person of reference", "owner of reference")
        reference = pipeline.transfer(*(Someone.load(folder / role) for role in roles))
        top, left, height, width = due["place"]
        place = np.s_[top : top + height, left : left + width]
        yield from _differs(
            result.transfer_parsing[place],
            reference.transfer_parsing,
            ~stays[place],
            due.get("iou", _AS_CROPPED),
        )
        if "photo" in due:
            off = float(np.abs(result.image.astype(float) - reference.image).mean())
            if off > due["photo"]:
                yield f"the picture is {off:.1f} levels off"
    if (folder / "truth.png").exists():
        truth = np.asarray(Image.open(folder / "truth.png"))
        yield from _differs(result.transfer_parsing, truth, ~stays, due.get("iou", _AS_TRUE))


def _differs(found: U8, due: U8, counted: npt.NDArray[np.bool_], least: float) -> Iterator[str]:
    """Why garments differ where they are counted: not where something else is in front."""
    a, b = (found == _GARMENT) & counted, (due == _GARMENT) & counted
    overlap = float((a & b).sum() / max((a | b).sum(), 1))
    if overlap < least:
        yield f"garment IoU {overlap:.3f}, due {least}"


if __name__ == "__main__":
    main()
