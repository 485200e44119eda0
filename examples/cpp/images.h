// Photos and label maps from the bytes of files, and pictures back to PNG.

#pragma once

#include <opencv2/core.hpp>
#include <stdexcept>
#include <string>

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

// `name` is what messages call the image, and `max_side` the most pixels it may have on a side;
// sizes are read before anything is decoded. All throw InputError.

// A photo, RGB 8UC3, of a PNG or JPEG in RGB, turned upright by its EXIF orientation. Its numbers
// are taken for sRGB, whatever colour profile it has; the Python package converts.
cv::Mat read_photo(const std::string& bytes, const std::string& name, int max_side);
// The stored values of a PNG, RGB 8UC3.
cv::Mat read_rgb_map(const std::string& bytes, const std::string& name, int max_side);
// The stored grey levels or palette indices of a PNG, 8UC1.
cv::Mat read_indices(const std::string& bytes, const std::string& name, int max_side);

// An RGB picture as the bytes of a PNG.
std::string write_png(const cv::Mat& image);

}  // namespace example
