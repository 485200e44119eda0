// Which part of a photo the graphs see, and where it lies in their frame: what
// runtime/photos/_fit.py does in Python.

#pragma once

#include <photos.h>

#include <opencv2/core.hpp>
#include <string>

#include "bundle.h"

namespace garment_transfer::internal {

// LEFT,TOP,RIGHT,BOTTOM, the last two just outside.
std::string text(const cv::Rect& box);

// The box of a photo that the graphs see, by the bundle's rule. It has the aspect of `target`, and
// may leave the photo. `parts` is 8UC1, the DensePose parts. Throws Error.
cv::Rect frame(const cv::Mat& parts, const Framing& framing, cv::Size target);

// A box of an image in a frame: the largest size of its aspect that the frame holds, in the middle.
GtFit fit_of(cv::Size source, const cv::Rect& box, cv::Size target);

// Throws unless photos.h did what it was asked for.
void check(GtPhotosStatus status);

GtPicture picture(const cv::Mat& image);

// A map of 8-bit channels at another size, by nearest neighbours.
cv::Mat nearest(const cv::Mat& labels, cv::Size size);

}  // namespace garment_transfer::internal
