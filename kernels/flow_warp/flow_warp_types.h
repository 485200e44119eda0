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
  float* flow;  // on a GPU null where nobody wants it
};

// n / divisor for n below 2^31, as a product (Granlund and Montgomery, "Division by Invariant
// Integers using Multiplication", 1994).
struct Divisor {
  unsigned magic, shift;
};

GT_FUNCTION int divided(int n, Divisor by) {
  const auto high = static_cast<unsigned>(static_cast<unsigned long long>(n) * by.magic >> 32);
  return static_cast<int>((high + n) >> by.shift);
}

// How a call is spread over a GPU; the kernels read it.
struct LaunchShape {
  int tiles, parts;          // blocks along x (pixels) and y (channels); z is the batch
  int threads_x, threads_y;  // of a block; kHWC8: groups of channels by pixels
  int tile;                  // pixels of a block, even
  int groups;                // groups of channels of a block
  Divisor half_width;
  float w_over_h, h_over_w;
};

constexpr int kThreads = 128;       // that a block has at most
constexpr int kTile = 128;          // pixels that a block has at most with kHWC8
constexpr int kPlanesChannels = 2;  // of a group with kNCHW; with kHWC8 it has 16 bytes of them

#ifndef __CUDACC_RTC__
// h and w are even and at least 2. One image alone shall fill the GPU, so there are kBlocks blocks
// wherever it has enough to do: two for each of 192 multiprocessors (an H100 has 132). A small
// image gets them by smaller tiles, down to where most lanes of a warp have nothing to do: it waits
// for memory most of its time, so that idle lanes cost less than idle multiprocessors.
inline LaunchShape launch_shape(const Shape& s, Layout layout, int element_size) {
  constexpr long long kBlocks = 384;
  const auto parts_of = [](long long whole, long long part) { return (whole + part - 1) / part; };
  const bool planes = layout == Layout::kNCHW;
  const long long pixels = static_cast<long long>(s.h) * s.w;
  const long long channels = planes ? s.c : parts_of(s.c, 8) * 8;
  const long long some = parts_of(channels, planes ? kPlanesChannels : 16 / element_size);
  const long long groups = some > 0 ? some : 1;
  // Planes: a thread has two pixels and goes through the block's channels; more tiles leave lanes
  // idle, so the channels are split first, though each part computes the flow again. Channels last:
  // a block's pairs of pixel and group are spread over its threads, about four for each; the
  // channels are split last.
  long long tile = planes ? 2 * kThreads : kTile;
  const long long least = planes ? 16 : 2, most = planes ? tile : 4 * kThreads / groups;
  const long long splits = planes ? groups : 1;
  while (tile > least && (tile > most || parts_of(pixels, tile) * splits * s.n < kBlocks)) {
    tile /= 2;
  }
  const long long tiles = parts_of(pixels, tile), images = s.n > 0 ? s.n : 1;
  const long long wanted = parts_of(kBlocks, tiles * images);
  const long long each = groups > wanted ? groups / wanted : 1;
  LaunchShape out;
  out.tiles = static_cast<int>(tiles);
  out.parts = static_cast<int>(parts_of(groups, each));
  out.tile = static_cast<int>(tile);
  out.groups = static_cast<int>(each);
  out.threads_x = planes ? out.tile / 2 : (out.groups < 32 ? out.groups : 32);
  const int rows = kThreads / out.threads_x;
  out.threads_y = planes ? 1 : (rows < out.tile ? rows : out.tile);
  const unsigned half = static_cast<unsigned>(s.w) / 2;
  out.half_width.shift = 0;
  while (1u << out.half_width.shift < half) ++out.half_width.shift;
  const unsigned long long above = (1ull << out.half_width.shift) - half;
  out.half_width.magic = static_cast<unsigned>((above << 32) / half + 1);
  out.w_over_h = static_cast<float>(s.w) / static_cast<float>(s.h);
  out.h_over_w = static_cast<float>(s.h) / static_cast<float>(s.w);
  return out;
}
#endif

}  // namespace garment_transfer
