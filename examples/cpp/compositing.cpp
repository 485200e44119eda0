#include "compositing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <opencv2/imgproc.hpp>
#include <vector>

namespace example {
namespace {

// The constants are those of runtime/photos/_compose.py.
constexpr std::array<int, 4> kDrawn = {kBackground, kSkin, kGarment, kLower};
constexpr double kBorderSigma = 0.8;
constexpr float kDetail = 0.6f;
constexpr float kWeakMask = 0.25f, kStrongMask = 0.75f;
constexpr double kMinifying = 1.5;
constexpr float kFar = 1e5f;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool is_reserved(int label) { return label == kHair || label == kFace || label == kLegs; }
bool is_rough(int label) { return label == kBackground || label == kSkin || label == kLower; }

int border_width(int height) { return std::max(1, height / 128); }

// What dilates or erodes full-size maps by `radius` pixels of the bundle's size.
cv::Mat square(const Fit& fit, int radius) {
  const double scale = std::max(double(fit.scaled.width) / fit.box.width,
                                double(fit.scaled.height) / fit.box.height);
  const int side = 2 * static_cast<int>(std::nearbyint(radius / scale)) + 1;
  return cv::Mat::ones(side, side, CV_8U);
}

cv::Mat finite(const cv::Mat& flow) {
  cv::Mat result = flow.clone();
  for (int y = 0; y < result.rows; ++y) {
    float* row = result.ptr<float>(y);
    for (int x = 0; x < result.cols; ++x) {
      row[x] = std::isnan(row[x]) ? kFar : std::clamp(row[x], -kFar, kFar);
    }
  }
  return result;
}

// 1 where `labels` are `label`, else 0, 32FC1.
cv::Mat flags(const cv::Mat& labels, int label) {
  cv::Mat result;
  cv::Mat(labels == label).convertTo(result, CV_32F, 1.0 / 255);
  return result;
}

// How much each class claims each full-size pixel; the highest has it.
std::array<cv::Mat, kClasses> class_scores(const Fit& fit, const cv::Mat& transfer_parsing,
                                           const cv::Mat& own) {
  std::array<cv::Mat, kClasses> scores;
  for (int label = 0; label < kClasses; ++label) {
    cv::Mat& score = scores[static_cast<std::size_t>(label)];
    const cv::Mat mine = own == label;
    if (is_reserved(label)) {
      score = cv::Mat(own.size(), CV_32F, cv::Scalar(-kInfinity));
      score.setTo(kInfinity, mine);
      continue;
    }
    const cv::Mat detail = flags(own, label) * kDetail;
    const cv::Mat change = fit.crop(flags(transfer_parsing, label)) - fit.shrink(detail);
    cv::Mat smooth;
    cv::GaussianBlur(change, smooth, {}, kBorderSigma, 0, cv::BORDER_REPLICATE);
    score = fit.enlarge(smooth) + detail;
  }
  return scores;
}

// The colours of a region, scaled up with nothing from outside it, and its share, 32FC4.
cv::Mat spread(const Fit& fit, const cv::Mat& source, const cv::Mat& region_labels, int label) {
  const cv::Mat inside = fit.crop(region_labels) == label;
  const cv::Mat colours = fit.crop(source);
  cv::Mat premultiplied(inside.size(), CV_32FC4, cv::Scalar::all(0));
  for (int y = 0; y < inside.rows; ++y) {
    for (int x = 0; x < inside.cols; ++x) {
      if (!inside.at<unsigned char>(y, x)) continue;
      const auto& c = colours.at<cv::Vec3b>(y, x);
      premultiplied.at<cv::Vec4f>(y, x) = {float(c[0]), float(c[1]), float(c[2]), 1};
    }
  }
  return fit.enlarge(premultiplied);
}

// How many pixels of the owner's photo one pixel of the person's spans in the garment.
double owner_pixels_per_pixel(const Fit& person_fit, const Fit& owner_fit, const Framed& framed,
                              const cv::Mat& flow_x, const cv::Mat& flow_y) {
  const int rows = flow_x.rows, columns = flow_x.cols;
  const auto slope = [](const cv::Mat& field, int y, int x, int dy, int dx) {
    const int y0 = std::max(y - dy, 0), y1 = std::min(y + dy, field.rows - 1);
    const int x0 = std::max(x - dx, 0), x1 = std::min(x + dx, field.cols - 1);
    return (field.at<float>(y1, x1) - field.at<float>(y0, x0)) / float(y1 - y0 + x1 - x0);
  };
  std::vector<float> areas;
  for (int y = 0; y < rows; ++y) {
    for (int x = 0; x < columns; ++x) {
      if (framed.transfer_parsing.at<unsigned char>(y, x) != kGarment) continue;
      const float dx_dx = slope(flow_x, y, x, 0, 1), dx_dy = slope(flow_x, y, x, 1, 0);
      const float dy_dx = slope(flow_y, y, x, 0, 1), dy_dy = slope(flow_y, y, x, 1, 0);
      areas.push_back(std::abs((1 + dx_dx) * (1 + dy_dy) - dx_dy * dy_dx));
    }
  }
  if (areas.empty()) return 1;
  const auto middle = areas.begin() + static_cast<std::ptrdiff_t>(areas.size() / 2);
  std::nth_element(areas.begin(), middle, areas.end());
  float median = *middle;
  if (areas.size() % 2 == 0) median = (median + *std::max_element(areas.begin(), middle)) / 2;
  const auto scales = [](const Fit& fit) {
    return double(fit.scaled.width) / fit.box.width * fit.scaled.height / fit.box.height;
  };
  return std::sqrt(double(median)) * std::sqrt(scales(person_fit) / scales(owner_fit));
}

// The garment of its owner's photo, `worn` there, sampled by the flow: colours times 255 / share, and
// share.
cv::Mat sample(const cv::Mat& photo, const cv::Mat& worn, const Fit& person_fit,
               const Fit& owner_fit, const Framed& framed, const cv::Mat& flow_x,
               const cv::Mat& flow_y) {
  cv::Mat mask;
  cv::erode(worn, mask, square(owner_fit, 1));
  if (cv::countNonZero(mask) == 0) mask = worn;
  cv::Mat layers;
  {
    cv::Mat masked = cv::Mat::zeros(photo.size(), CV_8UC3);
    photo.copyTo(masked, mask);
    std::vector<cv::Mat> channels;
    cv::split(masked, channels);
    channels.push_back(mask);  // 255 inside
    cv::merge(channels, layers);
  }
  const double step = owner_pixels_per_pixel(person_fit, owner_fit, framed, flow_x, flow_y);
  if (step > kMinifying) {
    const auto side = [&](int length) {
      return std::max(1, static_cast<int>(std::nearbyint(length / step)));
    };
    layers = resized(layers, {side(layers.cols), side(layers.rows)});
  }
  // From the person's pixels into the frame, by the flow, and out into the owner's photo.
  cv::Mat flow;
  cv::merge(std::vector<cv::Mat>{flow_x, flow_y}, flow);
  const cv::Mat moved = person_fit.unfit(flow);
  // The same place in the layers, which may be the photo scaled down.
  const auto layer_x = static_cast<float>(double(layers.cols) / photo.cols);
  const auto layer_y = static_cast<float>(double(layers.rows) / photo.rows);
  cv::Mat at(moved.size(), CV_32FC2);
  for (int y = 0; y < at.rows; ++y) {
    const float frame_y = person_fit.to_target_y(float(y));
    for (int x = 0; x < at.cols; ++x) {
      const auto& m = moved.at<cv::Vec2f>(y, x);
      const float from_x = owner_fit.to_source_x(person_fit.to_target_x(float(x)) + m[0]);
      const float from_y = owner_fit.to_source_y(frame_y + m[1]);
      at.at<cv::Vec2f>(y, x) = {(from_x + 0.5f) * layer_x - 0.5f, (from_y + 0.5f) * layer_y - 0.5f};
    }
  }
  cv::Mat sampled;
  cv::remap(layers, sampled, at, cv::noArray(), cv::INTER_LINEAR);
  return sampled;
}

// What `compose` gives for the part of the photo that the box shows.
cv::Mat draw(const cv::Mat& own_photo, const cv::Mat& own, const cv::Mat& owner_photo,
             const cv::Mat& worn, const Fit& person_fit, const Fit& owner_fit,
             const Framed& framed) {
  const cv::Mat flow_x = finite(framed.flow_x), flow_y = finite(framed.flow_y);
  const auto scores = class_scores(person_fit, framed.transfer_parsing, own);

  cv::Mat parsing(own.size(), CV_8U), gone(own.size(), CV_8U);
  for (int y = 0; y < own.rows; ++y) {
    for (int x = 0; x < own.cols; ++x) {
      int best = 0;
      for (int label = 1; label < kClasses; ++label) {
        if (scores[static_cast<std::size_t>(label)].at<float>(y, x) >
            scores[static_cast<std::size_t>(best)].at<float>(y, x)) {
          best = label;
        }
      }
      parsing.at<unsigned char>(y, x) = static_cast<unsigned char>(best);
      const int before = own.at<unsigned char>(y, x);
      gone.at<unsigned char>(y, x) = before != kBackground && best != before;
    }
  }
  cv::Mat vanished;
  cv::dilate(gone, vanished, square(person_fit, border_width(person_fit.target.height)));

  const cv::Mat picture = person_fit.unfit(framed.image);
  std::array<cv::Mat, kDrawn.size()> spreads;
  for (std::size_t i = 0; i < kDrawn.size(); ++i) {
    spreads[i] = spread(person_fit, kDrawn[i] == kGarment ? framed.warped_garment : framed.image,
                        framed.transfer_parsing, kDrawn[i]);
  }
  const cv::Mat sampled =
      sample(owner_photo, worn, person_fit, owner_fit, framed, flow_x, flow_y);
  const auto sharpness = static_cast<float>(
      std::max(1.0, 1 / std::min(double(person_fit.scaled.width) / person_fit.box.width,
                                 double(person_fit.scaled.height) / person_fit.box.height)));

  cv::Mat result = own_photo.clone();
  for (int y = 0; y < own.rows; ++y) {
    for (int x = 0; x < own.cols; ++x) {
      const int before = own.at<unsigned char>(y, x), now = parsing.at<unsigned char>(y, x);
      const bool beside = vanished.at<unsigned char>(y, x) != 0;
      const bool rim = beside && now == before && is_rough(before);
      if (now == before && now != kGarment && !rim) continue;

      // shares that blend the drawn classes over about a pixel: by the lead over the best other
      float drawn[kDrawn.size()], best = -kInfinity, second = -kInfinity;
      std::size_t leader = 0;
      for (std::size_t i = 0; i < kDrawn.size(); ++i) {
        drawn[i] = scores[static_cast<std::size_t>(kDrawn[i])].at<float>(y, x);
        if (drawn[i] > best) {
          second = best;
          best = drawn[i];
          leader = i;
        } else {
          second = std::max(second, drawn[i]);
        }
      }
      float weights[kDrawn.size()], total = 0;
      for (std::size_t i = 0; i < kDrawn.size(); ++i) {
        const float lead = drawn[i] - (i == leader ? second : best);
        weights[i] = std::clamp(0.5f + sharpness * lead, 0.f, 1.f);
        total += weights[i];
      }

      const auto& graphs = picture.at<cv::Vec3b>(y, x);
      const auto& photo = own_photo.at<cv::Vec3b>(y, x);
      cv::Vec3f blend(0, 0, 0);
      for (std::size_t i = 0; i < kDrawn.size(); ++i) {
        const auto& layer = spreads[i].at<cv::Vec4f>(y, x);
        cv::Vec3f colour(graphs[0], graphs[1], graphs[2]);
        if (layer[3] > 1e-3f) {
          for (int c = 0; c < 3; ++c) colour[c] = layer[c] / layer[3];
        }
        if (kDrawn[i] == kGarment) {
          const auto& theirs = sampled.at<cv::Vec4b>(y, x);
          const float share = float(theirs[3]) / 255;
          const float opacity =
              std::clamp((share - kWeakMask) / (kStrongMask - kWeakMask), 0.f, 1.f);
          for (int c = 0; c < 3; ++c) {
            colour[c] += opacity * (float(theirs[c]) / std::max(share, kWeakMask) - colour[c]);
          }
        } else if (before == kDrawn[i] && !(is_rough(before) && beside)) {
          colour = cv::Vec3f(photo[0], photo[1], photo[2]);
        }
        blend += weights[i] / total * colour;
      }
      for (int c = 0; c < 3; ++c) {
        result.at<cv::Vec3b>(y, x)[c] =
            static_cast<unsigned char>(std::nearbyint(std::clamp(blend[c], 0.f, 255.f)));
      }
    }
  }
  return result;
}

}  // namespace

cv::Mat compose(const Person& person, const Person& owner, const Fit& person_fit,
                const Fit& owner_fit, const Framed& framed) {
  cv::Mat whole = person.image.clone();
  const cv::Rect window = person_fit.window(), owner_window = owner_fit.window();
  if (person_fit.is_identity()) {
    framed.image.copyTo(whole);
  } else {
    const cv::Mat worn = (owner.parsing == kGarment) & ~owner.is_protected;
    // a clone, as OpenCV would erode a view by what is around it
    draw(person.image(window), person.parsing(window), owner.image(owner_window),
         worn(owner_window).clone(), person_fit.within_window(), owner_fit.within_window(),
         framed)
        .copyTo(whole(window));
  }
  person.image.copyTo(whole, person.is_protected);
  return whole;
}

}  // namespace example
