// Compose on the CPU.

#pragma once

#include "../fit/fit_cpu.h"
#include "compose.h"

namespace garment_transfer {

void compose_cpu(const GtCompose& call, const ParallelFor& parallel_for);

}  // namespace garment_transfer
