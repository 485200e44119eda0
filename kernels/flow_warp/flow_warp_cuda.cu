// FlowWarp on a GPU: the launch.

#include <cstdint>

#include "flow_warp_cuda.h"
#include "flow_warp_kernels.cuh"

namespace garment_transfer {
namespace {

using Kernel = void (*)(const FlowWarpCall, const LaunchShape);

constexpr Kernel kKernels[2][3] = {
    {flow_warp_planes_float32, flow_warp_planes_float16, flow_warp_planes_bfloat16},
    {flow_warp_hwc8_float32, flow_warp_hwc8_float16, flow_warp_hwc8_bfloat16},
};

bool misaligned(const void* pointer, int bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes != 0;
}

}  // namespace

cudaError_t flow_warp_cuda(const FlowWarpCall& call, Type type, Layout layout,
                           cudaStream_t stream) {
  const Shape& s = call.shape;
  if (s.n == 0 || s.h == 0 || s.w == 0) return cudaSuccess;
  if (s.n < 0 || s.n > 65535 || s.c < 0 || s.h % 2 || s.w % 2) return cudaErrorInvalidValue;
  if (static_cast<long long>(s.h) * s.w > (1 << 30)) return cudaErrorInvalidValue;
  const bool planes = layout == Layout::kNCHW;
  const int size = type == Type::kFloat32 ? 4 : 2;
  if (misaligned(call.y, planes ? 2 * size : 16) || misaligned(call.x, planes ? size : 16) ||
      misaligned(call.residual, 8) || misaligned(call.flow, 8)) {
    return cudaErrorMisalignedAddress;
  }
  const LaunchShape launch = launch_shape(s, layout, size);
  const dim3 grid(launch.tiles, launch.parts, s.n), block(launch.threads_x, launch.threads_y);
  const Kernel kernel = kKernels[static_cast<int>(layout)][static_cast<int>(type)];
  kernel<<<grid, block, 0, stream>>>(call, launch);
  return cudaGetLastError();
}

}  // namespace garment_transfer
