"""Photos in another light, for networks that have to learn what light does to a body."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from garment_transfer.bundle import CLASSES, FACE

#: How far from its edge a region is round, as a share of the picture's height.
_ROUND = 0.055


def relit(image: Tensor, parsing: Tensor) -> Tensor:
    """Photos as a lamp above and at one side of the person would have lit them.

    Every region of a parsing is taken for round at its edges and flat within, which is true of arms
    and near enough of the rest; light falls off from the head down; and faces, which the renderer
    has a seventh darker than arms where on photos they are a tenth lighter, get more of it. Four of
    five photos get a lamp, with torch's random numbers.

    Args:
        image: uint8 [N,H,W,3].
        parsing: uint8 [N,H,W], the seven classes; the background keeps its light.

    Returns:
        uint8 [N,H,W,3], on the device of `image`.
    """
    strength = 0.75 * torch.rand(len(image)) * (torch.rand(len(image)) < 0.8)
    turn, rise = 2 * torch.pi * torch.rand(len(image)), 0.2 + torch.rand(len(image))
    lamps = torch.stack([turn.cos() * rise.cos(), turn.sin() * rise.cos() - 0.3, rise.sin()], dim=1)
    fall = (0.6 * torch.rand(len(image)) - 0.1) * (strength > 0)
    faces = 1 + 0.4 * torch.rand(len(image))
    shades = [
        _shade(labels, lamp, *map(float, drawn))
        for labels, lamp, *drawn in zip(
            parsing.cpu().numpy(), lamps.numpy(), strength, fall, faces, strict=True
        )
    ]
    shade = torch.from_numpy(np.stack(shades)).to(image.device)[..., None]
    # what little light there is in the shade of skin and cloth has more red than blue
    tint = shade ** shade.new_tensor([0.85, 1.0, 1.05])
    return (image * tint + 0.5).clamp(0, 255).to(torch.uint8)


def _shade(
    parsing: NDArray, lamp: NDArray, strength: float, fall: float, face: float
) -> NDArray[np.float32]:
    """What a lamp in a direction (right, down, to the camera) multiplies light with, [H,W].

    1 on what faces the camera at a face's height; `fall` is how much less there is a picture's
    height below, `face` how much more on the face.
    """
    shade = np.ones(parsing.shape, np.float32)
    height = np.linspace(0, 1, len(parsing), dtype=np.float32)[:, None]
    falling = np.exp(-fall * (height - 0.2))
    radius = _ROUND * parsing.shape[0]
    for label in range(1, len(CLASSES)):
        region = (parsing == label).astype(np.uint8)
        if not region.any():
            continue
        inside = np.minimum(cv2.distanceTransform(region, cv2.DIST_L2, 5) / radius, 1)
        relief = cv2.GaussianBlur(radius * np.sqrt(1 - (1 - inside) ** 2), (0, 0), radius / 10)
        down, right = np.gradient(relief)
        facing = (lamp[2] - lamp[0] * right - lamp[1] * down) / np.sqrt(right**2 + down**2 + 1)
        lit = np.clip(facing, 0, None) / max(float(lamp[2]), 0.35)
        lit = 1 - strength + strength * np.minimum(lit, 1.6)
        shade = np.where(region > 0, lit * falling * (face if label == FACE else 1), shade)
    return cv2.GaussianBlur(shade, (0, 0), radius / 15).astype(np.float32)
