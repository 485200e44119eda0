// Compose on the CPU: what is at the bundle's size first, then rows of the photo. Where the
// transfer changed nothing nearby, a row is copied; the rest is computed pixel by pixel, four
// classes or the channels of a colour in one vector.

#include "compose_cpu.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace garment_transfer {
namespace {

using Bytes = std::vector<std::uint8_t>;

// `out` is 1 where a pixel of `in` within `reach` on the row is not 0. `line` has room for count +
// 2 reach values. The maximum of runs of twice the length is that of two runs (van Herk's idea,
// whose steps are vectors here).
GT_TARGETS void dilate_row(const std::uint8_t* in, std::uint8_t* out, int count, int reach,
                           std::uint8_t* line) {
  const int padded = count + 2 * reach, wanted = 2 * reach + 1;
  std::memset(line, 0, static_cast<std::size_t>(padded));
  std::memcpy(line + reach, in, static_cast<std::size_t>(count));
  int length = 1;
  for (; 2 * length <= wanted; length *= 2) {
    for (int x = 0; x + length < padded; ++x) line[x] |= line[x + length];
  }
  const std::uint8_t* behind = line + wanted - length;
  for (int x = 0; x < count; ++x) out[x] = line[x] | behind[x];
}

// Dilates along columns, row by row from the top: which rows last had something.
class Columns {
 public:
  // The rows before `first` are not asked for; `row(y)` gives a row or null where it is empty.
  template <typename Row>
  Columns(int first, int height, int width, int reach, const Row& row)
      : height_(height), reach_(reach), last_(static_cast<std::size_t>(width), -reach - 1) {
    for (int y = std::max(0, first - reach); y < std::min(height, first + reach); ++y) {
      add(y, row(y));
    }
  }

  // The row y, which follows the one before, in `out`: 1 or 0.
  template <typename Row>
  void next(int y, const Row& row, std::uint8_t* out) {
    if (y + reach_ < height_) add(y + reach_, row(y + reach_));
    mark(last_.data(), static_cast<int>(last_.size()), y - reach_, out);
  }

 private:
  void add(int y, const std::uint8_t* row) {
    if (row) set(last_.data(), static_cast<int>(last_.size()), y, row);
  }
  GT_TARGETS static void set(int* last, int width, int y, const std::uint8_t* row) {
    for (int x = 0; x < width; ++x) last[x] = row[x] ? y : last[x];
  }
  GT_TARGETS static void mark(const int* last, int width, int least, std::uint8_t* out) {
    for (int x = 0; x < width; ++x) out[x] = last[x] >= least;
  }

  int height_, reach_;
  std::vector<int> last_;
};

// `mask` has rows x width pixels; 1 where one of its pixels within `reach` is not 0.
Bytes dilated(const Bytes& mask, int rows, int width, int reach) {
  Bytes along(mask.size()), out(mask.size()), line(static_cast<std::size_t>(width + 2 * reach));
  for (int y = 0; y < rows; ++y) {
    dilate_row(mask.data() + area(y, width), along.data() + area(y, width), width, reach,
               line.data());
  }
  const auto row = [&](int y) { return along.data() + area(y, width); };
  Columns columns(0, rows, width, reach, row);
  for (int y = 0; y < rows; ++y) columns.next(y, row, out.data() + area(y, width));
  return out;
}

GT_TARGETS bool any(const std::uint8_t* row, int count) {
  std::uint8_t found = 0;
  for (int x = 0; x < count; ++x) found |= row[x];
  return found != 0;
}

// 1 where a pixel gets another colour than the photo's, if it may: its class is another one, or
// garment, or one that may still show what vanished beside it.
GT_TARGETS void mark_drawn(const std::uint8_t* __restrict own,
                           const std::uint8_t* __restrict labels,
                           const std::uint8_t* __restrict vanished, int count,
                           std::uint8_t* __restrict drawn) {
  for (int x = 0; x < count; ++x) {
    const std::uint8_t o = own[x], l = labels[x];
    drawn[x] = (l != o) | (l == kGarment) | (is_rough(o) & (vanished[x] != 0));
  }
}

// How many pixels of the owner's photo one pixel of the person's spans in the garment.
double owner_step(const GtCompose& call, const std::vector<float>& flow) {
  const int height = call.transfer_parsing.height, width = call.transfer_parsing.width;
  if (height < 2 || width < 2) return 1;
  std::vector<float> areas;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      if (row_of(call.transfer_parsing, y)[x] != kGarment) continue;
      areas.push_back(stretch(flow.data(), height, width, y, x));
    }
  }
  if (areas.empty()) return 1;
  const auto middle = areas.begin() + static_cast<std::ptrdiff_t>(areas.size() / 2);
  std::nth_element(areas.begin(), middle, areas.end());
  return owner_pixels_per_pixel(*middle, call.fit, call.owner_fit);
}

