// The cases that conftest.py writes: what Python was given and what it made of it.

#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <garment_transfer/garment_transfer.hpp>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

inline std::string variable(const char* name) {
  const char* value = std::getenv(name);
  if (!value) throw std::runtime_error(std::string(name) + " is not set: run pytest tests/cpp");
  return value;
}

// As Python ran. Sanitized builds round FlowWarp otherwise, and are given Python's own kernel.
inline garment_transfer::Options one_thread() {
  garment_transfer::Options options;
  options.threads = 1;
  if (const char* kernel = std::getenv("GARMENT_TRANSFER_KERNEL")) {
    options.flow_warp_library = kernel;
  }
  return options;
}

inline std::vector<std::uint8_t> bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("no file " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Case {
  std::string name;
  std::int32_t batch = 1;
  // in gt_transfer's order
  std::vector<std::vector<std::uint8_t>> inputs, outputs;

  garment_transfer::Inputs given(garment_transfer::Size size) const {
    const auto pixels = [&](std::size_t i) {
      return garment_transfer::Pixels(inputs[i].data(), size.height, size.width);
    };
    return {batch, pixels(0), pixels(1), pixels(2), pixels(3), pixels(4), pixels(5)};
  }
};

inline Case read_case(const std::filesystem::path& folder, garment_transfer::Size size) {
  Case one;
  one.name = folder.filename().string();
  for (const char* name : {"person_image", "person_parsing", "person_densepose", "garment_image",
                           "garment_parsing", "garment_densepose"}) {
    one.inputs.push_back(bytes_of(folder / name));
  }
  for (const char* name : {"image", "transfer_parsing", "warped_garment", "flow", "transfer_scores",
                           "flow_confidence"}) {
    one.outputs.push_back(bytes_of(folder / name));
  }
  const auto pixels = static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width);
  one.batch = static_cast<std::int32_t>(one.inputs[1].size() / pixels);
  return one;
}

inline std::vector<Case> golden_cases(garment_transfer::Size size) {
  std::vector<Case> cases;
  const std::filesystem::path folder = variable("GARMENT_TRANSFER_GOLDEN");
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    cases.push_back(read_case(entry.path(), size));
  }
  std::sort(cases.begin(), cases.end(),
            [](const Case& a, const Case& b) { return a.name < b.name; });
  return cases;
}

// The name of the first output that differs from Python's; empty where all are equal.
inline std::string differing(const Case& expected, const garment_transfer::Result& result) {
  const auto* flow = reinterpret_cast<const std::uint8_t*>(result.flow.data());
  const std::vector<std::uint8_t> flow_bytes(flow, flow + sizeof(float) * result.flow.size());
  if (result.image != expected.outputs[0]) return "image";
  if (result.transfer_parsing != expected.outputs[1]) return "transfer_parsing";
  if (result.warped_garment != expected.outputs[2]) return "warped_garment";
  if (flow_bytes != expected.outputs[3]) return "flow";
  if (result.transfer_scores != expected.outputs[4]) return "transfer_scores";
  if (result.flow_confidence != expected.outputs[5]) return "flow_confidence";
  return "";
}
