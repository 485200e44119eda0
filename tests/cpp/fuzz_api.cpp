// Bytes as arguments of the C interface: null pointers, sizes, strides, capacities, enums, names.
// Buffers are exactly as large as what is passed says, so that a sanitizer sees a step beyond them.

#include <garment_transfer/garment_transfer.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace {

class Source {
 public:
  Source(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  std::uint8_t byte() { return at_ < size_ ? data_[at_++] : 0; }

  // Mostly `usual`, else a few bytes of the input or an end of the range.
  std::uint64_t number(std::uint64_t usual) {
    switch (byte() % 16) {
      case 1:
        return 0;
      case 2:
        return UINT64_MAX;
      case 3:
        return INT64_MAX;
      case 4:
        return usual + byte();
      case 5:
        return usual - byte();
      case 6: {
        std::uint64_t value = 0;
        for (int i = 0; i < 8; ++i) value = value << 8 | byte();
        return value;
      }
      default:
        return usual;
    }
  }

  bool rarely() { return byte() % 16 == 1; }

  std::string text() {
    std::string value;
    for (std::size_t length = byte() % 32; length; --length) {
      value += static_cast<char>(byte());
    }
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
};

gt_pipeline* tiny() {
  static const struct Owner {
    Owner() {
      gt_pipeline_options options = GT_PIPELINE_OPTIONS_INIT;
      options.threads = 1;
      const char* path = std::getenv("GARMENT_TRANSFER_TINY");
      if (gt_pipeline_load(path, &options, &pipeline) != GT_OK) std::abort();
    }
    ~Owner() { gt_pipeline_free(pipeline); }
    gt_pipeline* pipeline = nullptr;
  } owner;
  return owner.pipeline;
}

void load(Source& source) {
  gt_pipeline_options options = GT_PIPELINE_OPTIONS_INIT;
  const std::string texts[] = {source.text(), source.text(), source.text(), source.text()};
  options.struct_size = static_cast<std::size_t>(source.number(options.struct_size));
  if (source.rarely()) options.backend = texts[0].c_str();
  if (source.rarely()) options.device = texts[1].c_str();
  options.device_id = static_cast<std::int32_t>(source.number(0));
  options.threads = -static_cast<std::int32_t>(source.byte() % 2);
  options.flow_warp_library = source.rarely() ? texts[2].c_str() : "";
  gt_pipeline* pipeline = nullptr;
  const std::string bundle = "/nowhere/" + texts[3];
  const gt_status status =
      gt_pipeline_load(source.rarely() ? nullptr : bundle.c_str(),
                       source.rarely() ? nullptr : &options, source.rarely() ? nullptr : &pipeline);
  if (status == GT_OK || pipeline || !*gt_last_message()) std::abort();
}

void run(Source& source) {
  constexpr std::uint64_t kHeight = 64, kWidth = 32, kMost = 1 << 20;
  gt_session* session = nullptr;
  if (gt_session_create(tiny(), &session) != GT_OK) std::abort();
  gt_transfer transfer{};
  transfer.struct_size = static_cast<std::size_t>(source.number(sizeof transfer));
  const std::uint64_t batch = source.rarely() ? source.number(1) : 1 + source.byte() % 2;
  transfer.batch = static_cast<std::int32_t>(batch);
  const int memory = source.rarely() ? source.byte() : 0;
  std::memcpy(&transfer.memory, &memory, sizeof memory);
  transfer.stream = source.rarely() ? session : nullptr;
  std::vector<std::unique_ptr<std::uint8_t[]>> buffers;
  gt_input* inputs[] = {&transfer.person_image,     &transfer.person_parsing,
                        &transfer.person_densepose, &transfer.garment_image,
                        &transfer.garment_parsing,  &transfer.garment_densepose};
  bool honest = true;
  for (std::size_t i = 0; i < 6; ++i) {
    const std::uint64_t row = kWidth * (i % 3 == 1 ? 1 : 3);
    gt_input& input = *inputs[i];
    input.height = static_cast<std::int32_t>(source.number(kHeight));
    input.width = static_cast<std::int32_t>(source.number(kWidth));
    input.row_stride = static_cast<std::size_t>(source.number(row));
    input.batch_stride = static_cast<std::size_t>(source.number(kHeight * row));
    // What a caller with these strides has. Where it would be absurd, the library must refuse
    // before it reads, or the buffer is not there.
    const std::uint64_t step = input.row_stride ? input.row_stride : row;
    const std::uint64_t picture = input.batch_stride ? input.batch_stride : kHeight * step;
    const bool small = step <= kMost && picture <= kMost && batch >= 1 && batch <= 4;
    honest = honest && small;
    const std::uint64_t bytes =
        small ? (batch - 1) * picture + (kHeight - 1) * step + row : std::uint64_t{1};
    buffers.push_back(std::make_unique<std::uint8_t[]>(static_cast<std::size_t>(bytes)));
    std::memset(buffers.back().get(), source.byte() % 7, static_cast<std::size_t>(bytes));
    input.data = source.rarely() ? nullptr : buffers.back().get();
  }
  gt_output* outputs[] = {&transfer.image, &transfer.transfer_parsing, &transfer.warped_garment,
                          &transfer.flow};
  const std::uint64_t per_pixel[] = {3, 1, 3, 8};
  for (std::size_t i = 0; i < 4; ++i) {
    const std::uint64_t due = per_pixel[i] * kHeight * kWidth * std::min<std::uint64_t>(batch, 4);
    const std::uint64_t capacity = source.number(due);
    buffers.push_back(
        std::make_unique<std::uint8_t[]>(static_cast<std::size_t>(std::min(capacity, kMost))));
    // a claim beyond what is there would be the caller's lie
    *outputs[i] = {source.rarely() ? nullptr : buffers.back().get(),
                   static_cast<std::size_t>(std::min(capacity, kMost))};
  }
  // Strides so large that this target could not back them are refused only from where an address
  // overflows; such a call would read what no caller has.
  if (honest || transfer.batch < 1) {
    const gt_status status = gt_session_run(session, source.rarely() ? nullptr : &transfer);
    if (status != GT_OK && status != GT_INVALID_ARGUMENT) std::abort();
    if (status != GT_OK && !*gt_last_message()) std::abort();
  }
  if (gt_session_free(session) != GT_OK) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Source source(data, size);
  if (source.byte() % 4 == 1) {
    load(source);
  } else {
    run(source);
  }
  return 0;
}
