#include "transfer.h"

#include <cmath>
#include <iostream>
#include <opencv2/imgproc.hpp>

#include "compositing.h"
#include "fitting.h"

namespace example {
namespace {

// Somebody in a photo has at least this share of the bundle's height in pixels, as in Python.
constexpr double kSmall = 200.0 / 256;

garment_transfer::Pixels pixels(const cv::Mat& image) {
  return {image.data, image.rows, image.cols, image.step[0]};
}

cv::Mat parts_of(const cv::Mat& densepose) {
  cv::Mat parts;
  cv::extractChannel(densepose, parts, 0);
  return parts;
}

// A person as the graphs see them.
struct Fitted {
  Fitted(const Person& person, const garment_transfer::Framing& framing, cv::Size frame_size)
      : fit(person.image.size(), frame_size,
            frame(parts_of(person.densepose), framing, frame_size)),
        parsing(fit.map(person.parsing)),
        image(uncovered(fit.photo(person.image), parsing, fit.map(person.is_protected))),
        densepose(fit.map(person.densepose)) {
    const int least = static_cast<int>(std::nearbyint(kSmall * frame_size.height));
    const int height = cv::boundingRect(parts_of(person.densepose)).height;
    if (height < least) {
      const std::string who = person.name.empty() ? "somebody" : person.name;
      std::clog << "Warning: " << who << " is " << height << " pixels high in the photo; from "
                << least << " on the picture is better" << std::endl;
    }
  }

  FramedMaps maps() const { return {parsing, parts_of(densepose)}; }

  Fit fit;
  cv::Mat parsing, image, densepose;
};

}  // namespace

cv::Mat transfer(const garment_transfer::Pipeline& pipeline, garment_transfer::Session& session,
                 const Person& person, const Person& owner) {
  check_view(person, "person");
  check_view(owner, "garment owner");
  check_garment(owner, "garment owner");
  const garment_transfer::Size size = pipeline.size();
  const cv::Size frame_size(size.width, size.height);
  const Fitted receiver(person, pipeline.framing(), frame_size);
  const Fitted giver(owner, pipeline.framing(), frame_size);
  garment_transfer::Result result =
      session.run({1, pixels(receiver.image), pixels(receiver.parsing), pixels(receiver.densepose),
                   pixels(giver.image), pixels(giver.parsing), pixels(giver.densepose)});
  float* flow = result.flow.data();
  const Framed framed{cv::Mat(frame_size, CV_8UC3, result.image.data()),
                      cv::Mat(frame_size, CV_8U, result.transfer_parsing.data()),
                      cv::Mat(frame_size, CV_8UC3, result.warped_garment.data()),
                      cv::Mat(frame_size, CV_32F, flow),
                      cv::Mat(frame_size, CV_32F, flow + frame_size.area())};
  check_plausible(receiver.maps(), giver.maps(), framed.transfer_parsing);
  return compose(person, owner, receiver.fit, giver.fit, framed);
}

}  // namespace example
