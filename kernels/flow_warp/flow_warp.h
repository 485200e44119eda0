// FlowWarp's arithmetic, once, for every kernel: CPU and CUDA, compiled by g++, nvcc or NVRTC.
//
// What it computes is the table of models/flow_warp.py. Positions are kept as a whole pixel and a
// displacement from it, never as one coordinate: float32 has 24 bits, and at 1000 pixels from the
// corner ten of them would go to the whole part. So the error is that of the displacement alone.

#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define GT_FUNCTION __host__ __device__ __forceinline__
#else
#define GT_FUNCTION inline __attribute__((always_inline))
#endif

#ifndef __CUDACC_RTC__
#include <cmath>
#endif

namespace garment_transfer {

// What lies outside x: 0, or the nearest pixel of its edge.
enum class Padding : int { kZeros = 0, kBorder = 1 };

// Sizes of x and y; flow and residual have the same H and W, the coarse flow half of them.
struct Shape {
  int n, c, h, w;
};

// affine(p + flow) - p in pixels: an [2,3] matrix of the displacement, from the operator's
// normalised [2,3] matrix.
struct Displacement {
  float xx, xy, x0, yx, yy, y0;
};

// Of places that are counted from pixel (0, 0). In double, since it is computed once an image.
GT_FUNCTION Displacement displacement(const float* affine, int h, int w) {
  const double a = affine[0], b = affine[1], c = affine[2];
  const double d = affine[3], e = affine[4], f = affine[5];
  const double left = 1.0 / w - 1, top = 1.0 / h - 1;  // normalised place of pixel (0, 0)
  Displacement out;
  out.xx = static_cast<float>(a - 1);
  out.xy = static_cast<float>(b * w / h);
  out.x0 = static_cast<float>(((a * left + b * top + c) - left) * w / 2);
  out.yx = static_cast<float>(d * h / w);
  out.yy = static_cast<float>(e - 1);
  out.y0 = static_cast<float>(((d * left + e * top + f) - top) * h / 2);
  return out;
}

// Of places that are counted from the image's centre, where the operator's own matrix has its
// origin: nothing cancels, so float is enough, for GPUs that have little double. The sides' ratios
// come with it, so that nothing is divided.
GT_FUNCTION Displacement displacement_from_centre(const float* affine, int h, int w, float w_over_h,
                                                  float h_over_w) {
  return {affine[0] - 1,        affine[1] * w_over_h, affine[2] * (0.5f * w),
          affine[3] * h_over_w, affine[4] - 1,        affine[5] * (0.5f * h)};
}
GT_FUNCTION float from_centre(int place, int size) { return place - 0.5f * (size - 1); }

// Upsampling by two, bilinear with half-pixel centres: every fine sample lies a quarter of the way
// from its nearest coarse one to the one beyond.
GT_FUNCTION float quarter(float nearest, float beyond) { return 0.75f * nearest + 0.25f * beyond; }

// Index of the nearest coarse sample and of the one beyond, edges clamped.
GT_FUNCTION int coarse_nearest(int fine) { return fine >> 1; }
GT_FUNCTION int coarse_beyond(int fine, int coarse_size) {
  const int beyond = (fine >> 1) + ((fine & 1) ? 1 : -1);
  return beyond < 0 ? 0 : (beyond < coarse_size ? beyond : coarse_size - 1);
}

GT_FUNCTION float compose(float upsampled, float residual) { return 2 * upsampled + residual; }

// Where one axis is sampled: pixels i and i+1 with their weights; a weight of 0 is never read.
struct Tap {
  int index;  // -1 to size
  float first, second;
};

// `place` is the output pixel, `moved` the displacement from it along this axis; `finite` says
// that both axes are. The result is for an x that is `size` long.
GT_FUNCTION Tap tap(int place, float moved, bool finite, Padding padding, int size) {
  const float margin = padding == Padding::kBorder ? 0.0f : 1.0f;
  const float low = -static_cast<float>(place) - margin;
  const float high = static_cast<float>(size - 1 - place) + margin;
  // in this order, so that NaN becomes `low` and the conversion below is defined
  float clamped = moved > low ? moved : low;
  clamped = clamped < high ? clamped : high;
  const float whole = floorf(clamped);
  const float part = clamped - whole;
  Tap out;
  out.index = place + static_cast<int>(whole);
  out.first = finite && out.index >= 0 && out.index < size ? 1.0f - part : 0.0f;
  out.second = finite && out.index >= -1 && out.index < size - 1 ? part : 0.0f;
  return out;
}

GT_FUNCTION bool is_finite(float value) {
  return (value < 0 ? -value : value) <= 3.4028234e38f;  // false for NaN
}

// Displacement (x, y) of the pixel (px, py) whose flow is (fx, fy); the place is an int, or a float
// where it is counted from the centre.
template <typename Place>
GT_FUNCTION float moved_x(const Displacement& d, Place px, Place py, float fx, float fy) {
  return fx + (d.xx * (px + fx) + d.xy * (py + fy) + d.x0);
}
template <typename Place>
GT_FUNCTION float moved_y(const Displacement& d, Place px, Place py, float fx, float fy) {
  return fy + (d.yx * (px + fx) + d.yy * (py + fy) + d.y0);
}

}  // namespace garment_transfer
