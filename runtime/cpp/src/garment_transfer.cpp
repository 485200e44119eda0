// The C interface: checks what the caller passes, and lets no exception out.

#include <dlfcn.h>
#include <garment_transfer/garment_transfer.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <system_error>

#include "backend.h"
#include "bundle.h"
#include "error.h"
#include "person.h"
#include "transfer.h"

namespace gt = garment_transfer::internal;

namespace garment_transfer::internal {

// What sessions share and keep alive.
struct Loaded {
  Size size;
  Framing framing;
  std::unique_ptr<Backend> backend;
  std::string description;
  std::string bundle;  // its folder
  std::vector<Graph> maps;
  std::int32_t threads = 0;

  // Loaded when the first bare photo comes.
  const MakeMaps& make_maps() {
    const std::lock_guard<std::mutex> lock(guard_);
    if (make_maps_) return make_maps_;
    if (maps.empty()) {
      throw Error(GT_GRAPH_MISSING,
                  "the bundle " + bundle + " has no graph maps, which makes maps of photos", {},
                  "give people with their maps, which `garment-transfer prepare --parser "
                  "--densepose` makes, or export a checkpoint with weights for it");
    }
    return make_maps_ = load_maps(maps[0], size, threads);
  }

 private:
  std::mutex guard_;
  MakeMaps make_maps_;
};

}  // namespace garment_transfer::internal

struct gt_pipeline {
  std::shared_ptr<gt::Loaded> loaded;
};

struct gt_person {
  gt::Person person;
};

struct gt_session {
  std::shared_ptr<gt::Loaded> loaded;  // before the worker, which needs it to the end
  std::unique_ptr<gt::Worker> worker;
  std::atomic<bool> busy{false};
};

