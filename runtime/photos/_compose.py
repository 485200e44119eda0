"""The finished photo of two people, from the graphs' outputs for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from garment_transfer.kernels.compose import Composed, compose as _compose
from garment_transfer.kernels.fit import Fit
from garment_transfer.runtime.photos._person import Person


def compose(
    person: Person,
    owner: Person,
    person_fit: Fit,
    owner_fit: Fit,
    *,
    image: npt.NDArray[np.uint8],
    transfer_parsing: npt.NDArray[np.uint8],
    warped_garment: npt.NDArray[np.uint8],
    flow: npt.NDArray[np.float32],
    transfer_scores: npt.NDArray[np.uint8] | None = None,
    with_garment: bool = False,
) -> Composed:
    """The transfer at the person's own size from the graphs' outputs for one pair.

    A photo of exactly the bundle's size gets the graphs' outputs as they are, but where the person
    is protected; any other what `kernels.compose.compose` makes of them.

    Args:
        person: who receives the garment.
        owner: who wears it.
        person_fit: where the person's photo lies in the bundle's size.
        owner_fit: where the owner's photo lies in it.
        image: uint8 RGB [h,w,3] at the bundle's size.
        transfer_parsing: uint8 [h,w].
        warped_garment: uint8 RGB [h,w,3].
        flow: float32 [2,h,w], (dx, dy) in pixels of the bundle's size.
        transfer_scores: uint8 [h,w,4]. Where they are given, they draw the borders between the
            reasoned classes at the photo's size, and not `transfer_parsing`.
        with_garment: whether `Composed.warped_garment` is wanted.
    """
    kept = person.protected
    if person_fit.is_identity:
        image, parsing, worn = image.copy(), transfer_parsing.copy(), warped_garment.copy()
        if kept is not None:
            image[kept] = person.image[kept]
            parsing[kept] = person.parsing[kept]
            worn[kept] = 0
        return Composed(image, parsing, worn)
    return _compose(
        person.image,
        person.parsing,
        owner.worn_image,
        owner.worn_garment,
        person_fit,
        owner_fit,
        image=image,
        transfer_parsing=transfer_parsing,
        warped_garment=warped_garment,
        flow=flow,
        transfer_scores=transfer_scores,
        kept=kept,
        with_garment=with_garment,
    )
