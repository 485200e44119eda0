// The part of TensorRT 10 that its backend uses, for tensorrt.cpp: names and values are TensorRT's.
// An engine's plan is the ONNX graph itself, which ONNX Runtime runs.

#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#define NV_TENSORRT_MAJOR 10

std::int32_t getInferLibVersion();
std::int32_t getInferLibBuildVersion();

namespace nvinfer1 {

class ILogger {
 public:
  enum class Severity { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

struct Dims {
  std::int32_t nbDims;
  std::int64_t d[8];
};
enum class DataType { kFLOAT = 0, kINT32 = 3, kUINT8 = 5 };
enum class TensorIOMode { kNONE, kINPUT, kOUTPUT };
enum class ExecutionContextAllocationStrategy { kSTATIC, kON_PROFILE_CHANGE, kUSER_MANAGED };

class ICudaEngine;

class IExecutionContext {
 public:
  explicit IExecutionContext(ICudaEngine& engine) : engine_(engine) {}
  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t stream) noexcept;
  bool setInputShape(const char* name, const Dims& dims) noexcept;
  std::size_t updateDeviceMemorySizeForShapes() noexcept;
  void setDeviceMemoryV2(void* memory, std::int64_t size) noexcept;
  bool setTensorAddress(const char* name, void* data) noexcept;
  bool enqueueV3(cudaStream_t stream) noexcept;

 private:
  ICudaEngine& engine_;
  std::map<std::string, Dims> shapes_;
  std::map<std::string, void*> addresses_;
  void* memory_ = nullptr;
  bool warm_ = false;
};

class ICudaEngine {
 public:
  struct Tensor {
    std::string name;
    DataType type;
    TensorIOMode mode;
    std::vector<std::int64_t> shape;
  };
  struct Graph;

  ICudaEngine(const void* plan, std::size_t size);
  ~ICudaEngine();
  std::int32_t getNbIOTensors() const noexcept;
  const char* getIOTensorName(std::int32_t index) const noexcept;
  DataType getTensorDataType(const char* name) const noexcept;
  TensorIOMode getTensorIOMode(const char* name) const noexcept;
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept;

  std::vector<Tensor> tensors;
  std::unique_ptr<Graph> graph;

 private:
  const Tensor& tensor(const char* name) const;
};

class IPluginRegistry {
 public:
  void* loadLibrary(const char* path) noexcept;
  bool has(const std::string& path) const { return libraries_.count(path) > 0; }

 private:
  std::set<std::string> libraries_;
};

class IRuntime {
 public:
  ICudaEngine* deserializeCudaEngine(const void* plan, std::size_t size) noexcept;
  IPluginRegistry& getPluginRegistry() noexcept { return registry_; }
  void setEngineHostCodeAllowed(bool) noexcept {}

 private:
  IPluginRegistry registry_;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1
