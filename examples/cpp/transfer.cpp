#include "transfer.h"

#include <photos.h>

#include <stdexcept>
#include <string>

namespace example {
namespace {

void check(GtPhotosStatus status) {
  if (status == GT_PHOTOS_OK) return;
  throw std::runtime_error("photos.h: status " + std::to_string(status));
}

GtPicture picture(const cv::Mat& image) {
  return {image.data, static_cast<int64_t>(image.step[0]), image.rows, image.cols,
          image.channels()};
}

GtFit fit_of(const cv::Mat& image, cv::Size frame) {
  GtFit fit;
  check(gt_fit_whole(image.rows, image.cols, frame.height, frame.width, &fit));
  return fit;
}

// A person's photo and maps at the bundle's size.
struct Fitted {
  cv::Mat image, parsing, densepose;
};

Fitted fitted(const Person& person, const GtFit& fit, int threads) {
  const cv::Size frame(fit.target_width, fit.target_height);
  Fitted out{cv::Mat(frame, CV_8UC3), cv::Mat(frame, CV_8U), cv::Mat(frame, CV_8UC3)};
  const GtPicture image = picture(person.image), parsing = picture(person.parsing),
                  densepose = picture(person.densepose);
  check(gt_fit_photo(&image, &fit, out.image.data, threads));
  check(gt_fit_map(&parsing, &fit, out.parsing.data));
  check(gt_fit_map(&densepose, &fit, out.densepose.data));
  return out;
}

garment_transfer::Pixels pixels(const cv::Mat& image) {
  return {image.data, image.rows, image.cols, image.step[0]};
}

}  // namespace

cv::Mat transfer(garment_transfer::Session& session, garment_transfer::Size size,
                 const Person& person, const Person& owner, int threads) {
  check_garment(owner, "garment owner");
  const cv::Size frame(size.width, size.height);
  const GtFit fit = fit_of(person.image, frame), owner_fit = fit_of(owner.image, frame);
  const Fitted one = fitted(person, fit, threads), other = fitted(owner, owner_fit, threads);
  garment_transfer::Result result =
      session.run({1, pixels(one.image), pixels(one.parsing), pixels(one.densepose),
                   pixels(other.image), pixels(other.parsing), pixels(other.densepose)});
  const cv::Mat image(frame, CV_8UC3, result.image.data());
  // a photo of exactly the bundle's size gets the graphs' own picture
  if (person.image.size() == frame) return image.clone();
  const cv::Mat garment = owner.parsing == kGarment;
  cv::Mat finished(person.image.size(), CV_8UC3), classes(person.image.size(), CV_8U);
  GtCompose call{};
  call.photo = picture(person.image);
  call.parsing = picture(person.parsing);
  call.owner_photo = picture(owner.image);
  call.owner_garment = picture(garment);
  call.fit = fit;
  call.owner_fit = owner_fit;
  call.image = picture(image);
  call.transfer_parsing = picture(cv::Mat(frame, CV_8U, result.transfer_parsing.data()));
  call.warped_garment = picture(cv::Mat(frame, CV_8UC3, result.warped_garment.data()));
  call.flow = result.flow.data();
  call.out_image = finished.data;
  call.out_parsing = classes.data;
  call.threads = threads;
  check(gt_compose(&call));
  return finished;
}

}  // namespace example
