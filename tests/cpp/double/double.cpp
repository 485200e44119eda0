// A GPU and TensorRT on the CPU. It refuses what they refuse, and does the work of a stream as late
// as it may: when somebody waits for it. So what the backend does not wait for is not there yet.

#define ORT_API_MANUAL_INIT
#include "double.h"

#include <onnxruntime_cxx_api.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>

#include "NvInferRuntime.h"

namespace cuda_double {
Counts counts;
std::function<void()> on_capture;
}  // namespace cuda_double

using Work = std::function<void()>;
using Clock = std::chrono::steady_clock;

struct CUgraph_st {
  std::vector<Work> work;
  bool broken = false;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
struct CUstream_st {
  std::deque<Work> work;
  std::size_t put = 0, done = 0;  // pieces of work since the stream was made
  std::unique_ptr<CUgraph_st> capture;
};
struct CUevent_st {
  bool timing = true;
  cudaStream_t stream = nullptr;
  std::size_t position = 0;
  std::optional<Clock::time_point> at;
};

namespace {

constexpr int kMajor = 8, kMinor = 9;
constexpr std::size_t kAlignment = 256;  // that CUDA promises, and no more

std::recursive_mutex& guard() {
  static auto& one = *new std::recursive_mutex;
  return one;
}
using Lock = std::lock_guard<std::recursive_mutex>;

struct Machine {
  std::set<cudaStream_t> streams;
  std::map<const unsigned char*, std::size_t> memory;  // beginnings and sizes on the device
  CUstream_st default_stream;

