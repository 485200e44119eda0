// Bundles: a folder with manifest.json and one ONNX graph per stage, as docs/bundle.md specifies.

#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "fields.h"

namespace garment_transfer::internal {

// The stages in the order in which they run.
inline constexpr std::array<const char*, 3> kStages = {"parsing", "warping", "regrowth"};

struct Size {
  std::int64_t height = 0;
  std::int64_t width = 0;

  std::string text() const { return std::to_string(height) + "x" + std::to_string(width); }
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

// What each stage's graph takes and gives at an image size, in the order of kStages, and behind
// them the graph that makes the maps of bare photos.
std::array<Signature, 4> contract(Size size);

// "image uint8 [N, 256, 192, 3], flow float32 [N, 2, 256, 192]"
std::string text(const std::vector<Tensor>& tensors);

struct Graph {
  std::size_t stage = 0;
  std::string path;
  std::int64_t bytes = 0;
  std::string sha256;
  Signature signature;
  // The file's content, which is what was verified.
  std::vector<char> content;
};

// Which part of a photo the graphs see: Framing of bundle/_contract.py.
struct Framing {
  std::uint32_t parts = 0;  // bit i for DensePose part i
  double legs = 0;
  double margin = 0;
};

struct Bundle {
  std::string path;
  Size size;
  Framing framing;
  std::string precision;
  std::array<Graph, 3> graphs;
  std::vector<Graph>
      maps;  // the graph that makes the maps of bare photos, or none; without content
};

// The content of a graph's file, which is the manifest's. Throws Error.
std::vector<char> read_verified(const Graph& graph);

// Reads and verifies the bundle in a folder: manifest, contract, sizes, hashes, in every precision.
// `precision` names the graphs that are wanted; empty: the main ones. Throws Error with a status of
// the family of bundles.
Bundle load_bundle(const std::string& folder, const std::string& precision = {});

// The inputs and outputs of a graph or an engine, whose JSON was checked.
Signature signature(const Json& json);

// record.json of a bundle's TensorRT engines, as docs/bundle.md specifies it, with the batch sizes
// that it leaves out. Throws InvalidJson.
Json checked_record(Json record);

}  // namespace garment_transfer::internal
