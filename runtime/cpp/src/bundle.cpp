#include "bundle.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <set>
#include <system_error>
#include <utility>

#include "bundle_json.h"
#include "error.h"

namespace garment_transfer::internal {
namespace {

namespace fs = std::filesystem;

constexpr char kManifest[] = "manifest.json";
constexpr int kSchemaVersion = 4;
constexpr char kFix[] =
    "copy the bundle again from where it came, or write it anew with "
    "`garment-transfer export CHECKPOINT -o BUNDLE`";

// The graphs of one precision, in the manifest's order.
struct Graphs {
  std::string precision;
  std::vector<Graph> graphs;
};

struct Manifest {
  std::string name;
  Size size;
  Framing framing;
  std::vector<Graphs> precisions;  // the main one first
  std::vector<Graph> maps;         // one or none
};

// In ONNX's protobuf, the entry of a tensor that says in which file its data are.
constexpr char kExternal[] = {'\x0a', '\x08', 'l', 'o', 'c', 'a', 't', 'i', 'o', 'n', '\x12'};

// The graph that makes the maps of bare photos; stages come before it.
constexpr std::size_t kMaps = kStages.size();

std::vector<Tensor> tensors(const Json& list) {
  std::vector<Tensor> result;
  for (const Json& each : list) {
    Tensor tensor{each["name"], each["dtype"], {}};
    for (const Json& side : each["shape"]) {
      tensor.shape.push_back(side.is_string() ? kBatch : side.get<std::int64_t>());
    }
    result.push_back(std::move(tensor));
  }
  return result;
}

Graph graph(const Json& json, std::size_t stage, const std::string& folder) {
  return {stage,           folder + "/" + json["file"].get<std::string>(),
          json["bytes"],   json["sha256"],
          signature(json), {}};
}

Graphs graphs(const Json& json, const std::string& precision, const std::string& folder) {
  Graphs result{precision, {}};
  for (const auto& [stage, of_stage] : json.items()) {
    const auto at = std::find(kStages.begin(), kStages.end(), stage) - kStages.begin();
    result.graphs.push_back(graph(of_stage, static_cast<std::size_t>(at), folder));
  }
  return result;
}

// Every name of an object has to be a stage's, which no schema says.
void check_stages(const Json& json, const std::string& where) {
  for (const auto& [name, value] : json.items()) {
    if (std::find(kStages.begin(), kStages.end(), name) == kStages.end()) {
      refuse(where + "." + name, value, "the stages parsing, warping and regrowth alone");
    }
  }
}

// What else the schema does not say.
void check_names(const Json& json) {
  static const Json classes = Json::parse(kLabels)["classes"];
  if (json["classes"] != classes) refuse("classes", json["classes"], classes.dump());
  check_stages(json["graphs"], "graphs");
  check_stages(json["parity"], "parity");
  const Json variants = json.value("variants", Json::object());
  for (const auto& [name, variant] : variants.items()) {
    if (name != "float16" && name != "int8") refuse("variants", name, "float16 or int8");
    check_stages(variant["graphs"], "variants." + name + ".graphs");
  }
}

Manifest checked(const Json& json, const std::string& folder) {
  check_schema(json, kManifestSchema);
  check_names(json);
  Manifest manifest;
  manifest.name = json["name"];
  manifest.size = {json["size"]["height"], json["size"]["width"]};
  const Json& framing = json["framing"];
  for (const unsigned part : framing["parts"]) manifest.framing.parts |= 1u << part;
  manifest.framing.legs = framing["legs"];
  manifest.framing.margin = framing["margin"];
  const std::string precision = json["precision"];
  manifest.precisions.push_back(graphs(json["graphs"], precision, folder));
  if (json.contains("maps") && !json["maps"].is_null()) {
    manifest.maps.push_back(graph(json["maps"], kMaps, folder));
  }
  const Json variants = json.value("variants", Json::object());
  for (const auto& [name, variant] : variants.items()) {
    if (name == precision) continue;
    manifest.precisions.push_back(graphs(variant["graphs"], name, folder));
  }
  return manifest;
}

Manifest read_manifest(const std::string& folder, const std::string& path) {
  try {
    const Json json = read_json(path);
    // Before all else: a manifest of another schema may well break this one, and is not to blame.
    if (json.is_object() && json.contains("schema_version")) {
      const Json& version = json["schema_version"];
      const std::uint64_t found = version.is_number_unsigned() ? version.get<std::uint64_t>() : 0;
      if (found && found != kSchemaVersion && found <= INT64_MAX) {
        const bool newer = found > kSchemaVersion;
        throw Error(newer ? GT_MANIFEST_TOO_NEW : GT_MANIFEST_TOO_OLD,
                    path + " has schema version " + version.dump() + ", and garment-transfer " +
                        GT_VERSION + " reads version " + std::to_string(kSchemaVersion),
                    {},
                    std::string(newer ? "install a newer garment-transfer, or " : "") +
                        "write the bundle anew with `garment-transfer export CHECKPOINT -o " +
                        folder + "`");
      }
    }
    return checked(json, folder);
  } catch (const InvalidJson& error) {
    throw Error(GT_MANIFEST_INVALID, path + " is not a valid manifest: " + error.what(), {}, kFix);
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::no_such_file_or_directory) {
      throw Error(GT_MANIFEST_MISSING,
                  folder + " has no " + kManifest + ", so it is not a bundle or not a whole one",
                  {}, kFix);
    }
    throw Error(GT_MANIFEST_UNREADABLE, path + " cannot be read: " + error.code().message(), {},
                kFix);
  }
}

// What a graph of the manifest `path` takes and gives has to be what the contract says.
void check_contract(const std::string& path, const Graph& graph, Size size) {
  const Signature expected = contract(size)[graph.stage];
  const std::string name = graph.stage == kMaps ? "maps" : kStages[graph.stage];
  const auto check = [&](const char* kind, const std::vector<Tensor>& found,
                         const std::vector<Tensor>& wanted) {
    if (found == wanted) return;
    throw Error(GT_CONTRACT_MISMATCH,
                path + ": the " + kind + " of graph " + name + " are (" + text(found) + ")",
                "(" + text(wanted) + ") in a bundle of size " + size.text(), kFix);
  };
  check("inputs", graph.signature.inputs, expected.inputs);
  check("outputs", graph.signature.outputs, expected.outputs);
}

}  // namespace

