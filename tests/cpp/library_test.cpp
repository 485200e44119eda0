// The C interface and the wrapper on one thread: parity with Python, strides, and bad input.

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>
#include <random>

#include "golden.h"

namespace gt = garment_transfer;

namespace {

const gt::Pipeline& pipeline() {
  static const gt::Pipeline loaded(variable("GARMENT_TRANSFER_BUNDLE"), one_thread());
  return loaded;
}

const gt::Pipeline& tiny() {
  static const gt::Pipeline loaded(variable("GARMENT_TRANSFER_TINY"), one_thread());
  return loaded;
}

// A transfer on the tiny bundle whose fields a test spoils.
struct Tiny {
  static constexpr std::int32_t kHeight = 64, kWidth = 32;
  std::vector<std::uint8_t> pixels = std::vector<std::uint8_t>(3 * kHeight * kWidth, 4);
  std::vector<std::uint8_t> image = std::vector<std::uint8_t>(3 * kHeight * kWidth);
  gt_transfer transfer{};

  Tiny() {
    transfer.struct_size = sizeof transfer;
    transfer.batch = 1;
    for (gt_input* input : inputs()) *input = {pixels.data(), kHeight, kWidth, 0, 0};
    transfer.image = {image.data(), image.size()};
  }

  std::array<gt_input*, 6> inputs() {
    return {&transfer.person_image,  &transfer.person_parsing,  &transfer.person_densepose,
            &transfer.garment_image, &transfer.garment_parsing, &transfer.garment_densepose};
  }

