// Compose's arithmetic, once, for every device; definition.py says what is computed and why.
//
// Which class a pixel has is decided by whole numbers, so that it is the same everywhere. Colours
// are float32, and within a grey level.

#pragma once

#include <cmath>
#include <cstring>

#include "../fit/fit.h"

namespace garment_transfer {

// The classes of bundle/labels.json, of which a transfer draws four.
enum : int { kBackground = 0, kSkin = 3, kGarment = 4, kLower = 5 };
constexpr int kDrawn = 4;
GT_FUNCTION int drawn_label(int index) {
  return index == 0 ? kBackground : index == 1 ? kSkin : index == 2 ? kGarment : kLower;
}

// Which of the drawn classes an id is, -1 for any other.
GT_FUNCTION int drawn_index(int label) {
  return label == kBackground ? 0
         : label == kSkin     ? 1
         : label == kGarment  ? 2
         : label == kLower    ? 3
                              : -1;
}

// Whether a class that stays may still show what vanished beside it.
GT_FUNCTION bool is_rough(int label) {
  return (label == kBackground) | (label == kSkin) | (label == kLower);
}

constexpr int kUnit = 16 * 255;  // what the scores of a pixel sum to
// 256 times a Gaussian of 0.8 pixels, k from 0 to 4.
GT_FUNCTION int blur_weight(int k) { return k == 2 ? 128 : (k == 1 || k == 3 ? 58 : 6); }
constexpr int kChangedReach = 2;
constexpr int kWhole = 256;  // of the share that another class has in a pixel
constexpr float kWeak = 0.25f, kStrong = 0.75f;
constexpr float kLeastShare = 1e-3f;
constexpr double kMinifying = 1.5;
constexpr int kExtended = 2;  // pixels of the frame by which the owner's garment is extended
constexpr float kFar = 1e5f;
constexpr int kPatches = 9;     // of grain, that are compared
constexpr int kMostGrain = 4;   // levels
constexpr int kPatchSide = 32;  // the largest
// Sides of a patch of grain, the better first.
constexpr int kPatchSizes = 2;
GT_FUNCTION int patch_side(int k) { return kPatchSide >> k; }

// Plain background: within so many pixels of the frame, every other one is looked at; the standard
// deviation up to which it is plain, and from which on it is not at all; how many pixels are
// enough.
constexpr int kPlainReach = 6, kPlainStep = 2, kPlainCount = 12;
constexpr float kPlain = 4, kUneven = 8;

// The fewest pixels of the frame, one above the other, that a lower garment is continued from.
// Where the runs of two neighbouring columns differ by at most kSmooth pixels, the mirror's line is
// interpolated between them.
constexpr int kLeastRun = 8, kSmooth = 2;

// Which of `count` differences a pixel gets: any, so that nothing of the patch is repeated.
GT_FUNCTION unsigned scattered(int y, int x, unsigned count) {
  unsigned mixed = static_cast<unsigned>(y) * 0x9E3779B1u + static_cast<unsigned>(x) * 0x85EBCA77u;
  mixed = (mixed ^ (mixed >> 15)) * 0x2C1B3C6Du;
  return (mixed ^ (mixed >> 13)) % count;
}

// The class of a pixel, the next best one, and its share in the pixel's colour, in 1 / kWhole.
struct Choice {
  unsigned char label, other, share;
};

GT_FUNCTION Choice choose(const int (&scores)[kDrawn], int sharpness) {
  int best = scores[0], second = -kUnit, label = 0, other = 0;
  for (int k = 1; k < kDrawn; ++k) {
    const bool leads = scores[k] > best, follows = scores[k] > second;
    second = leads ? best : (follows ? scores[k] : second);
    other = leads ? label : (follows ? k : other);
    best = leads ? scores[k] : best;
    label = leads ? k : label;
  }
  const int lead = best - second < 2 * kUnit ? best - second : 2 * kUnit;
  const int share = kWhole / 2 - ((lead * sharpness + (1 << 15)) >> 16);
  return {static_cast<unsigned char>(drawn_label(label)),
          static_cast<unsigned char>(drawn_label(other)),
          static_cast<unsigned char>(share > 0 ? share : 0)};
}

inline std::size_t area(std::ptrdiff_t height, std::ptrdiff_t width) {
  return static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
}

// The part of a photo that its box shows.
struct Window {
  int top, left, height, width;
};

inline Window window_of(const GtFit& fit) {
  const int top = fit.top > 0 ? fit.top : 0, left = fit.left > 0 ? fit.left : 0;
  const int bottom = fit.top + fit.height, right = fit.left + fit.width;
  return {top, left, (bottom < fit.source_height ? bottom : fit.source_height) - top,
          (right < fit.source_width ? right : fit.source_width) - left};
}

// How fast the share falls with the lead: by one over what a pixel of the photo is of the frame's.
GT_FUNCTION int sharpness_of(const GtFit& fit) {
  const bool wide = 1ll * fit.width * fit.scaled_height >= 1ll * fit.height * fit.scaled_width;
  const long long large = wide ? fit.width : fit.height;
  const long long small = wide ? fit.scaled_width : fit.scaled_height;
  const long long most = 63 * (kWhole << 16) / kUnit;  // beyond it, products do not fit an int
  const long long least = (kWhole << 16) / kUnit;
  const long long found = (kWhole << 16) * large / (kUnit * small);
  return static_cast<int>(found < least ? least : (found < most ? found : most));
}

// Pixels of the photo per pixel of the frame along the axis that has fewer, as a fraction.
struct Ratio {
  long long large, small;
};

GT_FUNCTION Ratio least_ratio(const GtFit& fit) {
  const bool wide = 1ll * fit.width * fit.scaled_height <= 1ll * fit.height * fit.scaled_width;
  return wide ? Ratio{fit.width, fit.scaled_width} : Ratio{fit.height, fit.scaled_height};
}

// `radius` pixels of the frame in pixels of the photo, halves rounded up, or all of it.
GT_FUNCTION int in_photo(int radius, const GtFit& fit) {
  const auto [large, small] = least_ratio(fit);
  const long long found = (2 * radius * large + small) / (2 * small);
  const int longest = fit.source_height > fit.source_width ? fit.source_height : fit.source_width;
  return found < longest ? static_cast<int>(found) : longest;
}

// How far the border of a label map may be off: `border_width` of bundle/_labels.py.
GT_FUNCTION int border_width(int height) {
  const int width = 3 * height / 256;
  return width > 1 ? width : 1;
}

GT_FUNCTION float lerp(float first, float second, float part) {
  return first + (second - first) * part;
}

// A displacement on every device: what is not finite leads off every photo.
GT_FUNCTION float finite(float value) {
  return value != value ? kFar : (value < -kFar ? -kFar : (value > kFar ? kFar : value));
}

// RGB and a share or nothing, four values at once.
struct alignas(4) Rgba {
  std::uint8_t values[4];
};
#if defined(__CUDACC__)
struct Colour {
  float values[4];
  GT_FUNCTION float operator[](int i) const { return values[i]; }
};
template <typename Of>
GT_FUNCTION Colour each_value(const Of& of) {
  return {{of(0), of(1), of(2), of(3)}};
}
GT_FUNCTION Colour operator+(const Colour& a, const Colour& b) {
  return each_value([&](int i) { return a[i] + b[i]; });
}
GT_FUNCTION Colour operator/(const Colour& a, float b) {
  return each_value([&](int i) { return a[i] / b; });
}
GT_FUNCTION Colour lerp(const Colour& a, const Colour& b, float part) {
  return each_value([&](int i) { return lerp(a[i], b[i], part); });
}
GT_FUNCTION Colour colour_of(const Rgba& value) {
  return each_value([&](int i) { return static_cast<float>(value.values[i]); });
}
GT_FUNCTION void put(const Colour& colour, std::uint8_t* to) {
  for (int c = 0; c < 3; ++c) {
    const float value = colour[c] > 0 ? colour[c] : 0;
    to[c] = static_cast<std::uint8_t>((value < 255 ? value : 255) + 0.5f);
  }
}
#else
using Colour = float __attribute__((vector_size(16)));
GT_FUNCTION Colour lerp(Colour first, Colour second, float part) {
  return first + (second - first) * part;
}
GT_FUNCTION Colour colour_of(const Rgba& value) {
  std::uint8_t __attribute__((vector_size(4))) values;
  std::memcpy(&values, value.values, sizeof values);
  return __builtin_convertvector(values, Colour);
}
GT_FUNCTION void put(Colour colour, std::uint8_t* to) {
  colour = colour > 0.0f ? colour : Colour{};
  colour = colour < 255.0f ? colour : Colour{} + 255.0f;
  const auto rounded = __builtin_convertvector(colour + 0.5f, int __attribute__((vector_size(16))));
  for (int c = 0; c < 3; ++c) to[c] = static_cast<std::uint8_t>(rounded[c]);
}
#endif

GT_FUNCTION Colour colour_of(const std::uint8_t* rgb) {
  return Colour{static_cast<float>(rgb[0]), static_cast<float>(rgb[1]), static_cast<float>(rgb[2]),
                0};
}

// A tap with its part as a float too, and the place in the axis.
struct Place : Tap {
  float at, place;

