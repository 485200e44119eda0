// Labels of a frame at the photo's size; __init__.py says what is computed and why.

#pragma once

#include "../fit/fit_cpu.h"

namespace garment_transfer {

// `framed` is the photo in the frame; `out` is contiguous, of the photo's size, and 0 around the
// box.
void upsample_labels_cpu(const GtPicture& photo, const GtPicture& framed, const GtPicture& labels,
                         const GtFit& fit, std::uint8_t* out, const ParallelFor& parallel_for);

}  // namespace garment_transfer
