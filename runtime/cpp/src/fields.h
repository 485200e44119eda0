// Files and their JSON, field by field.

#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace garment_transfer::internal {

// Keeps the order of fields, in which graphs are read.
using Json = nlohmann::ordered_json;

// What is wrong with a file's JSON.
class InvalidJson : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A value and where it lies in its file, such as "size.width". Checks throw InvalidJson with the
// place, the value and what was expected.
class Field {
 public:
  explicit Field(const Json& value, std::string where = {}) : value_(value), where_(where) {}

  // An object with all of `names` and none but these and `optional`.
  void object(std::initializer_list<const char*> names,
              std::initializer_list<const char*> optional = {}) const;
  // A field of what was found to be an object.
  Field operator[](const char* name) const;
  bool has(const char* name) const { return value_.contains(name); }

  // The fields of an object of any names, or the items of an array.
  std::vector<std::pair<std::string, Field>> entries(std::size_t least = 0) const;
  std::vector<Field> items(std::size_t least = 0) const;

  bool is_null() const { return value_.is_null(); }
  bool is_string() const { return value_.is_string(); }
  bool flag() const;
  std::string string() const;
  std::string text() const;  // not empty
  // Text that the regular expression matches as a whole.
  std::string matching(const char* pattern) const;
  // A JSON integer: 64.0 is none. What is beyond 64 bits stands for the end of the range.
  std::int64_t integer(std::int64_t least, std::int64_t most = INT64_MAX,
                       std::int64_t multiple_of = 1) const;
  double number(double least, double most = INFINITY) const;

  [[noreturn]] void refuse(const std::string& expected) const;

 private:
  Field below(const std::string& name, const Json& value) const;

  const Json& value_;
  std::string where_;
};

// A whole file of `size` bytes. std::system_error where it cannot be read.
std::vector<char> read_file(const std::string& path, std::uintmax_t size);

// A file's JSON, at most 1 MiB. std::system_error where it cannot be read.
Json read_json(const std::string& path);

// The SHA-256 of bytes, in hexadecimal.
std::string sha256(const std::vector<char>& content);

}  // namespace garment_transfer::internal