  GT_FUNCTION explicit Place(const Tap& tap)
      : Tap(tap),
        at(static_cast<float>(tap.part) * (1.0f / (1 << kBits))),
        place(static_cast<float>(tap.base) + at) {}
};

// A pixel of the frame: the graphs' picture and garment, RGB and 1, and its class.
struct FramePixel {
  Rgba picture, garment;
  int label;
};

// The graphs' at i, j of the part of the frame that is the box.
GT_FUNCTION FramePixel frame_pixel(const GtCompose& call, int i, int j) {
  const int y = i + call.fit.frame_top, x = j + call.fit.frame_left;
  const std::uint8_t* const image = row_of(call.image, y) + 3 * x;
  const std::uint8_t* const warped = row_of(call.warped_garment, y) + 3 * x;
  return {{{image[0], image[1], image[2], 1}},
          {{warped[0], warped[1], warped[2], 1}},
          row_of(call.transfer_parsing, y)[x]};
}

// Scores of the drawn classes, and of the class that the person has, which gets the rest to kUnit.
struct Scores {
  int drawn[kDrawn];
  int kept;
};

// Those at i, j: all is the person's where nothing changed nearby; where there are no scores the
// transfer's classes claim their pixels, blurred along one axis and then the other.
GT_FUNCTION Scores scores_at(const GtCompose& call, const FramePixel* frame, bool changed, int i,
                             int j) {
  const GtFit& fit = call.fit;
  Scores out{};
  if (changed && call.transfer_scores.data) {
    const std::uint8_t* const from =
        row_of(call.transfer_scores, i + fit.frame_top) + 4 * (j + fit.frame_left);
    for (int k = 0; k < kDrawn; ++k) out.drawn[k] = 16 * from[k];
  } else if (changed) {
    for (int a = 0; a < 5; ++a) {
      const FramePixel* const row =
          frame +
          static_cast<std::ptrdiff_t>(inside(i + a - 2, fit.scaled_height)) * fit.scaled_width;
      int along[kDrawn] = {128, 128, 128, 128};
      for (int b = 0; b < 5; ++b) {
        const int index = drawn_index(row[inside(j + b - 2, fit.scaled_width)].label);
        for (int k = 0; k < kDrawn; ++k) along[k] += k == index ? kUnit * blur_weight(b) : 0;
      }
      for (int k = 0; k < kDrawn; ++k) out.drawn[k] += (along[k] >> 8) * blur_weight(a);
    }
    for (int k = 0; k < kDrawn; ++k) out.drawn[k] = (out.drawn[k] + 128) >> 8;
  }
  const int rest = kUnit - out.drawn[0] - out.drawn[1] - out.drawn[2] - out.drawn[3];
  out.kept = rest > 0 ? rest : 0;
  return out;
}

// The person's background around a pixel of the frame, where the photo shows it.
struct Seen {
  int count, squares, sums[3];

