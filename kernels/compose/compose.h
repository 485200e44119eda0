// Compose's arithmetic, once, for every device; definition.py says what is computed and why.
//
// Which class a pixel has is decided by whole numbers, so that it is the same everywhere. Colours
// are float32, and within a grey level.

#pragma once

#include "../fit/fit.h"

namespace garment_transfer {

// The classes of bundle/labels.json, of which a transfer draws four.
enum : int { kBackground = 0, kSkin = 3, kGarment = 4, kLower = 5 };
constexpr int kDrawn = 4;
constexpr int kLabels[kDrawn] = {kBackground, kSkin, kGarment, kLower};

// Which of the drawn classes an id is, -1 for any other.
GT_FUNCTION int drawn_index(int label) {
  return label == kBackground ? 0 : label == kSkin ? 1 : label == kGarment ? 2 : label == kLower ? 3 : -1;
}

constexpr int kUnit = 16 * 255;            // what the scores of a pixel sum to
constexpr int kBlur[5] = {6, 58, 128, 58, 6};  // 256 times a Gaussian of 0.8 pixels
constexpr int kChangedReach = 2;
constexpr int kWhole = 256;                // of the share that another class has in a pixel
constexpr float kWeak = 0.25f, kStrong = 0.75f;
constexpr float kLeastShare = 1e-3f;
constexpr double kMinifying = 1.5;
constexpr float kFar = 1e5f;
constexpr int kPatchSides[2] = {32, 16};   // of a patch of grain, the better first
constexpr int kPatches = 9;                // that are compared
constexpr int kMostGrain = 12;             // levels

// Which of `count` differences a pixel gets: any, so that nothing of the patch is repeated.
GT_FUNCTION unsigned scattered(int y, int x, unsigned count) {
  unsigned mixed = static_cast<unsigned>(y) * 0x9E3779B1u + static_cast<unsigned>(x) * 0x85EBCA77u;
  mixed = (mixed ^ (mixed >> 15)) * 0x2C1B3C6Du;
  return (mixed ^ (mixed >> 13)) % count;
}

// The class of a pixel, the next best one, and its share in the pixel's colour, in 1 / kWhole.
struct Choice {
  unsigned char label, other, share;
};

GT_FUNCTION Choice choose(const int (&scores)[kDrawn], int sharpness) {
  int best = scores[0], second = -kUnit, label = 0, other = 0;
  for (int k = 1; k < kDrawn; ++k) {
    const bool leads = scores[k] > best, follows = scores[k] > second;
    second = leads ? best : (follows ? scores[k] : second);
    other = leads ? label : (follows ? k : other);
    best = leads ? scores[k] : best;
    label = leads ? k : label;
  }
  const int lead = best - second < 2 * kUnit ? best - second : 2 * kUnit;
  const int share = kWhole / 2 - ((lead * sharpness + (1 << 15)) >> 16);
  return {static_cast<unsigned char>(kLabels[label]), static_cast<unsigned char>(kLabels[other]),
          static_cast<unsigned char>(share > 0 ? share : 0)};
}

// How fast the share falls with the lead: by one over what a pixel of the photo is of the frame's.
inline int sharpness_of(const Fit& fit) {
  const bool wide = 1ll * fit.width * fit.scaled_height >= 1ll * fit.height * fit.scaled_width;
  const long long large = wide ? fit.width : fit.height;
  const long long small = wide ? fit.scaled_width : fit.scaled_height;
  const long long most = 63 * (kWhole << 16) / kUnit;  // beyond it, products do not fit an int
  const long long least = (kWhole << 16) / kUnit;
  const long long found = (kWhole << 16) * large / (kUnit * small);
  return static_cast<int>(found < least ? least : (found < most ? found : most));
}

// Pixels of the photo per pixel of the frame along the axis that has fewer, as a fraction.
struct Ratio {
  long long large, small;
};

inline Ratio least_ratio(const Fit& fit) {
  const bool wide = 1ll * fit.width * fit.scaled_height <= 1ll * fit.height * fit.scaled_width;
  return wide ? Ratio{fit.width, fit.scaled_width} : Ratio{fit.height, fit.scaled_height};
}

// `radius` pixels of the frame in pixels of the photo, halves rounded up, or all of it.
inline int in_photo(int radius, const Fit& fit) {
  const auto [large, small] = least_ratio(fit);
  const long long found = (2 * radius * large + small) / (2 * small);
  const int longest = fit.source_height > fit.source_width ? fit.source_height : fit.source_width;
  return found < longest ? static_cast<int>(found) : longest;
}

// How far the border of a label map may be off: `border_width` of bundle/_labels.py.
inline int border_width(int height) { return height < 256 ? 1 : height / 128; }

GT_FUNCTION float lerp(float first, float second, float part) {
  return first + (second - first) * part;
}

}  // namespace garment_transfer
