// TensorRT 10.16 and 11: engines that `garment-transfer build` added to the bundle, checked against
// their record as the bundle's EngineSet does in Python, and run in a row.
//
// Host pictures take one copy each way through page-locked memory around a CUDA graph per batch
// size. Device pictures are read and written where they lie, engine by engine on the caller's
// stream: a captured graph has fixed addresses. Those whose addresses TensorRT does not take go
// through the session's own memory.

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <system_error>
#include <tuple>
#include <utility>

#include "backend.h"
#include "error.h"

#if NV_TENSORRT_MAJOR < 10
#error "garment_transfer needs TensorRT 10.16 or later"
#endif

namespace garment_transfer::internal {
namespace {

namespace fs = std::filesystem;
namespace trt = nvinfer1;

// What TensorRT asks of addresses, in bytes: of tensors (setTensorAddress), of activation memory.
constexpr std::size_t kTensorAlignment = 256;
constexpr std::size_t kActivationAlignment = 512;

// Attempts at a graph before a session goes on without: another thread that synchronises the device
// breaks a capture, whatever its mode.
constexpr int kCaptures = 3;

// Batch sizes that a session keeps contexts, buffers and a graph for.
constexpr std::size_t kMaxChains = 4;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next call of anybody's reports it again
  const std::string why = std::string("CUDA cannot ") + what + ": " + cudaGetErrorString(error);
  if (error == cudaErrorMemoryAllocation) {
    throw Error(GT_OUT_OF_MEMORY, why, {}, "use a smaller batch or fewer sessions");
  }
  throw Error(GT_CUDA_FAILED, why, {}, "check the driver with nvidia-smi");
}

// Makes a device the thread's current one for a while.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "tell the current device");
    check(cudaSetDevice(device), "use the device");
  }
  ~OnDevice() { cudaSetDevice(before_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

template <typename T, cudaError_t (*kFree)(T)>
struct Freed {
  using pointer = T;
  void operator()(T handle) const { kFree(handle); }
};
using DeviceMemory = std::unique_ptr<void, Freed<void*, cudaFree>>;
using HostMemory = std::unique_ptr<void, Freed<void*, cudaFreeHost>>;
using Stream = std::unique_ptr<CUstream_st, Freed<cudaStream_t, cudaStreamDestroy>>;
using Event = std::unique_ptr<CUevent_st, Freed<cudaEvent_t, cudaEventDestroy>>;
using GraphExec = std::unique_ptr<CUgraphExec_st, Freed<cudaGraphExec_t, cudaGraphExecDestroy>>;

// Keeps the last error that TensorRT logged in each thread.
class Logger final : public trt::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      error() = message;
    } catch (...) {
    }
  }
  std::string last_error() {
    const std::string last = std::exchange(error(), {});
    return last.empty() ? "no reason given" : last;
  }

 private:
  static std::string& error() {
    thread_local std::string last;
    return last;
  }
};

// One for the process, never destroyed: TensorRT keeps the first that it is given, and logs there
// whatever it was given later.
Logger& logger() {
  static Logger& one = *new Logger;
  return one;
}

// Held while engines are loaded, contexts made and graphs captured, in the whole process: what
// TensorRT does to the device meanwhile would break a capture.
std::mutex& preparing() {
  static std::mutex& one = *new std::mutex;
  return one;
}

std::string installed_version() {
  const int version = getInferLibVersion(), build = getInferLibBuildVersion();
  std::ostringstream out;
  out << version / 10000 << '.' << version / 100 % 100 << '.' << version % 100 << '.' << build;
  return out.str();
}

