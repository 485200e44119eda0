// Compose on a GPU.

#pragma once

#include <cuda_runtime_api.h>

#include "compose.h"

namespace garment_transfer {

// The device memory that a call works in.
std::size_t compose_cuda_bytes(const GtCompose& call);

// `compose_cpu` with all memory on the device; returns what a launch says. `workspace` is aligned
// to 256 bytes, as CUDA allocates it.
cudaError_t compose_cuda(const GtCompose& call, void* workspace, cudaStream_t stream);

}  // namespace garment_transfer
