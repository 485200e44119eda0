"""A picture that shows a whole transfer at a glance."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from garment_transfer.runtime.bundle import Size
from garment_transfer.runtime.fitting import Fit
from garment_transfer.runtime.labels import colour
from garment_transfer.runtime.people import Person
from garment_transfer.runtime.pipeline import Transfer

#: How many pictures of the person's size a panel has side by side.
PICTURES: Final = 5


def panel(person: Person, garment_owner: Person, transfer: Transfer) -> npt.NDArray[np.uint8]:
    """Person, garment owner, transfer parsing, warped garment and result side by side.

    uint8 RGB [H,5W,3], where H and W are the person's own; the owner's photo is fitted to them.
    """
    own = Size(*person.parsing.shape)
    owner = Fit(Size(*garment_owner.parsing.shape), own).photo(garment_owner.image)
    return np.hstack(
        [
            person.image,
            owner,
            colour(transfer.transfer_parsing),
            transfer.warped_garment,
            transfer.image,
        ]
    )
