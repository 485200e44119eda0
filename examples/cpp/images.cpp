#include "images.h"

#include <png.h>

#include <algorithm>
#include <cstring>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <optional>
#include <vector>

namespace example {
namespace {

enum class Format { kPng, kJpeg };

// What an image's header says.
struct Header {
  Format format;
  unsigned width, height;
  int bits;
  int colour;  // PNG's colour type, or JPEG's number of components
};

std::optional<Header> header_of(const std::string& bytes) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const auto two = [&](std::size_t i) { return unsigned{at(i)} << 8 | at(i + 1); };
  if (bytes.size() >= 33 && bytes.compare(0, 8, "\x89PNG\r\n\x1a\n") == 0 &&
      bytes.compare(12, 4, "IHDR") == 0) {
    return Header{Format::kPng, two(16) << 16 | two(18), two(20) << 16 | two(22), at(24), at(25)};
  }
  if (bytes.size() < 4 || bytes.compare(0, 3, "\xff\xd8\xff") != 0) return std::nullopt;
  // from segment to segment up to the frame's, SOF0 to SOF15
  for (std::size_t i = 2; i + 9 < bytes.size();) {
    if (at(i) != 0xFF) return std::nullopt;
    const unsigned marker = at(i + 1);
    if (marker == 0xFF) {
      ++i;  // fill
      continue;
    }
    if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) {
      return Header{Format::kJpeg, two(i + 7), two(i + 5), at(i + 4), at(i + 9)};
    }
    i += 2 + two(i + 2);
  }
  return std::nullopt;
}

Header checked_header(const std::string& bytes, const std::string& name, int max_side,
                      const char* formats) {
  const auto header = header_of(bytes);
  if (!header) {
    throw InputError("image_unreadable",
                     name + " cannot be read as an image (" + std::to_string(bytes.size()) +
                         " bytes); expected a whole " + formats + " file");
  }
  const auto most = static_cast<unsigned>(max_side);
  if (header->width < 1 || header->height < 1 || header->width > most || header->height > most) {
    throw InputError("image_size",
                     name + " is " + std::to_string(header->width) + "x" +
                         std::to_string(header->height) + " pixels; expected at most " +
                         std::to_string(max_side) +
                         " on either side; scale the photo and its maps down first");
  }
  return *header;
}

cv::Mat decoded(const std::string& bytes, const std::string& name, int flags) {
  cv::Mat image;
  try {
    image = cv::imdecode(cv::Mat(1, static_cast<int>(bytes.size()), CV_8U,
                                 const_cast<char*>(bytes.data())),
                         flags);
  } catch (const cv::Exception&) {
    image.release();
  }
  if (image.empty()) {
    throw InputError("image_unreadable",
                     name + " cannot be read as an image (" + std::to_string(bytes.size()) +
                         " bytes): it is broken; send the whole file");
  }
  cv::cvtColor(image, image, cv::COLOR_BGR2RGB);
  return image;
}

// libpng calls this in place of ending the process.
[[noreturn]] void png_failed(png_structp, png_const_charp message) {
  throw InputError("image_unreadable", message);
}
void png_warned(png_structp, png_const_charp) {}

struct Source {
  const std::string& bytes;
  std::size_t at = 0;
};

void png_read_bytes(png_structp png, png_bytep to, std::size_t count) {
  auto& source = *static_cast<Source*>(png_get_io_ptr(png));
  if (count > source.bytes.size() - source.at) png_error(png, "the file ends early");
  std::memcpy(to, source.bytes.data() + source.at, count);
  source.at += count;
}

}  // namespace

cv::Mat read_photo(const std::string& bytes, const std::string& name, int max_side) {
  const Header header = checked_header(bytes, name, max_side, "PNG or JPEG");
  const bool rgb = header.bits == 8 && (header.format == Format::kPng
                                            ? header.colour == PNG_COLOR_TYPE_RGB
                                            : header.colour == 3);
  if (!rgb) {
    throw InputError("image_mode", name + " is not RGB with 8 bits a channel and no transparency; "
                                          "save it as such");
  }
  return decoded(bytes, name, cv::IMREAD_COLOR);
}

cv::Mat read_rgb_map(const std::string& bytes, const std::string& name, int max_side) {
  const Header header = checked_header(bytes, name, max_side, "PNG");
  if (header.format != Format::kPng || header.bits != 8 || header.colour != PNG_COLOR_TYPE_RGB) {
    throw InputError("image_mode", name + " is not a PNG with RGB of 8 bits a channel; expected "
                                          "DensePose in encoding iuv-png (I, 255 U, 255 V)");
  }
  return decoded(bytes, name, cv::IMREAD_COLOR);
}

// OpenCV turns a palette's indices, which are the labels, into colours; libpng leaves them.
cv::Mat read_indices(const std::string& bytes, const std::string& name, int max_side) {
  const Header header = checked_header(bytes, name, max_side, "PNG");
  if (header.format != Format::kPng || header.bits > 8 ||
      (header.colour != PNG_COLOR_TYPE_GRAY && header.colour != PNG_COLOR_TYPE_PALETTE)) {
    throw InputError("image_mode",
                     name + " holds no label ids; expected a grey or palette PNG with at most 8 "
                            "bits a pixel whose stored values are the ids: take the map as the "
                            "parser wrote it, not a coloured copy");
  }
  cv::Mat labels(static_cast<int>(header.height), static_cast<int>(header.width), CV_8U);
  std::vector<png_bytep> rows;
  for (int y = 0; y < labels.rows; ++y) rows.push_back(labels.ptr(y));
  Source source{bytes};
  png_structp png =
      png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, png_failed, png_warned);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  if (!info) {
    png_destroy_read_struct(&png, nullptr, nullptr);
    throw std::bad_alloc();
  }
  try {
    png_set_read_fn(png, &source, png_read_bytes);
    png_read_info(png, info);
    png_set_packing(png);  // a byte a pixel, values as stored
    png_read_image(png, rows.data());
  } catch (const InputError& error) {
    png_destroy_read_struct(&png, &info, nullptr);
    throw InputError("image_unreadable", name + " cannot be read as an image (" + error.what() +
                                             "); send the whole file");
  }
  png_destroy_read_struct(&png, &info, nullptr);
  return labels;
}

std::string write_png(const cv::Mat& image) {
  cv::Mat bgr;
  cv::cvtColor(image, bgr, cv::COLOR_RGB2BGR);
  std::vector<unsigned char> bytes;
  // Level 1: a third larger than the default level, and several times faster.
  if (!cv::imencode(".png", bgr, bytes, {cv::IMWRITE_PNG_COMPRESSION, 1})) {
    throw std::runtime_error("OpenCV does not write PNG");
  }
  return {bytes.begin(), bytes.end()};
}

}  // namespace example
