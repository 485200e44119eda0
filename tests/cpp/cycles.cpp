// cycles BUNDLE COUNT: loads a bundle, runs nothing but makes a session, frees both, COUNT times;
// prints the resident memory in kB after the first tenth and at the end, as JSON.

#include <malloc.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <garment_transfer/garment_transfer.hpp>
#include <iostream>

namespace gt = garment_transfer;

static long resident_kb() {
  malloc_trim(0);
  long pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "cycles BUNDLE COUNT\n";
    return 2;
  }
  const int count = std::atoi(argv[2]);
  long early = 0;
  for (int i = 0; i < count; ++i) {
    const gt::Pipeline pipeline(argv[1]);
    const gt::Session session(pipeline);
    if (i == count / 10) early = resident_kb();
  }
  std::cout << "{\"cycles\": " << count << ", \"resident_kb_after_a_tenth\": " << early
            << ", \"resident_kb_at_the_end\": " << resident_kb() << "}\n";
}
