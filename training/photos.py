"""Photos to train on from files: a data set in VITON's layout, people's folders, rendered shards.

VITON's layout, as PG-VTON keeps it, is a folder with

- `image/NAME.*`: the photos;
- `image-parse/NAME.png` (or `image-parse/sg/NAME.png`): label ids;
- `densepose/NAME.*`: DensePose (`.npy` or a picture);
- `cloth/SHOP.*` and `cloth-mask/SHOP.*`: the garment of each photo in the shop and where it is
  (above half of full brightness). SHOP is NAME or, as in VITON, NAME with `_1` for its `_0`.
  Without both folders the data have no shop, and the phases that need none can be trained;
- `meta.json`: `{"parse": LABEL_SET, "densepose": ENCODING}`, which the pixels do not tell.

All pictures have one size, both sides divisible by 32.
"""

from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from garment_transfer.bundle import IGNORED, LABEL_SETS, Code, InputError, Size
from garment_transfer.runtime.photos import (
    PICTURE_SUFFIXES,
    Fit,
    Person,
    read_indices,
    read_meta,
    read_photo,
    write_meta,
    write_rgb,
)
from garment_transfer.training.data import PhotoSet, RenderedPhotos

#: Problems that a message lists; of more it gives the number.
_LISTED: Final = 40


def open_photos(folder: Path, size: tuple[int, int] = (256, 192)) -> PhotoSet:
    """The photos of a folder, whichever of the three kinds it is.

    Args:
        folder: rendered shards, a data set in VITON's layout, or a folder of people's folders.
        size: (H, W) that people of other sizes are fitted to; the other kinds have their own.

    Raises:
        InputError: it is none of the three, or lists every problem with its files.
    """
    if not folder.is_dir():
        raise InputError(
            Code.CONFIG_INVALID, f"{folder} is not a folder", fix="give one with photos to train on"
        )
    if any(folder.glob("shard-*.image.npy")):
        return RenderedPhotos(folder)
    if (folder / "image").is_dir():
        return VitonPhotos(folder)
    if any(folder.glob("*/meta.json")):
        return PeoplePhotos(folder, size)
    raise InputError(
        Code.CONFIG_INVALID,
        f"{folder} holds no photos",
        expected="rendered shards (shard-*.npy), a data set in VITON's layout (folders image, "
        "image-parse, densepose, cloth, cloth-mask), or folders of people with image, maps and "
        "meta.json",
        fix="`garment-transfer train` without --data renders shards, `garment-transfer render` "
        "people",
    )


class VitonPhotos:
    """A data set in VITON's layout: a `PhotoSet`. Everything is checked when it is opened."""

    def __init__(self, folder: Path) -> None:
        problems: list[str] = []
        self._label_set = self._encoding = ""
        try:
            self._label_set, self._encoding = read_meta(folder / "meta.json")
        except InputError as error:
            problems.append(str(error))
        self.has_shop = (folder / "cloth").is_dir() or (folder / "cloth-mask").is_dir()
        parses = folder / "image-parse"
        parses = parses / "sg" if (parses / "sg").is_dir() else parses
        folders = {
            "image": (folder / "image", PICTURE_SUFFIXES),
            "parse": (parses, (".png",)),
            "densepose": (folder / "densepose", (".npy", *PICTURE_SUFFIXES)),
        }
        if self.has_shop:
            folders["shop_image"] = (folder / "cloth", PICTURE_SUFFIXES)
            folders["shop_mask"] = (folder / "cloth-mask", PICTURE_SUFFIXES)
        files = {key: _files(*where, problems) for key, where in folders.items()}
        self._photos: list[dict[str, Path]] = []
        for stem in sorted(files["image"]):
            photo = {}
            for key, there in files.items():
                names = [stem]
                if key.startswith("shop") and stem.endswith("_0"):
                    names = [f"{stem[:-2]}_1", stem]
                file = next((there[name] for name in names if name in there), None)
                if file is None:
                    where = folders[key][0].relative_to(folder)
                    problems.append(f"{where}/{' or '.join(names)}.* is missing")
                else:
                    photo[key] = file
            self._photos.append(photo)
        if not self._photos:
            problems.append("image holds no pictures")
        self._check(folder, problems)
        if problems:
            listed = "".join(f"\n  {problem}" for problem in problems[:_LISTED])
            more = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
            raise InputError(
                Code.CONFIG_INVALID,
                f"{folder} cannot be trained on, {len(problems)} problems:{listed}{more}",
                expected="for each photo its maps, all of one size, and ids of the named label set",
            )

    def _check(self, folder: Path, problems: list[str]) -> None:
        """Sizes and label ids of every file."""
        sizes: dict[Path, tuple[int, int]] = {}
        labels = LABEL_SETS.get(self._label_set)
        files = [file for photo in self._photos for file in photo.items()]
        for key, path in tqdm(files, desc="checking", unit="file", mininterval=2, disable=None):
            name = path.relative_to(folder)
            try:
                sizes[path] = _size(path)
                if key == "parse" and labels is not None:
                    found = np.unique(read_indices(path, label_set=labels)).tolist()
                    unknown = sorted(set(found) - {*labels.classes, IGNORED})
                    if unknown:
                        problems.append(
                            f"{name} has ids that label set {labels.name} does not have: "
                            f"{', '.join(map(str, unknown))}"
                        )
            except InputError as error:
                problems.append(str(error))
            except Exception as error:
                problems.append(f"{name} cannot be read: {error}")
        for (height, width), _ in Counter(sizes.values()).most_common(1):
            problems += [
                f"{path.relative_to(folder)} is {size[0]}x{size[1]}, most are {height}x{width}"
                for path, size in sizes.items()
                if size != (height, width)
            ]
            if height % 32 or width % 32:
                problems.append(
                    f"the size {height}x{width} (height x width) is not divisible by 32"
                )

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> dict[str, NDArray]:
        files = self._photos[index]
        maps = files["parse"], files["densepose"]
        person = Person.from_files(files["image"], *maps, self._label_set, self._encoding)
        photo = _photo(person)
        if self.has_shop:
            with Image.open(files["shop_mask"]) as mask:
                photo["shop_mask"] = (np.asarray(mask.convert("L")) > 127).astype(np.uint8)
            photo["shop_image"] = read_photo(files["shop_image"])
        return photo


