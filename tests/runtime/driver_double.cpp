// A double of libcuda.so.1 in host memory, so that the calls of runtime/cuda/_device.py through
// cuda-python run where there is no driver: one device, streams that run at once, graphs of copies.
// It checks that contexts are pushed and popped, counts what is alive, and has little memory. Its
// clock goes on by a millisecond an event, and one per 1000 bytes that are copied.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

using Pointer = std::uint64_t;
enum : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kInvalidContext = 201,
  kInvalidHandle = 400,
  kNotFound = 500,
  kNotSupported = 801,
  kCaptureUnsupported = 900,
  kCaptureInvalidated = 901
};
constexpr std::size_t kTotal = std::size_t{1} << 28;

struct Copy {
  void* to;
  const void* from;
  std::size_t size;
};
using Graph = std::vector<Copy>;

std::map<Pointer, std::size_t> device_memory;
std::set<void*> host_memory, streams, events, graphs;
std::map<void*, double> moments;  // of events with timing, once they have happened
std::set<void*> timed;
double now = 0;
int version = 13000;
int primary;  // its address is the primary context
thread_local std::vector<void*> contexts;
Graph* captured = nullptr;
void* capturing = nullptr;  // the stream
int ended_captures = 0;     // that another thread will end from now on
bool ended = false;
std::size_t used = 0;

bool active() { return !contexts.empty() && contexts.back() == &primary; }
bool known(void* stream) { return stream == nullptr || streams.count(stream); }
void* fresh(std::set<void*>& set) { return *set.insert(std::malloc(1)).first; }
int drop(std::set<void*>& set, void* item) {
  if (!active()) return kInvalidContext;
  return set.erase(item) ? kSuccess : kInvalidHandle;
}

