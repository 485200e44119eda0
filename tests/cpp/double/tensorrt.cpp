// TensorRT on the double of a GPU: its graphs run in ONNX Runtime, and it refuses what it refuses.

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <cstring>

#include "NvInferRuntime.h"
#include "double.h"

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
  cudaStreamCaptureStatus status;
  cudaStreamIsCapturing(stream, &status);
  if (!warm_ && status) return refused("the first run cannot be captured");
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
  return cuda_double::put(stream, work) == cudaSuccess || refused("the stream's capture is broken");
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
