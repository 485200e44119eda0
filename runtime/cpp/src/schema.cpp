#include "schema.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <regex>
#include <set>
#include <stdexcept>
#include <tuple>
#include <variant>
#include <vector>

namespace garment_transfer {
namespace {

// std::regex recurses over what it matches; longer strings than this match no pattern of ours.
constexpr std::size_t kMatched = 1000;

using Step = std::variant<std::size_t, std::string>;

struct Violation {
  std::vector<Step> path;
  std::string message;
  bool weak;          // a choice of which none fits
  bool matches_type;  // the value has the type that its schema asks for
  std::vector<Violation> context;
};

// jsonschema's key: errors that are less deep are more telling.
auto relevance(const Violation& v) {
  return std::tuple(-static_cast<long>(v.path.size()), std::cref(v.path).get(), !v.weak,
                    !v.matches_type);
}

bool is_integer(const Json& value) {
  return value.is_number_integer() ||
         (value.is_number_float() && std::isfinite(value.get<double>()) &&
          value.get<double>() == std::floor(value.get<double>()));
}

bool is_type(const Json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "integer") return is_integer(value);
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  throw std::logic_error("schema: unknown type " + type);
}

// `types` is one name or a list of them.
bool is_any(const Json& value, const Json& types) {
  if (types.is_string()) return is_type(value, types);
  return std::any_of(types.begin(), types.end(),
                     [&](const Json& type) { return is_type(value, type); });
}

// Characters, not bytes, as lengths in a schema are; the text is valid UTF-8.
std::size_t length(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const auto& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

class Checker {
 public:
  explicit Checker(const Json& root) : root_(root) {}

  void check(const Json& schema, const Json& value, const std::vector<Step>& path,
             std::vector<Violation>& found) const {
    const auto add = [&](const std::string& message, std::vector<Violation> context = {}) {
      const bool matches = schema.contains("type") && is_any(value, schema["type"]);
      const bool weak = !context.empty();
      found.push_back({path, message, weak, matches, std::move(context)});
    };
    const auto descend = [&](const Json& into, const Json& part, Step step) {
      std::vector<Step> deeper = path;
      deeper.push_back(std::move(step));
      check(into, part, deeper, found);
    };
    const auto number = [&] { return value.get<double>(); };
    for (const auto& [key, due] : schema.items()) {
      if (key == "$schema" || key == "$defs" || key == "title" || key == "description") continue;
      if (key == "$ref") {
        // "#/$defs/name"
        check(root_.at(Json::json_pointer(due.get<std::string>().substr(1))), value, path, found);
      } else if (key == "type") {
        if (!is_any(value, due)) {
          std::vector<std::string> types;
          for (const auto& type : due) types.push_back(python_repr(type));
          add(python_repr(value) + " is not of type " + joined(types));
        }
      } else if (key == "const") {
        if (value != due) add(python_repr(due) + " was expected");
      } else if (key == "enum") {
        if (std::find(due.begin(), due.end(), value) == due.end()) {
          add(python_repr(value) + " is not one of " + python_repr(due));
        }
      } else if (key == "anyOf") {
        std::vector<Violation> all;
        bool fits = false;
        for (const auto& choice : due) {
          std::vector<Violation> of_choice;
          check(choice, value, {}, of_choice);
          if (of_choice.empty()) fits = true;
          std::move(of_choice.begin(), of_choice.end(), std::back_inserter(all));
        }
        if (!fits) add(python_repr(value) + " is not valid under any of the given schemas", all);
      } else if (key == "minimum") {
        if (value.is_number() && number() < due.get<double>()) {
          add(python_repr(value) + " is less than the minimum of " + python_repr(due));
        }
      } else if (key == "maximum") {
        if (value.is_number() && number() > due.get<double>()) {
          add(python_repr(value) + " is greater than the maximum of " + python_repr(due));
        }
      } else if (key == "multipleOf") {
        if (value.is_number() && std::fmod(number(), due.get<double>()) != 0) {
          add(python_repr(value) + " is not a multiple of " + python_repr(due));
        }
      } else if (key == "minLength") {
        if (value.is_string() && length(value.get_ref<const std::string&>()) < due) {
          add(python_repr(value) + (due == 1 ? " should be non-empty" : " is too short"));
        }
      } else if (key == "pattern") {
        if (value.is_string()) {
          const auto& text = value.get_ref<const std::string&>();
          if (text.size() > kMatched ||
              !std::regex_search(text, std::regex(due.get<std::string>()))) {
            add(python_repr(value) + " does not match " + python_repr(due));
          }
        }
      } else if (key == "minItems") {
        if (value.is_array() && value.size() < due) {
          add(python_repr(value) + (due == 1 ? " should be non-empty" : " is too short"));
        }
      } else if (key == "uniqueItems") {
        if (due == true && value.is_array()) {
          for (auto item = value.begin(); item != value.end(); ++item) {
            if (std::find(std::next(item), value.end(), *item) == value.end()) continue;
            add(python_repr(value) + " has non-unique elements");
            break;
          }
        }
      } else if (key == "items") {
        if (value.is_array()) {
          for (std::size_t i = 0; i < value.size(); ++i) descend(due, value[i], i);
        }
      } else if (key == "minProperties") {
        if (value.is_object() && value.size() < due) {
          add(python_repr(value) +
              (due == 1 ? " should be non-empty" : " does not have enough properties"));
        }
      } else if (key == "required") {
        if (!value.is_object()) continue;
        for (const auto& name : due) {
          if (!value.contains(name.get_ref<const std::string&>())) {
            add(python_repr(name) + " is a required property");
          }
        }
      } else if (key == "properties") {
        if (!value.is_object()) continue;
        for (const auto& [name, part] : due.items()) {
          if (value.contains(name)) descend(part, value[name], name);
        }
      } else if (key == "additionalProperties") {
        if (!value.is_object()) continue;
        std::set<std::string> extras;
        for (const auto& [name, part] : value.items()) {
          if (!schema.contains("properties") || !schema["properties"].contains(name)) {
            extras.insert(name);
          }
        }
        if (due.is_object()) {
          for (const auto& name : extras) descend(due, value[name], name);
        } else if (due == false && !extras.empty()) {
          std::vector<std::string> names;
          for (const auto& name : extras) names.push_back(python_repr(name));
          add("Additional properties are not allowed (" + joined(names) +
              (extras.size() == 1 ? " was" : " were") + " unexpected)");
        }
      } else {
        throw std::logic_error("schema: unknown keyword " + key);
      }
    }
  }

 private:
  const Json& root_;
};

void append_escaped(std::string& out, const std::string& text, char quote) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    char code[8];
    if (c == '\\' || c == static_cast<unsigned char>(quote)) {
      out += '\\';
      out += text[i];
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (c < 0x20 || c == 0x7F) {
      std::snprintf(code, sizeof code, "\\x%02x", c);
      out += code;
    } else if (c == 0xC2 && i + 1 < text.size() &&
               (static_cast<unsigned char>(text[i + 1]) <= 0xA0 ||
                static_cast<unsigned char>(text[i + 1]) == 0xAD)) {
      // U+0080..U+00A0 and the soft hyphen are not printable
      std::snprintf(code, sizeof code, "\\x%02x", static_cast<unsigned char>(text[++i]));
      out += code;
    } else {
      out += text[i];
    }
  }
}

}  // namespace

