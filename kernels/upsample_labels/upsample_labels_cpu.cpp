#include "upsample_labels_cpu.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

namespace garment_transfer {
namespace {

constexpr int kWindow = 32, kMostRadius = 64, kSlope = 1 << 16, kCoarser = 64, kMiddle = 128;
constexpr double kFlat = 6.5;

using Plane = std::vector<std::int32_t>;
// Three slopes and an offset; or a colour and kCoarser, which multiplies the offset.
using Line = Whole;

std::size_t at(std::ptrdiff_t i) { return static_cast<std::size_t>(i); }

// Sums over the window around each pixel of a part of the frame, outside which all is 0. The frame
// is what the photo's box has of it.
struct Windows {
  int frame_height, frame_width, radius;
  int top, left, height, width;  // the part

  std::size_t size() const { return at(height) * at(width); }

  int count(int i, int j) const {
    const auto along = [this](int k, int length) {
      return std::min(k + radius, length - 1) - std::max(k - radius, 0) + 1;
    };
    return along(top + i, frame_height) * along(left + j, frame_width);
  }

  template <typename Body>
  void for_each(const Body& body) const {
    std::size_t k = 0;
    for (int i = 0; i < height; ++i) {
      std::size_t of_frame = at(top + i) * at(frame_width) + at(left);
      for (int j = 0; j < width; ++j) body(k++, of_frame++, count(i, j));
    }
  }

  GT_TARGETS void add(Plane& to, const Plane& from, int i, int sign) const {
    if (i < 0 || i >= height) return;
    const std::int32_t* const row = from.data() + at(i) * at(width);
    for (int j = 0; j < width; ++j) to[at(j)] += sign * row[j];
  }

  Plane sums(const Plane& values) const {
    Plane out(size()), column(at(width));
    for (int i = 0; i < radius; ++i) add(column, values, i, 1);
    for (int i = 0; i < height; ++i) {
      add(column, values, i + radius, 1);
      std::int32_t* const row = out.data() + at(i) * at(width);
      std::int32_t sum = 0;
      for (int j = 0; j < std::min(radius, width); ++j) sum += column[at(j)];
      for (int j = 0; j < width; ++j) {
        if (j + radius < width) sum += column[at(j + radius)];
        row[j] = sum;
        if (j >= radius) sum -= column[at(j - radius)];
      }
      add(column, values, i - radius, -1);
    }
    return out;
  }
};

// sum / n, halves rounded up.
std::int32_t divided(std::int64_t sum, std::int64_t n) {
  const std::int64_t twice = 2 * sum + n, by = 2 * n;
  return static_cast<std::int32_t>(twice / by - (twice % by < 0));
}

// What all classes share: colours, and the inverse of their covariance.
class Guide {
 public:
  Guide(const Windows& frame, std::array<Plane, 3> colours)
      : colours_(std::move(colours)), inverse_(frame.size()) {
    const auto products = [&](std::size_t one, std::size_t other) {
      Plane product = colours_[one];
      for (std::size_t k = 0; k < product.size(); ++k) product[k] *= colours_[other][k];
      return frame.sums(product);
    };
    for (std::size_t c = 0; c < 3; ++c) total_[c] = frame.sums(colours_[c]);
    const Plane rr = products(0, 0), gg = products(1, 1), bb = products(2, 2);
    const Plane rg = products(0, 1), rb = products(0, 2), gb = products(1, 2);
    frame.for_each([&](std::size_t k, std::size_t, double n) {
      const double r = total_[0][k], g = total_[1][k], b = total_[2][k];
      const double v00 = (n * rr[k] - r * r) / (n * n) + kFlat;
      const double v11 = (n * gg[k] - g * g) / (n * n) + kFlat;
      const double v22 = (n * bb[k] - b * b) / (n * n) + kFlat;
      const double v01 = (n * rg[k] - r * g) / (n * n), v02 = (n * rb[k] - r * b) / (n * n);
      const double v12 = (n * gb[k] - g * b) / (n * n);
      Inverse& m = inverse_[k];
      m.m00 = v11 * v22 - v12 * v12;
      m.m11 = v00 * v22 - v02 * v02;
      m.m22 = v00 * v11 - v01 * v01;
      m.m01 = v02 * v12 - v01 * v22;
      m.m02 = v01 * v12 - v02 * v11;
      m.m12 = v01 * v02 - v00 * v12;
      m.determinant = v00 * m.m00 + v01 * m.m01 + v02 * m.m02;
    });
  }