// The engines of a bundle for one GPU, and their record.
class Engines {
 public:
  Engines(const Bundle& bundle, const std::string& compute_capability)
      : bundle_(bundle.path), precision_(bundle.precision) {
    std::string sm = compute_capability;
    sm.erase(std::remove(sm.begin(), sm.end(), '.'), sm.end());
    folder_ = fs::path(bundle.path) / "engines" / ("tensorrt-sm" + sm + "-" + precision_);
    const std::string path = (folder_ / "record.json").string();
    const std::string fix = "run `" + command() + "`";
    std::error_code error;
    if (!fs::is_regular_file(path, error)) {
      throw Error(GT_ENGINES_MISSING,
                  bundle.path + " has no " + precision_ +
                      " engines of tensorrt for a GPU of compute capability " + compute_capability,
                  {}, fix);
    }
    try {
      record_ = checked_record(read_json(path));
    } catch (const InvalidJson& invalid) {
      throw Error(GT_RECORD_INVALID, path + " is not a valid record: " + invalid.what(), {}, fix);
    } catch (const std::system_error& unreadable) {
      throw Error(GT_RECORD_INVALID, path + " cannot be read: " + unreadable.code().message(), {},
                  fix);
    }
    check(bundle, compute_capability);
  }

  // The plan of a stage, which is whole.
  std::vector<char> plan(std::size_t stage) const {
    const Json& engine = engine_of(stage);
    const std::string file = engine["file"];
    std::vector<char> content = read(folder_ / file);
    if (content.size() != engine["bytes"] || sha256(content) != engine["sha256"]) {
      refuse(GT_ENGINE_ALTERED, file + " was truncated or altered: its size (" +
                                    std::to_string(content.size()) + " bytes, " +
                                    engine["bytes"].dump() +
                                    " in the record) or its SHA-256 is not the record's");
    }
    return content;
  }

  void check_batch(std::int32_t batch) const {
    const Json& sizes = record_["batch"];
    if (batch >= sizes["min"] && batch <= sizes["max"]) return;
    throw Error(
        GT_ENGINE_BATCH,
        "the engines in " + folder_.string() + " do not take a batch of " + std::to_string(batch),
        sizes["min"].dump() + " to " + sizes["max"].dump(),
        "use such a batch, or build others with `" + command() + " --batch MIN:OPT:MAX`");
  }

  // A runtime, ready for the plugin that the engines call.
  std::shared_ptr<trt::IRuntime> runtime(const std::string& library) const {
    const Json& plugin = record_["plugin"];
    if (plugin.is_null()) return made_runtime();
    if (plugin["embedded"]) {
      auto made = made_runtime();
      made->setEngineHostCodeAllowed(true);
      return made;
    }
    const std::string name =
        plugin["name"].get<std::string>() + " version " + plugin["version"].get<std::string>();
    if (library.empty()) {
      throw Error(GT_PLUGIN_MISSING,
                  "the engines in " + folder_.string() + " call the plugin " + name,
                  "its library beside garment_transfer's, or in flow_warp_library",
                  "build it with TensorRT_ROOT set, or run `" + command() + " --plugin off`");
    }
    if (sha256(read(library)) != plugin["sha256"]) {
      refuse(GT_ENGINE_MISMATCH,
             "they were built with the plugin " + name + ", and " + library + " is another one");
    }
    // Shared and never destroyed: the plugin logs by the finder of the registry that loaded its
    // library last, which is the runtime's.
    static auto& loaded = *new std::map<std::string, std::shared_ptr<trt::IRuntime>>;
    auto& shared = loaded[plugin["sha256"]];
    if (!shared) {
      const auto made = made_runtime();
      if (!made->getPluginRegistry().loadLibrary(library.c_str())) {
        refuse(GT_ENGINE_REJECTED, "TensorRT does not load the plugin library " + library + ": " +
                                       logger().last_error());
      }
      shared = made;
    }
    return shared;
  }

  [[noreturn]] void refuse(gt_status status, const std::string& what) const {
    throw Error(status, "the engines in " + folder_.string() + " cannot be used: " + what, {},
                "run `" + command() + "`");
  }

  const fs::path& folder() const { return folder_; }

 private:
  const Json& engine_of(std::size_t stage) const { return record_["stages"][kStages[stage]]; }

