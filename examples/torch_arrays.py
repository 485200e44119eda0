"""A transfer between torch tensors that stay on the GPU.

    python examples/torch_arrays.py [--backend onnxruntime-cuda] -o image.png

Needs torch with CUDA, and a backend of the GPU (`garment-transfer doctor`).
"""

import argparse

import torch
from PIL import Image

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
        inputs = {name: torch.from_numpy(array)[None].cuda() for name, array in pair.items()}

        # Either hand tensors over: the call returns at once, and what torch does next on this
        # stream sees the result.
        image = torch.empty_like(inputs["person_image"])
        pipeline.run(inputs, out={"image": image}, stream=torch.cuda.current_stream())

        # Or write into the session's own inputs and read its outputs, which saves the copies.
        with pipeline.session(batch=1) as session:
            for name, tensor in inputs.items():
                torch.as_tensor(session.inputs[name], device="cuda").copy_(tensor)
            session.run(torch.cuda.current_stream())
            same = torch.as_tensor(session.outputs["image"], device="cuda").clone()

    print(f"both ways agree: {torch.equal(image, same)}")
    Image.fromarray(image[0].cpu().numpy()).save(options.output)


if __name__ == "__main__":
    main()
