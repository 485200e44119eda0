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

#include "flow_warp_cases.h"
#include "flow_warp_kernels.cuh"

using namespace garment_transfer;
using namespace garment_transfer::testing;

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

template <typename T>
T converted(float value) {
  T out;
  from_float(value, out);
  return out;
}

template <typename T>
bool check(Block& block, unsigned seed, const Variant& variant, Padding padding, Layout layout,
           double rounding, Kernel kernel) {
  Case c = make_case(seed, variant.shape, padding, variant.reach, variant.odd);
  for (float& value : c.x) value = to_float(converted<T>(value));
  solve(c);
  const Shape& s = c.shape;
  const int pixels = s.h * s.w;
  const bool planes = layout == Layout::kNCHW;
  const int pitch = planes ? s.c : (s.c + 7) / 8 * 8;
  const auto place = [&](std::size_t i) -> std::size_t {
    if (planes) return i;
    const std::size_t n = i / (s.c * pixels), k = i / pixels % s.c, p = i % pixels;
    return (n * pixels + p) * pitch + k;
  };
  const std::size_t count = static_cast<std::size_t>(s.n) * pitch * pixels;
  struct alignas(16) Sixteen {
    char bytes[16];
  };
  std::vector<Sixteen> x_memory(count * sizeof(T) / 16 + 1), y_memory(x_memory.size());
  T* x = reinterpret_cast<T*>(x_memory.data());
  T* y_out = reinterpret_cast<T*>(y_memory.data());
  for (std::size_t i = 0; i < c.x.size(); ++i) x[place(i)] = converted<T>(c.x[i]);
  std::vector<float> flow(c.flow.size(), -7), y(c.y.size());
  FlowWarpCall call{s,     padding,    x, c.coarse_flow.data(), c.residual.data(), c.affine.data(),
                    y_out, flow.data()};
  const LaunchShape shape = launch_shape(s, layout, sizeof(T));
  block.launch(kernel, call, shape);
  if (variant.odd == Odd::kPixels) {  // one case is enough
    const std::vector<Sixteen> with_flow = y_memory;
    std::fill(y_memory.begin(), y_memory.end(), Sixteen{});
    call.flow = nullptr;  // nobody wants it
    block.launch(kernel, call, shape);
    if (std::memcmp(y_memory.data(), with_flow.data(), count * sizeof(T)) != 0) {
      std::puts("without a flow to write, y is another");
      return false;
    }
  }
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = to_float(y_out[place(i)]);
  for (int p = 0; !planes && p < s.n * pixels; ++p) {
    for (int k = s.c; k < pitch; ++k) {
      if (to_float(y_out[p * pitch + k]) != 0) {
        std::printf("channel %d is padding of the layout and not 0\n", k);
        return false;
      }
    }
  }
  return agrees(c, y, flow, rounding, planes ? "NCHW" : "HWC8");
}

}  // namespace

int main() {
  Block block;
  bool good = true;
  unsigned seed = 1;
  std::vector<Variant> all = variants();
  std::mt19937 random(1);
  const auto up_to = [&](unsigned most) { return static_cast<int>(1 + random() % most); };
  for (int i = 0; i < 4; ++i) {
    all.push_back({{up_to(3), up_to(40), 2 * up_to(12), 2 * up_to(20)}, 3});
  }
  for (const Variant& v : all) {
    if (v.shape.n == 0) continue;  // flow_warp_cuda launches nothing for it
    for (const Padding padding : {Padding::kZeros, Padding::kBorder}) {
      const auto run = [&](auto type, Layout layout, double rounding, auto kernel) {
        good = check<decltype(type)>(block, seed++, v, padding, layout, rounding, kernel) && good;
      };
      run(float{}, Layout::kNCHW, 1e-6, flow_warp_planes_float32);
      run(__half{}, Layout::kNCHW, 0x1p-11, flow_warp_planes_float16);
      run(__nv_bfloat16{}, Layout::kNCHW, 0x1p-8, flow_warp_planes_bfloat16);
      run(float{}, Layout::kHWC8, 1e-6, flow_warp_hwc8_float32);
      run(__half{}, Layout::kHWC8, 0x1p-11, flow_warp_hwc8_float16);
      run(__nv_bfloat16{}, Layout::kHWC8, 0x1p-8, flow_warp_hwc8_bfloat16);
    }
  }
  // so many images that a block has all channels, and a thread several pixels or channels
  const Variant many{{384, 35, 4, 8}, 1};
  const auto run_many = [&](Layout layout, Kernel kernel) {
    good = check<__half>(block, seed++, many, Padding::kZeros, layout, 0x1p-11, kernel) && good;
  };
  run_many(Layout::kNCHW, flow_warp_planes_float16);
  run_many(Layout::kHWC8, flow_warp_hwc8_float16);
  std::puts(good ? "passed" : "FAILED");
  return good ? 0 : 1;
}
