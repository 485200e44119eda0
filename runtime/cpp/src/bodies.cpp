#include "bodies.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <map>
#include <numeric>
#include <opencv2/imgproc.hpp>
#include <vector>

#include "error.h"
#include "framing.h"

namespace garment_transfer::internal {
namespace {

// The constants are those of runtime/photos/_bodies.py.
constexpr int kSide = 256;
constexpr int kRough = 3, kAround = 6;
constexpr double kApart = 40, kAlike = 0.3;
constexpr double kCandidate = 0.3;
constexpr double kSideways = 0.15, kBehind = 0.5;
constexpr double kMost = 0.5, kLeast = 0.1;
constexpr double kShoulders = 1.1, kHalfWidth = 0.4, kHeadShare = 0.05;
constexpr int kPasserBy = 255;
constexpr float kReach = 0.15f, kOwn = 0.02f;
constexpr double kSomebody = 0.05;
constexpr double kGap = 0.8;
constexpr double kThing = 0.02, kEnclosed = 0.85;
constexpr double kRim = 0.03, kExactRim = 0.008;

constexpr char kChoose[] =
    "name it as LEFT,TOP,RIGHT,BOTTOM in pixels of the photo, as the person's box";

std::size_t at(int index) { return static_cast<std::size_t>(index); }

// To even at one half, as Python rounds.
int rounded(double value) { return static_cast<int>(std::nearbyint(value)); }

// Arms and legs: the upper part of each, and all of it.
const std::set<int> kLimbs[][2] = {{{15, 17}, {15, 17, 19, 21, 4}},
                                   {{16, 18}, {16, 18, 20, 22, 3}},
                                   {{7, 9}, {7, 9, 11, 13, 6}},
                                   {{8, 10}, {8, 10, 12, 14, 5}}};

cv::Mat torso_of(const cv::Mat& parts) { return is_any(parts, {1, 2}); }
cv::Mat head_of(const cv::Mat& parts) { return is_any(parts, {23, 24}); }

// Pixels of the torso, or a quarter of the body where things hide it.
double torso_area(const cv::Mat& parts) {
  return std::max({double(cv::countNonZero(torso_of(parts))), cv::countNonZero(parts) / 4.0, 1.0});
}

cv::Mat square(int radius) { return cv::Mat::ones(2 * radius + 1, 2 * radius + 1, CV_8U); }

// Bodies are looked for in every so many-th row and column.
int step_of(const cv::Mat& map) { return std::max(1, std::min(map.rows, map.cols) / kSide); }

cv::Mat every(const cv::Mat& map, int step) {
  cv::Mat small((map.rows + step - 1) / step, (map.cols + step - 1) / step, CV_8U);
  for (int y = 0; y < small.rows; ++y) {
    const unsigned char* from = map.ptr(y * step);
    unsigned char* to = small.ptr(y);
    for (int x = 0; x < small.cols; ++x) to[x] = from[x * step];
  }
  return small;
}

// How many pixels each of `count` labels, 32SC1, has, of those in a mask if there is one.
std::vector<int> sizes(const cv::Mat& labels, int count, const cv::Mat& mask = {}) {
  std::vector<int> found(at(count));
  for (int y = 0; y < labels.rows; ++y) {
    for (int x = 0; x < labels.cols; ++x) {
      if (mask.empty() || mask.at<unsigned char>(y, x)) ++found[at(labels.at<int>(y, x))];
    }
  }
  return found;
}

// Where labels, 32SC1, are among those chosen.
cv::Mat is_chosen(const cv::Mat& labels, const std::vector<bool>& chosen) {
  cv::Mat mask(labels.size(), CV_8U);
  for (int y = 0; y < labels.rows; ++y) {
    for (int x = 0; x < labels.cols; ++x) {
      mask.at<unsigned char>(y, x) = chosen[at(labels.at<int>(y, x))] ? 255 : 0;
    }
  }
  return mask;
}

// Gives what no body has yet to the nearest one of the same region.
void to_nearest(cv::Mat& bodies, const cv::Mat& within) {
  const cv::Mat missing = within & (bodies == 0);
  const cv::Mat seeds = within & (bodies > 0) & (bodies < kPasserBy);
  if (cv::countNonZero(missing) && cv::countNonZero(seeds)) {
    of_nearest(bodies, seeds).copyTo(bodies, missing);
  }
}

// Gives torsos and limbs of a region to the bodies whose heads are in it, by the rules of
// `_assign_parts` in runtime/photos/_bodies.py.
void assign_parts(cv::Mat& bodies, const cv::Mat& parts, const cv::Mat& here) {
  std::vector<int> nearest_head(at(parts.cols)), least(at(parts.cols), INT_MAX);
  std::map<int, cv::Rect> spans;
  for (int number = 1; number < kPasserBy; ++number) {
    const cv::Mat head = here & (bodies == number);
    if (!cv::countNonZero(head)) continue;
    const cv::Rect span = spans[number] = cv::boundingRect(head);
    for (int x = 0; x < parts.cols; ++x) {
      const int distance = std::max(span.x - x, x - (span.x + span.width - 1));
      if (distance >= least[at(x)]) continue;
      least[at(x)] = distance;
      nearest_head[at(x)] = number;
    }
  }
  const cv::Mat torsos = here & torso_of(parts);
  for (int x = 0; x < parts.cols; ++x) bodies.col(x).setTo(nearest_head[at(x)], torsos.col(x));
  cv::Mat pieces, stats, centres;
  for (const auto& [number, span] : spans) {
    const cv::Mat own = torsos & (bodies == number);
    const int count = cv::connectedComponentsWithStats(own, pieces, stats, centres);
    if (count < 3) continue;
    const double all_of_it = cv::countNonZero(own);
    const double most = std::max(kShoulders * span.width, kHalfWidth * std::sqrt(all_of_it));
    const int ends = 2 * span.x + span.width - 1;
    std::vector<int> beside;
    for (int piece = 1; piece < count; ++piece) {
      const int left = stats.at<int>(piece, cv::CC_STAT_LEFT);
      const int right = left + stats.at<int>(piece, cv::CC_STAT_WIDTH) - 1;
      beside.push_back(std::max(2 * left - ends, ends - 2 * right));
    }
    const auto nearest = std::min_element(beside.begin(), beside.end());
    for (auto of = beside.begin(); of != beside.end(); ++of) {
      const int piece = 1 + static_cast<int>(of - beside.begin());
      if (of == nearest || *of <= 2 * most) continue;
      if (stats.at<int>(piece, cv::CC_STAT_AREA) < kSomebody * all_of_it) continue;
      bodies.setTo(kPasserBy, pieces == piece);
    }
  }
  for (const auto& [upper_parts, whole] : kLimbs) {
    const cv::Mat upper = is_any(parts, upper_parts);
    const int count =
        cv::connectedComponentsWithStats(here & is_any(parts, whole), pieces, stats, centres);
    for (int piece = 1; piece < count; ++piece) {
      const int* of = stats.ptr<int>(piece);
      const cv::Rect around = cv::Rect(of[cv::CC_STAT_LEFT] - 1, of[cv::CC_STAT_TOP] - 1,
                                       of[cv::CC_STAT_WIDTH] + 2, of[cv::CC_STAT_HEIGHT] + 2) &
                              cv::Rect({}, parts.size());
      const cv::Mat marks = pieces(around) == piece;
      for (const cv::Mat& root : {cv::Mat(marks & upper(around)), marks}) {
        cv::Mat beside, labels;
        cv::dilate(root, beside, square(1));
        beside &= torsos(around);
        if (!cv::countNonZero(beside)) continue;
        bodies(around).convertTo(labels, CV_32S);
        const auto votes = sizes(labels, kPasserBy + 1, beside);
        bodies(around).setTo(double(std::max_element(votes.begin(), votes.end()) - votes.begin()),
                             marks);
        break;
      }
    }
  }
}

// Which body each pixel of a map of parts is of: 0 for none, 1 and so on, or kPasserBy.
cv::Mat bodies_of(const cv::Mat& parts) {
  const cv::Mat marks = parts > 0, torso = torso_of(parts);
  cv::Mat pieces, heads;
  const int count = cv::connectedComponents(marks, pieces);
  const int head_count = cv::connectedComponents(head_of(parts), heads);
  const auto areas = sizes(heads, head_count);
  int largest = 1;
  for (std::size_t i = 1; i < areas.size(); ++i) largest = std::max(largest, areas[i]);
  std::vector<bool> is_large(at(head_count));
  for (std::size_t i = 1; i < areas.size(); ++i) is_large[i] = areas[i] >= kCandidate * largest;
  cv::Mat bodies = marks / 255;
  cv::Mat torso_pieces;
  if (count == 2 && std::count(is_large.begin(), is_large.end(), true) < 2 &&
      cv::connectedComponents(torso, torso_pieces) < 3) {
    return bodies;
  }
  auto torsos = sizes(pieces, count, torso);
  if (!cv::countNonZero(torso)) torsos = sizes(pieces, count, marks);
  const cv::Mat large_heads = is_chosen(heads, is_large);
  std::vector<bool> headed(at(count)), candidates(at(count));
  {
    const auto with_head = sizes(pieces, count, large_heads);
    const double least =
        std::max(kCandidate * *std::max_element(torsos.begin(), torsos.end()), 1.0);
    for (std::size_t i = 0; i < headed.size(); ++i) {
      headed[i] = with_head[i] > 0;
      candidates[i] = torsos[i] >= least;
    }
  }
  std::vector<int> heads_alone;
  for (int piece = 0; piece < count; ++piece) {
    if (headed[at(piece)] && !torsos[at(piece)]) heads_alone.push_back(piece);
  }
  for (const int head : heads_alone) {
    // hair parts it from the body below
    const cv::Mat here = pieces == head;
    cv::Mat columns;
    cv::reduce(here, columns, 0, cv::REDUCE_MAX);
    auto below = sizes(pieces, count, cv::repeat(columns, pieces.rows, 1));
    for (std::size_t i = 0; i < below.size(); ++i) {
      if (!candidates[i] || headed[i]) below[i] = 0;
    }
    const auto most = std::max_element(below.begin(), below.end());
    if (!*most) continue;
    const int body = static_cast<int>(most - below.begin());
    pieces.setTo(body, here);
    headed[at(head)] = false;
    headed[at(body)] = true;
  }
  bodies.setTo(0);
  int number = 0;
  // those with a head first
  std::vector<int> order(at(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    if (headed[at(a)] != headed[at(b)]) return bool(headed[at(a)]);
    return torsos[at(a)] > torsos[at(b)];
  });
  for (const int piece : order) {
    if (!candidates[at(piece)]) continue;
    const cv::Mat here = pieces == piece;
    // not cut off by the photo: half of a body that a strap cuts in two
    if (!headed[at(piece)] && number && !cv::countNonZero(here.row(0))) continue;
    const auto own = sizes(heads, head_count, here & large_heads);
    const auto next = [&number] { return number = std::min(number + 1, kPasserBy - 1); };
    bool with_head = false;
    for (int head = 1; head < head_count; ++head) {
      if (!own[at(head)]) continue;
      bodies.setTo(next(), here & (heads == head));
      with_head = true;
    }
    if (with_head) {
      assign_parts(bodies, parts, here);
    } else {
      bodies.setTo(next(), here);
    }
    to_nearest(bodies, here);
  }
  const auto areas_of_pieces = sizes(pieces, count), of_heads = sizes(pieces, count, heads > 0);
  for (int piece = 0; piece < count; ++piece) {
    if (of_heads[at(piece)] <= kHeadShare * std::max(areas_of_pieces[at(piece)], 1)) continue;
    const cv::Mat here = pieces == piece;
    if (!cv::countNonZero(here & (bodies > 0))) bodies.setTo(kPasserBy, here);
  }
  to_nearest(bodies, marks);
  return bodies;
}

cv::Rect bounds(const cv::Mat& mask, int step) {
  const cv::Rect box = cv::boundingRect(mask);
  return {step * box.x, step * box.y, step * box.width, step * box.height};
}

// The area that two boxes share through the area that either covers.
double overlap(const cv::Rect& one, const cv::Rect& other) {
  const double shared = (one & other).area();
  const auto area = [](const cv::Rect& box) { return double(box.width) * box.height; };
  return shared / (area(one) + area(other) - shared);
}

// Where, of two people who touch, the other is, at twice the size of the masks.
cv::Mat divided(const cv::Mat& image, const cv::Mat& marks, const cv::Mat& own,
                const cv::Mat& others) {
  cv::Mat seeds(marks.size(), CV_8U, cv::Scalar(0));
  seeds.setTo(1, own);
  seeds.setTo(2, others);
  seeds.setTo(3, ~marks);
  seeds = nearest(seeds, marks.size() * 2);
  cv::Mat regions, scaled = image;
  seeds.convertTo(regions, CV_32S);
  const bool down = seeds.rows <= image.rows && seeds.cols <= image.cols;
  if (image.size() != seeds.size()) {
    cv::resize(image, scaled, seeds.size(), 0, 0, down ? cv::INTER_AREA : cv::INTER_LINEAR);
  }
  cv::watershed(scaled, regions);
  // what the watershed draws as the line between two is nobody's: it stays
  return ((regions == 2) | (regions == -1)) & ((seeds == 0) | (seeds == 2));
}

// Where nothing is labelled over the body with clothes all around, such as a phone.
cv::Mat holes_of(const cv::Mat& classes, const cv::Mat& parts) {
  const int step = step_of(classes);
  const cv::Mat small = every(classes, step), body = every(parts, step);
  cv::Mat pieces, stats, centres;
  const int count =
      cv::connectedComponentsWithStats((small == kBackground) & (body > 0), pieces, stats, centres);
  const double least = std::max(kThing * cv::countNonZero(torso_of(body)), 9.0);
  cv::Mat found(small.size(), CV_8U, cv::Scalar(0));
  for (int index = 1; index < count; ++index) {
    if (stats.at<int>(index, cv::CC_STAT_AREA) < least) continue;
    const cv::Mat piece = pieces == index;
    cv::Mat rim;
    cv::dilate(piece, rim, square(2));
    rim &= ~piece;
    const double all = cv::countNonZero(rim);
    const auto share = [&](int label) { return cv::countNonZero(rim & (small == label)) / all; };
    const double skin = share(kSkin), garment = share(kGarment);
    if (skin + garment + share(kLower) >= kEnclosed && garment > skin) found |= piece;
  }
  if (!cv::countNonZero(found)) return cv::Mat::zeros(classes.size(), CV_8U);
  return nearest(found, classes.size()) & (classes == kBackground);
}

// Row and column of the middle of a mask; nothing where it is empty.
std::optional<cv::Point2d> middle(const cv::Mat& mask) {
  const cv::Moments moments = cv::moments(mask, true);
  if (moments.m00 == 0) return std::nullopt;
  return cv::Point2d(moments.m10 / moments.m00, moments.m01 / moments.m00);
}

// The share of a mask that another one covers.
double covered(const cv::Mat& mask, const cv::Mat& by) {
  return double(cv::countNonZero(mask & by)) / cv::countNonZero(mask);
}

}  // namespace

std::string percent(double share) { return cv::format("%.0f%%", 100 * share); }

cv::Mat of_nearest(const cv::Mat& values, const cv::Mat& known) {
  cv::Mat distance, zones;
  cv::distanceTransform(~known, distance, zones, cv::DIST_L2, cv::DIST_MASK_5,
                        cv::DIST_LABEL_PIXEL);
  double most = 0;
  cv::minMaxLoc(zones, nullptr, &most);
  const std::size_t bytes = values.elemSize();
  std::vector<unsigned char> of_zone((static_cast<std::size_t>(most) + 1) * bytes);
  const auto copy = [&](int y, int x, bool back, cv::Mat& map) {
    unsigned char* zone = &of_zone[at(zones.at<int>(y, x)) * bytes];
    unsigned char* pixel = map.ptr(y) + at(x) * bytes;
    std::copy_n(back ? zone : pixel, bytes, back ? pixel : zone);
  };
  cv::Mat found = values.clone();
  for (const bool back : {false, true}) {
    for (int y = 0; y < values.rows; ++y) {
      for (int x = 0; x < values.cols; ++x) {
        if (back || known.at<unsigned char>(y, x)) copy(y, x, back, found);
      }
    }
  }
  return found;
}

cv::Mat is_any(const cv::Mat& map, const std::set<int>& of) {
  cv::Mat table = cv::Mat::zeros(1, 256, CV_8U), found;
  for (const int id : of) table.at<unsigned char>(id) = 255;
  cv::LUT(map, table, found);
  return found;
}

cv::Mat parts_of(const cv::Mat& densepose) {
  cv::Mat parts;
  cv::extractChannel(densepose, parts, 0);
  return parts;
}

cv::Mat choose_body(const cv::Mat& iuv, const std::optional<cv::Rect>& box, const std::string& name,
                    cv::Mat& others) {
  const cv::Mat parts = parts_of(iuv);
  const int step = step_of(parts);
  const cv::Mat bodies = bodies_of(every(parts, step));
  std::vector<cv::Rect> found;
  std::string boxes;
  for (int index = 1; index < kPasserBy && cv::countNonZero(bodies == index); ++index) {
    found.push_back(bounds(bodies == index, step));
    boxes += (boxes.empty() ? "" : " and ") + text(found.back());
  }
  std::size_t chosen = 0;
  if (!box && found.size() > 1) {
    throw Error(GT_BODY_AMBIGUOUS,
                name + " shows " + std::to_string(found.size()) + " people, in the boxes " + boxes,
                "one, or the box of one of them", kChoose);
  }
  if (box) {
    double most = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double shared = overlap(*box, found[i]);
      if (shared > most) chosen = i;
      most = std::max(most, shared);
    }
    if (most == 0) {
      throw Error(GT_BODY_MISSING, name + " shows nobody in the box " + text(*box),
                  "one of " + (boxes.empty() ? "none" : boxes) + ", roughly", kChoose);
    }
  }
  const cv::Mat mine = bodies == double(chosen + 1);
  others = cv::Mat::zeros(parts.size(), CV_8U);
  if (!cv::countNonZero((bodies > 0) & ~mine)) return iuv;
  others = (parts > 0) & ~nearest(mine, parts.size());
  cv::Mat own = iuv.clone();
  own.setTo(cv::Scalar::all(0), others);
  return own;
}

