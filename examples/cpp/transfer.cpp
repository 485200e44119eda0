#include "transfer.h"

#include "compositing.h"
#include "fitting.h"

namespace example {
namespace {

garment_transfer::Pixels pixels(const cv::Mat& image) {
  return {image.data, image.rows, image.cols, image.step[0]};
}

}  // namespace

cv::Mat transfer(garment_transfer::Session& session, garment_transfer::Size size,
                 const Person& person, const Person& owner) {
  check_garment(owner, "garment owner");
  const cv::Size frame(size.width, size.height);
  const Fit person_fit(person.image.size(), frame), owner_fit(owner.image.size(), frame);
  const cv::Mat images[] = {person_fit.photo(person.image),   person_fit.map(person.parsing),
                            person_fit.map(person.densepose), owner_fit.photo(owner.image),
                            owner_fit.map(owner.parsing),     owner_fit.map(owner.densepose)};
  garment_transfer::Result result = session.run({1, pixels(images[0]), pixels(images[1]),
                                                 pixels(images[2]), pixels(images[3]),
                                                 pixels(images[4]), pixels(images[5])});
  float* flow = result.flow.data();
  const Framed framed{cv::Mat(frame, CV_8UC3, result.image.data()),
                      cv::Mat(frame, CV_8U, result.transfer_parsing.data()),
                      cv::Mat(frame, CV_8UC3, result.warped_garment.data()),
                      cv::Mat(frame, CV_32F, flow),
                      cv::Mat(frame, CV_32F, flow + frame.area())};
  // the graphs' own picture lies in memory that ends with this call
  return compose(person, owner, person_fit, owner_fit, framed).clone();
}

}  // namespace example