  GT_FUNCTION void add(const Rgba& colour) {
    ++count;
    for (int c = 0; c < 3; ++c) {
      sums[c] += colour.values[c];
      squares += colour.values[c] * colour.values[c];
    }
  }
};

// The graphs' background, or as far as what is around is plain, its colour.
GT_FUNCTION Rgba plain_background(const Rgba& graphs, const Seen& seen) {
  if (!seen.count) return graphs;
  const float count = static_cast<float>(seen.count);
  float variance = static_cast<float>(seen.squares) / count, means[3];
  for (int c = 0; c < 3; ++c) {
    means[c] = static_cast<float>(seen.sums[c]) / count;
    variance -= means[c] * means[c];
  }
  const float deviation = sqrtf((variance > 0 ? variance : 0) / 3);
  const float plain = (kUneven - deviation) / (kUneven - kPlain);
  const float weight = (plain < 0 ? 0 : (plain > 1 ? 1 : plain)) *
                       (seen.count < kPlainCount ? count / kPlainCount : 1);
  Rgba out = graphs;
  for (int c = 0; c < 3; ++c) {
    const float found = lerp(static_cast<float>(graphs.values[c]), means[c], weight);
    out.values[c] = static_cast<std::uint8_t>(found + 0.5f);
  }
  return out;
}

// The frame's pixel i, j with plain background in place of the graphs' where something changed.
GT_FUNCTION Rgba background_at(const FramePixel* frame, const std::uint8_t* changed, int rows,
                               int columns, int i, int j) {
  Seen seen{};
  for (int y = i - kPlainReach; y <= i + kPlainReach; y += kPlainStep) {
    if (y < 0 || y >= rows) continue;
    for (int x = j - kPlainReach; x <= j + kPlainReach; x += kPlainStep) {
      if (x < 0 || x >= columns) continue;
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(y) * columns + x;
      if (frame[at].label == kBackground && !changed[at]) seen.add(frame[at].picture);
    }
  }
  return plain_background(frame[static_cast<std::ptrdiff_t>(i) * columns + j].picture, seen);
}

// Whether all pixels of the frame around i, j have its class.
GT_FUNCTION bool is_inner(const FramePixel* frame, int rows, int columns, int i, int j) {
  const int label = frame[static_cast<std::ptrdiff_t>(i) * columns + j].label;
  for (int y = i > 0 ? i - 1 : 0; y <= i + 1 && y < rows; ++y) {
    for (int x = j > 0 ? j - 1 : 0; x <= j + 1 && x < columns; ++x) {
      if (frame[static_cast<std::ptrdiff_t>(y) * columns + x].label != label) return false;
    }
  }
  return true;
}

// The frame's pixel i, j without what shines in from another class beside it: the mean of those
// around it that are of its class and touch no other.
GT_FUNCTION Rgba clean_at(const FramePixel* frame, int rows, int columns, int i, int j) {
  const FramePixel& here = frame[static_cast<std::ptrdiff_t>(i) * columns + j];
  Rgba out = here.picture;
  if (is_inner(frame, rows, columns, i, j)) return out;
  Seen seen{};
  for (int y = i > 0 ? i - 1 : 0; y <= i + 1 && y < rows; ++y) {
    for (int x = j > 0 ? j - 1 : 0; x <= j + 1 && x < columns; ++x) {
      const FramePixel& other = frame[static_cast<std::ptrdiff_t>(y) * columns + x];
      if (other.label == here.label && is_inner(frame, rows, columns, y, x)) {
        seen.add(other.picture);
      }
    }
  }
  for (int c = 0; c < 3 && seen.count; ++c) {
    out.values[c] = static_cast<std::uint8_t>((2 * seen.sums[c] + seen.count) / (2 * seen.count));
  }
  return out;
}

// What is drawn of the frame's pixel i, j, near which something changed.
GT_FUNCTION Rgba repainted(const FramePixel* frame, const std::uint8_t* changed, int rows,
                           int columns, int i, int j) {
  const FramePixel& here = frame[static_cast<std::ptrdiff_t>(i) * columns + j];
  if (here.label == kBackground) return background_at(frame, changed, rows, columns, i, j);
  if (here.label == kSkin || here.label == kLower) return clean_at(frame, rows, columns, i, j);
  return here.picture;
}

// The owner's garment as pixels to sample: premultiplied RGB and 255 inside, 0 around, with a pixel
// of nothing before and two behind, so that no place is outside. No height where there is none.
struct Layers {
  int height, width;
  float scale_x, shift_x, scale_y, shift_y;  // from frame coordinates of the person to places here
  const std::uint8_t* pixels;

