// garment_transfer_cli: one transfer between two folders.

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>

#include "transfer.h"

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "Usage: garment_transfer_cli BUNDLE PERSON GARMENT_OWNER OUTPUT.png\n"
                 "PERSON gets the garment that GARMENT_OWNER wears. Each is a folder with image.png "
                 "or .jpg,\nparse.png, densepose.png and meta.json, such as {\"parse\": "
                 "\"cihp20\", \"densepose\": \"iuv-png\"}.\n";
    return 2;
  }
  try {
    const garment_transfer::Pipeline pipeline(argv[1]);
    garment_transfer::Session session(pipeline);
    const example::Person person = example::read_person(example::read_folder(argv[2]));
    const example::Person owner = example::read_person(example::read_folder(argv[3]));
    const int threads = static_cast<int>(std::thread::hardware_concurrency());
    const std::string png =
        example::write_png(example::transfer(session, pipeline.size(), person, owner, threads));
    std::ofstream file(argv[4], std::ios::binary);
    file.write(png.data(), static_cast<std::streamsize>(png.size()));
    file.close();
    if (!file) throw std::runtime_error(std::string(argv[4]) + " cannot be written");
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
  }
}
