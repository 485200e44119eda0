// FlowWarp for ONNX Runtime: a library that a session registers, whose kernel then takes the place
// of the function body in the graph. Built against headers alone; the runtime hands itself over
// when it loads the library.

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "../flow_warp/flow_warp_cpu.h"
#ifdef GARMENT_TRANSFER_CUDA
#include "../flow_warp/flow_warp_cuda.h"
#endif

namespace garment_transfer {
namespace {

// The oldest API that has all that is called here (ParallelFor, shape inference), so that older
// runtimes than the headers' can load the library.
constexpr std::uint32_t kOldestApi = 17;

constexpr const char* kInputs[] = {"x", "coarse_flow", "residual", "affine"};

std::string text(const std::vector<std::int64_t>& shape) {
  std::ostringstream out;
  out << "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out << (i ? "," : "") << shape[i];
  out << "]";
  return out.str();
}

[[noreturn]] void refuse(const std::string& message) {
  throw Ort::Exception("FlowWarp: " + message, ORT_INVALID_ARGUMENT);
}

template <typename T>
bool has_attribute(const Ort::ConstKernelInfo& kernel) {
  try {
    kernel.GetAttribute<T>("padding");
    return true;
  } catch (const Ort::Exception&) {
    return false;
  }
}

Padding padding_of(const OrtKernelInfo* info) {
  const Ort::ConstKernelInfo kernel{info};
  std::string padding = "zeros";
  try {
    padding = kernel.GetAttribute<std::string>("padding");
  } catch (const Ort::Exception&) {
    // left out, it has the function's default; of another type, it is a mistake
    for (const auto read : {&has_attribute<std::int64_t>, &has_attribute<float>}) {
      if (read(kernel)) refuse("padding is a number; expected the string 'zeros' or 'border'");
    }
  }
  if (padding == "zeros") return Padding::kZeros;
  if (padding == "border") return Padding::kBorder;
  refuse("padding is '" + padding + "'; expected 'zeros' or 'border'");
}

// The sizes of a call, or an error that names the input that does not fit.
Shape checked_shape(const Ort::KernelContext& context) {
  std::vector<std::int64_t> shapes[4];
  for (int i = 0; i < 4; ++i) {
    shapes[i] = context.GetInput(i).GetTensorTypeAndShapeInfo().GetShape();
  }
  const auto& x = shapes[0];
  if (x.size() != 4) refuse("x has shape " + text(x) + "; expected [N,C,H,W]");
  const std::int64_t n = x[0], c = x[1], h = x[2], w = x[3];
  if (h % 2 || w % 2 || h < 2 || w < 2) {
    refuse("x has shape " + text(x) +
           "; the coarse flow is doubled, so both sides have to be even and at least 2");
  }
  if (h * w >= (std::int64_t{1} << 30) || c >= (1 << 24)) {
    refuse("x has shape " + text(x) + "; at most 2^30 pixels and 2^24 channels are supported");
  }
  const std::vector<std::int64_t> expected[] = {x, {n, 2, h / 2, w / 2}, {n, 2, h, w}, {n, 2, 3}};
  for (int i = 1; i < 4; ++i) {
    if (shapes[i] != expected[i]) {
      refuse(std::string(kInputs[i]) + " has shape " + text(shapes[i]) + "; expected " +
             text(expected[i]) + " for x of shape " + text(x));
    }
  }
  return {static_cast<int>(n), static_cast<int>(c), static_cast<int>(h), static_cast<int>(w)};
}

FlowWarpCall checked_call(const Ort::KernelContext& context, Padding padding) {
  const Shape s = checked_shape(context);
  const std::int64_t y_shape[] = {s.n, s.c, s.h, s.w}, flow_shape[] = {s.n, 2, s.h, s.w};
  return {s,
          padding,
          context.GetInput(0).GetTensorRawData(),
          context.GetInput(1).GetTensorData<float>(),
          context.GetInput(2).GetTensorData<float>(),
          context.GetInput(3).GetTensorData<float>(),
          context.GetOutput(0, y_shape, 4).GetTensorMutableRawData(),
          context.GetOutput(1, flow_shape, 4).GetTensorMutableData<float>()};
}

// The runtime's own threads run the kernel, as many as the session has.
void on_runtime_threads(const Ort::KernelContext& context, std::ptrdiff_t count,
                        const std::function<void(std::ptrdiff_t, std::ptrdiff_t)>& body) {
  constexpr std::ptrdiff_t kParts = 16;
  struct Work {
    std::ptrdiff_t count, parts;
    const std::function<void(std::ptrdiff_t, std::ptrdiff_t)>& body;
  } work{count, std::min(count, kParts), body};
  context.ParallelFor(
      [](void* data, std::size_t part) {
        const Work& w = *static_cast<Work*>(data);
        const auto i = static_cast<std::ptrdiff_t>(part);
        w.body(w.count * i / w.parts, w.count * (i + 1) / w.parts);
      },
      static_cast<std::size_t>(work.parts), 0, &work);
}

template <Type kType>
struct CpuKernel {
  explicit CpuKernel(const OrtKernelInfo* info) : padding(padding_of(info)) {}

