// Garment transfer for C++: garment_transfer.h with owners and exceptions. Header only, C++17.
//
//   garment_transfer::Pipeline pipeline("bundle");          // once, shared by all threads
//   garment_transfer::Session session(pipeline);            // one per worker
//   garment_transfer::PersonSource source;
//   source.photo = {pixels, height, width, 3, 0, nullptr};  // and its maps, where there are any
//   garment_transfer::Person person(source, &pipeline);     // and another one, the garment's owner
//   garment_transfer::Finished finished = session.transfer(person, owner);
//
// The thread contract is garment_transfer.h's.

#pragma once

#include <garment_transfer/garment_transfer.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
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
    given.flow_warp_library = options.use_flow_warp_library ? text(options.flow_warp_library) : "";
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

// gt_person_source with defaults.
struct PersonSource {
  std::string name;
  gt_picture photo{}, parsing{}, densepose{};
  std::string label_set;
  std::string densepose_encoding;
  std::optional<gt_box> box;
};

// A photo of any size with its maps. Does not change.
class Person {
 public:
  // `pipeline` makes the maps where the source has none.
  explicit Person(const PersonSource& source, const Pipeline* pipeline = nullptr) {
    gt_person_source given{};
    given.struct_size = sizeof given;
    given.name = source.name.c_str();
    given.photo = source.photo;
    given.parsing = source.parsing;
    given.densepose = source.densepose;
    given.label_set = source.label_set.c_str();
    given.densepose_encoding = source.densepose_encoding.c_str();
    given.box = source.box ? &*source.box : nullptr;
    gt_person* person = nullptr;
    check(gt_person_create(pipeline ? pipeline->get() : nullptr, &given, &person));
    person_.reset(person);
  }

  // Photo and maps, as long as the person lives.
  gt_person_maps maps() const {
    gt_person_maps maps{};
    maps.struct_size = sizeof maps;
    check(gt_person_read(get(), &maps));
    return maps;
  }

  gt_person* get() const noexcept { return person_.get(); }

 private:
  struct Free {
    void operator()(gt_person* person) const noexcept { gt_person_free(person); }
  };
  std::unique_ptr<gt_person, Free> person_;
};

// A finished photo, at the size of the person's own.
struct Finished {
  Size size;
  std::vector<std::uint8_t> image;             // RGB [H,W,3]
  std::vector<std::uint8_t> transfer_parsing;  // [H,W]
};

// What one worker runs transfers with: one thread at a time.
class Session {
 public:
  explicit Session(const Pipeline& pipeline) : size_(pipeline.size()) {
    gt_session* session = nullptr;
    check(gt_session_create(pipeline.get(), &session));
    session_.reset(session);
  }

  // Puts the garment that `owner` wears on `person`; photos are fitted and composed on `threads`.
  Finished transfer(const Person& person, const Person& owner, std::int32_t threads = 1) {
    const gt_person_maps maps = person.maps();
    Finished finished;
    finished.size = {maps.height, maps.width};
    const auto pixels =
        static_cast<std::size_t>(maps.height) * static_cast<std::size_t>(maps.width);
    finished.image.resize(3 * pixels);
    finished.transfer_parsing.resize(pixels);
    gt_photo_transfer transfer{};
    transfer.struct_size = sizeof transfer;
    transfer.person = person.get();
    transfer.garment_owner = owner.get();
    transfer.threads = threads;
    transfer.image = {finished.image.data(), finished.image.size()};
    transfer.transfer_parsing = {finished.transfer_parsing.data(),
                                 finished.transfer_parsing.size()};
    check(gt_session_transfer(get(), &transfer));
    return finished;
  }

  // The graphs alone, host memory to host memory.
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
