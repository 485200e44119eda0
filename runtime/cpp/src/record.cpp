#include "record.h"

#include <set>

#include "bundle_json.h"

namespace garment_transfer::internal {

EngineRecord engine_record(const Json& json) {
  check_schema(json, kRecordSchema);
  check_stages(json["stages"], "stages");
  EngineRecord record;
  record.backend = json["backend"];
  record.backend_version = json["backend_version"];
  const Json& gpus = json["compute_capabilities"];
  record.compute_capabilities = gpus.get<std::vector<std::string>>();
  if (gpus.get<std::set<std::string>>().size() < gpus.size()) {
    refuse("compute_capabilities", gpus, "compute capabilities that differ");
  }
  const Json& batch = json["batch"];
  record.least_batch = batch.value("min", 1);
  record.most_batch = batch.value("max", 8);
  const std::int64_t tuned = batch.value("opt", 1);
  if (tuned < record.least_batch || record.most_batch < tuned) {
    refuse("batch", batch, "min <= opt <= max");
  }
  if (const Json& plugin = json["plugin"]; !plugin.is_null()) {
    record.plugin = {plugin["name"], plugin["version"], plugin["sha256"], plugin["embedded"]};
  }
  for (std::size_t i = 0; i < kStages.size(); ++i) {
    const Json& engine = json["stages"][kStages[i]];
    record.stages[i] = {engine["file"], engine["bytes"], engine["sha256"], engine["onnx_sha256"],
                        signature(engine)};
  }
  return record;
}

}  // namespace garment_transfer::internal