// A part of a mask, 1 or 0, without the pixels that have something else within `reach`, since maps
// are rough at their borders; the photo's own end is no border. All of it where nothing is left.
Bytes within(const GtPicture& mask, const Box& part, int reach, const ParallelFor& parallel_for) {
  const int rows = part.bottom - part.top, width = part.right - part.left;
  Bytes others(area(rows, width)), inside(others.size());
  parallel_for(rows, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    Bytes not_worn(static_cast<std::size_t>(width));
    Bytes line(static_cast<std::size_t>(width + 2 * reach));
    for (std::ptrdiff_t y = begin; y < end; ++y) {
      const std::uint8_t* row = row_of(mask, static_cast<int>(y) + part.top) + part.left;
      for (std::size_t x = 0; x < not_worn.size(); ++x) not_worn[x] = row[x] == 0;
      dilate_row(not_worn.data(), others.data() + area(y, width), width, reach, line.data());
    }
  });
  std::atomic<bool> filled{false};
  parallel_for(rows, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    const auto row = [&](int y) { return others.data() + area(y, width); };
    Columns columns(static_cast<int>(begin), rows, width, reach, row);
    for (std::ptrdiff_t y = begin; y < end; ++y) {
      std::uint8_t* const out = inside.data() + area(y, width);
      columns.next(static_cast<int>(y), row, out);
      for (int x = 0; x < width; ++x) out[x] = out[x] == 0;
      if (any(out, width)) filled = true;
    }
  });
  if (filled) return inside;
  for (int y = 0; y < rows; ++y) {
    const std::uint8_t* const worn = row_of(mask, y + part.top) + part.left;
    std::uint8_t* const out = inside.data() + area(y, width);
    for (int x = 0; x < width; ++x) out[x] = worn[x] != 0;
  }
  return inside;
}

// For every pixel of a mask how far up, or down, the nearest one of its column is that is not 0;
// more than `most` where there is none.
std::vector<std::uint16_t> column_distances(const Bytes& mask, int rows, int width, bool up,
                                            int most) {
  std::vector<std::uint16_t> out(mask.size(), static_cast<std::uint16_t>(most + 1));
  const auto pass = [&](std::size_t to, std::size_t from, bool first) GT_TARGETS {
    for (std::size_t x = 0; x < static_cast<std::size_t>(width); ++x) {
      const int beyond = first ? most + 1 : std::min(out[from + x] + 1, most + 1);
      out[to + x] = static_cast<std::uint16_t>(mask[to + x] ? 0 : beyond);
    }
  };
  for (int i = 0; i < rows; ++i) {
    const int y = up ? i : rows - 1 - i;
    pass(area(y, width), area(up ? y - 1 : y + 1, width), i == 0);
  }
  return out;
}

