// FlowWarp as a TensorRT plugin. TensorRT calls every method across a library boundary: nothing
// here throws, so text is put together in arrays of a fixed size.

#include "flow_warp_plugin.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <new>

#include "flow_warp_cuda.h"

namespace garment_transfer {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr int kTensors = kInputs + kOutputs;
constexpr const char* kTensorNames[kTensors] = {"x",      "coarse_flow", "residual",
                                                "affine", "y",           "flow"};
enum Tensor { kX, kCoarseFlow, kResidual, kAffine, kY, kFlow };

constexpr char kPaddingName[] = "padding";

const char* padding_text(Padding padding) {
  return padding == Padding::kBorder ? "border" : "zeros";
}

std::atomic<FindLogger> find_logger{nullptr};

__attribute__((format(printf, 1, 2))) void log_error(const char* format, ...) noexcept {
  char text[768] = "FlowWarp: ";
  const std::size_t used = std::strlen(text);
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text + used, sizeof(text) - used, format, arguments);
  va_end(arguments);
  nvinfer1::ILogger* logger = nullptr;
  // ILoggerFinder::findLogger is not noexcept
  try {
    const FindLogger find = find_logger.load();
    if (find != nullptr) logger = find();
  } catch (...) {
  }
  if (logger != nullptr) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, text);
  } else {
    std::fprintf(stderr, "%s\n", text);
  }
}

// "[1,64,?,?]": what is not known yet is negative.
struct DimsText {
  char text[192];

  explicit DimsText(const Dims& dims) {
    std::size_t used = std::snprintf(text, sizeof(text), "[");
    for (int i = 0; i < dims.nbDims && i < Dims::MAX_DIMS; ++i) {
      const char* comma = i == 0 ? "" : ",";
      const long long size = dims.d[i];
      used += size < 0 ? std::snprintf(text + used, sizeof(text) - used, "%s?", comma)
                       : std::snprintf(text + used, sizeof(text) - used, "%s%lld", comma, size);
    }
    std::snprintf(text + used, sizeof(text) - used, "]");
  }
};

const char* type_text(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return "float32";
    case DataType::kHALF:
      return "float16";
    case DataType::kBF16:
      return "bfloat16";
    case DataType::kINT8:
      return "int8";
    case DataType::kINT32:
      return "int32";
    case DataType::kINT64:
      return "int64";
    case DataType::kBOOL:
      return "bool";
    case DataType::kUINT8:
      return "uint8";
    case DataType::kFP8:
      return "float8";
    default:
      return "of another type";
  }
}

bool type_of_x(DataType type, Type* out) {
  switch (type) {
    case DataType::kFLOAT:
      *out = Type::kFloat32;
      return true;
    case DataType::kHALF:
      *out = Type::kFloat16;
      return true;
    case DataType::kBF16:
      *out = Type::kBFloat16;
      return true;
    default:
      return false;
  }
}

// kHWC8 is of float16 and bfloat16 alone, by TensorRT's own rule (TensorFormat::kHWC8).
bool format_of_x_is_supported(DataType type, TensorFormat format) {
  Type ignored;
  if (format == TensorFormat::kLINEAR) return type_of_x(type, &ignored);
  return format == TensorFormat::kHWC8 && (type == DataType::kHALF || type == DataType::kBF16);
}

bool tensor_is_supported(int position, DataType type, TensorFormat format, DataType x_type,
                         TensorFormat x_format) {
  switch (position) {
    case kX:
      return format_of_x_is_supported(type, format);
    case kY:
      return type == x_type && format == x_format;
    default:
      return type == DataType::kFLOAT && format == TensorFormat::kLINEAR;
  }
}

bool counts_match(int inputs, int outputs) {
  if (inputs == kInputs && outputs == kOutputs) return true;
  log_error(
      "the layer has %d inputs and %d outputs; expected %d (x, coarse_flow, residual, affine)"
      " and %d (y, flow)",
      inputs, outputs, kInputs, kOutputs);
  return false;
}

