// People from the bytes of their files, and pictures back to PNG.

#pragma once

#include <cstdint>
#include <garment_transfer/garment_transfer.hpp>
#include <limits>
#include <optional>
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

// The bytes of a file, and what messages call it.
struct File {
  std::string name, bytes;
};

// What a person is made of: a photo alone, or with its maps, whose label set and encoding are then
// named.
struct Files {
  File image, parsing, densepose;
  std::string label_set, densepose_encoding;
  std::string name;
  std::optional<gt_box> box;
};

// Pixels that an image may have on a side; sizes are read before anything is decoded.
constexpr int kMaxSide = 8192;

// The person of some files; `pipeline` makes maps that are missing. Photos are PNG or JPEG, and
// turned upright by their EXIF; their numbers are taken for sRGB, whatever colour profile they have
// (the Python package converts). Parse maps are PNG; DensePose is PNG, or a NumPy file of float32
// [3,H,W] with encoding "iuv". More than `max_megapixels` in a file is an InputError "too_large".
garment_transfer::Person read_person(
    const Files& files, const garment_transfer::Pipeline& pipeline,
    double max_megapixels = std::numeric_limits<double>::infinity());

// An RGB picture as the bytes of a PNG.
std::string write_png(int height, int width, const std::uint8_t* rgb);

}  // namespace example
