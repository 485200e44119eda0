// ONNX Runtime, with the settings of runtime/backends/onnxruntime.py and onnxruntime_cuda.py.

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "backend.h"
#include "error.h"

namespace garment_transfer::internal {
namespace {

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

std::string version() { return OrtGetApiBase()->GetVersionString(); }

// Readies the API before anything of it is used, and the environment that all sessions share. It is
// never released: at exit, threads of the application may still log through it.
Ort::Env& environment() {
  static std::once_flag once;
  std::call_once(once, [] {
    // ONNX Runtime sends usage data to its vendor by default; a value set by the user stays
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!api) {
      throw Error(GT_BACKEND_UNAVAILABLE, "this is ONNX Runtime " + version(),
                  "1." + std::to_string(ORT_API_VERSION) +
                      " or later, whose headers garment_transfer was built with",
                  "install a newer one, or build against this one's headers");
    }
    Ort::InitApi(api);
  });
  static Ort::Env& env = *new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "garment_transfer");
  return env;
}

std::string dtype(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return "float32";
    default:
      return "type " + std::to_string(type);
  }
}

Tensor tensor(const std::string& name, const Ort::TypeInfo& info) {
  // a sequence or a map has no shape, and agrees with no tensor of the contract
  if (info.GetONNXType() != ONNX_TYPE_TENSOR) return {name, "no tensor", {}};
  const auto shape = info.GetTensorTypeAndShapeInfo();
  return {name, dtype(shape.GetElementType()), shape.GetShape()};
}

// A size that the graph leaves open agrees with any; the batch has to be open.
bool agree(const Tensor& expected, const Tensor& found) {
  return expected.dtype == found.dtype && expected.shape.size() == found.shape.size() &&
         std::equal(expected.shape.begin(), expected.shape.end(), found.shape.begin(),
                    [](std::int64_t want, std::int64_t have) { return have < 0 || have == want; });
}

void check_signature(const std::string& path, const char* kind, const std::vector<Tensor>& expected,
                     const std::vector<Tensor>& found) {
  const bool all = std::all_of(expected.begin(), expected.end(), [&](const Tensor& want) {
    return std::any_of(found.begin(), found.end(), [&](const Tensor& have) {
      return want.name == have.name && agree(want, have);
    });
  });
  if (all && expected.size() == found.size()) return;
  throw Error(GT_CONTRACT_MISMATCH, path + " has the " + kind + "s (" + text(found) + ")",
              "(" + text(expected) + "), as its manifest says",
              "write the bundle anew with `garment-transfer export CHECKPOINT -o BUNDLE`");
}

// Whether a library holds code for GPUs: nvcc puts it into a section of its own. True for what
// cannot be read: loading it says why.
bool has_cuda_kernels(const std::string& library) {
  constexpr std::string_view kSection = ".nv_fatbin";
  try {
    const auto bytes = read_file(library, std::filesystem::file_size(library));
    return std::search(bytes.begin(), bytes.end(), kSection.begin(), kSection.end()) != bytes.end();
  } catch (const std::system_error&) {
    return true;
  }
}

Ort::Session opened(const Graph& graph, const std::vector<char>& content,
                    const Ort::SessionOptions& options) {
  try {
    // from what was verified, not from a file that may have changed since
    return Ort::Session(environment(), content.data(), content.size(), options);
  } catch (const Ort::Exception& error) {
    throw Error(GT_GRAPH_REJECTED,
                "ONNX Runtime " + version() + " does not load " + graph.path + ": " +
                    first_line(error.what()),
                {}, "use a newer ONNX Runtime, or export the bundle anew");
  }
}

Ort::SessionOptions session_options(std::int32_t threads) {
  Ort::SessionOptions made;
  made.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
  // Each graph has its own threads, and waiting in a loop they would hold the cores that the next
  // graph needs.
  made.AddConfigEntry("session.intra_op.allow_spinning", "0");
  if (threads > 0) made.SetIntraOpNumThreads(threads);
  return made;
}

void check_graph(const Graph& graph, const Ort::Session& session) {
  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<Tensor> inputs, outputs;
  for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
    inputs.push_back(
        tensor(session.GetInputNameAllocated(i, allocator).get(), session.GetInputTypeInfo(i)));
  }
  for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
    outputs.push_back(
        tensor(session.GetOutputNameAllocated(i, allocator).get(), session.GetOutputTypeInfo(i)));
  }
  check_signature(graph.path, "input", graph.signature.inputs, inputs);
  check_signature(graph.path, "output", graph.signature.outputs, outputs);
}

