#include "photos.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "../compose/compose_cpu.h"
#include "../remove_arms/remove_arms_cpu.h"
#include "../upsample_labels/upsample_labels_cpu.h"
#if defined(GT_PHOTOS_WITH_CUDA)
#include "../compose/compose_cuda.h"
#include "../fit/fit_cuda.h"
#endif

namespace {

constexpr int kMaxThreads = 64;

// Parts are handed out as threads come for them, as rows differ in what is to be done. An error of
// any ends the rest and is thrown here.
void on_threads(int threads, std::ptrdiff_t count,
                const std::function<void(std::ptrdiff_t, std::ptrdiff_t)>& body) {
  threads = std::clamp(threads, 1, kMaxThreads);
  const std::ptrdiff_t parts = threads > 1 ? std::min<std::ptrdiff_t>(count, 8 * threads) : 1;
  std::atomic<std::ptrdiff_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  const auto work = [&] {
    try {
      for (std::ptrdiff_t i; !failed && (i = next++) < parts;) {
        body(count * i / parts, count * (i + 1) / parts);
      }
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  try {
    const std::ptrdiff_t wanted = std::min<std::ptrdiff_t>(threads, parts) - 1;
    for (std::ptrdiff_t i = 0; i < wanted; ++i) others.emplace_back(work);
  } catch (const std::system_error&) {
    // the system gives no more threads: those that are there do it
  }
  work();
  for (std::thread& other : others) other.join();
  if (error) std::rethrow_exception(error);
}

garment_transfer::ParallelFor parallel(int threads) {
  return [threads](std::ptrdiff_t count, const auto& body) { on_threads(threads, count, body); };
}

bool is_side(int32_t size) { return size >= 1 && size <= GT_PHOTOS_MAX_SIDE; }

GtPhotosStatus check(const GtPicture& picture, int height, int width,
                     std::initializer_list<int> channels) {
  if (!picture.data) return GT_PHOTOS_NULL;
  if (!is_side(picture.height) || !is_side(picture.width) || picture.height != height ||
      picture.width != width ||
      std::find(channels.begin(), channels.end(), picture.channels) == channels.end()) {
    return GT_PHOTOS_SIZE;
  }
  const int64_t row = int64_t{picture.width} * picture.channels;
  const bool apart = picture.stride >= row || picture.stride <= -row;
  // so large a stride that a row's place would not fit is none either
  return apart && std::abs(picture.stride) <= int64_t{1} << 40 ? GT_PHOTOS_OK : GT_PHOTOS_STRIDE;
}

bool is_fit(const GtFit& f) {
  for (const int32_t side : {f.source_height, f.source_width, f.scaled_height, f.scaled_width,
                             f.target_height, f.target_width}) {
    if (!is_side(side)) return false;
  }
  const auto touches = [](int32_t start, int32_t length, int32_t size) {
    constexpr int32_t kFar = 4 * GT_PHOTOS_MAX_SIDE;
    return length >= 1 && length <= 2 * GT_PHOTOS_MAX_SIDE && start > -kFar && start < size &&
           start + length > 0;
  };
  const auto holds = [](int32_t start, int32_t length, int32_t size) {
    return start >= 0 && start <= size - length;
  };
  return touches(f.top, f.height, f.source_height) && touches(f.left, f.width, f.source_width) &&
         holds(f.frame_top, f.scaled_height, f.target_height) &&
         holds(f.frame_left, f.scaled_width, f.target_width);
}

struct Range {
  std::uintptr_t begin, end;
};

Range range(const void* data, int64_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return {begin, begin + static_cast<std::uintptr_t>(bytes)};
}

Range range(const GtPicture& p) {
  if (!p.data) return {};
  const int64_t row = int64_t{p.width} * p.channels, last = (p.height - 1) * p.stride;
  return range(p.data + std::min<int64_t>(last, 0), std::abs(last) + row);
}

bool overlap(const Range& a, const Range& b) { return a.begin < b.end && b.begin < a.end; }

template <typename Body>
GtPhotosStatus guarded(const Body& body) {
  try {
    return body();
  } catch (...) {  // nothing here throws but the allocator
    return GT_PHOTOS_MEMORY;
  }
}

template <typename Kernel>
GtPhotosStatus run_fit(const GtPicture* picture, const GtFit* fit, uint8_t* out,
                       const Kernel& kernel) {
  if (!picture || !fit || !out) return GT_PHOTOS_NULL;
  if (!is_fit(*fit)) return GT_PHOTOS_FIT;
  const GtPhotosStatus status = check(*picture, fit->source_height, fit->source_width, {1, 3});
  if (status != GT_PHOTOS_OK) return status;
  const int64_t bytes = int64_t{fit->target_height} * fit->target_width * picture->channels;
  if (overlap(range(out, bytes), range(*picture))) return GT_PHOTOS_OVERLAP;
  return guarded([&] {
    kernel();
    return GT_PHOTOS_OK;
  });
}

GtPhotosStatus check(const GtCompose& c) {
  if (!c.flow || !c.out_image || !c.out_parsing) return GT_PHOTOS_NULL;
  if (!is_fit(c.fit) || !is_fit(c.owner_fit)) return GT_PHOTOS_FIT;
  const int32_t height = c.fit.source_height, width = c.fit.source_width;
  const int32_t owner_height = c.owner_fit.source_height, owner_width = c.owner_fit.source_width;
  const int32_t rows = c.fit.target_height, columns = c.fit.target_width;
  if (c.owner_fit.target_height != rows || c.owner_fit.target_width != columns) {
    return GT_PHOTOS_SIZE;
  }
  std::vector<Range> read = {range(c.flow, int64_t{8} * rows * columns)};
  const struct {
    const GtPicture& picture;
    int32_t height, width;
    int channels;
    bool optional;
  } pictures[] = {
      {c.photo, height, width, 3, false},
      {c.parsing, height, width, 1, false},
      {c.kept, height, width, 1, true},
      {c.owner_photo, owner_height, owner_width, 3, false},
      {c.owner_garment, owner_height, owner_width, 1, false},
      {c.image, rows, columns, 3, false},
      {c.transfer_parsing, rows, columns, 1, false},
      {c.warped_garment, rows, columns, 3, false},
      {c.transfer_scores, rows, columns, 4, true},
  };
  for (const auto& p : pictures) {
    if (p.optional && !p.picture.data) continue;
    const GtPhotosStatus status = check(p.picture, p.height, p.width, {p.channels});
    if (status != GT_PHOTOS_OK) return status;
    read.push_back(range(p.picture));
  }
  const int64_t area = int64_t{height} * width;
  std::vector<Range> written = {range(c.out_image, 3 * area), range(c.out_parsing, area)};
  if (c.out_warped_garment) written.push_back(range(c.out_warped_garment, 3 * area));
  for (std::size_t i = 0; i < written.size(); ++i) {
    for (const Range& other : read) {
      if (overlap(written[i], other)) return GT_PHOTOS_OVERLAP;
    }
    for (std::size_t k = 0; k < i; ++k) {
      if (overlap(written[i], written[k])) return GT_PHOTOS_OVERLAP;
    }
  }
  return GT_PHOTOS_OK;
}

}  // namespace

extern "C" {

GtPhotosStatus gt_fit_whole(int32_t source_height, int32_t source_width, int32_t target_height,
                            int32_t target_width, GtFit* fit) {
  if (!fit) return GT_PHOTOS_NULL;
  for (const int32_t side : {source_height, source_width, target_height, target_width}) {
    if (!is_side(side)) return GT_PHOTOS_SIZE;
  }
  const double factor = std::min(static_cast<double>(target_height) / source_height,
                                 static_cast<double>(target_width) / source_width);
  // to even at one half, as Python rounds
  const auto scaled = [factor](int32_t length) {
    return std::max(1, static_cast<int>(std::nearbyint(length * factor)));
  };
  const int height = scaled(source_height), width = scaled(source_width);
  *fit = {source_height,
          source_width,
          0,
          0,
          source_height,
          source_width,
          height,
          width,
          (target_height - height) / 2,
          (target_width - width) / 2,
          target_height,
          target_width};
  return GT_PHOTOS_OK;
}

GtPhotosStatus gt_fit_photo(const GtPicture* photo, const GtFit* fit, uint8_t* out,
                            int32_t threads) {
  return run_fit(photo, fit, out,
                 [&] { garment_transfer::fit_photo_cpu(*photo, *fit, out, parallel(threads)); });
}

GtPhotosStatus gt_fit_map(const GtPicture* map, const GtFit* fit, uint8_t* out) {
  return run_fit(map, fit, out, [&] { garment_transfer::fit_map_cpu(*map, *fit, out); });
}

GtPhotosStatus gt_remove_arms(const GtPicture* photo, const GtPicture* garment,
                              const GtPicture* arms, uint8_t* out, uint8_t* out_garment,
                              int32_t* removed, int32_t threads) {
  if (!photo || !garment || !arms || !out || !out_garment || !removed) return GT_PHOTOS_NULL;
  const int64_t pixels_of = int64_t{1} * photo->height * photo->width;
  for (const auto& [given, channels] : {std::pair(photo, 3), {garment, 1}, {arms, 1}}) {
    const GtPhotosStatus status = check(*given, photo->height, photo->width, {channels});
    if (status != GT_PHOTOS_OK) return status;
    if (overlap(range(out, 3 * pixels_of), range(*given)) ||
        overlap(range(out_garment, pixels_of), range(*given))) {
      return GT_PHOTOS_OVERLAP;
    }
  }
  if (overlap(range(out, 3 * pixels_of), range(out_garment, pixels_of))) return GT_PHOTOS_OVERLAP;
  return guarded([&] {
    *removed = garment_transfer::remove_arms_cpu(*photo, *garment, *arms, out, out_garment,
                                                 parallel(threads));
    return GT_PHOTOS_OK;
  });
}

GtPhotosStatus gt_upsample_labels(const GtPicture* photo, const GtPicture* framed,
                                  const GtPicture* labels, const GtFit* fit, uint8_t* out,
                                  int32_t threads) {
  if (!photo || !framed || !labels || !fit || !out) return GT_PHOTOS_NULL;
  if (!is_fit(*fit)) return GT_PHOTOS_FIT;
  const Range written = range(out, int64_t{1} * fit->source_height * fit->source_width);
  const struct {
    const GtPicture& picture;
    int32_t height, width;
    int channels;
  } pictures[] = {
      {*photo, fit->source_height, fit->source_width, 3},
      {*framed, fit->target_height, fit->target_width, 3},
      {*labels, fit->target_height, fit->target_width, 1},
  };
  for (const auto& p : pictures) {
    const GtPhotosStatus status = check(p.picture, p.height, p.width, {p.channels});
    if (status != GT_PHOTOS_OK) return status;
    if (overlap(written, range(p.picture))) return GT_PHOTOS_OVERLAP;
  }
  return guarded([&] {
    garment_transfer::upsample_labels_cpu(*photo, *framed, *labels, *fit, out, parallel(threads));
    return GT_PHOTOS_OK;
  });
}

GtPhotosStatus gt_compose(const GtCompose* call) {
  if (!call) return GT_PHOTOS_NULL;
  return guarded([&] {
    const GtPhotosStatus status = check(*call);
    if (status != GT_PHOTOS_OK) return status;
    garment_transfer::compose_cpu(*call, parallel(call->threads));
    return GT_PHOTOS_OK;
  });
}

#if defined(GT_PHOTOS_WITH_CUDA)
GtPhotosStatus gt_fit_photo_cuda(const GtPicture* photo, const GtFit* fit, uint8_t* out,
                                 void* stream) {
  cudaError_t error = cudaSuccess;
  const GtPhotosStatus status = run_fit(photo, fit, out, [&] {
    error = garment_transfer::fit_photo_cuda(*photo, *fit, out, static_cast<cudaStream_t>(stream));
  });
  return error == cudaSuccess ? status : GT_PHOTOS_CUDA;
}

uint64_t gt_compose_cuda_bytes(const GtCompose* call) {
  if (!call || check(*call) != GT_PHOTOS_OK) return 0;
  return garment_transfer::compose_cuda_bytes(*call);
}

GtPhotosStatus gt_compose_cuda(const GtCompose* call, void* workspace, void* stream) {
  if (!call || !workspace) return GT_PHOTOS_NULL;
  const GtPhotosStatus status = check(*call);
  if (status != GT_PHOTOS_OK) return status;
  const cudaError_t error =
      garment_transfer::compose_cuda(*call, workspace, static_cast<cudaStream_t>(stream));
  return error == cudaSuccess ? GT_PHOTOS_OK : GT_PHOTOS_CUDA;
}
#endif

}  // extern "C"
