// The TensorRT plugin without TensorRT's library and without a GPU: what its methods answer to
// descriptors made by hand. Exits with 1 where something is not as expected.

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tensorrt/flow_warp_plugin.h"

extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);

namespace {

using garment_transfer::FlowWarpPlugin;
using garment_transfer::FlowWarpPluginCreator;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IDimensionExpr;
using nvinfer1::IPluginV3;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

int checks = 0, failures = 0;

void check(bool holds, const char* expression, int line) {
  ++checks;
  if (holds) return;
  ++failures;
  std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, line, expression);
}
#define CHECK(expression) check(static_cast<bool>(expression), #expression, __LINE__)

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    CHECK(severity == Severity::kERROR);
    last = text;
  }
  // Whether the last message holds all of `parts`; forgets it, so that no check reads an old one.
  bool said(const std::vector<std::string>& parts) {
    const std::string text = std::exchange(last, "");
    for (const std::string& part : parts) {
      if (text.find(part) != std::string::npos) continue;
      std::fprintf(stderr, "message '%s' lacks '%s'\n", text.c_str(), part.c_str());
      return false;
    }
    return true;
  }
  bool silent() const { return last.empty(); }

 private:
  std::string last;
};

class Finder final : public nvinfer1::ILoggerFinder {
 public:
  explicit Finder(Logger* logger) : logger_(logger) {}
  nvinfer1::ILogger* findLogger() override {
    if (logger_ == nullptr) throw std::runtime_error("no logger on this thread");
    return logger_;
  }

 private:
  Logger* logger_;
};

Logger logger;

// The expressions of TensorRT's builder, as far as a plugin sees them.
class Expression final : public nvinfer1::apiv::VDimensionExpr, public IDimensionExpr {
 public:
  explicit Expression(int64_t value) : value_(value) { mImpl = this; }
  bool isConstant() const override { return value_ >= 0; }
  int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }

 private:
  int64_t value_;
};

class ExpressionBuilder final : public nvinfer1::apiv::VExprBuilder, public nvinfer1::IExprBuilder {
 public:
  ExpressionBuilder() { mImpl = this; }
  const IDimensionExpr* constant(int64_t value) override {
    made_.push_back(std::make_unique<Expression>(value));
    return made_.back().get();
  }
  const IDimensionExpr* operation(nvinfer1::DimensionOperation, const IDimensionExpr&,
                                  const IDimensionExpr&) override {
    return nullptr;
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&,
                                          const IDimensionExpr&) override {
    return nullptr;
  }

 private:
  std::vector<std::unique_ptr<Expression>> made_;
};

constexpr DataType kTypes[] = {
    DataType::kFLOAT, DataType::kHALF, DataType::kINT8, DataType::kINT32, DataType::kBOOL,
    DataType::kUINT8, DataType::kFP8,  DataType::kBF16, DataType::kINT64, DataType::kINT4};
constexpr int kFormats = 13;  // of TensorFormat: 0 to 12

// The layer's tensors in the order of TensorRT: x, coarse_flow, residual, affine, y, flow.
struct Layer {
  PluginTensorDesc tensor[6];

  explicit Layer(DataType type = DataType::kFLOAT, TensorFormat format = TensorFormat::kLINEAR) {
    const Dims shape[6] = {{4, {2, 5, 8, 6}}, {4, {2, 2, 4, 3}}, {4, {2, 2, 8, 6}},
                           {3, {2, 2, 3}},    {4, {2, 5, 8, 6}}, {4, {2, 2, 8, 6}}};
    for (int i = 0; i < 6; ++i) {
      const bool like_x = i == 0 || i == 4;
      tensor[i] = {shape[i], like_x ? type : DataType::kFLOAT,
                   like_x ? format : TensorFormat::kLINEAR, -1.0f};
    }
  }
  void batch(int64_t n) {
    for (PluginTensorDesc& t : tensor) t.dims.d[0] = n;
  }
  int32_t changed(FlowWarpPlugin& plugin) const {
    return plugin.onShapeChange(tensor, 4, tensor + 4, 2);
  }
  int32_t configured(FlowWarpPlugin& plugin) const {
    DynamicPluginTensorDesc dynamic[6] = {};
    for (int i = 0; i < 6; ++i) dynamic[i].desc = tensor[i];
    return plugin.configurePlugin(dynamic, 4, dynamic + 4, 2);
  }
};