namespace garment_transfer::internal {
namespace {

#ifdef GARMENT_TRANSFER_TENSORRT
constexpr char kBackends[] = "onnxruntime,tensorrt";
#else
constexpr char kBackends[] = "onnxruntime";
#endif

constexpr struct {
  gt_status status;
  const char* name;
} kStatusNames[] = {
#include "statuses.inc"
};

std::string& last_message() {
  thread_local std::string message;
  return message;
}

gt_status failed(gt_status status, const char* message) noexcept {
  try {
    last_message() = message;
  } catch (...) {
    last_message().clear();
  }
  return status;
}

// Every call runs in here.
template <typename Body>
gt_status guarded(const Body& body) noexcept {
  try {
    body();
    return GT_OK;
  } catch (const Error& error) {
    return failed(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return failed(GT_OUT_OF_MEMORY, "out of memory; use a smaller batch or fewer sessions");
  } catch (const std::exception& error) {
    return failed(GT_INTERNAL_ERROR, error.what());
  } catch (...) {
    return failed(GT_INTERNAL_ERROR, "an exception of unknown type");
  }
}

template <typename T>
T* not_null(T* pointer, const char* name) {
  if (!pointer) throw Error(GT_ARGUMENT_INVALID, std::string(name) + " is null", "a pointer");
  return pointer;
}

// What a caller's struct holds, which may be an older header's and then ends earlier: the fields
// that it lacks are null. `oldest` is the size of the first header's.
template <typename T>
T read_struct(const T& given, std::size_t oldest, const char* name) {
  const std::size_t size = given.struct_size;
  if (size < oldest || size > sizeof(T) || size % alignof(T)) {
    throw Error(GT_ARGUMENT_INVALID, std::string(name) + ".struct_size is " + std::to_string(size),
                "sizeof(" + std::string(name) + ") of this or an older header, " +
                    std::to_string(oldest) + " to " + std::to_string(sizeof(T)),
                "set it, and do not build against a newer header than version " GT_VERSION);
  }
  T value{};
  std::memcpy(&value, &given, size);
  return value;
}

std::string text_of(const char* value) { return value ? value : ""; }

std::shared_ptr<Loaded> load(const char* bundle_path, const gt_pipeline_options* pointer) {
  gt_pipeline_options given{};
  if (pointer) {
    given = read_struct(*pointer, offsetof(gt_pipeline_options, precision), "gt_pipeline_options");
  }
  const std::string backend = given.backend && *given.backend ? given.backend : "onnxruntime";
  const std::string available = std::string(",") + kBackends + ",";
  if (backend.find(',') != std::string::npos ||
      available.find("," + backend + ",") == std::string::npos) {
    throw Error(GT_BACKEND_UNKNOWN, "unknown backend '" + backend + "'",
                std::string("one of ") + kBackends,
                "tensorrt is built in where TensorRT_ROOT was set");
  }
  // more than any machine has cores make a runtime start them for minutes
  if (given.threads < 0 || given.threads > 1024) {
    throw Error(GT_OPTION_INVALID, "threads is " + std::to_string(given.threads),
                "1 to 1024, or 0 for the default");
  }
  if (given.device_id < 0) {
    throw Error(GT_OPTION_INVALID, "device_id is " + std::to_string(given.device_id), "0 or more");
  }
  BackendOptions options;
  options.device = text_of(given.device);
  options.device_id = given.device_id;
  options.threads = given.threads;
  options.flow_warp_named = given.flow_warp_library && *given.flow_warp_library;
  options.flow_warp_library =
      given.flow_warp_library ? given.flow_warp_library
                              : library_beside(("libgarment_transfer_" + backend + ".so").c_str());

  auto loaded = std::make_shared<Loaded>();
  Bundle bundle = load_bundle(bundle_path, text_of(given.precision));
  loaded->size = bundle.size;
  loaded->framing = bundle.framing;
  loaded->bundle = bundle.path;
  loaded->maps = std::move(bundle.maps);
  loaded->threads = given.threads;
#ifdef GARMENT_TRANSFER_TENSORRT
  if (backend == "tensorrt") loaded->backend = load_tensorrt(std::move(bundle), options);
#endif
  if (!loaded->backend) loaded->backend = load_onnxruntime(std::move(bundle), options);
  loaded->description = loaded->backend->description();
  return loaded;
}

Run::Input checked(const gt_input& given, const std::string& who, std::size_t channels, Size size,
                   std::int32_t batch) {
  if (!given.data) throw Error(GT_ARRAY_INVALID, who + ".data is null", "the pixels");
  if (given.height != size.height || given.width != size.width) {
    throw Error(GT_ARRAY_INVALID,
                who + " is " + Size{given.height, given.width}.text() + " (height x width)",
                "the bundle's size, " + size.text(), "fit photos and maps to it first");
  }
  Run::Input input;
  input.data = static_cast<const unsigned char*>(given.data);
  input.rows = static_cast<std::size_t>(size.height);
  input.row_bytes = channels * static_cast<std::size_t>(size.width);
  // What is beyond the most would make an address overflow.
  const auto stride = [&](const char* kind, std::size_t found, std::size_t least,
                          std::size_t most) {
    if (found >= least && found <= most) return found;
    throw Error(GT_ARRAY_INVALID, who + "." + kind + " is " + std::to_string(found) + " bytes",
                std::to_string(least) + " to " + std::to_string(most) +
                    ", or 0 where they lie close together");
  };
  constexpr std::size_t kMost = PTRDIFF_MAX;
  input.row_stride = stride("row_stride", given.row_stride ? given.row_stride : input.row_bytes,
                            input.row_bytes, kMost / input.rows);
  const std::size_t picture = (input.rows - 1) * input.row_stride + input.row_bytes;
  // nobody steps over a single picture
  const bool given_stride = given.batch_stride && batch > 1;
  input.batch_stride =
      stride("batch_stride", given_stride ? given.batch_stride : input.rows * input.row_stride,
             picture, kMost / static_cast<std::size_t>(batch));
  return input;
}

// Ids from 0 to `most` in the first of `step` channels: what a graph looks up in a table.
void check_ids(const Run::Input& input, std::int32_t batch, std::size_t step, int most,
               const std::string& who) {
  for (std::int32_t n = 0; n < batch; ++n) {
    for (std::size_t y = 0; y < input.rows; ++y) {
      const unsigned char* row =
          input.data + static_cast<std::size_t>(n) * input.batch_stride + y * input.row_stride;
      unsigned char highest = 0;
      for (std::size_t x = 0; x < input.row_bytes; x += step) highest = std::max(highest, row[x]);
      if (highest <= most) continue;
      throw Error(GT_ID_OUT_OF_RANGE,
                  who + " has " + std::to_string(highest) + " in row " + std::to_string(y),
                  (step == 1 ? "class ids from 0 to " : "body parts from 0 to ") +
                      std::to_string(most) + (step == 1 ? "" : " in the first channel"));
    }
  }
}

// Where an output goes, which takes so many bytes for `what`; null where it is not wanted.
unsigned char* place(const gt_output& output, std::size_t bytes, const std::string& who,
                     const std::string& what = "this photo") {
  if (output.data && output.capacity < bytes) {
    throw Error(GT_ARRAY_INVALID,
                who + ".capacity is " + std::to_string(output.capacity) + " bytes",
                std::to_string(bytes) + " for " + what + ", or data null to leave it out");
  }
  return static_cast<unsigned char*>(output.data);
}

gt_transfer read_transfer(const gt_transfer& pointed) {
  const auto given = read_struct(pointed, offsetof(gt_transfer, flow), "gt_transfer");
  if (given.times) read_struct(*given.times, sizeof(gt_times), "gt_times");
  return given;
}

void write_times(const Times& from, gt_times& to) {
  double* const parts[] = {&to.upload, &to.parsing, &to.warping, &to.regrowth, &to.download};
  static_assert(std::size(parts) == kParts);
  for (std::size_t i = 0; i < kParts; ++i) *parts[i] = from[i];
}

Run checked(const gt_transfer& given, Size size) {
  if (given.batch < 1) {
    throw Error(GT_BATCH_INVALID, "batch is " + std::to_string(given.batch), "1 or more pairs");
  }
  // As an integer, since the caller may have put anything there.
  int memory = 0;
  static_assert(sizeof memory == sizeof given.memory);
  std::memcpy(&memory, &given.memory, sizeof memory);
  if (memory != GT_HOST && memory != GT_DEVICE) {
    throw Error(GT_ARGUMENT_INVALID, "memory is " + std::to_string(memory), "GT_HOST or GT_DEVICE");
  }
  if (memory == GT_HOST && given.stream) {
    throw Error(GT_ARGUMENT_INVALID, "stream is not null with GT_HOST",
                "null, as the call itself waits");
  }
  Run run;
  run.batch = given.batch;
  run.memory = static_cast<gt_memory>(memory);
  run.stream = given.stream;
  const gt_input* inputs[] = {&given.person_image,     &given.person_parsing,
                              &given.person_densepose, &given.garment_image,
                              &given.garment_parsing,  &given.garment_densepose};
  for (std::size_t i = 0; i < kInputs.size(); ++i) {
    run.inputs[i] = checked(*inputs[i], kInputs[i], i % 3 == 1 ? 1 : 3, size, given.batch);
  }
  const gt_output* outputs[] = {&given.image, &given.transfer_parsing, &given.warped_garment,
                                &given.flow,  &given.transfer_scores,  &given.flow_confidence};
  for (std::size_t i = 0; i < kOutputs.size(); ++i) {
    run.outputs[i] = place(*outputs[i], output_bytes(i, size, given.batch), kOutputs[i],
                           "a batch of " + std::to_string(given.batch));
    if (reinterpret_cast<std::uintptr_t>(outputs[i]->data) % (i == 3 ? alignof(float) : 1)) {
      throw Error(GT_ARRAY_INVALID, std::string(kOutputs[i]) + ".data is not aligned for float32");
    }
  }
  for (std::size_t i = 0; i < kInputs.size() && memory == GT_HOST; ++i) {
    if (i % 3 == 1) check_ids(run.inputs[i], given.batch, 1, 6, kInputs[i]);
    if (i % 3 == 2) check_ids(run.inputs[i], given.batch, 3, 24, kInputs[i]);
  }
  return run;
}

struct Log {
  std::mutex guard;
  void (*log)(const char*, void*) = nullptr;
  void* context = nullptr;
};

Log& log() {
  static Log& log = *new Log;  // at exit, threads of the application may still use it
  return log;
}

// Holds a session for one call.
class Hold {
 public:
  explicit Hold(gt_session& session) : session_(session) {
    if (session.busy.exchange(true, std::memory_order_acquire)) {
      throw Error(GT_SESSION_BUSY, "the session is running in another thread", {},
                  "create one session per worker");
    }
  }
  ~Hold() { session_.busy.store(false, std::memory_order_release); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  gt_session& session_;
};

}  // namespace

void warn(const std::string& message) {
  std::unique_lock<std::mutex> lock(log().guard);
  const auto call = log().log;
  void* const context = log().context;
  lock.unlock();
  if (call) call(message.c_str(), context);
}

std::size_t output_bytes(std::size_t output, Size size, std::int32_t batch) {
  constexpr std::size_t kPerPixel[] = {3, 1, 3, 2 * sizeof(float), 4, 1};
  return kPerPixel[output] * static_cast<std::size_t>(size.height) *
         static_cast<std::size_t>(size.width) * static_cast<std::size_t>(batch);
}

void copy_dense(const Run::Input& input, std::int32_t batch, unsigned char* to) {
  for (std::int32_t n = 0; n < batch; ++n) {
    const unsigned char* from = input.data + static_cast<std::size_t>(n) * input.batch_stride;
    for (std::size_t row = 0; row < input.rows; ++row) {
      std::memcpy(to, from + row * input.row_stride, input.row_bytes);
      to += input.row_bytes;
    }
  }
}

std::string library_beside(const char* name) {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<const void*>(&gt_version), &info) || !info.dli_fname) return {};
  const auto path = std::filesystem::path(info.dli_fname).parent_path() / name;
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) ? path.string() : std::string();
}

}  // namespace garment_transfer::internal