cv::Mat somebody_else(const cv::Mat& image, const cv::Mat& classes, const cv::Mat& parts,
                      const cv::Mat& others) {
  const int step = step_of(classes);
  const cv::Mat marks = every(classes, step) != kBackground, small = every(parts, step);
  const double area = torso_area(small);
  const auto root = static_cast<float>(std::sqrt(area));
  cv::Mat distance, pieces, far;
  cv::distanceTransform(small == 0, distance, cv::DIST_L2, 3);
  distance /= root;
  const int count = cv::connectedComponents(marks, pieces);
  std::vector<bool> is_near(at(count));
  const auto touched = sizes(pieces, count, distance < kOwn);
  for (std::size_t i = 1; i < is_near.size(); ++i) is_near[i] = touched[i] > 0;
  const cv::Mat apart = marks & ~is_chosen(pieces, is_near);
  const int far_count = cv::connectedComponents(marks & ~apart & (distance > kReach), far);
  const auto areas = sizes(far, far_count);
  std::vector<bool> is_large(at(far_count));
  for (std::size_t i = 1; i < is_large.size(); ++i) is_large[i] = areas[i] >= kSomebody * area;
  const cv::Mat touching = is_chosen(far, is_large) | (every(others, step) & marks & ~apart);
  cv::Mat found = cv::Mat::zeros(classes.size(), CV_8U);
  const bool touches = cv::countNonZero(touching);
  if (!touches && !cv::countNonZero(apart)) return found;
  found = nearest(apart, classes.size());
  if (touches) {
    cv::Mat own;
    cv::erode(small > 0, own, square(rounded(kRim * std::sqrt(area))));
    found |= nearest(divided(image, marks, own, touching), classes.size());
  }
  return found & (classes != kBackground) & (parts == 0);
}

