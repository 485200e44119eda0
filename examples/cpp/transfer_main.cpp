// garment_transfer_cli: one transfer between two people.

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <garment_transfer/garment_transfer.hpp>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "images.h"

namespace {

namespace fs = std::filesystem;
namespace gt = garment_transfer;

// A box of LEFT,TOP,RIGHT,BOTTOM; nothing where `text` is none.
std::optional<gt_box> box_of(const std::string& text) {
  std::istringstream in(text);
  std::int32_t sides[4];
  for (int i = 0; i < 4; ++i) {
    if (i && in.get() != ',') return std::nullopt;
    if (!(in >> sides[i]) || sides[i] < -1000000 || sides[i] > 1000000) return std::nullopt;
  }
  const gt_box box{sides[0], sides[1], sides[2], sides[3]};
  if (in.get() != EOF || box.right <= box.left || box.bottom <= box.top) return std::nullopt;
  return box;
}

// A file's content; not that of the output, which would be lost.
example::File file_of(const fs::path& path, const fs::path& output) {
  // a pipe or a device would be waited for, or read for ever
  if (fs::exists(path) && !fs::is_regular_file(path)) {
    throw std::runtime_error(path.string() + " is a folder, a pipe or a device; expected a file");
  }
  if (fs::exists(path) && fs::exists(output) && fs::equivalent(path, output)) {
    throw std::runtime_error(output.string() + " is what this run reads, as " + path.string() +
                             "; choose another path for the picture");
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path.string() + " cannot be read; check the path");
  return {path.string(), {std::istreambuf_iterator<char>(file), {}}};
}

// The one file of a stem with one of the suffixes, in small letters or capitals.
example::File find(const fs::path& folder, const std::string& stem,
                   const std::set<std::string>& suffixes, const fs::path& output) {
  std::vector<fs::path> found;
  std::string expected;
  for (const auto& suffix : suffixes) expected += (expected.empty() ? "" : ", ") + stem + suffix;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::string name = entry.path().filename();
    for (char& letter : name) letter = static_cast<char>(std::tolower(letter));
    const fs::path lower = name;
    if (lower.stem() == stem && suffixes.count(lower.extension())) found.push_back(entry.path());
  }
  if (found.size() == 1) return file_of(found[0], output);
  throw std::runtime_error(folder.string() + " has " + (found.empty() ? "none" : "more than one") +
                           " of " + expected + "; expected one");
}

// A person of a bare photo, or of a folder: image, parse, densepose and meta.json, which names the
// label set and the encoding.
gt::Person read_person(const fs::path& path, const std::optional<gt_box>& box,
                       const fs::path& output, const gt::Pipeline& pipeline) {
  example::Files files;
  files.name = path.string();
  files.box = box;
  if (!fs::is_directory(path)) {
    files.image = file_of(path, output);
    return example::read_person(files, pipeline);
  }
  files.image = find(path, "image", {".jpeg", ".jpg", ".png"}, output);
  files.parsing = find(path, "parse", {".png"}, output);
  files.densepose = find(path, "densepose", {".npy", ".png"}, output);
  const example::File meta = find(path, "meta", {".json"}, output);
  try {
    // the parser takes a byte order mark
    const auto names = nlohmann::json::parse(meta.bytes);
    files.label_set = names.at("parse").get<std::string>();
    files.densepose_encoding = names.at("densepose").get<std::string>();
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(meta.name + " cannot be used (" + error.what() +
                             R"(); expected {"parse": LABEL_SET, "densepose": "iuv-png"})");
  }
  return example::read_person(files, pipeline);
}

int usage() {
  std::cerr
      << "Usage: garment_transfer_cli [--person-box BOX] [--owner-box BOX] BUNDLE PERSON "
         "GARMENT_OWNER OUTPUT.png\n"
         "PERSON gets the garment that GARMENT_OWNER wears. Each is a PNG or JPEG photo, or a "
         "folder with\nimage.png or .jpg, parse.png, densepose.png and meta.json, such as "
         "{\"parse\": \"cihp20\",\n\"densepose\": \"iuv-png\"}. BOX is LEFT,TOP,RIGHT,BOTTOM "
         "in pixels about the one who is meant,\nwhere a photo shows several people.\n";
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> paths;
  std::optional<gt_box> person_box, owner_box;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument != "--person-box" && argument != "--owner-box") {
      paths.push_back(argument);
      continue;
    }
    const auto box = ++i < argc ? box_of(argv[i]) : std::nullopt;
    if (!box) return usage();
    (argument == "--person-box" ? person_box : owner_box) = box;
  }
  if (paths.size() != 4) return usage();
  gt_set_log([](const char* message, void*) { std::cerr << "Warning: " << message << "\n"; },
             nullptr);
  try {
    const fs::path output = fs::weakly_canonical(paths[3]);
    if (fs::exists(output) && !fs::is_regular_file(output)) {
      throw std::runtime_error(output.string() + " is no file; give the path of one");
    }
    const gt::Pipeline pipeline(paths[0]);
    gt::Session session(pipeline);
    const gt::Person person = read_person(paths[1], person_box, output, pipeline);
    const gt::Person owner = read_person(paths[2], owner_box, output, pipeline);
    const auto threads = static_cast<int>(std::min(64u, std::thread::hardware_concurrency()));
    const gt::Finished finished = session.transfer(person, owner, threads);
    const std::string png =
        example::write_png(finished.size.height, finished.size.width, finished.image.data());
    if (output.has_parent_path()) fs::create_directories(output.parent_path());
    const fs::path unfinished = output.string() + ".partial";
    std::ofstream file(unfinished, std::ios::binary);
    file.write(png.data(), static_cast<std::streamsize>(png.size()));
    file.close();
    if (!file) {
      fs::remove(unfinished);
      throw std::runtime_error(output.string() + " cannot be written");
    }
    fs::rename(unfinished, output);
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
  }
}