using Plugin = std::unique_ptr<IPluginV3>;

Plugin create(const std::vector<PluginField>& fields, TensorRTPhase phase = TensorRTPhase::kBUILD) {
  FlowWarpPluginCreator creator;
  const PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  return Plugin(creator.createPlugin("a node", &collection, phase));
}

PluginField padding(const char* text, int32_t length) {
  return {"padding", text, PluginFieldType::kCHAR, length};
}

nvinfer1::IPluginV3OneBuild& build(IPluginV3& plugin) {
  return static_cast<nvinfer1::IPluginV3OneBuild&>(
      *plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
}
nvinfer1::IPluginV3OneRuntime& runtime(IPluginV3& plugin) {
  return static_cast<nvinfer1::IPluginV3OneRuntime&>(
      *plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}
std::string timing_id(const Plugin& plugin) {
  return plugin == nullptr ? "no plugin" : build(*plugin).getTimingCacheID();
}

void test_names() {
  FlowWarpPluginCreator creator;
  FlowWarpPlugin plugin(garment_transfer::Padding::kZeros);
  auto* core = static_cast<nvinfer1::IPluginV3OneCore*>(
      plugin.getCapabilityInterface(PluginCapabilityType::kCORE));
  CHECK(core->getPluginName() == std::string("FlowWarp"));
  CHECK(core->getPluginVersion() == std::string("1"));
  CHECK(core->getPluginNamespace() == std::string(""));
  CHECK(creator.getPluginName() == std::string("FlowWarp"));
  CHECK(creator.getPluginVersion() == std::string("1"));
  CHECK(creator.getPluginNamespace() == std::string(""));
  // the interfaces that TensorRT recognises them by
  CHECK(creator.getInterfaceInfo().kind == std::string("PLUGIN CREATOR_V3ONE"));
  CHECK(core->getInterfaceInfo().kind == std::string("PLUGIN_V3ONE_CORE"));
  CHECK(build(plugin).getInterfaceInfo().kind == std::string("PLUGIN_V3ONE_BUILD"));
  CHECK(runtime(plugin).getInterfaceInfo().kind == std::string("PLUGIN_V3ONE_RUNTIME"));
  CHECK(build(plugin).getMetadataString() == std::string("padding=zeros"));
  CHECK(plugin.getCapabilityInterface(static_cast<PluginCapabilityType>(7)) == nullptr);
  CHECK(logger.said({"capability 7"}));
}

void test_output_types() {
  FlowWarpPlugin plugin(garment_transfer::Padding::kZeros);
  CHECK(plugin.getNbOutputs() == 2);
  for (const DataType type : kTypes) {
    const DataType in[4] = {type, DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT};
    DataType out[2] = {DataType::kINT4, DataType::kINT4};
    const bool wanted =
        type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
    CHECK((plugin.getOutputDataTypes(out, 2, in, 4) == 0) == wanted);
    if (wanted) {
      CHECK(logger.silent());
      CHECK(out[0] == type && out[1] == DataType::kFLOAT);
    } else {
      CHECK(logger.said({"x is", "expected float32, float16 or bfloat16"}));
    }
  }
  const char* const names[4] = {"x", "coarse_flow", "residual", "affine"};
  for (int i = 1; i < 4; ++i) {
    DataType in[4] = {DataType::kHALF, DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT};
    DataType out[2];
    in[i] = DataType::kHALF;
    CHECK(plugin.getOutputDataTypes(out, 2, in, 4) != 0);
    CHECK(logger.said({names[i], "is float16", "expected float32"}));
  }
  const DataType in[5] = {};
  DataType out[2];
  CHECK(plugin.getOutputDataTypes(out, 2, in, 5) != 0);
  CHECK(logger.said({"5 inputs", "expected 4"}));
  CHECK(plugin.getOutputDataTypes(out, 1, in, 4) != 0);
  CHECK(logger.said({"1 outputs", "2 (y, flow)"}));
}

void test_formats() {
  FlowWarpPlugin plugin(garment_transfer::Padding::kBorder);
  const auto asks = [&](int position, DataType type, int format, const Layer& before) {
    // what lies past the position is not to be read: the answer is the same whatever it is
    bool answer[2];
    for (int fill = 0; fill < 2; ++fill) {
      DynamicPluginTensorDesc tensor[6] = {};
      for (int i = 0; i < 6; ++i) {
        tensor[i].desc = before.tensor[i];
        if (i <= position) continue;
        tensor[i].desc.type = fill == 0 ? DataType::kINT32 : DataType::kFLOAT;
        tensor[i].desc.format = fill == 0 ? TensorFormat::kCHW32 : TensorFormat::kLINEAR;
      }
      tensor[position].desc.type = type;
      tensor[position].desc.format = static_cast<TensorFormat>(format);
      answer[fill] = plugin.supportsFormatCombination(position, tensor, 4, 2);
    }
    CHECK(answer[0] == answer[1]);
    return answer[0];
  };
  int combinations = 0;
  for (const DataType x : kTypes) {
    for (int x_format = 0; x_format < kFormats; ++x_format) {
      const bool half = x == DataType::kHALF || x == DataType::kBF16;
      const bool wanted = (x_format == 0 && (half || x == DataType::kFLOAT)) ||
                          (x_format == 2 && half);  // 0 is kLINEAR, 2 kHWC8
      CHECK(asks(0, x, x_format, Layer()) == wanted);
      if (!wanted) continue;
      ++combinations;
      const Layer layer(x, static_cast<TensorFormat>(x_format));
      for (int position = 1; position < 6; ++position) {
        for (const DataType type : kTypes) {
          for (int format = 0; format < kFormats; ++format) {
            const bool same = position == 4 ? type == x && format == x_format
                                            : type == DataType::kFLOAT && format == 0;
            CHECK(asks(position, type, format, layer) == same);
          }
        }
      }
    }
  }
  CHECK(combinations == 5);
  DynamicPluginTensorDesc tensor[6] = {};
  for (int i = 0; i < 6; ++i) tensor[i].desc = Layer().tensor[i];
  CHECK(!plugin.supportsFormatCombination(0, tensor, 3, 2));
  CHECK(!plugin.supportsFormatCombination(0, tensor, 4, 1));
  CHECK(!plugin.supportsFormatCombination(6, tensor, 4, 2));
  CHECK(!plugin.supportsFormatCombination(-1, tensor, 4, 2));
  CHECK(logger.silent());  // a question of the builder, not an error
}

void test_output_shapes() {
  FlowWarpPlugin plugin(garment_transfer::Padding::kZeros);
  ExpressionBuilder builder;
  // the batch is dynamic: a negative value stands for what is no constant
  const IDimensionExpr* n = builder.constant(-1);
  const IDimensionExpr *c = builder.constant(64), *h = builder.constant(8),
                       *w = builder.constant(6), *two = builder.constant(2),
                       *three = builder.constant(3);
  const IDimensionExpr *half_h = builder.constant(4), *half_w = builder.constant(3);
  DimsExprs in[4] = {
      {4, {n, c, h, w}}, {4, {n, two, half_h, half_w}}, {4, {n, two, h, w}}, {3, {n, two, three}}};
  DimsExprs out[2] = {};
  CHECK(plugin.getOutputShapes(in, 4, nullptr, 0, out, 2, builder) == 0);
  CHECK(logger.silent());
  CHECK(out[0].nbDims == 4 && out[1].nbDims == 4);
  for (int i = 0; i < 4; ++i) CHECK(out[0].d[i] == in[0].d[i]);
  CHECK(out[1].d[0] == n && out[1].d[2] == h && out[1].d[3] == w);
  CHECK(out[1].d[1]->isConstant() && out[1].d[1]->getConstantValue() == 2);
  CHECK(!out[0].d[0]->isConstant());

  CHECK(plugin.getOutputShapes(in, 3, nullptr, 0, out, 2, builder) != 0);
  CHECK(logger.said({"3 inputs", "expected 4 (x, coarse_flow, residual, affine)"}));
  CHECK(plugin.getOutputShapes(in, 4, in, 1, out, 2, builder) != 0);
  CHECK(logger.said({"1 inputs are shape tensors", "expected none"}));
  const char* const names[4] = {"x", "coarse_flow", "residual", "affine"};
  for (int i = 0; i < 4; ++i) {
    const int32_t right = std::exchange(in[i].nbDims, 5);
    CHECK(plugin.getOutputShapes(in, 4, nullptr, 0, out, 2, builder) != 0);
    CHECK(logger.said({names[i], "has 5 dimensions", i == 3 ? "expected 3" : "expected 4"}));
    in[i].nbDims = right;
  }
}

void test_creation() {
  FlowWarpPluginCreator creator;
  const PluginFieldCollection& names = *creator.getFieldNames();
  CHECK(names.nbFields == 1);
  CHECK(names.fields[0].name == std::string("padding"));
  CHECK(names.fields[0].type == PluginFieldType::kCHAR);

  // the ONNX parser counts the terminating 0; who fills the field by hand may not
  CHECK(timing_id(create({padding("zeros", 5)})) == "padding=zeros");
  CHECK(timing_id(create({padding("zeros", 6)})) == "padding=zeros");
  CHECK(timing_id(create({padding("border", 6)})) == "padding=border");
  CHECK(timing_id(create({padding("border", 7)})) == "padding=border");
  // an ONNX node that leaves it out means the operator's default
  CHECK(timing_id(create({})) == "padding=zeros");
  CHECK(timing_id(Plugin(creator.createPlugin("a node", nullptr, TensorRTPhase::kBUILD))) ==
        "padding=zeros");
  CHECK(logger.silent());

  CHECK(create({padding("reflection", 11)}) == nullptr);
  CHECK(logger.said({"FlowWarp: ", "padding is 'reflection'", "expected 'zeros' or 'border'"}));
  CHECK(create({padding("zero", 4)}) == nullptr);
  CHECK(logger.said({"padding is 'zero';"}));
  CHECK(create({padding("", 0)}) == nullptr);
  CHECK(logger.said({"padding is '';"}));
  CHECK(create({padding(std::string(4000, 'z').c_str(), 4000)}) == nullptr);
  CHECK(logger.said({"padding is 'zzz"}));
  CHECK(create({padding(nullptr, 5)}) == nullptr);
  CHECK(logger.said({"expected a string"}));
  CHECK(create({padding("zeros", -5)}) == nullptr);
  CHECK(logger.said({"-5 entries", "expected a string"}));
  const int32_t one = 1;
  CHECK(create({PluginField("padding", &one, PluginFieldType::kINT32, 1)}) == nullptr);
  CHECK(logger.said({"attribute 'padding' is a field of type 5", "expected a string"}));
  CHECK(create({padding("zeros", 5), PluginField("mode", "x", PluginFieldType::kCHAR, 1)}) ==
        nullptr);
  CHECK(logger.said({"unknown attribute 'mode'", "expected 'padding'"}));
  CHECK(create({PluginField()}) == nullptr);
  CHECK(logger.said({"unknown attribute ''"}));
}

void test_serialisation() {
  for (const char* text : {"zeros", "border"}) {
    Plugin plugin = create({padding(text, static_cast<int32_t>(std::strlen(text)))});
    const std::string id = timing_id(plugin);
    // TensorRT keeps bytes in the engine, not our pointers
    const PluginFieldCollection& fields = *runtime(*plugin).getFieldsToSerialize();
    CHECK(fields.nbFields == 1);
    const std::string name = fields.fields[0].name;
    const std::string data(static_cast<const char*>(fields.fields[0].data),
                           fields.fields[0].length);
    const PluginFieldType type = fields.fields[0].type;
    plugin.reset();
    const Plugin again =
        create({PluginField(name.c_str(), data.data(), type, static_cast<int32_t>(data.size()))},
               TensorRTPhase::kRUNTIME);
    CHECK(timing_id(again) == id);
    CHECK(id == std::string("padding=") + text);
  }
  CHECK(logger.silent());
  CHECK(create({}, TensorRTPhase::kRUNTIME) == nullptr);
  CHECK(logger.said({"no attributes", "expected 'padding'", "build the engine again"}));
}

void test_clone() {
  Plugin plugin = create({padding("border", 6)});
  Plugin copies[3];
  copies[0].reset(plugin->clone());
  copies[1].reset(runtime(*plugin).attachToContext(nullptr));
  copies[2].reset(copies[1]->clone());
  CHECK(copies[0].get() != plugin.get() && copies[1].get() != plugin.get());
  plugin.reset();  // a copy outlives what it was copied from
  for (const Plugin& copy : copies) {
    CHECK(timing_id(copy) == "padding=border");
    CHECK(copy->getCapabilityInterface(PluginCapabilityType::kCORE) != nullptr);
    const PluginField& field = runtime(*copy).getFieldsToSerialize()->fields[0];
    CHECK(std::string(static_cast<const char*>(field.data), field.length) == "border");
    CHECK(runtime(*copy).setTactic(0) == 0);
  }
}

void test_descriptors() {
  FlowWarpPlugin plugin(garment_transfer::Padding::kZeros);
  const std::pair<DataType, TensorFormat> right[] = {{DataType::kFLOAT, TensorFormat::kLINEAR},
                                                     {DataType::kHALF, TensorFormat::kLINEAR},
                                                     {DataType::kBF16, TensorFormat::kLINEAR},
                                                     {DataType::kHALF, TensorFormat::kHWC8},
                                                     {DataType::kBF16, TensorFormat::kHWC8}};
  for (const auto& [type, format] : right) {
    Layer layer(type, format);
    CHECK(layer.changed(plugin) == 0);
    CHECK(layer.configured(plugin) == 0);
    layer.batch(0);
    CHECK(layer.changed(plugin) == 0);
    // what is not known yet is not held against the layer
    layer.batch(-1);
    CHECK(layer.configured(plugin) == 0);
    for (PluginTensorDesc& t : layer.tensor) {
      for (int i = 0; i < t.dims.nbDims; ++i) t.dims.d[i] = -1;
    }
    CHECK(layer.configured(plugin) == 0);
  }
  CHECK(logger.silent());

  struct Wrong {
    int tensor, dimension;  // dimension -1: the rank
    int64_t value;
    std::vector<std::string> message;
  };
  const Wrong wrongs[] = {
      {0, -1, 3, {"x has shape [2,5,8]", "expected four dimensions"}},
      {0, 2, 7, {"x has shape [2,5,7,6]", "even height and an even width"}},
      {0, 3, 5, {"x has shape [2,5,8,5]", "even"}},
      {0, 0, 65536, {"batch of at most 65535"}},
      {0, 2, int64_t{1} << 40, {"2^30 pixels"}},
      {0, 2, int64_t{1} << 28, {"2^30 pixels"}},
      {1, 2, 5, {"coarse_flow has shape [2,2,5,3]", "expected [2,2,4,3]", "x of shape [2,5,8,6]"}},
      {1, 3, 6, {"coarse_flow has shape [2,2,4,6]", "expected [2,2,4,3]"}},
      {1, 1, 1, {"coarse_flow has shape [2,1,4,3]"}},
      {1, 0, 1, {"coarse_flow has shape [1,2,4,3]"}},
      {1, -1, 3, {"coarse_flow has shape [2,2,4]"}},
      {2, 2, 4, {"residual has shape [2,2,4,6]", "expected [2,2,8,6]"}},
      {2, 1, 3, {"residual has shape [2,3,8,6]"}},
      {3, 2, 4, {"affine has shape [2,2,4]", "expected [2,2,3]"}},
      {3, 0, 1, {"affine has shape [1,2,3]"}},
      {3, -1, 2, {"affine has shape [2,2]"}},
      {4, 1, 6, {"y has shape [2,6,8,6]", "expected [2,5,8,6]"}},
      {5, 1, 3, {"flow has shape [2,3,8,6]", "expected [2,2,8,6]"}},
  };
  for (const Wrong& wrong : wrongs) {
    Layer layer;
    Dims& dims = layer.tensor[wrong.tensor].dims;
    if (wrong.dimension < 0) {
      dims.nbDims = static_cast<int32_t>(wrong.value);
    } else {
      dims.d[wrong.dimension] = wrong.value;
    }
    CHECK(layer.changed(plugin) != 0);
    CHECK(logger.said(wrong.message));
    CHECK(layer.configured(plugin) != 0);
    CHECK(logger.said(wrong.message));
  }
  {
    // a dynamic batch does not hide the rest
    Layer layer;
    layer.batch(-1);
    layer.tensor[1].dims.d[2] = 8;
    CHECK(layer.configured(plugin) != 0);
    CHECK(logger.said({"coarse_flow has shape [?,2,8,3]", "expected [?,2,4,3]"}));
  }
  const char* const names[6] = {"x", "coarse_flow", "residual", "affine", "y", "flow"};
  for (int i = 0; i < 6; ++i) {
    Layer layer;
    layer.tensor[i].type = DataType::kINT8;
    CHECK(layer.changed(plugin) != 0);
    CHECK(logger.said({std::string(names[i]) + " is int8 in TensorRT's format 0", "expected"}));
    layer = Layer();
    layer.tensor[i].format = TensorFormat::kHWC8;  // which float32 has not
    CHECK(layer.configured(plugin) != 0);
    CHECK(logger.said({std::string(names[i]) + " is float32 in TensorRT's format 2", "expected"}));
  }
  const Layer layer;
  CHECK(plugin.onShapeChange(layer.tensor, 3, layer.tensor + 4, 2) != 0);
  CHECK(logger.said({"3 inputs"}));
  const DynamicPluginTensorDesc dynamic[6] = {};
  CHECK(plugin.configurePlugin(dynamic, 4, dynamic + 4, 1) != 0);
  CHECK(logger.said({"1 outputs"}));
  CHECK(build(plugin).getWorkspaceSize(dynamic, 4, dynamic + 4, 2) == 0);
  CHECK(build(plugin).getNbTactics() == 0);
}

void test_enqueue() {
  FlowWarpPlugin plugin(garment_transfer::Padding::kZeros);
  const void* const in[4] = {};
  void* const out[2] = {};
  const auto enqueued = [&](const Layer& layer) {
    return plugin.enqueue(layer.tensor, layer.tensor + 4, in, out, nullptr, nullptr);
  };
  Layer layer(DataType::kHALF, TensorFormat::kHWC8);
  layer.batch(0);
  CHECK(enqueued(layer) == 0);
  CHECK(logger.silent());
  layer.tensor[0].type = DataType::kINT8;
  CHECK(enqueued(layer) != 0);
  CHECK(logger.said({"x is int8"}));
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) {
    // there the null pointers would be read; the kernel's own tests run it
    std::printf("a GPU is here: the launch that must fail without one is left out\n");
    return;
  }
  layer = Layer(DataType::kHALF, TensorFormat::kHWC8);
  layer.batch(1);
  CHECK(enqueued(layer) != 0);
  CHECK(logger.said({"could not be launched", "[1,5,8,6], float16", "CUDA says '"}));
}

void test_exports() {
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* creators = getCreators(count);
  CHECK(count == 1);
  CHECK(creators[0]->getInterfaceInfo().kind == std::string("PLUGIN CREATOR_V3ONE"));
  auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[0]);
  CHECK(creator->getPluginName() == std::string("FlowWarp"));
  const Plugin plugin(creator->createPlugin("a node", nullptr, TensorRTPhase::kBUILD));
  CHECK(timing_id(plugin) == "padding=zeros");
  int32_t again = 0;
  CHECK(getCreators(again) == creators && again == 1);
}

void test_loggers() {
  // without a logger the messages go to stderr: neither of these ends the process
  std::printf("two messages about the padding 'a' follow on stderr:\n");
  std::fflush(stdout);
  Finder none(nullptr);
  setLoggerFinder(&none);
  CHECK(create({padding("a", 1)}) == nullptr);
  setLoggerFinder(nullptr);
  CHECK(create({padding("a", 1)}) == nullptr);
  CHECK(logger.silent());
}

}  // namespace

int main() {
  Finder finder(&logger);
  setLoggerFinder(&finder);
  test_names();
  test_output_types();
  test_formats();
  test_output_shapes();
  test_creation();
  test_serialisation();
  test_clone();
  test_descriptors();
  test_enqueue();
  test_exports();
  test_loggers();
  std::printf("TensorRT %d.%d headers: %d checks, %d failed\n", NV_TENSORRT_MAJOR,
              NV_TENSORRT_MINOR, checks, failures);
  return failures == 0 ? 0 : 1;
}
