// Where a photo lies in a bundle's frame, and the arithmetic of scaling: whole numbers, so that
// every device and the definition in __init__.py give the same pixels. For CPU and CUDA.

#pragma once

#include <cstddef>
#include <cstdint>

#include "../photos/photos.h"

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define GT_FUNCTION __host__ __device__ __forceinline__
#else
#define GT_FUNCTION inline __attribute__((always_inline))
#endif

namespace garment_transfer {

GT_FUNCTION const std::uint8_t* row_of(const GtPicture& picture, int y) {
  return picture.data + y * picture.stride;
}

constexpr int kBits = 15;  // places between two pixels, as a power of two
constexpr int kFiner = 4;  // by which a colour is finer between the two axes, as one too

GT_FUNCTION int inside(int i, int size) { return i < 0 ? 0 : (i < size ? i : size - 1); }

// Which two of `small` pixels surround the pixel x of the same axis in `large` ones, edges
// repeated.
struct Tap {
  int first, second;
  int part;  // how far it is from the first to the second, in 2^-kBits
  int base;  // the pixel before it, -1 where it is before the first
};

GT_FUNCTION Tap tap(int x, int large, int small) {
  const long long above = ((2ll * x + 1) * small - large) * (1 << kBits), below = 2ll * large;
  const long long place = above / below - (above % below < 0);
  Tap out;
  out.base = static_cast<int>(place >> kBits);
  out.part = static_cast<int>(place & ((1 << kBits) - 1));
  out.first = inside(out.base, small);
  out.second = inside(out.base + 1, small);
  return out;
}

GT_FUNCTION int lerp(int first, int second, int part) {
  return first + (((second - first) * part + (1 << (kBits - 1))) >> kBits);
}

// The pixel of `large` ones that holds the centre of the pixel i of the same axis in `small` ones.
GT_FUNCTION int holds_centre(int i, int large, int small) {
  return static_cast<int>((2ll * i + 1) * large / (2ll * small));
}

// sum / total, halves rounded up. The product is within 2^-40 of the quotient, whose distance from
// a half that it is not is at least 1 / (2 * total); total is below 2^30.
GT_FUNCTION int rounded_mean(unsigned long long sum, double inverse_total) {
  return static_cast<int>(static_cast<double>(sum) * inverse_total + (0.5 + 1.0 / (1ll << 32)));
}

// The pixels of an axis of `large` that one of `small` equal parts covers, and how much of the
// first and the last, in parts of a pixel, of which it has `small`; all between are covered.
struct Span {
  int first, last;
  unsigned first_weight, last_weight;

  GT_FUNCTION unsigned weight(int x, int small) const {
    return x == first ? first_weight : x == last ? last_weight : static_cast<unsigned>(small);
  }
};

GT_FUNCTION Span span(int part, int large, int small) {
  const long long begin = static_cast<long long>(part) * large, end = begin + large;
  Span out;
  out.first = static_cast<int>(begin / small);
  out.last = static_cast<int>((end - 1) / small);
  const long long first_end = (out.first + 1ll) * small;
  out.first_weight = static_cast<unsigned>((first_end < end ? first_end : end) - begin);
  out.last_weight = out.last > out.first ? static_cast<unsigned>(end - 1ll * out.last * small) : 0;
  return out;
}

// The mean of a value over a part of the box, edges repeated.
GT_FUNCTION std::uint8_t area_mean(const GtPicture& image, const GtFit& fit, const Span& rows,
                                   const Span& columns, int channel) {
  unsigned long long sum = 0;
  for (int y = rows.first; y <= rows.last; ++y) {
    const std::uint8_t* const row = row_of(image, inside(y + fit.top, image.height)) + channel;
    unsigned long long along = 0;
    for (int x = columns.first; x <= columns.last; ++x) {
      const unsigned value = row[inside(x + fit.left, image.width) * image.channels];
      along += static_cast<unsigned long long>(columns.weight(x, fit.scaled_width)) * value;
    }
    sum += rows.weight(y, fit.scaled_height) * along;
  }
  return static_cast<std::uint8_t>(
      rounded_mean(sum, 1.0 / (static_cast<double>(fit.height) * fit.width)));
}

// Whether a box is scaled down, by area; else it is scaled up, linearly.
GT_FUNCTION bool shrinks(const GtFit& fit) {
  return fit.scaled_height <= fit.height && fit.scaled_width <= fit.width;
}

// A value of the box scaled up, edges repeated, at the places that the taps say.
GT_FUNCTION std::uint8_t enlarged(const GtPicture& image, const GtFit& fit, const Tap& y,
                                  const Tap& x, int channel) {
  const auto column = [&](int at) {
    const auto value = [&](int from) {
      const std::uint8_t* const row = row_of(image, inside(from + fit.top, image.height));
      return row[inside(at + fit.left, image.width) * image.channels + channel] << kFiner;
    };
    return lerp(value(y.first), value(y.second), y.part);
  };
  return static_cast<std::uint8_t>(
      (lerp(column(x.first), column(x.second), x.part) + (1 << (kFiner - 1))) >> kFiner);
}

}  // namespace garment_transfer
