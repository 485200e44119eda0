#include "transfer.h"

#include <cmath>
#include <cstring>
#include <opencv2/imgproc.hpp>
#include <vector>

#include "framing.h"

namespace garment_transfer::internal {
namespace {

// Somebody in a photo has at least this share of the bundle's height in pixels, as in Python.
constexpr double kSmall = 200.0 / 256;
// How far a finger may be from the map's hand, as one part in so many of the height, as in Python.
constexpr int kFingers = 128;
// How far the border of a map of an arm may be off, as one part in so many of the garment's height.
constexpr int kBorder = 50;

// A person as the graphs see them.
struct Fitted {
  GtFit fit;
  cv::Mat image, parsing, densepose;

  FramedMaps maps() const { return {parsing, parts_of(densepose)}; }
};

// Bare hands.
cv::Mat hands_of(const Person& person) {
  return (person.parsing == kSkin) & (person.parts >= 3) & (person.parts <= 4);
}

// Where the photo shows the garment with nothing in front of it, less what is beside hands.
cv::Mat garment_of(const Person& owner) {
  const int side = 2 * (owner.parsing.rows / kFingers) + 1;
  cv::Mat hands;
  cv::dilate(hands_of(owner), hands, cv::Mat::ones(side, side, CV_8U));
  return (owner.parsing == kGarment) & ~owner.is_protected & ~hands;
}

// The photo as the garment is taken from it, and where it shows the garment.
struct Worn {
  cv::Mat image, garment;
};

// As if no bare forearm was in front of the garment.
Worn without_arms(const Person& owner, int threads) {
  const cv::Mat garment = garment_of(owner);
  const cv::Mat bare = (owner.parsing == kSkin) & (owner.parts >= 19) & (owner.parts <= 22);
  cv::Mat arms = bare | hands_of(owner);
  if (!cv::countNonZero(arms)) return {owner.image, garment};
  const int side = 2 * (cv::boundingRect(garment).height / kBorder) + 1;
  cv::dilate(arms, arms, cv::Mat::ones(side, side, CV_8U));
  arms &= ~garment & ~owner.is_protected;
  const Worn worn{cv::Mat(owner.image.size(), CV_8UC3), cv::Mat(garment.size(), CV_8U)};
  const GtPicture photo = picture(owner.image), mask = picture(garment), front = picture(arms);
  std::int32_t removed = 0;
  check(
      gt_remove_arms(&photo, &mask, &front, worn.image.data, worn.garment.data, &removed, threads));
  return removed ? worn : Worn{owner.image, garment};
}

// `photo` is the person's, or what is taken for it.
Fitted fitted(const Person& person, const cv::Mat& photo, const Framing& framing, cv::Size size,
              int threads) {
  const int least = static_cast<int>(std::nearbyint(kSmall * size.height));
  const int height = cv::boundingRect(person.parts).height;
  if (height < least) {
    warn((person.name.empty() ? "somebody" : person.name) + " is " + std::to_string(height) +
         " pixels high in the photo; from " + std::to_string(least) + " on the picture is better");
  }
  const GtFit fit = fit_of(person.image.size(), frame(person.parts, framing, size), size);
  const auto map = [&](const cv::Mat& labels) {
    cv::Mat framed(size, labels.type());
    const GtPicture from = picture(labels);
    check(gt_fit_map(&from, &fit, framed.data));
    return framed;
  };
  cv::Mat image(size, CV_8UC3);
  const GtPicture from = picture(photo);
  check(gt_fit_photo(&from, &fit, image.data, threads));
  const cv::Mat parsing = map(person.parsing);
  return {fit, uncovered(image, parsing, map(person.is_protected)), parsing, map(person.densepose)};
}

// Whether the photo fills the frame pixel for pixel.
bool is_identity(const GtFit& fit) {
  return fit.source_height == fit.target_height && fit.source_width == fit.target_width &&
         fit.top == 0 && fit.left == 0 && fit.height == fit.source_height &&
         fit.width == fit.source_width;
}

Run::Input input(const cv::Mat& image) {
  const auto rows = static_cast<std::size_t>(image.rows);
  return {image.data, rows, image.step[0], image.step[0], rows * image.step[0]};
}

// What the graphs gave, where the photo is of the bundle's size.
void keep(cv::Mat from, const cv::Mat& own, const cv::Mat& is_protected, unsigned char* to) {
  if (!to) return;
  if (own.empty()) {
    from.setTo(cv::Scalar::all(0), is_protected);
  } else {
    own.copyTo(from, is_protected);
  }
  std::memcpy(to, from.data, from.total() * from.elemSize());
}

}  // namespace

void transfer(Worker& worker, Size size, const Framing& framing, const Person& person,
              const Person& owner, int threads, const Finished& out) {
  check_view(person, "person");
  check_view(owner, "garment owner");
  check_garment(owner, "garment owner");
  const cv::Size frame(static_cast<int>(size.width), static_cast<int>(size.height));
  const Worn worn = without_arms(owner, threads);
  const Fitted one = fitted(person, person.image, framing, frame, threads);
  const Fitted other = fitted(owner, worn.image, framing, frame, threads);
  const cv::Mat image(frame, CV_8UC3), parsing(frame, CV_8U), garment(frame, CV_8UC3),
      scores(frame, CV_8UC4);
  std::vector<float> flow(2 * image.total());
  Run run;
  run.batch = 1;
  run.inputs = {input(one.image),   input(one.parsing),   input(one.densepose),
                input(other.image), input(other.parsing), input(other.densepose)};
  run.outputs = {image.data, parsing.data, garment.data, flow.data(), scores.data, nullptr};
  worker.run(run);
  check_plausible(one.maps(), other.maps(), parsing);
  if (is_identity(one.fit)) {
    keep(image, person.image, person.is_protected, out.image);
    keep(parsing, person.parsing, person.is_protected, out.parsing);
    return keep(garment, {}, person.is_protected, out.garment);
  }
  // what nobody wants is written all the same
  std::vector<unsigned char> unwanted(person.image.total() *
                                      ((out.image ? 0 : 3) + (out.parsing ? 0 : 1)));
  GtCompose call{};
  call.photo = picture(person.image);
  call.parsing = picture(person.parsing);
  call.kept = picture(person.is_protected);
  call.owner_photo = picture(worn.image);
  call.owner_garment = picture(worn.garment);
  call.fit = one.fit;
  call.owner_fit = other.fit;
  call.image = picture(image);
  call.transfer_parsing = picture(parsing);
  call.warped_garment = picture(garment);
  call.transfer_scores = picture(scores);
  call.flow = flow.data();
  call.out_image = out.image ? out.image : unwanted.data();
  call.out_parsing =
      out.parsing ? out.parsing : unwanted.data() + unwanted.size() - person.image.total();
  call.out_warped_garment = out.garment;
  call.threads = threads;
  if (!worker.compose(call)) check(gt_compose(&call));
}

}  // namespace garment_transfer::internal
