#include "fields.h"

#include <openssl/evp.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <stdexcept>
#include <system_error>

namespace garment_transfer::internal {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMaxJsonBytes = 1 << 20;
// A manifest has 7 levels.
constexpr int kMaxDepth = 100;
// std::regex needs stack for each character.
constexpr std::size_t kMaxMatched = 1000;
constexpr std::size_t kMaxShown = 100;

// What messages call the types of a schema.
const std::map<std::string, std::string> kTypes = {
    {"object", "an object"},   {"array", "an array"},  {"string", "text"},
    {"integer", "an integer"}, {"number", "a number"}, {"boolean", "true or false"},
    {"null", "null"}};

bool is(const Json& value, const std::string& type) {
  return type == "integer"  ? value.is_number_integer()
         : type == "number" ? value.is_number()
                            : value.type_name() == type;
}

// Compiling one takes far longer than matching it.
const std::regex& compiled(const std::string& pattern) {
  thread_local std::map<std::string, std::regex> known;
  const auto [entry, is_new] = known.try_emplace(pattern);
  if (is_new) entry->second = std::regex(pattern);
  return entry->second;
}

// A schema as msgspec writes it.
class Schema {
 public:
  explicit Schema(const char* text) : root_(Json::parse(text)) {}

  void check(const Json& value) const { check(value, root_, ""); }

 private:
  const Json& resolved(const Json& rule) const {
    if (!rule.contains("$ref")) return rule;
    return root_.at(Json::json_pointer(rule["$ref"].get<std::string>().substr(1)));
  }

  void check(const Json& value, const Json& schema, const std::string& where) const {
    const Json& rule = resolved(schema);
    if (rule.contains("anyOf")) {
      std::string expected;
      for (const Json& each : rule["anyOf"]) {
        const std::string type = resolved(each)["type"];
        if (is(value, type)) return check(value, each, where);
        expected += (expected.empty() ? "" : " or ") + kTypes.at(type);
      }
      refuse(where, value, expected);
    }
    if (rule.contains("enum")) {
      for (const Json& each : rule["enum"]) {
        if (each == value && each.type() == value.type()) return;  // 4 is equal to 4.0
      }
      refuse(where, value, "one of " + rule["enum"].dump());
    }
    const std::string type = rule["type"];
    if (!is(value, type)) refuse(where, value, kTypes.at(type));
    if (type == "object") check_object(value, rule, where);
    if (type == "array") {
      check_size(value, rule, "minItems", where, "items");
      for (std::size_t i = 0; i < value.size(); ++i) {
        check(value[i], rule["items"], below(where, std::to_string(i)));
      }
    }
    if (type == "string") check_text(value, rule, where);
    if (type == "integer" || type == "number") check_number(value, rule, where);
  }

  static std::string below(const std::string& where, const std::string& name) {
    return where.empty() ? name : where + "." + name;
  }

  static void check_size(const Json& value, const Json& rule, const char* least,
                         const std::string& where, const char* what) {
    const std::size_t count = rule.value(least, std::size_t{0});
    if (value.size() < count) refuse(where, value, std::to_string(count) + " or more " + what);
  }

  void check_object(const Json& value, const Json& rule, const std::string& where) const {
    const std::string of = where.empty() ? "" : " of " + where;
    for (const std::string name : rule.value("required", Json::array())) {
      if (!value.contains(name)) throw InvalidJson("the field " + name + of + " is missing");
    }
    check_size(value, rule, "minProperties", where, "fields");
    for (const auto& [name, each] : value.items()) {
      if (rule.contains("properties") && rule["properties"].contains(name)) {
        check(each, rule["properties"][name], below(where, name));
      } else if (rule["additionalProperties"].is_object()) {
        check(each, rule["additionalProperties"], below(where, name));
      } else {
        throw InvalidJson("the field " + Json(name).dump() + of + " is unknown");
      }
    }
  }

  static void check_text(const Json& value, const Json& rule, const std::string& where) {
    const auto& text = value.get_ref<const std::string&>();
    if (rule.contains("minLength") && text.empty()) refuse(where, value, "text that is not empty");
    if (!rule.contains("pattern")) return;
    const std::string pattern = rule["pattern"];
    if (text.size() > kMaxMatched || !std::regex_search(text, compiled(pattern))) {
      refuse(where, value, "text of the form " + pattern);
    }
  }

  static void check_number(const Json& value, const Json& rule, const std::string& where) {
    std::string expected = kTypes.at(rule["type"]);
    bool good = true;
    if (rule.contains("minimum")) {
      const bool open = !rule.contains("maximum") || rule["maximum"] == INT64_MAX;
      good = value >= rule["minimum"] && (!rule.contains("maximum") || value <= rule["maximum"]);
      expected +=
          ", " + rule["minimum"].dump() + (open ? " or more" : " to " + rule["maximum"].dump());
    }
    if (const int step = rule.value("multipleOf", 1); step > 1) {
      good = good && value.get<std::int64_t>() % step == 0;
      expected += ", divisible by " + std::to_string(step);
    }
    if (!good) refuse(where, value, expected);
  }

  const Json root_;
};

}  // namespace

void refuse(const std::string& where, const Json& value, const std::string& expected) {
  std::string shown = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (shown.size() > kMaxShown) shown = std::string("a long ") + value.type_name();
  throw InvalidJson((where.empty() ? "the top level" : where) + " is " + shown + "; expected " +
                    expected);
}

void check_schema(const Json& json, const char* schema) { Schema(schema).check(json); }

std::vector<char> read_file(const std::string& path, std::uintmax_t size) {
  std::vector<char> content(static_cast<std::size_t>(size));
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file.read(content.data(), static_cast<std::streamsize>(content.size()))) {
    throw std::system_error(errno ? errno : EIO, std::generic_category());
  }
  return content;
}

Json read_json(const std::string& path) {
  if (fs::is_directory(path)) throw std::system_error(EISDIR, std::generic_category());
  const std::uintmax_t size = fs::file_size(path);
  if (size > kMaxJsonBytes) {
    throw InvalidJson("it has " + std::to_string(size) + " bytes; expected at most " +
                      std::to_string(kMaxJsonBytes));
  }
  const std::vector<char> content = read_file(path, size);
  if (size >= 1 && content[0] == '\xEF') throw InvalidJson("it begins with a byte order mark");
  try {
    return Json::parse(content, [](int depth, Json::parse_event_t, Json&) {
      if (depth > kMaxDepth) throw InvalidJson("brackets are nested too deeply");
      return true;
    });
  } catch (const Json::exception& error) {
    // without "[json.exception.parse_error.101] " and what it last read, which may be no UTF-8
    const std::string what = error.what();
    const std::size_t start = what.find(']') + 2;
    throw InvalidJson("it is not JSON: " + what.substr(start, what.find("; last read") - start));
  }
}

std::string sha256(const std::vector<char>& content) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (!EVP_Digest(content.data(), content.size(), digest, &size, EVP_sha256(), nullptr)) {
    throw std::runtime_error("OpenSSL computes no SHA-256");
  }
  std::string text;
  for (unsigned i = 0; i < size; ++i) {
    text += "0123456789abcdef"[digest[i] >> 4];
    text += "0123456789abcdef"[digest[i] & 15];
  }
  return text;
}

}  // namespace garment_transfer::internal