  static std::shared_ptr<trt::IRuntime> made_runtime() {
    std::shared_ptr<trt::IRuntime> made(trt::createInferRuntime(logger()));
    if (!made) {
      throw Error(GT_BACKEND_UNAVAILABLE, "TensorRT does not start: " + logger().last_error());
    }
    return made;
  }

  std::string command() const {
    return "garment-transfer build " + bundle_ + " --backend tensorrt --precision " + precision_;
  }

  std::vector<char> read(const fs::path& path) const {
    try {
      return read_file(path.string(), fs::file_size(path));
    } catch (const std::system_error& error) {
      refuse(GT_ENGINE_ALTERED, path.string() + " cannot be read: " + error.code().message());
    }
  }

  void check(const Bundle& bundle, const std::string& compute_capability) const {
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      const Json& engine = engine_of(i);
      const Signature built = signature(engine);
      const Graph& graph = bundle.graphs[i];
      const std::string who = std::string("the engine of ") + kStages[i];
      if (engine["onnx_sha256"] != graph.sha256) {
        refuse(GT_ENGINE_MISMATCH, who + " was built from another graph than " + graph.path);
      }
      if (!(built.inputs == graph.signature.inputs && built.outputs == graph.signature.outputs)) {
        refuse(GT_ENGINE_MISMATCH, who + " has other inputs or outputs than the bundle's graph");
      }
    }
    const std::string backend = record_["backend"], built = record_["backend_version"];
    const std::string installed = installed_version();
    // as precise as the record is: "10.16.1" or "10.16.1.11"
    if (backend != "tensorrt" || (installed + ".").rfind(built + ".", 0) != 0) {
      refuse(GT_ENGINE_VERSION, "they were built by " + backend + " " + built + ", and TensorRT " +
                                    installed +
                                    " is installed: engines run in the version that built them");
    }
    const Json& built_for = record_["compute_capabilities"];
    if (std::find(built_for.begin(), built_for.end(), compute_capability) == built_for.end()) {
      refuse(GT_ENGINE_GPU, "they were built for another compute capability than this GPU's " +
                                compute_capability);
    }
  }

  std::string bundle_, precision_;
  fs::path folder_;
  Json record_;
};

trt::Dims dims(const Tensor& tensor, std::int32_t batch) {
  trt::Dims result{};
  result.nbDims = static_cast<std::int32_t>(tensor.shape.size());
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    result.d[i] = tensor.shape[i] == kBatch ? batch : tensor.shape[i];
  }
  return result;
}

