// Fit on the CPU.

#pragma once

#include "../parallel.h"
#include "fit.h"

namespace garment_transfer {

// Four whole numbers at once.
using Whole = std::int32_t __attribute__((vector_size(16)));

GT_FUNCTION Whole lerp(Whole first, Whole second, int part) {
  return first + (((second - first) * part + (1 << (kBits - 1))) >> kBits);
}

// A photo in the frame, [target_height, target_width, channels], as `fit_photo` of __init__.py.
void fit_photo_cpu(const GtPicture& image, const GtFit& fit, std::uint8_t* out,
                   const ParallelFor& parallel_for);
// A map in the frame, as `fit_map`; a thread more would take longer to start.
void fit_map_cpu(const GtPicture& labels, const GtFit& fit, std::uint8_t* out);

// Means over the area of each of height x width pixels, which the image has at least, contiguous.
void shrink_cpu(const GtPicture& image, int height, int width, std::uint8_t* out,
                const ParallelFor& parallel_for);

}  // namespace garment_transfer
