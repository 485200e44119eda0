#include "fitting.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <opencv2/imgproc.hpp>

namespace example {
namespace {

cv::Size scaled_size(cv::Size source, cv::Size target) {
  const double factor = std::min(double(target.height) / source.height,
                                 double(target.width) / source.width);
  // to even at one half, as Python rounds
  const auto side = [&](int length) {
    return std::max(1, static_cast<int>(std::nearbyint(length * factor)));
  };
  return {side(source.width), side(source.height)};
}

}  // namespace

Fit::Fit(cv::Size source_size, cv::Size target_size)
    : source(source_size),
      target(target_size),
      scaled(scaled_size(source_size, target_size)),
      top((target_size.height - scaled.height) / 2),
      left((target_size.width - scaled.width) / 2),
      scale_x(static_cast<float>(double(scaled.width) / source_size.width)),
      scale_y(static_cast<float>(double(scaled.height) / source_size.height)) {}

cv::Mat Fit::photo(const cv::Mat& image) const {
  if (is_identity()) return image;
  cv::Mat framed;
  cv::copyMakeBorder(resized(image, scaled), framed, top, target.height - scaled.height - top, left,
                     target.width - scaled.width - left, cv::BORDER_REPLICATE);
  return framed;
}

cv::Mat Fit::map(const cv::Mat& labels) const {
  if (is_identity()) return labels;
  cv::Mat framed;
  cv::copyMakeBorder(nearest(labels, scaled), framed, top, target.height - scaled.height - top, left,
                     target.width - scaled.width - left, cv::BORDER_CONSTANT, cv::Scalar::all(0));
  return framed;
}

cv::Mat Fit::crop(const cv::Mat& framed) const {
  return framed(cv::Rect(left, top, scaled.width, scaled.height));
}

cv::Mat Fit::unfit(const cv::Mat& framed) const { return resized(crop(framed), source); }

cv::Mat nearest(const cv::Mat& labels, cv::Size size) {
  cv::Mat result(size, labels.type());
  const std::size_t bytes = labels.elemSize();
  // the source pixel that holds the centre of x
  const auto holds = [](int x, int from, int to) {
    return static_cast<int>((2 * std::int64_t{x} + 1) * from / (2 * std::int64_t{to}));
  };
  for (int y = 0; y < size.height; ++y) {
    const unsigned char* from = labels.ptr(holds(y, labels.rows, size.height));
    unsigned char* to = result.ptr(y);
    for (int x = 0; x < size.width; ++x) {
      const auto at = static_cast<std::size_t>(holds(x, labels.cols, size.width));
      std::memcpy(to + static_cast<std::size_t>(x) * bytes, from + at * bytes, bytes);
    }
  }
  return result;
}

cv::Mat resized(const cv::Mat& image, cv::Size size) {
  if (image.size() == size) return image;
  const bool down = size.height <= image.rows && size.width <= image.cols;
  cv::Mat result;
  cv::resize(image, result, size, 0, 0, down ? cv::INTER_AREA : cv::INTER_LINEAR);
  return result;
}

}  // namespace example
