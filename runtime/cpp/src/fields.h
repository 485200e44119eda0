// Files, and the check of their JSON.

#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace garment_transfer::internal {

// Keeps the order of fields, in which graphs are read.
using Json = nlohmann::ordered_json;

// What is wrong with a file's JSON.
class InvalidJson : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws InvalidJson; `where` is the value's place in its file, such as "size.width".
[[noreturn]] void refuse(const std::string& where, const Json& value, const std::string& expected);

// Checks JSON against a schema of bundle/, as text. An integer has no fraction: 64.0 is none.
// Throws InvalidJson.
void check_schema(const Json& json, const char* schema);

// A whole file of `size` bytes. std::system_error where it cannot be read.
std::vector<char> read_file(const std::string& path, std::uintmax_t size);

// A file's JSON, at most 1 MiB. std::system_error where it cannot be read.
Json read_json(const std::string& path);

// The SHA-256 of bytes, in hexadecimal.
std::string sha256(const std::vector<char>& content);

}  // namespace garment_transfer::internal