  // And is whole again.
  void expect_refused(gt_status status, const std::string& words) {
    gt::Session session(tiny());
    EXPECT_EQ(gt_session_run(session.get(), &transfer), status);
    EXPECT_NE(std::string(gt_last_message()).find(words), std::string::npos) << gt_last_message();
    *this = Tiny();
  }
};

TEST(Golden, EqualsPythonByteForByte) {
  gt::Session session(pipeline());
  const auto cases = golden_cases(pipeline().size());
  ASSERT_GE(cases.size(), 18u);
  for (const auto& one : cases) {
    EXPECT_EQ(differing(one, session.run(one.given(pipeline().size()))), "") << one.name;
  }
}

TEST(Golden, FlowWarpKernelIsFound) {
  EXPECT_NE(pipeline().description().find("FlowWarp by its kernel"), std::string::npos)
      << pipeline().description();
}

TEST(Golden, WithoutTheKernelTheGarmentIsTheSameButForRounding) {
  gt::Options options = one_thread();
  options.use_flow_warp_library = false;
  const gt::Pipeline plain(variable("GARMENT_TRANSFER_BUNDLE"), options);
  EXPECT_NE(plain.description().find("standard operators"), std::string::npos);
  const auto cases = golden_cases(plain.size());
  const auto& one = cases.front();
  const gt::Result result = gt::Session(plain).run(one.given(plain.size()));
  std::size_t beyond = 0;
  for (std::size_t i = 0; i < result.image.size(); ++i) {
    beyond += std::abs(result.image[i] - one.outputs[0][i]) > 2;
  }
  EXPECT_LT(beyond, result.image.size() / 1000);
}

TEST(Strides, GiveTheSame) {
  const gt::Size size = pipeline().size();
  const auto cases = golden_cases(size);
  const auto batch =
      std::find_if(cases.begin(), cases.end(), [](const Case& c) { return c.batch > 1; });
  ASSERT_NE(batch, cases.end());
  // each row with 5 bytes of others' behind it, each picture with 7 more
  gt::Inputs inputs = batch->given(size);
  std::vector<std::vector<std::uint8_t>> padded;
  gt::Pixels* pixels[] = {&inputs.person_image,     &inputs.person_parsing,
                          &inputs.person_densepose, &inputs.garment_image,
                          &inputs.garment_parsing,  &inputs.garment_densepose};
  const auto rows = static_cast<std::size_t>(size.height);
  for (std::size_t i = 0; i < 6; ++i) {
    const std::size_t row = static_cast<std::size_t>(size.width) * (i % 3 == 1 ? 1 : 3);
    const std::size_t stride = row + 5, picture = rows * stride + 7;
    // as short as the strides allow, so that reading on is caught
    std::vector<std::uint8_t> spread(
        (static_cast<std::size_t>(batch->batch) - 1) * picture + (rows - 1) * stride + row, 0xEE);
    for (std::size_t n = 0; n < static_cast<std::size_t>(batch->batch); ++n) {
      for (std::size_t y = 0; y < rows; ++y) {
        std::memcpy(&spread[n * picture + y * stride], &batch->inputs[i][(n * rows + y) * row],
                    row);
      }
    }
    padded.push_back(std::move(spread));
    *pixels[i] = {padded[i].data(), size.height, size.width, stride, picture};
  }
  EXPECT_EQ(differing(*batch, gt::Session(pipeline()).run(inputs)), "");
}

TEST(Results, MayBeLeftOut) {
  const gt::Size size = pipeline().size();
  const Case one = golden_cases(size).front();
  gt::Inputs inputs = one.given(size);
  gt_transfer transfer{};
  transfer.struct_size = sizeof transfer;
  transfer.batch = one.batch;
  transfer.person_image = inputs.person_image.value;
  transfer.person_parsing = inputs.person_parsing.value;
  transfer.person_densepose = inputs.person_densepose.value;
  transfer.garment_image = inputs.garment_image.value;
  transfer.garment_parsing = inputs.garment_parsing.value;
  transfer.garment_densepose = inputs.garment_densepose.value;
  gt::Session session(pipeline());
  gt_output* outputs[] = {&transfer.image, &transfer.transfer_parsing, &transfer.warped_garment,
                          &transfer.flow,  &transfer.transfer_scores,  &transfer.flow_confidence};
  for (std::size_t i = 0; i < std::size(outputs); ++i) {
    std::vector<std::uint8_t> result(one.outputs[i].size());
    *outputs[i] = {result.data(), result.size()};
    session.run(transfer);
    EXPECT_EQ(result, one.outputs[i]) << i;
    *outputs[i] = {};
  }
}

TEST(Times, OfPartsAddUpToTheRun) {
  const gt::Size size = pipeline().size();
  const Case one = golden_cases(size).front();
  gt::Session session(pipeline());
  gt::Result result;
  gt_times times{};
  const auto start = std::chrono::steady_clock::now();
  session.run(one.given(size), result, &times);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(differing(one, result), "");
  EXPECT_TRUE(times.parsing > 0 && times.warping > 0 && times.regrowth > 0);
  EXPECT_LE(times.upload + times.parsing + times.warping + times.regrowth, took.count());
  EXPECT_EQ(times.download, 0);  // graphs write where the caller wants results
}

TEST(Lifetime, SessionsKeepWhatTheyNeed) {
  const gt::Size size = pipeline().size();
  const Case one = golden_cases(size).front();
  std::optional<gt::Pipeline> own(std::in_place, variable("GARMENT_TRANSFER_BUNDLE"), one_thread());
  gt::Session session(*own);
  own.reset();
  EXPECT_EQ(differing(one, session.run(one.given(size))), "");
}

TEST(Bundle, FramingIsTheManifests) {
  const gt::Framing framing = pipeline().framing();
  EXPECT_EQ(framing.parts, 0x1FF879Eu);  // 1 to 4, 7 to 10, 15 to 24
  EXPECT_EQ(framing.legs, 1.2);
  EXPECT_EQ(framing.margin, 0.04);
}

TEST(BadInput, NullPointers) {
  gt_pipeline* loaded = nullptr;
  gt_session* session = nullptr;
  std::int32_t side = 0;
  const std::string bundle = variable("GARMENT_TRANSFER_TINY");
  EXPECT_EQ(gt_pipeline_load(nullptr, nullptr, &loaded), GT_ARGUMENT_INVALID);
  EXPECT_STREQ(gt_last_message(), "bundle is null; expected a pointer");
  EXPECT_EQ(gt_pipeline_load(bundle.c_str(), nullptr, nullptr), GT_ARGUMENT_INVALID);
  EXPECT_STREQ(gt_last_message(), "pipeline is null; expected a pointer");
  EXPECT_EQ(gt_pipeline_size(nullptr, &side, &side), GT_ARGUMENT_INVALID);
  EXPECT_EQ(gt_pipeline_size(tiny().get(), nullptr, &side), GT_ARGUMENT_INVALID);
  EXPECT_EQ(gt_pipeline_size(tiny().get(), &side, nullptr), GT_ARGUMENT_INVALID);
  std::uint32_t parts = 0;
  double share = 0;
  EXPECT_EQ(gt_pipeline_framing(nullptr, &parts, &share, &share), GT_ARGUMENT_INVALID);
  EXPECT_EQ(gt_pipeline_framing(tiny().get(), nullptr, &share, &share), GT_ARGUMENT_INVALID);
  EXPECT_EQ(gt_pipeline_framing(tiny().get(), &parts, nullptr, &share), GT_ARGUMENT_INVALID);
  EXPECT_EQ(gt_pipeline_framing(tiny().get(), &parts, &share, nullptr), GT_ARGUMENT_INVALID);
  EXPECT_EQ(gt_pipeline_description(nullptr), nullptr);
  EXPECT_EQ(gt_session_create(nullptr, &session), GT_ARGUMENT_INVALID);
  EXPECT_EQ(gt_session_create(tiny().get(), nullptr), GT_ARGUMENT_INVALID);
  EXPECT_EQ(gt_session_run(nullptr, nullptr), GT_ARGUMENT_INVALID);
  gt::Session real(tiny());
  EXPECT_EQ(gt_session_run(real.get(), nullptr), GT_ARGUMENT_INVALID);
  EXPECT_STREQ(gt_last_message(), "transfer is null; expected a pointer");
  EXPECT_EQ(gt_session_free(nullptr), GT_OK);
  gt_pipeline_free(nullptr);
}

TEST(BadInput, AFailedLoadGivesNull) {
  auto* loaded = reinterpret_cast<gt_pipeline*>(1);
  EXPECT_EQ(gt_pipeline_load("/nowhere", nullptr, &loaded), GT_BUNDLE_MISSING);
  EXPECT_EQ(loaded, nullptr);
  EXPECT_EQ(std::string(gt_last_message()).find("/nowhere does not exist; expected a bundle"), 0u);
}

TEST(BadInput, Options) {
  const std::string bundle = variable("GARMENT_TRANSFER_TINY");
  const auto code = [&](const gt::Options& options) -> std::string {
    try {
      gt::Pipeline loaded(bundle, options);
    } catch (const gt::Error& error) {
      return error.code();
    }
    return "loaded";
  };
  gt::Options options;
  for (const char* backend : {"abacus", "onnxruntime,"}) {
    options.backend = backend;
    EXPECT_EQ(code(options), "backend_unknown");
  }
  options = {};
  options.device = "tpu";
  EXPECT_EQ(code(options), "option_invalid");
  options = {};
  options.threads = -1;
  EXPECT_EQ(code(options), "option_invalid");
  EXPECT_STREQ(gt_last_message(), "threads is -1; expected 1 to 1024, or 0 for the default");
  options = {};
  options.device_id = -1;
  EXPECT_EQ(code(options), "option_invalid");
  options = {};
  options.precision = "float16";
  EXPECT_EQ(code(options), "precision_missing");
  for (const std::string& file : {std::string("/nowhere.so"), bundle + "/manifest.json"}) {
    options = {};
    options.flow_warp_library = file;
    EXPECT_EQ(code(options), "option_invalid");
    EXPECT_EQ(std::string(gt_last_message()).find(file + " does not load: "), 0u);
  }
}

TEST(Structs, OfAnOlderHeaderAreTaken) {
  gt_pipeline_options options = GT_PIPELINE_OPTIONS_INIT;
  options.precision = "not looked at";
  options.struct_size = offsetof(gt_pipeline_options, precision);
  gt_pipeline* loaded = nullptr;
  const std::string bundle = variable("GARMENT_TRANSFER_TINY");
  EXPECT_EQ(gt_pipeline_load(bundle.c_str(), &options, &loaded), GT_OK);
  gt_pipeline_free(loaded);
  for (const std::size_t size :
       {std::size_t{0}, options.struct_size - 8, options.struct_size + 1, sizeof options + 8}) {
    options.struct_size = size;
    EXPECT_EQ(gt_pipeline_load(bundle.c_str(), &options, &loaded), GT_ARGUMENT_INVALID) << size;
  }
  Tiny t;
  t.transfer.flow = {&t, 1};  // too small, were it looked at
  t.transfer.struct_size = offsetof(gt_transfer, flow);
  gt::Session(tiny()).run(t.transfer);
  for (const std::size_t size : {std::size_t{8}, sizeof t.transfer + 8}) {
    t.transfer.struct_size = size;
    t.expect_refused(GT_ARGUMENT_INVALID, "gt_transfer.struct_size is");
  }
  gt_times times{};
  t.transfer.times = &times;
  t.expect_refused(GT_ARGUMENT_INVALID, "gt_times.struct_size is 0");
}

// A person of a golden case, whose fields a test spoils.
struct Someone {
  gt::Size size = pipeline().size();
  Case one = first();
  gt::PersonSource source;

