"""From a checkpoint to a bundle: ONNX graphs, their comparison with torch, the manifest."""
