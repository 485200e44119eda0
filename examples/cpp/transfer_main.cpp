// garment_transfer_cli: one transfer between two folders.

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "transfer.h"

namespace {

// A box of LEFT,TOP,RIGHT,BOTTOM; nothing where `text` is none.
std::optional<cv::Rect> box_of(const std::string& text) {
  std::istringstream in(text);
  int sides[4];
  for (int i = 0; i < 4; ++i) {
    if (i && in.get() != ',') return std::nullopt;
    if (!(in >> sides[i]) || sides[i] < -1000000 || sides[i] > 1000000) return std::nullopt;
  }
  const cv::Rect box(sides[0], sides[1], sides[2] - sides[0], sides[3] - sides[1]);
  if (in.get() != EOF || box.width < 1 || box.height < 1) return std::nullopt;
  return box;
}

int usage() {
  std::cerr << "Usage: garment_transfer_cli [--person-box BOX] [--owner-box BOX] BUNDLE PERSON "
               "GARMENT_OWNER OUTPUT.png\n"
               "PERSON gets the garment that GARMENT_OWNER wears. Each is a folder with image.png "
               "or .jpg,\nparse.png, densepose.png and meta.json, such as {\"parse\": "
               "\"cihp20\", \"densepose\": \"iuv-png\"}.\n"
               "BOX is LEFT,TOP,RIGHT,BOTTOM in pixels about the one who is meant, where a photo "
               "shows several people.\n";
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> paths;
  std::optional<cv::Rect> person_box, owner_box;
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
  try {
    const garment_transfer::Pipeline pipeline(paths[0]);
    garment_transfer::Session session(pipeline);
    example::PersonFiles files = example::read_folder(paths[1]);
    files.box = person_box;
    const example::Person person = example::read_person(files);
    files = example::read_folder(paths[2]);
    files.box = owner_box;
    const example::Person owner = example::read_person(files);
    const int threads = static_cast<int>(std::thread::hardware_concurrency());
    const std::string png =
        example::write_png(example::transfer(pipeline, session, person, owner, threads));
    std::ofstream file(paths[3], std::ios::binary);
    file.write(png.data(), static_cast<std::streamsize>(png.size()));
    file.close();
    if (!file) throw std::runtime_error(paths[3] + " cannot be written");
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
  }
}
