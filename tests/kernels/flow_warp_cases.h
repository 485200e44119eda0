// Seeded cases of FlowWarp with their truth in double, for tests of the kernels' sources.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "flow_warp_types.h"

namespace garment_transfer::testing {

struct Case {
  Shape shape;
  Padding padding;
  double reach;  // of the flow's parts, pixels
  // exact allocations, so that a sanitizer sees a read of one element too many
  std::vector<float> x, coarse_flow, residual, affine;
  std::vector<double> y, flow;      // the truth
  std::vector<double> uncertainty;  // of y, from positions in float32 [N,H,W]
};

// `image` [H,W] at (sx, sy), straight from the table of models/flow_warp.py.
inline double sample(const float* image, int h, int w, double sx, double sy, Padding padding) {
  if (padding == Padding::kBorder) {
    sx = std::fmin(std::fmax(sx, 0.0), w - 1.0);
    sy = std::fmin(std::fmax(sy, 0.0), h - 1.0);
  } else if (!(sx > -1 && sx < w && sy > -1 && sy < h)) {
    return 0;
  }
  const int x0 = static_cast<int>(std::floor(sx)), y0 = static_cast<int>(std::floor(sy));
  double total = 0;
  for (int yi = y0; yi <= y0 + 1; ++yi) {
    for (int xi = x0; xi <= x0 + 1; ++xi) {
      const double weight = (1 - std::fabs(sx - xi)) * (1 - std::fabs(sy - yi));
      if (xi < 0 || yi < 0 || xi >= w || yi >= h || weight == 0) continue;
      total += weight * image[yi * w + xi];
    }
  }
  return total;
}

inline double upsampled(const float* coarse, int ch, int cw, int py, int px) {
  return sample(coarse, ch, cw, px / 2.0 - 0.25, py / 2.0 - 0.25, Padding::kBorder);
}

inline void solve(Case& c) {
  const Shape& s = c.shape;
  const int pixels = s.h * s.w;
  c.y.assign(static_cast<std::size_t>(s.n) * s.c * pixels, 0);
  c.flow.assign(static_cast<std::size_t>(s.n) * 2 * pixels, 0);
  c.uncertainty.assign(static_cast<std::size_t>(s.n) * pixels, 0);
  for (int n = 0; n < s.n; ++n) {
    const float* a = c.affine.data() + 6 * n;
    for (int py = 0; py < s.h; ++py) {
      for (int px = 0; px < s.w; ++px) {
        double f[2];
        for (int axis = 0; axis < 2; ++axis) {
          const int plane = 2 * n + axis;
          const float* coarse = c.coarse_flow.data() + plane * (pixels / 4);
          const int at = plane * pixels + py * s.w + px;
          f[axis] = 2 * upsampled(coarse, s.h / 2, s.w / 2, py, px) + c.residual[at];
          c.flow[at] = f[axis];
        }
        const double u = (2 * (px + f[0]) + 1) / s.w - 1, v = (2 * (py + f[1]) + 1) / s.h - 1;
        const double sx = ((a[0] * u + a[1] * v + a[2] + 1) * s.w - 1) / 2;
        const double sy = ((a[3] * u + a[4] * v + a[5] + 1) * s.h - 1) / 2;
        if (!std::isfinite(sx) || !std::isfinite(sy)) continue;
        // a few roundings of the displacement and of what it is summed from, times the slope
        const double moved = std::fabs(sx - px) + std::fabs(sy - py) + std::fabs(f[0]) +
                             std::fabs(f[1]) + std::fabs(a[0] - 1) * s.w + std::fabs(a[1]) * s.w +
                             std::fabs(a[3]) * s.h + std::fabs(a[4] - 1) * s.h + 8 * c.reach + 1;
        const double error = 8 * moved * 0x1p-23;
        // far outside the answer does not depend on where exactly
        const bool out_x = sx < -1 - error || sx > s.w + error;
        const bool out_y = sy < -1 - error || sy > s.h + error;
        const bool constant = c.padding == Padding::kZeros ? out_x || out_y : out_x && out_y;
        c.uncertainty[n * pixels + py * s.w + px] = constant ? 0 : error;
        for (int k = 0; k < s.c; ++k) {
          const int plane = n * s.c + k;
          c.y[plane * pixels + py * s.w + px] =
              sample(c.x.data() + plane * pixels, s.h, s.w, sx, sy, c.padding);
        }
      }
    }
  }
}

// What is unusual in a case: flows that are not finite or huge; or x that is not finite here and
// there, under flows of half and whole pixels, so that weights are exactly 0 beside such a pixel
// (the sides are powers of two then, so that the truth is exact in double).
enum class Odd { kNothing, kFlows, kPixels };

inline Case make_case(unsigned seed, Shape shape, Padding padding, double reach, Odd odd) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<float>& v, std::size_t count, float scale) {
    v.resize(count);
    for (float& value : v) value = scale * normal(random);
  };
  Case c;
  c.shape = shape;
  c.padding = padding;
  c.reach = reach;
  const std::size_t pixels = static_cast<std::size_t>(shape.h) * shape.w;
  fill(c.x, shape.n * shape.c * pixels, 1);
  fill(c.coarse_flow, shape.n * pixels / 2, static_cast<float>(reach / 2));
  fill(c.residual, shape.n * 2 * pixels, static_cast<float>(reach));
  fill(c.affine, 6 * shape.n, 0.15f);
  for (int n = 0; n < shape.n; ++n) c.affine[6 * n] += 1, c.affine[6 * n + 4] += 1;
  const float inf = std::numeric_limits<float>::infinity();
  const float values[] = {inf, -inf, std::numeric_limits<float>::quiet_NaN(), 1e30f, -1e30f, 3e9f};
  if (odd == Odd::kFlows) {
    for (std::size_t i = 0; i < c.residual.size(); i += 3) c.residual[i] = values[random() % 6];
  } else if (odd == Odd::kPixels) {
    for (std::size_t i = 0; i < c.x.size(); i += 3) c.x[i] = values[random() % 3];
    for (float& flow : c.residual) flow = std::round(2 * flow) / 2;
    c.coarse_flow.assign(c.coarse_flow.size(), 0);
    for (std::size_t i = 0; i < c.affine.size(); ++i) c.affine[i] = i % 6 == 0 || i % 6 == 4;
  }
  solve(c);
  return c;
}