int init(unsigned) { return kSuccess; }
int driver_version(int* found) {
  *found = version;
  return kSuccess;
}
int device_count(int* count) {
  *count = 1;
  return kSuccess;
}
int device_get(int* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? kSuccess : 101;
}
int device_name(char* name, int length, int) {
  std::strncpy(name, "double", length);
  return kSuccess;
}
int device_attribute(int* value, int attribute, int) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 9 : 0;
  return kSuccess;
}
int retain(void** context, int) {
  *context = &primary;
  return kSuccess;
}
int push(void* context) {
  contexts.push_back(context);
  return kSuccess;
}
int pop(void** context) {
  if (contexts.empty()) return kInvalidContext;
  *context = contexts.back();
  contexts.pop_back();
  return kSuccess;
}
int current(void** context) {
  *context = contexts.empty() ? nullptr : contexts.back();
  return kSuccess;
}
int info(std::size_t* free, std::size_t* total) {
  if (!active()) return kInvalidContext;
  *free = kTotal - used;
  *total = kTotal;
  return kSuccess;
}
int allocate(Pointer* pointer, std::size_t size) {
  if (!active()) return kInvalidContext;
  if (used + size > kTotal) return kOutOfMemory;
  // aligned to 256 bytes, as CUDA promises, and to no more
  *pointer =
      reinterpret_cast<Pointer>(std::aligned_alloc(512, (size + 256 + 511) / 512 * 512)) + 256;
  device_memory[*pointer] = size;
  used += size;
  return kSuccess;
}
int release(Pointer pointer) {
  if (!active()) return kInvalidContext;
  const auto found = device_memory.find(pointer);
  if (found == device_memory.end()) return kInvalidValue;
  used -= found->second;
  device_memory.erase(found);
  std::free(reinterpret_cast<void*>(pointer - 256));
  return kSuccess;
}
int allocate_host(void** pointer, std::size_t size, unsigned flags) {
  if (!active()) return kInvalidContext;
  if (flags != 1) return kInvalidValue;
  host_memory.insert(*pointer = std::malloc(size));
  return kSuccess;
}
int release_host(void* pointer) {
  const int result = drop(host_memory, pointer);
  if (result == kSuccess) std::free(pointer);
  return result;
}
int stream_create(void** stream, unsigned flags) {
  if (!active()) return kInvalidContext;
  if (flags != 1) return kInvalidValue;  // it has to leave the default stream alone
  *stream = fresh(streams);
  return kSuccess;
}
int stream_destroy(void* stream) { return drop(streams, stream); }
int stream_wait_for(void* stream) {
  if (!active()) return kInvalidContext;
  if (captured) return kCaptureUnsupported;
  return known(stream) ? kSuccess : kInvalidHandle;
}
int event_create(void** event, unsigned flags) {
  if (!active()) return kInvalidContext;
  if (flags != 0 && flags != 2) return kInvalidValue;  // with timing, or without
  *event = fresh(events);
  if (flags == 0) timed.insert(*event);
  return kSuccess;
}
int event_destroy(void* event) {
  timed.erase(event);
  moments.erase(event);
  return drop(events, event);
}
int record(void* event, void* stream) {
  if (!active()) return kInvalidContext;
  if (!events.count(event) || !known(stream)) return kInvalidHandle;
  ++now;
  if (timed.count(event)) moments[event] = now;
  return kSuccess;
}
int elapsed(float* milliseconds, void* begin, void* end) {
  if (!active()) return kInvalidContext;
  if (!moments.count(begin) || !moments.count(end)) return kInvalidHandle;
  *milliseconds = static_cast<float>(moments[end] - moments[begin]);
  return kSuccess;
}
int wait_event(void* stream, void* event, unsigned) {
  if (!active()) return kInvalidContext;
  return events.count(event) && known(stream) ? kSuccess : kInvalidHandle;
}
int copy(Pointer to, Pointer from, std::size_t size, void* stream) {
  if (!active()) return kInvalidContext;
  if (!known(stream)) return kInvalidHandle;
  const Copy one{reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), size};
  if (ended) return kCaptureInvalidated;
  if (captured) {
    captured->push_back(one);
  } else {
    std::memmove(one.to, one.from, one.size);
    now += static_cast<double>(size) / 1000;
  }
  return kSuccess;
}
int begin(void* stream, int mode) {
  if (!known(stream) || mode != 2) return kInvalidValue;  // relaxed
  captured = new Graph;
  capturing = stream;
  ended = ended_captures > 0;
  ended_captures -= ended;
  return kSuccess;
}
int end(void* stream, void** graph) {
  if (stream != capturing || !captured) return kInvalidValue;
  *graph = nullptr;
  if (ended) {
    delete captured;
  } else {
    graphs.insert(*graph = captured);
  }
  const int result = ended ? kCaptureInvalidated : kSuccess;
  captured = nullptr;
  capturing = nullptr;
  ended = false;
  return result;
}
int is_capturing(void* stream, int* status) {
  if (!active()) return kInvalidContext;
  *status = captured && stream == capturing ? 1 : 0;
  return known(stream) ? kSuccess : kInvalidHandle;
}
int instantiate(void** executable, void* graph, unsigned long long) {
  graphs.insert(*executable = new Graph(*static_cast<Graph*>(graph)));
  return kSuccess;
}
int graph_destroy(void* graph) { return drop(graphs, graph); }
int upload(void* graph, void* stream) {
  return graphs.count(graph) && known(stream) ? kSuccess : kInvalidHandle;
}
int launch(void* graph, void* stream) {
  if (!active()) return kInvalidContext;
  if (!graphs.count(graph) || !known(stream)) return kInvalidHandle;
  for (const Copy& one : *static_cast<Graph*>(graph)) std::memmove(one.to, one.from, one.size);
  return kSuccess;
}
// Memory of the device is the primary context's; of two odd addresses one is another context's, and
// one, as of memory that was mapped, is not asked for its context.
int attribute(void* data, int what, Pointer pointer) {
  const auto after = device_memory.upper_bound(pointer);
  const bool device = after != device_memory.begin() &&
                      pointer < std::prev(after)->first + std::prev(after)->second;
  if (!device && pointer != 4096 && pointer != 8192) return kInvalidValue;
  switch (what) {
    case 1:
      if (pointer == 8192) return kInvalidValue;
      *static_cast<void**>(data) = pointer == 4096 ? static_cast<void*>(&used) : &primary;
      return kSuccess;
    case 2:
      *static_cast<unsigned*>(data) = 2;
      return kSuccess;  // on the device
    case 8:
      *static_cast<unsigned*>(data) = 0;
      return kSuccess;  // not managed
    case 9:
      *static_cast<int*>(data) = 0;
      return kSuccess;
    default:
      return kInvalidValue;
  }
}
int attributes(unsigned count, int* which, void** data, Pointer pointer) {
  for (unsigned i = 0; i < count; ++i) {
    if (attribute(data[i], which[i], pointer) != kSuccess) std::memset(data[i], 0, 4);
  }
  return kSuccess;
}
int error_string(int error, const char** text) {
  *text = error == kOutOfMemory ? "out of memory" : "the double refuses";
  return kSuccess;
}
int error_name(int, const char** text) {
  *text = "CUDA_ERROR";
  return kSuccess;
}

