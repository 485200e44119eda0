// FlowWarp on a GPU: what the plugin and other host code call.

#pragma once

#include <cuda_runtime_api.h>

#include "flow_warp_types.h"

namespace garment_transfer {

// Enqueues one kernel on `stream`: no allocation, no synchronisation, safe to capture into a graph.
// Pointers are memory of the stream's device; x and y have that type and layout, and with kHWC8 are
// aligned to 16 bytes (as cudaMalloc and TensorRT align).
cudaError_t flow_warp_cuda(const FlowWarpCall& call, Type type, Layout layout,
                           cudaStream_t stream);

}  // namespace garment_transfer
