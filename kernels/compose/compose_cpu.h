// Compose on the CPU.

#pragma once

#include "../fit/fit_cpu.h"
#include "compose.h"

namespace garment_transfer {

// One call; definition.py says what each is. Fields marked so may have no data.
struct ComposeCall {
  Pixels photo, own;     // [H,W,3], [H,W]
  Pixels kept;           // [H,W], or none: pixels that stay as they are
  Pixels owner, garment; // [H,W,3], [H,W]: not 0 where the owner's photo shows the garment
  Fit fit, owner_fit;
  Pixels image, parsing, warped;  // the graphs', [h,w,3], [h,w], [h,w,3]
  Pixels scores;                  // [h,w,4], or none
  const float* flow;              // [2,h,w]
  std::uint8_t* out_image;        // [H,W,3]
  std::uint8_t* out_parsing;      // [H,W]
  std::uint8_t* out_warped;       // [H,W,3], or null
};

void compose_cpu(const ComposeCall& call, const ParallelFor& parallel_for);

}  // namespace garment_transfer
