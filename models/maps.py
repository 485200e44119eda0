"""The maps of a photo from the photo alone: who is where in it, in which class and body part.

The other graphs take a parsing and a DensePose map, which a user had to bring. This network gives
both: a U-Net from 1/2 to 1/32 of the size, whose coarsest features see the whole picture. It
labels everybody it sees; whom the picture is about, the runtime decides.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from garment_transfer.bundle import CLASSES, NUM_PARTS
from garment_transfer.models.layers import Conv, Encoder, image_to_float, join, upsample2x


@dataclass(frozen=True)
class MapsConfig:
    """Widths and blocks from 1/2 to 1/32 of the size, and the width of the head."""

    widths: tuple[int, int, int, int, int]
    blocks: tuple[int, int, int, int, int]
    head_width: int


@dataclass(frozen=True)
class Seen:
    """What the network makes of photos.

    `classes` [N,7,H,W] and `parts` [N,25,H/2,W/2] are logits, `charts` [N,2,H/2,W/2] U and V in
    0..1: DensePose's borders are too soft for the full size to be worth its cost.
    """

    classes: Tensor
    parts: Tensor
    charts: Tensor


class MapsNetwork(nn.Module):
    """The graph `maps`; `look` gives its logits for training."""

    def __init__(self, config: MapsConfig) -> None:
        super().__init__()
        widths = config.widths
        self.encoder = Encoder(3, widths, config.blocks)
        self.whole = nn.Conv2d(widths[4], widths[4], 1)
        self.decoder = nn.ModuleList(
            [Conv(widths[i + 1] + widths[i], widths[i]) for i in (3, 2, 1)]
        )
        self.head = Conv(widths[1] + widths[0], config.head_width)
        # four pixels at once from half the size: layers at the full size would cost the most
        self.classes = nn.Sequential(
            Conv(config.head_width, config.head_width),
            nn.Conv2d(config.head_width, 4 * len(CLASSES), 3, 1, 1),
            nn.PixelShuffle(2),
        )
        self.body = nn.Conv2d(config.head_width, NUM_PARTS + 2, 3, 1, 1)

    def look(self, image: Tensor) -> Seen:
        """What is seen in photos, uint8 [N,H,W,3]."""
        features = self.encoder(2 * image_to_float(image) - 1)
        x = features[-1]
        # light, distance and surroundings, of which every place should know
        x = x + self.whole(x.mean(dim=(2, 3), keepdim=True))
        for layer, skip in zip((*self.decoder, self.head), reversed(features[:-1]), strict=True):
            x = layer(join(upsample2x(x), skip))
        parts, charts = self.body(x).split((NUM_PARTS, 2), dim=1)
        return Seen(self.classes(x), parts, torch.sigmoid(charts))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The maps of photos.

        Args:
            image: uint8 [N,H,W,3].

        Returns:
            Parsing, uint8 [N,H,W], the seven classes; DensePose, uint8 [N,H,W,3], IUV; and the
            probability times 255 of each pixel's class and of its part, uint8 [N,H,W] each.
        """
        seen = self.look(image)
        sure_of_part = upsample2x(_sureness(seen.parts))
        body = upsample2x(torch.cat([seen.parts, seen.charts], dim=1))
        part = body[:, :NUM_PARTS].argmax(dim=1, keepdim=True).to(torch.int32).float()
        charts = torch.floor(body[:, NUM_PARTS:].float() * 255 + 0.5) * (part > 0).float()
        densepose = torch.cat([part, charts], dim=1).permute(0, 2, 3, 1)
        parsing = seen.classes.argmax(dim=1).to(torch.int32)
        sure = torch.cat([_sureness(seen.classes), sure_of_part], dim=1) * 255 + 0.5
        maps = (parsing, densepose, sure[:, 0], sure[:, 1])
        return tuple(x.to(torch.uint8) for x in maps)  # type: ignore[return-value]


def _sureness(logits: Tensor) -> Tensor:
    """The probability of the likeliest class, [N,1,H,W]; as softmax, which runtimes do slowly."""
    logits = logits.float()
    return 1 / torch.exp(logits - logits.amax(dim=1, keepdim=True)).sum(dim=1, keepdim=True)
