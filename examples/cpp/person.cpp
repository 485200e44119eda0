#include "person.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "fitting.h"
#include "labels.h"

namespace example {
namespace {

namespace fs = std::filesystem;

// The highest DensePose part.
constexpr int kParts = 24;

// A body or a garment smaller than this share of its photo is a stray pixel, not one.
constexpr double kMinShare = 0.001;

// A map may have another size than its photo when the aspects agree within this share.
constexpr double kAspectTolerance = 0.01;

// The least that a garment covers, as a share of the torso's area.
constexpr double kLeastGarment = 0.1;

// The id that parsers give pixels they do not decide on, in every label set.
constexpr int kIgnored = 255;

struct LabelSet {
  std::map<int, int> classes;
  // Garments that go on below the hips: above them upper garment, below them lower.
  std::set<int> whole_body;
  // Faces down to the collar: skin where DensePose has the torso.
  std::set<int> with_neck;
  // Things that a person carries.
  std::set<int> in_front;
};

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
      for (const auto& each : set["ids"]) one.classes[each["id"]] = classes.at(each["class"]);
      one.whole_body = set["whole_body"].get<std::set<int>>();
      one.with_neck = set.value("with_neck", std::set<int>());
      one.in_front = set.value("in_front", std::set<int>());
      one.classes.emplace(kIgnored, kBackground);
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

// The first row below the hips; -1 where no leg is in sight. It is the cut with the fewest torso
// pixels below it and leg pixels above it.
int hip_row(const cv::Mat& parts) {
  std::vector<long> torso(static_cast<std::size_t>(parts.rows)), legs = torso;
  long torso_below = 0, leg_count = 0;
  for (int y = 0; y < parts.rows; ++y) {
    const unsigned char* row = parts.ptr(y);
    const auto at = static_cast<std::size_t>(y);
    for (int x = 0; x < parts.cols; ++x) {
      const int part = row[x];
      torso[at] += part == 1 || part == 2;
      legs[at] += part >= 7 && part <= 14;
    }
    torso_below += torso[at];
    leg_count += legs[at];
  }
  if (!leg_count) return -1;
  long legs_above = 0, least = torso_below;
  int best = 0;
  for (int y = 0; y < parts.rows; ++y) {
    legs_above += legs[static_cast<std::size_t>(y)];
    torso_below -= torso[static_cast<std::size_t>(y)];
    if (legs_above + torso_below < least) {
      least = legs_above + torso_below;
      best = y + 1;
    }
  }
  return best;
}

const LabelSet& label_set(const std::string& set_name) {
  const auto found = label_sets().find(set_name);
  if (found == label_sets().end()) {
    throw InputError("label_set_unknown", "unknown label set '" + set_name +
                                              "'; expected one of " + names_of_label_sets());
  }
  return found->second;
}

cv::Mat to_classes(const cv::Mat& ids, const std::string& set_name, const cv::Mat& parts,
                   const std::string& name) {
  const LabelSet& set = label_set(set_name);
  const int hip = set.whole_body.empty() ? -1 : hip_row(parts);
  cv::Mat classes(ids.size(), CV_8U);
  for (int y = 0; y < ids.rows; ++y) {
    for (int x = 0; x < ids.cols; ++x) {
      const int id = ids.at<unsigned char>(y, x);
      const auto entry = set.classes.find(id);
      if (entry == set.classes.end()) {
        throw InputError("label_set_mismatch",
                         name + " has id " + std::to_string(id) + ", which label set " + set_name +
                             " does not know. Either the map uses another set, or its ids were "
                             "lost: a palette turned into grey levels, a lossy format, or smooth "
                             "resizing; take the map as the parser wrote it");
      }
      const int part = parts.at<unsigned char>(y, x);
      int value = entry->second;
      if (hip >= 0 && y >= hip && set.whole_body.count(id)) value = kLower;
      if ((part == 1 || part == 2) && set.with_neck.count(id)) value = kSkin;
      classes.at<unsigned char>(y, x) = static_cast<unsigned char>(value);
    }
  }
  return classes;
}

// Brings a map to its photo's size by nearest neighbours where the aspect agrees.
cv::Mat to_photo(const cv::Mat& map, cv::Size size, const std::string& name,
                 const std::string& photo) {
  if (map.size() == size) return map;
  const double across = double(map.rows) * size.width, down = double(map.cols) * size.height;
  if (std::abs(across - down) > kAspectTolerance * across) {
    throw InputError("sizes_differ",
                     name + " is " + std::to_string(map.cols) + "x" + std::to_string(map.rows) +
                         " pixels (width x height) and " + photo + " " +
                         std::to_string(size.width) + "x" + std::to_string(size.height) +
                         ": the aspects differ, so one of them was cropped or turned; make both "
                         "from the same photo");
  }
  return nearest(map, size);
}

void check_densepose(const cv::Mat& densepose, const std::string& name) {
  cv::Mat part;
  cv::extractChannel(densepose, part, 0);
  double highest = 0;
  cv::minMaxLoc(part, nullptr, &highest);
  if (highest > kParts) {
    throw InputError("densepose_invalid",
                     name + ": channel I reaches " + std::to_string(int(highest)) +
                         "; expected DensePose parts 0..24 in the first channel (red), then 255 U "
                         "and 255 V: check the order of the channels (OpenCV writes BGR)");
  }
  const int count = cv::countNonZero(part);
  if (count < kMinShare * double(part.total())) {
    throw InputError("body_missing",
                     name + " shows a person without a body: " + std::to_string(count) +
                         " pixels of " + std::to_string(part.total()) +
                         " have a DensePose part; expected at least 0.1%; choose a photo that "
                         "shows a person");
  }
}

std::string who(const Person& person, const std::string& role) {
  return person.name.empty() ? role : role + " " + person.name;
}

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw InputError("person_incomplete", path.string() + " cannot be read; check the path");
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

Person read_person(const PersonFiles& files, int max_side) {
  Person person;
  person.image = read_photo(files.photo.bytes, files.photo.name, max_side);
  const cv::Size size = person.image.size();
  const cv::Mat densepose =
      read_rgb_map(files.densepose.bytes, files.densepose.name, max_side);
  check_densepose(densepose, files.densepose.name);
  cv::Mat others, parts;
  cv::Mat iuv = choose_body(to_photo(densepose, size, files.densepose.name, files.photo.name),
                            files.box, files.densepose.name, others);
  cv::extractChannel(iuv, parts, 0);
  const cv::Mat ids = to_photo(read_indices(files.parse.bytes, files.parse.name, max_side), size,
                               files.parse.name, files.photo.name);
  cv::Mat classes = to_classes(ids, files.label_set, parts, files.parse.name);
  others = somebody_else(person.image, classes, parts, others);
  classes.setTo(kBackground, others);
  cv::Mat things = cv::Mat::zeros(size, CV_8U);
  for (const int id : label_set(files.label_set).in_front) things |= ids == id;
  things = in_front(classes, iuv, things);
  check_densepose(iuv, "densepose");  // of who was chosen
  person.parsing = classes;
  person.densepose = iuv;
  person.is_protected = others | things | hands(classes, parts);
  person.name = files.name;
  return person;
}

void check_encoding(const std::string& encoding, const std::string& where) {
  if (encoding == "iuv-png") return;
  throw InputError("densepose_encoding_unknown",
                   where + ": DensePose encoding '" + encoding +
                       "'; expected iuv-png; the Python package reads the others");
}

PersonFiles read_folder(const std::string& name) {
  const fs::path folder = name;
  PersonFiles files;
  files.name = name;
  nlohmann::json meta;
  const fs::path meta_path = folder / "meta.json";
  try {
    meta = nlohmann::json::parse(content_of(meta_path));
    files.label_set = meta.at("parse").get<std::string>();
    check_encoding(meta.at("densepose").get<std::string>(), meta_path.string());
  } catch (const nlohmann::json::exception& error) {
    throw InputError("meta_invalid",
                     meta_path.string() + " cannot be used (" + error.what() +
                         R"(); expected {"parse": LABEL_SET, "densepose": "iuv-png"})");
  }
  for (const char* suffix : {".png", ".jpg", ".jpeg"}) {
    const fs::path path = folder / (std::string("image") + suffix);
    if (files.photo.name.empty() && fs::exists(path)) {
      files.photo = {path.string(), content_of(path)};
    }
  }
  if (files.photo.name.empty()) {
    throw InputError("person_incomplete",
                     name + " has no image.png, image.jpg or image.jpeg; add the photo");
  }
  const fs::path parse = folder / "parse.png", densepose = folder / "densepose.png";
  files.parse = {parse.string(), content_of(parse)};
  files.densepose = {densepose.string(), content_of(densepose)};
  return files;
}

void check_view(const Person& person, const std::string& role) {
  cv::Mat parts;
  cv::extractChannel(person.densepose, parts, 0);
  const std::string reason = view_fault(parts);
  if (reason.empty()) return;
  throw InputError("view_unsupported",
                   who(person, role) + " " + reason +
                       "; expected somebody upright and seen from the front; choose another photo, "
                       "and check that the DensePose map is this photo's own");
}

void check_garment(const Person& person, const std::string& role) {
  const int count = cv::countNonZero(person.parsing == kGarment);
  cv::Mat parts;
  cv::extractChannel(person.densepose, parts, 0);
  const int torso = cv::countNonZero(is_any(parts, {1, 2}));
  if (count < std::max(kMinShare * double(person.parsing.total()), kLeastGarment * torso)) {
    throw InputError("garment_missing",
                     who(person, role) + " wears no upper garment: " + std::to_string(count) +
                         " pixels of " + std::to_string(person.parsing.total()) +
                         " have class 4 (garment), and " + std::to_string(torso) +
                         " are torso; expected at least 0.1% of the photo and 10% of the torso's "
                         "area; choose a photo that shows one, and check that the label set is the "
                         "parse map's own (" +
                         names_of_label_sets() + ")");
  }
}

}  // namespace example