// The layers, whose pixels are put into `pixels`.
Layers layers_of(const GtCompose& call, const std::vector<float>& flow, Bytes* pixels,
                 const ParallelFor& parallel_for) {
  Layers out{};
  const GtPicture& mask = call.owner_garment;
  const Box worn = bounds(mask);
  if (worn.bottom <= worn.top) return out;
  const int reach = in_photo(kExtended, call.owner_fit);
  const Box box{std::max(0, worn.top - reach), std::max(0, worn.left - reach),
                std::min(mask.height, worn.bottom + reach),
                std::min(mask.width, worn.right + reach)};
  const int width = box.right - box.left, height = box.bottom - box.top;
  out.height = height;
  out.width = width;
  const Bytes inside = within(mask, box, in_photo(1, call.owner_fit), parallel_for);
  const std::vector<std::uint16_t> up = column_distances(inside, height, width, true, reach);
  const std::vector<std::uint16_t> down = column_distances(inside, height, width, false, reach);
  pixels->resize(static_cast<std::size_t>(height + 3) * out.stride());
  parallel_for(height, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    std::vector<int> behind(static_cast<std::size_t>(width));
    for (std::ptrdiff_t y = begin; y < end; ++y) {
      const std::uint8_t* const in_row = inside.data() + area(y, width);
      for (int x = width, last = 3 * (width + reach); x-- > 0;) {
        if (in_row[x]) last = x;
        behind[static_cast<std::size_t>(x)] = last - x;
      }
      std::uint8_t* to = pixels->data() + area(y + 1, 1) * out.stride() + 4;
      for (int x = 0, last = -reach - 1; x < width; ++x, to += 4) {
        const auto i = static_cast<std::size_t>(x), at = area(y, width) + i;
        if (in_row[x]) last = x;
        Nearest nearest{x - last, 0};
        nearest.offer(behind[i], 1);
        nearest.offer(up[at], 2);
        nearest.offer(down[at], 3);
        if (nearest.distance > reach) continue;
        const int from_y = box.top + static_cast<int>(y) + nearest.dy();
        std::memcpy(to, row_of(call.owner_photo, from_y) + 3 * (box.left + x + nearest.dx()), 3);
        to[3] = 255;
      }
    }
  });

  const Layers large = out;
  const double step = owner_step(call, flow);
  place_layers(call.fit, call.owner_fit, box.left, box.top, step, &out);
  if (out.height != large.height || out.width != large.width) {
    Bytes small(static_cast<std::size_t>(out.height + 3) * out.stride());
    Bytes rows_only(area(out.height, out.width) * 4);
    shrink_cpu({pixels->data() + large.stride() + 4, static_cast<std::ptrdiff_t>(large.stride()),
                large.height, large.width, 4},
               out.height, out.width, rows_only.data(), parallel_for);
    for (int y = 0; y < out.height; ++y) {
      std::memcpy(small.data() + area(y + 1, 1) * out.stride() + 4,
                  rows_only.data() + area(y, out.width) * 4,
                  static_cast<std::size_t>(out.width) * 4);
    }
    *pixels = std::move(small);
  }
  out.pixels = pixels->data();
  return out;
}

// The differences of a patch's pixels from the mean of the `radius` around, edges repeated; their
// sum.
int differences(const GtPicture& photo, int top, int left, int side, int radius, std::int8_t* out) {
  const int width = 3 * (side + 2 * radius), around = 2 * radius + 1, whole = around * around;
  std::vector<int> sums(static_cast<std::size_t>(width)), columns;
  const auto row = [&](int y) { return row_of(photo, std::clamp(y, 0, photo.height - 1)); };
  for (int x = left - radius; x < left + side + radius; ++x) {
    columns.push_back(3 * std::clamp(x, 0, photo.width - 1));
  }
  const auto add = [&](int y, int sign) {
    const std::uint8_t* const from = row(y);
    for (int x = 0; x < width; ++x) {
      sums[static_cast<std::size_t>(x)] +=
          sign * from[columns[static_cast<std::size_t>(x / 3)] + x % 3];
    }
  };
  for (int y = top - radius; y < top + radius; ++y) add(y, 1);
  int total = 0;
  for (int y = top; y < top + side; ++y) {
    add(y + radius, 1);
    for (int c = 0; c < 3; ++c) {
      int sum = 0;
      for (int x = 0; x < 2 * radius; ++x) sum += sums[static_cast<std::size_t>(3 * x + c)];
      for (int x = 0; x < side; ++x) {
        sum += sums[static_cast<std::size_t>(3 * (x + 2 * radius) + c)];
        const int pixel = row(y)[columns[static_cast<std::size_t>(x + radius)] + c];
        const int kept = grain_level(pixel, sum, whole);
        out[3 * ((y - top) * side + x) + c] = static_cast<std::int8_t>(kept);
        total += std::abs(kept);
        sum -= sums[static_cast<std::size_t>(3 * x + c)];
      }
    }
    add(y - radius, -1);
  }
  return total;
}

