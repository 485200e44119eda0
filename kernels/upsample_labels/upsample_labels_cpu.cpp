#include "upsample_labels_cpu.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "../fit/fit_cpu.h"

namespace garment_transfer {
namespace {

constexpr int kWindow = 32, kMost = 64, kSlope = 1 << 16, kCoarser = 64, kMiddle = 128;
constexpr double kFlat = 6.5;

using Plane = std::vector<std::int32_t>;

std::size_t at(std::ptrdiff_t i) { return static_cast<std::size_t>(i); }

// The frame's part that is the box, and sums over the window around each of its pixels.
struct Windows {
  int height, width, radius;

  std::size_t size() const { return at(height) * at(width); }

  int count(int i, int j) const {
    const int rows = std::min(i + radius, height - 1) - std::max(i - radius, 0) + 1;
    const int columns = std::min(j + radius, width - 1) - std::max(j - radius, 0) + 1;
    return rows * columns;
  }

  GT_TARGETS void add(Plane& to, const Plane& from, int i, int sign) const {
    if (i < 0 || i >= height) return;
    for (int j = 0; j < width; ++j) to[at(j)] += sign * from[at(i) * at(width) + at(j)];
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
  Guide(const Windows& windows, std::array<Plane, 3> colours)
      : windows_(windows), colours_(std::move(colours)), inverse_(windows.size()) {
    const auto& [red, green, blue] = colours_;
    for (std::size_t c = 0; c < 3; ++c) total_[c] = windows.sums(colours_[c]);
    const auto products = [&](const Plane& one, const Plane& other) {
      return windows.sums(product(one, other));
    };
    const Plane rr = products(red, red), gg = products(green, green), bb = products(blue, blue);
    const Plane rg = products(red, green), rb = products(red, blue), gb = products(green, blue);
    for_each([&](std::size_t k, double n) {
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

  // A class as a linear function of colour, whose mask is given: three slopes and the offset.
  std::array<Plane, 4> lines(const Plane& mask) const {
    const Plane members = windows_.sums(mask);
    std::array<Plane, 3> sums;
    for (std::size_t c = 0; c < 3; ++c) sums[c] = windows_.sums(product(colours_[c], mask));
    std::array<Plane, 4> lines;
    for (Plane& plane : lines) plane.resize(windows_.size());
    for_each([&](std::size_t k, double n) {
      const Inverse& m = inverse_[k];
      const double in = members[k];
      const auto covariance = [&](std::size_t c) {
        return (n * sums[c][k] - double{1} * total_[c][k] * in) / (n * n);
      };
      const double c0 = covariance(0), c1 = covariance(1), c2 = covariance(2);
      const auto slope = [&](double m0, double m1, double m2) {
        const double found = (m0 * c0 + m1 * c1 + m2 * c2) / m.determinant;
        return static_cast<std::int32_t>(std::floor(found * kSlope + 0.5));
      };
      lines[0][k] = slope(m.m00, m.m01, m.m02);
      lines[1][k] = slope(m.m01, m.m11, m.m12);
      lines[2][k] = slope(m.m02, m.m12, m.m22);
      const auto count = static_cast<std::int64_t>(n);
      std::int64_t offset = std::int64_t{kSlope} * members[k];
      for (std::size_t c = 0; c < 3; ++c) offset -= lines[c][k] * (total_[c][k] - kMiddle * count);
      lines[3][k] = divided(offset, kCoarser * count);
    });
    for (Plane& plane : lines) {
      Plane sum = windows_.sums(plane);
      for_each([&](std::size_t k, double n) {
        plane[k] = divided(sum[k], static_cast<std::int64_t>(n));
      });
    }
    return lines;
  }

 private:
  struct Inverse {
    double m00, m01, m02, m11, m12, m22, determinant;
  };

  static Plane product(const Plane& one, const Plane& other) {
    Plane out(one.size());
    for (std::size_t k = 0; k < out.size(); ++k) out[k] = one[k] * other[k];
    return out;
  }

  template <typename Body>
  void for_each(const Body& body) const {
    std::size_t k = 0;
    for (int i = 0; i < windows_.height; ++i) {
      for (int j = 0; j < windows_.width; ++j) body(k++, windows_.count(i, j));
    }
  }

  const Windows& windows_;
  std::array<Plane, 3> colours_, total_;
  std::vector<Inverse> inverse_;
};

struct Class {
  std::uint8_t label;
  std::array<Plane, 4> lines;
  // the columns of each row beyond which it says 0: first, and behind the last
  std::vector<std::pair<int, int>> columns;
};

}  // namespace

void upsample_labels_cpu(const GtPicture& photo, const GtPicture& labels, const GtFit& fit,
                         std::uint8_t* out, const ParallelFor& parallel_for) {
  const int height = fit.scaled_height, width = fit.scaled_width;
  const Windows windows{height, width, std::clamp(fit.target_height / kWindow, 1, kMost)};
  std::vector<std::uint8_t> framed(at(fit.target_height) * at(fit.target_width) * 3);
  fit_photo_cpu(photo, fit, framed.data(), parallel_for);
  std::array<Plane, 3> colours;
  for (Plane& plane : colours) plane.resize(windows.size());
  std::array<bool, 256> seen{};
  for (int i = 0; i < height; ++i) {
    const std::size_t row = at(i) * at(width);
    const std::size_t from = at(fit.frame_top + i) * at(fit.target_width) + at(fit.frame_left);
    for (int j = 0; j < width; ++j) {
      for (std::size_t c = 0; c < 3; ++c) {
        colours[c][row + at(j)] = framed[3 * (from + at(j)) + c];
      }
      seen[row_of(labels, fit.frame_top + i)[fit.frame_left + j]] = true;
    }
  }
  const Guide guide(windows, std::move(colours));
  std::vector<Class> classes;
  for (int label = 0; label < 256; ++label) {
    if (seen[at(label)]) classes.push_back({static_cast<std::uint8_t>(label), {}, {}});
  }
  parallel_for(
      static_cast<std::ptrdiff_t>(classes.size()), [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        for (std::ptrdiff_t n = begin; n < end; ++n) {
          Class& one = classes[at(n)];
          Plane mask(windows.size());
          for (int i = 0; i < height; ++i) {
            const std::uint8_t* const row = row_of(labels, fit.frame_top + i) + fit.frame_left;
            for (int j = 0; j < width; ++j) mask[at(i) * at(width) + at(j)] = row[j] == one.label;
          }
          one.lines = guide.lines(mask);
          for (int i = 0; i < height; ++i) {
            int first = width, last = 0;
            for (int j = 0; j < width; ++j) {
              const std::size_t k = at(i) * at(width) + at(j);
              if (one.lines[0][k] | one.lines[1][k] | one.lines[2][k] | one.lines[3][k]) {
                first = std::min(first, j);
                last = j + 1;
              }
            }
            one.columns.emplace_back(first, last);
          }
        }
      });

  const int left = std::max(fit.left, 0), right = std::min(fit.left + fit.width, photo.width);
  std::vector<Tap> taps;
  for (int x = left; x < right; ++x) taps.push_back(tap(x - fit.left, fit.width, width));
  parallel_for(photo.height, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    std::vector<std::int32_t> best(taps.size());
    std::vector<std::array<std::int32_t, 4>> lines(at(width));
    for (std::ptrdiff_t y = begin; y < end; ++y) {
      std::uint8_t* const row = out + y * photo.width;
      std::memset(row, 0, at(photo.width));
      if (y < fit.top || y >= fit.top + fit.height) continue;
      const Tap rows = tap(static_cast<int>(y) - fit.top, fit.height, height);
      std::fill(best.begin(), best.end(), 0);
      for (const Class& one : classes) {
        const auto [upper_first, upper_last] = one.columns[at(rows.first)];
        const auto [lower_first, lower_last] = one.columns[at(rows.second)];
        const int first = std::min(upper_first, lower_first);
        const int last = std::max(upper_last, lower_last);
        if (first >= last) continue;
        // a pixel's place may lie between the last one that says something and the next
        const int until = std::min(last + 1, width);
        for (int j = std::max(first - 1, 0); j < until; ++j) {
          for (std::size_t c = 0; c < 4; ++c) {
            lines[at(j)][c] = lerp(one.lines[c][at(rows.first) * at(width) + at(j)],
                                   one.lines[c][at(rows.second) * at(width) + at(j)], rows.part);
          }
        }
        const auto behind = [&](int j) {
          return std::partition_point(taps.begin(), taps.end(),
                                      [j](const Tap& tap) { return tap.second < j; }) -
                 taps.begin();
        };
        const auto end_of =
            std::partition_point(taps.begin(), taps.end(),
                                 [last](const Tap& tap) { return tap.first < last; }) -
            taps.begin();
        const std::uint8_t* pixel = row_of(photo, static_cast<int>(y));
        for (std::ptrdiff_t x = behind(first); x < end_of; ++x) {
          const Tap& columns = taps[at(x)];
          const std::uint8_t* const rgb = pixel + 3 * (left + x);
          const auto& one_side = lines[at(columns.first)];
          const auto& other = lines[at(columns.second)];
          std::int32_t says = kCoarser * lerp(one_side[3], other[3], columns.part);
          for (std::size_t c = 0; c < 3; ++c) {
            says += lerp(one_side[c], other[c], columns.part) * (rgb[c] - kMiddle);
          }
          if (says > best[at(x)]) {
            best[at(x)] = says;
            row[left + x] = one.label;
          }
        }
      }
    }
  });
}

}  // namespace garment_transfer