  static const Case& first() {
    static const Case read = golden_cases(pipeline().size()).front();
    return read;
  }

  Someone() {
    source.photo = {one.inputs[0].data(), size.height, size.width, 3, 0, nullptr};
    source.parsing = {one.inputs[1].data(), size.height, size.width, 1, 0, nullptr};
    source.densepose = {one.inputs[2].data(), size.height, size.width, 3, 0, nullptr};
  }

  void expect_refused(gt_status status, const std::string& words) {
    try {
      gt::Person person(source);
      FAIL() << "no " << words;
    } catch (const gt::Error& error) {
      EXPECT_EQ(error.status(), status) << error.what();
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
    *this = Someone();
  }
};

TEST(People, AreTheSameFromFloatsAndFromRowsInAnyOrder) {
  const Someone some;
  const gt::Person person(some.source);
  const gt_person_maps expected = person.maps();
  const auto pixels =
      static_cast<std::size_t>(some.size.height) * static_cast<std::size_t>(some.size.width);
  // planes of floats, each row with 4 values of others' behind it
  const auto width = static_cast<std::size_t>(some.size.width), stride = width + 4;
  std::vector<float> floats(3 * static_cast<std::size_t>(some.size.height) * stride, -9);
  for (std::size_t i = 0; i < 3 * pixels; ++i) {
    const std::size_t row = i % 3 * static_cast<std::size_t>(some.size.height) + i / 3 / width;
    const float value = some.one.inputs[2][i];
    floats[row * stride + i / 3 % width] = i % 3 ? value / 255 : value;
  }
  // the photo upside down, read from its last row
  std::vector<std::uint8_t> turned(3 * pixels);
  for (std::size_t i = 0; i < turned.size(); i += 3 * width) {
    std::memcpy(&turned[turned.size() - i - 3 * width], &some.one.inputs[0][i], 3 * width);
  }
  gt::PersonSource source = some.source;
  source.photo.data = &turned[turned.size() - 3 * width];
  source.photo.row_stride = -static_cast<std::ptrdiff_t>(3 * width);
  source.densepose.data = floats.data();
  source.densepose.row_stride = static_cast<std::ptrdiff_t>(4 * stride);
  source.densepose_encoding = "iuv";
  const gt::Person other(source);
  const gt_person_maps found = other.maps();
  EXPECT_EQ(std::memcmp(found.image, expected.image, 3 * pixels), 0);
  EXPECT_EQ(std::memcmp(found.parsing, expected.parsing, pixels), 0);
  EXPECT_EQ(std::memcmp(found.densepose, expected.densepose, 3 * pixels), 0);
  EXPECT_EQ(found.confidence[4], -1);
}

TEST(People, AreRefusedInWords) {
  Someone some;
  some.source.photo.height = 0;
  some.expect_refused(GT_IMAGE_SIZE, "image is empty");
  some.source.photo.width = 8193;
  some.expect_refused(GT_IMAGE_SIZE, "at most 8192 pixels");
  some.source.photo.channels = 4;
  some.expect_refused(GT_ARRAY_INVALID, "image has 4 channels; expected 3");
  for (const std::ptrdiff_t stride :
       {std::ptrdiff_t{2}, std::ptrdiff_t{-2}, std::numeric_limits<std::ptrdiff_t>::max()}) {
    some.source.photo.row_stride = stride;
    some.expect_refused(GT_ARRAY_INVALID, "image.row_stride is");
  }
  some.source.parsing.data = nullptr;
  some.expect_refused(GT_ARRAY_INVALID, "parsing has no pixels");
  some.source.parsing.data = some.source.densepose.data = nullptr;
  some.expect_refused(GT_ARGUMENT_INVALID, "pipeline, which makes the maps, is null");
  some.source.parsing = some.source.photo;
  some.source.parsing.name = "p.png";
  some.expect_refused(GT_IMAGE_MODE, "p.png has colours");
  some.source.parsing.height /= 2;
  some.expect_refused(GT_SIZES_DIFFER, "the aspects differ");
  some.source.label_set = "nine";
  some.expect_refused(GT_LABEL_SET_UNKNOWN, "expected one of atr18");
  some.source.densepose_encoding = "rainbow";
  some.expect_refused(GT_DENSEPOSE_ENCODING_UNKNOWN, "expected one of iuv, iuv-png, parula");
  some.source.box = gt_box{5, 5, 5, 9};
  some.expect_refused(GT_ARGUMENT_INVALID, "the person's box is empty");
  some.one.inputs[1][7] = 9;
  some.expect_refused(GT_LABEL_SET_MISMATCH, "does not have: 9; expected ids 0-6");
  some.one.inputs[2][0] = 99;
  some.expect_refused(GT_DENSEPOSE_INVALID, "channel I reaches 99");
  std::fill(some.one.inputs[2].begin(), some.one.inputs[2].end(), std::uint8_t{0});
  some.expect_refused(GT_BODY_MISSING, "shows a person without a body");
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), 0.5f, 99.f}) {
    const std::vector<float> floats(some.one.inputs[2].size(), value);
    some.source.densepose.data = floats.data();
    some.source.densepose_encoding = "iuv";
    some.expect_refused(GT_DENSEPOSE_INVALID, "densepose");
  }
  const gt::Person person(some.source);
  std::vector<std::uint8_t> small(3);
  gt_photo_transfer transfer{};
  transfer.struct_size = sizeof transfer;
  transfer.person = transfer.garment_owner = person.get();
  transfer.image = {small.data(), small.size()};
  gt::Session session(pipeline());
  EXPECT_EQ(gt_session_transfer(session.get(), &transfer), GT_ARRAY_INVALID);
  transfer.image = {};
  transfer.threads = 65;
  EXPECT_EQ(gt_session_transfer(session.get(), &transfer), GT_ARGUMENT_INVALID);
  transfer.threads = 1;
  transfer.person = nullptr;
  EXPECT_EQ(gt_session_transfer(session.get(), &transfer), GT_ARGUMENT_INVALID);
  gt_person* none = nullptr;
  gt_person_source source{};
  EXPECT_EQ(gt_person_create(nullptr, &source, &none), GT_ARGUMENT_INVALID);
  EXPECT_EQ(gt_person_create(nullptr, nullptr, &none), GT_ARGUMENT_INVALID);
  gt_person_free(nullptr);
}

