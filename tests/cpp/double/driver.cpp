// A double of libcuda.so.1 over that of the runtime (cuda.cpp), so that the calls of
// runtime/cuda/_device.py through cuda-python run where there is no driver: one device, whose
// streams run at once. It checks that contexts are pushed and popped, and counts what is alive.

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "double.h"

namespace {

enum : int { kInvalidDevice = 101, kInvalidContext = 201, kNotFound = 500 };

int version = 13000;
int primary, other;  // their addresses are the primary context and another one
thread_local std::vector<void*> contexts;

const bool at_once = cuda_double::at_once = true;

int init(unsigned) { return cudaSuccess; }
int driver_version(int* found) {
  *found = version;
  return cudaSuccess;
}
int device_get(int* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? cudaSuccess : static_cast<int>(kInvalidDevice);
}
int device_name(char* name, int length, int) {
  std::strncpy(name, "double", static_cast<std::size_t>(length));
  return cudaSuccess;
}
int retain(void** context, int) {
  *context = &primary;
  return cudaSuccess;
}
int push(void* context) {
  contexts.push_back(context);
  return cudaSuccess;
}
int current(void** context) {
  *context = contexts.empty() ? nullptr : contexts.back();
  return cudaSuccess;
}
int pop(void** context) {
  if (contexts.empty()) return kInvalidContext;
  current(context);
  contexts.pop_back();
  return cudaSuccess;
}
cudaError_t copy(void* to, const void* from, std::size_t size, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, stream);
}
cudaError_t upload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
// Memory of the device is the primary context's; of two odd addresses one is another context's, and
// one, as of memory that was mapped, is not asked for its context.
int attribute(void* data, int what, std::uintptr_t pointer) {
  cudaPointerAttributes found;
  cudaPointerGetAttributes(&found, reinterpret_cast<void*>(pointer));
  if (found.type != cudaMemoryTypeDevice && pointer != 4096 && pointer != 8192) {
    return cudaErrorInvalidValue;
  }
  switch (what) {
    case 1:
      if (pointer == 8192) return cudaErrorInvalidValue;
      *static_cast<void**>(data) = pointer == 4096 ? &other : &primary;
      return cudaSuccess;
    case 2:
      *static_cast<unsigned*>(data) = 2;  // on the device
      return cudaSuccess;
    case 8:  // not managed
    case 9:  // the device's number
      *static_cast<unsigned*>(data) = 0;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}
int attributes(unsigned count, int* which, void** data, std::uintptr_t pointer) {
  for (unsigned i = 0; i < count; ++i) {
    if (attribute(data[i], which[i], pointer) != cudaSuccess) std::memset(data[i], 0, 4);
  }
  return cudaSuccess;
}
int error_string(int error, const char** text) {
  *text = cudaGetErrorString(static_cast<cudaError_t>(error));
  return cudaSuccess;
}

int address(const char* name, void** function, int, std::uint64_t, int* found);

// A call of the runtime, which the driver has with the same arguments but wants a context for.
template <auto kCall>
struct InContext;
template <typename... Arguments, cudaError_t (*kCall)(Arguments...)>
struct InContext<kCall> {
  static int call(Arguments... arguments) {
    const bool active = !contexts.empty() && contexts.back() == &primary;
    return active ? kCall(arguments...) : static_cast<int>(kInvalidContext);
  }
};

const std::map<std::string, void*>& table() {
#define ENTRY(name, function) \
  { name, reinterpret_cast<void*>(&function) }
#define RUNTIME(name, function) ENTRY(name, InContext<&function>::call)
  static const std::map<std::string, void*> entries{
      ENTRY("cuInit", init),
      ENTRY("cuDriverGetVersion", driver_version),
      ENTRY("cuDeviceGetCount", cudaGetDeviceCount),
      ENTRY("cuDeviceGet", device_get),
      ENTRY("cuDeviceGetName", device_name),
      ENTRY("cuDeviceGetAttribute", cudaDeviceGetAttribute),
      ENTRY("cuDevicePrimaryCtxRetain", retain),
      ENTRY("cuCtxPushCurrent", push),
      ENTRY("cuCtxPopCurrent", pop),
      ENTRY("cuCtxGetCurrent", current),
      RUNTIME("cuMemGetInfo", cudaMemGetInfo),
      RUNTIME("cuMemAlloc", cudaMalloc),
      RUNTIME("cuMemFree", cudaFree),
      RUNTIME("cuMemHostAlloc", cudaHostAlloc),
      RUNTIME("cuMemFreeHost", cudaFreeHost),
      RUNTIME("cuMemcpyAsync", copy),
      RUNTIME("cuStreamCreate", cudaStreamCreateWithFlags),
      RUNTIME("cuStreamDestroy", cudaStreamDestroy),
      RUNTIME("cuStreamSynchronize", cudaStreamSynchronize),
      RUNTIME("cuStreamIsCapturing", cudaStreamIsCapturing),
      RUNTIME("cuStreamWaitEvent", cudaStreamWaitEvent),
      RUNTIME("cuStreamBeginCapture", cudaStreamBeginCapture),
      RUNTIME("cuStreamEndCapture", cudaStreamEndCapture),
      RUNTIME("cuEventCreate", cudaEventCreateWithFlags),
      RUNTIME("cuEventDestroy", cudaEventDestroy),
      RUNTIME("cuEventRecord", cudaEventRecord),
      RUNTIME("cuEventElapsedTime", cudaEventElapsedTime),
      RUNTIME("cuGraphInstantiateWithFlags", cudaGraphInstantiate),
      RUNTIME("cuGraphInstantiate", cudaGraphInstantiate),
      RUNTIME("cuGraphDestroy", cudaGraphDestroy),
      RUNTIME("cuGraphExecDestroy", cudaGraphExecDestroy),
      RUNTIME("cuGraphUpload", upload),
      RUNTIME("cuGraphLaunch", cudaGraphLaunch),
      ENTRY("cuPointerGetAttribute", attribute),
      ENTRY("cuPointerGetAttributes", attributes),
      ENTRY("cuGetErrorString", error_string),
      ENTRY("cuGetErrorName", error_string),
      ENTRY("cuGetProcAddress", address)};
#undef RUNTIME
#undef ENTRY
  return entries;
}

int address(const char* name, void** function, int, std::uint64_t, int* found) {
  const auto entry = table().find(name);
  const bool there = entry != table().end();
  *function = there ? entry->second : nullptr;
  if (found) *found = there ? 0 : 1;
  return there ? cudaSuccess : static_cast<int>(kNotFound);
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cuGetProcAddress_v2(const char* name, void** function, int version, std::uint64_t flags,
                               int* found) {
  return address(name, function, version, flags, found);
}
EXPORT int cuGetProcAddress(const char* name, void** function, int version, std::uint64_t flags) {
  return address(name, function, version, flags, nullptr);
}
// How many things are alive, for the test to ask.
EXPORT int double_alive() { return cuda_double::counts.alive; }
// Other threads end this many captures from now on.
EXPORT void double_end_captures(int count) {
  cuda_double::on_capture = [count]() mutable {
    if (count-- > 0) cudaDeviceSynchronize();
  };
}
EXPORT void double_set_version(int cuda) { version = cuda; }
EXPORT int double_contexts() { return static_cast<int>(contexts.size()); }
