// A person: photo, parsing and DensePose of one size, checked as the Python package does.

#pragma once

#include <opencv2/core.hpp>
#include <optional>
#include <string>

#include "bodies.h"
#include "images.h"

namespace example {

// Photos and maps may be this many pixels high or wide, as in Python.
constexpr int kMaxSide = 8192;

struct Person {
  cv::Mat image;      // RGB 8UC3
  cv::Mat parsing;    // 8UC1, the seven classes
  cv::Mat densepose;  // 8UC3: part 0..24, U and V scaled to 0..255
  // 8UC1, 255 for pixels that stay as they are: other people, things in front, hands.
  cv::Mat is_protected;
  std::string name;  // what messages call the person
};

// The bytes of a person's files, what messages call each, and the label set of the parse map.
struct PersonFiles {
  struct File {
    std::string name, bytes;
  };
  File photo, parse, densepose;
  std::string label_set;
  std::string name;
  // Of the person who is meant, roughly, where DensePose shows several.
  std::optional<cv::Rect> box;
};

// Throws InputError for what cannot be used.
Person read_person(const PersonFiles& files, int max_side = kMaxSide);

// Throws InputError unless DensePose is encoded as the examples read it: iuv-png.
void check_encoding(const std::string& encoding, const std::string& where);

// A person's folder: image.png or .jpg, parse.png, densepose.png and meta.json, which names the
// label set and the encoding.
PersonFiles read_folder(const std::string& folder);

// Throws InputError unless the person stands upright and is seen from the front; `role` is what the
// message calls the person, beside the name.
void check_view(const Person& person, const std::string& role);

// Throws InputError unless the person wears an upper garment that can be given away.
void check_garment(const Person& person, const std::string& role);

}  // namespace example
