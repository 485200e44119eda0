// FlowWarp's device code, compiled by nvcc into the libraries and by NVRTC for Python.
//
// A block handles `tile` pixels of one image and `groups` groups of its channels (`launch_shape`).
// Flow, position and weights of a pixel are computed once a block, for two neighbours at a time,
// which share what they read of the coarse flow. Parts of the channels go to further blocks
// (blockIdx.y) only as far as that fills the GPU: each of them computes the flow again, and the
// first writes it.
//
// Memory is what a GPU waits for here, so all loads of a step are issued before the first value is
// used. tests/kernels/test_machine_code.py reads in the machine code whether the compiler kept it.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "flow_warp_types.h"

namespace garment_transfer {

// What a position reads: four pixels of the image, of which each counts.
struct alignas(16) Corners {
  int offset[4];
  float weight[4];  // 0 for all where the position reads 0
};

// Two pixels of an axis that can be read and of which each counts, if one does: a pixel of weight 0
// may lie outside x or be NaN, so the other one takes its place, and each has half the weight. That
// costs once what a test of every value would cost in every channel. Weights below 2^-40 are 0: so
// the product of two is never 0.
struct Two {
  int index[2];
  float weight[2];
};

__device__ __forceinline__ Two two_that_count(const Tap& tap) {
  constexpr float kLeast = 0x1p-40f;
  const bool first = tap.first >= kLeast, second = tap.second >= kLeast;
  const float half = 0.5f * (first ? tap.first : second ? tap.second : 0.0f);
  const int only = first ? tap.index : second ? tap.index + 1 : 0;
  return {{first ? tap.index : only, second ? tap.index + 1 : only},
          {first && second ? tap.first : half, first && second ? tap.second : half}};
}

// The corners of pixels 2 * pair and 2 * pair + 1 of an image, whose flow the first part writes if
// somebody wants it.
__device__ __forceinline__ void corners_of(const FlowWarpCall& k, const LaunchShape& launch,
                                           int pair, Corners (&corners)[2]) {
  const Shape s = k.shape;
  const int image = blockIdx.z;
  const int ch = s.h / 2, cw = s.w / 2;
  const int py = divided(pair, launch.half_width), column = pair - py * cw;
  const int nearest = coarse_nearest(py) * cw, beyond = coarse_beyond(py, ch) * cw;
  const int columns[3] = {column, coarse_beyond(2 * column, cw), coarse_beyond(2 * column + 1, cw)};
  float flow[2][2];
  for (int axis = 0; axis < 2; ++axis) {
    const long long plane = 2LL * image + axis;
    const float* const coarse = k.coarse_flow + plane * ch * cw;
    const float* const residual = k.residual + plane * s.h * s.w;
    float up[3];
    for (int i = 0; i < 3; ++i) {
      up[i] = quarter(__ldg(coarse + nearest + columns[i]), __ldg(coarse + beyond + columns[i]));
    }
    const float2 added = __ldg(reinterpret_cast<const float2*>(residual) + pair);
    flow[axis][0] = compose(quarter(up[0], up[1]), added.x);
    flow[axis][1] = compose(quarter(up[0], up[2]), added.y);
    if (k.flow && blockIdx.y == 0) {
      float* const out = k.flow + plane * s.h * s.w;
      reinterpret_cast<float2*>(out)[pair] = {flow[axis][0], flow[axis][1]};
    }
  }
  float affine[6];
  for (int i = 0; i < 6; ++i) affine[i] = __ldg(k.affine + 6 * image + i);
  const Displacement d =
      displacement_from_centre(affine, s.h, s.w, launch.w_over_h, launch.h_over_w);
  for (int i = 0; i < 2; ++i) {
    const int px = 2 * column + i;
    const float x = from_centre(px, s.w), y = from_centre(py, s.h);
    const float mx = moved_x(d, x, y, flow[0][i], flow[1][i]);
    const float my = moved_y(d, x, y, flow[0][i], flow[1][i]);
    const bool finite = is_finite(mx) && is_finite(my);
    const Two tx = two_that_count(tap(px, mx, finite, k.padding, s.w));
    const Two ty = two_that_count(tap(py, my, finite, k.padding, s.h));
    for (int j = 0; j < 4; ++j) {
      corners[i].offset[j] = ty.index[j / 2] * s.w + tx.index[j % 2];
      corners[i].weight[j] = ty.weight[j / 2] * tx.weight[j % 2];
    }
  }
}

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ void from_float(float v, float& to) { to = v; }
__device__ __forceinline__ void from_float(float v, __half& to) { to = __float2half_rn(v); }
__device__ __forceinline__ void from_float(float v, __nv_bfloat16& to) {
  to = __float2bfloat16_rn(v);
}

// The weighted sum of four corners' values; 0 unless `wanted`, be the values NaN.
template <typename T>
__device__ __forceinline__ float mixed(const Corners& corners, const T (&value)[4], bool wanted) {
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += corners.weight[i] * to_float(value[i]);
  return wanted ? sum : 0.0f;
}

// Planes: a thread has two neighbouring pixels and goes through the channels, two at a time.
template <typename T>
__device__ __forceinline__ void flow_warp_planes(const FlowWarpCall& k, const LaunchShape& launch) {
  const Shape s = k.shape;
  const int pixels = s.h * s.w;
  const int pair = blockIdx.x * launch.threads_x + threadIdx.x;
  if (2 * pair >= pixels) return;
  Corners corners[2];
  corners_of(k, launch, pair, corners);
  // in bytes and unsigned: 32 bits that are added to an address as they are
  unsigned from[2][4];
  for (int p = 0; p < 2; ++p) {
    for (int i = 0; i < 4; ++i) from[p][i] = corners[p].offset[i] * unsigned{sizeof(T)};
  }
  const int begin = blockIdx.y * launch.groups * kPlanesChannels;
  const int end = min(begin + launch.groups * kPlanesChannels, s.c);
  const long long offset = (static_cast<long long>(blockIdx.z) * s.c + begin) * pixels;
  const T* x = static_cast<const T*>(k.x) + offset;
  T* y = static_cast<T*>(k.y) + offset + 2 * pair;
  struct alignas(2 * sizeof(T)) Out {
    T value[2];
  };
#pragma unroll 1  // more would be spilled
  for (int c = begin; c < end; c += kPlanesChannels) {
    // where the number is odd, the last channel is done twice
    const int next = c + 1 < end ? pixels : 0;
    T value[kPlanesChannels][2][4];
    for (int j = 0; j < kPlanesChannels; ++j) {
      const char* const channel = reinterpret_cast<const char*>(x + (j ? next : 0));
      for (int p = 0; p < 2; ++p) {
        for (int i = 0; i < 4; ++i) {
          value[j][p][i] = __ldg(reinterpret_cast<const T*>(channel + from[p][i]));
        }
      }
    }
    for (int j = 0; j < kPlanesChannels; ++j) {
      Out out;
      for (int p = 0; p < 2; ++p) {
        from_float(mixed(corners[p], value[j][p], corners[p].weight[0] != 0.0f), out.value[p]);
      }
      *reinterpret_cast<Out*>(y + (j ? next : 0)) = out;
    }
    x += static_cast<long long>(kPlanesChannels) * pixels;
    y += static_cast<long long>(kPlanesChannels) * pixels;
  }
}

// Channels last: once the block knows the corners of its pixels, its threads walk over all pairs of
// pixel and group of channels, in loads and stores of 16 bytes.
template <typename T>
__device__ __forceinline__ void flow_warp_hwc8(const FlowWarpCall& k, const LaunchShape& launch) {
  constexpr int kChannels = 16 / sizeof(T);
  struct alignas(16) Group {
    T value[kChannels];
  };
  const Shape s = k.shape;
  const int pixels = s.h * s.w;
  const int first = blockIdx.x * launch.tile, count = min(launch.tile, pixels - first);
  __shared__ Corners corners[kTile];
  const int thread = threadIdx.y * launch.threads_x + threadIdx.x;
  if (2 * thread < count) {
    Corners two[2];
    corners_of(k, launch, first / 2 + thread, two);
    corners[2 * thread] = two[0];
    corners[2 * thread + 1] = two[1];
  }
  __syncthreads();
  const int groups = (s.c + 7) / 8 * (8 / kChannels);
  const int begin = blockIdx.y * launch.groups;
  const int end = min(begin + launch.groups, groups);
  const long long image = static_cast<long long>(blockIdx.z) * pixels * groups;
  const uint4* const x = static_cast<const uint4*>(k.x) + image;
  Group* const y = static_cast<Group*>(k.y) + image + static_cast<long long>(first) * groups;
  for (int pixel = threadIdx.y; pixel < count; pixel += launch.threads_y) {
    for (int g = begin + threadIdx.x; g < end; g += launch.threads_x) {
      const Corners corner = corners[pixel];
      uint4 loaded[4];
      for (int i = 0; i < 4; ++i) {
        loaded[i] = __ldg(x + static_cast<long long>(corner.offset[i]) * groups + g);
      }
      Group group[4];
      memcpy(group, loaded, sizeof(group));
      // the layout's own channels beyond x's are 0
      const int wanted = corner.weight[0] != 0.0f ? s.c - g * kChannels : 0;
      Group out;
      for (int j = 0; j < kChannels; ++j) {
        const T value[4] = {group[0].value[j], group[1].value[j], group[2].value[j],
                            group[3].value[j]};
        from_float(mixed(corner, value, j < wanted), out.value[j]);
      }
      y[pixel * groups + g] = out;
    }
  }
}

}  // namespace garment_transfer

