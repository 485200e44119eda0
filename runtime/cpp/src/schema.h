#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace garment_transfer {

// Keeps the order of fields, which decides between errors of one rank.
using Json = nlohmann::ordered_json;

// What is wrong with `instance` by `schema`: "size.width: 40 is not a multiple of 32", the error
// that Python's jsonschema.exceptions.best_match picks, in its words. Nothing where it is valid.
//
// Knows the keywords of manifest.schema.json and engine records, and throws std::logic_error for
// any other, so that a schema is never checked in part.
std::optional<std::string> violation(const Json& schema, const Json& instance);

// A JSON value as Python's repr() writes it.
std::string python_repr(const Json& value);

}  // namespace garment_transfer
