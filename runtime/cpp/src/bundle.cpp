#include "bundle.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "error.h"
#include "manifest_schema.h"
#include "schema.h"
#include "sha256.h"
#include "version.h"

namespace garment_transfer {
namespace {

namespace fs = std::filesystem;

constexpr char kManifest[] = "manifest.json";
constexpr char kMend[] =
    "copy the bundle again from where it came, or write it anew with "
    "`garment-transfer export CHECKPOINT -o BUNDLE`";

// Deeper JSON is refused, as Python's recursion limit does: what reads it must not run out of stack.
constexpr int kDepth = 500;
constexpr std::uintmax_t kJsonBytes = std::uintmax_t{64} << 20;

[[noreturn]] void refuse(const std::string& message) { throw Error(GT_BUNDLE_ERROR, message); }

// As Python's pathlib writes it: no empty and no "." parts.
std::string tidy(const std::string& path) {
  std::string out = !path.empty() && path[0] == '/' ? "/" : "";
  std::size_t start = 0;
  while (start <= path.size()) {
    const std::size_t end = std::min(path.find('/', start), path.size());
    const std::string part = path.substr(start, end - start);
    if (!part.empty() && part != ".") out += (out.empty() || out == "/" ? "" : "/") + part;
    start = end + 1;
  }
  return out.empty() ? "." : out;
}

// The newest schema version that the schema takes.
std::int64_t newest(const Json& schema) {
  const Json& version = schema["properties"]["schema_version"];
  if (version.contains("const")) return version["const"];
  return *std::max_element(version["enum"].begin(), version["enum"].end());
}

Json read_manifest(const std::string& folder, const std::string& path) {
  std::error_code error;
  if (fs::status(path, error).type() == fs::file_type::not_found) {
    refuse(folder + " has no " + kManifest + ", so it is no bundle or not a whole one; " + kMend);
  }
  return read_json(path, GT_BUNDLE_ERROR, kMend);
}

void validate(const Json& manifest, const std::string& path) {
  static const Json schema = Json::parse(kManifestSchema);
  static const std::int64_t most = newest(schema);
  // Before all else: a newer manifest may well break today's schema, and that is not its fault.
  if (manifest.is_object() && manifest.contains("schema_version")) {
    const Json& version = manifest["schema_version"];
    if (version.is_number_integer() && version > most) {
      refuse(path + " has schema version " + version.dump() +
             ", and this release of garment-transfer (" + kVersion + ") reads up to " +
             std::to_string(most) +
             "; run `pip install --upgrade garment-transfer`, or export the bundle with this "
             "release");
    }
  }
  if (const auto error = violation(schema, manifest)) {
    refuse(path + " is not a valid manifest: " + *error + "; " + kMend);
  }
}

void check_contract(const std::string& path, const char* stage, const char* kind, Size size,
                    const std::vector<Tensor>& found, const std::vector<Tensor>& due) {
  if (found == due) return;
  refuse(path + ": the " + kind + " of graph " + stage + " are (" + text(found) +
         "), but a bundle of size " + std::to_string(size.height) + "x" +
         std::to_string(size.width) + " has (" + text(due) + "); " + kMend);
}

std::vector<char> read_verified(const std::string& path, std::uintmax_t due,
                                const std::string& hash) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    refuse(path + " is missing, though the manifest lists it; " + kMend);
  }
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) refuse(path + " cannot be read: " + error.message());
  if (size < due) {
    refuse(path + " is truncated: " + std::to_string(size) + " bytes of the " +
           std::to_string(due) + " in the manifest; " + kMend);
  }
  std::vector<char> content;
  if (size == due) content = read_file(path, size, GT_BUNDLE_ERROR);
  if (size > due || sha256(content.data(), content.size()) != hash) {
    refuse(path + " was altered: its size (" + std::to_string(size) + " bytes, " +
           std::to_string(due) + " in the manifest) or its SHA-256 is not the manifest's; " +
           kMend);
  }
  return content;
}

}  // namespace

std::vector<char> read_file(const std::string& path, std::uintmax_t size, gt_status status) {
  std::vector<char> content(static_cast<std::size_t>(size));
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file.read(content.data(), static_cast<std::streamsize>(content.size()))) {
    throw Error(status, path + " cannot be read: " + std::strerror(errno ? errno : EIO));
  }
  return content;
}

Json read_json(const std::string& path, gt_status status, const std::string& mend) {
  std::error_code error;
  const auto kind = fs::status(path, error);
  if (fs::is_directory(kind)) throw Error(status, path + " cannot be read: Is a directory");
  const std::uintmax_t size = fs::is_regular_file(kind) ? fs::file_size(path, error) : 0;
  if (error) throw Error(status, path + " cannot be read: " + error.message());
  const auto invalid = [&](const std::string& why) {
    throw Error(status, path + " is not valid JSON (" + why + "); " + mend);
  };
  if (size > kJsonBytes) invalid(std::to_string(size) + " bytes are too many");
  const std::vector<char> content = read_file(path, size, status);
  try {
    return Json::parse(content.begin(), content.end(),
                       [](int depth, Json::parse_event_t, Json&) {
                         if (depth > kDepth) {
                           throw std::length_error("brackets are nested too deeply");
                         }
                         return true;
                       });
  } catch (const std::length_error& error) {
    invalid(error.what());
  } catch (const Json::exception& error) {
    // without "[json.exception.parse_error.101] "
    const char* end = std::strchr(error.what(), ']');
    invalid(end ? end + 2 : error.what());
  }
  return {};
}

