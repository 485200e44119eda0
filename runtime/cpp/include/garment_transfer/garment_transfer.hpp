// Garment transfer for C++: garment_transfer.h with owners and exceptions. Header only, C++17.
//
//   garment_transfer::Pipeline pipeline("bundle");          // once, shared by all threads
//   garment_transfer::Session session(pipeline);            // one per worker
//   garment_transfer::Inputs inputs;
//   inputs.person_image = {pixels, height, width};          // ... and five more
//   garment_transfer::Result result = session.run(inputs);
//
// The thread contract is garment_transfer.h's.

#pragma once

#include <garment_transfer/garment_transfer.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace garment_transfer {

// A call that failed; what() is the library's message.
class Error : public std::runtime_error {
 public:
  Error(gt_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}

  gt_status status() const noexcept { return status_; }
  // The stable name of the status, such as "bundle_missing".
  const char* code() const noexcept { return gt_status_name(status_); }

 private:
  gt_status status_;
};

// Throws Error unless a call of the C interface went well.
inline void check(gt_status status) {
  if (status != GT_OK) throw Error(status, gt_last_message());
}

inline std::string version() { return gt_version(); }

// Height and width in pixels.
struct Size {
  std::int32_t height = 0;
  std::int32_t width = 0;
};

// Which part of a photo the graphs see, as in gt_pipeline_framing.
struct Framing {
  std::uint32_t parts = 0;
  double legs = 0;
  double margin = 0;
};

// gt_pipeline_options with defaults; an empty `flow_warp_library` is looked for.
struct Options {
  std::string backend;
  std::string device;
  std::int32_t device_id = 0;
  std::int32_t threads = 0;
  std::string flow_warp_library;
  bool use_flow_warp_library = true;
  std::string precision;
};

// A loaded bundle. May be used by several threads at once.
class Pipeline {
 public:
  explicit Pipeline(const std::string& bundle, const Options& options = {}) {
    const auto text = [](const std::string& value) {
      return value.empty() ? nullptr : value.c_str();
    };
    gt_pipeline_options given = GT_PIPELINE_OPTIONS_INIT;
    given.backend = text(options.backend);
    given.device = text(options.device);
    given.device_id = options.device_id;
    given.threads = options.threads;
    given.flow_warp_library =
        options.use_flow_warp_library ? text(options.flow_warp_library) : "";
    given.precision = text(options.precision);
    gt_pipeline* pipeline = nullptr;
    check(gt_pipeline_load(bundle.c_str(), &given, &pipeline));
    pipeline_.reset(pipeline);
  }

  // The size of all pictures and maps.
  Size size() const {
    Size size;
    check(gt_pipeline_size(get(), &size.height, &size.width));
    return size;
  }

  Framing framing() const {
    Framing framing;
    check(gt_pipeline_framing(get(), &framing.parts, &framing.legs, &framing.margin));
    return framing;
  }

  // One line on what runs it.
  std::string description() const {
    const char* text = gt_pipeline_description(get());
    return text ? text : "";
  }

  gt_pipeline* get() const noexcept { return pipeline_.get(); }

 private:
  struct Free {
    void operator()(gt_pipeline* pipeline) const noexcept { gt_pipeline_free(pipeline); }
  };
  std::unique_ptr<gt_pipeline, Free> pipeline_;
};

// Pixels in host memory for Session::run; strides as in gt_input.
struct Pixels {
  Pixels() = default;
  Pixels(const std::uint8_t* data, std::int32_t height, std::int32_t width,
         std::size_t row_stride = 0, std::size_t batch_stride = 0)
      : value{data, height, width, row_stride, batch_stride} {}

  gt_input value{};
};

struct Inputs {
  std::int32_t batch = 1;
  Pixels person_image, person_parsing, person_densepose;
  Pixels garment_image, garment_parsing, garment_densepose;
};

// What a run gives, N pairs close together; shapes as in gt_transfer.
struct Result {
  std::vector<std::uint8_t> image;             // [N,H,W,3]
  std::vector<std::uint8_t> transfer_parsing;  // [N,H,W]
  std::vector<std::uint8_t> warped_garment;    // [N,H,W,3]
  std::vector<float> flow;                     // [N,2,H,W]
  std::vector<std::uint8_t> transfer_scores;   // [N,H,W,4]
  std::vector<std::uint8_t> flow_confidence;   // [N,H,W]
};

// What one worker runs transfers with: one thread at a time.
class Session {
 public:
  explicit Session(const Pipeline& pipeline) : size_(pipeline.size()) {
    gt_session* session = nullptr;
    check(gt_session_create(pipeline.get(), &session));
    session_.reset(session);
  }

  // Host memory to host memory.
  Result run(const Inputs& inputs) {
    Result result;
    run(inputs, result);
    return result;
  }

  // The same into a result whose memory is used again, and what the parts took into `times`.
  void run(const Inputs& inputs, Result& result, gt_times* times = nullptr) {
    const std::size_t pixels = static_cast<std::size_t>(size_.height) *
                               static_cast<std::size_t>(size_.width) *
                               static_cast<std::size_t>(inputs.batch > 0 ? inputs.batch : 0);
    result.image.resize(3 * pixels);
    result.transfer_parsing.resize(pixels);
    result.warped_garment.resize(3 * pixels);
    result.flow.resize(2 * pixels);
    result.transfer_scores.resize(4 * pixels);
    result.flow_confidence.resize(pixels);
    gt_transfer transfer{};
    transfer.struct_size = sizeof transfer;
    transfer.batch = inputs.batch;
    transfer.memory = GT_HOST;
    transfer.person_image = inputs.person_image.value;
    transfer.person_parsing = inputs.person_parsing.value;
    transfer.person_densepose = inputs.person_densepose.value;
    transfer.garment_image = inputs.garment_image.value;
    transfer.garment_parsing = inputs.garment_parsing.value;
    transfer.garment_densepose = inputs.garment_densepose.value;
    transfer.image = {result.image.data(), result.image.size()};
    transfer.transfer_parsing = {result.transfer_parsing.data(), result.transfer_parsing.size()};
    transfer.warped_garment = {result.warped_garment.data(), result.warped_garment.size()};
    transfer.flow = {result.flow.data(), result.flow.size() * sizeof(float)};
    transfer.transfer_scores = {result.transfer_scores.data(), result.transfer_scores.size()};
    transfer.flow_confidence = {result.flow_confidence.data(), result.flow_confidence.size()};
    if (times) times->struct_size = sizeof *times;
    transfer.times = times;
    run(transfer);
  }

  // All that the C interface can: device memory, streams, results left out.
  void run(const gt_transfer& transfer) { check(gt_session_run(get(), &transfer)); }

  gt_session* get() const noexcept { return session_.get(); }

 private:
  struct Free {
    void operator()(gt_session* session) const noexcept { gt_session_free(session); }
  };
  Size size_;
  std::unique_ptr<gt_session, Free> session_;
};

}  // namespace garment_transfer
