#include "shadows_cpu.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace garment_transfer {
namespace {

constexpr int kCells = 128, kReach = 16, kFade = 8, kDarker = 10, kEnough = 20;
constexpr int kOne = 256, kMost = 3 * 256;

// Cells of a photo, row by row.
template <typename T>
class Cells {
 public:
  Cells(int rows, int columns, T value = {})
      : rows(rows),
        columns(columns),
        values_(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns), value) {}

  T& at(int i, int j) { return values_[index(i, j)]; }
  const T& at(int i, int j) const { return values_[index(i, j)]; }

  // The sum of the 3 x 3 cells around.
  T around(int i, int j) const {
    T sum = {};
    for (int y = std::max(i - 1, 0); y <= std::min(i + 1, rows - 1); ++y) {
      for (int x = std::max(j - 1, 0); x <= std::min(j + 1, columns - 1); ++x) sum += at(y, x);
    }
    return sum;
  }

  const int rows, columns;

 private:
  std::size_t index(int i, int j) const {
    return static_cast<std::size_t>(i) * static_cast<std::size_t>(columns) +
           static_cast<std::size_t>(j);
  }
  std::vector<T> values_;
};

// Whether the garment is to the left and to the right of a cell, or above and below it.
bool is_between(const Cells<long long>& count, int i, int j) {
  const auto towards = [&](int down, int right) {
    for (int k = 1; k <= kReach; ++k) {
      const int y = i + k * down, x = j + k * right;
      if (y < 0 || y >= count.rows || x < 0 || x >= count.columns) return false;
      if (count.at(y, x)) return true;
    }
    return false;
  };
  return (towards(0, -1) && towards(0, 1)) || (towards(-1, 0) && towards(1, 0));
}

// How many cells each one is from the nearest covered one, whose distance is 0, along a row, a
// column or a diagonal: once from above, once from below.
void measure(Cells<int>* distance) {
  const auto offer = [&](int i, int j, int y, int x) {
    if (y < 0 || y >= distance->rows || x < 0 || x >= distance->columns) return;
    distance->at(i, j) = std::min(distance->at(i, j), distance->at(y, x) + 1);
  };
  for (int i = 0; i < distance->rows; ++i) {
    for (int j = 0; j < distance->columns; ++j) {
      for (int x = j - 1; x <= j + 1; ++x) offer(i, j, i - 1, x);
      offer(i, j, i, j - 1);
    }
  }
  for (int i = distance->rows; i-- > 0;) {
    for (int j = distance->columns; j-- > 0;) {
      for (int x = j - 1; x <= j + 1; ++x) offer(i, j, i + 1, x);
      offer(i, j, i, j + 1);
    }
  }
}

}  // namespace

bool lift_shadows_cpu(const Raster& photo, const Raster& garment, const Raster& covering,
                      std::uint8_t* out, const ParallelFor& parallel_for) {
  const int side = (photo.height + kCells - 1) / kCells;
  const int rows = (photo.height + side - 1) / side, columns = (photo.width + side - 1) / side;
  Cells<long long> count(rows, columns), sum(rows, columns);
  Cells<int> in_front(rows, columns), distance(rows, columns, kReach);
  parallel_for(rows, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    for (int i = static_cast<int>(begin); i < static_cast<int>(end); ++i) {
      for (int y = i * side; y < std::min((i + 1) * side, photo.height); ++y) {
        const std::uint8_t *const worn = garment.row(y), *const front = covering.row(y);
        const std::uint8_t* const rgb = photo.row(y);
        for (int j = 0; j < columns; ++j) {
          long long worn_here = 0, sum_here = 0;
          bool covered = false;
          for (int x = j * side; x < std::min((j + 1) * side, photo.width); ++x) {
            const int is_worn = worn[x] != 0;
            worn_here += is_worn;
            sum_here += is_worn * (rgb[3 * x] + 2 * rgb[3 * x + 1] + rgb[3 * x + 2]);
            covered |= front[x] != 0;
          }
          count.at(i, j) += worn_here;
          sum.at(i, j) += sum_here;
          if (covered) in_front.at(i, j) = 1;
        }
      }
    }
  });
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      if (in_front.at(i, j) && is_between(count, i, j)) distance.at(i, j) = 0;
    }
  }
  measure(&distance);

  Cells<long long> brightness(rows, columns);
  std::vector<long long> others;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      if (!count.at(i, j)) continue;
      brightness.at(i, j) = sum.around(i, j) / count.around(i, j);
      if (distance.at(i, j) >= kReach) others.push_back(brightness.at(i, j));
    }
  }
  if (others.size() < kEnough) return false;
  const auto darker = others.begin() + static_cast<std::ptrdiff_t>(others.size() / kDarker);
  std::nth_element(others.begin(), darker, others.end());

  Cells<int> more(rows, columns), gain(rows, columns);
  bool any = false;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      if (!count.at(i, j) || distance.at(i, j) >= kReach) continue;
      const long long found = kOne * *darker / std::max(brightness.at(i, j), 1LL);
      more.at(i, j) = static_cast<int>(std::clamp<long long>(found, kOne, kMost) - kOne) *
                      std::min(kReach - distance.at(i, j), kFade) / kFade;
    }
  }
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      gain.at(i, j) = kOne + more.around(i, j) / 9;
      any |= gain.at(i, j) > kOne;
    }
  }
  if (!any) return false;

  std::vector<Tap> taps;
  for (int x = 0; x < photo.width; ++x) taps.push_back(tap(x, columns * side, columns));
  parallel_for(photo.height, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    std::vector<int> along(static_cast<std::size_t>(columns));
    for (int y = static_cast<int>(begin); y < static_cast<int>(end); ++y) {
      const std::ptrdiff_t bytes = 3 * static_cast<std::ptrdiff_t>(photo.width);
      std::uint8_t* const to = out + y * bytes;
      std::memcpy(to, photo.row(y), static_cast<std::size_t>(bytes));
      const Tap row = tap(y, rows * side, rows);
      int most = 0;
      for (int j = 0; j < columns; ++j) {
        int& here = along[static_cast<std::size_t>(j)];
        here = lerp(gain.at(row.first, j), gain.at(row.second, j), row.part);
        most = std::max(most, here);
      }
      if (most == kOne) continue;
      const std::uint8_t* const worn = garment.row(y);
      for (int x = 0; x < photo.width; ++x) {
        if (!worn[x]) continue;
        const Tap& column = taps[static_cast<std::size_t>(x)];
        const int each = lerp(along[static_cast<std::size_t>(column.first)],
                              along[static_cast<std::size_t>(column.second)], column.part);
        for (int c = 3 * x; c < 3 * x + 3; ++c) {
          to[c] = static_cast<std::uint8_t>(std::min((to[c] * each + kOne / 2) / kOne, 255));
        }
      }
    }
  });
  return true;
}

}  // namespace garment_transfer
