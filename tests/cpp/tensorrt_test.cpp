// The TensorRT backend on a GPU, or on the double in double/: parity with Python, device pointers,
// two streams at once.
//
// The tiny bundle computes in small whole numbers, so every byte has to agree with what Python made
// of it on the CPU.
//
//   GARMENT_TRANSFER_SHIPPED  folders of the shipped bundle with engines that call the plugin,
//                             separated by colons; none where there is no plugin
//   GARMENT_TRANSFER_PLUGIN   its library
//   GARMENT_TRANSFER_PEOPLE   a case of the shipped bundle, as in golden.h

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <random>
#include <sstream>
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
      // the caller's addresses stay out of the graph
      EXPECT_EQ(differing(one, session.run(one.given(pipeline().size()))), "") << shift;
    }
  }
}

// Somebody of rectangles in a photo of twice the tiny bundle's size, with a garment down to a row.
gt::Person somebody(unsigned seed, int hem) {
  const int height = 128, width = 64;
  std::mt19937 random(seed);
  std::vector<std::uint8_t> image(3 * height * width), parsing(height * width), iuv(image.size());
  for (std::uint8_t& value : image) value = static_cast<std::uint8_t>(random() % 256);
  const auto draw = [&](int top, int bottom, int left, int right, int label, int part) {
    for (int y = top; y < bottom; ++y) {
      for (int x = left; x < right; ++x) {
        parsing[y * width + x] = static_cast<std::uint8_t>(label);
        iuv[3 * (y * width + x)] = static_cast<std::uint8_t>(part);
      }
    }
  };
  draw(8, 26, 24, 40, 2, 24);    // face
  draw(26, hem, 16, 48, 4, 2);   // garment
  draw(hem, 116, 16, 48, 5, 2);  // lower garment
  gt::PersonSource source;
  source.photo = {image.data(), height, width, 3, 0, nullptr};
  source.parsing = {parsing.data(), height, width, 1, 0, nullptr};
  source.densepose = {iuv.data(), height, width, 3, 0, nullptr};
  return gt::Person(source);
}

TEST(TensorRt, FinishedPhotosAreTheCpus) {
  const gt::Person person = somebody(1, 90), owner = somebody(2, 80);
  const gt::Pipeline cpu(variable("GARMENT_TRANSFER_ENGINES"), one_thread());
  const gt::Finished due = gt::Session(cpu).transfer(person, owner);
  gt::Session session(pipeline());
  for (int round = 0; round < 2; ++round) {
    const gt::Finished found = session.transfer(person, owner);
    EXPECT_EQ(found.transfer_parsing, due.transfer_parsing);
    int difference = 0;
    for (std::size_t i = 0; i < due.image.size(); ++i) {
      difference = std::max(difference, std::abs(found.image[i] - due.image[i]));
    }
    EXPECT_LE(difference, 1);
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

// As close to Python on a CPU as tests/gpu/test_chain.py asks of Python on a GPU.
void expect_close(const Case& expected, const gt::Result& found) {
  double squares = 0, other_labels = 0, pixels_of_flow = 0;
  for (std::size_t i = 0; i < found.image.size(); ++i) {
    squares += std::pow(found.image[i] - expected.outputs[0][i], 2);
  }
  for (std::size_t i = 0; i < found.transfer_parsing.size(); ++i) {
    other_labels += found.transfer_parsing[i] != expected.outputs[1][i];
  }
  std::vector<float> flow(found.flow.size());
  std::memcpy(flow.data(), expected.outputs[3].data(), flow.size() * sizeof(float));
  for (std::size_t i = 0; i < flow.size(); ++i) pixels_of_flow += std::abs(found.flow[i] - flow[i]);
  const auto mean = [](double sum, const auto& all) {
    return sum / static_cast<double>(all.size());
  };
  EXPECT_LE(mean(squares, found.image), 255 * 255 / 1e4);  // 40 dB
  EXPECT_LE(mean(other_labels, found.transfer_parsing), 0.002);
  EXPECT_LE(mean(pixels_of_flow, flow), 0.01);
}

TEST(TensorRt, ThePluginOutlivesPipelines) {
  std::istringstream folders(variable("GARMENT_TRANSFER_SHIPPED"));
  for (std::string folder; std::getline(folders, folder, ':');) {
    gt::Options options;
    options.backend = "tensorrt";
    options.flow_warp_library = variable("GARMENT_TRANSFER_PLUGIN");
    const gt::Pipeline first(folder, options);
    const Case one = read_case(variable("GARMENT_TRANSFER_PEOPLE"), first.size());
    { gt::Session(gt::Pipeline(folder, options)).run(one.given(first.size())); }
    expect_close(one, gt::Session(first).run(one.given(first.size())));
  }
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
