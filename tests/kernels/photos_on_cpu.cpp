// The device code of Fit and Compose, compiled for the CPU, where each_pixel.h runs it pixel by pixel.
// With photos.cpp and what that needs it is the library as built with CUDA.

#include <cuda_runtime_api.h>

#include <cstring>

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

#include "compose/compose_cuda.cu"
#include "fit/fit_cuda.cu"