class PeoplePhotos:
    """People's folders as the runtime reads them, fitted to one size: a `PhotoSet` without a shop.

    Raises:
        InputError: lists every person that cannot be read.
    """

    has_shop = False

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        self._people = []
        problems = []
        for path in sorted(folder.iterdir()):
            if not (path / "meta.json").is_file():
                continue
            try:
                person = Person.load(path)
                person.check_garment("person")
                self._people.append(_fitted(person, size))
            except InputError as error:
                problems.append(f"\n  {error}")
        if problems:
            raise InputError(
                Code.CONFIG_INVALID, f"{folder} cannot be trained on:{''.join(problems)}"
            )

    def __len__(self) -> int:
        return len(self._people)

    def __getitem__(self, index: int) -> dict[str, NDArray]:
        return dict(self._people[index])


def write_viton(
    folder: Path, name: str, person: Person, image: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> None:
    """Add a person, and their garment in the shop, to a data set in VITON's layout.

    `NAME_0` is the person, `NAME_1` the garment; `meta.json` is written with the first.
    """
    pictures: dict[str, NDArray[np.uint8]] = {
        f"image/{name}_0.png": person.image,
        f"image-parse/{name}_0.png": person.parsing,
        f"densepose/{name}_0.png": person.densepose,
        f"cloth/{name}_1.png": image,
        f"cloth-mask/{name}_1.png": mask.astype(np.uint8) * 255,
    }
    for file, picture in pictures.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_rgb(folder / file, picture)
    write_meta(folder / "meta.json", "classes7", "iuv-png")


def _photo(person: Person) -> dict[str, NDArray]:
    """A person as a `PhotoSet` has them; a parser's map is the best that is known of them."""
    return {
        "image": person.image,
        "parsing": person.parsing,
        "reference": person.parsing,
        "densepose": person.densepose,
    }


def _fitted(person: Person, size: tuple[int, int]) -> dict[str, NDArray]:
    fit = Fit(Size(*person.parsing.shape), Size(*size))
    return {
        name: fit.photo(array) if name == "image" else fit.map(array)
        for name, array in _photo(person).items()
    }


def _files(folder: Path, suffixes: tuple[str, ...], problems: list[str]) -> dict[str, Path]:
    """The files of a folder by stem."""
    if not folder.is_dir():
        problems.append(f"the folder {folder.name} is missing")
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes}


def _size(path: Path) -> tuple[int, int]:
    """Height and width, from the header alone."""
    if path.suffix == ".npy":
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        return int(shape[-2]), int(shape[-1])
    with Image.open(path) as image:
        return image.height, image.width
