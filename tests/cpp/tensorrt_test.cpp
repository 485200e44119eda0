// The TensorRT backend on a GPU: parity with Python, device pointers, two streams at once.
//
//   GARMENT_TRANSFER_ENGINES  the tiny bundle with engines for this GPU
//
// It computes in integers, so every byte has to agree with what Python made of it on the CPU.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <array>

#include "golden.h"

namespace gt = garment_transfer;

namespace {

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

const gt::Pipeline& pipeline() {
  static const gt::Pipeline loaded = [] {
    gt::Options options;
    options.backend = "tensorrt";
    return gt::Pipeline(variable("GARMENT_TRANSFER_ENGINES"), options);
  }();
  return loaded;
}

// Device memory of one case, and its transfer on a stream of its own.
class OnDevice {
 public:
  explicit OnDevice(const Case& one) : case_(one) {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    const gt::Size size = pipeline().size();
    transfer.struct_size = sizeof transfer;
    transfer.batch = one.batch;
    transfer.memory = GT_DEVICE;
    transfer.stream = stream;
    for (std::size_t i = 0; i < inputs().size(); ++i) {
      *inputs()[i] = {allocate(one.inputs[i].size()), size.height, size.width, 0, 0};
    }
    for (std::size_t i = 0; i < outputs().size(); ++i) {
      *outputs()[i] = {allocate(one.outputs[i].size()), one.outputs[i].size()};
    }
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    cudaStreamSynchronize(stream);
    for (void* memory : allocated_) cudaFree(memory);
    cudaStreamDestroy(stream);
  }

  // Spoils inputs and outputs, then puts the inputs' copies and the run on the stream.
  void enqueue(gt::Session& session) {
    for (std::size_t i = 0; i < outputs().size(); ++i) {
      check(cudaMemsetAsync(outputs()[i]->data, 0xEE, outputs()[i]->capacity, stream));
    }
    for (std::size_t i = 0; i < inputs().size(); ++i) {
      void* data = const_cast<void*>(inputs()[i]->data);
      const auto& bytes = case_.inputs[i];
      check(cudaMemsetAsync(data, 0xEE, bytes.size(), stream));
      check(cudaMemcpyAsync(data, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream));
    }
    session.run(transfer);
  }

  // The first output that differs from Python's, once the stream has come past the run.
  std::string differing() {
    check(cudaStreamSynchronize(stream));
    for (std::size_t i = 0; i < outputs().size(); ++i) {
      std::vector<std::uint8_t> found(case_.outputs[i].size());
      check(cudaMemcpy(found.data(), outputs()[i]->data, found.size(), cudaMemcpyDeviceToHost));
      if (found != case_.outputs[i]) return "output " + std::to_string(i) + " of " + case_.name;
    }
    return "";
  }

  std::array<gt_input*, 6> inputs() {
    return {&transfer.person_image,  &transfer.person_parsing,  &transfer.person_densepose,
            &transfer.garment_image, &transfer.garment_parsing, &transfer.garment_densepose};
  }
  std::array<gt_output*, 6> outputs() {
    return {&transfer.image, &transfer.transfer_parsing, &transfer.warped_garment,
            &transfer.flow,  &transfer.transfer_scores,  &transfer.flow_confidence};
  }

  gt_transfer transfer{};
  cudaStream_t stream = nullptr;

 private:
  void* allocate(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes));
    allocated_.push_back(memory);
    return memory;
  }

  Case case_;
  std::vector<void*> allocated_;
};

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

TEST(TensorRt, DevicePointersOnTheCallersStream) {
  gt::Session session(pipeline());
  for (const auto& one : golden_cases(pipeline().size())) {
    OnDevice work(one);
    for (int round = 0; round < 3; ++round) {
      work.enqueue(session);
      EXPECT_EQ(work.differing(), "") << "round " << round;
    }
  }
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
