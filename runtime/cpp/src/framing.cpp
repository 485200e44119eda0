#include "framing.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

#include "error.h"

namespace garment_transfer::internal {
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
int half_up(double value) { return static_cast<int>(std::floor(value + 0.5)); }

}  // namespace

std::string text(const cv::Rect& box) {
  return std::to_string(box.x) + "," + std::to_string(box.y) + "," + std::to_string(box.br().x) +
         "," + std::to_string(box.br().y);
}

cv::Rect frame(const cv::Mat& parts, const Framing& framing, cv::Size target) {
  cv::Mat counted = parts;
  const int number = sum(counts(parts, true, framing.parts));
  if (!number) {
    std::string names;
    for (int part = 0; part < 32; ++part) {
      if (framing.parts >> part & 1) names += (names.empty() ? "" : ", ") + std::to_string(part);
    }
    throw Error(GT_BODY_MISSING, "the DensePose map shows nobody", "some of the parts " + names);
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
  return {half_up((columns.start + columns.end - width) / 2), half_up(rows.start - margin),
          std::max(1, half_up(width)), std::max(1, half_up(height))};
}

GtFit fit_of(cv::Size source, const cv::Rect& box, cv::Size target) {
  GtFit fit;
  check(gt_fit_whole(box.height, box.width, target.height, target.width, &fit));
  fit.source_height = source.height;
  fit.source_width = source.width;
  fit.top = box.y;
  fit.left = box.x;
  return fit;
}

void check(GtPhotosStatus status) {
  if (status == GT_PHOTOS_OK) return;
  if (status == GT_PHOTOS_MEMORY) throw std::bad_alloc();
  throw Error(GT_INTERNAL_ERROR, "photos.h: status " + std::to_string(status));
}

GtPicture picture(const cv::Mat& image) {
  return {image.data, static_cast<int64_t>(image.step[0]), image.rows, image.cols,
          image.channels()};
}

cv::Mat nearest(const cv::Mat& labels, cv::Size size) {
  const GtFit fit{labels.rows, labels.cols, 0, 0, labels.rows, labels.cols,
                  size.height, size.width,  0, 0, size.height, size.width};
  const GtPicture from = picture(labels);
  cv::Mat result(size, labels.type());
  check(gt_fit_map(&from, &fit, result.data));
  return result;
}

}  // namespace garment_transfer::internal