// Whether types and formats are supported; the message where they are not.
bool formats_match(const PluginTensorDesc* const (&tensor)[kTensors]) {
  const PluginTensorDesc& x = *tensor[kX];
  for (int i = 0; i < kTensors; ++i) {
    const PluginTensorDesc& t = *tensor[i];
    if (tensor_is_supported(i, t.type, t.format, x.type, x.format)) continue;
    const char* expected = i == kX   ? "float32, float16 or bfloat16 in format 0 (kLINEAR), or "
                                       "float16 or bfloat16 in format 2 (kHWC8)"
                           : i == kY ? "the type and format of x"
                                     : "float32 in format 0 (kLINEAR)";
    log_error("%s is %s in TensorRT's format %d; expected %s", kTensorNames[i], type_text(t.type),
              static_cast<int>(t.format), expected);
    return false;
  }
  return true;
}

bool same_where_known(const Dims& a, const Dims& b) {
  if (a.nbDims != b.nbDims) return false;
  for (int i = 0; i < a.nbDims; ++i) {
    if (a.d[i] >= 0 && b.d[i] >= 0 && a.d[i] != b.d[i]) return false;
  }
  return true;
}

// Whether shapes are what the operator demands, as far as they are known (negative: not yet); the
// message where they are not.
bool shapes_match(const PluginTensorDesc* const (&tensor)[kTensors]) {
  const Dims& x = tensor[kX]->dims;
  if (x.nbDims != 4) {
    log_error("x has shape %s; expected four dimensions [N,C,H,W]", DimsText(x).text);
    return false;
  }
  const auto n = x.d[0], h = x.d[2], w = x.d[3];
  if ((h >= 0 && h % 2 != 0) || (w >= 0 && w % 2 != 0)) {
    log_error(
        "x has shape %s; expected an even height and an even width, since FlowWarp doubles "
        "its coarse flow",
        DimsText(x).text);
    return false;
  }
  // flow_warp_cuda's limits: the batch is the depth of its grid, and it counts pixels in an int
  const bool too_large = h > 0 && w > 0 && h > (1 << 30) / w;
  if (n > 65535 || h > (1 << 30) || w > (1 << 30) || too_large) {
    log_error("x has shape %s; expected a batch of at most 65535 and at most 2^30 pixels an image",
              DimsText(x).text);
    return false;
  }
  const auto half_h = h < 0 ? h : h / 2, half_w = w < 0 ? w : w / 2;
  const Dims full{4, {n, 2, h, w}};
  const Dims expected[kTensors] = {x, {4, {n, 2, half_h, half_w}}, full, {3, {n, 2, 3}}, x, full};
  for (int i = 0; i < kTensors; ++i) {
    const Dims& shape = tensor[i]->dims;
    if (same_where_known(shape, expected[i])) continue;
    log_error("%s has shape %s; expected %s for x of shape %s", kTensorNames[i],
              DimsText(shape).text, DimsText(expected[i]).text, DimsText(x).text);
    return false;
  }
  return true;
}

// Whether `field` says `padding`, read into `out`; the message where it does not.
bool read_padding(const PluginField& field, Padding* out) {
  if (field.name == nullptr || std::strcmp(field.name, kPaddingName) != 0) {
    log_error("unknown attribute '%s'; expected 'padding'", field.name ? field.name : "");
    return false;
  }
  if (field.type != PluginFieldType::kCHAR || field.data == nullptr || field.length < 0) {
    log_error(
        "attribute 'padding' is a field of type %d with %d entries; expected a string, which "
        "is a field of type %d (kCHAR)",
        static_cast<int>(field.type), static_cast<int>(field.length),
        static_cast<int>(PluginFieldType::kCHAR));
    return false;
  }
  // the ONNX parser counts the terminating 0 in the length; what we serialise does not
  const char* text = static_cast<const char*>(field.data);
  int length = field.length;
  while (length > 0 && text[length - 1] == '\0') --length;
  for (const Padding padding : {Padding::kZeros, Padding::kBorder}) {
    const char* name = padding_text(padding);
    if (length == static_cast<int>(std::strlen(name)) && std::memcmp(text, name, length) == 0) {
      *out = padding;
      return true;
    }
  }
  log_error("padding is '%.*s'; expected 'zeros' or 'border'", length < 64 ? length : 64, text);
  return false;
}

}  // namespace