// `_grain` of definition.py; `seen` has rows x columns, 1 where the class is there and stays. The
// levels are put into `levels`.
Grain grain_of(const GtPicture& photo, const Bytes& seen, const GtFit& fit,
               std::vector<std::int8_t>* levels) {
  const int rows = fit.scaled_height, columns = fit.scaled_width;
  const Ratio ratio = least_ratio(fit);
  Grain out{};
  if (!has_grain(ratio)) return out;
  std::vector<int> found;
  for (int k = 0; k < kPatchSizes; ++k) {
    const int side = patch_side(k);
    const int cells = cells_of(side, ratio);
    // rows from here on down that begin with `cells` pixels of the class
    std::vector<int> down(static_cast<std::size_t>(columns));
    for (int i = rows; i-- > 0;) {
      int right = 0;
      for (int j = columns; j-- > 0;) {
        right = seen[area(i, columns) + static_cast<std::size_t>(j)] ? right + 1 : 0;
        int& run = down[static_cast<std::size_t>(j)];
        run = right >= cells ? run + 1 : 0;
        if (run >= cells) found.push_back(i * columns + j);
      }
    }
    if (found.empty()) continue;
    std::reverse(found.begin(), found.end());
    out.side = side;
    break;
  }
  if (!out.side) return out;
  const int radius = in_photo(1, fit);
  const std::size_t size = 3 * area(out.side, out.side);
  std::vector<std::int8_t> patches(kPatches * size);
  std::pair<int, int> amounts[kPatches];
  for (int k = 0; k < kPatches; ++k) {
    const int index = found[static_cast<std::size_t>(k) * (found.size() - 1) / (kPatches - 1)];
    const int top = patch_start(index / columns, fit.top, fit.height, rows);
    const int left = patch_start(index % columns, fit.left, fit.width, columns);
    std::int8_t* const patch = patches.data() + static_cast<std::size_t>(k) * size;
    amounts[k] = {differences(photo, top, left, out.side, radius, patch), k};
  }
  std::sort(amounts, amounts + kPatches);
  const auto* const middle =
      patches.data() + static_cast<std::size_t>(amounts[kPatches / 3].second) * size;
  levels->assign(middle, middle + size);
  out.levels = levels->data();
  return out;
}

// Everything at the bundle's size, the part of the frame that is the photo's box, and where the
// photo's pixels lie in it.
class Composing {
 public:
  Composing(const GtCompose& call, const ParallelFor& parallel_for)
      : call_(call),
        fit_(call.fit),
        top_(window_of(fit_).top),
        left_(window_of(fit_).left),
        height_(window_of(fit_).height),
        width_(window_of(fit_).width),
        rows_(fit_.scaled_height),
        columns_(fit_.scaled_width),
        reach_(in_photo(border_width(fit_.target_height), fit_)),
        sharpness_(sharpness_of(fit_)),
        flow_(2 * area(fit_.target_height, fit_.target_width)) {
    std::transform(call.flow, call.flow + flow_.size(), flow_.begin(),
                   [](float value) { return finite(value); });
    layers_ = layers_of(call, flow_, &layer_pixels_, parallel_for);
    read_frame();
    score_frame();
    scene_ = {call, frame_.data(), runs_.data(), &layers_, &skin_, &lower_};
    cells_.resize(static_cast<std::size_t>(columns_) + 2, width_);
    for (int x = width_ - 1; x >= 0; --x) {
      const Place at(tap(x + left_ - fit_.left, fit_.width, columns_));
      places_.push_back(at);
      cells_[static_cast<std::size_t>(at.base + 1)] = x;
    }
    std::reverse(places_.begin(), places_.end());
    for (std::size_t i = cells_.size() - 1; i-- > 0;)
      cells_[i] = std::min(cells_[i], cells_[i + 1]);
  }

