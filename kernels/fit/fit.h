// Where a photo lies in a bundle's frame, and the arithmetic of scaling: whole numbers, so that
// every device and the definition in __init__.py give the same pixels. For CPU and CUDA.

#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define GT_FUNCTION __host__ __device__ __forceinline__
#else
#define GT_FUNCTION inline __attribute__((always_inline))
#endif

namespace garment_transfer {

// `Fit` of __init__.py: the box (top, left, height, width) of an image of source_height x
// source_width, at the size scaled_height x scaled_width at frame_top, frame_left of the frame.
struct Fit {
  int source_height, source_width;
  int top, left, height, width;
  int scaled_height, scaled_width;
  int frame_top, frame_left;
  int target_height, target_width;
};

constexpr int kBits = 15;  // places between two pixels, as a power of two
constexpr int kFiner = 4;  // by which a colour is finer between the two axes, as one too

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
  const auto inside = [small](int i) { return i < 0 ? 0 : (i < small ? i : small - 1); };
  out.first = inside(out.base);
  out.second = inside(out.base + 1);
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

}  // namespace garment_transfer
