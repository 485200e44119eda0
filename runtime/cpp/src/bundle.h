// Bundles: a folder with manifest.json and one ONNX graph per stage, as runtime/bundle.py reads
// them; the messages are its.

#pragma once

#include <garment_transfer/garment_transfer.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "schema.h"

namespace garment_transfer {

// The stages in the order in which they run.
inline constexpr std::array<const char*, 3> kStages = {"parsing", "warping", "regrowth"};

struct Size {
  std::int64_t height = 0;
  std::int64_t width = 0;
};

// An input or output of a graph. The batch is free: kBatch in a shape.
inline constexpr std::int64_t kBatch = -1;

struct Tensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;

  bool operator==(const Tensor& other) const {
    return name == other.name && dtype == other.dtype && shape == other.shape;
  }
};

struct Signature {
  std::vector<Tensor> inputs;
  std::vector<Tensor> outputs;
};

// What each stage's graph takes and gives at an image size, in the order of kStages.
std::array<Signature, 3> contract(Size size);

// "image uint8 [N, 256, 192, 3], flow float32 [N, 2, 256, 192]"
std::string text(const std::vector<Tensor>& tensors);

struct Graph {
  std::string path;
  std::string sha256;
  Signature signature;
  // The file's content, which is what was verified.
  std::vector<char> content;
};

struct Bundle {
  std::string path;
  Size size;
  std::string precision;
  std::array<Graph, 3> graphs;
};

// Reads and verifies the bundle in a folder: schema, contract, sizes, hashes, in every precision.
// `precision` names the graphs that are wanted; empty: the main ones. Throws Error with
// GT_BUNDLE_ERROR when it is missing, not valid, of a newer schema, truncated or altered.
Bundle load_bundle(const std::string& folder, const std::string& precision = {});

// What the engines' records need of it too.
Json read_json(const std::string& path, gt_status status, const std::string& mend);
std::vector<Tensor> tensors(const Json& list);
std::int64_t integer(const Json& value);
// A whole file; Error with `status` where it cannot be read.
std::vector<char> read_file(const std::string& path, std::uintmax_t size, gt_status status);

}  // namespace garment_transfer
