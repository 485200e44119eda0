// The TensorRT backend on a GPU, or on the double in double/: parity with Python, device pointers, two
// streams at once.
//
// The tiny bundle computes in small whole numbers, so every byte has to agree with what Python made of
// it on the CPU.

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "on_device.h"

namespace gt = garment_transfer;

namespace {

TEST(TensorRt, EqualsPythonByteForByte) {
  gt::Session session(pipeline());
  const auto cases = golden_cases(pipeline().size());
  ASSERT_GE(cases.size(), 3u);
  // buffers are used again and graphs replayed, with other batch sizes between
  for (int round = 0; round < 3; ++round) {
    for (const auto& one : cases) {
      EXPECT_EQ(differing(one, session.run(one.given(pipeline().size()))), "")
          << one.name << ", round " << round;
    }
  }
}

// TensorRT takes addresses that are multiples of 256, with which the others are mixed here.
TEST(TensorRt, DevicePointersOnTheCallersStream) {
  gt::Session session(pipeline());
  for (const std::size_t shift : {0, 4, 128}) {
    for (const auto& one : golden_cases(pipeline().size())) {
      OnDevice work(one, shift);
      for (int round = 0; round < 3; ++round) {
        work.enqueue(session);
        EXPECT_EQ(work.differing(), "") << "shift " << shift << ", round " << round;
      }
    }
  }
}

TEST(TensorRt, TimesOfParts) {
  gt::Session session(pipeline());
  const Case one = golden_cases(pipeline().size()).front();
  const auto graphs_took = [](const gt_times& times) {
    return times.parsing > 0 && times.warping > 0 && times.regrowth > 0;
  };
  for (int round = 0; round < 3; ++round) {  // a graph replayed, and without times between
    gt::Result result;
    gt_times times{};
    session.run(one.given(pipeline().size()), result, &times);
    EXPECT_EQ(differing(one, result), "") << round;
    EXPECT_TRUE(times.upload > 0 && graphs_took(times) && times.download > 0) << round;
    EXPECT_EQ(differing(one, session.run(one.given(pipeline().size()))), "") << round;
  }
  gt_times times{sizeof times, 0, 0, 0, 0, 0};
  OnDevice work(one);
  work.transfer.times = &times;
  work.enqueue(session);
  EXPECT_TRUE(graphs_took(times));
  EXPECT_EQ(work.differing(), "");
}

// A thread that synchronises the device breaks captures; it may fail, and no run may.
TEST(TensorRt, OtherThreadsSynchronise) {
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) cudaDeviceSynchronize();
  });
  gt::Session session(pipeline());
  std::string found;
  for (const auto& one : golden_cases(pipeline().size())) {
    found += differing(one, session.run(one.given(pipeline().size())));
  }
  done = true;
  other.join();
  EXPECT_EQ(found, "");
}

// Runs of two cases on two streams, by turns.
void expect_both(gt::Session& one, gt::Session& other) {
  const auto cases = golden_cases(pipeline().size());
  ASSERT_GE(cases.size(), 2u);
  OnDevice first(cases[0]), second(cases[1]);
  for (int round = 0; round < 50; ++round) {
    first.enqueue(one);
    second.enqueue(other);
  }
  EXPECT_EQ(first.differing(), "");
  EXPECT_EQ(second.differing(), "");
}

TEST(TensorRt, TwoStreamsAtOnce) {
  gt::Session one(pipeline()), other(pipeline());
  expect_both(one, other);
}

TEST(TensorRt, OneSessionOnTwoStreams) {
  gt::Session session(pipeline());
  expect_both(session, session);
}

TEST(TensorRt, HostMemoryIsNoDeviceMemory) {
  const Case one = golden_cases(pipeline().size()).front();
  OnDevice work(one);
  work.transfer.garment_image.data = one.inputs[3].data();
  gt::Session session(pipeline());
  EXPECT_EQ(gt_session_run(session.get(), &work.transfer), GT_ARRAY_INVALID);
  EXPECT_EQ(std::string(gt_last_message()).find("garment_image.data is host memory; expected"), 0u)
      << gt_last_message();
}

}  // namespace
