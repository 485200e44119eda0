// FlowWarp on the CPU.

#pragma once

#include <cstddef>
#include <functional>

#include "flow_warp_types.h"

namespace garment_transfer {

// Runs body(begin, end) over parts of [0, count) on threads of the caller's choice.
using ParallelFor =
    std::function<void(std::ptrdiff_t count,
                       const std::function<void(std::ptrdiff_t begin, std::ptrdiff_t end)>& body)>;

// Bytes of scratch memory that a call needs, to be aligned to 64 bytes.
std::size_t flow_warp_cpu_scratch(const Shape& shape);

// Computes y and flow; x and y are NCHW, of `type`. Touches nothing else, and is safe to call from
// several threads with scratch memory of their own.
void flow_warp_cpu(const FlowWarpCall& call, Type type, void* scratch,
                   const ParallelFor& parallel_for);

}  // namespace garment_transfer