  void compute(const Ort::KernelContext& context) {
    const FlowWarpCall call = checked_call(context, padding);
    // from the session's arena: memory that is fresh from the system costs more than the kernel
    const Ort::MemoryInfo where = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto let_go = [](OrtAllocator* allocator) { Ort::GetApi().ReleaseAllocator(allocator); };
    const std::unique_ptr<OrtAllocator, decltype(let_go)> arena{context.GetAllocator(*where),
                                                                let_go};
    const std::size_t bytes = flow_warp_cpu_scratch(call.shape);
    const auto release = [&arena](void* memory) { arena->Free(arena.get(), memory); };
    const std::unique_ptr<void, decltype(release)> scratch{arena->Alloc(arena.get(), bytes),
                                                           release};
    if (!scratch && bytes) {
      throw Ort::Exception("FlowWarp: no memory for " + std::to_string(bytes) + " bytes", ORT_FAIL);
    }
    flow_warp_cpu(call, kType, scratch.get(), [&context](std::ptrdiff_t count, const auto& body) {
      on_runtime_threads(context, count, body);
    });
  }

  static constexpr const char* kProvider = nullptr;  // the CPU's
  Padding padding;
};

#ifdef GARMENT_TRANSFER_CUDA
template <Type kType>
struct CudaKernel {
  explicit CudaKernel(const OrtKernelInfo* info) : padding(padding_of(info)) {}

  void compute(const Ort::KernelContext& context) {
    const FlowWarpCall call = checked_call(context, padding);
    const cudaError_t error = flow_warp_cuda(
        call, kType, Layout::kNCHW, static_cast<cudaStream_t>(context.GetGPUComputeStream()));
    if (error != cudaSuccess) {
      throw Ort::Exception(
          std::string("FlowWarp: the CUDA kernel was not launched: ") + cudaGetErrorString(error),
          ORT_FAIL);
    }
  }

  static constexpr const char* kProvider = "CUDAExecutionProvider";
  Padding padding;
};
#endif

// No exception leaves the library: each becomes the status that the runtime raises.
template <typename Body>
OrtStatusPtr guarded(const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Ort::Exception& error) {
    return Ort::GetApi().CreateStatus(error.GetOrtErrorCode(), error.what());
  } catch (const std::exception& error) {
    return Ort::GetApi().CreateStatus(ORT_FAIL, error.what());
  }
}

template <typename Kernel>
struct Compute : Kernel {
  using Kernel::Kernel;
  OrtStatusPtr ComputeV2(OrtKernelContext* context) {
    return guarded([&] { this->compute(Ort::KernelContext{context}); });
  }
};

template <typename Kernel, ONNXTensorElementDataType kElement>
struct FlowWarpOp
    : Ort::CustomOpBase<FlowWarpOp<Kernel, kElement>, Compute<Kernel>, /*WithStatus=*/true> {
  FlowWarpOp() { this->version = kOldestApi; }

  const char* GetName() const { return "FlowWarp"; }
  const char* GetExecutionProviderType() const { return Kernel::kProvider; }
  std::size_t GetInputTypeCount() const { return 4; }
  ONNXTensorElementDataType GetInputType(std::size_t index) const {
    return index == 0 ? kElement : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  std::size_t GetOutputTypeCount() const { return 2; }
  ONNXTensorElementDataType GetOutputType(std::size_t index) const {
    return index == 0 ? kElement : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return guarded([&] { *kernel = new Compute<Kernel>(info); });
  }
  // y is as x, flow as residual: without it the rest of the graph would lose its fixed shapes
  static OrtStatusPtr InferOutputShape(Ort::ShapeInferContext& context) {
    const Ort::Status failed{guarded([&] {
      for (const auto& [output, input, element] :
           {std::tuple{0, 0, kElement}, std::tuple{1, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT}}) {
        // what is not known must not be told: an unknown size arrives as -1, an unknown rank as 0
        const auto& shape = context.GetInputShape(input);
        bool known = shape.size() == 4;
        for (const auto& size : shape) known = known && (!size.IsInt() || size.AsInt() >= 0);
        if (!known) continue;
        const Ort::Status set = context.SetOutputShape(output, shape, element);
        if (!set.IsOK()) throw Ort::Exception(set.GetErrorMessage(), set.GetErrorCode());
      }
    })};
    // The runtime neither reads nor frees what comes back. It is an error for every size without a
    // number, which headers of 1.21 hand over as -2 and 1.32 refuses: such shapes stay unknown.
    return nullptr;
  }
};

template <template <Type> class Kernel>
void add_ops(Ort::CustomOpDomain& domain) {
  // for as long as the process runs, as the domain needs them
  static FlowWarpOp<Kernel<Type::kFloat32>, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT> float32;
  static FlowWarpOp<Kernel<Type::kFloat16>, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16> float16;
  static FlowWarpOp<Kernel<Type::kBFloat16>, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16> bfloat16;
  domain.Add(&float32);
  domain.Add(&float16);
  domain.Add(&bfloat16);
}

}  // namespace
}  // namespace garment_transfer

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL
RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(garment_transfer::kOldestApi);
  if (!api) {
    return base->GetApi(1)->CreateStatus(
        ORT_FAIL, "FlowWarp's kernel needs ONNX Runtime 1.17 or later: pip install -U onnxruntime");
  }
  Ort::InitApi(api);
  return garment_transfer::guarded([&] {
    static std::mutex guard;
    static Ort::CustomOpDomain domain{nullptr};
    const std::lock_guard<std::mutex> lock{guard};
    if (!domain) {
      domain = Ort::CustomOpDomain{"garment_transfer"};
      garment_transfer::add_ops<garment_transfer::CpuKernel>(domain);
#ifdef GARMENT_TRANSFER_CUDA
      garment_transfer::add_ops<garment_transfer::CudaKernel>(domain);
#endif
    }
    Ort::UnownedSessionOptions{options}.Add(domain);
  });
}
