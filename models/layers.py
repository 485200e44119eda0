"""Building blocks that the three networks share."""

import functools
import itertools
import operator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from garment_transfer.bundle import BACKGROUND, NUM_PARTS, SKIN

#: The front and the back of the torso among the DensePose parts; the neck belongs to them.
TORSO_PARTS = (1, 2)
#: Both hands and both forearms among the DensePose parts.
HAND_PARTS = (3, 4)
FOREARM_PARTS = (19, 20, 21, 22)


class Conv(nn.Sequential):
    """3x3 convolution, batch normalisation, ReLU. A runtime folds the normalisation away."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input is added back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class Encoder(nn.Module):
    """A pyramid of features: `widths[l]` channels at 1/2**(l+1) of the input's size."""

    def __init__(self, inputs: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for width, count in zip(widths, blocks, strict=True):
            self.levels.append(
                nn.Sequential(Conv(inputs, width, 2), *(Residual(width) for _ in range(count)))
            )
            inputs = width

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


def upsample2x(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


def join(*features: Tensor) -> Tensor:
    """Maps [N,C,H,W] side by side, as the convolution behind them wants them: [N,sum of C,H,W].

    With channels last in memory, and in autocast's type where it is on. torch.cat gives what
    differs in layout and type the slower of both, which the convolution then has to turn round.
    """
    if torch.onnx.is_in_onnx_export():
        return torch.cat(features, dim=1)
    device = features[0].device.type
    if torch.is_autocast_enabled(device):
        features = tuple(x.to(torch.get_autocast_dtype(device)) for x in features)
    last = torch.channels_last
    return torch.cat(
        [x if x.stride(1) == 1 else x.contiguous(memory_format=last) for x in features], dim=1
    )


def positions(like: Tensor) -> Tensor:
    """Normalised x and y of every pixel centre (-1 and 1 are the outer edges), [1,2,H,W]."""
    h, w = like.shape[-2:]
    xs = (torch.arange(w, device=like.device, dtype=torch.float32) * 2 + 1) / w - 1
    ys = (torch.arange(h, device=like.device, dtype=torch.float32) * 2 + 1) / h - 1
    return torch.stack([xs.expand(h, w), ys[:, None].expand(h, w)])[None]


def moments(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and standard deviation of a region, normalised coordinates, each [N,2] (x, y).

    [N,1,H,W] of 0 and 1; an empty region lies in the middle and has a tiny extent.
    """
    xs, ys = positions(mask).split(1, dim=1)
    area = mask.sum(dim=(1, 2, 3)).clamp_min(1.0)

    def mean(value: Tensor) -> Tensor:
        return (value * mask).sum(dim=(1, 2, 3)) / area

    cx, cy = mean(xs), mean(ys)
    vx = mean((xs - cx.view(-1, 1, 1, 1)) ** 2)
    vy = mean((ys - cy.view(-1, 1, 1, 1)) ** 2)
    extent = torch.stack([vx, vy], dim=1).clamp_min(1e-3).sqrt()
    return torch.stack([cx, cy], dim=1), extent


def within(region: tuple[Tensor, Tensor], like: Tensor) -> Tensor:
    """Where each pixel lies in a region of that centre and extent (`moments`), [N,2,H,W].

    0 at the centre, 1 a standard deviation from it: what is learned of a garment's places then
    holds wherever it stands in the picture.
    """
    centre, extent = (value[:, :, None, None] for value in region)
    return (positions(like) - centre) / extent


class Context(nn.Module):
    """Top-down path of a pyramid: fine levels learn what the coarsest sees.

    As in Lin et al., "Feature Pyramid Networks for Object Detection" (CVPR 2017). Local features
    cannot tell which place of a garment they show; the whole body can.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))[::-1]
        self.down = nn.ModuleList(nn.Conv2d(coarse, fine // 2, 1) for fine, coarse in pairs)
        self.merge = nn.ModuleList(Conv(fine + fine // 2, fine) for fine, _ in pairs)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features of neighbouring levels, fine to coarse, to as many of the same widths."""
        levels = [features[-1]]
        for down, merge, fine in zip(self.down, self.merge, features[-2::-1], strict=True):
            levels.append(merge(torch.cat([fine, upsample2x(down(levels[-1]))], dim=1)))
        return levels[::-1]


def matching_affine(target: tuple[Tensor, Tensor], source: tuple[Tensor, Tensor]) -> Tensor:
    """The scaling and shift [N,2,3] that lead from one region to another, by their `moments`.

    Output to source, in normalised coordinates; no side grows or shrinks by more than 2.5.
    """
    scale = (source[1] / target[1]).clamp(0.4, 2.5)
    shift = source[0] - scale * target[0]
    return torch.cat([torch.diag_embed(scale), shift[:, :, None]], dim=2)


def image_to_float(image: Tensor) -> Tensor:
    """uint8 [N,H,W,3] to float [N,3,H,W] in 0..1."""
    return image.permute(0, 3, 1, 2).float() / 255


def float_to_image(x: Tensor) -> Tensor:
    """float [N,3,H,W] in 0..1 to uint8 [N,H,W,3], rounded to nearest."""
    return (x.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1)


def one_hot(parsing: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Class ids [N,H,W] to float [N,len(classes),H,W], one plane per class of `classes`."""
    ids = torch.tensor(classes, dtype=torch.int32, device=parsing.device).view(1, -1, 1, 1)
    return (parsing.to(torch.int32)[:, None] == ids).float()


def dilate(mask: Tensor, radius: int) -> Tensor:
    """A mask [N,C,H,W] of 0 and 1 grown by `radius` pixels (a square of side 2 radius + 1)."""
    if torch.onnx.is_in_onnx_export():
        return F.max_pool2d(mask, 2 * radius + 1, 1, radius)
    # the same: torch's own takes six times as long on a CPU
    for axis in (2, 3):
        grown = mask.clone()
        length = mask.shape[axis]
        for shift in range(1, min(radius + 1, length)):
            kept = length - shift
            for there, here in ((shift, 0), (0, shift)):
                part = grown.narrow(axis, there, kept)
                torch.maximum(part, mask.narrow(axis, here, kept), out=part)
        mask = grown
    return mask


def is_part(densepose: Tensor, parts: tuple[int, ...]) -> Tensor:
    """Where an IUV map [N,H,W,3] shows one of some parts, bool [N,H,W]."""
    return functools.reduce(operator.or_, (densepose[..., 0] == part for part in parts))


def softmax_planes(logits: Tensor) -> Tensor:
    """Softmax over the second axis of [N,C,H,W], by what runtimes do faster there than softmax."""
    powers = torch.exp(logits - logits.amax(dim=1, keepdim=True))
    return powers / powers.sum(dim=1, keepdim=True)


def label_neck(parsing: Tensor, densepose: Tensor) -> Tensor:
    """Label as skin what has no label but lies on the torso.

    VITON's label set leaves neck and bare chest unlabelled where others call them skin; after
    this the networks see one convention. [N,H,W] and [N,H,W,3] to [N,H,W], uint8.
    """
    unlabelled = (parsing == BACKGROUND) & is_part(densepose, TORSO_PARTS)
    return torch.where(unlabelled, torch.full_like(parsing, SKIN), parsing)


class Maps(nn.Module):
    """One person's label planes and DensePose as features at half the size.

    DensePose's borders are too rough for the full size to be worth its cost.
    """

    def __init__(self, planes: int, part_width: int) -> None:
        super().__init__()
        self.planes = Conv(planes, 8, 2)
        self.parts = nn.Embedding(NUM_PARTS, part_width)
        self.channels = 8 + part_width + 2

    def forward(self, planes: Tensor, densepose: Tensor) -> Tensor:
        """[N,planes,H,W] float and uint8 [N,H,W,3] to [N,channels,H/2,W/2]."""
        body = densepose_planes(self.parts, densepose[:, 1::2, 1::2])
        return torch.cat([self.planes(planes), body], dim=1)


def densepose_planes(parts: nn.Embedding, densepose: Tensor) -> Tensor:
    """An IUV map, uint8 [N,H,W,3], as planes [N,C + 2,H,W].

    The learned vector of C numbers for each pixel's part, with U and V beside it (0 where an
    encoding carries parts alone).
    """
    # a table has no entry for a part that does not exist
    part = densepose[..., 0].to(torch.int32).clamp_max(parts.num_embeddings - 1)
    uv = densepose[..., 1:].permute(0, 3, 1, 2).float() / 255
    return torch.cat([parts(part).permute(0, 3, 1, 2), uv], dim=1)


def push_pull(x: Tensor, weight: Tensor) -> Tensor:
    """Fill `x` where `weight` is 0 from what surrounds it, smoothly and without a network.

    The push-pull of Gortler et al., "The Lumigraph" (SIGGRAPH 1996): averages of the known
    pixels are pushed to ever coarser levels and pulled back into the holes.

    Args:
        x: [N,C,H,W]; up to five levels, as often as H and W can be halved.
        weight: [N,1,H,W] in 0..1, how well each pixel is known.

    Returns:
        [N,C,H,W], equal to `x` where `weight` is 1; 0 where nothing is known at all.
    """
    levels = [(x * weight, weight)]
    while len(levels) < 6 and levels[-1][0].shape[-2] % 2 == levels[-1][0].shape[-1] % 2 == 0:
        levels.append((F.avg_pool2d(levels[-1][0], 2), F.avg_pool2d(levels[-1][1], 2)))
    colour, known = levels.pop()
    total = known.mean(dim=(2, 3), keepdim=True)
    filled = (colour.mean(dim=(2, 3), keepdim=True) / total.clamp_min(1e-6)).expand_as(colour)
    filled = colour + (1 - known) * filled
    while levels:
        colour, known = levels.pop()
        filled = colour + (1 - known) * upsample2x(filled)
    return filled
