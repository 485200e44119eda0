#pragma once

#include <garment_transfer/garment_transfer.h>

#include <stdexcept>
#include <string>

namespace garment_transfer {

// What the C interface turns into a status and a message. The message says what was wrong, what was
// expected and what mends it, in the words of the Python package where it has the same error.
class Error : public std::runtime_error {
 public:
  Error(gt_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}

  gt_status status() const noexcept { return status_; }

 private:
  gt_status status_;
};

}  // namespace garment_transfer
