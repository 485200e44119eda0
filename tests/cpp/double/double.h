// What tests see of the double, and how they disturb it.

#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace cuda_double {

struct Counts {
  int captures = 0;  // begun
  int graph_launches = 0;
  int bound = 0;  // addresses that TensorRT's contexts took
  int alive = 0;  // memory, streams, events and graphs
};
extern Counts counts;

// Called when a stream begins to capture.
extern std::function<void()> on_capture;

// Whether streams run at once, for engines that do.
extern bool at_once;

using Work = std::function<void()>;
cudaError_t put(cudaStream_t stream, Work work);

}  // namespace cuda_double
