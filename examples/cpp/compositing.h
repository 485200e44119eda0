// Bringing the graphs' result back to the person's own photo: what runtime/photos/_compose.py does
// in Python, which says why.

#pragma once

#include <opencv2/core.hpp>

#include "fitting.h"
#include "person.h"

namespace example {

// What the graphs give for one pair, at the bundle's size.
struct Framed {
  cv::Mat image;             // RGB 8UC3
  cv::Mat transfer_parsing;  // 8UC1
  cv::Mat warped_garment;    // RGB 8UC3
  cv::Mat flow_x, flow_y;    // 32FC1, pixels
};

// The picture at the person's own size, RGB 8UC3. A photo of exactly the bundle's size gets the
// graphs' as it is; outside the person's box, and where the person is protected, it stays.
cv::Mat compose(const Person& person, const Person& owner, const Fit& person_fit,
                const Fit& owner_fit, const Framed& framed);

}  // namespace example
