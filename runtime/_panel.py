"""Pictures that show how a transfer came about."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import Size
from garment_transfer.runtime._pipeline import Transfer
from garment_transfer.runtime.photos import Fit, Person, colour


def pictures_of(person: Person, garment_owner: Person) -> int:
    """How many pictures of the person's size the panel of a pair has."""
    return 5 + sum(bool(one.confidence) for one in (person, garment_owner))


def maps_picture(person: Person) -> npt.NDArray[np.uint8]:
    """A photo under its parsing, uint8 RGB [H,W,3]; lines are the borders of DensePose's parts."""
    mixed = cv2.addWeighted(person.image, 0.4, colour(person.parsing), 0.6, 0)
    parts = person.densepose[..., 0]
    kernel = np.ones((max(2, len(parts) // 256 + 1),) * 2, np.uint8)
    mixed[cv2.morphologyEx(parts, cv2.MORPH_GRADIENT, kernel) > 0] = 255
    return np.asarray(mixed, np.uint8)


def panel(person: Person, garment_owner: Person, transfer: Transfer) -> npt.NDArray[np.uint8]:
    """Person, garment owner, transfer parsing, warped garment and result side by side.

    Behind the photo of somebody whose maps were made of it comes the picture of these maps.
    uint8 RGB [H,kW,3], where k is `pictures_of` and H and W are the person's own; the owner's photo
    is fitted to them.
    """
    fit = Fit(Size(*garment_owner.parsing.shape), Size(*person.parsing.shape))
    return np.hstack(
        [
            person.image,
            *([maps_picture(person)] if person.confidence else []),
            fit.photo(garment_owner.image),
            *([fit.photo(maps_picture(garment_owner))] if garment_owner.confidence else []),
            colour(transfer.transfer_parsing),
            transfer.warped_garment,
            transfer.image,
        ]
    )


def flow_colours(flow: npt.NDArray[np.float32], longest: float) -> npt.NDArray[np.uint8]:
    """A flow, float32 [H,W,2] with (dx, dy), as colours, uint8 RGB [H,W,3].

    The hue is the direction: red to the right, then clockwise in the picture (y down) over green
    and blue. White is no movement, and `longest` pixels or more have the full colour.
    """
    x, y = flow[..., 0], flow[..., 1]
    hue = np.degrees(np.arctan2(y, x)) % 360
    saturation = np.clip(np.hypot(x, y) / max(longest, 1e-6), 0, 1)
    hsv = np.stack([hue, saturation, np.ones_like(x)], axis=-1).astype(np.float32)
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.rint(255 * rgb).astype(np.uint8)


def flow_wheel(side: int) -> npt.NDArray[np.uint8]:
    """The key to `flow_colours`, uint8 RGB [side,side,3]: a disc on white."""
    y, x = (np.mgrid[:side, :side].astype(np.float32) + 0.5) * (2 / side) - 1
    wheel = flow_colours(np.stack([x, y], axis=-1), 1)
    wheel[np.hypot(x, y) > 1] = 255
    return wheel
