// What only the double can tell of the TensorRT backend.
//
//   GARMENT_TRANSFER_REJECTED  a bundle with engines that TensorRT does not load

#include "double.h"

#include <gtest/gtest.h>

#include <thread>

#include "on_device.h"

namespace gt = garment_transfer;

namespace {

using cuda_double::counts;

// TensorRT logs for the whole process by the logger of the first pipeline.
TEST(Double, TheLoggerOutlivesPipelines) {
  gt::Options options;
  options.backend = "tensorrt";
  const std::string bundle = variable("GARMENT_TRANSFER_ENGINES");
  { const gt::Pipeline first(bundle, options); }
  const std::string rejected = variable("GARMENT_TRANSFER_REJECTED");
  try {
    gt::Pipeline second(rejected, options);
    FAIL();
  } catch (const gt::Error& error) {
    EXPECT_EQ(error.status(), GT_ENGINE_REJECTED);
    EXPECT_NE(std::string(error.what()).find("protobuf"), std::string::npos) << error.what();
  }
}

// Runs a case `rounds` times in a new session, while another thread synchronises the device in the
// first `broken` captures. Tells how often a stream began to capture, and graphs were launched.
std::pair<int, int> run_with_broken_captures(int broken, int rounds) {
  const Case one = golden_cases(pipeline().size()).front();
  counts = {};
  cuda_double::on_capture = [&] {
    if (counts.captures > broken) return;
    std::thread([] {
      EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorStreamCaptureUnsupported);
    }).join();
  };
  gt::Session session(pipeline());
  for (int round = 0; round < rounds; ++round) {
    EXPECT_EQ(differing(one, session.run(one.given(pipeline().size()))), "") << round;
  }
  cuda_double::on_capture = nullptr;
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);  // nobody else's call reports it
  return {counts.captures, counts.graph_launches};
}

TEST(Double, ABrokenCaptureIsTriedAgain) {
  EXPECT_EQ(run_with_broken_captures(0, 4), (std::pair{1, 4}));
  EXPECT_EQ(run_with_broken_captures(2, 4), (std::pair{3, 4}));
}

TEST(Double, WithoutAGraphTheSameIsLaunchedInPieces) {
  EXPECT_EQ(run_with_broken_captures(1000, 4), (std::pair{3, 0}));
}

TEST(Double, OnlyAddressesThatChangedAreBound) {
  const auto cases = golden_cases(pipeline().size());
  gt::Session session(pipeline());
  OnDevice work(cases[0]);
  work.enqueue(session);
  counts = {};
  work.enqueue(session);
  EXPECT_EQ(counts.bound, 0);
  gt_transfer other = work.transfer;
  void* memory = nullptr;
  check(cudaMalloc(&memory, cases[0].outputs[5].size()));
  other.flow_confidence.data = memory;
  session.run(other);
  EXPECT_EQ(counts.bound, 1);
  check(cudaStreamSynchronize(work.stream));
  check(cudaFree(memory));
  EXPECT_EQ(work.differing(), "");
}

}  // namespace