// What a graph reads or writes, in the caller's memory.
Ort::Value value(const Ort::MemoryInfo& memory, const Tensor& tensor, std::int32_t batch,
                 void* data) {
  std::vector<std::int64_t> shape = tensor.shape;
  std::size_t bytes = tensor.dtype == "float32" ? 4 : 1;
  for (auto& side : shape) {
    if (side == kBatch) side = batch;
    bytes *= static_cast<std::size_t>(side);
  }
  return Ort::Value::CreateTensor(memory, data, bytes, shape.data(), shape.size(),
                                  tensor.dtype == "float32" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                                                            : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
}

using Values = std::map<std::string, void*>;

// Runs a graph on a batch; `values` are where its inputs and outputs lie, by name.
void run_graph(Ort::Session& session, const std::string& name, const Signature& signature,
               std::int32_t batch, const Values& values) {
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<const char*> input_names, output_names;
  std::vector<Ort::Value> inputs, outputs;
  const auto bind = [&](const std::vector<Tensor>& tensors, std::vector<const char*>& names,
                        std::vector<Ort::Value>& bound) {
    for (const auto& tensor : tensors) {
      names.push_back(tensor.name.c_str());
      bound.push_back(value(memory, tensor, batch, values.at(tensor.name)));
    }
  };
  bind(signature.inputs, input_names, inputs);
  bind(signature.outputs, output_names, outputs);
  try {
    session.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(), inputs.size(),
                output_names.data(), outputs.data(), outputs.size());
  } catch (const Ort::Exception& error) {
    throw Error(GT_RUN_FAILED,
                "ONNX Runtime failed to run graph " + name + " that takes (" +
                    text(signature.inputs) + ") on a batch of " + std::to_string(batch) + ": " +
                    first_line(error.what()),
                {}, "try a smaller batch or another version of ONNX Runtime");
  }
}

class OnnxRuntimeBackend final : public Backend {
 public:
  OnnxRuntimeBackend(Bundle bundle, const BackendOptions& options) : size(bundle.size) {
    environment();
    const Ort::SessionOptions session_options = with_options(options);
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      Graph& graph = bundle.graphs[i];
      sessions[i] = opened(graph, graph.content, session_options);
      graph.content = {};
      check_graph(graph, sessions[i]);
      signatures[i] = graph.signature;
    }
  }

  std::unique_ptr<Worker> worker() override;

  std::string description() const override {
    return "ONNX Runtime " + version() + " on " + device_ + "; FlowWarp by " + flow_warp_;
  }

  Size size;
  std::array<Signature, 3> signatures;
  std::array<Ort::Session, 3> sessions{Ort::Session{nullptr}, Ort::Session{nullptr},
                                       Ort::Session{nullptr}};

 private:
  Ort::SessionOptions with_options(const BackendOptions& options) {
    Ort::SessionOptions made = session_options(options.threads);
    if (options.device == "cuda") {
      append_cuda(made, options.device_id);
      device_ = "CUDA device " + std::to_string(options.device_id);
    }
    register_flow_warp(made, options);
    return made;
  }

  static void append_cuda(Ort::SessionOptions& session_options, std::int32_t device_id) {
    const auto providers = Ort::GetAvailableProviders();
    if (std::find(providers.begin(), providers.end(), "CUDAExecutionProvider") == providers.end()) {
      throw Error(GT_BACKEND_UNAVAILABLE,
                  "device 'cuda': this ONNX Runtime " + version() + " has no CUDA provider", {},
                  "use ONNX Runtime's GPU package, or device 'cpu'");
    }
    // the older OrtCUDAProviderOptions cannot say that float32 is float32 (TF32 off)
    const std::string id = std::to_string(device_id);
    const std::pair<const char*, const char*> settings[] = {
        {"device_id", id.c_str()},
        {"use_tf32", "0"},
        // doubling would take far more than the graphs need
        {"arena_extend_strategy", "kSameAsRequested"}};
    std::vector<const char*> keys, values;
    for (const auto& [key, value] : settings) {
      keys.push_back(key);
      values.push_back(value);
    }
    const OrtApi& api = Ort::GetApi();
    try {
      OrtCUDAProviderOptionsV2* made = nullptr;
      Ort::ThrowOnError(api.CreateCUDAProviderOptions(&made));
      const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)>
          cuda(made, api.ReleaseCUDAProviderOptions);
      Ort::ThrowOnError(
          api.UpdateCUDAProviderOptions(made, keys.data(), values.data(), keys.size()));
      session_options.AppendExecutionProvider_CUDA_V2(*made);
    } catch (const Ort::Exception& error) {
      throw Error(GT_BACKEND_UNAVAILABLE,
                  "device 'cuda': ONNX Runtime " + version() +
                      " does not start its CUDA provider: " + first_line(error.what()),
                  {}, "check the driver and CUDA's libraries, or use device 'cpu'");
    }
  }

  void register_flow_warp(Ort::SessionOptions& session_options, const BackendOptions& options) {
    if (options.flow_warp_library.empty()) {
      flow_warp_ = "standard operators: no kernel library";
      return;
    }
    // with a kernel for CPUs alone FlowWarp would leave the GPU; its body need not
    if (options.device == "cuda" && !has_cuda_kernels(options.flow_warp_library)) {
      const std::string why = options.flow_warp_library + " has no CUDA code";
      if (options.flow_warp_named) {
        throw Error(GT_OPTION_INVALID, why,
                    "libgarment_transfer_onnxruntime built with CUDA, or \"\" for FlowWarp by "
                    "standard operators");
      }
      flow_warp_ = "standard operators: " + why;
      return;
    }
    try {
      session_options.RegisterCustomOpsLibrary(options.flow_warp_library.c_str());
      flow_warp_ = "its kernel";
    } catch (const Ort::Exception& error) {
      const std::string why =
          options.flow_warp_library + " does not load: " + first_line(error.what());
      if (options.flow_warp_named) {
        throw Error(GT_OPTION_INVALID, why,
                    "libgarment_transfer_onnxruntime, or \"\" for FlowWarp by standard operators");
      }
      flow_warp_ = "standard operators: " + why;
    }
  }

  std::string device_ = "the CPU";
  std::string flow_warp_;
};