class TensorRtBackend final : public Backend {
 public:
  TensorRtBackend(const Bundle& bundle, const BackendOptions& options)
      : size(bundle.size), device(options.device_id) {
    int count = 0;
    check(cudaGetDeviceCount(&count), "find a GPU");
    if (device >= count) {
      throw Error(GT_OPTION_INVALID, "device_id is " + std::to_string(device),
                  "less than " + std::to_string(count) + ", the number of CUDA devices");
    }
    const OnDevice on(device);
    int major = 0, minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "ask the GPU");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "ask the GPU");
    record = std::make_unique<Engines>(bundle, std::to_string(major) + "." + std::to_string(minor));
    const std::lock_guard<std::mutex> lock(preparing());
    runtime = record->runtime(options.flow_warp_library);
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      const std::vector<char> plan = record->plan(i);
      engines[i].reset(runtime->deserializeCudaEngine(plan.data(), plan.size()));
      if (!engines[i]) {
        record->refuse(GT_ENGINE_REJECTED, std::string("TensorRT does not load ") + kStages[i] +
                                               ": " + logger().last_error());
      }
      signatures[i] = bundle.graphs[i].signature;
      check_tensors(i);
    }
  }

  ~TensorRtBackend() override {
    try {
      const OnDevice on(device);
      for (auto& engine : engines) engine.reset();
      runtime.reset();
    } catch (const Error&) {
      // the device is gone, and with it what is to be freed
    }
  }

  std::unique_ptr<Worker> worker() override;

  std::string description() const override {
    return "TensorRT " + installed_version() + " on CUDA device " + std::to_string(device) +
           "; engines " + record->folder().string();
  }

  // Throws where a call of TensorRT returned false.
  void require(bool done, std::size_t stage, const char* what) {
    if (done) return;
    throw Error(GT_RUN_FAILED, "TensorRT cannot " + std::string(what) + " in the " +
                                   kStages[stage] + " engine: " + logger().last_error());
  }

  Size size;
  int device;
  std::array<Signature, 3> signatures;
  std::unique_ptr<Engines> record;
  std::shared_ptr<trt::IRuntime> runtime;  // outlives the engines
  std::array<std::unique_ptr<trt::ICudaEngine>, 3> engines;

 private:
  void check_tensors(std::size_t stage) {
    using Known = std::set<std::tuple<std::string, std::string, bool>>;
    Known found, expected;
    trt::ICudaEngine& engine = *engines[stage];
    for (std::int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
      const char* name = engine.getIOTensorName(i);
      const trt::DataType type = engine.getTensorDataType(name);
      found.emplace(name,
                    type == trt::DataType::kUINT8   ? "uint8"
                    : type == trt::DataType::kFLOAT ? "float32"
                                                    : "another type",
                    engine.getTensorIOMode(name) == trt::TensorIOMode::kINPUT);
    }
    for (const auto& tensor : signatures[stage].inputs) {
      expected.emplace(tensor.name, tensor.dtype, true);
    }
    for (const auto& tensor : signatures[stage].outputs) {
      expected.emplace(tensor.name, tensor.dtype, false);
    }
    if (found != expected) {
      record->refuse(GT_ENGINE_MISMATCH, std::string("the engine of ") + kStages[stage] +
                                             " has other tensors than its record");
    }
  }
};

// Between the parts of a run: its beginning, inputs in, after each graph, results out.
constexpr std::size_t kMarks = kParts + 1;
using Marks = std::array<Event, kMarks>;

