"""Arm regrowth and composition: paint what the new garment exposes, keep everything else.

Fang et al. (arXiv 2401.12433) infer the skin from the arm pixels that survive, the target shape
and the rest of the parsing. Here the surviving colours are first continued over the whole
picture without a network, skin from skin, lower garment from lower garment, background from
background, and a small U-Net adds what that cannot know: shading, borders, fingers. A bare
continuation already has the right colour on people unlike those trained on. By DensePose the
network knows where a limb turns away from the light.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from garment_transfer.bundle import CLASSES, FACE, GARMENT, LOWER, NUM_PARTS, SKIN, border_width
from garment_transfer.models.layers import (
    Conv,
    Encoder,
    densepose_planes,
    dilate,
    float_to_image,
    image_to_float,
    one_hot,
    push_pull,
    upsample2x,
)


@dataclass(frozen=True)
class RegrowthConfig:
    """Widths of the regrowth U-Net from 1/2 to 1/16 of the size, and of its head.

    `part_width` is the length of the vector that stands for a DensePose part.
    """

    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    head_width: int
    part_width: int


class RegrowthNetwork(nn.Module):
    """The graph `regrowth`; `paint` gives the image as floats for training."""

    def __init__(self, config: RegrowthConfig) -> None:
        super().__init__()
        widths = config.widths
        self.parts = nn.Embedding(NUM_PARTS, config.part_width)
        inputs = 3 + 3 + len(CLASSES) + 3 + config.part_width + 2
        self.encoder = Encoder(inputs, widths, config.blocks)
        self.decoder = nn.ModuleList(
            [Conv(widths[i + 1] + widths[i], widths[i]) for i in reversed(range(3))]
        )
        self.head = nn.Sequential(
            Conv(widths[0], config.head_width),
            nn.Conv2d(config.head_width, 4 * 4, 3, 1, 1),
            nn.PixelShuffle(2),
        )
        last = self.head[1]
        assert isinstance(last, nn.Conv2d)
        nn.init.normal_(last.weight, std=1e-3)

    def paint(
        self,
        person_image: Tensor,
        person_parsing: Tensor,
        person_densepose: Tensor,
        transfer_parsing: Tensor,
        warped_garment: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The image, float [N,3,H,W], and where it was painted, [N,1,H,W]; inputs: `forward`."""
        photo = image_to_float(person_image)
        now = one_hot(person_parsing, tuple(range(len(CLASSES))))
        then = one_hot(transfer_parsing, tuple(range(len(CLASSES))))
        garment = then[:, GARMENT : GARMENT + 1]
        skin_then, lower_then = then[:, SKIN : SKIN + 1], then[:, LOWER : LOWER + 1]
        background_now, background_then = now[:, :1], then[:, :1]

        # label maps are rough: beside what vanishes, what stays still shows some of it; hair,
        # face and legs are kept all the same
        radius = border_width(photo.shape[-2])
        stays = (person_parsing == transfer_parsing)[:, None].float()
        vanished = dilate((1 - background_now) * (1 - stays), radius)
        rough = background_then + skin_then + lower_then
        kept = stays * (1 - garment) * (1 - vanished * rough)
        painted = (1 - kept) * (1 - garment)

        # the face has the person's skin colour, but its rim shows hair
        skin_now, face = now[:, SKIN : SKIN + 1], now[:, FACE : FACE + 1]
        inner = 1 - dilate(1 - face, 1)
        skin = _continue(photo, skin_now * (1 - vanished) + 0.2 * inner, mostly=0.012)
        lower_now = now[:, LOWER : LOWER + 1] * (1 - vanished)
        lower = _mirrored(photo, lower_now, _continue(photo, lower_now))
        inside = dilate(1 - background_now, radius)
        background = _continue(photo, background_now * (1.001 - inside))
        base = skin * skin_then + lower * lower_then
        base = base + background * (1 - skin_then - lower_then)

        # what has no label now may be skin all the same (VITON leaves the neck unlabelled), so
        # the network sees the photo there, and decides with the gate
        unlabelled = background_now * skin_then * (1 - vanished)
        visible = photo * torch.maximum(kept, unlabelled)
        known = visible + (1 - torch.maximum(kept, unlabelled)) * base * painted
        known = known + image_to_float(warped_garment) * garment
        body = densepose_planes(self.parts, person_densepose)
        planes = [known, base, then, kept, unlabelled, skin_now, body]
        features = self.encoder(torch.cat(planes, dim=1))
        x = features[-1]
        for layer, skip in zip(self.decoder, reversed(features[:-1]), strict=True):
            x = layer(torch.cat([upsample2x(x), skip], dim=1))
        x = self.head(x)
        gate = torch.sigmoid(x[:, 3:]) * unlabelled
        paint = (base + x[:, :3]) * (1 - gate) + photo * gate
        # skin goes on with the tone and the light of what stays of it, cloth as it was mirrored
        paint = paint + skin_then * _faded(photo - paint, skin_now * skin_then * kept, 0.03)
        paint = paint + lower_then * _faded(base - paint, lower_now * lower_then * kept, 0.1)
        image = photo * kept + image_to_float(warped_garment) * garment + paint * painted
        # class ids make stairs of every border; a photo has none
        border = (dilate(then, 1).sum(dim=1, keepdim=True) > 1).float() * (1 - kept)
        soft = F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
        return image + border * (soft - image), painted

    def forward(
        self,
        person_image: Tensor,
        person_parsing: Tensor,
        person_densepose: Tensor,
        transfer_parsing: Tensor,
        warped_garment: Tensor,
    ) -> Tensor:
        """The finished picture.

        Args:
            person_image, warped_garment: uint8 [N,H,W,3].
            person_parsing, transfer_parsing: uint8 [N,H,W].
            person_densepose: uint8 [N,H,W,3], IUV.

        Returns:
            uint8 [N,H,W,3]: the person's own pixels where the class stays, the warped garment
            in its region, the rest painted.
        """
        image, _ = self.paint(
            person_image, person_parsing, person_densepose, transfer_parsing, warped_garment
        )
        return float_to_image(image)


