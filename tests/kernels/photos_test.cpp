// What finishes photos on random calls, in memory of exactly the size that they may touch, for a
// sanitizer to watch: right ones, and ones that are spoilt and have to be refused. The device code
// (photos_on_cpu.cpp) has to give the same. Prints "passed".
//
//     photos_test RUNS [SEED]

#include "photos.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

namespace {

std::mt19937 random_bits;

int between(int least, int most) {
  return std::uniform_int_distribution<int>(least, most)(random_bits);
}
bool chance(int one_of) { return between(1, one_of) == 1; }

[[noreturn]] void fail(const char* what, int status) {
  std::printf("%s: status %d\n", what, status);
  std::exit(1);
}

// A picture whose rows may be apart and upside down, of few values, so that regions are large.
struct Picture {
  Picture(int height, int width, int channels, int values) {
    const int gap = chance(3) ? between(1, 9) : 0, row = width * channels;
    bytes.resize(static_cast<std::size_t>(height - 1) * static_cast<std::size_t>(row + gap) +
                 static_cast<std::size_t>(row));
    const int run = between(1, 40);
    std::uint8_t value = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (i % static_cast<std::size_t>(run) == 0) {
        value = static_cast<std::uint8_t>(between(0, values - 1));
      }
      bytes[i] = value;
    }
    const int stride = row + gap;
    const bool down = chance(3);
    view = {bytes.data() + (down ? (height - 1) * stride : 0), down ? -stride : stride, height,
            width, channels};
  }
  std::vector<std::uint8_t> bytes;
  GtPicture view;
};

GtFit random_fit(int height, int width, int rows, int columns) {
  GtFit fit;
  if (gt_fit_whole(height, width, rows, columns, &fit) != GT_PHOTOS_OK) fail("gt_fit_whole", 1);
  if (chance(2)) return fit;
  fit.height = between(1, 2 * height);
  fit.width = between(1, 2 * width);
  fit.top = between(1 - fit.height, height - 1);
  fit.left = between(1 - fit.width, width - 1);
  fit.scaled_height = between(1, rows);
  fit.scaled_width = between(1, columns);
  fit.frame_top = between(0, rows - fit.scaled_height);
  fit.frame_left = between(0, columns - fit.scaled_width);
  return fit;
}

struct Call {
  Call()
      : height(between(1, chance(4) ? 90 : 30)),
        width(between(1, chance(4) ? 90 : 30)),
        owner_height(between(1, 60)),
        owner_width(between(1, 60)),
        rows(between(1, 20)),
        columns(between(1, 20)) {
    const int values = chance(10) ? 256 : 7;
    const auto picture = [this](int h, int w, int channels, int count) {
      pictures.push_back(std::make_unique<Picture>(h, w, channels, count));
      return pictures.back()->view;
    };
    c = {};
    c.photo = picture(height, width, 3, 256);
    c.parsing = picture(height, width, 1, values);
    if (chance(2)) c.kept = picture(height, width, 1, 2);
    c.owner_photo = picture(owner_height, owner_width, 3, 256);
    c.owner_garment = picture(owner_height, owner_width, 1, between(1, 2));
    c.fit = random_fit(height, width, rows, columns);
    c.owner_fit = random_fit(owner_height, owner_width, rows, columns);
    c.image = picture(rows, columns, 3, 256);
    c.transfer_parsing = picture(rows, columns, 1, values);
    c.warped_garment = picture(rows, columns, 3, 256);
    if (chance(2)) c.transfer_scores = picture(rows, columns, 4, 256);
    flow.resize(static_cast<std::size_t>(2 * rows * columns));
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const float odd[] = {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity, 1e30f,
                         -3e38f};
    const float reach = chance(3) ? 100.0f : 3.0f;
    for (float& value : flow) {
      value = chance(20) ? odd[between(0, 4)]
                         : std::uniform_real_distribution<float>(-reach, reach)(random_bits);
    }
    c.flow = flow.data();
    const auto area = static_cast<std::size_t>(height * width);
    image.assign(3 * area, 1);
    labels.assign(area, 77);
    garment.assign(3 * area, 1);
    c.out_image = image.data();
    c.out_parsing = labels.data();
    c.out_warped_garment = chance(2) ? garment.data() : nullptr;
    c.threads = between(0, 3);
  }
  int height, width, owner_height, owner_width, rows, columns;
  std::vector<std::unique_ptr<Picture>> pictures;
  std::vector<float> flow;
  std::vector<std::uint8_t> image, labels, garment;
  GtCompose c;
};