std::vector<char> read_verified(const Graph& graph) {
  const auto refuse = [&](gt_status status, const std::string& what) {
    throw Error(status, graph.path + " " + what,
                std::to_string(graph.bytes) + " bytes with the manifest's SHA-256", kFix);
  };
  std::vector<char> content;
  try {
    if (fs::is_directory(graph.path)) throw std::system_error(EISDIR, std::generic_category());
    const std::uintmax_t size = fs::file_size(graph.path);
    const auto bytes = static_cast<std::uintmax_t>(graph.bytes);
    const std::string have = "has " + std::to_string(size) + " bytes";
    if (size < bytes) refuse(GT_GRAPH_TRUNCATED, "is truncated: it " + have);
    if (size > bytes) refuse(GT_GRAPH_ALTERED, "was altered: it " + have);
    content = read_file(graph.path, size);
  } catch (const std::system_error& error) {
    refuse(GT_GRAPH_MISSING,
           "cannot be read, though the manifest lists it: " + error.code().message());
  }
  if (sha256(content) != graph.sha256) {
    refuse(GT_GRAPH_ALTERED, "was altered: its SHA-256 is not the manifest's");
  }
  if (std::search(content.begin(), content.end(), std::begin(kExternal), std::end(kExternal)) !=
      content.end()) {
    throw Error(GT_GRAPH_ALTERED,
                graph.path + " keeps weights in another file, which no hash of the manifest covers",
                "graphs with their weights inside",
                "save the graph again with its weights in it, and write the manifest anew");
  }
  return content;
}

Signature signature(const Json& json) {
  return {tensors(json["inputs"]), tensors(json["outputs"])};
}

