// FlowWarp on the CPU: blocks of 4 or 8 channels of x are turned channels-last once, so that each
// of the four pixels around a position is one vector, whatever the flow; they are mixed in
// registers, and turned back as they are written.

#include "flow_warp_cpu.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace garment_transfer {
namespace {

template <int kLanes>
struct Lanes {
  typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
  typedef float Unaligned
      __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
};
template <int kLanes>
using Vector = typename Lanes<kLanes>::Vector;

template <int kLanes>
GT_FUNCTION Vector<kLanes> load(const float* from) {
  return *reinterpret_cast<const typename Lanes<kLanes>::Unaligned*>(from);
}
template <int kLanes>
GT_FUNCTION void store(float* to, Vector<kLanes> value) {
  *reinterpret_cast<typename Lanes<kLanes>::Unaligned*>(to) = value;
}

GT_FUNCTION void transpose(Vector<4> (&v)[4]) {
  const Vector<4> a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5);
  const Vector<4> b = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
  const Vector<4> c = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
  const Vector<4> d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
  v[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  v[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  v[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  v[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

GT_FUNCTION void transpose(Vector<8> (&v)[8]) {
  Vector<8> t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    t[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int k = 0; k < 2; ++k) {
      u[i + 2 * k] = __builtin_shufflevector(t[i + k], t[i + 2 + k], 0, 1, 8, 9, 4, 5, 12, 13);
      u[i + 2 * k + 1] =
          __builtin_shufflevector(t[i + k], t[i + 2 + k], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shufflevector(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

GT_FUNCTION float to_float(float value) { return value; }

struct Half {
  std::uint16_t bits;
};
struct BFloat {
  std::uint16_t bits;
};

GT_FUNCTION float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
GT_FUNCTION std::uint32_t to_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

GT_FUNCTION float to_float(BFloat value) { return from_bits(std::uint32_t{value.bits} << 16); }

// Branches would keep the compiler from vectorising these two; every case is a choice of values.
GT_FUNCTION float to_float(Half value) {
  const std::uint32_t sign = std::uint32_t{value.bits & 0x8000u} << 16;
  const std::uint32_t rest = value.bits & 0x7fffu;
  const float normal = from_bits((rest << 13) + 0x38000000u);
  const float tiny = static_cast<float>(static_cast<std::int32_t>(rest)) * 5.9604644775390625e-8f;
  const float special = from_bits(0x7f800000u | (rest << 13));
  const float value_of = rest < 0x400u ? tiny : (rest < 0x7c00u ? normal : special);
  return from_bits(to_bits(value_of) | sign);
}

// To nearest, ties to even; NaN stays NaN.
GT_FUNCTION void from_float(float value, float& to) { to = value; }
GT_FUNCTION void from_float(float value, BFloat& to) {
  const std::uint32_t bits = to_bits(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet = (bits >> 16) | 0x40u;
  to.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}
GT_FUNCTION void from_float(float value, Half& to) {
  const std::uint32_t bits = to_bits(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t rest = bits & 0x7fffffffu;
  const std::uint32_t normal = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
  // the addition rounds what is below the least normal number
  const std::uint32_t tiny = to_bits(from_bits(rest) + 0.5f) - 0x3f000000u;
  const std::uint32_t special = rest > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const std::uint32_t out = rest >= 0x477ff000u ? special : (rest < 0x38800000u ? tiny : normal);
  to.bits = static_cast<std::uint16_t>(out | sign);
}

// A whole vector of x, and of y.
template <int kLanes, typename T>
GT_FUNCTION Vector<kLanes> get(const T* from) {
  if constexpr (std::is_same_v<T, float>) {
    return load<kLanes>(from);
  } else {
    float values[kLanes];
    for (int i = 0; i < kLanes; ++i) values[i] = to_float(from[i]);
    return load<kLanes>(values);
  }
}
template <int kLanes, typename T>
GT_FUNCTION void put(Vector<kLanes> value, T* to) {
  if constexpr (std::is_same_v<T, float>) {
    store<kLanes>(to, value);
  } else {
    float values[kLanes];
    store<kLanes>(values, value);
    for (int i = 0; i < kLanes; ++i) from_float(values[i], to[i]);
  }
}

int lanes_of(int channels) { return channels <= 4 ? 4 : 8; }

int blocks_of(int channels) { return (channels + lanes_of(channels) - 1) / lanes_of(channels); }

// Floats of a turned block: a pixel of zeros follows the image, which stands for every pixel of
// weight 0, so that none of x is read for it (0 times infinity is not 0).
std::ptrdiff_t block_floats(const Shape& s) {
  return (std::ptrdiff_t{s.h} * s.w + 1) * lanes_of(s.c);
}

// kLanes pixels of a block of x to channels last. `count` pixels and `present` planes are there;
// constants let the compiler keep them in registers.
template <int kLanes, typename T>
GT_FUNCTION void turn_pixels(const T* from, std::ptrdiff_t plane, int present, int count,
                             float* to) {
  Vector<kLanes> block[kLanes];
  if (count == kLanes && present == kLanes) {
#pragma GCC unroll 8
    for (int k = 0; k < kLanes; ++k) block[k] = get<kLanes>(from + k * plane);
  } else {
    for (int k = 0; k < kLanes; ++k) {
      float values[kLanes] = {};
      for (int i = 0; k < present && i < count; ++i) values[i] = to_float(from[k * plane + i]);
      block[k] = load<kLanes>(values);
    }
  }
  transpose(block);
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; ++i) {
    if (i < count) store<kLanes>(to + i * kLanes, block[i]);
  }
}

// Row `py` of a block that starts at plane `first` of x.
template <int kLanes, typename T>
GT_FUNCTION void turn_row(const T* x, const Shape& s, int first, int py, float* turned) {
  const std::ptrdiff_t plane = std::ptrdiff_t{s.h} * s.w;
  const T* from = x + first * plane + std::ptrdiff_t{py} * s.w;
  float* to = turned + std::ptrdiff_t{py} * s.w * kLanes;
  const int whole = s.w / kLanes * kLanes, present = std::min(kLanes, s.c - first);
  if (present == kLanes) {
    for (int px = 0; px < whole; px += kLanes) {
      turn_pixels<kLanes>(from + px, plane, kLanes, kLanes, to + px * kLanes);
    }
  } else {
    for (int px = 0; px < whole; px += kLanes) {
      turn_pixels<kLanes>(from + px, plane, present, kLanes, to + px * kLanes);
    }
  }
  if (whole < s.w) {
    turn_pixels<kLanes>(from + whole, plane, present, s.w - whole, to + whole * kLanes);
  }
  if (py == 0) std::fill_n(turned + plane * kLanes, kLanes, 0.0f);
}

constexpr int kChunk = 256;  // pixels whose corners are held at once

// Flow of `count` pixels of row `py` from `px` on, and for each of the four pixels around every
// position its number in the image and its weight. A function of its own, since inlined into the
// loops below it is no longer vectorised.
GT_TARGETS __attribute__((noinline)) void chunk_corners(const FlowWarpCall& call,
                                                        const Displacement& d, int image, int py,
                                                        int px, int count, bool writes_flow,
                                                        std::int32_t* __restrict pixels,
                                                        float* __restrict weights) {
  const Shape& s = call.shape;
  const int ch = s.h / 2, cw = s.w / 2;
  float flow[2][kChunk];
  for (int axis = 0; axis < 2; ++axis) {
    const float* coarse = call.coarse_flow + (std::ptrdiff_t{image} * 2 + axis) * ch * cw;
    const float* near = coarse + std::ptrdiff_t{coarse_nearest(py)} * cw;
    const float* beyond = coarse + std::ptrdiff_t{coarse_beyond(py, ch)} * cw;
    const std::ptrdiff_t at = ((std::ptrdiff_t{image} * 2 + axis) * s.h + py) * s.w + px;
    const float* residual = call.residual + at;
    // px is even, so the chunk starts on a nearest sample; one more on either side
    float mixed[kChunk / 2 + 2];
    const int start = px / 2 - 1, needed = count / 2 + 2;
    for (int i = 1; i < needed - 1; ++i) mixed[i] = quarter(near[start + i], beyond[start + i]);
    const int left = std::max(start, 0), right = std::min(start + needed - 1, cw - 1);
    mixed[0] = quarter(near[left], beyond[left]);
    mixed[needed - 1] = quarter(near[right], beyond[right]);
    float* out = flow[axis];
    for (int i = 0; i < count / 2; ++i) {
      out[2 * i] = compose(quarter(mixed[i + 1], mixed[i]), residual[2 * i]);
      out[2 * i + 1] = compose(quarter(mixed[i + 1], mixed[i + 2]), residual[2 * i + 1]);
    }
    if (writes_flow) std::memcpy(call.flow + at, out, count * sizeof(float));
  }
  const std::int32_t nothing = s.h * s.w;
  for (int i = 0; i < count; ++i) {
    const float mx = moved_x(d, px + i, py, flow[0][i], flow[1][i]);
    const float my = moved_y(d, px + i, py, flow[0][i], flow[1][i]);
    const bool finite = is_finite(mx) & is_finite(my);
    const Tap tx = tap(px + i, mx, finite, call.padding, s.w);
    const Tap ty = tap(py, my, finite, call.padding, s.h);
    const std::int32_t corner = ty.index * s.w + tx.index;
    const float w00 = ty.first * tx.first, w01 = ty.first * tx.second;
    const float w10 = ty.second * tx.first, w11 = ty.second * tx.second;
    weights[i] = w00;
    weights[kChunk + i] = w01;
    weights[2 * kChunk + i] = w10;
    weights[3 * kChunk + i] = w11;
    pixels[i] = w00 != 0 ? corner : nothing;
    pixels[kChunk + i] = w01 != 0 ? corner + 1 : nothing;
    pixels[2 * kChunk + i] = w10 != 0 ? corner + s.w : nothing;
    pixels[3 * kChunk + i] = w11 != 0 ? corner + s.w + 1 : nothing;
  }
}

// kLanes pixels of a block of y. Where `count` is less than kLanes, copies of the last pixel are
// computed past it and not written.
template <int kLanes, typename T>
GT_FUNCTION void mix_pixels(const float* turned, const std::int32_t* pixels, const float* weights,
                            int count, int present, std::ptrdiff_t plane, T* to) {
  Vector<kLanes> mixed[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; ++i) {
    const int p = std::min(i, count - 1);
    mixed[i] = Vector<kLanes>{};
    for (int at = p; at < 4 * kChunk; at += kChunk) {
      mixed[i] += weights[at] * load<kLanes>(turned + std::ptrdiff_t{pixels[at]} * kLanes);
    }
  }
  transpose(mixed);
#pragma GCC unroll 8
  for (int k = 0; k < kLanes; ++k) {
    if (k >= present) continue;
    if (count == kLanes) {
      put<kLanes>(mixed[k], to + k * plane);
    } else {
      float values[kLanes];
      store<kLanes>(values, mixed[k]);
      for (int i = 0; i < count; ++i) from_float(values[i], to[k * plane + i]);
    }
  }
}

// A part of the work: some blocks of one image, and some of their rows.
struct Part {
  int image;
  int first_block, end_block;
  int first_row, end_row;
  float* turned;  // of first_block
};

template <int kLanes, typename T>
GT_FUNCTION void turn_part(const FlowWarpCall& call, const Part& part) {
  const Shape& s = call.shape;
  const T* x = static_cast<const T*>(call.x) + std::ptrdiff_t{part.image} * s.c * s.h * s.w;
  for (int block = part.first_block; block < part.end_block; ++block) {
    float* turned = part.turned + (block - part.first_block) * block_floats(s);
    for (int py = part.first_row; py < part.end_row; ++py) {
      turn_row<kLanes>(x, s, block * kLanes, py, turned);
    }
  }
}

template <int kLanes, typename T>
GT_FUNCTION void sample_part(const FlowWarpCall& call, const Part& part) {
  const Shape& s = call.shape;
  const std::ptrdiff_t plane = std::ptrdiff_t{s.h} * s.w;
  const Displacement d = displacement(call.affine + std::ptrdiff_t{part.image} * 6, s.h, s.w);
  T* y = static_cast<T*>(call.y) + part.image * s.c * plane;
  alignas(64) std::int32_t pixels[4 * kChunk];
  alignas(64) float weights[4 * kChunk];
  for (int py = part.first_row; py < part.end_row; ++py) {
    for (int px = 0; px < s.w; px += kChunk) {
      const int count = std::min(kChunk, s.w - px), whole = count / kLanes * kLanes;
      chunk_corners(call, d, part.image, py, px, count, part.first_block == 0, pixels, weights);
      for (int block = part.first_block; block < part.end_block; ++block) {
        const float* turned = part.turned + (block - part.first_block) * block_floats(s);
        T* to = y + block * kLanes * plane + std::ptrdiff_t{py} * s.w + px;
        const int present = std::min(kLanes, s.c - block * kLanes);
        // constants let the compiler keep all pixels in registers
        if (present == kLanes) {
          for (int i = 0; i < whole; i += kLanes) {
            mix_pixels<kLanes>(turned, pixels + i, weights + i, kLanes, kLanes, plane, to + i);
          }
        } else {
          for (int i = 0; i < whole; i += kLanes) {
            mix_pixels<kLanes>(turned, pixels + i, weights + i, kLanes, present, plane, to + i);
          }
        }
        if (whole < count) {
          mix_pixels<kLanes>(turned, pixels + whole, weights + whole, count - whole, present, plane,
                             to + whole);
        }
      }
    }
  }
}

// Up to four channels of rows of whole vectors: what is turned would go to memory and come back,
// which costs more than all else. So rows are turned just before they are sampled, into a ring of
// pixels that stays in a core's own cache, and 64 rows are a thread's least work.
constexpr std::int32_t kRing = 1 << 14;                  // pixels; a power of two
constexpr std::ptrdiff_t kRingFloats = (kRing + 4) * 4;  // the pixel of zeros follows it
constexpr int kStripRows = 64;

bool by_ring(const Shape& s) { return s.c <= 4 && s.w % 4 == 0 && s.w <= kRing / 8; }

int strips_of(const Shape& s) { return (s.h + kStripRows - 1) / kStripRows; }

// The rows [begin, end) of an image that are in the ring.
struct Ring {
  float* turned;
  int begin, end;
};

template <typename T>
GT_FUNCTION void turn_into(const T* x, const Shape& s, int py, float* turned) {
  const std::ptrdiff_t plane = std::ptrdiff_t{s.h} * s.w;
  const std::int32_t row = py * s.w;
  for (int px = 0; px < s.w; px += 4) {
    float* to = turned + ((row + px) & (kRing - 1)) * 4;
    if (s.c == 4) {
      turn_pixels<4>(x + row + px, plane, 4, 4, to);
    } else {
      turn_pixels<4>(x + row + px, plane, s.c, 4, to);
    }
  }
}

// Brings the rows [begin, end), no more than the ring holds, into it.
template <typename T>
GT_FUNCTION void bring(const T* x, const Shape& s, int begin, int end, Ring& ring) {
  const int most = kRing / s.w;
  if (begin > ring.end || end < ring.begin) ring.begin = ring.end = begin;
  for (; ring.begin > begin; ring.end = std::min(ring.end, ring.begin + most)) {
    turn_into(x, s, --ring.begin, ring.turned);
  }
  for (; ring.end < end; ring.begin = std::max(ring.begin, ring.end - most)) {
    turn_into(x, s, ring.end++, ring.turned);
  }
}

// Pixels of y straight from x: what samples more rows than the ring holds has no neighbours to
// share a turned row with.
template <typename T>
GT_FUNCTION void mix_scattered(const T* x, const Shape& s, const std::int32_t* pixels,
                               const float* weights, int count, T* to) {
  const std::ptrdiff_t plane = std::ptrdiff_t{s.h} * s.w;
  for (int k = 0; k < s.c; ++k) {
    for (int i = 0; i < count; ++i) {
      float sum = 0;
      for (int at = i; at < 4 * kChunk; at += kChunk) {
        if (pixels[at] < plane) sum += weights[at] * to_float(x[k * plane + pixels[at]]);
      }
      from_float(sum, to[k * plane + i]);
    }
  }
}

template <typename T>
GT_FUNCTION void sample_strip(const FlowWarpCall& call, int image, int first_row, int end_row,
                              Ring& ring) {
  const Shape& s = call.shape;
  const std::int32_t plane = s.h * s.w;
  const Displacement d = displacement(call.affine + std::ptrdiff_t{image} * 6, s.h, s.w);
  const T* x = static_cast<const T*>(call.x) + std::ptrdiff_t{image} * s.c * plane;
  T* y = static_cast<T*>(call.y) + std::ptrdiff_t{image} * s.c * plane;
  alignas(64) std::int32_t pixels[4 * kChunk];
  alignas(64) float weights[4 * kChunk];
  for (int py = first_row; py < end_row; ++py) {
    for (int px = 0; px < s.w; px += kChunk) {
      const int count = std::min(kChunk, s.w - px);
      chunk_corners(call, d, image, py, px, count, true, pixels, weights);
      std::int32_t least = plane, most = -1;
      for (int at = 0; at < 4 * kChunk; at += kChunk) {
        for (int i = at; i < at + count; ++i) {
          least = std::min(least, pixels[i]);
          most = std::max(most, pixels[i] < plane ? pixels[i] : -1);
        }
      }
      T* to = y + std::ptrdiff_t{py} * s.w + px;
      const int begin = least / s.w, end = most < 0 ? begin : most / s.w + 1;
      if (end - begin > kRing / s.w) {
        mix_scattered(x, s, pixels, weights, count, to);
        continue;
      }
      if (begin < end) bring(x, s, begin, end, ring);
      for (int at = 0; at < 4 * kChunk; at += kChunk) {
        for (int i = at; i < at + count; ++i) {
          pixels[i] = pixels[i] < plane ? pixels[i] & (kRing - 1) : kRing;
        }
      }
      for (int i = 0; i < count; i += 4) {
        if (s.c == 4) {
          mix_pixels<4>(ring.turned, pixels + i, weights + i, 4, 4, plane, to + i);
        } else {
          mix_pixels<4>(ring.turned, pixels + i, weights + i, 4, s.c, plane, to + i);
        }
      }
    }
  }
}

GT_TARGETS void run_strip(const FlowWarpCall& call, Type type, int image, int first_row,
                          int end_row, Ring& ring) {
  switch (type) {
    case Type::kFloat32:
      return sample_strip<float>(call, image, first_row, end_row, ring);
    case Type::kFloat16:
      return sample_strip<Half>(call, image, first_row, end_row, ring);
    case Type::kBFloat16:
      return sample_strip<BFloat>(call, image, first_row, end_row, ring);
  }
}

enum class Step { kTurn, kSample };

template <typename T>
GT_FUNCTION void run_typed(const FlowWarpCall& call, const Part& part, Step step) {
  const bool four = lanes_of(call.shape.c) == 4;
  if (step == Step::kTurn) {
    four ? turn_part<4, T>(call, part) : turn_part<8, T>(call, part);
  } else {
    four ? sample_part<4, T>(call, part) : sample_part<8, T>(call, part);
  }
}

GT_TARGETS void run(const FlowWarpCall& call, Type type, const Part& part, Step step) {
  switch (type) {
    case Type::kFloat32:
      return run_typed<float>(call, part, step);
    case Type::kFloat16:
      return run_typed<Half>(call, part, step);
    case Type::kBFloat16:
      return run_typed<BFloat>(call, part, step);
  }
}

// How many blocks share positions that are computed once: as many as stay in a core's own cache.
int blocks_a_group(const Shape& s) {
  constexpr std::ptrdiff_t kCacheFloats = 200'000;
  return static_cast<int>(std::max<std::ptrdiff_t>(kCacheFloats / block_floats(s), 1));
}

// Groups in all from which each is one thread's work; with fewer, threads share them by rows.
constexpr std::ptrdiff_t kManyGroups = 4;

}  // namespace

std::size_t flow_warp_cpu_scratch(const Shape& shape) {
  const std::ptrdiff_t floats =
      by_ring(shape) ? strips_of(shape) * kRingFloats : blocks_of(shape.c) * block_floats(shape);
  return static_cast<std::size_t>(shape.n * floats) * sizeof(float);
}

void flow_warp_cpu(const FlowWarpCall& call, Type type, void* scratch,
                   const ParallelFor& parallel_for) {
  const Shape& s = call.shape;
  float* const turned = static_cast<float*>(scratch);
  const int blocks = blocks_of(s.c), each = blocks_a_group(s);
  const int groups = (blocks + each - 1) / each;
  if (s.n == 0) return;
  if (by_ring(s)) {
    const int strips = strips_of(s);
    parallel_for(std::ptrdiff_t{s.n} * strips, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
      if (begin == end) return;  // it has no ring
      // one ring for all strips of a thread; a strip goes on with the rows of the one before
      Ring ring{turned + begin * kRingFloats, 0, 0};
      std::fill_n(ring.turned + kRing * 4, 4, 0.0f);
      for (std::ptrdiff_t strip = begin; strip < end; ++strip) {
        const int row = static_cast<int>(strip % strips) * kStripRows;
        if (row == 0) ring.begin = ring.end = 0;
        run_strip(call, type, static_cast<int>(strip / strips), row,
                  std::min(row + kStripRows, s.h), ring);
      }
    });
    return;
  }
  if (std::ptrdiff_t{s.n} * groups >= kManyGroups) {
    parallel_for(std::ptrdiff_t{s.n} * groups, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
      // a thread uses one place for all its groups, which then stays in its cache
      const std::ptrdiff_t place = begin / groups * blocks + begin % groups * each;
      for (std::ptrdiff_t group = begin; group < end; ++group) {
        const int image = static_cast<int>(group / groups);
        const int first = static_cast<int>(group % groups) * each;
        const Part part{image, first, std::min(first + each, blocks),
                        0,     s.h,   turned + place * block_floats(s)};
        run(call, type, part, Step::kTurn);
        run(call, type, part, Step::kSample);
      }
    });
    return;
  }
  for (const Step step : {Step::kTurn, Step::kSample}) {
    parallel_for(std::ptrdiff_t{s.n} * s.h, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
      while (begin < end) {
        const int image = static_cast<int>(begin / s.h), row = static_cast<int>(begin % s.h);
        const int rows = static_cast<int>(std::min<std::ptrdiff_t>(s.h - row, end - begin));
        run(call, type,
            {image, 0, blocks, row, row + rows, turned + image * blocks * block_floats(s)}, step);
        begin += rows;
      }
    });
  }
}

}  // namespace garment_transfer
