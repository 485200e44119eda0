"""A transfer by a Triton server: two photos in, one out.

    python examples/triton/client.py PERSON OWNER -o out.png [--url localhost:8001]

docs/serving.md says how maps go with a photo.
"""

from pathlib import Path

import click
import numpy as np
import tritonclient.grpc as triton

_PATH = click.Path(path_type=Path)
_PHOTO = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("person", type=_PHOTO)
@click.argument("garment_owner", type=_PHOTO)
@click.option("-o", "--output", type=_PATH, required=True, help="PNG file to write.")
@click.option("--url", default="localhost:8001", show_default=True, help="Server, its gRPC port.")
@click.option("--model", default="garment_transfer", show_default=True, help="Name of the model.")
def main(person: Path, garment_owner: Path, output: Path, url: str, model: str) -> None:
    """Put the garment that somebody wears in the photo GARMENT_OWNER on who is in PERSON."""
    inputs = []
    for name, photo in (("person_image", person), ("garment_image", garment_owner)):
        content = np.fromfile(photo, np.uint8)[None]
        inputs.append(triton.InferInput(name, list(content.shape), "UINT8"))
        inputs[-1].set_data_from_numpy(content)
    with triton.InferenceServerClient(url) as client:
        result = client.infer(model, inputs)
    result.as_numpy("image").tofile(output)


if __name__ == "__main__":
    main()
