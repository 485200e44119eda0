"""A transfer inside a PyCUDA application, on its arrays and its stream.

    pip install ".[pycuda]"
    python examples/pycuda_arrays.py [--backend onnxruntime-cuda] -o image.png

PyCUDA has to be on the primary context, which torch, TensorRT, ONNX Runtime and this package use:
`pycuda.autoprimaryctx` does that, `pycuda.autoinit` does not, and its arrays are refused.
"""

import argparse

import numpy as np
import pycuda.autoprimaryctx  # noqa: F401
import pycuda.driver as cuda
from PIL import Image
from pycuda import gpuarray

from garment_transfer import Person, Pipeline, sample_bundle, sample_people
from garment_transfer.runtime import stage_inputs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="onnxruntime-cuda")
    parser.add_argument("--bundle", default=sample_bundle())
    parser.add_argument("-o", "--output", required=True)
    options = parser.parse_args()

    person, owner = (Person.load(folder) for folder in sample_people())
    with Pipeline.load(options.bundle, options.backend) as pipeline:
        pair = stage_inputs(person, owner, pipeline.size)
        stream = cuda.Stream()
        inputs = {
            name: gpuarray.to_gpu_async(np.ascontiguousarray(array[None]), stream=stream)
            for name, array in pair.items()
        }
        image = gpuarray.empty(inputs["person_image"].shape, np.uint8)
        pipeline.run(inputs, out={"image": image}, stream=stream)
        result = image.get_async(stream)
        stream.synchronize()

    Image.fromarray(result[0]).save(options.output)


if __name__ == "__main__":
    main()
