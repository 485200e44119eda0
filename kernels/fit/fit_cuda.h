// Fit on a GPU.

#pragma once

#include <cuda_runtime_api.h>

#include "fit.h"

namespace garment_transfer {

// `fit_photo_cpu` with all memory on the device; returns what a launch says.
cudaError_t fit_photo_cuda(const GtPicture& image, const GtFit& fit, std::uint8_t* out,
                           cudaStream_t stream);

}  // namespace garment_transfer
