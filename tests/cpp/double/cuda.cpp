// A GPU on the CPU. It refuses what CUDA refuses, and does the work of a stream as late as it may:
// when somebody waits for it. So what the backend does not wait for is not there yet. Its clock
// goes on by a millisecond an event, and one per 1000 bytes that are copied.

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "double.h"

namespace cuda_double {
Counts counts;
std::function<void()> on_capture;
bool at_once = false;
}  // namespace cuda_double

using cuda_double::put;
using cuda_double::Work;

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
  std::optional<double> at;
};

namespace {

constexpr int kMajor = 8, kMinor = 9;
constexpr std::size_t kAlignment = 256;  // that CUDA promises, and no more
constexpr std::size_t kTotal = std::size_t{1} << 28;

std::recursive_mutex& guard() {
  static auto& one = *new std::recursive_mutex;
  return one;
}
using Lock = std::lock_guard<std::recursive_mutex>;

struct Machine {
  std::set<cudaStream_t> streams;
  std::map<const unsigned char*, std::size_t> memory;  // beginnings and sizes on the device
  std::size_t used = 0;
  double now = 0;
  CUstream_st default_stream;

  Machine() { streams.insert(&default_stream); }
};
Machine& machine() {
  static auto& one = *new Machine;
  return one;
}

thread_local cudaError_t last_error = cudaSuccess;
cudaError_t failed(cudaError_t error) { return last_error = error; }

CUstream_st& stream_of(cudaStream_t stream) {
  if (!stream) return machine().default_stream;
  if (!machine().streams.count(stream)) std::abort();  // it was destroyed
  return *stream;
}

void finish(CUstream_st& stream, std::size_t position) {
  while (stream.done < position) {
    const Work work = std::move(stream.work.front());
    stream.work.pop_front();
    ++stream.done;
    work();
  }
}

cudaError_t copied(void* to, const void* from, std::size_t row, std::size_t to_pitch,
                   std::size_t from_pitch, std::size_t height, cudaStream_t stream) {
  return put(stream, [=] {
    for (std::size_t y = 0; y < height; ++y) {
      std::memcpy(static_cast<char*>(to) + y * to_pitch,
                  static_cast<const char*>(from) + y * from_pitch, row);
    }
    machine().now += static_cast<double>(row * height) / 1000;
  });
}

bool is_capturing(cudaStream_t handle) {
  const Lock lock(guard());
  return stream_of(handle).capture != nullptr;
}

template <typename T>
cudaError_t made(T** handle, T* value) {
  const Lock lock(guard());
  ++cuda_double::counts.alive;
  *handle = value;
  return cudaSuccess;
}
template <typename T>
cudaError_t ended(T* handle) {
  const Lock lock(guard());
  --cuda_double::counts.alive;
  delete handle;
  return cudaSuccess;
}

}  // namespace

cudaError_t cuda_double::put(cudaStream_t handle, Work work) {
  const Lock lock(guard());
  CUstream_st& stream = stream_of(handle);
  if (stream.capture) {
    if (stream.capture->broken) return failed(cudaErrorStreamCaptureInvalidated);
    stream.capture->work.push_back(std::move(work));
  } else {
    stream.work.push_back(std::move(work));
    ++stream.put;
    if (at_once) finish(stream, stream.put);
  }
  return cudaSuccess;
}

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
  return error == cudaErrorStreamCaptureInvalidated ? "the capture was broken"
         : error == cudaErrorMemoryAllocation       ? "out of memory"
                                                    : "the double refuses";
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const Lock lock(guard());
  *free = kTotal - machine().used;
  *total = kTotal;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const Lock lock(guard());
  if (machine().used + bytes > kTotal) return failed(cudaErrorMemoryAllocation);
  // aligned to 256 bytes and not to 512
  constexpr std::size_t kTwice = 2 * kAlignment;
  auto* block = static_cast<unsigned char*>(
      std::aligned_alloc(kTwice, (kAlignment + bytes + kTwice - 1) / kTwice * kTwice));
  if (!block) return failed(cudaErrorMemoryAllocation);
  *memory = block + kAlignment;
  machine().memory[block + kAlignment] = bytes;
  machine().used += bytes;
  ++cuda_double::counts.alive;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  const Lock lock(guard());
  if (!memory) return cudaSuccess;
  auto* block = static_cast<unsigned char*>(memory);
  for (cudaStream_t stream : machine().streams) finish(*stream, stream->put);
  const auto found = machine().memory.find(block);
  if (found == machine().memory.end()) return failed(cudaErrorInvalidValue);
  machine().used -= found->second;
  machine().memory.erase(found);
  --cuda_double::counts.alive;
  std::free(block - kAlignment);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  return made(reinterpret_cast<char**>(memory), new char[bytes]);
}
cudaError_t cudaFreeHost(void* memory) {
  const Lock lock(guard());
  for (cudaStream_t stream : machine().streams) finish(*stream, stream->put);
  --cuda_double::counts.alive;
  delete[] static_cast<char*>(memory);
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
  return copied(to, from, bytes, 0, 0, 1, stream);
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind, cudaStream_t stream) {
  if (to_pitch < width || from_pitch < width) return failed(cudaErrorInvalidValue);
  return copied(to, from, width, to_pitch, from_pitch, height, stream);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return put(stream, [=] { function(data); });
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return put(stream, [=] { std::memset(to, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const Lock lock(guard());
  // it has to leave the default stream alone
  if (flags != cudaStreamNonBlocking) return failed(cudaErrorInvalidValue);
  made(stream, new CUstream_st);
  machine().streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(guard());
  finish(stream_of(stream), stream->put);
  machine().streams.erase(stream);
  return ended(stream);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = is_capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
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
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (mode != cudaStreamCaptureModeRelaxed) return failed(cudaErrorInvalidValue);
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
  return made(graph, new CUgraph_st(*captured));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return made(event, new CUevent_st{!(flags & cudaEventDisableTiming), nullptr, 0, {}});
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return ended(event); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  const Lock lock(guard());
  event->at.reset();
  // a capture takes an event for an order within the graph, and it has no time
  if (is_capturing(handle)) return put(handle, [] {});
  const cudaError_t error = put(handle, [event] { event->at = ++machine().now; });
  event->stream = &stream_of(handle);
  event->position = event->stream->put;
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
  *milliseconds = static_cast<float>(*end->at - *start->at);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  return made(executable, new CUgraphExec_st{graph->work});
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Lock lock(guard());
  ++cuda_double::counts.graph_launches;
  for (const Work& work : executable->work) {
    if (const cudaError_t error = put(stream, work)) return error;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return ended(graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return ended(executable); }
