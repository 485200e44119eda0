// Shadows on a garment, lifted; __init__.py says what is computed and why.

#pragma once

#include "../fit/fit.h"
#include "../parallel.h"

namespace garment_transfer {

// `out` is the photo with the shadows lifted, contiguous. False, and nothing is written, where
// there are none.
bool lift_shadows_cpu(const Raster& photo, const Raster& garment, const Raster& covering,
                      std::uint8_t* out, const ParallelFor& parallel_for);

}  // namespace garment_transfer
