// Fit on a GPU: a thread for each pixel of the frame, padding too.

#include "../each_pixel.h"
#include "fit_cuda.h"

namespace garment_transfer {

cudaError_t fit_photo_cuda(const GtPicture& image, const GtFit& fit, std::uint8_t* out,
                           cudaStream_t stream) {
  Queue queue(stream);
  queue.each_pixel(fit.target_height, fit.target_width, [=] GT_DEVICE(int y, int x) {
    const int i = inside(y - fit.frame_top, fit.scaled_height);
    const int j = inside(x - fit.frame_left, fit.scaled_width);
    std::uint8_t* const to =
        out + (static_cast<std::ptrdiff_t>(y) * fit.target_width + x) * image.channels;
    if (shrinks(fit)) {
      const Span rows = span(i, fit.height, fit.scaled_height);
      const Span columns = span(j, fit.width, fit.scaled_width);
      for (int c = 0; c < image.channels; ++c) to[c] = area_mean(image, fit, rows, columns, c);
    } else {
      const Tap row = tap(i, fit.scaled_height, fit.height);
      const Tap column = tap(j, fit.scaled_width, fit.width);
      for (int c = 0; c < image.channels; ++c) to[c] = enlarged(image, fit, row, column, c);
    }
  });
  return queue.error();
}

}  // namespace garment_transfer
