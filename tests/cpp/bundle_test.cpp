// What the library keeps to itself: SHA-256, the contract, records of engines.

#include "bundle.h"

#include <gtest/gtest.h>

namespace garment_transfer::internal {
namespace {

std::string hash(const std::string& text) { return sha256({text.begin(), text.end()}); }

TEST(Sha256, Examples) {
  EXPECT_EQ(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Schema, LongTextMatchesNothing) {
  constexpr char kSchema[] = R"({"type": "string", "pattern": "^a*$"})";
  check_schema(Json(std::string(1000, 'a')), kSchema);
  EXPECT_THROW(check_schema(Json(std::string(10'000'000, 'a')), kSchema), InvalidJson);
}

TEST(Contract, Chains) {
  const auto signatures = contract({256, 192});
  EXPECT_EQ(text(signatures[1].outputs),
            "warped_garment uint8 [N, 256, 192, 3], flow float32 [N, 2, 256, 192], "
            "flow_confidence uint8 [N, 256, 192]");
  EXPECT_EQ(signatures[0].outputs[0], signatures[1].inputs[3]);
  EXPECT_EQ(signatures[1].outputs[0], signatures[2].inputs[4]);
}

Json record() {
  Json engine = Json::parse(R"({"file": "a.plan", "bytes": 3, "build_seconds": 1.5,
    "device_memory_bytes": null,
    "inputs": [{"name": "x", "dtype": "uint8", "shape": ["N", 64]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", 2]}]})");
  engine["sha256"] = engine["onnx_sha256"] = std::string(64, 'a');
  Json record = Json::parse(R"({"schema_version": 2, "backend": "tensorrt",
    "backend_version": "10.16.1.11", "compute_capabilities": ["8.9"], "precision": "float16",
    "batch": {"min": 1, "opt": 2, "max": 4}, "optimization_level": 3,
    "plugin": {"name": "FlowWarp", "version": "1", "embedded": true}, "bundle": "tiny",
    "built": "2026-01-02T03:04:05+00:00"})");
  record["plugin"]["sha256"] = std::string(64, 'b');
  for (const char* stage : kStages) record["stages"][stage] = engine;
  return record;
}

TEST(Record, GetsTheBatchSizesThatItLeavesOut) {
  Json json = record();
  json["batch"] = {{"opt", 2}};
  json["plugin"] = nullptr;
  EXPECT_EQ(checked_record(json)["batch"], Json({{"opt", 2}, {"min", 1}, {"max", 8}}));
}

TEST(Record, IsRefusedWithTheField) {
  const std::pair<const char*, const char*> bad[] = {{"/schema_version", "1"},
                                                     {"/backend", "\"abacus\""},
                                                     {"/backend_version", "\"10\""},
                                                     {"/compute_capabilities", "[]"},
                                                     {"/compute_capabilities", R"(["8.9", "8.9"])"},
                                                     {"/batch/opt", "5"},
                                                     {"/batch/min", "0"},
                                                     {"/optimization_level", "6"},
                                                     {"/plugin/embedded", "1"},
                                                     {"/built", "\"today\""},
                                                     {"/stages/warping/bytes", "3.0"},
                                                     {"/stages/parsing/file", "\"../a.plan\""},
                                                     {"/stages/regrowth/more", "1"}};
  for (const auto& [pointer, value] : bad) {
    const std::string name = pointer;
    Json json = record();
    json[Json::json_pointer(name)] = Json::parse(value);
    try {
      checked_record(json);
      ADD_FAILURE() << name;
    } catch (const InvalidJson& error) {
      const std::string field = name.substr(name.rfind('/') + 1);
      const bool of_batch = name.rfind("/batch", 0) == 0;
      EXPECT_NE(std::string(error.what()).find(of_batch ? "batch" : field), std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace garment_transfer::internal
