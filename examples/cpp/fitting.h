// Fitting a photo and its maps to the bundle's size with the aspect kept, and the way back: what
// runtime/photos/_fit.py does in Python.

#pragma once

#include <opencv2/core.hpp>

namespace example {

// Where an image of size `source` lies inside the frame `target`: scaled to `scaled`, the largest
// size of its aspect that the frame holds, in the middle. Coordinates are in pixels, pixel centres
// at integers.
class Fit {
 public:
  Fit(cv::Size source, cv::Size target);

  bool is_identity() const { return source == target; }

  // Source coordinates in the frame, and the other way.
  float to_target_x(float x) const { return (x + 0.5f) * scale_x - 0.5f + float(left); }
  float to_target_y(float y) const { return (y + 0.5f) * scale_y - 0.5f + float(top); }
  float to_source_x(float x) const { return (x - float(left) + 0.5f) / scale_x - 0.5f; }
  float to_source_y(float y) const { return (y - float(top) + 0.5f) / scale_y - 0.5f; }

  // A photo in the frame: down by area, up linearly, edges repeated into the padding.
  cv::Mat photo(const cv::Mat& image) const;
  // A map in the frame: by nearest neighbours, 0 in the padding.
  cv::Mat map(const cv::Mat& labels) const;
  // The part of a framed picture that is image, not padding: a view.
  cv::Mat crop(const cv::Mat& framed) const;
  // A framed picture or field back at size `source`.
  cv::Mat unfit(const cv::Mat& framed) const;

  cv::Size source, target, scaled;
  int top, left;
  float scale_x, scale_y;  // frame pixels per source pixel
};

// A map of 8-bit channels at another size. Not OpenCV's INTER_NEAREST_EXACT: 4.6's takes another
// pixel than later ones' where a centre falls between two, as at a quarter of the size.
cv::Mat nearest(const cv::Mat& labels, cv::Size size);

// A picture or field at another size: down by area, up linearly.
cv::Mat resized(const cv::Mat& image, cv::Size size);

}  // namespace example
