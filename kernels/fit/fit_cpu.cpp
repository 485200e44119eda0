// Fit on the CPU: columns are summed row by row, in vectors, and then along each row.

#include "fit_cpu.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace garment_transfer {
namespace {

// Two rows at once, as it is the sums that are loaded and stored most.
GT_TARGETS void add_rows(std::uint32_t* sums, const std::uint8_t* first, unsigned first_weight,
                         const std::uint8_t* second, unsigned second_weight, int count) {
  for (int i = 0; i < count; ++i) {
    sums[i] += first_weight * first[i] + second_weight * second[i];
  }
}

// One row of means from the weighted sums of its columns. `begin` is the column of the box that
// sums[0] is of, and `count` how many columns there are; before and behind them edges are repeated.
template <int kChannels, typename Sum>
GT_TARGETS void mean_row(const std::uint32_t* sums, int begin, int count, const Span* spans,
                         int width, unsigned whole, double inverse_total, std::uint8_t* out) {
  for (int j = 0; j < width; ++j) {
    const Span& s = spans[j];
    const auto at = [&](int x) { return sums + inside(x - begin, count) * kChannels; };
    Sum total[kChannels], between[kChannels] = {};
    for (int c = 0; c < kChannels; ++c) {
      total[c] = Sum{s.first_weight} * at(s.first)[c] + Sum{s.last_weight} * at(s.last)[c];
    }
    for (int x = s.first + 1; x < s.last; ++x) {
      const std::uint32_t* sum = at(x);
      for (int c = 0; c < kChannels; ++c) between[c] += sum[c];
    }
    for (int c = 0; c < kChannels; ++c) {
      out[j * kChannels + c] =
          static_cast<std::uint8_t>(rounded_mean(total[c] + whole * between[c], inverse_total));
    }
  }
}

template <typename Sum>
auto means_of(int channels) {
  return channels == 1 ? mean_row<1, Sum> : channels == 3 ? mean_row<3, Sum> : mean_row<4, Sum>;
}

// Means over the areas of scaled_height x scaled_width equal parts of the box, whose edges are
// repeated where it leaves the image. Rows of `out` are `stride` bytes apart.
void shrink_box(const GtPicture& image, const GtFit& fit, std::uint8_t* out, std::ptrdiff_t stride,
                const ParallelFor& parallel_for) {
  const int channels = image.channels;
  std::vector<Span> columns(static_cast<std::size_t>(fit.scaled_width));
  for (int j = 0; j < fit.scaled_width; ++j) {
    columns[static_cast<std::size_t>(j)] = span(j, fit.width, fit.scaled_width);
  }
  // the columns that both image and box have, as many as lie in the image by the first and the last
  const int first = inside(fit.left, image.width);
  const int last = inside(fit.left + fit.width - 1, image.width);
  const int count = last - first + 1;
  const double inverse_total = 1.0 / (static_cast<double>(fit.height) * fit.width);
  const auto means = 255.0 * fit.height * fit.width < 0x1p32 ? means_of<std::uint32_t>(channels)
                                                             : means_of<std::uint64_t>(channels);
  parallel_for(fit.scaled_height, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    const auto values = static_cast<std::size_t>(count) * static_cast<std::size_t>(channels);
    std::vector<std::uint32_t> sums(values);
    for (std::ptrdiff_t i = begin; i < end; ++i) {
      const Span s = span(static_cast<int>(i), fit.height, fit.scaled_height);
      std::fill(sums.begin(), sums.end(), 0);
      const auto row = [&](int y) {
        return row_of(image, inside(y + fit.top, image.height)) + first * channels;
      };
      const auto weight = [&](int y) { return s.weight(y, fit.scaled_height); };
      for (int y = s.first; y <= s.last; y += 2) {
        const bool two = y < s.last;
        add_rows(sums.data(), row(y), weight(y), row(y + two), two ? weight(y + 1) : 0,
                 static_cast<int>(values));
      }
      means(sums.data(), first - fit.left, count, columns.data(), fit.scaled_width,
            static_cast<unsigned>(fit.scaled_width), inverse_total, out + i * stride);
    }
  });
}