const char* gt_version(void) { return GT_VERSION; }

const char* gt_backends(void) { return gt::kBackends; }

const char* gt_status_name(gt_status status) {
  for (const auto& each : gt::kStatusNames) {
    if (each.status == status) return each.name;
  }
  return "unknown";
}

const char* gt_last_message(void) { return gt::last_message().c_str(); }

void gt_set_log(void (*log)(const char* message, void* context), void* context) {
  const std::lock_guard<std::mutex> lock(gt::log().guard);
  gt::log().log = log;
  gt::log().context = context;
}

gt_status gt_pipeline_load(const char* bundle, const gt_pipeline_options* options,
                           gt_pipeline** pipeline) {
  return gt::guarded([&] {
    *gt::not_null(pipeline, "pipeline") = nullptr;
    gt::not_null(bundle, "bundle");
    auto made = std::make_unique<gt_pipeline>();
    made->loaded = gt::load(bundle, options);
    *pipeline = made.release();
  });
}

gt_status gt_pipeline_size(const gt_pipeline* pipeline, int32_t* height, int32_t* width) {
  return gt::guarded([&] {
    const gt::Size size = gt::not_null(pipeline, "pipeline")->loaded->size;
    *gt::not_null(height, "height") = static_cast<int32_t>(size.height);
    *gt::not_null(width, "width") = static_cast<int32_t>(size.width);
  });
}