Json checked_record(Json record) {
  check_schema(record, kRecordSchema);
  check_stages(record["stages"], "stages");
  const Json& gpus = record["compute_capabilities"];
  if (gpus.get<std::set<std::string>>().size() < gpus.size()) {
    refuse("compute_capabilities", gpus, "compute capabilities that differ");
  }
  Json& batch = record["batch"];
  for (const auto& [name, size] : {std::pair("min", 1), {"opt", 1}, {"max", 8}}) {
    batch.emplace(name, size);
  }
  if (batch["opt"] < batch["min"] || batch["max"] < batch["opt"]) {
    refuse("batch", batch, "min <= opt <= max");
  }
  return record;
}

std::array<Signature, 4> contract(Size size) {
  const auto labels = [&](const char* name) {
    return Tensor{name, "uint8", {kBatch, size.height, size.width}};
  };
  const auto pixels = [&](const char* name) {
    return Tensor{name, "uint8", {kBatch, size.height, size.width, 3}};
  };
  return {{{{labels("person_parsing"), pixels("person_densepose"), labels("garment_parsing"),
             pixels("garment_densepose")},
            {labels("transfer_parsing"),
             {"transfer_scores", "uint8", {kBatch, size.height, size.width, 4}}}},
           {{pixels("garment_image"), labels("garment_parsing"), pixels("garment_densepose"),
             labels("transfer_parsing"), pixels("person_densepose")},
            {pixels("warped_garment"),
             {"flow", "float32", {kBatch, 2, size.height, size.width}},
             labels("flow_confidence")}},
           {{pixels("person_image"), labels("person_parsing"), pixels("person_densepose"),
             labels("transfer_parsing"), pixels("warped_garment")},
            {pixels("image")}},
           {{pixels("image")},
            {labels("parsing"), pixels("densepose"), labels("parsing_confidence"),
             labels("densepose_confidence")}}}};
}

std::string text(const std::vector<Tensor>& tensors) {
  std::string out;
  for (const auto& tensor : tensors) {
    out += (out.empty() ? "" : ", ") + tensor.name + " " + tensor.dtype + " [";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      const std::int64_t side = tensor.shape[i];
      out += (i ? ", " : "") + (side == kBatch ? std::string("N") : std::to_string(side));
    }
    out += "]";
  }
  return out;
}

Bundle load_bundle(const std::string& folder, const std::string& precision) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw Error(GT_BUNDLE_MISSING,
                folder + (fs::exists(folder, error) ? " is a file" : " does not exist"),
                std::string("a bundle, which is a folder with ") + kManifest + " and its graphs",
                "`garment-transfer export CHECKPOINT -o BUNDLE` writes one");
  }
  const std::string path = folder + "/" + kManifest;
  Manifest manifest = read_manifest(folder, path);
  for (const Graphs& set : manifest.precisions) {
    for (const Graph& graph : set.graphs) check_contract(path, graph, manifest.size);
  }
  for (const Graph& graph : manifest.maps) {
    check_contract(path, graph, manifest.size);
    read_verified(graph);
  }
  Bundle bundle{folder, manifest.size, manifest.framing, precision, {}, std::move(manifest.maps)};
  if (precision.empty()) bundle.precision = manifest.precisions[0].precision;
  bool found = false;
  std::string have;
  for (Graphs& set : manifest.precisions) {
    have += (have.empty() ? "" : ", ") + set.precision;
    const bool wanted = set.precision == bundle.precision;
    found = found || wanted;
    for (Graph& graph : set.graphs) {
      graph.content = read_verified(graph);
      if (wanted) bundle.graphs[graph.stage] = std::move(graph);
      graph.content = {};
    }
  }
  if (!found) {
    throw Error(GT_PRECISION_MISSING,
                "the bundle " + manifest.name + " has no " + bundle.precision + " graphs",
                "one of " + have,
                "export it anew with `garment-transfer export CHECKPOINT -o BUNDLE --precision " +
                    bundle.precision + "`");
  }
  return bundle;
}

}  // namespace garment_transfer::internal
