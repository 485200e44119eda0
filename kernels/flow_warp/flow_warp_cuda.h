// FlowWarp on a GPU: what the plugin and other host code call.

#pragma once

#include <cuda_runtime_api.h>

#include "flow_warp_types.h"

namespace garment_transfer {

// Enqueues one kernel on `stream`: no allocation, no synchronisation, safe to capture into a graph.
// Pointers are memory of the stream's device, `flow` is null where nobody wants it. x and y have
// that type and layout. Residual and flow are aligned to 8 bytes, y to two of its elements, and
// with kHWC8 x and y to 16 bytes, else it is cudaErrorMisalignedAddress; cudaMalloc aligns to 256.
cudaError_t flow_warp_cuda(const FlowWarpCall& call, Type type, Layout layout, cudaStream_t stream);

}  // namespace garment_transfer
