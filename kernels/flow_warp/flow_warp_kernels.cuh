// FlowWarp's device code, compiled by nvcc into the libraries and by NVRTC for Python.
//
// A block handles kTile pixels of one image: each of its threads computes flow, position and weights
// of one of them, once for all channels. Parts of the channels go to further blocks (blockIdx.y)
// only as far as that fills the GPU (`launch_shape`; with kHWC8 in multiples of 8): each of them
// computes the flow again, which costs little, and the first writes it.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "flow_warp_types.h"

namespace garment_transfer {

struct Corner {
  int offset;  // pixel in the image; 0 where the weight is 0, which is never read
  float weight;
};

// The four pixels around the position of `pixel`, whose flow the first block writes. Every thread
// of the block has to come here, since they synchronise; one past the end repeats the last pixel
// and writes nothing.
__device__ __forceinline__ void corners_of(const FlowWarpCall& k, int image, int pixel,
                                           Corner (&corner)[4]) {
  const Shape s = k.shape;
  const bool present = pixel < s.h * s.w;
  const int last = present ? pixel : s.h * s.w - 1;
  const int px = last % s.w, py = last / s.w;
  const int ch = s.h / 2, cw = s.w / 2;
  const int y0 = coarse_nearest(py), y1 = coarse_beyond(py, ch);
  const int x0 = coarse_nearest(px), x1 = coarse_beyond(px, cw);
  float flow[2];
  for (int axis = 0; axis < 2; ++axis) {
    const long long plane = 2LL * image + axis;
    const float* coarse = k.coarse_flow + plane * ch * cw;
    const float* near = coarse + static_cast<long long>(y0) * cw;
    const float* beyond = coarse + static_cast<long long>(y1) * cw;
    const float up = quarter(quarter(__ldg(near + x0), __ldg(beyond + x0)),
                             quarter(__ldg(near + x1), __ldg(beyond + x1)));
    const long long at = (plane * s.h + py) * s.w + px;
    flow[axis] = compose(up, __ldg(k.residual + at));
    if (present && blockIdx.y == 0) k.flow[at] = flow[axis];
  }
  __shared__ Displacement shared;
  if (threadIdx.x == 0) shared = displacement(k.affine + 6 * image, s.h, s.w);
  __syncthreads();
  const Displacement d = shared;
  const float mx = moved_x(d, px, py, flow[0], flow[1]);
  const float my = moved_y(d, px, py, flow[0], flow[1]);
  const bool finite = is_finite(mx) && is_finite(my);
  const Tap tx = tap(px, mx, finite, k.padding, s.w);
  const Tap ty = tap(py, my, finite, k.padding, s.h);
  const int first = ty.index * s.w + tx.index;
  corner[0] = {first, ty.first * tx.first};
  corner[1] = {first + 1, ty.first * tx.second};
  corner[2] = {first + s.w, ty.second * tx.first};
  corner[3] = {first + s.w + 1, ty.second * tx.second};
  for (int i = 0; i < 4; ++i) {
    if (corner[i].weight == 0.0f) corner[i].offset = 0;
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

// Planes: a thread a pixel; neighbouring threads read and write neighbouring pixels.
template <typename T>
__device__ __forceinline__ void flow_warp_planes(const FlowWarpCall& k, int channels_a_block) {
  const Shape s = k.shape;
  const int pixels = s.h * s.w, image = blockIdx.z;
  const int pixel = blockIdx.x * kTile + threadIdx.x;
  Corner corner[4];
  corners_of(k, image, pixel, corner);
  if (pixel >= pixels) return;
  const int begin = blockIdx.y * channels_a_block;
  const int end = min(begin + channels_a_block, s.c);
  const long long offset = (static_cast<long long>(image) * s.c + begin) * pixels;
  const T* x = static_cast<const T*>(k.x) + offset;
  T* y = static_cast<T*>(k.y) + offset + pixel;
#pragma unroll 4
  for (int c = begin; c < end; ++c, x += pixels, y += pixels) {
    float sum = 0;
    for (int i = 0; i < 4; ++i) {
      const float value = corner[i].weight != 0.0f ? to_float(__ldg(x + corner[i].offset)) : 0.0f;
      sum += corner[i].weight * value;
    }
    from_float(sum, *y);
  }
}

template <typename T>
struct alignas(16) Eight {
  T value[8];
};

// Channels last: once the block knows the corners of its pixels, its threads walk over all pairs of
// pixel and eight channels, in loads and stores of 16 bytes (two of them for float32).
template <typename T>
__device__ __forceinline__ void flow_warp_hwc8(const FlowWarpCall& k, int channels_a_block) {
  const Shape s = k.shape;
  const int pixels = s.h * s.w, image = blockIdx.z;
  const int first = blockIdx.x * kTile;
  __shared__ Corner corners[kTile][4];
  {
    Corner corner[4];
    corners_of(k, image, first + static_cast<int>(threadIdx.x), corner);
    for (int i = 0; i < 4; ++i) corners[threadIdx.x][i] = corner[i];
  }
  __syncthreads();
  const int pitch = (s.c + 7) / 8 * 8;
  const int begin = blockIdx.y * channels_a_block;
  const int eights = (min(begin + channels_a_block, pitch) - begin) / 8;
  const long long offset = static_cast<long long>(image) * pixels * pitch + begin;
  const T* x = static_cast<const T*>(k.x) + offset;
  T* y = static_cast<T*>(k.y) + offset;
  const int pairs = min(kTile, pixels - first) * eights;
  for (int pair = threadIdx.x; pair < pairs; pair += kTile) {
    const int local = pair / eights, c = 8 * (pair % eights);
    float sum[8] = {};
    for (int i = 0; i < 4; ++i) {
      const Corner corner = corners[local][i];
      if (corner.weight == 0.0f) continue;
      const long long from = static_cast<long long>(corner.offset) * pitch + c;
      const Eight<T> eight = *reinterpret_cast<const Eight<T>*>(x + from);
      for (int j = 0; j < 8; ++j) sum[j] += corner.weight * to_float(eight.value[j]);
    }
    Eight<T> out;
    for (int j = 0; j < 8; ++j) from_float(begin + c + j < s.c ? sum[j] : 0.0f, out.value[j]);
    *reinterpret_cast<Eight<T>*>(y + static_cast<long long>(first + local) * pitch + c) = out;
  }
}

}  // namespace garment_transfer

// Names without mangling, by which Python finds them in what NVRTC compiled.
#define GT_KERNEL(name, body, type)                                                     \
  extern "C" __global__ void __launch_bounds__(garment_transfer::kTile)                 \
      name(const garment_transfer::FlowWarpCall call, int channels_a_block) {           \
    garment_transfer::body<type>(call, channels_a_block);                               \
  }
GT_KERNEL(flow_warp_planes_float32, flow_warp_planes, float)
GT_KERNEL(flow_warp_planes_float16, flow_warp_planes, __half)
GT_KERNEL(flow_warp_planes_bfloat16, flow_warp_planes, __nv_bfloat16)
GT_KERNEL(flow_warp_hwc8_float32, flow_warp_hwc8, float)
GT_KERNEL(flow_warp_hwc8_float16, flow_warp_hwc8, __half)
GT_KERNEL(flow_warp_hwc8_bfloat16, flow_warp_hwc8, __nv_bfloat16)
#undef GT_KERNEL
