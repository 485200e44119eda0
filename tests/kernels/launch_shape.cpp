// Reads lines of `n c h w layout element_size` and prints what launch_shape makes of them, and how
// many of 1000 quotients by half the width are wrong.
#include <cstdio>
#include <random>

#include "flow_warp_types.h"

using namespace garment_transfer;

// a kernel launched from Python reads these as they lie in memory
static_assert(sizeof(FlowWarpCall) == PYTHON_CALL && sizeof(LaunchShape) == PYTHON_SHAPE);

int main() {
  std::mt19937 random(1);
  int n, c, h, w, layout, size;
  while (std::scanf("%d %d %d %d %d %d", &n, &c, &h, &w, &layout, &size) == 6) {
    const LaunchShape l = launch_shape({n, c, h, w}, static_cast<Layout>(layout), size);
    int wrong = 0;
    for (int i = 0; i < 1000; ++i) {
      // around multiples, where a quotient steps, and anywhere below 2^31
      const int multiple = static_cast<int>(random() % (0x7fffffffu / (w / 2)));
      const int near = static_cast<int>(multiple * static_cast<long long>(w / 2)) - (i % 2);
      const int value = i % 4 < 2 ? (near < 0 ? 0 : near) : static_cast<int>(random() >> 1);
      wrong += divided(value, l.half_width) != value / (w / 2);
    }
    std::printf("%d %d %d %d %d %d %u %u %.9g %.9g %d\n", l.tiles, l.parts, l.threads_x,
                l.threads_y, l.tile, l.groups, l.half_width.magic, l.half_width.shift, l.w_over_h,
                l.h_over_w, wrong);
  }
}
