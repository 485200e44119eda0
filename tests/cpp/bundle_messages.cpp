// For each folder on standard input one line: the status of loading it as a bundle, a tab, and the
// message, in which the character 1F stands for a newline.

#include <garment_transfer/garment_transfer.h>

#include <algorithm>
#include <iostream>
#include <string>

int main() {
  for (std::string folder; std::getline(std::cin, folder);) {
    gt_pipeline* pipeline = nullptr;
    const gt_status status = gt_pipeline_load(folder.c_str(), nullptr, &pipeline);
    std::string message = status ? gt_last_message() : gt_pipeline_description(pipeline);
    std::replace(message.begin(), message.end(), '\n', '\x1f');
    std::cout << status << '\t' << message << std::endl;
    gt_pipeline_free(pipeline);
  }
}