  GT_FUNCTION std::size_t stride() const { return static_cast<std::size_t>(width + 3) * 4; }
};

// Of the pixels of a garment that lie nearest to one outside it along its row and its column, the
// one that it takes the colour of; the first of equals.
struct Nearest {
  int distance, way;

  GT_FUNCTION void offer(int other, int other_way) {
    if (other < distance) distance = other, way = other_way;
  }
  // Where it is from there; ways 0 to 3 are left, right, up and down.
  GT_FUNCTION int dx() const { return way == 0 ? -distance : (way == 1 ? distance : 0); }
  GT_FUNCTION int dy() const { return way == 2 ? -distance : (way == 3 ? distance : 0); }
};

// Where the layers' pixels lie, for a garment in the box at `left`, `top` of the owner's photo that
// has height x width pixels in `out`, scaled down by `step` if that is more than kMinifying.
GT_FUNCTION void place_layers(const GtFit& to, const GtFit& from, int left, int top, double step,
                              Layers* out) {
  double scale_x = static_cast<double>(from.width) / from.scaled_width;
  double scale_y = static_cast<double>(from.height) / from.scaled_height;
  double shift_x = (to.frame_left - from.frame_left + 0.5) * scale_x - 0.5 + from.left - left;
  double shift_y = (to.frame_top - from.frame_top + 0.5) * scale_y - 0.5 + from.top - top;
  if (step > kMinifying) {
    const auto smaller = [step](int size) {
      const int found = static_cast<int>(size / step + 0.5);
      return found > 1 ? found : 1;
    };
    const double ratio_x = static_cast<double>(smaller(out->width)) / out->width;
    const double ratio_y = static_cast<double>(smaller(out->height)) / out->height;
    out->width = smaller(out->width);
    out->height = smaller(out->height);
    scale_x *= ratio_x;
    scale_y *= ratio_y;
    shift_x = (shift_x + 0.5) * ratio_x - 0.5;
    shift_y = (shift_y + 0.5) * ratio_y - 0.5;
  }
  out->scale_x = static_cast<float>(scale_x);
  out->scale_y = static_cast<float>(scale_y);
  out->shift_x = static_cast<float>(shift_x);
  out->shift_y = static_cast<float>(shift_y);
}

// The area that a pixel of the person's frame has in the owner's, by the flow around it.
GT_FUNCTION float stretch(const float* flow, int height, int width, int y, int x) {
  const auto slope = [&](int plane, int dy, int dx) {
    const int y0 = y > dy ? y - dy : 0, y1 = y + dy < height ? y + dy : height - 1;
    const int x0 = x > dx ? x - dx : 0, x1 = x + dx < width ? x + dx : width - 1;
    const auto at = [&](int i, int j) {
      return flow[(static_cast<std::ptrdiff_t>(plane) * height + i) * width + j];
    };
    return (at(y1, x1) - at(y0, x0)) / static_cast<float>(y1 - y0 + x1 - x0);
  };
  const float area = (1 + slope(0, 0, 1)) * (1 + slope(1, 1, 0)) - slope(0, 1, 0) * slope(1, 0, 1);
  return fabsf(area);  // not -0, whose bits count as the largest
}

// How many pixels of the owner's photo one pixel of the person's spans, from the median of
// `stretch`.
GT_FUNCTION double owner_pixels_per_pixel(float median, const GtFit& fit, const GtFit& owner_fit) {
  const auto scale = [](const GtFit& f) {
    return static_cast<double>(f.scaled_width) / f.width *
           (static_cast<double>(f.scaled_height) / f.height);
  };
  return sqrt(static_cast<double>(median)) * sqrt(scale(fit) / scale(owner_fit));
}

// What a patch of the photo has that the frame is too small for; no side where there is none.
struct Grain {
  int side;
  const std::int8_t* levels;