// What transfers of one batch size need: contexts, buffers, and a graph of the chain.
class Chain {
 public:
  Chain(TensorRtBackend& backend, std::int32_t batch, cudaStream_t stream, const Marks& marks)
      : backend_(backend), batch_(batch), stream_(stream), marks_(marks) {
    std::size_t activation = 0;
    const auto place = [](std::size_t& end, std::size_t bytes) {
      const std::size_t at = end;
      end = aligned(end + bytes);
      return at;
    };
    for (std::size_t i = 0; i < kInputs.size(); ++i) {
      const std::size_t pixels = output_bytes(1, backend.size, batch);
      input_at_[i] = place(input_bytes_, i % 3 == 1 ? pixels : 3 * pixels);
    }
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      output_at_[i] = place(output_bytes_, output_bytes(i, backend.size, batch));
    }
    const std::lock_guard<std::mutex> lock(preparing());
    std::array<std::size_t, kStages.size()> needed{};
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      contexts_[i].reset(backend.engines[i]->createExecutionContext(
          trt::ExecutionContextAllocationStrategy::kUSER_MANAGED));
      backend.require(contexts_[i] != nullptr, i, "make an execution context");
      backend.require(contexts_[i]->setOptimizationProfileAsync(0, stream), i, "take a profile");
      for (const auto& tensor : backend.signatures[i].inputs) {
        backend.require(contexts_[i]->setInputShape(tensor.name.c_str(), dims(tensor, batch)), i,
                        "take an input's shape");
      }
      needed[i] = contexts_[i]->updateDeviceMemorySizeForShapes();
      activation = std::max(activation, needed[i]);
    }
    // Contexts run one after another, and share their activation memory, which is first: TensorRT
    // would only log that it refuses an address. CUDA promises 256 bytes.
    activation = aligned(activation);
    std::size_t room = activation + input_bytes_ + output_bytes_ + kActivationAlignment;
    void* memory = nullptr;
    check(cudaMalloc(&memory, room), "allocate memory");
    block_.reset(memory);
    std::align(kActivationAlignment, activation, memory, room);
    on_device_ = static_cast<unsigned char*>(memory) + activation;
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      if (!needed[i]) continue;
      contexts_[i]->setDeviceMemoryV2(memory, static_cast<std::int64_t>(needed[i]));
    }
    check(cudaHostAlloc(&memory, input_bytes_ + output_bytes_, cudaHostAllocDefault),
          "allocate page-locked memory");
    on_host_.reset(memory);
    // What TensorRT puts off until the first run happens now, and may not be captured.
    std::memset(on_host_.get(), 0, input_bytes_);
    copies_and_engines(false);
    check(cudaStreamSynchronize(stream), "run the engines");
  }

  std::int32_t batch() const { return batch_; }

  // Pictures in host memory; returns when the results are there.
  void run_on_host(const Run& run) {
    for (std::size_t i = 0; i < kInputs.size(); ++i) {
      copy_dense(run.inputs[i], batch_, host_at(input_at_[i]));
    }
    // what is timed is launched in pieces, with marks between them
    if (run.times || !replayed()) copies_and_engines(run.times);
    check(cudaStreamSynchronize(stream_), "run the engines");
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      if (run.outputs[i]) {
        std::memcpy(run.outputs[i], host_at(input_bytes_ + output_at_[i]),
                    output_bytes(i, backend_.size, batch_));
      }
    }
    if (run.times) read_times(*run.times);
  }

  // An output of the last run, in device memory.
  unsigned char* output(std::size_t i) { return device_at(input_bytes_ + output_at_[i]); }

  // Pictures in device memory, on the caller's stream; waits for it where times are asked for.
  void run_on_device(const Run& run) {
    const auto stream = static_cast<cudaStream_t>(run.stream);
    auto addresses = own_addresses();
    mark(0, stream, run.times);
    for (std::size_t i = 0; i < kInputs.size(); ++i) {
      const Run::Input& input = run.inputs[i];
      if (input.dense() && takes(input.data)) {
        addresses[kInputs[i]] = const_cast<unsigned char*>(input.data);
        continue;
      }
      for (std::int32_t n = 0; n < batch_; ++n) {
        const auto picture = static_cast<std::size_t>(n);
        check(cudaMemcpy2DAsync(device_at(input_at_[i] + picture * input.rows * input.row_bytes),
                                input.row_bytes, input.data + picture * input.batch_stride,
                                input.row_stride, input.row_bytes, input.rows,
                                cudaMemcpyDeviceToDevice, stream),
              "copy an input");
      }
    }
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      if (run.outputs[i] && takes(run.outputs[i])) addresses[kOutputs[i]] = run.outputs[i];
    }
    bind(addresses);
    engines(stream, run.times);
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      if (!run.outputs[i] || takes(run.outputs[i])) continue;
      check(
          cudaMemcpyAsync(run.outputs[i], device_at(input_bytes_ + output_at_[i]),
                          output_bytes(i, backend_.size, batch_), cudaMemcpyDeviceToDevice, stream),
          "copy an output");
    }
    mark(kMarks - 1, stream, run.times);
    if (!run.times) return;
    check(cudaStreamSynchronize(stream), "run the engines");
    read_times(*run.times);
  }

 private:
  using Addresses = std::map<std::string, void*>;

  static std::size_t aligned(std::size_t bytes) {
    return (bytes + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
  }

  // Whether TensorRT takes an address of the caller's.
  static bool takes(const void* address) {
    return reinterpret_cast<std::uintptr_t>(address) % kTensorAlignment == 0;
  }

  unsigned char* device_at(std::size_t at) { return on_device_ + at; }
  unsigned char* host_at(std::size_t at) {
    return static_cast<unsigned char*>(on_host_.get()) + at;
  }

  Addresses own_addresses() {
    Addresses addresses;
    for (std::size_t i = 0; i < kInputs.size(); ++i)
      addresses[kInputs[i]] = device_at(input_at_[i]);
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      addresses[kOutputs[i]] = output(i);
    }
    return addresses;
  }

  // Only what changed: TensorRT prepares a context anew for every address that it is given.
  void bind(const Addresses& addresses) {
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      const Signature& signature = backend_.signatures[i];
      for (const auto* tensors : {&signature.inputs, &signature.outputs}) {
        for (const auto& tensor : *tensors) {
          void* const address = addresses.at(tensor.name);
          void*& bound = bound_[i][tensor.name];
          if (bound == address) continue;
          backend_.require(contexts_[i]->setTensorAddress(tensor.name.c_str(), address), i,
                           "take an address");
          bound = address;
        }
      }
    }
  }

  void mark(std::size_t at, cudaStream_t stream, bool timed) {
    if (timed) check(cudaEventRecord(marks_[at].get(), stream), "record an event");
  }

  void read_times(Times& times) {
    for (std::size_t i = 0; i < times.size(); ++i) {
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, marks_[i].get(), marks_[i + 1].get()),
            "tell the time between events");
      times[i] = milliseconds;
    }
  }

  void engines(cudaStream_t stream, bool timed) {
    mark(1, stream, timed);
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      backend_.require(contexts_[i]->enqueueV3(stream), i, "run");
      mark(2 + i, stream, timed);
    }
  }

  void copies_and_engines(bool timed) {
    bind(own_addresses());
    mark(0, stream_, timed);
    check(cudaMemcpyAsync(device_at(0), host_at(0), input_bytes_, cudaMemcpyHostToDevice, stream_),
          "copy the inputs");
    engines(stream_, timed);
    check(cudaMemcpyAsync(host_at(input_bytes_), device_at(input_bytes_), output_bytes_,
                          cudaMemcpyDeviceToHost, stream_),
          "copy the outputs");
    mark(kMarks - 1, stream_, timed);
  }

  // Whether one launch of a graph did it all; false where none could be captured.
  bool replayed() {
    while (!graph_ && captures_ < kCaptures) {
      ++captures_;
      graph_ = capture();
    }
    if (graph_) check(cudaGraphLaunch(graph_.get(), stream_), "launch a graph");
    return graph_ != nullptr;
  }

  // Null where it failed; the same work has run without.
  GraphExec capture() {
    const std::lock_guard<std::mutex> lock(preparing());
    check(cudaStreamSynchronize(stream_), "wait for the run before");
    bind(own_addresses());
    // relaxed: other sessions may allocate meanwhile
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "begin a capture");
    bool whole = true;
    try {
      copies_and_engines(false);
    } catch (const Error&) {
      whole = false;
    }
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    whole = cudaStreamEndCapture(stream_, &graph) == cudaSuccess && whole &&
            cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess;
    if (graph) cudaGraphDestroy(graph);
    if (!whole) cudaGetLastError();  // or the next call of anybody's reports it again
    return GraphExec(executable);
  }

  TensorRtBackend& backend_;
  std::int32_t batch_;
  cudaStream_t stream_;
  const Marks& marks_;
  std::array<std::size_t, kInputs.size()> input_at_{};
  std::array<std::size_t, kOutputs.size()> output_at_{};
  std::size_t input_bytes_ = 0, output_bytes_ = 0;
  DeviceMemory block_;
  unsigned char* on_device_ = nullptr;  // inputs, then outputs
  HostMemory on_host_;
  std::array<std::unique_ptr<trt::IExecutionContext>, 3> contexts_;
  std::array<Addresses, 3> bound_;
  GraphExec graph_;
  int captures_ = 0;  // attempts
};

