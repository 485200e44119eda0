// For each folder on standard input one line: the name of the status of loading it as a bundle, a
// tab, and the message, whose newlines are spaces. With arguments: the names of these statuses.

#include <garment_transfer/garment_transfer.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <string>

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    std::cout << gt_status_name(static_cast<gt_status>(std::atoi(argv[i]))) << '\n';
  }
  gt_pipeline_options options = GT_PIPELINE_OPTIONS_INIT;
  options.threads = 1;
  for (std::string folder; argc == 1 && std::getline(std::cin, folder);) {
    gt_pipeline* pipeline = nullptr;
    const gt_status status = gt_pipeline_load(folder.c_str(), &options, &pipeline);
    std::string message = status ? gt_last_message() : gt_pipeline_description(pipeline);
    std::replace(message.begin(), message.end(), '\n', ' ');
    std::cout << gt_status_name(status) << '\t' << message << std::endl;
    gt_pipeline_free(pipeline);
  }
}
