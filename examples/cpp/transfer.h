// From two people to a picture at the first one's own size.

#pragma once

#include <garment_transfer/garment_transfer.hpp>
#include <opencv2/core.hpp>

#include "person.h"

namespace example {

// Puts the garment that `owner` wears on `person`: RGB 8UC3 at the person's size. `threads` are what
// fits and composes photos. Throws InputError when the owner wears none, garment_transfer::Error
// when a graph fails.
cv::Mat transfer(garment_transfer::Session& session, garment_transfer::Size size,
                 const Person& person, const Person& owner, int threads);

}  // namespace example
