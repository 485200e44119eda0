#include "images.h"

#include <jpeglib.h>
#include <png.h>

#include <algorithm>
#include <cstdio>  // before jpeglib.h, which needs it
#include <cstring>
#include <memory>
#include <regex>
#include <utility>

namespace example {
namespace {

// 8-bit values, channels side by side, rows close together; of a NumPy file floats, as it has them.
struct Image {
  int height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> values;
  // Of a palette's indices the colours, 256 of them.
  std::vector<std::uint8_t> palette;

  gt_picture picture(const std::string& name) const {
    return {values.data(), height, width, channels, 0, name.c_str()};
  }
};

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw InputError("image_unreadable", name + " cannot be read as an image (" + what +
                                           "); send the whole file, a PNG or JPEG");
}

void check_size(const std::string& name, unsigned long width, unsigned long height, double most) {
  const char* const scale = "; scale the photo and its maps down first";
  if (double(width) * double(height) > most * 1e6) {
    char megapixels[32];
    std::snprintf(megapixels, sizeof megapixels, "%g", most);
    throw InputError("too_large", name + " has more than " + megapixels + " megapixels" + scale);
  }
  if (width >= 1 && height >= 1 && width <= kMaxSide && height <= kMaxSide) return;
  throw InputError("image_size", name + " is " + std::to_string(width) + "x" +
                                     std::to_string(height) + " pixels; expected at most " +
                                     std::to_string(kMaxSide) + " on either side" + scale);
}

Image sized(unsigned width, unsigned height, int channels) {
  Image image{static_cast<int>(height), static_cast<int>(width), channels, {}, {}};
  image.values.resize(std::size_t{width} * height * static_cast<unsigned>(channels));
  return image;
}

// EXIF's orientation, 1 to 8, of a TIFF header and what follows it; 1 where there is none.
int orientation(const unsigned char* tiff, std::size_t size) {
  if (size < 14 || (tiff[0] != 'I' && tiff[0] != 'M')) return 1;
  const auto number = [&](std::size_t at, std::size_t bytes) {
    std::size_t value = 0;
    for (std::size_t i = 0; i < bytes && at + bytes <= size; ++i) {
      value |= std::size_t{tiff[at + i]} << 8 * (tiff[0] == 'I' ? i : bytes - 1 - i);
    }
    return value;
  };
  const std::size_t first = number(4, 4);
  for (std::size_t i = 0, count = number(first, 2); i < count; ++i) {
    const std::size_t entry = first + 2 + 12 * i, found = number(entry + 8, 2);
    if (number(entry, 2) == 0x0112) return found >= 1 && found <= 8 ? static_cast<int>(found) : 1;
  }
  return 1;
}

Image upright(Image image, int turn) {
  if (turn == 1) return image;
  const bool swaps = turn > 4, right = turn == 2 || turn == 3 || turn == 7 || turn == 8,
             bottom = turn == 3 || turn == 4 || turn == 6 || turn == 7;
  Image out = image;
  if (swaps) std::swap(out.height, out.width);
  auto* to = out.values.data();
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x, to += 3) {
      int row = swaps ? x : y, column = swaps ? y : x;
      if (bottom) row = image.height - 1 - row;
      if (right) column = image.width - 1 - column;
      std::memcpy(
          to, &image.values[3 * (std::size_t(row) * unsigned(image.width) + unsigned(column))], 3);
    }
  }
  return out;
}

// Both libraries call these in place of ending the process; exceptions pass through them.
[[noreturn]] void jpeg_failed(j_common_ptr jpeg) {
  char message[JMSG_LENGTH_MAX];
  jpeg->err->format_message(jpeg, message);
  throw std::runtime_error(message);
}
void on_jpeg_message(j_common_ptr jpeg, int level) {
  if (level < 0) jpeg_failed(jpeg);  // a warning: the data is damaged
}
[[noreturn]] void png_failed(png_structp, png_const_charp message) {
  throw std::runtime_error(message);
}
void png_warned(png_structp, png_const_charp) {}

Image decoded_jpeg(const std::string& bytes, const std::string& name, double most) {
  jpeg_error_mgr errors;
  jpeg_decompress_struct jpeg;
  jpeg.err = jpeg_std_error(&errors);
  errors.error_exit = jpeg_failed;
  errors.emit_message = on_jpeg_message;
  jpeg_create_decompress(&jpeg);
  const std::unique_ptr<jpeg_decompress_struct, void (*)(j_decompress_ptr)> owner(
      &jpeg, jpeg_destroy_decompress);
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  jpeg_mem_src(&jpeg, data, static_cast<unsigned long>(bytes.size()));
  jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&jpeg, TRUE);
  check_size(name, jpeg.image_width, jpeg.image_height, most);
  if (jpeg.num_components != 1 && jpeg.num_components != 3) {
    throw InputError("image_mode", name + " is CMYK; expected grey levels or RGB; save it as RGB");
  }
  int turn = 1;
  for (jpeg_saved_marker_ptr marker = jpeg.marker_list; marker; marker = marker->next) {
    if (marker->data_length > 6 && !std::memcmp(marker->data, "Exif\0", 6)) {
      turn = orientation(marker->data + 6, marker->data_length - 6);
    }
  }
  jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&jpeg);
  Image image = sized(jpeg.output_width, jpeg.output_height, 3);
  while (jpeg.output_scanline < jpeg.output_height) {
    JSAMPROW row = &image.values[std::size_t{3} * jpeg.output_width * jpeg.output_scanline];
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_decompress(&jpeg);
  return upright(std::move(image), turn);
}

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

