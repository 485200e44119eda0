#include "remove_arms_cpu.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "../compose/compose_cpu.h"

namespace garment_transfer {
namespace {

constexpr int kCells = 80, kMostCells = 1024, kReach = 16, kFade = 8, kDarker = 10, kEnough = 20;
constexpr int kOne = 256, kMost = 3 * 256;
constexpr int kPiece = 40, kBeside = 2, kFine = 64, kSweeps = 512;

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

// Whether the garment is on both sides of a cell, `down` and `right` one of which is 1.
bool is_between(const Cells<int>& worn, int i, int j, int down, int right) {
  const auto is_towards = [&](int sign) {
    for (int k = 1; k <= kReach; ++k) {
      const int y = i + sign * k * down, x = j + sign * k * right;
      if (y < 0 || y >= worn.rows || x < 0 || x >= worn.columns) return false;
      if (worn.at(y, x)) return true;
    }
    return false;
  };
  return is_towards(-1) && is_towards(1);
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

// What is known of a photo's cells.
struct Garment {
  // Of a photo of this size, in square cells.
  Garment(int height, int width, int side)
      : side(side),
        rows((height + side - 1) / side),
        columns((width + side - 1) / side),
        count(rows, columns),
        brightness(rows, columns),
        distance(rows, columns, kReach) {}

  // The pixels of a photo's axis, `length` of them, that a cell of the axis has.
  int begin(int cell) const { return cell * side; }
  int end(int cell, int length) const { return std::min((cell + 1) * side, length); }

  int side, rows, columns;
  Cells<long long> count;       // pixels of the garment
  Cells<long long> brightness;  // their sum of red, twice green, and blue
  Cells<int> distance;          // from the nearest cell with an arm in front, up to kReach
};

// False where no arm is in front.
bool find_arms(const GtPicture& photo, const GtPicture& worn, const GtPicture& arms,
               Garment* garment, const ParallelFor& parallel_for) {
  Garment& g = *garment;
  Cells<int> covered(g.rows, g.columns);
  parallel_for(g.rows, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    for (int i = static_cast<int>(begin); i < static_cast<int>(end); ++i) {
      for (int y = g.begin(i); y < g.end(i, photo.height); ++y) {
        const std::uint8_t *const is_worn = row_of(worn, y), *const is_arm = row_of(arms, y);
        const std::uint8_t* const rgb = row_of(photo, y);
        for (int j = 0; j < g.columns; ++j) {
          long long count = 0, sum = 0;
          bool any = false;
          for (int x = g.begin(j); x < g.end(j, photo.width); ++x) {
            const int here = is_worn[x] != 0;
            count += here;
            sum += here * (rgb[3 * x] + 2 * rgb[3 * x + 1] + rgb[3 * x + 2]);
            any |= is_arm[x] != 0;
          }
          g.count.at(i, j) += count;
          g.brightness.at(i, j) += sum;
          if (any) covered.at(i, j) = 1;
        }
      }
    }
  });
  Cells<int> worn_cells(g.rows, g.columns), across(g.rows, g.columns), unseen(g.rows, g.columns);
  for (int i = 0; i < g.rows; ++i) {
    for (int j = 0; j < g.columns; ++j) {
      worn_cells.at(i, j) = 2 * g.count.at(i, j) > static_cast<long long>(g.side) * g.side;
    }
  }
  for (int i = 0; i < g.rows; ++i) {
    for (int j = 0; j < g.columns; ++j) {
      if (!covered.at(i, j)) continue;
      across.at(i, j) = is_between(worn_cells, i, j, 0, 1);
      unseen.at(i, j) = across.at(i, j) || is_between(worn_cells, i, j, 1, 0);
    }
  }
  bool in_front = false;
  std::vector<std::pair<int, int>> piece;
  const auto take = [&](int i, int j) {
    if (!unseen.at(i, j)) return;
    unseen.at(i, j) = 0;
    piece.emplace_back(i, j);
  };
  for (int i = 0; i < g.rows; ++i) {
    for (int j = 0; j < g.columns; ++j) {
      piece.clear();
      take(i, j);
      std::size_t most = 0;
      for (std::size_t k = 0; k < piece.size(); ++k) {
        const auto [y, x] = piece[k];
        most += across.at(y, x) != 0;
        for (int b = std::max(y - 1, 0); b <= std::min(y + 1, g.rows - 1); ++b) {
          for (int a = std::max(x - 1, 0); a <= std::min(x + 1, g.columns - 1); ++a) take(b, a);
        }
      }
      if (piece.size() < kPiece || 2 * most < piece.size()) continue;
      in_front = true;
      for (const auto& [y, x] : piece) g.distance.at(y, x) = 0;
    }
  }
  if (in_front) measure(&g.distance);
  return in_front;
}

// The taps of `length` pixels of an axis of cells.
std::vector<Tap> taps(int length, int cells, int side) {
  std::vector<Tap> found;
  for (int x = 0; x < length; ++x) found.push_back(tap(x, cells * side, cells));
  return found;
}

// In place; nothing where the garment has no cells that are far from an arm.
void lift_shadows(const Garment& g, const GtPicture& photo, const GtPicture& worn,
                  std::uint8_t* out, const ParallelFor& parallel_for) {
  Cells<long long> brightness(g.rows, g.columns);
  std::vector<long long> others;
  for (int i = 0; i < g.rows; ++i) {
    for (int j = 0; j < g.columns; ++j) {
      if (!g.count.at(i, j)) continue;
      brightness.at(i, j) = g.brightness.around(i, j) / g.count.around(i, j);
      if (g.distance.at(i, j) >= kReach) others.push_back(brightness.at(i, j));
    }
  }
  if (others.size() < kEnough) return;
  const auto darker = others.begin() + static_cast<std::ptrdiff_t>(others.size() / kDarker);
  std::nth_element(others.begin(), darker, others.end());

  Cells<int> more(g.rows, g.columns), gain(g.rows, g.columns);
  for (int i = 0; i < g.rows; ++i) {
    for (int j = 0; j < g.columns; ++j) {
      if (!g.count.at(i, j) || g.distance.at(i, j) >= kReach) continue;
      const long long found = kOne * *darker / std::max(brightness.at(i, j), 1LL);
      more.at(i, j) = static_cast<int>(std::clamp<long long>(found, kOne, kMost) - kOne) *
                      std::min(kReach - g.distance.at(i, j), kFade) / kFade;
    }
  }
  for (int i = 0; i < g.rows; ++i) {
    for (int j = 0; j < g.columns; ++j) gain.at(i, j) = kOne + more.around(i, j) / 9;
  }

  const std::vector<Tap> columns = taps(photo.width, g.columns, g.side);
  parallel_for(photo.height, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    std::vector<int> along(static_cast<std::size_t>(g.columns));
    for (int y = static_cast<int>(begin); y < static_cast<int>(end); ++y) {
      std::uint8_t* const to = out + 3 * static_cast<std::ptrdiff_t>(photo.width) * y;
      const Tap row = tap(y, g.rows * g.side, g.rows);
      int most = 0;
      for (int j = 0; j < g.columns; ++j) {
        int& here = along[static_cast<std::size_t>(j)];
        here = lerp(gain.at(row.first, j), gain.at(row.second, j), row.part);
        most = std::max(most, here);
      }
      if (most == kOne) continue;
      const std::uint8_t* const is_worn = row_of(worn, y);
      for (int x = 0; x < photo.width; ++x) {
        if (!is_worn[x]) continue;
        const Tap& column = columns[static_cast<std::size_t>(x)];
        const int each = lerp(along[static_cast<std::size_t>(column.first)],
                              along[static_cast<std::size_t>(column.second)], column.part);
        for (int c = 3 * x; c < 3 * x + 3; ++c) {
          to[c] = static_cast<std::uint8_t>(std::min((to[c] * each + kOne / 2) / kOne, 255));
        }
      }
    }
  });
}

// A cell's colour in kFine of a level, how much of a colour it has, and how much cloth there takes
// it, in kOne.
using Field = std::array<int, 5>;

Field between(const Field& first, const Field& second, int part) {
  Field found;
  for (std::size_t k = 0; k < found.size(); ++k) found[k] = lerp(first[k], second[k], part);
  return found;
}

// The colours of the cells; empty where too few are known.
std::vector<Field> spread(const Garment& g, const GtPicture& photo, const std::uint8_t* out,
                          const Cells<int>& hole, const ParallelFor& parallel_for) {
  // with a border of nothing
  const std::size_t columns = static_cast<std::size_t>(g.columns) + 2;
  std::vector<Field> fields((static_cast<std::size_t>(g.rows) + 2) * columns);
  const auto at = [&](int i, int j) {
    return static_cast<std::size_t>(i + 1) * columns + static_cast<std::size_t>(j + 1);
  };
  Cells<long long> missing(g.rows, g.columns);
  for (int i = 0; i < g.rows; ++i) {
    for (int j = 0; j < g.columns; ++j) {
      const int area = (g.end(i, photo.height) - g.begin(i)) * (g.end(j, photo.width) - g.begin(j));
      missing.at(i, j) = area - g.count.at(i, j);
    }
  }
  parallel_for(g.rows, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    for (int i = static_cast<int>(begin); i < static_cast<int>(end); ++i) {
      for (int j = 0; j < g.columns; ++j) {
        if (g.distance.at(i, j) <= kBeside || missing.around(i, j)) continue;
        std::array<long long, 3> sums = {};
        for (int y = g.begin(i); y < g.end(i, photo.height); ++y) {
          const std::uint8_t* const rgb = out + 3 * static_cast<std::ptrdiff_t>(photo.width) * y;
          for (int x = g.begin(j); x < g.end(j, photo.width); ++x) {
            for (std::size_t c = 0; c < 3; ++c) sums[c] += rgb[3 * static_cast<std::size_t>(x) + c];
          }
        }
        Field& field = fields[at(i, j)];
        for (std::size_t c = 0; c < 3; ++c) {
          field[c] = static_cast<int>(kFine * sums[c] / g.count.at(i, j));
        }
        field[3] = kOne;
      }
    }
  });
  std::array<long long, 4> mean = {};
  for (const Field& field : fields) {
    for (std::size_t c = 0; c < 3; ++c) mean[c] += field[c];
    mean[3] += field[3] != 0;
  }
  if (mean[3] < kEnough) return {};
  std::vector<std::size_t> places;
  for (int i = 0; i < g.rows; ++i) {
    for (int j = 0; j < g.columns; ++j) {
      Field& field = fields[at(i, j)];
      if (hole.at(i, j)) {
        places.push_back(at(i, j));
        for (std::size_t c = 0; c < 3; ++c) field[c] = static_cast<int>(mean[c] / mean[3]);
        field[3] = kOne;
      }
      if (field[3]) field[4] = kOne * hole.around(i, j) / 9;
    }
  }
  std::vector<Field> next = fields;
  bool changes = true;
  for (int sweep = 0; sweep < kSweeps && changes; ++sweep) {
    changes = false;
    for (const std::size_t place : places) {
      const Field &own = fields[place], &above = fields[place - columns],
                  &below = fields[place + columns], &left = fields[place - 1],
                  &right = fields[place + 1];
      const int weight = (own[3] + above[3] + below[3] + left[3] + right[3]) / kOne;
      for (std::size_t c = 0; c < 3; ++c) {
        const int sum = own[c] + above[c] + below[c] + left[c] + right[c];
        next[place][c] = (sum + weight / 2) / weight;
        changes |= next[place][c] != own[c];
      }
    }
    fields.swap(next);
  }
  return fields;
}

