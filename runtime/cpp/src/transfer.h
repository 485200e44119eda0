// From two people to a picture at the first one's own size: runtime/_pipeline.py in C++.

#pragma once

#include "person.h"

namespace garment_transfer::internal {

// Where results go, close together at the person's own size; null for what is not wanted.
struct Finished {
  unsigned char* image = nullptr;
  unsigned char* parsing = nullptr;
  unsigned char* garment = nullptr;
};

// Puts the garment that `owner` wears on `person`, on a bundle of this size and framing; `threads`
// are what fits and composes photos. Warns where one of them is small. Throws Error.
void transfer(Worker& worker, Size size, const Framing& framing, const Person& person,
              const Person& owner, int threads, const Finished& out);

}  // namespace garment_transfer::internal
