// What a backend provides: a bundle loaded once, and a worker per session.

#pragma once

#include <garment_transfer/garment_transfer.h>
#include <photos.h>

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "bundle.h"

namespace garment_transfer::internal {

// The pipeline's inputs and outputs, in gt_transfer's order.
inline constexpr std::array<const char*, 6> kInputs = {"person_image",     "person_parsing",
                                                       "person_densepose", "garment_image",
                                                       "garment_parsing",  "garment_densepose"};
inline constexpr std::array<const char*, 6> kOutputs = {
    "image", "transfer_parsing", "warped_garment", "flow", "transfer_scores", "flow_confidence"};

// Milliseconds of a run's parts, in gt_times' order: upload, each stage, download.
inline constexpr std::size_t kParts = kStages.size() + 2;
using Times = std::array<double, kParts>;

// A checked gt_transfer: strides are filled in, sizes agree with the bundle.
struct Run {
  std::int32_t batch = 0;
  gt_memory memory = GT_HOST;
  void* stream = nullptr;
  struct Input {
    const unsigned char* data = nullptr;
    std::size_t rows = 0;  // in each picture
    std::size_t row_bytes = 0;
    std::size_t row_stride = 0;
    std::size_t batch_stride = 0;

    bool dense() const { return row_stride == row_bytes && batch_stride == rows * row_bytes; }
  };
  std::array<Input, kInputs.size()> inputs;
  // Null where the caller does not want it.
  std::array<void*, kOutputs.size()> outputs{};
  Times* times = nullptr;  // null where nobody asked
};

// Copies host pixels close together to `to`.
void copy_dense(const Run::Input& input, std::int32_t batch, unsigned char* to);

// Bytes of an output for a batch.
std::size_t output_bytes(std::size_t output, Size size, std::int32_t batch);

// What one session runs with; used by one thread at a time.
class Worker {
 public:
  virtual ~Worker() = default;
  virtual void run(const Run& run) = 0;
  // The finished photo of the last run, which was of one pair in host memory: gt_compose, whose
  // call is all host memory, with the device's own outputs of the graphs. False where a worker has
  // none.
  virtual bool compose(const GtCompose&) { return false; }
};

// A loaded bundle. `worker` may be called from several threads at once; the backend outlives its
// workers.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::unique_ptr<Worker> worker() = 0;
  virtual std::string description() const = 0;
};

struct BackendOptions {
  std::string device;  // empty: the backend's own
  std::int32_t device_id = 0;
  std::int32_t threads = 0;
  // Empty: none. `flow_warp_named` says that the caller named it, so that it has to load.
  std::string flow_warp_library;
  bool flow_warp_named = false;
};

// The graph that makes maps, on the CPU, of pixels at the bundle's size, close together: RGB in;
// classes, IUV and confidence out. May be called from several threads at once.
using MakeMaps = std::function<void(const unsigned char* image, unsigned char* parsing,
                                    unsigned char* densepose, unsigned char* confidence)>;

// Throws Error.
MakeMaps load_maps(const Graph& graph, Size size, std::int32_t threads);

// The file of a library beside this one; empty where there is none.
std::string library_beside(const char* name);

// Throw Error with a status of the family of backends, or GT_OPTION_INVALID.
std::unique_ptr<Backend> load_onnxruntime(Bundle bundle, const BackendOptions& options);
std::unique_ptr<Backend> load_tensorrt(Bundle bundle, const BackendOptions& options);

}  // namespace garment_transfer::internal
