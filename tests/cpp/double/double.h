// What tests see of the double, and how they disturb it.

#pragma once

#include <functional>

namespace cuda_double {

struct Counts {
  int captures = 0;  // begun
  int graph_launches = 0;
  int bound = 0;  // addresses that TensorRT's contexts took
};
extern Counts counts;

// Called when a stream begins to capture.
extern std::function<void()> on_capture;

}  // namespace cuda_double