  GT_FUNCTION Colour at(int y, int x) const {
    if (!side) return Colour{};
    const auto count = static_cast<unsigned>(side * side);
    const std::int8_t* at = levels + 3 * static_cast<std::size_t>(scattered(y, x, count));
    return Colour{static_cast<float>(at[0]), static_cast<float>(at[1]), static_cast<float>(at[2]),
                  0};
  }
};

// Whether a photo is so much larger than the frame that it has grain which the frame has not.
GT_FUNCTION bool has_grain(const Ratio& ratio) { return 2 * ratio.large >= 3 * ratio.small; }

// How far a value is from the mean of `count` around it, whose sum is given, as grain.
GT_FUNCTION int grain_level(int value, int sum, int count) {
  const int level = value - static_cast<int>((2ll * sum + count) / (2ll * count));
  return level < -kMostGrain ? -kMostGrain : (level > kMostGrain ? kMostGrain : level);
}

// How many pixels of the frame a patch of grain takes, and one of its class around it.
GT_FUNCTION int cells_of(int side, const Ratio& ratio) {
  return static_cast<int>((side * ratio.small + ratio.large - 1) / ratio.large + 2);
}

// Where a patch that begins in cell i of an axis does so in the photo.
GT_FUNCTION int patch_start(int i, int start, int length, int scaled) {
  return start + static_cast<int>((i + 1ll) * length / scaled);
}

// Rows of the frame in one of its columns where the lower garment is seen: the first one, and the
// one behind the last; equal where there are none.
struct Run {
  int first, behind;