gt_status gt_pipeline_framing(const gt_pipeline* pipeline, uint32_t* parts, double* legs,
                              double* margin) {
  return gt::guarded([&] {
    const gt::Framing& framing = gt::not_null(pipeline, "pipeline")->loaded->framing;
    *gt::not_null(parts, "parts") = framing.parts;
    *gt::not_null(legs, "legs") = framing.legs;
    *gt::not_null(margin, "margin") = framing.margin;
  });
}

const char* gt_pipeline_description(const gt_pipeline* pipeline) {
  return pipeline ? pipeline->loaded->description.c_str() : nullptr;
}

void gt_pipeline_free(gt_pipeline* pipeline) { delete pipeline; }

gt_status gt_session_create(gt_pipeline* pipeline, gt_session** session) {
  return gt::guarded([&] {
    *gt::not_null(session, "session") = nullptr;
    auto made = std::make_unique<gt_session>();
    made->loaded = gt::not_null(pipeline, "pipeline")->loaded;
    made->worker = made->loaded->backend->worker();
    *session = made.release();
  });
}

gt_status gt_person_create(const gt_pipeline* pipeline, const gt_person_source* source,
                           gt_person** person) {
  return gt::guarded([&] {
    *gt::not_null(person, "person") = nullptr;
    const auto given = gt::read_struct(*gt::not_null(source, "source"), sizeof(gt_person_source),
                                       "gt_person_source");
    if (given.parsing.data || given.densepose.data) {
      *person = new gt_person{gt::person_of_maps(given)};
      return;
    }
    gt::Loaded& loaded = *gt::not_null(pipeline, "pipeline, which makes the maps,")->loaded;
    *person =
        new gt_person{gt::person_of_photo(given, loaded.make_maps(), loaded.size, loaded.framing)};
  });
}

