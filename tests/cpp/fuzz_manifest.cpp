// Any bytes as a manifest: loading gives a bundle or the documented error, and nothing else.

#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include "bundle.h"
#include "error.h"

namespace {

// A folder in memory whose graphs are one byte each.
class Folder {
 public:
  Folder() {
    char name[] = "/dev/shm/fuzz_manifest.XXXXXX";
    if (!mkdtemp(name)) std::abort();
    path = name;
    for (const char* stage : {"parsing", "warping", "regrowth"}) {
      std::ofstream(path + "/" + stage + ".onnx") << "x";
    }
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  std::ofstream(folder.path + "/manifest.json", std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  try {
    garment_transfer::load_bundle(folder.path);
  } catch (const garment_transfer::Error& error) {
    if (error.status() != GT_BUNDLE_ERROR || !*error.what()) std::abort();
  }
  return 0;
}