  // A class, whose mask in the part is given, as a linear function of colour.
  std::vector<Line> lines(const Windows& part, const Plane& mask) const {
    const Plane members = part.sums(mask);
    std::array<Plane, 3> sums;
    for (std::size_t c = 0; c < 3; ++c) {
      Plane product = mask;
      part.for_each(
          [&](std::size_t k, std::size_t of_frame, int) { product[k] *= colours_[c][of_frame]; });
      sums[c] = part.sums(product);
    }
    std::array<Plane, 4> planes;
    for (Plane& plane : planes) plane.resize(part.size());
    part.for_each([&](std::size_t k, std::size_t of_frame, int count) {
      if (!members[k]) return;  // all 0
      const Inverse& m = inverse_[of_frame];
      const double in = members[k], n = count;
      const auto covariance = [&](std::size_t c) {
        return (n * sums[c][k] - total_[c][of_frame] * in) / (n * n);
      };
      const double c0 = covariance(0), c1 = covariance(1), c2 = covariance(2);
      const auto slope = [&](double m0, double m1, double m2) {
        const double found = (m0 * c0 + m1 * c1 + m2 * c2) / m.determinant;
        return static_cast<std::int32_t>(std::floor(found * kSlope + 0.5));
      };
      planes[0][k] = slope(m.m00, m.m01, m.m02);
      planes[1][k] = slope(m.m01, m.m11, m.m12);
      planes[2][k] = slope(m.m02, m.m12, m.m22);
      std::int64_t offset = std::int64_t{kSlope} * members[k];
      for (std::size_t c = 0; c < 3; ++c) {
        offset -= std::int64_t{planes[c][k]} * (total_[c][of_frame] - kMiddle * count);
      }
      planes[3][k] = divided(offset, std::int64_t{kCoarser} * count);
    });
    for (Plane& plane : planes) plane = part.sums(plane);
    std::vector<Line> lines(part.size());
    part.for_each([&](std::size_t k, std::size_t, int count) {
      for (std::size_t c = 0; c < 4; ++c) lines[k][c] = divided(planes[c][k], count);
    });
    return lines;
  }

 private:
  struct Inverse {
    double m00, m01, m02, m11, m12, m22, determinant;
  };

  std::array<Plane, 3> colours_, total_;
  std::vector<Inverse> inverse_;
};

// A class, and what it says in a part of the frame, outside which that is 0.
struct Class {
  std::uint8_t label;
  int top, left, bottom, right;  // of its pixels; then of the part
  std::vector<Line> lines;

