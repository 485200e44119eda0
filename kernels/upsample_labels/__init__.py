"""Labels that a network gave in its frame, at the photo's size, with borders where the photo's are.

A guided filter (He, Sun and Tang, "Guided image filtering", PAMI 2013) with the photo as the guide:
around each pixel of the frame a class is described as a linear function of colour, the functions of
overlapping windows are averaged, and it is they that are enlarged and asked about the photo's
colours (He and Sun, "Fast guided filter", 2015). Every pixel gets the class that says most.

It runs in C++ (upsample_labels_cpu.cpp) where the library is built, and else by the definition
below, with the same labels: what is no whole number is computed in the same order.
"""

import cv2
import numpy as np
import numpy.typing as npt

from garment_transfer.kernels import photos
from garment_transfer.kernels.fit import Fit, Whole, lerp, window_taps

Pixels = npt.NDArray[np.uint8]

# The radius of a window, as one part in so many of the frame's height, and the largest one.
_WINDOW, _MOST = 32, 64
# The variance of colours, in levels, below which they say nothing: the eps of the paper.
_FLAT = np.float64(6.5)
# Slopes are in 1/65536 of a class per level, offsets in units 64 times as large; colours count from
# the middle of their range.
_SLOPE, _COARSER, _MIDDLE = 1 << 16, 64, 128


def upsample_labels(photo: Pixels, framed: Pixels, labels: Pixels, fit: Fit) -> Pixels:
    """A map of labels at the photo's size.

    Args:
        photo: uint8 RGB [H,W,3].
        framed: uint8 RGB [h,w,3], what `fit.photo` makes of it.
        labels: uint8 [h,w], of that frame.
        fit: where the photo lies in the frame.

    Returns:
        uint8 [H,W]; 0 around the box.
    """
    library = photos.load()
    if library is not None:
        return library.upsample_labels(photo, framed, labels, fit)
    return define(photo, framed, labels, fit)


def define(photo: Pixels, framed: Pixels, labels: Pixels, fit: Fit) -> Pixels:
    """The definition of `upsample_labels`."""
    small, colours = fit.crop(labels), fit.crop(framed).astype(np.float64)
    radius = min(max(fit.target.height // _WINDOW, 1), _MOST)

    def sums(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Over the window around each pixel: whole numbers, which float64 holds exactly."""
        side = (2 * radius + 1,) * 2
        found = cv2.boxFilter(values, -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(found, np.float64)

    def divided(sum_: npt.NDArray[np.float64], by: npt.NDArray[np.float64]) -> Whole:
        """Quotients of whole numbers, halves rounded up."""
        twice, n = 2 * sum_.astype(np.int64), by.astype(np.int64)
        return np.asarray((twice + n) // (2 * n), np.int32)

    count = sums(np.ones(small.shape))
    red, green, blue = (colours[..., channel] for channel in range(3))
    total = [sums(channel) for channel in (red, green, blue)]

    def covariance(
        product: npt.NDArray[np.float64],
        first: npt.NDArray[np.float64],
        second: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        return np.asarray((count * product - first * second) / (count * count), np.float64)

    v00, v11, v22 = (
        covariance(sums(channel * channel), of, of) + _FLAT
        for channel, of in zip((red, green, blue), total, strict=True)
    )
    v01 = covariance(sums(red * green), total[0], total[1])
    v02 = covariance(sums(red * blue), total[0], total[2])
    v12 = covariance(sums(green * blue), total[1], total[2])
    m00, m11, m22 = v11 * v22 - v12 * v12, v00 * v22 - v02 * v02, v00 * v11 - v01 * v01
    m01, m02, m12 = v02 * v12 - v01 * v22, v01 * v12 - v02 * v11, v01 * v02 - v00 * v12
    determinant = v00 * m00 + v01 * m01 + v02 * m02

    rows, columns = window_taps(fit)
    shown = photo[fit.window].astype(np.int32) - _MIDDLE
    best = np.zeros(shown.shape[:2], np.int32)
    out = np.zeros(photo.shape[:2], np.uint8)
    within = out[fit.window]
    for label in np.unique(small):
        mask = (small == label).astype(np.float64)
        members = sums(mask)
        c0, c1, c2 = (
            covariance(sums(channel * mask), of, members)
            for channel, of in zip((red, green, blue), total, strict=True)
        )
        slopes = [
            np.floor((m0 * c0 + m1 * c1 + m2 * c2) / determinant * _SLOPE + 0.5)
            for m0, m1, m2 in ((m00, m01, m02), (m01, m11, m12), (m02, m12, m22))
        ]
        offset = members * _SLOPE
        for slope, of in zip(slopes, total, strict=True):
            offset -= slope * (of - _MIDDLE * count)
        slopes.append(divided(offset, _COARSER * count).astype(np.float64))
        lines = np.dstack([divided(sums(plane), count) for plane in slopes])
        # elsewhere the class says 0
        says_any = np.asarray(lines.any(axis=2)).view(np.uint8)
        left, top, width, height = cv2.boundingRect(says_any)
        y = np.flatnonzero((rows.second >= top) & (rows.first < top + height))
        x = np.flatnonzero((columns.second >= left) & (columns.first < left + width))
        if not len(y) or not len(x):
            continue
        here = np.s_[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        lines = lerp(lines[rows.first[y]], lines[rows.second[y]], rows.part[y, None, None])
        lines = lerp(lines[:, columns.first[x]], lines[:, columns.second[x]], columns.part[x, None])
        says = (lines[..., :3] * shown[here]).sum(axis=2) + _COARSER * lines[..., 3]
        more = says > best[here]
        within[here][more] = label
        best[here][more] = says[more]
    return out