void set_find_logger(FindLogger find) { find_logger.store(find); }

FlowWarpPlugin::FlowWarpPlugin(Padding padding) noexcept
    : padding_(padding),
      field_(kPaddingName, padding_text(padding), PluginFieldType::kCHAR,
             static_cast<int32_t>(std::strlen(padding_text(padding)))),
      fields_{1, &field_} {}

nvinfer1::IPluginCapability* FlowWarpPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  log_error("asked for capability %d; expected core (0), build (1) or runtime (2)",
            static_cast<int>(type));
  return nullptr;
}

nvinfer1::IPluginV3* FlowWarpPlugin::clone() noexcept {
  auto* const copy = new (std::nothrow) FlowWarpPlugin(padding_);
  if (copy == nullptr) log_error("no memory left to clone the plugin");
  return copy;
}

int32_t FlowWarpPlugin::getOutputDataTypes(DataType* output_types, int32_t outputs,
                                           const DataType* input_types,
                                           int32_t inputs) const noexcept {
  if (!counts_match(inputs, outputs)) return 1;
  Type ignored;
  for (int i = 0; i < kInputs; ++i) {
    const DataType type = input_types[i];
    if (i == kX ? type_of_x(type, &ignored) : type == DataType::kFLOAT) continue;
    log_error("%s is %s; expected %s", kTensorNames[i], type_text(type),
              i == kX ? "float32, float16 or bfloat16" : "float32, whatever x is");
    return 1;
  }
  output_types[0] = input_types[kX];
  output_types[1] = DataType::kFLOAT;
  return 0;
}

int32_t FlowWarpPlugin::getOutputShapes(const nvinfer1::DimsExprs* input_shapes, int32_t inputs,
                                        const nvinfer1::DimsExprs*, int32_t shape_input_count,
                                        nvinfer1::DimsExprs* output_shapes, int32_t outputs,
                                        nvinfer1::IExprBuilder& builder) noexcept {
  if (!counts_match(inputs, outputs)) return 1;
  if (shape_input_count != 0) {
    log_error("%d inputs are shape tensors; expected none", static_cast<int>(shape_input_count));
    return 1;
  }
  for (int i = 0; i < kInputs; ++i) {
    const int rank = i == kAffine ? 3 : 4;
    if (input_shapes[i].nbDims == rank) continue;
    log_error("%s has %d dimensions; expected %d", kTensorNames[i],
              static_cast<int>(input_shapes[i].nbDims), rank);
    return 1;
  }
  const nvinfer1::DimsExprs& x = input_shapes[kX];
  output_shapes[0] = x;
  output_shapes[1] = x;
  output_shapes[1].d[1] = builder.constant(2);
  if (output_shapes[1].d[1] != nullptr) return 0;
  log_error("TensorRT gave no expression for the number of the flow's channels");
  return 1;
}

bool FlowWarpPlugin::supportsFormatCombination(int32_t position,
                                               const nvinfer1::DynamicPluginTensorDesc* tensors,
                                               int32_t inputs, int32_t outputs) noexcept {
  if (inputs != kInputs || outputs != kOutputs || position < 0 || position >= kTensors) {
    return false;
  }
  // entries past `position` hold nothing yet
  const PluginTensorDesc& x = tensors[kX].desc;
  const PluginTensorDesc& tensor = tensors[position].desc;
  return tensor_is_supported(position, tensor.type, tensor.format, x.type, x.format);
}

