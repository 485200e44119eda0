// FlowWarp as a TensorRT plugin; its inputs and outputs are the table of models/flow_warp.py.

#pragma once

#include <NvInferRuntime.h>
#include <NvInferVersion.h>

#include "flow_warp_types.h"

#if NV_TENSORRT_MAJOR < 10
#error "FlowWarp is an IPluginV3, which TensorRT has since version 10"
#endif

namespace garment_transfer {

// Under these the ONNX parser looks the plugin up. Found in the source of onnx-tensorrt (commit
// dd0a3a9, TensorRT 10.15): with ENABLE_PLUGIN_OVERRIDE, parseNode asks isNodeInPluginRegistry for
// the node's op_type, its attribute `plugin_version` ("1" where there is none) and its attribute
// `plugin_namespace` ("" where there is none), before it looks at built-in importers and at local
// functions. The node's domain is not part of that question; only the importer that follows tries
// it, and only for a name it has not found under "". So the namespace must be empty.
constexpr char kPluginName[] = "FlowWarp";
constexpr char kPluginVersion[] = "1";
constexpr char kPluginNamespace[] = "";

constexpr int kInputs = 4;   // x, coarse_flow, residual, affine
constexpr int kOutputs = 2;  // y, flow

// Where messages go: asked for a logger at every message, since TensorRT gives each engine its own.
// Messages go to stderr as long as nothing is set or what is set returns null.
using FindLogger = nvinfer1::ILogger* (*)();
void set_find_logger(FindLogger find);

class FlowWarpPlugin final : public nvinfer1::IPluginV3,
                             public nvinfer1::IPluginV3OneCore,
                             public nvinfer1::IPluginV3OneBuild,
                             public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit FlowWarpPlugin(Padding padding) noexcept;
  // fields_ points into field_: clone() is the only way to a second one
  FlowWarpPlugin(const FlowWarpPlugin&) = delete;
  FlowWarpPlugin& operator=(const FlowWarpPlugin&) = delete;

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  int32_t getNbOutputs() const noexcept override { return kOutputs; }
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t outputs,
                             const nvinfer1::DataType* input_types,
                             int32_t inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* input_shapes, int32_t inputs,
                          const nvinfer1::DimsExprs* shape_inputs, int32_t shape_input_count,
                          nvinfer1::DimsExprs* output_shapes, int32_t outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 int32_t inputs, int32_t outputs) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out,
                          int32_t outputs) noexcept override;
  const char* getTimingCacheID() noexcept override;
  const char* getMetadataString() noexcept override;

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs,
                        const nvinfer1::PluginTensorDesc* out, int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  Padding padding_;
  nvinfer1::PluginField field_;
  nvinfer1::PluginFieldCollection fields_;
};

class FlowWarpPluginCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  FlowWarpPluginCreator() noexcept;
  FlowWarpPluginCreator(const FlowWarpPluginCreator&) = delete;
  FlowWarpPluginCreator& operator=(const FlowWarpPluginCreator&) = delete;

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &fields_; }
  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

 private:
  nvinfer1::PluginField field_;
  nvinfer1::PluginFieldCollection fields_;
};

}  // namespace garment_transfer