TEST(BadInput, CudaWhereThereIsNone) {
  gt::Options options;
  options.device = "cuda";
  try {
    gt::Pipeline loaded(variable("GARMENT_TRANSFER_TINY"), options);
    GTEST_SKIP() << "this ONNX Runtime has CUDA";
  } catch (const gt::Error& error) {
    EXPECT_EQ(error.status(), GT_BACKEND_UNAVAILABLE);
    EXPECT_NE(std::string(error.what()).find("device 'cuda'"), std::string::npos);
  }
}

TEST(BadInput, Transfers) {
  Tiny t;
  gt::Session(tiny()).run(t.transfer);

  for (const std::int32_t batch : {0, -1, std::numeric_limits<std::int32_t>::min()}) {
    t.transfer.batch = batch;
    t.expect_refused(GT_BATCH_INVALID, "batch is " + std::to_string(batch));
  }
  const int seven = 7;
  std::memcpy(&t.transfer.memory, &seven, sizeof seven);
  t.expect_refused(GT_ARGUMENT_INVALID, "memory is 7; expected GT_HOST or GT_DEVICE");
  t.transfer.memory = GT_DEVICE;
  t.expect_refused(GT_ARGUMENT_INVALID, "memory is GT_DEVICE; expected GT_HOST");
  t.transfer.stream = &t;
  t.expect_refused(GT_ARGUMENT_INVALID, "stream is not null with GT_HOST");
  t.transfer.garment_parsing.data = nullptr;
  t.expect_refused(GT_ARRAY_INVALID, "garment_parsing.data is null");
  t.transfer.person_image.height = 32;
  t.transfer.person_image.width = 64;
  t.expect_refused(GT_ARRAY_INVALID, "person_image is 32x64 (height x width)");
  t.transfer.person_densepose.width = -32;
  t.expect_refused(GT_ARRAY_INVALID, "person_densepose is 64x-32");
  t.transfer.person_image.row_stride = 95;
  t.expect_refused(GT_ARRAY_INVALID, "person_image.row_stride is 95 bytes");
  t.transfer.batch = 2;
  t.transfer.image.data = nullptr;
  t.transfer.garment_image.batch_stride = 3 * 64 * 32 - 1;
  t.expect_refused(GT_ARRAY_INVALID, "garment_image.batch_stride is 6143 bytes");
}

