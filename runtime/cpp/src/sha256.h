#pragma once

#include <cstddef>
#include <string>

namespace garment_transfer {

// The SHA-256 (FIPS 180-4) of `size` bytes, in hexadecimal. Our own, because a cryptographic
// library in a process that may hold another version of it costs more than these few lines.
std::string sha256(const void* data, std::size_t size);

}  // namespace garment_transfer
