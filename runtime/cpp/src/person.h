// A person: photo, parsing and DensePose of one size, checked as runtime/photos/_person.py does.

#pragma once

#include <garment_transfer/garment_transfer.h>

#include <array>
#include <opencv2/core.hpp>
#include <optional>
#include <string>

#include "backend.h"
#include "bodies.h"
#include "bundle.h"

namespace garment_transfer::internal {

// Photos and maps may be this many pixels high or wide, as in Python.
constexpr int kMaxSide = 8192;

struct Person {
  cv::Mat image;      // RGB 8UC3
  cv::Mat parsing;    // 8UC1, the seven classes
  cv::Mat densepose;  // 8UC3: part 0..24, U and V scaled to 0..255
  cv::Mat parts;      // its first channel
  // 8UC1, 255 for pixels that stay as they are: other people, things in front, hands.
  cv::Mat is_protected;
  std::string name;  // what messages call the person
  // How sure the maps are of each class; -1 where they were given, or show none of it.
  std::array<float, kClasses> confidence{};
};

// From a photo with maps of any size, whose struct_size was checked. Throws Error.
Person person_of_maps(const gt_person_source& source);

// From a bare photo, by the graph `maps` of a bundle with this size and framing. Throws Error.
Person person_of_photo(const gt_person_source& source, const MakeMaps& make_maps, Size size,
                       const Framing& framing);

// Throws Error unless the person stands upright and is seen from the front; `role` is what the
// message calls the person, beside the name.
void check_view(const Person& person, const std::string& role);

// Throws Error unless the person wears an upper garment that can be given away.
void check_garment(const Person& person, const std::string& role);

// Tells the application, by gt_set_log, what is no error.
void warn(const std::string& message);

}  // namespace garment_transfer::internal
