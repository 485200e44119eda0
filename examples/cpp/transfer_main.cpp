// garment_transfer_cli: one transfer between two people.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <garment_transfer/garment_transfer.hpp>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
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

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path.string() + " cannot be read; check the path");
  return {std::istreambuf_iterator<char>(file), {}};
}

// A person of a bare photo, or of a folder: image.png or .jpg, parse.png, densepose.png and
// meta.json, which names the label set and the encoding.
gt::Person read_person(const fs::path& path, const std::optional<gt_box>& box,
                       const gt::Pipeline& pipeline) {
  gt::PersonSource source;
  source.name = path.string();
  source.box = box;
  fs::path photo = path;
  example::Image parse, densepose;
  const std::string parse_path = path / "parse.png", densepose_path = path / "densepose.png";
  if (!fs::is_regular_file(path)) {
    const fs::path meta_path = path / "meta.json";
    try {
      const auto meta = nlohmann::json::parse(content_of(meta_path));
      source.label_set = meta.at("parse").get<std::string>();
      source.densepose_encoding = meta.at("densepose").get<std::string>();
    } catch (const nlohmann::json::exception& error) {
      throw std::runtime_error(meta_path.string() + " cannot be used (" + error.what() +
                               R"(); expected {"parse": LABEL_SET, "densepose": "iuv-png"})");
    }
    for (const char* name : {"image.jpeg", "image.jpg", "image.png"}) {
      if (fs::exists(path / name)) photo = path / name;
    }
    if (photo == path) throw std::runtime_error(path.string() + " has no image.png, .jpg or .jpeg");
    parse = example::read_map(content_of(parse_path), parse_path);
    densepose = example::read_map(content_of(densepose_path), densepose_path);
    source.parsing = parse.picture(parse_path.c_str());
    source.densepose = densepose.picture(densepose_path.c_str());
  }
  const std::string photo_path = photo;
  const example::Image image = example::read_photo(content_of(photo), photo_path);
  source.photo = image.picture(photo_path.c_str());
  return gt::Person(source, &pipeline);
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
    const gt::Pipeline pipeline(paths[0]);
    gt::Session session(pipeline);
    const gt::Person person = read_person(paths[1], person_box, pipeline);
    const gt::Person owner = read_person(paths[2], owner_box, pipeline);
    const auto threads = static_cast<int>(std::min(64u, std::thread::hardware_concurrency()));
    const gt::Finished finished = session.transfer(person, owner, threads);
    const std::string png =
        example::write_png(finished.size.height, finished.size.width, finished.image.data());
    std::ofstream file(paths[3], std::ios::binary);
    file.write(png.data(), static_cast<std::streamsize>(png.size()));
    file.close();
    if (!file) throw std::runtime_error(paths[3] + " cannot be written");
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
  }
}