// An integer by the schema, which 1e300 is too: what is beyond int64 stands for itself as its end.
std::int64_t integer(const Json& value) {
  constexpr std::int64_t kMost = INT64_MAX;
  if (value.is_number_float()) {
    const double number = value.get<double>();
    return number < 9e18 ? static_cast<std::int64_t>(number) : kMost;
  }
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) return kMost;
  return value.get<std::int64_t>();
}

std::vector<Tensor> tensors(const Json& list) {
  std::vector<Tensor> result;
  for (const auto& each : list) {
    Tensor tensor{each["name"], each["dtype"], {}};
    for (const auto& side : each["shape"]) {
      tensor.shape.push_back(side.is_string() ? kBatch : integer(side));
    }
    result.push_back(std::move(tensor));
  }
  return result;
}

std::array<Signature, 3> contract(Size size) {
  const auto labels = [&](const char* name) {
    return Tensor{name, "uint8", {kBatch, size.height, size.width}};
  };
  const auto pixels = [&](const char* name) {
    return Tensor{name, "uint8", {kBatch, size.height, size.width, 3}};
  };
  return {{{{labels("person_parsing"), pixels("person_densepose"), labels("garment_parsing"),
             pixels("garment_densepose")},
            {labels("transfer_parsing")}},
           {{pixels("garment_image"), labels("garment_parsing"), labels("transfer_parsing"),
             pixels("person_densepose")},
            {pixels("warped_garment"),
             {"flow", "float32", {kBatch, 2, size.height, size.width}}}},
           {{pixels("person_image"), labels("person_parsing"), labels("transfer_parsing"),
             pixels("warped_garment")},
            {pixels("image")}}}};
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

Bundle load_bundle(const std::string& folder_path, const std::string& precision) {
  const std::string folder = tidy(folder_path);
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    refuse(folder + (fs::exists(folder, error) ? " is a file" : " does not exist") +
           ": a bundle is a folder with " + kManifest +
           " and its graphs, as `garment-transfer export CHECKPOINT -o BUNDLE` writes it");
  }
  const std::string prefix = folder == "." ? "" : folder == "/" ? "/" : folder + "/";
  const std::string path = prefix + kManifest;
  const Json manifest = read_manifest(folder, path);
  validate(manifest, path);

  // the graphs of each precision, the main one first
  std::vector<std::pair<std::string, const Json*>> sets = {
      {manifest["precision"], &manifest["graphs"]}};
  if (manifest.contains("variants")) {
    for (const auto& [name, variant] : manifest["variants"].items()) {
      sets.emplace_back(name, &variant["graphs"]);
    }
  }
  Bundle bundle;
  bundle.path = folder;
  bundle.size = {integer(manifest["size"]["height"]), integer(manifest["size"]["width"])};
  bundle.precision = precision.empty() ? sets[0].first : precision;
  const auto due = contract(bundle.size);
  bool found = false;
  for (const auto& [name, graphs] : sets) {
    const bool wanted = name == bundle.precision && !found;
    found = found || wanted;
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      const Json& graph = (*graphs)[kStages[i]];
      Graph read{prefix + graph["file"].get<std::string>(), graph["sha256"],
                 {tensors(graph["inputs"]), tensors(graph["outputs"])}, {}};
      check_contract(path, kStages[i], "inputs", bundle.size, read.signature.inputs,
                     due[i].inputs);
      check_contract(path, kStages[i], "outputs", bundle.size, read.signature.outputs,
                     due[i].outputs);
      if (wanted) bundle.graphs[i] = std::move(read);
    }
  }
  // in the order of the manifest, as in Python
  for (const auto& [name, graphs] : sets) {
    for (const auto& [stage, graph] : graphs->items()) {
      const std::string file = prefix + graph["file"].get<std::string>();
      std::vector<char> content = read_verified(
          file, static_cast<std::uintmax_t>(integer(graph["bytes"])), graph["sha256"]);
      for (std::size_t i = 0; i < kStages.size(); ++i) {
        if (stage == kStages[i] && file == bundle.graphs[i].path) {
          bundle.graphs[i].content = std::move(content);
        }
      }
    }
  }
  if (!found) {
    std::string have;
    for (const auto& [name, graphs] : sets) have += (have.empty() ? "" : ", ") + name;
    refuse("the bundle " + manifest["name"].get<std::string>() + " has no " + bundle.precision +
           " graphs, only " + have +
           "; export it anew with `garment-transfer export CHECKPOINT -o BUNDLE --precision " +
           bundle.precision + "`");
  }
  return bundle;
}

}  // namespace garment_transfer
