// From two people to a picture at the first one's own size.

#pragma once

#include <garment_transfer/garment_transfer.hpp>
#include <opencv2/core.hpp>

#include "person.h"

namespace example {

// Puts the garment that `owner` wears on `person`: RGB 8UC3 at the person's size, by a session on
// `pipeline`; `threads` are what fits and composes photos. Warns on the standard error stream where
// one of them is small. Throws InputError when one is not seen upright and from the front, the owner
// wears no garment, or the result cannot be right; garment_transfer::Error when a graph fails.
cv::Mat transfer(const garment_transfer::Pipeline& pipeline, garment_transfer::Session& session,
                 const Person& person, const Person& owner, int threads);

}  // namespace example