int address(const char* name, void** function, int, std::uint64_t, int* found);

const std::map<std::string, void*>& table() {
#define ENTRY(name, function) \
  { name, reinterpret_cast<void*>(&function) }
  static const std::map<std::string, void*> entries{
      ENTRY("cuInit", init),
      ENTRY("cuDriverGetVersion", driver_version),
      ENTRY("cuDeviceGetCount", device_count),
      ENTRY("cuDeviceGet", device_get),
      ENTRY("cuDeviceGetName", device_name),
      ENTRY("cuDeviceGetAttribute", device_attribute),
      ENTRY("cuDevicePrimaryCtxRetain", retain),
      ENTRY("cuCtxPushCurrent", push),
      ENTRY("cuCtxPopCurrent", pop),
      ENTRY("cuCtxGetCurrent", current),
      ENTRY("cuMemGetInfo", info),
      ENTRY("cuMemAlloc", allocate),
      ENTRY("cuMemFree", release),
      ENTRY("cuMemHostAlloc", allocate_host),
      ENTRY("cuMemFreeHost", release_host),
      ENTRY("cuStreamCreate", stream_create),
      ENTRY("cuStreamDestroy", stream_destroy),
      ENTRY("cuStreamSynchronize", stream_wait_for),
      ENTRY("cuEventCreate", event_create),
      ENTRY("cuEventDestroy", event_destroy),
      ENTRY("cuEventRecord", record),
      ENTRY("cuEventElapsedTime", elapsed),
      ENTRY("cuStreamIsCapturing", is_capturing),
      ENTRY("cuStreamWaitEvent", wait_event),
      ENTRY("cuMemcpyAsync", copy),
      ENTRY("cuStreamBeginCapture", begin),
      ENTRY("cuStreamEndCapture", end),
      ENTRY("cuGraphInstantiateWithFlags", instantiate),
      ENTRY("cuGraphInstantiate", instantiate),
      ENTRY("cuGraphDestroy", graph_destroy),
      ENTRY("cuGraphExecDestroy", graph_destroy),
      ENTRY("cuGraphUpload", upload),
      ENTRY("cuGraphLaunch", launch),
      ENTRY("cuPointerGetAttribute", attribute),
      ENTRY("cuPointerGetAttributes", attributes),
      ENTRY("cuGetErrorString", error_string),
      ENTRY("cuGetErrorName", error_name),
      ENTRY("cuGetProcAddress", address)};
#undef ENTRY
  return entries;
}

int address(const char* name, void** function, int, std::uint64_t, int* found) {
  const auto entry = table().find(name);
  const bool there = entry != table().end();
  *function = there ? entry->second : nullptr;
  if (found) *found = there ? 0 : 1;
  return there ? kSuccess : kNotFound;
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
EXPORT int double_alive() {
  return static_cast<int>(device_memory.size() + host_memory.size() + streams.size() +
                          events.size() + graphs.size());
}
// Other threads end this many captures from now on.
EXPORT void double_end_captures(int count) { ended_captures = count; }
EXPORT void double_set_version(int cuda) { version = cuda; }
EXPORT int double_contexts() { return static_cast<int>(contexts.size()); }
