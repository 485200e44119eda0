#include "fitting.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <opencv2/imgproc.hpp>
#include <vector>

#include "images.h"

namespace example {
namespace {

constexpr std::uint32_t kTorso = 1u << 1 | 1u << 2;
constexpr std::uint32_t kUpperLegs = 0xFu << 7;

bool has(std::uint32_t parts, unsigned char part) { return part < 32 && parts >> part & 1; }

// The number of pixels of some parts in each row, or column.
std::vector<int> counts(const cv::Mat& parts, bool by_row, std::uint32_t of) {
  std::vector<int> found(static_cast<std::size_t>(by_row ? parts.rows : parts.cols));
  for (int y = 0; y < parts.rows; ++y) {
    const unsigned char* row = parts.ptr(y);
    for (int x = 0; x < parts.cols; ++x) {
      if (has(of, row[x])) ++found[static_cast<std::size_t>(by_row ? y : x)];
    }
  }
  return found;
}

// First and last plus one of those with `least` pixels, or with the most where none has so many.
cv::Range span(const std::vector<int>& counts, double least) {
  least = std::min(least, double(*std::max_element(counts.begin(), counts.end())));
  const auto enough = [&](int count) { return count >= least; };
  const auto first = std::find_if(counts.begin(), counts.end(), enough);
  const auto last = std::find_if(counts.rbegin(), counts.rend(), enough);
  return {int(first - counts.begin()), int(counts.rend() - last)};
}

int sum(const std::vector<int>& counts) {
  int total = 0;
  for (const int count : counts) total += count;
  return total;
}

// To the nearest integer, halves up: a person who moves by a pixel moves the box by one.
int rounded(double value) { return static_cast<int>(std::floor(value + 0.5)); }

// A box of an image, filled by OpenCV's rule `border` where it leaves it.
cv::Mat cut(const cv::Mat& image, const cv::Rect& box, int border) {
  const cv::Rect inside = box & cv::Rect({}, image.size());
  if (inside == box) return image(box);
  // not what lies around the view in the memory of a larger picture
  cv::Mat filled;
  cv::copyMakeBorder(image(inside), filled, inside.y - box.y, box.br().y - inside.br().y,
                     inside.x - box.x, box.br().x - inside.br().x, border | cv::BORDER_ISOLATED,
                     cv::Scalar::all(0));
  return filled;
}

cv::Mat padded(const cv::Mat& scaled, const Fit& fit, int border) {
  cv::Mat framed;
  cv::copyMakeBorder(scaled, framed, fit.top, fit.target.height - fit.scaled.height - fit.top,
                     fit.left, fit.target.width - fit.scaled.width - fit.left,
                     border | cv::BORDER_ISOLATED, cv::Scalar::all(0));
  return framed;
}

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

std::string text(const cv::Rect& box) {
  return std::to_string(box.x) + "," + std::to_string(box.y) + "," + std::to_string(box.br().x) +
         "," + std::to_string(box.br().y);
}

cv::Rect frame(const cv::Mat& parts, const garment_transfer::Framing& framing, cv::Size target) {
  cv::Mat counted = parts;
  const int number = sum(counts(parts, true, framing.parts));
  if (!number) {
    std::string names;
    for (int part = 0; part < 32; ++part) {
      if (framing.parts >> part & 1) names += (names.empty() ? "" : ", ") + std::to_string(part);
    }
    throw InputError("body_missing", "the DensePose map shows nobody; expected some of the parts " +
                                         names);
  }
  const double least = std::sqrt(double(number)) / 64;
  const auto torso = counts(parts, true, kTorso);
  if (sum(counts(parts, true, framing.parts & kUpperLegs)) && sum(torso)) {
    const int start = span(counts(parts, true, framing.parts), least).start;
    const double lowest = start + framing.legs * (span(torso, least).end - start);
    // upper legs count down to there
    cv::Mat rest = parts.clone();
    for (int y = std::max(0, static_cast<int>(std::ceil(lowest))); y < rest.rows; ++y) {
      unsigned char* row = rest.ptr(y);
      for (int x = 0; x < rest.cols; ++x) row[x] = has(kUpperLegs, row[x]) ? 0 : row[x];
    }
    if (sum(counts(rest, true, framing.parts))) counted = rest;
  }
  const cv::Range rows = span(counts(counted, true, framing.parts), least);
  const cv::Range columns = span(counts(counted, false, framing.parts), least);
  const double margin = framing.margin * rows.size();
  double height = rows.size() + 2 * margin, width = columns.size() + 2 * margin;
  height = std::max(height, width * target.height / target.width);
  width = height * target.width / target.height;
  return {rounded((columns.start + columns.end - width) / 2), rounded(rows.start - margin),
          std::max(1, rounded(width)), std::max(1, rounded(height))};
}

Fit::Fit(cv::Size source_size, cv::Size target_size, cv::Rect source_box)
    : source(source_size),
      target(target_size),
      box(source_box),
      scaled(scaled_size(box.size(), target_size)),
      top((target_size.height - scaled.height) / 2),
      left((target_size.width - scaled.width) / 2),
      scale_x(static_cast<float>(double(scaled.width) / box.width)),
      scale_y(static_cast<float>(double(scaled.height) / box.height)) {}

Fit Fit::within_window() const {
  const cv::Rect part = window();
  return {part.size(), target, box - part.tl()};
}

cv::Mat Fit::photo(const cv::Mat& image) const {
  if (is_identity()) return image;
  return padded(resized(cut(image, box, cv::BORDER_REPLICATE), scaled), *this,
                cv::BORDER_REPLICATE);
}

cv::Mat Fit::map(const cv::Mat& labels) const {
  if (is_identity()) return labels;
  return padded(nearest(cut(labels, box, cv::BORDER_CONSTANT), scaled), *this,
                cv::BORDER_CONSTANT);
}

cv::Mat Fit::crop(const cv::Mat& framed) const {
  return framed(cv::Rect(left, top, scaled.width, scaled.height));
}

cv::Mat Fit::unfit(const cv::Mat& framed) const {
  return cut(resized(crop(framed), box.size()), cv::Rect(-box.tl(), source), cv::BORDER_REPLICATE);
}

cv::Mat Fit::shrink(const cv::Mat& field) const {
  return resized(cut(field, box, cv::BORDER_REPLICATE), scaled);
}

cv::Mat Fit::enlarge(const cv::Mat& part) const {
  return cut(resized(part, box.size()), cv::Rect(-box.tl(), source), cv::BORDER_CONSTANT);
}

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