class TensorRtWorker final : public Worker {
 public:
  explicit TensorRtWorker(TensorRtBackend& backend) : backend_(backend) {
    const OnDevice on(backend.device);
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a stream");
    stream_.reset(stream);
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "make an event");
    done_.reset(event);
    for (auto& mark : marks_) {
      check(cudaEventCreateWithFlags(&event, cudaEventDefault), "make an event");
      mark.reset(event);
    }
  }

  ~TensorRtWorker() override {
    try {
      const OnDevice on(backend_.device);
      cudaEventSynchronize(done_.get());
      chains_.clear();
      photos_ = {};
      workspace_ = {};
      for (auto& mark : marks_) mark.reset();
      done_.reset();
      stream_.reset();
    } catch (const Error&) {
      // the device is gone, and with it what is to be freed
    }
  }

  void run(const Run& run) override {
    const OnDevice on(backend_.device);
    backend_.record->check_batch(run.batch);
    if (run.memory == GT_DEVICE) check_pointers(run);
    Chain& chain = chain_for(run.batch);
    // contexts and buffers are still in use by the run before, on whichever stream it is
    const auto stream =
        run.memory == GT_HOST ? stream_.get() : static_cast<cudaStream_t>(run.stream);
    check(cudaStreamWaitEvent(stream, done_.get(), 0), "wait for the run before");
    if (run.memory == GT_HOST) {
      chain.run_on_host(run);
    } else {
      try {
        chain.run_on_device(run);
      } catch (...) {
        cudaEventRecord(done_.get(),
                        stream);  // what was put on the stream is still to be waited for
        throw;
      }
      check(cudaEventRecord(done_.get(), stream), "mark the end of a run");
    }
  }

