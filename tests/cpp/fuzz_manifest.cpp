// Any bytes as a manifest: loading gives a bundle or one of the bundle's statuses, nothing else.
//
//   cmake -S runtime/cpp -B build/fuzz -DCMAKE_CXX_COMPILER=clang++ -DGARMENT_TRANSFER_TESTS=ON ...
//   cmake --build build/fuzz -t fuzz_manifest && build/fuzz/tests/fuzz_manifest -runs=1000000

#include <stdlib.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "bundle.h"
#include "error.h"

namespace {

// A folder in memory whose graphs are one byte each.
std::string folder() {
  char name[] = "/dev/shm/fuzz_manifest.XXXXXX";
  if (!mkdtemp(name)) std::abort();
  for (const char* stage : {"parsing", "warping", "regrowth"}) {
    std::ofstream(std::string(name) + "/" + stage + ".onnx") << "x";
  }
  return name;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string path = folder();
  std::ofstream(path + "/manifest.json", std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  try {
    garment_transfer::internal::load_bundle(path);
  } catch (const garment_transfer::internal::Error& error) {
    if (error.status() < 200 || error.status() > 299 || !*error.what()) std::abort();
  }
  return 0;
}
