// Whose body a photo is about, and what in it stays whatever is worn: what
// runtime/photos/_bodies.py does in Python, which says why.

#pragma once

#include <opencv2/core.hpp>
#include <optional>
#include <set>
#include <string>

namespace garment_transfer::internal {

enum Class { kBackground, kHair, kFace, kSkin, kGarment, kLower, kLegs, kClasses };

// Maps are 8UC1 but for DensePose's `iuv`, 8UC3; `parts` is its first channel. Masks are 8UC1, 255
// where they hold, and 0.

// The DensePose of the one person whom a map shows, or of the one in `box`; `others` becomes where
// the others are. Throws Error; `name` is what messages call the map.
cv::Mat choose_body(const cv::Mat& iuv, const std::optional<cv::Rect>& box, const std::string& name,
                    cv::Mat& others);

// Where a parse map shows others than the person whom DensePose covers.
cv::Mat somebody_else(const cv::Mat& image, const cv::Mat& classes, const cv::Mat& parts,
                      const cv::Mat& others);

// Where things in front of a person are, those of `things` and holes in the clothes; the maps
// become what is beneath.
cv::Mat in_front(cv::Mat& classes, cv::Mat& iuv, const cv::Mat& things);

// Takes from the garment of a rough parse map what lies beside it, by its colour; that of things in
// front does not count.
void drop_not_worn(const cv::Mat& image, cv::Mat& classes, const cv::Mat& things);

// A photo at the bundle's size with the garment's own colours where things hide it; `classes` are
// those beneath the things.
cv::Mat uncovered(const cv::Mat& image, const cv::Mat& classes, const cv::Mat& things);

// Bare hands less their borders.
cv::Mat hands(const cv::Mat& classes, const cv::Mat& parts, bool is_exact);

// Why a body cannot be served as it is seen; empty where it can.
std::string view_fault(const cv::Mat& parts);

// A person's maps at the bundle's size.
struct FramedMaps {
  cv::Mat parsing, parts;
};

// Throws Error where the graphs' answer cannot be right, whatever people wear.
void check_plausible(const FramedMaps& person, const FramedMaps& owner,
                     const cv::Mat& transfer_parsing);

// At each pixel the value of the nearest one that is known; 8-bit channels.
cv::Mat of_nearest(const cv::Mat& values, const cv::Mat& known);

// A share as messages have it: "12%".
std::string percent(double share);

// Where a map has one of some ids.
cv::Mat is_any(const cv::Mat& map, const std::set<int>& of);

// The first channel of DensePose.
cv::Mat parts_of(const cv::Mat& densepose);

}  // namespace garment_transfer::internal
