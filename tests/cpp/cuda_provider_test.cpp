// What the library asks of ONNX Runtime for device `cuda`. This program's OrtGetApiBase stands
// before ONNX Runtime's: it has a CUDA provider, which takes down its settings and leaves the work
// to the CPU.

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <onnxruntime_c_api.h>

#include <map>

#include "golden.h"

namespace gt = garment_transfer;

namespace {

using Settings = std::map<std::string, std::string>;
Settings made, used;  // by CreateCUDAProviderOptions, and for a session

const OrtApiBase& onnxruntime() {
  static const auto get =
      reinterpret_cast<decltype(&OrtGetApiBase)>(dlsym(RTLD_NEXT, "OrtGetApiBase"));
  return *get();
}

const OrtApi* api(std::uint32_t version) noexcept {
  static OrtApi with_cuda = *onnxruntime().GetApi(ORT_API_VERSION);
  if (version != ORT_API_VERSION) return onnxruntime().GetApi(version);
  with_cuda.GetAvailableProviders = [](char*** names, int* count) noexcept -> OrtStatus* {
    static char name[] = "CUDAExecutionProvider";
    static char* all[] = {name};
    *names = all;
    *count = 1;
    return nullptr;
  };
  with_cuda.ReleaseAvailableProviders = [](char**, int) noexcept -> OrtStatus* { return nullptr; };
  with_cuda.CreateCUDAProviderOptions = [](OrtCUDAProviderOptionsV2** out) noexcept -> OrtStatus* {
    made.clear();
    *out = reinterpret_cast<OrtCUDAProviderOptionsV2*>(&made);
    return nullptr;
  };
  with_cuda.UpdateCUDAProviderOptions = [](OrtCUDAProviderOptionsV2*, const char* const* keys,
                                           const char* const* values,
                                           std::size_t count) noexcept -> OrtStatus* {
    for (std::size_t i = 0; i < count; ++i) made[keys[i]] = values[i];
    return nullptr;
  };
  with_cuda.ReleaseCUDAProviderOptions = [](OrtCUDAProviderOptionsV2*) noexcept {};
  with_cuda.SessionOptionsAppendExecutionProvider_CUDA_V2 =
      [](OrtSessionOptions*, const OrtCUDAProviderOptionsV2*) noexcept -> OrtStatus* {
    used = made;
    return nullptr;
  };
  return &with_cuda;
}

gt::Options on_cuda(const std::string& library = {}) {
  gt::Options options = one_thread();
  options.device = "cuda";
  options.flow_warp_library = library;
  return options;
}

std::string description(const gt::Options& options) {
  return gt::Pipeline(variable("GARMENT_TRANSFER_TINY"), options).description();
}

TEST(CudaProvider, Float32IsFloat32) {
  gt::Options options = on_cuda();
  options.device_id = 3;
  EXPECT_NE(description(options).find("on CUDA device 3;"), std::string::npos);
  EXPECT_EQ(used, (Settings{{"device_id", "3"},
                            {"use_tf32", "0"},
                            {"arena_extend_strategy", "kSameAsRequested"}}));
}

// The tests' builds have FlowWarp's kernel for CPUs alone.
TEST(CudaProvider, FlowWarpStaysOnTheGpu) {
  const std::string kernel = variable("GARMENT_TRANSFER_CPU_KERNEL");
  EXPECT_NE(description(on_cuda()).find("FlowWarp by standard operators: " + kernel +
                                        " has no CUDA code"),
            std::string::npos)
      << description(on_cuda());
  try {
    description(on_cuda(kernel));
    FAIL();
  } catch (const gt::Error& error) {
    EXPECT_EQ(error.status(), GT_OPTION_INVALID);
    EXPECT_EQ(std::string(error.what()).find(kernel + " has no CUDA code; expected"), 0u);
  }
  // nvcc's section is what tells
  const std::string with_code = testing::TempDir() + "with_cuda_code.so";
  std::filesystem::copy_file(kernel, with_code, std::filesystem::copy_options::overwrite_existing);
  std::ofstream(with_code, std::ios::binary | std::ios::app) << ".nv_fatbin";
  EXPECT_NE(description(on_cuda(with_code)).find("FlowWarp by its kernel"), std::string::npos);
  std::filesystem::remove(with_code);
}

}  // namespace

extern "C" const OrtApiBase* OrtGetApiBase() noexcept {
  static const OrtApiBase base = {api, onnxruntime().GetVersionString};
  return &base;
}
