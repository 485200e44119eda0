#include "fields.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
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

// "0 to 5", "1 or more"
template <typename T>
std::string range(T least, T most, bool open) {
  const auto text = [](T number) { return Json(number).dump(); };
  return text(least) + (open ? " or more" : " to " + text(most));
}

// Compiling one takes far longer than matching it. Patterns are literals, told apart by address.
const std::regex& compiled(const char* pattern) {
  thread_local std::map<const char*, std::regex> known;
  const auto [entry, is_new] = known.try_emplace(pattern);
  if (is_new) entry->second = std::regex(pattern);
  return entry->second;
}

}  // namespace

void Field::refuse(const std::string& expected) const {
  std::string shown = value_.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (shown.size() > kMaxShown) shown = std::string("a long ") + value_.type_name();
  throw InvalidJson((where_.empty() ? "the top level" : where_) + " is " + shown + "; expected " +
                    expected);
}

Field Field::below(const std::string& name, const Json& value) const {
  return Field(value, where_.empty() ? name : where_ + "." + name);
}

void Field::object(std::initializer_list<const char*> names,
                   std::initializer_list<const char*> optional) const {
  if (!value_.is_object()) refuse("an object");
  const std::string of = where_.empty() ? "" : " of " + where_;
  for (const char* name : names) {
    if (!has(name)) throw InvalidJson("the field " + std::string(name) + of + " is missing");
  }
  const auto in = [](const auto& list, const std::string& name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  for (const auto& entry : value_.items()) {
    if (in(names, entry.key()) || in(optional, entry.key())) continue;
    throw InvalidJson("the field " + Json(entry.key()).dump() + of + " is unknown");
  }
}

Field Field::operator[](const char* name) const { return below(name, value_.at(name)); }

std::vector<std::pair<std::string, Field>> Field::entries(std::size_t least) const {
  if (!value_.is_object()) refuse("an object");
  if (value_.size() < least) refuse(std::to_string(least) + " or more fields");
  std::vector<std::pair<std::string, Field>> found;
  for (const auto& entry : value_.items()) {
    found.emplace_back(entry.key(), below(entry.key(), entry.value()));
  }
  return found;
}

std::vector<Field> Field::items(std::size_t least) const {
  if (!value_.is_array()) refuse("an array");
  if (value_.size() < least) refuse(std::to_string(least) + " or more items");
  std::vector<Field> found;
  for (std::size_t i = 0; i < value_.size(); ++i) {
    found.push_back(below(std::to_string(i), value_[i]));
  }
  return found;
}

bool Field::flag() const {
  if (!value_.is_boolean()) refuse("true or false");
  return value_.get<bool>();
}

std::string Field::string() const {
  if (!value_.is_string()) refuse("text");
  return value_.get<std::string>();
}

std::string Field::text() const {
  std::string found = string();
  if (found.empty()) refuse("text that is not empty");
  return found;
}

std::string Field::matching(const char* pattern) const {
  std::string found = string();
  if (found.size() > kMaxMatched || !std::regex_match(found, compiled(pattern))) {
    refuse(std::string("text of the form ") + pattern);
  }
  return found;
}

std::int64_t Field::integer(std::int64_t least, std::int64_t most, std::int64_t multiple_of) const {
  std::int64_t found = 0;
  const bool fits = value_.is_number_integer() &&
                    !(value_.is_number_unsigned() && value_.get<std::uint64_t>() > INT64_MAX);
  if (fits) found = value_.get<std::int64_t>();
  if (!fits || found < least || found > most || found % multiple_of) {
    refuse("an integer, " + range(least, most, most == INT64_MAX) +
           (multiple_of == 1 ? "" : ", divisible by " + std::to_string(multiple_of)));
  }
  return found;
}

double Field::number(double least, double most) const {
  if (!value_.is_number() || value_.get<double>() < least || value_.get<double>() > most) {
    refuse("a number, " + range(least, most, std::isinf(most)));
  }
  return value_.get<double>();
}

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
