#include "record.h"

#include <set>

namespace garment_transfer::internal {

EngineRecord engine_record(const Field& field) {
  field.object({"schema_version", "backend", "backend_version", "compute_capabilities", "precision",
                "batch", "optimization_level", "plugin", "bundle", "built", "stages"});
  field["schema_version"].integer(2, 2);
  EngineRecord record;
  record.backend = field["backend"].matching("tensorrt|tensorrt-rtx");
  record.backend_version = field["backend_version"].matching(R"(\d+(\.\d+)+.*)");
  for (const Field& each : field["compute_capabilities"].items(1)) {
    record.compute_capabilities.push_back(each.matching(R"(\d+\.\d+)"));
  }
  const auto& gpus = record.compute_capabilities;
  if (std::set<std::string>(gpus.begin(), gpus.end()).size() < gpus.size()) {
    field["compute_capabilities"].refuse("compute capabilities that differ");
  }
  field["precision"].matching(kPrecisionForm);
  const Field batch = field["batch"];
  batch.object({}, {"min", "opt", "max"});
  const auto size = [&](const char* name, std::int64_t least, std::int64_t otherwise) {
    return batch.has(name) ? batch[name].integer(least) : otherwise;
  };
  record.least_batch = size("min", 1, 1);
  const std::int64_t tuned = size("opt", record.least_batch, 1);
  record.most_batch = size("max", tuned, 8);
  if (tuned < record.least_batch || record.most_batch < tuned) batch.refuse("min <= opt <= max");
  field["optimization_level"].integer(0, 5);
  if (const Field plugin = field["plugin"]; !plugin.is_null()) {
    plugin.object({"name", "version", "sha256", "embedded"});
    record.plugin = {plugin["name"].text(), plugin["version"].text(),
                     plugin["sha256"].matching(kSha256Form), plugin["embedded"].flag()};
  }
  field["bundle"].text();
  field["built"].matching(kTimeForm);
  const Field stages = field["stages"];
  stages.object({kStages[0], kStages[1], kStages[2]});
  for (std::size_t i = 0; i < kStages.size(); ++i) {
    const Field engine = stages[kStages[i]];
    engine.object({"file", "bytes", "sha256", "onnx_sha256", "inputs", "outputs", "build_seconds",
                   "device_memory_bytes"});
    record.stages[i] = {engine["file"].matching(kFileForm), engine["bytes"].integer(1),
                        engine["sha256"].matching(kSha256Form),
                        engine["onnx_sha256"].matching(kSha256Form), signature(engine)};
    engine["build_seconds"].number(0);
    const Field memory = engine["device_memory_bytes"];
    if (!memory.is_null()) memory.integer(0);
  }
  return record;
}

}  // namespace garment_transfer::internal