#if defined(GT_PHOTOS_WITH_CUDA)
  bool compose(const GtCompose& on_host) override {
    const OnDevice on(backend_.device);
    try {
      const bool made = composed(on_host);
      check(cudaStreamSynchronize(stream_.get()), "compose a photo");
      if (photos_.bytes + workspace_.bytes > kMostKept) photos_ = {}, workspace_ = {};
      return made;
    } catch (...) {
      cudaStreamSynchronize(stream_.get());  // copies to the caller's memory may be under way
      throw;
    }
  }
#endif

 private:
  // A session that had larger photos gives their memory back.
  static constexpr std::size_t kMostKept = std::size_t{1} << 30;

#if defined(GT_PHOTOS_WITH_CUDA)
  // Queues it all; false where there is not the memory for it.
  bool composed(const GtCompose& on_host) {
    const auto stream = stream_.get();
    GtCompose call = on_host;
    GtPicture* const read[] = {&call.photo, &call.parsing, &call.kept, &call.owner_photo,
                               &call.owner_garment};
    const auto row_of = [](const GtPicture& picture) {
      return static_cast<std::size_t>(picture.width) * static_cast<std::size_t>(picture.channels);
    };
    const auto area =
        static_cast<std::size_t>(call.photo.height) * static_cast<std::size_t>(call.photo.width);
    struct Written {
      std::uint8_t** to;
      std::size_t bytes;
    };
    const Written written[] = {{&call.out_image, 3 * area},
                               {&call.out_parsing, area},
                               {&call.out_warped_garment, 3 * area}};
    std::size_t bytes = 0;
    for (const GtPicture* picture : read) {
      if (picture->data) bytes += row_of(*picture) * static_cast<std::size_t>(picture->height);
    }
    for (const Written& one : written) bytes += *one.to ? one.bytes : 0;
    if (!reserve(photos_, bytes)) return false;
    auto* at = static_cast<std::uint8_t*>(photos_.memory.get());
    for (GtPicture* picture : read) {
      if (!picture->data) continue;
      const std::size_t row = row_of(*picture), rows = static_cast<std::size_t>(picture->height);
      check(cudaMemcpy2DAsync(at, row, picture->data, static_cast<std::size_t>(picture->stride),
                              row, rows, cudaMemcpyHostToDevice, stream),
            "copy a photo");
      picture->data = at;
      picture->stride = static_cast<std::int64_t>(row);
      at += row * rows;
    }
    for (const Written& one : written) {
      if (!*one.to) continue;
      *one.to = at;
      at += one.bytes;
    }
    Chain& chain = chain_for(1);
    call.image.data = chain.output(0);
    call.transfer_parsing.data = chain.output(1);
    call.warped_garment.data = chain.output(2);
    call.transfer_scores.data = chain.output(4);
    call.flow = reinterpret_cast<const float*>(chain.output(3));
    for (GtPicture* picture :
         {&call.image, &call.transfer_parsing, &call.warped_garment, &call.transfer_scores}) {
      picture->stride = static_cast<std::int64_t>(row_of(*picture));
    }
    if (!reserve(workspace_, gt_compose_cuda_bytes(&call))) return false;
    if (gt_compose_cuda(&call, workspace_.memory.get(), stream) != GT_PHOTOS_OK) {
      throw Error(GT_CUDA_FAILED, "CUDA refuses to compose a photo",
                  "kernels for this GPU and a driver of their CUDA",
                  "build the library on this machine, or without nvcc for the CPU's code");
    }
    std::uint8_t* const outputs[] = {on_host.out_image, on_host.out_parsing,
                                     on_host.out_warped_garment};
    for (std::size_t i = 0; i < std::size(outputs); ++i) {
      if (!outputs[i]) continue;
      check(cudaMemcpyAsync(outputs[i], *written[i].to, written[i].bytes, cudaMemcpyDeviceToHost,
                            stream),
            "copy a photo");
    }
    return true;
  }
