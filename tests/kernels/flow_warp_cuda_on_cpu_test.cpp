// The CUDA kernels' source, compiled for the CPU and run thread by thread: what can be known of
// them without a GPU. A block's threads are real threads with a real barrier, so sanitizers see
// reads out of bounds, races on shared memory and a barrier that not every thread reaches (it
// hangs). Launch limits, memory alignment on a device and speed are left for a GPU.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <barrier>
#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>

struct Index {
  unsigned x, y, z;
};
static thread_local Index threadIdx;
static thread_local Index blockIdx;
static std::barrier<>* block_barrier;
static void on_cpu_syncthreads() { block_barrier->arrive_and_wait(); }

#undef __device__
#undef __global__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads on_cpu_syncthreads
#define __ldg(pointer) (*(pointer))
using std::min;

#include "flow_warp_calls.h"
#include "flow_warp_kernels.cuh"

using namespace garment_transfer;

namespace {

using Kernel = void (*)(const FlowWarpCall, const LaunchShape);

// The threads of a block, which live as long as the program and run one block after another.
class Block {
 public:
  Block() {
    for (unsigned t = 0; t < kThreads; ++t) threads_.emplace_back([this, t] { work(t); });
  }
  ~Block() {
    kernel_ = nullptr;
    begin_.arrive_and_wait();
    for (std::thread& thread : threads_) thread.join();
  }
  void launch(Kernel kernel, const FlowWarpCall& call, const LaunchShape& shape) {
    kernel_ = kernel;
    call_ = call;
    shape_ = shape;
    block_barrier = &inside_.emplace(shape.threads_x * shape.threads_y);
    begin_.arrive_and_wait();
    end_.arrive_and_wait();
  }

 private:
  void work(unsigned t) {
    for (begin_.arrive_and_wait(); kernel_; begin_.arrive_and_wait()) {
      const unsigned across = shape_.threads_x;
      threadIdx = {t % across, t / across, 0};
      if (t < across * shape_.threads_y) run();
      end_.arrive_and_wait();
    }
  }
  void run() {
    const unsigned images = call_.shape.n, parts = shape_.parts, tiles = shape_.tiles;
    for (unsigned z = 0; z < images; ++z) {
      for (unsigned y = 0; y < parts; ++y) {
        for (unsigned x = 0; x < tiles; ++x) {
          blockIdx = {x, y, z};
          kernel_(call_, shape_);
          inside_->arrive_and_wait();  // shared memory is this block's until all have left it
        }
      }
    }
  }

  std::barrier<> begin_{kThreads + 1}, end_{kThreads + 1};
  std::optional<std::barrier<>> inside_;
  Kernel kernel_ = nullptr;
  FlowWarpCall call_{};
  LaunchShape shape_{};
  std::vector<std::thread> threads_;
};

}  // namespace

int main() {
  constexpr Kernel kKernels[2][3] = {
      {flow_warp_planes_float32, flow_warp_planes_float16, flow_warp_planes_bfloat16},
      {flow_warp_hwc8_float32, flow_warp_hwc8_float16, flow_warp_hwc8_bfloat16}};
  Block block;
  return testing::run_calls([&](const FlowWarpCall& call, Type type, Layout layout) {
    block.launch(kKernels[static_cast<int>(layout)][static_cast<int>(type)], call,
                 launch_shape(call.shape, layout, type == Type::kFloat32 ? 4 : 2));
  });
}
