#include "transfer.h"

#include <cmath>
#include <iostream>
#include <opencv2/imgproc.hpp>

#include "fitting.h"

namespace example {
namespace {

// Somebody in a photo has at least this share of the bundle's height in pixels, as in Python.
constexpr double kSmall = 200.0 / 256;

cv::Mat parts_of(const cv::Mat& densepose) {
  cv::Mat parts;
  cv::extractChannel(densepose, parts, 0);
  return parts;
}

// A person as the graphs see them.
struct Fitted {
  GtFit fit;
  cv::Mat image, parsing, densepose;

  FramedMaps maps() const { return {parsing, parts_of(densepose)}; }
};

Fitted fitted(const Person& person, const garment_transfer::Framing& framing, cv::Size size,
              int threads) {
  const cv::Mat parts = parts_of(person.densepose);
  const int least = static_cast<int>(std::nearbyint(kSmall * size.height));
  const int height = cv::boundingRect(parts).height;
  if (height < least) {
    const std::string who = person.name.empty() ? "somebody" : person.name;
    std::clog << "Warning: " << who << " is " << height << " pixels high in the photo; from "
              << least << " on the picture is better" << std::endl;
  }
  const GtFit fit = fit_of(person.image.size(), frame(parts, framing, size), size);
  const auto map = [&](const cv::Mat& labels) {
    cv::Mat framed(size, labels.type());
    const GtPicture from = picture(labels);
    check(gt_fit_map(&from, &fit, framed.data));
    return framed;
  };
  cv::Mat image(size, CV_8UC3);
  const GtPicture photo = picture(person.image);
  check(gt_fit_photo(&photo, &fit, image.data, threads));
  const cv::Mat parsing = map(person.parsing);
  return {fit, uncovered(image, parsing, map(person.is_protected)), parsing,
          map(person.densepose)};
}

// Whether the photo fills the frame pixel for pixel.
bool is_identity(const GtFit& fit) {
  return fit.source_height == fit.target_height && fit.source_width == fit.target_width &&
         fit.top == 0 && fit.left == 0 && fit.height == fit.source_height &&
         fit.width == fit.source_width;
}

garment_transfer::Pixels pixels(const cv::Mat& image) {
  return {image.data, image.rows, image.cols, image.step[0]};
}

}  // namespace

cv::Mat transfer(const garment_transfer::Pipeline& pipeline, garment_transfer::Session& session,
                 const Person& person, const Person& owner, int threads) {
  check_view(person, "person");
  check_view(owner, "garment owner");
  check_garment(owner, "garment owner");
  const cv::Size size(pipeline.size().width, pipeline.size().height);
  const Fitted one = fitted(person, pipeline.framing(), size, threads);
  const Fitted other = fitted(owner, pipeline.framing(), size, threads);
  garment_transfer::Result result =
      session.run({1, pixels(one.image), pixels(one.parsing), pixels(one.densepose),
                   pixels(other.image), pixels(other.parsing), pixels(other.densepose)});
  const cv::Mat image(size, CV_8UC3, result.image.data());
  const cv::Mat transfer_parsing(size, CV_8U, result.transfer_parsing.data());
  check_plausible(one.maps(), other.maps(), transfer_parsing);
  if (is_identity(one.fit)) {
    cv::Mat finished = image.clone();
    person.image.copyTo(finished, person.is_protected);
    return finished;
  }
  const cv::Mat garment = (owner.parsing == kGarment) & ~owner.is_protected;
  cv::Mat finished(person.image.size(), CV_8UC3), classes(person.image.size(), CV_8U);
  GtCompose call{};
  call.photo = picture(person.image);
  call.parsing = picture(person.parsing);
  call.kept = picture(person.is_protected);
  call.owner_photo = picture(owner.image);
  call.owner_garment = picture(garment);
  call.fit = one.fit;
  call.owner_fit = other.fit;
  call.image = picture(image);
  call.transfer_parsing = picture(transfer_parsing);
  call.warped_garment = picture(cv::Mat(size, CV_8UC3, result.warped_garment.data()));
  call.flow = result.flow.data();
  call.out_image = finished.data;
  call.out_parsing = classes.data;
  call.threads = threads;
  check(gt_compose(&call));
  return finished;
}

}  // namespace example