  const Line* row(int i) const {
    return i < top || i >= bottom ? nullptr : lines.data() + at(i - top) * at(right - left);
  }
};

// Every pixel [first, last) of a row takes the label if the class says more there than any before.
GT_TARGETS void say(const Line* lines, const Tap* taps, const Line* colours, std::ptrdiff_t first,
                    std::ptrdiff_t last, std::uint8_t label, std::int32_t* best,
                    std::uint8_t* out) {
  for (std::ptrdiff_t x = first; x < last; ++x) {
    const Line terms = lerp(lines[taps[x].first], lines[taps[x].second], taps[x].part) * colours[x];
    const std::int32_t says = terms[0] + terms[1] + terms[2] + terms[3];
    out[x] = says > best[x] ? label : out[x];
    best[x] = std::max(best[x], says);
  }
}

}  // namespace

void upsample_labels_cpu(const GtPicture& photo, const GtPicture& framed, const GtPicture& labels,
                         const GtFit& fit, std::uint8_t* out, const ParallelFor& parallel_for) {
  const int height = fit.scaled_height, width = fit.scaled_width;
  const int radius = std::clamp(fit.target_height / kWindow, 1, kMostRadius);
  const Windows frame{height, width, radius, 0, 0, height, width};
  std::array<Plane, 3> colours;
  for (Plane& plane : colours) plane.reserve(frame.size());
  std::vector<Class> classes(256, {0, height, width, 0, 0, {}});
  for (int i = 0; i < height; ++i) {
    const std::uint8_t* const row = row_of(labels, fit.frame_top + i) + fit.frame_left;
    const std::uint8_t* const from = row_of(framed, fit.frame_top + i) + 3 * fit.frame_left;
    for (int j = 0; j < width; ++j) {
      for (std::size_t c = 0; c < 3; ++c) colours[c].push_back(from[3 * at(j) + c]);
      Class& one = classes[row[j]];
      one.label = row[j];
      one.top = std::min(one.top, i);
      one.left = std::min(one.left, j);
      one.bottom = i + 1;
      one.right = std::max(one.right, j + 1);
    }
  }
  const auto is_missing = [](const Class& one) { return one.bottom == 0; };
  classes.erase(std::remove_if(classes.begin(), classes.end(), is_missing), classes.end());
  const Guide guide(frame, std::move(colours));
  parallel_for(
      static_cast<std::ptrdiff_t>(classes.size()), [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        for (std::ptrdiff_t n = begin; n < end; ++n) {
          Class& one = classes[at(n)];
          one.top = std::max(one.top - 2 * radius, 0);
          one.left = std::max(one.left - 2 * radius, 0);
          one.bottom = std::min(one.bottom + 2 * radius, height);
          one.right = std::min(one.right + 2 * radius, width);
          const Windows part{
              height, width, radius, one.top, one.left, one.bottom - one.top, one.right - one.left};
          Plane mask;
          mask.reserve(part.size());
          for (int i = one.top; i < one.bottom; ++i) {
            const std::uint8_t* const row = row_of(labels, fit.frame_top + i) + fit.frame_left;
            for (int j = one.left; j < one.right; ++j) mask.push_back(row[j] == one.label);
          }
          one.lines = guide.lines(part, mask);
        }
      });

  const int left = std::max(fit.left, 0), right = std::min(fit.left + fit.width, photo.width);
  std::vector<Tap> taps;
  for (int x = left; x < right; ++x) taps.push_back(tap(x - fit.left, fit.width, width));
  const auto first_at = [&](int j) {  // the first pixel that has a column from j on beside it
    const auto is_before = [j](const Tap& tap) { return tap.second < j; };
    return std::partition_point(taps.begin(), taps.end(), is_before) - taps.begin();
  };
  const auto behind = [&](int j) {  // the one behind the last that has a column before j
    const auto is_before = [j](const Tap& tap) { return tap.first < j; };
    return std::partition_point(taps.begin(), taps.end(), is_before) - taps.begin();
  };
  parallel_for(photo.height, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    std::vector<std::int32_t> best(taps.size());
    std::vector<Line> lines(at(width)), shown(taps.size());
    for (std::ptrdiff_t y = begin; y < end; ++y) {
      std::uint8_t* const row = out + y * photo.width;
      std::memset(row, 0, at(photo.width));
      if (y < fit.top || y >= fit.top + fit.height) continue;
      const Tap rows = tap(static_cast<int>(y) - fit.top, fit.height, height);
      std::fill(best.begin(), best.end(), 0);
      const std::uint8_t* rgb = row_of(photo, static_cast<int>(y)) + 3 * left;
      for (Line& colour : shown) {
        colour = Line{rgb[0] - kMiddle, rgb[1] - kMiddle, rgb[2] - kMiddle, kCoarser};
        rgb += 3;
      }
      for (const Class& one : classes) {
        const Line* const upper = one.row(rows.first);
        const Line* const lower = one.row(rows.second);
        if (!upper && !lower) continue;
        for (int j = std::max(one.left - 1, 0); j < std::min(one.right + 1, width); ++j) {
          const bool inside = j >= one.left && j < one.right;
          const Line above = inside && upper ? upper[j - one.left] : Line{};
          const Line below = inside && lower ? lower[j - one.left] : Line{};
          lines[at(j)] = lerp(above, below, rows.part);
        }
        say(lines.data(), taps.data(), shown.data(), first_at(one.left), behind(one.right),
            one.label, best.data(), row + left);
      }
    }
  });
}

}  // namespace garment_transfer
