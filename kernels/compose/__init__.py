"""Compose: the finished photo from the graphs' result at the bundle's size.

Nothing that can be had at full resolution is taken from the small size: kept pixels are the
person's photo, the garment is sampled from its owner's photo by the flow, and borders follow the
person's full-size parsing wherever the transfer left them alone. Only what nobody's photo shows
(regrown skin, uncovered background, holes in the garment) is the graphs' picture, scaled up.

Label maps are rough: a rim around a region still shows some of it. What stays background, skin or
lower garment beside a region that vanished is therefore not kept but the graphs', and so is the
new garment's own rim. The graphs do the same at their size.

It runs in C++ (compose_cpu.cpp) where the library is built, and else by definition.py: the same
classes to the bit, colours within a grey level.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from garment_transfer.kernels import photos
from garment_transfer.kernels.compose.definition import Composed, define
from garment_transfer.kernels.fit import Fit, Pixels

__all__ = ["Composed", "compose"]


def compose(
    photo: Pixels,
    parsing: Pixels,
    owner_photo: Pixels,
    owner_garment: npt.NDArray[np.bool_],
    fit: Fit,
    owner_fit: Fit,
    *,
    image: Pixels,
    transfer_parsing: Pixels,
    warped_garment: Pixels,
    flow: npt.NDArray[np.float32],
    transfer_scores: Pixels | None = None,
    kept: npt.NDArray[np.bool_] | None = None,
    with_garment: bool = False,
) -> Composed:
    """The person's photo in the other garment, from the graphs' outputs for one pair.

    Every pixel that keeps a class other than garment is the photo's own, but for background, skin
    and lower garment within the border of a label map (`border_width`) of what vanished: these are
    the graphs'. Outside the person's box, and where `kept` says so, the photo stays as it is.

    Args:
        photo: of the person, uint8 RGB [H,W,3].
        parsing: its classes, uint8 [H,W].
        owner_photo: uint8 RGB [K,L,3].
        owner_garment: bool [K,L], where it shows the garment.
        fit: where the person's photo lies in the bundle's size [h,w].
        owner_fit: where the owner's does.
        image: the graphs', uint8 RGB [h,w,3].
        transfer_parsing: uint8 [h,w].
        warped_garment: uint8 RGB [h,w,3].
        flow: float32 [2,h,w], (dx, dy) in pixels of the bundle's size; what is not finite leads
            nowhere.
        transfer_scores: uint8 [h,w,4]. Where they are given they draw new borders, and not the
            smoothed `transfer_parsing`.
        kept: bool [H,W], pixels that stay as they are.
        with_garment: whether `Composed.warped_garment` is wanted.

    Raises:
        ValueError: an array has another type or shape.
    """
    given = {
        "photo": photo,
        "own": parsing,
        "kept": None if kept is None else kept.view(np.uint8),
        "owner_photo": owner_photo,
        "owner_garment": owner_garment.view(np.uint8),
        "image": image,
        "parsing": transfer_parsing,
        "warped": warped_garment,
        "scores": transfer_scores,
    }
    of_photo, of_owner = ("photo", "own", "kept"), ("owner_photo", "owner_garment")
    sizes = dict.fromkeys(given, fit.target) | dict.fromkeys(of_photo, fit.source)
    sizes |= dict.fromkeys(of_owner, owner_fit.source)
    channels = {"photo": (3,), "owner_photo": (3,), "image": (3,), "warped": (3,), "scores": (4,)}
    for name, array in given.items():
        due = (sizes[name].height, sizes[name].width, *channels.get(name, ()))
        if array is not None:
            _check(name, array, due, np.uint8)
    _check("flow", flow, (2, fit.target.height, fit.target.width), np.float32)
    if owner_fit.target != fit.target:
        raise ValueError(f"the fits are to {fit.target} and {owner_fit.target}; expected one size")
    library = photos.load()
    if library is None:
        return define(given, fit, owner_fit, flow, with_garment)
    return Composed(*library.compose(given, (fit, owner_fit), flow, with_garment))


def _check(
    name: str, array: npt.NDArray[np.generic], shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name} is {array.dtype} {list(array.shape)}; expected "
            f"{np.dtype(dtype).name} {list(shape)}"
        )