  void run(const ParallelFor& parallel_for) {
    other_.resize(area(height_, width_));
    share_.resize(area(height_, width_));
    gone_.resize(area(height_, width_));
    any_gone_.resize(static_cast<std::size_t>(height_));
    parallel_for(call_.photo.height, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
      Scratch scratch(*this);
      for (std::ptrdiff_t y = begin; y < end; ++y) start_row(static_cast<int>(y), scratch);
    });
    parallel_for(height_, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
      Scratch scratch(*this);
      const auto row = [&](int y) -> const std::uint8_t* {
        return any_gone_[static_cast<std::size_t>(y)] ? gone_.data() + area(y, width_) : nullptr;
      };
      Columns columns(static_cast<int>(begin), height_, width_, reach_, row);
      for (int y = static_cast<int>(begin); y < static_cast<int>(end); ++y) {
        columns.next(y, row, scratch.vanished.data());
        draw_row(y, scratch);
      }
    });
  }

 private:
  struct Scratch {
    explicit Scratch(const Composing& c)
        : scores(static_cast<std::size_t>(c.columns_)),
          kept(scores.size()),
          flow(2 * scores.size()),
          changed(scores.size()),
          line(static_cast<std::size_t>(c.width_ + 2 * c.reach_)),
          vanished(static_cast<std::size_t>(c.width_)),
          drawn(vanished.size() + 8) {}
    std::vector<Whole> scores;
    std::vector<int> kept;
    std::vector<float> flow;
    Bytes changed, line, vanished, drawn;
  };

  Place row_place(int y) const { return Place(tap(y + top_ - fit_.top, fit_.height, rows_)); }

  void read_frame() {
    frame_.resize(area(rows_, columns_));
    Bytes skin(frame_.size()), lower(frame_.size()), differs(frame_.size());
    std::vector<int> from;
    for (int j = 0; j < columns_; ++j) {
      const int x = holds_centre(j, fit_.width, columns_) + fit_.left;
      from.push_back(x >= 0 && x < call_.parsing.width ? x : -1);
    }
    for (int i = 0; i < rows_; ++i) {
      const int y = holds_centre(i, fit_.height, rows_) + fit_.top;
      const std::uint8_t* own =
          y >= 0 && y < call_.parsing.height ? row_of(call_.parsing, y) : nullptr;
      FramePixel* to = frame_.data() + area(i, columns_);
      std::uint8_t* differ = differs.data() + area(i, columns_);
      for (int j = 0; j < columns_; ++j) {
        to[j] = frame_pixel(call_, i, j);
        const int x = from[static_cast<std::size_t>(j)];
        const int before = own && x >= 0 ? own[x] : 0;  // as in the frame, beyond the photo
        differ[j] = before != to[j].label;
        const std::size_t at = area(i, columns_) + static_cast<std::size_t>(j);
        skin[at] = !differ[j] && before == kSkin;
        lower[at] = !differ[j] && before == kLower;
      }
    }
    changed_ = dilated(differs, rows_, columns_, kChangedReach);
    find_runs(dilated(differs, rows_, columns_, border_width(fit_.target_height)));
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < columns_; ++j) {
        const std::size_t at = area(i, columns_) + static_cast<std::size_t>(j);
        if (!changed_[at]) continue;
        frame_[at].picture = repainted(frame_.data(), changed_.data(), rows_, columns_, i, j);
      }
    }
    skin_ = grain_of(call_.photo, skin, fit_, &skin_levels_);
    lower_ = grain_of(call_.photo, lower, fit_, &lower_levels_);
  }

  // `near_change` is 1 where the lower garment's map may be off.
  void find_runs(const Bytes& near_change) {
    runs_.resize(frame_.size());
    for (int i = rows_; i-- > 0;) {
      for (int j = 0; j < columns_; ++j) {
        const std::size_t at = area(i, columns_) + static_cast<std::size_t>(j);
        const bool seen = !near_change[at] && is_lower(frame_.data(), rows_, columns_, i, j);
        const std::size_t below = at + static_cast<std::size_t>(columns_);
        runs_[at] = run_at(i, seen, i + 1 < rows_ ? runs_[below] : Run{});
      }
    }
  }

  void score_frame() {
    scores_.resize(frame_.size());
    kept_.resize(frame_.size());
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < columns_; ++j) {
        const std::size_t at = area(i, columns_) + static_cast<std::size_t>(j);
        const Scores found = scores_at(call_, frame_.data(), changed_[at] != 0, i, j);
        std::memcpy(&scores_[at], found.drawn, sizeof found.drawn);
        kept_[at] = found.kept;
      }
    }
  }

  // Everything of a row of the photo that is the same whatever its neighbours are: it starts as the
  // photo's, and gets its classes.
  void start_row(int y, Scratch& scratch) {
    const auto width = static_cast<std::size_t>(call_.photo.width);
    std::uint8_t* const labels = call_.out_parsing + area(y, call_.photo.width);
    std::memcpy(call_.out_image + 3 * area(y, call_.photo.width), row_of(call_.photo, y),
                3 * width);
    std::memcpy(labels, row_of(call_.parsing, y), width);
    if (call_.out_warped_garment) {
      std::memset(call_.out_warped_garment + 3 * area(y, call_.photo.width), 0, 3 * width);
    }
    if (y >= top_ && y < top_ + height_) choose_row(y - top_, labels + left_, scratch);
  }

  GT_TARGETS void choose_row(int y, std::uint8_t* labels, Scratch& scratch) {
    std::uint8_t* const other = other_.data() + area(y, width_);
    std::uint8_t* const share = share_.data() + area(y, width_);
    std::uint8_t* const gone = gone_.data() + area(y, width_);
    std::memset(share, 0, static_cast<std::size_t>(width_));
    std::memset(gone, 0, static_cast<std::size_t>(width_));
    const Place at = row_place(y);
    const std::size_t first = area(at.first, columns_), second = area(at.second, columns_);
    std::uint8_t* const changed = scratch.changed.data();
    for (int j = 0; j < columns_; ++j) {
      const auto i = static_cast<std::size_t>(j);
      changed[i] = changed_[first + i] | changed_[second + i];
      scratch.scores[i] = lerp(scores_[first + i], scores_[second + i], at.part);
      scratch.kept[i] = garment_transfer::lerp(kept_[first + i], kept_[second + i], at.part);
    }
    const std::uint8_t* const kept =
        call_.kept.data ? row_of(call_.kept, y + top_) + left_ : nullptr;
    bool any_gone = false;
    for (int cell = 0; cell <= columns_; ++cell) {
      const int a = std::max(cell - 1, 0), b = std::min(cell, columns_ - 1);
      if (!(changed[a] | changed[b])) continue;
      const int end = cells_[static_cast<std::size_t>(cell) + 1];
      for (int x = cells_[static_cast<std::size_t>(cell)]; x < end; ++x) {
        const int own = labels[x], own_index = drawn_index(own);
        if (own_index < 0 || (kept && kept[x])) continue;
        const int part = places_[static_cast<std::size_t>(x)].part;
        const Whole mixed = lerp(scratch.scores[static_cast<std::size_t>(a)],
                                 scratch.scores[static_cast<std::size_t>(b)], part);
        int scores[kDrawn];
        std::memcpy(scores, &mixed, sizeof scores);
        scores[own_index] +=
            garment_transfer::lerp(scratch.kept[static_cast<std::size_t>(a)],
                                   scratch.kept[static_cast<std::size_t>(b)], part);
        const Choice choice = choose(scores, sharpness_);
        labels[x] = choice.label;
        other[x] = choice.other;
        share[x] = choice.share;
        const bool is_gone = own != kBackground && choice.label != own;
        gone[x] = is_gone;
        any_gone |= is_gone;
      }
    }
    any_gone_[static_cast<std::size_t>(y)] = any_gone;
    if (any_gone) dilate_row(gone, gone, width_, reach_, scratch.line.data());
  }

  GT_TARGETS void draw_row(int y, Scratch& scratch) {
    const std::uint8_t* const own = row_of(call_.parsing, y + top_) + left_;
    const std::uint8_t* const kept =
        call_.kept.data ? row_of(call_.kept, y + top_) + left_ : nullptr;
    const std::size_t start = area(y + top_, call_.photo.width) + static_cast<std::size_t>(left_);
    const std::uint8_t* const labels = call_.out_parsing + start;
    const std::uint8_t* const vanished = scratch.vanished.data();
    std::uint8_t* const drawn = scratch.drawn.data();
    mark_drawn(own, labels, vanished, width_, drawn);
    if (kept) {
      for (int x = 0; x < width_; ++x) drawn[x] &= kept[x] == 0;
    }
    const Place at = row_place(y);
    bool has_flow = false;
    for (int x = 0; x < width_;) {
      std::uint64_t next;  // eight pixels at once; what lies behind the row is 0
      std::memcpy(&next, drawn + x, sizeof next);
      if (!next) {
        x += 8;
        continue;
      }
      const int end = std::min(x + 8, width_);
      for (; x < end; ++x) {
        if (!drawn[x]) continue;
        if (!has_flow) mix_flow(at, scratch.flow.data());
        has_flow = true;
        const std::size_t i = area(y, width_) + static_cast<std::size_t>(x);
        const std::size_t to = 3 * (start + static_cast<std::size_t>(x));
        const Place& column = places_[static_cast<std::size_t>(x)];
        const auto flow = [&](int axis) {
          const float* of_row = scratch.flow.data() + axis * columns_;
          return garment_transfer::lerp(of_row[column.first], of_row[column.second], column.at);
        };
        scene_.draw({labels[x], other_[i], share_[i]}, own[x], vanished[x] != 0, at, column,
                    y + top_, x + left_, flow, call_.out_image + to,
                    call_.out_warped_garment ? call_.out_warped_garment + to : nullptr);
      }
    }
  }

  GT_FUNCTION void mix_flow(const Place& at, float* flow) const {
    for (int axis = 0; axis < 2; ++axis) {
      const float* from = flow_.data() + area(axis * fit_.target_height, fit_.target_width) +
                          area(fit_.frame_top, fit_.target_width) + fit_.frame_left;
      const float* first = from + area(at.first, fit_.target_width);
      const float* second = from + area(at.second, fit_.target_width);
      for (int j = 0; j < columns_; ++j) {
        flow[axis * columns_ + j] = garment_transfer::lerp(first[j], second[j], at.at);
      }
    }
  }

  const GtCompose& call_;
  const GtFit& fit_;
  int top_, left_, height_, width_;  // the part of the photo that the box shows
  int rows_, columns_;               // the part of the frame that is the box
  int reach_, sharpness_;
  std::vector<float> flow_;
  Layers layers_;
  Bytes layer_pixels_;
  std::vector<FramePixel> frame_;
  std::vector<Run> runs_;
  Bytes changed_;
  std::vector<Whole> scores_;
  std::vector<int> kept_;
  std::vector<Place> places_;  // of the photo's columns
  std::vector<int> cells_;     // the first column of the photo behind each of the frame's
  Bytes other_, share_, gone_, any_gone_;
  Grain skin_, lower_;
  std::vector<std::int8_t> skin_levels_, lower_levels_;
  Scene scene_;
};

}  // namespace

Box bounds(const GtPicture& mask) {
  Box out{mask.height, mask.width, 0, 0};
  Bytes columns(static_cast<std::size_t>(mask.width));
  for (int y = 0; y < mask.height; ++y) {
    const std::uint8_t* row = row_of(mask, y);
    if (!any(row, mask.width)) continue;
    out.top = std::min(out.top, y);
    out.bottom = y + 1;
    for (std::size_t x = 0; x < columns.size(); ++x) columns[x] |= row[x];
  }
  for (int x = 0; x < mask.width; ++x) {
    if (!columns[static_cast<std::size_t>(x)]) continue;
    out.left = std::min(out.left, x);
    out.right = x + 1;
  }
  return out;
}

void compose_cpu(const GtCompose& call, const ParallelFor& parallel_for) {
  Composing(call, parallel_for).run(parallel_for);
}

}  // namespace garment_transfer
