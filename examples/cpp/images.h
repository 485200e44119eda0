// Photos and label maps from the bytes of files, and pictures back to PNG.

#pragma once

#include <garment_transfer/garment_transfer.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

// What a user gave that cannot be used; the message says what was expected. Codes are those of the
// Python package.
class InputError : public std::runtime_error {
 public:
  InputError(const char* code, const std::string& message)
      : std::runtime_error(message), code_(code) {}

  const char* code() const noexcept { return code_; }

 private:
  const char* code_;
};

// 8-bit values, channels side by side, rows close together.
struct Image {
  int height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> values;

  gt_picture picture(const char* name) const {
    return {values.data(), height, width, channels, 0, name};
  }
};

// Pixels that an image may have on a side; sizes are read before anything is decoded.
constexpr int kMaxSide = 8192;

// `name` is what messages call the image. Both throw InputError.

// A PNG or JPEG as RGB, upright by its EXIF orientation. Its numbers are taken for sRGB, whatever
// colour profile it has; the Python package converts.
Image read_photo(const std::string& bytes, const std::string& name, int max_side = kMaxSide);
// The stored values of a PNG: RGB, or grey levels and palette indices in 1 channel.
Image read_map(const std::string& bytes, const std::string& name, int max_side = kMaxSide);

// An RGB picture as the bytes of a PNG.
std::string write_png(int height, int width, const std::uint8_t* rgb);

}  // namespace example
