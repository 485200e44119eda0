// The words that every front end of FlowWarp shares.

#pragma once

#include "flow_warp.h"

namespace garment_transfer {

enum class Type : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

// kNCHW: planes. kHWC8: channels last, their number padded to a multiple of 8 (TensorRT's kHWC8).
enum class Layout : int { kNCHW = 0, kHWC8 = 1 };

// One call. All tensors are contiguous; their shapes and meaning are the table of
// models/flow_warp.py. Coarse flow, residual, affine and flow are NCHW whatever x and y are.
struct FlowWarpCall {
  Shape shape;  // of x and y; h and w even
  Padding padding;
  const void* x;
  const float* coarse_flow;
  const float* residual;
  const float* affine;
  void* y;
  float* flow;
};

constexpr int kTile = 128;  // threads of a CUDA block

#ifndef __CUDACC_RTC__
// Blocks of a launch along x (pixels) and y (parts of the channels); z is the batch.
struct LaunchShape {
  int x, y, channels_a_block;
};

// The channels are split only as far as that gives every multiprocessor some blocks: 1024 fill the
// largest GPU of today several times over.
inline LaunchShape launch_shape(const Shape& s, Layout layout) {
  const int step = layout == Layout::kNCHW ? 8 : 64;  // channels that a part has at least
  const long long pixels = static_cast<long long>(s.h) * s.w;
  const int x = static_cast<int>((pixels + kTile - 1) / kTile);
  const long long wanted = 1024 / (static_cast<long long>(x) * s.n) + 1;
  const int most = s.c > step ? (s.c + step - 1) / step : 1;
  const int parts = wanted < most ? static_cast<int>(wanted) : most;
  const int channels = ((s.c + parts - 1) / parts + step - 1) / step * step;
  const int each = channels > 0 ? channels : step;
  return {x, s.c > each ? (s.c + each - 1) / each : 1, each};
}
#endif

}  // namespace garment_transfer
