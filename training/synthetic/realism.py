"""How rendered people differ from photographed ones, in figures beside each other.

    python -m garment_transfer.training.synthetic.realism FOLDER

FOLDER holds people as `transfer` reads them, with maps of published parsers. All is measured at
256x192 in the frame of `bundle.FRAMING`; every figure is the median over people and, in brackets,
the quarter and three quarter points. The rendered ones are clean and rough people of the training
distribution, and rough people of set A of the held-out test.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from garment_transfer.bundle import FRAMING, GARMENT, SKIN, Size
from garment_transfer.runtime.photos import Fit, Person, frame
from garment_transfer.training.synthetic.groups import held_out_pair, render_single
from garment_transfer.training.synthetic.people import TRAIN
from garment_transfer.training.synthetic.rough import roughen

U8 = NDArray[np.uint8]
Figures = dict[str, float]

_SIZE = Size(256, 192)
_PARTS = {
    "trunk": (2,),
    "arm inner": (15, 16),
    "arm outer": (17, 18),
    "forearm inner": (19, 20),
    "forearm outer": (21, 22),
    "thigh": (9, 10),
    "hand right": (3,),
    "hand left": (4,),
}


def measure(image: U8, parsing: U8, densepose: U8) -> Figures:
    """The figures of one person: image [256, 192, 3], parsing [256, 192], IUV [256, 192, 3]."""
    return (
        _light(image, parsing)
        | _borders(parsing)
        | _coverage(parsing, densepose[..., 0])
        | (_charts(densepose) if densepose[..., 1:].any() else {})
    )


def _light(image: U8, parsing: U8) -> Figures:
    grey = image @ np.array([0.299, 0.587, 0.114])
    out = {}
    for name, mask in (
        ("person", parsing > 0),
        ("background", parsing == 0),
        ("skin", parsing == SKIN),
        ("garment", parsing == GARMENT),
    ):
        inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0
        if inner.sum() < 100:
            continue
        values = grey[inner]
        low, middle, high = np.percentile(values, (5, 50, 95))
        out[f"luminance of {name}, 5 %"] = low
        out[f"luminance of {name}, median"] = middle
        out[f"luminance of {name}, 95 %"] = high
        out[f"deviation within {name}, levels"] = values.std()
        # what a blur of 1.5 pixels takes away: grain, weave, sharpness
        fine = (grey - cv2.GaussianBlur(grey, (0, 0), 1.5))[inner]
        out[f"fine detail of {name}, levels"] = fine.std()
        if name in ("skin", "person"):
            colour = image[inner].astype(float)
            out[f"saturation of {name}"] = float(
                np.mean(1 - colour.min(1) / np.maximum(colour.max(1), 1))
            )
    return out


def _moved(mask: NDArray[np.bool_], sigma: float) -> float:
    """How far a border is from its blurred self, mean pixels: roughness of that wavelength."""
    inside = mask[8:-8, 8:-8]
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)[8:-8, 8:-8] > 0.5
    border = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3)))
    return float((inside != soft).sum() / max(border.sum() / 2, 1))


def _specks(mask: NDArray[np.bool_]) -> int:
    """Islands of less than 60 pixels in a mask and in what is outside it."""
    total = 0
    for side in (mask, ~mask):
        _, _, stats, _ = cv2.connectedComponentsWithStats(side.astype(np.uint8), connectivity=4)
        total += int((stats[1:, cv2.CC_STAT_AREA] < 60).sum())
    return total


def _borders(parsing: U8) -> Figures:
    out: Figures = {}
    for name, mask in (("garment", parsing == GARMENT), ("body", parsing > 0)):
        for sigma in (1, 2, 4, 8):
            out[f"{name} border off its blur of {sigma} px"] = _moved(mask, sigma)
        out[f"specks of {name}"] = _specks(mask)
    return out


def _coverage(parsing: U8, parts: U8) -> Figures:
    torso = np.isin(parts, (1, 2)).sum()
    rows = np.flatnonzero((parsing > 0).any(1))
    covered = np.flatnonzero((parts > 0).any(1))
    skin = parsing == SKIN
    arms = np.isin(parts, (3, 4, *range(15, 23)))
    hands = [(parts == part).sum() / torso for part in (3, 4)]
    out = {
        "head to torso, area": np.isin(parts, (23, 24)).sum() / torso,
        "larger hand to torso, area": max(hands),
        "arms to torso, area": arms.sum() / torso,
        "DensePose stops short, rows": rows[-1] - covered[-1],
        "DensePose off the parsing, share of it": ((parts > 0) & (parsing == 0)).sum()
        / (parts > 0).sum(),
        "parsing without DensePose, share of it": ((parts == 0) & (parsing > 0)).sum()
        / (parsing > 0).sum(),
        "specks of DensePose": _specks(parts > 0),
    }
    for sigma in (1, 2, 4, 8):
        out[f"DensePose border off its blur of {sigma} px"] = _moved(parts > 0, sigma)
    if (skin & arms).any():
        out["arm skin that DensePose covers"] = (skin & arms).sum() / max(
            (skin & ~np.isin(parts, (1, 2, 23, 24))).sum(), 1
        )
    return out


def _charts(densepose: U8) -> Figures:
    out: Figures = {}
    torso = cv2.erode((densepose[..., 0] == 2).astype(np.uint8), np.ones((7, 7))).astype(np.float32)
    for axis, name in ((1, "U"), (2, "V")):
        chart = densepose[..., axis].astype(np.float32) * torso
        weight = cv2.GaussianBlur(torso, (0, 0), 3) + 1e-6
        low = cv2.GaussianBlur(chart, (0, 0), 3) / weight
        slope = np.abs(np.median(np.gradient(low, axis=axis - 1)[torso > 0]))
        out[f"{name} of the torso off its blur, px"] = (chart - low)[torso > 0].std() / slope
    for name, ids in _PARTS.items():
        mask = np.isin(densepose[..., 0], ids)
        if mask.sum() >= 100:
            for axis, letter in ((1, "U"), (2, "V")):
                values = densepose[mask][:, axis] / 255
                for share in (5, 50, 95):
                    out[f"{letter} of {name}, {share} %"] = float(np.percentile(values, share))
    return out


def _real(folder: Path) -> Iterator[Figures]:
    for meta in sorted(folder.glob("*/meta.json")):
        person = Person.load(meta.parent)
        source = Size(*person.image.shape[:2])
        fit = Fit(source, _SIZE, frame(person.densepose, FRAMING, _SIZE))
        yield measure(fit.photo(person.image), fit.map(person.parsing), fit.map(person.densepose))


def _rendered(count: int) -> Iterator[tuple[Figures, Figures]]:
    for index in range(count):
        person, rng = render_single(1, index)
        rough = roughen(person, rng, TRAIN.roughness)
        yield (
            measure(person.image, person.parsing, person.densepose),
            measure(person.image, *rough),
        )


def _summary(values: list[float], brackets: bool) -> str:
    if not values:
        return ""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.3g} ({low:.3g} {high:.3g})" if brackets else f"{middle:.3g}"


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--count", default=40, show_default=True, help="Rendered people.")
def main(folder: Path, count: int) -> None:
    """Compare rendered people with those of FOLDER."""
    clean, rough = zip(*_rendered(count), strict=True)
    first = []
    for index in range(count // 2):
        pair = held_out_pair(index)
        for side in ("person", "garment"):
            maps = (pair[f"{side}_{name}"] for name in ("image", "parsing", "densepose"))
            first.append(measure(*maps))  # type: ignore[arg-type]
    columns: Mapping[str, list[Figures]] = {
        "real": list(_real(folder)),
        "rough": list(rough),
        "clean": list(clean),
        "set A": first,
    }
    click.echo(" " * 44 + "".join(f"{name:>24}" for name in columns))
    names = [key for people in columns.values() for person in people for key in person]
    for name in dict.fromkeys(names):
        cells = [
            _summary([each[name] for each in column if name in each], len(column) > 1)
            for column in columns.values()
        ]
        click.echo(f"{name:<44}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    main()
