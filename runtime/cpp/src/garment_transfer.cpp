// The C interface: checks what the caller passes, and lets no exception out.

#include <garment_transfer/garment_transfer.h>

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <system_error>

#include "backend.h"
#include "bundle.h"
#include "error.h"
#include "version.h"

namespace gt = garment_transfer;

namespace garment_transfer {

// What sessions share and keep alive.
struct Loaded {
  Size size;
  std::unique_ptr<Backend> backend;
  std::string description;
};

}  // namespace garment_transfer

struct gt_pipeline {
  std::shared_ptr<gt::Loaded> loaded;
};

struct gt_session {
  std::shared_ptr<gt::Loaded> loaded;  // before the worker, which needs it to the end
  std::unique_ptr<gt::Worker> worker;
  std::atomic<bool> busy{false};
};

namespace garment_transfer {
namespace {

#ifdef GARMENT_TRANSFER_TENSORRT
constexpr char kBackends[] = "onnxruntime,tensorrt";
#else
constexpr char kBackends[] = "onnxruntime";
#endif

[[noreturn]] void refuse(const std::string& message) { throw Error(GT_INVALID_ARGUMENT, message); }

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
  if (!pointer) refuse(std::string(name) + " is null; expected a pointer");
  return pointer;
}

void check_struct_size(std::size_t found, std::size_t due, const char* name, const char* mend) {
  if (found == due) return;
  refuse(std::string(name) + ".struct_size is " + std::to_string(found) + "; expected " +
         std::to_string(due) + ": " + mend + ", and build against the header of version " +
         kVersion);
}

std::string text_of(const char* value) { return value ? value : ""; }

std::unique_ptr<Backend> load_backend(const std::string& name, Bundle bundle,
                                      const BackendOptions& options) {
#ifdef GARMENT_TRANSFER_TENSORRT
  if (name == "tensorrt") return load_tensorrt(std::move(bundle), options);
#else
  static_cast<void>(name);
#endif
  return load_onnxruntime(std::move(bundle), options);
}

// `given` may be shorter than it should be until its size is checked.
std::shared_ptr<Loaded> load(const char* bundle_path, const gt_pipeline_options& given) {
  check_struct_size(given.struct_size, sizeof given, "gt_pipeline_options",
                    "begin with GT_PIPELINE_OPTIONS_INIT");
  const std::string backend = given.backend && *given.backend ? given.backend : "onnxruntime";
  const std::string available = std::string(",") + kBackends + ",";
  if (backend.find(',') != std::string::npos ||
      available.find("," + backend + ",") == std::string::npos) {
    throw Error(GT_BACKEND_ERROR, "unknown backend '" + backend + "'; available: " + kBackends +
                                      "; tensorrt is built in where TensorRT_ROOT was set");
  }
  if (given.threads < 0) {
    refuse("threads is " + std::to_string(given.threads) +
           "; expected 1 or more, or 0 for the default");
  }
  if (given.device_id < 0) {
    refuse("device_id is " + std::to_string(given.device_id) + "; expected 0 or more");
  }
  BackendOptions options;
  options.device = text_of(given.device);
  options.device_id = given.device_id;
  options.threads = given.threads;
  options.flow_warp_named = given.flow_warp_library && *given.flow_warp_library;
  options.flow_warp_library =
      given.flow_warp_library
          ? given.flow_warp_library
          : library_beside(("libgarment_transfer_" + backend + ".so").c_str());

  auto loaded = std::make_shared<Loaded>();
  Bundle bundle = load_bundle(bundle_path, text_of(given.precision));
  loaded->size = bundle.size;
  loaded->backend = load_backend(backend, std::move(bundle), options);
  loaded->description = loaded->backend->description();
  return loaded;
}

Run::Input checked(const gt_input& given, const std::string& who, std::size_t channels, Size size,
                   std::int32_t batch) {
  if (!given.data) refuse(who + ".data is null; expected the pixels");
  if (given.height != size.height || given.width != size.width) {
    refuse(who + " is " + std::to_string(given.height) + "x" + std::to_string(given.width) +
           " (height x width); the bundle's size is " + std::to_string(size.height) + "x" +
           std::to_string(size.width) + ": fit photos and maps to it first");
  }
  Run::Input input;
  input.data = static_cast<const unsigned char*>(given.data);
  input.rows = static_cast<std::size_t>(size.height);
  input.row_bytes = channels * static_cast<std::size_t>(size.width);
  input.row_stride = given.row_stride ? given.row_stride : input.row_bytes;
  const auto refuse_stride = [&](const char* kind, std::size_t found, std::size_t least,
                                 std::size_t most) {
    refuse(who + "." + kind + " is " + std::to_string(found) + " bytes; expected " +
           std::to_string(least) + " to " + std::to_string(most) + ", or 0 where they lie close "
           "together");
  };
  // Beyond these an address would overflow.
  constexpr std::size_t kMost = PTRDIFF_MAX;
  const std::size_t most_row = kMost / input.rows;
  if (input.row_stride < input.row_bytes || input.row_stride > most_row) {
    refuse_stride("row_stride", input.row_stride, input.row_bytes, most_row);
  }
  const std::size_t picture = (input.rows - 1) * input.row_stride + input.row_bytes;
  const std::size_t most_batch = kMost / static_cast<std::size_t>(batch);
  input.batch_stride = given.batch_stride ? given.batch_stride : input.rows * input.row_stride;
  // nobody steps over a single picture
  if (batch == 1) input.batch_stride = input.rows * input.row_stride;
  if (input.batch_stride < picture || input.batch_stride > most_batch) {
    refuse_stride("batch_stride", input.batch_stride, picture, most_batch);
  }
  return input;
}

Run checked(const gt_transfer& given, Size size) {
  check_struct_size(given.struct_size, sizeof given, "gt_transfer",
                    "set the struct to zero and struct_size to its size");
  if (given.batch < 1) {
    refuse("batch is " + std::to_string(given.batch) + "; expected 1 or more pairs");
  }
  // As an integer, since the caller may have put anything there.
  int memory = 0;
  static_assert(sizeof memory == sizeof given.memory);
  std::memcpy(&memory, &given.memory, sizeof memory);
  if (memory != GT_HOST && memory != GT_DEVICE) {
    refuse("memory is " + std::to_string(memory) + "; expected GT_HOST or GT_DEVICE");
  }
  if (memory == GT_HOST && given.stream) {
    refuse("stream is not null with GT_HOST; expected null, as the call itself waits");
  }
  Run run;
  run.batch = given.batch;
  run.memory = static_cast<gt_memory>(memory);
  run.stream = given.stream;
  const gt_input* inputs[] = {&given.person_image,     &given.person_parsing,
                              &given.person_densepose, &given.garment_image,
                              &given.garment_parsing,  &given.garment_densepose};
  for (std::size_t i = 0; i < kInputs.size(); ++i) {
    const std::size_t channels = i % 3 == 1 ? 1 : 3;
    run.inputs[i] = checked(*inputs[i], kInputs[i], channels, size, given.batch);
  }
  const gt_output* outputs[] = {&given.image, &given.transfer_parsing, &given.warped_garment,
                                &given.flow};
  for (std::size_t i = 0; i < kOutputs.size(); ++i) {
    const std::size_t due = output_bytes(i, size, given.batch);
    if (outputs[i]->data && outputs[i]->capacity < due) {
      refuse(std::string(kOutputs[i]) + ".capacity is " + std::to_string(outputs[i]->capacity) +
             " bytes; expected " + std::to_string(due) + " for a batch of " +
             std::to_string(given.batch) + ", or data null to leave it out");
    }
    if (reinterpret_cast<std::uintptr_t>(outputs[i]->data) % (i == 3 ? alignof(float) : 1)) {
      refuse(std::string(kOutputs[i]) + ".data is not aligned for float32");
    }
    run.outputs[i] = outputs[i]->data;
  }
  return run;
}

// Holds a session for one call.
class Hold {
 public:
  explicit Hold(gt_session& session) : session_(session) {
    if (session.busy.exchange(true, std::memory_order_acquire)) {
      throw Error(GT_SESSION_BUSY,
                  "the session is running in another thread; create one session per worker");
    }
  }
  ~Hold() { session_.busy.store(false, std::memory_order_release); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  gt_session& session_;
};

}  // namespace

std::size_t output_bytes(std::size_t output, Size size, std::int32_t batch) {
  constexpr std::size_t kPerPixel[] = {3, 1, 3, 2 * sizeof(float)};
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

}  // namespace garment_transfer

const char* gt_version(void) { return gt::kVersion; }

const char* gt_backends(void) { return gt::kBackends; }

const char* gt_last_message(void) { return gt::last_message().c_str(); }

gt_status gt_pipeline_load(const char* bundle, const gt_pipeline_options* options,
                           gt_pipeline** pipeline) {
  return gt::guarded([&] {
    *gt::not_null(pipeline, "pipeline") = nullptr;
    gt::not_null(bundle, "bundle");
    const gt_pipeline_options defaults = GT_PIPELINE_OPTIONS_INIT;
    auto made = std::make_unique<gt_pipeline>();
    made->loaded = gt::load(bundle, *(options ? options : &defaults));
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

gt_status gt_session_run(gt_session* session, const gt_transfer* transfer) {
  return gt::guarded([&] {
    const gt::Hold hold(*gt::not_null(session, "session"));
    session->worker->run(gt::checked(*gt::not_null(transfer, "transfer"), session->loaded->size));
  });
}

gt_status gt_session_free(gt_session* session) {
  return gt::guarded([&] {
    if (!session) return;
    // held for good
    if (session->busy.exchange(true, std::memory_order_acquire)) {
      throw gt::Error(GT_SESSION_BUSY,
                      "the session is running in another thread; free it when that is done");
    }
    delete session;
  });
}