cv::Mat in_front(cv::Mat& classes, cv::Mat& iuv, const cv::Mat& things) {
  const cv::Mat parts = parts_of(iuv);
  const cv::Mat found = things | holes_of(classes, parts);
  if (!cv::countNonZero(found)) return found;
  cv::Mat beneath = classes.clone(), closed;
  beneath.setTo(kBackground, found);
  const cv::Mat body = parts > 0;
  // what lies between two parts of the body lies in front of it, though DensePose has a hole there
  const int side = 2 * rounded(kGap * std::sqrt(torso_area(parts)) / 2) + 1;
  cv::morphologyEx(body, closed, cv::MORPH_CLOSE,
                   cv::getStructuringElement(cv::MORPH_ELLIPSE, {side, side}));
  const cv::Mat hidden = found & closed, known = body & (beneath != kBackground);
  if (cv::countNonZero(known)) {
    of_nearest(classes, known).copyTo(beneath, hidden);
    const cv::Mat around = of_nearest(iuv, body);
    iuv = iuv.clone();
    around.copyTo(iuv, hidden & ~body);
  }
  classes = beneath;
  return found;
}

void drop_not_worn(const cv::Mat& image, cv::Mat& classes, const cv::Mat& things) {
  if (std::min(classes.rows, classes.cols) < kSide / 2) return;
  const int step = step_of(classes);
  const cv::Mat small = every(classes, step);
  const cv::Mat garment = (small == kGarment) & (every(things, step) == 0);
  cv::Mat photo(garment.size(), CV_8UC3), inside, outside, instead;
  for (int y = 0; y < photo.rows; ++y) {
    for (int x = 0; x < photo.cols; ++x) {
      photo.at<cv::Vec3b>(y, x) = image.at<cv::Vec3b>(y * step, x * step);
    }
  }
  cv::erode(garment, inside, square(kRough));
  cv::dilate(garment, outside, square(1));
  outside = ~outside;
  const cv::Size around(2 * kAround + 1, 2 * kAround + 1);
  // over the square around every pixel: whole numbers, which float holds exactly
  const auto sums = [&](const cv::Mat& values, bool squares) {
    cv::Mat found;
    (squares ? cv::sqrBoxFilter : cv::boxFilter)(values, found, CV_32F, around, {-1, -1}, false,
                                                 cv::BORDER_CONSTANT);
    return found;
  };
  const auto where = [&](const cv::Mat& mask) {
    cv::Mat found(photo.size(), CV_8UC3, cv::Scalar::all(0));
    photo.copyTo(found, mask);
    return found;
  };
  const cv::Mat inner = sums(inside & 1, false), outer = sums(outside & 1, false);
  const cv::Mat worn = sums(where(inside), false), squares = sums(where(inside), true);
  const cv::Mat others = sums(where(outside), false);
  for (int y = 0; y < photo.rows; ++y) {
    for (int x = 0; x < photo.cols; ++x) {
      const double count = inner.at<float>(y, x), beside_count = outer.at<float>(y, x);
      if (!garment.at<unsigned char>(y, x) || count == 0 || beside_count == 0) continue;
      double distance = 0, along = 0, near = 0, spread = 0;
      for (int c = 0; c < 3; ++c) {
        const double pixel = photo.at<cv::Vec3b>(y, x)[c];
        const double mean = worn.at<cv::Vec3f>(y, x)[c] / count;
        const double variance = squares.at<cv::Vec3f>(y, x)[c] / count - mean * mean;
        const double beside = others.at<cv::Vec3f>(y, x)[c] / beside_count;
        const double apart = mean - beside;
        distance += apart * apart;
        along += (mean - pixel) * apart;
        near += (pixel - beside) * (pixel - beside);
        spread += std::abs(apart) * std::sqrt(std::max(variance, 0.0));
      }
      if (near < kAlike * kAlike * distance && along > 3 * spread && distance > kApart * kApart) {
        const cv::Rect all(0, 0, classes.cols, classes.rows);
        cv::Mat cell = classes(cv::Rect(x * step, y * step, step, step) & all);
        if (instead.empty()) instead = of_nearest(small, outside);
        cell.setTo(instead.at<unsigned char>(y, x), cell == kGarment);
      }
    }
  }
}