  GT_FUNCTION bool is_long() const { return behind - first >= kLeastRun; }
};

// Whether nothing but the lower garment is around a pixel of the frame.
GT_FUNCTION bool is_lower(const FramePixel* frame, int rows, int columns, int i, int j) {
  return frame[static_cast<std::ptrdiff_t>(i) * columns + j].label == kLower &&
         is_inner(frame, rows, columns, i, j);
}

// The run of row i, from it downwards; `below` is that of the row below, {} if there is none.
GT_FUNCTION Run run_at(int i, bool seen, const Run& below) {
  return seen ? Run{i, below.first == i + 1 ? below.behind : i + 1} : below;
}

// What every pixel of the photo is computed of, once its class is known.
struct Scene {
  GtCompose call;
  const FramePixel* frame;  // the part of it that is the box
  const Run* runs;          // of its pixels
  const Layers* layers;
  const Grain *skin, *lower;

  // Where a row of the frame begins in `frame` and `runs`.
  GT_FUNCTION std::ptrdiff_t row_start(int i) const {
    return static_cast<std::ptrdiff_t>(i) * call.fit.scaled_width;
  }

  // The row of the photo where a row of the frame begins.
  GT_FUNCTION int edge(int i) const {
    const GtFit& fit = call.fit;
    const long long small = fit.scaled_height;
    return fit.top + static_cast<int>((1ll * i * fit.height + small - 1) / small);
  }

  // The pixel that a painted one of the lower garment is in the place of, null where there is none:
  // `_continued` of definition.py.
  GT_FUNCTION const std::uint8_t* continued(const Place& row, const Place& column, int y,
                                            int x) const {
    constexpr int kHalf = 1 << (kBits - 1);
    const Run* const near = runs + row_start(row.part < kHalf ? row.first : row.second);
    const Run &one = near[column.first], &other = near[column.second];
    const Run& alone = column.part < kHalf ? one : other;
    if (!alone.is_long()) return nullptr;
    const auto differ = [](int a, int b) { return a - b > kSmooth || b - a > kSmooth; };
    int top = edge(alone.first), bottom = edge(alone.behind);
    if (one.is_long() && other.is_long() && !differ(one.first, other.first) &&
        !differ(one.behind, other.behind)) {
      top = lerp(edge(one.first), edge(other.first), column.part);
      bottom = lerp(edge(one.behind), edge(other.behind), column.part);
    }
    const int length = bottom > top + 1 ? bottom - top : 1;
    int offset = (top - 1 - y) % (2 * length);
    if (offset < 0) offset += 2 * length;
    const int source = top + (offset < length ? offset : 2 * length - 1 - offset);
    if (source < 0 || source >= call.photo.height || row_of(call.parsing, source)[x] != kLower) {
      return nullptr;
    }
    return row_of(call.photo, source) + 3 * x;
  }

