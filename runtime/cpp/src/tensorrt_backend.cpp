// TensorRT 10.16 and 11: engines that `garment-transfer build` added to the bundle, checked against
// their record as runtime/engines.py does, and run in a row as runtime/chain.py does.
//
// Host pictures take one copy each way through page-locked memory around a CUDA graph per batch
// size. Device pictures are read and written where they lie, engine by engine on the caller's
// stream: a captured graph has fixed addresses.

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <system_error>
#include <tuple>
#include <utility>

#include "backend.h"
#include "engine_schema.h"
#include "error.h"
#include "schema.h"
#include "sha256.h"

#if NV_TENSORRT_MAJOR < 10
#error "garment_transfer needs TensorRT 10.16 or later"
#endif

namespace garment_transfer {
namespace {

namespace fs = std::filesystem;
namespace trt = nvinfer1;

// Of every tensor in a block of memory, in bytes: what TensorRT asks of addresses.
constexpr std::size_t kAlignment = 256;

[[noreturn]] void refuse(const std::string& message) { throw Error(GT_BACKEND_ERROR, message); }

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next call of anybody's reports it again
  const std::string why = std::string("CUDA cannot ") + what + ": " + cudaGetErrorString(error);
  if (error == cudaErrorMemoryAllocation) {
    throw Error(GT_OUT_OF_MEMORY, why + "; use a smaller batch or fewer sessions");
  }
  refuse(why + "; check the driver with nvidia-smi");
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

// What TensorRT said last that was an error.
class Logger final : public trt::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::lock_guard<std::mutex> lock(guard_);
      said_ = message;
    } catch (...) {
    }
  }
  std::string said() {
    const std::lock_guard<std::mutex> lock(guard_);
    return said_.empty() ? "no reason given" : said_;
  }

 private:
  std::mutex guard_;
  std::string said_;
};

std::string installed_version() {
  const int version = getInferLibVersion(), build = getInferLibBuildVersion();
  std::ostringstream out;
  out << version / 10000 << '.' << version / 100 % 100 << '.' << version % 100 << '.' << build;
  return out.str();
}