class OnnxRuntimeWorker final : public Worker {
 public:
  explicit OnnxRuntimeWorker(OnnxRuntimeBackend& backend) : backend_(backend) {}

  void run(const Run& run) override {
    if (run.memory != GT_HOST) {
      throw Error(GT_ARGUMENT_INVALID, "memory is GT_DEVICE", "GT_HOST, as this pipeline takes it",
                  "load it with backend 'tensorrt' for device memory");
    }
    Values values;
    auto before = Clock::now();
    const auto part_done = [&](std::size_t part) {
      const auto now = Clock::now();
      if (run.times) {
        (*run.times)[part] = std::chrono::duration<double, std::milli>(now - before).count();
      }
      before = now;
    };
    for (std::size_t i = 0; i < kInputs.size(); ++i) {
      const Run::Input& input = run.inputs[i];
      if (input.dense()) {
        // graphs do not write to their inputs
        values[kInputs[i]] = const_cast<unsigned char*>(input.data);
      } else {
        std::vector<unsigned char>& copy = staged_[i];
        copy.resize(input.row_bytes * input.rows * static_cast<std::size_t>(run.batch));
        copy_dense(input, run.batch, copy.data());
        values[kInputs[i]] = copy.data();
      }
    }
    for (std::size_t i = 0; i < kOutputs.size(); ++i) {
      values[kOutputs[i]] = run.outputs[i];
      if (run.outputs[i]) continue;
      unwanted_[i].resize(output_bytes(i, backend_.size, run.batch));
      values[kOutputs[i]] = unwanted_[i].data();
    }
    part_done(0);
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      run_graph(backend_.sessions[i], kStages[i], backend_.signatures[i], run.batch, values);
      part_done(1 + i);
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  OnnxRuntimeBackend& backend_;
  std::array<std::vector<unsigned char>, kInputs.size()> staged_;
  std::array<std::vector<unsigned char>, kOutputs.size()> unwanted_;
};

std::unique_ptr<Worker> OnnxRuntimeBackend::worker() {
  return std::make_unique<OnnxRuntimeWorker>(*this);
}

}  // namespace

MakeMaps load_maps(const Graph& graph, Size size, std::int32_t threads) {
  environment();
  const auto session =
      std::make_shared<Ort::Session>(opened(graph, read_verified(graph), session_options(threads)));
  check_graph(graph, *session);
  return [=, signature = graph.signature](const unsigned char* image, unsigned char* parsing,
                                          unsigned char* densepose, unsigned char* confidence) {
    std::vector<unsigned char> unwanted(static_cast<std::size_t>(size.height * size.width));
    run_graph(*session, "maps", signature, 1,
              {{"image", const_cast<unsigned char*>(image)},  // graphs do not write to their inputs
               {"parsing", parsing},
               {"densepose", densepose},
               {"parsing_confidence", confidence},
               {"densepose_confidence", unwanted.data()}});
  };
}

std::unique_ptr<Backend> load_onnxruntime(Bundle bundle, const BackendOptions& options) {
  if (options.device != "" && options.device != "cpu" && options.device != "cuda") {
    throw Error(GT_OPTION_INVALID, "unknown device '" + options.device + "'",
                "cpu or cuda for backend onnxruntime");
  }
  return std::make_unique<OnnxRuntimeBackend>(std::move(bundle), options);
}

}  // namespace garment_transfer::internal