struct Png {
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, png_failed, png_warned);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  ~Png() { png_destroy_read_struct(&png, &info, nullptr); }
};

Image decoded_png(const std::string& bytes, const std::string& name, double most, bool as_photo) {
  Source source{bytes};
  Png owner;
  if (!owner.info) throw std::bad_alloc();
  const png_structp png = owner.png;
  png_set_read_fn(png, &source, png_read_bytes);
  png_set_user_limits(png, 0x7FFFFFFF, 0x7FFFFFFF);  // check_size has its own words
  png_read_info(png, owner.info);
  const unsigned width = png_get_image_width(png, owner.info);
  const unsigned height = png_get_image_height(png, owner.info);
  check_size(name, width, height, most);
  const int colour = png_get_color_type(png, owner.info);
  const bool grey = colour == PNG_COLOR_TYPE_GRAY, rgb = colour == PNG_COLOR_TYPE_RGB;
  const bool wide = png_get_bit_depth(png, owner.info) == 16;
  const bool transparent =
      colour & PNG_COLOR_MASK_ALPHA || png_get_valid(png, owner.info, PNG_INFO_tRNS);
  if (transparent && (as_photo || colour != PNG_COLOR_TYPE_PALETTE)) {
    throw InputError("image_mode",
                     name + " is transparent; expected an opaque picture; save it so");
  }
  if (as_photo) {
    if (!rgb) png_set_expand(png);
    // as Pillow does: colours lose their lower byte, grey levels are rounded
    if (rgb)
      png_set_strip_16(png);
    else
      png_set_scale_16(png);
    if (grey) png_set_gray_to_rgb(png);
  } else if (rgb) {
    png_set_strip_16(png);
  } else {
    png_set_packing(png);  // a byte a pixel, values as stored
  }
  png_set_interlace_handling(png);
  png_read_update_info(png, owner.info);
  const auto channels = png_get_channels(png, owner.info);
  const bool wide_ids = wide && grey && !as_photo;
  Image image = sized(width, height, channels * (wide_ids ? 2 : 1));
  std::vector<png_bytep> rows;
  const std::size_t row = image.values.size() / height;
  for (std::size_t y = 0; y < height; ++y) rows.push_back(&image.values[y * row]);
  png_read_image(png, rows.data());
  png_read_end(png, owner.info);
  if (wide_ids) {  // ids of two bytes, the higher first
    image.channels = 1;
    for (std::size_t i = 0; i < image.values.size() / 2; ++i) {
      if (image.values[2 * i]) {
        throw InputError("image_mode", name + " has 16-bit values above 255; expected label ids");
      }
      image.values[i] = image.values[2 * i + 1];
    }
    image.values.resize(image.values.size() / 2);
  }
  png_colorp colours = nullptr;
  // pictures in true colour may suggest one too, which is not theirs
  const bool indexed = !as_photo && colour == PNG_COLOR_TYPE_PALETTE;
  if (int count = 0; indexed && png_get_PLTE(png, owner.info, &colours, &count)) {
    image.palette.resize(3 * 256);
    for (int i = 0; i < count; ++i) {
      const png_color one = colours[i];
      std::uint8_t* to = &image.palette[3 * std::size_t(i)];
      to[0] = one.red, to[1] = one.green, to[2] = one.blue;
    }
  }
  png_bytep exif = nullptr;
  png_uint_32 size = 0;
  if (!as_photo || !png_get_eXIf_1(png, owner.info, &size, &exif)) return image;
  return upright(std::move(image), orientation(exif, size));
}

Image decoded(const File& file, double most, bool as_photo) {
  const auto& [name, bytes] = file;
  try {
    if (!bytes.compare(0, 8, "\x89PNG\r\n\x1a\n")) return decoded_png(bytes, name, most, as_photo);
    if (as_photo && !bytes.compare(0, 3, "\xff\xd8\xff")) return decoded_jpeg(bytes, name, most);
  } catch (const InputError&) {
    throw;
  } catch (const std::runtime_error& error) {
    refuse(name, error.what());
  }
  refuse(name, std::to_string(bytes.size()) + " bytes");
}

