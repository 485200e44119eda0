#pragma once

#include <garment_transfer/garment_transfer.h>

#include <stdexcept>
#include <string>

namespace garment_transfer::internal {

// What the C interface turns into a status and a message: "WHAT; expected EXPECTED; FIX", where
// what is empty is left out.
class Error : public std::runtime_error {
 public:
  Error(gt_status status, const std::string& what, const std::string& expected = {},
        const std::string& fix = {})
      : std::runtime_error(what + (expected.empty() ? "" : "; expected " + expected) +
                           (fix.empty() ? "" : "; " + fix)),
        status_(status) {}

  gt_status status() const noexcept { return status_; }

 private:
  gt_status status_;
};

}  // namespace garment_transfer::internal
