// A garment as it would be without the arms in front of it; __init__.py says what is computed and
// why.

#pragma once

#include "../fit/fit.h"
#include "../parallel.h"

namespace garment_transfer {

// `out` is the photo, RGB, and `out_garment` where it shows the garment, as if no arm was in front
// of it; both contiguous. False, and nothing is written, where none is.
bool remove_arms_cpu(const GtPicture& photo, const GtPicture& garment, const GtPicture& arms,
                     std::uint8_t* out, std::uint8_t* out_garment, const ParallelFor& parallel_for);

}  // namespace garment_transfer