// A NumPy file of float32 [3,H,W].
Image decoded_npy(const File& file, double most) {
  static const std::regex some("\\{'descr': .*'shape': .*\\}\\s*"),
      floats(
          "\\{'descr': '<f4', 'fortran_order': False, 'shape': \\(3, (\\d{1,9}), (\\d{1,9})\\), "
          "\\}\\s*");
  const auto refuse_array = [&](const char* code, const std::string& why) {
    throw InputError(code, file.name + " cannot be read as a NumPy array (" + why +
                               "); expected float32 [3,H,W]; write it again with numpy.save");
  };
  const std::string& bytes = file.bytes;
  // version 1 has two bytes for the length of its header, later ones four
  const std::size_t start = bytes.size() > 12 && bytes[6] > 1 ? 12 : 10;
  std::size_t length = 0;
  for (std::size_t i = start; i-- > 8 && start < bytes.size();) {
    length = length << 8 | static_cast<unsigned char>(bytes[i]);
  }
  std::smatch found;
  const std::string header =
      length > 4096 ? "" : bytes.substr(std::min(start, bytes.size()), length);
  if (header.size() != length || bytes.compare(0, 6, "\x93NUMPY") ||
      !std::regex_match(header, some)) {
    refuse_array("image_unreadable", "it has no header of one");
  }
  if (!std::regex_match(header, found, floats)) refuse_array("array_invalid", header);
  const unsigned long height = std::stoul(found[1]), width = std::stoul(found[2]);
  check_size(file.name, width, height, most);
  Image image{int(height), int(width), 3, {}, {}};
  image.values.assign(bytes.begin() + std::ptrdiff_t(start + length), bytes.end());
  if (image.values.size() != 12 * height * width) {
    refuse_array("image_unreadable", "it ends early or late");
  }
  return image;
}

// The colours that a palette's indices stand for; nothing where there are none but grey levels.
Image coloured(const Image& indices) {
  Image image = sized(unsigned(indices.width), unsigned(indices.height), 3);
  bool grey = true;
  for (std::size_t i = 0; i < indices.values.size(); ++i) {
    const std::uint8_t* colour = &indices.palette[3 * std::size_t{indices.values[i]}];
    std::memcpy(&image.values[3 * i], colour, 3);
    grey = grey && colour[0] == colour[1] && colour[1] == colour[2];
  }
  return grey ? Image{} : image;
}

}  // namespace

garment_transfer::Person read_person(const Files& files, const garment_transfer::Pipeline& pipeline,
                                     double most) {
  garment_transfer::PersonSource source;
  source.name = files.name;
  source.box = files.box;
  const Image image = decoded(files.image, most, true);
  source.photo = image.picture(files.image.name);
  if (files.parsing.bytes.empty() && files.densepose.bytes.empty() && files.label_set.empty()) {
    return garment_transfer::Person(source, &pipeline);
  }
  source.label_set = files.label_set;
  source.densepose_encoding = files.densepose_encoding;
  Image densepose = files.densepose_encoding == "iuv" ? decoded_npy(files.densepose, most)
                                                      : decoded(files.densepose, most, false);
  if (!densepose.palette.empty()) densepose = coloured(densepose);
  if (densepose.channels != 3) {
    throw InputError("image_mode", files.densepose.name +
                                       " is grey; expected DensePose as it was written, in RGB");
  }
  source.densepose = densepose.picture(files.densepose.name);
  const Image parsing = decoded(files.parsing, most, false);
  // Programs that shrink PNG files leave a palette of a label set's colours in another order.
  if (const Image colours = parsing.palette.empty() ? Image{} : coloured(parsing); colours.height) {
    source.parsing = colours.picture(files.parsing.name);
    try {
      return garment_transfer::Person(source, &pipeline);
    } catch (const garment_transfer::Error& error) {
      if (error.status() != GT_IMAGE_MODE) throw;
    }
  }
  source.parsing = parsing.picture(files.parsing.name);
  return garment_transfer::Person(source, &pipeline);
}

std::string write_png(int height, int width, const std::uint8_t* rgb) {
  std::string bytes;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, png_failed, png_warned);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  if (!info) throw std::bad_alloc();
  const auto append = [](png_structp to, png_bytep data, std::size_t count) {
    static_cast<std::string*>(png_get_io_ptr(to))->append(reinterpret_cast<char*>(data), count);
  };
  png_set_write_fn(png, &bytes, append, nullptr);
  png_set_IHDR(png, info, static_cast<unsigned>(width), static_cast<unsigned>(height), 8,
               PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  png_set_sRGB(png, info, PNG_sRGB_INTENT_PERCEPTUAL);
  png_set_compression_level(png, 1);  // a third larger, and several times faster
  png_write_info(png, info);
  for (int y = 0; y < height; ++y)
    png_write_row(png, rgb + std::size_t{3} * unsigned(width) * unsigned(y));
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return bytes;
}

}  // namespace example