std::string python_repr(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "None";
    case Json::value_t::boolean:
      return value.get<bool>() ? "True" : "False";
    case Json::value_t::string: {
      const auto& text = value.get_ref<const std::string&>();
      const bool single = text.find('\'') != std::string::npos;
      const char quote = single && text.find('"') == std::string::npos ? '"' : '\'';
      std::string out(1, quote);
      append_escaped(out, text, quote);
      return out + quote;
    }
    case Json::value_t::array: {
      std::vector<std::string> parts;
      for (const auto& item : value) parts.push_back(python_repr(item));
      return "[" + joined(parts) + "]";
    }
    case Json::value_t::object: {
      std::vector<std::string> parts;
      for (const auto& [name, item] : value.items()) {
        parts.push_back(python_repr(name) + ": " + python_repr(item));
      }
      return "{" + joined(parts) + "}";
    }
    default:
      return value.dump();
  }
}

std::optional<std::string> violation(const Json& schema, const Json& instance) {
  std::vector<Violation> found;
  Checker(schema).check(schema, instance, {}, found);
  if (found.empty()) return std::nullopt;
  const auto less = [](const Violation& a, const Violation& b) {
    return relevance(a) < relevance(b);
  };
  // the first of those that are equally telling
  const Violation* best = &*std::max_element(found.begin(), found.end(), less);
  std::vector<Step> path = best->path;
  while (!best->context.empty()) {
    std::vector<const Violation*> inner;
    for (const auto& each : best->context) inner.push_back(&each);
    std::stable_sort(inner.begin(), inner.end(),
                     [&](const auto* a, const auto* b) { return less(*a, *b); });
    if (inner.size() > 1 && !less(*inner[0], *inner[1])) break;
    best = inner[0];
    path.insert(path.end(), best->path.begin(), best->path.end());
  }
  std::string where;
  for (const auto& step : path) {
    const auto* index = std::get_if<std::size_t>(&step);
    where += (where.empty() ? "" : ".") +
             (index ? std::to_string(*index) : std::get<std::string>(step));
  }
  return (where.empty() ? "top level" : where) + ": " + best->message;
}

}  // namespace garment_transfer