#endif

  // Device memory that is made anew where more is needed.
  struct Growing {
    DeviceMemory memory;
    std::size_t bytes = 0;
  };
  static bool reserve(Growing& growing, std::size_t bytes) {
    if (bytes <= growing.bytes) return true;
    growing = {};
    void* memory = nullptr;
    if (cudaMalloc(&memory, bytes) != cudaSuccess) {
      cudaGetLastError();  // told here, by no other call
      return false;
    }
    growing.memory.reset(memory);
    growing.bytes = bytes;
    return true;
  }

  void check_pointers(const Run& run) const {
    const auto one = [&](const void* pointer, const char* name) {
      cudaPointerAttributes attributes{};
      check(cudaPointerGetAttributes(&attributes, pointer), "tell where a pointer leads");
      const bool device =
          attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
      if (device && attributes.device == backend_.device) return;
      throw Error(
          GT_ARRAY_INVALID,
          std::string(name) + ".data is " +
              (device ? "memory of CUDA device " + std::to_string(attributes.device)
                      : std::string("host memory")),
          "memory of CUDA device " + std::to_string(backend_.device) + ", as memory is GT_DEVICE");
    };
    for (std::size_t i = 0; i < kInputs.size(); ++i) one(run.inputs[i].data, kInputs[i]);
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      if (run.outputs[i]) one(run.outputs[i], kOutputs[i]);
    }
  }

  // The chain for a batch size, which becomes the first; the one that was not used for longest goes
  // where there are too many.
  Chain& chain_for(std::int32_t batch) {
    const auto found = std::find_if(chains_.begin(), chains_.end(),
                                    [&](const auto& chain) { return chain->batch() == batch; });
    if (found != chains_.end()) {
      chains_.splice(chains_.begin(), chains_, found);
    } else {
      if (chains_.size() == kMaxChains) {
        // the run before may still use it
        check(cudaEventSynchronize(done_.get()), "wait for the run before");
        chains_.pop_back();
      }
      chains_.push_front(std::make_unique<Chain>(backend_, batch, stream_.get(), marks_));
    }
    return *chains_.front();
  }

  TensorRtBackend& backend_;
  Stream stream_;
  Event done_;
  Marks marks_;
  Growing photos_, workspace_;
  std::list<std::unique_ptr<Chain>> chains_;  // at most kMaxChains, last used first
};

std::unique_ptr<Worker> TensorRtBackend::worker() {
  return std::make_unique<TensorRtWorker>(*this);
}

}  // namespace

std::unique_ptr<Backend> load_tensorrt(Bundle bundle, const BackendOptions& options) {
  if (options.device != "" && options.device != "cuda") {
    throw Error(GT_OPTION_INVALID, "unknown device '" + options.device + "'",
                "cuda for backend tensorrt");
  }
  return std::make_unique<TensorRtBackend>(bundle, options);
}

}  // namespace garment_transfer::internal
