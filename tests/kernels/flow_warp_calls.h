// Calls of FlowWarp on standard input, and what a kernel makes of them on standard output:
// test_sources.py writes and reads both, and has the truth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "flow_warp_types.h"

namespace garment_transfer::testing {

// Calls `kernel(call, type, layout)` for each call.
template <typename Kernel>
int run_calls(const Kernel& kernel) {
  struct {
    std::int32_t n, c, h, w, padding, type, layout, x_bytes, wants_flow;
  } head;
  const auto read = [](auto& values) {
    const std::size_t count = values.size();
    return count == 0 || std::fread(values.data(), sizeof values[0], count, stdin) == count;
  };
  while (std::fread(&head, sizeof head, 1, stdin) == 1) {
    const std::size_t images = head.n, pixels = std::size_t{1} * head.h * head.w;
    // exact allocations, so that a sanitizer sees a read of one element too many
    std::vector<std::uint8_t> x(head.x_bytes), y(x.size(), 0xEE);
    std::vector<float> coarse_flow(images * pixels / 2), residual(4 * coarse_flow.size()),
        affine(6 * images), flow(residual.size(), -7);
    if (!read(x) || !read(coarse_flow) || !read(residual) || !read(affine)) return 1;
    const FlowWarpCall call{{head.n, head.c, head.h, head.w},
                            static_cast<Padding>(head.padding),
                            x.data(),
                            coarse_flow.data(),
                            residual.data(),
                            affine.data(),
                            y.data(),
                            head.wants_flow ? flow.data() : nullptr};
    kernel(call, static_cast<Type>(head.type), static_cast<Layout>(head.layout));
    if (!y.empty()) std::fwrite(y.data(), 1, y.size(), stdout);
    if (!flow.empty()) std::fwrite(flow.data(), sizeof(float), flow.size(), stdout);
  }
  return 0;
}

}  // namespace garment_transfer::testing
