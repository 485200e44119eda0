// The thread contract, under ThreadSanitizer too.

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "golden.h"

namespace gt = garment_transfer;

namespace {

constexpr int kThreads = 8;

template <typename Body>
void in_threads(int count, const Body& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
  for (auto& thread : threads) thread.join();
}

TEST(Threads, SessionsOnASharedPipelineEqualPython) {
  const gt::Pipeline pipeline(variable("GARMENT_TRANSFER_BUNDLE"), one_thread());
  const auto cases = golden_cases(pipeline.size());
  std::vector<std::string> wrong(kThreads);
  in_threads(kThreads, [&](int thread) {
    gt::Session session(pipeline);
    gt::Result result;  // its memory is used again
    for (std::size_t i = 0; i < 4; ++i) {
      const Case& one = cases[(static_cast<std::size_t>(thread) * 4 + i) % cases.size()];
      session.run(one.given(pipeline.size()), result);
      if (const auto name = differing(one, result); !name.empty()) {
        wrong[static_cast<std::size_t>(thread)] += one.name + "/" + name + " ";
      }
    }
  });
  for (const auto& text : wrong) EXPECT_EQ(text, "");
}

TEST(Threads, LoadAndUnloadBesideEachOther) {
  const std::string bundle = variable("GARMENT_TRANSFER_TINY");
  std::atomic<int> loaded{0};
  in_threads(kThreads, [&](int) {
    for (int i = 0; i < 3; ++i) {
      const gt::Pipeline pipeline(bundle, one_thread());
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
  const gt::Pipeline pipeline(variable("GARMENT_TRANSFER_BUNDLE"), one_thread());
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
    EXPECT_TRUE(status == GT_SESSION_BUSY || status == GT_INVALID_ARGUMENT);
  } while (status != GT_SESSION_BUSY);
  EXPECT_NE(std::string(gt_last_message()).find("create one session per worker"),
            std::string::npos);
  refused = true;
  runner.join();
  EXPECT_EQ(differing(one, session.run(inputs)), "");
}

}  // namespace