std::vector<char> file_of(const fs::path& path) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) refuse(path.string() + " cannot be read: " + error.message());
  return read_file(path.string(), size, GT_BACKEND_ERROR);
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
    std::error_code error;
    if (!fs::is_regular_file(path, error)) {
      refuse(bundle.path + " has no " + precision_ +
             " engines of tensorrt for a GPU of compute capability " + compute_capability +
             "; run `" + command() + "`");
    }
    record_ = read_json(path, GT_BACKEND_ERROR, "run `" + command() + "`");
    static const Json schema = Json::parse(kEngineSchema);
    if (const auto wrong = violation(schema, record_)) {
      refuse(path + " is not a valid record: " + *wrong + "; run `" + command() + "`");
    }
    check(bundle, compute_capability);
  }

  // The plan of a stage, which is whole.
  std::vector<char> plan(std::size_t stage) const {
    const Json& engine = record_["stages"][kStages[stage]];
    const fs::path path = folder_ / engine["file"].get<std::string>();
    std::vector<char> content = file_of(path);
    if (static_cast<std::int64_t>(content.size()) != integer(engine["bytes"]) ||
        sha256(content.data(), content.size()) != engine["sha256"]) {
      cannot(path.filename().string() + " was altered or is not whole: its size (" +
             std::to_string(content.size()) + " bytes) or its SHA-256 is not the record's");
    }
    return content;
  }

  void check_batch(std::int32_t batch) const {
    const Json& have = record_["batch"];
    if (batch >= integer(have["min"]) && batch <= integer(have["max"])) return;
    throw Error(GT_INVALID_ARGUMENT,
                "a batch of " + std::to_string(batch) + ": the engines in " + folder_.string() +
                    " were built for " + have["min"].dump() + " to " + have["max"].dump() +
                    "; use such a batch, or build others with `" + command() +
                    " --batch MIN:OPT:MAX`");
  }

  // Readies a runtime for the plugin that the engines call.
  void load_plugin(trt::IRuntime& runtime, const std::string& library) const {
    const Json& plugin = record_["plugin"];
    if (plugin.is_null()) return;
    if (plugin["embedded"].get<bool>()) {
      runtime.setEngineHostCodeAllowed(true);
      return;
    }
    const std::string name = plugin["name"].get<std::string>() + " version " +
                             plugin["version"].get<std::string>();
    if (library.empty()) {
      refuse("the engines in " + folder_.string() + " call the plugin " + name +
             ", and its library is not beside garment_transfer's: build it with TensorRT_ROOT "
             "set, name it in flow_warp_library, or run `" + command() + " --plugin off`");
    }
    const std::vector<char> content = file_of(library);
    if (sha256(content.data(), content.size()) != plugin["sha256"]) {
      cannot("they were built with the plugin " + name + ", and " + library + " is another one");
    }
    if (!runtime.getPluginRegistry().loadLibrary(library.c_str())) {
      refuse("TensorRT does not load the plugin library " + library);
    }
  }

  [[noreturn]] void cannot(const std::string& what) const {
    refuse("the engines in " + folder_.string() + " cannot be used: " + what + "; run `" +
           command() + "`");
  }

  const fs::path& folder() const { return folder_; }

 private:
  std::string command() const {
    return "garment-transfer build " + bundle_ + " --backend tensorrt --precision " + precision_;
  }

  void check(const Bundle& bundle, const std::string& compute_capability) const {
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      const Json& engine = record_["stages"][kStages[i]];
      const Graph& graph = bundle.graphs[i];
      if (engine["onnx_sha256"] != graph.sha256) {
        cannot(std::string("the engine of ") + kStages[i] + " was built from another graph than " +
               graph.path);
      }
      if (tensors(engine["inputs"]) != graph.signature.inputs ||
          tensors(engine["outputs"]) != graph.signature.outputs) {
        cannot(std::string("the engine of ") + kStages[i] +
               " does not take and give what the bundle's graph does");
      }
    }
    const std::string built = record_["flavour_version"], installed = installed_version();
    // as precise as the record is: "10.16.1" or "10.16.1.11"
    if (record_["flavour"] != "tensorrt" || (installed + ".").rfind(built + ".", 0) != 0) {
      cannot("they were built by " + record_["flavour"].get<std::string>() + " " + built +
             ", and TensorRT " + installed +
             " is installed: engines run in the version that built them");
    }
    const Json& capabilities = record_["compute_capabilities"];
    if (std::find(capabilities.begin(), capabilities.end(), compute_capability) ==
        capabilities.end()) {
      cannot("they were built for another compute capability than this GPU's " +
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
      throw Error(GT_INVALID_ARGUMENT, "device_id is " + std::to_string(device) + "; there are " +
                                           std::to_string(count) + " CUDA devices");
    }
    const OnDevice on(device);
    int major = 0, minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "ask the GPU");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "ask the GPU");
    record = std::make_unique<Engines>(bundle,
                                       std::to_string(major) + "." + std::to_string(minor));
    runtime_.reset(trt::createInferRuntime(logger));
    if (!runtime_) refuse("TensorRT does not start: " + logger.said());
    record->load_plugin(*runtime_, options.flow_warp_library);
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      const std::vector<char> plan = record->plan(i);
      engines[i].reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
      if (!engines[i]) {
        record->cannot(std::string("TensorRT does not load ") + kStages[i] + ": " + logger.said());
      }
      signatures[i] = bundle.graphs[i].signature;
      check_tensors(i);
    }
  }

  std::unique_ptr<Worker> worker() override;

  std::string description() const override {
    return "TensorRT " + installed_version() + " on CUDA device " + std::to_string(device) +
           "; engines " + record->folder().string();
  }

  // What a call of TensorRT that returns false says.
  void require(bool done, std::size_t stage, const char* what) {
    if (!done) {
      refuse("TensorRT cannot " + std::string(what) + " in the " + kStages[stage] +
             " engine: " + logger.said());
    }
  }

  Logger logger;
  Size size;
  int device;
  std::array<Signature, 3> signatures;
  std::unique_ptr<Engines> record;

 private:
  std::unique_ptr<trt::IRuntime> runtime_;  // outlives the engines

  void check_tensors(std::size_t stage) {
    using Known = std::set<std::tuple<std::string, std::string, bool>>;
    Known found, due;
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
    for (const auto& tensor : signatures[stage].inputs) due.emplace(tensor.name, tensor.dtype, true);
    for (const auto& tensor : signatures[stage].outputs) {
      due.emplace(tensor.name, tensor.dtype, false);
    }
    if (found != due) {
      record->cannot(std::string("the engine of ") + kStages[stage] +
                     " has other tensors than its record");
    }
  }

 public:
  std::array<std::unique_ptr<trt::ICudaEngine>, 3> engines;
  std::mutex making_contexts;
};