  Machine() { streams.insert(&default_stream); }
};
Machine& machine() {
  static auto& one = *new Machine;
  return one;
}

thread_local cudaError_t last_error = cudaSuccess;
cudaError_t failed(cudaError_t error) { return last_error = error; }

CUstream_st& stream_of(cudaStream_t stream) { return stream ? *stream : machine().default_stream; }

void finish(CUstream_st& stream, std::size_t position) {
  while (stream.done < position) {
    const Work work = std::move(stream.work.front());
    stream.work.pop_front();
    ++stream.done;
    work();
  }
}

cudaError_t put(cudaStream_t handle, Work work) {
  const Lock lock(guard());
  CUstream_st& stream = stream_of(handle);
  if (stream.capture) {
    if (stream.capture->broken) return failed(cudaErrorStreamCaptureInvalidated);
    stream.capture->work.push_back(std::move(work));
  } else {
    stream.work.push_back(std::move(work));
    ++stream.put;
  }
  return cudaSuccess;
}

bool is_capturing(cudaStream_t handle) {
  const Lock lock(guard());
  return stream_of(handle).capture != nullptr;
}

}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : failed(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? kMajor : kMinor;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const Lock lock(guard());
  bool capturing = false;
  for (cudaStream_t stream : machine().streams) {
    if (!stream->capture) continue;
    capturing = stream->capture->broken = true;
  }
  if (capturing) return failed(cudaErrorStreamCaptureUnsupported);
  for (cudaStream_t stream : machine().streams) finish(*stream, stream->put);
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorStreamCaptureInvalidated ? "the capture was broken" : "an error";
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const Lock lock(guard());
  // aligned to 256 bytes and not to 512
  constexpr std::size_t kTwice = 2 * kAlignment;
  auto* block = static_cast<unsigned char*>(
      std::aligned_alloc(kTwice, (kAlignment + bytes + kTwice - 1) / kTwice * kTwice));
  if (!block) return failed(cudaErrorMemoryAllocation);
  *memory = block + kAlignment;
  machine().memory[block + kAlignment] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  const Lock lock(guard());
  if (!memory) return cudaSuccess;
  auto* block = static_cast<unsigned char*>(memory);
  for (cudaStream_t stream : machine().streams) finish(*stream, stream->put);
  if (!machine().memory.erase(block)) return failed(cudaErrorInvalidValue);
  std::free(block - kAlignment);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  return *memory ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* memory) {
  const Lock lock(guard());
  for (cudaStream_t stream : machine().streams) finish(*stream, stream->put);
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const Lock lock(guard());
  const auto* byte = static_cast<const unsigned char*>(pointer);
  auto block = machine().memory.upper_bound(byte);
  const bool device =
      block != machine().memory.begin() && (--block, byte < block->first + block->second);
  *attributes = {device ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered, 0};
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error ? error : cudaStreamSynchronize(nullptr);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return put(stream, [=] { std::memcpy(to, from, bytes); });
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind, cudaStream_t stream) {
  if (to_pitch < width || from_pitch < width) return failed(cudaErrorInvalidValue);
  return put(stream, [=] {
    for (std::size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<char*>(to) + row * to_pitch,
                  static_cast<const char*>(from) + row * from_pitch, width);
    }
  });
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return put(stream, [=] { function(data); });
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return put(stream, [=] { std::memset(to, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Lock lock(guard());
  *stream = new CUstream_st;
  machine().streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(guard());
  finish(*stream, stream->put);
  machine().streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  const Lock lock(guard());
  CUstream_st& stream = stream_of(handle);
  if (stream.capture) {
    stream.capture->broken = true;
    return failed(cudaErrorStreamCaptureUnsupported);
  }
  finish(stream, stream.put);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (!event->stream) return cudaSuccess;
  return put(stream, [from = event->stream, position = event->position] {
    if (machine().streams.count(from)) finish(*from, position);
  });
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  {
    const Lock lock(guard());
    ++cuda_double::counts.captures;
    stream->capture = std::make_unique<CUgraph_st>();
  }
  if (cuda_double::on_capture) cuda_double::on_capture();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(guard());
  const auto captured = std::move(stream->capture);
  *graph = nullptr;
  if (captured->broken) return failed(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st(*captured);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st;
  (*event)->timing = !(flags & cudaEventDisableTiming);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, 0);
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned flags) {
  const Lock lock(guard());
  const bool in_graph = is_capturing(handle);
  if ((flags & cudaEventRecordExternal) && !in_graph) return failed(cudaErrorInvalidValue);
  event->at.reset();
  // without the flag a capture takes an event for an order within the graph, and it has no time
  if (in_graph && !(flags & cudaEventRecordExternal)) return put(handle, [] {});
  const cudaError_t error = put(handle, [event] { event->at = Clock::now(); });
  if (!in_graph) {
    event->stream = &stream_of(handle);
    event->position = event->stream->put;
  }
  return error;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(guard());
  if (machine().streams.count(event->stream)) finish(*event->stream, event->position);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock(guard());
  if (!start->timing || !end->timing) return failed(cudaErrorInvalidResourceHandle);
  if (!start->at || !end->at) return failed(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(*end->at - *start->at).count();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Lock lock(guard());
  ++cuda_double::counts.graph_launches;
  for (const Work& work : executable->work) {
    if (const cudaError_t error = put(stream, work)) return error;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

std::int32_t getInferLibVersion() { return 101601; }
std::int32_t getInferLibBuildVersion() { return 11; }

namespace nvinfer1 {
namespace {

constexpr std::size_t kTensorAlignment = 256, kMemoryAlignment = 512;
constexpr std::size_t kMemory = 1000;  // of a context, no multiple of what addresses have to be

// As TensorRT's: the first of the process, whatever comes later.
ILogger* first_logger = nullptr;

// A plugin's: whose logger it looks for, and the library.
IPluginRegistry* last_registry = nullptr;
std::string last_library;

bool refused(const std::string& why) {
  first_logger->log(ILogger::Severity::kERROR, why.c_str());
  return false;
}

bool is_multiple(const void* address, std::size_t of) {
  return reinterpret_cast<std::uintptr_t>(address) % of == 0;
}

Ort::Env& environment() {
  Ort::InitApi(OrtGetApiBase()->GetApi(ORT_API_VERSION));
  static Ort::Env& one = *new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "double");
  return one;
}

}  // namespace

struct ICudaEngine::Graph {
  Graph(const void* plan, std::size_t size, const Ort::SessionOptions& options)
      : session(environment(), plan, size, options) {}
  Ort::Session session;
};

ICudaEngine::ICudaEngine(const void* plan, std::size_t size) {
  environment();
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  graph = std::make_unique<Graph>(plan, size, options);
  Ort::AllocatorWithDefaultOptions allocator;
  const auto add = [&](const char* name, const Ort::TypeInfo& info, TensorIOMode mode) {
    const auto shape = info.GetTensorTypeAndShapeInfo();
    tensors.push_back({name,
                       shape.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                           ? DataType::kUINT8
                           : DataType::kFLOAT,
                       mode, shape.GetShape()});
  };
  Ort::Session& session = graph->session;
  for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
    add(session.GetInputNameAllocated(i, allocator).get(), session.GetInputTypeInfo(i),
        TensorIOMode::kINPUT);
  }
  for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
    add(session.GetOutputNameAllocated(i, allocator).get(), session.GetOutputTypeInfo(i),
        TensorIOMode::kOUTPUT);
  }
}
ICudaEngine::~ICudaEngine() = default;

const ICudaEngine::Tensor& ICudaEngine::tensor(const char* name) const {
  for (const Tensor& one : tensors) {
    if (one.name == name) return one;
  }
  throw std::out_of_range(name);
}
std::int32_t ICudaEngine::getNbIOTensors() const noexcept {
  return static_cast<std::int32_t>(tensors.size());
}
const char* ICudaEngine::getIOTensorName(std::int32_t index) const noexcept {
  return tensors[static_cast<std::size_t>(index)].name.c_str();
}
DataType ICudaEngine::getTensorDataType(const char* name) const noexcept {
  return tensor(name).type;
}
TensorIOMode ICudaEngine::getTensorIOMode(const char* name) const noexcept {
  return tensor(name).mode;
}
IExecutionContext* ICudaEngine::createExecutionContext(
    ExecutionContextAllocationStrategy) noexcept {
  return new IExecutionContext(*this);
}

bool IExecutionContext::setOptimizationProfileAsync(std::int32_t profile, cudaStream_t) noexcept {
  return profile == 0 || refused("there is one profile");
}
bool IExecutionContext::setInputShape(const char* name, const Dims& dims) noexcept {
  shapes_[name] = dims;
  return true;
}
std::size_t IExecutionContext::updateDeviceMemorySizeForShapes() noexcept { return kMemory; }
void IExecutionContext::setDeviceMemoryV2(void* memory, std::int64_t size) noexcept {
  memory_ = nullptr;
  if (!is_multiple(memory, kMemoryAlignment) || size < static_cast<std::int64_t>(kMemory)) {
    refused("setDeviceMemory: memory must be aligned on 512 byte boundary");
    return;
  }
  memory_ = memory;
}
bool IExecutionContext::setTensorAddress(const char* name, void* data) noexcept {
  if (!is_multiple(data, kTensorAlignment)) return refused("the address is not aligned");
  ++cuda_double::counts.bound;
  addresses_[name] = data;
  return true;
}
bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
  if (!memory_) return refused("there is no device memory");
  if (!warm_ && is_capturing(stream)) return refused("the first run cannot be captured");
  if (last_registry && !last_registry->has(last_library)) return refused("the plugin is gone");
  warm_ = true;
  const auto work = [engine = &engine_, addresses = addresses_, memory = memory_,
                     batch = shapes_.begin()->second.d[0]] {
    std::memset(memory, 0xDD, kMemory);
    const auto place = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    std::vector<const char*> names[2];
    std::vector<Ort::Value> values[2];
    for (const auto& tensor : engine->tensors) {
      auto shape = tensor.shape;
      shape[0] = batch;
      const bool is_byte = tensor.type == DataType::kUINT8;
      std::size_t bytes = is_byte ? 1 : sizeof(float);
      for (const std::int64_t side : shape) bytes *= static_cast<std::size_t>(side);
      const std::size_t output = tensor.mode == TensorIOMode::kOUTPUT;
      names[output].push_back(tensor.name.c_str());
      values[output].push_back(Ort::Value::CreateTensor(
          place, addresses.at(tensor.name), bytes, shape.data(), shape.size(),
          is_byte ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    }
    engine->graph->session.Run(Ort::RunOptions{nullptr}, names[0].data(), values[0].data(),
                               values[0].size(), names[1].data(), values[1].data(),
                               values[1].size());
  };
  return put(stream, work) == cudaSuccess || refused("the stream's capture is broken");
}

void* IPluginRegistry::loadLibrary(const char* path) noexcept {
  if (!libraries_.insert(path).second) {
    refused("a plugin of the library is registered already");
    return nullptr;
  }
  last_registry = this;
  last_library = path;
  return this;
}

ICudaEngine* IRuntime::deserializeCudaEngine(const void* plan, std::size_t size) noexcept {
  try {
    return new ICudaEngine(plan, size);
  } catch (const std::exception& error) {
    refused(error.what());
    return nullptr;
  }
}

IRuntime* createInferRuntime(ILogger& logger) noexcept {
  if (!first_logger) first_logger = &logger;
  return new IRuntime;
}

}  // namespace nvinfer1