// Names without mangling, by which Python finds them in what NVRTC compiled.
// Blocks of kThreads that a multiprocessor holds at least. Ten leave 48 registers to a thread, of
// which nothing has to be spilled; Turing takes eight at most.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define GT_BLOCKS 8
#else
#define GT_BLOCKS 10
#endif
#define GT_KERNEL(name, body, type)                                                            \
  extern "C" __global__ void __launch_bounds__(garment_transfer::kThreads, GT_BLOCKS) name(    \
      const garment_transfer::FlowWarpCall call, const garment_transfer::LaunchShape launch) { \
    garment_transfer::body<type>(call, launch);                                                \
  }
GT_KERNEL(flow_warp_planes_float32, flow_warp_planes, float)
GT_KERNEL(flow_warp_planes_float16, flow_warp_planes, __half)
GT_KERNEL(flow_warp_planes_bfloat16, flow_warp_planes, __nv_bfloat16)
GT_KERNEL(flow_warp_hwc8_float32, flow_warp_hwc8, float)
GT_KERNEL(flow_warp_hwc8_float16, flow_warp_hwc8, __half)
GT_KERNEL(flow_warp_hwc8_bfloat16, flow_warp_hwc8, __nv_bfloat16)
#undef GT_KERNEL
#undef GT_BLOCKS