void check_result(const Call& call) {
  const GtCompose& c = call.c;
  for (int y = 0; y < call.height; ++y) {
    for (int x = 0; x < call.width; ++x) {
      const int before = c.parsing.data[y * c.parsing.stride + x];
      const int now = call.labels[static_cast<std::size_t>(y * call.width + x)];
      const bool drawn = before == 0 || (before >= 3 && before <= 5);
      const bool kept = c.kept.data && c.kept.data[y * c.kept.stride + x];
      if (now != before && (!drawn || kept || !(now == 0 || (now >= 3 && now <= 5)))) {
        fail("a class that may not change", now);
      }
      if (kept && std::memcmp(call.image.data() + 3 * (y * call.width + x),
                              c.photo.data + y * c.photo.stride + 3 * x, 3)) {
        fail("a pixel that is kept", now);
      }
    }
  }
}

void fit(Call& call) {
  const GtCompose& c = call.c;
  std::vector<std::uint8_t> out(static_cast<std::size_t>(3 * call.rows * call.columns));
  int status = gt_fit_photo(&c.photo, &c.fit, out.data(), c.threads);
  if (status) fail("gt_fit_photo", status);
  const std::vector<std::uint8_t> due = out;
  status = gt_fit_photo_cuda(&c.photo, &c.fit, out.data(), nullptr);
  if (status || out != due) fail("gt_fit_photo_cuda", status);
  out.resize(out.size() / 3);
  out.shrink_to_fit();
  status = gt_fit_map(&c.parsing, &c.fit, out.data());
  if (status) fail("gt_fit_map", status);
}

void remove_arms(const GtCompose& c) {
  const GtPicture &photo = c.owner_photo, &garment = c.owner_garment;
  const Picture arms(photo.height, photo.width, 1, 2);
  const auto pixels = static_cast<std::size_t>(photo.height * photo.width);
  std::vector<std::uint8_t> out(3 * pixels), worn(pixels);
  std::int32_t removed = 0;
  const auto call = [&](const GtPicture& front, std::uint8_t* to, std::uint8_t* mask) {
    return gt_remove_arms(&photo, &garment, &front, to, mask, &removed, c.threads);
  };
  const int status = call(arms.view, out.data(), worn.data());
  if (status) fail("gt_remove_arms", status);
  for (int y = 0; y < photo.height && removed; ++y) {
    for (int x = 0; x < photo.width; ++x) {
      const auto at = static_cast<std::size_t>(y * photo.width + x);
      const bool before = garment.data[y * garment.stride + x];
      if (worn[at] ? !before && !arms.view.data[y * arms.view.stride + x] : before) {
        fail("a garment that is no more, or where no arm is", x);
      }
      const std::uint8_t* const rgb = photo.data + y * photo.stride + 3 * x;
      if (!worn[at] && std::memcmp(rgb, out.data() + 3 * at, 3)) fail("no garment changed", x);
    }
  }
  GtPicture other = arms.view;
  other.width += 1;
  if (call(other, out.data(), worn.data()) != GT_PHOTOS_SIZE) {
    fail("gt_remove_arms of a mask of another size", 0);
  }
  auto* const inside = const_cast<std::uint8_t*>(photo.data);
  if (call(arms.view, inside, worn.data()) != GT_PHOTOS_OVERLAP ||
      call(arms.view, out.data(), inside) != GT_PHOTOS_OVERLAP ||
      call(arms.view, out.data(), out.data()) != GT_PHOTOS_OVERLAP) {
    fail("gt_remove_arms into its photo", 0);
  }
}

void upsample_labels(Call& call) {
  const GtCompose& c = call.c;
  const auto pixels = static_cast<std::size_t>(c.photo.height * c.photo.width);
  std::vector<std::uint8_t> out(pixels, 255);
  const auto run = [&](const GtPicture& labels, std::uint8_t* to) {
    return gt_upsample_labels(&c.photo, &c.image, &labels, &c.fit, to, c.threads);
  };
  const int status = run(c.transfer_parsing, out.data());
  if (status) fail("gt_upsample_labels", status);
  for (const std::uint8_t label : out) {
    bool is_known = label == 0;
    for (int y = 0; y < c.transfer_parsing.height && !is_known; ++y) {
      const std::uint8_t* const row = c.transfer_parsing.data + y * c.transfer_parsing.stride;
      is_known =
          std::find(row, row + c.transfer_parsing.width, label) != row + c.transfer_parsing.width;
    }
    if (!is_known) fail("a label that the frame does not have", label);
  }
  if (run(c.photo, out.data()) != GT_PHOTOS_SIZE) fail("gt_upsample_labels of a photo", 0);
  if (run(c.transfer_parsing, const_cast<std::uint8_t*>(c.photo.data)) != GT_PHOTOS_OVERLAP) {
    fail("gt_upsample_labels into its photo", 0);
  }
}