// What is common to the kernels' tests: compares y and flow with the truth and reports.
inline bool agrees(const Case& c, const std::vector<float>& y, const std::vector<float>& flow,
                   double rounding, const char* what) {
  const int pixels = c.shape.h * c.shape.w;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const int n = static_cast<int>(i) / (c.shape.c * pixels), p = static_cast<int>(i) % pixels;
    // neighbouring values of a standard normal differ by less than 8 almost surely
    const double slack = rounding * (1 + std::fabs(c.y[i])) + 8 * c.uncertainty[n * pixels + p];
    const bool same = std::isnan(c.y[i])      ? std::isnan(y[i])
                      : std::isfinite(c.y[i]) ? std::fabs(y[i] - c.y[i]) <= slack
                                              : y[i] == c.y[i];
    if (!same) {
      std::printf("%s: y[%zu] is %g, expected %g within %g\n", what, i, y[i], c.y[i], slack);
      return false;
    }
  }
  for (std::size_t i = 0; i < flow.size(); ++i) {
    const double slack = 1e-6 * (1 + 8 * c.reach + std::fabs(c.flow[i]));
    const bool same = std::isfinite(c.flow[i]) ? std::fabs(flow[i] - c.flow[i]) <= slack
                                               : !std::isfinite(flow[i]);
    if (!same) {
      std::printf("%s: flow[%zu] is %g, expected %g\n", what, i, flow[i], c.flow[i]);
      return false;
    }
  }
  return true;
}

struct Variant {
  Shape shape;
  double reach;
  Odd odd = Odd::kNothing;
};

// Odd coarse sides, one pixel, one more and one less than a vector or a block, many channels.
inline std::vector<Variant> variants() {
  return {{{1, 1, 2, 2}, 0},
          {{2, 3, 6, 10}, 1},
          {{1, 4, 10, 18}, 3, Odd::kFlows},
          {{1, 5, 14, 6}, 100},
          {{3, 8, 4, 16}, 1, Odd::kFlows},
          {{1, 9, 8, 258}, 20},
          {{1, 64, 12, 16}, 2},
          {{1, 67, 6, 514}, 2, Odd::kFlows},
          {{2, 16, 34, 2}, 5},
          {{1, 300, 4, 6}, 1},
          {{0, 3, 4, 4}, 1},
          {{1, 0, 4, 4}, 1},
          {{1, 2, 2, 1026}, 1e6, Odd::kFlows},
          {{1, 13, 22, 22}, 0},
          {{2, 11, 16, 32}, 4, Odd::kPixels}};
}

}  // namespace garment_transfer::testing