def _continue(photo: Tensor, weight: Tensor, mostly: float = 0.0) -> Tensor:
    """`photo` continued from where `weight` is positive; at half the size, since it is smooth.

    With `mostly`, from what has the chromaticity of most of it, give or take so much: of skin,
    without eyes, lips, beard and cloth that is labelled skin. Its shade counts, since what is
    painted is shaded too.
    """
    known = F.avg_pool2d(weight, 2)
    colour = F.avg_pool2d(photo * weight, 2) / known.clamp_min(1e-6)
    if mostly:
        chroma = colour / (colour.sum(dim=1, keepdim=True) + 0.1)
        likeness = known
        for _ in range(4):
            total = likeness.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)
            mode = (chroma * likeness).sum(dim=(2, 3), keepdim=True) / total
            distance = (chroma - mode).square().sum(dim=1, keepdim=True)
            likeness = known * torch.exp(-distance / (2 * mostly**2))
        # where nothing is like the rest, the rest is all there is
        known = likeness + 1e-4 * known
    return upsample2x(push_pull(colour, known))


def _faded(difference: Tensor, known: Tensor, fade: float) -> Tensor:
    """A difference [N,3,H,W], continued from where it is known, and less with the distance.

    The larger `fade`, the sooner it ends. At half the size, as `_continue`; averages over squares
    first, so that it still counts for most beside the border, where labels are not to be trusted.
    """
    planes = torch.cat([difference * known, known], dim=1)
    planes = F.avg_pool2d(F.avg_pool2d(planes, 2), 5, 1, 2)
    total, share = planes[:, :3], planes[:, 3:].clamp_min(1e-4)
    near = (3 * share).clamp_max(1)
    weight = fade + (1 - fade) * near
    return upsample2x(push_pull(total / share * near / weight, weight))


def _mirrored(photo: Tensor, region: Tensor, otherwise: Tensor) -> Tensor:
    """`photo` mirrored at the upper end of a region [N,1,H,W] of 0 and 1, column by column.

    A lower garment goes on above its visible end with the same cloth, in about the same light.
    Where the mirror image shows anything else than the region it is `otherwise`.
    """
    height = photo.shape[-2]
    rows = torch.arange(height, device=photo.device).view(1, 1, height, 1)
    top = torch.where(region > 0, rows, height).amin(dim=2, keepdim=True)
    source = (2 * top - 1 - rows).clamp(0, height - 1).expand(-1, -1, -1, photo.shape[-1])
    shown = torch.gather(region, 2, source)
    cloth = torch.gather(photo, 2, source.expand(-1, photo.shape[1], -1, -1))
    return otherwise + shown * (cloth - otherwise)
