// How kernels use their caller's threads, and the versions of them that are compiled.

#pragma once

#include <cstddef>
#include <functional>

// The loader picks the best of these versions that the processor can run.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(GT_ONE_TARGET)
#define GT_TARGETS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GT_TARGETS
#endif

namespace garment_transfer {

// Runs body(begin, end) over parts of [0, count) on threads of the caller's choice.
using ParallelFor =
    std::function<void(std::ptrdiff_t count,
                       const std::function<void(std::ptrdiff_t begin, std::ptrdiff_t end)>& body)>;

}  // namespace garment_transfer
