// The CPU kernel on the calls of test_sources.py, to be built with sanitizers.
#include "flow_warp_cpu.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <thread>

#include "flow_warp_calls.h"

using namespace garment_transfer;

int main() {
  const auto in_two_threads = [](std::ptrdiff_t count, const auto& body) {
    std::thread other([&] { body(count / 2, count); });
    body(0, count / 2);
    other.join();
  };
  return testing::run_calls([&](const FlowWarpCall& call, Type type, Layout) {
    const std::size_t bytes = flow_warp_cpu_scratch(call.shape);
    const std::unique_ptr<void, decltype(&std::free)> scratch{
        std::aligned_alloc(64, std::max<std::size_t>((bytes + 63) / 64 * 64, 64)), &std::free};
    flow_warp_cpu(call, type, scratch.get(), in_two_threads);
  });
}