// The device code has to make the same of a call, whose outputs hold what the CPU made of it.
void check_on_device(Call& call) {
  const std::vector<std::uint8_t> image = call.image, labels = call.labels, garment = call.garment;
  std::fill(call.image.begin(), call.image.end(), std::uint8_t{2});
  std::vector<std::uint8_t> workspace(gt_compose_cuda_bytes(&call.c) + 256, 0xAB);
  const auto at = reinterpret_cast<std::uintptr_t>(workspace.data());
  const int status = gt_compose_cuda(&call.c, workspace.data() + (256 - at % 256) % 256, nullptr);
  if (status) fail("gt_compose_cuda", status);
  if (image != call.image || labels != call.labels || garment != call.garment) {
    fail("another picture on the device", status);
  }
}

// Spoils one thing of a call; what is left is wrong, whatever else it is.
int spoil(Call& call) {
  GtCompose& c = call.c;
  GtPicture* pictures[] = {&c.photo, &c.parsing,          &c.owner_photo,   &c.owner_garment,
                           &c.image, &c.transfer_parsing, &c.warped_garment};
  GtPicture& picture = *pictures[between(0, 6)];
  GtFit& fit = chance(2) ? c.fit : c.owner_fit;
  constexpr int kMost = std::numeric_limits<int>::max(), kLeast = std::numeric_limits<int>::min();
  const int wrong[] = {0, -1, kMost, kLeast, GT_PHOTOS_MAX_SIDE + 1};
  const int other = wrong[between(0, 4)];
  int* const fields[] = {&fit.source_height, &fit.source_width,  &fit.height,
                         &fit.width,         &fit.scaled_height, &fit.scaled_width,
                         &fit.target_height, &fit.target_width};
  switch (between(0, 9)) {
    case 0:
      picture.data = nullptr;
      return GT_PHOTOS_NULL;
    case 1:
      (chance(2) ? picture.height : picture.width) = other;
      return GT_PHOTOS_SIZE;
    case 2:
      picture.channels = between(5, 9);
      return GT_PHOTOS_SIZE;
    case 3:
      picture.stride = between(-1, 1) * (picture.width * picture.channels - 1);
      return GT_PHOTOS_STRIDE;
    case 4:
      *fields[between(0, 7)] = other == GT_PHOTOS_MAX_SIDE + 1 ? kMost : other;
      return GT_PHOTOS_FIT;
    case 5:
      (chance(2) ? fit.top : fit.left) = chance(2) ? kMost : kLeast;
      return GT_PHOTOS_FIT;
    case 6:
      (chance(2) ? fit.frame_top : fit.frame_left) = chance(2) ? -1 : kMost;
      return GT_PHOTOS_FIT;
    case 7:
      c.out_image = const_cast<std::uint8_t*>(c.photo.data);
      return GT_PHOTOS_OVERLAP;
    case 8:
      c.out_parsing = c.out_image + 3 * call.height * call.width - 1;
      return GT_PHOTOS_OVERLAP;
    default:
      c.flow = nullptr;
      return GT_PHOTOS_NULL;
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int runs = count > 1 ? std::atoi(arguments[1]) : 1000;
  random_bits.seed(count > 2 ? static_cast<unsigned>(std::atoi(arguments[2])) : 1);
  for (int run = 0; run < runs; ++run) {
    Call call;
    const bool is_spoilt = chance(4);
    const int due = is_spoilt ? spoil(call) : GT_PHOTOS_OK;
    const int status = gt_compose(&call.c);
    if (status != due) fail("gt_compose", status);
    if (is_spoilt) {
      if (gt_compose_cuda_bytes(&call.c)) fail("bytes of a call that is refused", status);
      unsigned char nowhere = 0;
      const int device_status = gt_compose_cuda(&call.c, &nowhere, nullptr);
      if (device_status != due) fail("gt_compose_cuda of a spoilt call", device_status);
      continue;
    }
    check_result(call);
    check_on_device(call);
    fit(call);
    remove_arms(call.c);
    if (chance(4)) upsample_labels(call);  // it takes longer than the rest
  }
  if (gt_compose(nullptr) != GT_PHOTOS_NULL) fail("gt_compose of nothing", 0);
  std::printf("passed %d runs\n", runs);
}
