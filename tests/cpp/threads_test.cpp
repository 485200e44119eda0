// The thread contract, under ThreadSanitizer too.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "golden.h"

namespace gt = garment_transfer;

namespace {

constexpr int kThreads = 8;

// Without FlowWarp's kernel, whose memory ONNX Runtime hands from thread to thread in ways that
// ThreadSanitizer does not see; tests/kernels runs it under ThreadSanitizer by itself.
gt::Options one_graph_thread() {
  gt::Options options;
  options.threads = 1;
  options.use_flow_warp_library = false;
  return options;
}

template <typename Body>
void in_threads(int count, const Body& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
  for (auto& thread : threads) thread.join();
}

// What one thread makes of a case is golden in library_test.
TEST(Threads, SessionsOnASharedPipelineGiveWhatOneGives) {
  const gt::Pipeline pipeline(variable("GARMENT_TRANSFER_BUNDLE"), one_graph_thread());
  const gt::Size size = pipeline.size();
  auto cases = golden_cases(size);
  cases.resize(4);
  gt::Session alone(pipeline);
  std::vector<gt::Result> expected;
  for (const Case& one : cases) expected.push_back(alone.run(one.given(size)));
  std::atomic<int> equal{0};
  in_threads(kThreads, [&](int thread) {
    gt::Session session(pipeline);
    gt::Result result;  // its memory is used again
    for (std::size_t i = 0; i < 3; ++i) {
      const std::size_t at = (static_cast<std::size_t>(thread) + i) % cases.size();
      session.run(cases[at].given(size), result);
      equal += result.image == expected[at].image && result.flow == expected[at].flow &&
               result.transfer_parsing == expected[at].transfer_parsing &&
               result.warped_garment == expected[at].warped_garment &&
               result.transfer_scores == expected[at].transfer_scores &&
               result.flow_confidence == expected[at].flow_confidence;
    }
  });
  EXPECT_EQ(equal, 3 * kThreads);
}

TEST(Threads, LoadAndUnloadBesideEachOther) {
  const std::string bundle = variable("GARMENT_TRANSFER_TINY");
  std::atomic<int> loaded{0};
  in_threads(kThreads, [&](int) {
    for (int i = 0; i < 3; ++i) {
      const gt::Pipeline pipeline(bundle, one_graph_thread());
      const gt::Session session(pipeline);
      loaded += pipeline.size().height == 64;
    }
  });
  EXPECT_EQ(loaded, 3 * kThreads);
}

TEST(Threads, MessagesAreEachThreadsOwn) {
  std::atomic<int> right{0};
  in_threads(kThreads, [&](int thread) {
    for (int i = 0; i < 100; ++i) {
      const std::string path = "/nowhere/" + std::to_string(thread);
      gt_pipeline* pipeline = nullptr;
      gt_pipeline_load(path.c_str(), nullptr, &pipeline);
      right += std::string(gt_last_message()).find(path + " does not exist") == 0;
    }
  });
  EXPECT_EQ(right, 100 * kThreads);
}

TEST(Threads, ASessionRefusesASecondThread) {
  const gt::Pipeline pipeline(variable("GARMENT_TRANSFER_BUNDLE"), one_graph_thread());
  const Case one = golden_cases(pipeline.size()).front();
  const gt::Inputs inputs = one.given(pipeline.size());
  gt::Session session(pipeline);
  std::atomic<bool> refused{false};
  std::atomic<int> finished{0};
  // one thread runs until the other was refused, both as a run and as an attempt to free
  std::thread runner([&] {
    gt::Result result;
    while (!refused) {
      try {
        session.run(inputs, result);
        ++finished;
      } catch (const gt::Error& error) {
        EXPECT_EQ(error.status(), GT_SESSION_BUSY);
      }
    }
  });
  gt_transfer invalid{};
  gt_status status = GT_OK;
  do {
    status = gt_session_run(session.get(), &invalid);
    EXPECT_TRUE(status == GT_SESSION_BUSY || status == GT_ARGUMENT_INVALID);
    // or this thread would hold the session for most of the time
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  } while (status != GT_SESSION_BUSY);
  EXPECT_NE(std::string(gt_last_message()).find("create one session per worker"),
            std::string::npos);
  refused = true;
  runner.join();
  EXPECT_EQ(gt::Session(pipeline).run(inputs).image, session.run(inputs).image);
}

}  // namespace
