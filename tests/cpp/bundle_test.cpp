// What the library keeps to itself: SHA-256, schema errors, Python's repr().

#include <gtest/gtest.h>

#include <limits>

#include "bundle.h"
#include "schema.h"
#include "sha256.h"

namespace garment_transfer {
namespace {

std::string hash(const std::string& text) { return sha256(text.data(), text.size()); }

// FIPS 180-4's own examples.
TEST(Sha256, Examples) {
  EXPECT_EQ(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hash(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(PythonRepr, IsPythons) {
  const auto repr = [](const char* text) { return python_repr(Json::parse(text)); };
  EXPECT_EQ(repr(R"({"a": [1, -2.5, true, null], "b": "it's"})"),
            R"({'a': [1, -2.5, True, None], 'b': "it's"})");
  EXPECT_EQ(repr(R"("both ' and \"")"), R"('both \' and "')");
  EXPECT_EQ(repr(R"("\n\t\\\u0001\u00a0é")"), R"('\n\t\\\x01\xa0é')");
}

TEST(Schema, RefusesKeywordsThatItDoesNotKnow) {
  EXPECT_THROW(violation(Json::parse(R"({"oneOf": []})"), Json(1)), std::logic_error);
  EXPECT_THROW(violation(Json::parse(R"({"type": "mystery"})"), Json(1)), std::logic_error);
}

TEST(Schema, LongStringsMatchNoPattern) {
  const Json schema = Json::parse(R"({"pattern": "^a*$"})");
  EXPECT_FALSE(violation(schema, Json(std::string(1000, 'a'))));
  EXPECT_TRUE(violation(schema, Json(std::string(10'000'000, 'a'))));
}

TEST(Schema, TypesAndUniqueItems) {
  const Json schema = Json::parse(R"({"type": ["object", "null"], "uniqueItems": true})");
  EXPECT_FALSE(violation(schema, Json()));
  EXPECT_EQ(violation(schema, Json(1)), "top level: 1 is not of type 'object', 'null'");
  EXPECT_EQ(violation(Json::parse(R"({"uniqueItems": true})"), Json::parse("[1, 2, 1]")),
            "top level: [1, 2, 1] has non-unique elements");
}

TEST(Contract, Chains) {
  const auto signatures = contract({256, 192});
  EXPECT_EQ(text(signatures[1].outputs),
            "warped_garment uint8 [N, 256, 192, 3], flow float32 [N, 2, 256, 192]");
  EXPECT_EQ(signatures[0].outputs[0], signatures[1].inputs[2]);
  EXPECT_EQ(signatures[1].outputs[0], signatures[2].inputs[3]);
}

}  // namespace
}  // namespace garment_transfer