  // The colour of the photo's pixel y, x, which is at `row` and `column` of the box, in a class.
  // `flow(axis)` gives the displacement there: 0 is along x, 1 along y.
  template <typename Flow>
  GT_FUNCTION Colour colour(int label, int own, bool vanished, const Place& row,
                            const Place& column, int y, int x, const Flow& flow) const {
    if (label == kGarment) return garment(row, column, flow);
    if (label == own && !vanished) return colour_of(row_of(call.photo, y) + 3 * x);
    if (label == kLower) {
      if (const std::uint8_t* const seen = continued(row, column, y, x)) return colour_of(seen);
    }
    const Colour found = painted(label, row, column);
    if (label == kBackground) return found;
    return found + (label == kSkin ? skin : lower)->at(y, x);
  }

  // The graphs' colour of a class, with nothing of another in it, or where it has none whatever the
  // graphs have there.
  GT_FUNCTION Colour painted(int label, const Place& row, const Place& column) const {
    const FramePixel *first = frame + row_start(row.first), *second = frame + row_start(row.second);
    const FramePixel* corners[] = {first + column.first, second + column.first,
                                   first + column.second, second + column.second};
    const auto mixed = [&](const Colour(&c)[4]) {
      return lerp(lerp(c[0], c[1], row.at), lerp(c[2], c[3], row.at), column.at);
    };
    Colour colours[4];
    bool all_inside = true, all_outside = true;
    for (int k = 0; k < 4; ++k) {
      const bool inside = corners[k]->label == label;
      const Rgba& pixel = label == kGarment ? corners[k]->garment : corners[k]->picture;
      colours[k] = inside ? colour_of(pixel) : Colour{};
      all_inside &= inside;
      all_outside &= !inside;
    }
    if (!all_outside) {
      const Colour found = mixed(colours);
      if (all_inside) return found;
      if (found[3] > kLeastShare) return found / found[3];
    }
    for (int k = 0; k < 4; ++k) colours[k] = colour_of(corners[k]->picture);
    return mixed(colours);
  }

  // The garment of its owner's photo, sampled by the flow; the graphs' where the photo shows
  // little.
  template <typename Flow>
  GT_FUNCTION Colour garment(const Place& row, const Place& column, const Flow& flow) const {
    const Layers& from = *layers;
    if (!from.height) return painted(kGarment, row, column);
    const auto place_in = [](float place, int size) {
      const float most = static_cast<float>(size);
      return place < -1 ? -1 : (place > most ? most : place);
    };
    const float x = place_in((column.place + flow(0)) * from.scale_x + from.shift_x, from.width);
    const float y = place_in((row.place + flow(1)) * from.scale_y + from.shift_y, from.height);
    const float whole_x = floorf(x), whole_y = floorf(y);
    const auto* first = reinterpret_cast<const Rgba*>(
        from.pixels + static_cast<std::size_t>(whole_y + 1) * from.stride() +
        static_cast<std::size_t>(whole_x + 1) * 4);
    const Rgba* second = first + from.width + 3;
    const Colour found =
        lerp(lerp(colour_of(first[0]), colour_of(second[0]), y - whole_y),
             lerp(colour_of(first[1]), colour_of(second[1]), y - whole_y), x - whole_x);
    const float share = found[3] * (1.0f / 255);
    const float opacity = (share - kWeak) * (1 / (kStrong - kWeak));
    const Colour sampled = found / (share > kWeak ? share : kWeak);
    if (opacity >= 1) return sampled;
    const Colour graphs = painted(kGarment, row, column);
    return opacity <= 0 ? graphs : lerp(graphs, sampled, opacity);
  }

  // Draws a pixel: its class, the one beside it, and that one's share, into three bytes each.
  template <typename Flow>
  GT_FUNCTION void draw(const Choice& choice, int own, bool vanished, const Place& row,
                        const Place& column, int y, int x, const Flow& flow, std::uint8_t* image,
                        std::uint8_t* warped) const {
    Colour found = colour(choice.label, own, vanished, row, column, y, x, flow);
    if (warped && choice.label == kGarment) put(found, warped);
    if (choice.share) {
      const Colour beside = colour(choice.other, own, vanished, row, column, y, x, flow);
      found = lerp(found, beside, static_cast<float>(choice.share) * (1.0f / kWhole));
    }
    put(found, image);
  }
};

}  // namespace garment_transfer