TEST(BadInput, Ids) {
  Tiny t;
  std::vector<std::uint8_t> parsing(64 * 32, 6), densepose(3 * 64 * 32, 255);
  for (std::size_t i = 0; i < densepose.size(); i += 3) densepose[i] = 24;
  t.transfer.garment_parsing.data = parsing.data();
  t.transfer.person_densepose.data = densepose.data();
  gt::Session(tiny()).run(t.transfer);
  parsing.back() = 7;
  t.expect_refused(GT_ID_OUT_OF_RANGE, "garment_parsing has 7 in row 63");
  densepose[0] = 25;
  t.transfer.person_densepose.data = densepose.data();
  t.expect_refused(GT_ID_OUT_OF_RANGE, "person_densepose has 25 in row 0");
}

TEST(BadInput, Outputs) {
  Tiny t;
  t.transfer.image.capacity -= 1;
  t.expect_refused(GT_ARRAY_INVALID, "image.capacity is 6143 bytes; expected 6144 for a");
  alignas(8) std::uint8_t odd[2 * 4 * 64 * 32 + 8];
  t.transfer.flow = {odd + 1, sizeof odd - 1};
  t.expect_refused(GT_ARRAY_INVALID, "flow.data is not aligned for float32");
}

// Strides and capacities at random. Buffers are exactly as large as these say, so that a sanitizer
// sees a step beyond them.
TEST(BadInput, RandomTransfers) {
  std::mt19937 random(1);
  const auto near = [&](std::size_t usual) -> std::size_t {
    const std::size_t rare[] = {0, SIZE_MAX, PTRDIFF_MAX, usual - 1, usual + random() % 64};
    const std::size_t index = random() % 40;
    return index < std::size(rare) ? rare[index] : usual;
  };
  gt::Session session(tiny());
  int ran = 0;
  for (int i = 0; i < 2000; ++i) {
    Tiny t;
    const std::size_t batch = 1 + random() % 2;
    t.transfer.batch = static_cast<std::int32_t>(batch);
    std::vector<std::vector<std::uint8_t>> buffers;
    for (gt_input* input : t.inputs()) {
      const bool parsing =
          input == &t.transfer.person_parsing || input == &t.transfer.garment_parsing;
      const std::size_t row = parsing ? 32 : 96;
      input->row_stride = near(row);
      input->batch_stride = near(64 * row);
      const std::size_t step = input->row_stride ? input->row_stride : row;
      const std::size_t picture =
          input->batch_stride && batch > 1 ? input->batch_stride : 64 * step;
      const bool absurd = step > 1000 || picture > 100'000;  // refused, and nothing is there
      buffers.emplace_back(absurd ? 1 : (batch - 1) * picture + 63 * step + row, i % 7);
      input->data = buffers.back().data();
    }
    const std::size_t bytes = 6144 * batch;
    t.transfer.image.capacity = near(bytes);
    buffers.emplace_back(std::min(t.transfer.image.capacity, bytes));
    t.transfer.image.data = buffers.back().data();
    const gt_status status = gt_session_run(session.get(), &t.transfer);
    EXPECT_TRUE(status == GT_OK || status == GT_ARRAY_INVALID) << gt_last_message();
    ran += status == GT_OK;
  }
  EXPECT_GT(ran, 200);
  EXPECT_LT(ran, 1800);
}

TEST(Messages, SurviveAMoveAndAFailure) {
  Tiny t;
  t.transfer.batch = 0;
  gt::Session session(tiny());
  gt::Session moved(std::move(session));
  EXPECT_EQ(gt_session_run(moved.get(), &t.transfer), GT_BATCH_INVALID);
  // a refused run leaves the session as it was
  t.transfer.batch = 1;
  EXPECT_EQ(gt_session_run(moved.get(), &t.transfer), GT_OK);
  EXPECT_THROW(session.run(t.transfer), gt::Error);
}

TEST(Version, IsTheHeaders) {
  EXPECT_EQ(gt::version(), GT_VERSION);
  EXPECT_EQ(gt::version(), std::to_string(GT_VERSION_MAJOR) + "." +
                               std::to_string(GT_VERSION_MINOR) + "." +
                               std::to_string(GT_VERSION_PATCH));
  EXPECT_EQ(std::string(gt_backends()).find("onnxruntime"), 0u);
}

}  // namespace