// What transfers of one batch size need: contexts, buffers, and a graph of the chain.
class Chain {
 public:
  Chain(TensorRtBackend& backend, std::int32_t batch, cudaStream_t stream)
      : backend_(backend), batch_(batch), stream_(stream) {
    std::size_t input_bytes = 0, output_bytes_all = 0, activation = 0;
    const auto place = [](std::size_t& end, std::size_t bytes) {
      const std::size_t at = end;
      end += (bytes + kAlignment - 1) / kAlignment * kAlignment;
      return at;
    };
    for (std::size_t i = 0; i < kInputs.size(); ++i) {
      const std::size_t pixels = output_bytes(1, backend.size, batch);
      input_at_[i] = place(input_bytes, i % 3 == 1 ? pixels : 3 * pixels);
    }
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      output_at_[i] = place(output_bytes_all, output_bytes(i, backend.size, batch));
    }
    input_bytes_ = input_bytes;
    output_bytes_ = output_bytes_all;
    {
      const std::lock_guard<std::mutex> lock(backend.making_contexts);
      for (std::size_t i = 0; i < kStages.size(); ++i) {
        contexts_[i].reset(backend.engines[i]->createExecutionContext(
            trt::ExecutionContextAllocationStrategy::kUSER_MANAGED));
        backend.require(contexts_[i] != nullptr, i, "make an execution context");
        backend.require(contexts_[i]->setOptimizationProfileAsync(0, stream), i, "take a profile");
        for (const auto& tensor : backend.signatures[i].inputs) {
          backend.require(contexts_[i]->setInputShape(tensor.name.c_str(), dims(tensor, batch)), i,
                          "take an input's shape");
        }
        activation_bytes_[i] = contexts_[i]->updateDeviceMemorySizeForShapes();
        activation = std::max(activation, activation_bytes_[i]);
      }
    }
    // They run one after another, and share their activation memory.
    void* memory = nullptr;
    check(cudaMalloc(&memory, input_bytes_ + output_bytes_ + activation), "allocate memory");
    on_device_.reset(memory);
    check(cudaHostAlloc(&memory, input_bytes_ + output_bytes_, cudaHostAllocDefault),
          "allocate page-locked memory");
    on_host_.reset(memory);
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      if (!activation_bytes_[i]) continue;
      contexts_[i]->setDeviceMemoryV2(device_at(input_bytes_ + output_bytes_),
                                      static_cast<std::int64_t>(activation_bytes_[i]));
    }
    bind(own_addresses());
    // What TensorRT puts off until the first run happens now, and may not be captured.
    std::memset(on_host_.get(), 0, input_bytes_);
    copies_and_engines(stream);
    check(cudaStreamSynchronize(stream), "run the engines");
    capture();
  }

  // Pictures in host memory; returns when the results are there.
  void run_on_host(const Run& run) {
    for (std::size_t i = 0; i < kInputs.size(); ++i) {
      copy_dense(run.inputs[i], batch_, host_at(input_at_[i]));
    }
    check(cudaGraphLaunch(graph_.get(), stream_), "launch a graph");
    check(cudaStreamSynchronize(stream_), "run the engines");
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      if (run.outputs[i]) {
        std::memcpy(run.outputs[i], host_at(input_bytes_ + output_at_[i]),
                    output_bytes(i, backend_.size, batch_));
      }
    }
  }

  // Pictures in device memory, on the caller's stream.
  void run_on_device(const Run& run) {
    const auto stream = static_cast<cudaStream_t>(run.stream);
    auto addresses = own_addresses();
    for (std::size_t i = 0; i < kInputs.size(); ++i) {
      const Run::Input& input = run.inputs[i];
      if (input.dense()) {
        addresses[kInputs[i]] = const_cast<unsigned char*>(input.data);
        continue;
      }
      for (std::int32_t n = 0; n < batch_; ++n) {
        const auto picture = static_cast<std::size_t>(n);
        check(cudaMemcpy2DAsync(
                  device_at(input_at_[i] + picture * input.rows * input.row_bytes),
                  input.row_bytes, input.data + picture * input.batch_stride, input.row_stride,
                  input.row_bytes, input.rows, cudaMemcpyDeviceToDevice, stream),
              "copy an input");
      }
    }
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      if (run.outputs[i]) addresses[kOutputs[i]] = run.outputs[i];
    }
    bind(addresses);
    engines(stream);
  }

 private:
  using Addresses = std::map<std::string, void*>;

  unsigned char* device_at(std::size_t at) {
    return static_cast<unsigned char*>(on_device_.get()) + at;
  }
  unsigned char* host_at(std::size_t at) {
    return static_cast<unsigned char*>(on_host_.get()) + at;
  }

  Addresses own_addresses() {
    Addresses addresses;
    for (std::size_t i = 0; i < kInputs.size(); ++i) addresses[kInputs[i]] = device_at(input_at_[i]);
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      addresses[kOutputs[i]] = device_at(input_bytes_ + output_at_[i]);
    }
    return addresses;
  }

  void bind(const Addresses& addresses) {
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      const Signature& signature = backend_.signatures[i];
      for (const auto* tensors : {&signature.inputs, &signature.outputs}) {
        for (const auto& tensor : *tensors) {
          backend_.require(contexts_[i]->setTensorAddress(tensor.name.c_str(),
                                                          addresses.at(tensor.name)),
                           i, "take an address");
        }
      }
    }
  }

  void engines(cudaStream_t stream) {
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      backend_.require(contexts_[i]->enqueueV3(stream), i, "run");
    }
  }

  void copies_and_engines(cudaStream_t stream) {
    check(cudaMemcpyAsync(device_at(0), host_at(0), input_bytes_, cudaMemcpyHostToDevice, stream),
          "copy the inputs");
    engines(stream);
    check(cudaMemcpyAsync(host_at(input_bytes_), device_at(input_bytes_), output_bytes_,
                          cudaMemcpyDeviceToHost, stream),
          "copy the outputs");
  }

  void capture() {
    // relaxed: other sessions may allocate meanwhile
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "begin a capture");
    cudaGraph_t graph = nullptr;
    try {
      copies_and_engines(stream_);
    } catch (...) {
      cudaStreamEndCapture(stream_, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream_, &graph), "end a capture");
    cudaGraphExec_t executable = nullptr;
    const cudaError_t made = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    check(made, "make a graph");
    graph_.reset(executable);
  }

  TensorRtBackend& backend_;
  std::int32_t batch_;
  cudaStream_t stream_;
  std::array<std::size_t, 6> input_at_{};
  std::array<std::size_t, 4> output_at_{};
  std::array<std::size_t, 3> activation_bytes_{};
  std::size_t input_bytes_ = 0, output_bytes_ = 0;
  DeviceMemory on_device_;
  HostMemory on_host_;
  std::array<std::unique_ptr<trt::IExecutionContext>, 3> contexts_;
  GraphExec graph_;
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
  }

  ~TensorRtWorker() override {
    try {
      const OnDevice on(backend_.device);
      cudaEventSynchronize(done_.get());
      chains_.clear();
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
    std::unique_ptr<Chain>& chain = chains_[run.batch];
    if (!chain) chain = std::make_unique<Chain>(backend_, run.batch, stream_.get());
    // contexts and buffers are still in use by the run before, on whichever stream it is
    const auto stream =
        run.memory == GT_HOST ? stream_.get() : static_cast<cudaStream_t>(run.stream);
    check(cudaStreamWaitEvent(stream, done_.get(), 0), "wait for the run before");
    if (run.memory == GT_HOST) {
      chain->run_on_host(run);
    } else {
      try {
        chain->run_on_device(run);
      } catch (...) {
        cudaEventRecord(done_.get(), stream);  // what was put on the stream is still to be waited for
        throw;
      }
      check(cudaEventRecord(done_.get(), stream), "mark the end of a run");
    }
  }

 private:
  void check_pointers(const Run& run) const {
    const auto one = [&](const void* pointer, const char* name) {
      cudaPointerAttributes attributes{};
      check(cudaPointerGetAttributes(&attributes, pointer), "tell where a pointer leads");
      const bool device = attributes.type == cudaMemoryTypeDevice ||
                          attributes.type == cudaMemoryTypeManaged;
      if (device && attributes.device == backend_.device) return;
      throw Error(GT_INVALID_ARGUMENT,
                  std::string(name) + ".data is " +
                      (device ? "memory of CUDA device " + std::to_string(attributes.device)
                              : std::string("host memory")) +
                      "; expected memory of CUDA device " + std::to_string(backend_.device) +
                      ", as memory is GT_DEVICE");
    };
    for (std::size_t i = 0; i < kInputs.size(); ++i) one(run.inputs[i].data, kInputs[i]);
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      if (run.outputs[i]) one(run.outputs[i], kOutputs[i]);
    }
  }

  TensorRtBackend& backend_;
  Stream stream_;
  Event done_;
  std::map<std::int32_t, std::unique_ptr<Chain>> chains_;
};

std::unique_ptr<Worker> TensorRtBackend::worker() {
  return std::make_unique<TensorRtWorker>(*this);
}

}  // namespace

std::unique_ptr<Backend> load_tensorrt(Bundle bundle, const BackendOptions& options) {
  if (options.device != "" && options.device != "cuda") {
    throw Error(GT_INVALID_ARGUMENT,
                "unknown device '" + options.device + "'; backend tensorrt has cuda");
  }
  return std::make_unique<TensorRtBackend>(bundle, options);
}

}  // namespace garment_transfer
