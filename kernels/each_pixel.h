// Runs a function for every pixel of a picture: on a GPU where a CUDA compiler reads this, else one
// after another, the last first, which is how the device code is tested where there is no GPU.

#pragma once

#include <cuda_runtime_api.h>

#include <memory>

namespace garment_transfer {

#if defined(__CUDACC__)
#define GT_DEVICE __device__

template <typename Body>
__global__ void __launch_bounds__(256) each_pixel_kernel(int height, int width, const Body body) {
  const int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  if (y < height && x < width) body(y, x);
}
#else
#define GT_DEVICE

template <typename T>
void atomicAdd(T* value, T more) {
  *value += more;
}
template <typename T>
void atomicMax(T* value, T other) {
  if (*value < other) *value = other;
}
#endif

// What is queued on a stream, and the first error.
class Queue {
 public:
  explicit Queue(cudaStream_t stream) : stream_(stream) {}

  template <typename Body>
  void each_pixel(int height, int width, const Body& body) {
    if (error_ != cudaSuccess || height <= 0 || width <= 0) return;
#if defined(__CUDACC__)
    const dim3 block(32, 8);
    const dim3 grid((static_cast<unsigned>(width) + 31) / 32,
                    (static_cast<unsigned>(height) + 7) / 8);
    each_pixel_kernel<<<grid, block, 0, stream_>>>(height, width, body);
    error_ = cudaGetLastError();
#else
    struct Work {
      int height, width;
      Body body;
    };
    const auto run = [](void* memory) {
      const std::unique_ptr<Work> work(static_cast<Work*>(memory));
      for (int y = work->height; y-- > 0;) {
        for (int x = work->width; x-- > 0;) work->body(y, x);
      }
    };
    error_ = cudaLaunchHostFunc(stream_, run, new Work{height, width, body});
#endif
  }
  template <typename Body>
  void once(const Body& body) {
    each_pixel(1, 1, body);
  }
  void zero(void* memory, std::size_t bytes) {
    if (error_ == cudaSuccess) error_ = cudaMemsetAsync(memory, 0, bytes, stream_);
  }
  cudaError_t error() const { return error_; }

 private:
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace garment_transfer