gt_status gt_person_read(const gt_person* person, gt_person_maps* maps) {
  return gt::guarded([&] {
    gt::read_struct(*gt::not_null(maps, "maps"), sizeof(gt_person_maps), "gt_person_maps");
    const gt::Person& from = gt::not_null(person, "person")->person;
    maps->height = from.image.rows;
    maps->width = from.image.cols;
    maps->image = from.image.data;
    maps->parsing = from.parsing.data;
    maps->densepose = from.densepose.data;
    maps->is_protected = from.is_protected.data;
    std::copy(from.confidence.begin(), from.confidence.end(), maps->confidence);
  });
}

void gt_person_free(gt_person* person) { delete person; }

gt_status gt_session_transfer(gt_session* session, const gt_photo_transfer* transfer) {
  return gt::guarded([&] {
    const gt::Hold hold(*gt::not_null(session, "session"));
    const auto given = gt::read_struct(*gt::not_null(transfer, "transfer"),
                                       sizeof(gt_photo_transfer), "gt_photo_transfer");
    if (given.threads < 0 || given.threads > 64) {
      throw gt::Error(GT_ARGUMENT_INVALID, "threads is " + std::to_string(given.threads),
                      "1 to 64, or 0 for 1");
    }
    const gt::Person& person = gt::not_null(given.person, "person")->person;
    const std::size_t pixels = person.image.total();
    const gt::Finished out{gt::place(given.image, 3 * pixels, "image"),
                           gt::place(given.transfer_parsing, pixels, "transfer_parsing"),
                           gt::place(given.warped_garment, 3 * pixels, "warped_garment")};
    gt::transfer(*session->worker, session->loaded->size, session->loaded->framing, person,
                 gt::not_null(given.garment_owner, "garment_owner")->person, given.threads, out);
  });
}

gt_status gt_session_run(gt_session* session, const gt_transfer* transfer) {
  return gt::guarded([&] {
    const gt::Hold hold(*gt::not_null(session, "session"));
    const gt_transfer given = gt::read_transfer(*gt::not_null(transfer, "transfer"));
    gt::Run run = gt::checked(given, session->loaded->size);
    gt::Times times{};
    if (given.times) run.times = &times;
    session->worker->run(run);
    if (given.times) gt::write_times(times, *given.times);
  });
}

gt_status gt_session_free(gt_session* session) {
  return gt::guarded([&] {
    if (!session) return;
    // held for good
    if (session->busy.exchange(true, std::memory_order_acquire)) {
      throw gt::Error(GT_SESSION_BUSY, "the session is running in another thread", {},
                      "free it when that is done");
    }
    delete session;
  });
}
