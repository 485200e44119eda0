// The CPU kernel against the truth, to be built with sanitizers.
#include "flow_warp_cpu.h"

#include <algorithm>
#include <thread>

#include "flow_warp_cases.h"

using namespace garment_transfer;
using namespace garment_transfer::testing;

namespace {

void in_two_threads(std::ptrdiff_t count,
                    const std::function<void(std::ptrdiff_t, std::ptrdiff_t)>& body) {
  std::thread other([&] { body(count / 2, count); });
  body(0, count / 2);
  other.join();
}

bool check(unsigned seed, const Variant& variant, Padding padding) {
  const Case c = make_case(seed, variant.shape, padding, variant.reach, variant.odd);
  std::vector<float> y(c.y.size(), -7), flow(c.flow.size(), -7);
  const std::size_t bytes = flow_warp_cpu_scratch(c.shape);
  const std::unique_ptr<void, decltype(&std::free)> scratch{
      std::aligned_alloc(64, std::max<std::size_t>((bytes + 63) / 64 * 64, 64)), &std::free};
  flow_warp_cpu({c.shape, padding, c.x.data(), c.coarse_flow.data(), c.residual.data(),
                 c.affine.data(), y.data(), flow.data()},
                Type::kFloat32, scratch.get(), in_two_threads);
  return agrees(c, y, flow, 1e-6, "CPU");
}

}  // namespace

int main() {
  bool good = true;
  unsigned seed = 1;
  std::vector<Variant> all = variants();
  // rows by a ring: several strips, rows that leave it, more rows than it holds
  for (const Variant& variant :
       std::initializer_list<Variant>{{{2, 4, 130, 36}, 2, Odd::kFlows},
                                      {{1, 3, 66, 2048}, 0},
                                      {{1, 4, 66, 2048}, 9, Odd::kFlows}}) {
    all.push_back(variant);
  }
  for (const Variant& variant : all) {
    for (const Padding padding : {Padding::kZeros, Padding::kBorder}) {
      good = check(seed++, variant, padding) && good;
    }
  }
  std::puts(good ? "passed" : "FAILED");
  return good ? 0 : 1;
}
