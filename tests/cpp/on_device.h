// What runs on a pipeline of backend `tensorrt` that reads and writes device memory.
//
//   GARMENT_TRANSFER_ENGINES  the tiny bundle with engines for this GPU

#pragma once

#include <cuda_runtime_api.h>

#include <array>

#include "golden.h"

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

inline const garment_transfer::Pipeline& pipeline() {
  static const garment_transfer::Pipeline loaded = [] {
    garment_transfer::Options options;
    options.backend = "tensorrt";
    return garment_transfer::Pipeline(variable("GARMENT_TRANSFER_ENGINES"), options);
  }();
  return loaded;
}

// Device memory of one case, and its transfer on a stream of its own. With a `shift`, every second
// input and output lies that many bytes beyond where CUDA put it.
class OnDevice {
 public:
  explicit OnDevice(const Case& one, std::size_t shift = 0) : case_(one), shift_(shift) {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    const garment_transfer::Size size = pipeline().size();
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
  void enqueue(garment_transfer::Session& session) {
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
    const std::size_t shift = allocated_.size() % 2 ? shift_ : 0;
    check(cudaMalloc(&memory, bytes + shift));
    allocated_.push_back(memory);
    return static_cast<std::uint8_t*>(memory) + shift;
  }

  Case case_;
  std::size_t shift_;
  std::vector<void*> allocated_;
};
