// Feeds a libFuzzer target seeded mutations, for compilers without libFuzzer; its options:
//   -runs=N -seed=S CORPUS...   (files)

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

// What breaks parsers.
const std::string kTokens[] = {
    "{",     "}",       "[",       "]",    "\"",     ":",     ",",     "null", "true",
    "-1",    "0",       "1e308",   "1e999", "-0.0",   "256",   "18446744073709551616",
    "9223372036854775807", "\\u0000", "\\ud800", "\xff", "\xef\xbb\xbf", "[[[[[[[[", "\"N\""};

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::size_t below(std::size_t end) { return end ? random_() % end : 0; }

  void mutate(Bytes& bytes, const Bytes& other) {
    for (std::size_t rounds = 1 + below(6); rounds; --rounds) {
      const std::size_t at = below(bytes.size() + 1);
      const auto here = bytes.begin() + static_cast<std::ptrdiff_t>(at);
      const std::size_t length = std::min(below(24), bytes.size() - at);
      switch (below(7)) {
        case 0:
          if (at < bytes.size()) bytes[at] ^= static_cast<std::uint8_t>(1u << below(8));
          break;
        case 1:
          if (at < bytes.size()) bytes[at] = static_cast<std::uint8_t>(random_());
          break;
        case 2:
          bytes.erase(here, here + static_cast<std::ptrdiff_t>(length));
          break;
        case 3: {
          const std::string& token = kTokens[below(std::size(kTokens))];
          bytes.insert(here, token.begin(), token.end());
          break;
        }
        case 4: {
          const Bytes chunk(here, here + static_cast<std::ptrdiff_t>(length));
          const auto to = static_cast<std::ptrdiff_t>(below(bytes.size() + 1));
          bytes.insert(bytes.begin() + to, chunk.begin(), chunk.end());
          break;
        }
        case 5: {
          const std::size_t from = below(other.size() + 1);
          const std::size_t count = std::min(below(64), other.size() - from);
          const auto start = other.begin() + static_cast<std::ptrdiff_t>(from);
          bytes.insert(here, start, start + static_cast<std::ptrdiff_t>(count));
          break;
        }
        default:
          if (below(8) == 0) bytes.resize(at);
      }
    }
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  long runs = 1000;
  std::uint64_t seed = 0;
  std::vector<Bytes> corpus;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("-runs=", 0) == 0) {
      runs = std::atol(argument.c_str() + 6);
    } else if (argument.rfind("-seed=", 0) == 0) {
      seed = static_cast<std::uint64_t>(std::atoll(argument.c_str() + 6));
    } else {
      std::ifstream file(argument, std::ios::binary);
      corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
  }
  if (corpus.empty()) corpus.emplace_back(256);
  Mutator mutator(seed);
  for (long run = 0; run < runs; ++run) {
    Bytes bytes = corpus[mutator.below(corpus.size())];
    mutator.mutate(bytes, corpus[mutator.below(corpus.size())]);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::cout << "{\"executions\": " << runs << ", \"seed\": " << seed << ", \"crashes\": 0}\n";
}