cv::Mat uncovered(const cv::Mat& image, const cv::Mat& classes, const cv::Mat& things) {
  const cv::Mat garment = classes == kGarment;
  // a pixel more, where the scaled photo shows some of the thing
  cv::Mat hidden;
  cv::dilate(things, hidden, square(1));
  hidden &= garment;
  const cv::Mat shown = garment & ~hidden;
  if (!cv::countNonZero(hidden) || !cv::countNonZero(shown)) return image;
  cv::Mat filled = image.clone();
  of_nearest(image, shown).copyTo(filled, hidden);
  return filled;
}

cv::Mat hands(const cv::Mat& classes, const cv::Mat& parts, bool is_exact) {
  cv::Mat found = is_any(parts, {3, 4});
  const cv::Rect box = cv::boundingRect(found);
  if (box.empty()) return found;
  const cv::Mat bare = found(box) & (classes(box) == kSkin);
  const double rim = is_exact ? kExactRim : kRim;
  cv::Mat within;
  cv::erode(bare, within, square(rounded(rim * std::sqrt(torso_area(parts)))), {-1, -1}, 1,
            cv::BORDER_CONSTANT, cv::Scalar::all(0));
  within.copyTo(found(box));
  return found;
}

std::string view_fault(const cv::Mat& parts) {
  const cv::Mat small = every(parts, step_of(parts));
  const double back = cv::countNonZero(small == 1), front = cv::countNonZero(small == 2);
  if (back + front == 0) return "";
  const double share = back / (back + front);
  if (share > kSideways) {
    return std::string("is seen from ") + (share > kBehind ? "behind" : "the side") +
           ": DensePose has " + percent(share) + " of the torso as its back (part 1)";
  }
  std::vector<cv::Point2d> middles;
  for (const cv::Mat& each : {head_of(small), torso_of(small), is_any(small, {7, 8, 9, 10})}) {
    if (const auto found = middle(each)) middles.push_back(*found);
  }
  if (middles.size() > 1 && middles[1].y - middles[0].y < std::abs(middles[1].x - middles[0].x)) {
    return "does not stand upright: the head is not above the torso";
  }
  return "";
}

