// latency BUNDLE CASE THREADS KERNEL ROUNDS HEIGHT WIDTH: the times of calls in milliseconds, as
// JSON. Each round makes each call untimed and then timed, so that whatever else the machine does
// hits all alike. CASE is a folder as in golden.h with photos of two people of HEIGHT and WIDTH, KERNEL
// the library of FlowWarp's kernel for the bare sessions.
// benchmarks/cpp.py starts it.
//
//   library    gt_session_run
//   parsing, warping, regrowth   the parts of it that it reports
//   networks   the three graphs in bare ONNX Runtime sessions on ready tensors
//   overhead   library less networks of the same round
//   load       gt_pipeline_load and free
//   photo      two gt_person_create and gt_session_transfer: from pixels and maps to the finished
//   photo

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <chrono>
#include <iostream>
#include <map>

#include "golden.h"

namespace gt = garment_transfer;

namespace {

// The graphs as they stand in the bundle; inputs and outputs are looked up by name once.
class Networks {
 public:
  Networks(const std::string& bundle, const Case& one, gt::Size size, int threads,
           const char* kernel) {
    Ort::SessionOptions options;
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    options.SetIntraOpNumThreads(threads);
    options.RegisterCustomOpsLibrary(kernel);
    const char* inputs[] = {"person_image",  "person_parsing",  "person_densepose",
                            "garment_image", "garment_parsing", "garment_densepose"};
    for (std::size_t i = 0; i < 6; ++i) memory_[inputs[i]] = one.inputs[i];
    const std::size_t pixels = static_cast<std::size_t>(size.height * size.width);
    memory_["transfer_parsing"].resize(pixels);
    memory_["warped_garment"].resize(3 * pixels);
    memory_["image"].resize(3 * pixels);
    memory_["flow"].resize(8 * pixels);
    memory_["transfer_scores"].resize(4 * pixels);
    memory_["flow_confidence"].resize(pixels);
    Ort::AllocatorWithDefaultOptions allocator;
    const auto place = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto value = [&](const std::string& name) {
      std::vector<std::int64_t> shape = {1, size.height, size.width, 3};
      if (name == "flow") shape = {1, 2, size.height, size.width};
      if (name == "transfer_scores") shape.back() = 4;
      if (name.find("parsing") != std::string::npos || name == "flow_confidence") shape.pop_back();
      auto& bytes = memory_.at(name);
      return Ort::Value::CreateTensor(place, bytes.data(), bytes.size(), shape.data(), shape.size(),
                                      name == "flow" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                                                     : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
    };
    for (const char* stage : {"parsing", "warping", "regrowth"}) {
      Stage made{
          Ort::Session(env_, (bundle + "/" + stage + ".onnx").c_str(), options), {}, {}, {}, {}};
      for (std::size_t i = 0; i < made.session.GetInputCount(); ++i) {
        made.input_names.push_back(made.session.GetInputNameAllocated(i, allocator).get());
        made.inputs.push_back(value(made.input_names.back()));
      }
      for (std::size_t i = 0; i < made.session.GetOutputCount(); ++i) {
        made.output_names.push_back(made.session.GetOutputNameAllocated(i, allocator).get());
        made.outputs.push_back(value(made.output_names.back()));
      }
      stages_.push_back(std::move(made));
    }
  }

  void run() {
    for (auto& stage : stages_) {
      std::vector<const char*> inputs, outputs;
      for (const auto& name : stage.input_names) inputs.push_back(name.c_str());
      for (const auto& name : stage.output_names) outputs.push_back(name.c_str());
      stage.session.Run(Ort::RunOptions{nullptr}, inputs.data(), stage.inputs.data(), inputs.size(),
                        outputs.data(), stage.outputs.data(), outputs.size());
    }
  }

  const std::vector<std::uint8_t>& image() { return memory_.at("image"); }

 private:
  struct Stage {
    Ort::Session session;
    std::vector<std::string> input_names, output_names;
    std::vector<Ort::Value> inputs, outputs;
  };
  Ort::Env env_{ORT_LOGGING_LEVEL_ERROR, "latency"};
  std::map<std::string, std::vector<std::uint8_t>> memory_;
  std::vector<Stage> stages_;
};

// A photo and its maps.
struct Photographed {
  std::vector<std::uint8_t> image, parsing, densepose;
  gt::PersonSource source;

  Photographed(const std::filesystem::path& folder, const std::string& role, int height, int width)
      : image(bytes_of(folder / (role + "image"))),
        parsing(bytes_of(folder / (role + "parsing"))),
        densepose(bytes_of(folder / (role + "densepose"))) {
    source.photo = {image.data(), height, width, 3, 0, nullptr};
    source.parsing = {parsing.data(), height, width, 1, 0, nullptr};
    source.densepose = {densepose.data(), height, width, 3, 0, nullptr};
  }
};

// Milliseconds of a call, after one that is not timed.
template <typename Call>
double timed(const Call& call) {
  call();
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) {
    std::cerr << "latency BUNDLE CASE THREADS KERNEL ROUNDS HEIGHT WIDTH\n";
    return 2;
  }
  Ort::InitApi(OrtGetApiBase()->GetApi(ORT_API_VERSION));
  gt::Options options;
  options.threads = std::atoi(argv[3]);
  options.flow_warp_library = argv[4];
  const gt::Pipeline pipeline(argv[1], options);
  const gt::Size size = pipeline.size();
  const Case one = read_case(argv[2], size);
  gt::Session session(pipeline);
  gt::Result result;

  const gt::Inputs dense = one.given(size);
  Networks networks(argv[1], one, size, options.threads, argv[4]);
  session.run(dense, result);
  networks.run();
  if (result.image != networks.image() || !differing(one, result).empty()) {
    std::cerr << "the library, the bare sessions and Python differ\n";
    return 1;
  }
  std::vector<Photographed> people;
  for (const char* role : {"photo_person_", "photo_garment_"}) {
    people.emplace_back(argv[2], role, std::atoi(argv[6]), std::atoi(argv[7]));
  }
  gt::Finished finished;
  std::map<std::string, std::vector<double>> times;
  for (int round = 0; round < std::atoi(argv[5]); ++round) {
    gt_times parts{};
    const double library = timed([&] { session.run(dense, result, &parts); });
    const double bare = timed([&] { networks.run(); });
    times["library"].push_back(library);
    times["networks"].push_back(bare);
    times["parsing"].push_back(parts.parsing);
    times["warping"].push_back(parts.warping);
    times["regrowth"].push_back(parts.regrowth);
    times["overhead"].push_back(library - bare);
    times["photo"].push_back(timed([&] {
      finished = session.transfer(gt::Person(people[0].source), gt::Person(people[1].source),
                                  options.threads);
    }));
    times["load"].push_back(timed([&] { gt::Pipeline(argv[1], options); }));
  }
  if (finished.image != bytes_of(std::filesystem::path(argv[2]) / "photo")) {
    std::cerr << "the library's photo and Python's differ\n";
    return 1;
  }
  const char* separator = "{";
  for (auto& [name, values] : times) {
    std::sort(values.begin(), values.end());
    std::cout << separator << '"' << name << "\": " << values[values.size() / 2];
    separator = ", ";
  }
  std::cout << "}\n";
}