// The box, edges repeated, scaled linearly, by whole numbers; for photos smaller than the frame.
void enlarge_box(const GtPicture& image, const GtFit& fit, std::uint8_t* out, std::ptrdiff_t stride,
                 const ParallelFor& parallel_for) {
  const int channels = image.channels;
  std::vector<Tap> columns;
  for (int j = 0; j < fit.scaled_width; ++j) {
    columns.push_back(tap(j, fit.scaled_width, fit.width));
  }
  parallel_for(fit.scaled_height, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    for (std::ptrdiff_t i = begin; i < end; ++i) {
      const Tap y = tap(static_cast<int>(i), fit.scaled_height, fit.height);
      std::uint8_t* to = out + i * stride;
      for (const Tap& x : columns) {
        for (int c = 0; c < channels; ++c) *to++ = enlarged(image, fit, y, x, c);
      }
    }
  });
}

}  // namespace

void fit_photo_cpu(const GtPicture& image, const GtFit& fit, std::uint8_t* out,
                   const ParallelFor& parallel_for) {
  const auto pixel = static_cast<std::size_t>(image.channels);
  const auto stride = static_cast<std::ptrdiff_t>(fit.target_width) * image.channels;
  std::uint8_t* const inner = out + fit.frame_top * stride + fit.frame_left * image.channels;
  (shrinks(fit) ? shrink_box : enlarge_box)(image, fit, inner, stride, parallel_for);
  for (int y = fit.frame_top; y < fit.frame_top + fit.scaled_height; ++y) {
    std::uint8_t* const row = out + y * stride;
    const auto fill = [&](int from, int begin, int end) {
      for (int x = begin; x < end; ++x) {
        std::memcpy(row + static_cast<std::size_t>(x) * pixel,
                    row + static_cast<std::size_t>(from) * pixel, pixel);
      }
    };
    const int right = fit.frame_left + fit.scaled_width;
    fill(fit.frame_left, 0, fit.frame_left);
    fill(right - 1, right, fit.target_width);
  }
  for (int y = 0; y < fit.target_height; ++y) {
    const int from = std::clamp(y, fit.frame_top, fit.frame_top + fit.scaled_height - 1);
    if (from != y) {
      std::memcpy(out + y * stride, out + from * stride, static_cast<std::size_t>(stride));
    }
  }
}

void fit_map_cpu(const GtPicture& labels, const GtFit& fit, std::uint8_t* out) {
  const int channels = labels.channels;
  const auto stride = static_cast<std::ptrdiff_t>(fit.target_width) * channels;
  std::vector<int> columns;  // of the map, in values; -1 where the box leaves it
  for (int j = 0; j < fit.scaled_width; ++j) {
    const int x = holds_centre(j, fit.width, fit.scaled_width) + fit.left;
    columns.push_back(x >= 0 && x < labels.width ? x * channels : -1);
  }
  for (int y = 0; y < fit.target_height; ++y) {
    std::uint8_t* to = out + y * stride;
    std::memset(to, 0, static_cast<std::size_t>(stride));
    const int i = y - fit.frame_top;
    if (i < 0 || i >= fit.scaled_height) continue;
    const int from_y = holds_centre(i, fit.height, fit.scaled_height) + fit.top;
    if (from_y < 0 || from_y >= labels.height) continue;
    const std::uint8_t* const from = row_of(labels, from_y);
    to += fit.frame_left * channels;
    for (const int x : columns) {
      for (int c = 0; c < channels; ++c, ++to) *to = x < 0 ? 0 : from[x + c];
    }
  }
}

void shrink_cpu(const GtPicture& image, int height, int width, std::uint8_t* out,
                const ParallelFor& parallel_for) {
  const GtFit whole{image.height, image.width, 0, 0, image.height, image.width,
                    height,       width,       0, 0, height,       width};
  shrink_box(image, whole, out, static_cast<std::ptrdiff_t>(width) * image.channels, parallel_for);
}

}  // namespace garment_transfer
