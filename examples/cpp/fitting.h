// Fitting a photo, or a box of it, and its maps to the bundle's size, and the way back: what
// runtime/photos/_fit.py does in Python.

#pragma once

#include <garment_transfer/garment_transfer.hpp>
#include <opencv2/core.hpp>
#include <string>

namespace example {

// LEFT,TOP,RIGHT,BOTTOM, the last two just outside.
std::string text(const cv::Rect& box);

// The box of a photo that the graphs see, by the bundle's rule. It has the aspect of `target`, and
// may leave the photo. `parts` is 8UC1, the DensePose parts. Throws InputError.
cv::Rect frame(const cv::Mat& parts, const garment_transfer::Framing& framing, cv::Size target);

// Where `box` of an image of size `source`, which it may leave, lies inside the frame `target`:
// scaled to `scaled`, the largest size of its aspect that the frame holds, in the middle.
// Coordinates are in pixels, pixel centres at integers.
class Fit {
 public:
  Fit(cv::Size source, cv::Size target, cv::Rect box);

  bool is_identity() const { return source == target && box == cv::Rect({}, source); }

  // The part of the image that the box shows, and the fit of that part alone.
  cv::Rect window() const { return box & cv::Rect({}, source); }
  Fit within_window() const;

  // Source coordinates in the frame, and the other way.
  float to_target_x(float x) const { return (x - float(box.x) + 0.5f) * scale_x - 0.5f + float(left); }
  float to_target_y(float y) const { return (y - float(box.y) + 0.5f) * scale_y - 0.5f + float(top); }
  float to_source_x(float x) const { return (x - float(left) + 0.5f) / scale_x - 0.5f + float(box.x); }
  float to_source_y(float y) const { return (y - float(top) + 0.5f) / scale_y - 0.5f + float(box.y); }

  // A photo in the frame: down by area, up linearly, edges repeated into the padding and where the
  // box leaves the photo.
  cv::Mat photo(const cv::Mat& image) const;
  // A map in the frame: by nearest neighbours, 0 around it.
  cv::Mat map(const cv::Mat& labels) const;
  // The part of a framed picture that is the box, not padding: a view.
  cv::Mat crop(const cv::Mat& framed) const;
  // A framed picture or field back at size `source`, its edges repeated around the box.
  cv::Mat unfit(const cv::Mat& framed) const;
  // A field of the image at the size `scaled`.
  cv::Mat shrink(const cv::Mat& field) const;
  // A field of size `scaled` back at size `source`, 0 around the box.
  cv::Mat enlarge(const cv::Mat& part) const;

  cv::Size source, target;
  cv::Rect box;
  cv::Size scaled;
  int top, left;
  float scale_x, scale_y;  // frame pixels per source pixel
};

// A map of 8-bit channels at another size. Not OpenCV's INTER_NEAREST_EXACT: 4.6's takes another
// pixel than later ones' where a centre falls between two, as at a quarter of the size.
cv::Mat nearest(const cv::Mat& labels, cv::Size size);

// A picture or field at another size: down by area, up linearly.
cv::Mat resized(const cv::Mat& image, cv::Size size);

}  // namespace example
