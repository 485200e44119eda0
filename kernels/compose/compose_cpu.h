// Compose on the CPU.

#pragma once

#include "../fit/fit_cpu.h"
#include "compose.h"

namespace garment_transfer {

struct Box {
  int top, left, bottom, right;
};

// The rows and columns between the first and the last that are not 0; empty where all are.
Box bounds(const GtPicture& mask);

void compose_cpu(const GtCompose& call, const ParallelFor& parallel_for);

}  // namespace garment_transfer
