#include "person.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <opencv2/imgproc.hpp>
#include <set>
#include <unordered_map>
#include <vector>

#include "bundle_json.h"
#include "error.h"
#include "framing.h"

namespace garment_transfer::internal {
namespace {

// The highest DensePose part.
constexpr int kParts = 24;
constexpr char kEncodings[] = "iuv, iuv-png, parula";

// The constants are those of runtime/photos/_densepose.py, _parsing.py, _person.py and _maps.py,
// which say why.
constexpr double kMinShare = 0.001;
constexpr float kUvSlack = 0.25f;
constexpr int kTrusted2 = 12 * 12;
constexpr double kTrustedShare = 0.5;
constexpr double kMaxSmooth = 0.2;
constexpr long kMinSmooth = 100;
constexpr double kAspectTolerance = 0.01;
constexpr double kLeastGarment = 0.1;
constexpr double kLeastCovered = 0.1;
constexpr double kSettled = 0.06;
constexpr int kLooks = 3;
constexpr int kLeastRows = 96;
constexpr double kLeastFace = 0.6, kLeastPiece = 0.1;
constexpr double kNearer = 4, kApartFromSkin = 60;
constexpr int kLeastSleeve = 16, kBeside = 4;
constexpr double kDoubtful = 0.93, kUseless = 0.8;

// The id that parsers give pixels they do not decide on, in every label set.
constexpr int kIgnored = 255;

using Colour = std::array<int, 3>;

struct LabelSet {
  std::map<int, int> classes;
  std::set<int> whole_body, with_neck, in_front;
  // What programs draw the ids in.
  std::vector<std::vector<std::pair<int, Colour>>> colours;
};

// The colour of an id by PASCAL VOC's colour map.
Colour voc_colour(int id) {
  Colour colour{};
  for (int bit = 0; bit < 8; ++bit) {
    if (id >> bit & 1) colour[static_cast<std::size_t>(bit % 3)] |= 128 >> bit / 3;
  }
  return colour;
}

const std::map<std::string, LabelSet>& label_sets() {
  static const auto sets = [] {
    const auto labels = nlohmann::json::parse(kLabels);
    std::map<std::string, int> classes;
    for (const auto& name : labels["classes"]) {
      const int id = static_cast<int>(classes.size());
      classes[name] = id;
    }
    std::map<std::string, LabelSet> read;
    for (const auto& [name, set] : labels["label_sets"].items()) {
      LabelSet& one = read[name];
      std::vector<std::pair<int, Colour>> own, voc;
      for (const auto& each : set["ids"]) {
        const int id = each["id"];
        one.classes[id] = classes.at(each["class"]);
        voc.emplace_back(id, voc_colour(id));
        if (set.contains("colours")) own.emplace_back(id, set["colours"][own.size()]);
      }
      voc.emplace_back(kIgnored, voc_colour(kIgnored));
      if (!own.empty()) one.colours.push_back(own);
      one.colours.push_back(voc);
      one.whole_body = set["whole_body"].get<std::set<int>>();
      one.with_neck = set.value("with_neck", std::set<int>());
      one.in_front = set.value("in_front", std::set<int>());
    }
    return read;
  }();
  return sets;
}

std::string names_of_label_sets() {
  std::string names;
  for (const auto& [name, set] : label_sets()) names += (names.empty() ? "" : ", ") + name;
  return names;
}

const LabelSet& label_set(const std::string& name) {
  const auto found = label_sets().find(name);
  if (found != label_sets().end()) return found->second;
  throw Error(GT_LABEL_SET_UNKNOWN, "unknown label set '" + name + "'",
              "one of " + names_of_label_sets(), "name the one that the parse map uses");
}

// "0, 4-6, 9"
std::string ranges(const std::vector<int>& ids) {
  std::string text;
  for (std::size_t i = 0, end; i < ids.size(); i = end) {
    for (end = i + 1; end < ids.size() && ids[end] == ids[end - 1] + 1;) ++end;
    text += (text.empty() ? "" : ", ") + std::to_string(ids[i]);
    if (end > i + 1) text += "-" + std::to_string(ids[end - 1]);
  }
  return text;
}

std::string name_of(const gt_picture& picture, const char* otherwise) {
  return picture.name ? picture.name : otherwise;
}

// A copy of the caller's pixels; planes of floats below one another.
cv::Mat copied(const gt_picture& from, int channels, const std::string& name, bool floats = false) {
  if (!from.data)
    throw Error(GT_ARRAY_INVALID, name + " has no pixels: data is null", "an address");
  const std::string size = std::to_string(from.width) + "x" + std::to_string(from.height);
  if (from.height < 1 || from.width < 1) {
    throw Error(GT_IMAGE_SIZE, name + " is empty (" + size + " pixels)", "at least one pixel",
                "check how it was cropped or written");
  }
  if (std::max(from.height, from.width) > kMaxSide) {
    throw Error(GT_IMAGE_SIZE, name + " is " + size + " pixels",
                "at most " + std::to_string(kMaxSide) + " pixels on either side",
                "scale the photo and its maps down first");
  }
  if (from.channels != channels) {
    throw Error(GT_ARRAY_INVALID, name + " has " + std::to_string(from.channels) + " channels",
                std::to_string(channels));
  }
  const int planes = floats ? channels : 1;
  const auto row = static_cast<std::int64_t>(from.width) * (floats ? 4 : channels);
  const std::int64_t stride = from.row_stride ? from.row_stride : row;
  // so large a stride that a row's place would not fit is none either
  if (std::abs(stride) < row || std::abs(stride) > std::int64_t{1} << 40) {
    throw Error(GT_ARRAY_INVALID,
                name + ".row_stride is " + std::to_string(from.row_stride) + " bytes",
                "at least " + std::to_string(row) + ", or 0 where rows lie close together");
  }
  cv::Mat to(planes * from.height, from.width, floats ? CV_32F : CV_8UC(channels));
  const auto* data = static_cast<const unsigned char*>(from.data);
  for (int y = 0; y < to.rows; ++y) {
    std::memcpy(to.ptr(y), data + y * stride, static_cast<std::size_t>(row));
  }
  return to;
}

// The ids of a map in one of the colours that its label set is drawn in.
cv::Mat ids_of_colours(const cv::Mat& rgb, const LabelSet& set, const std::string& set_name,
                       const std::string& name) {
  std::unordered_map<int, int> ids;
  bool grey = true;
  const auto code = [](const unsigned char* p) { return p[0] << 16 | p[1] << 8 | p[2]; };
  for (int y = 0; y < rgb.rows; ++y) {
    for (const unsigned char *p = rgb.ptr(y), *end = p + 3 * rgb.cols; p < end; p += 3) {
      grey = grey && p[0] == p[1] && p[1] == p[2];
      if (ids.size() < 256) ids.emplace(code(p), 0);
    }
  }
  if (grey) {  // a grey map that was saved in colour
    cv::Mat first;
    cv::extractChannel(rgb, first, 0);
    return first;
  }
  bool found = false;
  for (const auto& known : set.colours) {
    std::unordered_map<int, int> by_this = ids;
    bool all = ids.size() < 256;
    for (auto& [colour, id] : by_this) {
      // programs round a colour's fractions up or down
      const auto near = [colour = colour](const auto& one) {
        for (int i = 0; i < 3; ++i) {
          const int level = colour >> (16 - 8 * i) & 255;
          if (std::abs(level - one.second[static_cast<std::size_t>(i)]) > 1) return false;
        }
        return true;
      };
      const auto match = std::find_if(known.begin(), known.end(), near);
      all = all && match != known.end();
      if (all) id = match->first;
    }
    if (!all) continue;
    if (found && by_this != ids) {  // two maps of colours have these, and differ
      found = false;
      break;
    }
    found = true;
    ids = by_this;
  }
  if (!found) {
    throw Error(GT_IMAGE_MODE, name + " has colours, not label ids",
                "the stored ids, or the colours of " + set_name,
                "take the map as the parser wrote it, not a coloured copy");
  }
  cv::Mat read(rgb.size(), CV_8U);
  for (int y = 0; y < rgb.rows; ++y) {
    for (int x = 0; x < rgb.cols; ++x) {
      read.at<unsigned char>(y, x) = static_cast<unsigned char>(ids[code(rgb.ptr(y) + 3 * x)]);
    }
  }
  return read;
}

// Counts the borders along every so many-th row that run through ids in between, and those that do
// not. Ids in between are those of at most `thin` pixels in a row, between a smaller and a larger.
void count_borders(const cv::Mat& ids, int step, int thin, long& smooth, long& direct) {
  for (int y = 0; y < ids.rows; y += step) {
    const unsigned char* row = ids.ptr(y);
    int last_length = 0, last_step = 0;
    for (int start = 0, end; start < ids.cols; start = end) {
      for (end = start + 1; end < ids.cols && row[end] == row[start];) ++end;
      const int length = end - start, ahead = end < ids.cols ? row[end] - row[start] : 0;
      smooth += length <= thin && last_step * ahead > 0;
      direct += last_length > thin && length > thin && std::abs(last_step) > 1;
      last_length = length;
      last_step = ahead;
    }
  }
}

// The ids of a parse map as it was read, with those that parsers ignore as 0.
cv::Mat checked_ids(cv::Mat ids, const std::string& name) {
  const cv::Mat is_ignored = ids == kIgnored;
  if (const int ignored = cv::countNonZero(is_ignored)) {
    warn(name + ": " + std::to_string(ignored) + " pixels have id 255 and count as background");
    ids.setTo(0, is_ignored);
  }
  const int side = std::min(ids.rows, ids.cols), step = std::max(1, side / 256);
  const int thin = std::max(2, side / 96);
  long smooth = 0, direct = 0;
  cv::Mat turned;
  cv::transpose(ids, turned);
  count_borders(ids, step, thin, smooth, direct);
  count_borders(turned, step, thin, smooth, direct);
  if (double(smooth) > kMaxSmooth * double(smooth + direct) && smooth > kMinSmooth) {
    throw Error(GT_LABEL_SET_MISMATCH,
                name + " was resized smoothly, or was a JPEG: at " + std::to_string(smooth) +
                    " of " + std::to_string(smooth + direct) +
                    " borders one id turns into another by way of the ids in between",
                "ids as the parser gave them",
                "take the map as the parser wrote it (it may be smaller than the photo), or resize "
                "it with nearest neighbours, and keep it as PNG");
  }
  return ids;
}

// The first row below the hips; -1 where no leg is in sight. It is the cut with the fewest torso
// pixels below it and leg pixels above it.
int hip_row(const cv::Mat& parts) {
  const cv::Mat torso = is_any(parts, {1, 2});
  const cv::Mat legs = is_any(parts, {7, 8, 9, 10, 11, 12, 13, 14});
  if (!cv::countNonZero(legs)) return -1;
  int legs_above = 0, torso_below = cv::countNonZero(torso), least = torso_below, best = 0;
  for (int y = 0; y < parts.rows; ++y) {
    legs_above += cv::countNonZero(legs.row(y));
    torso_below -= cv::countNonZero(torso.row(y));
    if (legs_above + torso_below < least) {
      least = legs_above + torso_below;
      best = y + 1;
    }
  }
  return best;
}

cv::Mat to_classes(const cv::Mat& ids, const LabelSet& set, const std::string& set_name,
                   const cv::Mat& parts, const std::string& name) {
  std::array<bool, 256> present{};
  for (int y = 0; y < ids.rows; ++y) {
    for (int x = 0; x < ids.cols; ++x) present[ids.ptr(y)[x]] = true;
  }
  std::vector<int> unknown, known;
  for (int id = 0; id < 256; ++id) {
    if (set.classes.count(id)) known.push_back(id);
    if (present[static_cast<std::size_t>(id)] && !set.classes.count(id)) unknown.push_back(id);
  }
  if (!unknown.empty()) {
    throw Error(GT_LABEL_SET_MISMATCH,
                name + " has ids that label set " + set_name + " does not have: " + ranges(unknown),
                "ids " + ranges(known),
                "if the map uses another set (" + names_of_label_sets() +
                    "), name that; if its ids were lost (a palette turned into grey levels, a "
                    "lossy format, smooth resizing), take the map as the parser wrote it");
  }
  cv::Mat table = cv::Mat::zeros(1, 256, CV_8U), classes;
  for (const auto& [id, of] : set.classes)
    table.at<unsigned char>(id) = static_cast<unsigned char>(of);
  cv::LUT(ids, table, classes);
  const cv::Mat whole_body = is_any(ids, set.whole_body);
  const int hip = cv::countNonZero(whole_body) ? hip_row(parts) : -1;
  if (hip >= 0 && hip < ids.rows) {
    const cv::Range below(hip, ids.rows);
    classes.rowRange(below).setTo(kLower, whole_body.rowRange(below));
  }
  if (!set.with_neck.empty()) {
    classes.setTo(kSkin, is_any(ids, set.with_neck) & is_any(parts, {1, 2}));
  }
  return classes;
}

// Brings a map to its photo's size by nearest neighbours where the aspect agrees.
cv::Mat to_photo(const cv::Mat& map, cv::Size size, const std::string& name,
                 const std::string& photo) {
  if (map.size() == size) return map;
  const double across = double(map.rows) * size.width, down = double(map.cols) * size.height;
  if (std::abs(across - down) > kAspectTolerance * across) {
    throw Error(GT_SIZES_DIFFER,
                name + " is " + std::to_string(map.cols) + "x" + std::to_string(map.rows) +
                    " pixels (width x height) and " + photo + " " + std::to_string(size.width) +
                    "x" + std::to_string(size.height) +
                    ": the aspects differ, so one of them was cropped or turned",
                {}, "make both from the same photo");
  }
  return nearest(map, size);
}

// I, U, V as floats, planes below one another.
cv::Mat of_floats(const cv::Mat& planes, const std::string& name) {
  const int rows = planes.rows / 3;
  if (!cv::checkRange(planes)) {
    throw Error(GT_DENSEPOSE_INVALID, name + " has NaN or infinite values",
                "I, U and V as DensePose gives them", "write the file again");
  }
  cv::Mat iuv(rows, planes.cols, CV_8UC3);
  double least = 0, most = 0;
  cv::minMaxLoc(planes.rowRange(0, rows), &least, &most);
  const auto range = [&] { return cv::format(" from %g to %g", least, most); };
  bool whole = least >= 0 && most <= kParts;
  for (int y = 0; y < rows && whole; ++y) {
    for (int x = 0; x < planes.cols; ++x) {
      const float part = planes.at<float>(y, x);
      whole = whole && part == std::nearbyint(part);
      for (int i = 0; i < 3; ++i) {
        const float value = planes.at<float>(i * rows + y, x);
        iuv.ptr(y)[3 * x + i] = static_cast<unsigned char>(
            i ? std::nearbyint(255 * std::clamp(value, 0.f, 1.f)) : value);
      }
    }
  }
  if (!whole) {
    throw Error(GT_DENSEPOSE_INVALID, name + ": channel I runs" + range(), "whole part ids 0..24",
                "check the order of the channels (I, U, V), and resize such maps with nearest "
                "neighbours only");
  }
  cv::minMaxLoc(planes.rowRange(rows, 3 * rows), &least, &most);
  if (least < -kUvSlack || most > 1 + kUvSlack) {
    throw Error(GT_DENSEPOSE_INVALID, name + ": U and V run" + range(), "0..1",
                "divide by 255 if they were scaled to bytes, and check the order of the "
                "channels (I, U, V)");
  }
  return iuv;
}

// Parts from the colours of a lossy rendering; U and V, which it lacks, are 0. See _decode_parula.
cv::Mat of_parula(const cv::Mat& rgb, const std::string& name) {
  cv::Mat levels(kParts + 1, 1, CV_8U), palette;
  for (int part = 0; part <= kParts; ++part) {
    levels.at<unsigned char>(part) = static_cast<unsigned char>(part * 255 / kParts);
  }
  cv::applyColorMap(levels, palette, cv::COLORMAP_PARULA);
  palette.at<cv::Vec3b>(0) = {};
  struct Seen {
    unsigned char part;
    bool foreground, near;
  };
  std::unordered_map<int, Seen> colours;
  const auto seen = [&](const unsigned char* p) {
    const auto [entry, is_new] = colours.try_emplace(p[0] << 16 | p[1] << 8 | p[2]);
    if (is_new) {
      int best = 0, least = 1 << 30;
      for (int part = 0; part <= kParts; ++part) {
        const cv::Vec3b bgr = palette.at<cv::Vec3b>(part);
        int distance = 0;
        for (int i = 0; i < 3; ++i) distance += (p[i] - bgr[2 - i]) * (p[i] - bgr[2 - i]);
        if (distance < least) best = part;
        least = std::min(least, distance);
      }
      const bool foreground = p[0] * p[0] + p[1] * p[1] + p[2] * p[2] > kTrusted2;
      entry->second = {static_cast<unsigned char>(foreground ? best : 0), foreground,
                       least <= kTrusted2};
    }
    return entry->second;
  };
  cv::Mat part(rgb.size(), CV_8U), trusted(rgb.size(), CV_8U);
  double counted = 0, near = 0;
  for (int y = 0; y < rgb.rows; ++y) {
    for (int x = 0; x < rgb.cols; ++x) {
      const Seen one = seen(rgb.ptr(y) + 3 * x);
      part.at<unsigned char>(y, x) = one.part;
      trusted.at<unsigned char>(y, x) = one.near || !one.foreground ? 255 : 0;
      counted += one.foreground;
      near += one.foreground && one.near;
    }
  }
  if (counted > 0 && near / counted < kTrustedShare) {
    throw Error(GT_DENSEPOSE_INVALID,
                name + " does not look like encoding parula: only " + percent(near / counted) +
                    " of its coloured pixels come near OpenCV's COLORMAP_PARULA at part * "
                    "255 / 24",
                {}, std::string("name the encoding it has (") + kEncodings + ")");
  }
  if (cv::countNonZero(trusted) < int(trusted.total())) part = of_nearest(part, trusted);
  cv::medianBlur(part, part, 5);
  const cv::Mat none = cv::Mat::zeros(part.size(), CV_8U);
  cv::Mat iuv;
  cv::merge(std::vector<cv::Mat>{part, none, none}, iuv);
  return iuv;
}

void check_parts(const cv::Mat& densepose, const std::string& name) {
  double highest = 0;
  cv::minMaxLoc(parts_of(densepose), nullptr, &highest);
  if (highest <= kParts) return;
  throw Error(GT_DENSEPOSE_INVALID, name + ": channel I reaches " + std::to_string(int(highest)),
              "DensePose parts 0..24 in the first channel (red), then 255 U and 255 V",
              std::string("check the order of the channels (OpenCV writes BGR) and the "
                          "encoding (") +
                  kEncodings + ")");
}

// Throws Error unless DensePose's parts show somebody; `name` is what messages call the map.
void check_body(const cv::Mat& parts, const std::string& name) {
  const int count = cv::countNonZero(parts);
  if (count >= kMinShare * double(parts.total())) return;
  throw Error(GT_BODY_MISSING,
              name + " shows a person without a body: " + std::to_string(count) + " pixels of " +
                  std::to_string(parts.total()) + " have a DensePose part",
              "at least 0.1%",
              std::string("choose a photo that shows a person, and check that the DensePose "
                          "encoding is the file's own (") +
                  kEncodings + ")");
}

// Throws Error where a parse map has next to nothing on the body that DensePose shows.
void check_covered(const cv::Mat& classes, const cv::Mat& parts, const std::string& parsing,
                   const std::string& densepose) {
  const cv::Mat body = parts > 0;
  const double share = double(cv::countNonZero(classes & body)) / cv::countNonZero(body);
  if (share >= kLeastCovered) return;
  throw Error(GT_BODY_MISSING,
              parsing + " has something other than background on " + percent(share) +
                  " of the body that " + densepose + " shows",
              "at least 10%", "make both maps from the same photo");
}

cv::Mat decoded(const gt_picture& picture, const std::string& encoding, const std::string& name) {
  if (encoding == "iuv") return of_floats(copied(picture, 3, name, true), name);
  if (encoding == "parula") return of_parula(copied(picture, 3, name), name);
  if (encoding == "iuv-png") {
    const cv::Mat iuv = copied(picture, 3, name);
    check_parts(iuv, name);
    return iuv;
  }
  throw Error(GT_DENSEPOSE_ENCODING_UNKNOWN, "unknown DensePose encoding '" + encoding + "'",
              std::string("one of ") + kEncodings, "name the one that the map uses");
}

std::optional<cv::Rect> box_of(const gt_person_source& source) {
  if (!source.box) return std::nullopt;
  const gt_box box = *source.box;
  constexpr int kFar = 1 << 28;  // sides and areas of boxes stay numbers
  for (const int side : {box.left, box.top, box.right, box.bottom}) {
    if (side < -kFar || side > kFar || box.right <= box.left || box.bottom <= box.top) {
      throw Error(GT_ARGUMENT_INVALID, "the person's box is empty or far away",
                  "left, top, right and bottom in pixels of the photo");
    }
  }
  return cv::Rect(box.left, box.top, box.right - box.left, box.bottom - box.top);
}

// What maps and photo have in common: the names of all three, and what is to be found.
struct Names {
  std::string image, parsing, densepose;
};

Person built(cv::Mat image, cv::Mat ids, cv::Mat densepose, const std::string& set_name,
             const std::optional<cv::Rect>& box, const Names& names, const std::string& name,
             bool is_built_in) {
  Person person;
  const LabelSet& set = label_set(set_name);
  const cv::Size size = image.size();
  densepose = to_photo(densepose, size, names.densepose, names.image);
  ids = to_photo(ids, size, names.parsing, names.image);
  check_body(parts_of(densepose), names.densepose);
  cv::Mat others, iuv = choose_body(densepose, box, names.densepose, others);
  const cv::Mat parts = parts_of(iuv);
  cv::Mat classes = to_classes(ids, set, set_name, parts, names.parsing);
  check_covered(classes, parts, names.parsing, names.densepose);
  others = somebody_else(image, classes, parts, others);
  classes.setTo(kBackground, others);
  const cv::Mat things = in_front(classes, iuv, is_any(ids, set.in_front));
  drop_not_worn(image, classes, things);
  person.parts = parts_of(iuv);
  check_body(person.parts, "densepose");  // of who was chosen
  person.image = image;
  person.parsing = classes;
  person.densepose = iuv;
  person.is_protected = others | things | hands(classes, parts, is_built_in);
  person.name = name;
  person.confidence.fill(-1);
  return person;
}

// What the graph sees in a box of a photo, all in the frame.
struct Seen {
  GtFit fit;
  cv::Mat image, parsing, sure, densepose;
};

// Its DensePose at the photo's size, by nearest neighbours; 0 around the box.
cv::Mat iuv_of(const Seen& seen) {
  const GtFit& fit = seen.fit;
  const cv::Rect framed(fit.frame_left, fit.frame_top, fit.scaled_width, fit.scaled_height);
  const cv::Mat boxed = nearest(seen.densepose(framed), {fit.width, fit.height});
  cv::Mat whole = cv::Mat::zeros(fit.source_height, fit.source_width, CV_8UC3);
  const cv::Rect box(fit.left, fit.top, fit.width, fit.height);
  const cv::Rect shown = box & cv::Rect(0, 0, whole.cols, whole.rows);
  boxed(shown - box.tl()).copyTo(whole(shown));
  return whole;
}

// `iuv` gets `iuv_of` what is seen.
Seen look(const cv::Mat& image, const GtFit& fit, const MakeMaps& make_maps,
          const std::string& name, cv::Mat& iuv) {
  const cv::Size size(fit.target_width, fit.target_height);
  Seen seen{fit, cv::Mat(size, CV_8UC3), cv::Mat(size, CV_8U), cv::Mat(size, CV_8U),
            cv::Mat(size, CV_8UC3)};
  const GtPicture photo = picture(image);
  check(gt_fit_photo(&photo, &fit, seen.image.data, 1));
  make_maps(seen.image.data, seen.parsing.data, seen.densepose.data, seen.sure.data);
  iuv = iuv_of(seen);
  try {
    check_body(parts_of(iuv), name);
  } catch (const Error&) {
    throw Error(GT_BODY_MISSING, name + " shows nobody, or nobody large enough to be found",
                "one person, upright, with head and torso in the photo",
                "choose another photo, or give a person's folder with maps (garment-transfer "
                "prepare)");
  }
  return seen;
}

// Where somebody in a box is looked for closely, as `_surroundings` in runtime/_maps.py has it.
cv::Rect surroundings(const cv::Rect& box, cv::Size source, cv::Size target) {
  const cv::Rect whole({}, source), inside = box & whole;
  const int height =
      2 * std::max(inside.height, (inside.width * target.height + target.width - 1) / target.width);
  const int width = std::max(height * target.width / target.height, 1);
  if (inside.empty() || (height >= source.height && width >= source.width)) return whole;
  const auto start = [](int at, int side, int wanted) {
    return at + static_cast<int>(std::floor((side - wanted) / 2.0));
  };
  return {start(inside.x, inside.width, width), start(inside.y, inside.height, height), width,
          height};
}

// Whether two boxes are as good as one.
bool agree(const cv::Rect& found, const cv::Rect& before) {
  const double moves[] = {double(found.y - before.y), double(found.br().y - before.br().y),
                          found.x + found.width / 2.0 - before.x - before.width / 2.0};
  return std::all_of(std::begin(moves), std::end(moves),
                     [&](double move) { return std::abs(move) <= kSettled * found.height; });
}

// The connected pieces of a mask whose area is below a share of the largest one's.
cv::Mat small_pieces_of(const cv::Mat& mask, double least) {
  cv::Mat labels, stats, centres, out = cv::Mat::zeros(mask.size(), CV_8U);
  const int count = cv::connectedComponentsWithStats(mask, labels, stats, centres);
  int largest = 0;
  for (int i = 1; i < count; ++i) largest = std::max(largest, stats.at<int>(i, cv::CC_STAT_AREA));
  for (int y = 0; y < mask.rows; ++y) {
    for (int x = 0; x < mask.cols; ++x) {
      const int label = labels.at<int>(y, x);
      const bool is_small = stats.at<int>(label, cv::CC_STAT_AREA) < least * largest;
      if (label && is_small) out.at<unsigned char>(y, x) = 255;
    }
  }
  return out;
}

// The connected pieces of a mask that have some of the places.
cv::Mat pieces_at(const cv::Mat& mask, const cv::Mat& places) {
  cv::Mat labels, out = cv::Mat::zeros(mask.size(), CV_8U);
  std::vector<bool> chosen(static_cast<std::size_t>(cv::connectedComponents(mask, labels)));
  const auto chosen_at = [&](int y, int x) {
    return chosen[static_cast<std::size_t>(labels.at<int>(y, x))];
  };
  for (int y = 0; y < mask.rows; ++y) {
    for (int x = 0; x < mask.cols; ++x) {
      if (places.ptr(y)[x] && mask.ptr(y)[x]) chosen_at(y, x) = true;
    }
  }
  for (int y = 0; y < mask.rows; ++y) {
    for (int x = 0; x < mask.cols; ++x) out.ptr(y)[x] = chosen_at(y, x) ? 255 : 0;
  }
  return out;
}

// Gives what is marked the value of the nearest known pixel, if there is one.
void fill(cv::Mat& values, const cv::Mat& where, const cv::Mat& known) {
  if (cv::countNonZero(where) && cv::countNonZero(known)) {
    of_nearest(values, known).copyTo(values, where);
  }
}

// A mask and what lies beside it.
cv::Mat around(const cv::Mat& mask) {
  cv::Mat out;
  cv::dilate(mask, out, cv::Mat::ones(2 * kBeside + 1, 2 * kBeside + 1, CV_8U));
  return out;
}

double squared_distance(const cv::Scalar& a, const cv::Scalar& b) {
  const cv::Scalar apart = a - b;
  return apart[0] * apart[0] + apart[1] * apart[1] + apart[2] * apart[2];
}

// Where skin has the colour of the garment around it: sleeves.
cv::Mat sleeves_of(const Seen& seen) {
  const cv::Mat face = seen.parsing == kFace, garment = seen.parsing == kGarment;
  cv::Mat sleeves = cv::Mat::zeros(seen.parsing.size(), CV_8U);
  if (cv::countNonZero(face) == 0) return sleeves;
  const cv::Scalar skin = cv::mean(seen.image, face);
  cv::Mat labels, stats, centres;
  const int count = cv::connectedComponentsWithStats(seen.parsing == kSkin, labels, stats, centres);
  for (int i = 1; i < count; ++i) {
    if (stats.at<int>(i, cv::CC_STAT_AREA) < kLeastSleeve) continue;
    const cv::Mat piece = labels == i, beside = around(piece) & garment;
    if (cv::countNonZero(beside) == 0) continue;
    const cv::Scalar own = cv::mean(seen.image, piece), cloth = cv::mean(seen.image, beside);
    if (kNearer * kNearer * squared_distance(own, cloth) < squared_distance(own, skin) &&
        squared_distance(cloth, skin) > kApartFromSkin * kApartFromSkin) {
      sleeves |= piece;
    }
  }
  return sleeves;
}

// Relabels pieces that cannot be what they are labelled.
void correct(Seen& seen) {
  cv::Mat &parsing = seen.parsing, &densepose = seen.densepose;
  parsing.setTo(kSkin, small_pieces_of(parsing == kFace, kLeastFace));
  cv::Mat hair = small_pieces_of(parsing == kHair, kLeastPiece);
  hair &= ~pieces_at(hair, around(parsing == kFace));
  fill(parsing, hair, ~hair & (parsing != kBackground));

  const cv::Mat parts = parts_of(densepose), body = parts > 0;
  const cv::Mat heads = is_any(parts, {23, 24}), hands = is_any(parts, {3, 4});
  const cv::Mat forearms = is_any(parts, {19, 20, 21, 22});
  const cv::Mat small = small_pieces_of(heads, kLeastPiece);
  cv::Mat wrong = small | small_pieces_of(hands, kLeastPiece);
  wrong &= pieces_at(body, heads & ~small);
  fill(densepose, wrong, body & ~wrong);

  const cv::Mat sleeves = sleeves_of(seen);
  parsing.setTo(kGarment, sleeves);
  const cv::Mat arms = pieces_at(sleeves, hands | forearms);
  wrong = (arms & hands) | (around(around(arms)) & (parsing == kGarment) & ~body);
  fill(densepose, wrong, forearms);
}

// A framed parsing at the photo's size.
cv::Mat upsampled(const cv::Mat& image, const Seen& seen) {
  cv::Mat out(image.size(), CV_8U);
  const GtPicture photo = picture(image), framed = picture(seen.image);
  const GtPicture labels = picture(seen.parsing);
  check(gt_upsample_labels(&photo, &framed, &labels, &seen.fit, out.data, 1));
  return out;
}

// The mean confidence of each class that a map has; warns where it is low, throws where it is
// useless.
std::array<float, kClasses> confidence_of(const Seen& seen, const std::string& name) {
  static const auto names = nlohmann::json::parse(kLabels)["classes"];
  std::array<double, kClasses> counts{}, sums{};
  for (int y = 0; y < seen.parsing.rows; ++y) {
    for (int x = 0; x < seen.parsing.cols; ++x) {
      const std::size_t label = seen.parsing.ptr(y)[x];
      ++counts[label];
      sums[label] += seen.sure.ptr(y)[x] / 255.0;
    }
  }
  std::array<float, kClasses> confidence;
  confidence.fill(-1);
  double count = 0, sum = 0;
  std::string each;
  for (std::size_t label = kBackground + 1; label < kClasses; ++label) {
    if (counts[label] == 0) continue;
    confidence[label] = static_cast<float>(sums[label] / counts[label]);
    count += counts[label];
    sum += sums[label];
    each += (each.empty() ? "" : ", ") + names[label].get<std::string>() +
            cv::format(" %.2f", double(confidence[label]));
  }
  const double overall = sum / std::max(count, 1.0);
  each = "(confidence " + cv::format("%.2f", overall) + ": " + each + ")";
  if (overall < kUseless) {
    throw Error(
        GT_BODY_MISSING, name + " shows somebody whose body and clothes cannot be made out " + each,
        "a confidence of at least " + cv::format("%.1f", kUseless),
        "choose a photo with less around or in front of the person, or make the maps with other "
        "models by `garment-transfer prepare --parser`");
  }
  if (overall < kDoubtful) {
    warn(name + ": its maps are doubtful " + each + ", below " + cv::format("%.2f", kDoubtful) +
         "; look at them, or make them with other models by `garment-transfer prepare --parser`");
  }
  return confidence;
}

std::string who(const Person& person, const std::string& role) {
  return person.name.empty() ? role : role + " " + person.name;
}

std::string text_of(const char* value, const char* otherwise) {
  return value && *value ? value : otherwise;
}

}  // namespace

Person person_of_maps(const gt_person_source& source) {
  const Names names{name_of(source.photo, "image"), name_of(source.parsing, "parsing"),
                    name_of(source.densepose, "densepose")};
  const std::string set_name = text_of(source.label_set, "classes7");
  const LabelSet& set = label_set(set_name);
  const cv::Mat image = copied(source.photo, 3, names.image);
  const bool coloured = source.parsing.channels == 3;
  cv::Mat ids = copied(source.parsing, coloured ? 3 : 1, names.parsing);
  if (coloured) ids = ids_of_colours(ids, set, set_name, names.parsing);
  const cv::Mat densepose =
      decoded(source.densepose, text_of(source.densepose_encoding, "iuv-png"), names.densepose);
  return built(image, checked_ids(ids, names.parsing), densepose, set_name, box_of(source), names,
               text_of(source.name, ""), false);
}

Person person_of_photo(const gt_person_source& source, const MakeMaps& make_maps, Size size,
                       const Framing& framing) {
  const std::string name = text_of(source.name, "the photo");
  const cv::Mat image = copied(source.photo, 3, name_of(source.photo, name.c_str()));
  const cv::Size target(int(size.width), int(size.height));
  const auto box = box_of(source);
  const cv::Rect whole({}, image.size());
  cv::Rect before = whole, found;
  cv::Mat iuv, own, others;
  const auto look_at = [&](const std::string& at) {
    return look(image, fit_of(image.size(), before, target), make_maps, at, iuv);
  };
  Seen seen;
  try {
    seen = look_at(name);
    own = choose_body(iuv, box, name, others);
  } catch (const Error& error) {
    if (box) before = surroundings(*box, image.size(), target);
    if (error.status() != GT_BODY_MISSING || before == whole) throw;
    seen = look_at(name + " in the box " + text(*box));
    own = choose_body(iuv, box, name, others);
  }
  for (int i = 0; i < kLooks; ++i) {
    if (i) own = choose_body(iuv, box.value_or(before), name, others);
    found = frame(parts_of(own), framing, target);
    if (agree(found, before)) break;
    before = found;
    seen = look_at(name);
  }
  if (found.height < kLeastRows) {
    throw Error(GT_BODY_MISSING,
                name + " shows somebody who is too small: from head to hips about " +
                    std::to_string(found.height) + " of its " + std::to_string(image.rows) +
                    " rows",
                "at least " + std::to_string(kLeastRows),
                "choose a photo from nearer by, or one of more pixels");
  }
  correct(seen);
  const auto confidence = confidence_of(seen, name);
  Person person =
      built(image, upsampled(image, seen), iuv_of(seen), "classes7", box.value_or(found),
            {name, "parsing of " + name, "densepose of " + name}, name, true);
  person.confidence = confidence;
  return person;
}

void check_view(const Person& person, const std::string& role) {
  const std::string reason = view_fault(person.parts);
  if (reason.empty()) return;
  throw Error(GT_VIEW_UNSUPPORTED, who(person, role) + " " + reason,
              "somebody upright and seen from the front",
              "choose another photo, and check that the DensePose map is this photo's own");
}

void check_garment(const Person& person, const std::string& role) {
  const int count = cv::countNonZero(person.parsing == kGarment);
  const int torso = cv::countNonZero(is_any(person.parts, {1, 2}));
  if (count >= std::max(kMinShare * double(person.parsing.total()), kLeastGarment * torso)) return;
  throw Error(GT_GARMENT_MISSING,
              who(person, role) + " wears no upper garment: " + std::to_string(count) +
                  " pixels of " + std::to_string(person.parsing.total()) +
                  " have class 4 (garment), and " + std::to_string(torso) + " are torso",
              "at least 0.1% of the photo and 10% of the torso's area",
              "choose a photo that shows one, and check that the label set is the parse map's own "
              "(" +
                  names_of_label_sets() + ")");
}

}  // namespace garment_transfer::internal
