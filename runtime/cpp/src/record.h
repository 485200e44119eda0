// record.json of a bundle's TensorRT engines, as docs/bundle.md specifies it.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bundle.h"

namespace garment_transfer::internal {

struct EngineRecord {
  struct Plugin {
    std::string name, version, sha256;
    bool embedded = false;
  };
  struct Engine {
    std::string file;
    std::int64_t bytes = 0;
    std::string sha256, onnx_sha256;
    Signature signature;
  };
  std::string backend, backend_version;
  std::vector<std::string> compute_capabilities;
  std::int64_t least_batch = 0, most_batch = 0;
  std::optional<Plugin> plugin;
  std::array<Engine, 3> stages;  // in the order of kStages
};

// Throws InvalidJson.
EngineRecord engine_record(const Json& json);

}  // namespace garment_transfer::internal
