// FlowWarp on the CPU.

#pragma once

#include <cstddef>

#include "../parallel.h"
#include "flow_warp_types.h"

namespace garment_transfer {

// Bytes of scratch memory that a call needs, to be aligned to 64 bytes.
std::size_t flow_warp_cpu_scratch(const Shape& shape);

// Computes y and flow; x and y are NCHW, of `type`. Touches nothing else, and is safe to call from
// several threads with scratch memory of their own.
void flow_warp_cpu(const FlowWarpCall& call, Type type, void* scratch,
                   const ParallelFor& parallel_for);

}  // namespace garment_transfer