int32_t FlowWarpPlugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                                        const nvinfer1::DynamicPluginTensorDesc* out,
                                        int32_t outputs) noexcept {
  if (!counts_match(inputs, outputs)) return 1;
  const PluginTensorDesc* tensor[kTensors];
  for (int i = 0; i < kTensors; ++i) tensor[i] = i < kInputs ? &in[i].desc : &out[i - kInputs].desc;
  // Not min and max: for tensors that other layers compute, these bounds need not go together. The
  // builder calls onShapeChange with every profile's optimum.
  return formats_match(tensor) && shapes_match(tensor) ? 0 : 1;
}

const char* FlowWarpPlugin::getTimingCacheID() noexcept {
  return padding_ == Padding::kBorder ? "padding=border" : "padding=zeros";
}

const char* FlowWarpPlugin::getMetadataString() noexcept { return getTimingCacheID(); }

int32_t FlowWarpPlugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs,
                                      const PluginTensorDesc* out, int32_t outputs) noexcept {
  if (!counts_match(inputs, outputs)) return 1;
  const PluginTensorDesc* tensor[kTensors];
  for (int i = 0; i < kTensors; ++i) tensor[i] = i < kInputs ? &in[i] : &out[i - kInputs];
  return formats_match(tensor) && shapes_match(tensor) ? 0 : 1;
}

int32_t FlowWarpPlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*,
                                const void* const* inputs, void* const* outputs, void*,
                                cudaStream_t stream) noexcept {
  // onShapeChange has checked types, formats and shapes
  const PluginTensorDesc& x = in[kX];
  FlowWarpCall call;
  call.shape = {static_cast<int>(x.dims.d[0]), static_cast<int>(x.dims.d[1]),
                static_cast<int>(x.dims.d[2]), static_cast<int>(x.dims.d[3])};
  call.padding = padding_;
  Type type;
  if (!type_of_x(x.type, &type)) {
    log_error("x is %s; expected float32, float16 or bfloat16", type_text(x.type));
    return 1;
  }
  const Layout layout = x.format == TensorFormat::kHWC8 ? Layout::kHWC8 : Layout::kNCHW;
  call.x = inputs[kX];
  call.coarse_flow = static_cast<const float*>(inputs[kCoarseFlow]);
  call.residual = static_cast<const float*>(inputs[kResidual]);
  call.affine = static_cast<const float*>(inputs[kAffine]);
  call.y = outputs[0];
  call.flow = static_cast<float*>(outputs[1]);  // may be null: of some levels nobody reads it
  const cudaError_t error = flow_warp_cuda(call, type, layout, stream);
  if (error == cudaSuccess) return 0;
  log_error("the kernel could not be launched for x of shape %s, %s: CUDA says '%s' (%s)",
            DimsText(x.dims).text, type_text(x.type), cudaGetErrorString(error),
            cudaGetErrorName(error));
  return 1;
}

nvinfer1::IPluginV3* FlowWarpPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

const PluginFieldCollection* FlowWarpPlugin::getFieldsToSerialize() noexcept { return &fields_; }

FlowWarpPluginCreator::FlowWarpPluginCreator() noexcept
    : field_(kPaddingName, nullptr, PluginFieldType::kCHAR, 0), fields_{1, &field_} {}

nvinfer1::IPluginV3* FlowWarpPluginCreator::createPlugin(const char*,
                                                         const PluginFieldCollection* fields,
                                                         nvinfer1::TensorRTPhase phase) noexcept {
  Padding padding = Padding::kZeros;
  const int count = fields == nullptr ? 0 : fields->nbFields;
  // A node may leave the attribute out, an engine never does: there a missing field means that the
  // plugin which wrote it was another one.
  if (count <= 0 && phase == nvinfer1::TensorRTPhase::kRUNTIME) {
    log_error(
        "the engine's layer has no attributes; expected 'padding': another plugin of this "
        "name wrote it, build the engine again");
    return nullptr;
  }
  for (int i = 0; i < count; ++i) {
    if (!read_padding(fields->fields[i], &padding)) return nullptr;
  }
  auto* const plugin = new (std::nothrow) FlowWarpPlugin(padding);
  if (plugin == nullptr) log_error("no memory left to create the plugin");
  return plugin;
}

}  // namespace garment_transfer