void check_plausible(const FramedMaps& person, const FramedMaps& owner,
                     const cv::Mat& transfer_parsing) {
  const cv::Mat torso = torso_of(person.parts), owner_torso = torso_of(owner.parts);
  if (!cv::countNonZero(torso) || !cv::countNonZero(owner_torso)) return;
  const cv::Mat worn = owner.parsing == kGarment;
  const double bare = covered(torso, transfer_parsing == kSkin);
  const double clothed = covered(torso, (person.parsing == kGarment) | (person.parsing == kLower));
  const double owners = covered(owner_torso, worn);
  const double size =
      double(cv::countNonZero(transfer_parsing == kGarment)) / cv::countNonZero(torso);
  const double due = double(cv::countNonZero(worn)) / cv::countNonZero(owner_torso);
  std::string reason;
  if (std::min({bare, clothed, owners}) > kMost) {
    reason = "would bare " + percent(bare) + " of a torso of which " + percent(clothed) +
             " was covered, in a garment that covers " + percent(owners) + " of its owner's";
  } else if (size < kLeast * due) {
    reason = "would show " + percent(size / due) + " of the owner's garment";
  }
  if (reason.empty()) return;
  throw Error(GT_TRANSFER_IMPLAUSIBLE, "the transfer " + reason + ", which cannot be right",
              "maps that belong to their photos, of people seen from the front",
              "look at parse map and DensePose beside the photo of each, and check label set and "
              "encoding");
}

}  // namespace garment_transfer::internal