void fill(const Garment& g, const GtPicture& photo, const GtPicture& worn, const GtPicture& arms,
          std::uint8_t* out, std::uint8_t* out_garment, const ParallelFor& parallel_for) {
  Cells<int> hole(g.rows, g.columns);
  for (int i = 0; i < g.rows; ++i) {
    for (int j = 0; j < g.columns; ++j) {
      hole.at(i, j) = g.distance.at(i, j) <= kBeside && (g.count.at(i, j) || !g.distance.at(i, j));
    }
  }
  const std::vector<Field> fields = spread(g, photo, out, hole, parallel_for);
  if (fields.empty()) return;
  const std::vector<Tap> columns = taps(photo.width, g.columns, g.side);
  parallel_for(photo.height, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    std::vector<Field> along(static_cast<std::size_t>(g.columns));
    for (int y = static_cast<int>(begin); y < static_cast<int>(end); ++y) {
      const std::ptrdiff_t start = static_cast<std::ptrdiff_t>(photo.width) * y;
      const Tap row = tap(y, g.rows * g.side, g.rows);
      const std::size_t stride = along.size() + 2;
      const Field* const first = &fields[static_cast<std::size_t>(row.first + 1) * stride + 1];
      const Field* const second = &fields[static_cast<std::size_t>(row.second + 1) * stride + 1];
      int most = 0;
      for (std::size_t j = 0; j < along.size(); ++j) {
        along[j] = between(first[j], second[j], row.part);
        most = std::max(most, along[j][4]);
      }
      if (!most) continue;
      const std::uint8_t *const is_worn = row_of(worn, y), *const is_arm = row_of(arms, y);
      for (int x = 0; x < photo.width; ++x) {
        const bool hidden = !is_worn[x] && is_arm[x] && hole.at(y / g.side, x / g.side);
        if (!hidden && !is_worn[x]) continue;
        const Tap& column = columns[static_cast<std::size_t>(x)];
        const Field field = between(along[static_cast<std::size_t>(column.first)],
                                    along[static_cast<std::size_t>(column.second)], column.part);
        const int part = hidden ? kOne : field[4];
        if (!part) continue;
        std::uint8_t* const to = out + 3 * (start + x);
        for (std::size_t c = 0; c < 3; ++c) {
          const int cloth = field[c] * (kOne / kFine) / std::max(field[3], 1);
          const int mixed = (to[c] * (kOne - part) + cloth * part + kOne / 2) / kOne;
          to[c] = static_cast<std::uint8_t>(std::min(mixed, 255));
        }
        if (hidden) out_garment[start + x] = 1;
      }
    }
  });
}

}  // namespace

bool remove_arms_cpu(const GtPicture& photo, const GtPicture& garment, const GtPicture& arms,
                     std::uint8_t* out, std::uint8_t* out_garment,
                     const ParallelFor& parallel_for) {
  const Box box = bounds(garment);
  const int rows = box.bottom - box.top, longest = std::max(photo.height, photo.width);
  if (rows <= 0) return false;
  const int side = std::max((rows + kCells - 1) / kCells, (longest + kMostCells - 1) / kMostCells);
  Garment cells(photo.height, photo.width, side);
  if (!find_arms(photo, garment, arms, &cells, parallel_for)) return false;
  for (std::ptrdiff_t y = 0; y < photo.height; ++y) {
    const auto width = static_cast<std::size_t>(photo.width);
    std::memcpy(out + 3 * y * photo.width, row_of(photo, static_cast<int>(y)), 3 * width);
    std::memcpy(out_garment + y * photo.width, row_of(garment, static_cast<int>(y)), width);
  }
  lift_shadows(cells, photo, garment, out, parallel_for);
  fill(cells, photo, garment, arms, out, out_garment, parallel_for);
  return true;
}

}  // namespace garment_transfer
